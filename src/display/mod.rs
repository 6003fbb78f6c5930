//! What a person is shown of what others wrote, so that what is decided is what was seen.
//!
//! [`Display`] is a document as an approver reads it: whole, from the canonical bytes alone, with nothing
//! hidden in it. [`visible()`] makes any text of others fit for a line of ours. [`changes`] tells two
//! documents apart. Nothing here is summed up, rendered as markup or turned into a link.

mod difference;
mod hosts;
mod letters;

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

pub use difference::{Change, changes, render};
pub use letters::visible;

use crate::json::{Limits, ParseError, Value, parse};

/// Bytes of one value that are shown in a row; the rest is in [`Display::text`].
pub const LONGEST: usize = 4096;
/// Bytes of a path that are shown.
const LONGEST_PATH: usize = 1024;
/// Rows of one document.
const MOST_ROWS: usize = 1000;

/// Canonical arguments as an approver is shown them.
#[derive(Clone, Debug, Serialize)]
pub struct Display {
    /// The complete canonical text, made [`visible()`]. Never cut, and no two documents have the same.
    pub text: String,
    /// A row for each value that is no object or array with something in it, in canonical order.
    pub rows: Vec<Row>,
    /// How many more such values there are than rows.
    pub more: usize,
    /// What is worth a warning anywhere in the document, in rows or not.
    pub flags: BTreeSet<Flag>,
    #[serde(skip)]
    tree: Value,
}

/// One value and the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// JSON Pointer (RFC 6901), made [`visible()`].
    pub path: String,
    /// Bytes of the path that are not shown.
    #[serde(skip_serializing_if = "is_zero")]
    pub path_cut: usize,
    /// The value's canonical text, made [`visible()`]: strings in quotes on one line, numbers as they are sent.
    pub value: String,
    /// Bytes of the value's canonical text that are not shown.
    pub cut: usize,
    /// What is worth a warning, in the value or in a name on the way to it.
    pub flags: BTreeSet<Flag>,
    /// Hosts that the value names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostName>,
}

/// A host as a resolver is asked for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostName {
    /// In ASCII (punycode where it is not ASCII by itself).
    pub ascii: String,
    /// In its own letters, made [`visible()`], where that is something else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unicode: Option<String>,
}

/// Why a text may not be what it seems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// A word has letters of several scripts (UTS 39, section 5.1).
    MixedScript,
    /// A word that is not ASCII looks like one that is (UTS 39, section 4).
    Confusable,
    /// It has letters or controls that make text run from right to left.
    Bidi,
    /// It has characters that are not seen.
    Invisible,
    /// It has control characters other than tabs and line feeds.
    Control,
}

impl Flag {
    /// As it is written everywhere.
    pub fn word(self) -> &'static str {
        match self {
            Self::MixedScript => "mixed_script",
            Self::Confusable => "confusable",
            Self::Bidi => "bidi",
            Self::Invisible => "invisible",
            Self::Control => "control",
        }
    }

    /// What it means, for whoever decides.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::MixedScript => "a word mixes letters of several scripts",
            Self::Confusable => "a word looks like plain letters and is not",
            Self::Bidi => "parts of it run from right to left",
            Self::Invisible => "it has characters that are not seen, written out here",
            Self::Control => "it has control characters, written out here",
        }
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What differs between a document and another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The places, at most a thousand.
    pub changes: Vec<Change>,
    /// How many more there are.
    pub more: usize,
}

impl Display {
    /// Shows the document of these canonical bytes.
    ///
    /// # Errors
    /// [`ParseError`] when they are no JSON document within [`Limits::RESPONSE`].
    pub fn of(bytes: &[u8]) -> Result<Self, ParseError> {
        let tree = parse(bytes, &Limits::RESPONSE)?;
        let mut rows = Rows::default();
        rows.take(&tree, &mut String::new(), &BTreeSet::new());
        let Rows { rows, more, flags } = rows;
        Ok(Self { text: visible(&String::from_utf8_lossy(bytes)), rows, more, flags, tree })
    }

    /// What is not as in the document of `last`: there before, here now.
    ///
    /// # Errors
    /// As [`Display::of`], for `last`.
    pub fn same_but_for(&self, last: &[u8]) -> Result<Difference, ParseError> {
        let last = parse(last, &Limits::RESPONSE)?;
        let (changes, more) = difference::bounded(&last, &self.tree, MOST_ROWS, LONGEST);
        Ok(Difference { changes, more })
    }

    /// The rows as lines of a terminal of so many columns. Only a row's path begins a line at its left edge: what
    /// is to be said of a row, and what of it needs a further line, is indented and marked.
    pub fn lines(&self, columns: usize) -> String {
        let names: Vec<String> = self.rows.iter().map(Row::name).collect();
        let width = names.iter().map(|name| name.chars().count()).filter(|width| *width <= 32).max().unwrap_or(0);
        let mut out = String::new();
        for (row, name) in self.rows.iter().zip(names) {
            wrap(&format!("{name:width$}  {}", row.value), columns, "    | ", &mut out);
            let mut notes: Vec<String> = Vec::new();
            if row.cut > 0 {
                notes.push(format!("{} bytes not shown", row.cut));
            }
            notes.extend(row.flags.iter().map(|flag| format!("{flag}: {}", flag.sentence())));
            notes.extend(row.hosts.iter().map(|host| match &host.unicode {
                Some(unicode) => format!("host: {} (in letters: {unicode})", host.ascii),
                None => format!("host: {}", host.ascii),
            }));
            for note in notes {
                wrap(&format!("    ! {note}"), columns, "    | ", &mut out);
            }
        }
        if self.more > 0 {
            out.push_str(&format!("    ! {} more values are not shown in rows; the text has them\n", self.more));
        }
        out
    }
}

/// Appends a line, and what does not fit into it behind `next` on lines of their own: a terminal that wraps by
/// itself would begin them at its left edge, where only we do.
pub fn wrap(line: &str, columns: usize, next: &str, out: &mut String) {
    // so far back is a space looked for to break behind, so that words stay whole
    const BACK: usize = 16;
    let columns = columns.max(next.len() + 8 + BACK);
    let mut used = 0;
    // where the last space of the line ends: in `out`, and in columns
    let mut space = None;
    for letter in line.chars() {
        // no letter that is left as it is takes more than two columns
        let wide = if letter.is_ascii() { 1 } else { 2 };
        if used + wide > columns {
            let (at, there) = match space {
                Some((at, there)) if used - there <= BACK => (at, there),
                _ => (out.len(), used),
            };
            out.insert_str(at, &format!("\n{next}"));
            used = next.len() + used - there;
            space = None;
        }
        out.push(letter);
        used += wide;
        if letter == ' ' {
            space = Some((out.len(), used));
        }
    }
    out.push('\n');
}

impl Row {
    /// The path as a line begins with it: in quotes where its letters could pass for something else.
    fn name(&self) -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'.' | b'~');
        let name = match self.path.as_str() {
            "" => "(the whole)".to_owned(),
            path if path.bytes().all(plain) => path.to_owned(),
            path => String::from_utf8_lossy(&Value::from(path).to_bytes()).into_owned(),
        };
        if self.path_cut > 0 { format!("{name} … ({} bytes not shown)", self.path_cut) } else { name }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// Appends one reference token (RFC 6901, section 3).
fn push(pointer: &mut String, token: &str) {
    pointer.push('/');
    pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
}

#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    more: usize,
    flags: BTreeSet<Flag>,
}

impl Rows {
    /// `flags` are those of the names on the way.
    fn take(&mut self, value: &Value, pointer: &mut String, flags: &BTreeSet<Flag>) {
        let length = pointer.len();
        match value {
            Value::Object(object) if !object.is_empty() => {
                for (name, value) in object.iter() {
                    let mut flags = flags.clone();
                    letters::flags(name, &mut flags);
                    push(pointer, name);
                    self.take(value, pointer, &flags);
                    pointer.truncate(length);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (index, item) in items.iter().enumerate() {
                    push(pointer, &index.to_string());
                    self.take(item, pointer, flags);
                    pointer.truncate(length);
                }
            }
            leaf => self.leaf(leaf, pointer, flags.clone()),
        }
    }

    fn leaf(&mut self, leaf: &Value, pointer: &str, mut flags: BTreeSet<Flag>) {
        if let Value::String(text) = leaf {
            letters::flags(text, &mut flags);
        }
        self.flags.extend(&flags);
        if self.rows.len() >= MOST_ROWS {
            self.more += 1;
            return;
        }
        let (value, cut) = letters::beginning(&String::from_utf8_lossy(&leaf.to_bytes()), LONGEST);
        let (path, path_cut) = letters::beginning(pointer, LONGEST_PATH);
        let hosts = leaf.as_str().map(hosts::hosts).unwrap_or_default();
        self.rows.push(Row { path, path_cut, value, cut, flags, hosts });
    }
}

#[cfg(test)]
mod tests;
