//! What a token is traded for: the one place that makes a principal from another, and it only takes away.

use crate::{
    call::{Assurance, Principal},
    clock::Timestamp,
    config::DelegationConfig,
    identity::Bound,
};

use super::{Form, Refused};

/// Hands that a token may go through.
pub(super) const CHAIN: usize = 8;
/// Scopes, and actions, that a token may name.
pub(super) const NAMES: usize = 64;
/// Bytes of all of them: a token has to fit into a header.
const NAMES_TEXT: usize = 3 << 10;
/// Bytes of a task.
const TASK: usize = 256;

/// What was asked for; nothing of it is granted yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) scopes: Option<Vec<String>>,
    pub(super) tools: Option<Vec<String>>,
    pub(super) task: Option<String>,
    /// What a sub-agent is called that has no credential of its own.
    pub(super) label: Option<String>,
    pub(super) seconds: Option<i64>,
}

impl Wanted {
    pub(super) fn read(form: &Form) -> Result<Self, Refused> {
        let seconds = match form.text("expires_in") {
            None => None,
            Some(text) => {
                let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && text.len() <= 9;
                Some(
                    text.parse()
                        .ok()
                        .filter(|_| plain)
                        .ok_or(Refused::Malformed("`expires_in` is no number of seconds"))?,
                )
            }
        };
        let task = form.text("task").map(str::to_owned);
        if task.as_ref().is_some_and(|task| task.len() > TASK) {
            return Err(Refused::Malformed("`task` is longer than 256 bytes"));
        }
        let label = form.text("agent").map(str::to_owned);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if label.as_ref().is_some_and(|label| label.len() > 32 || !label.bytes().all(plain)) {
            return Err(Refused::Malformed("`agent` names a sub-agent by 1 to 32 letters, digits, `.`, `_` and `-`"));
        }
        if label.is_some() && form.text("actor_token").is_some() {
            return Err(Refused::Malformed("`agent` and `actor_token` both name a sub-agent: keep one"));
        }
        if form.text("requested_token_type").is_some_and(|kind| ![super::ACCESS_TOKEN, super::JWT].contains(&kind)) {
            return Err(Refused::Malformed("`requested_token_type`: access tokens are all that is given here"));
        }
        let (scopes, tools) = (form.words("scope"), form.words("tools"));
        for names in [&scopes, &tools].into_iter().flatten() {
            let text: usize = names.iter().map(|name| name.len() + 4).sum();
            if names.len() > NAMES || text > NAMES_TEXT {
                return Err(Refused::Malformed("`scope` and `tools` have 64 names at most, 3 KiB each"));
            }
            if names
                .iter()
                .any(|name| !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\'))
            {
                return Err(Refused::Malformed(
                    "`scope` and `tools` are names of visible ASCII with spaces between them",
                ));
            }
        }
        Ok(Self { scopes, tools, task, label, seconds })
    }
}

/// What bounds every trade.
pub(super) struct Bounds<'a> {
    pub(super) delegation: &'a DelegationConfig,
    pub(super) now: Timestamp,
    pub(super) ended: &'a (dyn Fn(&str) -> bool + Sync),
}

/// What `parent` gets for itself, or for the sub-agent of that credential or label. Who it is, for whom, who vouches, in which
/// teams and as which workload stays: grants decide by these, also against it.
///
/// # Errors
/// What it asks for that `parent` has not.
pub(super) fn child(
    parent: &Principal,
    actor: Option<&Principal>,
    wanted: &Wanted,
    bounds: &Bounds<'_>,
) -> Result<Principal, Refused> {
    let scopes = match &wanted.scopes {
        None => parent.scopes.clone(),
        Some(scopes) if scopes.iter().all(|scope| parent.scopes.contains(scope)) => scopes.clone(),
        Some(_) => return Err(Refused::ScopeWider),
    };
    let tools = match (&wanted.tools, &parent.tools) {
        (None, tools) => tools.clone(),
        (Some(tools), None) => Some(tools.clone()),
        (Some(tools), Some(known)) if tools.iter().all(|tool| known.contains(tool)) => Some(tools.clone()),
        (Some(_), Some(_)) => return Err(Refused::ToolsWider),
    };
    let task = match (&wanted.task, &parent.task) {
        (None, task) => task.clone(),
        (Some(task), Some(known)) if task == known => Some(task.clone()),
        (Some(_), Some(_)) => return Err(Refused::TaskWider),
        (Some(_), None) if !bounds.delegation.new_tasks => return Err(Refused::TaskNew),
        (Some(task), None) => Some(task.clone()),
    };
    if task.as_deref().is_some_and(|task| (bounds.ended)(task)) {
        return Err(Refused::TaskEnded);
    }
    Ok(Principal {
        agent: parent.agent.clone(),
        issuer: parent.issuer.clone(),
        user: parent.user.clone(),
        task,
        teams: parent.teams.clone(),
        scopes,
        workload: parent.workload.clone(),
        chain: chain(parent, actor, wanted.label.as_deref())?,
        tools,
        // a token that is traded for one that is bound makes nobody surer
        assurance: if parent.assurance == Assurance::Bearer { Assurance::Bearer } else { Assurance::Bound },
        // made with the token
        credential: String::new(),
        issued: bounds.now,
        expires: ends(parent, actor, wanted.seconds, bounds)?,
    })
}

/// Through whose hands it goes.
fn chain(parent: &Principal, actor: Option<&Principal>, label: Option<&str>) -> Result<Vec<String>, Refused> {
    let mut chain = parent.chain.clone();
    if let Some(actor) = actor {
        chain.push(actor.agent.clone());
        chain.extend_from_slice(&actor.chain);
    }
    if let Some(label) = label {
        let last = chain.last().unwrap_or(&parent.agent);
        // no agent's name has the sign between: nobody passes for one that was shown to be who it is
        chain.push(format!("{last}#{label}"));
    }
    if chain.len() > CHAIN || chain.iter().any(|name| name.len() > 256) {
        return Err(Refused::ChainTooLong);
    }
    let hands = std::iter::once(&parent.agent).chain(&chain);
    let mut seen = std::collections::HashSet::new();
    if hands.into_iter().all(|name| seen.insert(name)) { Ok(chain) } else { Err(Refused::ActorCycle) }
}

/// When it ends: tokens say times to the second.
fn ends(
    parent: &Principal,
    actor: Option<&Principal>,
    seconds: Option<i64>,
    bounds: &Bounds<'_>,
) -> Result<Timestamp, Refused> {
    let now = bounds.now.as_second();
    let longest = |length: std::time::Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    let others = [Some(parent), actor].into_iter().flatten().map(|other| other.expires.as_second());
    let left = others.min().unwrap_or(now).saturating_sub(now);
    let most = left.min(longest(bounds.delegation.max_ttl));
    let asked = seconds.unwrap_or_else(|| longest(bounds.delegation.ttl).max(1).min(most));
    if asked < 1 || asked > most {
        return Err(Refused::LifetimeWider { most: most.max(0) });
    }
    Timestamp::from_second(now.saturating_add(asked)).map_err(|_| Refused::LifetimeWider { most })
}

/// How sure the holder is of a token that nobody traded for.
pub(super) fn assurance(bound: Option<Bound>) -> Assurance {
    if bound.is_some() { Assurance::Bound } else { Assurance::Bearer }
}
