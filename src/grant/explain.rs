//! Why a call would be decided as it is.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    sync::Arc,
};

use cedar_policy::Effect;
use serde_json::json;

use super::{
    Grants, Sessions,
    decide::{Question, Satisfied, Verdict, covers, is_for},
    load::Rule,
};
use crate::{
    call::{Principal, Refused},
    clock::Timestamp,
    contract::{Tool, UpstreamName},
    hold::Demand,
    json::{Canonical, Digest, Value},
};

/// The policies that decided, and why the others did not.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What would be decided.
    pub verdict: Explained,
    /// Every policy of the set, by file and line.
    pub policies: Vec<Considered>,
    /// Digest of the set.
    pub set: Digest,
}

/// What would be decided.
#[derive(Clone, Debug, PartialEq)]
pub enum Explained {
    /// It may go.
    Permit,
    /// It has to be countersigned.
    Hold(Vec<Demand>),
    /// It may not.
    Deny(Refused),
}

/// One policy and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// Its id.
    pub id: Arc<str>,
    /// Where it stands, `file:line`.
    pub place: String,
    /// Whether it is a `permit`; a `forbid` otherwise.
    pub permit: bool,
    /// What became of it.
    pub outcome: PolicyOutcome,
}

/// What became of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyOutcome {
    /// The decision rests on it.
    Decided,
    /// It holds, but the decision did not need it.
    NotNeeded,
    /// Its `@limit` is used up for so many milliseconds.
    LimitUsedUp(u64),
    /// It could not be evaluated, which refuses the call.
    Erred,
    /// Its `when` or `unless` does not hold.
    ConditionFalse,
    /// It holds, but its `@scope` asks for these too, which the credential has not: it permits nothing.
    MissingScope(Vec<String>),
    /// The credential is restricted to other tools, so no policy about this one is asked.
    OtherTools,
    /// Its `@until` is past.
    Expired,
    /// It is about other principals.
    OtherPrincipal,
    /// It is about other actions.
    OtherAction,
    /// It is about other upstreams.
    OtherResource,
}

impl PolicyOutcome {
    /// A stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Decided => "decided",
            Self::NotNeeded => "not_needed",
            Self::LimitUsedUp(_) => "limit_used_up",
            Self::Erred => "error",
            Self::ConditionFalse => "condition_false",
            Self::MissingScope(_) => "missing_scope",
            Self::OtherTools => "other_tools",
            Self::Expired => "expired",
            Self::OtherPrincipal => "other_principal",
            Self::OtherAction => "other_action",
            Self::OtherResource => "other_resource",
        }
    }
}

impl fmt::Display for PolicyOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decided => f.write_str("decided"),
            Self::NotNeeded => f.write_str("holds, but was not needed"),
            Self::LimitUsedUp(wait) => write!(f, "holds, but its limit is used up for {} s", wait.div_ceil(1_000)),
            Self::Erred => f.write_str("could not be evaluated"),
            Self::ConditionFalse => f.write_str("its condition does not hold"),
            Self::MissingScope(scopes) => {
                write!(f, "holds, but permits nothing without the scope `{}`", scopes.join(" "))
            }
            Self::OtherTools => f.write_str("not asked: the credential is restricted to other tools"),
            Self::Expired => f.write_str("its `@until` is past"),
            Self::OtherPrincipal => f.write_str("its principal is another"),
            Self::OtherAction => f.write_str("its action is another"),
            Self::OtherResource => f.write_str("its resource is another"),
        }
    }
}

impl Grants {
    /// Decides a call as [`Grants::decide`] would at `now`, counts nothing, and says what became of every policy.
    pub fn explain(
        &self,
        principal: &Principal,
        tool: &Tool,
        arguments: &Canonical,
        sessions: &Sessions,
        now: Timestamp,
    ) -> Explanation {
        self.explain_at(principal, (&tool.action, &tool.upstream), arguments.tree(), sessions, now)
    }

    pub(super) fn explain_at(
        &self,
        who: &Principal,
        (action, upstream): (&str, &UpstreamName),
        arguments: &Value,
        sessions: &Sessions,
        now: Timestamp,
    ) -> Explanation {
        let Some(site) = self.site(action, upstream) else {
            return Explanation {
                verdict: Explained::Deny(Refused::NotGranted),
                policies: Vec::new(),
                set: self.digest(),
            };
        };
        let question = Question { who, site, arguments: Some(arguments), now };
        let facts = sessions.facts(who, action, now);
        let judge =
            |places: Box<[u32]>| self.satisfied(&self.cut(places, Box::default(), site), question, Some(&facts));
        let slice = self.slice(site, who, now);
        let restricted = !is_for(who, action);
        let rules = if restricted { Box::default() } else { slice.rules.clone() };
        let (verdict, satisfied) = match judge(rules) {
            Ok(satisfied) => (self.conclude(&satisfied, &who.agent, sessions, now), satisfied),
            Err((refused, policies)) => (Verdict::Deny { refused, policies }, Satisfied::default()),
        };
        let verdict = match verdict {
            Verdict::Deny { refused: Refused::NotGranted, policies } if !restricted => self
                .would_do(&slice, question, || facts.clone(), sessions)
                .unwrap_or(Verdict::Deny { refused: Refused::NotGranted, policies }),
            verdict => verdict,
        };
        let (verdict, decided) = match verdict {
            Verdict::Permit { permit, .. } => (Explained::Permit, vec![permit]),
            Verdict::Hold { policies, demands } => (Explained::Hold(demands), policies),
            Verdict::Deny { refused, policies } => (Explained::Deny(refused), policies),
        };
        let decided: BTreeSet<u32> = decided.into_iter().collect();
        let outcome = |place: u32, rule: &Rule| {
            if !self.words.actions.get(action).is_some_and(|known| rule.action.covers(action, known)) {
                return PolicyOutcome::OtherAction;
            }
            if !rule.resource.covers(upstream) {
                return PolicyOutcome::OtherResource;
            }
            if !covers(&rule.principal, who) {
                return PolicyOutcome::OtherPrincipal;
            }
            if rule.is_over(now) {
                return PolicyOutcome::Expired;
            }
            if restricted {
                return PolicyOutcome::OtherTools;
            }
            let missing: Vec<String> = rule.lacks(&who.scopes).cloned().collect();
            if !missing.is_empty() {
                return match judge(Box::new([place])) {
                    Ok(alone) if alone == Satisfied::default() => PolicyOutcome::ConditionFalse,
                    Ok(_) => PolicyOutcome::MissingScope(missing),
                    Err(_) => PolicyOutcome::Erred,
                };
            }
            let holds =
                [&satisfied.permits, &satisfied.forbids, &satisfied.holds].iter().any(|set| set.contains(&place));
            let wait = rule.limit.filter(|_| holds).and_then(|limit| sessions.wait(&rule.id, &who.agent, limit, now));
            match (wait, judge(Box::new([place]))) {
                (Some(wait), _) => PolicyOutcome::LimitUsedUp(wait),
                (None, Err(_)) => PolicyOutcome::Erred,
                (None, _) if decided.contains(&place) => PolicyOutcome::Decided,
                (None, _) if holds => PolicyOutcome::NotNeeded,
                (None, Ok(alone)) if alone != Satisfied::default() => PolicyOutcome::NotNeeded,
                (None, _) => PolicyOutcome::ConditionFalse,
            }
        };
        let mut rules: Vec<(u32, &Rule)> = (0..).zip(&self.rules).collect();
        rules.sort_by(|(_, one), (_, other)| (&one.file, one.line).cmp(&(&other.file, other.line)));
        let policies = rules.into_iter().map(|(place, rule)| Considered {
            id: Arc::clone(&rule.id),
            place: rule.place(),
            permit: rule.effect == Effect::Permit,
            outcome: outcome(place, rule),
        });
        Explanation { verdict, policies: policies.collect(), set: self.digest() }
    }
}

impl Explained {
    /// `permit`, `hold` or `deny`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::Hold(_) => "hold",
            Self::Deny(_) => "deny",
        }
    }
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::Permit => Ok(()),
            Self::Hold(demands) => {
                for (place, demand) in demands.iter().enumerate() {
                    let Demand { policy, role, approvals, assurance, expires, .. } = demand;
                    let joint = if place == 0 { ": " } else { ", and " };
                    let with = assurance.word().map(|word| format!(" with a {word}")).unwrap_or_default();
                    write!(f, "{joint}{approvals} of `{role}`{with} within {expires} s (`{policy}`)")?;
                }
                Ok(())
            }
            Self::Deny(refused) => write!(f, ": {} ({refused})", refused.code()),
        }
    }
}

impl Explanation {
    /// The explanation as JSON, for `--json`.
    pub fn to_json(&self) -> serde_json::Value {
        let policies = self.policies.iter().map(|policy| {
            json!({
                "id": &*policy.id,
                "place": policy.place,
                "effect": if policy.permit { "permit" } else { "forbid" },
                "outcome": policy.outcome.code(),
            })
        });
        let policies: Vec<_> = policies.collect();
        let (verdict, set) = (self.verdict.word(), self.set.to_string());
        match &self.verdict {
            Explained::Permit => json!({"verdict": verdict, "set": set, "policies": policies}),
            Explained::Hold(demands) => {
                let demands = demands.iter().map(|demand| {
                    json!({
                        "policy": &*demand.policy,
                        "role": demand.role,
                        "approvals": demand.approvals,
                        "assurance": demand.assurance.word(),
                        "expires": demand.expires,
                        "reason": demand.reason,
                    })
                });
                let demands: Vec<_> = demands.collect();
                json!({"verdict": verdict, "demands": demands, "set": set, "policies": policies})
            }
            Explained::Deny(refused) => json!({
                "verdict": verdict,
                "reason": refused.code(),
                "pointer": refused.pointer(),
                "scopes": refused.scopes(),
                "retryAfterMs": refused.retry_after_ms(),
                "set": set,
                "policies": policies,
            }),
        }
    }
}

impl fmt::Display for Explanation {
    /// The verdict, then the policies that are about such a call, then how many are not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.verdict)?;
        let mut elsewhere = 0;
        let mut lines = String::new();
        for policy in &self.policies {
            if policy.outcome == PolicyOutcome::OtherAction {
                elsewhere += 1;
                continue;
            }
            let effect = if policy.permit { "permit" } else { "forbid" };
            writeln!(lines, "  {effect} `{}` ({}): {}", policy.id, policy.place, policy.outcome)?;
        }
        f.write_str(&lines)?;
        match elsewhere {
            0 => Ok(()),
            1 => writeln!(f, "  1 policy is about other actions"),
            more => writeln!(f, "  {more} policies are about other actions"),
        }
    }
}
