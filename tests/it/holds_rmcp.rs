//! The official Rust client meets holds in every way that it can, with the server killed in the middle.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign::{approver::Passphrase, clock::Clock, config, server};
use rmcp::{
    ClientHandler, ErrorData, RoleClient,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ClientCapabilities, ClientConfig,
        ElicitRequestParams, ElicitResult, ElicitationAction, ElicitationCapability, GetTaskParams,
        ProgressNotificationParam, ProtocolVersion, TaskPayload, TaskStatus, UrlElicitationCapability,
    },
    service::{ClientLifecycleMode, NotificationContext, RequestContext, RunningService, serve_client_with_lifecycle},
    transport::{StreamableHttpClientTransport, streamable_http_client::StreamableHttpClientTransportConfig},
};
use serde_json::{Value, json};

use crate::{
    house::{House, http_upstream, until},
    recorder::Recorder,
    wire::{Answer, Request},
};

const PASSPHRASE: &str = "correct horse battery staple";

/// How long what happens by itself may take.
const SOON: Duration = Duration::from_secs(20);

/// `write` is countersigned by the owner.
const GRANTS: &str = r#"
@id("write") @hold("owner") @expires("15m")
permit (principal, action == Action::"up__write", resource);
"#;

/// What a client can do, and what it was asked.
#[derive(Clone, Default)]
struct Client {
    capabilities: ClientCapabilities,
    version: ProtocolVersion,
    declines: bool,
    pages: Arc<AtomicUsize>,
    progress: Arc<AtomicUsize>,
}

type Running = RunningService<RoleClient, Client>;

impl ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        let mut config = ClientConfig::default().with_protocol_version(self.version.clone());
        config.capabilities = self.capabilities.clone();
        config
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        _context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let ElicitRequestParams::UrlElicitationParams { url, .. } = request else { panic!("{request:?}") };
        assert!(url.contains("/holds/hold_"), "{url}");
        self.pages.fetch_add(1, Ordering::SeqCst);
        let action = if self.declines { ElicitationAction::Decline } else { ElicitationAction::Accept };
        Ok(ElicitResult::new(action))
    }

    async fn on_progress(&self, _params: ProgressNotificationParam, _context: NotificationContext<RoleClient>) {
        self.progress.fetch_add(1, Ordering::SeqCst);
    }
}

impl Client {
    fn of(version: ProtocolVersion) -> Self {
        Self { version, ..Self::default() }
    }

    fn with_tasks(mut self) -> Self {
        self.capabilities = ClientCapabilities::builder().enable_tasks().build();
        self
    }

    fn with_pages(mut self) -> Self {
        self.capabilities.elicitation = Some(ElicitationCapability::new().with_url(UrlElicitationCapability::new()));
        self
    }

    async fn connect(&self, house: &House, token: &str) -> Running {
        let config = StreamableHttpClientTransportConfig::with_uri(format!("http://{}/mcp", house.mcp))
            .auth_header(token.to_owned());
        let transport = StreamableHttpClientTransport::from_config(config);
        let mode = if self.version == ProtocolVersion::V_2026_07_28 {
            ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
        } else {
            ClientLifecycleMode::Initialize
        };
        serve_client_with_lifecycle(self.clone(), transport, mode).await.unwrap()
    }
}

fn write(text: &str) -> CallToolRequestParams {
    CallToolRequestParams::new("up__write").with_arguments(json!({"text": text}).as_object().cloned().unwrap())
}

fn ran(result: &CallToolResult) {
    assert_ne!(result.is_error, Some(true), "{result:?}");
}

fn decision(result: &CallToolResult) -> Value {
    serde_json::to_value(result).unwrap()["_meta"]["countersign/decision"].clone()
}

/// A house that serves, with `you` enrolled as its owner, and a session of theirs.
struct Owned {
    house: House,
    upstream: Recorder,
    session: String,
}

impl Owned {
    async fn open() -> Self {
        let upstream = Recorder::usual();
        let mut house = House::new(&http_upstream("up", &upstream.url(), ""), GRANTS);
        house.register();
        // before anybody serves, the store can be opened here
        let here =
            server::House::open(config::load(&house.path().join("countersign.toml")).unwrap(), Clock::System).unwrap();
        let approvers = &here.pipeline.approvers;
        let added = approvers.add("you", ["owner".to_owned()].into(), [].into(), None).await.unwrap();
        approvers.enrol(&added.code.unwrap(), &Passphrase::new(PASSPHRASE.to_owned())).await.unwrap();
        here.stop("set up").await;
        drop(here);
        house.serve();
        let mut owned = Self { house, upstream, session: String::new() };
        owned.sign_in();
        owned
    }

    fn sign_in(&mut self) {
        let told = self.api("POST", "/login", Some(&json!({"approver": "you", "passphrase": PASSPHRASE})));
        self.session = told.messages[0]["token"].as_str().unwrap_or_else(|| panic!("{told:?}")).to_owned();
    }

    fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut request = match body {
            Some(body) => Request::post(body.to_string()),
            None => Request::post("").without("Content-Type"),
        };
        request.line = format!("{method} /api/v1{path} HTTP/1.1");
        let session = (!self.session.is_empty()).then_some(self.session.as_str());
        request.without("Accept").send(self.house.console, session)
    }

    /// Ids and digests of what waits, by the agent that asks; once there are `most`.
    fn waiting(&self, most: usize) -> BTreeMap<String, (String, String)> {
        until("calls that wait", SOON, || {
            let told = self.api("GET", "/holds?state=pending", None);
            let holds = told.messages.first()?["holds"].as_array()?.clone();
            let text = |hold: &Value, name: &str| hold[name].as_str().unwrap().to_owned();
            let all = holds.iter().map(|hold| (text(hold, "agent"), (text(hold, "id"), text(hold, "digest"))));
            (holds.len() == most).then(|| all.collect())
        })
    }

    fn approve(&self, (id, digest): &(String, String)) {
        let body = json!({"digest": digest, "passphrase": PASSPHRASE});
        let answer = self.api("POST", &format!("/holds/{id}/approve"), Some(&body));
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    fn approve_all(&self, waiting: usize) {
        for hold in self.waiting(waiting).values() {
            self.approve(hold);
        }
    }

    /// `kill -9`, and starts again.
    fn die_and_come_back(&mut self) {
        self.house.kill();
        self.house.serve();
        self.session.clear();
        self.sign_in();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_follows_a_task_to_its_result_over_a_kill() {
    let mut owned = Owned::open().await;
    let token = owned.house.token("tasks", &[]);
    let client = Client::of(ProtocolVersion::V_2026_07_28).with_tasks().connect(&owned.house, &token).await;
    let task = async |text| match client.call_tool_once(write(text)).await.unwrap() {
        CallToolResponse::Task(created) => created.task.task_id,
        other => panic!("{other:?}"),
    };
    let get = async |id: &str| client.get_task(GetTaskParams::new(id)).await;
    let unwanted = task("unwanted").await;
    client.cancel_task(CancelTaskParams::new(unwanted.clone())).await.unwrap();
    assert_eq!(get(&unwanted).await.unwrap().task.status(), TaskStatus::Cancelled);

    let id = task("once").await;
    assert_eq!(get(&id).await.unwrap().task.status(), TaskStatus::Working);
    owned.die_and_come_back();
    assert_eq!(get(&id).await.unwrap().task.status(), TaskStatus::Working, "the task outlives the server");
    assert_eq!(owned.upstream.calls().len(), 0);
    owned.approve_all(1);
    let done = loop {
        let now = get(&id).await.unwrap().task;
        if now.status() != TaskStatus::Working {
            break now;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let TaskPayload::Completed { result } = done.payload else { panic!("{done:?}") };
    assert!(result["content"].is_array() && result.get("isError").is_none(), "{result:?}");
    // its result outlives the server too
    owned.die_and_come_back();
    assert_eq!(get(&id).await.unwrap().task.status(), TaskStatus::Completed);
    match client.call_tool_once(write("once")).await.unwrap() {
        CallToolResponse::Complete(result) => ran(&result),
        other => panic!("{other:?}"),
    }
    assert_eq!(owned.upstream.calls().len(), 1, "it was run once");
    assert!(get("hold_00000000000000000000000000").await.is_err());
    client.cancel().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_rides_the_rounds_with_the_page_and_without() {
    let owned = Owned::open().await;
    let (with, without) = (owned.house.token("with", &[]), owned.house.token("without", &[]));
    let kind = Client::of(ProtocolVersion::V_2026_07_28).with_pages();
    let page = kind.connect(&owned.house, &with).await;
    let rounds = Client::of(ProtocolVersion::V_2026_07_28).connect(&owned.house, &without).await;
    let approving = async {
        // longer than a leg of 25 s, so that each comes back at least once
        tokio::time::sleep(Duration::from_secs(27)).await;
        tokio::task::block_in_place(|| owned.approve_all(2));
    };
    let (paged, ridden, ()) = tokio::join!(page.call_tool(write("a")), rounds.call_tool(write("b")), approving);
    ran(&paged.unwrap());
    ran(&ridden.unwrap());
    assert_eq!(kind.pages.load(Ordering::SeqCst), 1, "the page is asked for once");
    assert_eq!(owned.upstream.calls().len(), 2);

    let declining = Client { declines: true, ..kind }.connect(&owned.house, &with).await;
    let declined = declining.call_tool(write("c")).await.unwrap();
    assert_eq!(decision(&declined)["reason"], "hold_cancelled");
    assert_eq!(owned.upstream.calls().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rmcp_waits_in_every_way_while_the_server_is_killed_and_calls_again() {
    let mut owned = Owned::open().await;
    let kinds = [
        ("page", Client::of(ProtocolVersion::V_2026_07_28).with_pages()),
        ("rounds", Client::of(ProtocolVersion::V_2026_07_28)),
        ("oldpage", Client::of(ProtocolVersion::V_2025_11_25).with_pages()),
        ("wait", Client::of(ProtocolVersion::V_2025_06_18)),
    ];
    let mut clients = Vec::new();
    for (agent, kind) in &kinds {
        let token = owned.house.token(agent, &[]);
        clients.push(kind.connect(&owned.house, &token).await);
    }
    let mut calls = tokio::task::JoinSet::new();
    for ((agent, _), client) in kinds.iter().zip(&clients) {
        let (peer, agent) = (client.peer().clone(), (*agent).to_owned());
        calls.spawn(async move { (agent.clone(), peer.call_tool_once(write(&agent)).await) });
    }
    tokio::task::block_in_place(|| {
        owned.waiting(4);
        owned.die_and_come_back();
    });
    // whoever waited on a stream is not told that it broke off; a client that asks for pages was answered at once
    calls.abort_all();
    drop(calls);
    let again = async |client: &Running, agent: &str| client.call_tool(write(agent)).await.unwrap();
    let approving = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        tokio::task::block_in_place(|| owned.approve_all(4));
    };
    let results =
        futures_util::future::join_all(kinds.iter().zip(&clients).map(|((agent, _), client)| again(client, agent)));
    let (results, ()) = tokio::join!(results, approving);
    results.iter().for_each(ran);
    assert_eq!(owned.upstream.calls().len(), 4, "each was run once");
    assert_eq!(kinds[0].1.pages.load(Ordering::SeqCst), 1);
    assert!(kinds[2].1.pages.load(Ordering::SeqCst) >= 1, "the page is asked for on the call's own stream");
}
