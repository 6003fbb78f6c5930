//! What authenticators remember approvers by.

use std::path::Path;

use aws_lc_rs::hmac;

use crate::{call::Fault, clock::random, secret_file};

/// The secret of the house that they are made with. An authenticator that is asked for a passkey of a site and a handle
/// that it knows replaces the one it has. So no other page of the same host, and no other house, may know our handles.
#[derive(Debug)]
pub(super) struct Handles(hmac::Key);

impl Handles {
    /// Reads the secret below `data`, or makes it.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be read or kept, or is none.
    pub(super) fn open(data: &Path) -> Result<Self, Fault> {
        let path = data.join("approvers").join("handles.key");
        let make = || random::<32>().map(|secret| secret.to_vec()).map_err(|problem| Fault(problem.to_string()));
        let secret = secret_file::read_or_make(&path, make)?;
        if secret.len() != 32 {
            return Err(Fault(format!(
                "`{}` is damaged: restore it, or passkeys have to be enrolled anew",
                path.display()
            )));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
    }

    /// That of an approver: no name, and the same each time, so that a passkey that is made anew replaces the one before.
    pub(super) fn of(&self, approver: &str) -> [u8; 32] {
        let mut handle = [0; 32];
        handle.copy_from_slice(hmac::sign(&self.0, approver.as_bytes()).as_ref());
        handle
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_handle_is_the_same_each_time_and_another_in_each_house_and_for_each_approver() {
        let houses = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let open = |house: &tempfile::TempDir| {
            secret_file::own_folder(&house.path().join("approvers")).unwrap();
            Handles::open(house.path()).unwrap()
        };
        let [first, other] = [open(&houses[0]), open(&houses[1])];
        assert_eq!(first.of("ann"), open(&houses[0]).of("ann"));
        assert_ne!(first.of("ann"), first.of("bob"));
        assert_ne!(first.of("ann"), other.of("ann"), "a second house on this machine");
        let path = houses[0].path().join("approvers/handles.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, [1; 31]).unwrap();
        assert!(Handles::open(houses[0].path()).unwrap_err().0.contains("enrolled anew"));
    }
}
