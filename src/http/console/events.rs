//! What happens to holds, for pages: each change with the row that it makes, so that nothing has to be asked for.

use std::sync::Arc;

use axum::{extract::State, http::Uri, response::Response};
use bytes::Bytes;
use serde_json::json;

use super::{Doors, Problem, visitor::Present, waiting};
use crate::{
    approver::Session,
    hold::HoldId,
    http::{
        api::form::Parameters,
        feed::{Feed, Teller, Told, comment, event},
    },
};

/// Begins a stream: of every hold, or of the one that `hold` names.
pub(super) async fn stream(
    State(doors): State<Arc<Doors>>,
    Present(who): Present,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut parameters = Parameters::of(&uri)?;
    let only = parameters.text("hold")?;
    parameters.end()?;
    let unknown = || Problem::Invalid("`hold` is no hold's id".to_owned());
    let only = only.map(|id| HoldId::read(&id).ok_or_else(unknown)).transpose()?;
    Ok(Feed::open(doors, who)?.answer(Rows { only }))
}

/// Tells of each change of a hold, with its row while it is open.
struct Rows {
    only: Option<HoldId>,
}

impl Teller for Rows {
    async fn tell(&self, doors: &Arc<Doors>, who: &Session, told: Told) -> Option<Bytes> {
        let ledger = &doors.pipeline.ledger;
        // a page that was made at that size of the ledger, or from that entry about its hold, has missed nothing
        let size = ledger.size();
        let standing = || {
            let (pending, newest) = ledger.holds(|book| {
                let record = self.only.as_ref().and_then(|only| book.get(only));
                (book.counts().pending, record.map(|record| record.newest()))
            });
            json!({"size": size, "pending": pending, "newest": newest})
        };
        Some(match told {
            Told::Ready => event("ready", None, &standing()),
            Told::Changed(change) if self.only.as_ref().is_some_and(|only| *only != change.hold) => return None,
            Told::Changed(change) => {
                let (pending, state) = ledger
                    .holds(|book| (book.counts().pending, book.get(&change.hold).map(|record| record.phase.word())));
                let row = match self.only {
                    None => waiting::row(doors, &who.approver, &change.hold).await,
                    Some(_) => None,
                };
                let what = json!({"hold": change.hold.as_str(), "kind": change.kind, "state": state,
                                  "newest": change.seq, "pending": pending, "row": row});
                event("changed", Some(change.seq), &what)
            }
            Told::Missed(_) => event("lagged", None, &standing()),
            Told::Nothing => comment(),
            Told::Ended => event("ended", None, &json!({})),
        })
    }
}
