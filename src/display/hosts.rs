//! The hosts that a text names, as a resolver would be asked for them.

use url::{Host, Url, quirks::domain_to_unicode};

use super::{HostName, visible};

/// So many hosts are looked for in one text.
const MOST: usize = 32;
/// A word longer than this names no host (RFC 1035 allows 253).
const LONGEST: usize = 4096;

/// The hosts of URLs in the text, and those of mail addresses and bare names that are not plain ASCII.
pub(super) fn hosts(text: &str) -> Vec<HostName> {
    let mut found: Vec<HostName> = Vec::new();
    let apart = |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '<' | '>' | '`');
    // a text without any of these marks names no host
    if !text.contains(['.', ':', '@', '\u{3002}', '\u{ff0e}', '\u{ff61}']) {
        return found;
    }
    for word in text.split(apart).filter(|word| (3..=LONGEST).contains(&word.len())) {
        let host = match word.find("://") {
            Some(colon) => of_url(word, colon),
            None => of_name(word),
        };
        if let Some(host) = host
            && !found.contains(&host)
        {
            found.push(host);
            if found.len() >= MOST {
                break;
            }
        }
    }
    found
}

fn of_url(word: &str, colon: usize) -> Option<HostName> {
    let before = word.get(..colon)?;
    let scheme = before.rfind(|letter: char| !letter.is_ascii_alphanumeric() && !matches!(letter, '+' | '-' | '.'));
    let start =
        scheme.map_or(0, |at| at + before.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8));
    let url = Url::parse(word.get(start..)?).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    Some(named(host))
}

/// A name, perhaps behind `user@` and before a port or a path, that is more than plain ASCII.
fn of_name(word: &str) -> Option<HostName> {
    let name = word.rsplit('@').next()?;
    let name = name.split(['/', '?', '#', ':', ',', ';', ')', '(', '[', ']', '{', '}']).next()?;
    let dotted = name.contains(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']);
    let odd = !name.is_ascii()
        || name.split('.').any(|label| label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--")));
    if !dotted || !odd {
        return None;
    }
    match Host::parse(name.trim_matches('.')).ok()? {
        Host::Domain(host) => Some(named(&host)),
        Host::Ipv4(address) => Some(named(&address.to_string())),
        Host::Ipv6(_) => None,
    }
}

fn named(host: &str) -> HostName {
    let unicode = domain_to_unicode(host);
    let unicode = (unicode != host && !unicode.is_empty()).then(|| visible(&unicode));
    HostName { ascii: visible(host), unicode }
}
