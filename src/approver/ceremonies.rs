//! Questions to authenticators that wait for their answers: each is good once, for two minutes, for what it was asked for.
//!
//! Those that anybody may have asked, signing in, are kept apart from the others: however many are asked at the door, none
//! of an approver's who is in, or who enrols, is forgotten for them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::SignedDuration;

use super::{SessionId, sealed::Sealed};
use crate::{
    clock::{NoRandomness, Timestamp, random},
    hold::Credential,
    json::Digest,
    passkey::Passkey,
};

/// How long a question is good.
const GOOD_FOR: SignedDuration = SignedDuration::from_mins(2);

/// Questions of one kind at once. One more, and the oldest is forgotten.
const SIGNING_IN: usize = 4_096;
const OTHERS: usize = 256;

/// The questions there are.
#[derive(Debug)]
pub(super) struct Ceremonies {
    /// Who signs in: nobody knows who it will be.
    pub(super) signing_in: Questions<()>,
    /// Whoever has that one-time code makes their first passkey.
    pub(super) enrolling: Questions<Digest>,
    /// Who is signed in there makes one more passkey.
    pub(super) adding: Questions<SessionId>,
    /// Who is signed in there signs that they want to be known by that too.
    pub(super) offers: Questions<(SessionId, Offer)>,
}

impl Default for Ceremonies {
    fn default() -> Self {
        Self {
            signing_in: Questions::of(SIGNING_IN),
            enrolling: Questions::of(OTHERS),
            adding: Questions::of(OTHERS),
            offers: Questions::of(OTHERS),
        }
    }
}

/// What an approver wants to be known by, too.
#[derive(Clone)]
pub(super) enum Offer {
    /// A passkey that was just made.
    Passkey(Arc<Passkey>),
    /// A key that a passphrase unlocks; it is nowhere else yet.
    Key(Box<Sealed>),
}

impl Offer {
    pub(super) fn credential(&self) -> Credential {
        match self {
            Self::Passkey(passkey) => Credential::Passkey(Arc::clone(passkey)),
            Self::Key(sealed) => Credential::Key(sealed.key),
        }
    }
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Offer(…)")
    }
}

/// Questions of one kind, the oldest first.
#[derive(Debug)]
pub(super) struct Questions<T> {
    most: usize,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    waiting: VecDeque<Question<T>>,
    /// Time does not go back, whatever the clock says.
    latest: Option<Timestamp>,
}

#[derive(Debug)]
struct Question<T> {
    challenge: [u8; 32],
    expires: Timestamp,
    about: T,
}

impl<T> Questions<T> {
    fn of(most: usize) -> Self {
        Self { most, inner: Mutex::new(Inner { waiting: VecDeque::new(), latest: None }) }
    }

    /// Those that are good still.
    fn living(&self, now: Timestamp) -> (MutexGuard<'_, Inner<T>>, Timestamp) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = inner.latest.map_or(now, |latest| latest.max(now));
        inner.latest = Some(now);
        inner.waiting.retain(|question| now < question.expires);
        (inner, now)
    }

    /// A new question, with a challenge that nobody can guess.
    pub(super) fn ask(&self, about: T, now: Timestamp) -> Result<[u8; 32], NoRandomness> {
        let challenge = random()?;
        self.put(challenge, about, now);
        Ok(challenge)
    }

    /// A question whose challenge says what it is about. One with the same challenge is replaced.
    pub(super) fn put(&self, challenge: [u8; 32], about: T, now: Timestamp) {
        let (mut inner, now) = self.living(now);
        inner.waiting.retain(|question| question.challenge != challenge);
        if inner.waiting.len() >= self.most {
            inner.waiting.pop_front();
        }
        let expires = now.checked_add(GOOD_FOR).unwrap_or(Timestamp::MAX);
        inner.waiting.push_back(Question { challenge, expires, about });
    }

    /// What the question with that challenge was about. It is answered by this, whatever the answer is worth.
    pub(super) fn take(&self, challenge: &[u8; 32], now: Timestamp) -> Option<T> {
        let (mut inner, _now) = self.living(now);
        let place = inner.waiting.iter().position(|question| question.challenge == *challenge)?;
        inner.waiting.remove(place).map(|question| question.about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_question_is_good_once_and_for_two_minutes() {
        let questions = Questions::of(8);
        let first = questions.ask("first", at(0)).unwrap();
        let second = questions.ask("second", at(0)).unwrap();
        assert_ne!(first, second);
        assert_eq!(questions.take(&first, at(119)), Some("first"));
        assert_eq!(questions.take(&first, at(119)), None);
        assert_eq!(questions.take(&second, at(120)), None);
        assert_eq!(questions.take(&second, at(0)), None, "a clock that is put back revives nothing");
        assert_eq!(questions.take(&[0; 32], at(0)), None);
    }

    #[test]
    fn one_question_too_many_forgets_the_oldest() {
        let questions = Questions::of(8);
        let asked: Vec<[u8; 32]> = (0..9).map(|number| questions.ask(number, at(0)).unwrap()).collect();
        assert_eq!(questions.take(&asked[0], at(0)), None);
        assert_eq!(questions.take(&asked[1], at(0)), Some(1));
        questions.put(asked[2], 20, at(1));
        assert_eq!(questions.take(&asked[2], at(1)), Some(20), "asked again, it is the newer one");
        assert_eq!(questions.inner.lock().unwrap().waiting.len(), 6);
    }
}
