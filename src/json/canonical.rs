//! RFC 8785 canonical form, within I-JSON.

use std::{cmp::Ordering, fmt};

use bytes::Bytes;

use super::{Digest, Number, Value, decimal::Decimal};

/// A tree in canonical form and its bytes: what is validated, decided on, shown, hashed, recorded and sent.
#[derive(Clone, Debug)]
pub struct Canonical {
    tree: Value,
    bytes: Bytes,
    digest: Digest,
}

/// Why a tree has no canonical form: a number outside I-JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCanonical {
    /// JSON Pointer (RFC 6901) to the number.
    pub pointer: String,
    /// What is wrong with it, for the one who sent it.
    pub problem: &'static str,
}

impl fmt::Display for NotCanonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.pointer, self.problem)
    }
}

impl std::error::Error for NotCanonical {}

impl Canonical {
    /// Brings a tree into canonical form: members sorted by UTF-16 code units, numbers as ECMAScript writes them.
    ///
    /// A number that is integral, however it is written (`1.0`, `1E0`, `-0`), becomes the plain integer.
    ///
    /// # Errors
    /// [`NotCanonical`] for an integer beyond ±(2^53−1), or a decimal that a double does not give back.
    pub fn of(mut tree: Value) -> Result<Self, NotCanonical> {
        settle(&mut tree).map_err(|Misfit { path, problem }| NotCanonical {
            pointer: path.iter().rev().fold(String::new(), |pointer, step| pointer + "/" + step),
            problem,
        })?;
        let bytes = Bytes::from(tree.to_bytes());
        Ok(Self { digest: Digest::of(&bytes), tree, bytes })
    }

    /// The canonical tree: members sorted, number texts canonical.
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// A number without canonical form, and the steps to it, innermost first.
struct Misfit {
    path: Vec<String>,
    problem: &'static str,
}

impl Misfit {
    fn below(mut self, step: &str) -> Self {
        self.path.push(step.replace('~', "~0").replace('/', "~1"));
        self
    }
}

fn settle(value: &mut Value) -> Result<(), Misfit> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
        Value::Number(number) => number.settle().map_err(|problem| Misfit { path: Vec::new(), problem }),
        Value::Array(items) => {
            let mut items = items.iter_mut().enumerate();
            items.try_for_each(|(place, item)| settle(item).map_err(|misfit| misfit.below(&place.to_string())))
        }
        Value::Object(object) => {
            object.rearrange(|name, value| settle(value).map_err(|misfit| misfit.below(name)), by_utf16)
        }
    }
}

/// The order of the UTF-16 code units of two names (RFC 8785, section 3.2.3).
///
/// The bytes of UTF-8 sort as code points do. UTF-16 differs only in that the surrogates of what lies
/// beyond U+FFFF (lead byte F0 and up) come before U+E000 to U+FFFF (lead bytes EE and EF).
fn by_utf16(left: &str, right: &str) -> Ordering {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    match left.iter().zip(right).find(|(left, right)| left != right) {
        Some((0xf0.., 0xee | 0xef)) => Ordering::Less,
        Some((0xee | 0xef, 0xf0..)) => Ordering::Greater,
        Some((left, right)) => left.cmp(right),
        None => left.len().cmp(&right.len()),
    }
}

impl Number {
    fn settle(&mut self) -> Result<(), &'static str> {
        // Most numbers are short plain integers, and those are canonical as they are, but for `-0`.
        let digits = self.0.strip_prefix('-').unwrap_or(&self.0).as_bytes();
        let short = digits.len() <= 15 && digits.iter().all(u8::is_ascii_digit);
        if short && *self.0 != *"-0" {
            return Ok(());
        }
        let exact = Decimal::of(&self.0);
        let text = if exact.is_integer() {
            let integer = exact.safe_integer().ok_or("is an integer beyond ±(2^53−1): send it as a string")?;
            integer.to_string()
        } else {
            if Decimal::shortest(self.as_f64()).as_ref() != Some(&exact) {
                return Err("is a decimal that a double cannot hold exactly: send fewer digits or a string");
            }
            exact.to_ecmascript()
        };
        if *self.0 != *text {
            self.0 = text.into_boxed_str();
        }
        Ok(())
    }
}
