//! The approvers of one house: the vault that keeps their keys, and the ledger that says what those keys mean.

use std::{collections::BTreeSet, fmt, path::Path, sync::Arc};

use tokio::sync::OwnedMutexGuard;

use super::{
    Code, NotEnrolled, NotUnlocked, Passphrase, Prepared, Session, Sessions, Shown, Token, Unlocked, Vault, Way,
    approver_name, ceremonies::Ceremonies, handles::Handles,
};
use crate::{
    call::Fault,
    clock::{Clock, Timestamp},
    hold::{Credential, Evidence, HoldId, Means, Phase, Proof, Rejected, SignIn},
    json::Digest,
    ledger::{Ledger, NotChanged},
    passkey::Flaw,
};

/// Roles, or other names, that one approver may have.
const MOST: usize = 16;

/// Adds approvers, enrols them, and signs for them while they give their passphrase; what they do with passkeys is in
/// `passkeys`.
#[derive(Debug)]
pub struct Approvers {
    pub(super) vault: Arc<Vault>,
    /// Who is signed in.
    pub sessions: Sessions,
    pub(super) ceremonies: Ceremonies,
    pub(super) handles: Handles,
    pub(super) ledger: Ledger,
    pub(super) clock: Clock,
}

/// Who vouches for an approver's coming or going.
#[derive(Clone, Debug)]
pub struct Vouch {
    /// An enrolled approver.
    pub approver: String,
    /// What unlocks its key.
    pub passphrase: Passphrase,
}

/// What adding an approver gave.
#[derive(Debug)]
pub struct Added {
    /// The one-time code to enrol with; none for an approver who is enrolled already.
    pub code: Option<Code>,
    /// Until when the code is good.
    pub expires: Option<Timestamp>,
}

/// Why an approver's act was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDone {
    /// What was asked for is malformed: a sentence that says what to write.
    Malformed(String),
    /// Nobody by that name with that passphrase: which of the two, is not told.
    Locked,
    /// Too many tries.
    TooMany {
        /// Seconds until it makes sense to come again.
        retry_after_s: u64,
    },
    /// What an authenticator said does not count.
    Passkey(Flaw),
    /// A rule forbids it.
    Rejected(Rejected),
    /// Nobody was enrolled.
    NotEnrolled(NotEnrolled),
    /// Ours.
    Fault(Fault),
}

impl fmt::Display for NotDone {
    /// What is wrong and what to do, for the approver.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => f.write_str(why),
            Self::Locked => f.write_str("the approver or the passphrase is wrong"),
            Self::TooMany { retry_after_s } => write!(f, "too many tries; wait {retry_after_s} s"),
            Self::Passkey(flaw) => flaw.fmt(f),
            Self::Rejected(rejected) => rejected.fmt(f),
            Self::NotEnrolled(NotEnrolled::Code) => f.write_str("there is no such code, or it was used"),
            Self::NotEnrolled(NotEnrolled::Expired) => f.write_str("the code is older than a day; ask for a new one"),
            Self::NotEnrolled(NotEnrolled::Passphrase(unfit)) => unfit.fmt(f),
            Self::NotEnrolled(NotEnrolled::TooMany { retry_after_s }) => {
                write!(f, "others are being served; wait {retry_after_s} s")
            }
            Self::NotEnrolled(NotEnrolled::Fault(fault)) | Self::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for NotDone {}

impl From<NotChanged> for NotDone {
    fn from(not: NotChanged) -> Self {
        match not {
            NotChanged::Rejected(rejected) => Self::Rejected(rejected),
            NotChanged::Fault(fault) => Self::Fault(fault),
        }
    }
}

impl From<NotUnlocked> for NotDone {
    fn from(not: NotUnlocked) -> Self {
        match not {
            NotUnlocked::Unknown | NotUnlocked::Wrong => Self::Locked,
            NotUnlocked::TooMany { retry_after_s } => Self::TooMany { retry_after_s },
            NotUnlocked::Fault(fault) => Self::Fault(fault),
        }
    }
}

impl From<NotEnrolled> for NotDone {
    fn from(not: NotEnrolled) -> Self {
        Self::NotEnrolled(not)
    }
}

impl From<Fault> for NotDone {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Approvers {
    /// Opens the vault below `data`, and ends what a crash left half done in it.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read or kept to ourselves.
    pub fn open(data: &Path, ledger: Ledger, clock: Clock) -> Result<Self, Fault> {
        let vault = Arc::new(Vault::open(data)?);
        let known: Vec<_> = ledger.holds(|book| {
            let each = book.roster().iter();
            each.map(|known| (known.name.clone(), known.key, known.passkeys.is_empty())).collect()
        });
        vault.reconcile(known.iter().map(|(name, key, _)| (name.as_str(), *key)))?;
        // a code that a passkey was enrolled with is known for one that served by that
        for (name, ..) in known.iter().filter(|(_, _, none)| !none) {
            vault.uninvite(name)?;
        }
        let handles = Handles::open(data)?;
        let ceremonies = Ceremonies::new().map_err(|problem| Fault(problem.to_string()))?;
        Ok(Self { vault, sessions: Sessions::default(), ceremonies, handles, ledger, clock })
    }

    /// Adds an approver and gives the code to enrol with; changes the roles and names of one who is there. The first
    /// needs nobody's word; once anybody is enrolled, an enrolled approver has to vouch: one who has the role, where
    /// anybody enrolled has it.
    ///
    /// # Errors
    /// [`NotDone`]
    pub async fn add(
        &self,
        name: &str,
        roles: BTreeSet<String>,
        also: BTreeSet<String>,
        vouch: Option<Vouch>,
    ) -> Result<Added, NotDone> {
        approver_name(name).map_err(|fault| NotDone::Malformed(fault.0))?;
        if roles.is_empty() || roles.len() > MOST || !roles.iter().all(|role| is_role(role)) {
            let why =
                "a role is 1 to 64 letters, digits, `-` and `_`, as `@hold(\"…\")` names it; give 1 to 16 of them";
            return Err(NotDone::Malformed(why.to_owned()));
        }
        let fits = |also: &String| !also.is_empty() && also.len() <= 256 && !also.chars().any(char::is_control);
        if also.len() > MOST || !also.iter().all(fits) {
            let why =
                "another name of the same person is 1 to 256 bytes without control characters; at most 16 of them";
            return Err(NotDone::Malformed(why.to_owned()));
        }
        let by = self.vouched(vouch).await?;
        // nobody enrols with a code that is replaced meanwhile
        let turn = self.vault.turn().await;
        self.ledger.add_approver(name, roles, also, by).await?;
        let enrolled = self.ledger.holds(|book| book.roster().get(name).is_some_and(|known| known.is_enrolled()));
        if enrolled {
            return Ok(Added { code: None, expires: None });
        }
        let now = self.clock.now();
        let (vault, invited) = (Arc::clone(&self.vault), name.to_owned());
        let code = apart(move || with(turn, vault.invite(&invited, now))).await?;
        Ok(Added { code: Some(code), expires: self.vault.invited(name, now) })
    }

    /// Takes an approver out: what it countersigned and nobody ran yet counts no more, and its sessions end.
    ///
    /// # Errors
    /// [`NotDone`]
    pub async fn remove(&self, name: &str, vouch: Option<Vouch>) -> Result<(), NotDone> {
        let by = self.vouched(vouch).await?;
        let turn = self.vault.turn().await;
        self.ledger.remove_approver(name, by).await?;
        self.sessions.end_all(name);
        let (vault, gone) = (Arc::clone(&self.vault), name.to_owned());
        Ok(apart(move || with(turn, vault.forget(&gone))).await?)
    }

    /// Enrols whom the code was given to, with the passphrase that they choose; gives their name.
    ///
    /// # Errors
    /// [`NotDone`]
    pub async fn enrol(&self, code: &Code, passphrase: &Passphrase) -> Result<String, NotDone> {
        let prepared = self.vault.prepare(code, passphrase, self.clock.now()).await?;
        self.conclude(prepared, None).await
    }

    /// Tells the ledger of a key that is sealed and durable, and ends what was begun with it; gives whose it is.
    pub(super) async fn conclude(&self, prepared: Prepared, proof: Option<&Proof>) -> Result<String, NotDone> {
        let (name, key) = (prepared.enrolment().name.clone(), prepared.enrolment().key);
        let vault = Arc::clone(&self.vault);
        match self.ledger.enrol_approver(&name, Credential::Key(key), proof).await {
            Ok(_seq) => {
                apart(move || vault.commit(prepared)).await?;
                Ok(name)
            }
            Err(NotChanged::Rejected(rejected)) => {
                apart(move || vault.abandon(prepared)).await?;
                Err(NotDone::Rejected(rejected))
            }
            // it may be in force: the next start finds out
            Err(NotChanged::Fault(fault)) => Err(NotDone::Fault(fault)),
        }
    }

    /// Whether that is the approver's passphrase.
    ///
    /// # Errors
    /// [`NotDone::Locked`], [`NotDone::TooMany`], [`NotDone::Fault`]
    pub async fn check(&self, approver: &str, passphrase: &Passphrase, way: Way) -> Result<(), NotDone> {
        self.unlock(approver, passphrase, way).await.map(|_unlocked| ())
    }

    /// Begins a session of an approver who shows their passphrase.
    ///
    /// # Errors
    /// [`NotDone::Locked`], [`NotDone::TooMany`], [`NotDone::Fault`]
    pub async fn log_in(&self, approver: &str, passphrase: &Passphrase) -> Result<(Token, Session), NotDone> {
        let unlocked = self.unlock(approver, passphrase, Way::Door).await?;
        Ok(self.sessions.begin(unlocked.name(), Means::Key(unlocked.public_key()), self.clock.now())?)
    }

    /// Begins a session of somebody whom an identity provider let in just now.
    ///
    /// # Errors
    /// [`NotDone::Rejected`], [`NotDone::Fault`]
    pub async fn let_in(&self, who: SignIn) -> Result<(Token, Session), NotDone> {
        let (name, means) = (who.name.clone(), Means::signed_in(&who.issuer, &who.subject));
        self.ledger.sign_in_approver(who).await?;
        Ok(self.sessions.begin(&name, means, self.clock.now())?)
    }

    /// Countersigns a hold by the word of the identity provider that let the approver in, which it gave just now and for
    /// this hold. Gives where the hold stands then.
    ///
    /// # Errors
    /// [`NotDone::Rejected`], [`NotDone::Fault`]
    pub async fn countersign_vouched(
        &self,
        hold: &HoldId,
        digest: &Digest,
        who: SignIn,
        evidence: Evidence,
    ) -> Result<Phase, NotDone> {
        let proof = Proof::Vouched {
            issuer: who.issuer.clone(),
            subject: who.subject.clone(),
            token: evidence.digest(),
            key: evidence.key.thumbprint(),
            evidence: Some(evidence),
        };
        let name = who.name.clone();
        // the roles are those that the provider says now
        self.ledger.sign_in_approver(who).await?;
        Ok(self.ledger.countersign(hold, digest, &name, self.clock.now(), &proof).await?)
    }

    /// Countersigns a hold: the passphrase unlocks the approver's key for this one act, and what is signed is the hold
    /// whose digest the approver saw. Gives where the hold stands then.
    ///
    /// # Errors
    /// [`NotDone`]
    pub async fn approve(
        &self,
        hold: &HoldId,
        digest: &Digest,
        approver: &str,
        passphrase: &Passphrase,
        way: Way,
    ) -> Result<Phase, NotDone> {
        self.countersign(hold, digest, approver, &Shown::Passphrase(passphrase.clone()), way).await
    }

    /// Denies a hold. Whoever calls this has made sure of who it is that says no.
    ///
    /// # Errors
    /// [`NotDone`]
    pub async fn deny(&self, hold: &HoldId, digest: &Digest, approver: &str, reason: &str) -> Result<Phase, NotDone> {
        let told = reason.trim();
        if told.is_empty() || told.len() > 500 {
            return Err(NotDone::Malformed("a denial needs a reason of 1 to 500 bytes: the agent is told".to_owned()));
        }
        Ok(self.ledger.deny(hold, digest, approver, told).await?)
    }

    async fn vouched(&self, vouch: Option<Vouch>) -> Result<Option<String>, NotDone> {
        let Some(Vouch { approver, passphrase }) = vouch else { return Ok(None) };
        self.unlock(&approver, &passphrase, Way::Terminal).await?;
        Ok(Some(approver))
    }

    pub(super) async fn unlock(&self, approver: &str, passphrase: &Passphrase, way: Way) -> Result<Unlocked, NotDone> {
        Ok(self.vault.unlock(approver, self.key_of(approver), passphrase, way, self.clock.now()).await?)
    }

    pub(super) fn key_of(&self, approver: &str) -> Option<[u8; 32]> {
        self.ledger.holds(|book| book.roster().get(approver)?.key)
    }
}

fn is_role(role: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !role.is_empty() && role.len() <= 64 && role.bytes().all(fits)
}

/// What was done, once the turn to do it is over.
pub(super) fn with<T>(turn: OwnedMutexGuard<()>, done: T) -> T {
    drop(turn);
    done
}

/// Work with files, apart from the async workers.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked.unwrap_or_else(|_| Err(Fault("work on the approvers' files was cut short".to_owned())))
}
