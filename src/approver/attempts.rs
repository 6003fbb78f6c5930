//! How often a passphrase may be tried: five times, then with waits that double up to a minute.

use std::collections::BTreeMap;

use jiff::SignedDuration;

use super::{SessionId, Way};
use crate::{clock::Timestamp, json::Digest};

/// Failures without a wait.
const FREE: u32 = 5;

/// Failures are forgotten when so long none came after them.
const WINDOW: SignedDuration = SignedDuration::from_mins(5);

/// Longest wait, seconds.
const LONGEST: i64 = 60;

/// Whose failures are remembered at most. Beyond it the oldest is forgotten: since each costs its sender a stretched
/// passphrase, those are older than the waits by the time that this many others came.
const REMEMBERED: usize = 4_096;

/// Whose attempt it is. Attempts from within a session, and from a terminal of this machine, are counted apart, so that
/// nobody outside can keep an approver from acting by guessing wrongly in their name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who(Digest);

impl Who {
    pub(super) fn new(name: &str, way: Way) -> Self {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        match way {
            Way::Door => text.push(b'd'),
            Way::Terminal => text.push(b't'),
            Way::Session(SessionId(session)) => {
                text.push(b's');
                text.extend_from_slice(&session.to_be_bytes());
            }
        }
        Self(Digest::of(&text))
    }
}

/// The failures of late.
#[derive(Debug, Default)]
pub(super) struct Attempts(BTreeMap<Who, Failures>);

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Timestamp,
}

impl std::fmt::Debug for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Who(…)")
    }
}

impl Attempts {
    /// Counts an attempt as a failure until [`Attempts::succeeded`] takes that back, so that attempts at the same time
    /// count too.
    ///
    /// # Errors
    /// Seconds to wait, when it is too early for another; that one is not counted.
    pub(super) fn begin(&mut self, who: Who, now: Timestamp) -> Result<(), u64> {
        if self.0.len() >= REMEMBERED && !self.0.contains_key(&who) {
            self.make_room(now);
        }
        let failures = self.0.entry(who).or_insert(Failures { count: 0, last: now });
        // a clock that was put back must not make a wait longer than it is
        failures.last = failures.last.min(now);
        if now.duration_since(failures.last) >= WINDOW {
            failures.count = 0;
        }
        if let Some(beyond) = failures.count.checked_sub(FREE) {
            let wait = 1_i64.checked_shl(beyond.min(32)).unwrap_or(LONGEST).min(LONGEST);
            let left = SignedDuration::from_secs(wait) - now.duration_since(failures.last);
            if left > SignedDuration::ZERO {
                let whole = left.as_secs() + i64::from(left.subsec_nanos() > 0);
                return Err(u64::try_from(whole).unwrap_or(1));
            }
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        Ok(())
    }

    /// The passphrase was right: there is nothing to hold against them.
    pub(super) fn succeeded(&mut self, who: Who) {
        self.0.remove(&who);
    }

    fn make_room(&mut self, now: Timestamp) {
        self.0.retain(|_, failures| now.duration_since(failures.last) < WINDOW);
        if self.0.len() < REMEMBERED {
            return;
        }
        let oldest = self.0.iter().min_by_key(|(_, failures)| failures.last).map(|(who, _)| *who);
        if let Some(oldest) = oldest {
            self.0.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn ann() -> Who {
        Who::new("ann", Way::Door)
    }

    #[test]
    fn after_five_failures_the_waits_double_up_to_a_minute() {
        let mut attempts = Attempts::default();
        for _ in 0..5 {
            attempts.begin(ann(), at(0)).unwrap();
        }
        let mut now = 0;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            assert_eq!(attempts.begin(ann(), at(now)), Err(u64::try_from(wait).unwrap()));
            assert_eq!(attempts.begin(ann(), at(now + wait - 1)), Err(1));
            now += wait;
            attempts.begin(ann(), at(now)).unwrap();
        }
        assert_eq!(attempts.begin(ann(), at(now + 59)), Err(1));
        attempts.begin(ann(), at(now + 300)).unwrap();
        attempts.begin(ann(), at(now + 300)).unwrap();
    }

    #[test]
    fn a_success_and_another_name_and_another_session_begin_anew() {
        let mut attempts = Attempts::default();
        for _ in 0..5 {
            attempts.begin(ann(), at(0)).unwrap();
        }
        assert!(attempts.begin(ann(), at(0)).is_err());
        attempts.begin(Who::new("bob", Way::Door), at(0)).unwrap();
        attempts.begin(Who::new("ann", Way::Session(SessionId(1))), at(0)).unwrap();
        attempts.begin(ann(), at(1)).unwrap();
        attempts.succeeded(ann());
        for _ in 0..5 {
            attempts.begin(ann(), at(1)).unwrap();
        }
        assert!(attempts.begin(ann(), at(1)).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_latest_is_kept() {
        let mut attempts = Attempts::default();
        for _ in 0..5 {
            attempts.begin(ann(), at(1)).unwrap();
        }
        for guess in 0..4_300 {
            attempts.begin(Who::new("ann", Way::Session(SessionId(guess))), at(0)).unwrap();
        }
        assert_eq!(attempts.0.len(), REMEMBERED);
        assert_eq!(attempts.begin(ann(), at(1)), Err(1));
        attempts.begin(Who::new("bob", Way::Door), at(1_000)).unwrap();
        assert_eq!(attempts.0.len(), 1);
    }

    #[test]
    fn a_clock_that_is_put_back_locks_nobody_out() {
        let mut attempts = Attempts::default();
        for _ in 0..5 {
            attempts.begin(ann(), at(0)).unwrap();
        }
        assert_eq!(attempts.begin(ann(), at(-86_400)), Err(1));
        attempts.begin(ann(), at(-86_399)).unwrap();
    }

    proptest! {
        /// However guesses are timed, an hour has few of them, and no wait is longer than a minute.
        #[test]
        fn an_hour_has_few_guesses(pauses in proptest::collection::vec(0..90_i64, 1..600)) {
            let (mut attempts, mut now, mut taken) = (Attempts::default(), 0, 0);
            for pause in pauses {
                now += pause;
                match attempts.begin(ann(), at(now)) {
                    Ok(()) => taken += 1,
                    Err(wait) => prop_assert!((1..=60).contains(&wait)),
                }
            }
            prop_assert!(taken <= 12 + now / 60, "{taken} guesses in {now} seconds");
        }
    }
}
