//! RFC 8785 canonical form, within I-JSON.

use bytes::Bytes;

use super::{Digest, Value};

/// A tree in canonical form and its bytes: what is validated, decided on, shown, hashed, recorded and sent.
#[derive(Clone, Debug)]
pub struct Canonical {
    tree: Value,
    bytes: Bytes,
    digest: Digest,
}

/// Why a tree has no canonical form: a number outside I-JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCanonical {
    /// JSON Pointer (RFC 6901) to the number.
    pub pointer: String,
    /// What is wrong with it, for the one who sent it.
    pub problem: &'static str,
}

impl Canonical {
    /// Brings a tree into canonical form: members sorted by UTF-16 code units, numbers as ECMAScript writes them.
    ///
    /// # Errors
    /// [`NotCanonical`] for an integer beyond ±(2^53−1), or a decimal that a double does not give back.
    pub fn of(tree: Value) -> Result<Self, NotCanonical> {
        let bytes = Bytes::from(tree.to_bytes());
        Ok(Self { digest: Digest::of(&bytes), tree, bytes })
    }

    /// The canonical tree: members sorted, number texts canonical.
    pub fn tree(&self) -> &Value {
        &self.tree
    }

    /// The canonical bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// SHA-256 of the bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}
