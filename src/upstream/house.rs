//! What an upstream's connection needs to know of the house, and what it may tell and ask there.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast, oneshot},
    time::Instant,
};

use super::{Change, Host, Listing, lines::visible};
use crate::{
    call::{FromClient, Link, Notice, Principal},
    config::Transport,
    contract::{Advertised, Tool, UpstreamName},
    grant::Asked,
    json::{Object, Value},
    lease::LeasesOf,
};

/// The house, as one upstream sees it.
pub(super) struct House {
    pub(super) name: UpstreamName,
    host: OnceLock<Weak<dyn Host>>,
    changes: broadcast::Sender<(UpstreamName, Change)>,
    /// How often there was reason to compare the tools, and for which of those it was done.
    told: AtomicU64,
    compared: AtomicU64,
    /// Wakes the one who keeps the connection.
    pub(super) wake: Notify,
    lists: Mutex<BTreeMap<Listing, Cached>>,
    /// What the configuration gives the upstream and nobody else may read.
    secrets: Vec<String>,
    /// What it is shown.
    pub(super) leases: LeasesOf,
}

#[derive(Clone)]
struct Cached {
    items: Arc<Vec<Value>>,
    until: Instant,
}

/// The call that a message of the upstream's belongs to.
#[derive(Clone, Copy)]
pub(super) struct Side<'a> {
    pub(super) link: &'a Link,
    pub(super) principal: &'a Arc<Principal>,
}

/// What a notification is about, when it is about a call.
pub(super) enum About {
    /// Progress of the call with that token.
    Progress(u64, Object),
    /// A log line.
    Log(Object),
    /// No call.
    Nothing,
}

/// Whether the first byte of a request has left.
#[derive(Debug, Default)]
pub(super) struct Sent(AtomicU8);

impl Sent {
    /// Says that the request leaves now; false when it was withdrawn.
    pub(super) fn begin(&self) -> bool {
        self.0.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire) != Err(2)
    }

    /// Withdraws the request; true when nothing of it left, and nothing will.
    pub(super) fn withdraw(&self) -> bool {
        self.0.compare_exchange(0, 2, Ordering::AcqRel, Ordering::Acquire) != Err(1)
    }
}

/// How a request ended.
#[derive(Debug)]
pub(super) enum Heard {
    /// With an answer to it.
    Answer(super::message::Answer),
    /// Nothing left: why, for an operator.
    NotSent(String),
    /// Something may have left, and no answer that can be trusted came.
    Lost { why: &'static str, detail: String },
    /// With an HTTP status and no JSON-RPC answer.
    Status(u16),
    /// The session it was sent in is over; the request was not processed.
    SessionGone,
}

impl House {
    pub(super) fn new(
        name: UpstreamName,
        changes: broadcast::Sender<(UpstreamName, Change)>,
        leases: LeasesOf,
    ) -> Self {
        Self {
            name,
            host: OnceLock::new(),
            changes,
            told: AtomicU64::new(0),
            compared: AtomicU64::new(0),
            wake: Notify::new(),
            lists: Mutex::default(),
            secrets: Vec::new(),
            leases,
        }
    }

    /// The same house, which knows what to keep out of logs: see [`House::visible`].
    pub(super) fn keeping(self, transport: &Transport) -> Self {
        Self { secrets: secrets(transport), ..self }
    }

    /// A text of the upstream's for a log line, or for an operator: at most `most` characters, nothing hidden in
    /// it, and without the secrets that the upstream was given, which some tell when they fail.
    pub(super) fn visible(&self, text: &[u8], most: usize) -> String {
        let mut text = String::from_utf8_lossy(text);
        for secret in &self.secrets {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "<secret>").into();
            }
        }
        visible(self.leases.conceal(text).as_bytes(), most)
    }

    /// Says who decides; the first one stays.
    pub(super) fn open(&self, host: &Arc<dyn Host>) -> bool {
        self.host.set(Arc::downgrade(host)).is_ok()
    }

    pub(super) fn is_open(&self) -> bool {
        self.host.get().is_some()
    }

    fn host(&self) -> Option<Arc<dyn Host>> {
        self.host.get()?.upgrade()
    }

    pub(super) fn advertised(&self, advertised: Advertised) {
        if let Some(host) = self.host() {
            host.advertised(&self.name, advertised);
        }
    }

    pub(super) fn offered(&self, tool: &Tool) -> bool {
        self.host().is_some_and(|host| host.offered(tool))
    }

    /// Whether the tools have to be compared again before the next call.
    pub(super) fn is_stale(&self) -> bool {
        self.told() != self.compared.load(Ordering::Acquire)
    }

    /// How often there was reason to compare the tools.
    pub(super) fn told(&self) -> u64 {
        self.told.load(Ordering::Acquire)
    }

    /// Says that the tools were compared after so many reasons to.
    pub(super) fn compared(&self, told: u64) {
        self.compared.store(told, Ordering::Release);
    }

    /// Has the tools compared again.
    pub(super) fn doubt(&self) {
        // INVARIANT: no call leaves between here and the comparison
        self.told.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    pub(super) fn changed(&self, change: Change) {
        // nobody listening is fine
        let _listeners = self.changes.send((self.name.clone(), change));
    }

    pub(super) fn cached(&self, listing: Listing) -> Option<Arc<Vec<Value>>> {
        let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.get(&listing).filter(|cached| cached.until > Instant::now()).map(|cached| Arc::clone(&cached.items))
    }

    pub(super) fn cache(&self, listing: Listing, items: &Arc<Vec<Value>>, life: Duration) {
        let cached = Cached { items: Arc::clone(items), until: Instant::now() + life };
        self.lists.lock().unwrap_or_else(PoisonError::into_inner).insert(listing, cached);
    }

    pub(super) fn forget_lists(&self, which: &[Listing]) {
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        which.iter().for_each(|listing| drop(lists.remove(listing)));
    }

    /// Takes note of a notification, and says which call it is about.
    pub(super) fn notified(&self, method: &str, mut params: Object) -> About {
        match method {
            "notifications/progress" => {
                let token = params.remove("progressToken").and_then(|token| token.as_number()?.text().parse().ok());
                return token.map_or(About::Nothing, |token| About::Progress(token, params));
            }
            "notifications/message" => return About::Log(params),
            "notifications/tools/list_changed" => self.doubt(),
            "notifications/resources/list_changed" => {
                self.forget_lists(&[Listing::Resources, Listing::Templates]);
                self.changed(Change::Resources);
            }
            "notifications/prompts/list_changed" => {
                self.forget_lists(&[Listing::Prompts]);
                self.changed(Change::Prompts);
            }
            "notifications/resources/updated" => {
                if let Some(uri) = params.get("uri").and_then(Value::as_str) {
                    self.changed(Change::Resource { uri: uri.to_owned() });
                }
            }
            _ => tracing::trace!(upstream = %self.name, "notification without effect"),
        }
        About::Nothing
    }

    /// What the upstream may know of the client's capabilities: those that it may use.
    pub(super) fn capabilities(&self, side: Side<'_>) -> Object {
        let declared = &side.link.client.capabilities;
        let mut may = Object::new();
        for (name, asked) in KINDS {
            if let Some(how) = declared.get(name)
                && self.host().is_some_and(|host| host.could_ask(side.principal, asked, &self.name))
            {
                may.insert(name, how.clone());
            }
        }
        may
    }

    fn may_ask(&self, principal: &Principal, asked: Asked) -> bool {
        self.host().is_some_and(|host| host.may_ask(principal, asked, &self.name))
    }

    /// Whether the upstream may ask this of the call's client.
    ///
    /// # Errors
    /// The sentence that says why not.
    pub(super) fn judge(&self, method: &str, params: Option<&Value>, side: Option<Side<'_>>) -> Result<(), String> {
        let (name, asked) = match method {
            "sampling/createMessage" => ("sampling", Asked::Sampling),
            "elicitation/create" => ("elicitation", Asked::Elicitation),
            "roots/list" => ("roots", Asked::Roots),
            _ => return Err("no such method here".to_owned()),
        };
        let side = side.ok_or_else(|| format!("`{method}` belongs to no call under way"))?;
        let declared = side.link.client.capabilities.get(name);
        let Some(declared) = declared else { return Err(format!("the client did not declare `{name}`")) };
        let mode = params.and_then(|params| params.get("mode")).and_then(Value::as_str);
        if asked == Asked::Elicitation && mode == Some("url") && declared.get("url").is_none() {
            return Err("the client did not declare `elicitation.url`".to_owned());
        }
        if asked == Asked::Elicitation && mode != Some("url") && params.is_some_and(asks_for_a_credential) {
            return Err("`elicitation/create` asks for a credential in a form".to_owned());
        }
        if self.may_ask(side.principal, asked) { Ok(()) } else { Err(format!("`{method}` is not granted")) }
    }
}

/// Whether a form asks for what no form may ask for: passwords, keys and tokens (MCP 2026-07-28, elicitation,
/// "Security Considerations"). Names count however they are spelt, and so does what is said to the user.
fn asks_for_a_credential(params: &Value) -> bool {
    const PARTS: [&str; 13] = [
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "secret",
        "credential",
        "apikey",
        "accesskey",
        "privatekey",
        "accesstoken",
        "authtoken",
        "bearertoken",
        "refreshtoken",
    ];
    const NAMES: [&str; 6] = ["token", "pin", "otp", "cvv", "cvc", "pwd"];
    let plain =
        |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let speaks = |text: &str| {
        let text = plain(text);
        PARTS.iter().any(|part| text.contains(part))
    };
    let said = |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(speaks);
    let schema = params.get("requestedSchema");
    let properties = schema.and_then(|schema| schema.get("properties")).and_then(Value::as_object);
    said(params.get("message"))
        || properties.into_iter().flat_map(Object::iter).any(|(name, property)| {
            speaks(name)
                || NAMES.contains(&plain(name).as_str())
                || said(property.get("title"))
                || said(property.get("description"))
                || said(property.get("format"))
        })
}

const KINDS: [(&str, Asked); 3] =
    [("sampling", Asked::Sampling), ("elicitation", Asked::Elicitation), ("roots", Asked::Roots)];

/// Gives the client a log line, if it wants ones of that level.
pub(super) fn log(link: &Link, params: Object) {
    const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    let told = match &link.client.log_level {
        Some(least) => {
            let level = params.get("level").and_then(Value::as_str).and_then(rank);
            level >= rank(least)
        }
        // a client of the handshake era gets what the server sends until it says otherwise
        None => !link.client.modern,
    };
    if told {
        link.notify(Notice::Log(params));
    }
}

/// Asks the client, and waits for its answer: a result, or an error object.
pub(super) async fn ask(link: Link, method: String, params: Value) -> Result<Value, Value> {
    let (answer, answered) = oneshot::channel();
    link.notify(Notice::Ask { method, params, answer });
    match answered.await {
        Ok(FromClient::Result(result)) => Ok(result),
        Ok(FromClient::Error(error)) => Err(error),
        Err(_) => Err(refusal(-32000, "the client did not answer")),
    }
}

/// The shortest value that is taken for a secret: shorter ones are words such as `warn`.
const SECRET: usize = 8;

/// The values of an upstream's configuration that may be secrets, longest first.
fn secrets(transport: &Transport) -> Vec<String> {
    let mut secrets: Vec<&str> = match transport {
        Transport::Stdio { env, .. } => env.values().map(String::as_str).collect(),
        Transport::Http { url, headers } => {
            let query = url.split_once('?').map(|(_, query)| query).unwrap_or_default();
            let values = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(_, value)| value);
            // `Bearer …`: the word before it is none
            let headers = headers.values().flat_map(|value| value.split(' '));
            headers.chain(values).chain([query]).collect()
        }
    };
    secrets.retain(|secret| secret.len() >= SECRET);
    secrets.sort_unstable_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets.dedup();
    secrets.into_iter().map(str::to_owned).collect()
}

/// A JSON-RPC error object.
pub(super) fn refusal(code: i64, message: &str) -> Value {
    Object::new().with("code", code).with("message", message).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        json::{Limits, parse},
        lease::Leases,
    };

    #[test]
    fn what_an_upstream_was_given_is_in_no_log_line() {
        let house = |transport: &Transport| {
            let name = UpstreamName::new("up").unwrap_or_else(|| unreachable!("a good name"));
            let leases = Leases::default().of(&name);
            House::new(name, broadcast::channel(1).0, leases).keeping(transport)
        };
        let env =
            BTreeMap::from([("KEY".to_owned(), "hunter2hunter2".to_owned()), ("L".to_owned(), "warn".to_owned())]);
        let child = house(&Transport::Stdio { command: vec!["x".to_owned()], env, cwd: None });
        assert_eq!(child.visible(b"warn: `hunter2hunter2` is bad\n", 100), "warn: `<secret>` is bad<U+000A>");
        let headers = BTreeMap::from([("authorization".to_owned(), "Bearer abcdefgh".to_owned())]);
        let http = house(&Transport::Http { url: "http://x/mcp?key=12345678&n=1".to_owned(), headers });
        assert_eq!(
            http.visible(b"no abcdefgh, no key=12345678&n=1, no 12345678", 100),
            "no <secret>, no <secret>, no <secret>"
        );
        assert_eq!(http.visible("é".repeat(50).as_bytes(), 3), "ééé");
    }

    #[test]
    fn a_form_that_asks_for_a_credential_is_seen() {
        for (form, seen) in [
            (
                r#"{"message":"which city?","requestedSchema":{"type":"object","properties":{"city":{"type":"string"}}}}"#,
                false,
            ),
            (
                r#"{"message":"how many?","requestedSchema":{"properties":{"tokens_left":{"type":"integer"},"pinned":{"type":"boolean"}}}}"#,
                false,
            ),
            (r#"{"message":"sign in","requestedSchema":{"properties":{"Pass-Word":{"type":"string"}}}}"#, true),
            (r#"{"message":"sign in","requestedSchema":{"properties":{"API_KEY":{"type":"string"}}}}"#, true),
            (r#"{"message":"sign in","requestedSchema":{"properties":{"token":{"type":"string"}}}}"#, true),
            (
                r#"{"message":"sign in","requestedSchema":{"properties":{"a":{"type":"string","title":"Access key"}}}}"#,
                true,
            ),
            (
                r#"{"message":"sign in","requestedSchema":{"properties":{"a":{"type":"string","format":"password"}}}}"#,
                true,
            ),
            (
                r#"{"message":"type your passphrase here","requestedSchema":{"properties":{"a":{"type":"string"}}}}"#,
                true,
            ),
            (r#"{"message":7,"requestedSchema":[]}"#, false),
        ] {
            let params = parse(form.as_bytes(), &Limits::REQUEST).unwrap();
            assert_eq!(asks_for_a_credential(&params), seen, "{form}");
        }
    }
}
