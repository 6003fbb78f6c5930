//! What verification must detect, a case each.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::*;
use crate::ledger::{
    rebuild::rebuild,
    tiles::{read_entries, tile_path},
    verify::{Report, Verdict, verify, verify_pinned},
};

/// A log of 600 entries, and its copy when it had 400 and a checkpoint over them.
struct Genuine {
    now: tempfile::TempDir,
    before: tempfile::TempDir,
    pin: String,
}

fn genuine() -> &'static Genuine {
    static GENUINE: OnceLock<Genuine> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let now = tempfile::tempdir().unwrap();
        let before = tempfile::tempdir().unwrap();
        write(now.path(), 200, "rent");
        copy(now.path(), before.path());
        let pin = fs::read_to_string(now.path().join("tlog/checkpoint")).unwrap();
        write(now.path(), 100, "rent");
        Genuine { now, before, pin }
    })
}

fn write(folder: &Path, calls: usize, what: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let house = House::new();
        let ledger = open(folder);
        for _ in 0..calls {
            ledger.call(&house, "files__look", what).await;
        }
        ledger.close().await;
    });
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let place = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &place);
        } else {
            fs::copy(item.path(), place).unwrap();
        }
    }
}

/// A copy of the whole folder, or of the published log alone, for tampering with.
fn copy_of(what: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("copy");
    copy(&genuine().now.path().join(what), &place);
    (folder, place)
}

fn tampered(report: &Report, first_bad: Option<u64>, word: &str) {
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");
    assert_eq!(report.verdict.exit_code(), 1);
    assert_eq!(report.first_bad, first_bad, "{report}");
    assert!(report.problems.iter().any(|problem| problem.contains(word)), "`{word}` in {report}");
}

fn bundle_of(tlog: &Path, index: u64) -> PathBuf {
    tlog.join(tile_path(None, index, if index == 2 { 88 } else { 256 }))
}

fn edit_bundle(tlog: &Path, index: u64, edit: impl FnOnce(&mut Vec<Vec<u8>>)) {
    let mut entries = read_entries(tlog, index, if index == 2 { 88 } else { 256 }).unwrap();
    edit(&mut entries);
    let mut bytes = Vec::new();
    for entry in &entries {
        bytes.extend_from_slice(&(entry.len() as u16).to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    fs::write(bundle_of(tlog, index), bytes).unwrap();
}

fn forge(entry: &mut Vec<u8>) {
    let text = String::from_utf8(entry.clone()).unwrap();
    *entry = text.replace("\"v\":1", "\"v\":1,\"zeal\":true").into_bytes();
}

fn edit_leaf(tlog: &Path, seq: u64, entry: &[u8]) {
    let index = seq / 256;
    let path = tlog.join(tile_path(Some(0), index, if index == 2 { 88 } else { 256 }));
    let mut hashes = fs::read(&path).unwrap();
    let at = (seq % 256) as usize * 32;
    hashes[at..at + 32].copy_from_slice(&tree::leaf(entry));
    fs::write(path, hashes).unwrap();
}

fn edit_store(folder: &Path, seq: u64, keep_hash: bool) {
    let db = sled::Config::new().path(folder.join("store")).segment_size(8 << 20).open().unwrap();
    let mut key = b"e".to_vec();
    key.extend_from_slice(&seq.to_be_bytes());
    let (_, place) = db.range(..=key).next_back().unwrap().unwrap();
    let word = |at: usize| u32::from_be_bytes(place[at..at + 4].try_into().unwrap());
    let file = folder.join(format!("store/entries.{:06}", word(0)));
    let mut bundle = fs::read(&file).unwrap();
    let mut frame = word(4) as usize;
    let frame = loop {
        let next = frame + 32 + u32::from_be_bytes(bundle[frame + 4..frame + 8].try_into().unwrap()) as usize;
        let end = (word(4) + word(8)) as usize;
        if next == end || u64::from_be_bytes(bundle[next + 8..next + 16].try_into().unwrap()) > seq {
            break frame;
        }
        frame = next;
    };
    let mut at = frame + 32;
    let mut here = u64::from_be_bytes(bundle[frame + 8..frame + 16].try_into().unwrap());
    loop {
        let length = usize::from(u16::from_be_bytes([bundle[at], bundle[at + 1]]));
        if here == seq {
            let place = at + 34 + length - 3;
            bundle[place] = if bundle[place] == b'1' { b'2' } else { b'1' };
            if !keep_hash {
                let hash = tree::leaf(&bundle[at + 34..at + 34 + length]);
                bundle[at + 2..at + 34].copy_from_slice(&hash);
            }
            break;
        }
        at += 34 + length;
        here += 1;
    }
    fs::write(file, bundle).unwrap();
}

#[test]
fn what_nobody_touched_holds() {
    for what in ["", "tlog"] {
        let (_folder, path) = copy_of(what);
        let report = verify(&path, Some(&genuine().pin), None);
        assert_eq!((report.verdict, report.entries, report.signed), (Verdict::Holds, 600, Some(600)), "{report}");
        assert!(report.remarks.iter().any(|remark| remark.contains("taken at its word")));
        let key = fs::read_to_string(path.join("ledger.pub")).unwrap();
        let report = verify(&path, None, Some(&key));
        assert_eq!((report.verdict, report.remarks.as_slice()), (Verdict::Holds, &[][..]), "{report}");
    }
}

#[test]
fn verification_changes_nothing() {
    let (_folder, path) = copy_of("");
    let listing = |path: &Path| {
        let mut files: Vec<_> = fs::read_dir(path.join("store")).unwrap().map(|item| item.unwrap()).collect();
        files.sort_by_key(fs::DirEntry::path);
        files.iter().map(|file| (file.path(), fs::read(file.path()).ok())).collect::<Vec<_>>()
    };
    let before = listing(&path);
    assert_eq!(verify(&path, None, None).verdict, Verdict::Holds);
    assert!(before == listing(&path));
}

#[test]
fn an_entry_edited_in_place() {
    let (_folder, tlog) = copy_of("tlog");
    edit_bundle(&tlog, 1, |entries| forge(&mut entries[10]));
    tampered(&verify(&tlog, None, None), Some(266), "does not have its hash");
}

#[test]
fn an_entry_deleted() {
    let (_folder, tlog) = copy_of("tlog");
    edit_bundle(&tlog, 0, |entries| drop(entries.remove(10)));
    tampered(&verify(&tlog, None, None), Some(10), "does not have its hash");
}

#[test]
fn two_entries_reordered() {
    let (_folder, tlog) = copy_of("tlog");
    edit_bundle(&tlog, 0, |entries| entries.swap(10, 12));
    tampered(&verify(&tlog, None, None), Some(10), "does not have its hash");
}

#[test]
fn a_forged_entry_inserted() {
    let (_folder, tlog) = copy_of("tlog");
    edit_bundle(&tlog, 0, |entries| {
        let mut forged = entries[10].clone();
        forge(&mut forged);
        entries.insert(10, forged);
    });
    tampered(&verify(&tlog, None, None), Some(10), "does not have its hash");
}

#[test]
fn the_tail_cut_off() {
    let (_folder, tlog) = copy_of("tlog");
    fs::remove_file(bundle_of(&tlog, 2)).unwrap();
    tampered(&verify(&tlog, None, None), Some(512), "cannot be read");
    let (_folder, tlog) = copy_of("tlog");
    edit_bundle(&tlog, 2, |entries| entries.truncate(80));
    tampered(&verify(&tlog, None, None), Some(592), "cut off");
}

#[test]
fn an_entry_and_its_leaf_tile_edited() {
    let (_folder, tlog) = copy_of("tlog");
    for (seq, first_bad, word) in
        [(266, Some(256), "one of 256 to 511"), (520, Some(256), "is not that of the checkpoint")]
    {
        let mut forged = Vec::new();
        edit_bundle(&tlog, seq / 256, |entries| {
            forge(&mut entries[seq as usize % 256]);
            forged.clone_from(&entries[seq as usize % 256]);
        });
        edit_leaf(&tlog, seq, &forged);
        tampered(&verify(&tlog, None, None), first_bad, word);
    }
}

#[test]
fn a_checkpoint_edited() {
    for (from, to) in
        [("\n600\n", "\n599\n"), ("\n600\n", "\n0600\n"), ("example.test/ledger\n600", "other.test/ledger\n600")]
    {
        let (_folder, tlog) = copy_of("tlog");
        let note = fs::read_to_string(tlog.join("checkpoint")).unwrap();
        fs::write(tlog.join("checkpoint"), note.replace(from, to)).unwrap();
        tampered(&verify(&tlog, None, None), None, "not to be believed");
    }
    let (_folder, tlog) = copy_of("tlog");
    let note = fs::read_to_string(tlog.join("checkpoint")).unwrap();
    fs::write(tlog.join("checkpoint"), format!("{note}trailing")).unwrap();
    tampered(&verify(&tlog, None, None), None, "not to be believed");
}

#[test]
fn the_checkpoint_of_another_log() {
    let other = tempfile::tempdir().unwrap();
    write(other.path(), 300, "rent");
    let foreign = fs::read(other.path().join("tlog/checkpoint")).unwrap();
    let (_folder, tlog) = copy_of("tlog");
    fs::write(tlog.join("checkpoint"), foreign).unwrap();
    tampered(&verify(&tlog, None, None), None, "does not carry a signature");
    // one whose key is given and does not fit is no better
    let key = fs::read_to_string(other.path().join("ledger.pub")).unwrap();
    tampered(&verify(&genuine().now.path().join("tlog"), None, Some(&key)), None, "does not carry a signature");
}

#[test]
fn a_rollback_shows_against_a_pin_only() {
    let pin = fs::read_to_string(genuine().now.path().join("tlog/checkpoint")).unwrap();
    for what in ["", "tlog"] {
        let path = genuine().before.path().join(what);
        assert_eq!(verify(&path, None, None).verdict, Verdict::Holds);
        tampered(&verify(&path, Some(&pin), None), None, "rolled back: the pin covers 600 entries, 400 are there");
    }
}

/// Another history under the same key.
fn rewritten() -> tempfile::TempDir {
    let other = tempfile::tempdir().unwrap();
    fs::copy(genuine().now.path().join("ledger.key"), other.path().join("ledger.key")).unwrap();
    write(other.path(), 300, "something else");
    other
}

#[test]
fn a_rewrite_by_the_keys_holder_shows_against_a_pin_only() {
    let other = rewritten();
    assert_eq!(verify(other.path(), None, None).verdict, Verdict::Holds);
    tampered(&verify(other.path(), Some(&genuine().pin), None), None, "history rewritten");
}

#[test]
fn a_fork_shows_against_two_pins() {
    let other = rewritten();
    let here = fs::read_to_string(genuine().now.path().join("tlog/checkpoint")).unwrap();
    let there = fs::read_to_string(other.path().join("tlog/checkpoint")).unwrap();
    tampered(&verify_pinned(other.path(), &[&here, &there], None), None, "fork");
}

#[test]
fn a_pin_that_is_not_of_this_log_cannot_tell() {
    let report = verify(genuine().now.path(), Some("no checkpoint"), None);
    assert_eq!((report.verdict, report.verdict.exit_code()), (Verdict::CannotTell, 2), "{report}");
}

#[test]
fn a_store_that_says_otherwise_than_the_published_log() {
    for (keep_hash, word) in
        [(true, "does not have its hash in the store"), (false, "the store and the published log differ")]
    {
        let (_folder, path) = copy_of("");
        edit_store(&path, 300, keep_hash);
        tampered(&verify(&path, None, None), Some(300), word);
    }
}

#[test]
fn a_store_that_was_rolled_back_alone() {
    let (_folder, path) = copy_of("");
    fs::remove_dir_all(path.join("store")).unwrap();
    copy(&genuine().before.path().join("store"), &path.join("store"));
    tampered(&verify(&path, None, None), Some(400), "the store does not have it");
    let fault = Ledger::open(&path, options(), clock()).unwrap_err();
    assert!(fault.to_string().contains("rolled back"), "{fault}");
    fs::remove_dir_all(path.join("store")).unwrap();
    tampered(&verify(&path, None, None), None, "the store is missing");
}

#[test]
fn a_store_that_does_not_open_cannot_tell() {
    let (_folder, path) = copy_of("");
    fs::write(path.join("store/db"), b"not a store").unwrap();
    let report = verify(&path, None, None);
    assert_ne!(report.verdict, Verdict::Holds, "{report}");
}

#[test]
fn without_key_checkpoint_or_log_it_cannot_tell() {
    let (_folder, tlog) = copy_of("tlog");
    fs::remove_file(tlog.join("ledger.pub")).unwrap();
    assert_eq!(verify(&tlog, None, None).verdict, Verdict::CannotTell);
    let (_folder, tlog) = copy_of("tlog");
    fs::remove_file(tlog.join("checkpoint")).unwrap();
    assert_eq!(verify(&tlog, None, None).verdict, Verdict::CannotTell);
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(verify(empty.path(), None, None).verdict, Verdict::CannotTell);
}

#[test]
fn the_store_is_rebuilt_from_the_published_log() {
    let (_folder, tlog) = copy_of("tlog");
    let new = tempfile::tempdir().unwrap();
    let place = new.path().join("data");
    assert_eq!(rebuild(&tlog, &place).unwrap(), 600);
    rebuild(&tlog, &place).unwrap_err();
    fs::copy(genuine().now.path().join("ledger.key"), place.join("ledger.key")).unwrap();
    write(&place, 10, "more");
    let report = verify(&place, Some(&genuine().pin), None);
    assert_eq!((report.verdict, report.entries), (Verdict::Holds, 620), "{report}");

    edit_bundle(&tlog, 0, |entries| entries.swap(1, 2));
    rebuild(&tlog, &new.path().join("other")).unwrap_err();
}

#[test]
fn damaged_tiles_are_published_again_and_never_below_what_was() {
    let (_folder, path) = copy_of("");
    fs::remove_dir_all(path.join("tlog/tile")).unwrap();
    write(&path, 1, "more");
    let report = verify(&path, Some(&genuine().pin), None);
    assert_eq!((report.verdict, report.signed), (Verdict::Holds, Some(602)), "{report}");
}
