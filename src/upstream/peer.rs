//! One connection to a tool server: which generation of the protocol it speaks, and what is said on it.

use std::{
    collections::HashSet,
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    Listing, Outcome,
    endpoint::Endpoint,
    house::{Heard, House, Sent, Side, refusal},
    http::{self, Http, Shows},
    message::{Answer, Text},
    outgoing::{self, Ask, LEGACIES, MODERN, Note, Sendable},
    stdio::{Gone, Stdio},
};
use crate::{
    config::{Transport, UpstreamConfig},
    json::{Object, Value},
    lease::Lease,
};

/// How long a child has to answer the probe before the handshake is tried as well.
const PROBE: Duration = Duration::from_secs(3);
/// How long the handshake may take: a child may be installed first.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// How long an answer may still come after a call was cancelled.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Bounds on a list.
const PAGES: usize = 100;
const ITEMS: usize = 5_000;

/// What is known of the other side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Peer {
    /// The revision that is spoken.
    pub(super) version: String,
    /// There is no handshake: version and capabilities travel with each request.
    pub(super) modern: bool,
    /// Its capabilities.
    pub(super) capabilities: Object,
}

/// What an earlier connection has taught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Era {
    #[default]
    Unknown,
    Modern,
    Legacy,
}

/// How messages travel.
pub(super) enum Wire {
    Stdio(Stdio),
    Http(Http),
}

/// A connection that is ready for calls, once its tools have been compared.
pub(super) struct Connection {
    wire: Wire,
    pub(super) peer: Peer,
    ids: AtomicU64,
    house: Arc<House>,
    patience: Duration,
    most: usize,
}

/// Why a question was not answered with a result.
#[derive(Debug)]
enum No {
    /// A JSON-RPC error.
    Error(Value),
    /// Anything else, for an operator.
    Failed(String),
}

impl No {
    fn sentence(self, method: &str, house: &House) -> String {
        match self {
            Self::Error(error) => {
                let text = error.get("message").and_then(Value::as_str).unwrap_or_default();
                format!("`{method}` was answered with an error: `{}`", house.visible(text.as_bytes(), 200))
            }
            Self::Failed(why) => format!("`{method}` failed: {why}"),
        }
    }
}

/// How a call ended on this connection.
pub(super) enum Called {
    /// For good.
    Ended(Outcome),
    /// Not at all: the session it was sent in is over.
    SessionGone,
}

impl Connection {
    /// Connects and finds out what the other side speaks.
    ///
    /// # Errors
    /// Why it cannot, for an operator.
    pub(super) async fn open(
        house: &Arc<House>,
        config: &UpstreamConfig,
        endpoint: Option<&Arc<Endpoint>>,
        era: &mut Era,
    ) -> Result<Self, String> {
        let most = config.max_result;
        match (&config.transport, endpoint) {
            (Transport::Http { .. }, Some(endpoint)) => {
                let wire = Wire::Http(Http::new(Arc::clone(endpoint), Arc::clone(house), most));
                Self::over(wire, house, config, era).await
            }
            (Transport::Stdio { command, env, cwd }, _) => {
                let start = || Stdio::start(house, command, env, cwd.as_ref(), most, config.timeout).map(Wire::Stdio);
                let probed = *era == Era::Unknown;
                match Self::over(start()?, house, config, era).await {
                    // a server of the handshake era may fall over the probe: once more, without it
                    Err(_) if probed && *era == Era::Legacy => Self::over(start()?, house, config, era).await,
                    other => other,
                }
            }
            (Transport::Http { .. }, None) => Err("there is no endpoint".to_owned()),
        }
    }

    pub(super) async fn over(
        wire: Wire,
        house: &Arc<House>,
        config: &UpstreamConfig,
        era: &mut Era,
    ) -> Result<Self, String> {
        let peer = Peer { version: String::new(), modern: false, capabilities: Object::new() };
        let mut connection = Self {
            wire,
            peer,
            ids: AtomicU64::new(1),
            house: Arc::clone(house),
            patience: config.timeout,
            most: config.max_result,
        };
        let met = connection.meet(era).await;
        match met {
            Ok(peer) => {
                *era = if peer.modern { Era::Modern } else { Era::Legacy };
                if let Wire::Http(http) = &connection.wire {
                    http.settle(&peer.version, peer.modern);
                }
                connection.peer = peer;
                if !connection.peer.modern {
                    connection.tell(Note::Initialized).await;
                }
                Ok(connection)
            }
            Err(why) => {
                connection.close().await;
                Err(why)
            }
        }
    }

    async fn meet(&self, era: &mut Era) -> Result<Peer, String> {
        if *era == Era::Legacy {
            return self.initialize().await.inspect_err(|_| *era = Era::Unknown);
        }
        *era = Era::Unknown;
        let mut probe = pin!(self.ask(Ask::Discover, HANDSHAKE));
        let patience = if matches!(self.wire, Wire::Stdio(_)) { PROBE } else { self.patience.min(HANDSHAKE) };
        match timeout(patience, &mut probe).await {
            Ok(answer) => match discovered(answer)? {
                Some(peer) => Ok(peer),
                None => {
                    *era = Era::Legacy;
                    self.initialize().await
                }
            },
            Err(_) if matches!(self.wire, Wire::Stdio(_)) => {
                // slow to start, or deaf to the probe: whichever question it takes first tells
                let mut handshake = pin!(self.initialize());
                let met = tokio::select! {
                    biased;
                    met = &mut handshake => met,
                    answer = &mut probe => match (handshake.await, discovered(answer)) {
                        (Err(_), Ok(Some(peer))) => Ok(peer),
                        (met, _) => met,
                    },
                };
                if met.is_err() {
                    *era = Era::Legacy;
                }
                met
            }
            Err(_) => self.initialize().await,
        }
    }

    async fn initialize(&self) -> Result<Peer, String> {
        let answer = self.ask(Ask::Initialize, HANDSHAKE).await.map_err(|no| no.sentence("initialize", &self.house))?;
        let version = answer.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
        if !LEGACIES.contains(&version) {
            let version = self.house.visible(version.as_bytes(), 32);
            return Err(format!("it speaks protocol revision `{version}`, which is not understood"));
        }
        let capabilities = answer.get("capabilities").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Peer { version: version.to_owned(), modern: false, capabilities })
    }

    fn id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks something that does nothing.
    async fn ask(&self, ask: Ask, within: Duration) -> Result<Value, No> {
        let id = self.id();
        match timeout(within, self.put(&ask, id, false)).await {
            Ok(Heard::Answer(Answer { body: Ok(Text { tree, .. }), .. })) => Ok(tree),
            Ok(Heard::Answer(Answer { body: Err(Text { tree, .. }), .. })) => Err(No::Error(tree)),
            Ok(Heard::NotSent(why) | Heard::Lost { detail: why, .. }) => Err(No::Failed(why)),
            Ok(Heard::Status(status)) => Err(No::Failed(format!("HTTP status {status}"))),
            Ok(Heard::SessionGone) => Err(No::Failed("the session is over".to_owned())),
            Err(_) => {
                if !matches!(ask, Ask::Initialize | Ask::Discover) && self.tells_cancellation() {
                    self.tell(Note::Cancelled(id, "timeout")).await;
                }
                Err(No::Failed("no answer in time".to_owned()))
            }
        }
    }

    async fn put(&self, ask: &Ask, id: u64, endless: bool) -> Heard {
        let probe = matches!(ask, Ask::Discover).then_some(MODERN);
        let version = probe.or_else(|| self.peer.modern.then_some(self.peer.version.as_str()));
        let body = ask.body(id, version);
        match &self.wire {
            Wire::Stdio(stdio) => stdio.exchange(id, body, None, &Arc::default()).await,
            Wire::Http(http) => {
                let method = ask.method();
                let (headers, shows) = (Vec::new(), Shows::Own);
                let outbound = http::Outbound { id, method, body, headers, side: None, shows, endless };
                http.exchange(outbound, probe, &Sent::default()).await
            }
        }
    }

    async fn tell(&self, note: Note) {
        self.tell_as(note, &Shows::Own).await;
    }

    async fn tell_as(&self, note: Note, shows: &Shows) {
        match &self.wire {
            Wire::Stdio(stdio) => stdio.tell(note.body()).await,
            Wire::Http(http) => http.tell(note.body(), shows).await,
        }
    }

    /// Whether cancelling takes a message; without a handshake over HTTP, hanging up says it.
    fn tells_cancellation(&self) -> bool {
        matches!(self.wire, Wire::Stdio(_)) || !self.peer.modern
    }

    /// Sends a call, and waits for its end: its answer, its timeout, its caller's or the server's giving up.
    pub(super) async fn call<C: Sendable>(
        &self,
        call: &C,
        lease: Option<&Arc<Lease>>,
        within: Duration,
        stop: &watch::Receiver<bool>,
    ) -> Called {
        let shows = Shows::Leased(lease.cloned());
        let side = Side { link: call.link(), principal: call.principal() };
        let id = self.id();
        let capabilities = if self.peer.modern { self.house.capabilities(side) } else { Object::new() };
        let body = match outgoing::call(call, id, &self.peer, &capabilities) {
            Ok(body) => body,
            Err(why) => return Called::Ended(not_sent(why)),
        };
        let sent = Arc::new(Sent::default());
        let exchange = async {
            match &self.wire {
                Wire::Stdio(stdio) => stdio.exchange(id, body, Some(side), &sent).await,
                Wire::Http(http) => {
                    let headers = if self.peer.modern { outgoing::headers(call) } else { Vec::new() };
                    let method = call.operation().method();
                    let (side, shows) = (Some(side), shows.clone());
                    let outbound = http::Outbound { id, method, body, headers, side, shows, endless: false };
                    http.exchange(outbound, None, &sent).await
                }
            }
        };
        let mut exchange = pin!(exchange);
        let mut stop = stop.clone();
        let (why, detail) = tokio::select! {
            biased;
            heard = &mut exchange => return self.heard(heard, side),
            () = call.link().cancelled() => ("cancelled", "the client gave up".to_owned()),
            () = sleep(within) => ("timeout", format!("no answer within {} s", within.as_secs_f32())),
            _ = stop.wait_for(|stop| *stop) => ("stopping", "the server stops".to_owned()),
        };
        if sent.withdraw() {
            return Called::Ended(not_sent(detail));
        }
        if self.tells_cancellation() {
            let last_words = async {
                tokio::join!(self.tell_as(Note::Cancelled(id, why), &shows), async {
                    let _no_sooner = timeout(LAST_WORDS, pending::<()>()).await;
                });
            };
            tokio::select! {
                biased;
                Heard::Answer(answer) = &mut exchange => return self.heard(Heard::Answer(answer), side),
                () = last_words => {}
            }
        }
        Called::Ended(Outcome::Unknown { why, detail })
    }

    fn heard(&self, heard: Heard, side: Side<'_>) -> Called {
        Called::Ended(match heard {
            Heard::Answer(Answer { body: Ok(Text { tree, text }), .. }) => match self.forbidden(&tree, side) {
                None => Outcome::Result { tree, text },
                Some(why) => error(&format!("the tool asked for something that it may not have: {why}")),
            },
            Heard::Answer(Answer { body: Err(Text { tree, text }), .. }) => Outcome::Error { tree, text },
            Heard::NotSent(why) => not_sent(why),
            Heard::Lost { why, detail } => Outcome::Unknown { why, detail },
            // a refusal by status says that nothing was done; a server's failure, or a gateway's, does not
            Heard::Status(status @ 300..=499) if status != 408 => {
                error(&format!("the tool server answered with HTTP status {status}"))
            }
            Heard::Status(status) => Outcome::Unknown { why: "bad_answer", detail: format!("HTTP status {status}") },
            Heard::SessionGone => return Called::SessionGone,
        })
    }

    /// Why what a result asks for cannot be had (MCP 2026-07-28, multi round-trip requests). A retry
    /// would ask again, so that this ends the call; the upstream has done nothing final yet.
    fn forbidden(&self, result: &Value, side: Side<'_>) -> Option<String> {
        if result.get("resultType").and_then(Value::as_str) != Some("input_required") {
            return None;
        }
        let requests = result.get("inputRequests")?;
        let Some(requests) = requests.as_object() else { return Some("its questions cannot be read".to_owned()) };
        requests.iter().find_map(|(_, request)| {
            let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
            self.house.judge(method, request.get("params"), Some(side)).err()
        })
    }

    /// The tools, every page.
    ///
    /// # Errors
    /// Why they could not be listed, for an operator.
    pub(super) async fn tools(&self) -> Result<Vec<Value>, String> {
        let declared = self.peer.capabilities.get("tools").is_some();
        Ok(self.pages(declared, "tools", Ask::Tools).await?.0)
    }

    /// Another list, every page, and how long it is good for, if the server says.
    ///
    /// # Errors
    /// Why it could not be listed, for an operator.
    pub(super) async fn list(&self, listing: Listing) -> Result<(Vec<Value>, Option<Duration>), String> {
        let (capability, key) = match listing {
            Listing::Resources => ("resources", "resources"),
            Listing::Templates => ("resources", "resourceTemplates"),
            Listing::Prompts => ("prompts", "prompts"),
        };
        if self.peer.capabilities.get(capability).is_none() {
            return Ok((Vec::new(), None));
        }
        self.pages(true, key, |cursor| Ask::List(listing, cursor)).await
    }

    async fn pages(
        &self,
        declared: bool,
        key: &str,
        page: impl Fn(Option<String>) -> Ask,
    ) -> Result<(Vec<Value>, Option<Duration>), String> {
        let (mut items, mut seen, mut cursor, mut life) = (Vec::new(), HashSet::new(), None::<String>, None);
        let mut bytes = 0_usize;
        for _ in 0..PAGES {
            let ask = page(cursor.clone());
            let method = ask.method();
            let Value::Object(mut answer) = (match self.ask(ask, self.patience).await {
                Ok(answer) => answer,
                Err(No::Error(error)) if !declared && error.get("code") == Some(&Value::from(-32601)) => {
                    return Ok((items, None));
                }
                Err(no) => return Err(no.sentence(method, &self.house)),
            }) else {
                return Err(format!("`{method}` was answered with no object"));
            };
            let Some(Value::Array(more)) = answer.remove(key) else {
                return Err(format!("the answer to `{method}` has no array `{key}`"));
            };
            bytes = more.iter().fold(bytes, |sum, item| sum.saturating_add(size(item)));
            items.extend(more);
            if items.len() > ITEMS || bytes > self.most.max(16 << 20) {
                return Err(format!(
                    "the answer to `{method}` has no end within {ITEMS} items and {} bytes",
                    self.most
                ));
            }
            let ttl = answer.get("ttlMs").and_then(Value::as_number).and_then(crate::json::Number::as_i64);
            if let Some(ttl) = ttl.and_then(|ttl| u64::try_from(ttl).ok()).map(Duration::from_millis) {
                life = Some(life.map_or(ttl, |life: Duration| life.min(ttl)));
            }
            match answer.remove("nextCursor") {
                None | Some(Value::Null) => return Ok((items, life)),
                Some(Value::String(next)) => {
                    if !seen.insert(next.clone()) {
                        return Err(format!("the pages of `{method}` go in a circle"));
                    }
                    cursor = Some(next);
                }
                Some(_) => return Err(format!("the cursor of `{method}` is no string")),
            }
        }
        Err(format!("`{method}` has more than {PAGES} pages", method = page(None).method()))
    }

    /// Asks to be told of changes of a resource, or no longer (handshake era).
    ///
    /// # Errors
    /// Why not, for an operator.
    pub(super) async fn watch(&self, uri: &str, on: bool) -> Result<(), String> {
        let ask = if on { Ask::Subscribe(uri.to_owned()) } else { Ask::Unsubscribe(uri.to_owned()) };
        let method = ask.method();
        self.ask(ask, self.patience).await.map(drop).map_err(|no| no.sentence(method, &self.house))
    }

    /// Listens for changes until the stream ends. Returns whether listening again makes sense.
    pub(super) async fn listen(&self, uris: Vec<String>) -> bool {
        if !self.peer.modern {
            match &self.wire {
                Wire::Stdio(_) => pending().await,
                Wire::Http(http) => http.overhear().await,
            }
            return true;
        }
        let can = |capability: &str, what: &str| {
            let declared = self.peer.capabilities.get(capability).and_then(|declared| declared.get(what));
            declared.and_then(Value::as_bool).unwrap_or(false)
        };
        let mut filter = Object::new();
        for (capability, name) in
            [("tools", "toolsListChanged"), ("prompts", "promptsListChanged"), ("resources", "resourcesListChanged")]
        {
            if can(capability, "listChanged") {
                filter.insert(name, true);
            }
        }
        if !uris.is_empty() {
            filter.insert("resourceSubscriptions", uris.into_iter().map(Value::from).collect::<Vec<_>>());
        }
        if filter.is_empty() {
            return false;
        }
        let id = self.id();
        let _told = Unlisten(self, id);
        !matches!(
            self.put(&Ask::Listen(filter), id, true).await,
            Heard::Answer(Answer { body: Err(_), .. }) | Heard::Status(400..=499)
        )
    }

    /// Returns when the connection is gone for good, with why; never over HTTP.
    pub(super) async fn ended(&self) -> Gone {
        match &self.wire {
            Wire::Stdio(stdio) => stdio.ended().await,
            Wire::Http(_) => pending().await,
        }
    }

    /// Ends the child process or the session.
    pub(super) async fn close(&self) {
        match &self.wire {
            Wire::Stdio(stdio) => stdio.close().await,
            Wire::Http(http) => http.close().await,
        }
    }
}

/// Tells a child that nobody listens any more.
struct Unlisten<'a>(&'a Connection, u64);

impl Drop for Unlisten<'_> {
    fn drop(&mut self) {
        if let Wire::Stdio(stdio) = &self.0.wire {
            stdio.tell_now(Note::Cancelled(self.1, "listening anew").body());
        }
    }
}

/// Reads the answer to the probe. `None`: it is of the handshake era.
fn discovered(answer: Result<Value, No>) -> Result<Option<Peer>, String> {
    let offers = |list: Option<&Value>, wanted: &str| {
        list.and_then(Value::as_array).is_some_and(|list| list.iter().any(|version| version.as_str() == Some(wanted)))
    };
    match answer {
        Ok(result) => {
            let versions = result.get("supportedVersions");
            if offers(versions, MODERN) {
                let capabilities = result.get("capabilities").and_then(Value::as_object).cloned().unwrap_or_default();
                return Ok(Some(Peer { version: MODERN.to_owned(), modern: true, capabilities }));
            }
            match versions {
                Some(_) if !LEGACIES.iter().any(|legacy| offers(versions, legacy)) => {
                    Err("it speaks no protocol revision that is understood".to_owned())
                }
                _ => Ok(None),
            }
        }
        Err(No::Error(error)) if error.get("code") == Some(&Value::from(-32022)) => {
            let supported = error.get("data").and_then(|data| data.get("supported"));
            match supported {
                Some(_) if !LEGACIES.iter().any(|legacy| offers(supported, legacy)) => {
                    Err("it speaks no protocol revision that is understood".to_owned())
                }
                _ => Ok(None),
            }
        }
        Err(_) => Ok(None),
    }
}

/// About how many bytes a value takes.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(number) => number.text().len(),
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().fold(2, |sum, item| sum.saturating_add(size(item))),
        Value::Object(members) => {
            members.iter().fold(2, |sum, (name, value)| sum.saturating_add(name.len() + 4 + size(value)))
        }
    }
}

fn not_sent(why: String) -> Outcome {
    Outcome::NotSent { why, retry_after_ms: 1_000, busy: false }
}

fn error(message: &str) -> Outcome {
    let tree = refusal(-32603, message);
    let text = tree.to_bytes().into();
    Outcome::Error { tree, text }
}
