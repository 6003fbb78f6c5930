//! A bounded number of connections, each with a bounded time for its headers, all ended with their server.

use std::{convert::Infallible, io, time::Duration};

use axum::{Router, body::Body};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    sync::watch,
    task::JoinSet,
};
use tower::ServiceExt;

use crate::listen::{self, Listener};

/// How long requests under way have once the server stops.
const GRACE: Duration = Duration::from_secs(5);

/// Something that connections come in by.
pub(crate) trait Accept: Send {
    /// What one connection begins as.
    type Arrival: Send + 'static;
    /// One connection.
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection that is let in.
    fn next(&self) -> impl Future<Output = io::Result<Self::Arrival>> + Send;

    /// Makes it one that can be spoken on; here a peer may take its time.
    fn open(arrival: Self::Arrival) -> impl Future<Output = io::Result<Self::Connection>> + Send;
}

impl Accept for Listener {
    type Arrival = listen::Arrival;
    type Connection = listen::Stream;

    async fn next(&self) -> io::Result<Self::Arrival> {
        self.accept().await
    }

    fn open(arrival: Self::Arrival) -> impl Future<Output = io::Result<Self::Connection>> + Send {
        arrival.open()
    }
}

impl Accept for UnixListener {
    type Arrival = tokio::net::UnixStream;
    type Connection = tokio::net::UnixStream;

    /// Lets in the account that this process runs as, and root, who could be that account anyway.
    async fn next(&self) -> io::Result<Self::Arrival> {
        loop {
            let (stream, _) = self.accept().await?;
            let peer = stream.peer_cred().map(|peer| peer.uid());
            let own = rustix::process::geteuid().as_raw();
            if peer.is_ok_and(|peer| peer == own || peer == 0) {
                return Ok(stream);
            }
            tracing::warn!("another account tried the control socket");
        }
    }

    async fn open(arrival: Self::Arrival) -> io::Result<Self::Connection> {
        Ok(arrival)
    }
}

/// Serves HTTP/1.1 until `shutdown` turns true (or its sender is gone), at most `most` connections at once;
/// further ones wait to be accepted.
pub(crate) async fn serve_connections<A: Accept + 'static>(
    listener: A,
    routes: Router,
    most: usize,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let stopping = shutdown.clone();
    let stopped = async move {
        let _sender_gone = shutdown.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.next(), if connections.len() < most => match accepted {
                Ok(arrival) => {
                    connections.spawn(serve_one::<A>(arrival, routes.clone(), stopping.clone()));
                }
                Err(error) => {
                    // out of descriptors, most likely: others have to end first
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    // connections that outlast the grace are dropped with the set
    let _in_time = tokio::time::timeout(GRACE, ended).await;
}

async fn serve_one<A: Accept>(arrival: A::Arrival, routes: Router, mut shutdown: watch::Receiver<bool>) {
    let opened = tokio::select! {
        opened = A::open(arrival) => opened,
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    let stream = match opened {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "a handshake failed");
            return;
        }
    };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let routes = routes.clone();
        async move {
            match routes.oneshot(request.map(Body::new)).await {
                Ok(response) => Ok::<_, Infallible>(response),
                Err(never) => match never {},
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .max_headers(64)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), service)
        // a connection that changes to another protocol is its handler's from then on, and its count
        .with_upgrades();
    let stopped = async move {
        let _sender_gone = shutdown.wait_for(|stop| *stop).await;
    };
    tokio::pin!(connection);
    tokio::select! {
        // a client that breaks off is its own affair
        _ended = connection.as_mut() => {}
        () = stopped => {
            connection.as_mut().graceful_shutdown();
            let _ended = connection.await;
        }
    }
}
