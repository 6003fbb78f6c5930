//! What happens to holds, for pages: each change with the row that it makes, so that nothing has to be asked for.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use bytes::Bytes;
use serde_json::json;

use super::{Doors, Problem, visitor::Present, waiting};
use crate::{
    approver::Session,
    http::feed::{Feed, Teller, Told, comment, event},
};

/// Begins a stream.
pub(super) async fn stream(State(doors): State<Arc<Doors>>, Present(who): Present) -> Result<Response, Problem> {
    Ok(Feed::open(doors, who)?.answer(Rows))
}

/// Tells of each change of a hold, with its row while it is open.
struct Rows;

impl Teller for Rows {
    async fn tell(&self, doors: &Arc<Doors>, who: &Session, told: Told) -> Option<Bytes> {
        let ledger = &doors.pipeline.ledger;
        Some(match told {
            // a page that was made at that size of the ledger has missed nothing
            Told::Ready => event("ready", None, &json!({"size": ledger.size()})),
            Told::Changed(change) => {
                let (pending, state) = ledger
                    .holds(|book| (book.counts().pending, book.get(&change.hold).map(|record| record.phase.word())));
                let row = waiting::row(doors, &who.approver, &change.hold).await;
                let what = json!({"hold": change.hold.as_str(), "seq": change.seq, "kind": change.kind, "state": state,
                                  "pending": pending, "row": row});
                event("changed", Some(change.seq), &what)
            }
            Told::Missed(missed) => event("lagged", None, &json!({"missed": missed})),
            Told::Nothing => comment(),
            Told::Ended => event("ended", None, &json!({})),
        })
    }
}
