//! One compiled contract.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use super::{
    UpstreamName,
    file::Contract,
    quoted,
    vet::{self, Misfit, Vetted},
};
use crate::{
    call::{Operation, Refused},
    json::{Canonical, Digest, NotCanonical, Object, Value},
    upstream::{Forwarded, Outcome},
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

    /// The impact that a word names.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|impact| impact.word() == word)
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
    pub definition: Arc<Value>,
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
    /// For typing grants, where it is not the definition's.
    typed: Option<serde_json::Value>,
    advertised: Vetted,
    narrowing: Option<Vetted>,
    output: Option<Vetted>,
}

/// The most bytes of the name agents use (MCP 2026-07-28, server/tools, "Tool Names").
const LONGEST_NAME: usize = 128;

/// What a completion is asked for (MCP, server/utilities/completion): each is granted like what it completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completes {
    /// An argument of a prompt: action `prompt_get`.
    Prompt,
    /// A variable of a resource template: action `resource_read`.
    Resource,
}

impl Completes {
    /// What the arguments of a `completion/complete` ask for, by `ref.type`.
    pub fn asked(arguments: &Value) -> Option<Self> {
        match arguments.get("ref")?.get("type")?.as_str()? {
            "ref/prompt" => Some(Self::Prompt),
            "ref/resource" => Some(Self::Resource),
            _ => None,
        }
    }
}

impl Tool {
    /// Compiles a contract for `tools/call`.
    ///
    /// # Errors
    /// Why its schemas cannot be trusted (see [`super::vet`]).
    pub fn compile(contract: &Contract) -> Result<Self, String> {
        let digest = contract.canonical_digest().map_err(|NotCanonical { pointer, problem }| {
            format!("the number at {} has no canonical form: it {problem}", quoted(&pointer, 120))
        })?;
        Self::compile_as(contract, digest)
    }

    /// [`Tool::compile`] for a contract whose canonical digest is known.
    pub(super) fn compile_as(contract: &Contract, digest: Digest) -> Result<Self, String> {
        let definition = &contract.definition;
        let wire_name = contract.tool().ok_or("its definition has no `name`")?;
        let name = agent_name(&contract.upstream, wire_name)?;
        let input = definition.get("inputSchema").ok_or("its definition has no `inputSchema`")?;
        let of_input = |problem: String| format!("`inputSchema` cannot be trusted: {problem}");
        vet::takes_an_object(input).map_err(of_input)?;
        let advertised = Vetted::new(input).map_err(of_input)?;
        let headers = vet::headers(input).map_err(of_input)?;
        let narrowing = contract.arguments.as_ref().map(|own| vet::spelling(own).and_then(|()| Vetted::new(own)));
        let narrowing = narrowing.transpose().map_err(|problem| format!("`arguments` cannot be trusted: {problem}"))?;
        let output = definition.get("outputSchema").map(Vetted::new).transpose();
        let output = output.map_err(|problem| format!("`outputSchema` cannot be trusted: {problem}"))?;
        Ok(Self {
            action: name.clone(),
            name,
            upstream: contract.upstream.clone(),
            wire_name: wire_name.to_owned(),
            operation: Operation::CallTool,
            definition: Arc::clone(definition),
            digest,
            impact: contract.impact.clone(),
            labels: contract.labels.clone(),
            idempotent: contract.idempotent,
            open: contract.open,
            headers,
            typed: None,
            advertised,
            narrowing,
            output,
        })
    }

    /// The built-in contracts of an upstream: `resources/read`, `resources/subscribe`, `prompts/get`, and
    /// `completion/complete`, which comes twice, once for each thing that can be completed. All go under the
    /// upstream's name.
    ///
    /// # Errors
    /// None in practice: that one of them does not compile, which a test rules out.
    pub fn builtin(upstream: &UpstreamName, labels: &[String]) -> Result<Vec<Self>, String> {
        let read = resource_schema();
        let get = prompt_schema();
        let build = |operation, action: &str, accepted: &serde_json::Value, typed: &serde_json::Value| {
            let definition = Arc::from(Value::from(
                Object::new().with("name", upstream.as_str()).with("inputSchema", Value::from(accepted)),
            ));
            let named = Object::new()
                .with("upstream", upstream.as_str())
                .with("method", Operation::method(operation))
                .with("labels", labels.iter().map(|label| Value::from(label.as_str())).collect::<Vec<_>>());
            let digest = Canonical::of(named.into()).map_err(|error| error.problem.to_owned())?.digest();
            Ok::<Self, String>(Self {
                name: upstream.as_str().to_owned(),
                upstream: upstream.clone(),
                wire_name: upstream.as_str().to_owned(),
                operation,
                action: action.to_owned(),
                advertised: Vetted::new(&Value::from(accepted))?,
                definition,
                digest,
                impact: BTreeSet::from([Impact::Read]),
                labels: labels.to_vec(),
                idempotent: true,
                open: false,
                headers: Vec::new(),
                typed: Some(typed.clone()),
                narrowing: None,
                output: None,
            })
        };
        Ok(vec![
            build(Operation::ReadResource, "resource_read", &read, &read)?,
            build(Operation::Subscribe, "resource_read", &read, &read)?,
            build(Operation::GetPrompt, "prompt_get", &get, &get)?,
            build(Operation::Complete, "prompt_get", &completion_schema(Completes::Prompt), &get)?,
            build(Operation::Complete, "resource_read", &completion_schema(Completes::Resource), &read)?,
        ])
    }

    /// The advertised `inputSchema`, for typing grants. Built-in contracts of one action all have the same.
    pub fn input_schema(&self) -> Cow<'_, serde_json::Value> {
        match &self.typed {
            Some(typed) => Cow::Borrowed(typed),
            None => Cow::Owned(self.definition.get("inputSchema").map(Value::to_serde).unwrap_or_default()),
        }
    }

    /// Whether its only impact is `read`.
    pub fn only_reads(&self) -> bool {
        self.impact.iter().all(|impact| *impact == Impact::Read) && !self.impact.is_empty()
    }

    /// Brings arguments into canonical form and checks them against both schemas. A caller that sends no
    /// `arguments` at all is taken to have sent `{}`; anything that is not an object, `null` too, is refused.
    /// Defaults are not filled in: what is checked is what is sent.
    ///
    /// # Errors
    /// [`Refused::NotCanonical`], [`Refused::InvalidArguments`].
    pub fn accept(&self, arguments: Value) -> Result<Canonical, Refused> {
        let invalid =
            |pointer: String, problem: &str| Refused::InvalidArguments { pointer, problem: problem.to_owned() };
        if arguments.as_object().is_none() {
            return Err(invalid(String::new(), "are not an object"));
        }
        let arguments = Canonical::of(arguments).map_err(|NotCanonical { pointer, problem }| {
            Refused::NotCanonical { pointer, problem: problem.to_owned() }
        })?;
        let misfit = |Misfit { pointer, problem }| Refused::InvalidArguments { pointer, problem };
        let length = arguments.bytes().len();
        self.advertised.fits(arguments.tree(), length).map_err(misfit)?;
        if let Some(narrowing) = &self.narrowing {
            narrowing.fits(arguments.tree(), length).map_err(misfit)?;
        }
        if !self.open {
            let schemas: Vec<&Vetted> = std::iter::once(&self.advertised).chain(&self.narrowing).collect();
            if let Some(pointer) = vet::undeclared(&schemas, arguments.tree()) {
                return Err(invalid(pointer, "is not declared"));
            }
        }
        Ok(arguments)
    }

    /// Checks what came back: `structuredContent` against the `outputSchema`, the shape of the result against
    /// MCP. A result that does not pass is withheld from the agent and recorded as not to be trusted, with the
    /// same code as the finding: `bad_answer` or `output_schema`.
    pub fn inspect(&self, mut forwarded: Forwarded) -> Inspected {
        let found = match forwarded.outcome() {
            Outcome::Result { tree, text } => self.judge(tree, text.len()).err(),
            _ => None,
        };
        let findings = found.iter().map(|(why, _)| (*why).to_owned()).collect();
        if let Some((why, detail)) = found {
            forwarded.distrust(why, detail);
        }
        Inspected { forwarded, findings }
    }

    /// Whether a result may go to the agent; if not, a code and a sentence for the operator.
    pub(super) fn judge(&self, result: &Value, length: usize) -> Result<(), (&'static str, String)> {
        let bad = |detail: &str| Err(("bad_answer", detail.to_owned()));
        let Some(members) = result.as_object() else { return bad("the result is not an object") };
        match members.get("resultType").map(Value::as_str) {
            None | Some(Some("complete")) => {}
            Some(Some("input_required")) => return Ok(()),
            Some(_) => return bad("the `resultType` is not one that was asked for"),
        }
        let member = |name: &str, fits: fn(&Value) -> bool| members.get(name).is_some_and(fits);
        match self.operation {
            Operation::CallTool => self.judge_tool(members, length),
            Operation::ReadResource if !member("contents", |value| value.as_array().is_some()) => {
                bad("the result has no array `contents`")
            }
            Operation::GetPrompt if !member("messages", |value| value.as_array().is_some()) => {
                bad("the result has no array `messages`")
            }
            Operation::Complete if !member("completion", |value| value.as_object().is_some()) => {
                bad("the result has no object `completion`")
            }
            _ => Ok(()),
        }
    }

    fn judge_tool(&self, members: &Object, length: usize) -> Result<(), (&'static str, String)> {
        let bad = |detail: &str| Err(("bad_answer", detail.to_owned()));
        if let Some(content) = members.get("content") {
            let typed = |block: &Value| block.get("type").is_some_and(|kind| kind.as_str().is_some());
            if !content.as_array().is_some_and(|blocks| blocks.iter().all(typed)) {
                return bad("`content` is not an array of objects that each have a `type`");
            }
        }
        let failed = match members.get("isError") {
            None => false,
            Some(Value::Bool(failed)) => *failed,
            Some(_) => return bad("`isError` is neither true nor false"),
        };
        let Some(output) = self.output.as_ref().filter(|_| !failed) else { return Ok(()) };
        let Some(structured) = members.get("structuredContent") else {
            return Err((
                "output_schema",
                "the tool has an `outputSchema`, the result no `structuredContent`".to_owned(),
            ));
        };
        output.fits(structured, length).map_err(|Misfit { pointer, problem }| {
            let detail =
                format!("`structuredContent` does not fit the `outputSchema`: {} {problem}", quoted(&pointer, 256));
            ("output_schema", detail)
        })
    }
}

/// The name agents know a tool by.
///
/// # Errors
/// Why the upstream's name cannot be part of one, a sentence for the operator.
pub(super) fn agent_name(upstream: &UpstreamName, tool: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if tool.is_empty() || !tool.bytes().all(plain) {
        return Err("agents cannot use its name: letters, digits, `_`, `-` and `.` make one".to_owned());
    }
    let name = format!("{upstream}__{tool}");
    if name.len() > LONGEST_NAME {
        return Err(format!("agents cannot use its name: with the upstream's it is longer than {LONGEST_NAME} bytes"));
    }
    Ok(name)
}

fn resource_schema() -> serde_json::Value {
    serde_json::json!({
        "type": "object",
        "properties": { "uri": { "type": "string", "maxLength": 8192 } },
        "required": ["uri"],
        "additionalProperties": false
    })
}

fn prompt_schema() -> serde_json::Value {
    serde_json::json!({
        "type": "object",
        "properties": {
            "name": { "type": "string", "maxLength": 1024 },
            "arguments": { "type": "object", "additionalProperties": { "type": "string" } }
        },
        "required": ["name"],
        "additionalProperties": false
    })
}

fn completion_schema(completes: Completes) -> serde_json::Value {
    let text = serde_json::json!({ "type": "string", "maxLength": 8192 });
    let (kind, named) = match completes {
        Completes::Prompt => ("ref/prompt", "name"),
        Completes::Resource => ("ref/resource", "uri"),
    };
    let mut reference = serde_json::json!({
        "type": "object",
        "properties": { "type": { "const": kind }, "title": text },
        "required": ["type", named],
        "additionalProperties": false
    });
    if let Some(properties) = reference.get_mut("properties").and_then(serde_json::Value::as_object_mut) {
        properties.insert(named.to_owned(), text.clone());
    }
    serde_json::json!({
        "type": "object",
        "properties": {
            "ref": reference,
            "argument": {
                "type": "object",
                "properties": { "name": text, "value": text },
                "required": ["name", "value"],
                "additionalProperties": false
            },
            "context": {
                "type": "object",
                "properties": { "arguments": { "type": "object", "additionalProperties": { "type": "string" } } },
                "additionalProperties": false
            }
        },
        "required": ["ref", "argument"],
        "additionalProperties": false
    })
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
