//! Passkeys: made, signed in with, added to. What an authenticator is asked comes in the shape that browsers take; what it
//! answers is sent back as base64url without padding.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde_json::{Value, json};

use super::{Doors, Problem, Who, answer, form::Form, people::begun};
use crate::{
    approver::{Answer, Code, Made, Session, Shown, ToMake},
    call::Fault,
    hold::Approver,
    passkey::{Assertion, ClientData, Flaw, Passkey},
};

/// How long a browser waits for its authenticator: as long as its answer is good.
const TIMEOUT_MS: u32 = 120_000;

/// Asks whoever has a one-time code to make a passkey.
pub(super) async fn ask_to_enrol(State(doors): State<Arc<Doors>>, mut form: Form) -> Result<Response, Problem> {
    let code = form.text("code")?;
    form.end()?;
    let code = Code::read(&code).ok_or(Problem::CodeUnknown)?;
    let asked = doors.pipeline.approvers.ask_to_enrol(&code).map_err(refused)?;
    Ok(answer(json!({"approver": asked.approver, "publicKey": to_make(&doors, &asked)?})))
}

/// Whoever has a one-time code enrols with the passkey that they made.
pub(super) async fn enrol(State(doors): State<Arc<Doors>>, mut form: Form) -> Result<Response, Problem> {
    let code = form.text("code")?;
    let made = made(&doors, &mut form)?;
    form.end()?;
    let code = Code::read(&code).ok_or(Problem::CodeUnknown)?;
    let (house, rp) = (Arc::clone(&doors), doors.rp()?.to_owned());
    // whoever goes away in the middle is enrolled all the same, and the code has served
    let enrolled = tokio::spawn(async move { house.pipeline.approvers.enrol_passkey(&code, &made, &rp).await });
    let enrolled = enrolled.await.map_err(|_| Fault("an enrolment was cut short".to_owned()))?;
    let (approver, passkey) = enrolled.map_err(refused)?;
    tracing::info!(approver, "an approver has enrolled with a passkey");
    Ok(answer(json!({"approver": approver, "passkey": shown(&passkey)})))
}

/// Asks whoever is there to sign in.
pub(super) async fn ask_to_sign_in(State(doors): State<Arc<Doors>>, form: Form) -> Result<Response, Problem> {
    form.end()?;
    let challenge = doors.pipeline.approvers.ask_to_sign_in().map_err(refused)?;
    Ok(answer(json!({"publicKey": to_sign(&doors, &challenge, &[])?})))
}

/// A passkey begins a session.
pub(super) async fn sign_in(State(doors): State<Arc<Doors>>, mut form: Form) -> Result<Response, Problem> {
    let answered = answered(&doors, &mut form)?;
    form.end()?;
    let (token, session) = doors.pipeline.approvers.sign_in(&answered).map_err(refused)?;
    Ok(begun(&token, &session))
}

/// What the approver who asks is known by.
pub(super) async fn list(State(doors): State<Arc<Doors>>, Who(session): Who) -> Result<Response, Problem> {
    known(&doors, &session)
}

/// Asks who is signed in to make one more passkey.
pub(super) async fn ask_to_add(
    State(doors): State<Arc<Doors>>,
    Who(session): Who,
    form: Form,
) -> Result<Response, Problem> {
    form.end()?;
    let asked = doors.pipeline.approvers.ask_to_add(&session).map_err(refused)?;
    Ok(answer(json!({"approver": asked.approver, "publicKey": to_make(&doors, &asked)?})))
}

/// Takes the passkey that was made, and says what has to be signed before it counts.
pub(super) async fn offer(
    State(doors): State<Arc<Doors>>,
    Who(session): Who,
    mut form: Form,
) -> Result<Response, Problem> {
    let made = made(&doors, &mut form)?;
    form.end()?;
    let challenge = doors.pipeline.approvers.offer_passkey(&session, &made, doors.rp()?).map_err(refused)?;
    Ok(to_confirm(&doors, &session, &challenge))
}

/// Takes the passphrase that was chosen, and says what has to be signed before it counts.
pub(super) async fn offer_passphrase(
    State(doors): State<Arc<Doors>>,
    Who(session): Who,
    mut form: Form,
) -> Result<Response, Problem> {
    let passphrase = form.passphrase()?;
    form.end()?;
    let challenge = doors.pipeline.approvers.offer_passphrase(&session, &passphrase).await.map_err(refused)?;
    Ok(to_confirm(&doors, &session, &challenge))
}

/// Makes what was offered count.
pub(super) async fn confirm(
    State(doors): State<Arc<Doors>>,
    Who(session): Who,
    mut form: Form,
) -> Result<Response, Problem> {
    let challenge = form.bytes("challenge")?.try_into();
    let challenge: [u8; 32] = challenge.map_err(|_| Problem::PasskeyRefused(Flaw::Challenge))?;
    let given = given(&doors, &mut form)?;
    form.end()?;
    let (house, asks) = (Arc::clone(&doors), session.clone());
    let confirmed = tokio::spawn(async move { house.pipeline.approvers.confirm(&asks, &challenge, &given).await });
    let confirmed = confirmed.await.map_err(|_| Fault("an enrolment was cut short".to_owned()))?;
    confirmed.map_err(refused)?;
    tracing::info!(approver = session.approver, "an approver is known by one more passkey or passphrase");
    known(&doors, &session)
}

fn refused(why: crate::approver::NotDone) -> Problem {
    Problem::of(why, Problem::PassphraseWrong)
}

/// What shows that it is the approver: a passphrase, or what their passkey signed.
pub(super) fn given(doors: &Doors, form: &mut Form) -> Result<Shown, Problem> {
    match form.form("passkey")? {
        None => Ok(Shown::Passphrase(form.passphrase()?)),
        Some(mut inner) => {
            let answered = answered(doors, &mut inner)?;
            inner.end()?;
            Ok(Shown::Passkey(answered))
        }
    }
}

/// A passkey that was made for a page of ours.
fn made(doors: &Doors, form: &mut Form) -> Result<Made, Problem> {
    let (client_data, attestation) = (form.bytes("client_data")?, form.bytes("attestation")?);
    let label = form.text("label")?.to_string();
    doors.is_asked_by_us(&client_data)?;
    Ok(Made { client_data, attestation, label })
}

/// What a passkey signed for a page of ours.
fn answered(doors: &Doors, form: &mut Form) -> Result<Answer, Problem> {
    let (id, client_data) = (form.bytes("id")?, form.bytes("client_data")?);
    let (authenticator_data, signature) = (form.bytes("authenticator_data")?, form.bytes("signature")?);
    let user = form.optional_bytes("user")?;
    doors.is_asked_by_us(&client_data)?;
    Ok(Answer { id, user, assertion: Assertion { authenticator_data, client_data, signature } })
}

impl Doors {
    /// The host name that passkeys are for.
    pub(in crate::http) fn rp(&self) -> Result<&str, Problem> {
        self.place.rp().ok_or(Problem::PasskeysUnavailable)
    }

    /// Whether it was a page of this console that asked the authenticator. That a passkey is for this host does not say
    /// so: another program may serve pages at another port of it.
    pub(in crate::http) fn is_asked_by_us(&self, client_data: &[u8]) -> Result<(), Problem> {
        self.rp()?;
        let said = ClientData::read(client_data).map_err(Problem::PasskeyRefused)?;
        if self.place.is_ours(said.origin()) { Ok(()) } else { Err(Problem::PasskeyRefused(Flaw::Origin)) }
    }

    /// The approver of a session, as the roster knows them.
    fn approver<T>(&self, session: &Session, look: impl FnOnce(&Approver) -> T) -> Result<T, Problem> {
        let looked = self.pipeline.ledger.holds(|book| book.roster().get(&session.approver).map(look));
        looked.ok_or(Problem::SessionUnknown)
    }
}

/// What an authenticator is asked for when it is to make a passkey: `PublicKeyCredentialCreationOptionsJSON`.
pub(in crate::http) fn to_make(doors: &Doors, asked: &ToMake) -> Result<Value, Problem> {
    let algorithms = Passkey::algorithms().map(|algorithm| json!({"type": "public-key", "alg": algorithm}));
    let handle = BASE64URL.encode(asked.handle);
    Ok(json!({
        "rp": {"id": doors.rp()?, "name": "Countersign"},
        "user": {"id": handle, "name": asked.approver, "displayName": asked.approver},
        "challenge": BASE64URL.encode(asked.challenge),
        "pubKeyCredParams": algorithms,
        "timeout": TIMEOUT_MS,
        "excludeCredentials": descriptors(&asked.known),
        "authenticatorSelection":
            {"residentKey": "required", "requireResidentKey": true, "userVerification": "required"},
        "attestation": "none",
    }))
}

/// What one is asked for when it is to sign: `PublicKeyCredentialRequestOptionsJSON`. Without ids, any passkey for this
/// site will do.
pub(in crate::http) fn to_sign(doors: &Doors, challenge: &[u8; 32], ids: &[Vec<u8>]) -> Result<Value, Problem> {
    Ok(json!({
        "rpId": doors.rp()?,
        "challenge": BASE64URL.encode(challenge),
        "timeout": TIMEOUT_MS,
        "allowCredentials": descriptors(ids),
        "userVerification": "required",
    }))
}

fn descriptors(ids: &[Vec<u8>]) -> Vec<Value> {
    ids.iter().map(|id| json!({"type": "public-key", "id": BASE64URL.encode(id)})).collect()
}

/// What has to be signed before what was offered counts: with a passkey, or by giving the passphrase.
fn to_confirm(doors: &Doors, session: &Session, challenge: &[u8; 32]) -> Response {
    let ids = doors.approver(session, ids).unwrap_or_default();
    let question = if ids.is_empty() { None } else { to_sign(doors, challenge, &ids).ok() };
    answer(json!({"challenge": BASE64URL.encode(challenge), "publicKey": question}))
}

fn ids(approver: &Approver) -> Vec<Vec<u8>> {
    approver.passkeys.iter().map(|passkey| passkey.id().to_vec()).collect()
}

/// What an approver is known by.
fn known(doors: &Doors, session: &Session) -> Result<Response, Problem> {
    let known = doors.approver(session, |approver| {
        let passkeys: Vec<Value> = approver.passkeys.iter().map(|passkey| shown(passkey)).collect();
        json!({"approver": approver.name, "passphrase": approver.key.is_some(), "passkeys": passkeys})
    })?;
    Ok(answer(known))
}

fn shown(passkey: &Passkey) -> Value {
    json!({"id": passkey.id_text(), "label": passkey.label(), "rp": passkey.rp(), "synced": passkey.synced(),
           "digest": passkey.digest().to_string()})
}
