//! One house: everything that a call meets, put together from files and taken apart again.

use std::sync::Arc;

use crate::{
    call::Fault,
    clock::Clock,
    config::Config,
    contract::{
        Catalog, Quarantined, UpstreamName,
        file::{self, Contract},
    },
    grant::{ConfigError, Grants, Source},
    pipeline::Pipeline,
};

/// A house, open or running.
#[derive(Debug)]
pub struct House {
    /// The road and all that calls meet on it.
    pub pipeline: Arc<Pipeline>,
    /// What the configuration says.
    pub config: Arc<Config>,
}

/// Why a house cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// Files that an operator has to correct.
    Config(Vec<ConfigError>),
    /// Something of ours that failed.
    Fault(Fault),
}

/// What `tool register` did with one tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Whose tool.
    pub upstream: UpstreamName,
    /// The name the upstream gives it.
    pub tool: String,
    /// What was done.
    pub result: Registration,
}

/// See [`Registered`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registration {
    /// A contract was written.
    New {
        /// Its impact, as proposed.
        impact: Vec<&'static str>,
    },
    /// The contract is there already and fits.
    Unchanged,
    /// The contract is there and the definition is another: `tool review`, then `tool accept`.
    Changed,
    /// It cannot be registered: why.
    Refused(String),
}

/// One tool that is not offered, for a person to look at.
#[derive(Clone, Debug, PartialEq)]
pub struct Review {
    /// Whose tool.
    pub upstream: UpstreamName,
    /// The name the upstream gives it.
    pub tool: String,
    /// Why it is not offered, a short stable code.
    pub why: &'static str,
    /// More, for a person.
    pub detail: String,
    /// The difference between the contract's definition and the advertised one, rendered for a terminal.
    pub difference: Option<String>,
}

impl House {
    /// Opens the ledger, reads keys, contracts and grants.
    ///
    /// # Errors
    /// Every error in files at once, or the fault.
    pub fn open(_config: Config, _clock: Clock) -> Result<Self, OpenError> {
        Err(OpenError::Fault(Fault("not yet".to_owned())))
    }

    /// Connects the upstreams and watches the files, until [`House::stop`].
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn start(&self) -> Result<(), Fault> {
        Ok(())
    }

    /// Reads contracts and grants again.
    ///
    /// # Errors
    /// Every error at once; the old ones stay.
    pub async fn reload(&self) -> Result<(), Vec<ConfigError>> {
        Ok(())
    }

    /// Asks upstreams for their tools and writes a contract for each that has none.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn register(&self, _only: Option<&UpstreamName>) -> Result<Vec<Registered>, Fault> {
        Ok(Vec::new())
    }

    /// Takes the definition advertised now as the contract.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn accept(&self, _upstream: &UpstreamName, tool: &str) -> Result<(), Fault> {
        Err(Fault(format!("there is nothing to accept for `{tool}`")))
    }

    /// What is not offered and why.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn review(&self) -> Result<Vec<Review>, Fault> {
        Ok(Vec::new())
    }

    /// Lets calls in flight end, stops upstreams and watchers, and closes the ledger.
    pub async fn stop(&self, _why: &str) {}
}

/// Checks contracts and grants without opening anything.
///
/// # Errors
/// Every error in the grants at once.
pub fn compile(
    config: &Config,
    contracts: &[Result<Contract, Quarantined>],
) -> Result<(Catalog, Grants), Vec<ConfigError>> {
    let unasked = config.upstreams.keys().map(|name| (name.clone(), None)).collect();
    let catalog = Catalog::new(contracts, &unasked);
    let grants = Grants::compile(&read_grants(&config.folder)?, &catalog)?;
    Ok((catalog, grants))
}

/// Reads the contracts below the configuration's folder.
///
/// # Errors
/// When the folder is there and cannot be listed.
pub fn read_contracts(folder: &std::path::Path) -> Result<Vec<Result<Contract, Quarantined>>, OpenError> {
    file::read_all(&folder.join("schemas")).map_err(|error| OpenError::Fault(Fault(error.to_string())))
}

/// Reads `grants/*.cedar`.
///
/// # Errors
/// Every file that cannot be read.
pub fn read_grants(_folder: &std::path::Path) -> Result<Vec<Source>, Vec<ConfigError>> {
    Ok(Vec::new())
}

/// A stable code for a quarantine, and a sentence for a person.
pub fn why_code(why: &crate::contract::Quarantine) -> (&'static str, String) {
    use crate::contract::Quarantine;
    match why {
        Quarantine::Changed { .. } => ("changed", "the definition changed".to_owned()),
        Quarantine::Unregistered => ("unregistered", "nobody registered it".to_owned()),
        Quarantine::Gone => ("gone", "the upstream advertises it no more".to_owned()),
        Quarantine::Schema(why) => ("schema", why.clone()),
        Quarantine::File(why) => ("file", why.clone()),
    }
}

/// Serves `/mcp` until `shutdown` turns true.
///
/// # Errors
/// [`Fault`].
pub async fn serve_agents(
    _house: Arc<House>,
    _listener: tokio::net::TcpListener,
    mut shutdown: tokio::sync::watch::Receiver<bool>,
) -> Result<(), Fault> {
    let _ended = shutdown.wait_for(|stop| *stop).await;
    Ok(())
}

/// Serves one agent on standard input and output, until the input ends or `shutdown` turns true.
///
/// # Errors
/// [`Fault`].
pub async fn serve_stdio(
    _house: Arc<House>,
    _who: crate::call::Identified,
    mut shutdown: tokio::sync::watch::Receiver<bool>,
) -> Result<(), Fault> {
    let _ended = shutdown.wait_for(|stop| *stop).await;
    Ok(())
}
