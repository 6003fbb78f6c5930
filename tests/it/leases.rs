//! What tool servers are shown: had when a call needs it and is recorded, for that tool server only, for a time.

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    house::{EVERYTHING, House, kind_of, until},
    recorder::Recorder,
    token_server::{Asked, EXCHANGE, Manner, TokenServer},
    wire::exchange,
};

const CC: &str = "client_credentials";

fn upstream(recorder: &Recorder, auth: &str) -> String {
    format!("[upstreams.up]\nurl = \"{}\"\ntimeout = \"3s\"\n{auth}\n", recorder.url())
}

fn text<'e>(entry: &'e Value, member: &str) -> &'e str {
    entry["entry"][member].as_str().unwrap_or_default()
}

fn of_kind(entries: &[Value], kind: &str) -> Vec<Value> {
    entries.iter().filter(|entry| kind_of(entry) == kind).cloned().collect()
}

/// What the calls showed, without the word before it.
fn tokens(recorder: &Recorder) -> Vec<String> {
    recorder.shown().iter().map(|shown| shown.strip_prefix("Bearer ").unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_credential_is_had_once_the_call_is_recorded_and_the_ledger_names_it() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let auth = server.auth("token_exchange", ", scopes = [\"tools\", \"more\"], audience = \"up\"");
    let mut house = House::open(&upstream(&recorder, &auth), EVERYTHING);
    let token = house.token("tester", &["--for", "ann", "--task", "t-1"]);
    // what is refused asks nobody for anything
    assert_eq!(house.call(&token, "up__echo", r#"{"text":7}"#).reason().as_deref(), Some("arguments_invalid"));
    let nobody = house.token("nobody", &["--for", "ann"]);
    assert_eq!(house.call(&nobody, "up__bare", "{}").reason().as_deref(), Some("unknown_tool"));
    assert!(server.asked(EXCHANGE).is_empty());
    server.set(EXCHANGE, Manner::Waits);
    std::thread::scope(|scope| {
        let called = scope.spawn(|| house.call(&token, "up__write", r#"{"text":"a"}"#));
        until("it is asked for a token", Duration::from_secs(20), || server.asked(EXCHANGE).pop());
        let entries = house.entries();
        let intended = of_kind(&entries, "call.intended");
        assert_eq!(intended.len(), 1, "the intent is there before anything is asked for it");
        let leased = of_kind(&entries, "credential.leased");
        assert!(leased.iter().all(|entry| text(entry, "auth") == CC), "{leased:?}");
        assert!(recorder.calls().is_empty());
        server.set(EXCHANGE, Manner::Gives);
        assert!(called.join().unwrap().is_success());
    });
    let shown = tokens(&recorder);
    assert!(shown.len() == 1 && shown[0].ends_with("-ann"), "{shown:?}");
    let [asked]: [Asked; 1] = server.asked(EXCHANGE).try_into().unwrap();
    let basic = format!("Basic {}", STANDARD.encode("us:canary-client-secret"));
    assert_eq!(asked.authorization.as_deref(), Some(basic.as_str()));
    assert_eq!((asked.field("scope"), asked.field("audience")), ("tools more", "up"));
    assert_eq!(
        (asked.field("resource"), asked.field("subject_token_type")),
        (recorder.url().as_str(), "urn:ietf:params:oauth:token-type:jwt")
    );
    let subject = asked.subject();
    assert_eq!((&subject["sub"], &subject["act"]["sub"]), (&"ann".into(), &"tester".into()), "{subject}");
    assert_eq!((&subject["aud"], &subject["task"]), (&server.issuer().into(), &"t-1".into()));
    assert_eq!(subject["iss"].as_str(), Some(format!("http://{}", house.mcp).as_str()));
    assert_eq!(subject["exp"].as_i64().unwrap() - subject["iat"].as_i64().unwrap(), 60);
    // the agent's own token travels nowhere
    let secret = token.rsplit('.').next().unwrap();
    assert!(server.everything().iter().all(|asked| !format!("{asked:?}").contains(secret)));
    assert!(recorder.seen().iter().all(|seen| !format!("{seen:?}").contains(secret)));
    // connecting is not on anybody's behalf
    assert!(recorder.seen().iter().filter(|seen| seen.method() == "tools/list").all(|seen| {
        let shown = &seen.headers["authorization"];
        shown.starts_with("Bearer canary-access-") && !shown.ends_with("-ann")
    }));
    assert_eq!(house.stop(), Some(0));
    let entries = house.entries();
    let settled = of_kind(&entries, "call.settled").pop().unwrap();
    let lease = text(&settled, "lease");
    assert!(lease.starts_with("lease_") && lease.len() == 32, "{settled}");
    let leased = entries.iter().find(|entry| text(entry, "lease") == lease && kind_of(entry) == "credential.leased");
    let leased = leased.unwrap();
    for (member, expected) in
        [("upstream", "up"), ("auth", "token_exchange"), ("user", "ann"), ("task", "t-1"), ("agent", "tester")]
    {
        assert_eq!(text(leased, member), expected, "{leased}");
    }
    assert!(leased["seq"].as_u64() > of_kind(&entries, "call.intended")[0]["seq"].as_u64());
    assert!(text(leased, "expires") > text(leased, "at"));
    house.done(&["ledger", "verify"]);
}

#[test]
fn fifty_calls_at_once_need_one_credential() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let house = House::open(&upstream(&recorder, &server.auth("token_exchange", "")), EVERYTHING);
    let token = house.token("tester", &["--for", "ann"]);
    server.set(EXCHANGE, Manner::Waits);
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..50).map(|_| scope.spawn(|| house.call(&token, "up__write", r#"{"text":"a"}"#))).collect();
        until("every call is recorded", Duration::from_secs(30), || (house.count("call.intended") == 50).then_some(()));
        server.set(EXCHANGE, Manner::Gives);
        assert!(calls.into_iter().all(|call| call.join().unwrap().is_success()));
    });
    assert_eq!(server.asked(EXCHANGE).len(), 1);
    let shown = tokens(&recorder);
    assert!(shown.len() == 50 && shown.iter().all(|token| *token == shown[0]));
    let exchanged = of_kind(&house.entries(), "credential.leased");
    assert_eq!(exchanged.iter().filter(|entry| text(entry, "auth") == "token_exchange").count(), 1);
}

#[test]
fn users_tasks_and_agents_have_credentials_of_their_own_and_nobody_has_none() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let grants = "@id(\"all\")\npermit (principal, action in Action::\"call\", resource);\n";
    let mut house = House::open(&upstream(&recorder, &server.auth("token_exchange", "")), grants);
    let of = |agent: &str, more: &[&str]| {
        let token = house.token(agent, more);
        assert!(house.call(&token, "up__bare", "{}").is_success(), "{agent} {more:?}");
        tokens(&recorder).pop().unwrap()
    };
    let callers: [(&str, &[&str]); 5] = [
        ("tester", &["--for", "ann"]),
        ("tester", &["--for", "bob"]),
        ("tester", &["--for", "ann", "--task", "t-1"]),
        ("tester", &["--for", "ann", "--task", "t-2"]),
        ("other", &["--for", "ann"]),
    ];
    let first: Vec<String> = callers.iter().map(|(agent, more)| of(agent, more)).collect();
    let apart: std::collections::BTreeSet<&String> = first.iter().collect();
    assert_eq!(apart.len(), callers.len(), "{first:?}");
    assert!(first[1].ends_with("-bob") && first.iter().filter(|token| token.ends_with("-ann")).count() == 4);
    let again: Vec<String> = callers.iter().map(|(agent, more)| of(agent, more)).collect();
    assert_eq!(first, again, "each is kept");
    let (before, asked) = (recorder.calls().len(), server.asked(EXCHANGE).len());
    let nobodys = house.token("tester", &[]);
    let refused = house.call(&nobodys, "up__bare", "{}");
    assert_eq!(refused.reason().as_deref(), Some("user_required"));
    assert_eq!((recorder.calls().len(), server.asked(EXCHANGE).len()), (before, asked), "nothing left");
    assert_eq!(house.stop(), Some(0));
    let settled = of_kind(&house.entries(), "call.settled").pop().unwrap();
    assert_eq!((text(&settled, "why"), text(&settled, "reason")), ("not_sent", "user_required"));
    assert_eq!(text(&settled, "lease"), "");
}

#[test]
fn a_credential_that_ends_is_had_again() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let house = House::open(&upstream(&recorder, &server.auth(CC, "")), EVERYTHING);
    let token = house.token("tester", &[]);
    server.live(2);
    // the first one is good for an hour, and is dropped for being refused
    assert!(house.call(&token, "up__bare", "{}").is_success());
    recorder.refuse(&recorder.shown().pop().unwrap());
    assert!(!house.call(&token, "up__bare", "{}").is_success());
    let call = || {
        assert!(house.call(&token, "up__bare", "{}").is_success());
        tokens(&recorder).pop().unwrap()
    };
    let short = call();
    let asked = server.asked(CC).len();
    let began = Instant::now();
    let next = until("another one", Duration::from_secs(20), || Some(call()).filter(|token| *token != short));
    assert!(began.elapsed() > Duration::from_millis(1_200), "it is used as long as it is good");
    assert!(next != short && server.asked(CC).len() > asked);
    assert!(server.asked(CC).iter().all(|asked| asked.field("resource") == recorder.url()));
}

#[test]
fn a_credential_that_is_not_taken_is_dropped_and_the_call_is_not_sent_again() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let mut house = House::open(&upstream(&recorder, &server.auth(CC, "")), EVERYTHING);
    let token = house.token("tester", &[]);
    assert!(house.call(&token, "up__write", r#"{"text":"a"}"#).is_success());
    let taken = recorder.shown().pop().unwrap();
    recorder.refuse(&taken);
    let asked = server.asked(CC).len();
    assert!(!house.call(&token, "up__write", r#"{"text":"b"}"#).is_success());
    assert_eq!(
        (recorder.calls().len(), server.asked(CC).len()),
        (2, asked),
        "not sent again, and nothing fetched for it"
    );
    assert!(house.call(&token, "up__write", r#"{"text":"c"}"#).is_success());
    assert_eq!(server.asked(CC).len(), asked + 1);
    let shown = recorder.shown();
    assert!(shown[1] == taken && shown[2] != taken, "{shown:?}");
    assert_eq!(house.stop(), Some(0));
    let settled = of_kind(&house.entries(), "call.settled");
    assert_eq!(settled.iter().map(|entry| text(entry, "outcome")).collect::<Vec<_>>(), ["ok", "upstream_error", "ok"]);
    assert_eq!(text(&settled[0], "lease"), text(&settled[1], "lease"));
    assert_ne!(text(&settled[1], "lease"), text(&settled[2], "lease"));
}

#[test]
fn a_redirect_gets_no_credential() {
    let (recorder, elsewhere, server) = (Recorder::usual(), Recorder::usual(), TokenServer::start());
    recorder.redirect_to(&elsewhere.url());
    let house = House::open(&upstream(&recorder, &server.auth("token_exchange", "")), EVERYTHING);
    let token = house.token("tester", &["--for", "ann"]);
    let refused = house.call(&token, "up__redirects", "{}");
    assert!(!refused.is_success() && elsewhere.seen().is_empty(), "{refused:?}");
    // nor does one of the token endpoint
    let other = TokenServer::start();
    server.set(EXCHANGE, Manner::Redirects(format!("{}/token", other.issuer())));
    let bob = house.token("tester", &["--for", "bob"]);
    assert_eq!(house.call(&bob, "up__bare", "{}").reason().as_deref(), Some("credential_unavailable"));
    assert!(other.everything().is_empty());
}

#[test]
fn whatever_a_token_endpoint_answers_the_call_ends_unsent_and_nothing_of_it_is_told() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let mut house = House::new(&upstream(&recorder, &server.auth("token_exchange", "")), EVERYTHING);
    house.register();
    house.serve_with(&[("COUNTERSIGN_LOG", "trace")]);
    let before = recorder.calls().len();
    let said = |body: &str| Manner::Says(200, body.to_owned());
    let good = r#""token_type":"Bearer","expires_in":60"#;
    let manners = [
        Manner::Endless,
        Manner::Silent,
        Manner::Says(400, r#"{"error":"invalid_grant","error_description":"canary-description"}"#.to_owned()),
        Manner::Says(400, r#"{"error":"canary-error"}"#.to_owned()),
        Manner::Says(500, "canary-body".to_owned()),
        said("canary-body"),
        said(&format!(r#"{{"access_token":"",{good}}}"#)),
        said(&format!(r#"{{"access_token":"canary\r\nX: y",{good}}}"#)),
        said(&format!(r#"{{"access_token":"canary","access_token":"canary",{good}}}"#)),
        said(r#"{"access_token":"canary","token_type":"mac"}"#),
        said(&format!(
            r#"{{"access_token":"canary","issued_token_type":"urn:ietf:params:oauth:token-type:refresh_token",{good}}}"#
        )),
        said(&format!(r#"{{"access_token":"{}",{good}}}"#, "canary".repeat(4_000))),
    ];
    for (number, manner) in manners.into_iter().enumerate() {
        server.set(EXCHANGE, manner.clone());
        let token = house.token("tester", &["--for", &format!("user-{number}")]);
        let began = Instant::now();
        let refused = house.call(&token, "up__write", r#"{"text":"a"}"#);
        assert_eq!(refused.reason().as_deref(), Some("credential_unavailable"), "{manner:?}: {refused:?}");
        assert!(began.elapsed() < Duration::from_secs(8), "{manner:?}");
        assert!(!format!("{refused:?}").contains("canary"), "{manner:?}: {refused:?}");
        // and it is not asked again at once
        let asked = server.asked(EXCHANGE).len();
        if !matches!(manner, Manner::Silent) {
            assert_eq!(house.call(&token, "up__bare", "{}").reason().as_deref(), Some("credential_unavailable"));
            assert_eq!(server.asked(EXCHANGE).len(), asked, "{manner:?}");
        }
    }
    assert_eq!(recorder.calls().len(), before, "nothing reached the tool server");
    server.set(EXCHANGE, Manner::Gives);
    let token = house.token("tester", &["--for", "ann"]);
    assert!(house.call(&token, "up__bare", "{}").is_success());
    assert_eq!(house.stop(), Some(0));
    let entries = house.entries();
    let settled = of_kind(&entries, "call.settled");
    let unsent = settled.iter().filter(|entry| text(entry, "reason") == "credential_unavailable");
    assert!(unsent.clone().count() >= 12 && unsent.clone().all(|entry| text(entry, "why") == "not_sent"));
    let log = house.log();
    assert!(log.contains("TRACE") && log.contains("invalid_grant"), "{log}");
    for (place, text) in [("the log", log), ("the ledger", format!("{entries:?}"))] {
        let at = text.find("canary").map(|at| text[at.saturating_sub(200)..(at + 60).min(text.len())].to_owned());
        assert_eq!(at, None, "in {place}");
    }
    house.done(&["ledger", "verify"]);
}

#[test]
fn a_token_endpoint_inside_is_not_asked_unless_that_is_meant() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let auth = format!(
        "auth = {{ kind = \"client_credentials\", token_url = \"https://{}/token\", client_id = \"us\", client_secret = \"s\" }}",
        server.at()
    );
    let house = House::new(&upstream(&recorder, &auth), EVERYTHING);
    let output = house.run(&["tool", "register", "up"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("allow_private"), "{said}");
    assert!(server.everything().is_empty() && recorder.seen().is_empty());
}

#[test]
fn a_secret_in_a_file_is_taken_as_it_is_when_it_is_needed() {
    let recorder = Recorder::usual();
    let auth = "auth = { kind = \"header\", name = \"X-Api-Key\", file = \"key\" }";
    let mut house = House::new(&upstream(&recorder, auth), EVERYTHING);
    let key = house.path().join("key");
    let write = |text: &str, mode: u32| {
        std::fs::write(&key, text).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("canary-key-one\n", 0o600);
    house.register();
    house.serve();
    let token = house.token("tester", &[]);
    let shown = || recorder.calls().last().unwrap().headers.get("x-api-key").cloned().unwrap_or_default();
    let call = || house.call(&token, "up__write", r#"{"text":"a"}"#);
    assert!(call().is_success());
    assert_eq!(shown(), "canary-key-one");
    write("canary-key-two", 0o640);
    until("the new one is taken", Duration::from_secs(20), || {
        assert!(call().is_success());
        (shown() == "canary-key-two").then_some(())
    });
    write("canary-key-three", 0o644);
    let refused =
        until("it is refused", Duration::from_secs(20), || Some(call()).filter(|answer| !answer.is_success()));
    assert_eq!(refused.reason().as_deref(), Some("credential_unavailable"));
    assert!(house.log().contains("chmod 640"), "{}", house.log());
    assert_eq!(house.stop(), Some(0));
    let entries = house.entries();
    let leased = of_kind(&entries, "credential.leased");
    // once by the command that registered, then one for each secret
    assert_eq!(leased.len(), 3, "{leased:?}");
    assert!(leased.iter().all(|entry| text(entry, "auth") == "header" && text(entry, "expires").is_empty()));
    assert!(!format!("{entries:?}{}", house.log()).contains("canary"));
}

#[test]
fn a_refresh_token_that_was_replaced_survives_a_restart() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let auth = server.auth("refresh_token", ", refresh_token = \"canary-refresh-first\"");
    let mut house = House::new(&upstream(&recorder, &auth), EVERYTHING);
    server.rotate_from("canary-refresh-first");
    house.register();
    house.serve();
    let token = house.token("tester", &[]);
    assert!(house.call(&token, "up__bare", "{}").is_success());
    let kept = house.data().join("leases/up.json");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    house.kill();
    house.serve();
    assert!(house.call(&token, "up__bare", "{}").is_success());
    let refreshed: Vec<String> =
        server.asked("refresh_token").iter().map(|asked| asked.field("refresh_token").to_owned()).collect();
    assert!(refreshed.len() >= 3 && refreshed[0] == "canary-refresh-first", "{refreshed:?}");
    let once: std::collections::BTreeSet<&String> = refreshed.iter().collect();
    assert_eq!(once.len(), refreshed.len(), "none is used twice: {refreshed:?}");
    assert_eq!(house.stop(), Some(0));
    assert!(std::fs::read_to_string(&kept).unwrap().contains(&server.refresh()));
    // another token in the configuration counts, and what was kept does not
    server.rotate_from("canary-refresh-other");
    house.configure(&upstream(&recorder, &server.auth("refresh_token", ", refresh_token = \"canary-refresh-other\"")));
    house.serve();
    assert!(house.call(&token, "up__bare", "{}").is_success());
    assert_eq!(house.stop(), Some(0));
    let entries = format!("{:?}", house.entries());
    assert!(!entries.contains("canary") && !house.log().contains("canary"));
}

#[test]
fn no_credential_comes_out_anywhere() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    let mut house = House::new(&upstream(&recorder, &server.auth("token_exchange", "")), EVERYTHING);
    house.register();
    house.serve_with(&[("COUNTERSIGN_LOG", "trace")]);
    let token = house.token("tester", &["--for", "ann"]);
    let mut looked = Vec::new();
    for tool in ["bare", "garbage", "dies", "redirects", "other_id", "wrong_type", "escapes"] {
        looked.push((tool.to_owned(), format!("{:?}", house.call(&token, &format!("up__{tool}"), "{}"))));
    }
    assert!(tokens(&recorder).iter().all(|token| token.starts_with("canary-access-")));
    for path in ["/metrics", "/readyz", "/healthz"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", house.console);
        looked.push((path.to_owned(), format!("{:?}", exchange(house.console, request.as_bytes()))));
    }
    for arguments in [
        &["status", "--json"][..],
        &["upstream", "list", "--json"],
        &["check", "--json"],
        &["ledger", "export", "--format", "jsonl"],
    ] {
        let output = house.run(arguments);
        looked.push((
            arguments.join(" "),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        ));
    }
    assert_eq!(house.stop(), Some(0));
    let log = house.log();
    assert!(log.contains("TRACE"));
    looked.push(("the log".to_owned(), log));
    let assertion = server.asked(EXCHANGE)[0].field("subject_token").rsplit('.').next().unwrap().to_owned();
    for (place, text) in looked {
        assert!(!text.contains("canary") && !text.contains(&assertion), "{place}: {text}");
    }
}

#[test]
fn an_upstream_without_its_account_says_so_and_its_calls_are_not_sent() {
    let (recorder, server) = (Recorder::usual(), TokenServer::start());
    // its tools are known from before
    let mut house = House::new(&upstream(&recorder, ""), EVERYTHING);
    house.register();
    house.configure(&upstream(&recorder, &server.auth("authorization_code", "")));
    house.serve();
    let token = house.token("tester", &[]);
    let before = recorder.seen().len();
    let refused = house.call(&token, "up__bare", "{}");
    assert_eq!(refused.reason().as_deref(), Some("account_not_connected"), "{refused:?}");
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", house.console);
    let ready: Value = serde_json::from_slice(&exchange(house.console, request.as_bytes()).body).unwrap();
    assert_eq!(ready["accounts"]["up"], "not_connected", "{ready}");
    let listed: Value = serde_json::from_str(&house.done(&["upstream", "list", "--json"])).unwrap();
    assert_eq!(listed["upstreams"][0]["account"], "not_connected", "{listed}");
    assert!(house.done(&["upstream", "list"]).contains("not_connected"));
    assert_eq!(recorder.seen().len(), before, "nothing reached it");
    assert!(server.asked("refresh_token").is_empty());
    assert_eq!(house.stop(), Some(0));
}
