//! `call`: a small MCP client (2026-07-28, streamable HTTP) for trying things.

use std::{io::IsTerminal as _, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    CallArgs, Place, control,
    outcome::{Exit, Failure},
    request::Request,
    show,
};
use crate::{
    display::visible,
    json::{Limits, parse},
};

const VERSION: &str = "2026-07-28";
/// How often a call that has to wait is asked for again.
const ROUNDS: usize = 10;
/// How long a token for one call lives.
const TOKEN: Duration = Duration::from_secs(600);
/// How long a call may be quiet before it is said that it waits.
const QUIET: Duration = Duration::from_secs(3);
/// The longest answer that is read.
const LONGEST: usize = 32 << 20;

pub(super) async fn call(place: &Place, args: CallArgs) -> Result<Exit, Failure> {
    let arguments = parse(args.arguments.as_bytes(), &Limits::REQUEST).map_err(|error| {
        let problem = format!("the arguments are no JSON that is let in, at byte {}: {:?}", error.at, error.kind);
        Failure::new(Exit::Cannot, problem).hint("write them as one JSON object in single quotes")
    })?;
    let url = match &args.url {
        Some(url) => url.clone(),
        None => running_endpoint(place).await?,
    };
    let token = match (args.token, args.agent) {
        (Some(token), _) => token,
        (None, Some(agent)) => short_token(place, agent).await?,
        (None, None) => {
            return Err(Failure::new(Exit::Cannot, "there is no token")
                .hint("give `--agent NAME`, `--token`, or set COUNTERSIGN_TOKEN"));
        }
    };
    let client = Client::new(&url, &token)?;
    let result = tokio::select! {
        biased;
        result = client.call(&args.tool, arguments.to_bytes()) => result?,
        never = say_that_it_waits(place) => never,
    };
    let failed = result.get("isError").and_then(Value::as_bool) == Some(true);
    place.answer(&result, text);
    Ok(if failed { Exit::No } else { Exit::Done })
}

/// Tells a person in front of a terminal why nothing happens.
async fn say_that_it_waits(place: &Place) -> Value {
    tokio::time::sleep(QUIET).await;
    if !place.json && std::io::stderr().is_terminal() {
        eprintln!("no answer yet; `countersign hold list` shows whether the call waits for a person");
    }
    std::future::pending().await
}

/// Where the running server says that agents reach it; without one, where the configuration says.
async fn running_endpoint(place: &Place) -> Result<String, Failure> {
    let config = place.config()?;
    let Some(mut server) = control::connect(&config).await? else { return Ok(config.endpoint()) };
    let status = server.ask(&Request::Status).await?;
    status.get("mcp").and_then(Value::as_str).map(str::to_owned).ok_or_else(|| {
        Failure::new(Exit::Unreachable, "the server that runs here speaks on standard input and output only")
            .hint("end the agents that run it, then `countersign serve`")
    })
}

async fn short_token(place: &Place, agent: String) -> Result<String, Failure> {
    let config = place.config()?;
    let Some(mut server) = control::connect(&config).await? else { return Err(super::request::no_server()) };
    // as long as the rounds of a call that a person is asked about
    let ttl_s = TOKEN.min(config.identity.max_ttl).as_secs().max(1);
    let request = Request::IssueToken { agent, ttl_s, task: None, user: None };
    let answer = server.ask(&request).await?;
    Ok(show::field(&answer, "token").to_owned())
}

struct Client {
    http: reqwest::Client,
    url: reqwest::Url,
    token: String,
}

/// What came back to one request.
enum Answer {
    Result(Value),
    Error(Value),
}

impl Client {
    fn new(url: &str, token: &str) -> Result<Self, Failure> {
        let url =
            reqwest::Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
                Failure::new(Exit::Cannot, "that is no URL").hint("write it as `http://127.0.0.1:7400/mcp`")
            })?;
        let mut http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(120));
        let local = url.host_str().is_some_and(|host| {
            let host = host.trim_matches(['[', ']']);
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
        });
        if local {
            http = http.no_proxy();
        }
        let http = http.build().map_err(|error| Failure::new(Exit::Fault, without_url(error)))?;
        Ok(Self { http, url, token: token.to_owned() })
    }

    /// Calls a tool; one that has to wait is asked for again, as any client of this revision does.
    async fn call(&self, tool: &str, arguments: Vec<u8>) -> Result<Value, Failure> {
        // the arguments go out as they were written, not by way of another reading of their numbers
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        let mut state: Option<String> = None;
        let mut headers: Vec<(String, String)> = Vec::new();
        for round in 0..ROUNDS {
            let name = Value::from(tool);
            let state_member = state
                .as_ref()
                .map(|state| format!(",\"requestState\":{}", Value::from(state.as_str())))
                .unwrap_or_default();
            let params = format!("{{\"name\":{name},\"arguments\":{arguments}{state_member},\"_meta\":{}}}", meta());
            match self.ask("tools/call", Some(tool), &params, &headers).await? {
                Answer::Result(result) if show::field(&result, "resultType") == "input_required" => {
                    let next = result.get("requestState").and_then(Value::as_str).map(str::to_owned);
                    if next.is_none() || result.get("inputRequests").is_some_and(|asked| !asked.is_null()) {
                        let problem = "the call needs input that this client cannot give";
                        return Err(Failure::new(Exit::No, problem));
                    }
                    state = next;
                }
                Answer::Result(result) => return Ok(result),
                // the tool wants arguments repeated in headers: which, its definition says
                Answer::Error(error) if code(&error) == -32020 && headers.is_empty() && round == 0 => {
                    headers = self.parameter_headers(tool, &arguments).await?;
                    if headers.is_empty() {
                        return Err(refused(&error));
                    }
                }
                Answer::Error(error) => return Err(refused(&error)),
            }
        }
        Err(Failure::new(Exit::No, format!("the call still waits after {ROUNDS} rounds")).hint("try again later"))
    }

    /// `Mcp-Param-*` for every argument that the tool's schema marks with `x-mcp-header` (MCP 2026-07-28, streamable HTTP).
    async fn parameter_headers(&self, tool: &str, arguments: &str) -> Result<Vec<(String, String)>, Failure> {
        let arguments: Value = serde_json::from_str(arguments).unwrap_or_default();
        let mut cursor: Option<String> = None;
        for _ in 0..100 {
            let cursor_member = cursor
                .as_ref()
                .map(|cursor| format!("\"cursor\":{},", Value::from(cursor.as_str())))
                .unwrap_or_default();
            let params = format!("{{{cursor_member}\"_meta\":{}}}", meta());
            let page = match self.ask("tools/list", None, &params, &[]).await? {
                Answer::Result(page) => page,
                Answer::Error(error) => return Err(refused(&error)),
            };
            if let Some(found) = show::items(&page, "tools").iter().find(|known| show::field(known, "name") == tool) {
                let mut headers = Vec::new();
                marked(found.get("inputSchema").unwrap_or(&Value::Null), &arguments, 0, &mut headers);
                return Ok(headers);
            }
            cursor = page.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok(Vec::new())
    }

    async fn ask(
        &self,
        method: &str,
        name: Option<&str>,
        params: &str,
        headers: &[(String, String)],
    ) -> Result<Answer, Failure> {
        let body = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{method}\",\"params\":{params}}}");
        let mut request = self
            .http
            .post(self.url.clone())
            .bearer_auth(&self.token)
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream")
            .header("MCP-Protocol-Version", VERSION)
            .header("Mcp-Method", method)
            .body(body);
        if let Some(name) = name {
            request = request.header("Mcp-Name", in_header(name));
        }
        for (name, value) in headers {
            request = request.header(name, in_header(value));
        }
        let unreached = |error: reqwest::Error| {
            Failure::new(Exit::Unreachable, format!("the server cannot be reached: {}", without_url(error)))
                .hint("start one with `countersign serve`, or give `--url`")
        };
        let mut response = request.send().await.map_err(unreached)?;
        let status = response.status();
        let stream = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
        let stream = stream.is_some_and(|kind| kind.starts_with("text/event-stream"));
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreached)? {
            text.extend_from_slice(&chunk);
            if text.len() > LONGEST {
                return Err(Failure::new(Exit::No, "the answer is longer than 32 MiB"));
            }
            // a stream may stay open behind the answer
            if stream && let Some(answer) = events(&text).find_map(|event| answered(&event)) {
                return Ok(answer);
            }
        }
        if status == reqwest::StatusCode::UNAUTHORIZED {
            return Err(unauthenticated(&serde_json::from_slice(&text).unwrap_or_default()));
        }
        let answer = if stream {
            events(&text).find_map(|event| answered(&event))
        } else {
            serde_json::from_slice(&text).ok().and_then(|message: Value| answered(&message))
        };
        answer.ok_or_else(|| Failure::new(Exit::No, format!("the server answered {status} and no result")))
    }
}

fn meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "countersign", "version": env!("CARGO_PKG_VERSION")},
    })
}

/// The messages of a stream of server-sent events that are whole so far.
fn events(text: &[u8]) -> impl Iterator<Item = Value> {
    let text = String::from_utf8_lossy(text).replace("\r\n", "\n");
    let whole = text.rfind("\n\n").and_then(|end| text.get(..end)).unwrap_or_default().to_owned();
    let events: Vec<Value> = whole
        .split("\n\n")
        .filter_map(|event| {
            let data: Vec<&str> =
                event.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
            serde_json::from_str(&data.join("\n")).ok()
        })
        .collect();
    events.into_iter()
}

/// The answer to our one request, if the message is one.
fn answered(message: &Value) -> Option<Answer> {
    if let Some(error) = message.get("error") {
        return Some(Answer::Error(error.clone()));
    }
    let ours = message.get("id").and_then(Value::as_u64) == Some(1);
    message.get("result").filter(|_| ours).map(|result| Answer::Result(result.clone()))
}

/// Collects header and value for every argument that a schema marks.
fn marked(schema: &Value, arguments: &Value, depth: usize, headers: &mut Vec<(String, String)>) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flat_map(Map::iter).filter(|_| depth < 32) {
        let Some(argument) = arguments.get(name) else { continue };
        let value = match argument {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            _ => None,
        };
        if let (Some(header), Some(value)) = (property.get("x-mcp-header").and_then(Value::as_str), value) {
            headers.push((format!("Mcp-Param-{header}"), value));
        }
        marked(property, argument, depth + 1, headers);
    }
}

/// A value as an HTTP header carries it: as it is, or in the base64 form of MCP 2026-07-28 where a header could not.
fn in_header(value: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let plain = value.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        && value.trim() == value
        && !(value.starts_with("=?base64?") && value.ends_with("?="));
    if plain { value.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(value)) }
}

fn code(error: &Value) -> i64 {
    error.get("code").and_then(Value::as_i64).unwrap_or_default()
}

/// The body of a 401 is no JSON-RPC: its `error` is the reason code.
fn unauthenticated(body: &Value) -> Failure {
    let problem = match show::field(body, "error") {
        "" => "the token is not accepted".to_owned(),
        reason => format!("the token is not accepted ({})", visible(reason)),
    };
    Failure::new(Exit::No, problem).hint("get one with `countersign agent token NAME`")
}

fn refused(error: &Value) -> Failure {
    let failure = Failure::new(Exit::No, format!("{} ({})", visible(show::field(error, "message")), code(error)));
    match code(error) {
        -32602 => failure.hint("`countersign grant explain` says what an agent may call, and with what"),
        _ => failure,
    }
}

/// A transport error as text; the URL, which may hold a secret, is left out.
fn without_url(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text = next.to_string();
        cause = next.source();
    }
    text
}

/// The texts of a result; what is no text is named.
fn text(result: &Value) -> String {
    let mut lines = Vec::new();
    for block in show::items(result, "content") {
        match show::field(block, "type") {
            "text" => lines.extend(show::field(block, "text").lines().map(visible)),
            other => lines.push(format!("[{}]", visible(other))),
        }
    }
    if let Some(decision) = result.pointer("/_meta/countersign~1decision") {
        lines.push(format!(
            "{} ({})",
            visible(show::field(decision, "outcome")),
            visible(show::field(decision, "reason"))
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_gives_the_answer_among_its_events() {
        let text = b"event: message\r\ndata: {\"method\":\"notifications/progress\"}\r\n\r\n: ping\n\ndata: {\"id\":1,\ndata: \
                     \"result\":{\"a\":1}}\n\ndata: {\"id\":1,\"resu";
        let found: Vec<Answer> = events(text).filter_map(|event| answered(&event)).collect();
        let [Answer::Result(result)] = &found[..] else { panic!("not one answer") };
        assert_eq!(result, &json!({"a": 1}));
        assert_eq!(events(b"data: {").count(), 0);
    }

    #[test]
    fn marked_arguments_go_into_headers() {
        let schema = json!({"properties": {"region": {"x-mcp-header": "Region"}, "n": {"x-mcp-header": "N"},
            "deep": {"properties": {"b": {"x-mcp-header": "B"}}}, "gone": {"x-mcp-header": "Gone"}}});
        let mut headers = Vec::new();
        marked(&schema, &json!({"region": "eu", "n": 7, "deep": {"b": true}}), 0, &mut headers);
        headers.sort();
        let expected = [("Mcp-Param-B", "true"), ("Mcp-Param-N", "7"), ("Mcp-Param-Region", "eu")];
        assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_header_value_is_plain_or_base64() {
        assert_eq!(in_header("bank__balance"), "bank__balance");
        assert_eq!(in_header("ü"), "=?base64?w7w=?=");
        assert_eq!(in_header(" a"), "=?base64?IGE=?=");
        assert_eq!(in_header("=?base64?x?="), "=?base64?PT9iYXNlNjQ/eD89?=");
    }

    #[test]
    fn a_token_that_is_not_accepted_is_told_with_its_reason() {
        let body = json!({"error": "token_revoked", "error_description": "the token was revoked"});
        assert_eq!(unauthenticated(&body).problem, "the token is not accepted (token_revoked)");
        assert_eq!(unauthenticated(&Value::Null).problem, "the token is not accepted");
    }

    #[test]
    fn a_result_is_told_with_its_decision() {
        let told = text(&json!({"content": [{"type": "text", "text": "no\u{1b}"}, {"type": "image"}],
            "_meta": {"countersign/decision": {"outcome": "refused", "reason": "not_granted"}}}));
        assert_eq!(told, "no<U+001B>\n[image]\nrefused (not_granted)");
    }
}
