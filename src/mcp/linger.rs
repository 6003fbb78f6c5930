//! A socket that is closed so that the last answer arrives, and that waits for no reader for ever.
//!
//! A client that asks and never reads what it is told would keep its connection, and the answer with it, as long
//! as it likes: so a write that makes no progress for a while breaks the connection.
//!
//! Closing a socket while bytes of the peer's are unread resets the connection, and the peer may lose what it
//! was just told: that its head is too large, or its body. So after our end is closed, what still comes is read
//! away for a moment (RFC 9112, section 9.6).

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long, and how much, is read away at most.
const MOMENT: Duration = Duration::from_secs(1);
const MOST: usize = 1 << 20;

/// How long the peer may take nothing of what it is sent.
const PATIENCE: Duration = Duration::from_secs(30);

/// The socket.
pub(super) struct Lingering<S> {
    stream: S,
    closing: Option<(Pin<Box<Sleep>>, usize)>,
    stalled: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

impl<S> Lingering<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, closing: None, stalled: None, patience: PATIENCE }
    }

    /// Breaks the connection once writing has made no progress for too long.
    fn patiently<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        stalled.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, from);
        self.patiently(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, from);
        self.patiently(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, closing, .. } = &mut *self;
        let (moment, read) = match closing {
            Some(closing) => closing,
            None => {
                ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
                closing.insert((Box::pin(sleep(MOMENT)), 0))
            }
        };
        let mut room = [0; 4_096];
        while *read < MOST {
            let mut into = ReadBuf::new(&mut room);
            match Pin::new(&mut *stream).poll_read(context, &mut into) {
                Poll::Ready(Ok(())) if !into.filled().is_empty() => *read += into.filled().len(),
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return moment.as_mut().poll(context).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn who_reads_nothing_does_not_hold_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = Lingering { patience: Duration::from_millis(50), ..Lingering::new(stream) };
        let answer = vec![b'x'; 64 << 20];
        let stalled = tokio::time::timeout(Duration::from_secs(20), stream.write_all(&answer)).await.unwrap();
        assert_eq!(stalled.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(silent);
    }

    #[tokio::test]
    async fn who_reads_slowly_gets_everything() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut slow = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = Lingering { patience: Duration::from_secs(10), ..Lingering::new(stream) };
        let sending = async {
            stream.write_all(&vec![b'x'; 16 << 20]).await.unwrap();
            drop(stream);
        };
        let reading = async {
            let (mut all, mut room) = (0, vec![0; 1 << 20]);
            loop {
                tokio::task::yield_now().await;
                match tokio::io::AsyncReadExt::read(&mut slow, &mut room).await.unwrap() {
                    0 => return all,
                    read => all += read,
                }
            }
        };
        let ((), all) = tokio::join!(sending, reading);
        assert_eq!(all, 16 << 20);
    }
}
