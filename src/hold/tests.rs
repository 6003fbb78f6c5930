//! The state machine against a model of it, and what no change may do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    clock::Timestamp,
    passkey::{Passkey, authenticator::Authenticator},
};

const START: i64 = 1_790_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn demand(role: &str, approvals: u8, expires: u64) -> Demand {
    Demand {
        policy: format!("needs-{role}").as_str().into(),
        role: role.to_owned(),
        approvals,
        assurance: Assurance::Any,
        expires,
        reason: None,
    }
}

fn hold(number: u8, demands: Vec<Demand>, created: Timestamp) -> Arc<Hold> {
    let (approve_by, execute_by) = Hold::deadlines(&demands, created);
    Arc::new(Hold {
        id: HoldId::read(&format!("hold_{number:026}")).unwrap(),
        digest: Digest([number; 32]),
        seq: u64::from(number),
        call: format!("call_{number}"),
        agent: "clerk".to_owned(),
        issuer: "countersign".to_owned(),
        user: Some("Ana".to_owned()),
        task: None,
        claims: Claims::default(),
        credential: "tok_1".to_owned(),
        credential_expires: None,
        door: "http".to_owned(),
        method: "tools/call".to_owned(),
        tool: "bank__pay".to_owned(),
        upstream: "bank".to_owned(),
        impact: vec!["spend".to_owned()],
        contract: Digest([1; 32]),
        grants: Digest([2; 32]),
        policies: vec!["needs".into()],
        demands,
        arguments: Digest([number; 32]),
        kept: true,
        created,
        approve_by,
        execute_by,
        runs_alone: false,
        idempotent: false,
    })
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A passkey of that number, of an authenticator that nobody asks to sign.
fn passkey(number: u8) -> Credential {
    let authenticator = Authenticator::new(number, "localhost", "http://localhost:7401");
    let made = authenticator.make(&[0; 32]);
    let made = Passkey::made(&made.client_data, &made.attestation, &[0; 32], "localhost", "key").unwrap();
    Credential::Passkey(Arc::new(made))
}

/// A book with approvers as `(name, roles, other names)`, each enrolled with a key of its own.
fn book(people: &[(&str, &[&str], &[&str])]) -> Book {
    let mut book = Book::default();
    for (number, (name, roles, also)) in people.iter().enumerate() {
        // the first needs nobody's word, and has every role while the others come
        let (by, name) = ((number > 0).then(|| "root".to_owned()), (*name).to_owned());
        if number == 0 {
            let all = set(&["owner", "oncall", "finance", "admin"]);
            let root =
                Change::ApproverAdded { name: "root".to_owned(), roles: all, also: set(&[]), by: None, at: at(0) };
            book.apply(&root, 0).unwrap();
            book.apply(&enrolled("root", [1; 32], at(0)), 0).unwrap();
        }
        let by = by.or(Some("root".to_owned()));
        let added = Change::ApproverAdded { name: name.clone(), roles: set(roles), also: set(also), by, at: at(0) };
        book.apply(&added, 0).unwrap();
        book.apply(&enrolled(&name, key(number), at(0)), 0).unwrap();
    }
    let gone = Change::ApproverRemoved { name: "root".to_owned(), by: Some("root".to_owned()), at: at(0) };
    book.apply(&gone, 0).unwrap();
    book
}

fn key(number: usize) -> [u8; 32] {
    [u8::try_from(number + 10).unwrap(); 32]
}

fn enrolled(name: &str, key: [u8; 32], at: Timestamp) -> Change {
    Change::ApproverEnrolled { name: name.to_owned(), credential: Credential::Key(key), by: None, at }
}

fn vote(hold: &Hold, approver: &str, number: usize, when: i64) -> Change {
    let (id, digest, approver) = (hold.id.clone(), hold.digest, approver.to_owned());
    Change::Approved { hold: id, digest, approver, means: Means::Key(key(number)), mark: None, at: at(when) }
}

fn spend(hold: &Hold, when: i64) -> Change {
    Change::Spent { hold: hold.id.clone(), call: "call_x".to_owned(), at: at(when) }
}

fn phase(book: &Book, hold: &Hold) -> &'static str {
    book.get(&hold.id).unwrap().phase.word()
}

#[test]
fn one_countersignature_of_the_role_is_spent_once() {
    let mut book = book(&[("ann", &["owner"], &[]), ("bob", &["oncall"], &[])]);
    let hold = hold(1, vec![demand("owner", 1, 900)], at(1));
    book.apply(&Change::Opened(Arc::clone(&hold)), 5).unwrap();
    assert_eq!(book.apply(&spend(&hold, 2), 6), Err(Rejected::NotApproved));
    assert_eq!(book.apply(&vote(&hold, "bob", 1, 2), 6), Err(Rejected::WrongRole));
    assert_eq!(book.apply(&vote(&hold, "eve", 1, 2), 6), Err(Rejected::UnknownApprover));
    assert_eq!(book.apply(&vote(&hold, "ann", 1, 2), 6), Err(Rejected::OtherKey));
    book.apply(&vote(&hold, "ann", 0, 2), 6).unwrap();
    assert_eq!(phase(&book, &hold), "approved");
    book.apply(&spend(&hold, 3), 7).unwrap();
    assert!(matches!(book.apply(&spend(&hold, 3), 9), Err(Rejected::Ended(Phase::Spent { intent: 8, .. }))));
    book.apply(&Change::Settled { intent: 8, outcome: "ok".to_owned() }, 9).unwrap();
    let Phase::Spent { outcome, .. } = &book.get(&hold.id).unwrap().phase else { panic!() };
    assert_eq!(outcome, &Some((9, "ok".to_owned())));
    assert_eq!(book.apply(&Change::Settled { intent: 8, outcome: "ok".to_owned() }, 10), Err(Rejected::UnknownHold));
}

#[test]
fn who_asks_and_the_user_it_asks_for_cannot_countersign_under_any_of_their_names() {
    let people: &[(&str, &[&str], &[&str])] = &[
        ("CLERK", &["owner"], &[]),
        ("ana", &["owner"], &[]),
        ("boss", &["owner"], &["aNA"]),
        ("eve", &["owner"], &[]),
    ];
    let mut book = book(people);
    let hold = hold(1, vec![demand("owner", 1, 900)], at(1));
    book.apply(&Change::Opened(Arc::clone(&hold)), 5).unwrap();
    for (number, (name, ..)) in people.iter().enumerate().take(3) {
        assert_eq!(book.apply(&vote(&hold, name, number, 2), 6), Err(Rejected::Requester), "{name}");
        assert_eq!(book.may_deny(&hold.id, &hold.digest, name, at(2)), Err(Rejected::Requester), "{name}");
    }
    book.apply(&vote(&hold, "eve", 3, 2), 6).unwrap();
    assert_eq!(phase(&book, &hold), "approved");
}

#[test]
fn whoever_a_call_came_through_cannot_countersign_it_under_any_of_their_names() {
    let people: &[(&str, &[&str], &[&str])] =
        &[("FIRST", &["owner"], &[]), ("bob", &["owner"], &["first/helper"]), ("eve", &["owner"], &["first/help"])];
    let mut book = book(people);
    let chain = vec!["first".to_owned(), "first/helper".to_owned()];
    let claims = Claims { chain, ..Claims::default() };
    let hold = Arc::new(Hold { claims, ..Hold::clone(&hold(1, vec![demand("owner", 1, 900)], at(1))) });
    book.apply(&Change::Opened(Arc::clone(&hold)), 5).unwrap();
    for (number, (name, ..)) in people.iter().enumerate().take(2) {
        assert_eq!(book.apply(&vote(&hold, name, number, 2), 6), Err(Rejected::Requester), "{name}");
        assert_eq!(book.may_deny(&hold.id, &hold.digest, name, at(2)), Err(Rejected::Requester), "{name}");
    }
    book.apply(&vote(&hold, "eve", 2, 2), 6).unwrap();
    assert_eq!(phase(&book, &hold), "approved");
}

#[test]
fn everything_that_a_credential_says_is_bound_and_what_says_nothing_more_is_bound_as_before() {
    let plain = hold(1, vec![demand("owner", 1, 900)], at(1));
    let before = format!(r#"["countersign","clerk","Ana",null,"tools/call","bank__pay","{}"]"#, Digest([1; 32]));
    assert_eq!(plain.binding(), Binding(Digest::of(before.as_bytes())));
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let different = [
        Claims { workload: Some("spiffe://td/a".to_owned()), ..Claims::default() },
        Claims { chain: texts(&["a", "b"]), ..Claims::default() },
        Claims { chain: texts(&["b", "a"]), ..Claims::default() },
        Claims { teams: texts(&["a"]), ..Claims::default() },
        Claims { scopes: texts(&["a"]), ..Claims::default() },
        Claims { scopes: texts(&["a", "b"]), ..Claims::default() },
        Claims { scopes: texts(&["a b"]), ..Claims::default() },
        Claims { tools: Some(texts(&["a"])), ..Claims::default() },
        Claims { tools: Some(Vec::new()), ..Claims::default() },
        Claims { assurance: Some("bound".to_owned()), ..Claims::default() },
    ];
    let mut seen = vec![plain.binding()];
    for claims in different {
        let binding = Hold { claims, ..Hold::clone(&plain) }.binding();
        assert!(!seen.contains(&binding));
        seen.push(binding);
    }
}

#[test]
fn a_demand_for_a_passkey_counts_no_other_countersignature() {
    let mut book = book(&[("ann", &["owner"], &[]), ("bob", &["owner"], &[]), ("eve", &["oncall"], &[])]);
    let sure = Demand { assurance: Assurance::Passkey, ..demand("owner", 1, 900) };
    let hold = hold(1, vec![sure.clone(), demand("oncall", 1, 900)], at(1));
    book.apply(&Change::Opened(Arc::clone(&hold)), 5).unwrap();
    assert_eq!(book.may_vote(&hold.id, &hold.digest, "ann", at(2)), Err(Rejected::AssuranceTooLow), "ann has none");
    let (ann, bob) = (passkey(1), passkey(2));
    let add = |name: &str, number, credential: &Credential| {
        let (by, credential) = (Some(Means::Key(key(number))), credential.clone());
        Change::ApproverEnrolled { name: name.to_owned(), credential, by, at: at(2) }
    };
    book.apply(&add("ann", 0, &ann), 6).unwrap();
    book.apply(&add("bob", 1, &bob), 7).unwrap();
    book.may_vote(&hold.id, &hold.digest, "ann", at(2)).unwrap();
    let vote = |name: &str, means: Means| Change::Approved {
        hold: hold.id.clone(),
        digest: hold.digest,
        approver: name.to_owned(),
        means,
        mark: None,
        at: at(3),
    };
    assert_eq!(book.apply(&vote("ann", Means::Key(key(0))), 8), Err(Rejected::AssuranceTooLow));
    assert_eq!(book.apply(&vote("ann", bob.means()), 8), Err(Rejected::OtherKey));
    book.apply(&vote("ann", ann.means()), 8).unwrap();
    assert_eq!(book.apply(&vote("ann", ann.means()), 9), Err(Rejected::Twice));
    assert_eq!(phase(&book, &hold), "pending");
    // a role that no policy wants it of is as it was
    book.apply(&vote("eve", Means::Key(key(2))), 9).unwrap();
    assert_eq!(phase(&book, &hold), "approved");
    let warrant = book.warrant(&hold.id, at(4)).unwrap();
    assert!(warrant.covers(std::slice::from_ref(&sure)) && warrant.covers(&[demand("owner", 1, 900)]));
    assert!(!warrant.covers(&[Demand { assurance: Assurance::Passkey, ..demand("oncall", 1, 900) }]));
    book.apply(&Change::ApproverRemoved { name: "ann".to_owned(), by: Some("bob".to_owned()), at: at(5) }, 10).unwrap();
    assert!(book.lost_quorum(&hold.id), "what ann countersigned with is nobody's now");
}

#[test]
fn more_to_be_known_by_takes_what_one_is_known_by() {
    let mut book = book(&[("ann", &["owner"], &[]), ("bob", &["owner"], &[])]);
    let enrol = |name: &str, credential: &Credential, by: Option<Means>| {
        let credential = credential.clone();
        Change::ApproverEnrolled { name: name.to_owned(), credential, by, at: at(2) }
    };
    let (first, second) = (passkey(1), passkey(2));
    assert_eq!(
        book.apply(&enrol("ann", &first, None), 6),
        Err(Rejected::NameTaken),
        "a code is for whom nothing is known of"
    );
    assert_eq!(book.apply(&enrol("ann", &first, Some(Means::Key(key(1)))), 6), Err(Rejected::OtherKey), "bob's key");
    assert_eq!(
        book.apply(&enrol("ann", &first, Some(first.means())), 6),
        Err(Rejected::OtherKey),
        "the new one itself"
    );
    assert_eq!(book.apply(&enrol("eve", &first, None), 6), Err(Rejected::UnknownApprover));
    book.apply(&enrol("ann", &first, Some(Means::Key(key(0)))), 6).unwrap();
    book.apply(&enrol("ann", &second, Some(first.means())), 7).unwrap();
    // an id is one person's, whatever key comes with it
    for (name, by) in [("ann", first.means()), ("bob", Means::Key(key(1)))] {
        for credential in [&first, &passkey(1)] {
            assert_eq!(
                book.apply(&enrol(name, credential, Some(by.clone())), 8),
                Err(Rejected::PasskeyKnown),
                "{name}"
            );
        }
    }
    for number in 3..=16 {
        book.apply(&enrol("ann", &passkey(number), Some(first.means())), 8).unwrap();
    }
    assert_eq!(book.apply(&enrol("ann", &passkey(17), Some(first.means())), 9), Err(Rejected::TooManyPasskeys));
    // who has a passkey adds by that, and nothing by what makes less sure
    for credential in [&passkey(3), &Credential::Key(key(9))] {
        let by_key = book.apply(&enrol("ann", credential, Some(Means::Key(key(0)))), 9);
        assert_eq!(by_key, Err(Rejected::AssuranceTooLow));
    }
    // a passphrase that is chosen anew takes the place of the one before
    book.apply(&enrol("ann", &Credential::Key(key(9)), Some(second.means())), 9).unwrap();
    assert_eq!(book.roster().get("ann").unwrap().key, Some(key(9)));
    // who is added again is known by nothing
    let by = Some("bob".to_owned());
    book.apply(&Change::ApproverRemoved { name: "ann".to_owned(), by: by.clone(), at: at(3) }, 10).unwrap();
    let again = Change::ApproverAdded { name: "ann".to_owned(), roles: set(&["owner"]), also: set(&[]), by, at: at(3) };
    book.apply(&again, 11).unwrap();
    assert!(!book.roster().get("ann").unwrap().is_enrolled());
    book.apply(&enrol("ann", &first, None), 12).unwrap();
    // and who is enrolled stays so when the roles change
    book.apply(&again, 13).unwrap();
    assert_eq!(book.roster().get("ann").unwrap().passkeys.len(), 1);
    assert_eq!(book.roster().passkey(&[1; 32]).unwrap().0.name, "ann");
}

#[test]
fn what_was_countersigned_stays_void_when_the_same_passkey_is_enrolled_anew() {
    let mut book = book(&[("ann", &["owner"], &[]), ("bob", &["owner"], &[])]);
    let first = passkey(1);
    let by = Some(Means::Key(key(0)));
    let enrol = |by| Change::ApproverEnrolled { name: "ann".to_owned(), credential: first.clone(), by, at: at(2) };
    book.apply(&enrol(by), 2).unwrap();
    let hold = hold(1, vec![demand("owner", 1, 900)], at(2));
    book.apply(&Change::Opened(Arc::clone(&hold)), 5).unwrap();
    let vote = |mark: u8| Change::Approved {
        hold: hold.id.clone(),
        digest: hold.digest,
        approver: "ann".to_owned(),
        means: first.means(),
        mark: Some(Digest([mark; 32])),
        at: at(3),
    };
    book.apply(&vote(1), 6).unwrap();
    let (name, by) = ("ann".to_owned(), Some("bob".to_owned()));
    book.apply(&Change::ApproverRemoved { name: name.clone(), by: by.clone(), at: at(4) }, 7).unwrap();
    let added = Change::ApproverAdded { name, roles: set(&["owner"]), also: set(&[]), by, at: at(4) };
    book.apply(&added, 8).unwrap();
    // it takes no more than what stands in the log
    book.apply(&enrol(None), 9).unwrap();
    assert!(book.lost_quorum(&hold.id));
    assert_eq!(book.apply(&spend(&hold, 5), 10), Err(Rejected::NotApproved));
    assert_eq!(book.progress(book.get(&hold.id).unwrap()), [("owner".to_owned(), 0, 1)]);
    assert_eq!(book.apply(&vote(1), 10), Err(Rejected::OtherKey), "nor is it said again");
    book.apply(&vote(2), 10).unwrap();
    book.apply(&spend(&hold, 5), 11).unwrap();
}

#[test]
fn who_countersigned_too_weakly_for_a_role_that_came_later_does_so_again() {
    let mut book = book(&[("ann", &["oncall"], &[]), ("bob", &["owner", "oncall"], &[])]);
    let sure = Demand { assurance: Assurance::Passkey, ..demand("owner", 1, 900) };
    let hold = hold(1, vec![sure, demand("oncall", 1, 900)], at(1));
    book.apply(&Change::Opened(Arc::clone(&hold)), 5).unwrap();
    book.apply(&vote(&hold, "ann", 0, 2), 6).unwrap();
    let (name, by) = ("ann".to_owned(), Some("bob".to_owned()));
    let added = Change::ApproverAdded { name, roles: set(&["owner", "oncall"]), also: set(&[]), by, at: at(2) };
    book.apply(&added, 7).unwrap();
    assert_eq!(book.may_vote(&hold.id, &hold.digest, "ann", at(3)), Err(Rejected::AssuranceTooLow), "no passkey yet");
    let (credential, by) = (passkey(1), Some(Means::Key(key(0))));
    let means = credential.means();
    book.apply(&Change::ApproverEnrolled { name: "ann".to_owned(), credential, by, at: at(3) }, 8).unwrap();
    assert_eq!(book.apply(&vote(&hold, "ann", 0, 3), 9), Err(Rejected::AssuranceTooLow), "the same again");
    let surer = Change::Approved {
        hold: hold.id.clone(),
        digest: hold.digest,
        approver: "ann".to_owned(),
        means,
        mark: None,
        at: at(3),
    };
    book.apply(&surer, 9).unwrap();
    assert_eq!(phase(&book, &hold), "approved");
    assert_eq!(book.apply(&surer, 10), Err(Rejected::Twice));
    let progress = book.progress(book.get(&hold.id).unwrap());
    assert_eq!(progress, [("owner".to_owned(), 1, 1), ("oncall".to_owned(), 1, 1)], "one person, counted once");
}

#[test]
fn several_people_means_different_people() {
    let mut book = book(&[
        ("ann", &["oncall"], &["ann@work"]),
        ("ann2", &["oncall"], &["ann@work"]),
        ("bob", &["oncall"], &[]),
        ("fin", &["finance"], &[]),
    ]);
    let hold = hold(1, vec![demand("oncall", 2, 900), demand("finance", 1, 900)], at(1));
    book.apply(&Change::Opened(Arc::clone(&hold)), 5).unwrap();
    book.apply(&vote(&hold, "ann", 0, 2), 6).unwrap();
    assert_eq!(book.apply(&vote(&hold, "ann", 0, 2), 7), Err(Rejected::Twice));
    assert_eq!(book.apply(&vote(&hold, "ann2", 1, 2), 7), Err(Rejected::Twice), "a second account of the same person");
    book.apply(&vote(&hold, "fin", 3, 2), 7).unwrap();
    assert_eq!(phase(&book, &hold), "pending");
    let progress = book.progress(book.get(&hold.id).unwrap());
    assert_eq!(progress, [("oncall".to_owned(), 1, 2), ("finance".to_owned(), 1, 1)]);
    book.apply(&vote(&hold, "bob", 2, 2), 8).unwrap();
    assert_eq!(phase(&book, &hold), "approved");
}

#[test]
fn a_removed_approver_counts_no_more_and_neither_does_their_successor_of_the_same_name() {
    let mut book = book(&[("ann", &["owner"], &[]), ("bob", &["owner"], &[])]);
    let hold = hold(1, vec![demand("owner", 1, 900)], at(1));
    book.apply(&Change::Opened(Arc::clone(&hold)), 5).unwrap();
    book.apply(&vote(&hold, "ann", 0, 2), 6).unwrap();
    let (name, by) = ("ann".to_owned(), Some("bob".to_owned()));
    book.apply(&Change::ApproverRemoved { name: name.clone(), by: by.clone(), at: at(3) }, 7).unwrap();
    assert!(book.lost_quorum(&hold.id));
    assert_eq!(book.apply(&spend(&hold, 4), 8), Err(Rejected::NotApproved));
    let added = Change::ApproverAdded { name: name.clone(), roles: set(&["owner"]), also: set(&[]), by, at: at(4) };
    book.apply(&added, 8).unwrap();
    book.apply(&enrolled(&name, key(7), at(5)), 9).unwrap();
    assert_eq!(book.apply(&spend(&hold, 6), 10), Err(Rejected::NotApproved), "another key's countersignature");
    let last = Change::ApproverRemoved { name: "bob".to_owned(), by: Some("ann".to_owned()), at: at(6) };
    book.apply(&last, 10).unwrap();
    let last = Change::ApproverRemoved { name: "ann".to_owned(), by: Some("ann".to_owned()), at: at(6) };
    assert_eq!(book.apply(&last, 11), Err(Rejected::LastApprover));
}

#[test]
fn nobody_appoints_themselves_once_somebody_is_enrolled() {
    let mut book = book(&[("ann", &["owner"], &[])]);
    let add = |name: &str, roles: &[&str], by: Option<&str>| Change::ApproverAdded {
        name: name.to_owned(),
        roles: set(roles),
        also: set(&[]),
        by: by.map(str::to_owned),
        at: at(1),
    };
    assert_eq!(book.apply(&add("eve", &["owner"], None), 1), Err(Rejected::NotAppointed));
    assert_eq!(book.apply(&add("eve", &["owner"], Some("eve")), 1), Err(Rejected::NotAppointed));
    book.apply(&add("fin", &["finance"], Some("ann")), 1).unwrap();
    book.apply(&enrolled("fin", key(1), at(1)), 2).unwrap();
    assert_eq!(book.apply(&add("eve", &["owner"], Some("fin")), 3), Err(Rejected::NotAppointed), "a role that ann has");
    assert_eq!(book.apply(&add("fin", &["finance", "owner"], Some("fin")), 3), Err(Rejected::NotAppointed));
    assert_eq!(
        book.apply(&add("ann", &["finance"], Some("fin")), 3),
        Err(Rejected::NotAppointed),
        "taking a role away"
    );
    book.apply(&add("eve", &["owner"], Some("ann")), 3).unwrap();
    assert_eq!(book.apply(&add("EVE", &["owner"], Some("ann")), 4), Err(Rejected::NameTaken));
    let enrolled = enrolled("ann", key(9), at(1));
    assert_eq!(book.apply(&enrolled, 4), Err(Rejected::NameTaken), "an enrolled key is not replaced");
}

#[test]
fn who_was_added_before_anybody_was_enrolled_does_not_slip_in_after() {
    let mut book = Book::default();
    let add = |name: &str, by: Option<&str>| Change::ApproverAdded {
        name: name.to_owned(),
        roles: set(&["owner"]),
        also: set(&[]),
        by: by.map(str::to_owned),
        at: at(0),
    };
    let enrol = |name: &str, number: usize| enrolled(name, key(number), at(0));
    book.apply(&add("mallory", None), 0).unwrap();
    book.apply(&add("ann", None), 1).unwrap();
    book.apply(&enrol("ann", 0), 2).unwrap();
    assert_eq!(book.apply(&enrol("mallory", 1), 3), Err(Rejected::NotAppointed));
    book.apply(&add("mallory", Some("ann")), 3).unwrap();
    book.apply(&enrol("mallory", 1), 4).unwrap();
}

#[test]
fn nobody_sheds_another_name_of_their_own_by_themselves() {
    let mut book = book(&[("ann", &["owner"], &["ann@example.com"]), ("bob", &["owner"], &[])]);
    let change = |also: &[&str], by: &str| Change::ApproverAdded {
        name: "ann".to_owned(),
        roles: set(&["owner"]),
        also: set(also),
        by: Some(by.to_owned()),
        at: at(1),
    };
    assert_eq!(book.apply(&change(&[], "ann"), 1), Err(Rejected::NotAppointed));
    book.apply(&change(&["ann@example.com", "ann@home"], "ann"), 1).unwrap();
    book.apply(&change(&[], "bob"), 2).unwrap();
}

#[test]
fn one_person_cannot_be_worn_down_in_an_hour() {
    let mut book = book(&[("ann", &["owner"], &[])]);
    for number in 0..=120_u8 {
        let hold = Arc::new(Hold {
            agent: format!("agent-{number}"),
            ..Hold::clone(&hold(number, vec![demand("owner", 1, 9_000)], at(1)))
        });
        book.apply(&Change::Opened(Arc::clone(&hold)), u64::from(number)).unwrap();
        let voted = book.apply(&vote(&hold, "ann", 0, 2), 200 + u64::from(number));
        assert_eq!(voted.is_ok(), number < 120, "{number}: {voted:?}");
        if voted.is_err() {
            assert_eq!(voted, Err(Rejected::TooManyVotes));
            book.apply(&vote(&hold, "ann", 0, 3_602), 400).unwrap();
        }
    }
}

#[test]
fn a_clock_that_goes_back_revives_nothing() {
    let mut book = book(&[("ann", &["owner"], &[])]);
    let (first, second) =
        (hold(1, vec![demand("owner", 1, 60)], at(1)), hold(2, vec![demand("owner", 1, 60)], at(100)));
    book.apply(&Change::Opened(Arc::clone(&first)), 1).unwrap();
    book.apply(&Change::Opened(Arc::clone(&second)), 2).unwrap();
    assert_eq!(book.apply(&vote(&first, "ann", 0, 5), 3), Err(Rejected::TooLate), "the book has seen second 100");
    book.apply(&Change::Expired { hold: first.id.clone(), at: at(5) }, 3).unwrap();
    assert_eq!(phase(&book, &first), "expired");
}

#[test]
fn the_identical_call_meets_its_hold_and_an_agent_cannot_bury_an_approver() {
    let mut book = book(&[("ann", &["owner"], &[])]);
    let first = hold(1, vec![demand("owner", 1, 900)], at(1));
    book.apply(&Change::Opened(Arc::clone(&first)), 1).unwrap();
    let again = Hold { id: HoldId::read(&format!("hold_{:026}", 99)).unwrap(), ..Hold::clone(&first) };
    assert_eq!(book.apply(&Change::Opened(Arc::new(again.clone())), 2), Err(Rejected::Known(first.id.clone())));
    let drifted = Hold { grants: Digest([9; 32]), ..again.clone() };
    let rejected = Rejected::Drifted(first.id.clone(), Drift::PolicyChanged);
    assert_eq!(book.apply(&Change::Opened(Arc::new(drifted)), 2), Err(rejected));
    for number in 2..=20 {
        book.apply(&Change::Opened(hold(number, vec![demand("owner", 1, 900)], at(1))), u64::from(number)).unwrap();
    }
    let more = hold(21, vec![demand("owner", 1, 900)], at(1));
    assert_eq!(book.apply(&Change::Opened(Arc::clone(&more)), 21), Err(Rejected::TooMany));
    let denied = |hold: &Hold| Change::Denied {
        hold: hold.id.clone(),
        digest: hold.digest,
        approver: "ann".to_owned(),
        reason: "no".to_owned(),
        at: at(2),
    };
    book.apply(&denied(&first), 21).unwrap();
    book.apply(&Change::Opened(more), 22).unwrap();
    let meets = |book: &Book, when| book.identical(first.binding(), at(when)).map(|record| record.phase.word());
    assert_eq!((meets(&book, 900), meets(&book, 901)), (Some("denied"), None), "sticky until it would have expired");
}

#[test]
fn a_result_is_collected_for_a_while_and_a_call_that_was_never_sent_is_not() {
    let mut book = book(&[("ann", &["owner"], &[])]);
    for (number, outcome, meets) in
        [(1, "ok", true), (2, "tool_error", true), (3, "unknown", true), (4, NOT_SENT, false)]
    {
        let hold = hold(number, vec![demand("owner", 1, 900)], at(1));
        let seq = u64::from(number) * 10;
        book.apply(&Change::Opened(Arc::clone(&hold)), seq).unwrap();
        book.apply(&vote(&hold, "ann", 0, 2), seq + 1).unwrap();
        book.apply(&spend(&hold, 3), seq + 2).unwrap();
        assert!(book.identical(hold.binding(), at(5_000)).is_some(), "while it runs");
        book.apply(&Change::Settled { intent: seq + 3, outcome: outcome.to_owned() }, seq + 4).unwrap();
        assert_eq!(book.identical(hold.binding(), at(3 + 599)).is_some(), meets, "{outcome}");
        assert!(book.identical(hold.binding(), at(3 + 600)).is_none());
    }
}

#[test]
fn what_the_next_is_compared_with_stays_however_much_is_opened_and_withdrawn() {
    let mut book = book(&[("ann", &["owner"], &[])]);
    let first = hold(1, vec![demand("owner", 1, 900)], at(1));
    book.apply(&Change::Opened(Arc::clone(&first)), 10).unwrap();
    book.apply(&vote(&first, "ann", 0, 2), 11).unwrap();
    book.apply(&spend(&first, 3), 12).unwrap();
    book.apply(&Change::Settled { intent: 13, outcome: "ok".to_owned() }, 14).unwrap();
    let mut seq = 20;
    let mut flood = |book: &mut Book, from: i64, tool: &str| {
        for number in 0..2_500 {
            let when = at(from + number);
            let id = HoldId::new(when).unwrap();
            let other = Hold {
                id: id.clone(),
                tool: tool.to_owned(),
                seq,
                created: when,
                approve_by: at(1_000_000),
                ..Hold::clone(&first)
            };
            book.apply(&Change::Opened(Arc::new(other)), seq).unwrap();
            book.apply(&Change::Cancelled { hold: id, by: "agent".to_owned(), at: when }, seq + 1).unwrap();
            seq += 2;
        }
    };
    flood(&mut book, 10_000, "other");
    assert!(book.get(&first.id).is_some_and(Record::was_countersigned), "an agent cannot have it forgotten");
    assert!(book.iter().count() <= 2_001, "{}", book.iter().count());
    // the next one takes its place
    let next = Arc::new(Hold {
        id: HoldId::new(at(20_000)).unwrap(),
        seq: 100_000,
        created: at(20_000),
        approve_by: at(1_000_000),
        execute_by: at(1_000_000),
        ..Hold::clone(&first)
    });
    book.apply(&Change::Opened(Arc::clone(&next)), 100_000).unwrap();
    book.apply(&vote(&next, "ann", 0, 20_001), 100_001).unwrap();
    book.apply(&spend(&next, 20_002), 100_002).unwrap();
    book.apply(&Change::Settled { intent: 100_003, outcome: "ok".to_owned() }, 100_004).unwrap();
    flood(&mut book, 30_000, "other");
    flood(&mut book, 40_000, "another");
    assert!(book.get(&first.id).is_none() && book.get(&next.id).is_some());
}

#[test]
fn only_what_is_idempotent_and_unknown_runs_again_and_only_in_time() {
    let mut book = book(&[("ann", &["owner"], &[])]);
    for (number, idempotent, outcome, again) in
        [(1, true, "unknown", true), (2, false, "unknown", false), (3, true, "ok", false)]
    {
        let hold = Arc::new(Hold { idempotent, ..Hold::clone(&hold(number, vec![demand("owner", 1, 60)], at(1))) });
        let seq = u64::from(number) * 100;
        book.apply(&Change::Opened(Arc::clone(&hold)), seq).unwrap();
        book.apply(&vote(&hold, "ann", 0, 2), seq + 1).unwrap();
        book.apply(&spend(&hold, 3), seq + 2).unwrap();
        assert!(book.apply(&spend(&hold, 3), seq + 4).is_err(), "while it runs");
        book.apply(&Change::Settled { intent: seq + 3, outcome: outcome.to_owned() }, seq + 4).unwrap();
        assert_eq!(book.may_run_again(&hold.id, at(4)), again, "{outcome}");
        assert_eq!(book.apply(&spend(&hold, 4), seq + 5).is_ok(), again);
        if again {
            book.apply(&Change::Settled { intent: seq + 6, outcome: outcome.to_owned() }, seq + 7).unwrap();
            assert!(!book.may_run_again(&hold.id, at(121)), "its time is over");
        }
    }
    assert_eq!(book.counts(), Counts::default());
}

#[test]
fn what_ended_is_forgotten_but_for_the_newest_and_what_calls_can_still_meet() {
    let mut book = book(&[("ann", &["owner"], &[])]);
    for number in 0..3_000_u64 {
        let one = Hold {
            id: HoldId::read(&format!("hold_{number:026}")).unwrap(),
            arguments: Digest::of(&number.to_be_bytes()),
            ..Hold::clone(&hold(1, vec![demand("owner", 1, 900)], at(1)))
        };
        let id = one.id.clone();
        book.apply(&Change::Opened(Arc::new(one)), number).unwrap();
        book.apply(&Change::Cancelled { hold: id, by: "agent".to_owned(), at: at(1) }, number).unwrap();
    }
    assert!(book.iter().count() < 2_001, "{}", book.iter().count());
    assert_eq!(book.counts(), Counts::default());
}

/// What can be done in the property below: by people, by number, or by time.
#[derive(Clone, Debug)]
enum Act {
    Vote(usize, bool),
    Deny(usize),
    Cancel,
    Void,
    Expire,
    Spend,
    Wait(i64),
    Remove(usize),
    Return(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..5_usize, prop::bool::weighted(0.9)).prop_map(|(who, right)| Act::Vote(who, right)),
        1 => (0..5_usize).prop_map(Act::Deny),
        1 => Just(Act::Cancel),
        1 => Just(Act::Void),
        2 => Just(Act::Expire),
        4 => Just(Act::Spend),
        3 => (0..200_i64).prop_map(Act::Wait),
        1 => (0..5_usize).prop_map(Act::Remove),
        1 => (0..5_usize).prop_map(Act::Return),
    ];
    prop::collection::vec(act, 1..60)
}

/// The people of the property: two roles, one double account (1 and 2), one requester (4). The last one, 5, is never
/// removed.
const PEOPLE: [(&str, &[&str], &[&str]); 6] = [
    ("p0", &["owner"], &[]),
    ("p1", &["owner", "oncall"], &["same"]),
    ("p2", &["oncall"], &["SAME"]),
    ("p3", &["oncall"], &[]),
    ("ana", &["owner", "oncall"], &[]),
    ("p5", &["owner", "oncall", "admin"], &[]),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_book_does_what_the_rules_say(owners in 0..3_u8, oncall in 0..3_u8, acts in acts()) {
        let mut demands = Vec::new();
        for (role, approvals) in [("owner", owners), ("oncall", oncall)] {
            if approvals > 0 {
                demands.push(demand(role, approvals, 300));
            }
        }
        prop_assume!(!demands.is_empty());
        let mut book = book(&PEOPLE);
        let hold = hold(1, demands.clone(), at(0));
        book.apply(&Change::Opened(Arc::clone(&hold)), 1).unwrap();

        // the model: everything that was ever said, judged from the start each time
        let mut now = 0_i64;
        let mut living: BTreeMap<usize, usize> = (0..6).map(|who| (who, who)).collect();
        let mut votes: Vec<(usize, usize)> = Vec::new();
        let mut reached = false;
        let mut ended: Option<&str> = None;
        let mut next_key = 20;
        let mut runs = 0;
        let person = |who: usize| if who == 2 { 1 } else { who };
        for (turn, act) in acts.iter().enumerate() {
            let seq = 100 + 10 * turn as u64;
            let has = |who: usize, role: &str| PEOPLE[who].1.contains(&role);
            let quorum = |votes: &[(usize, usize)], living: &BTreeMap<usize, usize>| demands.iter().all(|demand| {
                let people: BTreeSet<usize> = votes
                    .iter()
                    .filter(|(who, key)| living.get(who) == Some(key) && has(*who, &demand.role))
                    .map(|(who, _)| person(*who))
                    .collect();
                people.len() >= usize::from(demand.approvals)
            });
            let in_time = now < if reached { 600 } else { 300 };
            let eligible = |who: usize, living: &BTreeMap<usize, usize>| {
                who != 4 && living.contains_key(&who) && demands.iter().any(|demand| has(who, &demand.role))
            };
            match act {
                Act::Wait(seconds) => now += seconds,
                Act::Vote(who, right) => {
                    let signed = living.get(who).copied().unwrap_or(0);
                    let digest = if *right { hold.digest } else { Digest([0; 32]) };
                    let (id, approver) = (hold.id.clone(), PEOPLE[*who].0.to_owned());
                    let change = Change::Approved { hold: id, digest, approver, means: Means::Key(key(signed)), mark: None, at: at(now) };
                    let twice = votes.iter().any(|(other, key)| {
                        living.get(other) == Some(key) && person(*other) == person(*who)
                    });
                    let fine = ended.is_none() && in_time && *right && eligible(*who, &living) && !twice;
                    prop_assert_eq!(book.apply(&change, seq).is_ok(), fine, "{:?} at {}", act, now);
                    if fine {
                        votes.push((*who, signed));
                        reached |= quorum(&votes, &living);
                    }
                }
                Act::Deny(who) => {
                    let (id, approver) = (hold.id.clone(), PEOPLE[*who].0.to_owned());
                    let change = Change::Denied { hold: id, digest: hold.digest, approver, reason: "no".to_owned(), at: at(now) };
                    let fine = ended.is_none() && in_time && eligible(*who, &living);
                    prop_assert_eq!(book.apply(&change, seq).is_ok(), fine, "{:?} at {}", act, now);
                    if fine { ended = Some("denied"); }
                }
                Act::Cancel | Act::Void => {
                    let (change, word) = if matches!(act, Act::Cancel) {
                        (Change::Cancelled { hold: hold.id.clone(), by: "agent".to_owned(), at: at(now) }, "cancelled")
                    } else {
                        (Change::Void { hold: hold.id.clone(), why: Drift::PolicyChanged, at: at(now) }, "void")
                    };
                    prop_assert_eq!(book.apply(&change, seq).is_ok(), ended.is_none());
                    ended = ended.or(Some(word));
                }
                Act::Expire => {
                    let change = Change::Expired { hold: hold.id.clone(), at: at(now) };
                    let fine = ended.is_none() && !in_time;
                    prop_assert_eq!(book.apply(&change, seq).is_ok(), fine);
                    if fine { ended = Some("expired"); }
                }
                Act::Spend => {
                    let fine = ended.is_none() && reached && in_time && quorum(&votes, &living);
                    prop_assert_eq!(book.apply(&spend(&hold, now), seq).is_ok(), fine, "at {}", now);
                    if fine { ended = Some("spent"); runs += 1; }
                }
                Act::Remove(who) => {
                    let change = Change::ApproverRemoved { name: PEOPLE[*who].0.to_owned(), by: Some("p5".to_owned()), at: at(now) };
                    prop_assert_eq!(book.apply(&change, seq).is_ok(), living.remove(who).is_some());
                }
                Act::Return(who) => {
                    let (name, roles, also) = PEOPLE[*who];
                    let added = Change::ApproverAdded {
                        name: name.to_owned(), roles: set(roles), also: set(also), by: Some("p5".to_owned()), at: at(now),
                    };
                    book.apply(&added, seq).unwrap();
                    let enrolled = enrolled(name, key(next_key), at(now));
                    let fine = !living.contains_key(who);
                    prop_assert_eq!(book.apply(&enrolled, seq + 1).is_ok(), fine);
                    if fine { living.insert(*who, next_key); next_key += 1; }
                }
            }
            let word = ended.unwrap_or(if reached { "approved" } else { "pending" });
            prop_assert_eq!(phase(&book, &hold), word);
            let open = book.counts().pending + book.counts().approved;
            prop_assert_eq!(open, usize::from(ended.is_none()));
        }
        prop_assert!(runs <= 1);
    }
}
