//! Upstreams against scripted peers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::{Layer as _, ServiceExt as _};

use super::{
    Change, Host, Listing, Outcome,
    breaker::{Breaker, BreakerLayer},
    deliver::{Deliver, Upstream},
    queue::{Queue, QueueLayer},
    testing::{FakeCall, FakeHouse, config, name, tool},
};
use crate::{
    call::{ClientSide, FromClient, Notice},
    config::{Transport, UpstreamConfig},
    contract::{ParamHeader, Tool},
    json::{Object, Value},
    lease::Leases,
};

/// One upstream in a house, with its keeper.
struct Bench {
    upstream: Arc<Upstream>,
    house: Arc<FakeHouse>,
    stack: Queue<Breaker<Deliver>>,
    changes: tokio::sync::broadcast::Receiver<(super::UpstreamName, Change)>,
    _keeper: JoinSet<()>,
}

impl Bench {
    fn new(config: UpstreamConfig, house: FakeHouse) -> Self {
        let (sender, changes) = tokio::sync::broadcast::channel(16);
        let upstream = Upstream::new(name("up"), config, sender, &Leases::default());
        let house = Arc::new(house);
        let host: Arc<dyn Host> = Arc::<FakeHouse>::clone(&house);
        assert!(upstream.begin(&host));
        let mut keeper = JoinSet::new();
        keeper.spawn(Arc::clone(&upstream).keep());
        let breaker = BreakerLayer(Arc::clone(&upstream.circuit)).layer(Deliver(Arc::clone(&upstream)));
        let places = &upstream.config;
        let stack = QueueLayer::new(places.concurrency, places.queue, places.timeout).layer(breaker);
        Self { upstream, house, stack, changes, _keeper: keeper }
    }

    async fn ready(self) -> Self {
        self.upstream.connection(Duration::from_secs(20)).await.map(drop).unwrap();
        self
    }

    async fn send(&self, call: FakeCall) -> Outcome {
        self.stack.clone().oneshot(call).await.unwrap().outcome
    }

    async fn echo(&self, arguments: &str) -> Outcome {
        self.send(FakeCall::new(tool("up", "echo"), arguments)).await
    }
}

fn text(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::Result { text, .. } => std::str::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn unknown(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Unknown { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

fn not_sent(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::NotSent { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

// ---- stdio

fn child(script: &str) -> Transport {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    Transport::Stdio { command, env: BTreeMap::new(), cwd: None }
}

/// A server of the handshake era in sh: `$on_call` says what it does with a `tools/call`, in which `$id` is its id.
fn legacy(on_call: &str) -> Transport {
    child(&LEGACY.replace("ON_CALL", on_call))
}

const LEGACY: &str = r#"
while IFS= read -r line; do
  id=${line#*'"id":'}; id=${id%%,*}
  case "$line" in
    *'"method":"server/discover"'*) printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"error":{"code":-32601,"message":"no"}}';;
    *'"method":"initialize"'*) printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"resources":{"subscribe":true}},"serverInfo":{"name":"x","version":"1"}}}';;
    *'"method":"tools/list"'*) printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"result":{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}}';;
    *'"method":"resources/subscribe"'*) printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"result":{}}' '{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///a"}}';;
    *'"method":"tools/call"'*) ON_CALL;;
  esac
done
"#;

const OK: &str = r#"printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"result":{"content":[],"n":1.50,"big":12345678901234567890,"x/y":{"z":1e2}}}'"#;

#[tokio::test]
async fn a_call_over_stdio_comes_back_lossless() {
    let bench = Bench::new(config(legacy(OK)), FakeHouse::default()).ready().await;
    let outcome = bench.echo("{}").await;
    assert_eq!(text(&outcome), r#"{"content":[],"n":1.50,"big":12345678901234567890,"x/y":{"z":1e2}}"#);
    let status = bench.upstream.status();
    assert_eq!((status.state, status.protocol.as_deref(), status.in_flight), ("ready", Some("2025-06-18"), 0));
    bench.upstream.stop();
}

#[tokio::test]
async fn a_child_receives_the_canonical_arguments() {
    let script = format!(r#"printf '%s\n' "$line" >> "$LOG"; {OK}"#);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let Transport::Stdio { command, mut env, cwd } = legacy(&script) else { unreachable!() };
    env.insert("LOG".to_owned(), log.display().to_string());
    let bench = Bench::new(config(Transport::Stdio { command, env, cwd }), FakeHouse::default()).ready().await;
    text(&bench.echo(r#"{ "b": 1.0, "a": "é\u0007" }"#).await);
    let line = std::fs::read_to_string(log).unwrap();
    assert!(line.contains(r#""params":{"name":"echo","arguments":{"a":"é\u0007","b":1},"_meta":{}}}"#), "{line}");
}

#[tokio::test]
async fn an_answer_to_another_id_is_ignored() {
    let script = format!(
        r#"printf '%s\n' '{{"jsonrpc":"2.0","id":9999,"result":{{"wrong":1}}}}' '{{"jsonrpc":"2.0","id":"'$id'","result":{{"wrong":1}}}}'; {OK}; {OK}"#
    );
    let bench = Bench::new(config(legacy(&script)), FakeHouse::default()).ready().await;
    for _ in 0..3 {
        assert!(text(&bench.echo("{}").await).contains("content"));
    }
}

#[tokio::test]
async fn a_child_that_never_answers_times_out_and_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let script =
        LEGACY.replace("ON_CALL", ":").replace("esac", r#"*cancelled*) printf '%s\n' "$line" > "$LOG";; esac"#);
    let Transport::Stdio { command, mut env, cwd } = child(&script) else { unreachable!() };
    env.insert("LOG".to_owned(), log.display().to_string());
    let mut config = config(Transport::Stdio { command, env, cwd });
    config.timeout = Duration::from_millis(700);
    let bench = Bench::new(config, FakeHouse::default()).ready().await;
    assert_eq!(unknown(&bench.echo("{}").await), "timeout");
    let until = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(&log).is_ok_and(|text| text.contains("requestId")) {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_child_that_dies_mid_call_is_started_again() {
    let folder = tempfile::tempdir().unwrap();
    let flag = folder.path().join("flag");
    let script = format!(r#"if [ -e "{0}" ]; then {OK}; else : > "{0}"; exit 3; fi"#, flag.display());
    let bench = Bench::new(config(legacy(&script)), FakeHouse::default()).ready().await;
    assert_eq!(unknown(&bench.echo("{}").await), "died");
    let again = bench.ready_again().await;
    text(&again.echo("{}").await);
    assert_eq!(again.house.comparisons.load(Ordering::SeqCst), 2, "compared again before the next call");
}

impl Bench {
    /// Waits for the next connection after one was lost.
    async fn ready_again(self) -> Self {
        let until = Instant::now() + Duration::from_secs(20);
        while self.house.comparisons.load(Ordering::SeqCst) < 2 {
            assert!(Instant::now() < until);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.ready().await
    }
}

#[tokio::test]
async fn endless_output_ends_the_child_and_the_call() {
    let bench = Bench::new(config(legacy("cat /dev/zero")), FakeHouse::default()).ready().await;
    assert_eq!(unknown(&bench.echo("{}").await), "too_large");
    let bench = Bench::new(config(legacy("yes garbage")), FakeHouse::default()).ready().await;
    assert_eq!(unknown(&bench.echo("{}").await), "bad_answer");
}

#[tokio::test]
async fn a_little_garbage_between_messages_is_skipped() {
    let script = format!("printf 'hello\\n\\n{{\\n'; {OK}");
    let bench = Bench::new(config(legacy(&script)), FakeHouse::default()).ready().await;
    text(&bench.echo("{}").await);
}

#[tokio::test]
async fn a_child_that_falls_over_the_probe_is_started_without_it() {
    let script = LEGACY
        .replace("ON_CALL", OK)
        .replace(r#"*'"method":"server/discover"'*)"#, r#"*'"method":"server/discover"'*) exit 1;; *never*)"#);
    let bench = Bench::new(config(child(&script)), FakeHouse::default()).ready().await;
    text(&bench.echo("{}").await);
}

#[tokio::test]
async fn a_child_that_is_deaf_to_the_probe_gets_the_handshake() {
    let script = LEGACY
        .replace("ON_CALL", OK)
        .replace(r#"*'"method":"server/discover"'*)"#, r#"*'"method":"server/discover"'*) :;; *never*)"#);
    let bench = Bench::new(config(child(&script)), FakeHouse::default()).ready().await;
    text(&bench.echo("{}").await);
}

#[tokio::test]
async fn questions_and_notices_reach_the_client_of_the_only_call() {
    let script = r#"
      printf '%s\n' '{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":'$id',"progress":1}}' \
        '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}' \
        '{"jsonrpc":"2.0","id":"q1","method":"ping"}' \
        '{"jsonrpc":"2.0","id":"q2","method":"elicitation/create","params":{"message":"?"}}'
      IFS= read -r pong; IFS= read -r answer
      printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"result":{"pong":'"$pong"',"answer":'"$answer"'}}'"#;
    let house = FakeHouse { asks: true, ..FakeHouse::default() };
    let bench = Bench::new(config(legacy(script)), house).ready().await;
    let client = ClientSide {
        wants_progress: true,
        capabilities: Object::new().with("elicitation", Object::new()),
        ..ClientSide::default()
    };
    let (call, mut notices, _cancel) = FakeCall::new(tool("up", "echo"), "{}").linked(client.clone());
    let talk = async {
        let Some(Notice::Progress(progress)) = notices.recv().await else { panic!("no progress") };
        assert!(progress.get("progressToken").is_none() && progress.get("progress").is_some());
        assert!(matches!(notices.recv().await, Some(Notice::Log(_))));
        let Some(Notice::Ask { method, answer, .. }) = notices.recv().await else { panic!("no question") };
        assert_eq!(method, "elicitation/create");
        answer.send(FromClient::Result(Object::new().with("action", "accept").into())).unwrap();
    };
    let (outcome, ()) = tokio::join!(bench.send(call), talk);
    assert_eq!(
        text(&outcome),
        r#"{"pong":{"jsonrpc":"2.0","id":"q1","result":{}},"answer":{"jsonrpc":"2.0","id":"q2","result":{"action":"accept"}}}"#
    );

    // the same without a grant
    let bench = Bench::new(config(legacy(script)), FakeHouse::default()).ready().await;
    let (call, _notices, _cancel) = FakeCall::new(tool("up", "echo"), "{}").linked(client);
    assert!(text(&bench.send(call).await).contains(r#"is not granted"#));
}

#[tokio::test]
async fn changes_are_told_and_tools_compared_before_the_next_call() {
    let script = format!(
        r#"printf '%s\n' '{{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}}' '{{"jsonrpc":"2.0","method":"notifications/prompts/list_changed"}}'; {OK}"#
    );
    let mut bench = Bench::new(config(legacy(&script)), FakeHouse::default()).ready().await;
    text(&bench.echo("{}").await);
    text(&bench.echo("{}").await);
    assert!(bench.house.comparisons.load(Ordering::SeqCst) >= 2);
    assert_eq!(bench.changes.recv().await.unwrap().1, Change::Prompts);
    let _subscription = bench.upstream.subscribe("file:///a", &tool("up", "echo")).await.unwrap();
    loop {
        if bench.changes.recv().await.unwrap().1 == (Change::Resource { uri: "file:///a".to_owned() }) {
            break;
        }
    }
}

#[tokio::test]
async fn a_tool_that_is_not_on_offer_is_not_called() {
    let bench = Bench::new(config(legacy(OK)), FakeHouse::default()).ready().await;
    let outcome = bench.send(FakeCall::new(tool("up", "other"), "{}")).await;
    assert!(not_sent(&outcome).contains("contract"));
}

#[tokio::test]
async fn a_command_that_is_not_there_is_not_sent_to() {
    let command = vec!["/nonexistent/server".to_owned()];
    let bench = Bench::new(config(Transport::Stdio { command, env: BTreeMap::new(), cwd: None }), FakeHouse::default());
    let outcome = bench.echo("{}").await;
    assert!(not_sent(&outcome).contains("cannot"), "{outcome:?}");
    assert_eq!(bench.upstream.status().state, "broken");
}

#[tokio::test]
async fn places_and_queue_are_bounded() {
    let mut config = config(legacy("sleep 1000 &"));
    (config.concurrency, config.queue, config.timeout) = (1, 1, Duration::from_secs(2));
    let bench = Bench::new(config, FakeHouse::default()).ready().await;
    let outcomes = futures_util::future::join_all((0..3).map(|_| bench.echo("{}"))).await;
    let busy = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::NotSent { busy: true, .. })).count();
    assert_eq!(busy, 2, "{outcomes:?}");
    assert!(outcomes.iter().any(|outcome| matches!(outcome, Outcome::Unknown { why: "timeout", .. })));
}

#[tokio::test]
async fn a_cancelled_call_ends_unknown_unless_it_was_never_sent() {
    let bench = Bench::new(config(legacy(":")), FakeHouse::default()).ready().await;
    let (call, _notices, cancel) = FakeCall::new(tool("up", "echo"), "{}").linked(ClientSide::default());
    let (outcome, ()) = tokio::join!(bench.send(call), async {
        while bench.upstream.status().in_flight == 0 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.send(true).unwrap();
    });
    assert_eq!(unknown(&outcome), "cancelled");
    let (call, _notices, cancel) = FakeCall::new(tool("up", "echo"), "{}").linked(ClientSide::default());
    cancel.send(true).unwrap();
    assert!(matches!(bench.send(call).await, Outcome::NotSent { .. } | Outcome::Unknown { why: "cancelled", .. }));
}

#[tokio::test]
async fn stopping_ends_calls_and_the_child() {
    let mut bench = Bench::new(config(legacy(":")), FakeHouse::default()).ready().await;
    let (outcome, ()) = tokio::join!(bench.echo("{}"), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.upstream.stop();
    });
    assert_eq!(unknown(&outcome), "stopping");
    bench._keeper.join_next().await.unwrap().unwrap();
    assert_eq!(bench.upstream.status().state, "stopped");
}

#[tokio::test]
async fn a_child_without_a_handshake_is_spoken_to_without_one() {
    let script = r#"
while IFS= read -r line; do
  id=${line#*'"id":'}; id=${id%%,*}
  case "$line" in
    *'"method":"server/discover"'*) printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"result":{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}}}}';;
    *'"method":"tools/list"'*) printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"result":{"tools":[{"name":"echo"}]}}';;
    *'"method":"subscriptions/listen"'*) printf '%s\n' '{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":'$id'}}}';;
    *'"method":"tools/call"'*) printf '%s\n' '{"jsonrpc":"2.0","id":'$id',"result":{"got":'"$line"'}}';;
    *) exit 1;;
  esac
done
"#;
    let bench = Bench::new(config(child(script)), FakeHouse::default()).ready().await.ready_again().await;
    assert_eq!(bench.upstream.status().protocol.as_deref(), Some("2026-07-28"));
    let (call, _notices, _cancel) = FakeCall::new(tool("up", "echo"), "{}")
        .linked(ClientSide { log_level: Some("info".to_owned()), ..ClientSide::default() });
    let outcome = bench.send(call).await;
    for part in [
        r#""io.modelcontextprotocol/protocolVersion":"2026-07-28""#,
        r#""io.modelcontextprotocol/clientCapabilities":{}"#,
        r#""io.modelcontextprotocol/logLevel":"info""#,
    ] {
        assert!(text(&outcome).contains(part), "{outcome:?}");
    }
}

// ---- HTTP

/// A request as the scripted server saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: String,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Seen {
    fn id(&self) -> &str {
        self.body.split(r#""id":"#).nth(1).and_then(|rest| rest.split([',', '}']).next()).unwrap_or("null")
    }

    fn rpc(&self) -> &str {
        self.body.split(r#""method":""#).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or("")
    }
}

enum Say {
    Json(String),
    Status(u16, &'static str, String),
    /// Raw bytes, then the connection closes.
    Raw(Vec<u8>),
    /// Raw bytes, then nothing.
    Hang(Vec<u8>),
    /// Raw bytes, then that over and over.
    Flood(Vec<u8>, Vec<u8>),
}

struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn new(script: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let (seen, connections) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<AtomicUsize>::default());
        let (log, count, script) = (Arc::clone(&seen), Arc::clone(&connections), Arc::new(script));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut each = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (log, script) = (Arc::clone(&log), Arc::clone(&script));
                each.spawn(async move {
                    let _closed = serve(stream, &log, &*script).await;
                });
            }
        });
        Self { url, seen, connections, _tasks: tasks }
    }

    fn config(&self) -> UpstreamConfig {
        let headers = BTreeMap::from([("authorization".to_owned(), "Bearer s3cret".to_owned())]);
        config(Transport::Http { url: self.url.clone(), headers })
    }

    fn calls(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|seen| seen.rpc() == "tools/call").cloned().collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Seen>>,
    script: &(impl Fn(&Seen) -> Say + Sync),
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
        let headers: BTreeMap<_, _> = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        while buffer.len() < end + 4 + length {
            stream.read_buf(&mut buffer).await?;
        }
        let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).unwrap();
        buffer.drain(..end + 4 + length);
        let seen = Seen { method: head.split(' ').next().unwrap().to_owned(), headers, body };
        log.lock().unwrap().push(seen.clone());
        match script(&seen) {
            Say::Json(body) => stream.write_all(&response(200, "application/json", &body)).await?,
            Say::Status(status, kind, body) => stream.write_all(&response(status, kind, &body)).await?,
            Say::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return Ok(());
            }
            Say::Hang(bytes) => {
                stream.write_all(&bytes).await?;
                std::future::pending::<()>().await;
            }
            Say::Flood(first, again) => {
                stream.write_all(&first).await?;
                loop {
                    stream.write_all(&again).await?;
                }
            }
        }
    }
}

fn response(status: u16, kind: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn result(seen: &Seen, result: &str) -> Say {
    Say::Json(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, seen.id()))
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

/// A server without a handshake; the closure says what it does with a call.
async fn modern(on_call: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> Server {
    Server::new(move |seen| match seen.rpc() {
        "server/discover" => result(
            seen,
            r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{},"prompts":{}}}"#,
        ),
        "tools/list" => result(seen, r#"{"tools":[{"name":"echo"}]}"#),
        "prompts/list" if seen.body.contains("cursor") => result(seen, r#"{"prompts":[{"name":"b"}],"ttlMs":60000}"#),
        "prompts/list" => result(seen, r#"{"prompts":[{"name":"a"}],"nextCursor":"2","ttlMs":60000}"#),
        "tools/call" => on_call(seen),
        _ => Say::Status(404, "text/plain", String::new()),
    })
    .await
}

#[tokio::test]
async fn a_modern_server_gets_what_the_revision_asks_for() {
    let server = modern(|seen| result(seen, r#"{"content":[],"n":1.50}"#)).await;
    let bench = Bench::new(server.config(), FakeHouse { asks: true, ..FakeHouse::default() }).ready().await;
    let mut tool = tool("up", "echo");
    Arc::<Tool>::get_mut(&mut tool).unwrap().headers =
        vec![ParamHeader { header: "mcp-param-region".to_owned(), path: vec!["r".to_owned(), "x".to_owned()] }];
    let client = ClientSide {
        capabilities: Object::new().with("sampling", Object::new()).with("experimental", Object::new()),
        modern: true,
        ..ClientSide::default()
    };
    let (call, _notices, _cancel) = FakeCall::new(tool, r#"{"r":{"x":"µ"},"a":1}"#).linked(client);
    assert_eq!(text(&bench.send(call).await), r#"{"content":[],"n":1.50}"#);
    let call = &server.calls()[0];
    for (header, value) in [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "echo"),
        ("mcp-param-region", "=?base64?wrU=?="),
        ("authorization", "Bearer s3cret"),
        ("accept", "application/json, text/event-stream"),
    ] {
        assert_eq!(call.headers.get(header).map(String::as_str), Some(value), "{header}");
    }
    assert!(call.body.contains(r#""arguments":{"a":1,"r":{"x":"µ"}}"#), "{}", call.body);
    assert!(call.body.contains(r#"clientCapabilities":{"sampling":{}}"#), "{}", call.body);
    let prompts = bench.upstream.list(Listing::Prompts).await.unwrap();
    assert_eq!(prompts.len(), 2);
    bench.upstream.list(Listing::Prompts).await.unwrap();
    assert_eq!(server.seen.lock().unwrap().iter().filter(|seen| seen.rpc() == "prompts/list").count(), 2, "cached");
    assert!(bench.upstream.list(Listing::Resources).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let server = modern(|seen| result(seen, "{}")).await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    for _ in 0..20 {
        text(&bench.echo("{}").await);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_replaced() {
    let server = modern(|seen| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, seen.id());
        Say::Raw(response(200, "application/json", &body))
    })
    .await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    for _ in 0..5 {
        text(&bench.echo("{}").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.calls().len(), 5, "each call was sent once");
}

#[tokio::test]
async fn answers_that_cannot_be_trusted_end_unknown_and_are_never_asked_for_again() {
    let other = |seen: &Seen| Say::Json(format!(r#"{{"jsonrpc":"2.0","id":{}0,"result":{{}}}}"#, seen.id()));
    let garbage = |_: &Seen| Say::Json("{nonsense".to_owned());
    let double =
        |seen: &Seen| Say::Json(format!(r#"{{"jsonrpc":"2.0","id":{0},"result":{{}},"result":{{}}}}"#, seen.id()));
    let html = |_: &Seen| Say::Status(200, "text/html", "<b>".to_owned());
    let fails = |_: &Seen| Say::Status(502, "text/plain", String::new());
    let hangs_up = |_: &Seen| Say::Raw(Vec::new());
    let half = |_: &Seen| {
        Say::Raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{".to_vec())
    };
    let large = |seen: &Seen| result(seen, &format!(r#"{{"x":"{}"}}"#, "y".repeat(200_000)));
    let ends = |_: &Seen| Say::Raw(format!("{STREAM}: nothing\n\n").into_bytes());
    let bad_event = |_: &Seen| Say::Hang(format!("{STREAM}data: nonsense\n\n").into_bytes());
    let flood = |_: &Seen| Say::Flood(STREAM.as_bytes().to_vec(), b": x\n\n".repeat(1000));
    let line = |_: &Seen| Say::Flood(STREAM.as_bytes().to_vec(), vec![b'x'; 4096]);
    type Script = Box<dyn Fn(&Seen) -> Say + Send + Sync>;
    let cases: Vec<(&str, Script, &str)> = vec![
        ("other id", Box::new(other), "bad_answer"),
        ("garbage", Box::new(garbage), "bad_answer"),
        ("duplicate member", Box::new(double), "bad_answer"),
        ("html", Box::new(html), "bad_answer"),
        ("502", Box::new(fails), "bad_answer"),
        ("hangs up", Box::new(hangs_up), "died"),
        ("half a body", Box::new(half), "died"),
        ("too large", Box::new(large), "too_large"),
        ("stream ends", Box::new(ends), "died"),
        ("garbage event", Box::new(bad_event), "bad_answer"),
        ("endless stream", Box::new(flood), "too_large"),
        ("endless line", Box::new(line), "too_large"),
    ];
    for (what, script, why) in cases {
        let server = modern(script).await;
        let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
        assert_eq!(unknown(&bench.echo("{}").await), why, "{what}");
        assert_eq!(server.calls().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_stream_that_never_ends_times_out_and_is_closed() {
    let server = modern(|_| Say::Hang(format!("{STREAM}: waiting\n\n").into_bytes())).await;
    let mut config = server.config();
    config.timeout = Duration::from_millis(500);
    let bench = Bench::new(config, FakeHouse::default()).ready().await;
    assert_eq!(unknown(&bench.echo("{}").await), "timeout");
}

#[tokio::test]
async fn a_stream_carries_notices_and_other_answers_do_not_count() {
    let server = modern(|seen| {
        let id = seen.id();
        Say::Hang(
            format!(
                "{STREAM}event: message\ndata: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{{\"progressToken\":{id},\"progress\":1}}}}\n\n\
                 data: {{\"jsonrpc\":\"2.0\",\"id\":77777,\"result\":{{}}}}\n\n\
                 data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\r\ndata: \"result\":{{ \"a\":\r\ndata: 1.0}}}}\r\n\r\n"
            )
            .into_bytes(),
        )
    })
    .await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    let client = ClientSide { wants_progress: true, ..ClientSide::default() };
    let (call, mut notices, _cancel) = FakeCall::new(tool("up", "echo"), "{}").linked(client);
    assert_eq!(text(&bench.send(call).await), r#"{"a":1.0}"#);
    assert!(matches!(notices.try_recv(), Ok(Notice::Progress(_))));
}

#[tokio::test]
async fn redirects_are_not_followed_and_refusals_are_errors() {
    let server = modern(|_| {
        Say::Raw(b"HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:1/elsewhere\r\ncontent-length: 0\r\n\r\n".to_vec())
    })
    .await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    let Outcome::Error { tree, .. } = bench.echo("{}").await else { panic!("followed") };
    assert!(tree.get("message").unwrap().as_str().unwrap().contains("307"));
    let server = modern(|seen| {
        let id = seen.id();
        Say::Status(
            400,
            "application/json",
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"m","data":{{"n":1.0}}}}}}"#),
        )
    })
    .await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    let Outcome::Error { text, .. } = bench.echo("{}").await else { panic!("no error") };
    assert_eq!(text, &br#"{"code":-32602,"message":"m","data":{"n":1.0}}"#[..]);
}

#[tokio::test]
async fn what_a_tool_asks_for_without_a_grant_ends_the_call() {
    const ASKS: &str = r#"{"resultType":"input_required","requestState":"s","inputRequests":{"a":{"method":"sampling/createMessage","params":{}}}}"#;
    let client = ClientSide {
        capabilities: Object::new().with("sampling", Object::new()),
        modern: true,
        ..ClientSide::default()
    };
    for (asks, passes) in [(true, true), (false, false)] {
        let server = modern(|seen| result(seen, ASKS)).await;
        let bench = Bench::new(server.config(), FakeHouse { asks, ..FakeHouse::default() }).ready().await;
        let (call, _notices, _cancel) = FakeCall::new(tool("up", "echo"), "{}").linked(client.clone());
        let outcome = bench.send(call).await;
        assert_eq!(matches!(outcome, Outcome::Result { .. }), passes, "{outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Error { .. }), !passes, "{outcome:?}");
    }
    let server = modern(|seen| result(seen, r#"{"resultType":"input_required","requestState":"s"}"#)).await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    let mut call = FakeCall::new(tool("up", "echo"), "{}");
    call.passage.request_state = Some("st\"ate".to_owned());
    call.passage.input_responses = Some(Object::new().with("a", 1).into());
    text(&bench.send(call).await);
    assert!(server.calls()[0].body.ends_with(r#","inputResponses":{"a":1},"requestState":"st\"ate"}}"#));
}

/// A server with sessions. Every session ends after `calls` calls.
async fn sessions(calls: usize, on_call: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> Server {
    let (session, left) = (AtomicUsize::new(0), AtomicUsize::new(0));
    Server::new(move |seen| {
        let current = session.load(Ordering::SeqCst).to_string();
        let fits = seen.headers.get("mcp-session-id") == Some(&current);
        match seen.rpc() {
            "initialize" => {
                left.store(calls, Ordering::SeqCst);
                let next = session.fetch_add(1, Ordering::SeqCst) + 1;
                let body = format!(
                    r#"{{"jsonrpc":"2.0","id":{},"result":{{"protocolVersion":"2025-11-25","capabilities":{{"tools":{{}}}}}}}}"#,
                    seen.id()
                );
                Say::Raw(
                    format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: {next}\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    )
                    .into_bytes(),
                )
            }
            "server/discover" => Say::Status(400, "text/plain", "no session".to_owned()),
            _ if seen.headers.contains_key("last-event-id") => on_call(seen),
            _ if seen.method == "GET" => Say::Status(405, "text/plain", String::new()),
            _ if !fits => Say::Status(404, "text/plain", String::new()),
            "tools/list" => result(seen, r#"{"tools":[{"name":"echo"}]}"#),
            "tools/call" => {
                if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err() {
                    return Say::Status(404, "text/plain", String::new());
                }
                on_call(seen)
            }
            _ => Say::Status(202, "text/plain", String::new()),
        }
    })
    .await
}

#[tokio::test]
async fn a_session_that_ended_is_begun_again_and_the_call_sent_once_more() {
    let server = sessions(1, |seen| result(seen, "{}")).await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    for _ in 0..2 {
        text(&bench.echo("{}").await);
    }
    let call = server.calls().pop().unwrap();
    assert_eq!(call.headers.get("mcp-protocol-version").map(String::as_str), Some("2025-11-25"));
    assert_eq!(call.headers.get("mcp-session-id").map(String::as_str), Some("2"));
    assert!(!call.headers.contains_key("mcp-method"));
    assert_eq!(server.calls().len(), 3);
    assert_eq!(bench.house.comparisons.load(Ordering::SeqCst), 2, "compared in the new session");
}

#[tokio::test]
async fn a_stream_that_was_hung_up_on_is_taken_up_where_it_was() {
    let asked = Mutex::new(String::new());
    let server = sessions(9, move |seen| match seen.headers.get("last-event-id").map(String::as_str) {
        None => {
            *asked.lock().unwrap() = seen.id().to_owned();
            Say::Raw(format!("{STREAM}id: e1\nretry: 5\ndata:\n\ndata: {{\"half").into_bytes())
        }
        Some(from) => {
            let id = asked.lock().unwrap();
            Say::Raw(
                format!("{STREAM}data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"from\":\"{from}\"}}}}\n\n")
                    .into_bytes(),
            )
        }
    })
    .await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    assert_eq!(text(&bench.echo("{}").await), r#"{"from":"e1"}"#);
    assert_eq!(server.calls().len(), 1, "the call itself was sent once");
}

#[tokio::test]
async fn sessions_that_always_end_do_not_loop() {
    let server = sessions(0, |seen| result(seen, "{}")).await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await;
    assert!(matches!(bench.echo("{}").await, Outcome::NotSent { .. }));
    assert!(server.calls().len() <= 2);
}

#[tokio::test]
async fn a_question_on_the_calls_own_stream_is_answered_by_a_post() {
    let server = sessions(9, |seen| {
        let id = seen.id();
        Say::Hang(
            format!("{STREAM}data: {{\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"roots/list\"}}\n\n: {id}\n\n")
                .into_bytes(),
        )
    })
    .await;
    let mut config = server.config();
    config.timeout = Duration::from_millis(700);
    let bench = Bench::new(config, FakeHouse { asks: true, ..FakeHouse::default() }).ready().await;
    let client = ClientSide { capabilities: Object::new().with("roots", Object::new()), ..ClientSide::default() };
    let (call, mut notices, _cancel) = FakeCall::new(tool("up", "echo"), "{}").linked(client);
    let (outcome, ()) = tokio::join!(bench.send(call), async {
        let Some(Notice::Ask { answer, .. }) = notices.recv().await else { panic!("no question") };
        answer.send(FromClient::Result(Value::from(Object::new()))).unwrap();
    });
    assert_eq!(unknown(&outcome), "timeout");
    let seen = server.seen.lock().unwrap();
    assert!(seen.iter().any(|seen| seen.body == r#"{"jsonrpc":"2.0","id":"q","result":{}}"#), "{seen:?}");
    assert!(seen.iter().any(|seen| seen.rpc() == "notifications/cancelled"));
}

#[tokio::test]
async fn one_upstreams_failures_do_not_touch_another() {
    let (bad, good) = (modern(|_| Say::Raw(Vec::new())).await, modern(|seen| result(seen, "{}")).await);
    let bad = Bench::new(bad.config(), FakeHouse::default()).ready().await;
    let good = Bench::new(good.config(), FakeHouse::default()).ready().await;
    for _ in 0..5 {
        assert_eq!(unknown(&bad.echo("{}").await), "died");
        text(&good.echo("{}").await);
    }
    assert!(not_sent(&bad.echo("{}").await).contains("left alone"));
    assert_eq!(bad.upstream.status().state, "broken");
    text(&good.echo("{}").await);
}

#[tokio::test]
async fn nobody_there_means_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let bench = Bench::new(config(Transport::Http { url, headers: BTreeMap::new() }), FakeHouse::default());
    assert!(matches!(bench.echo("{}").await, Outcome::NotSent { busy: false, .. }));
}

#[tokio::test]
async fn pages_that_go_in_a_circle_end() {
    let server = Server::new(|seen| match seen.rpc() {
        "server/discover" => result(seen, r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#),
        _ => result(seen, r#"{"tools":[{"name":"echo"}],"nextCursor":"x"}"#),
    })
    .await;
    let bench = Bench::new(server.config(), FakeHouse::default());
    let Err((why, _)) = bench.upstream.connection(Duration::from_secs(10)).await else { panic!("ready") };
    assert!(why.contains("circle"), "{why}");
}

#[tokio::test]
async fn changes_are_heard_on_the_stream_of_a_modern_server() {
    let server = Server::new(|seen| match seen.rpc() {
        "server/discover" => {
            result(seen, r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}}}"#)
        }
        "subscriptions/listen" => Say::Hang(
            format!("{STREAM}data: {{\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}}\n\n")
                .into_bytes(),
        ),
        _ => result(seen, r#"{"tools":[{"name":"echo"}]}"#),
    })
    .await;
    let bench = Bench::new(server.config(), FakeHouse::default()).ready().await.ready_again().await;
    let seen = server.seen.lock().unwrap();
    let listen = seen.iter().find(|seen| seen.rpc() == "subscriptions/listen").unwrap();
    assert!(listen.body.contains(r#""notifications":{"toolsListChanged":true}"#), "{}", listen.body);
    drop(bench);
}

#[test]
fn urls_and_headers_that_cannot_be_used_are_refused_without_telling_secrets() {
    use super::endpoint::Endpoint;
    let none = BTreeMap::new();
    for url in ["ftp://x/", "http://user:pw@x/", "x", "/mcp", ""] {
        let why = Endpoint::new(url, none.iter(), 1).err().unwrap();
        assert!(!why.contains("pw"), "{why}");
    }
    for (header, value) in [("Host", "x"), ("mcp-session-id", "1"), ("x", "s3cret\n"), ("a b", "s3cret")] {
        let headers = BTreeMap::from([(header.to_owned(), value.to_owned())]);
        let why = Endpoint::new("http://x/", headers.iter(), 1).err().unwrap();
        assert!(!why.contains("s3cret"), "{why}");
    }
}
