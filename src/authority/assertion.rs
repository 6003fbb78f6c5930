//! Clients that show a key: JWT assertions (RFC 7523, section 3), each taken once.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{Form, Refused};
use crate::{
    call::{Assurance, Fault, Principal},
    clock::Timestamp,
    config::ClientConfig,
    identity::ISSUER,
    json::{Digest, Value},
    jws::{self, Jwk, Jws, NotSigned},
    oidc::{Issuer, Whom},
    reach::Resolver,
};

/// What `client_assertion_type` has to be.
const KIND: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
/// The longest life of an assertion, seconds.
const LONGEST: i64 = 300;
/// The longest `jti` that is looked at, bytes.
const LONGEST_ID: usize = 256;
/// Assertions of one client that are remembered; who makes more within their life has to wait.
const EACH: usize = 4_096;
/// Bytes of a file of keys.
const FILE: u64 = 256 << 10;
/// How long keys that were fetched are used without asking again, and where asking again fails.
const FRESH: Duration = Duration::from_secs(300);
const STALE: Duration = Duration::from_secs(3_600);

/// Who may show a key, and what was shown.
pub(super) struct Clients {
    all: BTreeMap<String, Client>,
    skew: i64,
    /// Assertions of before count for nothing: whether they were used is not remembered.
    since: i64,
    used: Mutex<HashMap<String, Used>>,
}

/// Assertions of one client that were used, for as long as they could be used again.
#[derive(Default)]
struct Used {
    ids: HashMap<Digest, i64>,
    order: VecDeque<(Digest, i64)>,
}

/// One client.
pub(super) struct Client {
    config: ClientConfig,
    keys: Keys,
}

enum Keys {
    File(PathBuf),
    Published(Box<Issuer>),
}

impl Client {
    pub(super) fn new(name: &str, config: &ClientConfig, resolver: Arc<dyn Resolver>) -> Result<Self, Fault> {
        let keys = match (&config.jwks, &config.jwks_url) {
            (Some(file), _) => Keys::File(file.clone()),
            (None, Some(url)) => {
                let private = config.allow_private;
                let whom = Whom {
                    issuer: url.as_str(),
                    keys: Some(url),
                    authorities: None,
                    private,
                    fresh: FRESH,
                    stale: STALE,
                };
                Keys::Published(Box::new(Issuer::new(&whom, resolver)?))
            }
            (None, None) => return Err(Fault(format!("the client `{name}` has neither `jwks` nor `jwks_url`"))),
        };
        Ok(Self { config: config.clone(), keys })
    }

    pub(super) fn bound(&self) -> bool {
        self.config.bound
    }

    /// The most that it may ask for.
    pub(super) fn principal(&self, now: Timestamp, longest: Duration) -> Result<Principal, Refused> {
        let longest = jiff::SignedDuration::try_from(longest).unwrap_or(jiff::SignedDuration::MAX);
        let ClientConfig { agent, teams, scopes, tools, .. } = self.config.clone();
        Ok(Principal {
            agent,
            issuer: ISSUER.to_owned(),
            user: None,
            task: None,
            teams,
            scopes,
            workload: None,
            chain: Vec::new(),
            tools,
            assurance: Assurance::Bearer,
            credential: String::new(),
            issued: now,
            expires: now.saturating_add(longest).unwrap_or(Timestamp::MAX),
        })
    }

    /// Checks the signature, and gives the claims.
    async fn check(&self, jws: &Jws<'_>) -> Result<Value, Refused> {
        match &self.keys {
            Keys::Published(issuer) => match issuer.check_read(jws).await {
                Ok(checked) => checked.map(|(claims, _)| claims).map_err(|_: NotSigned| Refused::Client),
                Err(why) => Err(Refused::Unavailable(Fault(why.0))),
            },
            Keys::File(path) => {
                let keys = read(path).await.map_err(Refused::Unavailable)?;
                jws.check(&keys).map(|(claims, _)| claims.clone()).map_err(|_| Refused::Client)
            }
        }
    }
}

async fn read(path: &PathBuf) -> Result<Vec<Jwk>, Fault> {
    let wrong = |why: String| Fault(format!("the keys in `{}` cannot be used: {why}", path.display()));
    let length = tokio::fs::metadata(path).await.map_err(|error| wrong(error.to_string()))?.len();
    if length > FILE {
        return Err(wrong(format!("the file is longer than {} KiB", FILE >> 10)));
    }
    let text = tokio::fs::read(path).await.map_err(|error| wrong(error.to_string()))?;
    Jwk::read_set(&text).map_err(wrong)
}

impl Clients {
    pub(super) fn new(all: BTreeMap<String, Client>, skew: Duration, since: Timestamp) -> Self {
        let skew = i64::try_from(skew.as_secs()).unwrap_or(0);
        Self { all, skew, since: since.as_second(), used: Mutex::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The client that the assertion in `form` is by, made for one of `audiences`.
    pub(super) async fn shown(
        &self,
        form: &Form,
        audiences: &[&str],
        now: Timestamp,
    ) -> Result<(&str, &Client), Refused> {
        let assertion = match (form.text("client_assertion_type"), form.text("client_assertion")) {
            (Some(KIND), Some(assertion)) => assertion,
            _ => {
                let why = "a client shows a key: `client_assertion`, with its `client_assertion_type` (RFC 7523)";
                return Err(Refused::Malformed(why));
            }
        };
        // which key to check it by is all that is taken from what it says of itself
        let jws = Jws::read(assertion).map_err(|_| Refused::Client)?;
        let known = jws.said("iss").and_then(Value::as_str).and_then(|name| self.all.get_key_value(name));
        let (name, client) = known.ok_or(Refused::Client)?;
        let kind = jws.kind().map(str::to_ascii_lowercase);
        if !matches!(kind.as_deref(), None | Some("jwt" | "client-authentication+jwt")) {
            return Err(Refused::Client);
        }
        let claims = client.check(&jws).await?;
        let text = |member: &str| claims.get(member).and_then(Value::as_str);
        if text("sub") != Some(name) || form.text("client_id").is_some_and(|id| id != name) {
            return Err(Refused::Client);
        }
        let audience = match claims.get("aud") {
            Some(Value::String(one)) => Some(one.as_str()),
            Some(Value::Array(all)) => match all.as_slice() {
                [Value::String(one)] => Some(one.as_str()),
                _ => None,
            },
            _ => None,
        };
        // what is made for others too, others could use here
        if !audience.is_some_and(|audience| audiences.contains(&audience)) {
            return Err(Refused::AssertionAudience);
        }
        let time = |member: &str| claims.get(member).and_then(Value::as_number).and_then(jws::seconds);
        let (Some(made), Some(until)) = (time("iat"), time("exp")) else { return Err(Refused::AssertionExpired) };
        let now = now.as_second();
        let early = made > now.saturating_add(self.skew)
            || time("nbf").is_some_and(|begins| begins > now.saturating_add(self.skew));
        let over = until.saturating_add(self.skew) <= now || until.saturating_sub(made) > LONGEST || made < self.since;
        if early || over || made.saturating_add(LONGEST).saturating_add(self.skew) < now {
            return Err(Refused::AssertionExpired);
        }
        let id = text("jti").filter(|id| (1..=LONGEST_ID).contains(&id.len())).ok_or(Refused::Client)?;
        self.take(name, Digest::of(id.as_bytes()), until.saturating_add(self.skew), now)?;
        Ok((name, client))
    }

    /// Takes an assertion for used. Nothing is forgotten that could be used again: who is out of room has to wait.
    fn take(&self, client: &str, id: Digest, until: i64, now: i64) -> Result<(), Refused> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        // as many as there are clients
        let used = used.entry(client.to_owned()).or_default();
        while let Some((id, _)) = used.order.front().filter(|(_, until)| *until <= now).copied() {
            used.order.pop_front();
            used.ids.remove(&id);
        }
        if used.ids.contains_key(&id) {
            return Err(Refused::AssertionReplayed);
        }
        if used.order.len() >= EACH {
            return Err(Refused::TooManyTokens);
        }
        used.ids.insert(id, until);
        used.order.push_back((id, until));
        Ok(())
    }
}
