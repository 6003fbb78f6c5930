//! Leases: what tool servers are shown, had when a call needs it, for that tool server only, and for a time.
//!
//! A call has been permitted and recorded when `LeasesOf::for_call` is asked. What it gives is recorded too
//! (`credential.leased`) before anybody is shown it, is kept until it ends, and is fetched by one at a time; who waits for
//! it waits no longer than their call may. A lease that a tool server does not take is dropped: no call is sent twice, and
//! the next one gets another. Connecting, and listing what there is, needs no call: it has a lease of its own.
//!
//! A fetch belongs to [`Leases`], not to the call that began it: a server may have replaced a refresh token in the moment
//! in which the call was given up. The protocol is small and its bytes are secrets, so that `server` speaks it itself and
//! writes them over; where people are sent to consent, is the `oauth2` crate's to say.

mod account;
mod assertion;
mod connect;
mod secret;
mod server;
#[cfg(test)]
mod tests;

pub use assertion::{Behalf, OwnKey, SignClaims, Signs};
pub use connect::{AccountState, Begun, Came, NotConnected};

use std::{
    borrow::Cow,
    collections::{BTreeMap, VecDeque},
    fmt,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{Instant, timeout},
};
use zeroize::Zeroizing;

use account::{Account, Drawer};
use secret::reveal;
use server::{Answer, NoToken, Server, Text};

use crate::{
    call::{Fault, Principal, Refused},
    clock::{Clock, Timestamp, ulid},
    config::{Flow, Secret, Transport, UpstreamAuth, UpstreamConfig},
    contract::UpstreamName,
    ledger::{Event, Ledger},
    reach::Resolver,
};

/// Leases at once: of tool servers, and of their users and tasks.
const MOST: usize = 4_096;
/// Fetches at once.
const AT_ONCE: usize = 64;
/// How long a failure is remembered.
const AGAIN: Duration = Duration::from_secs(5);
/// The same for an account that the authorization server does not take any more.
const REVOKED: Duration = Duration::from_secs(60);
/// How often a secret's file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long before its end a lease is not begun with any more; a tenth of its life where that is less.
const MARGIN: Duration = Duration::from_secs(30);
/// Leases that have ended and are kept out of logs all the same.
const ENDED: usize = 16;
/// The shortest text that is a secret.
const SECRET: usize = 8;

/// A credential for one tool server, for a time. It shows its value to nobody but that tool server, and is written over
/// once nobody holds it any more.
pub struct Lease {
    id: Arc<str>,
    key: Key,
    name: HeaderName,
    value: HeaderValue,
    /// When it ends, if that is known.
    expires: Option<Timestamp>,
    /// From when on it is not begun with any more.
    until: Option<Timestamp>,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("id", &self.id).field("key", &self.key).finish_non_exhaustive()
    }
}

impl Lease {
    /// What the ledger names it by: `lease_` and a ULID.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The header that it is.
    pub(crate) fn header(&self) -> (HeaderName, HeaderValue) {
        (self.name.clone(), self.value.clone())
    }

    fn is_good(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }

    /// The text with what is secret of it left out.
    fn conceal<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        let value = std::str::from_utf8(self.value.as_bytes()).unwrap_or_default();
        // `Bearer …`: the word before it is none
        value.split(' ').filter(|word| word.len() >= SECRET).fold(text, |text, word| match text.contains(word) {
            true => text.replace(word, "<secret>").into(),
            false => text,
        })
    }
}

/// Why there is no lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoLease {
    /// What an agent is told.
    pub refused: Refused,
    /// What an operator is told.
    pub why: String,
}

impl NoLease {
    fn unavailable(why: impl Into<String>) -> Self {
        Self::after(why, AGAIN)
    }

    fn after(why: impl Into<String>, wait: Duration) -> Self {
        let retry_after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Self { refused: Refused::CredentialUnavailable { retry_after_ms }, why: why.into() }
    }

    fn not_connected() -> Self {
        let why = "nobody has connected an account with it: an approver does so in the console, at `/upstreams`";
        Self { refused: Refused::AccountNotConnected, why: why.to_owned() }
    }
}

impl From<Fault> for NoLease {
    fn from(fault: Fault) -> Self {
        Self::unavailable(fault.0)
    }
}

/// What a lease is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    upstream: UpstreamName,
    /// On whose behalf, where it is on anybody's.
    behalf: Option<Behalf>,
}

/// Where the leases of one tool server come from.
struct Source {
    auth: UpstreamAuth,
    server: Option<Arc<Server>>,
    drawer: Option<Drawer>,
    /// The turn of those who use the account.
    turn: tokio::sync::Mutex<()>,
    ended: Mutex<VecDeque<Arc<Lease>>>,
    /// Wakes the one who keeps the tool server's connection.
    changed: Notify,
}

type Done = Option<Result<Arc<Lease>, NoLease>>;

enum Slot {
    /// It is being fetched; the number tells one fetch from another.
    Fetching(u64, watch::Receiver<Done>),
    /// It is there, and where it has a file, that is looked at again then.
    Have(Arc<Lease>, Option<Instant>),
    /// It could not be had, and is not tried again before then.
    Failed(NoLease, Instant),
}

/// The leases of a house.
#[derive(Clone, Default)]
pub struct Leases {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    sources: BTreeMap<UpstreamName, Source>,
    slots: Mutex<BTreeMap<Key, Slot>>,
    fetches: AtomicU64,
    places: Option<Arc<Semaphore>>,
    tasks: Mutex<JoinSet<()>>,
    signs: Option<Arc<dyn Signs>>,
    ledger: Option<Ledger>,
    clock: Clock,
}

impl fmt::Debug for Leases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.inner.sources.keys()).finish()
    }
}

/// The leases of one tool server.
#[derive(Clone, Debug)]
pub(crate) struct LeasesOf {
    leases: Leases,
    upstream: UpstreamName,
}

impl Leases {
    /// Makes ready to lease what the tool servers want; nothing is fetched yet. `data` is the data folder.
    ///
    /// # Errors
    /// [`Fault`] when an account that is kept cannot be read, or TLS cannot be set up.
    pub fn open(
        configs: &BTreeMap<UpstreamName, UpstreamConfig>,
        data: &Path,
        ledger: Ledger,
        signs: Arc<dyn Signs>,
        resolver: &Arc<dyn Resolver>,
        clock: Clock,
    ) -> Result<Self, Fault> {
        let mut sources = BTreeMap::new();
        for (name, config) in configs {
            if matches!(config.auth, UpstreamAuth::None) || matches!(config.transport, Transport::Stdio { .. }) {
                continue;
            }
            let (server, drawer) = match &config.auth {
                UpstreamAuth::OAuth(oauth) => {
                    let server = Arc::new(Server::new(oauth.as_ref().clone(), Arc::clone(resolver))?);
                    let keeps = matches!(oauth.flow, Flow::AuthorizationCode | Flow::RefreshToken(_));
                    (Some(server), keeps.then(|| Drawer::open(data, name, oauth)).transpose()?)
                }
                _ => (None, None),
            };
            let (turn, ended, changed) = Default::default();
            sources.insert(name.clone(), Source { auth: config.auth.clone(), server, drawer, turn, ended, changed });
        }
        let inner = Inner {
            sources,
            places: Some(Arc::new(Semaphore::new(AT_ONCE))),
            signs: Some(signs),
            ledger: Some(ledger),
            clock,
            ..Inner::default()
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Those of one tool server.
    pub(crate) fn of(&self, upstream: &UpstreamName) -> LeasesOf {
        LeasesOf { leases: self.clone(), upstream: upstream.clone() }
    }

    /// Drops every lease of a task, those that are being fetched too; gives how many could be used.
    pub fn end_task(&self, task: &str) -> usize {
        let of_it = |key: &Key| key.behalf.as_ref().is_some_and(|behalf| behalf.task.as_deref() == Some(task));
        self.inner.end(of_it)
    }

    /// Waits for the fetches under way to end: what a server has replaced meanwhile is kept then.
    pub async fn settle(&self) {
        let mut tasks = std::mem::take(&mut *self.inner.tasks());
        while tasks.join_next().await.is_some() {}
    }
}

impl LeasesOf {
    /// What a call is sent with; `None` where its tool server is shown nothing. Waits at most so long.
    ///
    /// # Errors
    /// [`NoLease`]
    pub(crate) async fn for_call(
        &self,
        principal: &Principal,
        within: Duration,
    ) -> Result<Option<Arc<Lease>>, NoLease> {
        let Some(source) = self.leases.inner.sources.get(&self.upstream) else { return Ok(None) };
        let behalf = match source.flow() {
            Some(Flow::TokenExchange) => Some(behalf_of(principal, source.users_of())?),
            _ => None,
        };
        let key = Key { upstream: self.upstream.clone(), behalf };
        self.leases.inner.lease(key, within).await.map(Some)
    }

    /// What is shown when there is no call: connecting, listing.
    ///
    /// # Errors
    /// [`NoLease`]
    pub(crate) async fn for_service(&self, within: Duration) -> Result<Option<Arc<Lease>>, NoLease> {
        if !self.leases.inner.sources.contains_key(&self.upstream) {
            return Ok(None);
        }
        let key = Key { upstream: self.upstream.clone(), behalf: None };
        self.leases.inner.lease(key, within).await.map(Some)
    }

    /// The same, if there is one already.
    pub(crate) fn at_hand(&self) -> Option<Arc<Lease>> {
        let slots = self.leases.inner.slots();
        match slots.get(&Key { upstream: self.upstream.clone(), behalf: None }) {
            Some(Slot::Have(lease, _)) => Some(Arc::clone(lease)),
            _ => None,
        }
    }

    /// Whether calls are made on behalf of users.
    pub(crate) fn is_on_behalf(&self) -> bool {
        let source = self.leases.inner.sources.get(&self.upstream);
        source.is_some_and(|source| matches!(source.flow(), Some(Flow::TokenExchange)))
    }

    /// The tool server did not take it: the next call gets another.
    pub(crate) fn not_taken(&self, lease: &Arc<Lease>) {
        tracing::warn!(upstream = %self.upstream, lease = %lease.id, "the tool server does not take its credential");
        let mut slots = self.leases.inner.slots();
        if matches!(slots.get(&lease.key), Some(Slot::Have(have, _)) if Arc::ptr_eq(have, lease)) {
            slots.remove(&lease.key);
            drop(slots);
            self.leases.inner.put_aside(lease);
        }
    }

    /// The text without any credential that the tool server was shown.
    pub(crate) fn conceal<'t>(&self, text: Cow<'t, str>) -> Cow<'t, str> {
        let inner = &self.leases.inner;
        let Some(source) = inner.sources.get(&self.upstream) else { return text };
        let mut text = text;
        for (_, slot) in inner.slots().iter().filter(|(key, _)| key.upstream == self.upstream) {
            if let Slot::Have(lease, _) = slot {
                text = lease.conceal(text);
            }
        }
        let ended = source.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.iter().fold(text, |text, lease| lease.conceal(text))
    }

    /// Returns once an account was connected; never, where none is wanted.
    pub(crate) async fn changed(&self) {
        match self.leases.inner.sources.get(&self.upstream) {
            Some(source) => source.changed.notified().await,
            None => std::future::pending().await,
        }
    }

    /// `connected` or `not_connected`, where an account is wanted.
    pub(crate) fn account(&self) -> Option<&'static str> {
        let drawer = self.leases.inner.sources.get(&self.upstream)?.wants_account()?;
        Some(if drawer.connected().is_some() { "connected" } else { "not_connected" })
    }
}

/// On whose behalf a call is.
fn behalf_of(principal: &Principal, users_of: &[String]) -> Result<Behalf, NoLease> {
    let Some(user) = principal.user.clone() else {
        let why = "it is called on behalf of users, and this call names none";
        return Err(NoLease { refused: Refused::UserRequired, why: why.to_owned() });
    };
    if !users_of.contains(&principal.issuer) {
        let why = format!("the users of `{}` are none of its authorization server's: see `users_of`", principal.issuer);
        return Err(NoLease { refused: Refused::UserRequired, why });
    }
    let mut agents = principal.chain.clone();
    if !agents.contains(&principal.agent) {
        agents.insert(0, principal.agent.clone());
    }
    Ok(Behalf { user, issuer: principal.issuer.clone(), task: principal.task.clone(), agents })
}

impl Source {
    fn flow(&self) -> Option<&Flow> {
        match &self.auth {
            UpstreamAuth::OAuth(oauth) => Some(&oauth.flow),
            _ => None,
        }
    }

    fn users_of(&self) -> &[String] {
        match &self.auth {
            UpstreamAuth::OAuth(oauth) => &oauth.users_of,
            _ => &[],
        }
    }

    /// Where its account is, if an approver is to connect one.
    fn wants_account(&self) -> Option<&Drawer> {
        self.drawer.as_ref().filter(|_| matches!(self.flow(), Some(Flow::AuthorizationCode)))
    }

    /// The kind, for the ledger.
    fn word(&self) -> &'static str {
        match &self.auth {
            UpstreamAuth::OAuth(oauth) => oauth.flow.word(),
            UpstreamAuth::Header { .. } | UpstreamAuth::None => "header",
        }
    }
}

impl Inner {
    fn slots(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a lease that has ended out of logs for a while.
    fn put_aside(&self, lease: &Arc<Lease>) {
        let Some(source) = self.sources.get(&lease.key.upstream) else { return };
        let mut ended = source.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.truncate(ENDED - 1);
        ended.push_front(Arc::clone(lease));
    }

    /// Drops those that are meant.
    fn end(&self, meant: impl Fn(&Key) -> bool) -> usize {
        let mut ended = Vec::new();
        self.slots().retain(|key, slot| {
            let keep = !meant(key);
            if let (false, Slot::Have(lease, _)) = (keep, &*slot) {
                ended.push(Arc::clone(lease));
            }
            keep
        });
        ended.iter().for_each(|lease| self.put_aside(lease));
        ended.len()
    }

    async fn lease(self: &Arc<Self>, key: Key, within: Duration) -> Result<Arc<Lease>, NoLease> {
        let mut done = match self.look(key)? {
            Found::Lease(lease) => return Ok(lease),
            Found::Wait(done) => done,
        };
        let waited = timeout(within, done.wait_for(Option::is_some)).await;
        match waited {
            Ok(Ok(done)) => done.clone().unwrap_or_else(|| Err(NoLease::unavailable("it was not fetched"))),
            Ok(Err(_)) => Err(NoLease::unavailable("fetching it was cut short")),
            Err(_) => Err(NoLease::unavailable("it was not fetched in time")),
        }
    }

    /// What there is of it; begins a fetch where there is nothing.
    fn look(self: &Arc<Self>, key: Key) -> Result<Found, NoLease> {
        let now = self.clock.now();
        let mut slots = self.slots();
        let mut before = None;
        match slots.get(&key) {
            Some(Slot::Fetching(_, done)) if done.has_changed().is_ok() || done.borrow().is_some() => {
                return Ok(Found::Wait(done.clone()));
            }
            Some(Slot::Have(lease, again)) if lease.is_good(now) => {
                if again.is_none_or(|again| Instant::now() < again) {
                    return Ok(Found::Lease(Arc::clone(lease)));
                }
                before = Some(Arc::clone(lease));
            }
            Some(Slot::Failed(why, until)) if Instant::now() < *until => return Err(why.clone()),
            Some(Slot::Have(lease, _)) => self.put_aside(lease),
            Some(_) | None => {}
        }
        if slots.len() >= MOST && !slots.contains_key(&key) {
            make_room(&mut slots)?;
        }
        let busy = || NoLease::unavailable("too many credentials are being fetched");
        let places = self.places.as_ref().ok_or_else(busy)?;
        let place = Arc::clone(places).try_acquire_owned().map_err(|_| busy())?;
        let number = self.fetches.fetch_add(1, Ordering::Relaxed);
        let (tell, done) = watch::channel(None);
        slots.insert(key.clone(), Slot::Fetching(number, done.clone()));
        drop(slots);
        let leases = Arc::clone(self);
        let fetch = async move {
            let fetched = leases.fetch(&key, before).await;
            let fetched = leases.fetched(&key, number, fetched);
            drop(place);
            // nobody may wait any more
            let _waiting = tell.send(Some(fetched));
        };
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(fetch);
        Ok(Found::Wait(done))
    }

    /// Puts what was fetched where it belongs, if it is still wanted.
    fn fetched(
        &self,
        key: &Key,
        number: u64,
        fetched: Result<(Arc<Lease>, Option<Instant>), (NoLease, Duration)>,
    ) -> Result<Arc<Lease>, NoLease> {
        let mut slots = self.slots();
        let wanted = matches!(slots.get(key), Some(Slot::Fetching(now, _)) if *now == number);
        if !wanted {
            drop(slots);
            if let Ok((lease, _)) = &fetched {
                self.put_aside(lease);
            }
            return Err(NoLease::unavailable("it was dropped while it was fetched"));
        }
        match fetched {
            Ok((lease, again)) => {
                slots.insert(key.clone(), Slot::Have(Arc::clone(&lease), again));
                Ok(lease)
            }
            Err((why, wait)) => {
                tracing::warn!(upstream = %key.upstream, "there is no credential for it: {}", why.why);
                slots.insert(key.clone(), Slot::Failed(why.clone(), Instant::now() + wait));
                Err(why)
            }
        }
    }

    async fn fetch(
        &self,
        key: &Key,
        before: Option<Arc<Lease>>,
    ) -> Result<(Arc<Lease>, Option<Instant>), (NoLease, Duration)> {
        let fault = |fault: Fault| (NoLease::from(fault), AGAIN);
        let source = self.sources.get(&key.upstream);
        let source = source.ok_or_else(|| (NoLease::unavailable("there is no such tool server"), AGAIN))?;
        let (name, prefix, value, life, again) = match &source.auth {
            UpstreamAuth::None => return Err((NoLease::unavailable("it is shown nothing"), AGAIN)),
            UpstreamAuth::Header { name, before, value } => {
                let again = matches!(value, Secret::File(_)).then(|| Instant::now() + LOOK);
                let value = reveal(value.clone()).await.map_err(fault)?;
                (name.as_str(), *before, value, None, again)
            }
            UpstreamAuth::OAuth(_) => {
                let (token, life) = self.token(source, key).await?;
                ("authorization", "Bearer ", token, Some(life), None)
            }
        };
        let value = header(prefix, &value).map_err(fault)?;
        if let Some(before) = before.filter(|before| before.value == value) {
            return Ok((before, again));
        }
        let lease = self.record(key, source, name, value, life).await.map_err(fault)?;
        Ok((lease, again))
    }

    /// An access token, and how long it is good.
    async fn token(&self, source: &Source, key: &Key) -> Result<(Zeroizing<String>, Duration), (NoLease, Duration)> {
        let lacks = |why: &str| (NoLease::unavailable(why), AGAIN);
        let no = |why: NoToken| (NoLease::unavailable(why.to_string()), AGAIN);
        let server = source.server.as_ref().ok_or_else(|| lacks("there is no authorization server"))?;
        let had = |answer: Answer| (answer.access_token.0.clone(), answer.life());
        match (&server.config().flow, &key.behalf) {
            (Flow::TokenExchange, Some(behalf)) => {
                let signs = self.signs.as_ref().ok_or_else(|| lacks("nothing can be signed"))?;
                let metadata = server.metadata().await.map_err(no)?;
                let audience = metadata.issuer.as_deref().unwrap_or(metadata.token.as_str());
                let subject = signs.assertion(behalf, audience).map_err(|fault| (fault.into(), AGAIN))?;
                let grant = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                    ("subject_token", subject.as_str()),
                    ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
                    ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
                ];
                server.token(&grant, true).await.map(had).map_err(no)
            }
            (Flow::ClientCredentials | Flow::TokenExchange, _) => {
                server.token(&[("grant_type", "client_credentials")], true).await.map(had).map_err(no)
            }
            (Flow::RefreshToken(_) | Flow::AuthorizationCode, _) => self.of_account(source, server).await,
        }
    }

    /// An access token of an account.
    async fn of_account(
        &self,
        source: &Source,
        server: &Server,
    ) -> Result<(Zeroizing<String>, Duration), (NoLease, Duration)> {
        let fault = |fault: Fault| (NoLease::from(fault), AGAIN);
        let missing = || (NoLease::not_connected(), AGAIN);
        // connecting and disconnecting wait until this is done
        let _turn = source.turn.lock().await;
        let drawer = source.drawer.as_ref().ok_or_else(missing)?;
        let mut account = match &server.config().flow {
            Flow::RefreshToken(token) => {
                let token = reveal(token.clone()).await.map_err(fault)?;
                let kept = drawer.rotated(&token);
                kept.unwrap_or_else(|| Account::configured(drawer, token, self.clock.now()))
            }
            _ => drawer.connected().ok_or_else(missing)?,
        };
        let now = self.clock.now();
        let Some(refresh) = account.refresh_token.clone() else {
            let left = account.until.map(|until| until.duration_since(now)).filter(|left| left.is_positive());
            return match (account.access_token, left.and_then(|left| Duration::try_from(left).ok())) {
                (Some(token), Some(left)) => Ok((token.0, left)),
                _ => {
                    drawer.fared(Some(("the authorization server gave nothing to go on with".to_owned(), now)));
                    Err((NoLease::not_connected(), REVOKED))
                }
            };
        };
        let grant = [("grant_type", "refresh_token"), ("refresh_token", refresh.0.as_str())];
        let answer = match server.token(&grant, false).await {
            Ok(answer) => answer,
            Err(why) => {
                drawer.fared(Some((why.to_string(), now)));
                let ended = why == NoToken::Refused("invalid_grant");
                return Err(match ended && source.wants_account().is_some() {
                    true => (NoLease { why: why.to_string(), ..NoLease::not_connected() }, REVOKED),
                    false => (NoLease::unavailable(why.to_string()), if ended { REVOKED } else { AGAIN }),
                });
            }
        };
        // INVARIANT: a refresh token that was replaced is durable before what came with it is used
        if account.renew(&answer, now) {
            drawer.keep(account).await.map_err(fault)?;
        }
        drawer.fared(None);
        Ok((answer.access_token.0.clone(), answer.life()))
    }

    /// Writes down that there is a lease, and gives it.
    async fn record(
        &self,
        key: &Key,
        source: &Source,
        name: &str,
        value: HeaderValue,
        life: Option<Duration>,
    ) -> Result<Arc<Lease>, Fault> {
        let now = self.clock.now();
        let id = format!("lease_{}", ulid(now).map_err(|error| Fault(error.to_string()))?);
        let after = |length: Duration| now.checked_add(length).unwrap_or(now);
        let expires = life.map(after);
        let until = life.map(|life| after(life.saturating_sub(MARGIN.min(life / 10))));
        let ledger = self.ledger.as_ref().ok_or_else(|| Fault("there is no ledger".to_owned()))?;
        let behalf = key.behalf.as_ref();
        ledger
            .note(Event::CredentialLeased {
                lease: id.clone(),
                upstream: key.upstream.to_string(),
                // without a call, the client of the exchange asks for itself
                auth: match (source.flow(), behalf) {
                    (Some(Flow::TokenExchange), None) => Flow::ClientCredentials.word(),
                    _ => source.word(),
                },
                agent: behalf.and_then(|behalf| behalf.agents.last().cloned()),
                user: behalf.map(|behalf| behalf.user.clone()),
                task: behalf.and_then(|behalf| behalf.task.clone()),
                expires,
            })
            .await?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Fault("no header has that name".to_owned()))?;
        Ok(Arc::new(Lease { id: id.into(), key: key.clone(), name, value, expires, until }))
    }
}

/// See [`Inner::look`].
enum Found {
    Lease(Arc<Lease>),
    Wait(watch::Receiver<Done>),
}

/// Drops the lease that ends first, and every failure.
fn make_room(slots: &mut BTreeMap<Key, Slot>) -> Result<(), NoLease> {
    slots.retain(|_, slot| !matches!(slot, Slot::Failed(..)));
    if slots.len() < MOST {
        return Ok(());
    }
    let had = slots.iter().filter_map(|(key, slot)| match slot {
        Slot::Have(lease, _) => Some((lease.expires.unwrap_or(Timestamp::MAX), key)),
        _ => None,
    });
    let first = had.min().map(|(_, key)| key.clone());
    match first.and_then(|key| slots.remove(&key)) {
        Some(_) => Ok(()),
        None => Err(NoLease::unavailable("too many credentials are being fetched")),
    }
}

/// A header's value whose bytes are written over when nobody needs them any more.
fn header(before: &str, secret: &str) -> Result<HeaderValue, Fault> {
    let mut text = Zeroizing::new(String::with_capacity(before.len() + secret.len()));
    text.push_str(before);
    text.push_str(secret);
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(Text(text)));
    let mut value = value.map_err(|_| Fault("its credential is none that a header can have".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}
