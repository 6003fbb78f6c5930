//! The vocabulary of grants: the Cedar schema that contracts give.
//!
//! | JSON Schema | Cedar |
//! |---|---|
//! | `string`, an `enum` of strings | `String` |
//! | `boolean` | `Boolean` |
//! | `integer` | `Long` |
//! | `number` | `decimal`, four places; a value that does not fit refuses the call |
//! | `object` with `properties` | a record; a member is optional unless `required` |
//! | `array` with one `items` schema | `Set` |
//! | anything else: unions, open objects, `null`, tuples | left out: policies cannot see it |
//!
//! Every tool is an action, in a group for each of its impacts and in `Action::"call"`. `resource_read`, `prompt_get`
//! and what upstreams may ask of a client are in no group at all: a grant that opens every `read` tool shall not open
//! resources unseen, nor let an upstream question the client. They have to be named.
//!
//! The Cedar project's own generator for MCP tools is not used: it refuses the global namespace, in which grants read
//! `Agent::"…"` and not `Ns::Agent::"…"`, and it pins an exact version of Cedar's internals.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value as Json, json};

use super::decide::Asked;
use crate::{
    call::Operation,
    contract::{Catalog, Impact, Quarantine, UpstreamName},
    json::Digest,
};

/// The group that every tool is in.
pub(super) const CALL: &str = "call";

const MAX_DEPTH: usize = 16;
const MAX_TYPES: usize = 4_096;

/// What policies see of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Type {
    String,
    Bool,
    Long,
    Decimal,
    Record(Record),
    Set(Box<Self>),
}

/// The members of an object that policies see.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) fields: Vec<Field>,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Type,
    pub(super) required: bool,
}

/// One action: a tool, a built-in contract, or something an upstream may ask.
#[derive(Clone, Debug, Default)]
pub(super) struct Action {
    /// Groups it is in.
    pub(super) groups: BTreeSet<&'static str>,
    /// Type of `context.input`; none where there is no input.
    pub(super) input: Option<Arc<Record>>,
    /// Members that policies cannot see, as `a.b`, and why.
    pub(super) hidden: Vec<(String, &'static str)>,
    /// Labels of the data it touches.
    pub(super) labels: Vec<String>,
    /// Whose it is: one upstream for a tool, any for the rest.
    pub(super) upstreams: BTreeSet<UpstreamName>,
    /// Digests of the contracts that it was read from.
    pub(super) contracts: BTreeMap<UpstreamName, Vec<Digest>>,
}

/// Every name that a policy may use.
#[derive(Clone, Debug, Default)]
pub(super) struct Vocabulary {
    pub(super) actions: BTreeMap<String, Action>,
    pub(super) upstreams: BTreeMap<UpstreamName, Vec<String>>,
    /// Tools in quarantine. A policy may name one: it matches nothing until the tool is back, and its types are
    /// checked then. Else one changed tool would take every grant down with it.
    pub(super) away: BTreeSet<String>,
}

impl Vocabulary {
    /// The vocabulary of a catalog. `labels` are those that the configuration gives to upstreams.
    pub(super) fn new(catalog: &Catalog, labels: &BTreeMap<UpstreamName, Vec<String>>) -> Self {
        let mut words = Self { upstreams: labels.clone(), ..Self::default() };
        for tool in catalog.all() {
            if tool.operation != Operation::CallTool {
                let labels = words.upstreams.entry(tool.upstream.clone()).or_default();
                labels.extend(tool.labels.iter().cloned());
            }
            let groups = (tool.operation == Operation::CallTool).then_some(&tool.impact);
            words.add(&tool.action, &tool.upstream, groups, &tool.labels, &tool.input_schema());
            let action = words.actions.entry(tool.action.clone()).or_default();
            action.contracts.entry(tool.upstream.clone()).or_default().push(tool.digest);
        }
        for away in catalog.quarantined().iter().filter(|away| away.why != Quarantine::Unregistered) {
            words.away.insert(format!("{}__{}", away.upstream, away.tool));
        }
        words.finish()
    }

    /// Adds an action of an upstream; `impact` where it is a tool. Of an action that several upstreams have, the
    /// first gives the types.
    pub(super) fn add(
        &mut self,
        name: &str,
        upstream: &UpstreamName,
        impact: Option<&BTreeSet<Impact>>,
        labels: &[String],
        schema: &Json,
    ) {
        self.upstreams.entry(upstream.clone()).or_default();
        let action = self.actions.entry(name.to_owned()).or_default();
        action.upstreams.insert(upstream.clone());
        if action.input.is_some() {
            return;
        }
        let mut reader = Reader { root: schema, hidden: Vec::new(), left: MAX_TYPES };
        let input = match reader.read(schema, "", 0) {
            Some(Type::Record(record)) => record,
            _ => Record::default(),
        };
        action.hidden = reader.hidden;
        action.input = Some(Arc::new(input));
        if let Some(impact) = impact {
            action.groups = impact.iter().map(|impact| impact.word()).chain([CALL]).collect();
            action.labels = labels.to_vec();
        }
    }

    /// Adds what every upstream has.
    pub(super) fn finish(mut self) -> Self {
        let words = &mut self;
        let text =
            |name: &str| Record { fields: vec![Field { name: name.to_owned(), kind: Type::String, required: true }] };
        for (name, input) in [("resource_read", text("uri")), ("prompt_get", text("name"))] {
            words
                .actions
                .entry(name.to_owned())
                .or_insert_with(|| Action { input: Some(Arc::new(input)), ..Action::default() });
        }
        for asked in Asked::ALL {
            words.actions.entry(asked.action().to_owned()).or_default();
        }
        for action in words.actions.values_mut().filter(|action| action.groups.is_empty()) {
            action.upstreams = words.upstreams.keys().cloned().collect();
        }
        self
    }

    /// Whether `name` is a group of actions.
    pub(super) fn is_group(name: &str) -> bool {
        name == CALL || Impact::ALL.iter().any(|impact| impact.word() == name)
    }

    /// Whether a policy may name it.
    pub(super) fn knows_action(&self, name: &str) -> bool {
        self.actions.contains_key(name) || self.away.contains(name) || Self::is_group(name)
    }

    /// Names of actions and groups.
    pub(super) fn action_names(&self) -> impl Iterator<Item = &str> {
        self.actions.keys().map(String::as_str).chain(Impact::ALL.iter().map(|impact| impact.word())).chain([CALL])
    }

    /// The Cedar schema of some of the actions, in Cedar's JSON form; groups are always in it.
    pub(super) fn cedar<'a>(&self, names: impl Iterator<Item = &'a str>) -> Json {
        let mut actions = serde_json::Map::new();
        for group in Impact::ALL.iter().map(|impact| impact.word()).chain([CALL]) {
            actions.insert(group.to_owned(), json!({}));
        }
        for name in self.away.iter().filter(|name| !self.actions.contains_key(*name)) {
            actions.insert(name.clone(), json!({}));
        }
        for name in names {
            let Some(action) = self.actions.get(name) else { continue };
            let mut context = serde_json::Map::new();
            context.insert("session".to_owned(), session());
            context.insert("now".to_owned(), json!({"type": "Extension", "name": "datetime"}));
            if let Some(input) = &action.input {
                context.insert("input".to_owned(), input.cedar());
            }
            actions.insert(
                name.to_owned(),
                json!({
                    "memberOf": action.groups.iter().map(|group| json!({"id": group})).collect::<Vec<_>>(),
                    "appliesTo": {
                        "principalTypes": ["Agent"],
                        "resourceTypes": ["Upstream"],
                        "context": {"type": "Record", "attributes": context},
                    },
                }),
            );
        }
        let strings = json!({"type": "Set", "element": {"type": "String"}});
        let text = json!({"type": "String"});
        let maybe = json!({"type": "String", "required": false});
        json!({"": {
            "entityTypes": {
                "Agent": {
                    "memberOfTypes": ["Team"],
                    "shape": {"type": "Record", "attributes": {
                        "issuer": text, "user": maybe, "task": maybe, "workload": maybe,
                        "teams": strings, "scopes": strings, "chain": strings, "assurance": text,
                    }},
                },
                "Team": {},
                "Upstream": {"shape": {"type": "Record", "attributes": {"labels": strings}}},
            },
            "actions": actions,
        }})
    }
}

fn session() -> Json {
    json!({"type": "Record", "attributes": {
        "calls": {"type": "Long"},
        "calls_of_tool": {"type": "Long"},
        "age_seconds": {"type": "Long"},
        "labels": {"type": "Set", "element": {"type": "String"}},
    }})
}

impl Type {
    fn cedar(&self) -> Json {
        match self {
            Self::String => json!({"type": "String"}),
            Self::Bool => json!({"type": "Boolean"}),
            Self::Long => json!({"type": "Long"}),
            Self::Decimal => json!({"type": "Extension", "name": "decimal"}),
            Self::Record(record) => record.cedar(),
            Self::Set(element) => json!({"type": "Set", "element": element.cedar()}),
        }
    }
}

impl Record {
    pub(super) fn cedar(&self) -> Json {
        let mut attributes = serde_json::Map::new();
        for field in &self.fields {
            let mut kind = field.kind.cedar();
            if let Some(kind) = kind.as_object_mut() {
                kind.insert("required".to_owned(), field.required.into());
            }
            attributes.insert(field.name.clone(), kind);
        }
        json!({"type": "Record", "attributes": attributes})
    }
}

/// Reads one contract's input schema.
struct Reader<'a> {
    root: &'a Json,
    hidden: Vec<(String, &'static str)>,
    /// How many more schemas may be read: references can make a small document large.
    left: usize,
}

impl Reader<'_> {
    fn read(&mut self, schema: &Json, path: &str, depth: usize) -> Option<Type> {
        match self.typed(schema, path, depth) {
            Ok(kind) => Some(kind),
            Err(why) => {
                self.hidden.push((path.to_owned(), why));
                None
            }
        }
    }

    fn typed(&mut self, schema: &Json, path: &str, depth: usize) -> Result<Type, &'static str> {
        if depth >= MAX_DEPTH || self.left == 0 {
            return Err("its schema is too deep");
        }
        self.left -= 1;
        let Some(schema) = schema.as_object() else { return Err("its schema names no type") };
        if let Some(reference) = schema.get("$ref") {
            let root = self.root;
            let target = reference
                .as_str()
                .and_then(|reference| reference.strip_prefix('#'))
                .filter(|pointer| pointer.is_empty() || pointer.starts_with('/'))
                .and_then(|pointer| root.pointer(pointer))
                .ok_or("its schema refers to something that cannot be followed here")?;
            return self.typed(target, path, depth + 1);
        }
        if ["anyOf", "oneOf", "allOf", "not", "if"].iter().any(|word| schema.contains_key(*word)) {
            // at the top such words only narrow what `properties` say
            if !(path.is_empty() && schema.contains_key("properties")) {
                return Err("its schema is a combination of others");
            }
        }
        if let Some(values) = schema.get("enum").and_then(Json::as_array) {
            return match values.iter().all(Json::is_string) {
                true => Ok(Type::String),
                false => Err("its values are not all strings"),
            };
        }
        if schema.get("const").is_some_and(Json::is_string) {
            return Ok(Type::String);
        }
        match schema.get("type").and_then(Json::as_str) {
            Some("string") => Ok(Type::String),
            Some("boolean") => Ok(Type::Bool),
            Some("integer") => Ok(Type::Long),
            Some("number") => Ok(Type::Decimal),
            Some("array") => {
                if schema.contains_key("prefixItems") {
                    return Err("it is a tuple");
                }
                let items = schema.get("items").filter(|items| items.is_object()).ok_or("its items have no type")?;
                Ok(Type::Set(Box::new(self.typed(items, &format!("{path}[]"), depth + 1)?)))
            }
            Some("object") | None if schema.contains_key("properties") || path.is_empty() => {
                let declared = schema.get("properties").and_then(Json::as_object);
                if declared.is_none() && !path.is_empty() {
                    return Err("its members are not declared");
                }
                let required: BTreeSet<&str> = schema
                    .get("required")
                    .and_then(Json::as_array)
                    .map(|names| names.iter().filter_map(Json::as_str).collect())
                    .unwrap_or_default();
                let mut fields = Vec::new();
                for (name, schema) in declared.into_iter().flatten() {
                    let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    if let Some(kind) = self.read(schema, &inner, depth + 1) {
                        let required = required.contains(name.as_str());
                        fields.push(Field { name: name.clone(), kind, required });
                    }
                }
                Ok(Type::Record(Record { fields }))
            }
            Some("object") => Err("its members are not declared"),
            Some("null") => Err("it is always null"),
            _ => Err("its schema names no single type"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(schema: &Json) -> (Record, Vec<String>) {
        let mut reader = Reader { root: schema, hidden: Vec::new(), left: MAX_TYPES };
        let Some(Type::Record(record)) = reader.read(schema, "", 0) else { panic!("no record") };
        (record, reader.hidden.into_iter().map(|(path, _)| path).collect())
    }

    #[test]
    fn each_json_type_has_its_cedar_type_and_the_rest_is_hidden() {
        let schema = json!({
            "type": "object",
            "properties": {
                "text": {"type": "string"}, "flag": {"type": "boolean"}, "count": {"type": "integer"},
                "price": {"type": "number"}, "colour": {"enum": ["red", "blue"]},
                "tags": {"type": "array", "items": {"type": "string"}},
                "address": {"type": "object", "properties": {"zip code": {"type": "string"}}, "required": ["zip code"]},
                "where": {"$ref": "#/$defs/place"},
                "either": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "nullable": {"type": ["string", "null"]},
                "free": {"type": "object"}, "tuple": {"type": "array", "prefixItems": [{"type": "string"}]},
                "far": {"$ref": "https://example.com/x"},
            },
            "required": ["text", "either"],
            "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}}},
        });
        let (record, mut hidden) = read(&schema);
        let kind = |name: &str| record.fields.iter().find(|field| field.name == name).map(|field| field.kind.clone());
        assert_eq!(kind("text"), Some(Type::String));
        assert_eq!(kind("flag"), Some(Type::Bool));
        assert_eq!(kind("count"), Some(Type::Long));
        assert_eq!(kind("price"), Some(Type::Decimal));
        assert_eq!(kind("colour"), Some(Type::String));
        assert_eq!(kind("tags"), Some(Type::Set(Box::new(Type::String))));
        assert!(matches!(kind("address"), Some(Type::Record(_))));
        assert!(matches!(kind("where"), Some(Type::Record(_))));
        assert!(record.fields.iter().all(|field| field.required == (field.name == "text")));
        hidden.sort();
        assert_eq!(hidden, ["either", "far", "free", "nullable", "tuple"]);
    }

    #[test]
    fn references_that_loop_or_double_end() {
        let looping = json!({"type": "object", "properties": {"a": {"$ref": "#/properties/a"}, "b": {"$ref": "#"}}});
        let (record, hidden) = read(&looping);
        assert!(record.fields.len() <= 1, "{record:?}");
        assert!(!hidden.is_empty());
        let doubling = json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/n0"}}, "$defs": {
            "n0": {"type": "object", "properties": {"l": {"$ref": "#/$defs/n0"}, "r": {"$ref": "#/$defs/n0"}}},
        }});
        let (_, hidden) = read(&doubling);
        assert!(hidden.len() < 2 * MAX_TYPES);
    }
}
