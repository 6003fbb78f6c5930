//! *Agents*: who calls, how often, what was refused and held; and one agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, Uri},
    response::Response,
};
use maud::{Markup, html};

use super::{
    Doors, Problem, Trouble, apart, entries,
    page::{Page, segment, signed_in, theirs, time},
    picture::{Bar, Figures, grouped},
    span::Span,
    visitor::SignedIn,
};
use crate::{
    call::Fault,
    clock::Timestamp,
    display::visible,
    hold::{Book, Phase, Record},
    http::api::form::Parameters,
    ledger::{Counts, Filter, Hour, Ledger, Summary},
};

/// Agents on one page, and bars in a picture of them.
const MOST: usize = 200;
const BARS: usize = 12;
/// Holds, credentials and entries that the page of an agent shows.
const FEW: usize = 20;

/// How long people took to decide: what is below so many seconds, and how that is called.
const WAITS: [(i64, &str); 8] = [
    (10, "under 10 s"),
    (60, "10 s to 1 min"),
    (300, "1 to 5 min"),
    (900, "5 to 15 min"),
    (3_600, "15 min to 1 h"),
    (14_400, "1 to 4 h"),
    (86_400, "4 h to 1 day"),
    (i64::MAX, "a day or more"),
];

/// What became of holds that ended, and of those that wait to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Decided {
    /// Countersigned and denied ones, by [`WAITS`].
    waits: [(u64, u64); WAITS.len()],
    expired: u64,
    withdrawn: u64,
    void: u64,
}

impl Decided {
    fn of<'r>(records: impl Iterator<Item = &'r Record>) -> Self {
        let mut decided = Self::default();
        for record in records {
            let (at, denied) = match &record.phase {
                Phase::Pending => continue,
                Phase::Approved | Phase::Spent { .. } => {
                    // the last countersignature completed it
                    (record.votes.iter().map(|vote| vote.at).max().unwrap_or(record.since), false)
                }
                Phase::Denied { .. } => (record.since, true),
                Phase::Expired => {
                    decided.expired += 1;
                    continue;
                }
                Phase::Cancelled { .. } => {
                    decided.withdrawn += 1;
                    continue;
                }
                Phase::Void(_) => {
                    decided.void += 1;
                    continue;
                }
            };
            let took = at.duration_since(record.hold.created).as_secs();
            let place = WAITS.iter().position(|(below, _)| took < *below).unwrap_or(WAITS.len() - 1);
            if let Some((yes, no)) = decided.waits.get_mut(place) {
                *if denied { no } else { yes } += 1;
            }
        }
        decided
    }

    fn figures(&self) -> Figures {
        let bar = |((yes, no), (_, name)): (&(u64, u64), &(i64, &str))| Bar {
            name: (*name).to_owned(),
            label: (*name).to_owned(),
            counts: vec![*yes, *no],
        };
        Figures {
            id: "waits",
            title: "Time to decision".to_owned(),
            series: vec!["countersigned", "denied"],
            first: "from the call to the decision",
            bars: self.waits.iter().zip(&WAITS).map(bar).collect(),
        }
    }

    fn shown(&self) -> Markup {
        html! {
            (self.figures().lying())
            p.quiet {
                "Of the holds that are remembered: those that are open, and at least the last 1,000 that ended. Not decided by anybody: "
                (grouped(self.expired)) " expired, " (grouped(self.withdrawn)) " withdrawn, " (grouped(self.void)) " void."
            }
        }
    }
}

/// Calls over time, by what was decided.
fn over_time(title: &str, hours: &[(Timestamp, Counts)], span: Span) -> Figures {
    let bars = hours.chunks(span.hours_a_bar()).enumerate().map(|(place, hours)| {
        let mut counts = Counts::default();
        hours.iter().for_each(|(_, more)| counts.join(more));
        let at = hours.first().map_or(Timestamp::UNIX_EPOCH, |(at, _)| *at);
        let label = if place.is_multiple_of(4) { span.label(at) } else { String::new() };
        Bar { name: span.name(at), label, counts: vec![counts.permitted, counts.held, counts.refused] }
    });
    Figures {
        id: "calls",
        title: title.to_owned(),
        series: vec!["permitted", "held", "refused"],
        first: "from (UTC)",
        bars: bars.collect(),
    }
}

/// What the ledger and the book know of agents.
struct Seen {
    total: Hour,
    hours: Vec<(Timestamp, Counts)>,
    since: Option<Timestamp>,
    decided: Decided,
    /// Open holds by agent.
    open: BTreeMap<String, u64>,
    /// Agents with a credential that is good still.
    known: BTreeSet<String>,
}

impl Seen {
    fn of(ledger: &Ledger, now: Timestamp, span: Span) -> Result<Self, Fault> {
        let look = |summary: &Summary| {
            let hours = summary.hours(now, span.hours(), |hour| Some(hour.all.clone()));
            (summary.total(now, span.hours()), hours, summary.since(now, span.hours()))
        };
        let (total, hours, since) = ledger.summed(now, look)?;
        let (decided, open) = ledger.holds(|book: &Book| {
            let mut open = BTreeMap::new();
            for record in book.iter().filter(|record| record.phase.is_open()) {
                *open.entry(record.hold.agent.clone()).or_default() += 1;
            }
            (Decided::of(book.iter()), open)
        });
        let views = ledger.views();
        let good = views.tokens().filter(|(_, token)| !token.revoked && token.expires > now);
        let known = good.map(|(_, token)| token.agent.clone()).collect();
        Ok(Self { total, hours, since, decided, open, known })
    }

    /// Every agent, who called most first.
    fn rows(&self) -> Vec<(String, Counts, u64)> {
        let mut names: BTreeSet<&str> = self.total.agents.keys().map(AsRef::as_ref).collect();
        names.extend(self.known.iter().map(String::as_str));
        names.extend(self.open.keys().map(String::as_str));
        let row = |name: &str| {
            let counts = self.total.agents.get(name).cloned().unwrap_or_default();
            (name.to_owned(), counts, self.open.get(name).copied().unwrap_or_default())
        };
        let mut rows: Vec<_> = names.into_iter().map(row).collect();
        rows.sort_by_key(|(_, counts, open)| std::cmp::Reverse((counts.decisions(), *open)));
        rows
    }

    fn by_agent(&self) -> Figures {
        let mut bars: Vec<Bar> = Vec::new();
        let mut rest = Counts::default();
        for (place, (name, counts, _)) in
            self.rows().into_iter().filter(|(_, counts, _)| counts.decisions() > 0).enumerate()
        {
            if place >= BARS || name.is_empty() {
                rest.join(&counts);
                continue;
            }
            let name = visible(&name);
            let label = match name.char_indices().nth(20) {
                Some((end, _)) => format!("{}…", name.get(..end).unwrap_or_default()),
                None => name.clone(),
            };
            bars.push(Bar { name, label, counts: vec![counts.permitted, counts.held, counts.refused] });
        }
        if rest.decisions() > 0 {
            let counts = vec![rest.permitted, rest.held, rest.refused];
            bars.push(Bar { name: "all others".to_owned(), label: "all others".to_owned(), counts });
        }
        Figures {
            id: "agents",
            title: "Decisions by agent".to_owned(),
            series: vec!["permitted", "held", "refused"],
            first: "agent",
            bars,
        }
    }
}

/// Who calls.
pub(super) async fn page(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    uri: Uri,
) -> Result<Response, Trouble> {
    let mut parameters = Parameters::of(&uri)?;
    let span = Span::of(&mut parameters)?;
    parameters.end()?;
    let now = doors.pipeline.clock.now();
    let seen = apart(&doors, move |doors| Seen::of(&doors.pipeline.ledger, now, span)).await?;
    let rows = seen.rows();
    let main = html! {
        h1 { "Agents" }
        (span.choice("/agents"))
        (how_far(seen.since))
        @if rows.is_empty() {
            p.none { "No agent has called, and none has a token. " code { "countersign agent token NAME" } " issues one." }
        } @else {
            (over_time(span.title(), &seen.hours, span).standing())
            (seen.by_agent().lying())
            (seen.decided.shown())
            h2 { "By agent" }
            div.scroll tabindex="0" role="region" aria-label="Agents" {
                table {
                    thead { tr {
                        th scope="col" { "agent" }
                        th.number scope="col" { "permitted" }
                        th.number scope="col" { "held" }
                        th.number scope="col" { "refused" }
                        th.number scope="col" { "failed" }
                        th.number scope="col" { "outcome unknown" }
                        th.number scope="col" { "holds open" }
                        th scope="col" { "last" }
                    } }
                    tbody {
                        @for (name, counts, open) in rows.iter().take(MOST) {
                            tr data-agent=(visible(name)) {
                                th scope="row" {
                                    @if name.is_empty() { "others" }
                                    @else { a href={ "/agents/" (segment(name)) } { (theirs(name)) } }
                                }
                                td.number { (grouped(counts.permitted)) }
                                td.number { (grouped(counts.held)) }
                                td.number { (grouped(counts.refused)) }
                                td.number { (grouped(counts.tool_error.saturating_add(counts.upstream_error))) }
                                td.number { (grouped(counts.unknown)) }
                                td.number { (grouped(*open)) }
                                td { @if let Some(at) = counts.last { (time(at)) } @else { "—" } }
                            }
                        }
                    }
                }
            }
            @if rows.len() > MOST { p.quiet { (rows.len() - MOST) " more agents are not shown." } }
        }
    };
    let page = Page { name: "agents", title: "Agents", section: "/agents", ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

/// What the page of an agent shows.
struct One {
    counts: Counts,
    hours: Vec<(Timestamp, Counts)>,
    since: Option<Timestamp>,
    holds: Vec<Record>,
    tokens: Vec<(String, crate::ledger::Token)>,
    newest: Vec<crate::ledger::Entry>,
}

impl One {
    fn of(ledger: &Ledger, agent: &str, now: Timestamp, span: Span) -> Result<Self, Fault> {
        let look = |summary: &Summary| {
            let hours = summary.hours(now, span.hours(), |hour| hour.agents.get(agent).cloned());
            (hours, summary.since(now, span.hours()))
        };
        let (hours, since) = ledger.summed(now, look)?;
        let mut counts = Counts::default();
        hours.iter().for_each(|(_, more)| counts.join(more));
        let holds = ledger.holds(|book| {
            let mut own: Vec<&Record> = book.iter().filter(|record| record.hold.agent == agent).collect();
            own.sort_unstable_by_key(|record| std::cmp::Reverse(record.hold.seq));
            own.into_iter().take(FEW).cloned().collect()
        });
        let views = ledger.views();
        let own = views.tokens().filter(|(_, token)| token.agent == agent && token.expires > now);
        let mut tokens: Vec<_> = own.map(|(id, token)| (id.to_owned(), token.clone())).collect();
        tokens.sort_by_key(|(_, token)| std::cmp::Reverse(token.expires));
        let filter = Filter { agent: Some(agent.to_owned()), ..Filter::default() };
        let (newest, _) = ledger.latest(&filter, FEW)?;
        Ok(Self { counts, hours, since, holds, tokens, newest })
    }

    fn is_empty(&self) -> bool {
        self.counts.last.is_none() && self.holds.is_empty() && self.tokens.is_empty() && self.newest.is_empty()
    }
}

/// One agent.
pub(super) async fn one(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    name: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Trouble> {
    let Path(name) = name.map_err(|_| Problem::NotFound)?;
    let mut parameters = Parameters::of(&uri)?;
    let span = Span::of(&mut parameters)?;
    parameters.end()?;
    let now = doors.pipeline.clock.now();
    let agent = name.clone();
    let seen = apart(&doors, move |doors| One::of(&doors.pipeline.ledger, &agent, now, span)).await?;
    let named = doors.pipeline.grants.load().agents().contains(name.as_str());
    if seen.is_empty() && !named {
        return Err(Trouble(Problem::NotFound));
    }
    let counts = &seen.counts;
    let main = html! {
        p.quiet { a href="/agents" { "Agents" } }
        h1 { "Agent " (theirs(&name)) }
        p {
            a href={ "/grants?agent=" (segment(&name)) } { "What it may do" } " · "
            a href={ "/ledger?agent=" (segment(&name)) } { "Its entries in the ledger" }
        }
        (span.choice(&format!("/agents/{}", segment(&name))))
        (how_far(seen.since))
        (over_time(span.title(), &seen.hours, span).standing())
        h2 { "How its calls ended" }
        dl.facts {
            dt { "well" } dd { (grouped(counts.ok)) }
            dt { "the tool failed" } dd { (grouped(counts.tool_error)) }
            dt { "the tool server failed" } dd { (grouped(counts.upstream_error)) }
            dt { "nobody knows" } dd { (grouped(counts.unknown)) }
            dt { "countersigned and run" } dd { (grouped(counts.countersigned)) }
        }
        @if !counts.codes.is_empty() {
            h2 { "Why it was refused" }
            div.scroll tabindex="0" role="region" aria-label="Why it was refused" { table {
                thead { tr { th scope="col" { "reason" } th.number scope="col" { "how often" } } }
                tbody {
                    @for (code, count) in &counts.codes {
                        tr {
                            th scope="row" { @if code.is_empty() { "others" } @else { code { (visible(code)) } } }
                            td.number { (grouped(*count)) }
                        }
                    }
                }
            } }
        }
        h2 { "Its newest holds" }
        @if seen.holds.is_empty() { p.none { "None is remembered." } } @else { (holds(&seen.holds)) }
        h2 { "Its tokens" }
        @if seen.tokens.is_empty() { p.none { "None that is good still." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Tokens" { table {
                thead { tr { th scope="col" { "token" } th scope="col" { "until" } th scope="col" { "state" } } }
                tbody {
                    @for (id, token) in seen.tokens.iter().take(FEW) {
                        tr {
                            th scope="row" { code { (visible(id)) } }
                            td { (time(token.expires)) }
                            td { @if token.revoked { span.bad { "revoked" } } @else { "good" } }
                        }
                    }
                }
            } }
            @if seen.tokens.len() > FEW { p.quiet { (seen.tokens.len() - FEW) " more are not shown." } }
        }
        h2 { "Its newest entries" }
        (entries::table(&seen.newest))
    };
    let title = format!("Agent {}", visible(&name));
    let page = Page { name: "agent", title: &title, section: "/agents", ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

/// Holds in a table.
fn holds(records: &[Record]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Holds" {
            table {
                thead { tr {
                    th scope="col" { "hold" } th scope="col" { "tool" } th scope="col" { "state" } th scope="col" { "opened" }
                } }
                tbody {
                    @for record in records {
                        tr {
                            th scope="row" { a href={ "/holds/" (record.hold.id) } { (record.hold.id) } }
                            td { (theirs(&record.hold.tool)) }
                            td { span.tag data-state=(record.phase.word()) { (record.phase.word()) } }
                            td { (time(record.hold.created)) }
                        }
                    }
                }
            }
        }
    }
}

/// What is left out, if anything is.
pub(super) fn how_far(since: Option<Timestamp>) -> Markup {
    html! {
        @if let Some(since) = since {
            p.warning data-since=(since) {
                "Counted from " (time(since)) " on: a look reads back over a bounded number of entries, and there are more."
            }
        }
    }
}
