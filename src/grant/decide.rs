//! The verdict.

use std::sync::Arc;

use super::{Grants, Sessions};
use crate::{
    call::{Operation, Principal, Refused, Validated},
    contract::{Tool, UpstreamName},
    json::Digest,
};

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
}

/// A call that waits for a countersignature.
#[derive(Debug)]
pub struct Held {
    call: Validated,
    basis: Basis,
    demands: Vec<Demand>,
}

/// What one holding policy demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The policy's id.
    pub policy: Arc<str>,
    /// The role that has to countersign.
    pub role: String,
    /// How many people of it.
    pub approvals: u8,
    /// How long they have, seconds.
    pub expires: u64,
    /// The `@reason`.
    pub reason: Option<String>,
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

impl Grants {
    /// Decides a call. Counts it in `sessions` only when it is permitted.
    pub fn decide(&self, call: Validated, _sessions: &Sessions) -> Decision {
        Decision::Deny(Box::new((Refused::NotGranted, call, Basis::default())))
    }

    /// Whether some arguments could let this principal call the tool; `None` hides it.
    pub fn visibility(&self, _principal: &Principal, _tool: &Tool) -> Option<Visibility> {
        None
    }

    /// Whether some grant could let this principal use that operation of the upstream at all.
    pub fn reaches(&self, _principal: &Principal, _operation: Operation, _upstream: &UpstreamName) -> bool {
        false
    }

    /// Whether an upstream may ask this principal's client; an error in a policy means no.
    pub fn may_ask(
        &self,
        _principal: &Principal,
        _asked: Asked,
        _upstream: &UpstreamName,
        _sessions: &Sessions,
    ) -> bool {
        false
    }
}
