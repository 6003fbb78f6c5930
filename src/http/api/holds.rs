//! Holds: looked at, countersigned, denied.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::Uri,
    response::Response,
};
use serde_json::{Value, json};

use super::{
    Doors, Problem, Who, answer,
    form::{Form, Parameters},
    passkeys::given,
};
use crate::{
    approver::{Shown, Way},
    call::Fault,
    hold::{HoldId, Means, Record, Rejected},
    http::{turn::Turn, view},
};

/// Holds of one page, usually and at most.
const USUAL: usize = 50;
const PAGE: usize = 200;

/// States that can be asked for; `open` is pending and approved.
const STATES: [&str; 8] = ["open", "pending", "approved", "spent", "denied", "expired", "cancelled", "void"];

/// Bytes of a denial's reason.
pub(in crate::http) const REASON: usize = 500;

pub(in crate::http) type Id = Result<Path<String>, PathRejection>;

/// The hold that a path names, if it has the form of one.
pub(in crate::http) fn named(id: Id) -> Result<HoldId, Problem> {
    let id = id.ok().and_then(|Path(text)| HoldId::read(&text));
    id.ok_or(Problem::Act(Rejected::UnknownHold))
}

/// Whether a text can be told to an agent as the reason of a denial.
pub(in crate::http) fn is_reason(text: &str) -> bool {
    !text.is_empty() && text.len() <= REASON && !text.chars().any(char::is_control)
}

/// A page of holds, newest first.
pub(super) async fn list(State(doors): State<Arc<Doors>>, Who(session): Who, uri: Uri) -> Result<Response, Problem> {
    let mut parameters = Parameters::of(&uri)?;
    let state = parameters.text("state")?.unwrap_or_else(|| "open".to_owned());
    if !STATES.contains(&state.as_str()) {
        return Err(Problem::Invalid(format!("`state` has to be one of {}", STATES.join(", "))));
    }
    let before = parameters.text("before")?;
    let before =
        before.map(|id| HoldId::read(&id).ok_or_else(|| Problem::Invalid("`before` is no hold's id".to_owned())));
    let before = before.transpose()?;
    let limit = parameters.limit(USUAL, PAGE)?;
    parameters.end()?;
    let ledger = &doors.pipeline.ledger;
    let (records, more) = ledger.holds(|book| {
        let wanted = |record: &&Record| match state.as_str() {
            "open" => record.phase.is_open(),
            state => record.phase.word() == state,
        };
        let below = |record: &&Record| before.as_ref().is_none_or(|before| record.hold.id < *before);
        let mut found: Vec<&Record> = book.iter().filter(wanted).filter(below).collect();
        // ids are in the order of time
        found.sort_unstable_by(|one, other| other.hold.id.cmp(&one.hold.id));
        let more = found.len() > limit;
        (found.into_iter().take(limit).cloned().collect::<Vec<_>>(), more)
    });
    let next = records.last().filter(|_| more).map(|record| record.hold.id.to_string());
    let now = doors.pipeline.clock.now();
    let holds: Vec<Value> =
        records.iter().map(|record| ledger.holds(|book| view::hold(book, record, &session.approver, now))).collect();
    Ok(answer(json!({"holds": holds, "next": next})))
}

/// One hold, with everything that an approver has to see.
pub(super) async fn show(State(doors): State<Arc<Doors>>, Who(session): Who, id: Id) -> Result<Response, Problem> {
    let id = named(id)?;
    let own = Turn::of(&session).await?;
    doors.pipeline.refresh_hold(&id).await?;
    let cut_short = || Fault("showing a hold was cut short".to_owned());
    let turn = Arc::clone(&doors.api.shown).acquire_owned().await.map_err(|_| cut_short())?;
    // large arguments take their time
    let shown = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        view::whole(&doors.pipeline, &id, &session.approver).map(|shown| shown.map(answer))
    });
    let shown = shown.await.map_err(|_| cut_short())??;
    Ok(own.lasts(shown.ok_or(Problem::Act(Rejected::UnknownHold))?))
}

/// Countersigns: the passphrase unlocks the approver's key for this one signature, or their passkey has signed the hold's
/// digest.
pub(super) async fn approve(
    State(doors): State<Arc<Doors>>,
    Who(session): Who,
    id: Id,
    mut form: Form,
) -> Result<Response, Problem> {
    let digest = form.digest()?;
    let given = given(&doors, &mut form)?;
    form.end()?;
    let id = named(id)?;
    doors.pipeline.refresh_hold(&id).await?;
    let (now, approver) = (doors.pipeline.clock.now(), session.approver.as_str());
    // why it cannot be is told before the passphrase is looked at; the ledger decides on it again
    let may = doors.pipeline.ledger.holds(|book| match (&given, book.roster().get(approver).and_then(|own| own.key)) {
        (Shown::Passphrase(_), Some(key)) => book.may_vote_with(&Means::Key(key), &id, &digest, approver, now),
        _ => book.may_vote(&id, &digest, approver, now),
    });
    may.map_err(Problem::Act)?;
    let way = Way::Session(session.id);
    let done = doors.pipeline.approvers.countersign(&id, &digest, approver, &given, way).await;
    done.map_err(|why| Problem::of(why, Problem::PassphraseWrong))?;
    after(&doors, &id, &session.approver)
}

/// Says no, and why.
pub(super) async fn deny(
    State(doors): State<Arc<Doors>>,
    Who(session): Who,
    id: Id,
    mut form: Form,
) -> Result<Response, Problem> {
    let digest = form.digest()?;
    let reason = form.text("reason")?;
    form.end()?;
    let reason = reason.trim();
    if !is_reason(reason) {
        let why = format!("`reason` has to have 1 to {REASON} bytes without control characters: the agent is told");
        return Err(Problem::Invalid(why));
    }
    let id = named(id)?;
    doors.pipeline.refresh_hold(&id).await?;
    let done = doors.pipeline.approvers.deny(&id, &digest, &session.approver, reason).await;
    done.map_err(|why| Problem::of(why, Problem::PassphraseWrong))?;
    after(&doors, &id, &session.approver)
}

/// Where the hold stands after an act.
fn after(doors: &Doors, id: &HoldId, approver: &str) -> Result<Response, Problem> {
    let now = doors.pipeline.clock.now();
    let shown = doors.pipeline.ledger.holds(|book| Some(view::hold(book, book.get(id)?, approver, now)));
    shown.map(answer).ok_or(Problem::Act(Rejected::UnknownHold))
}
