//! What an authenticator says: authenticator data (WebAuthn Level 3, section 6.1), to the last byte.

use super::{Flaw, cbor::Cbor};
use crate::json::Digest;

/// Flags: somebody was there; they showed that it is them; the passkey can be copied; it has been; a passkey that was made
/// follows; extensions follow.
const PRESENT: u8 = 1;
const VERIFIED: u8 = 1 << 2;
const COPIABLE: u8 = 1 << 3;
const COPIED: u8 = 1 << 4;
const MADE: u8 = 1 << 6;
const EXTENDED: u8 = 1 << 7;

/// What it says.
pub(super) struct Said<'a> {
    rp_hash: &'a [u8],
    flags: u8,
    /// The passkey can be copied to other devices.
    pub(super) synced: bool,
    /// The passkey that it has made.
    pub(super) made: Option<Made<'a>>,
}

/// A passkey that was just made.
pub(super) struct Made<'a> {
    pub(super) id: &'a [u8],
    /// Its public key, a COSE key.
    pub(super) cose: &'a [u8],
}

impl<'a> Said<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Flaw> {
        let (rp_hash, rest) = bytes.split_at_checked(32).ok_or(Flaw::Malformed)?;
        let (flags, rest) = rest.split_first().ok_or(Flaw::Malformed)?;
        let (_count, mut rest) = rest.split_at_checked(4).ok_or(Flaw::Malformed)?;
        let has = |flag: u8| flags & flag != 0;
        let mut made = None;
        if has(MADE) {
            let (_model, after) = rest.split_at_checked(16).ok_or(Flaw::Malformed)?;
            let (length, after) = after.split_first_chunk::<2>().ok_or(Flaw::Malformed)?;
            let (id, after) = after.split_at_checked(u16::from_be_bytes(*length).into()).ok_or(Flaw::Malformed)?;
            let (_key, left) = Cbor::read(after)?;
            let cose = after.get(..after.len() - left.len()).ok_or(Flaw::Malformed)?;
            made = Some(Made { id, cose });
            rest = left;
        }
        // none is asked for, but browsers ask for some of their own accord: they are read, and count for nothing
        if has(EXTENDED) {
            let (extensions, left) = Cbor::read(rest)?;
            extensions.members().ok_or(Flaw::Malformed)?;
            rest = left;
        }
        // what is a copy can be copied
        if !rest.is_empty() || has(COPIED) && !has(COPIABLE) {
            return Err(Flaw::Malformed);
        }
        Ok(Self { rp_hash, flags: *flags, synced: has(COPIABLE), made })
    }

    /// Whether it was asked for that site, with somebody there who showed that it is them.
    pub(super) fn is_for(&self, rp: &str) -> Result<(), Flaw> {
        if self.rp_hash != Digest::of(rp.as_bytes()).0 {
            return Err(Flaw::RelyingParty);
        }
        let both = PRESENT | VERIFIED;
        if self.flags & both == both { Ok(()) } else { Err(Flaw::Verification) }
    }
}
