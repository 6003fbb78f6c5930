//! JWT-SVIDs, judged (SPIFFE JWT-SVID, sections 2 to 5).

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use spiffe::SpiffeId;

use super::{Unproven, Workload, domain::Domain};
use crate::{
    clock::Timestamp,
    json::{Digest, Limits, Value, parse},
    jws::{Jws, LONGEST, NotSigned, seconds},
};

/// How far the clock of whoever signed may be ahead of ours, seconds.
const SKEW: i64 = 30;
/// Bytes of a SPIFFE id (SPIFFE-ID, section 2.3).
const ID: usize = 2_048;
const LIMITS: Limits = Limits { bytes: LONGEST, depth: 16, nodes: 8_192 };

/// A JWT-SVID that was judged and found good.
#[derive(Debug)]
pub struct Svid {
    /// Who it is.
    pub workload: Workload,
    /// All that it says.
    pub claims: Value,
}

/// The SPIFFE id that a token says it is for, unchecked: whose keys it has to be checked by.
pub(super) fn named(token: &str) -> Option<SpiffeId> {
    if token.len() > LONGEST {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims = parse(&claims, &LIMITS).ok()?;
    id(claims.get("sub")?.as_str()?)
}

/// A workload's SPIFFE id in the one form that it has: two spellings would be two agents.
pub(super) fn id(text: &str) -> Option<SpiffeId> {
    let id = SpiffeId::new(text).ok().filter(|id| text.len() <= ID && !id.path().is_empty())?;
    (id.to_string() == text).then_some(id)
}

impl Svid {
    /// The same, while its time is not over.
    pub(super) fn at(self: Arc<Self>, now: Timestamp) -> Result<Arc<Self>, Unproven> {
        if now < self.workload.expires { Ok(self) } else { Err(Unproven::Expired) }
    }
}

/// Judges a token that says it is of this trust domain, but for its end.
pub(super) fn judge(domain: &Domain, token: &str, digest: Digest, now: Timestamp) -> Result<Arc<Svid>, Unproven> {
    let jws = Jws::read(token).map_err(|why| match why {
        NotSigned::Algorithm => Unproven::Signature,
        _ => Unproven::Malformed,
    })?;
    if !matches!(jws.kind(), None | Some("JWT" | "JOSE")) {
        return Err(Unproven::Kind);
    }
    let keys = domain.keys().ok_or(Unproven::Unavailable)?;
    let (claims, _) = jws.check(&keys).map_err(|_| Unproven::Signature)?;
    // another spelling of the signature makes another text, and the same token
    let svid = Arc::new(read(domain, claims.clone(), &jws.signed_digest(), now)?);
    domain.remember(digest, &svid, &keys);
    Ok(svid)
}

/// What its claims say, once its signature was checked.
fn read(domain: &Domain, claims: Value, digest: &Digest, now: Timestamp) -> Result<Svid, Unproven> {
    let id = claims.get("sub").and_then(Value::as_str).and_then(id).ok_or(Unproven::Malformed)?;
    if id.trust_domain_name() != domain.name {
        return Err(Unproven::Signature);
    }
    let ours = |value: &Value| value.as_str() == Some(&domain.audience);
    let audience = claims.get("aud").ok_or(Unproven::Malformed)?;
    if !ours(audience) && !audience.as_array().is_some_and(|all| all.iter().any(ours)) {
        return Err(Unproven::Audience);
    }
    let time = |name: &str| match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_number().and_then(seconds).map(Some).ok_or(Unproven::Malformed),
    };
    let expires = time("exp")?.ok_or(Unproven::Malformed)?;
    let (issued, begins) = (time("iat")?, time("nbf")?);
    let latest = now.as_second().saturating_add(SKEW);
    if issued.max(begins).is_some_and(|begins| begins > latest) {
        return Err(Unproven::NotYet);
    }
    let longest = i64::try_from(domain.config.max_lifetime.as_secs()).unwrap_or(i64::MAX);
    // one that does not say when it was made was made no earlier than this
    let earliest = expires.saturating_sub(longest);
    let issued = issued.unwrap_or(earliest);
    if issued < earliest || earliest > latest {
        return Err(Unproven::TooLong);
    }
    let issuer = domain.issuer();
    let credential = match claims.get("jti") {
        None => format!("{issuer}:{}", short(digest)),
        Some(jti) => {
            let plain = |jti: &&str| (1..=128).contains(&jti.len()) && jti.bytes().all(|byte| byte.is_ascii_graphic());
            format!("{issuer}:{}", jti.as_str().filter(plain).ok_or(Unproven::Malformed)?)
        }
    };
    let time = |seconds| Timestamp::from_second(seconds).map_err(|_| Unproven::Malformed);
    let workload = Workload {
        agent: id.to_string(),
        id: Some(id.to_string()),
        issuer,
        credential,
        // where its issuer's clock may be ahead, a revocation ends what was issued a moment after it by that clock
        issued: time(issued.saturating_sub(SKEW).min(now.as_second()))?,
        expires: time(expires)?,
    };
    Ok(Svid { workload, claims })
}

/// What a credential is called by that has no name of its own.
pub(super) fn short(digest: &Digest) -> String {
    let text = digest.to_string();
    format!("sha256-{}", text.get(7..23).unwrap_or_default())
}

impl Domain {
    /// What principals call whoever vouches for them.
    pub(super) fn issuer(&self) -> String {
        format!("spiffe://{}", self.name)
    }
}
