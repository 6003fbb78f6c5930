//! Who is calling: credentials in, principals out.
//!
//! A credential is an EdDSA JWT (RFC 7519, RFC 8037) that this server signed, for itself as audience. It
//! is good while it has not expired and the ledger does not say that it was revoked.

use std::{fmt, path::Path, time::Duration};

use crate::{
    call::{Fault, Identified},
    clock::Clock,
    ledger::Ledger,
};

/// Judges credentials, and issues our own.
pub struct Identity {
    ledger: Ledger,
    clock: Clock,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// Why a credential is not accepted. [`Unauthenticated::code`] is public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    /// There is none.
    Missing,
    /// It is no token of ours: malformed, another key, another algorithm, another issuer or audience.
    Invalid,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl Unauthenticated {
    /// The stable reason code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Invalid => "token_invalid",
            Self::Expired => "token_expired",
            Self::Revoked => "token_revoked",
        }
    }
}

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The agent's name.
    pub agent: String,
    /// How long it lives.
    pub ttl: Duration,
    /// The task it is for.
    pub task: Option<String>,
    /// The user it acts for.
    pub user: Option<String>,
}

impl Identity {
    /// Reads the signing key from `data`, or makes one there (mode 0600). `audience` is the URL of `/mcp`.
    ///
    /// # Errors
    /// [`Fault`] when the key cannot be read, made or kept to ourselves.
    pub fn open(
        _data: &Path,
        _audience: String,
        _max_ttl: Duration,
        ledger: Ledger,
        clock: Clock,
    ) -> Result<Self, Fault> {
        Ok(Self { ledger, clock })
    }

    /// Judges a bearer token (without the word `Bearer`).
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn authenticate(&self, _token: Option<&str>) -> Result<Identified, Unauthenticated> {
        let _now = (self.clock.now(), self.ledger.size());
        Err(Unauthenticated::Missing)
    }

    /// The agent that the operator named on the command line of a stdio server: no token, the process is its own.
    ///
    /// # Errors
    /// [`Fault`] when `agent` is no agent's name.
    pub fn named(&self, agent: &str) -> Result<Identified, Fault> {
        Err(Fault(format!("`{agent}` is no agent's name")))
    }

    /// Signs a token and records that it was issued.
    ///
    /// # Errors
    /// [`Fault`] when the request is out of bounds or cannot be recorded.
    pub async fn issue(&self, _request: TokenRequest) -> Result<String, Fault> {
        Err(Fault("not yet".to_owned()))
    }

    /// Revokes every token that the agent has, or the one whose id is given. Holds from the next call on.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be recorded.
    pub async fn revoke(&self, _agent: &str, _credential: Option<&str>) -> Result<(), Fault> {
        Err(Fault("not yet".to_owned()))
    }

    /// The audience of our tokens: the URL of `/mcp`, RFC 8707.
    pub fn audience(&self) -> &str {
        ""
    }

    /// Protected resource metadata, RFC 9728, as JSON.
    pub fn metadata(&self) -> String {
        String::new()
    }
}
