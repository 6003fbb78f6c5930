//! Against a provider of the test's own, which lies in every way that a provider or somebody between could.

use std::{
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
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::*;
use crate::{
    clock::{Clock, Timestamp},
    config::ProviderConfig,
    jws::NotSigned,
    reach::System,
};

const NOW: i64 = 1_800_000_000;
const CLIENT: &str = "countersign";

/// What is changed of a genuine one.
type Change = fn(&mut Value);
type ChangedReturn = (&'static str, fn(&mut Return), &'static str);

/// What the provider says next.
#[derive(Default)]
struct Says {
    metadata: Option<Value>,
    keys: Value,
    token: String,
    challenge: String,
    redirects: bool,
    fetched: BTreeMap<&'static str, usize>,
}

#[derive(Clone)]
struct Fake {
    at: SocketAddr,
    says: Arc<Mutex<Says>>,
}

fn pair(seed: u8) -> (EncodingKey, Value) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let key = json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": format!("key-{seed}"),
                     "x": URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())});
    (EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref()), key)
}

impl Fake {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let says = Says { keys: json!({"keys": [pair(1).1]}), ..Says::default() };
        let fake = Self { at, says: Arc::new(Mutex::new(says)) };
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(metadata))
            .route("/jwks", get(keys))
            .route("/token", post(token))
            .with_state(fake.clone());
        // the runtime of the test ends it
        tokio::spawn(async move { axum::serve(listener, routes).await });
        fake
    }

    fn issuer(&self) -> String {
        format!("http://{}", self.at)
    }

    fn says(&self) -> std::sync::MutexGuard<'_, Says> {
        self.says.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fetched(&self, what: &str) -> usize {
        self.says().fetched.get(what).copied().unwrap_or(0)
    }

    fn usual(&self) -> Value {
        let issuer = self.issuer();
        json!({"issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"),
               "token_endpoint": format!("{issuer}/token"), "jwks_uri": format!("{issuer}/jwks"),
               "end_session_endpoint": format!("{issuer}/bye"),
               "authorization_response_iss_parameter_supported": true})
    }

    fn config(&self) -> ProviderConfig {
        let roles = [("approvers".to_owned(), "finance".to_owned()), ("bosses".to_owned(), "owner".to_owned())];
        ProviderConfig {
            issuer: self.issuer(),
            client_id: CLIENT.to_owned(),
            client_secret: Some("the client's own".to_owned()),
            scopes: vec!["openid".to_owned(), "email".to_owned()],
            name_claim: "email".to_owned(),
            roles_claim: "realm.groups".to_owned(),
            roles: roles.into(),
            also_claims: vec!["preferred_username".to_owned()],
            max_age: Duration::ZERO,
            acr_values: vec!["strong".to_owned()],
            allow_private: true,
        }
    }

    fn provider(&self, config: ProviderConfig) -> Provider {
        let clock = Clock::fixed(Timestamp::from_second(NOW).unwrap());
        Provider::new("corp", config, "https://approve.example", Arc::new(System), clock).unwrap()
    }

    fn claims(&self, attempt: &Attempt) -> Value {
        json!({"iss": self.issuer(), "aud": CLIENT, "sub": "u-1", "nonce": attempt.nonce, "exp": NOW + 300, "iat": NOW,
               "auth_time": NOW, "acr": "strong", "email": "maria@example.com", "email_verified": true,
               "preferred_username": "Maria", "realm": {"groups": ["staff", "approvers"]}})
    }
}

async fn metadata(State(fake): State<Fake>) -> Response {
    let usual = fake.usual();
    let mut says = fake.says();
    *says.fetched.entry("metadata").or_default() += 1;
    if says.redirects {
        return (StatusCode::FOUND, [("location", "/elsewhere")]).into_response();
    }
    says.metadata.clone().unwrap_or(usual).to_string().into_response()
}

async fn keys(State(fake): State<Fake>) -> Response {
    let mut says = fake.says();
    *says.fetched.entry("keys").or_default() += 1;
    says.keys.to_string().into_response()
}

async fn token(State(fake): State<Fake>, headers: HeaderMap, body: String) -> Result<String, (StatusCode, String)> {
    let form: BTreeMap<String, String> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let says = fake.says();
    let no = |why: &str| Err((StatusCode::BAD_REQUEST, json!({"error": why}).to_string()));
    let verifier = form.get("code_verifier").map(String::as_str).unwrap_or_default();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    if URL_SAFE_NO_PAD.encode(hash) != says.challenge || form.get("code").map(String::as_str) != Some("good") {
        return no("invalid_grant");
    }
    let basic = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let to = form.get("redirect_uri").map(String::as_str);
    if !basic.starts_with("Basic ") || to != Some("https://approve.example/sign-in/corp/callback") {
        return no("invalid_client");
    }
    Ok(json!({"access_token": "a", "token_type": "Bearer", "id_token": says.token}).to_string())
}

fn signed(claims: &Value, seed: u8) -> String {
    let header = Header { kid: Some(format!("key-{seed}")), ..Header::new(Algorithm::EdDSA) };
    jsonwebtoken::encode(&header, claims, &pair(seed).0).unwrap()
}

fn parameter(started: &Started, name: &str) -> Option<String> {
    started.url.query_pairs().find(|(have, _)| have == name).map(|(_, value)| value.into_owned())
}

fn came(fake: &Fake, started: &Started) -> Return {
    Return {
        code: Some("good".to_owned()),
        state: Some(started.attempt.state.clone()),
        iss: Some(fake.issuer()),
        error: None,
    }
}

/// Somebody who went to the provider, and what it will say.
async fn gone(fake: &Fake, provider: &Provider) -> Started {
    let started = provider.sign_in("/waiting").await.unwrap();
    let token = signed(&fake.claims(&started.attempt), 1);
    let mut says = fake.says();
    (says.token, says.challenge) = (token, parameter(&started, "code_challenge").unwrap());
    drop(says);
    started
}

#[tokio::test]
async fn somebody_signs_in_and_is_known_by_what_the_provider_says() {
    let fake = Fake::start().await;
    let provider = fake.provider(fake.config());
    let started = gone(&fake, &provider).await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", CLIENT),
        ("redirect_uri", "https://approve.example/sign-in/corp/callback"),
        ("scope", "openid email"),
        ("code_challenge_method", "S256"),
        ("state", &*started.attempt.state.clone()),
        ("nonce", &*started.attempt.nonce.clone()),
    ] {
        assert_eq!(parameter(&started, name).as_deref(), Some(value), "{name}");
    }
    assert!(!started.url.as_str().contains(&started.attempt.verifier));
    assert_eq!(parameter(&started, "max_age"), None);
    let person = provider.finish(&started.attempt, &came(&fake, &started)).await.unwrap();
    assert_eq!((person.name.as_str(), person.subject.as_str()), ("corp:maria@example.com", "u-1"));
    assert_eq!(person.issuer, fake.issuer());
    assert_eq!(person.roles.iter().collect::<Vec<_>>(), ["finance"]);
    assert_eq!(person.also.iter().collect::<Vec<_>>(), ["Maria", "maria@example.com"]);
    let bye = provider.sign_out("https://approve.example/sign-in").await.unwrap();
    assert!(bye.as_str().starts_with(&format!("{}/bye?client_id=countersign&post_logout", fake.issuer())), "{bye}");
    let shown = format!("{provider:?}{:?}", started.attempt);
    for secret in ["the client's own", &started.attempt.verifier, &started.attempt.nonce] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[tokio::test]
async fn a_token_that_is_not_for_this_sign_in_is_refused_with_a_reason_of_its_own() {
    let table: &[(&str, Change, Result<(), &str>)] = &[
        ("the genuine one", |_| {}, Ok(())),
        ("another issuer", |claims| claims["iss"] = json!("https://evil.test"), Err("token_issuer")),
        ("no issuer", |claims| claims["iss"] = Value::Null, Err("token_issuer")),
        ("another audience", |claims| claims["aud"] = json!("other"), Err("token_audience")),
        ("no audience", |claims| claims["aud"] = json!([]), Err("token_audience")),
        (
            "one of several, and made for it",
            |claims| {
                claims["aud"] = json!(["other", CLIENT]);
                claims["azp"] = json!(CLIENT);
            },
            Ok(()),
        ),
        ("one of several, not made for it", |claims| claims["aud"] = json!(["other", CLIENT]), Err("token_audience")),
        ("made for another", |claims| claims["azp"] = json!("other"), Err("token_audience")),
        ("expired", |claims| claims["exp"] = json!(NOW - 61), Err("token_expired")),
        ("expired, within the skew of clocks", |claims| claims["exp"] = json!(NOW - 59), Ok(())),
        ("without an end", |claims| claims["exp"] = Value::Null, Err("token_expired")),
        ("issued in the future", |claims| claims["iat"] = json!(NOW + 61), Err("token_not_yet_valid")),
        ("not yet valid", |claims| claims["nbf"] = json!(NOW + 61), Err("token_not_yet_valid")),
        ("not yet valid, in words", |claims| claims["nbf"] = json!("tomorrow"), Err("token_not_yet_valid")),
        ("an old one", |claims| claims["iat"] = json!(NOW - 601), Err("token_old")),
        ("no nonce", |claims| claims["nonce"] = Value::Null, Err("token_nonce")),
        ("another nonce", |claims| claims["nonce"] = json!("n"), Err("token_nonce")),
        ("nobody", |claims| claims["sub"] = json!(""), Err("token_nobody")),
        ("a name that is none", |claims| claims["email"] = json!("<script>"), Err("no_name")),
        ("a name that nobody checked", |claims| claims["email_verified"] = json!(false), Err("no_name")),
        ("no role", |claims| claims["realm"] = json!({"groups": ["staff"]}), Err("no_role")),
        ("roles in a text", |claims| claims["realm"] = json!({"groups": "approvers"}), Ok(())),
    ];
    let fake = Fake::start().await;
    let provider = fake.provider(fake.config());
    for (what, change, expected) in table {
        let started = gone(&fake, &provider).await;
        let mut claims = fake.claims(&started.attempt);
        change(&mut claims);
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        fake.says().token = signed(&claims, 1);
        let finished = provider.finish(&started.attempt, &came(&fake, &started)).await;
        assert_eq!(finished.as_ref().map(|_| ()).map_err(SignInRefused::code), *expected, "{what}");
    }
}

#[tokio::test]
async fn a_signature_that_proves_nothing_is_refused() {
    let fake = Fake::start().await;
    let provider = fake.provider(fake.config());
    let started = gone(&fake, &provider).await;
    let claims = fake.claims(&started.attempt);
    let genuine = signed(&claims, 1);
    let (signing, signature) = genuine.rsplit_once('.').unwrap();
    let payload = URL_SAFE_NO_PAD.encode(claims.to_string());
    let unsigned = |header: Value| format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header.to_string()));
    let public = URL_SAFE_NO_PAD.decode(pair(1).1["x"].as_str().unwrap()).unwrap();
    let shared = |secret: &[u8]| {
        let header = Header { kid: Some("key-1".to_owned()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap()
    };
    let typed = |kind: &str| {
        let header =
            Header { kid: Some("key-1".to_owned()), typ: Some(kind.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &pair(1).0).unwrap()
    };
    let critical = {
        let header = json!({"alg": "EdDSA", "kid": "key-1", "crit": ["b64"], "b64": true});
        let signed = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header.to_string()));
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &pair(1).0, Algorithm::EdDSA).unwrap();
        format!("{signed}.{signature}")
    };
    let twice = {
        let payload = URL_SAFE_NO_PAD.encode(claims.to_string().replacen('{', "{\"sub\":\"u-2\",", 1));
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "EdDSA", "kid": "key-1"}).to_string());
        let signed = format!("{header}.{payload}");
        let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &pair(1).0, Algorithm::EdDSA).unwrap();
        format!("{signed}.{signature}")
    };
    let table = [
        ("no algorithm", unsigned(json!({"alg": "none"})), "token_algorithm"),
        ("no algorithm, in capitals", unsigned(json!({"alg": "NONE", "kid": "key-1"})), "token_algorithm"),
        ("no algorithm named", unsigned(json!({"kid": "key-1"})), "token_algorithm"),
        ("the public key as a shared secret", shared(&public), "token_algorithm"),
        ("the public key's text as a shared secret", shared(pair(1).1.to_string().as_bytes()), "token_algorithm"),
        (
            "another key in the name of ours",
            {
                let header = Header { kid: Some("key-1".to_owned()), ..Header::new(Algorithm::EdDSA) };
                jsonwebtoken::encode(&header, &claims, &pair(2).0).unwrap()
            },
            "token_signature",
        ),
        ("a key that nobody published", signed(&claims, 2), "token_key_unknown"),
        ("no signature", format!("{signing}."), "token_signature"),
        ("a signature of something else", format!("{}x.{signature}", signing), "token_malformed"),
        (
            "a key of its own in its head",
            {
                let header = json!({"alg": "EdDSA", "jwk": pair(2).1, "kid": "key-2", "jku": "https://evil.test/jwks"});
                let signed = format!("{}.{payload}", URL_SAFE_NO_PAD.encode(header.to_string()));
                let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &pair(2).0, Algorithm::EdDSA).unwrap();
                format!("{signed}.{signature}")
            },
            "token_key_unknown",
        ),
        ("an extension that has to be understood", critical, "token_malformed"),
        ("a claim twice", twice, "token_malformed"),
        ("an access token", typed("at+jwt"), "token_kind"),
        ("no token", "eyJhbGciOiJub25lIn0".to_owned(), "token_malformed"),
        ("a long one", "a".repeat(20_000), "token_malformed"),
    ];
    for (what, token, expected) in table {
        fake.says().token = token;
        let refused = provider.finish(&started.attempt, &came(&fake, &started)).await.unwrap_err();
        assert_eq!(refused.code(), expected, "{what}");
    }
    fake.says().token = genuine;
    provider.finish(&started.attempt, &came(&fake, &started)).await.unwrap();
    assert!(fake.fetched("keys") <= 2, "unknown keys had it asked {} times", fake.fetched("keys"));
}

#[tokio::test]
async fn what_comes_back_has_to_be_of_the_provider_that_was_asked() {
    let fake = Fake::start().await;
    let provider = fake.provider(fake.config());
    let started = gone(&fake, &provider).await;
    let table: &[ChangedReturn] = &[
        ("another issuer", |came| came.iss = Some("https://evil.test".to_owned()), "provider_mixed_up"),
        ("no issuer, where it says that it names itself", |came| came.iss = None, "provider_mixed_up"),
        ("a no", |came| came.error = Some("access_denied".to_owned()), "provider_declined"),
        ("no code", |came| came.code = None, "code_refused"),
        ("a code that is not its own", |came| came.code = Some("stolen".to_owned()), "code_refused"),
    ];
    for (what, change, expected) in table {
        let mut came = came(&fake, &started);
        change(&mut came);
        let refused = provider.finish(&started.attempt, &came).await.unwrap_err();
        assert_eq!(refused.code(), *expected, "{what}");
    }
    // a code that was begun elsewhere has another secret
    let other = Attempt { verifier: "v".repeat(43), ..started.attempt.clone() };
    assert_eq!(provider.finish(&other, &came(&fake, &started)).await.unwrap_err().code(), "code_refused");
}

#[tokio::test]
async fn a_countersignature_takes_the_same_person_just_now_for_this_very_hold() {
    let fake = Fake::start().await;
    let provider = fake.provider(fake.config());
    let purpose = Purpose::Countersign {
        session: 7,
        subject: "u-1".to_owned(),
        hold: "hold_01M7Y3ZJ577RY9EGW3BYW03FZJ".to_owned(),
        digest: format!("sha256:{}", "ab".repeat(32)),
        as_of: 9,
    };
    let table: &[(&str, Change, Result<(), &str>)] = &[
        ("the genuine one", |_| {}, Ok(())),
        ("a moment before, as clocks go", |claims| claims["auth_time"] = json!(NOW - 4), Ok(())),
        ("who signed in before", |claims| claims["auth_time"] = json!(NOW - 30), Err("token_stale")),
        ("who does not say when", |claims| claims["auth_time"] = Value::Null, Err("token_stale")),
        ("who will sign in", |claims| claims["auth_time"] = json!(NOW + 90), Err("token_stale")),
        ("somebody else", |claims| claims["sub"] = json!("u-2"), Err("token_subject")),
        ("in a weak way", |claims| claims["acr"] = json!("weak"), Err("token_context")),
        ("in no way", |claims| claims["acr"] = Value::Null, Err("token_context")),
        (
            "for another hold",
            |claims| {
                claims["nonce"] = json!(claims["nonce"].as_str().unwrap().replacen("ab", "cd", 1));
            },
            Err("token_nonce"),
        ),
    ];
    for (what, change, expected) in table {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let started = provider.step_up(purpose.clone(), &digest).await.unwrap();
        assert_eq!(parameter(&started, "max_age").as_deref(), Some("0"));
        assert_eq!(parameter(&started, "acr_values").as_deref(), Some("strong"));
        assert!(started.attempt.nonce.starts_with(&format!("{}.", "ab".repeat(32))), "{}", started.attempt.nonce);
        let mut claims = fake.claims(&started.attempt);
        change(&mut claims);
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let challenge = parameter(&started, "code_challenge").unwrap();
        {
            let mut says = fake.says();
            (says.token, says.challenge) = (signed(&claims, 1), challenge);
        }
        let finished = provider.finish(&started.attempt, &came(&fake, &started)).await;
        assert_eq!(finished.as_ref().map(|_| ()).map_err(SignInRefused::code), *expected, "{what}");
    }
}

#[tokio::test]
async fn metadata_that_is_not_the_issuers_own_is_not_believed() {
    let cases: &[(&str, Change)] = &[
        ("names another issuer", |says| says["issuer"] = json!("https://evil.test")),
        ("names another issuer", |says| says["issuer"] = json!(format!("{}/", says["issuer"].as_str().unwrap()))),
        ("no `jwks_uri`", |says| says["jwks_uri"] = Value::Null),
        ("`token_endpoint` is not https", |says| says["token_endpoint"] = json!("ftp://x/")),
        ("`jwks_uri` is no URL", |says| says["jwks_uri"] = json!("nowhere")),
        ("longer than", |says| says["more"] = json!("x".repeat(300 << 10))),
    ];
    for (expected, change) in cases {
        let fake = Fake::start().await;
        let provider = fake.provider(fake.config());
        let mut says = fake.usual();
        change(&mut says);
        fake.says().metadata = Some(says);
        let refused = provider.sign_in("/waiting").await.unwrap_err();
        let SignInRefused::Unreachable(why) = &refused else { panic!("{refused:?}") };
        assert!(why.0.contains(expected), "{expected}: {why}");
        // who asks again at once does not have it asked again
        provider.sign_in("/waiting").await.unwrap_err();
        assert_eq!(fake.fetched("metadata"), 1, "{expected}");
    }
    let fake = Fake::start().await;
    fake.says().redirects = true;
    let refused = fake.provider(fake.config()).sign_in("/waiting").await.unwrap_err();
    assert!(matches!(&refused, SignInRefused::Unreachable(why) if why.0.contains("302")), "{refused:?}");
    // keys at an address inside, where nobody said that it is meant
    let config = ProviderConfig { allow_private: false, ..fake.config() };
    let refused = fake.provider(config).sign_in("/waiting").await.unwrap_err();
    assert!(matches!(&refused, SignInRefused::Unreachable(why) if why.0.contains("allow_private")), "{refused:?}");
}

#[tokio::test]
async fn what_was_fetched_is_kept_and_asked_again_for_a_key_that_is_not_known_within_bounds() {
    let fake = Fake::start().await;
    let issuer = Issuer::new(&Whom::people(&fake.issuer(), true), Arc::new(System)).unwrap();
    let token = signed(&json!({"sub": "u"}), 1);
    for _ in 0..5 {
        issuer.check(&token).await.unwrap().unwrap();
    }
    assert_eq!((fake.fetched("metadata"), fake.fetched("keys")), (1, 1));
    // a new key: an issuer that was asked a moment ago is not asked again for each token that names one
    fake.says().keys = json!({"keys": [pair(1).1, pair(2).1]});
    let rotated = signed(&json!({"sub": "u"}), 2);
    for _ in 0..5 {
        assert_eq!(issuer.check(&rotated).await.unwrap().unwrap_err(), NotSigned::UnknownKey);
    }
    assert_eq!(fake.fetched("keys"), 1);
    issuer.age(Duration::from_secs(31)).await;
    issuer.check(&rotated).await.unwrap().unwrap();
    issuer.check(&token).await.unwrap().unwrap();
    assert_eq!((fake.fetched("metadata"), fake.fetched("keys")), (1, 2));
    // two keys that it could be by are none
    let mut same = pair(2).1;
    same["kid"] = json!("key-1");
    fake.says().keys = json!({"keys": [pair(1).1, same]});
    issuer.age(Duration::from_secs(3_601)).await;
    assert_eq!(issuer.check(&token).await.unwrap().unwrap_err(), NotSigned::UnknownKey);
    // keys that cannot be had any more are used for a day
    fake.says().keys = json!({"keys": [pair(1).1]});
    issuer.age(Duration::from_secs(3_601)).await;
    issuer.check(&token).await.unwrap().unwrap();
    fake.says().keys = json!({"keys": "none"});
    issuer.age(Duration::from_secs(3_601)).await;
    issuer.check(&token).await.unwrap().unwrap();
    issuer.age(Duration::from_secs(24 * 3_600)).await;
    issuer.check(&token).await.unwrap_err();
}
