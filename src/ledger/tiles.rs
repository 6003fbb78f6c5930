//! The log as plain files that tools not ours can read and verify (C2SP tlog-tiles).
//!
//! A thread of its own follows the log: once a second, and without a pause while it is behind, it writes the
//! tiles and entry bundles that are new, syncs them, and only then the checkpoint that covers them. What keeps
//! it from that is told, and tried again: everything it knows can be read from the store and the files.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    committer::{Shared, lock},
    note::{Checkpoint, Signer, VerifierKey, replace, sync_folder},
    store::Store,
    tree::{self, Frontier, Hash, Subtrees},
};
use crate::call::Fault;

/// Hashes in a full tile, entries in a full bundle.
pub(super) const WIDTH: usize = 256;
/// How often it is looked whether there is something to publish.
const EVERY: Duration = Duration::from_secs(1);
/// The longest pause between two attempts when publishing fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Entries published in one go.
const STEP: u64 = 16_384;

/// The path of a tile below the log's folder: `None` as level is the entries themselves; a width of 256 is full.
pub(super) fn tile_path(level: Option<u32>, index: u64, width: usize) -> String {
    let level = level.map_or("entries".to_owned(), |level| level.to_string());
    let mut path = format!("tile/{level}/");
    let mut groups = vec![index % 1_000];
    let mut rest = index / 1_000;
    while rest > 0 {
        groups.push(rest % 1_000);
        rest /= 1_000;
    }
    for (place, group) in groups.iter().enumerate().rev() {
        path.push_str(&if place > 0 { format!("x{group:03}/") } else { format!("{group:03}") });
    }
    if width < WIDTH {
        path.push_str(&format!(".p/{width}"));
    }
    path
}

/// How wide a tile is in a tree of that size; 0 when it is not there.
pub(super) fn width(level: u32, index: u64, size: u64) -> usize {
    let hashes = size.checked_shr(8 * level).unwrap_or(0);
    usize::try_from(hashes.saturating_sub(index.saturating_mul(WIDTH as u64))).unwrap_or(WIDTH).min(WIDTH)
}

/// Reads a file of a tile: as wide as asked, or the full one in its place.
pub(super) fn read_tile(folder: &Path, level: Option<u32>, index: u64, width: usize) -> Result<Vec<u8>, Fault> {
    let exact = folder.join(tile_path(level, index, width));
    let read = match fs::read(&exact) {
        Err(error) if error.kind() == ErrorKind::NotFound && width < WIDTH => {
            fs::read(folder.join(tile_path(level, index, WIDTH)))
        }
        read => read,
    };
    read.map_err(|error| Fault(format!("`{}` cannot be read: {error}", exact.display())))
}

/// The hashes of a tile file, the first `width` of them.
pub(super) fn read_hashes(folder: &Path, level: u32, index: u64, width: usize) -> Result<Vec<Hash>, Fault> {
    let bytes = read_tile(folder, Some(level), index, width)?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    let fits = rest.is_empty() && (hashes.len() == width || hashes.len() == WIDTH);
    let name = || tile_path(Some(level), index, width);
    let hashes = fits.then(|| hashes.get(..width)).flatten();
    Ok(hashes.ok_or_else(|| Fault(format!("`{}` has another width than its name says", name())))?.to_vec())
}

/// The entries of a bundle file, the first `width` of them.
pub(super) fn read_entries(folder: &Path, index: u64, width: usize) -> Result<Vec<Vec<u8>>, Fault> {
    let (entries, whole) = read_entries_there(folder, index, width)?;
    if whole { Ok(entries) } else { Err(Fault(format!("`{}` is malformed", tile_path(None, index, width)))) }
}

/// The entries that are in a bundle file, at most `width`, and whether the file is as it should be.
pub(super) fn read_entries_there(folder: &Path, index: u64, width: usize) -> Result<(Vec<Vec<u8>>, bool), Fault> {
    let bytes = read_tile(folder, None, index, width)?;
    let mut entries = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let Some((entry, after)) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { break };
        entries.push(entry.to_vec());
        rest = after;
    }
    let whole = rest.is_empty() && (entries.len() == width || entries.len() == WIDTH);
    entries.truncate(width);
    Ok((entries, whole))
}

/// The tree of that size, read from tiles.
#[derive(Debug)]
pub(super) struct Tiles<'a> {
    folder: &'a Path,
    size: u64,
    read: HashMap<(u32, u64), Vec<Hash>>,
}

impl<'a> Tiles<'a> {
    pub(super) fn new(folder: &'a Path, size: u64) -> Self {
        Self { folder, size, read: HashMap::new() }
    }
}

impl Subtrees for Tiles<'_> {
    type Error = Fault;

    fn subtree(&mut self, height: u32, index: u64) -> Result<Hash, Fault> {
        let level = height / 8;
        let first = index << (height % 8);
        let (tile, offset) = (first / WIDTH as u64, (first % WIDTH as u64) as usize);
        let hashes = match self.read.entry((level, tile)) {
            std::collections::hash_map::Entry::Occupied(read) => read.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(read_hashes(self.folder, level, tile, width(level, tile, self.size))?)
            }
        };
        let leaves = hashes.get(offset..offset + (1 << (height % 8)));
        let leaves = leaves.ok_or_else(|| Fault("the published log does not reach that far".to_owned()))?;
        Ok(tree::root_of(leaves.iter().copied()))
    }
}

/// The right edge of what is published: the partial tile of each level.
#[derive(Debug, Default)]
struct Edge {
    size: u64,
    levels: Vec<Vec<Hash>>,
    bundle: Vec<u8>,
}

impl Edge {
    /// The edge that a checkpoint ends at, read from its tiles; `None` when they are not all there or do not
    /// give its root.
    fn read(folder: &Path, checkpoint: &Checkpoint) -> Option<Self> {
        let size = checkpoint.size;
        let mut levels = Vec::new();
        let mut level = 0;
        while size.checked_shr(8 * level).unwrap_or(0) > 0 {
            let hashes = size >> (8 * level);
            let partial = (hashes % WIDTH as u64) as usize;
            levels.push(if partial == 0 {
                Vec::new()
            } else {
                read_hashes(folder, level, hashes / WIDTH as u64, partial).ok()?
            });
            level += 1;
        }
        let edge = Self { size, levels, bundle: Vec::new() };
        (edge.frontier()?.root() == checkpoint.root).then_some(edge)
    }

    fn frontier(&self) -> Option<Frontier> {
        let mut peaks = Vec::new();
        for hashes in self.levels.iter().rev() {
            let mut at = 0;
            for bit in (0..8).rev().filter(|bit| hashes.len() >> bit & 1 == 1) {
                peaks.push(tree::root_of(hashes.get(at..at + (1 << bit))?.iter().copied()));
                at += 1 << bit;
            }
        }
        Frontier::of_peaks(self.size, peaks)
    }
}

/// Follows the log and publishes it.
#[derive(Debug)]
pub(super) struct Publisher {
    asked: Arc<(Mutex<Asked>, Condvar)>,
    healthy: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Asked {
    now: Vec<oneshot::Sender<Result<Checkpoint, Fault>>>,
    closing: bool,
}

impl Publisher {
    /// Starts to publish into `folder`.
    pub(super) fn start(
        folder: PathBuf,
        store: Arc<dyn Store>,
        shared: Arc<Shared>,
        signer: Arc<Signer>,
    ) -> Result<Self, Fault> {
        let mut work = Work::open(folder, store, shared, signer)?;
        let asked = Arc::new((Mutex::new(Asked::default()), Condvar::new()));
        let healthy = Arc::new(AtomicBool::new(true));
        let (told, tells) = (Arc::clone(&asked), Arc::clone(&healthy));
        let thread = std::thread::Builder::new()
            .name("publisher".to_owned())
            .spawn(move || work.run(&told, &tells))
            .map_err(|error| Fault(format!("the publisher's thread cannot be started: {error}")))?;
        Ok(Self { asked, healthy, thread: Mutex::new(Some(thread)) })
    }

    /// Whether the last attempt to publish came to its end.
    pub(super) fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// Publishes what is durable now and gives its checkpoint.
    pub(super) async fn publish(&self) -> Result<Checkpoint, Fault> {
        let closed = || Fault("the ledger is closed".to_owned());
        let (answer, published) = oneshot::channel();
        {
            let mut asked = lock(&self.asked.0);
            if asked.closing {
                return Err(closed());
            }
            asked.now.push(answer);
        }
        self.asked.1.notify_one();
        published.await.map_err(|_| closed())?
    }

    /// Publishes once more and stops; blocks until that is done.
    pub(super) fn stop(&self) {
        lock(&self.asked.0).closing = true;
        self.asked.1.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // what it could not publish is published by the next start
            let _panicked = thread.join();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Work {
    folder: PathBuf,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    signer: Arc<Signer>,
    edge: Edge,
    /// No checkpoint below this size is published: a larger one was.
    floor: u64,
    files: Vec<Written>,
    folders: BTreeSet<PathBuf>,
    finished: Vec<PathBuf>,
}

/// A file that waits to be synced, and whether it is in its place already or beside it.
struct Written {
    path: PathBuf,
    file: fs::File,
    there: bool,
}

impl Work {
    fn open(folder: PathBuf, store: Arc<dyn Store>, shared: Arc<Shared>, signer: Arc<Signer>) -> Result<Self, Fault> {
        fs::create_dir_all(folder.join("tile"))
            .map_err(|error| Fault(format!("`{}` cannot be made: {error}", folder.display())))?;
        sync_folder(&folder)?;
        folder.parent().map_or(Ok(()), sync_folder)?;
        let known = folder.join("ledger.pub");
        let public = format!("{}\n", signer.key());
        if fs::read_to_string(&known).ok().as_deref() != Some(&public) {
            replace(&known, public.as_bytes(), 0o644)?;
        }
        let (mut edge, mut floor) = (Edge::default(), 0);
        if let Some(checkpoint) = published(&folder, signer.key())? {
            let size = shared.durable();
            if checkpoint.size > size {
                return Err(Fault(format!(
                    "the store has {size} entries and the checkpoint published from it {}: it was rolled back; run \
                     `countersign ledger verify`, then restore it or rebuild it from the published log",
                    checkpoint.size
                )));
            }
            floor = checkpoint.size;
            edge = Edge::read(&folder, &checkpoint).unwrap_or_default();
            let begun = edge.size % WIDTH as u64;
            let begun = store.read(edge.size - begun, begun as usize)?;
            let hashes = edge.levels.first().map(Vec::as_slice).unwrap_or_default();
            if !begun.iter().map(|entry| &entry.hash).eq(hashes) {
                return Err(Fault(
                    "the store and the log published from it differ: run `countersign ledger verify`".to_owned(),
                ));
            }
            begun.iter().for_each(|entry| bundle(&mut edge.bundle, &entry.text));
        }
        let (files, folders, finished) = (Vec::new(), BTreeSet::new(), Vec::new());
        Ok(Self { folder, store, shared, signer, edge, floor, files, folders, finished })
    }

    fn run(&mut self, asked: &(Mutex<Asked>, Condvar), healthy: &AtomicBool) {
        let mut pause = EVERY;
        loop {
            let guard = lock(&asked.0);
            let (mut guard, _) = asked
                .1
                .wait_timeout_while(guard, pause, |asked| !asked.closing && asked.now.is_empty())
                .unwrap_or_else(PoisonError::into_inner);
            let (closing, now) = (guard.closing, std::mem::take(&mut guard.now));
            drop(guard);
            let all = !now.is_empty() || closing;
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                if !healthy.load(Ordering::Acquire) {
                    // an attempt that failed may have left anything half done
                    *self = self.opened_again()?;
                }
                self.publish(all)
            }));
            let result = worked.unwrap_or_else(|_| Err(Fault("the publisher panicked".to_owned())));
            healthy.store(result.is_ok(), Ordering::Release);
            pause = match &result {
                Ok(_) if self.shared.durable() >= self.edge.size + STEP => Duration::ZERO,
                Ok(_) => EVERY,
                Err(fault) => {
                    tracing::error!(%fault, "the log cannot be published; it is tried again");
                    (pause * 2).clamp(EVERY, PATIENCE)
                }
            };
            for answer in now {
                // who went away needs no answer
                let _gone = answer.send(result.clone());
            }
            if closing {
                // from here on there is nobody to ask
                lock(&asked.0).now.clear();
                return;
            }
        }
    }

    fn opened_again(&self) -> Result<Self, Fault> {
        let (store, shared, signer) = (Arc::clone(&self.store), Arc::clone(&self.shared), Arc::clone(&self.signer));
        Self::open(self.folder.clone(), store, shared, signer)
    }

    /// Publishes what is new: a step of it, or, when somebody asks, all.
    fn publish(&mut self, all: bool) -> Result<Checkpoint, Fault> {
        let goal = self.shared.durable();
        loop {
            let step = goal.min(self.edge.size + STEP);
            let fresh = step > self.edge.size || (step == 0 && !self.folder.join("checkpoint").exists());
            while self.edge.size < step {
                self.take(step)?;
            }
            let frontier = self.edge.frontier().ok_or_else(|| Fault("the edge of the log is malformed".to_owned()))?;
            let origin = self.signer.key().name().to_owned();
            let checkpoint = Checkpoint { origin, size: self.edge.size, root: frontier.root() };
            if fresh {
                self.write_partials()?;
                self.sync()?;
                if self.edge.size >= self.floor {
                    let note = self.signer.sign(&checkpoint.text());
                    replace(&self.folder.join("checkpoint"), note.as_bytes(), 0o644)?;
                    *lock(&self.shared.published) = note;
                    self.floor = self.edge.size;
                    for partials in self.finished.drain(..) {
                        // a folder that is not there had no partial tile
                        let _none = fs::remove_dir_all(partials);
                    }
                }
            }
            if self.edge.size >= goal || !(all || self.edge.size < self.floor) {
                return Ok(checkpoint);
            }
        }
    }

    /// Takes in the entries up to the end of the bundle, or up to `end`.
    fn take(&mut self, end: u64) -> Result<(), Fault> {
        let from = self.edge.size;
        let room = WIDTH as u64 - from % WIDTH as u64;
        let entries = self.store.read(from, room.min(end - from) as usize)?;
        if entries.is_empty() {
            return Err(Fault(format!("the store is damaged: entry {from} is missing")));
        }
        for entry in &entries {
            bundle(&mut self.edge.bundle, &entry.text);
            self.edge.size += 1;
            if self.edge.size.is_multiple_of(WIDTH as u64) {
                let full = std::mem::take(&mut self.edge.bundle);
                self.write(None, self.edge.size / WIDTH as u64 - 1, WIDTH, &full)?;
            }
            let mut carry = Some(entry.hash);
            let mut level = 0_u32;
            while let Some(hash) = carry.take() {
                if self.edge.levels.len() <= level as usize {
                    self.edge.levels.push(Vec::new());
                }
                let Some(hashes) = self.edge.levels.get_mut(level as usize) else { break };
                hashes.push(hash);
                if hashes.len() == WIDTH {
                    let full = std::mem::take(hashes);
                    let index = (self.edge.size >> (8 * (level + 1))) - 1;
                    self.write(Some(level), index, WIDTH, full.as_flattened())?;
                    carry = Some(tree::root_of(full));
                }
                level += 1;
            }
        }
        Ok(())
    }

    fn write_partials(&mut self) -> Result<(), Fault> {
        let size = self.edge.size;
        let width = (size % WIDTH as u64) as usize;
        if width > 0 {
            let partial = self.edge.bundle.clone();
            self.write(None, size / WIDTH as u64, width, &partial)?;
        }
        for (level, hashes) in (0_u32..).zip(self.edge.levels.clone()) {
            if !hashes.is_empty() {
                self.write(Some(level), size >> (8 * (level + 1)), hashes.len(), hashes.as_flattened())?;
            }
        }
        Ok(())
    }

    /// Writes a file; [`Work::sync`] makes it stay, and puts it in its place where there was one before.
    fn write(&mut self, level: Option<u32>, index: u64, width: usize, content: &[u8]) -> Result<(), Fault> {
        let path = self.folder.join(tile_path(level, index, width));
        let failed = |error: std::io::Error| Fault(format!("`{}` cannot be written: {error}", path.display()));
        let mut folder = path.parent();
        if let Some(parent) = folder {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        // a folder that is new is only there for good once the one above it is synced
        while let Some(parent) = folder.filter(|parent| parent.starts_with(&self.folder)) {
            self.folders.insert(parent.to_owned());
            folder = parent.parent();
        }
        if width == WIDTH {
            self.finished.push(self.folder.join(format!("{}.p", tile_path(level, index, WIDTH))));
        }
        // a file of which nothing was published yet need not be made beside its place
        let (file, there) = match fs::File::create_new(&path) {
            Ok(file) => (file, true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                (fs::File::create(beside(&path)).map_err(failed)?, false)
            }
            Err(error) => return Err(failed(error)),
        };
        let mut writing = &file;
        writing.write_all(content).map_err(failed)?;
        self.files.push(Written { path, file, there });
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Fault> {
        for Written { path, file, there } in self.files.drain(..) {
            let failed = |error: std::io::Error| Fault(format!("`{}` cannot be synced: {error}", path.display()));
            file.sync_all().map_err(failed)?;
            if !there {
                fs::rename(beside(&path), &path).map_err(failed)?;
            }
        }
        std::mem::take(&mut self.folders).iter().try_for_each(|folder| sync_folder(folder))
    }
}

fn bundle(out: &mut Vec<u8>, entry: &[u8]) {
    // an entry has at most 60 KiB
    out.extend_from_slice(&(entry.len() as u16).to_be_bytes());
    out.extend_from_slice(entry);
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// The checkpoint that was published into a folder, if one was.
pub(super) fn published(folder: &Path, key: &VerifierKey) -> Result<Option<Checkpoint>, Fault> {
    let path = folder.join("checkpoint");
    match fs::read_to_string(&path) {
        Ok(note) => match Checkpoint::open(&note, key) {
            Ok(checkpoint) => Ok(Some(checkpoint)),
            Err(error) => Err(Fault(format!("`{}` is not to be believed: {error}", path.display()))),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault(format!("`{}` cannot be read: {error}", path.display()))),
    }
}
