//! `countersign.toml`.

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
    /// `[upstreams.NAME]`.
    pub upstreams: BTreeMap<UpstreamName, UpstreamConfig>,
}

/// `[server]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `listen`: address of `/mcp`.
    pub listen: SocketAddr,
    /// `url`: the address agents know the server by, when it is not `http://<listen>`; the token audience.
    pub url: Option<String>,
    /// `behind_proxy`: something in front ends TLS.
    pub behind_proxy: bool,
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
    /// `allowed_hosts`
    pub allowed_hosts: Vec<String>,
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
}

/// `[upstreams.NAME]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// `command`, `env`, `cwd` or `url`, `headers`.
    pub transport: Transport,
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
                f.debug_struct("Http").field("url", url).field("headers", &headers.keys().collect::<Vec<_>>()).finish()
            }
        }
    }
}
