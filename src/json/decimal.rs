//! The exact value of a number's text, without ever rounding it.

use std::borrow::Cow;

/// A decimal number: the digits after a leading `0.`, times ten to the power of `point`.
///
/// The digits neither begin nor end with a zero, and zero has none, so two numbers are equal exactly
/// when these parts are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decimal<'t> {
    pub(super) negative: bool,
    pub(super) digits: Cow<'t, [u8]>,
    pub(super) point: i64,
}

/// 2^53 − 1: beyond it a double skips integers, so I-JSON (RFC 7493, section 2.2) stops there.
const LARGEST_INTEGER: u64 = (1 << 53) - 1;

/// Exponents are cut here, far beyond those of any double and of any text that fits in memory.
const FARTHEST: i64 = 1 << 40;

impl<'t> Decimal<'t> {
    /// The value of a number's text, which is JSON's grammar for numbers.
    pub(super) fn of(text: &'t str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits: Cow<'t, [u8]> = if fraction.is_empty() {
            Cow::Borrowed(whole.as_bytes())
        } else {
            Cow::Owned([whole.as_bytes(), fraction.as_bytes()].concat())
        };
        let leading = digits.iter().take_while(|&&digit| digit == b'0').count();
        let trailing = digits.iter().rev().take_while(|&&digit| digit == b'0').count();
        if leading == digits.len() {
            return Self { negative: false, digits: Cow::Borrowed(&[]), point: 0 };
        }
        let end = digits.len() - trailing;
        let point = i64::try_from(whole.len()).unwrap_or(FARTHEST) - i64::try_from(leading).unwrap_or(FARTHEST);
        let digits = match digits {
            Cow::Borrowed(digits) => Cow::Borrowed(digits.get(leading..end).unwrap_or_default()),
            Cow::Owned(mut digits) => {
                digits.truncate(end);
                digits.drain(..leading);
                Cow::Owned(digits)
            }
        };
        Self { negative, digits, point: point + exponent_of(exponent) }
    }

    /// The shortest decimal that reads back as this double, of several the closest, of two the even one, as
    /// ECMAScript asks; `None` when it is not finite. (The formatting of `core` takes the odd one of two.)
    pub(super) fn shortest(value: f64) -> Option<Decimal<'static>> {
        let text = serde_json::Number::from_f64(value)?.to_string();
        let Decimal { negative, digits, point } = Decimal::of(&text);
        Some(Decimal { negative, digits: Cow::Owned(digits.into_owned()), point })
    }

    /// Whether it has no fraction.
    pub(super) fn is_integer(&self) -> bool {
        i64::try_from(self.digits.len()).is_ok_and(|length| length <= self.point) || self.digits.is_empty()
    }

    /// The value when it is an integer within ±(2^53−1).
    pub(super) fn safe_integer(&self) -> Option<i64> {
        if self.digits.is_empty() {
            return Some(0);
        }
        if !self.is_integer() || self.point > 16 {
            return None;
        }
        let mut value = 0;
        for place in 0..usize::try_from(self.point).ok()? {
            let digit = self.digits.get(place).copied().unwrap_or(b'0');
            value = value * 10 + u64::from(digit - b'0');
        }
        let value = i64::try_from(value).ok().filter(|_| value <= LARGEST_INTEGER)?;
        Some(if self.negative { -value } else { value })
    }

    /// The text that ECMAScript's Number::toString gives (ECMA-262, section 6.1.6.1.20), as RFC 8785,
    /// section 3.2.2.3, asks, taking the digits for the shortest ones.
    pub(super) fn to_ecmascript(&self) -> String {
        let digits = String::from_utf8_lossy(&self.digits);
        let length = i64::try_from(digits.len()).unwrap_or(i64::MAX);
        let zeros = |count: i64| "0".repeat(usize::try_from(count).unwrap_or(0));
        let sign = if self.negative { "-" } else { "" };
        if digits.is_empty() {
            "0".to_owned()
        } else if length <= self.point && self.point <= 21 {
            format!("{sign}{digits}{}", zeros(self.point - length))
        } else if 0 < self.point && self.point <= 21 {
            let (whole, fraction) = digits.split_at(usize::try_from(self.point).unwrap_or(0));
            format!("{sign}{whole}.{fraction}")
        } else if -6 < self.point && self.point <= 0 {
            format!("{sign}0.{}{digits}", zeros(-self.point))
        } else {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            format!("{sign}{first}{dot}{rest}e{:+}", self.point - 1)
        }
    }
}

fn exponent_of(text: &str) -> i64 {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let digits = digits.trim_start_matches('0');
    let size = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(FARTHEST) };
    sign * size.min(FARTHEST)
}
