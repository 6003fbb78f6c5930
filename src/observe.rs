//! What operators see: logs and metrics.
//!
//! Labels come from closed sets only (reason codes, outcomes, stages, the names of configured upstreams):
//! nothing that an agent or a tool server says can make a new series, and no argument, token or secret is a label.

use std::{
    collections::HashMap,
    io::IsTerminal,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The variable that says what is logged, in the language of tracing's filters: `info`, `countersign=debug`, …
pub const LOG_VARIABLE: &str = "COUNTERSIGN_LOG";

/// Sends this process's log to standard error; what of it, [`LOG_VARIABLE`] says, and `default` without it.
/// Only the first call has an effect.
pub fn start_logging(format: LogFormat, default: &str) {
    let asked = std::env::var(LOG_VARIABLE).ok().and_then(|filter| filtered(&filter));
    let filter = asked.unwrap_or_else(|| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(BoxMakeWriter::new(std::io::stderr))
        .with_ansi(std::io::stderr().is_terminal());
    // an error means that a log is there already, which then stays
    let _already = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

/// The filter that `text` says, and quiet where others' code would write down what it handles: the store's own
/// tracing prints every record, arguments and results too.
fn filtered(text: &str) -> Option<EnvFilter> {
    // those that come later would win: so what must not be said comes last
    EnvFilter::try_new(format!("{text},sled=warn")).ok()
}

/// A stage of the road, for the time it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Contract and grants.
    Decide,
    /// Writing the intent.
    Record,
    /// At the tool server, waiting for a place included.
    Forward,
    /// Looking at what came back, and writing the outcome.
    Settle,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Decide, Self::Record, Self::Forward, Self::Settle];

    fn word(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Record => "record",
            Self::Forward => "forward",
            Self::Settle => "settle",
        }
    }
}

type Labels<const N: usize> = [(&'static str, String); N];

/// Counters and histograms, rendered for Prometheus (OpenMetrics text).
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: Family<Labels<2>, Counter>,
    call_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    refused: Family<Labels<1>, Counter>,
    unauthenticated: Family<Labels<1>, Counter>,
    stages: [Histogram; Stage::ALL.len()],
    upstream_up: Family<Labels<1>, Gauge>,
    upstream_in_flight: Family<Labels<1>, Gauge>,
    ledger_entries: Gauge,
    ledger_healthy: Gauge,
    policies: Gauge,
    tools: Gauge,
    quarantined: Gauge,
    holds_open: Family<Labels<1>, Gauge>,
    undelivered: Family<Labels<1>, Gauge>,
    given_up: Family<Labels<1>, Gauge>,
    process_start: Gauge<f64, AtomicU64>,
    /// What one upstream's calls count into, resolved once.
    handles: ArcSwap<HashMap<String, Arc<Handles>>>,
}

#[derive(Debug)]
struct Handles {
    outcomes: [(&'static str, Counter); 4],
    seconds: Histogram,
}

const OUTCOMES: [&str; 4] = ["ok", "tool_error", "upstream_error", "unknown"];

fn latency() -> Histogram {
    // 10 µs to 84 s
    Histogram::new(exponential_buckets(0.000_01, 2.5, 18))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("countersign");
        let calls = Family::default();
        let call_seconds = Family::new_with_constructor(latency as fn() -> Histogram);
        let (refused, unauthenticated) = (Family::default(), Family::default());
        let stage_seconds = Family::<Labels<1>, Histogram, _>::new_with_constructor(latency as fn() -> Histogram);
        let stages = Stage::ALL.map(|stage| stage_seconds.get_or_create(&[("stage", stage.word().to_owned())]).clone());
        let (upstream_up, upstream_in_flight) = (Family::default(), Family::default());
        let (ledger_entries, ledger_healthy) = (Gauge::default(), Gauge::default());
        let (policies, tools, quarantined) = (Gauge::default(), Gauge::default(), Gauge::default());
        let (holds_open, undelivered, given_up) = (Family::default(), Family::default(), Family::default());
        let process_start = Gauge::default();
        registry.register("build", "the program", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("calls", "calls that reached a tool server, by outcome", calls.clone());
        registry.register_with_unit(
            "call_duration",
            "from the first byte to the tool server to the last byte back",
            Unit::Seconds,
            call_seconds.clone(),
        );
        registry.register("calls_refused", "calls refused, by reason code", refused.clone());
        registry.register("unauthenticated", "requests without a good credential, by code", unauthenticated.clone());
        registry.register_with_unit("stage_duration", "time a stage of the road took", Unit::Seconds, stage_seconds);
        registry.register("upstream_up", "1 while the tool server is connected", upstream_up.clone());
        registry.register("upstream_in_flight", "calls under way", upstream_in_flight.clone());
        registry.register("ledger_entries", "durable entries in the ledger", ledger_entries.clone());
        registry.register("ledger_healthy", "1 while the ledger can be written", ledger_healthy.clone());
        registry.register("policies", "policies in force", policies.clone());
        registry.register("tools", "tools on offer", tools.clone());
        registry.register("tools_quarantined", "tools not offered because of their definition", quarantined.clone());
        registry.register("holds_open", "calls that wait, by the state of their hold", holds_open.clone());
        registry.register(
            "notifications_undelivered",
            "events about holds that a receiver was not told of yet",
            undelivered.clone(),
        );
        registry.register(
            "notifications_given_up",
            "events about holds that a receiver did not take, and was not told of",
            given_up.clone(),
        );
        registry.register_with_unit(
            "start_time",
            "when the server started, since the Unix epoch",
            Unit::Seconds,
            process_start.clone(),
        );
        Self {
            registry,
            calls,
            call_seconds,
            refused,
            unauthenticated,
            stages,
            upstream_up,
            upstream_in_flight,
            ledger_entries,
            ledger_healthy,
            policies,
            tools,
            quarantined,
            holds_open,
            undelivered,
            given_up,
            process_start,
            handles: ArcSwap::default(),
        }
    }
}

/// How one upstream fares at the moment of a scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamState {
    /// Its name in the configuration.
    pub name: String,
    /// It is connected.
    pub ready: bool,
    /// Calls under way.
    pub in_flight: usize,
}

/// How one receiver of notifications fares at the moment of a scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverState {
    /// Its name in the configuration, or `command`.
    pub name: String,
    /// Events it was not told of yet.
    pub undelivered: usize,
    /// Events that it did not take, and was not told of.
    pub given_up: u64,
}

/// What is so at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// How each upstream fares.
    pub upstreams: Vec<UpstreamState>,
    /// Durable entries.
    pub ledger_entries: u64,
    /// The ledger can be written.
    pub ledger_healthy: bool,
    /// Policies in force.
    pub policies: usize,
    /// Tools on offer.
    pub tools: usize,
    /// Tools in quarantine.
    pub quarantined: usize,
    /// Holds that wait for a countersignature.
    pub holds_pending: usize,
    /// Holds that are countersigned, and not run yet.
    pub holds_approved: usize,
    /// Receivers of notifications.
    pub receivers: Vec<ReceiverState>,
}

impl Metrics {
    /// The server started at that time.
    pub fn started(&self, at: crate::clock::Timestamp) {
        self.process_start.set(at.as_duration().as_secs_f64());
    }

    /// When the server started, if it was told.
    pub fn start(&self) -> Option<crate::clock::Timestamp> {
        let seconds = self.process_start.get();
        let at = jiff::SignedDuration::try_from_secs_f64(seconds).ok().filter(|_| seconds > 0.0)?;
        crate::clock::Timestamp::from_duration(at).ok()
    }

    /// A call was refused with that code.
    pub fn refused(&self, code: &'static str) {
        self.refused.get_or_create(&[("reason", code.to_owned())]).inc();
    }

    /// A request came without a good credential.
    pub fn unauthenticated(&self, code: &'static str) {
        self.unauthenticated.get_or_create(&[("reason", code.to_owned())]).inc();
    }

    /// A call came back from an upstream. `outcome` is one of the ledger's words
    /// ([`crate::ledger::Settlement::word`]); another word counts as `unknown`.
    pub fn settled(&self, upstream: &str, outcome: &'static str, took: Duration) {
        let handles = self.handles.load();
        let handles = match handles.get(upstream) {
            Some(handles) => Arc::clone(handles),
            None => self.resolve(upstream),
        };
        let counter = handles.outcomes.iter().find(|(word, _)| *word == outcome).or(handles.outcomes.last());
        if let Some((_, counter)) = counter {
            counter.inc();
        }
        handles.seconds.observe(took.as_secs_f64());
    }

    /// A stage of the road took that long.
    pub fn stage(&self, stage: Stage, took: Duration) {
        if let Some(histogram) = self.stages.get(stage as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// Everything as OpenMetrics text.
    pub fn render(&self, now: &Snapshot) -> String {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for status in &now.upstreams {
            let labels = [("upstream", status.name.clone())];
            self.upstream_up.get_or_create(&labels).set(i64::from(status.ready));
            self.upstream_in_flight.get_or_create(&labels).set(whole(status.in_flight));
        }
        self.ledger_entries.set(i64::try_from(now.ledger_entries).unwrap_or(i64::MAX));
        self.ledger_healthy.set(i64::from(now.ledger_healthy));
        self.policies.set(whole(now.policies));
        self.tools.set(whole(now.tools));
        self.quarantined.set(whole(now.quarantined));
        for (state, count) in [("pending", now.holds_pending), ("approved", now.holds_approved)] {
            self.holds_open.get_or_create(&[("state", state.to_owned())]).set(whole(count));
        }
        for receiver in &now.receivers {
            let labels = [("receiver", receiver.name.clone())];
            self.undelivered.get_or_create(&labels).set(whole(receiver.undelivered));
            self.given_up.get_or_create(&labels).set(i64::try_from(receiver.given_up).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        // writing to a string cannot fail
        let _written = encode(&mut text, &self.registry);
        text
    }

    fn resolve(&self, upstream: &str) -> Arc<Handles> {
        let counter = |outcome: &'static str| {
            let labels = [("upstream", upstream.to_owned()), ("outcome", outcome.to_owned())];
            (outcome, self.calls.get_or_create(&labels).clone())
        };
        let seconds = self.call_seconds.get_or_create(&[("upstream", upstream.to_owned())]).clone();
        let handles = Arc::new(Handles { outcomes: OUTCOMES.map(counter), seconds });
        self.handles.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(upstream.to_owned(), Arc::clone(&handles));
            known
        });
        handles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.refused("not_granted");
        metrics.refused("not_granted");
        metrics.unauthenticated("token_expired");
        metrics.settled("bank", "ok", Duration::from_millis(3));
        metrics.settled("bank", "ok", Duration::from_millis(3));
        metrics.settled("bank", "unknown", Duration::from_millis(3));
        metrics.stage(Stage::Decide, Duration::from_micros(20));
        let status = UpstreamState { name: "bank".to_owned(), ready: true, in_flight: 2 };
        let receiver = ReceiverState { name: "hook".to_owned(), undelivered: 3, given_up: 1 };
        let text = metrics.render(&Snapshot {
            upstreams: vec![status],
            ledger_entries: 7,
            holds_pending: 4,
            receivers: vec![receiver],
            ..Snapshot::default()
        });
        for line in [
            "countersign_calls_refused_total{reason=\"not_granted\"} 2",
            "countersign_unauthenticated_total{reason=\"token_expired\"} 1",
            "countersign_calls_total{upstream=\"bank\",outcome=\"ok\"} 2",
            "countersign_calls_total{upstream=\"bank\",outcome=\"unknown\"} 1",
            "countersign_call_duration_seconds_count{upstream=\"bank\"} 3",
            "countersign_stage_duration_seconds_count{stage=\"decide\"} 1",
            "countersign_upstream_up{upstream=\"bank\"} 1",
            "countersign_upstream_in_flight{upstream=\"bank\"} 2",
            "countersign_ledger_entries 7",
            "countersign_ledger_healthy 0",
            "countersign_holds_open{state=\"pending\"} 4",
            "countersign_holds_open{state=\"approved\"} 0",
            "countersign_notifications_undelivered{receiver=\"hook\"} 3",
            "countersign_notifications_given_up{receiver=\"hook\"} 1",
        ] {
            assert!(text.contains(line), "`{line}` is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_label_is_of_a_closed_set() {
        let metrics = Metrics::default();
        for upstream in ["bank", "files"] {
            for outcome in ["ok", "tool_error", "upstream_error", "unknown", "of the upstream's own making", ""] {
                metrics.settled(upstream, outcome, Duration::from_millis(1));
            }
        }
        let text = metrics.render(&Snapshot::default());
        let mut values: std::collections::BTreeMap<&str, std::collections::BTreeSet<&str>> = Default::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("countersign_"), "{line}");
            let Some((labels, _)) = line.split_once('{').and_then(|(_, rest)| rest.split_once('}')) else { continue };
            for (name, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
                values.entry(name).or_default().insert(value.trim_matches('"'));
            }
        }
        values.remove("le");
        values.remove("version");
        let set = |words: &[&'static str]| words.iter().copied().collect();
        let expected: std::collections::BTreeMap<&str, std::collections::BTreeSet<&str>> = [
            ("outcome", set(&OUTCOMES)),
            ("stage", set(&Stage::ALL.map(Stage::word))),
            ("upstream", set(&["bank", "files"])),
            ("state", set(&["pending", "approved"])),
        ]
        .into();
        assert_eq!(values, expected);
    }
}
