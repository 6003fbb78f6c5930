//! What operators see: logs, metrics, health.

use std::time::Duration;

/// Counters and histograms, rendered for Prometheus.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A call was refused with that code.
    pub fn refused(&self, _code: &'static str) {}

    /// A call came back from an upstream.
    pub fn settled(&self, _upstream: &str, _outcome: &'static str, _took: Duration) {}
}
