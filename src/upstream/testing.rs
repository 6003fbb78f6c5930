//! Calls and a house for the tests of this module.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{Host, outgoing::Sendable};
use crate::{
    call::{Assurance, ClientSide, Link, Notice, Operation, Passage, Principal},
    clock::Timestamp,
    config::{Transport, UpstreamAuth, UpstreamConfig},
    contract::{Advertised, Tool, UpstreamName, file::Contract},
    grant::Asked,
    hold::HoldId,
    json::{Canonical, Limits, Value, parse},
};

/// A call that was never recorded.
pub(super) struct FakeCall {
    pub(super) tool: Arc<Tool>,
    pub(super) arguments: Canonical,
    pub(super) passage: Passage,
    pub(super) link: Link,
    pub(super) principal: Arc<Principal>,
    pub(super) countersigned: Option<HoldId>,
}

impl FakeCall {
    pub(super) fn new(tool: Arc<Tool>, arguments: &str) -> Self {
        let principal = Principal {
            agent: "a".to_owned(),
            issuer: "i".to_owned(),
            user: None,
            task: None,
            teams: Vec::new(),
            scopes: Vec::new(),
            workload: None,
            chain: Vec::new(),
            tools: None,
            assurance: Assurance::Bearer,
            credential: "c".to_owned(),
            issued: Timestamp::UNIX_EPOCH,
            expires: Timestamp::UNIX_EPOCH,
        };
        Self {
            tool,
            arguments: Canonical::of(json(arguments)).unwrap(),
            passage: Passage::default(),
            link: Link::none(),
            principal: Arc::new(principal),
            countersigned: None,
        }
    }

    /// With a link to a client, and the client's ends of it.
    pub(super) fn linked(
        mut self,
        client: ClientSide,
    ) -> (Self, tokio::sync::mpsc::Receiver<Notice>, tokio::sync::watch::Sender<bool>) {
        let (link, notices, cancel) = Link::new(client, 16);
        self.link = link;
        (self, notices, cancel)
    }
}

impl Sendable for FakeCall {
    fn tool(&self) -> &Arc<Tool> {
        &self.tool
    }

    fn operation(&self) -> Operation {
        self.tool.operation
    }

    fn arguments(&self) -> &Canonical {
        &self.arguments
    }

    fn passage(&self) -> &Passage {
        &self.passage
    }

    fn link(&self) -> &Link {
        &self.link
    }

    fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    fn countersigned(&self) -> Option<&HoldId> {
        self.countersigned.as_ref()
    }
}

pub(super) fn json(text: &str) -> Value {
    parse(text.as_bytes(), &Limits::RESPONSE).unwrap()
}

pub(super) fn name(text: &str) -> UpstreamName {
    UpstreamName::new(text).unwrap()
}

pub(super) fn tool(upstream: &str, wire_name: &str) -> Arc<Tool> {
    Arc::new(compiled(upstream, wire_name))
}

pub(super) fn compiled(upstream: &str, wire_name: &str) -> Tool {
    let definition = json(&format!(r#"{{"name":"{wire_name}","inputSchema":{{"type":"object"}}}}"#));
    let contract = Contract::propose(&name(upstream), &definition, Timestamp::UNIX_EPOCH).unwrap();
    Tool::compile(&contract).unwrap()
}

/// A house that offers every tool that is advertised, and grants every question if told so.
#[derive(Default)]
pub(super) struct FakeHouse {
    pub(super) tools: Mutex<Vec<String>>,
    pub(super) comparisons: std::sync::atomic::AtomicUsize,
    pub(super) asks: bool,
}

impl Host for FakeHouse {
    fn advertised(&self, _upstream: &UpstreamName, advertised: Advertised) {
        let names = advertised.tools.iter().filter_map(|tool| Some(tool.get("name")?.as_str()?.to_owned()));
        *self.tools.lock().unwrap() = names.collect();
        self.comparisons.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }

    fn offered(&self, tool: &Tool) -> bool {
        self.tools.lock().unwrap().contains(&tool.wire_name)
    }

    fn may_ask(&self, _principal: &Principal, _asked: Asked, _upstream: &UpstreamName) -> bool {
        self.asks
    }

    fn could_ask(&self, _principal: &Principal, _asked: Asked, _upstream: &UpstreamName) -> bool {
        self.asks
    }
}

pub(super) fn config(transport: Transport) -> UpstreamConfig {
    UpstreamConfig {
        transport,
        auth: UpstreamAuth::None,
        timeout: Duration::from_secs(5),
        concurrency: 4,
        queue: 2,
        refresh: Duration::from_secs(3600),
        max_result: 100_000,
        labels: Vec::new(),
    }
}
