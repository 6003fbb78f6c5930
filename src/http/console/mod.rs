//! The console: pages on which approvers look, understand and countersign, and operators watch.
//!
//! Pages are written by the server, whole, and work without scripts; what a script adds is live updates. Every text of
//! others is [`visible`](crate::display::visible()) and escaped by construction. What changes something is a [`form::Act`]:
//! posted from a page of ours, within a session, with that session's token.

mod accounts;
mod agents;
mod assets;
mod cookie;
mod decide;
mod desk;
mod enrol;
mod entries;
mod events;
mod explain;
mod form;
mod grants;
mod health;
mod hold;
mod ledger;
mod page;
mod passkeys;
mod picture;
mod provider;
mod sign_in;
mod span;
mod tools;
mod verifying;
mod visitor;
mod waiting;

use std::sync::Arc;

use axum::{
    Router,
    extract::Request,
    http::{HeaderMap, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};

use super::{Doors, problem::Problem};
use crate::call::Fault;

pub(super) use desk::Desk;
pub(super) use page::Trouble;
pub(super) use visitor::token;

/// The pages that the navigation leads to: path, and what it is called.
const SECTIONS: [(&str, &str); 6] = [
    ("/waiting", "Waiting"),
    ("/agents", "Agents"),
    ("/tools", "Tools"),
    ("/grants", "Grants"),
    ("/ledger", "Ledger"),
    ("/health", "Health"),
];

/// The pages' part of the console.
pub(super) fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/", get(async || Redirect::to("/waiting")))
        .route("/sign-in", get(sign_in::page).post(sign_in::enter))
        .route("/sign-in/passkey", post(passkeys::enter))
        .route("/sign-in/{provider}", get(provider::begin))
        .route("/sign-in/{provider}/callback", get(provider::callback))
        .route("/sign-out", post(sign_in::leave))
        .route("/enrol", get(enrol::page).post(enrol::enrol))
        .route("/enrol/passkey", post(passkeys::enrol))
        .route("/keys", get(passkeys::page))
        .route("/keys/passkey", post(passkeys::add))
        .route("/keys/offer", post(passkeys::offer))
        .route("/keys/passphrase", post(passkeys::offer_passphrase))
        .route("/keys/confirm", post(passkeys::confirm))
        .route("/waiting", get(waiting::page))
        .route("/waiting/rows", get(waiting::rows))
        .route("/holds/{id}", get(hold::page))
        .route("/holds/{id}/step-up", post(provider::step_up))
        .route("/holds/{id}/approve", post(decide::approve))
        .route("/holds/{id}/deny", post(decide::deny))
        .route("/events", get(events::stream))
        .route("/agents", get(agents::page))
        .route("/agents/{name}", get(agents::one))
        .route("/tools", get(tools::page))
        .route("/tools/{upstream}/{tool}", get(tools::one))
        .route("/tools/{upstream}/{tool}/accept", post(tools::accept))
        .route("/tools/{upstream}/{tool}/reject", post(tools::reject))
        .route("/grants", get(grants::page))
        .route("/grants/explain", post(explain::explain))
        .route("/ledger", get(ledger::page))
        .route("/ledger/verify", get(verifying::page).post(verifying::verify))
        .route("/ledger/export", get(ledger::export))
        .route("/ledger/{seq}", get(ledger::entry))
        .route("/health", get(health::page))
        .route("/upstreams", get(accounts::page))
        .route("/upstreams/{name}/connect", post(accounts::connect))
        .route("/upstreams/{name}/disconnect", post(accounts::disconnect))
        .route("/upstreams/{name}/callback", get(accounts::callback))
        .route("/assets/{name}", get(assets::asset))
        .route_layer(middleware::from_fn(guard))
}

/// Lets in what a person does in a page of ours or by following a link.
async fn guard(request: Request, next: Next) -> Response {
    if is_foreign(request.method(), request.headers()) {
        return Trouble(Problem::OriginNotAllowed).into_response();
    }
    next.run(request).await
}

/// Whether another page is behind the request, in any way but that somebody followed its link to us (Fetch Metadata).
/// Programs and old browsers do not say: what protects from those is the `Origin`, the cookie and the form's token.
fn is_foreign(method: &Method, headers: &HeaderMap) -> bool {
    let is =
        |name: &str, expected: &str| headers.get(name).is_some_and(|value| value.as_bytes() == expected.as_bytes());
    if !headers.contains_key("sec-fetch-site") || is("sec-fetch-site", "same-origin") {
        return false;
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let followed = is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document");
    !(reads && (is("sec-fetch-site", "none") || followed))
}

/// Where to go after signing in: a page of ours, or nowhere. Only paths that begin with a section of ours, of letters
/// that no browser reads as anything else.
fn way_back(next: &str) -> Option<&str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-');
    let rest = next.strip_prefix('/').filter(|_| next.len() <= 256 && next.bytes().all(plain))?;
    let first = rest.split('/').next().unwrap_or_default();
    let ours = matches!(first, "holds" | "upstreams")
        || SECTIONS.iter().any(|(path, _)| path.strip_prefix('/') == Some(first));
    // a download is for whoever asked for it here, not for a link of others that is followed once more
    (ours && rest != "ledger/export" && !rest.contains("//")).then_some(next)
}

/// Work that may take its time, of which only so much is done at once.
async fn apart<T: Send + 'static>(
    doors: &Arc<Doors>,
    work: impl FnOnce(&Doors) -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let cut_short = || Fault("a page was cut short".to_owned());
    let turn = Arc::clone(&doors.api.shown).acquire_owned().await.map_err(|_| cut_short())?;
    let doors = Arc::clone(doors);
    let worked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(&doors)
    });
    worked.await.map_err(|_| cut_short())?
}

/// The one value of a header.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_pages_may_link_to_us_and_nothing_else() {
        let table = [
            ("GET", "", "", "", false),
            ("POST", "", "", "", false),
            ("GET", "same-origin", "cors", "empty", false),
            ("POST", "same-origin", "navigate", "document", false),
            ("GET", "none", "navigate", "document", false),
            ("GET", "cross-site", "navigate", "document", false),
            ("GET", "same-site", "navigate", "document", false),
            ("POST", "none", "navigate", "document", true),
            ("POST", "cross-site", "navigate", "document", true),
            ("POST", "same-site", "navigate", "document", true),
            ("GET", "cross-site", "navigate", "iframe", true),
            ("GET", "cross-site", "no-cors", "image", true),
            ("GET", "same-site", "cors", "empty", true),
            ("GET", "cross-site", "navigate", "", true),
            ("GET", "something", "", "", true),
        ];
        for (method, site, mode, dest, foreign) in table {
            let mut headers = HeaderMap::new();
            for (name, value) in [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)] {
                if !value.is_empty() {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            let method = method.parse().unwrap();
            assert_eq!(is_foreign(&method, &headers), foreign, "{method} {site} {mode} {dest}");
        }
    }

    #[test]
    fn the_way_back_is_a_page_of_ours() {
        for fine in ["/waiting", "/holds/hold_01M7Y3ZJ577RY9EGW3BYW03FZJ", "/tools/bank/pay_out", "/ledger/17"] {
            assert_eq!(way_back(fine), Some(fine));
        }
        for wrong in [
            "",
            "/",
            "waiting",
            "//waiting",
            "///attacker.test",
            "//attacker.test/waiting",
            "/\\attacker.test",
            "\\\\attacker.test",
            "/waiting//attacker.test",
            "/waiting/../x",
            "/waiting/%2e%2e",
            "/waiting?x",
            "/waiting#x",
            "/waiting\n",
            "/\tattacker.test",
            "https://attacker.test/waiting",
            "https:waiting",
            "javascript:alert(1)",
            "/sign-out",
            "/sign-in",
            "/api/v1/holds",
            "/waiting@attacker.test",
            "/.attacker.test",
            "/holdsx",
            "/ledger/export",
            &format!("/waiting/{}", "x".repeat(300)),
        ] {
            assert_eq!(way_back(wrong), None, "{wrong}");
        }
    }
}
