//! Reading `[upstreams.NAME.auth]`.

use std::path::Path;

use reqwest::Url;
use zeroize::Zeroizing;

use super::Section;
use crate::config::upstream_auth::{ClientAuth, Flow, OAuth, OAuthServer, Secret, UpstreamAuth, is_ours};

const KINDS: [&str; 7] =
    ["none", "bearer", "header", "client_credentials", "refresh_token", "authorization_code", "token_exchange"];
const OAUTH: &[&str] = &["client_credentials", "refresh_token", "authorization_code", "token_exchange"];

/// Every key besides `kind`, and the kinds that it goes with.
const KEYS: [(&str, &[&str]); 20] = [
    ("token", &["bearer"]),
    ("name", &["header"]),
    ("value", &["header"]),
    ("file", &["bearer", "header"]),
    ("issuer", OAUTH),
    ("token_url", OAUTH),
    ("authorization_url", &["authorization_code"]),
    ("client_id", OAUTH),
    ("client_secret", OAUTH),
    ("client_secret_file", OAUTH),
    ("client_auth", OAUTH),
    ("refresh_token", &["refresh_token"]),
    ("refresh_token_file", &["refresh_token"]),
    ("scopes", OAUTH),
    ("audience", OAUTH),
    ("resource", OAUTH),
    ("role", &["authorization_code"]),
    ("users_of", &["token_exchange"]),
    ("allow_private", OAUTH),
    ("kind", &KINDS),
];

impl Section<'_> {
    /// `auth = { kind = "…", … }` of the tool server at `url`.
    pub(super) fn upstream_auth(&mut self, folder: &Path, url: Option<&str>) -> UpstreamAuth {
        let place = self.place_of("auth");
        // asked for even where it is absent, so that whoever misspells it is told of it
        let mut auth = self.section("auth");
        let Some(place) = place else { return UpstreamAuth::None };
        auth.place = Some(place);
        let kind = auth.string("kind");
        if auth.table.is_some() && auth.place_of("kind").is_none() {
            auth.error("kind", "is missing", "write `auth = { kind = \"bearer\", token = \"${NAME}\" }`");
        }
        let Some(kind) = kind.filter(|kind| {
            let known = KINDS.contains(&kind.as_str());
            if !known {
                auth.error("kind", "is none that is known", &format!("it is one of `{}`", KINDS.join("`, `")));
            }
            known
        }) else {
            // what else is there can be judged once it is known what it is
            return UpstreamAuth::None;
        };
        for (key, _) in KEYS.iter().filter(|(_, kinds)| !kinds.contains(&kind.as_str())) {
            if auth.place_of(key).is_some() {
                auth.error(key, &format!("does not go with the kind `{kind}`"), "remove it, or choose another kind");
            }
        }
        let read = match kind.as_str() {
            "bearer" => auth.bearer(folder),
            "header" => auth.header(folder),
            "client_credentials" => auth.oauth(Some(Flow::ClientCredentials), folder, url),
            "refresh_token" => {
                let token = auth.secret("refresh_token", "refresh_token_file", folder);
                if token.is_none() && auth.lacks(&["refresh_token", "refresh_token_file"]) {
                    auth.error("refresh_token", "is missing", "write `refresh_token = \"${NAME}\"`, or name a file");
                }
                auth.oauth(token.map(Flow::RefreshToken), folder, url)
            }
            "authorization_code" => auth.oauth(Some(Flow::AuthorizationCode), folder, url),
            "token_exchange" => auth.oauth(Some(Flow::TokenExchange), folder, url),
            _ => None,
        };
        auth.known = KEYS.iter().map(|(key, _)| *key).collect();
        auth.finish();
        read.unwrap_or_default()
    }

    fn lacks(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| self.place_of(key).is_none())
    }

    /// A secret that is given, or lies in a file; not both.
    fn secret(&mut self, given: &'static str, file: &'static str, folder: &Path) -> Option<Secret> {
        let (text, path) = (self.string(given).map(Zeroizing::new), self.string(file));
        if text.as_ref().is_some_and(|text| text.is_empty() || text.chars().any(char::is_control)) {
            self.error(given, "is empty, or has control characters", "look at the variable that it comes from");
        }
        match (text, path) {
            (Some(_), Some(_)) => {
                self.error(file, &format!("and `{}` are both there", self.path(given)), "keep one of them");
                None
            }
            (Some(text), None) => Some(Secret::Given(text)),
            (None, Some(path)) => Some(Secret::File(folder.join(path))),
            (None, None) => None,
        }
    }

    fn bearer(&mut self, folder: &Path) -> Option<UpstreamAuth> {
        let value = self.secret("token", "file", folder);
        if self.lacks(&["token", "file"]) {
            self.error("token", "is missing", "write `token = \"${NAME}\"`, or name a file: `file = \"token\"`");
        }
        Some(UpstreamAuth::Header { name: "authorization".to_owned(), before: "Bearer ", value: value? })
    }

    fn header(&mut self, folder: &Path) -> Option<UpstreamAuth> {
        let name = self.string("name");
        if self.lacks(&["name"]) {
            self.error("name", "is missing", "name the header: `name = \"X-Api-Key\"`");
        }
        let value = self.secret("value", "file", folder);
        if self.lacks(&["value", "file"]) {
            self.error("value", "is missing", "write `value = \"${NAME}\"`, or name a file: `file = \"key\"`");
        }
        let name = name?.to_ascii_lowercase();
        if axum::http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            self.error("name", "is no name of a header", "names have letters, digits and hyphens");
        }
        if is_ours(&name) {
            self.error("name", "is not for configuration", "countersign sets this header itself");
        }
        Some(UpstreamAuth::Header { name, before: "", value: value? })
    }

    fn oauth(&mut self, flow: Option<Flow>, folder: &Path, url: Option<&str>) -> Option<UpstreamAuth> {
        let allow_private = self.boolean("allow_private", false);
        let client_id = self.string("client_id");
        let client_secret = self.secret("client_secret", "client_secret_file", folder);
        let needs_secret = matches!(flow, Some(Flow::ClientCredentials | Flow::TokenExchange));
        if needs_secret && self.lacks(&["client_secret", "client_secret_file"]) {
            let hint = "write `client_secret = \"${NAME}\"`, or name a file: without one anybody could be this client";
            self.error("client_secret", "is missing", hint);
        }
        if self.lacks(&["client_id"]) {
            self.error("client_id", "is missing", "the authorization server tells it when a client is registered");
        }
        let printable =
            |text: &String| (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if client_id.as_ref().is_some_and(|id| !printable(id)) {
            self.error("client_id", "is no client's id", "it has 1 to 256 ASCII letters without spaces");
        }
        let client_auth = match self.string("client_auth").as_deref() {
            None => None,
            Some("basic") => Some(ClientAuth::Basic),
            Some("post") => Some(ClientAuth::Post),
            Some(_) => {
                self.error("client_auth", "is neither `basic` nor `post`", "leave it out: the server says how");
                None
            }
        };
        let scopes = self.strings("scopes").unwrap_or_default();
        // RFC 6749, section 3.3
        let is_scope = |scope: &String| {
            (1..=256).contains(&scope.len())
                && scope.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte))
        };
        if !scopes.iter().all(is_scope) {
            self.error("scopes", "has what is no scope", "write one scope an item: `[\"read\", \"write\"]`");
        }
        let audience = self.string("audience");
        if audience.as_ref().is_some_and(|audience| !printable(audience)) {
            self.error("audience", "is no audience", "it has 1 to 256 ASCII letters without spaces");
        }
        // who an agent says that it acts for is known by whoever vouches for the agent: two issuers' `ann` may be two
        let users_of = self.strings("users_of").unwrap_or_else(|| vec!["countersign".to_owned()]);
        if users_of.is_empty() {
            self.error(
                "users_of",
                "names nobody",
                "leave it out for tokens of this server, or name issuers as tokens have them",
            );
        }
        let role = self.string("role");
        if role.as_ref().is_some_and(|role| !super::provider::is_role(role)) {
            self.error("role", "is no role", "a role is 1 to 64 letters, digits, `-` and `_`");
        }
        let resource = self.resource(url);
        let server = self.oauth_server(flow.as_ref(), allow_private);
        Some(UpstreamAuth::OAuth(Box::new(OAuth {
            flow: flow?,
            server: server?,
            client_id: client_id?,
            client_secret,
            client_auth,
            scopes,
            audience,
            resource,
            role,
            users_of,
            allow_private,
        })))
    }

    /// RFC 8707: the tool server's own URL, where nothing else is said.
    fn resource(&mut self, url: Option<&str>) -> Option<String> {
        if self.place_of("resource").is_none() {
            let mut url = Url::parse(url?).ok()?;
            // what stands behind `?` may be a key
            url.set_query(None);
            url.set_fragment(None);
            return Some(url.into());
        }
        let text = self.string("resource")?;
        if !text.is_empty() && Url::parse(&text).is_ok_and(|url| url.fragment().is_none()) {
            return Some(text);
        }
        if !text.is_empty() {
            let hint = "write the URL that the authorization server knows the tool server by; `\"\"` names none";
            self.error("resource", "is no absolute URL", hint);
        }
        None
    }

    fn oauth_server(&mut self, flow: Option<&Flow>, allow_private: bool) -> Option<OAuthServer> {
        let (issuer, token) = (self.string("issuer"), self.string("token_url"));
        let authorization = self.string("authorization_url");
        let authorization = authorization.and_then(|url| self.check_own_url("authorization_url", &url, allow_private));
        match (issuer, token) {
            (Some(_), Some(_)) => {
                self.error("token_url", &format!("and `{}` are both there", self.path("issuer")), "keep one of them");
                None
            }
            (Some(issuer), None) => {
                if self.place_of("authorization_url").is_some() {
                    self.error("authorization_url", "goes with `token_url`", "the issuer says where it is: remove it");
                }
                self.check_issuer(&issuer, allow_private);
                Some(OAuthServer::Issuer(issuer))
            }
            (None, Some(token)) => {
                let token = self.check_own_url("token_url", &token, allow_private);
                if matches!(flow, Some(Flow::AuthorizationCode)) && self.lacks(&["authorization_url"]) {
                    let hint = "say where people are sent to, or give `issuer` instead of `token_url`";
                    self.error("authorization_url", "is missing", hint);
                }
                Some(OAuthServer::Endpoints { token: token?, authorization })
            }
            (None, None) => {
                if self.lacks(&["issuer", "token_url"]) {
                    let hint = "write `issuer = \"https://login.example.com\"`, or `token_url` where it says nothing of itself";
                    self.error("issuer", "is missing", hint);
                }
                None
            }
        }
    }
}
