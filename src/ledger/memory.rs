//! Stores for tests: one in memory, and a wrapper that has any store fail on cue.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::store::{Appended, Group, Head, Kept, Snapshot, Store, Stored};
use crate::call::Fault;

#[derive(Debug, Default)]
struct Disk {
    head: Head,
    entries: Vec<Stored>,
    payloads: BTreeMap<u64, Kept>,
    snapshot: Option<Snapshot>,
}

/// One opening of a store in memory; a clone is another opening of the same disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    disk: Arc<Mutex<Disk>>,
}

impl Memory {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn head(&self) -> Result<Head, Fault> {
        Ok(self.disk().head.clone())
    }

    fn append(&self, group: &Group) -> Result<Appended, Fault> {
        let mut disk = self.disk();
        let size = disk.head.frontier.size();
        if size != group.first {
            return Ok(Appended::Conflict { size });
        }
        disk.entries.extend(group.entries.iter().cloned());
        disk.payloads.extend(group.payloads.iter().cloned());
        disk.payloads.retain(|seq, _| !group.redacted.contains(seq));
        disk.head = group.head.clone();
        Ok(Appended::Written)
    }

    fn read(&self, from: u64, most: usize) -> Result<Vec<Stored>, Fault> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(self.disk().entries.iter().skip(from).take(most).cloned().collect())
    }

    fn payload(&self, seq: u64) -> Result<Option<Kept>, Fault> {
        Ok(self.disk().payloads.get(&seq).cloned())
    }

    fn remember(&self, snapshot: &Snapshot) -> Result<(), Fault> {
        self.disk().snapshot = Some(snapshot.clone());
        Ok(())
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Fault> {
        Ok(self.disk().snapshot.clone())
    }
}

/// How the next write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing is written.
    Unwritten,
    /// All of it is written, and nobody is told.
    Written,
}

/// A store whose next write can be made to fail; after that every verb does.
#[derive(Debug)]
pub(super) struct Cued {
    store: Arc<dyn Store>,
    next: Mutex<Option<Failure>>,
    poisoned: AtomicBool,
}

impl Cued {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, next: Mutex::new(None), poisoned: AtomicBool::new(false) }
    }

    /// Has the next write fail.
    pub(super) fn fail_next(&self, failure: Failure) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }

    fn alive(&self) -> Result<&dyn Store, Fault> {
        if self.poisoned.load(Ordering::SeqCst) { Err(Fault("it failed before".to_owned())) } else { Ok(&*self.store) }
    }

    fn write<T>(&self, write: impl FnOnce(&dyn Store) -> Result<T, Fault>) -> Result<T, Fault> {
        let store = self.alive()?;
        let failure = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(failure) = failure else { return write(store) };
        self.poisoned.store(true, Ordering::SeqCst);
        if failure == Failure::Written {
            write(store)?;
        }
        Err(Fault(format!("on cue: {failure:?}")))
    }
}

impl Store for Cued {
    fn head(&self) -> Result<Head, Fault> {
        self.alive()?.head()
    }

    fn append(&self, group: &Group) -> Result<Appended, Fault> {
        self.write(|store| store.append(group))
    }

    fn read(&self, from: u64, most: usize) -> Result<Vec<Stored>, Fault> {
        self.alive()?.read(from, most)
    }

    fn payload(&self, seq: u64) -> Result<Option<Kept>, Fault> {
        self.alive()?.payload(seq)
    }

    fn remember(&self, snapshot: &Snapshot) -> Result<(), Fault> {
        self.write(|store| store.remember(snapshot))
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Fault> {
        self.alive()?.snapshot()
    }
}
