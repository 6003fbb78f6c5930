//! The control socket: `<data>/control.sock`, for the account that runs the server and nobody else.
//!
//! One JSON [`Request`] a POST to `/ask`; the answer is what it asked for, or a [`Failure`]. `/stdio` is for agents,
//! see [`super::attach`].

use std::{
    io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

use super::{
    attach::Entrance,
    outcome::{Exit, Failure},
    request::{Request, execute},
};
use crate::{
    config::Config,
    http::{WhenFull, serve_connections},
    server::House,
};

const CONNECTIONS: usize = 32;
/// The longest request: arguments of `grant explain` are the long ones.
const LONGEST_REQUEST: usize = 8 << 20;
/// The longest answer: a page of entries of 60 KiB each.
const LONGEST_ANSWER: usize = 64 << 20;
/// How long an answer may take; asking every upstream for its tools is the slow one.
const PATIENCE: Duration = Duration::from_secs(120);
/// What fits into a socket's address on every Unix.
const LONGEST_PATH: usize = 100;

/// What those who come by the socket can reach.
pub(super) struct Room {
    /// The house they ask.
    pub(super) house: Arc<House>,
    /// Turned true by [`Request::Stop`].
    pub(super) stop: watch::Sender<bool>,
    /// Where agents come in.
    pub(super) entrance: Entrance,
    /// The HTTP doors are open too.
    pub(super) http: bool,
}

/// Opens the socket. The caller holds the store, so a socket that is there is a dead server's.
///
/// # Errors
/// [`Failure`] when it cannot be made or kept to ourselves.
pub(super) fn bind(config: &Config) -> Result<UnixListener, Failure> {
    let path = config.control_socket();
    let failed = |error: io::Error| Failure::io(format!("`{}` cannot be made", path.display()), &error);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = at_address(&path, |address| UnixListener::bind(address)).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Answers until `shutdown` turns true.
pub(super) async fn serve(listener: UnixListener, room: Room, shutdown: watch::Receiver<bool>) {
    let path = room.house.config.control_socket();
    let routes = Router::new()
        .route("/ask", post(answer))
        .route("/stdio", post(admit))
        .layer(DefaultBodyLimit::max(LONGEST_REQUEST))
        .with_state(Arc::new(room));
    serve_connections(listener, routes, (CONNECTIONS, WhenFull::Wait), shutdown).await;
    // one that stays behind is replaced at the next start
    let _left = std::fs::remove_file(path);
}

async fn answer(State(room): State<Arc<Room>>, body: Bytes) -> Response {
    let done = match serde_json::from_slice(&body) {
        Ok(Request::Stop) => {
            room.stop.send_replace(true);
            Ok(serde_json::json!({"stopping": true}))
        }
        Ok(Request::Status) => execute(&room.house, Request::Status).await.map(|mut status| {
            if let (false, Some(status)) = (room.http, status.as_object_mut()) {
                // a server on standard input and output listens nowhere
                status.insert("mcp".to_owned(), Value::Null);
                status.insert("console".to_owned(), Value::Null);
            }
            status
        }),
        Ok(request) => execute(&room.house, request).await,
        // a CLI of another version, most likely
        Err(_) => Err(Failure::new(Exit::Cannot, "the server does not know this request")
            .hint("use the `countersign` of the server's own version")),
    };
    match done {
        Ok(value) => told(StatusCode::OK, &value),
        Err(failure) => refused(&failure),
    }
}

async fn admit(State(room): State<Arc<Room>>, request: axum::extract::Request) -> Response {
    room.entrance.admit(&room.house, request).await.unwrap_or_else(|failure| refused(&failure))
}

fn refused(failure: &Failure) -> Response {
    told(StatusCode::CONFLICT, &serde_json::to_value(failure).unwrap_or_default())
}

fn told(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// A connection to a running server.
pub(super) struct Server {
    sender: SendRequest<Full<Bytes>>,
    // ends with the connection, and with it at the latest
    _driver: JoinSet<()>,
}

/// A stream to the server that runs on the data folder; `None` when there is none.
///
/// # Errors
/// [`Failure`] when there is a socket that we may not use.
pub(super) fn dial(config: &Config) -> Result<Option<UnixStream>, Failure> {
    let path = config.control_socket();
    let stream = at_address(&path, |address| std::os::unix::net::UnixStream::connect(address));
    let stream = stream.and_then(|stream| {
        stream.set_nonblocking(true)?;
        UnixStream::from_std(stream)
    });
    match stream {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(Failure {
            exit: Exit::Unreachable,
            ..Failure::io(format!("`{}` cannot be used", path.display()), &error)
        }
        .hint("run this as the account that runs the server")),
    }
}

/// Reaches the server that runs on the data folder; `None` when there is none.
///
/// # Errors
/// [`Failure`] when there is a socket that we may not use.
pub(super) async fn connect(config: &Config) -> Result<Option<Server>, Failure> {
    let Some(stream) = dial(config)? else { return Ok(None) };
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| gone(&error))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // what goes wrong here, the request sees too
        let _ended = connection.await;
    });
    Ok(Some(Server { sender, _driver: driver }))
}

impl Server {
    /// Asks one thing.
    ///
    /// # Errors
    /// The server's [`Failure`], or that it does not answer.
    pub(super) async fn ask(&mut self, request: &Request) -> Result<Value, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| Failure::new(Exit::Fault, error.to_string()))?;
        let request = hyper::Request::post("/ask")
            .header(header::HOST, "countersign")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| gone(&error))?;
        let answered = async {
            // the connection has to have finished with the answer before this one
            self.sender.ready().await.map_err(|error| gone(&error))?;
            let response = self.sender.send_request(request).await.map_err(|error| gone(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| gone(error.as_ref()))?.to_bytes();
            Ok::<_, Failure>((status, body))
        };
        let (status, body) = tokio::time::timeout(PATIENCE, answered)
            .await
            .map_err(|_| Failure::new(Exit::Unreachable, "the server did not answer within two minutes"))??;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|error| gone(&error));
        }
        let unreadable = || Failure::new(Exit::Unreachable, format!("the server answered {status}"));
        Err(serde_json::from_slice(&body).unwrap_or_else(|_| unreadable()))
    }
}

/// The server ended before it answered.
pub(super) fn gone(error: &dyn std::error::Error) -> Failure {
    Failure::new(Exit::Unreachable, format!("the server broke off: {error}"))
}

/// Uses a socket's path, by way of its open folder where the path is too long for a socket's address.
fn at_address<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= LONGEST_PATH {
        return act(path);
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let folder = std::fs::File::open(folder)?;
    act(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name))
}
