//! A closed loop of calls: each connection sends the next when the last is answered.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Uri, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What a 2026-07-28 client sends with each request.
pub(crate) const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"road","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#;

/// Somebody to call.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) uri: Uri,
    pub(crate) tool: String,
    pub(crate) pids: Vec<u32>,
    pub(crate) authorization: Option<String>,
}

impl Target {
    pub(crate) fn plain(name: &str, url: &str, tool: &str, pid: u32) -> Self {
        Self {
            name: name.to_owned(),
            uri: url.parse().unwrap(),
            tool: tool.to_owned(),
            pids: vec![pid],
            authorization: None,
        }
    }

    pub(crate) fn resident_mb(&self) -> f64 {
        self.pids.iter().copied().map(resident_mb).sum()
    }

    /// Processor time of all threads so far, nanoseconds.
    fn cpu_ns(&self) -> u64 {
        self.pids.iter().copied().map(cpu_ns).sum()
    }
}

/// Resident memory of a process, MB.
pub(crate) fn resident_mb(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// Threads that ended are counted by `stat` only, in ticks; those that live by `schedstat`, exactly. Servers here keep
/// their threads, so the exact figure is used and the ticks are the fallback.
pub(crate) fn cpu_ns(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let exact: u64 = threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    if exact > 0 {
        return exact;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    (ticks(11) + ticks(12)) * 10_000_000
}

/// What was measured of one target.
#[derive(Default)]
pub(crate) struct Figures {
    latencies_us: Vec<u32>,
    seconds: f64,
    cpu_ns: u64,
    pub(crate) errors: u64,
}

impl Figures {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies_us.len() as f64 / self.seconds
    }

    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / 1_000.0 / self.latencies_us.len().max(1) as f64
    }

    /// Latencies are sorted once measuring is over.
    pub(crate) fn quantile(&self, part: f64) -> u32 {
        let last = self.latencies_us.len().saturating_sub(1);
        self.latencies_us.get((last as f64 * part) as usize).copied().unwrap_or(0)
    }
}

#[derive(Default)]
struct Shared {
    stop: Cell<bool>,
    latencies_us: RefCell<Vec<u32>>,
    errors: Cell<u64>,
}

/// Calls every target for a while, in turn, as many times as there are rounds.
pub(crate) async fn interleaved(
    targets: &[Target],
    connections: usize,
    (rounds, during): (usize, Duration),
) -> Vec<Figures> {
    let mut measured: Vec<Figures> = targets.iter().map(|_| Figures::default()).collect();
    for _ in 0..rounds {
        for (target, figures) in targets.iter().zip(&mut measured) {
            let shared = Rc::new(Shared::default());
            let workers: Vec<_> = (0..connections)
                .map(|worker| tokio::task::spawn_local(calls(target.clone(), worker, Rc::clone(&shared))))
                .collect();
            tokio::time::sleep(during.min(Duration::from_millis(400))).await;
            shared.latencies_us.borrow_mut().clear();
            shared.errors.set(0);
            let (cpu, began) = (target.cpu_ns(), Instant::now());
            tokio::time::sleep(during).await;
            figures.seconds += began.elapsed().as_secs_f64();
            figures.cpu_ns += target.cpu_ns().saturating_sub(cpu);
            figures.latencies_us.extend_from_slice(&shared.latencies_us.borrow());
            figures.errors += shared.errors.get();
            shared.stop.set(true);
            for worker in workers {
                worker.await.unwrap();
            }
        }
    }
    for figures in &mut measured {
        figures.latencies_us.sort_unstable();
    }
    measured
}

async fn connect(target: &Target) -> SendRequest<Full<Bytes>> {
    let (host, port) = (target.uri.host().unwrap(), target.uri.port_u16().unwrap_or(80));
    let stream = TcpStream::connect((host, port)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn_local(async move {
        let _closed = connection.await;
    });
    sender
}

async fn calls(target: Target, worker: usize, shared: Rc<Shared>) {
    let mut sender = connect(&target).await;
    let mut next = 0_u64;
    while !shared.stop.get() {
        next += 1;
        let text = format!("w{worker:04}n{next:09}");
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{next},"method":"tools/call","params":{{"name":"{}","arguments":{{"text":"{text}"}},{META}}}}}"#,
            target.tool
        );
        let mut request = Request::post(target.uri.path())
            .header("host", target.uri.authority().unwrap().as_str())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
            .header("mcp-method", "tools/call")
            .header("mcp-name", &target.tool);
        if let Some(authorization) = &target.authorization {
            request = request.header("authorization", authorization);
        }
        let began = Instant::now();
        match exchange(&mut sender, request.body(Full::from(body)).unwrap()).await {
            Some((200, answer)) if memchr::memmem::find(&answer, text.as_bytes()).is_some() => {
                shared.latencies_us.borrow_mut().push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
            }
            other => {
                shared.errors.set(shared.errors.get() + 1);
                if shared.errors.get() == 1 {
                    let told = other.map(|(status, body)| (status, String::from_utf8_lossy(&body).into_owned()));
                    eprintln!("{}: {told:?}", target.name);
                }
                if sender.is_closed() {
                    sender = connect(&target).await;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> Option<(u16, Bytes)> {
    sender.ready().await.ok()?;
    let (head, body) = sender.send_request(request).await.ok()?.into_parts();
    Some((head.status.as_u16(), body.collect().await.ok()?.to_bytes()))
}
