//! Sessions of approvers: who has shown of late that it is them may look. Kept in memory alone; a restart ends them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::SignedDuration;
use tokio::sync::{Semaphore, watch};
use zeroize::Zeroizing;

use crate::{
    clock::{NoRandomness, Timestamp, random},
    hold::Means,
    json::Digest,
};

/// A session ends when nothing was asked in it for so long.
const IDLE: SignedDuration = SignedDuration::from_mins(15);

/// A session ends so long after it began.
const LONGEST: SignedDuration = SignedDuration::from_hours(8);

/// Sessions at once, in all and of one approver. One more ends the one that was quiet the longest.
const MOST: usize = 1_024;
const MOST_EACH: usize = 16;

/// Large things that are made for one session at once.
const TURNS: usize = 2;

/// What a session's token begins with, so that it is known for one where it turns up.
const PREFIX: &str = "cas_";

/// Bytes of a token's text.
const LENGTH: usize = PREFIX.len() + 43;

/// The bearer token of a session: 256 random bits.
pub struct Token(Zeroizing<String>);

impl Token {
    /// The text, for the one who logged in.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a form has to bring back: that a page of ours made it, for whom it comes from now. 256 random bits.
#[derive(Clone)]
pub struct FormToken(Arc<str>);

impl FormToken {
    /// Bytes of its text.
    const LENGTH: usize = 43;

    /// A new one.
    ///
    /// # Errors
    /// [`NoRandomness`] when the machine has none to give.
    pub fn new() -> Result<Self, NoRandomness> {
        Ok(Self(URL_SAFE_NO_PAD.encode(random::<32>()?).into()))
    }

    /// The token that is written so; `None` when it has not the form of one.
    pub fn read(text: &str) -> Option<Self> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (text.len() == Self::LENGTH && text.bytes().all(fits)).then(|| Self(text.into()))
    }

    /// The text, for a form.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether that is the token; how much of it is right, takes no different time.
    pub fn is(&self, given: &str) -> bool {
        verify_slices_are_equal(self.0.as_bytes(), given.as_bytes()).is_ok()
    }
}

impl fmt::Debug for FormToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FormToken(…)")
    }
}

/// Names a session; no secret, and never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(pub(super) u64);

impl SessionId {
    /// The number, for something that comes back to the session.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The session of that number.
    pub fn read(number: u64) -> Self {
        Self(number)
    }
}

/// Where a session's token opens something. One that was stolen from the one side opens nothing on the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The API: a bearer token.
    Api,
    /// The pages: a cookie.
    Pages,
}

/// A living session, as of the moment it was asked for.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name.
    pub id: SessionId,
    /// Whose it is.
    pub approver: String,
    /// What they showed it with: when it is theirs no more, the session is of the past.
    pub means: Means,
    /// What the forms of its pages bring back.
    pub form: FormToken,
    /// When it ends if nothing more is asked in it.
    pub idle_until: Timestamp,
    /// When it ends at the latest.
    pub expires: Timestamp,
    /// What it takes turns at, so that one session keeps no other from seeing what is large.
    pub turns: Arc<Semaphore>,
    ended: watch::Receiver<()>,
}

impl Session {
    /// Waits until the session is ended by somebody. That its time runs out has to be asked for: [`Sessions::lives`].
    pub async fn ended(&self) {
        // nothing is ever sent: the sender goes with the session
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }
}

/// The sessions there are.
#[derive(Debug, Default)]
pub struct Sessions(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    by_token: BTreeMap<Digest, Entry>,
    last_id: u64,
    /// Time does not go back, whatever the clock says.
    latest: Option<Timestamp>,
}

#[derive(Debug)]
struct Entry {
    id: SessionId,
    approver: String,
    means: Means,
    form: FormToken,
    side: Side,
    began: Timestamp,
    last: Timestamp,
    turns: Arc<Semaphore>,
    ended: watch::Sender<()>,
}

impl Entry {
    fn lives(&self, now: Timestamp) -> bool {
        now < self.idle_until() && now < self.expires()
    }

    fn idle_until(&self) -> Timestamp {
        self.last.checked_add(IDLE).unwrap_or(Timestamp::MAX).min(self.expires())
    }

    fn expires(&self) -> Timestamp {
        self.began.checked_add(LONGEST).unwrap_or(Timestamp::MAX)
    }

    fn session(&self) -> Session {
        Session {
            id: self.id,
            approver: self.approver.clone(),
            means: self.means.clone(),
            form: self.form.clone(),
            idle_until: self.idle_until(),
            expires: self.expires(),
            turns: Arc::clone(&self.turns),
            ended: self.ended.subscribe(),
        }
    }
}

impl Inner {
    fn now(&mut self, now: Timestamp) -> Timestamp {
        let latest = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(latest);
        latest
    }

    /// Ends the session of all that `among` names that was quiet the longest.
    fn end_quietest(&mut self, among: impl Fn(&Entry) -> bool) {
        let candidates = self.by_token.iter().filter(|(_, entry)| among(entry));
        let quietest = candidates.min_by_key(|(_, entry)| (entry.last, entry.id)).map(|(digest, _)| *digest);
        if let Some(quietest) = quietest {
            self.by_token.remove(&quietest);
        }
    }
}

impl Sessions {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session of an approver who has just shown that it is them; one for the API, until it is
    /// [handed to a browser](Self::for_pages).
    ///
    /// # Errors
    /// [`NoRandomness`] when the machine has none to give.
    pub fn begin(&self, approver: &str, means: Means, now: Timestamp) -> Result<(Token, Session), NoRandomness> {
        let secret: Zeroizing<[u8; 32]> = Zeroizing::new(random()?);
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(secret.as_slice(), &mut text);
        let form = FormToken::new()?;
        let mut inner = self.inner();
        let now = inner.now(now);
        inner.by_token.retain(|_, entry| entry.lives(now));
        if inner.by_token.values().filter(|entry| entry.approver == approver).count() >= MOST_EACH {
            inner.end_quietest(|entry| entry.approver == approver);
        }
        if inner.by_token.len() >= MOST {
            inner.end_quietest(|_| true);
        }
        inner.last_id += 1;
        let entry = Entry {
            id: SessionId(inner.last_id),
            approver: approver.to_owned(),
            means,
            form,
            side: Side::Api,
            began: now,
            last: now,
            turns: Arc::new(Semaphore::new(TURNS)),
            ended: watch::Sender::new(()),
        };
        let session = entry.session();
        inner.by_token.insert(Digest::of(text.as_bytes()), entry);
        Ok((Token(text), session))
    }

    /// Makes the token one that a browser gets, as a cookie.
    pub fn for_pages(&self, token: &Token) {
        if let Some(entry) = self.inner().by_token.get_mut(&Digest::of(token.0.as_bytes())) {
            entry.side = Side::Pages;
        }
    }

    /// The living session that the token is for on that side, which is thereby in use.
    pub fn find(&self, token: &str, side: Side, now: Timestamp) -> Option<Session> {
        self.look(token, side, now, true)
    }

    /// The living session that the token is for on that side; what a page asks by itself does not keep it.
    pub fn glimpse(&self, token: &str, side: Side, now: Timestamp) -> Option<Session> {
        self.look(token, side, now, false)
    }

    fn look(&self, token: &str, side: Side, now: Timestamp, in_use: bool) -> Option<Session> {
        if token.len() != LENGTH || !token.starts_with(PREFIX) {
            return None;
        }
        let mut inner = self.inner();
        let now = inner.now(now);
        let digest = Digest::of(token.as_bytes());
        let entry = inner.by_token.get_mut(&digest)?;
        if !entry.lives(now) {
            inner.by_token.remove(&digest);
            return None;
        }
        if entry.side != side {
            return None;
        }
        if in_use {
            entry.last = now;
        }
        Some(entry.session())
    }

    /// The living session of that name, for what was begun in it and comes back by another way; to ask does not keep it.
    pub fn of(&self, id: SessionId, now: Timestamp) -> Option<Session> {
        let mut inner = self.inner();
        let now = inner.now(now);
        inner.by_token.values().find(|entry| entry.id == id && entry.lives(now)).map(Entry::session)
    }

    /// Whether the session is still there; to ask does not keep it.
    pub fn lives(&self, id: SessionId, now: Timestamp) -> bool {
        let mut inner = self.inner();
        let now = inner.now(now);
        inner.by_token.values().any(|entry| entry.id == id && entry.lives(now))
    }

    /// Ends the session; whether it was there.
    pub fn end(&self, id: SessionId) -> bool {
        let mut inner = self.inner();
        let before = inner.by_token.len();
        inner.by_token.retain(|_, entry| entry.id != id);
        inner.by_token.len() < before
    }

    /// Ends every session of an approver who is one no longer, or who has a new passphrase.
    pub fn end_all(&self, approver: &str) {
        self.inner().by_token.retain(|_, entry| entry.approver != approver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Means = Means::Key([7; 32]);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_token_is_known_for_one_and_not_shown_by_accident() {
        let sessions = Sessions::default();
        let (token, session) = sessions.begin("ann", KEY, at(0)).unwrap();
        assert!(token.reveal().starts_with("cas_") && token.reveal().len() == LENGTH, "{}", token.reveal());
        assert_eq!(format!("{token:?}"), "Token(…)");
        assert!(!format!("{sessions:?}{session:?}").contains(token.reveal().trim_start_matches("cas_")));
        let found = sessions.find(token.reveal(), Side::Api, at(0)).unwrap();
        assert_eq!((found.id, found.approver.as_str()), (session.id, "ann"));
        let mut other = token.reveal().to_owned();
        let last = other.pop().unwrap();
        other.push(if last == 'A' { 'E' } else { 'A' });
        for wrong in ["", "cas_", &other, token.reveal().trim_start_matches("cas_"), &format!("{} ", token.reveal())] {
            assert!(sessions.find(wrong, Side::Api, at(0)).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_form_belongs_to_its_session_and_to_no_other() {
        let sessions = Sessions::default();
        let (token, one) = sessions.begin("ann", KEY, at(0)).unwrap();
        let (_other, two) = sessions.begin("ann", KEY, at(0)).unwrap();
        let found = sessions.find(token.reveal(), Side::Api, at(1)).unwrap();
        assert!(one.form.is(found.form.reveal()));
        assert!(!one.form.is(two.form.reveal()) && !one.form.is("") && !one.form.is(token.reveal()));
        assert_eq!(format!("{:?}", one.form), "FormToken(…)");
        assert!(FormToken::read(one.form.reveal()).is_some_and(|read| read.is(one.form.reveal())));
        for wrong in ["", "x", &"x".repeat(42), &"x".repeat(44), &"é".repeat(43), &format!("{}\"", "x".repeat(42))] {
            assert!(FormToken::read(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_token_opens_one_side_and_not_the_other() {
        let sessions = Sessions::default();
        let (api, _) = sessions.begin("ann", KEY, at(0)).unwrap();
        let (cookie, page) = sessions.begin("ann", KEY, at(0)).unwrap();
        sessions.for_pages(&cookie);
        for (token, own, other) in [(&api, Side::Api, Side::Pages), (&cookie, Side::Pages, Side::Api)] {
            for (side, opens) in [(own, true), (other, false)] {
                assert_eq!(sessions.find(token.reveal(), side, at(1)).is_some(), opens, "{own:?} at {side:?}");
                assert_eq!(sessions.glimpse(token.reveal(), side, at(1)).is_some(), opens, "{own:?} at {side:?}");
            }
        }
        assert!(sessions.find(cookie.reveal(), Side::Api, at(800)).is_none());
        assert!(!sessions.lives(page.id, at(901)), "who tries it on the other side does not keep it");
    }

    #[test]
    fn a_glimpse_keeps_no_session() {
        let sessions = Sessions::default();
        let (token, session) = sessions.begin("ann", KEY, at(0)).unwrap();
        assert_eq!(sessions.glimpse(token.reveal(), Side::Api, at(800)).unwrap().id, session.id);
        assert!(sessions.glimpse(token.reveal(), Side::Api, at(900)).is_none());
    }

    #[test]
    fn a_session_ends_after_fifteen_idle_minutes_and_after_eight_hours() {
        let sessions = Sessions::default();
        let (token, session) = sessions.begin("ann", KEY, at(0)).unwrap();
        assert_eq!((session.idle_until, session.expires), (at(900), at(28_800)));
        assert!(sessions.find(token.reveal(), Side::Api, at(899)).is_some());
        assert!(sessions.lives(session.id, at(1_798)));
        assert!(!sessions.lives(session.id, at(1_799)), "to ask whether it lives does not keep it");
        assert!(sessions.find(token.reveal(), Side::Api, at(1_799)).is_none());
        assert!(sessions.find(token.reveal(), Side::Api, at(0)).is_none(), "a clock that is put back revives nothing");
        let (token, session) = sessions.begin("ann", KEY, at(10_000)).unwrap();
        for minutes in 1..48 {
            let found = sessions.find(token.reveal(), Side::Api, at(10_000 + minutes * 600)).unwrap();
            assert!(found.idle_until <= session.expires);
        }
        assert!(sessions.find(token.reveal(), Side::Api, at(38_799)).is_some());
        assert!(sessions.find(token.reveal(), Side::Api, at(38_800)).is_none());
    }

    #[tokio::test]
    async fn a_session_ends_with_logout_and_with_its_approver() {
        let sessions = Sessions::default();
        let (first, one) = sessions.begin("ann", KEY, at(0)).unwrap();
        let (second, two) = sessions.begin("ann", KEY, at(0)).unwrap();
        let (third, three) = sessions.begin("bob", KEY, at(0)).unwrap();
        assert!(sessions.end(one.id));
        one.ended().await;
        assert!(!sessions.end(one.id));
        assert!(sessions.find(first.reveal(), Side::Api, at(0)).is_none());
        assert!(sessions.find(second.reveal(), Side::Api, at(0)).is_some());
        sessions.end_all("ann");
        two.ended().await;
        assert!(sessions.find(second.reveal(), Side::Api, at(0)).is_none());
        assert!(sessions.find(third.reveal(), Side::Api, at(0)).is_some());
        let ended = std::pin::pin!(three.ended());
        let first = futures_util::future::select(ended, std::future::ready(())).await;
        assert!(matches!(first, futures_util::future::Either::Right(_)));
    }

    #[test]
    fn one_session_too_many_ends_the_quietest() {
        let sessions = Sessions::default();
        let (bob, _) = sessions.begin("bob", KEY, at(0)).unwrap();
        let tokens: Vec<Token> = (0..16).map(|second| sessions.begin("ann", KEY, at(second)).unwrap().0).collect();
        assert!(sessions.find(tokens[0].reveal(), Side::Api, at(20)).is_some());
        let (_seventeenth, _) = sessions.begin("ann", KEY, at(21)).unwrap();
        assert!(sessions.find(tokens[0].reveal(), Side::Api, at(22)).is_some());
        assert!(sessions.find(tokens[1].reveal(), Side::Api, at(22)).is_none());
        assert!(sessions.find(tokens[2].reveal(), Side::Api, at(22)).is_some());
        for number in 0..2_000 {
            sessions.begin(&format!("approver-{number}"), KEY, at(30)).unwrap();
        }
        assert_eq!(sessions.inner().by_token.len(), MOST);
        assert!(sessions.find(bob.reveal(), Side::Api, at(31)).is_none());
        sessions.begin("ann", KEY, at(10_000)).unwrap();
        assert_eq!(sessions.inner().by_token.len(), 1, "those whose time is over are gone");
    }
}
