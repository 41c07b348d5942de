//! Addresses and ranges of addresses.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP address, in the strict notation.
pub fn parse_ip(value: &str) -> Option<IpAddr> {
    value.parse().ok()
}

/// Addresses that hide an IPv4 address inside an IPv6 one are refused.
fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

const TO_BE_REFUSED: &str = "will be considered invalid in a future Kubernetes release";

/// An IP address.
pub fn ip_address(value: &str) -> Vec<String> {
    match parse_ip(value) {
        Some(ip) if mapped(ip) => vec!["must not be an IPv4-mapped IPv6 address".to_owned()],
        Some(_) => Vec::new(),
        None if lenient_ip(value).is_some() => vec!["must not have leading 0s".to_owned()],
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// An IP address, in the notation of before too.
pub fn lenient_ip(value: &str) -> Option<IpAddr> {
    parse_ip(value).or_else(|| parse_ip(&without_leading_zeros(value)))
}

/// An address as lenient parsers read it: `010.000.0.1` is `10.0.0.1`.
fn without_leading_zeros(value: &str) -> String {
    let (before, v4) = value.rfind(':').map_or(("", value), |at| value.split_at(at + 1));
    if !v4.contains('.') {
        return value.to_owned();
    }
    format!("{before}{}", v4.split('.').map(without_zeros).collect::<Vec<_>>().join("."))
}

/// A number without the zeros before it.
fn without_zeros(digits: &str) -> &str {
    match digits.trim_start_matches('0') {
        "" if !digits.is_empty() => "0",
        rest => rest,
    }
}

/// The warning about an address that is not written as it should be.
pub fn odd_ip(path: &impl Display, value: &str) -> Option<String> {
    let ip = lenient_ip(value)?;
    if parse_ip(value).is_none() || mapped(ip) {
        return Some(format!("{path}: non-standard IP address {value:?} {TO_BE_REFUSED}: use {:?}", ip.to_canonical().to_string()));
    }
    let shown = ip.to_string();
    (ip.is_ipv6() && shown != value).then(|| format!("{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({shown:?})"))
}

/// The warnings about a range that is not written as it should be.
pub fn odd_cidr(path: &impl Display, value: &str) -> Vec<String> {
    let strict = parse_cidr(value);
    let Some((ip, bits)) = strict.or_else(|| lenient_cidr(value)) else { return Vec::new() };
    let start = without_tail(ip, bits);
    let net = if mapped(start) { format!("{}/{}", start.to_canonical(), bits - 96) } else { format!("{start}/{bits}") };
    let mut out = Vec::new();
    if start != ip {
        let host = format!("{}/{}", ip.to_canonical(), if ip.is_ipv4() { 32 } else { 128 });
        out.push(format!("{path}: CIDR value {value:?} is ambiguous in this context (should be {net:?} or {host:?}?)"));
    }
    if strict.is_none() || mapped(ip) {
        out.push(format!("{path}: non-standard CIDR value {value:?} {TO_BE_REFUSED}: use {net:?}"));
    } else if out.is_empty() && ip.is_ipv6() && net != value {
        out.push(format!("{path}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format ({net:?})"));
    }
    out
}

/// Address and prefix length of a CIDR, in the notation of before too.
pub fn lenient_cidr(value: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = value.split_once('/')?;
    parse_cidr(&format!("{}/{}", without_leading_zeros(address), without_zeros(bits)))
}

/// Address and prefix length of a CIDR.
pub fn parse_cidr(value: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = value.split_once('/')?;
    let address = parse_ip(address)?;
    if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|b| b.is_ascii_digit()) || (bits.len() > 1 && bits.starts_with('0')) {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, bits))
}

/// The address with nothing but zeros beyond a prefix.
fn without_tail(ip: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(32 - bits).unwrap_or(0)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(128 - bits).unwrap_or(0)).into(),
    }
}

/// An address with the prefix length of its network.
pub fn interface_address(value: &str) -> Vec<String> {
    match lenient_cidr(value) {
        None => vec!["must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned()],
        Some((ip, bits)) => {
            let canonical = format!("{ip}/{bits}");
            if canonical == value { Vec::new() } else { vec![format!("must be in canonical form ({canonical:?})")] }
        }
    }
}

/// A CIDR.
pub fn cidr(value: &str) -> Vec<String> {
    let wrong = match parse_cidr(value) {
        None if lenient_cidr(value).is_some() => "must not have leading 0s in IP or prefix length",
        None => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        Some((ip, _)) if mapped(ip) => "must not have an IPv4-mapped IPv6 address",
        Some((ip, bits)) if without_tail(ip, bits) != ip => "must not have bits set beyond the prefix length",
        Some(_) => return Vec::new(),
    };
    vec![wrong.to_owned()]
}
