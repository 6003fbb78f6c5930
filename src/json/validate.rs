//! Lets `jsonschema` validate our own tree, so that nothing is parsed twice.
//!
//! Compile a schema for this tree with [`options`], which closes every door that a schema from a tool
//! server could open, then ask [`first_error`]:
//!
//! ```
//! use countersign::json::{self, Limits, Validator};
//!
//! let schema = serde_json::json!({"type": "object", "properties": {"amount": {"maximum": 100}}});
//! let validator: Validator = json::options().build(&schema).unwrap();
//! let value = json::parse(br#"{"amount": 101}"#, &Limits::REQUEST).unwrap();
//! let (pointer, problem) = json::first_error(&validator, &value).unwrap();
//! assert_eq!((pointer.as_str(), problem.as_str()), ("/amount", "must be at most 100"));
//! ```
//!
//! A validator compiled for [`Tree`] takes `&Value` in `is_valid`, `validate` and `iter_errors`. Its errors
//! are for [`first_error`] only: the instance in them is always `null`, since copying it for each
//! branch of an `anyOf` would let a large hostile value cost many times its size. A keyword of ours reads the
//! node it is given, never a copy.
//!
//! Numbers count by their text where the validator asks for it (`type`, `multipleOf`, `uniqueItems`, items
//! and members in `const` and `enum`); a bound, and a `const` that is a number, are compared as 64-bit integers,
//! else as doubles, which is exact for everything that has a canonical form.

use std::{borrow::Cow, collections::HashSet};

use jsonschema::{
    PatternOptions, ValidationError, ValidationOptions,
    error::{TypeKind, ValidationErrorKind},
    json::{Array, Json, JsonNumber, Node, NodeIdentity, Object as Members},
    types::JsonType,
};

use super::{Number, Object, Value, decimal::Decimal};

/// Marks [`Value`] as a representation that `jsonschema` can walk.
#[derive(Clone, Copy, Debug)]
pub struct Tree;

/// A compiled schema that validates [`Value`]s.
pub type Validator = jsonschema::Validator<Tree>;

/// How schemas are compiled here: `format` is asserted (one that JSON Schema does not define, such as `uint32`,
/// says nothing), patterns run in linear time, and no reference leaves the document. The dialect is that of
/// `$schema`, else 2020-12.
pub fn options() -> ValidationOptions<'static, std::sync::Arc<dyn jsonschema::Retrieve>, Tree> {
    jsonschema::options_for::<Tree>()
        .with_pattern_options(PatternOptions::regex())
        .should_validate_formats(true)
        .offline()
}

/// The first thing that `value` does wrong: a JSON Pointer (RFC 6901) into it and a short sentence that
/// goes on from there (`must be a string`, `is required`, `is not declared`). The sentence quotes the
/// schema at most, never the value. `None` when the value is valid.
///
/// Of a value of more than 2,000 parts it is only said that it is not valid: a report on every branch of an
/// `anyOf` could be many times its size.
pub fn first_error(validator: &Validator, value: &Value) -> Option<(String, String)> {
    if validator.is_valid(value) {
        return None;
    }
    let vague = || (String::new(), "does not match its schema".to_owned());
    if exceeds(value, &mut 2_000) {
        return Some(vague());
    }
    // Two walks that disagree would be a defect in the validator; the refusal stands all the same.
    Some(validator.validate(value).err().map_or_else(vague, |error| describe(&error)))
}

/// Whether the tree has more values than are `left`.
fn exceeds(value: &Value, left: &mut usize) -> bool {
    let Some(rest) = left.checked_sub(1) else { return true };
    *left = rest;
    match value {
        Value::Array(items) => items.iter().any(|item| exceeds(item, left)),
        Value::Object(object) => object.iter().any(|(_, value)| exceeds(value, left)),
        _ => false,
    }
}

fn describe(error: &ValidationError<'_>) -> (String, String) {
    let mut pointer = error.instance_path().as_str().to_owned();
    let member = match error.kind() {
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            if let Some(meant) = meant(context) {
                return describe(meant);
            }
            None
        }
        ValidationErrorKind::PropertyNames { error } => {
            return (pointer, format!("has a member whose name {}", problem(error.kind())));
        }
        ValidationErrorKind::Required { property } => property.as_str(),
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => unexpected.first().map(String::as_str),
        _ => None,
    };
    if let Some(name) = member {
        pointer.push('/');
        pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    }
    (pointer, problem(error.kind()))
}

/// Of branches that all failed, the complaint of the only one that asks for a value of this type at all.
fn meant<'b, 'i>(branches: &'b [Vec<ValidationError<'i>>]) -> Option<&'b ValidationError<'i>> {
    let of_type = |error: &&ValidationError<'_>| matches!(error.kind(), ValidationErrorKind::Type { .. });
    let level = branches.iter().flatten().map(|error| error.instance_path().as_str().len()).min()?;
    let mistyped = |branch: &&Vec<ValidationError<'_>>| {
        branch.iter().filter(of_type).any(|error| error.instance_path().as_str().len() == level)
    };
    let mut fitting = branches.iter().filter(|branch| !mistyped(branch));
    let only = fitting.next()?;
    if fitting.next().is_some() { None } else { only.first() }
}

fn problem(kind: &ValidationErrorKind) -> String {
    use ValidationErrorKind as Kind;
    match kind {
        Kind::AdditionalItems { limit } => format!("must have at most {limit} items"),
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => "is not declared".to_owned(),
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => match types_of(context) {
            Some(types) => format!("must be {types}"),
            None => "must have one of the shapes that the schema allows".to_owned(),
        },
        Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "cannot be checked against its pattern: send a shorter text".to_owned()
        }
        Kind::Constant { expected_value } => format!("must be {}", brief(expected_value)),
        Kind::Contains => "must contain an item that the schema asks for".to_owned(),
        Kind::ContentEncoding { content_encoding } => format!("must be encoded as `{content_encoding}`"),
        Kind::FromUtf8 { .. } => "must be encoded UTF-8".to_owned(),
        Kind::ContentMediaType { content_media_type } => format!("must be of media type `{content_media_type}`"),
        Kind::Custom { message, .. } => message.clone(),
        Kind::Enum { options } => format!("must be one of {}", brief(options)),
        Kind::ExclusiveMaximum { limit } => format!("must be less than {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("must be more than {limit}"),
        Kind::FalseSchema => "is not allowed".to_owned(),
        Kind::Format { format } => format!("must have the format `{format}`"),
        Kind::MaxItems { limit } => format!("must have at most {limit} items"),
        Kind::Maximum { limit } => format!("must be at most {limit}"),
        Kind::MaxLength { limit } => format!("must have at most {limit} characters"),
        Kind::MaxProperties { limit } => format!("must have at most {limit} members"),
        Kind::MinItems { limit } => format!("must have at least {limit} items"),
        Kind::Minimum { limit } => format!("must be at least {limit}"),
        Kind::MinLength { limit } => format!("must have at least {limit} characters"),
        Kind::MinProperties { limit } => format!("must have at least {limit} members"),
        Kind::MultipleOf { multiple_of } => format!("must be a multiple of {multiple_of}"),
        Kind::Not { .. } => "has a shape that the schema rules out".to_owned(),
        Kind::OneOfMultipleValid { .. } => "must have exactly one of the shapes that the schema allows".to_owned(),
        Kind::Pattern { pattern } => format!("must match the pattern `{}`", cut(pattern)),
        Kind::PropertyNames { .. } => "has a member whose name is not allowed".to_owned(),
        Kind::Required { .. } => "is required".to_owned(),
        Kind::Type { kind: TypeKind::Single(kind) } => format!("must be {}", named(*kind)),
        Kind::Type { kind: TypeKind::Multiple(kinds) } => format!("must be {}", any_of(kinds.iter().map(named))),
        Kind::UnevaluatedItems { .. } => "has items that are not declared".to_owned(),
        Kind::UniqueItems => "must not have the same item twice".to_owned(),
        Kind::Referencing(_) => "cannot be checked: its schema has a reference that leads nowhere".to_owned(),
    }
}

/// The types asked for, when that is all that every branch complains of.
fn types_of(branches: &[Vec<ValidationError<'_>>]) -> Option<String> {
    let mut types = Vec::new();
    for branch in branches {
        let [only] = branch.as_slice() else { return None };
        match only.kind() {
            ValidationErrorKind::Type { kind: TypeKind::Single(kind) } => types.push(named(*kind)),
            ValidationErrorKind::Type { kind: TypeKind::Multiple(kinds) } => types.extend(kinds.iter().map(named)),
            _ => return None,
        }
    }
    (!types.is_empty()).then(|| any_of(types.into_iter()))
}

fn any_of(names: impl Iterator<Item = &'static str>) -> String {
    let mut all: Vec<_> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all.join(" or ")
}

fn named(kind: JsonType) -> &'static str {
    match kind {
        JsonType::Null => "null",
        JsonType::Boolean => "true or false",
        JsonType::Integer => "an integer",
        JsonType::Number => "a number",
        JsonType::String => "a string",
        JsonType::Array => "an array",
        JsonType::Object => "an object",
    }
}

/// A value of the schema, as far as a sentence can carry it.
fn brief(value: &serde_json::Value) -> String {
    let text = match value.as_array() {
        Some(items) => items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", "),
        None => format!("`{value}`"),
    };
    cut(&text)
}

fn cut(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
    }
}

impl Json for Tree {
    type Node<'a> = &'a Value;
    type PreparedKey = String;
    type StringBuffer = Name;

    const KEYS_PER_LOOKUP: usize = 4;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Name, string: &str, f: impl FnOnce(&Value) -> T) -> T {
        if let Value::String(text) = &mut buffer.0 {
            text.clear();
            text.push_str(string);
        } else {
            buffer.0 = Value::String(string.to_owned());
        }
        f(&buffer.0)
    }
}

/// Room for a member's name while `propertyNames` looks at it as a value.
#[derive(Debug)]
pub struct Name(Value);

impl Default for Name {
    fn default() -> Self {
        Self(Value::String(String::new()))
    }
}

impl<'a> Node<'a, Tree> for &'a Value {
    type Object = &'a Object;
    type Array = &'a [Value];
    type Number = &'a Number;

    fn as_object(&self) -> Option<&'a Object> {
        Value::as_object(self)
    }

    fn as_array(&self) -> Option<&'a [Value]> {
        Value::as_array(self)
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        Value::as_str(self).map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        Value::as_number(self)
    }

    fn as_boolean(&self) -> Option<bool> {
        Value::as_bool(self)
    }

    fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    fn json_type(&self) -> JsonType {
        match self {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn equals_value(&self, expected: &serde_json::Value) -> bool {
        same(self, expected)
    }

    fn to_value(&self) -> Cow<'a, serde_json::Value> {
        Cow::Owned(serde_json::Value::Null)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(std::ptr::from_ref::<Value>(self).addr()))
    }
}

impl<'a> Members<'a, Tree> for &'a Object {
    type Node = &'a Value;
    type MemberName = &'a str;
    type MembersIter = super::value::Iter<'a>;

    fn len(&self) -> usize {
        Object::len(self)
    }

    fn get(&self, key: &String) -> Option<&'a Value> {
        Object::get(self, key)
    }

    fn members(&self) -> Self::MembersIter {
        Object::members(self)
    }
}

impl<'a> Array<'a, Tree> for &'a [Value] {
    type Node = &'a Value;
    type ElementsIter = std::slice::Iter<'a, Value>;

    fn len(&self) -> usize {
        <[Value]>::len(self)
    }

    fn elements(&self) -> Self::ElementsIter {
        self.iter()
    }

    fn is_unique(&self) -> bool {
        let mut seen = HashSet::with_capacity(<[Value]>::len(self));
        self.iter().all(|item| {
            let mut identity = Vec::new();
            identify(item, &mut identity);
            seen.insert(identity)
        })
    }
}

impl JsonNumber for &Number {
    fn as_u64(&self) -> Option<u64> {
        self.text().parse().ok()
    }

    fn as_i64(&self) -> Option<i64> {
        Number::as_i64(self)
    }

    fn as_f64(&self) -> Option<f64> {
        Some(Number::as_f64(self)).filter(|value| value.is_finite())
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.text())
    }

    /// Only error messages ask for it, and [`first_error`] does not show them.
    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        let exact = Number::as_i64(self).map(serde_json::Number::from);
        let nearest = || serde_json::Number::from_f64(Number::as_f64(self));
        Cow::Owned(exact.or_else(nearest).unwrap_or_else(|| 0.into()))
    }

    fn is_integer(&self) -> bool {
        self.is_written_as_integer() || Decimal::of(self.text()).is_integer()
    }

    fn is_written_as_integer(&self) -> bool {
        !self.text().contains(['.', 'e', 'E'])
    }
}

/// Equality as JSON Schema means it: numbers by value, members in any order.
fn same(value: &Value, expected: &serde_json::Value) -> bool {
    use serde_json::Value as Expected;
    match (value, expected) {
        (Value::Null, Expected::Null) => true,
        (Value::Bool(left), Expected::Bool(right)) => left == right,
        (Value::String(left), Expected::String(right)) => left == right,
        (Value::Number(left), Expected::Number(right)) => {
            let right = right.to_string();
            left.text() == right || Decimal::of(left.text()) == Decimal::of(&right)
        }
        (Value::Array(left), Expected::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Expected::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(name, left)| right.get(name).is_some_and(|right| same(left, right)))
        }
        _ => false,
    }
}

/// Appends bytes that two values share exactly when JSON Schema calls them equal.
fn identify(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => value.write(out),
        Value::Number(number) => {
            let Decimal { negative, digits, point } = Decimal::of(number.text());
            out.push(if negative { b'-' } else { b'+' });
            out.extend_from_slice(&digits);
            out.push(b'e');
            out.extend_from_slice(point.to_string().as_bytes());
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                identify(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::Object(object) => {
            let mut members: Vec<_> = object.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (name, value) in members {
                super::value::write_string(name, out);
                out.push(b':');
                identify(value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
    }
}
