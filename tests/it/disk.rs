//! A disk whose power can be cut: a file system in memory that promises no more than POSIX does.
//!
//! What is written is seen at once and durable only after `fsync` or `fdatasync` of that file. Names (files made,
//! renamed, removed) become durable in their order, all of them with any sync, as a journal does it. Writing ranges
//! back (`sync_file_range`) promises nothing, as its manual says. It needs root and `/dev/fuse`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    AccessFlags, BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use tempfile::TempDir;

/// What a sync is counted in, and what a power cut tears.
const PAGE: usize = 4_096;
const ROOT: u64 = 1;
/// The kernel asks every time: there is one truth, and a cut changes it behind the kernel's back.
const NEVER: Duration = Duration::ZERO;

/// A generator without a seed from outside, so that a failure can be run again.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// Everything that was not synced.
    All,
    /// Some of it: names from some moment on, and of each file any pages.
    Torn,
}

/// Whether the disk does what a sync asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Honesty {
    Honest,
    /// It says that it did. Whatever is stored on it must be found lost.
    Lies,
}

/// A mounted disk; unmounted when dropped.
pub(crate) struct Disk {
    // in the order in which they go: the mount before its folder
    _mounted: BackgroundSession,
    shared: Arc<Shared>,
    folder: TempDir,
}

impl Disk {
    /// Mounts an empty disk; or says why this machine cannot.
    pub(crate) fn mount(honesty: Honesty) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can mount the simulated disk".to_owned());
        }
        if let Err(error) = std::fs::File::options().read(true).write(true).open("/dev/fuse") {
            return Err(format!("`/dev/fuse` cannot be opened: {error}"));
        }
        let folder = tempfile::Builder::new().prefix("disk-").tempdir().unwrap();
        let shared = Arc::new(Shared { contents: Mutex::new(Contents::new(honesty)), off: Condvar::new() });
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("countersign-test".to_owned())];
        let mounted = fuser::spawn_mount(Door(Arc::clone(&shared)), folder.path(), &config);
        let mounted = mounted.map_err(|error| format!("the simulated disk cannot be mounted: {error}"))?;
        Ok(Self { _mounted: mounted, shared, folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The power goes with the `operations`th change or sync from now: from then on they fail, and reading goes on.
    pub(crate) fn cut_after(&self, operations: u64) {
        self.shared.contents().left = Some(operations);
    }

    /// Waits for the cut; after `most` it is made. Whether it came by itself.
    pub(crate) fn wait_for_cut(&self, most: Duration) -> bool {
        let contents = self.shared.contents();
        let waited = self.shared.off.wait_timeout_while(contents, most, |contents| contents.power).unwrap();
        let mut contents = waited.0;
        contents.power = false;
        contents.left = None;
        !waited.1.timed_out()
    }

    /// The power is back, and what is there is what survived.
    pub(crate) fn restore(&self, loss: Loss, dice: &mut Dice) {
        self.shared.contents().restore(loss, dice);
    }
}

struct Shared {
    contents: Mutex<Contents>,
    /// Told when the power went.
    off: Condvar,
}

impl Shared {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }
}

/// The names in each folder, by the folder's number; the folders are the keys.
type Names = BTreeMap<u64, BTreeMap<OsString, u64>>;

/// A file as it is seen, and as it would be found after a cut.
#[derive(Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    /// Pages written since the last sync.
    unsynced: BTreeSet<usize>,
    /// The shortest it was since the last sync, if it was made shorter.
    shortest: Option<usize>,
}

impl Content {
    fn resize(&mut self, length: usize) {
        if length < self.seen.len() {
            self.shortest = Some(self.shortest.map_or(length, |shortest| shortest.min(length)));
        }
        self.seen.resize(length, 0);
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        let end = at + data.len();
        if self.seen.len() < end {
            self.seen.resize(end, 0);
        }
        self.seen[at..end].copy_from_slice(data);
        self.unsynced.extend(at / PAGE..end.div_ceil(PAGE));
    }

    fn sync(&mut self) {
        if let Some(shortest) = self.shortest.take() {
            self.durable.truncate(shortest);
        }
        self.durable.resize(self.seen.len(), 0);
        for page in std::mem::take(&mut self.unsynced) {
            self.keep(page);
        }
    }

    /// Makes one page durable.
    fn keep(&mut self, page: usize) {
        let (from, to) = (page * PAGE, ((page + 1) * PAGE).min(self.seen.len()));
        if from < to {
            self.durable.resize(self.durable.len().max(to), 0);
            self.durable[from..to].copy_from_slice(&self.seen[from..to]);
        }
    }

    /// What is left of it after a cut.
    fn survive(mut self, loss: Loss, dice: &mut Dice) -> Self {
        if loss == Loss::Torn {
            if let Some(shortest) = self.shortest.take().filter(|_| dice.below(2) == 0) {
                self.durable.truncate(shortest);
            }
            for page in std::mem::take(&mut self.unsynced) {
                if dice.below(2) == 0 {
                    self.keep(page);
                }
            }
        }
        Self { seen: self.durable.clone(), durable: self.durable, ..Self::default() }
    }
}

struct Contents {
    honesty: Honesty,
    power: bool,
    /// Operations until the power goes.
    left: Option<u64>,
    next: u64,
    files: HashMap<u64, Content>,
    /// Doors that processes listen at; they lead nowhere once those are gone.
    sockets: BTreeSet<u64>,
    names: Names,
    durable: Names,
    /// The names after each change since the last sync.
    unsynced: Vec<Names>,
}

impl Contents {
    fn new(honesty: Honesty) -> Self {
        let names = Names::from([(ROOT, BTreeMap::new())]);
        let (durable, unsynced, files, sockets) = (names.clone(), Vec::new(), HashMap::new(), BTreeSet::new());
        Self { honesty, power: true, left: None, next: ROOT + 1, files, sockets, names, durable, unsynced }
    }

    fn look_up(&self, folder: u64, name: &OsStr) -> Result<u64, Errno> {
        self.names.get(&folder).and_then(|names| names.get(name)).copied().ok_or(Errno::ENOENT)
    }

    fn attributes(&self, number: u64) -> Result<FileAttr, Errno> {
        let (kind, size, perm) = match self.files.get(&number) {
            Some(file) => (FileType::RegularFile, file.seen.len() as u64, 0o600),
            None if self.sockets.contains(&number) => (FileType::Socket, 0, 0o600),
            None if self.names.contains_key(&number) => (FileType::Directory, PAGE as u64, 0o700),
            None => return Err(Errno::ENOENT),
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: PAGE as u32,
            flags: 0,
        })
    }

    fn file(&mut self, number: u64) -> Result<&mut Content, Errno> {
        self.files.get_mut(&number).ok_or(Errno::ENOENT)
    }

    /// Changes the names in one folder.
    fn rename<T>(
        &mut self,
        folder: u64,
        change: impl FnOnce(&mut BTreeMap<OsString, u64>) -> Option<T>,
    ) -> Result<T, Errno> {
        let changed = self.names.get_mut(&folder).and_then(change).ok_or(Errno::ENOENT)?;
        self.unsynced.push(self.names.clone());
        Ok(changed)
    }

    fn make(&mut self, folder: u64, name: &OsStr, kind: FileType) -> Result<FileAttr, Errno> {
        let number = self.next;
        self.next += 1;
        match kind {
            FileType::Directory => drop(self.names.insert(number, BTreeMap::new())),
            FileType::Socket => drop(self.sockets.insert(number)),
            _ => drop(self.files.insert(number, Content::default())),
        }
        self.rename(folder, |names| {
            names.insert(name.to_owned(), number);
            Some(())
        })?;
        self.attributes(number)
    }

    fn sync(&mut self, number: u64) {
        if self.honesty == Honesty::Lies {
            return;
        }
        if let Some(file) = self.files.get_mut(&number) {
            file.sync();
        }
        self.durable = self.names.clone();
        self.unsynced.clear();
    }

    fn restore(&mut self, loss: Loss, dice: &mut Dice) {
        let journal = std::mem::take(&mut self.unsynced);
        let survived = if loss == Loss::Torn { dice.below(journal.len() as u64 + 1) as usize } else { 0 };
        let names = match survived.checked_sub(1).and_then(|last| journal.into_iter().nth(last)) {
            Some(names) => names,
            None => self.durable.clone(),
        };
        let mut files = std::mem::take(&mut self.files);
        let named: BTreeSet<u64> = names.values().flat_map(|names| names.values().copied()).collect();
        for number in named.into_iter().filter(|number| !names.contains_key(number) && !self.sockets.contains(number)) {
            let file = files.remove(&number).unwrap_or_default();
            self.files.insert(number, file.survive(loss, dice));
        }
        self.names = names.clone();
        self.durable = names;
        self.power = true;
    }
}

/// The kernel's way in.
struct Door(Arc<Shared>);

impl Door {
    /// Does something that changes the disk, while there is power.
    fn change<T>(&self, what: impl FnOnce(&mut Contents) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut contents = self.0.contents();
        if !contents.power {
            return Err(Errno::EIO);
        }
        match &mut contents.left {
            Some(0) => {
                contents.power = false;
                drop(contents);
                self.0.off.notify_all();
                return Err(Errno::EIO);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        what(&mut contents)
    }

    fn remove(&self, folder: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(self.change(|contents| contents.rename(folder.0, |names| names.remove(name))), reply);
    }

    fn sync(&self, number: INodeNo, reply: ReplyEmpty) {
        let synced = self.change(|contents| {
            contents.sync(number.0);
            Ok(())
        });
        done(synced, reply);
    }
}

fn done<T>(result: Result<T, Errno>, reply: ReplyEmpty) {
    match result {
        Ok(_) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
    match result {
        Ok(attributes) => reply.entry(&NEVER, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attributes(result: Result<FileAttr, Errno>, reply: ReplyAttr) {
    match result {
        Ok(attributes) => reply.attr(&NEVER, &attributes),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Door {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let contents = self.0.contents();
        entry(contents.look_up(parent.0, name).and_then(|number| contents.attributes(number)), reply);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(self.0.contents().attributes(number.0), reply);
    }

    fn setattr(
        &self,
        _: &Request,
        number: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.change(|contents| {
            if let Some(size) = size {
                contents.file(number.0)?.resize(size as usize);
            }
            contents.attributes(number.0)
        });
        attributes(set, reply);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        entry(self.change(|contents| contents.make(parent.0, name, FileType::Directory)), reply);
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: u32, reply: ReplyEntry) {
        // the type is in the mode's upper bits: `S_IFMT`, and `S_IFSOCK` of it
        let kind = if mode & 0o170_000 == 0o140_000 { FileType::Socket } else { FileType::RegularFile };
        entry(self.change(|contents| contents.make(parent.0, name, kind)), reply);
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.change(|contents| contents.make(parent.0, name, FileType::RegularFile)) {
            Ok(attributes) => {
                reply.created(&NEVER, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(parent, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = self.change(|contents| {
            let number = contents.look_up(parent.0, name)?;
            // both halves are one change: the state between them is never durable
            contents.names.get_mut(&parent.0).ok_or(Errno::ENOENT)?.remove(name);
            contents.rename(new_parent.0, |names| {
                names.insert(new_name.to_owned(), number);
                Some(())
            })
        });
        done(renamed, reply);
    }

    fn link(&self, _: &Request, number: INodeNo, folder: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.change(|contents| {
            contents.rename(folder.0, |names| names.insert(name.to_owned(), number.0).is_none().then_some(()))?;
            contents.attributes(number.0)
        });
        entry(linked, reply);
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // without asking for it at mount time, truncation by `open` arrives as a `setattr` of its own
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.0.contents().file(number.0) {
            Ok(file) => {
                let from = file.seen.len().min(offset as usize);
                let to = file.seen.len().min(from + size as usize);
                reply.data(&file.seen[from..to]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.change(|contents| {
            contents.file(number.0)?.write(offset as usize, data);
            Ok(())
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let grown = self.change(|contents| {
            let file = contents.file(number.0)?;
            let length = file.seen.len().max((offset + length) as usize);
            if mode != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            file.resize(length);
            Ok(())
        });
        done(grown, reply);
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(number, reply);
    }

    fn fsyncdir(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.sync(number, reply);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // closing a file syncs nothing
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn readdir(&self, _: &Request, number: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let contents = self.0.contents();
        let Some(names) = contents.names.get(&number.0) else { return reply.error(Errno::ENOENT) };
        for (place, (name, number)) in (1_u64..).zip(names).skip(offset as usize) {
            let kind = if contents.names.contains_key(number) { FileType::Directory } else { FileType::RegularFile };
            if reply.add(INodeNo(*number), place, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 24, 1 << 23, 1 << 23, 1 << 20, 1 << 20, PAGE as u32, 255, PAGE as u32);
    }
}
