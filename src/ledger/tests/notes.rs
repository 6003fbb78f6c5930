//! Notes and checkpoints: the examples of the specification, another implementation, and every way to be malformed.

use signed_note::{Note, StandardVerifier, VerifierList};

use crate::ledger::note::{Checkpoint, NoteError, Signer, VerifierKey, decimal, open};

const KEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo \
                    Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

#[test]
fn the_example_of_the_specification_verifies() {
    let key = VerifierKey::parse(KEY).unwrap();
    assert_eq!(key.to_string(), KEY);
    assert_eq!(open(NOTE, &key), Ok("This is an example message.\n"));
}

#[test]
fn what_is_signed_here_verifies_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::open(folder.path(), "example.test/ledger").unwrap();
    let checkpoint = Checkpoint { origin: "example.test/ledger".to_owned(), size: 7, root: [9; 32] };
    let note = signer.sign(&checkpoint.text());
    let verifier = StandardVerifier::new(&signer.key().to_string()).unwrap();
    let (verified, _) =
        Note::from_bytes(note.as_bytes()).unwrap().verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!(verified.len(), 1);
    assert_eq!(Checkpoint::open(&note, signer.key()), Ok(checkpoint));
}

#[test]
fn the_key_is_kept_to_ourselves_and_to_its_origin() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let first = Signer::open(folder.path(), "example.test/ledger").unwrap();
    let mode = std::fs::metadata(folder.path().join("ledger.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = Signer::open(folder.path(), "example.test/ledger").unwrap();
    assert_eq!(first.key(), second.key());
    let fault = Signer::open(folder.path(), "other.test/ledger").unwrap_err();
    assert!(fault.0.contains("`example.test/ledger`"), "{fault}");
    std::fs::write(folder.path().join("ledger.key"), "PRIVATE+KEY+example.test/ledger+00+AA").unwrap();
    assert!(Signer::open(folder.path(), "example.test/ledger").is_err());
}

#[test]
fn unknown_signatures_are_ignored_and_known_ones_are_not() {
    let key = VerifierKey::parse(KEY).unwrap();
    let other = "\u{2014} witness.example/w AAAAAAAA\n";
    assert!(open(&format!("{NOTE}{other}"), &key).is_ok());
    let line = NOTE.lines().last().unwrap();
    assert!(open(&format!("{NOTE}{line}\n"), &key).is_ok(), "the same line twice");
    let same_name_other_id = "\u{2014} example.com/foo AAAAAAAA\n";
    assert!(open(&format!("{NOTE}{same_name_other_id}"), &key).is_ok());
    let forged = "\u{2014} example.com/foo Uw2QOgAAAA==\n";
    assert_eq!(open(&format!("{NOTE}{forged}"), &key), Err(NoteError::BadSignature));
    assert_eq!(open(&format!("text\n\n{other}"), &key), Err(NoteError::OtherKey));
    assert_eq!(open(&NOTE.replace("example message", "Example message"), &key), Err(NoteError::BadSignature));
}

#[test]
fn malformed_notes_are_refused() {
    let key = VerifierKey::parse(KEY).unwrap();
    let signature = NOTE.split_once("foo ").unwrap().1;
    for note in [
        String::new(),
        "\n\n".to_owned(),
        NOTE.trim_end().to_owned(),
        format!("{NOTE}trailing"),
        format!("{NOTE}\n"),
        NOTE.replace('\u{2014}', "-"),
        NOTE.replace("message", "mess\tage"),
        NOTE.replace("message.\n\n", "message.\n"),
        NOTE.replace("QM=", "QN="),
        NOTE.replace("QM=", "QM"),
        NOTE.replace(signature, &format!(" {signature}")),
    ] {
        assert!(open(&note, &key).is_err(), "{note:?}");
    }
}

#[test]
fn malformed_keys_are_refused() {
    for key in [
        "",
        "example.com/foo",
        &KEY.replace("530d903a", "530D903A"),
        &KEY.replace("530d903a", "530d903b"),
        &KEY.replace("example.com/foo", "example.com/ foo"),
        &KEY.replace("U2k", "U2l"),
        &KEY.replace("+A", "+B"),
        &format!("{KEY} "),
    ] {
        assert!(VerifierKey::parse(key).is_err(), "{key}");
    }
}

#[test]
fn checkpoints_are_read_strictly() {
    let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
    let good = format!("example.com/behind-the-sofa\n20852163\n{root}\n");
    assert_eq!(Checkpoint::parse(&good).unwrap().size, 20_852_163);
    assert_eq!(Checkpoint::parse(&good).unwrap().text(), good);
    assert!(Checkpoint::parse(&format!("{good}extension\n")).is_ok());
    assert_eq!(Checkpoint::parse(&good.replace("20852163", "0")).unwrap().size, 0);
    for bad in [
        good.replace("20852163", "020852163"),
        good.replace("20852163", "+20852163"),
        good.replace("20852163", ""),
        good.replace("20852163", "18446744073709551616"),
        good.replace("20852163", "2e3"),
        good.replace("q2I=", "q2J="),
        good.replace("q2I=", "q2I"),
        good.replace(root, "AAAA"),
        good.replace("example.com/behind-the-sofa", ""),
        format!("{good}\n"),
        good.trim_end().to_owned(),
    ] {
        assert!(Checkpoint::parse(&bad).is_err(), "{bad:?}");
    }
    assert_eq!(decimal("00"), None);
}
