//! Credentials that must not be believed, at the running server's own door: one row a line, each with the status, the
//! challenge and the reason it must get. None is seen by the tool server, and who is good is served all the while.
//!
//! The issuer is the test's own and signs whatever it is told to; others beside it publish their keys as no issuer should.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    digest, hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use countersign::clock::Clock;
use serde_json::{Value, json};

use crate::{
    house::{House, http_upstream, until},
    recorder::Recorder,
    wire::{Answer, Request},
};

/// Everybody may call, so that nothing but the credential keeps anybody out; `paid` needs a scope.
const GRANTS: &str = r#"
@id("everybody")
permit (principal, action == Action::"up__echo", resource);
@id("paid") @scope("mcp:pay")
permit (principal, action == Action::"up__bare", resource);
"#;

fn now() -> i64 {
    Clock::System.now().as_second()
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

// ---- keys

/// A key that signs, and what is published of it.
struct Key {
    signs: Signs,
    name: String,
}

enum Signs {
    Ed(Box<Ed25519KeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl Key {
    fn ed(name: &str) -> Self {
        Self { signs: Signs::Ed(Box::new(Ed25519KeyPair::generate().unwrap())), name: name.to_owned() }
    }

    fn rsa(name: &str) -> Self {
        Self { signs: Signs::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())), name: name.to_owned() }
    }

    fn algorithm(&self) -> &'static str {
        match self.signs {
            Signs::Ed(_) => "EdDSA",
            Signs::Rsa(_) => "RS256",
        }
    }

    fn public(&self) -> Value {
        let mut key = match &self.signs {
            Signs::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encoded(pair.public_key())}),
            Signs::Rsa(pair) => {
                let (modulus, exponent) = rsa_numbers(pair.public_key().as_ref());
                json!({"kty": "RSA", "n": encoded(modulus), "e": encoded(exponent)})
            }
        };
        key["kid"] = json!(self.name);
        key["use"] = json!("sig");
        key["alg"] = json!(self.algorithm());
        key
    }

    fn sign(&self, text: &str) -> Vec<u8> {
        match &self.signs {
            Signs::Ed(pair) => pair.sign(text.as_bytes()).as_ref().to_vec(),
            Signs::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature).unwrap();
                signature
            }
        }
    }

    fn header(&self) -> Value {
        json!({"alg": self.algorithm(), "typ": "at+jwt", "kid": self.name})
    }

    /// A token of exactly these texts.
    fn token(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", encoded(header), encoded(claims));
        let signature = self.sign(&signed);
        format!("{signed}.{}", encoded(signature))
    }
}

/// The two numbers of an `RSAPublicKey` (RFC 8017, A.1.1).
fn rsa_numbers(der: &[u8]) -> (Vec<u8>, Vec<u8>) {
    fn element<'d>(der: &mut &'d [u8]) -> &'d [u8] {
        let (mut length, mut from) = (usize::from(der[1]), 2);
        if length > 0x80 {
            let more = length - 0x80;
            length = der[2..2 + more].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            from += more;
        }
        let (found, rest) = (&der[from..from + length], &der[from + length..]);
        *der = rest;
        found
    }
    let mut whole = der;
    let mut inner = element(&mut whole);
    let number = |bytes: &[u8]| bytes.iter().skip_while(|byte| **byte == 0).copied().collect();
    (number(element(&mut inner)), number(element(&mut inner)))
}

/// A public key in PEM, as whoever confuses algorithms would have it for a secret.
fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// `SubjectPublicKeyInfo` around an `RSAPublicKey`.
fn spki(public: &[u8]) -> Vec<u8> {
    fn der(tag: u8, inside: &[u8]) -> Vec<u8> {
        let length = u16::try_from(inside.len()).unwrap();
        let mut out = vec![tag];
        match length {
            0..128 => out.push(u8::try_from(length).unwrap()),
            _ => {
                out.push(0x82);
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
        out.extend_from_slice(inside);
        out
    }
    let rsa_encryption = [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
    let bits: Vec<u8> = [&[0], public].concat();
    der(0x30, &[&rsa_encryption[..], &der(0x03, &bits)].concat())
}

// ---- the issuers

/// How one publishes its keys.
enum Publishes {
    Keys(Vec<Value>),
    Redirects,
    /// A hundred megabytes, announced.
    Huge,
    /// A byte now and then, without end.
    Endless,
    /// Nothing at all.
    Silent,
}

struct Issuer {
    at: SocketAddr,
    state: Arc<Mutex<State>>,
}

struct State {
    publishes: Publishes,
    /// What was asked for.
    asked: Vec<String>,
}

impl Issuer {
    /// Starts one. Its threads end with the test.
    fn start(publishes: Publishes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { publishes, asked: Vec::new() }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // whoever hangs up is not answered
                std::thread::spawn(move || drop(answer(stream, at, &shared)));
            }
        });
        Self { at, state }
    }

    fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    fn publish(&self, keys: &[&Key]) {
        self.state.lock().unwrap().publishes = Publishes::Keys(keys.iter().map(|key| key.public()).collect());
    }

    fn asked(&self, path: &str) -> usize {
        self.state.lock().unwrap().asked.iter().filter(|asked| asked.as_str() == path).count()
    }

    /// The part of the configuration that believes it.
    fn toml(&self, name: &str, more: &str) -> String {
        format!("[identity.issuers.{name}]\nissuer = \"{}\"\nallow_private = true\n{more}\n\n", self.url())
    }
}

fn answer(stream: TcpStream, at: SocketAddr, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
    }
    let mut state = state.lock().unwrap();
    state.asked.push(path.clone());
    let json = |body: Value| {
        let body = body.to_string();
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    if path.starts_with("/.well-known/") {
        let issuer = format!("http://{at}");
        let metadata = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks"), "token_endpoint": format!("{issuer}/token"),
                              "authorization_endpoint": format!("{issuer}/auth"), "response_types_supported": ["code"]});
        drop(state);
        return stream.write_all(json(metadata).as_bytes());
    }
    match &state.publishes {
        Publishes::Keys(keys) => {
            let text = json(json!({"keys": keys}));
            drop(state);
            stream.write_all(text.as_bytes())
        }
        Publishes::Redirects => {
            drop(state);
            let to = format!("http://{at}/elsewhere");
            stream.write_all(format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").as_bytes())
        }
        Publishes::Huge => {
            drop(state);
            let length = 100 << 20;
            stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{{\"keys\":[").as_bytes())?;
            let more = vec![b' '; 1 << 20];
            for _ in 0..100 {
                stream.write_all(&more)?;
            }
            Ok(())
        }
        Publishes::Endless => {
            drop(state);
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            loop {
                stream.write_all(b"1\r\n \r\n")?;
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Publishes::Silent => {
            drop(state);
            // until it hangs up
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
    }
}

// ---- the house

struct Scene {
    house: House,
    upstream: Recorder,
    issuer: Issuer,
    ed: Key,
    rsa: Key,
    /// What proves that a token is its own.
    prover: Key,
    resource: String,
}

impl Scene {
    fn set() -> Self {
        Self::set_with("")
    }

    fn set_with(more: &str) -> Self {
        let (ed, rsa) = (Key::ed("ed-1"), Key::rsa("rsa-1"));
        let issuer = Issuer::start(Publishes::Keys(vec![ed.public(), rsa.public()]));
        let upstream = Recorder::usual();
        let upstreams = http_upstream("up", &upstream.url(), "timeout = \"3s\"");
        let house = House::open(&format!("{upstreams}{}{more}", issuer.toml("corp", "scopes = [\"mcp\"]")), GRANTS);
        let resource = format!("http://{}/mcp", house.mcp);
        Self { house, upstream, issuer, ed, rsa, prover: Key::ed("prover"), resource }
    }

    /// The claims of a good token.
    fn claims(&self) -> Value {
        json!({"iss": self.issuer.url(), "aud": self.resource, "sub": "maria", "client_id": "planner", "scope": "mcp",
               "iat": now(), "exp": now() + 300, "jti": unique()})
    }

    fn good(&self) -> String {
        self.token(|_| {})
    }

    /// A good token but for that.
    fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.claims();
        change(&mut claims);
        self.ed.token(&self.ed.header().to_string(), &claims.to_string())
    }

    /// A good token but for that in its header.
    fn headed(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut header = self.ed.header();
        change(&mut header);
        self.ed.token(&header.to_string(), &self.claims().to_string())
    }

    /// A token that is bound to the prover's key.
    fn bound(&self) -> String {
        let jkt = thumbprint(&self.prover);
        self.token(|claims| claims["cnf"] = json!({"jkt": jkt}))
    }

    /// The proof that goes with that token.
    fn proof(&self, token: &str, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let mut key = self.prover.public();
        let members = key.as_object_mut().unwrap();
        members.retain(|name, _| ["kty", "crv", "x"].contains(&name.as_str()));
        let ath = encoded(digest::digest(&digest::SHA256, token.as_bytes()));
        let mut header = json!({"alg": "EdDSA", "typ": "dpop+jwt", "jwk": key});
        let mut claims = json!({"htm": "POST", "htu": self.resource, "iat": now(), "jti": unique(), "ath": ath});
        change(&mut header, &mut claims);
        self.prover.token(&header.to_string(), &claims.to_string())
    }

    fn send(&self, request: &Request) -> Answer {
        request.send(self.house.mcp, None)
    }

    fn is_served(&self) -> Answer {
        let answer = self.send(&with(&self.good()));
        assert!(answer.is_success(), "who is good is not served: {answer:?}\n{}", self.house.log());
        answer
    }

    /// Runs the rows in order and fails once, with every row that went wrong.
    fn run(&self, rows: Vec<Row>) {
        self.is_served();
        let (mut wrong, total) = (Vec::new(), rows.len());
        for row in rows {
            let before = self.upstream.calls().len();
            let answer = self.send(&row.request);
            if let Err(problem) = judge(&row, &answer, &self.resource) {
                wrong.push(format!("`{}`: {problem}\n    got {answer:?}", row.name));
            }
            if self.upstream.calls().len() != before {
                wrong.push(format!("`{}`: the tool server saw it", row.name));
            }
            let served = self.send(&with(&self.good()));
            if !served.is_success() {
                wrong.push(format!("`{}`: who is good is not served afterwards: {served:?}", row.name));
            }
        }
        assert!(wrong.is_empty(), "{} of {total} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
        let log = self.house.log();
        assert!(!log.contains("eyJ"), "a token is in the log:\n{log}");
    }
}

/// What a credential must lead to.
struct Row {
    name: String,
    request: Request,
    status: u16,
    reason: &'static str,
    /// What the challenge says of it.
    error: Option<&'static str>,
}

/// A row that is refused with 401 and `invalid_token`, for that reason.
fn no(name: impl Into<String>, request: Request, reason: &'static str) -> Row {
    Row { name: name.into(), request, status: 401, reason, error: Some("invalid_token") }
}

fn judge(row: &Row, answer: &Answer, resource: &str) -> Result<(), String> {
    if answer.status != row.status {
        return Err(format!("the status has to be {}", row.status));
    }
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    if body["error"] != row.reason {
        return Err(format!("the reason has to be `{}`", row.reason));
    }
    let challenge = answer.header("www-authenticate").ok_or("there is no challenge")?;
    let metadata = resource.replace("/mcp", "/.well-known/oauth-protected-resource/mcp");
    if !challenge.contains(&format!("resource_metadata=\"{metadata}\"")) {
        return Err("the challenge does not say where the metadata is".to_owned());
    }
    let said = challenge.contains("error=\"");
    match row.error {
        None if said => Err("the challenge names an error, and there was no credential".to_owned()),
        Some(error) if !challenge.contains(&format!("error=\"{error}\"")) => {
            Err(format!("the challenge has to say `{error}`"))
        }
        _ => Ok(()),
    }
}

fn unique() -> String {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    format!("one-{}-{}", now(), COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

/// RFC 7638.
fn thumbprint(key: &Key) -> String {
    let x = key.public()["x"].as_str().unwrap().to_owned();
    encoded(digest::digest(&digest::SHA256, format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#).as_bytes()))
}

fn call() -> Request {
    Request::call("up__echo", r#"{"text":"hello"}"#)
}

/// A good call with that token.
fn with(token: &str) -> Request {
    call().with("Authorization", &format!("Bearer {token}"))
}

/// A good call with that token, and that proof of its key.
fn proven(token: &str, proof: &str) -> Request {
    call().with("Authorization", &format!("DPoP {token}")).with("DPoP", proof)
}

// ---- the rows

#[test]
fn no_token_that_is_forged_is_believed() {
    let scene = Scene::set();
    let claims = scene.claims().to_string();
    let public = match &scene.rsa.signs {
        Signs::Rsa(pair) => pair.public_key().as_ref().to_vec(),
        Signs::Ed(_) => Vec::new(),
    };
    // whoever checks HS256 with what they check RS256 with takes the public key for the secret
    let confused = |secret: &[u8]| {
        let signed = format!("{}.{}", encoded(r#"{"alg":"HS256","typ":"at+jwt","kid":"rsa-1"}"#), encoded(&claims));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        format!("{signed}.{}", encoded(tag))
    };
    let unsigned = |header: &str| format!("{}.{}.", encoded(header), encoded(&claims));
    let stranger = Key::ed("ed-1");
    let strange = stranger.token(&scene.ed.header().to_string(), &claims);
    let good = scene.good();
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let wider = scene.token(|claims| claims["scope"] = json!("mcp mcp:pay"));
    let spliced = format!("{}.{signature}", wider.rsplit_once('.').unwrap().0);
    let (n, _) = rsa_numbers(&public);
    let cross = scene.rsa.token(r#"{"alg":"RS256","typ":"at+jwt","kid":"ed-1"}"#, &claims);
    let other = scene.ed.token(r#"{"alg":"ES256","typ":"at+jwt","kid":"ed-1"}"#, &claims);
    let rows = vec![
        no("alg none", with(&unsigned(r#"{"alg":"none","typ":"at+jwt"}"#)), "token_algorithm"),
        no("alg None", with(&unsigned(r#"{"alg":"None","typ":"at+jwt","kid":"ed-1"}"#)), "token_algorithm"),
        no("alg none, signed", with(&scene.headed(|header| header["alg"] = json!("none"))), "token_algorithm"),
        no(
            "no alg",
            with(&scene.headed(|header| drop(header.as_object_mut().unwrap().remove("alg")))),
            "token_algorithm",
        ),
        no(
            "HS256 by the PEM of the public key",
            with(&confused(pem("PUBLIC KEY", &spki(&public)).as_bytes())),
            "token_algorithm",
        ),
        no("HS256 by the PKCS#1 PEM", with(&confused(pem("RSA PUBLIC KEY", &public).as_bytes())), "token_algorithm"),
        no("HS256 by the DER", with(&confused(&spki(&public))), "token_algorithm"),
        no("HS256 by the modulus", with(&confused(&n)), "token_algorithm"),
        no("HS256 by the published key", with(&confused(scene.rsa.public().to_string().as_bytes())), "token_algorithm"),
        no("somebody else's key of the same name", with(&strange), "token_signature"),
        no("another key than it names", with(&cross), "token_key_unknown"),
        no("another algorithm than its key's", with(&other), "token_key_unknown"),
        no("other claims under a good signature", with(&spliced), "token_signature"),
        no("no signature", with(&format!("{signed}.")), "token_signature"),
        no("half a signature", with(&format!("{signed}.{}", &signature[..40])), "token_signature"),
    ];
    scene.run(rows);
    // by the other key of the issuer it is as good
    let by_rsa = scene.rsa.token(&scene.rsa.header().to_string(), &scene.claims().to_string());
    assert!(scene.send(&with(&by_rsa)).is_success());
}

#[test]
fn no_name_of_a_key_leads_anywhere_but_to_the_issuers_keys() {
    let scene = Scene::set();
    let trap = Issuer::start(Publishes::Keys(Vec::new()));
    let thief = Key::ed("thief");
    trap.publish(&[&thief]);
    let elsewhere = format!("{}/jwks", trap.url());
    let claims = scene.claims().to_string();
    let stolen = |more: Value| {
        let mut header = thief.header();
        for (name, value) in more.as_object().unwrap() {
            header[name] = value.clone();
        }
        thief.token(&header.to_string(), &claims)
    };
    let mut rows = Vec::new();
    for kid in [
        "../../../../etc/passwd",
        "/dev/null",
        "ed-1' OR '1'='1",
        "ed-1\u{0}",
        "ed-1\n",
        "ed-1; DROP TABLE keys",
        "",
        "*",
        "ED-1",
        elsewhere.as_str(),
        "file:///etc/passwd",
        "${jndi:ldap://127.0.0.1/a}",
    ] {
        rows.push(no(
            format!("kid {kid:?}"),
            with(&scene.headed(|header| header["kid"] = json!(kid))),
            "token_key_unknown",
        ));
    }
    let long = "k".repeat(4_000);
    rows.push(no(
        "kid of 4,000 letters",
        with(&scene.headed(|header| header["kid"] = json!(long))),
        "token_key_unknown",
    ));
    for kid in [json!(7), json!(["ed-1"]), json!({"kid": "ed-1"}), json!(null)] {
        rows.push(no(format!("kid {kid}"), with(&scene.headed(|header| header["kid"] = kid.clone())), "token_invalid"));
    }
    let key = thief.public();
    for (what, header) in [
        ("jku", json!({"jku": elsewhere})),
        ("jku and the key's name here", json!({"jku": elsewhere, "kid": "ed-1"})),
        ("x5u", json!({"x5u": elsewhere})),
        ("jwk", json!({"jwk": key})),
        ("x5c", json!({"x5c": ["AAAA"]})),
        ("jwk and the key's name here", json!({"jwk": key, "kid": "ed-1"})),
    ] {
        let reason = if header.get("kid").is_some() { "token_signature" } else { "token_key_unknown" };
        rows.push(no(format!("{what} of a thief"), with(&stolen(header)), reason));
    }
    for crit in [json!(["exp"]), json!(["b64"]), json!([]), json!("exp"), json!(null)] {
        rows.push(no(
            format!("crit {crit}"),
            with(&scene.headed(|header| header["crit"] = crit.clone())),
            "token_invalid",
        ));
    }
    rows.push(no(
        "no payload encoding",
        with(&scene.headed(|header| {
            header["b64"] = json!(false);
            header["crit"] = json!(["b64"]);
        })),
        "token_invalid",
    ));
    let kinds = ["JWT", "dpop+jwt", "logout+jwt", "id_token+jwt", "", "at+jwt "];
    for kind in kinds {
        rows.push(no(format!("typ {kind:?}"), with(&scene.headed(|header| header["typ"] = json!(kind))), "token_kind"));
    }
    rows.push(no(
        "no typ",
        with(&scene.headed(|header| drop(header.as_object_mut().unwrap().remove("typ")))),
        "token_kind",
    ));
    let asked = scene.issuer.asked("/jwks");
    scene.run(rows);
    assert_eq!(trap.asked("/jwks"), 0, "what a header names was fetched");
    let more = scene.issuer.asked("/jwks") - asked;
    assert!(more <= 3, "names of keys that nobody has were looked for {more} times");
    // they are ignored, and not refused: a good token is good with them
    assert!(scene.send(&with(&scene.headed(|header| header["jku"] = json!(elsewhere)))).is_success());
    assert_eq!(trap.asked("/jwks"), 0);
}

#[test]
fn no_token_is_believed_whose_claims_are_not_for_here_and_now() {
    let other = Issuer::start(Publishes::Keys(Vec::new()));
    let theirs = Key::ed("theirs");
    other.publish(&[&theirs]);
    let scene = Scene::set_with(&other.toml("other", ""));
    let set = |name: &'static str, value: Value| with(&scene.token(|claims| claims[name] = value));
    let without = |name: &'static str| with(&scene.token(|claims| drop(claims.as_object_mut().unwrap().remove(name))));
    let (here, issuer) = (scene.resource.clone(), scene.issuer.url());
    // one issuer's word under the other's name
    let forged = theirs.token(&theirs.header().to_string(), &scene.claims().to_string());
    let mut claims = scene.claims();
    claims["iss"] = json!(other.url());
    let borrowed = scene.ed.token(&scene.ed.header().to_string(), &claims.to_string());
    let rows = vec![
        no("an issuer whom nobody named", set("iss", json!("https://evil.test")), "token_issuer"),
        no("our own name", set("iss", json!("countersign")), "token_invalid"),
        no("an issuer with a slash more", set("iss", json!(format!("{issuer}/"))), "token_issuer"),
        no("an issuer in capitals", set("iss", json!(issuer.to_uppercase())), "token_issuer"),
        no("no issuer", without("iss"), "token_issuer"),
        no("a list of issuers", set("iss", json!([issuer])), "token_issuer"),
        no("an issuer's key under another's name", with(&forged), "token_key_unknown"),
        no("another issuer's name", with(&borrowed), "token_key_unknown"),
        no("the audience of another server", set("aud", json!("https://mcp.example.com/mcp")), "token_audience"),
        no("the issuer for audience", set("aud", json!(issuer)), "token_audience"),
        no("the client for audience, like an ID token", set("aud", json!("planner")), "token_audience"),
        no("an audience below ours", set("aud", json!(format!("{here}/more"))), "token_audience"),
        no("the origin for audience", set("aud", json!(here.replace("/mcp", ""))), "token_audience"),
        no("no audience", without("aud"), "token_audience"),
        no("an empty list of audiences", set("aud", json!([])), "token_audience"),
        no("a list of others", set("aud", json!(["a", "b"])), "token_audience"),
        no("an audience that is no text", set("aud", json!({"here": here})), "token_audience"),
        no("expired", set("exp", json!(now() - 60)), "token_expired"),
        no("expired long ago", set("exp", json!(1)), "token_expired"),
        no("no expiry", without("exp"), "token_lifetime"),
        no("an expiry in text", set("exp", json!((now() + 300).to_string())), "token_lifetime"),
        no("not yet valid", set("nbf", json!(now() + 120)), "token_not_yet_valid"),
        no("issued in the future", set("iat", json!(now() + 120)), "token_not_yet_valid"),
        no("valid for a year", set("exp", json!(now() + 365 * 86_400)), "token_lifetime"),
        no(
            "nobody's",
            with(&scene.token(|claims| {
                for name in ["client_id", "sub"] {
                    claims.as_object_mut().unwrap().remove(name);
                }
            })),
            "token_claims",
        ),
        no("an agent with a line break in its name", set("client_id", json!("planner\nadmin")), "token_claims"),
        no("an agent that is no text", set("client_id", json!(["planner"])), "token_claims"),
    ];
    scene.run(rows);
    // clocks that are a little apart are none of that, and one of several audiences is enough
    for token in [
        scene.token(|claims| claims["exp"] = json!(now() - 5)),
        scene.token(|claims| claims["nbf"] = json!(now() + 5)),
        scene.token(|claims| claims["aud"] = json!(["https://other.example", here])),
    ] {
        assert!(scene.send(&with(&token)).is_success());
    }
}

#[test]
fn nothing_that_can_be_read_in_two_ways_is_a_token() {
    let scene = Scene::set();
    let claims = scene.claims().to_string();
    let header = scene.ed.header().to_string();
    let twice = |name: &str, value: &str| claims.replacen('{', &format!("{{\"{name}\":{value},"), 1);
    let raw = |claims: &str| with(&scene.ed.token(&header, claims));
    let good = scene.good();
    let parts: Vec<&str> = good.split('.').collect();
    let deep = format!("{{\"deep\":{}{},{}", "[".repeat(200), "]".repeat(200), &claims[1..]);
    let standard = STANDARD.encode(claims.replace("mcp\"", "mcp\",\"odd\":\"???>>>~~~\""));
    let signed = format!("{}.{standard}", parts[0]);
    let standard = format!("{signed}.{}", encoded(scene.ed.sign(&signed)));
    let long = scene.token(|claims| claims["more"] = json!("x".repeat(20_000)));
    let rows = vec![
        no("two audiences by name", raw(&twice("aud", r#""https://other.example""#)), "token_invalid"),
        no("two expiries by name", raw(&twice("exp", "1")), "token_invalid"),
        no("two subjects by name, one escaped", raw(&twice("s\\u0075b", "\"admin\"")), "token_invalid"),
        no(
            "two algorithms in the header",
            with(&scene.ed.token(&header.replacen('{', r#"{"alg":"none","#, 1), &claims)),
            "token_invalid",
        ),
        no("claims that are a list", raw(&format!("[{claims}]")), "token_invalid"),
        no("claims that are text", raw("\"admin\""), "token_invalid"),
        no("claims that are no JSON", raw("{sub:admin}"), "token_invalid"),
        no("claims and more", raw(&format!("{claims}{{}}")), "token_invalid"),
        no(
            "claims in Latin-1",
            with(&{
                let signed = format!("{}.{}", encoded(&header), encoded(b"{\"sub\":\"\xe9\"}"));
                format!("{signed}.{}", encoded(scene.ed.sign(&signed)))
            }),
            "token_invalid",
        ),
        no("claims nested 200 deep", raw(&deep), "token_invalid"),
        no("padding", with(&format!("{good}==")), "token_signature"),
        no("the other alphabet", with(&standard), "token_invalid"),
        no("a trailing dot", with(&format!("{good}.")), "token_invalid"),
        no(
            "five parts, like one that is encrypted",
            with(&format!("{}.a.b.c.{}", parts[0], parts[2])),
            "token_invalid",
        ),
        no("the claims alone", with(parts[1]), "token_invalid"),
        no("dots alone", with(".."), "token_invalid"),
    ];
    scene.run(rows);
    // one that is longer than a head may be is not even read
    let calls = scene.upstream.calls().len();
    let answer = scene.send(&with(&long));
    assert!(matches!(answer.status, 401 | 431), "{answer:?}");
    assert_eq!(scene.upstream.calls().len(), calls);
    scene.is_served();
}

#[test]
fn a_token_comes_in_one_header_and_in_no_other_place() {
    let scene = Scene::set();
    let good = scene.good();
    let query = |text: &str| {
        let mut request = call();
        request.line = format!("POST /mcp?{text} HTTP/1.1");
        request
    };
    let meta = format!("\"params\":{{\"access_token\":\"{good}\",");
    let form = Request::post(format!("access_token={good}")).with("Content-Type", "application/x-www-form-urlencoded");
    let missing = |name: &str, request: Request| Row {
        name: name.to_owned(),
        request,
        status: 401,
        reason: "token_missing",
        error: None,
    };
    let header = |value: String| call().with("Authorization", &value);
    let rows = vec![
        missing("none", call()),
        missing("a cookie", call().with("Cookie", &format!("access_token={good}; Authorization=Bearer {good}"))),
        missing("another header", call().with("X-Authorization", &format!("Bearer {good}"))),
        missing("the proxy's header", call().with("Proxy-Authorization", &format!("Bearer {good}"))),
        missing("a form", form),
        missing("the message", call().edit("\"params\":{", &meta)),
        no("the URL", query(&format!("access_token={good}")), "token_invalid"),
        no("the URL, percent-encoded", query(&format!("access%5Ftoken={good}")), "token_invalid"),
        no("the URL after others", query(&format!("a=b&access_token={good}")), "token_invalid"),
        no(
            "the URL and the header",
            query(&format!("access_token={good}")).with("Authorization", &format!("Bearer {good}")),
            "token_invalid",
        ),
        no("two headers", with(&good).also("Authorization", &format!("Bearer {good}")), "token_invalid"),
        no("two headers of two kinds", with(&good).also("authorization", "Basic YTpi"), "token_invalid"),
        no("two tokens in one header", header(format!("Bearer {good}, Bearer {good}")), "token_invalid"),
        no("two tokens one after the other", header(format!("Bearer {good} {good}")), "token_invalid"),
        no("another scheme", header(format!("Basic {good}")), "token_invalid"),
        no("no scheme", header(good.clone()), "token_invalid"),
        no("a scheme alone", header("Bearer".to_owned()), "token_invalid"),
        no("a token in quotes", header(format!("Bearer \"{good}\"")), "token_invalid"),
    ];
    scene.run(rows);
}

#[test]
fn a_bound_token_is_nothing_without_its_key() {
    let scene = Scene::set();
    let bound = scene.bound();
    let proof = |change: fn(&mut Value, &mut Value)| proven(&bound, &scene.proof(&bound, change));
    let set =
        |name: &'static str, value: Value| proven(&bound, &scene.proof(&bound, move |_, claims| claims[name] = value));
    let without = |name: &'static str| {
        proven(&bound, &scene.proof(&bound, |_, claims| drop(claims.as_object_mut().unwrap().remove(name))))
    };
    let stolen = {
        let thief = Key::ed("thief");
        let mut header = json!({"alg": "EdDSA", "typ": "dpop+jwt", "jwk": thief.public()});
        header["jwk"].as_object_mut().unwrap().retain(|name, _| ["kty", "crv", "x"].contains(&name.as_str()));
        let ath = encoded(digest::digest(&digest::SHA256, bound.as_bytes()));
        let claims = json!({"htm": "POST", "htu": scene.resource, "iat": now(), "jti": unique(), "ath": ath});
        thief.token(&header.to_string(), &claims.to_string())
    };
    let replayed = scene.proof(&bound, |_, _| {});
    let served = scene.send(&proven(&bound, &replayed));
    assert!(served.is_success(), "{served:?}");
    let other = scene.bound();
    let unbound = scene.good();
    let twice = scene.proof(&bound, |_, _| {});
    let bad = |name: &str, request: Request, reason: &'static str, error: &'static str| Row {
        name: name.to_owned(),
        request,
        status: 401,
        reason,
        error: Some(error),
    };
    let invalid = "invalid_dpop_proof";
    let rows = vec![
        bad("no proof, by the scheme Bearer", with(&bound), "proof_missing", invalid),
        bad(
            "a proof, by the scheme Bearer",
            with(&bound).with("DPoP", &scene.proof(&bound, |_, _| {})),
            "proof_missing",
            invalid,
        ),
        bad("no proof", call().with("Authorization", &format!("DPoP {bound}")), "proof_missing", invalid),
        bad("a proof that was shown before", proven(&bound, &replayed), "proof_replayed", invalid),
        bad("two proofs", proven(&bound, &twice).also("DPoP", &twice), "token_invalid", "invalid_token"),
        bad("somebody else's proof", proven(&bound, &stolen), "proof_invalid", invalid),
        bad("a proof for another token", proven(&bound, &scene.proof(&other, |_, _| {})), "proof_invalid", invalid),
        bad("a proof for no token", without("ath"), "proof_invalid", invalid),
        bad("a proof for another method", set("htm", json!("GET")), "proof_invalid", invalid),
        bad("a proof for another address", set("htu", json!("https://mcp.example.com/mcp")), "proof_invalid", invalid),
        bad("a proof of long ago", set("iat", json!(now() - 3_600)), "proof_stale", invalid),
        bad("a proof of tomorrow", set("iat", json!(now() + 86_400)), "proof_stale", invalid),
        bad("a proof without a time", without("iat"), "proof_invalid", invalid),
        bad("a proof without a name", without("jti"), "proof_invalid", invalid),
        bad("a proof of another type", proof(|header, _| header["typ"] = json!("at+jwt")), "proof_invalid", invalid),
        bad(
            "a proof without a key",
            proof(|header, _| drop(header.as_object_mut().unwrap().remove("jwk"))),
            "proof_invalid",
            invalid,
        ),
        bad(
            "a proof with a private key in it",
            proof(|header, _| header["jwk"]["d"] = json!("AAAA")),
            "proof_invalid",
            invalid,
        ),
        bad("a proof by alg none", proof(|header, _| header["alg"] = json!("none")), "proof_invalid", invalid),
        bad("a proof by a shared secret", proof(|header, _| header["alg"] = json!("HS256")), "proof_invalid", invalid),
        bad("no proof at all but text", proven(&bound, "proof"), "proof_invalid", invalid),
        bad(
            "a token that is not bound, by the scheme DPoP",
            proven(&unbound, &scene.proof(&unbound, |_, _| {})),
            "token_unbound",
            "invalid_token",
        ),
        bad(
            "bound to a certificate that nobody showed",
            with(&scene.token(|claims| {
                claims["cnf"] = json!({"x5t#S256": encoded([7; 32])});
            })),
            "certificate_mismatch",
            "invalid_token",
        ),
        bad(
            "bound in a way that is not known",
            with(&scene.token(|claims| claims["cnf"] = json!({"kid": "a"}))),
            "token_unbound",
            "invalid_token",
        ),
    ];
    scene.run(rows);
    let served = scene.send(&proven(&bound, &scene.proof(&bound, |_, _| {})));
    assert!(served.is_success(), "{served:?}");
}

#[test]
fn a_scope_that_is_missing_is_named_and_the_call_is_not_made() {
    let scene = Scene::set();
    // not let in at all
    let outside = scene.send(&with(&scene.token(|claims| claims["scope"] = json!("openid"))));
    let challenge = outside.header("www-authenticate").unwrap_or_default().to_owned();
    assert_eq!(outside.status, 403, "{outside:?}");
    assert!(challenge.contains(r#"error="insufficient_scope""#) && challenge.contains(r#"scope="mcp""#), "{challenge}");
    assert!(challenge.contains("resource_metadata="), "{challenge}");
    // let in, and not for this: what is asked for keeps what there is, since older clients ask for just that
    let answer =
        scene.send(&Request::call("up__bare", "{}").with("Authorization", &format!("Bearer {}", scene.good())));
    let challenge = answer.header("www-authenticate").unwrap_or_default().to_owned();
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(challenge.contains(r#"error="insufficient_scope""#), "{challenge}");
    let scopes: Vec<&str> =
        challenge.split("scope=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap().split(' ').collect();
    assert!(scopes.contains(&"mcp") && scopes.contains(&"mcp:pay"), "{challenge}");
    assert!(scene.upstream.calls().is_empty());
    assert!(scene.house.count("call.refused") >= 1);
    let paid = scene.token(|claims| claims["scope"] = json!("mcp mcp:pay"));
    let answer = scene.send(&Request::call("up__bare", "{}").with("Authorization", &format!("Bearer {paid}")));
    assert!(answer.is_success(), "{answer:?}");
}

#[test]
fn an_agent_of_an_issuer_is_none_of_the_houses_own() {
    let scene = Scene::set();
    scene
        .house
        .grant("@id(\"planner\")\npermit (principal == Agent::\"planner\", action in Action::\"call\", resource);\n");
    scene.house.done(&["reload"]);
    let answer = scene.send(&with(&scene.good()));
    assert!(!answer.is_success() && scene.upstream.calls().is_empty(), "{answer:?}");
    let own = scene.house.token("planner", &[]);
    assert!(scene.send(&with(&own)).is_success());
    assert_eq!(scene.upstream.calls().len(), 1);
}

// ---- keys that are published as no issuer should, and keys that change

#[test]
fn keys_that_cannot_be_had_let_nobody_in_and_keep_nobody_waiting() {
    let wrong = [
        ("redirects", Publishes::Redirects),
        ("huge", Publishes::Huge),
        ("endless", Publishes::Endless),
        ("silent", Publishes::Silent),
    ];
    let issuers: Vec<(&str, Issuer)> = wrong.into_iter().map(|(name, how)| (name, Issuer::start(how))).collect();
    let toml: String = issuers.iter().map(|(name, issuer)| issuer.toml(name, "")).collect();
    let scene = Scene::set_with(&toml);
    let before = scene.house.resident();
    scene.is_served();
    let calls = scene.upstream.calls().len();
    let tokens: Vec<(&str, String)> = issuers
        .iter()
        .map(|(name, issuer)| (*name, scene.token(|claims| claims["iss"] = json!(issuer.url()))))
        .collect();
    let mcp = scene.house.mcp;
    let (refused, slowest) = std::thread::scope(|scope| {
        let waiting: Vec<_> = tokens
            .iter()
            .flat_map(|(name, token)| std::iter::repeat_n((*name, token), 4))
            .map(|(name, token)| scope.spawn(move || (name, with(token).send(mcp, None))))
            .collect();
        // meanwhile others are served as ever
        let mut slowest = Duration::ZERO;
        let mut served = 0;
        while waiting.iter().any(|each| !each.is_finished()) || served < 10 {
            let began = Instant::now();
            scene.is_served();
            slowest = slowest.max(began.elapsed());
            served += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        let refused: Vec<(&str, Answer)> = waiting.into_iter().map(|each| each.join().unwrap()).collect();
        assert_eq!(scene.upstream.calls().len() - calls, served, "only who is good reached the tool server");
        (refused, slowest)
    });
    for (name, answer) in &refused {
        assert!(matches!(answer.status, 401 | 503), "{name}: {answer:?}");
    }
    assert!(slowest < Duration::from_secs(5), "who is good waited {slowest:?}");
    for (name, issuer) in &issuers {
        assert!(issuer.asked("/jwks") <= 2, "{name}: the keys were asked for {} times", issuer.asked("/jwks"));
        assert_eq!(issuer.asked("/elsewhere"), 0, "{name}: a redirect was followed");
    }
    let grown = scene.house.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "memory grew by {grown} bytes");
}

#[test]
fn keys_change_in_the_middle_and_the_old_ones_are_believed_no_more() {
    let scene = Scene::set();
    let old = scene.good();
    assert!(scene.send(&with(&old)).is_success());
    let new = Key::ed("ed-2");
    scene.issuer.publish(&[&new, &scene.ed]);
    let by_new = || new.token(&new.header().to_string(), &scene.claims().to_string());
    until("the new key to be found", Duration::from_secs(90), || {
        scene.send(&with(&by_new())).is_success().then_some(())
    });
    assert!(scene.send(&with(&old)).is_success(), "its key is still published");
    // withdrawn: the keys are looked for again when a third one is first seen
    let third = Key::ed("ed-3");
    scene.issuer.publish(&[&third]);
    let by_third = || third.token(&third.header().to_string(), &scene.claims().to_string());
    until("the third key to be found", Duration::from_secs(90), || {
        scene.send(&with(&by_third())).is_success().then_some(())
    });
    let refused = until("the old token to be refused", Duration::from_secs(90), || {
        let answer = scene.send(&with(&old));
        (answer.status == 401).then_some(answer)
    });
    judge(&no("an old token", call(), "token_key_unknown"), &refused, &scene.resource).unwrap();
    assert!(scene.issuer.asked("/jwks") < 12, "the keys were asked for {} times", scene.issuer.asked("/jwks"));
}
