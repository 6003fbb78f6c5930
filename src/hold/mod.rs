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
    json::{Digest, Object, Value},
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

/// What a credential says of who asks beside agent, issuer, user and task. All of it can decide, so all of it is bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Its workload identity.
    pub workload: Option<String>,
    /// The agents through whose hands it went, the one who calls last.
    pub chain: Vec<String>,
    /// Teams it belongs to, in order.
    pub teams: Vec<String>,
    /// Scopes of the credential, in order.
    pub scopes: Vec<String>,
    /// The only actions that the credential is for, in order; all, without.
    pub tools: Option<Vec<String>>,
    /// How surely it is that agent, where more than its word or the operator's says so: `bound`, `certificate`.
    pub assurance: Option<String>,
}

impl Claims {
    /// The canonical form of what is there; nothing of the rest, so that what says nothing more is as it was before there
    /// was more to say.
    fn bound(&self) -> Option<Value> {
        if *self == Self::default() {
            return None;
        }
        let list = |texts: &[String]| Value::Array(texts.iter().map(|text| Value::from(text.as_str())).collect());
        let mut whole = Object::new();
        for (name, texts) in [("chain", &self.chain), ("scopes", &self.scopes), ("teams", &self.teams)] {
            if !texts.is_empty() {
                whole = whole.with(name, list(texts));
            }
        }
        if let Some(tools) = &self.tools {
            whole = whole.with("tools", list(tools));
        }
        for (name, text) in [("assurance", &self.assurance), ("workload", &self.workload)] {
            if let Some(text) = text {
                whole = whole.with(name, text.as_str());
            }
        }
        Some(Value::Object(whole))
    }
}

/// Which call it is, apart from when and how often it is made: issuer, agent, user, task, what else the credential says,
/// method, tool and canonical arguments. Two calls with the same binding are the identical call.
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
    /// What else its credential says.
    pub claims: &'a Claims,
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
        let mut whole = vec![
            Value::from(self.issuer),
            Value::from(self.agent),
            optional(self.user),
            optional(self.task),
            Value::from(self.method),
            Value::from(self.tool),
            Value::from(self.arguments.to_string()),
        ];
        whole.extend(self.claims.bound());
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
    /// What else its credential says.
    pub claims: Claims,
    /// The credential's id.
    pub credential: String,
    /// When the credential ends, where no entry of its issuing says so.
    pub credential_expires: Option<Timestamp>,
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
        let Self { issuer, agent, claims, method, tool, arguments, .. } = self;
        let (user, task) = (self.user.as_deref(), self.task.as_deref());
        Bound { issuer, agent, user, task, claims, method, tool, arguments: *arguments }.binding()
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

    /// Whether that agent, for that user and task and through those hands, asked.
    pub fn is_of(
        &self,
        issuer: &str,
        agent: &str,
        user: Option<&str>,
        task: Option<&str>,
        chain: &[impl AsRef<str>],
    ) -> bool {
        let same = self.issuer == issuer && self.agent == agent && self.user.as_deref() == user;
        let chain = chain.iter().map(AsRef::as_ref);
        same && self.task.as_deref() == task && self.claims.chain.iter().map(String::as_str).eq(chain)
    }

    /// Everybody who asks: the agent, the user it acts for, and whoever it came through.
    pub fn askers(&self) -> impl Iterator<Item = &str> {
        let chain = self.claims.chain.iter().map(String::as_str);
        [self.agent.as_str()].into_iter().chain(self.user.as_deref()).chain(chain)
    }
}
