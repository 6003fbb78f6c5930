//! What a browser says it was asked: `clientDataJSON` (WebAuthn Level 3, section 5.8.1).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};

use super::Flaw;
use crate::json::{self, Limits, Value};

/// Bounds on it; browsers may add members that nobody knows yet.
const LIMITS: Limits = Limits { bytes: 2 << 10, depth: 4, nodes: 64 };

/// What a browser says it was asked, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientData {
    kind: String,
    challenge: [u8; 32],
    origin: String,
}

impl ClientData {
    /// Reads it as a parser that is not to be fooled: no member twice.
    ///
    /// # Errors
    /// [`Flaw::Malformed`]; [`Flaw::Origin`] when the page stood inside another site's; [`Flaw::Challenge`] when its
    /// challenge is none of ours by its form.
    pub fn read(bytes: &[u8]) -> Result<Self, Flaw> {
        let tree = json::parse(bytes, &LIMITS).map_err(|_| Flaw::Malformed)?;
        let text = |name: &str| tree.get(name).and_then(Value::as_str).ok_or(Flaw::Malformed);
        match tree.get("crossOrigin") {
            None | Some(Value::Bool(false)) => {}
            _ => return Err(Flaw::Origin),
        }
        if tree.get("topOrigin").is_some() {
            return Err(Flaw::Origin);
        }
        let challenge = BASE64URL.decode(text("challenge")?).map_err(|_| Flaw::Challenge)?;
        let challenge = challenge.try_into().map_err(|_| Flaw::Challenge)?;
        Ok(Self { kind: text("type")?.to_owned(), challenge, origin: text("origin")?.to_owned() })
    }

    /// The challenge that it answers.
    pub fn challenge(&self) -> [u8; 32] {
        self.challenge
    }

    /// The origin of the page that asked, such as `https://console.example`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether it is about that, and a page of the site `rp` asked.
    pub(super) fn is_for(&self, kind: &str, challenge: &[u8; 32], rp: &str) -> Result<(), Flaw> {
        if self.kind != kind {
            return Err(Flaw::Type);
        }
        if self.challenge != *challenge {
            return Err(Flaw::Challenge);
        }
        if is_of(&self.origin, rp) { Ok(()) } else { Err(Flaw::Origin) }
    }
}

/// Whether an origin is of the site: its host is `rp` or ends in it, over TLS unless it is this machine.
fn is_of(origin: &str, rp: &str) -> bool {
    let (secure, authority) = match (origin.strip_prefix("https://"), origin.strip_prefix("http://")) {
        (Some(authority), _) => (true, authority),
        (None, Some(authority)) => (false, authority),
        (None, None) => return false,
    };
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let below = host.strip_suffix(rp).is_some_and(|below| below.is_empty() || below.ends_with('.'));
    let local = host == "localhost" || host.ends_with(".localhost");
    super::is_rp(host) && below && port.is_none_or(is_port) && (secure || local)
}
