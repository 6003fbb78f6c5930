//! *Ledger*: search, one entry with its proof, and everything as a file.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::stream;
use maud::{Markup, html};
use tokio::sync::mpsc;

use super::{
    Doors, Problem, Trouble, apart, entries,
    hold::marked,
    page::{Page, segment, signed_in, theirs},
    picture::grouped,
    verifying,
    visitor::SignedIn,
};
use crate::{
    call::Fault,
    clock::Timestamp,
    display::{Display, visible},
    http::api::form::{Parameters, number},
    ledger::{Entry, Filter, Ledger},
};

/// Entries on one page.
const PAGE: usize = 50;
/// The longest text that is looked for.
const LONGEST: usize = 256;
/// Entries of an export that are read at once, and those pieces that may wait for a slow reader.
const CHUNK: usize = 512;
const AHEAD: usize = 2;
/// How long a reader of an export may take for one piece.
const PATIENCE: Duration = Duration::from_secs(60);

/// Kinds to choose from; one that ends in a full stop stands for all that begin so.
const KINDS: [&str; 34] = [
    "call.",
    "call.intended",
    "call.settled",
    "call.refused",
    "call.held",
    "hold.",
    "hold.approved",
    "hold.denied",
    "hold.expired",
    "hold.cancelled",
    "hold.void",
    "hold.spent",
    "approver.",
    "approver.added",
    "approver.enrolled",
    "approver.removed",
    "approver.signed_in",
    "token.",
    "token.issued",
    "token.revoked",
    "task.ended",
    "tool.",
    "tool.registered",
    "tool.quarantined",
    "tool.accepted",
    "tool.rejected",
    "credential.",
    "credential.leased",
    "credential.connected",
    "credential.disconnected",
    "policy.loaded",
    "server.",
    "payload.redacted",
    "freeze.",
];

/// What is looked for, as the form has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sought {
    agent: String,
    tool: String,
    kind: String,
    outcome: String,
    text: String,
    since: String,
    until: String,
    before: Option<u64>,
}

impl Sought {
    fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut parameters = Parameters::of(uri)?;
        let mut text = |name: &str| parameters.text(name).map(Option::unwrap_or_default);
        let sought = Self {
            agent: text("agent")?,
            tool: text("tool")?,
            kind: text("kind")?,
            outcome: text("outcome")?,
            text: text("text")?,
            since: text("since")?,
            until: text("until")?,
            before: parameters.number("before")?,
        };
        parameters.end()?;
        let Self { agent, tool, kind, outcome, text, since, until, .. } = &sought;
        if [agent, tool, kind, outcome, text, since, until].iter().any(|text| text.len() > LONGEST) {
            return Err(Problem::Invalid(format!("what is looked for may have {LONGEST} bytes")));
        }
        Ok(sought)
    }

    fn filter(&self) -> Result<Filter, Problem> {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Ok(Filter {
            agent: given(&self.agent),
            tool: given(&self.tool),
            kind: given(&self.kind),
            outcome: given(&self.outcome),
            text: given(&self.text),
            since: moment("since", &self.since)?,
            until: moment("until", &self.until)?,
            before: self.before,
        })
    }

    /// The address of a page of the same search.
    fn page(&self, before: u64) -> String {
        let Self { agent, tool, kind, outcome, text, since, until, .. } = self;
        let mut query = format!("/ledger?before={before}");
        for (name, value) in [
            ("agent", agent),
            ("tool", tool),
            ("kind", kind),
            ("outcome", outcome),
            ("text", text),
            ("since", since),
            ("until", until),
        ] {
            if !value.is_empty() {
                query.push_str(&format!("&{name}={}", segment(value)));
            }
        }
        query
    }

    fn form(&self) -> Markup {
        let field = |name: &'static str, label: &str, value: &str, hint: &str| {
            html! {
                div {
                    label for=(name) { (label) }
                    input id=(name) name=(name) value=(value) placeholder=(hint) maxlength=(LONGEST) spellcheck="false"
                        autocapitalize="none" autocomplete="off";
                }
            }
        };
        html! {
            form.search method="get" action="/ledger" role="search" {
                (field("agent", "Agent", &self.agent, ""))
                (field("tool", "Tool", &self.tool, "bank__transfer"))
                div {
                    label for="kind" { "Kind" }
                    select #kind name="kind" {
                        option value="" { "every kind" }
                        @for kind in KINDS {
                            option value=(kind) selected[self.kind == kind] {
                                @if let Some(all) = kind.strip_suffix('.') { "every " (all) } @else { (kind) }
                            }
                        }
                        @if !self.kind.is_empty() && !KINDS.contains(&self.kind.as_str()) {
                            option value=(self.kind) selected { (visible(&self.kind)) }
                        }
                    }
                }
                (field("outcome", "Outcome or reason", &self.outcome, "ok, unknown, not_granted"))
                (field("text", "Text", &self.text, "as it is written in the entry"))
                (field("since", "Not before (UTC)", &self.since, "2026-11-21 09:00"))
                (field("until", "Before (UTC)", &self.until, "2026-11-21 17:00"))
                div { button type="submit" { "Search" } }
            }
        }
    }
}

/// A time as people write it: UTC unless it says otherwise; a day is its beginning.
fn moment(name: &str, text: &str) -> Result<Option<Timestamp>, Problem> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Some(at));
    }
    let civil = text.parse::<jiff::civil::DateTime>();
    let at = civil.ok().and_then(|civil| civil.to_zoned(jiff::tz::TimeZone::UTC).ok()).map(|zoned| zoned.timestamp());
    let what =
        || Problem::Invalid(format!("`{name}` has to be a time like `2026-11-21 09:00` or `2026-11-21T09:00:00Z`"));
    at.map(Some).ok_or_else(what)
}

/// Search.
pub(super) async fn page(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    uri: Uri,
) -> Result<Response, Trouble> {
    let sought = Sought::of(&uri)?;
    let filter = sought.filter()?;
    let look = move |doors: &Doors| doors.pipeline.ledger.latest(&filter, PAGE);
    let (found, next) = apart(&doors, look).await?;
    let size = doors.pipeline.ledger.size();
    let main = html! {
        h1 { "Ledger" }
        div.acts {
            (verifying::button(&who))
            a.button href="/ledger/export" download { "Export" }
            a href="/ledger/verify" { "The last verification" }
        }
        (sought.form())
        (entries::table(&found))
        p.quiet data-size=(size) {
            "The ledger has " (grouped(size)) " entries; the newest come first. "
            @if next.is_some() && found.len() < PAGE {
                "One page looks through a bounded number of them: there are older ones."
            }
        }
        @if let Some(before) = next {
            p { a rel="next" href=(sought.page(before)) { "Older entries" } }
        } @else {
            p.quiet { "That is all." }
        }
    };
    let page = Page { name: "ledger", title: "Ledger", section: "/ledger", ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

/// What the page of an entry shows.
struct Shown {
    entry: Entry,
    display: Display,
    /// Other entries of the same call or hold.
    related: Vec<Entry>,
    size: u64,
}

fn shown(ledger: &Ledger, seq: u64) -> Result<Shown, Fault> {
    let missing = || Fault(format!("the store is damaged: entry {seq} is missing"));
    let entry = ledger.entries(seq, 1)?.pop().ok_or_else(missing)?;
    let display = Display::of(&entry.text).map_err(|_| Fault(format!("entry {seq} cannot be read")))?;
    let whole = entries::members(&entry);
    let mut related = Vec::new();
    // the id of a call or hold is in every entry about it; what lies far away is looked for by hand
    if let Some(id) = entries::member(&whole, "hold").or_else(|| entries::member(&whole, "call")) {
        let filter = Filter { text: Some(id.to_owned()), ..Filter::default() };
        let before = Filter { before: Some(seq), ..filter.clone() };
        related = ledger.latest(&before, PAGE)?.0;
        related.reverse();
        related.extend(ledger.select(&filter, seq.saturating_add(1), PAGE)?.0);
    }
    Ok(Shown { entry, display, related, size: ledger.size() })
}

/// One entry.
pub(super) async fn entry(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    seq: Result<Path<String>, PathRejection>,
) -> Result<Response, Trouble> {
    let ledger = &doors.pipeline.ledger;
    let seq = seq.ok().and_then(|Path(text)| number(&text)).filter(|seq| *seq < ledger.size());
    let seq = seq.ok_or(Problem::EntryUnknown)?;
    let Shown { entry, display, related, size } =
        apart(&doors, move |doors| shown(&doors.pipeline.ledger, seq)).await?;
    let proof = ledger.prove(seq).await?;
    let whole = entries::members(&entry);
    let kind = entries::member(&whole, "kind").unwrap_or("unreadable");
    let id = entries::member(&whole, "hold").or_else(|| entries::member(&whole, "call"));
    let main = html! {
        p.quiet { a href="/ledger" { "Ledger" } }
        h1 { "Entry " (seq) ": " code { (visible(kind)) } }
        p {
            @if seq > 0 { a rel="prev" href={ "/ledger/" (seq - 1) } { "Before it" } " " }
            @if seq + 1 < size { a rel="next" href={ "/ledger/" (seq + 1) } { "After it" } " " }
            @if let Some(hold) = entries::member(&whole, "hold") { a href={ "/holds/" (segment(hold)) } { "The hold" } }
        }
        table.rows {
            caption { "What it says" }
            tbody {
                @for row in &display.rows {
                    tr data-argument-path=(row.path) {
                        th scope="row" { code { (row.path) } }
                        td {
                            span.theirs.value dir="ltr" { (marked(&row.value)) }
                            @if row.cut > 0 { " " span.quiet { (row.cut) " bytes not shown" } }
                            @for flag in &row.flags { " " span.tag data-flag=(flag.word()) title=(flag.sentence()) { (flag.word()) } }
                        }
                    }
                }
            }
        }
        h2 { "As it is hashed" }
        pre.theirs data-canonical dir="ltr" { (marked(&display.text)) }
        h2 { "Proof of inclusion" }
        p.quiet {
            "A C2SP " code { "tlog-proof" } ": with the entry as it is hashed and the log's key it shows that the entry is in the log, without the log.
             The key: " code { (ledger.verifier_key().trim_end()) }
        }
        pre.theirs data-proof dir="ltr" { (proof) }
        @if let Some(id) = id {
            h2 { "About the same" }
            @if related.is_empty() { p.none { "Nothing near it in the log." } } @else { (entries::table(&related)) }
            p { a href={ "/ledger?text=" (segment(id)) } { "Look for " (theirs(id)) } }
        }
    };
    let title = format!("Entry {seq}");
    let page = Page { name: "entry", title: &title, section: "/ledger", ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

/// Every entry that there is now, a line each, as `countersign ledger export` writes them.
pub(super) async fn export(State(doors): State<Arc<Doors>>, SignedIn(who): SignedIn) -> Result<Response, Trouble> {
    let turn = Arc::clone(&doors.desk.exports).try_acquire_owned().map_err(|_| Problem::TooManyExports)?;
    let ledger = doors.pipeline.ledger.clone();
    let (size, mut stop) = (ledger.size(), doors.stop.clone());
    let (pieces, mut reader) = mpsc::channel::<Result<Bytes, std::io::Error>>(AHEAD);
    // ends with its reader, when that takes too long, and when the server stops
    tokio::spawn(async move {
        let _turn = turn;
        let mut at = 0;
        while at < size {
            let ledger = ledger.clone();
            let most = CHUNK.min(usize::try_from(size - at).unwrap_or(CHUNK));
            let read = tokio::task::spawn_blocking(move || ledger.entries(at, most)).await;
            let piece = match read {
                Ok(Ok(entries)) if !entries.is_empty() => {
                    at += entries.len() as u64;
                    Ok(Bytes::from(entries.iter().flat_map(Entry::to_line).collect::<Vec<u8>>()))
                }
                // the download breaks off: a file that ends early must not pass for a whole one
                _ => Err(std::io::Error::other("the ledger cannot be read")),
            };
            let broken = piece.is_err();
            let sent = tokio::select! {
                sent = tokio::time::timeout(PATIENCE, pieces.send(piece)) => matches!(sent, Ok(Ok(()))),
                _ = stop.wait_for(|stop| *stop) => false,
            };
            if broken || !sent {
                return;
            }
        }
        // an empty piece says that it is whole
        let _gone = tokio::time::timeout(PATIENCE, pieces.send(Ok(Bytes::new()))).await;
    });
    tracing::info!(approver = who.approver, entries = size, "the ledger is exported");
    let mut whole = false;
    let lines = stream::poll_fn(move |context| {
        reader.poll_recv(context).map(|piece| match piece {
            Some(Ok(piece)) => {
                whole |= piece.is_empty();
                Some(Ok(piece))
            }
            Some(Err(error)) => Some(Err(error)),
            None if whole => None,
            None => Some(Err(std::io::Error::other("the export was cut short"))),
        })
    });
    let headers = [
        (header::CONTENT_TYPE, "application/jsonl".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"ledger-{size}.jsonl\"")),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_read_strictly_and_keeps_its_words_from_page_to_page() {
        let of = |query: &str| Sought::of(&format!("/ledger{query}").parse::<Uri>().unwrap());
        let sought = of("?agent=a%26b&tool=&kind=call.&text=%22%3E%3Cb%3E&since=2026-11-21&before=7").unwrap();
        assert_eq!((sought.agent.as_str(), sought.tool.as_str(), sought.before), ("a&b", "", Some(7)));
        let filter = sought.filter().unwrap();
        assert_eq!((filter.tool, filter.kind.as_deref()), (None, Some("call.")));
        assert_eq!(filter.since, "2026-11-21T00:00:00Z".parse().ok());
        let next = sought.page(3);
        let again = Sought::of(&next.parse::<Uri>().unwrap()).unwrap();
        assert_eq!(again, Sought { before: Some(3), ..sought.clone() });
        let form = sought.form().into_string();
        assert!(!form.contains("<b>") && form.contains("value=\"&quot;&gt;&lt;b&gt;\""), "{form}");
        for wrong in
            ["?agent=a&agent=b", "?nothing=1", "?before=x", "?since=yesterday", &format!("?text={}", "x".repeat(257))]
        {
            assert!(of(wrong).and_then(|sought| sought.filter()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("2026-11-21T09:00:00Z", "2026-11-21T09:00:00Z"),
            ("2026-11-21T09:00:00+01:00", "2026-11-21T08:00:00Z"),
            ("2026-11-21 09:00", "2026-11-21T09:00:00Z"),
            ("2026-11-21T09:00", "2026-11-21T09:00:00Z"),
            (" 2026-11-21 ", "2026-11-21T00:00:00Z"),
        ] {
            assert_eq!(moment("since", text).unwrap(), expected.parse().ok(), "{text}");
        }
        assert_eq!(moment("since", "").unwrap(), None);
        assert!(moment("since", "09:00").is_err());
    }
}
