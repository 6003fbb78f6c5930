//! An authenticator made of software, and the browser in front of it. It does what it is told: every wrong thing that a
//! real one never says can be said with it.

use std::sync::Arc;

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};

/// Somebody is there, and showed that it is them.
pub(crate) const VERIFIED: u8 = 0b101;
/// A passkey that was made follows.
pub(crate) const MADE: u8 = 0b100_0000;

/// The kinds of keys there are.
#[derive(Clone)]
pub(crate) enum Keys {
    Es256(Arc<EcdsaKeyPair>),
    Ed25519(Arc<Ed25519KeyPair>),
    Rs256(Arc<RsaKeyPair>),
}

/// One passkey, its authenticator, and the browser that asks.
#[derive(Clone)]
pub(crate) struct Authenticator {
    pub(crate) keys: Keys,
    pub(crate) id: Vec<u8>,
    /// The site that the authenticator is asked for.
    pub(crate) rp: String,
    /// The page that asks.
    pub(crate) origin: String,
    pub(crate) flags: u8,
    /// What stands behind the authenticator data.
    pub(crate) behind: Vec<u8>,
    /// Members that the browser adds.
    pub(crate) added: String,
    /// What the browser says it was asked, instead of what it was.
    pub(crate) kind: Option<&'static str>,
}

/// What making a passkey gives.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) client_data: Vec<u8>,
    pub(crate) attestation: Vec<u8>,
}

/// What signing gives.
#[derive(Clone)]
pub(crate) struct Signed {
    pub(crate) authenticator_data: Vec<u8>,
    pub(crate) client_data: Vec<u8>,
    pub(crate) signature: Vec<u8>,
}

impl Authenticator {
    /// One with an ES256 key, whose id tells it from others.
    pub(crate) fn new(number: u8, rp: &str, origin: &str) -> Self {
        Self::with(Keys::es256(), number, rp, origin)
    }

    pub(crate) fn with(keys: Keys, number: u8, rp: &str, origin: &str) -> Self {
        let (rp, origin) = (rp.to_owned(), origin.to_owned());
        let added = r#","crossOrigin":false"#.to_owned();
        Self { keys, id: vec![number; 32], rp, origin, flags: VERIFIED, behind: Vec::new(), added, kind: None }
    }

    /// Makes the passkey.
    pub(crate) fn make(&self, challenge: &[u8]) -> Made {
        let data = self.made();
        let attestation =
            [&[0xa3][..], &text("fmt"), &text("none"), &text("attStmt"), &[0xa0], &text("authData"), &bytes(&data)];
        Made { client_data: self.client_data("webauthn.create", challenge), attestation: attestation.concat() }
    }

    /// Makes the passkey and vouches for it with its own key.
    pub(crate) fn make_vouched(&self, challenge: &[u8]) -> Made {
        let (data, client_data) = (self.made(), self.client_data("webauthn.create", challenge));
        let signature = self.keys.sign(&[data.as_slice(), &hash(&client_data)].concat());
        let statement = [&[0xa2][..], &text("alg"), &self.keys.algorithm(), &text("sig"), &bytes(&signature)].concat();
        let attestation = [
            &[0xa3][..],
            &text("fmt"),
            &text("packed"),
            &text("attStmt"),
            &statement,
            &text("authData"),
            &bytes(&data),
        ];
        Made { client_data, attestation: attestation.concat() }
    }

    /// Signs with the passkey.
    pub(crate) fn sign(&self, challenge: &[u8]) -> Signed {
        let client_data = self.client_data("webauthn.get", challenge);
        let authenticator_data =
            [hash(self.rp.as_bytes()).as_slice(), &[self.flags], &[0, 0, 0, 9], &self.behind].concat();
        let signature = self.keys.sign(&[authenticator_data.as_slice(), &hash(&client_data)].concat());
        Signed { authenticator_data, client_data, signature }
    }

    /// Authenticator data with the passkey in it.
    pub(crate) fn made(&self) -> Vec<u8> {
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        let (rp, cose) = (hash(self.rp.as_bytes()), self.keys.cose());
        [rp.as_slice(), &[self.flags | MADE], &[0; 4], &[7; 16], &length, &self.id, &cose, &self.behind].concat()
    }

    fn client_data(&self, kind: &str, challenge: &[u8]) -> Vec<u8> {
        let (kind, challenge) = (self.kind.unwrap_or(kind), BASE64URL.encode(challenge));
        let (origin, added) = (&self.origin, &self.added);
        format!(r#"{{"type":"{kind}","challenge":"{challenge}","origin":"{origin}"{added}}}"#).into_bytes()
    }
}

impl Keys {
    pub(crate) fn es256() -> Self {
        Self::Es256(Arc::new(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()))
    }

    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Arc::new(Ed25519KeyPair::generate().unwrap()))
    }

    pub(crate) fn rs256() -> Self {
        Self::Rs256(Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    /// The public half, a COSE key.
    pub(crate) fn cose(&self) -> Vec<u8> {
        match self {
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (bytes(&point[1..33]), bytes(&point[33..]));
                [&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21], x.as_slice(), &[0x22], &y].concat()
            }
            Self::Ed25519(pair) => {
                [&[0xa4, 1, 1, 3, 0x27, 0x20, 6, 0x21], bytes(pair.public_key().as_ref()).as_slice()].concat()
            }
            Self::Rs256(pair) => {
                let key = pair.public_key();
                let modulus = bytes(key.modulus().big_endian_without_leading_zero());
                let exponent = bytes(key.exponent().big_endian_without_leading_zero());
                [&[0xa4, 1, 3, 3, 0x39, 1, 0, 0x20], modulus.as_slice(), &[0x21], &exponent].concat()
            }
        }
    }

    fn algorithm(&self) -> Vec<u8> {
        match self {
            Self::Es256(_) => vec![0x26],
            Self::Ed25519(_) => vec![0x27],
            Self::Rs256(_) => vec![0x39, 1, 0],
        }
    }
}

/// CBOR of a text.
pub(crate) fn text(text: &str) -> Vec<u8> {
    headed(0x60, text.as_bytes())
}

/// CBOR of bytes.
pub(crate) fn bytes(content: &[u8]) -> Vec<u8> {
    headed(0x40, content)
}

fn headed(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut out = match content.len() {
        short @ ..24 => vec![kind | u8::try_from(short).unwrap()],
        long @ ..256 => vec![kind | 24, u8::try_from(long).unwrap()],
        longer => [&[kind | 25][..], &u16::try_from(longer).unwrap().to_be_bytes()].concat(),
    };
    out.extend_from_slice(content);
    out
}

fn hash(content: &[u8]) -> Vec<u8> {
    digest(&SHA256, content).as_ref().to_vec()
}
