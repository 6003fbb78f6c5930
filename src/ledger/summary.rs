//! What happened of late, counted by the hour: for pages that are looked at again and again.
//!
//! Nobody who does not look pays for it: a look reads what was written since the one before, and the first one after a start
//! reads back. Neither reads more than [`LOOK_BACK`] entries, nor further back than [`HOURS`]; what is left out by the
//! former is told by [`Summary::since`]. Names beyond a bound are counted together, under the empty name.

use std::collections::{BTreeMap, HashMap};

use super::{Ledger, committer::MOST_OPEN, committer::lock, entry, holds};
use crate::{call::Fault, clock::Timestamp};

/// Hours that are kept, the one that runs included: a week.
pub const HOURS: i64 = 7 * 24;

/// Entries that one look reads at most.
const LOOK_BACK: u64 = if cfg!(test) { 2_048 } else { 1 << 17 };
/// Entries read at once.
const CHUNK: usize = 512;
/// Names of agents, and of tools, that are counted apart in one hour.
const NAMES: usize = 128;
/// Codes of refusals that are counted apart.
const CODES: usize = 64;
const HOUR: i64 = 3_600;

/// How often what happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls that were permitted outright.
    pub permitted: u64,
    /// Calls that had to be countersigned.
    pub held: u64,
    /// Countersigned calls that were run.
    pub countersigned: u64,
    /// Calls, and messages that never became one, that were refused.
    pub refused: u64,
    /// Calls that ended well.
    pub ok: u64,
    /// Calls whose tool says that it failed.
    pub tool_error: u64,
    /// Calls that the tool server answered with an error, or that did not reach it.
    pub upstream_error: u64,
    /// Calls of which nobody knows how they ended.
    pub unknown: u64,
    /// Refusals by their reason code; what does not fit is under the empty one.
    pub codes: BTreeMap<Box<str>, u64>,
    /// When something was last counted here.
    pub last: Option<Timestamp>,
}

impl Counts {
    /// Every decision: calls permitted, held and refused.
    pub fn decisions(&self) -> u64 {
        self.permitted.saturating_add(self.held).saturating_add(self.refused)
    }

    fn add(&mut self, what: What<'_>, at: Timestamp) {
        let count = match what {
            What::Permitted => &mut self.permitted,
            What::Held => &mut self.held,
            What::Countersigned => &mut self.countersigned,
            What::Refused(code) => {
                let known = self.codes.contains_key(code) || self.codes.len() < CODES;
                *self.codes.entry(if known { code } else { "" }.into()).or_default() += 1;
                &mut self.refused
            }
            What::Ended("ok") => &mut self.ok,
            What::Ended("tool_error") => &mut self.tool_error,
            What::Ended("upstream_error") => &mut self.upstream_error,
            What::Ended(_) => &mut self.unknown,
        };
        *count = count.saturating_add(1);
        self.last = self.last.max(Some(at));
    }

    /// Adds what was counted elsewhere.
    pub fn join(&mut self, other: &Self) {
        for (count, more) in [
            (&mut self.permitted, other.permitted),
            (&mut self.held, other.held),
            (&mut self.countersigned, other.countersigned),
            (&mut self.refused, other.refused),
            (&mut self.ok, other.ok),
            (&mut self.tool_error, other.tool_error),
            (&mut self.upstream_error, other.upstream_error),
            (&mut self.unknown, other.unknown),
        ] {
            *count = count.saturating_add(more);
        }
        for (code, more) in &other.codes {
            let count = self.codes.entry(code.clone()).or_default();
            *count = count.saturating_add(*more);
        }
        self.last = self.last.max(other.last);
    }
}

/// One thing to count.
#[derive(Clone, Copy)]
enum What<'a> {
    Permitted,
    Held,
    Countersigned,
    Refused(&'a str),
    Ended(&'a str),
}

/// What happened in one hour.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hour {
    /// In all.
    pub all: Counts,
    /// By agent.
    pub agents: BTreeMap<Box<str>, Counts>,
    /// By tool; refusals of what is no tool are not here.
    pub tools: BTreeMap<Box<str>, Counts>,
}

/// What happened of late; see the module.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What was written before the first entry that was counted, and is not older than what is kept, was left out.
    cut: bool,
    /// When the first entry that was counted was written.
    began: Option<Timestamp>,
    /// The first entry that was not counted yet.
    next: u64,
    /// By the number of the hour since the Unix epoch.
    hours: BTreeMap<i64, Hour>,
    /// Agent and tool of intents without outcome.
    open: HashMap<u64, (Box<str>, Box<str>)>,
    /// The call that the last entry spent a hold for: the next one is its intent.
    spent: Option<Box<str>>,
}

impl Summary {
    fn starting(from: u64, cut: bool) -> Self {
        Self { cut, next: from, ..Self::default() }
    }

    /// When the counting begins, if that is later than a look of so many hours back from `now` asks for.
    pub fn since(&self, now: Timestamp, hours: i64) -> Option<Timestamp> {
        let wanted = number(now).saturating_sub(hours - 1).saturating_mul(HOUR);
        self.began.filter(|began| self.cut && began.as_second() > wanted)
    }

    /// The last hours, the oldest first, the one of `now` last: when each began, and what happened in it, as far as `of`
    /// tells.
    pub fn hours(&self, now: Timestamp, hours: i64, of: impl Fn(&Hour) -> Option<Counts>) -> Vec<(Timestamp, Counts)> {
        let last = number(now);
        let first = last.saturating_sub(hours.clamp(1, HOURS) - 1);
        let at = |hour: i64| Timestamp::from_second(hour.saturating_mul(HOUR)).unwrap_or(now);
        let counts = |hour: i64| self.hours.get(&hour).and_then(&of).unwrap_or_default();
        (first..=last).map(|hour| (at(hour), counts(hour))).collect()
    }

    /// What happened in the last hours, in all, by agent and by tool.
    pub fn total(&self, now: Timestamp, hours: i64) -> Hour {
        let last = number(now);
        let first = last.saturating_sub(hours.clamp(1, HOURS) - 1);
        let mut total = Hour::default();
        for hour in self.hours.range(first..=last).map(|(_, hour)| hour) {
            total.all.join(&hour.all);
            for (into, from) in [(&mut total.agents, &hour.agents), (&mut total.tools, &hour.tools)] {
                for (name, counts) in from {
                    into.entry(name.clone()).or_default().join(counts);
                }
            }
        }
        total
    }

    /// Takes in one entry.
    fn fold(&mut self, seq: u64, text: &[u8]) {
        self.next = seq + 1;
        let spent = self.spent.take();
        let member = |name: &str| entry::member(text, name).map(plain);
        let Some(kind) = entry::member(text, "kind") else { return };
        if kind == "hold.spent" {
            self.spent = member("call");
            return;
        }
        if !matches!(kind, "call.intended" | "call.settled" | "call.refused" | "call.held") {
            return;
        }
        let Some(at) = entry::member(text, "at").and_then(|at| at.parse::<Timestamp>().ok()) else { return };
        let (agent, tool) = match kind {
            "call.settled" => {
                let intent = holds::intent_of(text);
                intent.and_then(|intent| self.open.remove(&intent)).unzip()
            }
            _ => (member("agent"), member("tool")),
        };
        let word;
        let what = match kind {
            "call.intended" if spent.is_some() && spent == member("call") => What::Countersigned,
            "call.intended" => What::Permitted,
            "call.held" => What::Held,
            "call.refused" => {
                word = member("reason").unwrap_or_default();
                What::Refused(&word)
            }
            _ => What::Ended(entry::member(text, "outcome").unwrap_or_default()),
        };
        let hour = self.hours.entry(number(at)).or_default();
        hour.all.add(what, at);
        for (names, name) in [(&mut hour.agents, &agent), (&mut hour.tools, &tool)] {
            if let Some(name) = name {
                let known = names.contains_key(name) || names.len() < NAMES;
                names.entry(if known { name.clone() } else { "".into() }).or_default().add(what, at);
            }
        }
        // an intent stays without outcome for as long as its call runs: what a crash leaves is settled at the next start
        if kind == "call.intended" && self.open.len() < 2 * MOST_OPEN {
            self.open.insert(seq, (agent.unwrap_or_default(), tool.unwrap_or_default()));
        }
    }

    /// Forgets hours that nobody asks for any more.
    fn forget(&mut self, now: Timestamp) {
        let first = number(now).saturating_sub(HOURS - 1);
        self.hours = self.hours.split_off(&first);
    }
}

/// The number of the hour of a time.
fn number(at: Timestamp) -> i64 {
    at.as_second().div_euclid(HOUR)
}

/// What a member says, without the escapes of JSON.
fn plain(escaped: &str) -> Box<str> {
    if !escaped.contains('\\') {
        return escaped.into();
    }
    serde_json::from_str::<String>(&format!("\"{escaped}\"")).unwrap_or_default().into()
}

impl Ledger {
    /// Looks at what happened of late, up to now. Reads what was written since the last look, which may take its time: not
    /// for an async worker's thread.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn summed<T>(&self, now: Timestamp, look: impl FnOnce(&Summary) -> T) -> Result<T, Fault> {
        let mut summary = lock(&self.inner.summary);
        let size = self.size();
        let fresh = summary.next == 0;
        if fresh || size.saturating_sub(summary.next) > LOOK_BACK {
            let oldest = now.checked_sub(jiff::SignedDuration::from_hours(HOURS)).unwrap_or(Timestamp::UNIX_EPOCH);
            let (wanted, nearest) = (self.first_at(oldest)?, size.saturating_sub(LOOK_BACK));
            // what lies between the last look and here is not known, so what was before that is no beginning
            *summary = Summary::starting(wanted.max(nearest), nearest > wanted);
        }
        while summary.next < size {
            let at = summary.next;
            let entries = self.entries(at, CHUNK.min(usize::try_from(size - at).unwrap_or(CHUNK)))?;
            if entries.is_empty() {
                return Err(Fault(format!("the store is damaged: entry {at} is missing")));
            }
            for entry in entries {
                if summary.began.is_none() {
                    summary.began = entry::member(&entry.text, "at").and_then(|at| at.parse().ok());
                }
                summary.fold(entry.seq, &entry.text);
            }
        }
        summary.forget(now);
        Ok(look(&summary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn entry(kind: &str, time: &str, more: &str) -> String {
        format!(r#"{{{more},"at":"{time}","kind":"{kind}","v":1}}"#)
    }

    fn of(entries: &[String]) -> Summary {
        let mut summary = Summary::default();
        (0..).zip(entries).for_each(|(seq, text)| summary.fold(seq, text.as_bytes()));
        summary
    }

    #[test]
    fn each_call_is_counted_by_what_was_decided_and_how_it_ended() {
        let entries = [
            entry("call.intended", "2026-11-21T09:00:00.000000Z", r#""agent":"a","call":"call_1","tool":"up__x""#),
            entry("call.settled", "2026-11-21T09:59:59.999999Z", r#""call":"call_1","intent":0,"outcome":"ok""#),
            entry("call.held", "2026-11-21T10:00:00.000000Z", r#""agent":"a","call":"call_2","tool":"up__x""#),
            entry("hold.approved", "2026-11-21T10:00:01.000000Z", r#""approver":"ann""#),
            entry("hold.spent", "2026-11-21T10:00:02.000000Z", r#""call":"call_2","hold":"hold_1""#),
            entry("call.intended", "2026-11-21T10:00:02.000000Z", r#""agent":"a","call":"call_2","tool":"up__x""#),
            entry(
                "call.settled",
                "2026-11-21T10:00:03.000000Z",
                r#""call":"call_2","intent":5,"outcome":"tool_error""#,
            ),
            entry(
                "call.refused",
                "2026-11-21T10:00:04.000000Z",
                r#""agent":"b","name":"nothing","reason":"unknown_tool""#,
            ),
            // the outcome of an intent that was not counted
            entry("call.settled", "2026-11-21T10:00:05.000000Z", r#""call":"call_0","intent":77,"outcome":"unknown""#),
        ];
        let summary = of(&entries);
        let now = at("2026-11-21T10:30:00Z");
        let all = |hour: &Hour| Some(hour.all.clone());
        let hours = summary.hours(now, 3, all);
        let begun: Vec<String> = hours.iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(begun, ["2026-11-21T08:00:00Z", "2026-11-21T09:00:00Z", "2026-11-21T10:00:00Z"]);
        assert_eq!(hours[0].1, Counts::default());
        assert_eq!((hours[1].1.permitted, hours[1].1.ok, hours[1].1.decisions()), (1, 1, 1));
        let total = summary.total(now, 24);
        assert_eq!((total.all.permitted, total.all.held, total.all.countersigned, total.all.refused), (1, 1, 1, 1));
        assert_eq!((total.all.ok, total.all.tool_error, total.all.unknown), (1, 1, 1));
        assert_eq!(total.agents.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(total.agents["b"].codes, BTreeMap::from([("unknown_tool".into(), 1)]));
        assert_eq!(total.agents["a"].last, Some(at("2026-11-21T10:00:03Z")));
        assert_eq!((total.tools.len(), total.tools["up__x"].decisions(), total.tools["up__x"].tool_error), (1, 2, 1));
        assert_eq!(summary.total(now, 1).all.permitted, 0);
        assert!(summary.open.is_empty());
    }

    #[test]
    fn names_are_bounded_and_what_has_no_place_is_counted_all_the_same() {
        let entries: Vec<String> = (0..NAMES + 40)
            .map(|agent| {
                let more = format!(r#""agent":"agent-{agent:04}","reason":"code_{agent}""#);
                entry("call.refused", "2026-11-21T10:00:00.000000Z", &more)
            })
            .collect();
        let total = of(&entries).total(at("2026-11-21T10:30:00Z"), 1);
        assert_eq!((total.all.refused, total.agents.len()), (NAMES as u64 + 40, NAMES + 1));
        assert_eq!(total.agents[""].refused, 40);
        assert_eq!((total.all.codes.len(), total.all.codes.values().sum::<u64>()), (CODES + 1, NAMES as u64 + 40));
    }

    #[test]
    fn names_are_those_that_were_given() {
        let hostile = r#"<b>\"agent\":\"x\" \\ \u202e"#;
        let entries = [entry(
            "call.refused",
            "2026-11-21T10:00:00.000000Z",
            &format!(r#""agent":"{hostile}","reason":"denied""#),
        )];
        let total = of(&entries).total(at("2026-11-21T10:30:00Z"), 1);
        assert_eq!(total.agents.keys().next().unwrap().as_ref(), "<b>\"agent\":\"x\" \\ \u{202e}");
    }

    #[test]
    fn what_cannot_be_read_counts_for_nothing_and_old_hours_go() {
        let mut summary = of(&[
            "[".to_owned(),
            entry("call.refused", "yesterday", r#""agent":"a","reason":"denied""#),
            entry("call.refused", "2026-11-01T10:00:00.000000Z", r#""agent":"a","reason":"denied""#),
            entry("call.refused", "2026-11-21T10:00:00.000000Z", r#""agent":"a","reason":"denied""#),
        ]);
        assert_eq!((summary.next, summary.hours.len()), (4, 2));
        summary.forget(at("2026-11-21T10:30:00Z"));
        assert_eq!(summary.hours.len(), 1);
        assert_eq!(
            summary.hours(at("2026-11-21T10:30:00Z"), i64::MAX, |_| None).len(),
            usize::try_from(HOURS).unwrap()
        );
    }
}
