//! The ledger under power cuts at any moment, its making and its start included: what was acknowledged is there,
//! it verifies, and no checkpoint that anybody saw is contradicted.
//!
//! `COUNTERSIGN_POWER_CUTS` is how many cuts each test makes.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::Stdio,
    time::Duration,
};

use countersign::ledger::verify::{Verdict, verify, verify_pinned};

use crate::{
    disk::{Dice, Disk, Honesty, Loss},
    ledger_crash::start,
};

fn cuts() -> u64 {
    std::env::var("COUNTERSIGN_POWER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(12)
}

/// A disk, or a line that says by name what is skipped and why.
fn disk(test: &str, honesty: Honesty) -> Option<Disk> {
    match Disk::mount(honesty) {
        Ok(disk) => Some(disk),
        Err(why) => {
            eprintln!("skipped: power::{test}: {why}");
            None
        }
    }
}

/// Writes until the power goes after `operations` changes of the disk; adds what was acknowledged to `acknowledged`.
fn write_until_cut(role: &str, disk: &Disk, acks: &Path, operations: u64, acknowledged: &mut String) {
    let data = disk.path().join("data");
    disk.cut_after(operations);
    let mut child = start(role, &data, acks).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    std::thread::scope(|scope| {
        let printed =
            scope.spawn(|| lines.map_while(Result::ok).filter(|line| line.parse::<u64>().is_ok()).collect::<Vec<_>>());
        assert!(disk.wait_for_cut(Duration::from_secs(30)), "the writer does not get as far as the cut");
        child.kill().unwrap();
        child.wait().unwrap();
        for line in printed.join().unwrap() {
            acknowledged.push_str(&line);
            acknowledged.push('\n');
        }
    });
    std::fs::write(acks, acknowledged).unwrap();
}

/// When the power goes: every third time while the ledger is made or opened.
fn moment(turn: u64, dice: &mut Dice) -> u64 {
    if turn.is_multiple_of(3) { dice.below(30) } else { 20 + dice.below(700) }
}

fn cut_again_and_again(disk: &Disk, loss: Loss, mut dice: Dice) {
    let folder = tempfile::tempdir().unwrap();
    let (data, acks) = (disk.path().join("data"), folder.path().join("acks"));
    let (mut acknowledged, mut pins) = (String::new(), Vec::new());
    for turn in 0..cuts() {
        let operations = moment(turn, &mut dice);
        write_until_cut("writer", disk, &acks, operations, &mut acknowledged);
        // what could be read just before the cut may have been read by somebody, who now holds a checkpoint
        pins.extend(std::fs::read_to_string(data.join("tlog/checkpoint")).ok().filter(|note| !note.is_empty()));
        disk.restore(loss, &mut dice);
        let at = format!("turn {turn}, cut after {operations} operations, {loss:?}");
        let found = verify(&data, None, None);
        assert_ne!(found.verdict, Verdict::Tampered, "{at}: as it was left: {found}");
        let verified = start("verify", &data, &acks).output().unwrap();
        assert!(verified.status.success(), "{at}: {verified:?}");
        let pins: Vec<&str> = pins.iter().map(String::as_str).collect();
        let found = verify_pinned(&data, &pins, None);
        assert_eq!(found.verdict, Verdict::Holds, "{at}: after recovery: {found}");
    }
    assert!(acknowledged.lines().count() > 20, "hardly anything was written: {acknowledged}");
}

#[test]
fn what_was_acknowledged_survives_a_cut_that_loses_everything_unsynced() {
    let Some(disk) = disk("what_was_acknowledged_survives_a_cut_that_loses_everything_unsynced", Honesty::Honest)
    else {
        return;
    };
    cut_again_and_again(&disk, Loss::All, Dice(11));
}

#[test]
fn what_was_acknowledged_survives_a_cut_that_tears() {
    let Some(disk) = disk("what_was_acknowledged_survives_a_cut_that_tears", Honesty::Honest) else { return };
    cut_again_and_again(&disk, Loss::Torn, Dice(12));
}

#[test]
fn a_disk_that_does_not_sync_is_caught() {
    let Some(disk) = disk("a_disk_that_does_not_sync_is_caught", Honesty::Lies) else { return };
    caught(&disk, "writer", "verify");
}

#[test]
fn a_writer_that_acknowledges_before_it_synced_is_caught() {
    let Some(disk) = disk("a_writer_that_acknowledges_before_it_synced_is_caught", Honesty::Honest) else { return };
    caught(&disk, "careless", "careless-verify");
}

/// That the test can fail: within a few cuts something acknowledged is missing.
fn caught(disk: &Disk, writer: &str, verifier: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (data, acks) = (disk.path().join("data"), folder.path().join("acks"));
    let (mut dice, mut acknowledged) = (Dice(13), String::new());
    for _ in 0..10 {
        write_until_cut(writer, disk, &acks, 200 + dice.below(300), &mut acknowledged);
        disk.restore(Loss::All, &mut dice);
        if start(verifier, &data, &acks).output().unwrap().status.code() == Some(3) {
            return;
        }
    }
    panic!("nothing was lost in ten cuts, of {} acknowledgements", acknowledged.lines().count());
}
