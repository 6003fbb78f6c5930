//! Our own tokens: what stands in them, how they are signed, and how others check that.

use std::{fmt, sync::Arc};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};

use super::{ISSUER, Identity, TYPE, Unauthenticated};
use crate::{
    call::{Assurance, Fault, Principal},
    clock::{Timestamp, ulid},
    json::{Digest, Object, Value},
    ledger::{Event, Traded},
};

/// How the id of each of our tokens begins; those of others' credentials have a colon.
const OWN: &str = "tok_";

/// Whether a credential of that id is a token of ours.
pub fn is_own(credential: &str) -> bool {
    credential.starts_with(OWN)
}

/// What a token is bound to: it is good only for whoever shows that they have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// A key, by its JWK thumbprint (RFC 9449, `jkt`).
    Key(Digest),
    /// A client certificate, by the SHA-256 of its DER (RFC 8705, `x5t#S256`).
    Certificate(Digest),
}

impl Bound {
    /// Reads a confirmation claim (RFC 7800). `None`: it names no key or certificate, both, or something that is not known
    /// here and could not be asked for.
    pub(super) fn read(confirmation: &Value) -> Option<Self> {
        let members = confirmation.as_object()?;
        let text = |name: &str| members.get(name).map(|value| value.as_str().map(str::to_owned));
        if members.iter().any(|(name, _)| name != "jkt" && name != "x5t#S256") {
            return None;
        }
        let (jkt, certificate) = (text("jkt"), text("x5t#S256"));
        if jkt == Some(None) || certificate == Some(None) {
            return None;
        }
        Confirmation { jkt: jkt.flatten(), certificate: certificate.flatten() }.bound()
    }
}

/// A token that was read: who it says it is, and what it is bound to.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) principal: Arc<Principal>,
    pub(super) bound: Option<Bound>,
}

/// A token to be made for whoever asked the token endpoint.
#[derive(Clone, Debug)]
pub struct Minted {
    /// Who it is for. Its credential and times are made here, but for `expires`.
    pub principal: Principal,
    /// What it is bound to.
    pub bound: Option<Bound>,
    /// The credential that it is traded for.
    pub parent: Option<String>,
    /// The credential of the sub-agent that it is handed to.
    pub actor: Option<String>,
    /// The client that asks, where there is no parent.
    pub client: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    pub(super) sub: String,
    pub(super) aud: String,
    pub(super) iat: i64,
    pub(super) exp: i64,
    pub(super) jti: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scope: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tools: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) teams: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) workload: Option<String>,
    /// RFC 8693, section 4.1: who acts now, and in it who acted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) act: Option<Box<Actor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cnf: Option<Confirmation>,
    /// Who vouches for the agent, where the credential that this was traded for was another's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) vouched_by: Option<String>,
    /// How sure the one was who traded for it, where that is less than the token shows: trading makes nobody surer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) assurance: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Actor {
    sub: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    act: Option<Box<Actor>>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Confirmation {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jkt: Option<String>,
    #[serde(default, rename = "x5t#S256", skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

impl Confirmation {
    fn of(bound: Bound) -> Self {
        let (jkt, certificate) = match bound {
            Bound::Key(digest) => (Some(digest), None),
            Bound::Certificate(digest) => (None, Some(digest)),
        };
        let text = |digest: Digest| URL_SAFE_NO_PAD.encode(digest.0);
        Self { jkt: jkt.map(text), certificate: certificate.map(text) }
    }

    fn bound(&self) -> Option<Bound> {
        let read = |text: &str| URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Digest);
        match (&self.jkt, &self.certificate) {
            (Some(key), None) => read(key).map(Bound::Key),
            (None, Some(certificate)) => read(certificate).map(Bound::Certificate),
            _ => None,
        }
    }
}

impl Claims {
    pub(super) fn known(self) -> Result<Known, Unauthenticated> {
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| Unauthenticated::Invalid);
        let bound = match &self.cnf {
            Some(cnf) => Some(cnf.bound().ok_or(Unauthenticated::Invalid)?),
            None => None,
        };
        let sure = bound.is_some() && self.assurance.is_none();
        let mut chain = Vec::new();
        let mut act = self.act;
        while let Some(actor) = act {
            chain.push(actor.sub);
            act = actor.act;
        }
        chain.reverse();
        let principal = Arc::new(Principal {
            agent: self.sub,
            issuer: self.vouched_by.unwrap_or(self.iss),
            user: self.user,
            task: self.task,
            teams: self.teams,
            scopes: self.scope.iter().flat_map(|all| all.split(' ')).map(str::to_owned).collect(),
            workload: self.workload,
            chain,
            tools: self.tools,
            assurance: if sure { Assurance::Bound } else { Assurance::Bearer },
            credential: self.jti,
            issued: time(self.iat)?,
            expires: time(self.exp)?,
        });
        Ok(Known { principal, bound })
    }
}

/// Signs with the key of our tokens.
#[derive(Clone)]
pub struct Signer {
    pub(super) signing: EncodingKey,
    pub(super) key_id: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl Signer {
    /// Signs claims for somebody else who checks them by [`Identity::keys`]. Their `typ` is not that of our tokens: this makes
    /// none that is taken here.
    ///
    /// # Errors
    /// [`Fault`] when they cannot be signed.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, Fault> {
        self.signed("JWT", claims)
    }

    pub(super) fn signed(&self, kind: &str, claims: &impl Serialize) -> Result<String, Fault> {
        let (typ, kid) = (Some(kind.to_owned()), Some(self.key_id.clone()));
        let header = Header { typ, kid, ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.signing)
            .map_err(|_| Fault("the token could not be signed".to_owned()))
    }
}

impl Identity {
    /// Judges the token of a sub-agent that something is handed to: who it is, and what its own token is bound to. That is not
    /// asked for, since what it gets is bound to the same, and good for nobody else.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub async fn actor(&self, token: &str) -> Result<(Arc<Principal>, Option<Bound>), Unauthenticated> {
        let Known { principal, bound } = self.known(token).await?;
        self.current(&principal)?;
        Ok((principal, bound))
    }

    /// Makes a token, and records it. What it may say is for whoever asks for it.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be signed or recorded.
    pub async fn mint(&self, minted: Minted) -> Result<(String, Arc<Principal>), Fault> {
        let Minted { principal, bound, parent, actor, client } = minted;
        let now = self.clock.now();
        let (issued, expires) = (now.as_second(), principal.expires.as_second());
        let credential = format!("{OWN}{}", ulid(now).map_err(|error| Fault(error.to_string()))?);
        let act = principal.chain.iter().fold(None, |act, name| Some(Box::new(Actor { sub: name.clone(), act })));
        let foreign = (principal.issuer != ISSUER).then(|| principal.issuer.clone());
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: principal.agent.clone(),
            aud: self.audience.clone(),
            iat: issued,
            exp: expires,
            jti: credential.clone(),
            task: principal.task.clone(),
            user: principal.user.clone(),
            client_id: client.clone(),
            scope: (!principal.scopes.is_empty()).then(|| principal.scopes.join(" ")),
            tools: principal.tools.clone(),
            teams: principal.teams.clone(),
            workload: principal.workload.clone(),
            act,
            cnf: bound.map(Confirmation::of),
            vouched_by: foreign.clone(),
            assurance: (bound.is_some() && principal.assurance == Assurance::Bearer)
                .then(|| principal.assurance.word().to_owned()),
        };
        let token = self.signed(TYPE, &claims)?;
        if token.len() > super::LONGEST {
            return Err(Fault("the token would be longer than one that is taken".to_owned()));
        }
        let known = claims.known().map_err(|_| Fault("the token would not be read back".to_owned()))?;
        // what is read back has to be what was meant: a name that becomes two, say, would make it wider
        let said = Principal { issued: known.principal.issued, credential: credential.clone(), ..principal.clone() };
        let said = Principal { assurance: known.principal.assurance, expires: known.principal.expires, ..said };
        if *known.principal != said {
            return Err(Fault("the token would say something else than was meant".to_owned()));
        }
        let traded = Traded {
            parent,
            actor,
            client,
            chain: principal.chain,
            issuer: foreign,
            scopes: principal.scopes,
            tools: principal.tools,
        };
        let event = Event::TokenIssued {
            credential,
            agent: principal.agent,
            user: principal.user,
            task: principal.task,
            expires: known.principal.expires,
            traded: Some(Box::new(traded)),
        };
        self.ledger.note(event).await?;
        Ok((token, known.principal))
    }

    /// Signs for others with the key of our tokens.
    pub fn signer(&self) -> Signer {
        self.signer.clone()
    }

    /// Signs claims for somebody else, see [`Signer::sign`].
    ///
    /// # Errors
    /// [`Fault`] when they cannot be signed.
    pub fn sign(&self, claims: &impl Serialize) -> Result<String, Fault> {
        self.signer.sign(claims)
    }

    pub(super) fn signed(&self, kind: &str, claims: &impl Serialize) -> Result<String, Fault> {
        self.signer.signed(kind, claims)
    }

    /// The public key of what is signed here, as a JWK set (RFC 7517, RFC 8037).
    pub fn keys(&self) -> String {
        let key = self.public.clone().with("alg", "EdDSA").with("kid", self.signer.key_id.as_str()).with("use", "sig");
        let set = Object::new().with("keys", vec![Value::Object(key)]);
        String::from_utf8(Value::Object(set).to_bytes()).unwrap_or_default()
    }

    /// Revokes a token of ours that was made and must not be used after all.
    ///
    /// # Errors
    /// [`Fault`] when it cannot be recorded.
    pub async fn take_back(&self, principal: &Principal) -> Result<(), Fault> {
        let (agent, credential) = (principal.agent.clone(), Some(principal.credential.clone()));
        self.ledger.note(Event::TokenRevoked { agent, credential }).await.map(|_seq| ())
    }
}

/// The public members of a key, and its thumbprint (RFC 7638), which names it.
pub(super) fn public(pair: &Ed25519KeyPair) -> (Object, String) {
    let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
    let members = Object::new().with("crv", "Ed25519").with("kty", "OKP").with("x", x);
    let name = URL_SAFE_NO_PAD.encode(Digest::of(&Value::Object(members.clone()).to_bytes()).0);
    (members, name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        identity::{Presented, tests::house},
        jws::{Jwk, Jws},
        listen::ClientCertificate,
    };

    fn wanted(now: Timestamp) -> Minted {
        let principal = Principal {
            agent: "corp/clerk".to_owned(),
            issuer: ISSUER.to_owned(),
            user: Some("ann".to_owned()),
            task: Some("t".to_owned()),
            teams: vec!["ops".to_owned()],
            scopes: vec!["read".to_owned(), "pay".to_owned()],
            workload: Some("spiffe://td/w".to_owned()),
            chain: vec!["scout".to_owned(), "scout/two".to_owned()],
            tools: Some(vec!["bank__pay".to_owned()]),
            assurance: Assurance::Bearer,
            credential: String::new(),
            issued: now,
            expires: now.checked_add(jiff::SignedDuration::from_secs(60)).unwrap(),
        };
        Minted { principal, bound: None, parent: Some("corp:1".to_owned()), actor: None, client: None }
    }

    #[tokio::test]
    async fn what_a_minted_token_says_is_read_back_whole() {
        let house = house();
        let minted = wanted(house.clock.now());
        let (token, said) = house.identity.mint(minted.clone()).await.unwrap();
        let who = house.identity.authenticate(&Presented::bearer(&token)).await.unwrap();
        let expected = Principal { credential: said.credential.clone(), ..minted.principal };
        assert_eq!((&**who.principal(), &*said), (&expected, &expected));
        assert!(is_own(&said.credential));
        house.identity.take_back(&said).await.unwrap();
        let again = house.identity.authenticate(&Presented::bearer(&token)).await;
        assert_eq!(again.unwrap_err(), Unauthenticated::Revoked);
    }

    #[tokio::test]
    async fn a_bound_token_is_good_with_what_it_is_bound_to_and_makes_nobody_surer() {
        let house = house();
        let (mine, other) = (Digest([7; 32]), Digest([8; 32]));
        let certificate = ClientCertificate::of_thumbprint;
        for (before, after) in [(Assurance::Bearer, Assurance::Bearer), (Assurance::Bound, Assurance::Bound)] {
            let mut minted = Minted { bound: Some(Bound::Certificate(mine)), ..wanted(house.clock.now()) };
            minted.principal.assurance = before;
            let (token, _) = house.identity.mint(minted).await.unwrap();
            let bare = house.identity.authenticate(&Presented::bearer(&token)).await;
            assert!(bare.is_err());
            let (mine, other) = (certificate(mine), certificate(other));
            let shown = |certificate| Presented { certificate: Some(certificate), ..Presented::bearer(&token) };
            assert!(house.identity.authenticate(&shown(&other)).await.is_err());
            let who = house.identity.authenticate(&shown(&mine)).await.unwrap();
            assert_eq!(who.principal().assurance, after);
        }
        let minted = Minted { bound: Some(Bound::Key(mine)), ..wanted(house.clock.now()) };
        let (token, _) = house.identity.mint(minted).await.unwrap();
        assert!(house.identity.authenticate(&Presented::bearer(&token)).await.is_err());
    }

    #[tokio::test]
    async fn what_is_signed_for_others_can_be_checked_and_is_no_token_here() {
        let house = house();
        let now = house.clock.now().as_second();
        let claims = serde_json::json!({"iss": ISSUER, "sub": "demo", "aud": house.identity.audience(), "iat": now,
            "exp": now + 60, "jti": "tok_1"});
        let token = house.identity.sign(&claims).unwrap();
        let keys = Jwk::read_set(house.identity.keys().as_bytes()).unwrap();
        let jws = Jws::read(&token).unwrap();
        let (said, key) = jws.check(&keys).unwrap();
        assert_eq!(said.get("sub").and_then(Value::as_str), Some("demo"));
        let set: serde_json::Value = serde_json::from_str(&house.identity.keys()).unwrap();
        assert_eq!(set["keys"][0]["kid"], URL_SAFE_NO_PAD.encode(key.thumbprint().0));
        let taken = house.identity.authenticate(&Presented::bearer(&token)).await;
        assert_eq!(taken.unwrap_err(), Unauthenticated::Invalid);
    }
}
