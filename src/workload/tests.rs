//! What a JWT-SVID has to say, and what is made of bundles and tokens that nobody would make.

use std::{path::PathBuf, time::Duration};

use serde_json::{Value, json};

use super::*;
use crate::{
    config::{BundleSource, SpiffeConfig},
    listen::signer::{self, Signer, TokenKey},
};

const NOW: i64 = 1_800_000_000;
const US: &str = "https://us.example/mcp";
const BOT: &str = "spiffe://example.org/bot";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A trust domain of which nothing is known yet.
fn domain() -> Arc<Domain> {
    let config = SpiffeConfig {
        source: BundleSource::File(PathBuf::new()),
        audience: None,
        max_lifetime: Duration::from_secs(3_600),
        max_stale: Duration::from_secs(3_600),
        ca: None,
        allow_private: false,
    };
    let authorities = Arc::new(Authorities::open(Vec::new(), &["example.org".to_owned()]).unwrap());
    Arc::new(Domain::new("example.org", config, US, authorities))
}

fn workloads(domain: &Arc<Domain>) -> Workloads {
    let source = Source::File(PathBuf::new(), crate::listen::Watched::new(Vec::new()));
    Workloads {
        domains: BTreeMap::from([("example.org".to_owned(), (Arc::clone(domain), source))]),
        certificates: BTreeMap::new(),
        authorities: Arc::new(Authorities::open(Vec::new(), &[]).unwrap()),
    }
}

fn take(domain: &Domain, bundle: &Value) -> Result<(), String> {
    bundle::Bundle::read(bundle.to_string().as_bytes()).and_then(|bundle| domain.take(bundle))
}

fn claims() -> Value {
    json!({"sub": BOT, "aud": [US, "https://elsewhere"], "iat": NOW - 10, "exp": NOW + 290, "jti": "j1"})
}

/// The same with one claim put in the place of another's, or left out for `null`.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    match value {
        Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
        value => claims[name] = value,
    }
    claims
}

#[test]
fn a_jwt_svid_is_judged_by_all_that_it_has_to_say() {
    let (key, other) = (TokenKey::new("k1"), TokenKey::new("k1"));
    let domain = domain();
    let workloads = workloads(&domain);
    let judge = |token: &str| workloads.judge(token, at(NOW)).map(|judged| judged.map(|svid| svid.workload.clone()));
    assert_eq!(judge(&key.sign(&claims())), Some(Err(Unproven::Unavailable)), "nothing is known of its keys");
    take(&domain, &signer::bundle(&[], &[&key])).unwrap();

    let good = judge(&key.sign(&claims())).unwrap().unwrap();
    assert_eq!(
        (good.agent.as_str(), good.id.as_deref(), good.issuer.as_str()),
        (BOT, Some(BOT), "spiffe://example.org")
    );
    assert_eq!(
        (good.credential.as_str(), good.issued, good.expires),
        ("spiffe://example.org:j1", at(NOW - 40), at(NOW + 290))
    );

    let header = |header: Value| key.sign_under(&header, &claims());
    let rows: Vec<(&str, String, Result<(), Unproven>)> = vec![
        ("one audience", key.sign(&with("aud", json!(US))), Ok(())),
        ("no time it was made", key.sign(&with("iat", Value::Null)), Ok(())),
        ("no name of its own", key.sign(&with("jti", Value::Null)), Ok(())),
        ("without a type", header(json!({"alg": "ES256", "kid": "k1"})), Ok(())),
        ("as JOSE", header(json!({"alg": "ES256", "kid": "k1", "typ": "JOSE"})), Ok(())),
        ("without the key's name", header(json!({"alg": "ES256"})), Ok(())),
        ("a clock a little ahead", key.sign(&with("iat", json!(NOW + 20))), Ok(())),
        ("another type", header(json!({"alg": "ES256", "kid": "k1", "typ": "at+jwt"})), Err(Unproven::Kind)),
        (
            "something to be understood",
            header(json!({"alg": "ES256", "kid": "k1", "crit": ["x"]})),
            Err(Unproven::Malformed),
        ),
        ("no algorithm", header(json!({"alg": "none", "kid": "k1"})), Err(Unproven::Signature)),
        ("a shared secret", header(json!({"alg": "HS256", "kid": "k1"})), Err(Unproven::Signature)),
        ("an algorithm of other keys", header(json!({"alg": "EdDSA", "kid": "k1"})), Err(Unproven::Signature)),
        ("an unknown key", header(json!({"alg": "ES256", "kid": "../k1"})), Err(Unproven::Signature)),
        ("another key of that name", other.sign(&claims()), Err(Unproven::Signature)),
        ("no audience", key.sign(&with("aud", Value::Null)), Err(Unproven::Malformed)),
        ("others' audience", key.sign(&with("aud", json!(["https://elsewhere"]))), Err(Unproven::Audience)),
        (
            "an audience that begins like ours",
            key.sign(&with("aud", json!(format!("{US}/x")))),
            Err(Unproven::Audience),
        ),
        ("no end", key.sign(&with("exp", Value::Null)), Err(Unproven::Malformed)),
        ("an end that is no time", key.sign(&with("exp", json!("soon"))), Err(Unproven::Malformed)),
        ("at its end", key.sign(&with("exp", json!(NOW))), Err(Unproven::Expired)),
        ("it lives too long", key.sign(&with("exp", json!(NOW + 3_591))), Err(Unproven::TooLong)),
        (
            "it lives too long and says nothing of when it began",
            {
                let mut claims = with("iat", Value::Null);
                claims["exp"] = json!(NOW + 3_631);
                key.sign(&claims)
            },
            Err(Unproven::TooLong),
        ),
        (
            "it is to live too long",
            {
                let mut claims = with("iat", json!(NOW + 3_000));
                claims["exp"] = json!(NOW + 4_000);
                key.sign(&claims)
            },
            Err(Unproven::NotYet),
        ),
        ("made tomorrow", key.sign(&with("iat", json!(NOW + 31))), Err(Unproven::NotYet)),
        ("good from tomorrow", key.sign(&with("nbf", json!(NOW + 31))), Err(Unproven::NotYet)),
        ("a name of its own that is none", key.sign(&with("jti", json!("a\nb"))), Err(Unproven::Malformed)),
    ];
    for (what, token, expected) in rows {
        assert_eq!(judge(&token).unwrap().map(drop), expected, "{what}");
        // the second time is no other
        assert_eq!(judge(&token).unwrap().map(drop), expected, "{what}, again");
    }
    // not of this trust domain: somebody else's to judge
    for sub in [
        json!("spiffe://other.org/bot"),
        json!("spiffe://example.org"),
        json!("spiffe://example.org/a/"),
        json!("spiffe://example.org//a"),
        json!("spiffe://example.org/../a"),
        json!("spiffe://EXAMPLE.org/bot"),
        json!("SPIFFE://example.org/bot"),
        json!("spiffe://example.org:1/bot"),
        json!("spiffe://u@example.org/bot"),
        json!("spiffe://example.org/bot?x"),
        json!("spiffe://example.org/b%6ft"),
        json!("example.org/bot"),
        json!(7),
        json!(format!("spiffe://example.org/{}", "a".repeat(2_048))),
        Value::Null,
    ] {
        assert_eq!(judge(&key.sign(&with("sub", sub.clone()))), None, "{sub}");
    }
}

#[test]
fn a_token_that_was_judged_ends_with_its_time_and_with_its_key() {
    let (key, next) = (TokenKey::new("k1"), TokenKey::new("k2"));
    let domain = domain();
    let workloads = workloads(&domain);
    take(&domain, &signer::bundle(&[], &[&key])).unwrap();
    let token = key.sign(&claims());
    let judge = |second| workloads.judge(&token, at(second)).unwrap().map(drop);
    assert_eq!(judge(NOW), Ok(()));
    assert_eq!(judge(NOW + 289), Ok(()));
    assert_eq!(judge(NOW + 290), Err(Unproven::Expired));
    take(&domain, &signer::bundle(&[], &[&next, &key])).unwrap();
    assert_eq!(judge(NOW), Ok(()));
    // what cannot be read takes nothing away
    take(&domain, &json!({"keys": 7})).unwrap_err();
    assert_eq!(judge(NOW), Ok(()));
    take(&domain, &signer::bundle(&[], &[&next])).unwrap();
    assert_eq!(judge(NOW), Err(Unproven::Signature));
    take(&domain, &signer::bundle(&[], &[])).unwrap();
    assert_eq!(judge(NOW), Err(Unproven::Unavailable));
    // another key by the name of the first
    take(&domain, &signer::bundle(&[], &[&TokenKey::new("k1")])).unwrap();
    assert_eq!(judge(NOW), Err(Unproven::Signature));
}

#[test]
fn a_bundle_is_read_by_what_its_keys_are_for() {
    let (signer, key) = (Signer::new("example.org"), TokenKey::new("k1"));
    let read = |keys: Value| {
        let text = json!({"keys": keys, "spiffe_refresh_hint": 7}).to_string();
        let bundle = bundle::Bundle::read(text.as_bytes())?;
        assert_eq!(bundle.refresh, Some(Duration::from_secs(7)));
        Ok((bundle.authorities.len(), bundle.keys.len()))
    };
    let both = signer::bundle(&[&signer], &[&key])["keys"].clone();
    let change = |index: usize, name: &str, value: Value| {
        let mut keys = both.clone();
        keys[index][name] = value;
        keys
    };
    for (what, keys, expected) in [
        ("both", both.clone(), Ok((1, 1))),
        ("none", json!([]), Ok((0, 0))),
        ("of no use", change(1, "use", Value::Null), Ok((1, 0))),
        ("of another use", change(1, "use", json!("sig")), Ok((1, 0))),
        ("an authority's key is not for tokens", change(0, "use", json!("jwt-svid")), Ok((0, 1))),
        ("without a name", change(1, "kid", Value::Null), Ok((1, 0))),
        ("with an empty name", change(1, "kid", json!("")), Ok((1, 0))),
        (
            "a key of a kind that signs no JWT-SVIDs",
            json!([{"use": "jwt-svid", "kid": "k", "kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]),
            Ok((0, 0)),
        ),
        ("a shared secret", json!([{"use": "jwt-svid", "kid": "k", "kty": "oct", "k": "AAAA"}]), Ok((0, 0))),
        ("no certificate", change(0, "x5c", json!([])), Err(())),
        ("two certificates", change(0, "x5c", json!([both[0]["x5c"][0], both[0]["x5c"][0]])), Err(())),
        ("no base64", change(0, "x5c", json!(["-"])), Err(())),
        ("too many", json!(vec![both[1].clone(); 65]), Err(())),
    ] {
        assert_eq!(read(keys).map_err(|_: String| ()), expected, "{what}");
    }
    let domain = domain();
    assert!(take(&domain, &json!({"keys": change(0, "x5c", json!(["AAAA"]))})).is_err(), "what is no certificate");
    assert!(bundle::Bundle::read(br#"{"keys": [], "keys": []}"#).is_err(), "two sets");
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_sent_panics(text in "\\PC{0,200}", bytes in proptest::collection::vec(0_u8.., 0..200), at in 0_usize..400) {
        let domain = domain();
        let key = TokenKey::new("k1");
        take(&domain, &signer::bundle(&[], &[&key])).unwrap();
        let workloads = workloads(&domain);
        let now = self::at(NOW);
        let _ = workloads.judge(&text, now);
        let _ = bundle::Bundle::read(&bytes);
        let _ = bundle::Bundle::read(text.as_bytes());
        let _ = bundle::key(text.as_bytes());
        // a good token with one letter changed is not let in, but for the bits that base64 has to spare
        let token = key.sign(&claims());
        let mut changed = token.clone().into_bytes();
        let at = at % changed.len();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let judged = workloads.judge(&changed, now);
        proptest::prop_assert!(!matches!(judged, Some(Ok(_))), "{changed}");
    }
}
