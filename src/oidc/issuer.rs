//! An issuer: its metadata (OpenID Connect Discovery 1.0) and its keys, fetched when they are needed and kept.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use reqwest::{Certificate, Client, Url};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    call::{Fault, cut},
    display::visible,
    json::{Limits, Value, parse},
    jws::{Jwk, Jws, NotSigned},
    reach::{self, Resolver, Rule, cause, literal},
};

/// Bytes of one answer.
const ANSWER: usize = 256 << 10;
/// How long whoever asks waits for what is known anew, where what was known can still be used.
const PATIENCE: Duration = Duration::from_secs(1);
/// How soon it is asked again for a key that is not known.
const AGAIN: Duration = Duration::from_secs(5);
/// How soon it is asked again after a failure.
const RETRY: Duration = Duration::from_secs(5);
const LIMITS: Limits = Limits { bytes: ANSWER, depth: 16, nodes: 8_192 };

/// The provider cannot be asked, or does not say what it has to: why, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable(pub String);

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unreachable {}

/// What an issuer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Where people are sent to sign in.
    pub authorization_endpoint: Option<Url>,
    /// Where a code is traded for tokens.
    pub token_endpoint: Option<Url>,
    /// Where its keys are.
    pub jwks_uri: Url,
    /// Where people are sent to sign out there too.
    pub end_session_endpoint: Option<Url>,
    /// Where it tells of tokens (RFC 7662).
    pub introspection_endpoint: Option<Url>,
    /// It names itself in what it sends back (RFC 9207).
    pub names_itself: bool,
    /// How it wants a client to show its secret, in its own words.
    pub token_auth: Vec<String>,
}

/// Whom to ask, and how long to go by what was said.
#[derive(Clone, Debug)]
pub struct Whom<'a> {
    /// Its name, which is a URL: `https`, or `http` on this machine.
    pub issuer: &'a str,
    /// Where its keys are; by its metadata, without.
    pub keys: Option<&'a Url>,
    /// Authorities that alone may vouch for its certificate, in PEM; those that the machine knows, without.
    pub authorities: Option<&'a [u8]>,
    /// Addresses that are not of the public internet are meant.
    pub private: bool,
    /// How long what was fetched is used without asking again.
    pub fresh: Duration,
    /// How long it is used where asking again fails.
    pub stale: Duration,
}

impl<'a> Whom<'a> {
    /// An issuer that people sign in with: its metadata and keys seldom change, and a provider that is out for a day
    /// shall keep nobody out.
    pub fn people(issuer: &'a str, private: bool) -> Self {
        let (fresh, stale) = (Duration::from_secs(3_600), Duration::from_secs(24 * 3_600));
        Self { issuer, keys: None, authorities: None, private, fresh, stale }
    }
}

/// One issuer. Cheap to ask: what is known is kept.
pub struct Issuer {
    issuer: String,
    discovery: Vec<Url>,
    keys_at: Option<Url>,
    client: Client,
    rule: Rule,
    fresh: Duration,
    stale: Duration,
    keys: ArcSwapOption<Keys>,
    known: Mutex<Known>,
}

/// The keys of a moment.
struct Keys {
    all: Vec<Jwk>,
    since: Instant,
}

#[derive(Default)]
struct Known {
    metadata: Option<(Arc<Metadata>, Instant)>,
    failed: Option<(Unreachable, Instant)>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Issuer {
    /// Makes ready to ask; nothing is fetched yet.
    ///
    /// # Errors
    /// [`Fault`] when the URL is none, or TLS cannot be set up.
    pub fn new(whom: &Whom<'_>, resolver: Arc<dyn Resolver>) -> Result<Self, Fault> {
        let issuer = whom.issuer;
        let url =
            Url::parse(issuer).map_err(|_| Fault(format!("`{}` is no issuer's URL", visible(cut(issuer, 200)))))?;
        let plain = url.scheme() != "https" || whom.keys.is_some_and(|keys| keys.scheme() != "https");
        let rule = Rule { private: whom.private, loopback_only: plain };
        // section 4 of Discovery: the path is appended to the issuer's own; section 3.1 of RFC 8414: it is put before it
        let bare = issuer.trim_end_matches('/');
        let (origin, path) = bare.split_at(bare.len() - url.path().trim_end_matches('/').len());
        let discovery = [
            format!("{bare}/.well-known/openid-configuration"),
            format!("{origin}/.well-known/oauth-authorization-server{path}"),
        ];
        let discovery: Result<Vec<Url>, _> = discovery.iter().map(|url| Url::parse(url)).collect();
        let discovery = discovery.map_err(|error| Fault(error.to_string()))?;
        let refused = |error| Fault(format!("the issuer `{}` cannot be asked: {}", visible(issuer), cause(error)));
        let mut client = reach::client(rule, resolver);
        if let Some(authorities) = whom.authorities {
            let authorities = Certificate::from_pem_bundle(authorities).map_err(refused)?;
            if authorities.is_empty() {
                return Err(Fault(format!("the `ca` of the issuer `{}` has no certificate in it", visible(issuer))));
            }
            client = client.tls_certs_only(authorities);
        }
        let client = client.build().map_err(refused)?;
        let (fresh, stale) = (whom.fresh, whom.stale);
        let (issuer, keys_at) = (issuer.to_owned(), whom.keys.cloned());
        let (keys, known) = (ArcSwapOption::empty(), Mutex::default());
        Ok(Self { issuer, discovery, keys_at, client, rule, fresh, stale, keys, known })
    }

    /// Its name, as the `iss` of its tokens.
    pub fn name(&self) -> &str {
        &self.issuer
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// [`Unreachable`]
    pub async fn metadata(&self) -> Result<Arc<Metadata>, Unreachable> {
        let mut known = self.known.lock().await;
        self.discover(&mut known).await
    }

    /// Checks the signature of a token by the key of this issuer that it can be by, and gives its claims and that key.
    /// A key that is not known is looked for once, if that was not done a moment ago.
    ///
    /// # Errors
    /// [`NotSigned`], or [`Unreachable`] when the keys cannot be had.
    pub async fn check(&self, token: &str) -> Result<Result<(Value, Jwk), NotSigned>, Unreachable> {
        match Jws::read(token) {
            Ok(jws) => self.check_read(&jws).await,
            Err(why) => Ok(Err(why)),
        }
    }

    /// The same for a token that was read.
    ///
    /// # Errors
    /// As [`Issuer::check`].
    pub async fn check_read(&self, jws: &Jws<'_>) -> Result<Result<(Value, Jwk), NotSigned>, Unreachable> {
        let keys = self.keys(self.fresh).await?;
        let checked = match jws.check(&keys.all) {
            Err(NotSigned::UnknownKey) if keys.since.elapsed() >= AGAIN => {
                jws.check(&self.keys(AGAIN).await?.all).map(owned)
            }
            checked => checked.map(owned),
        };
        Ok(checked)
    }

    async fn discover(&self, known: &mut Known) -> Result<Arc<Metadata>, Unreachable> {
        if let Some((metadata, since)) = &known.metadata
            && since.elapsed() < self.fresh
        {
            return Ok(Arc::clone(metadata));
        }
        let fetched = match waiting(known) {
            Some(why) => Err(why),
            None => self.discovered().await,
        };
        match fetched {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                known.metadata = Some((Arc::clone(&metadata), Instant::now()));
                Ok(metadata)
            }
            Err(why) => {
                failed(known, &why);
                let stale = known.metadata.as_ref().filter(|(_, since)| since.elapsed() < self.stale);
                stale.map(|(metadata, _)| Arc::clone(metadata)).ok_or(why)
            }
        }
    }

    /// By either specification: where it says nothing by the one, it may by the other.
    async fn discovered(&self) -> Result<Metadata, Unreachable> {
        let mut first = None;
        for url in &self.discovery {
            let request = self.client.get(url.clone()).header("accept", "application/json");
            match self.send(url, request).await? {
                (200, text) => return self.read(&text),
                (status, _) => first = first.or(Some(status)),
            }
        }
        Err(self.wrong(&format!("it answered with status {}", first.unwrap_or_default())))
    }

    /// Its keys, fetched within `age`; older ones, but not older than they may be, where it cannot be asked now or
    /// somebody else is just asking.
    async fn keys(&self, age: Duration) -> Result<Arc<Keys>, Unreachable> {
        let known = self.keys.load_full();
        let old = match &known {
            Some(keys) if keys.since.elapsed() < age => return Ok(Arc::clone(keys)),
            Some(keys) => Some(keys).filter(|keys| keys.since.elapsed() < self.stale),
            None => None,
        };
        // a key that is not known is waited for; for keys that are merely no longer fresh nobody waits long
        let in_turn = match old.filter(|_| age == self.fresh) {
            Some(old) => match self.known.try_lock() {
                Ok(known) => Some((known, old)),
                Err(_) => return Ok(Arc::clone(old)),
            },
            None => None,
        };
        if let Some((mut known, old)) = in_turn {
            return match timeout(PATIENCE, self.fetch(&mut known)).await {
                Ok(Ok(keys)) => Ok(keys),
                Ok(Err(_)) => Ok(Arc::clone(old)),
                Err(_) => {
                    failed(&mut known, &self.wrong("it does not answer in time; its keys of before are used"));
                    Ok(Arc::clone(old))
                }
            };
        }
        let mut known = self.known.lock().await;
        // whoever had the turn before may have fetched them
        if let Some(keys) = self.keys.load_full().filter(|keys| keys.since.elapsed() < age) {
            return Ok(keys);
        }
        match self.fetch(&mut known).await {
            Ok(keys) => Ok(keys),
            Err(why) => old.map(Arc::clone).ok_or(why),
        }
    }

    async fn fetch(&self, known: &mut Known) -> Result<Arc<Keys>, Unreachable> {
        let fetched = match waiting(known) {
            Some(why) => Err(why),
            None => {
                let at = match &self.keys_at {
                    Some(at) => Ok(at.clone()),
                    None => self.discover(known).await.map(|metadata| metadata.jwks_uri.clone()),
                };
                match at {
                    Ok(at) => self.json(&at).await.and_then(|text| {
                        Jwk::read_set(&text).map_err(|why| self.wrong(&format!("its keys cannot be read: {why}")))
                    }),
                    Err(why) => Err(why),
                }
            }
        };
        match fetched {
            Ok(all) => {
                let keys = Arc::new(Keys { all, since: Instant::now() });
                self.keys.store(Some(Arc::clone(&keys)));
                Ok(keys)
            }
            Err(why) => {
                failed(known, &why);
                Err(why)
            }
        }
    }

    fn wrong(&self, why: &str) -> Unreachable {
        Unreachable(format!("the provider `{}` cannot be used: {why}", visible(&self.issuer)))
    }

    /// Reads the metadata. The issuer in it has to be the one that was asked for (section 4.3): else one provider could
    /// speak for another.
    fn read(&self, text: &[u8]) -> Result<Metadata, Unreachable> {
        let tree = parse(text, &LIMITS).map_err(|_| self.wrong("its metadata is no JSON that is let in"))?;
        let member = |name: &str| tree.get(name).and_then(Value::as_str);
        if member("issuer") != Some(&self.issuer) {
            return Err(self.wrong("its metadata names another issuer"));
        }
        let url = |name: &str| match member(name) {
            None => Ok(None),
            Some(text) => self.rule.url(text).map(Some).map_err(|why| self.wrong(&format!("its `{name}` {why}"))),
        };
        let words = |name: &str| -> Vec<String> {
            let listed = tree.get(name).and_then(Value::as_array).unwrap_or_default();
            listed.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Ok(Metadata {
            authorization_endpoint: url("authorization_endpoint")?,
            token_endpoint: url("token_endpoint")?,
            jwks_uri: url("jwks_uri")?.ok_or_else(|| self.wrong("its metadata has no `jwks_uri`"))?,
            end_session_endpoint: url("end_session_endpoint")?,
            introspection_endpoint: url("introspection_endpoint")?,
            names_itself: tree.get("authorization_response_iss_parameter_supported").and_then(Value::as_bool)
                == Some(true),
            token_auth: words("token_endpoint_auth_methods_supported"),
        })
    }

    async fn json(&self, url: &Url) -> Result<Vec<u8>, Unreachable> {
        let request = self.client.get(url.clone()).header("accept", "application/json");
        let (status, body) = self.send(url, request).await?;
        if status != 200 {
            return Err(self.wrong(&format!("it answered with status {status}")));
        }
        Ok(body)
    }

    /// Sends a request to a URL of this issuer's, and reads the answer: its status, and at most [`ANSWER`] bytes.
    ///
    /// # Errors
    /// [`Unreachable`]
    pub(crate) async fn send(
        &self,
        url: &Url,
        request: reqwest::RequestBuilder,
    ) -> Result<(u16, Vec<u8>), Unreachable> {
        // a literal address is not resolved: it is checked here
        if let Some(address) = literal(url) {
            self.rule.check(address).map_err(|why| self.wrong(&why))?;
        }
        let mut response = request.send().await.map_err(|error| self.wrong(&cause(error)))?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.wrong(&cause(error)))? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER {
                return Err(self.wrong(&format!("its answer is longer than {} KiB", ANSWER >> 10)));
            }
        }
        Ok((response.status().as_u16(), body))
    }

    /// Makes what is known older, for tests.
    #[cfg(test)]
    pub(super) async fn age(&self, by: Duration) {
        let mut known = self.known.lock().await;
        let older = |since: Instant| since.checked_sub(by).unwrap_or(since);
        known.metadata.iter_mut().for_each(|(_, since)| *since = older(*since));
        if let Some(keys) = self.keys.load_full() {
            self.keys.store(Some(Arc::new(Keys { all: keys.all.clone(), since: older(keys.since) })));
        }
        known.failed = None;
    }

    /// The client that its URLs are asked with.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

fn owned((claims, key): (&Value, &Jwk)) -> (Value, Jwk) {
    (claims.clone(), key.clone())
}

/// Why it is not asked yet: it failed a moment ago.
fn waiting(known: &Known) -> Option<Unreachable> {
    let (why, since) = known.failed.as_ref()?;
    (since.elapsed() < RETRY).then(|| why.clone())
}

fn failed(known: &mut Known, why: &Unreachable) {
    if waiting(known).is_none() {
        tracing::warn!("{why}");
        known.failed = Some((why.clone(), Instant::now()));
    }
}
