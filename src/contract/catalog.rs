//! What is offered now.

use std::{collections::BTreeMap, sync::Arc};

use super::{Tool, UpstreamName, file::Contract};
use crate::{call::Operation, json::Value};

/// What an upstream says of itself now. `None` for an upstream means that it has not answered yet.
#[derive(Clone, Debug, Default)]
pub struct Advertised {
    /// Tool definitions as sent, in the order sent, every page.
    pub tools: Vec<Value>,
}

/// Why a tool is not offered.
#[derive(Clone, Debug, PartialEq)]
pub enum Quarantine {
    /// The upstream advertises another definition than the contract's.
    Changed {
        /// What it advertises now.
        advertised: Value,
    },
    /// The upstream advertises it, but nobody registered it.
    Unregistered,
    /// The contract is there, but the upstream advertises the tool no more.
    Gone,
    /// Its schema cannot be trusted to bound anything: why.
    Schema(String),
    /// The contract file does not fit its own digest, or cannot be read: why.
    File(String),
}

/// A tool that is not offered.
#[derive(Clone, Debug, PartialEq)]
pub struct Quarantined {
    /// Whose tool.
    pub upstream: UpstreamName,
    /// The name the upstream gives it.
    pub tool: String,
    /// Why.
    pub why: Quarantine,
}

/// An immutable snapshot of what is offered: replaced whole when a file or an upstream changes.
#[derive(Debug, Default)]
pub struct Catalog {
    tools: BTreeMap<(u8, String), Arc<Tool>>,
    quarantined: Vec<Quarantined>,
}

impl Catalog {
    /// Holds contracts against what the upstreams advertise. An upstream that has not answered (`None`)
    /// is offered as its contracts say; [`crate::upstream`] sees to it that its first answer is compared
    /// before its first call. Every configured upstream also gets the built-in contracts of
    /// `resources/read`, `prompts/get` and `completion/complete`, under its own name.
    pub fn new(
        _contracts: &[Result<Contract, Quarantined>],
        _advertised: &BTreeMap<UpstreamName, Option<Advertised>>,
    ) -> Self {
        Self::default()
    }

    /// The tool that an agent calls by `name` (`<upstream>__<tool>`; for the other operations the upstream's name).
    pub fn find(&self, operation: Operation, name: &str) -> Option<Arc<Tool>> {
        self.tools.get(&(operation as u8, name.to_owned())).cloned()
    }

    /// Every tool for `tools/call` that is offered, by name.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.tools.values().filter(|tool| tool.operation == Operation::CallTool)
    }

    /// Every compiled contract, the built-in ones too: the vocabulary of the grants.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.tools.values()
    }

    /// What is not offered, and why, by upstream and tool.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }
}
