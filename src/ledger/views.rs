//! What is so because of what was written.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::entry;
use crate::{clock::Timestamp, hold::Book, json::Value};

/// How long a credential that has ended is remembered.
const REMEMBERED: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);
/// The same for one from the token endpoint: agents make those themselves, and many.
const REMEMBERED_TRADED: jiff::SignedDuration = jiff::SignedDuration::from_mins(5);
/// Tasks that were ended and agents whose credentials were all revoked that are remembered, the last ones of each: only an
/// operator's command makes one.
const NAMES: usize = 65_536;
/// How long the revocation of a credential that was never issued is remembered.
const UNKNOWN: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 400);

/// A credential of our own that has not ended yet, or the revocation of another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Whose it is.
    pub agent: String,
    /// When it ends.
    #[serde(with = "micros")]
    pub expires: Timestamp,
    /// It was revoked, or one was that it comes from.
    pub revoked: bool,
    /// The user it acts for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The task it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The agents through whose hands it went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
    /// The credential that it was traded for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The credential of the sub-agent that it was handed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// It came from the token endpoint.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub traded: bool,
}

impl Token {
    /// Whether it could be accepted at that time, as far as is known here.
    pub fn is_good(&self, now: Timestamp) -> bool {
        !self.revoked && now < self.expires
    }

    /// Whether that agent has it in its hands, or had.
    fn touches(&self, agent: &str) -> bool {
        self.agent == agent || self.chain.iter().any(|name| name == agent)
    }

    /// Whether nothing needs to be known of it any more.
    pub(crate) fn is_forgotten(&self, at: Timestamp) -> bool {
        let after = if self.traded { REMEMBERED_TRADED } else { REMEMBERED };
        self.expires.saturating_add(after).is_ok_and(|end| end <= at)
    }

    /// What is remembered of a credential that was never issued here, and is revoked.
    fn revoked(agent: &str, expires: Timestamp) -> Self {
        Self {
            agent: agent.to_owned(),
            expires,
            revoked: true,
            user: None,
            task: None,
            chain: Vec::new(),
            parent: None,
            actor: None,
            traded: false,
        }
    }
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
    pub(super) tokens: HashMap<Arc<str>, Arc<Token>>,
    /// Tasks that were ended, and when.
    ended: Arc<HashMap<String, Timestamp>>,
    /// Agents all of whose credentials were revoked, and when.
    cutoffs: Arc<HashMap<String, Timestamp>>,
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
    tokens: Vec<(String, Token)>,
    ended: Vec<(String, i64)>,
    cutoffs: Vec<(String, i64)>,
    pins: Vec<(String, String, String)>,
    rejected: Vec<(String, String, String, String, i64)>,
    holds: Vec<u64>,
    latest: i64,
    voted: Vec<(String, Vec<i64>)>,
}

const VERSION: u32 = 4;

impl Views {
    /// The credential of that id, if one was issued and has not ended long ago.
    pub fn token(&self, credential: &str) -> Option<&Token> {
        self.tokens.get(credential).map(|token| &**token)
    }

    /// Every credential that was issued and has not ended long ago, by its id.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &Token)> {
        self.tokens.iter().map(|(id, token)| (&**id, &**token))
    }

    /// Whether that task was ended: nothing that names it is good any more, whoever issued it.
    pub fn is_ended(&self, task: &str) -> bool {
        self.ended.contains_key(task)
    }

    /// Until when every credential of that agent was revoked, whoever issued it: those issued then or before.
    pub fn revoked_until(&self, agent: &str) -> Option<Timestamp> {
        self.cutoffs.get(agent).copied()
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
            Some(
                "token.issued" | "token.revoked" | "task.ended" | "tool.registered" | "tool.accepted" | "tool.rejected"
            )
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
                self.tokens.retain(|_, token| !token.is_forgotten(at));
                let owned = |name: &str| text(name).map(str::to_owned);
                let chain = tree.get("chain").and_then(Value::as_array).unwrap_or_default();
                let chain = chain.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                let (parent, actor) = (owned("parent"), owned("actor"));
                let traded = parent.is_some() || text("client").is_some();
                // a revocation that came first stands, and so does that of one that it comes from
                let known = [Some(credential), parent.as_deref(), actor.as_deref()];
                let revoked = known.into_iter().flatten().any(|id| self.token(id).is_some_and(|token| token.revoked));
                let (agent, user, task) = (agent.to_owned(), owned("user"), owned("task"));
                let token = Token { agent, expires, revoked, user, task, chain, parent, actor, traded };
                self.tokens.insert(credential.into(), Arc::new(token));
            }
            (Some("token.revoked"), Some(agent), Some(credential)) => {
                let token = self.tokens.entry(credential.into()).or_insert_with(|| {
                    let expires = at.saturating_add(UNKNOWN).unwrap_or(at);
                    Arc::new(Token::revoked(agent, expires))
                });
                Arc::make_mut(token).revoked = true;
                self.revoke_children();
            }
            (Some("token.revoked"), Some(agent), None) => {
                let own = self.tokens.values_mut().filter(|token| token.touches(agent));
                own.for_each(|token| Arc::make_mut(token).revoked = true);
                self.revoke_children();
                remember(&mut self.cutoffs, agent, at);
            }
            (Some("task.ended"), _, _) => {
                if let Some(task) = text("task") {
                    remember(&mut self.ended, task, at);
                }
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

    /// Revokes what comes from a credential that is revoked, children of children too: whoever judges one of them looks
    /// at it alone.
    fn revoke_children(&mut self) {
        let mut children: HashMap<&str, Vec<&Arc<str>>> = HashMap::new();
        for (id, token) in &self.tokens {
            for from in [&token.parent, &token.actor].into_iter().flatten() {
                children.entry(from).or_default().push(id);
            }
        }
        let mut ended: Vec<&Arc<str>> =
            self.tokens.iter().filter(|(_, token)| token.revoked).map(|(id, _)| id).collect();
        let mut more: HashSet<Arc<str>> = HashSet::new();
        while let Some(id) = ended.pop() {
            for child in children.get(&**id).into_iter().flatten() {
                if self.tokens.get(*child).is_some_and(|token| !token.revoked) && more.insert(Arc::clone(child)) {
                    ended.push(child);
                }
            }
        }
        for id in more {
            if let Some(token) = self.tokens.get_mut(&id) {
                Arc::make_mut(token).revoked = true;
            }
        }
    }

    pub(super) fn to_snapshot(&self, book: &Book) -> Bytes {
        let tokens = self.tokens.iter().map(|(id, token)| (id.to_string(), Token::clone(token)));
        let named = |names: &HashMap<String, Timestamp>| {
            names.iter().map(|(name, at)| (name.clone(), at.as_microsecond())).collect()
        };
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
            ended: named(&self.ended),
            cutoffs: named(&self.cutoffs),
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
        let time = |micros: i64| Timestamp::from_microsecond(micros).ok();
        let named = |names: Vec<(String, i64)>| -> Option<Arc<HashMap<String, Timestamp>>> {
            let read = names.into_iter().map(|(name, at)| Some((name, time(at)?)));
            read.collect::<Option<HashMap<_, _>>>().map(Arc::new)
        };
        views.tokens = form.tokens.into_iter().map(|(id, token)| (id.into(), Arc::new(token))).collect();
        (views.ended, views.cutoffs) = (named(form.ended)?, named(form.cutoffs)?);
        views.holds = form.holds;
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

/// Remembers when something was done to that name; the oldest is forgotten where there is no room.
fn remember(names: &mut Arc<HashMap<String, Timestamp>>, name: &str, at: Timestamp) {
    let names = Arc::make_mut(names);
    names.insert(name.to_owned(), at);
    if names.len() > NAMES
        && let Some(oldest) = names.iter().min_by_key(|(_, at)| **at).map(|(name, _)| name.clone())
    {
        names.remove(&oldest);
    }
}

/// A time in a snapshot: microseconds since the Unix epoch.
mod micros {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::clock::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(at.as_microsecond())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        Timestamp::from_microsecond(i64::deserialize(from)?).map_err(D::Error::custom)
    }
}
