//! SPIFFE bundles, read strictly: the keys and authorities of a trust domain as a set of JWKs
//! (SPIFFE Trust Domain and Bundle, section 4).

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::{
    json::{Limits, Object, Value, parse},
    jws::{Jwk, seconds},
};

/// Bytes of one bundle.
pub(super) const MOST: usize = 1 << 20;
/// Keys of one kind in it.
const KEYS: usize = 64;
const LIMITS: Limits = Limits { bytes: MOST, depth: 16, nodes: 16_384 };

/// The keys and authorities of one trust domain.
#[derive(Debug)]
pub(super) struct Bundle {
    /// Who signs X.509-SVIDs.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// What JWT-SVIDs are signed by.
    pub(super) keys: Vec<Jwk>,
    /// How soon it wants to be asked for again.
    pub(super) refresh: Option<Duration>,
}

impl Bundle {
    /// Reads a bundle. Keys that say no use, or another, are passed over, and so are those for JWT-SVIDs that are of no
    /// kind which is known; a certificate that is none makes the whole bundle one that cannot be believed.
    ///
    /// # Errors
    /// What is wrong with it, for an operator.
    pub(super) fn read(text: &[u8]) -> Result<Self, String> {
        let tree = parse(text, &LIMITS).map_err(|_| "it is no JSON that is let in")?;
        let listed = tree.get("keys").and_then(Value::as_array).ok_or("it has no `keys`")?;
        let (mut authorities, mut keys) = (Vec::new(), Vec::new());
        for key in listed {
            match key.get("use").and_then(Value::as_str) {
                Some("x509-svid") => authorities.push(certificate(key)?),
                Some("jwt-svid") => keys.extend(jwt_key(key)),
                _ => {}
            }
        }
        if authorities.len() > KEYS || keys.len() > KEYS {
            return Err(format!("it has more than {KEYS} keys of one kind"));
        }
        let refresh = tree.get("spiffe_refresh_hint").and_then(Value::as_number).and_then(seconds);
        let refresh = refresh.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
        Ok(Self { authorities, keys, refresh: refresh.map(Duration::from_secs) })
    }
}

/// One key for JWT-SVIDs, as a Workload API gives it: without its use.
///
/// # Errors
/// What is wrong with it, for an operator.
pub(super) fn key(text: &[u8]) -> Result<Option<Jwk>, String> {
    let tree = parse(text, &LIMITS).map_err(|_| "a key is no JSON that is let in")?;
    Ok(jwt_key(&tree))
}

/// Only keys that have a name, and are of the kinds that JWT-SVIDs are signed with (JWT-SVID, section 2.1).
fn jwt_key(key: &Value) -> Option<Jwk> {
    key.get("kid").and_then(Value::as_str).filter(|kid| !kid.is_empty())?;
    matches!(key.get("kty").and_then(Value::as_str), Some("RSA" | "EC")).then_some(())?;
    let mut plain = Object::new();
    for (name, value) in key.as_object()?.iter().filter(|(name, _)| *name != "use") {
        plain.insert(name, value.clone());
    }
    Jwk::read(&Value::Object(plain))
}

/// `x5c`: exactly one certificate, in base64 of its DER.
fn certificate(key: &Value) -> Result<CertificateDer<'static>, &'static str> {
    let chain = key.get("x5c").and_then(Value::as_array).unwrap_or_default();
    let [one] = chain else { return Err("an authority in it has not exactly one certificate") };
    let der = one.as_str().and_then(|text| STANDARD.decode(text).ok());
    der.map(CertificateDer::from).ok_or("an authority in it is no certificate")
}
