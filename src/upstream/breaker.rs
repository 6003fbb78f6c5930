//! A circuit breaker: after a row of failures an upstream is left alone for a while, then tried with one call.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{
    Outcome,
    backoff::Backoff,
    deliver::{Ended, Health},
    outgoing::Sendable,
};

/// Failures in a row that open the circuit.
const FAILURES: u32 = 5;

/// The state of one upstream's circuit.
#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    open_until: Option<Instant>,
    probing: bool,
    backoff: Backoff,
}

impl Circuit {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether calls are turned away.
    pub(super) fn is_open(&self) -> bool {
        self.with(|state| state.open_until.is_some())
    }

    /// Lets a call through, or says how long to wait.
    fn enter(self: &Arc<Self>) -> Result<Entered, Duration> {
        self.with(|state| match state.open_until {
            None => Ok(false),
            Some(until) if until <= Instant::now() && !state.probing => {
                state.probing = true;
                Ok(true)
            }
            Some(until) => Err(until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100))),
        })
        .map(|probe| Entered { circuit: Arc::clone(self), probe })
    }
}

/// A call that was let through.
struct Entered {
    circuit: Arc<Circuit>,
    probe: bool,
}

impl Entered {
    fn ended(&self, health: Health) {
        self.circuit.with(|state| match health {
            Health::Good => *state = State::default(),
            Health::Neutral => {}
            Health::Bad => {
                state.failures = state.failures.saturating_add(1);
                if state.failures >= FAILURES || self.probe {
                    state.open_until = Some(Instant::now() + state.backoff.next());
                }
            }
        });
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if self.probe {
            self.circuit.with(|state| state.probing = false);
        }
    }
}

/// Puts a [`Circuit`] before a service.
#[derive(Clone, Debug)]
pub(super) struct BreakerLayer(pub(super) Arc<Circuit>);

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Breaker<S> {
        Breaker { inner, circuit: Arc::clone(&self.0) }
    }
}

/// See [`BreakerLayer`].
#[derive(Clone, Debug)]
pub(super) struct Breaker<S> {
    inner: S,
    circuit: Arc<Circuit>,
}

impl<S, C> Service<C> for Breaker<S>
where
    C: Sendable,
    S: Service<C, Response = Ended<C>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Ended<C>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Ended<C>, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, call: C) -> Self::Future {
        match self.circuit.enter() {
            Ok(entered) => {
                let ending = self.inner.call(call);
                Box::pin(async move {
                    let ended = ending.await?;
                    entered.ended(ended.health);
                    Ok(ended)
                })
            }
            Err(wait) => {
                let outcome = Outcome::NotSent {
                    why: "its last calls failed: it is left alone for a while".to_owned(),
                    retry_after_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    busy: false,
                };
                Box::pin(std::future::ready(Ok(Ended::at_once(call, outcome))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(circuit: &Arc<Circuit>) {
        circuit.enter().map(|entered| entered.ended(Health::Bad)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_a_row_of_failures_and_probes_with_one_call() {
        let circuit = Arc::new(Circuit::default());
        (0..4).for_each(|_| fail(&circuit));
        circuit.enter().unwrap().ended(Health::Good);
        (0..4).for_each(|_| fail(&circuit));
        assert!(!circuit.is_open(), "a success starts the count again");
        fail(&circuit);
        assert!(circuit.is_open());
        assert!(circuit.enter().is_err());
        tokio::time::advance(Duration::from_secs(2)).await;
        let probe = circuit.enter().unwrap();
        assert!(circuit.enter().is_err(), "one probe at a time");
        probe.ended(Health::Bad);
        drop(probe);
        assert!(circuit.enter().is_err(), "a failed probe opens it again");
        tokio::time::advance(Duration::from_secs(60)).await;
        circuit.enter().unwrap().ended(Health::Good);
        assert!(!circuit.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_lets_the_next_one_try() {
        let circuit = Arc::new(Circuit::default());
        (0..5).for_each(|_| fail(&circuit));
        tokio::time::advance(Duration::from_secs(60)).await;
        drop(circuit.enter().unwrap());
        assert!(circuit.enter().is_ok());
    }
}
