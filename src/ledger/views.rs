//! What is so because of what was written.

use std::collections::HashMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry;
use crate::{clock::Timestamp, hold::Book, json::Value};

/// How long a credential that has ended is remembered.
const REMEMBERED: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
/// How long the revocation of a credential that was never issued is remembered.
const UNKNOWN: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 400);

/// A credential of our own that has not ended yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is.
    pub agent: String,
    /// When it ends.
    pub expires: Timestamp,
    /// It was revoked.
    pub revoked: bool,
}

/// A changed definition that somebody looked at and did not want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its digest.
    pub definition: String,
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

/// State folded from the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Views {
    pub(super) tokens: HashMap<String, Token>,
    pub(super) pins: HashMap<(String, String), String>,
    pub(super) rejected: HashMap<(String, String), Rejection>,
    /// Entries that holds and approvers are made from, as of the snapshot that these views began with.
    pub(super) holds: Vec<u64>,
    /// What these do not tell, see [`Book::memory`].
    pub(super) memory: (Timestamp, Vec<(String, Vec<Timestamp>)>),
}

/// The form of a snapshot; a snapshot of another form is ignored and the entries are folded again.
#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    tokens: Vec<(String, String, i64, bool)>,
    pins: Vec<(String, String, String)>,
    rejected: Vec<(String, String, String, String, i64)>,
    holds: Vec<u64>,
    latest: i64,
    voted: Vec<(String, Vec<i64>)>,
}

const VERSION: u32 = 3;

impl Views {
    /// The credential of that id, if one was issued and has not ended long ago.
    pub fn token(&self, credential: &str) -> Option<&Token> {
        self.tokens.get(credential)
    }

    /// Every credential that was issued and has not ended long ago, by its id.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &Token)> {
        self.tokens.iter().map(|(id, token)| (id.as_str(), token))
    }

    /// The contract digest that was last registered or accepted for a tool, by upstream and the tool's own name.
    pub fn pin(&self, upstream: &str, tool: &str) -> Option<&str> {
        self.pins.get(&(upstream.to_owned(), tool.to_owned())).map(String::as_str)
    }

    /// The definition of a tool that was rejected last and not accepted since, by upstream and the tool's own name.
    pub fn rejection(&self, upstream: &str, tool: &str) -> Option<&Rejection> {
        self.rejected.get(&(upstream.to_owned(), tool.to_owned()))
    }

    /// Whether an entry changes any view: a glance at its kind.
    pub(super) fn concerns(text: &[u8]) -> bool {
        matches!(
            entry::member(text, "kind"),
            Some("token.issued" | "token.revoked" | "tool.registered" | "tool.accepted" | "tool.rejected")
        )
    }

    /// Takes one entry in.
    pub(super) fn fold(&mut self, text: &[u8]) {
        let Some(tree) = entry::tree(text) else { return };
        let text = |name: &str| tree.get(name).and_then(Value::as_str);
        let time = |name: &str| text(name).and_then(|time| time.parse::<Timestamp>().ok());
        let Some(at) = time("at") else { return };
        match (text("kind"), text("agent"), text("credential")) {
            (Some("token.issued"), Some(agent), Some(credential)) => {
                let Some(expires) = time("expires") else { return };
                self.tokens.retain(|_, token| token.expires.saturating_add(REMEMBERED).is_ok_and(|end| end > at));
                // a revocation that came first stands
                let revoked = self.tokens.get(credential).is_some_and(|token| token.revoked);
                self.tokens.insert(credential.to_owned(), Token { agent: agent.to_owned(), expires, revoked });
            }
            (Some("token.revoked"), Some(agent), Some(credential)) => {
                let expires = at.saturating_add(UNKNOWN).unwrap_or(at);
                let token = self.tokens.entry(credential.to_owned());
                token.or_insert_with(|| Token { agent: agent.to_owned(), expires, revoked: true }).revoked = true;
            }
            (Some("token.revoked"), Some(agent), None) => {
                self.tokens.values_mut().filter(|token| token.agent == agent).for_each(|token| token.revoked = true);
            }
            (Some("tool.registered" | "tool.accepted"), _, _) => {
                if let (Some(upstream), Some(tool), Some(contract)) = (text("upstream"), text("tool"), text("contract"))
                {
                    let key = (upstream.to_owned(), tool.to_owned());
                    self.rejected.remove(&key);
                    self.pins.insert(key, contract.to_owned());
                }
            }
            (Some("tool.rejected"), _, _) => {
                let (upstream, tool) = (text("upstream"), text("tool"));
                if let (Some(upstream), Some(tool), Some(definition), Some(by)) =
                    (upstream, tool, text("definition"), text("by"))
                {
                    let rejection = Rejection { definition: definition.to_owned(), by: by.to_owned(), at };
                    self.rejected.insert((upstream.to_owned(), tool.to_owned()), rejection);
                }
            }
            _ => {}
        }
    }

    pub(super) fn to_snapshot(&self, book: &Book) -> Bytes {
        let tokens = self
            .tokens
            .iter()
            .map(|(id, token)| (id.clone(), token.agent.clone(), token.expires.as_microsecond(), token.revoked));
        let pins = self.pins.iter().map(|((upstream, tool), pin)| (upstream.clone(), tool.clone(), pin.clone()));
        let rejected = self.rejected.iter().map(|((upstream, tool), rejection)| {
            let Rejection { definition, by, at } = rejection;
            (upstream.clone(), tool.clone(), definition.clone(), by.clone(), at.as_microsecond())
        });
        let (latest, voted) = book.memory();
        let micros = |times: Vec<Timestamp>| times.into_iter().map(Timestamp::as_microsecond).collect();
        let voted = voted.into_iter().map(|(name, times)| (name, micros(times)));
        let form = Form {
            version: VERSION,
            tokens: tokens.collect(),
            pins: pins.collect(),
            rejected: rejected.collect(),
            holds: book.entries(),
            latest: latest.as_microsecond(),
            voted: voted.collect(),
        };
        // a snapshot that cannot be read back is as good as none
        serde_json::to_vec(&form).unwrap_or_default().into()
    }

    pub(super) fn of_snapshot(bytes: &[u8]) -> Option<Self> {
        let form: Form = serde_json::from_slice(bytes).ok()?;
        let mut views = Self::default();
        for (id, agent, expires, revoked) in form.tokens {
            let expires = Timestamp::from_microsecond(expires).ok()?;
            views.tokens.insert(id, Token { agent, expires, revoked });
        }
        views.holds = form.holds;
        let time = |micros: i64| Timestamp::from_microsecond(micros).ok();
        let mut voted = Vec::new();
        for (name, times) in form.voted {
            voted.push((name, times.into_iter().map(time).collect::<Option<Vec<_>>>()?));
        }
        views.memory = (time(form.latest)?, voted);
        for (upstream, tool, definition, by, at) in form.rejected {
            views.rejected.insert((upstream, tool), Rejection { definition, by, at: time(at)? });
        }
        views.pins = form.pins.into_iter().map(|(upstream, tool, pin)| ((upstream, tool), pin)).collect();
        (form.version == VERSION).then_some(views)
    }
}
