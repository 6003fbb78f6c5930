//! Who has called of late: the last entries of calls, by agent and by who vouches for it.

use std::collections::HashMap;

use super::{Ledger, entry};
use crate::{call::Fault, clock::Timestamp};

/// Entries that are looked at, from the end.
const WITHIN: u64 = 1 << 17;
/// Entries read at once.
const CHUNK: usize = 512;
/// Agents that are told apart. Their names are their issuers' to give, so nothing else bounds how many there are.
const MOST: usize = 4_096;

/// One agent, as one issuer vouches for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calling {
    /// Its name.
    pub agent: String,
    /// Who vouches for it; not known where only messages came that never became calls.
    pub issuer: Option<String>,
    /// When it called last.
    pub last: Option<Timestamp>,
    /// Calls that were let through.
    pub permitted: u64,
    /// Calls that had to be countersigned.
    pub held: u64,
    /// Calls, and messages that never became calls, that were refused.
    pub refused: u64,
}

/// Who has called, as far back as was looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// Who called last, first.
    pub callers: Vec<Calling>,
    /// How many entries were looked at.
    pub looked_at: u64,
    /// Entries before those were not looked at: when the first was written that was.
    pub since: Option<Timestamp>,
    /// Entries of agents that are left out, since there were too many others.
    pub left_out: u64,
}

#[derive(Default)]
struct Tally {
    last: Option<String>,
    permitted: u64,
    held: u64,
    refused: u64,
}

impl Ledger {
    /// Who has called, by the last entries. May block.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub fn callers(&self) -> Result<Callers, Fault> {
        self.callers_within(WITHIN)
    }

    pub(super) fn callers_within(&self, within: u64) -> Result<Callers, Fault> {
        let size = self.size();
        let from = size.saturating_sub(within);
        let mut found = Callers { looked_at: size - from, ..Callers::default() };
        // names as they stand in the entries, escapes and all
        let mut tallies: HashMap<(String, Option<String>), Tally> = HashMap::new();
        let mut issuers: HashMap<String, Option<String>> = HashMap::new();
        let mut at = from;
        while at < size {
            let entries = self.entries(at, CHUNK)?;
            let Some(last) = entries.last() else { break };
            let next = last.seq.saturating_add(1);
            for entry in &entries {
                let member = |name: &str| entry::member(&entry.text, name);
                if from > 0 && entry.seq == from {
                    found.since = member("at").and_then(|at| at.parse().ok());
                }
                let (Some(kind), Some(agent)) = (member("kind"), member("agent")) else { continue };
                if !matches!(kind, "call.intended" | "call.held" | "call.refused") {
                    continue;
                }
                // what never became a call names the credential alone
                let credential = member("credential").unwrap_or_default();
                let issuer = match member("issuer") {
                    Some(issuer) => {
                        if issuers.len() < MOST || issuers.contains_key(credential) {
                            issuers.insert(credential.to_owned(), Some(issuer.to_owned()));
                        }
                        Some(issuer.to_owned())
                    }
                    None => issuers.get(credential).cloned().flatten(),
                };
                let who = (agent.to_owned(), issuer);
                if tallies.len() >= MOST && !tallies.contains_key(&who) {
                    found.left_out += 1;
                    continue;
                }
                let tally = tallies.entry(who).or_default();
                tally.last = member("at").map(str::to_owned);
                match kind {
                    "call.intended" => tally.permitted += 1,
                    "call.held" => tally.held += 1,
                    _ => tally.refused += 1,
                }
            }
            at = next;
        }
        let whole = |text: &str| serde_json::from_str(&format!("\"{text}\"")).unwrap_or_else(|_| text.to_owned());
        found.callers = tallies
            .into_iter()
            .map(|((agent, issuer), tally)| Calling {
                agent: whole(&agent),
                issuer: issuer.as_deref().map(whole),
                last: tally.last.and_then(|at| at.parse().ok()),
                permitted: tally.permitted,
                held: tally.held,
                refused: tally.refused,
            })
            .collect();
        found
            .callers
            .sort_by(|one, other| (other.last, &one.agent, &one.issuer).cmp(&(one.last, &other.agent, &other.issuer)));
        Ok(found)
    }
}
