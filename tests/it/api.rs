//! The approvers' API through its own door: every answer is held against the OpenAPI document that is served there.

pub(crate) mod passkeys;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use countersign::{
    approver::{Passphrase, Vouch},
    clock::Clock,
    config,
    hold::{HoldId, statement},
    http,
    identity::TokenRequest,
    json::Digest,
    mcp, server,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

use crate::{
    house::{House, http_upstream, until},
    recorder::Recorder,
    wire::{Answer, Request, connect, exchange},
};

/// One countersignature from finance for `echo`, two from finance for `short`; `bare` needs none.
const GRANTS: &str = r#"
@id("echo") @hold("finance") @expires("10m") @reason("money moves")
permit (principal, action == Action::"up__echo", resource);
@id("short") @hold("finance") @approvals("2") @expires("10m")
permit (principal, action == Action::"up__short", resource);
@id("bare") permit (principal, action == Action::"up__bare", resource);
"#;

/// How long things that happen by themselves may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn passphrase_of(approver: &str) -> String {
    format!("the passphrase of {approver}")
}

/// A house in this very process, at a time that stands still until it is moved.
pub(crate) struct Api {
    pub(crate) folder: House,
    pub(crate) upstream: Recorder,
    pub(crate) runtime: Runtime,
    pub(crate) house: Arc<server::House>,
    clock: Clock,
    pub(crate) agents: SocketAddr,
    pub(crate) at: SocketAddr,
    description: Value,
    stop: watch::Sender<bool>,
}

/// Somebody who may countersign.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) name: &'static str,
    pub(crate) token: String,
}

impl Api {
    pub(crate) fn open() -> Self {
        Self::open_with(|_config| {})
    }

    /// The same, with the configuration changed.
    pub(crate) fn open_with(change: impl FnOnce(&mut config::Config)) -> Self {
        Self::open_under(GRANTS, change)
    }

    /// The same under other grants.
    pub(crate) fn open_under(grants: &str, change: impl FnOnce(&mut config::Config)) -> Self {
        let upstream = Recorder::usual();
        let folder = House::new(&http_upstream("up", &upstream.url(), ""), grants);
        folder.register();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let clock = Clock::fixed(Timestamp::from_second(1_800_000_000).unwrap());
        let (house, agents, at) = runtime.block_on(async {
            let agents = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let console = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let places = (agents.local_addr().unwrap(), console.local_addr().unwrap());
            let mut config = config::load(&folder.path().join("countersign.toml")).unwrap();
            (config.server.listen, config.console.listen) = places;
            change(&mut config);
            let house = Arc::new(server::House::open(config, clock.clone()).unwrap());
            house.start().await.unwrap();
            let settings = mcp::http::Settings::new(&house.config.server, house.session_key);
            tokio::spawn(mcp::http::serve(agents, Arc::clone(&house.pipeline), settings, stopped.clone()));
            let (of_console, data) = (house.config.console.clone(), house.config.data.clone());
            tokio::spawn(http::serve(console, of_console, Arc::clone(&house.pipeline), data, stopped));
            (house, places.0, places.1)
        });
        let request = format!("GET /api/v1/openapi.json HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
        let answer = exchange(at, request.as_bytes());
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let description = serde_json::from_slice(&answer.body).unwrap();
        Self { folder, upstream, runtime, house, clock, agents, at, description, stop }
    }

    pub(crate) fn close(self) {
        self.stop.send_replace(true);
        self.runtime.block_on(async { self.house.stop("test").await });
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }

    pub(crate) fn request(method: &str, path: &str, body: Option<&Value>) -> Request {
        let mut request = match body {
            Some(body) => Request::post(body.to_string()),
            None => Request::post("").without("Content-Type"),
        };
        request.line = format!("{method} /api/v1{path} HTTP/1.1");
        request.without("Accept")
    }

    /// Sends it, and holds the answer against the description.
    pub(crate) fn send(&self, request: &Request, token: Option<&str>) -> Answer {
        let answer = request.send(self.at, token);
        self.described(&request.line, &answer);
        answer
    }

    pub(crate) fn look(&self, path: &str, who: &Person) -> Value {
        let answer = self.send(&Self::request("GET", path, None), Some(&who.token));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.messages[0].clone()
    }

    fn act(&self, path: &str, body: &Value, token: Option<&str>) -> Answer {
        self.send(&Self::request("POST", path, Some(body)), token)
    }

    /// The status and the code of a refusal.
    fn refusal(answer: &Answer) -> (u16, String) {
        let code = answer.messages.first().and_then(|body| body["code"].as_str()).unwrap_or_default();
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer:?}");
        (answer.status, code.to_owned())
    }

    /// An answer has a status that its operation lists, of the kind that is listed, and no member that is not described.
    fn described(&self, line: &str, answer: &Answer) {
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap().to_lowercase(), words.next().unwrap());
        let path = target.split('?').next().unwrap();
        let fits = |template: &str| {
            let (there, here): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
            there.len() == here.len()
                && there.iter().zip(&here).all(|(there, here)| there == here || there.starts_with('{'))
        };
        let paths = self.description["paths"].as_object().unwrap();
        let exact = paths.get(path).or_else(|| paths.iter().find(|(template, _)| fits(template)).map(|(_, item)| item));
        let Some(operation) = exact.and_then(|item| item.get(&method)) else {
            assert!(matches!(answer.status, 403..=405 | 415), "{line} is not described: {answer:?}");
            return;
        };
        let responses = &operation["responses"];
        let response = responses.get(answer.status.to_string());
        let response = response.unwrap_or_else(|| panic!("{line}: {} is not described: {answer:?}", answer.status));
        let response = match response["$ref"].as_str() {
            Some(to) => self.description.pointer(to.trim_start_matches('#')).unwrap(),
            None => response,
        };
        let Some(content) = response.get("content").and_then(Value::as_object) else {
            assert!(answer.body.is_empty(), "{line}: {answer:?}");
            return;
        };
        let kind = answer.header("content-type").unwrap_or_default();
        let Some(media) = content.get(kind) else { panic!("{line}: `{kind}` is not described: {answer:?}") };
        if kind.contains("json") {
            let mut schema = media["schema"].clone();
            schema["components"] = self.description["components"].clone();
            let validator = jsonschema::validator_for(&schema).unwrap();
            let body: Value = serde_json::from_slice(&answer.body).unwrap();
            let wrong: Vec<String> =
                validator.iter_errors(&body).map(|error| format!("{} at {}", error, error.instance_path())).collect();
            assert!(wrong.is_empty(), "{line}: {wrong:?}\n{body:#}");
        }
    }

    fn set<const N: usize>(texts: [&str; N]) -> BTreeSet<String> {
        texts.map(str::to_owned).into()
    }

    /// Adds an approver; who is enrolled already vouches.
    pub(crate) fn invite(&self, name: &str, roles: &[&str], also: &[&str], by: Option<&str>) -> String {
        let roles = roles.iter().map(|role| (*role).to_owned()).collect();
        let also = also.iter().map(|also| (*also).to_owned()).collect();
        let vouch = by.map(|by| Vouch { approver: by.to_owned(), passphrase: Passphrase::new(passphrase_of(by)) });
        let added = self.runtime.block_on(self.house.pipeline.approvers.add(name, roles, also, vouch)).unwrap();
        added.code.unwrap().reveal().to_string()
    }

    pub(crate) fn enrol(&self, name: &'static str, roles: &[&str], also: &[&str], by: Option<&str>) -> Person {
        let code = self.invite(name, roles, also, by);
        let answer = self.act("/enrol", &json!({"code": code, "passphrase": passphrase_of(name)}), None);
        assert_eq!((answer.status, &answer.messages[0]["approver"]), (200, &json!(name)), "{answer:?}");
        self.login(name)
    }

    pub(crate) fn login(&self, name: &'static str) -> Person {
        let answer = self.act("/login", &json!({"approver": name, "passphrase": passphrase_of(name)}), None);
        assert_eq!(answer.status, 200, "{answer:?}");
        Person { name, token: answer.messages[0]["token"].as_str().unwrap().to_owned() }
    }

    pub(crate) fn agent(&self, agent: &str, user: Option<&str>) -> String {
        let (agent, user) = (agent.to_owned(), user.map(str::to_owned));
        let request = TokenRequest { agent, ttl: Duration::from_secs(3_600), task: None, user };
        self.runtime.block_on(self.house.pipeline.identity.issue(request)).unwrap()
    }

    /// Has an agent call a tool, and gives the hold that this opens. Who calls hangs up.
    pub(crate) fn hold(&self, agent: &str, tool: &str, arguments: &str, who: &Person) -> Value {
        let known = self.open_holds(who);
        let mut stream = connect(self.agents);
        stream.write_all(&Request::call(tool, arguments).bytes(self.agents, Some(agent))).unwrap();
        until("a hold is opened", SOON, || {
            let new = |hold: &Value| !known.iter().any(|old| old["id"] == hold["id"]);
            self.open_holds(who).into_iter().find(new)
        })
    }

    pub(crate) fn open_holds(&self, who: &Person) -> Vec<Value> {
        self.look("/holds?limit=200", who)["holds"].as_array().unwrap().clone()
    }

    pub(crate) fn approve(&self, hold: &Value, who: &Person) -> Answer {
        let body = json!({"digest": hold["digest"], "passphrase": passphrase_of(who.name)});
        self.act(&format!("/holds/{}/approve", text(&hold["id"])), &body, Some(&who.token))
    }

    pub(crate) fn deny(&self, hold: &Value, who: &Person) -> Answer {
        let body = json!({"digest": hold["digest"], "reason": "not today"});
        self.act(&format!("/holds/{}/deny", text(&hold["id"])), &body, Some(&who.token))
    }

    pub(crate) fn pass(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// An event stream of the API.
struct Events {
    stream: TcpStream,
    seen: String,
}

impl Events {
    fn open(api: &Api, who: &Person) -> Self {
        let mut stream = connect(api.at);
        let request = Api::request("GET", "/holds/events", None);
        stream.write_all(&request.bytes(api.at, Some(&who.token))).unwrap();
        let mut events = Self { stream, seen: String::new() };
        let head = events.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        events
    }

    /// Reads on until the text is there; gives what came before it.
    fn until(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            let mut chunk = [0; 4_096];
            let read = self.stream.read(&mut chunk).unwrap();
            assert!(read > 0, "the stream ended before `{text}`: {}", self.seen);
            self.seen.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        }
    }

    /// The data of the next event of that kind.
    fn next(&mut self, kind: &str) -> Value {
        self.until(&format!("event: {kind}\ndata: "));
        let data = self.until("\n\n");
        serde_json::from_str(data.trim()).unwrap()
    }
}

#[test]
fn an_approver_enrols_looks_countersigns_and_the_call_runs_once() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("billing-bot", Some("carol"));
    let opened = api.hold(&agent, "up__echo", r#"{"text":"pay \u202e100","n":1}"#, &ann);
    let path = format!("/holds/{}", text(&opened["id"]));
    let shown = api.look(&path, &ann);
    for (member, expected) in [
        ("state", json!("pending")),
        ("agent", json!("billing-bot")),
        ("user", json!("carol")),
        ("tool", json!("up__echo")),
        ("seconds_left", json!(600)),
        ("you", json!({"takes": null, "cannot_approve": null, "cannot_deny": null})),
        ("progress", json!([{"role": "finance", "have": 0, "need": 1}])),
    ] {
        assert_eq!(shown[member], expected, "{member}");
    }
    assert_eq!(shown["demands"][0]["reason"], "money moves");
    assert_eq!(Digest::of(text(&shown["entry"]).as_bytes()).to_string(), text(&shown["digest"]));
    assert_eq!(shown["arguments"]["canonical"], "{\"n\":1,\"text\":\"pay \u{202e}100\"}");
    assert!(text(&shown["arguments"]["text"]).contains("<U+202E>"), "{shown:#}");
    assert!(shown["arguments"]["flags"].as_array().unwrap().contains(&json!("bidi")), "{shown:#}");
    assert_eq!(shown["difference"], Value::Null);
    assert_eq!(api.upstream.calls().len(), 0, "nothing reaches the upstream before it is countersigned");

    let approved = api.approve(&shown, &ann);
    assert_eq!(approved.status, 200, "{approved:?}");
    assert!(matches!(text(&approved.messages[0]["state"]), "approved" | "spent"), "{approved:?}");
    assert_eq!(approved.messages[0]["votes"][0]["approver"], "ann");
    let again = Request::call("up__echo", r#"{"n":1,"text":"pay \u202e100"}"#).send(api.agents, Some(&agent));
    assert!(again.is_success(), "{again:?}");
    let spent = until("the outcome is there", SOON, || {
        let shown = api.look(&path, &ann);
        shown.pointer("/ended/outcome/word").is_some().then_some(shown)
    });
    assert_eq!((&spent["state"], &spent["ended"]["outcome"]["word"]), (&json!("spent"), &json!("ok")));
    assert_eq!(api.upstream.calls().len(), 1);
    assert_eq!(api.upstream.calls()[0].arguments(), text(&shown["arguments"]["canonical"]));

    // the next one like it says what is different, and what happened lately
    let next = api.hold(&agent, "up__echo", r#"{"text":"pay 100","n":2}"#, &ann);
    let shown = api.look(&format!("/holds/{}", text(&next["id"])), &ann);
    assert_eq!(shown["difference"]["hold"], opened["id"]);
    let places: Vec<&str> =
        shown["difference"]["changes"].as_array().unwrap().iter().map(|change| text(&change["pointer"])).collect();
    assert_eq!(places, ["/n", "/text"]);
    assert_eq!(shown["difference"]["readable"], true);
    api.runtime.block_on(api.house.pipeline.ledger.redact(opened["seq"].as_u64().unwrap())).unwrap();
    let blind = api.look(&format!("/holds/{}", text(&next["id"])), &ann);
    assert_eq!(
        blind["difference"],
        json!({"hold": opened["id"], "readable": false, "changes": [], "more": 0}),
        "that nothing is known is not that there was nothing"
    );
    assert_eq!(shown["lately"]["complete"], true);
    assert_eq!(shown["lately"]["counts"]["call.intended"], 1, "{:#}", shown["lately"]);
    api.close();
}

#[test]
fn a_countersignature_can_be_checked_without_us() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let hold = api.hold(&api.agent("bot", None), "up__echo", r#"{"text":"a"}"#, &ann);
    assert_eq!(api.approve(&hold, &ann).status, 200);
    let entries = api.look("/ledger?kind=hold.approved", &ann);
    let vote = &entries["entries"][0]["entry"];
    let enrolled = api.look("/ledger?kind=approver.enrolled", &ann);
    assert_eq!(vote["key"], enrolled["entries"][0]["entry"]["key"]);
    let origin = &api.house.config.ledger.origin;
    let (id, digest) = (HoldId::read(text(&hold["id"])).unwrap(), text(&hold["digest"]).parse().unwrap());
    let signed = statement::approval(origin, &id, &digest, "ann", text(&vote["at"]).parse().unwrap());
    let key = BASE64.decode(text(&vote["key"])).unwrap().try_into().unwrap();
    let signature = BASE64.decode(text(&vote["signature"])).unwrap();
    assert!(statement::is_signed(&signed, &key, &signature));
    let other = statement::approval(origin, &id, &Digest::of(b"other"), "ann", text(&vote["at"]).parse().unwrap());
    assert!(!statement::is_signed(&other, &key, &signature));
    api.close();
}

#[test]
fn every_act_that_the_ledger_does_not_allow_has_its_code() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &["ann@work"], None);
    let bob = api.enrol("bob", &["finance"], &["carol"], Some("ann"));
    let eve = api.enrol("eve", &["oncall"], &[], Some("ann"));
    let twin = api.enrol("twin", &["finance"], &["Ann@Work"], Some("ann"));
    let dan = api.enrol("dan", &["finance"], &[], Some("ann"));
    let agent = api.agent("bot", Some("Carol"));
    let hold = api.hold(&agent, "up__short", r#"{"text":"a"}"#, &ann);
    let other = json!({"id": hold["id"], "digest": Digest::of(b"other").to_string()});
    let unknown = json!({"id": format!("hold_{}", "0".repeat(26)), "digest": hold["digest"]});
    let malformed = json!({"id": "hold_1", "digest": hold["digest"]});
    let refusals = |answer: &Answer| Api::refusal(answer);
    for (hold, who, status, code) in [
        (&other, &ann, 409, "digest_mismatch"),
        (&unknown, &ann, 404, "hold_unknown"),
        (&malformed, &ann, 404, "hold_unknown"),
        (&hold, &eve, 403, "wrong_role"),
        (&hold, &bob, 403, "approver_is_requester"),
    ] {
        assert_eq!(refusals(&api.approve(hold, who)), (status, code.to_owned()));
        assert_eq!(refusals(&api.deny(hold, who)), (status, code.to_owned()));
    }
    assert_eq!(api.look(&format!("/holds/{}", text(&hold["id"])), &eve)["you"]["cannot_approve"], "wrong_role");
    let path = format!("/holds/{}/approve", text(&hold["id"]));
    let wrong = json!({"digest": hold["digest"], "passphrase": "another passphrase"});
    assert_eq!(refusals(&api.act(&path, &wrong, Some(&ann.token))), (403, "passphrase_wrong".to_owned()));

    let first = api.approve(&hold, &ann);
    assert_eq!((first.status, &first.messages[0]["state"]), (200, &json!("pending")), "{first:?}");
    for who in [&ann, &twin] {
        assert_eq!(refusals(&api.approve(&hold, who)), (409, "already_countersigned".to_owned()), "{}", who.name);
    }
    let denied = api.deny(&hold, &dan);
    assert_eq!((denied.status, &denied.messages[0]["state"]), (200, &json!("denied")));
    assert_eq!(denied.messages[0]["ended"], json!({"by": "dan", "reason": "not today"}));
    for answer in [api.approve(&hold, &dan), api.deny(&hold, &ann)] {
        assert_eq!(refusals(&answer), (410, "hold_ended".to_owned()));
        assert_eq!(answer.messages[0]["state"], "denied");
    }

    let late = api.hold(&agent, "up__short", r#"{"text":"b"}"#, &ann);
    api.pass(600);
    let answer = api.approve(&late, &ann);
    assert_eq!(Api::refusal(&answer).0, 410, "{answer:?}");
    assert_eq!(answer.messages[0]["state"], "expired");
    let listed = api.look("/holds?state=expired", &ann);
    assert_eq!(listed["holds"][0]["id"], late["id"]);
    assert_eq!(api.upstream.calls().len(), 0);
    api.close();
}

#[test]
fn two_people_are_two_people_and_the_second_releases_the_call() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let bob = api.enrol("bob", &["finance"], &[], Some("ann"));
    let agent = api.agent("bot", None);
    let hold = api.hold(&agent, "up__short", r#"{"text":"a"}"#, &ann);
    assert_eq!(api.approve(&hold, &ann).messages[0]["progress"], json!([{"role": "finance", "have": 1, "need": 2}]));
    assert_eq!(api.upstream.calls().len(), 0);
    let second = api.approve(&hold, &bob);
    assert!(matches!(text(&second.messages[0]["state"]), "approved" | "spent"), "{second:?}");
    assert!(Request::call("up__short", r#"{"text":"a"}"#).send(api.agents, Some(&agent)).is_success());
    assert_eq!(api.upstream.calls().len(), 1);
    api.close();
}

#[test]
fn what_is_not_a_request_of_the_api_has_its_code() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let hold = api.hold(&api.agent("bot", None), "up__echo", r#"{"text":"a"}"#, &ann);
    let (id, digest) = (text(&hold["id"]), text(&hold["digest"]));
    let deny = format!("/holds/{id}/deny");
    let deny = deny.as_str();
    let fine = format!(r#"{{"digest":"{digest}","reason":"no"}}"#);
    let post = |path: &str, body: &str| Api::request("POST", path, Some(&json!({}))).body(body);
    let read = |path: &str| Api::request("GET", path, None);
    let long = "x".repeat(64 << 10);
    let reason = |reason: &str| post(deny, &format!(r#"{{"digest":"{digest}","reason":"{reason}"}}"#));
    let rows: Vec<(&str, Request, u16, &str)> = vec![
        ("no JSON", post(deny, "digest"), 400, "parse_error"),
        ("nothing", post(deny, ""), 400, "parse_error"),
        ("a member twice", post(deny, &fine.replace('}', r#","reason":"yes"}"#)), 400, "parse_error"),
        ("escaped twice", post(deny, &fine.replace('}', r#","re\u0061son":"yes"}"#)), 400, "parse_error"),
        ("a lone surrogate", reason(r"\ud800"), 400, "parse_error"),
        ("more behind it", post(deny, &format!("{fine}{fine}")), 400, "parse_error"),
        ("no object", post(deny, "[]"), 400, "invalid_request"),
        ("an unknown member", post(deny, &fine.replace('}', r#","force":true}"#)), 400, "invalid_request"),
        ("a missing member", post(deny, &format!(r#"{{"digest":"{digest}"}}"#)), 400, "invalid_request"),
        ("a number for a text", post(deny, &fine.replace("\"no\"", "7")), 400, "invalid_request"),
        ("no digest", post(deny, &fine.replace("sha256:", "")), 400, "invalid_request"),
        ("no reason in it", reason("  "), 400, "invalid_request"),
        ("a long reason", reason(&"x".repeat(501)), 400, "invalid_request"),
        ("control characters", reason(r"a\u001b[2Jb"), 400, "invalid_request"),
        ("too large", reason(&long), 413, "too_large"),
        (
            "a form",
            post(deny, &fine).with("Content-Type", "application/x-www-form-urlencoded"),
            415,
            "unsupported_media_type",
        ),
        ("plain text", post(deny, &fine).with("Content-Type", "text/plain"), 415, "unsupported_media_type"),
        ("no type", post(deny, &fine).without("Content-Type"), 415, "unsupported_media_type"),
        ("two types", post(deny, &fine).also("Content-Type", "application/json"), 415, "unsupported_media_type"),
        ("another page", post(deny, &fine).with("Origin", "http://attacker.test"), 403, "origin_not_allowed"),
        ("a page from a file", post(deny, &fine).with("Origin", "null"), 403, "origin_not_allowed"),
        ("another name for us", read("/holds").with("Host", "attacker.test"), 403, "host_not_allowed"),
        ("no such path", read("/hold"), 404, "not_found"),
        ("no such entry", read("/ledger/proof/999999"), 404, "entry_unknown"),
        ("no number", read("/ledger/proof/-1"), 404, "entry_unknown"),
        ("a path that is no text", read("/ledger/proof/%ff"), 404, "entry_unknown"),
        ("no id", read("/holds/%2e%2e"), 404, "hold_unknown"),
        ("an id that is no text", read("/holds/%ff"), 404, "hold_unknown"),
        ("to write what is read", post("/holds", "{}"), 405, "http_method_not_allowed"),
        ("to read what is written", read(deny), 405, "http_method_not_allowed"),
        ("a state that is none", read("/holds?state=open%20"), 400, "invalid_request"),
        ("a parameter twice", read("/holds?state=open&state=void"), 400, "invalid_request"),
        ("an unknown parameter", read("/holds?status=open"), 400, "invalid_request"),
        ("no page", read("/holds?limit=0"), 400, "invalid_request"),
        ("no cursor", read("/holds?before=1"), 400, "invalid_request"),
        ("no time", read("/ledger?since=yesterday"), 400, "invalid_request"),
        ("a parameter of another", read("/holds/events?from=1"), 400, "invalid_request"),
    ];
    for (what, request, status, code) in rows {
        let answer = api.send(&request, Some(&ann.token));
        assert_eq!(Api::refusal(&answer), (status, code.to_owned()), "{what}");
        assert!(!answer.messages[0]["detail"].as_str().unwrap().is_empty());
    }
    for (method, path, allowed) in [("PUT", "/holds", "GET,HEAD"), ("GET", deny, "POST"), ("OPTIONS", "/login", "POST")]
    {
        let answer = api.send(&Api::request(method, path, None), Some(&ann.token));
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    // what any page could send changes nothing, whatever the operation
    for (path, item) in api.description["paths"].as_object().unwrap() {
        if item.get("post").is_some() {
            let path = path.trim_start_matches("/api/v1").replace("{id}", id);
            let answer = api.send(&post(&path, "{}").with("Content-Type", "text/plain"), Some(&ann.token));
            assert_eq!(Api::refusal(&answer), (415, "unsupported_media_type".to_owned()), "{path}");
        }
    }
    // a body that does not come is not waited for forever, and one of a chunked length is bounded too
    let chunked = post(deny, "").with("Transfer-Encoding", "chunked");
    let mut bytes = chunked.bytes(api.at, Some(&ann.token));
    for _ in 0..2 {
        bytes.extend_from_slice(format!("8001\r\n{}\r\n", " ".repeat(0x8001)).as_bytes());
    }
    let answer = exchange(api.at, &bytes);
    assert_eq!(Api::refusal(&answer), (413, "too_large".to_owned()));
    assert_eq!(api.look(&format!("/holds/{id}"), &ann)["state"], "pending");
    let own = post(deny, &fine)
        .with("Origin", &format!("http://{}", api.at))
        .with("Content-Type", "application/json; charset=utf-8");
    assert_eq!(api.send(&own, Some(&ann.token)).status, 200);
    api.close();
}

#[test]
fn nothing_but_a_living_session_of_an_approver_opens_anything() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("bot", None);
    let hold = api.hold(&agent, "up__echo", r#"{"text":"a"}"#, &ann);
    let id = text(&hold["id"]);
    let paths = api.description["paths"].as_object().unwrap().clone();
    let mut closed = 0;
    for (path, item) in &paths {
        for (method, operation) in item.as_object().unwrap() {
            if operation["security"] == json!([]) {
                continue;
            }
            closed += 1;
            let path = path.trim_start_matches("/api/v1").replace("{id}", id).replace("{seq}", "0");
            let body = (method == "post").then(|| json!({}));
            let request = Api::request(&method.to_uppercase(), &path, body.as_ref());
            let flipped = ann.token.replace("cas_", "cas-");
            let rows: [(&str, Option<String>, &str); 6] = [
                ("nothing", None, "session_missing"),
                ("an agent's token", Some(format!("Bearer {agent}")), "session_unknown"),
                ("no session's token", Some(format!("Bearer cas_{}", "A".repeat(43))), "session_unknown"),
                ("another prefix", Some(format!("Bearer {flipped}")), "session_unknown"),
                ("another scheme", Some(format!("Basic {}", ann.token)), "session_unknown"),
                ("a passphrase", Some(format!("Bearer {}", passphrase_of("ann"))), "session_unknown"),
            ];
            for (what, credential, code) in rows {
                let request = match credential {
                    Some(credential) => request.clone().with("Authorization", &credential),
                    None => request.clone(),
                };
                let answer = api.send(&request, None);
                assert_eq!(Api::refusal(&answer), (401, code.to_owned()), "{method} {path} with {what}");
                assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"countersign approvers\""));
            }
            let twice = request.also("Authorization", &format!("Bearer {}", ann.token));
            let answer = api.send(&twice.also("Authorization", &format!("Bearer {}", ann.token)), None);
            assert_eq!(Api::refusal(&answer), (401, "session_unknown".to_owned()), "{method} {path}");
        }
    }
    assert_eq!(closed, 14);
    // nor does an approver's token open anything for an agent
    let answer = Request::call("up__bare", "{}").send(api.agents, Some(&ann.token));
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(api.upstream.calls().len(), 0);
    api.close();
}

#[test]
fn a_session_ends_by_itself_by_logout_and_with_its_approver() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let bob = api.enrol("bob", &["finance"], &[], Some("ann"));
    let is_over = |who: &Person| {
        let answer = api.send(&Api::request("GET", "/holds", None), Some(&who.token));
        answer.status == 401 && Api::refusal(&answer).1 == "session_unknown"
    };
    api.pass(899);
    assert!(!is_over(&ann));
    api.pass(1);
    assert!(is_over(&bob), "fifteen minutes without a request");
    assert!(!is_over(&ann));
    for _ in 0..31 {
        api.pass(899);
        assert!(!is_over(&ann));
    }
    api.pass(32 * 900 - 900 - 31 * 899);
    assert!(is_over(&ann), "eight hours");
    let (one, two) = (api.login("ann"), api.login("ann"));
    assert_eq!(api.act("/logout", &json!({}), Some(&one.token)).status, 204);
    assert!(is_over(&one) && !is_over(&two));
    let bob = api.login("bob");
    assert!(!is_over(&bob));
    let vouch = Vouch { approver: "ann".to_owned(), passphrase: Passphrase::new(passphrase_of("ann")) };
    api.runtime.block_on(api.house.pipeline.approvers.remove("bob", Some(vouch))).unwrap();
    assert!(is_over(&bob));
    let refused = api.act("/login", &json!({"approver": "bob", "passphrase": passphrase_of("bob")}), None);
    assert_eq!(Api::refusal(&refused), (403, "login_refused".to_owned()));
    api.close();
}

#[test]
fn who_is_unknown_and_who_is_wrong_look_alike_and_are_slowed() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let hold = api.hold(&api.agent("bot", None), "up__echo", r#"{"text":"a"}"#, &ann);
    let mut answers = BTreeMap::new();
    for name in ["ann", "nobody", "../ann", ""] {
        let body = json!({"approver": name, "passphrase": "another passphrase"});
        for _ in 0..5 {
            let answer = api.act("/login", &body, None);
            assert_eq!(Api::refusal(&answer), (403, "login_refused".to_owned()), "{name}");
            answers.insert(answer.body, name);
        }
        let answer = api.act("/login", &body, None);
        assert_eq!(Api::refusal(&answer), (429, "too_many_attempts".to_owned()), "{name}");
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert_eq!(answer.messages[0]["retry_after_s"], 1);
    }
    assert_eq!(answers.len(), 1, "what is answered does not tell who is an approver");
    // who guesses at the door does not keep the approver who is in from acting
    assert_eq!(api.approve(&hold, &ann).status, 200);
    let refused = api.act("/login", &json!({"approver": "ann", "passphrase": passphrase_of("ann")}), None);
    assert_eq!(refused.status, 429);
    api.pass(1);
    api.login("ann");
    api.close();
}

#[test]
fn a_code_enrols_once_and_says_what_is_wrong() {
    let api = Api::open();
    let code = api.invite("ann", &["finance"], &[], None);
    let enrol =
        |code: &str, passphrase: &str| api.act("/enrol", &json!({"code": code, "passphrase": passphrase}), None);
    let long = "x".repeat(1_025);
    for (code, passphrase, status, expected) in [
        ("", "a fine passphrase", 403, "code_unknown"),
        ("0000-0000-0000-0000-0000", "a fine passphrase", 403, "code_unknown"),
        (&code, "short", 422, "passphrase_unfit"),
        (&code, "line\nbreak in it", 422, "passphrase_unfit"),
        (&code, &long, 422, "passphrase_unfit"),
    ] {
        assert_eq!(Api::refusal(&enrol(code, passphrase)), (status, expected.to_owned()), "{passphrase}");
    }
    let typed = code.replace('-', " ").to_lowercase();
    let enrolled = enrol(&typed, &passphrase_of("ann"));
    assert_eq!(enrolled.status, 200, "{enrolled:?}");
    assert_eq!(BASE64.decode(text(&enrolled.messages[0]["key"])).unwrap().len(), 32);
    assert_eq!(Api::refusal(&enrol(&code, &passphrase_of("ann"))), (403, "code_unknown".to_owned()));
    let late = api.invite("bob", &["finance"], &[], Some("ann"));
    api.pass(86_400);
    assert_eq!(Api::refusal(&enrol(&late, &passphrase_of("bob"))), (410, "code_expired".to_owned()));
    api.close();
}

#[test]
fn holds_are_listed_by_state_and_page() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("bot", None);
    let mut ids: Vec<String> = Vec::new();
    for number in 0..5 {
        api.pass(1);
        let hold = api.hold(&agent, "up__echo", &format!(r#"{{"text":"a","n":{number}}}"#), &ann);
        ids.insert(0, text(&hold["id"]).to_owned());
    }
    let listed = |query: &str| {
        let page = api.look(&format!("/holds{query}"), &ann);
        let ids: Vec<String> =
            page["holds"].as_array().unwrap().iter().map(|hold| text(&hold["id"]).to_owned()).collect();
        (ids, page["next"].as_str().map(str::to_owned))
    };
    assert_eq!(listed(""), (ids.clone(), None));
    assert_eq!(listed("?limit=2"), (ids[..2].to_vec(), Some(ids[1].clone())));
    assert_eq!(listed(&format!("?limit=2&before={}", ids[1])), (ids[2..4].to_vec(), Some(ids[3].clone())));
    assert_eq!(listed(&format!("?limit=2&before={}", ids[3])), (ids[4..].to_vec(), None));
    let shown = api.look(&format!("/holds/{}", ids[0]), &ann);
    assert_eq!(api.deny(&shown, &ann).status, 200);
    assert_eq!(listed("?state=denied").0, ids[..1]);
    assert_eq!(listed("?state=pending").0, ids[1..]);
    assert_eq!(listed("?state=open").0, ids[1..]);
    for state in ["approved", "spent", "expired", "cancelled", "void"] {
        assert_eq!(listed(&format!("?state={state}")), (Vec::new(), None), "{state}");
    }
    api.close();
}

#[test]
fn the_ledger_is_read_page_by_page_and_proves_its_entries() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let agent = api.agent("bot", None);
    assert!(Request::call("up__bare", r#"{"secret":"payload"}"#).send(api.agents, Some(&agent)).status == 200);
    assert!(Request::call("up__bare", "{}").send(api.agents, Some(&agent)).is_success());
    // the outcome of a call without effects is written a moment after its answer
    let whole = until("the outcome is written", SOON, || {
        let whole = api.look("/ledger?limit=500", &ann);
        let last = whole["entries"].as_array().unwrap().last().cloned()?;
        (last["entry"]["kind"] == "call.settled").then_some(whole)
    });
    let size = whole["size"].as_u64().unwrap();
    let (mut from, mut entries) = (Some(0), Vec::new());
    while let Some(next) = from {
        let page = api.look(&format!("/ledger?from={next}&limit=3"), &ann);
        entries.extend(page["entries"].as_array().unwrap().clone());
        from = page["next"].as_u64();
    }
    assert_eq!(&entries, whole["entries"].as_array().unwrap());
    let numbers: Vec<u64> = entries.iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..size).collect::<Vec<_>>());
    let kinds = |query: &str| -> BTreeSet<String> {
        let page = api.look(&format!("/ledger?{query}"), &ann);
        page["entries"].as_array().unwrap().iter().map(|entry| text(&entry["entry"]["kind"]).to_owned()).collect()
    };
    assert_eq!(kinds("kind=approver."), Api::set(["approver.added", "approver.enrolled"]));
    assert_eq!(kinds("agent=bot&tool=up__bare&kind=call.intended"), Api::set(["call.intended"]));
    assert_eq!(kinds("since=2100-01-01T00:00:00Z"), BTreeSet::new());
    assert_eq!(kinds("from=9007199254740991"), BTreeSet::new());
    let checkpoint = api.look("/ledger/checkpoint", &ann);
    let key = countersign::ledger::note::VerifierKey::parse(text(&checkpoint["key"])).unwrap();
    let opened = countersign::ledger::note::Checkpoint::open(text(&checkpoint["checkpoint"]), &key).unwrap();
    assert!(opened.size >= size);
    for seq in [0, size - 1] {
        let proof = api.look(&format!("/ledger/proof/{seq}"), &ann);
        assert!(text(&proof["proof"]).starts_with("c2sp.org/tlog-proof@v1\n"), "{proof}");
        assert!(text(&proof["proof"]).contains(&format!("index {seq}\n")), "{proof}");
    }
    api.close();
}

#[test]
fn what_happens_to_holds_is_told_until_the_session_is_over() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let bob = api.enrol("bob", &["finance"], &[], Some("ann"));
    let mut events = Events::open(&api, &bob);
    assert_eq!(events.next("ready"), json!({"pending": 0, "approved": 0}));
    let hold = api.hold(&api.agent("bot", None), "up__short", r#"{"text":"a"}"#, &ann);
    let told = events.next("call.held");
    assert_eq!((&told["hold"], &told["state"], &told["seq"]), (&hold["id"], &json!("pending"), &hold["seq"]));
    assert_eq!(api.approve(&hold, &ann).status, 200);
    assert_eq!(events.next("hold.approved")["state"], "pending");
    assert_eq!(api.deny(&hold, &ann).status, 200);
    assert_eq!(events.next("hold.denied")["state"], "denied");
    // to listen does not keep a session, and a logout ends the stream at once
    assert_eq!(api.act("/logout", &json!({}), Some(&bob.token)).status, 204);
    assert_eq!(events.next("ended"), json!({"code": "session_unknown"}));
    let mut events = Events::open(&api, &ann);
    events.next("ready");
    api.pass(900);
    assert_eq!(events.next("ended"), json!({"code": "session_unknown"}));
    api.close();
}

#[test]
fn streams_are_bounded_and_end_with_the_server() {
    let api = Api::open();
    let ann = api.enrol("ann", &["finance"], &[], None);
    let streams: Vec<Events> = (0..64).map(|_| Events::open(&api, &ann)).collect();
    let refused = api.send(&Api::request("GET", "/holds/events", None), Some(&ann.token));
    assert_eq!(Api::refusal(&refused), (429, "too_many_streams".to_owned()));
    drop(streams);
    let mut events = until("a place is free again", SOON, || {
        let mut stream = connect(api.at);
        let request = Api::request("GET", "/holds/events", None);
        stream.write_all(&request.bytes(api.at, Some(&ann.token))).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        (head == *b"HTTP/1.1 200").then(|| Events { stream, seen: String::new() })
    });
    events.next("ready");
    api.stop.send_replace(true);
    let mut rest = Vec::new();
    events.stream.read_to_end(&mut rest).unwrap();
    assert!(!String::from_utf8_lossy(&rest).contains("ended"), "the session is not what ended");
    api.close();
}

#[test]
fn no_secret_of_an_approver_is_written_anywhere() {
    let api = Api::open();
    let code = api.invite("ann", &["finance"], &[], None);
    let answer = api.act("/enrol", &json!({"code": code, "passphrase": passphrase_of("ann")}), None);
    assert_eq!(answer.status, 200);
    let ann = api.login("ann");
    let hold = api.hold(&api.agent("bot", None), "up__echo", r#"{"text":"a"}"#, &ann);
    assert_eq!(api.approve(&hold, &ann).status, 200);
    let folder = api.folder.path().to_owned();
    let secrets = [passphrase_of("ann"), code.clone(), code.replace('-', ""), ann.token.clone()];
    let mut looked_at = 0;
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
                continue;
            }
            let Ok(bytes) = std::fs::read(&path) else { continue };
            looked_at += 1;
            for secret in &secrets {
                let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                assert!(!found, "`{}` has a secret", path.display());
            }
        }
    }
    assert!(looked_at > 10, "{looked_at} files");
    api.close();
}
