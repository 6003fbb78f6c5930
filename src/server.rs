//! One house: everything that a call meets, put together from files and taken apart again.
//!
//! [`House::open`] opens the ledger and reads contracts and grants; it listens to nobody. [`House::start`]
//! connects the upstreams and watches the files. The doors ([`crate::mcp`], [`crate::http`]) are opened by
//! whoever runs the house.

mod told;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    approver::Approvers,
    authority::Authority,
    call::Fault,
    clock::{Clock, Timestamp},
    config::Config,
    contract::{
        Advertised, Catalog, Quarantine, Quarantined, UpstreamName,
        file::{self, Contract},
    },
    display,
    grant::{ConfigError, Grants, Past, Sessions, Source},
    identity::{self, Identity},
    json::{Canonical, Digest},
    lease::{Leases, OwnKey},
    ledger::{Event, Filter, Ledger, NotOpened, Options, Recovery},
    listen::Certificate,
    notify::{Notifier, Source as Events},
    observe::Metrics,
    pipeline::{Contracts, Detached, HouseChange, Pipeline, Review},
    reach::{self, Resolver},
    secret_file,
    upstream::Upstreams,
    workload::{self, Workloads},
};

use told::Told;

/// Quarantine notes that may wait to be written.
const NOTES: usize = 10_000;

/// Changes of what is offered that a slow door may lag behind.
const CHANGES: usize = 64;

/// Who a command is done by.
const OPERATOR: &str = "operator";

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long changed files have to lie still before they are read, and how often that is waited for.
const STILL: Duration = Duration::from_millis(200);
const STILL_TRIES: usize = 50;

/// A house, open or running.
#[derive(Debug)]
pub struct House {
    /// The road and all that calls meet on it.
    pub pipeline: Arc<Pipeline>,
    /// What the configuration says.
    pub config: Arc<Config>,
    /// What was found when the ledger was opened.
    pub recovery: Recovery,
    /// The key that seals sessions and request states.
    pub session_key: [u8; 32],
    /// Workloads that prove who they are.
    pub workloads: Arc<Workloads>,
    shelf: Arc<Shelf>,
    /// The files as they were before they were read.
    seen: Fingerprint,
    certificates: OnceLock<Vec<Arc<Certificate>>>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

/// Why a house cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Files that an operator has to correct.
    Config(Vec<ConfigError>),
    /// Another process has the store; see [`NotOpened::InUse`].
    InUse(NotOpened),
    /// Something of ours that failed.
    Fault(Fault),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => {
                for (place, error) in errors.iter().enumerate() {
                    let end = if place + 1 < errors.len() { "\n" } else { "" };
                    write!(f, "{error}{end}")?;
                }
                Ok(())
            }
            Self::InUse(why) => why.fmt(f),
            Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<Fault> for OpenError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<NotOpened> for OpenError {
    fn from(why: NotOpened) -> Self {
        match why {
            NotOpened::InUse(_) => Self::InUse(why),
            NotOpened::Fault(fault) => Self::Fault(fault),
        }
    }
}

/// The files as they were last read, and what upstreams last told: from both the catalog is made.
#[derive(Debug)]
struct Shelf {
    upstreams: BTreeSet<UpstreamName>,
    notes: mpsc::Sender<Event>,
    state: Mutex<State>,
    /// Files are read and put into force by one at a time: else who read first could publish last, and an older
    /// set would stay in force.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    contracts: Vec<Result<Contract, Quarantined>>,
    advertised: BTreeMap<UpstreamName, Option<Advertised>>,
    quarantined: BTreeSet<(String, String)>,
}

/// What `tool register` did with one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Whose tool.
    pub upstream: UpstreamName,
    /// The name the upstream gives it.
    pub tool: String,
    /// What was done.
    pub result: Registration,
}

/// See [`Registered`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// A contract was written.
    New {
        /// Its impact, as proposed.
        impact: Vec<&'static str>,
    },
    /// The contract is there already and fits.
    Unchanged,
    /// The contract is there and the definition is another: `tool review`, then `tool accept`.
    Changed,
    /// It cannot be registered: why.
    Refused(String),
    /// The upstream cannot be asked, and why; there is no tool's name then.
    Unreachable(String),
}

impl House {
    /// Opens the ledger, reads keys, contracts and grants. Nothing is listened to and no upstream started.
    ///
    /// # Errors
    /// Every error in contracts' folder and grants at once, or the fault that kept the ledger shut.
    pub fn open(config: Config, clock: Clock) -> Result<Self, OpenError> {
        let seen = fingerprint(&config.folder);
        let contracts = read_contracts(&config.folder)?;
        let grants = compile(&config, &contracts).map_err(OpenError::Config)?.1;
        Self::open_with(config, clock, contracts, grants, seen)
    }

    /// Opens it for work that judges no call: when the grants do not check, none is in force and nothing would be
    /// permitted. Registering a tool is how a grant that names it comes to check.
    ///
    /// # Errors
    /// As [`House::open`], but for the grants.
    pub fn open_unjudging(config: Config, clock: Clock) -> Result<Self, OpenError> {
        let seen = fingerprint(&config.folder);
        let contracts = read_contracts(&config.folder)?;
        let grants = match compile(&config, &contracts) {
            Ok((_, grants)) => grants,
            Err(_) => Grants::compile(&[], &stocked(&config, &contracts)).map_err(OpenError::Config)?,
        };
        Self::open_with(config, clock, contracts, grants, seen)
    }

    fn open_with(
        config: Config,
        clock: Clock,
        contracts: Vec<Result<Contract, Quarantined>>,
        grants: Grants,
        seen: Fingerprint,
    ) -> Result<Self, OpenError> {
        let config = Arc::new(config);
        let catalog = stocked(&config, &contracts);
        let resolver: Arc<dyn Resolver> = Arc::new(reach::System);
        let workloads = Workloads::open(&config.identity, &config.endpoint(), &resolver).map_err(|why| match why {
            workload::NotOpened::Config(errors) => OpenError::Config(errors),
            workload::NotOpened::Fault(fault) => OpenError::Fault(fault),
        })?;
        let workloads = Arc::new(workloads);
        secret_file::private_folder(&config.data)?;
        // what is kept beside the log are arguments and results: nobody else's to read, whatever the folder's mode
        for kept in ["store", "payloads"] {
            secret_file::own_folder(&config.data.join(kept))?;
        }
        let options = Options {
            origin: config.ledger.origin.clone(),
            batched_reads: config.ledger.batched_reads,
            keep_payloads: config.ledger.keep_payloads,
        };
        let (ledger, recovery) = Ledger::open(&config.data, options, clock.clone())?;
        let identity = Identity::open(
            &config.data,
            config.endpoint(),
            &config.identity,
            &resolver,
            ledger.clone(),
            clock.clone(),
        )?
        .with_workloads(Arc::clone(&workloads));
        let endpoint = config.endpoint();
        let authority = Authority::open(&config.identity, &endpoint, &resolver, ledger.clone(), clock.clone())?;
        let approvers = Approvers::open(&config.data, ledger.clone(), clock.clone())?;
        let leases = {
            let signer = identity.signer();
            let issuer = identity::origin(&endpoint).to_owned();
            let signs = OwnKey::new(Box::new(move |claims| signer.sign(claims)), issuer, clock.clone());
            Leases::open(&config.upstreams, &config.data, ledger.clone(), Arc::new(signs), &resolver, clock.clone())?
        };
        let session_key = session_key(&config.data)?;
        let metrics = Arc::new(Metrics::default());
        let (notes, arriving) = mpsc::channel(NOTES);
        let shelf = Arc::new(Shelf {
            upstreams: config.upstreams.keys().cloned().collect(),
            notes,
            state: Mutex::new(State {
                contracts,
                advertised: config.upstreams.keys().map(|name| (name.clone(), None)).collect(),
                quarantined: BTreeSet::new(),
            }),
            turn: tokio::sync::Mutex::default(),
        });
        let sessions = Sessions::default();
        remember(&sessions, &ledger, &grants, clock.now())?;
        let pipeline = Arc::new(Pipeline {
            clock,
            identity,
            authority,
            catalog: ArcSwap::from_pointee(catalog),
            grants: ArcSwap::from_pointee(grants),
            sessions,
            approvers,
            upstreams: Upstreams::new(&config.upstreams, leases, Arc::clone(&metrics)),
            ledger,
            metrics,
            contracts: Box::new(OnShelf { shelf: Arc::clone(&shelf), config: Arc::clone(&config) }),
            changed: tokio::sync::broadcast::channel(CHANGES).0,
            heavy: tokio::sync::Mutex::default(),
            console: config.console_url(),
            notifier: OnceLock::new(),
            streams: crate::pipeline::Streams::default(),
            holding: crate::pipeline::Holding::default(),
            detached: Detached::default(),
        });
        let mut tasks = JoinSet::new();
        let (stop, _) = watch::channel(false);
        if tokio::runtime::Handle::try_current().is_ok() {
            tasks.spawn(write_notes(pipeline.ledger.clone(), arriving));
        }
        Ok(Self {
            pipeline,
            config,
            recovery,
            session_key,
            workloads,
            shelf,
            seen,
            certificates: OnceLock::new(),
            running: Mutex::new(Some(Running { tasks, stop })),
        })
    }

    /// Records what was loaded, connects the upstreams and watches the files, until [`House::stop`].
    ///
    /// # Errors
    /// [`Fault`] when the start cannot be recorded.
    pub async fn start(&self) -> Result<(), Fault> {
        let ledger = &self.pipeline.ledger;
        ledger.note(Event::ServerStarted { version: env!("CARGO_PKG_VERSION").to_owned() }).await?;
        let grants = self.pipeline.grants.load_full();
        ledger.note(Event::PolicyLoaded { set: grants.digest(), policies: grants.len() }).await?;
        self.note_pins().await?;
        self.pipeline.upstreams.start(Arc::clone(&self.pipeline) as Arc<dyn crate::upstream::Host>);
        let told = Told::new(ledger.clone(), self.pipeline.console.clone());
        let events = Arc::clone(&told) as Arc<dyn Events>;
        let notifier = Notifier::start(&self.config.notify, &self.config.data, &events, &self.pipeline.clock)?;
        let _started_once = self.pipeline.notifier.set(notifier);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_mut() {
            running.tasks.spawn(told.follow(running.stop.subscribe()));
            let watching = Watch {
                seen: self.seen.clone(),
                shelf: Arc::clone(&self.shelf),
                config: Arc::clone(&self.config),
                pipeline: Arc::downgrade(&self.pipeline),
                stop: running.stop.subscribe(),
            };
            let (house, stop) = (Arc::downgrade(&self.pipeline), running.stop.subscribe());
            running.tasks.spawn(crate::pipeline::watch_holds(house, stop));
            running.tasks.spawn(watching.run());
            running.tasks.spawn(Arc::clone(&self.workloads).follow(running.stop.subscribe()));
        }
        Ok(())
    }

    /// Reads contracts and grants again. A set that does not check is refused whole, and the old one stays.
    ///
    /// # Errors
    /// Every error in it at once.
    pub async fn reload(&self) -> Result<(), Vec<ConfigError>> {
        reload(&self.shelf, &self.config, &self.pipeline, None).await
    }

    /// Watches the certificates of this house's doors, until [`House::stop`].
    pub fn keep_certificates(&self, certificates: Vec<Arc<Certificate>>) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_mut() {
            for certificate in &certificates {
                running.tasks.spawn(Arc::clone(certificate).follow(running.stop.subscribe()));
            }
        }
        let _opened_once = self.certificates.set(certificates);
    }

    /// Reads contracts, grants, certificates and what vouches for those of agents again. What does not check is refused
    /// whole, and the old stays: the contracts and grants as one, each certificate with its key.
    ///
    /// # Errors
    /// Every error in them at once.
    pub async fn reload_everything(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = self.reload().await.err().unwrap_or_default();
        for certificate in self.certificates.get().into_iter().flatten() {
            errors.extend(certificate.reload().err());
        }
        errors.extend(self.workloads.reload().err().into_iter().flatten());
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Asks upstreams for their tools and writes a contract for each that has none. Beside what was done it gives
    /// the errors that the grants have even so: the old ones stay in force then.
    ///
    /// # Errors
    /// [`Fault`] when the upstream is not configured or cannot be asked, or a file cannot be written.
    pub async fn register(&self, only: Option<&UpstreamName>) -> Result<(Vec<Registered>, Vec<ConfigError>), Fault> {
        if let Some(name) = only.filter(|name| !self.config.upstreams.contains_key(*name)) {
            return Err(Fault(format!("there is no upstream `{name}`; add it with `countersign upstream add`")));
        }
        let mut done = Vec::new();
        for name in self.config.upstreams.keys().filter(|name| only.is_none_or(|only| only == *name)) {
            let advertised = match self.pipeline.upstreams.advertised(name).await {
                Ok(advertised) => advertised,
                // one that cannot be asked does not keep the others from being registered
                Err(why) if only.is_none() => {
                    let (upstream, result) = (name.clone(), Registration::Unreachable(why));
                    done.push(Registered { upstream, tool: String::new(), result });
                    continue;
                }
                Err(why) => return Err(Fault(format!("upstream `{name}` cannot be asked for its tools: {why}"))),
            };
            for definition in &advertised.tools {
                done.push(self.register_one(name, definition)?);
            }
        }
        Ok((done, self.reload().await.err().unwrap_or_default()))
    }

    fn register_one(&self, upstream: &UpstreamName, definition: &crate::json::Value) -> Result<Registered, Fault> {
        let tool = definition.get("name").and_then(crate::json::Value::as_str).unwrap_or_default().to_owned();
        let result = match Contract::propose(upstream, definition, self.pipeline.clock.now()) {
            Err(why) => Registration::Refused(why),
            Ok(proposed) => match self.shelf.contract(upstream, &tool) {
                Some(Ok(old)) if old.digest == proposed.digest => Registration::Unchanged,
                Some(Ok(_)) => Registration::Changed,
                Some(Err(broken)) => Registration::Refused(broken.why.told().1),
                None => match crate::contract::Tool::compile(&proposed) {
                    Err(why) => Registration::Refused(why),
                    Ok(_) => {
                        file::write(&schemas(&self.config.folder), &proposed)
                            .map_err(|error| Fault(format!("the contract of `{tool}` cannot be written: {error}")))?;
                        Registration::New { impact: proposed.impact.iter().map(|impact| impact.word()).collect() }
                    }
                },
            },
        };
        Ok(Registered { upstream: upstream.clone(), tool, result })
    }

    /// As [`Contracts::accept`].
    ///
    /// # Errors
    /// [`Fault`] when there is nothing to accept, it is not what was shown, or it cannot be trusted.
    pub async fn accept(&self, upstream: &UpstreamName, tool: &str, shown: Option<Digest>) -> Result<Digest, Fault> {
        self.pipeline.contracts.accept(&self.pipeline, upstream, tool, shown, None).await
    }

    /// As [`Contracts::reject`], by the operator.
    ///
    /// # Errors
    /// [`Fault`] when no definition of that digest waits, or it cannot be written down.
    pub async fn reject(&self, upstream: &UpstreamName, tool: &str, shown: Digest) -> Result<(), Fault> {
        self.pipeline.contracts.reject(&self.pipeline, upstream, tool, shown, OPERATOR).await
    }

    /// What is not offered and why; asks the upstreams anew.
    ///
    /// # Errors
    /// [`Fault`] when none of the upstreams can be asked.
    pub async fn review(&self) -> Result<Vec<Review>, Fault> {
        for name in self.config.upstreams.keys() {
            // one upstream that cannot be asked leaves the others' reviews as they are
            if let Ok(advertised) = self.pipeline.upstreams.advertised(name).await {
                self.shelf.renew(&self.pipeline, name, advertised);
            }
        }
        let catalog = self.pipeline.catalog.load();
        let review = |quarantined: &Quarantined| self.shelf.reviewed(&self.pipeline, quarantined);
        Ok(catalog.quarantined().iter().map(review).collect())
    }

    /// Lets calls in flight end, stops upstreams and watchers, and closes the ledger.
    pub async fn stop(&self, why: &str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.pipeline.upstreams.stop().await;
        self.pipeline.settle_detached().await;
        if let Some(notifier) = self.pipeline.notifier.get() {
            notifier.stop().await;
        }
        if let Some(mut running) = running {
            running.stop.send_replace(true);
            running.tasks.abort_all();
            while running.tasks.join_next().await.is_some() {}
        }
        if let Err(fault) = self.pipeline.ledger.note(Event::ServerStopped { why: why.to_owned() }).await {
            tracing::warn!(%fault, "the stop could not be recorded");
        }
        self.pipeline.ledger.close().await;
    }

    async fn note_pins(&self) -> Result<(), Fault> {
        note_pins(&self.shelf, &self.pipeline.ledger, None).await
    }
}

impl Shelf {
    fn contract(&self, upstream: &UpstreamName, tool: &str) -> Option<Result<Contract, Quarantined>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .contracts
            .iter()
            .find(|contract| match contract {
                Ok(contract) => contract.upstream == *upstream && contract.tool() == Some(tool),
                Err(broken) => broken.upstream == *upstream && broken.tool == tool,
            })
            .cloned()
    }

    /// Makes the catalog again with what an upstream tells now.
    fn renew(&self, pipeline: &Pipeline, upstream: &UpstreamName, advertised: Advertised) {
        if !self.upstreams.contains(upstream) {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.advertised.insert(upstream.clone(), Some(advertised));
        self.publish(pipeline, &mut state);
    }

    fn publish(&self, pipeline: &Pipeline, state: &mut State) {
        let catalog = Catalog::renew(&pipeline.catalog.load(), &state.contracts, &state.advertised);
        // what nobody registered can be named by an upstream as often as it likes: it is no news
        let registered: BTreeSet<(String, String)> = state
            .contracts
            .iter()
            .map(|contract| match contract {
                Ok(contract) => (contract.upstream.to_string(), contract.tool().unwrap_or_default().to_owned()),
                Err(broken) => (broken.upstream.to_string(), broken.tool.clone()),
            })
            .collect();
        let quarantined = catalog
            .quarantined()
            .iter()
            .filter(|tool| registered.contains(&(tool.upstream.to_string(), tool.tool.clone())))
            .map(|quarantined| {
                let key = (quarantined.upstream.to_string(), quarantined.tool.clone());
                if !state.quarantined.contains(&key) {
                    let (why, detail) = quarantined.why.told();
                    tracing::warn!(upstream = %quarantined.upstream, tool = ?quarantined.tool, why, detail, "a tool is quarantined");
                    let note = Event::ToolQuarantined {
                        upstream: key.0.clone(),
                        tool: key.1.clone(),
                        why: why.to_owned(),
                    };
                    if self.notes.try_send(note).is_err() {
                        tracing::error!("a quarantine could not be noted in the ledger");
                    }
                }
                key
            })
            .collect();
        state.quarantined = quarantined;
        pipeline.catalog.store(Arc::new(catalog));
        pipeline.tell(HouseChange::Offers);
    }
}

#[derive(Debug)]
struct OnShelf {
    shelf: Arc<Shelf>,
    config: Arc<Config>,
}

impl OnShelf {
    async fn take(
        &self,
        pipeline: &Pipeline,
        upstream: &UpstreamName,
        tool: &str,
        shown: Option<Digest>,
        by: Option<&str>,
    ) -> Result<Digest, Fault> {
        let advertised = pipeline
            .upstreams
            .advertised(upstream)
            .await
            .map_err(|why| Fault(format!("upstream `{upstream}` cannot be asked for its tools: {why}")))?;
        let definition = advertised
            .tools
            .iter()
            .find(|definition| definition.get("name").and_then(crate::json::Value::as_str) == Some(tool))
            .ok_or_else(|| Fault(format!("upstream `{upstream}` does not advertise `{tool}`")))?;
        let mut contract = Contract::propose(upstream, definition, pipeline.clock.now()).map_err(Fault)?;
        if shown.is_some_and(|shown| shown != contract.digest) {
            return Err(Fault(format!("`{tool}` is not what was shown any more: it is {} now", contract.digest)));
        }
        let accepted = contract.digest;
        if let Some(Ok(old)) = self.shelf.contract(upstream, tool) {
            contract = Contract {
                impact: old.impact,
                labels: old.labels,
                arguments: old.arguments,
                open: old.open,
                idempotent: old.idempotent,
                ..contract
            };
        }
        crate::contract::Tool::compile(&contract).map_err(Fault)?;
        file::write(&schemas(&self.config.folder), &contract)
            .map_err(|error| Fault(format!("the contract of `{tool}` cannot be written: {error}")))?;
        let accepted_by = by.map(|by| By { upstream, tool, by });
        reload(&self.shelf, &self.config, pipeline, accepted_by)
            .await
            .map_err(|errors| Fault(OpenError::Config(errors).to_string()))?;
        Ok(accepted)
    }
}

impl Shelf {
    fn reviewed(&self, pipeline: &Pipeline, quarantined: &Quarantined) -> Review {
        let Quarantined { upstream, tool, why } = quarantined;
        let contract = self.contract(upstream, tool).and_then(Result::ok);
        let (mut difference, mut advertised) = (None, None);
        if let Quarantine::Changed { advertised: now } = why {
            difference = contract.as_ref().map(|contract| display::changes(&contract.definition, now));
            advertised = Canonical::of(now.clone()).ok();
        }
        let (why, detail) = why.told();
        let views = pipeline.ledger.views();
        let digest = advertised.as_ref().map(|definition| definition.digest().to_string());
        let rejected = views.rejection(upstream.as_str(), tool).filter(|it| Some(&it.definition) == digest.as_ref());
        let (upstream, tool, rejected) = (upstream.clone(), tool.clone(), rejected.cloned());
        Review { upstream, tool, why, detail, contract, advertised, difference, rejected }
    }
}

/// Who accepted which tool's definition.
#[derive(Clone, Copy)]
struct By<'a> {
    upstream: &'a UpstreamName,
    tool: &'a str,
    by: &'a str,
}

impl Contracts for OnShelf {
    fn advertised(&self, pipeline: &Pipeline, upstream: &UpstreamName, advertised: Advertised) {
        self.shelf.renew(pipeline, upstream, advertised);
    }

    fn review(&self, pipeline: &Pipeline, upstream: &UpstreamName, tool: &str) -> Option<Review> {
        let catalog = pipeline.catalog.load();
        let all = catalog.quarantined();
        let quarantined = all.iter().find(|it| it.upstream == *upstream && it.tool == tool)?;
        Some(self.shelf.reviewed(pipeline, quarantined))
    }

    fn accept<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        upstream: &'a UpstreamName,
        tool: &'a str,
        shown: Option<Digest>,
        by: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Digest, Fault>> {
        Box::pin(self.take(pipeline, upstream, tool, shown, by))
    }

    fn reject<'a>(
        &'a self,
        pipeline: &'a Pipeline,
        upstream: &'a UpstreamName,
        tool: &'a str,
        shown: Digest,
        by: &'a str,
    ) -> BoxFuture<'a, Result<(), Fault>> {
        Box::pin(async move {
            let waits = pipeline.catalog.load().quarantined().iter().any(|quarantined| {
                let Quarantine::Changed { advertised } = &quarantined.why else { return false };
                let same = quarantined.upstream == *upstream && quarantined.tool == tool;
                same && Canonical::of(advertised.clone()).is_ok_and(|definition| definition.digest() == shown)
            });
            if !waits {
                return Err(Fault(format!("`{tool}` is not what was shown any more: look at it again")));
            }
            let (upstream, tool, by) = (upstream.to_string(), tool.to_owned(), by.to_owned());
            pipeline.ledger.note(Event::ToolRejected { upstream, tool, definition: shown, by }).await?;
            Ok(())
        })
    }
}

/// Calls of the past that are remembered at a start, at most.
const REMEMBERED: usize = 20_000;

/// Counts the calls of the last day again, so that a restart forgets neither a session nor a limit.
fn remember(sessions: &Sessions, ledger: &Ledger, grants: &Grants, now: Timestamp) -> Result<(), Fault> {
    let since = now.checked_sub(jiff::SignedDuration::from_hours(24)).ok();
    let filter = Filter { kind: Some("call.intended".to_owned()), since, ..Filter::default() };
    ledger.replay(&filter, REMEMBERED, |entry| {
        let Ok(past) = serde_json::from_slice::<Intended<'_>>(&entry.text) else { return };
        let Some(upstream) = past.upstream.as_deref().and_then(UpstreamName::new) else { return };
        let policies: Vec<&str> = past.policies.iter().map(AsRef::as_ref).collect();
        sessions.observe(
            grants,
            &Past {
                agent: &past.agent,
                user: past.user.as_deref(),
                task: past.task.as_deref(),
                action: &past.tool,
                upstream: &upstream,
                policies: &policies,
                at: past.at,
            },
        );
    })
}

/// What `call.intended` says that a session is made of.
#[derive(serde::Deserialize)]
struct Intended<'a> {
    #[serde(deserialize_with = "time")]
    at: Timestamp,
    #[serde(borrow, default)]
    agent: Cow<'a, str>,
    #[serde(borrow, default)]
    user: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    task: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool: Cow<'a, str>,
    #[serde(borrow, default)]
    upstream: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    policies: Vec<Cow<'a, str>>,
}

fn time<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
    let text = <Cow<'de, str> as serde::Deserialize>::deserialize(from)?;
    text.parse().map_err(serde::de::Error::custom)
}

async fn write_notes(ledger: Ledger, mut arriving: mpsc::Receiver<Event>) {
    while let Some(event) = arriving.recv().await {
        if let Err(fault) = ledger.note(event).await {
            tracing::error!(%fault, "a quarantine could not be noted in the ledger");
        }
    }
}

struct Watch {
    /// The files as they were before they were read.
    seen: Fingerprint,
    shelf: Arc<Shelf>,
    config: Arc<Config>,
    pipeline: Weak<Pipeline>,
    stop: watch::Receiver<bool>,
}

impl Watch {
    /// Looks at the files until the house stops. Polling sees edits on every file system, and a look costs
    /// one `stat` a file.
    async fn run(mut self) {
        loop {
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let mut now = fingerprint(&self.config.folder);
            if now == self.seen {
                continue;
            }
            // an editor that moves the old file away before it writes the new one, or writes it piece by piece,
            // would have a guardrail vanish for a moment: so the files have to lie still first
            for _ in 0..STILL_TRIES {
                tokio::select! {
                    _ = self.stop.wait_for(|stop| *stop) => return,
                    () = tokio::time::sleep(STILL) => {}
                }
                let later = fingerprint(&self.config.folder);
                let still = later == now;
                now = later;
                if still {
                    break;
                }
            }
            self.seen = now;
            let Some(pipeline) = self.pipeline.upgrade() else { return };
            match reload(&self.shelf, &self.config, &pipeline, None).await {
                Ok(()) => tracing::info!("contracts and grants were loaded again"),
                Err(errors) => {
                    for error in &errors {
                        tracing::error!(%error, "contracts and grants were not loaded; the old ones stay");
                    }
                }
            }
        }
    }
}

async fn reload(
    shelf: &Shelf,
    config: &Config,
    pipeline: &Pipeline,
    accepted: Option<By<'_>>,
) -> Result<(), Vec<ConfigError>> {
    let _turn = shelf.turn.lock().await;
    let contracts = read_contracts(&config.folder).map_err(|error| match error {
        OpenError::Config(errors) => errors,
        other => vec![whole(&schemas(&config.folder), other.to_string())],
    })?;
    let (_, grants) = compile(config, &contracts)?;
    {
        let mut state = shelf.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.contracts = contracts;
        shelf.publish(pipeline, &mut state);
    }
    let changed = pipeline.grants.load().digest() != grants.digest();
    let (set, policies) = (grants.digest(), grants.len());
    pipeline.grants.store(Arc::new(grants));
    pipeline.tell(HouseChange::Offers);
    let noted = async {
        if changed {
            pipeline.ledger.note(Event::PolicyLoaded { set, policies }).await?;
        }
        note_pins(shelf, &pipeline.ledger, accepted).await
    };
    noted.await.map_err(|fault| vec![whole(&config.folder, format!("loaded, but not recorded: {fault}"))])
}

/// Records contracts that the ledger does not know as they are now, and who accepted the one that somebody did.
async fn note_pins(shelf: &Shelf, ledger: &Ledger, accepted: Option<By<'_>>) -> Result<(), Fault> {
    let pins: Vec<_> = {
        let state = shelf.state.lock().unwrap_or_else(PoisonError::into_inner);
        let good = state.contracts.iter().filter_map(|contract| contract.as_ref().ok());
        good.filter_map(|contract| {
            let digest = contract.canonical_digest().ok()?;
            Some((contract.upstream.to_string(), contract.tool()?.to_owned(), digest))
        })
        .collect()
    };
    let views = ledger.views();
    for (upstream, tool, contract) in pins {
        let event = match views.pin(&upstream, &tool) {
            Some(pinned) if pinned == contract.to_string() => continue,
            Some(_) => {
                let accepted = accepted.filter(|it| it.upstream.as_str() == upstream && it.tool == tool);
                Event::ToolAccepted { upstream, tool, contract, by: accepted.map(|it| it.by.to_owned()) }
            }
            None => Event::ToolRegistered { upstream, tool, contract },
        };
        ledger.note(event).await?;
    }
    Ok(())
}

/// Checks contracts and grants without opening anything: the catalog as the contracts alone say, and the grants.
///
/// # Errors
/// Every error in the grants at once.
pub fn compile(
    config: &Config,
    contracts: &[Result<Contract, Quarantined>],
) -> Result<(Catalog, Grants), Vec<ConfigError>> {
    let catalog = stocked(config, contracts);
    let labels = config.upstreams.iter().map(|(name, upstream)| (name.clone(), upstream.labels.clone())).collect();
    let grants = Grants::compile_labelled(&read_grants(&config.folder)?, &catalog, &labels)?;
    Ok((catalog, grants))
}

/// The catalog as the contracts alone say, before an upstream was asked.
fn stocked(config: &Config, contracts: &[Result<Contract, Quarantined>]) -> Catalog {
    let unasked = config.upstreams.keys().map(|name| (name.clone(), None)).collect();
    Catalog::new(contracts, &unasked)
}

/// Reads the contracts below the configuration's folder.
///
/// # Errors
/// When the folder is there and cannot be listed.
pub fn read_contracts(folder: &Path) -> Result<Vec<Result<Contract, Quarantined>>, OpenError> {
    let schemas = schemas(folder);
    file::read_all(&schemas)
        .map_err(|error| OpenError::Config(vec![whole(&schemas, format!("cannot be read: {error}"))]))
}

/// Reads `grants/*.cedar` below the configuration's folder, in the order of their names.
///
/// # Errors
/// Every file that cannot be read.
pub fn read_grants(folder: &Path) -> Result<Vec<Source>, Vec<ConfigError>> {
    let grants = folder.join("grants");
    let listed = match fs::read_dir(&grants) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(vec![whole(&grants, format!("cannot be read: {error}"))]),
    };
    // one that cannot be listed may hold a guardrail: without it the rest is no set of grants
    let files: Result<Vec<PathBuf>, _> = listed.map(|entry| entry.map(|entry| entry.path())).collect();
    let mut files = files.map_err(|error| vec![whole(&grants, format!("cannot be read: {error}"))])?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "cedar"));
    files.sort();
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    for file in files {
        match fs::read_to_string(&file) {
            Ok(text) => sources.push(Source { file, text }),
            Err(error) => errors.push(whole(&file, format!("cannot be read: {error}"))),
        }
    }
    if errors.is_empty() { Ok(sources) } else { Err(errors) }
}

/// The folder of the contracts.
pub fn schemas(folder: &Path) -> PathBuf {
    folder.join("schemas")
}

fn session_key(data: &Path) -> Result<[u8; 32], Fault> {
    let path = data.join("session.key");
    let bytes = secret_file::read_or_make(&path, || {
        crate::clock::random::<32>().map(|key| key.to_vec()).map_err(|error| Fault(error.to_string()))
    })?;
    bytes
        .try_into()
        .map_err(|_| Fault(format!("`{}` is no session key; remove it and sessions start anew", path.display())))
}

fn whole(file: &Path, problem: String) -> ConfigError {
    ConfigError { file: file.to_owned(), line: 0, column: 0, problem, hint: None }
}

/// Path, size and time of change of files.
type Fingerprint = BTreeSet<(PathBuf, u64, Option<std::time::SystemTime>)>;

/// Path, size and time of change of every file that a reload would read.
fn fingerprint(folder: &Path) -> Fingerprint {
    let mut seen = BTreeSet::new();
    let mut folders = vec![(folder.join("grants"), 0), (schemas(folder), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(listed) = fs::read_dir(&folder) else { continue };
        for entry in listed.flatten() {
            match entry.metadata() {
                Ok(data) if data.is_dir() && depth < 2 => folders.push((entry.path(), depth + 1)),
                Ok(data) => {
                    seen.insert((entry.path(), data.len(), data.modified().ok()));
                }
                Err(_) => {}
            }
        }
    }
    seen
}
