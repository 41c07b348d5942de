//! IP addresses and CIDRs. IPv4-mapped IPv6 addresses, zones and leading zeros are refused, as everywhere in Kubernetes.

use super::{Def, ONE, Price, Site, TEXT, f};
use crate::value::{EvalError, Evaluated, Value};
use std::fmt;
use std::net::IpAddr;

pub(super) const TABLE: &[Def] = &[
    f("ip", "(string) -> ip", TEXT, ip),
    f("isIP", "(string) -> bool", TEXT, is_ip),
    f("ip.isCanonical", "(string) -> bool", Price::Text(0, 2), is_canonical),
    f("family", "ip.() -> int", ONE, family),
    f("isUnspecified", "ip.() -> bool", ONE, is_unspecified),
    f("isLoopback", "ip.() -> bool", ONE, is_loopback),
    f("isLinkLocalMulticast", "ip.() -> bool", ONE, is_link_local_multicast),
    f("isLinkLocalUnicast", "ip.() -> bool", ONE, is_link_local_unicast),
    f("isGlobalUnicast", "ip.() -> bool", ONE, is_global_unicast),
    f("cidr", "(string) -> cidr", TEXT, cidr),
    f("isCIDR", "(string) -> bool", TEXT, is_cidr),
    f("containsIP", "cidr.(ip) -> bool", ONE, contains_ip),
    f("containsIP", "cidr.(string) -> bool", Price::Text(1, 1), contains_ip),
    f("containsCIDR", "cidr.(cidr) -> bool", ONE, contains_cidr),
    f("containsCIDR", "cidr.(string) -> bool", Price::Text(1, 1), contains_cidr),
    f("ip", "cidr.() -> ip", ONE, cidr_ip),
    f("prefixLength", "cidr.() -> int", ONE, prefix_length),
    f("masked", "cidr.() -> cidr", ONE, masked),
];

/// An address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip(IpAddr);

/// An address with a prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl Cidr {
    fn contains(&self, other: IpAddr) -> bool {
        let mask = if self.prefix == 0 { 0 } else { u128::MAX << (128 - u32::from(self.prefix)) };
        self.address.is_ipv4() == other.is_ipv4() && bits(self.address) & mask == bits(other) & mask
    }

    fn masked(&self) -> Cidr {
        let width = if self.address.is_ipv4() { 32 } else { 128 };
        let keep = |n: u128| if self.prefix == 0 { 0 } else { n & (u128::MAX << (width - u32::from(self.prefix))) };
        let address = match self.address {
            IpAddr::V4(a) => IpAddr::V4(std::net::Ipv4Addr::from_bits(keep(a.to_bits().into()) as u32)),
            IpAddr::V6(a) => IpAddr::V6(std::net::Ipv6Addr::from_bits(keep(a.to_bits()))),
        };
        Cidr { address, prefix: self.prefix }
    }
}

fn mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some())
}

fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    let address: IpAddr = text.parse().map_err(|_| {
        EvalError::new(format!("IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"))
    })?;
    if mapped(address) {
        return Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
    }
    Ok(address)
}

fn parse_cidr(text: &str) -> Result<Cidr, EvalError> {
    let bad = || {
        EvalError::new(format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): unable to parse"))
    };
    let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
    let prefix = prefix.parse::<u8>().ok().filter(|p| digits && *p <= if address.is_ipv4() { 32 } else { 128 }).ok_or_else(bad)?;
    if mapped(address) {
        return Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
    }
    Ok(Cidr { address, prefix })
}

fn text<'v>(args: &'v [Value<'_>]) -> Result<&'v str, EvalError> {
    args.first().and_then(Value::as_str).ok_or_else(EvalError::overload)
}

fn ip<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    parse_ip(text(args)?).map(|a| Value::Ip(Ip(a)))
}

fn is_ip<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(parse_ip(text(args)?).is_ok()))
}

fn is_canonical<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let text = text(args)?;
    Ok(Value::Bool(parse_ip(text)?.to_string() == text))
}

fn address(args: &[Value<'_>]) -> Result<IpAddr, EvalError> {
    match args {
        [Value::Ip(ip)] => Ok(ip.0),
        _ => Err(EvalError::overload()),
    }
}

fn family<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Int(if address(args)?.is_ipv4() { 4 } else { 6 }))
}

fn is_unspecified<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(address(args)?.is_unspecified()))
}

fn is_loopback<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(address(args)?.is_loopback()))
}

fn link_local_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.octets()[..3] == [224, 0, 0],
        IpAddr::V6(a) => a.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(link_local_multicast(address(args)?)))
}

fn is_link_local_unicast<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(link_local_unicast(address(args)?)))
}

fn is_global_unicast<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let a = address(args)?;
    let broadcast = matches!(a, IpAddr::V4(a) if a.is_broadcast());
    Ok(Value::Bool(!(a.is_unspecified() || a.is_loopback() || a.is_multicast() || link_local_unicast(a) || broadcast)))
}

fn cidr<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    parse_cidr(text(args)?).map(Value::Cidr)
}

fn is_cidr<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    Ok(Value::Bool(parse_cidr(text(args)?).is_ok()))
}

fn contains_ip<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Cidr(c), Value::Ip(ip)] => Ok(Value::Bool(c.contains(ip.0))),
        [Value::Cidr(c), Value::String(s)] => Ok(Value::Bool(c.contains(parse_ip(s)?))),
        _ => Err(EvalError::overload()),
    }
}

fn contains_cidr<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    let within = |outer: &Cidr, inner: &Cidr| outer.prefix <= inner.prefix && outer.contains(inner.address);
    match args {
        [Value::Cidr(c), Value::Cidr(inner)] => Ok(Value::Bool(within(c, inner))),
        [Value::Cidr(c), Value::String(s)] => Ok(Value::Bool(within(c, &parse_cidr(s)?))),
        _ => Err(EvalError::overload()),
    }
}

fn cidr_ip<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Cidr(c)] => Ok(Value::Ip(Ip(c.address))),
        _ => Err(EvalError::overload()),
    }
}

fn prefix_length<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Cidr(c)] => Ok(Value::Int(c.prefix.into())),
        _ => Err(EvalError::overload()),
    }
}

fn masked<'a>(_: &Site, args: &[Value<'a>]) -> Evaluated<'a> {
    match args {
        [Value::Cidr(c)] => Ok(Value::Cidr(c.masked())),
        _ => Err(EvalError::overload()),
    }
}
