//! The embedded store: sled 0.34.7, used so that it keeps its word.
//!
//! Its `flush` does not reach the disk, so every write ends in `fdatasync` of the file it writes to; values stay
//! below the size at which sled moves them to files of their own that nobody syncs; the one writer is the
//! committer; any error or panic of sled's is the end of this store until it is opened again; and a snapshot that
//! sled did not finish is removed before it looks, since it would read the torso as its newest and give up.
//!
//! What grows lies in [`Segments`], and sled knows where: bundles of entries in `entries.*`, bundles of their payloads,
//! compressed, in `payloads.*`. A write goes to those first, is synced, and counts with the batch that names its places.
//!
//! Keys: `h` the head; `t` the tails of the segments; `e` and the first index, big-endian: the place of a run of
//! bundles of entries; `p` and the first index: that of a run of bundles of payloads; `s` and a number: pieces of the
//! snapshot; `x` places in `payloads.*` that are being erased. In format 1 a value of `e` and `p` is one bundle itself,
//! which is longer than any place; such values are read where they are.

use std::{
    collections::BTreeMap,
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    note::sync_folder,
    segments::{Bundle, Framed, Place, Segments, Tail},
    store::{Appended, Content, Group, Head, Kept, LONGEST, Snapshot, Store, Stored},
    tree::{self, Frontier},
};
use crate::{call::Fault, json::Digest};

const SEGMENT: usize = 8 << 20;
const CACHE: u64 = 8 << 20;
/// About how long a bundle of entries gets, and one of payloads before compression.
const BUNDLE: usize = 32 << 10;
const PAYLOAD_BUNDLE: usize = 32 << 10;
/// The most bundles in a run: a look-up reads the beginnings of all.
const RUN: usize = 32;
/// What has to be free for another write.
const FREE: u64 = 2 * SEGMENT as u64 + (64 << 20);
/// How many writes may pass between two looks at what is free.
const LOOK_EVERY: u32 = 256;
/// How long sled's threads may need to let go of a store that was closed.
const UNLOCKED_WITHIN: Duration = Duration::from_millis(500);
const MAGIC: &[u8; 4] = b"cslg";
const FORMAT: u32 = 2;
/// The oldest format that is read: bundles lie in sled.
const OLDEST: u32 = 1;
/// Bytes of payload records in one bundle before compression, which may add a little.
const LONGEST_PAYLOADS: usize = 56 << 10;
/// What the files of each kind of bundle are called.
const ENTRIES: &str = "entries";
const PAYLOADS: &str = "payloads";
/// The longest payload that is kept in the store and not in a file.
pub(super) const LONGEST_HERE: usize = 48 << 10;

pub(super) struct SledStore {
    db: sled::Db,
    file: File,
    entries: Segments,
    payloads: Segments,
    /// Held by who follows a place in `payloads`, so that nothing is erased under its eyes.
    erasing: RwLock<()>,
    folder: PathBuf,
    poisoned: AtomicBool,
    writes: AtomicU32,
    packer: Mutex<zstd::bulk::Compressor<'static>>,
    writing: Mutex<()>,
}

impl std::fmt::Debug for SledStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl SledStore {
    /// Opens the store in `folder`, or makes one there.
    pub(super) fn open(folder: &Path) -> Result<Self, Fault> {
        let attempt = || -> Result<Self, Fault> {
            remove_unfinished(folder)?;
            let db = open(folder)?;
            let file = File::open(folder.join("db"))
                .map_err(|error| Fault(format!("the store in `{}` cannot be opened: {error}", folder.display())))?;
            let packer = zstd::bulk::Compressor::new(1)
                .map_err(|error| Fault(format!("payloads cannot be compressed: {error}")))?;
            if db.is_empty() && (Segments::any(folder, ENTRIES)? || Segments::any(folder, PAYLOADS)?) {
                return Err(Fault(format!(
                    "the store in `{}` is damaged: `db` is not the one of its entries; restore all of the folder, or \
                     rebuild it from the published log",
                    folder.display()
                )));
            }
            let tails = tails(&db)?;
            let store = Self {
                db,
                file,
                entries: Segments::open(folder, ENTRIES, tails.0)?,
                payloads: Segments::open(folder, PAYLOADS, tails.1)?,
                erasing: RwLock::new(()),
                folder: folder.to_owned(),
                poisoned: AtomicBool::new(false),
                writes: AtomicU32::new(0),
                packer: Mutex::new(packer),
                writing: Mutex::new(()),
            };
            if store.db.get(b"h").map_err(broken)?.is_none() {
                if !store.db.is_empty() {
                    return Err(Fault(format!("the store in `{}` is not a ledger", folder.display())));
                }
                let mut batch = sled::Batch::default();
                batch.insert(b"h", encode_head(&Head::default()));
                store.write(batch)?;
            }
            // every time: a store that was made just before a kill has names that were never synced
            sync_folder(folder)?;
            folder.parent().map_or(Ok(()), sync_folder)?;
            store.head()?;
            // what a power cut kept from being erased
            store.erase(&store.to_be_erased()?.unwrap_or_default())?;
            Ok(store)
        };
        catch_unwind(AssertUnwindSafe(attempt))
            .unwrap_or_else(|_| Err(Fault(format!("the store in `{}` is damaged", folder.display()))))
    }

    /// Runs one verb. Whatever goes wrong in it is the end of the store.
    fn guarded<T>(&self, verb: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(Fault("the store failed before: stop the server, see to the disk, start it again".to_owned()));
        }
        let result = catch_unwind(AssertUnwindSafe(verb))
            .unwrap_or_else(|_| Err(Fault("the store panicked: it is not used any further".to_owned())));
        if result.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        result
    }

    fn write(&self, batch: sled::Batch) -> Result<(), Fault> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.db.apply_batch(batch).map_err(broken)?;
        self.db.flush().map_err(broken)?;
        // INVARIANT: nothing is acknowledged before this returns: sled's flush alone is lost in a power cut
        self.file.sync_data().map_err(|error| Fault(format!("the store cannot be synced: {error}")))
    }

    /// Looks now and then whether there is room for another write.
    pub(super) fn check_free(&self) -> Result<(), Fault> {
        if !self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY) {
            return Ok(());
        }
        let disk = rustix::fs::statvfs(&self.folder)
            .map_err(|error| Fault(format!("cannot tell how much room the disk has: {error}")))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < FREE {
            let (free, needed) = (free >> 20, FREE >> 20);
            return Err(Fault(format!("the disk has {free} MiB left and the ledger needs {needed}: make room")));
        }
        Ok(())
    }

    /// Entries as they lie there, their hashes too, whether they fit or not: for whoever finds out what is wrong.
    pub(super) fn read_unchecked(&self, from: u64, most: usize) -> Result<Vec<Stored>, Fault> {
        self.guarded(|| {
            let mut out = Vec::new();
            let start = self.run(b'e', from)?.map_or(from, |(first, _)| first);
            for item in self.db.range(key(b'e', start).as_slice()..key(b'e' + 1, 0).as_slice()) {
                let (found, run) = item.map_err(broken)?;
                let first = seq_of(b'e', &found).ok_or_else(|| damaged("a key of its entries is malformed"))?;
                let missing = |seq: u64| damaged(&format!("entry {seq} is missing"));
                let bundles = bundles(&self.entries, first, &run)?.ok_or_else(|| missing(first))?;
                let skip = bundles.partition_point(|bundle| bundle.first() <= from).saturating_sub(1);
                for place in bundles.iter().skip(skip) {
                    // its sum does not matter here: each entry has its hash, which says which of them is bad
                    let bundle = place.read(&self.entries)?.ok_or_else(|| missing(place.first()))?.body;
                    let mut seq = place.first();
                    let mut at = 0;
                    while let Some(header) = bundle.get(at..at + 34) {
                        let (length, hash) = header.split_at(2);
                        let length = usize::from(length.iter().fold(0_u16, |sum, byte| sum << 8 | u16::from(*byte)));
                        if at + 34 + length > bundle.len() {
                            return Err(damaged(&format!("entry {seq} is cut off")));
                        }
                        if seq >= from {
                            if out.len() == most {
                                return Ok(out);
                            }
                            let text = bundle.slice(at + 34..at + 34 + length);
                            let hash = hash.try_into().map_err(|_| damaged("a hash is cut off"))?;
                            if seq != from + out.len() as u64 {
                                return Err(missing(from + out.len() as u64));
                            }
                            out.push(Stored { hash, text });
                        }
                        at += 34 + length;
                        seq += 1;
                    }
                    if out.len() >= most {
                        return Ok(out);
                    }
                }
            }
            Ok(out)
        })
    }

    /// The run of bundles of that kind that begins at `seq` or last before it.
    fn run(&self, kind: u8, seq: u64) -> Result<Option<(u64, sled::IVec)>, Fault> {
        match self.db.range(..=key(kind, seq).as_slice()).next_back().transpose().map_err(broken)? {
            Some((found, value)) => Ok(seq_of(kind, &found).map(|first| (first, value))),
            None => Ok(None),
        }
    }

    /// The payloads that lie together with that of an entry.
    fn payloads(&self, seq: u64) -> Result<Option<Neighbours>, Fault> {
        let Some((first, run)) = self.run(b'p', seq)? else { return Ok(None) };
        let lost = |first: u64| damaged(&format!("the payloads from entry {first} on are not what was written"));
        let run = bundles(&self.payloads, first, &run)?.ok_or_else(|| lost(first))?;
        let Some(at) = run.partition_point(|bundle| bundle.first() <= seq).checked_sub(1) else { return Ok(None) };
        let Some(place) = run.get(at) else { return Ok(None) };
        let bundle = place.read(&self.payloads)?.filter(Bundle::is_whole).ok_or_else(|| lost(place.first()))?;
        Ok(Some(Neighbours { kept: decode_kept(&bundle.body)?, run, at }))
    }

    /// The places that are to be erased still, when something was redacted and that has not come to its end.
    pub(super) fn to_be_erased(&self) -> Result<Option<Vec<Place>>, Fault> {
        self.guarded(|| {
            let places = self.db.get(b"x").map_err(broken)?;
            Ok(places.map(|places| places.as_chunks().0.iter().map(Place::of_bytes).collect()))
        })
    }

    /// Notes that nothing of what was redacted is left anywhere.
    pub(super) fn erased(&self) -> Result<(), Fault> {
        self.guarded(|| {
            let mut batch = sled::Batch::default();
            batch.remove(b"x");
            self.write(batch)
        })
    }

    fn erase(&self, places: &[Place]) -> Result<(), Fault> {
        let _nobody_reads = self.erasing.write().unwrap_or_else(PoisonError::into_inner);
        places.iter().try_for_each(|place| self.payloads.erase(*place))
    }
}

/// Payloads in one bundle of a run.
struct Neighbours {
    kept: Vec<(u64, Kept)>,
    run: Vec<Shelved>,
    at: usize,
}

/// Where a bundle is.
enum Shelved {
    Framed(Framed),
    /// In sled, as format 1 has it.
    Inline(u64, Bytes),
}

impl Shelved {
    fn first(&self) -> u64 {
        match self {
            Self::Framed(framed) => framed.first,
            Self::Inline(first, _) => *first,
        }
    }

    fn place(&self) -> Option<Place> {
        match self {
            Self::Framed(framed) => Some(framed.place),
            Self::Inline(..) => None,
        }
    }

    fn read(&self, segments: &Segments) -> Result<Option<Bundle>, Fault> {
        match self {
            Self::Framed(framed) => segments.read(*framed),
            Self::Inline(first, body) => Ok(Some(Bundle::bare(*first, body.clone()))),
        }
    }
}

/// The runs of one kind that a batch adds, of which only the last can grow.
struct Runs {
    kind: u8,
    last: Option<(u64, Place, usize)>,
}

impl Runs {
    fn new(kind: u8) -> Self {
        Self { kind, last: None }
    }

    /// Takes in a bundle that was written.
    fn add(&mut self, batch: &mut sled::Batch, first: u64, place: Place) {
        if let Some((_, run, bundles)) = &mut self.last
            && *bundles < RUN
            && run.extend(place)
        {
            *bundles += 1;
            return;
        }
        self.end(batch);
        self.last = Some((first, place, 1));
    }

    /// Ends the last run: what comes is not of it.
    fn end(&mut self, batch: &mut sled::Batch) {
        if let Some((first, run, _)) = self.last.take() {
            batch.insert(key(self.kind, first).as_slice(), &run.to_bytes());
        }
    }
}

impl Store for SledStore {
    fn head(&self) -> Result<Head, Fault> {
        self.guarded(|| {
            let bytes = self.db.get(b"h").map_err(broken)?.ok_or_else(|| damaged("its head is missing"))?;
            decode_head(&bytes)
        })
    }

    fn append(&self, group: &Group) -> Result<Appended, Fault> {
        let size = self.head()?.frontier.size();
        if size != group.first {
            return Ok(Appended::Conflict { size });
        }
        self.guarded(|| {
            self.check_free()?;
            let mut batch = sled::Batch::default();
            let mut bundle = Vec::with_capacity(BUNDLE);
            let (mut first, mut next) = (group.first, group.first);
            let mut runs = Runs::new(b'e');
            let mut push = |batch: &mut sled::Batch, first: u64, bundle: &[u8]| -> Result<(), Fault> {
                runs.add(batch, first, self.entries.push(first, bundle)?);
                Ok(())
            };
            for entry in &group.entries {
                if !bundle.is_empty() && bundle.len() + entry.text.len() + 34 > BUNDLE {
                    push(&mut batch, first, &bundle)?;
                    bundle.clear();
                    first = next;
                }
                let length = u16::try_from(entry.text.len()).ok().filter(|length| usize::from(*length) <= LONGEST);
                let length = length.ok_or_else(|| damaged("an entry is too long to be written"))?;
                bundle.extend_from_slice(&length.to_be_bytes());
                bundle.extend_from_slice(&entry.hash);
                bundle.extend_from_slice(&entry.text);
                next += 1;
            }
            if !bundle.is_empty() {
                push(&mut batch, first, &bundle)?;
            }
            runs.end(&mut batch);
            let mut runs = Runs::new(b'p');
            let mut packer = self.packer.lock().unwrap_or_else(PoisonError::into_inner);
            let mut pack = |first: u64, records: &[u8]| -> Result<Place, Fault> {
                let packed = packer.compress(records).map_err(|error| Fault(format!("cannot compress: {error}")))?;
                self.payloads.push(first, &packed)
            };
            let mut records = Vec::new();
            let mut first = 0;
            for (seq, kept) in &group.payloads {
                let longest = match &kept.content {
                    Content::Here(bytes) => bytes.len() + RECORD,
                    Content::File(_) => RECORD + 32,
                };
                if longest > LONGEST_PAYLOADS {
                    return Err(damaged("a payload is too long to be written"));
                }
                if !records.is_empty() && records.len() + longest > PAYLOAD_BUNDLE {
                    runs.add(&mut batch, first, pack(first, &records)?);
                    records.clear();
                }
                if records.is_empty() {
                    first = *seq;
                }
                encode_kept(*seq, kept, &mut records);
            }
            if !records.is_empty() {
                runs.add(&mut batch, first, pack(first, &records)?);
            }
            runs.end(&mut batch);
            let mut touched: BTreeMap<u64, Neighbours> = BTreeMap::new();
            for seq in &group.redacted {
                // several may lie in one bundle, and several such bundles in one run
                if let Some(bundle) = self.payloads(*seq)? {
                    let first = bundle.run.get(bundle.at).map_or(*seq, Shelved::first);
                    touched.insert(first, bundle);
                }
            }
            let mut places = Vec::new();
            for bundle in touched.values() {
                // the run is written anew: what of it is touched is elsewhere from now on, or nowhere
                for shelved in &bundle.run {
                    let Some(place) = shelved.place().filter(|_| !touched.contains_key(&shelved.first())) else {
                        runs.end(&mut batch);
                        continue;
                    };
                    runs.add(&mut batch, shelved.first(), place);
                }
                runs.end(&mut batch);
            }
            for (first, bundle) in &touched {
                let mut records = Vec::new();
                let left = bundle.kept.iter().filter(|(at, _)| !group.redacted.contains(at));
                left.for_each(|(seq, kept)| encode_kept(*seq, kept, &mut records));
                if records.is_empty() {
                    batch.remove(key(b'p', *first).as_slice());
                } else {
                    runs.add(&mut batch, *first, pack(*first, &records)?);
                    runs.end(&mut batch);
                }
                places.extend(bundle.run.get(bundle.at).and_then(Shelved::place));
            }
            if !group.redacted.is_empty() {
                let places: Vec<u8> = places.iter().flat_map(|place| place.to_bytes()).collect();
                batch.insert(b"x", places);
            }
            let head = encode_head(&group.head);
            if head.len() > LONGEST {
                return Err(damaged("too many calls are open to be written"));
            }
            batch.insert(b"h", head);
            // INVARIANT: what a place names is durable before the place is
            let tails = [self.entries.sync()?, self.payloads.sync()?].map(Tail::to_bytes);
            batch.insert(b"t", tails.as_flattened());
            self.write(batch)?;
            self.erase(&places)?;
            Ok(Appended::Written)
        })
    }

    fn read(&self, from: u64, most: usize) -> Result<Vec<Stored>, Fault> {
        let read = self.read_unchecked(from, most)?;
        self.guarded(|| {
            let bad = read.iter().position(|entry| tree::leaf(&entry.text) != entry.hash);
            match bad {
                None => Ok(()),
                Some(place) => Err(damaged(&format!("entry {} does not have its hash", from + place as u64))),
            }
        })?;
        Ok(read)
    }

    fn payload(&self, seq: u64) -> Result<Option<Kept>, Fault> {
        self.guarded(|| {
            let _not_erased = self.erasing.read().unwrap_or_else(PoisonError::into_inner);
            let Some(bundle) = self.payloads(seq)? else { return Ok(None) };
            Ok(bundle.kept.into_iter().find(|(at, _)| *at == seq).map(|(_, kept)| kept))
        })
    }

    fn remember(&self, snapshot: &Snapshot) -> Result<(), Fault> {
        self.guarded(|| {
            let mut batch = sled::Batch::default();
            for item in self.db.scan_prefix(b"s").keys() {
                batch.remove(item.map_err(broken)?);
            }
            let mut whole = snapshot.size.to_be_bytes().to_vec();
            whole.extend_from_slice(&snapshot.state);
            for (number, piece) in whole.chunks(LONGEST).enumerate() {
                batch.insert(key(b's', number as u64).as_slice(), piece);
            }
            self.write(batch)
        })
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, Fault> {
        self.guarded(|| {
            let mut whole = Vec::new();
            for piece in self.db.scan_prefix(b"s").values() {
                whole.extend_from_slice(&piece.map_err(broken)?);
            }
            Ok(whole.split_first_chunk::<8>().map(|(size, state)| Snapshot {
                size: u64::from_be_bytes(*size),
                state: Bytes::copy_from_slice(state),
            }))
        })
    }
}

/// Opens what is in the folder. One that this process has just closed is locked a little longer: sled's own threads
/// end after it.
fn open(folder: &Path) -> Result<sled::Db, Fault> {
    let config = sled::Config::new().path(folder).segment_size(SEGMENT).cache_capacity(CACHE).flush_every_ms(None);
    let began = Instant::now();
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(error)) if error.to_string().contains("lock") => {
                if began.elapsed() > UNLOCKED_WITHIN {
                    return Err(Fault(format!("`{}` is in use by another process", folder.display())));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => {
                return Err(Fault(format!("the store in `{}` cannot be opened: {error}", folder.display())));
            }
        }
    }
}

/// Where the segments of entries and of payloads end; they are empty before the first write.
fn tails(db: &sled::Db) -> Result<(Tail, Tail), Fault> {
    let Some(both) = db.get(b"t").map_err(broken)? else { return Ok(Default::default()) };
    let malformed = || damaged("the tails of its segments are malformed");
    let (entries, rest) = both.split_first_chunk::<{ Tail::BYTES }>().ok_or_else(malformed)?;
    let payloads = rest.first_chunk::<{ Tail::BYTES }>().ok_or_else(malformed)?;
    Ok((Tail::of_bytes(*entries), Tail::of_bytes(*payloads)))
}

/// The bundles that a value of `e` or `p` stands for; `None` when they are not there.
fn bundles(segments: &Segments, first: u64, value: &[u8]) -> Result<Option<Vec<Shelved>>, Fault> {
    // one of format 1 is the bundle itself, and longer than a place
    let Ok(run) = value.try_into() else {
        return Ok(Some(vec![Shelved::Inline(first, Bytes::copy_from_slice(value))]));
    };
    let frames = segments.frames(Place::of_bytes(run))?;
    let frames = frames.filter(|frames| frames.first().is_some_and(|frame| frame.first == first));
    Ok(frames.map(|frames| frames.into_iter().map(Shelved::Framed).collect()))
}

/// Removes snapshots that a kill or power cut interrupted. The one before is only removed once the next is whole.
fn remove_unfinished(folder: &Path) -> Result<(), Fault> {
    let failed =
        |error: std::io::Error| Fault(format!("the store in `{}` cannot be opened: {error}", folder.display()));
    let files = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        files => files.map_err(failed)?,
    };
    for file in files {
        let file = file.map_err(failed)?;
        let name = file.file_name();
        if name.as_encoded_bytes().starts_with(b"snap.") && name.as_encoded_bytes().ends_with(b".generating") {
            std::fs::remove_file(file.path()).map_err(failed)?;
        }
    }
    Ok(())
}

fn key(kind: u8, seq: u64) -> [u8; 9] {
    let mut key = [kind; 9];
    if let Some(place) = key.get_mut(1..) {
        place.copy_from_slice(&seq.to_be_bytes());
    }
    key
}

fn seq_of(kind: u8, key: &[u8]) -> Option<u64> {
    let (found, seq) = key.split_first()?;
    (*found == kind).then(|| seq.try_into().ok().map(u64::from_be_bytes)).flatten()
}

fn broken(error: sled::Error) -> Fault {
    Fault(format!("the store failed: {error}"))
}

fn damaged(what: &str) -> Fault {
    Fault(format!("the store is damaged: {what}"))
}

/// Format, size, peaks, open intents as differences in LEB128, the checkpoint.
fn encode_head(head: &Head) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&FORMAT.to_be_bytes());
    out.extend_from_slice(&head.frontier.size().to_be_bytes());
    head.frontier.peaks().iter().for_each(|peak| out.extend_from_slice(peak));
    out.extend_from_slice(&(head.open.len() as u32).to_be_bytes());
    let mut last = 0;
    for seq in &head.open {
        let mut difference = seq - last;
        last = *seq;
        while difference >= 0x80 {
            out.push((difference & 0x7f) as u8 | 0x80);
            difference >>= 7;
        }
        out.push(difference as u8);
    }
    out.extend_from_slice(head.checkpoint.as_bytes());
    out
}

fn decode_head(bytes: &[u8]) -> Result<Head, Fault> {
    let malformed = || damaged("its head is malformed");
    let (magic, rest) = bytes.split_first_chunk::<4>().ok_or_else(malformed)?;
    let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    let format = u32::from_be_bytes(*format);
    if magic != MAGIC {
        return Err(malformed());
    }
    if !(OLDEST..=FORMAT).contains(&format) {
        return Err(Fault(format!(
            "the store has format {format} and this version knows {FORMAT}: use a newer version"
        )));
    }
    let (size, mut rest) = rest.split_first_chunk::<8>().ok_or_else(malformed)?;
    let size = u64::from_be_bytes(*size);
    let mut peaks = Vec::new();
    for _ in 0..size.count_ones() {
        let (peak, after) = rest.split_first_chunk::<32>().ok_or_else(malformed)?;
        peaks.push(*peak);
        rest = after;
    }
    let (count, mut rest) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
    let mut open = Vec::new();
    let mut last = 0_u64;
    for _ in 0..u32::from_be_bytes(*count) {
        let (mut difference, mut shift) = (0_u64, 0);
        loop {
            let (byte, after) = rest.split_first().ok_or_else(malformed)?;
            rest = after;
            difference |= u64::from(byte & 0x7f).checked_shl(shift).ok_or_else(malformed)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        last = last.checked_add(difference).ok_or_else(malformed)?;
        open.push(last);
    }
    let checkpoint = std::str::from_utf8(rest).map_err(|_| malformed())?.to_owned();
    let frontier = Frontier::of_peaks(size, peaks).ok_or_else(malformed)?;
    Ok(Head { frontier, open, checkpoint })
}

/// Bytes of a record besides its content.
const RECORD: usize = 8 + 16 + 1 + 4;

fn encode_kept(seq: u64, kept: &Kept, out: &mut Vec<u8>) {
    let (kind, content): (u8, &[u8]) = match &kept.content {
        Content::Here(bytes) => (0, bytes),
        Content::File(digest) => (1, &digest.0),
    };
    out.extend_from_slice(&seq.to_be_bytes());
    out.extend_from_slice(&kept.salt);
    out.push(kind);
    out.extend_from_slice(&(content.len() as u32).to_be_bytes());
    out.extend_from_slice(content);
}

fn decode_kept(packed: &[u8]) -> Result<Vec<(u64, Kept)>, Fault> {
    let malformed = || damaged("a bundle of payloads is malformed");
    let records = zstd::bulk::decompress(packed, LONGEST_PAYLOADS + RECORD).map_err(|_| malformed())?;
    let mut out = Vec::new();
    let mut rest = records.as_slice();
    while !rest.is_empty() {
        let (kept, after) = kept(rest).ok_or_else(malformed)?;
        out.push(kept);
        rest = after;
    }
    Ok(out)
}

/// The first record of some, and the others.
fn kept(records: &[u8]) -> Option<((u64, Kept), &[u8])> {
    let (seq, after) = records.split_first_chunk::<8>()?;
    let (salt, after) = after.split_first_chunk::<16>()?;
    let (kind, after) = after.split_first_chunk::<1>()?;
    let (length, after) = after.split_first_chunk::<4>()?;
    let (content, rest) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    let content = match kind {
        [0] => Content::Here(Bytes::copy_from_slice(content)),
        [1] => Content::File(Digest(content.try_into().ok()?)),
        _ => return None,
    };
    Some(((u64::from_be_bytes(*seq), Kept { salt: *salt, content }), rest))
}

/// A group as it stands in the journal: first index, number of entries, the entries as in a bundle, number of
/// payloads, those, the head. What was redacted does not go through the journal.
pub(super) fn encode_group(group: &Group, out: &mut Vec<u8>) -> Result<(), Fault> {
    out.extend_from_slice(&group.first.to_be_bytes());
    out.extend_from_slice(&(group.entries.len() as u32).to_be_bytes());
    for entry in &group.entries {
        let length = u16::try_from(entry.text.len()).ok().filter(|length| usize::from(*length) <= LONGEST);
        let length = length.ok_or_else(|| damaged("an entry is too long to be written"))?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&entry.hash);
        out.extend_from_slice(&entry.text);
    }
    out.extend_from_slice(&(group.payloads.len() as u32).to_be_bytes());
    for (seq, kept) in &group.payloads {
        if matches!(&kept.content, Content::Here(bytes) if bytes.len() + RECORD > LONGEST_PAYLOADS) {
            return Err(damaged("a payload is too long to be written"));
        }
        encode_kept(*seq, kept, out);
    }
    let head = encode_head(&group.head);
    if head.len() > LONGEST {
        return Err(damaged("too many calls are open to be written"));
    }
    out.extend_from_slice(&head);
    Ok(())
}

/// What [`encode_group`] wrote; `None` when it did not.
pub(super) fn decode_group(bytes: &[u8]) -> Option<Group> {
    let (first, rest) = bytes.split_first_chunk::<8>()?;
    let (entries, mut rest) = rest.split_first_chunk::<4>()?;
    let mut group = Group { first: u64::from_be_bytes(*first), ..Group::default() };
    for _ in 0..u32::from_be_bytes(*entries) {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (hash, after) = after.split_first_chunk::<32>()?;
        let (text, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        group.entries.push(Stored { text: Bytes::copy_from_slice(text), hash: *hash });
        rest = after;
    }
    let (payloads, mut rest) = rest.split_first_chunk::<4>()?;
    for _ in 0..u32::from_be_bytes(*payloads) {
        let (payload, after) = kept(rest)?;
        group.payloads.push(payload);
        rest = after;
    }
    group.head = decode_head(rest).ok()?;
    Some(group)
}
