//! A pod's link to the node.
//!
//! Every pod has a veth pair of its own and a /32 address; the node routes. Why not a bridge: with routing alone, an
//! address nobody holds is refused at once (an unreachable route covers the range), traffic from a pod through a service
//! back to itself needs neither hairpin mode nor `br_netfilter`, strict reverse-path filtering keeps a pod from using
//! another's address, and policy has one place to sit. Both ends know each other's hardware address from the start, so
//! no ARP is ever sent and no neighbour entry can go stale.

use super::config::{Attachment, HOST_LINK_PREFIX, NetConf};
use super::hostports;
use super::ipam::{Ipam, Reservation};
use super::{CniError, Result, code};
use crate::netlink::route::{Mac, Route, RouteSpec, Target, VethEnd, missing_link};
use crate::netns;
use crate::node::ANCHOR;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

/// The node's end of every pod link: the links are point to point, so they may share it.
const HOST_MAC: Mac = [0x02, 0x46, 0x4b, 0x00, 0x00, 0x01];
const DEFAULT_MTU: u32 = 1500;
const ADD_TAKES_AT_MOST: Duration = Duration::from_secs(60);

/// A pod's hardware address follows from its IP address.
fn pod_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x46, a, b, c, d]
}

fn show(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// ADD: reserves an address, makes the link, forwards host ports. Undone when any of it fails. An attachment that a crash
/// left half made is made anew with the same address.
///
/// # Errors
/// As the specification defines them.
pub fn add(conf: &NetConf, attachment: &Attachment) -> Result<Value> {
    let netns = open_netns(attachment)?;
    let address = reserve(conf, attachment)?;
    connect(conf, attachment, &netns, address).and_then(|()| hostports::forward(address, &conf.port_mappings())).inspect_err(|_| {
        // The first error is the one to report; what cannot be undone now, the runtime's DEL will.
        let _ = del(conf, attachment);
    })?;
    result(conf, attachment, address)
}

/// The book is open only as long as it takes: the reservation holds, other pods need not wait for the kernel.
fn reserve(conf: &NetConf, attachment: &Attachment) -> Result<Ipv4Addr> {
    let ipam = Ipam::open(conf.data_dir()?)?;
    let attempt = || ipam.reserve(conf.pod_cidr()?, &attachment.container, &attachment.ifname);
    match attempt() {
        Err(e) if e.code == code::NO_ADDRESS => {
            // A sandbox whose network namespace has gone took its link along, whether or not anybody called DEL.
            let links: HashSet<String> = Route::open()?.links()?.into_iter().map(|l| l.name).collect();
            let alive = |r: &Reservation| {
                let owner = Attachment { container: r.container.clone(), ifname: r.ifname.clone(), netns: None };
                links.contains(&owner.host_link())
            };
            let freed = ipam.reclaim(ADD_TAKES_AT_MOST, alive)?;
            freed.iter().try_for_each(|address| hostports::remove(*address))?;
            if freed.is_empty() { Err(e) } else { attempt() }
        }
        other => other,
    }
}

fn connect(conf: &NetConf, attachment: &Attachment, netns: &File, address: Ipv4Addr) -> Result<()> {
    let gateway = conf.gateway()?;
    let host_link = attachment.host_link();
    let mac = pod_mac(address);
    let mut route = Route::open()?;
    let host = VethEnd { name: &host_link, mac: HOST_MAC };
    let pod = VethEnd { name: &attachment.ifname, mac };
    let mtu = conf.mtu.unwrap_or(DEFAULT_MTU);
    match route.create_veth(&host, &pod, mtu, netns.as_fd()) {
        Err(e) if e.is_exists() => {
            route.delete_link(&host_link)?;
            route.create_veth(&host, &pod, mtu, netns.as_fd())?;
        }
        other => other?,
    }
    let (mut in_pod, pod_index) = inside(netns, || configure_pod(&attachment.ifname, address, gateway))?;
    let link = route.link(&host_link)?.ok_or_else(|| missing_link(&host_link))?;
    route.quiet_ipv6(link.index);
    route.set_up(link.index)?;
    route.pin_neighbour(link.index, address, mac)?;
    route.set_route(&RouteSpec {
        dst: address,
        prefix: 32,
        target: Target::Link { index: link.index, source: Some(gateway) },
        metric: 0,
    })?;
    // The node's end came up second and is ready; the pod's first packet must not be lost either.
    Ok(in_pod.wait_until_running(pod_index)?)
}

/// Runs in the pod's namespace; the socket it returns stays there.
fn configure_pod(ifname: &str, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(Route, u32)> {
    let mut route = Route::open()?;
    set_loopback_up(&mut route)?;
    let index = route.link(ifname)?.ok_or_else(|| missing_link(ifname))?.index;
    route.quiet_ipv6(index);
    route.add_address(index, address, 32)?;
    route.set_up(index)?;
    route.pin_neighbour(index, gateway, HOST_MAC)?;
    let to_gateway = Target::Link { index, source: None };
    route.set_route(&RouteSpec { dst: gateway, prefix: 32, target: to_gateway, metric: 0 })?;
    let default = Target::Gateway { index, via: gateway };
    route.set_route(&RouteSpec { dst: Ipv4Addr::UNSPECIFIED, prefix: 0, target: default, metric: 0 })?;
    Ok((route, index))
}

fn set_loopback_up(route: &mut Route) -> Result<()> {
    let lo = route.link("lo")?.ok_or_else(|| missing_link("lo"))?;
    if !lo.up {
        route.set_up(lo.index)?;
    }
    Ok(())
}

/// Sets the loopback interface of the attachment's namespace up.
///
/// # Errors
/// The namespace has gone, or the kernel refused.
pub fn loopback_up(attachment: &Attachment) -> Result<()> {
    inside(&open_netns(attachment)?, || set_loopback_up(&mut Route::open()?))
}

fn result(conf: &NetConf, attachment: &Attachment, address: Ipv4Addr) -> Result<Value> {
    let gateway = conf.gateway()?;
    let mut ip = json!({"address": format!("{address}/32"), "gateway": gateway, "interface": 1});
    if conf.cni_version.starts_with("0.") {
        ip["version"] = json!("4");
    }
    Ok(json!({
        "cniVersion": conf.cni_version,
        "interfaces": [
            {"name": attachment.host_link(), "mac": show(HOST_MAC)},
            {"name": attachment.ifname, "mac": show(pod_mac(address)), "sandbox": attachment.netns},
        ],
        "ips": [ip],
        "routes": [{"dst": "0.0.0.0/0", "gw": gateway}],
        "dns": {},
    }))
}

/// DEL: removes link, host ports and reservation; what has already gone is fine.
///
/// # Errors
/// The kernel or the file system refused; the runtime tries again.
pub fn del(conf: &NetConf, attachment: &Attachment) -> Result<()> {
    Route::open()?.delete_link(&attachment.host_link())?;
    let held = Ipam::open(conf.data_dir()?)?.find(&attachment.container, &attachment.ifname)?;
    if let Some(address) = held {
        // Before the address is free for the next pod.
        hostports::remove(address)?;
    }
    Ipam::open(conf.data_dir()?)?.release(&attachment.container, &attachment.ifname)?;
    Ok(())
}

/// CHECK: the attachment is as ADD left it.
///
/// # Errors
/// What is missing.
pub fn check(conf: &NetConf, attachment: &Attachment) -> Result<()> {
    let failed = |what: String| Err(CniError::new(code::CHECK_FAILED, what));
    let held = Ipam::open(conf.data_dir()?)?.find(&attachment.container, &attachment.ifname)?;
    let Some(address) = held else {
        return failed(format!("no address is reserved for container {}", attachment.container));
    };
    let mut route = Route::open()?;
    let host_link = attachment.host_link();
    let Some(link) = route.link(&host_link)?.filter(|l| l.up) else {
        return failed(format!("link {host_link} is missing or down"));
    };
    let leads_there = |r: &RouteSpec| matches!(r.target, Target::Link { index, .. } if index == link.index);
    if !route.own_routes()?.iter().any(|r| r.dst == address && r.prefix == 32 && leads_there(r)) {
        return failed(format!("route to {address} is missing"));
    }
    inside(&open_netns(attachment)?, || {
        let mut route = Route::open()?;
        let link = route.link(&attachment.ifname)?.filter(|l| l.up);
        let addresses = route.addresses()?;
        match link {
            Some(link) if addresses.iter().any(|(i, a, _)| *i == link.index && *a == address) => Ok(()),
            Some(_) => failed(format!("{} does not have address {address}", attachment.ifname)),
            None => failed(format!("interface {} is missing or down in the pod", attachment.ifname)),
        }
    })
}

/// STATUS: the node is ready for pods.
///
/// # Errors
/// [`code::NOT_AVAILABLE`] when node set-up has not run.
pub fn status(conf: &NetConf) -> Result<()> {
    conf.pod_cidr()?;
    match Route::open()?.link(ANCHOR)? {
        Some(link) if link.up => Ok(()),
        _ => Err(CniError::new(code::NOT_AVAILABLE, format!("interface {ANCHOR} is missing: is the node running?"))),
    }
}

/// GC: removes every attachment the runtime does not name.
///
/// # Errors
/// The list is missing, or something could not be removed.
pub fn collect_garbage(conf: &NetConf) -> Result<()> {
    let Some(valid) = &conf.valid_attachments else {
        return Err(CniError::new(code::INVALID_CONFIG, "cni.dev/valid-attachments is required"));
    };
    let valid: HashSet<_> = valid.iter().map(|v| (v.container_id.as_str(), v.ifname.as_str())).collect();
    let all = Ipam::open(conf.data_dir()?)?.all()?;
    let mut live = HashSet::new();
    for held in all {
        let attachment = Attachment { container: held.container, ifname: held.ifname, netns: None };
        if valid.contains(&(attachment.container.as_str(), attachment.ifname.as_str())) {
            live.insert(attachment.host_link());
        } else {
            del(conf, &attachment)?;
        }
    }
    let mut route = Route::open()?;
    for link in route.links()? {
        if link.name.starts_with(HOST_LINK_PREFIX) && !live.contains(&link.name) {
            route.delete_link(&link.name)?;
        }
    }
    Ok(())
}

fn open_netns(attachment: &Attachment) -> Result<File> {
    let path = attachment.netns.as_deref();
    let path = path.ok_or_else(|| CniError::new(code::INVALID_ENVIRONMENT, "CNI_NETNS is not set"))?;
    netns::open(path).map_err(|e| CniError::new(code::IO_FAILURE, format!("open network namespace {}: {e}", path.display())))
}

fn inside<T: Send>(netns: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    netns::within(netns, work).map_err(|e| CniError::new(code::IO_FAILURE, format!("enter the pod's network namespace: {e}")))?
}
