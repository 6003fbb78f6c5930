//! Who looks at a page.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, StatusCode, request::Parts},
    response::{IntoResponse, Redirect, Response},
};
use maud::html;

use super::{
    Doors, Problem, Trouble,
    cookie::Cookie,
    page::{Page, plain},
    way_back,
};
use crate::approver::{Session, Side};

/// An approver who is signed in: a page asks for one to be shown at all. Who is not, is sent to sign in, and back.
pub(in crate::http) struct SignedIn(pub(in crate::http) Session);

impl FromRequestParts<Arc<Doors>> for SignedIn {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, doors: &Arc<Doors>) -> Result<Self, Response> {
        signed_in(doors, &parts.headers).map(Self).ok_or_else(|| turned_away(parts))
    }
}

/// The same for what a page asks for by itself, with a problem document for whoever is not signed in. It does not keep
/// the session: only what a person does, does.
pub(in crate::http) struct Present(pub(in crate::http) Session);

impl FromRequestParts<Arc<Doors>> for Present {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, doors: &Arc<Doors>) -> Result<Self, Problem> {
        let token = token(doors, &parts.headers).ok_or(Problem::SessionMissing)?;
        doors.session(token, Side::Pages, false).map(Self).ok_or(Problem::SessionUnknown)
    }
}

/// The session's token that the cookie is.
pub(in crate::http) fn token<'h>(doors: &Doors, headers: &'h HeaderMap) -> Option<&'h str> {
    Cookie::Session.of(headers, doors.secure)
}

/// The session whose token the cookie is.
pub(super) fn signed_in(doors: &Doors, headers: &HeaderMap) -> Option<Session> {
    doors.session(token(doors, headers)?, Side::Pages, true)
}

/// Where who is not signed in is sent; the same for every id that a path may have.
fn turned_away(parts: &Parts) -> Response {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Trouble(Problem::SessionUnknown).into_response();
    }
    let back = way_back(parts.uri.path()).unwrap_or("/waiting");
    let site = parts.headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if matches!(site, Some(b"cross-site" | b"same-site")) {
        return again(back);
    }
    let to = if back == "/waiting" { "/sign-in".to_owned() } else { format!("/sign-in?next={back}") };
    Redirect::to(&to).into_response()
}

/// Browsers keep our cookie to themselves when a link of another site led here. This page asks for itself once more, and
/// then it comes along.
fn again(back: &str) -> Response {
    let main = html! {
        h1 { "One moment" }
        p { a href=(back) { "Go on" } }
    };
    let page = Page { name: "again", title: "One moment", refresh: Some((0, back)), ..Page::default() };
    plain(StatusCode::OK, &page, &main)
}
