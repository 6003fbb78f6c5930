//! Streamable HTTP.
//!
//! The order of checks is fixed: path, `Host`, `Origin`, HTTP method, credential, media types, body, message. A
//! caller that nobody knows is counted and told no more than 401; every refusal of a known one is recorded.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Either, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body as _, Frame, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, TRANSFER_ENCODING},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    challenge::{self, Challenge},
    desk::{Answer, Desk, Peer, Speaks, Step},
    feed::{Feed, told},
    headers::{self, Allowed},
    linger::Lingering,
    message::{self, Message, Misread, RequestId},
    oauth::{self, Place},
    problem::Problem,
    render,
    road::Road,
};
use crate::{
    call::{Door, Fault, Identified},
    config,
    identity::{Presented, Unauthenticated},
    json::{self, Limits, Value},
    listen::{self, Arrival, ClientCertificate, Listener},
};

/// How the door is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `url`: where agents reach the server, when it is not `http(s)://<listen>/mcp`.
    pub url: Option<String>,
    /// Values of `Host` let in besides the listen address and localhost.
    pub allowed_hosts: Vec<String>,
    /// Values of `Origin` let in besides the server's own.
    pub allowed_origins: Vec<String>,
    /// Bytes of one request's body.
    pub max_body: usize,
    /// Connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// How long requests under way have to finish once the server stops.
    pub drain: Duration,
    /// How long a request's head may take to arrive, and a connection may be idle.
    pub head_timeout: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How often a comment is sent on a stream that has nothing to say.
    pub keep_alive: Duration,
    /// What session ids and states are sealed with: keep it over restarts, and to yourself.
    pub key: [u8; 32],
}

impl Settings {
    /// The settings of a configuration.
    pub fn new(server: &config::Server, key: [u8; 32]) -> Self {
        Self {
            url: server.url.clone(),
            allowed_hosts: server.allowed_hosts.clone(),
            allowed_origins: server.allowed_origins.clone(),
            max_body: server.max_body,
            max_connections: server.max_connections,
            drain: server.drain,
            head_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(20),
            keep_alive: Duration::from_secs(15),
            key,
        }
    }
}

/// Header fields of one request, and their bytes; more is answered 431.
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 16 << 10;

/// Bytes of a refused request's body that are read away, so that its connection can go on.
const READ_AWAY: usize = 64 << 10;

/// The endpoint.
const ENDPOINT: &str = "/mcp";

/// Where the metadata of the protected resource lies (RFC 9728, section 3.1).
const METADATA: &str = "/.well-known/oauth-protected-resource";

/// Serves until `stop` becomes true, then lets requests under way finish for as long as [`Settings::drain`].
///
/// # Errors
/// [`Fault`] when it cannot begin.
pub async fn serve<R: Road>(
    listener: impl Into<Listener>,
    road: R,
    settings: Settings,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let listener = listener.into();
    let listen = listener.local_addr().map_err(|problem| Fault(problem.to_string()))?;
    let (url, hosts, origins) = (settings.url.as_deref(), &settings.allowed_hosts, &settings.allowed_origins);
    let allowed = Allowed::new(listen, listener.scheme(), url, hosts, origins);
    let audience = road.audience();
    let challenge = Challenge::new(road.metadata_url(), road.needed_scopes());
    let desk = Arc::new(Desk::new(road, &settings.key, stop.clone())?);
    let places = Arc::new(Semaphore::new(settings.max_connections.max(1)));
    let drain = settings.drain;
    let house = Arc::new(House { desk, allowed, challenge, audience, settings });
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = told(&mut stop) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        let (arrival, place) = match accepted {
            Ok(accepted) => accepted,
            Err(problem) => {
                // out of file descriptors, or the like: wait for some to come back
                tracing::warn!(%problem, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (house, stop) = (Arc::clone(&house), stop.clone());
        connections.spawn(async move {
            connection(arrival, house, stop).await;
            drop(place);
        });
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if timeout(drain, finished).await.is_err() {
        tracing::warn!("requests under way did not finish in time");
        connections.shutdown().await;
    }
    Ok(())
}

async fn accept(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> std::io::Result<(Arrival, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(std::io::Error::other)?;
    Ok((listener.accept().await?, place))
}

async fn connection<R: Road>(arrival: Arrival, house: Arc<House<R>>, mut stop: watch::Receiver<bool>) {
    let opened = tokio::select! {
        opened = arrival.meet() => opened,
        () = told(&mut stop) => return,
    };
    let (stream, certificate) = match opened {
        Ok(opened) => opened,
        Err(problem) => {
            if listen::is_distrust(&problem) {
                house.desk.road.turned_away(Unauthenticated::Certificate.code());
            }
            tracing::debug!(%problem, "a handshake failed");
            return;
        }
    };
    let head_timeout = house.settings.head_timeout;
    let service = service_fn(move |mut request: Request<Incoming>| {
        let house = Arc::clone(&house);
        if let Some(certificate) = &certificate {
            request.extensions_mut().insert(Arc::clone(certificate));
        }
        async move { Ok::<_, Infallible>(house.answer(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_headers(MAX_HEADERS)
        .max_header_size(MAX_HEAD)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(Lingering::new(stream)), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = told(&mut stop) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(problem) = ended {
        tracing::debug!(%problem, "a connection ended early");
    }
}

type Out = Response<Either<Full<Bytes>, UnsyncBoxBody<Bytes, Infallible>>>;

struct House<R> {
    desk: Arc<Desk<R>>,
    allowed: Allowed,
    challenge: Challenge,
    audience: String,
    settings: Settings,
}

/// A refusal, with what is known of the message that is refused.
struct Stopped {
    problem: Problem,
    id: Option<RequestId>,
    method: Option<String>,
    modern: bool,
}

impl From<Problem> for Stopped {
    fn from(problem: Problem) -> Self {
        Self { problem, id: None, method: None, modern: true }
    }
}

impl<R: Road> House<R> {
    async fn answer(&self, request: Request<Incoming>) -> Out {
        let (head, body) = request.into_parts();
        let mut unread = Some(body);
        let mut answer = self.admit(&head, &mut unread).await;
        let left = match unread {
            Some(body) => !body.is_end_stream() && !self.read_away(body).await,
            None => false,
        };
        // what is left of a body would be taken for the next request; and a coded length may have come with a
        // `Content-Length` that hyper dropped, on which a proxy in front could disagree (RFC 9112, section 6.1)
        if left || head.headers.contains_key(TRANSFER_ENCODING) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn read_away(&self, body: Incoming) -> bool {
        let all = Limited::new(body, READ_AWAY).collect();
        matches!(timeout(self.settings.body_timeout.min(Duration::from_secs(2)), all).await, Ok(Ok(_)))
    }

    /// Everything up to the body. What takes the body takes it out of `body`.
    async fn admit(&self, head: &Parts, body: &mut Option<Incoming>) -> Out {
        if let Err(problem) = headers::framing(&head.headers) {
            let mut answer = refusal(&problem.into());
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            return answer;
        }
        let path = head.uri.path();
        let metadata = path == METADATA || path.strip_prefix(METADATA) == Some(ENDPOINT);
        let oauth = Place::of(path);
        let known = if path == ENDPOINT || metadata || oauth.is_some() { Ok(()) } else { Err(Problem::NotFound) };
        let checked = known
            .and_then(|()| self.allowed.host(&head.uri, &head.headers))
            .and_then(|()| self.allowed.origin(&head.headers));
        if let Err(problem) = checked {
            self.desk.road.turned_away(problem.code());
            return refusal(&problem.into());
        }
        if let Some(place) = oauth {
            return self.oauth(place, head, body).await;
        }
        match &head.method {
            &Method::GET if metadata => return json_answer(StatusCode::OK, self.desk.road.metadata().into()),
            _ if metadata => return not_allowed("GET"),
            &Method::POST | &Method::GET | &Method::DELETE => {}
            _ => return not_allowed("POST, GET, DELETE"),
        }
        let sent = match headers::credential(&head.uri, &head.headers) {
            Ok(sent) => sent,
            Err(()) => return self.unauthenticated(&Unauthenticated::Invalid),
        };
        let method = head.method.as_str();
        let shown = Presented {
            token: sent.token,
            scheme: sent.scheme,
            proof: sent.proof,
            method,
            url: &self.audience,
            certificate: head.extensions.get::<Arc<ClientCertificate>>().map(Arc::as_ref),
        };
        let who = match self.desk.road.authenticate(&shown).await {
            Ok(who) => who,
            Err(why) => return self.unauthenticated(&why),
        };
        let token: Arc<str> = sent.token.unwrap_or_default().into();
        let answered = match head.method {
            Method::GET => self.stream(head, &who, token),
            Method::DELETE => self.end(head, &who),
            _ => self.post(head, body, &who, token).await,
        };
        match answered {
            Ok(answer) => answer,
            Err(stopped) => {
                self.desk.road.refuse_message(&who, stopped.problem.code(), stopped.method.as_deref()).await;
                refusal(&stopped)
            }
        }
    }

    /// The token endpoint, and what is published beside it.
    async fn oauth(&self, place: Place, head: &Parts, body: &mut Option<Incoming>) -> Out {
        let road = &self.desk.road;
        if head.method != place.method() {
            return not_allowed(if place == Place::Token { "POST" } else { "GET" });
        }
        if place != Place::Token {
            return match oauth::published(road, place) {
                Some(text) => json_answer(StatusCode::OK, text.into()),
                None => refusal(&Problem::NotFound.into()),
            };
        }
        // as if it were not there, where nobody gets a token
        if road.authority().is_none() {
            return refusal(&Problem::NotFound.into());
        }
        let body = match self.body_up_to(body, oauth::BODY).await {
            Ok(body) => body,
            Err(problem) => {
                road.turned_away(problem.code());
                return refusal(&problem.into());
            }
        };
        let certificate = head.extensions.get::<Arc<ClientCertificate>>().map(Arc::as_ref);
        let said = oauth::token(road, head, &body, certificate).await;
        let mut answer = json_answer(said.status, said.body);
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        challenge::put(&mut answer, said.challenge);
        answer
    }

    fn unauthenticated(&self, why: &Unauthenticated) -> Out {
        self.desk.road.turned_away(why.code());
        let (status, challenge, body) = self.challenge.unauthenticated(why);
        let mut answer = json_answer(status, body);
        challenge::put(&mut answer, challenge.as_deref());
        answer
    }

    async fn post(
        &self,
        head: &Parts,
        body: &mut Option<Incoming>,
        who: &Identified,
        token: Arc<str>,
    ) -> Result<Out, Stopped> {
        headers::json_body(&head.headers)?;
        headers::acceptable(&head.headers, &["application/json", "text/event-stream"])?;
        let text = self.body(body).await?;
        let limits = Limits { bytes: self.settings.max_body, ..Limits::REQUEST };
        let document = json::parse(&text, &limits).map_err(|error| Problem::Parse(error.kind))?;
        let version = headers::only(&head.headers, "mcp-protocol-version")?;
        let message = message::read(document).map_err(|misread| {
            let Misread { id, method, problem } = misread;
            Stopped { problem, id, method, modern: super::VERSIONS.first().copied() == version }
        })?;
        match message {
            Message::Request(request) => {
                let (id, method) = (request.id.clone(), request.method.clone());
                let stopped = |modern| {
                    let (id, method) = (id.clone(), method.clone());
                    move |problem| Stopped { problem, id: Some(id), method: Some(method), modern }
                };
                let meta = request.params.get("_meta").and_then(Value::as_object);
                let modern = headers::modern(version, meta, true).map_err(stopped(true))?;
                if modern {
                    headers::mirrored(&head.headers, &request.method, &request.params).map_err(stopped(true))?;
                } else if request.method == "initialize" {
                    return self.initialize(who, &request).map_err(stopped(false));
                }
                let peer = self.peer(head, who, token, modern).map_err(stopped(modern))?;
                let given = modern.then_some(&head.headers);
                let answer = self.desk.take(&peer, request, &text, given).await.map_err(stopped(modern))?;
                Ok(match answer {
                    Answer::Whole(response) => json_answer(StatusCode::OK, response),
                    Answer::Running(flight) => self.speak(flight).await,
                    Answer::Waiting(task) => self.speak(task).await,
                    Answer::Open(feed) => event_stream(feed_events(feed, self.settings.keep_alive)),
                })
            }
            Message::Notification(notification) => {
                let meta = notification.params.get("_meta").and_then(Value::as_object);
                if !headers::modern(version, meta, false)? {
                    let peer = self.peer(head, who, token, false)?;
                    self.desk.told(&peer, &notification);
                }
                Ok(empty(StatusCode::ACCEPTED))
            }
            Message::Response(response) => {
                let modern = headers::modern(version, None, false)?;
                let peer = self.peer(head, who, token, modern)?;
                self.desk.answered(&peer, response)?;
                Ok(empty(StatusCode::ACCEPTED))
            }
        }
    }

    /// Reads the body, without a copy when it arrives in one piece.
    async fn body(&self, body: &mut Option<Incoming>) -> Result<Bytes, Problem> {
        self.body_up_to(body, self.settings.max_body).await
    }

    async fn body_up_to(&self, body: &mut Option<Incoming>, most: usize) -> Result<Bytes, Problem> {
        let declared = body.as_ref().map_or(0, |body| body.size_hint().lower());
        if declared > most as u64 {
            return Err(Problem::TooLarge);
        }
        let Some(reading) = body.as_mut() else { return Err(Problem::BodyIncomplete) };
        let whole = async {
            let mut first = Bytes::new();
            let mut rest = BytesMut::new();
            while let Some(frame) = reading.frame().await {
                let Ok(data) = frame.map_err(|_| Problem::BodyIncomplete)?.into_data() else { continue };
                if first.len() + rest.len() + data.len() > most {
                    return Err(Problem::TooLarge);
                }
                match (first.is_empty(), rest.is_empty()) {
                    (true, true) => first = data,
                    (_, true) => {
                        rest.extend_from_slice(&std::mem::take(&mut first));
                        rest.extend_from_slice(&data);
                    }
                    _ => rest.extend_from_slice(&data),
                }
            }
            Ok(if rest.is_empty() { first } else { rest.freeze() })
        };
        let text = timeout(self.settings.body_timeout, whole).await.map_err(|_| Problem::BodyTimeout)??;
        *body = None;
        Ok(text)
    }

    fn initialize(&self, who: &Identified, request: &message::Request) -> Result<Out, Problem> {
        let (session, result) = self.desk.initialize(who, &request.params)?;
        let id = self.desk.seal_session(&session)?;
        let mut answer = json_answer(StatusCode::OK, render::result_of(&request.id, result));
        let id = HeaderValue::from_str(&id).map_err(|_| Problem::Fault)?;
        answer.headers_mut().insert(HeaderName::from_static("mcp-session-id"), id);
        Ok(answer)
    }

    fn peer(&self, head: &Parts, who: &Identified, token: Arc<str>, modern: bool) -> Result<Peer, Problem> {
        let session = if modern {
            None
        } else {
            let id = headers::only(&head.headers, "mcp-session-id")?.ok_or(Problem::SessionMissing)?;
            Some(Arc::new(self.desk.open_session(id, who)?))
        };
        let (desk, principal) = (Arc::clone(&self.desk), Arc::clone(who.principal()));
        // who showed a certificate goes when nobody vouches for it any more
        let certificate = head.extensions.get::<Arc<ClientCertificate>>().cloned();
        Ok(Peer {
            who: who.clone(),
            again: Arc::new(move || {
                if certificate.as_ref().is_some_and(|shown| shown.standing(desk.road.now()).is_err()) {
                    return Box::pin(std::future::ready(None));
                }
                let (desk, principal, token) = (Arc::clone(&desk), Arc::clone(&principal), Arc::clone(&token));
                Box::pin(async move { desk.road.again(&principal, &token).await.ok() })
            }),
            door: Door::Http,
            scope: session.as_ref().map(|session| Arc::clone(&session.nonce)),
            session,
        })
    }

    /// Waits for what comes first: the reply makes a JSON answer, a notice or a long wait begins an event stream.
    async fn speak(&self, mut speaker: Box<impl Speaks>) -> Out {
        let first = match speaker.next().await {
            Step::Last(status, response) => {
                let lacks = speaker.lacks();
                if lacks.is_empty() {
                    return json_answer(status, response);
                }
                let mut answer = json_answer(StatusCode::FORBIDDEN, response);
                challenge::put(&mut answer, Some(&self.challenge.insufficient(lacks)));
                return answer;
            }
            Step::Message(first) => event(&first),
            Step::Waits => Frame::data(Bytes::from_static(COMMENT)),
        };
        event_stream(spoken(speaker, first, self.settings.keep_alive))
    }

    /// `GET`: the stream of a legacy session.
    fn stream(&self, head: &Parts, who: &Identified, token: Arc<str>) -> Result<Out, Stopped> {
        let session = self.legacy(head)?;
        if !session {
            return Ok(not_allowed("POST"));
        }
        headers::acceptable(&head.headers, &["text/event-stream"])?;
        let peer = self.peer(head, who, token, false)?;
        let session = peer.session.clone().ok_or(Problem::SessionMissing)?;
        let feed = self.desk.session_feed(&peer, &session)?;
        Ok(event_stream(feed_events(Box::new(feed), self.settings.keep_alive)))
    }

    /// `DELETE`: the end of a legacy session.
    fn end(&self, head: &Parts, who: &Identified) -> Result<Out, Stopped> {
        if !self.legacy(head)? {
            return Ok(not_allowed("POST"));
        }
        let id = headers::only(&head.headers, "mcp-session-id")?.ok_or(Problem::SessionMissing)?;
        let session = self.desk.open_session(id, who)?;
        self.desk.end_session(&session);
        Ok(empty(StatusCode::OK))
    }

    /// Whether a request without a body is a legacy client's with a session: 2026-07-28 has neither `GET` nor `DELETE`.
    fn legacy(&self, head: &Parts) -> Result<bool, Problem> {
        let version = headers::only(&head.headers, "mcp-protocol-version")?;
        Ok(head.headers.contains_key("mcp-session-id") && !headers::modern(version, None, false)?)
    }
}

fn refusal(stopped: &Stopped) -> Out {
    let Stopped { problem, id, modern, .. } = stopped;
    json_answer(problem.status(*modern), problem.response(id.as_ref(), *modern))
}

fn json_answer(status: StatusCode, body: Vec<u8>) -> Out {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(body))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn empty(status: StatusCode) -> Out {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::new())));
    *answer.status_mut() = status;
    answer
}

fn not_allowed(allow: &'static str) -> Out {
    let mut answer = refusal(&Problem::MethodNotAllowed.into());
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

fn event_stream(events: UnsyncBoxBody<Bytes, Infallible>) -> Out {
    let mut answer = Response::new(Either::Right(events));
    let headers: &mut HeaderMap = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    answer
}

fn event(message: &[u8]) -> Frame<Bytes> {
    let mut text = BytesMut::with_capacity(message.len() + 24);
    text.extend_from_slice(b"event: message\ndata: ");
    text.extend_from_slice(message);
    text.extend_from_slice(b"\n\n");
    Frame::data(text.freeze())
}

const COMMENT: &[u8] = b":\n\n";

/// The rest of what is under way, as events. The body owns it: it needs no task of its own.
fn spoken(speaker: Box<impl Speaks>, first: Frame<Bytes>, keep_alive: Duration) -> UnsyncBoxBody<Bytes, Infallible> {
    let events = futures_util::stream::unfold((Some(speaker), Some(first)), move |(speaker, first)| async move {
        let mut speaker = speaker?;
        if let Some(first) = first {
            return Some((Ok(first), (Some(speaker), None)));
        }
        match timeout(keep_alive, speaker.next()).await {
            Err(_) | Ok(Step::Waits) => Some((Ok(Frame::data(Bytes::from_static(COMMENT))), (Some(speaker), None))),
            Ok(Step::Message(message)) => Some((Ok(event(&message)), (Some(speaker), None))),
            Ok(Step::Last(_, response)) => Some((Ok(event(&response)), (None, None))),
        }
    });
    StreamBody::new(events).boxed_unsync()
}

/// A stream that stays open, as events.
fn feed_events<R: Road>(feed: Box<Feed<R>>, keep_alive: Duration) -> UnsyncBoxBody<Bytes, Infallible> {
    let events = futures_util::stream::unfold(feed, move |mut feed| async move {
        match timeout(keep_alive, feed.next()).await {
            Err(_) => Some((Ok(Frame::data(Bytes::from_static(COMMENT))), feed)),
            Ok(Some(message)) => Some((Ok(event(&message)), feed)),
            Ok(None) => None,
        }
    });
    StreamBody::new(events).boxed_unsync()
}
