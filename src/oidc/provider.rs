//! People who sign in with a provider: authorization code with PKCE (OpenID Connect Core 1.0, RFC 7636, RFC 9207), by
//! the `oauth2` crate over a client of our own.

use std::{collections::BTreeSet, fmt, pin::Pin, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use oauth2::{
    AsyncHttpClient, AuthType, AuthUrl, AuthorizationCode, Client, ClientId, ClientSecret, CsrfToken, EndpointSet,
    ExtraTokenFields, HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError,
    Scope, StandardRevocableToken, StandardTokenResponse, TokenUrl,
    basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType},
};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{Attempt, Expected, IdToken, Issuer, Metadata, Purpose, TokenRefused, Unreachable, Whom, id_token};
use crate::{
    call::Fault,
    clock::{Clock, Timestamp, random},
    config::ProviderConfig,
    jws::Jwk,
    reach::Resolver,
};

/// An answer on its way.
type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// People who may come back from the provider at once.
const AT_ONCE: usize = 16;
/// Other names that one person may have.
const NAMES: usize = 16;

/// A provider that people sign in with.
#[derive(Debug)]
pub struct Provider {
    name: String,
    config: ProviderConfig,
    issuer: Arc<Issuer>,
    redirect: RedirectUrl,
    /// Places of those who come back.
    places: Semaphore,
    clock: Clock,
}

/// Somebody who is sent to a provider.
#[derive(Debug)]
pub struct Started {
    /// Where to.
    pub url: Url,
    /// What was asked: it goes into their browser, sealed.
    pub attempt: Attempt,
}

/// What the provider sent their browser back with.
#[derive(Clone, Debug, Default)]
pub struct Return {
    /// `code`
    pub code: Option<String>,
    /// `state`
    pub state: Option<String>,
    /// `iss` (RFC 9207)
    pub iss: Option<String>,
    /// `error`
    pub error: Option<String>,
}

/// Who it was, as the provider says.
#[derive(Clone, Debug)]
pub struct Person {
    /// The name they have here: the provider's, a colon, and what it calls them.
    pub name: String,
    /// The issuer.
    pub issuer: String,
    /// Who they are for the issuer: names may change, this does not.
    pub subject: String,
    /// Their roles.
    pub roles: BTreeSet<String>,
    /// Other names of theirs.
    pub also: BTreeSet<String>,
    /// The token that says so.
    pub token: String,
    /// The key that it is signed by.
    pub key: Jwk,
}

/// Why nobody was signed in. [`SignInRefused::code`] is public interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignInRefused {
    /// The provider cannot be asked.
    Unreachable(Unreachable),
    /// The provider said no, or the person did.
    Declined,
    /// What came back was not asked for in this browser, or not in time, or came back already.
    State,
    /// Another issuer answered.
    Mixed,
    /// The provider gave no token for its code.
    Code,
    /// The token is not one to believe.
    Token(TokenRefused),
    /// The token has no name that can be used.
    NoName,
    /// None of what the token says is a role here.
    NoRole,
    /// Ours.
    Fault(Fault),
}

impl SignInRefused {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "provider_unavailable",
            Self::Declined => "provider_declined",
            Self::State => "sign_in_unknown",
            Self::Mixed => "provider_mixed_up",
            Self::Code => "code_refused",
            Self::Token(why) => why.code(),
            Self::NoName => "no_name",
            Self::NoRole => "no_role",
            Self::Fault(_) => "unavailable",
        }
    }
}

impl fmt::Display for SignInRefused {
    /// What is wrong and what to do, for the person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable(_) => "the provider cannot be asked; the log of countersign says why",
            Self::Declined => "the provider did not sign you in; begin again if that was not meant",
            Self::State => "this sign-in was not begun in this browser, or too long ago, or was used; begin again",
            Self::Mixed => "another provider answered than was asked; begin again",
            Self::Code => "the provider gave nothing for its own code; begin again",
            Self::Token(TokenRefused::Stale) => "the provider did not make sure that it is you just now; begin again",
            Self::Token(TokenRefused::Context) => "you did not sign in there in a way that is strong enough here",
            Self::Token(TokenRefused::Subject) => "somebody else signed in there; begin again as who you are here",
            Self::Token(_) => "what the provider said of you cannot be believed; the log of countersign says why",
            Self::NoName => "the provider does not say what you are called; ask the operator to look at `name_claim`",
            Self::NoRole => "you have none of the roles that approve here; ask whoever gives them at the provider",
            Self::Fault(_) => "countersign itself failed; its log says how",
        })
    }
}

impl std::error::Error for SignInRefused {}

impl From<Unreachable> for SignInRefused {
    fn from(why: Unreachable) -> Self {
        Self::Unreachable(why)
    }
}

impl From<Fault> for SignInRefused {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What an answer has beside an access token, which nobody needs here.
#[derive(Debug, Serialize, Deserialize)]
struct Fields {
    id_token: Option<String>,
}

impl ExtraTokenFields for Fields {}

type OAuth = Client<
    BasicErrorResponse,
    StandardTokenResponse<Fields, BasicTokenType>,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    oauth2::EndpointNotSet,
    EndpointSet,
>;

impl Provider {
    /// The provider of that name, whose people come back to `origin`, the console's.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be asked at all.
    pub fn new(
        name: &str,
        config: ProviderConfig,
        origin: &str,
        resolver: Arc<dyn Resolver>,
        clock: Clock,
    ) -> Result<Self, Fault> {
        let issuer = Arc::new(Issuer::new(&Whom::people(&config.issuer, config.allow_private), resolver)?);
        let redirect = RedirectUrl::new(format!("{origin}/sign-in/{name}/callback"));
        let redirect = redirect.map_err(|error| Fault(format!("the console's URL is none: {error}")))?;
        let places = Semaphore::new(AT_ONCE);
        Ok(Self { name: name.to_owned(), config, issuer, redirect, places, clock })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends somebody there to sign in, and from there to `next`.
    ///
    /// # Errors
    /// [`SignInRefused`]
    pub async fn sign_in(&self, next: &str) -> Result<Started, SignInRefused> {
        self.start(Purpose::SignIn { next: next.to_owned() }, secret()?).await
    }

    /// Sends somebody there who countersigns: what comes back names the hold's digest in its nonce, and is of now.
    ///
    /// # Errors
    /// [`SignInRefused`]
    pub async fn step_up(&self, purpose: Purpose, digest: &str) -> Result<Started, SignInRefused> {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        self.start(purpose, format!("{hex}.{}", secret()?)).await
    }

    async fn start(&self, purpose: Purpose, nonce: String) -> Result<Started, SignInRefused> {
        let (metadata, client) = self.client().await?;
        let (state, verifier) = (secret()?, secret()?);
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(verifier.clone()));
        let fixed = state.clone();
        let mut request = client
            .authorize_url(|| CsrfToken::new(fixed))
            .add_scopes(self.config.scopes.iter().cloned().map(Scope::new))
            .add_extra_param("nonce", nonce.clone())
            .set_pkce_challenge(challenge);
        if matches!(purpose, Purpose::Countersign { .. }) {
            request = request.add_extra_param("max_age", self.config.max_age.as_secs().to_string());
            if !self.config.acr_values.is_empty() {
                request = request.add_extra_param("acr_values", self.config.acr_values.join(" "));
            }
        }
        let (url, _state) = request.url();
        drop(metadata);
        let begun = self.clock.now().as_second();
        let provider = self.name.clone();
        Ok(Started { url, attempt: Attempt { provider, state, nonce, verifier, begun, purpose } })
    }

    /// Trades what came back for the person that it vouches for. The attempt is the one that was begun in the same browser.
    ///
    /// # Errors
    /// [`SignInRefused`]
    pub async fn finish(&self, attempt: &Attempt, came: &Return) -> Result<Person, SignInRefused> {
        // anybody can come back with something: the provider is not asked about more of it at once than this
        let busy = || Unreachable(format!("the provider `{}` is being asked by too many at once", self.name));
        let _place = self.places.try_acquire().map_err(|_| busy())?;
        let (metadata, client) = self.client().await?;
        // RFC 9207: a code of another provider is not for this one's token endpoint
        match &came.iss {
            Some(iss) if iss == self.issuer.name() => {}
            Some(_) => return Err(SignInRefused::Mixed),
            None if metadata.names_itself => return Err(SignInRefused::Mixed),
            None => {}
        }
        if came.error.is_some() {
            return Err(SignInRefused::Declined);
        }
        let code = came.code.clone().filter(|code| !code.is_empty()).ok_or(SignInRefused::Code)?;
        let token = exchange(Arc::clone(&self.issuer), client, code, attempt.verifier.clone()).await?;
        self.judge(attempt, token).await.inspect_err(|why| {
            tracing::warn!(provider = self.name, why = why.code(), "somebody was not signed in");
        })
    }

    async fn judge(&self, attempt: &Attempt, token: String) -> Result<Person, SignInRefused> {
        let refused = SignInRefused::Token;
        let (claims, key) = self.issuer.check(&token).await?.map_err(|why| refused(TokenRefused::NotSigned(why)))?;
        let (subject, since) = match &attempt.purpose {
            Purpose::SignIn { .. } | Purpose::Connect { .. } => (None, None),
            Purpose::Countersign { subject, .. } => (Some(subject.as_str()), Some(self.fresh_since(attempt))),
        };
        let expected = Expected {
            issuer: self.issuer.name(),
            client_id: &self.config.client_id,
            nonce: &attempt.nonce,
            subject,
            shown_since: since,
            acr_values: if since.is_some() { &self.config.acr_values } else { &[] },
            now: self.clock.now(),
        };
        let judged = IdToken::judge(id_token::kind(&token).as_deref(), claims, &expected).map_err(refused)?;
        self.person(judged, token, key)
    }

    /// Since when the person has to have shown who they are.
    fn fresh_since(&self, attempt: &Attempt) -> Timestamp {
        let begun = Timestamp::from_second(attempt.begun).unwrap_or(Timestamp::MAX);
        begun.checked_sub(self.config.max_age).unwrap_or(Timestamp::MIN)
    }

    fn person(&self, token: IdToken, text: String, key: Jwk) -> Result<Person, SignInRefused> {
        let config = &self.config;
        // a mail address that nobody checked is anybody's
        let believed = |claim: &str| {
            claim != "email" || token.claim("email_verified").and_then(crate::json::Value::as_bool) != Some(false)
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@+".contains(&byte);
        let called = token.texts(&config.name_claim).first().copied().unwrap_or_default();
        if !(1..=128).contains(&called.len()) || !called.bytes().all(plain) || !believed(&config.name_claim) {
            return Err(SignInRefused::NoName);
        }
        let granted = token.texts(&config.roles_claim);
        let roles: BTreeSet<String> = granted.iter().filter_map(|value| config.roles.get(*value).cloned()).collect();
        if roles.is_empty() {
            return Err(SignInRefused::NoRole);
        }
        let mut also: BTreeSet<String> = [called.to_owned()].into();
        let others = config.also_claims.iter().filter(|claim| believed(claim)).flat_map(|claim| token.texts(claim));
        let fits = |name: &&str| (1..=256).contains(&name.len()) && !name.chars().any(char::is_control);
        also.extend(others.filter(fits).take(NAMES).map(str::to_owned));
        Ok(Person {
            name: format!("{}:{called}", self.name),
            issuer: self.issuer.name().to_owned(),
            subject: token.subject,
            roles,
            also,
            token: text,
            key,
        })
    }

    /// Where somebody signs out there too, and comes back from to `to`.
    pub async fn sign_out(&self, to: &str) -> Option<Url> {
        let mut url = self.issuer.metadata().await.ok()?.end_session_endpoint.clone()?;
        url.query_pairs_mut()
            .append_pair("client_id", &self.config.client_id)
            .append_pair("post_logout_redirect_uri", to);
        Some(url)
    }

    async fn client(&self) -> Result<(Arc<Metadata>, OAuth), SignInRefused> {
        let metadata = self.issuer.metadata().await?;
        let missing = |name: &str| Unreachable(format!("the provider `{}` has no `{name}`", self.name));
        let authorize = metadata.authorization_endpoint.clone().ok_or_else(|| missing("authorization_endpoint"))?;
        let token = metadata.token_endpoint.clone().ok_or_else(|| missing("token_endpoint"))?;
        // RFC 6749 has clients show their secret in `Authorization`, unless the provider takes it in the body only
        let basic =
            metadata.token_auth.is_empty() || metadata.token_auth.iter().any(|kind| kind == "client_secret_basic");
        let mut client = Client::new(ClientId::new(self.config.client_id.clone()))
            .set_auth_type(if basic { AuthType::BasicAuth } else { AuthType::RequestBody })
            .set_auth_uri(AuthUrl::from_url(authorize))
            .set_token_uri(TokenUrl::from_url(token))
            .set_redirect_uri(self.redirect.clone());
        if let Some(secret) = &self.config.client_secret {
            client = client.set_client_secret(ClientSecret::new(secret.clone()));
        }
        Ok((metadata, client))
    }
}

/// Trades a code for an ID token. Everything in it is its own: of a future of the `oauth2` crate that borrows, the
/// compiler cannot tell that it may move between threads.
fn exchange(
    issuer: Arc<Issuer>,
    client: OAuth,
    code: String,
    verifier: String,
) -> Answering<Result<String, SignInRefused>> {
    Box::pin(async move {
        let http = Wire(Arc::clone(&issuer));
        let request =
            client.exchange_code(AuthorizationCode::new(code)).set_pkce_verifier(PkceCodeVerifier::new(verifier));
        match request.request_async(&http).await {
            Ok(answer) => answer.extra_fields().id_token.clone().ok_or(SignInRefused::Code),
            Err(RequestTokenError::Request(why)) => Err(why.into()),
            Err(RequestTokenError::ServerResponse(error)) => {
                tracing::warn!(issuer = issuer.name(), error = %error.error(), "the provider gave no token for its code");
                Err(SignInRefused::Code)
            }
            Err(_unreadable) => {
                tracing::warn!(issuer = issuer.name(), "the provider's answer to its code cannot be read");
                Err(SignInRefused::Code)
            }
        }
    })
}

/// How the `oauth2` crate reaches an issuer.
struct Wire(Arc<Issuer>);

impl<'c> AsyncHttpClient<'c> for Wire {
    type Error = Unreachable;
    type Future = Answering<Result<HttpResponse, Unreachable>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(sent(Arc::clone(&self.0), request))
    }
}

/// Sends what the `oauth2` crate wants sent.
async fn sent(issuer: Arc<Issuer>, request: HttpRequest) -> Result<HttpResponse, Unreachable> {
    let wrong = |why: &str| Unreachable(format!("the provider `{}` cannot be asked: {why}", issuer.name()));
    let (head, body) = request.into_parts();
    let url = Url::parse(&head.uri.to_string()).map_err(|_| wrong("its URL is none"))?;
    let asked = issuer.client().request(head.method, url.clone()).headers(head.headers).body(body);
    let (status, body) = issuer.send(&url, asked).await?;
    let answer = axum::http::Response::builder().status(status).header("content-type", "application/json");
    answer.body(body).map_err(|_| wrong("its answer is none"))
}

/// 256 bits that nobody can guess, as text.
fn secret() -> Result<String, Fault> {
    let bytes: [u8; 32] = random().map_err(|problem| Fault(problem.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
