//! A socket that is closed so that the last answer arrives.
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
    net::TcpStream,
    time::{Sleep, sleep},
};

/// How long, and how much, is read away at most.
const MOMENT: Duration = Duration::from_secs(1);
const MOST: usize = 1 << 20;

/// The socket.
pub(super) struct Lingering {
    stream: TcpStream,
    closing: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Lingering {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, closing: None }
    }
}

impl AsyncRead for Lingering {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, closing } = &mut *self;
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
