//! The approvers' API, `/api/v1`: enrol, log in, look at holds, countersign or deny them, read the ledger. Described by
//! `openapi.json`, which tests hold against what is served.
//!
//! A session's token lets look; to countersign takes the passphrase itself, or a passkey's signature, each time. Agents' tokens are of another kind
//! and open nothing here.

mod events;
pub(super) mod form;
pub(super) mod holds;
mod ledger;
pub(super) mod passkeys;
mod people;

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Method, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use tokio::sync::Semaphore;

use super::{Doors, problem::Problem};
use crate::approver::{Session, Side};

/// What the API is, OpenAPI 3.1.
const DESCRIPTION: &str = include_str!("openapi.json");

/// Event streams at once.
const STREAMS: usize = 64;

/// Holds that are shown whole at once: their arguments may be large.
const SHOWN: usize = 4;

/// What the API keeps for itself.
pub(super) struct Desk {
    pub(super) streams: Arc<Semaphore>,
    pub(super) shown: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Self {
        Self { streams: Arc::new(Semaphore::new(STREAMS)), shown: Arc::new(Semaphore::new(SHOWN)) }
    }
}

/// Every operation: method, path below `/api/v1`, what answers it.
fn operations() -> [(Method, &'static str, MethodRouter<Arc<Doors>>); 21] {
    [
        (Method::GET, "/openapi.json", get(description)),
        (Method::POST, "/enrol", post(people::enrol)),
        (Method::POST, "/login", post(people::login)),
        (Method::POST, "/logout", post(people::logout)),
        (Method::GET, "/passkeys", get(passkeys::list)),
        (Method::POST, "/passkeys/enrol/ask", post(passkeys::ask_to_enrol)),
        (Method::POST, "/passkeys/enrol", post(passkeys::enrol)),
        (Method::POST, "/passkeys/login/ask", post(passkeys::ask_to_sign_in)),
        (Method::POST, "/passkeys/login", post(passkeys::sign_in)),
        (Method::POST, "/passkeys/ask", post(passkeys::ask_to_add)),
        (Method::POST, "/passkeys/offer", post(passkeys::offer)),
        (Method::POST, "/passkeys/offer/passphrase", post(passkeys::offer_passphrase)),
        (Method::POST, "/passkeys/confirm", post(passkeys::confirm)),
        (Method::GET, "/holds", get(holds::list)),
        (Method::GET, "/holds/events", get(events::stream)),
        (Method::GET, "/holds/{id}", get(holds::show)),
        (Method::POST, "/holds/{id}/approve", post(holds::approve)),
        (Method::POST, "/holds/{id}/deny", post(holds::deny)),
        (Method::GET, "/ledger", get(ledger::list)),
        (Method::GET, "/ledger/checkpoint", get(ledger::checkpoint)),
        (Method::GET, "/ledger/proof/{seq}", get(ledger::proof)),
    ]
}

/// The API's part of the console.
pub(super) fn routes() -> Router<Arc<Doors>> {
    operations().into_iter().fold(Router::new(), |router, (_, path, answers)| router.route(path, answers))
}

async fn description() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DESCRIPTION).into_response()
}

/// Who asks: an approver with a living session, who is one still.
struct Who(Session);

impl FromRequestParts<Arc<Doors>> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, doors: &Arc<Doors>) -> Result<Self, Problem> {
        let token = bearer(&parts.headers)?;
        doors.session(token, Side::Api, true).map(Self).ok_or(Problem::SessionUnknown)
    }
}

/// The one bearer token (RFC 6750, section 2.1).
pub(super) fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let only = given.next().ok_or(Problem::SessionMissing)?;
    if given.next().is_some() {
        return Err(Problem::SessionUnknown);
    }
    let (scheme, token) = only.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Problem::SessionUnknown)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Problem::SessionUnknown) }
}

impl Doors {
    /// The living session that a token is for on that side, if it is that of an approver still. To look at something keeps
    /// it, as `in_use`; what a page asks for by itself does not.
    pub(super) fn session(&self, token: &str, side: Side, in_use: bool) -> Option<Session> {
        let (sessions, now) = (&self.pipeline.approvers.sessions, self.pipeline.clock.now());
        let session = if in_use { sessions.find(token, side, now) } else { sessions.glimpse(token, side, now) }?;
        if self.is_theirs(&session) {
            return Some(session);
        }
        sessions.end(session.id);
        None
    }

    /// Whether a session was begun with what its approver has still, as the ledger says.
    pub(super) fn is_theirs(&self, session: &Session) -> bool {
        let approver = session.approver.as_str();
        self.pipeline.ledger.holds(|book| book.roster().get(approver).is_some_and(|known| known.has(&session.means)))
    }
}

/// A JSON answer.
fn answer(value: serde_json::Value) -> Response {
    let mut response = Json(value).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn the_description_has_every_operation_and_no_other() {
        let description: Value = serde_json::from_str(DESCRIPTION).unwrap();
        assert_eq!(description["openapi"], "3.1.0");
        let mut described = BTreeSet::new();
        for (path, item) in description["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|name| *name != "parameters") {
                described.insert((method.to_uppercase(), path.strip_prefix("/api/v1").unwrap().to_owned()));
            }
        }
        let served = operations().map(|(method, path, _)| (method.to_string(), path.to_owned()));
        assert_eq!(described, BTreeSet::from(served));
    }

    #[test]
    fn a_bearer_token_is_the_only_credential() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            headers
        };
        assert_eq!(bearer(&headers(&["Bearer cas_x"])).unwrap(), "cas_x");
        assert_eq!(bearer(&headers(&["bearer cas_x"])).unwrap(), "cas_x");
        assert!(matches!(bearer(&headers(&[])), Err(Problem::SessionMissing)));
        for wrong in [&["cas_x"][..], &["Basic cas_x"], &["Bearer cas_x", "Bearer cas_x"], &["Bearer"]] {
            assert!(matches!(bearer(&headers(wrong)), Err(Problem::SessionUnknown)), "{wrong:?}");
        }
    }
}
