//! Calls that wait for a person: parked, watched, decided again, and run at most once.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, broadcast, watch},
    time::Instant,
};

use super::Pipeline;
use crate::{
    call::{
        CallId, Caller, Door, Fault, HoldNotice, Identified, Link, Notice, Operation, Passage, Principal, Received,
        Refused, Validated,
    },
    grant::{Basis, Decision, Held},
    hold::{Book, Drift, Hold, HoldId, Phase, Record},
    identity::Unauthenticated,
    json::{self, Limits, Object},
    ledger::{Ledger, NotChanged, Parked, Reply},
};

/// How often a client that asked for progress is told that its call still waits.
const PROGRESS: Duration = Duration::from_secs(5);
/// How often holds are looked over for what no event tells: deadlines, revoked credentials.
const LOOK: Duration = Duration::from_secs(5);
/// The least that is waited between two looks.
const SOON: Duration = Duration::from_millis(20);
/// Holds that are expired in one go.
const AT_ONCE: usize = 256;

/// What calls that were countersigned take turns at.
#[derive(Debug, Default)]
pub struct Holding {
    turn: tokio::sync::Mutex<()>,
    /// Holds that are about to be run with nobody waiting.
    alone: Mutex<HashSet<HoldId>>,
    looked_at: LookedAt,
}

/// Holds whose arguments are looked at at once.
#[derive(Debug)]
struct LookedAt(Arc<Semaphore>);

impl Default for LookedAt {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(4)))
    }
}

impl Holding {
    fn alone(&self) -> MutexGuard<'_, HashSet<HoldId>> {
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of an attempt to run a call that was countersigned.
enum Attempt {
    /// It was run.
    Done(Reply),
    /// It goes no further.
    Refused(Refused),
    /// Another was first, or the hold ended: where it stands says what to do.
    Lost,
}

/// The refusal of a parked call that does not wait.
pub(super) fn unwaited(parked: Parked) -> (Refused, Validated, Basis) {
    let hold = Arc::clone(parked.hold());
    let refused = Refused::ApprovalRequired { roles: hold.roles(), reason: hold.reason().map(str::to_owned) };
    (refused, parked.into_call(), basis(&hold))
}

fn basis(hold: &Hold) -> Basis {
    Basis { policies: hold.policies.clone(), set: Some(hold.grants) }
}

impl Pipeline {
    /// Parks a call and waits as long as its client can.
    pub(super) async fn hold(&self, held: Held) -> Reply {
        match self.ledger.hold(held).await {
            Ok(parked) => self.wait(parked).await,
            Err(stopped) => self.refuse(*stopped).await,
        }
    }

    /// Waits for a person as long as the client can, and runs the call if it is countersigned meanwhile.
    pub(super) async fn wait(&self, parked: Parked) -> Reply {
        let hold = Arc::clone(parked.hold());
        let call = parked.into_call();
        let (caller, link) = (call.caller(), call.link().clone());
        match self.wait_for(&hold, call, &caller, &link).await {
            Ok(reply) => reply,
            Err(refused) => self.refuse((refused, caller, basis(&hold))).await,
        }
    }

    async fn wait_for(
        &self,
        hold: &Arc<Hold>,
        call: Validated,
        caller: &Caller,
        link: &Link,
    ) -> Result<Reply, Refused> {
        let lost = || Refused::HoldLost("hold_unknown");
        let mut phase = self.ledger.watch_hold(&hold.id).ok_or_else(lost)?;
        let begun = Instant::now();
        let until = begun + link.client.patience;
        let (mut told, mut call) = (false, Some(call));
        let answer = |notice| self.ledger.still_held(caller.id.clone(), caller.operation, notice);
        loop {
            let now = phase.borrow_and_update().clone();
            // who withdrew it, or went away, spends nothing
            if now.is_open() && link.is_cancelled() {
                return Err(self.withdrawn(hold).await);
            }
            if now.is_open() && link.is_gone() {
                return Ok(answer(self.notice(hold, now.word())));
            }
            let again = || self.ledger.holds(|book| book.may_run_again(&hold.id, self.clock.now()));
            match (&now, call.take()) {
                (phase, Some(countersigned)) if *phase == Phase::Approved || again() => {
                    match self.run(countersigned, hold).await {
                        Attempt::Done(reply) => return Ok(reply),
                        Attempt::Refused(refused) => return Err(refused),
                        // whoever was first changes where it stands
                        Attempt::Lost => continue,
                    }
                }
                (Phase::Spent { outcome: Some(_), .. }, _) => return self.collect(&hold.id, caller),
                (_, back) => call = back,
            }
            if let Some(refused) = ended_as(hold, &now) {
                return Err(refused);
            }
            let notice = self.notice(hold, now.word());
            if !told {
                link.notify(Notice::Held(notice.clone()));
                told = true;
            }
            tokio::select! {
                // a withdrawal is a cancellation too, and has to be seen as what it is
                biased;
                changed = phase.changed() => if changed.is_err() {
                    // who tells was not needed by others any more: ask anew
                    phase = self.ledger.watch_hold(&hold.id).ok_or_else(lost)?;
                },
                () = tokio::time::sleep_until((Instant::now() + PROGRESS).min(until)) => {
                    if Instant::now() >= until {
                        return Ok(answer(notice));
                    }
                    link.notify(Notice::Progress(progress(&notice, begun.elapsed())));
                }
                () = link.withdrawn() => return Err(self.withdrawn(hold).await),
                // the hold stays; nobody reads this
                () = link.cancelled() => return Ok(answer(notice)),
            }
        }
    }

    /// Withdraws a hold for the client that waits for it.
    async fn withdrawn(&self, hold: &Hold) -> Refused {
        match self.ledger.cancel(&hold.id, "agent").await {
            Err(NotChanged::Fault(fault)) => Refused::Unavailable(fault),
            // one that ended meanwhile is not withdrawn, and nobody reads this
            Ok(()) | Err(NotChanged::Rejected(_)) => Refused::HoldCancelled { hold: hold.id.to_string() },
        }
    }

    /// Runs a call that was countersigned, if it is the first to: everything is asked again, then the hold is spent and
    /// the intent recorded in one write.
    async fn run(&self, call: Validated, hold: &Arc<Hold>) -> Attempt {
        let turn = self.holding.turn.lock().await;
        let Some(warrant) = self.ledger.warrant(&hold.id) else {
            if self.ledger.holds(|book| book.lost_quorum(&hold.id)) {
                return self.void(hold, Drift::ApproverRemoved).await;
            }
            return Attempt::Lost;
        };
        let who = match self.identity.again(call.principal()) {
            Ok(who) => who,
            Err(Unauthenticated::Revoked) => return self.void(hold, Drift::PrincipalRevoked).await,
            Err(Unauthenticated::TaskEnded) => return self.void(hold, Drift::TaskEnded).await,
            Err(_) => return Attempt::Refused(Refused::CredentialEnded),
        };
        if let Some(drift) = self.drift(hold) {
            return self.void(hold, drift).await;
        }
        let (catalog, grants) = (self.catalog.load_full(), self.grants.load_full());
        let Ok(call) = call.again(who, &catalog, self.clock.now()) else {
            return self.void(hold, Drift::ContractChanged).await;
        };
        let permitted = match grants.decide_countersigned(call, &self.sessions, &warrant) {
            Decision::Permit(permitted) => permitted,
            // more is demanded now than was countersigned, unless the permit only waits for its limit
            Decision::Hold(_) => {
                let agent = &hold.agent;
                return match grants.wait_for_limits(&hold.policies, agent, &self.sessions, self.clock.now()) {
                    Some(retry_after_ms) => Attempt::Refused(Refused::LimitExceeded { retry_after_ms }),
                    None => self.void(hold, Drift::NotPermitted).await,
                };
            }
            Decision::Deny(denied) => {
                return match denied.0 {
                    // these pass: the hold stays as it is
                    refused @ (Refused::LimitExceeded { .. } | Refused::Unavailable(_)) => Attempt::Refused(refused),
                    _ => self.void(hold, Drift::NotPermitted).await,
                };
            }
        };
        match self.ledger.intend(permitted).await {
            Ok(recorded) => {
                drop(turn);
                Attempt::Done(self.carry(recorded).await)
            }
            Err(stopped) => match stopped.0 {
                Refused::HoldLost(_) => Attempt::Lost,
                refused => Attempt::Refused(refused),
            },
        }
    }

    async fn void(&self, hold: &Hold, why: Drift) -> Attempt {
        match self.ledger.void(&hold.id, why).await {
            Ok(()) => Attempt::Refused(Refused::HoldVoid { hold: hold.id.to_string(), code: why.code() }),
            Err(NotChanged::Rejected(_)) => Attempt::Lost,
            Err(NotChanged::Fault(fault)) => Attempt::Refused(Refused::Unavailable(fault)),
        }
    }

    /// What changed of that to which an open hold is bound, if anything did.
    pub fn drift(&self, hold: &Hold) -> Option<Drift> {
        let operation = Operation::read(&hold.method)?;
        let name = if operation == Operation::CallTool { &hold.tool } else { &hold.upstream };
        let same = self.catalog.load().find(operation, name).is_some_and(|tool| tool.digest == hold.contract);
        if !same {
            return Some(Drift::ContractChanged);
        }
        if self.grants.load().digest() != hold.grants {
            return Some(Drift::PolicyChanged);
        }
        if self.identity.is_revoked(hold) {
            return Some(Drift::PrincipalRevoked);
        }
        if self.identity.task_is_over(hold) {
            return Some(Drift::TaskEnded);
        }
        (!hold.kept).then_some(Drift::PayloadMissing)
    }

    /// Looks at one hold as somebody decides on it: what drifted or ran out is written down first.
    ///
    /// # Errors
    /// [`NotChanged`] when that cannot be written.
    pub async fn refresh_hold(&self, id: &HoldId) -> Result<(), NotChanged> {
        let Some(record) = self.ledger.holds(|book| book.get(id).cloned()) else { return Ok(()) };
        if !record.phase.is_open() {
            return Ok(());
        }
        let over = self.ledger.holds(|book| book.is_overdue(id, self.clock.now()));
        let done = if over {
            self.ledger.expire(id).await
        } else if let Some(drift) = self.drift(&record.hold) {
            self.ledger.void(id, drift).await
        } else if !self.is_kept(&record.hold).await? {
            // nobody countersigns what cannot be shown
            self.ledger.void(id, Drift::PayloadMissing).await
        } else {
            return Ok(());
        };
        match done {
            // somebody else was first
            Err(NotChanged::Rejected(_)) => Ok(()),
            done => done,
        }
    }

    /// Whether the arguments of a hold can be shown. They may be large: that is not for an async worker, nor for many at
    /// once.
    async fn is_kept(&self, hold: &Arc<Hold>) -> Result<bool, Fault> {
        let cut_short = || Fault("looking at a hold was cut short".to_owned());
        let turn = Arc::clone(&self.holding.looked_at.0).acquire_owned().await.map_err(|_| cut_short())?;
        let (ledger, hold) = (self.ledger.clone(), Arc::clone(hold));
        let looked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            ledger.held_arguments(&hold).map(|kept| kept.is_some())
        });
        looked.await.map_err(|_| cut_short())?
    }

    /// The hold of that id, if this principal asked for it: one of somebody else's looks like none.
    pub fn hold_of(&self, principal: &Principal, id: &str) -> Option<Record> {
        let record = self.ledger.holds(|book| book.get(&HoldId::read(id)?).cloned())?;
        looks_after(principal, &record.hold).then_some(record)
    }

    /// Withdraws a hold of this principal's; `None` when it has none of that id.
    pub async fn withdraw(&self, principal: &Principal, id: &str) -> Option<Result<(), NotChanged>> {
        let record = self.hold_of(principal, id)?;
        Some(self.ledger.cancel(&record.hold.id, "agent").await)
    }

    /// Runs a hold that was countersigned, with nobody waiting for its reply, which [`Pipeline::collected`] gives. `who`
    /// is its principal when it asks after it just now; else its credential is looked at again.
    pub fn run_unwaited(self: &Arc<Self>, id: HoldId, who: Option<Identified>) {
        if !self.holding.alone().insert(id.clone()) {
            return;
        }
        let road = Arc::clone(self);
        self.detached.adopt(Box::pin(async move {
            road.run_alone(&id, who).await;
            road.holding.alone().remove(&id);
        }));
    }

    async fn run_alone(&self, id: &HoldId, who: Option<Identified>) {
        let record = self.ledger.holds(|book| book.get(id).cloned());
        let Some(record) = record.filter(|record| record.phase == Phase::Approved) else { return };
        let hold = &record.hold;
        let refused = match self.unparked(hold, who).await {
            Ok(Some(call)) => match self.run(call, hold).await {
                Attempt::Done(_) | Attempt::Lost => return,
                Attempt::Refused(refused) => refused,
            },
            Ok(None) => return,
            Err(drift) => match self.void(hold, drift).await {
                Attempt::Refused(refused) => refused,
                Attempt::Done(_) | Attempt::Lost => return,
            },
        };
        self.metrics.refused(refused.code());
        tracing::info!(hold = %hold.id, reason = refused.code(), "a countersigned call was not run");
    }

    /// The call of a hold, made again from what is kept of it; `None` while its principal has no credential that is good.
    async fn unparked(&self, hold: &Hold, who: Option<Identified>) -> Result<Option<Validated>, Drift> {
        if hold.method != Operation::CallTool.method() {
            return Ok(None);
        }
        // another credential of the same agent may say something else of it: then the hold's own is asked for
        let who = who.filter(|who| Ledger::is_bound_as(hold, who.principal()));
        let who = match who.map_or_else(|| self.identity.recall(hold), Ok) {
            Ok(who) => who,
            Err(Unauthenticated::Revoked) => return Err(Drift::PrincipalRevoked),
            Err(Unauthenticated::TaskEnded) => return Err(Drift::TaskEnded),
            Err(_) => return Ok(None),
        };
        let kept = match self.ledger.held_arguments(hold) {
            Ok(kept) => kept.ok_or(Drift::PayloadMissing)?,
            Err(fault) => {
                tracing::error!(hold = %hold.id, %fault, "the arguments of a hold cannot be read");
                return Ok(None);
            }
        };
        let arguments = json::parse(&kept, &Limits::REQUEST).map_err(|_| Drift::PayloadMissing)?;
        let door = Door::read(&hold.door).ok_or(Drift::LedgerDisagrees)?;
        let (name, now) = (hold.tool.clone(), self.clock.now());
        // an id of its own: the call that opened the hold may have been refused since
        let Ok(id) = CallId::new(now) else { return Ok(None) };
        let received =
            Received::new(id, now, door, Operation::CallTool, name, arguments, Passage::default(), Link::none());
        let call = received.authenticate(who).validate(&self.catalog.load_full());
        call.map(Some).map_err(|_| self.drift(hold).unwrap_or(Drift::ContractChanged))
    }

    /// The result of a hold that was run, for a call of its principal's.
    ///
    /// # Errors
    /// The refusal, when it ended otherwise or cannot be read.
    pub fn collected(&self, record: &Record, call: CallId, operation: Operation) -> Result<Option<Reply>, Refused> {
        match ended_as(&record.hold, &record.phase) {
            Some(refused) => Err(refused),
            None => self.ledger.collect(record, call, operation).map_err(Refused::Unavailable),
        }
    }

    fn collect(&self, id: &HoldId, caller: &Caller) -> Result<Reply, Refused> {
        let lost = || Refused::HoldLost("hold_unknown");
        let record = self.ledger.holds(|book| book.get(id).cloned()).ok_or_else(lost)?;
        self.collected(&record, caller.id.clone(), caller.operation)?.ok_or_else(lost)
    }

    /// What an agent is told of a hold.
    pub fn notice(&self, hold: &Hold, state: &'static str) -> HoldNotice {
        HoldNotice {
            hold: hold.id.to_string(),
            tool: hold.tool.clone(),
            state,
            roles: hold.roles(),
            reason: hold.reason().map(str::to_owned),
            created: hold.created,
            approve_by: hold.approve_by,
            execute_by: hold.execute_by,
            page: format!("{}/holds/{}", self.console, hold.id),
        }
    }

    /// Writes down which holds ran out or drifted, and runs those that wait for nobody. A house does this all the time;
    /// see [`watch_holds`].
    pub async fn look_over_holds(self: &Arc<Self>) {
        // nothing can be written any more, and nothing is run
        if !self.ledger.writable() {
            return;
        }
        let now = self.clock.now();
        let overdue = self.ledger.holds(|book| book.overdue(now, AT_ONCE));
        for id in overdue {
            note(&id, self.ledger.expire(&id).await);
        }
        let open: Vec<Record> =
            self.ledger.holds(|book| book.iter().filter(|record| record.phase.is_open()).cloned().collect());
        for record in open {
            let id = &record.hold.id;
            if let Some(drift) = self.drift(&record.hold) {
                note(id, self.ledger.void(id, drift).await);
            } else if record.phase == Phase::Approved && record.hold.runs_alone {
                self.run_unwaited(id.clone(), None);
            }
        }
    }
}

fn note(id: &HoldId, written: Result<(), NotChanged>) {
    match written {
        // somebody else was first
        Ok(()) | Err(NotChanged::Rejected(_)) => {}
        Err(NotChanged::Fault(fault)) => tracing::error!(hold = %id, %fault, "the end of a hold cannot be written"),
    }
}

/// Looks after the holds of a house until it stops.
pub async fn watch_holds(house: Weak<Pipeline>, mut stop: watch::Receiver<bool>) {
    let Some((mut changes, mut offers)) =
        house.upgrade().map(|house| (house.ledger.hold_changes(), house.changed.subscribe()))
    else {
        return;
    };
    let mut looked = None;
    loop {
        let Some(here) = house.upgrade() else { return };
        let looked_at = match looked {
            Some(at) => at,
            None => {
                here.look_over_holds().await;
                Instant::now()
            }
        };
        let deadline = here.ledger.holds(Book::next_deadline).filter(|_| here.ledger.writable());
        let due = deadline.map_or(LOOK, |at| {
            let left = Duration::try_from(at.duration_since(here.clock.now()));
            left.unwrap_or(Duration::ZERO).max(SOON)
        });
        drop(here);
        let next = (looked_at + LOOK).min(Instant::now() + due).max(looked_at + SOON);
        looked = None;
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            () = tokio::time::sleep_until(next) => {}
            _offers = offers.recv() => {}
            change = changes.recv() => match change {
                Ok(change) => {
                    looked = Some(looked_at);
                    let Some(here) = house.upgrade() else { return };
                    let alone = |book: &Book| {
                        book.get(&change.hold)
                            .is_some_and(|record| record.phase == Phase::Approved && record.hold.runs_alone)
                    };
                    if here.ledger.holds(alone) {
                        here.run_unwaited(change.hold, None);
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            },
        }
    }
}

/// The refusal that a hold which ended without being run comes to.
pub fn ended_as(hold: &Hold, phase: &Phase) -> Option<Refused> {
    let id = hold.id.to_string();
    match phase {
        Phase::Pending | Phase::Approved | Phase::Spent { .. } => None,
        Phase::Denied { reason, .. } => Some(Refused::Denied { hold: id, reason: reason.clone() }),
        Phase::Expired => Some(Refused::HoldExpired { hold: id }),
        Phase::Cancelled { .. } => Some(Refused::HoldCancelled { hold: id }),
        Phase::Void(drift) => Some(Refused::HoldVoid { hold: id, code: drift.code() }),
    }
}

/// `notifications/progress` of a call that waits: seconds so far.
fn progress(notice: &HoldNotice, waited: Duration) -> Object {
    let seconds = i64::try_from(waited.as_secs()).unwrap_or(i64::MAX);
    Object::new().with("progress", seconds).with("message", notice.sentence())
}

/// Whether a hold is this principal's to follow, run and withdraw: its agent asked for it, and its credential is for what was
/// asked. One that was made narrower does not reach what is waiting for the one that it was made from.
pub fn looks_after(principal: &Principal, hold: &Hold) -> bool {
    let Principal { issuer, agent, user, task, chain, tools, scopes, .. } = principal;
    let action = match Operation::read(&hold.method) {
        Some(Operation::ReadResource) => "resource_read",
        Some(Operation::GetPrompt) => "prompt_get",
        _ => &hold.tool,
    };
    let reaches = tools.as_ref().is_none_or(|tools| tools.iter().any(|tool| tool == action));
    let may = hold.claims.scopes.iter().all(|scope| scopes.contains(scope));
    reaches && may && hold.is_of(issuer, agent, user.as_deref(), task.as_deref(), chain)
}
