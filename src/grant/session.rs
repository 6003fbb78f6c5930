//! What each principal has done in its task so far, and how often each limited policy let it.
//!
//! A session is an agent, the user it acts for and its task: never a connection. Nothing is forgotten while it could
//! still matter: a session may leave after a day without a call, a limit's window once it is empty; when there is no
//! room for another the call is refused.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Grants;
use crate::{
    call::{Fault, Principal, Refused},
    clock::Timestamp,
    contract::UpstreamName,
};

const SHARDS: usize = 16;
/// Sessions in one shard: 10,000 in all.
const SESSIONS: usize = 625;
/// Windows in one shard: 32,000 in all.
const WINDOWS: usize = 2_000;
/// How long an idle session is remembered, microseconds: a day, the longest window of a limit.
const IDLE: i64 = 86_400_000_000;
/// A window is cut into so many parts at most; calls within one part share a place.
const PARTS: i64 = 256;

/// Counters for `context.session` and `@limit`, by principal and task; bounded.
#[derive(Debug, Default)]
pub struct Sessions {
    keyed: RandomState,
    sessions: [Mutex<HashMap<Key, Session>>; SHARDS],
    windows: [Mutex<Windows>; SHARDS],
}

/// By policy and agent.
type Windows = HashMap<(Box<str>, Box<str>), Window>;

/// Agent, user, task.
type Key = (Box<str>, Option<Box<str>>, Option<Box<str>>);

#[derive(Debug)]
struct Session {
    first: i64,
    last: i64,
    calls: i64,
    by_action: BTreeMap<Box<str>, i64>,
    labels: BTreeSet<Box<str>>,
}

/// `context.session`, as it stands before a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) calls: i64,
    pub(super) calls_of_tool: i64,
    pub(super) age_seconds: i64,
    pub(super) labels: Vec<String>,
}

/// `@limit("10/minute")`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    /// How many.
    pub(super) count: u32,
    /// In how long, microseconds.
    pub(super) per: i64,
}

/// When a limited policy let an agent through: exact up to [`PARTS`] places; beyond, calls that are close to each
/// other share a place and leave together with the last of them, so that no window ever holds more than the limit.
#[derive(Debug, Default)]
struct Window {
    places: VecDeque<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    first: i64,
    last: i64,
    count: u32,
}

/// A session under its lock: what is read of it is still so when the call is counted.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    shard: MutexGuard<'a, HashMap<Key, Session>>,
    key: Key,
}

/// A call of the past, as the ledger tells it.
#[derive(Clone, Copy, Debug)]
pub struct Past<'a> {
    /// The agent.
    pub agent: &'a str,
    /// The user it acted for.
    pub user: Option<&'a str>,
    /// The task it worked on.
    pub task: Option<&'a str>,
    /// The action: the agent-facing name of the tool.
    pub action: &'a str,
    /// Whose tool it is.
    pub upstream: &'a UpstreamName,
    /// Ids of the policies that permitted it.
    pub policies: &'a [&'a str],
    /// When it was received.
    pub at: Timestamp,
}

impl Sessions {
    /// Counts a call of the past, so that a restart forgets neither a session nor a limit. Calls come in the order
    /// in which they were made; those older than a day change nothing that still matters to a limit.
    pub fn observe(&self, grants: &Grants, past: &Past<'_>) {
        let mut turn = self.turn(past.agent, past.user, past.task);
        if turn.reserve(past.at).is_ok() {
            let labels = grants.site(past.action, past.upstream).map(|site| site.labels.as_slice());
            turn.count(past.action, labels.unwrap_or_default().iter().map(String::as_str), past.at);
        }
        for policy in past.policies {
            if let Some(limit) = grants.limit(policy) {
                self.remember(policy, past.agent, limit, past.at);
            }
        }
    }

    /// Takes a principal's session for one decision.
    pub(super) fn turn(&self, agent: &str, user: Option<&str>, task: Option<&str>) -> Turn<'_> {
        let key: Key = (agent.into(), user.map(Into::into), task.map(Into::into));
        let shard = shard(&self.sessions, self.keyed.hash_one(&key));
        Turn { shard, key }
    }

    /// How long until the limit lets the agent through again, milliseconds; `None` when it does now.
    pub(super) fn wait(&self, policy: &str, agent: &str, limit: Limit, now: Timestamp) -> Option<u64> {
        let windows = self.window(policy, agent);
        let wait = windows.get(&(policy.into(), agent.into()))?.wait(limit, now.as_microsecond())?;
        Some(u64::try_from(wait).unwrap_or(0).div_ceil(1_000))
    }

    /// Counts one call against the limit, if it lets one through.
    ///
    /// # Errors
    /// [`Refused::LimitExceeded`]; [`Refused::Unavailable`] when there is no room to count.
    pub(super) fn consume(&self, policy: &str, agent: &str, limit: Limit, now: Timestamp) -> Result<(), Refused> {
        let now = now.as_microsecond();
        let mut windows = self.window(policy, agent);
        let key = (policy.into(), agent.into());
        if !windows.contains_key(&key) && windows.len() >= WINDOWS {
            windows.retain(|_, window| window.places.back().is_some_and(|place| now - place.last < IDLE));
            if windows.len() >= WINDOWS {
                return Err(Refused::Unavailable(Fault("no room to count another limit".to_owned())));
            }
        }
        let window = windows.entry(key).or_default();
        if let Some(wait) = window.wait(limit, now) {
            let retry_after_ms = u64::try_from(wait).unwrap_or(0).div_ceil(1_000);
            return Err(Refused::LimitExceeded { retry_after_ms });
        }
        window.add(limit, now);
        Ok(())
    }

    /// Counts a call of the past, limit or not.
    fn remember(&self, policy: &str, agent: &str, limit: Limit, at: Timestamp) {
        let mut windows = self.window(policy, agent);
        if windows.len() < WINDOWS {
            windows.entry((policy.into(), agent.into())).or_default().add(limit, at.as_microsecond());
        }
    }

    fn window(&self, policy: &str, agent: &str) -> MutexGuard<'_, Windows> {
        shard(&self.windows, self.keyed.hash_one((policy, agent)))
    }

    /// What the principal has done in its task, without taking a turn.
    pub(super) fn facts(&self, who: &Principal, action: &str, now: Timestamp) -> Facts {
        self.turn(&who.agent, who.user.as_deref(), who.task.as_deref()).facts(action, now)
    }
}

fn shard<T>(shards: &[Mutex<T>; SHARDS], hash: u64) -> MutexGuard<'_, T> {
    let [first, ..] = shards;
    let place = usize::try_from(hash % 16).unwrap_or(0);
    // counters are whole after every statement, so a panic elsewhere cannot have left one half written
    shards.get(place).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turn<'_> {
    pub(super) fn facts(&self, action: &str, now: Timestamp) -> Facts {
        let Some(session) = self.shard.get(&self.key) else { return Facts::default() };
        Facts {
            calls: session.calls,
            calls_of_tool: session.by_action.get(action).copied().unwrap_or(0),
            age_seconds: (now.as_microsecond() - session.first).max(0) / 1_000_000,
            labels: session.labels.iter().map(|label| label.to_string()).collect(),
        }
    }

    /// Makes room to count in.
    ///
    /// # Errors
    /// [`Refused::Unavailable`] when every session is in use.
    pub(super) fn reserve(&mut self, now: Timestamp) -> Result<(), Refused> {
        if self.shard.len() < SESSIONS || self.shard.contains_key(&self.key) {
            return Ok(());
        }
        let now = now.as_microsecond();
        self.shard.retain(|_, session| now - session.last < IDLE);
        if self.shard.len() < SESSIONS {
            return Ok(());
        }
        Err(Refused::Unavailable(Fault("too many sessions are in use to count another".to_owned())))
    }

    /// Counts a call.
    pub(super) fn count<'l>(mut self, action: &str, labels: impl Iterator<Item = &'l str>, now: Timestamp) {
        let now = now.as_microsecond();
        let key = std::mem::take(&mut self.key);
        let session = self.shard.entry(key).or_insert_with(|| Session {
            first: now,
            last: now,
            calls: 0,
            by_action: BTreeMap::new(),
            labels: BTreeSet::new(),
        });
        session.first = session.first.min(now);
        session.last = session.last.max(now);
        session.calls += 1;
        match session.by_action.get_mut(action) {
            Some(calls) => *calls += 1,
            None => {
                session.by_action.insert(action.into(), 1);
            }
        }
        for label in labels {
            if !session.labels.contains(label) {
                session.labels.insert(label.into());
            }
        }
    }
}

impl Window {
    /// How long until one more fits, microseconds; `None` when it does now.
    fn wait(&self, limit: Limit, now: i64) -> Option<i64> {
        let live = self.places.iter().filter(|place| now - place.last < limit.per);
        let mut used: u64 = live.clone().map(|place| u64::from(place.count)).sum();
        if used < u64::from(limit.count) {
            return None;
        }
        for place in live {
            used -= u64::from(place.count);
            if used < u64::from(limit.count) {
                return Some((place.last + limit.per - now).max(1));
            }
        }
        Some(limit.per)
    }

    fn add(&mut self, limit: Limit, now: i64) {
        while self.places.front().is_some_and(|place| now - place.last >= limit.per) {
            self.places.pop_front();
        }
        let full = i64::try_from(self.places.len()).unwrap_or(i64::MAX) >= PARTS;
        match self.places.back_mut() {
            // a clock that went back counts as standing still
            Some(place) if full || now < place.last || (limit.count > 256 && now - place.first < limit.per / PARTS) => {
                place.last = place.last.max(now);
                place.count = place.count.saturating_add(1);
            }
            _ => self.places.push_back(Place { first: now, last: now, count: 1 }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_microsecond(1_700_000_000_000_000 + micros).unwrap()
    }

    #[test]
    fn a_limit_lets_its_number_through_in_any_window_and_says_when_to_come_back() {
        let sessions = Sessions::default();
        let limit = Limit { count: 2, per: MINUTE };
        assert_eq!(sessions.consume("p", "a", limit, at(0)), Ok(()));
        assert_eq!(sessions.consume("p", "a", limit, at(MINUTE / 2)), Ok(()));
        let refused = sessions.consume("p", "a", limit, at(MINUTE * 3 / 4));
        assert_eq!(refused, Err(Refused::LimitExceeded { retry_after_ms: 15_000 }));
        assert_eq!(sessions.consume("p", "other", limit, at(MINUTE * 3 / 4)), Ok(()));
        assert_eq!(sessions.consume("p", "a", limit, at(MINUTE)), Ok(()));
        assert!(sessions.consume("p", "a", limit, at(MINUTE + 1)).is_err());
    }

    #[test]
    fn when_every_session_is_in_use_a_new_one_is_refused_and_a_day_later_it_has_room() {
        let sessions = Sessions::default();
        let mut refused = 0;
        for number in 0..20_000 {
            let mut turn = sessions.turn("agent", None, Some(&number.to_string()));
            match turn.reserve(at(0)) {
                Ok(()) => turn.count("x", std::iter::empty(), at(0)),
                Err(_) => refused += 1,
            }
        }
        assert!(refused >= 10_000, "{refused}");
        assert!(sessions.turn("agent", None, Some("new")).reserve(at(IDLE)).is_ok());
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_the_limit(count in 1_u32..600, steps in prop::collection::vec(0_i64..400_000, 1..900)) {
            let limit = Limit { count, per: MINUTE };
            let mut window = Window::default();
            let (mut now, mut through) = (0, Vec::new());
            for step in steps {
                now += step;
                if window.wait(limit, now).is_none() {
                    window.add(limit, now);
                    through.push(now);
                    let within = through.iter().filter(|then| now - **then < MINUTE).count();
                    prop_assert!(within <= count as usize);
                }
                prop_assert!(window.places.len() <= 256 + 2);
            }
        }
    }
}
