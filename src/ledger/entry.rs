//! What is written.

use bytes::Bytes;

use crate::{clock::Timestamp, json::Digest};

/// One entry, as it stands in the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its index, from 0.
    pub seq: u64,
    /// Its canonical JSON.
    pub text: Bytes,
}

/// Something that happened and is not a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `token.issued`
    TokenIssued {
        /// The credential's id.
        credential: String,
        /// Whose it is.
        agent: String,
        /// The user it acts for.
        user: Option<String>,
        /// The task it is for.
        task: Option<String>,
        /// When it ends.
        expires: Timestamp,
    },
    /// `token.revoked`: one credential, or all that the agent has so far.
    TokenRevoked {
        /// Whose.
        agent: String,
        /// Which one; all without.
        credential: Option<String>,
    },
    /// `tool.registered`
    ToolRegistered {
        /// Whose tool.
        upstream: String,
        /// The name the upstream gives it.
        tool: String,
        /// Digest of the contract.
        contract: Digest,
    },
    /// `tool.quarantined`
    ToolQuarantined {
        /// Whose tool.
        upstream: String,
        /// The name the upstream gives it.
        tool: String,
        /// Why, a short stable code: `changed`, `schema`, `gone`, `file`.
        why: String,
    },
    /// `tool.accepted`
    ToolAccepted {
        /// Whose tool.
        upstream: String,
        /// The name the upstream gives it.
        tool: String,
        /// Digest of the contract now.
        contract: Digest,
    },
    /// `policy.loaded`
    PolicyLoaded {
        /// Digest of the set.
        set: Digest,
        /// How many policies it has.
        policies: usize,
    },
    /// `call.refused`: a message of a known caller that never became a call.
    MessageRefused {
        /// Whose.
        agent: String,
        /// The credential's id.
        credential: String,
        /// The stable reason code.
        reason: String,
        /// The method it names, if that could be read, cut to 64 bytes.
        method: Option<String>,
    },
    /// `server.started`
    ServerStarted {
        /// Version of the program.
        version: String,
    },
    /// `server.stopped`
    ServerStopped {
        /// Why.
        why: String,
    },
}

/// How a call ended, in the ledger's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The tool did it.
    Ok,
    /// The tool says that it failed (`isError`).
    ToolError,
    /// The upstream answered with an error, or could not be reached at all: nothing was done.
    UpstreamError,
    /// Nobody knows whether it was done.
    Unknown,
}

impl Settlement {
    /// The word in the entry.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::UpstreamError => "upstream_error",
            Self::Unknown => "unknown",
        }
    }
}
