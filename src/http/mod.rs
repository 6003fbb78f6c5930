//! The console listener: health, metrics and the log's tiles, which need no credential and change nothing; and the
//! approvers' doors, `api` for programs and `console` for people, which need a session.

mod api;
mod body;
mod connections;
mod console;
mod feed;
mod patience;
mod place;
mod problem;
mod tlog;
mod turn;
pub(crate) mod view;

pub(crate) use connections::{WhenFull, serve_connections};

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::sync::watch;

use connections::Standing;
use place::Place;
use problem::Problem;

use crate::{
    approver::Side,
    call::Fault,
    config::{Console, ProviderConfig},
    listen::Listener,
    observe::{ReceiverState, Snapshot, UpstreamState},
    oidc::{Attempts, Provider},
    pipeline::Pipeline,
    reach,
};

/// Connections at once; the console is for a few people and a scraper.
const CONNECTIONS: usize = 256;

struct Doors {
    pipeline: Arc<Pipeline>,
    data: PathBuf,
    place: Place,
    /// Browsers come by TLS, though something in front may end it.
    secure: bool,
    /// Identity providers, by name, and sign-ins with them that were begun.
    providers: BTreeMap<String, Arc<Provider>>,
    attempts: Attempts,
    api: api::Desk,
    desk: console::Desk,
    stop: watch::Receiver<bool>,
}

/// Serves the console on `listener` until `shutdown` turns true; requests under way may finish.
/// `data` is the data folder: `<data>/tlog` is published at `/tlog/`.
///
/// # Errors
/// [`Fault`] when the listener fails for good.
pub async fn serve(
    listener: impl Into<Listener>,
    console: Console,
    pipeline: Arc<Pipeline>,
    data: PathBuf,
    shutdown: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let mut listener = listener.into();
    let bound = listener.local_addr().map_err(|error| Fault(format!("the console has no address: {error}")))?;
    let taken = listener.take_localhost().await;
    let (place, secure) = (Place::new(bound, &console, taken.is_ok()), console.secure());
    if let (None, Err(error)) = (place.rp(), taken) {
        tracing::warn!(%error, "`localhost` may be another program at the console's port: passkeys are refused; set `console.url`");
    }
    let (clock, origin) = (&pipeline.clock, place.origin());
    let provider = |(name, config): (String, ProviderConfig)| {
        let provider = Provider::new(&name, config, origin, Arc::new(reach::System), clock.clone())?;
        Ok((name, Arc::new(provider)))
    };
    let providers: Result<BTreeMap<_, _>, Fault> = console.providers.into_iter().map(provider).collect();
    let (providers, attempts) = (providers?, Attempts::new()?);
    let (api, desk, stop) = (api::Desk::default(), console::Desk::default(), shutdown.clone());
    let doors = Arc::new(Doors { pipeline, data, place, secure, providers, attempts, api, desk, stop });
    serve_connections(listener, routes(doors), (CONNECTIONS, WhenFull::EndTheQuietest), shutdown).await;
    Ok(())
}

fn routes(doors: Arc<Doors>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/tlog/{*path}", get(tile))
        .nest("/api/v1", api::routes())
        .merge(console::routes())
        .fallback(async |headers: HeaderMap| told(Problem::NotFound, &headers))
        .method_not_allowed_fallback(async || Problem::MethodNotAllowed)
        .layer(middleware::from_fn_with_state(Arc::clone(&doors), guard))
        .with_state(doors)
}

async fn guard(State(doors): State<Arc<Doors>>, request: Request, next: Next) -> Response {
    if let Some(standing) = request.extensions().get::<Standing>() {
        // before places become scarce
        standing.is_known(doors.knows(request.headers()));
    }
    let mut response = match doors.place.refuses(request.headers()) {
        Some(refusal) => told(refusal, request.headers()),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        // pages are let do more than the rest
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    if doors.place.only_tls() {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl Doors {
    /// Whether a living session is shown, by a page or a program.
    fn knows(&self, headers: &HeaderMap) -> bool {
        let (page, program) = (console::token(self, headers), api::bearer(headers).ok());
        [(page, Side::Pages), (program, Side::Api)]
            .into_iter()
            .any(|(token, side)| token.is_some_and(|token| self.session(token, side, false).is_some()))
    }
}

/// A problem: as a page to a browser, else as a document.
fn told(problem: Problem, headers: &HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    match accepts.is_some_and(|accept| accept.contains("text/html")) {
        true => console::Trouble(problem).into_response(),
        false => problem.into_response(),
    }
}

/// Whether calls can be taken, and if not, why.
async fn ready(State(doors): State<Arc<Doors>>) -> Response {
    let reasons = doors.pipeline.ledger.troubles();
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let upstreams = doors.pipeline.upstreams.status();
    let upstreams: serde_json::Map<_, _> =
        upstreams.iter().map(|status| (status.name.to_string(), status.state.into())).collect();
    let wanting = doors.pipeline.upstreams.status();
    let accounts: serde_json::Map<_, _> =
        wanting.iter().filter_map(|status| Some((status.name.to_string(), status.account?.into()))).collect();
    let body = json!({"ready": reasons.is_empty(), "reasons": reasons, "policies": doors.pipeline.grants.load().len(),
                      "upstreams": upstreams, "accounts": accounts});
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn metrics(State(doors): State<Arc<Doors>>) -> Response {
    let text = doors.pipeline.metrics.render(&snapshot(&doors.pipeline));
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// What a scrape, and `status`, show of a house.
pub(crate) fn snapshot(pipeline: &Pipeline) -> Snapshot {
    let catalog = pipeline.catalog.load();
    let upstreams = pipeline.upstreams.status().into_iter().map(|status| UpstreamState {
        name: status.name.to_string(),
        ready: status.state == "ready",
        in_flight: status.in_flight,
    });
    let holds = pipeline.ledger.holds(crate::hold::Book::counts);
    let receivers = pipeline.notifier.get().map(|notifier| notifier.fares()).unwrap_or_default();
    let receivers = receivers.into_iter().map(|fares| ReceiverState {
        name: fares.name,
        undelivered: fares.undelivered,
        given_up: fares.refused,
    });
    Snapshot {
        upstreams: upstreams.collect(),
        ledger_entries: pipeline.ledger.size(),
        ledger_healthy: pipeline.ledger.healthy(),
        policies: pipeline.grants.load().len(),
        tools: catalog.tools().count(),
        quarantined: catalog.quarantined().len(),
        holds_pending: holds.pending,
        holds_approved: holds.approved,
        receivers: receivers.collect(),
    }
}

async fn tile(State(doors): State<Arc<Doors>>, axum::extract::Path(path): axum::extract::Path<String>) -> Response {
    match tlog::read(&doors.data.join("tlog"), &path).await {
        Some(found) => {
            let headers = [(header::CONTENT_TYPE, found.content_type), (header::CACHE_CONTROL, found.cache)];
            (headers, Body::from(found.bytes)).into_response()
        }
        None => Problem::NotFound.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_a_problem_document() {
        let response = Problem::NotFound.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let bytes = axum::body::to_bytes(response.into_body(), 4_096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&body["status"], &body["title"]), (&json!(404), &json!("Not Found")));
        assert_eq!(body["code"], "not_found");
    }
}
