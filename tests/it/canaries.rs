//! Canaries: a secret in every place where one can be, a run that uses each and has each fail, and then a search of all
//! that comes out: logs in both forms, answers, pages, the ledger, metrics, notifications, the command line, the
//! arguments of processes.
//!
//! `secrets` has those of calls and of tool servers' children; here are those of who calls, of whom this server calls by
//! itself, and of approvers.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use crate::{
    api::Api,
    console::{encoded, form, html},
    house::{House, until},
    recorder::Recorder,
    wire::{Answer, Request, connect, exchange, read_answer},
};

/// How long things that happen by themselves may take.
const SOON: Duration = Duration::from_secs(30);

const GRANTS: &str = r#"
@id("all") permit (principal, action in Action::"call", resource);
@id("written") @hold("owner") forbid (principal, action == Action::"up__write", resource);
"#;

/// Pages of the console that are looked at, and what of the API.
const PAGES: [&str; 14] = [
    "/waiting",
    "/waiting/rows",
    "/keys",
    "/enrol",
    "/agents",
    "/agents/tester",
    "/tools",
    "/tools/up/echo",
    "/grants",
    "/ledger",
    "/ledger/verify",
    "/ledger/export",
    "/health",
    "/assets/nothing",
];
const API: [&str; 5] = ["/holds?limit=200", "/passkeys", "/ledger", "/ledger/checkpoint", "/ledger/proof/0"];

/// What the parrot gives to a client that it knows, in the hands of a tool server then.
const LEASED: &str = "canary-access-token-of-a-lease";
/// How a client of the name `good` begins to show itself, `good:canary-`, in base64 and small letters.
const GOOD_CLIENT: &str = "authorization: basic z29vzdpjyw5hcnkt";

/// One that repeats everything that it is told, where nobody should: in what it refuses with, in headers, in errors.
#[derive(Clone)]
pub(crate) struct Parrot {
    at: SocketAddr,
    /// What was said to it, by the path.
    heard: Arc<Mutex<Vec<(String, String)>>>,
    key: Arc<Ed25519KeyPair>,
}

impl Parrot {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let key = Arc::new(Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap());
        let parrot = Self { at, heard: Arc::default(), key };
        let serving = parrot.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let parrot = serving.clone();
                std::thread::spawn(move || parrot.serve(stream));
            }
        });
        parrot
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    /// What was said to it at paths that begin so.
    fn heard(&self, path: &str) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(at, _)| at.starts_with(path)).map(|(_, said)| said.clone()).collect()
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some((path, head, body)) = read_request(&mut stream) else { return };
        let echo = format!("{head}\n{body}");
        let times = self.heard(&path).len();
        self.heard.lock().unwrap().push((path.clone(), echo.clone()));
        let plain: String = echo.chars().map(|c| if c.is_ascii_graphic() && c != '"' { c } else { ' ' }).collect();
        let (status, more, answer) = match path.split('?').next().unwrap_or_default() {
            "/.well-known/openid-configuration" | "/.well-known/oauth-authorization-server" => {
                let metadata = json!({
                    "issuer": self.url(""), "jwks_uri": self.url("/jwks"), "token_endpoint": self.url("/token"),
                    "introspection_endpoint": self.url("/introspect"), "authorization_endpoint": self.url("/authorize"),
                    "response_types_supported": ["code"], "subject_types_supported": ["public"],
                    "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                    "introspection_endpoint_auth_methods_supported": ["client_secret_basic"],
                    "id_token_signing_alg_values_supported": ["EdDSA"],
                });
                (200, String::new(), metadata.to_string())
            }
            "/jwks" => {
                let x = BASE64URL.encode(self.key.public_key().as_ref());
                let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x, "kid": "k", "use": "sig", "alg": "EdDSA"}]});
                (200, String::new(), keys.to_string())
            }
            "/introspect" if times == 0 => (500, String::new(), echo),
            "/introspect" => (200, String::new(), json!({"active": false, "error_description": echo}).to_string()),
            "/token" if body.contains("client_id=good") || head.to_lowercase().contains(GOOD_CLIENT) => (
                200,
                String::new(),
                json!({"access_token": LEASED, "token_type": "Bearer", "expires_in": 600}).to_string(),
            ),
            "/token" => {
                let error = json!({"error": "invalid_client", "error_description": plain, "error_uri": plain});
                (400, format!("WWW-Authenticate: Basic realm=\"{plain}\"\r\n"), error.to_string())
            }
            "/mcp" => return self.tool_server(&mut stream, &plain, &body),
            // a webhook: tried again after the first
            _ if times == 0 => (500, format!("X-Echo: {plain}\r\n"), echo),
            _ => (200, String::new(), echo),
        };
        say(&mut stream, status, &more, &answer);
    }

    /// A tool server that offers one tool, and refuses every call with what it was shown.
    fn tool_server(&self, stream: &mut TcpStream, plain: &str, body: &str) {
        let message: Value = serde_json::from_str(body).unwrap_or_default();
        let id = message["id"].clone();
        let answer = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
        match message["method"].as_str().unwrap_or_default() {
            "initialize" => {
                let result = json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                                    "serverInfo": {"name": "parrot", "version": "1"}});
                say(stream, 200, "", &answer(result));
            }
            "tools/list" => {
                let tools = json!({"tools": [{"name": "say", "inputSchema": {"type": "object"}}]});
                say(stream, 200, "", &answer(tools));
            }
            "tools/call" => {
                let more = format!("WWW-Authenticate: Bearer error=\"{plain}\", resource_metadata=\"{plain}\"\r\n");
                say(stream, 401, &more, plain);
            }
            _ => say(stream, 404, "", plain),
        }
    }

    /// A JWT that it signed.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64URL.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = BASE64URL.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

fn read_request(stream: &mut TcpStream) -> Option<(String, String, String)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let path = head.split(' ').nth(1)?.to_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
    });
    while bytes.len() < end + length.unwrap_or(0) {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
        }
    }
    Some((path, head, String::from_utf8_lossy(&bytes[end..]).into_owned()))
}

fn say(stream: &mut TcpStream, status: u16, more: &str, body: &str) {
    let answer = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{more}Connection: close\r\n\r\n{body}",
        body.len()
    );
    let _gone = stream.write_all(answer.as_bytes());
}

/// Every secret that was planted, and every place that was looked at.
#[derive(Default)]
struct Search {
    planted: BTreeMap<String, String>,
    looked: Vec<(String, String)>,
    /// Places where a person is shown a call as a whole, its arguments too.
    shown: Vec<(String, String)>,
}

/// Secrets whose name begins so are an agent's own: a person who looks at a call is shown them.
const ARGUMENT: &str = "an argument";

impl Search {
    /// A secret of that kind, and remembers it.
    fn plant(&mut self, what: &str) -> String {
        let canary = format!("canary-{}-{}", self.planted.len(), what.replace([' ', '\''], "-"));
        self.secret(what, &canary);
        canary
    }

    fn secret(&mut self, what: &str, secret: &str) {
        assert!(secret.len() >= 12, "{what} is too short to be looked for");
        self.planted.insert(what.to_owned(), secret.to_owned());
    }

    /// A token: what nobody else could make is its signature.
    fn token(&mut self, what: &str, token: &str) {
        let signature = token.rsplit('.').next().unwrap();
        self.secret(what, signature);
    }

    fn at(&mut self, place: impl Into<String>, text: impl Into<String>) {
        self.looked.push((place.into(), text.into()));
    }

    /// A place where people are shown a call with its arguments.
    fn whole_call(&mut self, place: impl Into<String>, answer: &Answer) {
        self.shown.push((place.into(), format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body))));
    }

    fn answer(&mut self, place: impl Into<String>, answer: &Answer) {
        self.at(place, format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body)));
    }

    /// Every secret that is somewhere: as text, as base64 of either alphabet, in an URL's escapes, or as a list of its
    /// bytes in numbers.
    fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (what, secret) in &self.planted {
            let numbers = secret.bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(", ");
            let based = BASE64URL.encode(secret);
            // the last letter depends on what follows
            let based = based[..based.len() - 2].to_owned();
            let forms = [secret.clone(), encoded(secret), numbers, based.replace('-', "+").replace('_', "/"), based];
            let shown = self.shown.iter().filter(|_| !what.starts_with(ARGUMENT));
            for (place, text) in self.looked.iter().chain(shown) {
                if let Some(at) = forms.iter().find_map(|form| text.find(form.as_str())) {
                    let line = text[..at].rsplit('\n').next().unwrap_or_default();
                    found.push(format!("{what} (`{secret}`) is in {place}: {line}…"));
                }
            }
        }
        found
    }
}

/// What every process of the server was started with.
fn arguments_of_processes(pid: u32, search: &mut Search) {
    let read = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut pids = vec![pid];
    while let Some(pid) = pids.pop() {
        search.at(format!("the arguments of process {pid}"), String::from_utf8_lossy(&read(pid)));
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
}

/// An approver's browser, as far as it is needed here.
pub(crate) struct Visitor {
    at: SocketAddr,
    cookies: BTreeMap<String, String>,
}

impl Visitor {
    pub(crate) fn new(at: SocketAddr) -> Self {
        Self { at, cookies: BTreeMap::new() }
    }

    pub(crate) fn look(&mut self, path: &str) -> Answer {
        let request = self.request(&format!("GET {path}"));
        self.send(&request)
    }

    fn request(&self, line: &str) -> Request {
        let mut request = Request::post("").without("Content-Type").with("Accept", "text/html,*/*;q=0.8");
        request.line = format!("{line} HTTP/1.1");
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        if cookies.is_empty() { request } else { request.with("Cookie", &cookies.join("; ")) }
    }

    fn send(&mut self, request: &Request) -> Answer {
        let answer = request.send(self.at, None);
        for (_, line) in answer.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie")) {
            let (pair, rules) = line.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            if rules.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        answer
    }

    pub(crate) fn fill(&mut self, page: &str, act: &str, fields: &[(&str, &str)]) -> Answer {
        let page = self.look(page);
        let (action, mut all) = form(&html(&page), act);
        all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let body: Vec<String> =
            all.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        let request = self
            .request(&format!("POST {action}"))
            .body(body.join("&"))
            .with("Content-Type", "application/x-www-form-urlencoded")
            .with("Origin", &format!("http://{}", self.at))
            .with("Sec-Fetch-Site", "same-origin")
            .with("Sec-Fetch-Mode", "navigate")
            .with("Sec-Fetch-Dest", "document");
        self.send(&request)
    }
}

fn search_a_house_that_logs_in(log_format: &str) {
    let (upstream, leased, parrot) = (Recorder::usual(), Recorder::usual(), Parrot::start());
    let mut search = Search::default();
    let of_header = search.plant("a header for a tool server");
    let of_query = search.plant("the query of a tool server");
    let of_hook = search.plant("a webhook's secret");
    let of_hook_path = search.plant("a webhook's path");
    let of_introspection = search.plant("the secret of introspection");
    let of_bearer = search.plant("a token for a tool server");
    let of_client = search.plant("a client's secret");
    let of_bad_client = search.plant("a refused client's secret");
    let of_refresh = search.plant("a refresh token");
    search.secret("an access token", LEASED);
    let of_environment = search.plant("a variable of the server's");
    let mut config = String::new();
    write!(
        config,
        "[upstreams.up]\nurl = \"{}?key={of_query}\"\nheaders = {{ X-Key = \"{of_header}\" }}\n\
         auth = {{ kind = \"bearer\", token = \"{of_bearer}\" }}\n\n\
         [upstreams.leased]\nurl = \"{}\"\n\
         auth = {{ kind = \"client_credentials\", issuer = \"{issuer}\", client_id = \"good\", client_secret = \"{of_client}\", allow_private = true }}\n\n\
         [upstreams.barred]\nurl = \"{}\"\n\
         auth = {{ kind = \"refresh_token\", issuer = \"{issuer}\", client_id = \"bad\", client_secret = \"{of_bad_client}\", refresh_token = \"{of_refresh}\", allow_private = true }}\n\n\
         [upstreams.parrot]\nurl = \"{}?key={of_query}\"\nheaders = {{ X-Key = \"${{OF_HEADER:-none}}\" }}\n\n\
         [[notify.webhook]]\nname = \"ops\"\nurl = \"{}\"\nsecret = \"{of_hook}\"\nallow_private = true\n\n\
         [[notify.webhook]]\nname = \"chat\"\nformat = \"slack\"\nurl = \"{}\"\nallow_private = true\n\n\
         [identity.issuers.corp]\nissuer = \"{issuer}\"\naudience = [\"us\"]\nallow_private = true\n\
         introspection = {{ client_id = \"us\", client_secret = \"{of_introspection}\" }}\n",
        upstream.url(),
        leased.url(),
        parrot.url("/mcp?barred"),
        parrot.url("/mcp"),
        parrot.url(&format!("/hook/{of_hook_path}")),
        parrot.url(&format!("/chat/{of_hook_path}")),
        issuer = parrot.url(""),
    )
    .unwrap();
    let mut house = House::new(&config, GRANTS);
    let environment = [("OF_HEADER", of_header.as_str()), ("SERVER_SECRET", of_environment.as_str())];
    for name in ["up", "leased", "parrot"] {
        let registered = house.command(&["tool", "register", name]).envs(environment).output().unwrap();
        assert!(registered.status.success(), "{registered:?}");
    }
    let mut command = house.command(&["serve", "--log-format", log_format]);
    command.envs(environment).env("COUNTERSIGN_LOG", "trace");
    house.spawn_as(command);
    house.wait_until_ready(Duration::from_secs(60));

    // approvers: a code, passphrases right and wrong, sessions of both kinds
    let (right, wrong) = (search.plant("a passphrase"), search.plant("a wrong passphrase"));
    let added: Value =
        serde_json::from_str(&house.done(&["approver", "add", "ann", "--role", "owner", "--json"])).unwrap();
    let code = added["code"].as_str().unwrap().to_owned();
    search.secret("a one-time code", &code);
    let act = |path: &str, body: &Value, token: Option<&str>| {
        Api::request("POST", path, Some(body)).send(house.console, token)
    };
    let bad_code = search.plant("a wrong one-time code");
    let answer = act("/enrol", &json!({"code": bad_code, "passphrase": wrong}), None);
    assert_ne!(answer.status, 200);
    search.answer("the refusal of a code", &answer);
    let answer = act("/enrol", &json!({"code": code, "passphrase": right}), None);
    assert_eq!(answer.status, 200, "{answer:?}");
    search.answer("an enrolment", &answer);
    search.answer("a refused login", &act("/login", &json!({"approver": "ann", "passphrase": wrong}), None));
    let login = act("/login", &json!({"approver": "ann", "passphrase": right}), None);
    assert_eq!(login.status, 200, "{login:?}");
    let session = login.messages[0]["token"].as_str().unwrap().to_owned();
    search.secret("a session of the API", &session);
    let mut visitor = Visitor::new(house.console);
    let refused = visitor.fill("/sign-in", "sign-in", &[("approver", "ann"), ("passphrase", &wrong)]);
    search.answer("a refused sign-in", &refused);
    let signed_in = visitor.fill("/sign-in", "sign-in", &[("approver", "ann"), ("passphrase", &right)]);
    assert_eq!(signed_in.status, 303, "{signed_in:?}");
    search.secret("a session of the console", &visitor.cookies["countersign"]);

    // agents: tokens of ours and of others, good and not
    let token = house.token("tester", &["--for", "zoe", "--task", "t1"]);
    search.token("a token", &token);
    let revoked = house.token("gone", &[]);
    search.token("a revoked token", &revoked);
    house.done(&["agent", "revoke", "gone"]);
    let now = now();
    let claims = json!({"iss": parrot.url(""), "aud": "us", "sub": "bob", "client_id": "bot", "jti": "j1", "iat": now,
                        "exp": now + 600});
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "k"});
    let theirs = parrot.token(&header, &claims);
    search.token("another issuer's token", &theirs);
    let mut bound = claims.clone();
    bound["cnf"] = json!({"jkt": BASE64URL.encode([1; 32])});
    let bound = parrot.token(&header, &bound);
    search.token("a bound token of another issuer's", &bound);
    let mut old = claims.clone();
    (old["exp"], old["iat"]) = (json!(now - 6_000), json!(now - 7_000));
    let old = parrot.token(&header, &old);
    search.token("an old token of another issuer's", &old);
    let opaque = search.plant("an opaque token");
    let proof = parrot.token(
        &json!({"alg": "EdDSA", "typ": "dpop+jwt",
                "jwk": {"kty": "OKP", "crv": "Ed25519", "x": BASE64URL.encode(parrot.key.public_key().as_ref())}}),
        &json!({"htm": "POST", "htu": format!("http://{}/mcp", house.mcp), "jti": "p1", "iat": now,
                "ath": BASE64URL.encode([2; 32])}),
    );
    search.token("a proof of possession", &proof);
    let jwk = json!({"crv": "Ed25519", "kty": "OKP", "x": BASE64URL.encode(parrot.key.public_key().as_ref())});
    let sha256 = |text: &str| BASE64URL.encode(countersign::json::Digest::of(text.as_bytes()).0);
    let mut owned = claims.clone();
    owned["cnf"] = json!({"jkt": sha256(&jwk.to_string())});
    let own_key = parrot.token(&header, &owned);
    search.token("a token that is bound to a key that is shown", &own_key);
    let good_proof = parrot.token(
        &json!({"alg": "EdDSA", "typ": "dpop+jwt", "jwk": jwk}),
        &json!({"htm": "POST", "htu": format!("http://{}/mcp", house.mcp), "jti": "p2", "iat": now, "ath": sha256(&own_key)}),
    );
    search.token("a proof that is good", &good_proof);
    let in_url = search.plant("a token in the URL");
    let argument = search.plant("an argument");
    let held_argument = search.plant("an argument that is held");
    let call = |tool: &str, text: &str| Request::call(tool, &json!({"text": text}).to_string());
    assert!(call("up__echo", &argument).send(house.mcp, Some(&token)).is_success());
    assert!(call("up__echo", "a").send(house.mcp, Some(&theirs)).is_success(), "another issuer's token is alive");
    let good = format!("DPoP {own_key}");
    let proven = call("up__echo", "a").with("Authorization", &good).with("DPoP", &good_proof);
    assert!(proven.send(house.mcp, None).is_success(), "a proof is alive");
    search.answer("the answer to a proof that comes again", &proven.send(house.mcp, None));
    let unproven = call("up__echo", "a").with("DPoP", &proof);
    let mut requests = vec![
        ("a revoked token", call("up__echo", "a"), Some(revoked.clone())),
        ("another issuer's token", call("up__echo", "a"), Some(theirs.clone())),
        ("an old token", call("up__echo", "a"), Some(old)),
        ("a bound token without its proof", call("up__echo", "a"), Some(bound.clone())),
        ("a bound token with another's proof", unproven.clone(), Some(bound)),
        ("a proof for a token that is not bound", unproven, Some(token.clone())),
        ("an opaque token", call("up__echo", "a"), Some(opaque.clone())),
        ("an opaque token again", call("up__echo", "a"), Some(opaque)),
        ("half a token", call("up__echo", "a"), Some(token[..token.len() - 4].to_owned())),
        ("two tokens", call("up__echo", "a").also("Authorization", &format!("Bearer {theirs}")), Some(token.clone())),
        ("a tool server that repeats what it was shown", Request::call("parrot__say", "{}"), Some(token.clone())),
    ];
    let mut in_the_url = call("up__echo", "a");
    in_the_url.line = format!("POST /mcp?access_token={in_url} HTTP/1.1");
    requests.push(("a token in the URL", in_the_url, Some(token.clone())));
    for (what, request, token) in requests {
        let answer = request.send(house.mcp, token.as_deref());
        search.answer(format!("the answer to {what}"), &answer);
    }
    // the token endpoint: a token that is traded, and what is refused there
    let trade = |more: &str| {
        let resource = format!("http://{}/mcp", house.mcp);
        let form = format!("resource={resource}&{more}");
        let mut request = Request::post(form).with("Content-Type", "application/x-www-form-urlencoded");
        request.line = "POST /oauth/token HTTP/1.1".to_owned();
        request.send(house.mcp, None)
    };
    const EXCHANGE: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&\
        subject_token_type=urn:ietf:params:oauth:token-type:access_token";
    let given = trade(&format!("{EXCHANGE}&subject_token={token}&agent=scout&tools=up__echo&expires_in=60"));
    assert_eq!(given.status, 200, "{given:?}");
    let child = given.messages[0]["access_token"].as_str().unwrap().to_owned();
    search.token("a token that was traded", &child);
    assert!(call("up__echo", "a").send(house.mcp, Some(&child)).is_success());
    let (of_subject, of_actor) = (search.plant("a subject token"), search.plant("an actor token"));
    let of_assertion = search.plant("a client's assertion");
    for (what, form) in [
        ("a wider trade", format!("{EXCHANGE}&subject_token={child}&tools=up__write")),
        ("a trade of what is none", format!("{EXCHANGE}&subject_token={of_subject}")),
        ("a trade of a revoked token", format!("{EXCHANGE}&subject_token={revoked}")),
        (
            "a trade with an actor that is none",
            format!(
                "{EXCHANGE}&subject_token={token}&actor_token={of_actor}&\
                 actor_token_type=urn:ietf:params:oauth:token-type:access_token"
            ),
        ),
        (
            "a client that shows nothing",
            format!(
                "grant_type=client_credentials&client_assertion={of_assertion}&\
                 client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            ),
        ),
    ] {
        let refused = trade(&form);
        assert!(refused.status >= 400, "{what}: {refused:?}");
        search.answer(what, &refused);
    }
    for looked_into in [&token, &revoked, &child, &of_subject] {
        let told = house.run(&["identity", "check", looked_into]);
        search.at("`identity check`", format!("{told:?}"));
    }
    assert!(call("leased__echo", "a").send(house.mcp, Some(&token)).is_success());
    let shown = |recorder: &Recorder, secret: &str| format!("{:?}", recorder.seen()).contains(secret);
    assert!(shown(&leased, LEASED) && !shown(&leased, &of_client) && shown(&upstream, &of_bearer), "leases are alive");
    assert!(!shown(&upstream, LEASED) && !shown(&leased, &of_bearer), "each is shown its own");
    until("a refused client is alive", SOON, || {
        parrot.heard("/token").iter().any(|said| said.contains(&of_refresh)).then_some(())
    });
    let asked = parrot.heard("/introspect");
    assert!(asked.iter().any(|said| said.contains("an-opaque-token")), "the opaque token's canary is alive: {asked:?}");
    assert!(parrot.heard("/mcp").iter().any(|said| said.contains(&of_header)), "the header's canary is alive");

    // a hold that is countersigned, and one that is denied
    let ask = |search: &mut Search, path: &str| {
        let answer = Api::request("GET", path, None).send(house.console, Some(&session));
        search.answer(format!("the API's {path}"), &answer);
        answer
    };
    for decision in ["approve", "deny"] {
        let mut waiting = connect(house.mcp);
        let request = call("up__write", &format!("{held_argument} {decision}"));
        waiting.write_all(&request.bytes(house.mcp, Some(&token))).unwrap();
        let hold = until("the call is held", SOON, || {
            let holds = Api::request("GET", "/holds?limit=200", None).send(house.console, Some(&session));
            holds.messages[0]["holds"].as_array().unwrap().iter().find(|hold| hold["state"] == "pending").cloned()
        });
        let id = hold["id"].as_str().unwrap();
        let path = format!("/holds/{id}/{decision}");
        let body = json!({"digest": hold["digest"], "passphrase": wrong, "reason": "no"});
        if decision == "approve" {
            let refused = act(&path, &body, Some(&session));
            assert_ne!(refused.status, 200, "{refused:?}");
            search.answer("a refused countersignature", &refused);
        }
        let body = match decision {
            "approve" => json!({"digest": hold["digest"], "passphrase": right}),
            _ => json!({"digest": hold["digest"], "reason": "no"}),
        };
        let decided = act(&path, &body, Some(&session));
        assert_eq!(decided.status, 200, "{decided:?}");
        search.answer(format!("the answer to {decision}"), &decided);
        // the recorder answers with what it was told
        search.whole_call("a call that was held", &read_answer(&mut waiting));
    }
    until("both receivers are told of everything", SOON, || {
        let told = ["/hook/", "/chat/"].iter().all(|path| parrot.heard(path).len() >= 5);
        told.then_some(())
    });

    // everything that can be looked at
    for path in PAGES {
        let page = visitor.look(path);
        assert_ne!(page.status, 303, "{path} is for whoever is signed in");
        search.answer(format!("the page {path}"), &page);
    }
    for path in API {
        ask(&mut search, path);
    }
    let entries = house.entries();
    for seq in 0..entries.len() {
        let page = visitor.look(&format!("/ledger/{seq}"));
        assert_eq!(page.status, 200, "{page:?}");
        search.whole_call(format!("the page of entry {seq}"), &page);
    }
    let holds: Vec<_> = entries.iter().filter_map(|entry| entry.pointer("/entry/hold")?.as_str()).collect();
    for hold in holds {
        let page = visitor.look(&format!("/holds/{hold}"));
        search.whole_call(format!("the page of {hold}"), &page);
        let answer = Api::request("GET", &format!("/holds/{hold}"), None).send(house.console, Some(&session));
        assert_eq!(answer.status, 200, "{answer:?}");
        search.whole_call(format!("the API's {hold}"), &answer);
        let shown = house.command(&["hold", "show", hold, "--json"]).output().unwrap();
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        search.shown.push((format!("`hold show {hold}`"), text));
    }
    for path in ["/metrics", "/readyz", "/healthz", "/tlog/checkpoint", "/tlog/tile/entries/000.p/1"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", house.console);
        search.answer(path, &exchange(house.console, request.as_bytes()));
    }
    for path in ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", house.mcp);
        search.answer(path, &exchange(house.mcp, request.as_bytes()));
    }
    arguments_of_processes(house.pid(), &mut search);
    let said = |house: &House, arguments: &[&str]| {
        let output = house.command(arguments).envs(environment).output().unwrap();
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
    };
    for arguments in [
        &["status", "--json"][..],
        &["status"],
        &["agent", "list", "--json"],
        &["agent", "list"],
        &["approver", "list", "--json"],
        &["hold", "list", "--state", "all", "--json"],
        &["tool", "list", "--json"],
        &["tool", "review", "--json"],
        &["upstream", "list", "--json"],
        &["check", "--json"],
        &["reload"],
        &["ledger", "list", "--json"],
        &["ledger", "tail", "-n", "200"],
        &["ledger", "export", "--format", "jsonl"],
    ] {
        search.at(format!("`countersign {}`", arguments.join(" ")), said(&house, arguments));
    }
    for (path, said) in
        parrot.heard.lock().unwrap().iter().filter(|(path, _)| path.starts_with("/hook") || path.starts_with("/chat"))
    {
        // its own path, it is told
        let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        search.at(format!("a notification to {}", &path[..5]), body);
    }
    assert_eq!(house.stop(), Some(0));
    let log = house.log();
    assert!(log.contains("TRACE"), "everything was logged");
    assert_eq!(log.lines().any(|line| line.starts_with('{')), log_format == "json");
    search.at("the log", log);
    let mut folders = vec![house.data().join("tlog")];
    while let Some(folder) = folders.pop() {
        for item in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match item.path() {
                path if path.is_dir() => folders.push(path),
                path => {
                    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                    search.at(path.display().to_string(), text);
                }
            }
        }
    }
    search.at("the verification", said(&house, &["ledger", "verify"]));
    // whatever is wrong with a configuration is said without what is secret in it
    house.configure(
        &config.replace("[upstreams.parrot]", "[upstreams.parrot]\nnonsense = 1").replace("audience", "audiences"),
    );
    search.at("what is wrong with a configuration", said(&house, &["check"]));
    search.at("what is wrong with a configuration, as JSON", said(&house, &["check", "--json"]));

    let found = search.found();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Seconds of the Unix epoch.
pub(crate) fn now() -> i64 {
    countersign::clock::Clock::System.now().as_second()
}

#[test]
fn the_search_finds_a_secret_however_it_is_written() {
    let mut search = Search::default();
    let secret = search.plant("a secret & more");
    search.secret("an argument of an agent's", "what an agent said");
    let based = BASE64URL.encode(format!("us:{secret}!"));
    for (place, text, found) in [
        ("plain", format!("x{secret}y"), true),
        ("encoded", format!("key={}&", encoded(&secret)), true),
        ("numbers", format!("{:?}", secret.as_bytes()), true),
        ("base64", BASE64URL.encode(&secret), true),
        ("credentials", based, true),
        ("nothing", "canary-1-a-secret".to_owned(), false),
    ] {
        search.looked = vec![(place.to_owned(), text)];
        assert_eq!(search.found().len(), usize::from(found), "{place}");
    }
    search.looked.clear();
    search.shown = vec![("a page".to_owned(), "what an agent said".to_owned())];
    assert!(search.found().is_empty(), "a person is shown it");
    search.at("a log", "what an agent said");
    assert_eq!(search.found().len(), 1);
}

#[test]
fn no_secret_comes_out_of_a_house_that_logs_text() {
    search_a_house_that_logs_in("text");
}

#[test]
fn no_secret_comes_out_of_a_house_that_logs_json() {
    search_a_house_that_logs_in("json");
}
