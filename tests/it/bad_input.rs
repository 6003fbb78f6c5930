//! Bad input over the wire: one row a line, each with the answer it must get and what the upstream may see of it.
//!
//! Rows about holds (29, 43, 44, and 40 and 41 where the state is a hold's) wait for holds. DESIGN overrides some:
//! a spaced `Mcp-Name` is the same name (19: RFC 9110 takes the space away before anybody reads it), `GET` and
//! `DELETE` belong to legacy sessions and are refused without one (27), a `requestState` may be sent again while
//! it lasts (40: the call is decided and recorded anew each time), and a changed call with an old state is
//! refused (41). An id is reused while it is pending where ids share a channel: a legacy session, see `road` (13).

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use base64::Engine as _;
use serde_json::{Value, json};

use crate::{
    house::{self, EVERYTHING, House, http_upstream},
    recorder::{self, Recorder},
    wire::{self, Answer, META, Request},
};

const PARSE: i64 = -32700;
const REQUEST: i64 = -32600;
const METHOD: i64 = -32601;
const PARAMS: i64 = -32602;
const HEADER: i64 = -32020;
const VERSION: i64 = -32022;

/// What a row must lead to.
#[derive(Clone, Debug)]
enum Expect {
    /// One of these statuses, and one of these JSON-RPC codes in the body (any, if none is named). Nothing goes upstream.
    Rpc(&'static [u16], &'static [i64]),
    /// One of these statuses, or the connection closes without an answer. Nothing goes upstream.
    Http(&'static [u16]),
    /// A tool result with `isError` and this reason, and a `call.refused` entry that names it. Nothing goes upstream.
    Refused(&'static str),
    /// The call reaches the upstream with exactly these bytes as arguments.
    Forwarded(String),
}

struct Row {
    line: u8,
    name: &'static str,
    request: Bytes,
    expect: Expect,
}

enum Bytes {
    Request(Request),
    /// Everything, header by hand; `{host}` and `{token}` are filled in.
    Raw(Vec<u8>),
}

fn row(line: u8, name: &'static str, request: Request, expect: Expect) -> Row {
    Row { line, name, request: Bytes::Request(request), expect }
}

fn raw(line: u8, name: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Row {
    Row { line, name, request: Bytes::Raw(bytes.into()), expect }
}

fn echo(arguments: &str) -> Request {
    Request::call("up__echo", arguments)
}

fn good_call() -> Request {
    Request::call("up__bare", "{}")
}

fn good() -> Request {
    echo(r#"{"text":"hello"}"#)
}

fn parse_error() -> Expect {
    Expect::Rpc(&[400], &[PARSE])
}

fn invalid_request() -> Expect {
    Expect::Rpc(&[400], &[REQUEST])
}

fn mismatch() -> Expect {
    Expect::Rpc(&[400], &[HEADER])
}

fn forwarded(arguments: &str) -> Expect {
    Expect::Forwarded(arguments.to_owned())
}

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

struct Scene {
    house: House,
    upstream: Recorder,
    token: String,
}

impl Scene {
    fn set() -> Self {
        let upstream = Recorder::usual();
        let house = House::open(&http_upstream("up", &upstream.url(), "timeout = \"3s\""), &granted());
        let token = house.token("tester", &[]);
        Self { house, upstream, token }
    }

    fn send(&self, request: &Bytes) -> Answer {
        match request {
            Bytes::Request(request) => request.send(self.house.mcp, Some(&self.token)),
            Bytes::Raw(bytes) => {
                let fill = |from: &str, to: &str, bytes: Vec<u8>| replaced(&bytes, from.as_bytes(), to.as_bytes());
                let bytes = fill("{host}", &self.house.mcp.to_string(), bytes.clone());
                wire::exchange(self.house.mcp, &fill("{token}", &self.token, bytes))
            }
        }
    }

    /// Runs the rows in order and fails once, with every row that went wrong.
    fn run(&self, rows: Vec<Row>) {
        let mut wrong = Vec::new();
        let total = rows.len();
        for row in rows {
            let before = (self.upstream.calls().len(), self.entries_if(&row.expect));
            let answer = self.send(&row.request);
            if let Err(problem) = self.judge(&row.expect, &answer, before) {
                let body = String::from_utf8_lossy(&answer.body);
                wrong.push(format!(
                    "line {} `{}`: {problem}\n    got {} {}",
                    row.line,
                    row.name,
                    answer.status,
                    &body[..body.len().min(300)]
                ));
            }
            if !self.house.is_ready() {
                wrong.push(format!("line {} `{}`: the server is not ready afterwards", row.line, row.name));
            }
        }
        let after = good().send(self.house.mcp, Some(&self.token));
        assert!(after.is_success(), "a good call fails after the table: {after:?}");
        assert!(wrong.is_empty(), "{} of {total} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }

    fn entries_if(&self, expect: &Expect) -> usize {
        match expect {
            Expect::Refused(_) => self.house.entries().len(),
            _ => 0,
        }
    }

    fn judge(&self, expect: &Expect, answer: &Answer, (calls, entries): (usize, usize)) -> Result<(), String> {
        let seen = self.upstream.calls();
        let quiet = || match seen.len() - calls {
            0 => Ok(()),
            more => Err(format!("the upstream saw {more} call(s)")),
        };
        match expect {
            Expect::Rpc(statuses, codes) => {
                quiet()?;
                if !statuses.contains(&answer.status) {
                    return Err(format!("the status has to be one of {statuses:?}"));
                }
                match answer.code() {
                    Some(code) if codes.is_empty() || codes.contains(&code) => Ok(()),
                    None if codes.is_empty() => Ok(()),
                    code => Err(format!("the code has to be one of {codes:?}, it is {code:?}")),
                }
            }
            Expect::Http(statuses) => {
                quiet()?;
                match answer.status {
                    0 => Ok(()),
                    status if statuses.contains(&status) => Ok(()),
                    _ => Err(format!("the status has to be one of {statuses:?}")),
                }
            }
            Expect::Refused(reason) => {
                quiet()?;
                let response = answer.response();
                if answer.status != 200 || response.pointer("/result/isError") != Some(&Value::Bool(true)) {
                    return Err("it has to be a tool result with `isError`".to_owned());
                }
                if response.pointer("/result/content/0/text").and_then(Value::as_str).is_none_or(str::is_empty) {
                    return Err("the agent is not told what to do".to_owned());
                }
                if answer.reason().as_deref() != Some(*reason) {
                    return Err(format!("the reason has to be `{reason}`, it is {:?}", answer.reason()));
                }
                let written = self.house.entries();
                let refusal = |entry: &&Value| {
                    house::kind_of(entry) == "call.refused" && entry.to_string().contains(&format!("\"{reason}\""))
                };
                match written[entries..].iter().find(refusal) {
                    Some(_) => Ok(()),
                    None => Err(format!("no `call.refused` entry with `{reason}`")),
                }
            }
            Expect::Forwarded(arguments) => {
                if !answer.is_success() {
                    return Err("the call has to succeed".to_owned());
                }
                match &seen[calls..] {
                    [call] if call.arguments() == arguments => Ok(()),
                    [call] => Err(format!("the upstream got `{}`, not `{arguments}`", call.arguments())),
                    calls => Err(format!("the upstream saw {} calls, not one", calls.len())),
                }
            }
        }
    }
}

/// Every tool but `secret`, which no grant of the tester's reaches.
fn granted() -> String {
    let names = recorder::tools().into_iter().map(|tool| format!("up__{}", tool["name"].as_str().unwrap()));
    let actions: Vec<String> =
        names.filter(|name| name != "up__secret").map(|name| format!("Action::\"{name}\"")).collect();
    format!("@id(\"tester\")\npermit (principal == Agent::\"tester\", action in [{}], resource);\n", actions.join(", "))
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(from.len()).position(|window| window == from) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    out.extend_from_slice(rest);
    out
}

#[test]
fn bad_json_is_refused_and_goes_nowhere() {
    let scene = Scene::set();
    let raw_text = |text: &[u8]| {
        let body = good().body;
        good().body(replaced(&body, b"\"hello\"", text))
    };
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let mut rows = vec![
        row(1, "a duplicate member of the envelope", good().edit(r#""id":1,"#, r#""id":1,"id":2,"#), parse_error()),
        row(1, "two methods", good().edit(r#""method":"#, r#""method":"ping","method":"#), parse_error()),
        row(
            1,
            "a duplicate member of params",
            good().edit(r#""name":"#, r#""name":"up__bare","name":"#),
            parse_error(),
        ),
        row(1, "a duplicate argument", echo(r#"{"text":"a","text":"b"}"#), parse_error()),
        row(1, "a duplicate nested argument", echo(r#"{"text":"a","inner":{"a":1,"a":2}}"#), parse_error()),
        row(1, "a duplicate member of _meta", good().edit(r#""_meta":{"#, r#""_meta":{"x":1,"x":1,"#), parse_error()),
        row(2, "a case twin of method", good().edit(r#""id":1,"#, r#""id":1,"METHOD":"ping","#), invalid_request()),
        row(
            2,
            "a case twin of name",
            good().edit(r#""name":"#, r#""Name":"up__bare","name":"#),
            Expect::Rpc(&[400], &[REQUEST, PARAMS]),
        ),
        row(
            2,
            "a folding twin of params",
            good().edit(r#""id":1,"#, "\"id\":1,\"param\u{17f}\":{},"),
            invalid_request(),
        ),
        row(
            2,
            "a folding twin of task",
            good().edit(r#""name":"#, "\"tas\u{212a}\":{},\"name\":"),
            Expect::Rpc(&[400], &[REQUEST, PARAMS]),
        ),
        row(
            3,
            "a key that ends in NUL",
            good().edit(r#""id":1,"#, r#""id":1,"method\u0000":"ping","#),
            Expect::Rpc(&[400], &[PARSE, REQUEST]),
        ),
        row(
            3,
            "a params key that ends in a control",
            good().edit(r#""name":"#, r#""name\u0001":"up__bare","name":"#),
            Expect::Rpc(&[400], &[PARSE, REQUEST, PARAMS]),
        ),
        row(
            4,
            "the same key plain and escaped",
            good().edit(r#""name":"#, r#""n\u0061me":"up__bare","name":"#),
            parse_error(),
        ),
        row(5, "a lone high surrogate", raw_text(br#""\ud800""#), parse_error()),
        row(5, "a lone low surrogate", raw_text(br#""\udc00x""#), parse_error()),
        row(5, "invalid UTF-8", raw_text(b"\"\xff\""), parse_error()),
        row(5, "an overlong slash", raw_text(b"\"\xc0\xaf\""), parse_error()),
        row(5, "a surrogate in UTF-8", raw_text(b"\"\xed\xa0\x80\""), parse_error()),
        row(5, "a byte order mark", good().body([b"\xef\xbb\xbf".as_slice(), &good().body].concat()), parse_error()),
        row(5, "UTF-16", good().body(utf16(&good().body)), parse_error()),
        row(6, "depth 129", echo(&format!(r#"{{"text":"a","list":{}}}"#, deep(129))), parse_error()),
        row(6, "depth 10,000", echo(&format!(r#"{{"text":"a","list":{}}}"#, deep(10_000))), parse_error()),
        row(6, "depth 100,000, never closed", good().body("[".repeat(100_000)), parse_error()),
        row(
            6,
            "an array of a million",
            echo(&format!(r#"{{"text":"a","list":[{}1]}}"#, "1,".repeat(1_000_000))),
            Expect::Rpc(&[400, 413], &[PARSE]),
        ),
        row(6, "a string of 10 MB", echo(&format!(r#"{{"text":"{}"}}"#, "a".repeat(10 << 20))), Expect::Http(&[413])),
        row(9, "trailing text", good().body([&good().body, b" x".as_slice()].concat()), parse_error()),
        row(9, "two documents", good().body([good().body, good().body].concat()), parse_error()),
        row(9, "NUL after the document", good().body([&good().body, b"\0".as_slice()].concat()), parse_error()),
        row(9, "a comment", good().edit(r#""id":1,"#, r#""id":1,/* hello */"#), parse_error()),
        row(9, "a trailing comma", echo(r#"{"text":"a",}"#), parse_error()),
        row(9, "an empty body", good().body(""), parse_error()),
        row(9, "half a body's JSON", good().body(&good().body[..40]), parse_error()),
        row(10, "__proto__", echo(r#"{"text":"a","__proto__":{"admin":true}}"#), Expect::Refused("arguments_invalid")),
        row(10, "constructor", echo(r#"{"text":"a","constructor":1}"#), Expect::Refused("arguments_invalid")),
        row(
            10,
            "a private key of a parser",
            echo(r#"{"text":"a","inner":{"$serde_json::private::RawValue":"1"}}"#),
            Expect::Refused("arguments_invalid"),
        ),
        row(
            10,
            "a private number of a parser",
            echo(r#"{"text":"a","n":{"$serde_json::private::Number":"1"}}"#),
            Expect::Refused("arguments_invalid"),
        ),
    ];
    for number in ["1e400", "-1e400", "NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x10", "1e", "-"] {
        rows.push(row(7, "no number", echo(&format!(r#"{{"text":"a","x":{number}}}"#)), parse_error()));
    }
    for number in ["9007199254740993", "-9007199254740992", "9007199254740992", "1e16", "0.10000000000000000055"] {
        let request = echo(&format!(r#"{{"text":"a","x":{number}}}"#));
        rows.push(row(
            7,
            "a number that another parser reads differently",
            request,
            Expect::Refused("arguments_not_canonical"),
        ));
    }
    scene.run(rows);
}

#[test]
fn what_is_forwarded_is_the_canonical_form() {
    let scene = Scene::set();
    scene.run(vec![
        row(8, "minus zero", echo(r#"{"text":"a","x":-0}"#), forwarded(r#"{"text":"a","x":0}"#)),
        row(8, "1.0 for an integer", echo(r#"{"text":"a","n":1.0}"#), forwarded(r#"{"n":1,"text":"a"}"#)),
        row(8, "1E0", echo(r#"{"text":"a","n":1E0}"#), forwarded(r#"{"n":1,"text":"a"}"#)),
        row(8, "a small exponent", echo(r#"{"text":"a","x":1e-7}"#), forwarded(r#"{"text":"a","x":1e-7}"#)),
        row(
            8,
            "members out of order, white space, escapes",
            echo("{ \"x\" : 0.50 ,\n\t\"text\":\"\\u0061\\/\\u00e9\\n\" }"),
            forwarded("{\"text\":\"a/é\\n\",\"x\":0.5}"),
        ),
        row(
            31,
            "arguments absent",
            good()
                .edit(r#""name":"up__echo","arguments":{"text":"hello"}"#, r#""name":"up__bare""#)
                .with("Mcp-Name", "up__bare"),
            forwarded("{}"),
        ),
        row(31, "arguments empty", Request::call("up__bare", "{}"), forwarded("{}")),
        row(31, "arguments null", Request::call("up__bare", "null"), Expect::Rpc(&[400], &[PARAMS, REQUEST])),
        row(31, "arguments an array", Request::call("up__bare", "[]"), Expect::Rpc(&[400], &[PARAMS, REQUEST])),
        row(31, "arguments a string", Request::call("up__bare", r#""{}""#), Expect::Rpc(&[400], &[PARAMS, REQUEST])),
        row(
            31,
            "a required argument, arguments absent",
            good().edit(r#","arguments":{"text":"hello"}"#, ""),
            Expect::Refused("arguments_invalid"),
        ),
        row(32, "a default is the upstream's business", Request::call("up__defaults", "{}"), forwarded("{}")),
        row(
            38,
            "bidi and zero-width characters are text",
            echo("{\"text\":\"a\u{202e}\u{200b}\u{e0041}b\"}"),
            forwarded("{\"text\":\"a\u{202e}\u{200b}\u{e0041}b\"}"),
        ),
        row(
            39,
            "a string at its limit",
            Request::call("up__short", r#"{"text":"0123456789abcdef"}"#),
            forwarded(r#"{"text":"0123456789abcdef"}"#),
        ),
        row(39, "a number at its limit", Request::call("up__short", r#"{"n":10}"#), forwarded(r#"{"n":10}"#)),
        row(
            39,
            "items at their limit",
            echo(r#"{"list":[1,2,3,4],"text":"a"}"#),
            forwarded(r#"{"list":[1,2,3,4],"text":"a"}"#),
        ),
        row(
            39,
            "the largest integer",
            echo(r#"{"n":9007199254740991,"text":"a"}"#),
            forwarded(r#"{"n":9007199254740991,"text":"a"}"#),
        ),
        row(13, "a second call with the same id", good(), forwarded(r#"{"text":"hello"}"#)),
        row(13, "a third call with the same id", good(), forwarded(r#"{"text":"hello"}"#)),
        row(
            17,
            "a forged traceparent",
            good().edit(r#""_meta":{"#, r#""_meta":{"traceparent":"00-a\r\nlevel=ERROR forged","#),
            forwarded(r#"{"text":"hello"}"#),
        ),
        row(
            17,
            "a forged client",
            good().edit(r#""name":"it""#, r#""name":"\u001b[2Jadmin""#),
            forwarded(r#"{"text":"hello"}"#),
        ),
        row(
            19,
            "spaces around a header's value are none of it (RFC 9110, 5.5)",
            good().with("Mcp-Name", " up__echo \t"),
            forwarded(r#"{"text":"hello"}"#),
        ),
        row(
            20,
            "the name in base64",
            good().with("Mcp-Name", &format!("=?base64?{}?=", base64("up__echo"))),
            forwarded(r#"{"text":"hello"}"#),
        ),
        row(
            22,
            "headers that repeat arguments",
            with_params(
                r#"{"count":42,"dry":true,"region":"eu"}"#,
                &[("Mcp-Param-Region", "eu"), ("Mcp-Param-Count", "42"), ("Mcp-Param-Dry", "true")],
            ),
            forwarded(r#"{"count":42,"dry":true,"region":"eu"}"#),
        ),
        row(
            22,
            "42.0 is 42",
            with_params(r#"{"count":42}"#, &[("Mcp-Param-Count", "42.0")]),
            forwarded(r#"{"count":42}"#),
        ),
        row(22, "no argument, no header", with_params("{}", &[]), forwarded("{}")),
    ]);
    let log = scene.house.log();
    assert!(!log.contains('\u{1b}'), "an escape sequence reached the log");
    assert!(!log.lines().any(|line| line.starts_with("level=ERROR forged")), "a forged line reached the log");
    let calls = scene.upstream.calls().len();
    assert_eq!(scene.house.count("call.intended"), calls, "an intent for every call and no more");
}

#[test]
fn what_is_no_request_is_refused() {
    let scene = Scene::set();
    let call = || String::from_utf8(good().body).unwrap();
    let id = |id: &str| good().edit(r#""id":1"#, &format!(r#""id":{id}"#));
    let version = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","#;
    let capabilities = r#","io.modelcontextprotocol/clientCapabilities":{}"#;
    scene.run(vec![
        row(11, "a batch", good().body(format!("[{}]", call())), invalid_request()),
        row(11, "a batch of two", good().body(format!("[{0},{0}]", call())), invalid_request()),
        row(11, "an empty batch", good().body("[]"), invalid_request()),
        row(11, "a nested batch", good().body(format!("[[{}]]", call())), invalid_request()),
        row(11, "a string", good().body(r#""tools/call""#), invalid_request()),
        row(
            12,
            "a response",
            good().body(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#),
            Expect::Rpc(&[400], &[REQUEST, HEADER]),
        ),
        row(
            12,
            "a request that is also a response",
            good().edit(r#""id":1,"#, r#""id":1,"result":{},"#),
            invalid_request(),
        ),
        row(12, "a call without id", good().edit(r#""id":1,"#, ""), invalid_request()),
        row(13, "id null", id("null"), invalid_request()),
        row(13, "id 1.5", id("1.5"), invalid_request()),
        row(13, "id true", id("true"), invalid_request()),
        row(13, "id an object", id("{}"), invalid_request()),
        row(13, "id an array", id("[1]"), invalid_request()),
        row(13, "id of 100 KB", id(&format!("\"{}\"", "x".repeat(100_000))), invalid_request()),
        row(14, "no jsonrpc", good().edit(r#""jsonrpc":"2.0","#, ""), invalid_request()),
        row(14, "jsonrpc 1.0", good().edit(r#""2.0""#, r#""1.0""#), invalid_request()),
        row(14, "jsonrpc a number", good().edit(r#""jsonrpc":"2.0""#, r#""jsonrpc":2.0"#), invalid_request()),
        row(14, "method a number", good().edit(r#""method":"tools/call""#, r#""method":7"#), invalid_request()),
        row(14, "no method", good().edit(r#""method":"tools/call","#, ""), invalid_request()),
        row(
            14,
            "params an array",
            good().body(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}"#),
            Expect::Rpc(&[400], &[REQUEST, PARAMS]),
        ),
        row(
            14,
            "no params",
            good().body(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#),
            Expect::Rpc(&[400], &[REQUEST, PARAMS]),
        ),
        row(
            14,
            "name a number",
            good().edit(r#""name":"up__echo""#, r#""name":7"#),
            Expect::Rpc(&[400], &[PARAMS, HEADER]),
        ),
        row(14, "no name", good().edit(r#""name":"up__echo","#, ""), Expect::Rpc(&[400], &[PARAMS, HEADER])),
        row(
            15,
            "an unknown method",
            Request::envelope(
                "tools/cail",
                None,
                &format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/cail","params":{{"_meta":{META}}}}}"#),
            ),
            Expect::Rpc(&[404], &[METHOD]),
        ),
        row(15, "an unknown tool", Request::call("up__none", "{}"), Expect::Rpc(&[200, 400], &[PARAMS])),
        row(15, "a tool that is not granted", Request::call("up__secret", "{}"), Expect::Rpc(&[200, 400], &[PARAMS])),
        row(
            15,
            "the upstream's own name of a tool",
            Request::call("echo", r#"{"text":"a"}"#),
            Expect::Rpc(&[200, 400], &[PARAMS]),
        ),
        row(16, "no protocol version in _meta", good().edit(version, ""), Expect::Rpc(&[400], &[PARAMS, HEADER])),
        row(16, "no capabilities in _meta", good().edit(capabilities, ""), Expect::Rpc(&[400], &[PARAMS])),
        row(16, "no _meta", good().edit(&format!(r#","_meta":{META}"#), ""), Expect::Rpc(&[400], &[PARAMS])),
    ]);
    let unknown = scene.house.call(&scene.token, "up__nosuch", "{}").last;
    let hidden = scene.house.call(&scene.token, "up__secret", "{}").last;
    assert_eq!(anonymous(&unknown), anonymous(&hidden), "the firewall is an oracle");
    let names = scene.house.tool_names(&scene.token);
    assert!(!names.iter().any(|name| name == "up__secret"), "{names:?}");
}

/// A reply without what differs from call to call.
fn anonymous(reply: &str) -> String {
    let mut text = reply.to_owned();
    while let Some(at) = text.find("call_") {
        let end =
            text[at + 5..].find(|letter: char| !letter.is_ascii_alphanumeric()).map_or(text.len(), |end| at + 5 + end);
        text.replace_range(at..end, "CALL");
    }
    text.replace("up__nosuch", "TOOL").replace("up__secret", "TOOL")
}

fn with_params(arguments: &str, headers: &[(&str, &str)]) -> Request {
    headers.iter().fold(Request::call("up__headers", arguments), |request, (name, value)| request.with(name, value))
}

#[test]
fn headers_and_body_have_to_agree() {
    let scene = Scene::set();
    let name = |value: &str| good().with("Mcp-Name", value);
    scene.run(vec![
        row(19, "no Mcp-Method", good().without("Mcp-Method"), mismatch()),
        row(19, "no Mcp-Name", good().without("Mcp-Name"), mismatch()),
        row(19, "no MCP-Protocol-Version", good().without("MCP-Protocol-Version"), mismatch()),
        row(19, "another method", good().with("Mcp-Method", "tools/list"), mismatch()),
        row(19, "another method, by case", good().with("Mcp-Method", "Tools/Call"), mismatch()),
        row(19, "another name", name("up__bare"), mismatch()),
        row(19, "another name, by case", name("UP__ECHO"), mismatch()),
        row(19, "a tab in the name", name("up__\techo"), Expect::Rpc(&[400], &[HEADER])),
        row(20, "another name in base64", name(&format!("=?base64?{}?=", base64("up__bare"))), mismatch()),
        row(20, "bad base64", name("=?base64?%%%?="), mismatch()),
        row(20, "base64 without its end", name(&format!("=?base64?{}", base64("up__echo"))), mismatch()),
        row(20, "markers of another case", name(&format!("=?BASE64?{}?=", base64("up__echo"))), mismatch()),
        row(
            20,
            "base64 twice",
            name(&format!("=?base64?{}?=", base64(&format!("=?base64?{}?=", base64("up__echo"))))),
            mismatch(),
        ),
        row(20, "base64 of no UTF-8", name("=?base64?/////w==?="), mismatch()),
        row(21, "Mcp-Name twice", good().also("Mcp-Name", "up__echo"), Expect::Rpc(&[400], &[])),
        row(21, "Mcp-Name twice, different", good().also("mcp-name", "up__bare"), Expect::Rpc(&[400], &[])),
        row(21, "Mcp-Method twice", good().also("Mcp-Method", "tools/call"), Expect::Rpc(&[400], &[])),
        row(21, "names joined by comma", name("up__echo, up__bare"), Expect::Rpc(&[400], &[])),
        row(22, "a parameter's header is missing", with_params(r#"{"region":"eu"}"#, &[]), mismatch()),
        row(
            22,
            "a header for a parameter that is not there",
            with_params("{}", &[("Mcp-Param-Region", "eu")]),
            mismatch(),
        ),
        row(22, "another value", with_params(r#"{"region":"eu"}"#, &[("Mcp-Param-Region", "us")]), mismatch()),
        row(22, "another value, by case", with_params(r#"{"region":"eu"}"#, &[("Mcp-Param-Region", "EU")]), mismatch()),
        row(22, "another number", with_params(r#"{"count":42}"#, &[("Mcp-Param-Count", "43")]), mismatch()),
        row(22, "True for true", with_params(r#"{"dry":true}"#, &[("Mcp-Param-Dry", "True")]), mismatch()),
        row(
            22,
            "a header twice",
            with_params(r#"{"region":"eu"}"#, &[("Mcp-Param-Region", "eu")]).also("Mcp-Param-Region", "eu"),
            Expect::Rpc(&[400], &[]),
        ),
        row(24, "an older version in the header", good().with("MCP-Protocol-Version", "2025-11-25"), mismatch()),
        row(
            24,
            "a version in the header that there is not",
            good().with("MCP-Protocol-Version", "1999-01-01"),
            Expect::Rpc(&[400], &[HEADER, VERSION]),
        ),
        row(
            24,
            "a version that there is not, in both",
            good().with("MCP-Protocol-Version", "2099-01-01").edit(r#""2026-07-28""#, r#""2099-01-01""#),
            Expect::Rpc(&[400], &[VERSION]),
        ),
    ]);
}

#[test]
fn bad_http_is_refused() {
    let scene = Scene::set();
    let port = scene.house.mcp.port();
    let head = "POST /mcp HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\n";
    let body = String::from_utf8(good().body).unwrap();
    let length = body.len();
    let smuggled = format!("GET /mcp HTTP/1.1\r\nHost: {{host}}\r\n\r\n{body}");
    let method = |method: &str| {
        let mut request = good();
        request.line = format!("{method} /mcp HTTP/1.1");
        request
    };
    let gzip_bomb: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0xff, 0xff];
    scene.run(vec![
        row(18, "a foreign Origin", good().with("Origin", "https://attacker.test"), Expect::Http(&[403])),
        row(18, "Origin null", good().with("Origin", "null"), Expect::Http(&[403])),
        row(18, "an Origin that only begins like ours", good().with("Origin", "http://127.0.0.1.attacker.test"), Expect::Http(&[403])),
        row(18, "a foreign Host", good().with("Host", "attacker.test"), Expect::Http(&[403, 421])),
        row(18, "a Host that resolves to us", good().with("Host", &format!("127.0.0.1.nip.io:{port}")), Expect::Http(&[403, 421])),
        row(18, "a Host with another port", good().with("Host", "127.0.0.1:1"), Expect::Http(&[403, 421])),
        row(18, "two Hosts", good().with("Host", &format!("127.0.0.1:{port}")).also("Host", "attacker.test"), Expect::Http(&[400, 403, 421])),
        raw(18, "no Host", format!("{}Mcp-Name: up__echo\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}", head.replace("Host: {host}\r\n", "")), Expect::Http(&[400, 403, 421])),
        raw(21, "a folded header", format!("{head}Mcp-Name: up__\r\n echo\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"), Expect::Http(&[400])),
        raw(21, "a bare CR in a header", format!("{head}Mcp-Name: up__\recho\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"), Expect::Http(&[400])),
        raw(21, "NUL in a header", format!("{head}Mcp-Name: up__\0echo\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"), Expect::Http(&[400])),
        row(25, "text/plain", good().with("Content-Type", "text/plain"), Expect::Http(&[415])),
        row(25, "no content type", good().without("Content-Type"), Expect::Http(&[415])),
        row(25, "a form", good().with("Content-Type", "multipart/form-data; boundary=x"), Expect::Http(&[415])),
        row(25, "JSON in UTF-16, it says", good().with("Content-Type", "application/json; charset=utf-16"), Expect::Http(&[415])),
        row(25, "JSON of another kind", good().with("Content-Type", "application/json-seq"), Expect::Http(&[415])),
        row(25, "two content types", good().also("Content-Type", "text/plain"), Expect::Http(&[400, 415])),
        row(25, "gzip", good().with("Content-Encoding", "gzip").body(gzip_bomb), Expect::Http(&[413, 415])),
        row(25, "deflate", good().with("Content-Encoding", "deflate"), Expect::Http(&[413, 415])),
        raw(26, "length and chunks", format!("{head}Mcp-Name: up__echo\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}", smuggled.len() + 5), Expect::Http(&[400])),
        raw(26, "two lengths", format!("{head}Mcp-Name: up__echo\r\nContent-Length: {length}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n{body}"), Expect::Http(&[400])),
        raw(26, "a length with a sign", format!("{head}Mcp-Name: up__echo\r\nContent-Length: +{length}\r\nConnection: close\r\n\r\n{body}"), Expect::Http(&[400])),
        raw(26, "chunked, obfuscated", format!("{head}Mcp-Name: up__echo\r\nTransfer-Encoding: xchunked\r\nConnection: close\r\n\r\n0\r\n\r\n"), Expect::Http(&[400, 411, 501])),
        raw(26, "a chunk size that overflows", format!("{head}Mcp-Name: up__echo\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nfffffffffffffffff\r\n"), Expect::Http(&[400, 413])),
        raw(26, "a space before the colon", format!("{head}Mcp-Name : up__echo\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"), Expect::Http(&[400])),
        row(26, "100 KB of one header", good().with("X-Long", &"x".repeat(100 << 10)), Expect::Http(&[400, 431])),
        row(26, "a thousand headers", (0..1000).fold(good(), |request, at| request.also(&format!("X-{at}"), "1")), Expect::Http(&[400, 431])),
        row(27, "GET", method("GET").body(""), Expect::Http(&[405])),
        row(27, "DELETE", method("DELETE").body(""), Expect::Http(&[405])),
        row(27, "PUT", method("PUT"), Expect::Http(&[405])),
        row(27, "PATCH", method("PATCH"), Expect::Http(&[405])),
        row(27, "another path", { let mut request = good(); request.line = "POST /mcp/../mcp HTTP/1.1".to_owned(); request }, Expect::Http(&[404])),
        row(27, "Last-Event-ID means nothing", good().with("Last-Event-ID", "1"), forwarded(r#"{"text":"hello"}"#)),
        row(27, "a chunked body is a body", { let mut request = good().with("Transfer-Encoding", "chunked"); request.body = format!("{length:x};ext=1\r\n{body}\r\n0\r\n\r\n").into_bytes(); request }, forwarded(r#"{"text":"hello"}"#)),
    ]);
}

#[test]
fn a_body_that_ends_early_executes_nothing() {
    let scene = Scene::set();
    let mut request = good();
    request.length = Some((request.body.len() + 100).to_string());
    let mut stream = wire::connect(scene.house.mcp);
    stream.write_all(&request.bytes(scene.house.mcp, Some(&scene.token))).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = wire::read_answer(&mut stream);
    assert!(matches!(answer.status, 0 | 400 | 408), "{answer:?}");
    assert!(scene.upstream.calls().is_empty());
    assert!(scene.house.call(&scene.token, "up__bare", "{}").is_success());
}

#[test]
fn a_hundred_megabytes_are_refused_without_being_kept() {
    let scene = Scene::set();
    scene.house.call(&scene.token, "up__bare", "{}");
    let before = scene.house.resident();
    let mut request = good();
    let size = 100 << 20;
    request.length = Some(size.to_string());
    request.body = Vec::new();
    for claim in [true, false] {
        let mut stream = wire::connect(scene.house.mcp);
        let request = if claim { request.clone() } else { good().with("Transfer-Encoding", "chunked").body("") };
        stream.write_all(&request.bytes(scene.house.mcp, Some(&scene.token))).unwrap();
        let piece = vec![b' '; 1 << 20];
        for _ in 0..size >> 20 {
            let framed = if claim {
                piece.clone()
            } else {
                [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat()
            };
            if stream.write_all(&framed).is_err() {
                break;
            }
        }
        let answer = wire::read_answer(&mut stream);
        assert!(matches!(answer.status, 413 | 0), "{answer:?}");
    }
    let grown = scene.house.resident().saturating_sub(before);
    assert!(grown < 40 << 20, "resident memory grew by {} MB", grown >> 20);
    assert_eq!(scene.upstream.calls().len(), 1, "only the first call went upstream");
    assert!(scene.house.call(&scene.token, "up__bare", "{}").is_success());
}

#[test]
fn slow_and_idle_connections_do_not_keep_others_out() {
    let scene = Scene::set();
    let slow: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = wire::connect(scene.house.mcp);
            stream.write_all(b"POST /mcp HTTP/1.1\r\nHost: ").unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    assert!(scene.house.call(&scene.token, "up__bare", "{}").is_success());
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    drop(slow);
}

#[test]
fn the_next_request_of_a_connection_is_read_from_its_start() {
    let scene = Scene::set();
    let keep = |request: Request| request.with("Connection", "keep-alive").bytes(scene.house.mcp, Some(&scene.token));
    let mut stream = wire::connect(scene.house.mcp);
    for round in 0..3 {
        stream.write_all(&keep(good().edit("hello", &format!("round {round}")))).unwrap();
        assert!(wire::read_answer(&mut stream).is_success());
        stream.write_all(&keep(good().with("Mcp-Name", "up__bare"))).unwrap();
        assert_eq!(wire::read_answer(&mut stream).code(), Some(HEADER));
    }
    assert_eq!(scene.upstream.calls().len(), 3);
}

#[test]
fn only_a_good_token_opens_the_door() {
    let scene = Scene::set();
    let token = scene.token.clone();
    let (head, rest) = token.split_once('.').unwrap();
    let (claims, signature) = rest.split_once('.').unwrap();
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let decoded: Value = serde_json::from_slice(&url.decode(claims).unwrap()).unwrap();
    let with_claims = |edit: &dyn Fn(&mut Value)| {
        let mut claims = decoded.clone();
        edit(&mut claims);
        format!("{head}.{}.{signature}", url.encode(claims.to_string()))
    };
    let none = url.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let hs256 = url.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let flipped = {
        let mut signature = url.decode(signature).unwrap();
        signature[10] ^= 1;
        format!("{head}.{claims}.{}", url.encode(signature))
    };
    let expired = scene.house.token("tester", &["--ttl", "1s"]);
    let revoked = scene.house.token("gone", &[]);
    scene.house.done(&["agent", "revoke", "gone"]);
    let bearers: Vec<(&str, Option<String>)> = vec![
        ("no token", None),
        ("an empty one", Some(String::new())),
        ("garbage", Some("garbage".to_owned())),
        ("alg none", Some(format!("{none}.{claims}."))),
        ("alg none, with the signature", Some(format!("{none}.{claims}.{signature}"))),
        ("HS256 with the public key", Some(format!("{hs256}.{claims}.{signature}"))),
        ("a flipped bit", Some(flipped)),
        ("another audience", Some(with_claims(&|claims| claims["aud"] = json!("https://elsewhere.test/mcp")))),
        ("another agent", Some(with_claims(&|claims| claims["sub"] = json!("admin")))),
        ("a longer life", Some(with_claims(&|claims| claims["exp"] = json!(9_999_999_999_u64)))),
        ("a revoked one", Some(revoked)),
        ("100 KB", Some("x".repeat(100 << 10))),
    ];
    let mut wrong = Vec::new();
    for (name, bearer) in &bearers {
        let answer = good().send(scene.house.mcp, bearer.as_deref());
        let challenged = answer.header("www-authenticate").is_some_and(|value| value.contains("resource_metadata"));
        if !(answer.status == 401 && challenged || *name == "100 KB" && matches!(answer.status, 400 | 431)) {
            wrong.push(format!("{name}: {} {:?}", answer.status, answer.headers));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while good().send(scene.house.mcp, Some(&expired)).status != 401 {
        assert!(Instant::now() < deadline, "an expired token is still good");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut in_query = good();
    in_query.line = format!("POST /mcp?access_token={token} HTTP/1.1");
    if in_query.send(scene.house.mcp, None).status != 401 {
        wrong.push("a token in the query string".to_owned());
    }
    let twice = good().with("Authorization", &format!("Bearer {token}")).also("Authorization", "Bearer x");
    if !matches!(twice.send(scene.house.mcp, None).status, 400 | 401) {
        wrong.push("two Authorization headers".to_owned());
    }
    let basic = good().with("Authorization", &format!("Basic {token}"));
    if basic.send(scene.house.mcp, None).status != 401 {
        wrong.push("another scheme".to_owned());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(scene.house.call(&token, "up__bare", "{}").is_success());
    for seen in scene.upstream.seen() {
        assert!(!seen.headers.contains_key("authorization"), "an agent's token went upstream");
        assert!(!String::from_utf8_lossy(&seen.body).contains(signature));
    }
    assert!(!scene.house.log().contains(signature), "a token is in the log");
    let metadata =
        Request { line: "GET /.well-known/oauth-protected-resource/mcp HTTP/1.1".to_owned(), ..good().body("") };
    let metadata = metadata.send(scene.house.mcp, None);
    assert_eq!(metadata.status, 200, "{metadata:?}");
    assert!(metadata.messages[0]["resource"].as_str().unwrap().ends_with("/mcp"), "{metadata:?}");
}

/// Tokens that are signed as they should be, and say what they should not.
#[test]
fn a_good_signature_is_not_enough() {
    let scene = Scene::set();
    let claims = scene.token.split('.').nth(1).unwrap();
    let good: Value =
        serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    let typ = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(scene.token.split('.').next().unwrap()).unwrap();
    let typ = serde_json::from_slice::<Value>(&typ).unwrap()["typ"].as_str().map(str::to_owned);
    let pkcs8 = std::fs::read(scene.house.data().join("token.key")).unwrap();
    let public =
        aws_lc_rs::signature::KeyPair::public_key(&aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap())
            .as_ref()
            .to_vec();
    let sign = |typ: Option<&str>, edit: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        edit(&mut claims);
        let header = jsonwebtoken::Header {
            typ: typ.map(str::to_owned),
            ..jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA)
        };
        jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_ed_der(&pkcs8)).unwrap()
    };
    let own = typ.as_deref();
    let status = |token: &str| good_call().send(scene.house.mcp, Some(token)).status;
    assert_eq!(status(&sign(own, &|_| {})), 200, "the token itself, signed again");
    let now = good["iat"].as_i64().unwrap();
    let mut wrong = Vec::new();
    for (name, token) in [
        ("another audience", sign(own, &|claims| claims["aud"] = json!("http://127.0.0.1:1/mcp"))),
        ("no audience", sign(own, &|claims| drop(claims.as_object_mut().unwrap().remove("aud")))),
        ("another issuer", sign(own, &|claims| claims["iss"] = json!("https://elsewhere.test"))),
        ("another agent", sign(own, &|claims| claims["sub"] = json!("admin"))),
        ("not yet valid", sign(own, &|claims| claims["iat"] = json!(now + 600))),
        ("expired", sign(own, &|claims| claims["exp"] = json!(now - 1))),
        ("no end", sign(own, &|claims| drop(claims.as_object_mut().unwrap().remove("exp")))),
        ("an id that was never issued", sign(own, &|claims| claims["jti"] = json!("tok_01ARZ3NDEKTSV4RRFFQ69G5FAV"))),
        ("another type", sign(Some("JWT"), &|_| {})),
        ("HS256 with the public key", {
            let header = jsonwebtoken::Header { typ: typ.clone(), ..jsonwebtoken::Header::default() };
            jsonwebtoken::encode(&header, &good, &jsonwebtoken::EncodingKey::from_secret(&public)).unwrap()
        }),
    ] {
        if status(&token) != 401 {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "let in: {wrong:?}");
    assert_eq!(scene.upstream.calls().len(), 1);
}

/// Lines 40 to 42, as far as they are about a round trip that an upstream began.
#[test]
fn a_round_trip_answers_what_was_asked_and_nothing_else() {
    let grants = "@id(\"tester\")\npermit (principal, action in Action::\"call\", resource);\n\
                  @id(\"asked\")\npermit (principal, action == Action::\"elicitation_create\", resource);\n";
    let upstream = Recorder::usual();
    let house = House::open(&http_upstream("up", &upstream.url(), ""), grants);
    let (token, other) = (house.token("tester", &[]), house.token("other", &[]));
    let call = |token: &str, wanted: &str, more: &str| {
        let request = Request::call("up__asks", &format!(r#"{{"for":"{wanted}"}}"#))
            .edit(r#"clientCapabilities":{}"#, r#"clientCapabilities":{"elicitation":{"form":{}}}"#)
            .edit(r#""_meta":"#, &format!(r#"{more}"_meta":"#));
        request.send(house.mcp, Some(token))
    };
    let asked = call(&token, "city", "").response();
    assert_eq!(asked["result"]["resultType"], "input_required", "{asked}");
    let state = asked["result"]["requestState"].as_str().unwrap().to_owned();
    assert_ne!(state, "own", "the upstream's state is not shown");
    let answers = r#"{"first":{"action":"accept","content":{"city":"Bern"}},"never-asked":{"x":1}}"#;
    let with = |state: &str| format!(r#""inputResponses":{answers},"requestState":"{state}","#);
    let calls = upstream.calls().len();
    let middle = state.len() / 2;
    let flipped = {
        let mut bytes = state.clone().into_bytes();
        bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
        String::from_utf8(bytes).unwrap()
    };
    let refusals = [
        call(&token, "city", &with(&flipped)),
        call(&other, "city", &with(&state)),
        call(&token, "town", &with(&state)),
        call(&token, "city", &with("own")),
        call(&token, "city", &with("")),
    ];
    for answer in &refusals {
        assert_eq!((answer.status, answer.code()), (400, Some(PARAMS)), "{answer:?}");
        assert_eq!(answer.last, refusals[0].last, "one text for every failure");
    }
    assert_eq!(upstream.calls().len(), calls);
    let done = call(&token, "city", &with(&state));
    let text = done.response()["result"]["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        serde_json::from_str::<Value>(&text).unwrap(),
        json!({"first": {"action": "accept", "content": {"city": "Bern"}}})
    );

    // an answer that comes before any question answers nothing
    let early = call(&token, "city", &format!(r#""inputResponses":{answers},"#));
    assert_eq!(early.response()["result"]["resultType"], "input_required", "{early:?}");
    assert!(upstream.calls().last().unwrap().json()["params"].get("inputResponses").is_none());

    for credential in ["password", "API-Key", "access_token"] {
        let answer = call(&token, credential, "");
        assert!(answer.response()["result"].get("inputRequests").is_none(), "{credential}: {answer:?}");
        assert!(!answer.is_success(), "{credential}: {answer:?}");
    }
}

#[test]
fn arguments_that_do_not_fit_the_contract_are_refused() {
    let scene = Scene::set();
    let refused = || Expect::Refused("arguments_invalid");
    let bad = |name, arguments: &str| row(30, name, echo(arguments), refused());
    scene.run(vec![
        bad("an undeclared argument", r#"{"text":"a","extra":1}"#),
        bad("an undeclared argument, nested", r#"{"text":"a","inner":{"b":1}}"#),
        bad("a wrong type", r#"{"text":7}"#),
        bad("an array for a string", r#"{"text":["a"]}"#),
        bad("null for what is required", r#"{"text":null}"#),
        bad("nothing for what is required", "{}"),
        bad("an argument by case", r#"{"Text":"a"}"#),
        bad("an enum by case", r#"{"text":"a","color":"Red"}"#),
        bad("a number as a string", r#"{"text":"a","n":"1"}"#),
        bad("a fraction for an integer", r#"{"text":"a","n":1.5}"#),
        bad("a number for a boolean", r#"{"text":"a","flag":1}"#),
        row(39, "a string over its limit", Request::call("up__short", r#"{"text":"0123456789abcdefg"}"#), refused()),
        row(39, "a number over its limit", Request::call("up__short", r#"{"n":11}"#), refused()),
        row(39, "items over their limit", echo(r#"{"list":[1,2,3,4,5],"text":"a"}"#), refused()),
    ]);
}

#[test]
fn a_hostile_pattern_costs_nothing() {
    let scene = Scene::set();
    let text = format!("{}!", "a".repeat(50_000));
    let started = Instant::now();
    let answer = scene.house.call(&scene.token, "up__redos", &format!(r#"{{"text":"{text}"}}"#));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(!answer.is_success());
    assert!(scene.upstream.calls().is_empty());
}

#[test]
fn a_tool_that_nothing_bounds_is_not_offered_and_the_others_are() {
    let mut offered = recorder::unboundable_tools();
    let names: Vec<String> = offered.iter().map(|tool| format!("up__{}", tool["name"].as_str().unwrap())).collect();
    offered.extend(recorder::tools());
    let upstream = Recorder::start(offered);
    let mut house = House::new(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    // some of them cannot be registered, which is told and stops no other
    let _told = house.run(&["tool", "register"]);
    house.serve();
    let token = house.token("tester", &[]);
    let listed = house.tool_names(&token);
    for name in names {
        assert!(!listed.contains(&name), "`{name}` is offered");
        assert_eq!(house.call(&token, &name, "{}").code().or(Some(PARAMS)), Some(PARAMS), "{name}");
    }
    assert!(upstream.calls().is_empty());
    assert!(house.call(&token, "up__echo", r#"{"text":"a"}"#).is_success(), "{listed:?}");
}

#[test]
fn an_upstream_that_misbehaves_is_reported_and_harms_nobody_else() {
    let bad = Recorder::usual();
    let fine = Recorder::usual();
    let upstreams =
        http_upstream("bad", &bad.url(), "timeout = \"2s\"") + &http_upstream("fine", &fine.url(), "timeout = \"10s\"");
    let house = House::open(&upstreams, EVERYTHING);
    let token = house.token("tester", &[]);
    let before = {
        house.call(&token, "fine__bare", "{}");
        house.resident()
    };
    let mut wrong = Vec::new();
    for (line, tool, settled) in [
        (45, "other_id", "unknown"),
        (45, "two_results", "unknown"),
        (45, "garbage", "unknown"),
        (45, "huge", "unknown"),
        (45, "never_ends", "unknown"),
        (45, "never_answers", "unknown"),
        (45, "dies", "unknown"),
        (45, "wrong_type", "unknown"),
        (45, "structured", "unknown"),
        (46, "escapes", "upstream_error"),
        // nothing was carried out there, and nobody went to the other place
        (47, "redirects", "upstream_error"),
    ] {
        let from = house.entries().len();
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| house.call(&token, &format!("bad__{tool}"), "{}"));
            // others are served meanwhile
            if !house.call(&token, "fine__bare", "{}").is_success() {
                wrong.push(format!("line {line} `{tool}`: another upstream's call failed meanwhile"));
            }
            call.join().unwrap()
        });
        if answer.status == 0 || answer.is_success() || answer.response().is_null() {
            wrong.push(format!("line {line} `{tool}`: the agent is not told: {} {}", answer.status, answer.last));
        }
        let outcome = house.settled(&format!("bad__{tool}"), from);
        if outcome.pointer("/entry/outcome").and_then(Value::as_str) != Some(settled) {
            wrong.push(format!("line {line} `{tool}`: it is not settled as `{settled}`: {outcome}"));
        }
        // its circuit breaker may be open now: wait until it takes calls again
        let deadline = Instant::now() + Duration::from_secs(60);
        while !house.call(&token, "bad__bare", "{}").is_success() {
            if Instant::now() > deadline {
                wrong.push(format!("line {line} `{tool}`: the upstream never comes back"));
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let grown = house.resident().saturating_sub(before);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(grown < 96 << 20, "resident memory grew by {} MB", grown >> 20);
    let log = house.log();
    assert!(
        !log.contains('\u{1b}') && !log.contains("\nlevel=ERROR forged"),
        "upstream text reached the log unescaped"
    );
}

#[test]
fn a_child_that_misbehaves_is_reported_and_harms_nobody_else() {
    let fine = Recorder::usual();
    let script = "[upstreams.bad]\ncommand = [\"sh\", \"bad.sh\"]\ntimeout = \"2s\"\n\n".to_owned();
    let mut house = House::new(&(script + &http_upstream("fine", &fine.url(), "")), EVERYTHING);
    std::fs::write(house.path().join("bad.sh"), BAD_CHILD).unwrap();
    house.register();
    house.serve();
    let token = house.token("tester", &[]);
    assert!(house.call(&token, "bad__fine", "{}").is_success());
    let before = house.resident();
    let mut wrong = Vec::new();
    for tool in ["other_id", "garbage", "dies", "never_answers", "huge", "half", "noise"] {
        let answer = std::thread::scope(|scope| {
            let call = scope.spawn(|| house.call(&token, &format!("bad__{tool}"), "{}"));
            if !house.call(&token, "fine__bare", "{}").is_success() {
                wrong.push(format!("`{tool}`: another upstream's call failed meanwhile"));
            }
            call.join().unwrap()
        });
        // a line that is no JSON-RPC is not an answer, so after `noise` the answer still arrives
        if answer.is_success() != (tool == "noise") {
            wrong.push(format!("`{tool}`: {} {}", answer.status, answer.last));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while !house.call(&token, "bad__fine", "{}").is_success() {
            if Instant::now() > deadline {
                wrong.push(format!("`{tool}`: the child never comes back"));
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    let grown = house.resident().saturating_sub(before);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(grown < 96 << 20, "resident memory grew by {} MB", grown >> 20);
    house.stop();
    let left = std::process::Command::new("sh")
        .args([
            "-c",
            &format!(
                "grep -l {} /proc/[0-9]*/cwd 2>/dev/null; ls -l /proc/[0-9]*/cwd 2>/dev/null | grep -c {}",
                house.path().display(),
                house.path().display()
            ),
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "0", "a child outlived the server");
}

/// A legacy stdio server in sh. The tools do what their names say.
const BAD_CHILD: &str = r#"
field() { printf '%s' "$line" | sed -n "s/.*\"$1\":\(\"[^\"]*\"\|[0-9]*\).*/\1/p"; }
reply() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$1" "$2"; }
tool() { printf '{"name":"%s","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}}' "$1"; }
while IFS= read -r line; do
  id=$(field id)
  [ -n "$id" ] || continue
  case "$line" in
    *'"method":"initialize"'*)
      reply "$id" '{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"bad","version":"1"}}' ;;
    *'"method":"tools/list"'*)
      tools=$(tool fine)
      for name in other_id garbage dies never_answers huge half noise; do tools="$tools,$(tool $name)"; done
      reply "$id" "{\"tools\":[$tools]}" ;;
    *'"method":"tools/call"'*)
      case "$line" in
        *'"other_id"'*) reply '"somebody-else"' '{"content":[]}' ;;
        *'"garbage"'*) head -c 1000 /dev/urandom; echo; exit 3 ;;
        *'"dies"'*) exit 1 ;;
        *'"never_answers"'*) : ;;
        *'"huge"'*) head -c 1073741824 /dev/zero | tr '\0' 'x'; echo ;;
        *'"half"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"con' "$id"; exit 0 ;;
        *'"noise"'*) echo 'starting up ...'; reply "$id" '{"content":[]}' ;;
        *) reply "$id" '{"content":[{"type":"text","text":"fine"}]}' ;;
      esac ;;
    *'"method":"ping"'*) reply "$id" '{}' ;;
    *) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"method not found"}}\n' "$id" ;;
  esac
done
"#;

#[test]
fn ids_under_way_are_not_reused() {
    let scene = Scene::set();
    let hang = || Request::call("up__never_answers", "{}").with("Connection", "keep-alive");
    let mut first = wire::connect(scene.house.mcp);
    first.write_all(&hang().bytes(scene.house.mcp, Some(&scene.token))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while scene.upstream.calls().is_empty() {
        assert!(Instant::now() < deadline, "the first call does not arrive");
        std::thread::sleep(Duration::from_millis(10));
    }
    // over stateless HTTP each request has a stream of its own, so the same id elsewhere cannot be confused with it
    assert!(good().send(scene.house.mcp, Some(&scene.token)).is_success());
    let mut rest = [0; 1];
    first.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(first.read(&mut rest).is_err(), "the call under way was answered by another's answer");
}

fn utf16(text: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(text).encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Lines 36 and 37: where a place has to stay inside, the contract's own schema says which spellings there are.
/// What a symbolic link or a name server makes of a good spelling is the tool server's affair.
#[test]
fn a_place_is_inside_in_one_spelling_only() {
    let upstream = Recorder::usual();
    let mut house = House::new(&http_upstream("up", &upstream.url(), ""), EVERYTHING);
    house.register();
    let file = house.path().join("schemas/up/write.json");
    let mut contract: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let path = r"^/srv/project(/[A-Za-z0-9_-][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*)+$";
    let address = r"^https://api\.example\.com(/[A-Za-z0-9_-]+)*$";
    contract["arguments"] = json!({
        "type": "object",
        "properties": {"text": {"type": "string", "anyOf": [{"pattern": path}, {"pattern": address}]}},
        "required": ["text"]
    });
    std::fs::write(&file, contract.to_string()).unwrap();
    house.serve();
    let token = house.token("tester", &[]);
    let call = |text: &str| house.call(&token, "up__write", &json!({"text": text}).to_string());
    for inside in
        ["/srv/project/a", "/srv/project/a-b/c_d.tar.gz", "https://api.example.com", "https://api.example.com/v1"]
    {
        assert!(call(inside).is_success(), "{inside}");
    }
    let before = upstream.calls().len();
    let mut wrong = Vec::new();
    for outside in [
        "/srv/project/../etc/passwd",
        "/srv/project/a/../../etc",
        "/srv/project/%2e%2e/etc",
        "/srv/project/%252e%252e/etc",
        "/srv/project//etc",
        "/srv/project\\..\\etc",
        "/srv/project/a\0.txt",
        "/SRV/project/a",
        "/srv/project/a.",
        "/srv/project/a\n",
        "file:///srv/project/a",
        "/srv/project/\u{2024}\u{2024}/etc",
        "/srv/project/\u{ff0e}\u{ff0e}/etc",
        "/srv/projects/a",
        "/srv/project",
        "https://api.ex\u{430}mple.com/v1",
        "https://api.example.com@attacker.test/",
        "https://attacker.test/https://api.example.com",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://[::ffff:127.0.0.1]/",
        "https://api.example.com./v1",
        "https://api.example.com#@attacker.test",
        "https://api.example.com\\@attacker.test",
        "https://api.example.com.attacker.test/",
        "http://api.example.com/v1",
        "HTTPS://api.example.com/v1",
    ] {
        if call(outside).reason().as_deref() != Some("arguments_invalid") {
            wrong.push(outside);
        }
    }
    assert!(wrong.is_empty(), "taken for inside: {wrong:?}");
    assert_eq!(upstream.calls().len(), before);
}
