//! Registering tools: what of it depends on what.

use serde_json::{Value, json};

use crate::{
    house::{House, http_upstream},
    recorder::Recorder,
};

#[test]
fn an_upstream_that_cannot_be_asked_does_not_keep_the_others_from_being_registered() {
    let upstream = Recorder::usual();
    let broken = "[upstreams.broken]\ncommand = [\"there-is-no-such-program\"]\n\n";
    let house = House::new(&format!("{broken}{}", http_upstream("up", &upstream.url(), "")), "");
    let registered = house.run(&["tool", "register", "--json"]);
    assert_eq!(registered.status.code(), Some(1));
    let answer: Value = serde_json::from_slice(&registered.stdout).unwrap();
    let rows = answer["tools"].as_array().unwrap();
    assert_eq!((&rows[0]["upstream"], &rows[0]["result"]), (&json!("broken"), &json!("unreachable")));
    assert!(rows[0]["tool"].is_null() && rows[0]["why"].as_str().unwrap().contains("there-is-no-such-program"));
    assert!(rows.len() > 2 && rows[1..].iter().all(|row| row["result"] == "new"), "{answer}");
    assert_eq!(house.run(&["tool", "register", "broken"]).status.code(), Some(4));
}
