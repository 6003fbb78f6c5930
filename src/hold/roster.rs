//! Who may countersign, and by what they are known.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use super::signed_in::{SignedIn, identity};
use crate::{clock::Timestamp, json::Digest, passkey::Passkey};

/// Passkeys that one approver may have.
pub(super) const PASSKEYS_EACH: usize = 16;

/// How sure it has to be who countersigned. What comes later is surer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Assurance {
    /// Whatever an approver has.
    #[default]
    Any,
    /// A passkey: an authenticator has made sure that it is them, and what it signed can be used for nothing else.
    Passkey,
}

impl Assurance {
    /// The word of `@assurance`; none for [`Assurance::Any`].
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Any => None,
            Self::Passkey => Some("passkey"),
        }
    }

    /// The assurance of that word.
    pub fn read(word: &str) -> Option<Self> {
        (word == "passkey").then_some(Self::Passkey)
    }
}

/// What an approver countersigns with, or is signed in by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// The Ed25519 key that their passphrase unlocks.
    Key([u8; 32]),
    /// The passkey of that digest.
    Passkey(Digest),
    /// An identity provider's word: names the person of the issuer.
    SignedIn(Digest),
}

impl Means {
    /// That the issuer vouches for its subject.
    pub fn signed_in(issuer: &str, subject: &str) -> Self {
        Self::SignedIn(identity(issuer, subject))
    }

    /// The word for its kind.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Key(_) => "passphrase",
            Self::Passkey(_) => "passkey",
            Self::SignedIn(_) => "signed_in",
        }
    }

    /// How sure it makes.
    pub fn assurance(&self) -> Assurance {
        match self {
            Self::Key(_) | Self::SignedIn(_) => Assurance::Any,
            Self::Passkey(_) => Assurance::Passkey,
        }
    }
}

/// What enrolling gives an approver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// An Ed25519 key, which only their passphrase unlocks.
    Key([u8; 32]),
    /// A passkey.
    Passkey(Arc<Passkey>),
}

impl Credential {
    /// What the approver countersigns with then.
    pub fn means(&self) -> Means {
        match self {
            Self::Key(key) => Means::Key(*key),
            Self::Passkey(passkey) => Means::Passkey(passkey.digest()),
        }
    }
}

/// A person who countersigns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approver {
    /// The name it signs in with.
    pub name: String,
    /// The roles it has, as `@hold` names them.
    pub roles: BTreeSet<String>,
    /// Other names of the same person: users that agents act for, other accounts.
    pub also: BTreeSet<String>,
    /// The Ed25519 key that it signs with, if it has chosen a passphrase.
    pub key: Option<[u8; 32]>,
    /// The passkeys it has, the oldest first.
    pub passkeys: Vec<Arc<Passkey>>,
    /// Who let it in, where that is an identity provider; it has no key and no passkey then.
    pub signed_in: Option<SignedIn>,
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

    /// Whether it has anything to sign with.
    pub fn is_enrolled(&self) -> bool {
        self.key.is_some() || !self.passkeys.is_empty()
    }

    /// Whether it can decide at `now`: it is enrolled, or signed in still.
    pub fn stands(&self, now: Timestamp) -> bool {
        self.is_enrolled() || self.signed_in.as_ref().is_some_and(|signed_in| now < signed_in.until)
    }

    /// Whether it has that to sign with, now.
    pub fn has(&self, means: &Means) -> bool {
        match means {
            Means::Key(key) => self.key == Some(*key),
            Means::Passkey(digest) => self.passkey(digest).is_some(),
            Means::SignedIn(_) => self.signed_in.as_ref().is_some_and(|signed_in| signed_in.means() == *means),
        }
    }

    /// Its passkey of that digest.
    pub fn passkey(&self, digest: &Digest) -> Option<&Arc<Passkey>> {
        self.passkeys.iter().find(|passkey| passkey.digest() == *digest)
    }

    /// The surest of what it has.
    pub fn surest(&self) -> Option<Means> {
        let passkey = self.passkeys.first().map(|passkey| Means::Passkey(passkey.digest()));
        passkey.or(self.key.map(Means::Key))
    }

    /// How sure the surest of what it has makes.
    pub fn assurance(&self) -> Assurance {
        if self.passkeys.is_empty() { Assurance::Any } else { Assurance::Passkey }
    }
}

/// Everybody who may countersign, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    pub(super) approvers: BTreeMap<String, Approver>,
    /// The entries that gave each what they have to sign with.
    begun: BTreeMap<String, Vec<(Means, u64)>>,
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
        self.iter().filter(|approver| approver.is_enrolled())
    }

    /// Whoever countersigned with those means in entry `seq`, if that counts: they have the means, and since before. A
    /// passkey that is taken away and enrolled anew brings nothing back.
    pub(super) fn voter(&self, name: &str, means: &Means, seq: u64) -> Option<&Approver> {
        let begun = self.begun.get(name).and_then(|all| all.iter().find(|(known, _)| known == means));
        let before = begun.is_none_or(|(_, begun)| *begun < seq);
        self.get(name).filter(|approver| before && approver.has(means))
    }

    /// Notes which entry gave an approver something to sign with.
    pub(super) fn begin(&mut self, name: &str, means: Means, seq: u64) {
        let all = self.begun.entry(name.to_owned()).or_default();
        // what they have no more needs no note
        let has = |known: &Means| self.approvers.get(name).is_some_and(|approver| approver.has(known));
        all.retain(|(known, _)| *known != means && has(known));
        all.push((means, seq));
    }

    /// Takes somebody out.
    pub(super) fn remove(&mut self, name: &str) {
        self.approvers.remove(name);
        self.begun.remove(name);
    }

    /// Whose passkey has that credential id, and the passkey.
    pub fn passkey(&self, id: &[u8]) -> Option<(&Approver, &Arc<Passkey>)> {
        self.iter().find_map(|approver| {
            let found = approver.passkeys.iter().find(|passkey| passkey.id() == id);
            found.map(|passkey| (approver, passkey))
        })
    }

    /// Whether somebody has that passkey, by its id or by its key: who says that a key is theirs has not shown it, and
    /// ids are in nothing that an authenticator signs.
    pub fn knows(&self, passkey: &Passkey) -> bool {
        let known = self.iter().flat_map(|approver| &approver.passkeys);
        known.into_iter().any(|known| known.id() == passkey.id() || known.is_same_key(passkey))
    }

    /// Whether `by` may give these roles, or take them away: who is enrolled vouches, with a role that somebody
    /// enrolled has only who has it too. While nobody is enrolled, nobody has to vouch.
    pub fn may_appoint<'r>(&self, by: Option<&str>, roles: impl IntoIterator<Item = &'r String>) -> bool {
        if self.enrolled().next().is_none() {
            return true;
        }
        let Some(by) = by.and_then(|by| self.get(by)).filter(|by| by.is_enrolled()) else { return false };
        let taken = |role: &String| self.enrolled().any(|approver| approver.roles.contains(role));
        roles.into_iter().all(|role| by.roles.contains(role) || !taken(role))
    }
}
