//! What an approver signs, and whether they did: one judge for what is said now and for what a ledger says was said.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use super::{Approver, Evidence, HoldId, Means};
use crate::{
    clock::Timestamp,
    json::{Digest, Object, Value},
    passkey::Assertion,
};

/// What an approver may say.
#[derive(Clone, Copy, Debug)]
pub enum Statement<'a> {
    /// That a hold may be run.
    Approval {
        /// Names the log.
        origin: &'a str,
        /// Which hold.
        hold: &'a HoldId,
        /// That of its `call.held` entry.
        digest: &'a Digest,
        /// Who says so.
        approver: &'a str,
        /// When.
        at: Timestamp,
    },
    /// That they want to be known by something more.
    Enrolment {
        /// Who says so.
        approver: &'a str,
        /// What it is.
        means: &'a Means,
    },
}

impl Statement<'_> {
    /// The statement as it is signed with a key: canonical JSON (RFC 8785).
    pub fn text(&self) -> Vec<u8> {
        match self {
            Self::Approval { origin, hold, digest, approver, at } => approval(origin, hold, digest, approver, *at),
            Self::Enrolment { approver, means } => enrolment(approver, means),
        }
    }

    /// The statement as a passkey signs it: the challenge. For a countersignature it is the hold's digest itself.
    pub fn challenge(&self) -> [u8; 32] {
        match self {
            Self::Approval { digest, .. } => digest.0,
            Self::Enrolment { .. } => Digest::of(&self.text()).0,
        }
    }
}

/// What shows that it was the approver who said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A signature by the key that their passphrase unlocks.
    Signature {
        /// That key.
        key: [u8; 32],
        /// The signature (Ed25519, RFC 8032).
        signature: Vec<u8>,
    },
    /// What their passkey signed.
    Assertion {
        /// Its digest.
        passkey: Digest,
        /// What it signed.
        assertion: Assertion,
    },
    /// The word of the identity provider that let them in.
    Vouched {
        /// The issuer.
        issuer: String,
        /// Who they are for it.
        subject: String,
        /// SHA-256 of its token.
        token: Digest,
        /// SHA-256 of the key that the token is signed by (RFC 7638).
        key: Digest,
        /// The token and the key, where they are at hand.
        evidence: Option<Evidence>,
    },
}

impl Proof {
    /// What the approver showed it with.
    pub fn means(&self) -> Means {
        match self {
            Self::Signature { key, .. } => Means::Key(*key),
            Self::Assertion { passkey, .. } => Means::Passkey(*passkey),
            Self::Vouched { issuer, subject, .. } => Means::signed_in(issuer, subject),
        }
    }

    /// Tells this act of signing from every other; none for a key's signature, which names what it is by and about.
    pub fn mark(&self) -> Option<Digest> {
        match self {
            Self::Signature { .. } => None,
            Self::Assertion { assertion, .. } => Some(assertion.mark()),
            Self::Vouched { token, .. } => Some(*token),
        }
    }

    /// Whether it shows that `approver`, as the roster knows them, said this.
    pub fn shows(&self, said: &Statement<'_>, approver: &Approver) -> bool {
        if !approver.has(&self.means()) {
            return false;
        }
        match self {
            Self::Signature { key, signature } => is_signed(&said.text(), key, signature),
            Self::Assertion { passkey, assertion } => {
                let passkey = approver.passkey(passkey);
                passkey.is_some_and(|passkey| assertion.check(passkey, &said.challenge()).is_ok())
            }
            // without the token, as where only the log is, nothing contradicts it
            Self::Vouched { issuer, subject, token, key, evidence } => match said {
                Statement::Approval { digest, at, .. } => evidence.as_ref().is_none_or(|evidence| {
                    let same = evidence.digest() == *token && evidence.key.thumbprint() == *key;
                    same && evidence.vouches(issuer, subject, digest, *at)
                }),
                Statement::Enrolment { .. } => false,
            },
        }
    }
}

/// The statement that `approver` countersigned a hold: canonical JSON (RFC 8785).
///
/// `origin` names the log, `digest` is that of the hold's `call.held` entry.
pub fn approval(origin: &str, hold: &HoldId, digest: &Digest, approver: &str, at: Timestamp) -> Vec<u8> {
    // members in the order of RFC 8785; none of the texts has a form that canonical JSON would write otherwise
    let whole = Object::new()
        .with("approver", approver)
        .with("at", format!("{at:.6}"))
        .with("decision", "approve")
        .with("digest", digest.to_string())
        .with("hold", hold.as_str())
        .with("kind", "countersign.decision")
        .with("origin", origin)
        .with("v", 1);
    Value::Object(whole).to_bytes()
}

/// The statement that `approver` wants to be known by that too: canonical JSON (RFC 8785).
fn enrolment(approver: &str, means: &Means) -> Vec<u8> {
    let (kind, digest) = match means {
        Means::Key(key) => ("key", Digest::of(key)),
        Means::Passkey(digest) => ("passkey", *digest),
        Means::SignedIn(digest) => ("signed_in", *digest),
    };
    let whole = Object::new()
        .with("approver", approver)
        .with("credential", digest.to_string())
        .with("kind", "countersign.enrolment")
        .with("means", kind)
        .with("v", 1);
    Value::Object(whole).to_bytes()
}

/// Whether `signature` is that of `key` (Ed25519, RFC 8032) under a statement.
pub fn is_signed(statement: &[u8], key: &[u8; 32], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(statement, signature).is_ok()
}
