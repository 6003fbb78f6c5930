//! What a caller reads: replies of the road as JSON-RPC responses.

use hyper::StatusCode;

use super::{message::RequestId, problem::Problem, session::carried, task::Task};
use crate::{
    call::{CallId, HoldNotice, Operation, Refused},
    json::{Object, Value},
    ledger::Body,
};

/// The JSON-RPC response whose `result` is this text.
pub(super) fn result(id: &RequestId, text: &[u8]) -> Vec<u8> {
    member(Some(id), "result", &[text])
}

/// The JSON-RPC response whose `result` is this object.
pub(super) fn result_of(id: &RequestId, result_object: Object) -> Vec<u8> {
    result(id, &Value::Object(result_object).to_bytes())
}

/// The JSON-RPC response whose `error` is this object.
pub(super) fn error_of(id: &RequestId, error: &Value) -> Vec<u8> {
    member(Some(id), "error", &[&error.to_bytes()])
}

/// A notification.
pub(super) fn notification(method: &str, params: Object) -> Vec<u8> {
    let whole = Object::new().with("jsonrpc", "2.0").with("method", method);
    let whole = if params.is_empty() { whole } else { whole.with("params", params) };
    Value::Object(whole).to_bytes()
}

fn member(id: Option<&RequestId>, name: &str, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + id.map_or(0, |id| id.json().len()) + 48);
    match id {
        Some(id) => {
            out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
            out.extend_from_slice(id.json().as_bytes());
            out.push(b',');
        }
        None => out.push(b'{'),
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    for part in parts {
        out.extend_from_slice(part);
    }
    out.push(b'}');
    out
}

/// Names us in a result of our own.
pub(super) fn server_info() -> Object {
    Object::new().with("name", "countersign").with("version", env!("CARGO_PKG_VERSION"))
}

/// What a reply is rendered for.
#[derive(Clone, Copy, Debug)]
pub(super) struct For<'r> {
    /// The request's id. Without one the answer is an object with nothing but its `result` or `error`, as a task
    /// carries it.
    pub(super) id: Option<&'r RequestId>,
    /// Whether the caller speaks 2026-07-28.
    pub(super) modern: bool,
    /// What its client can do.
    pub(super) capabilities: &'r Object,
}

/// Renders a reply of the road. `seal` seals the state of a multi round-trip request that an upstream
/// began; it gets the upstream's own state, and the names of what is asked for.
///
/// An upstream's result travels as it is, save that a caller of 2026-07-28 gets the members that its
/// revision requires and an older upstream does not know: `resultType`, and on `resources/read` `ttlMs`
/// and `cacheScope`.
pub(super) fn reply(
    to: For<'_>,
    call: &CallId,
    operation: Operation,
    body: &Body,
    seal: impl FnOnce(Option<&str>, &[&str]) -> Result<String, crate::call::Fault>,
) -> (StatusCode, Vec<u8>) {
    match body {
        Body::Result { tree, text } => match tree.get("resultType").and_then(Value::as_str) {
            Some("input_required") => input_required(to, call, operation, tree, seal),
            said => (StatusCode::OK, complete(to, operation, tree, text, said.is_some())),
        },
        Body::Error { tree, text } => error(to, tree, text),
        Body::Refused(refused) => (StatusCode::OK, refusal(to, call, operation, refused)),
        Body::Held(notice) => (StatusCode::OK, held(to, call, operation, notice)),
        Body::Unknown { why } => (StatusCode::OK, unknown(to, call, operation, why)),
    }
}

fn complete(to: For<'_>, operation: Operation, tree: &Value, text: &[u8], typed: bool) -> Vec<u8> {
    if !to.modern {
        return member(to.id, "result", &[text]);
    }
    let mut head = Vec::with_capacity(80);
    head.push(b'{');
    if !typed {
        head.extend_from_slice(b"\"resultType\":\"complete\",");
    }
    if operation == Operation::ReadResource {
        if tree.get("ttlMs").is_none() {
            head.extend_from_slice(b"\"ttlMs\":0,");
        }
        if tree.get("cacheScope").is_none() {
            head.extend_from_slice(b"\"cacheScope\":\"private\",");
        }
    }
    match (tree.as_object(), text.strip_prefix(b"{")) {
        (Some(object), Some(rest)) if !object.is_empty() => member(to.id, "result", &[&head, rest]),
        (Some(_), _) => {
            head.pop_if(|last| *last == b',');
            head.push(b'}');
            member(to.id, "result", &[&head])
        }
        _ => member(to.id, "result", &[text]),
    }
}

/// An upstream asks for input. Only a caller of 2026-07-28 can give it this way, and only what its client declared.
fn input_required(
    to: For<'_>,
    call: &CallId,
    operation: Operation,
    tree: &Value,
    seal: impl FnOnce(Option<&str>, &[&str]) -> Result<String, crate::call::Fault>,
) -> (StatusCode, Vec<u8>) {
    // a task is over when it has an answer: nothing can be asked for in its name
    if to.id.is_none() || !to.modern || operation == Operation::Complete {
        return (
            StatusCode::OK,
            unusable(to, call, operation, "the tool server asks for input that cannot be given here"),
        );
    }
    let asked = tree.get("inputRequests").and_then(Value::as_object);
    let mut missing = Object::new();
    for (_, request) in asked.into_iter().flat_map(Object::iter) {
        let capability = match request.get("method").and_then(Value::as_str) {
            Some("elicitation/create") => "elicitation",
            Some("sampling/createMessage") => "sampling",
            Some("roots/list") => "roots",
            _ => return (StatusCode::OK, unusable(to, call, operation, "the tool server asks for something unknown")),
        };
        if carried(to.capabilities).get(capability).is_none() {
            missing.insert(capability, Object::new());
        }
    }
    if !missing.is_empty() {
        let problem = Problem::MissingCapability(missing);
        return (problem.status(true), problem.response(to.id, true));
    }
    let Value::Object(mut changed) = tree.clone() else {
        return (StatusCode::OK, unknown(to, call, operation, "bad_answer"));
    };
    let names: Vec<&str> = asked.into_iter().flat_map(Object::iter).map(|(name, _)| name).collect();
    match seal(tree.get("requestState").and_then(Value::as_str), &names) {
        Ok(state) => changed.insert("requestState", state),
        Err(_) => return (StatusCode::INTERNAL_SERVER_ERROR, Problem::Fault.response(to.id, true)),
    }
    (StatusCode::OK, ours(to, changed))
}

/// An upstream's error keeps its code, save one that the caller's revision forbids.
fn error(to: For<'_>, tree: &Value, text: &[u8]) -> (StatusCode, Vec<u8>) {
    let code = tree.get("code").and_then(Value::as_number).and_then(crate::json::Number::as_i64);
    if to.modern && code == Some(-32002) {
        let changed = tree.as_object().cloned().unwrap_or_default().with("code", -32602);
        let text = Value::Object(changed).to_bytes();
        return (StatusCode::OK, member(to.id, "error", &[&text]));
    }
    let status = if to.modern && code == Some(-32021) { StatusCode::BAD_REQUEST } else { StatusCode::OK };
    (status, member(to.id, "error", &[text]))
}

/// A refusal. What a tool call was refused for is a result that a model can act on; that there is no such tool, and
/// every refusal of another method, is a JSON-RPC error.
fn refusal(to: For<'_>, call: &CallId, operation: Operation, refused: &Refused) -> Vec<u8> {
    let mut decision =
        Object::new().with("outcome", "refused").with("reason", refused.code()).with("call", call.as_str());
    if let Some(pointer) = refused.pointer() {
        decision.insert("pointer", pointer);
    }
    if let Some(hold) = refused.hold() {
        decision.insert("hold", hold);
    }
    if let Some(after) = refused.retry_after_ms() {
        decision.insert("retryAfterMs", i64::try_from(after).unwrap_or(i64::MAX));
    }
    let code = match (operation, refused) {
        (Operation::CallTool, Refused::UnknownTool) => {
            return rpc_error(to.id, -32602, "unknown tool", decision);
        }
        (Operation::ReadResource | Operation::Subscribe, Refused::UnknownTool) => {
            let code = if to.modern { -32602 } else { -32002 };
            return rpc_error(to.id, code, "resource not found", decision);
        }
        (_, Refused::UnknownTool) => return rpc_error(to.id, -32602, "there is nothing of that name", decision),
        (Operation::CallTool, _) => return tool_error(to, &format!("{refused} ({call})"), decision),
        (_, Refused::NotCanonical { .. } | Refused::InvalidArguments { .. } | Refused::AmbiguousResource) => -32602,
        _ => -32603,
    };
    rpc_error(to.id, code, &format!("{refused} ({call})"), decision)
}

/// A call that waits for a person, to a client that can be told in no other way than by an answer.
fn held(to: For<'_>, call: &CallId, operation: Operation, notice: &HoldNotice) -> Vec<u8> {
    let text = format!("{}. Nothing was done yet; its page is {} ({call})", notice.sentence(), notice.page);
    match operation {
        Operation::CallTool => tool_error(to, &text, held_decision(call, notice)),
        _ => rpc_error(to.id, -32603, &text, held_decision(call, notice)),
    }
}

/// The decision of a call that waits.
fn held_decision(call: &CallId, notice: &HoldNotice) -> Object {
    Object::new()
        .with("outcome", "held")
        .with("reason", "approval_required")
        .with("call", call.as_str())
        .with("hold", notice.hold.as_str())
        .with("retryAfterMs", RETRY_MS)
}

/// A task, to the client whose call it is.
pub(super) fn task(to: For<'_>, call: &CallId, notice: &HoldNotice) -> Vec<u8> {
    let task = Task::waiting(notice);
    let meta = Object::new().with("countersign/decision", held_decision(call, notice));
    let object = if to.modern {
        let task = task.shown().with("resultType", "task");
        task.with("_meta", meta.with("io.modelcontextprotocol/serverInfo", server_info()))
    } else {
        let told = "the call waits for a person; its task tells when it was decided";
        let meta = meta.with("io.modelcontextprotocol/model-immediate-response", told);
        Object::new().with("task", task.shown_before()).with("_meta", meta)
    };
    ours(to, object)
}

/// A state to come back with while the call waits; `ask` asks for the hold's page to be opened.
pub(super) fn round(to: For<'_>, call: &CallId, notice: &HoldNotice, ask: bool, state: String) -> Vec<u8> {
    let mut object = Object::new().with("resultType", "input_required");
    if ask {
        let request = Object::new().with("method", "elicitation/create").with("params", page(notice));
        object.insert("inputRequests", Object::new().with(PAGE, request));
    }
    let meta = Object::new()
        .with("countersign/decision", held_decision(call, notice))
        .with("io.modelcontextprotocol/serverInfo", server_info());
    ours(to, object.with("requestState", state).with("_meta", meta))
}

/// The name that a hold's page is asked for under.
pub(super) const PAGE: &str = "countersign";

/// The parameters of the question whether to open a hold's page.
pub(super) fn page(notice: &HoldNotice) -> Object {
    let message =
        format!("{}. The page shows what would be done; whoever may decide signs in there", notice.sentence());
    Object::new().with("mode", "url").with("url", notice.page.as_str()).with("message", message)
}

/// When to come back to a call that waits, milliseconds: calling again waits by itself.
const RETRY_MS: i64 = 1_000;

/// A result of our own.
fn ours(to: For<'_>, object: Object) -> Vec<u8> {
    member(to.id, "result", &[&Value::Object(object).to_bytes()])
}

/// The call left and nobody knows how it ended.
fn unknown(to: For<'_>, call: &CallId, operation: Operation, why: &str) -> Vec<u8> {
    let decision = Object::new().with("outcome", "unknown").with("reason", why).with("call", call.as_str());
    let text = format!(
        "the call was sent, and no answer that can be trusted came back: it may or may not have been carried out; look \
         before calling again ({call})"
    );
    match operation {
        Operation::CallTool => tool_error(to, &text, decision),
        _ => rpc_error(to.id, -32603, &text, decision),
    }
}

/// What came back cannot be passed on.
fn unusable(to: For<'_>, call: &CallId, operation: Operation, why: &str) -> Vec<u8> {
    let decision =
        Object::new().with("outcome", "unknown").with("reason", "input_required").with("call", call.as_str());
    let text = format!("{why} ({call})");
    match operation {
        Operation::CallTool => tool_error(to, &text, decision),
        _ => rpc_error(to.id, -32603, &text, decision),
    }
}

fn tool_error(to: For<'_>, text: &str, decision: Object) -> Vec<u8> {
    let content = Object::new().with("type", "text").with("text", text);
    let mut meta = Object::new().with("countersign/decision", decision);
    let mut object = Object::new();
    if to.modern {
        object.insert("resultType", "complete");
        meta.insert("io.modelcontextprotocol/serverInfo", server_info());
    }
    ours(to, object.with("content", vec![content.into()]).with("isError", true).with("_meta", meta))
}

fn rpc_error(id: Option<&RequestId>, code: i64, message: &str, data: Object) -> Vec<u8> {
    let error = Object::new().with("code", code).with("message", message).with("data", data);
    member(id, "error", &[&Value::Object(error).to_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        call::Fault,
        clock::Timestamp,
        json::{Limits, parse},
    };

    fn tree(text: &str) -> Value {
        parse(text.as_bytes(), &Limits::REQUEST).unwrap()
    }

    fn render(modern: bool, operation: Operation, body: &Body) -> (u16, String) {
        let id = RequestId::read(&Value::from(7)).unwrap();
        let capabilities = Object::new().with("elicitation", Object::new());
        let to = For { id: Some(&id), modern, capabilities: &capabilities };
        let call = CallId::new(Timestamp::UNIX_EPOCH).unwrap();
        let (status, bytes) =
            reply(to, &call, operation, body, |own, asked| Ok(format!("sealed:{own:?} {}", asked.join(","))));
        let text = String::from_utf8(bytes).unwrap();
        tree(&text);
        (status.as_u16(), text.replace(call.as_str(), "CALL"))
    }

    fn of(text: &str) -> Body {
        Body::Result { tree: tree(text), text: text.to_owned().into() }
    }

    #[test]
    fn a_result_travels_as_it_is() {
        let sent = r#"{"z":1.0,"content":[],"tools":[1e2],"_meta":{"x":null}}"#;
        let whole = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{sent}}}"#);
        assert_eq!(render(false, Operation::CallTool, &of(sent)), (200, whole));
    }

    #[test]
    fn a_modern_caller_gets_the_members_that_its_revision_requires() {
        let result = |operation, sent: &str| {
            let (_, text) = render(true, operation, &of(sent));
            text.strip_prefix(r#"{"jsonrpc":"2.0","id":7,"result":"#).unwrap().strip_suffix('}').unwrap().to_owned()
        };
        assert_eq!(result(Operation::CallTool, r#"{"a":1}"#), r#"{"resultType":"complete","a":1}"#);
        assert_eq!(result(Operation::CallTool, "{}"), r#"{"resultType":"complete"}"#);
        let typed = r#"{"resultType":"complete","a":1}"#;
        assert_eq!(result(Operation::CallTool, typed), typed);
        assert_eq!(
            result(Operation::ReadResource, r#"{"contents":[]}"#),
            r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","contents":[]}"#
        );
        let cached = r#"{"resultType":"complete","contents":[],"ttlMs":5,"cacheScope":"public"}"#;
        assert_eq!(result(Operation::ReadResource, cached), cached);
    }

    #[test]
    fn refusals_of_a_tool_call_are_results_that_a_model_can_read() {
        let refused = Refused::InvalidArguments { pointer: "/amount".into(), problem: "is not an integer".into() };
        let (status, text) = render(true, Operation::CallTool, &Body::Refused(refused));
        assert_eq!(status, 200);
        for part in [
            r#""resultType":"complete""#,
            r#""isError":true"#,
            r#""text":"`/amount` is not an integer; correct it and call again (CALL)""#,
            r#""countersign/decision":{"outcome":"refused","reason":"arguments_invalid","call":"CALL","pointer":"/amount"}"#,
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let (_, legacy) = render(false, Operation::CallTool, &Body::Refused(Refused::NotGranted));
        assert!(!legacy.contains("resultType") && legacy.contains(r#""reason":"not_granted""#), "{legacy}");
        let busy = Refused::UpstreamBusy { retry_after_ms: 250 };
        assert!(render(true, Operation::CallTool, &Body::Refused(busy)).1.contains(r#""retryAfterMs":250"#));
    }

    #[test]
    fn an_unknown_tool_is_a_protocol_error() {
        for modern in [true, false] {
            let (status, text) = render(modern, Operation::CallTool, &Body::Refused(Refused::UnknownTool));
            assert_eq!(status, 200);
            assert!(text.contains(r#""error":{"code":-32602,"message":"unknown tool""#), "{text}");
        }
        let (_, text) = render(false, Operation::ReadResource, &Body::Refused(Refused::UnknownTool));
        assert!(text.contains("-32002"), "{text}");
    }

    #[test]
    fn a_fault_tells_the_agent_nothing_of_ours() {
        let fault = Refused::Unavailable(Fault("/var/lib/secret is full".into()));
        let (_, text) = render(true, Operation::CallTool, &Body::Refused(fault));
        assert!(text.contains(r#""reason":"unavailable""#) && !text.contains("secret"), "{text}");
    }

    #[test]
    fn an_unknown_outcome_says_so() {
        let (_, text) = render(false, Operation::CallTool, &Body::Unknown { why: "timeout" });
        for part in [r#""outcome":"unknown""#, r#""reason":"timeout""#, r#""isError":true"#, "may or may not"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(render(false, Operation::GetPrompt, &Body::Unknown { why: "died" }).1.contains("-32603"));
    }

    #[test]
    fn an_upstreams_error_keeps_its_code() {
        let error = |text: &str| Body::Error { tree: tree(text), text: text.to_owned().into() };
        let own = error(r#"{"code":-32002,"message":"gone","data":{"uri":"a:b"}}"#);
        assert!(render(false, Operation::ReadResource, &own).1.contains(r#""code":-32002"#));
        let (_, modern) = render(true, Operation::ReadResource, &own);
        assert!(modern.contains(r#"{"code":-32602,"message":"gone","data":{"uri":"a:b"}}"#), "{modern}");
        let other = error(r#"{"message":"x","code":42}"#);
        let whole = r#"{"jsonrpc":"2.0","id":7,"error":{"message":"x","code":42}}"#;
        assert_eq!(render(true, Operation::CallTool, &other), (200, whole.to_owned()));
    }

    #[test]
    fn the_state_of_a_round_trip_is_sealed() {
        let asks = r#"{"resultType":"input_required","inputRequests":{"k":{"method":"elicitation/create","params":{}}},"requestState":"own"}"#;
        let (status, text) = render(true, Operation::CallTool, &of(asks));
        assert_eq!(status, 200);
        assert!(text.contains(r#""requestState":"sealed:Some(\"own\") k""#), "{text}");
        assert!(render(false, Operation::CallTool, &of(asks)).1.contains(r#""isError":true"#));
        let samples = r#"{"resultType":"input_required","inputRequests":{"k":{"method":"sampling/createMessage"}}}"#;
        let (status, text) = render(true, Operation::CallTool, &of(samples));
        assert_eq!(status, 400);
        assert!(text.contains("-32021") && text.contains(r#""requiredCapabilities":{"sampling":{}}"#), "{text}");
        let unknown = r#"{"resultType":"input_required","inputRequests":{"k":{"method":"tools/call"}}}"#;
        assert!(render(true, Operation::CallTool, &of(unknown)).1.contains(r#""isError":true"#));
    }
}
