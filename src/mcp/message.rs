//! One JSON-RPC message, read once into a closed set: what is not in it is refused here.

use std::{fmt, sync::Arc};

use super::problem::Problem;
use crate::json::{self, Object, Value};

/// The id of a request: a string of at most 256 bytes or an integer within ±(2^53−1), kept as its JSON text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id, if `value` is one.
    pub fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) if text.len() <= 256 => {
                String::from_utf8(value.to_bytes()).ok().map(|json| Self(json.into()))
            }
            Value::Number(number) => {
                let integer = number.as_i64()?;
                let exact = integer.unsigned_abs() < 1 << 53 && integer.to_string() == number.text();
                exact.then(|| Self(number.text().into()))
            }
            _ => None,
        }
    }

    /// Its JSON text.
    pub fn json(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One message of a client.
#[derive(Debug, PartialEq)]
pub enum Message {
    /// It wants an answer.
    Request(Request),
    /// It wants none.
    Notification(Notification),
    /// It is an answer to a question of ours.
    Response(Response),
}

/// A request: its method is not looked at yet, since which there are depends on the protocol revision.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// Its id.
    pub id: RequestId,
    /// The method's name.
    pub method: String,
    /// Its parameters; empty when there are none.
    pub params: Object,
}

/// A notification of a client's.
#[derive(Debug, PartialEq)]
pub struct Notification {
    /// What it tells.
    pub kind: Told,
    /// Its parameters; empty when there are none.
    pub params: Object,
}

/// What a client can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// `notifications/initialized`
    Initialized,
    /// `notifications/cancelled`
    Cancelled,
    /// `notifications/progress`
    Progress,
    /// `notifications/roots/list_changed`
    RootsChanged,
}

/// A client's answer.
#[derive(Debug, PartialEq)]
pub struct Response {
    /// The id of our question.
    pub id: RequestId,
    /// Its `result`, or its `error`.
    pub outcome: Result<Value, Value>,
}

/// A document that is no message: what could be read of it, and what is wrong.
#[derive(Debug, PartialEq)]
pub struct Misread {
    /// The id to answer to.
    pub id: Option<RequestId>,
    /// The method it names, for the ledger.
    pub method: Option<String>,
    /// What is wrong.
    pub problem: Problem,
}

const ENVELOPE: &[&str] = &["jsonrpc", "id", "method", "params", "result", "error"];

const PARAMS: &[&str] = &[
    "_meta",
    "argument",
    "arguments",
    "capabilities",
    "clientInfo",
    "context",
    "cursor",
    "inputResponses",
    "level",
    "name",
    "notifications",
    "protocolVersion",
    "reason",
    "ref",
    "requestId",
    "requestState",
    "task",
    "taskId",
    "uri",
];

const META: &[&str] = &[
    "progressToken",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/logLevel",
];

/// Reads a parsed document as one message.
///
/// Arrays are refused: 2025-03-26 allowed batches, no revision since does, and a batch would be one HTTP
/// request that is several calls. Members that nobody knows are left alone, since no envelope is ever
/// forwarded; members that another parser could take for a known one are refused.
///
/// # Errors
/// [`Misread`] with what to answer.
pub fn read(document: Value) -> Result<Message, Misread> {
    let misread = |id: Option<RequestId>, method: Option<String>, problem| Misread { id, method, problem };
    let refuse = |why| misread(None, None, Problem::InvalidRequest(why));
    let mut envelope = match document {
        Value::Object(envelope) => envelope,
        Value::Array(_) => return Err(refuse("batches are not taken; send one message")),
        _ => return Err(refuse("a message is an object")),
    };
    let id = envelope.remove("id");
    let (absent, id) = (id.is_none(), id.as_ref().and_then(RequestId::read));
    let method = envelope.remove("method");
    let named = method.as_ref().and_then(Value::as_str).map(|name| crate::call::cut(name, 64).to_owned());
    let refuse = |why| misread(id.clone(), named.clone(), Problem::InvalidRequest(why));

    if json::twin(&envelope, ENVELOPE).is_some() {
        return Err(refuse("a member's name only looks like one of JSON-RPC's"));
    }
    if envelope.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(refuse("`jsonrpc` has to be \"2.0\""));
    }
    if !absent && id.is_none() {
        return Err(refuse("`id` has to be a string of at most 256 bytes or an integer within 2^53"));
    }
    let params = match envelope.remove("params") {
        None => Object::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(refuse("`params` has to be an object")),
    };
    if json::twin(&params, PARAMS).is_some() {
        return Err(refuse("a parameter's name only looks like one of MCP's"));
    }
    let meta_twin = match params.get("_meta") {
        None => false,
        Some(Value::Object(meta)) => json::twin(meta, META).is_some(),
        Some(_) => {
            let problem = Problem::InvalidParams("`_meta` has to be an object".to_owned());
            return Err(misread(id, named, problem));
        }
    };
    if meta_twin {
        return Err(refuse("a name in `_meta` only looks like one of MCP's"));
    }
    let (result, error) = (envelope.remove("result"), envelope.remove("error"));
    match (method, id.clone(), result, error) {
        (Some(Value::String(method)), id, None, None) if !method.is_empty() && method.len() <= 256 => match id {
            Some(id) => Ok(Message::Request(Request { id, method, params })),
            None if !method.starts_with("notifications/") => Err(refuse("a request needs an `id`")),
            None => match Told::read(&method) {
                Some(kind) => Ok(Message::Notification(Notification { kind, params })),
                None => Err(misread(None, named, Problem::MethodNotFound)),
            },
        },
        (Some(_), _, None, None) => Err(refuse("`method` has to be a string of 1 to 256 bytes")),
        (None, Some(id), Some(result), None) => Ok(Message::Response(Response { id, outcome: Ok(result) })),
        (None, Some(id), None, Some(error)) => Ok(Message::Response(Response { id, outcome: Err(error) })),
        (_, _, _, _) => Err(refuse("a message has a `method`, or an `id` and either a `result` or an `error`")),
    }
}

impl Told {
    fn read(method: &str) -> Option<Self> {
        match method {
            "notifications/initialized" => Some(Self::Initialized),
            "notifications/cancelled" => Some(Self::Cancelled),
            "notifications/progress" => Some(Self::Progress),
            "notifications/roots/list_changed" => Some(Self::RootsChanged),
            _ => None,
        }
    }
}

/// The methods that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `initialize`, legacy.
    Initialize,
    /// `ping`, legacy.
    Ping,
    /// `logging/setLevel`, legacy.
    SetLevel,
    /// `resources/subscribe`, legacy.
    Subscribe,
    /// `resources/unsubscribe`, legacy.
    Unsubscribe,
    /// `server/discover`, 2026-07-28.
    Discover,
    /// `subscriptions/listen`, 2026-07-28.
    Listen,
    /// `tools/list`
    ListTools,
    /// `tools/call`
    CallTool,
    /// `resources/list`
    ListResources,
    /// `resources/templates/list`
    ListTemplates,
    /// `resources/read`
    ReadResource,
    /// `prompts/list`
    ListPrompts,
    /// `prompts/get`
    GetPrompt,
    /// `completion/complete`
    Complete,
    /// `tasks/get`, of the tasks extension and of 2025-11-25
    GetTask,
    /// `tasks/update`, of the tasks extension
    UpdateTask,
    /// `tasks/cancel`, of the tasks extension and of 2025-11-25
    CancelTask,
    /// `tasks/result`, 2025-11-25
    TaskResult,
    /// `tasks/list`, 2025-11-25
    ListTasks,
}

impl Method {
    /// The method of that name in 2026-07-28 (`modern`) or the revisions before it.
    pub fn read(name: &str, modern: bool) -> Option<Self> {
        let method = match name {
            "initialize" if !modern => Self::Initialize,
            "ping" if !modern => Self::Ping,
            "logging/setLevel" if !modern => Self::SetLevel,
            "resources/subscribe" if !modern => Self::Subscribe,
            "resources/unsubscribe" if !modern => Self::Unsubscribe,
            "server/discover" if modern => Self::Discover,
            "subscriptions/listen" if modern => Self::Listen,
            "tools/list" => Self::ListTools,
            "tools/call" => Self::CallTool,
            "resources/list" => Self::ListResources,
            "resources/templates/list" => Self::ListTemplates,
            "resources/read" => Self::ReadResource,
            "prompts/list" => Self::ListPrompts,
            "prompts/get" => Self::GetPrompt,
            "completion/complete" => Self::Complete,
            "tasks/get" => Self::GetTask,
            "tasks/update" if modern => Self::UpdateTask,
            "tasks/cancel" => Self::CancelTask,
            "tasks/result" if !modern => Self::TaskResult,
            "tasks/list" if !modern => Self::ListTasks,
            _ => return None,
        };
        Some(method)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{Limits, parse};

    fn read_text(text: &str) -> Result<Message, Misread> {
        read(parse(text.as_bytes(), &Limits::REQUEST).unwrap())
    }

    fn problem(text: &str) -> (&'static str, Option<String>) {
        let misread = read_text(text).unwrap_err();
        (misread.problem.code(), misread.id.map(|id| id.json().to_owned()))
    }

    #[test]
    fn a_request_a_notification_and_an_answer_are_told_apart() {
        let request = read_text(r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a__b"}}"#).unwrap();
        let Message::Request(request) = request else { panic!("{request:?}") };
        assert_eq!((request.id.json(), request.method.as_str()), ("7", "tools/call"));
        assert_eq!(request.params.get("name"), Some(&Value::from("a__b")));
        let told = read_text(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).unwrap();
        assert!(matches!(told, Message::Notification(Notification { kind: Told::Initialized, .. })));
        let answer = read_text(r#"{"jsonrpc":"2.0","id":"q","result":{}}"#).unwrap();
        assert!(matches!(answer, Message::Response(Response { outcome: Ok(_), .. })));
        let answer = read_text(r#"{"jsonrpc":"2.0","id":"q","error":{"code":1,"message":""}}"#).unwrap();
        assert!(matches!(answer, Message::Response(Response { outcome: Err(_), .. })));
    }

    #[test]
    fn batches_are_refused_empty_and_nested_too() {
        for text in ["[]", "[[]]", r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, "1", "null", r#""x""#] {
            assert_eq!(problem(text), ("invalid_request", None), "{text}");
        }
    }

    #[test]
    fn ids_are_short_strings_and_safe_integers() {
        let with = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        for id in ["0", "-1", "9007199254740991", r#""""#, r#""a\n\"b""#, r#""é""#] {
            let Ok(Message::Request(request)) = read_text(&with(id)) else { panic!("{id}") };
            assert_eq!(request.id.json(), id);
        }
        let long = format!("\"{}\"", "x".repeat(257));
        for id in ["null", "1.5", "1.0", "1e2", "-0", "9007199254740992", "{}", "[]", "true", long.as_str()] {
            assert_eq!(problem(&with(id)), ("invalid_request", None), "{id}");
        }
    }

    #[test]
    fn a_malformed_envelope_is_refused_and_answered_to_its_id() {
        let id = || Some("1".to_owned());
        for text in [
            r#"{"id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":""}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
        ] {
            assert_eq!(problem(text), ("invalid_request", id()), "{text}");
        }
        let meta = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":[]}}"#;
        assert_eq!(problem(meta), ("invalid_params", id()));
    }

    #[test]
    fn a_call_without_an_id_is_no_notification() {
        assert_eq!(problem(r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}"#).0, "invalid_request");
        assert_eq!(problem(r#"{"jsonrpc":"2.0","method":"notifications/else"}"#).0, "method_not_found");
    }

    #[test]
    fn twins_of_protocol_names_are_refused() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","METHOD":"tools/call"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","param\u017f":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","tas\u212a":"b"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"ProgressToken":"b"}}}"#,
        ] {
            assert_eq!(problem(text).0, "invalid_request", "{text}");
        }
    }

    #[test]
    fn methods_belong_to_a_generation() {
        assert_eq!(Method::read("ping", false), Some(Method::Ping));
        for name in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"] {
            assert_eq!(Method::read(name, true), None, "{name}");
        }
        for name in ["tasks/result", "tasks/list", "tasks", "Tasks/get"] {
            assert_eq!(Method::read(name, true), None, "{name}");
        }
        for name in ["server/discover", "subscriptions/listen", "Tools/call", "tools/call ", "tasks/update"] {
            assert_eq!(Method::read(name, false), None, "{name}");
        }
    }
}
