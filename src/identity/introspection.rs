//! Asking an issuer about a token that says nothing by itself (RFC 7662).

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::Url;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    clock::Timestamp,
    config::IntrospectionConfig,
    json::{Digest, Limits, Value, parse},
    oidc::{Issuer, Unreachable},
};

/// Questions that are under way at once: about tokens that were good a moment ago, and about those of whom nothing is known.
/// Whoever sends nonsense takes places of its own only.
const AT_ONCE: usize = 32;
const STRANGERS: usize = 16;
/// How long a place is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// Tokens of which it is remembered that they are none, and how long, seconds: else whoever sends nonsense has it asked for
/// each time.
const REMEMBERED: usize = 4_096;
const FOR: i64 = 5;
const LIMITS: Limits = Limits { bytes: 64 << 10, depth: 16, nodes: 4_096 };

/// Where and as whom an issuer is asked.
pub(super) struct Introspection {
    config: IntrospectionConfig,
    places: Semaphore,
    strangers: Semaphore,
    none: Mutex<HashMap<Digest, Timestamp>>,
}

fn says_refresh(told: &Value, name: &str) -> bool {
    told.get(name).and_then(Value::as_str).is_some_and(|word| word.to_ascii_lowercase().starts_with("refresh"))
}

impl Introspection {
    pub(super) fn new(config: IntrospectionConfig) -> Self {
        let (places, strangers) = (Semaphore::new(AT_ONCE), Semaphore::new(STRANGERS));
        Self { config, places, strangers, none: Mutex::default() }
    }

    /// What the issuer says of a token; `None` when it is not good, or none of its own. `before` says that it was good.
    ///
    /// # Errors
    /// [`Unreachable`]
    pub(super) async fn ask(
        &self,
        issuer: &Issuer,
        token: &str,
        digest: &Digest,
        (before, now): (bool, Timestamp),
    ) -> Result<Option<Value>, Unreachable> {
        if self.is_none(digest, now) {
            return Ok(None);
        }
        let url = match &self.config.url {
            Some(url) => url.clone(),
            None => {
                let metadata = issuer.metadata().await?;
                let lacks = || Unreachable(format!("the issuer `{}` has no `introspection_endpoint`", issuer.name()));
                metadata.introspection_endpoint.clone().ok_or_else(lacks)?
            }
        };
        let body = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .append_pair("token_type_hint", "access_token")
            .finish();
        let request = self.request(issuer, &url).body(body);
        let busy = || Unreachable(format!("the issuer `{}` is asked about too many tokens at once", issuer.name()));
        let places = if before { &self.places } else { &self.strangers };
        let _place = timeout(PATIENCE, places.acquire()).await.map_err(|_| busy())?.map_err(|_| busy())?;
        let (status, text) = issuer.send(&url, request).await?;
        let wrong = |what: &str| Unreachable(format!("the issuer `{}` {what} when asked about a token", issuer.name()));
        if status != 200 {
            return Err(wrong(&format!("answered with status {status}")));
        }
        let told = parse(&text, &LIMITS).map_err(|_| wrong("said what is no JSON that is let in"))?;
        match told.get("active").and_then(Value::as_bool) {
            // a refresh token may be active too, and is not for sending here
            Some(true) if ["token_use", "typ", "token_type"].iter().any(|name| says_refresh(&told, name)) => {
                self.remember(*digest, now);
                Ok(None)
            }
            Some(true) => Ok(Some(told)),
            Some(false) => {
                self.remember(*digest, now);
                Ok(None)
            }
            None => Err(wrong("did not say whether it is active")),
        }
    }

    /// With our name and secret there (RFC 6749, section 2.3.1).
    fn request(&self, issuer: &Issuer, url: &Url) -> reqwest::RequestBuilder {
        let coded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
        let pair = format!("{}:{}", coded(&self.config.client_id), coded(&self.config.client_secret));
        let mut credentials = reqwest::header::HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
            .unwrap_or(reqwest::header::HeaderValue::from_static(""));
        credentials.set_sensitive(true);
        issuer
            .client()
            .post(url.clone())
            .header("authorization", credentials)
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
    }

    fn is_none(&self, token: &Digest, now: Timestamp) -> bool {
        let none = self.none.lock().unwrap_or_else(PoisonError::into_inner);
        none.get(token).is_some_and(|until| now < *until)
    }

    fn remember(&self, token: Digest, now: Timestamp) {
        let mut none = self.none.lock().unwrap_or_else(PoisonError::into_inner);
        if none.len() >= REMEMBERED {
            none.clear();
        }
        let until = now.checked_add(jiff::SignedDuration::from_secs(FOR)).unwrap_or(now);
        none.insert(token, until);
    }
}
