//! `[identity.spiffe."trust.domain"]` and `[identity.certificates.NAME]`: workloads that prove who they are.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// One trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffeConfig {
    /// `workload_api`, `bundle_url` or `bundle`.
    pub source: BundleSource,
    /// `audience` of its JWT-SVIDs; the URL of `/mcp` where there is none.
    pub audience: Option<String>,
    /// `max_lifetime` of its JWT-SVIDs.
    pub max_lifetime: Duration,
    /// `max_stale`: how long its keys and authorities are believed after they could be had last.
    pub max_stale: Duration,
    /// `ca`: the authority of the endpoint's certificate, where the machine does not know it.
    pub ca: Option<PathBuf>,
    /// `allow_private`: addresses that are not of the public internet are meant by `bundle_url`.
    pub allow_private: bool,
}

/// Where the keys and authorities of a trust domain come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// The socket of a SPIFFE Workload API.
    WorkloadApi(PathBuf),
    /// A SPIFFE bundle endpoint, profile `https_web`.
    Url(reqwest::Url),
    /// A file with a SPIFFE bundle.
    File(PathBuf),
}

/// Certificates of agents that are no SVIDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatesConfig {
    /// `ca`: the certificates that they are signed by, in PEM.
    pub ca: PathBuf,
    /// `name`: what of a certificate names its agent.
    pub name: NameFrom,
    /// `prefix`: what agents' names begin with; `NAME/` where there is none.
    pub prefix: String,
    /// `agents`: names in certificates, and the agents that they are. Where it is there, nobody else comes in.
    pub agents: BTreeMap<String, String>,
}

/// What of a certificate names its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFrom {
    /// `uri`: its only URI.
    Uri,
    /// `dns`: its only host.
    Dns,
    /// `common_name`: its subject's only common name.
    CommonName,
}
