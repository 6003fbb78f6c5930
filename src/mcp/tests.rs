//! The door from outside: bytes over a socket and over a pipe, a [`Fake`] house behind.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::{
    fake::{Fake, upstream},
    http,
    road::Road as _,
    stdio,
};
use crate::{
    json::{Limits, Value, parse},
    upstream::Change,
};

const MODERN: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}"#;

struct Door {
    house: Arc<Fake>,
    port: u16,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

async fn open() -> Door {
    let house = Fake::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = watch::channel(false);
    let settings = http::Settings {
        url: None,
        allowed_hosts: Vec::new(),
        allowed_origins: Vec::new(),
        max_body: 100_000,
        max_connections: 64,
        drain: Duration::from_secs(5),
        head_timeout: Duration::from_secs(30),
        body_timeout: Duration::from_millis(300),
        keep_alive: Duration::from_secs(15),
        key: [9; 32],
    };
    let road = Arc::clone(&house);
    let serving = tokio::spawn(async move { http::serve(listener, road, settings, stopped).await.unwrap() });
    Door { house, port, stop, serving }
}

#[derive(Debug)]
struct Got {
    status: u16,
    head: String,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim())
    }

    fn code(&self) -> Option<i64> {
        json(&self.body).get("error")?.get("code")?.as_number()?.as_i64()
    }
}

fn json(text: &str) -> Value {
    parse(text.as_bytes(), &Limits::RESPONSE).unwrap_or_else(|error| panic!("{error:?}: {text}"))
}

struct Client {
    stream: BufReader<TcpStream>,
    port: u16,
}

impl Door {
    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        Client { stream: BufReader::new(stream), port: self.port }
    }

    async fn post(&self, headers: &[(&str, &str)], body: &str) -> Got {
        self.connect().await.post(headers, body).await
    }

    /// A request of 2026-07-28 with the right headers.
    async fn modern(&self, method: &str, params: &str, name: Option<&str>) -> Got {
        self.connect().await.modern(method, params, name).await
    }

    async fn session(&self) -> String {
        let capabilities = r#"{"elicitation":{},"roots":{}}"#;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-06-18","capabilities":{capabilities},"clientInfo":{{"name":"t","version":"0"}}}}}}"#
        );
        let got = self.post(&[], &body).await;
        assert_eq!(got.status, 200, "{got:?}");
        let result = json(&got.body).get("result").unwrap().clone();
        assert_eq!(result.get("protocolVersion"), Some(&Value::from("2025-06-18")));
        got.header("mcp-session-id").unwrap().to_owned()
    }
}

impl Client {
    async fn modern(&mut self, method: &str, params: &str, name: Option<&str>) -> Got {
        let comma = if params.is_empty() { "" } else { "," };
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{comma}{MODERN}}}}}"#);
        let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        headers.extend(name.map(|name| ("mcp-name", name)));
        self.post(&headers, &body).await
    }

    async fn send(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a POST; a header given replaces the usual one, and is left out when it is given empty.
    async fn write(&mut self, headers: &[(&str, &str)], body: &str) {
        let host = format!("127.0.0.1:{}", self.port);
        let usual = [
            ("host", host.as_str()),
            ("authorization", "Bearer good"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        let mut text = "POST /mcp HTTP/1.1\r\n".to_owned();
        for (name, value) in usual.iter().filter(|(name, _)| !headers.iter().any(|(given, _)| given == name)) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        self.send(&text).await;
    }

    async fn post(&mut self, headers: &[(&str, &str)], body: &str) -> Got {
        self.write(headers, body).await;
        self.read().await
    }

    async fn head(&mut self) -> Got {
        let mut head = String::new();
        loop {
            let mut line = String::new();
            let read = timeout(Duration::from_secs(5), self.stream.read_line(&mut line)).await.expect("an answer");
            if read.unwrap() == 0 || line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Got { status, head, body: String::new() }
    }

    async fn read(&mut self) -> Got {
        let mut got = self.head().await;
        if let Some(length) = got.header("content-length").map(|length| length.parse::<usize>().unwrap()) {
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body).await.unwrap();
            got.body = String::from_utf8(body).unwrap();
        } else if got.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await {
                got.body.push_str(&chunk);
            }
        }
        got
    }

    async fn chunk(&mut self) -> Option<String> {
        let mut line = String::new();
        timeout(Duration::from_secs(5), self.stream.read_line(&mut line)).await.expect("a chunk").unwrap();
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk).await.unwrap();
        chunk.truncate(length);
        (length > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// The next message of an event stream.
    async fn event(&mut self) -> Option<Value> {
        loop {
            let chunk = self.chunk().await?;
            if let Some(data) = chunk.lines().find_map(|line| line.strip_prefix("data: ")) {
                return Some(json(data));
            }
        }
    }
}

mod holds;

fn call(id: i64, name: &str, rest: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{name}"{rest}}}}}"#)
}

#[tokio::test]
async fn a_modern_call_is_answered_with_one_json_document() {
    let door = open().await;
    let got = door.modern("tools/call", r#""name":"x__echo","arguments":{"a":1.0}"#, Some("x__echo")).await;
    assert_eq!((got.status, got.header("content-type")), (200, Some("application/json")));
    let result = json(&got.body).get("result").unwrap().clone();
    assert_eq!(result.get("resultType"), Some(&Value::from("complete")));
    assert!(got.body.contains(r#""arguments":{"a":1.0}"#), "{}", got.body);
    assert!(!got.body.contains("protocolVersion"), "what speaks of the connection does not travel: {}", got.body);
    assert!(door.house.codes().is_empty());
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let door = open().await;
    let mut client = door.connect().await;
    for _ in 0..3 {
        let got = client.modern("tools/call", r#""name":"x__echo""#, Some("x__echo")).await;
        assert_eq!(got.status, 200);
    }
    assert_eq!(client.modern("nothing/such", "", None).await.status, 404);
    assert_eq!(client.post(&[("content-type", "text/plain")], "{}").await.status, 415);
    assert_eq!(client.post(&[("authorization", "")], "{}").await.status, 401);
    assert_eq!(
        client.modern("server/discover", "", None).await.status,
        200,
        "no refusal put the connection out of step"
    );
}

#[tokio::test]
async fn only_a_good_credential_is_known() {
    let door = open().await;
    for (header, code) in [
        ("", "token_missing"),
        ("Bearer expired", "token_expired"),
        ("Bearer nonsense", "token_invalid"),
        ("Basic good", "token_invalid"),
    ] {
        let got = door.post(&[("authorization", header)], "not even JSON").await;
        assert_eq!(got.status, 401, "{header}");
        let challenge = got.header("www-authenticate").unwrap();
        let metadata = r#"resource_metadata="http://127.0.0.1:7400/.well-known/oauth-protected-resource/mcp""#;
        assert!(challenge.starts_with("Bearer ") && challenge.contains(metadata), "{challenge}");
        assert_eq!(challenge.contains("invalid_token"), code != "token_missing");
        assert_eq!(json(&got.body).get("error"), Some(&Value::from(code)));
    }
    let twice = door.post(&[("authorization", "Bearer good"), ("authorization", "Bearer good")], "{}").await;
    assert_eq!(twice.status, 401);
    assert!(door.house.codes().is_empty(), "who is not known is not in the ledger");
    assert_eq!(door.house.turned_away.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn the_metadata_needs_no_credential() {
    let door = open().await;
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let mut client = door.connect().await;
        client.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost:{}\r\n\r\n", door.port)).await;
        let got = client.read().await;
        assert_eq!(got.status, 200);
        assert!(json(&got.body).get("resource").is_some());
    }
    let mut client = door.connect().await;
    client.send(&format!("GET /other HTTP/1.1\r\nhost: localhost:{}\r\n\r\n", door.port)).await;
    assert_eq!(client.read().await.status, 404);
}

#[tokio::test]
async fn a_rebound_host_and_a_foreign_origin_are_refused_before_anything_else() {
    let door = open().await;
    for host in ["attacker.test", "127.0.0.1.nip.io", "127.0.0.1:1"] {
        assert_eq!(door.post(&[("host", host)], "{}").await.status, 403, "{host}");
    }
    for origin in ["null", "https://evil.test"] {
        assert_eq!(door.post(&[("origin", origin)], "{}").await.status, 403, "{origin}");
    }
    assert_eq!(door.house.turned_away.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn other_http_methods_are_not_allowed() {
    let door = open().await;
    for method in ["PUT", "PATCH", "OPTIONS", "GET", "DELETE"] {
        let mut client = door.connect().await;
        let host = format!("127.0.0.1:{}", door.port);
        client.send(&format!("{method} /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer good\r\n\r\n")).await;
        let got = client.read().await;
        assert_eq!(got.status, 405, "{method}");
        assert!(got.header("allow").unwrap().contains("POST"), "{method}");
    }
}

/// What is bad, headers, body; status and code of the refusal.
type Bad<'t> = (&'t str, &'t [(&'t str, &'t str)], &'t str, u16, i64);

#[tokio::test]
async fn every_bad_message_of_a_known_caller_is_refused_and_recorded() {
    let door = open().await;
    let now = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/list")];
    let list = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{MODERN}}}}}"#);
    let old = list.replace("2026-07-28", "2025-11-25");
    let other = list.replace("2026-07-28", "v999.0.0");
    let no_capabilities = list.replace("clientCapabilities", "other");
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let long = format!("\"{}\"", "x".repeat(100_000));
    let table: &[Bad<'_>] = &[
        ("no JSON", &now, "{", 400, -32700),
        ("a name twice", &now, r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/list"}"#, 400, -32700),
        ("text after it", &now, r#"{"jsonrpc":"2.0"} {}"#, 400, -32700),
        ("1e400", &now, r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":1e400}}"#, 400, -32700),
        ("lone surrogate", &now, r#"{"jsonrpc":"2.0","id":1,"method":"\ud800"}"#, 400, -32700),
        ("too deep", &now, &deep, 400, -32700),
        ("too long", &now, &long, 413, -32600),
        ("batch", &now, "[]", 400, -32600),
        ("null id", &now, r#"{"jsonrpc":"2.0","id":null,"method":"tools/list"}"#, 400, -32600),
        (
            "call without id",
            &now,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x__echo"}}"#,
            400,
            -32600,
        ),
        ("a response", &now, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, 400, -32600),
        ("wrong type", &[("content-type", "text/plain")], "{}", 415, -32600),
        ("charset", &[("content-type", "application/json; charset=utf-16")], "{}", 415, -32600),
        ("compressed", &[("content-encoding", "gzip")], "{}", 415, -32600),
        ("takes neither", &[("accept", "text/html")], "{}", 406, -32600),
        ("no method header", &[("mcp-protocol-version", "2026-07-28")], &list, 400, -32020),
        ("two method headers", &[now[0], now[1], now[1]], &list, 400, -32020),
        ("method header's case", &[now[0], ("mcp-method", "Tools/list")], &list, 400, -32020),
        ("no version header", &[], &list, 400, -32020),
        ("downgrade in the header", &[("mcp-protocol-version", "2025-11-25")], &list, 400, -32020),
        ("downgrade in the body", &now, &old, 400, -32020),
        ("unknown version", &[("mcp-protocol-version", "v999.0.0"), now[1]], &other, 400, -32022),
        ("no capabilities", &now, &no_capabilities, 400, -32602),
        ("no _meta", &now, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#, 400, -32602),
    ];
    for (what, headers, body, status, code) in table {
        let got = door.post(headers, body).await;
        assert_eq!((got.status, got.code()), (*status, Some(*code)), "{what}: {got:?}");
    }
    assert_eq!(door.house.codes().len(), table.len(), "{:?}", door.house.codes());
    assert_eq!(door.house.calls.load(Ordering::SeqCst), 0);
    for method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "unknown/method"] {
        let got = door.modern(method, "", None).await;
        assert_eq!((got.status, got.code()), (404, Some(-32601)), "{method}");
        assert_eq!(json(&got.body).get("id"), Some(&Value::from(1)));
    }
}

#[tokio::test]
async fn arguments_have_one_meaning() {
    let door = open().await;
    let absent = door.modern("tools/call", r#""name":"x__echo""#, Some("x__echo")).await;
    let empty = door.modern("tools/call", r#""name":"x__echo","arguments":{}"#, Some("x__echo")).await;
    assert_eq!(absent.body, empty.body);
    for arguments in ["null", "[]", "7", r#""{}""#] {
        let params = format!(r#""name":"x__echo","arguments":{arguments}"#);
        assert_eq!(door.modern("tools/call", &params, Some("x__echo")).await.code(), Some(-32602), "{arguments}");
    }
    let named = door.modern("tools/call", r#""name":"x__echo""#, Some("x__other")).await;
    assert_eq!((named.status, named.code()), (400, Some(-32020)));
    assert_eq!(door.house.calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn ambiguous_framing_closes_the_connection() {
    let door = open().await;
    let mut client = door.connect().await;
    let host = format!("host: 127.0.0.1:{}\r\nauthorization: Bearer good\r\n", door.port);
    client
        .send(&format!(
            "POST /mcp HTTP/1.1\r\n{host}transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"
        ))
        .await;
    let got = client.read().await;
    assert!((400..500).contains(&got.status), "{got:?}");
    assert_eq!(got.header("connection"), Some("close"));
    let mut rest = String::new();
    let _closed = timeout(Duration::from_secs(5), client.stream.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.is_empty(), "nothing after it is answered: {rest}");
}

#[tokio::test]
async fn large_heads_and_slow_bodies_are_cut_off() {
    let door = open().await;
    let mut client = door.connect().await;
    client.send(&format!("POST /mcp HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000))).await;
    assert_eq!(client.read().await.status, 431);
    let mut client = door.connect().await;
    client.send(&format!("POST /mcp HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(100))).await;
    assert_eq!(client.read().await.status, 431);
    let mut client = door.connect().await;
    let usual = format!(
        "POST /mcp HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer good\r\ncontent-type: application/json\r\n",
        door.port
    );
    client.send(&format!("{usual}content-length: 100\r\n\r\n{{")).await;
    let got = client.read().await;
    assert_eq!((got.status, got.header("connection")), (408, Some("close")));
    let mut client = door.connect().await;
    client.send(&format!("{usual}content-length: 100000000\r\n\r\n{{")).await;
    let got = client.read().await;
    assert_eq!((got.status, got.header("connection")), (413, Some("close")));
    let mut client = door.connect().await;
    client.send(&format!("{usual}transfer-encoding: chunked\r\n\r\n")).await;
    client.send(&format!("{:x}\r\n{}\r\n", 200_000, "x".repeat(200_000))).await;
    assert_eq!(client.read().await.status, 413);
}

#[tokio::test]
async fn discovery_says_what_is_spoken() {
    let door = open().await;
    let got = door.modern("server/discover", "", None).await;
    let result = json(&got.body).get("result").unwrap().clone();
    for name in ["resultType", "supportedVersions", "capabilities", "ttlMs", "cacheScope", "_meta"] {
        assert!(result.get(name).is_some(), "{name}");
    }
    assert!(result.get("capabilities").unwrap().get("resources").is_some());
    assert!(result.get("capabilities").unwrap().get("completions").is_none());
}

#[tokio::test]
async fn progress_turns_the_answer_into_a_stream() {
    let door = open().await;
    let mut client = door.connect().await;
    let meta = MODERN.replace(r#""_meta":{"#, r#""_meta":{"progressToken":"tok","#);
    let params = format!(r#","arguments":{{}},{meta}"#);
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "x__progress")];
    client.write(&headers, &call(5, "x__progress", &params)).await;
    let got = client.head().await;
    assert_eq!((got.status, got.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!((got.header("x-accel-buffering"), got.header("cache-control")), (Some("no"), Some("no-store")));
    for progress in 1..=2 {
        let event = client.event().await.unwrap();
        assert_eq!(event.get("method"), Some(&Value::from("notifications/progress")));
        let params = event.get("params").unwrap();
        assert_eq!(params.get("progressToken"), Some(&Value::from("tok")));
        assert_eq!(params.get("progress"), Some(&Value::from(progress)));
    }
    let last = client.event().await.unwrap();
    assert_eq!(last.get("id"), Some(&Value::from(5)), "no log line without a log level: {last:?}");
    assert!(client.event().await.is_none());
}

#[tokio::test]
async fn closing_a_modern_exchange_cancels_its_call_and_no_legacy_one() {
    let door = open().await;
    let mut client = door.connect().await;
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "x__slow")];
    client.write(&headers, &call(1, "x__slow", &format!(",{MODERN}"))).await;
    wait(|| door.house.calls.load(Ordering::SeqCst) == 1).await;
    drop(client);
    // the fake's road ends when it is dropped, so a new call shows that the door let go of the old one
    let session = door.session().await;
    let mut client = door.connect().await;
    client.write(&[("mcp-session-id", &session)], &call(1, "x__slow", "")).await;
    wait(|| door.house.calls.load(Ordering::SeqCst) == 2).await;
    let again = door.post(&[("mcp-session-id", &session)], &call(1, "x__echo", "")).await;
    assert_eq!((again.status, again.code()), (400, Some(-32600)), "its id is still in use");
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
    let other = door.session().await;
    assert_eq!(door.post(&[("mcp-session-id", &other)], cancel).await.status, 202);
    assert_eq!(door.house.cancelled.load(Ordering::SeqCst), 0, "another session cancels nothing of this one");
    assert_eq!(door.post(&[("mcp-session-id", &session)], cancel).await.status, 202);
    assert_eq!(client.read().await.status, 200);
    assert_eq!(door.house.cancelled.load(Ordering::SeqCst), 1);
    let again = door.post(&[("mcp-session-id", &session)], &call(1, "x__echo", "")).await;
    assert_eq!(again.code(), None, "an id is free once its request is answered");
}

async fn wait(condition: impl Fn() -> bool) {
    let held = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(Duration::from_secs(5), held).await.expect("it never came");
}

#[tokio::test]
async fn a_legacy_session_serves_its_principal_only() {
    let door = open().await;
    let session = door.session().await;
    let told = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let with = |session: &'static str| [("mcp-session-id", session), ("mcp-protocol-version", "2025-06-18")];
    let own: &'static str = Box::leak(session.clone().into_boxed_str());
    assert_eq!(door.post(&with(own), told).await.status, 202);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    assert_eq!(door.post(&with(own), ping).await.body, r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    assert_eq!(door.post(&[], ping).await.status, 400, "no session");
    assert_eq!(door.post(&[("mcp-session-id", "nonsense")], ping).await.status, 404);
    let stolen = [("mcp-session-id", own), ("authorization", "Bearer other")];
    assert_eq!(door.post(&stolen, ping).await.status, 404, "another principal's");
    let unknown = r#"{"jsonrpc":"2.0","id":1,"method":"server/discover"}"#;
    let got = door.post(&with(own), unknown).await;
    assert_eq!((got.status, got.code()), (200, Some(-32601)));
    let refused = door.post(&with(own), &call(2, "x__refuse", "")).await;
    assert!(refused.body.contains(r#""isError":true"#) && !refused.body.contains("resultType"));
    let mut client = door.connect().await;
    let host = format!("127.0.0.1:{}", door.port);
    client
        .send(&format!(
            "DELETE /mcp HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer good\r\nmcp-session-id: {own}\r\n\r\n"
        ))
        .await;
    assert_eq!(client.read().await.status, 200);
    assert_eq!(door.post(&with(own), ping).await.status, 404, "it ended");
}

#[tokio::test]
async fn a_question_reaches_a_legacy_client_and_its_answer_comes_back() {
    let door = open().await;
    let session = door.session().await;
    let mut client = door.connect().await;
    client.write(&[("mcp-session-id", &session)], &call(1, "x__ask", "")).await;
    assert_eq!(client.head().await.header("content-type"), Some("text/event-stream"));
    let question = client.event().await.unwrap();
    assert_eq!(question.get("method"), Some(&Value::from("elicitation/create")));
    let id = question.get("id").unwrap().as_str().unwrap();
    let answer = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":"{id}","result":{{"action":"decline"}}}}"#);
    let other = door.session().await;
    assert_eq!(door.post(&[("mcp-session-id", &other)], &answer(id)).await.status, 400);
    assert_eq!(door.post(&[("mcp-session-id", &session)], &answer("else")).await.status, 400);
    assert_eq!(door.post(&[("mcp-session-id", &session)], &answer(id)).await.status, 202);
    let last = client.event().await.unwrap();
    let action = last.get("result").unwrap().get("answer").unwrap().get("action");
    assert_eq!(action, Some(&Value::from("decline")));
    let modern = door.modern("tools/call", r#""name":"x__ask""#, Some("x__ask")).await;
    assert!(modern.body.contains(r#""answer":"refused""#), "no questions on a modern stream: {}", modern.body);
}

#[tokio::test]
async fn a_round_trip_continues_with_its_own_state_only() {
    let door = open().await;
    let got = door.modern("tools/call", r#""name":"x__input","arguments":{"a":1}"#, Some("x__input")).await;
    let state = json(&got.body).get("result").unwrap().get("requestState").unwrap().as_str().unwrap().to_owned();
    assert_ne!(state, "own");
    let retry = async |arguments: &str, state: &str| {
        let params =
            format!(r#""name":"x__input","arguments":{arguments},"inputResponses":{{}},"requestState":"{state}""#);
        door.modern("tools/call", &params, Some("x__input")).await
    };
    let done = retry(r#"{"a":1}"#, &state).await;
    assert!(done.body.contains(r#""state":"own""#), "{}", done.body);
    let mut texts = Vec::new();
    for (arguments, state) in
        [(r#"{"a":2}"#, state.clone()), (r#"{"a":1}"#, format!("{state}-TAMPERED")), (r#"{"a":1}"#, "own".to_owned())]
    {
        let got = retry(arguments, &state).await;
        assert_eq!((got.status, got.code()), (400, Some(-32602)));
        texts.push(got.body);
    }
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "one text for every failure: {texts:?}");
}

#[tokio::test]
async fn resources_are_routed_by_who_lists_them() {
    let door = open().await;
    let read = async |uri: &str| door.modern("resources/read", &format!(r#""uri":"{uri}""#), Some(uri)).await;
    let got = read("two://own").await;
    assert!(got.body.contains(r#""ttlMs":0,"cacheScope":"private""#), "{}", got.body);
    assert_eq!(read("one://t/7").await.code(), None);
    assert_eq!(read("both://own").await.code(), Some(-32602), "two have it");
    let missing = read("none://x").await;
    assert_eq!((missing.status, missing.code()), (200, Some(-32602)));
    let names: Vec<String> = door.house.passed.lock().unwrap().iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, ["two", "one"]);
    assert_eq!(door.house.codes(), ["ambiguous_resource", "resource_not_found"]);
    let prompts = door.modern("prompts/list", "", None).await;
    assert!(prompts.body.contains(r#"{"name":"one__hello"},{"name":"two__hello"}"#), "{}", prompts.body);
    let prompt = door.modern("prompts/get", r#""name":"two__hello","arguments":{"a":"b"}"#, Some("two__hello")).await;
    assert!(prompt.body.contains(r#""arguments":{"name":"hello","arguments":{"a":"b"}}"#), "{}", prompt.body);
}

#[tokio::test]
async fn a_subscription_acknowledges_tells_and_ends() {
    let door = open().await;
    let mut client = door.connect().await;
    let filter =
        r#"{"toolsListChanged":true,"promptsListChanged":true,"resourceSubscriptions":["one://own","none://x"]}"#;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":9,"method":"subscriptions/listen","params":{{"notifications":{filter},{MODERN}}}}}"#
    );
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "subscriptions/listen")];
    client.write(&headers, &body).await;
    assert_eq!(client.head().await.header("content-type"), Some("text/event-stream"));
    let first = client.event().await.unwrap();
    assert_eq!(first.get("method"), Some(&Value::from("notifications/subscriptions/acknowledged")));
    let honoured = first.get("params").unwrap().get("notifications").unwrap();
    assert_eq!(honoured.get("resourceSubscriptions"), Some(&Value::from(vec![Value::from("one://own")])));
    let changes = [
        Change::Resources,
        Change::Resource { uri: "two://own".into() },
        Change::Resource { uri: "one://own".into() },
        Change::Prompts,
    ];
    for change in changes {
        door.house.upstreams.send((upstream("one"), change)).unwrap();
    }
    for method in ["notifications/resources/updated", "notifications/prompts/list_changed"] {
        let event = client.event().await.unwrap();
        assert_eq!(event.get("method"), Some(&Value::from(method)), "only what was asked for");
        let meta = event.get("params").unwrap().get("_meta").unwrap();
        assert_eq!(meta.get("io.modelcontextprotocol/subscriptionId"), Some(&Value::from(9)));
    }
    door.stop.send_replace(true);
    let last = client.event().await.unwrap();
    assert_eq!(last.get("id"), Some(&Value::from(9)));
    assert_eq!(last.get("result").unwrap().get("resultType"), Some(&Value::from("complete")));
    assert!(client.event().await.is_none());
    drop(client);
    timeout(Duration::from_secs(5), door.serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_revoked_credential_ends_its_streams() {
    let door = open().await;
    let mut client = door.connect().await;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":9,"method":"subscriptions/listen","params":{{"notifications":{{"promptsListChanged":true}},{MODERN}}}}}"#
    );
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "subscriptions/listen")];
    client.write(&headers, &body).await;
    client.head().await;
    client.event().await.unwrap();
    door.house.revoked.store(true, Ordering::SeqCst);
    door.house.upstreams.send((upstream("one"), Change::Prompts)).unwrap();
    let last = client.event().await.unwrap();
    assert!(last.get("result").is_some(), "nothing is told after it: {last:?}");
}

#[tokio::test]
async fn a_session_has_one_stream_and_follows_what_it_subscribed_to() {
    let door = open().await;
    let session = door.session().await;
    let get = format!(
        "GET /mcp HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: Bearer good\r\naccept: text/event-stream\r\nlast-event-id: 7\r\nmcp-session-id: {session}\r\n\r\n",
        door.port
    );
    let mut client = door.connect().await;
    client.send(&get).await;
    assert_eq!(client.head().await.status, 200);
    let mut second = door.connect().await;
    second.send(&get).await;
    assert_eq!(second.read().await.status, 409);
    let subscribe = r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"one://own"}}"#;
    assert_eq!(door.post(&[("mcp-session-id", &session)], subscribe).await.code(), None);
    for uri in ["two://own", "one://own"] {
        door.house.upstreams.send((upstream("one"), Change::Resource { uri: uri.into() })).unwrap();
    }
    let event = client.event().await.unwrap();
    assert_eq!(event.get("params").unwrap().get("uri"), Some(&Value::from("one://own")));
}

#[tokio::test]
async fn stopping_lets_requests_under_way_finish() {
    let door = open().await;
    let session = door.session().await;
    let mut client = door.connect().await;
    client.write(&[("mcp-session-id", &session)], &call(1, "x__ask", "")).await;
    client.head().await;
    let question = client.event().await.unwrap();
    let mut other = door.connect().await;
    other.write(&[("mcp-session-id", &session)], r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#).await;
    assert_eq!(other.read().await.status, 200);
    let answer =
        format!(r#"{{"jsonrpc":"2.0","id":"{}","result":{{}}}}"#, question.get("id").unwrap().as_str().unwrap());
    assert_eq!(other.post(&[("mcp-session-id", &session)], &answer).await.status, 202);
    door.stop.send_replace(true);
    assert!(client.event().await.unwrap().get("result").is_some());
    timeout(Duration::from_secs(5), door.serving).await.unwrap().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", door.port)).await.is_err());
}

/// Runs a stdio channel on these lines and gives the lines that it wrote.
async fn channel(house: &Arc<Fake>, input: &str) -> Vec<Value> {
    let settings =
        stdio::Settings { max_line: 10_000, max_requests: 8, drain: Duration::from_millis(500), key: [9; 32] };
    let (mut ours, theirs) = tokio::io::duplex(1 << 20);
    let road = Arc::clone(house);
    let again = Arc::clone(house);
    let (_stop, stopped) = watch::channel(false);
    let who = move || again.judge(Some("good")).ok();
    let input = std::io::Cursor::new(input.as_bytes().to_vec());
    stdio::serve(road, settings, who, input, theirs, stopped).await.unwrap();
    let mut written = String::new();
    ours.read_to_string(&mut written).await.unwrap();
    written.lines().map(json).collect()
}

#[tokio::test]
async fn stdio_speaks_both_generations_on_one_channel() {
    let house = Fake::new();
    let modern = |id: i64| call(id, "x__echo", &format!(",{MODERN}"));
    let initialize = r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}"#;
    let lines = [
        modern(1),
        call(2, "x__echo", ""),
        r#"{"jsonrpc":"2.0","id":3,"method":"ping"}"#.to_owned(),
        initialize.to_owned(),
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_owned(),
        call(4, "x__echo", ""),
        modern(5),
        String::new(),
        "not JSON".to_owned(),
        "x".repeat(20_000),
        modern(6).replace("2026-07-28", "v999"),
        call(7, "x__echo", ""),
    ];
    let got = channel(&house, &lines.join("\n")).await;
    let of =
        |id: Value| got.iter().find(|line| line.get("id") == Some(&id)).unwrap_or_else(|| panic!("{id:?} in {got:?}"));
    let code = |line: &Value| line.get("error").and_then(|error| error.get("code")?.as_number()?.as_i64());
    assert_eq!(of(1.into()).get("result").unwrap().get("resultType"), Some(&Value::from("complete")));
    assert_eq!(code(of(2.into())), Some(-32600), "initialize comes first");
    assert_eq!(code(of(3.into())), None);
    assert_eq!(of("i".into()).get("result").unwrap().get("protocolVersion"), Some(&Value::from("2025-11-25")));
    assert!(of(4.into()).get("result").unwrap().get("resultType").is_none());
    assert!(of(5.into()).get("result").unwrap().get("resultType").is_some());
    assert_eq!(code(of(6.into())), Some(-32022));
    assert_eq!(code(of(7.into())), None, "the last line needs no end");
    assert_eq!(house.codes(), ["invalid_request", "parse_error", "too_large", "unsupported_version"]);
}

#[tokio::test]
async fn stdio_cancels_refuses_reused_ids_and_says_nothing_of_a_cancelled_request() {
    let house = Fake::new();
    let lines = [
        call(1, "x__slow", &format!(",{MODERN}")),
        call(1, "x__echo", &format!(",{MODERN}")),
        r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#.to_owned(),
        format!(
            r#"{{"jsonrpc":"2.0","id":2,"method":"subscriptions/listen","params":{{"notifications":{{}},{MODERN}}}}}"#
        ),
    ];
    let got = channel(&house, &lines.join("\n")).await;
    assert_eq!(house.cancelled.load(Ordering::SeqCst), 1);
    assert_eq!(house.codes(), ["id_in_use"]);
    let of_one: Vec<_> = got.iter().filter(|line| line.get("id") == Some(&Value::from(1))).collect();
    assert_eq!(of_one.len(), 1, "the refusal of the second, nothing of the first: {got:?}");
    assert!(of_one[0].get("error").is_some());
    let last = got.iter().find(|line| line.get("id") == Some(&Value::from(2))).unwrap();
    assert!(last.get("result").is_some(), "the end of the input ends a subscription in good order");
}
