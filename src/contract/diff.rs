//! The difference between two definitions, for a person to read.
//!
//! A tool server that changes a definition after it was reviewed may hide what it changed: in characters
//! that are not seen, or that make text read in another order. Here every such character is written out,
//! and a text never spans lines, so that it cannot pass for a row of its own.

use std::fmt::Write as _;

use crate::{
    call::cut,
    json::{Object, Value},
};

/// One place where two values differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// JSON Pointer (RFC 6901) to the place, made [`visible`].
    pub pointer: String,
    /// What was there, as JSON made [`visible`]; `None` when there was nothing.
    pub before: Option<String>,
    /// What is there now.
    pub after: Option<String>,
}

/// The places where two definitions differ, in the order of `before`, then of what is new in `after`.
/// The order of members alone is no difference, but number texts are compared as written.
pub fn rows(before: &Value, after: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    compare(Some(before), Some(after), &mut String::new(), &mut rows);
    rows
}

/// The rows as text: a line for the place, a line with `-` for what was, a line with `+` for what is.
pub fn render(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let pointer = if row.pointer.is_empty() { "(the whole)" } else { &row.pointer };
        text.push_str(pointer);
        text.push('\n');
        for (sign, side) in [('-', &row.before), ('+', &row.after)] {
            if let Some(side) = side {
                // writing to a string does not fail
                let _written = writeln!(text, "  {sign} {side}");
            }
        }
    }
    text
}

/// The text with every character that is not seen, or that changes how its neighbours are seen, written
/// out as `<U+202E>`: controls, line separators, bidirectional marks, zero-width and tag characters,
/// variation selectors, odd spaces, fillers, private use.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if is_hidden(character) {
            let _written = write!(out, "<U+{:04X}>", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out
}

/// A text of somebody else's in a sentence of ours: cut to `most` bytes, [`visible`], in backticks.
pub(super) fn quoted(text: &str, most: usize) -> String {
    let short = cut(text, most);
    format!("`{}{}`", visible(short), if short.len() < text.len() { "…" } else { "" })
}

fn is_hidden(character: char) -> bool {
    matches!(u32::from(character),
        0x00..=0x1f | 0x7f..=0xa0 | 0xad | 0x034f | 0x061c | 0x115f | 0x1160 | 0x17b4 | 0x17b5
        | 0x180b..=0x180f | 0x2000..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f | 0x2800 | 0x3000 | 0x3164
        | 0xe000..=0xf8ff | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0xfffe | 0xffff
        | 0x1_bca0..=0x1_bca3 | 0x1_d173..=0x1_d17a | 0xe_0000..=0x10_ffff)
}

fn compare(before: Option<&Value>, after: Option<&Value>, pointer: &mut String, rows: &mut Vec<Row>) {
    let length = pointer.len();
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for (name, value) in old.iter() {
                super::shape::push(pointer, name);
                compare(Some(value), new.get(name), pointer, rows);
                pointer.truncate(length);
            }
            for (name, value) in added(old, new) {
                super::shape::push(pointer, name);
                compare(None, Some(value), pointer, rows);
                pointer.truncate(length);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                super::shape::push(pointer, &index.to_string());
                compare(old.get(index), new.get(index), pointer, rows);
                pointer.truncate(length);
            }
        }
        (before, after) if before == after => {}
        (before, after) => {
            let (before, after) = around(before.map(text_of), after.map(text_of));
            rows.push(Row { pointer: visible(pointer), before, after });
        }
    }
}

fn added<'v>(old: &'v Object, new: &'v Object) -> impl Iterator<Item = (&'v str, &'v Value)> {
    new.iter().filter(|(name, _)| old.get(name).is_none())
}

fn text_of(value: &Value) -> String {
    String::from_utf8_lossy(&value.to_bytes()).into_owned()
}

/// Makes both sides visible; what long texts have in common before and after the difference is left out,
/// so that the difference cannot hide behind it.
fn around(before: Option<String>, after: Option<String>) -> (Option<String>, Option<String>) {
    const LONG: usize = 400;
    const CONTEXT: usize = 60;
    let (Some(old), Some(new)) = (&before, &after) else {
        return (before.map(|text| visible(&text)), after.map(|text| visible(&text)));
    };
    if old.len().max(new.len()) <= LONG {
        return (Some(visible(old)), Some(visible(new)));
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
        Some(format!("{start}{}{end}", visible(&text)))
    };
    (part(&old), part(&new))
}
