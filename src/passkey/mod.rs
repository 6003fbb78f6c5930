//! Passkeys (WebAuthn Level 3): what an authenticator and its browser say, read strictly and judged.
//!
//! [`Assertion::check`] is the one judge of an assertion, whether it was made this moment or stands in a ledger of long
//! ago: it needs the passkey and the challenge, and nothing of the ceremony that led to it. [`Passkey::made`] reads what a
//! new passkey is. Whether a challenge is one of ours, and still good, is for whoever gave it to say.
//!
//! What is asked for is attestation "none": who made an authenticator is not told, and nothing rests on it.

mod cbor;
mod client;
mod key;
mod said;
#[cfg(test)]
mod tests;

pub use client::ClientData;

/// An authenticator made of software, for tests.
#[cfg(test)]
#[path = "../../tests/it/authenticator.rs"]
pub(crate) mod authenticator;

use std::fmt;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64URL},
};

use crate::json::{Digest, Object, Value};
use cbor::Cbor;
use key::Key;
use said::Said;

/// Bytes of what an authenticator says when it makes a passkey.
const ATTESTATION: usize = 8 << 10;
/// Bytes of what it says when it signs.
const ASSERTION: usize = 1 << 10;
/// Bytes of a credential's id (WebAuthn, section 4).
const ID: std::ops::RangeInclusive<usize> = 16..=1_023;
/// Bytes of a passkey's label.
const LABEL: usize = 64;

/// What is wrong with what an authenticator or its browser said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not in the form that the standard gives it, or is longer than there is reason to be.
    Malformed,
    /// It is about something else: a signature was asked for and a new passkey came, or the other way round.
    Type,
    /// It answers another challenge.
    Challenge,
    /// A page of another site asked for it, or one inside another site's page.
    Origin,
    /// The authenticator was asked for another site.
    RelyingParty,
    /// Nobody was there, or who was there did not show that it is them.
    Verification,
    /// It is kept by a key algorithm that was not asked for.
    Algorithm,
    /// The key is not one.
    Key,
    /// The signature is not by the passkey.
    Signature,
    /// The label is empty, too long or has control characters.
    Label,
}

impl fmt::Display for Flaw {
    /// What is wrong and what to do, for a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "what the authenticator said cannot be read; try again, or with another one",
            Self::Type => "the authenticator did something else than it was asked to; try again",
            Self::Challenge => "the authenticator answered an older question; begin again",
            Self::Origin => "a page of another site asked the authenticator; open the console itself",
            Self::RelyingParty => "the passkey is for another site; use the one that was made here",
            Self::Verification => {
                "the authenticator did not make sure of who you are; use one with a PIN, a fingerprint or the like"
            }
            Self::Algorithm => "the authenticator has none of the kinds of keys ES256 and RS256; use another one",
            Self::Key => "the authenticator's key is not one; use another authenticator",
            Self::Signature => "the signature is not by this passkey; use the one that is enrolled",
            Self::Label => "a passkey's label is 1 to 64 bytes without control characters",
        })
    }
}

impl std::error::Error for Flaw {}

/// The public half of a passkey.
#[derive(Clone, PartialEq, Eq)]
pub struct Passkey {
    id: Vec<u8>,
    /// As the authenticator wrote it.
    cose: Vec<u8>,
    key: Key,
    rp: String,
    label: String,
    synced: bool,
    digest: Digest,
}

impl fmt::Debug for Passkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passkey").field("digest", &self.digest).field("rp", &self.rp).finish_non_exhaustive()
    }
}

impl Passkey {
    /// The passkey that an authenticator has made for the site `rp` in answer to `challenge`: its `clientDataJSON` and
    /// `attestationObject`.
    ///
    /// # Errors
    /// [`Flaw`]
    pub fn made(
        client_data: &[u8],
        attestation: &[u8],
        challenge: &[u8; 32],
        rp: &str,
        label: &str,
    ) -> Result<Self, Flaw> {
        ClientData::read(client_data)?.is_for("webauthn.create", challenge, rp)?;
        if attestation.len() > ATTESTATION {
            return Err(Flaw::Malformed);
        }
        let whole = Cbor::read_all(attestation)?;
        let members = whole.members().filter(|members| members.len() == 3).ok_or(Flaw::Malformed)?;
        let of = |name: &str| members.iter().find(|(known, _)| *known == Cbor::Text(name)).map(|(_, value)| value);
        let (Some(Cbor::Text(format)), Some(Cbor::Bytes(data)), Some(Cbor::Map(statement))) =
            (of("fmt"), of("authData"), of("attStmt"))
        else {
            return Err(Flaw::Malformed);
        };
        let said = Said::read(data)?;
        said.is_for(rp)?;
        let made = said.made.ok_or(Flaw::Malformed)?;
        if !ID.contains(&made.id.len()) {
            return Err(Flaw::Malformed);
        }
        let key = Key::read(&Cbor::read_all(made.cose)?)?;
        match (*format, statement.as_slice()) {
            ("none", []) => {}
            // an authenticator that vouches for itself: it says no more than that it has the key
            (
                "packed",
                [(Cbor::Text("alg"), Cbor::Integer(algorithm)), (Cbor::Text("sig"), Cbor::Bytes(signature))],
            ) => {
                if *algorithm != key.algorithm() || !key.has_signed(&signed(data, client_data), signature) {
                    return Err(Flaw::Signature);
                }
            }
            _ => return Err(Flaw::Malformed),
        }
        if label.trim().is_empty() || label.len() > LABEL || label.chars().any(char::is_control) {
            return Err(Flaw::Label);
        }
        let label = label.trim().to_owned();
        Ok(Self::of(made.id.to_vec(), made.cose.to_vec(), key, rp.to_owned(), label, said.synced))
    }

    fn of(id: Vec<u8>, cose: Vec<u8>, key: Key, rp: String, label: String, synced: bool) -> Self {
        let mut whole = Self { id, cose, key, rp, label, synced, digest: Digest([0; 32]) };
        whole.digest = Digest::of(&whole.entry().to_bytes());
        whole
    }

    /// The passkey that an entry of the ledger tells of.
    pub fn read(entry: &Value) -> Option<Self> {
        let text = |name: &str| entry.get(name).and_then(Value::as_str);
        let id = BASE64URL.decode(text("id")?).ok().filter(|id| ID.contains(&id.len()))?;
        let cose = BASE64.decode(text("key")?).ok().filter(|cose| cose.len() <= ATTESTATION)?;
        let key = Key::read(&Cbor::read_all(&cose).ok()?).ok()?;
        let (rp, label) = (text("rp").filter(|rp| is_rp(rp))?.to_owned(), text("label")?.to_owned());
        Some(Self::of(id, cose, key, rp, label, entry.get("synced").and_then(Value::as_bool)?))
    }

    /// What an entry of the ledger tells of it.
    pub fn entry(&self) -> Value {
        let whole = Object::new()
            .with("id", BASE64URL.encode(&self.id))
            .with("key", BASE64.encode(&self.cose))
            .with("label", self.label.as_str())
            .with("rp", self.rp.as_str())
            .with("synced", self.synced);
        Value::Object(whole)
    }

    /// Names it: SHA-256 of what its entry tells of it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The credential's id, which the authenticator gave it.
    pub fn id(&self) -> &[u8] {
        &self.id
    }

    /// That id as browsers write it.
    pub fn id_text(&self) -> String {
        BASE64URL.encode(&self.id)
    }

    /// The host name that it is for: the relying party's id.
    pub fn rp(&self) -> &str {
        &self.rp
    }

    /// What its person calls it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether it can be copied to other devices of the same person.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Whether it is the same key as that of another one, whatever it is called and however it is written.
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// The algorithms to ask for, by preference.
    pub fn algorithms() -> [i64; 2] {
        key::ALGORITHMS
    }
}

/// What an authenticator said and signed when it was asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Assertion {
    /// The `authenticatorData`.
    pub authenticator_data: Vec<u8>,
    /// The `clientDataJSON`.
    pub client_data: Vec<u8>,
    /// The signature over both.
    pub signature: Vec<u8>,
}

impl fmt::Debug for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Assertion(…)")
    }
}

impl Assertion {
    /// Whether the passkey has signed the challenge, on its own site, by a person who showed the authenticator that it is
    /// them (WebAuthn Level 3, section 7.2). Counters are not looked at: passkeys that are synced have none.
    ///
    /// # Errors
    /// [`Flaw`]
    pub fn check(&self, passkey: &Passkey, challenge: &[u8; 32]) -> Result<(), Flaw> {
        ClientData::read(&self.client_data)?.is_for("webauthn.get", challenge, &passkey.rp)?;
        if self.authenticator_data.len() > ASSERTION || self.signature.len() > ASSERTION {
            return Err(Flaw::Malformed);
        }
        let said = Said::read(&self.authenticator_data)?;
        said.is_for(&passkey.rp)?;
        if said.made.is_some() {
            return Err(Flaw::Malformed);
        }
        let signed = signed(&self.authenticator_data, &self.client_data);
        if passkey.key.has_signed(&signed, &self.signature) { Ok(()) } else { Err(Flaw::Signature) }
    }

    /// Tells one act of signing from another, however its signature is written. Whoever has an ECDSA signature `(r, s)` can
    /// write it as `(r, -s)`: the number that is new each time is `r`.
    pub fn mark(&self) -> Digest {
        Digest::of(nonce(&self.signature).unwrap_or(&self.signature))
    }

    /// The assertion that an entry of the ledger holds.
    pub fn read(entry: &Value) -> Option<Self> {
        let bytes = |name: &str| BASE64.decode(entry.get(name)?.as_str()?).ok();
        let (authenticator_data, client_data) = (bytes("authenticator_data")?, bytes("client_data")?);
        Some(Self { authenticator_data, client_data, signature: bytes("signature")? })
    }

    /// What an entry of the ledger holds of it.
    pub fn entry(&self) -> Value {
        let whole = Object::new()
            .with("authenticator_data", BASE64.encode(&self.authenticator_data))
            .with("client_data", BASE64.encode(&self.client_data))
            .with("signature", BASE64.encode(&self.signature));
        Value::Object(whole)
    }
}

/// The `r` of an ECDSA signature in DER: two integers, and nothing else.
fn nonce(signature: &[u8]) -> Option<&[u8]> {
    fn part(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
        let (&[found, length], rest) = bytes.split_first_chunk::<2>()?;
        (found == tag && length < 0x80).then(|| rest.split_at_checked(usize::from(length)))?
    }
    let (both, behind) = part(signature, 0x30)?;
    let (r, rest) = part(both, 2)?;
    let (_s, rest) = part(rest, 2)?;
    (behind.is_empty() && rest.is_empty()).then_some(r)
}

/// What an authenticator signs.
fn signed(authenticator_data: &[u8], client_data: &[u8]) -> Vec<u8> {
    [authenticator_data, &Digest::of(client_data).0].concat()
}

/// Whether passkeys can be for a host of that name: lower case, and no address.
pub fn is_rp(host: &str) -> bool {
    let label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(fits)
    };
    let named = host.rsplit('.').next().is_some_and(|last| last.bytes().any(|byte| byte.is_ascii_lowercase()));
    named && host.len() <= 253 && host.split('.').all(label)
}
