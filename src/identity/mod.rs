//! Who is calling: credentials in, principals out.
//!
//! A credential is an EdDSA JWT (RFC 7519, RFC 8037) that this server signed, for itself as audience
//! (RFC 8707), or a token of somebody who the configuration says is believed (`issuers`). Ours is good while it has not
//! expired and the ledger holds it issued and not revoked; another's while its issuer says so and the ledger does not hold
//! it revoked. What is known of a token is remembered by its digest, for as long as it may be believed without looking
//! again; expiry, revocation and what it is bound to are checked at every call.

mod claims;
mod explain;
mod introspection;
mod issuers;
mod own;
mod refused;
mod workloads;

pub use claims::LONGEST_CHAIN;
pub use explain::{Explanation, Stage};
pub use own::{Bound, Minted, Signer, is_own};
pub use refused::Unauthenticated;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Validation};

use crate::{
    call::{Assurance, Fault, Identified, Principal},
    clock::{Clock, Timestamp, ulid},
    config::IdentityConfig,
    dpop::{Asked, NotProven, Proof, Used},
    hold::Hold,
    json::{Digest, Object, Value},
    ledger::{Event, Ledger},
    listen::ClientCertificate,
    reach::Resolver,
    secret_file,
    workload::Workloads,
};
use claims::Told;
use issuers::{Issuers, Whose};
use own::{Claims, Known};

/// The `iss` of our own tokens.
pub const ISSUER: &str = "countersign";

/// The `typ` of our own tokens (RFC 9068 gives it to access tokens).
const TYPE: &str = "at+jwt";

/// Verified tokens that are remembered at most; beyond it the memory starts anew.
const REMEMBERED: usize = 10_000;

/// What a proof of possession may be signed with (RFC 9449).
pub const PROOF_ALGORITHMS: [&str; 5] = ["ES256", "EdDSA", "ES384", "PS256", "RS256"];

/// Longest token that is looked at, bytes.
const LONGEST: usize = 8 << 10;

/// Judges credentials, and issues our own.
pub struct Identity {
    signer: Signer,
    verifying: DecodingKey,
    /// The public key.
    public: Object,
    validation: Validation,
    audience: String,
    max_ttl: Duration,
    issuers: Issuers,
    /// Who may vouch for an agent, as principals name them.
    believed: HashSet<String>,
    /// Where clients get tokens of this server, if there are any.
    own_server: Option<String>,
    remembered: RwLock<HashMap<Digest, Remembered>>,
    /// Proofs of possession that were used since the start.
    used: Used,
    started: Timestamp,
    ledger: Ledger,
    clock: Clock,
    workloads: Option<Arc<Workloads>>,
}

/// A token that was judged.
#[derive(Clone)]
struct Remembered {
    known: Known,
    /// Until when it is believed without looking again.
    until: Timestamp,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// What came with a request to show who sends it.
#[derive(Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The token, without the word before it.
    pub token: Option<&'a str>,
    /// That word.
    pub scheme: Scheme,
    /// The header `DPoP` (RFC 9449).
    pub proof: Option<&'a str>,
    /// The method of the request.
    pub method: &'a str,
    /// Where it was sent, as a proof has to name it: the URL of `/mcp`, or of the token endpoint.
    pub url: &'a str,
    /// The certificate that the client showed in the handshake of TLS.
    pub certificate: Option<&'a ClientCertificate>,
}

impl fmt::Debug for Presented<'_> {
    /// Without token and proof.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presented")
            .field("scheme", &self.scheme)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl<'a> Presented<'a> {
    /// A bearer token and nothing else.
    pub fn bearer(token: &'a str) -> Self {
        Self { token: Some(token), ..Self::default() }
    }
}

/// How a token was sent: the scheme of `Authorization`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `Bearer` (RFC 6750)
    #[default]
    Bearer,
    /// `DPoP` (RFC 9449)
    Dpop,
}

/// A token to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRequest {
    /// The agent's name.
    pub agent: String,
    /// How long it lives.
    pub ttl: Duration,
    /// The task it is for.
    pub task: Option<String>,
    /// The user it acts for.
    pub user: Option<String>,
}

impl Identity {
    /// Reads the signing key from `data`, or makes one there (mode 0600). `audience` is the URL of `/mcp`.
    ///
    /// # Errors
    /// [`Fault`] when the key cannot be read, made or kept to ourselves.
    pub fn open(
        data: &Path,
        audience: String,
        config: &IdentityConfig,
        resolver: &Arc<dyn Resolver>,
        ledger: Ledger,
        clock: Clock,
    ) -> Result<Self, Fault> {
        let path = key_path(data);
        let pkcs8 = secret_file::read_or_make(&path, || {
            let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map_err(|_| Fault("the machine could not make a signing key".to_owned()))?;
            Ok(made.as_ref().to_vec())
        })?;
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8).map_err(|_| {
            Fault(format!("`{}` is no signing key; restore it, or remove it and issue new tokens", path.display()))
        })?;
        let (public, key_id) = own::public(&pair);
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[&audience]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // expiry is judged by our own clock, at every call
        validation.validate_exp = false;
        Ok(Self {
            signer: Signer { signing: EncodingKey::from_ed_der(&pkcs8), key_id },
            verifying: DecodingKey::from_ed_der(pair.public_key().as_ref()),
            public,
            validation,
            own_server: (!config.clients.is_empty()).then(|| origin(&audience).to_owned()),
            audience,
            max_ttl: config.max_ttl,
            issuers: Issuers::new(config, resolver)?,
            believed: believed(config),
            remembered: RwLock::default(),
            used: Used::default(),
            started: clock.now(),
            ledger,
            clock,
            workloads: None,
        })
    }

    /// The same, with workloads that prove who they are.
    #[must_use]
    pub fn with_workloads(self, workloads: Arc<Workloads>) -> Self {
        Self { workloads: Some(workloads), ..self }
    }

    /// Judges what came with a request.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn authenticate(&self, shown: &Presented<'_>) -> Result<Identified, Unauthenticated> {
        let Some(token) = shown.token else {
            return self.by_certificate(shown.certificate.ok_or(Unauthenticated::Missing)?);
        };
        let Known { principal, bound } = self.known(token).await?;
        self.current(&principal)?;
        self.proven(bound, token, shown)?;
        Ok(Identified::vouch(principal))
    }

    /// Judges a token that is not what a request is sent with but what it is about: one that is to be traded. `key` is
    /// that of a proof which came along and was judged by [`Identity::proof`].
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn subject(
        &self,
        token: &str,
        key: Option<Digest>,
        certificate: Option<&ClientCertificate>,
    ) -> Result<(Identified, Option<Bound>), Unauthenticated> {
        let Known { principal, bound } = self.known(token).await?;
        self.current(&principal)?;
        match bound {
            None => {}
            Some(Bound::Key(thumbprint)) if key == Some(thumbprint) => {}
            Some(Bound::Key(_)) => return Err(Unauthenticated::ProofMissing),
            Some(Bound::Certificate(thumbprint)) => has(certificate, thumbprint, self.clock.now())?,
        }
        Ok((Identified::vouch(principal), bound))
    }

    /// The proof that came with a request which asks for a token (RFC 9449, section 5). It is not used up: that is for when
    /// it is known who asks, or strangers could fill the memory of those that are.
    ///
    /// # Errors
    /// Why it shows nothing.
    pub fn proof(&self, proof: &str, method: &str, url: &str) -> Result<Proof, Unauthenticated> {
        let asked = Asked { method, url, token: None, now: self.clock.now(), since: self.started };
        Proof::judge(proof, &asked).map_err(Unauthenticated::Proof)
    }

    /// Takes such a proof for used.
    ///
    /// # Errors
    /// That it was used before, or that there are too many.
    pub fn use_up(&self, proof: &Proof) -> Result<(), Unauthenticated> {
        self.used.take(proof, self.clock.now()).map_err(Unauthenticated::Proof)
    }

    /// Whether whoever sent a token has what it is bound to.
    fn proven(&self, bound: Option<Bound>, token: &str, shown: &Presented<'_>) -> Result<(), Unauthenticated> {
        match (bound, shown.scheme) {
            (None, Scheme::Bearer) => Ok(()),
            (Some(Bound::Certificate(thumbprint)), Scheme::Bearer) => {
                has(shown.certificate, thumbprint, self.clock.now())
            }
            (Some(Bound::Key(thumbprint)), Scheme::Dpop) => {
                let proof = shown.proof.ok_or(Unauthenticated::ProofMissing)?;
                let (now, since) = (self.clock.now(), self.started);
                let asked = Asked { method: shown.method, url: shown.url, token: Some(token), now, since };
                // judged whole before it is used up: a proof by another key uses up nothing of this one's
                let proof = Proof::judge(proof, &asked).map_err(Unauthenticated::Proof)?;
                if proof.key != thumbprint {
                    return Err(Unauthenticated::Proof(NotProven::Invalid));
                }
                self.used.take(&proof, now).map_err(Unauthenticated::Proof)
            }
            (Some(Bound::Key(_)), Scheme::Bearer) => Err(Unauthenticated::ProofMissing),
            (None | Some(Bound::Certificate(_)), Scheme::Dpop) => Err(Unauthenticated::Unbound),
        }
    }

    /// What a token says, as far as it may be believed: remembered, or judged now.
    async fn known(&self, token: &str) -> Result<Known, Unauthenticated> {
        if token.len() > LONGEST {
            return Err(Unauthenticated::Invalid);
        }
        let digest = Digest::of(token.as_bytes());
        let now = self.clock.now();
        let known = self.remembered.read().unwrap_or_else(PoisonError::into_inner).get(&digest).cloned();
        let before = known.is_some();
        if let Some(Remembered { known, .. }) = known.filter(|remembered| now < remembered.until) {
            return Ok(known);
        }
        let judged = self.judge(token, &digest, (before, now)).await;
        if judged.is_err() && !before {
            return judged.map(|(known, _)| known);
        }
        let mut remembered = self.remembered.write().unwrap_or_else(PoisonError::into_inner);
        let Ok((known, until)) = judged else {
            remembered.remove(&digest);
            return judged.map(|(known, _)| known);
        };
        if let Some(until) = until {
            if remembered.len() >= REMEMBERED {
                remembered.clear();
            }
            remembered.insert(digest, Remembered { known: known.clone(), until });
        }
        Ok(known)
    }

    /// What a token says and until when that is believed; who knows workloads remembers what they show.
    async fn judge(
        &self,
        token: &str,
        digest: &Digest,
        (before, now): (bool, Timestamp),
    ) -> Result<(Known, Option<Timestamp>), Unauthenticated> {
        let whose = match self.issuers.whose(token) {
            // an SVID need not say its issuer
            Err(Unauthenticated::Issuer) => {
                return self.svid(token).ok_or(Unauthenticated::Issuer)?.map(|known| (known, None));
            }
            whose => whose?,
        };
        // another spelling of a signature makes another text, and the same token
        let (one, claims, told, named_by) = match whose {
            Whose::Own => {
                let known = self.verify(token)?;
                let until = known.principal.expires;
                return Ok((known, Some(until)));
            }
            Whose::Signed(one, jws) => {
                let (claims, kind) = (one.signed(&jws).await?, jws.kind().map(str::to_owned));
                (one, claims, Told::Signed(kind), jws.signed_digest())
            }
            Whose::Opaque(one) => (one, one.told(token, digest, (before, now)).await?, Told::Asked, *digest),
        };
        let known = self.issuers.judge(one, &told, &claims, &named_by, (&self.audience, now))?;
        let until = one.until(&known, now);
        Ok((known, Some(until)))
    }

    /// Judges a credential once more that was accepted before, for what outlasts one request: whoever has the token showed
    /// then that it is theirs.
    ///
    /// # Errors
    /// Why it is not accepted any more.
    pub async fn still(&self, principal: &Arc<Principal>, token: &str) -> Result<Identified, Unauthenticated> {
        if token.is_empty() {
            return self.again(principal);
        }
        match self.known(token).await {
            Ok(known) => self.again(&known.principal),
            // an issuer that cannot be asked ends nothing that is open; nothing new is let in meanwhile
            Err(Unauthenticated::Unavailable) => self.again(principal),
            Err(why) => Err(why),
        }
    }

    /// Looks again at a principal that was identified before, for work that outlasts one request.
    ///
    /// # Errors
    /// Why its credential is not accepted any more.
    pub fn again(&self, principal: &Arc<Principal>) -> Result<Identified, Unauthenticated> {
        self.current(principal)?;
        Ok(Identified::vouch(Arc::clone(principal)))
    }

    /// Looks again at the agent behind a hold that nobody waits for: it is good while its credential is.
    ///
    /// # Errors
    /// Why its credential is not accepted any more.
    pub fn recall(&self, hold: &Hold) -> Result<Identified, Unauthenticated> {
        let expires = match self.ledger.views().token(&hold.credential) {
            Some(token) => token.expires,
            None if hold.issuer == STDIO_ISSUER => Timestamp::MAX,
            // one that could be withdrawn elsewhere, and is asked about there with a token that is not here
            None if self.issuers.asks_about(&hold.credential) => return Err(Unauthenticated::Expired),
            None => hold.credential_expires.ok_or(Unauthenticated::Expired)?,
        };
        // what goes without saying in an entry
        let usual = if hold.issuer == STDIO_ISSUER { Assurance::Process } else { Assurance::Bearer };
        let assurance = match &hold.claims.assurance {
            Some(word) => Assurance::read(word).ok_or(Unauthenticated::Invalid)?,
            None => usual,
        };
        let claims = hold.claims.clone();
        let principal = Arc::new(Principal {
            agent: hold.agent.clone(),
            issuer: hold.issuer.clone(),
            user: hold.user.clone(),
            task: hold.task.clone(),
            teams: claims.teams,
            scopes: claims.scopes,
            workload: claims.workload,
            chain: claims.chain,
            tools: claims.tools,
            assurance,
            credential: hold.credential.clone(),
            issued: hold.created,
            expires,
        });
        self.again(&principal)
    }

    /// Whether the credential behind a hold was revoked.
    pub fn is_revoked(&self, hold: &Hold) -> bool {
        let views = self.ledger.views();
        match views.token(&hold.credential) {
            Some(token) => token.revoked,
            None if hold.issuer == STDIO_ISSUER => false,
            // another's: it was issued before it was used
            None => {
                let mut hands = std::iter::once(&hold.agent).chain(&hold.claims.chain);
                hands.any(|agent| views.revoked_until(agent).is_some_and(|until| hold.created <= until))
            }
        }
    }

    /// Whether nobody can come for the result of a hold any more: its task was ended, or it is one that our tokens were made
    /// for and the last of them has ended.
    pub fn task_is_over(&self, hold: &Hold) -> bool {
        let Some(task) = &hold.task else { return false };
        let (views, now) = (self.ledger.views(), self.clock.now());
        if views.is_ended(task) {
            return true;
        }
        if !is_own(&hold.credential) || views.token(&hold.credential).is_some_and(|token| token.is_good(now)) {
            return false;
        }
        !views.tokens().any(|(id, token)| {
            let same = token.agent == hold.agent && token.user == hold.user && token.task.as_ref() == Some(task);
            same && is_own(id) && token.is_good(now)
        })
    }

    /// A token of our own.
    fn verify(&self, token: &str) -> Result<Known, Unauthenticated> {
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.verifying, &self.validation)
            .map_err(|_| Unauthenticated::Invalid)?;
        if decoded.header.typ.as_deref() != Some(TYPE) {
            return Err(Unauthenticated::Invalid);
        }
        decoded.claims.known()
    }

    /// What can change after a credential was issued: its time runs out, it is revoked, or what it comes from is, or its task
    /// is ended.
    fn current(&self, principal: &Principal) -> Result<(), Unauthenticated> {
        // no token can say so: none has that id
        if principal.issuer == STDIO_ISSUER && principal.credential == STDIO {
            return Ok(());
        }
        // who was believed when it was issued, or traded, may not be any more
        if !self.believed.contains(&principal.issuer) {
            return Err(Unauthenticated::Issuer);
        }
        let now = self.clock.now();
        if now < principal.issued {
            return Err(Unauthenticated::Invalid);
        }
        if now >= principal.expires {
            return Err(Unauthenticated::Expired);
        }
        let views = self.ledger.views();
        // a token that one comes from has ended it with itself, see `Views`
        match views.token(&principal.credential) {
            Some(token) if token.revoked => return Err(Unauthenticated::Revoked),
            Some(token) if token.agent == principal.agent => {}
            // signed by our key, yet the ledger does not know it: not issued by this house
            _ if is_own(&principal.credential) => return Err(Unauthenticated::Invalid),
            Some(_) => return Err(Unauthenticated::Invalid),
            None => {
                let hands = std::iter::once(&principal.agent).chain(&principal.chain);
                let mut until = hands.filter_map(|agent| views.revoked_until(agent));
                if until.any(|until| principal.issued <= until) {
                    return Err(Unauthenticated::Revoked);
                }
            }
        }
        match &principal.task {
            Some(task) if views.is_ended(task) => Err(Unauthenticated::TaskEnded),
            _ => Ok(()),
        }
    }

    /// The agent that the operator named on the command line of a stdio server: no token, the process is its own.
    ///
    /// # Errors
    /// [`Fault`] when `agent` is no agent's name.
    pub fn named(&self, agent: &str) -> Result<Identified, Fault> {
        agent_name(agent)?;
        Ok(Identified::vouch(Arc::new(Principal {
            agent: agent.to_owned(),
            issuer: STDIO_ISSUER.to_owned(),
            user: None,
            task: None,
            teams: Vec::new(),
            scopes: Vec::new(),
            workload: None,
            chain: Vec::new(),
            tools: None,
            assurance: Assurance::Process,
            credential: STDIO.to_owned(),
            issued: self.clock.now(),
            expires: Timestamp::MAX,
        })))
    }

    /// Signs a token and records that it was issued.
    ///
    /// # Errors
    /// [`Fault`] when the request is out of bounds or cannot be recorded.
    pub async fn issue(&self, request: TokenRequest) -> Result<String, Fault> {
        agent_name(&request.agent)?;
        for (what, text) in [("task", &request.task), ("user", &request.user)] {
            if text
                .as_ref()
                .is_some_and(|text| text.is_empty() || text.len() > 256 || text.chars().any(char::is_control))
            {
                return Err(Fault(format!("a {what} is 1 to 256 bytes without control characters")));
            }
        }
        if request.task.as_deref().is_some_and(|task| self.ledger.views().is_ended(task)) {
            return Err(Fault("that task was ended, for good: name another".to_owned()));
        }
        if request.ttl > self.max_ttl || request.ttl.as_secs() == 0 {
            return Err(Fault(format!(
                "a token lives between 1 second and {} seconds (`identity.max_ttl`); ask for less",
                self.max_ttl.as_secs()
            )));
        }
        let now = self.clock.now();
        let issued = now.as_second();
        let lifetime = i64::try_from(request.ttl.as_secs()).unwrap_or(i64::MAX);
        let expires = issued.saturating_add(lifetime);
        let credential = format!("tok_{}", ulid(now).map_err(|error| Fault(error.to_string()))?);
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: request.agent.clone(),
            aud: self.audience.clone(),
            iat: issued,
            exp: expires,
            jti: credential.clone(),
            task: request.task.clone(),
            user: request.user.clone(),
            ..Claims::default()
        };
        let token = self.signed(TYPE, &claims)?;
        let expires = Timestamp::from_second(expires).map_err(|_| Fault("the token would outlive time".to_owned()))?;
        self.ledger
            .note(Event::TokenIssued {
                credential,
                agent: request.agent,
                user: request.user,
                task: request.task,
                expires,
                traded: None,
            })
            .await?;
        Ok(token)
    }

    /// Revokes every token that the agent has, or the one whose id is given. Holds from the next call on.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be recorded, or the agent has no such token.
    pub async fn revoke(&self, agent: &str, credential: Option<&str>) -> Result<(), Fault> {
        // a sub-agent that has but a label is an agent too
        agent.split('#').try_for_each(agent_name)?;
        if let Some(credential) = credential {
            // what others issued is not known here
            let known = self.ledger.views().token(credential).is_some_and(|token| token.agent == agent);
            if !known && (is_own(credential) || !credential.contains(':')) {
                return Err(Fault(format!("agent `{agent}` has no living token `{credential}`")));
            }
        }
        let event = Event::TokenRevoked { agent: agent.to_owned(), credential: credential.map(str::to_owned) };
        self.ledger.note(event).await.map(|_seq| ())
    }

    /// The audience of our tokens: the URL of `/mcp`, RFC 8707.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Where protected resource metadata is served: the audience's origin, the well-known path, the resource's path.
    pub fn metadata_url(&self) -> String {
        let origin = origin(&self.audience);
        let path = self.audience.strip_prefix(origin).unwrap_or_default();
        format!("{origin}/.well-known/oauth-protected-resource{path}")
    }

    /// Protected resource metadata, RFC 9728, as JSON.
    pub fn metadata(&self) -> String {
        let strings = |all: Vec<String>| Value::Array(all.into_iter().map(Value::from).collect());
        let algorithms = PROOF_ALGORITHMS.map(str::to_owned).to_vec();
        let mut metadata = Object::new().with("resource", self.audience.as_str()).with("resource_name", "Countersign");
        let mut servers = self.issuers.advertised();
        // last: who takes the first one is a person's client more often than not
        servers.extend(self.own_server.clone());
        if !servers.is_empty() {
            metadata.insert("authorization_servers", strings(servers));
        }
        let scopes = self.needed_scopes();
        if !scopes.is_empty() {
            metadata.insert("scopes_supported", strings(scopes));
        }
        metadata.insert("bearer_methods_supported", strings(vec!["header".to_owned()]));
        metadata.insert("dpop_signing_alg_values_supported", strings(algorithms));
        String::from_utf8(Value::Object(metadata).to_bytes()).unwrap_or_default()
    }

    /// Scopes without which nobody is let in, of every issuer.
    pub fn needed_scopes(&self) -> Vec<String> {
        let mut all: Vec<String> = self.issuers.iter().flat_map(|one| one.config().scopes.iter().cloned()).collect();
        all.sort();
        all.dedup();
        all
    }
}

/// Checks that whoever shows a token has what it is bound to.
fn has(certificate: Option<&ClientCertificate>, thumbprint: Digest, now: Timestamp) -> Result<(), Unauthenticated> {
    // a certificate that is believed no more is as good as none
    let standing = certificate.filter(|certificate| certificate.standing(now).is_ok());
    let same = standing.is_some_and(|certificate| certificate.thumbprint == thumbprint);
    if same { Ok(()) } else { Err(Unauthenticated::Certificate) }
}

/// The credential of a principal that came by standard input and output.
const STDIO: &str = "stdio";

/// Who vouches for it: the operator who started the process.
const STDIO_ISSUER: &str = "countersign:stdio";

/// Everybody who may vouch for an agent.
fn believed(config: &IdentityConfig) -> HashSet<String> {
    let issuers = config.issuers.values().map(|issuer| issuer.issuer.clone());
    let domains = config.spiffe.keys().map(|domain| format!("spiffe://{domain}"));
    let certificates = config.certificates.keys().map(|name| format!("certificate:{name}"));
    issuers.chain(domains).chain(certificates).chain([ISSUER.to_owned()]).collect()
}

/// The origin of a URL: what stands before its path.
pub(crate) fn origin(url: &str) -> &str {
    let begin = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(begin..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| begin + at);
    url.get(..end).unwrap_or(url)
}

fn key_path(data: &Path) -> PathBuf {
    data.join("token.key")
}

/// An agent's name: 1 to 128 of letters, digits and `. _ - @ : /`, beginning with a letter or digit. A SPIFFE id may be as long
/// as those are let be.
///
/// # Errors
/// [`Fault`] that says so.
pub fn agent_name(text: &str) -> Result<(), Fault> {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@:/".contains(&byte));
    let most = if text.starts_with("spiffe://") { 2_048 } else { 128 };
    if first && rest && text.len() <= most {
        Ok(())
    } else {
        Err(Fault(format!(
            "`{}` is no agent's name: use 1 to 128 letters, digits and `._-@:/`, beginning with a letter or digit",
            text.escape_debug()
        )))
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::{EncodingKey, Header};

    use super::*;
    use crate::ledger::Options;

    pub(super) struct House {
        folder: tempfile::TempDir,
        pub(super) clock: Clock,
        pub(super) identity: Identity,
    }

    fn options() -> Options {
        Options { origin: "test.example/log".to_owned(), batched_reads: false, keep_payloads: true }
    }

    fn house_at(folder: tempfile::TempDir, clock: Clock, audience: &str) -> House {
        let (ledger, _) = Ledger::open(folder.path(), options(), clock.clone()).unwrap();
        let day = Duration::from_secs(86_400);
        let config = IdentityConfig::own(day);
        let resolver: Arc<dyn Resolver> = Arc::new(crate::reach::System);
        let identity = Identity::open(folder.path(), audience.to_owned(), &config, &resolver, ledger, clock.clone());
        let identity = identity.unwrap();
        House { folder, clock, identity }
    }

    pub(super) fn house() -> House {
        let clock = Clock::fixed(Timestamp::from_second(1_800_000_000).unwrap());
        house_at(tempfile::tempdir().unwrap(), clock, "http://127.0.0.1:7400/mcp")
    }

    fn request(agent: &str) -> TokenRequest {
        TokenRequest {
            agent: agent.to_owned(),
            ttl: Duration::from_secs(60),
            task: Some("t1".into()),
            user: Some("ann".into()),
        }
    }

    async fn refusal(identity: &Identity, token: &str) -> Unauthenticated {
        identity.authenticate(&Presented::bearer(token)).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_token_says_who_calls_for_whom_and_in_which_task() {
        let house = house();
        let token = house.identity.issue(request("demo")).await.unwrap();
        for _ in 0..2 {
            let who = house.identity.authenticate(&Presented::bearer(&token)).await.unwrap();
            let principal = who.principal();
            assert_eq!(principal.agent, "demo");
            assert_eq!(principal.user.as_deref(), Some("ann"));
            assert_eq!(principal.task.as_deref(), Some("t1"));
        }
        assert_eq!(house.identity.authenticate(&Presented::default()).await.unwrap_err(), Unauthenticated::Missing);
    }

    #[tokio::test]
    async fn a_token_ends_when_its_time_is_over() {
        let house = house();
        let token = house.identity.issue(request("demo")).await.unwrap();
        house.identity.authenticate(&Presented::bearer(&token)).await.unwrap();
        house.clock.advance(jiff::SignedDuration::from_secs(60));
        assert_eq!(refusal(&house.identity, &token).await, Unauthenticated::Expired);
        house.clock.advance(jiff::SignedDuration::from_secs(-120));
        assert_eq!(refusal(&house.identity, &token).await, Unauthenticated::Invalid, "not valid before it was issued");
    }

    #[tokio::test]
    async fn a_revocation_takes_effect_on_the_next_call_and_survives_a_restart() {
        let house = house();
        let first = house.identity.issue(request("demo")).await.unwrap();
        let second = house.identity.issue(request("demo")).await.unwrap();
        let other = house.identity.issue(request("other")).await.unwrap();
        let who = house.identity.authenticate(&Presented::bearer(&first)).await.unwrap();
        house.identity.revoke("demo", Some(&who.principal().credential)).await.unwrap();
        assert_eq!(refusal(&house.identity, &first).await, Unauthenticated::Revoked);
        assert_eq!(house.identity.again(who.principal()).unwrap_err(), Unauthenticated::Revoked);
        house.identity.authenticate(&Presented::bearer(&second)).await.unwrap();
        house.identity.revoke("demo", None).await.unwrap();
        assert_eq!(refusal(&house.identity, &second).await, Unauthenticated::Revoked);
        house.identity.authenticate(&Presented::bearer(&other)).await.unwrap();
        let third = house.identity.issue(request("demo")).await.unwrap();
        house.identity.authenticate(&Presented::bearer(&third)).await.unwrap();
        house.identity.ledger.close().await;
        let House { folder, clock, identity } = house;
        let audience = identity.audience().to_owned();
        drop(identity);
        let house = house_at(folder, clock, &audience);
        assert_eq!(refusal(&house.identity, &first).await, Unauthenticated::Revoked);
        house.identity.authenticate(&Presented::bearer(&third)).await.unwrap();
        assert!(house.identity.revoke("other", Some("tok_nope")).await.is_err());
    }

    #[tokio::test]
    async fn forged_and_foreign_tokens_are_refused() {
        let house = house();
        let token = house.identity.issue(request("demo")).await.unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let mut flipped = URL_SAFE_NO_PAD.decode(parts[2]).unwrap();
        flipped[0] ^= 1;
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        let secret = EncodingKey::from_secret(house.identity.verifying.try_get_as_bytes().unwrap());
        let with = |from: &str, to: &str| {
            let claims: serde_json::Value = serde_json::from_str(&claims.replace(from, to)).unwrap();
            house.identity.signed(TYPE, &claims).unwrap()
        };
        let own: serde_json::Value = serde_json::from_str(&claims).unwrap();
        let bare = Header { typ: Some("JWT".to_owned()), ..Header::new(Algorithm::EdDSA) };
        use Unauthenticated::{Algorithm as OtherAlgorithm, Invalid, Issuer};
        let rows = [
            ("empty", String::new(), Invalid),
            ("no token at all", "abc".to_owned(), Invalid),
            ("`alg: none`", format!("{}.{}.", part(r#"{"alg":"none","typ":"at+jwt"}"#), parts[1]), OtherAlgorithm),
            (
                "HS256 with the public key",
                jsonwebtoken::encode(&Header::new(Algorithm::HS256), &own, &secret).unwrap(),
                OtherAlgorithm,
            ),
            (
                "a flipped signature bit",
                format!("{}.{}.{}", parts[0], parts[1], URL_SAFE_NO_PAD.encode(&flipped)),
                Invalid,
            ),
            ("other claims", format!("{}.{}.{}", parts[0], part(&claims.replace("demo", "root")), parts[2]), Invalid),
            ("another audience", with("7400", "7500"), Invalid),
            ("another issuer", with(r#""iss":"countersign""#, r#""iss":"elsewhere""#), Issuer),
            ("another type", jsonwebtoken::encode(&bare, &own, &house.identity.signer.signing).unwrap(), Invalid),
            ("never issued", with("tok_", "tok_0"), Invalid),
            ("another agent's token id", with("demo", "root"), Invalid),
            ("too long", "a".repeat(LONGEST + 1), Invalid),
        ];
        for (what, forged, expected) in rows {
            assert_eq!(refusal(&house.identity, &forged).await, expected, "{what}");
        }
        house.identity.authenticate(&Presented::bearer(&with("x", "x"))).await.unwrap();
    }

    #[tokio::test]
    async fn a_token_request_out_of_bounds_is_refused_with_what_to_do() {
        let house = house();
        let rows: [(TokenRequest, &str); 5] = [
            (request(""), "is no agent's name"),
            (request("a b"), "is no agent's name"),
            (TokenRequest { ttl: Duration::from_secs(86_401), ..request("demo") }, "max_ttl"),
            (TokenRequest { ttl: Duration::ZERO, ..request("demo") }, "max_ttl"),
            (TokenRequest { task: Some("a\nb".into()), ..request("demo") }, "a task is"),
        ];
        for (request, says) in rows {
            let fault = house.identity.issue(request).await.unwrap_err();
            assert!(fault.0.contains(says), "{fault}");
        }
    }

    #[test]
    fn the_metadata_is_where_rfc_9728_puts_it() {
        let house = house();
        assert_eq!(house.identity.metadata_url(), "http://127.0.0.1:7400/.well-known/oauth-protected-resource/mcp");
        assert!(house.identity.metadata().contains(r#""resource":"http://127.0.0.1:7400/mcp""#));
    }
}
