//! Who has called, as far as is looked.

use super::*;
use crate::ledger::committer::{Effect, Item};

#[tokio::test]
async fn who_has_called_is_told_by_issuer_with_what_was_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let at = |second: u64| format!(r#""at":"2026-11-21T03:00:{second:02}.000000Z""#);
    let entry = |second: u64, agent: &str, credential: &str, issuer: &str, kind: &str| {
        let issuer = if issuer.is_empty() { String::new() } else { format!(r#""issuer":"{issuer}","#) };
        format!(r#"{{"agent":"{agent}",{},"credential":"{credential}",{issuer}"kind":"{kind}","v":1}}"#, at(second))
    };
    for text in [
        entry(0, "old", "o", "ours", "call.intended"),
        entry(1, "a", "x", "ours", "call.intended"),
        entry(2, "a", "y", "theirs", "call.refused"),
        entry(3, "a", "x", "ours", "call.held"),
        entry(4, "b\\\"q", "z", "", "call.refused"),
        entry(5, "a", "y", "", "call.refused"),
        entry(6, "a", "n", "", "token.revoked"),
    ] {
        ledger.inner.committer.write(Item::new(text.into_bytes(), Effect::None)).await.unwrap();
    }
    let seen = ledger.callers_within(6).unwrap();
    let told: Vec<_> = seen
        .callers
        .iter()
        .map(|caller| {
            let counts = (caller.permitted, caller.held, caller.refused);
            (caller.agent.as_str(), caller.issuer.as_deref(), caller.last.unwrap().strftime("%S").to_string(), counts)
        })
        .collect();
    let expected = [
        ("a", Some("theirs"), "05".to_owned(), (0, 0, 2)),
        ("b\"q", None, "04".to_owned(), (0, 0, 1)),
        ("a", Some("ours"), "03".to_owned(), (1, 1, 0)),
    ];
    assert_eq!(told, expected);
    assert_eq!((seen.looked_at, seen.since.map(|at| at.to_string())), (6, Some("2026-11-21T03:00:01Z".to_owned())));
    let whole = ledger.callers().unwrap();
    assert_eq!((whole.callers.len(), whole.looked_at, whole.since, whole.left_out), (4, 7, None, 0));
}
