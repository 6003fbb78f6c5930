//! Agents on standard input and output: alone, beside each other, and beside a serving house.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    house::{House, http_upstream, kind_of},
    recorder::Recorder,
    wire::META,
};

const BOTH: &str = "@id(\"both\")\npermit (principal == Agent::\"ann\", action in Action::\"call\", resource);\n\
                    permit (principal == Agent::\"bob\", action == Action::\"up__echo\", resource);\n";

/// What an agent has to have done before a test calls it stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// One `serve --stdio`, driven line by line.
struct Agent {
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    id: u64,
}

impl Agent {
    fn start(house: &House, name: &str) -> Self {
        let mut command = house.command(&["serve", "--stdio", "--agent", name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (told, lines) = channel();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not a message: {line}"));
                if told.send(line).is_err() {
                    return;
                }
            }
        });
        Self { input: process.stdin.take(), process, lines, id: 0 }
    }

    fn send(&mut self, message: &Value) {
        let input = self.input.as_mut().unwrap();
        input.write_all(format!("{message}\n").as_bytes()).unwrap();
        input.flush().unwrap();
    }

    /// The answer to a request; what comes before it is passed over.
    fn ask(&mut self, method: &str, mut params: Value, modern: bool) -> Value {
        self.id += 1;
        if modern {
            params["_meta"] = serde_json::from_str(META).unwrap();
        }
        self.send(&json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(answer) = self.lines.recv_timeout(left) else {
                let _ended = self.process.kill();
                let mut said = String::new();
                self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                panic!("no answer to {method}: {:?}, {said}", self.process.wait());
            };
            if answer["id"] == json!(self.id) {
                return answer;
            }
        }
    }

    fn tools(&mut self) -> Vec<String> {
        let listed = self.ask("tools/list", json!({}), true);
        let tools = listed["result"]["tools"].as_array().unwrap_or_else(|| panic!("no tools: {listed}"));
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    fn echo(&mut self, text: &str) -> Value {
        self.ask("tools/call", json!({"name": "up__echo", "arguments": {"text": text}}), true)
    }

    /// Calls, and expects what the recorder makes of it.
    fn echoes(&mut self, text: &str) {
        let answer = self.echo(text);
        assert_eq!(answer["result"]["content"][0]["text"], json!(format!(r#"{{"text":"{text}"}}"#)), "{answer}");
    }

    /// Waits for the end: exit code, and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        drop(self.input.take());
        self.ended()
    }

    /// The same while the input stays open.
    fn ended(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait().unwrap() {
                let mut said = String::new();
                self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                return (status.code(), said);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("an agent's process does not end");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _gone = self.process.wait();
    }
}

fn house(upstream: &Recorder) -> House {
    let house = House::new(&http_upstream("up", &upstream.url(), ""), "");
    house.register();
    house.grant(BOTH);
    house
}

#[test]
fn two_agents_beside_a_serving_house_are_two_principals() {
    let upstream = Recorder::usual();
    let mut house = house(&upstream);
    house.serve();
    let (mut ann, mut bob) = (Agent::start(&house, "ann"), Agent::start(&house, "bob"));
    assert!(ann.tools().len() > 1);
    assert_eq!(bob.tools(), ["up__echo"]);
    ann.echoes("from ann");
    bob.echoes("from bob");
    let token = house.token("ann", &[]);
    assert_eq!(house.call(&token, "up__echo", r#"{"text":"by http"}"#).status, 200);
    assert_eq!(ann.end(), (Some(0), String::new()));
    bob.echoes("bob is still there");
    assert_eq!(bob.end(), (Some(0), String::new()));
    let intended: Vec<Value> = house.entries().into_iter().filter(|entry| kind_of(entry) == "call.intended").collect();
    let agents: Vec<&str> = intended.iter().filter_map(|entry| entry.pointer("/entry/agent")?.as_str()).collect();
    assert_eq!(agents, ["ann", "bob", "ann", "bob"]);
    assert_eq!(house.stop(), Some(0));
}

#[test]
fn a_client_with_a_handshake_keeps_its_session_through_the_pipe() {
    let upstream = Recorder::usual();
    let mut house = house(&upstream);
    house.serve();
    let mut ann = Agent::start(&house, "ann");
    let hello =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
    let welcome = ann.ask("initialize", hello, false);
    assert_eq!(welcome["result"]["protocolVersion"], "2025-06-18", "{welcome}");
    ann.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    let long = "x".repeat(300_000);
    let called = ann.ask("tools/call", json!({"name": "up__echo", "arguments": {"text": long}}), false);
    assert_eq!(called["result"]["content"][0]["text"].as_str().map(str::len), Some(long.len() + 11));
    assert_eq!(ann.end().0, Some(0));
}

#[test]
fn without_a_server_the_first_agent_is_one_for_the_others() {
    let upstream = Recorder::usual();
    let house = house(&upstream);
    let mut ann = Agent::start(&house, "ann");
    ann.echoes("first");
    let mut bob = Agent::start(&house, "bob");
    bob.echoes("second");
    let status: Value = serde_json::from_str(&house.done(&["status", "--json"])).unwrap();
    assert_eq!((&status["running"], &status["mcp"]), (&json!(true), &Value::Null));
    assert!(house.done(&["status"]).contains("standard input and output only"));
    assert_eq!(house.count("call.intended"), 2);
    let called = house.run(&["call", "up__echo", "--agent", "ann"]);
    assert_eq!(called.status.code(), Some(3));
    let serve = house.run(&["serve"]);
    let said = String::from_utf8_lossy(&serve.stderr).into_owned();
    assert!(!serve.status.success() && said.contains("in use by another process") && said.contains("hint:"), "{said}");
    assert_eq!(ann.end().0, Some(0));
    let (code, said) = bob.ended();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the server ended this agent's connection") && said.contains("hint:"), "{said}");
    assert_eq!(house.run(&["status"]).status.code(), Some(3));
}

#[test]
fn agents_that_start_at_once_all_serve() {
    let upstream = Recorder::usual();
    let house = house(&upstream);
    let mut agents: Vec<Agent> = (0..5).map(|_| Agent::start(&house, "ann")).collect();
    for agent in &mut agents {
        agent.echoes("together");
    }
    // whichever has the store, the others end with it or before it
    for agent in agents {
        let code = agent.end().0;
        assert!(matches!(code, Some(0 | 3)), "{code:?}");
    }
    assert_eq!(upstream.calls().len(), 5);
}

#[test]
fn an_agent_ends_with_its_server() {
    let upstream = Recorder::usual();
    let mut house = house(&upstream);
    for killed in [true, false] {
        house.serve();
        let mut ann = Agent::start(&house, "ann");
        ann.echoes("before the end");
        if killed {
            house.kill();
        } else {
            assert_eq!(house.stop(), Some(0));
        }
        let (code, said) = ann.ended();
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("error: the server"), "{said}");
    }
    // a socket that a killed server left behind does not keep the next agent from the store
    let mut ann = Agent::start(&house, "ann");
    ann.echoes("after the end");
    assert_eq!(ann.end().0, Some(0));
}

#[test]
fn an_agent_without_a_good_name_is_not_attached() {
    let upstream = Recorder::usual();
    let mut house = house(&upstream);
    let names = ["", "two words", "a\u{7}b"];
    for served in [false, true] {
        if served {
            house.serve();
        }
        for name in names {
            let (code, said) = Agent::start(&house, name).ended();
            assert_eq!(code, Some(2), "{name:?}: {said}");
            assert!(said.starts_with("error: "), "{said}");
        }
    }
}

/// Asks on the control socket by hand.
fn knock(house: &House, head: &str, body: &str) -> (UnixStream, String) {
    let mut stream = UnixStream::connect(house.data().join("control.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let request = format!("POST /stdio HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{head}\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    (stream, line)
}

#[test]
fn attached_agents_are_bounded_and_their_places_come_back() {
    const UPGRADE: &str = "Connection: upgrade\r\nUpgrade: countersign-stdio\r\n";
    let upstream = Recorder::usual();
    let mut house = house(&upstream);
    house.serve();
    for (head, body) in [
        ("", r#"{"agent":"ann"}"#),
        ("Connection: upgrade\r\nUpgrade: websocket\r\n", r#"{"agent":"ann"}"#),
        (UPGRADE, "{}"),
        (UPGRADE, r#"{"agent":"ann","user":"root"}"#),
    ] {
        assert!(knock(&house, head, body).1.starts_with("HTTP/1.1 409 "), "{head}{body}");
    }
    let mut attached = Vec::new();
    let refusal = loop {
        let (stream, line) = knock(&house, UPGRADE, r#"{"agent":"ann"}"#);
        if !line.starts_with("HTTP/1.1 101 ") {
            break line;
        }
        attached.push(stream);
        assert!(attached.len() < 1_000, "there is no end to them");
    };
    assert!(refusal.starts_with("HTTP/1.1 409 "), "{refusal}");
    let (code, said) = Agent::start(&house, "ann").ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("64 agents are attached"), "{said}");
    // the control socket still answers commands
    house.done(&["status"]);
    attached.clear();
    let deadline = Instant::now() + PATIENCE;
    while !knock(&house, UPGRADE, r#"{"agent":"ann"}"#).1.starts_with("HTTP/1.1 101 ") {
        assert!(Instant::now() < deadline, "no place comes back");
    }
}
