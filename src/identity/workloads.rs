//! Whoever shows a JWT-SVID or a certificate: workloads, as principals.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::{
    Identity, Unauthenticated,
    own::{Bound, Known},
};
use crate::{
    call::{Assurance, Identified, Principal},
    json::{Digest, Value},
    listen::ClientCertificate,
    workload::{Unproven, Workload},
};

impl Identity {
    /// Whose JWT-SVID a token is, if it says that it is one of a trust domain that is known here.
    pub(super) fn svid(&self, token: &str) -> Option<Result<Known, Unauthenticated>> {
        let judged = self.workloads.as_ref()?.judge(token, self.clock.now())?;
        Some(judged.map_err(Unauthenticated::from).and_then(|svid| {
            let bound = match svid.claims.get("cnf") {
                None => None,
                Some(to) => Some(bound(to).ok_or(Unauthenticated::Invalid)?),
            };
            let assurance = if bound.is_some() { Assurance::Bound } else { Assurance::Bearer };
            Ok(Known { principal: Arc::new(principal(&svid.workload, assurance)), bound })
        }))
    }

    /// Who has the key of a certificate, where there is no token.
    pub(super) fn by_certificate(&self, certificate: &ClientCertificate) -> Result<Identified, Unauthenticated> {
        let workloads = self.workloads.as_ref().ok_or(Unauthenticated::Missing)?;
        let workload = workloads.of_certificate(certificate, self.clock.now())?;
        let principal = Arc::new(principal(&workload, Assurance::Certificate));
        self.current(&principal)?;
        Ok(Identified::vouch(principal))
    }
}

/// What a token is bound to by its `cnf`, which names one thing.
fn bound(confirmation: &Value) -> Option<Bound> {
    let digest = |name: &str| {
        let text = confirmation.get(name)?.as_str()?;
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Digest)
    };
    match (confirmation.get("jkt"), confirmation.get("x5t#S256")) {
        (Some(_), None) => digest("jkt").map(Bound::Key),
        (None, Some(_)) => digest("x5t#S256").map(Bound::Certificate),
        _ => None,
    }
}

fn principal(workload: &Workload, assurance: Assurance) -> Principal {
    Principal {
        agent: workload.agent.clone(),
        issuer: workload.issuer.clone(),
        user: None,
        task: None,
        teams: Vec::new(),
        scopes: Vec::new(),
        workload: workload.id.clone(),
        chain: Vec::new(),
        tools: None,
        assurance,
        credential: workload.credential.clone(),
        issued: workload.issued,
        expires: workload.expires,
    }
}

impl From<Unproven> for Unauthenticated {
    fn from(why: Unproven) -> Self {
        match why {
            Unproven::Expired => Self::Expired,
            _ => Self::Invalid,
        }
    }
}
