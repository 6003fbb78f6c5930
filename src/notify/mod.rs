//! Whoever can approve is told that there is something to approve.
//!
//! Each receiver (a webhook, or a program) is told of every event about a hold, in order, at least once: what
//! was delivered is remembered in a file below `<data>/notify/`, and a receiver that fails is tried again until it
//! takes it. An event says which hold, which tool and how risky, never the arguments, and nothing that comes
//! back from a receiver is acted on: approving takes an approver.

mod command;
mod cursor;
mod payload;
mod webhook;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};

pub use payload::{body, signature};

use crate::{
    call::Fault,
    clock::{Clock, Timestamp, random},
    config::NotifyConfig,
    reach::{Resolver, System},
    secret_file,
};
use command::Program;
use cursor::Cursor;
use webhook::Webhook;

/// Events that are asked for at once.
const BATCH: usize = 64;
/// The most that is counted as undelivered.
const MOST_COUNTED: usize = 1000;
/// Attempts at an event that its receiver says it will never take, before the next one has its turn.
const PATIENCE: u32 = 8;
/// How long a delivery that is under way has to end when the house stops.
const GRACE: Duration = Duration::from_secs(2);
/// Entries without an event after which it is written down that there was none.
const FAR: u64 = 4096;
/// A receiver looks for itself this often, should it not have been woken.
const LOOK: Duration = Duration::from_secs(60);

/// Something that happened to a hold, as receivers are told of it: id and risk, never arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Number of its entry in the ledger.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// Kind of the entry: `call.held`, `hold.approved`, …
    pub kind: String,
    /// The hold.
    pub hold: String,
    /// The tool, as agents name it.
    pub tool: String,
    /// Its upstream.
    pub upstream: String,
    /// What the tool can do.
    pub impact: Vec<String>,
    /// Who asks.
    pub agent: String,
    /// The agents through whose hands it came, the one who calls last.
    pub chain: Vec<String>,
    /// Workload identity of who asks.
    pub workload: Option<String>,
    /// Scopes of its credential.
    pub scopes: Vec<String>,
    /// How surely it is that agent, where more than its token says so.
    pub assurance: Option<String>,
    /// Until when it can be approved.
    pub approve_by: Option<Timestamp>,
    /// What the hold is after it.
    pub state: String,
    /// The console's page about it.
    pub page: Option<String>,
}

/// Where events come from.
pub trait Source: Send + Sync {
    /// At most `most` events with a number above `after`, in order. May block.
    ///
    /// # Errors
    /// [`Fault`] when they cannot be read.
    fn events_after(&self, after: u64, most: usize) -> Result<Vec<Event>, Fault>;

    /// How many there are, counted up to `most`. May block.
    ///
    /// # Errors
    /// [`Fault`] when they cannot be read.
    fn count_after(&self, after: u64, most: usize) -> Result<usize, Fault> {
        Ok(self.events_after(after, most)?.len())
    }

    /// After which number a receiver begins that is new here: just before the oldest hold that is still open.
    /// May block.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be told.
    fn begin(&self) -> Result<u64, Fault>;

    /// The number of the newest entry, event or not. Its changes wake the receivers.
    fn newest(&self) -> watch::Receiver<u64>;
}

/// How long a receiver that failed is left alone: doubling from `first` to `longest`, a quarter more or less.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After the first failure.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(300) }
    }
}

impl Pace {
    fn wait(self, failures: u32) -> Duration {
        let wait =
            self.first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(20))).min(self.longest);
        // without randomness the waits are only less spread out
        let spread = random::<1>().map_or(128, |[byte]| u32::from(byte));
        wait * (192 + spread / 2) / 256
    }
}

/// How one receiver fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fares {
    /// The webhook's name, or `command`.
    pub name: String,
    /// Events it has not taken yet, counted up to a thousand.
    pub undelivered: usize,
    /// Events that it refused for good, and was not told of.
    pub refused: u64,
    /// Why the last attempt failed, while it fails.
    pub error: Option<String>,
    /// Since when it fails.
    pub since: Option<Timestamp>,
}

/// Why an attempt failed.
#[derive(Debug)]
enum Failed {
    /// It may go better another time, perhaps not before so long.
    Again(String, Option<Duration>),
    /// The receiver does not want this very event.
    Unwanted(String),
}

enum Means {
    Webhook(Webhook),
    Program(Program),
}

impl Means {
    async fn deliver(&self, event: &Event) -> Result<(), Failed> {
        match self {
            Self::Webhook(webhook) => webhook.deliver(event).await,
            Self::Program(program) => program.deliver(event).await,
        }
    }
}

struct Receiver {
    name: String,
    means: Means,
    source: Arc<dyn Source>,
    clock: Clock,
    pace: Pace,
    cursor: Mutex<Cursor>,
    failing: Mutex<Option<(Timestamp, String)>>,
}

/// The receivers of one house, each told by a task of its own. Dropping it ends them.
pub struct Notifier {
    receivers: Vec<Arc<Receiver>>,
    tasks: Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Notifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.receivers.iter().map(|receiver| &receiver.name)).finish()
    }
}

impl Notifier {
    /// Starts telling the receivers of the configuration, from where each was. Must be called within a runtime.
    ///
    /// # Errors
    /// [`Fault`] when the folder of cursors cannot be kept, or the source or TLS fails.
    pub fn start(config: &NotifyConfig, data: &Path, source: &Arc<dyn Source>, clock: &Clock) -> Result<Self, Fault> {
        Self::with(config, data, source, clock, Arc::new(System), Pace::default())
    }

    /// The same with a resolver and a pace of the caller's.
    ///
    /// # Errors
    /// As [`Notifier::start`].
    pub fn with(
        config: &NotifyConfig,
        data: &Path,
        source: &Arc<dyn Source>,
        clock: &Clock,
        resolver: Arc<dyn Resolver>,
        pace: Pace,
    ) -> Result<Self, Fault> {
        let folder = data.join("notify");
        let mut all: Vec<(String, Means)> = Vec::new();
        for webhook in &config.webhooks {
            let means = Webhook::new(webhook.clone(), Arc::clone(&resolver), clock.clone())?;
            all.push((webhook.name.clone(), Means::Webhook(means)));
        }
        if !config.command.is_empty() {
            all.push(("command".to_owned(), Means::Program(Program::new(config.command.clone()))));
        }
        let (stop, stopped) = watch::channel(false);
        let (mut receivers, mut tasks) = (Vec::new(), JoinSet::new());
        if !all.is_empty() {
            secret_file::own_folder(&folder)?;
        }
        for (name, means) in all {
            let cursor = Cursor::open(&folder, &name, source.as_ref())?;
            let receiver = Arc::new(Receiver {
                name,
                means,
                source: Arc::clone(source),
                clock: clock.clone(),
                pace,
                cursor: Mutex::new(cursor),
                failing: Mutex::default(),
            });
            tasks.spawn(Arc::clone(&receiver).run(stopped.clone()));
            receivers.push(receiver);
        }
        Ok(Self { receivers, tasks: Mutex::new(tasks), stop })
    }

    /// How each receiver fares. May block, as [`Source::events_after`] does.
    pub fn fares(&self) -> Vec<Fares> {
        self.receivers.iter().map(|receiver| receiver.fares()).collect()
    }

    /// Ends it: what is being delivered has two seconds; what is not delivered will be after the next start.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        let _in_time = timeout(GRACE, all).await;
        tasks.shutdown().await;
    }
}

impl Receiver {
    fn at(&self) -> Cursor {
        self.cursor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fares(&self) -> Fares {
        let cursor = self.at();
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let undelivered = self.source.count_after(cursor.seq, MOST_COUNTED).unwrap_or(0);
        let (since, error) = failing.unzip();
        Fares { name: self.name.clone(), undelivered, refused: cursor.refused, error, since }
    }

    async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut newest = self.source.newest();
        let mut failures = 0;
        loop {
            // everything up to here has been looked at once the answer is in
            let end = *newest.borrow_and_update();
            let (source, after) = (Arc::clone(&self.source), self.at().seq);
            let read = spawn_blocking(move || source.events_after(after, BATCH)).await;
            let events = match read {
                Ok(Ok(events)) => events,
                Ok(Err(fault)) => {
                    failures += 1;
                    self.failed(format!("the events cannot be read: {}", fault.0));
                    if rest(self.pace.wait(failures), &mut stop).await {
                        return;
                    }
                    continue;
                }
                Err(_ended) => return,
            };
            if events.is_empty() {
                // a start should not have to read all that happened since the last event
                if end > after.saturating_add(FAR) {
                    self.advance(end, false).await;
                }
                let woken = tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    changed = newest.changed() => changed.is_ok(),
                    () = sleep(LOOK) => true,
                };
                // nothing new will come: the house is being taken apart
                if !woken {
                    return;
                }
                continue;
            }
            for event in events {
                if !self.tell(&event, &mut failures, &mut stop).await {
                    return;
                }
            }
        }
    }

    /// Tells the receiver of one event until it takes it. `false`: the house stops.
    async fn tell(self: &Arc<Self>, event: &Event, failures: &mut u32, stop: &mut watch::Receiver<bool>) -> bool {
        let mut unwanted = 0;
        loop {
            if *stop.borrow() {
                return false;
            }
            let at_least = match self.means.deliver(event).await {
                Ok(()) => {
                    *failures = 0;
                    self.recovered();
                    self.advance(event.seq, false).await;
                    return true;
                }
                Err(Failed::Again(why, at_least)) => {
                    self.failed(why);
                    at_least
                }
                Err(Failed::Unwanted(why)) => {
                    unwanted += 1;
                    if unwanted >= PATIENCE {
                        tracing::error!(receiver = %self.name, hold = %event.hold, "it does not take a notification, which is given up: {why}");
                        self.failed(why);
                        self.advance(event.seq, true).await;
                        return true;
                    }
                    self.failed(why);
                    None
                }
            };
            *failures = failures.saturating_add(1);
            let wait = self.pace.wait(*failures).max(at_least.unwrap_or_default().min(self.pace.longest));
            if rest(wait, stop).await {
                return false;
            }
        }
    }

    /// Remembers that everything up to `seq` is done with. Where that cannot be written down, it is delivered again after
    /// a restart, which receivers must bear anyway.
    async fn advance(self: &Arc<Self>, seq: u64, refused: bool) {
        let receiver = Arc::clone(self);
        let written = spawn_blocking(move || {
            let mut cursor = receiver.cursor.lock().unwrap_or_else(PoisonError::into_inner);
            cursor.advance(seq, refused)
        });
        if let Ok(Err(fault)) = written.await {
            tracing::error!(receiver = %self.name, "what was delivered cannot be written down: {}", fault.0);
        }
    }

    fn failed(&self, why: String) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *failing {
            Some((_, last)) => *last = why,
            None => {
                tracing::warn!(receiver = %self.name, "a notification is not delivered, and tried again: {why}");
                *failing = Some((self.clock.now(), why));
            }
        }
    }

    fn recovered(&self) {
        if self.failing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
            tracing::info!(receiver = %self.name, "notifications are delivered again");
        }
    }
}

/// Waits; `true` when the house stops meanwhile.
async fn rest(wait: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => true,
        () = sleep(wait) => false,
    }
}

#[cfg(test)]
mod tests;
