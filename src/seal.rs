//! Text that somebody carries for us and cannot read, change or make: AES-256-GCM, base64url.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{call::Fault, clock};

/// What a sealed text is for; one that was made for something else does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A legacy session's id.
    Session,
    /// `requestState` of a multi round-trip request.
    State,
    /// A sign-in with an identity provider, under way.
    SignIn,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Session => b"countersign session v1",
            Self::State => b"countersign state v1",
            Self::SignIn => b"countersign sign-in v1",
        }
    }
}

/// Seals and opens.
pub(crate) struct Seal {
    key: LessSafeKey,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Seal {
    /// A seal with that key.
    ///
    /// # Errors
    /// [`Fault`] when the cipher does not take the key.
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, Fault> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| Fault("the sealing key is not usable".to_owned()))?;
        Ok(Self { key: LessSafeKey::new(key) })
    }

    /// Seals `content`, with a random nonce.
    ///
    /// # Errors
    /// [`Fault`] when there is no randomness.
    pub(crate) fn seal(&self, purpose: Purpose, content: &[u8]) -> Result<String, Fault> {
        let fault = |_| Fault("sealing failed".to_owned());
        let nonce: [u8; NONCE_LEN] = clock::random().map_err(|problem| Fault(problem.to_string()))?;
        let mut sealed = content.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose.label()), &mut sealed)
            .map_err(fault)?;
        let mut whole = nonce.to_vec();
        whole.append(&mut sealed);
        Ok(URL_SAFE_NO_PAD.encode(whole))
    }

    /// The content, if `text` was sealed here for that purpose and is as it was.
    pub(crate) fn open(&self, purpose: Purpose, text: &str) -> Option<Vec<u8>> {
        let mut whole = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = whole.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let content = self.key.open_in_place(nonce, Aad::from(purpose.label()), sealed).ok()?;
        Some(content.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_purpose_only() {
        let seal = Seal::new(&[7; 32]).unwrap();
        let text = seal.seal(Purpose::Session, b"content").unwrap();
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(seal.open(Purpose::Session, &text).as_deref(), Some(&b"content"[..]));
        assert_eq!(seal.open(Purpose::State, &text), None);
        assert_eq!(Seal::new(&[8; 32]).unwrap().open(Purpose::Session, &text), None);
        assert_ne!(text, seal.seal(Purpose::Session, b"content").unwrap());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let seal = Seal::new(&[7; 32]).unwrap();
        let text = seal.seal(Purpose::State, b"abc").unwrap();
        let whole = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.open(Purpose::State, &URL_SAFE_NO_PAD.encode(changed)), None, "bit {bit}");
        }
        for end in 0..whole.len() {
            assert_eq!(seal.open(Purpose::State, &URL_SAFE_NO_PAD.encode(&whole[..end])), None, "cut at {end}");
        }
        for suffix in ["-TAMPERED", "=", " ", "A"] {
            assert_eq!(seal.open(Purpose::State, &format!("{text}{suffix}")), None, "{suffix}");
        }
    }
}
