//! A certificate and its key: read from their files, read again when they change.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::watch, time::sleep};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    sign::{CertifiedKey, SingleCertAndKey},
};
use zeroize::Zeroizing;

use crate::{config::TlsFiles, grant::ConfigError, secret_file};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How long changed files have to lie still before they are read, and how often that is waited for.
const STILL: Duration = Duration::from_millis(200);
const STILL_TRIES: usize = 50;
/// Bytes of a chain.
const MOST: u64 = 1 << 20;

/// The certificate that a listener shows.
#[derive(Debug)]
pub struct Certificate {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    /// The files as they were before they were last read.
    seen: Mutex<Fingerprint>,
}

type Fingerprint = [Option<(u64, u64, i64, i64)>; 2];

impl Certificate {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// What is wrong with a file, and what to do.
    pub fn open(files: TlsFiles) -> Result<Self, ConfigError> {
        let seen = Mutex::new(fingerprint(&files));
        let current = ArcSwap::from_pointee(read(&files)?);
        Ok(Self { files, current, seen })
    }

    /// What new connections are made with.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads the files again. A pair that cannot be used is refused whole, and the old one stays.
    ///
    /// # Errors
    /// As [`Certificate::open`].
    pub fn reload(&self) -> Result<(), ConfigError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = fingerprint(&self.files);
        self.current.store(Arc::new(read(&self.files)?));
        Ok(())
    }

    /// Reads the files again whenever they change, until `stop` is true.
    pub async fn follow(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = sleep(LOOK) => {}
            }
            let mut now = fingerprint(&self.files);
            if now == *self.seen.lock().unwrap_or_else(PoisonError::into_inner) {
                continue;
            }
            // certificate and key are seldom written in one moment
            for _ in 0..STILL_TRIES {
                tokio::select! {
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = sleep(STILL) => {}
                }
                let later = fingerprint(&self.files);
                let still = later == now;
                now = later;
                if still {
                    break;
                }
            }
            let file = self.files.cert.display();
            match self.reload() {
                Ok(()) => tracing::info!(certificate = %file, "the certificate was loaded again"),
                Err(error) => {
                    tracing::error!(certificate = %file, %error, "the certificate was not loaded; the old one stays");
                }
            }
        }
    }
}

/// What changes when a file does, or is replaced, also through a link.
fn fingerprint(files: &TlsFiles) -> Fingerprint {
    [&files.cert, &files.key].map(|file| {
        let data = fs::metadata(file).ok()?;
        Some((data.ino(), data.len(), data.mtime(), data.mtime_nsec()))
    })
}

fn read(files: &TlsFiles) -> Result<ServerConfig, ConfigError> {
    let wrong = |file: &Path, problem: &str, hint: &str| ConfigError {
        file: file.to_owned(),
        line: 0,
        column: 0,
        problem: problem.to_owned(),
        hint: Some(hint.to_owned()),
    };
    let text = bounded(&files.cert).map_err(|error| {
        let hint = "`cert` names the certificate's file, in PEM; give the account that runs countersign access to it";
        wrong(&files.cert, &format!("cannot be read: {error}"), hint)
    })?;
    let chain: Result<Vec<CertificateDer<'static>>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| {
        let hint = "it has to be PEM: the server's own certificate first, then those that lead to the root";
        wrong(&files.cert, "has no certificate", hint)
    })?;
    let text = secret_file::read_beside_group(&files.key)
        .map_err(|fault| fault.0)
        .and_then(|text| text.map(Zeroizing::new).ok_or_else(|| "there is no such file".to_owned()))
        .map_err(|problem| wrong(&files.key, &problem, "`key` names the private key's file, in PEM"))?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        let hint = "it has to be PEM, PKCS #8, PKCS #1 or SEC 1, without a passphrase";
        wrong(&files.key, "has no private key", hint)
    })?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        let hint = format!("it has to be the key of the first certificate in `{}`", files.cert.display());
        wrong(&files.key, &format!("cannot be used with the certificate: {error}"), &hint)
    })?;
    let unset = |error: tokio_rustls::rustls::Error| wrong(&files.cert, &format!("TLS cannot be set up: {error}"), "");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unset)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = fs::File::open(path)?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST + 1), &mut text)?;
    if text.len() as u64 > MOST {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}
