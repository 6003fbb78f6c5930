//! Who vouches for the certificates that agents show: the authorities of trust domains (X.509-SVID), and files of others.
//!
//! A certificate is looked at twice, in the handshake and by whoever serves the connection, and once more whenever its
//! authorities changed since, or a minute went by: connections live longer than what they were made under.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use spiffe::{SpiffeId, spiffe_id::uri_has_spiffe_scheme};
use tokio::sync::watch;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{self, CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, TrustAnchor, UnixTime, pem, pem::PemObject as _},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{
    certificate::wrong,
    facts::{Facts, validity},
    watched::{Watched, bounded},
};
use crate::grant::ConfigError;

/// Certificates of one authority.
const ANCHORS: usize = 64;
/// Certificates that are shown at once.
const CHAIN: usize = 16;

/// Who vouches for a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Authority {
    /// A SPIFFE trust domain, such as `example.org`.
    Spiffe(String),
    /// The file of one `[identity.certificates.NAME]`.
    Named(String),
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(domain) => write!(f, "spiffe://{domain}"),
            Self::Named(name) => write!(f, "certificate:{name}"),
        }
    }
}

/// Why nobody vouches for a certificate.
#[derive(Clone, Debug, PartialEq)]
pub enum NotVouched {
    /// It is no certificate that is let in: why.
    Malformed(&'static str),
    /// It has a SPIFFE id and yet is no X.509-SVID: why.
    NotAnSvid(&'static str),
    /// No authority that may vouch for it is known, or what is known of it is too old.
    NoAuthority,
    /// Two authorities vouch for it: who it is would be a matter of chance.
    Ambiguous,
    /// The authority that would have to does not.
    Refused(Error),
}

impl fmt::Display for NotVouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "the certificate cannot be read: {why}"),
            Self::NotAnSvid(why) => write!(f, "the certificate is no X.509-SVID: {why}"),
            Self::NoAuthority => f.write_str("no authority is known that could vouch for the certificate"),
            Self::Ambiguous => f.write_str("more than one of `[identity.certificates]` vouches for the certificate"),
            Self::Refused(error) => write!(f, "its authority does not vouch for the certificate: {error}"),
        }
    }
}

impl std::error::Error for NotVouched {}

impl From<NotVouched> for Error {
    fn from(why: NotVouched) -> Self {
        match why {
            NotVouched::Refused(error) => error,
            NotVouched::Malformed(_) => Self::InvalidCertificate(CertificateError::BadEncoding),
            NotVouched::NoAuthority => Self::InvalidCertificate(CertificateError::UnknownIssuer),
            other => Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))),
        }
    }
}

/// All that may vouch for a certificate, as they are now.
pub struct Authorities {
    kept: RwLock<BTreeMap<Authority, Kept>>,
    files: Vec<(String, PathBuf)>,
    watched: Watched,
    provider: Arc<CryptoProvider>,
}

/// What is known of one authority.
struct Kept {
    anchors: Arc<Vec<Anchor>>,
    /// Grows with every change.
    version: u64,
    /// When it is too old to be believed.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Anchor {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    /// Seconds since the epoch.
    valid: (i64, i64),
}

impl fmt::Debug for Authorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(kept.keys()).finish()
    }
}

impl Authorities {
    /// Those whose certificates lie in files, by name, and trust domains of which nothing is known yet.
    ///
    /// # Errors
    /// What is wrong with each file, and what to do.
    pub fn open(files: Vec<(String, PathBuf)>, domains: &[String]) -> Result<Self, Vec<ConfigError>> {
        let nothing = |domain: &String| {
            (Authority::Spiffe(domain.clone()), Kept { anchors: Arc::default(), version: 0, until: None })
        };
        let authorities = Self {
            kept: RwLock::new(domains.iter().map(nothing).collect()),
            watched: Watched::new(files.iter().map(|(_, file)| file.clone()).collect()),
            files,
            provider: Arc::new(aws_lc_rs::default_provider()),
        };
        authorities.reload()?;
        Ok(authorities)
    }

    /// Reads the files again. One that cannot be used is refused whole, and what was known stays.
    ///
    /// # Errors
    /// As [`Authorities::open`].
    pub fn reload(&self) -> Result<(), Vec<ConfigError>> {
        self.watched.read(|| {
            let mut errors = Vec::new();
            for (name, file) in &self.files {
                match read(file) {
                    Ok(anchors) => self.keep(&Authority::Named(name.clone()), anchors, None),
                    Err(error) => errors.push(error),
                }
            }
            if errors.is_empty() { Ok(()) } else { Err(errors) }
        })
    }

    /// Reads the files again whenever they change, until `stop` is true.
    pub async fn follow(&self, mut stop: watch::Receiver<bool>) {
        while self.watched.changed(&mut stop).await {
            match self.reload() {
                Ok(()) => tracing::info!("the authorities of client certificates were loaded again"),
                Err(errors) => {
                    for error in errors {
                        tracing::error!(%error, "an authority of client certificates was not loaded; the old one stays");
                    }
                }
            }
        }
    }

    /// Takes the certificates of a trust domain in place of those that were known, believed until `until`.
    ///
    /// # Errors
    /// What is wrong with them, for an operator; what was known stays.
    pub(crate) fn take(
        &self,
        domain: &str,
        certificates: &[CertificateDer<'static>],
        until: Option<Instant>,
    ) -> Result<(), String> {
        let anchors = anchors(certificates)?;
        self.keep(&Authority::Spiffe(domain.to_owned()), anchors, until);
        Ok(())
    }

    fn keep(&self, authority: &Authority, anchors: Vec<Anchor>, until: Option<Instant>) {
        let mut all = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(authority.clone()).or_insert(Kept { anchors: Arc::default(), version: 0, until: None });
        let same = known.anchors.len() == anchors.len()
            && known.anchors.iter().zip(&anchors).all(|(old, new)| old.der == new.der);
        if !same {
            known.anchors = Arc::new(anchors);
            known.version = known.version.saturating_add(1);
        }
        known.until = until;
    }

    /// What new connections are asked by.
    pub(super) fn asking(self: &Arc<Self>) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Asking(Arc::clone(self)))
    }

    /// Who vouches for a chain, its first certificate being the one that somebody showed to have the key of.
    pub(super) fn judge(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(Authority, u64, Facts), NotVouched> {
        let (leaf, rest) = chain.split_first().ok_or(NotVouched::Malformed("there is none"))?;
        if chain.len() > CHAIN {
            return Err(NotVouched::Malformed("too many come with it"));
        }
        let facts = Facts::read(leaf).map_err(NotVouched::Malformed)?;
        if facts.uris.iter().any(|uri| uri_has_spiffe_scheme(uri)) {
            let id = svid(&facts).map_err(NotVouched::NotAnSvid)?;
            let authority = Authority::Spiffe(id.trust_domain_name().to_owned());
            let version = self.vouches(&authority, leaf, rest, now)?;
            return Ok((authority, version, facts));
        }
        let mut vouching: Option<(Authority, u64)> = None;
        let mut refused = NotVouched::NoAuthority;
        for (name, _) in &self.files {
            let authority = Authority::Named(name.clone());
            match self.vouches(&authority, leaf, rest, now) {
                Ok(_) if vouching.is_some() => return Err(NotVouched::Ambiguous),
                Ok(version) => vouching = Some((authority, version)),
                Err(why) => refused = why,
            }
        }
        let (authority, version) = vouching.ok_or(refused)?;
        Ok((authority, version, facts))
    }

    /// Whether an authority vouches for a certificate now, and its version that does.
    pub(super) fn vouches(
        &self,
        authority: &Authority,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<u64, NotVouched> {
        let (anchors, version) = self.known(authority).ok_or(NotVouched::NoAuthority)?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let live = |anchor: &&Anchor| (anchor.valid.0..=anchor.valid.1).contains(&seconds);
        let roots: Vec<_> = anchors.iter().filter(live).map(|anchor| anchor.anchor.clone()).collect();
        if roots.is_empty() {
            return Err(NotVouched::NoAuthority);
        }
        let roots = Arc::new(RootCertStore { roots });
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&self.provider))
            .build()
            .map_err(|_| NotVouched::NoAuthority)?;
        verifier.verify_client_cert(leaf, rest, now).map_err(NotVouched::Refused)?;
        Ok(version)
    }

    /// The version of an authority, if it is believed now.
    pub(super) fn version(&self, authority: &Authority) -> Option<u64> {
        self.known(authority).map(|(_, version)| version)
    }

    fn known(&self, authority: &Authority) -> Option<(Arc<Vec<Anchor>>, u64)> {
        let all = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(authority)?;
        let believed = known.until.is_none_or(|until| Instant::now() < until);
        (believed && !known.anchors.is_empty()).then(|| (Arc::clone(&known.anchors), known.version))
    }
}

/// The id of an X.509-SVID (X509-SVID, sections 2 to 5): one URI, for a workload, on a certificate that signs no others.
fn svid(facts: &Facts) -> Result<SpiffeId, &'static str> {
    let [uri] = facts.uris.as_slice() else { return Err("it has more than one URI") };
    let id = SpiffeId::new(uri).map_err(|_| "its URI is no SPIFFE id")?;
    if id.to_string() != *uri {
        return Err("its SPIFFE id is not in lower case");
    }
    if id.path().is_empty() {
        return Err("its SPIFFE id names no workload");
    }
    if facts.is_authority || facts.signs_certificates {
        return Err("it may sign other certificates");
    }
    if !facts.signs {
        return Err("its key usage is not digital signature");
    }
    Ok(id)
}

/// The certificates of one authority's file.
fn read(file: &Path) -> Result<Vec<Anchor>, ConfigError> {
    let hint = "`ca` names a file of certificates in PEM that agents' certificates are signed by";
    let text = bounded(file).map_err(|error| wrong(file, &format!("cannot be read: {error}"), hint))?;
    let all: Result<Vec<CertificateDer<'static>>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.ok().filter(|all| !all.is_empty()).ok_or_else(|| wrong(file, "has no certificate", hint))?;
    anchors(&all).map_err(|why| wrong(file, &why, hint))
}

fn anchors(certificates: &[CertificateDer<'static>]) -> Result<Vec<Anchor>, String> {
    if certificates.len() > ANCHORS {
        return Err(format!("has more than {ANCHORS} certificates"));
    }
    let mut anchors = Vec::new();
    for der in certificates {
        let unusable = || "has a certificate that cannot be used".to_owned();
        let mut store = RootCertStore::empty();
        store.add(der.clone()).map_err(|_| unusable())?;
        let anchor = store.roots.pop().ok_or_else(unusable)?;
        anchors.push(Anchor { der: der.clone(), anchor, valid: validity(der).map_err(|_| unusable())? });
    }
    Ok(anchors)
}

/// Asks for a certificate, and takes none that nobody vouches for.
#[derive(Debug)]
struct Asking(Arc<Authorities>);

impl ClientCertVerifier for Asking {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: authorities change while a connection is made, and whoever has a certificate knows which.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend(intermediates.iter().cloned());
        self.0.judge(&chain, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(message, cert, dss, &self.0.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(message, cert, dss, &self.0.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// How long a living connection's certificate is believed before it is looked at again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(60);
