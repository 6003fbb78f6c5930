//! An issuer: its metadata (OpenID Connect Discovery 1.0) and its keys, fetched when they are needed and kept.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Client, Url};
use tokio::sync::Mutex;

use crate::{
    call::{Fault, cut},
    display::visible,
    json::{Limits, Value, parse},
    jws::{Jwk, Jws, NotSigned},
    reach::{self, Resolver, Rule, cause, literal},
};

/// Bytes of one answer.
const ANSWER: usize = 256 << 10;
/// How long what was fetched is used without asking again.
const FRESH: Duration = Duration::from_secs(3_600);
/// How long it is used where asking again fails.
const STALE: Duration = Duration::from_secs(24 * 3_600);
/// How soon it is asked again for a key that is not known.
const AGAIN: Duration = Duration::from_secs(30);
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
    /// It names itself in what it sends back (RFC 9207).
    pub names_itself: bool,
    /// How it wants a client to show its secret, in its own words.
    pub token_auth: Vec<String>,
}

/// One issuer. Cheap to ask: what is known is kept.
pub struct Issuer {
    issuer: String,
    discovery: Url,
    client: Client,
    rule: Rule,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    metadata: Option<(Arc<Metadata>, Instant)>,
    keys: Option<(Arc<Vec<Jwk>>, Instant)>,
    failed: Option<(Unreachable, Instant)>,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Issuer {
    /// The issuer of that name, which is a URL: `https`, or `http` on this machine. `private` says that addresses which
    /// are not of the public internet are meant.
    ///
    /// # Errors
    /// [`Fault`] when the URL is none, or TLS cannot be set up.
    pub fn new(issuer: &str, private: bool, resolver: Arc<dyn Resolver>) -> Result<Self, Fault> {
        let url =
            Url::parse(issuer).map_err(|_| Fault(format!("`{}` is no issuer's URL", visible(cut(issuer, 200)))))?;
        let rule = Rule { private, loopback_only: url.scheme() != "https" };
        // section 4 of Discovery: the path is appended to the issuer's own
        let discovery = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovery = Url::parse(&discovery).map_err(|error| Fault(error.to_string()))?;
        let client = reach::client(rule, resolver).build();
        let client = client.map_err(|error| Fault(format!("identity providers cannot be asked: {}", cause(error))))?;
        Ok(Self { issuer: issuer.to_owned(), discovery, client, rule, known: Mutex::default() })
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
        let jws = match Jws::read(token) {
            Ok(jws) => jws,
            Err(why) => return Ok(Err(why)),
        };
        let (keys, since) = self.keys(FRESH).await?;
        let checked = match jws.check(&keys) {
            Err(NotSigned::UnknownKey) if since.elapsed() >= AGAIN => jws.check(&self.keys(AGAIN).await?.0).map(owned),
            checked => checked.map(owned),
        };
        Ok(checked)
    }

    async fn discover(&self, known: &mut Known) -> Result<Arc<Metadata>, Unreachable> {
        if let Some((metadata, since)) = &known.metadata
            && since.elapsed() < FRESH
        {
            return Ok(Arc::clone(metadata));
        }
        let fetched = match waiting(known) {
            Some(why) => Err(why),
            None => self.json(&self.discovery).await.and_then(|text| self.read(&text)),
        };
        match fetched {
            Ok(metadata) => {
                let metadata = Arc::new(metadata);
                known.metadata = Some((Arc::clone(&metadata), Instant::now()));
                Ok(metadata)
            }
            Err(why) => {
                failed(known, &why);
                let stale = known.metadata.as_ref().filter(|(_, since)| since.elapsed() < STALE);
                stale.map(|(metadata, _)| Arc::clone(metadata)).ok_or(why)
            }
        }
    }

    /// Its keys, fetched within `age`, and when they were.
    async fn keys(&self, age: Duration) -> Result<(Arc<Vec<Jwk>>, Instant), Unreachable> {
        let mut known = self.known.lock().await;
        if let Some((keys, since)) = &known.keys
            && since.elapsed() < age
        {
            return Ok((Arc::clone(keys), *since));
        }
        let fetched = match waiting(&known) {
            Some(why) => Err(why),
            None => match self.discover(&mut known).await {
                Ok(metadata) => self.json(&metadata.jwks_uri).await.and_then(|text| {
                    Jwk::read_set(&text).map_err(|why| self.wrong(&format!("its keys cannot be read: {why}")))
                }),
                Err(why) => Err(why),
            },
        };
        match fetched {
            Ok(keys) => {
                let (keys, now) = (Arc::new(keys), Instant::now());
                known.keys = Some((Arc::clone(&keys), now));
                Ok((keys, now))
            }
            Err(why) => {
                failed(&mut known, &why);
                let stale = known.keys.as_ref().filter(|(_, since)| since.elapsed() < STALE);
                stale.map(|(keys, since)| (Arc::clone(keys), *since)).ok_or(why)
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
            Some(text) => self.url(text).map(Some).map_err(|why| self.wrong(&format!("its `{name}` {why}"))),
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
            names_itself: tree.get("authorization_response_iss_parameter_supported").and_then(Value::as_bool)
                == Some(true),
            token_auth: words("token_endpoint_auth_methods_supported"),
        })
    }

    /// A URL of the issuer's: as safe as the issuer's own.
    fn url(&self, text: &str) -> Result<Url, &'static str> {
        let url = Url::parse(text).ok().filter(Url::has_host).ok_or("is no URL")?;
        match url.scheme() {
            "https" => {}
            "http" if self.rule.loopback_only => {}
            _ => return Err("is not https"),
        }
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if bare { Ok(url) } else { Err("has a user, a password or a fragment in it") }
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
    pub(super) async fn send(
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
        let older = |since: &mut Instant| *since = since.checked_sub(by).unwrap_or(*since);
        known.metadata.iter_mut().for_each(|(_, since)| older(since));
        known.keys.iter_mut().for_each(|(_, since)| older(since));
        known.failed = None;
    }

    /// The client that its URLs are asked with.
    pub(super) fn client(&self) -> &Client {
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
