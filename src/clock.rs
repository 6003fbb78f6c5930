//! Time and randomness, the two things that make a run differ from the last one: parameters everywhere else.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

pub use jiff::Timestamp;

/// Where the current time comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// A clock that stands still until it is moved: microseconds since the Unix epoch.
    Fixed(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `at` until [`Clock::advance`] moves it.
    pub fn fixed(at: Timestamp) -> Self {
        Self::Fixed(Arc::new(AtomicI64::new(at.as_microsecond())))
    }

    /// The current time, to the microsecond.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => truncated(Timestamp::now().as_microsecond()),
            Self::Fixed(at) => truncated(at.load(Ordering::SeqCst)),
        }
    }

    /// Moves a fixed clock by `by`, which may be negative; a system clock does not move.
    pub fn advance(&self, by: jiff::SignedDuration) {
        if let Self::Fixed(at) = self {
            let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            at.fetch_add(micros, Ordering::SeqCst);
        }
    }
}

fn truncated(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Bytes that nobody can guess, from the operating system's generator.
///
/// # Errors
/// [`NoRandomness`] when the generator fails; whoever asked must refuse.
pub fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(bytes)
}

/// The random generator failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRandomness;

impl std::fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the machine's random generator failed")
    }
}

impl std::error::Error for NoRandomness {}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A ULID of 26 characters: 48 bits of milliseconds since the Unix epoch, then 80 random bits
/// (<https://github.com/ulid/spec>). Text order is time order, to the millisecond.
///
/// # Errors
/// [`NoRandomness`] when the generator fails.
pub fn ulid(at: Timestamp) -> Result<String, NoRandomness> {
    let random: [u8; 10] = random()?;
    let millis = u64::try_from(at.as_millisecond()).unwrap_or(0) & 0xffff_ffff_ffff;
    let low = random.iter().fold(0_u128, |sum, byte| (sum << 8) | u128::from(*byte));
    let value = (u128::from(millis) << 80) | low;
    let text = (0..26)
        .rev()
        .map(|place| {
            let digit = usize::try_from((value >> (place * 5)) & 31).unwrap_or(0);
            char::from(CROCKFORD.get(digit).copied().unwrap_or(b'0'))
        })
        .collect();
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulid_sorts_by_time_and_has_26_characters() {
        let early = ulid(Timestamp::from_millisecond(1_000).unwrap()).unwrap();
        let late = ulid(Timestamp::from_millisecond(2_000).unwrap()).unwrap();
        assert_eq!(early.len(), 26);
        assert!(early < late);
        assert!(early.starts_with("00000000Z8"), "{early}");
    }

    #[test]
    fn a_fixed_clock_moves_only_when_told() {
        let clock = Clock::fixed(Timestamp::from_second(10).unwrap());
        assert_eq!(clock.now(), clock.now());
        clock.advance(jiff::SignedDuration::from_secs(5));
        assert_eq!(clock.now(), Timestamp::from_second(15).unwrap());
    }
}
