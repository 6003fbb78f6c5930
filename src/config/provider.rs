//! `[console.providers.NAME]`: identity providers that approvers sign in with.

use std::{collections::BTreeMap, fmt, time::Duration};

/// One provider.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// `issuer`: its name and URL, as its tokens have it.
    pub issuer: String,
    /// `client_id`: ours there.
    pub client_id: String,
    /// `client_secret`, if it gave us one.
    pub client_secret: Option<String>,
    /// `scopes` that are asked for; `openid` among them.
    pub scopes: Vec<String>,
    /// `name_claim`: what a person is called.
    pub name_claim: String,
    /// `roles_claim`: what roles are made from.
    pub roles_claim: String,
    /// `roles`: values of that claim, and the role that each gives.
    pub roles: BTreeMap<String, String>,
    /// `also_claims`: other names of the same person.
    pub also_claims: Vec<String>,
    /// `max_age`: how long ago a person may have shown the provider who they are when they countersign.
    pub max_age: Duration,
    /// `acr_values`: ways of showing it, one of which a countersignature takes; any, where there is none.
    pub acr_values: Vec<String>,
    /// `allow_private`: addresses that are not of the public internet are meant.
    pub allow_private: bool,
}

impl fmt::Debug for ProviderConfig {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderConfig")
            .field("issuer", &self.issuer)
            .field("client_id", &self.client_id)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}
