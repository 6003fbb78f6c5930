//! The ledger under `kill -9`, at any moment, its start included: what was acknowledged is there, and it verifies.
//!
//! The same child serves the power cuts of [`crate::power`], by the environment:
//! `COUNTERSIGN_LEDGER_CHILD=writer|verify`, `COUNTERSIGN_LEDGER_FOLDER`, `COUNTERSIGN_LEDGER_ACKS` (a file with
//! a number a line). The writer prints `OPEN`, then each number that was acknowledged; the verifier exits with 0
//! when all are there, with 3 and `lost=N` when not, and with 4 when the log does not verify. `careless` and
//! `careless-verify` do the same with a store that is flushed and never synced, which must be found out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use countersign::{
    clock::Clock,
    ledger::{
        Event, Ledger, Options,
        verify::{Verdict, verify},
    },
};

fn open(folder: &Path) -> Ledger {
    let options = Options { origin: "example.test/ledger".to_owned(), batched_reads: false, keep_payloads: true };
    Ledger::open(folder, options, Clock::System).unwrap().0
}

/// Not a test: what the others start. Without its environment it does nothing.
#[test]
fn child() {
    let Ok(role) = std::env::var("COUNTERSIGN_LEDGER_CHILD") else { return };
    let folder = std::env::var("COUNTERSIGN_LEDGER_FOLDER").unwrap();
    match role.as_str() {
        "writer" => writer(Path::new(&folder)),
        "careless" => careless(Path::new(&folder)),
        "careless-verify" => std::process::exit(careless_verifier(Path::new(&folder))),
        _ => std::process::exit(verifier(Path::new(&folder))),
    }
}

#[expect(clippy::disallowed_methods, reason = "numbers have to differ from one run of the child to the next")]
fn writer(folder: &Path) {
    let ledger = open(folder);
    println!("\nOPEN");
    let next = Arc::new(AtomicU64::new(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (ledger, next) = (ledger.clone(), Arc::clone(&next));
            tasks.spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    // so long that the journal changes over to its other file every now and then
                    let version = format!("{number} {}", "x".repeat(900));
                    ledger.note(Event::ServerStarted { version }).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "{number}").and_then(|()| out.flush()).unwrap();
                }
            });
        }
        tasks.join_all().await;
    });
}

/// Acknowledges what the store says it flushed: what a power cut undoes.
fn careless(folder: &Path) {
    let store = sled::Config::new().path(folder).segment_size(8 << 20).flush_every_ms(None).open().unwrap();
    println!("\nOPEN");
    let first = store.last().unwrap().map_or(0, |(key, _)| u64::from_be_bytes(key.as_ref().try_into().unwrap()) + 1);
    for number in first.. {
        store.insert(number.to_be_bytes(), vec![b'x'; 600]).unwrap();
        store.flush().unwrap();
        println!("{number}");
    }
}

fn careless_verifier(folder: &Path) -> i32 {
    let acks = std::fs::read_to_string(std::env::var("COUNTERSIGN_LEDGER_ACKS").unwrap()).unwrap();
    let store = sled::Config::new().path(folder).segment_size(8 << 20).flush_every_ms(None).open().unwrap();
    let there = |number: &str| store.contains_key(number.parse::<u64>().unwrap().to_be_bytes()).unwrap();
    let lost = acks.lines().filter(|number| !there(number)).count();
    println!("\nlost={lost}");
    if lost == 0 { 0 } else { 3 }
}

fn verifier(folder: &Path) -> i32 {
    let acks = std::fs::read_to_string(std::env::var("COUNTERSIGN_LEDGER_ACKS").unwrap()).unwrap();
    let mut lost: BTreeSet<&str> = acks.lines().collect();
    let ledger = open(folder);
    let mut from = 0;
    while from < ledger.size() {
        for entry in ledger.entries(from, 512).unwrap() {
            from = entry.seq + 1;
            let text = std::str::from_utf8(&entry.text).unwrap();
            let number = text.split_once("\"version\":\"").and_then(|(_, rest)| rest.split_once(' '));
            lost.remove(number.unwrap().0);
        }
    }
    drop(ledger);
    let report = verify(folder, None, None);
    if report.verdict == Verdict::Tampered {
        eprintln!("{report}");
        return 4;
    }
    println!("\nlost={} of {}", lost.len(), acks.lines().count());
    if lost.is_empty() { 0 } else { 3 }
}

/// The child in a role.
pub(crate) fn start(role: &str, folder: &Path, acks: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "ledger_crash::child", "--nocapture"])
        .env("COUNTERSIGN_LEDGER_CHILD", role)
        .env("COUNTERSIGN_LEDGER_FOLDER", folder)
        .env("COUNTERSIGN_LEDGER_ACKS", acks);
    command
}

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let (data, acks) = (folder.path().join("data"), folder.path().join("acks"));
    let mut acknowledged = String::new();
    for turn in 0_u64..12 {
        let mut child = start("writer", &data, &acks).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // every third is killed somewhere in its start, the others after some number of acknowledgements
        if turn % 3 == 0 {
            std::thread::sleep(Duration::from_micros(turn * 2_711 % 17_000));
        } else {
            for line in lines.by_ref().map_while(Result::ok).take(20 + (turn as usize * 97) % 300) {
                if line.parse::<u64>().is_ok() {
                    acknowledged.push_str(&line);
                    acknowledged.push('\n');
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines.map_while(Result::ok).filter(|line| line.parse::<u64>().is_ok()) {
            acknowledged.push_str(&line);
            acknowledged.push('\n');
        }
        // the last line may have been cut short by the kill, but then it is no number of ours to be lost
        std::fs::write(&acks, &acknowledged).unwrap();
        let verified = start("verify", &data, &acks).output().unwrap();
        assert!(verified.status.success(), "turn {turn}: {verified:?}");
    }
}
