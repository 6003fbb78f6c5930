//! Public keys of passkeys: COSE keys (RFC 9052, RFC 9053, RFC 8230) of the two kinds that every authenticator has one of.
//!
//! EdDSA is not among them: what checks Ed25519 signatures takes keys of small order, under which anybody can sign
//! anything, and 32 bytes that are no key at all. No authenticator needs it.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};

use super::{Flaw, cbor::Cbor};

/// COSE algorithms, in the order that they are asked for.
pub(super) const ALGORITHMS: [i64; 2] = [ES256, RS256];
const ES256: i64 = -7;
const RS256: i64 = -257;

/// The one public exponent.
const EXPONENT: [u8; 3] = [1, 0, 1];

/// A key that signatures are checked with.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// ECDSA with P-256 and SHA-256: the uncompressed point.
    Es256([u8; 65]),
    /// RSASSA-PKCS1-v1_5 with SHA-256: the modulus.
    Rs256(Vec<u8>),
}

impl Key {
    /// The key that a COSE map says: exactly the members that such a key has.
    pub(super) fn read(cose: &Cbor<'_>) -> Result<Self, Flaw> {
        let members = cose.members().ok_or(Flaw::Key)?;
        let of = |name: i64| {
            let found = members.iter().find(|(known, _)| *known == Cbor::Integer(name));
            found.map(|(_, value)| value)
        };
        let number = |name: i64| match of(name) {
            Some(Cbor::Integer(number)) => Some(*number),
            _ => None,
        };
        let bytes = |name: i64| match of(name) {
            Some(Cbor::Bytes(bytes)) => Ok(*bytes),
            _ => Err(Flaw::Key),
        };
        // 1 is the type, 3 the algorithm, -1 the curve; what else there is, is the type's own
        match (number(1), number(3), number(-1), members.len()) {
            (Some(2), Some(ES256), Some(1), 5) => {
                let (x, y) = (bytes(-2)?, bytes(-3)?);
                let mut point = [4; 65];
                if x.len() != 32 || y.len() != 32 {
                    return Err(Flaw::Key);
                }
                point.iter_mut().skip(1).zip(x.iter().chain(y)).for_each(|(to, from)| *to = *from);
                // a point beside the curve is no key
                ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).map_err(|_| Flaw::Key)?;
                Ok(Self::Es256(point))
            }
            (Some(3), Some(RS256), None, 4) => {
                let (modulus, exponent) = (bytes(-1)?, bytes(-2)?);
                let fits = (256..=512).contains(&modulus.len())
                    && modulus.first().is_some_and(|first| *first >= 0x80)
                    && modulus.last().is_some_and(|last| last % 2 == 1);
                if fits && exponent == EXPONENT { Ok(Self::Rs256(modulus.to_vec())) } else { Err(Flaw::Key) }
            }
            (_, Some(ES256 | RS256), ..) => Err(Flaw::Key),
            _ => Err(Flaw::Algorithm),
        }
    }

    /// The COSE algorithm.
    pub(super) fn algorithm(&self) -> i64 {
        match self {
            Self::Es256(_) => ES256,
            Self::Rs256(_) => RS256,
        }
    }

    /// Whether `signature` is this key's under `message`.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Es256(point) => ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
                .is_ok_and(|key| key.verify_sig(message, signature).is_ok()),
            Self::Rs256(modulus) => {
                let key = RsaPublicKeyComponents { n: modulus.as_slice(), e: EXPONENT.as_slice() };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
        }
    }
}
