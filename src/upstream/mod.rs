//! Upstreams: the tool servers behind the wall.
//!
//! [`Upstreams::forward`] takes a [`Recorded`] and nothing else: there is no other way to have a tool
//! server do something. Lists and subscriptions, which do nothing, go through a closed enum of their own.

mod forwarded;

pub use forwarded::{Forwarded, Outcome};

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::sync::broadcast;

use crate::{
    call::Principal,
    config::UpstreamConfig,
    contract::{Advertised, Tool, UpstreamName},
    grant::Asked,
    json::Value,
    ledger::Recorded,
    observe::Metrics,
};

/// What upstreams need to know from the house: implemented by [`crate::pipeline::Pipeline`].
pub trait Host: Send + Sync + 'static {
    /// An upstream told what tools it has: the catalog is made again before this returns.
    fn advertised(&self, upstream: &UpstreamName, advertised: Advertised);

    /// Whether this very contract is still on offer, now that `advertised` has run.
    fn offered(&self, tool: &Tool) -> bool;

    /// Whether an upstream may ask this principal's client.
    fn may_ask(&self, principal: &Principal, asked: Asked, upstream: &UpstreamName) -> bool;
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
}

/// All upstreams of a server. Dropping it kills the child processes.
#[derive(Debug)]
pub struct Upstreams {}

impl Upstreams {
    /// Makes ready to reach the upstreams; nothing is started yet.
    pub fn new(_configs: &BTreeMap<UpstreamName, UpstreamConfig>, _metrics: Arc<Metrics>) -> Self {
        Self {}
    }

    /// Starts and connects every upstream, in the background, and keeps it so: restarts with backoff,
    /// lists again on `list_changed` and every `refresh`.
    pub fn start(&self, _host: Arc<dyn Host>) {}

    /// Sends one call and waits for its end. Progress, log lines and questions go to the call's link.
    /// Dropping the future is not a cancellation: the pipeline runs it to its end.
    pub async fn forward(&self, call: Recorded) -> Forwarded {
        let outcome = Outcome::NotSent { why: "not yet".to_owned(), retry_after_ms: 1_000, busy: false };
        Forwarded::new(call, outcome, Duration::ZERO)
    }

    /// The tools an upstream advertises now: every page. Connects if need be; for `tool register` and `tool review`.
    ///
    /// # Errors
    /// Why it could not be asked, for an operator.
    pub async fn advertised(&self, _upstream: &UpstreamName) -> Result<Advertised, String> {
        Err("not yet".to_owned())
    }

    /// Every page of a list, cached until the upstream says it changed (or its `ttlMs` ends); empty for an
    /// upstream that does not have the capability.
    ///
    /// # Errors
    /// Why it could not be asked, for an operator.
    pub async fn list(&self, _upstream: &UpstreamName, _listing: Listing) -> Result<Arc<Vec<Value>>, String> {
        Ok(Arc::default())
    }

    /// Has an upstream report changes of one resource, until the guard is dropped.
    ///
    /// # Errors
    /// Why it cannot, for an operator.
    pub async fn subscribe(&self, _upstream: &UpstreamName, _uri: &str) -> Result<(), String> {
        Err("not yet".to_owned())
    }

    /// Whether the upstream declared a capability (`resources`, `prompts`, `completions`, …) when last connected.
    pub fn capability(&self, _upstream: &UpstreamName, _capability: &str) -> Option<Value> {
        None
    }

    /// Changes of all upstreams, from now on.
    pub fn changes(&self) -> broadcast::Receiver<(UpstreamName, Change)> {
        broadcast::channel(1).1
    }

    /// How each fares, by name.
    pub fn status(&self) -> Vec<Status> {
        Vec::new()
    }

    /// Kills child processes with their groups and closes connections.
    pub async fn stop(&self) {}
}
