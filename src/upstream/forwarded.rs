//! What came back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{call::Refused, json::Value, ledger::Recorded};

/// How a forwarded call ended.
#[derive(Debug)]
pub enum Outcome {
    /// The upstream answered with a result: its parsed tree, and its text, lossless and without a line break.
    Result {
        /// The parsed result.
        tree: Value,
        /// The text that travels on.
        text: Bytes,
    },
    /// The upstream answered with a JSON-RPC error: the `error` object.
    Error {
        /// The parsed error object.
        tree: Value,
        /// The text that travels on.
        text: Bytes,
    },
    /// The call never left: nothing reached the upstream.
    NotSent {
        /// Why, for the operator.
        why: String,
        /// When to try again, milliseconds.
        retry_after_ms: u64,
        /// Too many calls wait for it, as opposed to: it is down.
        busy: bool,
    },
    /// The call never left either: there is no credential for it that the upstream could be shown.
    NoCredential {
        /// What the agent is told.
        refused: Refused,
        /// Why, for the operator.
        why: String,
    },
    /// Something may have reached the upstream, and no answer that can be trusted came back.
    Unknown {
        /// Why, a short stable code: `timeout`, `died`, `cancelled`, `bad_answer`, `too_large`, `stopping`.
        why: &'static str,
        /// More, for the operator.
        detail: String,
    },
}

impl Outcome {
    /// The word for it in metrics: `ok`, `tool_error`, `upstream_error`, `not_sent`, `unknown`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Result { tree, .. } if tree.get("isError").and_then(Value::as_bool) == Some(true) => "tool_error",
            Self::Result { .. } => "ok",
            Self::Error { .. } => "upstream_error",
            Self::NotSent { .. } | Self::NoCredential { .. } => "not_sent",
            Self::Unknown { .. } => "unknown",
        }
    }
}

/// A call that was forwarded. Only [`super`] makes one, out of a [`Recorded`].
#[derive(Debug)]
pub struct Forwarded {
    recorded: Recorded,
    outcome: Outcome,
    took: Duration,
    lease: Option<Arc<str>>,
}

impl Forwarded {
    pub(super) fn new(recorded: Recorded, outcome: Outcome, took: Duration) -> Self {
        Self { recorded, outcome, took, lease: None }
    }

    /// The same, and what the upstream was shown.
    pub(super) fn with(self, lease: Option<Arc<str>>) -> Self {
        Self { lease, ..self }
    }

    /// The call.
    pub fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    /// How it ended.
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// From the first byte out to the last byte in.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// The call, how it ended, and the id of what the upstream was shown.
    pub(crate) fn into_parts(self) -> (Recorded, Outcome, Duration, Option<Arc<str>>) {
        (self.recorded, self.outcome, self.took, self.lease)
    }

    /// Replaces the outcome by one that says it cannot be trusted.
    pub(crate) fn distrust(&mut self, why: &'static str, detail: String) {
        self.outcome = Outcome::Unknown { why, detail };
    }
}
