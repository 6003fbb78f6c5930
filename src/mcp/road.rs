//! What the door needs of the house behind it.

use std::{any::Any, fmt, future::Future, pin::Pin, sync::Arc};

use tokio::sync::broadcast;

use crate::{
    authority,
    call::{CallId, Fault, HoldNotice, Identified, Operation, Principal, Received},
    clock::Timestamp,
    contract::{Tool, UpstreamName},
    grant::Visibility,
    hold::{HoldId, Phase, Record},
    identity::{Presented, Unauthenticated},
    json::{Object, Value},
    ledger::{Event, HoldChange, NotChanged, Reply},
    pipeline::{HouseChange, Pipeline, looks_after},
    upstream::{Change, Listing},
};

/// A call on its way: gives its reply, and runs on by itself when dropped.
pub type Going = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// What is offered now and to whom: two editions are the same when nothing was replaced in between.
#[derive(Clone)]
pub struct Edition(Vec<Arc<dyn Any + Send + Sync>>);

impl Edition {
    /// The edition made of these snapshots; holding them keeps their addresses theirs.
    pub fn new(parts: Vec<Arc<dyn Any + Send + Sync>>) -> Self {
        Self(parts)
    }
}

impl PartialEq for Edition {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(one, other)| Arc::ptr_eq(one, other))
    }
}

impl fmt::Debug for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edition").finish_non_exhaustive()
    }
}

/// Keeps an upstream reporting changes of one resource while it lives.
pub struct Following(#[expect(dead_code, reason = "held for its drop")] Box<dyn Any + Send + Sync>);

impl Following {
    /// Holds whatever ends the reports when it is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Following {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Following").finish_non_exhaustive()
    }
}

/// The house behind the door: [`Pipeline`], or something smaller in a test of the door.
pub trait Road: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Timestamp;

    /// Judges what came with a request.
    ///
    /// # Errors
    /// Why it is not accepted.
    fn authenticate(&self, shown: &Presented<'_>) -> impl Future<Output = Result<Identified, Unauthenticated>> + Send;

    /// Judges a credential once more that was accepted before, for what outlasts one request.
    ///
    /// # Errors
    /// Why it is not accepted any more.
    fn again(
        &self,
        who: &Arc<Principal>,
        token: &str,
    ) -> impl Future<Output = Result<Identified, Unauthenticated>> + Send;

    /// The URL of `/mcp`, the audience of tokens.
    fn audience(&self) -> String;

    /// Protected resource metadata, RFC 9728.
    fn metadata(&self) -> String;

    /// Where that is served.
    fn metadata_url(&self) -> String;

    /// Scopes without which nobody is let in.
    fn needed_scopes(&self) -> Vec<String>;

    /// Authorization server metadata, RFC 8414; none where nobody gets a token.
    fn authority(&self) -> Option<String>;

    /// The public key of our tokens, a JWK set.
    fn keys(&self) -> String;

    /// Gives a token to whoever may have it; a refusal of a known caller is recorded, of another counted.
    ///
    /// # Errors
    /// Why not.
    fn grant(&self, asked: &authority::Asked<'_>) -> impl Future<Output = Result<Object, authority::Refused>> + Send;

    /// Takes a call along the road.
    fn handle(&self, received: Received, who: Identified) -> Going;

    /// Records that a message of a known caller was refused before it was a call.
    fn refuse_message(
        &self,
        who: &Identified,
        reason: &'static str,
        method: Option<&str>,
    ) -> impl Future<Output = ()> + Send;

    /// Counts the refusal of a caller that nobody knows.
    fn turned_away(&self, reason: &'static str);

    /// The tools that some grant could let this principal call, by name.
    fn offers(&self, principal: &Principal) -> Vec<(Arc<Tool>, Visibility)>;

    /// The tool of that name, if this principal may know of it.
    fn tool(&self, principal: &Principal, name: &str) -> Option<Arc<Tool>>;

    /// What is offered now.
    fn edition(&self) -> Edition;

    /// The upstreams that some grant could let this principal use for `operation`, by name.
    fn reachable(&self, principal: &Principal, operation: Operation) -> Vec<UpstreamName>;

    /// A list of an upstream.
    ///
    /// # Errors
    /// Why it could not be asked, for an operator.
    fn list(
        &self,
        upstream: &UpstreamName,
        listing: Listing,
    ) -> impl Future<Output = Result<Arc<Vec<Value>>, String>> + Send;

    /// What an upstream declared under that capability.
    fn capability(&self, upstream: &UpstreamName, capability: &str) -> Option<Value>;

    /// Whether an upstream was connected yet: before that nothing is known of its capabilities.
    fn was_met(&self, upstream: &UpstreamName) -> bool;

    /// Takes a subscription to a resource along the road. Until what this gives beside the reply is dropped, the
    /// upstream reports changes.
    fn follow(&self, received: Received, who: Identified) -> impl Future<Output = (Reply, Option<Following>)> + Send;

    /// A hold that this principal's agent asked for, for the same user in the same task. One that is not there and one
    /// of somebody else's look alike.
    fn hold(&self, principal: &Principal, id: &HoldId) -> Option<Record>;

    /// Every such hold that is known, in no order.
    fn holds(&self, principal: &Principal) -> Vec<Record>;

    /// What the run of a hold came to; `None` while that is not known, or cannot be read.
    fn came_to(&self, record: &Record) -> Option<Reply>;

    /// What is told of a hold while it waits.
    fn notice(&self, record: &Record) -> HoldNotice;

    /// Has a hold run that was countersigned, on behalf of its principal, without anybody waiting for it.
    fn run(&self, id: HoldId, who: Identified);

    /// Withdraws a hold in the name of the agent that asked for it; false when it has ended or is not this principal's.
    ///
    /// # Errors
    /// [`Fault`] when that cannot be recorded.
    fn withdraw(&self, principal: &Principal, id: &HoldId) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Changes of holds, from now on.
    fn hold_changes(&self) -> broadcast::Receiver<HoldChange>;

    /// Changes that upstreams tell of, from now on.
    fn upstream_changes(&self) -> broadcast::Receiver<(UpstreamName, Change)>;

    /// Counts a stream of that principal's while what this gives lives.
    fn stream_opened(&self, who: &Principal) -> Option<Following>;

    /// Changes of what is offered, from now on.
    fn house_changes(&self) -> broadcast::Receiver<HouseChange>;
}

impl Road for Arc<Pipeline> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn authenticate(&self, shown: &Presented<'_>) -> Result<Identified, Unauthenticated> {
        self.identity.authenticate(shown).await
    }

    async fn again(&self, who: &Arc<Principal>, token: &str) -> Result<Identified, Unauthenticated> {
        self.identity.still(who, token).await
    }

    fn audience(&self) -> String {
        self.identity.audience().to_owned()
    }

    fn metadata(&self) -> String {
        self.identity.metadata()
    }

    fn metadata_url(&self) -> String {
        self.identity.metadata_url()
    }

    fn needed_scopes(&self) -> Vec<String> {
        self.identity.needed_scopes()
    }

    fn authority(&self) -> Option<String> {
        self.authority.metadata()
    }

    fn keys(&self) -> String {
        self.identity.keys()
    }

    async fn grant(&self, asked: &authority::Asked<'_>) -> Result<Object, authority::Refused> {
        self.give_token(asked).await
    }

    fn handle(&self, received: Received, who: Identified) -> Going {
        let house = Self::clone(self);
        Box::pin(async move { house.handle(received, who).await })
    }

    async fn refuse_message(&self, who: &Identified, reason: &'static str, method: Option<&str>) {
        Pipeline::refuse_message(self, who, reason, method).await;
    }

    fn turned_away(&self, reason: &'static str) {
        self.metrics.unauthenticated(reason);
    }

    fn offers(&self, principal: &Principal) -> Vec<(Arc<Tool>, Visibility)> {
        Pipeline::offers(self, principal)
    }

    fn tool(&self, principal: &Principal, name: &str) -> Option<Arc<Tool>> {
        let tool = self.catalog.load().find(Operation::CallTool, name)?;
        self.grants.load().visibility(principal, &tool, self.clock.now()).is_some().then_some(tool)
    }

    fn edition(&self) -> Edition {
        Edition::new(vec![self.catalog.load_full(), self.grants.load_full()])
    }

    fn reachable(&self, principal: &Principal, operation: Operation) -> Vec<UpstreamName> {
        let catalog = self.catalog.load();
        let (grants, now) = (self.grants.load(), self.clock.now());
        let mut names: Vec<UpstreamName> = catalog
            .all()
            .filter(|tool| tool.operation == operation)
            .filter(|tool| grants.reaches(principal, operation, &tool.upstream, now))
            .map(|tool| tool.upstream.clone())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    async fn list(&self, upstream: &UpstreamName, listing: Listing) -> Result<Arc<Vec<Value>>, String> {
        self.upstreams.list(upstream, listing).await
    }

    fn capability(&self, upstream: &UpstreamName, capability: &str) -> Option<Value> {
        self.upstreams.capability(upstream, capability)
    }

    fn was_met(&self, upstream: &UpstreamName) -> bool {
        self.upstreams.was_met(upstream)
    }

    async fn follow(&self, received: Received, who: Identified) -> (Reply, Option<Following>) {
        let (reply, subscription) = Pipeline::follow(self, received, who).await;
        (reply, subscription.map(Following::new))
    }

    fn hold(&self, principal: &Principal, id: &HoldId) -> Option<Record> {
        self.hold_of(principal, id.as_str())
    }

    fn holds(&self, principal: &Principal) -> Vec<Record> {
        let own = |record: &&Record| looks_after(principal, &record.hold);
        self.ledger.holds(|book| book.iter().filter(own).cloned().collect())
    }

    fn came_to(&self, record: &Record) -> Option<Reply> {
        let Phase::Spent { call, .. } = &record.phase else { return None };
        let operation = Operation::read(&record.hold.method)?;
        match self.collected(record, CallId::read(call)?, operation) {
            Ok(reply) => reply,
            Err(refused) => {
                tracing::error!(hold = %record.hold.id, reason = refused.code(), "the result of a hold cannot be read");
                None
            }
        }
    }

    fn notice(&self, record: &Record) -> HoldNotice {
        Pipeline::notice(self, &record.hold, record.phase.word())
    }

    fn run(&self, id: HoldId, who: Identified) {
        self.run_unwaited(id, Some(who));
    }

    async fn withdraw(&self, principal: &Principal, id: &HoldId) -> Result<bool, Fault> {
        match Pipeline::withdraw(self, principal, id.as_str()).await {
            Some(Ok(())) => Ok(true),
            None | Some(Err(NotChanged::Rejected(_))) => Ok(false),
            Some(Err(NotChanged::Fault(fault))) => Err(fault),
        }
    }

    fn hold_changes(&self) -> broadcast::Receiver<HoldChange> {
        self.ledger.hold_changes()
    }

    fn upstream_changes(&self) -> broadcast::Receiver<(UpstreamName, Change)> {
        self.upstreams.changes()
    }

    fn stream_opened(&self, who: &Principal) -> Option<Following> {
        who.task.as_deref().map(|task| Following::new(self.streams.opened(task)))
    }

    fn house_changes(&self) -> broadcast::Receiver<HouseChange> {
        self.changed.subscribe()
    }
}

/// What a refused token request is called where methods are.
const TOKEN_REQUEST: &str = "oauth/token";

impl Pipeline {
    /// Gives a token to whoever may have it, and records why somebody who is known may not.
    async fn give_token(&self, asked: &authority::Asked<'_>) -> Result<Object, authority::Refused> {
        let authority::Stopped { refused, who } = match self.authority.grant(&self.identity, asked).await {
            Ok(granted) => return Ok(granted.body),
            Err(stopped) => stopped,
        };
        if let authority::Refused::Unavailable(fault) = &refused {
            tracing::error!(%fault, "a token could not be given");
        }
        match who {
            Some(who) => self.note_refusal(&who, refused.code(), Some(TOKEN_REQUEST)).await,
            None => self.metrics.unauthenticated(refused.code()),
        }
        Err(refused)
    }

    /// Records that a message of a known caller was refused before it was a call: `call.refused` with the
    /// reason. The message stays refused when that cannot be written.
    pub async fn refuse_message(&self, who: &Identified, reason: &'static str, method: Option<&str>) {
        self.note_refusal(who.principal(), reason, method).await;
    }

    async fn note_refusal(&self, principal: &Principal, reason: &'static str, method: Option<&str>) {
        self.metrics.refused(reason);
        let event = Event::MessageRefused {
            agent: principal.agent.clone(),
            credential: principal.credential.clone(),
            reason: reason.to_owned(),
            method: method.map(|method| crate::call::cut(method, 64).to_owned()),
        };
        if let Err(fault) = self.ledger.note(event).await {
            tracing::error!(%fault, reason, "the refusal of a message could not be recorded");
        }
    }
}
