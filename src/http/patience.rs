//! A stream whose peer has to take what is written to it, or loses it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long a peer may take nothing at all. A stream of events has a comment each 15 s, so that it fits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A stream on which a write that gets nowhere is an error after a while: HTTP's own clock is for requests alone, and
/// stands still while an answer is not taken.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    waits: Option<Pin<Box<Sleep>>>,
    without_end: Arc<AtomicBool>,
}

impl<S> Patient<S> {
    /// Once `without_end` is true, the peer may take its time.
    pub(super) fn new(stream: S, without_end: Arc<AtomicBool>) -> Self {
        Self { stream, waits: None, without_end }
    }

    /// What a write came to, but not for ever.
    fn in_time<T>(&mut self, done: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if done.is_ready() || self.without_end.load(Relaxed) {
            self.waits = None;
            return done;
        }
        let waits = self.waits.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        match waits.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.in_time(done, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.in_time(done, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.in_time(done, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.in_time(done, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_loses_the_stream_and_who_takes_a_little_keeps_it() {
        let (ours, mut theirs) = duplex(16);
        let mut ours = Patient::new(ours, Arc::default());
        let reads = async {
            let mut some = [0; 8];
            for _ in 0..4 {
                sleep(Duration::from_secs(29)).await;
                theirs.read_exact(&mut some).await.unwrap();
            }
            theirs
        };
        let began = Instant::now();
        let (written, _theirs) = tokio::join!(ours.write_all(&[0; 1_000]), reads);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 4 * 29 + 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pipe_may_be_left_unread() {
        let (ours, mut theirs) = duplex(16);
        let mut ours = Patient::new(ours, Arc::new(true.into()));
        let reads = async {
            sleep(Duration::from_secs(3_600)).await;
            let mut all = [0; 1_000];
            theirs.read_exact(&mut all).await
        };
        let (written, read) = tokio::join!(ours.write_all(&[7; 1_000]), reads);
        written.unwrap();
        read.unwrap();
    }
}
