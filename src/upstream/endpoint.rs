//! HTTP/1.1 connections to one server, kept for reuse. Whoever uses a connection also drives it: a call
//! costs no task and no hop between tasks.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, StatusCode, Uri,
    body::Incoming,
    client::conn::http1::{Builder, Connection, SendRequest},
    header::{HeaderName, HeaderValue},
    http::response,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName},
};

use super::house::Sent;
use crate::config::upstream_auth::is_ours;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);

/// One server, and the connections to it that nobody uses right now.
pub(super) struct Endpoint {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    target: Uri,
    headers: HeaderMap,
    idle: Mutex<Vec<Idle>>,
    most_idle: usize,
}

struct Idle {
    line: Line,
    /// A response whose last bytes had not arrived.
    rest: Option<Incoming>,
    since: Instant,
}

type Driver = Pin<Box<Connection<TokioIo<Stream>, Full<Bytes>>>>;

/// One connection.
struct Line {
    send: SendRequest<Full<Bytes>>,
    /// None once the connection is closed.
    driver: Option<Driver>,
}

/// A response that is being read, with the connection that it comes on. Dropping it closes the connection.
pub(super) struct Exchange {
    pub(super) head: response::Parts,
    body: Incoming,
    line: Line,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum Failed {
    /// Not a byte of the request left.
    NotSent(String),
    /// The request may have arrived.
    Lost(String),
}

impl Endpoint {
    /// Reads an `http` or `https` URL, and the headers to send with every request.
    ///
    /// # Errors
    /// What is wrong with them, for an operator; never a header's value.
    pub(super) fn new<'a>(
        url: &str,
        headers: impl Iterator<Item = (&'a String, &'a String)>,
        most_idle: usize,
    ) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("the URL cannot be read: {error}"))?;
        let authority = uri.authority().ok_or("the URL has no host")?;
        if authority.as_str().contains('@') {
            return Err("the URL holds a user name; use `headers`".to_owned());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (tls, standard) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| "the URL's host is no name for TLS")?;
                (Some((connector()?, name)), 443)
            }
            _ => return Err("the URL begins with neither `http://` nor `https://`".to_owned()),
        };
        let target = uri.path_and_query().map_or("/", |path| path.as_str()).parse();
        let target = target.map_err(|_| "the URL's path cannot be read")?;
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let bad = || format!("the header `{name}` cannot be sent");
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
            if is_ours(key.as_str()) {
                return Err(format!("the header `{name}` is not for configuration"));
            }
            value.set_sensitive(true);
            all.append(key, value);
        }
        let authority = HeaderValue::from_str(authority.as_str()).map_err(|_| "the URL's host cannot be sent")?;
        all.insert("host", authority);
        all.insert("user-agent", HeaderValue::from_static(concat!("countersign/", env!("CARGO_PKG_VERSION"))));
        let port = uri.port_u16().unwrap_or(standard);
        Ok(Self { host, port, tls, target, headers: all, idle: Mutex::default(), most_idle })
    }

    /// A request with the headers that every request has.
    pub(super) fn request(&self, method: hyper::Method, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Sends a request, and waits for the head of its response. A request of which not a byte has left
    /// goes out on another connection; one that may have arrived is never sent again.
    pub(super) async fn send(&self, mut request: Request<Full<Bytes>>, sent: &Sent) -> Result<Exchange, Failed> {
        loop {
            let (mut line, fresh) = match self.reuse() {
                Some(line) => (line, false),
                None => (self.connect().await.map_err(Failed::NotSent)?, true),
            };
            if !sent.begin() {
                return Err(Failed::NotSent("it was withdrawn".to_owned()));
            }
            let response = line.send.try_send_request(request);
            match beside(&mut line.driver, pin!(response)).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    return Ok(Exchange { head, body, line });
                }
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    Some(_) => return Err(Failed::NotSent(failed.into_error().to_string())),
                    None => return Err(Failed::Lost(failed.into_error().to_string())),
                },
            }
        }
    }

    fn reuse(&self) -> Option<Line> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unfinished = Vec::new();
        let mut found = None;
        while let Some(mut next) = idle.pop() {
            match next.ready() {
                Poll::Ready(true) => {
                    found = Some(next.line);
                    break;
                }
                Poll::Ready(false) => {}
                Poll::Pending => unfinished.push(next),
            }
        }
        idle.append(&mut unfinished);
        found
    }

    fn keep(&self, line: Line, rest: Option<Incoming>) {
        if line.driver.is_some() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < self.most_idle {
                idle.push(Idle { line, rest, since: Instant::now() });
            }
        }
    }

    /// Closes the connections that nobody has used for long.
    pub(super) fn sweep(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain_mut(|idle| idle.ready() != Poll::Ready(false));
    }

    async fn connect(&self) -> Result<Line, String> {
        let connected = timeout(CONNECT, self.handshake()).await;
        connected.unwrap_or_else(|_| Err("connecting took too long".to_owned()))
    }

    async fn handshake(&self) -> Result<Line, String> {
        let at = format!("{}:{}", self.host, self.port);
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(|error| format!("cannot connect to `{at}`: {error}"))?;
        let _only_slower_without = tcp.set_nodelay(true);
        let stream = match &self.tls {
            None => Stream::Plain(tcp),
            Some((connector, name)) => {
                let tls = connector.connect(name.clone(), tcp).await;
                Stream::Tls(Box::new(tls.map_err(|error| format!("no TLS with `{at}`: {error}"))?))
            }
        };
        let mut builder = Builder::new();
        builder.max_buf_size(256 << 10).max_headers(100);
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (send, driver) = made.map_err(|error| format!("no HTTP with `{at}`: {error}"))?;
        Ok(Line { send, driver: Some(Box::pin(driver)) })
    }
}

impl Idle {
    /// Whether it can be used: `Pending` while its last response has not ended, `false` when it is of no use any more.
    fn ready(&mut self) -> Poll<bool> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        if self.since.elapsed() > IDLE {
            return Poll::Ready(false);
        }
        drive(&mut self.line.driver, &mut context);
        while let Some(rest) = &mut self.rest {
            match pin!(rest.frame()).poll(&mut context) {
                Poll::Ready(None) => self.rest = None,
                Poll::Ready(Some(Ok(_))) => drive(&mut self.line.driver, &mut context),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Pending if self.line.driver.is_none() => return Poll::Ready(false),
                Poll::Pending => return Poll::Pending,
            }
        }
        drive(&mut self.line.driver, &mut context);
        Poll::Ready(self.line.driver.is_some() && self.line.send.is_ready())
    }
}

impl Exchange {
    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    /// The media type, in lower case, without parameters.
    pub(super) fn media_type(&self) -> String {
        let value = self.head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            match beside(&mut self.line.driver, self.body.frame()).await? {
                Ok(frame) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    Err(_trailers) => {}
                },
                Err(error) => return Some(Err(error.to_string())),
            }
        }
    }

    /// The whole body, of at most `most` bytes. `Ok(None)`: it is larger.
    pub(super) async fn whole(&mut self, most: usize) -> Result<Option<Bytes>, String> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(Some(Bytes::new())) };
        if first.len() > most {
            return Ok(None);
        }
        let Some(second) = self.chunk().await.transpose()? else { return Ok(Some(first)) };
        let mut all = Vec::with_capacity((first.len() + second.len()) * 2);
        all.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(chunk) = next {
            if all.len() + chunk.len() > most {
                return Ok(None);
            }
            all.extend_from_slice(&chunk);
            next = self.chunk().await.transpose()?;
        }
        Ok(Some(all.into()))
    }

    /// Gives the connection back; the body's end may still be on its way.
    pub(super) fn done(self, endpoint: &Endpoint) {
        endpoint.keep(self.line, Some(self.body));
    }
}

fn drive(driver: &mut Option<Driver>, context: &mut Context<'_>) {
    if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(context).is_ready()) {
        *driver = None;
    }
}

/// Polls a future together with the connection that it depends on.
async fn beside<F: Future + Unpin>(driver: &mut Option<Driver>, mut future: F) -> F::Output {
    poll_fn(|context| {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(context) {
            return Poll::Ready(output);
        }
        drive(driver, context);
        Pin::new(&mut future).poll(context)
    })
    .await
}

fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let (_added, _ignored) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this machine has no root certificates".to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A connection, with or without TLS.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
