//! `[identity.issuers.NAME]`: who besides this server may say who an agent is.

use std::{fmt, path::PathBuf, time::Duration};

/// One issuer of access tokens, and what its tokens mean here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerConfig {
    /// `issuer`: its name and URL, as its tokens have it.
    pub issuer: String,
    /// `jwks_url`: where its keys are, where they are not found by its metadata.
    pub jwks_url: Option<reqwest::Url>,
    /// `ca`: the authority of its certificate, where the machine does not know it.
    pub ca: Option<PathBuf>,
    /// `audience`: what its tokens are made for, one of them at least; empty for the URL of `/mcp`.
    pub audience: Vec<String>,
    /// `algorithms` that it may sign with.
    pub algorithms: Vec<String>,
    /// `types`: what the `typ` of its tokens may be; an empty one for tokens without.
    pub types: Vec<String>,
    /// `prefix`: what its agents' and teams' names begin with here.
    pub prefix: String,
    /// `agent_claim`: what an agent is called.
    pub agent_claim: Option<String>,
    /// `user_claim`: whom it acts for; empty where its agents act for nobody.
    pub user_claim: String,
    /// `task_claim`: what it works on.
    pub task_claim: String,
    /// `teams_claim`: which teams it is in.
    pub teams_claim: String,
    /// `scope_claim`: what the token is for.
    pub scope_claim: Option<String>,
    /// `workload_claim`: which workload it is.
    pub workload_claim: Option<String>,
    /// `scopes` that a token needs to be let in at all.
    pub scopes: Vec<String>,
    /// `max_ttl`: the longest life of a token.
    pub max_ttl: Duration,
    /// `bound`: only tokens that are bound to a key are let in.
    pub bound: bool,
    /// `cache`: how long it is believed without looking again that a token is good.
    pub cache: Duration,
    /// `introspection`: its tokens can be asked for.
    pub introspection: Option<IntrospectionConfig>,
    /// `advertised`: clients are told that they can get a token there.
    pub advertised: bool,
    /// `allow_private`: addresses that are not of the public internet are meant.
    pub allow_private: bool,
}

/// `introspection` of an issuer (RFC 7662).
#[derive(Clone, PartialEq, Eq)]
pub struct IntrospectionConfig {
    /// `url`, where it is not found by the issuer's metadata.
    pub url: Option<reqwest::Url>,
    /// `client_id`: ours there.
    pub client_id: String,
    /// `client_secret`
    pub client_secret: String,
}

impl fmt::Debug for IntrospectionConfig {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IntrospectionConfig").field("client_id", &self.client_id).finish_non_exhaustive()
    }
}

/// Algorithms that an issuer may be said to sign with.
pub const ALGORITHMS: [&str; 9] = ["EdDSA", "ES256", "ES384", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"];
