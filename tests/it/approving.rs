//! People countersign at a terminal: a real one, with a passphrase that is typed, seen by nobody and taken from nowhere else.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use serde_json::{Value, json};

use crate::cli_quickstart::quickstart;

const PASSPHRASE: &str = "correct horse battery staple";
const PATIENCE: Duration = Duration::from_secs(60);

/// A quickstart that runs.
struct House {
    server: Child,
    told: Value,
    dir: PathBuf,
}

impl House {
    fn start(dir: &Path) -> Self {
        let (server, told) = quickstart(dir);
        Self { server, told, dir: dir.to_owned() }
    }

    fn stop(&mut self) {
        let stopping = countersign(&self.dir, &["stop"]);
        assert!(stopping.status.success(), "{}", String::from_utf8_lossy(&stopping.stderr));
        assert_eq!(self.server.wait().unwrap().code(), Some(0));
    }

    /// Enrols `you` with the code that the quickstart printed.
    fn enrol(&self) {
        let mut terminal = Terminal::start(&self.dir, &["approver", "enrol", self.told["enrol"].as_str().unwrap()]);
        terminal.answer("A passphrase of at least 12 letters: ", PASSPHRASE);
        terminal.answer("The same again: ", PASSPHRASE);
        let (code, seen) = terminal.end();
        assert_eq!(code, 0, "{seen}");
        assert!(seen.contains("enrolled you") && !seen.contains(PASSPHRASE), "{seen}");
    }

    /// Has the agent transfer so much; gives the hold, and the call that may wait for it.
    fn held(&self, amount: u64) -> (String, Child) {
        let before: Vec<String> = holds(&self.dir, "all").iter().map(|hold| text(hold, "id")).collect();
        let call = transfer(&self.dir, amount);
        (self.opened(&before), call)
    }

    /// The open hold that was not there before.
    fn opened(&self, before: &[String]) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = holds(&self.dir, "open");
            if let Some(hold) = now.iter().map(|hold| text(hold, "id")).find(|id| !before.contains(id)) {
                return hold;
            }
            assert!(Instant::now() < until, "no hold was opened");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn balance(&self, account: &str) -> i64 {
        let arguments = json!({"account": account}).to_string();
        let told =
            json_of(&countersign(&self.dir, &["call", "--agent", "demo", "bank__balance", &arguments, "--json"]));
        told["structuredContent"]["balance"].as_i64().unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ended_already = self.server.kill();
        let _reaped = self.server.wait();
    }
}

fn transfer(dir: &Path, amount: u64) -> Child {
    let arguments = json!({"from": "alice", "to": "bob", "amount": amount}).to_string();
    command(dir, &["call", "--agent", "demo", "bank__transfer", &arguments, "--json"]).spawn().unwrap()
}

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    command.arg("-C").arg(dir).args(args).env_remove("COUNTERSIGN_TOKEN").env_remove("COUNTERSIGN_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn countersign(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: `{text}` {}", String::from_utf8_lossy(&output.stderr)))
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("no `{name}` in {value}")).to_owned()
}

fn holds(dir: &Path, state: &str) -> Vec<Value> {
    let listed = countersign(dir, &["hold", "list", "--state", state, "--json"]);
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    String::from_utf8(listed.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A command at a terminal of its own.
struct Terminal {
    master: File,
    slave: File,
    child: Child,
    heard: mpsc::Receiver<Vec<u8>>,
    seen: String,
    read: usize,
}

impl Terminal {
    fn start(dir: &Path, args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || {
            let no_controlling_terminal = rustix::fs::OFlags::NOCTTY.bits().cast_signed();
            OpenOptions::new().read(true).write(true).custom_flags(no_controlling_terminal).open(&path).unwrap()
        };
        let slave = open();
        // makes the terminal the controlling one of a new session, as a terminal window does
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(env!("CARGO_BIN_EXE_countersign"))
            .arg("-C")
            .arg(dir)
            .args(args)
            .env_remove("COUNTERSIGN_LOG")
            .stdin(open())
            .stdout(open())
            .stderr(open())
            .spawn()
            .unwrap();
        let master = File::from(master);
        let mut from = master.try_clone().unwrap();
        let (told, heard) = mpsc::channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = from.read(&mut chunk) {
                if told.send(chunk[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { master, slave, child, heard, seen: String::new(), read: 0 }
    }

    /// Waits until the terminal shows that, behind what was waited for before.
    fn expect(&mut self, wanted: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.seen[self.read..].find(wanted) {
                self.read += at + wanted.len();
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left) {
                Ok(chunk) => self.seen.push_str(&String::from_utf8_lossy(&chunk)),
                Err(_) => panic!("`{wanted}` was not shown:\n{}", self.seen),
            }
        }
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.slave).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    fn answer(&mut self, question: &str, answer: &str) {
        self.expect(question);
        assert!(!self.echoes(), "what is typed is shown");
        self.type_in(answer);
        self.type_in("\r");
    }

    /// The exit code, and everything that was shown.
    fn end(mut self) -> (i32, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < until, "it does not end:\n{}", self.seen),
            }
            while let Ok(chunk) = self.heard.recv_timeout(Duration::from_millis(20)) {
                self.seen.push_str(&String::from_utf8_lossy(&chunk));
            }
        };
        while let Ok(chunk) = self.heard.recv_timeout(Duration::from_millis(100)) {
            self.seen.push_str(&String::from_utf8_lossy(&chunk));
        }
        assert!(self.echoes(), "the terminal is left without echo");
        (status.code().unwrap(), self.seen.replace("\r\n", "\n"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn approve(dir: &Path, hold: &str) -> (i32, String) {
    let mut terminal = Terminal::start(dir, &["hold", "approve", hold]);
    terminal.answer("Passphrase of you, to countersign this (nothing to break off): ", PASSPHRASE);
    terminal.end()
}

/// The result of a transfer that was countersigned: that of the call that waited, or of the identical one.
fn result(dir: &Path, waited: Child, amount: u64) -> Value {
    let until = Instant::now() + PATIENCE;
    let mut told = json_of(&waited.wait_with_output().unwrap());
    while told["isError"] == true {
        let outcome = told["_meta"]["countersign/decision"]["outcome"].clone();
        assert!(outcome == "held" && Instant::now() < until, "{told}");
        told = json_of(&transfer(dir, amount).wait_with_output().unwrap());
    }
    told
}

#[test]
fn a_held_transfer_is_countersigned_at_the_terminal_and_goes_through_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    let house = House::start(&dir);
    house.enrol();
    let (hold, waited) = house.held(250);
    assert_eq!(house.balance("alice"), 10_000);

    let (code, seen) = approve(&dir, &hold);
    assert_eq!(code, 0, "{seen}");
    for shown in [
        "/amount  250",
        "/from    \"alice\"",
        "{\"amount\":250,\"from\":\"alice\",\"to\":\"bob\"}",
        "transfer-large, for 1 of owner: transfers above 100 are countersigned by the owner",
        "left to countersign it",
        "In the last hour this agent did with this tool: 1 call.held",
        "the call may run now, once",
    ] {
        assert!(seen.contains(shown), "`{shown}` is not in\n{seen}");
    }
    assert!(!seen.contains(PASSPHRASE), "{seen}");

    let told = result(&dir, waited, 250);
    assert_eq!(told["structuredContent"]["balance"], 9_750, "{told}");
    // the identical call collects that result, and moves nothing
    let again = json_of(&transfer(&dir, 250).wait_with_output().unwrap());
    assert_eq!(again["structuredContent"]["balance"], 9_750);
    assert_eq!(house.balance("alice"), 9_750);
    let spent = holds(&dir, "spent");
    assert_eq!((spent.len(), text(&spent[0], "id")), (1, hold.clone()));

    // nothing can be done to it any more, and that is told before a passphrase is asked for
    let (code, seen) = Terminal::start(&dir, &["hold", "approve", &hold]).end();
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("(hold_ended)") && !seen.contains("Passphrase"), "{seen}");

    // the next one is told apart from the last
    let (next, _waits) = house.held(300);
    let told = json_of(&countersign(&dir, &["hold", "show", &next, "--json"]));
    assert_eq!(told["difference"]["hold"], Value::from(hold));
    assert_eq!(told["difference"]["changes"], json!([{"pointer": "/amount", "before": "250", "after": "300"}]));
    assert_eq!(told["approver"], "you");
    assert_eq!(told["arguments"]["canonical"], "{\"amount\":300,\"from\":\"alice\",\"to\":\"bob\"}");
}

#[test]
fn the_token_of_a_call_outlives_its_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    let house = House::start(&dir);
    let (_hold, waits) = house.held(250);
    let issued = countersign(&dir, &["ledger", "list", "--kind", "token.issued", "--agent", "demo", "--json"]);
    let last: Value = serde_json::from_str(String::from_utf8(issued.stdout).unwrap().lines().last().unwrap()).unwrap();
    let (at, expires) = (text(&last, "at"), text(&last, "expires"));
    let time = |text: &str| text.parse::<countersign::clock::Timestamp>().unwrap();
    assert!(time(&expires).duration_since(time(&at)).as_secs() > 9 * 60, "{last}");
    drop(house);
    let _ended = waits.wait_with_output();
}

#[test]
fn a_passphrase_comes_from_a_terminal_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    let house = House::start(&dir);
    house.enrol();
    let (hold, _waits) = house.held(250);
    // a session without a terminal, and the passphrase wherever else it could be looked for
    for args in [
        &["hold", "approve", &hold] as &[&str],
        &["hold", "deny", &hold, "--reason", "no"],
        &["approver", "enrol", "0000-0000-0000-0000-0000"],
        &["approver", "add", "evil", "--role", "owner"],
        &["approver", "remove", "you"],
    ] {
        let mut child = Command::new("setsid")
            .arg("--wait")
            .arg(env!("CARGO_BIN_EXE_countersign"))
            .arg("-C")
            .arg(&dir)
            .args(args)
            .env("COUNTERSIGN_PASSPHRASE", PASSPHRASE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _closed = child.stdin.take().unwrap().write_all(format!("{PASSPHRASE}\n{PASSPHRASE}\n").as_bytes());
        let done = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(2), "{args:?}: {told}");
        assert!(told.contains("there is no terminal") && told.contains("never given by argument"), "{told}");
    }
    let given = countersign(&dir, &["hold", "approve", &hold, "--passphrase", PASSPHRASE]);
    assert_eq!(given.status.code(), Some(2));
    assert_eq!(holds(&dir, "pending").len(), 1);
    // through a pipe in place of standard input, the terminal is asked all the same: this one is broken off
    let mut terminal = Terminal::start(&dir, &["hold", "approve", &hold]);
    terminal.expect("Passphrase of you");
    terminal.type_in("half a passphrase\u{3}");
    let (code, seen) = terminal.end();
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("broken off: nothing was done"), "{seen}");
    assert_eq!(holds(&dir, "pending").len(), 1);
}

#[test]
fn a_wrong_passphrase_does_nothing_and_mistakes_can_be_taken_back_while_typing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    let house = House::start(&dir);
    // two that differ enrol nobody, and the code is still good
    let mut terminal = Terminal::start(&dir, &["approver", "enrol"]);
    terminal.answer("The one-time code: ", house.told["enrol"].as_str().unwrap());
    terminal.answer("A passphrase of at least 12 letters: ", PASSPHRASE);
    terminal.answer("The same again: ", "something else entirely");
    let (code, seen) = terminal.end();
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("the two differ"), "{seen}");
    house.enrol();
    let (hold, _waits) = house.held(250);
    let mut terminal = Terminal::start(&dir, &["hold", "approve", &hold]);
    terminal.answer("(nothing to break off): ", "not the passphrase");
    let (code, seen) = terminal.end();
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("the approver or the passphrase is wrong"), "{seen}");
    assert_eq!(holds(&dir, "pending").len(), 1);
    // a line that is thrown away, and a letter of two bytes that is taken back
    let mut terminal = Terminal::start(&dir, &["hold", "approve", &hold]);
    terminal.answer("(nothing to break off): ", &format!("wrong\u{15}{PASSPHRASE}é\u{7f}"));
    let (code, seen) = terminal.end();
    assert_eq!(code, 0, "{seen}");
}

#[test]
fn a_denial_is_told_with_its_reason_and_sticks() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    let house = House::start(&dir);
    house.enrol();
    let (hold, _waits) = house.held(250);
    let mut terminal = Terminal::start(&dir, &["hold", "deny", &hold, "--reason", "not before the invoice is in"]);
    terminal.answer("Passphrase of you, to deny this (nothing to break off): ", PASSPHRASE);
    let (code, seen) = terminal.end();
    assert_eq!(code, 0, "{seen}");
    let told = json_of(&transfer(&dir, 250).wait_with_output().unwrap());
    assert_eq!(told["_meta"]["countersign/decision"]["reason"], "denied_sticky", "{told}");
    assert!(told["content"][0]["text"].as_str().unwrap().contains("not before the invoice is in"), "{told}");
    let denied = holds(&dir, "denied");
    assert_eq!(denied[0]["ended"], json!({"by": "you", "reason": "not before the invoice is in"}));
    let shown = String::from_utf8(countersign(&dir, &["hold", "show", &hold]).stdout).unwrap();
    assert!(shown.contains("denied by you: not before the invoice is in"), "{shown}");
    assert_eq!(house.balance("alice"), 10_000);
}

#[test]
fn holds_are_decided_without_a_server_too_and_withdrawn_without_a_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    let mut house = House::start(&dir);
    house.enrol();
    let (first, _waits) = house.held(250);
    let (second, _waits_too) = house.held(300);
    house.stop();
    assert_eq!(holds(&dir, "open").len(), 2);
    let (code, seen) = approve(&dir, &first);
    assert_eq!(code, 0, "{seen}");
    let done = countersign(&dir, &["hold", "cancel", &second, "--json"]);
    assert_eq!(json_of(&done), json!({"hold": second, "state": "cancelled"}));
    assert_eq!(countersign(&dir, &["hold", "cancel", &second]).status.code(), Some(1));
    for unknown in ["hold_00000000000000000000000000", "nonsense"] {
        let done = countersign(&dir, &["hold", "show", unknown]);
        assert_eq!(done.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&done.stderr).contains("hold_unknown"));
    }
    assert_eq!(countersign(&dir, &["hold", "watch"]).status.code(), Some(3));
    // who asks again once it serves gets it done, once
    let house = House::start(&dir);
    assert_eq!(house.told["enrol"], Value::Null);
    let told = result(&dir, transfer(&dir, 250), 250);
    assert_eq!(told["structuredContent"]["balance"], 9_750, "{told}");
    assert_eq!(house.balance("alice"), 9_750);
}

#[test]
fn who_is_enrolled_vouches_for_who_comes_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    let house = House::start(&dir);
    // nobody is enrolled yet: the first ones need nobody's word
    let added = countersign(&dir, &["approver", "add", "ann", "--role", "finance", "--json"]);
    assert_eq!(json_of(&added)["code"].as_str().unwrap().len(), 24);
    house.enrol();
    let question = "Passphrase of you, to add ben (nothing to break off): ";
    let mut terminal =
        Terminal::start(&dir, &["approver", "add", "ben", "--role", "owner", "--also", "ben@example.com"]);
    terminal.answer(question, "not the passphrase");
    let (code, seen) = terminal.end();
    assert_eq!(code, 1, "{seen}");
    let mut terminal =
        Terminal::start(&dir, &["approver", "add", "ben", "--role", "owner", "--also", "ben@example.com"]);
    terminal.answer(question, PASSPHRASE);
    let (code, seen) = terminal.end();
    assert_eq!(code, 0, "{seen}");
    assert!(seen.contains("/enrol#") && seen.contains("or run `countersign approver enrol`"), "{seen}");
    let listed = json_of(&countersign(&dir, &["approver", "list", "--json"]));
    let names: Vec<(&str, bool)> = listed["approvers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|approver| (approver["name"].as_str().unwrap(), approver["enrolled"].as_bool().unwrap()))
        .collect();
    assert_eq!(names, [("ann", false), ("ben", false), ("you", true)]);
    let mut terminal = Terminal::start(&dir, &["approver", "remove", "ann", "--as", "you"]);
    terminal.answer("Passphrase of you, to remove ann (nothing to break off): ", PASSPHRASE);
    let (code, seen) = terminal.end();
    assert_eq!(code, 0, "{seen}");
    let mut terminal = Terminal::start(&dir, &["approver", "remove", "you"]);
    terminal.answer("(nothing to break off): ", PASSPHRASE);
    let (code, seen) = terminal.end();
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("(last_approver)"), "{seen}");
    // an approver without the role is told so before a passphrase is asked for
    let (hold, _waits) = house.held(250);
    let (code, seen) = Terminal::start(&dir, &["hold", "approve", &hold, "--as", "ben"]).end();
    assert_eq!(code, 1, "{seen}");
    assert!(seen.contains("(approver_unknown)") && !seen.contains("Passphrase"), "{seen}");
}

#[test]
fn holds_are_watched_as_they_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    let house = House::start(&dir);
    let (first, _waits) = house.held(250);
    let mut watching = command(&dir, &["hold", "watch", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let open = next();
    assert_eq!((text(&open, "id"), text(&open, "state")), (first.clone(), "pending".to_owned()));
    let (second, _waits_too) = house.held(300);
    let opened = next();
    assert_eq!((text(&opened, "kind"), text(&opened, "hold")), ("call.held".to_owned(), second));
    countersign(&dir, &["hold", "cancel", &first]);
    let gone = next();
    assert_eq!((text(&gone, "kind"), text(&gone, "hold")), ("hold.cancelled".to_owned(), first));
    watching.kill().unwrap();
    watching.wait().unwrap();
}

/// The head and the body of the next request, answered with `status`.
fn receive(listener: &TcpListener, status: &str) -> (String, Value) {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(told) = line.to_lowercase().strip_prefix("content-length: ") {
            length = told.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

#[test]
fn receivers_are_told_of_holds_across_restarts_and_what_is_undelivered_shows() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("qs");
    House::start(&dir).stop();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = format!(
        "\n[[notify.webhook]]\nname = \"here\"\nurl = \"http://{}/hook\"\nsecret = \"sixteen letters and more\"\nallow_private = true\n",
        listener.local_addr().unwrap()
    );
    OpenOptions::new().append(true).open(dir.join("countersign.toml")).unwrap().write_all(hook.as_bytes()).unwrap();
    let mut house = House::start(&dir);
    let (hold, _waits) = house.held(250);
    let (head, event) = receive(&listener, "503 Later");
    assert!(head.contains("countersign-signature: t="), "{head}");
    assert_eq!((text(&event, "kind"), text(&event, "hold")), ("call.held".to_owned(), hold.clone()));
    assert_eq!((text(&event, "tool"), text(&event, "state")), ("bank__transfer".to_owned(), "pending".to_owned()));
    assert_eq!(event["impact"], json!(["spend"]));
    assert!(!event.to_string().contains("alice"), "{event}");
    let until = Instant::now() + PATIENCE;
    loop {
        let status = json_of(&countersign(&dir, &["status", "--json"]));
        let fares = &status["notifications"][0];
        if fares["error"] == "it answered with status 503" {
            assert_eq!((&fares["name"], &fares["undelivered"]), (&json!("here"), &json!(1)), "{status}");
            assert_eq!(status["holds"], json!({"pending": 1, "approved": 0}));
            break;
        }
        assert!(Instant::now() < until, "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let shown = String::from_utf8(countersign(&dir, &["status"]).stdout).unwrap();
    assert!(shown.contains("notify here") && shown.contains("1 undelivered, failing since"), "{shown}");
    let _ended = house.server.kill();
    let _reaped = house.server.wait();
    drop(house);
    // killed with it undelivered: the next start tells, with the same id
    let house = House::start(&dir);
    let (_, again) = receive(&listener, "200 OK");
    assert_eq!(again["id"], event["id"]);
    countersign(&house.dir, &["hold", "cancel", &hold]);
    let (_, gone) = receive(&listener, "200 OK");
    assert_eq!((text(&gone, "kind"), text(&gone, "state")), ("hold.cancelled".to_owned(), "cancelled".to_owned()));
}
