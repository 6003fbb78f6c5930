//! A bounded number of connections, each with a bounded time for its headers and for what its peer does not take, all ended
//! with their server.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, http::StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    sync::watch,
    task::{AbortHandle, Id, JoinSet},
};
use tower::ServiceExt;

use super::patience::Patient;
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

/// What becomes of a further connection where there are as many as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// It waits until another ends.
    Wait,
    /// It is let in, and the one ends that asked nothing for the longest time: of those on which nobody showed a session
    /// when they asked last, else of all.
    EndTheQuietest,
}

/// How one connection stands among the others. A request has it in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Standing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The newest request of all connections, and of this one.
    newest: Arc<AtomicU64>,
    last: AtomicU64,
    known: AtomicBool,
}

impl Standing {
    fn new(newest: &Arc<AtomicU64>) -> Self {
        let standing = Inner { newest: Arc::clone(newest), last: AtomicU64::default(), known: AtomicBool::default() };
        let standing = Self(Arc::new(standing));
        standing.asks();
        standing
    }

    fn asks(&self) {
        self.0.last.store(self.0.newest.fetch_add(1, Relaxed), Relaxed);
    }

    /// Whether whoever asks has shown that they are somebody.
    pub(super) fn is_known(&self, known: bool) {
        self.0.known.store(known, Relaxed);
    }

    fn rank(&self) -> (bool, u64) {
        (self.0.known.load(Relaxed), self.0.last.load(Relaxed))
    }
}

/// Serves HTTP/1.1 until `shutdown` turns true (or its sender is gone), at most `most` connections at once.
pub(crate) async fn serve_connections<A: Accept + 'static>(
    listener: A,
    routes: Router,
    (most, full): (usize, WhenFull),
    mut shutdown: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut standings: HashMap<Id, (Standing, AbortHandle)> = HashMap::new();
    let newest = Arc::default();
    let stopping = shutdown.clone();
    let stopped = async move {
        let _sender_gone = shutdown.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                standings.remove(&id);
            }
            accepted = listener.next(), if connections.len() < most || full == WhenFull::EndTheQuietest => match accepted {
                Ok(arrival) => {
                    while connections.len() >= most {
                        if let Some((_, ends)) = standings.values().min_by_key(|(standing, _)| standing.rank()) {
                            ends.abort();
                        }
                        let Some(ended) = connections.join_next_with_id().await else { break };
                        let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                        standings.remove(&id);
                    }
                    let standing = Standing::new(&newest);
                    let serves = serve_one::<A>(arrival, routes.clone(), standing.clone(), stopping.clone());
                    let ends = connections.spawn(serves);
                    standings.insert(ends.id(), (standing, ends));
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

async fn serve_one<A: Accept>(
    arrival: A::Arrival,
    routes: Router,
    standing: Standing,
    mut shutdown: watch::Receiver<bool>,
) {
    let opened = tokio::select! {
        opened = A::open(arrival) => opened,
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    let is_pipe = Arc::new(AtomicBool::default());
    let stream = match opened {
        Ok(stream) => Patient::new(stream, Arc::clone(&is_pipe)),
        Err(error) => {
            tracing::debug!(%error, "a handshake failed");
            return;
        }
    };
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        standing.asks();
        request.extensions_mut().insert(standing.clone());
        let (routes, is_pipe) = (routes.clone(), Arc::clone(&is_pipe));
        async move {
            match routes.oneshot(request.map(Body::new)).await {
                Ok(response) => {
                    is_pipe.store(response.status() == StatusCode::SWITCHING_PROTOCOLS, Relaxed);
                    Ok::<_, Infallible>(response)
                }
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

#[cfg(test)]
mod tests {
    use axum::{
        Extension,
        http::HeaderMap,
        routing::{get, post},
    };
    use bytes::Bytes;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::{Mutex, mpsc},
        time::Instant,
    };

    use super::*;

    /// Connections that a test makes itself.
    struct Door(Mutex<mpsc::Receiver<DuplexStream>>);

    impl Accept for Door {
        type Arrival = DuplexStream;
        type Connection = DuplexStream;

        async fn next(&self) -> io::Result<DuplexStream> {
            match self.0.lock().await.recv().await {
                Some(stream) => Ok(stream),
                None => std::future::pending().await,
            }
        }

        async fn open(arrival: DuplexStream) -> io::Result<DuplexStream> {
            Ok(arrival)
        }
    }

    struct House {
        door: mpsc::Sender<DuplexStream>,
        _runs: watch::Sender<bool>,
    }

    impl House {
        fn open(most: usize, full: WhenFull) -> Self {
            let (door, arrivals) = mpsc::channel(64);
            let (runs, shutdown) = watch::channel(false);
            let known = |Extension(standing): Extension<Standing>, headers: HeaderMap| async move {
                standing.is_known(headers.contains_key("x-known"));
                "hello"
            };
            let events = async || {
                Body::from_stream(futures_util::stream::unfold((), async |()| {
                    tokio::time::sleep(Duration::from_secs(15)).await;
                    Some((Ok::<_, Infallible>(Bytes::from_static(b":\n\n")), ()))
                }))
            };
            let routes = Router::new()
                .route("/", get(known))
                .route("/large", get(async || "x".repeat(50_000)))
                .route("/events", get(events))
                .route("/never", post(std::future::pending::<()>));
            tokio::spawn(serve_connections(Door(Mutex::new(arrivals)), routes, (most, full), shutdown));
            Self { door, _runs: runs }
        }

        async fn connect(&self) -> DuplexStream {
            let (ours, theirs) = duplex(4_096);
            self.door.send(theirs).await.unwrap();
            ours
        }
    }

    /// Sends a request; the status, once it is there.
    async fn ask(stream: &mut DuplexStream, more: &str) -> String {
        stream.write_all(format!("GET / HTTP/1.1\r\nhost: x\r\n{more}\r\n").as_bytes()).await.unwrap();
        let mut head = vec![0; 4_096];
        let mut read = 0;
        while !head[..read].ends_with(b"hello") {
            read += stream.read(&mut head[read..]).await.unwrap();
        }
        String::from_utf8_lossy(&head[9..12]).into_owned()
    }

    /// Waits until the other side is gone.
    async fn gone(mut stream: DuplexStream) {
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_never_reads_has_the_connection_for_half_a_minute() {
        let house = House::open(1, WhenFull::Wait);
        let mut deaf = house.connect().await;
        let began = Instant::now();
        let asked = async {
            // until nothing more is taken
            while deaf.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n").await.is_ok() {}
        };
        asked.await;
        assert_eq!(began.elapsed().as_secs(), 30);
        let mut next = house.connect().await;
        assert_eq!(ask(&mut next, "").await, "200");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_events_that_is_read_goes_on() {
        let house = House::open(1, WhenFull::Wait);
        let mut stream = house.connect().await;
        stream.write_all(b"GET /events HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let began = Instant::now();
        let mut some = [0; 512];
        while began.elapsed() < Duration::from_secs(3_600) {
            assert_ne!(stream.read(&mut some).await.unwrap(), 0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_places_are_taken_strangers_make_room_and_who_is_known_stays() {
        let house = House::open(4, WhenFull::EndTheQuietest);
        let mut known = house.connect().await;
        assert_eq!(ask(&mut known, "x-known: yes\r\n").await, "200");
        let mut busy = house.connect().await;
        busy.write_all(b"POST /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut slow = house.connect().await;
        slow.write_all(b"GET / HT").await.unwrap();
        let mut last = house.connect().await;
        assert_eq!(ask(&mut last, "").await, "200");
        let mut lates = Vec::new();
        for _ in 0..3 {
            let mut late = house.connect().await;
            assert_eq!(ask(&mut late, "").await, "200");
            assert_eq!(ask(&mut last, "").await, "200", "it has asked since");
            lates.push(late);
        }
        gone(busy).await;
        gone(slow).await;
        assert_eq!(ask(&mut known, "").await, "200");
        // who shows nothing any more is a stranger again
        for _ in 0..4 {
            let mut late = house.connect().await;
            assert_eq!(ask(&mut late, "").await, "200");
            lates.push(late);
        }
        gone(known).await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_is_known_cannot_keep_the_others_out() {
        let house = House::open(2, WhenFull::EndTheQuietest);
        let (mut first, mut second) = (house.connect().await, house.connect().await);
        for stream in [&mut first, &mut second] {
            assert_eq!(ask(stream, "x-known: yes\r\n").await, "200");
        }
        let mut third = house.connect().await;
        assert_eq!(ask(&mut third, "").await, "200");
        gone(first).await;
        assert_eq!(ask(&mut second, "x-known: yes\r\n").await, "200");
    }
}
