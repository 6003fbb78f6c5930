//! Enrolling: whoever has a one-time code chooses a passphrase.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use maud::html;

use super::{
    Doors, Problem, Trouble,
    form::Knock,
    page::{self, Page},
    passkeys,
    sign_in::{before_session, begun, kept},
};
use crate::{
    approver::{Code, FormToken, Passphrase},
    call::Fault,
};

/// The page to enrol on. The link to it has the code behind a `#`, which no browser sends: the page's script puts it into
/// the field.
pub(super) async fn page(State(doors): State<Arc<Doors>>, headers: HeaderMap) -> Result<Response, Trouble> {
    let token = before_session(&doors, &headers)?;
    Ok(kept(&doors, &token, shown(&doors, StatusCode::OK, &token, None)))
}

/// Enrols, and begins a session.
pub(super) async fn enrol(State(doors): State<Arc<Doors>>, knock: Knock) -> Result<Response, Trouble> {
    let Knock { token, before, mut fields } = knock;
    let code = fields.text("code")?;
    let passphrase = fields.passphrase()?;
    let again = Passphrase::new(fields.text("again")?);
    fields.end()?;
    if passphrase != again {
        let problem = Problem::Invalid("the two passphrases are not the same".to_owned());
        return Ok(shown(&doors, problem.status(), &token, Some(&problem)));
    }
    match enrolled(&doors, &code, passphrase.clone()).await {
        Ok(name) => match doors.pipeline.approvers.log_in(&name, &passphrase).await {
            Ok((session, _)) => Ok(begun(&doors, before, &session, None)),
            // enrolled all the same
            Err(why) => Err(Problem::of(why, Problem::LoginRefused).into()),
        },
        Err(problem) => Ok(shown(&doors, problem.status(), &token, Some(&problem))),
    }
}

async fn enrolled(doors: &Arc<Doors>, code: &str, passphrase: Passphrase) -> Result<String, Problem> {
    let code = Code::read(code).ok_or(Problem::CodeUnknown)?;
    let house = Arc::clone(doors);
    // whoever goes away in the middle is enrolled all the same, and the code has served
    let enrolled = tokio::spawn(async move { house.pipeline.approvers.enrol(&code, &passphrase).await });
    let enrolled = enrolled.await.map_err(|_| Fault("an enrolment was cut short".to_owned()))?;
    let approver = enrolled.map_err(|why| Problem::of(why, Problem::CodeUnknown))?;
    tracing::info!(approver, "an approver has enrolled");
    Ok(approver)
}

/// The page.
pub(super) fn shown(doors: &Doors, status: StatusCode, token: &FormToken, problem: Option<&Problem>) -> Response {
    let main = html! {
        h1 { "Enrol" }
        p { "An operator gave you a one-time code. It is good for a day, and once." }
        @if let Some(problem) = problem { (page::notice(problem)) }
        form.narrow method="post" action="/enrol" data-act="enrol" {
            (page::token(token))
            label for="code" { "One-time code" }
            input #code name="code" required autocomplete="off" autocapitalize="characters"
                spellcheck="false" maxlength="64";
            label for="passphrase" { "A passphrase of your own" }
            input #passphrase name="passphrase" type="password" required autocomplete="new-password"
                minlength="12" maxlength="1024" aria-describedby="fit";
            p #fit.quiet { "At least 12 letters; length is what counts. Nobody can recover it." }
            label for="again" { "The same again" }
            input #again name="again" type="password" required autocomplete="new-password" maxlength="1024";
            button type="submit" { "Enrol" }
        }
        (passkeys::enrolling(doors, token))
    };
    let page = Page { name: "enrol", title: "Enrol", scripts: &["enrol.js", "passkey.js"], ..Page::default() };
    page::plain(status, &page, &main)
}
