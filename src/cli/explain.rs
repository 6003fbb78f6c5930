//! `grant explain`: how a call would be decided, and by what.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    outcome::{Exit, Failure},
    request::{nearest, visibility_word},
    show::{field, items, table},
};
use crate::{
    call::{Assurance, Operation, Principal},
    display::visible,
    grant::Explained,
    identity::ISSUER,
    json::{Limits, parse},
    server::House,
};

/// What is asked: a call, and everything of its caller that a policy can look at.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The agent
    #[arg(long)]
    agent: String,
    /// `<upstream>__<tool>`
    #[arg(long)]
    tool: String,
    /// The arguments
    #[arg(long = "args", value_name = "JSON", default_value = "{}")]
    arguments: String,
    /// The user it acts for
    #[arg(long)]
    user: Option<String>,
    /// The task it works on
    #[arg(long)]
    task: Option<String>,
    /// A team it belongs to
    #[arg(long = "team", value_name = "TEAM")]
    teams: Vec<String>,
    /// A scope of its credential
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Its workload identity, such as a SPIFFE id
    #[arg(long, value_name = "ID")]
    workload: Option<String>,
    /// Who vouches for it
    #[arg(long, default_value = ISSUER)]
    issuer: String,
    /// An agent that the credential was handed on to: the first one first, the one who calls now last
    #[arg(long, value_name = "AGENT")]
    chain: Vec<String>,
    /// How surely it is that agent: `bearer`, `bound`, `certificate` or `process`
    #[arg(long, value_name = "WORD", default_value = "bearer")]
    assurance: String,
    /// The only actions that its credential is for; all, without
    #[arg(long, value_name = "ACTION,…", value_delimiter = ',')]
    tools: Vec<String>,
}

/// Decides a call that nobody makes; nothing is counted and nothing recorded.
pub(super) fn explain(house: &House, question: Question) -> Result<Value, Failure> {
    let Question { agent, tool: name, arguments, user, task, teams, scopes, workload, issuer, chain, assurance, tools } =
        question;
    let (pipeline, now) = (&house.pipeline, house.pipeline.clock.now());
    let catalog = pipeline.catalog.load();
    let Some(tool) = catalog.find(Operation::CallTool, &name) else {
        let known = catalog.tools().map(|tool| tool.name.as_str());
        let hint = match nearest(&name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "`countersign tool list` shows what is on offer".to_owned(),
        };
        return Err(Failure::new(Exit::Cannot, format!("no tool `{}` is on offer", visible(&name))).hint(hint));
    };
    let arguments = parse(arguments.as_bytes(), &Limits::REQUEST).map_err(|error| {
        Failure::new(
            Exit::Cannot,
            format!("the arguments are no JSON that is let in, at byte {}: {:?}", error.at, error.kind),
        )
        .hint("write them as one JSON object in single quotes")
    })?;
    let Some(assurance) = Assurance::read(&assurance) else {
        return Err(Failure::new(Exit::Cannot, format!("there is no assurance `{}`", visible(&assurance)))
            .hint("write `bearer`, `bound`, `certificate` or `process`"));
    };
    let who = Principal {
        agent,
        issuer,
        user,
        task,
        teams,
        scopes,
        workload,
        chain,
        tools: Some(tools).filter(|tools| !tools.is_empty()),
        assurance,
        credential: "explain".to_owned(),
        issued: now,
        expires: now,
    };
    let grants = pipeline.grants.load();
    let seen = visibility_word(grants.visibility(&who, &tool, now));
    let base = json!({"agent": who.agent, "tool": tool.name, "listed": seen, "set": grants.digest().to_string()});
    let arguments = match tool.accept(arguments) {
        Ok(arguments) => arguments,
        Err(refused) => {
            let stopped = json!({"decision": "deny", "reason": refused.code(), "text": refused.to_string(),
                                 "pointer": refused.pointer(), "policies": []});
            return Ok(joined(base, stopped));
        }
    };
    let explanation = grants.explain(&who, &tool, &arguments, &pipeline.sessions, now);
    let policies: Vec<Value> = explanation
        .policies
        .iter()
        .map(|policy| {
            json!({"id": &*policy.id, "place": policy.place, "effect": if policy.permit { "permit" } else { "forbid" },
                   "outcome": policy.outcome.code(), "text": policy.outcome.to_string()})
        })
        .collect();
    let verdict = match explanation.verdict {
        Explained::Permit => json!({"decision": "permit"}),
        Explained::Hold(demands) => {
            let demands = demands.iter().map(|demand| {
                json!({"policy": &*demand.policy, "role": demand.role, "approvals": demand.approvals,
                       "expires_s": demand.expires, "reason": demand.reason})
            });
            json!({"decision": "hold", "demands": demands.collect::<Vec<_>>()})
        }
        Explained::Deny(refused) => json!({"decision": "deny", "reason": refused.code(), "text": refused.to_string(),
                                           "scopes": refused.scopes()}),
    };
    Ok(joined(joined(base, verdict), json!({"policies": policies})))
}

fn joined(mut into: Value, from: Value) -> Value {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
    into
}

/// The explanation for a person: the verdict, then what decided, then the rest.
pub(super) fn text(answer: &Value) -> String {
    let mut text = match field(answer, "decision") {
        "deny" => format!("deny ({}): {}\n", field(answer, "reason"), visible(field(answer, "text"))),
        other => format!("{other}\n"),
    };
    for demand in items(answer, "demands") {
        let approvals = demand.get("approvals").and_then(Value::as_u64).unwrap_or(1);
        let role = visible(field(demand, "role"));
        text.push_str(&format!(
            "  {approvals} countersignature(s) of `{role}`, by {}\n",
            visible(field(demand, "policy"))
        ));
    }
    let decided = |policy: &&Value| field(policy, "outcome") == "decided";
    let policies = items(answer, "policies");
    let rows = policies.iter().filter(decided).chain(policies.iter().filter(|policy| !decided(policy)));
    let row = |policy: &Value| ["effect", "id", "place", "text"].map(|name| visible(field(policy, name))).to_vec();
    text.push_str(&table(&rows.map(row).collect::<Vec<_>>()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decided_comes_first() {
        let text = text(&json!({"decision": "deny", "reason": "not_granted", "text": "no grant", "policies": [
            {"effect": "permit", "id": "a", "place": "x:1", "outcome": "condition_false", "text": "its condition does not hold"},
            {"effect": "forbid", "id": "b", "place": "x:2", "outcome": "decided", "text": "decided"}]}));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "deny (not_granted): no grant");
        assert!(lines[1].starts_with("forbid  b"), "{text}");
        assert!(lines[2].starts_with("permit  a"), "{text}");
    }
}
