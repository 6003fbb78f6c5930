//! A house for tests of the door: tools that do what their name says, and no road behind them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::{broadcast, oneshot};

use super::{
    road::{Edition, Following, Going, Road},
    session::principal,
};
use crate::{
    authority,
    call::{CallId, Fault, FromClient, HoldNotice, Identified, Link, Notice, Operation, Principal, Received, Refused},
    clock::{Clock, Timestamp},
    contract::{Tool, UpstreamName},
    grant::Visibility,
    hold::{Assurance, Book, Change, Claims, Credential, Demand, Hold, HoldId, Means, Phase, Record},
    identity::{Presented, Unauthenticated},
    json::{Digest, Object, Value},
    ledger::{Body, HoldChange, Reply},
    pipeline::{HouseChange, ended_as},
    upstream::{Change as UpstreamChange, Listing},
};

/// The token that is accepted, `good`, and two that are not: `expired`, `revoked`; `other` is another agent's.
pub(super) struct Fake {
    pub(super) refused: Mutex<Vec<(&'static str, Option<String>)>>,
    pub(super) turned_away: Mutex<Vec<&'static str>>,
    pub(super) calls: AtomicUsize,
    pub(super) cancelled: AtomicUsize,
    pub(super) revoked: AtomicBool,
    pub(super) passed: Mutex<Vec<(String, String)>>,
    pub(super) upstreams: broadcast::Sender<(UpstreamName, UpstreamChange)>,
    pub(super) house: broadcast::Sender<HouseChange>,
    /// What the tool `x__held` holds, one call of each agent at a time.
    pub(super) book: Mutex<Book>,
    /// The index that the next change's entry gets.
    entries: AtomicU64,
    holds: broadcast::Sender<HoldChange>,
    /// How patient each call of `x__held` was, seconds, and whether it runs alone.
    pub(super) waited: Mutex<Vec<(u64, bool)>>,
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
            book: Mutex::default(),
            entries: AtomicU64::new(100),
            holds: broadcast::channel(16).0,
            waited: Mutex::default(),
            clock: Clock::fixed(Timestamp::from_second(1_000_000).unwrap()),
        })
    }

    /// Changes the book and tells of it.
    fn change(&self, hold: &HoldId, change: &Change) {
        let mut book = self.book.lock().unwrap();
        let seq = self.entries.fetch_add(1, Ordering::Relaxed);
        book.apply(change, seq).unwrap();
        drop(book);
        let _nobody = self.holds.send(HoldChange { hold: hold.clone(), seq, kind: "hold" });
    }

    fn at(&self) -> Timestamp {
        self.clock.now()
    }

    /// The one hold that is open.
    pub(super) fn open_hold(&self) -> Record {
        let book = self.book.lock().unwrap();
        let open: Vec<_> = book.iter().filter(|record| record.phase.is_open()).cloned().collect();
        assert_eq!(open.len(), 1, "{open:?}");
        open[0].clone()
    }

    /// Has `you` countersign what is open.
    pub(super) fn approve(&self) {
        let hold = self.open_hold().hold;
        let (name, key, at) = ("you".to_owned(), [7; 32], self.at());
        let roles = ["owner".to_owned()].into();
        if self.book.lock().unwrap().roster().get("you").is_none() {
            self.change(&hold.id, &Change::ApproverAdded { name: name.clone(), roles, also: [].into(), by: None, at });
            let credential = Credential::Key(key);
            self.change(&hold.id, &Change::ApproverEnrolled { name: name.clone(), credential, by: None, at });
        }
        let (id, digest) = (hold.id.clone(), hold.digest);
        let means = Means::Key(key);
        self.change(&hold.id, &Change::Approved { hold: id, digest, approver: name, means, mark: None, at });
    }

    fn held(&self, principal: &Principal, call: &CallId) -> Record {
        let book = self.book.lock().unwrap();
        let own = |record: &&Record| record.hold.agent == principal.agent && record.phase.is_open();
        if let Some(record) = book.iter().find(own) {
            return record.clone();
        }
        drop(book);
        let demands = vec![Demand {
            policy: "p".into(),
            role: "owner".into(),
            approvals: 1,
            assurance: Assurance::Any,
            expires: 900,
            reason: None,
        }];
        let (approve_by, execute_by) = Hold::deadlines(&demands, self.at());
        let hold = Hold {
            id: HoldId::new(self.at()).unwrap(),
            digest: Digest::of(call.as_str().as_bytes()),
            seq: 0,
            call: call.to_string(),
            agent: principal.agent.clone(),
            issuer: principal.issuer.clone(),
            user: None,
            task: None,
            claims: Claims::default(),
            credential: principal.credential.clone(),
            credential_expires: None,
            door: "http".into(),
            method: "tools/call".into(),
            tool: "x__held".into(),
            upstream: "x".into(),
            impact: Vec::new(),
            contract: Digest::of(b"contract"),
            grants: Digest::of(b"grants"),
            policies: Vec::new(),
            demands,
            // every hold of the fake is for another call: none is the identical one
            arguments: Digest::of(call.as_str().as_bytes()),
            kept: true,
            created: self.at(),
            approve_by,
            execute_by,
            runs_alone: false,
            idempotent: false,
        };
        let id = hold.id.clone();
        self.change(&id, &Change::Opened(Arc::new(hold)));
        self.open_hold()
    }

    /// Runs what was countersigned.
    fn spend(&self, record: &Record) {
        let (hold, call) = (record.hold.id.clone(), record.hold.call.clone());
        self.calls.fetch_add(100, Ordering::SeqCst);
        self.change(&hold, &Change::Spent { hold: hold.clone(), call, at: self.at() });
        let phase = self.book.lock().unwrap().get(&hold).unwrap().phase.clone();
        let Phase::Spent { intent, .. } = phase else { panic!("{phase:?}") };
        self.change(&hold, &Change::Settled { intent, outcome: "ok".into() });
    }

    /// A call that waits, as the pipeline would have it. One whose argument `impatient` is true waits for nothing.
    async fn wait(&self, principal: &Principal, call: &CallId, arguments: &Value, link: &Link) -> Body {
        let client = &link.client;
        self.waited.lock().unwrap().push((client.patience.as_secs(), client.runs_alone));
        let mut changes = self.holds.subscribe();
        let id = self.held(principal, call).hold.id.clone();
        let impatient = arguments.get("impatient") == Some(&Value::Bool(true));
        loop {
            let record = self.book.lock().unwrap().get(&id).unwrap().clone();
            let notice = self.told(&record);
            match &record.phase {
                Phase::Approved => self.spend(&record),
                Phase::Spent { .. } => return done(),
                phase => {
                    if let Some(refused) = ended_as(&record.hold, phase) {
                        return Body::Refused(refused);
                    }
                    link.notify(Notice::Held(notice.clone()));
                    if impatient || client.patience.is_zero() {
                        return Body::Held(notice);
                    }
                    link.notify(Notice::Progress(Object::new().with("progress", 1)));
                    tokio::select! {
                        biased;
                        _changed = changes.recv() => {}
                        () = link.withdrawn() => {
                            let by = "agent".to_owned();
                            self.change(&id, &Change::Cancelled { hold: id.clone(), by, at: self.at() });
                        }
                        () = link.cancelled() => return Body::Held(notice),
                    }
                }
            }
        }
    }

    fn told(&self, record: &Record) -> HoldNotice {
        let hold = &record.hold;
        HoldNotice {
            hold: hold.id.to_string(),
            tool: hold.tool.clone(),
            state: record.phase.word(),
            roles: hold.roles(),
            reason: None,
            created: hold.created,
            approve_by: hold.approve_by,
            execute_by: hold.execute_by,
            page: format!("http://127.0.0.1:7401/holds/{}", hold.id),
        }
    }

    pub(super) fn codes(&self) -> Vec<&'static str> {
        self.refused.lock().unwrap().iter().map(|(code, _)| *code).collect()
    }
}

pub(super) fn upstream(name: &str) -> UpstreamName {
    UpstreamName::new(name).unwrap()
}

fn done() -> Body {
    result(Object::new().with("content", Vec::new()).with("structuredContent", Object::new().with("done", true)))
}

fn result(object: Object) -> Body {
    let tree = Value::Object(object);
    let text = tree.to_bytes().into();
    Body::Result { tree, text }
}

impl Fake {
    pub(super) fn judge(&self, token: Option<&str>) -> Result<Identified, Unauthenticated> {
        match token {
            None => Err(Unauthenticated::Missing),
            Some("good") if self.revoked.load(Ordering::SeqCst) => Err(Unauthenticated::Revoked),
            Some("good") => Ok(Identified::vouch(Arc::new(principal("bot", "c1")))),
            Some("other") => Ok(Identified::vouch(Arc::new(principal("other", "c2")))),
            Some("expired") => Err(Unauthenticated::Expired),
            Some(_) => Err(Unauthenticated::Invalid),
        }
    }
}

impl Road for Arc<Fake> {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn authenticate(&self, shown: &Presented<'_>) -> Result<Identified, Unauthenticated> {
        self.judge(shown.token)
    }

    async fn again(&self, _who: &Arc<Principal>, token: &str) -> Result<Identified, Unauthenticated> {
        self.judge(Some(token))
    }

    fn stream_opened(&self, _who: &Principal) -> Option<Following> {
        None
    }

    fn authority(&self) -> Option<String> {
        None
    }

    fn keys(&self) -> String {
        r#"{"keys":[]}"#.to_owned()
    }

    async fn grant(&self, _asked: &authority::Asked<'_>) -> Result<Object, authority::Refused> {
        Err(authority::Refused::GrantType)
    }

    fn audience(&self) -> String {
        "http://127.0.0.1:7400/mcp".to_owned()
    }

    fn metadata(&self) -> String {
        r#"{"resource":"http://127.0.0.1:7400/mcp"}"#.to_owned()
    }

    fn metadata_url(&self) -> String {
        "http://127.0.0.1:7400/.well-known/oauth-protected-resource/mcp".to_owned()
    }

    fn needed_scopes(&self) -> Vec<String> {
        Vec::new()
    }

    fn handle(&self, received: Received, who: Identified) -> Going {
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
                "x__held" => house.wait(who.principal(), &call, seen.get("arguments").unwrap(), &link).await,
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

    fn hold(&self, principal: &Principal, id: &HoldId) -> Option<Record> {
        let record = self.book.lock().unwrap().get(id).cloned()?;
        (record.hold.agent == principal.agent).then_some(record)
    }

    fn holds(&self, principal: &Principal) -> Vec<Record> {
        let book = self.book.lock().unwrap();
        book.iter().filter(|record| record.hold.agent == principal.agent).cloned().collect()
    }

    fn came_to(&self, record: &Record) -> Option<Reply> {
        Some(Reply::unrecorded(CallId::read(&record.hold.call)?, Operation::CallTool, done()))
    }

    fn notice(&self, record: &Record) -> HoldNotice {
        self.told(record)
    }

    fn run(&self, id: HoldId, _who: Identified) {
        let record = self.book.lock().unwrap().get(&id).unwrap().clone();
        self.spend(&record);
    }

    async fn withdraw(&self, principal: &Principal, id: &HoldId) -> Result<bool, Fault> {
        let open = self.hold(principal, id).is_some_and(|record| record.phase.is_open());
        if open {
            let change = Change::Cancelled { hold: id.clone(), by: "agent".to_owned(), at: self.at() };
            self.change(id, &change);
        }
        Ok(open)
    }

    fn hold_changes(&self) -> broadcast::Receiver<HoldChange> {
        self.holds.subscribe()
    }

    fn upstream_changes(&self) -> broadcast::Receiver<(UpstreamName, UpstreamChange)> {
        self.upstreams.subscribe()
    }

    fn house_changes(&self) -> broadcast::Receiver<HouseChange> {
        self.house.subscribe()
    }
}
