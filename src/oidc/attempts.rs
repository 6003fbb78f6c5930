//! Sign-ins that were begun: everything that is known of one is sealed into a cookie of the browser that began it, so that
//! nobody can fill a memory with them, and each serves once.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};

use crate::{
    call::Fault,
    clock::{Timestamp, random},
    json::Digest,
    seal::{self, Seal},
};

/// How long somebody may take at the provider.
pub const PATIENCE: jiff::SignedDuration = jiff::SignedDuration::from_mins(10);
/// Attempts that came back and are remembered, so that they do not serve twice. The provider's code serves once too.
const REMEMBERED: usize = 8_192;
/// Bytes of a sealed attempt.
const LONGEST: usize = 3_500;

/// What was asked of a provider, and why.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Attempt {
    /// The provider's name in the configuration.
    pub provider: String,
    /// What the provider sends back with its answer.
    pub state: String,
    /// What its token has to contain.
    pub nonce: String,
    /// The secret half of PKCE (RFC 7636).
    pub verifier: String,
    /// When it was begun, seconds.
    pub begun: i64,
    /// What it is for.
    pub purpose: Purpose,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("provider", &self.provider)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// Why somebody is sent to a provider.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub enum Purpose {
    /// To sign in, and go on to that page.
    SignIn {
        /// A path of the console's.
        next: String,
    },
    /// To countersign: the provider vouches that the person was there for this act.
    Countersign {
        /// The session that asked, which has to live on.
        session: u64,
        /// Whom the token has to be about.
        subject: String,
        /// The hold.
        hold: String,
        /// Its digest, as it was on screen.
        digest: String,
        /// The newest entry about it that was on screen.
        as_of: u64,
    },
    /// To connect an account with a tool server.
    Connect {
        /// The session that asked, which has to live on.
        session: u64,
        /// The tool server.
        upstream: String,
    },
}

/// There is no such attempt: it was begun in another browser, too long ago, or came back already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAttempt;

/// Seals attempts, and opens each once.
pub struct Attempts {
    seal: Seal,
    used: Mutex<BTreeMap<Digest, i64>>,
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attempts(…)")
    }
}

impl Attempts {
    /// With a key of its own: a restart ends what was begun before.
    ///
    /// # Errors
    /// [`Fault`] when there is no randomness.
    pub fn new() -> Result<Self, Fault> {
        let key: [u8; 32] = random().map_err(|problem| Fault(problem.to_string()))?;
        Ok(Self { seal: Seal::new(&key)?, used: Mutex::default() })
    }

    /// An attempt as a cookie's value.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be sealed.
    pub fn seal(&self, attempt: &Attempt) -> Result<String, Fault> {
        let text = serde_json::to_vec(attempt).map_err(|problem| Fault(problem.to_string()))?;
        self.seal.seal(seal::Purpose::SignIn, &text)
    }

    /// The attempt in a cookie, if it was sealed here, is for that provider, and the provider sent its `state` back in
    /// time and for the first time.
    ///
    /// # Errors
    /// [`NoAttempt`]
    pub fn open(&self, cookie: &str, provider: &str, state: &str, now: Timestamp) -> Result<Attempt, NoAttempt> {
        if cookie.len() > LONGEST {
            return Err(NoAttempt);
        }
        let text = self.seal.open(seal::Purpose::SignIn, cookie).ok_or(NoAttempt)?;
        let attempt: Attempt = serde_json::from_slice(&text).map_err(|_| NoAttempt)?;
        let same = verify_slices_are_equal(attempt.state.as_bytes(), state.as_bytes()).is_ok();
        let now = now.as_second();
        let in_time = |begun: i64| (-60..PATIENCE.as_secs()).contains(&now.saturating_sub(begun));
        if !same || attempt.provider != provider || !in_time(attempt.begun) {
            return Err(NoAttempt);
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|_, begun| in_time(*begun));
        if used.len() >= REMEMBERED {
            // who comes back that often has another thing in mind: what was begun first is forgotten first
            let oldest = used.iter().min_by_key(|(_, begun)| **begun).map(|(digest, _)| *digest);
            oldest.and_then(|oldest| used.remove(&oldest));
        }
        match used.insert(Digest::of(state.as_bytes()), attempt.begun) {
            None => Ok(attempt),
            Some(_) => Err(NoAttempt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn attempt() -> Attempt {
        Attempt {
            provider: "corp".to_owned(),
            state: "s".repeat(43),
            nonce: "n".repeat(43),
            verifier: "v".repeat(43),
            begun: at(0).as_second(),
            purpose: Purpose::SignIn { next: "/waiting".to_owned() },
        }
    }

    #[test]
    fn what_was_begun_comes_back_once_in_time_and_in_its_own_browser() {
        let attempts = Attempts::new().unwrap();
        let begun = attempt();
        let cookie = attempts.seal(&begun).unwrap();
        assert!(!cookie.contains(&begun.verifier) && cookie.len() < LONGEST);
        let state = begun.state.clone();
        for (cookie, provider, state, now) in [
            // another browser has no cookie, or one of its own
            ("", "corp", &*state, at(1)),
            (&*Attempts::new().unwrap().seal(&begun).unwrap(), "corp", &*state, at(1)),
            // another provider's answer
            (&*cookie, "other", &*state, at(1)),
            // another attempt's state
            (&*cookie, "corp", "x", at(1)),
            (&*cookie, "corp", "", at(1)),
            // too late
            (&*cookie, "corp", &*state, at(601)),
            (&cookie[..cookie.len() - 2], "corp", &*state, at(1)),
        ] {
            assert_eq!(attempts.open(cookie, provider, state, now), Err(NoAttempt), "{provider} {state} {now}");
        }
        assert_eq!(attempts.open(&cookie, "corp", &state, at(599)), Ok(begun.clone()));
        assert_eq!(attempts.open(&cookie, "corp", &state, at(599)), Err(NoAttempt), "a replay");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let attempts = Attempts::new().unwrap();
        for number in 0..REMEMBERED + 10 {
            let begun = Attempt { state: format!("{number}"), ..attempt() };
            let cookie = attempts.seal(&begun).unwrap();
            attempts.open(&cookie, "corp", &begun.state, at(0)).unwrap();
        }
        assert_eq!(attempts.used.lock().unwrap().len(), REMEMBERED);
        let late = Attempt { begun: at(5_000).as_second(), ..attempt() };
        let cookie = attempts.seal(&late).unwrap();
        attempts.open(&cookie, "corp", &late.state, at(5_000)).unwrap();
        assert_eq!(attempts.used.lock().unwrap().len(), 1);
    }
}
