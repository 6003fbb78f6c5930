//! What the ledger asks of a disk.

use bytes::Bytes;

use super::tree::{Frontier, Hash};
use crate::{call::Fault, json::Digest};

/// Where entries are kept.
///
/// Each verb is one whole transition:
///
/// - `Ok` of [`append`](Store::append) and [`remember`](Store::remember) means that it survives power loss, all of it.
/// - An error means that nobody knows whether it was written: all of it is there after reopening, or nothing.
///   From then on every verb of this store fails; what is so is found out by opening it again.
/// - That somebody else appended is not an error but a value, [`Appended::Conflict`], and leaves the store as it was.
/// - What is read is what was written: hashes are checked, and a mismatch is an error.
pub(super) trait Store: Send + Sync + std::fmt::Debug {
    /// The state that the last [`append`](Store::append) left.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read.
    fn head(&self) -> Result<Head, Fault>;

    /// Adds entries, their payloads and the new head, and drops payloads that were redacted.
    ///
    /// # Errors
    /// [`Fault`] when it may not have been written.
    fn append(&self, group: &Group) -> Result<Appended, Fault>;

    /// Entries from `from` on, at most `most`, in order.
    ///
    /// # Errors
    /// [`Fault`] when they cannot be read or are not what was written.
    fn read(&self, from: u64, most: usize) -> Result<Vec<Stored>, Fault>;

    /// What is kept beside an entry, if anything is.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read.
    fn payload(&self, seq: u64) -> Result<Option<Kept>, Fault>;

    /// Keeps folded state in the place of what was kept before.
    ///
    /// # Errors
    /// [`Fault`] when it may not have been written.
    fn remember(&self, snapshot: &Snapshot) -> Result<(), Fault>;

    /// The folded state that was kept last, if any was.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read.
    fn snapshot(&self) -> Result<Option<Snapshot>, Fault>;
}

/// What has to be known to go on appending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The tree over all entries.
    pub frontier: Frontier,
    /// Intents without outcome, in order.
    pub open: Vec<u64>,
    /// The last checkpoint that was published before this head was written, a signed note; empty before the first.
    pub checkpoint: String,
}

/// Entries that are written together.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    /// The index of the first: the size of the log before.
    pub first: u64,
    /// Their texts and hashes, each at most [`LONGEST`] bytes.
    pub entries: Vec<Stored>,
    /// What is kept beside them, by index, in order.
    pub payloads: Vec<(u64, Kept)>,
    /// Indices whose payload is dropped.
    pub redacted: Vec<u64>,
    /// The state afterwards.
    pub head: Head,
}

/// The longest entry, bytes: larger values would leave the part of the embedded store that is synced, and
/// an entry bundle of C2SP tlog-tiles ends at 65,535.
pub(super) const LONGEST: usize = 60 << 10;

/// An entry as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    /// Its canonical JSON.
    pub text: Bytes,
    /// Its leaf hash.
    pub hash: Hash,
}

/// A payload with the salt of its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    /// The key of the HMAC that the entry holds.
    pub salt: [u8; 16],
    /// The payload, or where it is.
    pub content: Content,
}

/// Where a payload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// In the store.
    Here(Bytes),
    /// In a file of its own, by the salted digest.
    File(Digest),
}

/// How an append ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Appended {
    /// It is durable.
    Written,
    /// The log does not have the size that the group starts at: nothing was written.
    Conflict {
        /// The size it has.
        size: u64,
    },
}

/// State folded from the entries before `size`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// How many entries are in it.
    pub size: u64,
    /// The state, in the form of [`super::Views`].
    pub state: Bytes,
}
