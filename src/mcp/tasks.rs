//! Requests about tasks: those of the tasks extension of 2026-07-28, and those of 2025-11-25.
//!
//! A hold's id is its task id, and any hold can be followed as a task by the agent that asked for it. One that is not
//! there and one of somebody else's are answered alike.

use std::sync::Arc;

use hyper::StatusCode;
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
    time::{Duration, Instant, sleep_until},
};

use super::{
    desk::{Answer, Desk, Peer, Speaks, Step, invalid, text_of, told_fault},
    feed::told,
    listing, meeting,
    message::{Method, RequestId},
    problem::Problem,
    render,
    road::Road,
    task::{Reader, Task},
    under_way::Ticket,
};
use crate::{
    hold::{HoldId, Phase, Record},
    json::{Object, Value},
    ledger::HoldChange,
};

/// How often a task is looked at again although nothing was told of it.
const LOOK: Duration = Duration::from_secs(5);

impl<R: Road> Desk<R> {
    /// Answers a request about tasks.
    ///
    /// # Errors
    /// [`Problem`]
    pub(super) async fn task(
        self: &Arc<Self>,
        peer: &Peer,
        id: RequestId,
        method: Method,
        capabilities: &Object,
        mut params: Object,
    ) -> Result<Answer<R>, Problem> {
        let modern = peer.modern();
        if modern && !meeting::declares_tasks(capabilities) {
            return Err(Problem::MissingCapability(meeting::tasks_missing()));
        }
        if !modern && !peer.has_old_tasks() {
            return Err(Problem::MethodNotFound);
        }
        let reader = Reader { modern, capabilities };
        if method == Method::ListTasks {
            let page = self.listed(peer, reader, &params)?;
            return Ok(Answer::Whole(render::result(&id, &page)));
        }
        let name = text_of(&mut params, "taskId", 256)?;
        let task = self.find(peer, reader, &name).ok_or(Problem::UnknownTask)?;
        let done = || Object::new().with("resultType", "complete");
        let result = match method {
            Method::GetTask if modern => {
                let meta = Object::new().with("io.modelcontextprotocol/serverInfo", render::server_info());
                task.shown().with("resultType", "complete").with("_meta", meta)
            }
            Method::GetTask => task.shown_before(),
            // a task of ours asks for nothing, so that whatever is answered is to be ignored
            Method::UpdateTask => match params.get("inputResponses") {
                Some(Value::Object(_)) => done(),
                _ => return Err(invalid("`inputResponses` has to be an object")),
            },
            Method::CancelTask => {
                let ended = task.is_over() || !self.cancelled_task(peer, &name).await?;
                match (modern, ended) {
                    // to cancel what has ended, or is being run, is no error: it is a wish
                    (true, _) => done(),
                    (false, true) => return Err(Problem::TaskEnded),
                    (false, false) => self.find(peer, reader, &name).ok_or(Problem::UnknownTask)?.shown_before(),
                }
            }
            _ => return self.awaited(peer, id, name, capabilities.clone()),
        };
        Ok(Answer::Whole(render::result_of(&id, result)))
    }

    /// A task of that peer's.
    pub(super) fn find(&self, peer: &Peer, reader: Reader<'_>, name: &str) -> Option<Task> {
        match HoldId::read(name) {
            Some(hold) => self.held(peer, reader, &hold),
            None => self.kept().get(peer.principal(), name, self.road.now()),
        }
    }

    /// The task that a hold of that peer's is.
    pub(super) fn held(&self, peer: &Peer, reader: Reader<'_>, hold: &HoldId) -> Option<Task> {
        let record = self.road.hold(peer.principal(), hold)?;
        if record.phase == Phase::Approved {
            // whoever follows it wants it run; who it was made for may have been another kind of client
            self.road.run(hold.clone(), peer.who.clone());
        }
        Some(self.task_of(&record, reader))
    }

    fn task_of(&self, record: &Record, reader: Reader<'_>) -> Task {
        Task::of_hold(record, &self.road.notice(record), || self.road.came_to(record), reader)
    }

    /// Withdraws the hold of a task; false when it was too late for that.
    async fn cancelled_task(&self, peer: &Peer, name: &str) -> Result<bool, Problem> {
        match HoldId::read(name) {
            Some(hold) => self.road.withdraw(peer.principal(), &hold).await.map_err(told_fault),
            None => Ok(false),
        }
    }

    fn listed(&self, peer: &Peer, reader: Reader<'_>, params: &Object) -> Result<Vec<u8>, Problem> {
        let from = listing::cursor(params, b'k')?;
        let mut records = self.road.holds(peer.principal());
        records.sort_by(|one, other| one.hold.id.cmp(&other.hold.id));
        let kept = self.kept().all(peer.principal(), self.road.now());
        let length = records.len() + kept.len();
        let page = listing::page("tasks", length, from, b'k', false, |range| {
            let start = range.start;
            let holds = records.get(range.start..range.end.min(records.len())).unwrap_or_default();
            let skipped = start.saturating_sub(records.len());
            let shown = holds.iter().map(|record| self.task_of(record, reader));
            let rest = kept.into_iter().skip(skipped).take(range.len() - holds.len());
            shown.chain(rest).map(|task| Value::Object(task.shown_before())).collect()
        })?;
        Ok(page.to_vec())
    }

    /// `tasks/result`: answered once the task is over.
    fn awaited(
        self: &Arc<Self>,
        peer: &Peer,
        id: RequestId,
        name: String,
        capabilities: Object,
    ) -> Result<Answer<R>, Problem> {
        let changes = self.road.hold_changes();
        let (cancel, cancelled) = watch::channel(false);
        let ticket = match &peer.scope {
            Some(scope) => Some(self.under_way.enter(scope, &id, cancel)?),
            None => None,
        };
        Ok(Answer::Waiting(Box::new(Await {
            desk: Arc::clone(self),
            peer: peer.clone(),
            id,
            name,
            capabilities,
            changes,
            stop: self.stop.clone(),
            said: false,
            ticket,
            cancelled,
        })))
    }
}

/// A task whose end is waited for.
pub(super) struct Await<R> {
    desk: Arc<Desk<R>>,
    peer: Peer,
    id: RequestId,
    name: String,
    capabilities: Object,
    changes: broadcast::Receiver<HoldChange>,
    stop: watch::Receiver<bool>,
    said: bool,
    ticket: Option<Ticket>,
    cancelled: watch::Receiver<bool>,
}

impl<R> std::fmt::Debug for Await<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Await").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<R: Road> Await<R> {
    fn last(&mut self, response: Vec<u8>) -> Step {
        if let Some(ticket) = self.ticket.take() {
            ticket.done();
        }
        Step::Last(StatusCode::OK, response)
    }

    fn refuse(&mut self, problem: &Problem) -> Step {
        let response = problem.response(Some(&self.id), self.peer.modern());
        self.last(response)
    }
}

impl<R: Road> Speaks for Await<R> {
    async fn next(&mut self) -> Step {
        loop {
            match (self.peer.again)().await {
                Some(who) => self.peer.who = who,
                None => return self.refuse(&Problem::SessionUnknown),
            }
            let reader = Reader { modern: self.peer.modern(), capabilities: &self.capabilities };
            let Some(task) = self.desk.find(&self.peer, reader, &self.name) else {
                return self.refuse(&Problem::UnknownTask);
            };
            match task.answered() {
                Some(Ok(result)) => return self.last(render::result(&self.id, &result.to_bytes())),
                Some(Err(error)) => return self.last(render::error_of(&self.id, &error)),
                None if !self.said => {
                    self.said = true;
                    return Step::Waits;
                }
                None => {}
            }
            let look = Instant::now() + LOOK;
            loop {
                tokio::select! {
                    biased;
                    () = told(&mut self.stop) => return self.refuse(&Problem::Busy),
                    () = told(&mut self.cancelled) => return self.refuse(&Problem::Busy),
                    () = sleep_until(look) => break,
                    change = self.changes.recv() => match change {
                        Ok(change) if change.hold.as_str() != self.name => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return self.refuse(&Problem::Busy),
                    },
                }
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }
}
