//! The ledger as an operator and a stranger meet it: listing, showing, receipts, verification of copies, by the command
//! line alone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use countersign::{
    clock::Clock,
    ledger::{
        Event, Ledger, Options,
        note::{Checkpoint, VerifierKey},
        tree,
    },
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    house::{EVERYTHING, House, http_upstream},
    recorder::Recorder,
};

/// A ledger of `entries` that say `what`, without a house; its checkpoint.
fn written(folder: &Path, entries: usize, what: &str) -> String {
    let options = Options { origin: "example.test/ledger".to_owned(), batched_reads: false, keep_payloads: true };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (ledger, _) = Ledger::open(folder, options, Clock::System).unwrap();
        for number in 0..entries {
            ledger.note(Event::ServerStarted { version: format!("{what} {number}") }).await.unwrap();
        }
        let checkpoint = ledger.checkpoint().await.unwrap();
        ledger.close().await;
        checkpoint
    })
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// `countersign ledger verify --data DIR …`, where there is no configuration.
fn verify(data: &Path, more: &[&str]) -> Output {
    let empty = TempDir::new().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.args(["ledger", "verify", "--data"]).arg(data).args(more).current_dir(empty.path());
    command.env_remove("COUNTERSIGN_CONFIG").output().unwrap()
}

fn ends(output: &Output, code: i32, says: &str) {
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{told}");
    assert!(told.contains(says), "`{says}` is not in {told}");
}

fn kept(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_copy_is_verified_without_a_configuration() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let early = kept(&folder, "early", &written(&data, 5, "a"));
    let late = kept(&folder, "late", &written(&data, 300, "b"));
    for place in [data.clone(), data.join("tlog")] {
        ends(&verify(&place, &[]), 0, "holds: 305 entries, 305 signed");
        ends(&verify(&place, &["--pin", &early, "--pin", &late]), 0, "holds");
        let key = fs::read_to_string(data.join("ledger.pub")).unwrap();
        ends(&verify(&place, &["--key", key.trim()]), 0, "holds");
        ends(&verify(&place, &["--key", data.join("ledger.pub").to_str().unwrap(), "--json"]), 0, "\"remarks\":[]");
        ends(&verify(&place, &["--key", "nonsense+of+mine"]), 2, "the key given is not one");
    }
    // the key of another log signs nothing of this one
    written(&folder.path().join("other"), 1, "c");
    let other = fs::read_to_string(folder.path().join("other/ledger.pub")).unwrap();
    ends(&verify(&data, &["--key", other.trim()]), 1, "does not carry a signature by the log's key");
    ends(&verify(&folder.path().join("nothing"), &[]), 2, "holds neither a store nor a published log");
    ends(&verify(&data, &["--pin", folder.path().join("none").to_str().unwrap()]), 2, "cannot be read");
}

#[test]
fn the_first_bad_entry_is_named() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    written(&data, 300, "a");
    let bundle = PathBuf::from("tile/entries/000");
    let tlog = folder.path().join("tlog");
    copy(&data.join("tlog"), &tlog);
    let bytes = fs::read(tlog.join(&bundle)).unwrap();
    let at = bytes.windows(6).position(|six| six == b"\"a 17\"").unwrap();
    let mut edited = bytes.clone();
    edited[at + 1] = b'b';
    fs::write(tlog.join(&bundle), &edited).unwrap();
    ends(&verify(&tlog, &[]), 1, "tampered: entry 17 is the first that is bad");
    ends(&verify(&tlog, &["--json"]), 1, "\"first_bad\":17");
    // the store beside it still says what was so
    let whole = folder.path().join("whole");
    copy(&data, &whole);
    fs::write(whole.join("tlog").join(&bundle), &edited).unwrap();
    ends(&verify(&whole, &[]), 1, "entry 17");
    fs::remove_file(whole.join("tlog/tile/entries/001.p/44")).unwrap();
    fs::remove_dir_all(whole.join("store")).unwrap();
    ends(&verify(&whole, &[]), 1, "the store is missing");
}

#[test]
fn what_only_a_pin_can_show() {
    let folder = TempDir::new().unwrap();
    let (data, before, other) = (folder.path().join("data"), folder.path().join("before"), folder.path().join("other"));
    let early = kept(&folder, "early", &written(&data, 5, "a"));
    copy(&data, &before);
    let late = kept(&folder, "late", &written(&data, 5, "a"));
    fs::create_dir(&other).unwrap();
    fs::copy(data.join("ledger.key"), other.join("ledger.key")).unwrap();
    let forked = kept(&folder, "forked", &written(&other, 10, "another story"));

    ends(&verify(&before, &[]), 0, "holds: 5 entries");
    ends(&verify(&before, &["--pin", &late]), 1, "rolled back: the pin covers 10 entries, 5 are there");
    ends(&verify(&other, &[]), 0, "holds: 10 entries");
    ends(&verify(&other, &["--pin", &early]), 1, "history rewritten: the first 5 entries are not those of the pin");
    ends(&verify(&data, &["--pin", &late, "--pin", &forked]), 1, "fork: two signed checkpoints of size 10");
    ends(&verify(&data, &["--pin", &kept(&folder, "no", "no note\n")]), 2, "the pin is not a checkpoint of this log");
}

#[test]
fn a_store_that_was_lost_is_made_again_from_the_published_log() {
    let folder = TempDir::new().unwrap();
    let (data, new) = (folder.path().join("data"), folder.path().join("new"));
    let pin = kept(&folder, "pin", &written(&data, 300, "a"));
    let rebuild = |tlog: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.args(["ledger", "rebuild", "--tlog"]).arg(tlog).arg("--into").arg(&new).current_dir(folder.path());
        command.output().unwrap()
    };
    ends(&rebuild(&data.join("tlog")), 0, "rebuilt 300 entries");
    ends(&rebuild(&data.join("tlog")), 1, "is there already");
    fs::copy(data.join("ledger.key"), new.join("ledger.key")).unwrap();
    written(&new, 1, "goes on");
    ends(&verify(&new, &["--pin", &pin]), 0, "holds: 301 entries");
    fs::remove_file(data.join("tlog/tile/0/000")).unwrap();
    fs::remove_dir_all(new.join("store")).unwrap();
    ends(&rebuild(&data.join("tlog")), 1, "the published log is not rebuilt from");
}

#[test]
fn calls_are_listed_shown_proved_and_redacted() {
    let upstream = Recorder::usual();
    let mut house = House::open(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    let (token, other) = (house.token("tester", &[]), house.token("other", &[]));
    let arguments = r#"{ "text": "caf\u00e9", "n": 1e1 }"#;
    assert!(house.call(&token, "up__echo", arguments).is_success());
    assert!(house.call(&token, "up__write", r#"{"text":"x"}"#).is_success());
    house.call(&other, "up__echo", r#"{"text":"x"}"#);
    house.call(&token, "up__nothing", "{}");
    let lines = |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let list = |house: &House, more: &[&str]| {
        let listed = lines(&house.done(&[&["ledger", "list", "--json"], more].concat()));
        listed.iter().map(|entry| entry["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for running in [true, false] {
        if !running {
            assert_eq!(house.stop(), Some(0));
        }
        let call = ["call.intended", "call.settled"];
        assert_eq!(list(&house, &["--tool", "up__write"]), [&["tool.registered"][..], &call].concat());
        assert_eq!(list(&house, &["--tool", "up__echo", "--agent", "tester"]), call);
        assert_eq!(list(&house, &["--tool", "up__echo", "--kind", "call."]), [&call[..], &["call.refused"]].concat());
        assert_eq!(list(&house, &["--tool", "up__nothing"]), ["call.refused"]);
        assert_eq!(list(&house, &["--agent", "other"]), ["token.issued", "call.refused"]);
        assert_eq!(list(&house, &["--kind", "call.settled", "--limit", "1"]), ["call.settled"]);
        assert!(list(&house, &["--since", "2999-01-01T00:00:00Z"]).is_empty());
        assert_eq!(house.run(&["ledger", "list", "--since", "soon"]).status.code(), Some(2));
        assert_eq!(lines(&house.done(&["ledger", "tail", "-n", "3", "--json"])).len(), 3);
    }

    // what a stranger needs to see that the digest is that of these arguments
    let intent = &lines(&house.done(&["ledger", "list", "--json", "--kind", "call.intended"]))[0];
    let shown = &lines(&house.done(&["ledger", "show", intent["call"].as_str().unwrap(), "--json"]))[0]["entries"];
    for (entry, which) in shown.as_array().unwrap().iter().zip(["arguments", "result"]) {
        let payload = &entry["payload"];
        let salt = payload["salt"].as_str().unwrap();
        let salt: Vec<u8> =
            (0..salt.len()).step_by(2).map(|at| u8::from_str_radix(&salt[at..at + 2], 16).unwrap()).collect();
        let text = payload[which].as_str().unwrap();
        let digest = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salt), text.as_bytes());
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(entry["entry"][which]["digest"], format!("hmac-sha256:{digest}"));
        assert_eq!(entry["entry"][which]["bytes"], text.len());
    }
    assert_eq!(shown[0]["payload"]["arguments"], "{\"n\":10,\"text\":\"caf\u{e9}\"}");
    assert_eq!(upstream.calls()[0].arguments(), "{\"n\":10,\"text\":\"caf\u{e9}\"}");

    // a receipt verifies with the entry as exported and the key, and nothing else
    let seq = intent["seq"].as_u64().unwrap();
    let exported = house.done(&["ledger", "export", "--format", "jsonl"]);
    let line = exported.lines().nth(seq as usize).unwrap();
    let entry =
        line.strip_prefix("{\"entry\":").and_then(|rest| rest.strip_suffix(&format!(",\"seq\":{seq}}}"))).unwrap();
    let proof = house.done(&["ledger", "prove", &seq.to_string()]);
    let (head, note) = proof.split_once("\n\n").unwrap();
    let mut steps = head.lines();
    assert_eq!((steps.next(), steps.next()), (Some("c2sp.org/tlog-proof@v1"), Some(format!("index {seq}").as_str())));
    let steps: Vec<tree::Hash> = steps.map(|step| BASE64.decode(step).unwrap().try_into().unwrap()).collect();
    let key = VerifierKey::parse(fs::read_to_string(house.data().join("ledger.pub")).unwrap().trim()).unwrap();
    let checkpoint = Checkpoint::open(note, &key).unwrap();
    assert!(tree::included(&tree::leaf(entry.as_bytes()), seq, checkpoint.size, &steps, &checkpoint.root));

    // what was kept goes, and the log holds as before, against a checkpoint from before
    let pin = house.path().join("pin");
    fs::write(&pin, house.done(&["ledger", "checkpoint"])).unwrap();
    house.done(&["ledger", "redact", &seq.to_string()]);
    assert_eq!(house.run(&["ledger", "redact", &seq.to_string()]).status.code(), Some(2));
    let shown = lines(&house.done(&["ledger", "show", &seq.to_string(), "--json"])).remove(0);
    assert_eq!((&shown["payload"], &shown["entry"]["kind"]), (&Value::Null, &Value::from("call.intended")));
    assert_eq!(list(&house, &["--kind", "payload.redacted"]), ["payload.redacted"]);
    ends(&verify(&house.data(), &["--pin", pin.to_str().unwrap()]), 0, "holds");
}
