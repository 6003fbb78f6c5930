//! Holds: calls that wait for a person, who may countersign them, and the one state machine of both.
//!
//! [`Book`] knows every hold and every approver; [`Book::apply`] is the only way either changes, whether the change is
//! being made, read back after a restart, or checked by `ledger verify`. Nothing here does anything by itself: the
//! ledger writes the changes down, and the pipeline runs what was countersigned.

mod book;
mod roster;
mod signed_in;
pub mod statement;
#[cfg(test)]
mod tests;

pub(crate) use book::NOT_SENT;
pub use book::{Book, Change, Counts, Drift, Phase, Record, Rejected, Spend, Vote, Warrant};
pub use roster::{Approver, Assurance, Credential, Means, Roster};
pub use signed_in::{Evidence, SignIn, SignedIn};
pub use statement::{Proof, Statement};

use std::{fmt, sync::Arc};

use crate::{
    clock::{NoRandomness, Timestamp, ulid},
    json::{Digest, Value},
};

/// Open holds that one agent may have.
pub const OPEN_EACH: usize = 20;
/// Open holds that a house may have.
pub const OPEN: usize = 20_000;
/// How long the result of a spent hold is given to the identical call.
pub const COLLECTED: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
/// The longest that a countersigned call may wait to be run after its time to be countersigned is over.
const GRACE: u64 = 15 * 60;

/// `hold_` and a ULID: names one hold, and is its MCP task id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldId(Arc<str>);

impl HoldId {
    /// A new id for a hold opened at `at`.
    ///
    /// # Errors
    /// [`NoRandomness`] when the machine has none to give.
    pub fn new(at: Timestamp) -> Result<Self, NoRandomness> {
        Ok(Self(format!("hold_{}", ulid(at)?).into()))
    }

    /// The id that is written so; `None` when it has not the form of one.
    pub fn read(text: &str) -> Option<Self> {
        let ulid = text.strip_prefix("hold_")?;
        let fits = ulid.len() == 26 && ulid.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
        fits.then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HoldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one holding policy demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The policy's id.
    pub policy: Arc<str>,
    /// The role that has to countersign.
    pub role: String,
    /// How many people of it.
    pub approvals: u8,
    /// How sure it has to be that it is them.
    pub assurance: Assurance,
    /// How long they have, seconds.
    pub expires: u64,
    /// The `@reason`.
    pub reason: Option<String>,
}

/// Which call it is, apart from when and how often it is made: issuer, agent, user, task, method, tool and canonical
/// arguments. Two calls with the same binding are the identical call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Binding(Digest);

/// What makes a call the identical call; see [`Binding`].
#[derive(Clone, Copy, Debug)]
pub struct Bound<'a> {
    /// Who vouches for the agent.
    pub issuer: &'a str,
    /// The agent.
    pub agent: &'a str,
    /// The user it acts for.
    pub user: Option<&'a str>,
    /// The task it works on.
    pub task: Option<&'a str>,
    /// The MCP method.
    pub method: &'a str,
    /// The tool, by the name that agents use.
    pub tool: &'a str,
    /// SHA-256 of the canonical arguments.
    pub arguments: Digest,
}

impl Bound<'_> {
    /// The binding.
    pub fn binding(&self) -> Binding {
        let optional = |text: Option<&str>| text.map_or(Value::Null, Value::from);
        let whole = vec![
            Value::from(self.issuer),
            Value::from(self.agent),
            optional(self.user),
            optional(self.task),
            Value::from(self.method),
            Value::from(self.tool),
            Value::from(self.arguments.to_string()),
        ];
        Binding(Digest::of(&Value::Array(whole).to_bytes()))
    }
}

/// The facts of one hold. They never change; what becomes of it is its [`Phase`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its id.
    pub id: HoldId,
    /// SHA-256 of its `call.held` entry: what an approver signs.
    pub digest: Digest,
    /// The index of that entry.
    pub seq: u64,
    /// The call that opened it.
    pub call: String,
    /// Who asks.
    pub agent: String,
    /// Who vouches for it.
    pub issuer: String,
    /// The user it acts for.
    pub user: Option<String>,
    /// The task it works on.
    pub task: Option<String>,
    /// The credential's id.
    pub credential: String,
    /// The door it came through: `http`, `stdio`.
    pub door: String,
    /// The MCP method.
    pub method: String,
    /// The tool, by the name that agents use.
    pub tool: String,
    /// Whose tool.
    pub upstream: String,
    /// What the tool may do, as its contract says.
    pub impact: Vec<String>,
    /// Digest of its contract.
    pub contract: Digest,
    /// Digest of the grants that held it.
    pub grants: Digest,
    /// Ids of the policies that held it, the permit last.
    pub policies: Vec<Arc<str>>,
    /// What has to be countersigned.
    pub demands: Vec<Demand>,
    /// SHA-256 of the canonical arguments; not in the log, since it could be guessed.
    pub arguments: Digest,
    /// The arguments are kept, and are those that its entry commits to; without them it is never run.
    pub kept: bool,
    /// When it was opened.
    pub created: Timestamp,
    /// Until when it can be countersigned.
    pub approve_by: Timestamp,
    /// Until when it can be run once it is.
    pub execute_by: Timestamp,
    /// Its approval runs it without anybody waiting.
    pub runs_alone: bool,
    /// Its contract says that calling the tool twice is calling it once.
    pub idempotent: bool,
}

impl Hold {
    /// Until when a hold with these demands, opened at `created`, can be countersigned, and until when run.
    pub fn deadlines(demands: &[Demand], created: Timestamp) -> (Timestamp, Timestamp) {
        let seconds = demands.iter().map(|demand| demand.expires).min().unwrap_or(0);
        let after = |from: Timestamp, seconds: u64| {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            from.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
        };
        let approve_by = after(created, seconds);
        (approve_by, after(approve_by, seconds.min(GRACE)))
    }

    /// Which call it is for.
    pub fn binding(&self) -> Binding {
        let Self { issuer, agent, method, tool, arguments, .. } = self;
        let (user, task) = (self.user.as_deref(), self.task.as_deref());
        Bound { issuer, agent, user, task, method, tool, arguments: *arguments }.binding()
    }

    /// Whose countersignature it waits for, each role once.
    pub fn roles(&self) -> Vec<String> {
        let mut roles: Vec<String> = self.demands.iter().map(|demand| demand.role.clone()).collect();
        roles.sort();
        roles.dedup();
        roles
    }

    /// The first `@reason` of its policies.
    pub fn reason(&self) -> Option<&str> {
        self.demands.iter().find_map(|demand| demand.reason.as_deref())
    }

    /// Whether that agent, for that user and task, asked.
    pub fn is_of(&self, issuer: &str, agent: &str, user: Option<&str>, task: Option<&str>) -> bool {
        self.issuer == issuer && self.agent == agent && self.user.as_deref() == user && self.task.as_deref() == task
    }
}
