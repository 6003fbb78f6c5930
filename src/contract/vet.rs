//! Whether a schema can be trusted to bound anything.
//!
//! A schema comes from a tool server and is not trusted: it may be wrong, or made to let everything
//! through, or made to take forever. What is refused here, and why, is listed at [`Vetted::new`]; a refusal
//! is a sentence for the operator, and the tool is not offered.

use std::collections::HashSet;

use jsonschema::{PatternOptions, error::ValidationErrorKind};
use serde_json::Value as Schema;

use super::{
    quoted,
    shape::{self, Cost, Dialect, Shape},
    tool::ParamHeader,
};
use crate::{
    call::{Pointer, cut},
    display::visible,
    json::{self, Object, Validator, Value},
};

/// The most bytes of a schema's compact text.
pub const MOST_BYTES: usize = 256 << 10;
/// The most levels of nesting in a schema.
pub const MOST_LEVELS: usize = 64;
/// The most sub-schemas, when every reference is replaced by what it names; a pattern counts as 20.
pub const MOST_EXPANDED: u64 = 10_000;
/// The most bytes of one compiled pattern.
pub const MOST_PATTERN_BYTES: usize = 256 << 10;

/// A failing instance is looked at again for a better message only while this bounds the work:
/// bytes of the instance times sub-schemas.
const MOST_EXPLAINED: u64 = 64 << 20;

/// The most sub-schemas one within the other while an instance is looked at, where a schema refers to
/// itself: a validator takes stack for each.
const MOST_STACKED: usize = 1_000;

/// A schema that bounds what it is asked about, compiled.
#[derive(Debug)]
pub struct Vetted {
    validator: Validator,
    shape: Shape,
    cost: Cost,
}

/// Where an instance does not fit, and what is wrong with it: never a value of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// JSON Pointer (RFC 6901) into the instance.
    pub pointer: Pointer,
    /// What is wrong, to be read after the pointer.
    pub problem: String,
}

impl Vetted {
    /// Vets and compiles a schema.
    ///
    /// # Errors
    /// A sentence for the operator when the schema is too long ([`MOST_BYTES`]) or too deep
    /// ([`MOST_LEVELS`]), is of a dialect that is not supported, does not compile, refers to something
    /// outside its own document, refers to itself without progress (which would validate as true),
    /// expands to more than [`MOST_EXPANDED`] sub-schemas, or has a pattern that is no linear regular
    /// expression or compiles to more than [`MOST_PATTERN_BYTES`].
    pub fn new(schema: &Value) -> Result<Self, String> {
        if !matches!(schema, Value::Object(_) | Value::Bool(_)) {
            return Err("it is neither an object nor a boolean".to_owned());
        }
        if too_deep(schema, MOST_LEVELS) {
            return Err(format!("it is nested more than {MOST_LEVELS} levels deep"));
        }
        let length = schema.to_bytes().len();
        if length > MOST_BYTES {
            return Err(format!("it is {length} bytes long; at most {MOST_BYTES} are read"));
        }
        let schema = schema.to_serde();
        let dialect = Dialect::of(&schema)?;
        let (shape, cost) = Shape::of(&schema, dialect, MOST_EXPANDED, |pattern| {
            let alone = serde_json::json!({ "pattern": pattern });
            compile(&alone, Dialect::Draft202012)
        })?;
        let validator = compile(&schema, dialect)?;
        Ok(Self { validator, shape, cost })
    }

    /// Whether an instance fits.
    ///
    /// # Errors
    /// [`Misfit`] with the first place where it does not.
    pub fn fits(&self, instance: &Value, length: usize) -> Result<(), Misfit> {
        if self.cost.recursive && too_deep(instance, MOST_STACKED / self.cost.longest.max(1)) {
            let problem = "are nested too deep for a schema that refers to itself".to_owned();
            return Err(Misfit { pointer: String::new(), problem });
        }
        if self.validator.is_valid(instance) {
            return Ok(());
        }
        let work = u64::try_from(length).unwrap_or(u64::MAX).saturating_mul(self.cost.expanded);
        let vague = || Misfit { pointer: String::new(), problem: "do not fit the schema".to_owned() };
        // only the answer yes or no is bounded for a schema that refers to itself
        if self.cost.recursive || work > MOST_EXPLAINED {
            return Err(vague());
        }
        // two walks that disagree would be a defect in the validator; the refusal stands all the same
        let (pointer, problem) = json::first_error(&self.validator, instance).ok_or_else(vague)?;
        Err(Misfit { pointer: cut_pointer(&pointer), problem: visible(&problem) })
    }

    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }
}

/// The first member that none of the schemas declares, as a pointer. At the top a member is declared by
/// `properties`, by a `patternProperties` that matches, or by an `additionalProperties` or
/// `unevaluatedProperties` that is written out and is not `false`. Further down this holds for objects
/// whose schemas have `properties` and are silent about all others.
pub fn undeclared(schemas: &[&Vetted], arguments: &Value) -> Option<Pointer> {
    let shapes: Vec<&Shape> = schemas.iter().map(|schema| schema.shape()).collect();
    shape::undeclared(&shapes, arguments).map(|pointer| cut_pointer(&pointer))
}

/// Whether a schema is one of arguments: an object's.
///
/// # Errors
/// A sentence for the operator.
pub fn takes_an_object(schema: &Value) -> Result<(), String> {
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err("its `type` is not `object`".to_owned());
    }
    let dialect = Dialect::of(&schema.to_serde())?;
    if dialect.ignores_siblings() && schema.get("$ref").is_some() {
        return Err("its dialect ignores everything beside the `$ref` at its root, `type` too".to_owned());
    }
    Ok(())
}

/// The arguments that clients repeat in headers (MCP 2026-07-28, streamable HTTP, "Schema Extension").
///
/// # Errors
/// A sentence for the operator when an `x-mcp-header` is not a header name, is there twice (letter case
/// aside), is on something else than a string, integer or boolean, or is anywhere but on a property
/// that a chain of `properties` leads to.
pub fn headers(schema: &Value) -> Result<Vec<ParamHeader>, String> {
    let mut found = Vec::new();
    let stops_at_ref = Dialect::of(&schema.to_serde())?.ignores_siblings();
    let mut path = Vec::new();
    find_headers(schema, Reach { properties: true, stops_at_ref }, &mut path, 0, &mut found)?;
    let mut names = HashSet::new();
    match found.iter().find(|header: &&ParamHeader| !names.insert(header.header.as_str())) {
        Some(twice) => Err(format!("two of its properties have the `x-mcp-header` {}", quoted(&twice.header, 80))),
        None => Ok(found),
    }
}

/// The keywords of all dialects, annotations too.
const KEYWORDS: [&str; 63] = [
    "$anchor",
    "$comment",
    "$defs",
    "$dynamicAnchor",
    "$dynamicRef",
    "$id",
    "$recursiveAnchor",
    "$recursiveRef",
    "$ref",
    "$schema",
    "$vocabulary",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "contains",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "definitions",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "deprecated",
    "description",
    "else",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "id",
    "if",
    "items",
    "maxContains",
    "maximum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "minContains",
    "minimum",
    "minItems",
    "minLength",
    "minProperties",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "propertyNames",
    "readOnly",
    "required",
    "then",
    "title",
    "type",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "writeOnly",
];

/// Whether a schema that an operator wrote has a misspelt keyword: JSON Schema passes over keywords that it
/// does not know, and what was meant to narrow would narrow nothing. Keywords that start with `x-` are the
/// operator's own.
///
/// # Errors
/// A sentence for the operator with the nearest keyword.
pub fn spelling(schema: &Value) -> Result<(), String> {
    spelling_at(schema, 0)
}

fn spelling_at(schema: &Value, level: usize) -> Result<(), String> {
    if level > MOST_LEVELS {
        return Ok(());
    }
    if let Some(items) = schema.as_array() {
        return items.iter().try_for_each(|item| spelling_at(item, level + 1));
    }
    for (keyword, value) in schema.as_object().into_iter().flat_map(Object::iter) {
        if !KEYWORDS.contains(&keyword) && !keyword.starts_with("x-") {
            let nearest = KEYWORDS.into_iter().min_by_key(|known| strsim::damerau_levenshtein(known, cut(keyword, 64)));
            let nearest = nearest.unwrap_or_default();
            return Err(format!("{} is no keyword of JSON Schema; the nearest is `{nearest}`", quoted(keyword, 80)));
        }
        match keyword {
            "enum" | "const" | "default" | "examples" | "required" | "dependentRequired" => {}
            "properties" | "patternProperties" | "$defs" | "definitions" | "dependentSchemas" | "dependencies"
            | "$vocabulary" => {
                let mut subs = value.as_object().into_iter().flat_map(Object::iter);
                subs.try_for_each(|(_, sub)| spelling_at(sub, level + 1))?;
            }
            _ => spelling_at(value, level + 1)?,
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Reach {
    /// Only `properties` led here.
    properties: bool,
    /// A `$ref` hides what stands beside it.
    stops_at_ref: bool,
}

fn find_headers(
    schema: &Value,
    reach: Reach,
    path: &mut Vec<String>,
    level: usize,
    found: &mut Vec<ParamHeader>,
) -> Result<(), String> {
    if level > MOST_LEVELS {
        return Ok(());
    }
    if let Some(items) = schema.as_array() {
        let aside = Reach { properties: false, ..reach };
        return items.iter().try_for_each(|item| find_headers(item, aside, path, level + 1, found));
    }
    let Some(members) = schema.as_object() else { return Ok(()) };
    let hidden = reach.stops_at_ref && members.get("$ref").is_some();
    let reach = Reach { properties: reach.properties && !hidden, ..reach };
    if let Some(name) = members.get("x-mcp-header") {
        if !reach.properties || path.is_empty() {
            return Err("an `x-mcp-header` is on something that `properties` alone does not lead to".to_owned());
        }
        let name = name.as_str().filter(|name| is_token(name));
        let name = name.ok_or("an `x-mcp-header` is not a header name (RFC 9110, token)")?;
        if !matches!(members.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
            return Err(format!(
                "the `x-mcp-header` {} is on a property whose `type` is not string, integer or boolean",
                quoted(name, 80)
            ));
        }
        found.push(ParamHeader { header: format!("mcp-param-{}", name.to_ascii_lowercase()), path: path.clone() });
    }
    for (keyword, value) in members.iter() {
        match keyword {
            // data, not schemas
            "enum" | "const" | "default" | "examples" | "x-mcp-header" => {}
            "properties" => {
                for (name, sub) in value.as_object().into_iter().flat_map(|members| members.iter()) {
                    path.push(name.to_owned());
                    find_headers(sub, reach, path, level + 1, found)?;
                    path.pop();
                }
            }
            "patternProperties" | "$defs" | "definitions" | "dependentSchemas" | "dependencies" => {
                let aside = Reach { properties: false, ..reach };
                for (_, sub) in value.as_object().into_iter().flat_map(|members| members.iter()) {
                    find_headers(sub, aside, path, level + 1, found)?;
                }
            }
            _ => find_headers(value, Reach { properties: false, ..reach }, path, level + 1, found)?,
        }
    }
    Ok(())
}

/// `1*tchar`, RFC 9110, section 5.6.2.
fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 128
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn too_deep(value: &Value, left: usize) -> bool {
    let Some(left) = left.checked_sub(1) else { return true };
    match value {
        Value::Array(items) => items.iter().any(|item| too_deep(item, left)),
        Value::Object(members) => members.iter().any(|(_, member)| too_deep(member, left)),
        _ => false,
    }
}

fn compile(schema: &Schema, dialect: Dialect) -> Result<Validator, String> {
    let patterns = PatternOptions::regex().size_limit(MOST_PATTERN_BYTES).dfa_size_limit(MOST_PATTERN_BYTES);
    json::options().with_draft(dialect.draft()).with_pattern_options(patterns).build(schema).map_err(|error| {
        let place = error.instance_path().as_str();
        let place = if place.is_empty() { String::new() } else { format!(" at {}", quoted(place, 120)) };
        match error.kind() {
            ValidationErrorKind::Format { format } if format == "regex" => {
                format!("a pattern{place} is no regular expression that runs in linear time, or is too large")
            }
            _ => format!("it does not compile{place}: {}", quoted(&error.to_string(), 200)),
        }
    })
}

/// Member names come from the caller: a pointer made of them is kept short.
fn cut_pointer(pointer: &str) -> String {
    const MOST: usize = 256;
    if pointer.len() <= MOST {
        return pointer.to_owned();
    }
    format!("{}…", cut(pointer, MOST))
}
