//! What a tool server says: JSON-RPC 2.0 messages, read strictly.

use bytes::Bytes;

use crate::json::{Limits, Object, Value, parse};

/// Room for the envelope around a result of the largest size.
pub(super) const ENVELOPE: usize = 4096;

/// One message of a tool server.
#[derive(Debug)]
pub(super) enum Message {
    /// A response.
    Answer(Answer),
    /// A message that expects no answer.
    Notification {
        /// Its method.
        method: String,
        /// Its params; empty when there are none.
        params: Object,
    },
    /// A message that expects an answer of ours.
    Request {
        /// Its id, to be sent back as it came.
        id: Value,
        /// Its method.
        method: String,
        /// Its params; an empty object when there are none.
        params: Value,
    },
}

/// A response: which request it answers, and with what.
#[derive(Debug)]
pub(super) struct Answer {
    /// The id, when it has the form of ours; errors may come with none.
    pub(super) id: Option<u64>,
    /// The `result`, or the `error` object.
    pub(super) body: Result<Text, Text>,
}

/// A parsed value and its text: lossless, without a line break.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) tree: Value,
    pub(super) text: Bytes,
}

/// Why a text is not a message. Says nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Not JSON as [`parse`] takes it.
    NotJson,
    /// JSON, but not JSON-RPC 2.0.
    NotAMessage,
}

impl Unreadable {
    /// For an operator.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Self::NotJson => "the answer is not strict JSON",
            Self::NotAMessage => "the answer is not a JSON-RPC 2.0 message",
        }
    }
}

/// Reads one message of at most `most` bytes of content.
pub(super) fn read(text: &Bytes, most: usize) -> Result<Message, Unreadable> {
    let limits = Limits { bytes: most.saturating_add(ENVELOPE), ..Limits::RESPONSE };
    let Value::Object(mut message) = parse(text, &limits).map_err(|_| Unreadable::NotJson)? else {
        return Err(Unreadable::NotAMessage);
    };
    if message.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return Err(Unreadable::NotAMessage);
    }
    let (result, error) = (message.span("result"), message.span("error"));
    match (message.remove("method"), message.remove("result"), message.remove("error")) {
        (Some(Value::String(method)), None, None) => said(&mut message, method),
        (None, Some(tree @ Value::Object(_)), None) => {
            Ok(Message::Answer(Answer { id: number(&message), body: Ok(lossless(text, result, tree)) }))
        }
        (None, None, Some(tree)) if is_error(&tree) => {
            Ok(Message::Answer(Answer { id: number(&message), body: Err(lossless(text, error, tree)) }))
        }
        _ => Err(Unreadable::NotAMessage),
    }
}

fn said(message: &mut Object, method: String) -> Result<Message, Unreadable> {
    let params = message.remove("params").unwrap_or_else(|| Object::new().into());
    match (message.remove("id"), params) {
        (None, Value::Object(params)) => Ok(Message::Notification { method, params }),
        (Some(id @ (Value::String(_) | Value::Number(_))), params @ Value::Object(_)) => {
            Ok(Message::Request { id, method, params })
        }
        _ => Err(Unreadable::NotAMessage),
    }
}

fn number(message: &Object) -> Option<u64> {
    message.get("id")?.as_number()?.text().parse().ok()
}

/// Whether this is an error object of JSON-RPC 2.0, section 5.1.
fn is_error(tree: &Value) -> bool {
    let code = tree.get("code").and_then(Value::as_number).and_then(crate::json::Number::as_i64);
    code.is_some() && tree.get("message").and_then(Value::as_str).is_some()
}

/// The text as it was sent, unless it was spread over lines: then the compact form of the same tree.
fn lossless(text: &Bytes, span: Option<std::ops::Range<usize>>, tree: Value) -> Text {
    let sent = span.filter(|span| span.end <= text.len() && span.start <= span.end).map(|span| text.slice(span));
    let text = match sent {
        Some(sent) if memchr::memchr2(b'\n', b'\r', &sent).is_none() => sent,
        _ => Bytes::from(tree.to_bytes()),
    };
    Text { tree, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_str(text: &str) -> Result<Message, Unreadable> {
        read(&Bytes::copy_from_slice(text.as_bytes()), 10_000)
    }

    #[test]
    fn a_result_keeps_its_text_to_the_byte() {
        let result = r#"{ "b":1.50, "a" : 1e2,"n":12345678901234567890, "_meta":{"x/y":null}}"#;
        let Ok(Message::Answer(answer)) = read_str(&format!(r#"{{"jsonrpc":"2.0","id":7,"result":{result}}}"#)) else {
            panic!("not an answer")
        };
        assert_eq!(answer.id, Some(7));
        assert_eq!(answer.body.unwrap().text, result.as_bytes());
    }

    #[test]
    fn a_result_over_several_lines_becomes_one_line_with_the_same_numbers() {
        let Ok(Message::Answer(answer)) =
            read_str("{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\n  \"b\": 1.50,\r\n\"a\": \"x\\ny\"}}")
        else {
            panic!("not an answer")
        };
        assert_eq!(answer.body.unwrap().text, &br#"{"b":1.50,"a":"x\ny"}"#[..]);
    }

    #[test]
    fn what_is_not_one_message_is_refused() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"1.0","id":1,"result":{}}"#,
            r#"{"id":1,"result":{}}"#,
            r#"[{"jsonrpc":"2.0","id":1,"result":{}}]"#,
            r#"{"jsonrpc":"2.0","id":1,"result":[]}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"message":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"m"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[]}"#,
        ] {
            assert_eq!(read_str(text).err(), Some(Unreadable::NotAMessage), "{text}");
        }
        for text in ["", "hello", r#"{"jsonrpc":"2.0","id":1,"id":2,"result":{}}"#] {
            assert_eq!(read_str(text).err(), Some(Unreadable::NotJson), "{text}");
        }
    }
}
