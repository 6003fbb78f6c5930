//! A tool server that does nothing but remember what reached it, and misbehaves on request.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

/// One HTTP request that reached the upstream.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Bytes,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub(crate) fn method(&self) -> String {
        self.json().get("method").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// The bytes of `params.arguments` as they stand in the body.
    pub(crate) fn arguments(&self) -> &str {
        let text = std::str::from_utf8(&self.body).unwrap();
        let start = text.find(r#""arguments":"#).expect("a call has arguments") + r#""arguments":"#.len();
        let value = &text[start..];
        let mut whole = serde_json::Deserializer::from_str(value).into_iter::<serde::de::IgnoredAny>();
        whole.next().unwrap().unwrap();
        &value[..whole.byte_offset()]
    }
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    tools: Vec<Value>,
    abandoned: usize,
    gate: watch::Sender<bool>,
    /// What it does not take in `Authorization` any more.
    refused: Vec<String>,
    /// Where `redirects` leads.
    elsewhere: Option<String>,
}

/// Counts a call whose connection closed before it was answered.
struct Waiting<'s>(&'s Mutex<State>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().abandoned += 1;
    }
}

/// The running upstream. It stops when this is dropped.
pub(crate) struct Recorder {
    at: SocketAddr,
    state: Arc<Mutex<State>>,
    _stop: oneshot::Sender<()>,
}

impl Recorder {
    /// Starts one that offers `tools`.
    pub(crate) fn start(tools: Vec<Value>) -> Self {
        let state = Arc::new(Mutex::new(State { tools, ..State::default() }));
        let (stop, stopped) = oneshot::channel::<()>();
        let (told, at) = std::sync::mpsc::channel();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                told.send(listener.local_addr().unwrap()).unwrap();
                tokio::select! {
                    () = accept(listener, shared) => {}
                    _dropped = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self { at: at.recv().unwrap(), state, _stop: stop }
    }

    /// The usual one: every tool of [`tools`].
    pub(crate) fn usual() -> Self {
        Self::start(tools())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/mcp", self.at)
    }

    /// Everything that reached it.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// The `tools/call` requests among them.
    pub(crate) fn calls(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.method() == "tools/call").collect()
    }

    /// How many calls of `gate` and `never_answers` were closed before they were answered.
    pub(crate) fn abandoned(&self) -> usize {
        self.state.lock().unwrap().abandoned
    }

    /// Has every call of `gate` answered, those under way and those to come.
    pub(crate) fn open_gate(&self) {
        self.state.lock().unwrap().gate.send_replace(true);
    }

    /// Answers whoever shows this in `Authorization` with 401 from now on.
    pub(crate) fn refuse(&self, authorization: &str) {
        self.state.lock().unwrap().refused.push(authorization.to_owned());
    }

    /// Has `redirects` lead there.
    pub(crate) fn redirect_to(&self, url: &str) {
        self.state.lock().unwrap().elsewhere = Some(url.to_owned());
    }

    /// What the calls showed in `Authorization`.
    pub(crate) fn shown(&self) -> Vec<String> {
        self.calls().iter().map(|seen| seen.headers.get("authorization").cloned().unwrap_or_default()).collect()
    }

    /// Replaces what it offers from now on.
    pub(crate) fn offer(&self, tools: Vec<Value>) {
        self.state.lock().unwrap().tools = tools;
    }
}

fn tool(name: &str, properties: Value, required: &[&str]) -> Value {
    json!({
        "name": name,
        "description": format!("{name} of the recording upstream"),
        "inputSchema": {"type": "object", "properties": properties, "required": required, "additionalProperties": false},
        "annotations": {"readOnlyHint": true, "destructiveHint": false}
    })
}

/// What the usual recorder offers.
pub(crate) fn tools() -> Vec<Value> {
    let mut tools = vec![
        tool(
            "echo",
            json!({
                "text": {"type": "string", "maxLength": 1_048_576},
                "n": {"type": "integer"},
                "x": {"type": "number"},
                "flag": {"type": "boolean"},
                "color": {"type": "string", "enum": ["red", "green"]},
                "list": {"type": "array", "items": {"type": "integer"}, "maxItems": 4},
                "inner": {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": false}
            }),
            &["text"],
        ),
        tool("bare", json!({}), &[]),
        tool("defaults", json!({"mode": {"type": "string", "default": "fast"}}), &[]),
        tool(
            "short",
            json!({"text": {"type": "string", "maxLength": 16}, "n": {"type": "integer", "maximum": 10}}),
            &[],
        ),
        tool("redos", json!({"text": {"type": "string", "pattern": "^(a+)+$"}}), &["text"]),
        tool(
            "headers",
            json!({
                "region": {"type": "string", "x-mcp-header": "Region"},
                "count": {"type": "integer", "x-mcp-header": "Count"},
                "dry": {"type": "boolean", "x-mcp-header": "Dry"}
            }),
            &[],
        ),
        tool("secret", json!({}), &[]),
        tool("gate", json!({}), &[]),
        tool("asks", json!({"for": {"type": "string"}}), &["for"]),
        json!({
            "name": "write",
            "description": "has effects, as far as anybody knows",
            "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
        }),
    ];
    for misbehaviour in [
        "other_id",
        "two_results",
        "garbage",
        "huge",
        "never_ends",
        "never_answers",
        "dies",
        "redirects",
        "escapes",
        "wrong_type",
    ] {
        tools.push(tool(misbehaviour, json!({}), &[]));
    }
    tools.push(json!({
        "name": "structured",
        "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
        "outputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        "annotations": {"readOnlyHint": true}
    }));
    tools
}

/// Definitions that nobody can hold a call to: none may be offered.
pub(crate) fn unboundable_tools() -> Vec<Value> {
    let schema = |name: &str, schema: Value| json!({"name": name, "inputSchema": schema});
    let mut doubling = serde_json::Map::new();
    doubling.insert("d0".to_owned(), json!({"type": "string"}));
    for level in 1..40 {
        let below = format!("#/$defs/d{}", level - 1);
        doubling.insert(format!("d{level}"), json!({"allOf": [{"$ref": below}, {"$ref": below}]}));
    }
    vec![
        schema(
            "remote_ref",
            json!({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/schema.json"}}}),
        ),
        schema("file_ref", json!({"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}})),
        schema("unknown_dialect", json!({"$schema": "https://example.com/none", "type": "object"})),
        schema("invalid", json!({"type": "object", "properties": {"a": {"type": "strnig"}}})),
        schema(
            "loop",
            json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"$ref": "#/$defs/x"}}}),
        ),
        schema("bomb", json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/d39"}}, "$defs": doubling})),
        schema("bad_regex", json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "(["}}})),
        schema("megabyte", json!({"type": "object", "description": "x".repeat(1 << 20)})),
        schema(
            "header_on_number",
            json!({"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "A"}}}),
        ),
        schema(
            "header_on_array",
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string"}, "x-mcp-header": "A"}}}),
        ),
        schema(
            "header_twice",
            json!({"type": "object", "properties": {
                "a": {"type": "string", "x-mcp-header": "Same"}, "b": {"type": "string", "x-mcp-header": "SAME"}}}),
        ),
    ]
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _nodelay = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let serve = hyper::service::service_fn(move |request| answer(request, Arc::clone(&state)));
            let _closed =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
        });
    }
}

/// A body that can also do what no server should.
enum Reply {
    Whole(Option<Bytes>),
    /// Sends the bytes again and again, that many times.
    Again(Bytes, usize),
    /// Sends the bytes, then breaks the connection.
    Broken(Option<Bytes>),
    /// Sends the bytes, then a keep-alive comment a second.
    Trickle(Option<Bytes>, tokio::time::Interval),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Again(_, 0) => Poll::Ready(None),
            Self::Again(bytes, left) => {
                *left -= 1;
                Poll::Ready(Some(Ok(Frame::data(bytes.clone()))))
            }
            Self::Broken(bytes) => Poll::Ready(Some(match bytes.take() {
                Some(bytes) => Ok(Frame::data(bytes)),
                None => Err(std::io::Error::other("the upstream dies")),
            })),
            Self::Trickle(bytes, beat) => {
                if let Some(bytes) = bytes.take() {
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                std::task::ready!(beat.poll_tick(context));
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": still here\n\n")))))
            }
        }
    }
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Reply>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let seen = Seen { headers, body };
    let message = seen.json();
    state.lock().unwrap().seen.push(seen.clone());
    let refused = seen.headers.get("authorization").is_some_and(|shown| state.lock().unwrap().refused.contains(shown));
    if refused {
        return Ok(respond(401, "text/plain", Reply::Whole(None)));
    }
    if head.method != hyper::Method::POST {
        return Ok(respond(405, "application/json", Reply::Whole(None)));
    }
    let id = message.get("id").cloned();
    let Some(id) = id else { return Ok(respond(202, "application/json", Reply::Whole(None))) };
    let result = |result: Value| json_reply(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    let reply = match seen.method().as_str() {
        "server/discover" => result(json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {"listChanged": true}},
            "serverInfo": {"name": "recorder", "version": "1"}, "ttlMs": 0, "cacheScope": "private"
        })),
        "tools/list" => {
            let tools = state.lock().unwrap().tools.clone();
            result(json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": tools}))
        }
        "tools/call" => return Ok(called(&message, &seen, &state).await),
        "ping" => result(json!({})),
        _ => respond_json(
            404,
            &json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "method not found"}}),
        ),
    };
    Ok(reply)
}

async fn called(message: &Value, seen: &Seen, state: &Mutex<State>) -> Response<Reply> {
    let id = &message["id"];
    let text = |text: &str| json!({"jsonrpc": "2.0", "id": id, "result": {"resultType": "complete", "content": [{"type": "text", "text": text}]}});
    match message["params"]["name"].as_str().unwrap_or_default() {
        "other_id" => {
            let mut crossed = text("the answer of another");
            crossed["id"] = json!("somebody-else");
            json_reply(&crossed)
        }
        "two_results" => {
            respond(200, "application/json", Reply::Whole(Some(Bytes::from(format!("{}{}", text("one"), text("two"))))))
        }
        "garbage" => respond(200, "application/json", Reply::Whole(Some(Bytes::from_static(b"<html>\xff not json")))),
        "huge" => respond(200, "application/json", Reply::Again(Bytes::from(vec![b' '; 1 << 20]), 1024)),
        "never_ends" => {
            let beat = tokio::time::interval(Duration::from_secs(1));
            respond(200, "text/event-stream", Reply::Trickle(Some(Bytes::from_static(b": hello\n\n")), beat))
        }
        "never_answers" => {
            let _waiting = Waiting(state);
            std::future::pending().await
        }
        // a round trip: it asks once, and repeats what it was answered
        "asks" => {
            let params = &message["params"];
            if params["requestState"] == "own" {
                return json_reply(&text(&params["inputResponses"].to_string()));
            }
            let wanted = params["arguments"]["for"].as_str().unwrap_or_default();
            json_reply(&json!({"jsonrpc": "2.0", "id": id, "result": {
                "resultType": "input_required", "requestState": "own",
                "inputRequests": {"first": {"method": "elicitation/create", "params": {
                    "mode": "form", "message": "what is it?",
                    "requestedSchema": {"type": "object", "properties": {wanted: {"type": "string"}}}
                }}}
            }}))
        }
        "gate" => {
            let waiting = Waiting(state);
            let mut gate = state.lock().unwrap().gate.subscribe();
            let _open = gate.wait_for(|open| *open).await;
            std::mem::forget(waiting);
            json_reply(&text("through"))
        }
        "dies" => respond(200, "application/json", Reply::Broken(Some(Bytes::from_static(b"{\"jsonrpc\":")))),
        "redirects" => {
            let mut redirect = respond(307, "text/plain", Reply::Whole(None));
            let elsewhere = state.lock().unwrap().elsewhere.clone();
            let elsewhere = elsewhere.unwrap_or_else(|| "http://127.0.0.1:9/elsewhere".to_owned());
            redirect.headers_mut().insert("location", elsewhere.parse().unwrap());
            redirect
        }
        "escapes" => json_reply(&json!({
            "jsonrpc": "2.0", "id": id,
            "error": {"code": -32000, "message": "bad\r\nlevel=ERROR forged\u{1b}[2J<script>alert(1)</script>"}
        })),
        "wrong_type" => {
            json_reply(&json!({"jsonrpc": "2.0", "id": id, "result": {"resultType": "surprise", "content": "none"}}))
        }
        "structured" => json_reply(&json!({
            "jsonrpc": "2.0", "id": id,
            "result": {"resultType": "complete", "content": [], "structuredContent": {"n": "not a number"}}
        })),
        _ => {
            let mut reply = text(seen.arguments());
            // members that no revision knows: they have to arrive
            reply["result"]["x-future"] = json!({"kept": [1, "two", null]});
            reply["result"]["content"][0]["x-block"] = json!(true);
            json_reply(&reply)
        }
    }
}

fn json_reply(message: &Value) -> Response<Reply> {
    respond_json(200, message)
}

fn respond_json(status: u16, message: &Value) -> Response<Reply> {
    respond(status, "application/json", Reply::Whole(Some(Bytes::from(message.to_string()))))
}

fn respond(status: u16, content_type: &str, body: Reply) -> Response<Reply> {
    Response::builder().status(status).header("content-type", content_type).body(body).unwrap()
}
