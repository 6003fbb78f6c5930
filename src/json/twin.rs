//! Member names that another parser could take for a name of the protocol.

use super::Object;

/// The first member whose name is not one of `names` but reads as one to a parser that ignores case
/// (with Unicode's simple folding: `ſ` is an s and U+212A is a k) or stops at NUL or another control
/// character. Whoever reads `names` from an object refuses one that has such a twin.
///
/// `names` are ASCII.
pub fn twin<'o>(object: &'o Object, names: &[&str]) -> Option<&'o str> {
    object
        .iter()
        .map(|(member, _)| member)
        .find(|member| !names.contains(member) && names.iter().any(|name| reads_as(member, name)))
}

fn reads_as(member: &str, name: &str) -> bool {
    let seen = member.chars().take_while(|letter| !letter.is_control()).map(folded);
    seen.eq(name.chars().map(folded))
}

/// The only letters outside ASCII that any folding, the Turkic one included, brings into it.
fn folded(letter: char) -> char {
    match letter {
        'ſ' => 's',
        '\u{212a}' => 'k',
        'ı' | 'İ' => 'i',
        letter => letter.to_ascii_lowercase(),
    }
}
