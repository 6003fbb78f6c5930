//! Deciding on a hold. A yes is bound to what was on the screen: the hold's digest, and the newest entry about it that the
//! page was made from. Where anything came after that, nothing is decided, and what came is shown.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    Doors, Problem, Trouble,
    form::{Act, Fields},
    hold::{LONG, Seen, look, made},
    page,
    passkeys::{Asks, Has, button, given},
};
use crate::{
    approver::{Session, Shown, Way},
    display::visible,
    hold::{HoldId, Means, Rejected},
    http::{
        api::{
            holds::{Id, REASON, is_reason, named},
            passkeys::to_sign,
        },
        turn::Turn,
    },
    json::Digest,
};

/// Countersigns: the passphrase unlocks the approver's key for this one signature, or their passkey has signed the hold's
/// digest.
pub(super) async fn approve(State(doors): State<Arc<Doors>>, id: Id, act: Act) -> Result<Response, Trouble> {
    let Act { who, mut fields } = act;
    let (id, bound) = (named(id)?, Bound::of(&mut fields)?);
    let given = given(&doors, &mut fields);
    let read = fields.optional("whole")?.is_some();
    fields.end()?;
    let not = async |problem| again(&doors, &who, &id, Some(bound.as_of), problem).await;
    if let Err(problem) = ready(&doors, &who, &id, &bound, read).await {
        return not(problem).await;
    }
    let given = match given {
        Ok(given) => given,
        Err(problem) => return not(problem).await,
    };
    // that it takes more than a passphrase is told before that is looked at
    let now = doors.pipeline.clock.now();
    let may = doors.pipeline.ledger.holds(|book| {
        let own = book.roster().get(&who.approver).and_then(|approver| approver.key).map(Means::Key);
        match (&given, own) {
            (Shown::Passphrase(_), Some(key)) => book.may_vote_with(&key, &id, &bound.digest, &who.approver, now),
            _ => Ok(()),
        }
    });
    if let Err(rejected) = may {
        return not(Problem::Act(rejected)).await;
    }
    let approvers = &doors.pipeline.approvers;
    match approvers.countersign(&id, &bound.digest, &who.approver, &given, Way::Session(who.id)).await {
        Ok(_phase) => Ok(Redirect::to(&format!("/holds/{id}")).into_response()),
        Err(why) => not(Problem::of(why, Problem::PassphraseWrong)).await,
    }
}

/// Says no, and why.
pub(super) async fn deny(State(doors): State<Arc<Doors>>, id: Id, act: Act) -> Result<Response, Trouble> {
    let Act { who, mut fields } = act;
    let (id, bound) = (named(id)?, Bound::of(&mut fields)?);
    let reason = fields.text("reason")?;
    fields.end()?;
    let not = async |problem| again(&doors, &who, &id, Some(bound.as_of), problem).await;
    let reason = reason.trim();
    if !is_reason(reason) {
        let why = format!("say why in 1 to {REASON} bytes, without control characters: the agent is told");
        return not(Problem::Invalid(why)).await;
    }
    if let Err(problem) = bound.holds(&doors, &id).await {
        return not(problem).await;
    }
    match doors.pipeline.approvers.deny(&id, &bound.digest, &who.approver, reason).await {
        Ok(_phase) => Ok(Redirect::to(&format!("/holds/{id}")).into_response()),
        Err(why) => not(Problem::of(why, Problem::PassphraseWrong)).await,
    }
}

/// Whether who looks can countersign what was on the page, and has read it: told before they are asked to show that it is
/// them. The ledger decides on it again.
pub(super) async fn ready(doors: &Doors, who: &Session, id: &HoldId, bound: &Bound, read: bool) -> Result<(), Problem> {
    bound.holds(doors, id).await?;
    let now = doors.pipeline.clock.now();
    let may = doors.pipeline.ledger.holds(|book| {
        let hold = book.get(id).map(|record| Arc::clone(&record.hold)).ok_or(Rejected::UnknownHold)?;
        book.may_vote(id, &bound.digest, &who.approver, now).map(|()| hold)
    });
    let hold = may.map_err(Problem::Act)?;
    let long = doors.pipeline.ledger.held_arguments(&hold)?.is_none_or(|arguments| arguments.len() > LONG);
    if long && !read {
        let why = "the arguments are long: open the whole text, read it, and say that you have";
        return Err(Problem::Invalid(why.to_owned()));
    }
    Ok(())
}

/// What a form is bound to.
pub(super) struct Bound {
    pub(super) digest: Digest,
    pub(super) as_of: u64,
}

impl Bound {
    pub(super) fn of(fields: &mut Fields) -> Result<Self, Problem> {
        let digest = fields.text("digest")?.parse();
        let digest = digest.map_err(|error| Problem::Invalid(format!("`digest`: {error}")))?;
        let as_of = fields.text("as_of")?.parse();
        let as_of = as_of.map_err(|_| Problem::Invalid("`as_of` has to be a whole number".to_owned()))?;
        Ok(Self { digest, as_of })
    }

    /// Whether the hold is as it was on the page. What drifted or ran out is written down first.
    pub(super) async fn holds(&self, doors: &Doors, id: &HoldId) -> Result<(), Problem> {
        doors.pipeline.refresh_hold(id).await?;
        let newest = doors.pipeline.ledger.holds(|book| book.get(id).map(|record| record.newest()));
        match newest {
            Some(newest) if newest == self.as_of => Ok(()),
            Some(_) => Err(Problem::HoldChanged),
            None => Err(Problem::Act(Rejected::UnknownHold)),
        }
    }
}

/// The page again, as the hold is now, with why nothing was done.
pub(super) async fn again(
    doors: &Arc<Doors>,
    who: &Session,
    id: &HoldId,
    as_of: Option<u64>,
    problem: Problem,
) -> Result<Response, Trouble> {
    // what is to be told is told, also where there is no turn for the page
    let Ok(turn) = Turn::of(who).await else { return Err(problem.into()) };
    match look(doors, who, id, as_of).await? {
        Some(seen) => Ok(turn.lasts(made(doors, who, seen, Some(problem)).await?)),
        None => Err(problem.into()),
    }
}

/// The two ways to decide, the no first. Neither is done by a key that is pressed somewhere: the first button of the form
/// to countersign is one that does nothing, so that Enter in its field does nothing either.
pub(super) fn forms(doors: &Doors, who: &Session, seen: &Seen) -> Markup {
    let facts = |path: &str| seen.text(path);
    let has = Has::of(doors, who);
    let sure = facts("/you/takes") == "passkey";
    let digest = facts("/digest").parse::<Digest>().ok();
    let id = facts("/id");
    let bound = html! {
        (page::token(&who.form))
        input type="hidden" name="digest" value=(facts("/digest"));
        input type="hidden" name="as_of" value=(seen.as_of);
    };
    // who has neither key nor passkey is asked by the provider that let them in
    let vouched = matches!(who.means, Means::SignedIn(_));
    let provider = who.approver.split(':').next().unwrap_or_default();
    html! {
        section.decide #decide {
            h2 { "Decide" }
            @match seen.cannot_deny.as_deref() {
                None => {
                    form method="post" action={ "/holds/" (id) "/deny" } data-act="deny" {
                        (bound)
                        label for="reason" { "Why not, for the agent" }
                        input #reason name="reason" required maxlength=(REASON) autocomplete="off";
                        button type="submit" { "Deny" }
                    }
                }
                Some(why) => p.quiet { "You cannot deny it: " (why) "." },
            }
            @match seen.cannot_approve.as_deref() {
                None => {
                    form method="post" action={ "/holds/" (id) @if vouched { "/step-up" } @else { "/approve" } }
                        data-act="approve" data-rp=[doors.place.rp()] {
                        button type="submit" disabled hidden tabindex="-1" aria-hidden="true" {}
                        (bound)
                        p {
                            "You countersign this very call, with exactly the arguments above: " span.mono { (facts("/tool")) }
                            ", asked for by " (facts("/agent")) ". Digest " span.mono.digest { (facts("/digest")) } "."
                        }
                        @if let Some(bytes) = seen.long {
                            label.choice {
                                input type="checkbox" name="whole" value="read" required data-needed;
                                "I have opened and read the whole text, " (bytes) " bytes."
                            }
                        }
                        @if sure { p data-takes="passkey" { "This takes a passkey." } }
                        @if vouched {
                            p { (visible(provider)) " makes sure that it is you, and then it is countersigned." }
                            button type="submit" data-act="approve-provider" { "Countersign with " (visible(provider)) }
                        }
                        @if has.passphrase && !sure {
                            label for="passphrase" { "Your passphrase" }
                            input #passphrase name="passphrase" type="password" required autocomplete="new-password"
                                maxlength="1024" data-instead;
                            button type="submit" { "Countersign" }
                        }
                        @if let Some(digest) = digest.filter(|_| !has.passkeys.is_empty()) {
                            @match to_sign(doors, &digest.0, &has.passkeys) {
                                Ok(question) => (button(doors, "approve-passkey", false, &Asks::This(question), "Countersign with a passkey")),
                                Err(problem) => p.quiet { (problem.detail()) },
                            }
                        }
                    }
                }
                Some(why) => p.quiet data-cannot-approve { "You cannot countersign it: " (why) "." },
            }
        }
    }
}
