//! What a caller is told who is not let in, or not far enough (RFC 6750, section 3; RFC 9728, section 5.1; RFC 9449,
//! section 7.1).

use hyper::{
    Response, StatusCode,
    header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};

use crate::{
    identity::{PROOF_ALGORITHMS, Unauthenticated},
    json::{Object, Value},
};

/// The challenge of one door.
#[derive(Clone, Debug)]
pub(super) struct Challenge {
    /// Where the metadata of the protected resource lies.
    metadata: String,
    /// Scopes without which nobody is let in.
    scopes: Vec<String>,
}

impl Challenge {
    pub(super) fn new(metadata: String, scopes: Vec<String>) -> Self {
        Self { metadata, scopes }
    }

    /// Status, `WWW-Authenticate` where there is one, and the body, of the answer to somebody who is not let in.
    pub(super) fn unauthenticated(&self, why: &Unauthenticated) -> (StatusCode, Option<String>, Vec<u8>) {
        let (status, challenge) = match why {
            Unauthenticated::Missing => (StatusCode::UNAUTHORIZED, Some(self.bearer(None, &self.scopes))),
            Unauthenticated::Scope(scopes) => (StatusCode::FORBIDDEN, Some(self.insufficient(scopes))),
            // the token may be good: a client that threw it away would only ask the same issuer for another
            Unauthenticated::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, None),
            Unauthenticated::ProofMissing | Unauthenticated::Proof(_) => {
                (StatusCode::UNAUTHORIZED, Some(self.dpop("invalid_dpop_proof")))
            }
            Unauthenticated::Unbound => (StatusCode::UNAUTHORIZED, Some(self.dpop("invalid_token"))),
            _ => (StatusCode::UNAUTHORIZED, Some(self.bearer(Some("invalid_token"), &self.scopes))),
        };
        let body = Object::new().with("error", why.code()).with("error_description", why.to_string());
        (status, challenge, Value::Object(body).to_bytes())
    }

    /// `WWW-Authenticate` of a step up: the token is good, and does not do for this. Older clients ask for what is named
    /// here and for nothing else, so that what lets them in is named too.
    pub(super) fn insufficient(&self, scopes: &[String]) -> String {
        let more = scopes.iter().filter(|scope| !self.scopes.contains(scope));
        let all: Vec<String> = self.scopes.iter().chain(more).cloned().collect();
        self.bearer(Some("insufficient_scope"), &all)
    }

    fn bearer(&self, error: Option<&str>, scopes: &[String]) -> String {
        let mut challenge = format!("Bearer resource_metadata=\"{}\"", self.metadata);
        if let Some(error) = error {
            challenge.push_str(&format!(", error=\"{error}\""));
        }
        if !scopes.is_empty() {
            challenge.push_str(&format!(", scope=\"{}\"", scopes.join(" ")));
        }
        challenge
    }

    fn dpop(&self, error: &str) -> String {
        let algorithms = PROOF_ALGORITHMS.join(" ");
        format!("DPoP resource_metadata=\"{}\", error=\"{error}\", algs=\"{algorithms}\"", self.metadata)
    }
}

/// Puts a challenge into an answer.
pub(super) fn put<B>(answer: &mut Response<B>, challenge: Option<&str>) {
    if let Some(value) = challenge.and_then(|challenge| HeaderValue::from_str(challenge).ok()) {
        answer.headers_mut().insert(WWW_AUTHENTICATE, value);
    }
    if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
}
