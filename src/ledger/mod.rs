//! The ledger: what happened, and everything that is so because of it.
//!
//! An append-only sequence of canonical JSON entries under an RFC 6962 Merkle tree, written before the
//! act. [`Ledger`] is the door; one committer behind it groups appends into durable writes.
//!
//! On disk, below the folder: `store/` the entries (files of them, sled, the journal before both), `payloads/` long payloads,
//! `tlog/` the published log (C2SP tlog-tiles), `ledger.key` the key that signs checkpoints, `ledger.pub` the one that
//! verifies them, `ledger.lock` held by the process that has it open.

mod callers;
mod committer;
mod entry;
mod holds;
mod journal;
#[cfg(test)]
mod memory;
pub mod note;
mod payloads;
pub mod rebuild;
mod reply;
mod search;
mod segments;
mod sled_store;
mod store;
mod summary;
#[cfg(test)]
mod tests;
mod tiles;
pub mod tree;
pub mod verify;
mod views;

pub use callers::{Callers, Calling};
pub use entry::{Entry, Event, Settlement, Traded};
pub use holds::{HoldChange, Met, NotChanged, Parked};
pub use reply::{Body, Reply};
pub use search::Filter;
pub use summary::{Counts, HOURS, Hour, Summary};
pub use views::{Rejection, Token, Views};

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;

use crate::{
    call::{Caller, Fault, Refused},
    clock::{Clock, random},
    contract::Inspected,
    grant::{Basis, Permitted},
    hold::Spend,
    json::Value,
    upstream::Outcome,
};
use committer::{Committer, Effect, Item, Spending};
use entry::{Commitment, Ending};
use journal::Journaled;
use note::{Checkpoint, Signer};
use sled_store::LONGEST_HERE;
use store::{Content, Kept, Store};
use tiles::{Publisher, Tiles};
use tree::Subtrees as _;

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
struct Inner {
    // in the order in which they end: the committer and the publisher before the lock is let go
    committer: Committer,
    publisher: Publisher,
    store: Arc<dyn Store>,
    signer: Arc<Signer>,
    options: Options,
    clock: Clock,
    folder: PathBuf,
    /// Whether the last payload that needs a file of its own got one.
    payload_files: AtomicBool,
    /// What happened of late, as of the last look.
    summary: Mutex<Summary>,
    _lock: Option<fs::File>,
}

/// A payload, and the salt under which its entry commits to it: the entry's `digest` is
/// `HMAC-SHA-256(salt, bytes)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// The key of the HMAC.
    pub salt: [u8; 16],
    /// The canonical arguments, or the result as it was told to the agent.
    pub bytes: Bytes,
}

/// Why a ledger cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// Another process has the ledger in this folder; it may be a server, or a command that ends soon.
    InUse(PathBuf),
    /// It is damaged, of a newer format, or the machine said no.
    Fault(Fault),
}

impl fmt::Display for NotOpened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(folder) => write!(f, "the ledger in `{}` is in use by another process", folder.display()),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for NotOpened {}

impl From<Fault> for NotOpened {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Ledger {
    /// Opens the ledger in `folder`, makes it where there is none, and settles every intent that a
    /// crash left without an outcome as `unknown`.
    ///
    /// # Errors
    /// [`NotOpened`] when another process has the store, or it is damaged or of a newer format.
    pub fn open(folder: &Path, options: Options, clock: Clock) -> Result<(Self, Recovery), NotOpened> {
        let failed = |error: std::io::Error| Fault(format!("`{}` cannot be opened: {error}", folder.display()));
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = lock(folder)?;
        let store = Arc::new(Journaled::open(&folder.join("store"))?);
        Ok(Self::start(folder, store, Some(lock), options, clock)?)
    }

    fn start(
        folder: &Path,
        store: Arc<dyn Store>,
        lock: Option<fs::File>,
        options: Options,
        clock: Clock,
    ) -> Result<(Self, Recovery), Fault> {
        let signer = Arc::new(Signer::open(folder, &options.origin)?);
        let (committer, orphans) = Committer::start(Arc::clone(&store), &folder.join("payloads"), clock.clone())?;
        let shared = Arc::clone(&committer.shared);
        let publisher = Publisher::start(folder.join("tlog"), Arc::clone(&store), shared, Arc::clone(&signer))?;
        let size = committer.shared.durable();
        let folder = folder.to_owned();
        let payload_files = AtomicBool::new(true);
        let summary = Mutex::default();
        let inner =
            Inner { committer, publisher, store, signer, options, clock, folder, payload_files, summary, _lock: lock };
        Ok((Self { inner: Arc::new(inner) }, Recovery { orphans, size }))
    }

    /// Writes the intent. When this returns it is durable, unless reads are batched and the tool only
    /// reads: then it is at most 50 ms behind.
    ///
    /// # Errors
    /// [`Refused::Unavailable`] when it cannot be written; nothing may be forwarded then.
    pub async fn intend(&self, call: Permitted) -> Result<Recorded, Box<(Refused, Caller, Basis)>> {
        match self.write_intent(&call).await {
            Ok(seq) => Ok(Recorded { call, seq }),
            Err(NotChanged::Rejected(rejected)) => {
                let refused = Refused::HoldLost(rejected.code());
                Err(Box::new((refused, call.call().caller(), call.basis().clone())))
            }
            Err(NotChanged::Fault(fault)) => {
                tracing::error!(call = %call.call().id(), %fault, "an intent cannot be written");
                Err(Box::new((Refused::Unavailable(fault), call.call().caller(), call.basis().clone())))
            }
        }
    }

    async fn write_intent(&self, call: &Permitted) -> Result<u64, NotChanged> {
        let inner = &self.inner;
        let (arguments, kept) = self.keep(call.call().arguments().bytes()).await?;
        let at = inner.clock.now();
        let text = entry::intended(at, call, &arguments)?;
        let mut item = Item::new(text, Effect::Opens);
        item.kept = kept?;
        // a countersigned call is recorded as it spends its hold, or not at all
        if let Some(hold) = call.countersigned() {
            let (text, change) = holds::spending(hold, call.call().id().as_str(), at)?;
            let grants = call.basis().set.ok_or_else(|| Fault("a call permitted without grants".to_owned()))?;
            let (binding, contract) = (holds::binding_of(call.call()), call.call().tool().digest);
            let spend = Spend { hold: hold.clone(), binding, contract, grants };
            item.spends = Some(Box::new(Spending { text, change, spend, at }));
            let file = item.file();
            let written = inner.committer.change(item).await;
            if let Err(NotChanged::Rejected(_)) = written {
                self.drop_file(file);
            }
            return written;
        }
        if inner.options.batched_reads && call.call().tool().only_reads() {
            Ok(inner.committer.write_behind(item).await?)
        } else {
            Ok(inner.committer.write(item).await?)
        }
    }

    /// Commits to a payload, and keeps it where payloads are kept: the commitment stands also when that failed.
    async fn keep(&self, payload: &Bytes) -> Result<(Commitment, Result<Option<Kept>, Fault>), Fault> {
        if !self.inner.options.keep_payloads {
            let salt: [u8; 16] = random().map_err(|error| Fault(error.to_string()))?;
            return Ok((Commitment::of(&salt, payload), Ok(None)));
        }
        let (commitment, kept) = self.keep_or_say(payload).await?;
        Ok((commitment, kept.map(Some)))
    }

    /// As [`Ledger::keep`], whatever the configuration says of payloads.
    async fn keep_always(&self, payload: &Bytes) -> Result<(Commitment, Kept), Fault> {
        let (commitment, kept) = self.keep_or_say(payload).await?;
        Ok((commitment, kept?))
    }

    async fn keep_or_say(&self, payload: &Bytes) -> Result<(Commitment, Result<Kept, Fault>), Fault> {
        let salt: [u8; 16] = random().map_err(|error| Fault(error.to_string()))?;
        let commitment = Commitment::of(&salt, payload);
        if payload.len() <= LONGEST_HERE {
            return Ok((commitment, Ok(Kept { salt, content: Content::Here(payload.clone()) })));
        }
        let (folder, name, payload) = (self.inner.folder.join("payloads"), commitment.name(), payload.clone());
        let written = tokio::task::spawn_blocking(move || payloads::keep(&folder, &name, &payload)).await;
        let written = written.unwrap_or_else(|_| Err(Fault("writing a payload was cut short".to_owned())));
        self.inner.payload_files.store(written.is_ok(), Ordering::Release);
        Ok((commitment, written.map(|()| Kept { salt, content: Content::File(name) })))
    }

    /// Removes a payload that no entry names.
    fn drop_file(&self, name: Option<crate::json::Digest>) {
        let removed = name.map_or(Ok(()), |name| payloads::remove(&self.inner.folder.join("payloads"), &name));
        if let Err(fault) = removed {
            tracing::warn!(%fault, "a payload that belongs to nothing stays behind");
        }
    }

    /// Writes the outcome and gives the reply. The reply to a tool with effects waits until the outcome
    /// is durable; the reply to one that only reads does not. An outcome that cannot be written is answered
    /// as unknown, since that is what the ledger will say of it.
    pub async fn settle(&self, done: Inspected) -> Reply {
        let (forwarded, findings) = done.into_parts();
        let (recorded, outcome, took, lease) = forwarded.into_parts();
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min(1 << 53);
        match self.write_ending(&recorded, &outcome, took_us, &findings, lease.as_deref()).await {
            Ok(()) => Reply::settled(recorded, outcome, findings),
            Err(fault) => {
                tracing::error!(call = %recorded.call().call().id(), %fault, "an outcome cannot be written");
                Reply::settled(recorded, Outcome::Unknown { why: "ledger", detail: fault.to_string() }, findings)
            }
        }
    }

    #[cfg(test)]
    async fn write_outcome(
        &self,
        recorded: &Recorded,
        outcome: &Outcome,
        took_us: u64,
        findings: &[String],
    ) -> Result<(), Fault> {
        self.write_ending(recorded, outcome, took_us, findings, None).await
    }

    async fn write_ending(
        &self,
        recorded: &Recorded,
        outcome: &Outcome,
        took_us: u64,
        findings: &[String],
        lease: Option<&str>,
    ) -> Result<(), Fault> {
        let call = recorded.call().call();
        let failed = |tree: &Value| tree.get("isError").and_then(Value::as_bool) == Some(true);
        let (settlement, why, result) = match outcome {
            Outcome::Result { tree, text } if failed(tree) => (Settlement::ToolError, None, Some(text)),
            Outcome::Result { text, .. } => (Settlement::Ok, None, Some(text)),
            Outcome::Error { text, .. } => (Settlement::UpstreamError, None, Some(text)),
            Outcome::NotSent { .. } | Outcome::NoCredential { .. } => {
                (Settlement::UpstreamError, Some("not_sent"), None)
            }
            Outcome::Unknown { why, .. } => (Settlement::Unknown, Some(*why), None),
        };
        let (result, kept) = match result {
            Some(text) => {
                // the result of a hold is kept for whoever retries the call
                let (result, kept) = match recorded.call().countersigned() {
                    Some(_) => {
                        let (result, kept) = self.keep_or_say(text).await?;
                        (result, kept.map(Some))
                    }
                    None => self.keep(text).await?,
                };
                // what is known of the outcome is written all the same, as if its payload had been redacted since
                let kept = kept.unwrap_or_else(|fault| {
                    tracing::error!(call = %call.id(), %fault, "the result of a call cannot be kept");
                    None
                });
                (Some(result), kept)
            }
            None => (None, None),
        };
        let ending = Ending {
            intent: recorded.seq(),
            call: call.id().as_str(),
            settlement,
            why,
            result: result.as_ref(),
            took_us: Some(took_us),
            findings,
            lease,
            reason: match outcome {
                Outcome::NoCredential { refused, .. } => Some(refused.code()),
                _ => None,
            },
        };
        let text = entry::settled(self.inner.clock.now(), &ending)?;
        let mut item = Item::new(text, Effect::Settles(recorded.seq()));
        item.kept = kept;
        if call.tool().only_reads() && recorded.call().countersigned().is_none() {
            self.inner.committer.enqueue(item).await?;
        } else {
            self.inner.committer.write(item).await?;
        }
        Ok(())
    }

    /// Records a refusal and gives the reply. A refusal that cannot be recorded is a refusal all the same.
    pub async fn refuse(&self, refused: Refused, caller: Caller, basis: Basis) -> Reply {
        let text = entry::refused(self.inner.clock.now(), &refused, &caller, &basis);
        let written = match text {
            Ok(text) => self.inner.committer.write(Item::new(text, Effect::None)).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = written {
            tracing::error!(call = %caller.id, %fault, "a refusal cannot be written");
        }
        Reply::refused(refused, caller)
    }

    /// Records something that is not a call; returns its index once it is durable.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be written; what it announces must not happen then.
    pub async fn note(&self, event: Event) -> Result<u64, Fault> {
        let text = entry::event(self.inner.clock.now(), &event)?;
        let effect = if Views::concerns(&text) { Effect::Folds } else { Effect::None };
        self.inner.committer.write(Item::new(text, effect)).await
    }

    /// What is so because of the entries so far.
    pub fn views(&self) -> Arc<Views> {
        self.inner.committer.shared.views()
    }

    /// How many entries it has, durable ones.
    pub fn size(&self) -> u64 {
        self.inner.committer.shared.durable()
    }

    /// Entries from `from` on, at most `most`, in order.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn entries(&self, from: u64, most: usize) -> Result<Vec<Entry>, Fault> {
        let left = usize::try_from(self.size().saturating_sub(from)).unwrap_or(usize::MAX);
        let stored = self.inner.store.read(from, most.min(left))?;
        Ok((from..).zip(stored).map(|(seq, stored)| Entry { seq, text: stored.text }).collect())
    }

    /// What is kept beside an entry: the arguments of an intent, the result of an outcome. `None` when
    /// nothing was kept, or it was redacted.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read.
    pub fn payload(&self, seq: u64) -> Result<Option<Payload>, Fault> {
        let Some(Kept { salt, content }) = self.inner.store.payload(seq)? else { return Ok(None) };
        let bytes = match content {
            Content::Here(bytes) => Some(bytes),
            Content::File(name) => payloads::read(&self.inner.folder.join("payloads"), &name)?,
        };
        Ok(bytes.map(|bytes| Payload { salt, bytes }))
    }

    /// Removes what is kept beside an entry, its salt too, and records that: `payload.redacted`. The log
    /// verifies as before. Returns the index of the record, or `None` when there was nothing to remove.
    /// The bytes are written over with zeros before this returns.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be written.
    pub async fn redact(&self, seq: u64) -> Result<Option<u64>, Fault> {
        let Some(kept) = self.inner.store.payload(seq)? else { return Ok(None) };
        let text = entry::redacted(self.inner.clock.now(), seq)?;
        // first, since what is recorded as redacted is not asked for again: when this is cut short, it can be
        if let Content::File(name) = kept.content {
            payloads::remove(&self.inner.folder.join("payloads"), &name)?;
        }
        let at = self.inner.committer.write(Item::new(text, Effect::Redacts(seq))).await?;
        Ok(Some(at))
    }

    /// Whether everything works: see [`Ledger::troubles`].
    pub fn healthy(&self) -> bool {
        self.troubles().is_empty()
    }

    /// Whether entries can be written: once that failed, none is until the ledger is opened again.
    pub fn writable(&self) -> bool {
        self.inner.committer.shared.healthy()
    }

    /// What does not work, by short stable codes. `ledger_unwritable`: a write has failed, and every call is refused
    /// until the server is started again. `ledger_unpublished`: the published log stays behind; it is tried again.
    /// `payloads_unwritable`: the last payload too long for the store could not be kept, for as long as none can.
    pub fn troubles(&self) -> Vec<&'static str> {
        let inner = &self.inner;
        let known = [
            (inner.committer.shared.healthy(), "ledger_unwritable"),
            (inner.publisher.healthy(), "ledger_unpublished"),
            (inner.payload_files.load(Ordering::Acquire), "payloads_unwritable"),
        ];
        known.into_iter().filter(|(fine, _)| !fine).map(|(_, code)| code).collect()
    }

    /// A signed checkpoint (C2SP signed note) over everything durable now.
    ///
    /// # Errors
    /// [`Fault`] when the store failed, or the log cannot be published.
    pub async fn checkpoint(&self) -> Result<String, Fault> {
        if !self.inner.committer.shared.healthy() {
            return Err(Fault("the ledger cannot be written: nothing is signed".to_owned()));
        }
        // published first, since whoever gets a checkpoint may ask for the tiles of its size
        let checkpoint = self.inner.publisher.publish().await?;
        Ok(self.inner.signer.sign(&checkpoint.text()))
    }

    /// The verifier key of the checkpoints (C2SP signed-note, `vkey`).
    pub fn verifier_key(&self) -> String {
        self.inner.signer.key().to_string()
    }

    /// Where the log is published: the folder that is served as `/tlog/`.
    pub fn published(&self) -> PathBuf {
        self.inner.folder.join("tlog")
    }

    /// A receipt for one entry (C2SP tlog-proof): verifies with the verifier key and nothing else.
    ///
    /// # Errors
    /// [`Fault`] when there is no such entry, or it cannot be read.
    pub async fn prove(&self, seq: u64) -> Result<String, Fault> {
        let inner = Arc::clone(&self.inner);
        let entry = inner.store.read(seq, 1)?.pop().filter(|_| seq < self.size());
        let entry = entry.ok_or_else(|| Fault(format!("there is no entry {seq}")))?;
        // an entry that was published needs nothing new
        let known = tiles::published(&self.published(), self.inner.signer.key())?;
        let checkpoint = match known.filter(|checkpoint| seq < checkpoint.size) {
            Some(checkpoint) => checkpoint,
            None => inner.publisher.publish().await?,
        };
        let proof = tokio::task::spawn_blocking(move || {
            let path = Tiles::new(&inner.folder.join("tlog"), checkpoint.size).inclusion(seq, checkpoint.size)?;
            if !tree::included(&entry.hash, seq, checkpoint.size, &path, &checkpoint.root) {
                return Err(Fault(
                    "the store and the published log differ: run `countersign ledger verify`".to_owned(),
                ));
            }
            Ok(write_proof(seq, &path, &checkpoint, &inner.signer))
        });
        proof.await.map_err(|_| Fault("the proof was cut short".to_owned()))?
    }

    /// Writes out what waits, settles what is still open as `unknown`, publishes, then stops. Appends after this fail.
    pub async fn close(&self) {
        let inner = Arc::clone(&self.inner);
        let stopped = tokio::task::spawn_blocking(move || {
            inner.committer.stop();
            inner.publisher.stop();
        });
        // it is only cut short when the runtime ends, and then dropping the ledger does the same
        let _cut_short = stopped.await;
    }
}

fn write_proof(seq: u64, path: &[tree::Hash], checkpoint: &Checkpoint, signer: &Signer) -> String {
    let mut proof = format!("c2sp.org/tlog-proof@v1\nindex {seq}\n");
    for step in path {
        proof.push_str(&BASE64.encode(step));
        proof.push('\n');
    }
    proof.push('\n');
    proof.push_str(&signer.sign(&checkpoint.text()));
    proof
}

/// Takes the ledger for this process alone.
fn lock(folder: &Path) -> Result<fs::File, NotOpened> {
    let path = folder.join("ledger.lock");
    let failed = |error: std::io::Error| Fault(format!("`{}` cannot be locked: {error}", path.display()));
    let file = fs::File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(NotOpened::InUse(folder.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(failed(error).into()),
    }
}
