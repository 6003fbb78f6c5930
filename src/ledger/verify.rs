//! Verification of a copy, offline and without configuration.
//!
//! Everything is computed again from the entries: leaf hashes, tiles, roots. Nothing that is stored beside
//! them is believed. What no computation can find is that the whole log is an older one, or was rewritten by
//! whoever holds its key: that takes a checkpoint that was kept elsewhere, a pin.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::{
    entry, holds,
    journal::Journaled,
    lock,
    note::{Checkpoint, NoteError, VerifierKey},
    store::{Head, Store as _, Stored},
    tiles::{WIDTH, read_entries_there, read_hashes, width},
    tree::{self, Frontier, Hash},
};
use crate::{
    clock::random,
    hold::{Book, Change, Hold},
    json::{Digest, Number, Value},
};

/// What verification comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything fits, and a signature covers it.
    Holds,
    /// Something does not fit: it was edited, dropped, reordered, cut off or forged.
    Tampered,
    /// Nothing contradicts, but something that is needed is missing or unreadable.
    CannotTell,
}

impl Verdict {
    /// The exit status that says it: 0, 1, 2.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Holds => 0,
            Self::Tampered => 1,
            Self::CannotTell => 2,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it comes to.
    pub verdict: Verdict,
    /// How many entries were read.
    pub entries: u64,
    /// How many of them the checkpoint covers.
    pub signed: Option<u64>,
    /// The root over all that were read, base64.
    pub root: String,
    /// The key that the checkpoint was verified with.
    pub key: Option<String>,
    /// The first entry that is bad, where it can be named.
    pub first_bad: Option<u64>,
    /// What does not fit, the first bad entry first. At most twenty are listed.
    pub problems: Vec<String>,
    /// What keeps it from being told.
    pub doubts: Vec<String>,
    /// What a reader should know besides.
    pub remarks: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.verdict {
            Verdict::Holds => write!(f, "holds: {} entries, {} signed", self.entries, self.signed.unwrap_or(0))?,
            Verdict::Tampered => match self.first_bad {
                Some(seq) => write!(f, "tampered: entry {seq} is the first that is bad")?,
                None => f.write_str("tampered")?,
            },
            Verdict::CannotTell => write!(f, "cannot tell: {} entries were read", self.entries)?,
        }
        self.problems.iter().chain(&self.doubts).chain(&self.remarks).try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Verifies what lies at `path`: a copy of the data folder, or of its `tlog/` alone. `pin` is a checkpoint that
/// was kept elsewhere, `key` the log's verifier key; without it the `ledger.pub` found there is taken at its word.
/// Nothing at `path` is changed: the store is copied to the machine's folder for temporary files and opened there.
pub fn verify(path: &Path, pin: Option<&str>, key: Option<&str>) -> Report {
    verify_pinned(path, pin.as_slice(), key)
}

/// As [`verify`], against any number of pins; two that contradict each other prove a fork.
pub fn verify_pinned(path: &Path, pins: &[&str], key: Option<&str>) -> Report {
    verify_watched(path, pins, key, &mut |_| true)
}

/// As [`verify_pinned`], telling `watch` every 256 entries how many were read; it goes no further once that says `false`.
pub fn verify_watched(path: &Path, pins: &[&str], key: Option<&str>, watch: &mut dyn FnMut(u64) -> bool) -> Report {
    let mut check = Check::default();
    let sources = Sources::find(path, &mut check);
    let key = check.key(path, key);
    let checkpoint = sources.tlog.as_deref().and_then(|tlog| check.checkpoint(tlog, key.as_ref()));
    let pins = check.pins(pins, key.as_ref());
    check.signed = checkpoint.as_ref().map(|checkpoint| checkpoint.size);
    if sources.tlog.is_none() && sources.store.is_none() {
        check.doubts.push(format!("`{}` holds neither a store nor a published log", path.display()));
    }

    let head = sources.head(&mut check, key.as_ref());
    let mut sought: BTreeMap<u64, Option<Hash>> = BTreeMap::new();
    let signed = checkpoint.iter().chain(&pins).chain(head.as_ref().and_then(|(_, signed)| signed.as_ref()));
    sought.extend(signed.map(|checkpoint| (checkpoint.size, None)));
    let whole = sources.walk(&mut check, checkpoint.as_ref().map(|checkpoint| checkpoint.size), &mut sought, watch);
    if !whole {
        // what was not read contradicts nothing
        check.doubts.push(format!("it was broken off after {} entries", check.entries));
        return check.report(key.as_ref(), checkpoint.is_some());
    }

    if let Some(checkpoint) = &checkpoint {
        match sought.get(&checkpoint.size) {
            Some(Some(root)) if *root == checkpoint.root => {}
            Some(Some(_)) => check.bad(None, "the root over the entries is not that of the checkpoint".to_owned()),
            _ => check.bad(
                Some(check.entries),
                format!("cut off: the checkpoint covers {} entries, {} are there", checkpoint.size, check.entries),
            ),
        }
    }
    if let Some((head, signed)) = &head {
        if head.frontier != check.frontier {
            check.bad(None, "the store's own head does not fit its entries".to_owned());
        }
        if let Some(signed) = signed
            && sought.get(&signed.size) != Some(&Some(signed.root))
        {
            check.bad(None, "the entries do not fit the checkpoint in the store's head".to_owned());
        }
    }
    for pin in &pins {
        let size = pin.size;
        match sought.get(&size) {
            Some(Some(root)) if *root == pin.root => {}
            Some(Some(_)) => {
                check.bad(None, format!("history rewritten: the first {size} entries are not those of the pin"));
            }
            _ => check.bad(None, format!("rolled back: the pin covers {size} entries, {} are there", check.entries)),
        }
        if pins.iter().any(|other| other.size == size && other.root != pin.root) {
            check.bad(None, format!("fork: two signed checkpoints of size {size} have different roots"));
        }
    }
    check.report(key.as_ref(), checkpoint.is_some())
}

/// What has been found so far.
#[derive(Default)]
struct Check {
    entries: u64,
    signed: Option<u64>,
    frontier: Frontier,
    bad: Vec<(Option<u64>, String)>,
    /// Entries of which one at least is bad, smaller ranges first.
    ranges: Vec<(u64, u64)>,
    doubts: Vec<String>,
    remarks: Vec<String>,
    intents: HashMap<u64, (Box<str>, bool)>,
    /// The entry of each call, and whether it is an intent.
    calls: HashMap<Box<str>, (u64, bool)>,
    /// Holds and approvers so far.
    book: Book,
    /// The origin that holds name.
    origin: Option<String>,
    /// The hold that the entry before spent, and for which call: this one has to be its intent.
    spent: Option<(Arc<Hold>, String)>,
}

impl Check {
    fn bad(&mut self, seq: Option<u64>, problem: String) {
        if self.bad.len() < 10_000 {
            self.bad.push((seq, problem));
        }
    }

    fn key(&mut self, path: &Path, key: Option<&str>) -> Option<VerifierKey> {
        let beside = [path.join("ledger.pub"), path.join("tlog/ledger.pub"), path.join("../ledger.pub")];
        let (text, given) = match key {
            Some(key) => (key.to_owned(), true),
            None => {
                let Some(text) = beside.iter().find_map(|path| fs::read_to_string(path).ok()) else {
                    self.doubts.push("there is no verifier key: give the log's `ledger.pub`".to_owned());
                    return None;
                };
                self.remarks.push(
                    "the key was found beside the log and taken at its word: compare it with one kept elsewhere"
                        .to_owned(),
                );
                (text, false)
            }
        };
        match VerifierKey::parse(text.trim_end_matches('\n')) {
            Ok(key) => Some(key),
            Err(error) if given => {
                self.doubts.push(format!("the key given is not one: {error}"));
                None
            }
            Err(error) => {
                self.bad(None, format!("`ledger.pub`: {error}"));
                None
            }
        }
    }

    fn checkpoint(&mut self, tlog: &Path, key: Option<&VerifierKey>) -> Option<Checkpoint> {
        let note = match fs::read(tlog.join("checkpoint")) {
            Ok(note) => note,
            Err(error) => {
                self.doubts.push(format!("the checkpoint cannot be read: {error}"));
                return None;
            }
        };
        let key = key?;
        let opened = String::from_utf8(note).map_err(|_| NoteError::Malformed("it is not UTF-8"));
        match opened.and_then(|note| Checkpoint::open(&note, key)) {
            Ok(checkpoint) => Some(checkpoint),
            Err(error) => {
                self.bad(None, format!("the checkpoint is not to be believed: {error}"));
                None
            }
        }
    }

    fn pins(&mut self, pins: &[&str], key: Option<&VerifierKey>) -> Vec<Checkpoint> {
        let mut out = Vec::new();
        for pin in pins {
            match key.map(|key| Checkpoint::open(pin, key)) {
                Some(Ok(pin)) => out.push(pin),
                Some(Err(error)) => self.doubts.push(format!("the pin is not a checkpoint of this log: {error}")),
                None => self.doubts.push("the pin cannot be verified without the key".to_owned()),
            }
        }
        out
    }

    /// Looks at one entry: its form, and what it says of entries before it.
    fn entry(&mut self, seq: u64, text: &[u8]) {
        if let Some(flaw) = entry::flaw(text) {
            self.bad(Some(seq), format!("entry {seq}: {flaw}"));
        }
        let Some(tree) = entry::tree(text) else { return };
        let text_of = |name: &str| tree.get(name).and_then(Value::as_str).unwrap_or_default();
        let call = text_of("call");
        self.holds(seq, text, &tree);
        match text_of("kind") {
            "call.intended" => {
                match self.calls.insert(call.into(), (seq, true)) {
                    Some((first, true)) => {
                        self.bad(Some(seq), format!("entry {seq}: `{call}` was intended before, by entry {first}"));
                    }
                    Some((first, false)) => {
                        self.bad(Some(seq), format!("entry {seq}: `{call}` was refused before, by entry {first}"));
                    }
                    None => {}
                }
                self.intents.insert(seq, (call.into(), false));
            }
            "call.settled" => {
                let intent = tree.get("intent").and_then(Value::as_number).and_then(Number::as_i64);
                let intent = intent.and_then(|intent| u64::try_from(intent).ok());
                let known = intent.and_then(|intent| self.intents.get_mut(&intent));
                let problem = match known {
                    Some((named, _)) if **named != *call => Some("the intent it names is that of another call"),
                    Some((_, settled @ false)) => {
                        *settled = true;
                        None
                    }
                    Some((_, true)) => Some("its intent already has an outcome"),
                    None => Some("it is an outcome without an intent before it"),
                };
                if let Some(problem) = problem {
                    self.bad(Some(seq), format!("entry {seq}: {problem}"));
                }
            }
            // a message that never became a call has no id
            "call.refused" if !call.is_empty() => match self.calls.insert(call.into(), (seq, false)) {
                Some((first, true)) => self.bad(
                    Some(seq),
                    format!("entry {seq}: `{call}` was intended before, by entry {first}, and then refused"),
                ),
                Some((first, false)) => {
                    self.bad(Some(seq), format!("entry {seq}: `{call}` was refused before, by entry {first}"));
                }
                None => {}
            },
            _ => {}
        }
    }

    /// Plays holds and approvers through: a decision without a hold before it, a countersignature that is not signed by
    /// the approver's key, a run without all of them, or one that is not of the call that was held.
    fn holds(&mut self, seq: u64, text: &[u8], tree: &Value) {
        let text_of = |name: &str| tree.get(name).and_then(Value::as_str);
        let texts_of = |name: &str| -> Vec<&str> {
            tree.get(name).and_then(Value::as_array).unwrap_or_default().iter().filter_map(Value::as_str).collect()
        };
        if let Some((hold, call)) = self.spent.take() {
            let same = text_of("kind") == Some("call.intended")
                && text_of("call") == Some(&call)
                && text_of("method") == Some(&hold.method)
                && text_of("tool") == Some(&hold.tool)
                && text_of("contract") == Some(&hold.contract.to_string())
                && text_of("grants") == Some(&hold.grants.to_string())
                && hold.is_of(
                    text_of("issuer").unwrap_or_default(),
                    text_of("agent").unwrap_or_default(),
                    text_of("user"),
                    text_of("task"),
                    &texts_of("chain"),
                )
                && hold.claims.workload.as_deref() == text_of("workload");
            if !same {
                self.bad(Some(seq), format!("entry {seq}: it is not the intent of the hold that was spent before it"));
            }
        }
        if !holds::concerns(text, &self.book) {
            return;
        }
        // which arguments were held, is not told by the log: no two holds are taken for the same call's
        let change = match holds::read(text, seq, || Some(Digest::of(text))) {
            Ok(change) => change,
            Err(why) => return self.bad(Some(seq), format!("entry {seq}: {why}")),
        };
        match &change {
            Change::Opened(_) => {
                let origin = text_of("origin").map(str::to_owned);
                if self.origin.is_some() && self.origin != origin {
                    self.remarks.push(format!("entry {seq}: the log has another origin from here on"));
                }
                self.origin = origin;
            }
            Change::Approved { .. } if !self.is_shown(&change, tree) => {
                self.bad(Some(seq), format!("entry {seq}: the countersignature is not one"));
            }
            Change::ApproverEnrolled { .. } if !self.is_shown(&change, tree) => {
                self.bad(Some(seq), format!("entry {seq}: the approver did not sign that they want this"));
            }
            Change::Spent { hold, call, .. } => {
                self.spent = self.book.get(hold).map(|record| (Arc::clone(&record.hold), call.clone()));
            }
            _ => {}
        }
        if let Err(rejected) = self.book.apply(&change, seq) {
            self.bad(Some(seq), format!("entry {seq}: it cannot be: {rejected}"));
        }
    }

    /// Whether the approver signed what an entry says that they did.
    fn is_shown(&self, change: &Change, tree: &Value) -> bool {
        let origin = self.origin.as_deref().unwrap_or_default();
        holds::is_shown(change, holds::proof_of(change, tree).as_ref(), origin, self.book.roster())
    }

    fn report(mut self, key: Option<&VerifierKey>, signed: bool) -> Report {
        for (first, last) in std::mem::take(&mut self.ranges) {
            let named = self.bad.iter().any(|(seq, _)| seq.is_some_and(|seq| (first..=last).contains(&seq)));
            if !named {
                self.bad(Some(first), format!("the first bad entry is one of {first} to {last}"));
            }
        }
        // what names an entry comes first, the first entry before all
        self.bad.sort_by_key(|(seq, _)| seq.unwrap_or(u64::MAX));
        if !signed && self.bad.is_empty() && self.doubts.is_empty() {
            self.doubts.push("nothing is signed yet: there is no checkpoint".to_owned());
        }
        if let Some(signed) = self.signed.filter(|signed| *signed < self.entries) {
            self.remarks
                .push(format!("entries from {signed} on are newer than the checkpoint: no signature covers them"));
        }
        let open = self.intents.values().filter(|(_, settled)| !settled).count();
        if open > 0 {
            self.remarks.push(format!("{open} calls have no outcome yet"));
        }
        let verdict = match (self.bad.is_empty(), self.doubts.is_empty()) {
            (false, _) => Verdict::Tampered,
            (true, false) => Verdict::CannotTell,
            (true, true) => Verdict::Holds,
        };
        Report {
            verdict,
            entries: self.entries,
            signed: self.signed,
            root: BASE64.encode(self.frontier.root()),
            key: key.map(ToString::to_string),
            first_bad: self.bad.iter().find_map(|(seq, _)| *seq),
            problems: self.bad.into_iter().map(|(_, problem)| problem).take(20).collect(),
            doubts: self.doubts,
            remarks: self.remarks,
        }
    }
}

/// Where the entries are.
struct Sources {
    tlog: Option<PathBuf>,
    store: Option<Copied>,
}

impl Sources {
    fn find(path: &Path, check: &mut Check) -> Self {
        let is_log = |path: &Path| path.join("checkpoint").exists() || path.join("tile").exists();
        let tlog = [path.join("tlog"), path.to_owned()].into_iter().find(|path| is_log(path));
        let folder = path.join("store");
        if !folder.join("db").exists() {
            // the key is made after the store; a lock alone is what an interrupted start leaves
            if path.join("ledger.key").exists() || path.join("ledger.lock").exists() && tlog.is_some() {
                check.bad(None, "the store is missing".to_owned());
            }
            return Self { tlog, store: None };
        }
        if path.join("ledger.lock").exists() && lock(path).is_err() {
            check.remarks.push("the ledger is in use: only what is published was read, not the store".to_owned());
            return Self { tlog, store: None };
        }
        let store = match Copied::of(&folder) {
            Ok(store) => Some(store),
            Err(problem) => {
                check.doubts.push(problem);
                None
            }
        };
        Self { tlog, store }
    }

    /// The store's head, and the checkpoint in it.
    fn head(&self, check: &mut Check, key: Option<&VerifierKey>) -> Option<(Head, Option<Checkpoint>)> {
        let head = match self.store.as_ref()?.store.as_ref()?.head() {
            Ok(head) => head,
            Err(fault) => {
                check.bad(None, fault.to_string());
                return None;
            }
        };
        let signed =
            match key.filter(|_| !head.checkpoint.is_empty()).map(|key| Checkpoint::open(&head.checkpoint, key)) {
                Some(Ok(checkpoint)) => Some(checkpoint),
                Some(Err(error)) => {
                    check.bad(None, format!("the checkpoint in the store's head is not to be believed: {error}"));
                    None
                }
                None => None,
            };
        Some((head, signed))
    }

    /// Reads every entry of every source, a bundle at a time, and notes the roots at the sizes that are sought; `false` when
    /// `watch` did not let it come to the end.
    fn walk(
        &self,
        check: &mut Check,
        published: Option<u64>,
        sought: &mut BTreeMap<u64, Option<Hash>>,
        watch: &mut dyn FnMut(u64) -> bool,
    ) -> bool {
        let store = self.store.as_ref().and_then(|copied| copied.store.as_ref());
        let tiles = self.tlog.as_deref().zip(published);
        let mut levels: Vec<Vec<Hash>> = Vec::new();
        if let Some(root) = sought.get_mut(&0) {
            *root = Some(check.frontier.root());
        }
        for index in 0.. {
            let from = index * WIDTH as u64;
            let stored = match store.map(|store| store.read_unchecked(from, WIDTH)) {
                Some(Ok(stored)) => Some(stored),
                Some(Err(fault)) => {
                    check.bad(Some(from), fault.to_string());
                    None
                }
                None => None,
            };
            let bundled = tiles.and_then(|(folder, size)| {
                let width = width(0, index, size);
                (width > 0).then(|| Bundled::read(folder, index, width, size, check))
            });
            let bundle = merge(from, stored.as_deref(), bundled.as_ref(), check);
            for text in &bundle {
                check.entry(check.entries, text);
                let hash = tree::leaf(text);
                check.frontier.push(hash);
                check.entries += 1;
                carry(&mut levels, hash, check.entries, tiles, check);
                if let Some(root) = sought.get_mut(&check.entries) {
                    *root = Some(check.frontier.root());
                }
            }
            if bundle.len() < WIDTH {
                break;
            }
            if !watch(check.entries) {
                return false;
            }
        }
        if let Some((folder, size)) = tiles.filter(|(_, size)| *size == check.entries) {
            for (level, hashes) in (0_u32..).zip(&levels).filter(|(_, hashes)| !hashes.is_empty()) {
                compare_tile(folder, level, size >> (8 * (level + 1)), hashes, size, check);
            }
        }
        true
    }
}

/// What a bundle file and its leaf tile say.
struct Bundled {
    entries: Vec<Vec<u8>>,
    hashes: Vec<Hash>,
}

impl Bundled {
    fn read(folder: &Path, index: u64, width: usize, size: u64, check: &mut Check) -> Self {
        let from = index * WIDTH as u64;
        let last = (from + width as u64).min(size) - 1;
        let entries = match read_entries_there(folder, index, width) {
            Ok((entries, whole)) => {
                if !whole {
                    check.bad(None, format!("the bundle of entries {from} to {last} has entries too many or too few"));
                }
                entries
            }
            Err(fault) => {
                check.bad(Some(from), format!("entries {from} to {last}: {fault}"));
                Vec::new()
            }
        };
        let hashes = read_hashes(folder, 0, index, width).unwrap_or_else(|fault| {
            check.bad(None, fault.to_string());
            Vec::new()
        });
        Self { entries, hashes }
    }
}

/// Holds what the store has against what is published; gives the entries to go on with.
fn merge(from: u64, stored: Option<&[Stored]>, bundled: Option<&Bundled>, check: &mut Check) -> Vec<Vec<u8>> {
    if let Some(stored) = stored {
        for (seq, entry) in (from..).zip(stored) {
            if tree::leaf(&entry.text) != entry.hash {
                check.bad(Some(seq), format!("entry {seq} does not have its hash in the store"));
            }
        }
    }
    if let Some(bundled) = bundled {
        for (seq, (text, hash)) in (from..).zip(bundled.entries.iter().zip(&bundled.hashes)) {
            if tree::leaf(text) != *hash {
                check.bad(Some(seq), format!("entry {seq} does not have its hash in the published tile"));
            }
        }
    }
    let (Some(stored), Some(bundled)) = (stored, bundled) else {
        return match (stored, bundled) {
            (Some(stored), None) => stored.iter().map(|entry| entry.text.to_vec()).collect(),
            (None, Some(bundled)) => bundled.entries.clone(),
            _ => Vec::new(),
        };
    };
    for (seq, (stored, published)) in (from..).zip(stored.iter().zip(&bundled.entries)) {
        if stored.text != *published {
            check.bad(Some(seq), format!("entry {seq}: the store and the published log differ"));
        }
    }
    if stored.len() < bundled.entries.len() {
        let seq = from + stored.len() as u64;
        check.bad(Some(seq), format!("entry {seq} is published, and the store does not have it"));
        return bundled.entries.clone();
    }
    stored.iter().map(|entry| entry.text.to_vec()).collect()
}

/// Takes a leaf into the tiles of each level, and compares those that it fills.
fn carry(levels: &mut Vec<Vec<Hash>>, leaf: Hash, size: u64, tiles: Option<(&Path, u64)>, check: &mut Check) {
    let mut up = Some(leaf);
    let mut level = 0_u32;
    while let Some(hash) = up.take() {
        if levels.len() <= level as usize {
            levels.push(Vec::new());
        }
        let Some(hashes) = levels.get_mut(level as usize) else { return };
        hashes.push(hash);
        if hashes.len() == WIDTH {
            let full = std::mem::take(hashes);
            if let Some((folder, published)) = tiles.filter(|(_, published)| size <= *published) {
                compare_tile(folder, level, (size >> (8 * (level + 1))) - 1, &full, published, check);
            }
            up = Some(tree::root_of(full));
        }
        level += 1;
    }
}

fn compare_tile(folder: &Path, level: u32, index: u64, computed: &[Hash], size: u64, check: &mut Check) {
    match read_hashes(folder, level, index, width(level, index, size)) {
        Ok(hashes) => {
            if let Some(place) = hashes.iter().zip(computed).position(|(published, computed)| published != computed) {
                let covered = 1_u64 << (8 * level);
                let first = (index * WIDTH as u64 + place as u64) * covered;
                let last = first + covered - 1;
                let seq = (level == 0).then_some(first);
                check.bad(seq, format!("entries {first} to {last} do not give the hash in the published tile"));
                if level > 0 {
                    // the tile above says which bundle, when entries and leaf tile were edited together
                    check.ranges.push((first, last));
                }
            }
        }
        Err(fault) => check.bad(None, fault.to_string()),
    }
}

/// A store that was copied, so that opening it changes nothing of the original.
struct Copied {
    store: Option<Journaled>,
    folder: PathBuf,
}

impl Copied {
    fn of(original: &Path) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("the store cannot be copied for reading: {error}");
        let random: [u8; 8] = random().map_err(|error| error.to_string())?;
        let folder = std::env::temp_dir().join(format!("countersign-verify-{:016x}", u64::from_be_bytes(random)));
        let mut copied = Self { store: None, folder: folder.clone() };
        fs::DirBuilder::new().recursive(true).create(&folder).map_err(failed)?;
        fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed)?;
        copy_folder(original, &folder.join("store"), 2).map_err(failed)?;
        let store = Journaled::open(&folder.join("store")).map_err(|fault| fault.to_string())?;
        copied.store = Some(store);
        Ok(copied)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.store = None;
        // a copy that cannot be removed is the temporary folder's to clean
        let _left = fs::remove_dir_all(&self.folder);
    }
}

fn copy_folder(from: &Path, to: &Path, depth: u32) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let kind = item.file_type()?;
        if kind.is_file() {
            fs::copy(item.path(), to.join(item.file_name()))?;
        } else if kind.is_dir() && depth > 0 {
            copy_folder(&item.path(), &to.join(item.file_name()), depth - 1)?;
        }
    }
    Ok(())
}
