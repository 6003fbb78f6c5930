//! Who may countersign.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::clock::Timestamp;

/// A person who countersigns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// The name it signs in with.
    pub name: String,
    /// The roles it has, as `@hold` names them.
    pub roles: BTreeSet<String>,
    /// Other names of the same person: users that agents act for, other accounts.
    pub also: BTreeSet<String>,
    /// The Ed25519 key that it signs with, once enrolled.
    pub key: Option<[u8; 32]>,
    /// Who vouched for it; nobody for those who were added before anybody was enrolled.
    pub by: Option<String>,
    /// Since when it is known.
    pub since: Timestamp,
    /// When it voted in the last hour.
    pub(super) voted: VecDeque<Timestamp>,
}

impl Approver {
    /// Whether it is the person of that name: names are compared without case.
    pub fn is(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.name.to_lowercase() == name || self.also.iter().any(|also| also.to_lowercase() == name)
    }

    /// Whether it is the same person as another one.
    pub fn is_same_person(&self, other: &Self) -> bool {
        other.is(&self.name) || self.also.iter().any(|also| other.is(also))
    }
}

/// Everybody who may countersign, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    pub(super) approvers: BTreeMap<String, Approver>,
}

impl Roster {
    /// The approver of that name.
    pub fn get(&self, name: &str) -> Option<&Approver> {
        self.approvers.get(name)
    }

    /// Everybody, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Approver> {
        self.approvers.values()
    }

    /// Those who can sign.
    pub fn enrolled(&self) -> impl Iterator<Item = &Approver> {
        self.iter().filter(|approver| approver.key.is_some())
    }

    /// Whether `by` may give these roles, or take them away: who is enrolled vouches, with a role that somebody
    /// enrolled has only who has it too. While nobody is enrolled, nobody has to vouch.
    pub fn may_appoint<'r>(&self, by: Option<&str>, roles: impl IntoIterator<Item = &'r String>) -> bool {
        if self.enrolled().next().is_none() {
            return true;
        }
        let Some(by) = by.and_then(|by| self.get(by)).filter(|by| by.key.is_some()) else { return false };
        let taken = |role: &String| self.enrolled().any(|approver| approver.roles.contains(role));
        roles.into_iter().all(|role| by.roles.contains(role) || !taken(role))
    }
}
