//! What a certificate says, as far as it matters who shows it.

use tokio_rustls::rustls::pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _};

use crate::json::Digest;

/// Names of one certificate.
const NAMES: usize = 64;
/// Bytes of one name.
const NAME: usize = 2_048;

#[derive(Debug)]
pub(super) struct Facts {
    pub(super) uris: Vec<String>,
    pub(super) dns: Vec<String>,
    /// The common name of its subject, if there is exactly one.
    pub(super) common_name: Option<String>,
    /// Seconds since the epoch.
    pub(super) valid: (i64, i64),
    pub(super) is_authority: bool,
    /// Its key usage says digital signature.
    pub(super) signs: bool,
    /// Its key usage says that it signs certificates or lists of revoked ones.
    pub(super) signs_certificates: bool,
    /// SHA-256 of what its authority signed: the same for every spelling of the signature.
    pub(super) signed: Digest,
}

impl Facts {
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn read(der: &CertificateDer<'_>) -> Result<Self, &'static str> {
        let certificate = parse(der)?;
        let (mut uris, mut dns) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().map_err(|_| "its names are malformed")?;
        let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
        if names.len() > NAMES {
            return Err("it has too many names");
        }
        for name in names {
            match name {
                GeneralName::URI(uri) => uris.push(checked(uri)?),
                GeneralName::DNSName(name) => dns.push(checked(name)?),
                GeneralName::Invalid(..) => return Err("one of its names is malformed"),
                _ => {}
            }
        }
        let mut common = certificate.subject().iter_common_name();
        let common_name = match (common.next(), common.next()) {
            (Some(name), None) => name.as_str().ok().and_then(|name| checked(name).ok()),
            _ => None,
        };
        let constraints = certificate.basic_constraints().map_err(|_| "its basic constraints are malformed")?;
        let usage = certificate.key_usage().map_err(|_| "its key usage is malformed")?;
        let usage = usage.map(|usage| usage.value);
        Ok(Self {
            uris,
            dns,
            common_name,
            valid: (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()),
            is_authority: constraints.is_some_and(|constraints| constraints.value.ca),
            signs: usage.is_some_and(|usage| usage.digital_signature()),
            signs_certificates: usage.is_some_and(|usage| usage.key_cert_sign() || usage.crl_sign()),
            signed: Digest::of(certificate.tbs_certificate.as_ref()),
        })
    }
}

/// From when to when a certificate is valid, in seconds since the epoch.
pub(super) fn validity(der: &CertificateDer<'_>) -> Result<(i64, i64), &'static str> {
    let certificate = parse(der)?;
    Ok((certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp()))
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, &'static str> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err("it is no X.509 certificate"),
    }
}

fn checked(name: &str) -> Result<String, &'static str> {
    let plain = !name.is_empty() && name.len() <= NAME && !name.chars().any(char::is_control);
    if plain { Ok(name.to_owned()) } else { Err("one of its names is empty, too long or has control characters") }
}
