//! What every page has: head, navigation, the way out; and how problems are told.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{DOCTYPE, Markup, html};

use super::{Doors, Problem, SECTIONS, form::TOKEN, hold::marked};
use crate::{
    approver::{FormToken, Session},
    clock::Timestamp,
    display::visible,
    hold::Book,
};

/// What pages may do: nothing but what is theirs, no script or style that is not a file of ours, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Everything that a browser could do for a page and that no page of ours needs, but passkeys.
const PERMISSIONS: &str = "publickey-credentials-get=(self), publickey-credentials-create=(self), accelerometer=(), \
                           camera=(), clipboard-read=(), display-capture=(), fullscreen=(), geolocation=(), \
                           gyroscope=(), hid=(), local-fonts=(), magnetometer=(), microphone=(), midi=(), payment=(), \
                           screen-wake-lock=(), serial=(), usb=(), xr-spatial-tracking=()";

/// One page, but for what is in its middle.
#[derive(Default)]
pub(super) struct Page<'a> {
    /// `data-page`: which one it is.
    pub(super) name: &'static str,
    /// What the window is called, before the product's name.
    pub(super) title: &'a str,
    /// The section of the navigation that it is in: its path.
    pub(super) section: &'static str,
    /// Modules of ours that it runs, below `/assets/`.
    pub(super) scripts: &'static [&'static str],
    /// The page to go to, and after how many seconds.
    pub(super) refresh: Option<(u8, &'a str)>,
}

/// A page for somebody who is signed in.
pub(super) fn signed_in(doors: &Doors, who: &Session, status: StatusCode, page: &Page<'_>, main: &Markup) -> Response {
    let waiting = doors.pipeline.ledger.holds(Book::counts).pending;
    let top = html! {
        header.top {
            nav aria-label="Sections" {
                @for (path, name) in SECTIONS {
                    a href=(path) aria-current=[(path == page.section).then_some("page")] {
                        (name)
                        @if path == "/waiting" {
                            " " span.count data-waiting=(waiting) { (waiting) }
                        }
                    }
                }
            }
            form.out method="post" action="/sign-out" {
                (token(&who.form))
                a.who href="/keys" title="Your keys" data-approver=(visible(&who.approver)) { (visible(&who.approver)) }
                button type="submit" { "Sign out" }
            }
        }
    };
    document(status, page, &top, main)
}

/// A page for anybody.
pub(super) fn plain(status: StatusCode, page: &Page<'_>, main: &Markup) -> Response {
    let top = html! { header.top { span.brand { "Countersign" } } };
    document(status, page, &top, main)
}

fn document(status: StatusCode, page: &Page<'_>, top: &Markup, main: &Markup) -> Response {
    let whole = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                @if let Some((after, to)) = page.refresh { meta http-equiv="refresh" content={ (after) "; url=" (to) }; }
                title { (page.title) " · Countersign" }
                link rel="stylesheet" href="/assets/console.css";
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                @for script in page.scripts {
                    script type="module" src={ "/assets/" (script) } {}
                }
            }
            body data-page=(page.name) {
                a.skip href="#main" { "Skip to the content" }
                (top)
                main #main tabindex="-1" { (main) }
            }
        }
    };
    let mut response = (status, whole.into_string()).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", POLICY),
        ("permissions-policy", PERMISSIONS),
        ("cross-origin-opener-policy", "same-origin"),
        // no address of ours reaches others; with `no-referrer` browsers would not say where a form comes from
        ("referrer-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The hidden field that every form of ours has.
pub(super) fn token(token: &FormToken) -> Markup {
    html! { input type="hidden" name=(TOKEN) value=(token.reveal()); }
}

/// What is wrong, on the page where it can be put right.
pub(super) fn notice(problem: &Problem) -> Markup {
    html! {
        p.problem role="alert" data-problem=(problem.code()) {
            (sentence(problem))
            @if let Some(seconds) = problem.retry_after() { " Wait " (seconds) " s." }
        }
    }
}

/// The same as a sentence.
fn sentence(problem: &Problem) -> String {
    let detail = match problem {
        Problem::SessionMissing | Problem::SessionUnknown => {
            "you are not signed in any more: nothing was done".to_owned()
        }
        Problem::MediaType => "this is no form of ours".to_owned(),
        Problem::LoginRefused => "no approver has this name and this passphrase".to_owned(),
        other => visible(&other.detail()),
    };
    let mut letters = detail.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// A problem as a page of its own.
#[derive(Debug)]
pub(in crate::http) struct Trouble(pub(in crate::http) Problem);

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        trouble(&self.0, None)
    }
}

/// What somebody is told whose session was over when a form of theirs came: nothing was done, and how to go back.
pub(super) fn signed_out_from(page: Option<&str>) -> Response {
    trouble(&Problem::SessionUnknown, page)
}

fn trouble(problem: &Problem, back: Option<&str>) -> Response {
    let signed_out = matches!(problem, Problem::SessionMissing | Problem::SessionUnknown);
    let title = problem.status().canonical_reason().unwrap_or("Problem");
    let main = html! {
        h1 { (title) }
        (notice(problem))
        p {
            @match (signed_out, back) {
                (true, Some(back)) => a href={ "/sign-in?next=" (back) } { "Sign in, and go back" },
                (true, None) => a href="/sign-in" { "Sign in" },
                (false, _) => a href="/waiting" { "What waits" },
            }
        }
    };
    let page = Page { name: "problem", title, ..Page::default() };
    let mut response = plain(problem.status(), &page, &main);
    if let Some(seconds) = problem.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

impl<P: Into<Problem>> From<P> for Trouble {
    fn from(problem: P) -> Self {
        Self(problem.into())
    }
}

/// A time, to the second.
pub(super) fn time(at: Timestamp) -> Markup {
    let text = format!("{at:.0}");
    html! { time datetime=(text) { (text.replace('T', " ").replace('Z', " UTC")) } }
}

/// A text of others in a line of ours: in its own box, with what hides in it written out.
pub(super) fn theirs(text: &str) -> Markup {
    html! { span.theirs dir="ltr" { (marked(&visible(text))) } }
}

/// One part of a path, whatever is in it.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // a dot too: `.` and `..` would be steps
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_in_a_part_of_a_path_stays_in_it() {
        assert_eq!(segment("bank__pay-out"), "bank__pay-out");
        assert_eq!(segment("../a b?x=1#\"é"), "%2E%2E%2Fa%20b%3Fx%3D1%23%22%C3%A9");
    }

    #[test]
    fn a_problem_is_told_as_a_sentence_that_hides_nothing() {
        let said = notice(&Problem::Invalid("`\u{202e}<b>` is wrong".to_owned())).into_string();
        assert!(said.contains("`&lt;U+202E&gt;&lt;b&gt;` is wrong."), "{said}");
        assert!(said.contains("data-problem=\"invalid_request\""), "{said}");
    }
}
