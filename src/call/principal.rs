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
    /// The credential's id (`jti`): what a revocation names.
    pub credential: String,
    /// When the credential was issued.
    pub issued: Timestamp,
    /// When the credential ends.
    pub expires: Timestamp,
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
