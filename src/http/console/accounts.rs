//! *Accounts at tool servers*: which tool servers want an account, and connecting and disconnecting one.
//!
//! An approver is sent to the tool server's authorization server as people are sent to sign in: what was begun lies sealed
//! in a cookie of its own, is for the session that began it, and serves once.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    Doors, Problem, Trouble,
    cookie::Cookie,
    form::Act,
    page::{Page, notice, plain, segment, signed_in, theirs, time, token},
    provider::{hop, returned, sealed},
    visitor::SignedIn,
};
use crate::{
    approver::{Session, SessionId, Way},
    call::Fault,
    contract::UpstreamName,
    lease::{AccountState, Begun, Came, Leases, NotConnected},
    oidc::{Attempt, Purpose},
};

type Named = Result<Path<String>, PathRejection>;

fn named(path: Named) -> Result<UpstreamName, Problem> {
    let Path(name) = path.map_err(|_| Problem::NotFound)?;
    UpstreamName::new(&name).ok_or(Problem::NotFound)
}

/// What an attempt is for: no identity provider has that name.
fn purpose_of(upstream: &UpstreamName) -> String {
    format!("upstream:{upstream}")
}

/// Where an authorization server sends people back to.
fn way_in(doors: &Doors, upstream: &UpstreamName) -> String {
    format!("{}/upstreams/{upstream}/callback", doors.place.origin())
}

fn leases(doors: &Doors) -> &Leases {
    doors.pipeline.upstreams.leases()
}

/// Whether this approver may connect the account of that tool server, or take it away, as their roles are now.
fn may(doors: &Doors, upstream: &UpstreamName, approver: &str) -> Result<(), Problem> {
    let known = doors.pipeline.ledger.holds(|book| Some(book.roster().get(approver)?.roles.clone()));
    leases(doors).may_connect(upstream, &known.unwrap_or_default()).map_err(Problem::Account)
}

/// The tool servers that want an account.
pub(super) async fn page(State(doors): State<Arc<Doors>>, SignedIn(who): SignedIn) -> Response {
    shown(&doors, &who, None)
}

/// Sends the approver to the authorization server of a tool server.
pub(super) async fn connect(State(doors): State<Arc<Doors>>, path: Named, act: Act) -> Result<Response, Trouble> {
    let upstream = named(path)?;
    let Act { who, mut fields } = act;
    let passphrase = fields.passphrase()?;
    fields.end()?;
    let checked = doors.pipeline.approvers.check(&who.approver, &passphrase, Way::Session(who.id)).await;
    if let Err(why) = checked {
        return Ok(shown(&doors, &who, Some(&Problem::of(why, Problem::PassphraseWrong))));
    }
    if let Err(problem) = may(&doors, &upstream, &who.approver) {
        return Ok(shown(&doors, &who, Some(&problem)));
    }
    match leases(&doors).begin(&upstream, &way_in(&doors, &upstream)).await {
        Ok(Begun { url, state, verifier }) => {
            let attempt = Attempt {
                provider: purpose_of(&upstream),
                state,
                nonce: String::new(),
                verifier,
                begun: doors.pipeline.clock.now().as_second(),
                purpose: Purpose::Connect { session: who.id.number(), upstream: upstream.to_string() },
            };
            // a form may lead to pages of ours alone, so that this one does
            let response = hop(url.as_str(), "You connect the account at its authorization server.");
            Ok(sealed(&doors, &attempt, response)?)
        }
        Err(why) => Ok(shown(&doors, &who, Some(&Problem::Account(why)))),
    }
}

/// Takes the account of a tool server away.
pub(super) async fn disconnect(State(doors): State<Arc<Doors>>, path: Named, act: Act) -> Result<Response, Trouble> {
    let upstream = named(path)?;
    let Act { who, mut fields } = act;
    let passphrase = fields.passphrase()?;
    fields.end()?;
    let (house, approver, way) = (Arc::clone(&doors), who.approver.clone(), Way::Session(who.id));
    // whoever goes away in the middle has done it all the same
    let done = tokio::spawn(async move {
        let checked = house.pipeline.approvers.check(&approver, &passphrase, way).await;
        checked.map_err(|why| Problem::of(why, Problem::PassphraseWrong))?;
        may(&house, &upstream, &approver)?;
        leases(&house).disconnect(&upstream, &approver).await.map_err(Problem::Account)
    });
    match done.await.map_err(|_| Fault("disconnecting an account was cut short".to_owned()))? {
        Ok(()) => Ok(Redirect::to("/upstreams").into_response()),
        Err(problem) => Ok(shown(&doors, &who, Some(&problem))),
    }
}

/// Where an authorization server sends people back to.
pub(super) async fn callback(
    State(doors): State<Arc<Doors>>,
    path: Named,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Trouble> {
    let upstream = named(path)?;
    let mut response = match back(&doors, upstream, &headers, &uri).await {
        Ok(()) => hop("/upstreams", "The account is connected."),
        Err(problem) => refused(&problem),
    };
    if let Some(cookie) = Cookie::Attempt.unset(doors.secure) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

async fn back(doors: &Arc<Doors>, upstream: UpstreamName, headers: &HeaderMap, uri: &Uri) -> Result<(), Problem> {
    let unknown = || Problem::Account(NotConnected::State);
    let came = returned(uri.query().unwrap_or_default()).ok_or_else(unknown)?;
    let cookie = Cookie::Attempt.of(headers, doors.secure).ok_or_else(unknown)?;
    let (state, now) = (came.state.as_deref().unwrap_or_default(), doors.pipeline.clock.now());
    let attempt = doors.attempts.open(cookie, &purpose_of(&upstream), state, now).map_err(|_| unknown())?;
    let session = match attempt.purpose {
        Purpose::Connect { session, upstream: meant } if meant == upstream.as_str() => session,
        _ => return Err(unknown()),
    };
    let living = doors.pipeline.approvers.sessions.of(SessionId::read(session), now);
    let who = living.filter(|who| doors.is_theirs(who)).ok_or(Problem::SessionUnknown)?;
    // their roles may have changed meanwhile
    may(doors, &upstream, &who.approver)?;
    let came = Came { code: came.code, iss: came.iss, error: came.error, verifier: attempt.verifier };
    let house = Arc::clone(doors);
    // a code serves once: whoever goes away in the middle has connected the account all the same
    let done = tokio::spawn(async move {
        let redirect = way_in(&house, &upstream);
        leases(&house).finish(&upstream, came, &redirect, &who.approver).await
    });
    let done = done.await.map_err(|_| Fault("connecting an account was cut short".to_owned()))?;
    done.map_err(Problem::Account)
}

/// Why no account was connected.
fn refused(problem: &Problem) -> Response {
    let main = html! {
        h1 { "No account was connected" }
        (notice(problem))
        p { a href="/upstreams" { "Accounts at tool servers" } }
    };
    let page = Page { name: "problem", title: "No account was connected", ..Page::default() };
    plain(problem.status(), &page, &main)
}

fn shown(doors: &Doors, who: &Session, problem: Option<&Problem>) -> Response {
    let accounts = leases(doors).accounts();
    let main = html! {
        p.quiet { a href="/health" { "Health" } }
        h1 { "Accounts at tool servers" }
        @if let Some(problem) = problem { (notice(problem)) }
        @if accounts.is_empty() {
            p.none { "No tool server wants one. " code { "auth = { kind = \"authorization_code\", … }" } " in its configuration says that it does." }
        }
        @for account in &accounts { (one(who, account)) }
        @if !accounts.is_empty() {
            p.quiet { "Connecting and disconnecting take your passphrase. Who did is in the " a href="/ledger?kind=credential." { "ledger" } "; tokens are nowhere to be seen." }
        }
    };
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let page = Page { name: "upstreams", title: "Accounts at tool servers", section: "/health", ..Page::default() };
    signed_in(doors, who, status, &page, &main)
}

fn one(who: &Session, state: &AccountState) -> Markup {
    let word = if state.connected.is_some() { "connected" } else { "not connected" };
    html! {
        section data-account=(state.upstream) data-connected=(state.connected.is_some()) {
            h2 { (state.upstream) }
            dl.facts {
                dt { "account" }
                dd {
                    span.tag data-state=(if state.connected.is_some() { "approved" } else { "pending" }) { (word) }
                    @if let Some(account) = &state.account { " " (theirs(account)) }
                }
                @if let Some((by, since)) = &state.connected { dt { "connected by" } dd { (theirs(by)) ", " (time(*since)) } }
                @if let Some(until) = state.until { dt { "good until" } dd { (time(until)) ", and cannot be renewed" } }
                @if let Some(until) = state.lease { dt { "credential at hand until" } dd { (time(until)) } }
                @if let Some((why, at)) = &state.failed { dt { "last failure" } dd { (theirs(why)) ", " (time(*at)) } }
            }
            @if state.connected.is_some() {
                (form(who, state, "disconnect", "Disconnect", "Disconnect it: the tokens are thrown away, and calls of this tool server are refused until somebody connects an account again. Revoke them at the authorization server too."))
            }
            (form(who, state, "connect", if state.connected.is_some() { "Connect another" } else { "Connect" }, "Connect an account: you are sent to its authorization server, and say there whose account it is. Every agent that is granted this tool server's tools acts with it."))
        }
    }
}

fn form(who: &Session, state: &AccountState, act: &'static str, says: &str, does: &str) -> Markup {
    let field = format!("passphrase-{act}-{}", state.upstream);
    html! {
        form.narrow method="post" action={ "/upstreams/" (segment(state.upstream.as_str())) "/" (act) } data-act=(act) {
            // what Enter would press
            button type="submit" disabled hidden tabindex="-1" aria-hidden="true" {}
            (token(&who.form))
            p { (does) }
            label for=(field) { "Your passphrase" }
            input id=(field) name="passphrase" type="password" required autocomplete="new-password" maxlength="1024";
            button type="submit" { (says) }
        }
    }
}
