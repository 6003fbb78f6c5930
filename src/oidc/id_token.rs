//! What an ID token has to say (OpenID Connect Core 1.0, section 3.1.3.7) before its subject is believed.

use aws_lc_rs::constant_time::verify_slices_are_equal;

use crate::{
    clock::Timestamp,
    json::Value,
    jws::{Jws, NotSigned, seconds},
};

/// How far the clocks of a provider and ours may be apart.
const SKEW: i64 = 60;
/// The same where it is asked whether somebody showed who they are anew: what was shown before must not pass for it.
const SLACK: i64 = 5;
/// How old a token may be that was made for us just now.
const OLDEST: i64 = 600;

/// What a token is held against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// Its `iss`.
    pub issuer: &'a str,
    /// Its `aud`.
    pub client_id: &'a str,
    /// Its `nonce`.
    pub nonce: &'a str,
    /// Whom it has to be about, where that is known.
    pub subject: Option<&'a str>,
    /// Since when the person has to have shown who they are; `None` where it is no matter.
    pub shown_since: Option<Timestamp>,
    /// One of these has to be its `acr`; any, where there is none.
    pub acr_values: &'a [String],
    /// The time.
    pub now: Timestamp,
}

/// Why a token is refused. [`TokenRefused::code`] is public interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRefused {
    /// The signature, or the form.
    NotSigned(NotSigned),
    /// It is of another kind: an access token, say.
    Kind,
    /// Another issuer.
    Issuer,
    /// Made for somebody else.
    Audience,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It was not made just now.
    Old,
    /// The nonce is missing, or another.
    Nonce,
    /// It names nobody.
    Nobody,
    /// It is about somebody else.
    Subject,
    /// The person showed who they are too long ago, or it does not say when.
    Stale,
    /// They did not show it in one of the ways that are demanded.
    Context,
}

impl TokenRefused {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotSigned(why) => why.code(),
            Self::Kind => "token_kind",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet_valid",
            Self::Old => "token_old",
            Self::Nonce => "token_nonce",
            Self::Nobody => "token_nobody",
            Self::Subject => "token_subject",
            Self::Stale => "token_stale",
            Self::Context => "token_context",
        }
    }
}

/// The claims of a token that is believed.
#[derive(Clone, Debug)]
pub struct IdToken {
    /// Who, by the issuer's own name for them.
    pub subject: String,
    claims: Value,
}

impl IdToken {
    /// Judges claims whose signature was checked, of a token whose `typ` is `kind`.
    ///
    /// # Errors
    /// [`TokenRefused`]
    pub fn judge(kind: Option<&str>, claims: Value, expected: &Expected<'_>) -> Result<Self, TokenRefused> {
        if kind.is_some_and(|kind| !kind.eq_ignore_ascii_case("jwt")) {
            return Err(TokenRefused::Kind);
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let time = |name: &str| claims.get(name).and_then(Value::as_number).and_then(seconds);
        if text("iss") != Some(expected.issuer) {
            return Err(TokenRefused::Issuer);
        }
        let (many, ours) = match claims.get("aud") {
            Some(Value::String(one)) => (false, &**one == expected.client_id),
            Some(Value::Array(all)) => (all.len() > 1, all.iter().any(|one| one.as_str() == Some(expected.client_id))),
            _ => (false, false),
        };
        let party = match claims.get("azp") {
            Some(party) => party.as_str() == Some(expected.client_id),
            None => !many,
        };
        if !ours || !party {
            return Err(TokenRefused::Audience);
        }
        let now = expected.now.as_second();
        if time("exp").is_none_or(|expires| now >= expires.saturating_add(SKEW)) {
            return Err(TokenRefused::Expired);
        }
        let issued = time("iat").ok_or(TokenRefused::Old)?;
        let begins = if claims.get("nbf").is_some() { time("nbf").ok_or(TokenRefused::NotYet)? } else { issued };
        if issued.max(begins) > now.saturating_add(SKEW) {
            return Err(TokenRefused::NotYet);
        }
        if issued < now.saturating_sub(OLDEST) {
            return Err(TokenRefused::Old);
        }
        let nonce = text("nonce").unwrap_or_default();
        if verify_slices_are_equal(nonce.as_bytes(), expected.nonce.as_bytes()).is_err() || expected.nonce.is_empty() {
            return Err(TokenRefused::Nonce);
        }
        let subject = text("sub").filter(|subject| (1..=255).contains(&subject.len())).ok_or(TokenRefused::Nobody)?;
        if expected.subject.is_some_and(|expected| expected != subject) {
            return Err(TokenRefused::Subject);
        }
        if let Some(since) = expected.shown_since {
            let shown = time("auth_time").ok_or(TokenRefused::Stale)?;
            if shown < since.as_second().saturating_sub(SLACK) || shown > now.saturating_add(SKEW) {
                return Err(TokenRefused::Stale);
            }
        }
        let context = text("acr").unwrap_or_default();
        if !expected.acr_values.is_empty() && !expected.acr_values.iter().any(|known| known == context) {
            return Err(TokenRefused::Context);
        }
        Ok(Self { subject: subject.to_owned(), claims })
    }

    /// A claim, see [`claim`].
    pub fn claim(&self, name: &str) -> Option<&Value> {
        claim(&self.claims, name)
    }

    /// The texts of a claim that is one, or a list of them.
    pub fn texts(&self, name: &str) -> Vec<&str> {
        match self.claim(name) {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }
}

/// A claim: by its whole name, or where there is none of that name, by its path (`realm_access.roles`).
pub fn claim<'c>(claims: &'c Value, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| name.split('.').try_fold(claims, |value, part| value.get(part)))
}

/// The `typ` of a token, which has to be looked at besides its claims.
pub(super) fn kind(token: &str) -> Option<String> {
    Jws::read(token).ok()?.kind().map(str::to_owned)
}
