//! Passkeys in the ledger: what was countersigned with one is judged from the log alone, and every forgery is found.

use std::{collections::BTreeSet, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::*;
use crate::{
    hold::{Book, Change, Credential, Hold, Means, Phase, Proof, Rejected, Statement},
    json::{Digest, Value},
    ledger::verify::{Report, Verdict, verify},
    passkey::{
        Assertion, Passkey,
        authenticator::{Authenticator, Signed},
    },
};

const HELD: &str =
    r#"@id("owned") @hold("owner") @assurance("passkey") @expires("10m") permit (principal, action, resource);"#;
const RP: &str = "localhost";
const ORIGIN: &str = "http://localhost:7401";

fn authenticator(number: u8) -> Authenticator {
    Authenticator::new(number, RP, ORIGIN)
}

fn passkey(authenticator: &Authenticator) -> Arc<Passkey> {
    let made = authenticator.make(&[1; 32]);
    let passkey = Passkey::made(&made.client_data, &made.attestation, &[1; 32], &authenticator.rp, "my key");
    Arc::new(passkey.unwrap())
}

fn assertion(signed: Signed) -> Assertion {
    let Signed { authenticator_data, client_data, signature } = signed;
    Assertion { authenticator_data, client_data, signature }
}

fn signed(authenticator: &Authenticator, passkey: &Passkey, challenge: &[u8; 32]) -> Proof {
    Proof::Assertion { passkey: passkey.digest(), assertion: assertion(authenticator.sign(challenge)) }
}

/// A ledger with an approver who has a passkey, and a call that waits.
struct Scene {
    folder: tempfile::TempDir,
    house: House,
    ledger: Ledger,
    authenticator: Authenticator,
    passkey: Arc<Passkey>,
    hold: Arc<Hold>,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let house = House::granting(HELD);
        let ledger = open(folder.path());
        let authenticator = authenticator(1);
        let passkey = passkey(&authenticator);
        ledger.add_approver("ann", BTreeSet::from(["owner".to_owned()]), BTreeSet::new(), None).await.unwrap();
        ledger.enrol_approver("ann", Credential::Passkey(Arc::clone(&passkey)), None).await.unwrap();
        let hold = house.hold(&ledger, "rent").await;
        Self { folder, house, ledger, authenticator, passkey, hold }
    }

    async fn countersign(&self, proof: &Proof) -> Result<Phase, NotChanged> {
        let at = self.ledger.inner.clock.now();
        self.ledger.countersign(&self.hold.id, &self.hold.digest, "ann", at, proof).await
    }

    /// Writes an entry past every rule, as one who holds the log's key could, and verifies.
    async fn verified_with(self, text: String) -> Report {
        self.ledger.inner.committer.write(Item::new(text.into_bytes(), Effect::None)).await.unwrap();
        self.verified().await
    }

    async fn verified(self) -> Report {
        self.ledger.close().await;
        drop(self.ledger);
        verify(self.folder.path(), None, None)
    }

    /// The entry that says that ann countersigned with that passkey.
    fn entry(&self, passkey: &Digest, assertion: &Assertion) -> String {
        let assertion = String::from_utf8(assertion.entry().to_bytes()).unwrap();
        let (at, digest, id) = (self.ledger.inner.clock.now(), self.hold.digest, &self.hold.id);
        format!(
            r#"{{"approver":"ann","assertion":{assertion},"at":"{at:.6}","digest":"{digest}","hold":"{id}","kind":"hold.approved","passkey":"{passkey}","v":1}}"#
        )
    }
}

impl House {
    async fn hold(&self, ledger: &Ledger, what: &str) -> Arc<Hold> {
        match self.grants.decide(self.validated(ledger, "bank__pay", what), &self.sessions) {
            Decision::Hold(held) => Arc::clone(ledger.hold(held).await.unwrap().hold()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_hold_is_countersigned_with_a_passkey_and_verifies_from_the_log_alone() {
    let scene = Scene::new().await;
    let entry = scene.ledger.entries(scene.hold.seq, 1).unwrap().remove(0);
    let demands = entry::tree(&entry.text).unwrap().get("demands").unwrap().as_array().unwrap().to_vec();
    assert_eq!(demands[0].get("assurance").and_then(Value::as_str), Some("passkey"));
    // what it signs is the digest of that entry, and nothing else
    assert_eq!(scene.hold.digest, Digest::of(&entry.text));
    let proof = signed(&scene.authenticator, &scene.passkey, &scene.hold.digest.0);
    assert_eq!(scene.countersign(&proof).await, Ok(Phase::Approved));
    assert_eq!(scene.countersign(&proof).await, Err(NotChanged::Rejected(Rejected::Twice)));

    let warrant = scene.ledger.warrant(&scene.hold.id).unwrap();
    let call = scene.house.validated(&scene.ledger, "bank__pay", "rent");
    let Decision::Permit(permitted) = scene.house.grants.decide_countersigned(call, &scene.house.sessions, &warrant)
    else {
        panic!("what was countersigned is permitted")
    };
    let recorded = scene.ledger.intend(permitted).await.unwrap();
    scene.ledger.write_outcome(&recorded, &answer(r#"{"content":[]}"#), 42, &[]).await.unwrap();
    let all = scene.ledger.entries(0, 100).unwrap();
    assert!(all.iter().all(|entry| entry::flaw(&entry.text).is_none()));

    // a restart reads the passkey and the countersignature back
    scene.ledger.close().await;
    let Scene { folder, ledger, passkey, hold, .. } = scene;
    drop(ledger);
    let ledger = open(folder.path());
    let record = ledger.holds(|book| book.get(&hold.id).cloned()).unwrap();
    assert_eq!(record.votes[0].means, Means::Passkey(passkey.digest()));
    assert_eq!(ledger.holds(|book| book.roster().get("ann").unwrap().passkeys.clone()), [passkey]);
    ledger.close().await;
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
}

#[tokio::test]
async fn a_forged_assertion_is_refused_live_and_found_by_verification() {
    type Forge = fn(&Scene) -> (Digest, Assertion);
    let table: &[(&str, Forge)] = &[
        ("the genuine one", |it| (it.passkey.digest(), assertion(it.authenticator.sign(&it.hold.digest.0)))),
        ("a flipped bit of the signature", |it| {
            let mut signed = assertion(it.authenticator.sign(&it.hold.digest.0));
            *signed.signature.last_mut().unwrap() ^= 1;
            (it.passkey.digest(), signed)
        }),
        ("a flipped bit of the authenticator data", |it| {
            let mut signed = assertion(it.authenticator.sign(&it.hold.digest.0));
            *signed.authenticator_data.last_mut().unwrap() ^= 1;
            (it.passkey.digest(), signed)
        }),
        ("another hold's", |it| (it.passkey.digest(), assertion(it.authenticator.sign(&[7; 32])))),
        ("without anybody verified", |it| {
            let other = Authenticator { flags: 1, ..it.authenticator.clone() };
            (it.passkey.digest(), assertion(other.sign(&it.hold.digest.0)))
        }),
        ("for another site", |it| {
            let other = Authenticator { rp: "evil.test".to_owned(), ..it.authenticator.clone() };
            (it.passkey.digest(), assertion(other.sign(&it.hold.digest.0)))
        }),
        ("asked by another origin", |it| {
            let other = Authenticator { origin: "https://evil.test".to_owned(), ..it.authenticator.clone() };
            (it.passkey.digest(), assertion(other.sign(&it.hold.digest.0)))
        }),
        ("of the wrong type", |it| {
            let other = Authenticator { kind: Some("webauthn.create"), ..it.authenticator.clone() };
            (it.passkey.digest(), assertion(other.sign(&it.hold.digest.0)))
        }),
        ("by a passkey that is nobody's", |it| {
            let other = authenticator(2);
            (passkey(&other).digest(), assertion(other.sign(&it.hold.digest.0)))
        }),
        ("by another key in the passkey's name", |it| {
            (it.passkey.digest(), assertion(authenticator(1).sign(&it.hold.digest.0)))
        }),
    ];
    for (what, forge) in table {
        let genuine = *what == "the genuine one";
        let scene = Scene::new().await;
        let (passkey, forged) = forge(&scene);
        let text = scene.entry(&passkey, &forged);
        if !genuine {
            let proof = Proof::Assertion { passkey, assertion: forged };
            let live = scene.countersign(&proof).await;
            assert_eq!(live, Err(NotChanged::Rejected(Rejected::OtherKey)), "{what}");
        }
        let report = scene.verified_with(text).await;
        let expected = if genuine { Verdict::Holds } else { Verdict::Tampered };
        assert_eq!(report.verdict, expected, "{what}: {report}");
        let told = report.problems.iter().any(|problem| problem.contains("the countersignature is not one"));
        assert_eq!(told, !genuine, "{what}: {report}");
    }
}

#[tokio::test]
async fn a_passphrases_signature_is_not_enough_where_a_passkey_is_demanded() {
    let scene = Scene::new().await;
    let pair = aws_lc_rs::signature::Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
    let key: [u8; 32] = aws_lc_rs::signature::KeyPair::public_key(&pair).as_ref().try_into().unwrap();
    let credential = Credential::Key(key);
    let means = credential.means();
    let said = Statement::Enrolment { approver: "ann", means: &means };
    // a session is not enough to be known by a passphrase too, and neither is the new key itself
    let bare = scene.ledger.enrol_approver("ann", credential.clone(), None).await;
    assert_eq!(bare, Err(NotChanged::Rejected(Rejected::NameTaken)));
    let itself = Proof::Signature { key, signature: pair.sign(&said.text()).as_ref().to_vec() };
    let itself = scene.ledger.enrol_approver("ann", credential.clone(), Some(&itself)).await;
    assert_eq!(itself, Err(NotChanged::Rejected(Rejected::OtherKey)));
    let about_the_hold = signed(&scene.authenticator, &scene.passkey, &scene.hold.digest.0);
    let other = scene.ledger.enrol_approver("ann", credential.clone(), Some(&about_the_hold)).await;
    assert_eq!(other, Err(NotChanged::Rejected(Rejected::OtherKey)));
    let proof = signed(&scene.authenticator, &scene.passkey, &said.challenge());
    scene.ledger.enrol_approver("ann", credential, Some(&proof)).await.unwrap();

    let (statement, at) = scene.ledger.statement(&scene.hold.id, &scene.hold.digest, "ann");
    let with_key = Proof::Signature { key, signature: pair.sign(&statement).as_ref().to_vec() };
    let refused = scene.ledger.countersign(&scene.hold.id, &scene.hold.digest, "ann", at, &with_key).await;
    assert_eq!(refused, Err(NotChanged::Rejected(Rejected::AssuranceTooLow)));

    // nor is it enough to be known by one more passkey: not now, and not in what a log says
    let added = passkey(&authenticator(2));
    let means = Means::Passkey(added.digest());
    let signature = pair.sign(&Statement::Enrolment { approver: "ann", means: &means }.text()).as_ref().to_vec();
    let by_key = Proof::Signature { key, signature: signature.clone() };
    let refused = scene.ledger.enrol_approver("ann", Credential::Passkey(Arc::clone(&added)), Some(&by_key)).await;
    assert_eq!(refused, Err(NotChanged::Rejected(Rejected::AssuranceTooLow)));
    let (entry, at) = (String::from_utf8(added.entry().to_bytes()).unwrap(), scene.ledger.inner.clock.now());
    let (key, signature) = (BASE64.encode(key), BASE64.encode(signature));
    let text = format!(
        r#"{{"approver":"ann","at":"{at:.6}","kind":"approver.enrolled","passkey":{entry},"proof":{{"key":"{key}","signature":"{signature}"}},"v":1}}"#
    );
    let report = scene.verified_with(text).await;
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");
    assert!(report.problems[0].contains("this takes a passkey"), "{report}");
}

#[tokio::test]
async fn a_passkey_that_the_approver_did_not_ask_for_is_found_by_verification() {
    let enrolled = async |proof: fn(&Scene, &[u8; 32]) -> Proof| {
        let scene = Scene::new().await;
        let other = passkey(&authenticator(2));
        let means = Means::Passkey(other.digest());
        let challenge = Statement::Enrolment { approver: "ann", means: &means }.challenge();
        let Proof::Assertion { passkey, assertion } = proof(&scene, &challenge) else { panic!() };
        let (entry, assertion) = (other.entry().to_bytes(), assertion.entry().to_bytes());
        let (entry, assertion) = (String::from_utf8(entry).unwrap(), String::from_utf8(assertion).unwrap());
        let at = scene.ledger.inner.clock.now();
        let text = format!(
            r#"{{"approver":"ann","at":"{at:.6}","kind":"approver.enrolled","passkey":{entry},"proof":{{"assertion":{assertion},"passkey":"{passkey}"}},"v":1}}"#
        );
        scene.verified_with(text).await
    };
    let report = enrolled(|scene, challenge| signed(&scene.authenticator, &scene.passkey, challenge)).await;
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
    let report = enrolled(|scene, _| signed(&scene.authenticator, &scene.passkey, &[0; 32])).await;
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");
    assert!(report.problems[0].contains("the approver did not sign that they want this"), "{report}");
}

#[tokio::test]
async fn one_assertion_does_not_count_as_two_peoples() {
    let scene = Scene::new().await;
    let ledger = &scene.ledger;
    let owner = BTreeSet::from(["owner".to_owned()]);
    ledger.add_approver("bob", owner, BTreeSet::new(), Some("ann".to_owned())).await.unwrap();
    // ann's key, which anybody can read in the log, under an id of bob's own: he has not shown that it is his
    let hers = passkey(&Authenticator { id: vec![9; 32], ..scene.authenticator.clone() });
    assert!(hers.is_same_key(&scene.passkey) && hers.id() != scene.passkey.id());
    let refused = ledger.enrol_approver("bob", Credential::Passkey(Arc::clone(&hers)), None).await;
    assert_eq!(refused, Err(NotChanged::Rejected(Rejected::PasskeyKnown)));
    let (entry, at) = (String::from_utf8(hers.entry().to_bytes()).unwrap(), ledger.inner.clock.now());
    let text = format!(r#"{{"approver":"bob","at":"{at:.6}","kind":"approver.enrolled","passkey":{entry},"v":1}}"#);
    let report = scene.verified_with(text).await;
    assert_eq!(report.verdict, Verdict::Tampered, "{report}");
    assert!(report.problems[0].contains("that passkey is enrolled already"), "{report}");
}

#[tokio::test]
async fn what_an_authenticator_signed_once_is_counted_once() {
    let scene = Scene::new().await;
    let signed = assertion(scene.authenticator.sign(&scene.hold.digest.0));
    let (id, digest, at) = (scene.hold.id.clone(), scene.hold.digest, scene.ledger.inner.clock.now());
    let mut book = scene.ledger.holds(Book::clone);
    let other = Credential::Passkey(passkey(&authenticator(2)));
    let (roles, by) = (BTreeSet::from(["owner".to_owned()]), Some("ann".to_owned()));
    let bob = || "bob".to_owned();
    let added = Change::ApproverAdded { name: bob(), roles, also: BTreeSet::new(), by, at };
    book.apply(&added, 90).unwrap();
    let enrolled = Change::ApproverEnrolled { name: bob(), credential: other.clone(), by: None, at };
    book.apply(&enrolled, 91).unwrap();
    let vote = |approver: &str, means: Means, mark: Digest| Change::Approved {
        hold: id.clone(),
        digest,
        approver: approver.to_owned(),
        means,
        mark: Some(mark),
        at,
    };
    book.apply(&vote("ann", Means::Passkey(scene.passkey.digest()), signed.mark()), 92).unwrap();
    let again = book.apply(&vote("bob", other.means(), signed.mark()), 93);
    assert_eq!(again, Err(Rejected::OtherKey));
    book.apply(&vote("bob", other.means(), Digest([5; 32])), 93).unwrap();
    scene.ledger.close().await;
}
