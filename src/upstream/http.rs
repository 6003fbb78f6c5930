//! MCP over streamable HTTP, of both generations.

use std::{
    future::pending,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    header::{HeaderName, HeaderValue},
};
use tokio::time::{sleep, timeout};

use super::{
    endpoint::{Endpoint, Exchange, Failed},
    house::{About, Heard, House, Sent, Side, ask, log, refusal},
    message::{ENVELOPE, Message, read},
    outgoing::reply,
    sse::Events,
};
use crate::{
    call::Notice,
    json::{Object, Value},
    lease::Lease,
};

/// How often a stream that ended early is taken up again.
const RESUMES: usize = 16;
/// How long a request that belongs to no call waits for its credential.
const PATIENCE: Duration = Duration::from_secs(30);
/// Questions of one stream that may be open at once.
const QUESTIONS: usize = 32;

/// A conversation with one server; for the handshake era, one session.
pub(super) struct Http {
    endpoint: Arc<Endpoint>,
    house: Arc<House>,
    most: usize,
    session: OnceLock<HeaderValue>,
    version: OnceLock<HeaderValue>,
    modern: OnceLock<bool>,
}

/// A request on its way.
pub(super) struct Outbound<'a> {
    pub(super) id: u64,
    pub(super) method: &'static str,
    pub(super) body: Vec<u8>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) side: Option<Side<'a>>,
    pub(super) shows: Shows,
    /// Its stream is meant to stay open.
    pub(super) endless: bool,
}

/// Whose credential a request shows.
#[derive(Clone)]
pub(super) enum Shows {
    /// What was leased for the call; nothing, where the upstream is shown nothing.
    Leased(Option<Arc<Lease>>),
    /// It belongs to no call: the upstream's own, whichever that is by then.
    Own,
}

impl Http {
    pub(super) fn new(endpoint: Arc<Endpoint>, house: Arc<House>, most: usize) -> Self {
        let (session, version, modern) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { endpoint, house, most, session, version, modern }
    }

    /// Fixes the revision to speak.
    pub(super) fn settle(&self, version: &str, modern: bool) {
        if let Ok(version) = HeaderValue::from_str(version) {
            let _first_stays = self.version.set(version);
        }
        let _first_stays = self.modern.set(modern);
    }

    fn is_modern(&self) -> bool {
        self.modern.get().copied().unwrap_or(false)
    }

    /// What a request shows.
    ///
    /// # Errors
    /// Why there is nothing to show, for an operator.
    async fn lease(&self, shows: &Shows) -> Result<Option<Arc<Lease>>, String> {
        match shows {
            Shows::Leased(lease) => Ok(lease.clone()),
            Shows::Own => self.house.leases.for_service(PATIENCE).await.map_err(|none| none.why),
        }
    }

    fn post(&self, body: Vec<u8>, lease: Option<&Lease>) -> Request<Full<Bytes>> {
        let mut request = self.endpoint.request(Method::POST, body.into());
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        headers.insert("accept", HeaderValue::from_static("application/json, text/event-stream"));
        self.identify(headers, lease);
        request
    }

    fn identify(&self, headers: &mut hyper::HeaderMap, lease: Option<&Lease>) {
        if let Some((name, value)) = lease.map(Lease::header) {
            headers.insert(name, value);
        }
        if let Some(version) = self.version.get() {
            headers.insert("mcp-protocol-version", version.clone());
        }
        if let Some(session) = self.session.get() {
            headers.insert("mcp-session-id", session.clone());
        }
    }

    /// Sends a request and waits for its answer. Dropping the future closes the connection. `modern`
    /// says that the request is of the generation without a handshake, when that is not settled yet.
    pub(super) async fn exchange(&self, outbound: Outbound<'_>, probe: Option<&str>, sent: &Sent) -> Heard {
        let Outbound { id, method, body, headers, side, shows, endless } = outbound;
        let lease = match self.lease(&shows).await {
            Ok(lease) => lease,
            Err(why) => return Heard::NotSent(why),
        };
        let mut request = self.post(body, lease.as_deref());
        if let Some(version) = probe.and_then(|version| HeaderValue::from_str(version).ok()) {
            request.headers_mut().insert("mcp-protocol-version", version);
        }
        if probe.is_some() || self.is_modern() {
            request.headers_mut().insert("mcp-method", HeaderValue::from_static(method));
            request.headers_mut().extend(headers);
        }
        let in_session = self.session.get().is_some();
        let exchange = match self.endpoint.send(request, sent).await {
            Ok(exchange) => exchange,
            Err(Failed::NotSent(why)) => return Heard::NotSent(why),
            Err(Failed::Lost(detail)) => return Heard::Lost { why: "died", detail },
        };
        if method == "initialize"
            && let Some(session) = exchange.head.headers.get("mcp-session-id")
        {
            let _first_stays = self.session.set(session.clone());
        }
        let status = exchange.status();
        if let Some(lease) = lease.as_ref().filter(|_| status == StatusCode::UNAUTHORIZED) {
            self.house.leases.not_taken(lease);
        }
        if status == StatusCode::NOT_FOUND && in_session {
            return Heard::SessionGone;
        }
        if !status.is_success() {
            return self.failure(exchange, id).await;
        }
        match exchange.media_type().as_str() {
            "application/json" => self.single(exchange, id).await,
            "text/event-stream" => self.stream(exchange, id, side, &shows, endless).await,
            other => {
                Heard::Lost { why: "bad_answer", detail: format!("the answer has the content type `{}`", safe(other)) }
            }
        }
    }

    /// A status that says no: with a JSON-RPC error in it, or without.
    async fn failure(&self, mut exchange: Exchange, id: u64) -> Heard {
        let status = exchange.status().as_u16();
        if exchange.media_type() == "application/json"
            && let Ok(Some(body)) = exchange.whole(self.most.min(1 << 20)).await
        {
            exchange.done(&self.endpoint);
            if let Ok(Message::Answer(answer)) = read(&body, self.most)
                && answer.body.is_err()
                && answer.id.is_none_or(|answered| answered == id)
            {
                return Heard::Answer(answer);
            }
        }
        Heard::Status(status)
    }

    async fn single(&self, mut exchange: Exchange, id: u64) -> Heard {
        let body = match exchange.whole(self.most.saturating_add(ENVELOPE)).await {
            Ok(Some(body)) => body,
            Ok(None) => return self.too_large(),
            Err(detail) => return Heard::Lost { why: "died", detail },
        };
        exchange.done(&self.endpoint);
        match read(&body, self.most) {
            Ok(Message::Answer(answer)) if answer.id == Some(id) || (answer.id.is_none() && answer.body.is_err()) => {
                Heard::Answer(answer)
            }
            Ok(_) => Heard::Lost { why: "bad_answer", detail: "the answer is to another request".to_owned() },
            Err(unreadable) => Heard::Lost { why: "bad_answer", detail: unreadable.sentence().to_owned() },
        }
    }

    fn too_large(&self) -> Heard {
        Heard::Lost { why: "too_large", detail: format!("the answer has more than {} bytes", self.most) }
    }

    /// Reads a stream of events until the answer comes.
    async fn stream(&self, first: Exchange, id: u64, side: Option<Side<'_>>, shows: &Shows, endless: bool) -> Heard {
        let mut exchange = first;
        let mut events = Events::new(self.most.saturating_add(ENVELOPE));
        let mut total = 0_usize;
        let most = if endless { usize::MAX } else { self.most.saturating_mul(4).saturating_add(1 << 20) };
        let mut questions = FuturesUnordered::new();
        let mut resumes = 0;
        loop {
            loop {
                let event = match events.next() {
                    Ok(Some(event)) => event,
                    Ok(None) => break,
                    Err(_) => return self.too_large(),
                };
                match read(&event.data, self.most) {
                    Ok(Message::Answer(answer)) if answer.id == Some(id) => {
                        exchange.done(&self.endpoint);
                        return Heard::Answer(answer);
                    }
                    Ok(Message::Answer(_)) => {
                        tracing::warn!(upstream = %self.house.name, "an answer to another request is ignored");
                    }
                    Ok(Message::Notification { method, params }) => self.notification(&method, params, id, side),
                    Ok(Message::Request { id, method, params }) => {
                        if method == "ping" {
                            questions.push(self.answered(id, Ok(Object::new().into()), None, shows));
                        } else if questions.len() >= QUESTIONS {
                            tracing::warn!(upstream = %self.house.name, "too many questions at once: one is ignored");
                        } else {
                            match (self.house.judge(&method, Some(&params), side), side) {
                                (Ok(()), Some(side)) => {
                                    let asked = ask(side.link.clone(), method, params);
                                    questions.push(self.answered(id, Ok(Value::Null), Some(asked), shows));
                                }
                                (Err(why), _) => {
                                    questions.push(self.answered(id, Err(refusal(-32601, &why)), None, shows));
                                }
                                (Ok(()), None) => {}
                            }
                        }
                    }
                    Err(unreadable) => {
                        return Heard::Lost { why: "bad_answer", detail: unreadable.sentence().to_owned() };
                    }
                }
            }
            let chunk = tokio::select! {
                chunk = exchange.chunk() => chunk,
                Some(()) = questions.next(), if !questions.is_empty() => continue,
            };
            match chunk {
                Some(Ok(chunk)) => {
                    total = total.saturating_add(chunk.len());
                    if total > most {
                        return self.too_large();
                    }
                    events.feed(&chunk);
                }
                ended => {
                    // a server of the handshake era may hang up and have the stream taken up again (2025-11-25)
                    let from = events.last_id().filter(|_| !self.is_modern() && !endless && resumes < RESUMES);
                    let Some(from) = from.and_then(|id| HeaderValue::from_str(id).ok()) else {
                        let detail = match ended {
                            Some(Err(error)) => error,
                            _ => "the stream ended before the answer".to_owned(),
                        };
                        return Heard::Lost { why: "died", detail };
                    };
                    resumes += 1;
                    sleep(Duration::from_millis(events.retry().unwrap_or(1_000).min(30_000))).await;
                    exchange = match self.resume(Some(from), shows).await {
                        Ok(exchange) => exchange,
                        Err(detail) => return Heard::Lost { why: "died", detail },
                    };
                    events.restart();
                }
            }
        }
    }

    /// Sends the answer to a question of the server's, once it is there.
    async fn answered(
        &self,
        id: Value,
        ready: Result<Value, Value>,
        asked: Option<impl Future<Output = Result<Value, Value>>>,
        shows: &Shows,
    ) {
        let answer = match asked {
            Some(asked) => asked.await,
            None => ready,
        };
        self.tell(reply(&id, answer.as_ref()), shows).await;
    }

    fn notification(&self, method: &str, params: Object, id: u64, side: Option<Side<'_>>) {
        match (self.house.notified(method, params), side) {
            (About::Progress(token, params), Some(side)) if token == id && side.link.client.wants_progress => {
                side.link.notify(Notice::Progress(params));
            }
            (About::Log(params), Some(side)) => log(side.link, params),
            _ => {}
        }
    }

    /// Posts a message that has no answer.
    pub(super) async fn tell(&self, body: Vec<u8>, shows: &Shows) {
        let sending = async {
            let Ok(lease) = self.lease(shows).await else { return };
            let request = self.post(body, lease.as_deref());
            if let Ok(mut exchange) = self.endpoint.send(request, &Sent::default()).await {
                let status = exchange.status();
                if !status.is_success() {
                    tracing::debug!(upstream = %self.house.name, "a notification was answered with status {}", status.as_u16());
                }
                if let Ok(Some(_)) = exchange.whole(64 << 10).await {
                    exchange.done(&self.endpoint);
                }
            }
        };
        let _lost = timeout(Duration::from_secs(10), sending).await;
    }

    async fn resume(&self, from: Option<HeaderValue>, shows: &Shows) -> Result<Exchange, String> {
        let lease = self.lease(shows).await?;
        let mut request = self.endpoint.request(Method::GET, Bytes::new());
        let headers = request.headers_mut();
        headers.insert("accept", HeaderValue::from_static("text/event-stream"));
        self.identify(headers, lease.as_deref());
        if let Some(from) = from {
            headers.insert("last-event-id", from);
        }
        let exchange = match self.endpoint.send(request, &Sent::default()).await {
            Ok(exchange) => exchange,
            Err(Failed::NotSent(why) | Failed::Lost(why)) => return Err(why),
        };
        if let Some(lease) = lease.as_ref().filter(|_| exchange.status() == StatusCode::UNAUTHORIZED) {
            self.house.leases.not_taken(lease);
        }
        if !exchange.status().is_success() || exchange.media_type() != "text/event-stream" {
            return Err(format!("the stream was refused with status {}", exchange.status().as_u16()));
        }
        Ok(exchange)
    }

    /// Listens to the stream that a server of the handshake era may offer beside the calls. Returns when
    /// it ends; never, when the server has none.
    pub(super) async fn overhear(&self) {
        match self.resume(None, &Shows::Own).await {
            // nothing on this stream is an answer, so that it ends only when the server ends it
            Ok(exchange) => drop(self.stream(exchange, u64::MAX, None, &Shows::Own, true).await),
            Err(_) => pending().await,
        }
    }

    /// Ends the session, if there is one.
    pub(super) async fn close(&self) {
        if self.session.get().is_some() {
            let mut request = self.endpoint.request(Method::DELETE, Bytes::new());
            // nothing is fetched to say good-bye
            self.identify(request.headers_mut(), self.house.leases.at_hand().as_deref());
            let sent = Sent::default();
            let _if_it_will = timeout(Duration::from_secs(1), self.endpoint.send(request, &sent)).await;
        }
    }
}

/// A word of the server's that may stand in a message.
fn safe(text: &str) -> String {
    super::lines::visible(text.as_bytes(), 64)
}
