//! What it takes to judge a token of another issuer whose keys are known: seen for the first time, and seen again.

use std::{
    collections::BTreeMap,
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    rsa::KeySize,
    signature::{Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use axum::{Router, routing::get};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign::{
    clock::Clock,
    config::{IdentityConfig, IssuerConfig},
    identity::{Identity, Presented},
    ledger::{Ledger, Options},
    reach::{Resolver, System},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

const MCP: &str = "http://127.0.0.1:7400/mcp";

/// Judges `calls` tokens of each kind, in a house of their own in `folder`.
pub(crate) async fn measure(folder: &Path, calls: usize) {
    let edward = Ed25519KeyPair::generate().unwrap();
    let ronald = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let (modulus, exponent) = (ronald.public_key().modulus(), ronald.public_key().exponent());
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let keys = json!({"keys": [
        {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "e", "x": part(edward.public_key().as_ref())},
        {"kty": "RSA", "alg": "RS256", "kid": "r", "n": part(modulus.big_endian_without_leading_zero()),
            "e": part(exponent.big_endian_without_leading_zero())},
    ]})
    .to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new().route("/jwks", get(move || std::future::ready(keys.clone())));
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(async move { axum::serve(listener, routes).await });
    let config = IssuerConfig {
        issuer: issuer.clone(),
        jwks_url: Some(format!("{issuer}/jwks").parse().unwrap()),
        ca: None,
        audience: Vec::new(),
        algorithms: vec!["EdDSA".to_owned(), "RS256".to_owned()],
        types: vec!["at+jwt".to_owned()],
        prefix: "corp/".to_owned(),
        agent_claim: None,
        user_claim: "sub".to_owned(),
        task_claim: "task".to_owned(),
        teams_claim: "groups".to_owned(),
        scope_claim: None,
        workload_claim: None,
        scopes: Vec::new(),
        max_ttl: Duration::from_secs(7_200),
        bound: false,
        cache: Duration::from_secs(30),
        introspection: None,
        advertised: true,
        allow_private: true,
    };
    let mut own = IdentityConfig::own(Duration::from_secs(86_400));
    own.issuers = BTreeMap::from([("corp".to_owned(), config)]);
    let options = Options { origin: "bench.example/log".to_owned(), batched_reads: false, keep_payloads: false };
    let (ledger, _) = Ledger::open(folder, options, Clock::System).unwrap();
    let resolver: Arc<dyn Resolver> = Arc::new(System);
    let identity = Identity::open(folder, MCP.to_owned(), &own, &resolver, ledger.clone(), Clock::System).unwrap();
    let now = Clock::System.now().as_second();
    let minted = |algorithm, key: &EncodingKey, kid: &str| -> Vec<String> {
        let (typ, kid) = (Some("at+jwt".to_owned()), Some(kid.to_owned()));
        let header = Header { typ, kid, ..Header::new(algorithm) };
        (0..calls)
            .map(|id| {
                let claims = json!({"iss": issuer, "aud": MCP, "sub": "ann@example.com", "client_id": "clerk",
                    "jti": format!("{id}"), "iat": now, "exp": now + 3_600, "scope": "mcp:tools"});
                jsonwebtoken::encode(&header, &claims, key).unwrap()
            })
            .collect()
    };
    let ed = EncodingKey::from_ed_der(edward.to_pkcs8().unwrap().as_ref());
    let der = ronald.as_der().unwrap();
    let rsa_der: &[u8] = der.as_ref();
    // what signs wants PKCS #1, which is the last member of PKCS #8
    let pkcs1 = rsa_der.get(26..).unwrap();
    let rsa = EncodingKey::from_rsa_der(pkcs1);
    println!("\njudging a token of another issuer whose keys are known, µs, {calls} of each");
    println!("  {:<24} {:>9} {:>9} {:>9}", "", "p50", "mean", "p99");
    for (name, algorithm, key, kid) in
        [("Ed25519", Algorithm::EdDSA, &ed, "e"), ("RS256, 2048 bits", Algorithm::RS256, &rsa, "r")]
    {
        let tokens = minted(algorithm, key, kid);
        // the keys are fetched before anything is timed
        identity.authenticate(&Presented::bearer(tokens.first().unwrap())).await.unwrap();
        for round in ["first seen", "seen again"] {
            let mut took = Vec::with_capacity(tokens.len());
            for token in tokens.iter().skip(1) {
                let began = Instant::now();
                let who = identity.authenticate(&Presented::bearer(token)).await;
                took.push(began.elapsed().as_nanos() as f64 / 1_000.0);
                black_box(who.unwrap());
            }
            took.sort_by(f64::total_cmp);
            let mean = took.iter().sum::<f64>() / took.len() as f64;
            let (middle, late) = (took[took.len() / 2], took[took.len() * 99 / 100]);
            println!("  {:<24} {middle:>9.1} {mean:>9.1} {late:>9.1}", format!("{name}, {round}"));
        }
    }
    ledger.close().await;
}
