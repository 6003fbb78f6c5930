//! Files that bundles are appended to: what grows with the log lies here, and sled holds only where.
//!
//! Each kind of bundle has files of its own, numbered: `entries.000000`, `entries.000001`. A file that has
//! [`SEGMENT`] bytes gets no more. A bundle: `csb1`, the length of its body (4 bytes, big-endian), the index of its
//! first entry (8 bytes), the first 16 bytes of the SHA-256 of index and body, the body. One that was erased
//! begins with `csb0` and its length, and the rest is zeros.
//!
//! Nothing that is in a file says that it counts: a bundle is there when a [`Place`] is known that it lies in, and a
//! file ends where the [`Tail`] says that was kept together with the places. What lies behind it was cut off before it
//! counted, and is removed on opening.

use std::{
    fs::{self, File},
    io::ErrorKind,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;

use super::{committer::lock, note::sync_folder};
use crate::call::Fault;

/// A file as long as this is followed by another.
const SEGMENT: u32 = if cfg!(test) { 128 << 10 } else { 64 << 20 };
const MAGIC: &[u8; 4] = b"csb1";
const ERASED: &[u8; 4] = b"csb0";
/// Bytes of a bundle before its body.
const HEADER: usize = 4 + 4 + 8 + 16;
/// Bytes of a header that say what the bundle is.
const LABEL: usize = 16;
/// What one write may leave when it is cut off: it gathers some MiB at most.
const MOST_CUT: u64 = if cfg!(test) { 4 << 20 } else { 64 << 20 };
/// No body is longer: whatever claims to be was not written by us.
const LONGEST: u32 = 128 << 10;

/// Where bundles are that lie one behind the other: the number of the file, where the first begins there, how many
/// bytes they are. A run of them needs one place, and what holds the places stays small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    segment: u32,
    offset: u32,
    length: u32,
}

impl Place {
    pub(super) const BYTES: usize = 12;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let words = [self.segment, self.offset, self.length].map(u32::to_be_bytes);
        bytes.iter_mut().zip(words.as_flattened()).for_each(|(place, byte)| *place = *byte);
        bytes
    }

    pub(super) fn of_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut words = bytes.as_chunks::<4>().0.iter().map(|word| u32::from_be_bytes(*word));
        let mut word = || words.next().unwrap_or_default();
        Self { segment: word(), offset: word(), length: word() }
    }

    /// Takes in what lies right behind it; `false` when that is elsewhere.
    pub(super) fn extend(&mut self, next: Self) -> bool {
        let behind = self.segment == next.segment && self.offset.checked_add(self.length) == Some(next.offset);
        if behind {
            self.length += next.length;
        }
        behind
    }
}

/// Where the next bundle goes: the number of the last file, and its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    segment: u32,
    length: u32,
}

impl Tail {
    pub(super) const BYTES: usize = 8;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        (u64::from(self.segment) << 32 | u64::from(self.length)).to_be_bytes()
    }

    pub(super) fn of_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let both = u64::from_be_bytes(bytes);
        Self { segment: (both >> 32) as u32, length: both as u32 }
    }
}

/// One bundle of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framed {
    /// The index of its first entry.
    pub(super) first: u64,
    pub(super) place: Place,
}

/// A bundle as it lies there.
pub(super) struct Bundle {
    first: u64,
    pub(super) body: Bytes,
    /// What its header says; none where it has no header.
    sum: Option<[u8; 16]>,
}

impl Bundle {
    /// One that was kept without a header, by what checks it itself.
    pub(super) fn bare(first: u64, body: Bytes) -> Self {
        Self { first, body, sum: None }
    }

    /// Whether it has its sum.
    pub(super) fn is_whole(&self) -> bool {
        self.sum.is_none_or(|found| found == sum(self.first, &self.body))
    }
}

/// The files of one kind of bundle. One thread at a time appends.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    name: &'static str,
    writing: Mutex<Writing>,
    /// The file that was read last.
    reading: Mutex<Option<(u32, Arc<File>)>>,
}

#[derive(Debug)]
struct Writing {
    tail: Tail,
    file: File,
    /// A file was made whose name is not synced yet.
    made: bool,
}

impl Segments {
    /// Whether files of that kind are in the folder.
    pub(super) fn any(folder: &Path, name: &str) -> Result<bool, Fault> {
        Ok(!numbers(folder, name)?.is_empty())
    }

    /// Opens the files in `folder`, or makes the first, and removes what lies behind the tail. The caller syncs the
    /// folder.
    pub(super) fn open(folder: &Path, name: &'static str, tail: Tail) -> Result<Self, Fault> {
        let last = path(folder, name, tail.segment);
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(&last);
        let file = opened.map_err(|error| failed(&last, "opened", &error))?;
        let length = file.metadata().map_err(|error| failed(&last, "opened", &error))?.len();
        let Some(mut cut) = length.checked_sub(u64::from(tail.length)) else {
            let (last, known) = (last.display(), tail.length);
            return Err(Fault(format!("the store is damaged: `{last}` has {length} bytes of {known}")));
        };
        let later = numbers(folder, name)?.into_iter().filter(|number| *number > tail.segment);
        let later: Vec<PathBuf> = later.map(|number| path(folder, name, number)).collect();
        for path in &later {
            cut += fs::metadata(path).map_err(|error| failed(path, "opened", &error))?.len();
        }
        if cut > MOST_CUT {
            return Err(Fault(format!(
                "the store in `{}` is damaged: `{name}` goes on long after what `db` knows of it; restore all of the \
                 folder, or rebuild it from the published log",
                folder.display()
            )));
        }
        for path in &later {
            fs::remove_file(path).map_err(|error| failed(path, "removed", &error))?;
        }
        if length > u64::from(tail.length) {
            file.set_len(u64::from(tail.length)).map_err(|error| failed(&last, "cut", &error))?;
        }
        let writing = Mutex::new(Writing { tail, file, made: false });
        Ok(Self { folder: folder.to_owned(), name, writing, reading: Mutex::new(None) })
    }

    /// Writes a bundle behind the others. It is durable after [`Segments::sync`], and counts once its place is kept.
    pub(super) fn push(&self, first: u64, body: &[u8]) -> Result<Place, Fault> {
        let mut writing = lock(&self.writing);
        if writing.tail.length >= SEGMENT {
            let next = Tail { segment: writing.tail.segment + 1, length: 0 };
            self.synced(&writing.file, writing.tail.segment)?;
            let path = path(&self.folder, self.name, next.segment);
            let made = File::options().read(true).write(true).create(true).truncate(true).open(&path);
            *writing = Writing { tail: next, file: made.map_err(|error| failed(&path, "made", &error))?, made: true };
        }
        let Tail { segment, length: offset } = writing.tail;
        let length = u32::try_from(body.len()).ok().filter(|length| *length <= LONGEST);
        let length = length.ok_or_else(|| Fault("a bundle is too long to be written".to_owned()))?;
        let mut bundle = label(MAGIC, length, first);
        bundle.extend_from_slice(&sum(first, body));
        bundle.extend_from_slice(body);
        let written = writing.file.write_all_at(&bundle, u64::from(offset));
        written.map_err(|error| failed(&path(&self.folder, self.name, segment), "written", &error))?;
        let length = HEADER as u32 + length;
        writing.tail.length = offset + length;
        Ok(Place { segment, offset, length })
    }

    /// Makes what was written durable; gives where it ends now.
    pub(super) fn sync(&self) -> Result<Tail, Fault> {
        let mut writing = lock(&self.writing);
        self.synced(&writing.file, writing.tail.segment)?;
        if writing.made {
            sync_folder(&self.folder)?;
            writing.made = false;
        }
        Ok(writing.tail)
    }

    /// The bundles of a run, `None` when what lies there is none.
    pub(super) fn frames(&self, run: Place) -> Result<Option<Vec<Framed>>, Fault> {
        let mut frames: Vec<Framed> = Vec::new();
        let mut rest = run;
        while rest.length > 0 {
            let mut header = [0; HEADER];
            if !self.fill(&mut header, rest)? {
                return Ok(None);
            }
            let Some((length, first)) = labelled(&header) else { return Ok(None) };
            let length = HEADER as u32 + length;
            let Some(left) = rest.length.checked_sub(length) else { return Ok(None) };
            if frames.last().is_some_and(|last| last.first >= first) {
                return Ok(None);
            }
            frames.push(Framed { first, place: Place { length, ..rest } });
            rest = Place { offset: rest.offset.saturating_add(length), length: left, ..rest };
        }
        Ok(Some(frames))
    }

    /// Reads one bundle, `None` when what lies there is not the one that begins with that entry.
    pub(super) fn read(&self, framed: Framed) -> Result<Option<Bundle>, Fault> {
        let Framed { first, place } = framed;
        let Some(length) = place.length.checked_sub(HEADER as u32).filter(|length| *length <= LONGEST) else {
            return Ok(None);
        };
        let mut bundle = vec![0; place.length as usize];
        if !self.fill(&mut bundle, place)? || labelled(&bundle) != Some((length, first)) {
            return Ok(None);
        }
        let bundle = Bytes::from(bundle);
        let sum = bundle.get(LABEL..HEADER).and_then(|sum| sum.try_into().ok());
        Ok(Some(Bundle { first, body: bundle.slice(HEADER..), sum }))
    }

    /// Reads what begins at a place; `false` when the file ends before.
    fn fill(&self, bytes: &mut [u8], place: Place) -> Result<bool, Fault> {
        match self.file(place.segment)?.read_exact_at(bytes, u64::from(place.offset)) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            read => read
                .map(|()| true)
                .map_err(|error| failed(&path(&self.folder, self.name, place.segment), "read", &error)),
        }
    }

    /// Writes zeros over a bundle; durable when this returns. Done twice it does no harm.
    pub(super) fn erase(&self, place: Place) -> Result<(), Fault> {
        let path = path(&self.folder, self.name, place.segment);
        let mut label = label(ERASED, place.length.saturating_sub(HEADER as u32), 0);
        label.resize(place.length as usize, 0);
        File::options()
            .write(true)
            .open(&path)
            .and_then(|file| {
                file.write_all_at(&label, u64::from(place.offset))?;
                file.sync_data()
            })
            .map_err(|error| failed(&path, "written", &error))
    }

    fn file(&self, segment: u32) -> Result<Arc<File>, Fault> {
        let mut reading = lock(&self.reading);
        match &*reading {
            Some((number, file)) if *number == segment => Ok(Arc::clone(file)),
            _ => {
                let path = path(&self.folder, self.name, segment);
                let file = Arc::new(File::open(&path).map_err(|error| failed(&path, "opened", &error))?);
                *reading = Some((segment, Arc::clone(&file)));
                Ok(file)
            }
        }
    }

    fn synced(&self, file: &File, segment: u32) -> Result<(), Fault> {
        file.sync_data().map_err(|error| failed(&path(&self.folder, self.name, segment), "synced", &error))
    }
}

/// The numbers of the files of one kind.
fn numbers(folder: &Path, name: &str) -> Result<Vec<u32>, Fault> {
    let mut numbers = Vec::new();
    for item in fs::read_dir(folder).map_err(|error| failed(folder, "read", &error))? {
        let found = item.map_err(|error| failed(folder, "read", &error))?.file_name();
        let number: Option<u32> =
            found.to_str().and_then(|found| found.strip_prefix(name)?.strip_prefix('.')?.parse().ok());
        numbers.extend(number);
    }
    Ok(numbers)
}

fn path(folder: &Path, name: &str, number: u32) -> PathBuf {
    folder.join(format!("{name}.{number:06}"))
}

/// What a bundle begins with.
fn label(magic: &[u8; 4], length: u32, first: u64) -> Vec<u8> {
    let mut label = Vec::with_capacity(HEADER + length as usize);
    label.extend_from_slice(magic);
    label.extend_from_slice(&length.to_be_bytes());
    label.extend_from_slice(&first.to_be_bytes());
    label
}

/// What [`label`] says at the beginning of a bundle: the length of its body and its first index.
fn labelled(bundle: &[u8]) -> Option<(u32, u64)> {
    let rest = bundle.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (first, _) = rest.split_first_chunk::<8>()?;
    Some((u32::from_be_bytes(*length), u64::from_be_bytes(*first))).filter(|(length, _)| *length <= LONGEST)
}

fn sum(first: u64, body: &[u8]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    context.update(&first.to_be_bytes());
    context.update(body);
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Fault {
    Fault(format!("`{}` cannot be {what}: {error}", path.display()))
}
