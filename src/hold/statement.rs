//! What an approver signs.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

use super::HoldId;
use crate::{
    clock::Timestamp,
    json::{Digest, Object, Value},
};

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

/// Whether `signature` is that of `key` (Ed25519, RFC 8032) under a statement.
pub fn is_signed(statement: &[u8], key: &[u8; 32], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(statement, signature).is_ok()
}
