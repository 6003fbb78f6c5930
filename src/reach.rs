//! Which addresses this server may connect to by itself, for webhooks and identity providers: names are resolved and
//! checked in one step, so that nobody who answers for a name leads a request inside.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving as Resolved};

use crate::{call::cut, display::visible};

/// How long a request may take, from resolving the host to the end of the answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Addresses on their way.
pub type Resolving = Pin<Box<dyn Future<Output = std::io::Result<Vec<IpAddr>>> + Send>>;

/// Finds the addresses of a host.
pub trait Resolver: Send + Sync {
    /// The addresses of `host`.
    fn resolve(&self, host: &str) -> Resolving;
}

/// The machine's resolver.
#[derive(Clone, Copy, Debug)]
pub struct System;

impl Resolver for System {
    fn resolve(&self, host: &str) -> Resolving {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect()) })
    }
}

/// What may be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Addresses of private networks and of this machine are meant.
    pub(crate) private: bool,
    /// This machine only: what is sent is not encrypted.
    pub(crate) loopback_only: bool,
}

impl Rule {
    /// # Errors
    /// Why it may not, for an operator.
    pub(crate) fn check(self, address: IpAddr) -> Result<(), String> {
        let no = |why: &str| Err(format!("`{address}` {why}"));
        match reach(address) {
            Reach::Never => no("is no address to connect to (link-local, multicast, metadata or reserved)"),
            Reach::Public | Reach::Private if self.loopback_only => {
                no("is not of this machine, and what would be sent is not encrypted")
            }
            Reach::Private | Reach::Loopback if !self.private => {
                no("is not of the public internet: say `allow_private = true` if that is meant")
            }
            Reach::Public | Reach::Private | Reach::Loopback => Ok(()),
        }
    }

    /// A URL that whoever is asked says is theirs: as safe as the one that they are asked by.
    ///
    /// # Errors
    /// What it is not.
    pub(crate) fn url(self, text: &str) -> Result<reqwest::Url, &'static str> {
        let url = reqwest::Url::parse(text).ok().filter(reqwest::Url::has_host).ok_or("is no URL")?;
        match url.scheme() {
            "https" => {}
            "http" if self.loopback_only => {}
            _ => return Err("is not https"),
        }
        let bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if bare { Ok(url) } else { Err("has a user, a password or a fragment in it") }
    }
}

/// The client that connects to nothing else: no proxy, which would resolve the host once more, no redirects, and no
/// connection that is kept beyond what was checked. A URL whose host is an address has to be checked besides, with
/// [`literal`].
pub(crate) fn client(rule: Rule, resolver: Arc<dyn Resolver>) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(TIMEOUT)
        .dns_resolver(Arc::new(Checked { resolver, rule }))
}

/// What went wrong with a request, deepest cause, without the URL, which may be a secret.
pub(crate) fn cause(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("it did not answer within {} seconds", TIMEOUT.as_secs());
    }
    let error = error.without_url();
    let mut deepest: &dyn std::error::Error = &error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    visible(cut(&deepest.to_string(), 300))
}

/// The address that a URL names instead of a host.
pub(crate) fn literal(url: &reqwest::Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

/// Resolves and checks, in one step: what is connected to is what was checked, and a host that has even one address
/// which it may not have is refused.
pub(crate) struct Checked {
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) rule: Rule,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolved {
        let (found, rule) = (self.resolver.resolve(name.as_str()), self.rule);
        Box::pin(async move {
            let found = found.await?;
            if found.is_empty() {
                return Err("the host has no address".into());
            }
            for address in &found {
                rule.check(*address)?;
            }
            // the port of the URL takes the place of 0
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Public,
    Private,
    Loopback,
    Never,
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

/// By IANA's registry of special-purpose addresses.
fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Loopback,
        // shared with providers (RFC 6598), where some clouds have their metadata
        [100, 100, 100, 200] => Reach::Never,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Reach::Private,
        [0 | 224..=255, ..]
        | [169, 254, ..]
        | [192, 0, 0 | 2, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Reach::Never,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        reach_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Reach::Loopback,
        // IPv4 in disguise: mapped, and through NAT64
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low),
        // the metadata of one cloud
        [0xfd00, 0x0ec2, ..] => Reach::Never,
        [0xfc00..=0xfdff, ..] => Reach::Private,
        // protocol assignments and Teredo, documentation, 6to4
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let table: &[(&str, Reach)] = &[
            ("93.184.216.34", Reach::Public),
            ("2606:4700::1111", Reach::Public),
            ("127.0.0.1", Reach::Loopback),
            ("127.255.255.254", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("10.1.2.3", Reach::Private),
            ("172.16.0.1", Reach::Private),
            ("172.32.0.1", Reach::Public),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("100.128.0.1", Reach::Public),
            ("fd12::1", Reach::Private),
            ("::ffff:10.0.0.1", Reach::Private),
            ("64:ff9b::10.0.0.1", Reach::Private),
            ("64:ff9b::93.184.216.34", Reach::Public),
            ("169.254.169.254", Reach::Never),
            ("::ffff:169.254.169.254", Reach::Never),
            ("64:ff9b::169.254.169.254", Reach::Never),
            ("100.100.100.200", Reach::Never),
            ("192.0.0.192", Reach::Never),
            ("fd00:ec2::254", Reach::Never),
            ("0.0.0.0", Reach::Never),
            ("255.255.255.255", Reach::Never),
            ("224.0.0.1", Reach::Never),
            ("240.0.0.1", Reach::Never),
            ("198.18.0.1", Reach::Never),
            ("192.0.2.1", Reach::Never),
            ("::", Reach::Never),
            ("::10.0.0.1", Reach::Never),
            ("fe80::1", Reach::Never),
            ("fec0::1", Reach::Never),
            ("ff02::1", Reach::Never),
            ("2001::1", Reach::Never),
            ("2001:db8::1", Reach::Never),
            ("2002:7f00:1::", Reach::Never),
            ("64:ff9b:1::1", Reach::Never),
            ("100::1", Reach::Never),
        ];
        for (address, expected) in table {
            assert_eq!(reach(address.parse().unwrap()), *expected, "{address}");
        }
    }

    #[test]
    fn what_may_be_reached_depends_on_what_is_meant() {
        let check = |private, loopback_only, address: &str| {
            Rule { private, loopback_only }.check(address.parse().unwrap()).is_ok()
        };
        for (address, by_default, private, plain) in [
            ("93.184.216.34", true, true, false),
            ("10.0.0.1", false, true, false),
            ("127.0.0.1", false, true, true),
            ("::1", false, true, true),
            ("169.254.169.254", false, false, false),
            ("224.0.0.1", false, false, false),
        ] {
            assert_eq!(check(false, false, address), by_default, "{address}");
            assert_eq!(check(true, false, address), private, "{address}");
            assert_eq!(check(true, true, address), plain, "{address}");
        }
    }
}
