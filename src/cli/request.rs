//! What the CLI can ask of a house, and the one place that does it: in the running server when there is
//! one, otherwise in this process with the store opened for the moment.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::{
    agents, approvers, control,
    explain::Question,
    holds, identity,
    outcome::{Exit, Failure, error_json},
    show,
};
use crate::{
    approver::Passphrase,
    clock::Clock,
    config::{Config, Transport},
    contract::UpstreamName,
    display::{self, visible},
    grant::Visibility,
    http::snapshot,
    identity::TokenRequest,
    json::{Digest, Limits},
    ledger::{Entry, Filter},
    pipeline::Ended,
    server::{House, OpenError, Registration},
};

/// The most entries that one request brings.
pub(super) const PAGE: usize = 500;

/// How long a command waits for another that has the store.
const PATIENCE: Duration = Duration::from_secs(10);
/// When it looks again.
const AGAIN: Duration = Duration::from_millis(50);

/// Everything that can be asked. There is no other verb.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the house fares.
    Status,
    /// A token for an agent.
    IssueToken {
        /// The agent's name.
        agent: String,
        /// How long it lives, seconds.
        ttl_s: u64,
        /// The task it is for.
        task: Option<String>,
        /// The user the agent acts for.
        user: Option<String>,
    },
    /// How a token would be judged.
    CheckToken {
        /// The token.
        token: Typed,
    },
    /// Ends an agent's tokens.
    RevokeToken {
        /// The agent's name.
        agent: String,
        /// One token by its id; all without.
        token: Option<String>,
    },
    /// Who has called, and the tokens that are good.
    ListAgents,
    /// Ends a task.
    EndTask {
        /// The task.
        task: String,
    },
    /// Writes contracts for tools that have none.
    RegisterTools {
        /// One upstream; all without.
        upstream: Option<String>,
    },
    /// What is offered and what is not.
    ListTools,
    /// What is not offered, and the differences.
    ReviewTools {
        /// One tool, `<upstream>__<tool>`; all without.
        tool: Option<String>,
    },
    /// Takes a changed definition as the contract.
    AcceptTool {
        /// `<upstream>__<tool>`
        tool: String,
        /// The digest of the definition that was looked at; whatever is advertised now, without.
        digest: Option<String>,
    },
    /// Writes down that a changed definition is not wanted.
    RejectTool {
        /// `<upstream>__<tool>`
        tool: String,
        /// The digest of the definition that was looked at.
        digest: String,
    },
    /// How a call would be decided.
    ExplainGrant(Question),
    /// Holds, the newest first.
    ListHolds {
        /// Of this state; `open` for those that can still be run, `all` for every one that is known.
        state: String,
        /// How many at most.
        most: usize,
    },
    /// One hold, as an approver is shown it.
    ShowHold {
        /// Its id.
        hold: String,
        /// Who looks; without, the one approver who could countersign it.
        approver: Option<String>,
    },
    /// Countersigns a hold.
    ApproveHold {
        /// Its id.
        hold: String,
        /// The digest that was shown.
        digest: String,
        /// Who countersigns.
        approver: String,
        /// What unlocks their key.
        passphrase: Typed,
    },
    /// Denies a hold.
    DenyHold {
        /// Its id.
        hold: String,
        /// The digest that was shown.
        digest: String,
        /// Who denies.
        approver: String,
        /// What shows that it is they.
        passphrase: Typed,
        /// Why, for the agent.
        reason: String,
    },
    /// Withdraws a hold.
    CancelHold {
        /// Its id.
        hold: String,
    },
    /// Everybody who may countersign.
    ListApprovers,
    /// Adds an approver, or changes one's roles and names.
    AddApprover {
        /// The name.
        name: String,
        /// The roles.
        roles: Vec<String>,
        /// Other names of the same person.
        also: Vec<String>,
        /// Who vouches.
        vouch: Option<Voucher>,
    },
    /// Takes an approver out.
    RemoveApprover {
        /// The name.
        name: String,
        /// Who vouches.
        vouch: Option<Voucher>,
    },
    /// Enrols whom a code was given to.
    EnrolApprover {
        /// The one-time code.
        code: Typed,
        /// The passphrase that they chose.
        passphrase: Typed,
    },
    /// Entries of the ledger in order.
    LedgerEntries {
        /// The first.
        from: u64,
        /// How many at most, up to `PAGE`.
        most: usize,
        /// How long to wait for one when there is none yet, milliseconds, up to 10,000.
        wait_ms: u64,
    },
    /// The entries that a filter lets through, oldest first.
    LedgerSelect {
        /// Not before this one.
        from: u64,
        /// How many at most, up to `PAGE`.
        most: usize,
        /// Of this agent.
        agent: Option<String>,
        /// For this tool, `<upstream>__<tool>`.
        tool: Option<String>,
        /// Of this kind, or of every kind that begins so when it ends in `.`.
        kind: Option<String>,
        /// Not earlier than this, RFC 3339.
        since: Option<String>,
    },
    /// How many entries there are.
    LedgerSize,
    /// One entry with what is kept beside it.
    LedgerEntry {
        /// Its number.
        seq: u64,
    },
    /// The entries of one call, with what is kept beside them.
    LedgerCall {
        /// The call's id.
        call: String,
    },
    /// Entries as lines, byte for byte as they are in the log.
    LedgerExport {
        /// The first.
        from: u64,
        /// How many at most, up to `PAGE`.
        most: usize,
    },
    /// Removes what is kept beside an entry.
    LedgerRedact {
        /// Its number.
        seq: u64,
    },
    /// A signed checkpoint.
    LedgerCheckpoint,
    /// A receipt for one entry.
    LedgerProve {
        /// Its number.
        seq: u64,
    },
    /// Reads contracts and grants again.
    Reload,
    /// Drains and ends the server.
    Stop,
}

/// Something that a person typed and nobody else is to see.
#[derive(Clone, PartialEq, Eq)]
pub struct Typed(Zeroizing<String>);

impl Typed {
    /// What was typed.
    pub fn new(text: Zeroizing<String>) -> Self {
        Self(text)
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// A passphrase.
    pub fn passphrase(self) -> Passphrase {
        Passphrase::new(self.0)
    }
}

impl std::fmt::Debug for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Typed(…)")
    }
}

impl Serialize for Typed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Typed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// An enrolled approver who vouches for another's coming or going.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Voucher {
    /// Who.
    pub approver: String,
    /// What unlocks their key.
    pub passphrase: Typed,
}

/// Asks the running server, or opens the house for this one request.
///
/// # Errors
/// [`Failure`], by whichever of the two was asked.
pub async fn with_house(config: Config, request: Request) -> Result<Value, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let house = loop {
        if let Some(mut server) = control::connect(&config).await? {
            return server.ask(&request).await;
        }
        let opened = match request {
            Request::Reload | Request::Stop => return Err(no_server()),
            // what is shown or countersigned depends on the grants that are in force
            Request::Status
            | Request::ExplainGrant(_)
            | Request::ShowHold { .. }
            | Request::ApproveHold { .. }
            | Request::DenyHold { .. } => House::open(config.clone(), Clock::System),
            // a grant that does not check stops neither what would mend it nor a revocation
            _ => House::open_unjudging(config.clone(), Clock::System),
        };
        match opened {
            Ok(house) => break house,
            // another command that ends soon, or a server that opens its socket soon
            Err(OpenError::InUse(_)) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
            Err(error) => return Err(error.into()),
        }
    };
    let answer = execute(&house, request).await;
    house.pipeline.upstreams.stop().await;
    house.pipeline.ledger.close().await;
    answer
}

pub(super) fn no_server() -> Failure {
    Failure::new(Exit::Unreachable, "no server runs on this data folder").hint("start one with `countersign serve`")
}

/// Does what was asked. [`Request::Stop`] is the server's own affair (see `control`).
///
/// # Errors
/// [`Failure`].
pub async fn execute(house: &House, request: Request) -> Result<Value, Failure> {
    match request {
        Request::Status => Ok(status(house)),
        Request::IssueToken { agent, ttl_s, task, user } => {
            let request = TokenRequest { agent, ttl: Duration::from_secs(ttl_s), task, user };
            // what a token's bounds are, the identity knows: a request beyond them is the operator's to correct
            let token = house.pipeline.identity.issue(request.clone()).await.map_err(|fault| {
                Failure::new(Exit::Cannot, fault.0).hint("see `countersign agent token --help` for what can be asked")
            })?;
            let expires = Clock::System.now().as_second().saturating_add(i64::try_from(ttl_s).unwrap_or(i64::MAX));
            let expires = jiff::Timestamp::from_second(expires).ok().map(|at| at.to_string());
            let (agent, task, user) = (request.agent, request.task, request.user);
            Ok(json!({"token": token, "agent": agent, "task": task, "user": user, "expires": expires}))
        }
        Request::CheckToken { token } => Ok(identity::check(house, token.reveal()).await),
        Request::RevokeToken { agent, token } => {
            house.pipeline.identity.revoke(&agent, token.as_deref()).await?;
            Ok(json!({"agent": agent, "token": token, "revoked": true}))
        }
        Request::ListAgents => agents::list(house).await,
        Request::EndTask { task } => {
            let ended = house.pipeline.end_task(&task).await?;
            let Ended { tokens, holds, streams, leases } = ended;
            let ended = json!({"task": task, "ended": true, "tokens": tokens, "holds": holds, "streams": streams, "leases": leases});
            Ok(ended)
        }
        Request::RegisterTools { upstream } => register(house, upstream).await,
        Request::ListTools => Ok(tools(house)),
        Request::ReviewTools { tool } => review(house, tool).await,
        Request::AcceptTool { tool, digest } => {
            let shown = digest.as_deref().map(shown_digest).transpose()?;
            let (upstream, name) = split_tool(&tool)?;
            let accepted = house.accept(&upstream, name, shown).await;
            let digest = accepted.map_err(|fault| {
                Failure::new(Exit::No, fault.0).hint("`countersign tool review` shows what waits to be accepted")
            })?;
            Ok(json!({"tool": tool, "accepted": true, "digest": digest.to_string()}))
        }
        Request::RejectTool { tool, digest } => {
            let shown = shown_digest(&digest)?;
            let (upstream, name) = split_tool(&tool)?;
            let rejected = house.reject(&upstream, name, shown).await;
            rejected.map_err(|fault| {
                Failure::new(Exit::No, fault.0).hint("`countersign tool review` shows what waits to be accepted")
            })?;
            Ok(json!({"tool": tool, "rejected": true, "digest": digest}))
        }
        Request::ExplainGrant(question) => super::explain::explain(house, question),
        Request::ListHolds { state, most } => holds::list(house, &state, most),
        Request::ShowHold { hold, approver } => holds::show(house, &hold, approver).await,
        Request::ApproveHold { hold, digest, approver, passphrase } => {
            holds::approve(house, &hold, &digest, &approver, &passphrase.passphrase()).await
        }
        Request::DenyHold { hold, digest, approver, passphrase, reason } => {
            holds::deny(house, &hold, &digest, &approver, &passphrase.passphrase(), &reason).await
        }
        Request::CancelHold { hold } => holds::cancel(house, &hold).await,
        Request::ListApprovers => Ok(approvers::list(house)),
        Request::AddApprover { name, roles, also, vouch } => approvers::add(house, &name, roles, also, vouch).await,
        Request::RemoveApprover { name, vouch } => approvers::remove(house, &name, vouch).await,
        Request::EnrolApprover { code, passphrase } => {
            approvers::enrol(house, code.reveal(), &passphrase.passphrase()).await
        }
        Request::LedgerEntries { from, most, wait_ms } => entries(house, from, most, wait_ms).await,
        Request::LedgerSelect { from, most, agent, tool, kind, since } => {
            let since = since.map(|since| since.parse()).transpose();
            let since = since.map_err(|_| {
                Failure::new(Exit::Cannot, "that is no time").hint("write it as `2026-11-21T03:00:00Z`")
            })?;
            let filter = Filter { agent, tool, kind, since, ..Filter::default() };
            let (found, next) = house.pipeline.ledger.select(&filter, from, most.min(PAGE))?;
            let entries: Vec<Value> = found.iter().map(entry_json).collect();
            Ok(json!({"size": house.pipeline.ledger.size(), "next": next, "entries": entries}))
        }
        Request::LedgerRedact { seq } => {
            let recorded = house.pipeline.ledger.redact(seq).await?;
            let recorded = recorded.ok_or_else(|| {
                Failure::new(Exit::Cannot, format!("nothing is kept beside entry {seq}"))
                    .hint("name an intent or an outcome, as `countersign ledger list` shows them")
            })?;
            Ok(json!({"redacted": seq, "entry": recorded}))
        }
        Request::LedgerSize => Ok(json!({"size": house.pipeline.ledger.size()})),
        Request::LedgerEntry { seq } => {
            let entries = house.pipeline.ledger.entries(seq, 1)?;
            let entry = entries.first().ok_or_else(|| {
                let size = house.pipeline.ledger.size();
                Failure::new(Exit::Cannot, format!("the ledger has {size} entries, and no number {seq}"))
            })?;
            with_payload(house, entry)
        }
        Request::LedgerCall { call } => {
            let entries = house.pipeline.ledger.find(&call)?;
            if entries.is_empty() {
                return Err(Failure::new(Exit::Cannot, format!("the ledger has no call `{}`", visible(&call))));
            }
            let entries = entries.iter().map(|entry| with_payload(house, entry)).collect::<Result<Vec<_>, _>>()?;
            Ok(json!({"entries": entries}))
        }
        Request::LedgerExport { from, most } => {
            if from >= house.pipeline.ledger.size() {
                return Ok(json!({"lines": []}));
            }
            let entries = house.pipeline.ledger.entries(from, most.min(PAGE))?;
            let line = |entry: &Entry| String::from_utf8_lossy(&entry.to_line()).trim_end().to_owned();
            Ok(json!({"lines": entries.iter().map(line).collect::<Vec<_>>()}))
        }
        Request::LedgerProve { seq } => Ok(json!({"proof": house.pipeline.ledger.prove(seq).await?})),
        Request::LedgerCheckpoint => Ok(json!({"checkpoint": house.pipeline.ledger.checkpoint().await?})),
        Request::Reload => match house.reload_everything().await {
            Ok(()) => Ok(json!({"reloaded": true})),
            Err(errors) => {
                Err(Failure { exit: Exit::No, ..Failure::config(&errors) }.hint("the old ones stay in force"))
            }
        },
        Request::Stop => Err(no_server()),
    }
}

fn status(house: &House) -> Value {
    let now = snapshot(&house.pipeline);
    let fares = house.pipeline.upstreams.status();
    let told: BTreeMap<&str, _> = fares.iter().map(|status| (status.name.as_str(), status)).collect();
    let upstreams: Vec<Value> = house
        .config
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let status = told.get(name.as_str());
            json!({
                "name": name.as_str(),
                "transport": match upstream.transport { Transport::Stdio { .. } => "stdio", Transport::Http { .. } => "http" },
                "state": status.map_or("idle", |status| status.state),
                "protocol": status.and_then(|status| status.protocol.clone()),
                "in_flight": status.map_or(0, |status| status.in_flight),
                "account": status.and_then(|status| status.account),
                "last_error": status.and_then(|status| status.last_error.clone()),
            })
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "mcp": house.config.endpoint(),
        "console": house.config.console_url(),
        "data": house.config.data.display().to_string(),
        "ledger": {"entries": now.ledger_entries, "healthy": now.ledger_healthy},
        "grants": {"policies": now.policies, "digest": house.pipeline.grants.load().digest().to_string()},
        "tools": now.tools,
        "quarantined": now.quarantined,
        "upstreams": upstreams,
        "holds": {"pending": now.holds_pending, "approved": now.holds_approved},
        "notifications": notifications(house),
    })
}

/// How each receiver of notifications fares; none where no server runs, as nobody is told anything then.
fn notifications(house: &House) -> Vec<Value> {
    let fares = house.pipeline.notifier.get().map(|notifier| notifier.fares()).unwrap_or_default();
    let told = fares.into_iter().map(|fares| {
        json!({
            "name": fares.name,
            "undelivered": fares.undelivered,
            "given_up": fares.refused,
            "error": fares.error,
            "since": fares.since.map(|at| at.to_string()),
        })
    });
    told.collect()
}

async fn register(house: &House, upstream: Option<String>) -> Result<Value, Failure> {
    let upstream = upstream.map(|name| known_upstream(house, &name)).transpose()?;
    let (done, errors) = house.register(upstream.as_ref()).await?;
    let done: Vec<Value> = done
        .into_iter()
        .map(|done| {
            let (result, impact, why) = match done.result {
                Registration::New { impact } => ("new", Some(impact), None),
                Registration::Unchanged => ("unchanged", None, None),
                Registration::Changed => ("changed", None, None),
                Registration::Refused(why) => ("refused", None, Some(why)),
                Registration::Unreachable(why) => ("unreachable", None, Some(why)),
            };
            let (upstream, tool) = (done.upstream.as_str(), Some(done.tool).filter(|tool| !tool.is_empty()));
            json!({"upstream": upstream, "tool": tool, "result": result, "impact": impact, "why": why})
        })
        .collect();
    Ok(json!({"tools": done, "errors": errors.iter().map(error_json).collect::<Vec<_>>()}))
}

fn known_upstream(house: &House, name: &str) -> Result<UpstreamName, Failure> {
    let found = UpstreamName::new(name).filter(|name| house.config.upstreams.contains_key(name));
    found.ok_or_else(|| {
        let known: Vec<&str> = house.config.upstreams.keys().map(UpstreamName::as_str).collect();
        let hint = match nearest(name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "add one with `countersign upstream add`".to_owned(),
            None => format!("there are: {}", known.join(", ")),
        };
        Failure::new(Exit::Cannot, format!("there is no upstream `{name}`")).hint(hint)
    })
}

/// The known name that `name` is most likely a slip of.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let best = known.map(|known| (strsim::damerau_levenshtein(known, name), known)).min()?;
    (best.0 <= 2.max(best.1.len() / 4)).then_some(best.1)
}

fn split_tool(tool: &str) -> Result<(UpstreamName, &str), Failure> {
    let parts = tool.split_once("__").and_then(|(upstream, name)| Some((UpstreamName::new(upstream)?, name)));
    parts.filter(|(_, name)| !name.is_empty()).ok_or_else(|| {
        Failure::new(Exit::Cannot, format!("`{tool}` is no tool's name")).hint("write it as `<upstream>__<tool>`")
    })
}

fn shown_digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|error| {
        Failure::new(Exit::Cannot, format!("the digest cannot be read: {error}"))
            .hint("take it from `countersign tool review`")
    })
}

fn tools(house: &House) -> Value {
    let catalog = house.pipeline.catalog.load();
    let offered: Vec<Value> = catalog
        .tools()
        .map(|tool| {
            let impact: Vec<&str> = tool.impact.iter().map(|impact| impact.word()).collect();
            let digest = tool.digest.to_string();
            json!({"tool": tool.name, "impact": impact, "labels": tool.labels, "contract": digest})
        })
        .collect();
    let quarantined: Vec<Value> = catalog
        .quarantined()
        .iter()
        .map(|quarantined| {
            let (why, detail) = quarantined.why.told();
            json!({"tool": format!("{}__{}", quarantined.upstream, quarantined.tool), "why": why, "detail": detail})
        })
        .collect();
    json!({"tools": offered, "quarantined": quarantined})
}

async fn review(house: &House, only: Option<String>) -> Result<Value, Failure> {
    let reviews: Vec<Value> = house
        .review()
        .await?
        .into_iter()
        .map(|review| (format!("{}__{}", review.upstream, review.tool), review))
        .filter(|(name, _)| only.as_ref().is_none_or(|only| only == name))
        .map(|(name, review)| {
            let digest = review.digest().map(|digest| digest.to_string());
            let difference = review.difference.as_deref().map(display::render);
            let rejected = review.rejected.map(|it| json!({"by": it.by, "at": it.at.to_string()}));
            json!({
                "tool": name, "why": review.why, "detail": review.detail, "difference": difference,
                "digest": digest, "rejected": rejected,
            })
        })
        .collect();
    Ok(json!({"tools": reviews}))
}

/// Entries as objects with their `seq` first; waits a while for the first when there is none.
async fn entries(house: &House, from: u64, most: usize, wait_ms: u64) -> Result<Value, Failure> {
    let ledger = &house.pipeline.ledger;
    let arrives = async {
        while ledger.size() <= from {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // nothing in time is an answer too
    let _in_time = tokio::time::timeout(Duration::from_millis(wait_ms.min(10_000)), arrives).await;
    let size = ledger.size();
    if from >= size {
        return Ok(json!({"size": size, "entries": []}));
    }
    let entries: Vec<Value> = ledger.entries(from, most.min(PAGE))?.iter().map(entry_json).collect();
    Ok(json!({"size": size, "entries": entries}))
}

/// An entry with what is kept beside it: the arguments of an intent or the result of an outcome, as the very
/// text that the entry's digest names, and the salt of that digest. `payload` is `null` where nothing is kept.
fn with_payload(house: &House, entry: &Entry) -> Result<Value, Failure> {
    let mut tree = entry_json(entry);
    if let Some(members) = tree.as_object_mut() {
        members.remove("seq");
    }
    let which = if show::field(&tree, "kind") == "call.settled" { "result" } else { "arguments" };
    let payload = house.pipeline.ledger.payload(entry.seq)?.map(|payload| {
        let salt: String = payload.salt.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"salt": salt, which: String::from_utf8_lossy(&payload.bytes)})
    });
    Ok(json!({"seq": entry.seq, "entry": tree, "payload": payload}))
}

/// One entry as an object that has its `seq`.
pub(super) fn entry_json(entry: &Entry) -> Value {
    let tree = crate::json::parse(&entry.text, &Limits::REQUEST).map(|tree| tree.to_serde());
    match tree {
        Ok(Value::Object(mut members)) => {
            members.insert("seq".to_owned(), entry.seq.into());
            Value::Object(members)
        }
        // an entry that is no object was not written by us: it is shown for what it is
        _ => json!({"seq": entry.seq, "kind": "unreadable"}),
    }
}

/// Whether a principal is told of the tool.
pub(super) fn visibility_word(visibility: Option<Visibility>) -> &'static str {
    match visibility {
        Some(Visibility::Allow) => "allow",
        Some(Visibility::Hold) => "hold",
        None => "hidden",
    }
}

/// Errors of files, as an answer.
pub(super) fn errors_json(errors: &[crate::grant::ConfigError]) -> Vec<Value> {
    errors.iter().map(error_json).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Typed {
        Typed::new(Zeroizing::new(text.to_owned()))
    }

    #[test]
    fn what_was_typed_is_not_shown_by_accident() {
        let voucher = Voucher { approver: "ann".to_owned(), passphrase: typed("hunter2") };
        let request = Request::RemoveApprover { name: "bob".to_owned(), vouch: Some(voucher) };
        assert!(!format!("{request:?}").contains("hunter2"), "{request:?}");
    }

    #[test]
    fn a_request_is_one_of_a_closed_set() {
        for request in [
            Request::Status,
            Request::LedgerEntries { from: 1, most: 2, wait_ms: 3 },
            Request::AcceptTool { tool: "a__b".to_owned(), digest: None },
            Request::EnrolApprover { code: typed("code"), passphrase: typed("hunter2") },
        ] {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        }
        for wrong in ["{}", r#"{"ask":"shell"}"#, r#"{"ask":"accept_tool","tool":"a","then":"b"}"#, "[]"] {
            assert!(serde_json::from_str::<Request>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_tool_is_named_by_its_upstream_first() {
        let (upstream, tool) = split_tool("bank__close__it").unwrap();
        assert_eq!((upstream.as_str(), tool), ("bank", "close__it"));
        for wrong in ["bank", "__x", "bank__", "Bank__x", ""] {
            assert_eq!(split_tool(wrong).unwrap_err().exit, Exit::Cannot, "{wrong}");
        }
    }

    #[test]
    fn an_entry_gets_its_seq() {
        let entry = crate::ledger::Entry { seq: 7, text: r#"{"kind":"server.started"}"#.into() };
        assert_eq!(entry_json(&entry), json!({"kind": "server.started", "seq": 7}));
        let broken = crate::ledger::Entry { seq: 8, text: "[".into() };
        assert_eq!(entry_json(&broken)["kind"], "unreadable");
    }
}
