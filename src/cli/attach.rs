//! Agents beside a running server. A store has one owner, so `serve --stdio` becomes a pipe when a server runs.
//!
//! The pipe asks on the control socket, by `POST /stdio` with `Upgrade: countersign-stdio` and `{"agent": NAME}`, to
//! be that agent. After the 101 the connection carries what standard input and output carry otherwise: one
//! JSON-RPC message a line, until either end closes it.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    client::conn::http1::handshake,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncWriteExt, copy, split},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use super::{
    control::{dial, gone},
    outcome::{Exit, Failure},
};
use crate::{
    call::{Fault, Identified},
    config::Config,
    mcp,
    server::House,
};

/// Agents attached at once.
const ATTACHED: usize = 64;
/// Requests of one agent that may be under way at once.
const REQUESTS: usize = 64;
/// What the connection changes to.
const PROTOCOL: &str = "countersign-stdio";
/// How long either end has to answer before the connection is a pipe.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request and the longest refusal.
const LONGEST: usize = 64 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Who {
    agent: String,
}

/// Where agents come in: the control socket's side.
#[derive(Debug)]
pub(super) struct Entrance {
    arrivals: mpsc::Sender<Arrival>,
    places: Arc<Semaphore>,
}

/// An agent that was let in.
#[derive(Debug)]
pub(super) struct Arrival {
    agent: Identified,
    upgrade: OnUpgrade,
    _place: OwnedSemaphorePermit,
}

/// An entrance, and what [`serve`] takes from it.
pub(super) fn entrance() -> (Entrance, mpsc::Receiver<Arrival>) {
    let (arrivals, arriving) = mpsc::channel(ATTACHED);
    (Entrance { arrivals, places: Arc::new(Semaphore::new(ATTACHED)) }, arriving)
}

impl Entrance {
    /// Answers 101 and passes the connection on, or says why not.
    ///
    /// # Errors
    /// [`Failure`] for a bad name, and when there is no place. A server that stops answers 503.
    pub(super) async fn admit(&self, house: &House, request: axum::extract::Request) -> Result<Response, Failure> {
        let (mut head, body) = request.into_parts();
        let asked = head.headers.get(header::UPGRADE).is_some_and(|asked| asked == PROTOCOL);
        let body = to_bytes(body, LONGEST).await.unwrap_or_default();
        let who = serde_json::from_slice::<Who>(&body).ok().filter(|_| asked);
        // a CLI of another version, most likely
        let who = who.ok_or_else(|| {
            Failure::new(Exit::Cannot, "the server does not know this request")
                .hint("use the `countersign` of the server's own version")
        })?;
        let named = house.pipeline.identity.named(&who.agent);
        let agent = named.map_err(|fault| Failure::new(Exit::Cannot, fault.0))?;
        let Some(upgrade) = head.extensions.remove::<OnUpgrade>() else {
            return Err(Failure::new(Exit::Fault, "this connection cannot become a pipe"));
        };
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            Failure::new(Exit::Cannot, format!("{ATTACHED} agents are attached to this server already"))
                .hint("end one of them, or have agents use the server's HTTP endpoint")
        })?;
        let arrival = Arrival { agent, upgrade, _place: place };
        if self.arrivals.try_send(arrival).is_err() {
            return Ok(StatusCode::SERVICE_UNAVAILABLE.into_response());
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static(PROTOCOL));
        Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
    }
}

/// Serves every agent that arrives, until `stop` turns true; requests under way may then finish for as long as
/// the configuration says.
///
/// # Errors
/// None; what ends one agent's channel is that agent's affair.
pub(super) async fn serve(
    mut arriving: mpsc::Receiver<Arrival>,
    house: Arc<House>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), Fault> {
    let mut agents = JoinSet::new();
    let each = stop.clone();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_ended) = agents.join_next() => {}
            Some(arrival) = arriving.recv() => {
                agents.spawn(one(arrival, Arc::clone(&house), each.clone()));
            }
        }
    }
    drop(arriving);
    while agents.join_next().await.is_some() {}
    Ok(())
}

async fn one(arrival: Arrival, house: Arc<House>, stop: watch::Receiver<bool>) {
    let Arrival { agent, upgrade, _place } = arrival;
    let Ok(Ok(stream)) = timeout(PATIENCE, upgrade).await else { return };
    let name = agent.principal().agent.clone();
    tracing::info!(agent = name, "an agent is attached");
    let (input, output) = split(TokioIo::new(stream));
    if let Err(fault) = channel(&house, agent, input, output, stop).await {
        tracing::warn!(agent = name, %fault, "an attached agent's channel broke");
    }
}

/// Speaks MCP with one agent, known by its name alone: whoever started it may use this house's files.
///
/// # Errors
/// [`Fault`] when it cannot begin, or the output is gone.
pub(super) async fn channel<I, O>(
    house: &House,
    agent: Identified,
    input: I,
    output: O,
    stop: watch::Receiver<bool>,
) -> Result<(), Fault>
where
    I: tokio::io::AsyncRead + Unpin,
    O: tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let settings = mcp::stdio::Settings {
        max_line: house.config.server.max_body,
        max_requests: REQUESTS,
        drain: house.config.server.drain,
        key: house.session_key,
    };
    let pipeline = Arc::clone(&house.pipeline);
    let who = move || pipeline.identity.again(agent.principal()).ok();
    mcp::stdio::serve(Arc::clone(&house.pipeline), settings, who, input, output, stop).await
}

/// Asks the server that runs on the data folder to be `agent`; `None` when no server runs, or it stops just now.
///
/// # Errors
/// The server's [`Failure`], or that it does not answer.
pub(super) async fn attach(config: &Config, agent: &str) -> Result<Option<Upgraded>, Failure> {
    let Some(stream) = dial(config)? else { return Ok(None) };
    let body = serde_json::to_vec(&Who { agent: agent.to_owned() }).unwrap_or_default();
    let request = hyper::Request::post("/stdio")
        .header(header::HOST, "countersign")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| gone(&error))?;
    let asked = async {
        let Ok((mut sender, connection)) = handshake(TokioIo::new(stream)).await else { return Ok(None) };
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // what goes wrong here, the request sees too
            let _ended = connection.with_upgrades().await;
        });
        // a server that breaks off before it answers is one that ends
        let Ok(response) = sender.send_request(request).await else { return Ok(None) };
        match response.status() {
            StatusCode::SWITCHING_PROTOCOLS => Ok(hyper::upgrade::on(response).await.ok()),
            StatusCode::SERVICE_UNAVAILABLE => Ok(None),
            status => {
                let body =
                    Limited::new(response.into_body(), LONGEST).collect().await.map_err(|error| gone(&*error))?;
                Err(serde_json::from_slice(&body.to_bytes()).unwrap_or_else(|_| {
                    Failure::new(Exit::Unreachable, format!("the server answered {status}"))
                        .hint("use the `countersign` of the server's own version")
                }))
            }
        }
    };
    let answered = timeout(PATIENCE, asked).await;
    answered.unwrap_or_else(|_| Err(Failure::new(Exit::Unreachable, "the server did not answer in time")))
}

/// Carries standard input to the server and what it answers to standard output, until the input ends and
/// everything was answered.
///
/// # Errors
/// [`Exit::Unreachable`] when the server ends first.
pub(super) async fn pipe(stream: Upgraded) -> Result<Exit, Failure> {
    let (mut from, mut to) = split(TokioIo::new(stream));
    let asking = async {
        let mut input = tokio::io::stdin();
        copy(&mut input, &mut to).await?;
        to.shutdown().await
    };
    let answering = async {
        let mut output = tokio::io::stdout();
        copy(&mut from, &mut output).await?;
        output.flush().await
    };
    tokio::pin!(asking, answering);
    let mut asked = None;
    let answered = loop {
        tokio::select! {
            ended = &mut asking, if asked.is_none() => asked = Some(ended),
            ended = &mut answering => break ended,
        }
    };
    match (asked, answered) {
        (Some(Ok(())), Ok(())) => Ok(Exit::Done),
        (_, Err(error)) => Err(gone(&error)),
        (None | Some(Err(_)), Ok(())) => {
            Err(Failure::new(Exit::Unreachable, "the server ended this agent's connection")
                .hint("`countersign status` tells of the server; start this agent's client again when it runs"))
        }
    }
}
