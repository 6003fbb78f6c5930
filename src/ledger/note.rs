//! Signed notes with Ed25519 (C2SP signed-note), and checkpoints as their text (C2SP tlog-checkpoint).

use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::tree::Hash;
use crate::{call::Fault, clock::random};

const ED25519_TYPE: u8 = 1;
/// More than this many signature lines is no note of ours nor of any witness set we know.
const MOST_SIGNATURES: usize = 64;
const MOST_BYTES: usize = 512 << 10;

/// What a note is verified with: a `vkey`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    id: u32,
    public: [u8; 32],
}

impl VerifierKey {
    fn new(name: &str, public: [u8; 32]) -> Self {
        let mut hashed = Vec::with_capacity(name.len() + 34);
        hashed.extend_from_slice(name.as_bytes());
        hashed.extend_from_slice(&[b'\n', ED25519_TYPE]);
        hashed.extend_from_slice(&public);
        let id = digest(&SHA256, &hashed).as_ref().iter().take(4).fold(0, |id, byte| id << 8 | u32::from(*byte));
        Self { name: name.to_owned(), id, public }
    }

    /// Reads `<name>+<id>+<base64 of type and key>`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Malformed("a verifier key reads `name+id+key`"));
        };
        let key = BASE64.decode(key).map_err(|_| NoteError::Malformed("the verifier key is not canonical base64"))?;
        let (Some((ED25519_TYPE, public)), true) = (key.split_first().map(|(kind, rest)| (*kind, rest)), is_name(name))
        else {
            return Err(NoteError::Malformed("the verifier key is not an Ed25519 key with a name"));
        };
        let public = public.try_into().map_err(|_| NoteError::Malformed("an Ed25519 key has 32 bytes"))?;
        let key = Self::new(name, public);
        // comparing texts also refuses upper case and other lengths
        if format!("{:08x}", key.id) != id {
            return Err(NoteError::Malformed("the verifier key's id is not that of its name and key"));
        }
        Ok(key)
    }

    /// The key's name: the origin of the log.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519_TYPE];
        key.extend_from_slice(&self.public);
        write!(f, "{}+{:08x}+{}", self.name, self.id, BASE64.encode(key))
    }
}

/// Whether a text can be the name of a key.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

/// Why a note is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteError {
    /// It is no note, or no checkpoint: what is wrong.
    Malformed(&'static str),
    /// No signature of the key is on it.
    OtherKey,
    /// The key's signature does not verify.
    BadSignature,
}

impl fmt::Display for NoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(what) => f.write_str(what),
            Self::OtherKey => f.write_str("it does not carry a signature by the log's key"),
            Self::BadSignature => f.write_str("the signature by the log's key does not verify"),
        }
    }
}

impl std::error::Error for NoteError {}

/// What notes are signed with.
pub struct Signer {
    pair: Ed25519KeyPair,
    key: VerifierKey,
}

impl fmt::Debug for Signer {
    /// The private half is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Signer {
    fn new(name: &str, seed: &[u8]) -> Result<Self, Fault> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| Fault("the log's signing key is damaged: restore it from a backup".to_owned()))?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { pair, key: VerifierKey::new(name, public) })
    }

    /// Reads `ledger.key` in `folder`, or makes one (mode 0600, durable before it is used), and sees to
    /// it that `ledger.pub` beside it holds the verifier key.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read or made, or is the key of another origin.
    pub fn open(folder: &Path, origin: &str) -> Result<Self, Fault> {
        if !is_name(origin) {
            return Err(Fault(format!("`{origin}` cannot name a log: no spaces, no `+`, not empty")));
        }
        let path = folder.join("ledger.key");
        let signer = match fs::read_to_string(&path) {
            Ok(text) => {
                let read = |error: std::io::Error| Fault(format!("`{}` cannot be read: {error}", path.display()));
                if fs::metadata(&path).map_err(read)?.permissions().mode() & 0o077 != 0 {
                    return Err(Fault(format!("`{0}` can be read by others; run `chmod 600 {0}`", path.display())));
                }
                Self::read(&text, origin)?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let seed: [u8; 32] = random().map_err(|error| Fault(error.to_string()))?;
                let signer = Self::new(origin, &seed)?;
                let mut secret = vec![ED25519_TYPE];
                secret.extend_from_slice(&seed);
                let text = format!("PRIVATE+KEY+{origin}+{:08x}+{}\n", signer.key.id, BASE64.encode(secret));
                replace(&path, text.as_bytes(), 0o600)?;
                signer
            }
            Err(error) => return Err(Fault(format!("`{}` cannot be read: {error}", path.display()))),
        };
        let public = format!("{}\n", signer.key);
        let shown = folder.join("ledger.pub");
        if fs::read_to_string(&shown).ok().as_deref() != Some(&public) {
            replace(&shown, public.as_bytes(), 0o644)?;
        }
        Ok(signer)
    }

    fn read(text: &str, origin: &str) -> Result<Self, Fault> {
        let damaged = || Fault("`ledger.key` is not a signing key of ours: restore it from a backup".to_owned());
        let rest = text.trim_end_matches('\n').strip_prefix("PRIVATE+KEY+").ok_or_else(damaged)?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(_id), Some(secret)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(damaged());
        };
        if name != origin {
            return Err(Fault(format!(
                "the log in this folder is named `{name}`, not `{origin}`: set `origin` in `[ledger]` back, or start \
                 another log in another folder"
            )));
        }
        let secret = BASE64.decode(secret).map_err(|_| damaged())?;
        match secret.split_first() {
            Some((&ED25519_TYPE, seed)) => Self::new(name, seed),
            _ => Err(damaged()),
        }
    }

    /// The key that verifies.
    pub fn key(&self) -> &VerifierKey {
        &self.key
    }

    /// The note with that text, which ends in a newline, and one signature.
    pub fn sign(&self, text: &str) -> String {
        let mut signature = self.key.id.to_be_bytes().to_vec();
        signature.extend_from_slice(self.pair.sign(text.as_bytes()).as_ref());
        format!("{text}\n\u{2014} {} {}\n", self.key.name, BASE64.encode(signature))
    }
}

/// The text of a note, once a signature of `key` on it has been verified. Signatures of other keys are ignored.
///
/// # Errors
/// [`NoteError`] when it is malformed, or not signed by the key.
pub fn open<'a>(note: &'a str, key: &VerifierKey) -> Result<&'a str, NoteError> {
    const MALFORMED: NoteError = NoteError::Malformed("it is not a signed note");
    if note.len() > MOST_BYTES || note.chars().any(|c| c < ' ' && c != '\n') {
        return Err(MALFORMED);
    }
    let split = note.rfind("\n\n").ok_or(MALFORMED)?;
    let (text, signatures) = (note.get(..=split).ok_or(MALFORMED)?, note.get(split + 2..).ok_or(MALFORMED)?);
    let signatures = signatures.strip_suffix('\n').ok_or(MALFORMED)?;
    let mut verified = false;
    for (place, line) in signatures.split('\n').enumerate() {
        let (name, signature) =
            line.strip_prefix("\u{2014} ").and_then(|rest| rest.split_once(' ')).ok_or(MALFORMED)?;
        let signature = BASE64.decode(signature).map_err(|_| MALFORMED)?;
        let (id, signature) = signature.split_first_chunk::<4>().ok_or(MALFORMED)?;
        if place >= MOST_SIGNATURES || !is_name(name) || signature.is_empty() {
            return Err(MALFORMED);
        }
        if name == key.name && u32::from_be_bytes(*id) == key.id {
            UnparsedPublicKey::new(&ED25519, key.public)
                .verify(text.as_bytes(), signature)
                .map_err(|_| NoteError::BadSignature)?;
            verified = true;
        }
    }
    if verified { Ok(text) } else { Err(NoteError::OtherKey) }
}

/// What a checkpoint says: the log, its size and its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// How many entries it had.
    pub size: u64,
    /// The root over them.
    pub root: Hash,
}

impl Checkpoint {
    /// The text that is signed.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root))
    }

    /// Reads the text of a note. Extension lines are accepted and say nothing.
    ///
    /// # Errors
    /// [`NoteError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        const MALFORMED: NoteError = NoteError::Malformed("it is not the text of a checkpoint");
        let mut lines = text.strip_suffix('\n').ok_or(MALFORMED)?.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next()) else {
            return Err(MALFORMED);
        };
        if origin.is_empty() || lines.any(str::is_empty) {
            return Err(MALFORMED);
        }
        let size =
            decimal(size).ok_or(NoteError::Malformed("the size of the checkpoint is not a canonical decimal"))?;
        let root = BASE64.decode(root).ok().and_then(|root| root.try_into().ok());
        let root =
            root.ok_or(NoteError::Malformed("the root of the checkpoint is not canonical base64 of 32 bytes"))?;
        Ok(Self { origin: origin.to_owned(), size, root })
    }

    /// Verifies a note and reads it as a checkpoint of the log that the key is named after.
    ///
    /// # Errors
    /// [`NoteError`] when it is not signed by the key, no checkpoint, or that of another log.
    pub fn open(note: &str, key: &VerifierKey) -> Result<Self, NoteError> {
        let checkpoint = Self::parse(open(note, key)?)?;
        if checkpoint.origin != key.name {
            return Err(NoteError::Malformed("it is the checkpoint of another log"));
        }
        Ok(checkpoint)
    }
}

/// A decimal without sign or leading zeros.
pub(super) fn decimal(text: &str) -> Option<u64> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

/// Writes a file whole or not at all: beside it, synced, renamed over it, the folder synced.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<(), Fault> {
    let failed = |error: std::io::Error| Fault(format!("`{}` cannot be written: {error}", path.display()));
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    // a file that an interrupted run left may have another mode
    match fs::remove_file(beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(beside).map_err(failed)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(beside, path).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_folder(folder)
}

/// Makes what was created, renamed or removed in a folder survive a power loss.
pub(super) fn sync_folder(folder: &Path) -> Result<(), Fault> {
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Fault(format!("`{}` cannot be synced: {error}", folder.display())))
}
