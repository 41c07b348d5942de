//! Host ports: a port of the node forwarded to a pod (`portMappings`).
//!
//! One nftables table of our own with two maps, from (address, protocol, port) or (protocol, port) to the pod's address
//! and port. A pod's forwards are map elements; the rules never change. The kernel refuses an element that exists, so
//! two pods cannot take the same port.

use super::config::PortMapping;
use super::{CniError, Result, code};
use crate::conntrack;
use crate::nft::expr::{
    Expr, FibKey, R0, R1, R4, R5, SetRef, addr_port, addr_proto_port, ct_status_dnat, is_local, load_daddr, load_destination,
    load_proto_port, load_saddr, proto_port, saddr_in,
};
use crate::nft::ruleset::{Op, Transaction};
use crate::nft::{Data, Field, Hook, Kind, Nft, Rule, RuleSet, SetKind, TableName, diff};
use std::net::Ipv4Addr;

/// The table.
pub const TABLE: TableName = TableName("ferrokube-hostports");
const BY_ADDRESS: &str = "address-ports";
const BY_PORT: &str = "ports";
const HAIRPIN: &str = "hairpin";
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

/// Forwards all `mappings` to `pod`, or none.
///
/// # Errors
/// A port is taken, a protocol or address unknown, or the kernel refused.
pub fn forward(pod: Ipv4Addr, mappings: &[PortMapping]) -> Result<()> {
    if mappings.is_empty() {
        return Ok(());
    }
    let mut ops = vec![Op::AddElements(HAIRPIN.into(), vec![(pair(pod), Data::None)])];
    for mapping in mappings {
        let proto = protocol(mapping)?;
        let target = Data::Value(addr_port(pod, mapping.container_port));
        let (set, key) = match host_ip(mapping)? {
            Some(address) => (BY_ADDRESS, addr_proto_port(address, proto, mapping.host_port)),
            None => (BY_PORT, proto_port(proto, mapping.host_port)),
        };
        ops.push(Op::AddElements(set.into(), vec![(key, target)]));
    }
    let mut nft = Nft::open()?;
    nft.ensure(TABLE, &diff(&RuleSet::default(), &table()))?;
    nft.apply(TABLE, &Transaction { ops }).map_err(|e| match e.is_exists() {
        true => CniError::new(code::HOST_PORT, format!("a host port is already in use: {}", show(mappings))),
        false => e.into(),
    })?;
    forget_old_flows(mappings)
}

/// A client that kept sending while nobody listened has a connection entry that bypasses the new rule.
fn forget_old_flows(mappings: &[PortMapping]) -> Result<()> {
    let udp: Vec<u16> = mappings.iter().filter(|m| is_udp(m)).map(|m| m.host_port).collect();
    if !udp.is_empty() {
        conntrack::delete_udp(|flow| udp.contains(&flow.original.port))?;
    }
    Ok(())
}

/// Removes all forwards to `pod`.
///
/// # Errors
/// The kernel refused.
pub fn remove(pod: Ipv4Addr) -> Result<()> {
    let mut nft = Nft::open()?;
    if !nft.exists(TABLE)? {
        return Ok(());
    }
    let mut ops = Vec::new();
    for set in [BY_ADDRESS, BY_PORT] {
        let elements = nft.elements(TABLE, set)?.into_iter();
        let keys: Vec<_> = elements.filter(|(_, v)| v.starts_with(&pod.octets())).map(|(key, _)| key).collect();
        if !keys.is_empty() {
            ops.push(Op::DeleteElements(set.into(), keys));
        }
    }
    if nft.elements(TABLE, HAIRPIN)?.iter().any(|(key, _)| *key == pair(pod)) {
        ops.push(Op::DeleteElements(HAIRPIN.into(), vec![pair(pod)]));
    }
    Ok(nft.apply(TABLE, &Transaction { ops })?)
}

/// The table without any forward.
fn table() -> RuleSet {
    let mut out = RuleSet::default();
    out.set(BY_ADDRESS, &[Field::Ipv4, Field::Proto, Field::Port], SetKind::Map(vec![Field::Ipv4, Field::Port]));
    out.set(BY_PORT, &[Field::Proto, Field::Port], SetKind::Map(vec![Field::Ipv4, Field::Port]));
    out.set(HAIRPIN, &[Field::Ipv4, Field::Ipv4], SetKind::Plain);
    let to_pod = |set: &str| [Expr::Lookup { set: SetRef::Named(set.into()), sreg: R0, dreg: Some(R4) }, Expr::Dnat { addr: R4, port: R5 }];
    let by_address: Rule = load_destination().into_iter().chain(to_pod(BY_ADDRESS)).collect();
    let by_port: Rule = is_local(FibKey::Destination).into_iter().chain(load_proto_port()).chain(to_pod(BY_PORT)).collect();
    out.base_chain("prerouting", Kind::Nat, Hook::Prerouting, DSTNAT, vec![by_address.clone(), by_port.clone()]);
    out.base_chain("output", Kind::Nat, Hook::Output, DSTNAT, vec![by_address, by_port]);
    // Two kinds of source cannot be answered as they are: the pod itself, and the node's loopback.
    let hairpin = [load_saddr(R0), load_daddr(R1), Expr::Lookup { set: SetRef::Named(HAIRPIN.into()), sreg: R0, dreg: None }];
    let loopback = saddr_in(crate::cidr::Cidr::new(Ipv4Addr::LOCALHOST, 8));
    let masquerade = |matches: Vec<Expr>| -> Rule { ct_status_dnat().into_iter().chain(matches).chain([Expr::Masquerade]).collect() };
    let rules = vec![masquerade(hairpin.to_vec()), masquerade(loopback)];
    out.base_chain("postrouting", Kind::Nat, Hook::Postrouting, SRCNAT, rules);
    out
}

fn pair(pod: Ipv4Addr) -> Vec<u8> {
    [pod.octets(), pod.octets()].concat()
}

fn is_udp(mapping: &PortMapping) -> bool {
    mapping.protocol.as_deref().is_some_and(|p| p.eq_ignore_ascii_case("udp"))
}

fn protocol(mapping: &PortMapping) -> Result<u8> {
    let name = mapping.protocol.as_deref().unwrap_or("tcp");
    crate::protocol_number(name).ok_or_else(|| CniError::new(code::INVALID_CONFIG, format!("unknown protocol {name:?} in portMappings")))
}

fn host_ip(mapping: &PortMapping) -> Result<Option<Ipv4Addr>> {
    let Some(text) = mapping.host_ip.as_deref().filter(|t| !t.is_empty()) else { return Ok(None) };
    let address: Ipv4Addr =
        text.parse().map_err(|_| CniError::new(code::INVALID_CONFIG, format!("hostIP {text:?} in portMappings is no IPv4 address")))?;
    Ok(Some(address).filter(|a| !a.is_unspecified()))
}

fn show(mappings: &[PortMapping]) -> String {
    let one = |m: &PortMapping| {
        let address = m.host_ip.as_deref().filter(|t| !t.is_empty()).unwrap_or("0.0.0.0");
        format!("{address}:{}/{}", m.host_port, m.protocol.as_deref().unwrap_or("tcp"))
    };
    mappings.iter().map(one).collect::<Vec<_>>().join(", ")
}
