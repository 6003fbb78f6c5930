//! Whoever shows a JWT-SVID or a certificate: workloads, as principals.

use std::sync::Arc;

use super::{
    Identity, Unauthenticated,
    own::{Bound, Known},
};
use crate::{
    call::{Assurance, Identified, Principal},
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
                Some(to) => Some(Bound::read(to).ok_or(Unauthenticated::Unbound)?),
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
            Unproven::Malformed => Self::Claims,
            Unproven::Kind => Self::Kind,
            Unproven::Signature => Self::Signature,
            Unproven::Audience => Self::Audience,
            Unproven::Expired => Self::Expired,
            Unproven::NotYet => Self::NotYet,
            Unproven::TooLong => Self::Lifetime,
            Unproven::Distrusted => Self::Certificate,
            Unproven::Unavailable => Self::Unavailable,
        }
    }
}
