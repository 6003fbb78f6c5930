//! Finding entries: listing backwards and forwards, the entries of one call, export.

use std::io::Write;

use bytes::Bytes;

use super::{Entry, Ledger, entry};
use crate::{
    call::Fault,
    clock::Timestamp,
    json::{Number, Value},
};

/// Entries read at once.
const CHUNK: usize = 512;
/// Entries looked through for the outcome of a call after its intent.
const OUTCOME_WITHIN: u64 = 1 << 20;

/// Entries looked through for one page.
const PAGE_WITHIN: u64 = 1 << 14;

/// Which entries are wanted; what is not set does not matter. An outcome names neither agent nor tool: it is that of
/// its intent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this agent, or that went through its hands.
    pub agent: Option<String>,
    /// For this tool, by the name that agents use.
    pub tool: Option<String>,
    /// Of this kind, such as `call.refused`, or every kind that begins so when it ends in `.`.
    pub kind: Option<String>,
    /// An outcome that says so, or a refusal for that reason.
    pub outcome: Option<String>,
    /// With this text somewhere in it, letter by letter.
    pub text: Option<String>,
    /// Not earlier than this.
    pub since: Option<Timestamp>,
    /// Earlier than this.
    pub until: Option<Timestamp>,
    /// Below this index: for the next page.
    pub before: Option<u64>,
}

impl Filter {
    /// Whether the entry is of the kind that is wanted.
    fn kind(&self, text: &[u8]) -> bool {
        self.kind.as_ref().is_none_or(|wanted| {
            entry::member(text, "kind")
                .is_some_and(|kind| kind == wanted || wanted.ends_with('.') && kind.starts_with(wanted))
        })
    }

    /// Whether the entry says what is wanted, apart from whose it is.
    fn says(&self, text: &[u8]) -> bool {
        let outcome = |wanted: &String| match entry::member(text, "kind") {
            Some("call.settled") => entry::member(text, "outcome") == Some(wanted),
            Some("call.refused") => entry::member(text, "reason") == Some(wanted),
            _ => false,
        };
        let within = |wanted: &String| memchr::memmem::find(text, entry::escaped(wanted).as_bytes()).is_some();
        let before = |until: Timestamp| entry::member(text, "at").unwrap_or_default() < format!("{until:.6}").as_str();
        self.kind(text)
            && self.outcome.as_ref().is_none_or(outcome)
            && self.text.as_ref().is_none_or(within)
            && self.until.is_none_or(before)
    }

    /// Whether the entry is of the agent and for the tool that are wanted.
    fn about(&self, text: &[u8]) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| entry::member(text, name) == Some(entry::escaped(wanted).as_str()))
        };
        (is("agent", &self.agent) || self.went_through(text)) && (is("tool", &self.tool) || self.named(text))
    }

    /// Whether the agent that is wanted is one of those through whose hands the call went.
    fn went_through(&self, text: &[u8]) -> bool {
        let Some(wanted) = self.agent.as_deref() else { return false };
        if memchr::memmem::find(text, br#""chain":["#).is_none() {
            return false;
        }
        let tree = entry::tree(text);
        let chain = tree.as_ref().and_then(|tree| tree.get("chain")).and_then(Value::as_array).unwrap_or_default();
        chain.iter().any(|agent| agent.as_str() == Some(wanted))
    }

    /// Whether the tool that is wanted is named otherwise: by its upstream and its own name, or as a caller named it.
    fn named(&self, text: &[u8]) -> bool {
        let Some(wanted) = self.tool.as_deref().map(entry::escaped) else { return true };
        let member = |name: &str| entry::member(text, name).unwrap_or_default();
        if member("kind").starts_with("tool.") {
            return wanted.split_once("__").is_some_and(|parts| parts == (member("upstream"), member("tool")));
        }
        member("kind") == "call.refused" && member("name") == wanted
    }

    /// The entry that says whose it is and for which tool, when that is another one.
    fn elsewhere(&self, text: &[u8]) -> Option<u64> {
        let asked = self.agent.is_some() || self.tool.is_some();
        if !asked || entry::member(text, "kind") != Some("call.settled") {
            return None;
        }
        let intent = entry::tree(text)?.get("intent").and_then(Value::as_number).and_then(Number::as_i64)?;
        u64::try_from(intent).ok()
    }
}

impl Ledger {
    /// The newest entries that a filter lets through, newest first, at most `limit`.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn list(&self, filter: &Filter, limit: usize) -> Result<Vec<Entry>, Fault> {
        let mut found = Vec::new();
        self.backwards(filter, limit, |entry| found.push(alone(entry)))?;
        Ok(found)
    }

    /// As [`Ledger::list`], a page of it: beside the entries it gives where to go on, as [`Filter::before`], or `None` at the
    /// end. One page looks through a bounded number of entries: it may be empty and not be the last.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn latest(&self, filter: &Filter, limit: usize) -> Result<(Vec<Entry>, Option<u64>), Fault> {
        let mut end = filter.before.unwrap_or(u64::MAX).min(self.size());
        if let Some(until) = filter.until {
            end = end.min(self.first_at(until)?);
        }
        let first = match filter.since {
            Some(since) => self.first_at(since)?,
            None => 0,
        };
        let last = end.saturating_sub(PAGE_WITHIN).max(first);
        let mut found = Vec::new();
        while end > last {
            let from = end.saturating_sub(CHUNK as u64).max(last);
            let entries = self.entries(from, (end - from) as usize)?;
            for entry in entries.iter().rev() {
                if found.len() == limit {
                    return Ok((found, Some(entry.seq + 1)));
                }
                if self.fits(filter, entry, &entries)? {
                    found.push(alone(entry.clone()));
                }
            }
            end = from;
        }
        Ok((found, (end > first).then_some(end)))
    }

    /// Shows the newest entries that a filter lets through, at most `limit`, in their order. None is held any longer
    /// than that, however many they are.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn replay(&self, filter: &Filter, limit: usize, mut show: impl FnMut(&Entry)) -> Result<(), Fault> {
        let end = filter.before.unwrap_or(u64::MAX).min(self.size());
        let mut from = end;
        self.backwards(filter, limit, |entry| from = entry.seq)?;
        while from < end {
            let entries = self.entries(from, CHUNK.min((end - from) as usize))?;
            if entries.is_empty() {
                return Err(Fault(format!("the store is damaged: entry {from} is missing")));
            }
            for entry in entries {
                from = entry.seq + 1;
                if self.fits(filter, &entry, &[])? {
                    show(&entry);
                }
            }
        }
        Ok(())
    }

    /// Goes through the newest entries that a filter lets through, newest first, at most `limit`.
    fn backwards(&self, filter: &Filter, limit: usize, mut take: impl FnMut(Entry)) -> Result<(), Fault> {
        let mut found = 0;
        let mut end = filter.before.unwrap_or(u64::MAX).min(self.size());
        let since = filter.since.map(|since| format!("{since:.6}"));
        while end > 0 && found < limit {
            let from = end.saturating_sub(CHUNK as u64);
            let entries = self.entries(from, (end - from) as usize)?;
            for entry in entries.into_iter().rev() {
                let at = entry::member(&entry.text, "at").unwrap_or_default();
                if since.as_deref().is_some_and(|since| at < since) {
                    return Ok(());
                }
                if found < limit && self.fits(filter, &entry, &[])? {
                    take(entry);
                    found += 1;
                }
            }
            end = from;
        }
        Ok(())
    }

    /// The entries from `from` on that a filter lets through, oldest first, at most `limit`, and where to go on. One
    /// page looks through a bounded number of entries: it may be empty and not be the last, which is the one that
    /// goes on where it began.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn select(&self, filter: &Filter, from: u64, limit: usize) -> Result<(Vec<Entry>, u64), Fault> {
        let mut at = match filter.since {
            Some(since) => from.max(self.first_at(since)?),
            None => from,
        };
        let end = filter.before.unwrap_or(u64::MAX).min(self.size()).min(at.saturating_add(PAGE_WITHIN));
        let mut found = Vec::new();
        while at < end {
            let entries = self.entries(at, CHUNK.min((end - at) as usize))?;
            if entries.is_empty() {
                break;
            }
            for entry in &entries {
                if found.len() == limit {
                    return Ok((found, at));
                }
                at = entry.seq + 1;
                if self.fits(filter, entry, &entries)? {
                    found.push(alone(entry.clone()));
                }
            }
        }
        Ok((found, at))
    }

    /// Whether a filter lets an entry through. `near` are entries in a row that are at hand: the intent of an outcome is
    /// most often among them.
    fn fits(&self, filter: &Filter, entry: &Entry, near: &[Entry]) -> Result<bool, Fault> {
        if !filter.says(&entry.text) {
            return Ok(false);
        }
        match filter.elsewhere(&entry.text) {
            Some(intent) => {
                let place = near.first().and_then(|first| usize::try_from(intent.checked_sub(first.seq)?).ok());
                match place.and_then(|place| near.get(place)) {
                    Some(intent) => Ok(filter.about(&intent.text)),
                    None => Ok(self.entries(intent, 1)?.first().is_some_and(|intent| filter.about(&intent.text))),
                }
            }
            None => Ok(filter.about(&entry.text)),
        }
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
    pub(super) fn first_at(&self, at: Timestamp) -> Result<u64, Fault> {
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
                out.write_all(&entry.to_line()).map_err(failed)?;
                at = entry.seq + 1;
            }
        }
        out.flush().map_err(failed)?;
        Ok(end.saturating_sub(from))
    }
}

/// The entry without those that were read together with it, which would stay in memory as long as it does.
fn alone(entry: Entry) -> Entry {
    Entry { text: Bytes::copy_from_slice(&entry.text), ..entry }
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
