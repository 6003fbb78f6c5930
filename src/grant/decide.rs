//! The verdict.
//!
//! Cedar is asked twice: about permits and hard forbids, then about the forbids with `@hold` alone, whose satisfied
//! ones are the reasons of its deny. It is shown only the policies whose scope can match: see [`Slice`]. An error in
//! any of them refuses, since Cedar itself would leave that policy out.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, PoisonError},
};

use cedar_policy::{
    Authorizer, Context, Effect, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression,
};

use super::{
    Grants, Sessions,
    load::{Kinds, PrincipalScope, Rule, Site, uid},
    schema::{Field, Type},
    session::Facts,
};
use crate::{
    call::{Fault, Operation, Principal, Refused, Validated},
    clock::Timestamp,
    contract::{Tool, UpstreamName},
    hold::{Demand, HoldId, Warrant},
    json::{Digest, Object, Value},
};

/// Slices remembered at most; beyond, all are made anew.
const SLICES: usize = 65_536;
/// Policy sets remembered at most.
const SETS: usize = 4_096;

/// What the grants say to a call.
#[derive(Debug)]
pub enum Decision {
    /// It may go.
    Permit(Permitted),
    /// A person has to countersign it.
    Hold(Held),
    /// It may not: the refusal and what to record.
    Deny(Box<(Refused, Validated, Basis)>),
}

/// What a decision rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// Ids of the policies that decided.
    pub policies: Vec<Arc<str>>,
    /// Digest of the whole set they come from.
    pub set: Option<Digest>,
}

/// A call that some grant permits. Minted in this module only.
#[derive(Debug)]
pub struct Permitted {
    call: Validated,
    basis: Basis,
    countersigned: Option<HoldId>,
}

impl Permitted {
    /// The call.
    pub fn call(&self) -> &Validated {
        &self.call
    }

    /// What permits it.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// The hold that people countersigned for it: recording the call spends it.
    pub fn countersigned(&self) -> Option<&HoldId> {
        self.countersigned.as_ref()
    }
}

/// A call that waits for a countersignature.
#[derive(Debug)]
pub struct Held {
    call: Validated,
    basis: Basis,
    demands: Vec<Demand>,
}

impl Held {
    /// The call.
    pub fn call(&self) -> &Validated {
        &self.call
    }

    /// What holds it.
    pub fn basis(&self) -> &Basis {
        &self.basis
    }

    /// What has to be countersigned.
    pub fn demands(&self) -> &[Demand] {
        &self.demands
    }

    /// The call, what holds it, and what has to be countersigned.
    pub fn into_parts(self) -> (Validated, Basis, Vec<Demand>) {
        (self.call, self.basis, self.demands)
    }

    /// Turns a hold that nobody can countersign here into its refusal.
    pub fn refuse(self) -> Box<(Refused, Validated, Basis)> {
        let roles = self.demands.iter().map(|demand| demand.role.clone()).collect();
        let reason = self.demands.iter().find_map(|demand| demand.reason.clone());
        Box::new((Refused::ApprovalRequired { roles, reason }, self.call, self.basis))
    }
}

/// What `tools/list` tells a principal of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Some grant could let it call alone.
    Allow,
    /// Every way to call it needs a countersignature.
    Hold,
}

/// What an upstream may ask of an agent's client, each an action of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `sampling/createMessage`: action `sampling_create`.
    Sampling,
    /// `elicitation/create`: action `elicitation_create`.
    Elicitation,
    /// `roots/list`: action `roots_list`.
    Roots,
}

impl Asked {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Sampling, Self::Elicitation, Self::Roots];

    /// Its action in grants.
    pub fn action(self) -> &'static str {
        match self {
            Self::Sampling => "sampling_create",
            Self::Elicitation => "elicitation_create",
            Self::Roots => "roots_list",
        }
    }
}

/// The policies that can match at one site for one kind of principal, until the next `@until`.
///
/// Scopes are exact: a policy that is left out is one whose scope Cedar would find false. Agents that no scope names
/// and that are in the same teams share a slice.
#[derive(Debug)]
pub(super) struct Slice {
    pub(super) rules: Box<[u32]>,
    /// Permits whose `@scope` asks for more than the principal has: they permit nothing, but where one would, the
    /// principal is told what it lacks.
    pub(super) lacking: Box<[u32]>,
    sets: Arc<Sets>,
    /// The arguments that some policy looks at.
    input: Vec<Field>,
    uses: Uses,
    pub(super) visible: Option<Visibility>,
}

/// What else of a call the policies look at; the rest is not built.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    input: bool,
    session: bool,
    now: bool,
    agent: bool,
}

/// Which slice: numbers of the site, of the agent and teams that policies' scopes name, of the credential's scopes that
/// some `@scope` names, and how many `@until`s are past. Whoever shares a slice is alike in all that made it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SliceKey {
    site: u32,
    agent: Option<u32>,
    teams: Vec<u32>,
    scopes: Vec<u32>,
    past: usize,
}

/// The two sets that Cedar is asked about.
#[derive(Debug, Default)]
pub(super) struct Sets {
    plain: PolicySet,
    holding: PolicySet,
    /// A policy is missing.
    broken: bool,
}

/// The policies whose scope and conditions hold, by place in [`Grants::rules`], which is by id.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Satisfied {
    pub(super) permits: BTreeSet<u32>,
    pub(super) forbids: BTreeSet<u32>,
    pub(super) holds: BTreeSet<u32>,
}

/// What a decision comes to, before it is done.
#[derive(Debug)]
pub(super) enum Verdict {
    Permit { permit: u32, others: Vec<u32> },
    Hold { policies: Vec<u32>, demands: Vec<Demand> },
    Deny { refused: Refused, policies: Vec<u32> },
}

/// What is asked: everything a policy can look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) who: &'a Principal,
    pub(super) site: &'a Site,
    pub(super) arguments: Option<&'a Value>,
    pub(super) now: Timestamp,
}

impl Grants {
    /// Decides a call. Counts it in `sessions` only when it is permitted.
    pub fn decide(&self, call: Validated, sessions: &Sessions) -> Decision {
        self.decide_with(call, sessions, None)
    }

    /// Decides a call again that people countersigned: what the warrant covers does not hold it any more. Whatever else
    /// the grants say is as for any other call, and it counts.
    pub fn decide_countersigned(&self, call: Validated, sessions: &Sessions, warrant: &Warrant) -> Decision {
        self.decide_with(call, sessions, Some(warrant))
    }

    fn decide_with(&self, call: Validated, sessions: &Sessions, warrant: Option<&Warrant>) -> Decision {
        let who = call.principal();
        let verdict = match self.site_of(who, &call.tool().action, &call.tool().upstream) {
            // contracts and grants are replaced one after the other: in between, policies would judge a contract
            // whose impact and arguments they do not know
            Some(site) if !site.contracts.contains(&call.tool().digest) => {
                let why = "the contract and the grants are being replaced".to_owned();
                Verdict::Deny { refused: Refused::Unavailable(Fault(why)), policies: Vec::new() }
            }
            Some(site) => {
                let named;
                let arguments = if call.operation() == Operation::Complete {
                    named = completed(call.arguments().tree());
                    &named
                } else {
                    call.arguments().tree()
                };
                let question = Question { who, site, arguments: Some(arguments), now: call.at() };
                self.settle(question, &call.tool().action, sessions, warrant)
            }
            // no policy was typed against this tool, so none can be about it; or it is none of the credential's
            None => Verdict::Deny { refused: Refused::NotGranted, policies: Vec::new() },
        };
        match verdict {
            Verdict::Permit { permit, mut others } => {
                others.push(permit);
                let countersigned = warrant.map(|warrant| warrant.hold().id.clone());
                Decision::Permit(Permitted { call, basis: self.basis(&others), countersigned })
            }
            Verdict::Hold { policies, demands } => Decision::Hold(Held { call, basis: self.basis(&policies), demands }),
            Verdict::Deny { refused, policies } => {
                let basis = self.basis(&policies);
                Decision::Deny(Box::new((refused, call, basis)))
            }
        }
    }

    /// Whether some arguments could let this principal call the tool at `now`; `None` hides it. Conditions on
    /// arguments or attributes count as "could", and so do scopes that it lacks: it can get them, once it is told which.
    pub fn visibility(&self, principal: &Principal, tool: &Tool, now: Timestamp) -> Option<Visibility> {
        self.slice(self.site_of(principal, &tool.action, &tool.upstream)?, principal, now).visible
    }

    /// Whether some grant could let this principal use that operation of the upstream at all.
    pub fn reaches(
        &self,
        principal: &Principal,
        operation: Operation,
        upstream: &UpstreamName,
        now: Timestamp,
    ) -> bool {
        let could = |action: &str| {
            self.site_of(principal, action, upstream)
                .is_some_and(|site| self.slice(site, principal, now).visible.is_some())
        };
        match operation {
            Operation::CallTool => self
                .words
                .actions
                .iter()
                .filter(|(_, action)| !action.groups.is_empty() && action.upstreams.contains(upstream))
                .any(|(name, _)| could(name)),
            Operation::ReadResource | Operation::Subscribe => could("resource_read"),
            Operation::GetPrompt => could("prompt_get"),
            Operation::Complete => could("resource_read") || could("prompt_get"),
        }
    }

    /// Whether an upstream may ask this principal's client at `now`; an error in a policy means no, and so does a
    /// verdict of hold. A permitted question is counted like a call.
    pub fn may_ask(
        &self,
        principal: &Principal,
        asked: Asked,
        upstream: &UpstreamName,
        sessions: &Sessions,
        now: Timestamp,
    ) -> bool {
        let Some(site) = self.site_of(principal, asked.action(), upstream) else { return false };
        let question = Question { who: principal, site, arguments: None, now };
        matches!(self.settle(question, asked.action(), sessions, None), Verdict::Permit { .. })
    }

    /// As [`Grants::may_ask`], for telling an upstream what it may come to ask: counts nothing.
    pub fn could_ask(
        &self,
        principal: &Principal,
        asked: Asked,
        upstream: &UpstreamName,
        sessions: &Sessions,
        now: Timestamp,
    ) -> bool {
        let Some(site) = self.site_of(principal, asked.action(), upstream) else { return false };
        let question = Question { who: principal, site, arguments: None, now };
        let slice = self.slice(site, principal, now);
        let take = || sessions.turn(&principal.agent, principal.user.as_deref(), principal.task.as_deref());
        let facts = slice.uses.session.then(|| take().facts(asked.action(), now));
        match self.satisfied(&slice, question, facts.as_ref()) {
            Ok(satisfied) => {
                matches!(self.conclude(&satisfied, &principal.agent, sessions, now), Verdict::Permit { .. })
            }
            Err(_) => false,
        }
    }

    /// Decides and, when it is a permit, counts. The session stays locked from reading its counters to counting, so
    /// that calls made at once cannot all see the same count.
    pub(super) fn settle(
        &self,
        question: Question<'_>,
        action: &str,
        sessions: &Sessions,
        warrant: Option<&Warrant>,
    ) -> Verdict {
        let Question { who, site, now, .. } = question;
        let deny = |refused| Verdict::Deny { refused, policies: Vec::new() };
        let slice = self.slice(site, who, now);
        let take = || sessions.turn(&who.agent, who.user.as_deref(), who.task.as_deref());
        let early = slice.uses.session.then(take);
        let facts = early.as_ref().map(|turn| turn.facts(action, now));
        let satisfied = match self.satisfied(&slice, question, facts.as_ref()) {
            Ok(satisfied) => satisfied,
            Err((refused, policies)) => return Verdict::Deny { refused, policies },
        };
        let mut turn = early.unwrap_or_else(take);
        // another call may use up a limit between looking and counting; each time round one permit less is left
        for _ in 0..=satisfied.permits.len() {
            let (permit, others) = match self.conclude(&satisfied, &who.agent, sessions, now) {
                Verdict::Permit { permit, others } => (permit, others),
                // the permit is the last of what holds it
                Verdict::Hold { mut policies, demands } if warrant.is_some_and(|warrant| warrant.covers(&demands)) => {
                    match policies.pop() {
                        Some(permit) => (permit, policies),
                        None => return deny(Refused::PolicyError),
                    }
                }
                Verdict::Deny { refused: Refused::NotGranted, policies } => {
                    let facts = || turn.facts(action, now);
                    return match self.would_do(&slice, question, facts, sessions) {
                        Some(lacking) => lacking,
                        None => Verdict::Deny { refused: Refused::NotGranted, policies },
                    };
                }
                verdict => return verdict,
            };
            if let Err(refused) = turn.reserve(now) {
                return deny(refused);
            }
            let Some(rule) = self.rule(permit) else { break };
            let counted = match rule.limit {
                Some(limit) => sessions.consume(&rule.id, &who.agent, limit, now),
                None => Ok(()),
            };
            match counted {
                Ok(()) => {
                    turn.count(action, site.labels.iter().map(String::as_str), now);
                    return Verdict::Permit { permit, others };
                }
                Err(Refused::LimitExceeded { .. }) => {}
                Err(refused) => return deny(refused),
            }
        }
        deny(Refused::LimitExceeded { retry_after_ms: 1_000 })
    }

    /// The refusal that names what the principal lacks, where a permit would let the call go or be countersigned did
    /// its scopes suffice. Of several, the one that lacks least.
    pub(super) fn would_do(
        &self,
        slice: &Slice,
        question: Question<'_>,
        facts: impl FnOnce() -> Facts,
        sessions: &Sessions,
    ) -> Option<Verdict> {
        let Question { who, site, now, .. } = question;
        if slice.lacking.is_empty() {
            return None;
        }
        let mut all: Vec<u32> = slice.rules.iter().chain(&slice.lacking).copied().collect();
        all.sort_unstable();
        let whole = self.cut(all.into(), Box::default(), site);
        let facts = whole.uses.session.then(facts);
        // one that errs refuses nothing, since it is none of the principal's
        let satisfied = self.satisfied(&whole, question, facts.as_ref()).ok()?;
        let live = |rule: &Rule| rule.limit.and_then(|limit| sessions.wait(&rule.id, &who.agent, limit, now)).is_none();
        let (permit, rule) = satisfied
            .permits
            .iter()
            .filter(|permit| slice.lacking.contains(*permit))
            .filter_map(|permit| Some((*permit, self.rule(*permit)?)))
            .filter(|(_, rule)| live(rule))
            .min_by_key(|(permit, rule)| (rule.lacks(&who.scopes).count(), *permit))?;
        let refused = Refused::InsufficientScope { scopes: rule.scopes.clone() };
        Some(Verdict::Deny { refused, policies: vec![permit] })
    }

    /// The verdict that satisfied policies come to, nothing counted.
    pub(super) fn conclude(&self, satisfied: &Satisfied, agent: &str, sessions: &Sessions, now: Timestamp) -> Verdict {
        let rules = |places: &BTreeSet<u32>| -> Vec<(u32, &Rule)> {
            places.iter().filter_map(|place| Some((*place, self.rule(*place)?))).collect()
        };
        if !satisfied.forbids.is_empty() {
            let reason = rules(&satisfied.forbids).iter().find_map(|(_, rule)| rule.reason.clone());
            let policies = satisfied.forbids.iter().copied().collect();
            return Verdict::Deny { refused: Refused::Forbidden { reason }, policies };
        }
        let mut waits = Vec::new();
        let mut live = rules(&satisfied.permits);
        live.retain(|(_, rule)| {
            let wait = rule.limit.and_then(|limit| sessions.wait(&rule.id, agent, limit, now));
            waits.extend(wait);
            wait.is_none()
        });
        let free = live.iter().filter(|(_, rule)| rule.hold.is_none()).min_by_key(|(place, rule)| {
            let limited = rule.limit.is_some();
            (limited, *place)
        });
        let held = live
            .iter()
            .filter_map(|(place, rule)| Some((*place, *rule, rule.hold.as_ref()?)))
            .min_by_key(|(place, _, hold)| (hold.approvals, hold.assurance, Reverse(hold.expires), *place));
        let mut policies: Vec<u32> = satisfied.holds.iter().copied().collect();
        let mut demands: Vec<Demand> =
            rules(&satisfied.holds).into_iter().filter_map(|(_, rule)| demand(rule)).collect();
        match (free, held) {
            (Some((permit, _)), _) if demands.is_empty() => Verdict::Permit { permit: *permit, others: Vec::new() },
            (Some((permit, _)), _) => {
                policies.push(*permit);
                Verdict::Hold { policies, demands }
            }
            (None, Some((permit, rule, _))) => {
                policies.push(permit);
                demands.extend(demand(rule));
                Verdict::Hold { policies, demands }
            }
            (None, None) => match waits.into_iter().min() {
                Some(retry_after_ms) => Verdict::Deny {
                    refused: Refused::LimitExceeded { retry_after_ms },
                    policies: satisfied.permits.iter().copied().collect(),
                },
                None => Verdict::Deny { refused: Refused::NotGranted, policies: Vec::new() },
            },
        }
    }

    /// Asks Cedar which policies of the slice are satisfied.
    ///
    /// # Errors
    /// The refusal, and the policies that erred: arguments beyond what policies can compare, or an error in a policy.
    pub(super) fn satisfied(
        &self,
        slice: &Slice,
        question: Question<'_>,
        facts: Option<&Facts>,
    ) -> Result<Satisfied, (Refused, Vec<u32>)> {
        let mut satisfied = Satisfied::default();
        if slice.rules.is_empty() {
            return Ok(satisfied);
        }
        let broken = || (Refused::PolicyError, Vec::new());
        if slice.sets.broken {
            return Err(broken());
        }
        let context = slice.context(question, facts).map_err(|refused| (refused, Vec::new()))?;
        let kinds = Kinds::shared().ok_or_else(broken)?;
        let agent = uid(&kinds.agent, &question.who.agent);
        let site = question.site.entities().ok_or_else(broken)?;
        let described;
        let entities = if slice.uses.agent || !question.who.teams.is_empty() {
            let own = described_agent(kinds, &agent, question.who, slice.uses.agent).ok_or_else(broken)?;
            described = site.clone().add_entities([own], None).map_err(|_| broken())?;
            &described
        } else {
            site
        };
        let (action, upstream) = (question.site.action.clone(), question.site.upstream.clone());
        let request = Request::new(agent, action, upstream, context, None).map_err(|_| broken())?;
        let mut erred = Vec::new();
        for place in ask(&slice.sets.plain, &request, entities, self, &mut erred) {
            match self.rule(place).map(|rule| rule.effect) {
                Some(Effect::Permit) => satisfied.permits.insert(place),
                _ => satisfied.forbids.insert(place),
            };
        }
        satisfied.holds.extend(ask(&slice.sets.holding, &request, entities, self, &mut erred));
        if erred.is_empty() { Ok(satisfied) } else { Err((Refused::PolicyError, erred)) }
    }

    /// Where a call of that principal goes. A credential that is for some actions only has no way to any other, as if
    /// nothing were known of it: this is the one place that decides so, and everything that is asked comes through it.
    pub(super) fn site_of(&self, who: &Principal, action: &str, upstream: &UpstreamName) -> Option<&Site> {
        is_for(who, action).then(|| self.site(action, upstream))?
    }

    /// Where a call goes, if the contracts know of it.
    pub(super) fn site(&self, action: &str, upstream: &UpstreamName) -> Option<&Site> {
        let sites = self.sites.get(action)?;
        let place = sites.binary_search_by(|(name, _)| name.cmp(upstream)).ok()?;
        sites.get(place).map(|(_, site)| site)
    }

    pub(super) fn rule(&self, place: u32) -> Option<&Rule> {
        self.rules.get(usize::try_from(place).ok()?)
    }

    /// How long until the limits of all these policies let that agent through again, milliseconds; `None` when they do.
    pub fn wait_for_limits(
        &self,
        policies: &[Arc<str>],
        agent: &str,
        sessions: &Sessions,
        now: Timestamp,
    ) -> Option<u64> {
        policies.iter().filter_map(|id| sessions.wait(id, agent, self.limit(id)?, now)).max()
    }

    /// The limit that a policy of that id has.
    pub(super) fn limit(&self, policy: &str) -> Option<super::session::Limit> {
        self.rule(*self.by_id.get(policy)?)?.limit
    }

    pub(super) fn basis(&self, places: &[u32]) -> Basis {
        let ids = places.iter().filter_map(|place| Some(Arc::clone(&self.rule(*place)?.id)));
        Basis { policies: ids.collect(), set: Some(self.digest()) }
    }

    /// The policies that can match there for that principal now.
    pub(super) fn slice(&self, site: &Site, who: &Principal, now: Timestamp) -> Arc<Slice> {
        let mut teams: Vec<u32> = who.teams.iter().filter_map(|team| self.teams.get(team).copied()).collect();
        teams.sort_unstable();
        teams.dedup();
        let mut scopes: Vec<u32> = who.scopes.iter().filter_map(|scope| self.scopes.get(scope).copied()).collect();
        scopes.sort_unstable();
        scopes.dedup();
        let past = self.untils.partition_point(|until| *until <= now);
        let key = SliceKey { site: site.number, agent: self.agents.get(&who.agent).copied(), teams, scopes, past };
        if let Some(slice) = self.slices.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Arc::clone(slice);
        }
        let rules =
            site.rules.iter().copied().filter(|place| {
                self.rule(*place).is_some_and(|rule| !rule.is_over(now) && covers(&rule.principal, who))
            });
        let (rules, lacking): (Vec<u32>, Vec<u32>) =
            rules.partition(|place| self.rule(*place).is_some_and(|rule| rule.lacks(&who.scopes).next().is_none()));
        let slice = Arc::new(self.cut(rules.into(), lacking.into(), site));
        let mut slices = self.slices.write().unwrap_or_else(PoisonError::into_inner);
        if slices.len() >= SLICES {
            slices.clear();
        }
        slices.insert(key, Arc::clone(&slice));
        slice
    }

    /// A slice of just these rules, beside permits that would need more scopes.
    pub(super) fn cut(&self, rules: Box<[u32]>, lacking: Box<[u32]>, site: &Site) -> Slice {
        let known = |places: &[u32]| -> Vec<&Rule> { places.iter().filter_map(|place| self.rule(*place)).collect() };
        let these = known(&rules);
        let mentions = |word: &str| these.iter().any(|rule| rule.mentions.contains(word));
        let uses = Uses {
            input: mentions("input"),
            session: mentions("session"),
            now: mentions("now"),
            agent: mentions("principal") || mentions("__entity"),
        };
        let whole = self.words.actions.get(site.action.id().unescaped()).and_then(|action| action.input.as_ref());
        let input = whole
            .map(|whole| whole.fields.iter().filter(|field| uses.input && mentions(&field.name)).cloned().collect());
        Slice {
            sets: self.sets(&rules, &these),
            input: input.unwrap_or_default(),
            uses,
            visible: visible(&[these, known(&lacking)].concat()),
            rules,
            lacking,
        }
    }

    fn sets(&self, places: &[u32], rules: &[&Rule]) -> Arc<Sets> {
        let mut known = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sets) = known.get(places) {
            return Arc::clone(sets);
        }
        let mut sets = Sets::default();
        for rule in rules {
            let holding = rule.effect == Effect::Forbid && rule.hold.is_some();
            let set = if holding { &mut sets.holding } else { &mut sets.plain };
            // ids were checked to be different, and every policy to be static: were one left out all the same,
            // nothing would be decided by the rest
            sets.broken |= set.add(rule.policy.clone()).is_err();
        }
        let sets = Arc::new(sets);
        if known.len() >= SETS {
            known.clear();
        }
        known.insert(places.into(), Arc::clone(&sets));
        sets
    }
}

/// Whether the principal's credential is for that action: all are without a restriction.
pub(super) fn is_for(who: &Principal, action: &str) -> bool {
    who.tools.as_ref().is_none_or(|tools| tools.iter().any(|tool| tool == action))
}

/// Whether a principal's scope can match: exactly Cedar's answer.
pub(super) fn covers(scope: &PrincipalScope, who: &Principal) -> bool {
    match scope {
        PrincipalScope::Any => true,
        PrincipalScope::Agent(name) => *name == who.agent,
        PrincipalScope::Team(name) => who.teams.contains(name),
        PrincipalScope::Nobody => false,
    }
}

fn visible(rules: &[&Rule]) -> Option<Visibility> {
    let hard = |rule: &&&Rule| rule.effect == Effect::Forbid && rule.hold.is_none();
    if rules.iter().filter(hard).any(|rule| rule.is_unconditional()) {
        return None;
    }
    let mut permits = rules.iter().filter(|rule| rule.effect == Effect::Permit).peekable();
    permits.peek()?;
    let always =
        rules.iter().any(|rule| rule.effect == Effect::Forbid && rule.hold.is_some() && rule.is_unconditional());
    if always || permits.all(|rule| rule.hold.is_some()) { Some(Visibility::Hold) } else { Some(Visibility::Allow) }
}

fn demand(rule: &Rule) -> Option<Demand> {
    let hold = rule.hold.as_ref()?;
    Some(Demand {
        policy: Arc::clone(&rule.id),
        role: hold.role.clone(),
        approvals: hold.approvals,
        assurance: hold.assurance,
        expires: hold.expires,
        reason: rule.reason.clone(),
    })
}

/// The satisfied policies of a set; those that err go to `erred`.
fn ask(set: &PolicySet, request: &Request, entities: &Entities, grants: &Grants, erred: &mut Vec<u32>) -> Vec<u32> {
    if set.is_empty() {
        return Vec::new();
    }
    let response = Authorizer::new().is_authorized(request, set, entities);
    let place = |id: &cedar_policy::PolicyId| {
        let id: &str = id.as_ref();
        grants.by_id.get(id).copied()
    };
    for error in response.diagnostics().errors() {
        let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
        erred.push(place(error.policy_id()).unwrap_or(u32::MAX));
    }
    let mut satisfied = Vec::new();
    for id in response.diagnostics().reason() {
        match place(id) {
            Some(place) => satisfied.push(place),
            // a policy that nobody knows may be a guardrail: it must not vanish
            None => erred.push(u32::MAX),
        }
    }
    satisfied
}

fn described_agent(kinds: &Kinds, agent: &EntityUid, who: &Principal, whole: bool) -> Option<Entity> {
    let parents: HashSet<EntityUid> = who.teams.iter().map(|team| uid(&kinds.team, team)).collect();
    if !whole {
        return Some(Entity::new_no_attrs(agent.clone(), parents));
    }
    let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
    let texts = |texts: &[String]| RestrictedExpression::new_set(texts.iter().map(|one| text(one)));
    let mut attributes = HashMap::from([
        ("issuer".to_owned(), text(&who.issuer)),
        ("teams".to_owned(), texts(&who.teams)),
        ("scopes".to_owned(), texts(&who.scopes)),
        ("chain".to_owned(), texts(&who.chain)),
        ("assurance".to_owned(), text(who.assurance.word())),
    ]);
    for (name, value) in [("user", &who.user), ("task", &who.task), ("workload", &who.workload)] {
        attributes.extend(value.as_ref().map(|value| (name.to_owned(), text(value))));
    }
    Entity::new(agent.clone(), attributes, parents).ok()
}

impl Slice {
    fn context(&self, question: Question<'_>, facts: Option<&Facts>) -> Result<Context, Refused> {
        let broken = |_| Refused::PolicyError;
        let mut pairs = Vec::with_capacity(3);
        if let Some(arguments) = question.arguments.filter(|_| self.uses.input) {
            let mut pointer = String::new();
            let input = record(&self.input, arguments, &mut pointer)?;
            pairs.push(("input".to_owned(), input));
        }
        if self.uses.session {
            let facts = facts.ok_or(Refused::PolicyError)?;
            let labels = facts.labels.iter().map(|label| RestrictedExpression::new_string(label.clone()));
            let session = RestrictedExpression::new_record([
                ("calls".to_owned(), RestrictedExpression::new_long(facts.calls)),
                ("calls_of_tool".to_owned(), RestrictedExpression::new_long(facts.calls_of_tool)),
                ("age_seconds".to_owned(), RestrictedExpression::new_long(facts.age_seconds)),
                ("labels".to_owned(), RestrictedExpression::new_set(labels)),
            ]);
            pairs.push(("session".to_owned(), session.map_err(broken)?));
        }
        if self.uses.now {
            let now = question.now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
            pairs.push(("now".to_owned(), RestrictedExpression::new_datetime(now)));
        }
        if pairs.is_empty() {
            return Ok(Context::empty());
        }
        Context::from_pairs(pairs).map_err(|_| Refused::PolicyError)
    }

    /// Everything that a policy could look at, whether one does or not: what slicing is held against.
    #[cfg(test)]
    pub(super) fn seeing_all(mut self, whole: &super::schema::Record) -> Self {
        self.input.clone_from(&whole.fields);
        self.uses = Uses { input: true, session: true, now: true, agent: true };
        self
    }
}

/// A completion is granted like the prompt or resource that it completes, so policies see the name or URI of that.
fn completed(arguments: &Value) -> Value {
    let mut named = Object::new();
    for name in ["name", "uri"] {
        if let Some(value) = arguments.get("ref").and_then(|of| of.get(name)) {
            named.insert(name, value.clone());
        }
    }
    named.into()
}

/// The members of an object that policies see; `pointer` is where it is, for a refusal.
fn record(fields: &[Field], value: &Value, pointer: &mut String) -> Result<RestrictedExpression, Refused> {
    // the contract has checked the types already: what differs here is not decided on at all
    let object = value.as_object().ok_or(Refused::PolicyError)?;
    let mut members = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(value) = object.get(&field.name) else { continue };
        let before = pointer.len();
        pointer.push('/');
        pointer.push_str(&field.name.replace('~', "~0").replace('/', "~1"));
        members.push((field.name.clone(), expression(&field.kind, value, pointer)?));
        pointer.truncate(before);
    }
    RestrictedExpression::new_record(members).map_err(|_| Refused::PolicyError)
}

fn expression(kind: &Type, value: &Value, pointer: &mut String) -> Result<RestrictedExpression, Refused> {
    match (kind, value) {
        (Type::String, Value::String(text)) => Ok(RestrictedExpression::new_string(text.clone())),
        (Type::Bool, Value::Bool(truth)) => Ok(RestrictedExpression::new_bool(*truth)),
        (Type::Long, Value::Number(number)) => {
            number.as_i64().map(RestrictedExpression::new_long).ok_or(Refused::PolicyError)
        }
        (Type::Decimal, Value::Number(number)) => match decimal(number.text()) {
            Ok(text) => Ok(RestrictedExpression::new_decimal(text)),
            Err(problem) => Err(Refused::InvalidArguments { pointer: pointer.clone(), problem: problem.to_owned() }),
        },
        (Type::Record(inner), value) => record(&inner.fields, value, pointer),
        (Type::Set(element), Value::Array(items)) => {
            let mut members = Vec::with_capacity(items.len());
            for (place, item) in items.iter().enumerate() {
                let before = pointer.len();
                pointer.push('/');
                pointer.push_str(&place.to_string());
                members.push(expression(element, item, pointer)?);
                pointer.truncate(before);
            }
            Ok(RestrictedExpression::new_set(members))
        }
        _ => Err(Refused::PolicyError),
    }
}

/// Canonical number text as Cedar writes a decimal: four places, 64 bits.
fn decimal(text: &str) -> Result<String, &'static str> {
    const PLACES: &str = "has more decimal places than a grant can compare (4)";
    const SIZE: &str = "is beyond what a grant can compare (±922337203685477.5807)";
    // RFC 8785 writes an exponent below 1e-6 and from 1e21 on only
    if let Some((_, exponent)) = text.split_once('e') {
        return Err(if exponent.starts_with('-') { PLACES } else { SIZE });
    }
    let (whole, places) = text.split_once('.').unwrap_or((text, "0"));
    if places.len() > 4 {
        return Err(PLACES);
    }
    let ten_thousandths = format!("{whole}{places:0<4}").parse::<i64>();
    if ten_thousandths.is_err() { Err(SIZE) } else { Ok(format!("{whole}.{places}")) }
}
