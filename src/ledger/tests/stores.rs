//! One suite over every store: what its contract says, and each write failing unwritten and written.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

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
        head[7] = 3;
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
    let file = path.join("entries.000000");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
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

/// What a crash leaves, of a store whose own thread is at work: sled before what it names, so that the copy has nothing
/// of it that was not written yet.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for sleds in [true, false] {
        for name in names(from, "") {
            if from.join(&name).is_file() && sleds == ["conf", "db", "snap."].iter().any(|own| name.starts_with(own)) {
                std::fs::copy(from.join(&name), to.join(name)).unwrap();
            }
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

/// Bytes that do not compress, so that they are found in a file if they are in it.
fn noise(seed: u32, length: u32) -> Bytes {
    let blocks = (0..length.div_ceil(32)).flat_map(|block| tree::leaf(format!("{seed} {block}").as_bytes()));
    blocks.take(length as usize).collect()
}

/// Sled's own door, once its threads have let go of it.
fn sled(path: &Path) -> sled::Db {
    let open = || sled::Config::new().path(path).segment_size(8 << 20).open().ok();
    std::iter::from_fn(|| Some(open())).flatten().next().unwrap()
}

fn names(path: &Path, kind: &str) -> Vec<String> {
    let names = std::fs::read_dir(path).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(kind)).collect();
    names.sort();
    names
}

/// The names of the files that hold these bytes.
fn holders(path: &Path, bytes: &[u8]) -> Vec<String> {
    let holds = |name: &String| {
        let file = path.join(name);
        file.is_file() && std::fs::read(file).unwrap().windows(bytes.len()).any(|part| part == bytes)
    };
    names(path, "").into_iter().filter(holds).collect()
}

/// A store with `count` entries in two appends, a payload of 4 KiB beside every tenth.
fn filled(path: &Path, count: usize) -> Head {
    std::fs::create_dir_all(path).unwrap();
    let store = SledStore::open(path).unwrap();
    let all = texts(0, count);
    for part in [&all[..count / 2], &all[count / 2..]] {
        let mut next = group(&store.head().unwrap(), part);
        let beside = (next.first..next.first + part.len() as u64).filter(|seq| seq.is_multiple_of(10));
        let kept = |seq| Kept { salt: [7; 16], content: Content::Here(noise(seq as u32, 4_096)) };
        next.payloads = beside.map(|seq| (seq, kept(seq))).collect();
        assert_eq!(store.append(&next).unwrap(), Appended::Written);
    }
    store.head().unwrap()
}

/// That the entries of [`filled`] are there, and the payloads except some.
fn check_filled(store: &dyn Store, count: usize, without: &[u64]) {
    let read: Vec<_> = store.read(0, usize::MAX).unwrap().into_iter().map(|entry| entry.text).collect();
    assert_eq!(read, texts(0, count));
    for seq in 0..count as u64 {
        let there = seq.is_multiple_of(10) && !without.contains(&seq);
        let expected = there.then(|| Content::Here(noise(seq as u32, 4_096)));
        assert_eq!(store.payload(seq).unwrap().map(|kept| kept.content), expected, "{seq}");
    }
}

#[test]
fn entries_and_payloads_go_on_from_file_to_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path, 2_000);
    assert!(names(&path, "entries.").len() > 3 && names(&path, "payloads.").len() > 3);
    let store = SledStore::open(&path).unwrap();
    check_filled(&store, 2_000, &[]);
    for from in [0, 1, 499, 1_000, 1_001, 1_998] {
        assert_eq!(store.read(from, 2).unwrap()[1].text, texts(from as usize + 1, 1)[0].as_bytes());
    }
}

#[test]
fn what_a_power_cut_left_behind_the_tail_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let head = filled(&path, 500);
    for kind in ["entries", "payloads"] {
        let last = names(&path, &format!("{kind}.")).pop().unwrap();
        let number: u32 = last.rsplit('.').next().unwrap().parse().unwrap();
        let mut bytes = std::fs::read(path.join(&last)).unwrap();
        bytes.extend_from_slice(b"csb1 begun and never named");
        std::fs::write(path.join(&last), bytes).unwrap();
        std::fs::write(path.join(format!("{kind}.{:06}", number + 1)), b"so is the next").unwrap();
    }
    let store = SledStore::open(&path).unwrap();
    assert!(holders(&path, b"never named").is_empty() && holders(&path, b"so is the next").is_empty());
    check_filled(&store, 500, &[]);
    assert_eq!(store.append(&group(&head, &texts(500, 7))).unwrap(), Appended::Written);
    assert_eq!(store.read(498, 20).unwrap().len(), 9);
}

#[test]
fn files_that_do_not_belong_together_are_refused_and_left_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path, 40);
    let early = folder.path().join("early");
    copy(&path, &early);
    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.append(&group(&store.head().unwrap(), &texts(40, 10_000))).unwrap(), Appended::Written);
    drop(store);

    let (mixed, lost, short) = (folder.path().join("mixed"), folder.path().join("lost"), folder.path().join("short"));
    copy(&path, &mixed);
    std::fs::remove_file(mixed.join("db")).unwrap();
    names(&mixed, "snap.").iter().for_each(|name| std::fs::remove_file(mixed.join(name)).unwrap());
    copy(&mixed, &lost);
    for name in names(&early, "").iter().filter(|name| name.starts_with("db") || name.starts_with("snap.")) {
        std::fs::copy(early.join(name), mixed.join(name)).unwrap();
    }
    copy(&path, &short);
    let last = names(&short, "entries.").pop().unwrap();
    std::fs::File::options().write(true).open(short.join(last)).unwrap().set_len(10).unwrap();
    for (path, word) in
        [(mixed, "goes on long after"), (lost, "is not the one of its entries"), (short, "has 10 bytes of")]
    {
        let before = names(&path, "entries.");
        let fault = SledStore::open(&path).unwrap_err();
        assert!(fault.0.contains(word), "{fault}");
        assert_eq!(names(&path, "entries."), before);
    }
}

#[test]
fn a_bundle_of_payloads_that_rots_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    filled(&path, 20);
    let file = path.join("payloads.000000");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let fault = SledStore::open(&path).unwrap().payload(10).unwrap_err();
    assert!(fault.0.contains("the payloads from entry 10 on"), "{fault}");
}

#[test]
fn what_is_redacted_is_gone_from_every_file_and_its_neighbours_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let head = filled(&path, 500);
    let secret = |seq: u32| noise(seq, 4_096).slice(1_000..1_040);
    for seq in [50, 60, 300] {
        assert_eq!(holders(&path, &secret(seq)).len(), 1);
    }
    let store = Journaled::open(&path).unwrap();
    let mut redaction = group(&head, &texts(500, 1));
    redaction.redacted = vec![50, 60, 300, 303];
    assert_eq!(store.append(&redaction).unwrap(), Appended::Written);
    check_filled(&store, 501, &[50, 60, 300, 500]);
    for seq in [50, 60, 300] {
        assert_eq!(holders(&path, &secret(seq)), [""; 0]);
    }
    assert!(!holders(&path, &secret(70)).is_empty());
    drop(store);
    check_filled(&SledStore::open(&path).unwrap(), 501, &[50, 60, 300, 500]);
}

#[test]
fn a_redaction_that_a_power_cut_interrupted_is_brought_to_its_end_by_the_next_opening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let head = filled(&path, 100);
    let secret = noise(50, 4_096).slice(1_000..1_040);
    let before = std::fs::read(path.join("payloads.000000")).unwrap();
    {
        let store = SledStore::open(&path).unwrap();
        let mut redaction = group(&head, &texts(100, 1));
        redaction.redacted = vec![50];
        // the store alone leaves it to the journal to say that it is gone from there too
        assert_eq!(store.append(&redaction).unwrap(), Appended::Written);
        assert_eq!(store.to_be_erased().unwrap().unwrap().len(), 1);
    }
    // as if nothing had been erased yet, and the journal had it too
    let mut after = std::fs::read(path.join("payloads.000000")).unwrap();
    after[..before.len()].copy_from_slice(&before);
    std::fs::write(path.join("payloads.000000"), after).unwrap();
    drop(Journaled::open(&folder.path().join("store")).unwrap());
    assert_eq!(holders(&path, &secret), [""; 0]);

    let store = SledStore::open(&path).unwrap();
    assert_eq!(store.to_be_erased().unwrap(), None);
    check_filled(&store, 101, &[50, 100]);
    drop(store);
    sled(&path).insert("x", b"").unwrap();
    let mut journal = std::fs::read(path.join("journal.1")).unwrap();
    journal[5_000..5_040].copy_from_slice(&secret);
    std::fs::write(path.join("journal.1"), journal).unwrap();
    assert_eq!(holders(&path, &secret), ["journal.1"]);
    check_filled(&Journaled::open(&path).unwrap(), 101, &[50, 100]);
    assert_eq!(holders(&path, &secret), [""; 0]);
}

#[test]
fn a_store_of_the_format_before_is_read_and_goes_on_in_this_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let head = filled(&path, 100);
    {
        let db = sled(&path);
        for kind in ["e", "p"] {
            for item in db.scan_prefix(kind) {
                let (_, run) = item.unwrap();
                let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
                let name = format!("{}.{:06}", if kind == "e" { "entries" } else { "payloads" }, word(&run));
                let file = std::fs::read(path.join(name)).unwrap();
                let mut rest = &file[word(&run[4..])..word(&run[4..]) + word(&run[8..])];
                while !rest.is_empty() {
                    let (bundle, after) = rest.split_at(32 + word(&rest[4..]));
                    db.insert([kind.as_bytes(), &bundle[8..16]].concat(), &bundle[32..]).unwrap();
                    rest = after;
                }
            }
        }
        let mut first = db.get("h").unwrap().unwrap().to_vec();
        first[7] = 1;
        db.insert("h", first).unwrap();
        db.remove("t").unwrap();
        db.flush().unwrap();
    }
    for name in names(&path, "entries.").iter().chain(&names(&path, "payloads.")) {
        std::fs::remove_file(path.join(name)).unwrap();
    }
    let store = Journaled::open(&path).unwrap();
    check_filled(&store, 100, &[]);
    let mut next = group(&head, &texts(100, 50));
    next.redacted = vec![50];
    assert_eq!(store.append(&next).unwrap(), Appended::Written);
    assert_eq!(store.read(95, 10).unwrap().len(), 10);
    drop(store);
    let store = Journaled::open(&path).unwrap();
    let without: Vec<u64> = [50].into_iter().chain(100..150).collect();
    check_filled(&store, 150, &without);
    drop(store);
    assert_eq!(sled(&path).get("h").unwrap().unwrap()[7], 2);
}
