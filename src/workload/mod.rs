//! Workloads that prove who they are: SPIFFE ids by JWT-SVID and X.509-SVID, and names in other certificates.
//!
//! A trust domain's keys and authorities come from a Workload API, a bundle endpoint or a file, and are believed only
//! for ids of that domain, and only for so long once they can be had no more. Nothing is believed that is not there.

mod bundle;
mod domain;
mod source;
mod svid;

pub use svid::Svid;

use std::{collections::BTreeMap, fmt, sync::Arc};

use tokio::sync::watch;

use crate::{
    call::Fault,
    clock::Timestamp,
    config::{CertificatesConfig, IdentityConfig, NameFrom},
    grant::ConfigError,
    json::Digest,
    listen::{Authorities, Authority, ClientCertificate, Fallen},
    reach::Resolver,
};

use domain::Domain;
use source::Source;

/// Who a workload is, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What the agent is called: its SPIFFE id, or the name that its certificate has.
    pub agent: String,
    /// Its SPIFFE id, if it has one.
    pub id: Option<String>,
    /// Who vouches for it: `spiffe://example.org`, or `certificate:NAME`.
    pub issuer: String,
    /// What its credential is called: that is what is revoked.
    pub credential: String,
    /// Since when the credential is good.
    pub issued: Timestamp,
    /// Until when.
    pub expires: Timestamp,
}

/// Why somebody is not believed to be a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// It is no JWT-SVID, or the certificate does not name an agent.
    Malformed,
    /// It is a token of another kind.
    Kind,
    /// The signature is by no key of its trust domain.
    Signature,
    /// It is for somebody else.
    Audience,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It lives longer than `max_lifetime`.
    TooLong,
    /// Nobody vouches for the certificate any more.
    Distrusted,
    /// Nothing is known of its trust domain's keys, or what is known is too old.
    Unavailable,
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "it is no JWT-SVID, or a certificate that names no agent",
            Self::Kind => "its `typ` is that of another kind of token",
            Self::Signature => "it is signed by no key of its trust domain",
            Self::Audience => "its `aud` does not name this server",
            Self::Expired => "its time is over",
            Self::NotYet => "its time has not come",
            Self::TooLong => "it lives longer than `max_lifetime`",
            Self::Distrusted => "its authority does not vouch for it any more",
            Self::Unavailable => "the keys of its trust domain cannot be had, or are too old",
        })
    }
}

impl std::error::Error for Unproven {}

/// All workloads that this house may know.
#[derive(Debug)]
pub struct Workloads {
    domains: BTreeMap<String, (Arc<Domain>, Source)>,
    certificates: BTreeMap<String, CertificatesConfig>,
    authorities: Arc<Authorities>,
}

/// Why workloads cannot be known.
#[derive(Debug)]
pub enum NotOpened {
    /// Files that an operator has to correct.
    Config(Vec<ConfigError>),
    /// Something of ours that failed.
    Fault(Fault),
}

impl Workloads {
    /// Reads the files of trust domains and authorities; what is fetched is fetched by [`Workloads::follow`]. `audience` is
    /// the URL of `/mcp`.
    ///
    /// # Errors
    /// [`NotOpened`]
    pub fn open(config: &IdentityConfig, audience: &str, resolver: &Arc<dyn Resolver>) -> Result<Self, NotOpened> {
        let files = config.certificates.iter().map(|(name, config)| (name.clone(), config.ca.clone())).collect();
        let names: Vec<String> = config.spiffe.keys().cloned().collect();
        let authorities = Arc::new(Authorities::open(files, &names).map_err(NotOpened::Config)?);
        let mut domains = BTreeMap::new();
        let mut errors = Vec::new();
        for (name, config) in &config.spiffe {
            let domain = Arc::new(Domain::new(name, config.clone(), audience, Arc::clone(&authorities)));
            let source = Source::new(&domain, resolver)?;
            errors.extend(source.reload(&domain).err());
            domains.insert(name.clone(), (domain, source));
        }
        if !errors.is_empty() {
            return Err(NotOpened::Config(errors));
        }
        Ok(Self { domains, certificates: config.certificates.clone(), authorities })
    }

    /// What clients are asked for certificates by, if any could be believed.
    pub fn authorities(&self) -> Option<&Arc<Authorities>> {
        (!self.domains.is_empty() || !self.certificates.is_empty()).then_some(&self.authorities)
    }

    /// Reads all files again. One that cannot be used is refused whole, and what was known stays.
    ///
    /// # Errors
    /// What is wrong with each.
    pub fn reload(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = self.authorities.reload().err().unwrap_or_default();
        errors.extend(self.domains.values().filter_map(|(domain, source)| source.reload(domain).err()));
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// Keeps all that is known up to date, until `stop` is true.
    pub async fn follow(self: Arc<Self>, stop: watch::Receiver<bool>) {
        let domains = self.domains.values().map(|(domain, source)| source.follow(domain, stop.clone()));
        let domains = futures_util::future::join_all(domains);
        tokio::join!(domains, self.authorities.follow(stop.clone()));
    }

    /// Judges a JWT-SVID. `None`: the token does not say that it is one of a trust domain that is configured. Cheap for
    /// one that was judged before: its signature is not checked again while its trust domain's keys stay as they are.
    pub fn judge(&self, token: &str, now: Timestamp) -> Option<Result<Arc<Svid>, Unproven>> {
        if self.domains.is_empty() {
            return None;
        }
        let digest = Digest::of(token.as_bytes());
        if let Some(svid) = self.domains.values().find_map(|(domain, _)| domain.judged(&digest)) {
            return Some(svid.at(now));
        }
        let id = svid::named(token)?;
        let (domain, _) = self.domains.get(id.trust_domain_name())?;
        Some(svid::judge(domain, token, digest, now).and_then(|svid| svid.at(now)))
    }

    /// Who has the key of a certificate.
    ///
    /// # Errors
    /// [`Unproven`]
    pub fn of_certificate(&self, certificate: &ClientCertificate, now: Timestamp) -> Result<Workload, Unproven> {
        certificate.standing(now).map_err(|fallen| match fallen {
            Fallen::Expired => Unproven::Expired,
            Fallen::Distrusted => Unproven::Distrusted,
        })?;
        let issuer = certificate.authority.to_string();
        let (agent, id) = match &certificate.authority {
            Authority::Spiffe(domain) => {
                let [uri] = certificate.uris.as_slice() else { return Err(Unproven::Malformed) };
                let id = svid::id(uri).filter(|id| id.trust_domain_name() == domain).ok_or(Unproven::Malformed)?;
                (id.to_string(), Some(id.to_string()))
            }
            Authority::Named(name) => {
                let config = self.certificates.get(name).ok_or(Unproven::Distrusted)?;
                (agent(config, certificate).ok_or(Unproven::Malformed)?, None)
            }
        };
        Ok(Workload {
            agent,
            id,
            credential: format!("{issuer}:{}", svid::short(&certificate.signed)),
            issuer,
            issued: certificate.not_before,
            expires: certificate.not_after,
        })
    }
}

/// The agent that a certificate names: by the one name of the kind that is looked for.
fn agent(config: &CertificatesConfig, certificate: &ClientCertificate) -> Option<String> {
    fn only(names: &[String]) -> Option<&String> {
        match names {
            [one] => Some(one),
            _ => None,
        }
    }
    let name = match config.name {
        NameFrom::Uri => only(&certificate.uris),
        NameFrom::Dns => only(&certificate.dns),
        NameFrom::CommonName => certificate.common_name.as_ref(),
    }?;
    if !config.agents.is_empty() {
        return config.agents.get(name).cloned();
    }
    let agent = format!("{}{name}", config.prefix);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:/".contains(&byte);
    let begins = agent.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
    let ours = begins && agent.len() <= 128 && agent.bytes().all(known);
    // ids of workloads are for their trust domains to give
    (ours && !agent.to_ascii_lowercase().starts_with("spiffe:")).then_some(agent)
}

#[cfg(test)]
mod tests;
