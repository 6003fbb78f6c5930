//! JWT-SVIDs and X.509-SVIDs by the sources of trust that a trust domain can have: a Workload API, a bundle endpoint, a file.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto::aws_lc_rs, pki_types::PrivateKeyDer};

use crate::{
    house::{kind_of, until},
    mtls::{Door, keep, open},
    signer::{Signer, TokenKey, bundle},
    workload_api::{Told, WorkloadApi},
};

const SOON: Duration = Duration::from_secs(30);
const BOT: &str = "spiffe://example.org/bot";

fn now() -> i64 {
    countersign::clock::Clock::System.now().as_second()
}

/// Why a token is not let in.
fn refusal(door: &Door, token: &str) -> String {
    let answer = door.call(None, Some(token));
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    format!("{} {}", answer.status, body["error"].as_str().unwrap_or_default())
}

/// What a JWT-SVID for this house says, as SPIRE makes it.
fn claims(door: &Door, id: &str) -> Value {
    json!({"sub": id, "aud": [format!("https://{}/mcp", door.house.mcp)], "iat": now(), "exp": now() + 300})
}

fn is_let_in(door: &Door, token: &str) -> bool {
    let answer = door.call(None, Some(token));
    assert!(answer.is_success() || [401, 503].contains(&answer.status), "{answer:?}");
    answer.is_success()
}

#[test]
fn a_jwt_svid_is_a_credential_of_its_own_trust_domain_only() {
    let (key, others, authority) = (TokenKey::new("k1"), TokenKey::new("k1"), Signer::new("example.org"));
    let door = open(
        "[identity.spiffe.\"example.org\"]\nbundle = \"own.json\"\n\
         [identity.spiffe.\"other.org\"]\nbundle = \"other.json\"\naudience = \"urn:us\"\n",
        &[
            ("own.json", &bundle(&[&authority], &[&key]).to_string()),
            ("other.json", &bundle(&[], &[&others]).to_string()),
        ],
    );
    let good = claims(&door, BOT);
    let token = key.sign(&good);
    for _ in 0..2 {
        assert!(is_let_in(&door, &token));
    }
    let entries = door.house.entries();
    let intended = entries.iter().rfind(|entry| kind_of(entry) == "call.intended").unwrap().to_string();
    assert!(intended.contains(&format!("\"{BOT}\"")) && intended.contains("\"spiffe://example.org\""), "{intended}");
    assert!(!intended.contains(token.rsplit('.').next().unwrap()), "the token is in the ledger");

    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    assert!(is_let_in(&door, &key.sign(&with("aud", good["aud"][0].clone()))), "an audience that is no list");
    assert!(!is_let_in(&door, &others.sign(&claims(&door, "spiffe://other.org/bot"))), "it has an audience of its own");
    let for_others = json!({"sub": "spiffe://other.org/bot", "aud": "urn:us", "exp": now() + 60});
    assert!(is_let_in(&door, &others.sign(&for_others)), "without `iat`");
    for (what, token, code) in [
        (
            "another trust domain's, by our key",
            key.sign(&with("sub", json!("spiffe://other.org/bot"))),
            "token_signature",
        ),
        ("ours, by another trust domain's key", others.sign(&good), "token_signature"),
        ("a trust domain that is not known", key.sign(&with("sub", json!("spiffe://third.org/bot"))), "token_issuer"),
        ("another audience", key.sign(&with("aud", json!(["https://elsewhere/mcp"]))), "token_audience"),
        ("it has ended", key.sign(&with("exp", json!(now() - 1))), "token_expired"),
        ("it lives too long", key.sign(&with("exp", json!(now() + 7_200))), "token_lifetime"),
        ("its time has not come", key.sign(&with("nbf", json!(now() + 100))), "token_not_yet_valid"),
        ("signed with nothing", key.sign_under(&json!({"alg": "none"}), &good), "token_algorithm"),
        (
            "as a token of access",
            key.sign_under(&json!({"alg": "ES256", "kid": "k1", "typ": "at+jwt"}), &good),
            "token_kind",
        ),
    ] {
        assert_eq!(refusal(&door, &token), format!("401 {code}"), "{what}");
    }
    // an agent that was revoked is let in again with what is made after that
    door.house.done(&["agent", "revoke", BOT]);
    assert_eq!(refusal(&door, &token), "401 token_revoked");
}

#[test]
fn what_a_workload_api_tells_counts_from_the_moment_it_tells_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let (authority, foreign, key, others) =
        (Signer::new("example.org"), Signer::new("other.org"), TokenKey::new("k1"), TokenKey::new("f1"));
    let both = Told::default().with("example.org", &[&authority], &[&key]).with("other.org", &[&foreign], &[&others]);
    let api = WorkloadApi::start(&socket, both);
    let source = format!("workload_api = \"unix://{}\"\n", socket.display());
    let mut door =
        open(&format!("[identity.spiffe.\"example.org\"]\n{source}[identity.spiffe.\"other.org\"]\n{source}"), &[]);
    let token = key.sign(&claims(&door, BOT));
    until("its keys are there", SOON, || is_let_in(&door, &token).then_some(()));
    let svid = authority.svid(BOT);
    let mut living = until("its authorities are there", SOON, || {
        let mut stream = door.connect(Some(&svid));
        door.ask(&mut stream, None).is_success().then_some(stream)
    });
    let (theirs, their_svid) =
        (others.sign(&claims(&door, "spiffe://other.org/bot")), foreign.svid("spiffe://other.org/bot"));
    until("those of a trust domain it federates with too", SOON, || {
        (is_let_in(&door, &theirs) && door.call(Some(&their_svid), None).is_success()).then_some(())
    });
    assert!(!is_let_in(&door, &key.sign(&claims(&door, "spiffe://other.org/bot"))));
    assert_eq!(door.call(Some(&authority.svid("spiffe://other.org/bot")), None).status, 0);

    // streams that end are opened again
    until("every stream is open", SOON, || (api.streams() >= 4).then_some(()));
    api.end_streams();
    until("every stream is open again", SOON, || (api.streams() >= 4).then_some(()));

    // other keys, and a trust domain that is told of no more
    let (next, next_key) = (Signer::new("example.org"), TokenKey::new("k2"));
    api.tell(Told::default().with("example.org", &[&next], &[&next_key]));
    let fresh = next_key.sign(&claims(&door, BOT));
    until("the new key counts", SOON, || is_let_in(&door, &fresh).then_some(()));
    until("what was judged by the old one is not remembered", SOON, || (!is_let_in(&door, &token)).then_some(()));
    until("the new authority counts", SOON, || door.call(Some(&next.svid(BOT)), None).is_success().then_some(()));
    until("who came by the old one is gone", SOON, || (door.ask(&mut living, None).status == 401).then_some(()));
    until("nobody comes from the other trust domain", SOON, || (!is_let_in(&door, &theirs)).then_some(()));
    until("by no certificate either", SOON, || (door.call(Some(&their_svid), None).status == 0).then_some(()));

    // and back
    api.tell(Told::default().with("example.org", &[&authority, &next], &[&key, &next_key]));
    until("both keys count", SOON, || (is_let_in(&door, &token) && is_let_in(&door, &fresh)).then_some(()));
    until("and both authorities", SOON, || door.ask(&mut living, None).is_success().then_some(()));

    // the streams end with the server
    assert_eq!(door.house.stop(), Some(0));
    until("no stream is left open", SOON, || (api.streams() == 0).then_some(()));
}

#[test]
fn what_can_be_had_no_more_is_believed_for_max_stale_and_then_refused_until_it_can_be_had_again() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let (authority, key) = (Signer::new("example.org"), TokenKey::new("k1"));
    let told = Told::default().with("example.org", &[&authority], &[&key]);
    let api = WorkloadApi::start(&socket, told.clone());
    let door = open(
        &format!(
            "[identity.spiffe.\"example.org\"]\nworkload_api = \"unix://{}\"\nmax_stale = \"6s\"\n",
            socket.display()
        ),
        &[],
    );
    let (token, svid) = (key.sign(&claims(&door, BOT)), authority.svid(BOT));
    until("its keys are there", SOON, || is_let_in(&door, &token).then_some(()));
    let mut living = until("its authorities are there", SOON, || {
        let mut stream = door.connect(Some(&svid));
        door.ask(&mut stream, None).is_success().then_some(stream)
    });
    drop(api);
    assert!(is_let_in(&door, &token) && door.ask(&mut living, None).is_success(), "it is believed for a while");
    until("it is refused", SOON, || (!is_let_in(&door, &token)).then_some(()));
    until("who came before is refused", SOON, || (door.ask(&mut living, None).status == 401).then_some(()));
    assert_eq!(door.call(Some(&svid), None).status, 0);
    assert!(door.house.log().contains("could not be had"), "{}", door.house.log());

    let _api = WorkloadApi::start(&socket, told);
    until("it is believed again", SOON, || is_let_in(&door, &token).then_some(()));
    until("and who came before too", SOON, || door.ask(&mut living, None).is_success().then_some(()));
}

#[test]
fn a_server_starts_before_the_workload_api_does_and_refuses_until_then() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let key = TokenKey::new("k1");
    let door =
        open(&format!("[identity.spiffe.\"example.org\"]\nworkload_api = \"unix://{}\"\n", socket.display()), &[]);
    let token = key.sign(&claims(&door, BOT));
    assert_eq!(refusal(&door, &token), "503 issuer_unavailable");
    let _api = WorkloadApi::start(&socket, Told::default().with("example.org", &[], &[&key]));
    until("its keys are there", SOON, || is_let_in(&door, &token).then_some(()));
}

/// A SPIFFE bundle endpoint, profile `https_web`, that says what a test wants.
struct Endpoint {
    at: SocketAddr,
    pem: String,
    says: Arc<Mutex<Vec<u8>>>,
    asked: Arc<AtomicUsize>,
}

impl Endpoint {
    fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (at, says, asked) = (listener.local_addr().unwrap(), Arc::default(), Arc::default());
        let endpoint = Self { at, pem: made.cert.pem(), says: Arc::clone(&says), asked: Arc::clone(&asked) };
        thread::spawn(move || {
            for tcp in listener.incoming() {
                let Ok(tcp) = tcp else { return };
                let (config, says, asked) = (Arc::clone(&config), Arc::clone(&says), Arc::clone(&asked));
                thread::spawn(move || {
                    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), tcp);
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                        head.push(byte[0]);
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                    let answer: Vec<u8> = says.lock().unwrap().clone();
                    let _cut_off = stream.write_all(&answer);
                    stream.conn.send_close_notify();
                    let _cut_off = stream.flush();
                });
            }
        });
        endpoint
    }

    fn say(&self, status: &str, more: &str, body: &[u8]) {
        let mut answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{more}\r\n", body.len())
                .into_bytes();
        answer.extend_from_slice(body);
        *self.says.lock().unwrap() = answer;
    }

    fn tell(&self, bundle: &Value) {
        self.say("200 OK", "content-type: application/json\r\n", bundle.to_string().as_bytes());
    }

    /// Waits until it was asked twice more: what it said before was taken, or was not.
    fn is_asked(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        until("the endpoint is asked", SOON, || (self.asked.load(Ordering::SeqCst) >= before + 2).then_some(()));
    }
}

#[test]
fn a_bundle_endpoint_is_asked_again_and_again_and_only_what_is_a_bundle_is_taken() {
    let (authority, key) = (Signer::new("example.org"), TokenKey::new("k1"));
    let endpoint = Endpoint::start();
    endpoint.tell(&bundle(&[&authority], &[&key]));
    let source = |more: &str| {
        let port = endpoint.at.port();
        format!(
            "[identity.spiffe.\"example.org\"]\nbundle_url = \"https://localhost:{port}/\"\nca = \"ca.pem\"\n{more}"
        )
    };
    let door = open(&source("allow_private = true\nmax_stale = \"6s\"\n"), &[("ca.pem", &endpoint.pem)]);
    let (token, svid) = (key.sign(&claims(&door, BOT)), authority.svid(BOT));
    until("its keys are there", SOON, || is_let_in(&door, &token).then_some(()));
    assert!(door.call(Some(&svid), None).is_success());

    // what is no bundle changes nothing, and while it lasts what is known grows old
    let long = vec![b' '; 3 << 20];
    for (what, status, more, body) in [
        ("no JSON", "200 OK", "", &b"hello"[..]),
        ("no keys", "200 OK", "", br#"{"keys": 1}"#),
        ("too long", "200 OK", "", &long),
        ("elsewhere", "302 Found", "location: https://localhost:1/\r\n", b""),
        ("not found", "404 Not Found", "", br#"{"keys": []}"#),
    ] {
        endpoint.say(status, more, body);
        endpoint.is_asked();
        endpoint.tell(&bundle(&[&authority], &[&key]));
        until(what, SOON, || is_let_in(&door, &token).then_some(()));
    }
    endpoint.say("503 Service Unavailable", "", b"");
    until("what is known is too old", SOON, || (!is_let_in(&door, &token)).then_some(()));
    assert_eq!(door.call(Some(&svid), None).status, 0);

    // other keys
    let next = TokenKey::new("k2");
    endpoint.tell(&bundle(&[], &[&next]));
    until("the new key counts", SOON, || is_let_in(&door, &next.sign(&claims(&door, BOT))).then_some(()));
    assert!(!is_let_in(&door, &token));
    assert_eq!(door.call(Some(&svid), None).status, 0, "an authority that is told of no more");
    drop(door);

    // an address inside, which nobody said is meant
    let door = open(&source(""), &[("ca.pem", &endpoint.pem)]);
    until("it is said why", SOON, || door.house.log().contains("allow_private").then_some(()));
    assert!(!is_let_in(&door, &next.sign(&claims(&door, BOT))));
    // and a certificate that its authority does not vouch for
    drop(door);
    let door = open(&source("allow_private = true\n"), &[("ca.pem", &authority.pem)]);
    until("it is not believed", SOON, || door.house.log().contains("could not be had").then_some(()));
    assert!(!is_let_in(&door, &next.sign(&claims(&door, BOT))));
    keep(&door.house.path().join("ca.pem"), "");
    let told = door.house.run(&["check"]);
    assert!(!told.status.success() && String::from_utf8_lossy(&told.stderr).contains("ca.pem"), "{told:?}");
}
