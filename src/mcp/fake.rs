//! A house for tests of the door: tools that do what their name says, and no road behind them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::{broadcast, oneshot};

use super::{
    road::{Edition, Following, Going, Road},
    session::principal,
};
use crate::{
    call::{FromClient, Identified, Notice, Operation, Principal, Received, Refused},
    clock::{Clock, Timestamp},
    contract::{Tool, UpstreamName},
    grant::Visibility,
    identity::Unauthenticated,
    json::{Object, Value},
    ledger::{Body, Reply},
    pipeline::HouseChange,
    upstream::{Change, Listing},
};

/// The token that is accepted, `good`, and two that are not: `expired`, `revoked`; `other` is another agent's.
pub(super) struct Fake {
    pub(super) refused: Mutex<Vec<(&'static str, Option<String>)>>,
    pub(super) turned_away: Mutex<Vec<&'static str>>,
    pub(super) calls: AtomicUsize,
    pub(super) cancelled: AtomicUsize,
    pub(super) revoked: AtomicBool,
    pub(super) passed: Mutex<Vec<(String, String)>>,
    pub(super) upstreams: broadcast::Sender<(UpstreamName, Change)>,
    pub(super) house: broadcast::Sender<HouseChange>,
    clock: Clock,
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            refused: Mutex::default(),
            turned_away: Mutex::default(),
            calls: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
            revoked: AtomicBool::new(false),
            passed: Mutex::default(),
            upstreams: broadcast::channel(16).0,
            house: broadcast::channel(16).0,
            clock: Clock::fixed(Timestamp::from_second(1_000_000).unwrap()),
        })
    }

    pub(super) fn codes(&self) -> Vec<&'static str> {
        self.refused.lock().unwrap().iter().map(|(code, _)| *code).collect()
    }
}

pub(super) fn upstream(name: &str) -> UpstreamName {
    UpstreamName::new(name).unwrap()
}

fn result(object: Object) -> Body {
    let tree = Value::Object(object);
    let text = tree.to_bytes().into();
    Body::Result { tree, text }
}

impl Road for Arc<Fake> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn authenticate(&self, token: Option<&str>) -> Result<Identified, Unauthenticated> {
        match token {
            None => Err(Unauthenticated::Missing),
            Some("good") if self.revoked.load(Ordering::SeqCst) => Err(Unauthenticated::Revoked),
            Some("good") => Ok(Identified::vouch(Arc::new(principal("bot", "c1")))),
            Some("other") => Ok(Identified::vouch(Arc::new(principal("other", "c2")))),
            Some("expired") => Err(Unauthenticated::Expired),
            Some(_) => Err(Unauthenticated::Invalid),
        }
    }

    fn audience(&self) -> String {
        "http://127.0.0.1:7400/mcp".to_owned()
    }

    fn metadata(&self) -> String {
        r#"{"resource":"http://127.0.0.1:7400/mcp"}"#.to_owned()
    }

    fn handle(&self, received: Received, _who: Identified) -> Going {
        let house = Self::clone(self);
        Box::pin(async move {
            house.calls.fetch_add(1, Ordering::SeqCst);
            let (call, operation, name, arguments, passage, link) = received.into_parts();
            let seen = Object::new()
                .with("arguments", arguments)
                .with("meta", passage.meta)
                .with("capabilities", link.client.capabilities.clone())
                .with("state", passage.request_state.as_deref().map_or(Value::Null, Value::from));
            let seen = Value::Object(seen);
            house.passed.lock().unwrap().push((name.clone(), String::from_utf8(seen.to_bytes()).unwrap()));
            let body = match name.as_str() {
                "x__refuse" => Body::Refused(Refused::NotGranted),
                "x__unknown" => Body::Refused(Refused::UnknownTool),
                "x__slow" => {
                    link.cancelled().await;
                    house.cancelled.fetch_add(1, Ordering::SeqCst);
                    Body::Unknown { why: "cancelled" }
                }
                "x__progress" => {
                    for progress in 1..=2 {
                        link.notify(Notice::Progress(Object::new().with("progress", progress)));
                        tokio::task::yield_now().await;
                    }
                    link.notify(Notice::Log(Object::new().with("level", "info").with("data", "hello")));
                    result(Object::new().with("content", Vec::new()))
                }
                "x__ask" => {
                    let (answer, told) = oneshot::channel();
                    let method = "elicitation/create".to_owned();
                    link.notify(Notice::Ask { method, params: Object::new().into(), answer });
                    match told.await {
                        Ok(FromClient::Result(value)) => result(Object::new().with("answer", value)),
                        Ok(FromClient::Error(_)) => result(Object::new().with("answer", "error")),
                        Err(_) => result(Object::new().with("answer", "refused")),
                    }
                }
                "x__input" if passage.request_state.is_none() => {
                    let request = Object::new().with("method", "elicitation/create").with("params", Object::new());
                    result(
                        Object::new()
                            .with("resultType", "input_required")
                            .with("inputRequests", Object::new().with("k", request))
                            .with("requestState", "own"),
                    )
                }
                _ => result(Object::new().with("seen", seen)),
            };
            Reply::unrecorded(call, operation, body)
        })
    }

    async fn refuse_message(&self, _who: &Identified, reason: &'static str, method: Option<&str>) {
        self.refused.lock().unwrap().push((reason, method.map(str::to_owned)));
    }

    fn turned_away(&self, reason: &'static str) {
        self.turned_away.lock().unwrap().push(reason);
    }

    fn offers(&self, _principal: &Principal) -> Vec<(Arc<Tool>, Visibility)> {
        Vec::new()
    }

    fn tool(&self, _principal: &Principal, _name: &str) -> Option<Arc<Tool>> {
        None
    }

    fn edition(&self) -> Edition {
        Edition::new(Vec::new())
    }

    fn reachable(&self, principal: &Principal, _operation: Operation) -> Vec<UpstreamName> {
        if principal.agent == "bot" { vec![upstream("one"), upstream("two")] } else { Vec::new() }
    }

    async fn list(&self, upstream: &UpstreamName, listing: Listing) -> Result<Arc<Vec<Value>>, String> {
        let item = |name: &str, value: String| Value::Object(Object::new().with(name, value));
        Ok(Arc::new(match listing {
            Listing::Resources => vec![item("uri", format!("{upstream}://own")), item("uri", "both://own".to_owned())],
            Listing::Templates => vec![item("uriTemplate", format!("{upstream}://t/{{id}}"))],
            Listing::Prompts => vec![item("name", "hello".to_owned())],
        }))
    }

    fn capability(&self, _upstream: &UpstreamName, capability: &str) -> Option<Value> {
        matches!(capability, "resources" | "prompts").then(|| Object::new().into())
    }

    fn was_met(&self, _upstream: &UpstreamName) -> bool {
        true
    }

    async fn follow(&self, received: Received, _who: Identified) -> (Reply, Option<Following>) {
        let (call, operation, name, arguments, ..) = received.into_parts();
        assert_eq!(operation, Operation::Subscribe);
        let uri = arguments.get("uri").and_then(Value::as_str).unwrap().to_owned();
        let hidden = uri.ends_with("://t/hidden");
        self.passed.lock().unwrap().push((name, uri));
        if hidden {
            return (Reply::unrecorded(call, operation, Body::Refused(Refused::NotGranted)), None);
        }
        (Reply::unrecorded(call, operation, result(Object::new())), Some(Following::new(())))
    }

    fn upstream_changes(&self) -> broadcast::Receiver<(UpstreamName, Change)> {
        self.upstreams.subscribe()
    }

    fn house_changes(&self) -> broadcast::Receiver<HouseChange> {
        self.house.subscribe()
    }
}
