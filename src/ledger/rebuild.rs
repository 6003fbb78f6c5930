//! The store again, out of the published log: for when the one is lost and the other is not.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    entry,
    note::VerifierKey,
    sled_store::SledStore,
    store::{Appended, Group, Head, Store as _, Stored},
    tiles::{WIDTH, published, read_entries, width},
    tree::{self, Frontier},
    verify::{Verdict, verify},
};
use crate::{
    call::Fault,
    json::{Number, Value},
};

/// Makes `<folder>/store` out of the published log in `tlog`, once that verifies; gives how many entries it has.
///
/// Payloads and salts are not published, so they are gone. To go on signing as the same log, put its old
/// `ledger.key` into `folder` before it is served; without it a new key is made.
///
/// # Errors
/// [`Fault`] when the published log does not verify, or `folder` has a store already.
pub fn rebuild(tlog: &Path, folder: &Path) -> Result<u64, Fault> {
    let report = verify(tlog, None, None);
    if report.verdict != Verdict::Holds {
        return Err(Fault(format!("the published log is not rebuilt from: {report}")));
    }
    let place = folder.join("store");
    if place.exists() {
        return Err(Fault(format!("`{}` is there already: name a new folder", place.display())));
    }
    let key = report.key.as_deref().and_then(|key| VerifierKey::parse(key).ok());
    let checkpoint = key.map(|key| published(tlog, &key)).transpose()?.flatten();
    let checkpoint = checkpoint.ok_or_else(|| Fault("the published log has no checkpoint".to_owned()))?;
    let note = fs::read_to_string(tlog.join("checkpoint")).map_err(|error| Fault(error.to_string()))?;

    fs::create_dir_all(folder).map_err(|error| Fault(format!("`{}` cannot be made: {error}", folder.display())))?;
    let store = SledStore::open(&place)?;
    let mut frontier = Frontier::default();
    let mut open = BTreeSet::new();
    while frontier.size() < checkpoint.size {
        let first = frontier.size();
        let index = first / WIDTH as u64;
        let mut entries = Vec::new();
        for text in read_entries(tlog, index, width(0, index, checkpoint.size))? {
            follow(&text, frontier.size(), &mut open);
            let hash = tree::leaf(&text);
            frontier.push(hash);
            entries.push(Stored { text: text.into(), hash });
        }
        let last = frontier.size() == checkpoint.size;
        let head = Head {
            frontier: frontier.clone(),
            open: open.iter().copied().collect(),
            checkpoint: if last { note.clone() } else { String::new() },
        };
        match store.append(&Group { first, entries, head, ..Group::default() })? {
            Appended::Written => {}
            Appended::Conflict { .. } => return Err(Fault("somebody else writes to the new store".to_owned())),
        }
    }
    if frontier.root() != checkpoint.root {
        return Err(Fault("the published log changed while it was read".to_owned()));
    }
    Ok(frontier.size())
}

/// Keeps track of which intents have no outcome.
fn follow(text: &[u8], seq: u64, open: &mut BTreeSet<u64>) {
    match entry::member(text, "kind") {
        Some("call.intended") => {
            open.insert(seq);
        }
        Some("call.settled") => {
            let tree = entry::tree(text);
            let intent = tree.as_ref().and_then(|tree| tree.get("intent")).and_then(Value::as_number);
            if let Some(intent) = intent.and_then(Number::as_i64).and_then(|intent| u64::try_from(intent).ok()) {
                open.remove(&intent);
            }
        }
        _ => {}
    }
}
