//! What makes an approver an approver: a passkey, or a key that only their passphrase unlocks. The ledger alone says who is
//! an approver, in which role, and by which public keys; [`Approvers`] brings all of it together.
//!
//! An operator invites a name ([`Vault::invite`]) and passes on the one-time [`Code`]. Whoever has the code chooses a
//! [`Passphrase`] ([`Vault::prepare`], [`Vault::commit`]), which seals a fresh Ed25519 key, or makes a passkey
//! ([`Approvers::enrol_passkey`]), which stays in their authenticator. From then on the passphrase unlocks that key for one
//! act ([`Vault::unlock`]), and the passkey signs one; either begins one of the [`Sessions`] that read.

mod approvers;
mod attempts;
mod ceremonies;
mod code;
mod handles;
mod passkeys;
mod passphrase;
mod sealed;
mod sessions;
mod vault;

pub use approvers::{Added, Approvers, NotDone, Vouch};
pub use code::Code;
pub use passkeys::{Answer, Made, Shown, ToMake};
pub use passphrase::{Passphrase, Unfit};
pub use sealed::{Cost, Unlocked};
pub use sessions::{FormToken, Session, SessionId, Sessions, Side, Token};
pub use vault::{Enrolment, NotEnrolled, NotUnlocked, Prepared, Vault, Way, approver_name};

#[cfg(test)]
mod tests;
