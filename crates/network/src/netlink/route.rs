//! Links, addresses, routes and neighbours of one network namespace.
//!
//! Only the operations this crate needs, each one message. Everything we install carries our own routing protocol number,
//! so that teardown finds exactly what is ours. Must never touch a route of another protocol number.

use super::{Attrs, CREATE, EXCL, Error, Message, REPLACE, Reply, Result, Socket, read_str, read_u32};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The `rtm_protocol` of our routes (the range above 15 is free for user space).
pub const PROTOCOL: u8 = 0x46;

const AF_INET: u8 = libc::AF_INET as u8;
const AF_INET6: u16 = libc::AF_INET6 as u16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
const OPERSTATE_UP: u8 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const IFINFOMSG: usize = 16;
const RTMSG: usize = 12;

/// A hardware address.
pub type Mac = [u8; 6];

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel index in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Hardware address, when it has six bytes.
    pub mac: Option<Mac>,
    /// Administratively up.
    pub up: bool,
}

/// One end of a new veth pair.
#[derive(Clone, Debug)]
pub struct VethEnd<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Hardware address.
    pub mac: Mac,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Out of a link, to a neighbour on it.
    Link {
        /// Interface index.
        index: u32,
        /// Source address the node's own sockets get.
        source: Option<Ipv4Addr>,
    },
    /// Through a gateway on a link.
    Gateway {
        /// Interface index.
        index: u32,
        /// The gateway.
        via: Ipv4Addr,
    },
    /// Nowhere: refused at once (ICMP host unreachable, EHOSTUNREACH).
    Unreachable,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// Network address.
    pub dst: Ipv4Addr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// Where it leads.
    pub target: Target,
    /// Smaller wins; 0 is the kernel's default for IPv4.
    pub metric: u32,
}

/// The routing socket of one network namespace.
#[derive(Debug)]
pub struct Route(Socket);

impl Route {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        Ok(Self(Socket::route()?))
    }

    /// The link of that name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, 0).fixed(&ifinfo(0, 0, 0));
        message.attr_str(IFLA_IFNAME, name);
        match self.0.get(format!("look up link {name}"), message) {
            Ok(reply) => Ok(parse_link(&reply)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let message = Message::new(libc::RTM_GETLINK, 0).fixed(&ifinfo(0, 0, 0));
        Ok(self.0.dump("list links", message)?.iter().filter_map(parse_link).collect())
    }

    /// Creates a bridge with a fixed hardware address, administratively down.
    pub fn create_bridge(&mut self, name: &str, mac: Mac) -> Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE | EXCL).fixed(&ifinfo(0, 0, 0));
        message.attr_str(IFLA_IFNAME, name).attr(IFLA_ADDRESS, &mac).nest(IFLA_LINKINFO, |m| {
            m.attr_str(IFLA_INFO_KIND, "bridge");
        });
        self.0.request(format!("create bridge {name}"), message)
    }

    /// Creates a veth pair whose second end is born inside another network namespace.
    pub fn create_veth(&mut self, host: &VethEnd<'_>, pod: &VethEnd<'_>, mtu: u32, pod_ns: BorrowedFd<'_>) -> Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE | EXCL).fixed(&ifinfo(0, 0, 0));
        let fd = pod_ns.as_raw_fd().cast_unsigned();
        message.attr_str(IFLA_IFNAME, host.name).attr(IFLA_ADDRESS, &host.mac).attr_u32(IFLA_MTU, mtu).nest(IFLA_LINKINFO, |m| {
            m.attr_str(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |m| {
                m.nest(VETH_INFO_PEER, |m| {
                    m.raw(&ifinfo(0, 0, 0))
                        .attr_str(IFLA_IFNAME, pod.name)
                        .attr(IFLA_ADDRESS, &pod.mac)
                        .attr_u32(IFLA_MTU, mtu)
                        .attr_u32(IFLA_NET_NS_FD, fd);
                });
            });
        });
        self.0.request(format!("create veth pair {} - {}", host.name, pod.name), message)
    }

    /// Removes a link; one that does not exist is fine.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let mut message = Message::new(libc::RTM_DELLINK, 0).fixed(&ifinfo(0, 0, 0));
        message.attr_str(IFLA_IFNAME, name);
        ignore_missing(self.0.request(format!("delete link {name}"), message))
    }

    /// Keeps the kernel from giving the link an IPv6 link-local address (and its multicast noise). Best effort: a kernel
    /// without IPv6 has nothing to keep quiet.
    pub fn quiet_ipv6(&mut self, index: u32) {
        let mut message = Message::new(libc::RTM_SETLINK, 0).fixed(&ifinfo(index, 0, 0));
        message.nest(IFLA_AF_SPEC, |m| {
            m.nest(AF_INET6, |m| {
                m.attr(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_NONE]);
            });
        });
        let _ = self.0.request("set IPv6 address generation mode", message);
    }

    /// Sets a link up.
    pub fn set_up(&mut self, index: u32) -> Result<()> {
        let up = libc::IFF_UP as u32;
        let message = Message::new(libc::RTM_SETLINK, 0).fixed(&ifinfo(index, up, up));
        self.0.request("set link up", message)
    }

    /// Waits until a link that is up can send. After both ends of a pair are up, the kernel opens the queue of the one
    /// that was first in the background, and drops what is sent before that. Asking makes a kernel since 6.8 do it at once.
    pub fn wait_until_running(&mut self, index: u32) -> Result<()> {
        if self.is_running(index)? {
            return Ok(());
        }
        let mut events = Socket::link_events()?;
        while !self.is_running(index)? {
            events.wait()?;
        }
        Ok(())
    }

    fn is_running(&mut self, index: u32) -> Result<bool> {
        let message = Message::new(libc::RTM_GETLINK, 0).fixed(&ifinfo(index, 0, 0));
        let reply = self.0.get("look up a link", message)?;
        Ok(reply.attrs(IFINFOMSG).find(IFLA_OPERSTATE) == Some(&[OPERSTATE_UP]))
    }

    /// Gives a link an address; one that is already there is fine.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let mut message = Message::new(libc::RTM_NEWADDR, CREATE | REPLACE).fixed(&ifaddr(index, prefix));
        message.attr(IFA_LOCAL, &address.octets()).attr(IFA_ADDRESS, &address.octets());
        self.0.request(format!("add address {address}/{prefix}"), message)
    }

    /// All IPv4 addresses: (link index, address, prefix length).
    pub fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Addr, u8)>> {
        let message = Message::new(libc::RTM_GETADDR, 0).fixed(&ifaddr(0, 0));
        let replies = self.0.dump("list addresses", message)?;
        Ok(replies.iter().filter_map(parse_address).collect())
    }

    /// Installs a route, replacing one with the same destination and metric.
    pub fn set_route(&mut self, route: &RouteSpec) -> Result<()> {
        let message = route_message(libc::RTM_NEWROUTE, CREATE | REPLACE, route);
        self.0.request(format!("add route {}/{}", route.dst, route.prefix), message)
    }

    /// Removes a route; one that does not exist is fine.
    pub fn delete_route(&mut self, route: &RouteSpec) -> Result<()> {
        let message = route_message(libc::RTM_DELROUTE, 0, route);
        ignore_missing(self.0.request(format!("delete route {}/{}", route.dst, route.prefix), message))
    }

    /// All IPv4 routes of the main table that carry our protocol number.
    pub fn own_routes(&mut self) -> Result<Vec<RouteSpec>> {
        Ok(self.routes()?.into_iter().filter(|(protocol, _)| *protocol == PROTOCOL).map(|(_, r)| r).collect())
    }

    /// The link of the IPv4 default route with the lowest metric.
    pub fn default_link(&mut self) -> Result<Option<u32>> {
        let defaults = self.routes()?.into_iter().filter(|(_, r)| r.prefix == 0).filter_map(|(_, r)| match r.target {
            Target::Link { index, .. } | Target::Gateway { index, .. } => Some((r.metric, index)),
            Target::Unreachable => None,
        });
        Ok(defaults.min().map(|(_, index)| index))
    }

    fn routes(&mut self) -> Result<Vec<(u8, RouteSpec)>> {
        let mut header = [0; RTMSG];
        header[0] = AF_INET;
        let replies = self.0.dump("list routes", Message::new(libc::RTM_GETROUTE, 0).fixed(&header))?;
        Ok(replies.iter().filter_map(parse_route).collect())
    }

    /// Pins a neighbour's hardware address, so that no ARP is ever needed for it.
    pub fn pin_neighbour(&mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Result<()> {
        let mut header = [0; 12];
        header[0] = AF_INET;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        let mut message = Message::new(libc::RTM_NEWNEIGH, CREATE | REPLACE).fixed(&header);
        message.attr(NDA_DST, &address.octets()).attr(NDA_LLADDR, &mac);
        self.0.request(format!("pin neighbour {address}"), message)
    }
}

fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; IFINFOMSG] {
    let mut out = [0; IFINFOMSG];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out[8..12].copy_from_slice(&flags.to_ne_bytes());
    out[12..16].copy_from_slice(&change.to_ne_bytes());
    out
}

fn ifaddr(index: u32, prefix: u8) -> [u8; 8] {
    let mut out = [AF_INET, prefix, 0, 0, 0, 0, 0, 0];
    out[4..8].copy_from_slice(&index.to_ne_bytes());
    out
}

fn route_message(kind: u16, flags: u16, route: &RouteSpec) -> Message {
    let (rtype, scope) = match route.target {
        Target::Link { .. } => (libc::RTN_UNICAST, libc::RT_SCOPE_LINK),
        Target::Gateway { .. } => (libc::RTN_UNICAST, libc::RT_SCOPE_UNIVERSE),
        Target::Unreachable => (libc::RTN_UNREACHABLE, libc::RT_SCOPE_UNIVERSE),
    };
    let header = [AF_INET, route.prefix, 0, 0, libc::RT_TABLE_MAIN, PROTOCOL, scope, rtype, 0, 0, 0, 0];
    let mut message = Message::new(kind, flags).fixed(&header);
    if route.prefix > 0 {
        message.attr(RTA_DST, &route.dst.octets());
    }
    if route.metric > 0 {
        message.attr_u32(RTA_PRIORITY, route.metric);
    }
    match route.target {
        Target::Link { index, source } => {
            message.attr_u32(RTA_OIF, index);
            if let Some(source) = source {
                message.attr(RTA_PREFSRC, &source.octets());
            }
        }
        Target::Gateway { index, via } => {
            message.attr_u32(RTA_OIF, index).attr(RTA_GATEWAY, &via.octets());
        }
        Target::Unreachable => {}
    }
    message
}

fn parse_link(reply: &Reply) -> Option<Link> {
    let index = read_u32(reply.payload.get(4..8)?)?;
    let flags = read_u32(reply.payload.get(8..12)?)?;
    let attrs = reply.attrs(IFINFOMSG);
    Some(Link {
        index,
        name: read_str(attrs.find(IFLA_IFNAME)?),
        mtu: attrs.find(IFLA_MTU).and_then(read_u32)?,
        mac: attrs.find(IFLA_ADDRESS).and_then(|m| m.try_into().ok()),
        up: flags & libc::IFF_UP as u32 != 0,
    })
}

fn parse_address(reply: &Reply) -> Option<(u32, Ipv4Addr, u8)> {
    if *reply.payload.first()? != AF_INET {
        return None;
    }
    let index = read_u32(reply.payload.get(4..8)?)?;
    Some((index, read_ipv4(&reply.attrs(8), IFA_LOCAL)?, *reply.payload.get(1)?))
}

fn parse_route(reply: &Reply) -> Option<(u8, RouteSpec)> {
    let head: &[u8; RTMSG] = reply.payload.get(..RTMSG)?.try_into().ok()?;
    if head[0] != AF_INET || head[4] != libc::RT_TABLE_MAIN {
        return None;
    }
    let attrs = reply.attrs(RTMSG);
    let index = attrs.find(RTA_OIF).and_then(read_u32);
    let target = match (head[7], index, read_ipv4(&attrs, RTA_GATEWAY)) {
        (libc::RTN_UNREACHABLE, _, _) => Target::Unreachable,
        (libc::RTN_UNICAST, Some(index), Some(via)) => Target::Gateway { index, via },
        (libc::RTN_UNICAST, Some(index), None) => Target::Link { index, source: read_ipv4(&attrs, RTA_PREFSRC) },
        _ => return None,
    };
    let dst = read_ipv4(&attrs, RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let metric = attrs.find(RTA_PRIORITY).and_then(read_u32).unwrap_or(0);
    Some((head[5], RouteSpec { dst, prefix: head[1], target, metric }))
}

fn read_ipv4(attrs: &Attrs<'_>, kind: u16) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = attrs.find(kind)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

/// An error for an interface that should be there.
pub fn missing_link(name: &str) -> Error {
    Error::new(format!("look up link {name}"), std::io::Error::from_raw_os_error(libc::ENODEV))
}
