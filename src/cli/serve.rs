//! `serve`: opens the doors of a house and closes them again.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::Instant,
};

use super::{
    attach,
    control::{self, Room},
    outcome::{Exit, Failure},
};
use crate::{
    clock::Clock,
    config::Config,
    http,
    listen::{Certificate, Listener},
    mcp,
    server::{House, OpenError},
};

/// How long an agent waits for whoever has the store to open its socket or to end.
const ATTACH: Duration = Duration::from_secs(20);
/// How long a server waits for a command that has the store to end.
const STORE: Duration = Duration::from_secs(3);
/// When it looks again.
const AGAIN: Duration = Duration::from_millis(50);

/// Serves HTTP until a signal or `stop` ends it. `ready` is told once every door is open.
pub(super) async fn serve(
    mut config: Config,
    ready: impl AsyncFnOnce(&House) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    // the real ports are known before tokens are, as the endpoint is their audience
    let agents = listen(&mut config.server.listen).await?;
    let console = listen(&mut config.console.listen).await?;
    let (agents, console, certificates) = doors(&config, agents, console)?;
    let house = Arc::new(open(config, STORE).await?);
    if let Some(authorities) = house.workloads.authorities()
        && let Err(error) = agents.ask(authorities)
    {
        house.stop("failed").await;
        return Err(not_opened(OpenError::Config(vec![error])));
    }
    house.keep_certificates(certificates);
    let control = match control::bind(&house.config) {
        Ok(control) => control,
        Err(failure) => {
            house.stop("failed").await;
            return Err(failure);
        }
    };
    house.pipeline.metrics.started(house.pipeline.clock.now());
    if let Err(fault) = house.start().await {
        house.stop("failed").await;
        return Err(fault.into());
    }
    let (stop, stopped) = watch::channel(false);
    // doors that reach calls close first; the operators' stay open while calls drain
    let (close, closed) = watch::channel(false);
    let mut doors = JoinSet::new();
    doors.spawn(mcp::http::serve(
        agents,
        Arc::clone(&house.pipeline),
        mcp::http::Settings::new(&house.config.server, house.session_key),
        stopped.clone(),
    ));
    let mut operators = JoinSet::new();
    operators.spawn(http::serve(
        console,
        house.config.console.clone(),
        Arc::clone(&house.pipeline),
        house.config.data.clone(),
        closed.clone(),
    ));
    let (entrance, arriving) = attach::entrance();
    doors.spawn(attach::serve(arriving, Arc::clone(&house), stopped.clone()));
    let room = Room { house: Arc::clone(&house), stop: stop.clone(), entrance, http: true };
    operators.spawn(async move {
        control::serve(control, room, closed).await;
        Ok(())
    });
    tracing::info!(mcp = house.config.endpoint(), console = house.config.console_url(), "serving");
    let announced = ready(&house).await;
    let why = match &announced {
        Ok(()) => wait(&house, stopped, &mut doors).await,
        Err(_) => Ended::Broken,
    };
    tracing::info!(why = why.word(), "draining");
    stop.send_replace(true);
    take_apart(&house, why, doors, close, operators).await;
    announced?;
    Ok(if matches!(why, Ended::Broken) { Exit::Fault } else { Exit::Done })
}

/// Serves one agent on standard input and output: through the server that runs on this data folder, or, where
/// there is none, as the server that other agents and commands reach.
pub(super) async fn stdio(config: Config, agent: &str) -> Result<Exit, Failure> {
    let deadline = Instant::now() + ATTACH;
    let house = loop {
        if let Some(stream) = attach::attach(&config, agent).await? {
            return attach::pipe(stream).await;
        }
        match House::open(config.clone(), Clock::System) {
            Ok(house) => break Arc::new(house),
            // whoever has the store opens its socket soon, or is a command that ends soon
            Err(OpenError::InUse(_)) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
            Err(error) => return Err(not_opened(error)),
        }
    };
    let agent = match house.pipeline.identity.named(agent) {
        Ok(agent) => agent,
        Err(fault) => {
            house.stop("failed").await;
            return Err(Failure::new(Exit::Cannot, fault.0));
        }
    };
    let control = match control::bind(&house.config) {
        Ok(control) => control,
        Err(failure) => {
            house.stop("failed").await;
            return Err(failure);
        }
    };
    if let Err(fault) = house.start().await {
        house.stop("failed").await;
        return Err(fault.into());
    }
    let (stop, stopped) = watch::channel(false);
    let (close, closed) = watch::channel(false);
    let (entrance, arriving) = attach::entrance();
    let mut operators = JoinSet::new();
    let room = Room { house: Arc::clone(&house), stop: stop.clone(), entrance, http: false };
    operators.spawn(control::serve(control, room, closed));
    let mut doors = JoinSet::new();
    doors.spawn(attach::serve(arriving, Arc::clone(&house), stopped.clone()));
    let (own, until) = (Arc::clone(&house), stopped.clone());
    doors.spawn(async move { attach::channel(&own, agent, tokio::io::stdin(), tokio::io::stdout(), until).await });
    let why = wait(&house, stopped, &mut doors).await;
    stop.send_replace(true);
    take_apart(&house, why, doors, close, operators).await;
    Ok(if matches!(why, Ended::Broken) { Exit::Fault } else { Exit::Done })
}

/// Lets the doors, which know already that they are to stop, finish; then closes the house, and the operators' doors last.
async fn take_apart<T: 'static, U: 'static>(
    house: &House,
    why: Ended,
    mut doors: JoinSet<T>,
    close: watch::Sender<bool>,
    mut operators: JoinSet<U>,
) {
    let drained = async { while doors.join_next().await.is_some() {} };
    if tokio::time::timeout(house.config.server.drain, drained).await.is_err() {
        tracing::warn!("calls in flight did not end in time; they are settled as unknown");
    }
    doors.shutdown().await;
    house.stop(why.word()).await;
    close.send_replace(true);
    let closing = async { while operators.join_next().await.is_some() {} };
    // connections of the operators' doors have their own grace
    let _in_time = tokio::time::timeout(Duration::from_secs(6), closing).await;
}

/// Why serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Signal,
    Asked,
    /// The one client of a stdio server went away.
    Input,
    Broken,
}

impl Ended {
    fn word(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Asked => "stop",
            Self::Input => "end of input",
            Self::Broken => "failed",
        }
    }
}

/// Waits for whatever ends the server, and reads the files again at every SIGHUP.
async fn wait(
    house: &House,
    mut stopped: watch::Receiver<bool>,
    doors: &mut JoinSet<Result<(), crate::call::Fault>>,
) -> Ended {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
        tracing::error!("signals cannot be received");
        return Ended::Broken;
    };
    loop {
        tokio::select! {
            // a door that ends because it was told to is not why the server ends
            biased;
            _ = terminate.recv() => return Ended::Signal,
            _ = interrupt.recv() => return Ended::Signal,
            _ = stopped.wait_for(|stop| *stop) => return Ended::Asked,
            _ = hangup.recv() => reload(house).await,
            door = doors.join_next() => return match door {
                Some(Ok(Ok(()))) | None => Ended::Input,
                Some(Ok(Err(fault))) => {
                    tracing::error!(%fault, "the agents' door fell shut");
                    Ended::Broken
                }
                Some(Err(error)) => {
                    tracing::error!(%error, "the agents' door fell shut");
                    Ended::Broken
                }
            },
        }
    }
}

async fn reload(house: &House) {
    match house.reload_everything().await {
        Ok(()) => tracing::info!("contracts, grants and certificates were read again"),
        Err(errors) => {
            for error in &errors {
                tracing::error!(%error, "not loaded");
            }
            tracing::error!(errors = errors.len(), "the old ones stay in force");
        }
    }
}

/// Who comes in by the two sockets, and how: the agents', the console's, and the certificates that they show.
fn doors(
    config: &Config,
    agents: TcpListener,
    console: TcpListener,
) -> Result<(Listener, Listener, Vec<Arc<Certificate>>), Failure> {
    let (mut certificates, mut errors) = (Vec::new(), Vec::new());
    for files in [&config.server.tls, &config.console.tls] {
        let certificate = files.clone().map(Certificate::open).transpose();
        certificates.push(certificate.map_err(|error| errors.push(error)).ok().flatten().map(Arc::new));
    }
    if !errors.is_empty() {
        return Err(not_opened(OpenError::Config(errors)));
    }
    let mut each = certificates.iter().cloned();
    let agents = Listener::new(agents, each.next().flatten(), config.server.trusted_proxies.clone());
    let console = Listener::new(console, each.next().flatten(), config.console.trusted_proxies.clone());
    Ok((agents, console, certificates.into_iter().flatten().collect()))
}

/// Opens the house; another command that has the store for a moment is waited for.
///
/// # Errors
/// [`Failure`] when it cannot be opened, or is in use for longer than `patience`.
pub(super) async fn open(config: Config, patience: Duration) -> Result<House, Failure> {
    let deadline = Instant::now() + patience;
    loop {
        match House::open(config.clone(), Clock::System) {
            Ok(house) => return Ok(house),
            Err(OpenError::InUse(_)) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
            Err(error) => return Err(not_opened(error)),
        }
    }
}

fn not_opened(error: OpenError) -> Failure {
    if let OpenError::Config(errors) = &error {
        // a server that does not start says why in its log too
        tracing::error!(errors = errors.len(), "the files of this house have errors");
    }
    error.into()
}

async fn listen(address: &mut std::net::SocketAddr) -> Result<TcpListener, Failure> {
    let failed = |error: std::io::Error| {
        let failure = Failure::io(format!("cannot listen on {address}"), &error);
        match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                failure.hint("another server has that port: end it, or listen elsewhere (`listen` in countersign.toml, `--listen` and `--console-listen` of quickstart)")
            }
            _ => failure,
        }
    };
    let listener = TcpListener::bind(*address).await.map_err(failed)?;
    *address = listener.local_addr().map_err(failed)?;
    Ok(listener)
}
