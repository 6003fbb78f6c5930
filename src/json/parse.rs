//! The strict reader.

use std::fmt;

use super::{
    Number, Object, Value,
    value::{FEW, Member, plain},
};

/// Bounds on one document. A document beyond one of them is refused, not cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Levels of nesting.
    pub depth: usize,
    /// Values in all, members and items counted.
    pub nodes: usize,
}

impl Limits {
    /// What an agent may send.
    pub const REQUEST: Self = Self { bytes: 4 << 20, depth: 128, nodes: 200_000 };
    /// What a tool server may answer.
    pub const RESPONSE: Self = Self { bytes: 16 << 20, depth: 128, nodes: 2_000_000 };
}

/// Why a text is not accepted, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// What is wrong.
    pub kind: ParseErrorKind,
    /// Byte offset in the text.
    pub at: usize,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParseErrorKind {
    /// More bytes than [`Limits::bytes`].
    TooLong,
    /// Deeper than [`Limits::depth`].
    TooDeep,
    /// More values than [`Limits::nodes`].
    TooMany,
    /// Not UTF-8, or a byte order mark.
    NotUtf8,
    /// A `\u` escape of half a surrogate pair.
    LoneSurrogate,
    /// The same member name twice in one object.
    DuplicateName,
    /// Not a number as RFC 8259 writes one, or one without a finite value.
    BadNumber,
    /// A control character, a bad escape, a missing quote.
    BadString,
    /// Something else that JSON does not allow there, or the end came early.
    Syntax,
    /// Text after the end of the document.
    Trailing,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at byte {})", self.kind, self.at)
    }
}

impl std::error::Error for ParseError {}

impl fmt::Display for ParseErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the text is too long: send less in one message",
            Self::TooDeep => "the text is nested too deeply: flatten it",
            Self::TooMany => "the text has too many values: send fewer in one message",
            Self::NotUtf8 => "the text is not UTF-8: send UTF-8 without a byte order mark",
            Self::LoneSurrogate => "half a surrogate pair is escaped: escape both halves, or send the character itself",
            Self::DuplicateName => "a member name comes twice in one object: send each name once",
            Self::BadNumber => {
                "a number is not written as JSON allows, or has no finite value: write it like `-12.5e3`, or send a string"
            }
            Self::BadString => "a string has a raw control character, a bad escape or no end: escape it as JSON asks",
            Self::Syntax => "the text is not JSON at this place, or ends too early: send one complete JSON value",
            Self::Trailing => "there is more text after the value: send one JSON value and nothing else",
        })
    }
}

/// Reads one document.
///
/// A call is refused here or read the same by everybody: what RFC 8259 leaves to the reader (two members of
/// one name, half a surrogate pair, a byte order mark, a number without a finite double) is an error.
/// The depth is bounded by [`Limits::depth`] and by 256, whichever is less, so that no later walk over
/// the tree can exhaust a stack.
///
/// # Errors
/// [`ParseError`] for anything that RFC 8259 does not allow, that other parsers read differently, or
/// that is beyond `limits`.
pub fn parse(text: &[u8], limits: &Limits) -> Result<Value, ParseError> {
    if text.len() > limits.bytes {
        return Err(ParseError { kind: ParseErrorKind::TooLong, at: limits.bytes });
    }
    if text.starts_with(b"\xef\xbb\xbf") {
        return Err(ParseError { kind: ParseErrorKind::NotUtf8, at: 0 });
    }
    let text = std::str::from_utf8(text)
        .map_err(|error| ParseError { kind: ParseErrorKind::NotUtf8, at: error.valid_up_to() })?;
    let mut reader = Reader {
        text,
        at: 0,
        depth: limits.depth.min(DEEPEST),
        nodes: limits.nodes,
        members: Vec::with_capacity(FEW),
        items: Vec::new(),
    };
    reader.space();
    let value = reader.value()?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.error(ParseErrorKind::Trailing));
    }
    Ok(value)
}

/// No limit allows more levels than this.
const DEEPEST: usize = 256;

/// A number of at most this many bytes without an exponent has a finite double.
const SURELY_FINITE: usize = 300;

struct Reader<'t> {
    text: &'t str,
    at: usize,
    /// Levels that may still be opened.
    depth: usize,
    /// Values that may still be read.
    nodes: usize,
    /// Members and items of the containers that are open, outermost first: each container takes its own
    /// off the end when it closes, in one allocation of the right size.
    members: Vec<Member>,
    items: Vec<Value>,
}

impl Reader<'_> {
    fn value(&mut self) -> Result<Value, ParseError> {
        self.nodes = self.nodes.checked_sub(1).ok_or_else(|| self.error(ParseErrorKind::TooMany))?;
        match self.peek() {
            Some(b'"') => self.string().map(Value::String),
            Some(b'{') => {
                self.descend()?;
                let object = self.object()?;
                self.depth += 1;
                Ok(Value::Object(object))
            }
            Some(b'[') => {
                self.descend()?;
                let items = self.array()?;
                self.depth += 1;
                Ok(Value::Array(items))
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(Value::Number),
            Some(b'+' | b'.' | b'N' | b'I') => Err(self.error(ParseErrorKind::BadNumber)),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.error(ParseErrorKind::Syntax)),
        }
    }

    fn descend(&mut self) -> Result<(), ParseError> {
        self.depth = self.depth.checked_sub(1).ok_or_else(|| self.error(ParseErrorKind::TooDeep))?;
        self.at += 1;
        Ok(())
    }

    fn object(&mut self) -> Result<Object, ParseError> {
        let first = self.members.len();
        self.space();
        if self.take(b'}') {
            return Ok(Object::new());
        }
        loop {
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.error(ParseErrorKind::Syntax));
            }
            let name = self.string()?;
            let others = self.members.get(first..).unwrap_or_default();
            // Beyond a few members the names are sorted once at the end instead.
            if others.len() < FEW && others.iter().any(|member| member.name == name) {
                return Err(ParseError { kind: ParseErrorKind::DuplicateName, at: start });
            }
            self.space();
            self.expect(b':')?;
            self.space();
            let start = self.at;
            let value = self.value()?;
            self.members.push(Member { name, value, span: start..self.at });
            self.space();
            if self.take(b',') {
                self.space();
            } else {
                self.expect(b'}')?;
                break;
            }
        }
        let members = self.members.drain(first..).collect();
        Object::of_members(members).map_err(|span| ParseError { kind: ParseErrorKind::DuplicateName, at: span.start })
    }

    fn array(&mut self) -> Result<Vec<Value>, ParseError> {
        let first = self.items.len();
        self.space();
        if self.take(b']') {
            return Ok(Vec::new());
        }
        loop {
            let item = self.value()?;
            self.items.push(item);
            self.space();
            if self.take(b',') {
                self.space();
            } else {
                self.expect(b']')?;
                break;
            }
        }
        Ok(self.items.drain(first..).collect())
    }

    /// Reads a string literal; the opening quote is at hand.
    fn string(&mut self) -> Result<String, ParseError> {
        self.at += 1;
        let start = self.at;
        self.plain();
        if self.peek() == Some(b'"') {
            let text = self.since(start).to_owned();
            self.at += 1;
            return Ok(text);
        }
        let mut out = String::with_capacity(self.at - start + 16);
        let mut clean = start;
        loop {
            out.push_str(self.since(clean));
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                _ => return Err(self.error(ParseErrorKind::BadString)),
            }
            clean = self.at;
            self.plain();
        }
    }

    /// Moves to the next quote, backslash or control character, or to the end.
    fn plain(&mut self) {
        self.at += plain(self.text.as_bytes().get(self.at..).unwrap_or_default());
    }

    /// Reads one escape; the backslash is at hand.
    fn escape(&mut self) -> Result<char, ParseError> {
        let start = self.at;
        let lone = ParseError { kind: ParseErrorKind::LoneSurrogate, at: start };
        let escaped = match self.byte_at(start + 1) {
            Some(b'u') => {
                self.at += 2;
                let unit = self.hex(start)?;
                return match unit {
                    0xd800..=0xdbff => {
                        if self.byte_at(self.at) != Some(b'\\') || self.byte_at(self.at + 1) != Some(b'u') {
                            return Err(lone);
                        }
                        self.at += 2;
                        let low = self.hex(start)?;
                        if !(0xdc00..=0xdfff).contains(&low) {
                            return Err(lone);
                        }
                        char::from_u32(0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).ok_or(lone)
                    }
                    unit => char::from_u32(unit).ok_or(lone),
                };
            }
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            _ => return Err(self.error(ParseErrorKind::BadString)),
        };
        self.at += 2;
        Ok(escaped)
    }

    /// Reads four hexadecimal digits of the escape that began at `start`.
    fn hex(&mut self, start: usize) -> Result<u32, ParseError> {
        let bad = ParseError { kind: ParseErrorKind::BadString, at: start };
        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or_else(|| bad.clone())?;
        let mut unit = 0;
        for &digit in digits {
            unit = unit << 4 | char::from(digit).to_digit(16).ok_or_else(|| bad.clone())?;
        }
        self.at += 4;
        Ok(unit)
    }

    fn number(&mut self) -> Result<Number, ParseError> {
        let start = self.at;
        let bad = ParseError { kind: ParseErrorKind::BadNumber, at: start };
        self.take(b'-');
        if self.take(b'0') {
            if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
                return Err(bad);
            }
        } else if self.digits() == 0 {
            return Err(bad);
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err(bad);
        }
        let scaled = matches!(self.peek(), Some(b'e' | b'E'));
        if scaled {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(bad);
            }
        }
        // A letter or a second point glued on belongs to what was meant as the number.
        if matches!(self.peek(), Some(b'.' | b'+' | b'-' | b'_' | b'a'..=b'z' | b'A'..=b'Z')) {
            return Err(bad);
        }
        let text = self.since(start);
        if (scaled || text.len() > SURELY_FINITE) && !text.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(bad);
        }
        Ok(Number(text.into()))
    }

    /// Passes digits and counts them.
    fn digits(&mut self) -> usize {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += count;
        count
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value, ParseError> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        if !rest.starts_with(word.as_bytes()) {
            return Err(self.error(ParseErrorKind::Syntax));
        }
        self.at += word.len();
        Ok(value)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), ParseError> {
        if self.take(byte) { Ok(()) } else { Err(self.error(ParseErrorKind::Syntax)) }
    }

    fn peek(&self) -> Option<u8> {
        self.byte_at(self.at)
    }

    fn byte_at(&self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    fn since(&self, start: usize) -> &str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn error(&self, kind: ParseErrorKind) -> ParseError {
        ParseError { kind, at: self.at }
    }
}
