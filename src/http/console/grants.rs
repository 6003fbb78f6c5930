//! *Grants*: who may call what, by the policies that are loaded, and these policies with their places.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use maud::{Markup, html};
use zeroize::Zeroizing;

use super::{
    Doors, Problem, Trouble, apart, explain,
    page::{Page, segment, signed_in, theirs},
    picture::grouped,
    tools::{address, turns},
    visitor::SignedIn,
};
use crate::{
    call::{Assurance, Operation, Principal},
    clock::Timestamp,
    contract::Tool,
    display::visible,
    grant::{Grants, Listed, Visibility},
    http::api::form::Parameters,
    identity::ISSUER,
    ledger::HOURS,
};

/// Tools, principals and policies on one page.
const TOOLS: usize = 100;
const PRINCIPALS: usize = 12;
const POLICIES: usize = 100;

/// Whom a column is about. To the policies all agents are alike that none of them names and that are in the same teams.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Agent(String),
    Team(String),
    Anybody,
}

impl Who {
    /// Everybody that the policies could treat apart, and every agent that is known besides.
    fn all(grants: &Grants, known: impl IntoIterator<Item = String>) -> Vec<Self> {
        let mut agents: BTreeSet<String> = grants.agents().into_iter().map(str::to_owned).collect();
        agents.extend(known.into_iter().filter(|name| !name.is_empty()));
        let teams = grants.teams().into_iter().map(|team| Self::Team(team.to_owned()));
        agents.into_iter().map(Self::Agent).chain(teams).chain([Self::Anybody]).collect()
    }

    pub(super) fn principal(&self, now: Timestamp) -> Principal {
        let (agent, teams) = match self {
            Self::Agent(name) => (name.clone(), Vec::new()),
            Self::Team(name) => (String::new(), vec![name.clone()]),
            // no agent has the empty name
            Self::Anybody => (String::new(), Vec::new()),
        };
        Principal {
            agent,
            issuer: ISSUER.to_owned(),
            user: None,
            task: None,
            teams,
            scopes: Vec::new(),
            workload: None,
            chain: Vec::new(),
            tools: None,
            assurance: Assurance::Bearer,
            credential: String::new(),
            issued: now,
            expires: now,
        }
    }

    pub(super) fn name(&self) -> Markup {
        html! {
            @match self {
                Self::Agent(name) => (theirs(name)),
                Self::Team(name) => { "anybody in team " (theirs(name)) },
                Self::Anybody => "any other agent",
            }
        }
    }

    /// The one that a form or a query names: by both, it names none.
    pub(super) fn read(agent: Option<Zeroizing<String>>, team: Option<Zeroizing<String>>) -> Result<Self, Problem> {
        match (agent, team) {
            (Some(agent), None) if agent.is_empty() => Ok(Self::Anybody),
            (Some(agent), None) => Ok(Self::Agent(agent.to_string())),
            (None, Some(team)) => Ok(Self::Team(team.to_string())),
            _ => Err(Problem::Invalid("ask for an agent or for a team".to_owned())),
        }
    }

    /// The field of a form that names it, and what it says.
    pub(super) fn field(&self) -> (&'static str, &str) {
        match self {
            Self::Agent(name) => ("agent", name),
            Self::Team(name) => ("team", name),
            Self::Anybody => ("agent", ""),
        }
    }

    /// What leads to this one alone.
    pub(super) fn query(&self) -> String {
        match self {
            Self::Agent(name) => format!("agent={}", segment(name)),
            Self::Team(name) => format!("team={}", segment(name)),
            Self::Anybody => "agent=".to_owned(),
        }
    }
}

/// What is decided, in a word. Arguments and what a session did so far may still refuse what is shown as `permit` or `hold`.
fn word(visibility: Option<Visibility>) -> &'static str {
    match visibility {
        Some(Visibility::Allow) => "permit",
        Some(Visibility::Hold) => "hold",
        None => "deny",
    }
}

/// What is asked for.
#[derive(Default)]
struct Asked {
    who: Option<Who>,
    tool: Option<String>,
    page: usize,
    columns: usize,
    policies: usize,
}

impl Asked {
    fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut parameters = Parameters::of(uri)?;
        let agent = parameters.text("agent")?;
        let team = parameters.text("team")?.filter(|team| !team.is_empty());
        let tool = parameters.text("tool")?.filter(|tool| !tool.is_empty());
        let mut number = |name: &str| {
            let number = parameters.number(name)?.unwrap_or(0);
            Ok::<_, Problem>(usize::try_from(number).unwrap_or(usize::MAX).min(1 << 20))
        };
        let (page, columns, policies) = (number("page")?, number("columns")?, number("policies")?);
        parameters.end()?;
        let who = match (agent, team) {
            (None, None) => None,
            (agent, team) => Some(Who::read(agent.map(Zeroizing::new), team.map(Zeroizing::new))?),
        };
        Ok(Self { who, tool, page, columns, policies })
    }
}

/// A row of the matrix: a tool, or a way to use an upstream.
struct Row {
    tool: Arc<Tool>,
    cells: Vec<Option<Visibility>>,
}

fn matrix(grants: &Grants, tools: &[Arc<Tool>], columns: &[Who], now: Timestamp) -> Vec<Row> {
    let principals: Vec<Principal> = columns.iter().map(|who| who.principal(now)).collect();
    let row = |tool: &Arc<Tool>| {
        let cells = principals.iter().map(|who| grants.visibility(who, tool, now)).collect();
        Row { tool: Arc::clone(tool), cells }
    };
    tools.iter().map(row).collect()
}

/// What a row is called, and by what it is asked for.
fn called(tool: &Tool) -> String {
    match tool.operation {
        Operation::CallTool => tool.name.clone(),
        _ => format!("{} of {}", tool.action, tool.upstream),
    }
}

/// The matrix, one cell of it, and the policies.
pub(super) async fn page(
    State(doors): State<Arc<Doors>>,
    SignedIn(who): SignedIn,
    uri: Uri,
) -> Result<Response, Trouble> {
    let asked = Asked::of(&uri)?;
    let session = who.clone();
    let now = doors.pipeline.clock.now();
    let main = apart(&doors, move |doors| {
        let pipeline = &doors.pipeline;
        let (grants, catalog) = (pipeline.grants.load(), pipeline.catalog.load());
        // what is not called by a name of its own once for each action: a completion is granted like what it completes
        let mut seen = BTreeSet::new();
        let others = catalog.all().filter(|tool| tool.operation != Operation::CallTool);
        let others = others.filter(|tool| seen.insert((tool.upstream.clone(), tool.action.clone())));
        let all: Vec<Arc<Tool>> = catalog.tools().chain(others).cloned().collect();
        let tools: Vec<Arc<Tool>> = match &asked.tool {
            Some(name) => all.into_iter().filter(|tool| called(tool) == *name).collect(),
            None => all,
        };
        let columns = match &asked.who {
            Some(who) => vec![who.clone()],
            None => {
                let views = pipeline.ledger.views();
                let good = views.tokens().filter(|(_, token)| !token.revoked && token.expires > now);
                let mut known: BTreeSet<String> = good.map(|(_, token)| token.agent.clone()).collect();
                let seen = pipeline.ledger.summed(now, |summary| summary.total(now, HOURS).agents)?;
                known.extend(seen.into_keys().map(String::from));
                Who::all(&grants, known)
            }
        };
        let (across, down) = (columns.len().div_ceil(PRINCIPALS), tools.len().div_ceil(TOOLS));
        let some: Vec<Who> =
            columns.into_iter().skip(asked.columns.saturating_mul(PRINCIPALS)).take(PRINCIPALS).collect();
        let from = asked.page.saturating_mul(TOOLS);
        let rows = matrix(&grants, tools.get(from..tools.len().min(from + TOOLS)).unwrap_or_default(), &some, now);
        Ok(html! {
            h1 { "Grants" }
            p {
                "By the " (grouped(grants.len() as u64)) " policies that are loaded. "
                b { "permit" } ": some arguments let it through alone. " b { "hold" } ": every way takes a countersignature. "
                b { "deny" } ": none. Conditions, limits and what a task did so far may still refuse a call; "
                "a cell leads to why, and decides a call with its arguments."
            }
            @if asked.who.is_some() || asked.tool.is_some() {
                p { a href="/grants" { "The whole matrix" } }
            }
            @if rows.is_empty() {
                p.none { "No such tool is on offer." }
            } @else {
                (drawn(&rows, &some))
                (turns("/grants", &format!("columns={}&{}", asked.columns, kept(&asked)), asked.page, down))
                @if across > 1 { (sideways(asked.columns, across, asked.page)) }
            }
            @if let (Some(row), Some(who)) = (rows.first(), some.first().filter(|_| asked.who.is_some() && asked.tool.is_some())) {
                (why(&grants, row, who, now))
                @if row.tool.operation == Operation::CallTool {
                    (explain::form(&session, &explain::Question { who, tool: &row.tool.name, arguments: "{}" }))
                }
            } @else {
                (all_of(&grants.listed(now), asked.policies))
            }
            p.quiet { "Digest of the set: " code { (grants.digest()) } }
        })
    })
    .await?;
    let page = Page { name: "grants", title: "Grants", section: "/grants", ..Page::default() };
    Ok(signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

/// What of a question stays from page to page.
fn kept(asked: &Asked) -> String {
    let who = asked.who.as_ref().map(|who| format!("{}&", who.query())).unwrap_or_default();
    let tool = asked.tool.as_ref().map(|tool| format!("tool={}&", segment(tool))).unwrap_or_default();
    format!("{who}{tool}")
}

fn drawn(rows: &[Row], columns: &[Who]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Who may call what" {
            table.matrix {
                thead { tr {
                    th scope="col" { "tool" }
                    @for who in columns { th scope="col" { (who.name()) } }
                } }
                tbody {
                    @for row in rows {
                        @let name = called(&row.tool);
                        tr data-row=(visible(&name)) {
                            th scope="row" {
                                @if row.tool.operation == Operation::CallTool {
                                    a href=(address(&row.tool.upstream, &row.tool.wire_name)) { (theirs(&name)) }
                                } @else { (theirs(&name)) }
                            }
                            @for (who, cell) in columns.iter().zip(&row.cells) {
                                td data-verdict=(word(*cell)) {
                                    a href={ "/grants?" (who.query()) "&tool=" (segment(&name)) } { (word(*cell)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The way to the columns before and after.
fn sideways(at: usize, across: usize, page: usize) -> Markup {
    html! {
        nav.turns aria-label="Agents" {
            @if at > 0 { a href={ "/grants?page=" (page) "&columns=" (at - 1) } { "Agents before" } }
            span { "agents: page " (at + 1) " of " (across) }
            @if at + 1 < across { a href={ "/grants?page=" (page) "&columns=" (at + 1) } { "More agents" } }
        }
    }
}

/// What a cell rests on.
fn why(grants: &Grants, row: &Row, who: &Who, now: Timestamp) -> Markup {
    let principal = who.principal(now);
    let about = grants.about(&principal, &row.tool.action, &row.tool.upstream, now);
    let verdict = word(row.cells.first().copied().flatten());
    html! {
        h2 { "Why " b data-verdict=(verdict) { (verdict) } }
        @if about.is_empty() {
            p.none { "No policy is about such a call: what nothing permits is denied." }
        } @else {
            p { "The policies whose principal, action and resource such a call has:" }
            (listing(&about))
        }
    }
}

/// Every policy.
fn all_of(listed: &[Listed], page: usize) -> Markup {
    let from = page.saturating_mul(POLICIES);
    html! {
        h2 #policies { "Policies" }
        @if listed.is_empty() {
            p.none { "None is loaded: everything is refused." }
        } @else {
            (listing(listed.get(from..listed.len().min(from + POLICIES)).unwrap_or_default()))
            @let pages = listed.len().div_ceil(POLICIES);
            @if pages > 1 {
                nav.turns aria-label="Policies" {
                    @if page > 0 { a href={ "/grants?policies=" (page - 1) "#policies" } { "Policies before" } }
                    span { "page " (page + 1) " of " (pages) }
                    @if page + 1 < pages { a href={ "/grants?policies=" (page + 1) "#policies" } { "More policies" } }
                }
            }
        }
    }
}

fn listing(policies: &[Listed]) -> Markup {
    html! {
        @for policy in policies {
            article.policy data-policy=(visible(&policy.id)) {
                h3 { (theirs(&policy.id)) }
                p.quiet {
                    span.tag { @if policy.permit { "permit" } @else { "forbid" } } " "
                    @if policy.holds { span.tag data-state="pending" { "hold" } " " }
                    @if policy.over { span.tag { "its time is past" } " " }
                    code data-place { (visible(&policy.place)) }
                }
                pre.theirs dir="ltr" { (by_line(&policy.text)) }
            }
        }
    }
}

/// A text of several lines, each with what hides in it written out.
fn by_line(text: &str) -> String {
    text.lines().map(visible).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_the_policies_could_treat_apart_is_a_column() {
        let grants = Grants::compile(&[], &crate::contract::Catalog::default()).unwrap();
        let all = Who::all(&grants, ["b".to_owned(), String::new(), "a".to_owned()]);
        assert_eq!(all, [Who::Agent("a".to_owned()), Who::Agent("b".to_owned()), Who::Anybody]);
        let team = Who::Team("ops&x".to_owned());
        assert_eq!(
            (team.query().as_str(), team.principal(Timestamp::UNIX_EPOCH).teams),
            ("team=ops%26x", vec!["ops&x".to_owned()])
        );
    }

    #[test]
    fn a_question_is_read_strictly() {
        let of = |query: &str| Asked::of(&format!("/grants{query}").parse::<Uri>().unwrap());
        assert_eq!(of("?agent=").unwrap().who, Some(Who::Anybody));
        assert_eq!(of("?agent=a%26b&tool=up__x&page=3").unwrap().who, Some(Who::Agent("a&b".to_owned())));
        assert_eq!(of("?team=ops").unwrap().who, Some(Who::Team("ops".to_owned())));
        assert!(of("").unwrap().who.is_none());
        for wrong in ["?agent=a&team=b", "?page=x", "?nothing=", "?tool=a&tool=b"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_policy_is_shown_line_by_line() {
        assert_eq!(by_line("a\n\u{202e}b\r\n"), "a\n<U+202E>b");
    }
}
