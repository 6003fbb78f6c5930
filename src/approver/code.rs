//! One-time codes that a person passes on by mouth or paper: 100 random bits, grouped, forgiving to read.

use std::fmt;

use zeroize::Zeroizing;

use crate::{
    clock::{NoRandomness, random},
    json::Digest,
};

/// Crockford's alphabet: no I, L, O or U, which are read as other letters or spell words.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters of a code, 5 bits each.
const LENGTH: usize = 20;

/// Characters between two dashes.
const GROUP: usize = 4;

/// Longer texts are no codes; they are not looked at.
const LONGEST: usize = 64;

/// What a code is hashed with, so that its hash is of no use elsewhere.
const LABEL: &[u8] = b"countersign enrolment code v1\0";

/// A one-time code: 100 random bits as `ABCD-EFGH-JKMN-PQRS-TVWX`.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(Zeroizing<[u8; LENGTH]>);

impl Code {
    /// A new code.
    ///
    /// # Errors
    /// [`NoRandomness`] when the machine has none to give.
    pub fn new() -> Result<Self, NoRandomness> {
        let random: Zeroizing<[u8; LENGTH]> = Zeroizing::new(random()?);
        let mut letters = Zeroizing::new([0; LENGTH]);
        for (letter, byte) in letters.iter_mut().zip(random.iter()) {
            *letter = ALPHABET.get(usize::from(byte & 31)).copied().unwrap_or(b'0');
        }
        Ok(Self(letters))
    }

    /// Reads a code as a person types it: case, dashes and blanks do not count, `O` is `0`, `I` and `L` are `1`.
    pub fn read(text: &str) -> Option<Self> {
        if text.len() > LONGEST {
            return None;
        }
        let mut letters = Zeroizing::new([0; LENGTH]);
        let mut places = letters.iter_mut();
        for byte in text.bytes().filter(|byte| !matches!(byte, b'-' | b' ')) {
            let letter = match byte.to_ascii_uppercase() {
                b'O' => b'0',
                b'I' | b'L' => b'1',
                other => other,
            };
            if !ALPHABET.contains(&letter) {
                return None;
            }
            *places.next()? = letter;
        }
        places.next().is_none().then_some(Self(letters))
    }

    /// What is kept of it. The code has 100 random bits, so a plain hash does not give it away.
    pub(super) fn digest(&self) -> Digest {
        let mut labelled = Zeroizing::new(LABEL.to_vec());
        labelled.extend_from_slice(self.0.as_slice());
        Digest::of(&labelled)
    }

    /// The text to pass on.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(LENGTH + LENGTH / GROUP));
        for (place, letter) in self.0.iter().enumerate() {
            if place > 0 && place % GROUP == 0 {
                text.push('-');
            }
            text.push(char::from(*letter));
        }
        text
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_code_is_five_groups_of_four_and_never_the_same() {
        let codes: std::collections::BTreeSet<String> =
            (0..100).map(|_| Code::new().unwrap().reveal().to_string()).collect();
        assert_eq!(codes.len(), 100);
        for code in codes {
            let groups: Vec<&str> = code.split('-').collect();
            assert_eq!(groups.iter().map(|group| group.len()).collect::<Vec<_>>(), [4; 5], "{code}");
            assert!(code.bytes().all(|byte| byte == b'-' || ALPHABET.contains(&byte)), "{code}");
        }
    }

    #[test]
    fn a_code_is_not_shown_by_accident() {
        let code = Code::new().unwrap();
        assert_eq!(format!("{code:?}"), "Code(…)");
    }

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code = Code::read("0123-4567-89AB-CDEF-GH10").unwrap();
        for text in [
            "01234567 89abcdef gh10",
            "o123-4567-89ab-cdef-ghi0",
            "OL23-4567-89AB-CDEF-GHLO",
            " 0-1-23456789abcdefgh10-",
        ] {
            assert_eq!(Code::read(text), Some(code.clone()), "{text}");
        }
        for text in [
            "",
            "0123-4567-89AB-CDEF-GH1",
            "0123-4567-89AB-CDEF-GH100",
            "0123-4567-89AB-CDEF-GHU0",
            "0123_4567_89AB_CDEF_GH10",
            "0123-4567-89AB-CDEF-GH1\u{660}",
            "0123-4567-89AB-CDEF-GH10\n",
        ] {
            assert_eq!(Code::read(text), None, "{text}");
        }
        assert_eq!(Code::read(&format!("0123-4567-89AB-CDEF-GH10{}", "-".repeat(60))), None);
    }

    proptest! {
        #[test]
        fn any_spelling_of_a_code_is_that_code(spelling in proptest::collection::vec((any::<bool>(), 0..3_usize), 20)) {
            let code = Code::new().unwrap();
            let mut text = String::new();
            for (letter, (lower, blanks)) in code.reveal().replace('-', "").chars().zip(spelling) {
                text.push(if lower { letter.to_ascii_lowercase() } else { letter });
                text.push_str(["", "-", " "][blanks]);
            }
            prop_assert_eq!(Code::read(&text), Some(code));
        }

        #[test]
        fn no_text_is_too_strange_to_be_refused(text in ".{0,80}") {
            if let Some(code) = Code::read(&text) {
                prop_assert_eq!(Code::read(&code.reveal()), Some(code));
            }
        }
    }
}
