//! A whole Countersign of a test's own: a folder, the real binary, free ports.

use std::{
    fmt::Write as _,
    io::Read as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::wire::{Answer, META, Request, exchange};

/// The grant that most tests use: `tester` may call everything.
pub(crate) const EVERYTHING: &str =
    "@id(\"tester\")\npermit (principal == Agent::\"tester\", action in Action::\"call\", resource);\n";

/// A folder that can be served.
pub(crate) struct House {
    folder: TempDir,
    pub(crate) mcp: SocketAddr,
    pub(crate) console: SocketAddr,
    server: Option<Child>,
}

impl House {
    /// Lays out a folder: `countersign.toml` with `upstreams` (TOML text) and `more`, and one grants file.
    pub(crate) fn new(upstreams: &str, grants: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("house-").tempdir().unwrap();
        let house = Self { mcp: free_port(), console: free_port(), folder, server: None };
        std::fs::create_dir_all(house.path().join("grants")).unwrap();
        house.configure(upstreams);
        house.grant(grants);
        house
    }

    /// Writes the configuration again.
    pub(crate) fn configure(&self, upstreams: &str) {
        let mut text = String::new();
        writeln!(text, "[server]\nlisten = \"{}\"\n\n[console]\nlisten = \"{}\"\n", self.mcp, self.console).unwrap();
        writeln!(text, "[store]\npath = \"data\"\n\n{upstreams}").unwrap();
        std::fs::write(self.path().join("countersign.toml"), text).unwrap();
    }

    /// Writes the grants again.
    pub(crate) fn grant(&self, grants: &str) {
        std::fs::write(self.path().join("grants").join("tests.cedar"), grants).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The program, in the folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
        command.current_dir(self.path()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs the program and expects it to succeed; returns what it printed.
    pub(crate) fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "`countersign {}` failed\n{out}\n{err}", arguments.join(" "));
        out.into_owned()
    }

    /// Writes contracts for everything that the upstreams offer now.
    pub(crate) fn register(&self) {
        self.done(&["tool", "register"]);
    }

    /// Starts the server, without waiting. What it logs goes to `server.log`.
    pub(crate) fn spawn(&mut self) {
        self.spawn_with(&[]);
    }

    fn spawn_with(&mut self, environment: &[(&str, &str)]) {
        let mut command = self.command(&["serve"]);
        command.envs(environment.iter().copied());
        self.spawn_as(command);
    }

    /// Starts the server as that command does.
    pub(crate) fn spawn_as(&mut self, mut command: Command) {
        let log = std::fs::File::options().create(true).append(true).open(self.path().join("server.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.server = Some(command.spawn().unwrap());
    }

    /// Starts the server and waits until it is ready.
    pub(crate) fn serve(&mut self) {
        self.spawn();
        self.wait_until_ready(Duration::from_secs(60));
    }

    /// [`House::serve`], with variables in the server's environment.
    pub(crate) fn serve_with(&mut self, environment: &[(&str, &str)]) {
        self.spawn_with(environment);
        self.wait_until_ready(Duration::from_secs(60));
    }

    /// Waits for `/readyz`.
    pub(crate) fn wait_until_ready(&mut self, most: Duration) {
        let deadline = Instant::now() + most;
        while !self.is_ready() {
            if let Some(status) = self.server.as_mut().and_then(|server| server.try_wait().unwrap()) {
                panic!("the server ended with {status} before it was ready:\n{}", self.log());
            }
            assert!(Instant::now() < deadline, "the server is not ready after {most:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether `/readyz` says so.
    pub(crate) fn is_ready(&self) -> bool {
        let Ok(probe) = std::net::TcpStream::connect_timeout(&self.console, Duration::from_millis(500)) else {
            return false;
        };
        drop(probe);
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.console);
        exchange(self.console, request.as_bytes()).status == 200
    }

    /// Lays out, registers and serves in one go.
    pub(crate) fn open(upstreams: &str, grants: &str) -> Self {
        let mut house = Self::new(upstreams, grants);
        house.register();
        house.serve();
        house
    }

    /// A token for `agent`, with more arguments for the command.
    pub(crate) fn token(&self, agent: &str, more: &[&str]) -> String {
        let mut arguments = vec!["agent", "token", agent];
        arguments.extend_from_slice(more);
        let printed = self.done(&arguments);
        let token = printed.split_whitespace().find(|word| word.starts_with("eyJ") && word.matches('.').count() == 2);
        token.unwrap_or_else(|| panic!("no token in `{printed}`")).to_owned()
    }

    /// What the server logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("server.log")).unwrap_or_default()
    }

    /// The names that `tools/list` gives.
    pub(crate) fn tool_names(&self, token: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut cursor = String::new();
        loop {
            let body =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{cursor}"_meta":{META}}}}}"#);
            let listed = Request::envelope("tools/list", None, &body).send(self.mcp, Some(token)).response();
            let tools = listed.pointer("/result/tools").and_then(Value::as_array).cloned().unwrap_or_default();
            names.extend(tools.iter().filter_map(|tool| tool["name"].as_str().map(str::to_owned)));
            match listed.pointer("/result/nextCursor") {
                Some(next) => cursor = format!(r#""cursor":{next},"#),
                None => return names,
            }
        }
    }

    /// Calls a tool the modern way.
    pub(crate) fn call(&self, token: &str, tool: &str, arguments: &str) -> Answer {
        Request::call(tool, arguments).send(self.mcp, Some(token))
    }

    /// Every entry of the ledger, oldest first.
    pub(crate) fn entries(&self) -> Vec<Value> {
        let printed = self.done(&["ledger", "export", "--format", "jsonl"]);
        printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The outcome of the last call of `tool` among the entries from `from` on: it is written at the latest a
    /// moment after the answer, which for a call without effects does not wait for it.
    pub(crate) fn settled(&self, tool: &str, from: usize) -> Value {
        until(&format!("an outcome of `{tool}`"), Duration::from_secs(20), || {
            let entries = self.entries();
            let intent = entries.get(from..)?.iter().rfind(|entry| {
                kind_of(entry) == "call.intended" && entry.pointer("/entry/tool").and_then(Value::as_str) == Some(tool)
            })?;
            let call = call_of(intent);
            entries.into_iter().find(|entry| kind_of(entry) == "call.settled" && call_of(entry) == call)
        })
    }

    /// How many entries of that kind there are.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.entries().iter().filter(|entry| kind_of(entry) == kind).count()
    }

    /// `kill -9`, and the corpse is waited for.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _gone = server.kill();
            server.wait().unwrap();
        }
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        let server = self.server.as_ref().expect("the server runs");
        let pid = rustix::process::Pid::from_child(server);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// SIGTERM, and waits for the end; the exit code, `None` if it had to be killed.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.terminate();
        self.ended()
    }

    /// Waits for the end of a server that was told to; the exit code, `None` if it had to be killed.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut server = self.server.take()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if let Some(status) = server.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _gone = server.kill();
        server.wait().unwrap();
        None
    }

    /// The server's process id.
    pub(crate) fn pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// Resident memory of the server, bytes.
    pub(crate) fn resident(&self) -> u64 {
        let mut status = String::new();
        let path = format!("/proc/{}/status", self.pid());
        std::fs::File::open(path).unwrap().read_to_string(&mut status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- server.log\n{}", self.log());
        }
    }
}

/// Looks every few milliseconds until there is something; fails with `what` when there is nothing after `most`.
pub(crate) fn until<T>(what: &str, most: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + most;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not after {most:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The call that an entry is about.
pub(crate) fn call_of(entry: &Value) -> String {
    entry.pointer("/entry/call").and_then(Value::as_str).unwrap_or_else(|| panic!("no call in {entry}")).to_owned()
}

/// The kind of an entry.
pub(crate) fn kind_of(entry: &Value) -> &str {
    entry.get("kind").or_else(|| entry.pointer("/entry/kind")).and_then(Value::as_str).unwrap_or_default()
}

/// An address nobody listens on just now.
pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// `[upstreams.NAME] url = …`
pub(crate) fn http_upstream(name: &str, url: &str, more: &str) -> String {
    format!("[upstreams.{name}]\nurl = \"{url}\"\n{more}\n\n")
}
