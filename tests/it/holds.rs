//! Holds and `kill -9`: what a person countersigned runs once, or nobody knows whether it did, and never twice.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use countersign::{approver::Passphrase, clock::Clock, config, server};
use serde_json::{Value, json};

use crate::{
    house::{House, http_upstream, kind_of, until},
    recorder::Recorder,
    wire::{Answer, Request},
};

const GRANTS: &str = "@id(\"held\") @hold(\"owner\") @expires(\"30m\")\n\
                      permit (principal == Agent::\"tester\", action in Action::\"call\", resource);\n";
const PASSPHRASE: &str = "correct horse battery";
const SOON: Duration = Duration::from_secs(60);

/// Enrols `ann` of role `owner`, while no server runs.
fn enrol(house: &House) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let config = config::load(&house.path().join("countersign.toml")).unwrap();
        let opened = server::House::open(config, Clock::System).unwrap();
        let approvers = &opened.pipeline.approvers;
        let roles = ["owner".to_owned()].into();
        let added = approvers.add("ann", roles, [].into(), None).await.unwrap();
        approvers.enrol(&added.code.unwrap(), &Passphrase::new(PASSPHRASE.to_owned())).await.unwrap();
        opened.stop("test").await;
    });
}

/// `ann` at the API. Whatever the server does meanwhile, she tries again.
struct Ann<'h> {
    house: &'h House,
    token: Option<String>,
}

impl Ann<'_> {
    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        let mut request = match body {
            Some(body) => Request::post(body.to_string()),
            None => Request::post("").without("Content-Type"),
        };
        request.line = format!("{method} /api/v1{path} HTTP/1.1");
        let request = request.without("Accept");
        std::panic::catch_unwind(|| request.send(self.house.console, self.token.as_deref())).ok()
    }

    /// Countersigns everything that is pending; gives how many were.
    fn countersign_all(&mut self) -> usize {
        if self.token.is_none() {
            let who = json!({"approver": "ann", "passphrase": PASSPHRASE});
            let answer = self.send("POST", "/login", Some(&who));
            self.token = answer
                .filter(|answer| answer.status == 200)
                .and_then(|answer| Some(answer.messages.first()?["token"].as_str()?.to_owned()));
        }
        let Some(answer) = self.send("GET", "/holds?state=pending", None) else { return 0 };
        if answer.status != 200 {
            // sessions end with the server
            self.token = None;
            return 0;
        }
        let holds = answer.messages[0]["holds"].as_array().unwrap().clone();
        let countersigned = |hold: &&Value| {
            let body = json!({"digest": hold["digest"], "passphrase": PASSPHRASE});
            let path = format!("/holds/{}/approve", hold["id"].as_str().unwrap());
            self.send("POST", &path, Some(&body)).is_some_and(|answer| answer.status == 200)
        };
        holds.iter().filter(countersigned).count()
    }
}

fn decision(answer: &Answer) -> Option<String> {
    let outcome = answer.messages.first()?.pointer("/result/_meta/countersign~1decision/outcome")?;
    outcome.as_str().map(str::to_owned)
}

/// Calls until the call comes to something: `done` or `unknown`.
fn insist(house: &House, token: &str, text: &str, give_up: &AtomicBool) -> Option<String> {
    let request = Request::call("up__write", &format!(r#"{{"text":"{text}"}}"#));
    while !give_up.load(Ordering::SeqCst) {
        let Ok(answer) = std::panic::catch_unwind(|| request.send(house.mcp, Some(token))) else {
            std::thread::yield_now();
            continue;
        };
        if answer.is_success() {
            return Some("done".to_owned());
        }
        if decision(&answer).as_deref() == Some("unknown") {
            return Some("unknown".to_owned());
        }
    }
    None
}

#[test]
fn a_kill_at_any_moment_runs_a_countersigned_call_at_most_once() {
    let upstream = Recorder::usual();
    let mut house = House::new(&http_upstream("up", &upstream.url(), ""), GRANTS);
    house.register();
    enrol(&house);
    let token = house.token("tester", &["--ttl", "1h"]);
    let mut came_to: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..6_u64 {
        house.serve();
        let give_up = AtomicBool::new(false);
        let texts: Vec<String> = (0..4).map(|call| format!("round {round} call {call}")).collect();
        let results: Vec<(String, Option<String>)> = std::thread::scope(|scope| {
            // two agents' clients insist on each call: the identical call attaches
            let callers: Vec<_> = texts
                .iter()
                .flat_map(|text| [text, text])
                .map(|text| {
                    let (house, token, give_up) = (&house, &token, &give_up);
                    scope.spawn(move || (text.clone(), insist(house, token, text, give_up)))
                })
                .collect();
            let mut ann = Ann { house: &house, token: None };
            let mut countersigned = 0;
            until("something is countersigned", SOON, || {
                countersigned += ann.countersign_all();
                (countersigned > usize::try_from(round % 3).unwrap()).then_some(())
            });
            std::thread::sleep(Duration::from_micros(round * 1_700));
            let pid = rustix::process::Pid::from_raw(i32::try_from(house.pid()).unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            give_up.store(true, Ordering::SeqCst);
            callers.into_iter().map(|caller| caller.join().unwrap()).collect()
        });
        house.kill();
        house.serve();
        // whatever was left is brought to its end
        let give_up = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let left = texts.iter().map(|text| {
                let (house, token, give_up) = (&house, &token, &give_up);
                scope.spawn(move || (text.clone(), insist(house, token, text, give_up)))
            });
            let left: Vec<_> = left.collect();
            let mut ann = Ann { house: &house, token: None };
            until("every call comes to something", SOON, || {
                ann.countersign_all();
                left.iter().all(std::thread::ScopedJoinHandle::is_finished).then_some(())
            });
            for caller in left {
                let (text, result) = caller.join().unwrap();
                came_to.insert(text, result.unwrap());
            }
        });
        for (text, result) in results {
            // what was told once is told again after the restart
            if let Some(result) = result {
                assert_eq!(came_to[&text], result, "{text}");
            }
        }
        house.kill();
    }
    house.serve();
    let entries = house.entries();
    house.stop();
    let of_kind = |kind: &str| entries.iter().filter(|entry| kind_of(entry) == kind).count();
    assert_eq!(of_kind("hold.spent"), of_kind("call.intended"), "nothing ran without its hold");
    for (text, result) in &came_to {
        let reached = upstream.calls().iter().filter(|call| call.arguments().contains(&format!("\"{text}\""))).count();
        match result.as_str() {
            "done" => assert_eq!(reached, 1, "{text}"),
            _ => assert!(reached <= 1, "{text} ran {reached} times"),
        }
    }
    assert_eq!(came_to.len(), 24);
    assert!(came_to.values().any(|result| result == "done"), "{came_to:?}");
    house.done(&["ledger", "verify", "data"]);
}

#[test]
fn a_hold_waits_through_a_kill_before_and_after_it_is_countersigned() {
    let upstream = Recorder::usual();
    let mut house = House::new(&http_upstream("up", &upstream.url(), ""), GRANTS);
    house.register();
    enrol(&house);
    let token = house.token("tester", &["--ttl", "1h"]);
    house.serve();
    let pending = |house: &House| {
        let mut ann = Ann { house, token: None };
        ann.countersign_all()
    };
    let sent = Request::call("up__write", r#"{"text":"once"}"#).bytes(house.mcp, Some(&token));
    let mut waiting = crate::wire::connect(house.mcp);
    std::io::Write::write_all(&mut waiting, &sent).unwrap();
    until("the call is held", SOON, || (house.count("call.held") == 1).then_some(()));
    house.kill();
    house.serve();
    assert_eq!(pending(&house), 1, "it is still there to be countersigned");
    assert_eq!(upstream.calls().len(), 0, "and nobody waits for it, so it is not run");
    house.kill();
    house.serve();
    assert_eq!(pending(&house), 0);
    assert_eq!(upstream.calls().len(), 0, "nor is it run by a start");
    assert!(house.call(&token, "up__write", r#"{"text":"once"}"#).is_success(), "the identical call runs it");
    assert!(house.call(&token, "up__write", r#"{"text":"once"}"#).is_success(), "and then collects its result");
    house.kill();
    house.serve();
    assert!(house.call(&token, "up__write", r#"{"text":"once"}"#).is_success(), "after a restart too");
    assert_eq!(upstream.calls().len(), 1);
    house.stop();
    house.done(&["ledger", "verify", "data"]);
}

#[test]
fn only_an_idempotent_tool_runs_again_after_a_crash_under_the_same_key() {
    for (idempotent, runs) in [(false, 1), (true, 2)] {
        let upstream = Recorder::usual();
        let mut house = House::new(&http_upstream("up", &upstream.url(), ""), GRANTS);
        house.register();
        enrol(&house);
        let contract = house.path().join("schemas/up/gate.json");
        let text = std::fs::read_to_string(&contract).unwrap();
        let changed = text.replace("\"idempotent\": false", &format!("\"idempotent\": {idempotent}"));
        assert!(changed.contains(&format!("\"idempotent\": {idempotent}")), "{changed}");
        std::fs::write(&contract, changed).unwrap();
        let token = house.token("tester", &["--ttl", "1h"]);
        house.serve();
        let mut stream = crate::wire::connect(house.mcp);
        let request = Request::call("up__gate", "{}").bytes(house.mcp, Some(&token));
        std::io::Write::write_all(&mut stream, &request).unwrap();
        let mut ann = Ann { house: &house, token: None };
        until("it is countersigned", SOON, || (ann.countersign_all() == 1).then_some(()));
        until("it reaches the tool server", SOON, || (upstream.calls().len() == 1).then_some(()));
        house.kill();
        upstream.open_gate();
        house.serve();
        let answer = house.call(&token, "up__gate", "{}");
        assert_eq!(answer.is_success(), idempotent, "{answer:?}");
        let calls = upstream.calls();
        assert_eq!(calls.len(), runs, "idempotent: {idempotent}");
        let keys: Vec<Value> =
            calls.iter().map(|call| call.json()["params"]["_meta"]["countersign/idempotencyKey"].clone()).collect();
        assert!(keys.iter().all(|key| *key == keys[0] && key.is_string() == idempotent), "{keys:?}");
        house.stop();
        house.done(&["ledger", "verify", "data"]);
    }
}

/// The hold that an answer speaks of.
fn hold_of(answer: &Answer) -> String {
    let decision = answer.response().pointer("/result/_meta/countersign~1decision").cloned().unwrap_or_default();
    decision["hold"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

#[test]
fn what_changes_in_between_makes_it_void_with_a_reason_of_its_own() {
    let upstream = Recorder::usual();
    let mut house = House::new(&http_upstream("up", &upstream.url(), ""), GRANTS);
    house.register();
    enrol(&house);
    house.serve();
    let contract = house.path().join("schemas/up/write.json");
    let reviewed = std::fs::read_to_string(&contract).unwrap();
    type Between<'a> = (&'a str, bool, &'a dyn Fn(&House));
    let changes: [Between<'_>; 4] = [
        ("void_policy_changed", true, &|house| {
            house
                .grant(&format!("{GRANTS}\n@id(\"more\") permit (principal == Agent::\"other\", action, resource);\n"));
            house.done(&["reload"]);
        }),
        ("void_contract_changed", false, &|house| {
            std::fs::write(&contract, reviewed.replace("\"labels\": []", "\"labels\": [\"pii\"]")).unwrap();
            house.done(&["reload"]);
        }),
        ("void_principal_revoked", true, &|house| {
            house.done(&["agent", "revoke", "tester"]);
        }),
        ("void_payload_missing", false, &|house| {
            let entries = house.entries();
            let held = entries.iter().rfind(|entry| kind_of(entry) == "call.held").unwrap();
            house.done(&["ledger", "redact", &held["seq"].to_string()]);
        }),
    ];
    for (number, (reason, before_it_is_countersigned, change)) in changes.iter().enumerate() {
        let token = house.token("tester", &["--ttl", "1h"]);
        let arguments = format!(r#"{{"text":"{number}"}}"#);
        let sent = Request::call("up__write", &arguments).bytes(house.mcp, Some(&token));
        let mut waiting = crate::wire::connect(house.mcp);
        std::io::Write::write_all(&mut waiting, &sent).unwrap();
        until("it is held", SOON, || (house.count("call.held") == number + 1).then_some(()));
        // nobody waits while it changes
        drop(waiting);
        let mut ann = Ann { house: &house, token: None };
        if !before_it_is_countersigned {
            assert_eq!(ann.countersign_all(), 1, "{reason}");
        }
        change(&house);
        let countersigned = ann.countersign_all();
        assert_eq!(countersigned, 0, "{reason}: nothing is left to countersign");
        if *reason == "void_payload_missing" {
            // the identical call has its arguments with it: they are what was countersigned
            assert!(house.call(&token, "up__write", &arguments).is_success());
            continue;
        }
        until(reason, SOON, || {
            let entries = house.entries();
            let void = entries.iter().rfind(|entry| kind_of(entry) == "hold.void")?;
            (void["entry"]["reason"] == *reason).then_some(())
        });
    }
    assert_eq!(upstream.calls().len(), 1);
    house.stop();
    house.done(&["ledger", "verify", "data"]);
}

#[test]
fn a_countersignature_is_for_one_agent_one_user_one_task_and_one_set_of_arguments() {
    let upstream = Recorder::usual();
    let grants =
        "@id(\"held\") @hold(\"owner\") @expires(\"30m\")\npermit (principal, action in Action::\"call\", resource);\n";
    let mut house = House::new(&http_upstream("up", &upstream.url(), ""), grants);
    house.register();
    enrol(&house);
    house.serve();
    let calls: [(&str, &[&str], &str); 5] = [
        ("tester", &[], r#"{"text":"a"}"#),
        ("tester", &[], r#"{"text":"b"}"#),
        ("tester", &["--task", "t1"], r#"{"text":"a"}"#),
        ("tester", &["--for", "carol"], r#"{"text":"a"}"#),
        ("other", &[], r#"{"text":"a"}"#),
    ];
    let tokens: Vec<String> = calls.iter().map(|(agent, more, _)| house.token(agent, more)).collect();
    for (number, ((.., arguments), token)) in calls.iter().zip(&tokens).enumerate() {
        let sent = Request::call("up__write", arguments).bytes(house.mcp, Some(token));
        let mut waiting = crate::wire::connect(house.mcp);
        std::io::Write::write_all(&mut waiting, &sent).unwrap();
        until("it is held", SOON, || (house.count("call.held") == number + 1).then_some(()));
    }
    // only the first is countersigned
    let entries = house.entries();
    let first = entries.iter().find(|entry| kind_of(entry) == "call.held").unwrap()["entry"]["hold"].clone();
    let mut ann = Ann { house: &house, token: None };
    let who = json!({"approver": "ann", "passphrase": PASSPHRASE});
    let answer = ann.send("POST", "/login", Some(&who)).unwrap();
    ann.token = answer.messages[0]["token"].as_str().map(str::to_owned);
    let path = format!("/holds/{}", first.as_str().unwrap());
    let shown = ann.send("GET", &path, None).unwrap().messages[0].clone();
    let body = json!({"digest": shown["digest"], "passphrase": PASSPHRASE});
    assert_eq!(ann.send("POST", &format!("{path}/approve"), Some(&body)).unwrap().status, 200);
    for token in &tokens[1..] {
        // clients that give up at once
        let sent = Request::call("up__write", r#"{"text":"a"}"#).bytes(house.mcp, Some(token));
        std::io::Write::write_all(&mut crate::wire::connect(house.mcp), &sent).unwrap();
    }
    let ran = house.call(&tokens[0], "up__write", r#"{"text":"a"}"#);
    assert!(ran.is_success(), "{ran:?}");
    assert_eq!((upstream.calls().len(), house.count("hold.spent")), (1, 1), "the others wait on");
    assert_eq!(house.count("call.held"), 5, "and nobody is asked twice");
    // a denial sticks to the identical call, and to no other
    let holds = ann.send("GET", "/holds?state=pending", None).unwrap().messages[0]["holds"].clone();
    let second = holds.as_array().unwrap().iter().find(|hold| hold["agent"] == "other").unwrap().clone();
    let deny = json!({"digest": second["digest"], "reason": "not today"});
    let path = format!("/holds/{}/deny", second["id"].as_str().unwrap());
    assert_eq!(ann.send("POST", &path, Some(&deny)).unwrap().status, 200);
    let denied = house.call(&tokens[4], "up__write", r#"{"text":"a"}"#);
    assert_eq!(denied.reason().as_deref(), Some("denied_sticky"), "{denied:?}");
    assert_eq!(hold_of(&denied), second["id"]);
    assert!(denied.response().to_string().contains("not today"), "the agent is told why");
    house.stop();
}
