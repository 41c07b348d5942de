//! Services to rules: pure.
//!
//! The table's skeleton never changes: base chains look a destination up in verdict maps (`address . protocol . port`,
//! or `protocol . port` for node ports). A service port adds map elements and a few small chains; its endpoints are an
//! inline map from a random number to an address and port, so a connection costs two look-ups, whatever the number of
//! services and endpoints. A service with client affinity has a chain and a dynamic set of clients per endpoint instead.

use super::service::{self, Endpoint, NodeFacts, Port};
use crate::cidr::Cidr;
use crate::conntrack::End;
use crate::nft::expr::{
    Cmp, Expr, FibKey, Field, R0, R1, R4, R5, R8, Rule, SetRef, Verdict, addr_port, addr_proto_port, change_mark, ct_state_invalid,
    ct_state_new, daddr_is, goto, is_local, jump, load_daddr, load_destination, load_proto_port, load_saddr, mark_bit, proto_port,
    reject_other, reject_tcp, saddr_in, saddr_not_in,
};
use crate::nft::{Chain, Data, Hook, Kind, RuleSet, SetKind, SetSpec};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

const SERVICE_IPS: &str = "service-ips";
const SERVICE_NODEPORTS: &str = "service-nodeports";
const NO_ENDPOINT_SERVICES: &str = "no-endpoint-services";
const NO_ENDPOINT_NODEPORTS: &str = "no-endpoint-nodeports";
const FIREWALL_IPS: &str = "firewall-ips";
const CLUSTER_IPS: &str = "cluster-ips";
const HAIRPIN: &str = "hairpin-connections";
const MARK_FOR_MASQUERADE: &str = "mark-for-masquerade";
const REJECT: &str = "reject-chain";
/// Bit 14, as every Kubernetes proxy: other components know to leave it alone.
const MASQUERADE_MARK: u32 = 1 << 14;
const DSTNAT: i32 = -100;
const BEFORE_DSTNAT: i32 = -110;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// What the rules depend on besides the API's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Range of all pods: cluster traffic from elsewhere is masqueraded so that answers come back this way.
    pub cluster_cidr: Option<Cidr>,
    /// Masquerade all traffic to services.
    pub masquerade_all: bool,
}

/// What one service adds to the table and to the proxy's other duties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    chains: Vec<(Arc<str>, Arc<Chain>)>,
    sets: Vec<(Arc<str>, SetSpec)>,
    elements: Vec<(&'static str, Vec<u8>, Data)>,
    /// UDP destinations and who may answer for them.
    pub udp: UdpFlows,
    /// Ready endpoints on this node, when the service has a health check node port.
    pub health: Option<(u16, usize)>,
}

/// UDP destinations of services with the endpoints that may answer: what the connection table is checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UdpFlows {
    /// By service address.
    pub by_address: BTreeMap<End, BTreeSet<End>>,
    /// By node port.
    pub by_node_port: BTreeMap<u16, BTreeSet<End>>,
}

/// The table for a whole cluster's services as one node has them. `slices` may hold slices of other services.
pub fn plan(services: &[Service], slices: &[EndpointSlice], node: &NodeFacts, settings: &Settings) -> RuleSet {
    let fragments: Vec<Fragment> = services.iter().map(|s| fragment(s, &slices_of(s, slices), node, settings)).collect();
    union(fragments.iter())
}

fn slices_of(service: &Service, slices: &[EndpointSlice]) -> Vec<EndpointSlice> {
    let of_service = |slice: &&EndpointSlice| {
        let label = slice.metadata.labels.as_ref().and_then(|l| l.get(service::SERVICE_NAME_LABEL));
        slice.metadata.namespace == service.metadata.namespace && label == service.metadata.name.as_ref()
    };
    slices.iter().filter(of_service).cloned().collect()
}

/// The skeleton and all fragments. When two services claim one address and port, the first one has it.
pub fn union<'a>(fragments: impl Iterator<Item = &'a Fragment>) -> RuleSet {
    let mut out = skeleton();
    for fragment in fragments {
        for (name, chain) in &fragment.chains {
            out.chains.insert(name.clone(), chain.clone());
        }
        for (name, spec) in &fragment.sets {
            let set = crate::nft::Set { spec: spec.clone(), elements: BTreeMap::new() };
            out.sets.insert(name.clone(), set);
        }
        for (set, key, data) in &fragment.elements {
            let set = out.sets.get_mut(*set).expect("fragments add only to the skeleton's sets");
            set.elements.entry(key.clone()).or_insert_with(|| data.clone());
        }
    }
    out
}

/// The part of the table that no service changes.
fn skeleton() -> RuleSet {
    let mut out = RuleSet::default();
    let destination = [Field::Ipv4, Field::Proto, Field::Port];
    for name in [SERVICE_IPS, NO_ENDPOINT_SERVICES, FIREWALL_IPS] {
        out.set(name, &destination, SetKind::VerdictMap);
    }
    for name in [SERVICE_NODEPORTS, NO_ENDPOINT_NODEPORTS] {
        out.set(name, &[Field::Proto, Field::Port], SetKind::VerdictMap);
    }
    out.set(CLUSTER_IPS, &[Field::Ipv4], SetKind::Plain);
    out.set(HAIRPIN, &[Field::Ipv4, Field::Ipv4], SetKind::Plain);

    let by_destination = |map: &str| rule(load_destination(), [vmap(map)]);
    let by_node_port = |map: &str| rule(is_local(FibKey::Destination), load_proto_port().into_iter().chain([vmap(map)]));
    out.chain("services", vec![by_destination(SERVICE_IPS), by_node_port(SERVICE_NODEPORTS)]);
    out.chain("service-endpoints-check", vec![by_destination(NO_ENDPOINT_SERVICES)]);
    out.chain("nodeport-endpoints-check", vec![by_node_port(NO_ENDPOINT_NODEPORTS)]);
    out.chain("firewall-check", vec![by_destination(FIREWALL_IPS)]);
    out.chain(REJECT, vec![reject_tcp(), reject_other()]);
    out.chain("cluster-ips-check", vec![rule([load_daddr(R0), member(CLUSTER_IPS)], [goto(REJECT)])]);
    let set_mark = change_mark(MASQUERADE_MARK, MASQUERADE_MARK).to_vec();
    out.chain(MARK_FOR_MASQUERADE, vec![set_mark]);
    out.chain("masquerading", masquerading());

    out.base_chain("nat-prerouting", Kind::Nat, Hook::Prerouting, DSTNAT, vec![vec![jump("services")]]);
    out.base_chain("nat-output", Kind::Nat, Hook::Output, DSTNAT, vec![vec![jump("services")]]);
    out.base_chain("nat-postrouting", Kind::Nat, Hook::Postrouting, SRCNAT, vec![vec![jump("masquerading")]]);
    let if_new = |chain: &str| rule(ct_state_new(), [jump(chain)]);
    let (service, node_port) = (if_new("service-endpoints-check"), if_new("nodeport-endpoints-check"));
    let cluster_ips = if_new("cluster-ips-check");
    // A packet that belongs to no known state of its connection would not be translated back: the client would see a
    // stranger's packet and reset the connection.
    let invalid = rule(ct_state_invalid(), [Expr::Verdict(Verdict::Drop)]);
    for (name, hook, priority, rules) in [
        ("filter-prerouting-pre-dnat", Hook::Prerouting, BEFORE_DSTNAT, vec![if_new("firewall-check")]),
        ("filter-output-pre-dnat", Hook::Output, BEFORE_DSTNAT, vec![if_new("firewall-check")]),
        ("filter-input", Hook::Input, FILTER, vec![node_port, service.clone()]),
        ("filter-forward", Hook::Forward, FILTER, vec![invalid, service.clone(), cluster_ips.clone()]),
        ("filter-output", Hook::Output, FILTER, vec![service, cluster_ips]),
    ] {
        out.base_chain(name, Kind::Filter, hook, priority, rules);
    }
    out
}

/// An endpoint that reaches itself through a service would see its own address as the client's.
fn masquerading() -> Vec<Rule> {
    let hairpin = rule([load_saddr(R0), load_daddr(R1), member(HAIRPIN)], [Expr::Masquerade]);
    let unmarked = rule(mark_bit(MASQUERADE_MARK, Cmp::Eq), [Expr::Verdict(Verdict::Return)]);
    // The mark is taken off so that an encapsulated packet is not masqueraded a second time.
    let unmark = change_mark(MASQUERADE_MARK, 0).to_vec();
    vec![hairpin, unmarked, unmark, vec![Expr::Masquerade]]
}

fn rule(matches: impl IntoIterator<Item = Expr>, actions: impl IntoIterator<Item = Expr>) -> Rule {
    matches.into_iter().chain(actions).collect()
}

fn vmap(map: &str) -> Expr {
    Expr::VerdictMap { set: SetRef::Named(map.into()), sreg: R0 }
}

fn member(set: &str) -> Expr {
    Expr::Lookup { set: SetRef::Named(set.into()), sreg: R0, dreg: None }
}

/// What one service adds.
pub fn fragment(service: &Service, slices: &[EndpointSlice], node: &NodeFacts, settings: &Settings) -> Fragment {
    let mut out = Fragment::default();
    let ports = service::ports(service, slices, node);
    for port in &ports {
        PortPlan::new(port, node, settings).add_to(&mut out);
    }
    let health_port = service.spec.as_ref().and_then(|s| s.health_check_node_port);
    if let Some(health_port) = health_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p > 0) {
        let local: BTreeSet<_> = ports.iter().flat_map(|p| p.endpoints.iter().filter(|e| e.local && e.ready)).map(|e| e.address).collect();
        out.health = Some((health_port, local.len()));
    }
    out
}

/// One service port on the way to rules.
struct PortPlan<'a> {
    port: &'a Port,
    node: &'a NodeFacts,
    settings: &'a Settings,
    cluster: Vec<&'a Endpoint>,
    local: Vec<&'a Endpoint>,
}

impl<'a> PortPlan<'a> {
    fn new(port: &'a Port, node: &'a NodeFacts, settings: &'a Settings) -> Self {
        let uses_local = port.internal_local || (port.external_local && port.externally_accessible());
        let local = if uses_local { service::local_endpoints(port) } else { Vec::new() };
        Self { port, node, settings, cluster: service::cluster_endpoints(port), local }
    }

    fn add_to(&self, out: &mut Fragment) {
        self.add_chains(out);
        self.add_internal(out);
        if self.port.externally_accessible() {
            self.add_external(out);
            self.add_firewall(out);
        }
        self.add_hairpin(out);
        self.add_udp(out);
    }

    fn chain(&self, kind: &str) -> Arc<str> {
        format!("{kind}-{}", self.port.id).into()
    }

    fn key(&self, address: Ipv4Addr) -> Vec<u8> {
        addr_proto_port(address, self.port.protocol, self.port.port)
    }

    fn has_endpoints(&self) -> bool {
        !self.cluster.is_empty() || !self.local.is_empty()
    }

    /// What becomes of traffic that finds no endpoint: refused when there is none at all, silently dropped when a policy
    /// keeps it from those on other nodes (a load balancer then tries another node).
    fn no_endpoint(&self) -> Data {
        Data::Verdict(if self.has_endpoints() { Verdict::Drop } else { Verdict::Goto(REJECT.into()) })
    }

    fn add_chains(&self, out: &mut Fragment) {
        let mut add = |kind: &str, endpoints: &[&Endpoint]| {
            if !endpoints.is_empty() {
                let chain = Chain { base: None, rules: self.balance(endpoints) };
                out.chains.push((self.chain(kind), Arc::new(chain)));
            }
        };
        add("service", &self.cluster);
        add("local", &self.local);
        if let Some(timeout) = self.port.affinity {
            let all: BTreeSet<&Endpoint> = self.cluster.iter().chain(&self.local).copied().collect();
            all.into_iter().for_each(|endpoint| self.add_sticky_endpoint(endpoint, timeout, out));
        }
    }

    /// The chain that sends a client to one endpoint, and the set that remembers who was sent there. Both go with the
    /// endpoint, so nobody is sent to one that has gone.
    fn add_sticky_endpoint(&self, endpoint: &Endpoint, timeout: Duration, out: &mut Fragment) {
        let set = self.affinity_set(endpoint, timeout);
        let remember = vec![load_saddr(R0), Expr::Update { set: set.clone(), key: R0, timeout }];
        let rules = vec![remember, rule(constant(endpoint), [Expr::Dnat { addr: R4, port: R5 }])];
        out.chains.push((self.endpoint_chain(endpoint), Arc::new(Chain { base: None, rules })));
        out.sets.push((set, SetSpec { key: vec![Field::Ipv4], kind: SetKind::Dynamic(timeout) }));
    }

    fn endpoint_chain(&self, endpoint: &Endpoint) -> Arc<str> {
        format!("endpoint-{}-{}/{}", self.port.id, endpoint.address, endpoint.port).into()
    }

    fn affinity_set(&self, endpoint: &Endpoint, timeout: Duration) -> Arc<str> {
        format!("affinity-{}s-{}-{}/{}", timeout.as_secs(), self.port.id, endpoint.address, endpoint.port).into()
    }

    /// Rules that choose one of the endpoints.
    fn balance(&self, endpoints: &[&Endpoint]) -> Vec<Rule> {
        let mut rules = self.masquerade_foreign();
        let Some(timeout) = self.port.affinity else {
            rules.push(rule(choose(endpoints), [Expr::Dnat { addr: R4, port: R5 }]));
            return rules;
        };
        for endpoint in endpoints {
            let known = member(&self.affinity_set(endpoint, timeout));
            rules.push(vec![load_saddr(R0), known, goto(&self.endpoint_chain(endpoint))]);
        }
        let verdict = |e: &&Endpoint| Data::Verdict(Verdict::Goto(self.endpoint_chain(e)));
        rules.push(choose_verdict(endpoints.iter().map(verdict)));
        rules
    }

    /// Traffic to the cluster address from outside the pod network must come back this way.
    fn masquerade_foreign(&self) -> Vec<Rule> {
        let foreign = match (self.settings.masquerade_all, self.settings.cluster_cidr) {
            (true, _) => Vec::new(),
            (false, Some(cidr)) => saddr_not_in(cidr),
            (false, None) => return Vec::new(),
        };
        let to_cluster_ip = |ip: &Ipv4Addr| rule(daddr_is(*ip), foreign.iter().cloned().chain([jump(MARK_FOR_MASQUERADE)]));
        self.port.cluster_ips.iter().map(to_cluster_ip).collect()
    }

    fn add_internal(&self, out: &mut Fragment) {
        let (kind, endpoints) = match self.port.internal_local {
            true => ("local", &self.local),
            false => ("service", &self.cluster),
        };
        for ip in &self.port.cluster_ips {
            out.elements.push((CLUSTER_IPS, ip.octets().to_vec(), Data::None));
            out.elements.push(match endpoints.is_empty() {
                true => (NO_ENDPOINT_SERVICES, self.key(*ip), self.no_endpoint()),
                false => (SERVICE_IPS, self.key(*ip), Data::Verdict(Verdict::Goto(self.chain(kind)))),
            });
        }
    }

    fn add_external(&self, out: &mut Fragment) {
        let external = self.chain("external");
        if self.has_endpoints() {
            let chain = Chain { base: None, rules: self.external_rules() };
            out.chains.push((external.clone(), Arc::new(chain)));
        }
        let served = if self.port.external_local { !self.local.is_empty() } else { !self.cluster.is_empty() };
        let mut add = |found: &'static str, not_found: &'static str, key: Vec<u8>| {
            if self.has_endpoints() {
                out.elements.push((found, key.clone(), Data::Verdict(Verdict::Goto(external.clone()))));
            }
            if !served {
                out.elements.push((not_found, key, self.no_endpoint()));
            }
        };
        for ip in self.port.external_ips.iter().chain(&self.port.load_balancer_ips) {
            add(SERVICE_IPS, NO_ENDPOINT_SERVICES, self.key(*ip));
        }
        if let Some(node_port) = self.port.node_port {
            add(SERVICE_NODEPORTS, NO_ENDPOINT_NODEPORTS, proto_port(self.port.protocol, node_port));
        }
    }

    /// Policy `Local` keeps the client's address and this node; who is in the cluster is not bound by it.
    fn external_rules(&self) -> Vec<Rule> {
        let anywhere = || goto(&self.chain("service"));
        if !self.port.external_local {
            return vec![vec![jump(MARK_FOR_MASQUERADE)], vec![anywhere()]];
        }
        let mut rules = Vec::new();
        if !self.cluster.is_empty() {
            if let Some(cidr) = self.settings.cluster_cidr {
                rules.push(rule(saddr_in(cidr), [anywhere()]));
            }
            rules.push(rule(is_local(FibKey::Source), [jump(MARK_FOR_MASQUERADE)]));
            rules.push(rule(is_local(FibKey::Source), [anywhere()]));
        }
        if !self.local.is_empty() {
            rules.push(vec![goto(&self.chain("local"))]);
        }
        rules
    }

    fn add_firewall(&self, out: &mut Fragment) {
        if self.port.source_ranges.is_empty() || self.port.load_balancer_ips.is_empty() {
            return;
        }
        let allow = |cidr: Cidr| rule(saddr_in(cidr), [Expr::Verdict(Verdict::Return)]);
        let mut rules: Vec<Rule> = self.port.source_ranges.iter().map(|c| allow(*c)).collect();
        // A node that may use the balancer reaches it with the balancer's own address as source, looped back.
        let node_may = self.node.addresses.iter().any(|a| self.port.source_ranges.iter().any(|c| c.contains(*a)));
        if node_may {
            rules.extend(self.port.load_balancer_ips.iter().map(|ip| allow(Cidr::new(*ip, 32))));
        }
        rules.push(vec![Expr::Verdict(Verdict::Drop)]);
        let name = self.chain("firewall");
        out.chains.push((name.clone(), Arc::new(Chain { base: None, rules })));
        for ip in &self.port.load_balancer_ips {
            out.elements.push((FIREWALL_IPS, self.key(*ip), Data::Verdict(Verdict::Goto(name.clone()))));
        }
    }

    /// Only an endpoint of this node can meet itself here; one with the node's own address needs no help.
    fn add_hairpin(&self, out: &mut Fragment) {
        let used: BTreeSet<Ipv4Addr> = self.cluster.iter().chain(&self.local).filter(|e| e.local).map(|e| e.address).collect();
        for address in used.into_iter().filter(|a| !self.node.addresses.contains(a)) {
            out.elements.push((HAIRPIN, [address.octets(), address.octets()].concat(), Data::None));
        }
    }

    fn add_udp(&self, out: &mut Fragment) {
        if i32::from(self.port.protocol) != libc::IPPROTO_UDP {
            return;
        }
        let serving = self.cluster.iter().chain(&self.local);
        let serving: BTreeSet<End> = serving.map(|e| End { address: e.address, port: e.port }).collect();
        let addresses = self.port.cluster_ips.iter().chain(&self.port.external_ips).chain(&self.port.load_balancer_ips);
        for address in addresses {
            out.udp.by_address.insert(End { address: *address, port: self.port.port }, serving.clone());
        }
        if let Some(node_port) = self.port.node_port {
            out.udp.by_node_port.insert(node_port, serving);
        }
    }
}

/// Loads the address and port of one endpoint.
fn constant(endpoint: &Endpoint) -> Vec<Expr> {
    vec![
        Expr::Immediate { dreg: R4, value: endpoint.address.octets().to_vec() },
        Expr::Immediate { dreg: R5, value: endpoint.port.to_be_bytes().to_vec() },
    ]
}

/// Loads the address and port of one of the endpoints, each with the same chance.
fn choose(endpoints: &[&Endpoint]) -> Vec<Expr> {
    if let [only] = endpoints {
        return constant(only);
    }
    let elements = numbered(endpoints.iter().map(|e| Data::Value(addr_port(e.address, e.port))));
    let spec = SetSpec { key: vec![Field::Integer], kind: SetKind::Map(vec![Field::Ipv4, Field::Port]) };
    let set = SetRef::Inline(spec, elements);
    vec![random(endpoints.len()), Expr::Lookup { set, sreg: R8, dreg: Some(R4) }]
}

/// Takes one of the verdicts, each with the same chance.
fn choose_verdict(verdicts: impl Iterator<Item = Data>) -> Rule {
    let elements = numbered(verdicts);
    let spec = SetSpec { key: vec![Field::Integer], kind: SetKind::VerdictMap };
    vec![random(elements.len()), Expr::VerdictMap { set: SetRef::Inline(spec, elements), sreg: R8 }]
}

fn random(below: usize) -> Expr {
    Expr::Random { dreg: R8, modulus: u32::try_from(below).unwrap_or(u32::MAX) }
}

fn numbered(data: impl Iterator<Item = Data>) -> Vec<(Vec<u8>, Data)> {
    (0u32..).zip(data).map(|(n, data)| (n.to_ne_bytes().to_vec(), data)).collect()
}
