//! Entries of the ledger in a table.

use maud::{Markup, html};
use serde_json::Value;

use super::page::{segment, theirs};
use crate::{display::visible, ledger::Entry};

/// What tells an entry from others, besides its kind, agent and tool.
const TOLD: [&str; 9] = ["outcome", "reason", "why", "hold", "approver", "by", "credential", "version", "name"];

/// One entry as its members; nothing of one that is no object.
pub(super) fn members(entry: &Entry) -> Value {
    serde_json::from_slice(&entry.text).unwrap_or(Value::Null)
}

/// The text of a member.
pub(super) fn member<'e>(entry: &'e Value, name: &str) -> Option<&'e str> {
    entry.get(name).and_then(Value::as_str)
}

/// A row an entry.
pub(super) fn table(entries: &[Entry]) -> Markup {
    html! {
        @if entries.is_empty() {
            p.none { "No entries." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Entries" {
                table.entries {
                    thead { tr {
                        th.number scope="col" { "#" }
                        th scope="col" { "when" }
                        th scope="col" { "kind" }
                        th scope="col" { "agent" }
                        th scope="col" { "tool" }
                        th scope="col" { "what" }
                    } }
                    tbody { @for entry in entries { (row(entry)) } }
                }
            }
        }
    }
}

fn row(entry: &Entry) -> Markup {
    let whole = members(entry);
    let text = |name: &str| member(&whole, name);
    let tool = match text("kind") {
        Some(kind) if kind.starts_with("tool.") => {
            text("upstream").zip(text("tool")).map(|(upstream, tool)| format!("{upstream}__{tool}"))
        }
        _ => text("tool").map(str::to_owned),
    };
    html! {
        tr data-entry=(entry.seq) {
            th.number scope="row" { a href={ "/ledger/" (entry.seq) } { (entry.seq) } }
            td { @if let Some(at) = text("at") { (moment(at)) } }
            td { code { (visible(text("kind").unwrap_or("unreadable"))) } }
            td { @if let Some(agent) = text("agent") { (theirs(agent)) } }
            td { @if let Some(tool) = &tool { (theirs(tool)) } }
            td {
                @for (name, told) in TOLD.into_iter().filter_map(|name| Some((name, text(name)?))) {
                    span.told { (name) "=" (value(name, told)) } " "
                }
            }
        }
    }
}

/// What a member says. Only `name` is of a caller's own making.
fn value(name: &str, told: &str) -> Markup {
    html! {
        @match name {
            "name" => (theirs(told)),
            "hold" => a href={ "/holds/" (segment(told)) } { (visible(told)) },
            _ => code { (visible(told)) },
        }
    }
}

/// The time of an entry as it is written there, to the second.
pub(super) fn moment(at: &str) -> Markup {
    match at.parse() {
        Ok(at) => super::page::time(at),
        Err(_) => theirs(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        table(&[Entry { seq: 7, text: text.to_owned().into() }]).into_string()
    }

    #[test]
    fn what_others_wrote_is_no_markup_and_hides_nothing() {
        let row = shown(
            r#"{"agent":"<script>alert(1)</script>","at":"2026-11-21T09:00:00.123456Z","kind":"call.refused",
            "name":"a\u202eb","reason":"denied","tool":"javascript:x"}"#,
        );
        for part in [
            "href=\"/ledger/7\"",
            "&lt;script&gt;alert(1)&lt;/script&gt;",
            "a<mark>&lt;U+202E&gt;</mark>b",
            "2026-11-21 09:00:00 UTC",
            "<code>call.refused</code>",
        ] {
            assert!(row.contains(part), "{part}: {row}");
        }
        assert!(!row.contains("<script>") && !row.contains("href=\"javascript"), "{row}");
    }

    #[test]
    fn an_entry_that_cannot_be_read_has_its_row() {
        assert!(shown("[").contains("unreadable"));
        assert!(shown(r#"{"at":"<b>","kind":7}"#).contains("&lt;b&gt;"));
    }
}
