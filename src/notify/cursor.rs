//! How far a receiver has come, on disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::Source;
use crate::call::Fault;

/// The number of the last event that a receiver is done with. The file is replaced whole, so that a crash leaves
/// the old one or the new one.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    pub(super) seq: u64,
    pub(super) refused: u64,
}

impl Cursor {
    /// Where the receiver of that name was, or where a new one begins. What cannot be read, or is beyond what the source
    /// has (a copy that was put back), counts as new: better told twice than not at all.
    pub(super) fn open(folder: &Path, name: &str, source: &dyn Source) -> Result<Self, Fault> {
        let path = folder.join(format!("{name}.cursor"));
        let known = read(&path)?.filter(|(seq, _)| {
            let there = *seq <= *source.newest().borrow();
            if !there {
                tracing::warn!(receiver = name, "it was told of more than the ledger has: it begins anew");
            }
            there
        });
        let cursor = match known {
            Some((seq, refused)) => Self { path, seq, refused },
            None => {
                let cursor = Self { path, seq: source.begin()?, refused: 0 };
                cursor.write()?;
                cursor
            }
        };
        Ok(cursor)
    }

    /// Moves on, in memory in any case.
    pub(super) fn advance(&mut self, seq: u64, refused: bool) -> Result<(), Fault> {
        self.seq = self.seq.max(seq);
        self.refused += u64::from(refused);
        self.write()
    }

    fn write(&self) -> Result<(), Fault> {
        let fault = |error: std::io::Error| Fault(format!("`{}` cannot be written: {error}", self.path.display()));
        let text = json!({"v": 1, "seq": self.seq, "refused": self.refused}).to_string();
        let temporary = self.path.with_extension("cursor.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary).map_err(fault)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)?;
        fs::rename(&temporary, &self.path).map_err(fault)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fault)
    }
}

fn read(path: &Path) -> Result<Option<(u64, u64)>, Fault> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(4096).read_to_string(&mut text));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => {}
        Err(error) => return Err(Fault(format!("`{}` cannot be read: {error}", path.display()))),
    }
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let known = (number("v") == Some(1)).then(|| Some((number("seq")?, number("refused")?))).flatten();
    if known.is_none() {
        tracing::warn!("`{}` says nothing that can be read: its receiver begins anew", path.display());
    }
    Ok(known)
}
