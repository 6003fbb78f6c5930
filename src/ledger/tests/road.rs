//! What the road asks of the ledger: intents, outcomes, refusals, recovery, and what happens when the disk does not.

use std::{collections::BTreeSet, sync::Arc};

use super::*;
use crate::ledger::{
    memory::{Cued, Failure, Memory},
    verify::{Verdict, verify, verify_watched},
};

fn text(entry: &Entry) -> &str {
    std::str::from_utf8(&entry.text).unwrap()
}

#[tokio::test]
async fn an_intent_is_durable_before_it_is_recorded_and_its_outcome_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    let recorded = ledger.intend(house.permitted(&ledger, "bank__pay", "rent")).await.unwrap();
    assert_eq!((recorded.seq(), ledger.size()), (0, 1));
    let call = recorded.call().call().id().to_string();
    ledger
        .write_outcome(&recorded, &answer(r#"{"content":[],"isError":true}"#), 42, &["found".to_owned()])
        .await
        .unwrap();
    let entries = ledger.entries(0, 10).unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry::flaw(&entry.text).is_none()), "{entries:?}");
    assert!(text(&entries[0]).contains(r#""agent":"clerk","arguments":{"bytes":15,"digest":"hmac-sha256:"#));
    let settled = text(&entries[1]);
    assert!(
        settled.contains(&format!(r#""call":"{call}","findings":["found"],"intent":0,"kind":"call.settled""#)),
        "{settled}"
    );
    assert!(settled.contains(r#""outcome":"tool_error""#) && settled.contains(r#""took_us":42,"v":1"#), "{settled}");
    assert!(!text(&entries[0]).contains("rent"), "payloads are kept apart");

    let payload = ledger.payload(0).unwrap().unwrap();
    assert_eq!(payload.bytes, r#"{"what":"rent"}"#);
    let commitment = Commitment::of(&payload.salt, &payload.bytes).name().to_string().replace("sha256:", "");
    assert!(text(&entries[0]).contains(&commitment));
    assert_eq!(ledger.find(&call).unwrap(), entries);
    ledger.close().await;
    drop(ledger);
    assert_eq!(verify(folder.path(), None, None).verdict, Verdict::Holds, "{}", verify(folder.path(), None, None));
}

#[tokio::test]
async fn a_call_that_was_not_sent_is_an_upstream_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    let recorded = ledger.intend(house.permitted(&ledger, "bank__pay", "rent")).await.unwrap();
    let outcome = Outcome::NotSent { why: "down".to_owned(), retry_after_ms: 5, busy: false };
    ledger.write_outcome(&recorded, &outcome, 0, &[]).await.unwrap();
    let settled = ledger.entries(1, 1).unwrap();
    assert!(text(&settled[0]).ends_with(r#""outcome":"upstream_error","took_us":0,"v":1,"why":"not_sent"}"#));
}

#[tokio::test]
async fn a_refusal_is_recorded_with_the_name_as_it_was_given_and_no_argument() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    let hostile = "\u{1}\"\\\u{202e}é".repeat(4_000);
    let (_, caller) = *house
        .received(clock().now(), &hostile, "secret")
        .authenticate(Identified::vouch(Arc::clone(&house.who)))
        .validate(&house.catalog)
        .unwrap_err();
    let pointer = "/\u{7}".repeat(50_000);
    let refused = Refused::InvalidArguments { pointer, problem: "secret".to_owned() };
    let policies = (0..500).map(|at| Arc::from(format!("{at}\u{0}").repeat(900))).collect();
    let reply = ledger.refuse(refused, caller, Basis { policies, set: None }).await;
    assert!(matches!(reply.body(), Body::Refused(_)));
    let entry = ledger.entries(0, 1).unwrap().remove(0);
    assert_eq!(entry::flaw(&entry.text), None);
    assert!(entry.text.len() <= store::LONGEST);
    assert!(!text(&entry).contains("secret"));
}

#[tokio::test]
async fn every_event_is_an_entry_of_its_kind_and_canonical() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let digest = crate::json::Digest([3; 32]);
    let (upstream, tool) = ("bank".to_owned(), "pay".to_owned());
    let events = [
        Event::TokenIssued {
            credential: "jti".to_owned(),
            agent: "clerk".to_owned(),
            user: Some("ana".to_owned()),
            task: Some("t".to_owned()),
            expires: Timestamp::MAX,
            traded: None,
        },
        Event::TokenRevoked { agent: "clerk".to_owned(), credential: Some("jti".to_owned()) },
        Event::ToolRegistered { upstream: upstream.clone(), tool: tool.clone(), contract: digest },
        Event::ToolQuarantined { upstream: upstream.clone(), tool: tool.clone(), why: "changed".to_owned() },
        Event::ToolRejected {
            upstream: upstream.clone(),
            tool: tool.clone(),
            definition: digest,
            by: "ann".to_owned(),
        },
        Event::ToolAccepted { upstream, tool, contract: digest, by: Some("ann".to_owned()) },
        Event::PolicyLoaded { set: digest, policies: 3 },
        Event::MessageRefused {
            agent: "clerk".to_owned(),
            credential: "jti".to_owned(),
            reason: "parse_error".to_owned(),
            method: None,
        },
        Event::TokenIssued {
            credential: "jti2".to_owned(),
            agent: "clerk".to_owned(),
            user: Some("ana".to_owned()),
            task: Some("t".to_owned()),
            expires: Timestamp::MAX,
            traded: Some(Box::new(Traded {
                parent: Some("jti".to_owned()),
                actor: Some("corp:1".to_owned()),
                client: Some("ci".to_owned()),
                chain: vec!["scout".to_owned(), "scout/\"two\"".to_owned()],
                issuer: Some("https://login.example.com".to_owned()),
                scopes: vec!["read".to_owned()],
                tools: Some(Vec::new()),
            })),
        },
        Event::TaskEnded { task: "t".to_owned() },
        Event::ServerStarted { version: "1".to_owned() },
        Event::ServerStopped { why: "asked".to_owned() },
    ];
    for event in events {
        let seq = ledger.note(event.clone()).await.unwrap();
        let entry = ledger.entries(seq, 1).unwrap().remove(0);
        assert_eq!(entry::flaw(&entry.text), None, "{event:?}: {}", text(&entry));
    }
    assert_eq!(ledger.views().pin("bank", "pay"), Some(digest.to_string().as_str()));
}

#[tokio::test]
async fn a_rejection_is_known_after_a_restart_and_until_the_tool_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let (definition, contract) = (crate::json::Digest([3; 32]), crate::json::Digest([4; 32]));
    let (upstream, tool, by) = ("bank".to_owned(), "pay".to_owned(), "ann".to_owned());
    {
        let ledger = open(folder.path());
        let rejected =
            Event::ToolRejected { upstream: upstream.clone(), tool: tool.clone(), definition, by: by.clone() };
        ledger.note(rejected).await.unwrap();
        ledger.close().await;
    }
    // folded from a snapshot
    let ledger = open(folder.path());
    let views = ledger.views();
    let rejection = views.rejection("bank", "pay").unwrap();
    assert_eq!((rejection.by.as_str(), rejection.definition.as_str()), ("ann", definition.to_string().as_str()));
    assert!(views.rejection("bank", "refund").is_none());
    let seq = ledger.note(Event::ToolAccepted { upstream, tool, contract, by: Some(by) }).await.unwrap();
    assert!(ledger.views().rejection("bank", "pay").is_none());
    assert!(text(&ledger.entries(seq, 1).unwrap()[0]).contains(r#""by":"ann","contract":"#));
    ledger.close().await;
}

#[tokio::test]
async fn a_revocation_holds_when_it_is_noted_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let issued = |credential: &str| Event::TokenIssued {
        credential: credential.to_owned(),
        agent: "clerk".to_owned(),
        user: None,
        task: None,
        expires: "2026-11-22T00:00:00Z".parse().unwrap(),
        traded: None,
    };
    {
        let ledger = open(folder.path());
        ledger.note(issued("a")).await.unwrap();
        ledger.note(issued("b")).await.unwrap();
        let revoked = Event::TokenRevoked { agent: "clerk".to_owned(), credential: Some("a".to_owned()) };
        ledger.note(revoked).await.unwrap();
        let views = ledger.views();
        assert!(views.token("a").unwrap().revoked && !views.token("b").unwrap().revoked);
    }
    for _ in 0..2 {
        let ledger = open(folder.path());
        let views = ledger.views();
        assert!(views.token("a").unwrap().revoked && !views.token("b").unwrap().revoked);
        // the second turn starts from the snapshot that the first one left
    }
    let ledger = open(folder.path());
    ledger.note(Event::TokenRevoked { agent: "clerk".to_owned(), credential: None }).await.unwrap();
    ledger.note(issued("c")).await.unwrap();
    let views = ledger.views();
    assert!(views.token("b").unwrap().revoked && !views.token("c").unwrap().revoked);
}

#[tokio::test]
async fn what_comes_from_a_revoked_credential_is_revoked_with_it_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let issued = |credential: &str, agent: &str, parent: Option<&str>, actor: Option<&str>| Event::TokenIssued {
        credential: credential.to_owned(),
        agent: agent.to_owned(),
        user: None,
        task: Some("t".to_owned()),
        expires: "2026-11-22T00:00:00Z".parse().unwrap(),
        traded: Some(Box::new(Traded {
            parent: parent.map(str::to_owned),
            actor: actor.map(str::to_owned),
            chain: actor.map(|_| "scout".to_owned()).into_iter().collect(),
            ..Traded::default()
        })),
    };
    let revoked = |agent: &str, credential: Option<&str>| Event::TokenRevoked {
        agent: agent.to_owned(),
        credential: credential.map(str::to_owned),
    };
    let states = |ledger: &Ledger| {
        let views = ledger.views();
        let mut all: Vec<(String, bool)> =
            views.tokens().map(|(id, token)| (id.to_owned(), token.revoked)).filter(|(id, _)| id.len() == 2).collect();
        all.sort();
        all.into_iter().map(|(id, revoked)| if revoked { id.to_uppercase() } else { id }).collect::<Vec<_>>().join(" ")
    };
    {
        let ledger = open(folder.path());
        for event in [
            issued("a0", "clerk", None, None),
            issued("a1", "clerk", Some("a0"), None),
            issued("a2", "clerk", Some("a1"), None),
            issued("b0", "clerk", Some("corp:x"), None),
            issued("b1", "clerk", Some("b0"), Some("corp:y")),
            issued("b2", "clerk", Some("b1"), None),
            issued("c0", "other", None, None),
            issued("c1", "other", Some("c0"), Some("corp:y")),
        ] {
            ledger.note(event).await.unwrap();
        }
        assert_eq!(states(&ledger), "a0 a1 a2 b0 b1 b2 c0 c1");
        ledger.note(revoked("clerk", Some("a0"))).await.unwrap();
        assert_eq!(states(&ledger), "A0 A1 A2 b0 b1 b2 c0 c1");
        // the credential of a sub-agent, that was issued elsewhere
        ledger.note(revoked("scout", Some("corp:y"))).await.unwrap();
        assert_eq!(states(&ledger), "A0 A1 A2 b0 B1 B2 c0 C1");
        // a child that was on its way when its parent was revoked
        ledger.note(issued("a3", "clerk", Some("a0"), None)).await.unwrap();
        assert_eq!(states(&ledger), "A0 A1 A2 A3 b0 B1 B2 c0 C1");
        ledger.note(issued("c2", "other", Some("c0"), Some("corp:z"))).await.unwrap();
        ledger.note(Event::TaskEnded { task: "t".to_owned() }).await.unwrap();
    }
    for _ in 0..2 {
        let ledger = open(folder.path());
        assert_eq!(states(&ledger), "A0 A1 A2 A3 b0 B1 B2 c0 C1 c2");
        assert!(ledger.views().is_ended("t") && !ledger.views().is_ended("u"));
        // the second turn starts from the snapshot that the first one left
    }
    let ledger = open(folder.path());
    assert_eq!(ledger.views().revoked_until("scout"), None);
    // whoever had it in its hands
    ledger.note(revoked("scout", None)).await.unwrap();
    assert_eq!(states(&ledger), "A0 A1 A2 A3 b0 B1 B2 c0 C1 C2");
    ledger.note(revoked("clerk", None)).await.unwrap();
    assert_eq!(states(&ledger), "A0 A1 A2 A3 B0 B1 B2 c0 C1 C2");
    let before = ledger.views();
    assert!(before.revoked_until("clerk").is_some() && before.revoked_until("other").is_none());
    drop(ledger);
    let ledger = open(folder.path());
    let after = ledger.views();
    assert!(before.tokens().all(|(id, token)| after.token(id) == Some(token)));
    assert_eq!(before.revoked_until("clerk"), after.revoked_until("clerk"));
}

#[tokio::test]
async fn a_credential_is_forgotten_a_while_after_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let clock = clock();
    let (ledger, _) = Ledger::open(folder.path(), options(), clock.clone()).unwrap();
    let issued = |credential: &str, expires: Timestamp| Event::TokenIssued {
        credential: credential.to_owned(),
        agent: "clerk".to_owned(),
        user: None,
        task: None,
        expires,
        traded: None,
    };
    ledger.note(issued("old", clock.now())).await.unwrap();
    clock.advance(jiff::SignedDuration::from_hours(23));
    ledger.note(issued("b", clock.now())).await.unwrap();
    assert!(ledger.views().token("old").is_some());
    clock.advance(jiff::SignedDuration::from_hours(2));
    ledger.note(issued("c", clock.now())).await.unwrap();
    assert!(ledger.views().token("old").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_are_grouped_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let house = Arc::new(House::new());
    let ledger = open(folder.path());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..32 {
        let (ledger, house) = (ledger.clone(), Arc::clone(&house));
        tasks.spawn(async move {
            let mut seqs = Vec::new();
            for turn in 0..20 {
                let tool = if turn % 2 == 0 { "bank__pay" } else { "files__look" };
                seqs.push(ledger.call(&house, tool, &format!("{task} {turn}")).await);
            }
            seqs
        });
    }
    let seqs: BTreeSet<u64> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(seqs.len(), 640);
    ledger.close().await;
    assert_eq!(ledger.size(), 1_280);
    for seq in seqs {
        let payload = ledger.payload(seq).unwrap().unwrap();
        assert!(text(&ledger.entries(seq, 1).unwrap()[0]).contains("call.intended"));
        assert!(payload.bytes.starts_with(b"{\"what\":"));
    }
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!((report.verdict, report.signed), (Verdict::Holds, Some(1_280)), "{report}");
}

#[tokio::test]
async fn batched_reads_go_ahead_and_are_durable_soon() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let options = Options { batched_reads: true, ..options() };
    let (ledger, _) = Ledger::open(folder.path(), options, clock()).unwrap();
    for turn in 0..50 {
        let recorded = ledger.intend(house.permitted(&ledger, "files__look", "x")).await.unwrap();
        assert_eq!(recorded.seq(), 2 * turn);
        ledger.write_outcome(&recorded, &answer("{}"), 1, &[]).await.unwrap();
    }
    // whatever is durable is a prefix, and a call with effects waits for all of it
    let recorded = ledger.intend(house.permitted(&ledger, "bank__pay", "x")).await.unwrap();
    assert_eq!((recorded.seq(), ledger.size()), (100, 101));
}

fn start(store: Arc<dyn Store>, folder: &std::path::Path) -> (Ledger, Recovery) {
    Ledger::start(folder, store, None, options(), clock()).unwrap()
}

#[tokio::test]
async fn an_intent_without_outcome_is_settled_as_unknown_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::default();
    let house = House::new();
    let (ledger, recovery) = start(Arc::new(memory.clone()), folder.path());
    assert_eq!(recovery, Recovery::default());
    ledger.call(&house, "bank__pay", "done").await;
    let open = ledger.intend(house.permitted(&ledger, "bank__pay", "lost")).await.unwrap();
    // a crash: nothing of it runs any more
    std::mem::forget(ledger);
    let (ledger, recovery) = start(Arc::new(memory.clone()), folder.path());
    assert_eq!(recovery, Recovery { orphans: vec![2], size: 4 });
    let settled = ledger.entries(3, 1).unwrap().remove(0);
    let call = open.call().call().id();
    assert!(
        text(&settled).contains(&format!(r#""call":"{call}","intent":2,"kind":"call.settled","outcome":"unknown""#))
    );
    assert!(text(&settled).ends_with(r#""why":"crash"}"#));
    drop(ledger);
    assert_eq!(start(Arc::new(memory), folder.path()).1, Recovery { orphans: vec![], size: 4 });
}

#[tokio::test]
async fn closing_settles_what_is_open_and_refuses_what_comes() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    let recorded = ledger.intend(house.permitted(&ledger, "bank__pay", "slow")).await.unwrap();
    ledger.close().await;
    assert!(text(&ledger.entries(1, 1).unwrap()[0]).ends_with(r#""outcome":"unknown","v":1,"why":"stopping"}"#));
    ledger.write_outcome(&recorded, &answer("{}"), 1, &[]).await.unwrap_err();
    ledger.intend(house.permitted(&ledger, "bank__pay", "late")).await.unwrap_err();
    ledger.note(Event::ServerStopped { why: "late".to_owned() }).await.unwrap_err();
    ledger.close().await;
}

#[tokio::test]
async fn a_write_that_fails_refuses_the_call_and_all_that_come_after() {
    for (failure, orphans) in [(Failure::Unwritten, vec![]), (Failure::Written, vec![2])] {
        let folder = tempfile::tempdir().unwrap();
        let memory = Memory::default();
        let house = House::new();
        let store = Arc::new(Cued::new(Arc::new(memory.clone())));
        let (ledger, _) = start(Arc::clone(&store) as Arc<dyn Store>, folder.path());
        ledger.call(&house, "bank__pay", "good").await;
        assert!(ledger.healthy());
        store.fail_next(failure);
        let (refused, ..) = *ledger.intend(house.permitted(&ledger, "bank__pay", "bad")).await.unwrap_err();
        assert!(matches!(refused, Refused::Unavailable(_)));
        assert!(!ledger.healthy());
        let (refused, caller, basis) =
            *ledger.intend(house.permitted(&ledger, "bank__pay", "worse")).await.unwrap_err();
        assert!(matches!(ledger.refuse(refused, caller, basis).await.body(), Body::Refused(_)));
        ledger.checkpoint().await.unwrap_err();
        drop(ledger);
        // what nobody was told of may be there: then nobody knows how it ended
        assert_eq!(start(Arc::new(memory), folder.path()).1.orphans, orphans);
    }
}

#[tokio::test]
async fn an_outcome_that_cannot_be_written_is_answered_as_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let store = Arc::new(Cued::new(Arc::new(Memory::default())));
    let (ledger, _) = start(Arc::clone(&store) as Arc<dyn Store>, folder.path());
    let recorded = ledger.intend(house.permitted(&ledger, "bank__pay", "x")).await.unwrap();
    let tool = Arc::clone(recorded.call().call().tool());
    store.fail_next(Failure::Unwritten);
    let upstreams = crate::upstream::Upstreams::new(&BTreeMap::new(), Default::default(), Arc::default());
    let forwarded = upstreams.forward(recorded).await;
    let reply = ledger.settle(tool.inspect(forwarded)).await;
    assert!(matches!(reply.body(), Body::Unknown { why: "ledger" }), "{reply:?}");
    assert!(!ledger.healthy());
}

#[tokio::test]
async fn long_payloads_lie_beside_the_store_and_redacting_keeps_the_log_whole() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    let long = "long ".repeat(100_000);
    let seq = ledger.call(&house, "bank__pay", &long).await;
    assert_eq!(ledger.payload(seq).unwrap().unwrap().bytes.len(), long.len() + 11);
    let files = || walk(&folder.path().join("payloads"));
    assert_eq!(files().len(), 1);
    assert!(ledger.redact(seq).await.unwrap().is_some());
    assert_eq!(ledger.payload(seq).unwrap(), None);
    assert_eq!(ledger.redact(seq).await.unwrap(), None);
    assert!(files().is_empty());
    assert!(ledger.payload(seq + 1).unwrap().is_some(), "the result is still there");
    ledger.close().await;
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!(report.verdict, Verdict::Holds, "{report}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for item in std::fs::read_dir(folder).into_iter().flatten() {
        let path = item.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn listing_goes_backwards_through_a_filter() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let clock = clock();
    let (ledger, _) = Ledger::open(folder.path(), options(), clock.clone()).unwrap();
    for turn in 0..600 {
        clock.advance(jiff::SignedDuration::from_secs(1));
        ledger.call(&house, if turn % 3 == 0 { "bank__pay" } else { "files__look" }, "x").await;
    }
    // the outcomes of reads are not waited for
    ledger.close().await;
    let filter = Filter { tool: Some("bank__pay".to_owned()), ..Filter::default() };
    let listed: Vec<u64> = ledger.list(&filter, 3).unwrap().iter().map(|entry| entry.seq).collect();
    // an outcome is found by what its intent says
    assert_eq!(listed, [1_195, 1_194, 1_189]);
    let (selected, next) = ledger.select(&filter, 1_182, 3).unwrap();
    assert_eq!(selected.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1_182, 1_183, 1_188]);
    assert_eq!(next, 1_189);
    assert_eq!(ledger.select(&filter, 1_200, 3).unwrap(), (Vec::new(), 1_200));
    let filter = Filter { before: Some(1_182), kind: Some("call.intended".to_owned()), ..filter };
    assert_eq!(ledger.list(&filter, 1).unwrap()[0].seq, 1_176);
    let filter =
        Filter { since: "2026-11-21T03:09:59Z".parse().ok(), kind: Some("call.".to_owned()), ..Filter::default() };
    assert_eq!(ledger.list(&filter, 100).unwrap().len(), 4);
    let filter = Filter { agent: Some("nobody".to_owned()), ..Filter::default() };
    assert!(ledger.list(&filter, 100).unwrap().is_empty());
    let mut out = Vec::new();
    assert_eq!(ledger.export(1_190, &mut out).unwrap(), 10);
    assert!(out.ends_with(b",\"seq\":1199}\n"));
}

#[tokio::test]
async fn the_newest_entries_come_page_by_page_by_what_they_say_and_when() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let clock = clock();
    let (ledger, _) = Ledger::open(folder.path(), options(), clock.clone()).unwrap();
    for turn in 0..40 {
        clock.advance(jiff::SignedDuration::from_secs(1));
        ledger.call(&house, if turn % 3 == 0 { "bank__pay" } else { "files__look" }, "x").await;
    }
    let recorded = ledger.intend(house.permitted(&ledger, "bank__pay", "x")).await.unwrap();
    ledger.write_outcome(&recorded, &Outcome::Unknown { why: "died", detail: String::new() }, 1, &[]).await.unwrap();
    ledger.close().await;
    let seqs = |entries: &[Entry]| entries.iter().map(|entry| entry.seq).collect::<Vec<_>>();
    let all = Filter::default();
    let (page, next) = ledger.latest(&all, 3).unwrap();
    assert_eq!((seqs(&page), next), (vec![81, 80, 79], Some(79)));
    let (page, next) = ledger.latest(&Filter { before: Some(2), ..all.clone() }, 3).unwrap();
    assert_eq!((seqs(&page), next), (vec![1, 0], None));
    let unknown = Filter { outcome: Some("unknown".to_owned()), ..all.clone() };
    assert_eq!(ledger.latest(&unknown, 9).map(|(page, next)| (seqs(&page), next)).unwrap(), (vec![81], None));
    let call = entry::member(&ledger.entries(80, 1).unwrap()[0].text, "call").unwrap().to_owned();
    let said = Filter { text: Some(call), ..all.clone() };
    assert_eq!(seqs(&ledger.latest(&said, 9).unwrap().0), [81, 80]);
    let quoted = Filter { text: Some(r#""kind":"#.to_owned()), ..all.clone() };
    assert!(ledger.latest(&quoted, 9).unwrap().0.is_empty(), "a text is what stands in a member");
    let (from, until) = ("2026-11-21T03:00:02Z".parse().ok(), "2026-11-21T03:00:04Z".parse().ok());
    let window = Filter { since: from, until, ..all };
    assert_eq!(seqs(&ledger.latest(&window, 9).unwrap().0), [5, 4, 3, 2]);
    assert_eq!(seqs(&ledger.select(&window, 0, 9).unwrap().0), [2, 3, 4, 5]);
    let paying = Filter { tool: Some("bank__pay".to_owned()), ..window };
    assert_eq!(ledger.latest(&paying, 9).map(|(page, next)| (page.len(), next)).unwrap(), (0, None));
}

#[tokio::test]
async fn a_summary_goes_on_from_look_to_look_and_says_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let clock = clock();
    let (ledger, _) = Ledger::open(folder.path(), options(), clock.clone()).unwrap();
    let look = |ledger: &Ledger| {
        let now = clock.now();
        ledger.summed(now, |summary| (summary.total(now, HOURS).all, summary.since(now, HOURS))).unwrap()
    };
    assert_eq!(look(&ledger).0, Counts::default());
    for _ in 0..3 {
        ledger.call(&house, "bank__pay", "x").await;
    }
    let (all, since) = look(&ledger);
    assert_eq!((all.permitted, all.ok, since), (3, 3, None));
    clock.advance(jiff::SignedDuration::from_hours(2));
    ledger.call(&house, "bank__pay", "x").await;
    let (all, _) = look(&ledger);
    assert_eq!((all.permitted, all.last), (4, Some(clock.now())));
    // more than one look reads: it begins anew, and says from when on it counts
    clock.advance(jiff::SignedDuration::from_hours(1));
    for _ in 0..1_200 {
        ledger.call(&house, "bank__pay", "x").await;
    }
    let (all, since) = look(&ledger);
    assert_eq!((all.permitted, since), (1_024, Some(clock.now())));
    // what is older than a week is not counted any more
    clock.advance(jiff::SignedDuration::from_hours(HOURS));
    assert_eq!(look(&ledger).0, Counts::default());
    ledger.close().await;
}

#[tokio::test]
async fn a_verification_tells_how_far_it_is_and_can_be_broken_off() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    for _ in 0..300 {
        ledger.call(&house, "bank__pay", "x").await;
    }
    ledger.close().await;
    drop(ledger);
    let mut told = Vec::new();
    let report = verify_watched(folder.path(), &[], None, &mut |entries| {
        told.push(entries);
        true
    });
    assert_eq!((report.verdict, report.entries, told), (Verdict::Holds, 600, vec![256, 512]), "{report}");
    let report = verify_watched(folder.path(), &[], None, &mut |_| false);
    assert_eq!((report.verdict, report.entries), (Verdict::CannotTell, 256), "{report}");
    assert!(report.problems.is_empty(), "{report}");
}

#[tokio::test]
async fn a_receipt_verifies_with_nothing_but_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    for _ in 0..150 {
        ledger.call(&house, "bank__pay", "x").await;
    }
    let proof = ledger.prove(7).await.unwrap();
    let (head, note) = proof.split_once("\n\n").unwrap();
    let mut lines = head.lines();
    assert_eq!(lines.next(), Some("c2sp.org/tlog-proof@v1"));
    assert_eq!(lines.next(), Some("index 7"));
    let path: Vec<tree::Hash> = lines.map(|line| BASE64.decode(line).unwrap().try_into().unwrap()).collect();
    let key = note::VerifierKey::parse(&ledger.verifier_key()).unwrap();
    let checkpoint = Checkpoint::open(note, &key).unwrap();
    let entry = ledger.entries(7, 1).unwrap().remove(0);
    assert!(tree::included(&tree::leaf(&entry.text), 7, checkpoint.size, &path, &checkpoint.root));
    ledger.prove(300).await.unwrap_err();
}

#[tokio::test]
async fn publishing_that_fails_is_told_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    let in_the_way = folder.path().join("tlog/tile/entries");
    std::fs::write(&in_the_way, "").unwrap();
    let seq = ledger.call(&house, "bank__pay", "x").await;
    ledger.checkpoint().await.unwrap_err();
    assert_eq!(ledger.troubles(), ["ledger_unpublished"]);
    assert!(!ledger.healthy());
    ledger.call(&house, "bank__pay", "calls go on").await;
    std::fs::remove_file(&in_the_way).unwrap();
    ledger.checkpoint().await.unwrap();
    assert!(ledger.healthy());
    ledger.prove(seq).await.unwrap();
    ledger.close().await;
    drop(ledger);
    let report = verify(folder.path(), None, None);
    assert_eq!((report.verdict, report.signed), (Verdict::Holds, Some(4)), "{report}");
}

#[tokio::test]
async fn a_result_that_cannot_be_kept_is_settled_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::new();
    let ledger = open(folder.path());
    let in_the_way = folder.path().join("payloads");
    std::fs::write(&in_the_way, "").unwrap();
    let long: &'static str = format!(r#"{{"content":["{}"]}}"#, "long ".repeat(20_000)).leak();
    let settled = async |what| {
        let recorded = ledger.intend(house.permitted(&ledger, "bank__pay", what)).await.unwrap();
        ledger.write_outcome(&recorded, &answer(long), 42, &[]).await.unwrap();
        recorded.seq() + 1
    };
    let seq = settled("first").await;
    let entry = ledger.entries(seq, 1).unwrap().remove(0);
    assert!(text(&entry).contains(r#""outcome":"ok""#) && text(&entry).contains(r#""result":{"#), "{}", text(&entry));
    assert_eq!(ledger.payload(seq).unwrap(), None);
    assert_eq!(ledger.troubles(), ["payloads_unwritable"]);
    // arguments that cannot be kept refuse the call
    let refused = ledger.intend(house.permitted(&ledger, "bank__pay", long)).await.unwrap_err();
    assert!(matches!(refused.0, Refused::Unavailable(_)));
    std::fs::remove_file(&in_the_way).unwrap();
    let seq = settled("second").await;
    assert!(ledger.payload(seq).unwrap().is_some());
    assert!(ledger.healthy());
}
