//! Holds in the ledger: durable, countersigned by keys, spent once, whatever comes first or goes down.

use std::{collections::BTreeSet, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jiff::SignedDuration;

use super::*;
use crate::{
    hold::{Change, Credential, Drift, HoldId, Phase, Proof, Rejected},
    json::Digest,
    ledger::{
        memory::Memory,
        verify::{Verdict, verify},
    },
};

const HELD: &str = r#"@id("owned") @hold("owner") @expires("10m") permit (principal, action, resource);"#;

/// An approver with a key of their own.
struct Person {
    name: &'static str,
    key: Ed25519KeyPair,
}

impl Person {
    async fn enrolled(ledger: &Ledger, name: &'static str, role: &str, by: Option<&str>) -> Self {
        let seed = Digest::of(name.as_bytes()).0;
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let (roles, also) = (BTreeSet::from([role.to_owned()]), BTreeSet::new());
        ledger.add_approver(name, roles, also, by.map(str::to_owned)).await.unwrap();
        ledger.enrol_approver(name, Credential::Key(Self::public(&key)), None).await.unwrap();
        Self { name, key }
    }

    fn public(key: &Ed25519KeyPair) -> [u8; 32] {
        key.public_key().as_ref().try_into().unwrap()
    }

    async fn countersign(&self, ledger: &Ledger, id: &HoldId, digest: &Digest) -> Result<Phase, NotChanged> {
        let (statement, at) = ledger.statement(id, digest, self.name);
        let signature = self.key.sign(&statement).as_ref().to_vec();
        let proof = Proof::Signature { key: Self::public(&self.key), signature };
        ledger.countersign(id, digest, self.name, at, &proof).await
    }
}

impl House {
    /// Parks a call as the pipeline does.
    async fn park(&self, ledger: &Ledger, what: &str) -> Result<Parked, Refused> {
        let call = match ledger.attach(self.validated(ledger, "bank__pay", what), self.grants.digest()) {
            Ok(call) => call,
            Err(met) => {
                return match *met {
                    Met::Parked(parked) => Ok(parked),
                    Met::Refused((refused, ..)) => Err(refused),
                };
            }
        };
        match self.grants.decide(call, &self.sessions) {
            Decision::Hold(held) => ledger.hold(held).await.map_err(|stopped| stopped.0),
            other => panic!("{other:?}"),
        }
    }

    /// Spends a hold as the pipeline does: `None` when it was too late.
    async fn spend(&self, ledger: &Ledger, id: &HoldId, what: &str) -> Option<Recorded> {
        let warrant = ledger.warrant(id)?;
        let call = self.validated(ledger, "bank__pay", what);
        match self.grants.decide_countersigned(call, &self.sessions, &warrant) {
            Decision::Permit(permitted) => ledger.intend(permitted).await.ok(),
            other => panic!("{other:?}"),
        }
    }
}

fn kinds(ledger: &Ledger) -> Vec<String> {
    let entries = ledger.entries(0, 10_000).unwrap();
    entries.iter().map(|entry| entry::member(&entry.text, "kind").unwrap().to_owned()).collect()
}

fn word(ledger: &Ledger, id: &HoldId) -> &'static str {
    ledger.holds(|book| book.get(id).unwrap().phase.word())
}

#[tokio::test]
async fn a_hold_is_spent_together_with_its_intent_and_the_ledger_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::granting(HELD);
    let options = Options { keep_payloads: false, ..options() };
    let ledger = Ledger::open(folder.path(), options, clock()).unwrap().0;
    let ann = Person::enrolled(&ledger, "ann", "owner", None).await;
    let parked = house.park(&ledger, "rent").await.unwrap();
    let hold = Arc::clone(parked.hold());
    let entry = ledger.entries(hold.seq, 1).unwrap().remove(0);
    assert_eq!((Digest::of(&entry.text), entry::flaw(&entry.text)), (hold.digest, None));
    assert!(!String::from_utf8_lossy(&entry.text).contains("rent"), "arguments are kept apart");
    assert_eq!(ledger.held_arguments(&hold).unwrap().unwrap(), r#"{"what":"rent"}"#, "kept, whatever is configured");
    assert_eq!(house.park(&ledger, "rent").await.unwrap().hold().id, hold.id, "the identical call attaches");
    assert!(house.spend(&ledger, &hold.id, "rent").await.is_none());

    let wrong = ann.countersign(&ledger, &hold.id, &Digest([0; 32])).await;
    assert_eq!(wrong, Err(NotChanged::Rejected(Rejected::OtherDigest)));
    let (statement, at) = ledger.statement(&hold.id, &hold.digest, "ann");
    let forged = Ed25519KeyPair::from_seed_unchecked(&[9; 32]).unwrap().sign(&statement);
    let forged = Proof::Signature { key: Person::public(&ann.key), signature: forged.as_ref().to_vec() };
    let forged = ledger.countersign(&hold.id, &hold.digest, "ann", at, &forged).await;
    assert_eq!(forged, Err(NotChanged::Rejected(Rejected::OtherKey)));
    assert_eq!(ann.countersign(&ledger, &hold.id, &hold.digest).await, Ok(Phase::Approved));

    let other = house.spend(&ledger, &hold.id, "lunch").await;
    assert!(other.is_none(), "another call cannot spend it");
    let recorded = house.spend(&ledger, &hold.id, "rent").await.unwrap();
    assert!(house.spend(&ledger, &hold.id, "rent").await.is_none());
    ledger.write_outcome(&recorded, &answer(r#"{"content":[]}"#), 42, &[]).await.unwrap();
    let told = [
        "approver.added",
        "approver.enrolled",
        "call.held",
        "hold.approved",
        "hold.spent",
        "call.intended",
        "call.settled",
    ];
    assert_eq!(kinds(&ledger), told);
    let record = ledger.holds(|book| book.get(&hold.id).cloned()).unwrap();
    let reply = ledger.collect(&record, CallId::new(clock().now()).unwrap(), Operation::CallTool).unwrap().unwrap();
    assert!(matches!(reply.body(), Body::Result { text, .. } if text == r#"{"content":[]}"#), "{reply:?}");
    ledger.close().await;
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
}

#[tokio::test]
async fn a_result_is_collected_for_ten_minutes_and_then_the_same_call_is_another_act() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::granting(HELD);
    let clock = clock();
    let ledger = Ledger::open(folder.path(), options(), clock.clone()).unwrap().0;
    let ann = Person::enrolled(&ledger, "ann", "owner", None).await;
    let first = Arc::clone(house.park(&ledger, "rent").await.unwrap().hold());
    ann.countersign(&ledger, &first.id, &first.digest).await.unwrap();
    let recorded = house.spend(&ledger, &first.id, "rent").await.unwrap();
    ledger.write_outcome(&recorded, &answer(r#"{"content":[]}"#), 42, &[]).await.unwrap();
    clock.advance(SignedDuration::from_secs(599));
    assert_eq!(house.park(&ledger, "rent").await.unwrap().hold().id, first.id);
    clock.advance(SignedDuration::from_secs(1));
    let second = Arc::clone(house.park(&ledger, "rent").await.unwrap().hold());
    assert_ne!(second.id, first.id);
    // a call that was never sent is no act: the next one asks anew at once
    ann.countersign(&ledger, &second.id, &second.digest).await.unwrap();
    let recorded = house.spend(&ledger, &second.id, "rent").await.unwrap();
    let not_sent = Outcome::NotSent { why: "down".to_owned(), retry_after_ms: 5, busy: false };
    ledger.write_outcome(&recorded, &not_sent, 0, &[]).await.unwrap();
    assert_ne!(house.park(&ledger, "rent").await.unwrap().hold().id, second.id);
}

#[tokio::test]
async fn a_tool_server_that_asks_for_more_in_a_countersigned_call_is_not_answered() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::granting(HELD);
    let ledger = open(folder.path());
    let ann = Person::enrolled(&ledger, "ann", "owner", None).await;
    let hold = Arc::clone(house.park(&ledger, "rent").await.unwrap().hold());
    ann.countersign(&ledger, &hold.id, &hold.digest).await.unwrap();
    let recorded = house.spend(&ledger, &hold.id, "rent").await.unwrap();
    let asks = answer(r#"{"resultType":"input_required","inputRequests":{}}"#);
    ledger.write_outcome(&recorded, &asks, 1, &[]).await.unwrap();
    let reply = Reply::settled(recorded, asks, Vec::new());
    assert!(matches!(reply.body(), Body::Unknown { why: "input_required" }), "{reply:?}");
    let record = ledger.holds(|book| book.get(&hold.id).cloned()).unwrap();
    let again = ledger.collect(&record, CallId::new(clock().now()).unwrap(), Operation::CallTool).unwrap().unwrap();
    assert!(matches!(again.body(), Body::Unknown { why: "input_required" }), "{again:?}");
}

#[tokio::test]
async fn kept_arguments_are_believed_only_as_far_as_the_entry_commits_to_them() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::granting(HELD);
    let what = "x".repeat(100_000);
    let ledger = open(folder.path());
    let hold = Arc::clone(house.park(&ledger, &what).await.unwrap().hold());
    drop(ledger);
    let ledger = open(folder.path());
    assert_eq!(house.park(&ledger, &what).await.unwrap().hold().id, hold.id, "long ones survive a restart");
    assert_eq!(ledger.held_arguments(&hold).unwrap().unwrap().len(), what.len() + 11);
    let shelf = std::fs::read_dir(folder.path().join("payloads")).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::read_dir(shelf).unwrap().next().unwrap().unwrap().path();
    let other = zstd::bulk::compress(br#"{"what":"harmless"}"#, 1).unwrap();
    std::fs::write(file, other).unwrap();
    assert_eq!(ledger.held_arguments(&hold).unwrap(), None, "nobody is shown what was not held");
    drop(ledger);
    let ledger = open(folder.path());
    let kept = |ledger: &Ledger| ledger.holds(|book| book.get(&hold.id).unwrap().hold.kept);
    assert!(!kept(&ledger), "nor is it run after a restart");
    assert_ne!(house.park(&ledger, "harmless").await.unwrap().hold().id, hold.id);
}

#[tokio::test]
async fn holds_and_approvers_survive_and_what_ran_out_meanwhile_never_runs() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::granting(HELD);
    let clock = clock();
    let open = || Ledger::open(folder.path(), options(), clock.clone()).unwrap().0;
    let ledger = open();
    let ann = Person::enrolled(&ledger, "ann", "owner", None).await;
    let mut holds = Vec::new();
    for what in ["pending", "approved", "spent", "denied"] {
        holds.push(Arc::clone(house.park(&ledger, what).await.unwrap().hold()));
    }
    for hold in &holds[1..3] {
        ann.countersign(&ledger, &hold.id, &hold.digest).await.unwrap();
    }
    let _orphan = house.spend(&ledger, &holds[2].id, "spent").await.unwrap();
    ledger.deny(&holds[3].id, &holds[3].digest, "ann", "not today").await.unwrap();
    drop(ledger);

    let ledger = open();
    let words: Vec<_> = holds.iter().map(|hold| word(&ledger, &hold.id)).collect();
    assert_eq!(words, ["pending", "approved", "spent", "denied"]);
    let record = ledger.holds(|book| book.get(&holds[2].id).cloned()).unwrap();
    assert!(
        matches!(&record.phase, Phase::Spent { outcome: Some((_, word)), .. } if word == "unknown"),
        "an intent that nobody settled is unknown: {record:?}"
    );
    assert!(house.spend(&ledger, &holds[2].id, "spent").await.is_none(), "and never sent again");
    assert_eq!(*ledger.holds(|book| book.get(&holds[0].id).cloned()).unwrap().hold, *holds[0]);
    let sticky = house.park(&ledger, "denied").await.map(|parked| parked.hold().id.clone());
    assert!(matches!(sticky, Err(Refused::DeniedSticky { .. })), "{sticky:?}");
    drop(ledger);

    clock.advance(SignedDuration::from_mins(25));
    let ledger = open();
    for hold in &holds[..2] {
        assert!(ledger.warrant(&hold.id).is_none());
        let late = ann.countersign(&ledger, &hold.id, &hold.digest).await;
        assert!(matches!(late, Err(NotChanged::Rejected(Rejected::TooLate | Rejected::Twice))), "{late:?}");
        ledger.expire(&hold.id).await.unwrap();
    }
    clock.advance(SignedDuration::from_hours(-1));
    assert!(house.spend(&ledger, &holds[1].id, "approved").await.is_none(), "a clock that goes back revives nothing");
    assert_eq!(house.park(&ledger, "denied").await.unwrap().hold().demands.len(), 1, "a denial ends with its time");
    ledger.close().await;
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
}

#[tokio::test]
async fn a_hold_is_void_with_a_reason_when_the_grants_change_and_the_call_asks_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (house, changed) = (House::granting(HELD), House::granting(&HELD.replace("owned", "owned2")));
    let ledger = open(folder.path());
    let ann = Person::enrolled(&ledger, "ann", "owner", None).await;
    let old = Arc::clone(house.park(&ledger, "rent").await.unwrap().hold());
    ann.countersign(&ledger, &old.id, &old.digest).await.unwrap();
    // grants that were replaced between the warrant and the intent
    let warrant = ledger.warrant(&old.id).unwrap();
    let call = changed.validated(&ledger, "bank__pay", "rent");
    let Decision::Hold(_) = changed.grants.decide_countersigned(call, &changed.sessions, &warrant) else { panic!() };
    let new = Arc::clone(changed.park(&ledger, "rent").await.unwrap().hold());
    assert_ne!(old.id, new.id);
    let phase = ledger.holds(|book| book.get(&old.id).unwrap().phase.clone());
    assert_eq!(phase, Phase::Void(Drift::PolicyChanged));
    assert!(house.spend(&ledger, &old.id, "rent").await.is_none());
}

#[tokio::test]
async fn verification_finds_countersignatures_that_are_none_and_runs_without_them() {
    let write = async |changes: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let house = House::granting(HELD);
        let ledger = open(folder.path());
        let ann = Person::enrolled(&ledger, "ann", "owner", None).await;
        let hold = Arc::clone(house.park(&ledger, "rent").await.unwrap().hold());
        let (statement, at) = ledger.statement(&hold.id, &hold.digest, "ann");
        let signature = BASE64.encode(ann.key.sign(&statement));
        let other = BASE64.encode(ann.key.sign(b"something else"));
        let public = BASE64.encode(Person::public(&ann.key));
        for change in changes {
            // straight into the log, past every rule: as one who holds the log's key could
            let approved = |signature: &str| {
                format!(
                    r#"{{"approver":"ann","at":"{at:.6}","digest":"{}","hold":"{}","key":"{public}","kind":"hold.approved","signature":"{signature}","v":1}}"#,
                    hold.digest, hold.id
                )
            };
            let text = match *change {
                "signed" => approved(&signature),
                "unsigned" => approved(&other),
                "spent" => format!(
                    r#"{{"at":"{at:.6}","call":"{}","hold":"{}","kind":"hold.spent","v":1}}"#,
                    hold.call, hold.id
                ),
                _ => format!(r#"{{"at":"{at:.6}","hold":"hold_{:026}","kind":"hold.expired","v":1}}"#, 7),
            };
            ledger.inner.committer.write(Item::new(text.into_bytes(), Effect::None)).await.unwrap();
        }
        ledger.close().await;
        drop(ledger);
        verify(folder.path(), None, None)
    };
    assert_eq!(write(&["signed"]).await.verdict, Verdict::Holds);
    for (changes, told) in [
        (&["unsigned"][..], "the countersignature is not one"),
        (&["spent"], "lacks a countersignature"),
        (&["signed", "signed"], "the same person cannot countersign it twice"),
        (&["signed", "spent", "signed"], "it is not the intent of the hold"),
        (&["unknown hold"], "there is no such hold"),
    ] {
        let report = write(changes).await;
        assert_eq!(report.verdict, Verdict::Tampered, "{changes:?}: {report}");
        assert!(report.problems.iter().any(|problem| problem.contains(told)), "{changes:?}: {report}");
    }
}

impl House {
    /// The same for another principal.
    fn of(self, who: Principal) -> Self {
        Self { who: Arc::new(who), ..self }
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// Everything that a credential can say.
fn delegated() -> Principal {
    Principal {
        user: Some("ana".to_owned()),
        task: Some("t1".to_owned()),
        workload: Some("spiffe://td/clerk".to_owned()),
        chain: texts(&["root", "clerk"]),
        teams: texts(&["sales", "ops", "ops"]),
        scopes: texts(&["pay", "look"]),
        tools: Some(texts(&["bank__pay"])),
        assurance: Assurance::Bound,
        expires: "2026-11-21T04:00:00Z".parse().unwrap(),
        ..Principal::clone(&House::new().who)
    }
}

#[tokio::test]
async fn a_hold_binds_what_the_credential_says_and_its_intent_names_the_chain() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::granting(HELD).of(delegated());
    let ledger = open(folder.path());
    let ann = Person::enrolled(&ledger, "ann", "owner", None).await;
    let root = Person::enrolled(&ledger, "root", "owner", Some("ann")).await;
    let hold = Arc::clone(house.park(&ledger, "rent").await.unwrap().hold());
    let entry = ledger.entries(hold.seq, 1).unwrap().remove(0);
    let text = String::from_utf8_lossy(&entry.text).into_owned();
    for part in [
        r#""assurance":"bound","at":"#,
        r#""chain":["root","clerk"],"contract":"#,
        r#""credential_expires":"2026-11-21T04:00:00.000000Z","#,
        r#""scopes":["look","pay"],"task":"t1","teams":["ops","sales"],"tool":"#,
        r#""tools":["bank__pay"],"upstream":"#,
        r#""user":"ana","v":1,"workload":"spiffe://td/clerk"}"#,
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(house.park(&ledger, "rent").await.unwrap().hold().id, hold.id, "the identical call attaches");
    let reordered = Principal { scopes: texts(&["look", "pay", "pay"]), ..delegated() };
    let reordered = House::granting(HELD).of(reordered).park(&ledger, "rent").await.unwrap();
    assert_eq!(reordered.hold().id, hold.id, "the same in another order is the same");
    for other in [
        Principal { chain: Vec::new(), ..delegated() },
        Principal { scopes: texts(&["pay"]), ..delegated() },
        Principal { tools: None, ..delegated() },
        Principal { assurance: Assurance::Bearer, ..delegated() },
        Principal { workload: None, ..delegated() },
        Principal { teams: Vec::new(), ..delegated() },
    ] {
        let other = House::granting(HELD).of(other);
        assert_ne!(other.park(&ledger, "rent").await.unwrap().hold().id, hold.id, "{:?}", other.who);
    }
    let through = root.countersign(&ledger, &hold.id, &hold.digest).await;
    assert_eq!(through, Err(NotChanged::Rejected(Rejected::Requester)));
    ann.countersign(&ledger, &hold.id, &hold.digest).await.unwrap();
    let narrower = House::granting(HELD).of(Principal { scopes: Vec::new(), ..delegated() });
    assert!(narrower.spend(&ledger, &hold.id, "rent").await.is_none(), "nobody else spends it");
    let recorded = house.spend(&ledger, &hold.id, "rent").await.unwrap();
    ledger.write_outcome(&recorded, &answer(r#"{"content":[]}"#), 42, &[]).await.unwrap();
    let kind_of = |entry: &&Entry| entry::member(&entry.text, "kind") == Some("call.intended");
    let entries = ledger.entries(0, 100).unwrap();
    let intent = String::from_utf8_lossy(&entries.iter().find(kind_of).unwrap().text).into_owned();
    assert!(intent.contains(r#""chain":["root","clerk"],"contract""#), "{intent}");
    assert!(intent.contains(r#""v":1,"workload":"spiffe://td/clerk"}"#), "{intent}");
    let of = |agent: &str| {
        let filter = Filter { agent: Some(agent.to_owned()), kind: Some("call.".to_owned()), ..Filter::default() };
        ledger.select(&filter, 0, 100).unwrap().0.len()
    };
    // what went through somebody's hands is found by their name, its outcome too
    assert_eq!((of("root"), of("clerk"), of("roo")), (8, 9, 0));
    ledger.close().await;
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
    let again = open(folder.path());
    let read = again.holds(|book| book.get(&hold.id).unwrap().hold.clone());
    assert_eq!((&read.claims, read.credential_expires), (&hold.claims, hold.credential_expires), "read back whole");
    assert!(Ledger::is_bound_as(&read, &delegated()));
}

#[tokio::test]
async fn a_denied_act_is_not_asked_again_with_a_narrower_credential_or_by_another_hand() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let _ann = Person::enrolled(&ledger, "ann", "owner", None).await;
    let house = House::granting(HELD).of(delegated());
    let hold = Arc::clone(house.park(&ledger, "rent").await.unwrap().hold());
    ledger.deny(&hold.id, &hold.digest, "ann", "not this month").await.unwrap();
    for other in [
        delegated(),
        Principal { chain: texts(&["another"]), ..delegated() },
        Principal { scopes: texts(&["pay"]), ..delegated() },
        Principal { tools: None, ..delegated() },
        Principal { assurance: Assurance::Bearer, ..delegated() },
    ] {
        let other = House::granting(HELD).of(other);
        let refused = other.park(&ledger, "rent").await.err().map(|refused| refused.code());
        assert_eq!(refused, Some("denied_sticky"), "{:?}", other.who);
    }
    house.park(&ledger, "another rent").await.unwrap();
}

#[tokio::test]
async fn an_entry_of_a_credential_that_says_no_more_has_no_more_members() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let hold = Arc::clone(House::granting(HELD).park(&ledger, "rent").await.unwrap().hold());
    let entry = ledger.entries(hold.seq, 1).unwrap().remove(0);
    let text = String::from_utf8_lossy(&entry.text).into_owned();
    for name in ["assurance", "chain", "scopes", "teams", "tools", "workload", "credential_expires"] {
        assert!(!text.contains(&format!("\"{name}\":")), "{name} in {text}");
    }
    assert_eq!(hold.claims, crate::hold::Claims::default());
}

#[tokio::test]
async fn what_cannot_be_written_whole_is_not_held_to() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let many: Vec<String> = (0..100).map(|number| format!("team-{number:03}")).collect();
    let house = House::granting(HELD).of(Principal { teams: many.clone(), ..delegated() });
    assert_eq!(house.park(&ledger, "rent").await.unwrap().hold().claims.teams, many);
    let teams: Vec<String> = (0..600).map(|number| format!("{number:0200}")).collect();
    for who in [
        Principal { teams, ..delegated() },
        Principal { workload: Some("x".repeat(2_000)), ..delegated() },
        Principal { user: Some("x".repeat(2_000)), ..delegated() },
    ] {
        let house = House::granting(HELD).of(who);
        let refused = house.park(&ledger, "rent").await.unwrap_err();
        assert_eq!(refused.code(), "unavailable");
    }
}

/// 64 retries, two approvers and one who withdraws, at once, a thousand times.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_comes_first_one_runs_at_most_and_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let house = Arc::new(House::granting(HELD));
    let disk = Memory::default();
    let ledger = Ledger::start(folder.path(), Arc::new(disk.clone()), None, options(), clock()).unwrap().0;
    let ann = Arc::new(Person::enrolled(&ledger, "ann", "owner", None).await);
    let bob = Arc::new(Person::enrolled(&ledger, "bob", "owner", Some("ann")).await);
    let (mut ran, mut withdrawn) = (0, 0);
    for seed in 0..1_000_u64 {
        let what = format!("seed {seed}");
        let dice = Digest::of(&seed.to_be_bytes()).0;
        // votes are bounded by the hour
        ledger.inner.clock.advance(SignedDuration::from_mins(2));
        let hold = Arc::clone(house.park(&ledger, &what).await.unwrap().hold());
        let mut tasks = tokio::task::JoinSet::new();
        for retry in 0..64_usize {
            let (house, ledger, what, pause) = (Arc::clone(&house), ledger.clone(), what.clone(), dice[retry % 32]);
            tasks.spawn(async move {
                for _ in 0..pause % 7 {
                    tokio::task::yield_now().await;
                }
                let Ok(parked) = house.park(&ledger, &what).await else { return 0 };
                let mut phase = ledger.watch_hold(&parked.hold().id).unwrap();
                loop {
                    let now = phase.borrow_and_update().clone();
                    match now {
                        Phase::Pending => {}
                        Phase::Approved => {
                            if let Some(recorded) = house.spend(&ledger, &parked.hold().id, &what).await {
                                ledger.write_outcome(&recorded, &answer(r#"{"content":[]}"#), 1, &[]).await.unwrap();
                                return 1;
                            }
                        }
                        _ => return 0,
                    }
                    // a hold that a late retry opened anew has nobody to decide on it
                    if tokio::time::timeout(Duration::from_millis(200), phase.changed()).await.is_err() {
                        let _ended = ledger.cancel(&parked.hold().id, "agent").await;
                    }
                }
            });
        }
        for (place, person) in [&ann, &bob].into_iter().enumerate() {
            let (person, ledger, hold, pause) = (Arc::clone(person), ledger.clone(), Arc::clone(&hold), dice[place]);
            tasks.spawn(async move {
                for _ in 0..pause % 64 {
                    tokio::task::yield_now().await;
                }
                let _too_late = person.countersign(&ledger, &hold.id, &hold.digest).await;
                0
            });
        }
        let (withdrawing, id, pause) = (ledger.clone(), hold.id.clone(), dice[2]);
        tasks.spawn(async move {
            for _ in 0..pause {
                tokio::task::yield_now().await;
            }
            let _too_late = withdrawing.cancel(&id, "agent").await;
            0
        });
        let mut runs = 0;
        while let Some(done) = tasks.join_next().await {
            runs += done.unwrap();
        }
        let record = ledger.holds(|book| book.get(&hold.id).cloned()).unwrap();
        match &record.phase {
            Phase::Spent { outcome: Some((_, word)), .. } => {
                assert_eq!((runs, word.as_str()), (1, "ok"), "seed {seed}");
                ran += 1;
            }
            Phase::Cancelled { .. } => {
                assert_eq!(runs, 0, "seed {seed}");
                withdrawn += 1;
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(ran > 50 && withdrawn > 50, "{ran} ran, {withdrawn} were withdrawn: the race was none");
    let intents = {
        let mut intents = 0;
        let mut from = 0;
        while from < ledger.size() {
            let entries = ledger.entries(from, 1_000).unwrap();
            intents +=
                entries.iter().filter(|entry| entry::member(&entry.text, "kind") == Some("call.intended")).count();
            from += entries.len() as u64;
        }
        intents
    };
    assert_eq!(intents, ran);
    let replayed = super::super::holds::recover(&disk, folder.path(), &Views::default(), 0, ledger.size()).unwrap();
    ledger.holds(|book| {
        assert_eq!(replayed.counts(), book.counts());
        for record in book.iter() {
            assert_eq!(replayed.get(&record.hold.id), Some(record));
        }
    });
}

#[tokio::test]
async fn holds_of_a_snapshot_are_those_of_the_whole_log() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::granting(HELD);
    let disk = Memory::default();
    let start = || Ledger::start(folder.path(), Arc::new(disk.clone()), None, options(), clock()).unwrap().0;
    let ledger = start();
    let ann = Person::enrolled(&ledger, "ann", "owner", None).await;
    for number in 0..10 {
        let hold = Arc::clone(house.park(&ledger, &format!("{number}")).await.unwrap().hold());
        if number % 2 == 0 {
            ann.countersign(&ledger, &hold.id, &hold.digest).await.unwrap();
        }
        if number % 4 == 0 {
            let recorded = house.spend(&ledger, &hold.id, &format!("{number}")).await.unwrap();
            ledger.write_outcome(&recorded, &answer(r#"{"content":[]}"#), 1, &[]).await.unwrap();
        }
    }
    // closing leaves a snapshot
    ledger.close().await;
    drop(ledger);
    let ledger = start();
    let whole = super::super::holds::recover(&disk, folder.path(), &Views::default(), 0, ledger.size()).unwrap();
    ledger.holds(|book| {
        assert_eq!(book.iter().count(), 10);
        for record in book.iter() {
            assert_eq!(whole.get(&record.hold.id), Some(record));
        }
        assert_eq!(book.roster(), whole.roster());
    });
    let unknown =
        ledger.make(Change::Expired { hold: HoldId::read(&format!("hold_{:026}", 7)).unwrap(), at: clock().now() });
    assert_eq!(unknown.await, Err(NotChanged::Rejected(Rejected::UnknownHold)));
}
