//! One strict reader and one canonical form for every byte of JSON that comes from outside.
//!
//! [`parse()`] reads RFC 8259 text once and refuses what other parsers disagree about: duplicate member
//! names (after unescaping), lone surrogates, invalid UTF-8, a byte order mark, trailing text. Number
//! text is kept exactly as sent. [`Canonical`] is the RFC 8785 form of a tree within I-JSON (RFC 7493).
//! [`twin()`] finds names that other parsers could confuse with those of the protocol; [`options`] and
//! [`first_error`] compile schemas for this tree and tell what is wrong with one.

mod canonical;
mod decimal;
mod parse;
mod twin;
mod validate;
mod value;

pub use canonical::{Canonical, NotCanonical};
pub use parse::{Limits, ParseError, ParseErrorKind, parse};
pub use twin::twin;
pub use validate::{Name, Tree, Validator, first_error, options};
pub use value::{Iter, Number, Object, Value};

use std::fmt;

/// A SHA-256 digest; prints as `sha256:<lower hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut out = [0; 32];
        out.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
        Self(out)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in self.0 {
            text.extend([byte >> 4, byte & 15].into_iter().filter_map(|nibble| char::from_digit(nibble.into(), 16)));
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotADigest;

impl fmt::Display for NotADigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a digest reads `sha256:` and 64 lower-case hexadecimal digits")
    }
}

impl std::error::Error for NotADigest {}

impl std::str::FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let hex = text.strip_prefix("sha256:").filter(|hex| hex.len() == 64).ok_or(NotADigest)?;
        let nibble = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotADigest),
        };
        let mut out = [0; 32];
        for (place, pair) in out.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let [high, low] = pair else { return Err(NotADigest) };
            *place = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(out))
    }
}

#[cfg(test)]
mod tests;
