//! *Health*: how the house fares.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use maud::{Markup, html};

use super::{
    Doors, Trouble, apart,
    page::{Page, signed_in, theirs, time},
    picture::grouped,
    visitor::SignedIn,
};
use crate::{clock::Timestamp, http::snapshot, notify::Fares, observe::Snapshot, upstream::Status};

/// What is so now.
struct Now {
    snapshot: Snapshot,
    upstreams: Vec<Status>,
    receivers: Vec<Fares>,
    troubles: Vec<&'static str>,
    started: Option<Timestamp>,
}

/// How the house fares.
pub(super) async fn page(State(doors): State<Arc<Doors>>, SignedIn(who): SignedIn) -> Result<Response, Trouble> {
    let now = apart(&doors, |doors| {
        let pipeline = &doors.pipeline;
        Ok(Now {
            snapshot: snapshot(pipeline),
            upstreams: pipeline.upstreams.status(),
            receivers: pipeline.notifier.get().map(|notifier| notifier.fares()).unwrap_or_default(),
            troubles: pipeline.ledger.troubles(),
            started: pipeline.metrics.start(),
        })
    })
    .await?;
    let at = doors.pipeline.clock.now();
    let Now { snapshot, upstreams, receivers, troubles, started } = &now;
    let main = html! {
        h1 { "Health" }
        @if troubles.is_empty() {
            p.good data-healthy="true" { strong { "Calls are taken." } }
        } @else {
            div.problem role="alert" data-healthy="false" {
                strong { "Something does not work." }
                ul { @for code in troubles { li { code { (code) } ": " (meaning(code)) } } }
            }
        }
        dl.facts {
            dt { "version" } dd { (env!("CARGO_PKG_VERSION")) }
            @if let Some(started) = started {
                dt { "running since" } dd { (time(*started)) ", " (ago(at, *started)) }
            }
            dt { "ledger" } dd { (grouped(snapshot.ledger_entries)) " entries" }
            dt { "policies" } dd { a href="/grants" { (grouped(snapshot.policies as u64)) } }
            dt { "tools on offer" } dd { a href="/tools" { (grouped(snapshot.tools as u64)) } }
            dt { "tools not offered" } dd { (grouped(snapshot.quarantined as u64)) }
            dt { "holds that wait" } dd { a href="/waiting" { (grouped(snapshot.holds_pending as u64)) } }
            dt { "countersigned, not run yet" } dd { (grouped(snapshot.holds_approved as u64)) }
        }
        h2 { "Tool servers" }
        (servers(upstreams))
        @let wanting = upstreams.iter().filter(|upstream| upstream.account.is_some()).count();
        @let lacking = upstreams.iter().filter(|upstream| upstream.account == Some("not_connected"));
        @for upstream in lacking {
            p.warning data-lacks=(upstream.name) { (upstream.name) " wants an account, and nobody has connected one: its calls are refused." }
        }
        @if wanting > 0 { p { a href="/upstreams" { "Accounts at tool servers" } } }
        h2 { "Who is told of holds" }
        (told(receivers))
    };
    let page = Page { name: "health", title: "Health", section: "/health", ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

fn servers(upstreams: &[Status]) -> Markup {
    html! {
        @if upstreams.is_empty() {
            p.none { "None. " code { "countersign upstream add" } " adds one." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Tool servers" {
                table {
                    thead { tr {
                        th scope="col" { "name" } th scope="col" { "state" } th scope="col" { "protocol" }
                        th.number scope="col" { "calls under way" } th scope="col" { "last failure" }
                    } }
                    tbody {
                        @for upstream in upstreams {
                            tr data-upstream=(upstream.name) {
                                th scope="row" { (upstream.name) }
                                td {
                                    span.tag data-state=(if upstream.state == "ready" { "approved" } else { "pending" }) { (upstream.state) }
                                }
                                td { @if let Some(protocol) = &upstream.protocol { (theirs(protocol)) } }
                                td.number { (grouped(upstream.in_flight as u64)) }
                                td { @if let Some(error) = &upstream.last_error { (theirs(error)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn told(receivers: &[Fares]) -> Markup {
    html! {
        @if receivers.is_empty() {
            p.warning { "Nobody: a hold that nobody hears of is a denial that nobody meant. " code { "[notify]" } " in " code { "countersign.toml" } " names receivers." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Receivers of notifications" {
                table {
                    thead { tr {
                        th scope="col" { "receiver" } th.number scope="col" { "undelivered" }
                        th.number scope="col" { "given up" } th scope="col" { "failing" }
                    } }
                    tbody {
                        @for fares in receivers {
                            tr data-receiver=(fares.name) {
                                th scope="row" { (theirs(&fares.name)) }
                                td.number { (grouped(fares.undelivered as u64)) }
                                td.number { (grouped(fares.refused)) }
                                td {
                                    @if let Some(since) = fares.since { "since " (time(since)) " " }
                                    @if let Some(error) = &fares.error { (theirs(error)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What a trouble of the ledger means.
fn meaning(code: &str) -> &'static str {
    match code {
        "ledger_unwritable" => "a write has failed, and every call is refused until the server is started again",
        "ledger_unpublished" => "the published log stays behind; it is tried again",
        "payloads_unwritable" => "long arguments and results cannot be kept",
        _ => "see the server's log",
    }
}

/// How long ago, in days, hours and minutes.
fn ago(now: Timestamp, then: Timestamp) -> String {
    let minutes = now.duration_since(then).as_mins().max(0);
    let (days, hours, minutes) = (minutes / 1_440, minutes / 60 % 24, minutes % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_ago_is_told_in_the_units_that_matter() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        for (then, expected) in [
            ("2026-11-21T11:59:31Z", "0 min"),
            ("2026-11-21T11:18:00Z", "42 min"),
            ("2026-11-21T09:30:00Z", "2 h 30 min"),
            ("2026-11-18T09:30:00Z", "3 d 2 h"),
            ("2026-11-21T13:00:00Z", "0 min"),
        ] {
            assert_eq!(ago(now, then.parse().unwrap()), expected);
        }
    }

    #[test]
    fn what_a_tool_server_says_of_its_failure_is_no_markup() {
        let status = Status {
            name: crate::contract::UpstreamName::new("up").unwrap(),
            state: "broken",
            protocol: None,
            in_flight: 0,
            account: None,
            last_error: Some("<img src=x onerror=alert(1)>\u{202e}".to_owned()),
        };
        let shown = servers(&[status]).into_string();
        assert!(
            shown.contains("&lt;img src=x onerror=alert(1)&gt;<mark>&lt;U+202E&gt;</mark>") && !shown.contains("<img"),
            "{shown}"
        );
    }
}
