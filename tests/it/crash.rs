//! `kill -9` at any moment: nothing that reached an upstream lacks its intent, and the ledger still verifies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use aws_lc_rs::hmac;
use countersign::{
    clock::Clock,
    ledger::{Ledger, Options, Payload},
};
use serde_json::Value;

use crate::{
    house::{EVERYTHING, House, call_of, http_upstream, kind_of, until},
    recorder::Recorder,
    wire::{self, Request},
};

/// A generator without a seed from outside, so that a failure can be run again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn rounds() -> u64 {
    std::env::var("COUNTERSIGN_CRASH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(12)
}

#[test]
fn a_kill_at_any_moment_loses_no_intent_and_breaks_no_proof() {
    let upstream = Recorder::usual();
    let mut house = House::new(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    house.register();
    let token = house.token("tester", &["--ttl", "1h"]);
    let mut dice = Dice(7);
    let mut acknowledged = BTreeSet::new();
    let mut sizes = Vec::new();
    for round in 0..rounds() {
        house.spawn();
        if round % 3 == 2 {
            // during start
            std::thread::sleep(Duration::from_micros(dice.below(60_000)));
            house.kill();
            continue;
        }
        house.wait_until_ready(Duration::from_secs(60));
        let (stop, kill_after) = (AtomicBool::new(false), Duration::from_micros(200_000 + dice.below(400_000)));
        let answered: Vec<String> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|worker| {
                    let (stop, house, token) = (&stop, &house, &token);
                    scope.spawn(move || load(house, token, round, worker, stop))
                })
                .collect();
            std::thread::sleep(kill_after);
            let pid = rustix::process::Pid::from_raw(i32::try_from(house.pid()).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            stop.store(true, Ordering::SeqCst);
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        house.kill();
        acknowledged.extend(answered);
        sizes.push(verified_on_a_copy(&house));
    }
    assert!(acknowledged.len() > 20, "there was hardly any load: {} calls", acknowledged.len());
    assert!(sizes.is_sorted(), "the ledger shrank: {sizes:?}");

    house.serve();
    let entries = house.entries();
    let intents: Vec<&Value> = entries.iter().filter(|entry| kind_of(entry) == "call.intended").collect();
    let settled: Vec<&Value> = entries.iter().filter(|entry| kind_of(entry) == "call.settled").collect();
    let named: BTreeSet<String> = intents.iter().map(|entry| call_of(entry)).collect();
    assert_eq!(named.len(), intents.len(), "two intents for one call");
    let reached = upstream.calls();
    assert!(
        reached.len() <= intents.len(),
        "{} calls reached the upstream, {} were intended",
        reached.len(),
        intents.len()
    );
    assert!(reached.len() >= acknowledged.len());
    // each text is unique, so a payload names its call
    house.stop();
    let ledger = opened(&house);
    let payloads: BTreeMap<String, String> = intents
        .iter()
        .map(|entry| (String::from_utf8(payload(&ledger, entry).bytes.to_vec()).unwrap(), call_of(entry)))
        .collect();
    for call in &reached {
        let arguments = call.arguments();
        assert!(payloads.contains_key(arguments), "the upstream saw {arguments} without an intent");
    }
    let outcome =
        |entry: &&Value| entry.pointer("/entry/outcome").and_then(Value::as_str).unwrap_or_default().to_owned();
    let outcomes: BTreeMap<String, String> = settled.iter().map(|entry| (call_of(entry), outcome(entry))).collect();
    assert_eq!(named, outcomes.keys().cloned().collect(), "every intent has one outcome");
    assert_eq!(settled.len(), outcomes.len(), "two outcomes for one call");
    assert!(outcomes.values().any(|outcome| outcome == "unknown"), "no kill ever met a call under way");
    for text in &acknowledged {
        let call = payloads.get(&format!(r#"{{"text":"{text}"}}"#)).expect("an acknowledged call has its intent");
        let outcome = &outcomes[call];
        // what has no effects is answered while its outcome is being written
        let may_be_lost = text.ends_with("echo") && outcome == "unknown";
        assert!(outcome == "ok" || may_be_lost, "`{text}` was answered, and is settled `{outcome}`");
    }
}

/// Calls until told to stop; returns the texts whose answer arrived.
fn load(house: &House, token: &str, round: u64, worker: u64, stop: &AtomicBool) -> Vec<String> {
    let mut answered = Vec::new();
    for call in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        // every other call has effects, so its answer waits for the outcome to be on disk
        let tool = if call % 2 == 0 { "write" } else { "echo" };
        let text = format!("round {round} worker {worker} call {call} {tool}");
        let request = Request::call(&format!("up__{tool}"), &format!(r#"{{"text":"{text}"}}"#));
        let sent = std::panic::catch_unwind(|| request.send(house.mcp, Some(token)));
        if sent.is_ok_and(|answer| answer.is_success()) {
            answered.push(text);
        }
    }
    answered
}

/// Verifies a copy, offline, without the configuration; returns how many entries there are.
fn verified_on_a_copy(house: &House) -> u64 {
    let copy = tempfile::tempdir().unwrap();
    copied(&house.data(), &copy.path().join("data"));
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["ledger", "verify", "--json"])
        .arg(copy.path().join("data"))
        .current_dir(copy.path())
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told["entries"].as_u64().unwrap_or_else(|| panic!("no number of entries in {told}"))
}

fn copied(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copied(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// The ledger of a house that does not run.
fn opened(house: &House) -> Ledger {
    let options = Options { origin: "countersign.local/log".to_owned(), batched_reads: false, keep_payloads: true };
    Ledger::open(&house.data(), options, Clock::System).unwrap().0
}

/// The arguments that an intent commits to, and the key of the commitment.
fn payload(ledger: &Ledger, entry: &Value) -> Payload {
    let seq = entry["seq"].as_u64().unwrap_or_else(|| panic!("no number in {entry}"));
    ledger.payload(seq).unwrap().unwrap_or_else(|| panic!("no payload beside {entry}"))
}

#[test]
fn what_the_upstream_gets_is_what_the_ledger_names() {
    let upstream = Recorder::usual();
    let mut house = House::open(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    let token = house.token("tester", &[]);
    let sent = [
        r#"{ "text" : "a\u0062c", "x": 1.50, "n": 1e2 }"#,
        "{\"text\":\"\u{e9}\\u00e9 \u{1f600} \\ud83d\\ude00 \\\"quoted\\\" \\u000b\"}",
        r#"{"x":1.0E-7,"text":"","list":[1,-0,3]}"#,
        r#"{"inner":{"a":-7},"flag":true,"text":"\/"}"#,
    ];
    for arguments in sent {
        let answer = house.call(&token, "up__echo", arguments);
        assert!(answer.is_success(), "{arguments}: {answer:?}");
        let response = answer.response();
        assert_eq!(response.pointer("/result/x-future/kept/1"), Some(&Value::from("two")), "a result lost a member");
        assert_eq!(response.pointer("/result/content/0/x-block"), Some(&Value::Bool(true)), "a block lost a member");
    }
    let entries = house.entries();
    let intents: Vec<&Value> = entries.iter().filter(|entry| kind_of(entry) == "call.intended").collect();
    let calls = upstream.calls();
    assert_eq!(intents.len(), calls.len());
    house.stop();
    let ledger = opened(&house);
    for (intent, call) in intents.iter().zip(&calls) {
        let Payload { salt, bytes } = payload(&ledger, intent);
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), call.arguments());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &salt);
        let tag = hmac::sign(&key, call.arguments().as_bytes());
        let named: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let digest = intent.pointer("/entry/arguments/digest").and_then(Value::as_str).unwrap();
        assert_eq!(digest, format!("hmac-sha256:{named}"), "{intent}");
    }
}

#[test]
fn a_stop_finishes_what_is_under_way() {
    let upstream = Recorder::usual();
    let mut house = House::open(&http_upstream("up", &upstream.url(), "timeout = \"30s\""), EVERYTHING);
    let token = house.token("tester", &[]);
    std::thread::scope(|scope| {
        let (mcp, token) = (house.mcp, token.as_str());
        scope.spawn(move || {
            // never answered: settled as `unknown` when the drain ends
            let mut stream = wire::connect(mcp);
            let request = Request::call("up__never_answers", "{}").bytes(mcp, Some(token));
            let _sent = std::io::Write::write_all(&mut stream, &request);
            let _answer = wire::read_answer(&mut stream);
        });
        until("the call arrives", Duration::from_secs(10), || upstream.calls().first().map(drop));
        assert_eq!(house.stop(), Some(0), "{}", house.log());
    });
    let entries = house.entries();
    let settled = entries.iter().rfind(|entry| kind_of(entry) == "call.settled").expect("the call is settled");
    assert!(settled.to_string().contains("\"unknown\""), "{settled}");
    assert!(entries.iter().any(|entry| kind_of(entry) == "server.stopped"));
    verified_on_a_copy(&house);
}
