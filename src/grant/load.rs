//! Reading, typing and indexing policies.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, RwLock},
};

use cedar_policy::{
    ActionConstraint, Effect, Entities, Entity, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet,
    PrincipalConstraint, ResourceConstraint, RestrictedExpression, Schema, ValidationMode, ValidationWarning,
    Validator,
};
use miette::Diagnostic;

use super::{
    decide::Slice,
    schema::{Action, Vocabulary},
    session::Limit,
};
use crate::{
    clock::Timestamp,
    contract::{Catalog, UpstreamName},
    hold::Assurance,
    json::Digest,
};

/// How long people have to countersign when `@expires` does not say: 15 minutes.
const EXPIRES: u64 = 15 * 60;
/// The longest `@expires`: 30 days.
const LONGEST: u64 = 30 * 86_400;
/// The most scopes that one policy asks for.
const SCOPES: usize = 16;
const ANNOTATIONS: [&str; 9] = ["id", "hold", "approvals", "assurance", "expires", "limit", "reason", "scope", "until"];

/// The text of one policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it was read from, for messages.
    pub file: PathBuf,
    /// Its text.
    pub text: String,
}

/// Something wrong in a file that an operator wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1; 0 when it is about the whole file.
    pub line: usize,
    /// Column, from 1; 0 when it is about the whole line.
    pub column: usize,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        write!(f, ": {}", self.problem)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// A set of policies, checked against the contracts and indexed by the principal and action of their scope.
pub struct Grants {
    digest: Digest,
    pub(super) rules: Vec<Rule>,
    pub(super) by_id: HashMap<Arc<str>, u32>,
    pub(super) words: Vocabulary,
    /// Where a call can go: an action at an upstream.
    /// By action; those of one action by the name of their upstream, in order: most have one.
    pub(super) sites: HashMap<String, Box<[(UpstreamName, Site)]>>,
    /// Agents and teams that some scope names, numbered; all others are alike.
    pub(super) agents: HashMap<String, u32>,
    pub(super) teams: HashMap<String, u32>,
    /// Scopes that some `@scope` names, numbered; others change nothing.
    pub(super) scopes: HashMap<String, u32>,
    /// Every `@until`, sorted: between two of them nothing expires.
    pub(super) untils: Vec<Timestamp>,
    /// Derived from the rules alone, so nothing that a reload or a revocation changes is remembered here.
    pub(super) slices: RwLock<HashMap<super::decide::SliceKey, Arc<Slice>>>,
    /// Policy sets by the rules in them: many slices share one.
    pub(super) sets: Mutex<HashMap<Box<[u32]>, Arc<super::decide::Sets>>>,
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grants").field("digest", &self.digest).field("policies", &self.rules.len()).finish()
    }
}

/// One policy with what its annotations say.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: Arc<str>,
    pub(super) file: PathBuf,
    pub(super) line: usize,
    pub(super) effect: Effect,
    pub(super) policy: Policy,
    pub(super) hold: Option<Hold>,
    pub(super) limit: Option<Limit>,
    /// Scopes that a principal needs for this permit to count, each once.
    pub(super) scopes: Vec<String>,
    pub(super) reason: Option<String>,
    pub(super) until: Option<Timestamp>,
    pub(super) principal: PrincipalScope,
    pub(super) action: ActionScope,
    pub(super) resource: ResourceScope,
    /// Every string and member name in its conditions: what is not among them it cannot look at.
    pub(super) mentions: BTreeSet<String>,
    /// As it stands in its file.
    pub(super) text: Arc<str>,
    span: std::ops::Range<usize>,
    source: usize,
}

/// `@hold("role") @approvals("2") @assurance("passkey") @expires("15m")`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) role: String,
    pub(super) approvals: u8,
    pub(super) assurance: Assurance,
    pub(super) expires: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PrincipalScope {
    Any,
    Agent(String),
    Team(String),
    Nobody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ActionScope {
    Any,
    /// `==`: an action itself.
    Is(String),
    /// `in`: actions themselves, or all of a group.
    In(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResourceScope {
    Any,
    Upstream(String),
    Nothing,
}

impl Rule {
    /// Whether it has neither `when` nor `unless`.
    pub(super) fn is_unconditional(&self) -> bool {
        !self.policy.has_non_scope_constraint()
    }

    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// The scopes that it asks for and that are not among these.
    pub(super) fn lacks<'r>(&'r self, scopes: &'r [String]) -> impl Iterator<Item = &'r String> {
        self.scopes.iter().filter(|scope| !scopes.contains(scope))
    }

    /// Where it stands: `file:line`.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.file.display(), self.line)
    }
}

impl ActionScope {
    pub(super) fn covers(&self, name: &str, action: &Action) -> bool {
        match self {
            Self::Any => true,
            Self::Is(only) => only == name,
            Self::In(list) => list.iter().any(|entry| entry == name || action.groups.contains(entry.as_str())),
        }
    }

    fn names_only_actions(&self) -> bool {
        match self {
            Self::Any => false,
            Self::Is(_) => true,
            Self::In(list) => !list.iter().any(|entry| Vocabulary::is_group(entry)),
        }
    }
}

impl ResourceScope {
    pub(super) fn covers(&self, upstream: &UpstreamName) -> bool {
        match self {
            Self::Any => true,
            Self::Upstream(only) => only == upstream.as_str(),
            Self::Nothing => false,
        }
    }
}

/// An action at an upstream, with what every call there has in common.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) number: u32,
    pub(super) action: EntityUid,
    pub(super) upstream: EntityUid,
    /// Digests of the contracts that the policies were typed against: one for a tool, one a method for the rest.
    pub(super) contracts: Vec<Digest>,
    /// Groups that the action is in.
    groups: Box<[&'static str]>,
    /// See [`Site::entities`].
    described: OnceLock<Option<Entities>>,
    /// Labels of the upstream and of the action.
    pub(super) labels: Vec<String>,
    /// Rules whose action and resource scopes cover it.
    pub(super) rules: Arc<[u32]>,
}

impl Site {
    /// The action with its groups, and the upstream with its labels; `None` when Cedar does not take them. Made for the
    /// first call there, since most sites of a large catalog never see one.
    pub(super) fn entities(&self) -> Option<&Entities> {
        let described = self.described.get_or_init(|| {
            let kinds = Kinds::shared()?;
            let groups = self.groups.iter().map(|group| uid(&kinds.action, group)).collect();
            let strings = self.labels.iter().map(|label| RestrictedExpression::new_string(label.clone()));
            let attributes = HashMap::from([("labels".to_owned(), RestrictedExpression::new_set(strings))]);
            let house = Entity::new(self.upstream.clone(), attributes, HashSet::new()).ok()?;
            Entities::from_entities([Entity::new_no_attrs(self.action.clone(), groups), house], None).ok()
        });
        described.as_ref()
    }
}

/// `Kind::"id"`, where `kind` is one of the schema's entity types.
pub(super) fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}

/// The entity types of the schema, parsed once.
#[derive(Debug)]
pub(super) struct Kinds {
    pub(super) agent: EntityTypeName,
    pub(super) team: EntityTypeName,
    upstream: EntityTypeName,
    action: EntityTypeName,
}

impl Kinds {
    pub(super) fn new() -> Option<Self> {
        let kind = |name: &str| name.parse::<EntityTypeName>().ok();
        Some(Self { agent: kind("Agent")?, team: kind("Team")?, upstream: kind("Upstream")?, action: kind("Action")? })
    }

    /// The one instance; `None` cannot come, since the four names are identifiers.
    pub(super) fn shared() -> Option<&'static Self> {
        static KINDS: std::sync::OnceLock<Option<Kinds>> = std::sync::OnceLock::new();
        KINDS.get_or_init(Self::new).as_ref()
    }
}

impl Grants {
    /// Checks and compiles a set for upstreams that have no labels of their own.
    ///
    /// # Errors
    /// Every error in it at once, by file and line.
    pub fn compile(sources: &[Source], catalog: &Catalog) -> Result<Self, Vec<ConfigError>> {
        Self::compile_labelled(sources, catalog, &BTreeMap::new())
    }

    /// Checks and compiles a set. `labels` are what the configuration gives to each upstream: with those of the
    /// called tool's contract they are `resource.labels`.
    ///
    /// # Errors
    /// Every error in it at once, by file and line.
    pub fn compile_labelled(
        sources: &[Source],
        catalog: &Catalog,
        labels: &BTreeMap<UpstreamName, Vec<String>>,
    ) -> Result<Self, Vec<ConfigError>> {
        Self::compile_words(sources, Vocabulary::new(catalog, labels))
    }

    pub(super) fn compile_words(sources: &[Source], words: Vocabulary) -> Result<Self, Vec<ConfigError>> {
        let mut check = Check { sources, words: &words, errors: BTreeSet::new() };
        let mut rules = Vec::new();
        for source in 0..sources.len() {
            check.read(source, &mut rules);
        }
        check.ids(&rules);
        check.names(&rules);
        check.types(&rules);
        if !check.errors.is_empty() {
            return Err(check.errors.into_iter().collect());
        }
        let whole = |problem: String| {
            vec![ConfigError { file: PathBuf::from("grants"), line: 0, column: 0, problem, hint: None }]
        };
        Self::index(rules, words).ok_or_else(|| whole("the policies cannot be indexed".to_owned()))
    }

    fn index(mut rules: Vec<Rule>, words: Vocabulary) -> Option<Self> {
        rules.sort_by(|one, other| one.id.cmp(&other.id));
        let kinds = Kinds::shared()?;
        let mut sites = HashMap::with_capacity(words.actions.len());
        let mut known: HashSet<Arc<[u32]>> = HashSet::new();
        let mut number = 0;
        for (name, action) in &words.actions {
            let covering: Vec<(u32, &Rule)> =
                (0_u32..).zip(&rules).filter(|(_, rule)| rule.action.covers(name, action)).collect();
            let mut here = Vec::with_capacity(action.upstreams.len());
            for upstream in &action.upstreams {
                let mut labels = words.upstreams.get(upstream).cloned().unwrap_or_default();
                labels.extend(action.labels.iter().cloned());
                labels.sort();
                labels.dedup();
                let groups = action.groups.iter().copied().collect();
                let own = uid(&kinds.action, name);
                let house = uid(&kinds.upstream, upstream.as_str());
                let rules: Arc<[u32]> = covering
                    .iter()
                    .filter(|(_, rule)| rule.resource.covers(upstream))
                    .map(|(place, _)| *place)
                    .collect();
                // policies over groups give many tools the same list, and it is as long as they are many
                let rules = match known.get(&rules) {
                    Some(known) => Arc::clone(known),
                    None => {
                        known.insert(Arc::clone(&rules));
                        rules
                    }
                };
                let contracts = action.contracts.get(upstream).cloned().unwrap_or_default();
                let described = OnceLock::new();
                let site = Site { number, action: own, groups, upstream: house, contracts, described, labels, rules };
                here.push((upstream.clone(), site));
                number += 1;
            }
            sites.insert(name.clone(), here.into_boxed_slice());
        }
        let (mut agents, mut teams) = (HashMap::new(), HashMap::new());
        for rule in &rules {
            let (named, name) = match &rule.principal {
                PrincipalScope::Agent(name) => (&mut agents, name),
                PrincipalScope::Team(name) => (&mut teams, name),
                PrincipalScope::Any | PrincipalScope::Nobody => continue,
            };
            let next = u32::try_from(named.len()).ok()?;
            named.entry(name.clone()).or_insert(next);
        }
        let named: BTreeSet<&String> = rules.iter().flat_map(|rule| &rule.scopes).collect();
        let scopes = named.into_iter().cloned().zip(0..).collect();
        let untils: BTreeSet<Timestamp> = rules.iter().filter_map(|rule| rule.until).collect();
        Some(Self {
            digest: digest(&rules, &words)?,
            by_id: rules.iter().zip(0..).map(|(rule, place)| (Arc::clone(&rule.id), place)).collect(),
            rules,
            words,
            sites,
            agents,
            teams,
            scopes,
            untils: untils.into_iter().collect(),
            slices: RwLock::default(),
            sets: Mutex::default(),
        })
    }

    /// SHA-256 over the canonical form of the set: its policies and their types.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many policies are in it.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether it has none: then everything is refused.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Comments and layout do not count, annotations and types do.
fn digest(rules: &[Rule], words: &Vocabulary) -> Option<Digest> {
    let mut text = Vec::new();
    for rule in rules {
        serde_json::to_writer(&mut text, &rule.id).ok()?;
        serde_json::to_writer(&mut text, &rule.policy.to_json().ok()?).ok()?;
        text.push(b'\n');
    }
    let names = words.actions.keys().map(String::as_str);
    serde_json::to_writer(&mut text, &words.cedar(names)).ok()?;
    for (upstream, labels) in &words.upstreams {
        serde_json::to_writer(&mut text, &(upstream.as_str(), labels)).ok()?;
    }
    Some(Digest::of(&text))
}

/// One check of a whole set: collects errors, stops at none.
struct Check<'a> {
    sources: &'a [Source],
    words: &'a Vocabulary,
    errors: BTreeSet<ConfigError>,
}

impl Check<'_> {
    fn report(&mut self, source: usize, offset: usize, problem: String, hint: Option<String>) {
        let Some(Source { file, text }) = self.sources.get(source) else { return };
        let (line, column) = place(text, offset);
        self.errors.insert(ConfigError { file: file.clone(), line, column, problem, hint });
    }

    fn read(&mut self, source: usize, rules: &mut Vec<Rule>) {
        let Some(Source { file, text }) = self.sources.get(source) else { return };
        let set = match text.parse::<PolicySet>() {
            Ok(set) => set,
            Err(errors) => {
                for error in errors.iter() {
                    let offset = offset_of(error).unwrap_or(0);
                    self.report(source, offset, error.to_string(), error.help().map(|help| help.to_string()));
                }
                return;
            }
        };
        for template in set.templates() {
            let offset = template.as_ref().loc().map_or(0, |at| at.start());
            let hint = "write the principal and the resource themselves".to_owned();
            self.report(source, offset, "a template cannot be a grant".to_owned(), Some(hint));
        }
        let mut policies: Vec<&Policy> = set.policies().collect();
        let start = |policy: &Policy| policy.as_ref().loc().map_or(0, |at| at.start());
        policies.sort_by_key(|policy| start(policy));
        for policy in policies {
            let span = policy.as_ref().loc().map_or(0..text.len(), |at| at.start()..at.end());
            let line = place(text, span.start).0;
            if let Some(rule) = self.rule(source, file, line, span, policy) {
                rules.push(rule);
            }
        }
    }

    fn rule(
        &mut self,
        source: usize,
        file: &Path,
        line: usize,
        span: std::ops::Range<usize>,
        policy: &Policy,
    ) -> Option<Rule> {
        let text = self.sources.get(source).and_then(|source| source.text.get(span.clone())).unwrap_or_default();
        let said: BTreeMap<&str, &str> = policy.annotations().collect();
        let at = |name: &str| span.start + annotation(text, name).unwrap_or(0);
        for name in said.keys() {
            if !ANNOTATIONS.contains(name) {
                let hint = match nearest(name, ANNOTATIONS.into_iter()) {
                    Some(near) => format!("did you mean `@{near}`?"),
                    None => format!("known are {}", ANNOTATIONS.map(|name| format!("`@{name}`")).join(", ")),
                };
                self.report(source, at(name), format!("unknown annotation `@{name}`"), Some(hint));
            }
        }
        let mut wrong = |name: &str, problem: String, hint: &str| {
            self.report(source, at(name), problem, Some(hint.to_owned()));
        };
        let id = match said.get("id") {
            Some(id) if is_id(id) => (*id).to_owned(),
            Some(id) => {
                let problem = format!("`@id(\"{}\")` is no policy id", id.escape_debug());
                wrong("id", problem, "use 1 to 128 letters, digits, `-`, `_`, `.`, `/` or `:`");
                return None;
            }
            None => format!("{}:{line}", file.file_name().unwrap_or(file.as_os_str()).to_string_lossy()),
        };
        let role = said.get("hold").map(|role| role.trim().to_owned());
        if role.as_deref().is_some_and(|role| !is_role(role)) {
            wrong("hold", "`@hold` names no role".to_owned(), "write `@hold(\"finance\")`: letters, digits, `-`, `_`");
        }
        let approvals = match said.get("approvals").map(|text| text.parse::<u8>()) {
            None => 1,
            Some(Ok(number @ 1..=9)) => number,
            Some(_) => {
                wrong("approvals", "`@approvals` is no number from 1 to 9".to_owned(), "write `@approvals(\"2\")`");
                1
            }
        };
        let assurance = match said.get("assurance").map(|word| Assurance::read(word)) {
            None => Assurance::Any,
            Some(Some(assurance)) => assurance,
            Some(None) => {
                let hint = "write `@assurance(\"passkey\")`, or take it out: then a passphrase will do";
                wrong("assurance", "`@assurance` is none that there is".to_owned(), hint);
                Assurance::Any
            }
        };
        let expires = match said.get("expires").map(|text| seconds(text)) {
            None => EXPIRES,
            Some(Some(seconds)) => seconds,
            Some(None) => {
                let hint = "write `@expires(\"15m\")`: a number and `s`, `m`, `h` or `d`, at most `30d`";
                wrong("expires", "`@expires` is no duration".to_owned(), hint);
                EXPIRES
            }
        };
        for name in ["approvals", "assurance", "expires"] {
            if said.contains_key(name) && role.is_none() {
                let hint = "add `@hold(\"role\")`, or take it out";
                wrong(name, format!("`@{name}` says nothing without `@hold`"), hint);
            }
        }
        let limit = match said.get("limit").map(|text| per(text)) {
            None => None,
            Some(Some(limit)) if policy.effect() == Effect::Permit => Some(limit),
            Some(Some(_)) => {
                let hint = "put it on the `permit` whose use it limits";
                wrong("limit", "`@limit` is for `permit` only".to_owned(), hint);
                None
            }
            Some(None) => {
                let hint = "write `@limit(\"10/minute\")`: a number and `second`, `minute`, `hour` or `day`";
                wrong("limit", "`@limit` is no rate".to_owned(), hint);
                None
            }
        };
        let scopes = match said.get("scope").map(|text| scopes(text)) {
            None => Vec::new(),
            Some(Some(scopes)) if policy.effect() == Effect::Permit => scopes,
            Some(Some(_)) => {
                let hint =
                    "put it on the `permit` that needs it; a `forbid` can ask `principal.scopes` in its condition";
                wrong("scope", "`@scope` is for `permit` only".to_owned(), hint);
                Vec::new()
            }
            Some(None) => {
                let hint = "write `@scope(\"bank:read bank:write\")`: at most 16, with one space between, each once";
                wrong("scope", "`@scope` is no list of scopes".to_owned(), hint);
                Vec::new()
            }
        };
        let until = match said.get("until").map(|text| text.parse::<Timestamp>()) {
            None => None,
            Some(Ok(until)) => Some(until),
            Some(Err(_)) => {
                let hint = "write `@until(\"2026-12-31T00:00:00Z\")`, RFC 3339 with its offset";
                wrong("until", "`@until` is no time".to_owned(), hint);
                None
            }
        };
        let reason = said.get("reason").map(|text| text.trim().to_owned());
        if reason.as_deref().is_some_and(|text| text.is_empty() || text.len() > 500 || text.contains(char::is_control))
        {
            wrong("reason", "`@reason` is empty, too long or has control characters".to_owned(), "write one sentence");
        }
        let mut mentions = BTreeSet::new();
        match policy.to_json() {
            Ok(json) => gather(json.get("conditions").unwrap_or(&serde_json::Value::Null), &mut mentions),
            Err(error) => self.report(source, span.start, error.to_string(), None),
        }
        Some(Rule {
            policy: policy.new_id(PolicyId::new(&id)),
            id: id.into(),
            file: file.to_owned(),
            line,
            effect: policy.effect(),
            hold: role.map(|role| Hold { role, approvals, assurance, expires }),
            limit,
            scopes,
            reason,
            until,
            principal: principal_scope(&policy.principal_constraint()),
            action: action_scope(&policy.action_constraint()),
            resource: resource_scope(&policy.resource_constraint()),
            mentions,
            text: text.into(),
            span,
            source,
        })
    }

    fn ids(&mut self, rules: &[Rule]) {
        let mut seen: BTreeMap<&str, &Rule> = BTreeMap::new();
        for rule in rules {
            if let Some(first) = seen.get(&*rule.id) {
                let problem = format!("the policy id `{}` is taken by {}", rule.id, first.place());
                self.report(rule.source, rule.span.start, problem, Some("give each policy its own `@id`".to_owned()));
            } else {
                seen.insert(&rule.id, rule);
            }
        }
    }

    /// Actions and upstreams that no contract knows: a policy about them would never match.
    fn names(&mut self, rules: &[Rule]) {
        for rule in rules {
            for literal in rule.policy.entity_literals() {
                let name = literal.id().unescaped().to_owned();
                let kind = literal.type_name().to_string();
                let (known, near) = match kind.as_str() {
                    "Action" => (self.words.knows_action(&name), nearest(&name, self.words.action_names())),
                    "Upstream" => {
                        let mut names = self.words.upstreams.keys().map(UpstreamName::as_str);
                        (names.clone().any(|known| known == name), nearest(&name, &mut names))
                    }
                    _ => continue,
                };
                if !known {
                    let hint = match near {
                        Some(near) => format!("did you mean `{kind}::\"{near}\"`?"),
                        None if kind == "Action" => "register its tool, or take the policy out".to_owned(),
                        None => "configure the upstream, or take the policy out".to_owned(),
                    };
                    let offset = self.find(rule, &format!("\"{name}\""));
                    let what = if kind == "Action" { "action" } else { "upstream" };
                    self.report(rule.source, offset, format!("unknown {what} `{name}`"), Some(hint));
                }
            }
            if let ActionScope::Is(group) = &rule.action
                && Vocabulary::is_group(group)
            {
                let offset = self.find(rule, &format!("\"{group}\""));
                let hint = format!("write `action in Action::\"{group}\"`");
                self.report(rule.source, offset, format!("`{group}` is a group of actions"), Some(hint));
            }
            if rule.principal == PrincipalScope::Nobody {
                let hint = "a principal is `Agent::\"…\"`, or `in Team::\"…\"`".to_owned();
                let problem = "no principal can match this policy".to_owned();
                self.report(rule.source, rule.span.start, problem, Some(hint));
            }
            if rule.resource == ResourceScope::Nothing {
                let hint = "a resource is `Upstream::\"…\"`".to_owned();
                self.report(rule.source, rule.span.start, "no resource can match this policy".to_owned(), Some(hint));
            }
        }
    }

    fn find(&self, rule: &Rule, part: &str) -> usize {
        let text = self.sources.get(rule.source).and_then(|source| source.text.get(rule.span.clone()));
        rule.span.start + text.and_then(|text| text.find(part)).unwrap_or(0)
    }

    /// Strict validation. Each policy is checked against the actions that its scope covers, and of those that look
    /// the same to it, one: that keeps the cost of 1,000 policies over 2,000 tools in bounds.
    fn types(&mut self, rules: &[Rule]) {
        let members: BTreeSet<&str> = self
            .words
            .actions
            .values()
            .filter_map(|action| action.input.as_ref())
            .flat_map(|input| input.fields.iter().map(|field| field.name.as_str()))
            .collect();
        let mut chosen: HashMap<(String, Vec<&str>), Vec<&str>> = HashMap::new();
        let mut batches: BTreeMap<Vec<&str>, Vec<&Rule>> = BTreeMap::new();
        for rule in rules {
            let looks: Vec<&str> = match rule.mentions.contains("input") {
                true => rule.mentions.iter().filter_map(|word| members.get(word.as_str()).copied()).collect(),
                false => Vec::new(),
            };
            let key = (format!("{:?} {}", rule.action, rule.mentions.contains("input")), looks);
            let words = self.words;
            let names = chosen.entry(key).or_insert_with_key(|(_, looks)| representatives(words, rule, looks));
            let mut names = names.clone();
            for literal in rule.policy.entity_literals() {
                if literal.type_name().to_string() == "Action" {
                    let known = self.words.actions.get_key_value(literal.id().unescaped());
                    names.extend(known.map(|(name, _)| name.as_str()));
                }
            }
            names.sort_unstable();
            names.dedup();
            batches.entry(names).or_default().push(rule);
        }
        for (names, rules) in batches {
            self.validate(&names, &rules);
        }
    }

    fn validate(&mut self, names: &[&str], rules: &[&Rule]) {
        let whole = ConfigError {
            file: PathBuf::from("schemas"),
            line: 0,
            column: 0,
            problem: String::new(),
            hint: Some("the contracts of these tools give no types that grants can use".to_owned()),
        };
        let schema = match Schema::from_json_value(self.words.cedar(names.iter().copied())) {
            Ok(schema) => schema,
            Err(error) => {
                let problem = format!("tools {}: {error}", names.join(", "));
                self.errors.insert(ConfigError { problem, ..whole });
                return;
            }
        };
        let mut set = PolicySet::new();
        let mut by_id: HashMap<String, &Rule> = HashMap::new();
        for (rule, place) in rules.iter().zip(0..) {
            // ids may be taken twice, which is an error of its own
            let id = PolicyId::new(format!("{place}"));
            by_id.insert(id.to_string(), rule);
            if let Err(error) = set.add(rule.policy.new_id(id)) {
                self.report(rule.source, rule.span.start, error.to_string(), None);
            }
        }
        let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
        // the same mistake comes once for each action that the policy covers
        let mut told = BTreeSet::new();
        for error in result.validation_errors() {
            let Some(rule) = by_id.get(&error.policy_id().to_string()) else { continue };
            let literal = matches!(error, cedar_policy::ValidationError::UnrecognizedActionId(_));
            if literal {
                // said already, with every action in view
                continue;
            }
            let problem = said(&error.to_string());
            let hint = self.hidden(rule, names, &problem).or_else(|| error.help().map(|help| help.to_string()));
            let offset = offset_of(error).unwrap_or(rule.span.start);
            if told.insert((rule.source, offset)) {
                self.report(rule.source, offset, problem, hint);
            }
        }
        for warning in result.validation_warnings() {
            let Some(rule) = by_id.get(&warning.policy_id().to_string()) else { continue };
            let fatal = match warning {
                ValidationWarning::ImpossiblePolicy(_) => rule.action.names_only_actions(),
                ValidationWarning::BidiCharsInString(_) | ValidationWarning::BidiCharsInIdentifier(_) => true,
                _ => false,
            };
            let known = rule.policy.entity_literals().iter().all(|literal| {
                let name = literal.id().unescaped();
                literal.type_name().to_string() != "Action"
                    || (self.words.knows_action(name) && !self.words.away.contains(name))
            });
            if fatal && known {
                let (offset, hint) = match self.misspelt(rule, names) {
                    Some((word, near)) => (self.find(rule, word), format!("did you mean `{near}`?")),
                    None => (rule.span.start, "as it stands it can never match: look for a misspelt name".to_owned()),
                };
                self.report(rule.source, offset, said(&warning.to_string()), Some(hint));
            }
        }
    }

    /// A word of the rule that is nearly an argument of its actions, and that argument.
    fn misspelt<'r>(&self, rule: &'r Rule, names: &[&str]) -> Option<(&'r str, String)> {
        let inputs = names.iter().filter_map(|name| self.words.actions.get(*name)?.input.as_ref());
        let fields: BTreeSet<&str> =
            inputs.flat_map(|input| input.fields.iter().map(|field| field.name.as_str())).collect();
        rule.mentions
            .iter()
            .filter(|word| word.len() > 2 && !fields.contains(word.as_str()))
            .find_map(|word| Some((word.as_str(), nearest(word, fields.iter().copied())?.to_owned())))
    }

    /// Why policies cannot see a member that is in the contract.
    fn hidden(&self, rule: &Rule, names: &[&str], problem: &str) -> Option<String> {
        names.iter().filter_map(|name| self.words.actions.get(*name)).flat_map(|action| &action.hidden).find_map(
            |(path, why)| {
                let last = path.rsplit('.').next()?;
                let named = [format!("`{last}`"), format!(".{last}`")].iter().any(|name| problem.contains(name));
                let about = named && rule.mentions.contains(last);
                about.then(|| format!("grants cannot look at `{path}`: {why}"))
            },
        )
    }
}

/// One action for each that the rule cannot tell apart: by its groups and the types of what it looks at.
fn representatives<'w>(words: &'w Vocabulary, rule: &Rule, looks: &[&str]) -> Vec<&'w str> {
    let mut seen = BTreeSet::new();
    let mut names = Vec::new();
    for (name, action) in &words.actions {
        if !rule.action.covers(name, action) {
            continue;
        }
        let fields: Option<Vec<String>> = action.input.as_ref().map(|input| {
            let seen = input.fields.iter().filter(|field| looks.contains(&field.name.as_str()));
            seen.map(|field| format!("{field:?}")).collect()
        });
        if seen.insert((&action.groups, fields)) {
            names.push(name.as_str());
        }
    }
    names
}

/// The message without the policy's number in our batch.
fn said(message: &str) -> String {
    match message.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, ")) {
        Some((_, rest)) => rest.to_owned(),
        None => message.to_owned(),
    }
}

fn offset_of(error: &dyn Diagnostic) -> Option<usize> {
    error.labels()?.next().map(|label| label.offset())
}

/// Line and column, both from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = crate::call::cut(text, offset);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// Where `@name` stands in a policy's text.
fn annotation(text: &str, name: &str) -> Option<usize> {
    let wanted = format!("@{name}");
    text.match_indices(&wanted).map(|(at, _)| at).find(|at| {
        let after = text.get(at + wanted.len()..).and_then(|rest| rest.chars().next());
        !after.is_some_and(|next| next.is_alphanumeric() || next == '_')
    })
}

/// The known word that a misspelt one most likely means.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count().max(word.chars().count()) / 3).max(1))
        .min()
        .map(|(_, candidate)| candidate)
}

fn is_id(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    !text.is_empty() && text.len() <= 128 && text.chars().all(plain)
}

fn is_role(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    !text.is_empty() && text.len() <= 64 && text.chars().all(plain)
}

/// `15m`: a number and a unit, in seconds, from one second to 30 days.
fn seconds(text: &str) -> Option<u64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    let digits = text.get(..text.len() - 1)?;
    let number: u64 = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    number.checked_mul(unit).filter(|seconds| (1..=LONGEST).contains(seconds))
}

/// `10/minute`
fn per(text: &str) -> Option<Limit> {
    let (number, unit) = text.split_once('/')?;
    let seconds = match unit {
        "second" => 1,
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        _ => return None,
    };
    let count: u32 = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())??;
    (1..=1_000_000).contains(&count).then_some(Limit { count, per: seconds * 1_000_000 })
}

/// `a b`: scope tokens of RFC 6749 section 3.3 with one space between, each once.
fn scopes(text: &str) -> Option<Vec<String>> {
    let token = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    let mut scopes: Vec<String> = Vec::new();
    for scope in text.split(' ') {
        let fits = !scope.is_empty() && scope.len() <= 256 && scope.chars().all(token);
        if !fits || scopes.len() >= SCOPES || scopes.iter().any(|known| known == scope) {
            return None;
        }
        scopes.push(scope.to_owned());
    }
    Some(scopes)
}

/// Every string and member name of a policy's conditions.
fn gather(json: &serde_json::Value, into: &mut BTreeSet<String>) {
    match json {
        serde_json::Value::String(text) => {
            into.insert(text.clone());
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| gather(item, into)),
        serde_json::Value::Object(members) => {
            for (name, value) in members {
                into.insert(name.clone());
                gather(value, into);
            }
        }
        _ => {}
    }
}

fn principal_scope(constraint: &PrincipalConstraint) -> PrincipalScope {
    let within = |uid: &EntityUid| match uid.type_name().to_string().as_str() {
        "Agent" => PrincipalScope::Agent(uid.id().unescaped().to_owned()),
        "Team" => PrincipalScope::Team(uid.id().unescaped().to_owned()),
        _ => PrincipalScope::Nobody,
    };
    match constraint {
        PrincipalConstraint::Any => PrincipalScope::Any,
        PrincipalConstraint::In(uid) => within(uid),
        PrincipalConstraint::Eq(uid) => match within(uid) {
            PrincipalScope::Team(_) => PrincipalScope::Nobody,
            scope => scope,
        },
        PrincipalConstraint::Is(kind) if kind.to_string() == "Agent" => PrincipalScope::Any,
        PrincipalConstraint::IsIn(kind, uid) if kind.to_string() == "Agent" => within(uid),
        PrincipalConstraint::Is(_) | PrincipalConstraint::IsIn(..) => PrincipalScope::Nobody,
    }
}

fn action_scope(constraint: &ActionConstraint) -> ActionScope {
    let name = |uid: &EntityUid| uid.id().unescaped().to_owned();
    match constraint {
        ActionConstraint::Any => ActionScope::Any,
        ActionConstraint::In(list) => ActionScope::In(list.iter().map(name).collect()),
        ActionConstraint::Eq(uid) => ActionScope::Is(name(uid)),
    }
}

fn resource_scope(constraint: &ResourceConstraint) -> ResourceScope {
    let upstream = |uid: &EntityUid| match uid.type_name().to_string().as_str() {
        "Upstream" => ResourceScope::Upstream(uid.id().unescaped().to_owned()),
        _ => ResourceScope::Nothing,
    };
    match constraint {
        ResourceConstraint::Any => ResourceScope::Any,
        ResourceConstraint::In(uid) | ResourceConstraint::Eq(uid) => upstream(uid),
        ResourceConstraint::Is(kind) if kind.to_string() == "Upstream" => ResourceScope::Any,
        ResourceConstraint::IsIn(kind, uid) if kind.to_string() == "Upstream" => upstream(uid),
        ResourceConstraint::Is(_) | ResourceConstraint::IsIn(..) => ResourceScope::Nothing,
    }
}
