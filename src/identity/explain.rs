//! How a token would be judged, stage by stage, for an operator; nothing of it is shown but what it says of its bearer.

use std::sync::Arc;

use super::{
    Bound, Identity, Known, LONGEST, Unauthenticated,
    claims::Told,
    issuers::{One, Whose},
};
use crate::{
    call::{Principal, cut},
    display::visible,
    json::{Digest, Value},
    jws::Jws,
};

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub stage: &'static str,
    /// The reason code, where the token is refused here.
    pub refused: Option<&'static str>,
    /// What was seen, for an operator.
    pub told: String,
}

/// What became of a token.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The stages that it came to, the last one it stopped at.
    pub stages: Vec<Stage>,
    /// Whom it makes of its bearer; `None` where it is refused.
    pub principal: Option<Arc<Principal>>,
    /// What it is bound to.
    pub bound: Option<Bound>,
}

impl Explanation {
    fn seen(&mut self, stage: &'static str, told: impl Into<String>) {
        self.stages.push(Stage { stage, refused: None, told: told.into() });
    }

    fn stop(mut self, stage: &'static str, why: &Unauthenticated, told: impl Into<String>) -> Self {
        self.stages.push(Stage { stage, refused: Some(why.code()), told: told.into() });
        self
    }
}

/// A word that somebody else wrote.
fn shown(text: &str) -> String {
    format!("`{}`", visible(cut(text, 200)))
}

impl Identity {
    /// Judges a token as [`Identity::authenticate`] does, and tells of each stage.
    pub async fn explain(&self, token: &str) -> Explanation {
        let mut all = Explanation { stages: Vec::new(), principal: None, bound: None };
        if token.len() > LONGEST {
            return all.stop("read", &Unauthenticated::Invalid, format!("it is longer than {LONGEST} bytes"));
        }
        let (digest, now) = (Digest::of(token.as_bytes()), self.clock.now());
        match Jws::read(token) {
            Ok(jws) => {
                let kind = jws.kind().map_or_else(|| "no type".to_owned(), |kind| format!("type {}", shown(kind)));
                let key = jws.kid().map_or_else(|| "no key named".to_owned(), |kid| format!("key {}", shown(kid)));
                all.seen("read", format!("a signed token: {:?}, {kind}, {key}", jws.algorithm()));
            }
            Err(_) => all.seen("read", "no signed token that can be read"),
        }
        let whose = match self.issuers.whose(token) {
            Ok(whose) => Some(whose),
            // an SVID need not say its issuer
            Err(Unauthenticated::Issuer) => None,
            Err(why) => return all.stop("issuer", &why, self.known_issuers(token)),
        };
        let Some(whose) = whose else {
            return match self.svid(token) {
                Some(judged) => {
                    all.seen("issuer", "the trust domain of its SPIFFE id");
                    self.concluded(all, "svid", judged)
                }
                None => all.stop("issuer", &Unauthenticated::Issuer, self.known_issuers(token)),
            };
        };
        let (known, about) = match whose {
            Whose::Own => {
                all.seen("issuer", "this server");
                (self.verify(token), "signature")
            }
            Whose::Signed(one, jws) => {
                all.seen("issuer", named(one));
                match one.signed(&jws).await {
                    Ok(claims) => {
                        all.seen("signature", "by a key of its issuer");
                        let told = Told::Signed(jws.kind().map(str::to_owned));
                        (self.mapped(one, &told, &claims, &jws.signed_digest()), "claims")
                    }
                    Err(why) => return all.stop("signature", &why, why.to_string()),
                }
            }
            Whose::Opaque(one) => {
                all.seen("issuer", format!("it says none; {} is asked", named(one)));
                match one.told(token, &digest, (false, now)).await {
                    Ok(claims) => {
                        all.seen("introspection", "its issuer says that it is good");
                        (self.mapped(one, &Told::Asked, &claims, &digest), "claims")
                    }
                    Err(why) => return all.stop("introspection", &why, why.to_string()),
                }
            }
        };
        self.concluded(all, about, known)
    }

    /// The stages after what the token says is known.
    fn concluded(
        &self,
        mut all: Explanation,
        about: &'static str,
        known: Result<Known, Unauthenticated>,
    ) -> Explanation {
        let Known { principal, bound } = match known {
            Ok(known) => known,
            Err(why) => {
                let told = match &why {
                    Unauthenticated::Scope(scopes) => format!("it needs all of: {}", scopes.join(" ")),
                    Unauthenticated::Audience => format!("{why}: here that is {}", self.audience),
                    why => why.to_string(),
                };
                return all.stop(about, &why, told);
            }
        };
        all.seen(about, format!("good until {}", principal.expires));
        all.bound = bound;
        all.seen(
            "binding",
            match bound {
                None => "to nothing: whoever has it is believed",
                Some(Bound::Key(_)) => "to a key: each request needs a DPoP proof by it",
                Some(Bound::Certificate(_)) => "to a client certificate: it has to be shown in the handshake of TLS",
            },
        );
        if let Err(why) = self.current(&principal) {
            return all.stop("ledger", &why, why.to_string());
        }
        all.seen("ledger", format!("{} is not revoked", shown(&principal.credential)));
        all.principal = Some(principal);
        all
    }

    fn mapped(&self, one: &One, told: &Told, claims: &Value, digest: &Digest) -> Result<Known, Unauthenticated> {
        self.issuers.judge(one, told, claims, digest, (&self.audience, self.clock.now()))
    }

    fn known_issuers(&self, token: &str) -> String {
        let said = Jws::read(token).ok().and_then(|jws| Some(jws.said("iss")?.as_str()?.to_owned()));
        let known: Vec<String> = self.issuers.iter().map(named).collect();
        let known = if known.is_empty() { "none but this server".to_owned() } else { known.join(", ") };
        match said {
            Some(issuer) => format!("it says {}; believed here: {known}", shown(&issuer)),
            None => format!("it says none; believed here: {known}"),
        }
    }
}

fn named(one: &One) -> String {
    format!("{} ({})", one.name(), visible(&one.config().issuer))
}
