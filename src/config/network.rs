//! A network of addresses, as `10.0.0.0/8`.

use std::{fmt, net::IpAddr};

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8` or one address. `None`: it is none of them, or has bits set behind its prefix,
    /// of which nobody could say what they mean.
    pub fn read(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) if prefix.bytes().all(|digit| digit.is_ascii_digit()) => {
                (address, Some(prefix.parse().ok()?))
            }
            Some(_) => return None,
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let network = Self { address, prefix: prefix.unwrap_or(most) };
        let whole = network.kept(address)? == bits(address).0 && address.to_canonical() == address;
        whole.then_some(network)
    }

    /// Whether an address lies in it. An IPv4 address in the guise of IPv6, as a listener on `[::]` sees it, is the
    /// IPv4 address that it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.kept(address) == Some(bits(self.address).0)
    }

    /// The bits of an address as far as the prefix goes.
    fn kept(&self, address: IpAddr) -> Option<u128> {
        let (bits, most) = bits(address);
        let behind = most.checked_sub(self.prefix)?;
        Some(if behind >= 128 { 0 } else { (bits >> behind) << behind })
    }
}

fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_lies_in_a_network_or_does_not() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.1.2.2/31", "::ffff:10.1.2.3", "10.1.2.4"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "2001:db8::1", "1.2.3.4"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::1", "::1", "::2"),
        ] {
            let network = Network::read(network).unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_not_read_as_one() {
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "a/8", "/8"] {
            assert_eq!(Network::read(text), None, "{text}");
        }
    }
}
