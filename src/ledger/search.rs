//! Finding entries: listing backwards, the entries of one call, export.

use std::io::Write;

use super::{Entry, Ledger, entry};
use crate::{call::Fault, clock::Timestamp};

/// Entries read at once.
const CHUNK: usize = 512;
/// Entries looked through for the outcome of a call after its intent.
const OUTCOME_WITHIN: u64 = 1 << 20;

/// Which entries are wanted; what is not set does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this agent.
    pub agent: Option<String>,
    /// For this tool, by the name that agents use.
    pub tool: Option<String>,
    /// Of this kind, such as `call.refused`, or every kind that begins so when it ends in `.`.
    pub kind: Option<String>,
    /// Not earlier than this.
    pub since: Option<Timestamp>,
    /// Below this index: for the next page.
    pub before: Option<u64>,
}

impl Filter {
    fn lets_through(&self, text: &[u8]) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| entry::member(text, name) == Some(entry::escaped(wanted).as_str()))
        };
        let kind = self.kind.as_ref().is_none_or(|wanted| {
            entry::member(text, "kind")
                .is_some_and(|kind| kind == wanted || wanted.ends_with('.') && kind.starts_with(wanted))
        });
        kind && is("agent", &self.agent) && is("tool", &self.tool)
    }
}

impl Ledger {
    /// The newest entries that a filter lets through, newest first, at most `limit`.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Entry>, Fault> {
        let mut found = Vec::new();
        let mut end = filter.before.unwrap_or(u64::MAX).min(self.size());
        let since = filter.since.map(|since| format!("{since:.6}"));
        while end > 0 && found.len() < limit {
            let from = end.saturating_sub(CHUNK as u64);
            let entries = self.entries(from, (end - from) as usize)?;
            for entry in entries.into_iter().rev() {
                let at = entry::member(&entry.text, "at").unwrap_or_default();
                if since.as_deref().is_some_and(|since| at < since) {
                    return Ok(found);
                }
                if found.len() < limit && filter.lets_through(&entry.text) {
                    found.push(entry);
                }
            }
            end = from;
        }
        Ok(found)
    }

    /// The entries of one call, in order: its intent and outcome, or its refusal. Entries are in the order
    /// of time, and the id of a call holds the time it was received, so few of them have to be read.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn find(&self, call: &str) -> Result<Vec<Entry>, Fault> {
        let Some(received) = time_of(call) else { return Ok(Vec::new()) };
        // clocks are set back now and then
        let from = self.first_at(received.saturating_sub(jiff::SignedDuration::from_secs(5)).unwrap_or(received))?;
        let mut found = Vec::new();
        let mut at = from;
        let end = self.size().min(from.saturating_add(OUTCOME_WITHIN));
        while at < end {
            let entries = self.entries(at, CHUNK.min((end - at) as usize))?;
            at += entries.len() as u64;
            if entries.is_empty() {
                break;
            }
            for entry in entries {
                if entry::member(&entry.text, "call") != Some(call) {
                    continue;
                }
                let kind = entry::member(&entry.text, "kind").unwrap_or_default();
                let last = kind == "call.settled" || kind == "call.refused";
                found.push(entry);
                if last {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// The first entry that is not earlier than `at`.
    fn first_at(&self, at: Timestamp) -> Result<u64, Fault> {
        let at = format!("{at:.6}");
        let (mut low, mut high) = (0, self.size());
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.entries(middle, 1)?.pop();
            let earlier = entry.is_some_and(|entry| entry::member(&entry.text, "at").unwrap_or_default() < at.as_str());
            if earlier {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Writes every entry from `from` on as one line of JSON, `{"entry":…,"seq":…}`; gives how many.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read or `out` not written.
    pub fn export(&self, from: u64, out: &mut dyn Write) -> Result<u64, Fault> {
        let failed = |error: std::io::Error| Fault(format!("the export cannot be written: {error}"));
        let (mut at, end) = (from, self.size());
        while at < end {
            let entries = self.entries(at, CHUNK.min((end - at) as usize))?;
            if entries.is_empty() {
                return Err(Fault(format!("the store is damaged: entry {at} is missing")));
            }
            for entry in entries {
                out.write_all(b"{\"entry\":")
                    .and_then(|()| out.write_all(&entry.text))
                    .and_then(|()| writeln!(out, ",\"seq\":{}}}", entry.seq))
                    .map_err(failed)?;
                at = entry.seq + 1;
            }
        }
        out.flush().map_err(failed)?;
        Ok(end.saturating_sub(from))
    }
}

/// The time in a call's id: the first ten digits of its ULID.
fn time_of(call: &str) -> Option<Timestamp> {
    let digits = call.strip_prefix("call_")?.get(..10)?;
    let millis = digits.bytes().try_fold(0_i64, |millis, digit| {
        let value = "0123456789ABCDEFGHJKMNPQRSTVWXYZ".bytes().position(|known| known == digit)?;
        Some(millis << 5 | i64::try_from(value).ok()?)
    })?;
    Timestamp::from_millisecond(millis).ok()
}
