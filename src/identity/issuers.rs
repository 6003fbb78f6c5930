//! Those besides this server who may say who an agent is.

use std::{collections::HashMap, fs, io::Read as _, path::Path, sync::Arc, time::Duration};

use super::{
    Unauthenticated,
    claims::{self, Rules, Told},
    introspection::Introspection,
    own::Known,
};
use crate::{
    call::Fault,
    clock::Timestamp,
    config::{IdentityConfig, IssuerConfig},
    json::{Digest, Value},
    jws::{self, Jws, NotSigned},
    oidc::{Issuer, Unreachable, Whom},
    reach::Resolver,
};

/// How long an issuer's keys are used without asking again, and how long where it cannot be asked: so long a key that it
/// withdrew may still count.
const FRESH: Duration = Duration::from_secs(300);
const STALE: Duration = Duration::from_secs(3_600);
/// Bytes of an authority's certificates.
const LONGEST_CA: u64 = 1 << 20;

/// All of them.
pub(super) struct Issuers {
    all: Vec<One>,
    by_issuer: HashMap<String, usize>,
    /// The one that is asked about tokens that say nothing by themselves.
    asked: Option<usize>,
    skew: i64,
}

/// One of them.
pub(super) struct One {
    name: String,
    config: IssuerConfig,
    algorithms: Vec<jsonwebtoken::Algorithm>,
    issuer: Issuer,
    introspection: Option<Introspection>,
}

impl One {
    /// What it is called in the configuration.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the configuration says of it.
    pub(super) fn config(&self) -> &IssuerConfig {
        &self.config
    }

    /// Until when it is believed without looking again.
    pub(super) fn until(&self, known: &Known, now: Timestamp) -> Timestamp {
        let cache = jiff::SignedDuration::try_from(self.config.cache).unwrap_or(jiff::SignedDuration::ZERO);
        now.checked_add(cache).unwrap_or(now).min(known.principal.expires)
    }

    /// The claims of a token that is signed by it.
    ///
    /// # Errors
    /// [`Unauthenticated`]
    pub(super) async fn signed(&self, jws: &Jws<'_>) -> Result<Value, Unauthenticated> {
        if !self.algorithms.contains(&jws.algorithm()) {
            return Err(Unauthenticated::Algorithm);
        }
        let checked = self.issuer.check_read(jws).await.map_err(|why| unavailable(&why))?;
        Ok(checked?.0)
    }

    /// What it says of a token when it is asked.
    ///
    /// # Errors
    /// [`Unauthenticated`]
    pub(super) async fn told(
        &self,
        token: &str,
        digest: &Digest,
        (before, now): (bool, Timestamp),
    ) -> Result<Value, Unauthenticated> {
        let introspection = self.introspection.as_ref().ok_or(Unauthenticated::Invalid)?;
        let told =
            introspection.ask(&self.issuer, token, digest, (before, now)).await.map_err(|why| unavailable(&why))?;
        told.ok_or(Unauthenticated::Revoked)
    }
}

/// Whose a token is, as it says.
pub(super) enum Whose<'i, 't> {
    /// Ours.
    Own,
    /// This issuer's, signed.
    Signed(&'i One, Box<Jws<'t>>),
    /// It says nothing: this one is asked.
    Opaque(&'i One),
}

impl Issuers {
    /// Makes ready to ask them; nothing is fetched yet.
    ///
    /// # Errors
    /// [`Fault`] when one cannot be asked at all.
    pub(super) fn new(config: &IdentityConfig, resolver: &Arc<dyn Resolver>) -> Result<Self, Fault> {
        let (mut all, mut by_issuer, mut asked) = (Vec::new(), HashMap::new(), None);
        for (name, config) in &config.issuers {
            let authorities = config.ca.as_deref().map(authorities).transpose()?;
            let whom = Whom {
                issuer: &config.issuer,
                keys: config.jwks_url.as_ref(),
                authorities: authorities.as_deref(),
                private: config.allow_private,
                fresh: FRESH,
                stale: STALE,
            };
            let issuer = Issuer::new(&whom, Arc::clone(resolver))?;
            by_issuer.insert(config.issuer.clone(), all.len());
            if config.introspection.is_some() {
                asked = Some(all.len());
            }
            all.push(One {
                name: name.clone(),
                algorithms: config.algorithms.iter().filter_map(|name| jws::algorithm(name)).collect(),
                issuer,
                introspection: config.introspection.clone().map(Introspection::new),
                config: config.clone(),
            });
        }
        let skew = i64::try_from(config.skew.as_secs()).unwrap_or(0);
        Ok(Self { all, by_issuer, asked, skew })
    }

    /// Those that clients may be sent to for a token.
    pub(super) fn advertised(&self) -> Vec<String> {
        self.all.iter().filter(|one| one.config.advertised).map(|one| one.config.issuer.clone()).collect()
    }

    /// Every one, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &One> {
        self.all.iter()
    }

    /// Whether a credential of that id may be one of an issuer that is asked about its tokens.
    pub(super) fn asks_about(&self, credential: &str) -> bool {
        let of = |one: &One| credential.strip_prefix(one.name()).is_some_and(|rest| rest.starts_with(':'));
        self.all.iter().any(|one| one.config.introspection.is_some() && of(one))
    }

    /// Whose a token is, as it says; nothing in it is believed yet.
    ///
    /// # Errors
    /// [`Unauthenticated`]
    pub(super) fn whose<'t>(&self, token: &'t str) -> Result<Whose<'_, 't>, Unauthenticated> {
        // three parts with dots between them are a signed token, and are asked about nowhere
        let jws = match Jws::read(token) {
            Err(NotSigned::Malformed) if token.bytes().filter(|byte| *byte == b'.').count() != 2 => {
                let asked = self.asked.and_then(|place| self.all.get(place));
                return asked.map(Whose::Opaque).ok_or(Unauthenticated::Invalid);
            }
            read => read?,
        };
        let issuer = jws.said("iss").and_then(Value::as_str).ok_or(Unauthenticated::Issuer)?;
        if issuer == super::ISSUER {
            return Ok(Whose::Own);
        }
        let place = self.by_issuer.get(issuer).and_then(|place| self.all.get(*place));
        let one = place.ok_or(Unauthenticated::Issuer)?;
        Ok(Whose::Signed(one, Box::new(jws)))
    }

    /// Judges claims that are known to be that issuer's.
    ///
    /// # Errors
    /// [`Unauthenticated`]
    pub(super) fn judge(
        &self,
        one: &One,
        told: &Told,
        claims: &Value,
        token: &Digest,
        (audience, now): (&str, Timestamp),
    ) -> Result<Known, Unauthenticated> {
        let rules = Rules { name: &one.name, config: &one.config, audience, skew: self.skew, now };
        claims::judge(told, claims, token, &rules)
    }
}

fn unavailable(why: &Unreachable) -> Unauthenticated {
    tracing::debug!(%why, "an agent's issuer cannot be asked");
    Unauthenticated::Unavailable
}

fn authorities(path: &Path) -> Result<Vec<u8>, Fault> {
    let wrong = |why: String| Fault(format!("`{}` cannot be read: {why}", path.display()));
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    file.take(LONGEST_CA + 1).read_to_end(&mut text).map_err(|error| wrong(error.to_string()))?;
    if text.len() as u64 > LONGEST_CA { Err(wrong("it is too long".to_owned())) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
