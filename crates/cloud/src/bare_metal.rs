//! The provider of machines without a cloud: Services of type LoadBalancer get addresses of their own from a pool, or
//! those of the nodes.
//!
//! It hands out addresses, nothing else: the service proxy of every node takes their traffic. With a pool, whoever owns
//! the network sends the pool's addresses to the nodes. With the nodes' own addresses a port can be given once; those of
//! the node itself are never given. What is given is read from the Services, so that a restart forgets nothing.

use crate::pool::{self, Range};
use crate::provider::{Answer, Error, LoadBalancers, Provider};
use ferrokube_client::{Cache, Caches, Named};
use futures_util::FutureExt;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service};
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// Where addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// The nodes' own (external ones, else internal ones), without these ports.
    Nodes {
        /// TCP ports that nodes use themselves.
        reserved: BTreeSet<u16>,
    },
    /// One address for each service and family.
    Pool(Vec<Range>),
}

/// The provider.
pub struct BareMetal {
    addresses: Addresses,
    services: Cache<Service>,
    /// Given in this process, which the cache may not show yet; by namespace and name.
    given: Mutex<HashMap<(String, String), Vec<IpAddr>>>,
}

impl BareMetal {
    /// A provider that reads what it gave from these caches.
    pub fn new(addresses: Addresses, caches: &Caches) -> Self {
        BareMetal { addresses, services: caches.of(), given: Mutex::default() }
    }

    /// All other services that have been given addresses.
    fn others(&self, service: &Service) -> Vec<(Service, Vec<IpAddr>)> {
        let given = self.given.lock();
        let is_other = |s: &Service| s.uid() != service.uid();
        let all = self.services.list().into_iter().filter(is_other).filter(is_balanced);
        let with = all.map(|s| {
            let mut ips = addresses_of(&s);
            ips.extend(given.get(&key(&s)).into_iter().flatten());
            (s, ips)
        });
        with.filter(|(_, ips)| !ips.is_empty()).collect()
    }

    fn plan(&self, service: &Service, nodes: &[Node]) -> Result<Vec<IpAddr>, Error> {
        let others = self.others(service);
        let chosen = match &self.addresses {
            Addresses::Nodes { reserved } => of_nodes(service, nodes, &others, reserved),
            Addresses::Pool(ranges) => of_pool(service, ranges, &others),
        };
        chosen.map_err(Error::Refused)
    }
}

impl Provider for BareMetal {
    fn name(&self) -> &str {
        "bare-metal"
    }

    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        Some(self)
    }
}

impl LoadBalancers for BareMetal {
    fn ensure<'a>(&'a self, service: &'a Service, nodes: &'a [Node]) -> Answer<'a, LoadBalancerStatus> {
        async move {
            self.services.synced().await;
            let ips = self.plan(service, nodes)?;
            self.given.lock().insert(key(service), ips.clone());
            let ingress: Vec<LoadBalancerIngress> = ips.into_iter().map(|ip| ingress(&ip)).collect();
            Ok(LoadBalancerStatus { ingress: Some(ingress).filter(|i| !i.is_empty()) })
        }
        .boxed()
    }

    fn delete<'a>(&'a self, service: &'a Service) -> Answer<'a, ()> {
        self.given.lock().remove(&key(service));
        async { Ok(()) }.boxed()
    }
}

fn ingress(ip: &IpAddr) -> LoadBalancerIngress {
    LoadBalancerIngress { ip: Some(ip.to_string()), ip_mode: Some("VIP".into()), ..LoadBalancerIngress::default() }
}

fn key(service: &Service) -> (String, String) {
    (service.namespace().to_owned(), service.name().to_owned())
}

/// Whether a service is one of ours: of the type, and without a class, which would be another's.
fn is_balanced(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none())
}

/// What a service was given.
fn addresses_of(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    status.iter().flat_map(|b| b.ingress.iter().flatten()).filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

/// The families of a service, the first one first; `true` for IPv4.
fn families(service: &Service) -> Vec<bool> {
    let named = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if named.is_empty() { vec![true] } else { named.iter().map(|f| f == "IPv4").collect() }
}

fn ports(service: &Service) -> BTreeSet<(String, u16)> {
    let all = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
    all.filter_map(|p| Some((p.protocol.clone().unwrap_or_else(|| "TCP".into()), u16::try_from(p.port).ok()?))).collect()
}

/// The addresses of the nodes, unless somebody has one of the ports there already.
fn of_nodes(service: &Service, nodes: &[Node], others: &[(Service, Vec<IpAddr>)], reserved: &BTreeSet<u16>) -> Result<Vec<IpAddr>, String> {
    for (protocol, port) in ports(service) {
        if protocol == "TCP" && reserved.contains(&port) {
            return Err(format!("port {port}/{protocol} is used by the nodes themselves"));
        }
        if let Some((other, _)) = others.iter().find(|(s, _)| ports(s).contains(&(protocol.clone(), port))) {
            return Err(format!("port {port}/{protocol} of the nodes is in use by service {}/{}", other.namespace(), other.name()));
        }
    }
    let families = families(service);
    let mut all: Vec<IpAddr> = nodes.iter().flat_map(node_addresses).filter(|ip| families.contains(&ip.is_ipv4())).collect();
    all.sort_by_key(|ip| (families.first() != Some(&ip.is_ipv4()), *ip));
    all.dedup();
    Ok(all)
}

/// External addresses of a node, else its internal ones.
fn node_addresses(node: &Node) -> Vec<IpAddr> {
    let all = node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let of = |kind: &str| -> Vec<IpAddr> { all.iter().filter(|a| a.type_ == kind).filter_map(|a| a.address.parse().ok()).collect() };
    let external = of("ExternalIP");
    if external.is_empty() { of("InternalIP") } else { external }
}

fn of_pool(service: &Service, ranges: &[Range], others: &[(Service, Vec<IpAddr>)]) -> Result<Vec<IpAddr>, String> {
    let mut taken: HashSet<IpAddr> = others.iter().flat_map(|(_, ips)| ips.iter().copied()).collect();
    let spec = service.spec.as_ref();
    let wanted = spec.and_then(|s| s.load_balancer_ip.as_deref()).filter(|ip| !ip.is_empty());
    let wanted: Option<IpAddr> = match wanted {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| format!("spec.loadBalancerIP {text:?} is not an address"))?),
    };
    let has = addresses_of(service);
    let families = families(service);
    let must = spec.and_then(|s| s.ip_family_policy.as_deref()) != Some("PreferDualStack");
    let mut chosen = Vec::new();
    for (i, v4) in families.into_iter().enumerate() {
        let of_family = |ip: &IpAddr| ip.is_ipv4() == v4;
        match pool::choose(ranges, v4, wanted.filter(of_family), has.iter().copied().find(of_family), &taken) {
            Ok(ip) => {
                taken.insert(ip);
                chosen.push(ip);
            }
            Err(_) if i > 0 && !must => {}
            Err(why) => return Err(why),
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(name: &str, spec: Value, given: &[&str]) -> Service {
        let ingress: Vec<Value> = given.iter().map(|ip| json!({"ip": ip})).collect();
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "d", "uid": name}, "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}}}))
        .unwrap()
    }

    fn with(service: Service) -> (Service, Vec<IpAddr>) {
        let ips = addresses_of(&service);
        (service, ips)
    }

    fn texts(ips: Vec<IpAddr>) -> Vec<String> {
        ips.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_port_of_the_nodes_is_given_once_and_never_their_own() {
        let node = json!({"metadata": {"name": "n"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.2"}, {"type": "InternalIP", "address": "2001:db8::2"}, {"type": "Hostname", "address": "n"}]}});
        let edge = json!({"metadata": {"name": "m"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "203.0.113.1"}]}});
        let nodes: Vec<Node> = [node, edge].into_iter().map(|n| serde_json::from_value(n).unwrap()).collect();
        let web = |port: u16| json!({"type": "LoadBalancer", "ports": [{"port": port}]});
        let reserved = [6443].into();
        let plan =
            |spec: Value, others: &[(Service, Vec<IpAddr>)]| of_nodes(&service("a", spec, &[]), &nodes, others, &reserved).map(texts);
        assert_eq!(plan(web(80), &[]).unwrap(), ["10.0.0.2", "203.0.113.1"]);
        let both = json!({"ports": [{"port": 80}], "ipFamilies": ["IPv6", "IPv4"]});
        assert_eq!(plan(both, &[]).unwrap(), ["2001:db8::2", "10.0.0.2", "203.0.113.1"]);
        assert!(plan(web(6443), &[]).unwrap_err().contains("used by the nodes"));
        let other = [with(service("b", web(80), &["10.0.0.2"]))];
        assert!(plan(web(80), &other).unwrap_err().contains("in use by service d/b"));
        assert!(plan(json!({"ports": [{"port": 80, "protocol": "UDP"}]}), &other).is_ok());
    }

    #[test]
    fn a_pool_gives_every_service_an_address_of_each_family_it_has() {
        let ranges: Vec<Range> = ["192.0.2.0/31", "2001:db8::1"].iter().map(|r| r.parse().unwrap()).collect();
        let plan =
            |spec: Value, has: &[&str], others: &[(Service, Vec<IpAddr>)]| of_pool(&service("a", spec, has), &ranges, others).map(texts);
        let other = [with(service("b", json!({}), &["192.0.2.0"]))];
        assert_eq!(plan(json!({}), &[], &[]).unwrap(), ["192.0.2.0"]);
        assert_eq!(plan(json!({}), &[], &other).unwrap(), ["192.0.2.1"]);
        assert_eq!(plan(json!({}), &["192.0.2.1"], &[]).unwrap(), ["192.0.2.1"], "an address stays");
        assert_eq!(plan(json!({"ipFamilies": ["IPv4", "IPv6"]}), &[], &[]).unwrap(), ["192.0.2.0", "2001:db8::1"]);
        assert!(plan(json!({"loadBalancerIP": "192.0.2.0"}), &[], &other).unwrap_err().contains("in use by another service"));
        assert!(plan(json!({"loadBalancerIP": "x"}), &[], &other).unwrap_err().contains("not an address"));
        let v6_taken = [with(service("c", json!({}), &["2001:db8::1"]))];
        let prefer = json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack"});
        assert_eq!(plan(prefer, &[], &v6_taken).unwrap(), ["192.0.2.0"]);
        assert!(plan(json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"}), &[], &v6_taken).is_err());
    }
}
