//! What a request says, read strictly: nothing twice, nothing unknown, nothing of another type.

use axum::{
    body::Body,
    extract::{FromRequest, Query, Request},
    http::{HeaderMap, Uri, header},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use zeroize::Zeroizing;

use super::Problem;
use crate::{
    approver::Passphrase,
    http::body::{LARGEST, bytes_of},
    json::{self, Digest, Limits, Object, Value},
};

/// Bounds on a body.
const LIMITS: Limits = Limits { bytes: LARGEST, depth: 4, nodes: 64 };

/// The members of a JSON object, to be taken out one by one. The one way to read a body, and every operation that changes
/// something reads one: a form of any page could send the other types without asking.
pub(super) struct Form(Object);

impl<S: Sync> FromRequest<S> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::MediaType);
        }
        Self::read(request.into_body()).await
    }
}

impl Form {
    async fn read(body: Body) -> Result<Self, Problem> {
        Self::parse(&bytes_of(body).await?)
    }

    fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        match json::parse(bytes, &LIMITS) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(Problem::Invalid("the body has to be a JSON object".to_owned())),
            Err(error) => Err(Problem::Parse(error.kind)),
        }
    }

    /// The text of a member that has to be there.
    pub(super) fn text(&mut self, name: &str) -> Result<Zeroizing<String>, Problem> {
        match self.0.remove(name) {
            Some(Value::String(text)) => Ok(Zeroizing::new(text)),
            Some(_) => Err(Problem::Invalid(format!("`{name}` has to be a string"))),
            None => Err(Problem::Invalid(format!("`{name}` is missing"))),
        }
    }

    /// A passphrase.
    pub(super) fn passphrase(&mut self) -> Result<Passphrase, Problem> {
        Ok(Passphrase::new(self.text("passphrase")?))
    }

    /// Bytes, written as base64url without padding.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Vec<u8>, Problem> {
        self.optional_bytes(name)?.ok_or_else(|| Problem::Invalid(format!("`{name}` is missing")))
    }

    /// Such bytes, if they are given.
    pub(super) fn optional_bytes(&mut self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => BASE64URL
                .decode(text)
                .map(Some)
                .map_err(|_| Problem::Invalid(format!("`{name}` has to be base64url without padding"))),
            Some(_) => Err(Problem::Invalid(format!("`{name}` has to be a string"))),
        }
    }

    /// The members of a member, if it is given.
    pub(super) fn form(&mut self, name: &str) -> Result<Option<Self>, Problem> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(Self(members))),
            Some(_) => Err(Problem::Invalid(format!("`{name}` has to be an object"))),
        }
    }

    /// A hold's digest.
    pub(super) fn digest(&mut self) -> Result<Digest, Problem> {
        let text = self.text("digest")?;
        text.parse().map_err(|error| Problem::Invalid(format!("`digest`: {error}")))
    }

    /// There is nothing else.
    pub(super) fn end(self) -> Result<(), Problem> {
        match self.0.iter().next() {
            None => Ok(()),
            Some((name, _)) => Err(unknown(name)),
        }
    }
}

/// `application/json`, in UTF-8 and not compressed.
fn is_json(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let only = kinds.next().filter(|_| kinds.next().is_none()).and_then(|kind| kind.to_str().ok());
    let Some(mut parts) = only.map(|kind| kind.split(';').map(str::trim)) else { return false };
    let json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    let utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    json && utf8 && !headers.contains_key(header::CONTENT_ENCODING)
}

fn unknown(name: &str) -> Problem {
    let name: String = name.chars().take(64).collect();
    Problem::Invalid(format!("`{}` is not known here", name.escape_debug()))
}

/// The parameters behind the `?`, to be taken out one by one.
pub(in crate::http) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(in crate::http) fn of(uri: &Uri) -> Result<Self, Problem> {
        let read = Query::<Vec<(String, String)>>::try_from_uri(uri);
        read.map(|Query(pairs)| Self(pairs)).map_err(|_| Problem::Invalid("the query cannot be read".to_owned()))
    }

    /// A parameter, if it is given; twice is an error.
    pub(in crate::http) fn text(&mut self, name: &str) -> Result<Option<String>, Problem> {
        let Some(at) = self.0.iter().position(|(have, _)| have == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(at);
        if self.0.iter().any(|(have, _)| have == name) {
            return Err(Problem::Invalid(format!("`{name}` is given twice")));
        }
        Ok(Some(value))
    }

    /// A whole number, if it is given.
    pub(in crate::http) fn number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        number(&text).map(Some).ok_or_else(|| Problem::Invalid(format!("`{name}` has to be a whole number")))
    }

    /// How many at most: at least 1, no more than `most`, `usual` when nothing is said.
    pub(in crate::http) fn limit(&mut self, usual: usize, most: usize) -> Result<usize, Problem> {
        match self.number("limit")? {
            None => Ok(usual),
            Some(asked) => usize::try_from(asked)
                .ok()
                .filter(|asked| (1..=most).contains(asked))
                .ok_or_else(|| Problem::Invalid(format!("`limit` has to be between 1 and {most}"))),
        }
    }

    /// There is nothing else.
    pub(in crate::http) fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(unknown(name)),
        }
    }
}

/// A whole number of digits alone, within I-JSON.
pub(in crate::http) fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|number| *number < 1 << 53)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    async fn code(problem: Problem) -> String {
        let response = problem.into_response();
        let bytes = axum::body::to_bytes(response.into_body(), 4_096).await.unwrap();
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        body["code"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn a_body_is_read_strictly() {
        let read = |text: &str| {
            let mut form = Form::parse(text.as_bytes())?;
            let digest = form.digest()?;
            let reason = form.text("reason")?;
            form.end()?;
            Ok::<_, Problem>((digest, reason))
        };
        let digest = Digest::of(b"hold").to_string();
        let fine = format!(r#"{{"digest":"{digest}","reason":"no"}}"#);
        assert_eq!(read(&fine).unwrap().1.as_str(), "no");
        for (from, to, expected) in [
            ("{", "[", "parse_error"),
            (r#""reason":"no""#, r#""reason":"no","reason":"yes""#, "parse_error"),
            (r#""reason":"no""#, r#""reason":"no","re\u0061son":"yes""#, "parse_error"),
            (r#""reason":"no""#, r#""reason":"no","more":1"#, "invalid_request"),
            (r#""reason":"no""#, r#""reason":null"#, "invalid_request"),
            (r#""reason":"no""#, r#""Reason":"no""#, "invalid_request"),
            ("sha256:", "sha512:", "invalid_request"),
            ("sha256:", "SHA256:", "invalid_request"),
            (r#""reason":"no""#, r#""reason":"\ud800""#, "parse_error"),
        ] {
            let text = fine.replacen(from, to, 1);
            assert_ne!(text, fine);
            assert_eq!(code(read(&text).unwrap_err()).await, expected, "{text}");
        }
        for text in ["", "null", "[]", "\u{feff}{}", "{}{}", &"[".repeat(100)] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_any_page_could_send_is_not_json() {
        let json = |kinds: &[&str]| {
            let mut headers = HeaderMap::new();
            for kind in kinds {
                headers.append(header::CONTENT_TYPE, kind.parse().unwrap());
            }
            is_json(&headers)
        };
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/json;charset=\"UTF-8\""] {
            assert!(json(&[kind]), "{kind}");
        }
        assert!(!json(&["application/json", "application/json"]) && !json(&[]));
        for kind in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "application/jsonp",
            "text/json",
            "application/json; charset=utf-16",
            "application/json, text/plain",
            "text/plain; application/json",
            "",
        ] {
            assert!(!json(&[kind]), "{kind}");
        }
        let mut compressed = HeaderMap::new();
        compressed.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        compressed.insert(header::CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(!is_json(&compressed));
    }

    #[tokio::test]
    async fn a_query_is_read_strictly() {
        let read = |query: &str| {
            let mut parameters = Parameters::of(&format!("/x{query}").parse::<Uri>().unwrap())?;
            let found = (parameters.text("state")?, parameters.number("from")?, parameters.limit(50, 200)?);
            parameters.end()?;
            Ok::<_, Problem>(found)
        };
        assert_eq!(read("").unwrap(), (None, None, 50));
        assert_eq!(read("?from=7&state=pending&limit=200").unwrap(), (Some("pending".to_owned()), Some(7), 200));
        for query in [
            "?limit=0",
            "?limit=201",
            "?limit=-1",
            "?limit=",
            "?from=%2B7",
            "?from=1e3",
            "?from=9007199254740992",
            "?state=a&state=b",
            "?State=a",
            "?x",
        ] {
            assert_eq!(code(read(query).unwrap_err()).await, "invalid_request", "{query}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_too_large_is_not_read() {
        let large = Body::from(vec![b' '; (64 << 10) + 1]);
        let Err(problem) = Form::read(large).await else { panic!("it was read") };
        assert_eq!(code(problem).await, "too_large");
        assert!(Form::read(Body::from("{}")).await.is_ok());
    }
}
