//! Which letters are seen as they are, and what the words made of them could be taken for.

use std::{collections::BTreeSet, fmt::Write as _};

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{BidiClass, CanonicalCombiningClass, DefaultIgnorableCodePoint, GeneralCategory},
};
use unicode_security::{MixedScript as _, skeleton};

use super::Flag;

/// How many combining marks one letter may carry: more run into the lines above and below.
const MARKS: usize = 3;

/// The text with every character that is not seen, or that changes how its neighbours are seen, written
/// out as `<U+202E>`: controls, line separators, bidirectional marks, zero-width and tag characters,
/// variation selectors, odd spaces, fillers, private use, unassigned, combining marks on nothing or in heaps.
///
/// Where the text has `<U+` itself, its `<` is written out, so that no two texts look the same:
/// replacing every `<U+HEX>` by its character gives the text back.
pub fn visible(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + text.len() / 4);
    let mut letters = Letters::default();
    for (at, letter) in text.char_indices() {
        let ours = letter == '<' && text.get(at..).is_some_and(|from| from.starts_with("<U+"));
        if letters.hides(letter) || ours {
            // writing to a string does not fail
            let _written = write!(out, "<U+{:04X}>", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
    out
}

/// Printable ASCII is seen as it is, unless it could pass for what we write out.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && !text.contains("<U+")
}

/// What came before the letter that is looked at.
#[derive(Default)]
struct Letters {
    /// Something stands there that a mark can be seen on.
    bears: bool,
    marks: usize,
}

impl Letters {
    fn hides(&mut self, letter: char) -> bool {
        if letter.is_ascii() {
            (self.bears, self.marks) = (letter.is_ascii_alphabetic(), 0);
            return letter.is_ascii_control();
        }
        let category = CodePointMapData::<GeneralCategory>::new().get(letter);
        if matches!(
            category,
            GeneralCategory::NonspacingMark | GeneralCategory::SpacingMark | GeneralCategory::EnclosingMark
        ) {
            self.marks += 1;
            return !self.bears || self.marks > MARKS || strikes(letter, category) || is_ignorable(letter);
        }
        let hidden = is_unseen(letter, category);
        self.bears = !hidden && letter.is_alphabetic();
        self.marks = 0;
        hidden
    }
}

/// Marks that are drawn over their letter.
fn strikes(letter: char, category: GeneralCategory) -> bool {
    category == GeneralCategory::EnclosingMark
        || CodePointMapData::<CanonicalCombiningClass>::new().get(letter) == CanonicalCombiningClass::Overlay
}

fn is_ignorable(letter: char) -> bool {
    CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(letter)
}

fn is_unseen(letter: char, category: GeneralCategory) -> bool {
    let odd = matches!(
        category,
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::Surrogate
            | GeneralCategory::PrivateUse
            | GeneralCategory::Unassigned
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
            | GeneralCategory::SpaceSeparator
    );
    // assigned and drawn, but as nothing: the braille blank, the object replacement character, the null note head
    odd || is_ignorable(letter) || matches!(letter, '\u{2800}' | '\u{fffc}' | '\u{1d159}' | '\u{16fe4}')
}

/// What a reader of the text must be told, beyond what [`visible`] shows.
pub(super) fn flags(text: &str, flags: &mut BTreeSet<Flag>) {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\n' | b'\t')) {
            flags.insert(Flag::Control);
        }
        return;
    }
    let mut letters = Letters::default();
    let classes = CodePointMapData::<BidiClass>::new();
    for letter in text.chars() {
        let hides = letters.hides(letter);
        if letter.is_control() {
            if !matches!(letter, '\n' | '\t') {
                flags.insert(Flag::Control);
            }
        } else if !letter.is_ascii() {
            let class = classes.get(letter);
            if is_bidi_control(letter)
                || matches!(class, BidiClass::RightToLeft | BidiClass::ArabicLetter | BidiClass::ArabicNumber)
            {
                flags.insert(Flag::Bidi);
            } else if hides {
                flags.insert(Flag::Invisible);
            }
        }
    }
    if looks_like_punctuation(text) {
        flags.insert(Flag::Confusable);
    }
    for word in text.split(|letter: char| !is_part_of_word(letter)).filter(|word| !word.is_ascii()) {
        match likeness(word) {
            Likeness::Mixed => drop(flags.insert(Flag::MixedScript)),
            Likeness::Ascii => drop(flags.insert(Flag::Confusable)),
            Likeness::Both => flags.extend([Flag::MixedScript, Flag::Confusable]),
            Likeness::Itself => {}
        }
    }
}

pub(super) fn is_bidi_control(letter: char) -> bool {
    matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Whether a sign looks like one of ASCII and is not, as U+2215 in a path: quotes and dashes of ordinary prose apart.
fn looks_like_punctuation(text: &str) -> bool {
    let mut before = None;
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        let after = letters.peek().copied();
        let prose = match letter {
            '\u{2018}' | '\u{2019}' | '\u{201c}' | '\u{201d}' | '\u{2026}' => true,
            '\u{2013}' | '\u{2014}' => {
                before.is_some_and(char::is_whitespace) && after.is_some_and(char::is_whitespace)
                    || before.is_some_and(char::is_alphanumeric) && after.is_some_and(char::is_alphanumeric)
            }
            _ => letter.is_ascii() || letter.is_whitespace() || letter.is_control() || is_part_of_word(letter),
        };
        if !prose && skeleton(letter.encode_utf8(&mut [0; 4])).all(|like| like.is_ascii_graphic()) {
            return true;
        }
        before = Some(letter);
    }
    false
}

/// Letters, digits and what is not seen in between: that divides no word for whoever reads it.
fn is_part_of_word(letter: char) -> bool {
    letter.is_alphanumeric()
        || !letter.is_ascii() && {
            let category = CodePointMapData::<GeneralCategory>::new().get(letter);
            matches!(
                category,
                GeneralCategory::NonspacingMark
                    | GeneralCategory::SpacingMark
                    | GeneralCategory::EnclosingMark
                    | GeneralCategory::Format
            ) || is_ignorable(letter)
        }
}

enum Likeness {
    Itself,
    /// It has letters of several scripts (UTS 39, section 5.1).
    Mixed,
    /// It looks like a word of ASCII letters (UTS 39, section 4).
    Ascii,
    Both,
}

fn likeness(word: &str) -> Likeness {
    let mixed = !word.is_single_script();
    let mut letters = skeleton(word).peekable();
    let ascii = letters.peek().is_some() && letters.all(|letter| letter.is_ascii());
    match (mixed, ascii) {
        (false, false) => Likeness::Itself,
        (true, false) => Likeness::Mixed,
        (false, true) => Likeness::Ascii,
        (true, true) => Likeness::Both,
    }
}

/// The text made [`visible`], from its first `most` bytes alone, and how many bytes of it are not shown.
pub(super) fn beginning(text: &str, most: usize) -> (String, usize) {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    let start = text.get(..end).unwrap_or_default();
    (visible(start), text.len() - start.len())
}
