//! Against an issuer of the test's own, which signs, tells, rotates and lies.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    clock::Clock,
    config::IntrospectionConfig,
    identity::{Identity, Presented, Scheme},
    ledger::{Ledger, Options},
    reach::System,
};

const NOW: i64 = 1_800_000_000;
const MCP: &str = "https://cs.example/mcp";
const OPAQUE: &str = "an-opaque-token";

#[derive(Default)]
struct Says {
    keys: Json,
    /// What it tells of [`OPAQUE`].
    told: Json,
    redirects: bool,
    endless: bool,
    down: bool,
    asked: BTreeMap<&'static str, usize>,
    authorization: String,
}

#[derive(Clone)]
struct Fake {
    at: SocketAddr,
    says: Arc<Mutex<Says>>,
}

struct House {
    identity: Identity,
    clock: Clock,
    _folder: tempfile::TempDir,
}

fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(seed: u8) -> Json {
    json!({"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(pair(seed).public_key().as_ref())})
}

fn key(seed: u8) -> Json {
    let mut key = public(seed);
    key["kid"] = format!("key-{seed}").into();
    key
}

fn signed_with(header: &Json, claims: &Json, seed: u8) -> String {
    let part = |value: &Json| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(pair(seed).sign(text.as_bytes()).as_ref()))
}

fn signed(claims: &Json, seed: u8) -> String {
    signed_with(&json!({"alg": "EdDSA", "typ": "at+jwt", "kid": format!("key-{seed}")}), claims, seed)
}

impl Fake {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let says = Says { keys: json!({"keys": [key(1)]}), ..Says::default() };
        let fake = Self { at, says: Arc::new(Mutex::new(says)) };
        let routes = Router::new()
            .route("/.well-known/oauth-authorization-server", get(metadata))
            .route("/jwks", get(keys))
            .route("/introspect", post(introspect))
            .with_state(fake.clone());
        // the runtime of the test ends it
        tokio::spawn(async move { axum::serve(listener, routes).await });
        fake
    }

    fn says(&self) -> std::sync::MutexGuard<'_, Says> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn asked(&self, what: &str) -> usize {
        self.says().asked.get(what).copied().unwrap_or(0)
    }

    fn claims(&self) -> Json {
        json!({"iss": format!("http://{}", self.at), "aud": MCP, "sub": "u-1", "client_id": "clerk", "jti": "j-1",
            "iat": NOW - 10, "exp": NOW + 300})
    }

    fn config(&self) -> IssuerConfig {
        IssuerConfig {
            issuer: format!("http://{}", self.at),
            jwks_url: None,
            ca: None,
            audience: Vec::new(),
            algorithms: vec!["EdDSA".to_owned()],
            types: vec!["at+jwt".to_owned()],
            prefix: "corp/".to_owned(),
            agent_claim: None,
            user_claim: "sub".to_owned(),
            task_claim: "task".to_owned(),
            teams_claim: "groups".to_owned(),
            scope_claim: None,
            workload_claim: None,
            scopes: Vec::new(),
            max_ttl: Duration::from_secs(3_600),
            bound: false,
            cache: Duration::from_secs(30),
            introspection: Some(IntrospectionConfig {
                url: None,
                client_id: "counter sign".to_owned(),
                client_secret: "s:1".to_owned(),
            }),
            advertised: true,
            allow_private: true,
        }
    }

    fn house(&self, config: IssuerConfig) -> House {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(Timestamp::from_second(NOW).unwrap());
        let options = Options { origin: "test.example/log".to_owned(), batched_reads: false, keep_payloads: true };
        let (ledger, _) = Ledger::open(folder.path(), options, clock.clone()).unwrap();
        let mut own = IdentityConfig::own(Duration::from_secs(86_400));
        own.issuers.insert("corp".to_owned(), config);
        let resolver: Arc<dyn Resolver> = Arc::new(System);
        let identity = Identity::open(folder.path(), MCP.to_owned(), &own, &resolver, ledger, clock.clone()).unwrap();
        House { identity, clock, _folder: folder }
    }
}

async fn metadata(State(fake): State<Fake>) -> Response {
    let issuer = format!("http://{}", fake.at);
    let told = json!({"issuer": issuer, "jwks_uri": format!("{issuer}/jwks"),
        "introspection_endpoint": format!("{issuer}/introspect")});
    axum::Json(told).into_response()
}

async fn keys(State(fake): State<Fake>) -> Response {
    let mut says = fake.says();
    *says.asked.entry("keys").or_default() += 1;
    if says.redirects {
        return (StatusCode::FOUND, [("location", "http://169.254.169.254/keys")]).into_response();
    }
    if says.endless {
        let more = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 65_536]));
        return axum::body::Body::from_stream(more).into_response();
    }
    axum::Json(says.keys.clone()).into_response()
}

async fn introspect(State(fake): State<Fake>, headers: HeaderMap, body: String) -> Response {
    let mut says = fake.says();
    *says.asked.entry("token").or_default() += 1;
    says.authorization = headers["authorization"].to_str().unwrap().to_owned();
    if says.down {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let known = body.split('&').any(|pair| pair == format!("token={OPAQUE}"));
    axum::Json(if known { says.told.clone() } else { json!({"active": false}) }).into_response()
}

async fn judged(house: &House, token: &str) -> Result<String, Unauthenticated> {
    let who = house.identity.authenticate(&Presented::bearer(token)).await?;
    Ok(who.principal().agent.clone())
}

#[tokio::test]
async fn a_signed_token_is_believed_by_its_issuers_key_and_no_other() {
    let fake = Fake::start().await;
    let house = fake.house(fake.config());
    let token = signed(&fake.claims(), 1);
    for _ in 0..3 {
        assert_eq!(judged(&house, &token).await.unwrap(), "corp/clerk");
    }
    assert_eq!(fake.asked("keys"), 1);
    let header = |name: &str, value: Json| {
        let mut header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "key-1"});
        header[name] = value;
        header
    };
    let claims = fake.claims();
    let foreign = json!({"iss": "https://evil.example", "aud": MCP, "exp": NOW + 300, "client_id": "clerk"});
    use Unauthenticated::*;
    for (what, token, expected) in [
        ("by another key under this one's name", signed_with(&header("kid", "key-1".into()), &claims, 2), Signature),
        ("by a key that is not known", signed(&claims, 2), KeyUnknown),
        (
            "a key's name that is a path",
            signed_with(&header("kid", "../../../dev/null".into()), &claims, 1),
            KeyUnknown,
        ),
        ("a key's name that is a URL", signed_with(&header("kid", "http://evil/k".into()), &claims, 1), KeyUnknown),
        ("a key's name that is no text", signed_with(&header("kid", json!(["key-1"])), &claims, 1), Invalid),
        ("a key that it brings along", signed_with(&header("jwk", public(2)), &claims, 2), Signature),
        ("a place of keys that it names", signed_with(&header("jku", "http://evil/k".into()), &claims, 2), Signature),
        ("what has to be understood", signed_with(&header("crit", json!(["b64"])), &claims, 1), Invalid),
        ("no algorithm", signed_with(&header("alg", "none".into()), &claims, 1), Algorithm),
        ("a shared secret", signed_with(&header("alg", "HS256".into()), &claims, 1), Algorithm),
        ("an algorithm that this issuer has not", signed_with(&header("alg", "ES256".into()), &claims, 1), Algorithm),
        ("nobody who is believed", signed(&foreign, 1), Issuer),
        ("no issuer", signed(&json!({"aud": MCP}), 1), Issuer),
        ("an ID token", signed_with(&header("typ", "JWT".into()), &claims, 1), Kind),
    ] {
        assert_eq!(judged(&house, &token).await.unwrap_err(), expected, "{what}");
        let explained = house.identity.explain(&token).await;
        assert_eq!(explained.stages.last().unwrap().refused, Some(expected.code()), "{what}");
        let shown = format!("{explained:?}");
        assert!(!shown.contains(token.rsplit('.').next().unwrap()), "{what}: {shown}");
    }
    let explained = house.identity.explain(&token).await;
    let stages: Vec<&str> = explained.stages.iter().map(|stage| stage.stage).collect();
    assert_eq!(stages, ["read", "issuer", "signature", "claims", "binding", "ledger"]);
    assert_eq!(explained.principal.unwrap().agent, "corp/clerk");
}

#[tokio::test]
async fn a_revocation_here_ends_anothers_token_too() {
    let fake = Fake::start().await;
    let house = fake.house(fake.config());
    let token = signed(&fake.claims(), 1);
    judged(&house, &token).await.unwrap();
    house.identity.revoke("corp/clerk", Some("corp:j-1")).await.unwrap();
    assert_eq!(judged(&house, &token).await.unwrap_err(), Unauthenticated::Revoked);
    let mut claims = fake.claims();
    claims["jti"] = "j-2".into();
    let second = signed(&claims, 1);
    judged(&house, &second).await.unwrap();
    house.identity.revoke("corp/clerk", None).await.unwrap();
    assert_eq!(judged(&house, &second).await.unwrap_err(), Unauthenticated::Revoked);
    house.clock.advance(jiff::SignedDuration::from_secs(60));
    // the issuer's clock may be ahead: what it issued within the skew after the revocation ended with it
    for (issued, fine) in [(NOW + 30, false), (NOW + 31, true)] {
        claims["iat"] = issued.into();
        assert_eq!(judged(&house, &signed(&claims, 1)).await.is_ok(), fine, "{issued}");
    }
}

#[tokio::test]
async fn keys_that_lie_elsewhere_or_have_no_end_are_not_taken() {
    for lie in ["redirects", "endless", "nonsense"] {
        let fake = Fake::start().await;
        match lie {
            "redirects" => fake.says().redirects = true,
            "endless" => fake.says().endless = true,
            _ => fake.says().keys = json!({"keys": "none"}),
        }
        let house = fake.house(fake.config());
        for _ in 0..5 {
            let refused = judged(&house, &signed(&fake.claims(), 1)).await.unwrap_err();
            assert_eq!(refused, Unauthenticated::Unavailable, "{lie}");
        }
        assert_eq!(fake.asked("keys"), 1, "{lie}: it is not asked each time");
    }
}

#[tokio::test]
async fn an_opaque_token_is_asked_for_and_its_end_is_seen_within_the_caches_bound() {
    let fake = Fake::start().await;
    let house = fake.house(fake.config());
    fake.says().told = fake.claims();
    fake.says().told["active"] = true.into();
    for _ in 0..3 {
        assert_eq!(judged(&house, OPAQUE).await.unwrap(), "corp/clerk");
    }
    assert_eq!(fake.asked("token"), 1);
    assert_eq!(
        fake.says().authorization,
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode("counter+sign:s%3A1"))
    );
    let principal = house.identity.authenticate(&Presented::bearer(OPAQUE)).await.unwrap().principal().clone();
    fake.says().told["active"] = false.into();
    house.clock.advance(jiff::SignedDuration::from_secs(29));
    judged(&house, OPAQUE).await.unwrap();
    house.clock.advance(jiff::SignedDuration::from_secs(1));
    assert_eq!(judged(&house, OPAQUE).await.unwrap_err(), Unauthenticated::Revoked);
    // a stream that was open before is told too
    assert_eq!(house.identity.still(&principal, OPAQUE).await.unwrap_err(), Unauthenticated::Revoked);
    for token in [OPAQUE, "another", "another", "another"] {
        assert_eq!(judged(&house, token).await.unwrap_err(), Unauthenticated::Revoked);
    }
    assert_eq!(fake.asked("token"), 3, "what is none is not asked for each time");
    fake.says().down = true;
    house.clock.advance(jiff::SignedDuration::from_secs(6));
    assert_eq!(judged(&house, OPAQUE).await.unwrap_err(), Unauthenticated::Unavailable);
    // a signed token is nobody's to ask about, and one that is nearly signed is none
    assert_eq!(judged(&house, "a.b.c").await.unwrap_err(), Unauthenticated::Invalid);
    let without = fake.house(IssuerConfig { introspection: None, ..fake.config() });
    assert_eq!(judged(&without, OPAQUE).await.unwrap_err(), Unauthenticated::Invalid);
}

#[tokio::test]
async fn a_bound_token_takes_a_fresh_proof_by_its_key_with_each_request() {
    let fake = Fake::start().await;
    let house = fake.house(fake.config());
    let mut claims = fake.claims();
    let own = crate::json::parse(public(9).to_string().as_bytes(), &crate::json::Limits::REQUEST).unwrap();
    let thumbprint = jws::Jwk::read(&own).unwrap().thumbprint();
    claims["cnf"] = json!({"jkt": URL_SAFE_NO_PAD.encode(thumbprint.0)});
    let token = signed(&claims, 1);
    let proof = |id: &str, seed: u8, change: fn(&mut Json)| {
        let hash = URL_SAFE_NO_PAD.encode(Digest::of(token.as_bytes()).0);
        let mut said = json!({"jti": id, "htm": "POST", "htu": MCP, "iat": NOW, "ath": hash});
        change(&mut said);
        signed_with(&json!({"alg": "EdDSA", "typ": "dpop+jwt", "jwk": public(seed)}), &said, seed)
    };
    let send = async |scheme, proof: Option<&str>| {
        let shown = Presented { token: Some(&token), scheme, proof, method: "POST", url: MCP, certificate: None };
        house.identity.authenticate(&shown).await.map(|who| who.principal().assurance.word())
    };
    use crate::dpop::NotProven;
    use Unauthenticated::{Proof, ProofMissing, Unbound};
    let first = proof("1", 9, |_| {});
    assert_eq!(send(Scheme::Dpop, Some(&first)).await, Ok("bound"));
    assert_eq!(send(Scheme::Dpop, Some(&first)).await, Err(Proof(NotProven::Replayed)));
    assert_eq!(send(Scheme::Dpop, Some(&proof("2", 9, |_| {}))).await, Ok("bound"));
    assert_eq!(send(Scheme::Dpop, None).await, Err(ProofMissing));
    assert_eq!(send(Scheme::Bearer, Some(&proof("3", 9, |_| {}))).await, Err(ProofMissing));
    let other = proof("4", 8, |_| {});
    assert_eq!(send(Scheme::Dpop, Some(&other)).await, Err(Proof(NotProven::Invalid)), "another's key");
    let elsewhere = proof("5", 9, |said| said["htu"] = "https://evil.example/mcp".into());
    assert_eq!(send(Scheme::Dpop, Some(&elsewhere)).await, Err(Proof(NotProven::Invalid)));
    let early = proof("6", 9, |said| said["iat"] = (NOW - 1).into());
    assert_eq!(send(Scheme::Dpop, Some(&early)).await, Err(Proof(NotProven::Stale)), "of before the start");
    let unbound = signed(&fake.claims(), 1);
    let shown = Presented { scheme: Scheme::Dpop, proof: Some(&first), ..Presented::bearer(&unbound) };
    assert_eq!(house.identity.authenticate(&shown).await.unwrap_err(), Unbound);
}
