//! *Verify now*: the published log computed again from its entries, in the background, one run at a time.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response},
};
use maud::{Markup, html};

use super::{
    Doors, Problem, Trouble,
    form::Act,
    page::{Page, signed_in, time, token},
    picture::grouped,
    visitor::SignedIn,
};
use crate::{
    approver::Session,
    clock::{Clock, Timestamp},
    display::visible,
    ledger::{
        Ledger,
        verify::{Report, Verdict, verify_watched},
    },
};

/// Entries that are verified here at most: each is remembered until the end, some hundred bytes of it.
const MOST: u64 = 2_000_000;

/// Seconds after which a page that shows a run looks again.
const AGAIN: u8 = 2;

/// The run that there is, or was last.
#[derive(Default)]
pub(in crate::http) struct Verifying {
    run: Mutex<Option<Run>>,
    /// Nobody is left to look at it.
    over: Arc<AtomicBool>,
}

/// One run.
#[derive(Clone)]
struct Run {
    by: String,
    began: Timestamp,
    /// Entries there are to read, and those that were.
    total: u64,
    read: Arc<AtomicU64>,
    ended: Option<(Timestamp, Result<Report, String>)>,
}

impl Drop for Verifying {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

impl Verifying {
    fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a run, if none is under way. It ends by itself, and soon after nobody holds this any more.
    fn begin(this: &Arc<Self>, ledger: Ledger, data: PathBuf, clock: Clock, by: &str) {
        let mut run = this.run();
        if run.as_ref().is_some_and(|run| run.ended.is_none()) {
            return;
        }
        let read = Arc::new(AtomicU64::new(0));
        let (by, began, total) = (by.to_owned(), clock.now(), ledger.size());
        *run = Some(Run { by, began, total, read: Arc::clone(&read), ended: None });
        drop(run);
        let (over, whose) = (Arc::clone(&this.over), Arc::downgrade(this));
        tokio::spawn(async move {
            let report = verified(&ledger, data, read, over).await;
            let Some(verifying) = whose.upgrade() else { return };
            if let Some(run) = verifying.run().as_mut() {
                run.ended = Some((clock.now(), report));
            }
        });
    }
}

async fn verified(
    ledger: &Ledger,
    data: PathBuf,
    read: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> Result<Report, String> {
    // what is verified is what is published: everything so far, once this is done
    ledger.checkpoint().await.map_err(|fault| fault.0)?;
    let key = ledger.verifier_key();
    let work = tokio::task::spawn_blocking(move || {
        verify_watched(&data, &[], Some(key.trim_end()), &mut |entries| {
            read.store(entries, Ordering::Release);
            !over.load(Ordering::Acquire)
        })
    });
    work.await.map_err(|_| "it was cut short".to_owned())
}

/// Begins a run, and leads to how it goes.
pub(super) async fn verify(State(doors): State<Arc<Doors>>, Act { who, fields }: Act) -> Result<Response, Trouble> {
    fields.end()?;
    let (ledger, clock) = (doors.pipeline.ledger.clone(), doors.pipeline.clock.clone());
    if ledger.size() > MOST {
        return Err(Trouble(Problem::Invalid(format!(
            "more than {} entries are verified by `countersign ledger verify`, not here",
            grouped(MOST)
        ))));
    }
    Verifying::begin(&doors.desk.verifying, ledger, doors.data.clone(), clock, &who.approver);
    Ok(Redirect::to("/ledger/verify").into_response())
}

/// How the run goes, or what the last one came to.
pub(super) async fn page(State(doors): State<Arc<Doors>>, SignedIn(who): SignedIn) -> Response {
    let run = doors.desk.verifying.run().clone();
    let runs = run.as_ref().is_some_and(|run| run.ended.is_none());
    let main = html! {
        p.quiet { a href="/ledger" { "Ledger" } }
        h1 { "Verification" }
        @match &run {
            None => p.none { "Nobody has had it verified since the server started." },
            Some(run) => (told(run)),
        }
        @if !runs { (button(&who)) }
        p.quiet {
            "The published log is computed again from its entries, and held against its checkpoint and this server's own key. What no computation can find is
             that the server itself is not to be trusted: for that, verify a copy elsewhere, against a checkpoint that you kept. "
            code { "countersign ledger verify --data COPY --key ledger.pub --pin checkpoint.txt" }
        }
    };
    let again = runs.then_some((AGAIN, "/ledger/verify"));
    let page = Page { name: "verify", title: "Verification", section: "/ledger", refresh: again, ..Page::default() };
    signed_in(&doors, &who, StatusCode::OK, &page, &main)
}

/// The button that begins one.
pub(super) fn button(who: &Session) -> Markup {
    html! {
        form method="post" action="/ledger/verify" data-act="verify" {
            (token(&who.form))
            button type="submit" { "Verify now" }
        }
    }
}

fn told(run: &Run) -> Markup {
    let read = run.read.load(Ordering::Acquire).min(run.total);
    html! {
        dl.facts {
            dt { "begun" } dd { (time(run.began)) " by " (visible(&run.by)) }
            @match &run.ended {
                None => {
                    dt { "read" }
                    dd data-verifying=(read) {
                        progress max=(run.total.max(1)) value=(read) { }
                        " " (grouped(read)) " of " (grouped(run.total)) " entries"
                    }
                }
                Some((at, _)) => { dt { "ended" } dd { (time(*at)) } }
            }
        }
        @match &run.ended {
            None => p { a href="/ledger/verify" { "Look again" } },
            Some((_, Ok(report))) => (reported(report)),
            Some((_, Err(why))) => p.problem role="alert" { "It could not be verified: " (visible(why)) },
        }
    }
}

fn reported(report: &Report) -> Markup {
    let (word, class, says) = match report.verdict {
        Verdict::Holds => ("holds", "good", "It holds: nothing was edited, dropped, reordered or cut off."),
        Verdict::Tampered => ("tampered", "bad", "It was tampered with."),
        Verdict::CannotTell => ("cannot_tell", "bad", "It cannot be told."),
    };
    html! {
        p class=(class) data-verdict=(word) { strong { (says) } }
        dl.facts {
            dt { "entries" } dd { (grouped(report.entries)) }
            dt { "signed" } dd { (grouped(report.signed.unwrap_or(0))) }
            dt { "root" } dd { code { (report.root) } }
            @if let Some(key) = &report.key { dt { "key" } dd { code { (visible(key)) } } }
            @if let Some(seq) = report.first_bad {
                dt { "first bad entry" } dd { a href={ "/ledger/" (seq) } { (seq) } }
            }
        }
        @for (name, lines) in [("Problems", &report.problems), ("Doubts", &report.doubts), ("Remarks", &report.remarks)] {
            @if !lines.is_empty() {
                h2 { (name) }
                ul { @for line in lines { li { (visible(line)) } } }
            }
        }
    }
}
