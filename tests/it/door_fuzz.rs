//! The door under requests that nobody would write: it answers or hangs up, never panics, and serves the next one.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign::{clock::Clock, config, identity::TokenRequest, mcp, server};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use tokio::{net::TcpListener, runtime::Runtime, sync::watch};

use crate::{
    house::{EVERYTHING, House},
    recorder::Recorder,
    wire::{META, Request, exchange},
};

/// A server in this very process, so that a panic anywhere in it is seen.
struct Inside {
    runtime: Runtime,
    house: Arc<server::House>,
    at: SocketAddr,
    token: String,
    stop: watch::Sender<bool>,
}

impl Inside {
    fn open(folder: &House) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (house, at, token) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let at = listener.local_addr().unwrap();
            let mut config = config::load(&folder.path().join("countersign.toml")).unwrap();
            config.server.listen = at;
            let house = Arc::new(server::House::open(config, Clock::System).unwrap());
            house.start().await.unwrap();
            let settings = mcp::http::Settings {
                body_timeout: Duration::from_millis(300),
                ..mcp::http::Settings::new(&house.config.server, house.session_key)
            };
            tokio::spawn(mcp::http::serve(listener, Arc::clone(&house.pipeline), settings, stopped));
            let request =
                TokenRequest { agent: "tester".to_owned(), ttl: Duration::from_secs(3_600), task: None, user: None };
            let token = house.pipeline.identity.issue(request).await.unwrap();
            (house, at, token)
        });
        Self { runtime, house, at, token, stop }
    }

    fn close(self) {
        self.stop.send_replace(true);
        self.runtime.block_on(async { self.house.stop("test").await });
        self.runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

/// What may be done to a request. Places are parts of 65,536 of its length.
#[derive(Clone, Debug)]
enum Change {
    Flip(u16, u8),
    Cut(u16, u16),
    Repeat(u16, u16),
    Insert(u16, &'static [u8]),
    DropHeader(u16),
    DoubleHeader(u16),
    Header(u16, &'static str),
}

/// Pieces that parsers read differently.
const PIECES: [&[u8]; 22] = [
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    b"1e400",
    b"-0",
    b"9007199254740993",
    b"{",
    b"[[[[[[",
    b"}",
    b"\"",
    b",",
    b":",
    b"null",
    b"\r\n\r\n",
    b"\r\nX: y\r\n",
    b"\xef\xbb\xbf",
    b"__proto__",
    b"\"id\":1,",
    b"\"method\":\"ping\",",
    b"\"_meta\":{},",
];

const VALUES: [&str; 16] = [
    "",
    " ",
    "\t",
    "null",
    "2025-11-25",
    "2026-07-28",
    "tools/list",
    "=?base64?YQ==?=",
    "=?base64?",
    "Bearer x",
    "chunked",
    "0",
    "18446744073709551616",
    "text/event-stream;q=0",
    "\u{e9}",
    "a,b",
];

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (any::<u16>(), any::<u8>()).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (any::<u16>(), any::<u16>()).prop_map(|(at, length)| Change::Cut(at, length)),
        (any::<u16>(), any::<u16>()).prop_map(|(at, length)| Change::Repeat(at, length)),
        (any::<u16>(), prop::sample::select(&PIECES[..])).prop_map(|(at, piece)| Change::Insert(at, piece)),
        any::<u16>().prop_map(Change::DropHeader),
        any::<u16>().prop_map(Change::DoubleHeader),
        (any::<u16>(), prop::sample::select(&VALUES[..])).prop_map(|(at, value)| Change::Header(at, value)),
    ];
    prop::collection::vec(change, 0..4)
}

fn place(at: u16, length: usize) -> usize {
    usize::from(at) * length / 65_536
}

fn changed(request: &Request, changes: &[Change]) -> Request {
    let mut request = request.clone();
    for change in changes {
        let (body, headers) = (&mut request.body, &mut request.headers);
        match change {
            Change::Flip(at, bit) if !body.is_empty() => {
                let at = place(*at, body.len());
                body[at] ^= 1 << (bit % 8);
            }
            Change::Cut(at, length) => {
                let from = place(*at, body.len());
                let to = (from + place(*length, 64)).min(body.len());
                body.drain(from..to);
            }
            Change::Repeat(at, length) => {
                let from = place(*at, body.len());
                let piece = body[from..(from + place(*length, 256)).min(body.len())].to_vec();
                body.splice(from..from, piece.repeat(3));
            }
            Change::Insert(at, piece) => {
                let at = place(*at, body.len());
                body.splice(at..at, piece.iter().copied());
            }
            Change::DropHeader(at) if !headers.is_empty() => {
                let at = place(*at, headers.len());
                headers.remove(at);
            }
            Change::DoubleHeader(at) if !headers.is_empty() => {
                let twice = headers[place(*at, headers.len())].clone();
                headers.push(twice);
            }
            Change::Header(at, value) if !headers.is_empty() => {
                let at = place(*at, headers.len());
                headers[at].1 = (*value).to_owned();
            }
            _ => {}
        }
    }
    request
}

/// Requests of every method but those whose answer is meant never to end.
fn requests(session: &str) -> Vec<Request> {
    let modern = |method: &str, name: Option<&str>, params: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}"_meta":{META}}}}}"#);
        Request::envelope(method, name, &body)
    };
    let legacy = |method: &str, params: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":"a","method":"{method}","params":{{{params}}}}}"#);
        Request::post(body).with("Mcp-Session-Id", session)
    };
    let echo = r#"{"text":"é\u00e9","n":-0,"x":1.50,"flag":true,"color":"red","list":[1,2],"inner":{"a":1}}"#;
    vec![
        Request::call("up__echo", echo),
        Request::call("up__headers", r#"{"region":"eu","count":42,"dry":false}"#)
            .with("Mcp-Param-Region", "eu")
            .with("Mcp-Param-Count", "42.0")
            .with("Mcp-Param-Dry", "false"),
        Request::call("up__redos", r#"{"text":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"}"#),
        Request::call("up__nothing", "{}"),
        modern("tools/list", None, r#""cursor":"dAAAAAA","#),
        modern("resources/read", Some("file:///a"), r#""uri":"file:///a","#),
        modern("prompts/get", Some("up__p"), r#""name":"up__p","arguments":{"a":"b"},"#),
        modern(
            "completion/complete",
            None,
            r#""ref":{"type":"ref/prompt","name":"up__p"},"argument":{"name":"a","value":""},"#,
        ),
        modern("server/discover", None, ""),
        modern("tools/call", Some("up__bare"), r#""name":"up__bare","requestState":"AAAA","inputResponses":{"k":{}},"#),
        legacy("tools/call", &format!(r#""name":"up__echo","arguments":{echo},"_meta":{{"progressToken":7}}"#)),
        legacy("resources/subscribe", r#""uri":"file:///a""#),
        legacy("logging/setLevel", r#""level":"debug""#),
        legacy("ping", ""),
        Request::post(
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"roots":{}},"clientInfo":{"name":"x","version":"1"}}}"#,
        ),
        Request::post(r#"{"jsonrpc":"2.0","id":"x","result":{}}"#).with("Mcp-Session-Id", session),
        Request::post(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#)
            .with("Mcp-Session-Id", session),
    ]
}

#[test]
fn whatever_comes_the_door_stays_up() {
    let upstream = Recorder::usual();
    let folder = House::new(&format!("[upstreams.up]\nurl = \"{}\"\n", upstream.url()), EVERYTHING);
    folder.register();
    let panics = Arc::new(AtomicUsize::new(0));
    let (before, counted) = (std::panic::take_hook(), Arc::clone(&panics));
    std::panic::set_hook(Box::new(move |info| {
        // other tests of this process may fail on their own account
        if info.location().is_some_and(|at| !at.file().starts_with("tests/")) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        before(info);
    }));
    let inside = Inside::open(&folder);
    let (at, token) = (inside.at, inside.token.as_str());
    let opened = requests("")[14].send(at, Some(token));
    let session = opened.header("mcp-session-id").expect("a session").to_owned();
    let requests = requests(&session);
    let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
    let alive = || Request::call("up__bare", "{}").send(at, Some(token)).is_success();
    assert!(alive());
    let whole = (0..requests.len(), changes());
    let ran = TestRunner::new(config.clone()).run(&whole, |(which, changes)| {
        let request = changed(&requests[which], &changes);
        let answer = request.send(at, Some(token));
        // headers that HTTP does not allow may be answered by hanging up; everything else has an answer
        let plain = request.headers.iter().all(|(_, value)| value.is_ascii() && !value.eq_ignore_ascii_case("chunked"));
        prop_assert!(!plain || answer.status != 0, "no answer to {request:?}");
        prop_assert!(answer.status != 500, "{} to {request:?}", answer.last);
        prop_assert_eq!(panics.load(Ordering::SeqCst), 0);
        Ok(())
    });
    ran.unwrap();
    assert!(alive());
    // and bytes that are no request at all, cut and changed anywhere, head and all
    let bytes: Vec<Vec<u8>> = requests.iter().map(|request| request.bytes(at, Some(token))).collect();
    let raw = (0..bytes.len(), prop::collection::vec((any::<u16>(), any::<u8>()), 1..4), any::<u16>());
    let ran = TestRunner::new(Config { cases: 200, ..config }).run(&raw, |(which, flips, end)| {
        let mut bytes = bytes[which].clone();
        for (place_of, byte) in flips {
            let at = place(place_of, bytes.len());
            bytes[at] = byte;
        }
        if end < 16_384 {
            bytes.truncate(place(end * 4, bytes.len()).max(1));
        }
        let mut stream = crate::wire::connect(at);
        let _early = std::io::Write::write_all(&mut stream, &bytes);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        crate::wire::read_answer(&mut stream);
        prop_assert_eq!(panics.load(Ordering::SeqCst), 0);
        Ok(())
    });
    ran.unwrap();
    assert!(alive());
    assert!(exchange(at, b"GET /mcp HTTP/1.1\r\n\r\n").status >= 400);
    inside.close();
    let verified = folder.done(&["ledger", "verify"]);
    assert_eq!(panics.load(Ordering::SeqCst), 0, "{verified}");
}
