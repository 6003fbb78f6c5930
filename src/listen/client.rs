//! The certificate of whoever connected.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};

use super::{
    Authority,
    authorities::{Authorities, LOOK_AGAIN, NotVouched},
};
use crate::{clock::Timestamp, json::Digest};

/// A certificate that was verified by TLS before anything was read: whoever is on this connection has its key.
pub struct ClientCertificate {
    /// The SHA-256 of the certificate: `x5t#S256` (RFC 8705).
    pub thumbprint: Digest,
    /// The SHA-256 of what its authority signed, which names it: a signature may have several spellings.
    pub signed: Digest,
    /// Who vouches for it.
    pub authority: Authority,
    /// URIs that it is for.
    pub uris: Vec<String>,
    /// Hosts that it is for.
    pub dns: Vec<String>,
    /// What its subject is called, if it has exactly one common name.
    pub common_name: Option<String>,
    /// When it ends.
    pub not_after: Timestamp,
    /// When it begins.
    pub not_before: Timestamp,
    chain: Vec<CertificateDer<'static>>,
    authorities: Arc<Authorities>,
    /// The authority's version that vouched for it last, and when.
    vouched: Mutex<(u64, Instant)>,
}

/// Why a certificate that was verified once is believed no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallen {
    /// Its time is over, or has not come.
    Expired,
    /// Its authority vouches for it no more, or is not believed itself.
    Distrusted,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("thumbprint", &self.thumbprint)
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// What a handshake verified, looked at once more.
    pub(super) fn of(authorities: &Arc<Authorities>, chain: &[CertificateDer<'_>]) -> Result<Self, NotVouched> {
        let (authority, version, facts) = authorities.judge(chain, UnixTime::now())?;
        let chain: Vec<_> = chain.iter().map(|der| der.clone().into_owned()).collect();
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| NotVouched::Malformed("its times"));
        Ok(Self {
            thumbprint: Digest::of(chain.first().map(AsRef::as_ref).unwrap_or_default()),
            signed: facts.signed,
            authority,
            uris: facts.uris,
            dns: facts.dns,
            common_name: facts.common_name,
            not_before: time(facts.valid.0)?,
            not_after: time(facts.valid.1)?,
            chain,
            authorities: Arc::clone(authorities),
            vouched: Mutex::new((version, Instant::now())),
        })
    }

    /// A good one of that thumbprint, for tests.
    #[cfg(test)]
    pub(crate) fn of_thumbprint(thumbprint: Digest) -> Self {
        let own = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.der().clone();
        let authorities = Authorities::open(Vec::new(), &[]).unwrap();
        authorities.take("test", &[own], None).unwrap();
        Self {
            thumbprint,
            signed: thumbprint,
            authority: Authority::Spiffe("test".to_owned()),
            uris: Vec::new(),
            dns: Vec::new(),
            common_name: None,
            not_after: Timestamp::MAX,
            not_before: Timestamp::UNIX_EPOCH,
            chain: Vec::new(),
            vouched: Mutex::new((1, Instant::now())),
            authorities: Arc::new(authorities),
        }
    }

    /// Whether it is still believed: for every request, as connections live long. Costs next to nothing, unless its
    /// authority changed or a minute went by.
    ///
    /// # Errors
    /// [`Fallen`]
    pub fn standing(&self, now: Timestamp) -> Result<(), Fallen> {
        if now < self.not_before || now > self.not_after {
            return Err(Fallen::Expired);
        }
        let version = self.authorities.version(&self.authority).ok_or(Fallen::Distrusted)?;
        let mut vouched = self.vouched.lock().unwrap_or_else(PoisonError::into_inner);
        if vouched.0 == version && vouched.1.elapsed() < LOOK_AGAIN {
            return Ok(());
        }
        let (leaf, rest) = self.chain.split_first().ok_or(Fallen::Distrusted)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now.as_second()).unwrap_or(0)));
        let version = self.authorities.vouches(&self.authority, leaf, rest, now).map_err(|_| Fallen::Distrusted)?;
        *vouched = (version, Instant::now());
        Ok(())
    }
}
