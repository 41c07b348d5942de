//! A range of addresses that services may have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// No more addresses of an IPv6 range than this are handed out.
const RANGE_MAX: u128 = 1 << 16;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    base: IpAddr,
    bits: u8,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// `IPv4` or `IPv6`.
pub fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

impl Cidr {
    /// From `10.96.0.0/12`.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, bits) = ferrokube_api::names::parse_cidr(text)?;
        Some(Cidr { base, bits })
    }

    fn host_bits(self) -> u32 {
        let all = if self.base.is_ipv4() { 32 } else { 128 };
        all - u32::from(self.bits)
    }

    fn first(self) -> u128 {
        let mask = u128::MAX.checked_shl(self.host_bits()).unwrap_or(0);
        number(self.base) & mask
    }

    /// Number of usable addresses: without the network's own and, for IPv4, the broadcast address.
    pub fn size(self) -> u128 {
        let all = 1u128.checked_shl(self.host_bits()).unwrap_or(u128::MAX);
        let unusable = if self.base.is_ipv4() { 2 } else { 1 };
        let usable = all.saturating_sub(unusable);
        if self.base.is_ipv4() { usable } else { usable.min(RANGE_MAX) }
    }

    /// The nth usable address, from 0.
    pub fn nth(self, n: u128) -> IpAddr {
        let value = self.first() + 1 + n;
        match self.base {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(value as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(value)),
        }
    }

    /// Whether the address lies in the range, usable or not.
    pub fn covers(self, ip: IpAddr) -> bool {
        let past = number(ip).checked_sub(self.first());
        ip.is_ipv4() == self.base.is_ipv4() && past.is_some_and(|n| self.host_bits() == 128 || n >> self.host_bits() == 0)
    }

    /// Whether a service may have the address.
    pub fn contains(self, ip: IpAddr) -> bool {
        let broadcast = ip.is_ipv4() && number(ip) == self.first() + (1 << self.host_bits()) - 1;
        self.covers(ip) && number(ip) != self.first() && !broadcast
    }

    /// `IPv4` or `IPv6`.
    pub fn family(self) -> &'static str {
        family(self.base)
    }

    /// Addresses that are handed out only to who asks for them, while there are others: the lowest (KEP-3070).
    pub fn static_band(self) -> u128 {
        super::static_band(self.size(), 16, 256)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_leave_out_what_no_service_may_have() {
        let range = Cidr::parse("10.96.0.0/24").expect("a range");
        assert_eq!(range.size(), 254);
        assert_eq!(range.nth(0).to_string(), "10.96.0.1");
        let holds = |ip: &str| range.contains(ip.parse().expect("ip"));
        assert!(holds("10.96.0.254") && !holds("10.96.0.255") && !holds("10.96.0.0") && !holds("10.97.0.1") && !holds("fd00::1"));
        let six = Cidr::parse("fd00::/108").expect("a range");
        assert_eq!((six.size(), six.nth(0).to_string()), (RANGE_MAX, "fd00::1".to_owned()));
        assert!(six.contains("fd00::f:ffff".parse().expect("ip")) && !six.contains("fd00::10:0".parse().expect("ip")));
    }
}
