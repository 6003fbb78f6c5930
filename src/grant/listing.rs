//! The policies that are loaded, and whom they name: for a person who looks at them.

use std::{collections::BTreeSet, sync::Arc};

use cedar_policy::Effect;

use super::{Grants, load::Rule};
use crate::{call::Principal, clock::Timestamp, contract::UpstreamName};

/// A policy as it stands in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: Arc<str>,
    /// Where it stands, `file:line`.
    pub place: String,
    /// Whether it is a `permit`; a `forbid` otherwise.
    pub permit: bool,
    /// Whether what it matches has to be countersigned.
    pub holds: bool,
    /// Whether its `@until` is past.
    pub over: bool,
    /// Its text, annotations included.
    pub text: Arc<str>,
}

impl Grants {
    /// Every policy, by file and line.
    pub fn listed(&self, now: Timestamp) -> Vec<Listed> {
        Self::list(self.rules.iter(), now)
    }

    /// The policies whose scope covers such a call, by file and line, those whose `@until` is past left out: what
    /// [`Grants::visibility`] rests on.
    pub fn about(&self, principal: &Principal, action: &str, upstream: &UpstreamName, now: Timestamp) -> Vec<Listed> {
        let Some(site) = self.site_of(principal, action, upstream) else { return Vec::new() };
        let slice = self.slice(site, principal, now);
        Self::list(slice.rules.iter().chain(&slice.lacking).filter_map(|place| self.rule(*place)), now)
    }

    fn list<'r>(rules: impl Iterator<Item = &'r Rule>, now: Timestamp) -> Vec<Listed> {
        let mut rules: Vec<&Rule> = rules.collect();
        rules.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
        let one = |rule: &Rule| Listed {
            id: Arc::clone(&rule.id),
            place: rule.place(),
            permit: rule.effect == Effect::Permit,
            holds: rule.hold.is_some(),
            over: rule.is_over(now),
            text: Arc::clone(&rule.text),
        };
        rules.into_iter().map(one).collect()
    }

    /// Agents that some policy names. All others are alike, but for their teams.
    pub fn agents(&self) -> BTreeSet<&str> {
        self.agents.keys().map(String::as_str).collect()
    }

    /// Teams that some policy names.
    pub fn teams(&self) -> BTreeSet<&str> {
        self.teams.keys().map(String::as_str).collect()
    }
}
