//! A hold: everything that an approver has to see before deciding.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
    response::Response,
};
use maud::html;

use super::{
    Doors, Problem, Trouble,
    page::{Page, signed_in, time},
    visitor::SignedIn,
};
use crate::hold::{HoldId, Rejected};

/// One hold.
pub(super) async fn page(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Trouble> {
    let unknown = || Problem::Act(Rejected::UnknownHold);
    let id = id.ok().and_then(|Path(text)| HoldId::read(&text)).ok_or_else(unknown)?;
    let created = doors.pipeline.ledger.holds(|book| book.get(&id).map(|record| record.hold.created));
    let created = created.ok_or_else(unknown)?;
    let main = html! {
        h1 { "A call waits for a countersignature" }
        p { "Since " (time(created)) ". Look at it with " code { "countersign hold show " (id.as_str()) } "." }
    };
    let page = Page { name: "hold", title: "A hold", section: "/waiting", ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}
