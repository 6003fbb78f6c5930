//! What is offered now.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{Completes, Tool, UpstreamName, file::Contract};
use crate::{
    call::Operation,
    json::{Canonical, Digest, Value},
};

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

impl Quarantine {
    /// A stable code, and a sentence for a person.
    pub fn told(&self) -> (&'static str, String) {
        match self {
            Self::Changed { .. } => {
                ("changed", "the upstream advertises another definition than the contract's".to_owned())
            }
            Self::Unregistered => ("unregistered", "nobody registered it; run `countersign tool register`".to_owned()),
            Self::Gone => ("gone", "the upstream advertises it no more".to_owned()),
            Self::Schema(why) => ("schema", why.clone()),
            Self::File(why) => ("file", why.clone()),
        }
    }
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
    /// Tools for `tools/call` by the name agents use.
    by_name: HashMap<String, Arc<Tool>>,
    /// The same, in the order of their names.
    tools: Vec<Arc<Tool>>,
    /// Built-in contracts by the upstream's name.
    builtin: BTreeMap<String, Vec<Arc<Tool>>>,
    quarantined: Vec<Quarantined>,
    /// Tools whose definition changed, as their contracts have them: whoever may call one is told so.
    changed: HashMap<String, Arc<Tool>>,
}

impl Catalog {
    /// Holds contracts against what the upstreams advertise. An upstream that has not answered (`None`)
    /// is offered as its contracts say; [`crate::upstream`] sees to it that its first answer is compared
    /// before its first call. Every configured upstream also gets the built-in contracts of
    /// `resources/read`, `prompts/get` and `completion/complete`, under its own name.
    pub fn new(
        contracts: &[Result<Contract, Quarantined>],
        advertised: &BTreeMap<UpstreamName, Option<Advertised>>,
    ) -> Self {
        Self::default().renew(contracts, advertised)
    }

    /// [`Catalog::new`], which takes over from this catalog what is compiled already and has not changed.
    #[must_use]
    pub fn renew(
        &self,
        contracts: &[Result<Contract, Quarantined>],
        advertised: &BTreeMap<UpstreamName, Option<Advertised>>,
    ) -> Self {
        let mut next = Self::default();
        let now: BTreeMap<&UpstreamName, Option<Listed<'_>>> =
            advertised.iter().map(|(upstream, list)| (upstream, list.as_ref().map(Listed::of))).collect();
        let mut seen = BTreeSet::new();
        let mut twice = BTreeSet::new();
        for contract in contracts {
            let key = match contract {
                Ok(contract) => (contract.upstream.clone(), contract.tool().unwrap_or_default().to_owned()),
                Err(quarantined) => (quarantined.upstream.clone(), quarantined.tool.clone()),
            };
            if !seen.insert(key.clone()) {
                twice.insert(key);
            }
        }
        for contract in contracts {
            let offered = match contract {
                Ok(contract) => self.offer(contract, &now, &twice),
                Err(quarantined) => Err(quarantined.clone()),
            };
            match offered {
                Ok(tool) => {
                    next.by_name.insert(tool.name.clone(), Arc::clone(&tool));
                    next.tools.push(tool);
                }
                Err(quarantined) => {
                    if let (Quarantine::Changed { .. }, Ok(contract)) = (&quarantined.why, contract)
                        && let Ok(tool) = self.compiled(contract)
                    {
                        next.changed.insert(tool.name.clone(), tool);
                    }
                    next.quarantined.push(quarantined);
                }
            }
        }
        for (upstream, listed) in &now {
            let Some(listed) = listed else { continue };
            let nobodys =
                listed.by_name.iter().filter(|(tool, _)| !seen.contains(&((*upstream).clone(), (**tool).to_owned())));
            for (tool, definition) in nobodys {
                let why = if definition.is_some() { Quarantine::Unregistered } else { twice_advertised() };
                next.quarantined.push(Quarantined { upstream: (*upstream).clone(), tool: (*tool).to_owned(), why });
            }
            for problem in &listed.nameless {
                let why = Quarantine::Schema((*problem).to_owned());
                next.quarantined.push(Quarantined { upstream: (*upstream).clone(), tool: String::new(), why });
            }
        }
        for upstream in advertised.keys() {
            let tools = self
                .builtin
                .get(upstream.as_str())
                .cloned()
                .or_else(|| Some(Tool::builtin(upstream, &[]).ok()?.into_iter().map(Arc::new).collect()));
            next.builtin.insert(upstream.as_str().to_owned(), tools.unwrap_or_default());
        }
        next.tools.sort_by(|a, b| a.name.cmp(&b.name));
        next.quarantined.sort_by(|a, b| (&a.upstream, &a.tool).cmp(&(&b.upstream, &b.tool)));
        next.quarantined.dedup();
        next
    }

    /// Whether a contract is as its upstream advertises, and can be trusted.
    fn offer(
        &self,
        contract: &Contract,
        now: &BTreeMap<&UpstreamName, Option<Listed<'_>>>,
        twice: &BTreeSet<(UpstreamName, String)>,
    ) -> Result<Arc<Tool>, Quarantined> {
        let name = contract.tool().unwrap_or_default();
        let out = |why| Quarantined { upstream: contract.upstream.clone(), tool: name.to_owned(), why };
        if twice.contains(&(contract.upstream.clone(), name.to_owned())) {
            return Err(out(Quarantine::File("two contracts are for this tool; remove one".to_owned())));
        }
        let Some(listed) = now.get(&contract.upstream) else {
            return Err(out(Quarantine::File("no upstream of that name is configured".to_owned())));
        };
        if let Some(listed) = listed {
            match listed.by_name.get(name) {
                None => return Err(out(Quarantine::Gone)),
                Some(None) => return Err(out(twice_advertised())),
                Some(Some(definition)) => {
                    if digest_of(definition) != Some(contract.digest) {
                        return Err(out(Quarantine::Changed { advertised: (*definition).clone() }));
                    }
                }
            }
        }
        self.compiled(contract).map_err(|why| out(Quarantine::Schema(why)))
    }

    /// The contract's tool; taken over when it is compiled already and has not changed.
    fn compiled(&self, contract: &Contract) -> Result<Arc<Tool>, String> {
        let digest = contract
            .canonical_digest()
            .map_err(|error| format!("the number at `{}` has no canonical form", error.pointer))?;
        let name = super::tool::agent_name(&contract.upstream, contract.tool().unwrap_or_default()).ok();
        let old = name.and_then(|name| self.by_name.get(&name).or_else(|| self.changed.get(&name)));
        if let Some(same) = old.filter(|tool| tool.digest == digest) {
            return Ok(Arc::clone(same));
        }
        Tool::compile_as(contract, digest).map(Arc::new)
    }

    /// The contract of a tool that is not offered because its definition changed.
    pub fn changed(&self, operation: Operation, name: &str) -> Option<Arc<Tool>> {
        if operation == Operation::CallTool { self.changed.get(name).cloned() } else { None }
    }

    /// The tool that an agent calls by `name` (`<upstream>__<tool>`; for the other operations the upstream's
    /// name). For `completion/complete` this is the contract for prompts: see [`Catalog::select`].
    pub fn find(&self, operation: Operation, name: &str) -> Option<Arc<Tool>> {
        if operation == Operation::CallTool {
            return self.by_name.get(name).cloned();
        }
        self.builtin_of(name).find(|tool| tool.operation == operation).cloned()
    }

    /// [`Catalog::find`] for a call whose arguments are at hand: a completion is granted like what it completes,
    /// so what its arguments refer to says which contract it is under.
    pub fn select(&self, operation: Operation, name: &str, arguments: &Value) -> Option<Arc<Tool>> {
        if operation != Operation::Complete {
            return self.find(operation, name);
        }
        let action = match Completes::asked(arguments) {
            Some(Completes::Resource) => "resource_read",
            Some(Completes::Prompt) | None => "prompt_get",
        };
        self.builtin_of(name).find(|tool| tool.operation == operation && tool.action == action).cloned()
    }

    fn builtin_of(&self, name: &str) -> impl Iterator<Item = &Arc<Tool>> {
        self.builtin.get(name).into_iter().flatten()
    }

    /// Every tool for `tools/call` that is offered, by name.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.tools.iter()
    }

    /// Every compiled contract, the built-in ones too: the vocabulary of the grants.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Tool>> {
        self.tools.iter().chain(self.builtin.values().flatten())
    }

    /// What is not offered, and why, by upstream and tool.
    pub fn quarantined(&self) -> &[Quarantined] {
        &self.quarantined
    }
}

/// One upstream's list, by name.
struct Listed<'a> {
    /// `None` for a name that is there more than once.
    by_name: BTreeMap<&'a str, Option<&'a Value>>,
    nameless: Vec<&'static str>,
}

impl<'a> Listed<'a> {
    fn of(advertised: &'a Advertised) -> Self {
        let mut listed = Self { by_name: BTreeMap::new(), nameless: Vec::new() };
        for definition in &advertised.tools {
            let Some(name) = definition.get("name").and_then(Value::as_str) else {
                listed.nameless.push("the upstream advertises a tool without a name");
                continue;
            };
            listed.by_name.entry(name).and_modify(|known| *known = None).or_insert(Some(definition));
        }
        listed
    }
}

fn twice_advertised() -> Quarantine {
    Quarantine::Schema("the upstream advertises two tools of that name".to_owned())
}

/// `None` for a definition that has no canonical form: it is like no contract's.
fn digest_of(definition: &Value) -> Option<Digest> {
    Some(Canonical::of(definition.clone()).ok()?.digest())
}
