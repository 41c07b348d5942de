//! What the proxy reads of Services, EndpointSlices and Nodes: plain facts, decoded once, of IPv4 only.
//!
//! Rules of the Kubernetes API live here: which services are proxied at all, what a missing condition means, which
//! endpoints take traffic (ready ones; when there is none, those that are terminating but still serve), and topology hints.

use crate::cidr::Cidr;
use k8s_openapi::api::core::v1::{Node, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Label of an EndpointSlice that names its service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// What the proxy knows of its own node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// `metadata.name`.
    pub name: String,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// InternalIP addresses.
    pub addresses: Vec<Ipv4Addr>,
}

impl NodeFacts {
    /// Facts of a node; `None` leaves the name only.
    pub fn new(name: &str, node: Option<&Node>) -> Self {
        let labels = node.and_then(|n| n.metadata.labels.as_ref());
        let status = node.and_then(|n| n.status.as_ref());
        let addresses = status.and_then(|s| s.addresses.as_ref()).into_iter().flatten();
        Self {
            name: name.to_owned(),
            zone: labels.and_then(|l| l.get(ZONE_LABEL)).cloned(),
            addresses: addresses.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect(),
        }
    }
}

/// One port of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// `namespace/name/protocol/port`: unique, and part of chain names.
    pub id: String,
    /// Protocol number.
    pub protocol: u8,
    /// Service port.
    pub port: u16,
    /// Node port.
    pub node_port: Option<u16>,
    /// Cluster addresses.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// External addresses.
    pub external_ips: Vec<Ipv4Addr>,
    /// Addresses of the load balancer that reach the node unchanged.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may use the load balancer's addresses; everybody when empty.
    pub source_ranges: Vec<Cidr>,
    /// How long a client stays with its endpoint.
    pub affinity: Option<Duration>,
    /// Only endpoints on this node for traffic from inside.
    pub internal_local: bool,
    /// Only endpoints on this node for traffic from outside.
    pub external_local: bool,
    /// Endpoints of this port.
    pub endpoints: Vec<Endpoint>,
}

impl Port {
    /// Reachable by something other than the cluster addresses.
    pub fn externally_accessible(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }
}

/// One address and port behind a service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub address: Ipv4Addr,
    /// Port.
    pub port: u16,
    /// Takes traffic.
    pub ready: bool,
    /// Answers, ready or terminating.
    pub serving: bool,
    /// On its way out.
    pub terminating: bool,
    /// On this node.
    pub local: bool,
    /// Whether topology hints name nodes, and this one.
    pub node_hint: Hint,
    /// Whether topology hints name zones, and this one.
    pub zone_hint: Hint,
}

/// A topology hint as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// There is none.
    Absent,
    /// It names others.
    Elsewhere,
    /// It names us.
    Here,
}

/// The ports of a service that this proxy is responsible for.
pub fn ports(service: &Service, slices: &[EndpointSlice], node: &NodeFacts) -> Vec<Port> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let other_proxy = service.metadata.labels.as_ref().is_some_and(|l| l.contains_key(PROXY_NAME_LABEL));
    let headless = matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"));
    if other_proxy || headless || spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let all = spec.ports.iter().flatten();
    all.filter_map(|port| one_port(service, port, slices, node)).collect()
}

fn one_port(service: &Service, port: &ServicePort, slices: &[EndpointSlice], node: &NodeFacts) -> Option<Port> {
    let spec = service.spec.as_ref()?;
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let number = u16::try_from(port.port).ok().filter(|p| *p > 0)?;
    let name = port.name.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| number.to_string());
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    let service_name = service.metadata.name.as_deref().unwrap_or_default();
    let is_balancer = spec.type_.as_deref() == Some("LoadBalancer");
    Some(Port {
        id: format!("{namespace}/{service_name}/{}/{name}", protocol.to_ascii_lowercase()),
        protocol: crate::protocol_number(protocol)?,
        port: number,
        node_port: port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0),
        cluster_ips: cluster_ips(service),
        external_ips: parse_all(spec.external_ips.iter().flatten()),
        load_balancer_ips: if is_balancer { balancer_ips(service) } else { Vec::new() },
        source_ranges: source_ranges(spec.load_balancer_source_ranges.iter().flatten()),
        affinity: affinity(service),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        endpoints: endpoints(slices, port.name.as_deref().unwrap_or_default(), protocol, node),
    })
}

fn parse_all<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    texts.filter_map(|t| t.parse().ok()).collect()
}

fn cluster_ips(service: &Service) -> Vec<Ipv4Addr> {
    let spec = service.spec.as_ref();
    let many = spec.and_then(|s| s.cluster_ips.as_ref()).map(|ips| parse_all(ips.iter())).unwrap_or_default();
    if many.is_empty() { parse_all(spec.and_then(|s| s.cluster_ip.as_ref()).into_iter()) } else { many }
}

/// Addresses in mode `Proxy` reach the node as something else; translating them would cut the balancer out.
fn balancer_ips(service: &Service) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|b| b.ingress.as_ref()).into_iter().flatten();
    parse_all(ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref()))
}

/// A range that is no IPv4 network can let nobody in, but its presence still closes the door for others.
fn source_ranges<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<Cidr> {
    let texts: Vec<_> = texts.collect();
    let valid: Vec<Cidr> = texts.iter().filter_map(|t| t.trim().parse().ok()).collect();
    match valid.is_empty() && !texts.is_empty() {
        true => vec![Cidr::new(Ipv4Addr::LOCALHOST, 32)],
        false => valid,
    }
}

fn affinity(service: &Service) -> Option<Duration> {
    let spec = service.spec.as_ref().filter(|s| s.session_affinity.as_deref() == Some("ClientIP"))?;
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)))
}

fn endpoints(slices: &[EndpointSlice], port_name: &str, protocol: &str, node: &NodeFacts) -> Vec<Endpoint> {
    let mut found: BTreeMap<(Ipv4Addr, u16), Endpoint> = BTreeMap::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let of_port = slice
            .ports
            .iter()
            .flatten()
            .filter(|p| p.name.as_deref().unwrap_or_default() == port_name && p.protocol.as_deref().unwrap_or("TCP") == protocol);
        for port in of_port.filter_map(|p| u16::try_from(p.port?).ok()) {
            for endpoint in slice.endpoints.iter().flatten() {
                let addresses = endpoint.addresses.iter().take(1).filter_map(|a| a.parse().ok());
                for one in addresses.map(|address| one_endpoint(endpoint, address, port, node)) {
                    // The same endpoint may be in two slices while it moves: the ready one counts.
                    let known = found.entry((one.address, one.port)).or_insert_with(|| one.clone());
                    if (one.ready, one.serving) > (known.ready, known.serving) {
                        *known = one;
                    }
                }
            }
        }
    }
    found.into_values().collect()
}

fn one_endpoint(endpoint: &ApiEndpoint, address: Ipv4Addr, port: u16, node: &NodeFacts) -> Endpoint {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|h| h.for_nodes.as_ref()).map(|n| n.iter().map(|n| n.name.as_str()).collect());
    let zones = hints.and_then(|h| h.for_zones.as_ref()).map(|z| z.iter().map(|z| z.name.as_str()).collect());
    Endpoint {
        address,
        port,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        local: !node.name.is_empty() && endpoint.node_name.as_deref() == Some(&node.name),
        node_hint: hint(nodes, Some(&node.name)),
        zone_hint: hint(zones, node.zone.as_deref()),
    }
}

fn hint(names: Option<Vec<&str>>, own: Option<&str>) -> Hint {
    match names.filter(|n| !n.is_empty()) {
        None => Hint::Absent,
        Some(names) if own.is_some_and(|own| names.contains(&own)) => Hint::Here,
        Some(_) => Hint::Elsewhere,
    }
}

/// The endpoints that take traffic from anywhere.
pub fn cluster_endpoints(port: &Port) -> Vec<&Endpoint> {
    let ready: Vec<_> = port.endpoints.iter().filter(|e| e.ready).collect();
    let close = by_topology(&ready);
    if close.is_empty() { still_serving(port.endpoints.iter()) } else { close }
}

/// The endpoints on this node that take traffic.
pub fn local_endpoints(port: &Port) -> Vec<&Endpoint> {
    let ready: Vec<_> = port.endpoints.iter().filter(|e| e.local && e.ready).collect();
    if ready.is_empty() { still_serving(port.endpoints.iter().filter(|e| e.local)) } else { ready }
}

fn still_serving<'a>(endpoints: impl Iterator<Item = &'a Endpoint>) -> Vec<&'a Endpoint> {
    endpoints.filter(|e| e.serving && e.terminating).collect()
}

/// Hints count only when every endpoint has one and at least one names us; node hints before zone hints.
fn by_topology<'a>(ready: &[&'a Endpoint]) -> Vec<&'a Endpoint> {
    for hint in [|e: &Endpoint| e.node_hint, |e: &Endpoint| e.zone_hint] {
        let all_have = ready.iter().all(|e| hint(e) != Hint::Absent);
        let here: Vec<_> = ready.iter().copied().filter(|e| hint(e) == Hint::Here).collect();
        if all_have && !here.is_empty() {
            return here;
        }
    }
    ready.to_vec()
}
