//! Why a call went no further.

use std::fmt;

/// JSON Pointer (RFC 6901) into the arguments; empty for the whole.
pub type Pointer = String;

/// Why the road refused a call, in order of precedence. [`Refused::code`] is public interface;
/// the sentence is for the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is no such tool, or no grant could ever let this principal call it: which, is not told.
    UnknownTool,
    /// The tool's definition changed since it was reviewed.
    ToolQuarantined,
    /// The arguments have no canonical form (I-JSON, RFC 7493).
    NotCanonical {
        /// Where.
        pointer: Pointer,
        /// What is wrong.
        problem: String,
    },
    /// The arguments do not fit the contract.
    InvalidArguments {
        /// Where.
        pointer: Pointer,
        /// What is wrong.
        problem: String,
    },
    /// A policy could not be evaluated, so nothing is decided in its favour.
    PolicyError,
    /// A guardrail forbids it.
    Forbidden {
        /// The `@reason` of the policy, if it has one.
        reason: Option<String>,
    },
    /// No grant permits this call with these arguments.
    NotGranted,
    /// A grant would permit it, or have it countersigned, for a credential with these scopes.
    InsufficientScope {
        /// Every scope that the grant asks for, those that the credential has among them.
        scopes: Vec<String>,
    },
    /// A grant permits it, but not this often.
    LimitExceeded {
        /// Until the limit lets one through again, milliseconds.
        retry_after_ms: u64,
    },
    /// A person has to countersign, and this kind of call cannot wait for one.
    ApprovalRequired {
        /// Whose countersignature, by role.
        roles: Vec<String>,
        /// The `@reason` of the policy, if it has one.
        reason: Option<String>,
    },
    /// Too many calls of this agent wait for a person already.
    TooManyHolds,
    /// A person said no while the call waited.
    Denied {
        /// The hold.
        hold: String,
        /// Why, in that person's words.
        reason: String,
    },
    /// A person said no to the identical call, and that holds until the hold would have expired.
    DeniedSticky {
        /// The hold.
        hold: String,
        /// Why, in that person's words.
        reason: String,
    },
    /// Nobody countersigned it in time, or nobody ran it in time.
    HoldExpired {
        /// The hold.
        hold: String,
    },
    /// The hold was withdrawn.
    HoldCancelled {
        /// The hold.
        hold: String,
    },
    /// What the hold was bound to changed.
    HoldVoid {
        /// The hold.
        hold: String,
        /// The stable code of what changed.
        code: &'static str,
    },
    /// The hold could not be spent: another call was first, or it ended in that moment.
    HoldLost(&'static str),
    /// The caller's credential ended while the call waited.
    CredentialEnded,
    /// The tool server is not reachable, or its circuit breaker is open.
    UpstreamUnavailable {
        /// When to try again, milliseconds.
        retry_after_ms: u64,
    },
    /// Too many calls wait for that tool server.
    UpstreamBusy {
        /// When to try again, milliseconds.
        retry_after_ms: u64,
    },
    /// There is no credential now that the tool server could be shown.
    CredentialUnavailable {
        /// When to try again, milliseconds.
        retry_after_ms: u64,
    },
    /// Nobody has connected the account that the tool server wants.
    AccountNotConnected,
    /// The tool server is called on behalf of users, and this call is for none.
    UserRequired,
    /// More than one upstream has a resource of that name.
    AmbiguousResource,
    /// Countersign is stopping.
    Stopping,
    /// Countersign itself cannot take the call: the ledger cannot be written, or the like.
    Unavailable(Fault),
}

/// A fault of ours. The agent reads "unavailable" and the call's id; the operator's log reads this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl Refused {
    /// The stable reason code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownTool => "unknown_tool",
            Self::ToolQuarantined => "tool_quarantined",
            Self::NotCanonical { .. } => "arguments_not_canonical",
            Self::InvalidArguments { .. } => "arguments_invalid",
            Self::PolicyError => "policy_error",
            Self::Forbidden { .. } => "forbidden",
            Self::NotGranted => "not_granted",
            Self::InsufficientScope { .. } => "insufficient_scope",
            Self::LimitExceeded { .. } => "limit_exceeded",
            Self::ApprovalRequired { .. } => "approval_required",
            Self::TooManyHolds => "too_many_holds",
            Self::Denied { .. } => "denied",
            Self::DeniedSticky { .. } => "denied_sticky",
            Self::HoldExpired { .. } => "hold_expired",
            Self::HoldCancelled { .. } => "hold_cancelled",
            Self::HoldVoid { code, .. } => code,
            Self::HoldLost(_) => "hold_lost",
            Self::CredentialEnded => "credential_ended",
            Self::UpstreamUnavailable { .. } => "upstream_unavailable",
            Self::UpstreamBusy { .. } => "upstream_busy",
            Self::CredentialUnavailable { .. } => "credential_unavailable",
            Self::AccountNotConnected => "account_not_connected",
            Self::UserRequired => "user_required",
            Self::AmbiguousResource => "ambiguous_resource",
            Self::Stopping => "stopping",
            Self::Unavailable(_) => "unavailable",
        }
    }

    /// When trying again could help, milliseconds.
    pub fn retry_after_ms(&self) -> Option<u64> {
        match self {
            Self::LimitExceeded { retry_after_ms }
            | Self::UpstreamUnavailable { retry_after_ms }
            | Self::CredentialUnavailable { retry_after_ms }
            | Self::UpstreamBusy { retry_after_ms } => Some(*retry_after_ms),
            Self::Stopping | Self::Unavailable(_) | Self::HoldLost(_) => Some(1_000),
            _ => None,
        }
    }

    /// The hold that it speaks of.
    pub fn hold(&self) -> Option<&str> {
        match self {
            Self::Denied { hold, .. }
            | Self::DeniedSticky { hold, .. }
            | Self::HoldExpired { hold }
            | Self::HoldCancelled { hold }
            | Self::HoldVoid { hold, .. } => Some(hold),
            _ => None,
        }
    }

    /// The scopes that a credential needs for it, when it lacks some.
    pub fn scopes(&self) -> Option<&[String]> {
        match self {
            Self::InsufficientScope { scopes } => Some(scopes),
            _ => None,
        }
    }

    /// Where in the arguments, when there is a place.
    pub fn pointer(&self) -> Option<&str> {
        match self {
            Self::NotCanonical { pointer, .. } | Self::InvalidArguments { pointer, .. } => Some(pointer),
            _ => None,
        }
    }
}

impl fmt::Display for Refused {
    /// The sentence for the agent: what is wrong and what to do, never an operator's detail.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |pointer: &str| if pointer.is_empty() { "the arguments".to_owned() } else { format!("`{pointer}`") };
        match self {
            Self::UnknownTool => f.write_str("unknown tool"),
            Self::ToolQuarantined => {
                f.write_str("this tool changed since it was reviewed; an operator has to accept it first")
            }
            Self::NotCanonical { pointer, problem } | Self::InvalidArguments { pointer, problem } => {
                write!(f, "{} {problem}; correct it and call again", at(pointer))
            }
            Self::PolicyError => f.write_str("a policy could not be evaluated for this call; tell an operator"),
            Self::Forbidden { reason: Some(reason) } => write!(f, "a guardrail forbids this call: {reason}"),
            Self::Forbidden { reason: None } => f.write_str("a guardrail forbids this call"),
            Self::NotGranted => f.write_str("no grant permits this call with these arguments"),
            Self::InsufficientScope { scopes } => write!(
                f,
                "this call needs the scope `{}`; get a credential that has it, and call again",
                scopes.join(" ")
            ),
            Self::LimitExceeded { retry_after_ms } => {
                write!(f, "the limit for this tool is used up; try again in {} s", retry_after_ms.div_ceil(1_000))
            }
            Self::ApprovalRequired { roles, reason } => {
                f.write_str("this call needs a countersignature")?;
                if !roles.is_empty() {
                    write!(f, " from {}", roles.join(" and "))?;
                }
                if let Some(reason) = reason {
                    write!(f, ": {reason}")?;
                }
                Ok(())
            }
            Self::TooManyHolds => f.write_str(
                "too many of your calls wait for a person already; wait until some are decided, or withdraw them",
            ),
            Self::Denied { reason, .. } => write!(f, "a person denied this call: {reason}"),
            Self::DeniedSticky { reason, .. } => {
                write!(f, "a person denied this very call before: {reason}; do not call it again unchanged")
            }
            Self::HoldExpired { .. } => {
                f.write_str("nobody countersigned this call in time; nothing was done; calling again asks anew")
            }
            Self::HoldCancelled { .. } => f.write_str("this call was withdrawn before it was countersigned"),
            Self::HoldVoid { code, .. } => write!(
                f,
                "what this call was to be countersigned for has changed ({code}); nothing was done; calling again asks anew"
            ),
            Self::HoldLost(_) => {
                f.write_str("the countersignature was used or ended in this moment; call again to see")
            }
            Self::CredentialEnded => {
                f.write_str("your credential ended while this call waited; call again with a new one")
            }
            Self::UpstreamUnavailable { .. } => f.write_str("the tool server cannot be reached now; try again later"),
            Self::UpstreamBusy { .. } => f.write_str("too many calls wait for this tool server; try again later"),
            Self::CredentialUnavailable { .. } => {
                f.write_str("the tool server's credential cannot be had now; nothing was done; try again later")
            }
            Self::AccountNotConnected => {
                f.write_str("nobody has connected an account with this tool server; nothing was done; tell an operator")
            }
            Self::UserRequired => f.write_str(
                "this tool server is called on behalf of users only; call it with a credential that names one",
            ),
            Self::AmbiguousResource => f.write_str("more than one tool server has a resource of that name"),
            Self::Stopping => f.write_str("the server is stopping; try again shortly"),
            Self::Unavailable(_) => f.write_str("the call could not be taken; try again, or tell an operator its id"),
        }
    }
}
