//! The first five minutes, and the operator's commands against a server that runs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

struct Running {
    server: Child,
    told: Value,
}

/// A quickstart in `dir`, on free ports, and the line that it tells.
pub(crate) fn quickstart(dir: &Path) -> (Child, Value) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(["quickstart", "--listen", "127.0.0.1:0", "--console-listen", "127.0.0.1:0", "--json", "--dir"])
        .arg(dir)
        .env_remove("COUNTERSIGN_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let told = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: `{line}`"));
    (server, told)
}

impl Running {
    fn start(dir: &Path) -> Self {
        let (server, told) = quickstart(dir);
        Self { server, told }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.server), signal).unwrap();
    }

    /// SIGTERM; the exit code.
    fn end(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.server.wait().unwrap().code()
    }

    fn fetch(&self, path: &str, host: Option<&str>) -> String {
        let address = self.told["console"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
        let mut stream = TcpStream::connect(&address).unwrap();
        let host = host.unwrap_or(&address);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended_already = self.server.kill();
        let _reaped = self.server.wait();
    }
}

fn countersign(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_countersign"))
        .arg("-C")
        .arg(dir)
        .args(args)
        .env_remove("COUNTERSIGN_TOKEN")
        .env_remove("COUNTERSIGN_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: `{text}` {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn the_first_five_minutes_and_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    // longer than a socket's address can be
    let dir =
        folder.path().join("a-folder-whose-name-alone-is-as-long-as-the-address-of-a-socket-may-be-on-unix").join("qs");
    let mut running = Running::start(&dir);
    let mut names: Vec<&String> = running.told.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["console", "dir", "enrol", "mcp", "pid", "token"]);
    assert_eq!(running.told["pid"], running.server.id());

    let mode = |path: &str| std::fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("data"), mode("data/control.sock")), (0o700, 0o600));

    // the three calls to paste, and one by the token that was printed
    let call = |tool: &str, arguments: &str| {
        let done = countersign(&dir, &["call", "--agent", "demo", tool, arguments, "--json"]);
        (done.status.code().unwrap(), done)
    };
    let (code, permitted) = call("bank__transfer", r#"{"from": "alice", "to": "bob", "amount": 25}"#);
    assert_eq!((code, &json(&permitted)["structuredContent"]["balance"]), (0, &Value::from(9_975)));
    let (code, bad) = call("bank__transfer", r#"{"from": "alice", "to": "bob", "amount": "ten"}"#);
    let reason = json(&bad)["_meta"]["countersign/decision"]["reason"].clone();
    assert_eq!((code, reason), (1, Value::from("arguments_invalid")));
    let (code, refund) = call("bank__refund", r#"{"account": "bob", "amount": 5}"#);
    assert_eq!((code, refund.stdout.is_empty()), (1, true));
    let token = running.told["token"].as_str().unwrap();
    let url = running.told["mcp"].as_str().unwrap();
    let done =
        countersign(&dir, &["call", "bank__balance", r#"{"account":"bob"}"#, "--token", token, "--url", url, "--json"]);
    assert_eq!(json(&done)["structuredContent"]["balance"], 525);

    // what operators ask, by way of the control socket
    let status = json(&countersign(&dir, &["status", "--json"]));
    assert_eq!((&status["running"], &status["tools"]), (&Value::Bool(true), &Value::from(4)));
    for (arguments, decision, code) in [("100", "permit", 0), ("101", "hold", 0), ("10001", "deny", 1)] {
        let arguments = format!(r#"{{"from":"alice","to":"bob","amount":{arguments}}}"#);
        let told = countersign(
            &dir,
            &["grant", "explain", "--agent", "demo", "--tool", "bank__transfer", "--args", &arguments, "--json"],
        );
        assert_eq!((&json(&told)["decision"], told.status.code()), (&Value::from(decision), Some(code)));
    }
    let listed = countersign(&dir, &["ledger", "list", "--json"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let kinds: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(kinds.iter().enumerate().all(|(at, entry)| entry["seq"] == at && entry["kind"].is_string()), "{text}");
    for kind in ["server.started", "token.issued", "call.intended", "call.settled", "call.refused"] {
        assert!(kinds.iter().any(|entry| entry["kind"] == kind), "no `{kind}` in {text}");
    }
    assert!(!text.contains(token), "a token is in the ledger");
    let checkpoint = countersign(&dir, &["ledger", "checkpoint"]);
    let pin = folder.path().join("pin");
    std::fs::write(&pin, &checkpoint.stdout).unwrap();

    // the console
    assert!(running.fetch("/healthz", None).starts_with("HTTP/1.1 200"));
    assert!(running.fetch("/readyz", None).contains("\"ready\":true"));
    assert!(
        running.fetch("/metrics", None).contains("countersign_calls_refused_total{reason=\"arguments_invalid\"} 1")
    );
    assert!(running.fetch("/tlog/checkpoint", None).contains("cache-control: no-cache"));
    assert!(running.fetch("/tlog/../ledger.key", None).starts_with("HTTP/1.1 404"));
    assert!(running.fetch("/nothing", None).contains("application/problem+json"));
    assert!(running.fetch("/healthz", Some("attacker.test")).starts_with("HTTP/1.1 403"));

    // SIGHUP reads the grants again; a set that does not check leaves the old one in force
    std::fs::write(dir.join("grants/demo.cedar"), "permit (").unwrap();
    running.signal(rustix::process::Signal::HUP);
    assert_eq!(countersign(&dir, &["reload"]).status.code(), Some(1));
    assert_eq!(call("bank__balance", r#"{"account": "bob"}"#).0, 0);
    std::fs::write(
        dir.join("grants/demo.cedar"),
        "permit (principal, action == Action::\"bank__refund\", resource);\n",
    )
    .unwrap();
    assert_eq!(countersign(&dir, &["reload"]).status.code(), Some(0));
    assert_eq!(call("bank__balance", r#"{"account": "bob"}"#).0, 1);

    assert_eq!(running.end(), Some(0));
    assert!(!dir.join("data/control.sock").exists());
    assert_eq!(countersign(&dir, &["status"]).status.code(), Some(3));
    let verified = countersign(&dir, &["ledger", "verify", "--pin", pin.to_str().unwrap()]);
    assert_eq!(verified.status.code(), Some(0), "{}", String::from_utf8_lossy(&verified.stdout));

    // the second time goes on: files as they were left, accounts and ledger too
    let before = std::fs::read(dir.join("countersign.toml")).unwrap();
    let mut again = Running::start(&dir);
    assert_eq!(std::fs::read(dir.join("countersign.toml")).unwrap(), before);
    assert_eq!(call("bank__refund", r#"{"account": "bob", "amount": 5}"#).0, 0);
    let stopped = countersign(&dir, &["stop"]);
    assert_eq!(stopped.status.code(), Some(0));
    assert_eq!(again.server.wait().unwrap().code(), Some(0));
    // without a server, the store is opened here
    let tail = countersign(&dir, &["ledger", "tail", "-n", "1", "--json"]);
    assert_eq!(json(&tail)["kind"], "server.stopped");
}
