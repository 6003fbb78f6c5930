//! Payloads too long for the store: a compressed file each, by its salted digest.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::note::{replace, sync_folder};
use crate::{call::Fault, json::Digest};

/// What a file may hold when it is unpacked again, bytes: more than any door or upstream lets through.
const LONGEST: u64 = 64 << 20;

/// Writes a payload; durable when this returns.
pub(super) fn keep(folder: &Path, name: &Digest, payload: &[u8]) -> Result<(), Fault> {
    let path = path(folder, name);
    let shelf = path.parent().unwrap_or(folder);
    if !shelf.exists() {
        fs::create_dir_all(shelf).map_err(|error| failed(&path, "written", &error))?;
        sync_folder(folder)?;
        folder.parent().map_or(Ok(()), sync_folder)?;
    }
    let packed = zstd::bulk::compress(payload, 1).map_err(|error| failed(&path, "written", &error))?;
    replace(&path, &packed, 0o600)
}

/// Reads a payload; `None` when it is gone.
pub(super) fn read(folder: &Path, name: &Digest) -> Result<Option<Bytes>, Fault> {
    let path = path(folder, name);
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(&path, "read", &error)),
    };
    let mut payload = Vec::new();
    zstd::stream::read::Decoder::new(file)
        .and_then(|unpacked| unpacked.take(LONGEST).read_to_end(&mut payload))
        .map_err(|error| failed(&path, "read", &error))?;
    Ok(Some(payload.into()))
}

/// Removes a payload, if it is there.
pub(super) fn remove(folder: &Path, name: &Digest) -> Result<(), Fault> {
    let path = path(folder, name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&path, "removed", &error)),
        _ => path.parent().filter(|shelf| shelf.exists()).map_or(Ok(()), sync_folder),
    }
}

fn path(folder: &Path, name: &Digest) -> PathBuf {
    let hex = name.to_string().replace("sha256:", "");
    folder.join(hex.get(..2).unwrap_or_default()).join(hex)
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Fault {
    Fault(format!("`{}` cannot be {what}: {error}", path.display()))
}
