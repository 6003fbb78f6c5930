//! Accounts: what a person's consent, or an operator's refresh token, lets us have tokens by. Kept below the data folder,
//! one file for each tool server, so that a refresh token that was replaced survives a restart.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::server::Answer;
use crate::{
    call::{Fault, cut},
    clock::Timestamp,
    config::{OAuth, OAuthServer},
    contract::UpstreamName,
    display::visible,
    json::Digest,
    secret_file,
};

/// A secret in a file of ours.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Kept(pub(super) Zeroizing<String>);

impl Serialize for Kept {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Kept {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?)))
    }
}

/// A time in a file of ours.
mod moment {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::clock::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The same, where there may be none.
mod perhaps {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::clock::Timestamp;

    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.collect_str(at),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// An account, as it is kept.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    v: u32,
    /// Whom it was given to, for what: with another client, server or resource it is another account.
    client: String,
    /// Whose it is, if the server said.
    pub(super) account: Option<String>,
    /// Who connected it; nobody where the refresh token is configured.
    pub(super) by: Option<String>,
    /// Since when.
    #[serde(with = "moment")]
    pub(super) at: Timestamp,
    pub(super) refresh_token: Option<Kept>,
    /// The access token, where there is nothing to have another one by.
    pub(super) access_token: Option<Kept>,
    /// Until when that is good.
    #[serde(with = "perhaps")]
    pub(super) until: Option<Timestamp>,
}

impl fmt::Debug for Account {
    /// Without tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("account", &self.account).field("by", &self.by).finish_non_exhaustive()
    }
}

impl Account {
    /// What an answer makes of it: tokens are replaced, and the rest stays.
    pub(super) fn new(drawer: &Drawer, answer: &Answer, by: &str, at: Timestamp) -> Self {
        let mut account = Self {
            v: 1,
            client: drawer.client.clone(),
            account: answer.id_token.as_ref().and_then(|token| name_in(&token.0)),
            by: Some(by.to_owned()),
            at,
            refresh_token: None,
            access_token: None,
            until: None,
        };
        account.renew(answer, at);
        account
    }

    /// The refresh token that the configuration gives.
    pub(super) fn configured(drawer: &Drawer, token: Zeroizing<String>, at: Timestamp) -> Self {
        let client = drawer.configured(&token);
        let refresh_token = Some(Kept(token));
        Self { v: 1, client, account: None, by: None, at, refresh_token, access_token: None, until: None }
    }

    /// Takes what an answer brings; whether that has to be kept.
    pub(super) fn renew(&mut self, answer: &Answer, now: Timestamp) -> bool {
        let rotated = answer.refresh_token.as_ref().map(|token| Kept(token.0.clone()));
        let changed = rotated.is_some() && rotated != self.refresh_token;
        if changed {
            self.refresh_token = rotated;
        }
        if self.refresh_token.is_some() {
            return changed;
        }
        self.access_token = Some(Kept(answer.access_token.0.clone()));
        self.until = Some(now.checked_add(answer.life()).unwrap_or(now));
        true
    }
}

/// Where the account of one tool server is kept.
#[derive(Debug)]
pub(super) struct Drawer {
    path: PathBuf,
    /// Whom an account is given to, for what.
    client: String,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    account: Option<Account>,
    /// Why it is of no use any more.
    failed: Option<(String, Timestamp)>,
}

impl Drawer {
    /// Reads what is kept for that tool server.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read, or others may read it.
    pub(super) fn open(data: &Path, upstream: &UpstreamName, config: &OAuth) -> Result<Self, Fault> {
        let path = data.join("leases").join(format!("{upstream}.json"));
        let server = match &config.server {
            OAuthServer::Issuer(issuer) => issuer.as_str(),
            OAuthServer::Endpoints { token, .. } => token.as_str(),
        };
        let (resource, audience) = (config.resource.as_deref(), config.audience.as_deref());
        let client = serde_json::json!([server, config.client_id, resource, audience]).to_string();
        let client = Digest::of(client.as_bytes()).to_string();
        let held = match secret_file::read(&path)?.map(Zeroizing::new) {
            None => None,
            Some(text) => {
                // one tool server's account is no reason for the others to be gone
                let account = serde_json::from_slice::<Account>(&text).ok().filter(|account| account.v == 1);
                if account.is_none() {
                    tracing::error!(file = %path.display(), "an account cannot be read: connect it anew");
                }
                account
            }
        };
        let held = Mutex::new(Held { account: held, failed: None });
        Ok(Self { path, client, held })
    }

    /// Whom a configured refresh token is of: with another token in the configuration, what was kept does not count.
    pub(super) fn configured(&self, token: &str) -> String {
        format!("{} {}", self.client, Digest::of(token.as_bytes()))
    }

    fn held<T>(&self, act: impl FnOnce(&mut Held) -> T) -> T {
        act(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The account that somebody connected, if it was with this client.
    pub(super) fn connected(&self) -> Option<Account> {
        self.held(|held| held.account.clone()).filter(|account| account.client == self.client)
    }

    /// The account that came from that configured token.
    pub(super) fn rotated(&self, token: &str) -> Option<Account> {
        let client = self.configured(token);
        self.held(|held| held.account.clone()).filter(|account| account.client == client)
    }

    /// Keeps an account; durable when it returns.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be kept.
    pub(super) async fn keep(&self, account: Account) -> Result<(), Fault> {
        let text = serde_json::to_vec(&account).map_err(|error| Fault(error.to_string()))?;
        let (path, text) = (self.path.clone(), Zeroizing::new(text));
        let written = tokio::task::spawn_blocking(move || secret_file::replace(&path, &text));
        written.await.map_err(|_| Fault("keeping an account was cut short".to_owned()))??;
        self.held(|held| *held = Held { account: Some(account), failed: None });
        Ok(())
    }

    /// Takes the account away.
    ///
    /// # Errors
    /// [`Fault`] when it stays on disk; it is not used any more even so, until a restart.
    pub(super) async fn empty(&self) -> Result<(), Fault> {
        self.held(|held| *held = Held::default());
        let path = self.path.clone();
        let removed = tokio::task::spawn_blocking(move || secret_file::remove(&path));
        removed.await.map_err(|_| Fault("removing an account was cut short".to_owned()))?
    }

    /// Says that it failed; `None`, that it works.
    pub(super) fn fared(&self, why: Option<(String, Timestamp)>) {
        self.held(|held| held.failed = why);
    }

    pub(super) fn failed(&self) -> Option<(String, Timestamp)> {
        self.held(|held| held.failed.clone())
    }
}

/// What a person is called in an ID token, which came from the token endpoint itself: for display, and nothing else.
fn name_in(token: &str) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    let names = ["email", "preferred_username", "sub"];
    let name = names.iter().find_map(|claim| claims.get(claim)?.as_str()).filter(|name| !name.is_empty())?;
    Some(visible(cut(name, 200)))
}
