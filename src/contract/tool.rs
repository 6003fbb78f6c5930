//! One compiled contract.

use std::collections::BTreeSet;

use super::{UpstreamName, file::Contract};
use crate::{
    call::{Operation, Refused},
    json::{Canonical, Digest, Value},
    upstream::Forwarded,
};

/// What a tool can do to the world. Unknown means destructive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Impact {
    /// Looks, changes nothing.
    Read,
    /// Changes data in a way that can be undone.
    Write,
    /// Deletes or overwrites.
    Destructive,
    /// Runs code or commands.
    Execute,
    /// Sends data out.
    Egress,
    /// Moves money or orders something.
    Spend,
}

impl Impact {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Read, Self::Write, Self::Destructive, Self::Execute, Self::Egress, Self::Spend];

    /// The word used in files, and as action group in grants.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Destructive => "destructive",
            Self::Execute => "execute",
            Self::Egress => "egress",
            Self::Spend => "spend",
        }
    }
}

/// An argument that clients repeat in an HTTP header (`x-mcp-header`, MCP 2026-07-28, streamable HTTP).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeader {
    /// Lower-case header name, `mcp-param-…`.
    pub header: String,
    /// Member names that lead to the argument.
    pub path: Vec<String>,
}

/// A contract, compiled: immutable, shared by every call for the tool.
#[derive(Debug)]
pub struct Tool {
    /// The name agents use: `<upstream>__<tool>`; the upstream's name for built-in contracts.
    pub name: String,
    /// Whose tool it is.
    pub upstream: UpstreamName,
    /// The name the upstream uses.
    pub wire_name: String,
    /// The MCP method it is called by.
    pub operation: Operation,
    /// Its action in grants: `<upstream>__<tool>`, `resource_read`, `prompt_get`.
    pub action: String,
    /// The definition exactly as advertised.
    pub definition: Value,
    /// SHA-256 over the whole contract's canonical form: what calls and holds are bound to.
    pub digest: Digest,
    /// What it can do to the world.
    pub impact: BTreeSet<Impact>,
    /// Labels of the data it touches.
    pub labels: Vec<String>,
    /// Calling it twice is calling it once.
    pub idempotent: bool,
    /// Arguments that no schema declares are let through.
    pub open: bool,
    /// Arguments repeated in headers.
    pub headers: Vec<ParamHeader>,
    /// The advertised `inputSchema`, for typing grants.
    pub input_schema: serde_json::Value,
}

impl Tool {
    /// Compiles a contract for `tools/call`.
    ///
    /// # Errors
    /// Why its schemas cannot be trusted (see [`super::vet`]).
    pub fn compile(_contract: &Contract) -> Result<Self, String> {
        Err(String::new())
    }

    /// Whether its only impact is `read`.
    pub fn only_reads(&self) -> bool {
        self.impact.iter().all(|impact| *impact == Impact::Read) && !self.impact.is_empty()
    }

    /// Brings arguments into canonical form and checks them against both schemas.
    ///
    /// # Errors
    /// [`Refused::NotCanonical`], [`Refused::InvalidArguments`].
    pub fn accept(&self, _arguments: Value) -> Result<Canonical, Refused> {
        Err(Refused::UnknownTool)
    }

    /// Checks what came back: `structuredContent` against the `outputSchema`, the shape of the result against MCP.
    pub fn inspect(&self, forwarded: Forwarded) -> Inspected {
        Inspected { forwarded, findings: Vec::new() }
    }
}

/// A call that came back and was looked at. Only [`Tool::inspect`] makes one.
#[derive(Debug)]
pub struct Inspected {
    forwarded: Forwarded,
    findings: Vec<String>,
}

impl Inspected {
    /// What was found, as short stable codes; empty when all is well.
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    /// The call, for settling.
    pub(crate) fn into_parts(self) -> (Forwarded, Vec<String>) {
        (self.forwarded, self.findings)
    }
}
