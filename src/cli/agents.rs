//! `agent list`: who has called, and which credentials of ours are good.

use serde_json::{Value, json};

use super::{
    outcome::Failure,
    show::{field, items, table},
};
use crate::{call::Fault, clock::Timestamp, display::visible, server::House};

/// Agents, and credentials, that are told.
const MOST: usize = 1_000;

/// Who has called of late, and the credentials of ours that could be accepted now.
pub(super) async fn list(house: &House) -> Result<Value, Failure> {
    let ledger = house.pipeline.ledger.clone();
    let looked = tokio::task::spawn_blocking(move || ledger.callers()).await;
    let mut seen = looked.map_err(|_| Fault("looking through the ledger was cut short".to_owned()))??;
    let (now, views) = (house.pipeline.clock.now(), house.pipeline.ledger.views());
    let mut tokens: Vec<_> = views
        .tokens()
        .filter(|(_, token)| token.is_good(now) && !token.task.as_deref().is_some_and(|task| views.is_ended(task)))
        .collect();
    tokens.sort_by(|(one, of_one), (other, of_other)| {
        (&of_one.agent, of_one.expires, one).cmp(&(&of_other.agent, of_other.expires, other))
    });
    let more_agents = seen.callers.len().saturating_sub(MOST);
    seen.callers.truncate(MOST);
    let time = |at: Timestamp| format!("{at:.6}");
    let agents = seen.callers.iter().map(|caller| {
        json!({"agent": caller.agent, "issuer": caller.issuer, "last": caller.last.map(time),
               "permitted": caller.permitted, "held": caller.held, "refused": caller.refused})
    });
    let living = tokens.iter().take(MOST).map(|(id, token)| {
        json!({"id": id, "agent": token.agent, "user": token.user, "task": token.task, "chain": token.chain,
               "parent": token.parent, "expires": time(token.expires)})
    });
    Ok(json!({
        "agents": agents.collect::<Vec<_>>(),
        "more_agents": more_agents,
        "entries": seen.looked_at,
        "since": seen.since.map(time),
        "left_out": seen.left_out,
        "tokens": living.collect::<Vec<_>>(),
        "more_tokens": tokens.len().saturating_sub(MOST),
    }))
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or_default()
}

/// Both lists for a person, and what is left out.
pub(super) fn text(answer: &Value) -> String {
    let agents = items(answer, "agents");
    let mut out = match agents {
        [] => "No agent has called.\n".to_owned(),
        agents => {
            let head = ["AGENT", "VOUCHED FOR BY", "LAST", "PERMITTED", "HELD", "REFUSED"].map(str::to_owned).to_vec();
            let row = |agent: &Value| {
                let texts = ["agent", "issuer", "last"].map(|name| visible(field(agent, name)));
                let counts = ["permitted", "held", "refused"].map(|name| number(agent, name).to_string());
                texts.into_iter().chain(counts).collect()
            };
            table(&[head].into_iter().chain(agents.iter().map(row)).collect::<Vec<_>>())
        }
    };
    if let Some(since) = answer.get("since").and_then(Value::as_str) {
        out.push_str(&format!("Counted from {since} on, in the last {} entries.\n", number(answer, "entries")));
    }
    for (name, what) in [("more_agents", "more agents"), ("left_out", "calls of more agents")] {
        match number(answer, name) {
            0 => {}
            more => out.push_str(&format!("{more} {what} are not shown.\n")),
        }
    }
    let tokens = items(answer, "tokens");
    if !tokens.is_empty() {
        let head = ["TOKEN", "AGENT", "FOR", "TASK", "HANDED ON TO", "FROM", "UNTIL"].map(str::to_owned).to_vec();
        let row = |token: &Value| {
            let chain: Vec<String> = items(token, "chain").iter().filter_map(Value::as_str).map(visible).collect();
            let text = |name: &str| visible(field(token, name));
            vec![
                text("id"),
                text("agent"),
                text("user"),
                text("task"),
                chain.join(" > "),
                text("parent"),
                text("expires"),
            ]
        };
        out.push('\n');
        out.push_str(&table(&[head].into_iter().chain(tokens.iter().map(row)).collect::<Vec<_>>()));
        match number(answer, "more_tokens") {
            0 => {}
            more => out.push_str(&format!("{more} more tokens are not shown.\n")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_made_visible_and_what_is_left_out_is_said() {
        let text = text(&json!({
            "agents": [{"agent": "a\n\u{202e}b", "issuer": "https://x/\u{1b}[2J", "last": "2026-11-21T09:00:00.000000Z",
                        "permitted": 3, "held": 1, "refused": 2}],
            "more_agents": 5, "left_out": 7, "entries": 131_072, "since": "2026-11-20T09:00:00.000000Z",
            "tokens": [{"id": "tok_1", "agent": "a", "user": "ann", "task": "t1", "chain": ["a", "a/b"],
                        "parent": "tok_0", "expires": "2026-11-21T10:00:00.000000Z"}],
            "more_tokens": 9,
        }));
        for wanted in [
            "a<U+000A><U+202E>b  https://x/<U+001B>[2J  2026-11-21T09:00:00.000000Z  3          1     2",
            "Counted from 2026-11-20T09:00:00.000000Z on, in the last 131072 entries.",
            "5 more agents are not shown.",
            "7 calls of more agents are not shown.",
            "tok_1  a      ann  t1    a > a/b       tok_0  2026-11-21T10:00:00.000000Z",
            "9 more tokens are not shown.",
        ] {
            assert!(text.contains(wanted), "`{wanted}` is not in\n{text}");
        }
    }
}
