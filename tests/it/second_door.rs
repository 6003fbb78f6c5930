//! No second door: what an agent says reaches a tool server decided and recorded, or not at all; and what decides
//! is what lies in the files.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use countersign::{clock::Clock, config, server};
use serde_json::{Value, json};

use crate::{
    house::{House, kind_of},
    recorder::Recorder,
    wire::Request,
};

/// A legacy stdio server with resources, which writes down every line that reaches it.
const LIBRARY: &str = r#"
field() { printf '%s' "$line" | sed -n "s/.*\"$1\":\(\"[^\"]*\"\|[0-9]*\).*/\1/p"; }
reply() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
while IFS= read -r line; do
  printf '%s\n' "$line" >> seen.jsonl
  id=$(field id)
  [ -n "$id" ] || continue
  case "$line" in
    *'"method":"initialize"'*)
      reply "$id" '{"protocolVersion":"2025-06-18","capabilities":{"resources":{"subscribe":true}},"serverInfo":{"name":"x","version":"1"}}' ;;
    *'"method":"resources/list"'*) reply "$id" '{"resources":[{"uri":"file:///open"},{"uri":"file:///shut"}]}' ;;
    *'"method":"resources/templates/list"'*) reply "$id" '{"resourceTemplates":[]}' ;;
    *'"method":"resources/subscribe"'*) reply "$id" '{}' ;;
    *) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"method not found"}}\n' "$id" ;;
  esac
done
"#;

const ONE_RESOURCE: &str = r#"
@id("open") permit (principal == Agent::"tester", action == Action::"resource_read", resource)
when { context.input.uri == "file:///open" };
"#;

#[test]
fn a_subscription_is_decided_and_recorded_before_the_upstream_is_told() {
    let mut house = House::new("[upstreams.library]\ncommand = [\"sh\", \"library.sh\"]\n", ONE_RESOURCE);
    std::fs::write(house.path().join("library.sh"), LIBRARY).unwrap();
    house.serve();
    let token = house.token("tester", &[]);
    let initialize =
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{}}}"#;
    let opened = Request::post(initialize).send(house.mcp, Some(&token));
    let session = opened.header("mcp-session-id").unwrap().to_owned();
    let subscribe = |uri: &str| {
        let body = json!({"jsonrpc": "2.0", "id": 2, "method": "resources/subscribe", "params": {"uri": uri}});
        Request::post(body.to_string()).with("Mcp-Session-Id", &session).send(house.mcp, Some(&token)).response()
    };
    // listed or not: what no grant covers does not reach the upstream
    for uri in ["file:///shut", "exfil://a-message-to-the-upstream"] {
        let refused = subscribe(uri);
        assert_eq!(refused.pointer("/error/data/reason"), Some(&Value::from("not_granted")), "{uri}: {refused}");
    }
    assert_eq!(subscribe("file:///open").get("result"), Some(&json!({})));
    let seen = std::fs::read_to_string(house.path().join("seen.jsonl")).unwrap();
    assert!(seen.contains("file:///open") && !seen.contains("file:///shut") && !seen.contains("exfil"), "{seen}");
    assert_eq!(house.stop(), Some(0));
    let entries = house.entries();
    let told = |kind: &str| {
        let of_kind = entries.iter().filter(|entry| kind_of(entry) == kind);
        of_kind.filter(|entry| entry.to_string().contains("resources/subscribe")).count()
    };
    assert_eq!((told("call.refused"), told("call.intended")), (2, 1));
    assert_eq!(entries.iter().filter(|entry| kind_of(entry) == "call.settled").count(), 1);
    house.done(&["ledger", "verify"]);
}

#[test]
fn whoever_reads_the_files_last_has_the_last_word() {
    let upstream = Recorder::usual();
    let folder = House::new(&format!("[upstreams.up]\nurl = \"{}\"\n", upstream.url()), "");
    folder.register();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let config = config::load(&folder.path().join("countersign.toml")).unwrap();
        let house = Arc::new(server::House::open(config, Clock::System).unwrap());
        for version in 1..40 {
            let mut grants = String::new();
            // many at first, so that reading an older set takes longer than reading a newer one
            for policy in 0..(200 - version * 5) {
                writeln!(grants, "@id(\"p{policy}\") permit (principal, action == Action::\"up__echo\", resource);")
                    .unwrap();
            }
            folder.grant(&grants);
            let reload = || {
                let house = Arc::clone(&house);
                tokio::spawn(async move { house.reload().await.unwrap() })
            };
            let older = reload();
            tokio::time::sleep(Duration::from_millis(version % 5)).await;
            let last = grants.lines().next().unwrap().to_owned();
            folder.grant(&last);
            let newer = reload();
            older.await.unwrap();
            newer.await.unwrap();
            assert_eq!(house.pipeline.grants.load().len(), 1, "an older set is in force");
        }
        house.stop("test").await;
    });
}
