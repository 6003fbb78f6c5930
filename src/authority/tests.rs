//! What is traded, however often, never comes to more than it began with.

use proptest::{prelude::*, strategy::ValueTree as _};

use super::{
    Refused,
    exchange::{Bounds, CHAIN, Wanted, child},
};
use crate::{
    call::{Assurance, Principal},
    clock::Timestamp,
    config::DelegationConfig,
};

const NOW: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn some(of: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(of.to_vec(), 0..=of.len())
        .prop_map(|names| names.into_iter().map(str::to_owned).collect())
}

fn one(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::sample::select(of.to_vec()).prop_map(str::to_owned)
}

const NAMES: &[&str] = &["a", "b", "c", "d"];
const AGENTS: &[&str] = &["bot", "scout", "corp/ann", "bot/x", "scout/y"];

fn principal() -> impl Strategy<Value = Principal> {
    let tools = proptest::option::of(some(NAMES));
    let task = proptest::option::of(one(&["t1", "t2"]));
    let assurance = prop_oneof![Just(Assurance::Bearer), Just(Assurance::Bound)];
    let chain = proptest::sample::subsequence(vec!["p", "q", "scout"], 0..=2);
    (one(AGENTS), some(NAMES), tools, task, 1_i64..8_000, assurance, chain, some(NAMES)).prop_map(
        |(agent, scopes, tools, task, left, assurance, chain, teams)| Principal {
            agent,
            issuer: "https://login.example.com".to_owned(),
            user: Some("ann".to_owned()),
            task,
            teams,
            scopes,
            workload: Some("spiffe://td/w".to_owned()),
            chain: chain.into_iter().map(str::to_owned).collect(),
            tools,
            assurance,
            credential: "corp:1".to_owned(),
            issued: at(NOW),
            expires: at(NOW + left),
        },
    )
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let (scopes, tools) = (proptest::option::of(some(NAMES)), proptest::option::of(some(NAMES)));
    let task = proptest::option::weighted(0.3, one(&["t1", "t2", "over"]));
    let label = proptest::option::of(one(&["x", "y"]));
    let seconds = proptest::option::of(0_i64..5_000);
    (scopes, tools, task, label, seconds).prop_map(|(scopes, tools, task, label, seconds)| Wanted {
        scopes,
        tools,
        task,
        label,
        seconds,
    })
}

/// Whether everything that `one` may, `other` may.
fn within(one: &Principal, other: &Principal) -> bool {
    let of = |some: &[String], all: &[String]| some.iter().all(|name| all.contains(name));
    let tools = match (&one.tools, &other.tools) {
        (_, None) => true,
        (Some(tools), Some(all)) => of(tools, all),
        (None, Some(_)) => false,
    };
    let sure = |assurance: Assurance| assurance != Assurance::Bearer;
    (&one.agent, &one.issuer, &one.user, &one.teams, &one.workload)
        == (&other.agent, &other.issuer, &other.user, &other.teams, &other.workload)
        && tools
        && of(&one.scopes, &other.scopes)
        && one.expires <= other.expires
        && sure(one.assurance) <= sure(other.assurance)
        && (other.task.is_none() || one.task == other.task)
        && one.chain.starts_with(&other.chain)
}

proptest! {
    #[test]
    fn no_sequence_of_trades_comes_to_more_than_it_began_with(
        root in principal(),
        steps in proptest::collection::vec((wanted(), proptest::option::weighted(0.3, principal()), 0_i64..600), 1..14),
        new_tasks in any::<bool>(),
        (ttl, max_ttl) in (1_u64..600, 600_u64..4_000),
    ) {
        let (ttl, max_ttl) = (std::time::Duration::from_secs(ttl), std::time::Duration::from_secs(max_ttl));
        let delegation = DelegationConfig { enabled: true, new_tasks, ttl, max_ttl };
        let (mut token, mut now) = (root.clone(), NOW);
        for (wanted, actor, passed) in steps {
            now += passed;
            let bounds = Bounds { delegation: &delegation, now: at(now), ended: &|task| task == "over" };
            let Ok(next) = child(&token, actor.as_ref(), &wanted, &bounds) else { continue };
            prop_assert!(within(&next, &token) && within(&next, &root), "{next:?}\nof {token:?}\nof {root:?}");
            prop_assert!(next.expires > at(now) && next.expires <= at(now + max_ttl.as_secs() as i64));
            prop_assert!(new_tasks || next.task == root.task);
            prop_assert!(next.task.as_deref() != Some("over"));
            if let Some(actor) = &actor {
                prop_assert!(next.expires <= actor.expires && next.chain.contains(&actor.agent));
            }
            let mut hands: Vec<&String> = next.chain.iter().chain([&next.agent]).collect();
            hands.sort();
            hands.dedup();
            prop_assert!(hands.len() == next.chain.len() + 1 && next.chain.len() <= CHAIN);
            token = next;
        }
    }
}

#[test]
fn a_token_that_is_over_is_traded_for_nothing() {
    let delegation = DelegationConfig::default();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let parent = principal().new_tree(&mut runner).unwrap().current();
    let bounds = Bounds { delegation: &delegation, now: parent.expires, ended: &|_| false };
    let refused = child(&parent, None, &Wanted::default(), &bounds).unwrap_err();
    assert_eq!(refused, Refused::LifetimeWider { most: 0 });
}
