//! One trust domain: what is known of it, and for how long that is believed.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{bundle::Bundle, svid::Svid};
use crate::{
    config::{BundleSource, SpiffeConfig},
    json::Digest,
    jws::Jwk,
    listen::Authorities,
};

/// Tokens that are remembered at most; beyond it the memory starts anew.
const REMEMBERED: usize = 10_000;

/// One trust domain that agents come from.
pub(super) struct Domain {
    pub(super) name: String,
    pub(super) config: SpiffeConfig,
    /// What its JWT-SVIDs have to be made for.
    pub(super) audience: String,
    authorities: Arc<Authorities>,
    keys: RwLock<Keys>,
}

/// The keys of its JWT-SVIDs, and what was judged by them.
#[derive(Default)]
struct Keys {
    keys: Arc<Vec<Jwk>>,
    /// When they are too old to be believed; `None`: never.
    until: Option<Instant>,
    judged: HashMap<Digest, Arc<Svid>>,
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Domain").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Domain {
    pub(super) fn new(name: &str, config: SpiffeConfig, audience: &str, authorities: Arc<Authorities>) -> Self {
        let audience = config.audience.clone().unwrap_or_else(|| audience.to_owned());
        Self { name: name.to_owned(), config, audience, authorities, keys: RwLock::default() }
    }

    /// Until when what is had now is believed.
    fn until(&self) -> Option<Instant> {
        match self.config.source {
            BundleSource::File(_) => None,
            BundleSource::WorkloadApi(_) | BundleSource::Url(_) => Instant::now().checked_add(self.config.max_stale),
        }
    }

    /// Takes a whole bundle in place of what was known.
    ///
    /// # Errors
    /// What is wrong with it, for an operator; what was known stays.
    pub(super) fn take(&self, bundle: Bundle) -> Result<(), String> {
        self.take_authorities(&bundle.authorities)?;
        self.take_keys(bundle.keys);
        Ok(())
    }

    pub(super) fn take_authorities(&self, authorities: &[CertificateDer<'static>]) -> Result<(), String> {
        let taken = self.authorities.take(&self.name, authorities, self.until());
        taken.map_err(|why| format!("one of its authorities cannot be used: it {why}"))
    }

    pub(super) fn take_keys(&self, keys: Vec<Jwk>) {
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let print = |keys: &[Jwk]| -> Vec<(Option<String>, Digest)> {
            let mut prints: Vec<_> = keys.iter().map(|key| (key.kid().map(str::to_owned), key.thumbprint())).collect();
            prints.sort();
            prints
        };
        if print(&known.keys) != print(&keys) {
            known.keys = Arc::new(keys);
            // what was signed by a key that is gone is not believed any more
            known.judged.clear();
        }
        known.until = self.until();
    }

    /// The keys that are believed now.
    pub(super) fn keys(&self) -> Option<Arc<Vec<Jwk>>> {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let believed = known.until.is_none_or(|until| Instant::now() < until) && !known.keys.is_empty();
        believed.then(|| Arc::clone(&known.keys))
    }

    /// What was judged before, by keys that are believed still.
    pub(super) fn judged(&self, token: &Digest) -> Option<Arc<Svid>> {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let believed = known.until.is_none_or(|until| Instant::now() < until);
        believed.then(|| known.judged.get(token).cloned()).flatten()
    }

    /// Remembers what was judged by `keys`, if those are the keys still.
    pub(super) fn remember(&self, token: Digest, svid: &Arc<Svid>, keys: &Arc<Vec<Jwk>>) {
        let mut known = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&known.keys, keys) {
            if known.judged.len() >= REMEMBERED {
                known.judged.clear();
            }
            known.judged.insert(token, Arc::clone(svid));
        }
    }
}
