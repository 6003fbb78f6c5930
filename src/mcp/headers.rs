//! What the headers of an HTTP request have to say before its body is believed.

use std::{borrow::Cow, net::SocketAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING},
};

use super::{
    message::Method,
    problem::{Problem, VERSIONS},
};
use crate::{
    contract::ParamHeader,
    identity::Scheme,
    json::{Object, Value},
};

/// The one value of a header: `None` when it is not there.
///
/// # Errors
/// [`Problem::HeaderMismatch`] when it is there twice, or holds anything but visible ASCII, space and tab.
pub(super) fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::HeaderMismatch(format!("`{name}` is there twice")));
    }
    let text = value.to_str().map_err(|_| Problem::HeaderMismatch(format!("`{name}` has invalid characters")))?;
    Ok(Some(text))
}

/// Who may be named in `Host` and `Origin`.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    hosts: Vec<String>,
    origins: Vec<String>,
}

impl Allowed {
    /// What `listen` (spoken to by `scheme`) and `url` imply, and what is configured besides.
    pub(super) fn new(
        listen: SocketAddr,
        scheme: &str,
        url: Option<&str>,
        hosts: &[String],
        origins: &[String],
    ) -> Self {
        let port = listen.port();
        let mut own: Vec<String> = vec![listen.to_string()];
        let names = ["localhost", "127.0.0.1", "[::1]"];
        own.extend(names.iter().map(|name| format!("{name}:{port}")));
        if port == if scheme == "https" { 443 } else { 80 } {
            own.extend(names.iter().map(|&name| name.to_owned()));
        }
        let mut allowed_origins: Vec<String> = own.iter().map(|host| format!("{scheme}://{host}")).collect();
        if let Some((scheme, authority)) = url.and_then(|url| {
            let url: Uri = url.parse().ok()?;
            Some((url.scheme_str()?.to_ascii_lowercase(), url.authority()?.as_str().to_ascii_lowercase()))
        }) {
            allowed_origins.push(format!("{scheme}://{authority}"));
            let default = if scheme == "https" { ":443" } else { ":80" };
            if !authority.trim_start_matches('[').contains(':') {
                own.push(format!("{authority}{default}"));
            }
            own.push(authority);
        }
        own.extend(hosts.iter().map(|host| host.to_ascii_lowercase()));
        allowed_origins.extend(origins.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()));
        Self { hosts: own, origins: allowed_origins }
    }

    /// Checks `Host`, and the authority of an absolute request target where there is one (RFC 9112, 3.2).
    ///
    /// # Errors
    /// [`Problem::HostNotAllowed`]
    pub(super) fn host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let allowed = |host: &str| self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host));
        let host = only(headers, HOST.as_str()).ok().flatten().ok_or(Problem::HostNotAllowed)?;
        let target = uri.authority().is_none_or(|authority| allowed(authority.as_str()));
        if allowed(host) && target { Ok(()) } else { Err(Problem::HostNotAllowed) }
    }

    /// Checks `Origin`: browsers send it, others need not.
    ///
    /// # Errors
    /// [`Problem::OriginNotAllowed`]
    pub(super) fn origin(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match only(headers, ORIGIN.as_str()) {
            Ok(None) => Ok(()),
            Ok(Some(origin)) if self.origins.iter().any(|known| known.eq_ignore_ascii_case(origin)) => Ok(()),
            _ => Err(Problem::OriginNotAllowed),
        }
    }
}

/// Refuses a request whose length can be read in two ways (RFC 9112, 6.1 and 6.3).
///
/// # Errors
/// [`Problem::BadFraming`]
pub(super) fn framing(headers: &HeaderMap) -> Result<(), Problem> {
    let several = headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some();
    let coded = headers.contains_key(TRANSFER_ENCODING);
    let chunked_only = headers.get_all(TRANSFER_ENCODING).iter().all(|value| value.as_bytes() == b"chunked");
    if several || (coded && (headers.contains_key(CONTENT_LENGTH) || !chunked_only)) {
        return Err(Problem::BadFraming);
    }
    Ok(())
}

/// What a request was sent with. It is never shown.
#[derive(Clone, Copy, Default)]
pub(super) struct Sent<'h> {
    /// The token, without the word before it.
    pub(super) token: Option<&'h str>,
    /// That word.
    pub(super) scheme: Scheme,
    /// The proof that its key is at hand (RFC 9449).
    pub(super) proof: Option<&'h str>,
}

/// The token, RFC 6750, section 2.1, and RFC 9449, section 7.1.
///
/// # Errors
/// `()` when there is something that is no single token of a scheme that is known, several proofs, or a token in the query.
pub(super) fn credential<'h>(uri: &Uri, headers: &'h HeaderMap) -> Result<Sent<'h>, ()> {
    let in_the_url =
        |query: &str| url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "access_token");
    if uri.query().is_some_and(in_the_url) {
        return Err(());
    }
    let proof = only(headers, "dpop").map_err(drop)?;
    let Some(value) = only(headers, AUTHORIZATION.as_str()).map_err(drop)? else {
        return Ok(Sent { proof, ..Sent::default() });
    };
    let (scheme, token) = value.split_once(' ').ok_or(())?;
    let scheme = match scheme {
        bearer if bearer.eq_ignore_ascii_case("bearer") => Scheme::Bearer,
        dpop if dpop.eq_ignore_ascii_case("dpop") => Scheme::Dpop,
        _ => return Err(()),
    };
    let token = token.trim_start_matches(' ');
    let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    if plain { Ok(Sent { token: Some(token), scheme, proof }) } else { Err(()) }
}

/// Checks that the body is declared to be plain JSON in UTF-8.
///
/// # Errors
/// [`Problem::MediaType`]
pub(super) fn json_body(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Problem::MediaType);
    }
    let declared = only(headers, CONTENT_TYPE.as_str()).ok().flatten().ok_or(Problem::MediaType)?;
    let mut parts = declared.split(';').map(str::trim);
    let json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    let utf8 = parts.all(|parameter| match parameter.split_once('=') {
        Some((name, value)) if name.trim().eq_ignore_ascii_case("charset") => {
            value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        }
        _ => true,
    });
    if json && utf8 { Ok(()) } else { Err(Problem::MediaType) }
}

/// Checks that the client takes one of the forms in which it can be answered. Clients that say nothing take any.
///
/// # Errors
/// [`Problem::NotAcceptable`]
pub(super) fn acceptable(headers: &HeaderMap, forms: &[&str]) -> Result<(), Problem> {
    let mut said = headers.get_all(ACCEPT).iter().peekable();
    if said.peek().is_none() {
        return Ok(());
    }
    let fits = said.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let refused = parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
        let matches = |form: &&str| {
            let group = form.split('/').next().unwrap_or_default();
            kind == "*/*"
                || kind.eq_ignore_ascii_case(form)
                || kind.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(group))
        };
        !refused && forms.iter().any(matches)
    });
    if fits { Ok(()) } else { Err(Problem::NotAcceptable) }
}

/// The protocol generation of a message: from its header on HTTP, and from what its body says.
///
/// A request is modern when its header says 2026-07-28; then its body has to say the same. A header of an
/// older revision, or none, is legacy, and a body that says otherwise is a downgrade that is refused.
///
/// # Errors
/// [`Problem::HeaderMismatch`], [`Problem::UnsupportedVersion`], [`Problem::InvalidParams`].
pub(super) fn modern(header: Option<&str>, meta: Option<&Object>, is_request: bool) -> Result<bool, Problem> {
    let body = meta.and_then(|meta| meta.get(VERSION_KEY));
    let said = match body {
        None => None,
        Some(Value::String(said)) => Some(said.as_str()),
        Some(_) => return Err(Problem::InvalidParams(format!("`_meta` needs a string `{VERSION_KEY}`"))),
    };
    let differs = || Problem::HeaderMismatch("`MCP-Protocol-Version` does not say what the body says".to_owned());
    match (header, said) {
        (None, None) => Ok(false),
        (None, Some(_)) => Err(Problem::HeaderMismatch("`MCP-Protocol-Version` is missing".to_owned())),
        (Some(header), Some(said)) if header != said => Err(differs()),
        (Some(header), said) if header == VERSIONS[0] => match said {
            None if is_request => {
                Err(Problem::InvalidParams(format!("`_meta` needs `{VERSION_KEY}` in this revision")))
            }
            _ => Ok(true),
        },
        (Some(header), None) if VERSIONS.contains(&header) => Ok(false),
        (Some(header), Some(_)) if VERSIONS.contains(&header) => Err(differs()),
        (Some(header), _) => Err(Problem::UnsupportedVersion(crate::call::cut(header, 64).to_owned())),
    }
}

/// The name under which a request's `_meta` says its protocol revision.
pub(super) const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// Checks the headers that repeat the method and the name (MCP 2026-07-28, streamable HTTP, "Standard Request
/// Headers"; the tasks extension, "Routing Headers").
///
/// # Errors
/// [`Problem::HeaderMismatch`]
pub(super) fn mirrored(headers: &HeaderMap, method: &str, params: &Object) -> Result<(), Problem> {
    if only(headers, "mcp-method")? != Some(method) {
        return Err(Problem::HeaderMismatch("`Mcp-Method` is not the body's `method`".to_owned()));
    }
    let source = match Method::read(method, true) {
        Some(Method::CallTool | Method::GetPrompt) => "name",
        Some(Method::ReadResource) => "uri",
        Some(Method::GetTask | Method::UpdateTask | Method::CancelTask) => "taskId",
        _ => return Ok(()),
    };
    let name = only(headers, "mcp-name")?.map(|value| decode("Mcp-Name", value)).transpose()?;
    match (name, params.get(source).and_then(Value::as_str)) {
        (Some(header), Some(body)) if header == body => Ok(()),
        _ => Err(Problem::HeaderMismatch(format!("`Mcp-Name` is not the body's `{source}`"))),
    }
}

/// Checks the headers that repeat arguments (MCP 2026-07-28, "Server Behavior for Custom Headers").
///
/// # Errors
/// [`Problem::HeaderMismatch`]
pub(super) fn repeated(headers: &HeaderMap, declared: &[ParamHeader], arguments: &Value) -> Result<(), Problem> {
    declared.iter().try_for_each(|parameter| {
        let at = parameter.path.iter().try_fold(arguments, |at, name| at.get(name));
        let header = only(headers, &parameter.header)?.map(|value| decode(&parameter.header, value)).transpose()?;
        let same = match (at, header) {
            (None | Some(Value::Null), None) => true,
            (Some(Value::String(body)), Some(header)) => header == body.as_str(),
            (Some(Value::Bool(body)), Some(header)) => header == if *body { "true" } else { "false" },
            (Some(Value::Number(body)), Some(header)) => {
                matches!((integer(body.text()), integer(&header)), (Some(body), Some(header)) if body == header)
            }
            _ => false,
        };
        if same {
            Ok(())
        } else {
            Err(Problem::HeaderMismatch(format!("`{}` is not what the arguments say", parameter.header)))
        }
    })
}

/// An integer within ±(2^53−1), also when it is written `42.0`.
fn integer(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let none = !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0');
    let value: i64 = if plain && none { whole.parse().ok()? } else { return None };
    (value.unsigned_abs() < 1 << 53).then_some(value)
}

/// A header's value without its Base64 wrapping, if it has one (MCP 2026-07-28, "Value Encoding").
fn decode<'v>(name: &str, value: &'v str) -> Result<Cow<'v, str>, Problem> {
    let value = value.trim_matches([' ', '\t']);
    let Some(wrapped) = value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) else {
        return Ok(Cow::Borrowed(value));
    };
    let bytes = STANDARD.decode(wrapped).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    bytes.map(Cow::Owned).ok_or_else(|| Problem::HeaderMismatch(format!("`{name}` is not valid Base64 of UTF-8")))
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::json::{Limits, parse};

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        map
    }

    fn tree(text: &str) -> Value {
        parse(text.as_bytes(), &Limits::REQUEST).unwrap()
    }

    #[test]
    fn only_known_hosts_are_let_in() {
        let allowed = Allowed::new(
            "127.0.0.1:7400".parse().unwrap(),
            "http",
            Some("https://mcp.example.com/mcp"),
            &["gateway:7400".to_owned()],
            &[],
        );
        let uri = Uri::from_static("/mcp");
        for host in ["127.0.0.1:7400", "localhost:7400", "LOCALHOST:7400", "[::1]:7400", "mcp.example.com"] {
            assert_eq!(allowed.host(&uri, &headers(&[("host", host)])), Ok(()), "{host}");
        }
        for host in ["mcp.example.com:443", "gateway:7400"] {
            assert_eq!(allowed.host(&uri, &headers(&[("host", host)])), Ok(()), "{host}");
        }
        for host in [
            "attacker.test",
            "attacker.test:7400",
            "127.0.0.1.nip.io:7400",
            "127.0.0.1",
            "127.0.0.1:7401",
            "localhost",
            "gateway",
            "localhost:7400@attacker.test",
            "localhost.:7400",
            "",
        ] {
            assert_eq!(allowed.host(&uri, &headers(&[("host", host)])), Err(Problem::HostNotAllowed), "{host}");
        }
        assert!(allowed.host(&uri, &headers(&[])).is_err());
        let twice = headers(&[("host", "localhost:7400"), ("host", "localhost:7400")]);
        assert!(allowed.host(&uri, &twice).is_err());
        let absolute = Uri::from_static("http://attacker.test/mcp");
        assert!(allowed.host(&absolute, &headers(&[("host", "localhost:7400")])).is_err());
    }

    #[test]
    fn foreign_and_null_origins_are_refused() {
        let listen = "127.0.0.1:7400".parse().unwrap();
        let allowed = Allowed::new(listen, "http", None, &[], &["https://app.example.com".to_owned()]);
        assert_eq!(allowed.origin(&headers(&[])), Ok(()));
        for origin in ["https://app.example.com", "http://127.0.0.1:7400", "http://localhost:7400"] {
            assert_eq!(allowed.origin(&headers(&[("origin", origin)])), Ok(()), "{origin}");
        }
        for origin in
            ["null", "https://evil.test", "http://app.example.com", "https://localhost:7400", "http://localhost", ""]
        {
            assert!(allowed.origin(&headers(&[("origin", origin)])).is_err(), "{origin}");
        }
    }

    #[test]
    fn one_bearer_token_in_the_one_header() {
        let uri = Uri::from_static("/mcp");
        let token = |uri: &Uri, headers: &HeaderMap| {
            credential(uri, headers).map(|sent| (sent.scheme, sent.token.map(str::to_owned)))
        };
        let sent = |scheme| Ok((scheme, Some("a.b.c".to_owned())));
        assert_eq!(token(&uri, &headers(&[])), Ok((Scheme::Bearer, None)));
        assert_eq!(token(&uri, &headers(&[("authorization", "Bearer a.b.c")])), sent(Scheme::Bearer));
        assert_eq!(token(&uri, &headers(&[("authorization", "bearer a.b.c")])), sent(Scheme::Bearer));
        assert_eq!(token(&uri, &headers(&[("authorization", "dpop a.b.c"), ("dpop", "p")])), sent(Scheme::Dpop));
        let proof = headers(&[("dpop", "p")]);
        assert_eq!(credential(&uri, &proof).map(|sent| sent.proof), Ok(Some("p")));
        let mut proofs = headers(&[("authorization", "DPoP a"), ("dpop", "p")]);
        proofs.append("dpop", HeaderValue::from_static("q"));
        assert_eq!(token(&uri, &proofs), Err(()));
        for value in ["Basic abc", "Bearer", "Bearer ", "Bearer a b", "Bearer a,Bearer b", "a.b.c"] {
            assert_eq!(token(&uri, &headers(&[("authorization", value)])), Err(()), "{value}");
        }
        let twice = headers(&[("authorization", "Bearer a"), ("authorization", "Bearer a")]);
        assert_eq!(token(&uri, &twice), Err(()));
        for query in ["/mcp?x=1&access_token=a", "/mcp?access%5Ftoken=a", "/mcp?access_token"] {
            let query = Uri::from_static(query);
            assert_eq!(token(&query, &headers(&[("authorization", "Bearer a")])), Err(()));
        }
    }

    #[test]
    fn the_body_has_to_be_plain_json() {
        for value in ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""] {
            assert_eq!(json_body(&headers(&[("content-type", value)])), Ok(()), "{value}");
        }
        for value in ["text/plain", "multipart/form-data", "application/json; charset=utf-16", "application/jsonx", ""]
        {
            assert_eq!(json_body(&headers(&[("content-type", value)])), Err(Problem::MediaType), "{value}");
        }
        assert!(json_body(&headers(&[])).is_err());
        for coding in ["gzip", "deflate", "identity"] {
            let coded = headers(&[("content-type", "application/json"), ("content-encoding", coding)]);
            assert!(json_body(&coded).is_err(), "{coding}");
        }
    }

    #[test]
    fn clients_say_what_they_take() {
        let forms = ["application/json", "text/event-stream"];
        for value in ["application/json, text/event-stream", "*/*", "application/*", "text/event-stream;q=0.5, a/b"] {
            assert_eq!(acceptable(&headers(&[("accept", value)]), &forms), Ok(()), "{value}");
        }
        for value in ["text/html", "application/jsonx", "application/json;q=0", "image/*"] {
            assert!(acceptable(&headers(&[("accept", value)]), &forms).is_err(), "{value}");
        }
        assert_eq!(acceptable(&headers(&[]), &forms), Ok(()));
    }

    #[test]
    fn two_readings_of_a_length_are_refused() {
        for pairs in [
            &[("transfer-encoding", "chunked"), ("content-length", "3")][..],
            &[("content-length", "3"), ("content-length", "4")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "xchunked")],
        ] {
            assert_eq!(framing(&headers(pairs)), Err(Problem::BadFraming), "{pairs:?}");
        }
        assert_eq!(framing(&headers(&[("transfer-encoding", "chunked")])), Ok(()));
        assert_eq!(framing(&headers(&[("content-length", "3")])), Ok(()));
    }

    #[test]
    fn header_and_body_have_to_agree_on_the_generation() {
        let meta = |version: &str| Object::new().with(VERSION_KEY, version);
        let now = meta("2026-07-28");
        assert_eq!(modern(Some("2026-07-28"), Some(&now), true), Ok(true));
        assert_eq!(modern(None, None, true), Ok(false));
        assert_eq!(modern(Some("2025-11-25"), None, true), Ok(false));
        let code = |header, meta: Option<&Object>| modern(header, meta, true).unwrap_err().code();
        assert_eq!(code(Some("2026-07-28"), None), "invalid_params");
        assert_eq!(code(None, Some(&now)), "header_mismatch");
        assert_eq!(code(Some("2025-11-25"), Some(&now)), "header_mismatch");
        assert_eq!(code(Some("2026-07-28"), Some(&meta("2025-11-25"))), "header_mismatch");
        assert_eq!(code(Some("2026-07-28 "), Some(&now)), "header_mismatch");
        assert_eq!(code(Some("v999.0.0"), Some(&meta("v999.0.0"))), "unsupported_version");
        assert_eq!(code(Some("2024-11-05"), None), "unsupported_version");
        assert_eq!(code(Some("2026-07-28"), Some(&Object::new().with(VERSION_KEY, 1))), "invalid_params");
    }

    #[test]
    fn method_and_name_have_to_match_byte_for_byte() {
        let params = Object::new().with("name", "bank__refund");
        let check = |pairs: &[(&str, &str)]| mirrored(&headers(pairs), "tools/call", &params).is_ok();
        let method = ("mcp-method", "tools/call");
        assert!(check(&[method, ("mcp-name", "bank__refund")]));
        assert!(check(&[method, ("MCP-NAME", "=?base64?YmFua19fcmVmdW5k?=")]));
        assert!(check(&[method, ("mcp-name", " bank__refund\t")]), "whitespace around a value is not part of it");
        for name in [
            "Bank__refund",
            "bank__refund2",
            "bank__refund, bank__refund",
            "=?base64?YmFua19fYmFsYW5jZQ==?=",
            "=?base64?YmFua19fcmVmdW5k",
            "=?BASE64?YmFua19fcmVmdW5k?=",
            "=?base64?YmFua19fcmVmdW5k=?=",
            "=?base64?YmFua19f!!!?=",
            "=?base64?PT9iYXNlNjQ/WW1GdWExOWZjbVZtZFc1az89?=",
            "",
        ] {
            assert!(!check(&[method, ("mcp-name", name)]), "{name}");
        }
        assert!(!check(&[method]), "missing");
        assert!(!check(&[method, ("mcp-name", "bank__refund"), ("mcp-name", "bank__refund")]), "twice");
        for wrong in ["tools/Call", "tools/list", "tools/call,tools/call"] {
            assert!(!check(&[("mcp-method", wrong), ("mcp-name", "bank__refund")]), "{wrong}");
        }
        assert!(!check(&[("mcp-name", "bank__refund")]), "no method");
        let literal = Object::new().with("name", "=?base64?YQ==?=");
        let plain = headers(&[method, ("mcp-name", "=?base64?YQ==?=")]);
        assert!(mirrored(&plain, "tools/call", &literal).is_err(), "a literal sentinel has to be encoded");
        let task = Object::new().with("taskId", "hold_1");
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let with = |name| headers(&[("mcp-method", method), ("mcp-name", name)]);
            assert!(mirrored(&with("hold_1"), method, &task).is_ok(), "{method}");
            assert!(mirrored(&with("hold_2"), method, &task).is_err(), "{method}");
        }
    }

    #[test]
    fn repeated_arguments_have_to_match() {
        let declared =
            [("mcp-param-region", vec!["region"]), ("mcp-param-n", vec!["deep", "n"]), ("mcp-param-dry", vec!["dry"])]
                .map(|(header, path)| ParamHeader {
                    header: header.to_owned(),
                    path: path.into_iter().map(str::to_owned).collect(),
                });
        let check =
            |pairs: &[(&str, &str)], arguments: &str| repeated(&headers(pairs), &declared, &tree(arguments)).is_ok();
        let (region, n, dry) = (("mcp-param-region", "eu"), ("mcp-param-n", "42"), ("mcp-param-dry", "true"));
        let all = r#"{"region":"eu","deep":{"n":42},"dry":true}"#;
        assert!(check(&[region, n, dry], all));
        assert!(check(&[region, ("mcp-param-n", "42.0"), dry], all));
        assert!(check(&[], "{}"));
        assert!(check(&[], r#"{"region":null}"#));
        assert!(check(&[("mcp-param-region", "=?base64?IHg=?=")], r#"{"region":" x"}"#));
        assert!(check(&[("mcp-param-other", "x")], "{}"), "a header that no tool declares is nobody's business");
        assert!(!check(&[n, dry], all), "missing while the body has it");
        assert!(!check(&[region], "{}"), "there while the body lacks it");
        assert!(!check(&[region], r#"{"region":null}"#));
        assert!(!check(&[region, n, ("mcp-param-dry", "True")], all));
        assert!(!check(&[region, ("mcp-param-n", "43"), dry], all));
        assert!(!check(&[("mcp-param-n", "9007199254740992")], r#"{"deep":{"n":9007199254740992}}"#));
        assert!(!check(&[("mcp-param-region", "=?base64?SGVsbG8?=")], r#"{"region":"Hello"}"#), "bad padding");
        assert!(!check(&[region, region], r#"{"region":"eu"}"#), "twice");
    }
}
