//! Where the keys and authorities of a trust domain come from: a Workload API, a bundle endpoint, or a file.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use reqwest::{Client, Url};
use spiffe::{TrustDomain, WorkloadApiClient, transport::Endpoint};
use tokio::{sync::watch, time::timeout};
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::{
    NotOpened,
    bundle::{self, Bundle, MOST},
    domain::Domain,
};
use crate::{
    call::{Fault, cut},
    config::BundleSource,
    display::visible,
    grant::ConfigError,
    listen::{Watched, bounded, stopped},
    reach::{self, Resolver, Rule, cause, literal},
};

/// How soon a source is asked again after it failed: at first, and at most.
const SOON: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_secs(30);
/// How often a bundle endpoint is asked where it does not say, and the bounds of what it may say.
const REFRESH: Duration = Duration::from_secs(300);
const OFTEN: Duration = Duration::from_secs(10);
const SELDOM: Duration = Duration::from_secs(3_600);
/// How long a stream of a Workload API is used before it is opened anew: one that hangs says nothing of it.
const STREAM: Duration = Duration::from_secs(300);
/// How long a Workload API has to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// One source.
pub(super) enum Source {
    Api(Endpoint),
    Url(Url, Client, Rule),
    File(std::path::PathBuf, Watched),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Api(_) => "Api",
            Self::Url(..) => "Url",
            Self::File(..) => "File",
        })
    }
}

impl Source {
    pub(super) fn new(domain: &Domain, resolver: &Arc<dyn Resolver>) -> Result<Self, NotOpened> {
        let config = &domain.config;
        Ok(match &config.source {
            BundleSource::WorkloadApi(socket) => Self::Api(Endpoint::Unix(socket.clone())),
            BundleSource::File(file) => Self::File(file.clone(), Watched::new(vec![file.clone()])),
            BundleSource::Url(url) => {
                let rule = Rule { private: config.allow_private, loopback_only: false };
                let mut client = reach::client(rule, Arc::clone(resolver)).https_only(true);
                if let Some(file) = &config.ca {
                    let hint = "`ca` names a file of certificates in PEM that the endpoint's is signed by";
                    let certificates = bounded(file)
                        .map_err(|error| format!("cannot be read: {error}"))
                        .and_then(|text| {
                            let all = reqwest::Certificate::from_pem_bundle(&text).unwrap_or_default();
                            if all.is_empty() { Err("has no certificate".to_owned()) } else { Ok(all) }
                        })
                        .map_err(|problem| NotOpened::Config(vec![wrong(file, problem, hint)]))?;
                    client = client.tls_certs_only(certificates);
                }
                let client = client.build().map_err(|error| {
                    NotOpened::Fault(Fault(format!("bundle endpoints cannot be asked: {}", cause(error))))
                })?;
                Self::Url(url.clone(), client, rule)
            }
        })
    }

    /// Reads its file again, if it is one.
    ///
    /// # Errors
    /// What is wrong with it; what was known stays.
    pub(super) fn reload(&self, domain: &Domain) -> Result<(), ConfigError> {
        let Self::File(file, watched) = self else { return Ok(()) };
        watched.read(|| {
            let hint = "`bundle` names a file with the SPIFFE bundle of the trust domain: JWKs of use `x509-svid` and `jwt-svid`";
            bounded(file)
                .map_err(|error| format!("cannot be read: {error}"))
                .and_then(|text| Bundle::read(&text).map_err(|why| format!("is no SPIFFE bundle: {why}")))
                .and_then(|bundle| domain.take(bundle))
                .map_err(|problem| wrong(file, problem, hint))
        })
    }

    /// Takes what changes, until `stop` is true.
    pub(super) async fn follow(&self, domain: &Domain, mut stop: watch::Receiver<bool>) {
        match self {
            Self::File(_, watched) => {
                while watched.changed(&mut stop).await {
                    match self.reload(domain) {
                        Ok(()) => tracing::info!(trust_domain = domain.name, "the bundle was loaded again"),
                        Err(error) => {
                            tracing::error!(trust_domain = domain.name, %error, "the bundle was not loaded; the old one stays");
                        }
                    }
                }
            }
            Self::Url(url, client, rule) => {
                again_and_again(domain, "its bundle endpoint", stop, || fetch(domain, url, client, *rule)).await;
            }
            Self::Api(endpoint) => {
                let keys = again_and_again(domain, "the keys of its Workload API", stop.clone(), || {
                    follow_keys(domain, endpoint)
                });
                let authorities = again_and_again(domain, "the authorities of its Workload API", stop, || {
                    follow_authorities(domain, endpoint)
                });
                tokio::join!(keys, authorities);
            }
        }
    }
}

fn wrong(file: &Path, problem: String, hint: &str) -> ConfigError {
    ConfigError { file: file.to_owned(), line: 0, column: 0, problem, hint: Some(hint.to_owned()) }
}

/// Asks a source until `stop` is true: after as long as it says where it answered, later and later where it does not.
async fn again_and_again<F: Future<Output = Result<Duration, String>>>(
    domain: &Domain,
    what: &str,
    mut stop: watch::Receiver<bool>,
    ask: impl Fn() -> F,
) {
    let mut failed = SOON;
    loop {
        let asked = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            asked = ask() => asked,
        };
        let wait = match asked {
            Ok(wait) => {
                failed = SOON;
                wait
            }
            Err(why) => {
                let why = visible(cut(&why, 300));
                tracing::warn!(
                    trust_domain = domain.name,
                    why,
                    "{what} could not be had; what is known is believed for a while"
                );
                let wait = failed;
                failed = (failed * 2).min(LATE);
                wait
            }
        };
        if stopped(&mut stop, wait).await {
            return;
        }
    }
}

/// A SPIFFE bundle endpoint, profile `https_web` (SPIFFE Federation, section 5).
async fn fetch(domain: &Domain, url: &Url, client: &Client, rule: Rule) -> Result<Duration, String> {
    // a literal address is not resolved: it is checked here
    if let Some(address) = literal(url) {
        rule.check(address)?;
    }
    let mut response = client.get(url.clone()).header("accept", "application/json").send().await.map_err(cause)?;
    if response.status().as_u16() != 200 {
        return Err(format!("it answered with status {}", response.status().as_u16()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(cause)? {
        body.extend_from_slice(&chunk);
        if body.len() > MOST {
            return Err(format!("its answer is longer than {} KiB", MOST >> 10));
        }
    }
    let bundle = Bundle::read(&body)?;
    let wait = bundle.refresh.unwrap_or(REFRESH).clamp(OFTEN, SELDOM);
    domain.take(bundle)?;
    Ok(before_stale(domain, wait))
}

/// A wait after which there is time enough to ask once more before what is known is too old.
fn before_stale(domain: &Domain, wait: Duration) -> Duration {
    wait.min(domain.config.max_stale / 2).max(Duration::from_millis(250))
}

/// Takes the authorities that a Workload API tells of, for as long as one stream is used.
async fn follow_authorities(domain: &Domain, endpoint: &Endpoint) -> Result<Duration, String> {
    let own = TrustDomain::new(&domain.name).map_err(|error| error.to_string())?;
    let client = connect(endpoint).await?;
    let mut stream = in_time(client.stream_x509_bundles()).await?;
    let mut first = true;
    let told = async {
        loop {
            let next =
                if first { timeout(ANSWER, stream.next()).await.map_err(|_| silent())? } else { stream.next().await };
            first = false;
            let bundles = next.ok_or_else(ended)?.map_err(|error| said(&error))?;
            let certificates: Vec<CertificateDer<'static>> = bundles.get(&own).map_or_else(Vec::new, |bundle| {
                bundle.authorities().iter().map(|one| CertificateDer::from(one.as_bytes().to_vec())).collect()
            });
            domain.take_authorities(&certificates)?;
        }
    };
    for_a_while(domain, told).await
}

/// Takes the keys that it tells of.
async fn follow_keys(domain: &Domain, endpoint: &Endpoint) -> Result<Duration, String> {
    let own = TrustDomain::new(&domain.name).map_err(|error| error.to_string())?;
    let client = connect(endpoint).await?;
    let mut stream = in_time(client.stream_jwt_bundles()).await?;
    let mut first = true;
    let told = async {
        loop {
            let next =
                if first { timeout(ANSWER, stream.next()).await.map_err(|_| silent())? } else { stream.next().await };
            first = false;
            let bundles = next.ok_or_else(ended)?.map_err(|error| said(&error))?;
            let mut keys = Vec::new();
            for authority in bundles.get(&own).iter().flat_map(|bundle| bundle.jwt_authorities()) {
                keys.extend(bundle::key(authority.jwk_json())?);
            }
            domain.take_keys(keys);
        }
    };
    for_a_while(domain, told).await
}

async fn for_a_while(
    domain: &Domain,
    told: impl Future<Output = Result<std::convert::Infallible, String>>,
) -> Result<Duration, String> {
    match timeout(before_stale(domain, STREAM), told).await {
        // it is opened anew at once
        Err(_) => Ok(Duration::ZERO),
        Ok(Err(why)) => Err(why),
        Ok(Ok(never)) => match never {},
    }
}

async fn connect(endpoint: &Endpoint) -> Result<WorkloadApiClient, String> {
    in_time(WorkloadApiClient::connect(endpoint.clone())).await
}

async fn in_time<T>(asked: impl Future<Output = Result<T, spiffe::WorkloadApiError>>) -> Result<T, String> {
    timeout(ANSWER, asked).await.map_err(|_| silent())?.map_err(|error| said(&error))
}

fn silent() -> String {
    format!("it did not answer within {} seconds", ANSWER.as_secs())
}

fn ended() -> String {
    "it ended the stream".to_owned()
}

/// The deepest cause.
fn said(error: &spiffe::WorkloadApiError) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
