//! Events of holds, for programs.

use std::sync::Arc;

use axum::{extract::State, http::Uri, response::Response};
use bytes::Bytes;
use serde_json::json;

use super::{Doors, Problem, Who, form::Parameters};
use crate::{
    approver::Session,
    hold::Book,
    http::feed::{Feed, Teller, Told, comment, event},
};

/// Begins a stream.
pub(super) async fn stream(State(doors): State<Arc<Doors>>, Who(session): Who, uri: Uri) -> Result<Response, Problem> {
    Parameters::of(&uri)?.end()?;
    Ok(Feed::open(doors, session)?.answer(Facts))
}

/// Tells which hold came to stand where.
struct Facts;

impl Teller for Facts {
    async fn tell(&self, doors: &Arc<Doors>, _who: &Session, told: Told) -> Option<Bytes> {
        let ledger = &doors.pipeline.ledger;
        Some(match told {
            Told::Ready => {
                let counts = ledger.holds(Book::counts);
                event("ready", None, &json!({"pending": counts.pending, "approved": counts.approved}))
            }
            Told::Changed(change) => {
                let state = ledger.holds(|book| book.get(&change.hold).map(|record| record.phase.word()));
                let what = json!({"hold": change.hold.as_str(), "seq": change.seq, "state": state});
                event(change.kind, Some(change.seq), &what)
            }
            Told::Missed(missed) => event("lagged", None, &json!({"missed": missed})),
            Told::Nothing => comment(),
            Told::Ended => event("ended", None, &json!({"code": "session_unknown"})),
        })
    }
}
