//! Who is calling.

use std::sync::Arc;

use crate::clock::Timestamp;

/// An agent, as its credential proves it, and on whose behalf it acts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The agent's name, `Agent::"…"` in grants.
    pub agent: String,
    /// Who vouches for it: the credential's `iss`.
    pub issuer: String,
    /// The user it acts for.
    pub user: Option<String>,
    /// The task it works on.
    pub task: Option<String>,
    /// Teams it belongs to, `Team::"…"` in grants.
    pub teams: Vec<String>,
    /// Scopes of the credential.
    pub scopes: Vec<String>,
    /// Workload identity, such as a SPIFFE id.
    pub workload: Option<String>,
    /// The agents through whose hands it went, as the credential says (RFC 8693, `act`): the first one first, the one who
    /// calls now last. Empty: nobody handed anything on.
    pub chain: Vec<String>,
    /// The only actions that the credential is for, by the names that grants use; all, without.
    pub tools: Option<Vec<String>>,
    /// How surely it is the one whom the credential names.
    pub assurance: Assurance,
    /// The credential's id (`jti`): what a revocation names.
    pub credential: String,
    /// When the credential was issued.
    pub issued: Timestamp,
    /// When the credential ends.
    pub expires: Timestamp,
}

/// How surely a caller is the one whom its credential names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Assurance {
    /// Whoever has the token is believed.
    Bearer,
    /// The token is bound to a key, and the caller showed that it has it (RFC 9449, RFC 8705).
    Bound,
    /// There is no token: the caller showed the key of a certificate.
    Certificate,
    /// There is no token: the operator started it as this agent.
    Process,
}

impl Assurance {
    /// The word in grants and in the ledger.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Bound => "bound",
            Self::Certificate => "certificate",
            Self::Process => "process",
        }
    }

    /// The one of that word.
    pub fn read(word: &str) -> Option<Self> {
        [Self::Bearer, Self::Bound, Self::Certificate, Self::Process].into_iter().find(|one| one.word() == word)
    }
}

/// The witness that a credential was checked just now, revocation included. Only
/// [`crate::identity`] makes one.
#[derive(Clone, Debug)]
pub struct Identified {
    principal: Arc<Principal>,
}

impl Identified {
    /// For [`crate::identity`] only, once every check has passed.
    pub(crate) fn vouch(principal: Arc<Principal>) -> Self {
        Self { principal }
    }

    /// Who it is.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    pub(super) fn into_principal(self) -> Arc<Principal> {
        self.principal
    }
}
