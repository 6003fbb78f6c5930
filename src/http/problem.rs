//! Everything that the console answers with an error: problem documents, RFC 9457, with a stable `code`.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::{
    approver::{NotDone, NotEnrolled, Unfit},
    call::Fault,
    hold::{Phase, Rejected},
    json::ParseErrorKind,
    lease::NotConnected,
    ledger::NotChanged,
    oidc::SignInRefused,
    passkey::Flaw,
};

/// Why a request is answered with an error. [`Problem::code`] is public interface.
#[derive(Debug)]
pub(super) enum Problem {
    /// The `Host` names another server.
    HostNotAllowed,
    /// A page of another origin sent it.
    OriginNotAllowed,
    /// The name that passkeys would be for may lead to another program.
    PasskeysUnavailable,
    /// A form came back without what the page that it was on gave it.
    FormRefused,
    /// The hold changed since the page was made on which it was decided.
    HoldChanged,
    /// Nothing is at that path.
    NotFound,
    /// The path has not that method.
    MethodNotAllowed,
    /// The body is not `application/json`.
    MediaType,
    /// The body is larger than 64 KiB.
    TooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body broke off.
    BodyIncomplete,
    /// The body is no JSON, or JSON that readers disagree about.
    Parse(ParseErrorKind),
    /// A member or parameter is missing, unknown, or not what it has to be.
    Invalid(String),
    /// There is no session's token.
    SessionMissing,
    /// The token is not that of a living session.
    SessionUnknown,
    /// No such approver, or another passphrase.
    LoginRefused,
    /// Another passphrase, from an approver who is logged in.
    PassphraseWrong,
    /// What an authenticator said does not count.
    PasskeyRefused(Flaw),
    /// No such one-time code.
    CodeUnknown,
    /// The one-time code is too old.
    CodeExpired,
    /// The passphrase cannot be chosen.
    PassphraseUnfit(Unfit),
    /// Too often, or too many at once: seconds to wait.
    TooManyAttempts(u64),
    /// Too many event streams.
    TooManyStreams,
    /// Too many exports.
    TooManyExports,
    /// Too much that is large at once, for one session.
    TooManyPages,
    /// The ledger has no such entry.
    EntryUnknown,
    /// A tool's definition was neither accepted nor rejected: why.
    ToolUndecided(String),
    /// What the ledger does not let this approver do.
    Act(Rejected),
    /// An identity provider let nobody in, or vouched for nobody.
    SignIn(SignInRefused),
    /// No account was connected with a tool server, or taken away.
    Account(NotConnected),
    /// Ours: the log says the rest.
    Unavailable,
}

impl Problem {
    /// The stable code.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::HostNotAllowed => "host_not_allowed",
            Self::OriginNotAllowed => "origin_not_allowed",
            Self::PasskeysUnavailable => "passkeys_unavailable",
            Self::FormRefused => "form_refused",
            Self::HoldChanged => "hold_changed",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "http_method_not_allowed",
            Self::MediaType => "unsupported_media_type",
            Self::TooLarge => "too_large",
            Self::BodyTimeout => "body_timeout",
            Self::BodyIncomplete => "body_incomplete",
            Self::Parse(_) => "parse_error",
            Self::Invalid(_) => "invalid_request",
            Self::SessionMissing => "session_missing",
            Self::SessionUnknown => "session_unknown",
            Self::LoginRefused => "login_refused",
            Self::PassphraseWrong => "passphrase_wrong",
            Self::PasskeyRefused(_) => "passkey_refused",
            Self::CodeUnknown => "code_unknown",
            Self::CodeExpired => "code_expired",
            Self::PassphraseUnfit(_) => "passphrase_unfit",
            Self::TooManyAttempts(_) => "too_many_attempts",
            Self::TooManyStreams => "too_many_streams",
            Self::TooManyExports => "too_many_exports",
            Self::TooManyPages => "too_many_pages",
            Self::EntryUnknown => "entry_unknown",
            Self::ToolUndecided(_) => "tool_undecided",
            Self::Act(rejected) => rejected.code(),
            Self::SignIn(why) => why.code(),
            Self::Account(why) => why.code(),
            Self::Unavailable => "unavailable",
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::BodyIncomplete | Self::Parse(_) | Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::SessionMissing | Self::SessionUnknown => StatusCode::UNAUTHORIZED,
            Self::HostNotAllowed
            | Self::OriginNotAllowed
            | Self::FormRefused
            | Self::LoginRefused
            | Self::PassphraseWrong
            | Self::PasskeyRefused(_)
            | Self::CodeUnknown => StatusCode::FORBIDDEN,
            Self::HoldChanged => StatusCode::CONFLICT,
            Self::NotFound | Self::EntryUnknown => StatusCode::NOT_FOUND,
            Self::ToolUndecided(_) => StatusCode::CONFLICT,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::CodeExpired => StatusCode::GONE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::PassphraseUnfit(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyAttempts(_) | Self::TooManyStreams | Self::TooManyExports | Self::TooManyPages => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::PasskeysUnavailable
            | Self::Unavailable
            | Self::SignIn(SignInRefused::Unreachable(_) | SignInRefused::Fault(_))
            | Self::Account(NotConnected::Unreachable(_) | NotConnected::Fault(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Account(NotConnected::Unknown) => StatusCode::NOT_FOUND,
            Self::SignIn(_) | Self::Account(_) => StatusCode::FORBIDDEN,
            Self::Act(rejected) => match rejected {
                Rejected::UnknownHold => StatusCode::NOT_FOUND,
                Rejected::Ended(_) | Rejected::TooLate => StatusCode::GONE,
                Rejected::UnknownApprover
                | Rejected::Requester
                | Rejected::WrongRole
                | Rejected::OtherKey
                | Rejected::AssuranceTooLow
                | Rejected::NotAppointed => StatusCode::FORBIDDEN,
                Rejected::TooManyVotes => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::CONFLICT,
            },
        }
    }

    /// What is wrong, for a person.
    pub(super) fn detail(&self) -> String {
        let text = match self {
            Self::HostNotAllowed => {
                "this `Host` is not served here; name it in `console.allowed_hosts` if it should be"
            }
            Self::OriginNotAllowed => "pages of other origins are not served",
            Self::PasskeysUnavailable => {
                "another program on this machine may answer to `localhost` at this port, so that passkeys are refused: \
                 have the operator end it and restart, or set `console.url`"
            }
            Self::FormRefused => {
                "this form is not of your session, or too old: open its page again, and fill it in anew"
            }
            Self::HoldChanged => "the hold changed since its page was opened: look at what changed, then decide",
            Self::NotFound => "nothing is here",
            Self::MethodNotAllowed => "this path does not take this method; `allow` names those it takes",
            Self::MediaType => "send the body as `content-type: application/json`",
            Self::TooLarge => "the body is larger than 64 KiB",
            Self::BodyTimeout => "the body took longer than 10 seconds",
            Self::BodyIncomplete => "the body broke off",
            Self::Parse(kind) => return format!("the body is not acceptable JSON: {kind}"),
            Self::Invalid(why) => return why.clone(),
            Self::SessionMissing => "log in at `/api/v1/login`, then send `authorization: Bearer` and the token",
            Self::SessionUnknown => {
                "this is not the token of a living session: log in again. Agents' tokens open nothing here"
            }
            Self::LoginRefused => "no approver has this name and this passphrase",
            Self::PassphraseWrong => "this is not your passphrase: nothing was done",
            Self::PasskeyRefused(flaw) => return flaw.to_string(),
            Self::CodeUnknown => "there is no such code, or it has served already: ask the operator for a new one",
            Self::CodeExpired => "the code is older than a day: ask the operator for a new one",
            Self::PassphraseUnfit(unfit) => return unfit.to_string(),
            Self::TooManyAttempts(_) => "too many attempts: wait as long as `retry-after` says",
            Self::TooManyStreams => "too many event streams are open: end one",
            Self::TooManyExports => "too many exports are under way: wait for one to end",
            Self::TooManyPages => "this session has two holds on their way to it already: read those to their end",
            Self::EntryUnknown => "the ledger has no such entry",
            Self::ToolUndecided(why) => return why.clone(),
            Self::Act(rejected) => return rejected.to_string(),
            Self::SignIn(why) => return why.to_string(),
            Self::Account(why) => return why.to_string(),
            Self::Unavailable => "this does not work just now; the server's log says why",
        };
        text.to_owned()
    }

    /// Where an ended hold stands.
    fn state(&self) -> Option<&'static str> {
        match self {
            Self::Act(Rejected::Ended(phase)) => Some(phase.word()),
            Self::Act(Rejected::TooLate) => Some(Phase::Expired.word()),
            _ => None,
        }
    }

    /// Seconds to wait.
    pub(super) fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooManyAttempts(seconds) => Some(*seconds),
            Self::TooManyStreams | Self::TooManyExports | Self::TooManyPages => Some(5),
            Self::Act(Rejected::TooManyVotes) => Some(60),
            _ => None,
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        tracing::error!(%fault, "a request of an approver failed");
        Self::Unavailable
    }
}

impl From<NotChanged> for Problem {
    fn from(why: NotChanged) -> Self {
        match why {
            NotChanged::Rejected(rejected) => Self::Act(rejected),
            NotChanged::Fault(fault) => fault.into(),
        }
    }
}

impl Problem {
    /// Why an act was not done; `locked` when it is for the passphrase.
    pub(super) fn of(why: NotDone, locked: Self) -> Self {
        match why {
            NotDone::Malformed(why) => Self::Invalid(why),
            NotDone::Locked => locked,
            NotDone::Passkey(Flaw::Label) => Self::Invalid(Flaw::Label.to_string()),
            NotDone::Passkey(flaw) => Self::PasskeyRefused(flaw),
            NotDone::TooMany { retry_after_s } | NotDone::NotEnrolled(NotEnrolled::TooMany { retry_after_s }) => {
                Self::TooManyAttempts(retry_after_s)
            }
            NotDone::Rejected(rejected) => Self::Act(rejected),
            NotDone::NotEnrolled(NotEnrolled::Code) => Self::CodeUnknown,
            NotDone::NotEnrolled(NotEnrolled::Expired) => Self::CodeExpired,
            NotDone::NotEnrolled(NotEnrolled::Passphrase(unfit)) => Self::PassphraseUnfit(unfit),
            NotDone::Fault(fault) | NotDone::NotEnrolled(NotEnrolled::Fault(fault)) => fault.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut body = Map::new();
        body.insert("type".to_owned(), "about:blank".into());
        body.insert("title".to_owned(), status.canonical_reason().unwrap_or_default().into());
        body.insert("status".to_owned(), status.as_u16().into());
        body.insert("code".to_owned(), self.code().into());
        body.insert("detail".to_owned(), self.detail().into());
        if let Some(state) = self.state() {
            body.insert("state".to_owned(), state.into());
        }
        if let Some(seconds) = self.retry_after() {
            body.insert("retry_after_s".to_owned(), json!(seconds));
        }
        let text = format!("{}\n", Value::Object(body));
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], text).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer realm=\"countersign approvers\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after() {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
