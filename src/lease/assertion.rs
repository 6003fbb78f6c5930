//! What we vouch for: which user a call is for, and through whose hands it came. An authorization server that knows our
//! keys trades it for a token of its own (RFC 8693); the agent's own token stays here.

use std::{fmt, path::Path};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    call::Fault,
    clock::{Clock, ulid},
    json::Digest,
    secret_file,
};

/// How long an assertion is good.
const LIVES: jiff::SignedDuration = jiff::SignedDuration::from_secs(60);

/// Who is acting, for whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Behalf {
    /// The user.
    pub user: String,
    /// Who says so: two issuers' users of one name are two.
    pub issuer: String,
    /// The task.
    pub task: Option<String>,
    /// Through whose hands it came: the first one first, the agent who calls last.
    pub agents: Vec<String>,
}

/// Signs what we vouch for.
pub trait Signs: Send + Sync + fmt::Debug {
    /// A JWT about `behalf`, for `audience`, good for a minute.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be signed.
    fn assertion(&self, behalf: &Behalf, audience: &str) -> Result<Zeroizing<String>, Fault>;
}

/// Signs with the key that this server's own tokens are signed with; which one, is published.
pub struct OwnKey {
    signing: EncodingKey,
    kid: String,
    issuer: String,
    clock: Clock,
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnKey").field("kid", &self.kid).field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What an assertion says.
#[derive(Serialize)]
struct Claims<'b> {
    iss: &'b str,
    sub: &'b str,
    aud: &'b str,
    iat: i64,
    exp: i64,
    jti: String,
    /// Whose user it is.
    user_issuer: &'b str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'b str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    act: Option<Value>,
}

impl OwnKey {
    /// Reads the key in PKCS#8 from `path`; `issuer` is who we are to authorization servers.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read.
    pub fn open(path: &Path, issuer: &str, clock: Clock) -> Result<Self, Fault> {
        let none = || Fault(format!("`{}` is no signing key", path.display()));
        let pkcs8 = Zeroizing::new(secret_file::read(path)?.ok_or_else(none)?);
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| none())?;
        let public = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        // RFC 7638: the members that make the key, in order
        let thumbprint = Digest::of(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#).as_bytes());
        let kid = URL_SAFE_NO_PAD.encode(thumbprint.0);
        Ok(Self { signing: EncodingKey::from_ed_der(&pkcs8), kid, issuer: issuer.to_owned(), clock })
    }
}

impl Signs for OwnKey {
    fn assertion(&self, behalf: &Behalf, audience: &str) -> Result<Zeroizing<String>, Fault> {
        let now = self.clock.now();
        // the one who acts now is outermost (RFC 8693, section 4.1)
        let act = behalf.agents.iter().fold(None, |before: Option<Value>, agent| {
            Some(match before {
                Some(before) => json!({"sub": agent, "act": before}),
                None => json!({"sub": agent}),
            })
        });
        let claims = Claims {
            iss: &self.issuer,
            sub: &behalf.user,
            aud: audience,
            iat: now.as_second(),
            exp: now.as_second().saturating_add(LIVES.as_secs()),
            jti: ulid(now).map_err(|error| Fault(error.to_string()))?,
            user_issuer: &behalf.issuer,
            task: behalf.task.as_deref(),
            act,
        };
        let header =
            Header { typ: Some("JWT".to_owned()), kid: Some(self.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        let signed = jsonwebtoken::encode(&header, &claims, &self.signing);
        signed.map(Zeroizing::new).map_err(|_| Fault("an assertion could not be signed".to_owned()))
    }
}
