//! `countersign.toml`: read, checked and edited.
//!
//! [`load`] reads a file whole: every error in it comes back at once, with line, column and a hint. [`edit`]
//! changes a file and keeps its comments and order; [`import`] reads the `mcpServers` of other clients.

mod delegation;
pub mod edit;
pub mod import;
mod issuer;
mod network;
mod provider;
mod read;
pub(crate) mod units;
pub(crate) mod upstream_auth;
mod workload;

pub use delegation::{ClientConfig, DelegationConfig};
pub use issuer::{ALGORITHMS, IntrospectionConfig, IssuerConfig};
pub use network::Network;
pub use provider::ProviderConfig;
pub(crate) use read::is_scope;
pub(crate) use read::parse_address;
pub use read::{Environment, load, parse};
pub use upstream_auth::{ClientAuth, Flow, OAuth, OAuthServer, Secret, UpstreamAuth};
pub use workload::{BundleSource, CertificatesConfig, NameFrom, SpiffeConfig};

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use crate::contract::UpstreamName;

/// Everything that a configuration file says, defaults filled in, variables read.
#[derive(Clone, Debug)]
pub struct Config {
    /// The folder of the file: `grants/`, `schemas/` and relative paths lie there.
    pub folder: PathBuf,
    /// `[server]`: the agents' door.
    pub server: Server,
    /// `[console]`: the approvers' and operators' door.
    pub console: Console,
    /// `[store] path`: the data folder, absolute.
    pub data: PathBuf,
    /// `[ledger]`.
    pub ledger: LedgerConfig,
    /// `[identity]`.
    pub identity: IdentityConfig,
    /// `[notify]`: who is told of holds.
    pub notify: NotifyConfig,
    /// `[upstreams.NAME]`.
    pub upstreams: BTreeMap<UpstreamName, UpstreamConfig>,
}

impl Config {
    /// The name of the configuration file where none is given.
    pub const FILE: &'static str = "countersign.toml";

    /// Where the policies are.
    pub fn grants(&self) -> PathBuf {
        self.folder.join("grants")
    }

    /// Where the contracts are.
    pub fn schemas(&self) -> PathBuf {
        self.folder.join("schemas")
    }

    /// Where the CLI reaches a running server.
    pub fn control_socket(&self) -> PathBuf {
        self.data.join("control.sock")
    }

    /// The URL agents reach `/mcp` by, which is the audience of their tokens (RFC 8707).
    pub fn endpoint(&self) -> String {
        match &self.server.url {
            Some(url) => url.clone(),
            None => format!("{}://{}/mcp", scheme(self.server.tls.is_some()), self.server.listen),
        }
    }

    /// The URL that people reach the console by, without a slash at its end: links to holds begin with it.
    pub fn console_url(&self) -> String {
        self.console.origin(self.console.listen)
    }
}

/// `http`, or `https` where TLS is.
fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `listen`: address of `/mcp`.
    pub listen: SocketAddr,
    /// `url`: the URL of `/mcp` as agents know it, when it is not `http(s)://<listen>/mcp`; the token audience.
    pub url: Option<String>,
    /// `[server.tls]`
    pub tls: Option<TlsFiles>,
    /// `behind_proxy`: something in front ends TLS.
    pub behind_proxy: bool,
    /// `trusted_proxies`: who alone may connect; empty for anybody.
    pub trusted_proxies: Vec<Network>,
    /// `allowed_hosts`: values of `Host` let in besides the listen address and localhost.
    pub allowed_hosts: Vec<String>,
    /// `allowed_origins`: values of `Origin` let in; none by default.
    pub allowed_origins: Vec<String>,
    /// `max_body`: bytes of one request.
    pub max_body: usize,
    /// `max_connections`
    pub max_connections: usize,
    /// `drain`: how long calls in flight have to finish on SIGTERM.
    pub drain: Duration,
}

/// `[console]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Console {
    /// `listen`: address of health, metrics, API and pages.
    pub listen: SocketAddr,
    /// `url`: the origin that people reach it by, when it is not `http(s)://<listen>`; no slash at its end.
    pub url: Option<String>,
    /// `[console.tls]`
    pub tls: Option<TlsFiles>,
    /// `allowed_hosts`: values of `Host` let in besides the listen address, localhost and the host of `url`.
    pub allowed_hosts: Vec<String>,
    /// `behind_proxy`: something in front ends TLS.
    pub behind_proxy: bool,
    /// `trusted_proxies`: who alone may connect; empty for anybody.
    pub trusted_proxies: Vec<Network>,
    /// `[console.providers.NAME]`
    pub providers: BTreeMap<String, ProviderConfig>,
}

impl Console {
    /// Whether browsers reach it by TLS, its own or that of something in front.
    pub fn secure(&self) -> bool {
        self.tls.is_some() || self.behind_proxy
    }

    /// The origin that people reach it by, where it listens on `bound`.
    pub fn origin(&self, bound: SocketAddr) -> String {
        match &self.url {
            Some(url) => url.clone(),
            None => format!("{}://{bound}", scheme(self.tls.is_some())),
        }
    }
}

/// `[server.tls]`, `[console.tls]`: a certificate of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// `cert`: the chain in PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// `key`: its private key in PEM.
    pub key: PathBuf,
}

/// `[ledger]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerConfig {
    /// `reads = "batched"`.
    pub batched_reads: bool,
    /// `origin`: the log's name in checkpoints.
    pub origin: String,
    /// `payloads`: keep arguments and results beside the log.
    pub keep_payloads: bool,
}

/// `[identity]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    /// `max_ttl`: the longest life of a token that `agent token` gives.
    pub max_ttl: Duration,
    /// `clock_skew`: how far the clocks of others may be apart from ours.
    pub skew: Duration,
    /// `[identity.issuers.NAME]`
    pub issuers: BTreeMap<String, IssuerConfig>,
    /// `[identity.spiffe."trust.domain"]`
    pub spiffe: BTreeMap<String, SpiffeConfig>,
    /// `[identity.certificates.NAME]`
    pub certificates: BTreeMap<String, CertificatesConfig>,
    /// `[identity.delegation]`
    pub delegation: DelegationConfig,
    /// `[identity.clients.NAME]`
    pub clients: BTreeMap<String, ClientConfig>,
}

impl IdentityConfig {
    /// Nobody but this server issues tokens, for `max_ttl` at most.
    pub fn own(max_ttl: Duration) -> Self {
        Self {
            delegation: DelegationConfig::default(),
            clients: BTreeMap::new(),
            max_ttl,
            skew: Duration::from_secs(30),
            issuers: BTreeMap::new(),
            spiffe: BTreeMap::new(),
            certificates: BTreeMap::new(),
        }
    }
}

/// `[notify]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyConfig {
    /// `[[notify.webhook]]`, in the order of the file; no name twice.
    pub webhooks: Vec<WebhookConfig>,
    /// `command`: a program that gets each event on its standard input; empty when there is none.
    pub command: Vec<String>,
}

/// `[[notify.webhook]]`
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookConfig {
    /// `name`: names the file that remembers what was delivered; made from `url` where it is not given.
    pub name: String,
    /// `url`: `https`, or `http` to this machine. Its path may be a secret.
    pub url: reqwest::Url,
    /// `secret`: the key of the signature; empty when there is none.
    pub secret: String,
    /// `format`
    pub format: WebhookFormat,
    /// `allow_private`: addresses that are not of the public internet are meant.
    pub allow_private: bool,
}

/// `format` of a webhook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookFormat {
    /// The event as a JSON object.
    #[default]
    Generic,
    /// A Slack message.
    Slack,
}

impl std::fmt::Debug for WebhookConfig {
    /// Secret and path are left out.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WebhookConfig")
            .field("name", &self.name)
            .field("host", &self.url.host_str())
            .field("format", &self.format)
            .field("allow_private", &self.allow_private)
            .finish_non_exhaustive()
    }
}

/// `[upstreams.NAME]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// `command`, `env`, `cwd` or `url`, `headers`.
    pub transport: Transport,
    /// `auth`: what it is shown; nothing where it is a child process.
    pub auth: UpstreamAuth,
    /// `timeout` of one call.
    pub timeout: Duration,
    /// `concurrency`: calls under way at once.
    pub concurrency: usize,
    /// `queue`: calls that may wait for a place.
    pub queue: usize,
    /// `refresh`: how often the list of tools is asked for again.
    pub refresh: Duration,
    /// `max_result`: bytes of one answer.
    pub max_result: usize,
    /// `labels`: labels of the upstream's data, `resource.labels` in grants.
    pub labels: Vec<String>,
}

/// How an upstream is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum Transport {
    /// A child process that speaks MCP on its standard input and output.
    Stdio {
        /// Program and arguments.
        command: Vec<String>,
        /// Variables it gets besides PATH, HOME and the locale.
        env: BTreeMap<String, String>,
        /// Working folder.
        cwd: Option<PathBuf>,
    },
    /// Streamable HTTP.
    Http {
        /// The MCP endpoint.
        url: String,
        /// Headers sent with every request; they may hold secrets.
        headers: BTreeMap<String, String>,
    },
}

impl std::fmt::Debug for Transport {
    /// Values of variables and headers are left out: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stdio { command, env, cwd } => f
                .debug_struct("Stdio")
                .field("command", &command.first())
                .field("env", &env.keys().collect::<Vec<_>>())
                .field("cwd", cwd)
                .finish_non_exhaustive(),
            Self::Http { url, headers } => {
                // what stands behind `?` may be a key
                let address = url.split(['?', '#']).next().unwrap_or_default();
                f.debug_struct("Http")
                    .field("url", &address)
                    .field("headers", &headers.keys().collect::<Vec<_>>())
                    .finish()
            }
        }
    }
}
