//! Proofs that a caller has the key that its token is bound to (DPoP, RFC 9449).

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    clock::Timestamp,
    json::{Digest, Value},
    jws::{Jws, seconds},
};

/// How long ago a proof may have been made, and how far a clock may be ahead, seconds.
const WINDOW: i64 = 60;
const AHEAD: i64 = 5;
/// The longest `jti` that is looked at, bytes.
const LONGEST_ID: usize = 256;
/// Proofs of one key that are remembered; who makes more within the window has to wait.
const EACH: usize = 20_000;
/// Proofs that are remembered.
const ALL: usize = 400_000;

/// Why a proof shows nothing. [`NotProven::code`] is public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotProven {
    /// It is no proof, is by a key that it does not bring along, or is about another request or token.
    Invalid,
    /// It was made too long ago, or its maker's clock is ahead.
    Stale,
    /// It was sent before.
    Replayed,
    /// Its key made too many of late.
    TooMany,
}

impl NotProven {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Invalid => "proof_invalid",
            Self::Stale => "proof_stale",
            Self::Replayed => "proof_replayed",
            Self::TooMany => "proof_too_many",
        }
    }
}

impl fmt::Display for NotProven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "the DPoP proof does not fit this request and token; make one for each request",
            Self::Stale => "the DPoP proof is not of now; look at the clock, and make one for each request",
            Self::Replayed => "the DPoP proof was used before; make one for each request",
            Self::TooMany => "there are too many DPoP proofs by this key; wait a minute",
        })
    }
}

impl std::error::Error for NotProven {}

/// What a proof has to be about.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The request's method.
    pub method: &'a str,
    /// Where it was sent, without query and fragment.
    pub url: &'a str,
    /// The token that it goes with; none when one is asked for.
    pub token: Option<&'a str>,
    /// The time.
    pub now: Timestamp,
    /// Proofs of before count for nothing: whether they were used is not remembered.
    pub since: Timestamp,
}

/// A proof that fits, but for whether it was used before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// SHA-256 of its key (RFC 7638): what a token's `jkt` has to be.
    pub key: Digest,
    id: Digest,
    until: i64,
}

impl Proof {
    /// Reads a proof and holds it against the request.
    ///
    /// # Errors
    /// [`NotProven`]
    pub fn judge(proof: &str, asked: &Asked<'_>) -> Result<Self, NotProven> {
        let jws = Jws::read(proof).map_err(|_| NotProven::Invalid)?;
        let kind = jws.kind().is_some_and(|kind| kind.eq_ignore_ascii_case("dpop+jwt"));
        let key = jws.brought_key().filter(|_| kind).ok_or(NotProven::Invalid)?;
        let keys = [key];
        let (claims, key) = jws.check_by(&keys).map_err(|_| NotProven::Invalid)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let id = text("jti").filter(|id| (1..=LONGEST_ID).contains(&id.len())).ok_or(NotProven::Invalid)?;
        let about = text("htm") == Some(asked.method) && text("htu").is_some_and(|url| same_url(url, asked.url));
        // a proof that names a token goes with that token only, and one that names none with none
        let with = match (text("ath"), asked.token) {
            (Some(hash), Some(token)) => {
                let expected = URL_SAFE_NO_PAD.encode(Digest::of(token.as_bytes()).0);
                verify_slices_are_equal(hash.as_bytes(), expected.as_bytes()).is_ok()
            }
            (None, None) => true,
            _ => false,
        };
        if !about || !with {
            return Err(NotProven::Invalid);
        }
        let made = claims.get("iat").and_then(Value::as_number).and_then(seconds).ok_or(NotProven::Invalid)?;
        let now = asked.now.as_second();
        let (oldest, newest) = (now.saturating_sub(WINDOW), now.saturating_add(AHEAD));
        if made < oldest.max(asked.since.as_second()) || made > newest {
            return Err(NotProven::Stale);
        }
        let key = key.thumbprint();
        let mut whole = key.0.to_vec();
        whole.extend_from_slice(id.as_bytes());
        Ok(Self { key, id: Digest::of(&whole), until: made.saturating_add(WINDOW) })
    }
}

/// RFC 9449, section 4.3: query and fragment are no matter, nor is how a URL is written.
fn same_url(one: &str, other: &str) -> bool {
    let bare = |text: &str| {
        let mut url = url::Url::parse(text).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        Some(url)
    };
    matches!((bare(one), bare(other)), (Some(one), Some(other)) if one == other)
}

/// Proofs that were used, for as long as they could be used again.
#[derive(Default)]
pub struct Used {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    ids: HashMap<Digest, i64>,
    /// In the order in which they came, with whose they are.
    order: VecDeque<(Digest, Digest, i64)>,
    each: HashMap<Digest, usize>,
}

impl fmt::Debug for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Used").finish_non_exhaustive()
    }
}

impl Used {
    /// Takes a proof for used.
    ///
    /// # Errors
    /// [`NotProven::Replayed`], [`NotProven::TooMany`]
    pub fn take(&self, proof: &Proof, now: Timestamp) -> Result<(), NotProven> {
        self.take_within(proof, now, EACH, ALL)
    }

    fn take_within(&self, proof: &Proof, now: Timestamp, each: usize, all: usize) -> Result<(), NotProven> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.forget(now.as_second());
        if known.ids.contains_key(&proof.id) {
            return Err(NotProven::Replayed);
        }
        if known.order.len() >= all || known.each.get(&proof.key).is_some_and(|many| *many >= each) {
            return Err(NotProven::TooMany);
        }
        known.ids.insert(proof.id, proof.until);
        known.order.push_back((proof.id, proof.key, proof.until));
        *known.each.entry(proof.key).or_default() += 1;
        Ok(())
    }
}

impl Known {
    /// Forgets what could not be used again anyway. They end nearly in the order in which they came; one that ends later
    /// only keeps those behind it a little longer.
    fn forget(&mut self, now: i64) {
        while self.order.front().is_some_and(|(_, _, until)| *until < now) {
            let Some((id, key, _)) = self.order.pop_front() else { return };
            self.ids.remove(&id);
            if let Some(many) = self.each.get_mut(&key) {
                *many -= 1;
                if *many == 0 {
                    self.each.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::{Value as Json, json};

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const URL: &str = "https://cs.example/mcp";
    const TOKEN: &str = "a.b.c";

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn key(seed: u8) -> (EncodingKey, Json) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let public = json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())});
        (EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()), public)
    }

    fn signed(header: &Json, claims: &Json, seed: u8) -> String {
        let part = |value: &Json| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(pair.sign(text.as_bytes()).as_ref()))
    }

    fn header() -> Json {
        json!({"alg": "EdDSA", "typ": "dpop+jwt", "jwk": key(1).1})
    }

    fn claims() -> Json {
        let hash = URL_SAFE_NO_PAD.encode(Digest::of(TOKEN.as_bytes()).0);
        json!({"jti": "1", "htm": "POST", "htu": URL, "iat": NOW, "ath": hash})
    }

    fn judged(proof: &str) -> Result<Proof, NotProven> {
        let asked = Asked { method: "POST", url: URL, token: Some(TOKEN), now: at(NOW), since: at(NOW - 3_600) };
        Proof::judge(proof, &asked)
    }

    #[test]
    fn a_proof_is_for_one_request_and_one_token_by_the_key_that_it_brings() {
        let proof = judged(&signed(&header(), &claims(), 1)).unwrap();
        let value = crate::json::parse(key(1).1.to_string().as_bytes(), &crate::json::Limits::REQUEST).unwrap();
        assert_eq!(proof.key, crate::jws::Jwk::read(&value).unwrap().thumbprint());
        let with = |name: &str, value: Json| {
            let mut claims = claims();
            claims[name] = value;
            judged(&signed(&header(), &claims, 1))
        };
        for same in ["https://CS.example:443/mcp", "https://cs.example/mcp?a=b#c", "https://cs.example/x/../mcp"] {
            with("htu", same.into()).unwrap();
        }
        for (name, value) in [
            ("htm", json!("GET")),
            ("htm", json!("post")),
            ("htu", json!("https://cs.example/other")),
            ("htu", json!("http://cs.example/mcp")),
            ("htu", json!("https://evil.example/mcp")),
            ("htu", json!("/mcp")),
            ("ath", json!(URL_SAFE_NO_PAD.encode(Digest::of(b"another").0))),
            ("ath", Json::Null),
            ("jti", json!("")),
            ("jti", json!(1)),
            ("jti", json!("j".repeat(257))),
            ("iat", json!("now")),
        ] {
            assert_eq!(with(name, value.clone()).unwrap_err(), NotProven::Invalid, "{name}: {value}");
        }
        for (made, fine) in [(NOW - 60, true), (NOW + 5, true), (NOW - 61, false), (NOW + 6, false)] {
            assert_eq!(with("iat", made.into()).is_ok(), fine, "{made}");
        }
        let asked = |token, since| Asked { method: "POST", url: URL, token, now: at(NOW), since };
        let proof = signed(&header(), &claims(), 1);
        assert_eq!(Proof::judge(&proof, &asked(None, at(0))), Err(NotProven::Invalid), "it names a token");
        assert_eq!(
            Proof::judge(&proof, &asked(Some(TOKEN), at(NOW + 1))),
            Err(NotProven::Stale),
            "of before the start"
        );
    }

    #[test]
    fn a_proof_that_is_something_else_shows_nothing() {
        let with = |name: &str, value: Json| {
            let mut header = header();
            header[name] = value;
            judged(&signed(&header, &claims(), 1))
        };
        let mut private = key(1).1;
        private["d"] = json!("AAAA");
        for (name, value) in [
            ("typ", json!("at+jwt")),
            ("typ", Json::Null),
            ("jwk", key(2).1),
            ("jwk", private),
            ("jwk", json!({"kty": "oct", "k": "AAAA"})),
            ("jwk", Json::Null),
            ("alg", json!("none")),
            ("alg", json!("HS256")),
            ("alg", json!("ES256")),
            ("crit", json!(["b64"])),
        ] {
            assert_eq!(with(name, value.clone()).unwrap_err(), NotProven::Invalid, "{name}: {value}");
        }
        for text in ["", "a.b.c", "..", "a"] {
            assert_eq!(judged(text).unwrap_err(), NotProven::Invalid, "{text}");
        }
        let secret = EncodingKey::from_secret(b"secret");
        let symmetric = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
        assert_eq!(judged(&symmetric).unwrap_err(), NotProven::Invalid);
        let _used = key(1).0;
    }

    #[test]
    fn a_proof_is_used_once_and_forgotten_when_it_could_not_be_used_anyway() {
        let used = Used::default();
        let proof = |id: u8, key: u8, until| Proof { key: Digest::of(&[key]), id: Digest::of(&[key, id]), until };
        used.take(&proof(1, 1, NOW), at(NOW)).unwrap();
        assert_eq!(used.take(&proof(1, 1, NOW), at(NOW)), Err(NotProven::Replayed));
        used.take(&proof(1, 2, NOW), at(NOW)).unwrap();
        assert_eq!(used.take_within(&proof(2, 1, NOW), at(NOW), 1, 9), Err(NotProven::TooMany), "of one key");
        assert_eq!(used.take_within(&proof(1, 3, NOW), at(NOW), 9, 2), Err(NotProven::TooMany), "of all");
        used.take_within(&proof(2, 1, NOW + 9), at(NOW + 1), 1, 1).unwrap();
        let known = used.known.lock().unwrap();
        assert_eq!((known.ids.len(), known.order.len(), known.each.len()), (1, 1, 1));
    }
}
