//! A SPIFFE Workload API: gRPC over a unix socket, the two calls that tell of bundles.
//!
//! What is sent is encoded here by hand, after the public `workload.proto`: the client under test decodes it with its own
//! generated code.

use std::{convert::Infallible, path::Path, pin::Pin, sync::Arc, thread};

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::watch};

use crate::signer::{Signer, TokenKey};

/// What the API says: trust domains, each with authorities one after another in DER, and with a set of JWKs.
#[derive(Clone, Default)]
pub(crate) struct Told {
    domains: Vec<(String, Vec<u8>, String)>,
}

impl Told {
    pub(crate) fn with(mut self, domain: &str, authorities: &[&Signer], keys: &[&TokenKey]) -> Self {
        let certificates = authorities.iter().flat_map(|signer| signer.der.to_vec()).collect();
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        self.domains.push((format!("spiffe://{domain}"), certificates, json!({"keys": keys}).to_string()));
        self
    }
}

/// It runs until it is dropped.
pub(crate) struct WorkloadApi {
    told: watch::Sender<Told>,
    /// Streams end when this changes.
    ends: watch::Sender<u32>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    runs: Option<thread::JoinHandle<()>>,
}

impl WorkloadApi {
    pub(crate) fn start(socket: &Path, told: Told) -> Self {
        let _left_over = std::fs::remove_file(socket);
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (told, telling) = watch::channel(told);
        let (ends, ending) = watch::channel(0);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let runs = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = serve(listener, telling, ending) => {}
                }
            });
        });
        Self { told, ends, stop: Some(stop), runs: Some(runs) }
    }

    /// Says that from now on, on streams that are open too.
    pub(crate) fn tell(&self, told: Told) {
        self.told.send_replace(told);
    }

    /// Ends every stream that is open, without an error.
    pub(crate) fn end_streams(&self) {
        self.ends.send_modify(|times| *times += 1);
    }

    /// How many streams are open.
    pub(crate) fn streams(&self) -> usize {
        self.told.receiver_count().saturating_sub(1)
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ended = self.runs.take().map(thread::JoinHandle::join);
    }
}

async fn serve(listener: UnixListener, told: watch::Receiver<Told>, ends: watch::Receiver<u32>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let (told, ends) = (told.clone(), ends.clone());
        // a receiver of its own for each stream is how they are counted
        let told = Arc::new(std::sync::Mutex::new(Some(told)));
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let told = told.lock().unwrap().clone();
                let ends = ends.clone();
                async move { Ok::<_, Infallible>(answer(&request, told.unwrap(), ends)) }
            });
            let _ended =
                http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

type Body = Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

fn answer(
    request: &Request<Incoming>,
    told: watch::Receiver<Told>,
    ends: watch::Receiver<u32>,
) -> Response<StreamBody<Body>> {
    let mut ends = ends;
    ends.mark_unchanged();
    let respond = |body: Body| {
        Response::builder().header("content-type", "application/grpc").body(StreamBody::new(body)).unwrap()
    };
    let header = request.headers().get("workload.spiffe.io").and_then(|value| value.to_str().ok());
    let keys = match request.uri().path() {
        _ if header != Some("true") => None,
        "/SpiffeWorkloadAPI/FetchX509Bundles" => Some(false),
        "/SpiffeWorkloadAPI/FetchJWTBundles" => Some(true),
        _ => None,
    };
    let Some(keys) = keys else {
        // `INVALID_ARGUMENT`
        return respond(Box::pin(futures_util::stream::iter([Ok(trailers("3"))])));
    };
    let stream = futures_util::stream::unfold(Some((told, ends, true)), move |state| async move {
        let (mut told, mut ends, first) = state?;
        if !first {
            tokio::select! {
                changed = told.changed() => changed.ok()?,
                _ = ends.changed() => return Some((Ok(trailers("0")), None)),
            }
        }
        let message = message(&told.borrow_and_update().clone(), keys);
        Some((Ok(Frame::data(message)), Some((told, ends, false))))
    });
    respond(Box::pin(stream))
}

fn trailers(status: &'static str) -> Frame<Bytes> {
    let mut trailers = hyper::HeaderMap::new();
    trailers.insert("grpc-status", hyper::header::HeaderValue::from_static(status));
    Frame::trailers(trailers)
}

/// `X509BundlesResponse { map<string, bytes> bundles = 2; }` or `JWTBundlesResponse { map<string, bytes> bundles = 1; }`,
/// uncompressed, with its length before it.
fn message(told: &Told, keys: bool) -> Bytes {
    let mut message = Vec::new();
    for (domain, certificates, set) in &told.domains {
        let mut entry = Vec::new();
        field(&mut entry, 1, domain.as_bytes());
        field(&mut entry, 2, if keys { set.as_bytes() } else { certificates });
        field(&mut message, if keys { 1 } else { 2 }, &entry);
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&message);
    framed.into()
}

/// A field of bytes: its number and kind, its length as a varint, itself.
fn field(out: &mut Vec<u8>, number: u8, value: &[u8]) {
    out.push(number << 3 | 2);
    let mut length = value.len();
    while length > 127 {
        out.push(u8::try_from(length & 127).unwrap() | 128);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap());
    out.extend_from_slice(value);
}
