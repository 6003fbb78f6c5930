//! A hold as approvers are shown it, by the API and by the command line alike.

use serde_json::{Value, json};

use crate::{
    call::Fault,
    clock::Timestamp,
    display::Display,
    hold::{Book, HoldId, Phase, Record},
    ledger::Filter,
    pipeline::Pipeline,
};

/// How far back it is told what the agent did with the tool.
const BACK: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// Entries that are looked through for it at most, and calls that are told.
const LOOKED_THROUGH: u64 = 1 << 14;
const TOLD: usize = 20;

/// A time as it is written everywhere: RFC 3339, UTC, microseconds.
pub(crate) fn time(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// What is known of a hold without its arguments; `approver` is who looks.
pub(crate) fn hold(book: &Book, record: &Record, approver: &str, now: Timestamp) -> Value {
    let Record { hold, phase, votes, since, .. } = record;
    let deadline = if *phase == Phase::Approved { hold.execute_by } else { hold.approve_by };
    let left = if phase.is_open() { deadline.duration_since(now).as_secs().max(0) } else { 0 };
    let votes: Vec<Value> = votes
        .iter()
        .map(|vote| {
            json!({"approver": vote.approver, "means": vote.means.word(), "at": time(vote.at),
                                       "seq": vote.seq})
        })
        .collect();
    let demands: Vec<Value> = hold
        .demands
        .iter()
        .map(|demand| {
            json!({"policy": &*demand.policy, "role": demand.role, "approvals": demand.approvals,
                   "assurance": demand.assurance.word(), "reason": demand.reason})
        })
        .collect();
    let progress: Vec<Value> = book
        .progress(record)
        .into_iter()
        .map(|(role, have, need)| json!({"role": role, "have": have, "need": need}))
        .collect();
    let why_not = |may: Result<(), crate::hold::Rejected>| may.err().map(|rejected| rejected.code());
    json!({
        "id": hold.id.as_str(),
        "digest": hold.digest.to_string(),
        "seq": hold.seq,
        "state": phase.word(),
        "since": time(*since),
        "agent": hold.agent,
        "issuer": hold.issuer,
        "user": hold.user,
        "task": hold.task,
        "workload": hold.claims.workload,
        "chain": hold.claims.chain,
        "teams": hold.claims.teams,
        "scopes": hold.claims.scopes,
        "only_tools": hold.claims.tools,
        "assurance": hold.claims.assurance,
        "door": hold.door,
        "call": hold.call,
        "method": hold.method,
        "tool": hold.tool,
        "upstream": hold.upstream,
        "impact": hold.impact,
        "contract": hold.contract.to_string(),
        "grants": hold.grants.to_string(),
        "policies": hold.policies.iter().map(|policy| &**policy).collect::<Vec<_>>(),
        "demands": demands,
        "progress": progress,
        "votes": votes,
        "created": time(hold.created),
        "approve_by": time(hold.approve_by),
        "execute_by": time(hold.execute_by),
        "seconds_left": left,
        "ended": ended(phase),
        "you": {
            "takes": book.takes(hold, approver).word(),
            "cannot_approve": why_not(book.may_vote(&hold.id, &hold.digest, approver, now)),
            "cannot_deny": why_not(book.may_deny(&hold.id, &hold.digest, approver, now)),
        },
    })
}

/// How a hold ended, if it has.
fn ended(phase: &Phase) -> Value {
    match phase {
        Phase::Pending | Phase::Approved | Phase::Expired => Value::Null,
        Phase::Spent { call, intent, outcome } => {
            let outcome = outcome.as_ref().map(|(seq, word)| json!({"seq": seq, "word": word}));
            json!({"call": call, "intent": intent, "outcome": outcome})
        }
        Phase::Denied { by, reason } => json!({"by": by, "reason": reason}),
        Phase::Cancelled { by } => json!({"by": by}),
        Phase::Void(drift) => json!({"code": drift.code()}),
    }
}

/// Everything that an approver has to see of a hold before deciding; `None` when there is none. Large arguments take
/// their time: not for an async worker's thread.
///
/// # Errors
/// [`Fault`] when the ledger cannot be read.
pub(crate) fn whole(pipeline: &Pipeline, id: &HoldId, approver: &str) -> Result<Option<Value>, Fault> {
    let ledger = &pipeline.ledger;
    let now = pipeline.clock.now();
    let known = ledger.holds(|book| {
        let record = book.get(id)?;
        let last = book.iter().filter(|other| is_like(record, other)).max_by_key(|other| other.hold.seq);
        Some((
            hold(book, record, approver, now),
            std::sync::Arc::clone(&record.hold),
            last.map(|last| std::sync::Arc::clone(&last.hold)),
        ))
    });
    let Some((mut shown, facts, last)) = known else { return Ok(None) };
    let entry = ledger.entries(facts.seq, 1)?.pop().ok_or_else(|| Fault(format!("entry {} is missing", facts.seq)))?;
    let canonical = ledger.held_arguments(&facts)?;
    let display = canonical.as_ref().map(|bytes| Display::of(bytes)).transpose();
    let display = display.map_err(|_| Fault(format!("the arguments of `{id}` cannot be read")))?;
    let difference = match (&display, last) {
        (Some(display), Some(last)) => {
            let before = ledger.held_arguments(&last)?;
            let told = before.and_then(|before| display.same_but_for(&before).ok());
            let (readable, told) = (told.is_some(), told.unwrap_or_default());
            Some(json!({"hold": last.id.as_str(), "readable": readable, "changes": told.changes, "more": told.more}))
        }
        _ => None,
    };
    let arguments = canonical.zip(display).map(|(bytes, display)| {
        json!({"canonical": String::from_utf8_lossy(&bytes), "text": display.text, "rows": display.rows,
               "more": display.more, "flags": display.flags})
    });
    if let Some(members) = shown.as_object_mut() {
        members.insert("entry".to_owned(), String::from_utf8_lossy(&entry.text).into());
        members.insert("arguments".to_owned(), arguments.unwrap_or(Value::Null));
        members.insert("difference".to_owned(), difference.unwrap_or(Value::Null));
        members.insert("lately".to_owned(), lately(pipeline, &facts.agent, &facts.tool, now)?);
    }
    Ok(Some(shown))
}

/// Whether another hold was countersigned for the same agent and tool before this one.
fn is_like(this: &Record, other: &Record) -> bool {
    let (hold, before) = (&this.hold, &other.hold);
    other.was_countersigned()
        && before.seq < hold.seq
        && before.issuer == hold.issuer
        && before.agent == hold.agent
        && before.tool == hold.tool
}

/// What the agent did with the tool in the last hour, by the kinds of entries, and the newest of them.
fn lately(pipeline: &Pipeline, agent: &str, tool: &str, now: Timestamp) -> Result<Value, Fault> {
    let ledger = &pipeline.ledger;
    let since = now.checked_sub(BACK).unwrap_or(Timestamp::UNIX_EPOCH);
    let filter = Filter {
        agent: Some(agent.to_owned()),
        tool: Some(tool.to_owned()),
        kind: Some("call.".to_owned()),
        since: Some(since),
        ..Filter::default()
    };
    let from = ledger.size().saturating_sub(LOOKED_THROUGH);
    let (entries, _next) = ledger.select(&filter, from, usize::MAX)?;
    let mut counts = std::collections::BTreeMap::<String, u64>::new();
    let mut calls = Vec::new();
    for entry in &entries {
        let Ok(text) = serde_json::from_slice::<Value>(&entry.text) else { continue };
        let member = |name: &str| text.get(name).and_then(Value::as_str);
        let Some(kind) = member("kind") else { continue };
        *counts.entry(kind.to_owned()).or_default() += 1;
        let what = member("outcome").or(member("reason"));
        calls.push(json!({"seq": entry.seq, "at": member("at"), "kind": kind, "what": what}));
    }
    let told = calls.split_off(calls.len().saturating_sub(TOLD));
    // the window is cut where too much else happened; that is said
    let whole = from == 0 || ledger.entries(from, 1)?.first().is_none_or(|first| before(&first.text, since));
    Ok(json!({"since": time(since), "complete": whole, "counts": counts, "newest": told, "more": calls.len()}))
}

/// Whether an entry is earlier than `at`.
fn before(text: &[u8], at: Timestamp) -> bool {
    let entry: Option<Value> = serde_json::from_slice(text).ok();
    let written = entry.and_then(|entry| entry.get("at")?.as_str()?.parse::<Timestamp>().ok());
    written.is_some_and(|written| written < at)
}
