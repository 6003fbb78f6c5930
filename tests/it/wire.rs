//! HTTP/1.1 by hand: what a test sends is exactly the bytes it names.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::Value;

/// The `_meta` that a 2026-07-28 client sends with every request.
pub(crate) const META: &str = r#"{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"it","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;

/// How long a test waits for an answer before it calls the server stuck.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One request, header by header.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Sent instead of the length of the body.
    pub(crate) length: Option<String>,
}

impl Request {
    /// A POST of `body` to `/mcp` with the headers that every client sends; `Authorization` is added by [`Request::send`].
    pub(crate) fn post(body: impl Into<Vec<u8>>) -> Self {
        Self {
            line: "POST /mcp HTTP/1.1".to_owned(),
            headers: vec![
                ("Content-Type".to_owned(), "application/json".to_owned()),
                ("Accept".to_owned(), "application/json, text/event-stream".to_owned()),
            ],
            body: body.into(),
            length: None,
        }
    }

    /// A modern `tools/call` of `tool` with `arguments` as JSON text.
    pub(crate) fn call(tool: &str, arguments: &str) -> Self {
        Self::envelope(
            "tools/call",
            Some(tool),
            &format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments},"_meta":{META}}}}}"#
            ),
        )
    }

    /// A modern request whose headers say `method` and `name`, whatever `body` says.
    pub(crate) fn envelope(method: &str, name: Option<&str>, body: &str) -> Self {
        let request = Self::post(body).with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", method);
        match name {
            Some(name) => request.with("Mcp-Name", name),
            None => request,
        }
    }

    /// Sets a header, in the place of any of that name.
    pub(crate) fn with(self, name: &str, value: &str) -> Self {
        self.without(name).also(name, value)
    }

    /// Adds a header beside any of that name.
    pub(crate) fn also(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
        self
    }

    /// Replaces the body.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Edits the body as text.
    pub(crate) fn edit(self, from: &str, to: &str) -> Self {
        let text = String::from_utf8(self.body.clone()).unwrap();
        assert!(text.contains(from), "the body has no `{from}`: {text}");
        self.body(text.replacen(from, to, 1))
    }

    /// The bytes for the wire.
    pub(crate) fn bytes(&self, to: SocketAddr, token: Option<&str>) -> Vec<u8> {
        let has = |name: &str| self.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
        let mut out = format!("{}\r\n", self.line).into_bytes();
        let mut header = |name: &str, value: &str| out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        if !has("host") {
            header("Host", &to.to_string());
        }
        if !has("authorization")
            && let Some(token) = token
        {
            header("Authorization", &format!("Bearer {token}"));
        }
        if !has("connection") {
            header("Connection", "close");
        }
        for (name, value) in &self.headers {
            header(name, value);
        }
        if !has("transfer-encoding") || self.length.is_some() {
            header("Content-Length", self.length.as_deref().unwrap_or(&self.body.len().to_string()));
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }

    /// Sends it on a connection of its own and reads the answer.
    pub(crate) fn send(&self, to: SocketAddr, token: Option<&str>) -> Answer {
        exchange(to, &self.bytes(to, token))
    }
}

/// What came back.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    /// 0 when the connection closed without an answer.
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The messages in the body: one for JSON, each `data:` for an event stream.
    pub(crate) messages: Vec<Value>,
    /// The text of the last message, as sent.
    pub(crate) last: String,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}\n{}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The response among the messages.
    pub(crate) fn response(&self) -> Value {
        let answer = |message: &&Value| message.get("result").is_some() || message.get("error").is_some();
        self.messages.iter().rfind(answer).cloned().unwrap_or(Value::Null)
    }

    /// The JSON-RPC error code, if it is an error.
    pub(crate) fn code(&self) -> Option<i64> {
        self.response().pointer("/error/code").and_then(Value::as_i64)
    }

    /// The reason code of a refusal.
    pub(crate) fn reason(&self) -> Option<String> {
        let response = self.response();
        let decision =
            response.pointer("/result/_meta/countersign~1decision").or_else(|| response.pointer("/error/data"))?;
        decision.get("reason")?.as_str().map(str::to_owned)
    }

    /// A tool result that is no error.
    pub(crate) fn is_success(&self) -> bool {
        let response = self.response();
        self.status == 200
            && response.get("result").is_some()
            && response.pointer("/result/isError") != Some(&Value::Bool(true))
    }
}

/// An event stream that stays open.
pub(crate) struct Events {
    stream: TcpStream,
    seen: Vec<u8>,
    given: usize,
}

impl Events {
    /// Sends the request and waits for the head of its answer.
    pub(crate) fn open(to: SocketAddr, request: &Request, token: &str) -> Self {
        let mut stream = connect(to);
        stream.write_all(&request.bytes(to, Some(token))).unwrap();
        let mut events = Self { stream, seen: Vec::new(), given: 0 };
        while events.messages().is_none() {
            assert!(events.read(), "no event stream: {}", String::from_utf8_lossy(&events.seen));
        }
        events
    }

    /// The next message of that method; others are passed over. Fails after [`PATIENCE`] of silence.
    pub(crate) fn next(&mut self, method: &str) -> Value {
        loop {
            let messages = self.messages().unwrap_or_default();
            while let Some(message) = messages.get(self.given) {
                self.given += 1;
                if message["method"] == method {
                    return message.clone();
                }
            }
            assert!(self.read(), "no `{method}` came: {}", String::from_utf8_lossy(&self.seen));
        }
    }

    /// Whether the stream ends by itself, rather than with [`PATIENCE`].
    pub(crate) fn ends(&mut self) -> bool {
        let mut chunk = [0; 4_096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// What came so far; `None` before the head.
    fn messages(&self) -> Option<Vec<Value>> {
        let head_end = self.seen.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&self.seen[..head_end]).to_ascii_lowercase();
        if !(head.starts_with("http/1.1 200") && head.contains("text/event-stream")) {
            return None;
        }
        let (body, _) = dechunked(&self.seen[head_end + 4..]);
        let text = String::from_utf8_lossy(&body).into_owned();
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end]);
        let data = whole.lines().filter_map(|line| line.strip_prefix("data:"));
        Some(data.filter_map(|data| serde_json::from_str(data.trim()).ok()).collect())
    }

    fn read(&mut self) -> bool {
        let mut chunk = [0; 4_096];
        match self.stream.read(&mut chunk) {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.seen.extend_from_slice(&chunk[..read]);
                true
            }
        }
    }
}

/// A session of a client that speaks 2025-11-25.
pub(crate) struct Legacy {
    to: SocketAddr,
    token: String,
    session: String,
}

impl Legacy {
    pub(crate) fn open(to: SocketAddr, token: &str) -> Self {
        let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"it","version":"1"}}}"#;
        let answer = Request::post(initialize).send(to, Some(token));
        let session = answer.header("mcp-session-id").unwrap_or_else(|| panic!("no session: {answer:?}")).to_owned();
        let legacy = Self { to, token: token.to_owned(), session };
        let told = legacy.post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert_eq!(told.send(to, Some(token)).status, 202);
        legacy
    }

    /// A POST in the session.
    pub(crate) fn post(&self, body: &str) -> Request {
        Request::post(body).with("Mcp-Session-Id", &self.session).with("MCP-Protocol-Version", "2025-11-25")
    }

    /// A `tools/call` in the session.
    pub(crate) fn request(&self, id: u32, tool: &str, arguments: &str) -> Request {
        self.post(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
        ))
    }

    pub(crate) fn call(&self, id: u32, tool: &str, arguments: &str) -> Answer {
        self.request(id, tool, arguments).send(self.to, Some(&self.token))
    }

    /// The session's own stream.
    pub(crate) fn stream(&self) -> Events {
        let mut request = self.post("").without("Content-Type").with("Accept", "text/event-stream");
        request.line = "GET /mcp HTTP/1.1".to_owned();
        Events::open(self.to, &request, &self.token)
    }
}

/// Writes `bytes`, then reads until the other side is done.
pub(crate) fn exchange(to: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(to);
    // a server that refuses early may close before everything is written: its answer is what counts
    let _early = stream.write_all(bytes);
    read_answer(&mut stream)
}

/// A connection that gives up after [`PATIENCE`].
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads one answer: to the end of its body, not of the connection.
pub(crate) fn read_answer(stream: &mut impl Read) -> Answer {
    let mut seen = Vec::new();
    let mut chunk = vec![0; 65_536];
    loop {
        if let Some(answer) = complete(&seen, false) {
            return answer;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return complete(&seen, true).unwrap_or_default(),
            Ok(read) => seen.extend_from_slice(&chunk[..read]),
        }
    }
}

fn complete(seen: &[u8], ended: bool) -> Option<Answer> {
    let head_end = seen.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&seen[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, ..Answer::default() };
    let rest = &seen[head_end + 4..];
    let chunked = answer.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
    let length: Option<usize> = answer.header("content-length").and_then(|value| value.parse().ok());
    answer.body = if chunked {
        match dechunked(rest) {
            (body, true) => body,
            (body, false) if ended => body,
            _ => return None,
        }
    } else if let Some(length) = length {
        if rest.len() < length && !ended {
            return None;
        }
        rest[..length.min(rest.len())].to_vec()
    } else if ended || matches!(status, 204 | 304) {
        rest.to_vec()
    } else {
        return None;
    };
    let stream = answer.header("content-type").is_some_and(|value| value.starts_with("text/event-stream"));
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let texts: Vec<&str> = if stream {
        text.lines()
            .filter_map(|line| line.strip_prefix("data:"))
            .map(str::trim)
            .filter(|data| !data.is_empty())
            .collect()
    } else {
        vec![text.as_str()]
    };
    answer.messages = texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    answer.last = texts.last().map(|text| (*text).to_owned()).unwrap_or_default();
    Some(answer)
}

fn dechunked(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = rest.windows(2).position(|two| two == b"\r\n") else { return (body, false) };
        let size = std::str::from_utf8(&rest[..line]).unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let Ok(size) = usize::from_str_radix(size, 16) else { return (body, false) };
        let data = &rest[line + 2..];
        if size == 0 {
            return (body, true);
        }
        if data.len() < size + 2 {
            body.extend_from_slice(&data[..size.min(data.len())]);
            return (body, false);
        }
        body.extend_from_slice(&data[..size]);
        rest = &data[size + 2..];
    }
}
