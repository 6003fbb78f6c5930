//! A store in memory that fails on cue, for tests of everything above it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::store::{Appended, Group, Head, Kept, Snapshot, Store, Stored};
use crate::call::Fault;

/// How the next write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing is written.
    Unwritten,
    /// All of it is written, and nobody is told.
    Written,
}

#[derive(Debug, Default)]
struct Disk {
    head: Head,
    entries: Vec<Stored>,
    payloads: BTreeMap<u64, Kept>,
    snapshot: Option<Snapshot>,
    next: Option<Failure>,
}

/// One opening of the store; what is on its disk outlives it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    disk: Arc<Mutex<Disk>>,
    poisoned: Mutex<bool>,
}

impl Memory {
    /// Opens what is on the same disk again.
    pub(super) fn reopen(&self) -> Self {
        Self { disk: Arc::clone(&self.disk), poisoned: Mutex::new(false) }
    }

    /// Has the next write fail.
    pub(super) fn fail_next(&self, failure: Failure) {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).next = Some(failure);
    }

    fn disk(&self) -> Result<MutexGuard<'_, Disk>, Fault> {
        if *self.poisoned.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(Fault("the store failed before".to_owned()));
        }
        Ok(self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, mut disk: MutexGuard<'_, Disk>, write: impl FnOnce(&mut Disk) -> T) -> Result<T, Fault> {
        let failure = disk.next.take();
        if failure.is_some() {
            *self.poisoned.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
        match failure {
            None => Ok(write(&mut disk)),
            Some(Failure::Unwritten) => Err(Fault("on cue, unwritten".to_owned())),
            Some(Failure::Written) => {
                write(&mut disk);
                Err(Fault("on cue, written".to_owned()))
            }
        }
    }
}

impl Store for Memory {
    fn head(&self) -> Result<Head, Fault> {
        Ok(self.disk()?.head.clone())
    }

    fn append(&self, group: &Group) -> Result<Appended, Fault> {
        let disk = self.disk()?;
        let size = disk.head.frontier.size();
        if size != group.first {
            return Ok(Appended::Conflict { size });
        }
        self.write(disk, |disk| {
            disk.entries.extend(group.entries.iter().cloned());
            disk.payloads.extend(group.payloads.iter().cloned());
            disk.payloads.retain(|seq, _| !group.redacted.contains(seq));
            disk.head = group.head.clone();
            Appended::Written
        })
    }

    fn read(&self, from: u64, most: usize) -> Result<Vec<Stored>, Fault> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(self.disk()?.entries.iter().skip(from).take(most).cloned().collect())
    }

    fn payload(&self, seq: u64) -> Result<Option<Kept>, Fault> {
        Ok(self.disk()?.payloads.get(&seq).cloned())
    }

    fn remember(&self, snapshot: &Snapshot) -> Result<(), Fault> {
        let disk = self.disk()?;
        self.write(disk, |disk| disk.snapshot = Some(snapshot.clone()))
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Fault> {
        Ok(self.disk()?.snapshot.clone())
    }
}
