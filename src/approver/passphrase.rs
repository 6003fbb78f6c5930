//! What an approver knows and nobody else.

use std::fmt;

use unicode_normalization::{UnicodeNormalization, is_nfc};
use zeroize::Zeroizing;

/// Fewest bytes of a new passphrase.
const SHORTEST: usize = 12;

/// Most bytes of a passphrase.
const LONGEST: usize = 1_024;

/// A passphrase in Unicode's normal form C: keyboards that compose letters differently give the same one.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(Zeroizing<String>);

/// Why a text cannot become a passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Fewer than 12 bytes.
    Short,
    /// More than 1,024 bytes.
    Long,
    /// The approver's name.
    Name,
    /// Has a control character, a line break for one, which not every way of asking for it can give again.
    Control,
}

impl Passphrase {
    /// The passphrase that was typed, taken as it is but for its normal form.
    pub fn new(typed: impl Into<Zeroizing<String>>) -> Self {
        let typed = typed.into();
        if is_nfc(&typed) {
            return Self(typed);
        }
        // one allocation that is large enough: growing would leave copies behind
        let mut normal = Zeroizing::new(String::with_capacity(typed.len().saturating_mul(3)));
        normal.extend(typed.nfc());
        Self(normal)
    }

    /// Whether `name` may choose it.
    ///
    /// # Errors
    /// [`Unfit`] says why not.
    pub fn fits(&self, name: &str) -> Result<(), Unfit> {
        let text = self.0.as_str();
        if text.len() > LONGEST {
            return Err(Unfit::Long);
        }
        if text.len() < SHORTEST {
            return Err(Unfit::Short);
        }
        if text.chars().any(char::is_control) {
            return Err(Unfit::Control);
        }
        if text.trim().eq_ignore_ascii_case(name) {
            return Err(Unfit::Name);
        }
        Ok(())
    }

    /// The bytes to stretch; `None` for a text that nobody can have chosen, and that is too long to be worth it.
    pub(super) fn bytes(&self) -> Option<&[u8]> {
        (self.0.len() <= LONGEST).then_some(self.0.as_bytes())
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Short => {
                "a passphrase has at least 12 bytes: take four words that have nothing to do with each other"
            }
            Self::Long => "a passphrase has at most 1024 bytes",
            Self::Name => "the passphrase is the approver's name: take another",
            Self::Control => "a passphrase has no line breaks or other control characters",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned())
    }

    #[test]
    fn a_passphrase_has_12_to_1024_bytes_and_is_not_the_name() {
        let table = [
            ("correct horse battery", Ok(())),
            ("twelve bytes", Ok(())),
            ("            ", Ok(())),
            ("žluťoučký", Ok(())),
            ("eleven byte", Err(Unfit::Short)),
            ("", Err(Unfit::Short)),
            ("Ann@Example.com", Err(Unfit::Name)),
            (" ann@example.com ", Err(Unfit::Name)),
            ("ann@example.com!", Ok(())),
            ("twelve bytes\n", Err(Unfit::Control)),
            ("twelve\u{7f} bytes", Err(Unfit::Control)),
        ];
        for (text, expected) in table {
            assert_eq!(passphrase(text).fits("ann@example.com"), expected, "{text:?}");
        }
        assert_eq!(passphrase(&"x".repeat(1_024)).fits("ann"), Ok(()));
        assert_eq!(passphrase(&"x".repeat(1_025)).fits("ann"), Err(Unfit::Long));
        assert!(passphrase(&"x".repeat(1_025)).bytes().is_none());
    }

    #[test]
    fn letters_composed_and_decomposed_are_the_same_passphrase() {
        assert_eq!(passphrase("cafe\u{301} noir, s'il"), passphrase("caf\u{e9} noir, s'il"));
        assert_ne!(passphrase("cafe noir, s'il"), passphrase("caf\u{e9} noir, s'il"));
        // U+FB2C has the longest expansion of normal form C
        let expanding = passphrase(&"\u{fb2c}".repeat(100));
        assert_eq!(expanding.bytes().unwrap().len(), 600);
    }

    #[test]
    fn a_passphrase_is_not_shown_by_accident() {
        assert_eq!(format!("{:?}", passphrase("correct horse battery")), "Passphrase(…)");
    }
}
