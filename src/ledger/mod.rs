//! The ledger: what happened, and everything that is so because of it.
//!
//! An append-only sequence of canonical JSON entries under an RFC 6962 Merkle tree, written before the
//! act. [`Ledger`] is the door; one committer behind it groups appends into durable writes.

mod entry;
mod reply;
mod views;

pub use entry::{Entry, Event, Settlement};
pub use reply::{Body, Reply};
pub use views::Views;

use std::{path::Path, sync::Arc};

use crate::{
    call::{Caller, Fault, Refused},
    clock::Clock,
    contract::Inspected,
    grant::{Basis, Permitted},
};

/// A permitted call whose intent is durable. The only thing that can be forwarded; minted in this module only.
#[derive(Debug)]
pub struct Recorded {
    call: Permitted,
    seq: u64,
}

impl Recorded {
    /// The call and what permits it.
    pub fn call(&self) -> &Permitted {
        &self.call
    }

    /// The index of the intent in the ledger.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// How the ledger is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the log in its checkpoints (C2SP tlog-checkpoint, `origin`).
    pub origin: String,
    /// Calls of tools that only read may go ahead while their intent is being written.
    pub batched_reads: bool,
    /// Keep arguments and results beside the log.
    pub keep_payloads: bool,
}

/// What was found on opening.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Intents without an outcome, now settled as `unknown`: their entry indices.
    pub orphans: Vec<u64>,
    /// Entries in the ledger, after recovery.
    pub size: u64,
}

/// The ledger of one server.
#[derive(Clone, Debug)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {}

impl Ledger {
    /// Opens the ledger in `folder`, makes it where there is none, and settles every intent that a
    /// crash left without an outcome as `unknown`.
    ///
    /// # Errors
    /// [`Fault`] when the store is locked by another process, damaged, or of a newer format.
    pub fn open(_folder: &Path, _options: Options, _clock: Clock) -> Result<(Self, Recovery), Fault> {
        Err(Fault("not yet".to_owned()))
    }

    /// Writes the intent. When this returns it is durable, unless reads are batched and the tool only
    /// reads: then it is at most 50 ms behind.
    ///
    /// # Errors
    /// [`Refused::Unavailable`] when it cannot be written; nothing may be forwarded then.
    pub async fn intend(&self, call: Permitted) -> Result<Recorded, Box<(Refused, Caller, Basis)>> {
        let basis = call.basis().clone();
        Err(Box::new((Refused::Unavailable(Fault("not yet".to_owned())), call.call().caller(), basis)))
    }

    /// Writes the outcome and gives the reply. The reply to a tool with effects waits until the outcome
    /// is durable; the reply to one that only reads does not.
    pub async fn settle(&self, done: Inspected) -> Reply {
        let (forwarded, findings) = done.into_parts();
        let (recorded, outcome, _took) = forwarded.into_parts();
        Reply::settled(recorded, outcome, findings)
    }

    /// Records a refusal and gives the reply.
    pub async fn refuse(&self, refused: Refused, caller: Caller, _basis: Basis) -> Reply {
        Reply::refused(refused, caller)
    }

    /// Records something that is not a call; returns its index once it is durable.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be written; what it announces must not happen then.
    pub async fn note(&self, _event: Event) -> Result<u64, Fault> {
        Err(Fault("not yet".to_owned()))
    }

    /// What is so because of the entries so far.
    pub fn views(&self) -> Arc<Views> {
        Arc::default()
    }

    /// How many entries it has, durable ones.
    pub fn size(&self) -> u64 {
        0
    }

    /// Entries from `from` on, at most `most`, in order.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn entries(&self, _from: u64, _most: usize) -> Result<Vec<Entry>, Fault> {
        Ok(Vec::new())
    }

    /// Whether it can be written: false once any write has failed.
    pub fn healthy(&self) -> bool {
        true
    }

    /// A signed checkpoint (C2SP signed note) over everything durable now.
    ///
    /// # Errors
    /// [`Fault`] when the store failed.
    pub async fn checkpoint(&self) -> Result<String, Fault> {
        Err(Fault("not yet".to_owned()))
    }

    /// Writes out what waits, then stops the committer. Appends after this fail.
    pub async fn close(&self) {}
}
