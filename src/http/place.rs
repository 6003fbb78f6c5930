//! Where the console is reached, and which requests are meant for it.

use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderValue, header};

use super::problem::Problem;
use crate::{config::Console, passkey::is_rp};

/// This machine, as passkeys name it.
const HERE: &str = "localhost";

/// The names and origins of one listener.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Values of `Host` that mean it: a page of another name that resolves to it (DNS rebinding) is kept out.
    hosts: Vec<String>,
    /// The origin that people reach it by, without a slash at its end.
    origin: String,
    /// What the origins of its pages begin with.
    scheme: &'static str,
    /// Whether this machine's own name leads to us, and to nobody else at this port.
    has_localhost: bool,
}

impl Place {
    pub(super) fn new(bound: SocketAddr, console: &Console, has_localhost: bool) -> Self {
        let port = bound.port();
        let secure = console.secure();
        let scheme = if secure { "https://" } else { "http://" };
        let mut hosts = vec![bound.to_string()];
        hosts.extend(["localhost", "127.0.0.1", "[::1]"].map(|name| format!("{name}:{port}")));
        hosts.extend(console.allowed_hosts.iter().map(|host| host.to_ascii_lowercase()));
        let origin = console.origin(bound);
        if let Some(host) = console.url.as_deref().and_then(|url| url.strip_prefix(scheme)) {
            hosts.push(host.to_owned());
            // some clients name the port that the scheme implies
            if !host.trim_start_matches('[').contains(':') {
                hosts.push(format!("{host}:{}", if secure { 443 } else { 80 }));
            }
        }
        Self { hosts, origin, scheme, has_localhost }
    }

    /// The origin that people reach the console by.
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// Whether browsers may remember that its host is never to be asked without TLS. They remember it for every port, so
    /// that it is said only where the console has the host to itself.
    pub(super) fn only_tls(&self) -> bool {
        let host = self.origin.strip_prefix("https://").unwrap_or(":");
        !host.contains(':') && host != "localhost"
    }

    /// Why a request is not let in: it does not come from where it should.
    pub(super) fn refuses(&self, headers: &HeaderMap) -> Option<Problem> {
        let mut named = headers.get_all(header::HOST).iter();
        let host = named.next().and_then(|host| host.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
        if named.next().is_some() || !self.hosts.contains(&host) {
            return Some(Problem::HostNotAllowed);
        }
        let own = |origin: &HeaderValue| origin.to_str().is_ok_and(|origin| self.is_own(origin, &host));
        let all_own = headers.get_all(header::ORIGIN).iter().all(own);
        (!all_own).then_some(Problem::OriginNotAllowed)
    }

    /// Whether an origin is that of our pages, under any name that this listener has.
    pub(super) fn is_ours(&self, origin: &str) -> bool {
        origin.strip_prefix(self.scheme).is_some_and(|host| self.hosts.iter().any(|own| own == host))
    }

    /// The host name that passkeys are for: this machine's own where people reach the console by an address. `None`
    /// where that name may lead to another program: it could have an authenticator sign in our stead.
    pub(super) fn rp(&self) -> Option<&str> {
        let authority = self.origin.strip_prefix(self.scheme).unwrap_or_default();
        let host = authority.split_once(':').map_or(authority, |(host, _port)| host);
        let rp = if is_rp(host) { host } else { HERE };
        (rp != HERE || self.has_localhost).then_some(rp)
    }

    /// The address at which passkeys work, if there is one.
    pub(super) fn for_passkeys(&self) -> Option<String> {
        let port = self.origin.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok());
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        self.rp().map(|rp| format!("{}{rp}{port}", self.scheme))
    }

    /// Whether an origin is that of our pages, in a request to `host`.
    pub(super) fn is_own(&self, origin: &str, host: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        let host = host.to_ascii_lowercase();
        origin == self.origin || origin.strip_prefix(self.scheme) == Some(&host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(console: &Console) -> Place {
        Place::new(SocketAddr::from(([127, 0, 0, 1], 7401)), console, true)
    }

    fn console() -> Console {
        Console {
            listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            url: None,
            tls: None,
            allowed_hosts: vec!["Console.Example".to_owned()],
            behind_proxy: false,
            trusted_proxies: Vec::new(),
            providers: std::collections::BTreeMap::new(),
        }
    }

    fn lets_in(place: &Place, pairs: &[(&str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<header::HeaderName>().unwrap(), value.parse().unwrap());
        }
        place.refuses(&headers).is_none()
    }

    #[test]
    fn only_requests_for_this_listener_from_its_own_pages_are_let_in() {
        let place = place(&console());
        let table: &[(&[(&str, &str)], bool)] = &[
            (&[("host", "127.0.0.1:7401")], true),
            (&[("host", "LOCALHOST:7401")], true),
            (&[("host", "[::1]:7401")], true),
            (&[("host", "console.example")], true),
            (&[("host", "127.0.0.1:7401"), ("origin", "http://127.0.0.1:7401")], true),
            (&[], false),
            (&[("host", "127.0.0.1")], false),
            (&[("host", "127.0.0.1:7400")], false),
            (&[("host", "attacker.test:7401")], false),
            (&[("host", "127.0.0.1.nip.io:7401")], false),
            (&[("host", "127.0.0.1:7401"), ("host", "127.0.0.1:7401")], false),
            (&[("host", "127.0.0.1:7401"), ("origin", "http://attacker.test")], false),
            (&[("host", "127.0.0.1:7401"), ("origin", "https://127.0.0.1:7401")], false),
            (&[("host", "127.0.0.1:7401"), ("origin", "null")], false),
        ];
        for (pairs, fine) in table {
            assert_eq!(lets_in(&place, pairs), *fine, "{pairs:?}");
        }
        assert!(!place.only_tls());
    }

    #[test]
    fn by_its_url_it_is_reached_and_only_by_tls() {
        let url = Some("https://approve.example".to_owned());
        let place = place(&Console { url, behind_proxy: true, ..console() });
        let own = ("origin", "https://approve.example");
        let table: &[(&[(&str, &str)], bool)] = &[
            (&[("host", "approve.example"), own], true),
            (&[("host", "approve.example:443"), own], true),
            // a proxy that puts its own `Host`
            (&[("host", "127.0.0.1:7401"), own], true),
            (&[("host", "approve.example:80")], false),
            (&[("host", "approve.example"), ("origin", "http://approve.example")], false),
            (&[("host", "approve.example"), ("origin", "https://approve.example.evil.test")], false),
        ];
        for (pairs, fine) in table {
            assert_eq!(lets_in(&place, pairs), *fine, "{pairs:?}");
        }
        assert!(place.only_tls());
    }

    #[test]
    fn passkeys_are_for_the_name_of_the_console_or_for_this_machine() {
        let named = |url: &str| place(&Console { url: Some(url.to_owned()), behind_proxy: true, ..console() });
        assert_eq!(place(&console()).rp(), Some("localhost"));
        assert_eq!(named("https://approve.example").rp(), Some("approve.example"));
        assert_eq!(named("https://approve.example:8443").rp(), Some("approve.example"));
        assert_eq!(place(&console()).for_passkeys().as_deref(), Some("http://localhost:7401"));
        assert_eq!(named("https://approve.example").for_passkeys().as_deref(), Some("https://approve.example"));
        let with_port = named("https://approve.example:8443").for_passkeys();
        assert_eq!(with_port.as_deref(), Some("https://approve.example:8443"));
        for address in ["https://192.0.2.7", "https://[2001:db8::7]:8443"] {
            assert_eq!(named(address).rp(), Some("localhost"), "an address cannot have passkeys");
        }
        let at = SocketAddr::from(([127, 0, 0, 1], 7401));
        assert_eq!(Place::new(at, &console(), false).rp(), None, "another program could pass for us");
        let url = Some("https://approve.example".to_owned());
        assert!(Place::new(at, &Console { url, behind_proxy: true, ..console() }, false).rp().is_some());
        let place = named("https://approve.example");
        assert!(place.is_ours("https://approve.example"));
        for other in ["http://approve.example", "https://approve.example:444", "https://evil.test", "null", ""] {
            assert!(!place.is_ours(other), "{other}");
        }
    }
}
