//! Signing in with an identity provider, and countersigning as who is signed in that way.
//!
//! A provider sends people back from a page of its own. Browsers keep our session's cookie to themselves then, as they
//! should: what was begun lies sealed in another one, which comes along (`SameSite=Lax`) and is good for nothing else. What
//! follows is reached over a page of ours, so that the new session's cookie is sent.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    Doors, Problem, Trouble,
    cookie::{self, Cookie},
    decide::{Bound, again, ready},
    form::Act,
    page::{Page, notice, plain},
    way_back,
};
use crate::{
    approver::{Session, SessionId},
    display::visible,
    hold::{Evidence, HoldId, Means, Rejected, SignIn},
    http::api::holds::named,
    oidc::{Attempt, Person, Provider, Purpose, Return, SignInRefused},
};

type Name = Result<Path<String>, PathRejection>;

/// How long somebody who was let in by a provider has their roles, if they do not come back: as long as a session.
const LASTS: jiff::SignedDuration = jiff::SignedDuration::from_hours(8);

/// Where the sign-in page offers to go.
pub(super) fn offers(doors: &Doors, next: Option<&str>) -> Markup {
    html! {
        @for name in doors.providers.keys() {
            p {
                a.button data-provider=(name)
                    href={ "/sign-in/" (name) @if let Some(next) = next { "?next=" (next) } } { "Sign in with " (name) }
            }
        }
    }
}

/// Sends somebody to a provider, to sign in.
pub(super) async fn begin(State(doors): State<Arc<Doors>>, name: Name, uri: Uri) -> Result<Response, Trouble> {
    let provider = provider(&doors, name)?;
    let next = uri.query().and_then(|query| query.strip_prefix("next=")).and_then(way_back);
    match provider.sign_in(next.unwrap_or("/waiting")).await {
        Ok(started) => {
            let response = Redirect::to(started.url.as_str()).into_response();
            Ok(sealed(&doors, &started.attempt, response)?)
        }
        Err(why) => Ok(refused(&why)),
    }
}

/// Sends somebody who countersigns to the provider that let them in: it has to make sure, just now, that it is them.
pub(super) async fn step_up(
    State(doors): State<Arc<Doors>>,
    id: Result<Path<String>, PathRejection>,
    act: Act,
) -> Result<Response, Trouble> {
    let Act { who, mut fields } = act;
    let (id, bound) = (named(id)?, Bound::of(&mut fields)?);
    let read = fields.optional("whole")?.is_some();
    fields.end()?;
    if let Err(problem) = ready(&doors, &who, &id, &bound, read).await {
        return again(&doors, &who, &id, Some(bound.as_of), problem).await;
    }
    let known = doors.pipeline.ledger.holds(|book| book.roster().get(&who.approver)?.signed_in.clone());
    let known = known.ok_or(Problem::Act(Rejected::OtherKey))?;
    let provider = doors.providers.get(&known.provider).ok_or(Problem::NotFound)?;
    let purpose = Purpose::Countersign {
        session: who.id.number(),
        subject: known.subject,
        hold: id.to_string(),
        digest: bound.digest.to_string(),
        as_of: bound.as_of,
    };
    match provider.step_up(purpose, &bound.digest.to_string()).await {
        Ok(started) => {
            // a form may lead to pages of ours alone, so that this one does
            let response = hop(started.url.as_str(), "You countersign once the provider has made sure that it is you.");
            Ok(sealed(&doors, &started.attempt, response)?)
        }
        Err(why) => again(&doors, &who, &id, Some(bound.as_of), Problem::SignIn(why)).await,
    }
}

/// Where a provider sends people back to.
pub(super) async fn callback(
    State(doors): State<Arc<Doors>>,
    name: Name,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Trouble> {
    let provider = provider(&doors, name)?;
    let mut response = match back(Arc::clone(&doors), Arc::clone(provider), headers, uri).await {
        Ok(response) => response,
        Err(Failed::SignIn(why)) => refused(&why),
        Err(Failed::Problem(problem)) => Trouble(problem).into_response(),
    };
    if let Some(cookie) = Cookie::Attempt.unset(doors.secure) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

enum Failed {
    SignIn(SignInRefused),
    Problem(Problem),
}

impl From<SignInRefused> for Failed {
    fn from(why: SignInRefused) -> Self {
        Self::SignIn(why)
    }
}

async fn back(doors: Arc<Doors>, provider: Arc<Provider>, headers: HeaderMap, uri: Uri) -> Result<Response, Failed> {
    let came = returned(uri.query().unwrap_or_default()).ok_or(SignInRefused::State)?;
    let cookie = Cookie::Attempt.of(&headers, doors.secure).ok_or(SignInRefused::State)?;
    let (state, now) = (came.state.as_deref().unwrap_or_default(), doors.pipeline.clock.now());
    let attempt = doors.attempts.open(cookie, provider.name(), state, now).map_err(|_| SignInRefused::State)?;
    let person = provider.finish(&attempt, &came).await?;
    match attempt.purpose {
        Purpose::SignIn { next } => entered(&doors, &provider, person, &next).await,
        // begun for another place, which would have asked for it by another name
        Purpose::Connect { .. } => Err(SignInRefused::State.into()),
        Purpose::Countersign { session, hold, digest, as_of, .. } => {
            let living = doors.pipeline.approvers.sessions.of(SessionId::read(session), now);
            let who = living.filter(|who| doors.is_theirs(who)).ok_or(Failed::Problem(Problem::SessionUnknown))?;
            let id = HoldId::read(&hold).ok_or(SignInRefused::State)?;
            let digest = digest.parse().map_err(|_| SignInRefused::State)?;
            let done = countersigned(&doors, &provider, &who, person, &id, &Bound { digest, as_of }).await;
            match done {
                Ok(()) => Ok(hop(&format!("/holds/{id}"), "You have countersigned.")),
                Err(problem) => {
                    let page = again(&doors, &who, &id, Some(as_of), problem).await;
                    page.map_err(|trouble| Failed::Problem(trouble.0))
                }
            }
        }
    }
}

/// Begins the session of somebody whom a provider vouches for.
async fn entered(doors: &Doors, provider: &Provider, person: Person, next: &str) -> Result<Response, Failed> {
    let begun = doors.pipeline.approvers.let_in(entry(doors, provider, &person)).await;
    let (token, _session) = begun.map_err(|why| Failed::Problem(Problem::of(why, Problem::LoginRefused)))?;
    let mut response = hop(way_back(next).unwrap_or("/waiting"), "You are signed in.");
    if let Some(cookie) = cookie::of_session(&token, &doors.pipeline.approvers.sessions, doors.secure) {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// Countersigns by what a provider said just now of who is signed in.
async fn countersigned(
    doors: &Doors,
    provider: &Provider,
    who: &Session,
    person: Person,
    id: &HoldId,
    bound: &Bound,
) -> Result<(), Problem> {
    if person.name != who.approver || who.means != Means::signed_in(&person.issuer, &person.subject) {
        return Err(Problem::Act(Rejected::OtherKey));
    }
    bound.holds(doors, id).await?;
    let known = entry(doors, provider, &person);
    let evidence = Evidence { token: person.token, key: person.key };
    let countersigned = doors.pipeline.approvers.countersign_vouched(id, &bound.digest, known, evidence).await;
    countersigned.map(|_phase| ()).map_err(|why| Problem::of(why, Problem::LoginRefused))
}

fn entry(doors: &Doors, provider: &Provider, person: &Person) -> SignIn {
    let now = doors.pipeline.clock.now();
    SignIn {
        name: person.name.clone(),
        provider: provider.name().to_owned(),
        issuer: person.issuer.clone(),
        subject: person.subject.clone(),
        roles: person.roles.clone(),
        also: person.also.clone(),
        until: now.checked_add(LASTS).unwrap_or(now),
    }
}

fn provider(doors: &Doors, name: Name) -> Result<&Arc<Provider>, Problem> {
    let name = name.ok().map(|Path(name)| name).unwrap_or_default();
    doors.providers.get(&name).ok_or(Problem::NotFound)
}

/// What a provider sent along; `None` where something is there twice, so that nobody reads the one and we the other.
pub(super) fn returned(query: &str) -> Option<Return> {
    let mut came = Return::default();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let place = match &*name {
            "code" => &mut came.code,
            "state" => &mut came.state,
            "iss" => &mut came.iss,
            "error" => &mut came.error,
            _ => continue,
        };
        if place.replace(value.into_owned()).is_some() {
            return None;
        }
    }
    Some(came)
}

/// Has the browser keep what was begun.
pub(super) fn sealed(doors: &Doors, attempt: &Attempt, mut response: Response) -> Result<Response, Problem> {
    let cookie = cookie::of_attempt(&doors.attempts.seal(attempt)?, doors.secure);
    if let Some(cookie) = cookie {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// A page that leads on by itself.
pub(super) fn hop(to: &str, why: &str) -> Response {
    let main = html! {
        h1 { "One moment" }
        p { (why) }
        p { a href=(to) { "Go on" } }
    };
    let page = Page { name: "again", title: "One moment", refresh: Some((0, to)), ..Page::default() };
    plain(StatusCode::OK, &page, &main)
}

/// Why nobody was signed in.
fn refused(why: &SignInRefused) -> Response {
    let problem = Problem::SignIn(why.clone());
    let main = html! {
        h1 { "Not signed in" }
        (notice(&problem))
        p { a href="/sign-in" { "Sign in" } }
    };
    let page = Page { name: "problem", title: "Not signed in", ..Page::default() };
    plain(problem.status(), &page, &main)
}

/// The page of somebody who signed out here and may want to sign out there too.
pub(super) async fn farewell(doors: &Doors, provider: &str) -> Option<Response> {
    let known = doors.providers.get(provider)?;
    let there = known.sign_out(&format!("{}/sign-in", doors.place.origin())).await?;
    let main = html! {
        h1 { "Signed out" }
        p { "You are signed out here. The provider may still know you: " }
        p { a href=(there.as_str()) data-provider=(visible(provider)) { "Sign out of " (visible(provider)) " too" } }
        p { a href="/sign-in" { "Sign in" } }
    };
    let page = Page { name: "signed-out", title: "Signed out", ..Page::default() };
    let mut response = plain(StatusCode::OK, &page, &main);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_is_read_once() {
        let came = returned("code=a%20b&state=s&iss=https%3A%2F%2Fx&session_state=y").unwrap();
        assert_eq!((came.code.as_deref(), came.state.as_deref()), (Some("a b"), Some("s")));
        assert_eq!((came.iss.as_deref(), came.error), (Some("https://x"), None));
        for wrong in ["code=a&code=b", "state=a&state=a", "iss=a&iss=b", "error=a&error=b", "code=&code=a"] {
            assert!(returned(wrong).is_none(), "{wrong}");
        }
        assert_eq!(returned("").unwrap().state, None);
    }
}
