//! The ledger under power cuts at any moment, its making and its start included: what was acknowledged is there,
//! it verifies, and no checkpoint that anybody saw is contradicted.
//!
//! `COUNTERSIGN_POWER_CUTS` is how many cuts each test makes, `COUNTERSIGN_POWER_SEED` what they are drawn from.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use countersign::{
    clock::Clock,
    ledger::{
        Ledger, Options,
        verify::{Verdict, verify, verify_pinned},
    },
};
use serde_json::Value;

use crate::{
    disk::{Dice, Disk, Honesty, Loss},
    house::{EVERYTHING, House, http_upstream},
    ledger_crash::start,
    recorder::Recorder,
    wire::Request,
};

fn cuts() -> u64 {
    std::env::var("COUNTERSIGN_POWER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(12)
}

fn dice(test: u64) -> Dice {
    let seed = std::env::var("COUNTERSIGN_POWER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    Dice(seed << 8 | test)
}

/// A disk, or a line that says by name what is skipped and why.
fn disk(test: &str, honesty: Honesty) -> Option<Disk> {
    match Disk::mount(honesty) {
        Ok(disk) => Some(disk),
        Err(why) => {
            // past the capture of output, so that it is seen that this proved nothing
            #[expect(clippy::explicit_write, reason = "the test runner keeps what `eprintln!` says to itself")]
            writeln!(std::io::stderr(), "skipped: power::{test}: {why}").unwrap();
            None
        }
    }
}

/// Writes until the power goes after `operations` changes of the disk; adds what was acknowledged to `acknowledged`.
fn write_until_cut(role: &str, disk: &Disk, data: &Path, acks: &Path, operations: u64, acknowledged: &mut String) {
    disk.cut_after(operations);
    let mut child = start(role, data, acks).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::scope(|scope| {
        let printed =
            scope.spawn(|| lines.map_while(Result::ok).filter(|line| line.parse::<u64>().is_ok()).collect::<Vec<_>>());
        assert!(disk.wait_for_cut(Duration::from_secs(30)), "the writer does not get as far as the cut");
        child.kill().unwrap();
        child.wait().unwrap();
        for line in printed.join().unwrap() {
            acknowledged.push_str(&line);
            acknowledged.push('\n');
        }
    });
    std::fs::write(acks, acknowledged).unwrap();
}

/// When the power goes: every third time while the ledger is made or opened.
fn moment(turn: u64, dice: &mut Dice) -> u64 {
    if turn.is_multiple_of(3) { dice.below(30) } else { 20 + dice.below(700) }
}

fn cut_again_and_again(disk: &Disk, loss: Loss, mut dice: Dice) {
    let folder = tempfile::tempdir().unwrap();
    let (data, acks) = (disk.path().join("data"), folder.path().join("acks"));
    let (mut acknowledged, mut pins) = (String::new(), Vec::new());
    for turn in 0..cuts() {
        let operations = moment(turn, &mut dice);
        write_until_cut("writer", disk, &data, &acks, operations, &mut acknowledged);
        // what could be read just before the cut may have been read by somebody, who now holds a checkpoint
        pins.extend(std::fs::read_to_string(data.join("tlog/checkpoint")).ok().filter(|note| !note.is_empty()));
        disk.restore(loss, &mut dice);
        let at = format!("turn {turn}, cut after {operations} operations, {loss:?}");
        let found = verify(&data, None, None);
        assert_ne!(found.verdict, Verdict::Tampered, "{at}: as it was left: {found}");
        let verified = start("verify", &data, &acks).output().unwrap();
        assert!(verified.status.success(), "{at}: {verified:?}");
        let pins: Vec<&str> = pins.iter().map(String::as_str).collect();
        let found = verify_pinned(&data, &pins, None);
        assert_eq!(found.verdict, Verdict::Holds, "{at}: after recovery: {found}");
    }
    assert!(acknowledged.lines().count() > 20, "hardly anything was written: {acknowledged}");
}

#[test]
fn what_was_acknowledged_survives_a_cut_that_loses_everything_unsynced() {
    let Some(disk) = disk("what_was_acknowledged_survives_a_cut_that_loses_everything_unsynced", Honesty::Honest)
    else {
        return;
    };
    cut_again_and_again(&disk, Loss::All, dice(11));
}

#[test]
fn what_was_acknowledged_survives_a_cut_that_tears() {
    let Some(disk) = disk("what_was_acknowledged_survives_a_cut_that_tears", Honesty::Honest) else { return };
    cut_again_and_again(&disk, Loss::Torn, dice(12));
}

#[test]
fn a_ledger_whose_making_was_cut_short_is_made_at_the_next_start() {
    let Some(disk) = disk("a_ledger_whose_making_was_cut_short_is_made_at_the_next_start", Honesty::Honest) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (acks, mut dice) = (folder.path().join("acks"), dice(15));
    for turn in 0..cuts() {
        let (operations, loss) = (dice.below(50), if turn.is_multiple_of(2) { Loss::All } else { Loss::Torn });
        let (data, mut acknowledged) = (disk.path().join(format!("data-{turn}")), String::new());
        write_until_cut("writer", &disk, &data, &acks, operations, &mut acknowledged);
        disk.restore(loss, &mut dice);
        let at = format!("turn {turn}, cut after {operations} operations, {loss:?}");
        let found = verify(&data, None, None);
        assert_ne!(found.verdict, Verdict::Tampered, "{at}: as it was left: {found}");
        let verified = start("verify", &data, &acks).output().unwrap();
        assert!(verified.status.success(), "{at}: {verified:?}");
    }
}

#[test]
fn a_disk_that_does_not_sync_is_caught() {
    let Some(disk) = disk("a_disk_that_does_not_sync_is_caught", Honesty::Lies) else { return };
    caught(&disk, "writer", "verify");
}

#[test]
fn a_writer_that_acknowledges_before_it_synced_is_caught() {
    let Some(disk) = disk("a_writer_that_acknowledges_before_it_synced_is_caught", Honesty::Honest) else { return };
    caught(&disk, "careless", "careless-verify");
}

/// That the test can fail: within a few cuts something acknowledged is missing.
fn caught(disk: &Disk, writer: &str, verifier: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (data, acks) = (disk.path().join("data"), folder.path().join("acks"));
    let (mut dice, mut acknowledged) = (dice(13), String::new());
    for _ in 0..10 {
        write_until_cut(writer, disk, &data, &acks, 200 + dice.below(300), &mut acknowledged);
        disk.restore(Loss::All, &mut dice);
        if start(verifier, &data, &acks).output().unwrap().status.code() == Some(3) {
            return;
        }
    }
    panic!("nothing was lost in ten cuts, of {} acknowledgements", acknowledged.lines().count());
}

/// A whole house on the disk, under load: what reached the tool server was written down before, whatever moment the
/// power goes; who was told that a call with effects is done finds it so; the rest is settled as `unknown`.
#[test]
fn no_call_reached_its_upstream_without_an_intent_that_survives() {
    let Some(disk) = disk("no_call_reached_its_upstream_without_an_intent_that_survives", Honesty::Honest) else {
        return;
    };
    let upstream = Recorder::usual();
    let mut house = House::new(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    let (file, data) = (house.path().join("countersign.toml"), disk.path().join("data"));
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("\"data\"", &format!("{data:?}"))).unwrap();
    house.register();
    let token = house.token("tester", &["--ttl", "1h"]);
    let mut dice = dice(14);
    let (mut told, mut redacted) = (BTreeSet::new(), BTreeSet::new());
    for turn in 0..cuts().div_ceil(2) {
        let (loss, operations) = (
            if turn.is_multiple_of(2) { Loss::All } else { Loss::Torn },
            10 + dice.below(if turn.is_multiple_of(3) { 60 } else { 900 }),
        );
        disk.cut_after(operations);
        house.spawn();
        let (house_now, token, stop) = (&house, &token, AtomicBool::new(false));
        told.extend(std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let stop = &stop;
                    scope.spawn(move || load(house_now, token, &format!("{turn} {worker}"), stop))
                })
                .collect();
            let redacting = scope.spawn(|| redact(house_now, &stop));
            let cut = disk.wait_for_cut(Duration::from_secs(30));
            stop.store(true, Ordering::SeqCst);
            redacted.extend(redacting.join().unwrap());
            assert!(cut, "the house does not get as far as the cut");
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        }));
        house.kill();
        disk.restore(loss, &mut dice);
        let found = verify(&data, None, None);
        assert_ne!(found.verdict, Verdict::Tampered, "turn {turn}, {operations} operations, {loss:?}: {found}");
    }
    assert!(told.len() > 5, "there was hardly any load: {} calls", told.len());
    let options = Options { origin: "countersign.local/log".to_owned(), batched_reads: false, keep_payloads: true };
    let (ledger, _) = Ledger::open(&data, options, Clock::System).unwrap();
    let (mut gone, mut kept) = (BTreeSet::new(), BTreeSet::new());
    let (mut intents, mut outcomes) = (BTreeMap::new(), BTreeMap::new());
    let mut from = 0;
    while from < ledger.size() {
        for entry in ledger.entries(from, 512).unwrap() {
            from = entry.seq + 1;
            let tree: Value = serde_json::from_slice(&entry.text).unwrap();
            match tree["kind"].as_str().unwrap() {
                "call.intended" => {
                    let payload = ledger.payload(entry.seq).unwrap().expect("arguments are kept beside an intent");
                    let seen_before = intents.insert(String::from_utf8(payload.bytes.to_vec()).unwrap(), entry.seq);
                    assert_eq!(seen_before, None, "two intents for one call");
                }
                "payload.redacted" => {
                    gone.insert(tree["entry"].as_u64().unwrap());
                }
                "call.settled" => {
                    if ledger.payload(entry.seq).unwrap().is_some() {
                        kept.insert(entry.seq);
                    }
                    let outcome = tree["outcome"].as_str().unwrap().to_owned();
                    assert_eq!(
                        outcomes.insert(tree["intent"].as_u64().unwrap(), outcome),
                        None,
                        "two outcomes: {tree}"
                    );
                }
                _ => {}
            }
        }
    }
    for call in upstream.calls() {
        assert!(intents.contains_key(call.arguments()), "the upstream saw {} without an intent", call.arguments());
    }
    assert_eq!(intents.len(), outcomes.len(), "an intent without an outcome");
    for arguments in told {
        let outcome = intents.get(&arguments).and_then(|intent| outcomes.get(intent));
        assert_eq!(outcome.map(String::as_str), Some("ok"), "{arguments} was told to be done");
    }
    drop(ledger);
    let found = verify(&data, None, None);
    assert_eq!(found.verdict, Verdict::Holds, "{found}");

    assert!(redacted.is_subset(&gone), "redacted, as somebody was told: {redacted:?}, as it is written: {gone:?}");
    let there = payloads_there(&data.join("store"));
    assert_eq!(there.intersection(&gone).count(), 0, "redacted, and there still: {gone:?}");
    assert!(kept.is_subset(&there) && kept.is_disjoint(&gone));
    assert!(kept.len() > 5 && !gone.is_empty(), "{} kept, {} gone", kept.len(), gone.len());
}

/// Redacts the newest outcome again and again until told to stop; gives which the command said are gone.
fn redact(house: &House, stop: &AtomicBool) -> Vec<u64> {
    let mut redacted = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        if TcpStream::connect(house.mcp).is_err() {
            // it is starting, and a command would open the store itself
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let list = house.run(&["ledger", "list", "--json", "--kind", "call.settled", "--limit", "1"]);
        let newest = serde_json::from_slice::<Value>(&list.stdout).ok().and_then(|entry| entry["seq"].as_u64());
        let Some(seq) = newest.filter(|seq| !redacted.contains(seq)) else { continue };
        if house.run(&["ledger", "redact", &seq.to_string()]).status.success() {
            redacted.push(seq);
        }
    }
    redacted
}

/// The entries whose payload is in the files of the store, named or not: what was erased is of another kind.
fn payloads_there(store: &Path) -> BTreeSet<u64> {
    let mut there = BTreeSet::new();
    for file in std::fs::read_dir(store).unwrap().map(Result::unwrap) {
        if !file.file_name().to_string_lossy().starts_with("payloads.") {
            continue;
        }
        let bytes = std::fs::read(file.path()).unwrap();
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (bundle, after) = rest.split_at(32 + word(&rest[4..]));
            rest = after;
            if bundle.starts_with(b"csb0") {
                assert!(bundle[8..].iter().all(|byte| *byte == 0));
                continue;
            }
            let records = zstd::bulk::decompress(&bundle[32..], 1 << 20).unwrap();
            let mut records = records.as_slice();
            while !records.is_empty() {
                there.insert(u64::from_be_bytes(records[..8].try_into().unwrap()));
                records = &records[29 + word(&records[25..])..];
            }
        }
    }
    there
}

/// Calls a tool with effects until told to stop; gives the arguments of the calls that were answered as done.
fn load(house: &House, token: &str, name: &str, stop: &AtomicBool) -> Vec<String> {
    let mut told = Vec::new();
    let mut call = 0;
    while !stop.load(Ordering::SeqCst) {
        if TcpStream::connect(house.mcp).is_err() {
            // it is starting
            std::thread::sleep(Duration::from_millis(2));
            continue;
        }
        let arguments = format!(r#"{{"text":"{name} {call}"}}"#);
        call += 1;
        let request = Request::call("up__write", &arguments);
        // a connection that the end of the server refuses is a call that was not made
        let answer = std::panic::catch_unwind(|| request.send(house.mcp, Some(token)));
        if answer.is_ok_and(|answer| answer.is_success()) {
            told.push(arguments);
        }
    }
    told
}
