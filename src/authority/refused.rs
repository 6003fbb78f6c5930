//! Why nobody gets a token.

use std::fmt;

use crate::{call::Fault, identity::Unauthenticated};

/// Why a token is not given. [`Refused::code`] is public interface, as is [`Refused::error`], which is OAuth's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The request is none, or lacks something.
    Malformed(&'static str),
    /// There is no such way to get a token here.
    GrantType,
    /// Nobody knows that client, or it did not show that it is it: which, is not told.
    Client,
    /// The client's assertion is over, or lasts too long.
    AssertionExpired,
    /// The client's assertion was made for somebody else.
    AssertionAudience,
    /// The client's assertion was used before.
    AssertionReplayed,
    /// The token that is traded is not good.
    Subject(Unauthenticated),
    /// The token of the sub-agent is not good.
    Actor(Unauthenticated),
    /// The token that is traded, or the client's, is bound, and it was not shown to what; or it has to be.
    ProofNeeded,
    /// The proof shows nothing.
    Proof(Unauthenticated),
    /// It is not said what the token is for.
    ResourceMissing,
    /// The token would be for another server.
    ResourceForeign,
    /// Scopes that the one who asks has not.
    ScopeWider,
    /// Actions that the one who asks has not.
    ToolsWider,
    /// Longer than the one who asks has, or anybody may have.
    LifetimeWider {
        /// The most, seconds.
        most: i64,
    },
    /// Another task than that of the one who asks.
    TaskWider,
    /// Who has no task may name none here.
    TaskNew,
    /// The task was ended.
    TaskEnded,
    /// An agent would hand something to one through whose hands it went already.
    ActorCycle,
    /// It went through too many hands.
    ChainTooLong,
    /// There is no room for another token.
    TooManyTokens,
    /// Countersign itself, or whoever has the client's keys, cannot be asked.
    Unavailable(Fault),
}

impl Refused {
    /// The stable reason code: in the ledger, in metrics and in the answer.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "token_request_malformed",
            Self::GrantType => "grant_type_unsupported",
            Self::Client => "client_invalid",
            Self::AssertionExpired => "client_assertion_expired",
            Self::AssertionAudience => "client_assertion_audience",
            Self::AssertionReplayed => "client_assertion_replayed",
            Self::Subject(_) => "subject_token_refused",
            Self::Actor(_) => "actor_token_refused",
            Self::ProofNeeded => "proof_needed",
            Self::Proof(_) => "proof_refused",
            Self::ResourceMissing => "resource_missing",
            Self::ResourceForeign => "resource_foreign",
            Self::ScopeWider => "scope_wider",
            Self::ToolsWider => "tools_wider",
            Self::LifetimeWider { .. } => "lifetime_wider",
            Self::TaskWider => "task_wider",
            Self::TaskNew => "task_new",
            Self::TaskEnded => "task_over",
            Self::ActorCycle => "actor_cycle",
            Self::ChainTooLong => "chain_too_long",
            Self::TooManyTokens => "too_many_tokens",
            Self::Unavailable(_) => "token_unavailable",
        }
    }

    /// OAuth's own word for it (RFC 6749, section 5.2; RFC 8693, section 2.2.2; RFC 8707, section 2; RFC 9449, section 5).
    pub fn error(&self) -> &'static str {
        match self {
            Self::GrantType => "unsupported_grant_type",
            Self::Client | Self::AssertionExpired | Self::AssertionAudience | Self::AssertionReplayed => {
                "invalid_client"
            }
            Self::ProofNeeded | Self::Proof(_) => "invalid_dpop_proof",
            Self::ResourceMissing | Self::ResourceForeign => "invalid_target",
            Self::ScopeWider | Self::ToolsWider => "invalid_scope",
            Self::TooManyTokens
            | Self::Unavailable(_)
            | Self::Subject(Unauthenticated::Unavailable)
            | Self::Actor(Unauthenticated::Unavailable) => "temporarily_unavailable",
            Self::Malformed(_)
            | Self::Subject(_)
            | Self::Actor(_)
            | Self::LifetimeWider { .. }
            | Self::TaskWider
            | Self::TaskNew
            | Self::TaskEnded
            | Self::ActorCycle
            | Self::ChainTooLong => "invalid_request",
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self.error() {
            "invalid_client" => 401,
            "temporarily_unavailable" if matches!(self, Self::TooManyTokens) => 429,
            "temporarily_unavailable" => 503,
            _ => 400,
        }
    }
}

impl fmt::Display for Refused {
    /// `error_description`: what is wrong and what to do, and nothing of what was sent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => f.write_str(why),
            Self::GrantType => f.write_str("this server gives no token so; its metadata names the grant types"),
            Self::Client => f.write_str("the client is not known, or its assertion is not by one of its keys"),
            Self::AssertionExpired => f.write_str(
                "the assertion needs `iat` and `exp`, at most 5 minutes apart, and has to be of now; make one for each request",
            ),
            Self::AssertionAudience => f.write_str("the assertion was made for another server; `aud` is this issuer"),
            Self::AssertionReplayed => f.write_str("the assertion was used before; make one for each request"),
            Self::Subject(why) => write!(f, "`subject_token`: {why}"),
            Self::Actor(why) => write!(f, "`actor_token`: {why}"),
            Self::ProofNeeded => f.write_str(
                "the token is bound, or has to be: send a DPoP proof by its key, or its client certificate",
            ),
            Self::Proof(why) => why.fmt(f),
            Self::ResourceMissing => f.write_str("say with `resource` what the token is for: the URL of /mcp"),
            Self::ResourceForeign => f.write_str("tokens are given for this server only: `resource` is the URL of /mcp"),
            Self::ScopeWider => f.write_str("`scope` has what the one who asks has not"),
            Self::ToolsWider => f.write_str("`tools` has what the one who asks has not"),
            Self::LifetimeWider { most } => write!(f, "`expires_in` is 1 to {most} seconds here and now"),
            Self::TaskWider => f.write_str("the token is for another task; its children are for the same"),
            Self::TaskNew => f.write_str(
                "an agent without a task names none here; an operator gives a token for one, or sets `identity.delegation.new_tasks`",
            ),
            Self::TaskEnded => f.write_str("that task has ended, for good"),
            Self::ActorCycle => f.write_str("it went through the hands of that agent already"),
            Self::ChainTooLong => f.write_str("it went through 8 hands already"),
            Self::TooManyTokens => f.write_str("there are too many tokens; wait until some have ended, or ask for shorter ones"),
            Self::Unavailable(_) => f.write_str("the token cannot be given now; try again, or tell an operator"),
        }
    }
}
