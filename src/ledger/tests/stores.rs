//! One suite over every store: what its contract says, and each write failing unwritten and written.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use crate::{
    json::Digest,
    ledger::{
        journal::Journaled,
        memory::{Cued, Failure, Memory},
        sled_store::SledStore,
        store::{Appended, Content, Group, Head, Kept, LONGEST, Snapshot, Store, Stored},
        tree::{self, Frontier},
    },
};

/// Opens a store, and opens it again on the same disk.
enum Disk {
    Memory(Memory),
    Sled(PathBuf, #[expect(dead_code, reason = "keeps the folder")] tempfile::TempDir),
}

impl Disk {
    fn all() -> [Self; 2] {
        let folder = tempfile::tempdir().unwrap();
        [Self::Memory(Memory::default()), Self::Sled(folder.path().join("store"), folder)]
    }

    fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(memory) => Arc::new(memory.clone()),
            Self::Sled(path, _) => {
                std::fs::create_dir_all(path).unwrap();
                Arc::new(Journaled::open(path).unwrap())
            }
        }
    }
}

fn group(head: &Head, texts: &[String]) -> Group {
    let first = head.frontier.size();
    let mut frontier = head.frontier.clone();
    let entries = texts.iter().map(|text| {
        let hash = tree::leaf(text.as_bytes());
        frontier.push(hash);
        Stored { text: Bytes::from(text.clone()), hash }
    });
    let entries = entries.collect();
    let head = Head { frontier, open: vec![first, first + 300], checkpoint: "note".to_owned() };
    Group { first, entries, head, ..Group::default() }
}

fn texts(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|seq| format!("{{\"entry\":{seq},\"filler\":\"{}\"}}", "x".repeat(seq % 997))).collect()
}

#[test]
fn what_was_appended_is_read_after_reopening() {
    for disk in Disk::all() {
        let all = texts(0, 500);
        {
            let store = disk.open();
            assert_eq!(store.head().unwrap(), Head::default());
            assert_eq!(store.append(&group(&store.head().unwrap(), &all[..3])).unwrap(), Appended::Written);
            assert_eq!(store.append(&group(&store.head().unwrap(), &all[3..])).unwrap(), Appended::Written);
        }
        let store = disk.open();
        let head = store.head().unwrap();
        assert_eq!(
            (head.frontier.size(), head.open.as_slice(), head.checkpoint.as_str()),
            (500, &[3, 303][..], "note")
        );
        for (from, most) in [(0, 500), (0, 1), (2, 3), (499, 10), (120, 200), (500, 5), (9_000, 1), (0, 0)] {
            let read = store.read(from, most).unwrap();
            let expected: Vec<_> = all.iter().skip(from as usize).take(most).cloned().collect();
            let read: Vec<_> = read.iter().map(|entry| String::from_utf8(entry.text.to_vec()).unwrap()).collect();
            assert_eq!(read, expected, "{from} {most}");
        }
    }
}

#[test]
fn the_longest_entries_and_payloads_fit() {
    for disk in Disk::all() {
        let store = disk.open();
        let long = vec!["a".repeat(LONGEST), "b".repeat(LONGEST), "c".to_owned()];
        let mut whole = group(&Head::default(), &long);
        let noise: Vec<u8> = (0..48_u32 << 10).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let kept = |content| Kept { salt: [7; 16], content };
        whole.payloads = vec![
            (0, kept(Content::Here(noise.clone().into()))),
            (1, kept(Content::Here(Bytes::from_static(b"small")))),
            (2, kept(Content::File(Digest([5; 32])))),
        ];
        assert_eq!(store.append(&whole).unwrap(), Appended::Written);
        drop(store);
        let store = disk.open();
        assert_eq!(store.read(1, 1).unwrap()[0].text.len(), LONGEST);
        assert_eq!(store.payload(0).unwrap(), Some(kept(Content::Here(noise.into()))));
        assert_eq!(store.payload(2).unwrap(), Some(kept(Content::File(Digest([5; 32])))));
        assert_eq!(store.payload(3).unwrap(), None);

        let mut redaction = group(&store.head().unwrap(), &["gone".to_owned()]);
        redaction.redacted = vec![1, 2];
        assert_eq!(store.append(&redaction).unwrap(), Appended::Written);
        drop(store);
        let store = disk.open();
        assert_eq!(store.payload(1).unwrap(), None);
        assert_eq!(store.payload(2).unwrap(), None);
        assert!(store.payload(0).unwrap().is_some());
    }
}

#[test]
fn another_size_is_a_conflict_and_changes_nothing() {
    for disk in Disk::all() {
        let store = disk.open();
        assert_eq!(store.append(&group(&Head::default(), &texts(0, 2))).unwrap(), Appended::Written);
        let head = store.head().unwrap();
        let stale = group(&Head::default(), &texts(0, 1));
        assert_eq!(store.append(&stale).unwrap(), Appended::Conflict { size: 2 });
        assert_eq!(store.head().unwrap(), head);
        assert_eq!(store.append(&group(&head, &texts(2, 1))).unwrap(), Appended::Written);
    }
}

#[test]
fn an_append_that_fails_is_whole_or_absent_after_reopening() {
    for disk in Disk::all() {
        for (failure, expected) in [(Failure::Unwritten, 0), (Failure::Written, 1)] {
            let before = {
                let store = Cued::new(disk.open());
                let head = store.head().unwrap();
                store.fail_next(failure);
                store.append(&group(&head, &texts(0, 1))).unwrap_err();
                store.head().unwrap_err();
                store.read(0, 1).unwrap_err();
                head.frontier.size()
            };
            let store = disk.open();
            assert_eq!(store.head().unwrap().frontier.size(), before + expected, "{failure:?}");
            assert_eq!(store.read(before, 10).unwrap().len() as u64, expected);
        }
    }
}

#[test]
fn a_snapshot_that_fails_is_the_new_or_the_old_one_after_reopening() {
    for disk in Disk::all() {
        let snapshot = |size, fill| Snapshot { size, state: Bytes::from(vec![fill; 150_000]) };
        let store = disk.open();
        assert_eq!(store.snapshot().unwrap(), None);
        store.remember(&snapshot(1, b'a')).unwrap();
        drop(store);
        for (failure, expected) in [(Failure::Unwritten, snapshot(1, b'a')), (Failure::Written, snapshot(2, b'b'))] {
            {
                let store = Cued::new(disk.open());
                store.fail_next(failure);
                store.remember(&snapshot(2, b'b')).unwrap_err();
                store.snapshot().unwrap_err();
            }
            assert_eq!(disk.open().snapshot().unwrap(), Some(expected));
        }
        let store = disk.open();
        let shorter = Snapshot { size: 3, state: Bytes::from_static(b"short") };
        store.remember(&shorter).unwrap();
        assert_eq!(store.snapshot().unwrap(), Some(shorter));
    }
}

#[test]
fn a_newer_format_and_a_strange_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::create_dir_all(&path).unwrap();
    drop(SledStore::open(&path).unwrap());
    {
        let db = sled::Config::new().path(&path).segment_size(8 << 20).open().unwrap();
        let mut head = db.get("h").unwrap().unwrap().to_vec();
        head[7] = 2;
        db.insert("h", head).unwrap();
        db.flush().unwrap();
    }
    let fault = SledStore::open(&path).unwrap_err();
    assert!(fault.0.contains("newer version"), "{fault}");
    let other = folder.path().join("other");
    {
        let db = sled::Config::new().path(&other).segment_size(8 << 20).open().unwrap();
        db.insert("mine", "yes").unwrap();
    }
    assert!(SledStore::open(&other).unwrap_err().0.contains("not a ledger"));
}

#[test]
fn a_second_opening_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::create_dir_all(&path).unwrap();
    let _first = SledStore::open(&path).unwrap();
    let fault = SledStore::open(&path).unwrap_err();
    assert!(fault.0.contains("in use by another process"), "{fault}");
}

#[test]
fn a_snapshot_that_a_kill_interrupted_keeps_nothing_from_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::create_dir_all(&path).unwrap();
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.append(&group(&Head::default(), &texts(0, 3))).unwrap(), Appended::Written);
    drop(store);
    // what sled leaves when it dies between making its next snapshot and renaming it: empty, begun, or whole with more
    for torso in [&b""[..], b"begun", &[7; 4_096]] {
        std::fs::write(path.join("snap.FFFFFFFFFFFFFFF0.generating"), torso).unwrap();
        let store = SledStore::open(&path).unwrap();
        assert_eq!(store.read(0, 9).unwrap().len(), 3);
        assert!(!path.join("snap.FFFFFFFFFFFFFFF0.generating").exists());
    }
}

#[test]
fn an_entry_that_rots_on_disk_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::create_dir_all(&path).unwrap();
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.append(&group(&Head::default(), &texts(0, 3))).unwrap(), Appended::Written);
    drop(store);
    {
        // its threads may still be letting go of it
        let open = || sled::Config::new().path(&path).segment_size(8 << 20).open().ok();
        let db = std::iter::from_fn(|| Some(open())).flatten().next().unwrap();
        let (key, bundle) = db.scan_prefix("e").next().unwrap().unwrap();
        let mut bundle = bundle.to_vec();
        *bundle.last_mut().unwrap() ^= 1;
        db.insert(key, bundle).unwrap();
        db.flush().unwrap();
    }
    let store = SledStore::open(&path).unwrap();
    let fault = store.read(0, 3).unwrap_err();
    assert!(fault.0.contains("entry 2"), "{fault}");
    store.head().unwrap_err();
}

#[test]
fn frontiers_of_the_wrong_length_are_none() {
    assert_eq!(Frontier::of_peaks(3, vec![[0; 32]]), None);
    assert!(Frontier::of_peaks(3, vec![[0; 32]; 2]).is_some());
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        if item.file_type().unwrap().is_file() {
            std::fs::copy(item.path(), to.join(item.file_name())).unwrap();
        }
    }
}

#[test]
fn what_the_journal_holds_is_there_after_a_crash_at_any_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::create_dir_all(&path).unwrap();
    let store = Journaled::open(&path).unwrap();
    let mut head = Head::default();
    // some turns of both files
    for turn in 0..40 {
        let first = head.frontier.size();
        let mut next = group(&head, &texts(first as usize, 400));
        let kept = Kept { salt: [7; 16], content: Content::Here(Bytes::from(format!("payload {turn}"))) };
        next.payloads.push((first + 1, kept));
        assert_eq!(store.append(&next).unwrap(), Appended::Written);
        head = next.head;
        assert_eq!(store.read(first, 400).unwrap(), next.entries);
        if turn % 3 != 0 {
            continue;
        }
        let crashed = folder.path().join(format!("crashed-{turn}"));
        copy(&path, &crashed);
        let store = Journaled::open(&crashed).unwrap();
        assert_eq!(store.head().unwrap(), head, "{turn}");
        let read = store.read(0, usize::MAX).unwrap();
        assert_eq!(read.len() as u64, head.frontier.size());
        for (seq, entry) in read.iter().enumerate() {
            assert_eq!(entry.text, texts(seq, 1)[0].as_bytes());
        }
        let kept = store.payload(first + 1).unwrap().unwrap();
        assert_eq!(kept.content, Content::Here(Bytes::from(format!("payload {turn}"))));
        let more = group(&head, &texts(0, 1));
        assert_eq!(store.append(&more).unwrap(), Appended::Written);
        drop(store);
        assert_eq!(Journaled::open(&crashed).unwrap().head().unwrap(), more.head);
    }
}

#[test]
fn a_group_that_was_cut_off_in_the_journal_was_never_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::create_dir_all(&path).unwrap();
    let store = Journaled::open(&path).unwrap();
    let first = group(&Head::default(), &texts(0, 3));
    assert_eq!(store.append(&first).unwrap(), Appended::Written);
    assert_eq!(store.append(&group(&first.head, &texts(3, 3))).unwrap(), Appended::Written);
    let crashed = folder.path().join("crashed");
    copy(&path, &crashed);
    drop(store);
    let mut journal = std::fs::read(crashed.join("journal.0")).unwrap();
    let end = journal.iter().rposition(|byte| *byte != 0).unwrap();
    journal[end] ^= 1;
    std::fs::write(crashed.join("journal.0"), journal).unwrap();
    let store = Journaled::open(&crashed).unwrap();
    assert_eq!(store.head().unwrap(), first.head);
    assert_eq!(store.append(&group(&first.head, &texts(9, 1))).unwrap(), Appended::Written);
    assert_eq!(store.read(3, 9).unwrap().len(), 1);
}

#[test]
fn what_is_redacted_is_gone_from_the_journal_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    std::fs::create_dir_all(&path).unwrap();
    let store = Journaled::open(&path).unwrap();
    let mut first = group(&Head::default(), &texts(0, 1));
    first
        .payloads
        .push((0, Kept { salt: [7; 16], content: Content::Here(Bytes::from_static(b"a secret of some length")) }));
    assert_eq!(store.append(&first).unwrap(), Appended::Written);
    let holds = || {
        let journal = std::fs::read(path.join("journal.0")).unwrap();
        journal.windows(8).any(|part| part == b"a secret")
    };
    assert!(holds() && store.payload(0).unwrap().is_some());
    let mut redaction = group(&first.head, &texts(1, 1));
    redaction.redacted.push(0);
    assert_eq!(store.append(&redaction).unwrap(), Appended::Written);
    assert!(!holds() && store.payload(0).unwrap().is_none());
    assert_eq!(store.head().unwrap(), redaction.head);
    assert_eq!(store.append(&group(&redaction.head, &texts(2, 1))).unwrap(), Appended::Written);
}

#[test]
fn a_journal_that_goes_on_elsewhere_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (path, other) = (folder.path().join("store"), folder.path().join("other"));
    for path in [&path, &other] {
        std::fs::create_dir_all(path).unwrap();
    }
    let store = Journaled::open(&path).unwrap();
    let first = group(&Head::default(), &texts(0, 3));
    assert_eq!(store.append(&first).unwrap(), Appended::Written);
    drop(store);
    let store = Journaled::open(&path).unwrap();
    assert_eq!(store.append(&group(&first.head, &texts(3, 3))).unwrap(), Appended::Written);
    drop(Journaled::open(&other).unwrap());
    std::fs::copy(path.join("journal.0"), other.join("journal.0")).unwrap();
    let fault = Journaled::open(&other).unwrap_err();
    assert!(fault.0.contains("goes on at 3"), "{fault}");
}
