//! A journal before the store: a group is durable after one write and one `fdatasync` of a file that was laid out
//! before, and goes to the store later, together with many others.
//!
//! Two files take turns. While one fills, a thread of its own brings what the other holds into the store; only then is
//! that one written over. Until it is in the store, a group is also held in memory and read from there. Opening brings
//! what a crash left into the store before anything is read.
//!
//! A record: `csj1`, the length of its body (4 bytes, big-endian), the first 16 bytes of the body's SHA-256, the body.
//! A record follows the one before it when it starts at the size that that one left; what does not is of an earlier
//! turn, or was cut off before anybody was told that it is durable.

use std::{
    collections::VecDeque,
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::JoinHandle,
};

use aws_lc_rs::digest::{SHA256, digest};

use super::{
    committer::lock,
    note::sync_folder,
    sled_store::{SledStore, decode_group, encode_group},
    store::{Appended, Group, Head, Kept, Snapshot, Store, Stored},
};
use crate::call::Fault;

/// Bytes of each of the two files.
const ROOM: u64 = 2 << 20;
const NAMES: [&str; 2] = ["journal.0", "journal.1"];
const MAGIC: &[u8; 4] = b"csj1";
/// Bytes of a record before its body.
const HEADER: usize = 4 + 4 + 16;
/// Bytes of entries and payloads that go to the store at once.
const BATCH: usize = 1 << 20;

/// The embedded store behind its journal.
#[derive(Debug)]
pub(super) struct Journaled {
    files: Mutex<Files>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Files {
    files: [File; 2],
    current: usize,
    used: u64,
    record: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    store: SledStore,
    pending: Mutex<Pending>,
    changed: Condvar,
}

/// What is durable and not in the store yet.
#[derive(Debug)]
struct Pending {
    head: Head,
    /// In order, the end of each the start of the next.
    groups: VecDeque<Arc<Group>>,
    /// How many of them the store is to take now.
    due: usize,
    closing: bool,
    fault: Option<Fault>,
}

impl Journaled {
    /// Opens the store in `folder`, or makes one there, and brings in what its journal holds.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let store = SledStore::open(folder)?;
        let files = [laid_out(folder, NAMES[0])?, laid_out(folder, NAMES[1])?];
        sync_folder(folder)?;
        let mut left = files.iter().map(|(file, name)| records(file, name)).collect::<Result<Vec<_>, _>>()?;
        left.sort_by_key(|groups| groups.first().map(|group| group.first));
        let size = store.head()?.frontier.size();
        let fresh: Vec<Arc<Group>> =
            left.into_iter().flatten().filter(|group| end(group) > size).map(Arc::new).collect();
        bring(&store, &fresh)?;
        let [(first, _), (second, _)] = files;
        if store.to_be_erased()?.is_some() {
            // a redaction was cut short
            wipe(&first)?;
            wipe(&second)?;
            store.erased()?;
        }
        let head = store.head()?;
        let pending = Pending { head, groups: VecDeque::new(), due: 0, closing: false, fault: None };
        let shared = Arc::new(Shared { store, pending: Mutex::new(pending), changed: Condvar::new() });
        let files = Files { files: [first, second], current: 0, used: 0, record: Vec::new() };
        let bringing = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || bringing.run())
            .map_err(|error| Fault(format!("the store's thread cannot be started: {error}")))?;
        Ok(Self { files: Mutex::new(files), shared, thread: Mutex::new(Some(thread)) })
    }

    /// Entries as they lie in the store, whether they fit or not.
    pub(super) fn read_unchecked(&self, from: u64, most: usize) -> Result<Vec<Stored>, Fault> {
        self.shared.read(from, most, |from, most| self.shared.store.read_unchecked(from, most))
    }

    fn write(&self, files: &mut Files, group: &Group) -> Result<(), Fault> {
        files.record.clear();
        files.record.resize(HEADER, 0);
        encode_group(group, &mut files.record)?;
        let length = files.record.len() as u64;
        if length > ROOM || !group.redacted.is_empty() {
            // what is redacted is to be gone from the journal too
            self.shared.settle()?;
            let blank = !group.redacted.is_empty();
            self.shared.alone(|store| written(store, group))?;
            files.used = 0;
            if blank {
                files.files.iter().try_for_each(wipe)?;
                self.shared.alone(SledStore::erased)?;
            }
            return Ok(());
        }
        if files.used + length > ROOM {
            // the other file is free once the store has what it held
            let mut pending = self.shared.wait(|pending| pending.due == 0)?;
            pending.due = pending.groups.len();
            drop(pending);
            self.shared.changed.notify_all();
            files.current ^= 1;
            files.used = 0;
        }
        seal(&mut files.record);
        let Some(file) = files.files.get(files.current) else { return Err(Fault("there is no journal".to_owned())) };
        // INVARIANT: nothing is acknowledged before this returns
        file.write_all_at(&files.record, files.used)
            .and_then(|()| file.sync_data())
            .map_err(|error| Fault(format!("the journal cannot be written: {error}")))?;
        files.used += length;
        lock(&self.shared.pending).groups.push_back(Arc::new(group.clone()));
        Ok(())
    }
}

impl Drop for Journaled {
    fn drop(&mut self) {
        lock(&self.shared.pending).closing = true;
        self.shared.changed.notify_all();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // what it could not bring into the store is in the journal still
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let (groups, closing) = {
                let pending = lock(&self.pending);
                let pending = self
                    .changed
                    .wait_while(pending, |pending| pending.due == 0 && !pending.closing && pending.fault.is_none())
                    .unwrap_or_else(PoisonError::into_inner);
                if pending.fault.is_some() {
                    return;
                }
                let due = if pending.closing { pending.groups.len() } else { pending.due };
                (pending.groups.iter().take(due).map(Arc::clone).collect::<Vec<_>>(), pending.closing)
            };
            let result = bring(&self.store, &groups);
            let mut pending = lock(&self.pending);
            match result {
                Ok(()) => {
                    pending.groups.drain(..groups.len());
                    pending.due = 0;
                }
                Err(fault) => {
                    tracing::error!(%fault, "what is in the journal cannot be brought into the store");
                    pending.fault = Some(fault);
                }
            }
            drop(pending);
            self.changed.notify_all();
            if closing {
                return;
            }
        }
    }

    /// Waits until something is so.
    fn wait(&self, is_so: impl Fn(&Pending) -> bool) -> Result<std::sync::MutexGuard<'_, Pending>, Fault> {
        let pending = lock(&self.pending);
        let pending = self
            .changed
            .wait_while(pending, |pending| pending.fault.is_none() && !is_so(pending))
            .unwrap_or_else(PoisonError::into_inner);
        match &pending.fault {
            Some(fault) => Err(fault.clone()),
            None => Ok(pending),
        }
    }

    /// Has everything brought into the store.
    fn settle(&self) -> Result<(), Fault> {
        let mut pending = self.wait(|pending| pending.due == 0)?;
        pending.due = pending.groups.len();
        drop(pending);
        self.changed.notify_all();
        self.wait(|pending| pending.due == 0).map(drop)
    }

    /// Runs a verb of the store; one that fails is the end of this one too.
    fn alone<T>(&self, verb: impl FnOnce(&SledStore) -> Result<T, Fault>) -> Result<T, Fault> {
        if let Some(fault) = &lock(&self.pending).fault {
            return Err(fault.clone());
        }
        verb(&self.store).inspect_err(|fault| self.fail(fault))
    }

    fn fail(&self, fault: &Fault) {
        lock(&self.pending).fault.get_or_insert_with(|| fault.clone());
        self.changed.notify_all();
    }

    fn read(
        &self,
        from: u64,
        most: usize,
        stored: impl FnOnce(u64, usize) -> Result<Vec<Stored>, Fault>,
    ) -> Result<Vec<Stored>, Fault> {
        let (first, waiting) = {
            let pending = lock(&self.pending);
            if let Some(fault) = &pending.fault {
                return Err(fault.clone());
            }
            let first = pending.groups.front().map_or(pending.head.frontier.size(), |group| group.first);
            let before = usize::try_from(first.saturating_sub(from)).unwrap_or(usize::MAX);
            let place = pending.groups.partition_point(|group| end(group) <= from);
            let skip = pending.groups.get(place).map_or(0, |group| from.saturating_sub(group.first));
            let entries = pending.groups.iter().skip(place).flat_map(|group| &group.entries);
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            (first, entries.skip(skip).take(most.saturating_sub(before)).cloned().collect::<Vec<_>>())
        };
        if from >= first {
            return Ok(waiting);
        }
        let before = usize::try_from(first - from).unwrap_or(usize::MAX);
        let mut read = stored(from, most.min(before)).inspect_err(|fault| self.fail(fault))?;
        if read.len() == before {
            read.extend(waiting);
        }
        Ok(read)
    }
}

impl Store for Journaled {
    fn head(&self) -> Result<Head, Fault> {
        let pending = lock(&self.shared.pending);
        match &pending.fault {
            Some(fault) => Err(fault.clone()),
            None => Ok(pending.head.clone()),
        }
    }

    fn append(&self, group: &Group) -> Result<Appended, Fault> {
        let mut files = lock(&self.files);
        {
            let pending = lock(&self.shared.pending);
            if let Some(fault) = &pending.fault {
                return Err(fault.clone());
            }
            let size = pending.head.frontier.size();
            if size != group.first {
                return Ok(Appended::Conflict { size });
            }
        }
        self.shared.store.check_free().inspect_err(|fault| self.shared.fail(fault))?;
        self.write(&mut files, group).inspect_err(|fault| self.shared.fail(fault))?;
        lock(&self.shared.pending).head = group.head.clone();
        Ok(Appended::Written)
    }

    fn read(&self, from: u64, most: usize) -> Result<Vec<Stored>, Fault> {
        self.shared.read(from, most, |from, most| self.shared.store.read(from, most))
    }

    fn payload(&self, seq: u64) -> Result<Option<Kept>, Fault> {
        {
            let pending = lock(&self.shared.pending);
            let place = pending.groups.partition_point(|group| end(group) <= seq);
            if let Some(group) = pending.groups.get(place).filter(|group| group.first <= seq) {
                return Ok(group.payloads.iter().find(|(at, _)| *at == seq).map(|(_, kept)| kept.clone()));
            }
        }
        self.shared.alone(|store| store.payload(seq))
    }

    fn remember(&self, snapshot: &Snapshot) -> Result<(), Fault> {
        self.shared.alone(|store| store.remember(snapshot))
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Fault> {
        self.shared.alone(SledStore::snapshot)
    }
}

/// The size of the log after a group.
fn end(group: &Group) -> u64 {
    group.first + group.entries.len() as u64
}

/// Brings groups into the store, some of them at once.
fn bring(store: &SledStore, groups: &[Arc<Group>]) -> Result<(), Fault> {
    let mut whole = Group::default();
    let mut bytes = 0;
    for group in groups {
        if whole.entries.is_empty() {
            whole.first = group.first;
        }
        bytes += group.entries.iter().map(|entry| entry.text.len()).sum::<usize>();
        whole.entries.extend(group.entries.iter().cloned());
        whole.payloads.extend(group.payloads.iter().cloned());
        whole.head = group.head.clone();
        if bytes >= BATCH {
            written(store, &std::mem::take(&mut whole))?;
            bytes = 0;
        }
    }
    if whole.entries.is_empty() { Ok(()) } else { written(store, &whole) }
}

fn written(store: &SledStore, group: &Group) -> Result<(), Fault> {
    match store.append(group)? {
        Appended::Written => Ok(()),
        Appended::Conflict { size } => Err(Fault(format!(
            "the store is damaged: it has {size} entries and its journal goes on at {}",
            group.first
        ))),
    }
}

/// Opens a file of the journal, as long as it is to be: what is written to it later changes nothing but its content.
fn laid_out(folder: &Path, name: &'static str) -> Result<(File, String), Fault> {
    let path = folder.join(name);
    let failed = |error: std::io::Error| Fault(format!("`{}` cannot be opened: {error}", path.display()));
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() < ROOM {
        wipe(&file)?;
    }
    Ok((file, path.display().to_string()))
}

fn wipe(file: &File) -> Result<(), Fault> {
    let blank = vec![0; ROOM as usize];
    file.write_all_at(&blank, 0)
        .and_then(|()| file.sync_all())
        .map_err(|error| Fault(format!("the journal cannot be laid out: {error}")))
}

fn seal(record: &mut [u8]) {
    let Some((header, body)) = record.split_first_chunk_mut::<HEADER>() else { return };
    let length = (body.len() as u32).to_be_bytes();
    let sum = digest(&SHA256, body);
    let parts = MAGIC.iter().chain(&length).chain(sum.as_ref());
    header.iter_mut().zip(parts).for_each(|(place, byte)| *place = *byte);
}

/// The groups in a file, from its beginning on, as far as each follows the one before it.
fn records(file: &File, name: &str) -> Result<Vec<Group>, Fault> {
    let mut whole = vec![0; ROOM as usize];
    file.read_exact_at(&mut whole, 0).map_err(|error| Fault(format!("`{name}` cannot be read: {error}")))?;
    let mut rest = whole.as_slice();
    let mut groups: Vec<Group> = Vec::new();
    while let Some((group, after)) = record(rest) {
        if groups.last().is_some_and(|last| end(last) != group.first) {
            break;
        }
        groups.push(group);
        rest = after;
    }
    Ok(groups)
}

fn record(bytes: &[u8]) -> Option<(Group, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let (magic, header) = header.split_first_chunk::<4>()?;
    let (length, sum) = header.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let whole = magic == MAGIC && digest(&SHA256, body).as_ref().starts_with(sum);
    let group = if whole { decode_group(body)? } else { return None };
    (!group.entries.is_empty()).then_some((group, rest))
}
