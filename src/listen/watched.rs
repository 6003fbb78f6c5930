//! Files that are read again when they change.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long changed files have to lie still before they are read, and how often that is waited for.
const STILL: Duration = Duration::from_millis(200);
const STILL_TRIES: usize = 50;
/// Bytes of one file.
const MOST: u64 = 1 << 20;

/// Some files that belong together.
#[derive(Debug)]
pub(crate) struct Watched {
    files: Vec<PathBuf>,
    /// The files as they were before they were last read.
    seen: Mutex<Vec<Fingerprint>>,
}

type Fingerprint = Option<(u64, u64, i64, i64)>;

impl Watched {
    /// Files that will be read.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        Self { files, seen: Mutex::default() }
    }

    /// Has them read by one at a time, and remembers how they were before.
    pub(crate) fn read<T>(&self, read: impl FnOnce() -> T) -> T {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = self.fingerprints();
        read()
    }

    /// Waits until they are others than were read, and lie still. `false`: `stop` was true before.
    pub(crate) async fn changed(&self, stop: &mut watch::Receiver<bool>) -> bool {
        loop {
            if stopped(stop, LOOK).await {
                return false;
            }
            let mut now = self.fingerprints();
            if now == *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
                continue;
            }
            // files that belong together are seldom written in one moment
            for _ in 0..STILL_TRIES {
                if stopped(stop, STILL).await {
                    return false;
                }
                let later = self.fingerprints();
                let still = later == now;
                now = later;
                if still {
                    break;
                }
            }
            return true;
        }
    }

    /// What changes when a file does, or is replaced, also through a link.
    fn fingerprints(&self) -> Vec<Fingerprint> {
        let of = |file: &PathBuf| {
            let data = fs::metadata(file).ok()?;
            Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
        };
        self.files.iter().map(of).collect()
    }
}

/// Waits for that long. `true`: `stop` came first.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>, wait: Duration) -> bool {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => true,
        () = sleep(wait) => false,
    }
}

/// What a file holds, if it is not too much.
pub(crate) fn bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(path)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST + 1), &mut text)?;
    if text.len() as u64 > MOST {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}
