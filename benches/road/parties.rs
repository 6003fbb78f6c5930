//! The others on the road, each a process of its own: an upstream that does nothing, over HTTP or stdio, a proxy that
//! looks at nothing, and one that looks at nothing either and puts a record on the disk before and after each call.

use std::{
    convert::Infallible,
    fmt::Write as _,
    fs::File,
    io::{BufRead, BufReader, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, Uri, body::Incoming, client::conn::http1::SendRequest, header, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

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
        ("blind", [url]) => serve(Role::Blind(Pool::to(url, None))),
        ("synced", [url, folder]) => serve(Role::Blind(Pool::to(url, Some(Disk::in_folder(Path::new(folder)))))),
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
    disk: Option<Disk>,
}

/// Records that are durable before their writer goes on: those that wait share one write and one `fdatasync`.
struct Disk(mpsc::Sender<(usize, oneshot::Sender<()>)>);

impl Disk {
    /// What is written for one entry: as much as the ledger's are long.
    const RECORD: usize = 640;
    const ROOM: u64 = 2 << 20;

    fn in_folder(folder: &Path) -> Self {
        let file = File::options().create_new(true).write(true).open(folder.join("synced")).unwrap();
        file.write_all_at(&vec![0; Self::ROOM as usize], 0).unwrap();
        file.sync_all().unwrap();
        let (records, waiting) = mpsc::channel::<(usize, oneshot::Sender<()>)>();
        std::thread::spawn(move || {
            let mut at = 0;
            while let Ok(first) = waiting.recv() {
                let group: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).collect();
                let text = vec![b'x'; group.iter().map(|(length, _)| length).sum()];
                if at + text.len() as u64 > Self::ROOM {
                    at = 0;
                }
                file.write_all_at(&text, at).unwrap();
                file.sync_data().unwrap();
                at += text.len() as u64;
                for (_, waiter) in group {
                    let _gone = waiter.send(());
                }
            }
        });
        Self(records)
    }

    async fn record(&self) {
        let (waiter, durable) = oneshot::channel();
        self.0.send((Self::RECORD, waiter)).unwrap();
        durable.await.unwrap();
    }
}

impl Pool {
    fn to(url: &str, disk: Option<Disk>) -> Arc<Self> {
        Arc::new(Self { uri: url.parse().unwrap(), idle: Mutex::default(), disk })
    }

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
        if let Some(disk) = &self.disk {
            disk.record().await;
        }
        let mut connection = self.connection().await;
        let answer = connection.send_request(onward.body(Full::new(body)).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        if let Some(disk) = &self.disk {
            disk.record().await;
        }
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
