//! A call as it comes in, and its first stages: who is calling, and do the arguments fit the contract.

mod link;
mod principal;
mod refused;

pub use link::{ClientSide, FromClient, HoldNotice, Link, Notice};
pub use principal::{Assurance, Identified, Principal};
pub use refused::{Fault, Pointer, Refused};

use std::{fmt, sync::Arc};

use crate::{
    clock::{NoRandomness, Timestamp, ulid},
    contract::{Catalog, Tool},
    json::{Canonical, Value},
};

/// `call_` and a ULID: names one call in replies, logs and the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallId(Arc<str>);

impl CallId {
    /// A new id for a call received at `at`.
    ///
    /// # Errors
    /// [`NoRandomness`] when the machine has none to give.
    pub fn new(at: Timestamp) -> Result<Self, NoRandomness> {
        Ok(Self(format!("call_{}", ulid(at)?).into()))
    }

    /// The id that is written so, from an entry of ours.
    pub fn read(text: &str) -> Option<Self> {
        text.starts_with("call_").then(|| Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of an upstream's offers a call is for. Each is a method of MCP and travels the same road.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `tools/call`
    CallTool,
    /// `resources/read`
    ReadResource,
    /// `prompts/get`
    GetPrompt,
    /// `completion/complete`
    Complete,
    /// `resources/subscribe`, and each resource that a `subscriptions/listen` names: granted like reading it.
    Subscribe,
}

impl Operation {
    /// The MCP method.
    pub fn method(self) -> &'static str {
        match self {
            Self::CallTool => "tools/call",
            Self::ReadResource => "resources/read",
            Self::GetPrompt => "prompts/get",
            Self::Complete => "completion/complete",
            Self::Subscribe => "resources/subscribe",
        }
    }

    /// The operation of that method.
    pub fn read(method: &str) -> Option<Self> {
        let all = [Self::CallTool, Self::ReadResource, Self::GetPrompt, Self::Complete, Self::Subscribe];
        all.into_iter().find(|operation| operation.method() == method)
    }

    /// Whether a call of it can wait for a person.
    pub fn can_wait(self) -> bool {
        matches!(self, Self::CallTool | Self::ReadResource | Self::GetPrompt)
    }
}

/// The door a call came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Streamable HTTP.
    Http,
    /// Standard input and output.
    Stdio,
}

impl Door {
    /// The word in the ledger.
    pub fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Stdio => "stdio",
        }
    }

    /// The door of that word.
    pub fn read(word: &str) -> Option<Self> {
        [Self::Http, Self::Stdio].into_iter().find(|door| door.word() == word)
    }
}

/// What travels beside the arguments and is nobody's business to decide on.
#[derive(Clone, Debug, Default)]
pub struct Passage {
    /// The caller's `_meta`, without the members that are ours or that speak of the connection.
    pub meta: crate::json::Object,
    /// `inputResponses` of a multi round-trip retry (MCP 2026-07-28, MRTR).
    pub input_responses: Option<Value>,
    /// The upstream's own `requestState`, once the door has opened its seal.
    pub request_state: Option<String>,
}

/// A call as it was read: nothing has been checked but its JSON.
#[derive(Debug)]
pub struct Received {
    id: CallId,
    at: Timestamp,
    door: Door,
    operation: Operation,
    name: String,
    arguments: Value,
    passage: Passage,
    link: Link,
}

impl Received {
    /// A call for `name` (the agent-facing tool name; for resources `<upstream>` and the URI are in
    /// `arguments`, see [`Catalog::find`]) with `arguments` as parsed.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of the wire, and there is one caller a door")]
    pub fn new(
        id: CallId,
        at: Timestamp,
        door: Door,
        operation: Operation,
        name: String,
        arguments: Value,
        passage: Passage,
        link: Link,
    ) -> Self {
        Self { id, at, door, operation, name, arguments, passage, link }
    }

    /// What was read, for tests of the doors.
    #[cfg(test)]
    pub(crate) fn into_parts(self) -> (CallId, Operation, String, Value, Passage, Link) {
        (self.id, self.operation, self.name, self.arguments, self.passage, self.link)
    }

    /// Whether checking the arguments may take long enough to hold up other calls.
    pub fn is_heavy(&self) -> bool {
        self.arguments.is_heavier_than(64 << 10)
    }

    /// Joins the call to the one whose credential came with it.
    pub fn authenticate(self, who: Identified) -> Authenticated {
        Authenticated { received: self, principal: who.into_principal() }
    }
}

/// A call whose caller is known.
#[derive(Debug)]
pub struct Authenticated {
    received: Received,
    principal: Arc<Principal>,
}

/// What is known of a call that was refused on its way: enough to answer and to record it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The call's id.
    pub id: CallId,
    /// When it was received.
    pub at: Timestamp,
    /// The method it asked for.
    pub operation: Operation,
    /// The name as the agent gave it, cut to 256 bytes.
    pub name: String,
    /// Who called.
    pub principal: Arc<Principal>,
    /// The tool, once it is known that this principal may know of it.
    pub tool: Option<Arc<Tool>>,
}

impl Authenticated {
    /// Finds the tool and checks the arguments against its contract.
    ///
    /// # Errors
    /// The refusal and what to record of the call.
    pub fn validate(self, catalog: &Catalog) -> Result<Validated, Box<(Refused, Caller)>> {
        self.validate_known(catalog, |_, _| true)
    }

    /// [`Authenticated::validate`], where a tool that the principal may not know of is refused as unknown before
    /// its contract is looked at.
    ///
    /// # Errors
    /// The refusal and what to record of the call.
    pub fn validate_known(
        self,
        catalog: &Catalog,
        known: impl Fn(&Principal, &Tool) -> bool,
    ) -> Result<Validated, Box<(Refused, Caller)>> {
        let Self { received, principal } = self;
        let Received { id, at, door, operation, name, arguments, passage, link } = received;
        let caller = |name: &str, tool: Option<Arc<Tool>>| Caller {
            id: id.clone(),
            at,
            operation,
            name: cut(name, 256).to_owned(),
            principal: Arc::clone(&principal),
            tool,
        };
        let Some(tool) = catalog.select(operation, &name, &arguments) else {
            let changed = catalog.changed(operation, &name);
            // that a tool changed is told to those only who may know that it is there
            let refused = match &changed {
                Some(tool) if known(&principal, tool) => Refused::ToolQuarantined,
                _ => Refused::UnknownTool,
            };
            return Err(Box::new((refused, caller(&name, changed))));
        };
        if !known(&principal, &tool) {
            return Err(Box::new((Refused::UnknownTool, caller(&name, Some(tool)))));
        }
        let arguments = match tool.accept(arguments) {
            Ok(arguments) => arguments,
            Err(refused) => return Err(Box::new((refused, caller(&name, Some(tool))))),
        };
        Ok(Validated { id, at, door, operation, principal, tool, arguments, passage, link })
    }
}

/// A call for a known tool whose arguments fit the contract. Nothing changes in it from here on.
#[derive(Debug)]
pub struct Validated {
    id: CallId,
    at: Timestamp,
    door: Door,
    operation: Operation,
    principal: Arc<Principal>,
    tool: Arc<Tool>,
    arguments: Canonical,
    passage: Passage,
    link: Link,
}

impl Validated {
    /// The call's id.
    pub fn id(&self) -> &CallId {
        &self.id
    }

    /// When it was received.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// The door it came through.
    pub fn door(&self) -> Door {
        self.door
    }

    /// The MCP method.
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Who calls.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// The tool, with its contract.
    pub fn tool(&self) -> &Arc<Tool> {
        &self.tool
    }

    /// The arguments in canonical form.
    pub fn arguments(&self) -> &Canonical {
        &self.arguments
    }

    /// What travels beside the arguments.
    pub fn passage(&self) -> &Passage {
        &self.passage
    }

    /// The way back to the client while the call runs.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The call as it is now, after it waited: who calls was looked at again, and the tool is offered by the very
    /// contract that its arguments fit. It runs to its end even when its client goes away: its result is collected.
    ///
    /// # Errors
    /// The call back, when the tool is not offered so any more.
    pub fn again(mut self, who: Identified, catalog: &Catalog, now: Timestamp) -> Result<Self, Box<Self>> {
        let same = catalog
            .select(self.operation, self.wire_name(), self.arguments.tree())
            .is_some_and(|tool| tool.digest == self.tool.digest && tool.name == self.tool.name);
        if !same {
            return Err(Box::new(self));
        }
        self.principal = who.into_principal();
        self.at = now;
        self.link = self.link.lasting();
        Ok(self)
    }

    /// The name that [`Catalog::select`] finds the tool by.
    fn wire_name(&self) -> &str {
        match self.operation {
            Operation::CallTool => &self.tool.name,
            _ => self.tool.upstream.as_str(),
        }
    }

    /// What to record of the call when it goes no further.
    pub fn caller(&self) -> Caller {
        Caller {
            id: self.id.clone(),
            at: self.at,
            operation: self.operation,
            name: self.tool.name.clone(),
            principal: Arc::clone(&self.principal),
            tool: Some(Arc::clone(&self.tool)),
        }
    }
}

/// The longest prefix of at most `most` bytes that ends between characters.
pub fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
