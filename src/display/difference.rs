//! The difference between two documents, for a person to read.
//!
//! Whoever changes a text after it was looked at may hide what changed: in characters that are not seen, or
//! that make text read in another order. Here every such character is written out, and a text never spans
//! lines, so that it cannot pass for a row of its own.

use std::fmt::Write as _;

use super::{letters::beginning, push};
use crate::json::{Object, Value};

/// One place where two values differ.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// JSON Pointer (RFC 6901) to the place, made [`visible`](super::visible()).
    pub pointer: String,
    /// What was there, as JSON made visible; `None` when there was nothing.
    pub before: Option<String>,
    /// What is there now.
    pub after: Option<String>,
}

/// The places where two values differ, in the order of `before`, then of what is new in `after`.
/// The order of members alone is no difference, but number texts are compared as written.
pub fn changes(before: &Value, after: &Value) -> Vec<Change> {
    bounded(before, after, usize::MAX, usize::MAX).0
}

/// At most so many of them, each text of at most so many bytes; and how many more there are.
pub(super) fn bounded(before: &Value, after: &Value, most: usize, longest: usize) -> (Vec<Change>, usize) {
    let mut found = Found { changes: Vec::new(), most, longest, more: 0 };
    found.compare(Some(before), Some(after), &mut String::new());
    (found.changes, found.more)
}

/// The changes as text: a line for the place, a line with `-` for what was, a line with `+` for what is.
pub fn render(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        let pointer = if change.pointer.is_empty() { "(the whole)" } else { &change.pointer };
        text.push_str(pointer);
        text.push('\n');
        for (sign, side) in [('-', &change.before), ('+', &change.after)] {
            if let Some(side) = side {
                // writing to a string does not fail
                let _written = writeln!(text, "  {sign} {side}");
            }
        }
    }
    text
}

struct Found {
    changes: Vec<Change>,
    most: usize,
    longest: usize,
    more: usize,
}

impl Found {
    fn compare(&mut self, before: Option<&Value>, after: Option<&Value>, pointer: &mut String) {
        let length = pointer.len();
        match (before, after) {
            (Some(Value::Object(old)), Some(Value::Object(new))) => {
                for (name, value) in old.iter() {
                    push(pointer, name);
                    self.compare(Some(value), new.get(name), pointer);
                    pointer.truncate(length);
                }
                for (name, value) in added(old, new) {
                    push(pointer, name);
                    self.compare(None, Some(value), pointer);
                    pointer.truncate(length);
                }
            }
            (Some(Value::Array(old)), Some(Value::Array(new))) => {
                for index in 0..old.len().max(new.len()) {
                    push(pointer, &index.to_string());
                    self.compare(old.get(index), new.get(index), pointer);
                    pointer.truncate(length);
                }
            }
            (before, after) if before == after => {}
            _ if self.changes.len() >= self.most => self.more += 1,
            (before, after) => {
                let (before, after) = around(before.map(text_of), after.map(text_of));
                let pointer = short(pointer, self.longest);
                let (before, after) =
                    (before.map(|text| short(&text, self.longest)), after.map(|text| short(&text, self.longest)));
                self.changes.push(Change { pointer, before, after });
            }
        }
    }
}

/// The text made visible; where it is cut, it says so.
fn short(text: &str, longest: usize) -> String {
    match beginning(text, longest) {
        (shown, 0) => shown,
        (shown, cut) => format!("{shown} … ({cut} bytes not shown)"),
    }
}

fn added<'v>(old: &'v Object, new: &'v Object) -> impl Iterator<Item = (&'v str, &'v Value)> {
    new.iter().filter(|(name, _)| old.get(name).is_none())
}

fn text_of(value: &Value) -> String {
    String::from_utf8_lossy(&value.to_bytes()).into_owned()
}

/// What long texts have in common before and after the difference is left out, so that the difference cannot
/// hide behind it.
fn around(before: Option<String>, after: Option<String>) -> (Option<String>, Option<String>) {
    const LONG: usize = 400;
    const CONTEXT: usize = 60;
    let (Some(old), Some(new)) = (&before, &after) else { return (before, after) };
    if old.len().max(new.len()) <= LONG {
        return (before, after);
    }
    let old: Vec<char> = old.chars().collect();
    let new: Vec<char> = new.chars().collect();
    let head = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let most = old.len().min(new.len()) - head;
    let tail = old.iter().rev().zip(new.iter().rev()).take(most).take_while(|(old, new)| old == new).count();
    let part = |side: &[char]| {
        let (from, to) = (head.saturating_sub(CONTEXT), (side.len() - tail).saturating_add(CONTEXT).min(side.len()));
        let text: String = side.get(from..to).unwrap_or_default().iter().collect();
        let (start, end) = (if from > 0 { "… " } else { "" }, if to < side.len() { " …" } else { "" });
        Some(format!("{start}{text}{end}"))
    };
    (part(&old), part(&new))
}
