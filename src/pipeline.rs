//! The road of a call, top to bottom.

mod task;
mod waiting;

pub use task::{Counted, Ended, Streams};
pub use waiting::{Holding, ended_as, looks_after, watch_holds};

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::{runtime::RuntimeFlavor, sync::broadcast, task::JoinSet};

use crate::{
    approver::Approvers,
    authority::Authority,
    call::{Fault, Identified, Operation, Principal, Received, Refused},
    clock::Clock,
    contract::{Advertised, Catalog, Tool, UpstreamName, file::Contract},
    display::Change,
    grant::{Asked, Basis, Decision, Grants, Held, Permitted, Sessions, Visibility},
    identity::Identity,
    json::{Canonical, Digest},
    ledger::{Ledger, Met, Parked, Recorded, Rejection, Reply},
    observe::{Metrics, Stage},
    upstream::{Host, Subscription, Upstreams},
};

/// What a call meets on its way, shared by every door.
#[derive(Debug)]
pub struct Pipeline {
    /// Time.
    pub clock: Clock,
    /// Who is calling.
    pub identity: Identity,
    /// Who gets a token, and for what.
    pub authority: Authority,
    /// What is offered now.
    pub catalog: ArcSwap<Catalog>,
    /// Who may do what now.
    pub grants: ArcSwap<Grants>,
    /// What each principal did in its task.
    pub sessions: Sessions,
    /// Who countersigns.
    pub approvers: Approvers,
    /// What happened.
    pub ledger: Ledger,
    /// The tool servers.
    pub upstreams: Upstreams,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The contracts, as whoever put the house together keeps them.
    pub contracts: Box<dyn Contracts>,
    /// The turn of calls with large arguments.
    pub heavy: tokio::sync::Mutex<()>,
    /// Calls whose client went away before they ended.
    pub detached: Detached,
    /// Where approvers look: the console's address, without a slash at its end.
    pub console: String,
    /// Who is told of holds, once the house runs.
    pub notifier: std::sync::OnceLock<crate::notify::Notifier>,
    /// Streams that are open.
    pub streams: Streams,
    /// The turn of calls that were countersigned and are about to be run.
    pub holding: Holding,
    /// Tells the doors that what is offered changed; whoever replaces the catalog or the grants sends on it.
    pub changed: broadcast::Sender<HouseChange>,
}

/// What changed in the house, for doors that tell their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HouseChange {
    /// The catalog or the grants were replaced.
    Offers,
}

/// What is done about contracts, and where: files are not the road's affair.
pub trait Contracts: Send + Sync + std::fmt::Debug {
    /// An upstream told what tools it has: remakes the catalog and the grants of `pipeline`. See [`Host::advertised`].
    fn advertised(&self, pipeline: &Pipeline, upstream: &UpstreamName, advertised: Advertised);

    /// Why a tool is not offered, by what its upstream told last; `None` when it is, or is not known at all.
    fn review(&self, pipeline: &Pipeline, upstream: &UpstreamName, tool: &str) -> Option<Review>;

    /// Accepts the definition that the upstream advertises now as the tool's contract; impact, labels and
    /// the operator's own schema stay. `shown` is the digest of the definition that a person looked at: an
    /// upstream that advertises yet another by now is not accepted. `by` is the approver who accepts it, if it is one. Gives
    /// the digest of what was accepted, or the [`Fault`] that there is nothing to accept, it is not what was shown, or it
    /// cannot be trusted.
    fn accept<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        upstream: &'a UpstreamName,
        tool: &'a str,
        shown: Option<Digest>,
        by: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Digest, Fault>>;

    /// Writes down that `by` looked at the changed definition of that digest and does not want it: the tool stays in
    /// quarantine, and whoever reviews it next is told. The [`Fault`] says that this definition does not wait.
    fn reject<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        upstream: &'a UpstreamName,
        tool: &'a str,
        shown: Digest,
        by: &'a str,
    ) -> BoxFuture<'a, Result<(), Fault>>;
}

/// One tool that is not offered, for a person to look at.
#[derive(Clone, Debug)]
pub struct Review {
    /// Whose tool.
    pub upstream: UpstreamName,
    /// The name the upstream gives it.
    pub tool: String,
    /// Why it is not offered, a short stable code.
    pub why: &'static str,
    /// More, for a person.
    pub detail: String,
    /// Its contract, where it has one that can be read.
    pub contract: Option<Contract>,
    /// What is advertised instead, where that is what is wrong.
    pub advertised: Option<Canonical>,
    /// The difference between the contract's definition and the advertised one.
    pub difference: Option<Vec<Change>>,
    /// Who rejected this very definition.
    pub rejected: Option<Rejection>,
}

impl Review {
    /// Digest of the advertised definition: what is asked to be accepted.
    pub fn digest(&self) -> Option<Digest> {
        self.advertised.as_ref().map(Canonical::digest)
    }
}

impl Pipeline {
    /// Takes a call along the whole road. If the returned future is dropped, a call that is on its way
    /// to an upstream is cancelled there as far as its protocol can, and its outcome is recorded all the same.
    pub async fn handle(self: &Arc<Self>, received: Received, who: Identified) -> Reply {
        let admitted = self.admit_in_turn(received, who).await;
        let road = Arc::clone(self);
        match admitted {
            Admitted::Permitted(call) => {
                Owned::new(Box::pin(async move { road.perform(call).await }), Arc::downgrade(self)).await
            }
            // a caller that does not wait for its refusal is refused on record all the same
            Admitted::Refused(stopped) => {
                Owned::new(Box::pin(async move { road.refuse(*stopped).await }), Arc::downgrade(self)).await
            }
            Admitted::Held(held) => {
                Owned::new(Box::pin(async move { road.hold(*held).await }), Arc::downgrade(self)).await
            }
            Admitted::Parked(parked) => {
                Owned::new(Box::pin(async move { road.wait(*parked).await }), Arc::downgrade(self)).await
            }
        }
    }

    /// Takes a subscription to a resource along the same road, as it is granted and recorded like a read. While
    /// the guard lives, the upstream reports changes.
    pub async fn follow(self: &Arc<Self>, received: Received, who: Identified) -> (Reply, Option<Subscription>) {
        let admitted = self.admit_in_turn(received, who).await;
        let road = Arc::clone(self);
        let following = async move {
            let call = match admitted {
                Admitted::Permitted(call) => road.ledger.intend(call).await,
                Admitted::Refused(stopped) => Err(stopped),
                // a subscription does not wait: it is asked for again
                Admitted::Held(held) => Err(stopped(*held.refuse())),
                Admitted::Parked(parked) => Err(stopped(waiting::unwaited(*parked))),
            };
            match call {
                Ok(call) => {
                    let tool = Arc::clone(call.call().call().tool());
                    let (forwarded, subscription) = road.upstreams.subscribe(call).await;
                    (road.ledger.settle(tool.inspect(forwarded)).await, subscription)
                }
                Err(stopped) => (road.refuse(*stopped).await, None),
            }
        };
        Owned::new(Box::pin(following), Arc::downgrade(self)).await
    }

    async fn refuse(&self, (refused, caller, basis): (Refused, crate::call::Caller, Basis)) -> Reply {
        self.metrics.refused(refused.code());
        self.ledger.refuse(refused, caller, basis).await
    }

    /// Large arguments are checked one call at a time, beside the threads that serve the others.
    async fn admit_in_turn(&self, received: Received, who: Identified) -> Admitted {
        if !received.is_heavy() {
            return self.admit(received, who);
        }
        let _turn = self.heavy.lock().await;
        match tokio::runtime::Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(|| self.admit(received, who)),
            _ => self.admit(received, who),
        }
    }

    fn admit(&self, received: Received, who: Identified) -> Admitted {
        let begun = Instant::now();
        let decided = self.judge(received, who);
        self.metrics.stage(Stage::Decide, begun.elapsed());
        decided
    }

    fn judge(&self, received: Received, who: Identified) -> Admitted {
        let now = self.clock.now();
        let call = received.authenticate(who);
        let (grants, catalog) = (self.grants.load(), self.catalog.load());
        // a tool that no grant reaches is as unknown as one that is not there, and as fast: its contract is not
        // looked at
        let known = |principal: &Principal, tool: &Tool| grants.visibility(principal, tool, now).is_some();
        let call = match call.validate_known(&catalog, known) {
            Ok(call) => call,
            Err(refused) => {
                let (refused, caller) = *refused;
                return Admitted::Refused(Box::new((refused, caller, Basis::default())));
            }
        };
        // the identical call may have a hold: then it neither opens a second nor slips past the first
        let call = match self.ledger.attach(call, grants.digest()) {
            Ok(call) => call,
            Err(met) => match *met {
                Met::Parked(parked) => return Admitted::Parked(Box::new(parked)),
                Met::Refused(refused) => return Admitted::Refused(Box::new(refused)),
            },
        };
        match grants.decide(call, &self.sessions) {
            Decision::Permit(call) => Admitted::Permitted(call),
            Decision::Hold(call) if call.call().operation().can_wait() => Admitted::Held(Box::new(call)),
            Decision::Hold(call) => Admitted::Refused(stopped(*call.refuse())),
            Decision::Deny(denied) => {
                let (refused, call, basis) = *denied;
                let hidden = grants.visibility(call.principal(), call.tool(), now).is_none();
                let told = if hidden { Refused::UnknownTool } else { refused };
                Admitted::Refused(stopped((told, call, basis)))
            }
        }
    }

    /// The only path to an upstream: recorded before it leaves, settled before it is answered.
    async fn perform(&self, call: Permitted) -> Reply {
        let begun = Instant::now();
        match self.ledger.intend(call).await {
            Ok(call) => {
                self.metrics.stage(Stage::Record, begun.elapsed());
                self.carry(call).await
            }
            Err(stopped) => self.refuse(*stopped).await,
        }
    }

    /// Forwards what is recorded, and settles it.
    async fn carry(&self, call: Recorded) -> Reply {
        let begun = Instant::now();
        let tool = Arc::clone(call.call().call().tool());
        let forwarded = self.upstreams.forward(call).await;
        let came = Instant::now();
        self.metrics.stage(Stage::Forward, came.duration_since(begun));
        let reply = self.ledger.settle(tool.inspect(forwarded)).await;
        self.metrics.stage(Stage::Settle, came.elapsed());
        reply
    }

    /// The tools that some grant could let this principal call, by name.
    pub fn offers(&self, principal: &Principal) -> Vec<(Arc<Tool>, Visibility)> {
        let (catalog, grants, now) = (self.catalog.load(), self.grants.load(), self.clock.now());
        catalog.tools().filter_map(|tool| Some((Arc::clone(tool), grants.visibility(principal, tool, now)?))).collect()
    }

    /// Whether some grant could let this principal use that operation of an upstream.
    pub fn reaches(&self, principal: &Principal, operation: Operation, upstream: &UpstreamName) -> bool {
        self.grants.load().reaches(principal, operation, upstream, self.clock.now())
    }

    /// Tells the doors that something changed.
    pub fn tell(&self, change: HouseChange) {
        // an error means that no door listens
        let _nobody = self.changed.send(change);
    }

    /// Waits until the calls whose clients went away have ended.
    pub async fn settle_detached(&self) {
        self.detached.finish().await;
    }
}

/// What a call comes to before it is recorded.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one, and costs no allocation so")]
enum Admitted {
    /// It may go.
    Permitted(Permitted),
    /// A person has to countersign it.
    Held(Box<Held>),
    /// The identical call has a hold.
    Parked(Box<Parked>),
    /// It goes no further.
    Refused(Box<(Refused, crate::call::Caller, Basis)>),
}

fn stopped(
    (refused, call, basis): (Refused, crate::call::Validated, Basis),
) -> Box<(Refused, crate::call::Caller, Basis)> {
    Box::new((refused, call.caller(), basis))
}

impl Host for Pipeline {
    fn advertised(&self, upstream: &UpstreamName, advertised: Advertised) {
        self.contracts.advertised(self, upstream, advertised);
    }

    fn offered(&self, tool: &Tool) -> bool {
        self.catalog.load().find(tool.operation, &tool.name).is_some_and(|now| now.digest == tool.digest)
    }

    fn may_ask(&self, principal: &Principal, asked: Asked, upstream: &UpstreamName) -> bool {
        self.grants.load().may_ask(principal, asked, upstream, &self.sessions, self.clock.now())
    }

    fn could_ask(&self, principal: &Principal, asked: Asked, upstream: &UpstreamName) -> bool {
        self.grants.load().could_ask(principal, asked, upstream, &self.sessions, self.clock.now())
    }
}

type Road<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Runs a road to its end even when nobody waits for it any more.
struct Owned<T: Send + 'static> {
    road: Option<Road<T>>,
    house: Weak<Pipeline>,
}

impl<T: Send + 'static> Owned<T> {
    fn new(road: Road<T>, house: Weak<Pipeline>) -> Self {
        Self { road: Some(road), house }
    }
}

impl<T: Send + 'static> Future for Owned<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<T> {
        let Some(road) = self.road.as_mut() else { return std::task::Poll::Pending };
        let ready = road.as_mut().poll(context);
        if ready.is_ready() {
            self.road = None;
        }
        ready
    }
}

impl<T: Send + 'static> Drop for Owned<T> {
    fn drop(&mut self) {
        if let (Some(road), Some(house)) = (self.road.take(), self.house.upgrade()) {
            house.detached.adopt(road);
        }
    }
}

/// The owner of roads whose clients went away, and of countersigned calls that nobody waits for. Their number is bounded by
/// the upstreams' own limits on calls under way and waiting, and by that of open holds.
#[derive(Debug, Default)]
pub struct Detached {
    roads: Mutex<JoinSet<()>>,
}

impl Detached {
    fn adopt<T: Send + 'static>(&self, road: Road<T>) {
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let mut roads = self.roads.lock().unwrap_or_else(PoisonError::into_inner);
        while roads.try_join_next().is_some() {}
        roads.spawn(async move {
            let _reply_nobody_waits_for = road.await;
        });
    }

    async fn finish(&self) {
        let mut roads = std::mem::take(&mut *self.roads.lock().unwrap_or_else(PoisonError::into_inner));
        while roads.join_next().await.is_some() {}
    }
}

/// Says why a thing of ours failed, for places that have no call to answer.
pub fn fault(problem: impl std::fmt::Display) -> Fault {
    Fault(problem.to_string())
}
