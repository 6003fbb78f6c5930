//! Upstreams: the tool servers behind the wall.
//!
//! [`Upstreams::forward`] and [`Upstreams::subscribe`] take a [`Recorded`] and nothing else: there is no other
//! way to have a tool server do something, or to tell it something of a caller's. Lists, which do nothing and
//! hold nothing that a caller said, go through a closed enum of their own.
//!
//! A call goes down through `queue` (places and a bounded wait), `breaker` and `deliver` (a connection
//! whose tools were compared) to `peer` (one connection, of either protocol generation), which builds its
//! message in `outgoing` and sends it over `stdio` or `http`. What comes back is read in `message`; what
//! an upstream tells or asks meanwhile goes through `house`.

mod backoff;
mod breaker;
mod child;
mod deliver;
mod endpoint;
mod forwarded;
mod house;
mod http;
mod lines;
mod message;
mod outgoing;
mod peer;
mod queue;
mod sse;
mod stdio;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub(crate) use child::{Group, inherited};
pub use deliver::Subscription;
pub use forwarded::{Forwarded, Outcome};

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    sync::broadcast,
    task::JoinSet,
    time::{Instant, timeout},
};
use tower::{Service, ServiceBuilder, ServiceExt as _};

use breaker::{Breaker, BreakerLayer};
use deliver::{Deliver, Ended, Upstream};
use queue::{Queue, QueueLayer};

use crate::{
    call::Principal,
    config::UpstreamConfig,
    contract::{Advertised, Tool, UpstreamName},
    grant::Asked,
    json::{Object, Value},
    lease::Leases,
    ledger::Recorded,
    observe::Metrics,
};

/// What upstreams need to know from the house: implemented by [`crate::pipeline::Pipeline`].
pub trait Host: Send + Sync + 'static {
    /// An upstream told what tools it has: the catalog is made again before this returns.
    fn advertised(&self, upstream: &UpstreamName, advertised: Advertised);

    /// Whether this very contract is still on offer, now that `advertised` has run.
    fn offered(&self, tool: &Tool) -> bool;

    /// Whether an upstream may ask this principal's client, now that it does; counts as a question asked.
    fn may_ask(&self, principal: &Principal, asked: Asked, upstream: &UpstreamName) -> bool;

    /// Whether an upstream could ask this principal's client: what it is told of the client's capabilities.
    fn could_ask(&self, principal: &Principal, asked: Asked, upstream: &UpstreamName) -> bool;
}

/// Something an upstream told about itself between calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `notifications/tools/list_changed`, or a reconnect that changed the list.
    Tools,
    /// `notifications/resources/list_changed`
    Resources,
    /// `notifications/prompts/list_changed`
    Prompts,
    /// `notifications/resources/updated`
    Resource {
        /// The URI.
        uri: String,
    },
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listing {
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    Templates,
    /// `prompts/list`
    Prompts,
}

/// How an upstream fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: UpstreamName,
    /// `idle` (not started yet), `connecting`, `ready`, `broken` (its circuit breaker is open), `stopped`.
    pub state: &'static str,
    /// The protocol revision it speaks, once known.
    pub protocol: Option<String>,
    /// Calls under way.
    pub in_flight: usize,
    /// The last failure, for an operator.
    pub last_error: Option<String>,
    /// Where an approver is to connect an account: `connected` or `not_connected`.
    pub account: Option<&'static str>,
}

/// All upstreams of a server. Dropping it kills the child processes.
pub struct Upstreams {
    roads: BTreeMap<UpstreamName, Road>,
    changes: broadcast::Sender<(UpstreamName, Change)>,
    leases: Leases,
    metrics: Arc<Metrics>,
    keepers: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.roads.keys()).finish()
    }
}

/// The way to one upstream: a place among its calls, its circuit breaker, its connection.
#[derive(Clone)]
struct Road {
    stack: Queue<Breaker<Deliver>>,
    upstream: Arc<Upstream>,
}

impl Road {
    fn new(upstream: Arc<Upstream>) -> Self {
        let config = &upstream.config;
        let stack = ServiceBuilder::new()
            .layer(QueueLayer::new(config.concurrency, config.queue, config.timeout))
            .layer(BreakerLayer(Arc::clone(&upstream.circuit)))
            .service(Deliver(Arc::clone(&upstream)));
        Self { stack, upstream }
    }
}

impl Service<Recorded> for Road {
    type Response = Forwarded;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Forwarded, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Recorded>::poll_ready(&mut self.stack, context)
    }

    fn call(&mut self, call: Recorded) -> Self::Future {
        let ending = self.stack.call(call);
        Box::pin(async move {
            let Ended { call, outcome, took, health: _, lease } = ending.await?;
            Ok(Forwarded::new(call, outcome, took).with(lease))
        })
    }
}

impl Upstreams {
    /// Makes ready to reach the upstreams; nothing is started yet.
    pub fn new(configs: &BTreeMap<UpstreamName, UpstreamConfig>, leases: Leases, metrics: Arc<Metrics>) -> Self {
        let changes = broadcast::Sender::new(256);
        let road = |(name, config): (&UpstreamName, &UpstreamConfig)| {
            let upstream = Upstream::new(name.clone(), config.clone(), changes.clone(), &leases);
            (name.clone(), Road::new(upstream))
        };
        let roads = configs.iter().map(road).collect();
        Self { roads, changes, leases, metrics, keepers: Mutex::default() }
    }

    /// What the upstreams are shown.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    fn upstream(&self, name: &UpstreamName) -> Result<&Arc<Upstream>, String> {
        let road = self.roads.get(name).ok_or_else(|| format!("there is no upstream `{name}`"))?;
        Ok(&road.upstream)
    }

    /// Starts and connects every upstream, in the background, and keeps it so: restarts with backoff,
    /// lists again on `list_changed` and every `refresh`. The house is not kept alive by this: it owns the
    /// upstreams, and without it nothing is sent. Does nothing the second time.
    pub fn start(&self, host: Arc<dyn Host>) {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        for road in self.roads.values() {
            if road.upstream.begin(&host) {
                keepers.spawn(Arc::clone(&road.upstream).keep());
            }
        }
    }

    /// Sends one call and waits for its end. Progress, log lines and questions go to the call's link.
    /// Dropping the future is not a cancellation: the pipeline runs it to its end.
    pub async fn forward(&self, call: Recorded) -> Forwarded {
        let name = call.call().call().tool().upstream.clone();
        let Some(road) = self.roads.get(&name) else {
            let why = format!("there is no upstream `{name}`");
            let outcome = Outcome::NotSent { why, retry_after_ms: 60_000, busy: false };
            return Forwarded::new(call, outcome, Duration::ZERO);
        };
        let Ok(forwarded) = road.clone().oneshot(call).await;
        self.metrics.settled(name.as_str(), forwarded.outcome().word(), forwarded.took());
        forwarded
    }

    /// The tools an upstream advertises now: every page. Connects if need be; for `tool register` and `tool review`.
    ///
    /// # Errors
    /// Why it could not be asked, for an operator.
    pub async fn advertised(&self, upstream: &UpstreamName) -> Result<Advertised, String> {
        self.upstream(upstream)?.tools().await
    }

    /// Every page of a list, cached until the upstream says it changed (or its `ttlMs` ends); empty for an
    /// upstream that does not have the capability.
    ///
    /// # Errors
    /// Why it could not be asked, for an operator.
    pub async fn list(&self, upstream: &UpstreamName, listing: Listing) -> Result<Arc<Vec<Value>>, String> {
        self.upstream(upstream)?.list(listing).await
    }

    /// Has an upstream report changes of the resource that a recorded subscription names, until the guard is
    /// dropped. Without a guard it does not, and the outcome says why.
    pub async fn subscribe(&self, call: Recorded) -> (Forwarded, Option<Subscription>) {
        let began = Instant::now();
        let mut lease = None;
        let asked = {
            let call = call.call().call();
            let uri = call.arguments().tree().get("uri").and_then(Value::as_str).unwrap_or_default();
            match self.upstream(&call.tool().upstream) {
                Ok(upstream) => {
                    let asked = upstream.subscribe(uri, call.tool()).await;
                    lease = upstream.house.leases.at_hand().map(|lease| Arc::clone(lease.id()));
                    asked
                }
                Err(why) => Err(Outcome::NotSent { why, retry_after_ms: 60_000, busy: false }),
            }
        };
        let (outcome, subscription) = match asked {
            Ok(subscription) => {
                let (tree, text) = (Object::new().into(), Bytes::from_static(b"{}"));
                (Outcome::Result { tree, text }, Some(subscription))
            }
            Err(outcome) => (outcome, None),
        };
        (Forwarded::new(call, outcome, began.elapsed()).with(lease), subscription)
    }

    /// Whether the upstream declared a capability (`resources`, `prompts`, `completions`, …) when last connected.
    pub fn capability(&self, upstream: &UpstreamName, capability: &str) -> Option<Value> {
        self.upstream(upstream).ok()?.capability(capability)
    }

    /// Whether the upstream was connected yet: before that nothing is known of its capabilities.
    pub fn was_met(&self, upstream: &UpstreamName) -> bool {
        self.upstream(upstream).is_ok_and(|upstream| upstream.was_met())
    }

    /// Changes of all upstreams, from now on.
    pub fn changes(&self) -> broadcast::Receiver<(UpstreamName, Change)> {
        self.changes.subscribe()
    }

    /// How each fares, by name.
    pub fn status(&self) -> Vec<Status> {
        self.roads.values().map(|road| road.upstream.status()).collect()
    }

    /// Kills child processes with their groups and closes connections. Calls under way end as unknown.
    pub async fn stop(&self) {
        self.roads.values().for_each(|road| road.upstream.stop());
        let mut keepers = std::mem::take(&mut *self.keepers.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while keepers.join_next().await.is_some() {} };
        if timeout(Duration::from_secs(6), all).await.is_err() {
            keepers.abort_all();
        }
        self.leases.settle().await;
    }
}
