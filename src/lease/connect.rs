//! Connecting an account with a tool server: an approver is sent to its authorization server and comes back with a code
//! (RFC 6749, section 4.1, with RFC 7636 and RFC 9207).

use std::{collections::BTreeSet, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use oauth2::{
    AuthUrl, ClientId, CsrfToken, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, basic::BasicClient,
};
use reqwest::Url;
use zeroize::Zeroizing;

use super::{Account, Drawer, Leases, NoToken, Server, Source, server::known};
use crate::{
    call::Fault,
    clock::{Timestamp, random},
    contract::UpstreamName,
    ledger::Event,
};

/// How the account of one tool server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountState {
    /// Which tool server.
    pub upstream: UpstreamName,
    /// Who connected it and when, if somebody did.
    pub connected: Option<(String, Timestamp)>,
    /// Whose account it is, if the authorization server said.
    pub account: Option<String>,
    /// Until when it is good, where it cannot be renewed.
    pub until: Option<Timestamp>,
    /// Until when the lease at hand is good.
    pub lease: Option<Timestamp>,
    /// Its last failure.
    pub failed: Option<(String, Timestamp)>,
}

/// Somebody who is sent to an authorization server. It is never shown: what belongs to it is a secret.
pub struct Begun {
    /// Where to.
    pub url: Url,
    /// What has to come back.
    pub state: String,
    /// The secret half of PKCE.
    pub verifier: String,
}

/// What somebody came back with.
pub struct Came {
    /// `code`
    pub code: Option<String>,
    /// `iss` (RFC 9207)
    pub iss: Option<String>,
    /// `error`
    pub error: Option<String>,
    /// The secret half of PKCE of what was begun.
    pub verifier: String,
}

impl fmt::Debug for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Came").field("iss", &self.iss).finish_non_exhaustive()
    }
}

/// Why no account was connected. [`NotConnected::code`] is public interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotConnected {
    /// No tool server of that name wants an account.
    Unknown,
    /// The authorization server cannot be asked; why, for an operator.
    Unreachable(String),
    /// The server said no, or the person did.
    Declined,
    /// What came back was not asked for in this browser and session, or not in time, or came back already.
    State,
    /// Another server answered.
    Mixed,
    /// The server gave nothing for its code.
    Code,
    /// The approver has not the role that it takes.
    Role(String),
    /// Ours.
    Fault(Fault),
}

impl NotConnected {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "account_unknown",
            Self::Unreachable(_) => "account_server_unavailable",
            Self::Declined => "account_declined",
            Self::State => "account_state_unknown",
            Self::Mixed => "account_server_mixed_up",
            Self::Code => "account_code_refused",
            Self::Role(_) => "account_role_missing",
            Self::Fault(_) => "unavailable",
        }
    }
}

impl fmt::Display for NotConnected {
    /// What is wrong and what to do, for the approver.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Role(role) => {
                return write!(f, "only approvers with the role `{role}` connect and disconnect this account");
            }
            Self::Unknown => "no tool server of that name wants an account; look at `[upstreams.NAME.auth]`",
            Self::Unreachable(_) => "the authorization server cannot be asked; the log of countersign says why",
            Self::Declined => {
                "the authorization server, or you there, did not agree; begin again if that was not meant"
            }
            Self::State => "this was not begun in this browser and session, or too long ago, or was used; begin again",
            Self::Mixed => "another authorization server answered than was asked; begin again",
            Self::Code => "the authorization server gave nothing for its own code; begin again",
            Self::Fault(_) => "countersign itself failed; its log says how",
        })
    }
}

impl std::error::Error for NotConnected {}

impl From<Fault> for NotConnected {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<NoToken> for NotConnected {
    fn from(why: NoToken) -> Self {
        tracing::warn!("an account was not connected: {why}");
        match why {
            NoToken::Unreachable(why) => Self::Unreachable(why),
            NoToken::Refused(_) => Self::Code,
        }
    }
}

impl Leases {
    fn wants_account(&self, upstream: &UpstreamName) -> Result<(&Source, &Server, &Drawer), NotConnected> {
        let source = self.inner.sources.get(upstream).ok_or(NotConnected::Unknown)?;
        let drawer = source.wants_account().ok_or(NotConnected::Unknown)?;
        let server = source.server.as_deref().ok_or(NotConnected::Unknown)?;
        Ok((source, server, drawer))
    }

    /// Every tool server that wants an account.
    pub fn accounts(&self) -> Vec<AccountState> {
        let wanting = self.inner.sources.iter().filter_map(|(name, source)| Some((name, source.wants_account()?)));
        let state = |(name, drawer): (&UpstreamName, &Drawer)| {
            let account = drawer.connected();
            AccountState {
                upstream: name.clone(),
                connected: account.as_ref().map(|account| (account.by.clone().unwrap_or_default(), account.at)),
                until: account.as_ref().and_then(|account| account.until),
                account: account.and_then(|account| account.account),
                lease: self.of(name).at_hand().and_then(|lease| lease.expires),
                failed: drawer.failed(),
            }
        };
        wanting.map(state).collect()
    }

    /// Whether who has these roles may connect the account of a tool server, or take it away.
    ///
    /// # Errors
    /// [`NotConnected::Unknown`], [`NotConnected::Role`]
    pub fn may_connect(&self, upstream: &UpstreamName, roles: &BTreeSet<String>) -> Result<(), NotConnected> {
        let (_, server, _) = self.wants_account(upstream)?;
        match &server.config().role {
            Some(role) if !roles.contains(role) => Err(NotConnected::Role(role.clone())),
            _ => Ok(()),
        }
    }

    /// Sends somebody to the authorization server of a tool server; they come back to `redirect`.
    ///
    /// # Errors
    /// [`NotConnected`]
    pub async fn begin(&self, upstream: &UpstreamName, redirect: &str) -> Result<Begun, NotConnected> {
        let (_, server, _) = self.wants_account(upstream)?;
        let (metadata, config) = (server.metadata().await?, server.config());
        let none = || NotConnected::Unreachable("it does not say where people are sent to".to_owned());
        let authorize = metadata.authorization.clone().ok_or_else(none)?;
        let redirect = RedirectUrl::new(redirect.to_owned());
        let redirect = redirect.map_err(|error| Fault(format!("the console's URL is none: {error}")))?;
        let (state, verifier) = (unguessable()?, unguessable()?);
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(verifier.clone()));
        let client = BasicClient::new(ClientId::new(config.client_id.clone()))
            .set_auth_uri(AuthUrl::from_url(authorize))
            .set_redirect_uri(redirect);
        let fixed = state.clone();
        let mut request = client
            .authorize_url(|| CsrfToken::new(fixed))
            .add_scopes(config.scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(challenge);
        if let Some(resource) = &config.resource {
            request = request.add_extra_param("resource", resource);
        }
        if let Some(audience) = &config.audience {
            request = request.add_extra_param("audience", audience);
        }
        let (url, _state) = request.url();
        Ok(Begun { url, state, verifier })
    }

    /// Trades what somebody came back with for an account, keeps it, and records that `by` connected it.
    ///
    /// # Errors
    /// [`NotConnected`]
    pub async fn finish(
        &self,
        upstream: &UpstreamName,
        came: Came,
        redirect: &str,
        by: &str,
    ) -> Result<(), NotConnected> {
        let (source, server, drawer) = self.wants_account(upstream)?;
        let _turn = source.turn.lock().await;
        let metadata = server.metadata().await?;
        // RFC 9207: a code of another server is not for this one's token endpoint
        match (&came.iss, &metadata.issuer) {
            (Some(iss), Some(issuer)) if iss != issuer => return Err(NotConnected::Mixed),
            (None, _) if metadata.names_itself => return Err(NotConnected::Mixed),
            _ => {}
        }
        if let Some(error) = &came.error {
            tracing::warn!(%upstream, error = known(error), "an account was not connected");
            return Err(NotConnected::Declined);
        }
        let code = Zeroizing::new(came.code.unwrap_or_default());
        if code.is_empty() {
            return Err(NotConnected::Code);
        }
        let verifier = Zeroizing::new(came.verifier);
        let grant = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", redirect),
            ("code_verifier", verifier.as_str()),
        ];
        let answer = server.token(&grant, false).await?;
        let account = Account::new(drawer, &answer, by, self.inner.clock.now());
        let event = Event::CredentialConnected {
            upstream: upstream.to_string(),
            account: account.account.clone(),
            by: by.to_owned(),
        };
        self.note(event).await?;
        drawer.keep(account).await?;
        self.inner.end(|key| key.upstream == *upstream);
        source.changed.notify_one();
        Ok(())
    }

    /// Takes the account of a tool server away, and records that `by` did.
    ///
    /// # Errors
    /// [`NotConnected`]
    pub async fn disconnect(&self, upstream: &UpstreamName, by: &str) -> Result<(), NotConnected> {
        let (source, _, drawer) = self.wants_account(upstream)?;
        let _turn = source.turn.lock().await;
        self.note(Event::CredentialDisconnected { upstream: upstream.to_string(), by: by.to_owned() }).await?;
        let emptied = drawer.empty().await;
        self.inner.end(|key| key.upstream == *upstream);
        source.changed.notify_one();
        Ok(emptied?)
    }

    async fn note(&self, event: Event) -> Result<u64, Fault> {
        let ledger = self.inner.ledger.as_ref().ok_or_else(|| Fault("there is no ledger".to_owned()))?;
        ledger.note(event).await
    }
}

/// 256 bits that nobody can guess, as text.
fn unguessable() -> Result<String, Fault> {
    let bytes: [u8; 32] = random().map_err(|problem| Fault(problem.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}
