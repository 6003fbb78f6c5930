//! What grants decide, one line a case where that reads best.

use std::{collections::BTreeSet, path::PathBuf};

use proptest::prelude::*;
use serde_json::json;

use super::{
    Asked, ConfigError, Explained, Grants, Past, PolicyOutcome, Sessions, Source, Visibility,
    decide::{Question, Verdict},
    schema::Vocabulary,
    session::Facts,
};
use crate::{
    call::{Assurance, Operation, Principal, Refused},
    clock::Timestamp,
    contract::{Impact, UpstreamName},
    json::{Canonical, Value},
};

fn upstream(name: &str) -> UpstreamName {
    UpstreamName::new(name).unwrap()
}

/// The bank of the quickstart, a file server and a tool with every type in its arguments.
fn words() -> Vocabulary {
    let amount = json!({"type": "integer"});
    let text = json!({"type": "string"});
    let object = |properties: serde_json::Value, required: &[&str]| json!({"type": "object", "properties": properties, "required": required});
    let account = object(json!({"account": text}), &["account"]);
    let mut words = Vocabulary::default();
    let mut add = |name: &str, impact: &[Impact], labels: &[&str], schema: &serde_json::Value| {
        let house = upstream(name.split("__").next().unwrap());
        let impact: BTreeSet<Impact> = impact.iter().copied().collect();
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        words.add(name, &house, Some(&impact), &labels, schema);
    };
    add("bank__balance", &[Impact::Read], &["money"], &account);
    let transfer = object(json!({"from": text, "to": text, "amount": amount, "memo": text}), &["from", "to", "amount"]);
    add("bank__transfer", &[Impact::Spend], &["money"], &transfer);
    let refund = object(json!({"account": text, "amount": amount}), &["account", "amount"]);
    add("bank__refund", &[Impact::Spend], &["money"], &refund);
    add("bank__close_account", &[Impact::Destructive], &["money"], &account);
    add("files__read_file", &[Impact::Read], &[], &object(json!({"path": text}), &["path"]));
    let write = object(json!({"path": text, "content": text}), &["path", "content"]);
    add("files__write_file", &[Impact::Write, Impact::Destructive], &[], &write);
    let every = object(
        json!({
            "price": {"type": "number"}, "flag": {"type": "boolean"}, "tags": {"type": "array", "items": text},
            "address": object(json!({"zip code": text, "lat": {"type": "number"}}), &["zip code"]),
            "either": {"type": ["string", "integer"]},
        }),
        &["price"],
    );
    add("shop__order", &[Impact::Spend, Impact::Egress], &[], &every);
    words.finish()
}

fn compile(text: &str) -> Result<Grants, Vec<ConfigError>> {
    let source = Source { file: PathBuf::from("grants/test.cedar"), text: text.to_owned() };
    Grants::compile_words(&[source], words())
}

fn grants(text: &str) -> Grants {
    compile(text).unwrap_or_else(|errors| panic!("{}", errors.iter().map(|e| format!("{e}\n")).collect::<String>()))
}

fn now() -> Timestamp {
    "2026-11-20T12:00:00Z".parse().unwrap()
}

fn agent(name: &str) -> Principal {
    Principal {
        agent: name.to_owned(),
        issuer: "countersign".to_owned(),
        user: None,
        task: None,
        teams: Vec::new(),
        scopes: Vec::new(),
        workload: None,
        chain: Vec::new(),
        tools: None,
        assurance: Assurance::Bearer,
        credential: String::new(),
        issued: now(),
        expires: now(),
    }
}

fn tree(json: &serde_json::Value) -> Value {
    Canonical::of(Value::from(json)).unwrap().tree().clone()
}

fn settle(
    grants: &Grants,
    who: &Principal,
    tool: &str,
    args: &serde_json::Value,
    sessions: &Sessions,
    at: Timestamp,
) -> Verdict {
    let site = grants.site(tool, &upstream(tool.split("__").next().unwrap())).expect("a known tool");
    let arguments = tree(args);
    grants.settle(Question { who, site, arguments: Some(&arguments), now: at }, tool, sessions, None)
}

/// `permit by ID`, `hold ROLE/APPROVALS/SECONDS … by ID …`, `deny CODE by ID …`.
fn told(grants: &Grants, verdict: &Verdict) -> String {
    let ids = |places: &[u32]| match grants.basis(places).policies.join(" ") {
        none if none.is_empty() => String::new(),
        ids => format!(" by {ids}"),
    };
    match verdict {
        Verdict::Permit { permit, .. } => format!("permit{}", ids(&[*permit])),
        Verdict::Hold { policies, demands } => {
            let demands: Vec<String> = demands
                .iter()
                .map(|demand| format!("{}/{}/{}", demand.role, demand.approvals, demand.expires))
                .collect();
            format!("hold {}{}", demands.join(" "), ids(policies))
        }
        Verdict::Deny { refused, policies } => format!("deny {}{}", refused.code(), ids(policies)),
    }
}

fn decided(policies: &str, who: &Principal, tool: &str, args: &serde_json::Value) -> String {
    let grants = grants(policies);
    told(&grants, &settle(&grants, who, tool, args, &Sessions::default(), now()))
}

const REFUNDS: &str = r#"
@id("small") permit (principal == Agent::"bot", action == Action::"bank__refund", resource)
when { context.input.amount <= 100 };
@id("large") @hold("finance") @expires("15m") permit (principal == Agent::"bot", action == Action::"bank__refund", resource)
when { context.input.amount <= 5000 };
@id("close") permit (principal == Agent::"bot", action == Action::"bank__close_account", resource);
@id("destructive") @hold("oncall") @approvals("2") forbid (principal, action in Action::"destructive", resource);
@id("never-bob") @reason("bob is under audit") forbid (principal, action in Action::"spend", resource)
when { context.input has account && context.input.account == "bob" };
"#;

#[test]
fn the_verdict_of_the_design() {
    let refund = |amount: i64| json!({"account": "alice", "amount": amount});
    let bot = agent("bot");
    for (who, tool, args, expected) in [
        ("bot", "bank__refund", refund(100), "permit by small"),
        ("bot", "bank__refund", refund(101), "hold finance/1/900 by large"),
        ("bot", "bank__refund", refund(5000), "hold finance/1/900 by large"),
        ("bot", "bank__refund", refund(5001), "deny not_granted"),
        ("other", "bank__refund", refund(1), "deny not_granted"),
        ("bot", "bank__balance", json!({"account": "alice"}), "deny not_granted"),
        ("bot", "bank__close_account", json!({"account": "alice"}), "hold oncall/2/900 by destructive close"),
        ("bot", "bank__refund", json!({"account": "bob", "amount": 1}), "deny forbidden by never-bob"),
        ("other", "bank__refund", json!({"account": "bob", "amount": 1}), "deny forbidden by never-bob"),
        ("other", "bank__close_account", json!({"account": "alice"}), "deny not_granted"),
    ] {
        assert_eq!(decided(REFUNDS, &agent(who), tool, &args), expected, "{who} {tool} {args}");
    }
    let grants = grants(REFUNDS);
    let args = json!({"account": "bob", "amount": 1});
    let Verdict::Deny { refused, .. } = settle(&grants, &bot, "bank__refund", &args, &Sessions::default(), now())
    else {
        panic!("not denied")
    };
    assert_eq!(refused, Refused::Forbidden { reason: Some("bob is under audit".to_owned()) });
}

#[test]
fn combinations_of_effects_and_holds() {
    let any = "(principal, action == Action::\"bank__balance\", resource)";
    let cases: &[(&str, &str)] = &[
        ("", "deny not_granted"),
        ("@id(\"p\") permit ANY;", "permit by p"),
        ("@id(\"f\") forbid ANY;", "deny forbidden by f"),
        ("@id(\"p\") permit ANY; @id(\"f\") forbid ANY;", "deny forbidden by f"),
        ("@id(\"h\") @hold(\"r\") forbid ANY;", "deny not_granted"),
        ("@id(\"p\") permit ANY; @id(\"h\") @hold(\"r\") forbid ANY;", "hold r/1/900 by h p"),
        ("@id(\"p\") permit ANY; @id(\"h\") @hold(\"r\") forbid ANY; @id(\"f\") forbid ANY;", "deny forbidden by f"),
        ("@id(\"p\") @hold(\"r\") permit ANY; @id(\"q\") permit ANY;", "permit by q"),
        ("@id(\"p\") @hold(\"r\") permit ANY; @id(\"h\") @hold(\"s\") forbid ANY;", "hold s/1/900 r/1/900 by h p"),
        (
            "@id(\"a\") @hold(\"r\") @approvals(\"2\") permit ANY; @id(\"b\") @hold(\"s\") permit ANY;",
            "hold s/1/900 by b",
        ),
        (
            "@id(\"a\") @hold(\"r\") permit ANY; @id(\"b\") @hold(\"s\") @expires(\"1h\") permit ANY;",
            "hold s/1/3600 by b",
        ),
        ("@id(\"b\") @hold(\"r\") permit ANY; @id(\"a\") @hold(\"s\") permit ANY;", "hold s/1/900 by a"),
        (
            "@id(\"p\") permit ANY; @id(\"g\") @hold(\"r\") forbid ANY; @id(\"h\") @hold(\"s\") forbid ANY;",
            "hold r/1/900 s/1/900 by g h p",
        ),
        ("@id(\"p\") permit ANY; @id(\"q\") @limit(\"1/day\") permit ANY;", "permit by p"),
        ("@id(\"p\") @until(\"2026-11-20T12:00:00Z\") permit ANY;", "deny not_granted"),
        ("@id(\"p\") @until(\"2026-11-20T12:00:01Z\") permit ANY;", "permit by p"),
        ("@id(\"p\") permit ANY; @id(\"f\") @until(\"2026-11-20T12:00:00Z\") forbid ANY;", "permit by p"),
        ("@id(\"p\") permit ANY; @id(\"f\") @until(\"2026-11-20T12:00:01Z\") forbid ANY;", "deny forbidden by f"),
    ];
    for (policies, expected) in cases {
        let args = json!({"account": "alice"});
        assert_eq!(
            decided(&policies.replace("ANY", any), &agent("bot"), "bank__balance", &args),
            *expected,
            "{policies}"
        );
    }
}

#[test]
fn every_part_of_a_request_can_be_looked_at() {
    let permit = |condition: &str| format!("@id(\"p\") permit (principal, action, resource) when {{ {condition} }};");
    let mut who = agent("bot");
    who.user = Some("ann".to_owned());
    who.task = Some("t-1".to_owned());
    who.workload = Some("spiffe://house/bot".to_owned());
    who.teams = vec!["ops".to_owned(), "dev".to_owned()];
    who.scopes = vec!["pay".to_owned()];
    let order = json!({"price": 12.5, "flag": true, "tags": ["a", "b"], "address": {"zip code": "1010", "lat": 48.2}});
    for (condition, holds) in [
        ("principal == Agent::\"bot\"", true),
        ("principal in Team::\"ops\"", true),
        ("principal in Team::\"sales\"", false),
        ("principal.issuer == \"countersign\"", true),
        ("principal has user && principal.user == \"ann\"", true),
        ("principal has task && principal.task like \"t-*\"", true),
        ("principal has workload && principal.workload like \"spiffe://house/*\"", true),
        ("principal.teams.contains(\"dev\") && principal.scopes.contains(\"pay\")", true),
        ("action in Action::\"egress\" && action in Action::\"call\"", true),
        ("action in Action::\"read\"", false),
        ("resource == Upstream::\"shop\"", true),
        ("resource.labels.contains(\"money\")", false),
        ("context.now < datetime(\"2026-11-20T12:00:01Z\") && context.now >= datetime(\"2026-11-20\")", true),
        ("context.session.calls == 0 && context.session.age_seconds == 0 && context.session.labels.isEmpty()", true),
    ] {
        let expected = if holds { "permit by p" } else { "deny not_granted" };
        assert_eq!(decided(&permit(condition), &who, "shop__order", &order), expected, "{condition}");
    }
    let permit = |condition: &str| {
        format!("@id(\"p\") permit (principal, action == Action::\"shop__order\", resource) when {{ {condition} }};")
    };
    for (condition, holds) in [
        ("context.input.price.lessThan(decimal(\"12.51\"))", true),
        ("context.input.price.greaterThan(decimal(\"12.5\"))", false),
        ("context.input has flag && context.input.flag", true),
        ("context.input has tags && context.input.tags.containsAll([\"b\"])", true),
        ("context.input has address && context.input.address[\"zip code\"] == \"1010\"", true),
        ("context.input has address.lat && context.input.address.lat.lessThan(decimal(\"48.3\"))", true),
    ] {
        let expected = if holds { "permit by p" } else { "deny not_granted" };
        assert_eq!(decided(&permit(condition), &who, "shop__order", &order), expected, "{condition}");
    }
}

#[test]
fn a_number_that_a_decimal_cannot_hold_refuses_only_where_a_policy_looks() {
    let looks = "@id(\"p\") permit (principal, action == Action::\"shop__order\", resource)
        when { context.input.price.lessThan(decimal(\"100.0\")) };";
    let blind = "@id(\"p\") permit (principal, action == Action::\"shop__order\", resource);";
    let grants = grants(looks);
    for (price, problem) in [
        (json!(1.00001), "has more decimal places than a grant can compare (4)"),
        (json!(1e-7), "has more decimal places than a grant can compare (4)"),
        (json!(1e15), "is beyond what a grant can compare (±922337203685477.5807)"),
    ] {
        let args = json!({"price": price});
        let verdict = settle(&grants, &agent("bot"), "shop__order", &args, &Sessions::default(), now());
        let Verdict::Deny { refused: Refused::InvalidArguments { pointer, problem: told }, .. } = verdict else {
            panic!("{price}: {verdict:?}")
        };
        assert_eq!((pointer.as_str(), told.as_str()), ("/price", problem), "{price}");
        assert_eq!(decided(blind, &agent("bot"), "shop__order", &args), "permit by p");
    }
    for price in [json!(-1.2345), json!(0), json!(99)] {
        let args = json!({"price": price});
        assert_eq!(decided(looks, &agent("bot"), "shop__order", &args), "permit by p", "{price}");
    }
}

#[test]
fn an_error_in_any_policy_refuses() {
    let overflow = "context.input.amount * 9223372036854775807 > 0";
    let permit = "@id(\"p\") permit (principal, action == Action::\"bank__refund\", resource);";
    let args = json!({"account": "alice", "amount": 3});
    for (effect, expected) in [
        ("permit", "deny policy_error by e"),
        ("forbid", "deny policy_error by e"),
        ("@hold(\"r\") forbid", "deny policy_error by e"),
        ("@until(\"2020-01-01T00:00:00Z\") forbid", "permit by p"),
    ] {
        let erring = format!(
            "@id(\"e\") {effect} (principal, action == Action::\"bank__refund\", resource) when {{ {overflow} }};"
        );
        assert_eq!(decided(&format!("{permit} {erring}"), &agent("bot"), "bank__refund", &args), expected, "{effect}");
    }
    let erring = format!(
        "{permit} @id(\"e\") forbid (principal, action == Action::\"bank__refund\", resource) when {{ {overflow} }};"
    );
    let grants = grants(&erring);
    let explained = grants.explain_at(
        &agent("bot"),
        ("bank__refund", &upstream("bank")),
        &tree(&args),
        &Sessions::default(),
        now(),
    );
    assert_eq!(explained.verdict, Explained::Deny(Refused::PolicyError));
    let outcome =
        |id: &str| explained.policies.iter().find(|policy| &*policy.id == id).map(|policy| policy.outcome.clone());
    assert_eq!(outcome("e"), Some(PolicyOutcome::Erred));
}

#[test]
fn a_limit_that_is_used_up_leaves_the_other_permits() {
    let limited =
        "@id(\"alone\") @limit(\"2/minute\") permit (principal, action == Action::\"bank__balance\", resource);";
    let held = "@id(\"asked\") @hold(\"owner\") permit (principal, action == Action::\"bank__balance\", resource);";
    let args = json!({"account": "alice"});
    let after = |seconds: i64| now() + jiff::SignedDuration::from_secs(seconds);
    let set = grants(limited);
    let sessions = Sessions::default();
    let call = |set: &Grants, name: &str, at: i64| {
        told(set, &settle(set, &agent(name), "bank__balance", &args, &sessions, after(at)))
    };
    assert_eq!(call(&set, "a", 0), "permit by alone");
    assert_eq!(call(&set, "a", 30), "permit by alone");
    assert_eq!(call(&set, "a", 40), "deny limit_exceeded by alone");
    assert_eq!(call(&set, "b", 40), "permit by alone");
    let both = grants(&format!("{limited} {held}"));
    assert_eq!(call(&both, "a", 50), "hold owner/1/900 by asked");
    assert_eq!(call(&set, "a", 60), "permit by alone");
    let verdict = settle(&set, &agent("a"), "bank__balance", &args, &sessions, after(61));
    let Verdict::Deny { refused, .. } = verdict else { panic!("{verdict:?}") };
    assert_eq!(refused.retry_after_ms(), Some(29_000));
}

#[test]
fn a_session_counts_what_was_permitted_by_agent_user_and_task() {
    let set = grants(
        "@id(\"few\") permit (principal, action == Action::\"bank__balance\", resource) when { context.session.calls_of_tool < 2 };
         @id(\"unlabelled\") permit (principal, action == Action::\"files__read_file\", resource)
         unless { context.session.labels.contains(\"money\") };
         @id(\"young\") permit (principal, action == Action::\"bank__transfer\", resource) when { context.session.age_seconds < 60 };",
    );
    let sessions = Sessions::default();
    let (balance, read) = (json!({"account": "alice"}), json!({"path": "/x"}));
    let transfer = json!({"from": "a", "to": "b", "amount": 1});
    let mut task = agent("a");
    task.task = Some("t".to_owned());
    let call = |who: &Principal, tool: &str, args: &serde_json::Value, at: i64| {
        told(&set, &settle(&set, who, tool, args, &sessions, now() + jiff::SignedDuration::from_secs(at)))
    };
    assert_eq!(call(&agent("a"), "files__read_file", &read, 0), "permit by unlabelled");
    assert_eq!(call(&agent("a"), "bank__balance", &balance, 0), "permit by few");
    assert_eq!(call(&agent("a"), "bank__balance", &balance, 0), "permit by few");
    assert_eq!(call(&agent("a"), "bank__balance", &balance, 0), "deny not_granted");
    assert_eq!(call(&task, "bank__balance", &balance, 0), "permit by few");
    assert_eq!(call(&agent("a"), "files__read_file", &read, 0), "deny not_granted");
    assert_eq!(call(&agent("a"), "bank__transfer", &transfer, 59), "permit by young");
    assert_eq!(call(&agent("a"), "bank__transfer", &transfer, 60), "deny not_granted");
    let facts = sessions.facts(&agent("a"), "bank__balance", now());
    assert_eq!(facts, Facts { calls: 4, calls_of_tool: 2, age_seconds: 0, labels: vec!["money".to_owned()] });
}

#[test]
fn what_the_ledger_tells_is_counted_again_after_a_restart() {
    let set =
        grants("@id(\"one\") @limit(\"1/hour\") permit (principal, action == Action::\"bank__balance\", resource);");
    let sessions = Sessions::default();
    let past = Past {
        agent: "a",
        user: None,
        task: None,
        action: "bank__balance",
        upstream: &upstream("bank"),
        policies: &["one", "gone"],
        at: now(),
    };
    sessions.observe(&set, &past);
    let args = json!({"account": "alice"});
    let verdict = settle(&set, &agent("a"), "bank__balance", &args, &sessions, now());
    assert_eq!(told(&set, &verdict), "deny limit_exceeded by one");
    assert_eq!(sessions.facts(&agent("a"), "bank__balance", now()).labels, ["money"]);
}

#[test]
fn calls_at_once_do_not_slip_past_a_counter() {
    for condition in
        ["@id(\"p\") @limit(\"10/day\") permit ANY;", "@id(\"p\") permit ANY when { context.session.calls < 10 };"]
    {
        let set = grants(&condition.replace("ANY", "(principal, action == Action::\"bank__balance\", resource)"));
        let sessions = Sessions::default();
        let args = json!({"account": "alice"});
        let permitted: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let one = || settle(&set, &agent("a"), "bank__balance", &args, &sessions, now());
                        (0..5).filter(|_| matches!(one(), Verdict::Permit { .. })).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(permitted, 10, "{condition}");
    }
}

#[test]
fn resources_prompts_and_questions_have_to_be_named() {
    let wide =
        grants("permit (principal, action in [Action::\"call\", Action::\"read\", Action::\"spend\"], resource);");
    let named = grants(
        "@id(\"r\") permit (principal, action == Action::\"resource_read\", resource == Upstream::\"files\")
         when { context.input.uri like \"file:///srv/*\" };
         @id(\"e\") permit (principal, action == Action::\"elicitation_create\", resource == Upstream::\"files\");
         @id(\"s\") @hold(\"owner\") permit (principal, action == Action::\"sampling_create\", resource);",
    );
    let (files, bank, who, sessions) = (upstream("files"), upstream("bank"), agent("a"), Sessions::default());
    for operation in [Operation::ReadResource, Operation::GetPrompt, Operation::Complete] {
        assert!(!wide.reaches(&who, operation, &files, now()), "{operation:?}");
    }
    assert!(wide.reaches(&who, Operation::CallTool, &files, now()));
    assert!(named.reaches(&who, Operation::ReadResource, &files, now()));
    assert!(!named.reaches(&who, Operation::ReadResource, &bank, now()));
    assert!(!named.reaches(&who, Operation::CallTool, &files, now()));
    for asked in Asked::ALL {
        assert!(!wide.may_ask(&who, asked, &files, &sessions, now()), "{asked:?}");
    }
    assert!(named.may_ask(&who, Asked::Elicitation, &files, &sessions, now()));
    assert!(!named.may_ask(&who, Asked::Elicitation, &bank, &sessions, now()));
    assert!(!named.may_ask(&who, Asked::Sampling, &files, &sessions, now()));
    assert!(!named.may_ask(&who, Asked::Roots, &upstream("nobody"), &sessions, now()));
}

/// Problem and hint of each error, with line and column.
fn complaints(text: &str) -> Vec<String> {
    let errors = compile(text).map(|_| ()).unwrap_err();
    errors.iter().map(|error| error.to_string().replace("grants/test.cedar:", "")).collect()
}

#[test]
fn malformed_annotations_are_errors_with_their_line() {
    let cases: &[(&str, &str)] = &[
        ("@hodl(\"r\")", "1:1: unknown annotation `@hodl` (did you mean `@hold`?)"),
        ("@hold(\"r\") @assurance(\"high\")", "1:12: `@assurance` is none that there is"),
        ("@assurance(\"passkey\")", "1:1: `@assurance` says nothing without `@hold`"),
        ("@hold(\"\")", "1:1: `@hold` names no role"),
        ("@hold(\"two words\")", "1:1: `@hold` names no role"),
        ("@hold(\"r\") @approvals(\"0\")", "1:12: `@approvals` is no number from 1 to 9"),
        ("@hold(\"r\") @approvals(\"10\")", "1:12: `@approvals` is no number from 1 to 9"),
        ("@hold(\"r\") @approvals(\"two\")", "1:12: `@approvals` is no number from 1 to 9"),
        ("@approvals(\"2\")", "1:1: `@approvals` says nothing without `@hold`"),
        ("@expires(\"15m\")", "1:1: `@expires` says nothing without `@hold`"),
        ("@hold(\"r\") @expires(\"15\")", "1:12: `@expires` is no duration"),
        ("@hold(\"r\") @expires(\"0s\")", "1:12: `@expires` is no duration"),
        ("@hold(\"r\") @expires(\"31d\")", "1:12: `@expires` is no duration"),
        ("@hold(\"r\") @expires(\"-1m\")", "1:12: `@expires` is no duration"),
        ("@limit(\"10\")", "1:1: `@limit` is no rate"),
        ("@limit(\"0/minute\")", "1:1: `@limit` is no rate"),
        ("@limit(\"10/week\")", "1:1: `@limit` is no rate"),
        ("@until(\"tomorrow\")", "1:1: `@until` is no time"),
        ("@until(\"2026-12-31\")", "1:1: `@until` is no time"),
        ("@reason(\"\")", "1:1: `@reason` is empty"),
        ("@scope", "1:1: `@scope` is no list of scopes"),
        ("@scope(\"\")", "1:1: `@scope` is no list of scopes"),
        ("@scope(\" a\")", "1:1: `@scope` is no list of scopes"),
        ("@scope(\"a  b\")", "1:1: `@scope` is no list of scopes"),
        ("@scope(\"a,\u{e4}\")", "1:1: `@scope` is no list of scopes"),
        ("@scope(\"a\\\"b\")", "1:1: `@scope` is no list of scopes"),
        ("@scope(\"a b a\")", "1:1: `@scope` is no list of scopes"),
        ("@scope(\"1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\")", "1:1: `@scope` is no list of scopes"),
        ("@scopes(\"a\")", "1:1: unknown annotation `@scopes` (did you mean `@scope`?)"),
        ("@id(\"\")", "1:1: `@id(\"\")` is no policy id"),
        ("@id(\"a b\")", "1:1: `@id(\"a b\")` is no policy id"),
    ];
    for (annotations, expected) in cases {
        let told = complaints(&format!("{annotations} permit (principal, action, resource);"));
        assert_eq!(told.len(), 1, "{annotations}: {told:?}");
        assert!(told[0].starts_with(expected), "{annotations}: {}", told[0]);
    }
    let told = complaints("@limit(\"1/day\")\nforbid (principal, action, resource);");
    assert_eq!(told, ["1:1: `@limit` is for `permit` only (put it on the `permit` whose use it limits)"]);
    let told = complaints("@scope(\"a\")\nforbid (principal, action, resource);");
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("1:1: `@scope` is for `permit` only"), "{told:?}");
}

#[test]
fn telling_what_an_upstream_could_ask_counts_nothing() {
    let set = grants("@limit(\"1/day\") permit (principal, action == Action::\"elicitation_create\", resource);");
    let (who, bank, sessions) = (agent("a"), upstream("bank"), Sessions::default());
    for _ in 0..3 {
        assert!(set.could_ask(&who, Asked::Elicitation, &bank, &sessions, now()));
    }
    assert!(set.may_ask(&who, Asked::Elicitation, &bank, &sessions, now()));
    assert!(!set.may_ask(&who, Asked::Elicitation, &bank, &sessions, now()));
    assert!(!set.could_ask(&who, Asked::Elicitation, &bank, &sessions, now()));
    assert!(!set.could_ask(&who, Asked::Sampling, &bank, &sessions, now()));
}

#[test]
fn misspelt_names_are_errors_with_line_column_and_the_nearest_name() {
    let cases: &[(&str, &[&str])] = &[
        (
            "permit (principal, action == Action::\"bank__refund\", resource)\nwhen { context.input.amonut < 5 };",
            &["2:8: ", "amonut", "amount"],
        ),
        (
            "permit (principal, action == Action::\"bank__refund\", resource)\nwhen { context.input has amonut && context.input.amonut < 5 };",
            &["2:26", "is impossible", "did you mean `amount`?"],
        ),
        (
            "permit (principal, action ==\n Action::\"bank__refnud\", resource);",
            &["2:10: unknown action `bank__refnud`", "`Action::\"bank__refund\"`"],
        ),
        (
            "permit (principal, action in Action::\"raed\", resource);",
            &["1:38: unknown action `raed`", "`Action::\"read\"`"],
        ),
        (
            "permit (principal, action == Action::\"read\", resource);",
            &["`read` is a group of actions", "`action in Action::\"read\"`"],
        ),
        (
            "permit (principal, action, resource == Upstream::\"bnak\");",
            &["1:50: unknown upstream `bnak`", "`Upstream::\"bank\"`"],
        ),
        ("permit (principal == Agnet::\"a\", action, resource);", &["Agnet", "Agent"]),
        ("permit (principal == Team::\"a\", action, resource);", &["no principal can match"]),
        ("permit (principal, action, resource) when { principal.usr == \"a\" };", &["usr"]),
        ("permit (principal, action, resource) when { principal.user == \"a\" };", &["optional", "user"]),
        ("permit (principal, action, resource) when { context.input.amount < 5 };", &["1:", "not found"]),
        (
            "permit (principal, action == Action::\"shop__order\", resource) when { context.input.either == \"a\" };",
            &["either", "names no single type"],
        ),
        (
            "permit (principal, action == Action::\"bank__refund\", resource) when { context.input.amount == \"5\" };",
            &["1:"],
        ),
        ("permit (principal, action == Action::\"shop__order\", resource) when { context.input.price < 5 };", &["1:"]),
        ("permit (principal == ?principal, action, resource);", &["template"]),
        ("permit (principal, action, resource)\nwhen { context.now < };", &["2:"]),
    ];
    for (policy, parts) in cases {
        let told = complaints(policy).join("\n");
        for part in *parts {
            assert!(told.contains(part), "{policy}\n-> {told}\nlacks {part}");
        }
    }
}

#[test]
fn every_error_shows_at_once() {
    let first = Source {
        file: PathBuf::from("a.cedar"),
        text: "@id(\"same\") permit (principal, action, resource);\n@hodl(\"x\") permit (principal, action == Action::\"nope\", resource);".to_owned(),
    };
    let second = Source {
        file: PathBuf::from("b.cedar"),
        text: "@id(\"same\") permit (principal, action, resource) when { context.sesion.calls < 1 };".to_owned(),
    };
    let broken = Source { file: PathBuf::from("c.cedar"), text: "permit (".to_owned() };
    let errors = Grants::compile_words(&[first, second, broken], words()).unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 5, "{told:#?}");
    for part in [
        "a.cedar:2:1: unknown annotation",
        "unknown action `nope`",
        "`same` is taken by a.cedar:1",
        "sesion",
        "c.cedar:1:",
    ] {
        assert!(told.iter().any(|line| line.contains(part)), "{part} in {told:#?}");
    }
}

#[test]
fn a_policy_without_id_is_named_by_its_place_and_the_digest_follows_meaning_only() {
    let bare = grants("\npermit (principal, action, resource);");
    assert_eq!(
        told(
            &bare,
            &settle(&bare, &agent("a"), "bank__balance", &json!({"account": "x"}), &Sessions::default(), now())
        ),
        "permit by test.cedar:2"
    );
    let one = grants("@id(\"p\") permit (principal, action, resource);");
    let spaced = grants("// said otherwise\n@id(\"p\")\npermit(principal,action,resource);");
    let other = grants("@id(\"p\") @limit(\"1/day\") permit (principal, action, resource);");
    assert_eq!(one.digest(), spaced.digest());
    assert_ne!(one.digest(), other.digest());
    assert!(grants("").is_empty());
}

#[test]
fn tools_are_shown_when_some_arguments_could_let_them_through() {
    let set = grants(
        "@id(\"1\") permit (principal == Agent::\"a\", action == Action::\"bank__balance\", resource) when { context.input.account == \"x\" };
         @id(\"2\") @hold(\"r\") permit (principal in Team::\"ops\", action in Action::\"spend\", resource);
         @id(\"3\") permit (principal, action == Action::\"bank__close_account\", resource);
         @id(\"4\") @hold(\"oncall\") forbid (principal, action in Action::\"destructive\", resource);
         @id(\"5\") permit (principal, action, resource == Upstream::\"files\");
         @id(\"6\") forbid (principal == Agent::\"b\", action, resource);
         @id(\"7\") @until(\"2026-11-20T11:00:00Z\") permit (principal, action == Action::\"shop__order\", resource);",
    );
    let seen = |who: &Principal, tool: &str| {
        let site = set.site(tool, &upstream(tool.split("__").next().unwrap())).unwrap();
        set.slice(site, who, now()).visible
    };
    let mut ops = agent("c");
    ops.teams = vec!["ops".to_owned()];
    for (who, tool, expected) in [
        (agent("a"), "bank__balance", Some(Visibility::Allow)),
        (agent("c"), "bank__balance", None),
        (ops.clone(), "bank__refund", Some(Visibility::Hold)),
        (agent("c"), "bank__refund", None),
        (agent("c"), "bank__close_account", Some(Visibility::Hold)),
        (agent("c"), "files__read_file", Some(Visibility::Allow)),
        (agent("c"), "files__write_file", Some(Visibility::Hold)),
        (agent("b"), "files__read_file", None),
        (agent("c"), "shop__order", None),
        (ops, "shop__order", Some(Visibility::Hold)),
    ] {
        assert_eq!(seen(&who, tool), expected, "{} {tool}", who.agent);
    }
}

#[test]
fn policies_are_listed_as_they_stand_in_their_files() {
    let set = grants(
        "// nobody asked\n@id(\"z\") permit (principal == Agent::\"bot\", action == Action::\"bank__refund\", resource);\n
@id(\"a\")\n@hold(\"oncall\")\nforbid (principal in Team::\"ops\", action in Action::\"spend\", resource);
@id(\"old\") @until(\"2020-01-01T00:00:00Z\") permit (principal, action, resource);",
    );
    let ids = |listed: &[super::Listed]| listed.iter().map(|policy| policy.id.to_string()).collect::<Vec<_>>();
    let listed = set.listed(now());
    assert_eq!(ids(&listed), ["z", "a", "old"]);
    assert_eq!(listed[1].place, "grants/test.cedar:4");
    assert_eq!(
        &*listed[1].text,
        "@id(\"a\")\n@hold(\"oncall\")\nforbid (principal in Team::\"ops\", action in Action::\"spend\", resource);"
    );
    let flags: Vec<_> = listed.iter().map(|policy| (policy.permit, policy.holds, policy.over)).collect();
    assert_eq!(flags, [(true, false, false), (false, true, false), (true, false, true)]);
    assert_eq!((set.agents().len(), set.agents().contains("bot"), set.teams().contains("ops")), (1, true, true));
    let mut ops = agent("other");
    ops.teams = vec!["ops".to_owned()];
    let about = |who: &Principal| ids(&set.about(who, "bank__refund", &upstream("bank"), now()));
    assert_eq!((about(&agent("bot")), about(&ops)), (vec!["z".to_owned()], vec!["a".to_owned()]));
    assert!(set.about(&ops, "nothing", &upstream("bank"), now()).is_empty());
}

#[test]
fn an_explanation_says_what_became_of_each_policy() {
    let set = grants(
        "@id(\"alone\") permit (principal == Agent::\"bot\", action == Action::\"bank__refund\", resource) when { context.input.amount <= 100 };
@id(\"asked\") @hold(\"finance\") permit (principal == Agent::\"bot\", action == Action::\"bank__refund\", resource);
@id(\"theirs\") permit (principal == Agent::\"other\", action == Action::\"bank__refund\", resource);
@id(\"elsewhere\") permit (principal, action == Action::\"bank__balance\", resource);
@id(\"files\") permit (principal, action, resource == Upstream::\"files\");
@id(\"old\") @until(\"2020-01-01T00:00:00Z\") permit (principal, action, resource);",
    );
    let explain = |amount: i64| {
        let args = tree(&json!({"account": "x", "amount": amount}));
        set.explain_at(&agent("bot"), ("bank__refund", &upstream("bank")), &args, &Sessions::default(), now())
    };
    let outcomes =
        |amount: i64| explain(amount).policies.iter().map(|policy| policy.outcome.code()).collect::<Vec<_>>();
    let rest = ["other_principal", "other_action", "other_resource", "expired"];
    assert_eq!(outcomes(50), [["decided", "not_needed"].as_slice(), &rest].concat());
    assert_eq!(outcomes(500), [["condition_false", "decided"].as_slice(), &rest].concat());
    let explained = explain(500);
    assert_eq!(explained.to_json()["demands"][0]["role"], "finance");
    let text = explained.to_string();
    assert!(text.starts_with("hold: 1 of `finance` within 900 s (`asked`)\n"), "{text}");
    assert!(text.contains("permit `alone` (grants/test.cedar:1): its condition does not hold"), "{text}");
    assert!(text.ends_with("1 policy is about other actions\n"), "{text}");
}
fn scoped(name: &str, scopes: &[&str]) -> Principal {
    Principal { scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(), ..agent(name) }
}

#[test]
fn a_permit_with_a_scope_counts_only_for_whoever_has_all_of_them() {
    let any = "(principal, action == Action::\"bank__balance\", resource)";
    let cases: &[(&str, &[&str], &str)] = &[
        ("@id(\"p\") @scope(\"a\") permit ANY;", &["a"], "permit by p"),
        ("@id(\"p\") @scope(\"a\") permit ANY;", &["z", "a", "a"], "permit by p"),
        ("@id(\"p\") @scope(\"a\") permit ANY;", &[], "deny insufficient_scope by p"),
        ("@id(\"p\") @scope(\"a\") permit ANY;", &["A"], "deny insufficient_scope by p"),
        ("@id(\"p\") @scope(\"a b\") permit ANY;", &["a"], "deny insufficient_scope by p"),
        ("@id(\"p\") @scope(\"a b\") permit ANY;", &["b", "a"], "permit by p"),
        ("@id(\"p\") @scope(\"a\") @hold(\"r\") permit ANY;", &[], "deny insufficient_scope by p"),
        ("@id(\"p\") @scope(\"a\") @hold(\"r\") permit ANY;", &["a"], "hold r/1/900 by p"),
        // the least that is lacking is asked for
        (
            "@id(\"p\") @scope(\"a b\") permit ANY; @id(\"q\") @scope(\"c\") permit ANY;",
            &[],
            "deny insufficient_scope by q",
        ),
        (
            "@id(\"p\") @scope(\"a b\") permit ANY; @id(\"q\") @scope(\"c d\") permit ANY;",
            &["d"],
            "deny insufficient_scope by q",
        ),
        // whatever else there is comes first
        ("@id(\"p\") @scope(\"a\") permit ANY; @id(\"q\") permit ANY;", &[], "permit by q"),
        ("@id(\"p\") @scope(\"a\") permit ANY; @id(\"q\") @hold(\"r\") permit ANY;", &[], "hold r/1/900 by q"),
        ("@id(\"p\") @scope(\"a\") permit ANY; @id(\"f\") forbid ANY;", &[], "deny forbidden by f"),
        (
            "@id(\"p\") @scope(\"a\") permit ANY; @id(\"h\") @hold(\"r\") forbid ANY;",
            &[],
            "deny insufficient_scope by p",
        ),
        ("@id(\"p\") @scope(\"a\") permit ANY when { context.input.account == \"b\" };", &[], "deny not_granted"),
        ("@id(\"p\") @scope(\"a\") @until(\"2026-11-20T12:00:00Z\") permit ANY;", &[], "deny not_granted"),
        // nor does one that cannot be evaluated refuse whom it is not for
        ("@id(\"p\") @scope(\"a\") permit ANY when { ERR };", &[], "deny not_granted"),
        ("@id(\"p\") @scope(\"a\") permit ANY when { ERR };", &["a"], "deny policy_error by p"),
        ("@id(\"p\") @scope(\"a\") permit ANY when { ERR }; @id(\"q\") permit ANY;", &[], "permit by q"),
    ];
    let erring = "context.session.calls - 9223372036854775807 - 9223372036854775807 == 0";
    for (policies, scopes, expected) in cases {
        let policies = policies.replace("ANY", any).replace("ERR", erring);
        let told = decided(&policies, &scoped("bot", scopes), "bank__balance", &json!({"account": "alice"}));
        assert_eq!(told, *expected, "{policies} {scopes:?}");
    }
    let set = grants(&format!("@scope(\"b a\") permit {any};"));
    let args = json!({"account": "alice"});
    let verdict = settle(&set, &scoped("bot", &["a"]), "bank__balance", &args, &Sessions::default(), now());
    let Verdict::Deny { refused, .. } = verdict else { panic!("not denied") };
    assert_eq!(refused.scopes(), Some(["b".to_owned(), "a".to_owned()].as_slice()));
    assert_eq!(refused.to_string(), "this call needs the scope `b a`; get a credential that has it, and call again");
}

#[test]
fn a_limit_that_is_used_up_is_said_before_a_scope_and_not_by_one_who_lacks_it() {
    let set = grants(
        "@id(\"p\") @scope(\"a\") @limit(\"1/day\") permit (principal, action == Action::\"bank__balance\", resource);",
    );
    let (sessions, args) = (Sessions::default(), json!({"account": "alice"}));
    let ask =
        |scopes: &[&str]| told(&set, &settle(&set, &scoped("bot", scopes), "bank__balance", &args, &sessions, now()));
    // who lacks the scope uses nothing up
    assert_eq!(ask(&[]), "deny insufficient_scope by p");
    assert_eq!(ask(&["a"]), "permit by p");
    assert_eq!(ask(&["a"]), "deny limit_exceeded by p");
    assert_eq!(ask(&[]), "deny not_granted");
}

#[test]
fn scopes_do_not_leak_from_one_call_of_an_agent_to_the_next() {
    let set = grants("@id(\"p\") @scope(\"a\") permit (principal, action == Action::\"bank__balance\", resource);");
    let (sessions, args) = (Sessions::default(), json!({"account": "alice"}));
    for (scopes, expected) in [
        ([].as_slice(), "deny insufficient_scope by p"),
        (&["a"], "permit by p"),
        (&[], "deny insufficient_scope by p"),
        (&["b"], "deny insufficient_scope by p"),
        (&["b", "a"], "permit by p"),
        (&["b"], "deny insufficient_scope by p"),
    ] {
        let verdict = settle(&set, &scoped("bot", scopes), "bank__balance", &args, &sessions, now());
        assert_eq!(told(&set, &verdict), expected, "{scopes:?}");
    }
}

#[test]
fn a_restricted_credential_sees_and_does_nothing_else() {
    let set = grants(
        "@id(\"all\") permit (principal, action in Action::\"call\", resource);
@id(\"read\") permit (principal, action == Action::\"resource_read\", resource);
@id(\"ask\") permit (principal, action in [Action::\"sampling_create\", Action::\"roots_list\"], resource);",
    );
    let only = |tools: &[&str]| Principal {
        tools: Some(tools.iter().map(|tool| (*tool).to_owned()).collect()),
        ..agent("bot")
    };
    let (bank, files, sessions) = (upstream("bank"), upstream("files"), Sessions::default());
    let sees = |who: &Principal, tool: &str, house: &UpstreamName| {
        set.site_of(who, tool, house).is_some_and(|site| set.slice(site, who, now()).visible.is_some())
    };
    let whole = agent("bot");
    let one = only(&["bank__balance", "roots_list"]);
    assert!(sees(&whole, "bank__balance", &bank) && sees(&whole, "files__read_file", &files));
    assert!(sees(&one, "bank__balance", &bank) && !sees(&one, "files__read_file", &files));
    assert!(!sees(&only(&[]), "bank__balance", &bank), "a list without any is for none");
    assert!(!sees(&only(&["call", "read"]), "bank__balance", &bank), "groups are no actions");
    for (operation, house, whole_reaches, one_reaches) in [
        (Operation::CallTool, &bank, true, true),
        (Operation::CallTool, &files, true, false),
        (Operation::ReadResource, &bank, true, false),
        (Operation::Subscribe, &files, true, false),
        (Operation::Complete, &files, true, false),
    ] {
        assert_eq!(set.reaches(&whole, operation, house, now()), whole_reaches, "{operation:?} {house}");
        assert_eq!(set.reaches(&one, operation, house, now()), one_reaches, "{operation:?} {house}");
    }
    for (asked, may) in [(Asked::Roots, true), (Asked::Sampling, false), (Asked::Elicitation, false)] {
        assert_eq!(set.may_ask(&one, asked, &bank, &sessions, now()), may, "{asked:?}");
        assert_eq!(set.could_ask(&one, asked, &bank, &sessions, now()), may, "{asked:?}");
    }
    assert!(set.may_ask(&whole, Asked::Sampling, &bank, &sessions, now()));
    assert!(set.about(&one, "bank__transfer", &bank, now()).is_empty());
    let explain = |who: &Principal, tool: &str| {
        let args = tree(&json!({"account": "x", "amount": 1}));
        set.explain_at(who, (tool, &bank), &args, &sessions, now())
    };
    let refused = explain(&one, "bank__refund");
    assert_eq!(refused.verdict, Explained::Deny(Refused::NotGranted));
    assert_eq!(refused.policies[0].outcome, PolicyOutcome::OtherTools);
    assert_eq!(explain(&one, "bank__balance").verdict, Explained::Permit);
}

#[test]
fn an_explanation_says_what_a_missing_scope_did() {
    let set = grants(
        "@id(\"small\") @scope(\"bank:refund bank:read\") permit (principal, action == Action::\"bank__refund\", resource) when { context.input.amount <= 100 };
@id(\"large\") @scope(\"bank:admin\") permit (principal, action == Action::\"bank__refund\", resource) when { context.input.amount > 100 };",
    );
    let explain = |scopes: &[&str], amount: i64| {
        let args = tree(&json!({"account": "x", "amount": amount}));
        set.explain_at(&scoped("bot", scopes), ("bank__refund", &upstream("bank")), &args, &Sessions::default(), now())
    };
    let explained = explain(&["bank:read"], 50);
    let text = explained.to_string();
    assert!(text.starts_with("deny: insufficient_scope (this call needs the scope `bank:refund bank:read`;"), "{text}");
    assert!(text.contains("holds, but permits nothing without the scope `bank:refund`\n"), "{text}");
    assert_eq!(explained.to_json()["scopes"], json!(["bank:refund", "bank:read"]));
    assert_eq!(explained.policies[1].outcome, PolicyOutcome::ConditionFalse);
    assert_eq!(explain(&["bank:read", "bank:refund"], 50).verdict, Explained::Permit);
}

#[test]
fn what_only_a_scope_is_missing_for_is_shown() {
    let set =
        grants("@scope(\"a\") permit (principal == Agent::\"bot\", action == Action::\"bank__balance\", resource);");
    let sees = |who: &Principal, tool: &str| set.slice(set.site(tool, &upstream("bank")).unwrap(), who, now()).visible;
    assert_eq!(sees(&agent("bot"), "bank__balance"), Some(Visibility::Allow));
    assert_eq!(sees(&agent("other"), "bank__balance"), None);
    assert_eq!(sees(&agent("bot"), "bank__refund"), None);
}

#[test]
fn chain_and_assurance_can_be_looked_at() {
    let policies = "@id(\"p\") permit (principal, action == Action::\"bank__balance\", resource)
        when { principal.chain.contains(\"b\") && !principal.chain.contains(\"z\") && principal.assurance == \"bound\" };";
    let who = |chain: &[&str], assurance| Principal {
        chain: chain.iter().map(|agent| (*agent).to_owned()).collect(),
        assurance,
        ..agent("a")
    };
    for (who, expected) in [
        (who(&["a", "b"], Assurance::Bound), "permit by p"),
        (who(&["a", "b"], Assurance::Bearer), "deny not_granted"),
        (who(&["a", "b", "z"], Assurance::Bound), "deny not_granted"),
        (who(&[], Assurance::Bound), "deny not_granted"),
    ] {
        assert_eq!(decided(policies, &who, "bank__balance", &json!({"account": "alice"})), expected, "{who:?}");
    }
}

mod slicing {
    //! A slice decides as the whole set does, and no tool is hidden that some arguments could reach.

    use super::*;

    const TOOLS: [&str; 7] = [
        "bank__balance",
        "bank__transfer",
        "bank__refund",
        "bank__close_account",
        "files__read_file",
        "files__write_file",
        "shop__order",
    ];

    fn scope() -> impl Strategy<Value = String> {
        let principal = prop::sample::select(vec![
            "principal",
            "principal is Agent",
            "principal == Agent::\"a\"",
            "principal == Agent::\"b\"",
            "principal in Team::\"ops\"",
            "principal in Team::\"dev\"",
            "principal is Agent in Team::\"ops\"",
            "principal in Agent::\"a\"",
        ]);
        let action = prop::sample::select(vec![
            "action",
            "action in Action::\"call\"",
            "action in Action::\"read\"",
            "action in Action::\"spend\"",
            "action == Action::\"bank__refund\"",
            "action == Action::\"files__write_file\"",
            "action in [Action::\"destructive\", Action::\"bank__balance\"]",
        ]);
        let resource = prop::sample::select(vec![
            "resource",
            "resource == Upstream::\"bank\"",
            "resource in Upstream::\"files\"",
            "resource is Upstream",
        ]);
        (principal, action, resource).prop_map(|(p, a, r)| format!("({p}, {a}, {r})"))
    }

    fn policy() -> impl Strategy<Value = String> {
        let annotation = prop::sample::select(vec![
            "",
            "",
            "@hold(\"r\") ",
            "@scope(\"s\") ",
            "@scope(\"s t\") @hold(\"r\") ",
            "@until(\"2026-11-20T12:00:00Z\") ",
            "@until(\"2027-01-01T00:00:00Z\") ",
        ]);
        let effect = prop::sample::select(vec!["permit", "permit", "permit", "forbid"]);
        let condition = prop::sample::select(vec![
            "",
            "",
            "when { context.input has account && context.input.account == \"x\" }",
            "unless { context.input has amount && context.input.amount > 50 }",
            "when { principal has user }",
            "when { principal in Team::\"dev\" }",
            "when { resource.labels.contains(\"money\") }",
            "when { action in Action::\"destructive\" }",
            "when { context.session.calls < 3 }",
            "when { context.now < datetime(\"2026-11-20\") }",
            "when { context.input has amount && context.input.amount * 4611686018427387904 > 0 }",
        ]);
        (annotation, effect, scope(), condition).prop_map(|(a, e, s, c)| format!("{a}{e} {s} {c};\n"))
    }

    fn who() -> impl Strategy<Value = Principal> {
        let name = prop::sample::select(vec!["a", "b", "c"]);
        let teams = prop::sample::subsequence(vec!["ops", "dev", "sales"], 0..=3);
        let scopes = prop::sample::subsequence(vec!["s", "t", "u"], 0..=3);
        (name, teams, scopes, any::<bool>()).prop_map(|(name, teams, scopes, user)| {
            let mut who = scoped(name, &scopes);
            who.teams = teams.into_iter().map(str::to_owned).collect();
            who.user = user.then(|| "ann".to_owned());
            who
        })
    }

    fn arguments(tool: &str, account: &str, amount: i64) -> serde_json::Value {
        match tool {
            "bank__transfer" => json!({"from": account, "to": "y", "amount": amount}),
            "bank__refund" => json!({"account": account, "amount": amount}),
            "bank__balance" | "bank__close_account" => json!({"account": account}),
            "files__read_file" => json!({"path": account}),
            "files__write_file" => json!({"path": account, "content": "z"}),
            _ => json!({"price": amount}),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn a_slice_decides_as_the_whole_set(
            policies in prop::collection::vec(policy(), 0..12),
            who in who(),
            account in prop::sample::select(vec!["x", "y"]),
            amount in 0_i64..100,
            calls in 0_i64..6,
        ) {
            // one that can never match its one action is an error, not a policy
            let fine: Vec<String> = policies.into_iter().filter(|policy| compile(policy).is_ok()).collect();
            let set = grants(&fine.concat());
            for tool in TOOLS {
                let house = upstream(tool.split("__").next().unwrap());
                let site = set.site(tool, &house).unwrap();
                let arguments = tree(&arguments(tool, account, amount));
                let question = Question { who: &who, site, arguments: Some(&arguments), now: now() };
                let facts = Facts { calls, ..Facts::default() };
                let current: Box<[u32]> =
                    (0..).zip(&set.rules).filter(|(_, rule)| !rule.is_over(now()) && rule.lacks(&who.scopes).next().is_none()).map(|(place, _)| place).collect();
                let input = set.words.actions[tool].input.clone().unwrap();
                let whole = set.cut(current, Box::default(), site).seeing_all(&input);
                let slice = set.slice(site, &who, now());
                let (sliced, all) = (set.satisfied(&slice, question, Some(&facts)), set.satisfied(&whole, question, Some(&facts)));
                prop_assert_eq!(&sliced, &all);
                if let Ok(satisfied) = sliced {
                    let reached = match set.conclude(&satisfied, &who.agent, &Sessions::default(), now()) {
                        Verdict::Permit { .. } => Some(Visibility::Allow),
                        Verdict::Hold { .. } => Some(Visibility::Hold),
                        Verdict::Deny { .. } => None,
                    };
                    match (reached, slice.visible) {
                        (None, _) | (Some(_), Some(Visibility::Allow)) | (Some(Visibility::Hold), Some(Visibility::Hold)) => {}
                        (reached, shown) => prop_assert!(false, "{tool}: {reached:?}, but shown as {shown:?}"),
                    }
                }
            }
        }
    }
}

mod shipped {
    //! The examples in `grants/examples`, against the contracts in `schemas`.

    use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

    use super::*;
    use crate::{
        call::{CallId, Door, Identified, Link, Passage, Received},
        contract::{Catalog, Quarantine, Quarantined, file},
        grant::{Decision, tables},
    };

    fn catalog(away: &[&str]) -> Catalog {
        let contracts: Vec<_> = file::read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas"))
            .unwrap()
            .into_iter()
            .map(|contract| {
                let contract = contract.unwrap();
                let tool = contract.tool().unwrap().to_owned();
                match away.contains(&tool.as_str()) {
                    true => Err(Quarantined { upstream: contract.upstream, tool, why: Quarantine::Gone }),
                    false => Ok(contract),
                }
            })
            .collect();
        let houses = ["bank", "files", "git"].map(|name| (upstream(name), None));
        Catalog::new(&contracts, &BTreeMap::from(houses))
    }

    fn example(name: &str) -> (Source, String) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("grants/examples");
        let file = folder.join(name).with_extension("cedar");
        let text = fs::read_to_string(&file).unwrap();
        (Source { file, text }, fs::read_to_string(folder.join(name).with_extension("table")).unwrap())
    }

    #[test]
    fn every_example_decides_as_its_table_says() {
        let catalog = catalog(&[]);
        for name in ["billing", "coding", "read-only"] {
            let (source, table) = example(name);
            let set = Grants::compile(&[source], &catalog)
                .unwrap_or_else(|errors| panic!("{}", errors.iter().map(|e| format!("{e}\n")).collect::<String>()));
            let results = tables::run(&set, &catalog, Path::new(name), &table, now()).unwrap();
            assert!(results.len() > 4);
            for result in results {
                assert!(
                    result.passed,
                    "{name}:{} {}: expected {}, decided {}",
                    result.line, result.about, result.expected, result.decided
                );
            }
        }
    }

    #[test]
    fn a_table_says_where_it_is_wrong_and_what_differs() {
        let catalog = catalog(&[]);
        let set = Grants::compile(&[example("billing").0], &catalog).unwrap();
        let run = |table: &str| tables::run(&set, &catalog, Path::new("t.table"), table, now());
        let case = "[[case]]\nagent = \"a\"\ntool = \"bank__balance\"\nargs = { account = \"x\" }\n";
        let results = run(&format!("\n{case}expect = \"permit\"\n{case}expect = \"deny\"\n")).unwrap();
        assert_eq!(
            results.iter().map(|result| (result.line, result.passed)).collect::<Vec<_>>(),
            [(2, false), (7, true)]
        );
        for (text, part) in [
            (format!("{case}expect = \"maybe\""), "t.table:1: `expect` cannot be `maybe`"),
            (format!("{case}expect = \"hold:\""), "t.table:1: `expect`"),
            (format!("{case}expect = \"deny\"\nat = \"noon\""), "t.table:1: `at` is no time"),
            (format!("{case}expect = \"deny\"\nafter = 100000"), "t.table:1: `after` is more than"),
            (format!("{case}expected = \"deny\""), "t.table:5: unknown field `expected`"),
            (case.to_owned(), "expect"),
        ] {
            let errors = run(&text).unwrap_err();
            assert!(errors[0].to_string().contains(part), "{}", errors[0]);
        }
    }

    fn received(
        operation: Operation,
        name: &str,
        args: &serde_json::Value,
        catalog: &Catalog,
        who: Principal,
    ) -> crate::call::Validated {
        let id = CallId::new(now()).unwrap();
        let arguments = Value::from(args);
        let call = Received::new(
            id,
            now(),
            Door::Http,
            operation,
            name.to_owned(),
            arguments,
            Passage::default(),
            Link::none(),
        );
        call.authenticate(Identified::vouch(Arc::new(who))).validate(catalog).unwrap()
    }

    #[test]
    fn a_call_that_came_the_whole_road_is_decided() {
        let catalog = catalog(&[]);
        let set = Grants::compile(&[example("billing").0, example("read-only").0], &catalog).unwrap();
        let sessions = Sessions::default();
        let decide = |amount: i64| {
            let args = json!({"account": "alice", "amount": amount});
            set.decide(received(Operation::CallTool, "bank__refund", &args, &catalog, agent("billing-bot")), &sessions)
        };
        let Decision::Permit(permitted) = decide(1) else { panic!("not permitted") };
        assert_eq!(permitted.basis().policies, ["refund-small".into()]);
        assert_eq!(permitted.basis().set, Some(set.digest()));
        let Decision::Hold(held) = decide(500) else { panic!("not held") };
        assert_eq!((held.demands()[0].role.as_str(), held.demands()[0].expires), ("finance", 900));
        let (refused, ..) = *held.refuse();
        assert_eq!(refused.code(), "approval_required");
        let Decision::Deny(denied) = decide(6000) else { panic!("not denied") };
        assert_eq!(denied.0, Refused::NotGranted);
        assert_eq!(denied.2, super::super::Basis { policies: Vec::new(), set: Some(set.digest()) });
    }

    #[test]
    fn grants_decide_on_no_contract_but_the_one_they_were_typed_against() {
        let before = catalog(&[]);
        let set = Grants::compile(&[example("billing").0], &before).unwrap();
        let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
        let mut contracts = file::read_all(&schemas).unwrap();
        for contract in contracts.iter_mut().flatten().filter(|contract| contract.tool() == Some("refund")) {
            contract.impact.insert(crate::contract::Impact::Destructive);
        }
        let after = Catalog::new(&contracts, &BTreeMap::from([(upstream("bank"), None)]));
        let args = json!({"account": "alice", "amount": 1});
        for (catalog, code) in [(&before, None), (&after, Some("unavailable"))] {
            let call = received(Operation::CallTool, "bank__refund", &args, catalog, agent("billing-bot"));
            let denied = match set.decide(call, &Sessions::default()) {
                Decision::Deny(denied) => Some(denied.0.code()),
                _ => None,
            };
            assert_eq!(denied, code);
        }
    }

    #[test]
    fn a_completion_is_granted_like_what_it_completes() {
        let catalog = catalog(&[]);
        let source = |text: &str| Source { file: PathBuf::from("p.cedar"), text: text.to_owned() };
        let set = Grants::compile(
            &[source("permit (principal, action == Action::\"prompt_get\", resource) when { context.input.name == \"greet\" };")],
            &catalog,
        )
        .unwrap();
        for (name, permitted) in [("greet", true), ("other", false)] {
            let args = json!({"ref": {"type": "ref/prompt", "name": name}, "argument": {"name": "who", "value": "a"}});
            let call = received(Operation::Complete, "files", &args, &catalog, agent("a"));
            assert_eq!(matches!(set.decide(call, &Sessions::default()), Decision::Permit(_)), permitted, "{name}");
        }
    }

    #[test]
    fn a_tool_in_quarantine_takes_no_other_grant_down() {
        let catalog = catalog(&["refund", "close_account"]);
        let (source, _) = example("billing");
        let set = Grants::compile(&[source], &catalog)
            .unwrap_or_else(|errors| panic!("{}", errors.iter().map(|e| format!("{e}\n")).collect::<String>()));
        let call =
            received(Operation::CallTool, "bank__balance", &json!({"account": "a"}), &catalog, agent("billing-bot"));
        assert!(matches!(set.decide(call, &Sessions::default()), Decision::Permit(_)));
    }
}
