//! The ledger as a whole; its parts are tested in the files below.

mod callers;
mod holds;
mod meaning;
mod notes;
mod passkeys;
mod road;
mod signed_in;
mod stores;
mod tampering;
mod trees;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::*;
use crate::{
    call::{Assurance, CallId, Door, Identified, Link, Operation, Passage, Principal, Received, Validated},
    clock::Timestamp,
    contract::{Catalog, UpstreamName, file::Contract},
    grant::{Decision, Grants, Sessions, Source},
    json::{self, Limits},
};

pub(super) fn clock() -> Clock {
    Clock::fixed("2026-11-21T03:00:00Z".parse().unwrap())
}

pub(super) fn options() -> Options {
    Options { origin: "example.test/ledger".to_owned(), batched_reads: false, keep_payloads: true }
}

pub(super) fn open(folder: &Path) -> Ledger {
    Ledger::open(folder, options(), clock()).unwrap().0
}

/// Two tools, `bank__pay` that spends and `files__look` that only reads, and an agent that may call both.
pub(super) struct House {
    catalog: Catalog,
    grants: Grants,
    sessions: Sessions,
    who: Arc<Principal>,
}

impl House {
    pub(super) fn new() -> Self {
        Self::granting(r#"@id("all") permit (principal, action, resource);"#)
    }

    /// The same under other grants.
    pub(super) fn granting(text: &str) -> Self {
        let contract = |upstream: &str, tool: &str, hints: &str| {
            let definition = format!(
                r#"{{"name":"{tool}","annotations":{hints},"inputSchema":{{"type":"object","properties":{{"what":{{"type":"string"}}}}}}}}"#
            );
            let definition = json::parse(definition.as_bytes(), &Limits::REQUEST).unwrap();
            let upstream = UpstreamName::new(upstream).unwrap();
            Ok(Contract::propose(&upstream, &definition, Timestamp::UNIX_EPOCH).unwrap())
        };
        let contracts = [
            contract("bank", "pay", r#"{"destructiveHint":true,"openWorldHint":false}"#),
            contract("files", "look", r#"{"readOnlyHint":true,"openWorldHint":false}"#),
        ];
        let advertised: BTreeMap<_, _> =
            ["bank", "files"].map(|name| (UpstreamName::new(name).unwrap(), None)).into_iter().collect();
        let catalog = Catalog::new(&contracts, &advertised);
        let source = Source { file: "all.cedar".into(), text: text.to_owned() };
        let grants = Grants::compile(&[source], &catalog).unwrap();
        let who = Arc::new(Principal {
            agent: "clerk".to_owned(),
            issuer: "example.test".to_owned(),
            user: Some("ana".to_owned()),
            task: None,
            teams: Vec::new(),
            scopes: Vec::new(),
            workload: None,
            chain: Vec::new(),
            tools: None,
            assurance: Assurance::Bearer,
            credential: "jti-1".to_owned(),
            issued: Timestamp::UNIX_EPOCH,
            expires: Timestamp::MAX,
        });
        Self { catalog, grants, sessions: Sessions::default(), who }
    }

    pub(super) fn received(&self, at: Timestamp, name: &str, what: &str) -> Received {
        let arguments = crate::json::Object::new().with("what", what).into();
        let id = CallId::new(at).unwrap();
        let (door, operation) = (Door::Http, Operation::CallTool);
        Received::new(id, at, door, operation, name.to_owned(), arguments, Passage::default(), Link::none())
    }

    pub(super) fn validated(&self, ledger: &Ledger, name: &str, what: &str) -> Validated {
        let call = self.received(ledger.inner.clock.now(), name, what);
        call.authenticate(Identified::vouch(Arc::clone(&self.who))).validate(&self.catalog).unwrap()
    }

    pub(super) fn permitted(&self, ledger: &Ledger, name: &str, what: &str) -> Permitted {
        let call = self.validated(ledger, name, what);
        match self.grants.decide(call, &self.sessions) {
            Decision::Permit(call) => call,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn answer(text: &'static str) -> Outcome {
    let tree = json::parse(text.as_bytes(), &Limits::RESPONSE).unwrap();
    Outcome::Result { tree, text: Bytes::from_static(text.as_bytes()) }
}

impl Ledger {
    /// An intent and its outcome, as the road writes them.
    pub(super) async fn call(&self, house: &House, tool: &str, what: &str) -> u64 {
        let recorded = self.intend(house.permitted(self, tool, what)).await.unwrap();
        self.write_outcome(&recorded, &answer(r#"{"content":[]}"#), 42, &[]).await.unwrap();
        recorded.seq()
    }
}
