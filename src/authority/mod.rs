//! The token endpoint: agents trade a token for a narrower one (RFC 8693), and clients get one by a key (RFC 7523).
//!
//! What it gives is a token of ours, and never one that may do more than what it was traded for: the new principal is made from
//! the old one, and every dimension of it (tools, scopes, lifetime, task, who vouches, how sure that is) stays or gets
//! smaller, see `exchange`. Who asks is judged by [`crate::identity`], revocation included; every token names its parent in
//! the ledger, and ends with it.

mod assertion;
mod exchange;
mod form;
mod refused;
#[cfg(test)]
mod tests;

pub use form::{Form, NoForm};
pub use refused::Refused;

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    call::{Fault, Principal},
    clock::Clock,
    config::{DelegationConfig, IdentityConfig},
    dpop::Proof,
    identity::{Bound, Identity, Minted, Unauthenticated, origin},
    json::{Object, Value},
    ledger::Ledger,
    listen::ClientCertificate,
    reach::Resolver,
};
use assertion::{Client, Clients};
use exchange::Wanted;

/// Where tokens are asked for, below the origin of the URL of `/mcp`.
pub const ENDPOINT: &str = "/oauth/token";
/// Where the public key of our tokens is.
pub const KEYS: &str = "/oauth/jwks";
/// Where the metadata is (RFC 8414, section 3).
pub const METADATA: &str = "/.well-known/oauth-authorization-server";

/// `grant_type` of token exchange.
pub const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// `grant_type` of a client that shows a key.
pub const CLIENT: &str = "client_credentials";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// Living tokens from here that one agent may have.
const EACH: usize = 1_000;
/// Tokens that are remembered, whoever has them.
const ALL: usize = 20_000;

/// Gives tokens to whoever may have them.
pub struct Authority {
    delegation: DelegationConfig,
    clients: Clients,
    issuer: String,
    endpoint: String,
    ledger: Ledger,
    clock: Clock,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// What was asked for, and what came with it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The parameters.
    pub form: &'a Form,
    /// The header `DPoP`.
    pub proof: Option<&'a str>,
    /// The certificate that the client showed in the handshake of TLS.
    pub certificate: Option<&'a ClientCertificate>,
}

/// A token that was given.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The body of the answer (RFC 6749, section 5.1; RFC 8693, section 2.2.1).
    pub body: Object,
    /// Whose it is.
    pub principal: Arc<Principal>,
}

/// What was refused, and who asked, if that is known.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Why.
    pub refused: Refused,
    /// Who.
    pub who: Option<Arc<Principal>>,
}

impl From<Refused> for Stopped {
    fn from(refused: Refused) -> Self {
        Self { refused, who: None }
    }
}

impl Authority {
    /// Makes ready; `audience` is the URL of `/mcp`. Nothing is fetched yet.
    ///
    /// # Errors
    /// [`Fault`] when a client's keys cannot be asked for at all.
    pub fn open(
        config: &IdentityConfig,
        audience: &str,
        resolver: &Arc<dyn Resolver>,
        ledger: Ledger,
        clock: Clock,
    ) -> Result<Self, Fault> {
        let issuer = origin(audience).to_owned();
        let started = clock.now();
        let mut clients = BTreeMap::new();
        for (name, client) in &config.clients {
            clients.insert(name.clone(), Client::new(name, client, Arc::clone(resolver))?);
        }
        Ok(Self {
            delegation: config.delegation.clone(),
            clients: Clients::new(clients, config.skew, started),
            endpoint: format!("{issuer}{ENDPOINT}"),
            issuer,
            ledger,
            clock,
        })
    }

    /// Who it is: the origin of the URL of `/mcp`.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Whether anybody could get a token here.
    pub fn is_open(&self) -> bool {
        self.delegation.enabled || !self.clients.is_empty()
    }

    /// Authorization server metadata (RFC 8414), as JSON; none where nobody gets a token.
    pub fn metadata(&self) -> Option<String> {
        if !self.is_open() {
            return None;
        }
        let texts = |texts: &[&str]| Value::Array(texts.iter().map(|text| Value::from(*text)).collect());
        let (mut grants, mut shown) = (Vec::new(), Vec::new());
        if self.delegation.enabled {
            grants.push(EXCHANGE);
            shown.push("none");
        }
        if !self.clients.is_empty() {
            grants.push(CLIENT);
            shown.push("private_key_jwt");
        }
        let metadata = Object::new()
            .with("issuer", self.issuer.as_str())
            .with("token_endpoint", self.endpoint.as_str())
            // nobody signs in here and nothing lies there, but the official clients read no metadata without one
            .with("authorization_endpoint", format!("{}/oauth/authorize", self.issuer))
            .with("jwks_uri", format!("{}{KEYS}", self.issuer))
            .with("response_types_supported", texts(&[]))
            .with("grant_types_supported", texts(&grants))
            .with("token_endpoint_auth_methods_supported", texts(&shown))
            .with("token_endpoint_auth_signing_alg_values_supported", texts(&crate::config::ALGORITHMS))
            .with("dpop_signing_alg_values_supported", texts(&crate::config::ALGORITHMS))
            .with("tls_client_certificate_bound_access_tokens", true);
        String::from_utf8(Value::Object(metadata).to_bytes()).ok()
    }

    /// Gives a token, if whoever asks may have it.
    ///
    /// # Errors
    /// Why not, and who asked, if that is known.
    pub async fn grant(&self, identity: &Identity, asked: &Asked<'_>) -> Result<Granted, Stopped> {
        // a certificate that is believed no more is as good as none
        let certificate = asked.certificate.filter(|shown| shown.standing(self.clock.now()).is_ok());
        let asked = &Asked { certificate, ..*asked };
        match asked.form.text("grant_type") {
            Some(EXCHANGE) if self.delegation.enabled => self.exchange(identity, asked).await,
            Some(CLIENT) if !self.clients.is_empty() => self.client(identity, asked).await,
            Some(_) => Err(Refused::GrantType.into()),
            None => Err(Refused::Malformed("`grant_type` is missing").into()),
        }
    }

    /// A token for a token (RFC 8693, section 2).
    async fn exchange(&self, identity: &Identity, asked: &Asked<'_>) -> Result<Granted, Stopped> {
        let form = asked.form;
        let subject = token(form, "subject_token", "subject_token_type")?.ok_or(Refused::Malformed(
            "`subject_token` is missing: the token that is traded, with `subject_token_type`",
        ))?;
        // who has a token that is bound has to show what it is bound to here too: else a stolen one were traded for another
        let proof = self.proof(identity, asked)?;
        let key = proof.as_ref().map(|proof| proof.key);
        let judged = identity.subject(subject, key, asked.certificate).await;
        let (parent, bound) = judged.map_err(|why| match why {
            Unauthenticated::ProofMissing | Unauthenticated::Certificate => Refused::ProofNeeded,
            why => Refused::Subject(why),
        })?;
        let parent = Arc::clone(parent.principal());
        let who = Arc::clone(&parent);
        let stopped = |refused| Stopped { refused, who: Some(Arc::clone(&who)) };
        Self::use_up(identity, proof.as_ref()).map_err(stopped)?;
        let actor = match token(form, "actor_token", "actor_token_type").map_err(stopped)? {
            Some(actor) => Some(identity.actor(actor).await.map_err(|why| stopped(Refused::Actor(why)))?),
            None => None,
        };
        self.resource(form, identity).map_err(stopped)?;
        let wanted = Wanted::read(form).map_err(stopped)?;
        let views = self.ledger.views();
        let bounds = exchange::Bounds {
            delegation: &self.delegation,
            now: self.clock.now(),
            ended: &|task| views.is_ended(task),
        };
        let actor_principal = actor.as_ref().map(|(principal, _)| &**principal);
        let child = exchange::child(&parent, actor_principal, &wanted, &bounds).map_err(stopped)?;
        self.room(&child).map_err(stopped)?;
        // a sub-agent whose own token is bound gets one that is bound to the same: only it can use it
        let bound = actor.as_ref().and_then(|(_, bound)| *bound).or_else(|| key.map(Bound::Key)).or(bound);
        let minted = Minted {
            principal: child,
            bound,
            parent: Some(parent.credential.clone()),
            actor: actor_principal.map(|actor| actor.credential.clone()),
            client: None,
        };
        let (text, principal) = identity.mint(minted).await.map_err(|fault| stopped(Refused::Unavailable(fault)))?;
        // what ended while this was written must not live on in a child that nobody knew of then
        let ended = identity.again(&parent).err().map(Refused::Subject);
        let ended = ended.or_else(|| Some(Refused::Actor(identity.again(&actor.as_ref()?.0).err()?)));
        if let Some(refused) = ended {
            identity.take_back(&principal).await.map_err(|fault| stopped(Refused::Unavailable(fault)))?;
            return Err(stopped(refused));
        }
        Ok(self.granted(text, principal, bound, true))
    }

    /// A token for a client that shows its key (RFC 7523, section 2.2).
    async fn client(&self, identity: &Identity, asked: &Asked<'_>) -> Result<Granted, Stopped> {
        let form = asked.form;
        let now = self.clock.now();
        // some clients write an issuer that is an origin with a slash at its end
        let slashed = format!("{}/", self.issuer);
        let (name, client) = self.clients.shown(form, &[&self.endpoint, &self.issuer, &slashed], now).await?;
        let root = client.principal(now, self.delegation.max_ttl)?;
        let who = Arc::new(Principal { credential: format!("client:{name}"), ..root.clone() });
        let stopped = |refused| Stopped { refused, who: Some(Arc::clone(&who)) };
        if form.text("subject_token").is_some() || form.text("actor_token").is_some() || form.text("agent").is_some() {
            let why = "`subject_token`, `actor_token` and `agent` go with token exchange";
            return Err(stopped(Refused::Malformed(why)));
        }
        self.resource(form, identity).map_err(stopped)?;
        let proof = self.proof(identity, asked).map_err(stopped)?;
        Self::use_up(identity, proof.as_ref()).map_err(stopped)?;
        let certificate = asked.certificate.map(|certificate| Bound::Certificate(certificate.thumbprint));
        let bound = proof.map(|proof| Bound::Key(proof.key)).or(certificate.filter(|_| client.bound()));
        if client.bound() && bound.is_none() {
            return Err(stopped(Refused::ProofNeeded));
        }
        let wanted = Wanted::read(form).map_err(stopped)?;
        let views = self.ledger.views();
        let bounds = exchange::Bounds { delegation: &self.delegation, now, ended: &|task| views.is_ended(task) };
        let child = exchange::child(&root, None, &wanted, &bounds).map_err(stopped)?;
        let child = Principal { assurance: exchange::assurance(bound), ..child };
        self.room(&child).map_err(stopped)?;
        let client = Some(name.to_owned());
        let minted = Minted { principal: child, bound, parent: None, actor: None, client };
        let (text, principal) = identity.mint(minted).await.map_err(|fault| stopped(Refused::Unavailable(fault)))?;
        Ok(self.granted(text, principal, bound, false))
    }

    /// The proof that came along, if one did. It is not used up yet: nobody is known so far who could be held to it.
    fn proof(&self, identity: &Identity, asked: &Asked<'_>) -> Result<Option<Proof>, Refused> {
        let judged = asked.proof.map(|proof| identity.proof(proof, "POST", &self.endpoint));
        judged.transpose().map_err(Refused::Proof)
    }

    fn use_up(identity: &Identity, proof: Option<&Proof>) -> Result<(), Refused> {
        proof.map_or(Ok(()), |proof| identity.use_up(proof)).map_err(Refused::Proof)
    }

    /// Checks that the token is asked for this server (RFC 8707), and for nothing else.
    fn resource(&self, form: &Form, identity: &Identity) -> Result<(), Refused> {
        let here = |name| form.text(name).map(|text| text == identity.audience());
        match (here("resource"), here("audience")) {
            (None, _) => Err(Refused::ResourceMissing),
            (Some(true), None | Some(true)) => Ok(()),
            _ => Err(Refused::ResourceForeign),
        }
    }

    /// Whether there is room for another token.
    fn room(&self, child: &Principal) -> Result<(), Refused> {
        let (views, now) = (self.ledger.views(), self.clock.now());
        let (mut own, mut all) = (0, 0);
        // one that has ended takes its place until it is forgotten: else short ones were without number
        for (_, token) in views.tokens().filter(|(_, token)| token.traded && !token.is_forgotten(now)) {
            all += 1;
            own += usize::from(token.agent == child.agent);
        }
        if own >= EACH || all >= ALL { Err(Refused::TooManyTokens) } else { Ok(()) }
    }

    fn granted(&self, text: String, principal: Arc<Principal>, bound: Option<Bound>, exchanged: bool) -> Granted {
        let kind = if matches!(bound, Some(Bound::Key(_))) { "DPoP" } else { "Bearer" };
        let left = principal.expires.as_second().saturating_sub(self.clock.now().as_second());
        let mut body = Object::new().with("access_token", text).with("token_type", kind).with("expires_in", left);
        if exchanged {
            body.insert("issued_token_type", ACCESS_TOKEN);
        }
        if !principal.scopes.is_empty() {
            body.insert("scope", principal.scopes.join(" "));
        }
        Granted { body, principal }
    }
}

/// A token among the parameters, with the type that has to stand beside it (RFC 8693, section 2.1).
fn token<'f>(form: &'f Form, name: &str, kind: &str) -> Result<Option<&'f str>, Refused> {
    match (form.text(name), form.text(kind)) {
        (None, None) => Ok(None),
        (Some(token), Some(ACCESS_TOKEN | JWT)) => Ok(Some(token)),
        (None, Some(_)) => Err(Refused::Malformed("a token's type is there, and no token")),
        (Some(_), _) => Err(Refused::Malformed(
            "a token has to come with its type: `urn:ietf:params:oauth:token-type:access_token`, or `…:jwt`",
        )),
    }
}
