//! Enrolling, logging in and out.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::json;

use super::{Doors, Problem, Who, answer, form::Form};
use crate::{
    approver::{Code, Session, Token},
    call::Fault,
    http::view::time,
};

/// Whoever has a one-time code chooses a passphrase.
pub(super) async fn enrol(State(doors): State<Arc<Doors>>, mut form: Form) -> Result<Response, Problem> {
    let code = form.text("code")?;
    let passphrase = form.passphrase()?;
    form.end()?;
    let code = Code::read(&code).ok_or(Problem::CodeUnknown)?;
    let house = Arc::clone(&doors);
    // whoever goes away in the middle is enrolled all the same, and the code has served
    let enrolled = tokio::spawn(async move { house.pipeline.approvers.enrol(&code, &passphrase).await });
    let enrolled = enrolled.await.map_err(|_| Fault("an enrolment was cut short".to_owned()))?;
    let approver = enrolled.map_err(|why| Problem::of(why, Problem::CodeUnknown))?;
    tracing::info!(approver, "an approver has enrolled");
    let key = doors.pipeline.ledger.holds(|book| book.roster().get(&approver)?.key).ok_or(Problem::CodeUnknown)?;
    Ok(answer(json!({"approver": approver, "key": BASE64.encode(key)})))
}

/// A passphrase begins a session.
pub(super) async fn login(State(doors): State<Arc<Doors>>, mut form: Form) -> Result<Response, Problem> {
    let name = form.text("approver")?;
    let passphrase = form.passphrase()?;
    form.end()?;
    let logged_in = doors.pipeline.approvers.log_in(&name, &passphrase).await;
    let (token, session) = logged_in.map_err(|why| Problem::of(why, Problem::LoginRefused))?;
    Ok(begun(&token, &session))
}

/// What whoever has just shown that it is them gets.
pub(super) fn begun(token: &Token, session: &Session) -> Response {
    answer(json!({
        "token": token.reveal(),
        "approver": session.approver,
        "idle_until": time(session.idle_until),
        "expires": time(session.expires),
    }))
}

/// Ends the session that asks for it.
pub(super) async fn logout(
    State(doors): State<Arc<Doors>>,
    Who(session): Who,
    form: Form,
) -> Result<StatusCode, Problem> {
    form.end()?;
    doors.pipeline.approvers.sessions.end(session.id);
    Ok(StatusCode::NO_CONTENT)
}
