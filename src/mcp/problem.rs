//! Why a message never became a call: a closed list with stable codes.

use hyper::StatusCode;

use super::message::RequestId;
use crate::json::{Object, ParseErrorKind, Value};

/// The protocol revisions that are spoken, newest first.
pub const VERSIONS: [&str; 4] = ["2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26"];

/// What is wrong with a message, in the order in which it is looked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    /// There is nothing at that path.
    NotFound,
    /// `Host` names a server that this is not (DNS rebinding).
    HostNotAllowed,
    /// `Origin` names a page that nobody allowed.
    OriginNotAllowed,
    /// The endpoint has no such HTTP method.
    MethodNotAllowed,
    /// The framing of the HTTP request can be read in two ways.
    BadFraming,
    /// The body is not declared to be JSON in UTF-8, or it is compressed.
    MediaType,
    /// The client accepts neither JSON nor an event stream.
    NotAcceptable,
    /// The body is longer than is taken.
    TooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body ended early.
    BodyIncomplete,
    /// The body is no JSON text, or one that parsers read differently.
    Parse(ParseErrorKind),
    /// The JSON is no single JSON-RPC message.
    InvalidRequest(&'static str),
    /// The id belongs to a request that is still under way.
    IdInUse,
    /// A header is missing, twice there, malformed, or says something else than the body.
    HeaderMismatch(String),
    /// The protocol revision is not spoken here.
    UnsupportedVersion(String),
    /// A legacy request that has to name its session does not.
    SessionMissing,
    /// The session is not one of this caller's, was tampered with, ended or is over.
    SessionUnknown,
    /// There is no such method in that protocol revision.
    MethodNotFound,
    /// The parameters are not those of the method.
    InvalidParams(String),
    /// The sealed state of a multi round-trip request is not one that was given for this request.
    BadState,
    /// What is asked for needs capabilities that the client did not declare.
    MissingCapability(Object),
    /// There is no such task, or it is another's: which, is not told.
    UnknownTask,
    /// The task has ended already.
    TaskEnded,
    /// No reachable upstream has that resource.
    ResourceNotFound(String),
    /// More than one reachable upstream has that resource.
    AmbiguousResource,
    /// An answer to a question that was not asked of this caller.
    UnknownAnswer,
    /// Too many streams of this agent are open.
    TooManyStreams,
    /// The session has its stream already.
    StreamTaken,
    /// Too many requests are under way.
    Busy,
    /// Countersign itself failed.
    Fault,
}

impl Problem {
    /// The stable reason code: in the ledger, in metrics, and in `error.data.reason`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::HostNotAllowed => "host_not_allowed",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::MethodNotAllowed => "http_method_not_allowed",
            Self::BadFraming => "bad_framing",
            Self::MediaType => "unsupported_media_type",
            Self::NotAcceptable => "not_acceptable",
            Self::TooLarge => "too_large",
            Self::BodyTimeout => "body_timeout",
            Self::BodyIncomplete => "body_incomplete",
            Self::Parse(_) => "parse_error",
            Self::InvalidRequest(_) => "invalid_request",
            Self::IdInUse => "id_in_use",
            Self::HeaderMismatch(_) => "header_mismatch",
            Self::UnsupportedVersion(_) => "unsupported_version",
            Self::SessionMissing => "session_missing",
            Self::SessionUnknown => "session_unknown",
            Self::MethodNotFound => "method_not_found",
            Self::InvalidParams(_) => "invalid_params",
            Self::BadState => "bad_request_state",
            Self::MissingCapability(_) => "missing_capability",
            Self::UnknownTask => "unknown_task",
            Self::TaskEnded => "task_ended",
            Self::ResourceNotFound(_) => "resource_not_found",
            Self::AmbiguousResource => "ambiguous_resource",
            Self::UnknownAnswer => "unknown_answer",
            Self::TooManyStreams => "too_many_streams",
            Self::StreamTaken => "stream_taken",
            Self::Busy => "busy",
            Self::Fault => "unavailable",
        }
    }

    /// The JSON-RPC error code (MCP 2026-07-28, basic, "Error Codes"). `modern` is whether the caller
    /// speaks 2026-07-28: before that a missing resource had a code of its own.
    pub fn rpc_code(&self, modern: bool) -> i64 {
        match self {
            Self::Parse(_) => -32700,
            Self::HeaderMismatch(_) => -32020,
            Self::MissingCapability(_) => -32021,
            Self::UnsupportedVersion(_) => -32022,
            Self::MethodNotFound => -32601,
            Self::ResourceNotFound(_) if !modern => -32002,
            Self::InvalidParams(_)
            | Self::BadState
            | Self::UnknownTask
            | Self::TaskEnded
            | Self::ResourceNotFound(_)
            | Self::AmbiguousResource => -32602,
            Self::Busy | Self::TooManyStreams | Self::StreamTaken | Self::Fault => -32603,
            _ => -32600,
        }
    }

    /// The HTTP status. Legacy clients read a JSON-RPC error in a 200 and give up on anything else, and take
    /// 404 for the end of their session; 2026-07-28 asks for 400 and 404 where a request is malformed.
    pub fn status(&self, modern: bool) -> StatusCode {
        match self {
            Self::NotFound | Self::SessionUnknown => StatusCode::NOT_FOUND,
            Self::HostNotAllowed | Self::OriginNotAllowed => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::TooManyStreams => StatusCode::TOO_MANY_REQUESTS,
            Self::StreamTaken => StatusCode::CONFLICT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::MethodNotFound if modern => StatusCode::NOT_FOUND,
            Self::MethodNotFound => StatusCode::OK,
            Self::InvalidParams(_) | Self::BadState if !modern => StatusCode::OK,
            Self::ResourceNotFound(_) | Self::AmbiguousResource | Self::UnknownTask | Self::TaskEnded => StatusCode::OK,
            Self::Fault => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// `error.data`.
    fn data(&self) -> Object {
        let data = Object::new().with("reason", self.code());
        match self {
            Self::UnsupportedVersion(requested) => {
                let supported: Vec<Value> = VERSIONS.iter().map(|version| Value::from(*version)).collect();
                data.with("supported", supported).with("requested", requested.as_str())
            }
            Self::MissingCapability(required) => data.with("requiredCapabilities", required.clone()),
            Self::ResourceNotFound(uri) => data.with("uri", uri.as_str()),
            _ => data,
        }
    }

    /// The JSON-RPC error response. Without an id that could be read there is no `id` member.
    pub fn response(&self, id: Option<&RequestId>, modern: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",");
        if let Some(id) = id {
            out.extend_from_slice(b"\"id\":");
            out.extend_from_slice(id.json().as_bytes());
            out.push(b',');
        }
        out.extend_from_slice(b"\"error\":");
        Object::new()
            .with("code", self.rpc_code(modern))
            .with("message", self.to_string())
            .with("data", self.data())
            .write(&mut out);
        out.push(b'}');
        out
    }
}

impl std::fmt::Display for Problem {
    /// The sentence for the agent: what is wrong and what to do.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is nothing here; the endpoint is `/mcp`"),
            Self::HostNotAllowed => f.write_str("this `Host` is not allowed; add it to `allowed_hosts`"),
            Self::OriginNotAllowed => f.write_str("this `Origin` is not allowed; add it to `allowed_origins`"),
            Self::MethodNotAllowed => f.write_str("send messages with POST"),
            Self::BadFraming => f.write_str("the request's framing headers contradict each other; send each once"),
            Self::MediaType => f.write_str("send an uncompressed body of `application/json` in UTF-8"),
            Self::NotAcceptable => f.write_str("accept `application/json` and `text/event-stream`"),
            Self::TooLarge => f.write_str("the body is too large; send less"),
            Self::BodyTimeout => f.write_str("the body did not arrive in time; send it again"),
            Self::BodyIncomplete => f.write_str("the body ended early; send it again"),
            Self::Parse(kind) => f.write_str(match kind {
                ParseErrorKind::TooLong => "parse error: the text is too long",
                ParseErrorKind::TooDeep => "parse error: the text is nested too deep",
                ParseErrorKind::TooMany => "parse error: the text has too many values",
                ParseErrorKind::NotUtf8 => "parse error: the text is not UTF-8, or it begins with a byte order mark",
                ParseErrorKind::LoneSurrogate => "parse error: half of a surrogate pair stands alone",
                ParseErrorKind::DuplicateName => "parse error: an object has the same member name twice",
                ParseErrorKind::BadNumber => "parse error: a number is malformed or has no finite value",
                ParseErrorKind::BadString => "parse error: a string is malformed",
                ParseErrorKind::Trailing => "parse error: there is text after the document",
                _ => "parse error: the text is not JSON",
            }),
            Self::InvalidRequest(why) => write!(f, "invalid request: {why}"),
            Self::IdInUse => f.write_str("invalid request: a request with this id is still under way; use another id"),
            Self::HeaderMismatch(what) => write!(f, "header mismatch: {what}"),
            Self::UnsupportedVersion(_) => f.write_str("unsupported protocol version; use one of `supported`"),
            Self::SessionMissing => f.write_str("send `Mcp-Session-Id`, or `initialize` first"),
            Self::SessionUnknown => f.write_str("the session is not known; send `initialize` again"),
            Self::MethodNotFound => f.write_str("method not found"),
            Self::InvalidParams(why) => write!(f, "invalid params: {why}"),
            Self::BadState => f.write_str("invalid params: `requestState` is not valid for this request; start again"),
            Self::MissingCapability(_) => {
                f.write_str("the client did not declare a capability that this request needs")
            }
            Self::UnknownTask => f.write_str("invalid params: there is no such task"),
            Self::TaskEnded => f.write_str("invalid params: the task has ended already"),
            Self::ResourceNotFound(_) => f.write_str("resource not found"),
            Self::AmbiguousResource => f.write_str("more than one tool server has a resource of that name"),
            Self::UnknownAnswer => f.write_str("invalid request: nothing was asked under this id"),
            Self::TooManyStreams => f.write_str("too many streams are open; close one first"),
            Self::StreamTaken => f.write_str("the session has its stream already; close it first"),
            Self::Busy => f.write_str("too many requests are under way; try again later"),
            Self::Fault => f.write_str("the request could not be taken; try again, or tell an operator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_version_names_what_is_spoken() {
        let text = String::from_utf8(Problem::UnsupportedVersion("1900-01-01".into()).response(None, true)).unwrap();
        assert!(text.contains(r#""code":-32022"#), "{text}");
        assert!(text.contains(r#""supported":["2026-07-28","2025-11-25","2025-06-18","2025-03-26"]"#), "{text}");
        assert!(text.contains(r#""requested":"1900-01-01""#), "{text}");
        assert!(!text.contains(r#""id""#), "{text}");
    }

    #[test]
    fn generations_differ_where_the_protocol_does() {
        let missing = Problem::ResourceNotFound("a:b".into());
        assert_eq!((missing.rpc_code(true), missing.rpc_code(false)), (-32602, -32002));
        assert_eq!(Problem::MethodNotFound.status(true), StatusCode::NOT_FOUND);
        assert_eq!(Problem::MethodNotFound.status(false), StatusCode::OK);
        assert_eq!(Problem::InvalidParams(String::new()).status(true), StatusCode::BAD_REQUEST);
    }
}
