//! The token endpoint and what is published beside it: the HTTP of [`crate::authority`].
//!
//! Nothing here opens a page to other origins: whoever asks from a browser has to come from one that is let in anyway.

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE},
    http::request::Parts,
};

use super::{headers, road::Road};
use crate::{
    authority::{Asked, ENDPOINT, Form, KEYS, METADATA, NoForm, Refused},
    json::{Object, Value},
    listen::ClientCertificate,
};

/// Bytes of a token request.
pub(super) const BODY: usize = 64 << 10;

/// What of this lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Tokens are asked for.
    Token,
    /// The public key of ours.
    Keys,
    /// Authorization server metadata.
    Metadata,
}

impl Place {
    /// What is at that path.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            ENDPOINT => Some(Self::Token),
            KEYS => Some(Self::Keys),
            METADATA => Some(Self::Metadata),
            _ => None,
        }
    }

    /// The HTTP method that it is asked by.
    pub(super) fn method(self) -> Method {
        match self {
            Self::Token => Method::POST,
            Self::Keys | Self::Metadata => Method::GET,
        }
    }
}

/// An answer.
pub(super) struct Said {
    pub(super) status: StatusCode,
    pub(super) body: Vec<u8>,
    /// How a client is told to authenticate, where it tried to by a header.
    pub(super) challenge: Option<&'static str>,
}

/// What is published there; `None` where nobody gets a token.
pub(super) fn published(road: &impl Road, place: Place) -> Option<String> {
    match place {
        Place::Token => None,
        Place::Keys => Some(road.keys()),
        Place::Metadata => road.authority(),
    }
}

/// Answers a token request (RFC 6749, section 5).
pub(super) async fn token(
    road: &impl Road,
    head: &Parts,
    body: &Bytes,
    certificate: Option<&ClientCertificate>,
) -> Said {
    let asked = match read(head, body) {
        Ok((form, proof)) => road.grant(&Asked { form: &form, proof, certificate }).await,
        Err(refused) => {
            road.turned_away(refused.code());
            Err(refused)
        }
    };
    let challenge = head.headers.contains_key(AUTHORIZATION).then_some("Basic realm=\"countersign\"");
    match asked {
        Ok(granted) => Said { status: StatusCode::OK, body: Value::Object(granted).to_bytes(), challenge: None },
        Err(refused) => {
            let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::BAD_REQUEST);
            Said { status, body: told(&refused), challenge: challenge.filter(|_| status == StatusCode::UNAUTHORIZED) }
        }
    }
}

fn told(refused: &Refused) -> Vec<u8> {
    // RFC 6749, section 5.2: visible ASCII without quotes and backslashes
    let plain = |letter: char| (' '..='~').contains(&letter) && letter != '"' && letter != '\\';
    let description: String = refused.to_string().chars().filter(|letter| plain(*letter)).collect();
    let body = Object::new()
        .with("error", refused.error())
        .with("error_description", description)
        .with("reason", refused.code());
    Value::Object(body).to_bytes()
}

/// The parameters, and the proof that came along.
fn read<'h>(head: &'h Parts, body: &Bytes) -> Result<(Form, Option<&'h str>), Refused> {
    if head.uri.query().is_some() {
        return Err(Refused::Malformed("parameters go into the body, never into the URL"));
    }
    if !is_form(&head.headers) {
        let why = "the body is `application/x-www-form-urlencoded`, in UTF-8 and not compressed";
        return Err(Refused::Malformed(why));
    }
    // a client shows its key in the body; a secret would be one that this server knows too
    if head.headers.contains_key(AUTHORIZATION) {
        return Err(Refused::Client);
    }
    let twice = Refused::Malformed("the header `DPoP` is there twice, or has invalid characters");
    let proof = headers::only(&head.headers, "dpop").map_err(|_| twice)?;
    let form = Form::read(body).map_err(|NoForm(why)| Refused::Malformed(why))?;
    if form.text("client_secret").is_some() {
        return Err(Refused::Client);
    }
    Ok((form, proof))
}

fn is_form(headers: &HeaderMap) -> bool {
    if headers.contains_key(CONTENT_ENCODING) {
        return false;
    }
    let Ok(Some(declared)) = headers::only(headers, CONTENT_TYPE.as_str()) else { return false };
    let mut parts = declared.split(';').map(str::trim);
    let form = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/x-www-form-urlencoded"));
    form && parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    })
}
