//! Addresses and node ports of Services. The allocator's memory is the truth while the server runs; it is filled from
//! the Services at start. A claim is made before the write and given back when the write fails, so that two requests can
//! never get the same address.
//!
//! Source of the rules: `pkg/registry/core/service/{storage,ipallocator,portallocator}`.

use crate::pipeline::Request;
use crate::write::prepare;
use ferrokube_api::field::{Errors, Path};
use ferrokube_api::{Object, Status};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Random tries before the range is searched in order.
const RANDOM_TRIES: usize = 16;
/// No more addresses of an IPv6 range than this are used.
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
    fn size(self) -> u128 {
        let all = 1u128.checked_shl(self.host_bits()).unwrap_or(u128::MAX);
        let unusable = if self.base.is_ipv4() { 2 } else { 1 };
        all.saturating_sub(unusable).min(RANGE_MAX.max(if self.base.is_ipv4() { u128::from(u32::MAX) } else { 0 }))
    }

    /// The nth usable address, from 0.
    pub fn nth(self, n: u128) -> IpAddr {
        let value = self.first() + 1 + n;
        match self.base {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(value as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(value)),
        }
    }

    fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.base.is_ipv4() && number(ip) > self.first() && number(ip) - self.first() <= self.size()
    }

    fn family(self) -> &'static str {
        if self.base.is_ipv4() { "IPv4" } else { "IPv6" }
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Claim {
    Ip(IpAddr),
    Port(u16),
}

/// Who has which address and port.
#[derive(Debug)]
pub struct Allocator {
    ranges: Vec<Cidr>,
    ports: RangeInclusive<u16>,
    taken: Mutex<HashSet<Claim>>,
}

/// Why an address or port cannot be had.
enum Refused {
    Range(String),
    Taken,
    Full,
}

impl Refused {
    fn ip(&self) -> String {
        match self {
            Refused::Range(text) => text.clone(),
            Refused::Taken => "provided IP is already allocated".to_owned(),
            Refused::Full => "range is full".to_owned(),
        }
    }

    fn port(&self) -> String {
        match self {
            Refused::Range(text) => text.clone(),
            Refused::Taken => "provided port is already allocated".to_owned(),
            Refused::Full => "range is full".to_owned(),
        }
    }
}

/// Below this offset of a range only what clients ask for by number is taken, while there is room above (KEP-3070, KEP-3668).
fn static_band(size: u128, divisor: u128, max: u128) -> u128 {
    if size < 16 { 0 } else { (size / divisor).clamp(16, max).min(size) }
}

impl Allocator {
    /// Over the cluster's ranges, knowing what the given Services have.
    pub fn new(ranges: Vec<Cidr>, ports: RangeInclusive<u16>, services: &[Arc<Object>]) -> Self {
        let allocator = Allocator { ranges, ports, taken: Mutex::default() };
        {
            let mut taken = allocator.taken.lock();
            for service in services.iter().filter_map(|s| s.decode::<Value>().ok()) {
                for claim in claims(&service) {
                    if !taken.insert(claim) {
                        tracing::error!(
                            service = prepare::text(&service, "name"),
                            ?claim,
                            "two Services have the same address or node port"
                        );
                    }
                }
            }
        }
        allocator
    }

    fn take(&self, claim: Claim) -> Result<(), Refused> {
        if self.taken.lock().insert(claim) { Ok(()) } else { Err(Refused::Taken) }
    }

    fn take_any(&self, size: u128, band: u128, make: impl Fn(u128) -> Claim) -> Result<Claim, Refused> {
        let mut taken = self.taken.lock();
        for _ in 0..RANDOM_TRIES {
            if size > band {
                let claim = make(band + u128::from(rand::random::<u64>()) % (size - band));
                if taken.insert(claim) {
                    return Ok(claim);
                }
            }
        }
        let in_order = (band..size).chain(0..band.min(size));
        in_order.map(make).find(|claim| taken.insert(*claim)).ok_or(Refused::Full)
    }

    fn ip(&self, range: Cidr) -> Result<IpAddr, Refused> {
        let band = static_band(range.size(), 16, 256);
        match self.take_any(range.size(), band, |n| Claim::Ip(range.nth(n)))? {
            Claim::Ip(ip) => Ok(ip),
            Claim::Port(_) => Err(Refused::Full),
        }
    }

    fn wanted_ip(&self, ip: IpAddr) -> Result<(), Refused> {
        if !self.ranges.iter().any(|r| r.contains(ip)) {
            let ranges = self.ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            return Err(Refused::Range(format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {ranges}")));
        }
        self.take(Claim::Ip(ip))
    }

    fn port(&self) -> Result<u16, Refused> {
        let (first, size) = (*self.ports.start(), u128::from(self.ports.end() - self.ports.start()) + 1);
        match self.take_any(size, static_band(size, 32, 128), |n| Claim::Port(first + n as u16))? {
            Claim::Port(port) => Ok(port),
            Claim::Ip(_) => Err(Refused::Full),
        }
    }

    fn wanted_port(&self, port: u16) -> Result<(), Refused> {
        if !self.ports.contains(&port) {
            let (start, end) = (self.ports.start(), self.ports.end());
            return Err(Refused::Range(format!("provided port is not in the valid range. The range of valid ports is {start}-{end}")));
        }
        self.take(Claim::Port(port))
    }

    fn release(&self, claims: &[Claim]) {
        let mut taken = self.taken.lock();
        claims.iter().for_each(|claim| _ = taken.remove(claim));
    }
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// What a Service has.
fn claims(service: &Value) -> HashSet<Claim> {
    let spec = &service["spec"];
    let ips = texts(&spec["clusterIPs"]).chain(spec["clusterIP"].as_str()).filter_map(|t| t.parse().ok()).map(Claim::Ip);
    let ports = spec["ports"].as_array().into_iter().flatten().map(|p| &p["nodePort"]).chain([&spec["healthCheckNodePort"]]);
    let ports = ports.filter_map(Value::as_u64).filter_map(|p| u16::try_from(p).ok()).filter(|p| *p > 0).map(Claim::Port);
    ips.chain(ports).collect()
}

/// Claims made for one write. Dropped without [`Allocated::commit`], they are given back.
pub struct Allocated {
    allocator: Option<Arc<Allocator>>,
    new: Vec<Claim>,
    old: Vec<Claim>,
}

impl Allocated {
    /// Of writes that concern no Service.
    pub fn nothing() -> Self {
        Allocated { allocator: None, new: Vec::new(), old: Vec::new() }
    }

    /// The write is stored: what the Service had before and has no more is free.
    pub fn commit(mut self) {
        self.new.clear();
        if let Some(allocator) = &self.allocator {
            allocator.release(&self.old);
        }
    }
}

impl Drop for Allocated {
    fn drop(&mut self) {
        if let Some(allocator) = &self.allocator {
            allocator.release(&self.new);
        }
    }
}

/// A Service is gone: what it had is free.
pub fn gone(request: &Request<'_>, service: &Value) {
    if request.entry.is("", "services") {
        let freed: Vec<Claim> = claims(service).into_iter().collect();
        request.server.services.release(&freed);
    }
}

fn type_of(service: &Value) -> &str {
    service["spec"]["type"].as_str().filter(|t| !t.is_empty()).unwrap_or("ClusterIP")
}

fn needs_ip(service: &Value) -> bool {
    type_of(service) != "ExternalName"
}

fn needs_node_port(service: &Value) -> bool {
    match type_of(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn needs_health_port(service: &Value) -> bool {
    type_of(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// Claims what a new or changed Service needs, and writes it into the spec.
pub fn begin(request: &Request<'_>, new: &mut Value, old: Option<&Value>, dry_run: bool) -> Result<Allocated, Status> {
    if !request.entry.is("", "services") || !new["spec"].is_object() {
        return Ok(Allocated::nothing());
    }
    if let Some(old) = old {
        carry_over(new, old);
    }
    let allocator = request.server.services.clone();
    let had = old.map(claims).unwrap_or_default();
    let mut allocated = Allocated { allocator: Some(allocator.clone()), new: Vec::new(), old: Vec::new() };
    let mut errors = Errors::default();
    addresses(&allocator, new, &had, &mut allocated, &mut errors);
    node_ports(&allocator, new, &had, &mut allocated, &mut errors);
    request.verdict(prepare::text(new, "name"), errors)?;
    let has = claims(new);
    allocated.old = had.into_iter().filter(|claim| !has.contains(claim)).collect();
    if dry_run {
        // Shown, but not kept: dropping gives the new claims back, and nothing old is freed.
        allocated.old.clear();
    }
    Ok(allocated)
}

/// What the client leaves out of an update keeps its value (`patchAllocatedValues`), what the new type has no use for goes.
fn carry_over(new: &mut Value, old: &Value) {
    if needs_ip(old) && needs_ip(new) {
        if new["spec"]["clusterIP"].as_str().unwrap_or_default().is_empty() {
            new["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
        }
        if new["spec"]["clusterIPs"].as_array().is_none_or(Vec::is_empty) && new["spec"]["clusterIP"] == old["spec"]["clusterIP"] {
            new["spec"]["clusterIPs"] = old["spec"]["clusterIPs"].clone();
        }
    }
    let before = |port: &Value| {
        let ports = old["spec"]["ports"].as_array().into_iter().flatten();
        let key = |p: &Value| (p["port"].clone(), p["protocol"].as_str().unwrap_or("TCP").to_owned());
        ports.filter(|p| key(p) == key(port)).map(|p| p["nodePort"].clone()).find(|p| !p.is_null())
    };
    let (keeps, had) = (needs_node_port(new), needs_node_port(old));
    let spec = &mut new["spec"];
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let unset = port["nodePort"].as_u64().unwrap_or(0) == 0;
        match before(port) {
            Some(value) if keeps && had && unset => port["nodePort"] = value,
            Some(value) if !keeps && had && port["nodePort"] == value => _ = port.as_object_mut().map(|p| p.remove("nodePort")),
            _ => {}
        }
    }
    let health = old["spec"]["healthCheckNodePort"].clone();
    let (keeps, had) = (needs_health_port(new), needs_health_port(old));
    let unset = new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0;
    if keeps && had && unset && !health.is_null() {
        new["spec"]["healthCheckNodePort"] = health;
    } else if !keeps && had && new["spec"]["healthCheckNodePort"] == health {
        new["spec"].as_object_mut().map(|s| s.remove("healthCheckNodePort"));
    }
}

fn addresses(allocator: &Allocator, new: &mut Value, had: &HashSet<Claim>, allocated: &mut Allocated, errors: &mut Errors) {
    let Some(range) = allocator.ranges.first().copied() else { return };
    if !needs_ip(new) {
        if let Some(spec) = new["spec"].as_object_mut() {
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"].iter().for_each(|key| _ = spec.remove(*key));
        }
        return;
    }
    let spec = &mut new["spec"];
    let given = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    if given.is_empty() && texts(&spec["clusterIPs"]).next().is_none() {
        families(allocator, spec, None);
        let wanted = spec["ipFamilies"][0].as_str().unwrap_or_default();
        let range = allocator.ranges.iter().copied().find(|r| r.family() == wanted).unwrap_or(range);
        match allocator.ip(range) {
            Ok(ip) => {
                allocated.new.push(Claim::Ip(ip));
                spec["clusterIP"] = json!(ip.to_string());
                spec["clusterIPs"] = json!([ip.to_string()]);
            }
            Err(refused) => errors.invalid(
                &Path::new("spec").child("clusterIPs"),
                &Value::Null,
                &format!("failed to allocate a serviceIP: {}", refused.ip()),
            ),
        }
        return;
    }
    if given.is_empty() {
        spec["clusterIP"] = spec["clusterIPs"][0].clone();
    } else if texts(&spec["clusterIPs"]).next().is_none() {
        spec["clusterIPs"] = json!([given]);
    }
    let list: Vec<String> = texts(&spec["clusterIPs"]).map(str::to_owned).collect();
    if list.first().is_some_and(|ip| ip == "None") {
        families(allocator, spec, None);
        return;
    }
    let ips: Vec<IpAddr> = list.iter().filter_map(|text| text.parse().ok()).collect();
    families(allocator, spec, ips.first().copied());
    for ip in ips.into_iter().filter(|ip| !had.contains(&Claim::Ip(*ip))) {
        match allocator.wanted_ip(ip) {
            Ok(()) => allocated.new.push(Claim::Ip(ip)),
            Err(refused) => {
                let why = format!("failed to allocate IP {ip}: {}", refused.ip());
                errors.invalid(&Path::new("spec").child("clusterIPs"), &json!(list), &why);
            }
        }
    }
}

/// `ipFamilies` and `ipFamilyPolicy` of a single-stack cluster (or the first of two ranges).
fn families(allocator: &Allocator, spec: &mut Value, first: Option<IpAddr>) {
    if spec["ipFamilyPolicy"].as_str().unwrap_or_default().is_empty() {
        spec["ipFamilyPolicy"] = json!("SingleStack");
    }
    if texts(&spec["ipFamilies"]).next().is_none() {
        let default = allocator.ranges.first().map_or("IPv4", |r| r.family());
        let family = first.map_or(default, |ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" });
        spec["ipFamilies"] = json!([family]);
    }
}

fn node_ports(allocator: &Allocator, new: &mut Value, had: &HashSet<Claim>, allocated: &mut Allocated, errors: &mut Errors) {
    let wanted = needs_node_port(new);
    let health = needs_health_port(new);
    let mut mine: HashSet<u16> = HashSet::new();
    // A port number served over two protocols gets one node port.
    let mut by_port: Vec<(Value, u16)> = Vec::new();
    let mut claim = |number: u64, path: &Path, errors: &mut Errors, allocated: &mut Allocated| -> Option<u16> {
        let port = u16::try_from(number).unwrap_or(0);
        let known = had.contains(&Claim::Port(port)) || mine.contains(&port);
        match if known { Ok(()) } else { allocator.wanted_port(port) } {
            Ok(()) => {
                if !known {
                    allocated.new.push(Claim::Port(port));
                }
                mine.insert(port);
                Some(port)
            }
            Err(refused) => {
                errors.invalid(path, &json!(number), &refused.port());
                None
            }
        }
    };
    let ports = Path::new("spec").child("ports");
    for (at, port) in new["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
        let path = ports.index(at).child("nodePort");
        let given = port["nodePort"].as_u64().unwrap_or(0);
        let asked_anyway = given > 0 && !wanted;
        if !wanted && !asked_anyway {
            continue;
        }
        if given > 0 {
            if let Some(taken) = claim(given, &path, errors, allocated) {
                by_port.push((port["port"].clone(), taken));
            }
            continue;
        }
        if let Some((_, shared)) = by_port.iter().find(|(number, _)| *number == port["port"]) {
            port["nodePort"] = json!(shared);
            continue;
        }
        match allocator.port() {
            Ok(found) => {
                allocated.new.push(Claim::Port(found));
                by_port.push((port["port"].clone(), found));
                port["nodePort"] = json!(found);
            }
            Err(refused) => errors.invalid(&path, &json!(0), &refused.port()),
        }
    }
    if health {
        let path = Path::new("spec").child("healthCheckNodePort");
        match new["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) {
            0 => {
                if let Ok(found) = allocator.port() {
                    allocated.new.push(Claim::Port(found));
                    new["spec"]["healthCheckNodePort"] = json!(found);
                }
            }
            given => _ = claim(given, &path, errors, allocated),
        }
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
        assert!(range.contains("10.96.0.254".parse().expect("ip")));
        assert!(!range.contains("10.96.0.255".parse().expect("ip")));
        assert!(!range.contains("10.96.0.0".parse().expect("ip")));
        assert!(!range.contains("10.97.0.1".parse().expect("ip")));
    }

    #[test]
    fn every_address_is_given_once_and_the_last_one_too() {
        let range = Cidr::parse("10.0.0.0/28").expect("a range");
        let allocator = Allocator::new(vec![range], 30000..=30001, &[]);
        let mut all: Vec<IpAddr> = (0..14).filter_map(|_| allocator.ip(range).ok()).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 14);
        assert!(allocator.ip(range).is_err());
        allocator.release(&[Claim::Ip(all[3])]);
        assert_eq!(allocator.ip(range).ok(), Some(all[3]));
        assert!(allocator.port().is_ok() && allocator.port().is_ok() && allocator.port().is_err());
    }
}
