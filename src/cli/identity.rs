//! `identity check`: how a token would be judged, stage by stage, without showing it.

use std::io::Read as _;

use clap::Subcommand;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::{
    Place,
    outcome::{Exit, Failure},
    request::{Request, Typed},
    show::{field, items, table},
};
use crate::{display::visible, identity::Bound, server::House};

/// The longest that is read from standard input, bytes.
const LONGEST: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// How a token would be judged, stage by stage; it is not shown, and nothing is done with it
    #[command(
        after_help = "Examples:\n  countersign identity check \"$TOKEN\"\n  countersign identity check - < token.txt\n  \
                            countersign identity check --json -\n\nExits with 1 when the token would be refused. What stands on a \
                            command line others on this machine may see: `-` reads it from standard input."
    )]
    Check {
        /// The token; `-` reads it from standard input
        token: String,
    },
}

/// Does what was asked.
pub(super) async fn run(place: &Place, command: IdentityCommand) -> Result<Exit, Failure> {
    let IdentityCommand::Check { token } = command;
    let mut token = Zeroizing::new(token);
    if *token == "-" {
        token.clear();
        let read = std::io::stdin().take(LONGEST).read_to_string(&mut token);
        read.map_err(|error| Failure::io("standard input cannot be read", &error))?;
    }
    let bare = token.trim();
    let bare = bare.strip_prefix("Bearer ").or_else(|| bare.strip_prefix("DPoP ")).unwrap_or(bare);
    let answer = place.ask(Request::CheckToken { token: Typed::new(Zeroizing::new(bare.to_owned())) }).await?;
    place.answer(&answer, text);
    Ok(if answer.get("accepted").and_then(Value::as_bool) == Some(true) { Exit::Done } else { Exit::No })
}

/// Judges it in this house.
pub(super) async fn check(house: &House, token: &str) -> Value {
    let explained = house.pipeline.identity.explain(token).await;
    let stages: Vec<Value> = explained
        .stages
        .iter()
        .map(|stage| json!({"stage": stage.stage, "refused": stage.refused, "told": stage.told}))
        .collect();
    let principal = explained.principal.map(|who| {
        json!({
            "agent": who.agent, "issuer": who.issuer, "user": who.user, "task": who.task, "teams": who.teams,
            "scopes": who.scopes, "workload": who.workload, "chain": who.chain, "tools": who.tools,
            "assurance": who.assurance.word(), "credential": who.credential, "expires": who.expires.to_string(),
        })
    });
    let bound = explained.bound.map(|bound| match bound {
        Bound::Key(_) => "key",
        Bound::Certificate(_) => "certificate",
    });
    json!({"accepted": principal.is_some(), "bound": bound, "stages": stages, "principal": principal})
}

fn text(answer: &Value) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for stage in items(answer, "stages") {
        let verdict = match stage.get("refused").and_then(Value::as_str) {
            Some(code) => format!("refused: {code}"),
            None => "ok".to_owned(),
        };
        rows.push(vec![field(stage, "stage").to_owned(), verdict, field(stage, "told").to_owned()]);
    }
    let mut told = table(&rows);
    let Some(who) = answer.get("principal").and_then(Value::as_object) else {
        return format!("{told}\nit would be refused");
    };
    let rows: Vec<Vec<String>> = who
        .iter()
        .filter_map(|(name, value)| {
            let text = match value {
                Value::String(text) => visible(text),
                Value::Array(all) if !all.is_empty() => {
                    all.iter().filter_map(Value::as_str).map(visible).collect::<Vec<_>>().join(", ")
                }
                _ => return None,
            };
            Some(vec![name.clone(), text])
        })
        .collect();
    told.push_str("\nit would be accepted:\n");
    told.push_str(&table(&rows));
    told
}
