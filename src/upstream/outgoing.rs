//! What is sent to a tool server. Envelopes are built here, from what was parsed and decided on, and
//! never out of bytes of the caller's.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::header::{HeaderName, HeaderValue};

use super::{Listing, peer::Peer};
use crate::{
    call::{Link, Operation, Passage, Principal},
    contract::Tool,
    hold::HoldId,
    json::{Canonical, Object, Value},
    ledger::Recorded,
};

/// The protocol revision that is preferred.
pub(super) const MODERN: &str = "2026-07-28";
/// The revision that is offered in a handshake.
pub(super) const LEGACY: &str = "2025-11-25";
/// The revisions with a handshake that are understood.
pub(super) const LEGACIES: [&str; 4] = [LEGACY, "2025-06-18", "2025-03-26", "2024-11-05"];

/// A call that may be sent. [`Recorded`] is the only one there is outside of tests.
pub(super) trait Sendable: Send + Sync + 'static {
    /// The contract.
    fn tool(&self) -> &Arc<Tool>;
    /// The method.
    fn operation(&self) -> Operation;
    /// The arguments.
    fn arguments(&self) -> &Canonical;
    /// What travels beside them.
    fn passage(&self) -> &Passage;
    /// The way back to the client.
    fn link(&self) -> &Link;
    /// Who calls.
    fn principal(&self) -> &Arc<Principal>;
    /// The hold that people countersigned for it: nothing travels that they were not shown.
    fn countersigned(&self) -> Option<&HoldId>;
}

impl Sendable for Recorded {
    fn tool(&self) -> &Arc<Tool> {
        self.call().call().tool()
    }

    fn operation(&self) -> Operation {
        self.call().call().operation()
    }

    fn arguments(&self) -> &Canonical {
        self.call().call().arguments()
    }

    fn passage(&self) -> &Passage {
        self.call().call().passage()
    }

    fn link(&self) -> &Link {
        self.call().call().link()
    }

    fn principal(&self) -> &Arc<Principal> {
        self.call().call().principal()
    }

    fn countersigned(&self) -> Option<&HoldId> {
        self.call().countersigned()
    }
}

/// Everything that is asked of a tool server without a call: none of it does anything.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// `server/discover`
    Discover,
    /// `initialize`
    Initialize,
    /// `tools/list`, from a cursor on.
    Tools(Option<String>),
    /// Another list, from a cursor on.
    List(Listing, Option<String>),
    /// `resources/subscribe`
    Subscribe(String),
    /// `resources/unsubscribe`
    Unsubscribe(String),
    /// `subscriptions/listen`, with its filter.
    Listen(Object),
}

impl Ask {
    pub(super) fn method(&self) -> &'static str {
        match self {
            Self::Discover => "server/discover",
            Self::Initialize => "initialize",
            Self::Tools(_) => "tools/list",
            Self::List(Listing::Resources, _) => "resources/list",
            Self::List(Listing::Templates, _) => "resources/templates/list",
            Self::List(Listing::Prompts, _) => "prompts/list",
            Self::Subscribe(_) => "resources/subscribe",
            Self::Unsubscribe(_) => "resources/unsubscribe",
            Self::Listen(_) => "subscriptions/listen",
        }
    }

    fn params(&self) -> Object {
        match self {
            Self::Discover => Object::new(),
            Self::Initialize => Object::new()
                .with("protocolVersion", LEGACY)
                .with(
                    "capabilities",
                    Object::new()
                        .with("sampling", Object::new())
                        .with("elicitation", Object::new().with("form", Object::new()).with("url", Object::new()))
                        .with("roots", Object::new()),
                )
                .with("clientInfo", client_info()),
            Self::Tools(cursor) | Self::List(_, cursor) => match cursor {
                Some(cursor) => Object::new().with("cursor", cursor.as_str()),
                None => Object::new(),
            },
            Self::Subscribe(uri) | Self::Unsubscribe(uri) => Object::new().with("uri", uri.as_str()),
            Self::Listen(filter) => Object::new().with("notifications", filter.clone()),
        }
    }

    /// The message; `version` is that of a peer without a handshake.
    pub(super) fn body(&self, id: u64, version: Option<&str>) -> Vec<u8> {
        let mut params = self.params();
        if let Some(version) = version {
            params.insert(
                "_meta",
                Object::new()
                    .with("io.modelcontextprotocol/protocolVersion", version)
                    .with("io.modelcontextprotocol/clientInfo", client_info())
                    .with("io.modelcontextprotocol/clientCapabilities", Object::new()),
            );
        }
        let mut out = head(id, self.method(), 256);
        params.write(&mut out);
        out.push(b'}');
        out
    }
}

fn client_info() -> Object {
    Object::new().with("name", "countersign").with("version", env!("CARGO_PKG_VERSION"))
}

/// A message without an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    /// `notifications/initialized`
    Initialized,
    /// `notifications/cancelled`: the request and why.
    Cancelled(u64, &'static str),
}

impl Note {
    pub(super) fn body(self) -> Vec<u8> {
        match self {
            Self::Initialized => br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_vec(),
            Self::Cancelled(id, why) => format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"{why}"}}}}"#
            )
            .into_bytes(),
        }
    }
}

/// Our answer to a request of the tool server's.
pub(super) fn reply(id: &Value, answer: Result<&Value, &Value>) -> Vec<u8> {
    let mut out = br#"{"jsonrpc":"2.0","id":"#.to_vec();
    id.write(&mut out);
    let (name, value) = match answer {
        Ok(result) => (&br#","result":"#[..], result),
        Err(error) => (&br#","error":"#[..], error),
    };
    out.extend_from_slice(name);
    value.write(&mut out);
    out.push(b'}');
    out
}

fn head(id: u64, method: &str, room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room + 96);
    out.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
    out.extend_from_slice(id.to_string().as_bytes());
    out.extend_from_slice(br#","method":""#);
    out.extend_from_slice(method.as_bytes());
    out.extend_from_slice(br#"","params":"#);
    out
}

/// The message for a call. `capabilities` is what the upstream may know of the client's.
///
/// # Errors
/// Why there is none, for an operator: arguments that would stand where the envelope's own members do.
pub(super) fn call<C: Sendable>(call: &C, id: u64, peer: &Peer, capabilities: &Object) -> Result<Vec<u8>, String> {
    let (arguments, passage) = (call.arguments(), call.passage());
    let mut out = head(id, call.operation().method(), arguments.bytes().len() + 384);
    if call.operation() == Operation::CallTool {
        out.extend_from_slice(br#"{"name":"#);
        quote(&call.tool().wire_name, &mut out);
        out.extend_from_slice(br#","arguments":"#);
        out.extend_from_slice(arguments.bytes());
    } else {
        // the arguments are the params: the canonical text, left open for the members that follow
        let members = arguments.tree().as_object().ok_or("the arguments are no object")?;
        for ours in ["_meta", "inputResponses", "requestState"] {
            if members.get(ours).is_some() {
                return Err(format!("the arguments have a member `{ours}`, which is the envelope's"));
            }
        }
        out.extend_from_slice(arguments.bytes().strip_suffix(b"}").ok_or("the arguments are no object")?);
    }
    if !matches!(out.last(), Some(b'{')) {
        out.push(b',');
    }
    out.extend_from_slice(br#""_meta":"#);
    meta(call, id, peer, capabilities, &mut out);
    let seen_by_all = call.countersigned().is_none();
    if let Some(responses) = passage.input_responses.as_ref().filter(|_| seen_by_all) {
        out.extend_from_slice(br#","inputResponses":"#);
        responses.write(&mut out);
    }
    if let Some(state) = passage.request_state.as_ref().filter(|_| seen_by_all) {
        out.extend_from_slice(br#","requestState":"#);
        quote(state, &mut out);
    }
    out.extend_from_slice(b"}}");
    Ok(out)
}

fn meta<C: Sendable>(call: &C, id: u64, peer: &Peer, capabilities: &Object, out: &mut Vec<u8>) {
    let mut first = b'{';
    let mut member = |name: &str, out: &mut Vec<u8>| {
        out.push(first);
        first = b',';
        quote(name, out);
        out.push(b':');
    };
    let own = |name: &str| call.countersigned().is_none() || TRACE.contains(&name);
    for (name, value) in call.passage().meta.iter().filter(|(name, value)| own(name) && passes(name, value)) {
        member(name, out);
        value.write(out);
    }
    // the key is the same whenever the same countersigned act is sent again
    if let Some(hold) = call.countersigned().filter(|_| call.tool().idempotent) {
        member("countersign/idempotencyKey", out);
        quote(hold.as_str(), out);
    }
    let client = &call.link().client;
    if client.wants_progress {
        member("progressToken", out);
        out.extend_from_slice(id.to_string().as_bytes());
    }
    if peer.modern {
        member("io.modelcontextprotocol/protocolVersion", out);
        quote(&peer.version, out);
        member("io.modelcontextprotocol/clientInfo", out);
        out.extend_from_slice(
            concat!(r#"{"name":"countersign","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#).as_bytes(),
        );
        member("io.modelcontextprotocol/clientCapabilities", out);
        // what a client answers later is nothing that was countersigned: the tool server is not to ask
        if call.countersigned().is_some() {
            Object::new().write(out)
        } else {
            capabilities.write(out)
        }
        if let Some(level) = &client.log_level {
            member("io.modelcontextprotocol/logLevel", out);
            quote(level, out);
        }
    }
    if first == b'{' {
        out.push(b'{');
    }
    out.push(b'}');
}

/// Trace context (W3C), as it travels in `_meta`.
const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// Whether a member of the caller's `_meta` may travel on: not what MCP reserves for the connection
/// (2026-07-28, basic, "_meta"), nor what is ours.
fn passes(name: &str, value: &Value) -> bool {
    match name.rsplit_once('/') {
        Some((prefix, _)) => {
            let second = prefix.split('.').nth(1).unwrap_or_default();
            let reserved =
                |label: &str| label.eq_ignore_ascii_case("modelcontextprotocol") || label.eq_ignore_ascii_case("mcp");
            !reserved(second) && !reserved(prefix) && !prefix.eq_ignore_ascii_case("countersign")
        }
        None if TRACE.contains(&name) => value
            .as_str()
            .is_some_and(|text| text.len() <= 8192 && text.bytes().all(|byte| (0x20..0x7f).contains(&byte))),
        None => name != "progressToken",
    }
}

/// Appends a JSON string.
fn quote(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        Value::from(text).write(out);
    }
}

/// The headers that repeat a call's body (MCP 2026-07-28, streamable HTTP, "Request Metadata").
pub(super) fn headers<C: Sendable>(call: &C) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers = Vec::with_capacity(1 + call.tool().headers.len());
    let text = |name: &str| call.arguments().tree().get(name).and_then(Value::as_str).map(str::to_owned);
    let name = match call.operation() {
        Operation::CallTool => Some(call.tool().wire_name.clone()),
        Operation::ReadResource | Operation::Subscribe => text("uri"),
        Operation::GetPrompt => text("name"),
        Operation::Complete => None,
    };
    if let Some(value) = name.and_then(|name| header_value(&name)) {
        headers.push((HeaderName::from_static("mcp-name"), value));
    }
    for param in &call.tool().headers {
        let argument = param.path.iter().try_fold(call.arguments().tree(), |value, name| value.get(name));
        let text = match argument {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.text().to_owned(),
            Some(Value::Bool(truth)) => truth.to_string(),
            _ => continue,
        };
        if let (Ok(name), Some(value)) = (HeaderName::from_bytes(param.header.as_bytes()), header_value(&text)) {
            headers.push((name, value));
        }
    }
    headers
}

/// The text as a header value; what is not plain goes in base64 between markers ("Value Encoding").
fn header_value(text: &str) -> Option<HeaderValue> {
    let plain = text.bytes().all(|byte| matches!(byte, 0x20..=0x7e | b'\t'))
        && text.trim_matches([' ', '\t']).len() == text.len()
        && !text.is_empty()
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if plain {
        HeaderValue::from_str(text).ok()
    } else {
        HeaderValue::from_str(&format!("=?base64?{}?=", STANDARD.encode(text))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::testing::{FakeCall, compiled, tool};

    fn peer(modern: bool) -> Peer {
        Peer { version: if modern { MODERN } else { LEGACY }.to_owned(), modern, capabilities: Object::new() }
    }

    fn sent(call: &FakeCall, modern: bool) -> String {
        String::from_utf8(super::call(call, 5, &peer(modern), &Object::new()).unwrap()).unwrap()
    }

    #[test]
    fn the_canonical_arguments_are_sent_byte_for_byte() {
        let call = FakeCall::new(tool("files", "read"), r#"{"b":[1,2.5],"a":"é\n"}"#);
        let canonical = String::from_utf8(call.arguments().bytes().to_vec()).unwrap();
        assert_eq!(
            sent(&call, false),
            format!(
                r#"{{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{{"name":"read","arguments":{canonical},"_meta":{{}}}}}}"#
            )
        );
    }

    #[test]
    fn with_a_countersigned_call_nothing_travels_that_was_not_shown() {
        let mut call = FakeCall::new(tool("files", "read"), "{}");
        call.passage.meta = Object::new().with("traceparent", "00-1").with("com.example/x", 1);
        call.passage.input_responses = Some(Object::new().with("k", 1).into());
        call.passage.request_state = Some("own".to_owned());
        call.countersigned = HoldId::read(&format!("hold_{:026}", 7));
        assert!(sent(&call, false).ends_with(r#""_meta":{"traceparent":"00-1"}}}"#), "{}", sent(&call, false));
        let mut tool = compiled("files", "read");
        tool.idempotent = true;
        call.tool = Arc::new(tool);
        let key = format!(r#""_meta":{{"traceparent":"00-1","countersign/idempotencyKey":"hold_{:026}"}}}}}}"#, 7);
        assert!(sent(&call, false).ends_with(&key), "{}", sent(&call, false));
    }

    #[test]
    fn only_the_callers_own_meta_travels() {
        let mut call = FakeCall::new(tool("files", "read"), "{}");
        call.passage.meta = Object::new()
            .with("traceparent", "00-1")
            .with("baggage", "a\r\nb")
            .with("com.example/x", 1)
            .with("io.modelcontextprotocol/clientInfo", "forged")
            .with("MCP/x", 1)
            .with("countersign/decision", 1)
            .with("progressToken", 9);
        assert!(
            sent(&call, false).contains(r#""_meta":{"traceparent":"00-1","com.example/x":1}"#),
            "{}",
            sent(&call, false)
        );
        let modern = sent(&call, true);
        assert!(modern.contains(r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#), "{modern}");
        assert!(modern.contains(r#"clientInfo":{"name":"countersign""#), "{modern}");
    }

    #[test]
    fn a_resource_read_has_the_arguments_as_params() {
        let mut tool = tool("files", "files");
        Arc::get_mut(&mut tool).unwrap().operation = Operation::ReadResource;
        let call = FakeCall::new(Arc::clone(&tool), r#"{"uri":"file:///a"}"#);
        assert!(sent(&call, false).ends_with(r#""params":{"uri":"file:///a","_meta":{}}}"#), "{}", sent(&call, false));
        let call = FakeCall::new(tool, r#"{"uri":"file:///a","_meta":{}}"#);
        assert!(super::call(&call, 5, &peer(false), &Object::new()).is_err());
    }

    #[test]
    fn header_values_are_plain_or_marked() {
        for (text, value) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(header_value(text).unwrap(), value);
        }
    }
}
