//! One authorization server, as a client of it: what it says of itself, and its token endpoint.
//!
//! Nothing is asked where [`crate::reach`] forbids it, no redirect is followed, no answer is read beyond a bound, and
//! nothing of an answer is told on but the OAuth error code, if it is one of those that there are: the rest may repeat
//! secrets.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use reqwest::{Client, Url};
use serde::{Deserialize, Deserializer};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::secret::reveal;
use crate::{
    call::{Fault, cut},
    config::{ClientAuth, OAuth, OAuthServer},
    display::visible,
    json::{Limits, Value, parse},
    reach::{self, Resolver, Rule, cause, literal},
};

/// Bytes of one answer.
const ANSWER: usize = 64 << 10;
/// How long what a server says of itself is used without asking again.
const FRESH: Duration = Duration::from_secs(3_600);
/// How long it is used where asking again fails.
const STALE: Duration = Duration::from_secs(24 * 3_600);
/// How soon it is asked again after a failure.
const RETRY: Duration = Duration::from_secs(5);
const LIMITS: Limits = Limits { bytes: ANSWER, depth: 16, nodes: 4_096 };

/// Errors of token endpoints that there are (RFC 6749, RFC 8707, OpenID Connect Core 1.0); any other is not repeated.
const ERRORS: [&str; 13] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "access_denied",
    "server_error",
    "temporarily_unavailable",
    "interaction_required",
    "login_required",
    "consent_required",
];

/// The word of an error, if it is one that there is.
pub(super) fn known(error: &str) -> &'static str {
    ERRORS.into_iter().find(|known| *known == error).unwrap_or("an error that is not known")
}

/// Why there is no token: for an operator, without a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoToken {
    /// The server cannot be asked, or its answer cannot be read.
    Unreachable(String),
    /// It said no.
    Refused(&'static str),
}

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => f.write_str(why),
            Self::Refused(error) => write!(f, "the authorization server refused: {error}"),
        }
    }
}

impl From<Fault> for NoToken {
    fn from(fault: Fault) -> Self {
        Self::Unreachable(fault.0)
    }
}

/// What a server says of itself.
#[derive(Debug)]
pub(super) struct Metadata {
    /// Its name; not known where the endpoints are configured.
    pub(super) issuer: Option<String>,
    pub(super) authorization: Option<Url>,
    pub(super) token: Url,
    /// It names itself in what it sends back (RFC 9207).
    pub(super) names_itself: bool,
    /// It takes a client's secret in the body only.
    post: bool,
}

/// A token endpoint's answer.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) access_token: Token,
    token_type: String,
    #[serde(default, deserialize_with = "seconds")]
    expires_in: Option<u64>,
    pub(super) refresh_token: Option<Token>,
    pub(super) id_token: Option<Token>,
    issued_token_type: Option<String>,
}

impl Answer {
    /// How long the token is good. Where the server does not say, five minutes; never more than a day.
    pub(super) fn life(&self) -> Duration {
        Duration::from_secs(self.expires_in.unwrap_or(300).min(24 * 3_600))
    }
}

/// A token in an answer: written over when it is dropped.
pub(super) struct Token(pub(super) Zeroizing<String>);

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?)))
    }
}

/// A number of seconds; some servers put it in quotes.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Number(u64),
        Text(String),
    }
    Ok(match Option::<Said>::deserialize(deserializer)? {
        Some(Said::Number(seconds)) => Some(seconds),
        Some(Said::Text(text)) => text.parse().ok(),
        None => None,
    })
}

#[derive(Default)]
struct Known {
    metadata: Option<(Arc<Metadata>, Instant)>,
    failed: Option<(NoToken, Instant)>,
}

/// One authorization server, for one tool server.
pub(super) struct Server {
    config: OAuth,
    client: Client,
    rule: Rule,
    known: Mutex<Known>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Server {
    /// # Errors
    /// [`Fault`] when TLS cannot be set up.
    pub(super) fn new(config: OAuth, resolver: Arc<dyn Resolver>) -> Result<Self, Fault> {
        let plain = match &config.server {
            OAuthServer::Issuer(issuer) => !issuer.starts_with("https:"),
            OAuthServer::Endpoints { token, .. } => token.scheme() != "https",
        };
        let rule = Rule { private: config.allow_private, loopback_only: plain };
        let client = reach::client(rule, resolver).build();
        let client =
            client.map_err(|error| Fault(format!("authorization servers cannot be asked: {}", cause(error))))?;
        Ok(Self { config, client, rule, known: Mutex::default() })
    }

    /// The configuration.
    pub(super) fn config(&self) -> &OAuth {
        &self.config
    }

    /// What it says of itself.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>, NoToken> {
        let issuer = match &self.config.server {
            OAuthServer::Endpoints { token, authorization } => {
                return Ok(Arc::new(Metadata {
                    issuer: None,
                    authorization: authorization.clone(),
                    token: token.clone(),
                    names_itself: false,
                    post: false,
                }));
            }
            OAuthServer::Issuer(issuer) => issuer,
        };
        let mut known = self.known.lock().await;
        let not_older = |known: &Known, than: Duration| {
            let metadata = known.metadata.as_ref().filter(|(_, since)| since.elapsed() < than);
            metadata.map(|(metadata, _)| Arc::clone(metadata))
        };
        if let Some(metadata) = not_older(&known, FRESH) {
            return Ok(metadata);
        }
        let why = match known.failed.as_ref().filter(|(_, since)| since.elapsed() < RETRY) {
            Some((why, _)) => why.clone(),
            None => match self.discover(issuer).await {
                Ok(metadata) => {
                    let metadata = Arc::new(metadata);
                    *known = Known { metadata: Some((Arc::clone(&metadata), Instant::now())), failed: None };
                    return Ok(metadata);
                }
                Err(why) => {
                    known.failed = Some((why.clone(), Instant::now()));
                    why
                }
            },
        };
        not_older(&known, STALE).ok_or(why)
    }

    /// Looks where RFC 8414 puts it, then where OpenID Connect Discovery does.
    async fn discover(&self, issuer: &str) -> Result<Metadata, NoToken> {
        let mut inserted = Url::parse(issuer).map_err(|_| self.wrong("its issuer is no URL"))?;
        let path = inserted.path().trim_end_matches('/').to_owned();
        inserted.set_path(&format!("/.well-known/oauth-authorization-server{path}"));
        let appended = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let appended = Url::parse(&appended).map_err(|_| self.wrong("its issuer is no URL"))?;
        let mut why = None;
        for url in [inserted, appended] {
            let request = self.client.get(url.clone()).header("accept", "application/json");
            match self.send(&url, request).await {
                Ok((200, body)) => return self.read(issuer, &body),
                Ok((status, _)) => why = Some(self.wrong(&format!("it answered with status {status}"))),
                Err(failed) => return Err(failed),
            }
        }
        Err(why.unwrap_or_else(|| self.wrong("it says nothing of itself")))
    }

    /// The issuer in it has to be the one that was asked for (RFC 8414, section 3.3).
    fn read(&self, issuer: &str, text: &[u8]) -> Result<Metadata, NoToken> {
        let tree = parse(text, &LIMITS).map_err(|_| self.wrong("its metadata is no JSON that is let in"))?;
        let member = |name: &str| tree.get(name).and_then(Value::as_str);
        if member("issuer") != Some(issuer) {
            return Err(self.wrong("its metadata names another issuer"));
        }
        let url = |name: &str| match member(name) {
            None => Ok(None),
            Some(text) => self.rule.url(text).map(Some).map_err(|why| self.wrong(&format!("its `{name}` {why}"))),
        };
        let ways = tree.get("token_endpoint_auth_methods_supported").and_then(Value::as_array).unwrap_or_default();
        let takes = |way: &str| ways.iter().any(|offered| offered.as_str() == Some(way));
        Ok(Metadata {
            issuer: Some(issuer.to_owned()),
            authorization: url("authorization_endpoint")?,
            token: url("token_endpoint")?.ok_or_else(|| self.wrong("its metadata has no `token_endpoint`"))?,
            names_itself: tree.get("authorization_response_iss_parameter_supported").and_then(Value::as_bool)
                == Some(true),
            post: takes("client_secret_post") && !takes("client_secret_basic"),
        })
    }

    /// Asks for a token: what there is to say besides who asks, for what and with which scopes. Of what the endpoint says
    /// when it refuses, the code is told and nothing else.
    pub(super) async fn token(&self, grant: &[(&str, &str)], wide: bool) -> Result<Answer, NoToken> {
        let metadata = self.metadata().await?;
        let config = &self.config;
        let secret = match config.client_secret.clone() {
            Some(secret) => Some(reveal(secret).await?),
            None => None,
        };
        let scopes = config.scopes.join(" ");
        let mut fields: Vec<(&str, &str)> = grant.to_vec();
        // a refresh token has the scopes that it was given with (RFC 6749, section 6)
        if wide && !scopes.is_empty() {
            fields.push(("scope", &scopes));
        }
        fields.extend(config.resource.as_deref().map(|resource| ("resource", resource)));
        fields.extend(config.audience.as_deref().map(|audience| ("audience", audience)));
        let post = match config.client_auth {
            Some(way) => way == ClientAuth::Post,
            None => metadata.post,
        };
        let mut request = self.client.post(metadata.token.clone()).header("accept", "application/json");
        match &secret {
            Some(secret) if !post => request = request.header("authorization", basic(&config.client_id, secret)?),
            Some(secret) => fields.extend([("client_id", config.client_id.as_str()), ("client_secret", secret)]),
            None => fields.push(("client_id", &config.client_id)),
        }
        let request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from_owner(Text(form(&fields))));
        let (status, body) = self.send(&metadata.token, request).await?;
        if status != 200 {
            #[derive(Deserialize)]
            struct Refusal {
                error: String,
            }
            return Err(match serde_json::from_slice::<Refusal>(&body) {
                Ok(refusal) => NoToken::Refused(known(&refusal.error)),
                Err(_) => self.wrong(&format!("its token endpoint answered with status {status}")),
            });
        }
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| self.wrong("its token endpoint's answer cannot be read"))?;
        if !answer.token_type.eq_ignore_ascii_case("bearer") {
            return Err(self.wrong("the token that it gave is no bearer token"));
        }
        // RFC 8693, section 3: a token of another type is not for a tool server
        let access = ["access_token", "jwt"];
        if let Some(issued) = &answer.issued_token_type
            && !access.iter().any(|kind| issued.strip_prefix("urn:ietf:params:oauth:token-type:") == Some(kind))
        {
            return Err(self.wrong("the token that it gave is no access token"));
        }
        let plain = |byte: u8| byte.is_ascii_graphic();
        let token = &answer.access_token.0;
        if !(1..=16 << 10).contains(&token.len()) || !token.bytes().all(plain) {
            return Err(self.wrong("the token that it gave is none that a header can have"));
        }
        Ok(answer)
    }

    fn wrong(&self, why: &str) -> NoToken {
        let who = match &self.config.server {
            OAuthServer::Issuer(issuer) => issuer.as_str(),
            OAuthServer::Endpoints { token, .. } => token.host_str().unwrap_or_default(),
        };
        NoToken::Unreachable(format!("the authorization server `{}` cannot be used: {why}", visible(cut(who, 200))))
    }

    /// Sends a request, and reads the answer: its status, and at most [`ANSWER`] bytes.
    async fn send(&self, url: &Url, request: reqwest::RequestBuilder) -> Result<(u16, Zeroizing<Vec<u8>>), NoToken> {
        // a literal address is not resolved: it is checked here
        if let Some(address) = literal(url) {
            self.rule.check(address).map_err(|why| self.wrong(&why))?;
        }
        let mut response = request.send().await.map_err(|error| self.wrong(&cause(error)))?;
        // large enough from the start: growing would leave copies behind
        let mut body = Zeroizing::new(Vec::with_capacity(ANSWER));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.wrong(&cause(error)))? {
            if body.len() + chunk.len() > ANSWER {
                return Err(self.wrong(&format!("its answer is longer than {} KiB", ANSWER >> 10)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status().as_u16(), body))
    }
}

/// `Authorization: Basic`, with both halves as in a form (RFC 6749, section 2.3.1).
fn basic(id: &str, secret: &str) -> Result<reqwest::header::HeaderValue, NoToken> {
    let encoded = |text: &str| -> Zeroizing<String> {
        Zeroizing::new(url::form_urlencoded::byte_serialize(text.as_bytes()).collect())
    };
    let pair = Zeroizing::new(format!("{}:{}", *encoded(id), *encoded(secret)));
    let value = Text(Zeroizing::new(format!("Basic {}", *Zeroizing::new(STANDARD.encode(pair.as_bytes())))));
    let value = reqwest::header::HeaderValue::from_maybe_shared(Bytes::from_owner(value));
    let mut value = value.map_err(|_| NoToken::Unreachable("the client's secret cannot be sent".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

fn form(fields: &[(&str, &str)]) -> Zeroizing<String> {
    // large enough from the start: growing would leave copies behind
    let room = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut form = url::form_urlencoded::Serializer::new(String::with_capacity(room));
    form.extend_pairs(fields);
    Zeroizing::new(form.finish())
}

/// A text that is written over when nobody needs its bytes any more.
pub(super) struct Text(pub(super) Zeroizing<String>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}
