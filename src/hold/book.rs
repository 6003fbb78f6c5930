//! The one state machine of holds and approvers.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
    Approver, Assurance, Binding, Bound, COLLECTED, Credential, Demand, Hold, HoldId, Means, OPEN, OPEN_EACH, Roster,
    SignIn, SignedIn, roster::PASSKEYS_EACH,
};
use crate::{clock::Timestamp, json::Digest};

/// Holds that have ended and are remembered for lists.
const REMEMBERED: usize = 1_000;
/// Countersigned holds that are remembered beyond these: the last of each agent and tool, which the next is compared with.
const COMPARED: usize = 4_096;
/// What one person may countersign in an hour.
const VOTES: usize = 120;
/// People whom identity providers let in, at once.
const GUESTS: usize = 4_096;
/// The outcome of a run of which nobody knows what it did.
const UNKNOWN: &str = "unknown";
/// The outcome of a run that never left.
pub(crate) const NOT_SENT: &str = "not_sent";
const HOUR: jiff::SignedDuration = jiff::SignedDuration::from_hours(1);

/// Where a hold stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for countersignatures.
    Pending,
    /// It has them all, and may be run once.
    Approved,
    /// It was run: nobody else may.
    Spent {
        /// The call that ran it.
        call: String,
        /// The index of its intent.
        intent: u64,
        /// The index of its outcome, and what that says, once there is one.
        outcome: Option<(u64, String)>,
    },
    /// An approver said no.
    Denied {
        /// Who.
        by: String,
        /// Why, for the agent.
        reason: String,
    },
    /// Its time ran out.
    Expired,
    /// It was withdrawn.
    Cancelled {
        /// By whom: `agent`, `operator`.
        by: String,
    },
    /// What it was bound to changed.
    Void(Drift),
}

impl Phase {
    /// The word of DESIGN's state machine.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Spent { .. } => "spent",
            Self::Denied { .. } => "denied",
            Self::Expired => "expired",
            Self::Cancelled { .. } => "cancelled",
            Self::Void(_) => "void",
        }
    }

    /// Whether it can still be run.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Pending | Self::Approved)
    }

    /// Whether nothing can come after it.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Pending | Self::Approved | Self::Spent { outcome: None, .. })
    }
}

/// Why a hold is void; [`Drift::code`] is public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The tool's contract is another, or its definition changed.
    ContractChanged,
    /// The grants are others.
    PolicyChanged,
    /// The agent's credential was revoked.
    PrincipalRevoked,
    /// The agent's task was ended, or the last of its tokens has.
    TaskEnded,
    /// An approver whose countersignature it needed is one no more.
    ApproverRemoved,
    /// The grants, asked again, refuse the call or demand more.
    NotPermitted,
    /// Its arguments were redacted.
    PayloadMissing,
    /// The ledger holds a change to it that cannot be.
    LedgerDisagrees,
}

impl Drift {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::ContractChanged,
        Self::PolicyChanged,
        Self::PrincipalRevoked,
        Self::TaskEnded,
        Self::ApproverRemoved,
        Self::NotPermitted,
        Self::PayloadMissing,
        Self::LedgerDisagrees,
    ];

    /// The stable reason code.
    pub fn code(self) -> &'static str {
        match self {
            Self::ContractChanged => "void_contract_changed",
            Self::PolicyChanged => "void_policy_changed",
            Self::PrincipalRevoked => "void_principal_revoked",
            Self::TaskEnded => "void_task_ended",
            Self::ApproverRemoved => "void_approver_removed",
            Self::NotPermitted => "void_not_permitted",
            Self::PayloadMissing => "void_payload_missing",
            Self::LedgerDisagrees => "void_ledger_disagrees",
        }
    }

    /// The drift of that code.
    pub fn read(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|drift| drift.code() == code)
    }
}

/// One countersignature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Who.
    pub approver: String,
    /// What it was signed with: it counts while that is the approver's.
    pub means: Means,
    /// Tells this act of signing from every other, where it was a passkey's.
    pub mark: Option<Digest>,
    /// When.
    pub at: Timestamp,
    /// The index of its entry.
    pub seq: u64,
}

/// A hold and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its facts.
    pub hold: Arc<Hold>,
    /// Where it stands.
    pub phase: Phase,
    /// Who countersigned so far.
    pub votes: Vec<Vote>,
    /// When it came to stand there.
    pub since: Timestamp,
    /// The entries that say all this.
    pub(super) entries: Vec<u64>,
}

impl Record {
    /// The index of the newest entry about it: with another one, it is not what it was.
    pub fn newest(&self) -> u64 {
        self.entries.iter().copied().max().unwrap_or(self.hold.seq)
    }

    /// Whether it has, or had until it was run, every countersignature that it needs.
    pub fn was_countersigned(&self) -> bool {
        matches!(self.phase, Phase::Approved | Phase::Spent { .. })
    }

    /// The indices of the entries about it that come after that one, the oldest first.
    pub fn after(&self, seq: u64) -> Vec<u64> {
        let mut after: Vec<u64> = self.entries.iter().copied().filter(|entry| *entry > seq).collect();
        after.sort_unstable();
        after
    }
}

/// Something that happens to a hold or to the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `call.held`
    Opened(Arc<Hold>),
    /// `hold.approved`: one person's countersignature.
    Approved {
        /// Which.
        hold: HoldId,
        /// The digest that was signed.
        digest: Digest,
        /// Who.
        approver: String,
        /// What it was signed with.
        means: Means,
        /// Tells this act of signing from every other, where it was a passkey's.
        mark: Option<Digest>,
        /// When.
        at: Timestamp,
    },
    /// `hold.denied`
    Denied {
        /// Which.
        hold: HoldId,
        /// The digest that was looked at.
        digest: Digest,
        /// Who.
        approver: String,
        /// Why, for the agent.
        reason: String,
        /// When.
        at: Timestamp,
    },
    /// `hold.expired`
    Expired {
        /// Which.
        hold: HoldId,
        /// When.
        at: Timestamp,
    },
    /// `hold.cancelled`
    Cancelled {
        /// Which.
        hold: HoldId,
        /// By whom: `agent`, `operator`.
        by: String,
        /// When.
        at: Timestamp,
    },
    /// `hold.void`
    Void {
        /// Which.
        hold: HoldId,
        /// Why.
        why: Drift,
        /// When.
        at: Timestamp,
    },
    /// `hold.spent`: the entry after it is the intent.
    Spent {
        /// Which.
        hold: HoldId,
        /// The call that runs it.
        call: String,
        /// When.
        at: Timestamp,
    },
    /// `call.settled` of a hold's intent.
    Settled {
        /// The intent's index.
        intent: u64,
        /// The outcome's word.
        outcome: String,
    },
    /// `approver.added`; of one that is known, its roles and names are replaced.
    ApproverAdded {
        /// The name.
        name: String,
        /// Its roles.
        roles: BTreeSet<String>,
        /// Other names of the same person.
        also: BTreeSet<String>,
        /// Who vouches.
        by: Option<String>,
        /// When.
        at: Timestamp,
    },
    /// `approver.enrolled`: the approver has something to sign with, or something more.
    ApproverEnrolled {
        /// The name.
        name: String,
        /// What it signs with.
        credential: Credential,
        /// What it signed with that it wants this: nothing when it is the first, which takes the one-time code.
        by: Option<Means>,
        /// When.
        at: Timestamp,
    },
    /// `approver.signed_in`: an identity provider let somebody in, or lets them in anew.
    ApproverSignedIn {
        /// Whom, and until when.
        who: SignIn,
        /// When.
        at: Timestamp,
    },
    /// `approver.removed`
    ApproverRemoved {
        /// The name.
        name: String,
        /// Who vouches.
        by: Option<String>,
        /// When.
        at: Timestamp,
    },
}

/// Why a change cannot be. [`Rejected::code`] is public interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// There is no such hold.
    UnknownHold,
    /// The hold's digest is another.
    OtherDigest,
    /// The hold has ended, and how.
    Ended(Phase),
    /// It has not the countersignatures that it needs.
    NotApproved,
    /// Its time is over, though that is not written down yet.
    TooLate,
    /// Its time is not over.
    TooEarly,
    /// The call is not the one that was held.
    OtherCall,
    /// There is no such approver, or it is not enrolled.
    UnknownApprover,
    /// The approver asked for it itself, is the user that the agent acts for, or was handed it on to.
    Requester,
    /// That person countersigned it already.
    Twice,
    /// The approver has none of the roles that are demanded.
    WrongRole,
    /// That person countersigned too much in the last hour.
    TooManyVotes,
    /// The key or passkey is not the approver's, or did not sign this.
    OtherKey,
    /// The hold takes a surer countersignature of this approver.
    AssuranceTooLow,
    /// Somebody is known by that passkey already.
    PasskeyKnown,
    /// The approver has as many passkeys as one may have.
    TooManyPasskeys,
    /// The identical call has a hold already.
    Known(HoldId),
    /// The identical call had a hold whose contract or grants are not in force any more.
    Drifted(HoldId, Drift),
    /// The agent, or the house, has too many open holds.
    TooMany,
    /// Who gives a role has to be enrolled, and have it if anybody has.
    NotAppointed,
    /// Somebody has that name, or is enrolled under it.
    NameTaken,
    /// Nobody else is enrolled.
    LastApprover,
}

impl Rejected {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownHold => "hold_unknown",
            Self::OtherDigest => "digest_mismatch",
            Self::Ended(_) => "hold_ended",
            Self::NotApproved => "hold_not_approved",
            Self::TooLate => "hold_expired",
            Self::TooEarly => "hold_not_expired",
            Self::OtherCall => "hold_of_another_call",
            Self::UnknownApprover => "approver_unknown",
            Self::Requester => "approver_is_requester",
            Self::Twice => "already_countersigned",
            Self::WrongRole => "wrong_role",
            Self::TooManyVotes => "too_many_approvals",
            Self::OtherKey => "wrong_key",
            Self::AssuranceTooLow => "assurance_too_low",
            Self::PasskeyKnown => "passkey_known",
            Self::TooManyPasskeys => "too_many_passkeys",
            Self::Known(_) => "hold_known",
            Self::Drifted(..) => "hold_drifted",
            Self::TooMany => "too_many_holds",
            Self::NotAppointed => "not_appointed",
            Self::NameTaken => "name_taken",
            Self::LastApprover => "last_approver",
        }
    }
}

impl std::fmt::Display for Rejected {
    /// What is wrong and what to do, for a person.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UnknownHold => "there is no such hold",
            Self::OtherDigest => "the hold is not the one that was shown; look at it again",
            Self::Ended(phase) => return write!(f, "the hold is {}; nothing can be done to it any more", phase.word()),
            Self::NotApproved => "the hold lacks a countersignature",
            Self::TooLate => "the time of this hold is over",
            Self::TooEarly => "the time of this hold is not over",
            Self::OtherCall => "the call is not the one that was held",
            Self::UnknownApprover => "there is no such approver, or it is not enrolled",
            Self::Requester => "who asks, the user it asks for, and whoever it came through cannot countersign it",
            Self::Twice => "the same person cannot countersign it twice",
            Self::WrongRole => "none of your roles can countersign this",
            Self::TooManyVotes => "too much was countersigned in the last hour; wait",
            Self::OtherKey => "the signature is not by the approver's key or passkey",
            Self::AssuranceTooLow => "this takes a passkey; use yours in the console, or enrol one there",
            Self::PasskeyKnown => "that passkey is enrolled already; use another one",
            Self::TooManyPasskeys => "an approver can have 16 passkeys, and you do",
            Self::Known(_) => "the identical call has a hold already",
            Self::Drifted(..) => "the identical call has a hold that is void",
            Self::TooMany => "too many calls wait for a countersignature",
            Self::NotAppointed => {
                "an enrolled approver has to vouch for this, one who has the role if anybody enrolled has it"
            }
            Self::NameTaken => "somebody has that name already",
            Self::LastApprover => "the last enrolled approver cannot be removed: enrol another one first",
        })
    }
}

impl std::error::Error for Rejected {}

/// The call that wants to spend a hold, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spend {
    /// The hold.
    pub hold: HoldId,
    /// Which call it is.
    pub binding: Binding,
    /// Digest of its contract.
    pub contract: Digest,
    /// Digest of the grants that permit it.
    pub grants: Digest,
}

/// The proof that people countersigned a hold, for the grants that decide again. It spends nothing: that is done where
/// the intent is written, and only once.
#[derive(Debug)]
pub struct Warrant {
    hold: Arc<Hold>,
}

impl Warrant {
    /// What was countersigned.
    pub fn hold(&self) -> &Arc<Hold> {
        &self.hold
    }

    /// Whether everything that is demanded now was demanded when it was countersigned.
    pub fn covers(&self, demands: &[Demand]) -> bool {
        demands.iter().all(|now| {
            self.hold.demands.iter().any(|then| {
                let enough = then.approvals >= now.approvals && then.assurance >= now.assurance;
                then.policy == now.policy && then.role == now.role && enough
            })
        })
    }
}

/// How many holds stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pending ones.
    pub pending: usize,
    /// Approved ones that nobody ran yet.
    pub approved: usize,
}

/// Every hold that is open or ended lately, and every approver.
#[derive(Clone, Debug, Default)]
pub struct Book {
    holds: HashMap<HoldId, Record>,
    by_binding: HashMap<Binding, HoldId>,
    /// How many of these each agent has, whoever vouches for it.
    by_agent: HashMap<String, usize>,
    by_intent: HashMap<u64, HoldId>,
    /// Open holds by issuer and agent.
    open: HashMap<(String, String), usize>,
    counts: Counts,
    /// Deadlines of open holds.
    deadlines: BTreeSet<(Timestamp, HoldId)>,
    /// Ended ones, the oldest first.
    ended: VecDeque<HoldId>,
    /// How many of the oldest of these are there for a reason of their own.
    spared: usize,
    roster: Roster,
    roster_entries: Vec<u64>,
    latest: Timestamp,
}

impl Book {
    /// Makes a change, or says why it cannot be; then nothing changed. `seq` is the index of its entry.
    ///
    /// # Errors
    /// [`Rejected`]
    pub fn apply(&mut self, change: &Change, seq: u64) -> Result<(), Rejected> {
        match change {
            Change::Opened(hold) => self.open(hold, seq),
            Change::Approved { hold, digest, approver, means, mark, at } => {
                let now = self.now(*at);
                self.may_vote_with(means, hold, digest, approver, now)?;
                // what one person's authenticator signed is not what another's did
                let repeats = |vote: &Vote| mark.is_some() && vote.mark == *mark;
                if self.open_record(hold)?.votes.iter().any(repeats) {
                    return Err(Rejected::OtherKey);
                }
                let person = self.roster.approvers.get_mut(approver).ok_or(Rejected::UnknownApprover)?;
                while person.voted.front().is_some_and(|voted| now.duration_since(*voted) >= HOUR) {
                    person.voted.pop_front();
                }
                if person.voted.len() >= VOTES {
                    return Err(Rejected::TooManyVotes);
                }
                person.voted.push_back(now);
                let record = self.holds.get_mut(hold).ok_or(Rejected::UnknownHold)?;
                record.votes.push(Vote { approver: approver.clone(), means: means.clone(), mark: *mark, at: now, seq });
                record.entries.push(seq);
                if has_quorum(record, &self.roster) && record.phase == Phase::Pending {
                    self.stand(hold, Phase::Approved, now);
                }
                self.latest = now;
                Ok(())
            }
            Change::Denied { hold, digest, approver, reason, at } => {
                let now = self.now(*at);
                self.may_deny(hold, digest, approver, now)?;
                self.end(hold, Phase::Denied { by: approver.clone(), reason: reason.clone() }, now, seq);
                Ok(())
            }
            Change::Expired { hold, at } => {
                let now = self.now(*at);
                let record = self.open_record(hold)?;
                if now < deadline(record) {
                    return Err(Rejected::TooEarly);
                }
                self.end(hold, Phase::Expired, now, seq);
                Ok(())
            }
            Change::Cancelled { hold, by, at } => {
                self.open_record(hold)?;
                let now = self.now(*at);
                self.end(hold, Phase::Cancelled { by: by.clone() }, now, seq);
                Ok(())
            }
            Change::Void { hold, why, at } => {
                self.open_record(hold)?;
                let now = self.now(*at);
                self.end(hold, Phase::Void(*why), now, seq);
                Ok(())
            }
            Change::Spent { hold, call, at } => {
                let now = self.now(*at);
                self.is_spendable(hold, now)?;
                let intent = seq + 1;
                self.by_intent.insert(intent, hold.clone());
                let spent = Phase::Spent { call: call.clone(), intent, outcome: None };
                match self.holds.get_mut(hold).filter(|record| !record.phase.is_open()) {
                    Some(again) => {
                        again.phase = spent;
                        again.since = now;
                        again.entries.push(seq);
                        self.latest = now;
                    }
                    None => self.end(hold, spent, now, seq),
                }
                Ok(())
            }
            Change::Settled { intent, outcome } => {
                let hold = self.by_intent.remove(intent).ok_or(Rejected::UnknownHold)?;
                let record = self.holds.get_mut(&hold).ok_or(Rejected::UnknownHold)?;
                record.entries.push(seq);
                if let Phase::Spent { outcome: known, .. } = &mut record.phase {
                    *known = Some((seq, outcome.clone()));
                }
                Ok(())
            }
            Change::ApproverAdded { name, roles, also, by, at } => {
                self.may_appoint(name, roles, also, by.as_deref())?;
                let since = self.now(*at);
                self.latest = since;
                let known = self.roster.approvers.remove(name);
                let (key, passkeys, voted) =
                    known.map(|known| (known.key, known.passkeys, known.voted)).unwrap_or_default();
                let (roles, also) = (roles.clone(), also.clone());
                let by = by.clone();
                let approver =
                    Approver { name: name.clone(), roles, also, key, passkeys, signed_in: None, by, since, voted };
                self.roster.approvers.insert(name.clone(), approver);
                self.roster_entries.push(seq);
                Ok(())
            }
            Change::ApproverEnrolled { name, credential, by, at } => {
                let now = self.now(*at);
                self.may_enrol(name, credential, by.as_ref())?;
                let approver = self.roster.approvers.get_mut(name).ok_or(Rejected::UnknownApprover)?;
                match credential {
                    Credential::Key(key) => approver.key = Some(*key),
                    Credential::Passkey(passkey) => approver.passkeys.push(Arc::clone(passkey)),
                }
                self.roster.begin(name, credential.means(), seq);
                self.latest = now;
                self.roster_entries.push(seq);
                Ok(())
            }
            Change::ApproverSignedIn { who, at } => {
                let now = self.now(*at);
                self.may_sign_in(who, now)?;
                let known = self.roster.approvers.remove(&who.name);
                let SignIn { name, provider, issuer, subject, roles, also, until } = who.clone();
                let approver = Approver {
                    name: name.clone(),
                    roles,
                    also,
                    key: None,
                    passkeys: Vec::new(),
                    signed_in: Some(SignedIn { provider, issuer, subject, until }),
                    by: None,
                    since: known.as_ref().map_or(now, |known| known.since),
                    voted: known.map(|known| known.voted).unwrap_or_default(),
                };
                self.roster.approvers.insert(name, approver);
                self.latest = now;
                self.roster_entries.push(seq);
                self.forget_guests();
                Ok(())
            }
            Change::ApproverRemoved { name, by, at } => {
                let approver = self.roster.get(name).ok_or(Rejected::UnknownApprover)?;
                if !self.roster.may_appoint(by.as_deref(), &approver.roles) {
                    return Err(Rejected::NotAppointed);
                }
                // without anybody enrolled, anybody could appoint
                if approver.is_enrolled() && self.roster.enrolled().count() == 1 {
                    return Err(Rejected::LastApprover);
                }
                self.latest = self.now(*at);
                self.roster.remove(name);
                self.roster_entries.push(seq);
                Ok(())
            }
        }
    }

    /// Whether that approver could be added or changed so.
    ///
    /// # Errors
    /// [`Rejected::NotAppointed`], [`Rejected::NameTaken`]
    pub fn may_appoint(
        &self,
        name: &str,
        roles: &BTreeSet<String>,
        also: &BTreeSet<String>,
        by: Option<&str>,
    ) -> Result<(), Rejected> {
        let old = self.roster.get(name);
        // whom a provider lets in, nobody else appoints
        if old.is_some_and(|old| old.signed_in.is_some()) {
            return Err(Rejected::NameTaken);
        }
        // nobody sheds another name of their own by themselves: it is what keeps them from their own requests
        let sheds = old.is_some_and(|old| old.is_enrolled() && !old.also.is_subset(also));
        if sheds && by == Some(name) && self.roster.enrolled().count() > 1 {
            return Err(Rejected::NotAppointed);
        }
        let touched = roles.iter().chain(old.iter().flat_map(|old| &old.roles));
        if !self.roster.may_appoint(by, touched) {
            return Err(Rejected::NotAppointed);
        }
        let mut others = self.roster.iter().filter(|other| other.name != name);
        let taken = others.any(|other| other.name.to_lowercase() == name.to_lowercase());
        if taken { Err(Rejected::NameTaken) } else { Ok(()) }
    }

    /// Whether that approver could be known by `credential` too; `by` is what they signed with that they want it.
    ///
    /// # Errors
    /// [`Rejected`]
    pub fn may_enrol(&self, name: &str, credential: &Credential, by: Option<&Means>) -> Result<(), Rejected> {
        let approver = self.roster.get(name).ok_or(Rejected::UnknownApprover)?;
        // whom a provider lets in, is known by its word alone
        if approver.signed_in.is_some() {
            return Err(Rejected::NotAppointed);
        }
        match by {
            // a one-time code lets in whom nothing is known of, and nobody else
            None if approver.is_enrolled() => return Err(Rejected::NameTaken),
            // who was added while nobody could vouch is not let in by a door that looks closed
            None if approver.by.is_none() && self.roster.enrolled().next().is_some() => {
                return Err(Rejected::NotAppointed);
            }
            Some(means) if !approver.has(means) => return Err(Rejected::OtherKey),
            // nothing makes surer than what it was added with
            Some(means) if means.assurance() < approver.assurance() => return Err(Rejected::AssuranceTooLow),
            _ => {}
        }
        match credential {
            Credential::Key(_) => Ok(()),
            Credential::Passkey(passkey) if self.roster.knows(passkey) => Err(Rejected::PasskeyKnown),
            Credential::Passkey(_) if approver.passkeys.len() >= PASSKEYS_EACH => Err(Rejected::TooManyPasskeys),
            Credential::Passkey(_) => Ok(()),
        }
    }

    /// Whether a provider could let somebody in so: under a name of its own, that is nobody else's at `now`.
    ///
    /// # Errors
    /// [`Rejected::NameTaken`]
    pub fn may_sign_in(&self, who: &SignIn, now: Timestamp) -> Result<(), Rejected> {
        let own = who.name.strip_prefix(&who.provider).is_some_and(|rest| rest.starts_with(':') && rest.len() > 1);
        let mut alike = self.roster.iter().filter(|other| other.name.to_lowercase() == who.name.to_lowercase());
        let theirs = alike.all(|other| {
            // a name that the provider gave to somebody else since is free once who had it is not signed in
            let same = other.name == who.name;
            same && other.signed_in.as_ref().is_some_and(|signed_in| {
                (signed_in.issuer == who.issuer && signed_in.subject == who.subject) || now >= signed_in.until
            })
        });
        if own && theirs && !who.roles.is_empty() { Ok(()) } else { Err(Rejected::NameTaken) }
    }

    /// Forgets those whom a provider let in the longest ago, once there are too many.
    fn forget_guests(&mut self) {
        let guests =
            self.roster.iter().filter_map(|approver| Some((approver.signed_in.as_ref()?.until, &approver.name)));
        let guests: Vec<_> = guests.collect();
        if guests.len() <= GUESTS {
            return;
        }
        let first = guests.iter().min().map(|(_, name)| (*name).clone());
        if let Some(first) = first {
            self.roster.approvers.remove(&first);
        }
    }

    /// Whether that agent may have one more open hold.
    pub fn has_room(&self, issuer: &str, agent: &str) -> bool {
        let has = self.open.get(&(issuer.to_owned(), agent.to_owned())).copied().unwrap_or(0);
        has < OPEN_EACH && self.counts.pending + self.counts.approved < OPEN
    }

    fn open(&mut self, hold: &Arc<Hold>, seq: u64) -> Result<(), Rejected> {
        let now = self.now(hold.created);
        let binding = hold.binding();
        if let Some(known) = self.identical(binding, now) {
            let old = &known.hold;
            let drift = if old.contract != hold.contract {
                Some(Drift::ContractChanged)
            } else {
                (old.grants != hold.grants).then_some(Drift::PolicyChanged)
            };
            match drift {
                None => return Err(Rejected::Known(old.id.clone())),
                Some(drift) if known.phase.is_open() => return Err(Rejected::Drifted(old.id.clone(), drift)),
                // one that has ended under another contract or other grants was another act
                Some(_) => {}
            }
        }
        let whose = (hold.issuer.clone(), hold.agent.clone());
        if !self.has_room(&hold.issuer, &hold.agent) {
            return Err(Rejected::TooMany);
        }
        if self.holds.contains_key(&hold.id) {
            return Err(Rejected::Known(hold.id.clone()));
        }
        self.latest = now;
        *self.open.entry(whose).or_default() += 1;
        self.counts.pending += 1;
        self.deadlines.insert((hold.approve_by, hold.id.clone()));
        if self.by_binding.insert(binding, hold.id.clone()).is_none() {
            *self.by_agent.entry(hold.agent.clone()).or_default() += 1;
        }
        // whoever opens it learns its index only when its entry has a place
        let mut hold = Arc::clone(hold);
        if hold.seq != seq {
            Arc::make_mut(&mut hold).seq = seq;
        }
        let id = hold.id.clone();
        let record = Record { hold, phase: Phase::Pending, votes: Vec::new(), since: now, entries: vec![seq] };
        self.holds.insert(id, record);
        Ok(())
    }

    /// The hold that the identical call meets: an open one; a denied one until it would have expired; a spent one while
    /// its result can be collected.
    pub fn identical(&self, binding: Binding, now: Timestamp) -> Option<&Record> {
        let record = self.holds.get(self.by_binding.get(&binding)?)?;
        let now = self.now(now);
        let meets = match &record.phase {
            Phase::Pending | Phase::Approved => now < deadline(record),
            Phase::Denied { .. } => now < record.hold.approve_by,
            Phase::Spent { outcome: None, .. } => true,
            // a call that was never sent may be tried anew, with a new hold
            Phase::Spent { outcome: Some((_, word)), .. } if word == NOT_SENT => false,
            Phase::Spent { outcome: Some(_), .. } => now.duration_since(record.since) < COLLECTED,
            Phase::Expired | Phase::Cancelled { .. } | Phase::Void(_) => false,
        };
        // one whose time is over but not written as expired yet is in nobody's way
        meets.then_some(record)
    }

    /// A denied hold of the same act, until it would have expired, whatever else the credential says: a "no" is not asked
    /// away by a narrower credential or another hand.
    pub fn denied(&self, act: &Bound<'_>, now: Timestamp) -> Option<&Record> {
        let now = self.now(now);
        self.holds.values().find(|record| {
            let hold = &record.hold;
            matches!(record.phase, Phase::Denied { .. })
                && now < hold.approve_by
                && (hold.issuer.as_str(), hold.agent.as_str()) == (act.issuer, act.agent)
                && (hold.user.as_deref(), hold.task.as_deref()) == (act.user, act.task)
                && (hold.method.as_str(), hold.tool.as_str()) == (act.method, act.tool)
                && hold.arguments == act.arguments
        })
    }

    /// The hold of that id.
    pub fn get(&self, id: &HoldId) -> Option<&Record> {
        self.holds.get(id)
    }

    /// Every hold that is known, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Record> {
        self.holds.values()
    }

    /// Who may countersign.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// How many holds are open.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a call of that agent could meet a hold at all: a glance, for the many that do not.
    pub fn may_meet(&self, agent: &str) -> bool {
        self.by_agent.contains_key(agent)
    }

    /// Whether that intent is the run of a hold that has no outcome yet.
    pub fn awaits(&self, intent: u64) -> bool {
        self.by_intent.contains_key(&intent)
    }

    /// The hold whose run that intent is, while it has no outcome.
    pub(crate) fn run_by(&self, intent: u64) -> Option<&HoldId> {
        self.by_intent.get(&intent)
    }

    /// When the next open hold expires.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Open holds whose time is over at `now`, at most `most`.
    pub fn overdue(&self, now: Timestamp, most: usize) -> Vec<HoldId> {
        let now = self.now(now);
        self.deadlines.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| id.clone()).take(most).collect()
    }

    /// Whether the time of an open hold is over.
    pub fn is_overdue(&self, id: &HoldId, now: Timestamp) -> bool {
        self.open_record(id).is_ok_and(|record| self.now(now) >= deadline(record))
    }

    /// How sure it has to be that it is them when that approver countersigns the hold: what the surest of the policies
    /// demands that wait for a role of theirs.
    pub fn takes(&self, hold: &Hold, approver: &str) -> Assurance {
        let roles = self.roster.get(approver).map(|person| &person.roles);
        let own = |demand: &&Demand| roles.is_some_and(|roles| roles.contains(&demand.role));
        hold.demands.iter().filter(own).map(|demand| demand.assurance).max().unwrap_or_default()
    }

    /// Whether that approver could countersign the hold now with these means: everything but the signature.
    ///
    /// # Errors
    /// [`Rejected`]
    pub fn may_vote_with(
        &self,
        means: &Means,
        id: &HoldId,
        digest: &Digest,
        approver: &str,
        now: Timestamp,
    ) -> Result<(), Rejected> {
        self.may_vote(id, digest, approver, now)?;
        let person = self.roster.get(approver).ok_or(Rejected::UnknownApprover)?;
        if !person.has(means) {
            return Err(Rejected::OtherKey);
        }
        let takes = self.takes(&self.open_record(id)?.hold, approver);
        if means.assurance() < takes { Err(Rejected::AssuranceTooLow) } else { Ok(()) }
    }

    /// Whether that approver could countersign the hold now with anything they have.
    ///
    /// # Errors
    /// [`Rejected`]
    pub fn may_vote(&self, id: &HoldId, digest: &Digest, approver: &str, now: Timestamp) -> Result<(), Rejected> {
        self.may_deny(id, digest, approver, now)?;
        let record = self.open_record(id)?;
        let person = self.roster.get(approver).ok_or(Rejected::UnknownApprover)?;
        let takes = self.takes(&record.hold, approver);
        // a countersignature that counts no more is in nobody's way; neither is one's own that is not sure enough, as when
        // a role came later
        let same = |vote: &Vote| {
            let enough = vote.approver != approver || vote.means.assurance() >= takes;
            let voter = self.roster.voter(&vote.approver, &vote.means, vote.seq);
            enough && voter.is_some_and(|voter| voter.is_same_person(person))
        };
        if record.votes.iter().any(same) {
            return Err(Rejected::Twice);
        }
        if person.assurance() < takes {
            return Err(Rejected::AssuranceTooLow);
        }
        Ok(())
    }

    /// Whether that approver could deny the hold now.
    ///
    /// # Errors
    /// [`Rejected`]
    pub fn may_deny(&self, id: &HoldId, digest: &Digest, approver: &str, now: Timestamp) -> Result<(), Rejected> {
        let record = self.open_record(id)?;
        let person = self.roster.get(approver).filter(|approver| approver.stands(self.now(now)));
        let person = person.ok_or(Rejected::UnknownApprover)?;
        let hold = &record.hold;
        if hold.digest != *digest {
            return Err(Rejected::OtherDigest);
        }
        if self.now(now) >= deadline(record) {
            return Err(Rejected::TooLate);
        }
        if hold.askers().any(|name| person.is(name)) {
            return Err(Rejected::Requester);
        }
        if !hold.demands.iter().any(|demand| person.roles.contains(&demand.role)) {
            return Err(Rejected::WrongRole);
        }
        Ok(())
    }

    /// Whether the identical call may run a hold again: nobody knows what its run did, and its contract says that doing it
    /// twice is doing it once.
    pub fn may_run_again(&self, id: &HoldId, now: Timestamp) -> bool {
        self.get(id).is_some_and(|record| !record.phase.is_open()) && self.is_spendable(id, now).is_ok()
    }

    /// The proof that a hold was countersigned, while it is.
    pub(crate) fn warrant(&self, id: &HoldId, now: Timestamp) -> Option<Warrant> {
        self.is_spendable(id, now).ok()?;
        Some(Warrant { hold: Arc::clone(&self.holds.get(id)?.hold) })
    }

    /// Whether that call could spend its hold now.
    ///
    /// # Errors
    /// [`Rejected`]
    pub fn may_spend(&self, spend: &Spend, now: Timestamp) -> Result<(), Rejected> {
        self.is_spendable(&spend.hold, now)?;
        let hold = &self.holds.get(&spend.hold).ok_or(Rejected::UnknownHold)?.hold;
        if hold.binding() != spend.binding {
            return Err(Rejected::OtherCall);
        }
        if hold.contract != spend.contract {
            return Err(Rejected::Drifted(hold.id.clone(), Drift::ContractChanged));
        }
        if hold.grants != spend.grants {
            return Err(Rejected::Drifted(hold.id.clone(), Drift::PolicyChanged));
        }
        Ok(())
    }

    fn is_spendable(&self, id: &HoldId, now: Timestamp) -> Result<(), Rejected> {
        let record = self.holds.get(id).ok_or(Rejected::UnknownHold)?;
        match &record.phase {
            Phase::Approved => {}
            Phase::Pending => return Err(Rejected::NotApproved),
            // nobody knows whether it was done, and doing it twice is doing it once
            Phase::Spent { outcome: Some((_, word)), .. } if word == UNKNOWN && record.hold.idempotent => {}
            ended => return Err(Rejected::Ended(ended.clone())),
        }
        if self.now(now) >= record.hold.execute_by {
            return Err(Rejected::TooLate);
        }
        // an approver may have been removed, or lost the role, since
        if has_quorum(record, &self.roster) { Ok(()) } else { Err(Rejected::NotApproved) }
    }

    /// Whether a hold that stands approved has lost a countersignature that it needs.
    pub fn lost_quorum(&self, id: &HoldId) -> bool {
        self.get(id).is_some_and(|record| record.phase == Phase::Approved && !has_quorum(record, &self.roster))
    }

    /// For every role that is demanded: how many of its people have countersigned, and how many have to.
    pub fn progress(&self, record: &Record) -> Vec<(String, usize, usize)> {
        let demands = record.hold.demands.iter();
        demands
            .map(|demand| (demand.role.clone(), counted(record, demand, &self.roster), usize::from(demand.approvals)))
            .collect()
    }

    /// Ends a hold whose entries do not fit each other: it is never run.
    pub(crate) fn distrust(&mut self, id: &HoldId, seq: u64) {
        if self.open_record(id).is_ok() {
            let now = self.latest;
            self.end(id, Phase::Void(Drift::LedgerDisagrees), now, seq);
        }
    }

    /// What the entries of [`Book::entries`] alone do not tell: the latest time, and when each approver voted lately.
    pub(crate) fn memory(&self) -> (Timestamp, Vec<(String, Vec<Timestamp>)>) {
        let voted = |approver: &Approver| (approver.name.clone(), approver.voted.iter().copied().collect());
        (self.latest, self.roster.iter().map(voted).collect())
    }

    /// Takes up what [`Book::memory`] gave.
    pub(crate) fn remember(&mut self, latest: Timestamp, voted: Vec<(String, Vec<Timestamp>)>) {
        self.latest = self.latest.max(latest);
        for (name, voted) in voted {
            if let Some(approver) = self.roster.approvers.get_mut(&name) {
                approver.voted = voted.into();
            }
        }
    }

    /// The entries that this book can be made from again, in order.
    pub(crate) fn entries(&self) -> Vec<u64> {
        let mut entries = self.roster_entries.clone();
        entries.extend(self.holds.values().flat_map(|record| record.entries.iter().copied()));
        entries.sort_unstable();
        entries
    }

    fn open_record(&self, id: &HoldId) -> Result<&Record, Rejected> {
        let record = self.holds.get(id).ok_or(Rejected::UnknownHold)?;
        if record.phase.is_open() { Ok(record) } else { Err(Rejected::Ended(record.phase.clone())) }
    }

    /// The time of a change: it never goes back.
    fn now(&self, at: Timestamp) -> Timestamp {
        at.max(self.latest)
    }

    /// Moves a hold from one phase to another.
    fn stand(&mut self, id: &HoldId, phase: Phase, now: Timestamp) {
        let Some(record) = self.holds.get_mut(id) else { return };
        let before = deadline(record);
        match record.phase {
            Phase::Pending => self.counts.pending = self.counts.pending.saturating_sub(1),
            Phase::Approved => self.counts.approved = self.counts.approved.saturating_sub(1),
            _ => {}
        }
        record.phase = phase;
        record.since = now;
        self.deadlines.remove(&(before, id.clone()));
        match record.phase {
            Phase::Pending => self.counts.pending += 1,
            Phase::Approved => self.counts.approved += 1,
            _ => {}
        }
        if record.phase.is_open() {
            self.deadlines.insert((deadline(record), id.clone()));
        } else {
            let whose = (record.hold.issuer.clone(), record.hold.agent.clone());
            if let Some(open) = self.open.get_mut(&whose) {
                *open = open.saturating_sub(1);
                if *open == 0 {
                    self.open.remove(&whose);
                }
            }
            self.ended.push_back(id.clone());
        }
    }

    fn end(&mut self, id: &HoldId, phase: Phase, now: Timestamp, seq: u64) {
        if let Some(record) = self.holds.get_mut(id) {
            record.entries.push(seq);
        }
        self.stand(id, phase, now);
        self.latest = now;
        self.forget(now);
    }

    /// Forgets the oldest of those that ended, once there are too many, unless a call can still meet them, or the next
    /// one like them is compared with them: however many holds others open and withdraw, that stays.
    fn forget(&mut self, now: Timestamp) {
        if self.ended.len() < 2 * REMEMBERED + self.spared {
            return;
        }
        let compared = self.compared();
        let old: Vec<HoldId> = self.ended.drain(..self.ended.len() - REMEMBERED).collect();
        let mut kept = VecDeque::new();
        for id in old {
            let Some(record) = self.holds.get(&id) else { continue };
            let last = compared.contains(&id);
            let binding = record.hold.binding();
            let mine = self.by_binding.get(&binding) == Some(&id);
            if mine && self.identical(binding, now).is_some() {
                kept.push_back(id);
                continue;
            }
            if mine {
                self.by_binding.remove(&binding);
                let agent = record.hold.agent.clone();
                if let Some(left) = self.by_agent.get_mut(&agent) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        self.by_agent.remove(&agent);
                    }
                }
            }
            if last {
                kept.push_back(id);
            } else {
                self.holds.remove(&id);
            }
        }
        self.spared = kept.len();
        kept.append(&mut self.ended);
        self.ended = kept;
    }

    /// The last countersigned hold of each agent and tool: the newest of them.
    fn compared(&self) -> HashSet<HoldId> {
        let mut last: HashMap<(&str, &str, &str), &Hold> = HashMap::new();
        for record in self.holds.values().filter(|record| record.was_countersigned()) {
            let hold = &*record.hold;
            let of = last.entry((&hold.issuer, &hold.agent, &hold.tool)).or_insert(hold);
            if of.seq < hold.seq {
                *of = hold;
            }
        }
        let mut last: Vec<&Hold> = last.into_values().collect();
        last.sort_unstable_by_key(|hold| std::cmp::Reverse(hold.seq));
        last.into_iter().take(COMPARED).map(|hold| hold.id.clone()).collect()
    }
}

/// Until when an open hold stands where it stands.
fn deadline(record: &Record) -> Timestamp {
    match record.phase {
        Phase::Approved => record.hold.execute_by,
        _ => record.hold.approve_by,
    }
}

/// How many different people who have the role that is demanded now have countersigned, each as surely as is demanded.
fn counted(record: &Record, demand: &Demand, roster: &Roster) -> usize {
    let mut people: Vec<&Approver> = Vec::new();
    for vote in &record.votes {
        let Some(approver) = roster.voter(&vote.approver, &vote.means, vote.seq) else { continue };
        let sure = vote.means.assurance() >= demand.assurance;
        if sure && approver.roles.contains(&demand.role) && !people.iter().any(|other| other.is_same_person(approver)) {
            people.push(approver);
        }
    }
    people.len()
}

fn has_quorum(record: &Record, roster: &Roster) -> bool {
    let demands = &record.hold.demands;
    !demands.is_empty()
        && demands
            .iter()
            .all(|demand| demand.approvals > 0 && counted(record, demand, roster) >= usize::from(demand.approvals))
}
