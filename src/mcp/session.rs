//! Legacy sessions: everything that is known of one is sealed into its id, so that none is remembered.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::problem::VERSIONS;
use crate::{
    call::{Fault, Principal},
    clock::{self, Timestamp},
    json::{self, Digest, Limits, Object, Value},
    seal::{Purpose, Seal},
};

/// How long a session's id is good; the credential that it is used with ends by itself.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Bytes of client capabilities that a session keeps.
const CAPABILITIES: usize = 2_048;

/// A legacy client's session.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Session {
    /// Names the session among ours: 32 hexadecimal digits.
    pub(super) nonce: Arc<str>,
    /// The protocol revision that was agreed on.
    pub(super) version: String,
    /// What the client can do, as far as it concerns us.
    pub(super) capabilities: Object,
    whose: String,
    issued: i64,
}

impl Session {
    /// A new session of `principal`, who asked for protocol revision `asked`: that one if it is spoken here and
    /// legacy, else the newest legacy one.
    ///
    /// # Errors
    /// [`Fault`] when there is no randomness.
    pub(super) fn new(
        principal: &Principal,
        asked: &str,
        capabilities: &Object,
        now: Timestamp,
    ) -> Result<Self, Fault> {
        let nonce: [u8; 16] = clock::random().map_err(|problem| Fault(problem.to_string()))?;
        let legacy = VERSIONS.iter().skip(1);
        let version = legacy.clone().find(|version| **version == asked).or(legacy.clone().next());
        Ok(Self {
            nonce: nonce.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
            version: version.copied().unwrap_or_default().to_owned(),
            capabilities: carried(capabilities),
            whose: whose(principal),
            issued: now.as_second(),
        })
    }

    /// The same session under another name: on stdio, the connection's.
    pub(super) fn named(self, nonce: Arc<str>) -> Self {
        Self { nonce, ..self }
    }

    /// The id that the client will send: visible ASCII.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be sealed.
    pub(super) fn seal(&self, seal: &Seal) -> Result<String, Fault> {
        let content = Object::new()
            .with("n", &*self.nonce)
            .with("v", self.version.as_str())
            .with("c", self.capabilities.clone())
            .with("w", self.whose.as_str())
            .with("t", self.issued);
        seal.seal(Purpose::Session, &Value::Object(content).to_bytes())
    }

    /// The session behind an id, if it was made here, for this principal, and is not over.
    pub(super) fn open(seal: &Seal, id: &str, principal: &Principal, now: Timestamp) -> Option<Self> {
        let content = json::parse(&seal.open(Purpose::Session, id)?, &Limits::REQUEST).ok()?;
        let text = |name: &str| content.get(name)?.as_str().map(str::to_owned);
        let session = Self {
            nonce: text("n")?.into(),
            version: text("v")?,
            capabilities: content.get("c")?.as_object()?.clone(),
            whose: text("w")?,
            issued: content.get("t")?.as_number()?.as_i64()?,
        };
        let age = now.as_second().checked_sub(session.issued)?;
        let fresh = (-60..LIFE.as_secs().cast_signed()).contains(&age);
        (fresh && session.whose == whose(principal)).then_some(session)
    }
}

/// Whose session it is: an agent's, for a user and a task, and of nobody to whom it handed something on. Not one token's:
/// clients get themselves another in the middle, one that was refreshed or that has more scopes, and go on.
fn whose(principal: &Principal) -> String {
    let optional = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
    let whole = vec![
        Value::from(principal.agent.as_str()),
        Value::from(principal.issuer.as_str()),
        optional(&principal.user),
        optional(&principal.task),
        optional(&principal.workload),
        Value::Array(principal.chain.iter().map(|agent| Value::from(agent.as_str())).collect()),
    ];
    Digest::of(&Value::Array(whole).to_bytes()).to_string()
}

/// The part of a client's capabilities that upstreams can be told of: what else it can do is between the two of us.
pub(super) fn carried(capabilities: &Object) -> Object {
    let known = |whole: bool| {
        let mut kept = Object::new();
        for name in ["sampling", "elicitation", "roots"] {
            if let Some(value @ Value::Object(_)) = capabilities.get(name) {
                kept.insert(name, if whole { value.clone() } else { Object::new().into() });
            }
        }
        kept
    };
    let kept = known(true);
    let mut text = Vec::new();
    kept.write(&mut text);
    if text.len() <= CAPABILITIES { kept } else { known(false) }
}

/// A map that forgets its oldest entry when it is full.
#[derive(Debug)]
pub(super) struct Bounded<V> {
    most: usize,
    entries: HashMap<Arc<str>, V>,
    order: VecDeque<Arc<str>>,
}

impl<V> Bounded<V> {
    /// An empty map of at most `most` entries.
    pub(super) fn new(most: usize) -> Self {
        Self { most, entries: HashMap::new(), order: VecDeque::new() }
    }

    /// Sets an entry.
    pub(super) fn insert(&mut self, key: Arc<str>, value: V) {
        if self.entries.insert(Arc::clone(&key), value).is_none() {
            self.order.push_back(key);
        }
        while self.entries.len() > self.most {
            let Some(oldest) = self.order.pop_front() else { break };
            self.entries.remove(&oldest);
        }
    }

    /// The entry of that key.
    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.entries.get(key)
    }

    /// The entry of that key, to change.
    pub(super) fn entry_mut(&mut self, key: &str) -> Option<&mut V> {
        self.entries.get_mut(key)
    }
}

#[cfg(test)]
pub(super) fn principal(agent: &str, credential: &str) -> Principal {
    Principal {
        agent: agent.to_owned(),
        issuer: "countersign".to_owned(),
        user: None,
        task: None,
        teams: Vec::new(),
        scopes: Vec::new(),
        workload: None,
        chain: Vec::new(),
        tools: None,
        assurance: crate::call::Assurance::Bearer,
        credential: credential.to_owned(),
        issued: Timestamp::UNIX_EPOCH,
        expires: Timestamp::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_session_opens_for_its_own_principal_while_it_lasts() {
        let seal = Seal::new(&[1; 32]).unwrap();
        let bot = principal("bot", "c1");
        let capabilities = Object::new().with("roots", Object::new()).with("experimental", Object::new());
        let session = Session::new(&bot, "2025-06-18", &capabilities, at(1_000)).unwrap();
        let id = session.seal(&seal).unwrap();
        assert!(id.len() < 4_096 && id.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(Session::open(&seal, &id, &bot, at(2_000)), Some(session.clone()));
        assert_eq!(session.capabilities, Object::new().with("roots", Object::new()));
        assert_eq!(Session::open(&seal, &id, &principal("other", "c1"), at(2_000)), None);
        let (mut user, mut task, mut chain) = (bot.clone(), bot.clone(), bot.clone());
        user.user = Some("maria".to_owned());
        task.task = Some("invoices".to_owned());
        chain.chain = vec!["sub".to_owned()];
        for other in [user, task, chain, Principal { issuer: "https://other.example".to_owned(), ..bot.clone() }] {
            assert_eq!(Session::open(&seal, &id, &other, at(2_000)), None);
        }
        // the same with another token, which may have more scopes
        let refreshed = Principal { scopes: vec!["pay".to_owned()], ..principal("bot", "c2") };
        assert_eq!(Session::open(&seal, &id, &refreshed, at(2_000)), Some(session.clone()));
        assert_eq!(Session::open(&seal, &id, &bot, at(1_000 + 7 * 86_400)), None, "it is over");
        assert_eq!(Session::open(&seal, &id, &bot, at(0)), None, "it is from the future");
        assert_eq!(Session::open(&seal, &format!("{id}A"), &bot, at(2_000)), None);
        assert_eq!(Session::open(&seal, "", &bot, at(2_000)), None);
    }

    #[test]
    fn an_unknown_revision_is_offered_the_newest_legacy_one() {
        let version = |asked: &str| Session::new(&principal("bot", "c"), asked, &Object::new(), at(0)).unwrap().version;
        for spoken in ["2025-11-25", "2025-06-18", "2025-03-26"] {
            assert_eq!(version(spoken), spoken);
        }
        for other in ["2026-07-28", "2024-11-05", "", "x"] {
            assert_eq!(version(other), "2025-11-25");
        }
    }

    #[test]
    fn large_capabilities_do_not_make_large_sessions() {
        let large = Object::new().with("sampling", Object::new().with("x", "y".repeat(10_000)));
        assert_eq!(carried(&large), Object::new().with("sampling", Object::new()));
    }

    #[test]
    fn a_full_map_forgets_the_oldest() {
        let mut map = Bounded::new(2);
        for key in ["a", "b", "a", "c"] {
            map.insert(key.into(), ());
        }
        assert!(map.get("a").is_none() && map.get("b").is_some() && map.get("c").is_some());
    }
}
