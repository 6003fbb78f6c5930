//! Secrets stay behind the wall: planted wherever one can be, and looked for wherever one could come out.

use std::{fmt::Write as _, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::Value;

use crate::{
    house::{EVERYTHING, House, free_port},
    recorder::Recorder,
    wire::{META, Request, exchange},
};

/// What a tool server needs and nobody else may see.
const OF_UPSTREAMS: [&str; 4] =
    ["canary-of-the-childs-environment", "canary-of-a-header", "canary-of-a-query", "canary-of-a-dead-upstream"];

/// What an agent says, and what only its tool server and the payloads may hold.
const OF_CALLS: [&str; 9] = [
    "canary-of-an-argument",
    "canary-of-a-refused-argument",
    "canary-of-an-undeclared-argument",
    "canary-of-a-broken-body",
    "canary-of-a-meta-member",
    "canary-of-a-request-state",
    "canary-of-an-input-response",
    "canary-of-a-bad-token",
    "canary-of-a-session-id",
];

/// What the server was started with and none of its children needs.
const OF_THE_SERVER: &str = "canary-of-the-servers-environment";

/// A legacy stdio server that tells its log what it knows: `leak` answers with its own environment.
const CHILD: &str = r#"
field() { printf '%s' "$line" | sed -n "s/.*\"$1\":\(\"[^\"]*\"\|[0-9]*\).*/\1/p"; }
reply() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
echo "starting with $CHILD_SECRET" >&2
echo "starting with $CHILD_SECRET"
printf '{"jsonrpc":"2.0","method":"notifications/strange","params":{"x":"%s"}}\n' "$CHILD_SECRET"
while IFS= read -r line; do
  id=$(field id)
  [ -n "$id" ] || continue
  case "$line" in
    *'"method":"initialize"'*)
      reply "$id" '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"x","version":"1"}}' ;;
    *'"method":"tools/list"'*)
      tools='{"name":"fine","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}}'
      tools="$tools"',{"name":"inherited","inputSchema":{"type":"object"}},{"name":"dies","inputSchema":{"type":"object"}}'
      reply "$id" "{\"tools\":[$tools]}" ;;
    *'"name":"inherited"'*) reply "$id" "{\"content\":[{\"type\":\"text\",\"text\":\"[$SERVER_SECRET]\"}]}" ;;
    *'"name":"dies"'*) echo "$CHILD_SECRET and its end" >&2; exit 1 ;;
    *'"method":"tools/call"'*) reply "$id" '{"content":[]}' ;;
    *) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"%s is no method"}}\n' "$id" "$CHILD_SECRET" ;;
  esac
done
"#;

/// A place that was looked at, and what was there.
struct Looked(Vec<(String, String)>);

impl Looked {
    fn at(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.0.push((place.into(), text.into()));
    }

    /// Every canary that is somewhere, as text or as a list of its bytes in numbers.
    fn found(&self, canaries: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for canary in canaries {
            let numbers = canary.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
            for (place, text) in &self.0 {
                if let Some(at) = text.find(canary).or_else(|| text.find(&numbers)) {
                    let line = text[..at].rsplit('\n').next().unwrap_or_default();
                    found.push(format!("`{canary}` is in {place}: {line}…"));
                }
            }
        }
        found
    }
}

fn files(folder: &Path, looked: &mut Looked) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, looked);
        } else {
            let text = std::fs::read(&path).unwrap_or_default();
            looked.at(path.display().to_string(), String::from_utf8_lossy(&text));
        }
    }
}

#[test]
fn no_secret_comes_out_anywhere() {
    let upstream = Recorder::usual();
    let [of_child, of_header, of_query, of_dead] = OF_UPSTREAMS;
    let mut config = String::new();
    write!(
        config,
        "[upstreams.up]\nurl = \"{}?key={of_query}\"\ntimeout = \"2s\"\nheaders = {{ Authorization = \"Bearer {of_header}\" }}\n\n\
         [upstreams.dead]\nurl = \"http://{}/mcp?key={of_dead}\"\nheaders = {{ X-Key = \"{of_dead}\" }}\n\n\
         [upstreams.child]\ncommand = [\"sh\", \"child.sh\"]\ntimeout = \"2s\"\nenv = {{ CHILD_SECRET = \"{of_child}\" }}\n",
        upstream.url(),
        free_port(),
    )
    .unwrap();
    let mut house = House::new(&config, EVERYTHING);
    std::fs::write(house.path().join("child.sh"), CHILD).unwrap();
    for upstream in ["up", "child"] {
        house.done(&["tool", "register", upstream]);
    }
    house.serve_with(&[("COUNTERSIGN_LOG", "trace"), ("SERVER_SECRET", OF_THE_SERVER)]);
    let token = house.token("tester", &[]);
    let nobody = house.token("nobody", &[]);
    let revoked = house.token("gone", &[]);
    house.done(&["agent", "revoke", "gone"]);

    let mut answers = Looked(Vec::new());
    let mut ask = |what: &str, request: Request, token: &str| {
        let answer = request.send(house.mcp, Some(token));
        answers.at(
            format!("the answer to {what}"),
            format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body)),
        );
        answer
    };
    let [argument, refused, undeclared, broken, meta, state, response, bad_token, session] = OF_CALLS;
    let call = |tool: &str, arguments: String| Request::call(tool, &arguments);
    assert!(ask("a call", call("up__echo", format!(r#"{{"text":"{argument}"}}"#)), &token).is_success());
    assert!(ask("a call with effects", call("up__write", format!(r#"{{"text":"{argument}"}}"#)), &token).is_success());
    let inherited = ask("a child's environment", call("child__inherited", "{}".to_owned()), &token);
    assert!(inherited.last.contains("[]"), "a child inherits what is not its own: {}", inherited.last);
    for arguments in [
        format!(r#"{{"text":["{refused}"]}}"#),
        format!(r#"{{"text":"x","n":"{refused}"}}"#),
        format!(r#"{{"text":"x","color":"{refused}"}}"#),
        format!(r#"{{"text":"x","more":"{undeclared}"}}"#),
        format!(r#"{{"text":"x","inner":{{"b":"{undeclared}"}}}}"#),
    ] {
        assert!(!ask("a bad argument", call("up__echo", arguments), &token).is_success());
    }
    for (tool, token) in [("up__echo", &nobody), ("up__nothing", &token), ("dead__x", &token), ("up__echo", &revoked)] {
        ask("a refused call", call(tool, format!(r#"{{"text":"{refused}"}}"#)), token);
    }
    for tool in ["garbage", "dies", "never_answers", "redirects", "other_id", "wrong_type", "structured", "escapes"] {
        ask(tool, call(&format!("up__{tool}"), "{}".to_owned()), &token);
    }
    ask("a child that dies", call("child__dies", "{}".to_owned()), &token);
    ask("a broken body", call("up__echo", format!(r#"{{"text":"{broken}","text":1}}"#)), &token);
    ask(
        "half a body",
        call("up__echo", r#"{"text":"a"}"#.to_owned()).body(format!(r#"{{"jsonrpc":"{broken}"#)),
        &token,
    );
    let with_meta = META.replacen('{', &format!(r#"{{"com.example/x":"{meta}","traceparent":"{meta}","#), 1);
    for more in [
        format!(r#""_meta":{with_meta}"#),
        format!(r#""requestState":"{state}","_meta":{META}"#),
        format!(r#""inputResponses":{{"{response}":{{"value":"{response}"}}}},"_meta":{META}"#),
    ] {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"up__bare","arguments":{{}},{more}}}}}"#
        );
        ask("what travels beside", Request::envelope("tools/call", Some("up__bare"), &body), &token);
    }
    ask("a bad token", call("up__bare", "{}".to_owned()), bad_token);
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    ask("a strange session", Request::post(ping).with("Mcp-Session-Id", session), &token);
    let forwarded: Vec<_> =
        upstream.calls().into_iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).collect();
    assert!(forwarded.iter().any(|body| body.contains(argument)), "the canary is alive");
    for never in [response, state, refused, undeclared, broken] {
        assert!(!forwarded.iter().any(|body| body.contains(never)), "`{never}` reached the upstream");
    }
    for seen in upstream.seen() {
        let sent = format!("{:?}{}", seen.headers, String::from_utf8_lossy(&seen.body));
        assert!(!sent.contains(&token), "the agent's token reached the upstream");
        assert!(sent.contains(of_header), "the upstream's own header is alive");
    }

    // an upstream's secrets and the tokens are in no answer; what an agent said itself, it may be told again
    let secret = |text: &str| text.rsplit('.').next().unwrap_or_default().to_owned();
    let tokens = [&token, &nobody, &revoked].map(|token| secret(token));
    let of_tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let wall: Vec<&str> = OF_UPSTREAMS.into_iter().chain([OF_THE_SERVER]).chain(of_tokens.iter().copied()).collect();
    let mut found = answers.found(&wall);

    let mut looked = Looked(Vec::new());
    for path in ["/metrics", "/readyz", "/healthz", "/tlog/checkpoint", "/tlog/tile/entries/000.p/1"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", house.console);
        looked.at(path, String::from_utf8_lossy(&exchange(house.console, request.as_bytes()).body));
    }
    for arguments in [
        &["status", "--json"][..],
        &["status"],
        &["tool", "list", "--json"],
        &["tool", "review", "--json"],
        &["tool", "register", "dead"],
        &["upstream", "list", "--json"],
        &["check", "--json"],
        &["reload"],
        &["grant", "explain", "--agent", "tester", "--tool", "up__echo", "--args", "{\"text\":1}"],
        &["ledger", "list", "--json"],
        &["ledger", "tail", "-n", "100"],
        &["ledger", "export", "--format", "jsonl"],
    ] {
        let output = house.run(arguments);
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        looked.at(format!("`countersign {}`", arguments.join(" ")), said);
    }
    let entries = house.entries();
    assert!(entries.iter().any(|entry| entry.to_string().contains("call.refused")));
    assert_eq!(house.stop(), Some(0));
    looked.at("the log", house.log());
    assert!(house.log().contains("TRACE"), "everything was logged");
    files(&house.data().join("tlog"), &mut looked);
    looked.at("the verification", house.done(&["ledger", "verify"]));

    // a broken body's or a token's canary is nobody's to keep; a member's name is, in a pointer
    let keys: Vec<String> = ["token.key", "session.key", "ledger.key"]
        .iter()
        .map(|name| std::fs::read(house.data().join(name)).unwrap())
        .map(|key| String::from_utf8_lossy(&key).into_owned())
        .collect();
    let all: Vec<&str> = wall.iter().copied().chain(OF_CALLS).chain(keys.iter().map(String::as_str)).collect();
    found.extend(looked.found(&all));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn what_is_kept_is_kept_to_ourselves() {
    let upstream = Recorder::usual();
    let mut house = House::new(&format!("[upstreams.up]\nurl = \"{}\"\n", upstream.url()), EVERYTHING);
    // somebody made the folder beforehand, and let everybody in
    std::fs::create_dir_all(house.data()).unwrap();
    std::fs::set_permissions(house.data(), std::fs::Permissions::from_mode(0o755)).unwrap();
    house.register();
    house.serve();
    let token = house.token("tester", &[]);
    assert!(house.call(&token, "up__echo", r#"{"text":"a"}"#).is_success());
    let long = "x".repeat(200_000);
    assert!(house.call(&token, "up__echo", &format!(r#"{{"text":"{long}"}}"#)).is_success());
    let mode = |name: &str| std::fs::metadata(house.data().join(name)).unwrap().permissions().mode() & 0o777;
    for (name, kept) in [
        ("control.sock", 0o600),
        ("token.key", 0o600),
        ("session.key", 0o600),
        ("ledger.key", 0o600),
        ("store", 0o700),
        ("payloads", 0o700),
    ] {
        assert_eq!(mode(name), kept, "{name}");
    }
}

#[test]
fn a_malformed_message_leaves_a_ledger_that_verifies() {
    let upstream = Recorder::usual();
    let mut house = House::open(&format!("[upstreams.up]\nurl = \"{}\"\n", upstream.url()), EVERYTHING);
    let token = house.token("tester", &[]);
    for body in ["{", "[]", r#"{"jsonrpc":"2.0","id":null,"method":"tools/call"}"#] {
        assert_eq!(Request::post(body).send(house.mcp, Some(&token)).status, 400, "{body}");
    }
    assert_eq!(house.stop(), Some(0));
    let refused = house.entries().into_iter().filter(|entry| entry.to_string().contains("call.refused")).count();
    assert_eq!(refused, 3);
    let verified: Value = serde_json::from_str(&house.done(&["ledger", "verify", "--json"])).unwrap_or_default();
    assert!(!verified.to_string().contains("missing"), "{verified}");
}
