//! Tokens that others signed: compact JWS (RFC 7515), read strictly, and checked by one of their public keys (RFC 7517).
//! Pure: who may sign what, and what the claims have to say, is for whoever asks.

use std::{fmt, str::FromStr as _};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};

use crate::json::{Digest, Limits, Number, Object, Value, parse};

/// Longest token that is looked at, bytes.
pub const LONGEST: usize = 16 << 10;
/// Keys of one set that are looked at.
const KEYS: usize = 64;
const LIMITS: Limits = Limits { bytes: 256 << 10, depth: 16, nodes: 8_192 };

/// The algorithm of that name, if a signature may have it.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    Algorithm::from_str(name).ok().filter(|known| ALGORITHMS.contains(known))
}

/// Algorithms that a signature may have, all with a public key: who knows what checks a token cannot make one.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Why a token is not one that can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSigned {
    /// It is no compact JWS with JSON claims, or has what must be understood and is not (`crit`).
    Malformed,
    /// Its algorithm is `none`, one with a shared secret, or one that is not known.
    Algorithm,
    /// There is no key, or not exactly one, that it could be by.
    UnknownKey,
    /// The signature is not by the key.
    Signature,
}

impl NotSigned {
    /// A stable word.
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey => "token_key_unknown",
            Self::Signature => "token_signature",
        }
    }
}

/// A token that was read; nothing in it is believed before [`Jws::check`].
pub struct Jws<'t> {
    algorithm: Algorithm,
    kid: Option<String>,
    kind: Option<String>,
    header: Value,
    claims: Value,
    signed: &'t str,
    signature: &'t str,
}

impl<'t> Jws<'t> {
    /// Reads a token.
    ///
    /// # Errors
    /// [`NotSigned::Malformed`], [`NotSigned::Algorithm`]
    pub fn read(token: &'t str) -> Result<Self, NotSigned> {
        if token.len() > LONGEST {
            return Err(NotSigned::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(NotSigned::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(NotSigned::Malformed)?;
        let (header, claims) = (object(header)?, object(claims)?);
        let text = |name: &str| match header.get(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(|text| Some(text.to_owned())).ok_or(NotSigned::Malformed),
        };
        // extensions that must be understood: none is
        if header.get("crit").is_some() {
            return Err(NotSigned::Malformed);
        }
        let algorithm = text("alg")?.and_then(|name| algorithm(&name)).ok_or(NotSigned::Algorithm)?;
        let (kid, kind) = (text("kid")?, text("typ")?);
        Ok(Self { algorithm, kid, kind, header, claims, signed, signature })
    }

    /// The `typ` of its header.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The name of its key, as it says.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// What it says that it is signed with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// SHA-256 of what is signed: the same for every spelling of the signature, of which some algorithms have several.
    pub fn signed_digest(&self) -> Digest {
        Digest::of(self.signed.as_bytes())
    }

    /// A claim of which nothing is believed yet: good for finding out whom to ask, and for nothing else.
    pub fn said(&self, name: &str) -> Option<&Value> {
        self.claims.get(name)
    }

    /// The key that it brings along (`jwk`), which anybody can have made: it is worth what knows it from elsewhere.
    /// `None` when there is none, or it has a private part.
    pub fn brought_key(&self) -> Option<Jwk> {
        let key = self.header.get("jwk")?;
        let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"].iter().any(|member| key.get(member).is_some());
        if private { None } else { Jwk::read(key) }
    }

    /// Checks the signature by the one key of `keys` that it can be by, and gives the claims and that key.
    ///
    /// # Errors
    /// [`NotSigned::UnknownKey`], [`NotSigned::Signature`]
    pub fn check<'k>(&self, keys: &'k [Jwk]) -> Result<(&Value, &'k Jwk), NotSigned> {
        self.check_named(keys, self.kid.as_deref())
    }

    /// The same by a key that was kept without its name.
    ///
    /// # Errors
    /// As [`Jws::check`].
    pub fn check_by<'k>(&self, keys: &'k [Jwk]) -> Result<(&Value, &'k Jwk), NotSigned> {
        self.check_named(keys, None)
    }

    fn check_named<'k>(&self, keys: &'k [Jwk], kid: Option<&str>) -> Result<(&Value, &'k Jwk), NotSigned> {
        let mut fitting = keys.iter().filter(|key| key.fits(self.algorithm, kid));
        let key = fitting.next().ok_or(NotSigned::UnknownKey)?;
        if fitting.next().is_some() {
            return Err(NotSigned::UnknownKey);
        }
        match crypto::verify(self.signature, self.signed.as_bytes(), &key.key, self.algorithm) {
            Ok(true) => Ok((&self.claims, key)),
            _ => Err(NotSigned::Signature),
        }
    }
}

/// Seconds since the epoch, of which some tell fractions.
pub fn seconds(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let (whole, _) = number.text().split_once('.')?;
        whole.parse().ok()
    })
}

fn object(part: &str) -> Result<Value, NotSigned> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| NotSigned::Malformed)?;
    let value = parse(&bytes, &LIMITS).map_err(|_| NotSigned::Malformed)?;
    if value.as_object().is_some() { Ok(value) } else { Err(NotSigned::Malformed) }
}

/// Somebody's public key.
#[derive(Clone)]
pub struct Jwk {
    kid: Option<String>,
    algorithm: Option<Algorithm>,
    kind: Kind,
    key: DecodingKey,
    public: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl fmt::Debug for Jwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwk").field("kid", &self.kid).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Jwk {
    /// Reads a key. `None`: it is of a kind that is not known, not for signatures, or malformed.
    pub fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let for_checking = |operation: &Value| operation.as_str() == Some("verify");
        if value.get("key_ops").and_then(Value::as_array).is_some_and(|all| !all.iter().any(for_checking)) {
            return None;
        }
        let algorithm = match text("alg") {
            Some(name) => Some(algorithm(name)?),
            None => None,
        };
        // RFC 7638: the members that make the key, in the order of their names
        let (kind, key, members): (Kind, DecodingKey, &[&str]) = match (text("kty")?, text("crv")) {
            ("RSA", _) => {
                let key = DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?;
                (Kind::Rsa, key, &["e", "kty", "n"])
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let key = DecodingKey::from_ec_components(text("x")?, text("y")?).ok()?;
                (if curve == "P-256" { Kind::P256 } else { Kind::P384 }, key, &["crv", "kty", "x", "y"])
            }
            ("OKP", Some("Ed25519")) => {
                (Kind::Ed25519, DecodingKey::from_ed_components(text("x")?).ok()?, &["crv", "kty", "x"])
            }
            _ => return None,
        };
        let mut public = Object::new();
        for member in members {
            public.insert(*member, text(member)?);
        }
        let kid = text("kid").map(str::to_owned);
        Some(Self { kid, algorithm, kind, key, public: Value::Object(public) })
    }

    /// Reads the keys of a set that can be used; others are passed over.
    ///
    /// # Errors
    /// What is wrong with the set, for an operator.
    pub fn read_set(text: &[u8]) -> Result<Vec<Self>, String> {
        let set = parse(text, &LIMITS).map_err(|_| "it is no JSON that is let in".to_owned())?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("it has no `keys`")?;
        if keys.len() > KEYS {
            return Err(format!("it has more than {KEYS} keys"));
        }
        Ok(keys.iter().filter_map(Self::read).collect())
    }

    /// Its name, if it has one.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The members that make the key, as canonical JSON: what is kept of it.
    pub fn public(&self) -> &Value {
        &self.public
    }

    /// The SHA-256 of those (RFC 7638).
    pub fn thumbprint(&self) -> Digest {
        Digest::of(&self.public.to_bytes())
    }

    /// Whether a signature of that algorithm, and perhaps of that key's name, can be by it.
    fn fits(&self, algorithm: Algorithm, kid: Option<&str>) -> bool {
        let kind = match algorithm {
            Algorithm::ES256 => self.kind == Kind::P256,
            Algorithm::ES384 => self.kind == Kind::P384,
            Algorithm::EdDSA => self.kind == Kind::Ed25519,
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => self.kind == Kind::Rsa,
            _ => false,
        };
        let named = kid.is_none() || self.kid.as_deref() == kid;
        kind && named && self.algorithm.is_none_or(|own| own == algorithm)
    }
}
