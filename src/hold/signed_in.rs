//! Approvers whom an identity provider vouches for: known while they are signed in, and not by a key of their own. What
//! they countersign, a token of the provider's is the evidence for.

use std::collections::BTreeSet;

use super::Means;
use crate::{
    clock::Timestamp,
    json::{Digest, Object, Value},
    jws::{Jwk, Jws},
};

/// How far the clocks of a provider and ours may be apart, seconds.
const SKEW: i64 = 60;
/// How long it may take from when somebody showed the provider who they are until what they countersign is written,
/// where it asks no more of them than that: seconds. What a configuration allows is at most so much.
const LONGEST: i64 = 24 * 3_600;

/// `approver.signed_in`: somebody whom a provider let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// The name they have here: the provider's, a colon, and what it calls them.
    pub name: String,
    /// The provider, by its name in the configuration.
    pub provider: String,
    /// The issuer of its tokens.
    pub issuer: String,
    /// Who they are for the issuer.
    pub subject: String,
    /// Their roles.
    pub roles: BTreeSet<String>,
    /// Other names of the same person.
    pub also: BTreeSet<String>,
    /// Until when they have the roles.
    pub until: Timestamp,
}

/// What is remembered of a sign-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIn {
    /// The provider, by its name in the configuration.
    pub provider: String,
    /// The issuer of its tokens.
    pub issuer: String,
    /// Who they are for the issuer.
    pub subject: String,
    /// Until when they have their roles.
    pub until: Timestamp,
}

impl SignedIn {
    /// What they countersign by.
    pub fn means(&self) -> Means {
        Means::signed_in(&self.issuer, &self.subject)
    }
}

/// Names one person of one issuer.
pub(super) fn identity(issuer: &str, subject: &str) -> Digest {
    let whole = vec![Value::from("countersign.signed_in"), Value::from(issuer), Value::from(subject)];
    Digest::of(&Value::Array(whole).to_bytes())
}

impl PartialEq for Evidence {
    fn eq(&self, other: &Self) -> bool {
        self.token == other.token && self.key.public() == other.key.public()
    }
}

impl Eq for Evidence {}

/// A provider's word that somebody was there for a hold: its ID token, and the key that the token is signed by.
#[derive(Clone)]
pub struct Evidence {
    /// The token.
    pub token: String,
    /// The key.
    pub key: Jwk,
}

impl std::fmt::Debug for Evidence {
    /// Without the token, which says much of a person.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Evidence").field("token", &self.digest()).finish_non_exhaustive()
    }
}

impl Evidence {
    /// SHA-256 of the token: what the log says of it.
    pub fn digest(&self) -> Digest {
        Digest::of(self.token.as_bytes())
    }

    /// What is kept beside the log.
    pub fn kept(&self) -> Vec<u8> {
        let whole = Object::new().with("jwk", self.key.public().clone()).with("token", self.token.as_str());
        Value::Object(whole).to_bytes()
    }

    /// What was kept, read back.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let limits = crate::json::Limits { bytes: 64 << 10, depth: 8, nodes: 256 };
        let tree = crate::json::parse(bytes, &limits).ok()?;
        Some(Self { token: tree.get("token")?.as_str()?.to_owned(), key: Jwk::read(tree.get("jwk")?)? })
    }

    /// Whether it is the word of `issuer` that `subject` was there for the hold of that digest, not long before `at`:
    /// signed, the digest in its nonce, and the person asked who they are. Whether the key is the issuer's was known when
    /// it was fetched, and is not known from here.
    pub fn vouches(&self, issuer: &str, subject: &str, digest: &Digest, at: Timestamp) -> bool {
        let Ok(jws) = Jws::read(&self.token) else { return false };
        let keys = [self.key.clone()];
        let Ok((claims, _)) = jws.check_by(&keys) else { return false };
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let time = |name: &str| claims.get(name).and_then(Value::as_number).and_then(crate::jws::seconds);
        let hex = digest.to_string();
        let hex = hex.strip_prefix("sha256:").unwrap_or_default();
        let nonce = text("nonce").and_then(|nonce| nonce.split_once('.')).map(|(digest, _)| digest);
        let near = |shown: i64| {
            let ago = at.as_second().saturating_sub(shown);
            (-SKEW..=LONGEST + SKEW).contains(&ago)
        };
        text("iss") == Some(issuer)
            && text("sub") == Some(subject)
            && nonce == Some(hex)
            && time("auth_time").is_some_and(near)
            && time("iat").is_some_and(near)
    }
}
