//! A hold: everything that an approver has to see before deciding, in the order in which it is decided on: who asks for
//! what, every argument, what is different this time, who demands it, and only then the way to say yes.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use maud::{Markup, html};
use serde_json::Value;

use super::{
    Doors, Problem, Trouble, apart, decide,
    page::{self, Page, notice, segment},
    passkeys::Has,
    visitor::SignedIn,
    waiting::left,
};
use crate::{
    approver::Session,
    call::Fault,
    display::{Flag, visible},
    hold::{Drift, Hold, HoldId, Phase, Rejected},
    http::{
        api::holds::{Id, named},
        turn::Turn,
        view,
    },
};

/// Arguments of more bytes are long: their whole text is opened by hand, and whoever countersigns says that they did.
/// Shorter ones are never cut in their rows.
pub(super) const LONG: usize = 4 << 10;

/// Characters that are pointed out in one text, and in all rows together: browsers slow down with them. Beyond that they
/// are written out all the same.
const MARKS: usize = 2_000;
const MARKS_IN_ROWS: usize = 20_000;

/// Calls of the agent that are told.
const LATELY: usize = 8;

/// A hold as it is put on a page, and what makes that page what it is.
pub(super) struct Seen {
    /// What `view::whole` tells.
    facts: Value,
    /// The newest entry about it when the page was made.
    pub(super) as_of: u64,
    /// Bytes of its arguments, when they are long.
    pub(super) long: Option<usize>,
    /// Why the one who looks cannot countersign it, or cannot deny it.
    pub(super) cannot_approve: Option<String>,
    pub(super) cannot_deny: Option<String>,
    open: bool,
    deadline: i64,
    now: i64,
    /// What happened to it, and from where on somebody has not seen it yet.
    history: Vec<Value>,
    since: Option<u64>,
    /// The hold that the identical call has now.
    successor: Option<(Arc<Hold>, Arc<Hold>)>,
}

impl Seen {
    /// A text of ours or of others, made visible; empty where there is none.
    pub(super) fn text(&self, pointer: &str) -> String {
        visible(self.facts.pointer(pointer).and_then(Value::as_str).unwrap_or_default())
    }

    fn list(&self, pointer: &str) -> &[Value] {
        self.facts.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    fn number(&self, pointer: &str) -> u64 {
        self.facts.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
    }
}

/// A member's text, made visible.
fn said(value: &Value, name: &str) -> String {
    visible(raw(value, name))
}

/// A member's text that is visible already.
fn raw<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn count(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// One hold.
pub(super) async fn page(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    id: Id,
) -> Result<Response, Trouble> {
    let id = named(id)?;
    let turn = Turn::of(&who).await?;
    let seen = look(&doors, &who, &id, None).await?;
    let seen = seen.ok_or(Problem::Act(Rejected::UnknownHold))?;
    Ok(turn.lasts(made(&doors, &who, seen, None).await?))
}

/// The page, made where large arguments keep no worker from others.
pub(super) async fn made(
    doors: &Arc<Doors>,
    who: &Session,
    seen: Seen,
    problem: Option<Problem>,
) -> Result<Response, Fault> {
    let who = who.clone();
    apart(doors, move |doors| Ok(shown(doors, &who, &seen, problem.as_ref()))).await
}

/// Looks at a hold; what drifted or ran out is written down first. `since` is the newest entry that who looks knows of.
pub(super) async fn look(
    doors: &Arc<Doors>,
    who: &Session,
    id: &HoldId,
    since: Option<u64>,
) -> Result<Option<Seen>, Problem> {
    doors.pipeline.refresh_hold(id).await?;
    let (id, approver) = (id.clone(), who.approver.clone());
    let seen = apart(doors, move |doors| {
        let (pipeline, now) = (&doors.pipeline, doors.pipeline.clock.now());
        // looked at before the facts: a page may know more than its form says, never less
        let record = pipeline.ledger.holds(|book| {
            let record = book.get(&id)?.clone();
            let (digest, open) = (record.hold.digest, record.phase == Phase::Pending);
            let no = |may: Result<(), Rejected>| may.err().map(|why| why.to_string());
            let approve = no(book.may_vote(&id, &digest, &approver, now)).or(match open {
                true => None,
                false => Some("it needs no more countersignatures".to_owned()),
            });
            let deny = no(book.may_deny(&id, &digest, &approver, now));
            let successor = book.identical(record.hold.binding(), now).filter(|other| other.hold.id != id);
            let successor = successor.map(|other| (Arc::clone(&record.hold), Arc::clone(&other.hold)));
            Some((record, approve, deny, successor))
        });
        let Some((record, cannot_approve, cannot_deny, successor)) = record else { return Ok(None) };
        let Some(facts) = view::whole(pipeline, &id, &approver)? else { return Ok(None) };
        let mut history = Vec::new();
        for seq in record.after(record.hold.seq) {
            let entry = pipeline.ledger.entries(seq, 1)?.pop();
            let told = entry.and_then(|entry| serde_json::from_slice::<Value>(&entry.text).ok());
            history.extend(told.map(|mut entry| {
                if let Some(members) = entry.as_object_mut() {
                    members.insert("seq".to_owned(), seq.into());
                    let vote = record.votes.iter().find(|vote| vote.seq == seq);
                    members.insert("means".to_owned(), vote.map(|vote| vote.means.word()).into());
                }
                entry
            }));
        }
        let bytes = facts.pointer("/arguments/canonical").and_then(Value::as_str).map_or(0, str::len);
        let approved = record.phase == Phase::Approved;
        let deadline = if approved { record.hold.execute_by } else { record.hold.approve_by };
        Ok(Some(Seen {
            facts,
            as_of: record.newest(),
            long: (bytes > LONG).then_some(bytes),
            cannot_approve,
            cannot_deny,
            open: record.phase.is_open(),
            deadline: deadline.as_millisecond(),
            now: now.as_millisecond(),
            history,
            since,
            successor,
        }))
    });
    Ok(seen.await?)
}

/// The page.
fn shown(doors: &Doors, who: &Session, seen: &Seen, problem: Option<&Problem>) -> Response {
    let tool = seen.text("/tool");
    let main = html! {
        div.head {
            h1 { span.mono { (tool) } }
            p.live.quiet role="status" data-live="off" {}
        }
        @if let Some(problem) = problem { (notice(problem)) }
        (changed(seen))
        p.warning data-changed hidden role="alert" {
            "This hold has changed since you opened its page. " a href={ "/holds/" (seen.text("/id")) } { "Look again" } "."
        }
        (state(seen))
        (facts(seen))
        (arguments(seen))
        (difference(seen))
        (policies(seen))
        (progress(seen))
        (lately(seen))
        @if seen.open { (decide::forms(doors, who, seen)) }
        details.proof {
            summary { "What is signed" }
            p { "The entry of the ledger whose SHA-256 is the digest. It commits to the arguments." }
            pre.theirs data-entry { (marked(&seen.text("/entry"))) }
        }
    };
    let title = format!("{tool}: {}", seen.text("/state"));
    let signs = seen.open && !Has::of(doors, who).passkeys.is_empty();
    let scripts: &[&str] = if signs { &["hold.js", "passkey.js"] } else { &["hold.js"] };
    let page = Page { name: "hold", title: &title, section: "/waiting", scripts, ..Page::default() };
    let status = problem.map_or(StatusCode::OK, Problem::status);
    let mut response = page::signed_in(doors, who, status, &page, &main);
    if let Some(seconds) = problem.and_then(Problem::retry_after) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// What who looks has not seen yet, and where the call waits now.
fn changed(seen: &Seen) -> Markup {
    let new: Vec<&Value> =
        seen.history.iter().filter(|entry| seen.since.is_some_and(|since| count(entry, "seq") > since)).collect();
    html! {
        @if !new.is_empty() {
            section.warning data-since {
                p { "Since you opened its page:" }
                ul { @for entry in new { (happened(entry)) } }
            }
        }
        @if let Some((this, other)) = &seen.successor {
            section.warning data-successor=(other.id.as_str()) {
                p {
                    "The same call, with the same arguments, waits as "
                    a.mono href={ "/holds/" (segment(other.id.as_str())) } { (other.id.as_str()) } "."
                }
                @let differs = differs(this, other);
                @if !differs.is_empty() {
                    p { "What is different there:" }
                    ul { @for (what, before, after) in differs { li { (what) ": " (before) " → " (after) } } }
                }
            }
        }
    }
}

/// In what two holds of the identical call differ.
fn differs(this: &Hold, other: &Hold) -> Vec<(&'static str, String, String)> {
    let policies = |hold: &Hold| {
        let ids: Vec<String> = hold.policies.iter().map(|policy| visible(policy)).collect();
        ids.join(", ")
    };
    let demands = |hold: &Hold| {
        let each = hold
            .demands
            .iter()
            .map(|demand| format!("{} of {}{}", demand.approvals, visible(&demand.role), by(demand.assurance.word())));
        each.collect::<Vec<_>>().join(", ")
    };
    [
        ("contract", this.contract.to_string(), other.contract.to_string()),
        ("grants", this.grants.to_string(), other.grants.to_string()),
        ("policies", policies(this), policies(other)),
        ("countersignatures", demands(this), demands(other)),
        ("impact", visible(&this.impact.join(", ")), visible(&other.impact.join(", "))),
    ]
    .into_iter()
    .filter(|(_, before, after)| before != after)
    .collect()
}

/// One entry about the hold, in words.
fn happened(entry: &Value) -> Markup {
    let name = |member| said(entry, member);
    let what = match raw(entry, "kind") {
        "hold.approved" => {
            let means = entry.get("means").and_then(Value::as_str);
            format!("{} countersigned it{}", name("approver"), by(means))
        }
        "hold.denied" => format!("{} denied it: {}", name("approver"), name("reason")),
        "hold.expired" => "its time ran out".to_owned(),
        "hold.cancelled" => format!("withdrawn by the {}", name("by")),
        "hold.void" => format!("void ({}): {}", name("reason"), why_void(raw(entry, "reason"))),
        "hold.spent" => "it was run".to_owned(),
        "call.settled" => format!("its run ended: {}", name("outcome")),
        other => visible(other),
    };
    html! {
        li data-happened=(visible(raw(entry, "kind"))) {
            (what) ", " span.quiet { (moment(raw(entry, "at"))) " " a href={ "/ledger/" (count(entry, "seq")) } { "entry " (count(entry, "seq")) } }
        }
    }
}

/// By what means: nothing is said where any will do.
fn by(means: Option<&str>) -> String {
    means.map_or_else(String::new, |means| format!(" by {}", visible(means)))
}

fn why_void(code: &str) -> &'static str {
    match Drift::read(code) {
        Some(Drift::ContractChanged) => "the tool is not what it was",
        Some(Drift::PolicyChanged) => "the grants are others",
        Some(Drift::PrincipalRevoked) => "the agent's credential was revoked",
        Some(Drift::TaskEnded) => "the agent's task has ended",
        Some(Drift::ApproverRemoved) => "somebody who countersigned it is no approver for it any more",
        Some(Drift::NotPermitted) => "the grants, asked again, do not permit it",
        Some(Drift::PayloadMissing) => "its arguments are not kept any more",
        Some(Drift::LedgerDisagrees) | None => "the ledger disagrees",
    }
}

/// A time out of an entry, to the second.
fn moment(text: &str) -> Markup {
    match text.parse() {
        Ok(at) => page::time(at),
        Err(_) => html! { (visible(text)) },
    }
}

fn state(seen: &Seen) -> Markup {
    let word = seen.text("/state");
    html! {
        p.state data-state=(word) data-hold=(seen.text("/id")) data-as-of=(seen.as_of) data-now=(seen.now)
            data-deadline=[seen.open.then_some(seen.deadline)] {
            span.tag data-state=(word) { (word) } " "
            @match word.as_str() {
                "pending" => { "waits for a countersignature, " b data-left { (left(seen.deadline, seen.now)) } " left" },
                "approved" => { "countersigned; may be run once, " b data-left { (left(seen.deadline, seen.now)) } " left" },
                "spent" => { "it was run" },
                "denied" => { "by " (seen.text("/ended/by")) ": " (seen.text("/ended/reason")) },
                "expired" => { "nobody decided on it, or ran it, in time" },
                "cancelled" => { "withdrawn by the " (seen.text("/ended/by")) },
                "void" => { (why_void(&seen.text("/ended/code"))) },
                _ => {},
            }
            @if seen.open { " · " a href="#decide" { "Decide" } }
        }
    }
}

fn facts(seen: &Seen) -> Markup {
    let optional = |pointer| Some(seen.text(pointer)).filter(|text| !text.is_empty());
    html! {
        dl.facts {
            dt { "Agent" } dd data-agent { (seen.text("/agent")) }
            @if let Some(user) = optional("/user") { dt { "Acts for" } dd data-user { (user) } }
            @if let Some(task) = optional("/task") { dt { "Task" } dd { (task) } }
            (listed("Handed on to", "chain", seen.list("/chain"), true))
            @if let Some(workload) = optional("/workload") { dt { "Workload" } dd.mono data-workload { (workload) } }
            (listed("Teams", "teams", seen.list("/teams"), false))
            (listed("Scopes", "scopes", seen.list("/scopes"), false))
            (listed("Its credential is only for", "tools", seen.list("/only_tools"), false))
            @if let Some(assurance) = optional("/assurance") { dt { "Shown with" } dd data-assurance { (assurance) } }
            dt { "Vouched for by" } dd { (seen.text("/issuer")) ", by " (seen.text("/door")) }
            dt { "Tool" } dd { span.mono { (seen.text("/tool")) } " of " (seen.text("/upstream")) }
            dt { "Impact" } dd.tags {
                @for impact in seen.list("/impact").iter().filter_map(Value::as_str) {
                    span.tag data-impact=(visible(impact)) { (visible(impact)) }
                }
            }
            dt { "Asked" } dd { (moment(&seen.text("/created"))) }
            dt { "Hold" } dd.mono { (seen.text("/id")) }
            dt { "Digest" } dd.mono data-digest { (seen.text("/digest")) }
        }
    }
}

/// Texts of others, each by itself; nothing where there is none.
fn listed(what: &str, name: &str, texts: &[Value], ordered: bool) -> Markup {
    let texts: Vec<String> = texts.iter().filter_map(Value::as_str).map(visible).collect();
    html! {
        @if !texts.is_empty() {
            dt { (what) }
            dd.tags data-facts=(name) {
                @for (place, text) in texts.iter().enumerate() {
                    @if ordered && place > 0 { " then " }
                    span.tag { (text) }
                }
            }
        }
    }
}

fn arguments(seen: &Seen) -> Markup {
    let Some(arguments) = seen.facts.get("arguments").filter(|arguments| !arguments.is_null()) else {
        return html! {
            h2 { "Arguments" }
            p.warning { "They are not kept any more: nobody can see what would happen." }
        };
    };
    let more = count(arguments, "more");
    html! {
        h2 { "Arguments" }
        p.quiet { "Written by the agent. Each value by its path, as it will be sent." }
        @for word in list(arguments, "flags").iter().filter_map(Value::as_str) {
            p.warning data-flag=(word) { b { (word) } ": " (sentence(word)) "." }
        }
        ol.arguments {
            @for row in list(arguments, "rows") { (argument(row, in_each(list(arguments, "rows")))) }
        }
        @if more > 0 {
            p.warning data-more { (more) " more values are not shown in rows. The whole text has them." }
        }
        h3 { "The same as it is sent, every character" }
        @let text = told_apart(raw(arguments, "text"), list(arguments, "flags"), MARKS);
        @match seen.long {
            None => pre.theirs data-canonical dir="ltr" { (text) },
            Some(bytes) => details {
                summary { "The whole text, " (bytes) " bytes" }
                pre.theirs data-canonical dir="ltr" { (text) }
            },
        }
    }
}

/// How much is pointed out in each of so many rows.
fn in_each(rows: &[Value]) -> usize {
    (MARKS_IN_ROWS / rows.len().max(1)).min(MARKS)
}

/// One value: nothing that is in it can pass for a row, a note, or anything else of ours.
fn argument(row: &Value, most: usize) -> Markup {
    let path = match raw(row, "path") {
        "" => "(the whole)",
        path => path,
    };
    let flags = list(row, "flags");
    let odd = odd_letters(&format!("{path}{}", raw(row, "value")), flags);
    html! {
        li.argument data-argument-path=(path) {
            span.path.theirs dir="ltr" { (told_apart(path, flags, most)) }
            @if count(row, "path_cut") > 0 { span.note { (count(row, "path_cut")) " bytes of the path not shown" } }
            span.value.theirs dir="ltr" { (told_apart(raw(row, "value"), flags, most)) }
            @if count(row, "cut") > 0 { span.note data-cut=(count(row, "cut")) { (count(row, "cut")) " bytes not shown" } }
            @for word in flags.iter().filter_map(Value::as_str) {
                span.note { span.tag data-flag=(word) { (word) } " " (sentence(word)) }
            }
            @if !odd.is_empty() { span.note data-odd { (odd) } }
            @for host in list(row, "hosts") {
                span.note data-host=(raw(host, "ascii")) {
                    "host " span.theirs dir="ltr" { (raw(host, "ascii")) }
                    @if let Some(unicode) = host.get("unicode").and_then(Value::as_str) {
                        ", in letters " span.theirs dir="ltr" { (unicode) }
                    }
                }
            }
        }
    }
}

fn sentence(word: &str) -> &'static str {
    let flags = [Flag::MixedScript, Flag::Confusable, Flag::Bidi, Flag::Invisible, Flag::Control];
    flags.into_iter().find(|flag| flag.word() == word).map_or("", Flag::sentence)
}

/// A visible text with what is written out in it pointed out.
pub(super) fn marked(text: &str) -> Markup {
    told_apart(text, &[], MARKS)
}

/// The same, with every letter pointed out that is not plain where some are taken for others.
fn told_apart(text: &str, flags: &[Value], most: usize) -> Markup {
    html! {
        @for piece in pieces(text, is_deceptive(text, flags), most) {
            @match piece {
                Piece::Plain(text) => (text),
                Piece::Written(text) => mark { (text) },
                Piece::Odd(text) => mark.odd { (text) },
            }
        }
    }
}

/// Whether letters could be taken for others: some are, or a word has plain letters and others.
fn is_deceptive(text: &str, flags: &[Value]) -> bool {
    let words = [Flag::MixedScript.word(), Flag::Confusable.word()];
    let of_both = |word: &str| !word.is_ascii() && word.bytes().any(|byte| byte.is_ascii_alphabetic());
    flags.iter().filter_map(Value::as_str).any(|flag| words.contains(&flag))
        || text.split(|letter: char| letter.is_ascii() && !letter.is_ascii_alphanumeric()).any(of_both)
}

/// Which letters of a text are not plain, where some are taken for others: each with its number in Unicode.
fn odd_letters(text: &str, flags: &[Value]) -> String {
    const MOST: usize = 64;
    if !is_deceptive(text, flags) {
        return String::new();
    }
    let mut odd: Vec<char> = text.chars().filter(|letter| !letter.is_ascii()).collect();
    // letters of other scripts first: those are what Latin ones are meant to hide
    odd.sort_unstable_by_key(|letter| (u32::from(*letter) < 0x250, *letter));
    odd.dedup();
    let named = odd.iter().take(MOST).map(|letter| format!("{letter} is U+{:04X}", u32::from(*letter)));
    let more = if odd.len() > MOST { format!(", and {} more", odd.len() - MOST) } else { String::new() };
    format!("{}{more}", named.collect::<Vec<_>>().join(", "))
}

/// A piece of a visible text.
#[derive(Debug, PartialEq, Eq)]
enum Piece<'t> {
    /// As it is.
    Plain(&'t str),
    /// A character that is written out, as `<U+202E>`.
    Written(&'t str),
    /// Letters that are not ASCII.
    Odd(&'t str),
}

/// The text in pieces. After so many that are pointed out, the rest is one piece.
fn pieces(text: &str, odd: bool, most: usize) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut rest, mut marks) = (text, 0);
    while marks < most {
        let begins = |from: &str| written(from).is_some() || odd && from.starts_with(|letter: char| !letter.is_ascii());
        let at = rest.char_indices().map(|(at, _)| at).find(|at| rest.get(*at..).is_some_and(begins));
        let Some((before, tail)) = at.and_then(|at| rest.split_at_checked(at)) else { break };
        let length = written(tail);
        let end = length.unwrap_or_else(|| tail.find(|letter: char| letter.is_ascii()).unwrap_or(tail.len()));
        let Some((piece, after)) = tail.split_at_checked(end) else { break };
        pieces.extend((!before.is_empty()).then_some(Piece::Plain(before)));
        pieces.push(if length.is_some() { Piece::Written(piece) } else { Piece::Odd(piece) });
        (rest, marks) = (after, marks + 1);
    }
    pieces.extend((!rest.is_empty()).then_some(Piece::Plain(rest)));
    pieces
}

/// The length of the character that is written out where the text begins, if one is.
fn written(text: &str) -> Option<usize> {
    let rest = text.strip_prefix("<U+")?;
    let digits = rest.bytes().take(7).take_while(u8::is_ascii_hexdigit).count();
    let fits = (4..=6).contains(&digits) && rest.as_bytes().get(digits) == Some(&b'>');
    fits.then(|| digits + "<U+>".len())
}

fn difference(seen: &Seen) -> Markup {
    let Some(difference) = seen.facts.get("difference").filter(|difference| !difference.is_null()) else {
        return html! {
            h2 { "Different from last time" }
            p.quiet data-difference="none" {
                "No call of this tool by this agent was countersigned before, as far as is remembered."
            }
        };
    };
    let changes = list(difference, "changes");
    let like = said(difference, "hold");
    let most = in_each(changes);
    let side =
        |change: &Value, name: &str| change.get(name).and_then(Value::as_str).map(|text| told_apart(text, &[], most));
    html! {
        h2 { "Different from last time" }
        p.quiet { "Compared with " a.mono href={ "/holds/" (segment(&like)) } { (like) } ", the last one that was countersigned." }
        @if difference.get("readable") == Some(&Value::Bool(false)) {
            p.warning data-difference="unreadable" {
                "Its arguments are not kept any more: what is different is not known."
            }
        } @else if changes.is_empty() {
            p data-difference="same" { "Nothing: the arguments are the same." }
        } @else {
            div.scroll {
                table data-difference="some" {
                    thead { tr { th scope="col" { "Where" } th scope="col" { "Then" } th scope="col" { "Now" } } }
                    tbody {
                        @for change in changes {
                            @let pointer = raw(change, "pointer");
                            tr data-change=(pointer) {
                                td { span.theirs dir="ltr" { (marked(if pointer.is_empty() { "(the whole)" } else { pointer })) } }
                                @for name in ["before", "after"] {
                                    td.(name) {
                                        @match side(change, name) {
                                            Some(text) => span.theirs dir="ltr" { (text) },
                                            None => span.quiet { "nothing" },
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            @if count(difference, "more") > 0 {
                p.warning { (count(difference, "more")) " more differences are not shown." }
            }
        }
    }
}

fn policies(seen: &Seen) -> Markup {
    html! {
        h2 { "Held by" }
        div.scroll {
            table data-policies {
                thead { tr { th scope="col" { "Policy" } th scope="col" { "Needs" } th scope="col" { "Why" } } }
                tbody {
                    @for demand in seen.list("/demands") {
                        tr data-policy=(said(demand, "policy")) {
                            td.mono { (said(demand, "policy")) }
                            td {
                                (count(demand, "approvals")) " of " (said(demand, "role"))
                                (by(demand.get("assurance").and_then(Value::as_str)))
                            }
                            td { (said(demand, "reason")) }
                        }
                    }
                }
            }
        }
    }
}

fn progress(seen: &Seen) -> Markup {
    html! {
        h2 { "So far" }
        ul.plain data-votes {
            @for role in seen.list("/progress") {
                li data-role=(said(role, "role")) {
                    (count(role, "have")) " of " (count(role, "need")) " countersignatures of " (said(role, "role"))
                }
            }
        }
        @if !seen.history.is_empty() {
            ul.plain data-history { @for entry in &seen.history { (happened(entry)) } }
        }
    }
}

fn lately(seen: &Seen) -> Markup {
    let newest = seen.list("/lately/newest");
    let newest = newest.get(newest.len().saturating_sub(LATELY)..).unwrap_or_default();
    let counts = seen.facts.pointer("/lately/counts").and_then(Value::as_object);
    let counts: Vec<(String, u64)> =
        counts.into_iter().flatten().map(|(kind, count)| (visible(kind), count.as_u64().unwrap_or(0))).collect();
    html! {
        h2 { "This agent with this tool, in the last hour" }
        @if seen.facts.pointer("/lately/complete") == Some(&Value::Bool(false)) {
            p.warning { "Too much happened to look through all of the hour: this is its newest part." }
        }
        p.tags data-lately { @for (kind, count) in counts { span.tag { (kind) " " (count) } } }
        @if !newest.is_empty() {
            details {
                summary { "The newest of it" }
                ul.plain {
                    @for entry in newest.iter().rev() {
                        li {
                            (moment(raw(entry, "at"))) " " (said(entry, "kind")) " " (said(entry, "what")) " "
                            a href={ "/ledger/" (count(entry, "seq")) } { "entry " (count(entry, "seq")) }
                        }
                    }
                }
                @if seen.number("/lately/more") > 0 { p.quiet { (seen.number("/lately/more")) " earlier ones." } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_out_is_pointed_out_and_nothing_else() {
        let of = |text: &str| marked(text).into_string();
        assert_eq!(of("a<U+202E>b"), "a<mark>&lt;U+202E&gt;</mark>b");
        assert_eq!(of("<U+003C>U+202E>"), "<mark>&lt;U+003C&gt;</mark>U+202E&gt;");
        assert_eq!(of("<U+E0041><U+00AD>"), "<mark>&lt;U+E0041&gt;</mark><mark>&lt;U+00AD&gt;</mark>");
        for plain in ["", "a", "<U+", "<U+12>", "<U+é000>", "<U+zzzz>", "<U+1234567>", "<U+<U+"] {
            assert!(!of(plain).contains("<mark>"), "{plain}");
        }
        assert!(of("<U+<U+202E>").ends_with("<mark>&lt;U+202E&gt;</mark>"));
        // many of them are all written out, and not all of them are elements
        let many = "x<U+200B>".repeat(10_000);
        let out = of(&many);
        assert_eq!(out.matches("<mark>").count(), MARKS);
        assert_eq!(out.replace("<mark>", "").replace("</mark>", ""), many.replace('<', "&lt;").replace('>', "&gt;"));
    }

    #[test]
    fn whose_hands_it_came_through_is_shown_in_order_and_is_never_markup() {
        let chain = ["root\u{202e}", "<b>root/helper</b>"].map(Value::from);
        let out = listed("Handed on to", "chain", &chain, true).into_string();
        let expected = "<dt>Handed on to</dt><dd class=\"tags\" data-facts=\"chain\"><span class=\"tag\">root&lt;U+202E&gt;</span> then \
                        <span class=\"tag\">&lt;b&gt;root/helper&lt;/b&gt;</span></dd>";
        assert_eq!(out, expected);
        assert_eq!(listed("Scopes", "scopes", &[], false).into_string(), "");
    }

    #[test]
    fn a_letter_that_is_taken_for_another_is_pointed_out() {
        let row = |value: &str, flags: &[&str]| {
            argument(&serde_json::json!({"path": "/to", "value": value, "flags": flags}), MARKS)
        };
        let out = row("\"b\u{43e}b\"", &["mixed_script"]).into_string();
        assert!(out.contains("&quot;b<mark class=\"odd\">\u{43e}</mark>b&quot;"), "{out}");
        assert!(out.contains("\u{43e} is U+043E"), "{out}");
        let out = row("\"b\u{43e}<U+200B>b\"", &["confusable", "invisible"]).into_string();
        assert!(out.contains("<mark class=\"odd\">\u{43e}</mark><mark>&lt;U+200B&gt;</mark>b"), "{out}");
        let out = row("\"\u{43f}\u{440}\u{438}\"", &[]).into_string();
        assert!(!out.contains("<mark") && !out.contains("U+"), "a word of one script is left alone: {out}");
        let many: String = (0x4e00..0x4e80).filter_map(char::from_u32).collect();
        assert!(row(&many, &["mixed_script"]).into_string().contains("more"));
        // a letter of another script is named before any number of Latin ones
        let hidden = row("\"payp\u{430}l \u{e0}\u{e1}\u{e2}\"", &["mixed_script"]).into_string();
        assert!(hidden.contains("data-odd>\u{430} is U+0430, \u{e0} is"), "{hidden}");
        let marked = row("\"p\u{1ea1}ypal\"", &[]).into_string();
        assert!(marked.contains("\u{1ea1} is U+1EA1"), "plain letters and others in one word: {marked}");
        let expected = [
            Piece::Plain("ab"),
            Piece::Odd("\u{e9}\u{e8}"),
            Piece::Written("<U+200B>"),
            Piece::Odd("\u{e9}"),
            Piece::Plain("c"),
        ];
        assert_eq!(pieces("ab\u{e9}\u{e8}<U+200B>\u{e9}c", true, MARKS), expected);
        let mixed = "\u{e9}<U+200B>x".repeat(10_000);
        assert_eq!(pieces(&mixed, true, MARKS).len(), MARKS + MARKS / 2);
    }

    #[test]
    fn nothing_in_a_row_can_pass_for_markup_or_for_a_row() {
        let row = serde_json::json!({
            "path": "/a\"><li data-argument-path=\"/amount", "value": "\"</span><script>alert(1)</script>\"", "cut": 7,
            "flags": ["bidi"], "hosts": [{"ascii": "xn--e1awd7f.example", "unicode": "<b>"}],
        });
        let out = argument(&row, MARKS).into_string();
        assert_eq!(out.matches("<li").count(), 1, "{out}");
        assert!(!out.contains("<script") && !out.contains("<b>"), "{out}");
        assert!(out.contains("7 bytes not shown") && out.contains("data-flag=\"bidi\""), "{out}");
    }
}
