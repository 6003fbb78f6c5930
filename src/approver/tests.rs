//! A vault from the outside: invited, enrolled, unlocked, interrupted.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Instant};

use super::*;
use crate::{clock::Timestamp, hold::Means};

const CHEAP: Cost = Cost { memory: 8, passes: 1, lanes: 1 };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn passphrase(text: &str) -> Passphrase {
    Passphrase::new(text.to_owned())
}

fn right() -> Passphrase {
    passphrase("correct horse battery")
}

fn open(data: &Path) -> Vault {
    Vault::open_at_cost(data, CHEAP).unwrap()
}

fn files(data: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(data.join("approvers")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

async fn enrol(vault: &Vault, name: &str) -> Enrolment {
    let code = vault.invite(name, at(0)).unwrap();
    vault.commit(vault.prepare(&code, &right(), at(0)).await.unwrap()).unwrap()
}

async fn unlock(vault: &Vault, enrolment: &Enrolment, with: &Passphrase) -> Result<Unlocked, NotUnlocked> {
    vault.unlock(&enrolment.name, Some(enrolment.key), with, Way::Door, at(0)).await
}

#[tokio::test]
async fn who_has_the_code_chooses_a_passphrase_that_unlocks_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let code = vault.invite("ann", at(0)).unwrap();
    assert_eq!(vault.name_of_code(&code, at(0)).unwrap(), "ann");
    let prepared = vault.prepare(&Code::read(&code.reveal().to_lowercase()).unwrap(), &right(), at(0)).await.unwrap();
    let told = prepared.enrolment().clone();
    let enrolment = vault.commit(prepared).unwrap();
    assert_eq!((enrolment.name.as_str(), &enrolment), ("ann", &told));
    assert_eq!(unlock(&vault, &enrolment, &right()).await.unwrap().public_key(), enrolment.key);
    assert_eq!(vault.prepare(&code, &right(), at(0)).await.unwrap_err(), NotEnrolled::Code, "a code serves once");
    assert_eq!(vault.invited("ann", at(0)), None);
    let vault = open(folder.path());
    assert_eq!(unlock(&vault, &enrolment, &right()).await.unwrap().name(), "ann");
    assert_eq!(unlock(&vault, &enrolment, &passphrase("another passphrase")).await.unwrap_err(), NotUnlocked::Wrong);
}

#[tokio::test]
async fn secrets_lie_in_files_that_only_we_may_read_and_are_not_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    enrol(&vault, "Ann@example.com").await;
    let code = vault.invite("bob", at(0)).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let approvers = folder.path().join("approvers");
    assert_eq!(mode(&approvers), 0o700);
    assert_eq!(files(folder.path()).len(), 2);
    for file in files(folder.path()) {
        assert_eq!(mode(&approvers.join(&file)), 0o600, "{file}");
        let text = fs::read_to_string(approvers.join(&file)).unwrap();
        for secret in ["correct horse", code.reveal().as_str(), &code.reveal().replace('-', "")] {
            assert!(!text.contains(secret), "{file}");
        }
    }
    assert!(!format!("{vault:?}").contains("ann"));
}

#[tokio::test]
async fn a_code_is_good_for_a_day_and_until_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let first = vault.invite("ann", at(0)).unwrap();
    let second = vault.invite("ann", at(10)).unwrap();
    assert_eq!(vault.name_of_code(&first, at(10)), Err(NotEnrolled::Code));
    assert_eq!(vault.invited("ann", at(10)), Some(at(86_410)));
    let vault = open(folder.path());
    assert_eq!(vault.name_of_code(&first, at(10)), Err(NotEnrolled::Code));
    assert_eq!(vault.name_of_code(&second, at(86_409)).as_deref(), Ok("ann"));
    assert_eq!(vault.name_of_code(&second, at(86_410)), Err(NotEnrolled::Expired));
    assert_eq!(vault.prepare(&second, &right(), at(86_410)).await.unwrap_err(), NotEnrolled::Expired);
    assert_eq!(vault.invited("ann", at(86_410)), None);
    vault.invite("bob", at(86_410)).unwrap();
    assert_eq!(vault.name_of_code(&second, at(0)), Err(NotEnrolled::Code), "a clock that is put back revives nothing");
    assert_eq!(files(folder.path()), BTreeSet::from(["bob~invitation".to_owned()]));
}

#[tokio::test]
async fn an_unfit_passphrase_leaves_the_code_good() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let code = vault.invite("ann@example.com", at(0)).unwrap();
    for (text, why) in [
        ("short", Unfit::Short),
        ("ANN@example.com", Unfit::Name),
        (&"x".repeat(1_025), Unfit::Long),
        ("with a\nline break", Unfit::Control),
    ] {
        let refused = vault.prepare(&code, &passphrase(text), at(0)).await.unwrap_err();
        assert_eq!(refused, NotEnrolled::Passphrase(why));
    }
    vault.prepare(&code, &right(), at(0)).await.unwrap();
}

#[tokio::test]
async fn a_crash_before_the_ledger_was_told_leaves_the_code_good() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let code = vault.invite("ann", at(0)).unwrap();
    drop(vault.prepare(&code, &right(), at(0)).await.unwrap());
    let vault = open(folder.path());
    assert_eq!(files(folder.path()).len(), 2);
    vault.reconcile([("ann", None)]).unwrap();
    assert_eq!(
        files(folder.path()),
        BTreeSet::from(["ann~invitation".to_owned()]),
        "the key that nobody knows is gone"
    );
    let enrolment = vault.commit(vault.prepare(&code, &right(), at(0)).await.unwrap()).unwrap();
    unlock(&vault, &enrolment, &right()).await.unwrap();
}

#[tokio::test]
async fn a_crash_after_the_ledger_was_told_leaves_the_approver_enrolled_and_the_code_used() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let before = enrol(&vault, "ann").await;
    let code = vault.invite("ann", at(0)).unwrap();
    let prepared = vault.prepare(&code, &passphrase("another passphrase"), at(0)).await.unwrap();
    let told = prepared.enrolment().clone();
    drop(prepared);
    let vault = open(folder.path());
    unlock(&vault, &told, &passphrase("another passphrase")).await.unwrap();
    vault.reconcile([("ann", Some(told.key))]).unwrap();
    assert_eq!(vault.name_of_code(&code, at(0)), Err(NotEnrolled::Code));
    assert_eq!(files(folder.path()).len(), 1, "neither the code nor the former key is kept");
    unlock(&vault, &told, &passphrase("another passphrase")).await.unwrap();
    assert!(matches!(unlock(&vault, &before, &right()).await, Err(NotUnlocked::Fault(_))));
}

#[tokio::test]
async fn the_same_crash_with_the_former_key_still_in_force_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let before = enrol(&vault, "ann").await;
    let code = vault.invite("ann", at(0)).unwrap();
    drop(vault.prepare(&code, &passphrase("another passphrase"), at(0)).await.unwrap());
    let vault = open(folder.path());
    vault.reconcile([("ann", Some(before.key)), ("bob", None)]).unwrap();
    unlock(&vault, &before, &right()).await.unwrap();
    assert_eq!(vault.name_of_code(&code, at(0)).as_deref(), Ok("ann"));
    // a ledger from elsewhere names a key that is not here: nothing is thrown away for it
    vault.reconcile([("ann", Some([7; 32]))]).unwrap();
    unlock(&vault, &before, &right()).await.unwrap();
}

#[tokio::test]
async fn interrupted_enrolments_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let code = vault.invite("ann", at(0)).unwrap();
    for _ in 0..16 {
        drop(vault.prepare(&code, &right(), at(0)).await.unwrap());
    }
    let Err(NotEnrolled::Fault(fault)) = vault.prepare(&code, &right(), at(0)).await else { panic!("a seventeenth") };
    assert!(fault.0.contains("restart the server"), "{fault}");
    vault.reconcile([("ann", None)]).unwrap();
    vault.commit(vault.prepare(&code, &right(), at(0)).await.unwrap()).unwrap();
}

#[tokio::test]
async fn an_enrolment_that_the_ledger_refused_leaves_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let code = vault.invite("ann", at(0)).unwrap();
    for _ in 0..20 {
        vault.abandon(vault.prepare(&code, &right(), at(0)).await.unwrap()).unwrap();
    }
    assert_eq!(files(folder.path()), BTreeSet::from(["ann~invitation".to_owned()]));
    vault.prepare(&code, &right(), at(0)).await.unwrap();
}

#[tokio::test]
async fn a_code_enrols_once_however_many_try_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Arc::new(open(folder.path()));
    let code = vault.invite("ann", at(0)).unwrap();
    let mut tries = tokio::task::JoinSet::new();
    for number in 0..16 {
        let (vault, code) = (Arc::clone(&vault), code.clone());
        tries.spawn(async move {
            let prepared = vault.prepare(&code, &passphrase(&format!("passphrase number {number}")), at(0)).await?;
            Ok::<_, NotEnrolled>((number, vault.commit(prepared).unwrap()))
        });
    }
    let mut enrolled = Vec::new();
    for tried in tries.join_all().await {
        match tried {
            Ok(one) => enrolled.push(one),
            Err(refused) => assert_eq!(refused, NotEnrolled::Code),
        }
    }
    let [(number, enrolment)] = enrolled.as_slice() else { panic!("{enrolled:?}") };
    unlock(&vault, enrolment, &passphrase(&format!("passphrase number {number}"))).await.unwrap();
}

#[tokio::test]
async fn a_new_invitation_during_an_enrolment_stays_good() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let first = vault.invite("ann", at(0)).unwrap();
    let prepared = vault.prepare(&first, &right(), at(0)).await.unwrap();
    let second = vault.invite("ann", at(0)).unwrap();
    vault.commit(prepared).unwrap();
    assert_eq!(vault.name_of_code(&second, at(0)).as_deref(), Ok("ann"));
}

#[tokio::test]
async fn who_is_forgotten_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let ann = enrol(&vault, "ann").await;
    let other = enrol(&vault, "ann.b").await;
    let code = vault.invite("ann", at(0)).unwrap();
    vault.forget("ann").unwrap();
    vault.forget("ann").unwrap();
    assert_eq!(vault.name_of_code(&code, at(0)), Err(NotEnrolled::Code));
    assert!(matches!(unlock(&vault, &ann, &right()).await, Err(NotUnlocked::Fault(_))));
    unlock(&vault, &other, &right()).await.unwrap();
    assert_eq!(files(folder.path()).len(), 1);
    assert!(vault.forget("../ann").is_err());
}

#[tokio::test]
async fn a_key_that_the_ledger_does_not_name_unlocks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let ann = enrol(&vault, "ann").await;
    let bob = enrol(&vault, "bob").await;
    let right = right();
    let asked = |name: &'static str, key| vault.unlock(name, key, &right, Way::Door, at(0));
    assert_eq!(asked("ann", None).await.unwrap_err(), NotUnlocked::Unknown);
    assert_eq!(asked("nobody", None).await.unwrap_err(), NotUnlocked::Unknown);
    assert_eq!(asked("../ann", Some(ann.key)).await.unwrap_err(), NotUnlocked::Unknown);
    assert!(matches!(asked("ann", Some(bob.key)).await, Err(NotUnlocked::Fault(_))));
    // a file put in place of another is not what the ledger names
    let approvers = folder.path().join("approvers");
    let file = |name: &str| files(folder.path()).into_iter().find(|file| file.starts_with(name)).unwrap();
    fs::copy(approvers.join(file("bob")), approvers.join(file("ann"))).unwrap();
    assert!(matches!(asked("ann", Some(ann.key)).await, Err(NotUnlocked::Fault(_))));
}

#[tokio::test]
async fn an_unknown_approver_costs_as_much_as_a_wrong_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Vault::open_at_cost(folder.path(), Cost { memory: 4 << 10, passes: 2, lanes: 1 }).unwrap();
    let ann = enrol(&vault, "ann").await;
    let wrong = passphrase("another passphrase");
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..9 {
        let now = at(round * 1_000);
        let long = passphrase(&"x".repeat(5_000));
        for (which, name, key, with) in
            [(0, "ann", Some(ann.key), &wrong), (1, "nobody", None, &wrong), (2, "ann", Some(ann.key), &long)]
        {
            let began = Instant::now();
            vault.unlock(name, key, with, Way::Door, now).await.unwrap_err();
            costs[which].push(began.elapsed());
        }
    }
    let [known, unknown, long] = costs.map(|mut all| {
        all.sort();
        all[0].as_secs_f64()
    });
    for other in [unknown, long] {
        assert!((0.5..2.0).contains(&(other / known)), "{known} s against {other} s");
    }
}

#[tokio::test]
async fn guesses_are_slowed_and_the_approver_within_a_session_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let ann = enrol(&vault, "ann").await;
    let sessions = Sessions::default();
    let (_token, session) = sessions.begin("ann", Means::Key(ann.key), at(0)).unwrap();
    let wrong = passphrase("another passphrase");
    for name in ["ann", "nobody"] {
        let key = (name == "ann").then_some(ann.key);
        for _ in 0..5 {
            let refused = vault.unlock(name, key, &wrong, Way::Door, at(0)).await.unwrap_err();
            assert!(matches!(refused, NotUnlocked::Wrong | NotUnlocked::Unknown));
        }
        // the right passphrase is not told from a wrong one while there is a wait
        for with in [&wrong, &right()] {
            let refused = vault.unlock(name, key, with, Way::Door, at(0)).await.unwrap_err();
            assert_eq!(refused, NotUnlocked::TooMany { retry_after_s: 1 });
        }
    }
    vault.unlock("ann", Some(ann.key), &right(), Way::Session(session.id), at(0)).await.unwrap();
    vault.unlock("ann", Some(ann.key), &right(), Way::Door, at(1)).await.unwrap();
    vault.unlock("ann", Some(ann.key), &right(), Way::Door, at(1)).await.unwrap();
}

#[tokio::test]
async fn a_session_stretches_few_passphrases_that_it_offers() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let ann = enrol(&vault, "ann").await;
    let sessions = Sessions::default();
    let (_token, stolen) = sessions.begin("ann", Means::Key(ann.key), at(0)).unwrap();
    let (_token, hers) = sessions.begin("ann", Means::Key(ann.key), at(0)).unwrap();
    for _ in 0..5 {
        vault.seal("ann", &right(), stolen.id, at(0)).await.unwrap();
    }
    let refused = vault.seal("ann", &right(), stolen.id, at(0)).await.err();
    assert_eq!(refused, Some(NotEnrolled::TooMany { retry_after_s: 1 }));
    vault.seal("ann", &right(), stolen.id, at(1)).await.unwrap();
    let refused = vault.seal("ann", &right(), stolen.id, at(2)).await.err();
    assert_eq!(refused, Some(NotEnrolled::TooMany { retry_after_s: 1 }), "the waits double");
    vault.unlock("ann", Some(ann.key), &right(), Way::Session(hers.id), at(2)).await.unwrap();
}

#[tokio::test]
async fn a_crowd_waits_its_turn_or_is_sent_away_and_who_is_in_is_not_kept_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let vault = Arc::new(open(folder.path()));
    let ann = enrol(&vault, "ann").await;
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..500 {
        let vault = Arc::clone(&vault);
        let wrong = passphrase("another passphrase");
        crowd.spawn(async move { vault.unlock(&format!("n{number}"), None, &wrong, Way::Door, at(0)).await });
    }
    let sessions = Sessions::default();
    let (_token, session) = sessions.begin("ann", Means::Key(ann.key), at(0)).unwrap();
    tokio::task::yield_now().await;
    vault.unlock("ann", Some(ann.key), &right(), Way::Session(session.id), at(0)).await.unwrap();
    let mut sent_away = 0;
    for refused in crowd.join_all().await {
        match refused.unwrap_err() {
            NotUnlocked::TooMany { retry_after_s: 1 } => sent_away += 1,
            other => assert_eq!(other, NotUnlocked::Unknown),
        }
    }
    assert!((1..500).contains(&sent_away), "{sent_away}");
    unlock(&vault, &ann, &right()).await.unwrap();
}

#[tokio::test]
async fn what_lies_about_in_the_folder_keeps_no_house_from_opening() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open(folder.path());
    let ann = enrol(&vault, "ann").await;
    let code = vault.invite("bob", at(0)).unwrap();
    drop(vault);
    let approvers = folder.path().join("approvers");
    fs::write(approvers.join("carol~invitation"), "{").unwrap();
    fs::copy(approvers.join("bob~invitation"), approvers.join("dave~invitation")).unwrap();
    fs::write(approvers.join(".bob~invitation.77"), "half").unwrap();
    fs::write(approvers.join("README"), "hello").unwrap();
    fs::set_permissions(&approvers, fs::Permissions::from_mode(0o755)).unwrap();
    let vault = open(folder.path());
    assert_eq!(fs::metadata(&approvers).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!files(folder.path()).contains(".bob~invitation.77"));
    assert_eq!(vault.name_of_code(&code, at(0)).as_deref(), Ok("bob"));
    assert_eq!((vault.invited("carol", at(0)), vault.invited("dave", at(0))), (None, None));
    unlock(&vault, &ann, &right()).await.unwrap();
    assert!(vault.invite("../eve", at(0)).is_err());
}
