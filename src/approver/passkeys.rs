//! What approvers do with passkeys: enrol, sign in, countersign, and add to what they are known by.
//!
//! A session alone adds nothing: whoever took one would stay. To be known by more takes a signature by what one is known
//! by already, made for this and kept in the ledger.

use std::sync::Arc;

use super::{
    Approvers, Code, NotDone, Passphrase, Session, Token, Way,
    approvers::{apart, with},
    ceremonies::{Closed, Offer},
};
use crate::{
    call::Fault,
    clock::NoRandomness,
    hold::{Credential, HoldId, Means, Phase, Proof, Rejected, Statement},
    json::Digest,
    ledger::NotChanged,
    passkey::{Assertion, ClientData, Flaw, Passkey},
};

/// A question to an authenticator: make a passkey.
#[derive(Clone, Debug)]
pub struct ToMake {
    /// What it has to answer.
    pub challenge: [u8; 32],
    /// For whom.
    pub approver: String,
    /// What the authenticator remembers them by.
    pub handle: [u8; 32],
    /// Ids of passkeys that the approver has: an authenticator that has one of them makes no other.
    pub known: Vec<Vec<u8>>,
}

/// What an authenticator and its browser answer when a passkey was made.
#[derive(Clone, Debug)]
pub struct Made {
    /// The `clientDataJSON`.
    pub client_data: Vec<u8>,
    /// The `attestationObject`.
    pub attestation: Vec<u8>,
    /// What its person calls it.
    pub label: String,
}

/// What an authenticator and its browser answer when it signed.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Which passkey: the credential's id.
    pub id: Vec<u8>,
    /// Whose it is, as the authenticator remembers; it may not say.
    pub user: Option<Vec<u8>>,
    /// What it signed.
    pub assertion: Assertion,
}

/// Shows that it is the approver: their passphrase, or what their passkey signed.
#[derive(Clone, Debug)]
pub enum Shown {
    /// Unlocks their key, for one signature.
    Passphrase(Passphrase),
    /// Signed by their passkey.
    Passkey(Answer),
}

impl From<Flaw> for NotDone {
    fn from(flaw: Flaw) -> Self {
        Self::Passkey(flaw)
    }
}

impl From<NoRandomness> for NotDone {
    fn from(problem: NoRandomness) -> Self {
        Self::Fault(Fault(problem.to_string()))
    }
}

impl Approvers {
    /// Asks whoever has the code to make a passkey.
    ///
    /// # Errors
    /// [`NotDone::NotEnrolled`]
    pub fn ask_to_enrol(&self, code: &Code) -> Result<ToMake, NotDone> {
        let now = self.clock.now();
        let approver = self.vault.name_of_code(code, now)?;
        let challenge = self.ceremonies.enrolling.ask(code.digest(), (), now)?;
        let handle = self.handles.of(&approver);
        Ok(ToMake { challenge, approver, handle, known: Vec::new() })
    }

    /// Enrols whom the code was given to, with the passkey that they made for the site `rp`; gives their name and it.
    ///
    /// # Errors
    /// [`NotDone`]; the code is then as good as before.
    pub async fn enrol_passkey(&self, code: &Code, made: &Made, rp: &str) -> Result<(String, Arc<Passkey>), NotDone> {
        let now = self.clock.now();
        let turn = self.vault.turn().await;
        let name = self.vault.name_of_code(code, now)?;
        let challenge = ClientData::read(&made.client_data)?.challenge();
        self.ceremonies.enrolling.take(&challenge, &code.digest(), now).ok_or(Flaw::Challenge)?;
        let passkey = Arc::new(Passkey::made(&made.client_data, &made.attestation, &challenge, rp, &made.label)?);
        self.ledger.enrol_approver(&name, Credential::Passkey(Arc::clone(&passkey)), None).await?;
        let (vault, invited, code) = (Arc::clone(&self.vault), name.clone(), code.digest());
        apart(move || with(turn, vault.spend(&invited, code))).await?;
        Ok((name, passkey))
    }

    /// Begins a session of an approver who has just enrolled with that passkey: to make it, they showed that it is them.
    ///
    /// # Errors
    /// [`NotDone::Fault`]
    pub fn begin_with(&self, approver: &str, passkey: &Passkey) -> Result<(Token, Session), NotDone> {
        Ok(self.sessions.begin(approver, Means::Passkey(passkey.digest()), self.clock.now())?)
    }

    /// Asks who is signed in to make one more passkey.
    ///
    /// # Errors
    /// [`NotDone::Fault`]
    pub fn ask_to_add(&self, session: &Session) -> Result<ToMake, NotDone> {
        let challenge = self.ceremonies.adding.ask(session.id, (), self.clock.now())?;
        let known = self.ledger.holds(|book| {
            let approver = book.roster().get(&session.approver);
            approver.map(|approver| approver.passkeys.iter().map(|passkey| passkey.id().to_vec()).collect())
        });
        let (approver, handle) = (session.approver.clone(), self.handles.of(&session.approver));
        Ok(ToMake { challenge, approver, handle, known: known.unwrap_or_default() })
    }

    /// Takes a passkey that was made as asked, and gives the challenge to sign before it counts: see
    /// [`Approvers::confirm`].
    ///
    /// # Errors
    /// [`NotDone`]
    pub fn offer_passkey(&self, session: &Session, made: &Made, rp: &str) -> Result<[u8; 32], NotDone> {
        let challenge = ClientData::read(&made.client_data)?.challenge();
        self.ceremonies.adding.take(&challenge, &session.id, self.clock.now()).ok_or(Flaw::Challenge)?;
        let passkey = Passkey::made(&made.client_data, &made.attestation, &challenge, rp, &made.label)?;
        self.offer(session, Offer::Passkey(Arc::new(passkey)))
    }

    /// Seals a key under the passphrase that who is signed in chooses, and gives the challenge to sign before it counts.
    ///
    /// # Errors
    /// [`NotDone`]
    pub async fn offer_passphrase(&self, session: &Session, passphrase: &Passphrase) -> Result<[u8; 32], NotDone> {
        // why it cannot be is told before it is stretched; only the kind of what is offered matters to that
        self.may_enrol(&session.approver, &Credential::Key([0; 32]), None)?;
        let sealed = self.vault.seal(&session.approver, passphrase, session.id, self.clock.now()).await?;
        self.offer(session, Offer::Key(Box::new(sealed)))
    }

    fn offer(&self, session: &Session, offer: Offer) -> Result<[u8; 32], NotDone> {
        let credential = offer.credential();
        // why it cannot be is told before anybody signs; the ledger decides on it again
        self.may_enrol(&session.approver, &credential, None)?;
        let means = credential.means();
        let challenge = Statement::Enrolment { approver: &session.approver, means: &means }.challenge();
        self.ceremonies.offers.put(challenge, session.id, offer, self.clock.now());
        Ok(challenge)
    }

    /// Whether they could be known by that too, with their word by `by`, or by the surest of what they have.
    fn may_enrol(&self, approver: &str, credential: &Credential, by: Option<Means>) -> Result<(), Rejected> {
        self.ledger.holds(|book| {
            let by = by.or_else(|| book.roster().get(approver)?.surest());
            book.may_enrol(approver, credential, by.as_ref())
        })
    }

    /// Makes what was offered count, now that the approver signed that they want it.
    ///
    /// # Errors
    /// [`NotDone`]; it has to be offered again then.
    pub async fn confirm(&self, session: &Session, challenge: &[u8; 32], shown: &Shown) -> Result<(), NotDone> {
        let offer = self.ceremonies.offers.take(challenge, &session.id, self.clock.now()).ok_or(Flaw::Challenge)?;
        let credential = offer.credential();
        let means = credential.means();
        if let (Shown::Passphrase(_), Some(key)) = (shown, self.key_of(&session.approver)) {
            self.may_enrol(&session.approver, &credential, Some(Means::Key(key)))?;
        }
        let said = Statement::Enrolment { approver: &session.approver, means: &means };
        let proof = self.shown(&session.approver, &said, shown, Way::Session(session.id)).await?;
        match offer {
            Offer::Passkey(_) => {
                self.ledger.enrol_approver(&session.approver, credential, Some(&proof)).await?;
                Ok(())
            }
            Offer::Key(sealed) => {
                let prepared = self.vault.keep(*sealed).await?;
                self.conclude(prepared, Some(&proof)).await.map(|_name| ())
            }
        }
    }

    /// Asks whoever is there to sign in.
    ///
    /// # Errors
    /// [`NotDone::Fault`]
    pub fn ask_to_sign_in(&self) -> Result<[u8; 32], NotDone> {
        Ok(self.ceremonies.signing_in.ask(self.clock.now())?)
    }

    /// Begins a session of the approver whose passkey answered.
    ///
    /// # Errors
    /// [`NotDone::Passkey`], [`NotDone::TooMany`], [`NotDone::Fault`]
    pub fn sign_in(&self, answer: &Answer) -> Result<(Token, Session), NotDone> {
        let now = self.clock.now();
        let challenge = ClientData::read(&answer.assertion.client_data)?.challenge();
        if !self.ceremonies.signing_in.is_good(&challenge, now) {
            return Err(Flaw::Challenge.into());
        }
        let known = self.ledger.holds(|book| {
            let (approver, passkey) = book.roster().passkey(&answer.id)?;
            Some((approver.name.clone(), Arc::clone(passkey)))
        });
        let (approver, passkey) = known.ok_or(Flaw::Signature)?;
        answer.check(self.handles.of(&approver), &passkey, &challenge)?;
        self.ceremonies.signing_in.answer(&challenge, now).map_err(|closed| match closed {
            Closed::Stale => NotDone::Passkey(Flaw::Challenge),
            Closed::Crowded => NotDone::TooMany { retry_after_s: 120 },
        })?;
        Ok(self.sessions.begin(&approver, Means::Passkey(passkey.digest()), now)?)
    }

    /// Countersigns a hold with what shows that it is the approver: a passkey signs the hold's digest itself. Gives where
    /// the hold stands then.
    ///
    /// # Errors
    /// [`NotDone`]
    pub async fn countersign(
        &self,
        hold: &HoldId,
        digest: &Digest,
        approver: &str,
        shown: &Shown,
        way: Way,
    ) -> Result<Phase, NotDone> {
        let at = self.clock.now();
        let origin = self.ledger.origin();
        let said = Statement::Approval { origin, hold, digest, approver, at };
        let proof = self.shown(approver, &said, shown, way).await?;
        Ok(self.ledger.countersign(hold, digest, approver, at, &proof).await?)
    }

    /// The proof that an approver says this.
    async fn shown(&self, approver: &str, said: &Statement<'_>, shown: &Shown, way: Way) -> Result<Proof, NotDone> {
        match shown {
            Shown::Passphrase(passphrase) => {
                let unlocked = self.unlock(approver, passphrase, way).await?;
                let (key, signature) = (unlocked.public_key(), unlocked.sign(&said.text()).to_vec());
                Ok(Proof::Signature { key, signature })
            }
            Shown::Passkey(answer) => {
                let known = self.ledger.holds(|book| {
                    let (owner, passkey) = book.roster().passkey(&answer.id)?;
                    (owner.name == approver).then(|| Arc::clone(passkey))
                });
                let passkey = known.ok_or(Flaw::Signature)?;
                // what is wrong with it is told here; the ledger judges it again
                answer.check(self.handles.of(approver), &passkey, &said.challenge())?;
                Ok(Proof::Assertion { passkey: passkey.digest(), assertion: answer.assertion.clone() })
            }
        }
    }
}

impl Answer {
    fn check(&self, handle: [u8; 32], passkey: &Passkey, challenge: &[u8; 32]) -> Result<(), Flaw> {
        if self.user.as_ref().is_some_and(|user| *user != handle) {
            return Err(Flaw::Signature);
        }
        self.assertion.check(passkey, challenge)
    }
}

impl From<Rejected> for NotDone {
    fn from(rejected: Rejected) -> Self {
        Self::from(NotChanged::Rejected(rejected))
    }
}
