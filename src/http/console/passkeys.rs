//! Passkeys on the pages: forms that an authenticator fills in, by `passkey.js`. And what an approver is known by, to which
//! they add here: each thing more takes a signature by what they have, which is asked for on a page of its own.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use maud::{Markup, html};

use super::{
    Doors, Problem, Trouble, enrol,
    form::{Act, Fields, Knock},
    page::{self, Page, notice},
    sign_in::{self, begun},
    visitor::SignedIn,
    way_back,
};
use crate::{
    approver::{Answer, Code, FormToken, Made, NotDone, Passphrase, Session, Shown},
    call::Fault,
    display::visible,
    http::api::passkeys::{to_make, to_sign},
    passkey::{Assertion, Flaw},
};

/// What the button of a form asks.
pub(super) enum Asks<'a> {
    /// What is asked when it is pressed, at that path; with what the field of that id has.
    Now(&'a str, Option<&'a str>),
    /// What the page came with.
    This(serde_json::Value),
}

/// The button, for where passkeys work, and what is said where they do not. It stands in a form with `data-rp`.
pub(super) fn button(doors: &Doors, act: &str, makes: bool, asks: &Asks<'_>, says: &str) -> Markup {
    let passkey = if makes { "make" } else { "sign" };
    let (ask, from, this) = match asks {
        Asks::Now(path, from) => (Some(*path), *from, None),
        Asks::This(question) => (None, None, Some(question.to_string())),
    };
    let Some(place) = doors.place.for_passkeys() else {
        return html! { p.quiet data-unavailable { (Problem::PasskeysUnavailable.detail()) } };
    };
    html! {
        button type="button" hidden data-act=(act) data-passkey=(passkey) data-ask=[ask] data-from=[from]
            data-public-key=[this] { (says) }
        p.quiet data-elsewhere hidden { "Passkeys do not work at this address. Open " a href=(place) { (place) } "." }
        p.problem data-told hidden role="alert" {}
        noscript { p.quiet { "Passkeys need scripts." } }
    }
}

/// The way in with a passkey, below that with a passphrase.
pub(super) fn signing_in(doors: &Doors, token: &FormToken, next: Option<&str>) -> Markup {
    html! {
        form.narrow method="post" action="/sign-in/passkey" data-act="sign-in-with-passkey" data-rp=[doors.place.rp()] {
            (page::token(token))
            @if let Some(next) = next { input type="hidden" name="next" value=(next); }
            (button(doors, "sign-in-passkey", false, &Asks::Now("/api/v1/passkeys/login/ask", None), "Sign in with a passkey"))
        }
    }
}

/// Enrolling with a passkey, below that with a passphrase.
pub(super) fn enrolling(doors: &Doors, token: &FormToken) -> Markup {
    html! {
        form.narrow method="post" action="/enrol/passkey" data-act="enrol-with-passkey" data-rp=[doors.place.rp()] {
            (page::token(token))
            h2 { "Or with a passkey" }
            p.quiet { "It stays in your device, which makes sure that it is you." }
            (label())
            (button(doors, "enrol-passkey", true, &Asks::Now("/api/v1/passkeys/enrol/ask", Some("code")), "Enrol with a passkey"))
        }
    }
}

fn label() -> Markup {
    html! {
        label for="label" { "What to call it" }
        input #label name="label" value="my passkey" required maxlength="64" autocomplete="off" data-needed;
    }
}

/// Begins a session.
pub(super) async fn enter(State(doors): State<Arc<Doors>>, knock: Knock) -> Result<Response, Trouble> {
    let Knock { token, before, mut fields } = knock;
    let next = fields.optional("next")?;
    let next = next.as_deref().map(String::as_str).and_then(way_back);
    let answered = answered(&doors, &mut fields);
    fields.end()?;
    match answered.and_then(|answered| doors.pipeline.approvers.sign_in(&answered).map_err(refused)) {
        Ok((session, _)) => Ok(begun(&doors, before, &session, next)),
        Err(problem) => Ok(sign_in::shown(&doors, problem.status(), &token, next, "", Some(&problem))),
    }
}

/// Enrols, and begins a session: who made the passkey has just shown that it is them.
pub(super) async fn enrol(State(doors): State<Arc<Doors>>, knock: Knock) -> Result<Response, Trouble> {
    let Knock { token, before, mut fields } = knock;
    let code = fields.text("code")?;
    let made = made(&doors, &mut fields);
    fields.end()?;
    let enrolled = async {
        let (made, code) = (made?, Code::read(&code).ok_or(Problem::CodeUnknown)?);
        let (house, rp) = (Arc::clone(&doors), doors.rp()?.to_owned());
        // whoever goes away in the middle is enrolled all the same, and the code has served
        let enrolled = tokio::spawn(async move { house.pipeline.approvers.enrol_passkey(&code, &made, &rp).await });
        let enrolled = enrolled.await.map_err(|_| Fault("an enrolment was cut short".to_owned()))?;
        let (approver, passkey) = enrolled.map_err(refused)?;
        tracing::info!(approver, "an approver has enrolled with a passkey");
        doors.pipeline.approvers.begin_with(&approver, &passkey).map_err(refused)
    };
    match enrolled.await {
        Ok((session, _)) => Ok(begun(&doors, before, &session, None)),
        Err(problem) => Ok(enrol::shown(&doors, problem.status(), &token, Some(&problem))),
    }
}

fn refused(why: NotDone) -> Problem {
    Problem::of(why, Problem::PassphraseWrong)
}

/// Bytes as the script writes them.
fn bytes(fields: &mut Fields, name: &str) -> Result<Vec<u8>, Problem> {
    let text = fields.text(name)?;
    BASE64URL.decode(text.as_bytes()).map_err(|_| Problem::PasskeyRefused(Flaw::Malformed))
}

fn made(doors: &Doors, fields: &mut Fields) -> Result<Made, Problem> {
    let label = fields.text("label")?.to_string();
    let (client_data, attestation) = (bytes(fields, "client_data")?, bytes(fields, "attestation")?);
    doors.is_asked_by_us(&client_data)?;
    Ok(Made { client_data, attestation, label })
}

fn answered(doors: &Doors, fields: &mut Fields) -> Result<Answer, Problem> {
    let (id, client_data) = (bytes(fields, "id")?, bytes(fields, "client_data")?);
    let (authenticator_data, signature) = (bytes(fields, "authenticator_data")?, bytes(fields, "signature")?);
    let user = match fields.optional("user")? {
        None => None,
        Some(user) => Some(BASE64URL.decode(user.as_bytes()).map_err(|_| Problem::PasskeyRefused(Flaw::Malformed))?),
    };
    doors.is_asked_by_us(&client_data)?;
    Ok(Answer { id, user, assertion: Assertion { authenticator_data, client_data, signature } })
}

/// What shows that it is the approver: a passphrase, or what their passkey signed.
pub(super) fn given(doors: &Doors, fields: &mut Fields) -> Result<Shown, Problem> {
    if fields.has("signature") {
        return Ok(Shown::Passkey(answered(doors, fields)?));
    }
    Ok(Shown::Passphrase(fields.passphrase()?))
}

/// What an approver has to show that it is them.
pub(super) struct Has {
    /// A passphrase.
    pub(super) passphrase: bool,
    /// The ids of their passkeys.
    pub(super) passkeys: Vec<Vec<u8>>,
}

impl Has {
    pub(super) fn of(doors: &Doors, who: &Session) -> Self {
        let known = doors.pipeline.ledger.holds(|book| {
            let approver = book.roster().get(&who.approver)?;
            let passkeys = approver.passkeys.iter().map(|passkey| passkey.id().to_vec()).collect();
            Some(Self { passphrase: approver.key.is_some(), passkeys })
        });
        known.unwrap_or(Self { passphrase: false, passkeys: Vec::new() })
    }
}

/// What an approver is known by, and how to add to it.
pub(super) async fn page(State(doors): State<Arc<Doors>>, SignedIn(who): SignedIn) -> Response {
    shown(&doors, &who, None)
}

fn shown(doors: &Doors, who: &Session, problem: Option<&Problem>) -> Response {
    let (passphrase, passkeys) = doors.pipeline.ledger.holds(|book| {
        let approver = book.roster().get(&who.approver);
        (
            approver.is_some_and(|approver| approver.key.is_some()),
            approver.map(|approver| approver.passkeys.clone()).unwrap_or_default(),
        )
    });
    let main = html! {
        h1 { "Your keys" }
        @if let Some(problem) = problem { (notice(problem)) }
        p { "What " b { (visible(&who.approver)) } " signs in and countersigns with. To add to it takes what is here already." }
        ul.plain data-keys {
            @if passphrase { li data-key="passphrase" { "a passphrase" } }
            @for passkey in &passkeys {
                li data-key="passkey" data-digest=(passkey.digest()) {
                    "passkey " b.theirs { (visible(passkey.label())) } " for " span.mono { (passkey.rp()) }
                    @if passkey.synced() { span.quiet { ", copied to your other devices" } }
                }
            }
        }
        h2 { "One more passkey" }
        form.narrow method="post" action="/keys/passkey" data-act="add-passkey" {
            (page::token(&who.form))
            button type="submit" { "Add a passkey" }
        }
        h2 { @if passphrase { "Another passphrase" } @else { "A passphrase" } }
        form.narrow method="post" action="/keys/passphrase" data-act="add-passphrase" {
            (page::token(&who.form))
            label for="passphrase" { "A passphrase of your own" }
            input #passphrase name="passphrase" type="password" required autocomplete="new-password"
                minlength="12" maxlength="1024";
            label for="again" { "The same again" }
            input #again name="again" type="password" required autocomplete="new-password" maxlength="1024";
            button type="submit" { "Go on" }
        }
    };
    let page = Page { name: "keys", title: "Your keys", ..Page::default() };
    page::signed_in(doors, who, problem.map_or(StatusCode::OK, Problem::status), &page, &main)
}

/// The page on which one more passkey is made, as long as its question is good.
pub(super) async fn add(State(doors): State<Arc<Doors>>, Act { who, fields }: Act) -> Result<Response, Trouble> {
    fields.end()?;
    let asked = doors.pipeline.approvers.ask_to_add(&who).map_err(refused)?;
    let asks = Asks::This(to_make(&doors, &asked)?);
    let main = html! {
        h1 { "One more passkey" }
        p { "In a device that has none of yours yet. This page is good for two minutes." }
        form.narrow method="post" action="/keys/offer" data-act="offer-passkey" data-rp=[doors.place.rp()] {
            (page::token(&who.form))
            (label())
            (button(&doors, "make-passkey", true, &asks, "Make it"))
        }
        p { a href="/keys" { "Back" } }
    };
    let page = Page { name: "add-passkey", title: "One more passkey", scripts: &["passkey.js"], ..Page::default() };
    Ok(page::signed_in(&doors, &who, StatusCode::OK, &page, &main))
}

/// Takes the passkey that was made.
pub(super) async fn offer(State(doors): State<Arc<Doors>>, Act { who, mut fields }: Act) -> Result<Response, Trouble> {
    let made = made(&doors, &mut fields);
    fields.end()?;
    let offered =
        made.and_then(|made| doors.pipeline.approvers.offer_passkey(&who, &made, doors.rp()?).map_err(refused));
    match offered {
        Ok(challenge) => Ok(to_confirm(&doors, &who, &challenge)),
        Err(problem) => Ok(shown(&doors, &who, Some(&problem))),
    }
}

/// Takes the passphrase that was chosen.
pub(super) async fn offer_passphrase(
    State(doors): State<Arc<Doors>>,
    Act { who, mut fields }: Act,
) -> Result<Response, Trouble> {
    let passphrase = fields.passphrase()?;
    let again = Passphrase::new(fields.text("again")?);
    fields.end()?;
    if passphrase != again {
        return Ok(shown(&doors, &who, Some(&Problem::Invalid("the two passphrases are not the same".to_owned()))));
    }
    match doors.pipeline.approvers.offer_passphrase(&who, &passphrase).await.map_err(refused) {
        Ok(challenge) => Ok(to_confirm(&doors, &who, &challenge)),
        Err(problem) => Ok(shown(&doors, &who, Some(&problem))),
    }
}

/// The page on which what was offered is signed for.
fn to_confirm(doors: &Doors, who: &Session, challenge: &[u8; 32]) -> Response {
    let has = Has::of(doors, who);
    let bound = html! {
        (page::token(&who.form))
        input type="hidden" name="challenge" value=(BASE64URL.encode(challenge));
    };
    let main = html! {
        h1 { "Is it you who wants this?" }
        p { "Sign for it with what you have already. This page is good for two minutes." }
        @if has.passphrase && has.passkeys.is_empty() {
            form.narrow method="post" action="/keys/confirm" data-act="confirm" {
                (bound)
                label for="passphrase" { "The passphrase that you have" }
                input #passphrase name="passphrase" type="password" required autocomplete="off" maxlength="1024";
                button type="submit" { "Sign with it" }
            }
        }
        @if !has.passkeys.is_empty() {
            form.narrow method="post" action="/keys/confirm" data-act="confirm-with-passkey" data-rp=[doors.place.rp()] {
                (bound)
                @if let Ok(question) = to_sign(doors, challenge, &has.passkeys) {
                    (button(doors, "confirm-passkey", false, &Asks::This(question), "Sign with a passkey that you have"))
                }
            }
        }
        p { a href="/keys" { "Back" } }
    };
    let page = Page { name: "confirm-key", title: "Sign for it", scripts: &["passkey.js"], ..Page::default() };
    page::signed_in(doors, who, StatusCode::OK, &page, &main)
}

/// Makes what was offered count.
pub(super) async fn confirm(
    State(doors): State<Arc<Doors>>,
    Act { who, mut fields }: Act,
) -> Result<Response, Trouble> {
    let challenge = bytes(&mut fields, "challenge")?.try_into();
    let challenge: [u8; 32] = challenge.map_err(|_| Problem::PasskeyRefused(Flaw::Challenge))?;
    let given = given(&doors, &mut fields);
    fields.end()?;
    let given = match given {
        Ok(given) => given,
        Err(problem) => return Ok(shown(&doors, &who, Some(&problem))),
    };
    let (house, asks) = (Arc::clone(&doors), who.clone());
    let confirmed = tokio::spawn(async move { house.pipeline.approvers.confirm(&asks, &challenge, &given).await });
    match confirmed.await.map_err(|_| Fault("an enrolment was cut short".to_owned()))? {
        Ok(()) => {
            tracing::info!(approver = who.approver, "an approver is known by one more passkey or passphrase");
            Ok(Redirect::to("/keys").into_response())
        }
        Err(why) => Ok(shown(&doors, &who, Some(&refused(why)))),
    }
}
