//! How a call would be decided, and by what: asked on a cell of *Grants*, with arguments. Nothing is called and nothing counted.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use maud::{Markup, html};
use zeroize::Zeroizing;

use super::{
    Doors, Problem, Trouble, apart,
    form::Act,
    grants::Who,
    page::{Page, notice, segment, signed_in, theirs, token},
};
use crate::{
    approver::Session,
    call::{Fault, Operation, Refused},
    display::visible,
    grant::{Explanation, PolicyOutcome},
    json::{Limits, Value, parse},
};

/// What the arguments may be at most.
const LIMITS: Limits = Limits { bytes: 64 << 10, depth: 64, nodes: 10_000 };

/// What is asked, as the form has it.
pub(super) struct Question<'a> {
    pub(super) who: &'a Who,
    pub(super) tool: &'a str,
    pub(super) arguments: &'a str,
}

/// What came of it.
enum Told {
    /// The arguments do not fit the contract: the grants are not asked.
    Unfit(Refused),
    Explained(Box<Explanation>),
    /// The tool is not on offer.
    Nothing,
}

/// The form that asks.
pub(super) fn form(session: &Session, question: &Question<'_>) -> Markup {
    let Question { who, tool, arguments } = question;
    let (name, value) = who.field();
    html! {
        form method="post" action="/grants/explain" data-act="explain" {
            (token(&session.form))
            input type="hidden" name=(name) value=(value);
            input type="hidden" name="tool" value=(tool);
            label for="arguments" { "Decided for these arguments, as a JSON object" }
            textarea #arguments name="arguments" spellcheck="false" autocapitalize="none" maxlength=(LIMITS.bytes) { (arguments) }
            button type="submit" { "How would it be decided?" }
        }
    }
}

/// Decides a call that nobody makes.
pub(super) async fn explain(State(doors): State<Arc<Doors>>, act: Act) -> Result<Response, Trouble> {
    let Act { who: session, mut fields } = act;
    let who = Who::read(fields.optional("agent")?, fields.optional("team")?)?;
    let (tool, arguments) = (fields.text("tool")?, fields.text("arguments")?);
    fields.end()?;
    let told = match parse(arguments.as_bytes(), &LIMITS) {
        Ok(tree) => {
            let (whose, name) = (who.clone(), tool.clone());
            Ok(apart(&doors, move |doors| Ok::<_, Fault>(decided(doors, &whose, &name, tree))).await?)
        }
        Err(error) => {
            let why = format!("the arguments are no JSON that is let in, at byte {}: {:?}", error.at, error.kind);
            Err(Problem::Invalid(why))
        }
    };
    let question = Question { who: &who, tool: &tool, arguments: &arguments };
    let status = told.as_ref().map_or_else(Problem::status, |_| StatusCode::OK);
    let main = html! {
        p.quiet {
            a href="/grants" { "Grants" } " · "
            a href={ "/grants?" (who.query()) "&tool=" (segment(&tool)) } { "The policies about it" }
        }
        h1 { (who.name()) ", " (theirs(&tool)) }
        @match &told {
            Err(problem) => (notice(problem)),
            Ok(Told::Nothing) => p.problem role="alert" { "No such tool is on offer." },
            Ok(Told::Unfit(refused)) => {
                p data-explained="deny" { strong { "Denied: " (visible(&refused.to_string())) } " " code { (refused.code()) } }
                p.quiet { "The arguments do not fit the contract: no policy is asked." }
            }
            Ok(Told::Explained(explanation)) => (shown(explanation)),
        }
        (form(&session, &question))
    };
    let page = Page { name: "explain", title: "How it would be decided", section: "/grants", ..Page::default() };
    Ok(signed_in(&doors, &session, status, &page, &main))
}

fn decided(doors: &Doors, who: &Who, name: &Zeroizing<String>, arguments: Value) -> Told {
    let (pipeline, now) = (&doors.pipeline, doors.pipeline.clock.now());
    let (catalog, grants) = (pipeline.catalog.load(), pipeline.grants.load());
    let Some(tool) = catalog.find(Operation::CallTool, name) else { return Told::Nothing };
    match tool.accept(arguments) {
        Err(refused) => Told::Unfit(refused),
        Ok(arguments) => {
            let explanation = grants.explain(&who.principal(now), &tool, &arguments, &pipeline.sessions, now);
            Told::Explained(Box::new(explanation))
        }
    }
}

fn shown(explanation: &Explanation) -> Markup {
    let word = explanation.verdict.word();
    let about: Vec<_> =
        explanation.policies.iter().filter(|policy| policy.outcome != PolicyOutcome::OtherAction).collect();
    html! {
        p data-explained=(word) { strong { (visible(&explanation.verdict.to_string())) } }
        @if about.is_empty() {
            p.none { "No policy is about this tool." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="What became of each policy" {
                table {
                    thead { tr { th scope="col" { "policy" } th scope="col" { "effect" } th scope="col" { "what became of it" } th scope="col" { "place" } } }
                    tbody {
                        @for policy in &about {
                            tr data-outcome=(policy.outcome.code()) {
                                th scope="row" { (theirs(&policy.id)) }
                                td { span.tag { @if policy.permit { "permit" } @else { "forbid" } } }
                                td { (policy.outcome) }
                                td { code { (visible(&policy.place)) } }
                            }
                        }
                    }
                }
            }
        }
        p.quiet { (explanation.policies.len() - about.len()) " policies are about other actions." }
    }
}
