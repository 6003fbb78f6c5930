//! Where connections come in: who may connect, and TLS.
//!
//! Accepting is quick. What takes a peer's time, its handshake, is done by whoever serves the connection: it has a
//! deadline, and only so many are under way at once.
//!
//! Agents may show a certificate of their own ([`ClientCertificate`]): it is asked for, never demanded, and one that no
//! [`Authority`] vouches for ends the handshake.

mod authorities;
mod certificate;
mod client;
mod facts;
mod watched;

pub use authorities::{Authorities, Authority, NotVouched};
pub use certificate::Certificate;
pub use client::{ClientCertificate, Fallen};
pub(crate) use watched::{Watched, bounded, stopped};

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::either::Either;

use crate::{config::Network, grant::ConfigError};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way at once on one listener; further connections wait to be accepted.
const HANDSHAKES: usize = 256;
/// How often it is logged that others than the trusted proxies tried to connect.
const TOLD: Duration = Duration::from_secs(60);

/// What is told to who speaks HTTP where TLS is spoken.
const PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 40\r\nconnection: close\r\n\r\n\
TLS is spoken here: use https, not http\n";

/// A connection, with TLS or without.
pub type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A listening socket, and who may come in by it.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    /// The same port of the other address that `localhost` stands for.
    twin: Option<TcpListener>,
    /// Empty: anybody may connect.
    trusted: Vec<Network>,
    tls: Option<Tls>,
    turned_away: Mutex<TurnedAway>,
}

#[derive(Debug)]
struct Tls {
    certificate: Arc<Certificate>,
    handshakes: Arc<Semaphore>,
    patience: Duration,
}

/// Others than the trusted proxies.
#[derive(Debug, Default)]
struct TurnedAway {
    told: Option<Instant>,
    since: u64,
}

impl From<TcpListener> for Listener {
    /// Without TLS, and open to whoever reaches it.
    fn from(tcp: TcpListener) -> Self {
        Self::new(tcp, None, Vec::new())
    }
}

impl Listener {
    /// `trusted` may connect, or anybody if there is none; TLS is spoken where there is a certificate.
    pub fn new(tcp: TcpListener, certificate: Option<Arc<Certificate>>, trusted: Vec<Network>) -> Self {
        let tls = certificate.map(|certificate| Tls {
            certificate,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            patience: HANDSHAKE,
        });
        Self { tcp, twin: None, trusted, tls, turned_away: Mutex::default() }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Has this listener answer at both addresses that `localhost` stands for, where it listens at one of them: browsers
    /// ask either, and another program at the other one would have our origin. A machine that knows one of the two only
    /// is as safe.
    ///
    /// # Errors
    /// When another program is there already.
    pub(crate) async fn take_localhost(&mut self) -> io::Result<()> {
        let bound = self.tcp.local_addr()?;
        let other: IpAddr = match bound.ip() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.into(),
            _ => return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "it listens elsewhere")),
        };
        match TcpListener::bind((other, bound.port())).await {
            Ok(twin) => self.twin = Some(twin),
            Err(error) if nobody_has(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// From now on whoever connects by TLS is asked for a certificate, for which `authorities` have to vouch. Nobody has to
    /// show one.
    ///
    /// # Errors
    /// What is wrong with the files of this listener's own certificate.
    pub fn ask(&self, authorities: &Arc<Authorities>) -> Result<(), ConfigError> {
        self.tls.as_ref().map_or(Ok(()), |tls| tls.certificate.ask(Arc::clone(authorities)))
    }

    /// What its URLs begin with.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The next connection that may be made. Can be dropped at any moment, and nothing is lost.
    pub(crate) async fn accept(&self) -> io::Result<Arrival> {
        let place = match &self.tls {
            Some(tls) => Some(Arc::clone(&tls.handshakes).acquire_owned().await.map_err(io::Error::other)?),
            None => None,
        };
        loop {
            let (tcp, peer) = match &self.twin {
                None => self.tcp.accept().await?,
                Some(twin) => tokio::select! {
                    accepted = self.tcp.accept() => accepted?,
                    accepted = twin.accept() => accepted?,
                },
            };
            if self.lets_in(peer.ip()) {
                let _only_slower_without = tcp.set_nodelay(true);
                let tls = self.tls.as_ref().zip(place).map(|(tls, place)| Handshake {
                    acceptor: TlsAcceptor::from(tls.certificate.current()),
                    asks: tls.certificate.asks().cloned(),
                    place,
                    patience: tls.patience,
                });
                return Ok(Arrival { tcp, tls });
            }
        }
    }

    fn lets_in(&self, peer: IpAddr) -> bool {
        if self.trusted.is_empty() || self.trusted.iter().any(|network| network.contains(peer)) {
            return true;
        }
        let mut turned_away = self.turned_away.lock().unwrap_or_else(PoisonError::into_inner);
        turned_away.since = turned_away.since.saturating_add(1);
        if turned_away.told.is_none_or(|told| told.elapsed() > TOLD) {
            let connections = turned_away.since;
            *turned_away = TurnedAway { told: Some(Instant::now()), since: 0 };
            tracing::warn!(%peer, connections, "somebody else than `trusted_proxies` tried to connect, and was not let in");
        }
        false
    }
}

/// A connection that was accepted; with TLS, its handshake is still to come.
pub(crate) struct Arrival {
    tcp: TcpStream,
    tls: Option<Handshake>,
}

struct Handshake {
    acceptor: TlsAcceptor,
    asks: Option<Arc<Authorities>>,
    place: OwnedSemaphorePermit,
    patience: Duration,
}

impl Arrival {
    /// Makes it one that can be spoken on.
    ///
    /// # Errors
    /// When the handshake fails or takes too long.
    pub(crate) async fn open(self) -> io::Result<Stream> {
        self.meet().await.map(|(stream, _)| stream)
    }

    /// The same, with the certificate that whoever connected showed.
    ///
    /// # Errors
    /// As [`Arrival::open`]; a certificate for which nobody vouches fails the handshake.
    pub(crate) async fn meet(self) -> io::Result<(Stream, Option<Arc<ClientCertificate>>)> {
        let Some(Handshake { acceptor, asks, place, patience }) = self.tls else {
            return Ok((Either::Left(self.tcp), None));
        };
        let opened = timeout(patience, shake(acceptor, self.tcp)).await;
        drop(place);
        let stream = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        let shown = match (&asks, stream.get_ref().1.peer_certificates()) {
            (Some(authorities), Some(chain)) => {
                let certificate = ClientCertificate::of(authorities, chain).map_err(io::Error::other)?;
                Some(Arc::new(certificate))
            }
            _ => None,
        };
        Ok((Either::Right(Box::new(stream)), shown))
    }
}

async fn shake(acceptor: TlsAcceptor, mut tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    // a record of TLS begins with 22, and a method of HTTP with a letter
    if tcp.peek(&mut first).await? == 1 && first.first().is_some_and(u8::is_ascii_uppercase) {
        tcp.write_all(PLAIN).await?;
        tcp.shutdown().await?;
        // closing while something is unread would take the answer back
        let mut rest = tcp.take(16 << 10);
        let _read_away = tokio::io::copy(&mut rest, &mut tokio::io::sink()).await;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is HTTP without TLS"));
    }
    acceptor.accept(tcp).await
}

/// Whether a handshake failed because nobody vouches for the certificate that was shown.
pub(crate) fn is_distrust(problem: &io::Error) -> bool {
    problem.get_ref().is_some_and(|inner| {
        matches!(inner.downcast_ref(), Some(tokio_rustls::rustls::Error::InvalidCertificate(_)))
            || inner.downcast_ref::<NotVouched>().is_some()
    })
}

/// Whether an address cannot be listened on because this machine has it not.
fn nobody_has(error: &io::Error) -> bool {
    let unsupported = error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error());
    unsupported || error.kind() == io::ErrorKind::AddrNotAvailable
}

#[cfg(test)]
#[expect(dead_code, reason = "the tests of the doors, which share it, say more with it")]
#[path = "../../tests/it/signer.rs"]
pub(crate) mod signer;

#[cfg(test)]
mod tests;
