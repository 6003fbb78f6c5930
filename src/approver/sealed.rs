//! An Ed25519 key at rest: its seed under AES-256-GCM, by a key that argon2id (RFC 9106) makes of the passphrase.

use std::fmt;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    signature::{Ed25519KeyPair, KeyPair},
};
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use zeroize::Zeroizing;

use super::Passphrase;
use crate::{
    call::Fault,
    clock,
    json::{self, Digest, Limits, Object, Value},
};

/// The format that is written; a newer one is left alone.
const VERSION: i64 = 1;

/// The one way passphrases are stretched.
const KDF: &str = "argon2id";

/// What is sealed, so that nothing sealed for another purpose opens.
const LABEL: &[u8] = b"countersign approver key v1\0";

/// Bytes of a seed, and of the tag behind it.
const SEED: usize = 32;
const TAG: usize = 16;
const SALT: usize = 16;

/// No sealed key's text is larger.
const LIMITS: Limits = Limits { bytes: 4 << 10, depth: 4, nodes: 64 };

/// What one guess costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory, KiB.
    pub memory: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes, worked one after the other.
    pub lanes: u32,
}

impl Cost {
    /// 64 MiB, three passes: the second choice of RFC 9106, section 4.
    pub const PRODUCTION: Self = Self { memory: 64 << 10, passes: 3, lanes: 1 };

    /// What a file may ask of us: beyond, it is damaged or hostile.
    const MOST: Self = Self { memory: 1 << 20, passes: 16, lanes: 4 };

    fn is_bearable(&self) -> bool {
        self.memory <= Self::MOST.memory && self.passes <= Self::MOST.passes && self.lanes <= Self::MOST.lanes
    }
}

/// A key as it lies on disk.
#[derive(Clone)]
pub(super) struct Sealed {
    /// Whose it is.
    pub(super) name: String,
    /// The public half.
    pub(super) key: [u8; 32],
    /// Hash of the one-time code that it was made with.
    pub(super) code: Digest,
    cost: Cost,
    salt: [u8; SALT],
    nonce: [u8; NONCE_LEN],
    sealed: [u8; SEED + TAG],
}

/// An approver's key, unlocked for one act.
pub struct Unlocked {
    name: String,
    pair: Ed25519KeyPair,
    key: [u8; 32],
}

impl fmt::Debug for Unlocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unlocked").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Unlocked {
    /// Whose key it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Ed25519 signature of the statement (RFC 8032).
    pub fn sign(&self, statement: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        for (place, byte) in signature.iter_mut().zip(self.pair.sign(statement).as_ref()) {
            *place = *byte;
        }
        signature
    }

    /// The public key that the signatures verify with.
    pub fn public_key(&self) -> [u8; 32] {
        self.key
    }
}

/// The same work as opening a sealed key, and nothing to show for it.
pub(super) fn in_vain(passphrase: &Passphrase, cost: Cost) -> Result<(), Fault> {
    stretch(passphrase.bytes().unwrap_or_default(), &[0; SALT], cost).map(drop)
}

/// Makes a key of its own for `name` and seals it.
pub(super) fn make(name: &str, passphrase: &Passphrase, code: Digest, cost: Cost) -> Result<Sealed, Fault> {
    let fault = |problem: &dyn fmt::Display| Fault(format!("the key of approver `{name}` cannot be made: {problem}"));
    let seed: Zeroizing<[u8; SEED]> = Zeroizing::new(clock::random().map_err(|problem| fault(&problem))?);
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|problem| fault(&problem))?;
    let mut key = [0; 32];
    key.copy_from_slice(pair.public_key().as_ref());
    let salt = clock::random().map_err(|problem| fault(&problem))?;
    let nonce: [u8; NONCE_LEN] = clock::random().map_err(|problem| fault(&problem))?;
    let bytes = passphrase.bytes().ok_or_else(|| fault(&"the passphrase is too long"))?;
    let cipher = cipher(bytes, &salt, cost)?;
    let mut sealed = [0; SEED + TAG];
    let (inner, tag) = sealed.split_at_mut(SEED);
    inner.copy_from_slice(seed.as_slice());
    let made = cipher
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), bound(name, &key), inner)
        .map_err(|problem| fault(&problem))?;
    tag.copy_from_slice(made.as_ref());
    Ok(Sealed { name: name.to_owned(), key, code, cost, salt, nonce, sealed })
}

/// What a seal is bound to: the name and the public key. A name has no NUL.
fn bound(name: &str, key: &[u8; 32]) -> Aad<Vec<u8>> {
    Aad::from([LABEL, name.as_bytes(), b"\0", key].concat())
}

fn cipher(passphrase: &[u8], salt: &[u8; SALT], cost: Cost) -> Result<LessSafeKey, Fault> {
    let stretched = stretch(passphrase, salt, cost)?;
    let key = UnboundKey::new(&AES_256_GCM, stretched.as_slice());
    key.map(LessSafeKey::new).map_err(|_| Fault("the cipher does not take its key".to_owned()))
}

fn stretch(passphrase: &[u8], salt: &[u8; SALT], cost: Cost) -> Result<Zeroizing<[u8; 32]>, Fault> {
    let fault = |problem: argon2::Error| Fault(format!("the passphrase cannot be stretched: {problem}"));
    let params = Params::new(cost.memory, cost.passes, cost.lanes, Some(32)).map_err(fault)?;
    let mut memory = Zeroizing::new(vec![Block::new(); params.block_count()]);
    let mut stretched = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, stretched.as_mut_slice(), memory.as_mut_slice())
        .map_err(fault)?;
    Ok(stretched)
}

impl Sealed {
    /// Opens it; `None` when the passphrase is another.
    pub(super) fn open(&self, passphrase: &Passphrase) -> Result<Option<Unlocked>, Fault> {
        let Some(bytes) = passphrase.bytes() else {
            in_vain(passphrase, self.cost)?;
            return Ok(None);
        };
        let cipher = cipher(bytes, &self.salt, self.cost)?;
        let mut sealed = Zeroizing::new(self.sealed);
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let Ok(seed) = cipher.open_in_place(nonce, bound(&self.name, &self.key), sealed.as_mut_slice()) else {
            return Ok(None);
        };
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, &self.key)
            .map_err(|_| Fault(format!("the sealed key of approver `{}` is not the one it is for", self.name)))?;
        Ok(Some(Unlocked { name: self.name.clone(), pair, key: self.key }))
    }

    /// The text of its file.
    pub(super) fn text(&self) -> Vec<u8> {
        let kdf = Object::new()
            .with("name", KDF)
            .with("memory_kib", i64::from(self.cost.memory))
            .with("passes", i64::from(self.cost.passes))
            .with("lanes", i64::from(self.cost.lanes))
            .with("salt", BASE64.encode(self.salt));
        let all = Object::new()
            .with("v", VERSION)
            .with("name", self.name.as_str())
            .with("key", BASE64.encode(self.key))
            .with("code", self.code.to_string())
            .with("kdf", Value::Object(kdf))
            .with("nonce", BASE64.encode(self.nonce))
            .with("sealed", BASE64.encode(self.sealed));
        let mut text = Value::Object(all).to_bytes();
        text.push(b'\n');
        text
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(text: &[u8]) -> Result<Self, &'static str> {
        const DAMAGED: &str = "it is damaged";
        let document = json::parse(text, &LIMITS).map_err(|_| DAMAGED)?;
        match document.get("v").and_then(Value::as_number).and_then(json::Number::as_i64) {
            Some(VERSION) => {}
            Some(_) => return Err("it is of another version of countersign"),
            None => return Err(DAMAGED),
        }
        let kdf = document.get("kdf").ok_or(DAMAGED)?;
        if kdf.get("name").and_then(Value::as_str) != Some(KDF) {
            return Err("it is of another version of countersign");
        }
        let number = |name: &str| {
            let number = kdf.get(name).and_then(Value::as_number).and_then(json::Number::as_i64);
            number.and_then(|number| u32::try_from(number).ok()).ok_or(DAMAGED)
        };
        let cost = Cost { memory: number("memory_kib")?, passes: number("passes")?, lanes: number("lanes")? };
        if !cost.is_bearable() {
            return Err("stretching its passphrase would cost more than is ever asked for");
        }
        Ok(Self {
            name: document.get("name").and_then(Value::as_str).ok_or(DAMAGED)?.to_owned(),
            key: bytes(&document, "key").ok_or(DAMAGED)?,
            code: document.get("code").and_then(Value::as_str).and_then(|text| text.parse().ok()).ok_or(DAMAGED)?,
            cost,
            salt: bytes(kdf, "salt").ok_or(DAMAGED)?,
            nonce: bytes(&document, "nonce").ok_or(DAMAGED)?,
            sealed: bytes(&document, "sealed").ok_or(DAMAGED)?,
        })
    }
}

/// The member of that name, if it is base64 of exactly so many bytes.
fn bytes<const N: usize>(object: &Value, name: &str) -> Option<[u8; N]> {
    BASE64.decode(object.get(name)?.as_str()?).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    const CHEAP: Cost = Cost { memory: 8, passes: 1, lanes: 1 };

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned())
    }

    fn sealed() -> Sealed {
        make("ann", &passphrase("correct horse battery"), Digest::of(b"code"), CHEAP).unwrap()
    }

    #[test]
    fn a_key_opens_with_its_passphrase_and_signs() {
        let sealed = sealed();
        let again = Sealed::read(&sealed.text()).unwrap();
        let unlocked = again.open(&passphrase("correct horse battery")).unwrap().unwrap();
        assert_eq!((unlocked.name(), unlocked.public_key()), ("ann", sealed.key));
        let signature = unlocked.sign(b"statement");
        UnparsedPublicKey::new(&ED25519, &sealed.key).verify(b"statement", &signature).unwrap();
        assert!(UnparsedPublicKey::new(&ED25519, &sealed.key).verify(b"statemenu", &signature).is_err());
        for wrong in ["", "correct horse batterz", "correct horse battery ", &"x".repeat(2_000)] {
            assert!(again.open(&passphrase(wrong)).unwrap().is_none(), "{wrong}");
        }
        assert_eq!(format!("{unlocked:?}"), r#"Unlocked { name: "ann", .. }"#);
    }

    #[test]
    fn a_key_sealed_at_the_production_cost_opens() {
        let made = make("ann", &passphrase("correct horse battery"), Digest::of(b"code"), Cost::PRODUCTION).unwrap();
        assert!(made.open(&passphrase("correct horse battery")).unwrap().is_some());
        assert!(String::from_utf8(made.text()).unwrap().contains(r#""memory_kib":65536,"passes":3,"lanes":1"#));
    }

    #[test]
    fn passphrases_are_stretched_by_argon2id_as_others_do_it() {
        // argon2-cffi 25: hash_secret_raw(b"correct horse battery", b"0123456789abcdef", 3, 64, 1, 32, Type.ID)
        let stretched =
            stretch(b"correct horse battery", b"0123456789abcdef", Cost { memory: 64, passes: 3, lanes: 1 });
        let hex: String = stretched.unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "d954dcab5dd0ac649ec8e75007e75bc0a4dfcfe20819f55f9be92935d53ba4bf");
    }

    #[test]
    fn a_changed_file_opens_nothing() {
        let sealed = sealed();
        let text = sealed.text();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.clone();
                changed[at] ^= 1 << bit;
                let Ok(read) = Sealed::read(&changed) else { continue };
                // a hostile cost is refused before it is paid; one that is merely high is not this test's business
                if read.cost != CHEAP {
                    continue;
                }
                if let Ok(Some(unlocked)) = read.open(&passphrase("correct horse battery")) {
                    assert_eq!(unlocked.public_key(), sealed.key, "byte {at}, bit {bit}");
                    assert_eq!(unlocked.name(), "ann", "byte {at}, bit {bit}");
                }
            }
        }
        for end in 0..text.len() - 1 {
            assert!(Sealed::read(&text[..end]).is_err(), "cut at {end}");
        }
        let of_another = Sealed { name: "bob".to_owned(), ..sealed.clone() };
        assert!(of_another.open(&passphrase("correct horse battery")).unwrap().is_none());
        let other_key = Sealed { key: [7; 32], ..sealed };
        assert!(other_key.open(&passphrase("correct horse battery")).unwrap().is_none());
    }

    #[test]
    fn a_file_that_asks_too_much_or_is_newer_is_refused() {
        let text = String::from_utf8(sealed().text()).unwrap();
        for (from, to, says) in [
            (r#""v":1"#, r#""v":2"#, "another version"),
            ("argon2id", "scrypt", "another version"),
            (r#""memory_kib":8"#, r#""memory_kib":4194304"#, "would cost more"),
            (r#""passes":1"#, r#""passes":1000000"#, "would cost more"),
            (r#""lanes":1"#, r#""lanes":5"#, "would cost more"),
            (r#""lanes":1"#, r#""lanes":-1"#, "damaged"),
            (r#""v":1"#, r#""v":1,"v":1"#, "damaged"),
        ] {
            let changed = text.replace(from, to);
            assert_ne!(changed, text, "{from}");
            let Err(why) = Sealed::read(changed.as_bytes()) else { panic!("{to} was read") };
            assert!(why.contains(says), "{to}: {why}");
        }
    }
}
