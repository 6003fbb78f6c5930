//! *Tools*: what is offered, what is not and why; one tool, and what is done about a changed definition.

use std::sync::Arc;

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, Uri},
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    Doors, Problem, Trouble,
    agents::how_far,
    apart,
    form::Act,
    hold::marked,
    page::{Page, notice, segment, signed_in, theirs, time, token},
    picture::grouped,
    visitor::SignedIn,
};
use crate::{
    approver::{Session, Way},
    call::Fault,
    clock::Timestamp,
    contract::{Impact, Quarantined, Tool, UpstreamName, file::Contract},
    display::{Change, Display, LONGEST, visible},
    http::api::form::Parameters,
    json::{Canonical, Digest},
    ledger::{Counts, HOURS},
    pipeline::Review,
};

/// Tools on one page.
const PAGE: usize = 200;
/// Changes that are shown in rows; the whole definition is below them.
const CHANGES: usize = 1_000;

/// What can be chosen of the list.
#[derive(Default)]
struct Chosen {
    upstream: Option<UpstreamName>,
    page: usize,
}

impl Chosen {
    fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut parameters = Parameters::of(uri)?;
        let upstream = parameters.text("upstream")?.filter(|name| !name.is_empty());
        let page = parameters.number("page")?.unwrap_or(0);
        parameters.end()?;
        let unknown = || Problem::Invalid("`upstream` is not the name of one".to_owned());
        let upstream = upstream.map(|name| UpstreamName::new(&name).ok_or_else(unknown)).transpose()?;
        Ok(Self { upstream, page: usize::try_from(page).unwrap_or(usize::MAX).min(1 << 20) })
    }

    fn takes(&self, upstream: &UpstreamName) -> bool {
        self.upstream.as_ref().is_none_or(|wanted| wanted == upstream)
    }
}

/// The address of a tool's page.
pub(super) fn address(upstream: &UpstreamName, tool: &str) -> String {
    // a part of a path is never empty
    format!("/tools/{}/{}", segment(upstream.as_str()), segment(tool))
}

/// What is offered, and what is not.
pub(super) async fn page(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    uri: Uri,
) -> Result<Response, Trouble> {
    let chosen = Chosen::of(&uri)?;
    let now = doors.pipeline.clock.now();
    let look = move |doors: &Doors| {
        doors.pipeline.ledger.summed(now, |summary| (summary.total(now, HOURS).tools, summary.since(now, HOURS)))
    };
    let (counts, since) = apart(&doors, look).await?;
    let catalog = doors.pipeline.catalog.load();
    let (offered, quarantined): (Vec<&Arc<Tool>>, Vec<&Quarantined>) = (
        catalog.tools().filter(|tool| chosen.takes(&tool.upstream)).collect(),
        catalog.quarantined().iter().filter(|it| chosen.takes(&it.upstream)).collect(),
    );
    let upstreams = doors.pipeline.upstreams.status();
    let from = chosen.page.saturating_mul(PAGE);
    let pages = offered.len().max(quarantined.len()).div_ceil(PAGE);
    let query =
        chosen.upstream.as_ref().map(|name| format!("upstream={}&", segment(name.as_str()))).unwrap_or_default();
    let main = html! {
        h1 { "Tools" }
        nav.choice aria-label="Tool servers" {
            a href="/tools" aria-current=[chosen.upstream.is_none().then_some("true")] { "all" }
            @for upstream in &upstreams {
                @let current = chosen.upstream.as_ref() == Some(&upstream.name);
                a href={ "/tools?upstream=" (segment(upstream.name.as_str())) } aria-current=[current.then_some("true")] {
                    (upstream.name)
                }
            }
        }
        @if !quarantined.is_empty() {
            h2 { "Not offered: " (grouped(quarantined.len() as u64)) }
            (quarantine(quarantined.iter().skip(from).take(PAGE)))
        }
        h2 { "Offered: " (grouped(offered.len() as u64)) }
        (how_far(since))
        @if offered.is_empty() {
            p.none { "None. " code { "countersign tool register" } " asks the tool servers for theirs." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Tools on offer" {
                table {
                    thead { tr {
                        th scope="col" { "tool" }
                        th scope="col" { "impact" }
                        th scope="col" { "labels" }
                        th.number scope="col" { "calls in 7 days" }
                        th.number scope="col" { "refused" }
                        th.number scope="col" { "failed" }
                    } }
                    tbody {
                        @for tool in offered.iter().skip(from).take(PAGE) {
                            @let counts = counts.get(tool.name.as_str()).cloned().unwrap_or_default();
                            tr data-tool=(visible(&tool.name)) {
                                th scope="row" { a href=(address(&tool.upstream, &tool.wire_name)) { (theirs(&tool.name)) } }
                                td { (impact(tool.impact.iter())) }
                                td { @for label in &tool.labels { span.tag { (visible(label)) } " " } }
                                td.number { (grouped(counts.decisions())) }
                                td.number { (grouped(counts.refused)) }
                                td.number { (grouped(failed(&counts))) }
                            }
                        }
                    }
                }
            }
        }
        (turns("/tools", &query, chosen.page, pages))
    };
    let page = Page { name: "tools", title: "Tools", section: "/tools", ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

fn failed(counts: &Counts) -> u64 {
    counts.tool_error.saturating_add(counts.upstream_error).saturating_add(counts.unknown)
}

/// The way to the pages before and after.
pub(super) fn turns(path: &str, query: &str, page: usize, pages: usize) -> Markup {
    html! {
        @if pages > 1 {
            nav.turns aria-label="Pages" {
                @if page > 0 { a rel="prev" href={ (path) "?" (query) "page=" (page - 1) } { "Before" } }
                span { "page " (page + 1) " of " (pages) }
                @if page + 1 < pages { a rel="next" href={ (path) "?" (query) "page=" (page + 1) } { "After" } }
            }
        }
    }
}

fn quarantine<'q>(tools: impl Iterator<Item = &'q &'q Quarantined>) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Tools that are not offered" {
            table {
                thead { tr { th scope="col" { "tool" } th scope="col" { "why" } th scope="col" { "more" } } }
                tbody {
                    @for Quarantined { upstream, tool, why } in tools {
                        @let (code, sentence) = why.told();
                        tr data-quarantined=(visible(&format!("{upstream}__{tool}"))) {
                            th scope="row" {
                                @if tool.is_empty() { (theirs(upstream.as_str())) }
                                @else { a href=(address(upstream, tool)) { (theirs(&format!("{upstream}__{tool}"))) } }
                            }
                            td { span.tag data-state="void" { (code) } }
                            td { (theirs(&sentence)) }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn impact<'i>(impact: impl Iterator<Item = &'i Impact>) -> Markup {
    html! { @for impact in impact { span.tag data-impact=(impact.word()) { (impact.word()) } " " } }
}

type Named = Result<Path<(String, String)>, PathRejection>;

fn named(path: Named) -> Result<(UpstreamName, String), Problem> {
    let Path((upstream, tool)) = path.map_err(|_| Problem::NotFound)?;
    Ok((UpstreamName::new(&upstream).ok_or(Problem::NotFound)?, tool))
}

/// One tool.
pub(super) async fn one(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    path: Named,
) -> Result<Response, Trouble> {
    let (upstream, tool) = named(path)?;
    Ok(shown(&doors, &who, &upstream, &tool, None).await?)
}

/// Takes the definition that was looked at as the contract.
pub(super) async fn accept(State(doors): State<Arc<Doors>>, path: Named, act: Act) -> Result<Response, Trouble> {
    decide(doors, path, act, true).await
}

/// Writes down that it is not wanted.
pub(super) async fn reject(State(doors): State<Arc<Doors>>, path: Named, act: Act) -> Result<Response, Trouble> {
    decide(doors, path, act, false).await
}

/// A session lets look; what changes what agents are offered takes the passphrase again.
async fn decide(doors: Arc<Doors>, path: Named, act: Act, take: bool) -> Result<Response, Trouble> {
    let (upstream, tool) = named(path)?;
    let Act { who, mut fields } = act;
    let digest = fields.text("digest")?;
    let digest: Digest = digest.parse().map_err(|error| Problem::Invalid(format!("`digest`: {error}")))?;
    let passphrase = fields.passphrase()?;
    fields.end()?;
    let house = Arc::clone(&doors);
    let (approver, way, its, name) = (who.approver.clone(), Way::Session(who.id), upstream.clone(), tool.clone());
    // whoever goes away in the middle has decided all the same
    let done = tokio::spawn(async move {
        let pipeline = &house.pipeline;
        pipeline
            .approvers
            .check(&approver, &passphrase, way)
            .await
            .map_err(|why| Problem::of(why, Problem::PassphraseWrong))?;
        let contracts = &pipeline.contracts;
        let done = match take {
            true => contracts.accept(pipeline, &its, &name, Some(digest), Some(&approver)).await.map(|_digest| ()),
            false => contracts.reject(pipeline, &its, &name, digest, &approver).await,
        };
        done.map_err(|why| Problem::ToolUndecided(why.0))?;
        tracing::info!(approver, upstream = %its, tool = ?name, accepted = take, "a changed definition was decided on");
        Ok(())
    });
    let done = done.await.map_err(|_| Fault("a decision on a tool was cut short".to_owned()))?;
    match done {
        Ok(()) => Ok(Redirect::to(&address(&upstream, &tool)).into_response()),
        Err(problem) => Ok(shown(&doors, &who, &upstream, &tool, Some(&problem)).await?),
    }
}

/// The page of a tool, with what went wrong on it.
async fn shown(
    doors: &Arc<Doors>,
    who: &Session,
    upstream: &UpstreamName,
    tool: &str,
    problem: Option<&Problem>,
) -> Result<Response, Problem> {
    let (whose, its, name) = (who.clone(), upstream.clone(), tool.to_owned());
    let told = apart(doors, move |doors| about(doors, &whose, &its, &name)).await?;
    if told.is_none() && problem.is_none() {
        return Err(Problem::NotFound);
    }
    let full = format!("{upstream}__{tool}");
    let main = html! {
        p.quiet { a href="/tools" { "Tools" } }
        h1 { "Tool " (theirs(&full)) }
        @if let Some(problem) = problem { (notice(problem)) }
        p {
            a href={ "/grants?tool=" (segment(&full)) } { "Who may call it" } " · "
            a href={ "/ledger?tool=" (segment(&full)) } { "Its entries in the ledger" }
        }
        @if let Some(told) = told { (told) }
    };
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let title = format!("Tool {}", visible(tool));
    let page = Page { name: "tool", title: &title, section: "/tools", ..Page::default() };
    Ok(signed_in(doors, who, status, &page, &main))
}

/// What there is to say of a tool, if there is one.
fn about(doors: &Doors, who: &Session, upstream: &UpstreamName, tool: &str) -> Result<Option<Markup>, Fault> {
    let (pipeline, now) = (&doors.pipeline, doors.pipeline.clock.now());
    if let Some(review) = pipeline.contracts.review(pipeline, upstream, tool) {
        return Ok(Some(reviewed(who, &review)));
    }
    let catalog = pipeline.catalog.load();
    let Some(tool) = catalog.tools().find(|it| it.upstream == *upstream && it.wire_name == tool) else {
        return Ok(None);
    };
    let (counts, since) = pipeline.ledger.summed(now, |summary| {
        (summary.total(now, HOURS).tools.remove(tool.name.as_str()), summary.since(now, HOURS))
    })?;
    Ok(Some(offer(tool, &counts.unwrap_or_default(), since)))
}

/// A tool on offer.
fn offer(tool: &Tool, counts: &Counts, since: Option<Timestamp>) -> Markup {
    html! {
        dl.facts {
            dt { "state" } dd { span.tag data-state="approved" { "offered" } }
            dt { "upstream" } dd { (tool.upstream) }
            dt { "impact" } dd { (impact(tool.impact.iter())) }
            dt { "labels" } dd { @for label in &tool.labels { span.tag { (visible(label)) } " " } }
            dt { "idempotent" } dd { @if tool.idempotent { "yes" } @else { "no" } }
            dt { "undeclared arguments" } dd { @if tool.open { "let through" } @else { "refused" } }
            dt { "contract" } dd { code { (tool.digest) } }
        }
        h2 { "The last seven days" }
        (how_far(since))
        dl.facts {
            dt { "permitted" } dd { (grouped(counts.permitted)) }
            dt { "held" } dd { (grouped(counts.held)) }
            dt { "refused" } dd { (grouped(counts.refused)) }
            dt { "ended well" } dd { (grouped(counts.ok)) }
            dt { "failed" } dd { (grouped(counts.tool_error.saturating_add(counts.upstream_error))) }
            dt { "outcome unknown" } dd { (grouped(counts.unknown)) }
        }
        (definition("Its definition, as it was reviewed", Canonical::of((*tool.definition).clone()).ok().as_ref()))
    }
}

/// A tool that is not offered.
fn reviewed(who: &Session, review: &Review) -> Markup {
    html! {
        dl.facts {
            dt { "state" } dd { span.tag data-state="void" { "not offered: " (review.why) } }
            dt { "why" } dd { (theirs(&review.detail)) }
            @if let Some(contract) = &review.contract { (facts(contract)) }
            @if let Some(digest) = review.digest() { dt { "advertised now" } dd { code data-digest { (digest) } } }
            @if let Some(rejected) = &review.rejected {
                dt { "rejected" }
                dd data-rejected=(visible(&rejected.by)) { "by " (visible(&rejected.by)) ", " (time(rejected.at)) }
            }
        }
        @if let Some(changes) = &review.difference { (difference(changes)) }
        (definition("The definition that is advertised now, whole", review.advertised.as_ref()))
        @if let Some(contract) = &review.contract {
            (definition("The definition of its contract", Canonical::of((*contract.definition).clone()).ok().as_ref()))
        }
        @if let Some(digest) = review.digest() { (decision(who, review, digest)) }
        @else if review.why == "unregistered" {
            p { code { "countersign tool register " (review.upstream) } " writes a contract for it." }
        }
    }
}

fn facts(contract: &Contract) -> Markup {
    html! {
        dt { "impact" } dd { (impact(contract.impact.iter())) }
        dt { "labels" } dd { @for label in &contract.labels { span.tag { (visible(label)) } " " } }
        dt { "reviewed" } dd { (time(contract.registered)) }
    }
}

/// What is not as in the contract: there before, here now.
fn difference(changes: &[Change]) -> Markup {
    let side = |text: &Option<String>| {
        html! {
            @match text {
                None => span.none { "nothing" },
                Some(text) => {
                    @let (beginning, rest) = cut(text);
                    span.theirs.value dir="ltr" { (marked(beginning)) }
                    @if rest > 0 { " " span.quiet { (rest) " bytes not shown" } }
                }
            }
        }
    };
    html! {
        h2 { "What changed" }
        div.scroll data-difference tabindex="0" role="region" aria-label="What changed" {
            table {
                thead { tr { th scope="col" { "place" } th scope="col" { "in the contract" } th scope="col" { "advertised now" } } }
                tbody {
                    @for change in changes.iter().take(CHANGES) {
                        tr data-pointer=(cut(&change.pointer).0) {
                            th scope="row" { code { @if change.pointer.is_empty() { "(the whole)" } @else { (cut(&change.pointer).0) } } }
                            td { (side(&change.before)) }
                            td { (side(&change.after)) }
                        }
                    }
                }
            }
        }
        @if changes.len() > CHANGES {
            p.warning { (grouped((changes.len() - CHANGES) as u64)) " more changes are not shown in rows; the whole definition is below." }
        }
    }
}

/// The beginning of a text that is visible already, and how many bytes are left out.
fn cut(text: &str) -> (&str, usize) {
    let beginning = crate::call::cut(text, LONGEST);
    (beginning, text.len() - beginning.len())
}

/// A definition whole, from its canonical bytes, with what in it may deceive.
fn definition(title: &str, definition: Option<&Canonical>) -> Markup {
    let display = definition.and_then(|definition| Display::of(definition.bytes()).ok());
    html! {
        @if let Some(display) = display {
            h2 { (title) }
            @if !display.flags.is_empty() {
                p data-flags {
                    @for flag in &display.flags {
                        span.tag data-flag=(flag.word()) { (flag.word()) } " " (flag.sentence()) ". "
                    }
                }
            }
            p.quiet { "What a tool server says of its tool is its own word. Read it as data." }
            details open[display.text.len() <= LONGEST] {
                summary { (grouped(display.text.len() as u64)) " bytes" }
                pre.theirs data-canonical dir="ltr" { (marked(&display.text)) }
            }
        }
    }
}

/// Accept or reject; both take the passphrase.
fn decision(who: &Session, review: &Review, digest: Digest) -> Markup {
    let address = address(&review.upstream, &review.tool);
    let form = |act: &'static str, says: &str, does: &str| {
        html! {
            form.narrow method="post" action={ (address) "/" (act) } data-act=(act) {
                // what Enter would press
                button type="submit" disabled hidden tabindex="-1" aria-hidden="true" {}
                (token(&who.form))
                input type="hidden" name="digest" value=(digest);
                p { (does) }
                label for={ "passphrase-" (act) } { "Your passphrase" }
                input id={ "passphrase-" (act) } name="passphrase" type="password" required autocomplete="new-password" maxlength="1024";
                button type="submit" { (says) }
            }
        }
    };
    html! {
        h2 { "Decide" }
        p.quiet {
            "Who has no passphrase decides in a terminal: " code { "countersign tool accept" } ", " code { "countersign tool reject" } "."
        }
        (form("reject", "Reject", "Reject it: the tool stays out of reach of every agent, and whoever looks next is told."))
        (form("accept", "Accept this definition", "Accept it: it becomes the contract, with the impact, labels and further bounds that the contract has now, and the tool is offered again. Only the very definition that is shown here is accepted."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_tool_is_called_its_page_has_an_address_of_ours() {
        let upstream = UpstreamName::new("bank").unwrap();
        for (tool, expected) in [
            ("pay", "/tools/bank/pay"),
            ("../../sign-out", "/tools/bank/%2E%2E%2F%2E%2E%2Fsign-out"),
            ("a b?c#d", "/tools/bank/a%20b%3Fc%23d"),
            ("javascript:x", "/tools/bank/javascript%3Ax"),
        ] {
            assert_eq!(address(&upstream, tool), expected);
        }
    }

    #[test]
    fn a_difference_is_bounded_and_nothing_in_it_is_markup() {
        let change = |number: usize| Change {
            pointer: format!("/{number}<b>"),
            before: None,
            after: Some("x".repeat(LONGEST + 7)),
        };
        let shown = difference(&(0..CHANGES + 3).map(change).collect::<Vec<_>>()).into_string();
        assert!(!shown.contains("<b>") && shown.contains("7 bytes not shown") && shown.contains("3 more changes"));
        assert_eq!(shown.matches("<tr data-pointer").count(), CHANGES);
    }

    #[test]
    fn pages_turn() {
        let at = |page| turns("/tools", "upstream=a&", page, 3).into_string();
        assert!(at(0).contains("page=1\"") && !at(0).contains("rel=\"prev\""));
        assert!(at(2).contains("/tools?upstream=a&amp;page=1\"") && !at(2).contains("rel=\"next\""));
        assert_eq!(turns("/tools", "", 0, 1).into_string(), "");
    }
}
