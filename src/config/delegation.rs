//! `[identity.delegation]` and `[identity.clients.NAME]`: what the token endpoint gives, and to whom.

use std::{path::PathBuf, time::Duration};

/// `[identity.delegation]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelegationConfig {
    /// `enabled`: agents may trade their token for a narrower one.
    pub enabled: bool,
    /// `new_tasks`: who has no task may name one.
    pub new_tasks: bool,
    /// `ttl`: how long a token lives where none is asked for.
    pub ttl: Duration,
    /// `max_ttl`: the longest life of one.
    pub max_ttl: Duration,
}

impl Default for DelegationConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            new_tasks: false,
            ttl: Duration::from_secs(5 * 60),
            max_ttl: Duration::from_secs(60 * 60),
        }
    }
}

/// `[identity.clients.NAME]`: who gets a token by showing a key (RFC 7523).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// `jwks`: the file of its public keys.
    pub jwks: Option<PathBuf>,
    /// `jwks_url`: where they are published.
    pub jwks_url: Option<reqwest::Url>,
    /// `agent`: the agent that it is.
    pub agent: String,
    /// `teams` that the agent is in.
    pub teams: Vec<String>,
    /// `scopes` that it may ask for.
    pub scopes: Vec<String>,
    /// `tools`: the only actions that it may ask for; all, without.
    pub tools: Option<Vec<String>>,
    /// `bound`: its tokens have to be bound to a key or a certificate.
    pub bound: bool,
    /// `allow_private`: `jwks_url` may lead to addresses that are not of the public internet.
    pub allow_private: bool,
}
