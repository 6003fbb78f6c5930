//! A certificate and its key: read from their files, read again when they change.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use zeroize::Zeroizing;

use super::{
    authorities::Authorities,
    watched::{Watched, bounded},
};
use crate::{config::TlsFiles, grant::ConfigError, secret_file};

/// The certificate that a listener shows.
#[derive(Debug)]
pub struct Certificate {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
    watched: Watched,
    asks: OnceLock<Arc<Authorities>>,
}

impl Certificate {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// What is wrong with a file, and what to do.
    pub fn open(files: TlsFiles) -> Result<Self, ConfigError> {
        let watched = Watched::new(vec![files.cert.clone(), files.key.clone()]);
        let current = ArcSwap::from_pointee(watched.read(|| read(&files, None))?);
        Ok(Self { files, current, watched, asks: OnceLock::new() })
    }

    /// From now on whoever connects is asked for a certificate of their own, for which these have to vouch. Nobody has to
    /// show one.
    ///
    /// # Errors
    /// As [`Certificate::open`].
    pub fn ask(&self, authorities: Arc<Authorities>) -> Result<(), ConfigError> {
        let _asked_once = self.asks.set(authorities);
        self.reload()
    }

    /// Who has to vouch for those that connect.
    pub(super) fn asks(&self) -> Option<&Arc<Authorities>> {
        self.asks.get()
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
        self.watched.read(|| {
            self.current.store(Arc::new(read(&self.files, self.asks.get())?));
            Ok(())
        })
    }

    /// Reads the files again whenever they change, until `stop` is true.
    pub async fn follow(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        while self.watched.changed(&mut stop).await {
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

pub(super) fn wrong(file: &Path, problem: &str, hint: &str) -> ConfigError {
    ConfigError {
        file: file.to_owned(),
        line: 0,
        column: 0,
        problem: problem.to_owned(),
        hint: Some(hint.to_owned()).filter(|hint| !hint.is_empty()),
    }
}

fn read(files: &TlsFiles, asks: Option<&Arc<Authorities>>) -> Result<ServerConfig, ConfigError> {
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
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unset)?;
    let builder = match asks {
        None => builder.with_no_client_auth(),
        Some(authorities) => builder.with_client_cert_verifier(authorities.asking()),
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
    if asks.is_some() {
        // a session that is taken up again brings the certificate it began with, and nobody looks at that again: every
        // connection has its own handshake, under the authorities of that moment
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
