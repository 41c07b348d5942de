//! The kernel's connection table: find UDP flows and forget them.
//!
//! UDP has no end of connection. A client that keeps sending keeps its entry alive and with it the translation that was
//! chosen for the first packet, also when the endpoint behind it has gone. Such entries must be deleted, and no others.

use crate::netlink::{Attrs, Message, Reply, Result, Socket};
use std::net::Ipv4Addr;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const ZONE: u16 = 18;
const ID: u16 = 12;
const UDP: u8 = libc::IPPROTO_UDP as u8;

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct End {
    /// Address.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
}

/// A UDP flow: where its packets were sent, and who answers in truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Destination the client wrote on the packet.
    pub original: End,
    /// Where the packets go: the endpoint after translation.
    pub actual: End,
    /// What identifies the entry to the kernel: attributes copied from the dump.
    key: Vec<(u16, Vec<u8>)>,
}

/// Deletes the IPv4 UDP entries that `stale` selects; returns how many.
///
/// # Errors
/// The table cannot be read. An entry that went by itself meanwhile is fine.
pub fn delete_udp(stale: impl Fn(&Flow) -> bool) -> Result<usize> {
    let mut socket = Socket::netfilter()?;
    let replies = socket.dump("list connections", ct_message(GET))?;
    let mut deleted = 0;
    for flow in replies.iter().filter_map(parse).filter(stale) {
        let mut message = ct_message(DELETE);
        for (kind, value) in &flow.key {
            message.attr(*kind, value);
        }
        match socket.request("delete a connection entry", message) {
            Ok(()) => deleted += 1,
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(deleted)
}

fn ct_message(kind: u16) -> Message {
    Message::new(kind, 0).fixed(&[libc::AF_INET as u8, 0, 0, 0])
}

fn parse(reply: &Reply) -> Option<Flow> {
    const NESTED: u16 = 0x8000;
    let attrs = reply.attrs(4);
    let original = attrs.find(TUPLE_ORIG)?;
    let answer = Attrs(attrs.find(TUPLE_REPLY)?);
    let (_, original_dst) = ends(&Attrs(original))?;
    let (reply_src, _) = ends(&answer)?;
    let mut key = vec![(TUPLE_ORIG | NESTED, original.to_vec())];
    key.extend([ZONE, ID].into_iter().filter_map(|kind| Some((kind, attrs.find(kind)?.to_vec()))));
    Some(Flow { original: original_dst, actual: reply_src, key })
}

/// Source and destination of a UDP tuple.
fn ends(tuple: &Attrs<'_>) -> Option<(End, End)> {
    let ip = Attrs(tuple.find(TUPLE_IP)?);
    let proto = Attrs(tuple.find(TUPLE_PROTO)?);
    if proto.find(1)?.first() != Some(&UDP) {
        return None;
    }
    let address = |kind| Some(Ipv4Addr::from(<[u8; 4]>::try_from(ip.find(kind)?).ok()?));
    let port = |kind| Some(u16::from_be_bytes(proto.find(kind)?.try_into().ok()?));
    Some((End { address: address(1)?, port: port(2)? }, End { address: address(2)?, port: port(3)? }))
}
