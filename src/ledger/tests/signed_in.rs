//! Approvers whom an identity provider vouches for, in the ledger.

use std::{collections::BTreeSet, sync::Arc};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::{
    hold::{Evidence, Hold, Phase, Proof, Rejected, SignIn},
    json::Digest,
    jws::Jwk,
    ledger::verify::{Verdict, verify},
};

const HELD: &str = r#"@id("owned") @hold("owner") @expires("10m") permit (principal, action, resource);"#;
const ISSUER: &str = "https://login.example";

fn sign_in(name: &str, subject: &str, ledger: &Ledger, seconds: i64) -> SignIn {
    SignIn {
        name: name.to_owned(),
        provider: "corp".to_owned(),
        issuer: ISSUER.to_owned(),
        subject: subject.to_owned(),
        roles: BTreeSet::from(["owner".to_owned()]),
        also: BTreeSet::from(["maria@example.com".to_owned()]),
        until: ledger.inner.clock.now().checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap(),
    }
}

/// A token of the issuer's, changed, by the key of that seed.
fn evidence(hold: &Hold, ledger: &Ledger, seed: u8, change: impl Fn(&mut Value)) -> Evidence {
    let now = ledger.inner.clock.now().as_second();
    let hex = hold.digest.to_string().trim_start_matches("sha256:").to_owned();
    let mut claims =
        json!({"iss": ISSUER, "sub": "u-1", "nonce": format!("{hex}.random"), "iat": now, "auth_time": now});
    change(&mut claims);
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let key = EncodingKey::from_ed_der(pair.to_pkcs8().unwrap().as_ref());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap();
    Evidence { token, key: jwk(seed) }
}

fn jwk(seed: u8) -> Jwk {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
    let text =
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())}]});
    Jwk::read_set(text.to_string().as_bytes()).unwrap().remove(0)
}

fn proof(subject: &str, evidence: Evidence) -> Proof {
    Proof::Vouched {
        issuer: ISSUER.to_owned(),
        subject: subject.to_owned(),
        token: evidence.digest(),
        key: evidence.key.thumbprint(),
        evidence: Some(evidence),
    }
}

impl House {
    async fn waits(&self, ledger: &Ledger, what: &str) -> Arc<Hold> {
        match self.grants.decide(self.validated(ledger, "bank__pay", what), &self.sessions) {
            Decision::Hold(held) => Arc::clone(ledger.hold(held).await.unwrap().hold()),
            other => panic!("{other:?}"),
        }
    }
}

async fn countersign(ledger: &Ledger, hold: &Hold, name: &str, proof: &Proof) -> Result<Phase, NotChanged> {
    ledger.countersign(&hold.id, &hold.digest, name, ledger.inner.clock.now(), proof).await
}

const NAME: &str = "corp:maria@example.com";

#[tokio::test]
async fn a_providers_word_countersigns_one_hold_and_verifies() {
    let (folder, house) = (tempfile::tempdir().unwrap(), House::granting(HELD));
    let ledger = open(folder.path());
    let hold = house.waits(&ledger, "rent").await;
    let genuine = proof("u-1", evidence(&hold, &ledger, 1, |_| {}));
    let unknown = countersign(&ledger, &hold, NAME, &genuine).await;
    assert_eq!(unknown, Err(NotChanged::Rejected(Rejected::OtherKey)), "nobody signed in");
    ledger.sign_in_approver(sign_in(NAME, "u-1", &ledger, 3_600)).await.unwrap();
    let other_hold = Digest::of(b"another").to_string().trim_start_matches("sha256:").to_owned();
    let hour_old = ledger.inner.clock.now().as_second() - 2 * 86_400;
    type Forge<'a> = Box<dyn Fn() -> Proof + 'a>;
    let table: Vec<(&str, Forge<'_>)> = vec![
        ("another subject", Box::new(|| proof("u-2", evidence(&hold, &ledger, 1, |_| {})))),
        (
            "about another subject",
            Box::new(|| proof("u-1", evidence(&hold, &ledger, 1, |claims| claims["sub"] = json!("u-2")))),
        ),
        (
            "another issuer's",
            Box::new(|| proof("u-1", evidence(&hold, &ledger, 1, |claims| claims["iss"] = json!("https://x")))),
        ),
        (
            "for another hold",
            Box::new(|| {
                proof("u-1", evidence(&hold, &ledger, 1, |claims| claims["nonce"] = json!(format!("{other_hold}.r"))))
            }),
        ),
        ("for no hold", Box::new(|| proof("u-1", evidence(&hold, &ledger, 1, |claims| claims["nonce"] = json!("r"))))),
        (
            "of long ago",
            Box::new(|| proof("u-1", evidence(&hold, &ledger, 1, |claims| claims["auth_time"] = json!(hour_old)))),
        ),
        (
            "by another key",
            Box::new(|| {
                let forged = evidence(&hold, &ledger, 2, |_| {});
                proof("u-1", Evidence { key: jwk(1), ..forged })
            }),
        ),
        (
            "without the token",
            Box::new(|| match proof("u-1", evidence(&hold, &ledger, 1, |_| {})) {
                Proof::Vouched { issuer, subject, token, key, .. } => {
                    Proof::Vouched { issuer, subject, token, key, evidence: None }
                }
                other => other,
            }),
        ),
        (
            "with another token",
            Box::new(|| match proof("u-1", evidence(&hold, &ledger, 1, |_| {})) {
                Proof::Vouched { issuer, subject, key, evidence, .. } => {
                    Proof::Vouched { issuer, subject, token: Digest::of(b"x"), key, evidence }
                }
                other => other,
            }),
        ),
    ];
    for (what, forge) in &table {
        let refused = countersign(&ledger, &hold, NAME, &forge()).await;
        assert_eq!(refused, Err(NotChanged::Rejected(Rejected::OtherKey)), "{what}");
    }
    drop(table);
    assert_eq!(countersign(&ledger, &hold, NAME, &genuine).await, Ok(Phase::Approved));
    let entry = ledger.entries(ledger.size() - 1, 1).unwrap().remove(0);
    assert!(entry::flaw(&entry.text).is_none(), "{}", String::from_utf8_lossy(&entry.text));
    let Proof::Vouched { token, evidence: Some(evidence), .. } = &genuine else { panic!() };
    let text = String::from_utf8(entry.text.to_vec()).unwrap();
    assert!(text.contains(&token.to_string()) && !text.contains(&evidence.token), "{text}");
    let kept = ledger.payload(entry.seq).unwrap().unwrap().bytes;
    assert_eq!(Evidence::read(&kept).unwrap(), *evidence);

    // a restart knows the person and the countersignature still
    ledger.close().await;
    drop(ledger);
    let ledger = open(folder.path());
    assert_eq!(ledger.holds(|book| book.get(&hold.id).unwrap().phase.clone()), Phase::Approved);
    assert!(ledger.holds(|book| book.roster().get(NAME).unwrap().signed_in.is_some()));
    ledger.close().await;
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
}

#[tokio::test]
async fn who_was_let_in_has_a_name_of_their_own_for_as_long_as_they_are_in() {
    let (folder, house) = (tempfile::tempdir().unwrap(), House::granting(HELD));
    let ledger = open(folder.path());
    let hold = house.waits(&ledger, "rent").await;
    ledger.sign_in_approver(sign_in(NAME, "u-1", &ledger, 3_600)).await.unwrap();
    let taken = Err(NotChanged::Rejected(Rejected::NameTaken));
    for (what, who) in [
        ("another person under the same name", sign_in(NAME, "u-2", &ledger, 3_600)),
        ("a name that looks like it", sign_in("corp:MARIA@example.com", "u-2", &ledger, 3_600)),
        ("another provider's name", sign_in("other:maria", "u-3", &ledger, 3_600)),
        ("no name", sign_in("corp:", "u-3", &ledger, 3_600)),
        ("no role", SignIn { roles: BTreeSet::new(), ..sign_in("corp:x", "u-3", &ledger, 3_600) }),
    ] {
        assert_eq!(ledger.sign_in_approver(who).await, taken, "{what}");
    }
    // nobody else gives them roles, and they enrol nothing
    let added = ledger.add_approver(NAME, BTreeSet::from(["boss".to_owned()]), BTreeSet::new(), None).await;
    assert_eq!(added, taken);
    let enrolled = ledger.enrol_approver(NAME, crate::hold::Credential::Key([1; 32]), None).await;
    assert_eq!(enrolled, Err(NotChanged::Rejected(Rejected::NotAppointed)));
    // they are nobody's word for others: the first approver needs none still
    assert_eq!(ledger.holds(|book| book.roster().enrolled().count()), 0);

    // once their time is over they decide nothing, and the name is free
    ledger.sign_in_approver(sign_in(NAME, "u-1", &ledger, -1)).await.unwrap();
    let late = countersign(&ledger, &hold, NAME, &proof("u-1", evidence(&hold, &ledger, 1, |_| {}))).await;
    assert_eq!(late, Err(NotChanged::Rejected(Rejected::UnknownApprover)));
    let denied = ledger.deny(&hold.id, &hold.digest, NAME, "no").await;
    assert_eq!(denied, Err(NotChanged::Rejected(Rejected::UnknownApprover)));
    ledger.sign_in_approver(sign_in(NAME, "u-2", &ledger, 3_600)).await.unwrap();
    let previous = countersign(&ledger, &hold, NAME, &proof("u-1", evidence(&hold, &ledger, 1, |_| {}))).await;
    assert_eq!(previous, Err(NotChanged::Rejected(Rejected::OtherKey)));
    ledger.deny(&hold.id, &hold.digest, NAME, "no").await.unwrap();
    ledger.close().await;
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
}
