//! CBOR as authenticators write it (CTAP 2, section 8: canonical CBOR), and no more of it.
//!
//! Definite lengths, shortest lengths, no tags, no floats, no name twice. What is longer, deeper or wider than anything an
//! authenticator has to say is refused before it costs anything.

use super::Flaw;

/// Levels of nesting.
const DEPTH: u8 = 4;
/// Items of one array, or members of one map.
const ITEMS: u64 = 32;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cbor<'a> {
    Integer(i64),
    Bytes(&'a [u8]),
    Text(&'a str),
    Array(Vec<Cbor<'a>>),
    Map(Vec<(Cbor<'a>, Cbor<'a>)>),
    Bool(bool),
    Null,
}

impl<'a> Cbor<'a> {
    /// The first value in `bytes`, and what comes after it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Flaw> {
        Self::read_within(bytes, DEPTH)
    }

    /// The only value in `bytes`.
    pub(super) fn read_all(bytes: &'a [u8]) -> Result<Self, Flaw> {
        match Self::read(bytes)? {
            (value, []) => Ok(value),
            _ => Err(Flaw::Malformed),
        }
    }

    /// A map's members; `None` of what is no map.
    pub(super) fn members(&self) -> Option<&[(Self, Self)]> {
        match self {
            Self::Map(members) => Some(members),
            _ => None,
        }
    }

    fn read_within(bytes: &'a [u8], depth: u8) -> Result<(Self, &'a [u8]), Flaw> {
        let (first, rest) = bytes.split_first().ok_or(Flaw::Malformed)?;
        let (kind, short) = (first >> 5, first & 31);
        if kind == 7 {
            return match short {
                20 => Ok((Self::Bool(false), rest)),
                21 => Ok((Self::Bool(true), rest)),
                22 => Ok((Self::Null, rest)),
                _ => Err(Flaw::Malformed),
            };
        }
        let (number, rest) = number(short, rest)?;
        let deeper = || depth.checked_sub(1).filter(|_| number <= ITEMS).ok_or(Flaw::Malformed);
        match kind {
            0 | 1 => {
                let magnitude = i64::try_from(number).map_err(|_| Flaw::Malformed)?;
                Ok((Self::Integer(if kind == 0 { magnitude } else { -1 - magnitude }), rest))
            }
            2 | 3 => {
                let length = usize::try_from(number).map_err(|_| Flaw::Malformed)?;
                let (content, rest) = rest.split_at_checked(length).ok_or(Flaw::Malformed)?;
                if kind == 2 {
                    return Ok((Self::Bytes(content), rest));
                }
                let text = std::str::from_utf8(content).map_err(|_| Flaw::Malformed)?;
                Ok((Self::Text(text), rest))
            }
            4 => {
                let depth = deeper()?;
                let (mut items, mut rest) = (Vec::new(), rest);
                for _ in 0..number {
                    let (item, after) = Self::read_within(rest, depth)?;
                    items.push(item);
                    rest = after;
                }
                Ok((Self::Array(items), rest))
            }
            5 => {
                let depth = deeper()?;
                let (mut members, mut rest): (Vec<(Self, Self)>, _) = (Vec::new(), rest);
                for _ in 0..number {
                    let (name, after) = Self::read_within(rest, 0)?;
                    if !matches!(name, Self::Integer(_) | Self::Text(_)) || members.iter().any(|(had, _)| *had == name)
                    {
                        return Err(Flaw::Malformed);
                    }
                    let (value, after) = Self::read_within(after, depth)?;
                    members.push((name, value));
                    rest = after;
                }
                Ok((Self::Map(members), rest))
            }
            // a tag
            _ => Err(Flaw::Malformed),
        }
    }
}

/// The number that a first byte's low bits begin, in as few bytes as it has.
fn number(short: u8, rest: &[u8]) -> Result<(u64, &[u8]), Flaw> {
    let width = match short {
        0..=23 => return Ok((short.into(), rest)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        // reserved, or of indefinite length
        _ => return Err(Flaw::Malformed),
    };
    let (digits, rest) = rest.split_at_checked(width).ok_or(Flaw::Malformed)?;
    let number = digits.iter().fold(0_u64, |sum, digit| sum << 8 | u64::from(*digit));
    let least = match width {
        1 => 24,
        2 => 1 << 8,
        4 => 1 << 16,
        _ => 1 << 32,
    };
    if number < least { Err(Flaw::Malformed) } else { Ok((number, rest)) }
}
