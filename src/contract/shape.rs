//! What a schema says of which member: the graph of its sub-schemas.
//!
//! JSON Schema lets everything through that no keyword speaks of. A contract does not: arguments that no
//! schema declares are refused. [`Shape`] knows, for each place in an instance, which sub-schemas speak of
//! it. It is also what the cost of a schema is counted on, and where loops without progress show.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use jsonschema::{Draft, Registry, Uri};
use serde_json::Value as Schema;

use super::quoted;
use crate::json::{Validator, Value};

/// The dialects that are understood, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dialect {
    Draft4,
    Draft6,
    Draft7,
    Draft201909,
    Draft202012,
}

impl Dialect {
    /// The dialect that a schema names by `$schema`; 2020-12 where it names none (MCP 2026-07-28, basic,
    /// "JSON Schema Usage").
    pub(super) fn of(schema: &Schema) -> Result<Self, String> {
        let Some(named) = schema.get("$schema") else { return Ok(Self::Draft202012) };
        let uri = named.as_str().ok_or("its `$schema` is not a string")?;
        let plain = uri.strip_suffix('#').unwrap_or(uri);
        let plain = plain.strip_prefix("https://").or_else(|| plain.strip_prefix("http://")).unwrap_or_default();
        match plain {
            "json-schema.org/draft-04/schema" => Ok(Self::Draft4),
            "json-schema.org/draft-06/schema" => Ok(Self::Draft6),
            "json-schema.org/draft-07/schema" => Ok(Self::Draft7),
            "json-schema.org/draft/2019-09/schema" => Ok(Self::Draft201909),
            "json-schema.org/draft/2020-12/schema" => Ok(Self::Draft202012),
            _ => Err(format!(
                "its dialect {} is not supported; draft-04, draft-06, draft-07, 2019-09 and 2020-12 are",
                quoted(uri, 120)
            )),
        }
    }

    pub(super) fn draft(self) -> Draft {
        match self {
            Self::Draft4 => Draft::Draft4,
            Self::Draft6 => Draft::Draft6,
            Self::Draft7 => Draft::Draft7,
            Self::Draft201909 => Draft::Draft201909,
            Self::Draft202012 => Draft::Draft202012,
        }
    }

    /// Up to draft 7 whatever stands beside a `$ref` is ignored.
    pub(super) fn ignores_siblings(self) -> bool {
        self <= Self::Draft7
    }
}

/// The place of an instance that a sub-schema speaks of, seen from the schema it stands in.
enum Place<'s> {
    /// The same one, and what it declares is declared.
    Here,
    /// The same one, but it declares nothing (`not`).
    Aside,
    /// The member of that name.
    Member(&'s str),
    /// Members whose names match.
    Matching(&'s str),
    /// Members that nothing else in this schema speaks of.
    Rest,
    /// The next item of those spoken of one by one.
    Item,
    /// Items that nothing else in this schema speaks of.
    Items,
    /// Somewhere below, and it declares nothing.
    Below,
}

/// The graph, root first.
#[derive(Debug)]
pub(super) struct Shape {
    nodes: Vec<Node>,
    root: Vec<usize>,
}

#[derive(Debug, Default)]
struct Node {
    members: HashMap<String, usize>,
    matching: Vec<(Validator, usize)>,
    rest: Vec<usize>,
    prefix: Vec<usize>,
    items: Vec<usize>,
    /// It has `properties`.
    lists: bool,
    /// It says what becomes of members that are not in `properties`.
    speaks_of_rest: bool,
    /// Everything that speaks of the same place: this node and what it applies in place.
    here: Vec<usize>,
}

/// What only counting needs.
#[derive(Debug, Default)]
struct Edges {
    here: Vec<usize>,
    in_place: Vec<usize>,
    below: Vec<usize>,
    weight: u64,
}

/// What a schema costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Sub-schemas when every reference is replaced by what it names, each cycle unrolled once.
    pub(super) expanded: u64,
    /// Sub-schemas one within the other on the longest way down, each cycle unrolled once.
    pub(super) longest: usize,
    /// It refers to itself.
    pub(super) recursive: bool,
}

/// A pattern is a program: each counts as many sub-schemas in the budget.
const PATTERN_WEIGHT: u64 = 20;

/// A validator takes stack for each sub-schema on its way down.
const LONGEST_WAY: usize = 256;

impl Shape {
    /// Walks a schema and everything it refers to.
    ///
    /// # Errors
    /// Why it cannot be trusted, a sentence for the operator.
    pub(super) fn of(
        schema: &Schema,
        dialect: Dialect,
        budget: u64,
        pattern: impl Fn(&str) -> Result<Validator, String>,
    ) -> Result<(Self, Cost), String> {
        let mut walk = Walk::new(schema, dialect)?;
        walk.run(budget, &pattern)?;
        let Walk { mut nodes, edges, .. } = walk;
        let in_place: Vec<&[usize]> = edges.iter().map(|edges| edges.in_place.as_slice()).collect();
        if !Order::of(&in_place).back.is_empty() {
            return Err("its references loop without ever looking at another part of the arguments".to_owned());
        }
        let cost = expanded(&edges);
        if cost.expanded > budget {
            return Err(format!("it expands to more than {budget} sub-schemas; flatten its references"));
        }
        if cost.longest > LONGEST_WAY {
            return Err(format!(
                "its references are chained: more than {LONGEST_WAY} of its parts lie one within the other on the longest way down"
            ));
        }
        close(&mut nodes, &edges)?;
        let root = nodes.first().map(|node| node.here.clone()).unwrap_or_default();
        Ok((Self { nodes, root }, cost))
    }
}

/// The first argument that no schema declares: its pointer.
pub(super) fn undeclared(shapes: &[&Shape], arguments: &Value) -> Option<String> {
    let root = shapes.iter().flat_map(|shape| shape.root.iter().map(|at| (*shape, *at))).collect::<Vec<_>>();
    let mut pointer = String::new();
    look(&root, arguments, true, &mut pointer).then_some(pointer)
}

/// One node that speaks of a place.
type Speaking<'s> = (&'s Shape, usize);

/// Whether something in `instance` is undeclared; `pointer` then leads to it.
fn look(speaking: &[Speaking<'_>], instance: &Value, top: bool, pointer: &mut String) -> bool {
    let length = pointer.len();
    match instance {
        Value::Object(members) => {
            let nodes = || speaking.iter().filter_map(|(shape, at)| shape.nodes.get(*at));
            let closed = top || (nodes().any(|node| node.lists) && !nodes().any(|node| node.speaks_of_rest));
            members.iter().any(|(name, value)| {
                if closed && !nodes().any(|node| node.declares(name)) {
                    push(pointer, name);
                    return true;
                }
                is_container(value) && {
                    let inner = below(speaking, |node, out| node.of_member(name, out));
                    push(pointer, name);
                    look(&inner, value, false, pointer) || {
                        pointer.truncate(length);
                        false
                    }
                }
            })
        }
        Value::Array(items) => items.iter().enumerate().any(|(index, item)| {
            is_container(item) && {
                let inner = below(speaking, |node, out| node.of_item(index, out));
                push(pointer, &index.to_string());
                look(&inner, item, false, pointer) || {
                    pointer.truncate(length);
                    false
                }
            }
        }),
        _ => false,
    }
}

/// What speaks of a place one step further down, when `step` tells which nodes each node sends there. Each
/// node is in it once, so that what refers to itself twice does not double at every step.
fn below<'s>(speaking: &[Speaking<'s>], step: impl Fn(&Node, &mut Vec<usize>)) -> Vec<Speaking<'s>> {
    let mut inner: Vec<Speaking<'s>> = Vec::new();
    let mut sent = Vec::new();
    for (shape, at) in speaking {
        sent.clear();
        if let Some(node) = shape.nodes.get(*at) {
            step(node, &mut sent);
        }
        let here = sent.iter().filter_map(|at| shape.nodes.get(*at)).flat_map(|node| &node.here);
        inner.extend(here.map(|at| (*shape, *at)));
    }
    let key = |(shape, at): &Speaking<'s>| (std::ptr::from_ref::<Shape>(shape).addr(), *at);
    inner.sort_unstable_by_key(key);
    inner.dedup_by_key(|speaking| key(speaking));
    inner
}

impl Node {
    /// Whether it says something of a member of that name, be it of all others.
    fn declares(&self, name: &str) -> bool {
        self.members.contains_key(name) || !self.rest.is_empty() || self.matching_of(name).next().is_some()
    }

    fn of_member(&self, name: &str, out: &mut Vec<usize>) {
        out.extend(self.members.get(name));
        out.extend(self.matching_of(name));
        if out.is_empty() {
            out.extend(&self.rest);
        }
    }

    fn of_item(&self, index: usize, out: &mut Vec<usize>) {
        match self.prefix.get(index) {
            Some(at) => out.push(*at),
            None => out.extend(&self.items),
        }
    }

    fn matching_of(&self, name: &str) -> impl Iterator<Item = usize> {
        let text = (!self.matching.is_empty()).then(|| Value::from(name));
        self.matching
            .iter()
            .filter(move |(pattern, _)| text.as_ref().is_some_and(|text| pattern.is_valid(text)))
            .map(|(_, at)| *at)
    }
}

fn is_container(value: &Value) -> bool {
    matches!(value, Value::Object(_) | Value::Array(_))
}

/// Appends one reference token (RFC 6901, section 3).
pub(super) fn push(pointer: &mut String, token: &str) {
    pointer.push('/');
    pointer.push_str(&token.replace('~', "~0").replace('/', "~1"));
}

/// The base that a schema without an identifier has.
const NO_BASE: &str = "json-schema:///";

struct Walk<'s> {
    registry: Registry<'s>,
    dialect: Dialect,
    /// More than one resource: then what a dynamic reference means depends on the way to it.
    nested_resources: bool,
    /// Every value of the document, by address: a reference must end at one of them.
    inside: HashMap<usize, &'s Schema>,
    known: HashMap<usize, usize>,
    waiting: VecDeque<(usize, &'s Schema, Arc<Uri<String>>)>,
    nodes: Vec<Node>,
    edges: Vec<Edges>,
}

impl<'s> Walk<'s> {
    fn new(schema: &'s Schema, dialect: Dialect) -> Result<Self, String> {
        let mut inside = HashMap::new();
        let (mut identifiers, mut dialects) = (0, 0);
        census(schema, &mut |value| {
            inside.insert(address(value), value);
            if let Some(members) = value.as_object() {
                let id = members.get("$id").or_else(|| members.get("id").filter(|_| dialect == Dialect::Draft4));
                identifiers += usize::from(id.and_then(Schema::as_str).is_some_and(|id| !id.starts_with('#')));
                dialects += usize::from(members.get("$schema").is_some_and(Schema::is_string));
            }
        });
        let root_id = dialect.draft().create_resource_ref(schema).id().map(str::to_owned);
        if dialects > usize::from(schema.get("$schema").is_some()) {
            return Err("a part of it has a `$schema` of its own; keep to one dialect".to_owned());
        }
        if root_id.as_deref().is_some_and(|id| id.contains("json-schema.org")) {
            return Err("its `$id` pretends to be a meta-schema".to_owned());
        }
        let base = root_id.clone().unwrap_or_else(|| NO_BASE.to_owned());
        let registry = Registry::new()
            .draft(dialect.draft())
            .retriever(Nowhere)
            .add(&base, schema)
            .and_then(|registry| registry.prepare())
            .map_err(|error| {
                format!(
                    "a reference or identifier in it does not resolve within the document: {}",
                    quoted(&error.to_string(), 200)
                )
            })?;
        let start =
            jsonschema::uri::from_str(base.trim_end_matches('#')).map_err(|_| "its `$id` is not a URI".to_owned())?;
        let mut walk = Self {
            registry,
            dialect,
            nested_resources: identifiers > usize::from(root_id.is_some()),
            inside,
            known: HashMap::new(),
            waiting: VecDeque::new(),
            nodes: Vec::new(),
            edges: Vec::new(),
        };
        walk.node(schema, Arc::new(start));
        Ok(walk)
    }

    /// The node of a sub-schema whose surroundings have the base `base`.
    fn node(&mut self, schema: &'s Schema, base: Arc<Uri<String>>) -> usize {
        if let Some(known) = self.known.get(&address(schema)) {
            return *known;
        }
        let at = self.nodes.len();
        self.nodes.push(Node::default());
        self.edges.push(Edges { weight: 1, ..Edges::default() });
        self.known.insert(address(schema), at);
        self.waiting.push_back((at, schema, base));
        at
    }

    fn run(&mut self, budget: u64, pattern: &impl Fn(&str) -> Result<Validator, String>) -> Result<(), String> {
        while let Some((at, schema, base)) = self.waiting.pop_front() {
            if u64::try_from(self.nodes.len()).unwrap_or(u64::MAX) > budget {
                return Err(format!("it has more than {budget} sub-schemas"));
            }
            let Some(members) = schema.as_object() else { continue };
            let alone = self.dialect.ignores_siblings() && members.get("$ref").is_some_and(Schema::is_string);
            let base = if alone { base } else { self.base(schema, &base)? };
            for name in ["$ref", "$dynamicRef", "$recursiveRef"] {
                if let Some(reference) = members.get(name).and_then(Schema::as_str) {
                    let (target, target_base) = self.resolve(name, reference, &base)?;
                    let target = self.node(target, target_base);
                    self.link(at, target, &Place::Here, pattern)?;
                }
            }
            if alone {
                continue;
            }
            if members.contains_key("pattern") {
                self.weigh(at, PATTERN_WEIGHT);
            }
            let mut found = Vec::new();
            applied(schema, self.dialect, &mut |place, sub| found.push((place, sub)));
            for (place, sub) in found {
                let target = self.node(sub, Arc::clone(&base));
                self.link(at, target, &place, pattern)?;
            }
            if let Some(node) = self.nodes.get_mut(at) {
                node.lists = members.get("properties").is_some_and(Schema::is_object);
                let modern = self.dialect >= Dialect::Draft201909;
                node.speaks_of_rest = members.contains_key("additionalProperties")
                    || members.contains_key("patternProperties")
                    || (modern && members.contains_key("unevaluatedProperties"));
            }
        }
        Ok(())
    }

    fn base(&self, schema: &'s Schema, base: &Arc<Uri<String>>) -> Result<Arc<Uri<String>>, String> {
        let resolver = self.registry.resolver((**base).clone());
        match resolver.in_subresource(self.dialect.draft().create_resource_ref(schema)) {
            Ok(inner) => Ok(inner.base_uri()),
            Err(error) => Err(format!("an `$id` in it does not resolve: {}", quoted(&error.to_string(), 200))),
        }
    }

    /// Where a reference leads, which must be within the document.
    fn resolve(
        &self,
        keyword: &str,
        reference: &str,
        base: &Arc<Uri<String>>,
    ) -> Result<(&'s Schema, Arc<Uri<String>>), String> {
        let dynamic = keyword != "$ref";
        let supported = match keyword {
            "$dynamicRef" => self.dialect == Dialect::Draft202012,
            "$recursiveRef" => self.dialect == Dialect::Draft201909,
            _ => true,
        };
        if !supported {
            return Err(format!("`{keyword}` is not a keyword of its dialect"));
        }
        if dynamic && self.nested_resources {
            return Err(format!("it has both `{keyword}` and nested `$id`s; what it refers to cannot be bounded"));
        }
        let leaves =
            || format!("its `{keyword}` {} leaves the document; inline what it refers to", quoted(reference, 120));
        let resolver = self.registry.resolver((**base).clone());
        let (target, resolver, _) = resolver.lookup(reference).map_err(|_| leaves())?.into_inner();
        // the address is compared, not the content: a copy in another document is another schema
        let target = *self.inside.get(&address(target)).ok_or_else(leaves)?;
        let target_base = resolver.base_uri();
        Ok((target, target_base))
    }

    fn weigh(&mut self, at: usize, weight: u64) {
        if let Some(edges) = self.edges.get_mut(at) {
            edges.weight += weight;
        }
    }

    fn link(
        &mut self,
        at: usize,
        target: usize,
        place: &Place<'s>,
        pattern: &impl Fn(&str) -> Result<Validator, String>,
    ) -> Result<(), String> {
        if matches!(place, Place::Matching(_)) {
            self.weigh(at, PATTERN_WEIGHT);
        }
        let (Some(node), Some(edges)) = (self.nodes.get_mut(at), self.edges.get_mut(at)) else { return Ok(()) };
        match place {
            Place::Here => {
                edges.here.push(target);
                edges.in_place.push(target);
                return Ok(());
            }
            Place::Aside => {
                edges.in_place.push(target);
                return Ok(());
            }
            Place::Member(name) => {
                node.members.insert((*name).to_owned(), target);
            }
            Place::Matching(text) => node.matching.push((pattern(text)?, target)),
            Place::Rest => node.rest.push(target),
            Place::Item => node.prefix.push(target),
            Place::Items => node.items.push(target),
            Place::Below => {}
        }
        edges.below.push(target);
        Ok(())
    }
}

/// Tells every sub-schema of one schema, with the place it speaks of, as its dialect has it.
fn applied<'s>(schema: &'s Schema, dialect: Dialect, tell: &mut impl FnMut(Place<'s>, &'s Schema)) {
    let Some(members) = schema.as_object() else { return };
    let is_schema = |value: &Schema| value.is_object() || value.is_boolean();
    let (seventh, modern, newest) =
        (dialect >= Dialect::Draft7, dialect >= Dialect::Draft201909, dialect == Dialect::Draft202012);
    for (keyword, value) in members {
        match keyword.as_str() {
            "allOf" | "anyOf" | "oneOf" => {
                value.as_array().into_iter().flatten().for_each(|sub| tell(Place::Here, sub));
            }
            "if" | "then" | "else" if seventh => tell(Place::Here, value),
            "dependentSchemas" if modern => {
                value.as_object().into_iter().flat_map(|map| map.values()).for_each(|sub| tell(Place::Here, sub));
            }
            "dependencies" => {
                let subs = value.as_object().into_iter().flat_map(|map| map.values());
                subs.filter(|sub| is_schema(sub)).for_each(|sub| tell(Place::Here, sub));
            }
            "not" => tell(Place::Aside, value),
            "properties" => {
                value.as_object().into_iter().flatten().for_each(|(name, sub)| tell(Place::Member(name), sub));
            }
            "patternProperties" => {
                value.as_object().into_iter().flatten().for_each(|(name, sub)| tell(Place::Matching(name), sub));
            }
            "additionalProperties" if value != &Schema::Bool(false) => tell(Place::Rest, value),
            "unevaluatedProperties" if modern && value != &Schema::Bool(false) => tell(Place::Rest, value),
            "prefixItems" if newest => {
                value.as_array().into_iter().flatten().for_each(|sub| tell(Place::Item, sub));
            }
            "items" => match value {
                Schema::Array(subs) if !newest => {
                    subs.iter().for_each(|sub| tell(Place::Item, sub));
                }
                _ => tell(Place::Items, value),
            },
            "additionalItems" if !newest => tell(Place::Items, value),
            "unevaluatedItems" if modern => tell(Place::Items, value),
            "contains" | "propertyNames" | "contentSchema" => tell(Place::Below, value),
            _ => {}
        }
    }
}

/// Tells every value of a document.
fn census<'s>(value: &'s Schema, tell: &mut impl FnMut(&'s Schema)) {
    tell(value);
    match value {
        Schema::Array(items) => items.iter().for_each(|item| census(item, tell)),
        Schema::Object(members) => members.values().for_each(|member| census(member, tell)),
        _ => {}
    }
}

fn address(value: &Schema) -> usize {
    std::ptr::from_ref(value).addr()
}

/// Fetches nothing.
struct Nowhere;

impl jsonschema::Retrieve for Nowhere {
    fn retrieve(&self, _uri: &Uri<String>) -> Result<Schema, Box<dyn std::error::Error + Send + Sync>> {
        Err("references must not leave the document".into())
    }
}

/// A depth-first order of a graph from its first node on.
struct Order {
    /// Nodes, each after everything it leads to by an edge that is not in `back`.
    post: Vec<usize>,
    /// Nodes at which an edge closes a cycle.
    back: HashSet<usize>,
}

impl Order {
    fn of(edges: &[&[usize]]) -> Self {
        let mut order = Self { post: Vec::with_capacity(edges.len()), back: HashSet::new() };
        // 0: not seen, 1: on the way down, 2: done
        let mut state = vec![0_u8; edges.len()];
        for start in 0..edges.len() {
            let mut path = vec![(start, 0_usize)];
            if state.get(start) != Some(&0) {
                continue;
            }
            if let Some(state) = state.get_mut(start) {
                *state = 1;
            }
            while let Some((at, next)) = path.last_mut() {
                let (at, target) = (*at, edges.get(*at).and_then(|targets| targets.get(*next)).copied());
                *next += 1;
                match target.and_then(|target| Some((target, state.get_mut(target)?))) {
                    Some((target, seen @ 0)) => {
                        *seen = 1;
                        path.push((target, 0));
                    }
                    Some((target, 1)) => {
                        order.back.insert(target);
                    }
                    Some(_) => {}
                    None => {
                        if let Some(state) = state.get_mut(at) {
                            *state = 2;
                        }
                        order.post.push(at);
                        path.pop();
                    }
                }
            }
        }
        order
    }
}

/// Counts what validation may have to walk: a validator remembers what it found at the schemas where
/// cycles close, so each of those counts once; everything else counts as often as it is referred to.
fn expanded(edges: &[Edges]) -> Cost {
    let all: Vec<Vec<usize>> =
        edges.iter().map(|edges| edges.in_place.iter().chain(&edges.below).copied().collect()).collect();
    let all: Vec<&[usize]> = all.iter().map(Vec::as_slice).collect();
    let order = Order::of(&all);
    // size and length of the longest way down, by node
    let mut counted = vec![(0_u64, 0_usize); edges.len()];
    for at in &order.post {
        let own = edges.get(*at).map_or(1, |edges| edges.weight);
        let inner = all.get(*at).into_iter().flat_map(|targets| targets.iter());
        let (size, longest) = inner.fold((own, 0), |(sum, longest), target| {
            let cut = order.back.contains(target);
            let (size, length) = if cut { (1, 1) } else { counted.get(*target).copied().unwrap_or_default() };
            (sum.saturating_add(size), longest.max(length))
        });
        if let Some(counted) = counted.get_mut(*at) {
            *counted = (size, longest + 1);
        }
    }
    let heads = order.back.iter().filter(|at| **at != 0).filter_map(|at| counted.get(*at));
    let (expanded, longest) = counted
        .first()
        .into_iter()
        .chain(heads)
        .fold((0_u64, 0), |(sum, longest), one| (sum.saturating_add(one.0), longest.max(one.1)));
    Cost { expanded, longest, recursive: !order.back.is_empty() }
}

/// The most that is remembered of which sub-schemas speak of the same place, over all places.
const REMEMBERED: usize = 100_000;

/// Fills in, for each node that speaks of a place of its own, everything that speaks of the same place.
fn close(nodes: &mut [Node], edges: &[Edges]) -> Result<(), String> {
    let places: HashSet<usize> = edges.iter().flat_map(|edges| edges.below.iter().copied()).chain([0]).collect();
    let mut remembered = 0;
    for (at, node) in nodes.iter_mut().enumerate().filter(|(at, _)| places.contains(at)) {
        let mut seen = HashSet::from([at]);
        let mut here = vec![at];
        let mut next = 0;
        while let Some(current) = here.get(next).copied() {
            next += 1;
            for target in edges.get(current).into_iter().flat_map(|edges| &edges.here) {
                if seen.insert(*target) {
                    here.push(*target);
                }
            }
        }
        remembered += here.len();
        if remembered > REMEMBERED {
            return Err("too many of its parts speak of the same place; flatten its references".to_owned());
        }
        here.shrink_to_fit();
        node.here = here;
    }
    Ok(())
}
