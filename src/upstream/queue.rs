//! A bounded number of calls under way, and a bounded number that wait for a place.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync::Semaphore, time::sleep};
use tower::{Layer, Service, ServiceExt as _};

use super::{Outcome, deliver::Ended, outgoing::Sendable};

/// Puts a queue before a service.
#[derive(Clone, Debug)]
pub(super) struct QueueLayer {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    room: usize,
    patience: Duration,
}

impl QueueLayer {
    /// `places` calls at once, `room` that wait, each at most for `patience`.
    pub(super) fn new(places: usize, room: usize, patience: Duration) -> Self {
        let places = places.clamp(1, Semaphore::MAX_PERMITS);
        Self { places: Arc::new(Semaphore::new(places)), waiting: Arc::default(), room, patience }
    }
}

impl<S> Layer<S> for QueueLayer {
    type Service = Queue<S>;

    fn layer(&self, inner: S) -> Queue<S> {
        Queue { inner, with: self.clone() }
    }
}

/// See [`QueueLayer`].
#[derive(Clone, Debug)]
pub(super) struct Queue<S> {
    inner: S,
    with: QueueLayer,
}

/// One that waits.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<S, C> Service<C> for Queue<S>
where
    C: Sendable,
    S: Service<C, Response = Ended<C>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Ended<C>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Ended<C>, Infallible>>;

    /// Always ready: a call that finds no room is answered, so that it is not lost.
    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: C) -> Self::Future {
        let inner = self.inner.clone();
        if let Ok(place) = Arc::clone(&self.with.places).try_acquire_owned() {
            return Box::pin(async move {
                let ended = inner.oneshot(call).await;
                drop(place);
                ended
            });
        }
        let waiting = Waiting(Arc::clone(&self.with.waiting));
        let before = self.with.waiting.fetch_add(1, Ordering::AcqRel);
        if before >= self.with.room {
            drop(waiting);
            return Box::pin(std::future::ready(Ok(Ended::at_once(call, busy("too many calls wait for it")))));
        }
        let (places, patience) = (Arc::clone(&self.with.places), self.with.patience);
        Box::pin(async move {
            let place = tokio::select! {
                biased;
                place = places.acquire_owned() => place,
                () = call.link().cancelled() => {
                    return Ok(Ended::at_once(call, busy("the client gave up while the call waited for a place")));
                }
                () = sleep(patience) => {
                    return Ok(Ended::at_once(call, busy("no place came free in time")));
                }
            };
            drop(waiting);
            let ended = inner.oneshot(call).await;
            drop(place);
            ended
        })
    }
}

fn busy(why: &str) -> Outcome {
    Outcome::NotSent { why: why.to_owned(), retry_after_ms: 1_000, busy: true }
}
