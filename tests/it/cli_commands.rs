//! The command line as people and scripts meet it: exit codes, JSON shapes, files written.

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    house::{EVERYTHING, House},
    recorder::Recorder,
};

fn countersign(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(args)
        .current_dir(folder)
        .env_remove("COUNTERSIGN_CONFIG")
        .env_remove("COUNTERSIGN_TOKEN")
        .env_remove("COUNTERSIGN_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(text)))
}

fn house() -> TempDir {
    let folder = TempDir::new().unwrap();
    let made = countersign(folder.path(), &["init"]);
    assert!(made.status.success(), "{}", err(&made));
    folder
}

#[test]
fn every_command_has_help_that_ends_well() {
    fn walk(command: &clap::Command, path: &mut Vec<String>, seen: &mut Vec<Vec<String>>) {
        for sub in command.get_subcommands() {
            path.push(sub.get_name().to_owned());
            seen.push(path.clone());
            walk(sub, path, seen);
            path.pop();
        }
    }
    let folder = TempDir::new().unwrap();
    let mut commands = vec![Vec::new()];
    walk(&countersign::cli::command(), &mut Vec::new(), &mut commands);
    assert!(commands.len() > 25, "{commands:?}");
    countersign::cli::command().debug_assert();
    for command in commands {
        let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
        args.push("--help");
        let help = countersign(folder.path(), &args);
        assert_eq!(help.status.code(), Some(0), "{args:?}: {}", err(&help));
        assert!(out(&help).contains("Usage: countersign"), "{args:?}");
    }
    assert!(out(&countersign(folder.path(), &["--help"])).contains("Exit codes: 0 done"));
}

#[test]
fn exit_codes_tell_what_kind_of_no_it_is() {
    let empty = TempDir::new().unwrap();
    let house = house();
    let table: &[(&Path, &[&str], i32, &str)] = &[
        (empty.path(), &[], 2, "Usage"),
        (empty.path(), &["frobnicate"], 2, "unrecognized subcommand"),
        (empty.path(), &["serve", "--stdio"], 2, "--agent"),
        (empty.path(), &["status"], 2, "countersign init"),
        (empty.path(), &["ledger", "verify", "nothing"], 2, ""),
        (house.path(), &["init"], 2, "already"),
        (house.path(), &["status"], 3, ""),
        (house.path(), &["reload"], 3, "countersign serve"),
        (house.path(), &["stop"], 3, "countersign serve"),
        (house.path(), &["call", "a__b", "{}", "--agent", "x"], 3, "countersign serve"),
        (house.path(), &["call", "a__b", "{\"a\":1,\"a\":2}", "--token", "t"], 2, "no JSON"),
        (house.path(), &["call", "a__b", "{}"], 2, "--agent NAME"),
        (
            house.path(),
            &["call", "a__b", "{}", "--token", "t", "--url", "http://127.0.0.1:9/mcp"],
            3,
            "cannot be reached",
        ),
        (house.path(), &["upstream", "remove", "x"], 2, "no upstream `x`"),
        (house.path(), &["upstream", "add", "X", "--", "y"], 2, "no name for an upstream"),
        (house.path(), &["upstream", "add", "x"], 2, "required"),
        (house.path(), &["import", "nothing.json"], 2, "cannot be read"),
        (house.path(), &["agent", "token", "x", "--ttl", "soon"], 2, "90s"),
        (house.path(), &["quickstart", "--listen", "0.0.0.0:1"], 2, "this machine only"),
    ];
    for (folder, args, code, says) in table {
        let ended = countersign(folder, args);
        assert_eq!(ended.status.code(), Some(*code), "{args:?}: {}{}", out(&ended), err(&ended));
        assert!(err(&ended).contains(says), "{args:?}: {}", err(&ended));
    }
}

#[test]
fn errors_are_one_json_object_when_asked() {
    let empty = TempDir::new().unwrap();
    let ended = countersign(empty.path(), &["--json", "ledger", "list"]);
    let told = json(&ended.stderr);
    assert_eq!(told["exit"], 2);
    assert!(told["error"]["errors"][0]["hint"].as_str().unwrap().contains("init"), "{told}");
    assert!(out(&ended).is_empty());
    let house = house();
    let ended = countersign(house.path(), &["status", "--json"]);
    assert_eq!((ended.status.code(), &json(&ended.stdout)["running"]), (Some(3), &Value::Bool(false)));
}

#[test]
fn check_tells_every_error_with_its_place() {
    let house = house();
    let fine = countersign(house.path(), &["check", "--json"]);
    assert_eq!(fine.status.code(), Some(0), "{}", err(&fine));
    assert_eq!(json(&fine.stdout)["ok"], true);
    let file = house.path().join("countersign.toml");
    let text = std::fs::read_to_string(&file).unwrap() + "\n[upstreams.a]\ncomand = [\"x\"]\nurl = \"ftp://x/\"\n";
    std::fs::write(&file, text).unwrap();
    let wrong = countersign(house.path(), &["check"]);
    assert_eq!(wrong.status.code(), Some(1));
    for part in
        ["countersign.toml:16:1: unknown key `upstreams.a.comand`", "did you mean `command`?", "neither http nor https"]
    {
        assert!(err(&wrong).contains(part), "{part} is not in\n{}", err(&wrong));
    }
    let told = json(&countersign(house.path(), &["check", "--json"]).stdout);
    assert_eq!(told["errors"].as_array().unwrap().len(), 2, "{told}");
    assert_eq!(told["errors"][0]["line"], 16);
}

#[test]
fn a_configuration_is_found_upwards_and_by_name() {
    let house = house();
    let deep = house.path().join("a/b");
    std::fs::create_dir_all(&deep).unwrap();
    assert_eq!(countersign(&deep, &["check"]).status.code(), Some(0));
    let elsewhere = TempDir::new().unwrap();
    let file = house.path().join("countersign.toml");
    for named in [file.to_str().unwrap(), house.path().to_str().unwrap()] {
        assert_eq!(countersign(elsewhere.path(), &["-C", named, "check"]).status.code(), Some(0));
    }
}

#[test]
fn upstreams_are_added_listed_removed_and_imported() {
    let house = house();
    let file = house.path().join("countersign.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let run = |args: &[&str]| {
        let ended = countersign(house.path(), args);
        assert!(ended.status.success(), "{args:?}: {}", err(&ended));
        ended
    };
    run(&["upstream", "add", "files", "--env", "A=b", "--", "npx", "-y", "server"]);
    run(&[
        "upstream",
        "add",
        "crm",
        "--url",
        "https://crm.example/mcp",
        "--header",
        "Authorization=Bearer ${CRM_TOKEN:-x}",
    ]);
    let listed = json(&run(&["upstream", "list", "--json"]).stdout);
    let names: Vec<&str> =
        listed["upstreams"].as_array().unwrap().iter().map(|u| u["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["crm", "files"]);
    assert_eq!(
        countersign(house.path(), &["upstream", "add", "plain", "--url", "http://crm.example/"]).status.code(),
        Some(2)
    );
    run(&["upstream", "remove", "crm"]);
    run(&["upstream", "remove", "files"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before);
    let client = house.path().join("mcp.json");
    let servers = r#"{"mcpServers": {"My Files": {"command": "npx", "args": ["x"], "env": {"API_KEY": "hunter2"}}, // ours
        "old": {"type": "sse", "url": "https://x.example/sse"}}}"#;
    std::fs::write(&client, servers).unwrap();
    let told = json(&run(&["import", "mcp.json", "--json"]).stdout);
    assert_eq!(told["upstreams"], serde_json::json!(["my-files"]));
    let notes = told["notes"].to_string();
    assert!(
        notes.contains("looks like a secret") && notes.contains("retired") && !notes.contains("hunter2"),
        "{notes}"
    );
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(&before));
    assert_eq!(countersign(house.path(), &["check"]).status.code(), Some(0));
    let taken = countersign(house.path(), &["import", "mcp.json"]);
    assert_eq!(taken.status.code(), Some(2), "{}", err(&taken));
}

#[test]
fn init_takes_over_a_client_and_keeps_secrets_to_the_owner() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let servers = "{\"servers\": {\"files\": {\"command\": \"x\", \"args\": [\"${input:key}\"]}}}";
    std::fs::write(folder.path().join("mcp.json"), servers).unwrap();
    let made = countersign(folder.path(), &["init", "--import", "mcp.json", "house"]);
    assert!(made.status.success(), "{}", err(&made));
    assert!(out(&made).contains("set `KEY`"), "{}", out(&made));
    let file = folder.path().join("house/countersign.toml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&file).unwrap().contains("command = [\"x\", \"${KEY}\"]"));
    let missing = countersign(&folder.path().join("house"), &["check"]);
    assert!(err(&missing).contains("needs the environment variable `KEY`"), "{}", err(&missing));
}

#[test]
fn the_bank_is_a_tool_server_on_standard_input_and_output() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("bank.json");
    let talk = |lines: &[&str]| -> Vec<Value> {
        let mut bank = Command::new(env!("CARGO_BIN_EXE_countersign"))
            .args(["bank", "--state", state.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = bank.stdin.take().unwrap();
        for line in lines {
            writeln!(input, "{line}").unwrap();
        }
        drop(input);
        let ended = bank.wait_with_output().unwrap();
        assert!(ended.status.success());
        ended.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(json).collect()
    };
    let answers = talk(&[
        r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#,
        r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{"name":"transfer","arguments":{"from":"alice","to":"bob","amount":25}}}"#,
    ]);
    assert_eq!(answers[0]["result"]["protocolVersion"], "2025-11-25");
    assert_eq!(answers[1]["result"]["tools"].as_array().unwrap().len(), 4);
    assert_eq!(answers[2]["result"]["structuredContent"]["balance"], 9_975);
    // what was moved stays moved, and nothing but the accounts and their lock is left behind
    let answers = talk(&[
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"balance","arguments":{"account":"bob"}}}"#,
    ]);
    assert_eq!(answers[0]["result"]["structuredContent"]["balance"], 525);
    let mut left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["bank.json", "bank.json.lock"]);
}

#[test]
fn who_has_called_is_listed_with_the_tokens_that_are_good() {
    let upstream = Recorder::usual();
    let mut house = House::open(&format!("[upstreams.up]\nurl = \"{}\"\n", upstream.url()), EVERYTHING);
    let none = json(house.done(&["agent", "list", "--json"]).as_bytes());
    assert_eq!((&none["agents"], &none["since"]), (&Value::Array(Vec::new()), &Value::Null));
    assert!(house.done(&["agent", "list"]).contains("No agent has called."));
    let token = house.token("tester", &["--task", "t1", "--for", "ann"]);
    let nobody = house.token("nobody", &[]);
    house.token("gone", &[]);
    house.done(&["agent", "revoke", "gone"]);
    for _ in 0..3 {
        assert!(house.call(&token, "up__echo", r#"{"text":"a"}"#).is_success());
    }
    assert!(!house.call(&nobody, "up__echo", r#"{"text":"a"}"#).is_success());
    let expect = |listed: &Value| {
        let agents: Vec<_> = listed["agents"]
            .as_array()
            .unwrap()
            .iter()
            .map(|agent| {
                let names = ["agent", "issuer"].map(|name| agent[name].as_str().unwrap().to_owned());
                assert!(agent["last"].as_str().unwrap().ends_with('Z'), "{agent}");
                (names, ["permitted", "held", "refused"].map(|name| agent[name].as_u64().unwrap()))
            })
            .collect();
        let named = |name: &str| [name.to_owned(), "countersign".to_owned()];
        assert_eq!(agents, [(named("nobody"), [0, 0, 1]), (named("tester"), [3, 0, 0])]);
        let tokens: Vec<_> = listed["tokens"].as_array().unwrap().iter().collect();
        assert_eq!(
            tokens.iter().map(|token| token["agent"].as_str().unwrap()).collect::<Vec<_>>(),
            ["nobody", "tester"]
        );
        assert_eq!((&tokens[1]["task"], &tokens[1]["user"]), (&"t1".into(), &"ann".into()));
        assert!(tokens.iter().all(|token| token["id"].as_str().unwrap().starts_with("tok_")), "{tokens:?}");
    };
    expect(&json(house.done(&["agent", "list", "--json"]).as_bytes()));
    let text = house.done(&["agent", "list"]);
    assert!(text.contains("VOUCHED FOR BY") && text.contains("tester"), "{text}");
    assert!(!text.contains(&token) && !text.contains(&nobody), "ids are shown, tokens are not");
    assert_eq!(house.stop(), Some(0));
    // with no server running it is read from the store
    expect(&json(house.done(&["agent", "list", "--json"]).as_bytes()));
}
