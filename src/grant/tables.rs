//! Decision tables: what a set of grants is meant to decide, kept beside it and held against it.
//!
//! A `.table` file is TOML, a `[[case]]` for each call:
//!
//! ```toml
//! [[case]]
//! agent = "billing-bot"
//! tool = "bank__refund"
//! args = { account = "alice", amount = 900 }
//! expect = "hold:finance"            # or "permit", "hold", "deny", "deny:not_granted", "hold:finance+oncall"
//! approvals = 1                      # the most that one policy demands; optional
//! reason = "more than 100"           # for the reader
//! user = "ann"                       # optional, as are task, teams, scopes, issuer, workload, chain, tools, assurance
//! at = "2026-11-20T12:00:00Z"        # optional
//! after = 10                         # the same call made so often before; optional
//! ```

use std::path::Path;

use serde::Deserialize;

use super::{
    ConfigError, Explained, Grants, Sessions,
    decide::{Question, Verdict},
};
use crate::{
    call::{Assurance, Operation, Principal, Refused, cut},
    clock::Timestamp,
    contract::{Catalog, UpstreamName},
    json::{Canonical, Value},
};

/// The most calls that `after` makes.
const AFTER: u32 = 10_000;

/// How one case came out.
#[derive(Clone, Debug, PartialEq)]
pub struct CaseResult {
    /// Line of its `[[case]]`, from 1.
    pub line: usize,
    /// What it is about: agent, tool and the case's `reason`.
    pub about: String,
    /// What was expected.
    pub expected: String,
    /// What was decided.
    pub decided: Explained,
    /// Whether the two agree.
    pub passed: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    case: Vec<toml::Spanned<Case>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    agent: String,
    tool: String,
    #[serde(default)]
    args: serde_json::Map<String, serde_json::Value>,
    expect: String,
    approvals: Option<u8>,
    reason: Option<String>,
    user: Option<String>,
    task: Option<String>,
    workload: Option<String>,
    issuer: Option<String>,
    #[serde(default)]
    teams: Vec<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    chain: Vec<String>,
    tools: Option<Vec<String>>,
    assurance: Option<String>,
    at: Option<String>,
    #[serde(default)]
    after: u32,
}

/// Where a call of a table goes, and its arguments once the contract has accepted them.
pub(super) struct Accepted {
    pub(super) action: String,
    pub(super) upstream: UpstreamName,
    pub(super) arguments: Canonical,
}

/// Runs every case of a table, each with sessions of its own. `now` is the time of cases without `at`; `file` is for
/// messages.
///
/// # Errors
/// What is wrong with the table itself, by line.
pub fn run(
    grants: &Grants,
    catalog: &Catalog,
    file: &Path,
    text: &str,
    now: Timestamp,
) -> Result<Vec<CaseResult>, Vec<ConfigError>> {
    run_with(grants, file, text, now, |tool, arguments| {
        let tool = catalog.find(Operation::CallTool, tool).ok_or(Refused::UnknownTool)?;
        let arguments = tool.accept(arguments)?;
        Ok(Accepted { action: tool.action.clone(), upstream: tool.upstream.clone(), arguments })
    })
}

pub(super) fn run_with(
    grants: &Grants,
    file: &Path,
    text: &str,
    now: Timestamp,
    accept: impl Fn(&str, Value) -> Result<Accepted, Refused>,
) -> Result<Vec<CaseResult>, Vec<ConfigError>> {
    let line_of = |offset: usize| cut(text, offset).matches('\n').count() + 1;
    let error = |line: usize, problem: String, hint: Option<String>| ConfigError {
        file: file.to_owned(),
        line,
        column: 0,
        problem,
        hint,
    };
    let table: Table = toml::from_str(text).map_err(|wrong| {
        let line = wrong.span().map_or(0, |span| line_of(span.start));
        vec![error(line, wrong.message().to_owned(), None)]
    })?;
    let mut results = Vec::new();
    let mut errors = Vec::new();
    for case in table.case {
        let line = line_of(case.span().start);
        let case = case.into_inner();
        let now = match case.at.as_deref().map(str::parse::<Timestamp>) {
            None => now,
            Some(Ok(at)) => at,
            Some(Err(_)) => {
                let hint = Some("write `at = \"2026-11-20T12:00:00Z\"`".to_owned());
                errors.push(error(line, "`at` is no time".to_owned(), hint));
                continue;
            }
        };
        if !is_expectation(&case.expect) {
            let hint = "write `permit`, `hold`, `hold:ROLE`, `deny` or `deny:CODE`".to_owned();
            errors.push(error(line, format!("`expect` cannot be `{}`", case.expect), Some(hint)));
            continue;
        }
        if case.assurance.as_deref().is_some_and(|word| Assurance::read(word).is_none()) {
            let hint = Some("write `bearer`, `bound`, `certificate` or `process`".to_owned());
            errors.push(error(line, "`assurance` is none that there is".to_owned(), hint));
            continue;
        }
        if case.after > AFTER {
            errors.push(error(line, format!("`after` is more than {AFTER}"), None));
            continue;
        }
        results.push(decide(grants, line, case, now, &accept));
    }
    if errors.is_empty() { Ok(results) } else { Err(errors) }
}

fn decide(
    grants: &Grants,
    line: usize,
    case: Case,
    now: Timestamp,
    accept: &impl Fn(&str, Value) -> Result<Accepted, Refused>,
) -> CaseResult {
    let arguments = Value::from(&serde_json::Value::Object(case.args));
    let who = Principal {
        agent: case.agent,
        issuer: case.issuer.unwrap_or_else(|| "countersign".to_owned()),
        user: case.user,
        task: case.task,
        teams: case.teams,
        scopes: case.scopes,
        workload: case.workload,
        chain: case.chain,
        tools: case.tools,
        assurance: case.assurance.as_deref().and_then(Assurance::read).unwrap_or(Assurance::Bearer),
        credential: String::new(),
        issued: now,
        expires: now,
    };
    let decided = match accept(&case.tool, arguments) {
        Err(refused) => Explained::Deny(refused),
        Ok(Accepted { action, upstream, arguments }) => match grants.site_of(&who, &action, &upstream) {
            None => Explained::Deny(Refused::NotGranted),
            Some(site) => {
                let sessions = Sessions::default();
                let question = Question { who: &who, site, arguments: Some(arguments.tree()), now };
                for _ in 0..case.after {
                    let _counted = grants.settle(question, &action, &sessions, None);
                }
                match grants.settle(question, &action, &sessions, None) {
                    Verdict::Permit { .. } => Explained::Permit,
                    Verdict::Hold { demands, .. } => Explained::Hold(demands),
                    Verdict::Deny { refused, .. } => Explained::Deny(refused),
                }
            }
        },
    };
    let about = match &case.reason {
        Some(reason) => format!("{} {}: {reason}", who.agent, case.tool),
        None => format!("{} {}", who.agent, case.tool),
    };
    let passed = agrees(&case.expect, case.approvals, &decided);
    CaseResult { line, about, expected: case.expect, decided, passed }
}

fn is_expectation(text: &str) -> bool {
    let (verdict, rest) = text.split_once(':').map_or((text, None), |(verdict, rest)| (verdict, Some(rest)));
    match verdict {
        "permit" => rest.is_none(),
        "hold" | "deny" => rest.is_none_or(|rest| !rest.is_empty()),
        _ => false,
    }
}

fn agrees(expected: &str, approvals: Option<u8>, decided: &Explained) -> bool {
    let (verdict, rest) = expected.split_once(':').map_or((expected, None), |(verdict, rest)| (verdict, Some(rest)));
    let detail = match (decided, rest) {
        (_, None) => true,
        (Explained::Hold(demands), Some(roles)) => {
            let mut demanded: Vec<&str> = demands.iter().map(|demand| demand.role.as_str()).collect();
            let mut expected: Vec<&str> = roles.split('+').map(str::trim).collect();
            demanded.sort_unstable();
            expected.sort_unstable();
            demanded == expected
        }
        (Explained::Deny(refused), Some(code)) => refused.code() == code,
        (Explained::Permit, Some(_)) => false,
    };
    let people = match (decided, approvals) {
        (Explained::Hold(demands), Some(most)) => demands.iter().map(|demand| demand.approvals).max() == Some(most),
        (_, wanted) => wanted.is_none(),
    };
    decided.word() == verdict && detail && people
}
