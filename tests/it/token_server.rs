//! An authorization server of a test's own: it remembers what it was asked, and misbehaves on request.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// One request that reached it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) form: BTreeMap<String, String>,
}

impl Asked {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.form.get(name).map_or("", String::as_str)
    }

    /// What the subject token says.
    pub(crate) fn subject(&self) -> Value {
        let claims = self.field("subject_token").split('.').nth(1).unwrap_or_default();
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
    }
}

/// What its token endpoint does.
#[derive(Clone, Debug, Default)]
pub(crate) enum Manner {
    /// Gives a token, good for that many seconds.
    #[default]
    Gives,
    /// Answers with a status and a body.
    Says(u16, String),
    /// Leads elsewhere.
    Redirects(String),
    /// Answers without an end.
    Endless,
    /// Never answers.
    Silent,
    /// Waits until it is let go.
    Waits,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// By grant type; what is not here is `Gives`.
    manners: BTreeMap<String, Manner>,
    life: u64,
    given: usize,
    /// Refresh tokens that it has replaced are refused.
    refresh: Option<String>,
}

/// The running server. Its threads end with the test.
#[derive(Clone)]
pub(crate) struct TokenServer {
    at: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

pub(crate) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

impl TokenServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let state = Arc::new((Mutex::new(State { life: 3_600, ..State::default() }), Condvar::new()));
        let server = Self { at, state };
        let serving = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = serving.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    pub(crate) fn at(&self) -> SocketAddr {
        self.at
    }

    pub(crate) fn issuer(&self) -> String {
        format!("http://{}", self.at)
    }

    /// What it was asked for tokens.
    pub(crate) fn asked(&self, grant: &str) -> Vec<Asked> {
        let asked = self.state.0.lock().unwrap().asked.clone();
        asked.into_iter().filter(|asked| asked.field("grant_type") == grant).collect()
    }

    /// Everything that it was asked.
    pub(crate) fn everything(&self) -> Vec<Asked> {
        self.state.0.lock().unwrap().asked.clone()
    }

    /// How it meets that grant type from now on.
    pub(crate) fn set(&self, grant: &str, manner: Manner) {
        self.state.0.lock().unwrap().manners.insert(grant.to_owned(), manner);
        self.state.1.notify_all();
    }

    /// How long tokens are good from now on, seconds.
    pub(crate) fn live(&self, seconds: u64) {
        self.state.0.lock().unwrap().life = seconds;
    }

    /// The refresh token that it takes next; every use replaces it.
    pub(crate) fn rotate_from(&self, token: &str) {
        self.state.0.lock().unwrap().refresh = Some(token.to_owned());
    }

    /// The refresh token that it would take now.
    pub(crate) fn refresh(&self) -> String {
        self.state.0.lock().unwrap().refresh.clone().unwrap_or_default()
    }

    /// `[upstreams.NAME.auth]` for it.
    pub(crate) fn auth(&self, kind: &str, more: &str) -> String {
        format!(
            "auth = {{ kind = \"{kind}\", issuer = \"{}\", client_id = \"us\", client_secret = \"canary-client-secret\", allow_private = true{more} }}",
            self.issuer()
        )
    }

    fn serve(&self, mut stream: TcpStream) {
        let Some(asked) = read(&mut stream) else { return };
        let grant = asked.field("grant_type").to_owned();
        let path = asked.path.clone();
        self.state.0.lock().unwrap().asked.push(asked.clone());
        if path == "/.well-known/oauth-authorization-server" {
            let metadata = json!({
                "issuer": self.issuer(), "token_endpoint": format!("{}/token", self.issuer()),
                "authorization_endpoint": format!("{}/authorize", self.issuer()),
                "token_endpoint_auth_methods_supported": ["client_secret_basic"]
            });
            return say(&mut stream, 200, "", &metadata.to_string());
        }
        if path != "/token" {
            return say(&mut stream, 404, "", "");
        }
        let mut state = self.state.0.lock().unwrap();
        loop {
            match state.manners.get(&grant).cloned().unwrap_or_default() {
                Manner::Waits => state = self.state.1.wait(state).unwrap(),
                Manner::Gives => break,
                Manner::Says(status, body) => return say(&mut stream, status, "", &body),
                Manner::Redirects(to) => return say(&mut stream, 307, &format!("Location: {to}\r\n"), ""),
                Manner::Endless => {
                    drop(state);
                    let _head = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{\"x\":\"");
                    while stream.write_all(&[b'x'; 65_536]).is_ok() {}
                    return;
                }
                Manner::Silent => {
                    drop(state);
                    return std::thread::sleep(Duration::from_secs(60));
                }
            }
        }
        if grant == "authorization_code" && asked.field("code") != "good-code" {
            return say(&mut stream, 400, "", r#"{"error":"invalid_grant"}"#);
        }
        if grant == "refresh_token" && state.refresh.as_deref() != Some(asked.field("refresh_token")) {
            return say(&mut stream, 400, "", r#"{"error":"invalid_grant"}"#);
        }
        state.given += 1;
        let whose = match grant == EXCHANGE {
            true => format!("-{}", asked.subject()["sub"].as_str().unwrap_or_default()),
            false => String::new(),
        };
        let token = format!("canary-access-{}{whose}", state.given);
        let mut answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": state.life});
        if grant == EXCHANGE {
            answer["issued_token_type"] = json!("urn:ietf:params:oauth:token-type:access_token");
        }
        if grant == "authorization_code" {
            let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"7","email":"bot@example.com"}"#);
            answer["id_token"] = json!(format!("x.{claims}.x"));
        }
        if grant == "refresh_token" || grant == "authorization_code" {
            let next = format!("canary-refresh-{}", state.given);
            answer["refresh_token"] = json!(next);
            state.refresh = Some(next);
        }
        drop(state);
        say(&mut stream, 200, "", &answer.to_string());
    }
}

fn say(stream: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let header = |name: &str| {
        let line = text.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    while bytes.len() < head + 4 + length {
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&piece[..read]);
    }
    let form = url::form_urlencoded::parse(&bytes[head + 4..]).into_owned().collect();
    let path = text.split(' ').nth(1)?.to_owned();
    Some(Asked { path, authorization: header("authorization"), form })
}
