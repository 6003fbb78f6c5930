//! What we vouch for: which user a call is for, and through whose hands it came. An authorization server that knows our
//! keys trades it for a token of its own (RFC 8693); the agent's own token stays here.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::{
    call::Fault,
    clock::{Clock, ulid},
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

/// Signs claims as a JWT with the key of this server's own tokens.
pub type SignClaims = Box<dyn Fn(&Value) -> Result<String, Fault> + Send + Sync>;

/// Vouches with that key; which one it is, is published.
pub struct OwnKey {
    sign: SignClaims,
    issuer: String,
    clock: Clock,
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnKey").field("issuer", &self.issuer).finish_non_exhaustive()
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
    /// `issuer` is who we are to authorization servers.
    pub fn new(sign: SignClaims, issuer: String, clock: Clock) -> Self {
        Self { sign, issuer, clock }
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
        let unsigned = || Fault("an assertion could not be written".to_owned());
        let claims = serde_json::to_value(claims).map_err(|_| unsigned())?;
        (self.sign)(&claims).map(Zeroizing::new)
    }
}
