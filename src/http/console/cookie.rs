//! Cookies: one for a session, one for the forms that come before it.

use axum::http::{HeaderMap, HeaderValue, header};
use zeroize::Zeroizing;

use crate::approver::{FormToken, Sessions, Token};

/// Which of the two cookies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cookie {
    /// A session's token.
    Session,
    /// The token of forms that are filled in before there is a session.
    Form,
    /// A sign-in with an identity provider that was begun. It comes along when the provider leads back here.
    Attempt,
}

impl Cookie {
    /// Its name. With the prefix browsers take it from nobody but this very host by TLS (RFC 6265bis, section 4.1.3.2).
    fn name(self, secure: bool) -> &'static str {
        match (self, secure) {
            (Self::Session, true) => "__Host-countersign",
            (Self::Session, false) => "countersign",
            (Self::Form, true) => "__Host-countersign-form",
            (Self::Form, false) => "countersign-form",
            (Self::Attempt, true) => "__Host-countersign-attempt",
            (Self::Attempt, false) => "countersign-attempt",
        }
    }

    /// Its value. There is none where several came: who can set cookies for this host by other ways could put theirs
    /// before ours.
    pub(super) fn of(self, headers: &HeaderMap, secure: bool) -> Option<&str> {
        let name = self.name(secure);
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut values = pairs.filter(|(have, _)| *have == name).map(|(_, value)| value);
        let value = values.next()?;
        values.next().is_none().then_some(value)
    }

    /// Which requests of other sites it goes with: none, or those that lead somebody here.
    fn sites(self) -> &'static str {
        match self {
            Self::Session | Self::Form => "SameSite=Strict",
            Self::Attempt => "Max-Age=600; SameSite=Lax",
        }
    }

    /// The header that sets it, for as long as the browser runs, or as what it is for takes.
    fn set(self, value: &str, secure: bool) -> Option<HeaderValue> {
        let secure_only = if secure { "; Secure" } else { "" };
        let (name, sites) = (self.name(secure), self.sites());
        let line = Zeroizing::new(format!("{name}={value}; Path=/; HttpOnly; {sites}{secure_only}"));
        let mut line = HeaderValue::from_str(&line).ok()?;
        line.set_sensitive(true);
        Some(line)
    }

    /// The header that takes it away.
    pub(super) fn unset(self, secure: bool) -> Option<HeaderValue> {
        let secure_only = if secure { "; Secure" } else { "" };
        let name = self.name(secure);
        HeaderValue::from_str(&format!("{name}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict{secure_only}")).ok()
    }
}

/// The header that begins a session in the browser; its token opens pages from then on, and nothing else.
pub(super) fn of_session(token: &Token, sessions: &Sessions, secure: bool) -> Option<HeaderValue> {
    sessions.for_pages(token);
    Cookie::Session.set(token.reveal(), secure)
}

/// The header that keeps a sign-in that was begun.
pub(super) fn of_attempt(sealed: &str, secure: bool) -> Option<HeaderValue> {
    Cookie::Attempt.set(sealed, secure)
}

/// The header that keeps the token of forms before there is a session.
pub(super) fn of_form(token: &FormToken, secure: bool) -> Option<HeaderValue> {
    Cookie::Form.set(token.reveal(), secure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_counts_when_it_came_once() {
        let of = |lines: &[&str], secure| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::COOKIE, line.parse().unwrap());
            }
            Cookie::Session.of(&headers, secure).map(str::to_owned)
        };
        assert_eq!(of(&["countersign=a"], false).as_deref(), Some("a"));
        assert_eq!(of(&["x=1; countersign=a;countersign-form=b"], false).as_deref(), Some("a"));
        assert_eq!(of(&["x=1", "countersign=a=b"], false).as_deref(), Some("a=b"));
        assert_eq!(of(&["__Host-countersign=a; countersign=b"], true).as_deref(), Some("a"));
        for (lines, secure) in [
            (&["countersign=a; countersign=b"][..], false),
            (&["countersign=a", "countersign=a"], false),
            (&["countersign=a"], true),
            (&["__Host-countersign=a"], false),
            (&["Countersign=a"], false),
            (&["xcountersign=a"], false),
            (&["countersign"], false),
            (&[], false),
        ] {
            assert_eq!(of(lines, secure), None, "{lines:?}");
        }
    }

    #[test]
    fn scripts_and_other_sites_never_get_a_cookie() {
        let token = FormToken::new().unwrap();
        let plain = of_form(&token, false).unwrap();
        assert!(plain.is_sensitive());
        let plain = plain.to_str().unwrap();
        assert_eq!(plain, format!("countersign-form={}; Path=/; HttpOnly; SameSite=Strict", token.reveal()));
        let secure = Cookie::Session.set("x", true).unwrap();
        assert_eq!(secure.to_str().unwrap(), "__Host-countersign=x; Path=/; HttpOnly; SameSite=Strict; Secure");
        let gone = Cookie::Session.unset(true).unwrap();
        assert_eq!(gone.to_str().unwrap(), "__Host-countersign=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict; Secure");
    }
}
