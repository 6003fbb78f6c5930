//! Questions to authenticators that wait for their answers: each is good once, for two minutes, for what it was asked for.
//!
//! Anybody may ask to sign in, so nothing is kept of that: the challenge says itself until when it is good, under a key of
//! this process, and only what was answered rightly is remembered. Of the others, nobody can have more than a few: however
//! many are asked, nobody else's is forgotten for them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::hmac;
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

/// Questions of one kind that one code, or one session, may have at once. One more, and its oldest is forgotten.
const EACH: usize = 4;
/// Questions of one kind at once: no fewer than all sessions may have. One more, and the oldest is forgotten.
const MOST: usize = 4_096;
/// People who signed in within the time that a question is good. One more has to wait.
const ANSWERED: usize = 4_096;

/// The questions there are.
#[derive(Debug)]
pub(super) struct Ceremonies {
    /// Who signs in: nobody knows who it will be.
    pub(super) signing_in: Door,
    /// Whoever has that one-time code makes their first passkey.
    pub(super) enrolling: Questions<Digest, ()>,
    /// Who is signed in there makes one more passkey.
    pub(super) adding: Questions<SessionId, ()>,
    /// Who is signed in there signs that they want to be known by that too.
    pub(super) offers: Questions<SessionId, Offer>,
}

impl Ceremonies {
    pub(super) fn new() -> Result<Self, NoRandomness> {
        Ok(Self {
            signing_in: Door::new()?,
            enrolling: Questions::default(),
            adding: Questions::default(),
            offers: Questions::default(),
        })
    }
}

/// The questions that anybody may have asked. None of them is kept.
#[derive(Debug)]
pub(super) struct Door {
    key: hmac::Key,
    answered: Mutex<Answered>,
}

/// Challenges that were answered rightly, while they would be good still, the oldest first.
#[derive(Debug, Default)]
struct Answered {
    challenges: VecDeque<[u8; 32]>,
    /// Time does not go back, whatever the clock says.
    latest: i64,
}

/// Why an answer opens no door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// It was not asked here, its time is over, or it was answered before.
    Stale,
    /// Too many have signed in of late.
    Crowded,
}

impl Door {
    fn new() -> Result<Self, NoRandomness> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        Ok(Self { key, answered: Mutex::default() })
    }

    /// A new question: until when it is good, ten random bytes, and half of their HMAC.
    pub(super) fn ask(&self, now: Timestamp) -> Result<[u8; 32], NoRandomness> {
        let until = now.checked_add(GOOD_FOR).unwrap_or(Timestamp::MAX).as_millisecond();
        let [_, _, until @ ..] = until.to_be_bytes();
        let said: Vec<u8> = until.into_iter().chain(random::<10>()?).collect();
        let mut challenge = [0; 32];
        let sealed = hmac::sign(&self.key, &said);
        challenge.iter_mut().zip(said.iter().chain(sealed.as_ref())).for_each(|(to, from)| *to = *from);
        Ok(challenge)
    }

    /// Whether it is a question of ours that is good still.
    pub(super) fn is_good(&self, challenge: &[u8; 32], now: Timestamp) -> bool {
        self.good(challenge, now).is_some_and(|answered| !answered.challenges.contains(challenge))
    }

    /// Notes that it was answered rightly: it is good no more.
    pub(super) fn answer(&self, challenge: &[u8; 32], now: Timestamp) -> Result<(), Closed> {
        let mut answered = self.good(challenge, now).ok_or(Closed::Stale)?;
        if answered.challenges.contains(challenge) {
            return Err(Closed::Stale);
        }
        let latest = answered.latest;
        answered.challenges.retain(|known| latest < until(known));
        // forgetting one would make it good again
        if answered.challenges.len() >= ANSWERED {
            return Err(Closed::Crowded);
        }
        answered.challenges.push_back(*challenge);
        Ok(())
    }

    fn good(&self, challenge: &[u8; 32], now: Timestamp) -> Option<MutexGuard<'_, Answered>> {
        let (said, sealed) = challenge.split_at_checked(16)?;
        let whole = hmac::sign(&self.key, said);
        let ours = whole.as_ref().get(..16)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(ours, sealed).ok()?;
        let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.latest = answered.latest.max(now.as_millisecond());
        (answered.latest < until(challenge)).then_some(answered)
    }
}

/// Until when a question at the door is good, milliseconds.
fn until(challenge: &[u8; 32]) -> i64 {
    challenge.iter().take(6).fold(0, |until, byte| until << 8 | i64::from(*byte))
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

/// Questions of one kind, the oldest first, each of somebody's.
#[derive(Debug)]
pub(super) struct Questions<O, T>(Mutex<Inner<O, T>>);

#[derive(Debug)]
struct Inner<O, T> {
    waiting: VecDeque<Question<O, T>>,
    /// Time does not go back, whatever the clock says.
    latest: Option<Timestamp>,
}

#[derive(Debug)]
struct Question<O, T> {
    challenge: [u8; 32],
    expires: Timestamp,
    of: O,
    about: T,
}

impl<O, T> Default for Questions<O, T> {
    fn default() -> Self {
        Self(Mutex::new(Inner { waiting: VecDeque::new(), latest: None }))
    }
}

impl<O: PartialEq, T> Questions<O, T> {
    /// Those that are good still.
    fn living(&self, now: Timestamp) -> (MutexGuard<'_, Inner<O, T>>, Timestamp) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = inner.latest.map_or(now, |latest| latest.max(now));
        inner.latest = Some(now);
        inner.waiting.retain(|question| now < question.expires);
        (inner, now)
    }

    /// A new question, with a challenge that nobody can guess.
    pub(super) fn ask(&self, of: O, about: T, now: Timestamp) -> Result<[u8; 32], NoRandomness> {
        let challenge = random()?;
        self.put(challenge, of, about, now);
        Ok(challenge)
    }

    /// A question whose challenge says what it is about. One with the same challenge, of the same, is replaced.
    pub(super) fn put(&self, challenge: [u8; 32], of: O, about: T, now: Timestamp) {
        let (mut inner, now) = self.living(now);
        inner.waiting.retain(|question| question.of != of || question.challenge != challenge);
        if inner.waiting.iter().filter(|question| question.of == of).count() >= EACH {
            let oldest = inner.waiting.iter().position(|question| question.of == of);
            oldest.and_then(|oldest| inner.waiting.remove(oldest));
        }
        if inner.waiting.len() >= MOST {
            inner.waiting.pop_front();
        }
        let expires = now.checked_add(GOOD_FOR).unwrap_or(Timestamp::MAX);
        inner.waiting.push_back(Question { challenge, expires, of, about });
    }

    /// What the question of theirs with that challenge was about. It is answered by this, whatever the answer is worth.
    pub(super) fn take(&self, challenge: &[u8; 32], of: &O, now: Timestamp) -> Option<T> {
        let (mut inner, _now) = self.living(now);
        let asked = |question: &Question<O, T>| question.challenge == *challenge && question.of == *of;
        let place = inner.waiting.iter().position(asked)?;
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
    fn a_question_is_good_once_and_for_two_minutes_and_for_who_asked() {
        let questions = Questions::default();
        let first = questions.ask(1, "first", at(0)).unwrap();
        let second = questions.ask(1, "second", at(0)).unwrap();
        assert_ne!(first, second);
        assert_eq!(questions.take(&first, &2, at(119)), None, "somebody else's");
        assert_eq!(questions.take(&first, &1, at(119)), Some("first"));
        assert_eq!(questions.take(&first, &1, at(119)), None);
        assert_eq!(questions.take(&second, &1, at(120)), None);
        assert_eq!(questions.take(&second, &1, at(0)), None, "a clock that is put back revives nothing");
        assert_eq!(questions.take(&[0; 32], &1, at(0)), None);
    }

    #[test]
    fn who_asks_too_much_forgets_their_own_oldest_and_nobody_elses() {
        let questions = Questions::default();
        let quiet = questions.ask(0, 100, at(0)).unwrap();
        let asked: Vec<[u8; 32]> = (0..10_000).map(|number| questions.ask(1, number, at(0)).unwrap()).collect();
        assert_eq!(questions.0.lock().unwrap().waiting.len(), 1 + EACH);
        assert_eq!(questions.take(&asked[9_995], &1, at(0)), None);
        assert_eq!(questions.take(&asked[9_996], &1, at(0)), Some(9_996));
        questions.put(asked[9_997], 1, 20, at(1));
        assert_eq!(questions.take(&asked[9_997], &1, at(1)), Some(20), "asked again, it is the newer one");
        assert_eq!(questions.take(&quiet, &0, at(1)), Some(100));
    }

    #[test]
    fn whoever_asks_at_the_door_however_often_keeps_nobody_out() {
        let door = Door::new().unwrap();
        let first = door.ask(at(0)).unwrap();
        for _ in 0..10_000 {
            door.ask(at(0)).unwrap();
        }
        assert!(door.is_good(&first, at(119)));
        assert_eq!(door.answer(&first, at(119)), Ok(()));
        assert_eq!((door.is_good(&first, at(119)), door.answer(&first, at(119))), (false, Err(Closed::Stale)), "once");
        let late = door.ask(at(119)).unwrap();
        assert!(door.is_good(&late, at(238)) && !door.is_good(&late, at(239)));
        assert!(!door.is_good(&late, at(0)), "a clock that is put back revives nothing");
    }

    #[test]
    fn no_bit_of_a_question_at_the_door_can_be_changed_and_no_other_process_asks_it() {
        let (door, other) = (Door::new().unwrap(), Door::new().unwrap());
        let asked = door.ask(at(0)).unwrap();
        assert!(!other.is_good(&asked, at(0)));
        for place in 0..256 {
            let mut changed = asked;
            changed[place / 8] ^= 1 << (place % 8);
            assert!(!door.is_good(&changed, at(0)), "bit {place}");
        }
    }

    #[test]
    fn what_was_answered_at_the_door_is_remembered_while_it_would_be_good_and_no_longer() {
        let door = Door::new().unwrap();
        for _ in 0..ANSWERED {
            door.answer(&door.ask(at(0)).unwrap(), at(0)).unwrap();
        }
        let more = door.ask(at(60)).unwrap();
        assert_eq!(door.answer(&more, at(60)), Err(Closed::Crowded));
        door.answer(&more, at(120)).unwrap();
        assert_eq!(door.answered.lock().unwrap().challenges.len(), 1);
    }
}
