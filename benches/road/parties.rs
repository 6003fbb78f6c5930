//! The others on the road, each a process of its own: an upstream that does nothing, over HTTP or stdio, and a proxy
//! that looks at nothing.

use std::{
    convert::Infallible,
    fmt::Write as _,
    io::{BufRead, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, Uri, body::Incoming, client::conn::http1::SendRequest, header, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// A party that runs until this is dropped.
pub(crate) struct Party {
    child: Child,
    pub(crate) pid: u32,
    pub(crate) url: String,
}

impl Drop for Party {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Starts this program again as `party` and waits for its address.
pub(crate) fn start(party: &str, arguments: &[&str]) -> Party {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(format!("--party={party}")).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut url = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
    Party { pid: child.id(), url: url.trim().to_owned(), child }
}

pub(crate) fn run(party: &str, arguments: &[String]) {
    match (party, arguments) {
        ("upstream", [tools]) => serve(Role::Upstream(Arc::from(listing(tools.parse().unwrap()).as_str()))),
        ("blind", [url]) => serve(Role::Blind(Arc::new(Pool { uri: url.parse().unwrap(), idle: Mutex::default() }))),
        ("stdio", [tools]) => stdio(&listing(tools.parse().unwrap())),
        _ => panic!("no party is called `{party}` with these arguments"),
    }
}

/// The `tools` of an upstream that has `count` of them: `echo`, `write` (the same, but it changes something), and more.
fn listing(count: usize) -> String {
    let schema = r#"{"type":"object","properties":{"text":{"type":"string","maxLength":1048576}},"required":["text"],"additionalProperties":false}"#;
    let mut text = String::from("[");
    for tool in 0..count {
        let (name, read) = match tool {
            0 => ("echo".to_owned(), true),
            1 => ("write".to_owned(), false),
            _ => (format!("tool_{tool}"), true),
        };
        let comma = if tool == 0 { "" } else { "," };
        write!(
            text,
            r#"{comma}{{"name":"{name}","description":"{name} of the bench","inputSchema":{schema},"annotations":{{"readOnlyHint":{read},"destructiveHint":false}}}}"#
        )
        .unwrap();
    }
    text.push(']');
    text
}

/// Finds the raw text of a member's value; the requests here are our own and well formed.
fn value<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let rest = &body[body.find(name)? + name.len()..];
    let quoted = rest.strip_prefix('"');
    match quoted {
        Some(inner) => {
            let mut escaped = false;
            let end = inner.bytes().position(|byte| {
                let ends = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                ends
            })?;
            Some(&rest[..end + 2])
        }
        None => Some(&rest[..rest.find([',', '}'])?]),
    }
}

fn answer(body: &str, tools: &str) -> Option<String> {
    let id = value(body, r#""id":"#)?;
    let method = value(body, r#""method":"#)?;
    let result = match method.trim_matches('"') {
        "tools/call" => {
            let text = value(body, r#""text":"#).unwrap_or("\"\"");
            format!(r#"{{"resultType":"complete","content":[{{"type":"text","text":{text}}}],"isError":false}}"#)
        }
        "tools/list" => {
            format!(r#"{{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":{tools}}}"#)
        }
        "server/discover" => r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"nothing","version":"1"},"ttlMs":0,"cacheScope":"private"}"#.to_owned(),
        "initialize" => r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"nothing","version":"1"}}"#.to_owned(),
        "ping" => "{}".to_owned(),
        _ => {
            return Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"method not found"}}}}"#));
        }
    };
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

fn stdio(tools: &str) {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        if let Some(answer) = answer(&line, tools) {
            out.write_all(answer.as_bytes()).unwrap();
            out.write_all(b"\n").unwrap();
            out.flush().unwrap();
        }
    }
}

#[derive(Clone)]
enum Role {
    Upstream(Arc<str>),
    Blind(Arc<Pool>),
}

/// Connections to one upstream, kept open.
struct Pool {
    uri: Uri,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Pool {
    async fn connection(&self) -> SendRequest<Full<Bytes>> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut idle) = idle else { break };
            if idle.ready().await.is_ok() {
                return idle;
            }
        }
        let stream = TcpStream::connect((self.uri.host().unwrap(), self.uri.port_u16().unwrap())).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move {
            let _closed = connection.await;
        });
        sender
    }

    async fn pass(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut onward = Request::post(self.uri.path()).header(header::HOST, self.uri.authority().unwrap().as_str());
        for name in ["content-type", "accept", "mcp-protocol-version", "mcp-method", "mcp-name"] {
            if let Some(value) = head.headers.get(name) {
                onward = onward.header(name, value);
            }
        }
        let mut connection = self.connection().await;
        let answer = connection.send_request(onward.body(Full::new(body)).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        json(head.status.as_u16(), body)
    }
}

fn json(status: u16, body: Bytes) -> Response<Full<Bytes>> {
    Response::builder().status(status).header("content-type", "application/json").body(Full::new(body)).unwrap()
}

fn serve(role: Role) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("http://{}/mcp", listener.local_addr().unwrap());
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            stream.set_nodelay(true).unwrap();
            let role = role.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let role = role.clone();
                    async move {
                        Ok::<_, Infallible>(match role {
                            Role::Blind(pool) => pool.pass(request).await,
                            Role::Upstream(tools) => {
                                let body = request.into_body().collect().await.unwrap().to_bytes();
                                let body = std::str::from_utf8(&body).unwrap();
                                match answer(body, &tools) {
                                    Some(answer) => json(200, answer.into()),
                                    None => json(202, Bytes::new()),
                                }
                            }
                        })
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                let _closed = connection.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
}
