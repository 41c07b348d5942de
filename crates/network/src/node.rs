//! The node's own part of the pod network: what must exist before the first pod and go when the node is reset.
//!
//! - An anchor interface that carries the gateway address and the route of the service range. Service addresses are
//!   translated before a packet leaves; the route only lets the node's own sockets get as far as the translation.
//! - Unreachable routes for the pod and service ranges, so that an address nobody holds is refused at once and never
//!   follows the default route out of the machine.
//! - One nftables table: masquerading of pods that talk to the world, refusal of service addresses that nothing
//!   translated, and a guard around 127.0.0.0/8, which `route_localnet` (node ports on localhost) would else expose.
//!
//! Must never: change another owner's route, table, chain or link.

use crate::cidr::Cidr;
use crate::cni::config::HOST_LINK_PREFIX;
use crate::cni::hostports;
use crate::netlink::route::{Mac, Route, RouteSpec, Target, missing_link};
use crate::netlink::{self, Error};
use crate::nft::expr::{Cmp, Expr, Meta, R0, Verdict, daddr_in, daddr_not_in, in_interface, reject_other, reject_tcp, saddr_in};
use crate::nft::{Hook, Kind, Nft, Rule, RuleSet, TableName, diff};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// The interface that carries the pods' gateway address.
pub const ANCHOR: &str = "ferrokube0";
/// The table.
pub const TABLE: TableName = TableName("ferrokube-network");

const ANCHOR_MAC: Mac = [0x02, 0x46, 0x4b, 0x00, 0x00, 0x00];
const LOOPBACK_INDEX: u32 = 1;
/// Far below any route that leads somewhere.
const LAST_METRIC: u32 = u32::MAX - 1;
const RAW: i32 = -300;
const SRCNAT: i32 = 100;
/// After the service proxy's chains, which may have decided to drop silently.
const LATE_FILTER: i32 = 10;

/// The pod network as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Range of all pods of the cluster.
    pub cluster_cidr: Cidr,
    /// Range of this node's pods, inside the cluster's; its first address is the gateway.
    pub pod_cidr: Cidr,
    /// Range of service addresses.
    pub service_cidr: Cidr,
    /// Largest packet in bytes; that of the default route's interface when absent.
    pub mtu: Option<u32>,
    /// Folder for address reservations; must survive restarts.
    pub data_dir: PathBuf,
}

impl NodeNetwork {
    /// The pods' gateway: a local address of the node that every pod can reach.
    pub fn gateway(&self) -> Ipv4Addr {
        self.pod_cidr.nth(1).unwrap_or(self.pod_cidr.network())
    }

    /// Fills in the largest packet size from the default route's interface (1500 without one).
    ///
    /// # Errors
    /// The kernel could not be asked.
    pub fn with_detected_mtu(mut self) -> netlink::Result<Self> {
        if self.mtu.is_none() {
            let mut route = Route::open()?;
            let index = route.default_link()?;
            let link = route.links()?.into_iter().find(|l| Some(l.index) == index);
            self.mtu = Some(link.map_or(1500, |l| l.mtu));
        }
        Ok(self)
    }
}

/// Makes the node ready for pods. Running it again, also with other ranges, leaves what the last run asks for.
///
/// # Errors
/// The kernel refused; the message says what and why (usually a missing privilege).
pub fn set_up(node: &NodeNetwork) -> netlink::Result<()> {
    let mut route = Route::open()?;
    let anchor = ensure_anchor(&mut route, node.gateway())?;
    set_routes(&mut route, node, anchor)?;
    let mut nft = Nft::open()?;
    nft.replace(TABLE, &diff(&RuleSet::default(), &table(node)))?;
    // The guard of 127.0.0.0/8 is in place: now it may be opened.
    sysctl("net/ipv4/conf/all/route_localnet", "1")?;
    sysctl("net/ipv4/ip_forward", "1")
}

/// Removes everything of ours from this network namespace: pod links, anchor, routes, tables. Sysctls stay as they are.
///
/// # Errors
/// The kernel refused.
pub fn tear_down() -> netlink::Result<()> {
    let mut route = Route::open()?;
    for link in route.links()? {
        if link.name.starts_with(HOST_LINK_PREFIX) || link.name == ANCHOR {
            route.delete_link(&link.name)?;
        }
    }
    for own in route.own_routes()? {
        route.delete_route(&own)?;
    }
    let mut nft = Nft::open()?;
    [TABLE, hostports::TABLE, crate::proxy::TABLE].into_iter().try_for_each(|table| nft.delete(table))
}

fn ensure_anchor(route: &mut Route, gateway: Ipv4Addr) -> netlink::Result<u32> {
    if let Some(link) = route.link(ANCHOR)? {
        let addresses = route.addresses()?;
        let own: Vec<_> = addresses.iter().filter(|(index, ..)| *index == link.index).map(|(_, a, _)| *a).collect();
        if link.up && own == [gateway] {
            return Ok(link.index);
        }
        route.delete_link(ANCHOR)?;
    }
    route.create_bridge(ANCHOR, ANCHOR_MAC)?;
    let index = route.link(ANCHOR)?.ok_or_else(|| missing_link(ANCHOR))?.index;
    route.quiet_ipv6(index);
    route.add_address(index, gateway, 32)?;
    route.set_up(index)?;
    let lo = route.link("lo")?.ok_or_else(|| missing_link("lo"))?;
    if !lo.up {
        route.set_up(lo.index)?;
    }
    Ok(index)
}

fn set_routes(route: &mut Route, node: &NodeNetwork, anchor: u32) -> netlink::Result<()> {
    let unreachable =
        |cidr: Cidr| RouteSpec { dst: cidr.network(), prefix: cidr.prefix(), target: Target::Unreachable, metric: LAST_METRIC };
    let services = RouteSpec {
        dst: node.service_cidr.network(),
        prefix: node.service_cidr.prefix(),
        target: Target::Link { index: anchor, source: Some(node.gateway()) },
        metric: 0,
    };
    let mut want = vec![unreachable(node.cluster_cidr), unreachable(node.service_cidr), services];
    if node.pod_cidr != node.cluster_cidr {
        want.push(unreachable(node.pod_cidr));
    }
    for old in route.own_routes()? {
        let is_pod = old.prefix == 32;
        if !is_pod && !want.contains(&old) {
            route.delete_route(&old)?;
        }
    }
    want.iter().try_for_each(|r| route.set_route(r))
}

/// The node's table.
pub fn table(node: &NodeNetwork) -> RuleSet {
    let mut out = RuleSet::default();
    let loopback = Cidr::new(Ipv4Addr::LOCALHOST, 8);
    let multicast = Cidr::new(Ipv4Addr::new(224, 0, 0, 0), 4);
    let from_outside = |matches: Vec<Expr>| -> Rule {
        let drop = Expr::Verdict(Verdict::Drop);
        in_interface(Cmp::Ne, LOOPBACK_INDEX).into_iter().chain(matches).chain([drop]).collect()
    };
    let guard = vec![from_outside(daddr_in(loopback)), from_outside(saddr_in(loopback))];
    out.base_chain("loopback-guard", Kind::Filter, Hook::Prerouting, RAW, guard);

    let not_loopback = [
        Expr::Meta { key: Meta::OutInterface, dreg: R0 },
        Expr::Cmp { op: Cmp::Ne, sreg: R0, value: LOOPBACK_INDEX.to_ne_bytes().to_vec() },
    ];
    let mut to_world = saddr_in(node.cluster_cidr);
    to_world.extend(daddr_not_in(node.cluster_cidr));
    to_world.extend(daddr_not_in(multicast));
    to_world.extend(not_loopback);
    to_world.push(Expr::Masquerade);
    out.base_chain("masquerade", Kind::Nat, Hook::Postrouting, SRCNAT, vec![to_world]);

    let refuse = |rule: Rule| -> Rule { daddr_in(node.service_cidr).into_iter().chain(rule).collect() };
    let untranslated = vec![refuse(reject_tcp()), refuse(reject_other())];
    out.base_chain("forward", Kind::Filter, Hook::Forward, LATE_FILTER, untranslated.clone());
    out.base_chain("output", Kind::Filter, Hook::Output, LATE_FILTER, untranslated);
    out
}

fn sysctl(name: &str, value: &str) -> netlink::Result<()> {
    let path = format!("/proc/sys/{name}");
    match fs::read_to_string(&path) {
        Ok(current) if current.trim() == value => Ok(()),
        Ok(_) => write_sysctl(&path, value),
        Err(e) => Err(Error::new(format!("read {path}"), e)),
    }
}

fn write_sysctl(path: &str, value: &str) -> netlink::Result<()> {
    fs::write(path, value).map_err(|e: io::Error| Error::new(format!("set {path} to {value}"), e))
}
