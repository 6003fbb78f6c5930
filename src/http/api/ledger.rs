//! The ledger, for approvers to read: entries, never the payloads kept beside them.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::Uri,
    response::Response,
};
use serde_json::{Value, json};

use super::{
    Doors, Problem, Who, answer,
    form::{Parameters, number},
};
use crate::{call::Fault, ledger::Filter};

/// Entries of one page, usually and at most.
const USUAL: usize = 100;
const PAGE: usize = 500;

/// A page of entries, oldest first.
pub(super) async fn list(State(doors): State<Arc<Doors>>, Who(_session): Who, uri: Uri) -> Result<Response, Problem> {
    let mut parameters = Parameters::of(&uri)?;
    let from = parameters.number("from")?.unwrap_or(0);
    let limit = parameters.limit(USUAL, PAGE)?;
    let since = parameters.text("since")?.map(|since| since.parse()).transpose();
    let since =
        since.map_err(|_| Problem::Invalid("`since` has to be a time like `2026-11-21T03:00:00Z`".to_owned()))?;
    let (agent, tool, kind) = (parameters.text("agent")?, parameters.text("tool")?, parameters.text("kind")?);
    parameters.end()?;
    let filter = Filter { agent, tool, kind, since, ..Filter::default() };
    let found = tokio::task::spawn_blocking(move || {
        let ledger = &doors.pipeline.ledger;
        let (entries, next) = ledger.select(&filter, from, limit)?;
        let entries: Result<Vec<Value>, Fault> = entries
            .iter()
            .map(|entry| {
                let text: Value = serde_json::from_slice(&entry.text)
                    .map_err(|_| Fault(format!("entry {} cannot be read", entry.seq)))?;
                Ok(json!({"seq": entry.seq, "entry": text}))
            })
            .collect();
        // a page that goes on where it began is the last
        let next = (next > from).then_some(next).filter(|next| *next < ledger.size());
        Ok::<_, Fault>(json!({"size": ledger.size(), "entries": entries?, "next": next}))
    });
    let found = found.await.map_err(|_| Fault("reading the ledger was cut short".to_owned()))??;
    Ok(answer(found))
}

/// A signed checkpoint over everything so far, and the key that verifies it.
pub(super) async fn checkpoint(State(doors): State<Arc<Doors>>, Who(_session): Who) -> Result<Response, Problem> {
    let ledger = &doors.pipeline.ledger;
    Ok(answer(json!({"checkpoint": ledger.checkpoint().await?, "key": ledger.verifier_key().trim_end()})))
}

/// A receipt for one entry.
pub(super) async fn proof(
    State(doors): State<Arc<Doors>>,
    Who(_session): Who,
    seq: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let ledger = &doors.pipeline.ledger;
    let seq = seq.ok().and_then(|Path(text)| number(&text)).filter(|seq| *seq < ledger.size());
    let seq = seq.ok_or(Problem::EntryUnknown)?;
    Ok(answer(json!({"seq": seq, "proof": ledger.prove(seq).await?})))
}
