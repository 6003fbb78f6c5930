//! *Waiting*: every call that waits for a person, the one with the least time first.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::Response};
use maud::{Markup, html};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Doors, Problem, Trouble, apart,
    page::{Page, segment, signed_in},
    visitor::{Present, SignedIn},
};
use crate::{
    call::Fault,
    display::{Display, visible},
    hold::{HoldId, Phase, Record},
    http::view,
};

/// Holds of one page.
const MOST: usize = 1_000;

/// Values of its arguments that a row shows, characters of each, and the arguments that are looked at for it at all: a
/// row is to tell calls apart. What is decided on is on the hold's own page.
const VALUES: usize = 4;
const LETTERS: usize = 60;
const LOOKED_AT: usize = 16 << 10;

/// One row, as it is written into the page, and sent to one that is open.
#[derive(Serialize)]
pub(super) struct Row {
    hold: String,
    state: &'static str,
    tool: String,
    /// The agent, and whom it acts for.
    who: String,
    impact: Vec<String>,
    /// A few of the arguments: path and value.
    arguments: Vec<(String, String)>,
    /// What of the arguments the row does not show.
    rest: String,
    flags: Vec<&'static str>,
    /// Who has countersigned so far.
    progress: String,
    /// Whether who looks could countersign it.
    yours: bool,
    /// Milliseconds since 1970.
    deadline: i64,
}

/// The queue.
pub(super) async fn page(State(doors): State<Arc<Doors>>, SignedIn(who): SignedIn) -> Result<Response, Trouble> {
    let queue = queue(&doors, &who.approver).await?;
    let main = html! {
        div.head {
            h1 { "Waiting" }
            p.live.quiet role="status" data-live="off" {}
            button type="button" data-notify hidden { "Notify me" }
        }
        p.quiet data-empty hidden[!queue.rows.is_empty()] { "Nothing waits for a countersignature." }
        ol.queue data-queue data-now=(queue.now) data-size=(queue.size) {
            @for row in &queue.rows { (shown(row, queue.now)) }
        }
        p.quiet data-more hidden[queue.more == 0] { span { (queue.more) } " more wait than are shown here." }
        template #row { (shown(&Row::none(), 0)) }
    };
    let title = if queue.pending > 0 { format!("({}) Waiting", queue.pending) } else { "Waiting".to_owned() };
    let page =
        Page { name: "waiting", title: &title, section: "/waiting", scripts: &["waiting.js"], ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

/// The same for the page's script, which missed something.
pub(super) async fn rows(State(doors): State<Arc<Doors>>, Present(who): Present) -> Result<Json<Value>, Problem> {
    let Queue { rows, more, now, size, pending } = queue(&doors, &who.approver).await?;
    Ok(Json(json!({"rows": rows, "more": more, "now": now, "size": size, "pending": pending})))
}

/// The row of one hold, while it is open.
pub(super) async fn row(doors: &Arc<Doors>, approver: &str, id: &HoldId) -> Option<Row> {
    let now = doors.pipeline.clock.now();
    let found = doors.pipeline.ledger.holds(|book| {
        let record = book.get(id).filter(|record| record.phase.is_open())?;
        Some((record.clone(), view::hold(book, record, approver, now)))
    });
    let (record, facts) = found?;
    let made = apart(doors, move |doors| Ok(Row::of(doors, &record, &facts))).await;
    made.inspect_err(|fault| tracing::error!(%fault, "a row cannot be made")).ok()
}

struct Queue {
    rows: Vec<Row>,
    more: usize,
    now: i64,
    size: u64,
    pending: usize,
}

async fn queue(doors: &Arc<Doors>, approver: &str) -> Result<Queue, Fault> {
    let approver = approver.to_owned();
    apart(doors, move |doors| {
        let ledger = &doors.pipeline.ledger;
        // first the size: a page that missed something looks again
        let (size, now) = (ledger.size(), doors.pipeline.clock.now());
        let (records, more, pending) = ledger.holds(|book| {
            let mut open: Vec<&Record> = book.iter().filter(|record| record.phase.is_open()).collect();
            open.sort_unstable_by_key(|record| {
                (record.phase == Phase::Approved, record.hold.approve_by, record.hold.id.clone())
            });
            let more = open.len().saturating_sub(MOST);
            (open.into_iter().take(MOST).cloned().collect::<Vec<_>>(), more, book.counts().pending)
        });
        let facts = |record| ledger.holds(|book| view::hold(book, record, &approver, now));
        let rows = records.iter().map(|record| Row::of(doors, record, &facts(record))).collect();
        Ok(Queue { rows, more, now: now.as_millisecond(), size, pending })
    })
    .await
}

impl Row {
    fn of(doors: &Doors, record: &Record, facts: &Value) -> Self {
        let hold = &record.hold;
        let (arguments, rest, flags) = few(doors, record);
        let who = match &hold.user {
            Some(user) => format!("{} for {}", visible(&hold.agent), visible(user)),
            None => visible(&hold.agent),
        };
        let progress = facts.get("progress").and_then(Value::as_array).into_iter().flatten().map(|role| {
            let number = |name: &str| role.get(name).and_then(Value::as_u64).unwrap_or_default();
            let name = role.get("role").and_then(Value::as_str).unwrap_or_default();
            format!("{} of {} {}", number("have"), number("need"), visible(name))
        });
        let deadline = if record.phase == Phase::Approved { hold.execute_by } else { hold.approve_by };
        Self {
            hold: hold.id.to_string(),
            state: record.phase.word(),
            tool: visible(&hold.tool),
            who,
            impact: hold.impact.iter().map(|impact| visible(impact)).collect(),
            arguments,
            rest,
            flags,
            progress: progress.collect::<Vec<_>>().join(", "),
            yours: facts.pointer("/you/cannot_approve").is_some_and(Value::is_null),
            deadline: deadline.as_millisecond(),
        }
    }

    /// What rows that come later are made from.
    fn none() -> Self {
        Self {
            hold: String::new(),
            state: "pending",
            tool: String::new(),
            who: String::new(),
            impact: Vec::new(),
            arguments: Vec::new(),
            rest: String::new(),
            flags: Vec::new(),
            progress: String::new(),
            yours: false,
            deadline: 0,
        }
    }
}

/// A few arguments of a call, what of them is left out, and what may deceive in them.
fn few(doors: &Doors, record: &Record) -> (Vec<(String, String)>, String, Vec<&'static str>) {
    let unread = |why: String| (Vec::new(), why, Vec::new());
    let bytes = match doors.pipeline.ledger.held_arguments(&record.hold) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return unread("the arguments are not kept".to_owned()),
        Err(fault) => {
            tracing::error!(hold = %record.hold.id, %fault, "the arguments of a hold cannot be read");
            return unread("the arguments cannot be read".to_owned());
        }
    };
    if bytes.len() > LOOKED_AT {
        return unread(format!("{} KiB of arguments: open it to read them", bytes.len() >> 10));
    }
    let Ok(display) = Display::of(&bytes) else { return unread("the arguments cannot be read".to_owned()) };
    let total = display.rows.len() + display.more;
    let mut rows: Vec<_> = display.rows.iter().collect();
    // what may deceive, then what is nearest to the top, short ones first: amounts, names, paths
    rows.sort_by_key(|row| (row.flags.is_empty(), row.path.matches('/').count(), row.value.len() > LETTERS));
    let few: Vec<_> = rows.iter().take(VALUES).map(|row| (short(&row.path), short(&row.value))).collect();
    let rest = total.saturating_sub(few.len());
    let rest = if rest > 0 { format!("and {rest} more") } else { String::new() };
    (few, rest, display.flags.iter().map(|flag| flag.word()).collect())
}

/// The beginning of a text that is visible already; it says where it is cut.
fn short(text: &str) -> String {
    let end = text.char_indices().nth(LETTERS).map(|(at, _)| at);
    match end.and_then(|end| text.get(..end)) {
        Some(start) => format!("{start}… ({} bytes more)", text.len() - start.len()),
        None => text.to_owned(),
    }
}

/// How long it still has, as the script writes it too.
pub(super) fn left(deadline: i64, now: i64) -> String {
    let seconds = (deadline - now).max(0) / 1_000;
    match seconds {
        0 => "over".to_owned(),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn shown(row: &Row, now: i64) -> Markup {
    html! {
        li.row data-hold=(row.hold) data-state=(row.state) data-yours=(row.yours) data-deadline=(row.deadline) {
            a.open href={ "/holds/" (segment(&row.hold)) } { span.mono data-fill="tool" { (row.tool) } }
            span.tags.impact data-fill="impact" {
                @for impact in &row.impact { span.tag data-impact=(impact) { (impact) } }
            }
            span.left data-fill="left" { (left(row.deadline, now)) }
            span.who data-fill="who" { (row.who) }
            span.progress.quiet data-fill="progress" { (row.progress) }
            span.few data-fill="arguments" {
                @for (path, value) in &row.arguments {
                    span.theirs { b { (path) } " " (value) }
                }
            }
            span.rest.quiet data-fill="rest" { (row.rest) }
            span.tags.flags data-fill="flags" { @for flag in &row.flags { span.tag data-flag=(flag) { (flag) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(short("250"), "250");
        assert_eq!(short(&"é".repeat(60)), "é".repeat(60));
        assert_eq!(short(&"é".repeat(61)), format!("{}… (2 bytes more)", "é".repeat(60)));
    }

    #[test]
    fn the_time_left_is_never_more_than_it_is() {
        let table = [
            (0, "over"),
            (-5_000, "over"),
            (999, "over"),
            (1_000, "1 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_199_999, "119 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 days"),
        ];
        for (left_ms, expected) in table {
            assert_eq!(left(1_000_000 + left_ms, 1_000_000), expected, "{left_ms}");
        }
    }
}
