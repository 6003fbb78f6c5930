//! The folder `<data>/approvers`: invitations and sealed keys, one file each.
//!
//! A sealed key's file is named after its approver and its public key, and is durable before the ledger is told of that
//! key. So whatever key the ledger names has its file, and a crash in between leaves a file that nobody asks for and a
//! code that is still good. The file keeps the hash of the code it was made with: a code that has served is known for one
//! when the house opens again ([`Vault::reconcile`]), although the crash came before it was taken away.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::SignedDuration;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::{
    Code, Cost, Passphrase, SessionId, Unfit, Unlocked,
    attempts::{Attempts, Who},
    sealed::{self, Sealed},
};
use crate::{
    call::Fault,
    clock::Timestamp,
    json::{self, Digest, Limits, Object, Value},
    secret_file,
};

/// How long a code is good.
const GOOD_FOR: SignedDuration = SignedDuration::from_hours(24);

/// Invitations at once.
const INVITATIONS: usize = 1_024;

/// Sealed keys of one name: the one in force, and what interrupted enrolments left.
const KEYS_EACH: usize = 16;

/// Passphrases that may wait for their turn in one lane; one is stretched at a time, and takes 64 MiB and a tenth of a
/// second.
const WAITING: usize = 32;

/// What ends the name in the file of an invitation, and of a sealed key behind the key's first digits.
const INVITATION: &str = "~invitation";
const KEY: &str = ".key";

/// No invitation's text is larger.
const LIMITS: Limits = Limits { bytes: 1 << 10, depth: 2, nodes: 16 };

/// Local approvers' secrets.
pub struct Vault {
    folder: PathBuf,
    cost: Cost,
    invitations: Mutex<BTreeMap<String, Invitation>>,
    attempts: Mutex<Attempts>,
    /// Where passphrases are stretched that anybody may send, and where those from sessions and with codes are: however
    /// many knock at the door, approvers who are in can act.
    door: Lane,
    inner: Lane,
    /// Enrolments are made one at a time, from the look at the code to its end, and nobody is invited or forgotten then.
    enrolling: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Passphrases are stretched one at a time, and so many may wait.
struct Lane {
    turn: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Lane {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), waiting: Arc::new(Semaphore::new(WAITING)) }
    }
}

impl Lane {
    /// A place among those who wait.
    fn wait(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }

    /// Does the work apart from the async workers, and nothing of its kind at the same time, even if whoever asked for it
    /// goes away.
    async fn alone<T: Send + 'static>(
        &self,
        waiting: OwnedSemaphorePermit,
        work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let stopped = || Fault("passphrases are not stretched any more".to_owned());
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| stopped())?;
        let worked = tokio::task::spawn_blocking(move || {
            let (_waiting, _turn) = (waiting, turn);
            work()
        });
        worked.await.map_err(|_| stopped())?
    }
}

#[derive(Clone)]
struct Invitation {
    code: Digest,
    expires: Timestamp,
}

/// An approver's key is there, and theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Whose.
    pub name: String,
    /// The Ed25519 public key.
    pub key: [u8; 32],
}

/// A key that is sealed and durable, and not in force: the ledger has to be told of it, then [`Vault::commit`].
/// Dropped, it leaves the code good, and the sealed key for [`Vault::reconcile`] to judge.
pub struct Prepared {
    enrolment: Enrolment,
    code: Digest,
    /// No other enrolment until this one is over.
    _turn: OwnedMutexGuard<()>,
}

impl Prepared {
    /// What the ledger has to be told.
    pub fn enrolment(&self) -> &Enrolment {
        &self.enrolment
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("enrolment", &self.enrolment).finish_non_exhaustive()
    }
}

/// Why nobody was enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotEnrolled {
    /// No such code, or not any more.
    Code,
    /// The code is older than a day.
    Expired,
    /// The passphrase cannot be chosen.
    Passphrase(Unfit),
    /// Others are being served.
    TooMany {
        /// Seconds until it makes sense to come again.
        retry_after_s: u64,
    },
    /// Ours.
    Fault(Fault),
}

/// Why a key stays locked. To the outside, the first two are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotUnlocked {
    /// There is no such approver, or none enrolled.
    Unknown,
    /// Another passphrase.
    Wrong,
    /// Tried too often, or others are being served.
    TooMany {
        /// Seconds until it makes sense to come again.
        retry_after_s: u64,
    },
    /// Ours.
    Fault(Fault),
}

/// The way a passphrase came: what its failures are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From anybody.
    Door,
    /// From a terminal of this machine, over the control socket.
    Terminal,
    /// From within a session of that approver, which only a passphrase begins.
    Session(SessionId),
}

impl Vault {
    /// Opens `<data>/approvers`, or makes it.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be made, kept to ourselves, or read.
    pub fn open(data: &Path) -> Result<Self, Fault> {
        Self::open_at_cost(data, Cost::PRODUCTION)
    }

    /// [`Vault::open`] where new passphrases are stretched at that cost: for tests, which do not guard anything.
    ///
    /// # Errors
    /// As [`Vault::open`].
    pub fn open_at_cost(data: &Path, cost: Cost) -> Result<Self, Fault> {
        let folder = data.join("approvers");
        secret_file::own_folder(&folder)?;
        let mut invitations = BTreeMap::new();
        for file in files(&folder)? {
            if file.starts_with('.') {
                // half of a secret that was being written when we were interrupted
                secret_file::remove(&folder.join(&file))?;
            } else if file.ends_with(INVITATION) && invitations.len() < INVITATIONS {
                match read_invitation(&folder.join(&file)) {
                    Some((name, invitation)) if file == invitation_file(&name) => {
                        invitations.insert(name, invitation);
                    }
                    // a code that does not work is asked for again; a house that does not open helps nobody
                    _ => tracing::warn!(file, "an approver's invitation is damaged and does not count"),
                }
            }
        }
        Ok(Self {
            folder,
            cost,
            invitations: Mutex::new(invitations),
            attempts: Mutex::default(),
            door: Lane::default(),
            inner: Lane::default(),
            enrolling: Arc::default(),
        })
    }

    fn invitations(&self) -> MutexGuard<'_, BTreeMap<String, Invitation>> {
        self.invitations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A one-time code with which `name` can enrol in the next 24 hours; one that they had before is good no more.
    /// Writes a file: not for an async worker's thread.
    ///
    /// # Errors
    /// [`Fault`] when `name` is no approver's name, too many are invited, or the invitation cannot be kept.
    pub fn invite(&self, name: &str, now: Timestamp) -> Result<Code, Fault> {
        approver_name(name)?;
        let code = Code::new().map_err(|problem| Fault(problem.to_string()))?;
        let expires = now.checked_add(GOOD_FOR).map_err(|_| Fault("the code would outlive time".to_owned()))?;
        let invitation = Invitation { code: code.digest(), expires };
        let mut invitations = self.invitations();
        let over: Vec<String> = invitations
            .iter()
            .filter(|(_, invitation)| invitation.expires <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            secret_file::remove(&self.folder.join(invitation_file(&name)))?;
            invitations.remove(&name);
        }
        if invitations.len() >= INVITATIONS && !invitations.contains_key(name) {
            return Err(Fault(format!("{INVITATIONS} approvers are invited already; wait until some have enrolled")));
        }
        // the old code is good no more even if writing the new one fails half way
        invitations.remove(name);
        let text = Object::new()
            .with("v", 1)
            .with("name", name)
            .with("code", invitation.code.to_string())
            .with("expires", invitation.expires.to_string());
        secret_file::replace(&self.folder.join(invitation_file(name)), &Value::Object(text).to_bytes())?;
        invitations.insert(name.to_owned(), invitation);
        Ok(code)
    }

    /// Until when `name` can enrol with the code they were given; `None` when there is none.
    pub fn invited(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        self.invitations().get(name).map(|invitation| invitation.expires).filter(|expires| now < *expires)
    }

    /// Whom the code was given to.
    ///
    /// # Errors
    /// [`NotEnrolled::Code`], [`NotEnrolled::Expired`].
    pub fn name_of_code(&self, code: &Code, now: Timestamp) -> Result<String, NotEnrolled> {
        let digest = code.digest();
        let invitations = self.invitations();
        let found = invitations.iter().find(|(_, invitation)| invitation.code == digest);
        match found {
            Some((name, invitation)) if now < invitation.expires => Ok(name.clone()),
            Some(_) => Err(NotEnrolled::Expired),
            None => Err(NotEnrolled::Code),
        }
    }

    /// Makes a key for whom the code was given to, sealed under the passphrase, durable, and not yet in force. The caller
    /// writes [`Prepared::enrolment`] to the ledger, then calls [`Vault::commit`].
    ///
    /// # Errors
    /// [`NotEnrolled`] says why not; the code is then as good as before.
    pub async fn prepare(&self, code: &Code, passphrase: &Passphrase, now: Timestamp) -> Result<Prepared, NotEnrolled> {
        let name = self.name_of_code(code, now)?;
        passphrase.fits(&name).map_err(NotEnrolled::Passphrase)?;
        let waiting = self.inner.wait().ok_or(NotEnrolled::TooMany { retry_after_s: 1 })?;
        let one = self.turn().await;
        // the code may have served, or been replaced, while others enrolled
        if self.name_of_code(code, now)? != name {
            return Err(NotEnrolled::Code);
        }
        let digest = code.digest();
        let (folder, passphrase, cost) = (self.folder.clone(), passphrase.clone(), self.cost);
        let made = self.inner.alone(waiting, move || {
            room_for_a_key(&folder, &name)?;
            let sealed = sealed::make(&name, &passphrase, digest, cost)?;
            secret_file::replace(&folder.join(key_file(&name, &sealed.key)), &sealed.text())?;
            Ok(Enrolment { name, key: sealed.key })
        });
        let enrolment = made.await.map_err(NotEnrolled::Fault)?;
        Ok(Prepared { enrolment, code: digest, _turn: one })
    }

    /// A key for an approver who is enrolled already, sealed under the passphrase, and nowhere but in memory. It counts as
    /// an attempt from within the session, and is never taken back: stretching costs as much as a guess.
    ///
    /// # Errors
    /// [`NotEnrolled`] says why not.
    pub(super) async fn seal(
        &self,
        name: &str,
        passphrase: &Passphrase,
        session: SessionId,
        now: Timestamp,
    ) -> Result<Sealed, NotEnrolled> {
        passphrase.fits(name).map_err(NotEnrolled::Passphrase)?;
        let waiting = self.inner.wait().ok_or(NotEnrolled::TooMany { retry_after_s: 1 })?;
        let begun = self.attempts().begin(Who::new(name, Way::Session(session)), now);
        begun.map_err(|retry_after_s| NotEnrolled::TooMany { retry_after_s })?;
        let (name, passphrase, cost) = (name.to_owned(), passphrase.clone(), self.cost);
        // no code made it
        let made = self.inner.alone(waiting, move || sealed::make(&name, &passphrase, Digest([0; 32]), cost));
        made.await.map_err(NotEnrolled::Fault)
    }

    /// Makes such a key durable, and not yet in force: as [`Vault::prepare`].
    ///
    /// # Errors
    /// [`NotEnrolled`]
    pub(super) async fn keep(&self, sealed: Sealed) -> Result<Prepared, NotEnrolled> {
        let waiting = self.inner.wait().ok_or(NotEnrolled::TooMany { retry_after_s: 1 })?;
        let one = self.turn().await;
        let folder = self.folder.clone();
        let kept = self.inner.alone(waiting, move || {
            room_for_a_key(&folder, &sealed.name)?;
            secret_file::replace(&folder.join(key_file(&sealed.name, &sealed.key)), &sealed.text())?;
            Ok((Enrolment { name: sealed.name.clone(), key: sealed.key }, sealed.code))
        });
        let (enrolment, code) = kept.await.map_err(NotEnrolled::Fault)?;
        Ok(Prepared { enrolment, code, _turn: one })
    }

    /// The turn to change who is enrolled, or invited, by what: from the look at a code, or at the roster, to its end.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.enrolling).lock_owned().await
    }

    /// The code that `name` was given, if any, is good no more: they are enrolled. Removes a file: not for an async
    /// worker's thread.
    ///
    /// # Errors
    /// [`Fault`] when the file cannot be removed; the code is good no more all the same.
    pub fn uninvite(&self, name: &str) -> Result<(), Fault> {
        approver_name(name)?;
        self.invitations().remove(name);
        secret_file::remove(&self.folder.join(invitation_file(name)))
    }

    /// Ends an enrolment that the ledger has: its code is good no more, and neither is a key that the approver had before.
    /// Removes files: not for an async worker's thread.
    ///
    /// # Errors
    /// [`Fault`] when files cannot be removed. The enrolment holds nevertheless, and the code is good no more.
    pub fn commit(&self, prepared: Prepared) -> Result<Enrolment, Fault> {
        let Prepared { enrolment, code, _turn } = prepared;
        self.spend(&enrolment.name, code)?;
        for file in keys_of(&self.folder, &enrolment.name)? {
            if file != key_file(&enrolment.name, &enrolment.key) {
                secret_file::remove(&self.folder.join(file))?;
            }
        }
        Ok(enrolment)
    }

    /// Takes back an enrolment that the ledger has refused for certain; the code is as good as before. When it is not
    /// certain, drop it: the key may be in force already. Removes a file: not for an async worker's thread.
    ///
    /// # Errors
    /// [`Fault`] when the file cannot be removed.
    pub fn abandon(&self, prepared: Prepared) -> Result<(), Fault> {
        let Enrolment { name, key } = &prepared.enrolment;
        secret_file::remove(&self.folder.join(key_file(name, key)))
    }

    /// The code is good no more, unless a newer invitation has another.
    pub(super) fn spend(&self, name: &str, code: Digest) -> Result<(), Fault> {
        let mut invitations = self.invitations();
        if invitations.get(name).is_some_and(|invitation| invitation.code == code) {
            invitations.remove(name);
            secret_file::remove(&self.folder.join(invitation_file(name)))?;
        }
        Ok(())
    }

    /// Ends what a crash left half done, by what the ledger says of every approver: the key in force, if there is one.
    /// To be called when the house opens, before anybody can enrol.
    ///
    /// # Errors
    /// [`Fault`] when files cannot be read or removed.
    pub fn reconcile<'a>(&self, roster: impl IntoIterator<Item = (&'a str, Option<[u8; 32]>)>) -> Result<(), Fault> {
        for (name, key) in roster {
            let in_force = key.map(|key| key_file(name, &key));
            if let Some(file) = &in_force {
                match read_key(&self.folder.join(file)) {
                    Ok(Some(sealed)) => self.spend(name, sealed.code)?,
                    // without the key that counts, the others are kept: an operator may know why
                    Ok(None) => {
                        tracing::warn!(name, "the sealed key of an approver is missing: invite them again");
                        continue;
                    }
                    Err(fault) => {
                        tracing::warn!(name, %fault, "the sealed key of an approver cannot be read");
                        continue;
                    }
                }
            }
            for file in keys_of(&self.folder, name)? {
                if Some(&file) != in_force.as_ref() {
                    secret_file::remove(&self.folder.join(file))?;
                }
            }
        }
        Ok(())
    }

    /// Takes away what is kept of somebody who is an approver no longer. Removes files: not for an async worker's thread.
    ///
    /// # Errors
    /// [`Fault`] when files cannot be removed; the code is good no more all the same.
    pub fn forget(&self, name: &str) -> Result<(), Fault> {
        approver_name(name)?;
        self.invitations().remove(name);
        secret_file::remove(&self.folder.join(invitation_file(name)))?;
        for file in keys_of(&self.folder, name)? {
            secret_file::remove(&self.folder.join(file))?;
        }
        Ok(())
    }

    /// Unlocks the key that the ledger says is `name`'s: `enrolled` is its public half, `None` when the ledger knows no
    /// such approver or no key of theirs. Takes the same time whether the approver is unknown or the passphrase wrong.
    ///
    /// # Errors
    /// [`NotUnlocked`] says why not.
    pub async fn unlock(
        &self,
        name: &str,
        enrolled: Option<[u8; 32]>,
        passphrase: &Passphrase,
        way: Way,
        now: Timestamp,
    ) -> Result<Unlocked, NotUnlocked> {
        let who = Who::new(name, way);
        let lane = match way {
            Way::Door => &self.door,
            Way::Terminal | Way::Session(_) => &self.inner,
        };
        let waiting = lane.wait().ok_or(NotUnlocked::TooMany { retry_after_s: 1 })?;
        self.attempts().begin(who, now).map_err(|retry_after_s| NotUnlocked::TooMany { retry_after_s })?;
        let known = enrolled.filter(|_| approver_name(name).is_ok());
        let path = known.map(|key| (self.folder.join(key_file(name, &key)), key));
        let (name, passphrase, cost) = (name.to_owned(), passphrase.clone(), self.cost);
        let opened = lane.alone(waiting, move || {
            let Some((path, key)) = path else {
                sealed::in_vain(&passphrase, cost)?;
                return Ok(Err(NotUnlocked::Unknown));
            };
            let sealed = read_key(&path)?
                .filter(|sealed| sealed.name == name && sealed.key == key)
                .ok_or_else(|| Fault(format!("the sealed key of approver `{name}` is missing: invite them again")))?;
            Ok(sealed.open(&passphrase)?.ok_or(NotUnlocked::Wrong))
        });
        let unlocked = opened.await.map_err(NotUnlocked::Fault)??;
        self.attempts().succeeded(who);
        Ok(unlocked)
    }
}

/// An approver's name: 1 to 64 letters, digits and `. _ - @ +`, beginning with a letter or digit.
///
/// # Errors
/// [`Fault`] that says so.
pub fn approver_name(text: &str) -> Result<(), Fault> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@+".contains(&byte));
    if first && rest && text.len() <= 64 {
        return Ok(());
    }
    let shown: String = text.chars().take(80).collect();
    Err(Fault(format!(
        "`{}` is no approver's name: use 1 to 64 letters, digits and `._-@+`, beginning with a letter or digit",
        shown.escape_debug()
    )))
}

/// The name as part of a file's name, such that no two names share one on any file system: capitals are escaped.
fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            text.push('^');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

fn invitation_file(name: &str) -> String {
    escaped(name) + INVITATION
}

fn key_file(name: &str, key: &[u8; 32]) -> String {
    let digits = key.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("{}~{digits}{KEY}", escaped(name))
}

/// The files of the folder that have names of ours.
fn files(folder: &Path) -> Result<Vec<String>, Fault> {
    let fault = |error: io::Error| Fault(format!("`{}` cannot be read: {error}", folder.display()));
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(fault)? {
        if let Ok(name) = entry.map_err(fault)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// The files of all sealed keys of an approver.
fn keys_of(folder: &Path, name: &str) -> Result<Vec<String>, Fault> {
    let begins = escaped(name) + "~";
    let mut all = files(folder)?;
    all.retain(|file| file.starts_with(&begins) && file.ends_with(KEY));
    Ok(all)
}

/// Whether one more sealed key of an approver may be written.
fn room_for_a_key(folder: &Path, name: &str) -> Result<(), Fault> {
    if keys_of(folder, name)?.len() < KEYS_EACH {
        return Ok(());
    }
    Err(Fault(format!("too many enrolments of `{name}` were interrupted; restart the server, which clears them away")))
}

fn read_key(path: &Path) -> Result<Option<Sealed>, Fault> {
    let Some(text) = secret_file::read(path)? else { return Ok(None) };
    let sealed = Sealed::read(&text).map_err(|why| Fault(format!("`{}` cannot be used: {why}", path.display())))?;
    Ok(Some(sealed))
}

fn read_invitation(path: &Path) -> Option<(String, Invitation)> {
    let document = json::parse(&secret_file::read(path).ok()??, &LIMITS).ok()?;
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    (document.get("v")?.as_number()?.as_i64() == Some(1)).then_some(())?;
    let name = text("name").filter(|name| approver_name(name).is_ok())?;
    Some((name.to_owned(), Invitation { code: text("code")?.parse().ok()?, expires: text("expires")?.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_approvers_name_is_fit_for_a_files_name() {
        for name in ["a", "you", "ann@example.com", "Ann.B_c-d+e", "0x", &"a".repeat(64)] {
            approver_name(name).unwrap();
        }
        for name in ["", ".", "..", "-x", "@a", "a/b", "a b", "a~b", "a\0", "á", "a^b", "a%b", &"a".repeat(65)] {
            let fault = approver_name(name).unwrap_err();
            assert!(fault.0.contains("is no approver's name"), "{fault}");
        }
    }

    proptest! {
        #[test]
        fn no_two_names_share_a_file(one in "[a-zA-Z0-9][a-zA-Z0-9._@+-]{0,63}", other in "[aA][abAB.]{0,2}", also in "[aA][abAB.]{0,2}") {
            for (left, right) in [(&one, &other), (&other, &also)] {
                let same = invitation_file(left).eq_ignore_ascii_case(&invitation_file(right));
                prop_assert_eq!(same, left == right);
                let same = key_file(left, &[7; 32]).starts_with(&(escaped(right) + "~"));
                prop_assert_eq!(same, left == right);
            }
            prop_assert!(key_file(&one, &[0xff; 32]).len() + 16 <= 255);
        }
    }
}
