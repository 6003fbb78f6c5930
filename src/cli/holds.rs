//! `hold …`: calls that wait for a person, looked at and decided.

use std::sync::Arc;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Place, control,
    outcome::{Exit, Failure},
    request::{PAGE, Request, Typed, no_server},
    show::{self, field, items, table},
    terminal::Terminal,
};
use crate::{
    approver::{NotDone, NotEnrolled, Passphrase, Way},
    display::{Display, visible, wrap},
    hold::{HoldId, Record, Rejected},
    http::view,
    json::Digest,
    ledger::NotChanged,
    server::House,
};

/// Holds of one list.
const MOST: usize = 1_000;
/// Columns of what is not shown on a terminal.
const COLUMNS: usize = 110;

#[derive(Debug, Subcommand)]
pub(super) enum HoldCommand {
    /// Calls that wait for a person, the newest first
    #[command(after_help = "Examples:\n  countersign hold list\n  countersign hold list --state denied --json")]
    List {
        /// pending, approved, spent, denied, expired, cancelled, void; open for the first two, all for every one
        #[arg(long, default_value = "open")]
        state: String,
        /// How many at most
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Everything that an approver has to see of a hold before deciding
    #[command(
        after_help = "Examples:\n  countersign hold show hold_01JD…\n  countersign hold show hold_01JD… --as maria --json"
    )]
    Show {
        /// Its id
        hold: String,
        /// Who looks; without, the one approver who could countersign it
        #[arg(long = "as", value_name = "NAME")]
        approver: Option<String>,
    },
    /// Look at a hold and countersign it: asks for the passphrase on the terminal
    #[command(
        after_help = "Examples:\n  countersign hold approve hold_01JD…\n  countersign hold approve hold_01JD… --as maria\n\n\
                      The passphrase is typed at the terminal, never given by argument, environment or pipe.\nExits \
                      with 1 when it is refused or broken off."
    )]
    Approve {
        /// Its id
        hold: String,
        /// Who countersigns; without, the one approver who could
        #[arg(long = "as", value_name = "NAME")]
        approver: Option<String>,
    },
    /// Say no to a hold: the agent is told why, and asking again is no use until it would have expired
    #[command(after_help = "Example:\n  countersign hold deny hold_01JD… --reason 'not before the invoice is in'")]
    Deny {
        /// Its id
        hold: String,
        /// Why, for the agent
        #[arg(long)]
        reason: String,
        /// Who denies; without, the one approver who could
        #[arg(long = "as", value_name = "NAME")]
        approver: Option<String>,
    },
    /// Withdraw a hold, as its agent could
    #[command(after_help = "Example:\n  countersign hold cancel hold_01JD…")]
    Cancel {
        /// Its id
        hold: String,
    },
    /// The open holds, and what becomes of holds from now on, until interrupted
    #[command(after_help = "Examples:\n  countersign hold watch\n  countersign hold watch --json")]
    Watch,
}

pub(super) async fn run(place: &Place, command: HoldCommand) -> Result<Exit, Failure> {
    match command {
        HoldCommand::List { state, limit } => {
            let answer = place.ask(Request::ListHolds { state, most: limit }).await?;
            if place.json {
                items(&answer, "holds").iter().for_each(|hold| show::line(&hold.to_string()));
            } else {
                show::text(&listed(&answer));
            }
            Ok(Exit::Done)
        }
        HoldCommand::Show { hold, approver } => {
            let answer = place.ask(Request::ShowHold { hold, approver }).await?;
            place.answer(&answer, |answer| shown(answer, COLUMNS));
            Ok(Exit::Done)
        }
        HoldCommand::Approve { hold, approver } => {
            let mut terminal = Terminal::open()?;
            let seen = place.ask(Request::ShowHold { hold: hold.clone(), approver }).await?;
            let approver = decider(&seen, "cannot_approve")?;
            let question = format!("\nPassphrase of {approver}, to countersign this (nothing to break off): ");
            let passphrase = ask(&mut terminal, &seen, &question)?;
            let digest = field(&seen, "digest").to_owned();
            let answer = place.ask(Request::ApproveHold { hold, digest, approver, passphrase }).await?;
            place.answer(&answer, approved);
            Ok(Exit::Done)
        }
        HoldCommand::Deny { hold, reason, approver } => {
            let mut terminal = Terminal::open()?;
            let seen = place.ask(Request::ShowHold { hold: hold.clone(), approver }).await?;
            let approver = decider(&seen, "cannot_deny")?;
            let question = format!("\nPassphrase of {approver}, to deny this (nothing to break off): ");
            let passphrase = ask(&mut terminal, &seen, &question)?;
            let digest = field(&seen, "digest").to_owned();
            let answer = place.ask(Request::DenyHold { hold, digest, approver, passphrase, reason }).await?;
            place.answer(&answer, |answer| format!("denied {}; the agent is told why", field(answer, "hold")));
            Ok(Exit::Done)
        }
        HoldCommand::Cancel { hold } => {
            let answer = place.ask(Request::CancelHold { hold }).await?;
            place.answer(&answer, |answer| format!("withdrew {}", field(answer, "hold")));
            Ok(Exit::Done)
        }
        HoldCommand::Watch => watch(place).await,
    }
}

/// Who decides, once it is known that they may.
fn decider(seen: &Value, barred: &str) -> Result<String, Failure> {
    let approver = field(seen, "approver");
    if approver.is_empty() {
        let able = items(seen, "candidates").iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
        let failure = Failure::new(Exit::Cannot, "it is not said who decides");
        return Err(if able.is_empty() {
            failure.hint("`countersign approver list` shows who could: say which with --as NAME")
        } else {
            failure.hint(format!("say which of these with --as NAME: {able}"))
        });
    }
    let why = seen.pointer(&format!("/you/{barred}")).and_then(Value::as_str);
    match why {
        None => Ok(approver.to_owned()),
        Some(code) => {
            let sentence = seen.pointer("/you/why").and_then(Value::as_str).unwrap_or("that cannot be done");
            Err(Failure::new(Exit::No, format!("{sentence} ({code})")))
        }
    }
}

/// Shows the hold on the terminal, and asks there.
fn ask(terminal: &mut Terminal, seen: &Value, question: &str) -> Result<Typed, Failure> {
    let entry = field(seen, "entry");
    if Digest::of(entry.as_bytes()).to_string() != field(seen, "digest") {
        return Err(Failure::new(Exit::Fault, "the hold's digest is not that of its entry: nothing was done"));
    }
    if seen.get("arguments").is_none_or(Value::is_null) {
        return Err(Failure::new(Exit::No, "the arguments were redacted: nobody can see what would happen")
            .hint("`countersign hold cancel` withdraws it"));
    }
    terminal.show(&shown(seen, terminal.columns()))?;
    tokio::task::block_in_place(|| terminal.secret(question)).map(Typed::new)
}

async fn watch(place: &Place) -> Result<Exit, Failure> {
    let config = place.config()?;
    let Some(mut server) = control::connect(&config).await? else { return Err(no_server()) };
    // first from where, then what is there: so that nothing falls between
    let size = server.ask(&Request::LedgerSize).await?.get("size").and_then(Value::as_u64).unwrap_or_default();
    let open = server.ask(&Request::ListHolds { state: "open".to_owned(), most: MOST }).await?;
    for hold in items(&open, "holds").iter().rev() {
        if place.json {
            show::line(&hold.to_string());
        } else {
            show::line(&summary(hold));
        }
    }
    let mut next = size;
    loop {
        let request = Request::LedgerEntries { from: next, most: PAGE, wait_ms: 10_000 };
        let page = tokio::select! {
            page = server.ask(&request) => page?,
            _interrupted = tokio::signal::ctrl_c() => return Ok(Exit::Done),
        };
        for entry in items(&page, "entries") {
            next += 1;
            let kind = field(entry, "kind");
            if kind != "call.held" && !kind.starts_with("hold.") {
                continue;
            }
            if place.json {
                show::line(&entry.to_string());
            } else {
                show::line(&show::entry(entry));
            }
        }
    }
}

// ---- in the house

/// Why something was not done, as a command tells it.
pub(super) fn not_done(not: NotDone) -> Failure {
    let (exit, code) = match &not {
        NotDone::Malformed(_) => (Exit::Cannot, None),
        NotDone::Rejected(Rejected::UnknownHold) => (Exit::Cannot, Some("hold_unknown")),
        NotDone::Rejected(rejected) => (Exit::No, Some(rejected.code())),
        NotDone::Locked | NotDone::Passkey(_) | NotDone::TooMany { .. } => (Exit::No, None),
        NotDone::Fault(_) | NotDone::NotEnrolled(NotEnrolled::Fault(_)) => (Exit::Fault, None),
        NotDone::NotEnrolled(_) => (Exit::No, None),
    };
    match code {
        Some(code) => Failure::new(exit, format!("{not} ({code})")),
        None => Failure::new(exit, not.to_string()),
    }
}

fn unknown() -> Failure {
    not_done(NotDone::Rejected(Rejected::UnknownHold)).hint("`countersign hold list` shows what waits")
}

fn read(hold: &str) -> Result<HoldId, Failure> {
    HoldId::read(hold).ok_or_else(unknown)
}

/// The hold, with what time and changes made of it written down first.
async fn refreshed(house: &House, hold: &str) -> Result<HoldId, Failure> {
    let id = read(hold)?;
    if house.pipeline.ledger.holds(|book| book.get(&id).is_none()) {
        return Err(unknown());
    }
    match house.pipeline.refresh_hold(&id).await {
        // that it ended meanwhile is what the answer will say
        Ok(()) | Err(NotChanged::Rejected(_)) => Ok(id),
        Err(NotChanged::Fault(fault)) => Err(fault.into()),
    }
}

pub(super) fn list(house: &House, state: &str, most: usize) -> Result<Value, Failure> {
    const STATES: [&str; 9] = ["open", "all", "pending", "approved", "spent", "denied", "expired", "cancelled", "void"];
    if !STATES.contains(&state) {
        return Err(Failure::new(Exit::Cannot, format!("`{}` is no state of a hold", visible(state)))
            .hint(format!("there are: {}", STATES.join(", "))));
    }
    let now = house.pipeline.clock.now();
    let wanted = |record: &Record| match state {
        "all" => true,
        "open" => record.phase.is_open(),
        state => record.phase.word() == state,
    };
    let holds = house.pipeline.ledger.holds(|book| {
        let mut records: Vec<&Record> = book.iter().filter(|record| wanted(record)).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.hold.seq));
        let shown = records.into_iter().take(most.min(MOST)).map(|record| {
            let mut shown = view::hold(book, record, "", now);
            if let Some(members) = shown.as_object_mut() {
                members.remove("you");
            }
            shown
        });
        shown.collect::<Vec<_>>()
    });
    Ok(json!({"holds": holds}))
}

pub(super) async fn show(house: &House, hold: &str, approver: Option<String>) -> Result<Value, Failure> {
    let id = refreshed(house, hold).await?;
    let now = house.pipeline.clock.now();
    let (candidates, enrolled) = house.pipeline.ledger.holds(|book| {
        let digest = book.get(&id).map(|record| record.hold.digest);
        let able = |name: &str| digest.is_some_and(|digest| book.may_vote(&id, &digest, name, now).is_ok());
        let names: Vec<String> = book.roster().enrolled().map(|approver| approver.name.clone()).collect();
        let candidates: Vec<String> = names.iter().filter(|name| able(name)).cloned().collect();
        (candidates, names)
    });
    // with one who could, or one at all, there is no question who is meant
    let approver = approver.or_else(|| match (candidates.as_slice(), enrolled.as_slice()) {
        ([one], _) | ([], [one]) => Some(one.clone()),
        _ => None,
    });
    let (pipeline, looked) = (Arc::clone(&house.pipeline), id.clone());
    let looks = approver.clone().unwrap_or_default();
    let whole = tokio::task::spawn_blocking(move || view::whole(&pipeline, &looked, &looks)).await;
    let whole = whole.map_err(|_| Failure::new(Exit::Fault, "looking at the hold was cut short"))??;
    let mut shown = whole.ok_or_else(unknown)?;
    let why = house.pipeline.ledger.holds(|book| {
        let digest = book.get(&id).map(|record| record.hold.digest)?;
        let approver = approver.as_deref().unwrap_or_default();
        book.may_vote(&id, &digest, approver, now).err().map(|rejected| rejected.to_string())
    });
    if let Some(you) = shown.get_mut("you").and_then(Value::as_object_mut) {
        you.insert("why".to_owned(), why.into());
    }
    if let Some(members) = shown.as_object_mut() {
        members.insert("approver".to_owned(), approver.into());
        members.insert("candidates".to_owned(), candidates.into());
    }
    Ok(shown)
}

pub(super) async fn approve(
    house: &House,
    hold: &str,
    digest: &str,
    approver: &str,
    passphrase: &Passphrase,
) -> Result<Value, Failure> {
    let (id, digest) = (refreshed(house, hold).await?, read_digest(digest)?);
    let approvers = &house.pipeline.approvers;
    let phase = approvers.approve(&id, &digest, approver, passphrase, Way::Terminal).await.map_err(not_done)?;
    let progress = house.pipeline.ledger.holds(|book| book.get(&id).map(|record| book.progress(record)));
    let progress = progress.unwrap_or_default().into_iter();
    let progress: Vec<Value> =
        progress.map(|(role, have, need)| json!({"role": role, "have": have, "need": need})).collect();
    Ok(json!({"hold": id.as_str(), "approver": approver, "state": phase.word(), "progress": progress}))
}

pub(super) async fn deny(
    house: &House,
    hold: &str,
    digest: &str,
    approver: &str,
    passphrase: &Passphrase,
    reason: &str,
) -> Result<Value, Failure> {
    let (id, digest) = (refreshed(house, hold).await?, read_digest(digest)?);
    let approvers = &house.pipeline.approvers;
    approvers.check(approver, passphrase, Way::Terminal).await.map_err(not_done)?;
    let phase = approvers.deny(&id, &digest, approver, reason).await.map_err(not_done)?;
    Ok(json!({"hold": id.as_str(), "approver": approver, "state": phase.word(), "reason": reason}))
}

pub(super) async fn cancel(house: &House, hold: &str) -> Result<Value, Failure> {
    let id = read(hold)?;
    house.pipeline.ledger.cancel(&id, "operator").await.map_err(|not| not_done(not.into()))?;
    Ok(json!({"hold": id.as_str(), "state": "cancelled"}))
}

fn read_digest(digest: &str) -> Result<Digest, Failure> {
    digest.parse().map_err(|error| Failure::new(Exit::Cannot, format!("the digest cannot be read: {error}")))
}

// ---- as text

fn listed(answer: &Value) -> String {
    let holds = items(answer, "holds");
    if holds.is_empty() {
        return "nothing waits".to_owned();
    }
    let row = |hold: &Value| {
        let ends = if field(hold, "state") == "pending" || field(hold, "state") == "approved" {
            format!("{} left", span(hold))
        } else {
            String::new()
        };
        let who = match field(hold, "user") {
            "" => visible(field(hold, "agent")),
            user => format!("{} for {}", visible(field(hold, "agent")), visible(user)),
        };
        vec![
            field(hold, "id").to_owned(),
            field(hold, "state").to_owned(),
            visible(field(hold, "tool")),
            words(hold, "impact"),
            who,
            waits_for(hold),
            ends,
        ]
    };
    table(&holds.iter().map(row).collect::<Vec<_>>())
}

fn summary(hold: &Value) -> String {
    let row = [
        field(hold, "created").to_owned(),
        field(hold, "id").to_owned(),
        field(hold, "state").to_owned(),
        visible(field(hold, "tool")),
        format!("agent={}", visible(field(hold, "agent"))),
        waits_for(hold),
    ];
    row.join("  ").trim_end().to_owned()
}

fn words(value: &Value, name: &str) -> String {
    items(value, name).iter().filter_map(Value::as_str).map(visible).collect::<Vec<_>>().join(", ")
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// `owner 0/1, finance 1/2`
fn waits_for(hold: &Value) -> String {
    let each = items(hold, "progress").iter().map(|progress| {
        format!("{} {}/{}", visible(field(progress, "role")), number(progress, "have"), number(progress, "need"))
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The time that is left, as people say it.
fn span(hold: &Value) -> String {
    let seconds = hold.get("seconds_left").and_then(Value::as_u64).unwrap_or_default();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

fn approved(answer: &Value) -> String {
    let hold = field(answer, "hold");
    match field(answer, "state") {
        "pending" => format!("countersigned {hold}; it needs more: {}", waits_for(answer)),
        _ => format!("countersigned {hold}; the call may run now, once"),
    }
}

/// What an approver is shown. Only our own words begin a line at its left edge, and everything of others is made visible.
fn shown(hold: &Value, columns: usize) -> String {
    let mut out = String::new();
    let mut rows: Vec<(&str, String)> = Vec::new();
    let state = field(hold, "state");
    rows.push(("hold", field(hold, "id").to_owned()));
    rows.push((
        "state",
        match state {
            "pending" => format!("pending, {} left to countersign it", span(hold)),
            "approved" => format!("approved, {} left to run it", span(hold)),
            _ => format!("{state}{}", ended(hold)),
        },
    ));
    let mut who = visible(field(hold, "agent"));
    for (word, name) in [("for", "user"), ("in task", "task")] {
        if !field(hold, name).is_empty() {
            who.push_str(&format!(" {word} {}", visible(field(hold, name))));
        }
    }
    rows.push((
        "asks",
        format!("{who}  (vouched for by {}, by {})", visible(field(hold, "issuer")), visible(field(hold, "door"))),
    ));
    for (name, member, joint) in [
        ("handed on to", "chain", ", then "),
        ("teams", "teams", ", "),
        ("scopes", "scopes", ", "),
        ("only for", "only_tools", ", "),
    ] {
        let texts: Vec<String> = items(hold, member).iter().filter_map(Value::as_str).map(visible).collect();
        if !texts.is_empty() {
            rows.push((name, texts.join(joint)));
        }
    }
    for (name, member) in [("workload", "workload"), ("shown with", "assurance")] {
        if !field(hold, member).is_empty() {
            rows.push((name, visible(field(hold, member))));
        }
    }
    rows.push(("tool", format!("{} of upstream {}", visible(field(hold, "tool")), visible(field(hold, "upstream")))));
    rows.push(("impact", words(hold, "impact")));
    for demand in items(hold, "demands") {
        let reason = match field(demand, "reason") {
            "" => String::new(),
            reason => format!(": {}", visible(reason)),
        };
        let (policy, role) = (visible(field(demand, "policy")), visible(field(demand, "role")));
        rows.push(("held by", format!("{policy}, for {} of {role}{reason}", number(demand, "approvals"))));
    }
    rows.push(("so far", waits_for(hold)));
    for vote in items(hold, "votes") {
        rows.push(("countersigned", format!("{} at {}", visible(field(vote, "approver")), field(vote, "at"))));
    }
    rows.push(("until", field(hold, "approve_by").to_owned()));
    rows.push(("digest", field(hold, "digest").to_owned()));
    for (name, value) in rows {
        wrap(&format!("{name:14}{value}"), columns, "              ", &mut out);
    }
    arguments(hold, columns, &mut out);
    difference(hold, columns, &mut out);
    lately(hold, columns, &mut out);
    out
}

fn ended(hold: &Value) -> String {
    let how = |name: &str| hold.pointer(&format!("/ended/{name}")).and_then(Value::as_str);
    let outcome = hold.pointer("/ended/outcome/word").and_then(Value::as_str);
    match (how("by"), how("reason"), how("code"), how("call")) {
        (Some(by), Some(reason), ..) => format!(" by {}: {}", visible(by), visible(reason)),
        (Some(by), ..) => format!(" by {}", visible(by)),
        (_, _, Some(code), _) => format!(" ({})", visible(code)),
        (_, _, _, Some(call)) => format!(" by {}: {}", visible(call), outcome.unwrap_or("it runs")),
        _ => String::new(),
    }
}

/// From the canonical text alone, which is what is sent to the tool server.
fn arguments(hold: &Value, columns: usize, out: &mut String) {
    let canonical = hold.pointer("/arguments/canonical").and_then(Value::as_str);
    let Some(display) = canonical.and_then(|text| Display::of(text.as_bytes()).ok()) else {
        out.push_str("\nThe arguments are not kept any more.\n");
        return;
    };
    out.push_str("\nArguments, each value by its path:\n");
    out.push_str(&display.lines(columns));
    out.push_str("The same as it is sent:\n");
    wrap(&format!("    | {}", display.text), columns, "    | ", out);
}

fn difference(hold: &Value, columns: usize, out: &mut String) {
    let Some(difference) = hold.get("difference").filter(|difference| !difference.is_null()) else {
        out.push_str("\nNo call of this tool by this agent was countersigned before, as far as is remembered.\n");
        return;
    };
    let changes = items(difference, "changes");
    let like = field(difference, "hold");
    if difference.get("readable") == Some(&Value::Bool(false)) {
        out.push_str(&format!(
            "\n! {like} was countersigned last, and its arguments are not kept any more: what differs is not known.\n"
        ));
        return;
    }
    if changes.is_empty() {
        out.push_str(&format!("\nThe same as {like}, the last one that was countersigned.\n"));
        return;
    }
    out.push_str(&format!("\nDifferent from {like}, the last one that was countersigned:\n"));
    for change in changes {
        // texts of a difference are visible already
        let place = match field(change, "pointer") {
            "" => "(the whole)",
            pointer => pointer,
        };
        wrap(&format!("    {place}"), columns, "    | ", out);
        for (sign, side) in [("-", "before"), ("+", "after")] {
            if let Some(text) = change.get(side).and_then(Value::as_str) {
                wrap(&format!("      {sign} {text}"), columns, "    | ", out);
            }
        }
    }
    if number(difference, "more") > 0 {
        out.push_str(&format!("    {} more differences are not shown\n", number(difference, "more")));
    }
}

fn lately(hold: &Value, columns: usize, out: &mut String) {
    let Some(lately) = hold.get("lately") else { return };
    let counts = lately.get("counts").and_then(Value::as_object);
    let counts = counts.into_iter().flatten().map(|(kind, count)| format!("{count} {}", visible(kind)));
    let counts = counts.collect::<Vec<_>>().join(", ");
    let since =
        if lately.get("complete").and_then(Value::as_bool) == Some(false) { " (as far as was looked)" } else { "" };
    let counts = if counts.is_empty() { "nothing".to_owned() } else { counts };
    out.push('\n');
    wrap(&format!("In the last hour this agent did with this tool{since}: {counts}"), columns, "    ", out);
    let newest = items(lately, "newest");
    for entry in newest.get(newest.len().saturating_sub(5)..).unwrap_or_default() {
        let what = visible(field(entry, "what"));
        let line = format!("    {}  {}  {what}", field(entry, "at"), visible(field(entry, "kind")));
        wrap(line.trim_end(), columns, "    ", out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(canonical: &str) -> Value {
        json!({
            "id": "hold_01JD0000000000000000000000", "state": "pending", "seconds_left": 872, "agent": "demo\n/amount  1",
            "issuer": "countersign", "user": "ann\u{202e}", "door": "http", "tool": "bank__transfer", "upstream": "bank",
            "chain": ["root\u{202e}", "root/helper"], "scopes": ["pay\n/amount  1"], "teams": [], "only_tools": null,
            "workload": "spiffe://td/\u{1b}[2J", "assurance": "bound",
            "impact": ["spend"], "approve_by": "2026-11-21T09:15:00.000000Z", "digest": "sha256:00",
            "demands": [{"policy": "large", "role": "owner", "approvals": 2, "reason": "ask\u{1b}[2J the owner"}],
            "progress": [{"role": "owner", "have": 1, "need": 2}],
            "votes": [{"approver": "maria", "at": "2026-11-21T09:01:00.000000Z", "seq": 3}],
            "arguments": {"canonical": canonical},
            "difference": {"hold": "hold_01JC0000000000000000000000", "more": 2, "changes": [
                {"pointer": "/amount", "before": "100", "after": "250"}, {"pointer": "/memo", "before": null, "after": "\"x\""}]},
            "lately": {"complete": false, "counts": {"call.held": 2}, "newest": [
                {"seq": 1, "at": "2026-11-21T08:59:00.000000Z", "kind": "call.refused", "what": "not_granted"}]},
        })
    }

    #[test]
    fn an_approver_is_shown_everything_and_only_we_begin_lines() {
        let canonical = "{\"amount\":250,\"note\":\"a\\n/amount  1\u{202e}\",\"url\":\"https://b\u{430}nk.example/\"}";
        let text = shown(&hold(canonical), 200);
        for wanted in [
            "asks          demo<U+000A>/amount  1 for ann<U+202E>  (vouched for by countersign, by http)",
            "pending, 14 min 32 s left to countersign it",
            "handed on to  root<U+202E>, then root/helper\n",
            "scopes        pay<U+000A>/amount  1\n",
            "workload      spiffe://td/<U+001B>[2J\n",
            "shown with    bound\n",
            "large, for 2 of owner: ask<U+001B>[2J the owner",
            "so far        owner 1/2",
            "countersigned maria at 2026-11-21T09:01:00.000000Z",
            "/amount  250",
            "/note    \"a\\n/amount  1<U+202E>\"",
            "! bidi: parts of it run from right to left",
            "! host: xn--bnk-6cd.example",
            "\"url\":\"https://b\u{430}nk.example/\"}",
            "Different from hold_01JC0000000000000000000000",
            "- 100",
            "+ 250",
            "2 more differences are not shown",
            "(as far as was looked): 2 call.held",
            "call.refused  not_granted",
        ] {
            assert!(text.contains(wanted), "`{wanted}` is not in\n{text}");
        }
        assert!(!text.contains(['\u{1b}', '\u{202e}']));
        // at any width: the one line that begins with a path is the row itself
        for columns in [40, 60, 80, 110] {
            let text = shown(&hold(canonical), columns);
            assert_eq!(text.lines().filter(|line| line.starts_with("/amount")).count(), 1, "{text}");
        }
    }

    #[test]
    fn nobody_decides_on_what_cannot_be_shown() {
        let mut gone = hold("{}");
        gone["arguments"] = Value::Null;
        assert!(shown(&gone, 80).contains("The arguments are not kept any more."));
        assert!(shown(&hold("no JSON"), 80).contains("The arguments are not kept any more."));
    }

    #[test]
    fn who_decides_is_said_or_clear() {
        let may = json!({"approver": "you", "you": {"cannot_approve": null}});
        assert_eq!(decider(&may, "cannot_approve").unwrap(), "you");
        let barred = json!({"approver": "you", "you": {"cannot_approve": "wrong_role", "why": "none of your roles"}});
        let failure = decider(&barred, "cannot_approve").unwrap_err();
        assert_eq!((failure.exit, failure.problem.as_str()), (Exit::No, "none of your roles (wrong_role)"));
        let several = json!({"approver": null, "candidates": ["ann", "ben"]});
        let failure = decider(&several, "cannot_approve").unwrap_err();
        assert_eq!(failure.exit, Exit::Cannot);
        assert!(failure.hint.unwrap().ends_with("--as NAME: ann, ben"));
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        for (seconds, words) in [(5, "5 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (180_000, "2 d 2 h")] {
            assert_eq!(span(&json!({"seconds_left": seconds})), words);
        }
    }
}
