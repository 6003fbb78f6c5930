//! What a page's form sends, read strictly; and the proof that a page of ours sent it.

use std::sync::Arc;

use axum::{
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use zeroize::Zeroizing;

use super::{Doors, Problem, Trouble, cookie::Cookie, only, page::signed_out_from, visitor::signed_in, way_back};
use crate::{
    approver::{FormToken, Passphrase, Session},
    http::body::bytes_of,
};

/// Fields of a form.
const MOST: usize = 64;

/// The name of the field that has the form's token.
pub(super) const TOKEN: &str = "csrf";

/// A form that a signed-in approver sent from a page of ours. The one way to change something by a page.
pub(in crate::http) struct Act {
    /// Who sent it.
    pub(in crate::http) who: Session,
    /// What it says.
    pub(in crate::http) fields: Fields,
}

impl FromRequest<Arc<Doors>> for Act {
    type Rejection = Response;

    async fn from_request(request: Request, doors: &Arc<Doors>) -> Result<Self, Response> {
        let refused = |problem| Trouble(problem).into_response();
        is_own(doors, request.headers()).map_err(refused)?;
        let Some(who) = signed_in(doors, request.headers()) else { return Err(signed_out(request.headers())) };
        let mut fields = Fields::read(request).await.map_err(refused)?;
        match fields.optional(TOKEN).map_err(refused)? {
            Some(token) if who.form.is(&token) => Ok(Self { who, fields }),
            _ => Err(refused(Problem::FormRefused)),
        }
    }
}

/// A form that was sent from a page of ours by somebody who is not signed in: it brings the same token as the cookie.
pub(in crate::http) struct Knock {
    /// The token, for the page that is shown next.
    pub(in crate::http) token: FormToken,
    /// The session that there was before.
    pub(in crate::http) before: Option<Session>,
    /// What it says.
    pub(in crate::http) fields: Fields,
}

impl FromRequest<Arc<Doors>> for Knock {
    type Rejection = Response;

    async fn from_request(request: Request, doors: &Arc<Doors>) -> Result<Self, Response> {
        let refused = |problem| Trouble(problem).into_response();
        is_own(doors, request.headers()).map_err(refused)?;
        let before = signed_in(doors, request.headers());
        let token = Cookie::Form.of(request.headers(), doors.secure).and_then(FormToken::read);
        let mut fields = Fields::read(request).await.map_err(refused)?;
        match (token, fields.optional(TOKEN).map_err(refused)?) {
            (Some(token), Some(given)) if token.is(&given) => Ok(Self { token, before, fields }),
            _ => Err(refused(Problem::FormRefused)),
        }
    }
}

/// What somebody is told whose session was over when the form came: nothing was done, and the way back to its page.
fn signed_out(headers: &HeaderMap) -> Response {
    let page = only(headers, header::REFERER).and_then(|page| page.split_once("://")?.1.split_once('/'));
    let path = page.map(|(_, path)| format!("/{}", path.split(['?', '#']).next().unwrap_or_default()));
    signed_out_from(path.as_deref().and_then(way_back))
}

/// Whether a page of this very origin sent the request: browsers say where anything that changes something comes from.
///
/// # Errors
/// [`Problem::OriginNotAllowed`], also where nothing is said.
pub(in crate::http) fn is_own(doors: &Doors, headers: &HeaderMap) -> Result<(), Problem> {
    let host = only(headers, header::HOST).unwrap_or_default();
    let own = only(headers, header::ORIGIN).is_some_and(|origin| doors.place.is_own(origin, host));
    let site = headers.get_all("sec-fetch-site").iter().all(|site| site.as_bytes() == b"same-origin");
    if own && site { Ok(()) } else { Err(Problem::OriginNotAllowed) }
}

/// The fields of a form (`application/x-www-form-urlencoded`), to be taken out one by one.
pub(in crate::http) struct Fields(Vec<(String, Zeroizing<String>)>);

impl Fields {
    async fn read(request: Request) -> Result<Self, Problem> {
        let kind = only(request.headers(), header::CONTENT_TYPE).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
            || request.headers().contains_key(header::CONTENT_ENCODING)
        {
            return Err(Problem::MediaType);
        }
        Self::parse(&bytes_of(request.into_body()).await?)
    }

    fn parse(body: &[u8]) -> Result<Self, Problem> {
        let unreadable = || Problem::Invalid("the form cannot be read".to_owned());
        let mut fields: Vec<(String, Zeroizing<String>)> = Vec::new();
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let mut halves = pair.splitn(2, |byte| *byte == b'=');
            let name = decoded(halves.next().unwrap_or_default()).ok_or_else(unreadable)?;
            let value = decoded(halves.next().unwrap_or_default()).ok_or_else(unreadable)?;
            if fields.len() >= MOST || fields.iter().any(|(have, _)| *have == *name) {
                return Err(unreadable());
            }
            fields.push((name.to_string(), value));
        }
        Ok(Self(fields))
    }

    /// The text of a field that has to be there.
    pub(in crate::http) fn text(&mut self, name: &str) -> Result<Zeroizing<String>, Problem> {
        self.optional(name)?.ok_or_else(|| Problem::Invalid(format!("`{name}` is missing")))
    }

    /// The text of a field that may be there.
    pub(in crate::http) fn optional(&mut self, name: &str) -> Result<Option<Zeroizing<String>>, Problem> {
        let Some(at) = self.0.iter().position(|(have, _)| have == name) else { return Ok(None) };
        Ok(Some(self.0.swap_remove(at).1))
    }

    /// Whether there is a field of that name still.
    pub(in crate::http) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(have, _)| have == name)
    }

    /// A passphrase.
    pub(in crate::http) fn passphrase(&mut self) -> Result<Passphrase, Problem> {
        Ok(Passphrase::new(self.text("passphrase")?))
    }

    /// There is nothing else.
    pub(in crate::http) fn end(self) -> Result<(), Problem> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Problem::Invalid("the form has a field that is not known here".to_owned())),
        }
    }
}

/// A name or value as it was typed; `None` for what no browser sends.
fn decoded(text: &[u8]) -> Option<Zeroizing<String>> {
    // one allocation that is large enough: growing would leave copies behind
    let mut out = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(*digit).to_digit(16));
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => *other,
        });
    }
    std::str::from_utf8(&out).ok().map(|text| Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_strictly() {
        let mut fields = Fields::parse(b"approver=ann&passphrase=a+b%2Bc%26%C3%A9&csrf=").unwrap();
        assert_eq!(fields.text("approver").unwrap().as_str(), "ann");
        assert_eq!(fields.text("passphrase").unwrap().as_str(), "a b+c&é");
        assert_eq!(fields.optional("csrf").unwrap().unwrap().as_str(), "");
        assert!(fields.optional("csrf").unwrap().is_none());
        assert!(matches!(fields.text("reason"), Err(Problem::Invalid(_))));
        fields.end().unwrap();
        assert!(Fields::parse(b"a=1").unwrap().end().is_err());
        assert!(Fields::parse(b"").unwrap().end().is_ok());
        for wrong in ["a=1&a=2", "a=%", "a=%4", "a=%zz", "a=%ff", "%61=1&a=2", &"a".repeat(3), &many(65)] {
            let read = Fields::parse(wrong.as_bytes());
            assert!(read.is_err() || wrong == "aaa", "{wrong}");
        }
        assert!(Fields::parse(many(64).as_bytes()).is_ok());
    }

    fn many(count: usize) -> String {
        (0..count).map(|number| format!("f{number}=x")).collect::<Vec<_>>().join("&")
    }
}
