//! Answers as text. Whatever others wrote is shown with its hidden letters written out.

use std::io::Write;

use serde_json::{Value, json};

use crate::config::{Config, Transport};
use crate::display::visible;

/// Prints a line; a reader that has gone away is not an error.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _reader_gone = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Prints text, if there is any.
pub(super) fn text(text: &str) {
    if !text.is_empty() {
        line(text.trim_end_matches('\n'));
    }
}

/// A member's text; empty when there is none.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A member's items; none when there is none.
pub(super) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn words(value: &Value, name: &str) -> String {
    items(value, name).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// Rows with aligned columns.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

/// The configured upstreams, and how each fares if a server told.
pub(super) fn upstreams(config: &Config, fares: Option<&Value>) -> Value {
    let told = |name: &str| items(fares?, "upstreams").iter().find(|told| field(told, "name") == name).cloned();
    let upstreams = config.upstreams.iter().map(|(name, upstream)| {
        told(name.as_str()).unwrap_or_else(|| {
            let transport = match upstream.transport {
                Transport::Stdio { .. } => "stdio",
                Transport::Http { .. } => "http",
            };
            json!({"name": name.as_str(), "transport": transport})
        })
    });
    json!({"upstreams": upstreams.collect::<Vec<_>>()})
}

pub(super) fn upstreams_text(answer: &Value) -> String {
    let upstreams = items(answer, "upstreams");
    if upstreams.is_empty() {
        return "no tool servers; add one with `countersign upstream add`".to_owned();
    }
    let cells = |upstream: &Value| {
        ["name", "transport", "state", "protocol", "account", "last_error"]
            .map(|name| visible(field(upstream, name)))
            .to_vec()
    };
    table(&upstreams.iter().map(cells).collect::<Vec<_>>())
}

pub(super) fn status(answer: &Value) -> String {
    let ledger = answer.get("ledger").unwrap_or(&Value::Null);
    let grants = answer.get("grants").unwrap_or(&Value::Null);
    let healthy = ledger.get("healthy").and_then(Value::as_bool) == Some(true);
    let door = |name: &str| answer.get(name).and_then(Value::as_str);
    let mut rows = vec![
        vec!["running".to_owned(), format!("version {}, process {}", field(answer, "version"), number(answer, "pid"))],
        vec!["agents".to_owned(), door("mcp").unwrap_or("on standard input and output only").to_owned()],
        vec!["console".to_owned(), door("console").unwrap_or("closed").to_owned()],
        vec!["data".to_owned(), field(answer, "data").to_owned()],
        vec![
            "ledger".to_owned(),
            format!("{} entries, {}", number(ledger, "entries"), if healthy { "healthy" } else { "NOT WRITABLE" }),
        ],
        vec!["grants".to_owned(), format!("{} policies, {}", number(grants, "policies"), field(grants, "digest"))],
        vec![
            "tools".to_owned(),
            format!("{} on offer, {} in quarantine", number(answer, "tools"), number(answer, "quarantined")),
        ],
    ];
    if let Some(holds) = answer.get("holds") {
        let (pending, approved) = (number(holds, "pending"), number(holds, "approved"));
        rows.push(vec![
            "holds".to_owned(),
            format!("{pending} wait to be countersigned, {approved} countersigned and not run yet"),
        ]);
    }
    for receiver in items(answer, "notifications") {
        let (undelivered, given_up) = (number(receiver, "undelivered"), number(receiver, "given_up"));
        let mut fares = format!("{undelivered} undelivered");
        if given_up > 0 {
            fares.push_str(&format!(", {given_up} given up"));
        }
        if !field(receiver, "error").is_empty() {
            fares.push_str(&format!(
                ", failing since {}: {}",
                field(receiver, "since"),
                visible(field(receiver, "error"))
            ));
        }
        rows.push(vec![format!("notify {}", field(receiver, "name")), fares]);
    }
    for upstream in items(answer, "upstreams") {
        let mut fares = format!("{} ({})", field(upstream, "state"), field(upstream, "transport"));
        let error = field(upstream, "last_error");
        if !error.is_empty() {
            fares.push_str(&format!(": {}", visible(error)));
        }
        rows.push(vec![format!("upstream {}", field(upstream, "name")), fares]);
    }
    table(&rows)
}

pub(super) fn registered(answer: &Value) -> String {
    let tools = items(answer, "tools");
    if tools.is_empty() {
        return "no tools to register".to_owned();
    }
    let cells = |tool: &Value| {
        let name = match field(tool, "tool") {
            "" => field(tool, "upstream").to_owned(),
            name => format!("{}__{}", field(tool, "upstream"), visible(name)),
        };
        let more = match field(tool, "result") {
            "new" => format!("impact: {}", words(tool, "impact")),
            "changed" => "see `countersign tool review`".to_owned(),
            _ => visible(field(tool, "why")),
        };
        vec![field(tool, "result").to_owned(), name, more]
    };
    let mut text = table(&tools.iter().map(cells).collect::<Vec<_>>());
    if tools.iter().any(|tool| field(tool, "result") == "new") {
        text.push_str("\nread the contracts below schemas/, their impact above all, before you grant anything\n");
    }
    if !items(answer, "errors").is_empty() {
        text.push_str("\nthe grants do not check yet: see `countersign check`\n");
    }
    text
}

pub(super) fn tools(answer: &Value) -> String {
    let offered = items(answer, "tools").iter();
    let mut rows: Vec<Vec<String>> = offered
        .map(|tool| vec![field(tool, "tool").to_owned(), words(tool, "impact"), words(tool, "labels")])
        .collect();
    for tool in items(answer, "quarantined") {
        let why = format!("not offered ({}): {}", field(tool, "why"), visible(field(tool, "detail")));
        rows.push(vec![visible(field(tool, "tool")), why]);
    }
    if rows.is_empty() { "no tools; `countersign tool register` asks for them".to_owned() } else { table(&rows) }
}

pub(super) fn reviewed(answer: &Value) -> String {
    let tools = items(answer, "tools");
    if tools.is_empty() {
        return "nothing to review".to_owned();
    }
    let mut text = String::new();
    for tool in tools {
        let name = visible(field(tool, "tool"));
        text.push_str(&format!("{name}: {} ({})\n", visible(field(tool, "detail")), field(tool, "why")));
        for line in field(tool, "difference").lines() {
            text.push_str(&format!("    {}\n", visible(line)));
        }
        if let Some(rejected) = tool.get("rejected").filter(|rejected| rejected.is_object()) {
            let (by, at) = (visible(field(rejected, "by")), field(rejected, "at"));
            text.push_str(&format!("    rejected by {by} at {at}\n"));
        }
        if field(tool, "why") == "changed" {
            let digest = visible(field(tool, "digest"));
            text.push_str(&format!("    to take it: countersign tool accept {name} --digest {digest}\n"));
        }
    }
    text
}

/// One entry on one line: when, number, kind, and what tells it from others.
pub(super) fn entry(entry: &Value) -> String {
    let mut cells = vec![
        format!("{:>7}", number(entry, "seq")),
        field(entry, "at").to_owned(),
        format!("{:16}", field(entry, "kind")),
    ];
    // an entry's members are many: the ones that say who and what come first, the rest is for `show`
    for name in [
        "outcome",
        "hold",
        "reason",
        "tool",
        "upstream",
        "call",
        "agent",
        "approver",
        "by",
        "credential",
        "policies",
        "version",
        "why",
    ] {
        match entry.get(name).or_else(|| entry.pointer(&format!("/principal/{name}"))) {
            Some(Value::String(text)) if !text.is_empty() => cells.push(format!("{name}={}", visible(text))),
            Some(Value::Number(number)) => cells.push(format!("{name}={number}")),
            _ => {}
        }
    }
    cells.retain(|cell| !cell.trim().is_empty());
    cells.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned()]];
        assert_eq!(table(&rows), "a    bb\nccc\n");
    }

    #[test]
    fn an_entry_is_one_line_whatever_is_in_it() {
        let text = entry(&json!({"seq": 3, "at": "2026-01-01T00:00:00Z", "kind": "call.refused",
            "reason": "not_granted", "tool": "a\nb\u{202e}", "principal": {"agent": "demo"}}));
        assert_eq!(text.lines().count(), 1);
        for part in ["3", "call.refused", "reason=not_granted", "tool=a<U+000A>b<U+202E>", "agent=demo"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn answers_without_anything_say_so() {
        let nothing = json!({});
        for text in [upstreams_text(&nothing), registered(&nothing), tools(&nothing), reviewed(&nothing)] {
            assert!(!text.is_empty());
        }
    }
}
