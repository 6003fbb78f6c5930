//! Receivers that take, refuse, redirect, hang and come back; addresses that lie; programs.

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
};

use super::*;
use crate::{
    config::{WebhookConfig, WebhookFormat},
    reach::Resolving,
};

const SECRET: &str = "a secret of the tests";

fn event(seq: u64) -> Event {
    Event {
        seq,
        at: Timestamp::from_second(1_700_000_000).unwrap(),
        kind: "call.held".to_owned(),
        hold: "hold_01JD0000000000000000000000".to_owned(),
        tool: "bank__transfer".to_owned(),
        upstream: "bank".to_owned(),
        impact: vec!["spend".to_owned()],
        agent: "demo".to_owned(),
        chain: Vec::new(),
        workload: None,
        scopes: Vec::new(),
        assurance: None,
        approve_by: Some(Timestamp::from_second(1_700_000_900).unwrap()),
        state: "pending".to_owned(),
        page: Some("http://127.0.0.1:7401/holds/hold_01JD0000000000000000000000".to_owned()),
    }
}

/// Events in memory.
struct Memory {
    events: Mutex<Vec<Event>>,
    newest: watch::Sender<u64>,
    begin: u64,
}

impl Memory {
    fn new(count: u64) -> Arc<Self> {
        let events = (1..=count).map(event).collect();
        Arc::new(Self { events: Mutex::new(events), newest: watch::Sender::new(count), begin: 0 })
    }

    fn push(&self) {
        let mut events = self.events.lock().unwrap();
        let seq = events.len() as u64 + 1;
        events.push(event(seq));
        self.newest.send_replace(seq);
    }
}

impl Source for Memory {
    fn events_after(&self, after: u64, most: usize) -> Result<Vec<Event>, Fault> {
        let events = self.events.lock().unwrap();
        Ok(events.iter().filter(|event| event.seq > after).take(most).cloned().collect())
    }

    fn begin(&self) -> Result<u64, Fault> {
        Ok(self.begin)
    }

    fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

/// What a receiver heard: the head and the body of each request.
type Heard = Arc<Mutex<Vec<(String, Value)>>>;

/// A receiver that answers each request with what `answer` says to its number; nothing at all hangs up.
struct Hook {
    address: SocketAddr,
    heard: Heard,
    connections: Arc<AtomicUsize>,
    changed: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Hook {
    async fn start(answer: impl Fn(usize) -> String + Send + 'static) -> Self {
        Self::at("127.0.0.1:0", answer).await
    }

    async fn at(address: &str, answer: impl Fn(usize) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (heard, connections, changed) = (Heard::default(), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (told, counted, wake) = (Arc::clone(&heard), Arc::clone(&connections), Arc::clone(&changed));
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let number = counted.fetch_add(1, Ordering::SeqCst);
                wake.notify_waiters();
                let mut all = Vec::new();
                let (head, body) = loop {
                    let mut chunk = [0; 4096];
                    let read = stream.read(&mut chunk).await.unwrap_or(0);
                    if read == 0 {
                        break (String::new(), Vec::new());
                    }
                    all.extend_from_slice(&chunk[..read]);
                    let text = String::from_utf8_lossy(&all).into_owned();
                    let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
                    let lower = head.to_lowercase();
                    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                    let body = &all[head.len() + 4..];
                    if body.len() == length.parse::<usize>().unwrap() {
                        break (head.to_owned(), body.to_vec());
                    }
                };
                if head.is_empty() {
                    continue;
                }
                told.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
                wake.notify_waiters();
                let _gone = stream.write_all(answer(number).as_bytes()).await;
            }
        });
        Self { address, heard, connections, changed, task }
    }

    fn webhook(&self) -> WebhookConfig {
        WebhookConfig {
            name: "hook".to_owned(),
            url: format!("http://{}/path/of/a/secret", self.address).parse().unwrap(),
            secret: SECRET.to_owned(),
            format: WebhookFormat::Generic,
            allow_private: true,
        }
    }

    fn seqs(&self) -> Vec<u64> {
        self.heard.lock().unwrap().iter().map(|(_, body)| body["seq"].as_u64().unwrap()).collect()
    }

    async fn until(&self, reached: impl Fn(&Self) -> bool) {
        eventually(&self.changed, || reached(self)).await;
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn eventually(changed: &Notify, reached: impl Fn() -> bool) {
    let all = async {
        while !reached() {
            tokio::select! { () = changed.notified() => {}, () = sleep(Duration::from_millis(5)) => {} }
        }
    };
    timeout(Duration::from_secs(20), all).await.expect("it did not come to that");
}

fn ok(_number: usize) -> String {
    "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_owned()
}

fn status(code: u16, more: &str) -> String {
    format!("HTTP/1.1 {code} X\r\nconnection: close\r\ncontent-length: 0\r\n{more}\r\n")
}

/// Says of every host what it was made with, one answer after the other, and counts.
struct Liar {
    answers: Vec<Vec<IpAddr>>,
    asked: AtomicUsize,
}

impl Liar {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Self { answers: answers.iter().map(parse).collect(), asked: AtomicUsize::new(0) })
    }
}

impl Resolver for Liar {
    fn resolve(&self, _host: &str) -> Resolving {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        let answer = self.answers[number.min(self.answers.len() - 1)].clone();
        Box::pin(async move { Ok(answer) })
    }
}

const FAST: Pace = Pace { first: Duration::from_millis(2), longest: Duration::from_millis(20) };

fn start(webhooks: Vec<WebhookConfig>, data: &Path, source: &Arc<Memory>, resolver: Arc<dyn Resolver>) -> Notifier {
    let config = NotifyConfig { webhooks, command: Vec::new() };
    let source: Arc<dyn Source> = Arc::<Memory>::clone(source);
    let clock = Clock::fixed(Timestamp::from_second(1_700_000_100).unwrap());
    Notifier::with(&config, data, &source, &clock, resolver, FAST).unwrap()
}

async fn delivered(notifier: &Notifier) {
    eventually(&Notify::new(), || notifier.fares().iter().all(|fares| fares.undelivered == 0 && fares.error.is_none()))
        .await;
}

#[test]
fn a_receiver_is_told_through_whose_hands_it_came_and_by_what() {
    let mut delegated = event(1);
    delegated.chain = (0..20).map(|number| format!("agent\u{202e}-{number}")).collect();
    delegated.workload = Some("spiffe://td/<b>".to_owned());
    delegated.scopes = vec!["pay".to_owned(), "x".repeat(500)];
    delegated.assurance = Some("bound".to_owned());
    let told: Value = serde_json::from_slice(&body(WebhookFormat::Generic, &delegated)).unwrap();
    assert_eq!(told["chain"][0], "agent<U+202E>-0");
    assert_eq!(told["chain"].as_array().unwrap().len(), 16);
    assert_eq!((&told["workload"], &told["scopes"][0]), (&"spiffe://td/<b>".into(), &"pay".into()));
    assert_eq!((told["scopes"][1].as_str().unwrap().len(), &told["assurance"]), (200, &"bound".into()));
    let slack = String::from_utf8(body(WebhookFormat::Slack, &delegated)).unwrap();
    assert!(slack.contains(r"Handed on to\nagent<U+202E>-0, then agent<U+202E>-1"), "{slack}");
    assert!(slack.contains(r"Workload\nspiffe://td/<b>") && slack.contains(r"Shown with\nbound"), "{slack}");
    let plain: Value = serde_json::from_slice(&body(WebhookFormat::Generic, &event(1))).unwrap();
    assert_eq!((&plain["chain"], &plain["workload"]), (&Value::Array(Vec::new()), &Value::Null));
}

#[tokio::test]
async fn events_arrive_in_order_signed_and_without_arguments() {
    let (data, source, hook) = (tempfile::tempdir().unwrap(), Memory::new(3), Hook::start(ok).await);
    let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
    hook.until(|hook| hook.seqs().len() == 3).await;
    source.push();
    hook.until(|hook| hook.seqs().len() == 4).await;
    delivered(&notifier).await;
    assert_eq!(hook.seqs(), [1, 2, 3, 4]);
    let (head, body) = hook.heard.lock().unwrap()[0].clone();
    assert!(head.starts_with("POST /path/of/a/secret HTTP/1.1"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    let signed = signature(SECRET, 1_700_000_100, body.to_string().as_bytes());
    assert!(head.contains(&format!("countersign-signature: {signed}")), "{head}");
    let mut names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "agent",
            "approve_by",
            "assurance",
            "at",
            "chain",
            "hold",
            "id",
            "impact",
            "kind",
            "page",
            "scopes",
            "seq",
            "state",
            "tool",
            "upstream",
            "v",
            "workload"
        ]
    );
    assert_eq!(body["id"], "hold_01JD0000000000000000000000.1");
    notifier.stop().await;
}

#[test]
fn the_signature_is_the_hmac_that_receivers_compute() {
    // by Python's hmac
    assert_eq!(
        signature("key", 1_700_000_000, b"{}"),
        "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae"
    );
}

#[test]
fn slack_gets_blocks_in_which_nothing_of_others_is_markup() {
    let mut odd = event(1);
    odd.tool = "bank__<!channel> *bold*\u{202e}\n".to_owned();
    odd.agent = "<https://evil.example|click>".to_owned();
    let body: Value = serde_json::from_slice(&body(WebhookFormat::Slack, &odd)).unwrap();
    assert_eq!(body["text"], "A call waits for approval: hold_01JD0000000000000000000000");
    let mut texts = Vec::new();
    let mut waiting = vec![&body["blocks"]];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Array(items) => waiting.extend(items),
            Value::Object(members) => {
                if let (Some(kind), Some(text)) = (members.get("type"), members.get("text").and_then(Value::as_str)) {
                    texts.push((kind.as_str().unwrap().to_owned(), text.to_owned()));
                }
                waiting.extend(members.values());
            }
            _ => {}
        }
    }
    let markup: Vec<_> = texts.iter().filter(|(kind, _)| kind == "mrkdwn").map(|(_, text)| text.as_str()).collect();
    let page = event(1).page.unwrap();
    assert_eq!(markup, [format!("<{page}|Open it in the console>")]);
    assert!(texts.iter().any(|(_, text)| text == "Tool\nbank__<!channel> *bold*<U+202E><U+000A>"), "{texts:?}");
    odd.page = Some("https://a|b".to_owned());
    assert!(!String::from_utf8(super::body(WebhookFormat::Slack, &odd)).unwrap().contains("mrkdwn"));
}

#[tokio::test]
async fn a_receiver_that_fails_is_tried_again_and_nothing_is_skipped() {
    let answer = |number: usize| match number {
        0 => status(500, ""),
        1 => String::new(),
        2 => status(302, "location: http://127.0.0.1:1/elsewhere\r\n"),
        3 => status(429, "retry-after: 0\r\n"),
        4 => status(404, ""),
        number => ok(number),
    };
    let (data, source, hook) = (tempfile::tempdir().unwrap(), Memory::new(2), Hook::start(answer).await);
    let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
    hook.until(|hook| hook.seqs().len() == 7).await;
    delivered(&notifier).await;
    assert_eq!(hook.seqs(), [1, 1, 1, 1, 1, 1, 2]);
    assert_eq!(notifier.fares()[0].refused, 0);
    notifier.stop().await;
}

#[tokio::test]
async fn an_event_that_its_receiver_never_takes_does_not_keep_the_others() {
    let answer = |number: usize| if number < 8 { status(400, "") } else { ok(number) };
    let (data, source, hook) = (tempfile::tempdir().unwrap(), Memory::new(2), Hook::start(answer).await);
    let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
    hook.until(|hook| hook.seqs().len() == 9).await;
    delivered(&notifier).await;
    assert_eq!(hook.seqs(), [1, 1, 1, 1, 1, 1, 1, 1, 2]);
    assert_eq!(notifier.fares()[0].refused, 1);
    notifier.stop().await;
}

#[tokio::test]
async fn what_is_not_delivered_is_counted_and_why_is_told_without_the_address() {
    let (data, source) = (tempfile::tempdir().unwrap(), Memory::new(5));
    let hook = Hook::start(|_| status(503, "")).await;
    let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
    eventually(&Notify::new(), || notifier.fares()[0].error.is_some()).await;
    let fares = notifier.fares().remove(0);
    assert_eq!((fares.name.as_str(), fares.undelivered), ("hook", 5));
    assert_eq!(fares.error.as_deref(), Some("it answered with status 503"));
    assert!(fares.since.is_some());
    let webhook = hook.webhook();
    let address = hook.address;
    drop(hook);
    // nobody listens any more
    eventually(&Notify::new(), || notifier.fares()[0].error.as_deref().is_some_and(|error| error.contains("refused")))
        .await;
    assert!(!notifier.fares()[0].error.as_deref().unwrap().contains("/path/of/a/secret"));
    // and then somebody does
    let back = Hook::at(&address.to_string(), ok).await;
    assert_eq!(back.webhook().url, webhook.url);
    delivered(&notifier).await;
    assert_eq!(back.seqs(), [1, 2, 3, 4, 5]);
    notifier.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was_and_a_crash_repeats_with_the_same_id() {
    let (data, source, hook) = (tempfile::tempdir().unwrap(), Memory::new(2), Hook::start(ok).await);
    let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
    delivered(&notifier).await;
    notifier.stop().await;
    let cursor = data.path().join("notify/hook.cursor");
    let before = std::fs::read(&cursor).unwrap();
    assert_eq!(std::fs::metadata(&cursor).unwrap().permissions().mode() & 0o777, 0o600);
    source.push();
    let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
    delivered(&notifier).await;
    notifier.stop().await;
    assert_eq!(hook.seqs(), [1, 2, 3]);
    // a crash between delivery and the cursor: the same event comes twice
    std::fs::write(&cursor, before).unwrap();
    let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
    delivered(&notifier).await;
    notifier.stop().await;
    assert_eq!(hook.seqs(), [1, 2, 3, 3]);
    let ids: Vec<Value> = hook.heard.lock().unwrap()[2..].iter().map(|(_, body)| body["id"].clone()).collect();
    assert_eq!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_cursor_that_says_nothing_or_too_much_begins_anew() {
    for text in ["", "{\"v\":1,\"seq\":99,\"refused\":0}", "{\"v\":2,\"seq\":1,\"refused\":0}", "\u{0}\u{0}"] {
        let (data, source, hook) = (tempfile::tempdir().unwrap(), Memory::new(2), Hook::start(ok).await);
        std::fs::create_dir(data.path().join("notify")).unwrap();
        std::fs::write(data.path().join("notify/hook.cursor"), text).unwrap();
        let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
        delivered(&notifier).await;
        notifier.stop().await;
        assert_eq!(hook.seqs(), [1, 2], "{text:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_never_ends_its_answer_keeps_nobody() {
    let endless = |_| format!("HTTP/1.1 200 OK\r\ncontent-length: 9999999\r\n\r\n{}", "x".repeat(100_000));
    let (data, source, hook) = (tempfile::tempdir().unwrap(), Memory::new(2), Hook::start(endless).await);
    let notifier = start(vec![hook.webhook()], data.path(), &source, Arc::new(System));
    delivered(&notifier).await;
    assert_eq!(hook.seqs(), [1, 2]);
    notifier.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_receiver_that_hangs() {
    let (data, source) = (tempfile::tempdir().unwrap(), Memory::new(1));
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut webhook = Hook::start(ok).await.webhook();
    webhook.url = format!("http://{}/", silent.local_addr().unwrap()).parse().unwrap();
    let notifier = start(vec![webhook], data.path(), &source, Arc::new(System));
    let (_held, _) = silent.accept().await.unwrap();
    timeout(Duration::from_secs(8), notifier.stop()).await.unwrap();
}

// ---- addresses

/// The error of a webhook to `url` whose host resolves to `answers`, and how often the hook was connected to.
async fn refused(url: &str, answers: &[&[&str]], allow_private: bool) -> (String, usize, usize) {
    let (data, source, hook) = (tempfile::tempdir().unwrap(), Memory::new(1), Hook::start(ok).await);
    let url = url.replace("PORT", &hook.address.port().to_string());
    let webhook = WebhookConfig { url: url.parse().unwrap(), allow_private, ..hook.webhook() };
    let liar = Liar::new(answers);
    let resolver: Arc<dyn Resolver> = Arc::<Liar>::clone(&liar);
    let notifier = start(vec![webhook], data.path(), &source, resolver);
    eventually(&Notify::new(), || notifier.fares()[0].error.is_some()).await;
    let error = notifier.fares()[0].error.clone().unwrap();
    let asked = liar.asked.load(Ordering::SeqCst);
    notifier.stop().await;
    (error, hook.connections.load(Ordering::SeqCst), asked)
}

#[tokio::test]
async fn a_name_that_leads_inside_is_not_connected_to() {
    for answers in [
        &["127.0.0.1"] as &[&str],
        &["::ffff:127.0.0.1"],
        &["93.184.216.34", "127.0.0.1"],
        &["127.0.0.1", "93.184.216.34"],
        &["10.0.0.1"],
        &["169.254.169.254"],
        &["fd00:ec2::254"],
        &["::1"],
    ] {
        let (error, connections, _) = refused("https://hooks.example:PORT/", &[answers], false).await;
        assert!(error.contains("is not of the public internet") || error.contains("is no address to"), "{error}");
        assert_eq!(connections, 0, "{answers:?}");
    }
}

#[tokio::test]
async fn an_address_in_the_url_is_checked_however_it_is_written() {
    for host in ["127.0.0.1", "[::1]", "0x7f.1", "2130706433", "[::ffff:7f00:1]", "169.254.169.254", "0"] {
        let (error, connections, asked) = refused(&format!("https://{host}:PORT/"), &[&["93.184.216.34"]], false).await;
        assert!(error.contains("is not of the public internet") || error.contains("is no address to"), "{error}");
        assert_eq!((connections, asked), (0, 0), "{host}");
    }
}

#[tokio::test]
async fn private_addresses_can_be_meant_and_metadata_never() {
    // there is no TLS at the other end: that it was connected to is what counts
    let (error, connections, _) = refused("https://hooks.example:PORT/", &[&["127.0.0.1"]], true).await;
    assert!(connections > 0, "{error}");
    let (error, _, _) = refused("https://hooks.example/", &[&["169.254.169.254"]], true).await;
    assert!(error.contains("is no address to connect to"), "{error}");
}

#[tokio::test]
async fn what_is_not_encrypted_stays_on_this_machine() {
    let (error, connections, _) = refused("http://localhost:PORT/", &[&["93.184.216.34"]], true).await;
    assert!(error.contains("is not encrypted"), "{error}");
    let (other, _, _) = refused("http://localhost:PORT/", &[&["10.0.0.1"]], true).await;
    assert!(other.contains("is not encrypted"), "{other}");
    assert_eq!(connections, 0);
}

#[tokio::test]
async fn a_name_is_resolved_once_an_attempt_and_what_was_checked_is_connected_to() {
    // a name that first leads to an allowed address and then elsewhere: each attempt asks once, and checks what it got
    let (data, source, hook) = (tempfile::tempdir().unwrap(), Memory::new(1), Hook::start(ok).await);
    let webhook =
        WebhookConfig { url: format!("http://localhost:{}/", hook.address.port()).parse().unwrap(), ..hook.webhook() };
    let liar = Liar::new(&[&["127.0.0.1"], &["169.254.169.254"]]);
    let resolver: Arc<dyn Resolver> = Arc::<Liar>::clone(&liar);
    let notifier = start(vec![webhook], data.path(), &source, resolver);
    hook.until(|hook| hook.seqs().len() == 1).await;
    delivered(&notifier).await;
    assert_eq!(liar.asked.load(Ordering::SeqCst), 1);
    source.push();
    eventually(&Notify::new(), || notifier.fares()[0].error.is_some()).await;
    assert!(notifier.fares()[0].error.as_deref().unwrap().contains("169.254.169.254"));
    assert_eq!(hook.seqs(), [1]);
    notifier.stop().await;
}

// ---- programs

fn sh(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

#[tokio::test]
async fn a_program_gets_the_event_and_nothing_of_our_environment() {
    let data = tempfile::tempdir().unwrap();
    let out = data.path().join("out");
    let command = sh(&format!("cat > {0}.body; env > {0}.env", out.display()));
    let config = NotifyConfig { webhooks: Vec::new(), command };
    let source: Arc<dyn Source> = Memory::new(1);
    let notifier = Notifier::with(&config, data.path(), &source, &Clock::System, Arc::new(System), FAST).unwrap();
    delivered(&notifier).await;
    assert_eq!(notifier.fares()[0].name, "command");
    notifier.stop().await;
    let told: Value = serde_json::from_slice(&std::fs::read(out.with_extension("body")).unwrap()).unwrap();
    assert_eq!(told["tool"], "bank__transfer");
    for line in std::fs::read_to_string(out.with_extension("env")).unwrap().lines() {
        let name = line.split('=').next().unwrap();
        let own_of_sh = matches!(name, "PWD" | "OLDPWD" | "SHLVL" | "_");
        assert!(
            own_of_sh || matches!(name, "PATH" | "HOME" | "LANG" | "LANGUAGE") || name.starts_with("LC_"),
            "{line}"
        );
    }
}

#[tokio::test]
async fn a_program_that_fails_or_hangs_is_ended_with_all_it_started() {
    let data = tempfile::tempdir().unwrap();
    let pid = data.path().join("pid");
    let hanging = command::Program::within(
        sh(&format!("sleep 600 & echo $! > {}; wait", pid.display())),
        Duration::from_millis(500),
    );
    let Err(Failed::Unwanted(why)) = hanging.deliver(&event(1)).await else { panic!("it was delivered") };
    assert!(why.contains("took longer"), "{why}");
    let pid = std::fs::read_to_string(&pid).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    eventually(&Notify::new(), || std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "))).await;
    let failing = command::Program::new(sh("exit 3"));
    assert!(matches!(failing.deliver(&event(1)).await, Err(Failed::Unwanted(why)) if why.contains("exit status: 3")));
    let missing = command::Program::new(vec!["no-such-program-anywhere".to_owned()]);
    assert!(
        matches!(missing.deliver(&event(1)).await, Err(Failed::Again(why, _)) if why.contains("cannot be started"))
    );
    // words of the command are not read by a shell
    let literal = command::Program::new(["true", "$(touch x); exit 1"].map(str::to_owned).to_vec());
    assert!(literal.deliver(&event(1)).await.is_ok());
}

#[test]
fn waits_grow_and_stay_bounded() {
    let pace = Pace::default();
    for (failures, seconds) in [(1, 1.0), (2, 2.0), (5, 16.0), (9, 256.0), (10, 300.0), (1000, 300.0)] {
        let wait = pace.wait(failures).as_secs_f64();
        assert!((seconds * 0.74..=seconds * 1.26).contains(&wait), "{failures}: {wait}");
    }
}
