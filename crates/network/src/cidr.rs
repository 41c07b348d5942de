//! IPv4 networks in CIDR notation.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A network: address with the host bits zero, and prefix length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// Text that is no IPv4 network.
#[derive(Debug, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct InvalidCidr(String);

impl Cidr {
    /// The network that contains `address`; `prefix` beyond 32 counts as 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { network: Ipv4Addr::from(u32::from(address) & mask(prefix)), prefix }
    }

    /// The first address.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Prefix length in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The netmask.
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(mask(self.prefix))
    }

    /// Whether `address` lies in the network.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }

    /// How many addresses the network has.
    pub fn size(&self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The `n`-th address, when it lies in the network.
    pub fn nth(&self, n: u64) -> Option<Ipv4Addr> {
        (n < self.size()).then(|| Ipv4Addr::from(u32::from(self.network).wrapping_add(n as u32)))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let prefix = prefix.parse().ok().filter(|p| *p <= 32)?;
            Some(Self::new(address.parse().ok()?, prefix))
        };
        parse().ok_or_else(|| InvalidCidr(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_contains() {
        let net: Cidr = "10.96.0.7/12".parse().expect("valid");
        assert_eq!(net.to_string(), "10.96.0.0/12");
        assert!(net.contains(Ipv4Addr::new(10, 111, 255, 255)));
        assert!(!net.contains(Ipv4Addr::new(10, 112, 0, 0)));
        assert_eq!(net.nth(10), Some(Ipv4Addr::new(10, 96, 0, 10)));
        assert_eq!("0.0.0.0/0".parse::<Cidr>().expect("valid").size(), 1 << 32);
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/0", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
