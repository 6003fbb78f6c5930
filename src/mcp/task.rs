//! Tasks: a held call as its client follows it, in the words of the tasks extension of 2026-07-28 and in those of
//! 2025-11-25.

use std::collections::VecDeque;

use super::render;
use crate::{
    call::{CallId, HoldNotice, Operation, Principal},
    clock::Timestamp,
    hold::{COLLECTED, Hold, Phase, Record},
    json::{self, Limits, Object, Value},
    ledger::{Body, Reply},
    pipeline::ended_as,
};

/// How often a client should ask, milliseconds.
const POLL_MS: i64 = 1_000;

/// Calls that were no holds and are kept as tasks, how many bytes of their answers, and how long.
const KEPT: usize = 256;
const KEPT_BYTES: usize = 32 << 20;
const KEPT_FOR: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);

/// One task.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Task {
    id: String,
    /// What a person or a model reads of where it stands.
    message: String,
    created: Timestamp,
    updated: Timestamp,
    /// Until when it can be asked for.
    until: Timestamp,
    standing: Standing,
}

#[derive(Clone, Debug, PartialEq)]
enum Standing {
    Working,
    /// It came to an answer: an object whose one member is `result` or `error`.
    Ended(Value),
    /// It was withdrawn; what its call would be answered.
    Cancelled(Value),
}

/// Whom a task is rendered for: revisions differ in what an answer needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'r> {
    /// Whether it speaks 2026-07-28.
    pub(super) modern: bool,
    /// What its client can do.
    pub(super) capabilities: &'r Object,
}

impl Task {
    /// The task of a call that waits.
    pub(super) fn waiting(notice: &HoldNotice) -> Self {
        Self {
            id: notice.hold.clone(),
            message: notice.sentence(),
            created: notice.created,
            updated: notice.created,
            until: notice.execute_by.checked_add(COLLECTED).unwrap_or(Timestamp::MAX),
            standing: Standing::Working,
        }
    }

    /// The task that a hold is, by what is told of it. `reply` is what its run came to, and is asked for only when it
    /// was run.
    pub(super) fn of_hold(
        record: &Record,
        notice: &HoldNotice,
        reply: impl FnOnce() -> Option<Reply>,
        reader: Reader<'_>,
    ) -> Self {
        let hold = &*record.hold;
        let waiting = Self { updated: record.since, ..Self::waiting(notice) };
        let (message, standing) = match (ended_as(hold, &record.phase), &record.phase) {
            (Some(refused), phase) => {
                let message = refused.to_string();
                let answered = answered(hold, &Body::Refused(refused), reader);
                let cancelled = matches!(phase, Phase::Cancelled { .. });
                (message, if cancelled { Standing::Cancelled(answered) } else { Standing::Ended(answered) })
            }
            (None, Phase::Spent { outcome: Some(_), .. }) => match reply() {
                Some(reply) => {
                    let message = "this call was countersigned and run".to_owned();
                    (message, Standing::Ended(inner(reply.call(), reply.operation(), reply.body(), reader)))
                }
                None => return waiting,
            },
            (None, _) => return waiting,
        };
        Self { message, standing, ..waiting }
    }

    /// The task of a call that was not held and is over: its answer is kept for a while.
    fn of_call(reply: &Reply, now: Timestamp, reader: Reader<'_>) -> Self {
        Self {
            id: reply.call().to_string(),
            message: "run".to_owned(),
            created: now,
            updated: now,
            until: now.checked_add(KEPT_FOR).unwrap_or(Timestamp::MAX),
            standing: Standing::Ended(inner(reply.call(), reply.operation(), reply.body(), reader)),
        }
    }

    /// Whether nothing can come after where it stands.
    pub(super) fn is_over(&self) -> bool {
        !matches!(self.standing, Standing::Working)
    }

    /// As the tasks extension of 2026-07-28 shows it: in `tasks/get`, in `notifications/tasks`, and, while it is
    /// worked on, in the answer of the call that it is.
    pub(super) fn shown(&self) -> Object {
        let answered = match &self.standing {
            Standing::Ended(answered) => answered.as_object(),
            Standing::Working | Standing::Cancelled(_) => None,
        };
        let status = match &self.standing {
            Standing::Working => "working",
            Standing::Ended(answered) if answered.get("error").is_some() => "failed",
            Standing::Ended(_) => "completed",
            Standing::Cancelled(_) => "cancelled",
        };
        let mut shown = self.head(status, "ttlMs", "pollIntervalMs");
        for (name, value) in answered.into_iter().flat_map(Object::iter) {
            shown.insert(name, value.clone());
        }
        shown
    }

    /// As 2025-11-25 shows it. There, a call whose tool failed is a failed task.
    pub(super) fn shown_before(&self) -> Object {
        let failed = |answered: &Value| match answered.get("result") {
            Some(result) => result.get("isError").and_then(Value::as_bool) == Some(true),
            None => true,
        };
        let status = match &self.standing {
            Standing::Working => "working",
            Standing::Ended(answered) if failed(answered) => "failed",
            Standing::Ended(_) => "completed",
            Standing::Cancelled(_) => "cancelled",
        };
        self.head(status, "ttl", "pollInterval")
    }

    /// What `tasks/result` of 2025-11-25 answers: what the call would have been answered, and whose task it is.
    pub(super) fn answered(&self) -> Option<Result<Value, Value>> {
        let (Standing::Ended(answered) | Standing::Cancelled(answered)) = &self.standing else { return None };
        let Some(Value::Object(mut result)) = answered.get("result").cloned() else {
            return Some(Err(answered.get("error").cloned().unwrap_or(Value::Null)));
        };
        let mut meta = result.get("_meta").and_then(Value::as_object).cloned().unwrap_or_default();
        meta.insert("io.modelcontextprotocol/related-task", Object::new().with("taskId", self.id.as_str()));
        result.insert("_meta", meta);
        Some(Ok(result.into()))
    }

    fn head(&self, status: &str, ttl: &str, poll: &str) -> Object {
        let lives = self.until.as_millisecond().saturating_sub(self.created.as_millisecond()).max(1);
        Object::new()
            .with("taskId", self.id.as_str())
            .with("status", status)
            .with("statusMessage", self.message.as_str())
            .with("createdAt", format!("{:.3}", self.created))
            .with("lastUpdatedAt", format!("{:.3}", self.updated))
            .with(ttl, lives)
            .with(poll, POLL_MS)
    }
}

fn answered(hold: &Hold, body: &Body, reader: Reader<'_>) -> Value {
    match CallId::read(&hold.call) {
        Some(call) => inner(&call, Operation::read(&hold.method).unwrap_or(Operation::CallTool), body, reader),
        None => Value::Null,
    }
}

/// What a call would be answered: an object with `result` or `error`.
fn inner(call: &CallId, operation: Operation, body: &Body, reader: Reader<'_>) -> Value {
    let to = render::For { id: None, modern: reader.modern, capabilities: reader.capabilities };
    let never = |_: Option<&str>, _: &[&str]| Err(crate::call::Fault("a task has no state".to_owned()));
    let (_, text) = render::reply(to, call, operation, body, never);
    json::parse(&text, &Limits { bytes: usize::MAX, ..Limits::RESPONSE }).unwrap_or(Value::Null)
}

/// Calls of 2025-11-25 that asked to be tasks and were not held: they are over, and their answers are kept until they
/// are fetched, or for a while.
#[derive(Debug, Default)]
pub(super) struct Kept {
    tasks: VecDeque<(Whose, Task, usize)>,
    bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Whose {
    issuer: String,
    agent: String,
    user: Option<String>,
    task: Option<String>,
    chain: Vec<String>,
    tools: Option<Vec<String>>,
    scopes: Vec<String>,
}

impl Whose {
    fn of(principal: &Principal) -> Self {
        Self {
            issuer: principal.issuer.clone(),
            agent: principal.agent.clone(),
            user: principal.user.clone(),
            task: principal.task.clone(),
            chain: principal.chain.clone(),
            tools: principal.tools.clone(),
            scopes: principal.scopes.clone(),
        }
    }
}

impl Kept {
    /// Keeps what a call came to, and gives the task that it is.
    pub(super) fn keep(&mut self, principal: &Principal, reply: &Reply, now: Timestamp, reader: Reader<'_>) -> Task {
        let task = Task::of_call(reply, now, reader);
        let size = match &task.standing {
            Standing::Ended(answered) => answered.to_bytes().len(),
            Standing::Working | Standing::Cancelled(_) => 0,
        };
        self.bytes += size;
        self.tasks.push_back((Whose::of(principal), task.clone(), size));
        while self.tasks.len() > KEPT || (self.bytes > KEPT_BYTES && self.tasks.len() > 1) {
            self.drop_first();
        }
        self.sweep(now);
        task
    }

    /// A task of that principal's.
    pub(super) fn get(&mut self, principal: &Principal, id: &str, now: Timestamp) -> Option<Task> {
        self.sweep(now);
        let whose = Whose::of(principal);
        self.tasks.iter().find(|(of, task, _)| *of == whose && task.id == id).map(|(_, task, _)| task.clone())
    }

    /// Every task of that principal's, oldest first.
    pub(super) fn all(&mut self, principal: &Principal, now: Timestamp) -> Vec<Task> {
        self.sweep(now);
        let whose = Whose::of(principal);
        self.tasks.iter().filter(|(of, ..)| *of == whose).map(|(_, task, _)| task.clone()).collect()
    }

    fn sweep(&mut self, now: Timestamp) {
        while self.tasks.front().is_some_and(|(_, task, _)| task.until <= now) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((.., size)) = self.tasks.pop_front() {
            self.bytes = self.bytes.saturating_sub(size);
        }
    }
}
