//! What receivers of notifications are told: events of holds, read from the ledger.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::{
    call::Fault,
    clock::Timestamp,
    hold::{HoldId, Phase},
    ledger::{Entry, Filter, Ledger},
    notify::{Event, Source},
};

/// Entries of one kind that are asked for at once.
const PAGE: usize = 512;
/// Numbers of entries that are remembered, so that asking again does not read the log again.
const REMEMBERED: usize = 65_536;
/// How soon an entry that is written is looked for again.
const SOON: std::time::Duration = std::time::Duration::from_millis(1);
/// The entries that receivers are told of.
const KINDS: [&str; 2] = ["call.held", "hold."];

/// The events of one ledger.
pub(super) struct Told {
    ledger: Ledger,
    console: String,
    newest: watch::Sender<u64>,
    seen: Mutex<Seen>,
}

/// Which entries are events, of all after `floor` and before `end`.
#[derive(Default)]
struct Seen {
    floor: Option<u64>,
    end: u64,
    seqs: VecDeque<u64>,
}

impl Told {
    /// Those of `ledger`; pages about holds are below `console`.
    pub(super) fn new(ledger: Ledger, console: String) -> Arc<Self> {
        let newest = watch::Sender::new(ledger.size().saturating_sub(1));
        Arc::new(Self { ledger, console, newest, seen: Mutex::default() })
    }

    /// Wakes receivers when a hold changes, until the house stops.
    pub(super) async fn follow(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut changes = self.ledger.hold_changes();
        loop {
            self.newest.send_replace(self.ledger.size().saturating_sub(1));
            let changed = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                changed = changes.recv() => changed,
            };
            match changed {
                // a change is told a moment before its entry can be read
                Ok(change) => {
                    while self.ledger.size() <= change.seq && self.ledger.healthy() {
                        tokio::time::sleep(SOON).await;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Numbers of events from `from` on, before `end`.
    fn scan(&self, from: u64, end: u64) -> Result<Vec<u64>, Fault> {
        let mut found = Vec::new();
        for kind in KINDS {
            let filter = Filter { kind: Some(kind.to_owned()), before: Some(end), ..Filter::default() };
            let mut at = from;
            while at < end {
                let (entries, next) = self.ledger.select(&filter, at, PAGE)?;
                found.extend(entries.iter().map(|entry| entry.seq));
                if next <= at {
                    break;
                }
                at = next;
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn seqs_after(&self, after: u64, most: usize) -> Result<Vec<u64>, Fault> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let size = self.ledger.size();
        let floor = *seen.floor.get_or_insert(after);
        seen.end = seen.end.max(floor.saturating_add(1));
        if seen.end < size {
            let found = self.scan(seen.end, size)?;
            seen.seqs.extend(found);
            seen.end = size;
        }
        while seen.seqs.len() > REMEMBERED {
            seen.floor = seen.seqs.pop_front();
        }
        let floor = seen.floor.unwrap_or(after);
        // a receiver that is further behind than what is remembered has the log read for itself
        let mut found = if after < floor { self.scan(after + 1, floor.saturating_add(1))? } else { Vec::new() };
        let from = seen.seqs.partition_point(|seq| *seq <= after);
        found.extend(seen.seqs.range(from..).take(most));
        found.truncate(most);
        Ok(found)
    }

    fn event(&self, entry: &Entry) -> Option<Event> {
        let text: Value = serde_json::from_slice(&entry.text).ok()?;
        let member = |name: &str| text.get(name).and_then(Value::as_str).unwrap_or_default();
        let (kind, id) = (member("kind"), HoldId::read(member("hold"))?);
        let record = self.ledger.holds(|book| book.get(&id).cloned());
        let state = match kind {
            "call.held" => "pending",
            "hold.approved" => {
                // the one that completed it is the last
                let waits = record.as_ref().is_some_and(|record| {
                    record.phase == Phase::Pending || record.votes.last().is_some_and(|vote| vote.seq != entry.seq)
                });
                if waits { "pending" } else { "approved" }
            }
            kind => kind.strip_prefix("hold.")?,
        };
        // of a hold that is long over, what happened to it is all that is known without reading on
        let hold = record.as_ref().map(|record| &record.hold);
        Some(Event {
            seq: entry.seq,
            at: member("at").parse().unwrap_or(Timestamp::UNIX_EPOCH),
            kind: kind.to_owned(),
            tool: hold.map_or_else(|| member("tool").to_owned(), |hold| hold.tool.clone()),
            upstream: hold.map_or_else(|| member("upstream").to_owned(), |hold| hold.upstream.clone()),
            impact: hold.map_or_else(Vec::new, |hold| hold.impact.clone()),
            agent: hold.map_or_else(|| member("agent").to_owned(), |hold| hold.agent.clone()),
            chain: hold.map_or_else(Vec::new, |hold| hold.claims.chain.clone()),
            workload: hold.and_then(|hold| hold.claims.workload.clone()),
            scopes: hold.map_or_else(Vec::new, |hold| hold.claims.scopes.clone()),
            assurance: hold.and_then(|hold| hold.claims.assurance.clone()),
            approve_by: hold.map(|hold| hold.approve_by),
            state: state.to_owned(),
            page: Some(format!("{}/holds/{id}", self.console)),
            hold: id.to_string(),
        })
    }
}

impl Source for Told {
    fn events_after(&self, after: u64, most: usize) -> Result<Vec<Event>, Fault> {
        let mut events = Vec::new();
        for seq in self.seqs_after(after, most)? {
            let entry = self.ledger.entries(seq, 1)?.pop();
            events.extend(entry.and_then(|entry| self.event(&entry)));
        }
        Ok(events)
    }

    fn count_after(&self, after: u64, most: usize) -> Result<usize, Fault> {
        Ok(self.seqs_after(after, most)?.len())
    }

    fn begin(&self) -> Result<u64, Fault> {
        let oldest = self
            .ledger
            .holds(|book| book.iter().filter(|record| record.phase.is_open()).map(|record| record.hold.seq).min());
        Ok(oldest.unwrap_or_else(|| self.ledger.size()).saturating_sub(1))
    }

    fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}
