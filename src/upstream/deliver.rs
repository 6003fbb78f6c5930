//! The end of the road out: an upstream's connection, kept and handed to the calls that are sent on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{broadcast, watch},
    time::{Instant, sleep, sleep_until},
};
use tower::Service;

use super::{
    Change, Host, Listing, Outcome, Status,
    backoff::Backoff,
    breaker::Circuit,
    endpoint::Endpoint,
    house::House,
    house::Side,
    outgoing::Sendable,
    peer::{Called, Connection, Era},
};
use crate::{
    call::Operation,
    config::{Transport, UpstreamConfig},
    contract::{Advertised, Tool, UpstreamName},
    json::{Canonical, Digest, Value},
    lease::{Lease, Leases, NoLease},
};

/// Resources of one upstream that can be watched at once.
const WATCHED: usize = 1_000;
/// The least time between two comparisons of the tools, however often an upstream says that they changed.
const PAUSE: Duration = Duration::from_millis(100);
/// A connection that lasted this long was a good one.
const STABLE: Duration = Duration::from_secs(10);

/// A call that came to its end.
pub(super) struct Ended<C> {
    pub(super) call: C,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    pub(super) health: Health,
    /// The id of what the upstream was shown.
    pub(super) lease: Option<Arc<str>>,
}

/// What the end of a call says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Good,
    Bad,
    /// Nothing.
    Neutral,
}

impl<C> Ended<C> {
    pub(super) fn at_once(call: C, outcome: Outcome) -> Self {
        Self { call, outcome, took: Duration::ZERO, health: Health::Neutral, lease: None }
    }
}

/// One upstream.
pub(super) struct Upstream {
    pub(super) config: UpstreamConfig,
    pub(super) house: Arc<House>,
    pub(super) circuit: Arc<Circuit>,
    endpoint: Option<Result<Arc<Endpoint>, String>>,
    phase: watch::Sender<Phase>,
    stop: watch::Sender<bool>,
    known: Mutex<Known>,
    under_way: AtomicUsize,
    watched: Mutex<Watched>,
    beside: tokio::sync::Mutex<Beside>,
}

/// A session with a server that speaks both generations, beside the connection of the newer one.
#[derive(Default)]
struct Beside {
    session: Option<Session>,
    /// It has no such sessions, and is not asked again before then.
    not_before: Option<Instant>,
}

struct Session {
    connection: Arc<Connection>,
    /// The digests of the definitions that it lists; `None` for a name that it lists twice.
    tools: BTreeMap<String, Option<Digest>>,
    /// How much doubt there had been when they were listed, and until when the list is good.
    told: u64,
    until: Instant,
}

/// What was learnt from the last connection.
#[derive(Default)]
struct Known {
    era: Era,
    protocol: Option<String>,
    capabilities: crate::json::Object,
    last_error: Option<String>,
    tools: Option<Digest>,
}

/// Resources whose changes somebody wants to know.
#[derive(Default)]
struct Watched {
    wanted: BTreeMap<String, usize>,
    active: BTreeSet<String>,
}

#[derive(Clone)]
enum Phase {
    Idle,
    Connecting,
    Ready(Arc<Connection>),
    Waiting { until: Instant, why: String },
    Stopped,
}

impl Upstream {
    pub(super) fn new(
        name: UpstreamName,
        config: UpstreamConfig,
        changes: broadcast::Sender<(UpstreamName, Change)>,
        leases: &Leases,
    ) -> Arc<Self> {
        let endpoint = match &config.transport {
            Transport::Http { url, headers } => {
                Some(Endpoint::new(url, headers.iter(), config.concurrency.min(256)).map(Arc::new))
            }
            Transport::Stdio { .. } => None,
        };
        let leases = leases.of(&name);
        let house = Arc::new(House::new(name, changes, leases).keeping(&config.transport));
        Arc::new(Self {
            config,
            house,
            circuit: Arc::default(),
            endpoint,
            phase: watch::Sender::new(Phase::Idle),
            stop: watch::Sender::new(false),
            known: Mutex::default(),
            under_way: AtomicUsize::new(0),
            watched: Mutex::default(),
            beside: tokio::sync::Mutex::default(),
        })
    }

    fn known<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, why: &str) {
        tracing::warn!(upstream = %self.house.name, "{why}");
        self.known(|known| known.last_error = Some(why.to_owned()));
    }

    /// Says who decides, and that somebody will keep a connection from now on; false the second time.
    pub(super) fn begin(&self, host: &Arc<dyn Host>) -> bool {
        let first = self.house.open(host);
        if first {
            self.phase.send_replace(Phase::Connecting);
        }
        first
    }

    /// Connects, without comparing tools.
    pub(super) async fn open(&self) -> Result<Connection, String> {
        let endpoint = self.endpoint.as_ref().map(Result::as_ref).transpose().map_err(Clone::clone)?;
        let mut era = self.known(|known| known.era);
        let opened = Connection::open(&self.house, &self.config, endpoint, &mut era).await;
        self.known(|known| {
            known.era = era;
            if let Ok(connection) = &opened {
                known.protocol = Some(connection.peer.version.clone());
                known.capabilities = connection.peer.capabilities.clone();
            }
        });
        opened
    }

    /// Keeps a connection until told to stop.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut stop = self.stop.subscribe();
        let mut backoff = Backoff::default();
        let mut at_once = true;
        while !*stop.borrow_and_update() {
            self.phase.send_replace(Phase::Connecting);
            let opened = tokio::select! {
                opened = self.ready() => opened,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (why, session_over) = match opened {
                Ok(connection) => {
                    let since = Instant::now();
                    self.phase.send_replace(Phase::Ready(Arc::clone(&connection)));
                    tracing::info!(upstream = %self.house.name, protocol = connection.peer.version, "connected");
                    let why = self.attend(&connection).await;
                    let session_over = !self.is_current(&connection);
                    self.phase.send_replace(Phase::Connecting);
                    connection.close().await;
                    if since.elapsed() >= STABLE {
                        backoff = Backoff::default();
                    }
                    (why, session_over)
                }
                Err(why) => (why, false),
            };
            if *stop.borrow() {
                break;
            }
            self.failed(&why);
            // a session that a server has forgotten is begun again without a wait, but not in a circle
            if std::mem::replace(&mut at_once, true) && session_over {
                at_once = false;
                continue;
            }
            let until = Instant::now() + backoff.next();
            self.phase.send_replace(Phase::Waiting { until, why });
            tokio::select! {
                () = sleep_until(until) => {}
                // what it lacked may be there now
                () = self.house.leases.changed() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        if let Some(session) = self.beside.lock().await.session.take() {
            session.connection.close().await;
        }
        self.phase.send_replace(Phase::Stopped);
    }

    /// Connects, and has the tools compared.
    async fn ready(&self) -> Result<Arc<Connection>, String> {
        let connection = Arc::new(self.open().await?);
        self.house.forget_lists(&[Listing::Resources, Listing::Templates, Listing::Prompts]);
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).active.clear();
        if let Err(why) = self.compare(&connection).await {
            connection.close().await;
            return Err(why);
        }
        Ok(connection)
    }

    /// Lists the tools and hands them to the house. Calls may leave again once this has returned `Ok`.
    async fn compare(&self, connection: &Connection) -> Result<(), String> {
        let told = self.house.told();
        let tools = connection.tools().await?;
        let digest = Digest::of(&Value::from(tools.clone()).to_bytes());
        self.house.advertised(Advertised { tools });
        self.house.compared(told);
        let before = self.known(|known| known.tools.replace(digest));
        if before.is_some_and(|before| before != digest) {
            self.house.changed(Change::Tools);
        }
        Ok(())
    }

    /// Looks after a connection until it is gone, or of no use; returns why.
    async fn attend(&self, connection: &Arc<Connection>) -> String {
        let mut stop = self.stop.subscribe();
        let mut refresh = Instant::now() + self.config.refresh;
        let mut trouble = Backoff::default();
        let mut again = None::<Instant>;
        // of the handshake era, resources are watched one by one, and there is one stream for all
        let listened = |wanted: Vec<String>| if connection.peer.modern { wanted } else { Vec::new() };
        let mut uris = listened(self.wanted());
        let mut listening: BoxFuture<'_, ()> = Box::pin(self.listen(connection, uris.clone()));
        loop {
            if !self.is_current(connection) {
                return "the session is over".to_owned();
            }
            self.resubscribe(connection).await;
            let wanted = listened(self.wanted());
            if uris != wanted {
                uris = wanted;
                listening = Box::pin(self.listen(connection, uris.clone()));
            }
            let now = Instant::now();
            let due = refresh <= now || (self.house.is_stale() && again.is_none_or(|again| again <= now));
            if due {
                refresh = now + self.config.refresh;
                let compared = tokio::select! {
                    compared = self.compare(connection) => compared,
                    _ = stop.wait_for(|stop| *stop) => return "stopping".to_owned(),
                    gone = connection.ended() => return gone.detail,
                };
                again = match compared {
                    Ok(()) => {
                        trouble = Backoff::default();
                        // one that never stops to say that its list changed waits for itself, not for the house
                        Some(Instant::now() + PAUSE)
                    }
                    Err(why) => {
                        self.failed(&why);
                        Some(Instant::now() + trouble.next())
                    }
                };
                // those who wait for the comparison look again
                self.phase.send_modify(|_| {});
                continue;
            }
            let next = if self.house.is_stale() { again.unwrap_or(refresh).min(refresh) } else { refresh };
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return "stopping".to_owned(),
                gone = connection.ended() => return gone.detail,
                () = self.house.wake.notified() => {}
                () = sleep_until(next) => {}
                () = sleep(Duration::from_secs(30)) => {
                    if let Some(Ok(endpoint)) = &self.endpoint {
                        endpoint.sweep();
                    }
                }
                () = &mut listening => {}
            }
        }
    }

    /// Listens for changes for ever.
    async fn listen(&self, connection: &Connection, uris: Vec<String>) {
        let mut backoff = Backoff::default();
        loop {
            let since = Instant::now();
            if !connection.listen(uris.clone()).await {
                std::future::pending::<()>().await;
            }
            if since.elapsed() >= STABLE {
                backoff = Backoff::default();
            }
            sleep(backoff.next()).await;
            // something may have changed while nobody listened
            self.house.doubt();
        }
    }

    fn wanted(&self) -> Vec<String> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).wanted.keys().cloned().collect()
    }

    /// Brings subscriptions in line with what is wanted (handshake era).
    async fn resubscribe(&self, connection: &Connection) {
        if connection.peer.modern {
            return;
        }
        let (more, less) = {
            let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            let more: Vec<_> = watched.wanted.keys().filter(|uri| !watched.active.contains(*uri)).cloned().collect();
            let less: Vec<_> =
                watched.active.iter().filter(|uri| !watched.wanted.contains_key(*uri)).cloned().collect();
            (more, less)
        };
        for (uri, on) in more.into_iter().map(|uri| (uri, true)).chain(less.into_iter().map(|uri| (uri, false))) {
            if let Err(why) = connection.watch(&uri, on).await {
                self.failed(&why);
            }
            // one that failed is not tried again on this connection
            self.active(uri, on);
        }
    }

    fn active(&self, uri: String, on: bool) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if on {
            watched.active.insert(uri);
        } else {
            watched.active.remove(&uri);
        }
    }

    /// Watches a resource, under the contract that the caller was judged by.
    ///
    /// # Errors
    /// How it ended otherwise.
    pub(super) async fn subscribe(self: &Arc<Self>, uri: &str, under: &Tool) -> Result<Subscription, Outcome> {
        let not_sent = |why: String, wait: Duration| {
            let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            Outcome::NotSent { why, retry_after_ms, busy: false }
        };
        let never = |why: String| not_sent(why, Duration::from_secs(60));
        if self.house.leases.is_on_behalf() {
            // one stream of changes would serve every user
            return Err(never("resources are not watched on behalf of users".to_owned()));
        }
        let connection = self.connection(self.config.timeout).await.map_err(|(why, wait)| not_sent(why, wait))?;
        if !self.house.offered(under) {
            return Err(never("its resources are not what their contract says any more".to_owned()));
        }
        let declared = connection.peer.capabilities.get("resources").and_then(|declared| declared.get("subscribe"));
        if declared.and_then(Value::as_bool) != Some(true) {
            return Err(never("it does not report changes of single resources".to_owned()));
        }
        let new = {
            let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            if watched.wanted.len() >= WATCHED {
                return Err(never(format!("{WATCHED} of its resources are watched already")));
            }
            !watched.active.contains(uri)
        };
        if new && !connection.peer.modern {
            let watched = connection.watch(uri, true).await;
            watched.map_err(|detail| Outcome::Unknown { why: "bad_answer", detail })?;
            self.active(uri.to_owned(), true);
        }
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner).wanted.entry(uri.to_owned()).or_default() += 1;
        self.house.wake.notify_one();
        Ok(Subscription { upstream: Arc::clone(self), uri: uri.to_owned() })
    }

    fn is_current(&self, connection: &Arc<Connection>) -> bool {
        matches!(&*self.phase.borrow(), Phase::Ready(current) if Arc::ptr_eq(current, connection))
    }

    /// Says that a connection is of no use any more.
    fn lost(&self, connection: &Arc<Connection>) {
        let was_current = self.phase.send_if_modified(|phase| {
            let current = matches!(phase, Phase::Ready(current) if Arc::ptr_eq(current, connection));
            if current {
                *phase = Phase::Connecting;
            }
            current
        });
        if was_current {
            self.house.wake.notify_one();
        }
    }

    /// The connection, once its tools have been compared; waits for that at most so long.
    ///
    /// # Errors
    /// Why there is none, and when to try again.
    pub(super) async fn connection(&self, within: Duration) -> Result<Arc<Connection>, (String, Duration)> {
        let judged = |phase: &Phase| match phase {
            Phase::Ready(connection) if !self.house.is_stale() => Some(Ok(Arc::clone(connection))),
            Phase::Ready(_) | Phase::Connecting => None,
            Phase::Idle => Some(Err(("it has not been started".to_owned(), Duration::from_secs(1)))),
            Phase::Waiting { until, why } => {
                let wait = until.saturating_duration_since(Instant::now());
                Some(Err((format!("it cannot be reached: {why}"), wait.max(Duration::from_millis(100)))))
            }
            Phase::Stopped => Some(Err(("it was stopped".to_owned(), Duration::from_secs(1)))),
        };
        if let Some(at_once) = judged(&self.phase.borrow()) {
            return at_once;
        }
        let mut phase = self.phase.subscribe();
        let settled = async {
            loop {
                if let Some(found) = judged(&phase.borrow_and_update()) {
                    return found;
                }
                if phase.changed().await.is_err() {
                    return Err(("it was stopped".to_owned(), Duration::from_secs(1)));
                }
            }
        };
        tokio::time::timeout(within, settled)
            .await
            .unwrap_or_else(|_| Err(("it is not ready in time".to_owned(), Duration::from_secs(1))))
    }

    /// Every page of a list.
    pub(super) async fn list(&self, listing: Listing) -> Result<Arc<Vec<Value>>, String> {
        if let Some(items) = self.house.cached(listing) {
            return Ok(items);
        }
        let connection = self.connection(self.config.timeout).await.map_err(|(why, _)| why)?;
        let (items, life) = connection.list(listing).await?;
        let items = Arc::new(items);
        let life = life.unwrap_or(self.config.refresh).min(self.config.refresh);
        if !life.is_zero() {
            self.house.cache(listing, &items, life);
        }
        Ok(items)
    }

    /// The tools, now.
    pub(super) async fn tools(&self) -> Result<Advertised, String> {
        if self.house.is_open() {
            let connection = self.connection(Duration::from_secs(60)).await.map_err(|(why, _)| why)?;
            return Ok(Advertised { tools: connection.tools().await? });
        }
        let connection = self.open().await?;
        let tools = connection.tools().await;
        connection.close().await;
        Ok(Advertised { tools: tools? })
    }

    pub(super) fn capability(&self, capability: &str) -> Option<Value> {
        self.known(|known| known.capabilities.get(capability).cloned())
    }

    pub(super) fn was_met(&self) -> bool {
        self.known(|known| known.protocol.is_some())
    }

    pub(super) fn status(&self) -> Status {
        let state = match &*self.phase.borrow() {
            Phase::Idle => "idle",
            Phase::Stopped => "stopped",
            Phase::Waiting { .. } => "broken",
            _ if self.circuit.is_open() => "broken",
            Phase::Connecting => "connecting",
            Phase::Ready(_) => "ready",
        };
        self.known(|known| Status {
            name: self.house.name.clone(),
            state,
            protocol: known.protocol.clone(),
            in_flight: self.under_way.load(Ordering::Relaxed),
            last_error: known.last_error.clone(),
            account: self.house.leases.account(),
        })
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// A session to send the call in, when its client can be asked only while the call runs, as sessions have it,
    /// and the server speaks the newer generation too. Questions that are granted reach the client there.
    async fn session_for<C: Sendable>(&self, connection: &Arc<Connection>, call: &C) -> Option<Arc<Connection>> {
        let Some(Ok(endpoint)) = &self.endpoint else { return None };
        let side = Side { link: call.link(), principal: call.principal() };
        let fits = connection.peer.modern && !side.link.client.modern && call.operation() == Operation::CallTool;
        if !fits || self.house.capabilities(side).is_empty() {
            return None;
        }
        let mut beside = self.beside.lock().await;
        let told = self.house.told();
        if beside.session.as_ref().is_none_or(|session| session.told != told || session.until <= Instant::now()) {
            if beside.not_before.is_some_and(|then| Instant::now() < then) {
                return None;
            }
            let known = beside.session.take().map(|session| session.connection);
            match self.begin_session(endpoint, known).await {
                Ok((connection, tools)) => {
                    let until = Instant::now() + self.config.refresh;
                    beside.session = Some(Session { connection, tools, told, until });
                }
                Err(why) => {
                    tracing::debug!(upstream = %self.house.name, why, "it has no sessions");
                    beside.not_before = Some(Instant::now() + self.config.refresh);
                }
            }
        }
        let session = beside.session.as_ref()?;
        // INVARIANT: no call leaves for a tool that is not what was reviewed
        let reviewed = digest_of(&call.tool().definition)?;
        let same = *session.tools.get(&call.tool().wire_name)? == Some(reviewed);
        same.then(|| Arc::clone(&session.connection))
    }

    async fn begin_session(
        &self,
        endpoint: &Arc<Endpoint>,
        known: Option<Arc<Connection>>,
    ) -> Result<(Arc<Connection>, BTreeMap<String, Option<Digest>>), String> {
        let connection = match known {
            Some(connection) => connection,
            None => {
                let mut era = Era::Legacy;
                Arc::new(Connection::open(&self.house, &self.config, Some(endpoint), &mut era).await?)
            }
        };
        let mut tools = BTreeMap::new();
        let listed = match connection.tools().await {
            Ok(listed) => listed,
            Err(why) => {
                connection.close().await;
                return Err(why);
            }
        };
        for definition in &listed {
            if let Some(name) = definition.get("name").and_then(Value::as_str) {
                tools.entry(name.to_owned()).and_modify(|known| *known = None).or_insert_with(|| digest_of(definition));
            }
        }
        Ok((connection, tools))
    }

    async fn forget_session(&self, gone: &Arc<Connection>) {
        let mut beside = self.beside.lock().await;
        if beside.session.as_ref().is_some_and(|session| Arc::ptr_eq(&session.connection, gone)) {
            beside.session = None;
        }
    }

    /// What the upstream is shown for a call, or how the call ends without.
    async fn lease<C: Sendable>(&self, call: &C) -> Result<Option<Arc<Lease>>, Outcome> {
        let leased = tokio::select! {
            biased;
            leased = self.house.leases.for_call(call.principal(), self.config.timeout) => leased,
            () = call.link().cancelled() => {
                let why = "the client gave up".to_owned();
                return Err(Outcome::NotSent { why, retry_after_ms: 1_000, busy: false });
            }
        };
        leased.map_err(|NoLease { refused, why }| {
            self.known(|known| known.last_error = Some(why.clone()));
            Outcome::NoCredential { refused, why }
        })
    }

    async fn deliver<C: Sendable>(&self, call: &C, lease: Option<&Arc<Lease>>, until: Instant) -> (Outcome, Health) {
        let unready = |why: String, wait: Duration, health| {
            let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            (Outcome::NotSent { why, retry_after_ms, busy: false }, health)
        };
        let stop = self.stop.subscribe();
        let mut first = true;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut connected = pin!(self.connection(left));
            let connection = tokio::select! {
                biased;
                connected = &mut connected => match connected {
                    Ok(connection) => connection,
                    Err((why, wait)) => return unready(why, wait, Health::Neutral),
                },
                () = call.link().cancelled() => {
                    return unready("the client gave up".to_owned(), Duration::from_secs(1), Health::Neutral);
                }
            };
            // INVARIANT: no call leaves for a tool that is not what was reviewed
            if !self.house.offered(call.tool()) {
                let why = "the tool is not what its contract says any more".to_owned();
                return unready(why, Duration::from_secs(60), Health::Neutral);
            }
            let left = until.saturating_duration_since(Instant::now());
            let session = tokio::time::timeout(left, self.session_for(&connection, call)).await.ok().flatten();
            let left = until.saturating_duration_since(Instant::now());
            match session.as_ref().unwrap_or(&connection).call(call, lease, left, &stop).await {
                Called::Ended(outcome) => {
                    let health = match &outcome {
                        Outcome::Result { .. } | Outcome::Error { .. } => Health::Good,
                        Outcome::Unknown { why: "cancelled" | "stopping", .. } => Health::Neutral,
                        Outcome::NotSent { .. } if call.link().is_cancelled() => Health::Neutral,
                        Outcome::NoCredential { .. } => Health::Neutral,
                        Outcome::Unknown { .. } | Outcome::NotSent { .. } => Health::Bad,
                    };
                    if let Outcome::Unknown { detail, .. } | Outcome::NotSent { why: detail, .. } = &outcome {
                        self.failed(detail);
                    }
                    return (outcome, health);
                }
                Called::SessionGone => {
                    match &session {
                        Some(session) => self.forget_session(session).await,
                        None => self.lost(&connection),
                    }
                    if !std::mem::take(&mut first) {
                        let why = "its sessions end as soon as they begin".to_owned();
                        return unready(why, Duration::from_secs(1), Health::Bad);
                    }
                }
            }
        }
    }
}

/// `None` for a definition that has no canonical form: it is like no other.
fn digest_of(definition: &Value) -> Option<Digest> {
    Some(Canonical::of(definition.clone()).ok()?.digest())
}

/// Counts a call that is under way.
struct UnderWay(Arc<Upstream>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sends calls to one upstream.
#[derive(Clone)]
pub(super) struct Deliver(pub(super) Arc<Upstream>);

impl<C: Sendable> Service<C> for Deliver {
    type Response = Ended<C>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Ended<C>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: C) -> Self::Future {
        let upstream = Arc::clone(&self.0);
        upstream.under_way.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(upstream);
        Box::pin(async move {
            let start = Instant::now();
            let until = start + under_way.0.config.timeout;
            // before anything is looked at that could change meanwhile
            let (outcome, health, lease) = match under_way.0.lease(&call).await {
                Ok(lease) => {
                    let (outcome, health) = under_way.0.deliver(&call, lease.as_ref(), until).await;
                    (outcome, health, lease.map(|lease| Arc::clone(lease.id())))
                }
                Err(outcome) => (outcome, Health::Neutral, None),
            };
            Ok(Ended { call, outcome, took: start.elapsed(), health, lease })
        })
    }
}

/// Somebody wants to know of changes of one resource; until this is dropped.
pub struct Subscription {
    upstream: Arc<Upstream>,
    uri: String,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("upstream", &self.upstream.house.name).field("uri", &self.uri).finish()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut watched = self.upstream.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = watched.wanted.get_mut(&self.uri) {
            *count -= 1;
            if *count == 0 {
                watched.wanted.remove(&self.uri);
                self.upstream.house.wake.notify_one();
            }
        }
    }
}
