//! Task-scoped, short-lived delegation: tokens for tokens and tokens for keys, over HTTP, and what they never are.

use std::time::Duration;

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    house::{EVERYTHING, House, http_upstream, kind_of, until},
    recorder::Recorder,
    wire::{Answer, Events, Request},
};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
const SOON: Duration = Duration::from_secs(20);
/// What a client's key may be, and agents may name tasks.
const CLIENTS: &str = "[identity.delegation]\nnew_tasks = true\n\n[identity.clients.ci]\njwks = \"ci.json\"\nagent = \"tester\"\n\
                       scopes = [\"pay\", \"read\"]\nteams = [\"ops\"]\n\n\
                       [identity.clients.tight]\njwks = \"ci.json\"\nbound = true\ntools = [\"up__echo\"]\n\n";

fn now() -> i64 {
    countersign::clock::Clock::System.now().as_second()
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key that only a test has.
pub(crate) enum Key {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl Key {
    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::P256(_) => "ES256",
        }
    }

    /// The public key, the members that make it alone.
    pub(crate) fn jwk(&self) -> Value {
        match self {
            Self::Ed25519(pair) => json!({"crv": "Ed25519", "kty": "OKP", "x": encoded(pair.public_key().as_ref())}),
            Self::P256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"crv": "P-256", "kty": "EC", "x": encoded(&point[1..33]), "y": encoded(&point[33..])})
            }
        }
    }

    /// RFC 7638.
    fn thumbprint(&self) -> String {
        encoded(digest::digest(&digest::SHA256, self.jwk().to_string().as_bytes()))
    }

    fn signature(&self, text: &[u8]) -> Vec<u8> {
        match self {
            Self::Ed25519(pair) => pair.sign(text).as_ref().to_vec(),
            Self::P256(pair) => pair.sign(&SystemRandom::new(), text).unwrap().as_ref().to_vec(),
        }
    }

    /// A token with these claims, and these members in its header besides.
    pub(crate) fn token(&self, header: Value, claims: &Value) -> String {
        let mut whole = json!({"alg": self.algorithm()});
        for (name, value) in header.as_object().unwrap() {
            whole[name] = value.clone();
        }
        let text = format!("{}.{}", encoded(whole.to_string()), encoded(claims.to_string()));
        let signature = encoded(self.signature(text.as_bytes()));
        format!("{text}.{signature}")
    }

    /// A proof for a request to that URL, with that token.
    pub(crate) fn proof(&self, url: &str, token: Option<&str>) -> String {
        let mut claims = json!({"htm": "POST", "htu": url, "iat": now(), "jti": unique()});
        if let Some(token) = token {
            claims["ath"] = encoded(digest::digest(&digest::SHA256, token.as_bytes())).into();
        }
        self.token(json!({"typ": "dpop+jwt", "jwk": self.jwk()}), &claims)
    }
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A house with the recorder behind it, and clients whose keys these are.
struct Door {
    house: House,
    upstream: Recorder,
    ed: Key,
    ec: Key,
}

impl Door {
    fn open(more: &str, grants: &str) -> Self {
        let upstream = Recorder::usual();
        let house = House::new(&format!("{}{more}", http_upstream("up", &upstream.url(), "")), grants);
        let (ed, ec) = (Key::ed25519(), Key::p256());
        let mut keys = [ed.jwk(), ec.jwk()];
        keys[0]["kid"] = "ed".into();
        keys[1]["kid"] = "ec".into();
        std::fs::write(house.path().join("ci.json"), json!({"keys": keys}).to_string()).unwrap();
        let mut door = Self { house, upstream, ed, ec };
        door.house.register();
        door.house.serve();
        door
    }

    fn origin(&self) -> String {
        format!("http://{}", self.house.mcp)
    }

    fn resource(&self) -> String {
        format!("{}/mcp", self.origin())
    }

    fn endpoint(&self) -> String {
        format!("{}/oauth/token", self.origin())
    }

    fn request(&self, parameters: &[(&str, &str)]) -> Request {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(parameters);
        let mut request = Request::post(body.finish());
        request.line = "POST /oauth/token HTTP/1.1".to_owned();
        request.with("Content-Type", "application/x-www-form-urlencoded").without("Accept")
    }

    /// Trades a token, with these parameters besides.
    fn trade(&self, token: &str, more: &[(&str, &str)]) -> Answer {
        self.exchange(token, more).send(self.house.mcp, None)
    }

    fn exchange(&self, token: &str, more: &[(&str, &str)]) -> Request {
        let resource = self.resource();
        let mut parameters = vec![
            ("grant_type", EXCHANGE),
            ("subject_token", token),
            ("subject_token_type", ACCESS_TOKEN),
            ("resource", &resource),
        ];
        parameters.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
        parameters.extend_from_slice(more);
        self.request(&parameters)
    }

    fn child(&self, token: &str, more: &[(&str, &str)]) -> String {
        given(&self.trade(token, more))
    }

    fn claims(&self, client: &str) -> Value {
        json!({"iss": client, "sub": client, "aud": self.endpoint(), "iat": now(), "exp": now() + 60, "jti": unique()})
    }

    /// Asks with an assertion.
    fn show(&self, assertion: &str, more: &[(&str, &str)]) -> Request {
        let resource = self.resource();
        let mut parameters = vec![
            ("grant_type", "client_credentials"),
            ("client_assertion_type", ASSERTION),
            ("client_assertion", assertion),
            ("resource", &resource),
        ];
        parameters.extend_from_slice(more);
        self.request(&parameters)
    }

    fn client(&self, more: &[(&str, &str)]) -> String {
        let assertion = self.ed.token(json!({"kid": "ed"}), &self.claims("ci"));
        given(&self.show(&assertion, more).send(self.house.mcp, None))
    }

    /// Whether a call with that token comes to something; the reason where it does not.
    fn call(&self, token: &str, tool: &str) -> Result<(), String> {
        let arguments = if tool == "up__echo" { r#"{"text":"x"}"# } else { "{}" };
        let answer = self.house.call(token, tool, arguments);
        if answer.is_success() { Ok(()) } else { Err(reason(&answer)) }
    }

    /// Reasons of refusals that are in the ledger.
    fn recorded(&self) -> Vec<String> {
        let entries = self.house.entries();
        let refused = entries.iter().filter(|entry| {
            kind_of(entry) == "call.refused" && entry.pointer("/entry/method") == Some(&json!("oauth/token"))
        });
        refused.map(|entry| entry["entry"]["reason"].as_str().unwrap().to_owned()).collect()
    }
}

/// The token in an answer.
fn given(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    body(answer)["access_token"].as_str().unwrap().to_owned()
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {answer:?}"))
}

/// Why a token, or a call, was refused.
fn reason(answer: &Answer) -> String {
    if let Some(reason) = answer.reason() {
        return reason;
    }
    let said = body(answer);
    ["reason", "error"].iter().find_map(|name| said[*name].as_str()).unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// The claims of a token.
fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn an_agent_trades_its_token_for_a_narrower_one_and_calls_with_it() {
    let door = Door::open("", EVERYTHING);
    let token = door.house.token("tester", &["--for", "ann", "--task", "release-42"]);
    let answer = door.trade(&token, &[("tools", "up__bare up__echo"), ("expires_in", "60"), ("agent", "scout")]);
    let child = given(&answer);
    let said = body(&answer);
    assert_eq!((&said["token_type"], &said["issued_token_type"]), (&json!("Bearer"), &json!(ACCESS_TOKEN)));
    assert_eq!(said["expires_in"], 60);
    assert!(said.get("scope").is_none());
    let says = claims(&child);
    assert_eq!((&says["sub"], &says["user"], &says["task"]), (&json!("tester"), &json!("ann"), &json!("release-42")));
    assert_eq!(says["act"], json!({"sub": "tester#scout"}));
    assert_eq!(
        (says["aud"].as_str(), says["exp"].as_i64()),
        (Some(&*door.resource()), Some(says["iat"].as_i64().unwrap() + 60))
    );
    assert_eq!(door.house.tool_names(&child), ["up__bare", "up__echo"]);
    door.call(&child, "up__echo").unwrap();
    assert_eq!(door.call(&child, "up__secret"), Err("unknown_tool".to_owned()));
    door.call(&token, "up__secret").unwrap();
    // a child of the child, handed on
    let grandchild = door.child(&child, &[("tools", "up__echo"), ("agent", "two")]);
    assert_eq!(claims(&grandchild)["act"], json!({"sub": "tester#scout#two", "act": {"sub": "tester#scout"}}));
    door.call(&grandchild, "up__echo").unwrap();
    assert_eq!(door.call(&grandchild, "up__bare"), Err("unknown_tool".to_owned()));
    let entries = door.house.entries();
    let issued: Vec<&Value> =
        entries.iter().filter(|entry| kind_of(entry) == "token.issued").map(|entry| &entry["entry"]).collect();
    assert_eq!(issued.len(), 3);
    assert_eq!(issued[1]["parent"], issued[0]["credential"]);
    assert_eq!(issued[2]["parent"], issued[1]["credential"]);
    assert_eq!(issued[1]["tools"], json!(["up__bare", "up__echo"]));
    assert_eq!(issued[2]["chain"], json!(["tester#scout", "tester#scout#two"]));
    assert!(issued[0].get("parent").is_none());
    door.house.done(&["ledger", "verify", "data"]);
}

/// A token, what is asked for it, OAuth's error and our code.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);

#[test]
fn what_is_wider_than_what_it_is_traded_for_is_refused_and_recorded() {
    let door = Door::open(CLIENTS, EVERYTHING);
    let root = door.client(&[("scope", "read"), ("tools", "up__echo up__bare"), ("task", "t1"), ("expires_in", "600")]);
    let child = door.child(&root, &[("tools", "up__echo"), ("expires_in", "60"), ("agent", "scout")]);
    let plain = door.house.token("tester", &[]);
    let long = "x".repeat(257);
    let rows: [Row<'_>; 17] = [
        (&root, &[("scope", "read pay")], "invalid_scope", "scope_wider"),
        (&root, &[("scope", "admin")], "invalid_scope", "scope_wider"),
        (&root, &[("tools", "up__echo up__secret")], "invalid_scope", "tools_wider"),
        (&child, &[("tools", "up__bare")], "invalid_scope", "tools_wider"),
        (&plain, &[("scope", "read")], "invalid_scope", "scope_wider"),
        (&root, &[("task", "t2")], "invalid_request", "task_wider"),
        (&child, &[("expires_in", "61")], "invalid_request", "lifetime_wider"),
        (&root, &[("expires_in", "3601")], "invalid_request", "lifetime_wider"),
        (&root, &[("expires_in", "0")], "invalid_request", "lifetime_wider"),
        (&root, &[("expires_in", "-1")], "invalid_request", "token_request_malformed"),
        (&root, &[("expires_in", "99999999999")], "invalid_request", "token_request_malformed"),
        (&plain, &[("task", &long)], "invalid_request", "token_request_malformed"),
        (&root, &[("agent", "a/b")], "invalid_request", "token_request_malformed"),
        (&root, &[("actor_token_type", ACCESS_TOKEN)], "invalid_request", "token_request_malformed"),
        (&root, &[("resource", "")], "invalid_target", "resource_missing"),
        (&root, &[("resource", "https://elsewhere.example/mcp")], "invalid_target", "resource_foreign"),
        (&root, &[("audience", "https://elsewhere.example/mcp")], "invalid_target", "resource_foreign"),
    ];
    let mut expected = Vec::new();
    for (token, more, error, code) in rows {
        let answer = door.trade(token, more);
        let said = body(&answer);
        assert_eq!(
            (answer.status, said["error"].as_str(), said["reason"].as_str()),
            (400, Some(error), Some(code)),
            "{more:?}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        expected.push(code.to_owned());
    }
    assert_eq!(door.recorded(), expected);
    // what is asked for within these bounds is given
    let answer =
        door.trade(&root, &[("scope", "read"), ("tools", "up__bare"), ("task", "t1"), ("audience", &door.resource())]);
    assert_eq!(body(&answer)["scope"], "read");
    door.call(&given(&answer), "up__bare").unwrap();
    assert_eq!(door.upstream.calls().len(), 1);
}

#[test]
fn a_sub_agent_joins_the_chain_once_by_its_own_token_or_by_a_label() {
    let door = Door::open("", EVERYTHING);
    let root = door.house.token("tester", &[]);
    let scout = door.house.token("scout", &[]);
    let by = |actor: &str, token: &str| {
        door.trade(token, &[("actor_token", actor), ("actor_token_type", ACCESS_TOKEN), ("expires_in", "60")])
    };
    let first = given(&by(&scout, &root));
    assert_eq!(claims(&first)["act"], json!({"sub": "scout"}));
    assert_eq!(claims(&first)["sub"], "tester");
    door.call(&first, "up__bare").unwrap();
    // nobody gets back what went through their hands, and nobody acts for themselves
    assert_eq!(reason(&by(&scout, &first)), "actor_cycle");
    assert_eq!(reason(&by(&root, &first)), "actor_cycle");
    assert_eq!(reason(&by(&root, &root)), "actor_cycle");
    assert_eq!(reason(&by("nonsense", &root)), "actor_token_refused");
    let both = [("actor_token", &*scout), ("actor_token_type", ACCESS_TOKEN), ("agent", "x")];
    assert_eq!(reason(&door.trade(&root, &both)), "token_request_malformed");
    let mut token = root.clone();
    for hand in 0..8 {
        token = door.child(&token, &[("agent", &hand.to_string()), ("expires_in", "60")]);
    }
    assert_eq!(reason(&door.trade(&token, &[("agent", "more")])), "chain_too_long");
    // whoever has it in its hands ends with it
    door.house.done(&["agent", "revoke", "scout"]);
    assert_eq!(door.call(&first, "up__bare"), Err("token_revoked".to_owned()));
    assert_eq!(reason(&by(&scout, &root)), "actor_token_refused");
    door.call(&token, "up__bare").unwrap();
}

#[test]
fn a_revoked_parent_ends_every_child_and_stays_so_over_a_restart() {
    let mut door = Door::open("", EVERYTHING);
    let (root, other) = (door.house.token("tester", &[]), door.house.token("tester", &[]));
    let child = door.child(&root, &[]);
    let grandchild = door.child(&child, &[]);
    let sibling = door.child(&other, &[]);
    for token in [&child, &grandchild, &sibling] {
        door.call(token, "up__bare").unwrap();
    }
    let id = claims(&root)["jti"].as_str().unwrap().to_owned();
    door.house.done(&["agent", "revoke", "tester", "--token", &id]);
    for _ in 0..2 {
        for token in [&root, &child, &grandchild] {
            assert_eq!(door.call(token, "up__bare"), Err("token_revoked".to_owned()));
            let answer = door.trade(token, &[]);
            assert_eq!(
                (reason(&answer), body(&answer)["error"].clone()),
                ("subject_token_refused".to_owned(), json!("invalid_request"))
            );
        }
        door.call(&sibling, "up__bare").unwrap();
        assert_eq!(door.house.stop(), Some(0));
        door.house.serve();
    }
    // and so does all that an agent has
    door.house.done(&["agent", "revoke", "tester"]);
    assert_eq!(door.call(&sibling, "up__bare"), Err("token_revoked".to_owned()));
    door.house.kill();
    door.house.serve();
    assert_eq!(door.call(&sibling, "up__bare"), Err("token_revoked".to_owned()));
    assert_eq!(door.recorded(), Vec::<String>::new(), "who has a token that is not good is nobody");
}

#[test]
fn a_client_gets_a_token_by_its_key_and_uses_each_assertion_once() {
    let mut door = Door::open(CLIENTS, EVERYTHING);
    for (key, kid) in [(&door.ed, "ed"), (&door.ec, "ec")] {
        let mut said = door.claims("ci");
        for audience in [json!(door.endpoint()), json!(door.origin()), json!([door.endpoint()])] {
            (said["aud"], said["jti"]) = (audience, unique().into());
            let assertion = key.token(json!({"kid": kid, "typ": "JWT"}), &said);
            let answer = door.show(&assertion, &[("scope", "pay"), ("client_id", "ci")]).send(door.house.mcp, None);
            let token = given(&answer);
            assert_eq!((&body(&answer)["scope"], &claims(&token)["teams"]), (&json!("pay"), &json!(["ops"])));
            assert_eq!((&claims(&token)["sub"], &claims(&token)["client_id"]), (&json!("tester"), &json!("ci")));
            door.call(&token, "up__bare").unwrap();
            let again = door.show(&assertion, &[]).send(door.house.mcp, None);
            assert_eq!((again.status, reason(&again)), (401, "client_assertion_replayed".to_owned()));
        }
    }
    // one that was used before a restart was made before it
    let mut old = door.claims("ci");
    old["iat"] = (now() - 5).into();
    let assertion = door.ed.token(json!({"kid": "ed"}), &old);
    door.house.stop();
    door.house.serve();
    assert_eq!(reason(&door.show(&assertion, &[]).send(door.house.mcp, None)), "client_assertion_expired");
    let entries = door.house.entries();
    assert!(entries.iter().any(|entry| entry["entry"]["client"] == "ci" && entry["entry"].get("parent").is_none()));
}

#[test]
fn an_assertion_that_shows_nothing_gets_nothing() {
    let door = Door::open(CLIENTS, EVERYTHING);
    let with = |edit: &dyn Fn(&mut Value)| {
        let mut said = door.claims("ci");
        edit(&mut said);
        door.ed.token(json!({"kid": "ed"}), &said)
    };
    let good = with(&|_| {});
    let parts: Vec<&str> = good.split('.').collect();
    let header = |text: &str| encoded(text);
    let secret = door.ed.jwk()["x"].as_str().unwrap().to_owned();
    let hmac = |text: &str| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &URL_SAFE_NO_PAD.decode(&secret).unwrap());
        encoded(aws_lc_rs::hmac::sign(&key, text.as_bytes()))
    };
    let none = format!("{}.{}.", header(r#"{"alg":"none"}"#), parts[1]);
    let symmetric = format!("{}.{}", header(r#"{"alg":"HS256"}"#), parts[1]);
    let symmetric = format!("{symmetric}.{}", hmac(&symmetric));
    let stranger = Key::ed25519();
    let rows: Vec<(&str, String, &str)> = vec![
        ("alg none", none, "client_invalid"),
        ("HS256 by the public key", symmetric, "client_invalid"),
        ("another key", stranger.token(json!({"kid": "ed"}), &door.claims("ci")), "client_invalid"),
        (
            "another key, brought along",
            stranger.token(json!({"jwk": stranger.jwk()}), &door.claims("ci")),
            "client_invalid",
        ),
        (
            "a key's name that leads out",
            door.ed.token(json!({"kid": "../../ci.json"}), &door.claims("ci")),
            "client_invalid",
        ),
        ("the name of another key", door.ed.token(json!({"kid": "ec"}), &door.claims("ci")), "client_invalid"),
        (
            "must be understood",
            door.ed.token(json!({"kid": "ed", "crit": ["x"]}), &door.claims("ci")),
            "client_invalid",
        ),
        (
            "an access token's type",
            door.ed.token(json!({"kid": "ed", "typ": "at+jwt"}), &door.claims("ci")),
            "client_invalid",
        ),
        (
            "unknown client",
            with(&|said| (said["iss"], said["sub"]) = ("nobody".into(), "nobody".into())),
            "client_invalid",
        ),
        ("of somebody else", with(&|said| said["sub"] = "tight".into()), "client_invalid"),
        ("no id", with(&|said| drop(said.as_object_mut().unwrap().remove("jti"))), "client_invalid"),
        ("no claims", format!("{}.{}.{}", parts[0], encoded("[]"), parts[2]), "client_invalid"),
        ("no token", "a.b".to_owned(), "client_invalid"),
        (
            "another audience",
            with(&|said| said["aud"] = "https://elsewhere.example/token".into()),
            "client_assertion_audience",
        ),
        (
            "several audiences",
            with(&|said| said["aud"] = json!([door.endpoint(), "https://elsewhere.example"])),
            "client_assertion_audience",
        ),
        ("no audience", with(&|said| drop(said.as_object_mut().unwrap().remove("aud"))), "client_assertion_audience"),
        (
            "expired",
            with(&|said| (said["iat"], said["exp"]) = ((now() - 120).into(), (now() - 60).into())),
            "client_assertion_expired",
        ),
        ("not yet valid", with(&|said| said["nbf"] = (now() + 120).into()), "client_assertion_expired"),
        (
            "from the future",
            with(&|said| (said["iat"], said["exp"]) = ((now() + 120).into(), (now() + 180).into())),
            "client_assertion_expired",
        ),
        ("too long", with(&|said| said["exp"] = (now() + 301).into()), "client_assertion_expired"),
        ("no end", with(&|said| drop(said.as_object_mut().unwrap().remove("exp"))), "client_assertion_expired"),
        ("no beginning", with(&|said| drop(said.as_object_mut().unwrap().remove("iat"))), "client_assertion_expired"),
    ];
    for (what, assertion, code) in &rows {
        let answer = door.show(assertion, &[]).send(door.house.mcp, None);
        assert_eq!((answer.status, reason(&answer)), (401, (*code).to_owned()), "{what}");
        assert_eq!(body(&answer)["error"], "invalid_client", "{what}");
        assert!(!String::from_utf8_lossy(&answer.body).contains(parts[1]));
    }
    // who is nobody is counted, and not recorded
    assert_eq!(door.recorded(), Vec::<String>::new());
    let metrics =
        Request { line: "GET /metrics HTTP/1.1".to_owned(), ..Request::post("") }.send(door.house.console, None);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(metrics.contains("countersign_unauthenticated_total{reason=\"client_invalid\"} 13"), "{metrics}");
    // with a key of its own, and what it may ask for
    let answer = door.show(&good, &[("scope", "admin")]).send(door.house.mcp, None);
    assert_eq!(reason(&answer), "scope_wider");
    assert_eq!(door.recorded(), ["scope_wider"]);
    // secrets are not how a client shows who it is
    let secret =
        door.request(&[("grant_type", "client_credentials"), ("client_id", "ci"), ("client_secret", "hunter2")]);
    assert_eq!(door.request(&[]).send(door.house.mcp, None).status, 400);
    assert_eq!(secret.send(door.house.mcp, None).status, 401);
    let basic =
        door.show(&with(&|_| {}), &[]).with("Authorization", "Basic Y2k6aHVudGVyMg==").send(door.house.mcp, None);
    assert_eq!((basic.status, basic.header("www-authenticate").is_some()), (401, true));
}

#[test]
fn what_is_bound_has_to_be_shown_and_its_children_are_bound_too() {
    let door = Door::open(CLIENTS, EVERYTHING);
    let key = Key::p256();
    let prove = |key: &Key| key.proof(&door.endpoint(), None);
    let assertion = |client: &str| door.ed.token(json!({"kid": "ed"}), &door.claims(client));
    let bare = door.show(&assertion("tight"), &[]).send(door.house.mcp, None);
    assert_eq!((bare.status, reason(&bare)), (400, "proof_needed".to_owned()));
    assert_eq!(body(&bare)["error"], "invalid_dpop_proof");
    let answer = door.show(&assertion("tight"), &[]).with("DPoP", &prove(&key)).send(door.house.mcp, None);
    let root = given(&answer);
    assert_eq!(body(&answer)["token_type"], "DPoP");
    assert_eq!(claims(&root)["cnf"], json!({"jkt": key.thumbprint()}));
    // a stolen one is traded for nothing
    let thief = Key::ed25519();
    for answer in
        [door.trade(&root, &[]), door.exchange(&root, &[]).with("DPoP", &prove(&thief)).send(door.house.mcp, None)]
    {
        assert_eq!((answer.status, reason(&answer)), (400, "proof_needed".to_owned()));
    }
    let used = prove(&key);
    let answer = door.exchange(&root, &[("agent", "scout")]).with("DPoP", &used).send(door.house.mcp, None);
    let child = given(&answer);
    assert_eq!(claims(&child)["cnf"], json!({"jkt": key.thumbprint()}));
    let answer = door.exchange(&root, &[]).with("DPoP", &used).send(door.house.mcp, None);
    assert_eq!(reason(&answer), "proof_refused", "a proof is good once");
    for proof in [key.proof(&door.resource(), None), key.proof(&door.endpoint(), Some(&root)), "x".to_owned()] {
        let answer = door.exchange(&root, &[]).with("DPoP", &proof).send(door.house.mcp, None);
        assert_eq!(reason(&answer), "proof_refused");
    }
    // neither is a bearer token
    for token in [&root, &child] {
        assert!(door.call(token, "up__echo").is_err());
    }
    // a sub-agent whose token is bound gets one that is bound to the same
    let theirs = Key::ed25519();
    let scout = door.show(&assertion("ci"), &[]).with("DPoP", &prove(&theirs)).send(door.house.mcp, None);
    let scout = given(&scout);
    let plain = door.house.token("boss", &[]);
    let handed = door.child(&plain, &[("actor_token", &scout), ("actor_token_type", ACCESS_TOKEN)]);
    assert_eq!(claims(&handed)["cnf"], json!({"jkt": theirs.thumbprint()}));
    assert_eq!(claims(&handed)["act"], json!({"sub": "tester"}));
    assert_eq!(claims(&handed)["assurance"], "bearer", "being traded makes nobody surer");
}

#[test]
fn the_endpoint_takes_one_kind_of_request_and_says_what_it_is() {
    let door = Door::open(CLIENTS, EVERYTHING);
    let get = |path: &str| {
        Request { line: format!("GET {path} HTTP/1.1"), headers: Vec::new(), body: Vec::new(), length: None }
            .send(door.house.mcp, None)
    };
    let metadata = body(&get("/.well-known/oauth-authorization-server"));
    assert_eq!((&metadata["issuer"], &metadata["token_endpoint"]), (&json!(door.origin()), &json!(door.endpoint())));
    assert_eq!(metadata["grant_types_supported"], json!([EXCHANGE, "client_credentials"]));
    assert_eq!(metadata["token_endpoint_auth_methods_supported"], json!(["none", "private_key_jwt"]));
    let keys = body(&get(metadata["jwks_uri"].as_str().unwrap().strip_prefix(&door.origin()).unwrap()));
    assert_eq!((keys["keys"].as_array().unwrap().len(), &keys["keys"][0]["alg"]), (1, &json!("EdDSA")));
    assert!(keys["keys"][0].get("d").is_none());
    let token = door.house.token("tester", &[]);
    let usual = || door.exchange(&token, &[]);
    let twice = String::from_utf8(usual().body).unwrap() + "&resource=x";
    let mut query = usual();
    query.line = "POST /oauth/token?scope=read HTTP/1.1".to_owned();
    let mut got = usual();
    got.line = "GET /oauth/token HTTP/1.1".to_owned();
    for (what, request, status) in [
        ("as it has to be", usual(), 200),
        ("with a charset", usual().with("Content-Type", "application/x-www-form-urlencoded; charset=UTF-8"), 200),
        ("JSON", usual().with("Content-Type", "application/json"), 400),
        ("no media type", usual().without("Content-Type"), 400),
        ("another charset", usual().with("Content-Type", "application/x-www-form-urlencoded;charset=utf-16"), 400),
        ("compressed", usual().with("Content-Encoding", "gzip"), 400),
        ("a parameter twice", usual().body(twice), 400),
        ("a parameter in the URL", query, 400),
        ("GET", got, 405),
        ("two proofs", usual().also("DPoP", "a").also("DPoP", "b"), 400),
        ("too long", usual().body(vec![b'a'; 65 << 10]), 413),
        ("another host", usual().with("Host", "evil.example"), 403),
        ("another page", usual().with("Origin", "https://evil.example"), 403),
        ("another grant", usual().body("grant_type=password&username=a&password=b"), 400),
    ] {
        let answer = request.send(door.house.mcp, None);
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(answer.header("access-control-allow-origin").is_none(), "{what}");
    }
    for path in ["/oauth", "/oauth/", "/oauth/token/", "/oauth/authorize"] {
        assert_eq!(get(path).status, 404, "{path}");
    }
}

#[test]
fn where_nobody_gets_a_token_there_is_no_endpoint() {
    let mut door = Door::open("[identity.delegation]\nenabled = false\n\n", EVERYTHING);
    let token = door.house.token("tester", &[]);
    assert_eq!(door.trade(&token, &[]).status, 404);
    door.house.stop();
    // with a client there is, and still nothing is traded
    let clients = CLIENTS.replace("new_tasks = true", "enabled = false");
    door.house.configure(&format!("{}{clients}", http_upstream("up", &door.upstream.url(), "")));
    door.house.serve();
    assert_eq!(reason(&door.trade(&token, &[])), "grant_type_unsupported");
    door.call(&door.client(&[]), "up__bare").unwrap();
    // nor does a client name a task where agents may not
    let assertion = door.ed.token(json!({"kid": "ed"}), &door.claims("ci"));
    assert_eq!(reason(&door.show(&assertion, &[("task", "t")]).send(door.house.mcp, None)), "task_new");
}

/// What an agent holds and nobody decides.
const HELD: &str = "@id(\"held\") @hold(\"owner\") @expires(\"30m\")\n\
                    permit (principal == Agent::\"tester\", action in Action::\"call\", resource);\n";

impl Door {
    /// Calls what is held, on a connection that stays; gives it once the call is in the ledger.
    fn hold(&self, token: &str, text: &str) -> std::net::TcpStream {
        let before = self.house.count("call.held");
        let request = Request::call("up__echo", &format!(r#"{{"text":"{text}"}}"#));
        let mut waiting = crate::wire::connect(self.house.mcp);
        std::io::Write::write_all(&mut waiting, &request.bytes(self.house.mcp, Some(token))).unwrap();
        until("the call is held", SOON, || (self.house.count("call.held") > before).then_some(()));
        waiting
    }

    /// What became of holds, in order.
    fn void(&self) -> Vec<String> {
        let entries = self.house.entries();
        let void = entries.iter().filter(|entry| kind_of(entry) == "hold.void");
        void.map(|entry| entry["entry"]["reason"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn an_ended_task_ends_its_tokens_its_holds_and_its_streams() {
    let mut door = Door::open(CLIENTS, HELD);
    let root = door.house.token("tester", &[]);
    let child = door.child(&root, &[("task", "t1")]);
    let grandchild = door.child(&child, &[("agent", "scout")]);
    let direct = door.house.token("tester", &["--task", "t1"]);
    let other = door.child(&root, &[("task", "t2")]);
    let (mine, theirs) = (door.hold(&grandchild, "mine"), door.hold(&other, "theirs"));
    let listen = r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{"notifications":{"toolsListChanged":true},"_meta":"#;
    let listen = Request::envelope("subscriptions/listen", None, &format!("{listen}{}}}}}", crate::wire::META));
    let mut stream = Events::open(door.house.mcp, &listen, &child);
    stream.next("notifications/subscriptions/acknowledged");
    let ended: Value = serde_json::from_str(&door.house.done(&["task", "end", "t1", "--json"])).unwrap();
    assert_eq!(ended, json!({"task": "t1", "ended": true, "tokens": 3, "holds": 1, "streams": 1, "leases": 0}));
    assert!(stream.ends());
    assert_eq!(door.void(), ["void_task_ended"]);
    for _ in 0..2 {
        for token in [&child, &grandchild, &direct] {
            assert_eq!(door.call(token, "up__echo"), Err("token_task_ended".to_owned()));
            assert_eq!(reason(&door.trade(token, &[])), "subject_token_refused");
        }
        // for good: nobody gets a token for it again
        assert_eq!(reason(&door.trade(&root, &[("task", "t1")])), "task_over");
        assert!(!door.house.run(&["agent", "token", "tester", "--task", "t1"]).status.success());
        let again: Value = serde_json::from_str(&door.house.done(&["task", "end", "t1", "--json"])).unwrap();
        assert_eq!(again, json!({"task": "t1", "ended": true, "tokens": 0, "holds": 0, "streams": 0, "leases": 0}));
        // another task goes on
        given(&door.trade(&other, &[]));
        door.house.kill();
        door.house.serve();
    }
    assert_eq!((door.void().len(), door.house.count("task.ended")), (1, 1));
    assert!(door.upstream.calls().is_empty());
    let told = door.house.done(&["task", "end", "t3"]);
    assert!(told.contains("ended task t3, with 0 tokens, 0 holds, 0 streams and 0 leases"), "{told}");
    assert!(!door.house.run(&["task", "end", "a\nb"]).status.success());
    drop((mine, theirs));
    door.house.done(&["ledger", "verify", "data"]);
}

#[test]
fn a_call_of_a_task_does_not_wait_for_a_person_when_its_last_token_has_expired() {
    let door = Door::open("", HELD);
    let root = door.house.token("tester", &["--task", "t1", "--ttl", "15s"]);
    let plain = door.house.token("tester", &["--ttl", "10s"]);
    let child = door.child(&root, &[("expires_in", "3")]);
    let waiting = [door.hold(&child, "task"), door.hold(&plain, "no task")];
    let over = |token: &str| {
        let ends = claims(token)["exp"].as_i64().unwrap();
        until("the token has expired", SOON, || (now() > ends).then_some(()));
    };
    over(&child);
    assert_eq!(door.void(), Vec::<String>::new(), "another token of the task lives");
    over(&plain);
    over(&root);
    until("the hold is void", SOON, || (!door.void().is_empty()).then_some(()));
    assert_eq!(door.void(), ["void_task_ended"], "the other waits for its agent's next token");
    drop(waiting);
}

#[test]
fn a_hold_of_a_child_is_void_when_its_parent_is_revoked() {
    let door = Door::open("", HELD);
    let root = door.house.token("tester", &[]);
    let child = door.child(&root, &[("agent", "scout")]);
    let waiting = door.hold(&child, "x");
    let id = claims(&root)["jti"].as_str().unwrap().to_owned();
    door.house.done(&["agent", "revoke", "tester", "--token", &id]);
    until("the hold is void", SOON, || (door.void() == ["void_principal_revoked"]).then_some(()));
    drop(waiting);
}

#[test]
fn a_narrower_token_does_not_reach_the_holds_of_the_one_that_it_was_made_from() {
    let door = Door::open("", HELD);
    let root = door.house.token("tester", &[]);
    let waiting = door.hold(&root, "x");
    let held = door.house.entries().into_iter().rfind(|entry| kind_of(entry) == "call.held").unwrap();
    let hold = held["entry"]["hold"].as_str().unwrap().to_owned();
    let (narrow, same) = (door.child(&root, &[("tools", "up__bare")]), door.child(&root, &[]));
    let ask = |token: &str, method: &str| {
        let client = crate::wire::META.replace(
            r#""io.modelcontextprotocol/clientCapabilities":{}"#,
            r#""io.modelcontextprotocol/clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
        );
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"taskId":"{hold}","_meta":{client}}}}}"#
        );
        let request = Request::envelope(method, Some(&hold), &body);
        request.send(door.house.mcp, Some(token)).code().is_some()
    };
    for method in ["tasks/get", "tasks/cancel"] {
        assert!(ask(&narrow, method), "{method}: to a token for something else it is not there");
    }
    assert!(!ask(&same, "tasks/get"), "a token for as much meets it");
    assert_eq!(door.house.count("hold.cancelled"), 0);
    drop(waiting);
}

#[test]
fn the_requests_in_the_document_do_what_it_says() {
    let clients = CLIENTS.replace("agent = \"tester\"", "agent = \"ci-bot\"").replace("\"pay\"", "\"deploy\"");
    let door = Door::open(&clients, EVERYTHING);
    let (token, assertion) = (door.house.token("tester", &[]), door.ed.token(json!({"kid": "ed"}), &door.claims("ci")));
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/identity.md")).unwrap();
    let requests: Vec<&str> = document
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .filter(|block| block.contains("/oauth/token"))
        .collect();
    assert_eq!(requests.len(), 2);
    for request in requests {
        let script = request.replace("http://127.0.0.1:7400", &door.origin());
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).env("TOKEN", &token).env("ASSERTION", &assertion);
        let ran = shell.output().unwrap();
        let said: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
        let claims = claims(said["access_token"].as_str().unwrap_or_else(|| panic!("{said}")));
        if request.contains("client_credentials") {
            assert_eq!((&claims["sub"], &claims["scope"]), (&json!("ci-bot"), &json!("deploy")));
        } else {
            assert_eq!((&claims["act"]["sub"], &claims["tools"]), (&json!("tester#scout"), &json!(["bank__balance"])));
            assert_eq!(said["expires_in"], 60);
        }
    }
}
