//! Ranges of addresses that load balancers may be given. Pure.

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A text that is no range of addresses.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses: a CIDR, FIRST-LAST, or one address is")]
pub struct NotARange(String);

/// Addresses of one family from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    last: IpAddr,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn address(like: IpAddr, number: u128) -> IpAddr {
    match like {
        // Only numbers between two addresses of the family come here.
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

impl FromStr for Range {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let wrong = || NotARange(text.to_owned());
        let ip = |part: &str| part.trim().parse::<IpAddr>().map_err(|_| wrong());
        if let Some((start, prefix)) = text.split_once('/') {
            let start = ip(start)?;
            let bits = if start.is_ipv4() { 32 } else { 128 };
            let prefix: u32 = prefix.trim().parse().ok().filter(|p| *p <= bits).ok_or_else(wrong)?;
            let size = if bits == prefix { 0 } else { u128::MAX >> (128 - (bits - prefix)) };
            let base = number(start) & !size;
            return Ok(Range { first: address(start, base), last: address(start, base | size) });
        }
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (ip(first)?, ip(last)?),
            None => (ip(text)?, ip(text)?),
        };
        let ordered = first.is_ipv4() == last.is_ipv4() && first <= last;
        if ordered { Ok(Range { first, last }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl Range {
    /// Whether an address is in the range.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && self.first <= ip && ip <= self.last
    }

    /// The lowest address that is not taken.
    fn free(&self, taken: &HashSet<IpAddr>) -> Option<IpAddr> {
        let last = number(self.last);
        let mut next = Some(number(self.first));
        std::iter::from_fn(|| {
            let n = next.filter(|n| *n <= last)?;
            next = n.checked_add(1);
            Some(address(self.first, n))
        })
        // At most as many steps as addresses are taken, and one more.
        .find(|ip| !taken.contains(ip))
    }
}

/// The address for a service: the one it asks for, else the one it has, else the lowest free one of the family.
pub fn choose(pool: &[Range], v4: bool, wanted: Option<IpAddr>, has: Option<IpAddr>, taken: &HashSet<IpAddr>) -> Result<IpAddr, String> {
    let in_pool = |ip: IpAddr| pool.iter().any(|r| r.contains(ip));
    if let Some(ip) = wanted {
        return match (in_pool(ip), taken.contains(&ip)) {
            (false, _) => Err(format!("the requested address {ip} is not in the pool of load balancer addresses")),
            (true, true) => Err(format!("the requested address {ip} is in use by another service")),
            (true, false) => Ok(ip),
        };
    }
    if let Some(ip) = has.filter(|ip| in_pool(*ip) && !taken.contains(ip)) {
        return Ok(ip);
    }
    let family = pool.iter().filter(|r| r.first.is_ipv4() == v4);
    let mut none_left = "the pool of load balancer addresses has none of this family";
    for range in family {
        match range.free(taken) {
            Some(ip) => return Ok(ip),
            None => none_left = "the pool of load balancer addresses is used up",
        }
    }
    Err(none_left.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_a_network_two_ends_or_one_address() {
        let cases = [
            ("192.0.2.5/30", "192.0.2.4-192.0.2.7"),
            ("192.0.2.5/32", "192.0.2.5"),
            ("192.0.2.1 - 192.0.2.9", "192.0.2.1-192.0.2.9"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::/126", "2001:db8::-2001:db8::3"),
            ("0.0.0.0/0", "0.0.0.0-255.255.255.255"),
        ];
        for (text, shown) in cases {
            assert_eq!(range(text).to_string(), shown);
        }
        for wrong in ["", "192.0.2.0/33", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "x"] {
            assert_eq!(wrong.parse::<Range>(), Err(NotARange(wrong.to_owned())));
        }
    }

    #[test]
    fn a_service_gets_what_it_asks_for_keeps_what_it_has_or_takes_the_lowest() {
        let pool = [range("192.0.2.4/30"), range("2001:db8::/127")];
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let taken: HashSet<IpAddr> = [ip("192.0.2.4"), ip("192.0.2.6")].into();
        let choose = |v4, wanted: Option<&str>, has: Option<&str>, taken: &HashSet<IpAddr>| {
            choose(&pool, v4, wanted.map(ip), has.map(ip), taken).map(|ip| ip.to_string())
        };
        assert_eq!(choose(true, None, None, &taken).unwrap(), "192.0.2.5");
        assert_eq!(choose(true, None, Some("192.0.2.7"), &taken).unwrap(), "192.0.2.7");
        assert_eq!(choose(true, None, Some("192.0.2.6"), &taken).unwrap(), "192.0.2.5");
        assert_eq!(choose(true, Some("192.0.2.7"), None, &taken).unwrap(), "192.0.2.7");
        assert!(choose(true, Some("192.0.2.6"), None, &taken).unwrap_err().contains("another service"));
        assert!(choose(true, Some("192.0.2.9"), None, &taken).unwrap_err().contains("not in the pool"));
        assert_eq!(choose(false, None, None, &taken).unwrap(), "2001:db8::");
        let full = (4..8).map(|n| ip(&format!("192.0.2.{n}"))).collect();
        assert!(choose(true, None, None, &full).unwrap_err().contains("used up"));
    }
}
