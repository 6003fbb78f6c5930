//! Why a credential is not accepted.

use std::{fmt, sync::Arc};

use crate::{dpop::NotProven, jws::NotSigned};

/// Why a credential is not accepted. [`Unauthenticated::code`] is public interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unauthenticated {
    /// There is none.
    Missing,
    /// It is no token, or one of ours that we did not make.
    Invalid,
    /// Its time is over.
    Expired,
    /// It was revoked, or what it comes from was; or its issuer knows nothing of it any more.
    Revoked,
    /// The task that it is for was ended.
    TaskEnded,
    /// Nobody who is believed here issued it.
    Issuer,
    /// Its algorithm is none that its issuer signs with.
    Algorithm,
    /// Its issuer has no key, or not exactly one, that it could be by.
    KeyUnknown,
    /// It is not by its issuer's key.
    Signature,
    /// It is of another kind: an ID token, say.
    Kind,
    /// It was made for somebody else.
    Audience,
    /// Its time has not come.
    NotYet,
    /// It does not say until when it is good, or lives longer than its issuer's tokens may.
    Lifetime,
    /// It does not say who the agent is in a way that can be used here.
    Claims,
    /// The agents through whose hands it went are too many, or one stands there twice.
    Chain,
    /// It has to be bound to a key of the caller's, or is in a way that is not known here.
    Unbound,
    /// It is bound to a key, and the caller did not show that it has it.
    ProofMissing,
    /// What the caller showed does not do.
    Proof(NotProven),
    /// It is bound to a certificate, and the caller showed another or none; or nobody vouches for the one shown any more.
    Certificate,
    /// Its issuer cannot be asked just now.
    Unavailable,
    /// It lacks scopes without which nobody is let in.
    Scope(Arc<[String]>),
}

impl Unauthenticated {
    /// The stable reason code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Invalid => "token_invalid",
            Self::Expired => "token_expired",
            Self::Revoked => "token_revoked",
            Self::TaskEnded => "token_task_ended",
            Self::Issuer => "token_issuer",
            Self::Algorithm => "token_algorithm",
            Self::KeyUnknown => "token_key_unknown",
            Self::Signature => "token_signature",
            Self::Kind => "token_kind",
            Self::Audience => "token_audience",
            Self::NotYet => "token_not_yet_valid",
            Self::Lifetime => "token_lifetime",
            Self::Claims => "token_claims",
            Self::Chain => "token_chain",
            Self::Unbound => "token_unbound",
            Self::ProofMissing => "proof_missing",
            Self::Proof(why) => why.code(),
            Self::Certificate => "certificate_mismatch",
            Self::Unavailable => "issuer_unavailable",
            Self::Scope(_) => "insufficient_scope",
        }
    }
}

impl fmt::Display for Unauthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "send a bearer token in `Authorization`",
            Self::Invalid => "the token is not valid here",
            Self::Expired => "the token has expired; ask for a new one",
            Self::Revoked => "the token was revoked",
            Self::TaskEnded => "the task that the token is for has ended",
            Self::Issuer => "the token is by nobody who is believed here",
            Self::Algorithm => "the token is signed with an algorithm that is not taken",
            Self::KeyUnknown => "the token's issuer has no such key",
            Self::Signature => "the token is not by its issuer's key",
            Self::Kind => "the token is no access token",
            Self::Audience => "the token was made for somebody else; ask for one for this server (`resource`)",
            Self::NotYet => "the token's time has not come",
            Self::Lifetime => "the token lives too long, or does not say how long; ask for a shorter one",
            Self::Claims => "the token does not say who the agent is, as this server is told to read it",
            Self::Chain => "the token went through too many hands, or twice through the same",
            Self::Unbound => "the token has to be bound to a key of yours; ask for one with a DPoP proof",
            Self::ProofMissing => "the token is bound to a key: send it as `DPoP` with a proof",
            Self::Proof(why) => return why.fmt(f),
            Self::Certificate => "the token is bound to a certificate that was not shown",
            Self::Unavailable => "the token's issuer cannot be asked just now; try again",
            Self::Scope(_) => "the token lacks a scope that is needed here",
        })
    }
}

impl std::error::Error for Unauthenticated {}

impl From<NotSigned> for Unauthenticated {
    fn from(why: NotSigned) -> Self {
        match why {
            NotSigned::Malformed => Self::Invalid,
            NotSigned::Algorithm => Self::Algorithm,
            NotSigned::UnknownKey => Self::KeyUnknown,
            NotSigned::Signature => Self::Signature,
        }
    }
}
