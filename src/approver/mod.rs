//! What makes an approver an approver: a key that only their passphrase unlocks. The ledger alone says who is an approver,
//! in which role, and by which public key; [`Approvers`] brings both together.
//!
//! An operator invites a name ([`Vault::invite`]) and passes on the one-time [`Code`]. Whoever has the code chooses a
//! [`Passphrase`] ([`Vault::prepare`], [`Vault::commit`]); it seals a fresh Ed25519 key. From then on the passphrase
//! unlocks that key for one act ([`Vault::unlock`]), or begins one of the [`Sessions`] that read.

mod approvers;
mod attempts;
mod code;
mod passphrase;
mod sealed;
mod sessions;
mod vault;

pub use approvers::{Added, Approvers, NotDone, Vouch};
pub use code::Code;
pub use passphrase::{Passphrase, Unfit};
pub use sealed::{Cost, Unlocked};
pub use sessions::{FormToken, Session, SessionId, Sessions, Token};
pub use vault::{Enrolment, NotEnrolled, NotUnlocked, Prepared, Vault, Way, approver_name};

#[cfg(test)]
mod tests;
