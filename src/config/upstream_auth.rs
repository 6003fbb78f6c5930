//! `[upstreams.NAME.auth]`: what a tool server that is reached by URL is shown.

use std::{fmt, path::PathBuf};

use zeroize::Zeroizing;

/// What a tool server is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UpstreamAuth {
    /// `none`: nothing besides `headers`.
    #[default]
    None,
    /// `header` and `bearer`: one header, as it stands there.
    Header {
        /// `name`, in lower case.
        name: String,
        /// What stands before the secret: `Bearer ` for `bearer`.
        before: &'static str,
        /// `value`, `token` or `file`.
        value: Secret,
    },
    /// An access token of an authorization server.
    OAuth(Box<OAuth>),
}

/// A secret: as it is configured, or in a file that is read when it is needed.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The secret itself.
    Given(Zeroizing<String>),
    /// Where it is.
    File(PathBuf),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("Given(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// How access tokens are had.
#[derive(Clone, PartialEq, Eq)]
pub struct OAuth {
    /// `kind`
    pub flow: Flow,
    /// `issuer`, or `token_url` with `authorization_url`.
    pub server: OAuthServer,
    /// `client_id`: ours there.
    pub client_id: String,
    /// `client_secret` or `client_secret_file`, if it gave us one.
    pub client_secret: Option<Secret>,
    /// `client_auth`: how the secret is shown; as the server says, without.
    pub client_auth: Option<ClientAuth>,
    /// `scopes` that are asked for.
    pub scopes: Vec<String>,
    /// `audience`: a name of the tool server that the authorization server knows.
    pub audience: Option<String>,
    /// `resource` (RFC 8707): the tool server's URL, unless another is given; empty, and none is named.
    pub resource: Option<String>,
    /// `role`: the approvers who may connect and disconnect the account of `authorization_code`; any, without.
    pub role: Option<String>,
    /// `users_of`: issuers whose users are the authorization server's, for `token_exchange`.
    pub users_of: Vec<String>,
    /// `allow_private`: addresses that are not of the public internet are meant.
    pub allow_private: bool,
}

impl fmt::Debug for OAuth {
    /// Without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuth")
            .field("flow", &self.flow)
            .field("server", &self.server)
            .field("client_id", &self.client_id)
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

/// Which grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// `client_credentials` (RFC 6749, section 4.4)
    ClientCredentials,
    /// `refresh_token`: one that somebody was given elsewhere (RFC 6749, section 6).
    RefreshToken(Secret),
    /// `authorization_code`: an approver connects an account in the console (RFC 6749, section 4.1, with RFC 7636).
    AuthorizationCode,
    /// `token_exchange`: on behalf of the call's user (RFC 8693).
    TokenExchange,
}

impl Flow {
    /// The word in the configuration, and in the ledger.
    pub fn word(&self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken(_) => "refresh_token",
            Self::AuthorizationCode => "authorization_code",
            Self::TokenExchange => "token_exchange",
        }
    }
}

/// Where the authorization server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OAuthServer {
    /// It says so itself, below its name (RFC 8414, OpenID Connect Discovery 1.0).
    Issuer(String),
    /// Its endpoints.
    Endpoints {
        /// `token_url`
        token: reqwest::Url,
        /// `authorization_url`
        authorization: Option<reqwest::Url>,
    },
}

/// How a client shows its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// In `Authorization`.
    Basic,
    /// In the body.
    Post,
}

/// Whether a header is ours to set, so that no configuration does.
pub(crate) fn is_ours(header: &str) -> bool {
    const FRAMING: [&str; 9] = [
        "host",
        "content-length",
        "content-type",
        "transfer-encoding",
        "connection",
        "accept",
        "accept-encoding",
        "te",
        "last-event-id",
    ];
    let header = header.to_ascii_lowercase();
    FRAMING.contains(&header.as_str()) || header.starts_with("mcp-")
}
