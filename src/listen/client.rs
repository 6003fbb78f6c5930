//! Who a client is by the certificate that it showed.

use crate::{clock::Timestamp, json::Digest};

/// A certificate that was verified in the handshake of TLS, whose key the client has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// SHA-256 of its DER: what a token is bound to (RFC 8705, `x5t#S256`).
    pub thumbprint: Digest,
    /// By whose authority it is.
    pub authority: Authority,
    /// Its URIs.
    pub uris: Vec<String>,
    /// Its DNS names.
    pub dns: Vec<String>,
    /// The common name of its subject.
    pub common_name: Option<String>,
    /// Since when it is valid.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// Who answers for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// A SPIFFE trust domain.
    Spiffe(String),
    /// An authority of `[identity.certificates.NAME]`.
    Named(String),
}
