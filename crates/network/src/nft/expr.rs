//! What a rule says: a list of expressions, each loading, matching or acting on registers, exactly as the kernel
//! evaluates them. The constructors at the end are the vocabulary the rest of the crate writes rules in.

use super::ruleset::SetSpec;
use crate::cidr::Cidr;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// A 32-bit register (`NFT_REG32_00` + n). Values longer than four bytes continue in the following registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reg(pub u32);

/// Registers by convention: keys are built from `R0` on, NAT targets sit in `R4` (address) and `R5` (port).
pub const R0: Reg = Reg(8);
/// See [`R0`].
pub const R1: Reg = Reg(9);
/// See [`R0`].
pub const R2: Reg = Reg(10);
/// Address of a NAT target.
pub const R4: Reg = Reg(12);
/// Port of a NAT target.
pub const R5: Reg = Reg(13);
/// Scratch.
pub const R8: Reg = Reg(16);

/// A rule: expressions evaluated left to right; a match that fails ends it.
pub type Rule = Vec<Expr>;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Leaves this hook's chain unharmed.
    Accept,
    /// Gone without an answer.
    Drop,
    /// Back to the calling chain.
    Return,
    /// On to a chain, and back.
    Jump(Arc<str>),
    /// On to a chain for good.
    Goto(Arc<str>),
}

/// Type of one part of a set's key or data; every part takes whole 32-bit words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// IPv4 address.
    Ipv4,
    /// Transport protocol number.
    Proto,
    /// Transport port.
    Port,
    /// 32-bit integer in host byte order.
    Integer,
}

/// Layer whose header a payload expression reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// IPv4 header.
    Network,
    /// TCP, UDP or SCTP header.
    Transport,
}

/// Packet metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Meta {
    /// The packet mark.
    Mark,
    /// Index of the input interface.
    InInterface,
    /// Index of the output interface.
    OutInterface,
    /// Transport protocol number.
    L4Proto,
}

/// Comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cmp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
}

/// Whose address a `fib` lookup classifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FibKey {
    /// Source address.
    Source,
    /// Destination address.
    Destination,
}

/// A set used by a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SetRef {
    /// A named set of the same table.
    Named(Arc<str>),
    /// A constant set that lives and dies with the rule.
    Inline(SetSpec, Vec<(Vec<u8>, super::Data)>),
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reject {
    /// TCP reset.
    TcpReset,
    /// ICMP port unreachable.
    PortUnreachable,
}

/// One expression of the kernel's rule machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "field names are the kernel's own (source, destination register, offset, length)")]
pub enum Expr {
    /// Load bytes of a header.
    Payload { base: Base, offset: u32, len: u32, dreg: Reg },
    /// Load metadata.
    Meta { key: Meta, dreg: Reg },
    /// Set metadata.
    MetaSet { key: Meta, sreg: Reg },
    /// Load the connection state bits.
    CtState { dreg: Reg },
    /// Load the connection status bits.
    CtStatus { dreg: Reg },
    /// Load the type (local, unicast, ...) of an address.
    FibType { key: FibKey, dreg: Reg },
    /// Compare.
    Cmp { op: Cmp, sreg: Reg, value: Vec<u8> },
    /// `(value & mask) ^ xor`.
    Bitwise { sreg: Reg, dreg: Reg, mask: Vec<u8>, xor: Vec<u8> },
    /// Load a constant.
    Immediate { dreg: Reg, value: Vec<u8> },
    /// Decide.
    Verdict(Verdict),
    /// Match a set, or load what a map holds (`dreg`).
    Lookup { set: SetRef, sreg: Reg, dreg: Option<Reg> },
    /// Match a verdict map and take its verdict.
    VerdictMap { set: SetRef, sreg: Reg },
    /// Add to a dynamic set, or renew the element's timeout.
    Update { set: Arc<str>, key: Reg, timeout: Duration },
    /// Load a random number below `modulus`.
    Random { dreg: Reg, modulus: u32 },
    /// Rewrite the destination.
    Dnat { addr: Reg, port: Reg },
    /// Rewrite the source to the node's own.
    Masquerade,
    /// Refuse.
    Reject(Reject),
}

const IPPROTO_TCP: u8 = libc::IPPROTO_TCP as u8;
const RTN_LOCAL: u32 = libc::RTN_LOCAL as u32;
const CT_STATE_INVALID: u32 = 1;
const CT_STATE_NEW: u32 = 8;
/// `IPS_DST_NAT`: the destination of this connection was rewritten.
pub const CT_STATUS_DNAT: u32 = 1 << 5;
const SADDR: u32 = 12;
const DADDR: u32 = 16;

/// Loads the source address.
pub fn load_saddr(dreg: Reg) -> Expr {
    Expr::Payload { base: Base::Network, offset: SADDR, len: 4, dreg }
}

/// Loads the destination address.
pub fn load_daddr(dreg: Reg) -> Expr {
    Expr::Payload { base: Base::Network, offset: DADDR, len: 4, dreg }
}

/// Loads the destination port.
pub fn load_dport(dreg: Reg) -> Expr {
    Expr::Payload { base: Base::Transport, offset: 2, len: 2, dreg }
}

/// Loads the transport protocol.
pub fn load_l4proto(dreg: Reg) -> Expr {
    Expr::Meta { key: Meta::L4Proto, dreg }
}

/// Loads `daddr . l4proto . dport`, the key of the service maps, from `R0` on.
pub fn load_destination() -> [Expr; 3] {
    [load_daddr(R0), load_l4proto(R1), load_dport(R2)]
}

/// Loads `l4proto . dport`, the key of the node-port maps, from `R0` on.
pub fn load_proto_port() -> [Expr; 2] {
    [load_l4proto(R0), load_dport(R1)]
}

/// Matches a network in an address loader's register.
fn in_cidr(load: Expr, cidr: Cidr, op: Cmp) -> Vec<Expr> {
    let mask = cidr.mask().octets().to_vec();
    vec![
        load,
        Expr::Bitwise { sreg: R0, dreg: R0, mask, xor: vec![0; 4] },
        Expr::Cmp { op, sreg: R0, value: cidr.network().octets().to_vec() },
    ]
}

/// `ip saddr CIDR`.
pub fn saddr_in(cidr: Cidr) -> Vec<Expr> {
    in_cidr(load_saddr(R0), cidr, Cmp::Eq)
}

/// `ip saddr != CIDR`.
pub fn saddr_not_in(cidr: Cidr) -> Vec<Expr> {
    in_cidr(load_saddr(R0), cidr, Cmp::Ne)
}

/// `ip daddr CIDR`.
pub fn daddr_in(cidr: Cidr) -> Vec<Expr> {
    in_cidr(load_daddr(R0), cidr, Cmp::Eq)
}

/// `ip daddr != CIDR`.
pub fn daddr_not_in(cidr: Cidr) -> Vec<Expr> {
    in_cidr(load_daddr(R0), cidr, Cmp::Ne)
}

/// `ip daddr ADDRESS`.
pub fn daddr_is(address: Ipv4Addr) -> [Expr; 2] {
    [load_daddr(R0), Expr::Cmp { op: Cmp::Eq, sreg: R0, value: address.octets().to_vec() }]
}

/// `meta l4proto PROTO`.
pub fn l4proto_is(proto: u8) -> [Expr; 2] {
    [load_l4proto(R0), Expr::Cmp { op: Cmp::Eq, sreg: R0, value: vec![proto] }]
}

/// `th dport PORT`.
pub fn dport_is(port: u16) -> [Expr; 2] {
    [load_dport(R0), Expr::Cmp { op: Cmp::Eq, sreg: R0, value: port.to_be_bytes().to_vec() }]
}

/// `ct state new`.
pub fn ct_state_new() -> [Expr; 3] {
    bits(Expr::CtState { dreg: R0 }, CT_STATE_NEW, Cmp::Ne)
}

/// `ct state invalid`.
pub fn ct_state_invalid() -> [Expr; 3] {
    bits(Expr::CtState { dreg: R0 }, CT_STATE_INVALID, Cmp::Ne)
}

/// `ct status dnat`.
pub fn ct_status_dnat() -> [Expr; 3] {
    bits(Expr::CtStatus { dreg: R0 }, CT_STATUS_DNAT, Cmp::Ne)
}

/// `meta mark & BIT != 0` (or `== 0` with [`Cmp::Eq`]).
pub fn mark_bit(bit: u32, op: Cmp) -> [Expr; 3] {
    bits(Expr::Meta { key: Meta::Mark, dreg: R0 }, bit, op)
}

fn bits(load: Expr, bits: u32, op: Cmp) -> [Expr; 3] {
    let mask = bits.to_ne_bytes().to_vec();
    [load, Expr::Bitwise { sreg: R0, dreg: R0, mask, xor: vec![0; 4] }, Expr::Cmp { op, sreg: R0, value: vec![0; 4] }]
}

/// `meta mark set (mark & ~clear) ^ flip`.
pub fn change_mark(clear: u32, flip: u32) -> [Expr; 3] {
    let (mask, xor) = ((!clear).to_ne_bytes().to_vec(), flip.to_ne_bytes().to_vec());
    [Expr::Meta { key: Meta::Mark, dreg: R0 }, Expr::Bitwise { sreg: R0, dreg: R0, mask, xor }, Expr::MetaSet { key: Meta::Mark, sreg: R0 }]
}

/// `fib saddr|daddr type local`.
pub fn is_local(key: FibKey) -> [Expr; 2] {
    [Expr::FibType { key, dreg: R0 }, Expr::Cmp { op: Cmp::Eq, sreg: R0, value: RTN_LOCAL.to_ne_bytes().to_vec() }]
}

/// `iif != INDEX` / `iif INDEX`.
pub fn in_interface(op: Cmp, index: u32) -> [Expr; 2] {
    [Expr::Meta { key: Meta::InInterface, dreg: R0 }, Expr::Cmp { op, sreg: R0, value: index.to_ne_bytes().to_vec() }]
}

/// `reject with tcp reset` for TCP.
pub fn reject_tcp() -> Rule {
    l4proto_is(IPPROTO_TCP).into_iter().chain([Expr::Reject(Reject::TcpReset)]).collect()
}

/// `reject with icmp port-unreachable`.
pub fn reject_other() -> Rule {
    vec![Expr::Reject(Reject::PortUnreachable)]
}

/// `jump CHAIN`.
pub fn jump(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Jump(chain.into()))
}

/// `goto CHAIN`.
pub fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.into()))
}

/// A key or NAT target `address . port`, as it lies in two registers.
pub fn addr_port(address: Ipv4Addr, port: u16) -> Vec<u8> {
    let [a, b, c, d] = address.octets();
    let [high, low] = port.to_be_bytes();
    vec![a, b, c, d, high, low, 0, 0]
}

/// A key `proto . port`.
pub fn proto_port(proto: u8, port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    vec![proto, 0, 0, 0, high, low, 0, 0]
}

/// A key `address . proto . port`.
pub fn addr_proto_port(address: Ipv4Addr, proto: u8, port: u16) -> Vec<u8> {
    let mut key = address.octets().to_vec();
    key.extend(proto_port(proto, port));
    key
}
