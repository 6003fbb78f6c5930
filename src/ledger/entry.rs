//! What is written.

use aws_lc_rs::hmac;
use bytes::Bytes;

use super::store::LONGEST;
use crate::{
    call::{Caller, Fault, Refused, cut},
    clock::Timestamp,
    grant::{Basis, Permitted},
    json::{self, Canonical, Digest, Limits, Value},
};

/// One entry, as it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its index, from 0.
    pub seq: u64,
    /// Its canonical JSON.
    pub text: Bytes,
}

impl Entry {
    /// The line of an export: `{"entry":…,"seq":…}` and a line feed, the entry byte for byte as it is in the log.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(self.text.len() + 40);
        line.extend_from_slice(b"{\"entry\":");
        line.extend_from_slice(&self.text);
        line.extend_from_slice(b",\"seq\":");
        decimal(self.seq, &mut line);
        line.extend_from_slice(b"}\n");
        line
    }
}

/// What the ledger says of a token that came from the token endpoint, beside what it says of every token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traded {
    /// The credential that it was traded for.
    pub parent: Option<String>,
    /// The credential of the sub-agent that it was handed to.
    pub actor: Option<String>,
    /// The client that asked, where there is no parent.
    pub client: Option<String>,
    /// The agents through whose hands it went.
    pub chain: Vec<String>,
    /// Who vouches for the agent, where it is not this server.
    pub issuer: Option<String>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// The only actions that it is for; all, without.
    pub tools: Option<Vec<String>>,
}

/// Something that happened and is not a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `token.issued`
    TokenIssued {
        /// The credential's id.
        credential: String,
        /// Whose it is.
        agent: String,
        /// The user it acts for.
        user: Option<String>,
        /// The task it is for.
        task: Option<String>,
        /// When it ends.
        expires: Timestamp,
        /// What else is said of one that came from the token endpoint.
        traded: Option<Box<Traded>>,
    },
    /// `task.ended`: no credential that names it is good any more.
    TaskEnded {
        /// The task.
        task: String,
    },
    /// `token.revoked`: one credential, or all that the agent has so far.
    TokenRevoked {
        /// Whose.
        agent: String,
        /// Which one; all without.
        credential: Option<String>,
    },
    /// `tool.registered`
    ToolRegistered {
        /// Whose tool.
        upstream: String,
        /// The name the upstream gives it.
        tool: String,
        /// Digest of the contract.
        contract: Digest,
    },
    /// `tool.quarantined`
    ToolQuarantined {
        /// Whose tool.
        upstream: String,
        /// The name the upstream gives it.
        tool: String,
        /// Why, a short stable code: `changed`, `schema`, `gone`, `file`.
        why: String,
    },
    /// `tool.accepted`
    ToolAccepted {
        /// Whose tool.
        upstream: String,
        /// The name the upstream gives it.
        tool: String,
        /// Digest of the contract now.
        contract: Digest,
        /// The approver who did; not known where the contract's file was edited, or a command did it.
        by: Option<String>,
    },
    /// `tool.rejected`: a changed definition was looked at and is not wanted.
    ToolRejected {
        /// Whose tool.
        upstream: String,
        /// The name the upstream gives it.
        tool: String,
        /// Digest of the definition.
        definition: Digest,
        /// The approver who did, or `operator`.
        by: String,
    },
    /// `policy.loaded`
    PolicyLoaded {
        /// Digest of the set.
        set: Digest,
        /// How many policies it has.
        policies: usize,
    },
    /// `call.refused`: a message of a known caller that never became a call.
    MessageRefused {
        /// Whose.
        agent: String,
        /// The credential's id.
        credential: String,
        /// The stable reason code.
        reason: String,
        /// The method it names, if that could be read, cut to 64 bytes.
        method: Option<String>,
    },
    /// `credential.leased`: a tool server will be shown a credential.
    CredentialLeased {
        /// The lease's id.
        lease: String,
        /// Which tool server.
        upstream: String,
        /// How it was had: the kind of `[upstreams.NAME.auth]`.
        auth: &'static str,
        /// Who acts, where it is on behalf of a user.
        agent: Option<String>,
        /// The user.
        user: Option<String>,
        /// The task.
        task: Option<String>,
        /// When it ends, if that is known.
        expires: Option<Timestamp>,
    },
    /// `credential.connected`: an approver had an account connected with a tool server.
    CredentialConnected {
        /// Which tool server.
        upstream: String,
        /// Whose account, if the authorization server says.
        account: Option<String>,
        /// The approver.
        by: String,
    },
    /// `credential.disconnected`: an approver took it away.
    CredentialDisconnected {
        /// Which tool server.
        upstream: String,
        /// The approver.
        by: String,
    },
    /// `server.started`
    ServerStarted {
        /// Version of the program.
        version: String,
    },
    /// `server.stopped`
    ServerStopped {
        /// Why.
        why: String,
    },
}

/// How a call ended, in the ledger's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The tool did it.
    Ok,
    /// The tool says that it failed (`isError`).
    ToolError,
    /// The upstream answered with an error, or could not be reached at all: nothing was done.
    UpstreamError,
    /// Nobody knows whether it was done.
    Unknown,
}

impl Settlement {
    /// Every one.
    pub(super) const ALL: [Self; 4] = [Self::Ok, Self::ToolError, Self::UpstreamError, Self::Unknown];

    /// The word in the entry.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::UpstreamError => "upstream_error",
            Self::Unknown => "unknown",
        }
    }
}

/// What an entry says of a payload: the HMAC-SHA-256 of its bytes under a salt of its own, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commitment {
    digest: [u8; 32],
    bytes: u64,
}

impl Commitment {
    /// Commits to `payload` under `salt`.
    pub(super) fn of(salt: &[u8; 16], payload: &[u8]) -> Self {
        let mut digest = [0; 32];
        let key = hmac::Key::new(hmac::HMAC_SHA256, salt);
        digest.copy_from_slice(hmac::sign(&key, payload).as_ref());
        Self { digest, bytes: payload.len() as u64 }
    }

    /// The HMAC, as the name of a file that holds the payload.
    pub(super) fn name(&self) -> Digest {
        Digest(self.digest)
    }
}

/// The longest text of one member, bytes with its escapes; a longer one is cut.
pub(super) const MEMBER: usize = 1_024;
/// The longest policy id in an entry, and how many are named.
const POLICY: usize = 256;
const POLICIES: usize = 64;

/// The text of a `call.intended` entry.
pub(super) fn intended(at: Timestamp, call: &Permitted, arguments: &Commitment) -> Result<Vec<u8>, Fault> {
    let (basis, call) = (call.basis(), call.call());
    let (principal, tool) = (call.principal(), call.tool());
    let mut line = Line::new();
    line.text("agent", &principal.agent);
    line.commitment("arguments", arguments);
    line.time("at", at);
    line.text("call", call.id().as_str());
    line.list("chain", &principal.chain);
    line.digest("contract", &tool.digest);
    line.text("credential", &principal.credential);
    line.text("door", call.door().word());
    line.basis_set(basis);
    line.text("issuer", &principal.issuer);
    line.text("kind", "call.intended");
    line.text("method", call.operation().method());
    line.policies(basis);
    line.option("task", principal.task.as_deref());
    line.text("tool", &tool.name);
    line.text("upstream", tool.upstream.as_str());
    line.option("user", principal.user.as_deref());
    line.option("workload", principal.workload.as_deref());
    line.end()
}

/// How a call ended, as it is written.
pub(super) struct Ending<'a> {
    pub(super) intent: u64,
    pub(super) call: &'a str,
    pub(super) settlement: Settlement,
    pub(super) why: Option<&'a str>,
    pub(super) result: Option<&'a Commitment>,
    pub(super) took_us: Option<u64>,
    pub(super) findings: &'a [String],
    /// What the tool server was shown.
    pub(super) lease: Option<&'a str>,
    /// More about why nothing was sent, a stable reason code.
    pub(super) reason: Option<&'static str>,
}

/// The text of a `call.settled` entry.
pub(super) fn settled(at: Timestamp, ending: &Ending<'_>) -> Result<Vec<u8>, Fault> {
    let mut line = Line::new();
    line.time("at", at);
    line.text("call", ending.call);
    if !ending.findings.is_empty() {
        line.texts("findings", ending.findings.iter().map(String::as_str));
    }
    line.number("intent", ending.intent);
    line.text("kind", "call.settled");
    line.option("lease", ending.lease);
    line.text("outcome", ending.settlement.word());
    line.option("reason", ending.reason);
    if let Some(result) = ending.result {
        line.commitment("result", result);
    }
    if let Some(took) = ending.took_us {
        line.number("took_us", took);
    }
    line.version();
    line.option("why", ending.why);
    line.end()
}

/// The text of a `call.refused` entry. The sentence for the agent is left out: it may quote arguments.
pub(super) fn refused(at: Timestamp, refused: &Refused, caller: &Caller, basis: &Basis) -> Result<Vec<u8>, Fault> {
    let principal = &caller.principal;
    let mut line = Line::new();
    line.text("agent", &principal.agent);
    line.time("at", at);
    line.text("call", caller.id.as_str());
    line.list("chain", &principal.chain);
    if let Some(tool) = &caller.tool {
        line.digest("contract", &tool.digest);
    }
    line.text("credential", &principal.credential);
    line.basis_set(basis);
    line.text("issuer", &principal.issuer);
    line.text("kind", "call.refused");
    line.text("method", caller.operation.method());
    line.text("name", cut(&caller.name, 256));
    line.option("pointer", refused.pointer());
    line.policies(basis);
    line.text("reason", refused.code());
    line.option("task", principal.task.as_deref());
    if let Some(tool) = &caller.tool {
        line.text("tool", &tool.name);
        line.text("upstream", tool.upstream.as_str());
    }
    line.option("user", principal.user.as_deref());
    line.option("workload", principal.workload.as_deref());
    line.end()
}

/// The text of the entry of an event.
pub(super) fn event(at: Timestamp, event: &Event) -> Result<Vec<u8>, Fault> {
    let mut line = Line::new();
    match event {
        Event::TokenIssued { credential, agent, user, task, expires, traded } => {
            let traded = traded.as_deref();
            let one = |text: fn(&Traded) -> &Option<String>| traded.and_then(|traded| text(traded).as_deref());
            line.option("actor", one(|traded| &traded.actor));
            line.text("agent", agent);
            line.time("at", at);
            line.names("chain", traded.map(|traded| traded.chain.as_slice()).filter(|chain| !chain.is_empty()));
            line.option("client", one(|traded| &traded.client));
            line.text("credential", credential);
            line.time("expires", *expires);
            line.option("issuer", one(|traded| &traded.issuer));
            line.text("kind", "token.issued");
            line.option("parent", one(|traded| &traded.parent));
            line.names("scopes", traded.map(|traded| traded.scopes.as_slice()).filter(|scopes| !scopes.is_empty()));
            line.option("task", task.as_deref());
            line.names("tools", traded.and_then(|traded| traded.tools.as_deref()));
            line.option("user", user.as_deref());
        }
        Event::TaskEnded { task } => {
            line.time("at", at);
            line.text("kind", "task.ended");
            line.text("task", task);
        }
        Event::MessageRefused { agent, credential, reason, method } => {
            line.text("agent", agent);
            line.time("at", at);
            line.text("credential", credential);
            line.text("kind", "call.refused");
            line.option("method", method.as_deref());
            line.text("reason", reason);
        }
        Event::TokenRevoked { agent, credential } => {
            line.text("agent", agent);
            line.time("at", at);
            line.option("credential", credential.as_deref());
            line.text("kind", "token.revoked");
        }
        Event::ToolRegistered { upstream, tool, contract } => {
            line.time("at", at);
            line.digest("contract", contract);
            line.text("kind", "tool.registered");
            line.text("tool", tool);
            line.text("upstream", upstream);
        }
        Event::ToolQuarantined { upstream, tool, why } => {
            line.time("at", at);
            line.text("kind", "tool.quarantined");
            line.text("tool", tool);
            line.text("upstream", upstream);
            line.version();
            line.text("why", why);
        }
        Event::ToolAccepted { upstream, tool, contract, by } => {
            line.time("at", at);
            line.option("by", by.as_deref());
            line.digest("contract", contract);
            line.text("kind", "tool.accepted");
            line.text("tool", tool);
            line.text("upstream", upstream);
        }
        Event::ToolRejected { upstream, tool, definition, by } => {
            line.time("at", at);
            line.text("by", by);
            line.digest("definition", definition);
            line.text("kind", "tool.rejected");
            line.text("tool", tool);
            line.text("upstream", upstream);
        }
        Event::PolicyLoaded { set, policies } => {
            line.time("at", at);
            line.text("kind", "policy.loaded");
            line.number("policies", *policies as u64);
            line.digest("set", set);
        }
        Event::CredentialLeased { lease, upstream, auth, agent, user, task, expires } => {
            line.option("agent", agent.as_deref());
            line.time("at", at);
            line.text("auth", auth);
            if let Some(expires) = expires {
                line.time("expires", *expires);
            }
            line.text("kind", "credential.leased");
            line.text("lease", lease);
            line.option("task", task.as_deref());
            line.text("upstream", upstream);
            line.option("user", user.as_deref());
        }
        Event::CredentialConnected { upstream, account, by } => {
            line.option("account", account.as_deref());
            line.time("at", at);
            line.text("by", by);
            line.text("kind", "credential.connected");
            line.text("upstream", upstream);
        }
        Event::CredentialDisconnected { upstream, by } => {
            line.time("at", at);
            line.text("by", by);
            line.text("kind", "credential.disconnected");
            line.text("upstream", upstream);
        }
        Event::ServerStarted { version } => {
            line.time("at", at);
            line.text("kind", "server.started");
            line.version();
            line.text("version", version);
        }
        Event::ServerStopped { why } => {
            line.time("at", at);
            line.text("kind", "server.stopped");
            line.version();
            line.text("why", why);
        }
    }
    line.end()
}

/// The text of a `payload.redacted` entry.
pub(super) fn redacted(at: Timestamp, entry: u64) -> Result<Vec<u8>, Fault> {
    let mut line = Line::new();
    line.time("at", at);
    line.number("entry", entry);
    line.text("kind", "payload.redacted");
    line.end()
}

/// An entry being written: members in the order of their names, which is that of RFC 8785.
pub(super) struct Line {
    out: Vec<u8>,
    last: &'static str,
}

impl Line {
    pub(super) fn new() -> Self {
        let mut out = Vec::with_capacity(768);
        out.push(b'{');
        Self { out, last: "" }
    }

    pub(super) fn name(&mut self, name: &'static str) {
        debug_assert!(self.last < name, "members are written in order");
        if !self.last.is_empty() {
            self.out.push(b',');
        }
        self.last = name;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    pub(super) fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        quote(text, MEMBER, &mut self.out);
    }

    pub(super) fn option(&mut self, name: &'static str, text: Option<&str>) {
        // the version stands between `user` and `why`, so it is written on the way
        if name > "v" {
            self.version();
        }
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    pub(super) fn texts<'a>(&mut self, name: &'static str, texts: impl Iterator<Item = &'a str>) {
        self.name(name);
        self.out.push(b'[');
        for (place, text) in texts.take(POLICIES).enumerate() {
            if place > 0 {
                self.out.push(b',');
            }
            quote(text, POLICY, &mut self.out);
        }
        self.out.push(b']');
    }

    /// Every text of a list, whole: whoever made it has bounded it.
    pub(super) fn names(&mut self, name: &'static str, texts: Option<&[String]>) {
        if let Some(texts) = texts {
            let all: Vec<Value> = texts.iter().map(|text| Value::from(text.as_str())).collect();
            self.raw(name, &Value::Array(all).to_bytes());
        }
    }

    /// The same; nothing where there is none.
    pub(super) fn list(&mut self, name: &'static str, texts: &[String]) {
        self.names(name, Some(texts).filter(|texts| !texts.is_empty()));
    }

    /// A member whose value is canonical JSON already.
    pub(super) fn raw(&mut self, name: &'static str, value: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(value);
    }

    pub(super) fn flag(&mut self, name: &'static str, on: bool) {
        self.raw(name, if on { b"true" } else { b"false" });
    }

    pub(super) fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        decimal(number, &mut self.out);
    }

    pub(super) fn time(&mut self, name: &'static str, at: Timestamp) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(format!("{at:.6}").as_bytes());
        self.out.push(b'"');
    }

    pub(super) fn digest(&mut self, name: &'static str, digest: &Digest) {
        self.name(name);
        self.out.extend_from_slice(b"\"sha256:");
        hex(&digest.0, &mut self.out);
        self.out.push(b'"');
    }

    pub(super) fn commitment(&mut self, name: &'static str, commitment: &Commitment) {
        self.name(name);
        self.out.extend_from_slice(b"{\"bytes\":");
        decimal(commitment.bytes, &mut self.out);
        self.out.extend_from_slice(b",\"digest\":\"hmac-sha256:");
        hex(&commitment.digest, &mut self.out);
        self.out.extend_from_slice(b"\"}");
    }

    pub(super) fn basis_set(&mut self, basis: &Basis) {
        if let Some(set) = &basis.set {
            self.digest("grants", set);
        }
    }

    pub(super) fn policies(&mut self, basis: &Basis) {
        if !basis.policies.is_empty() {
            self.texts("policies", basis.policies.iter().map(|policy| &**policy));
        }
    }

    pub(super) fn version(&mut self) {
        if self.last < "v" {
            self.number("v", 1);
        }
    }

    pub(super) fn end(mut self) -> Result<Vec<u8>, Fault> {
        self.version();
        self.out.push(b'}');
        if self.out.len() > LONGEST {
            return Err(Fault("an entry would be too long for the ledger".to_owned()));
        }
        Ok(self.out)
    }
}

/// Appends a string literal in the form of RFC 8785, cut so that it has at most `most` bytes between its quotes.
fn quote(text: &str, most: usize, out: &mut Vec<u8>) {
    out.push(b'"');
    let start = out.len();
    let plain = |byte: &u8| *byte >= 0x20 && *byte != b'"' && *byte != b'\\';
    if text.len() <= most && text.as_bytes().iter().all(plain) {
        out.extend_from_slice(text.as_bytes());
    } else {
        let mut escaped = [0; 8];
        for c in text.chars() {
            let piece: &[u8] = match c {
                '"' => b"\\\"",
                '\\' => b"\\\\",
                '\u{8}' => b"\\b",
                '\t' => b"\\t",
                '\n' => b"\\n",
                '\u{c}' => b"\\f",
                '\r' => b"\\r",
                c if c < ' ' => {
                    let mut code = Vec::with_capacity(6);
                    code.extend_from_slice(b"\\u00");
                    hex(&[c as u8], &mut code);
                    escaped.iter_mut().zip(code).for_each(|(to, from)| *to = from);
                    escaped.get(..6).unwrap_or_default()
                }
                c => c.encode_utf8(&mut escaped).as_bytes(),
            };
            if out.len() - start + piece.len() > most {
                break;
            }
            out.extend_from_slice(piece);
        }
    }
    out.push(b'"');
}

fn hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            out.push(DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0'));
        }
    }
}

fn decimal(number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut rest = number;
    let mut used = 0;
    for place in digits.iter_mut().rev() {
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
        used += 1;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(20 - used..).unwrap_or_default());
}

/// The text of a top-level string member, unparsed: what stands between its quotes, escapes and all. Entries
/// never nest a member of these names, and a quote inside a string is escaped, so the first find is it.
pub(super) fn member<'a>(entry: &'a [u8], name: &str) -> Option<&'a str> {
    let sought = format!("\"{name}\":\"");
    let from = memchr::memmem::find(entry, sought.as_bytes())? + sought.len();
    let rest = entry.get(from..)?;
    let mut end = 0;
    loop {
        end += memchr::memchr2(b'"', b'\\', rest.get(end..)?)?;
        if rest.get(end) == Some(&b'"') {
            return std::str::from_utf8(rest.get(..end)?).ok();
        }
        end += 2;
    }
}

/// How [`member`] shows a text: with its escapes, without its quotes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = Vec::new();
    quote(text, MEMBER, &mut out);
    let inner = out.get(1..out.len() - 1).unwrap_or_default();
    String::from_utf8_lossy(inner).into_owned()
}

/// The tree of an entry; `None` when it is not JSON as we read it.
pub(super) fn tree(text: &[u8]) -> Option<Value> {
    json::parse(text, &Limits { bytes: LONGEST, depth: 8, nodes: 4_096 }).ok()
}

/// What is wrong with an entry taken by itself; `None` when nothing is.
pub(super) fn flaw(text: &[u8]) -> Option<String> {
    let Some(tree) = tree(text) else { return Some("it is not JSON".to_owned()) };
    match Canonical::of(tree.clone()) {
        Ok(canonical) if canonical.bytes() == text => {}
        _ => return Some("it is not in canonical form".to_owned()),
    }
    if tree.get("v").and_then(Value::as_number).and_then(json::Number::as_i64) != Some(1) {
        return Some("its version is not 1".to_owned());
    }
    let text_of = |name: &str| tree.get(name).and_then(Value::as_str);
    if text_of("at").and_then(|at| at.parse::<Timestamp>().ok()).is_none() {
        return Some("it does not say when".to_owned());
    }
    let kind = text_of("kind").unwrap_or_default();
    let needed: &[&str] = match kind {
        "call.intended" => &["agent", "call", "contract", "credential", "issuer", "method", "tool", "upstream"],
        "call.settled" => &["call", "outcome"],
        // a message that never became a call
        "call.refused" if tree.get("call").is_none() => &["agent", "credential", "reason"],
        "call.refused" => &["agent", "call", "credential", "issuer", "method", "name", "reason"],
        "token.issued" => &["agent", "credential", "expires"],
        "token.revoked" => &["agent"],
        "task.ended" => &["task"],
        "tool.registered" | "tool.accepted" => &["contract", "tool", "upstream"],
        "tool.rejected" => &["by", "definition", "tool", "upstream"],
        "tool.quarantined" => &["tool", "upstream", "why"],
        "credential.leased" => &["auth", "lease", "upstream"],
        "credential.connected" | "credential.disconnected" => &["by", "upstream"],
        "policy.loaded" => &["set"],
        "server.started" => &["version"],
        "server.stopped" => &["why"],
        "call.held" => &[
            "agent",
            "approve_by",
            "call",
            "contract",
            "credential",
            "door",
            "execute_by",
            "grants",
            "hold",
            "issuer",
            "method",
            "origin",
            "tool",
            "upstream",
        ],
        "hold.approved" if tree.get("assertion").is_some() => &["approver", "digest", "hold", "passkey"],
        "hold.approved" if tree.get("token").is_some() => {
            &["approver", "digest", "hold", "issuer", "jwk", "subject", "token"]
        }
        "hold.approved" => &["approver", "digest", "hold", "key", "signature"],
        "hold.denied" => &["approver", "digest", "hold", "reason"],
        "hold.expired" => &["hold"],
        "hold.cancelled" => &["by", "hold"],
        "hold.void" => &["hold", "reason"],
        "hold.spent" => &["call", "hold"],
        "approver.added" | "approver.removed" => &["approver"],
        "approver.enrolled" if tree.get("passkey").is_some() => &["approver"],
        "approver.enrolled" => &["approver", "key"],
        "approver.signed_in" => &["approver", "issuer", "provider", "subject", "until"],
        "payload.redacted" | "freeze.set" | "freeze.lifted" => &[],
        other => return Some(format!("its kind `{}` is unknown", cut(other, 64).escape_debug())),
    };
    let outcome = text_of("outcome").unwrap_or_default();
    if kind == "call.settled" && Settlement::ALL.iter().all(|known| known.word() != outcome) {
        return Some(format!("its outcome `{}` is unknown", cut(outcome, 64).escape_debug()));
    }
    let missing = needed.iter().find(|name| text_of(name).is_none());
    missing.map(|name| format!("its member `{name}` is missing"))
}
