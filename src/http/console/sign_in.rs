//! Signing in and out.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    Doors, Problem, Trouble,
    cookie::{self, Cookie},
    form::{Act, Knock},
    page::{self, Page},
    passkeys, provider, way_back,
};
use crate::approver::{FormToken, Session, Token};

/// The page to sign in on.
pub(super) async fn page(State(doors): State<Arc<Doors>>, headers: HeaderMap, uri: Uri) -> Result<Response, Trouble> {
    let token = before_session(&doors, &headers)?;
    let next = uri.query().and_then(|query| query.strip_prefix("next=")).and_then(way_back);
    Ok(kept(&doors, &token, shown(&doors, StatusCode::OK, &token, next, "", None)))
}

/// Begins a session.
pub(super) async fn enter(State(doors): State<Arc<Doors>>, knock: Knock) -> Result<Response, Trouble> {
    let Knock { token, before, mut fields } = knock;
    let name = fields.text("approver")?;
    let passphrase = fields.passphrase()?;
    let next = fields.optional("next")?;
    fields.end()?;
    let next = next.as_deref().map(String::as_str).and_then(way_back);
    match doors.pipeline.approvers.log_in(&name, &passphrase).await {
        Ok((session, _)) => Ok(begun(&doors, before, &session, next)),
        Err(why) => {
            let problem = Problem::of(why, Problem::LoginRefused);
            Ok(shown(&doors, problem.status(), &token, next, &name, Some(&problem)))
        }
    }
}

/// Ends the session.
pub(super) async fn leave(State(doors): State<Arc<Doors>>, Act { who, fields }: Act) -> Result<Response, Trouble> {
    fields.end()?;
    doors.pipeline.approvers.sessions.end(who.id);
    let by = doors
        .pipeline
        .ledger
        .holds(|book| Some(book.roster().get(&who.approver)?.signed_in.as_ref()?.provider.clone()));
    let farewell = match by {
        Some(by) => provider::farewell(&doors, &by).await,
        None => None,
    };
    let mut response = farewell.unwrap_or_else(|| Redirect::to("/sign-in").into_response());
    if let Some(cookie) = Cookie::Session.unset(doors.secure) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// A session began: its token is a new one, whatever the browser had before, and that is over.
pub(super) fn begun(doors: &Doors, before: Option<Session>, token: &Token, next: Option<&str>) -> Response {
    if let Some(before) = before {
        doors.pipeline.approvers.sessions.end(before.id);
    }
    let mut response = Redirect::to(next.unwrap_or("/waiting")).into_response();
    if let Some(cookie) = cookie::of_session(token, &doors.pipeline.approvers.sessions, doors.secure) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The token for forms of somebody who is not signed in: the one that the browser has, or a new one.
pub(super) fn before_session(doors: &Doors, headers: &HeaderMap) -> Result<FormToken, Problem> {
    let has = Cookie::Form.of(headers, doors.secure).and_then(FormToken::read);
    has.map_or_else(FormToken::new, Ok).map_err(|why| crate::call::Fault(why.to_string()).into())
}

/// Has the browser keep that token.
pub(super) fn kept(doors: &Doors, token: &FormToken, mut response: Response) -> Response {
    if let Some(cookie) = cookie::of_form(token, doors.secure) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// The page.
pub(super) fn shown(
    doors: &Doors,
    status: StatusCode,
    token: &FormToken,
    next: Option<&str>,
    name: &str,
    problem: Option<&Problem>,
) -> Response {
    let main: Markup = html! {
        h1 { "Sign in" }
        @if let Some(problem) = problem { (page::notice(problem)) }
        form.narrow method="post" action="/sign-in" data-act="sign-in" {
            (page::token(token))
            @if let Some(next) = next { input type="hidden" name="next" value=(next); }
            label for="approver" { "Name" }
            input #approver name="approver" value=(name) required autocomplete="username" autocapitalize="none"
                spellcheck="false" maxlength="256" autofocus[name.is_empty()];
            label for="passphrase" { "Passphrase" }
            input #passphrase name="passphrase" type="password" required autocomplete="current-password"
                maxlength="1024" autofocus[!name.is_empty()];
            button type="submit" { "Sign in" }
        }
        (passkeys::signing_in(doors, token, next))
        (provider::offers(doors, next))
        p.quiet {
            "To look at a page approves nothing. With a one-time code, "
            a href="/enrol" { "enrol" }
            " first. In a terminal: " code { "countersign hold list" } "."
        }
    };
    let page = Page { name: "sign-in", title: "Sign in", scripts: &["passkey.js"], ..Page::default() };
    let mut response = page::plain(status, &page, &main);
    if let Some(seconds) = problem.and_then(Problem::retry_after) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
