//! What the agent is told. Minted in the ledger only, so that nothing is answered unrecorded.

use bytes::Bytes;

use super::Recorded;
use crate::{
    call::{CallId, Caller, HoldNotice, Operation, Refused},
    json::Value,
    upstream::Outcome,
};

/// The answer to one call.
#[derive(Debug)]
pub struct Reply {
    call: CallId,
    operation: Operation,
    body: Body,
}

/// What the answer says.
#[derive(Debug)]
pub enum Body {
    /// The upstream's result.
    Result {
        /// Its tree.
        tree: Value,
        /// Its text, lossless and without a line break.
        text: Bytes,
    },
    /// The upstream's JSON-RPC error.
    Error {
        /// The `error` object.
        tree: Value,
        /// Its text, lossless and without a line break.
        text: Bytes,
    },
    /// The call was refused.
    Refused(Refused),
    /// The call waits for a person.
    Held(HoldNotice),
    /// The call was forwarded and nobody knows how it ended.
    Unknown {
        /// Why, a short stable code.
        why: &'static str,
    },
}

/// A tool server asked for input in a call that people countersigned: what a client would answer, they were not shown.
const ASKED: Body = Body::Unknown { why: "input_required" };

fn asks(result: &Value) -> bool {
    result.get("resultType").and_then(Value::as_str) == Some("input_required")
}

impl Reply {
    pub(super) fn refused(refused: Refused, caller: Caller) -> Self {
        Self { call: caller.id, operation: caller.operation, body: Body::Refused(refused) }
    }

    pub(super) fn settled(recorded: Recorded, outcome: Outcome, _findings: Vec<String>) -> Self {
        let call = recorded.call().call();
        let body = match outcome {
            Outcome::Result { tree, .. } if recorded.call().countersigned().is_some() && asks(&tree) => ASKED,
            Outcome::Result { tree, text } => Body::Result { tree, text },
            Outcome::Error { tree, text } => Body::Error { tree, text },
            Outcome::NotSent { retry_after_ms, busy: true, .. } => {
                Body::Refused(Refused::UpstreamBusy { retry_after_ms })
            }
            Outcome::NotSent { retry_after_ms, busy: false, .. } => {
                Body::Refused(Refused::UpstreamUnavailable { retry_after_ms })
            }
            Outcome::NoCredential { refused, .. } => Body::Refused(refused),
            Outcome::Unknown { why, .. } => Body::Unknown { why },
        };
        Self { call: call.id().clone(), operation: call.operation(), body }
    }

    /// For a call that waits; its hold is durable.
    pub(super) fn held(call: CallId, operation: Operation, notice: HoldNotice) -> Self {
        Self { call, operation, body: Body::Held(notice) }
    }

    /// What an identical call came to.
    pub(super) fn collected(call: CallId, operation: Operation, tree: Value, text: Bytes, error: bool) -> Self {
        let body = match error {
            true => Body::Error { tree, text },
            false if asks(&tree) => ASKED,
            false => Body::Result { tree, text },
        };
        Self { call, operation, body }
    }

    /// An identical call was sent, and what it came to is not known, or not kept.
    pub(super) fn untold(call: CallId, operation: Operation) -> Self {
        Self { call, operation, body: Body::Unknown { why: "not_kept" } }
    }

    /// A reply that nobody recorded, for tests of the doors.
    #[cfg(test)]
    pub(crate) fn unrecorded(call: CallId, operation: Operation, body: Body) -> Self {
        Self { call, operation, body }
    }

    /// The call it answers.
    pub fn call(&self) -> &CallId {
        &self.call
    }

    /// The method it answers.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// What it says.
    pub fn body(&self) -> &Body {
        &self.body
    }
}
