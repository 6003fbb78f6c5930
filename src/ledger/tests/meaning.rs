//! What entries may say: their form, and what they say of each other. Each case is a log that was written and signed
//! by its own key, so that nothing but the meaning is wrong.

use super::*;
use crate::ledger::{
    committer::{Effect, Item},
    verify::{Verdict, verify},
};

const AT: &str = r#""at":"2026-11-21T03:00:00.000000Z""#;

fn intended(call: &str) -> String {
    format!(
        r#"{{"agent":"a","arguments":{{"bytes":2,"digest":"hmac-sha256:00"}},{AT},"call":"{call}","contract":"sha256:00","credential":"c","door":"http","issuer":"i","kind":"call.intended","method":"tools/call","tool":"u__t","upstream":"u","v":1}}"#
    )
}

fn settled(call: &str, intent: u64) -> String {
    format!(r#"{{{AT},"call":"{call}","intent":{intent},"kind":"call.settled","outcome":"ok","v":1}}"#)
}

fn refused(call: &str) -> String {
    format!(
        r#"{{"agent":"a",{AT},"call":"{call}","credential":"c","issuer":"i","kind":"call.refused","method":"tools/call","name":"u__t","reason":"not_granted","v":1}}"#
    )
}

/// Verifies a log of these entries, whole and as published alone.
async fn verified(entries: &[String]) -> (Verdict, Option<u64>, String) {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    for text in entries {
        let item = Item::new(text.clone().into_bytes(), Effect::None);
        ledger.inner.committer.write(item).await.unwrap();
    }
    ledger.close().await;
    drop(ledger);
    let whole = verify(folder.path(), None, None);
    let published = verify(&folder.path().join("tlog"), None, None);
    assert_eq!((whole.verdict, whole.first_bad), (published.verdict, published.first_bad), "{whole}\n{published}");
    (whole.verdict, whole.first_bad, whole.to_string())
}

#[tokio::test]
async fn entries_that_make_sense_hold() {
    let entries =
        [intended("call_A"), intended("call_B"), settled("call_B", 1), refused("call_C"), settled("call_A", 0)];
    let (verdict, first_bad, report) = verified(&entries).await;
    assert_eq!((verdict, first_bad), (Verdict::Holds, None), "{report}");
    // a call that is under way is no flaw, and is told
    let (verdict, _, report) = verified(&entries[..2]).await;
    assert!(verdict == Verdict::Holds && report.contains("2 calls have no outcome yet"), "{report}");
}

#[tokio::test]
async fn entries_that_contradict_each_other_are_named() {
    let (a, b) = (intended("call_A"), intended("call_B"));
    let table: &[(&[String], u64, &str)] = &[
        (&[refused("call_Z"), settled("call_A", 0)], 1, "an outcome without an intent"),
        (&[settled("call_A", 1), a.clone()], 0, "an outcome without an intent before it"),
        (&[a.clone(), settled("call_A", 9)], 1, "an outcome without an intent"),
        (&[a.clone(), settled("call_A", 0), settled("call_A", 0)], 2, "already has an outcome"),
        (&[a.clone(), b.clone(), settled("call_A", 1)], 2, "is that of another call"),
        (&[a.clone(), b.clone(), a.clone()], 2, "`call_A` was intended before, by entry 0"),
        (&[a.clone(), refused("call_A")], 1, "`call_A` was intended before, by entry 0, and then refused"),
        (&[refused("call_A"), refused("call_B"), a.clone()], 2, "`call_A` was refused before"),
    ];
    for (entries, bad, why) in table {
        let (verdict, first_bad, report) = verified(entries).await;
        assert_eq!((verdict, first_bad), (Verdict::Tampered, Some(*bad)), "{why}: {report}");
        assert!(report.contains(why), "`{why}` is not in {report}");
    }
}

#[tokio::test]
async fn an_entry_of_the_wrong_form_is_named() {
    let good = intended("call_A");
    let table = [
        (good.replace("call.intended", "call.meant"), "its kind `call.meant` is unknown"),
        (good.replace(r#""v":1"#, r#""v":2"#), "its version is not 1"),
        (good.replace(r#","v":1"#, ""), "its version is not 1"),
        (good.replace(r#""v":1"#, r#""v":1.0"#), "not in canonical form"),
        (good.replace(r#"{"agent":"a","#, "{").replace(r#""v":1"#, r#""v":1,"agent":"a""#), "not in canonical form"),
        (good.replace(r#":"a","#, r#": "a","#), "not in canonical form"),
        (good.replace(r#""agent":"a""#, r#""agent":"\u0061""#), "not in canonical form"),
        (good.replace(r#""agent":"a","#, r#""agent":"a","agent":"b","#), "it is not JSON"),
        (good.replace(r#""agent":"a","#, ""), "its member `agent` is missing"),
        (good.replace("2026-11-21T03", "yesterday"), "it does not say when"),
        (settled("call_A", 0).replace(r#""ok""#, r#""fine""#), "its outcome `fine` is unknown"),
        ("[]".to_owned(), "its version is not 1"),
        ("not JSON".to_owned(), "it is not JSON"),
        (String::new(), "it is not JSON"),
    ];
    for (entry, why) in table {
        let (verdict, first_bad, report) = verified(&[refused("call_Z"), entry.clone(), refused("call_Y")]).await;
        assert_eq!((verdict, first_bad), (Verdict::Tampered, Some(1)), "{entry}: {report}");
        assert!(report.contains(why), "`{why}` is not in {report}");
    }
}
