//! A question about the cluster's names to its answer: the Kubernetes DNS specification 1.1.0. Pure.
//!
//! The difference between "no such name" and "no record of that type" matters: resolvers stop their search at the latter.
//! A name exists when it has a record of any type, or when a name below it does.

use crate::records::{Endpoint, Kind, Port, Records, ServiceFacts, dashed};
use ferrokube_client::ObjectKey;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Version of the specification, as `dns-version.<zone>` tells it.
pub const SCHEMA_VERSION: &str = "1.1.0";
/// Answers stay well below what one datagram over TCP or UDP can carry.
const MAX_ADDITIONALS: usize = 32;

/// The cluster's zone.
#[derive(Clone, Debug)]
pub struct Zone {
    /// Its name, `cluster.local.`
    pub origin: Name,
    /// Time to live of all records in seconds.
    pub ttl: u32,
    /// Addresses of the DNS service itself (`ns.dns.<zone>`).
    pub server_addresses: Vec<IpAddr>,
    /// Networks whose reverse names are ours, also where no service is: (address, prefix length).
    pub reverse_networks: Vec<(Ipv4Addr, u8)>,
}

/// The answer to a question.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Records that answer it.
    pub answers: Vec<Record>,
    /// Records that save the next question.
    pub additionals: Vec<Record>,
}

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Records.
    Found(Answer),
    /// The name is another name of a host outside the zone: the record, and what it leads to.
    Elsewhere(Box<Record>, Name),
    /// The name exists without such a record.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// Not a name of this zone.
    NotOurs,
}

impl Zone {
    /// Answers a question.
    pub fn lookup(&self, records: &Records, name: &Name, kind: RecordType) -> Outcome {
        if self.origin.zone_of(name) {
            let depth = usize::from(name.num_labels()) - usize::from(self.origin.num_labels());
            let labels: Vec<String> = name.iter().take(depth).map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect();
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let question = Question { zone: self, records, name, kind };
            return question.answer(&labels);
        }
        match reverse_address(name) {
            Some(address) => self.reverse(records, name, kind, address),
            None => Outcome::NotOurs,
        }
    }

    /// The zone's SOA record, which goes with every negative answer.
    pub fn soa(&self) -> Record {
        let rdata = SOA::new(self.name_below("ns.dns"), self.name_below("hostmaster"), 1, 7200, 1800, 86400, self.ttl);
        Record::from_rdata(self.origin.clone(), self.ttl, RData::SOA(rdata))
    }

    fn name_below(&self, labels: &str) -> Name {
        let name = Name::from_ascii(labels).and_then(|n| n.append_domain(&self.origin));
        name.unwrap_or_else(|_| self.origin.clone())
    }

    /// The name of a service, or of something below it. `None` when it would be no valid name.
    fn service_name(&self, key: &ObjectKey, below: Option<&str>) -> Option<Name> {
        let labels = below.into_iter().chain([&*key.name, &*key.namespace, "svc"]).map(str::as_bytes);
        Name::from_labels(labels).ok()?.append_domain(&self.origin).ok()
    }

    fn reverse(&self, records: &Records, name: &Name, kind: RecordType, address: IpAddr) -> Outcome {
        let named: Vec<Name> = records.by_address(address).flat_map(|(k, f)| self.names_of(k, f, address)).collect();
        if !named.is_empty() {
            if !wants(kind, RecordType::PTR) {
                return Outcome::NoData;
            }
            let unique: BTreeSet<Name> = named.into_iter().collect();
            let record = |target| Record::from_rdata(name.clone(), self.ttl, RData::PTR(PTR(target)));
            return found(unique.into_iter().map(record).collect());
        }
        let ours = matches!(address, IpAddr::V4(a) if self.reverse_networks.iter().any(|(net, bits)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
            u32::from(a) & mask == u32::from(*net) & mask
        }));
        if ours { Outcome::NxDomain } else { Outcome::NotOurs }
    }

    /// Names under which a service is known by an address. An endpoint that asked for a hostname has that one only.
    fn names_of(&self, key: &ObjectKey, facts: &ServiceFacts, address: IpAddr) -> Vec<Name> {
        match &facts.kind {
            Kind::Cluster(_) => self.service_name(key, None).into_iter().collect(),
            Kind::Headless(endpoints) => {
                let here: Vec<&Endpoint> = endpoints.iter().filter(|e| e.address == address).collect();
                let any_named = here.iter().any(|e| e.named);
                let chosen = here.into_iter().filter(|e| e.named || !any_named);
                chosen.filter_map(|e| self.service_name(key, Some(&e.hostname))).collect()
            }
            Kind::External(_) => Vec::new(),
        }
    }
}

fn found(answers: Vec<Record>) -> Outcome {
    Outcome::Found(Answer { answers, additionals: Vec::new() })
}

fn wants(asked: RecordType, have: RecordType) -> bool {
    asked == have || asked == RecordType::ANY
}

/// The address a reverse name stands for.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels: Vec<&[u8]> = name.iter().collect();
    let (host, arpa) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    let is = |a: &[u8], b: &str| a.eq_ignore_ascii_case(b.as_bytes());
    if !is(arpa[1], "arpa") {
        return None;
    }
    let text = |l: &[u8]| std::str::from_utf8(l).map(str::to_owned).ok();
    if is(arpa[0], "in-addr") && host.len() == 4 {
        let octets: Option<Vec<u8>> = host.iter().rev().map(|l| text(l)?.parse().ok()).collect();
        return Some(IpAddr::from(<[u8; 4]>::try_from(octets?).ok()?));
    }
    if is(arpa[0], "ip6") && host.len() == 32 {
        let nibbles = host.iter().rev().map(|l| u128::from_str_radix(&text(l).filter(|t| t.len() == 1)?, 16).ok());
        let value = nibbles.into_iter().try_fold(0u128, |acc, nibble| Some(acc << 4 | nibble?))?;
        return Some(IpAddr::V6(Ipv6Addr::from(value)));
    }
    None
}

struct Question<'a> {
    zone: &'a Zone,
    records: &'a Records,
    name: &'a Name,
    kind: RecordType,
}

impl Question<'_> {
    /// `labels` are those before the zone's own, in lower case.
    fn answer(&self, labels: &[&str]) -> Outcome {
        match labels {
            [] => self.apex(),
            ["dns-version"] => self.only(RecordType::TXT, || RData::TXT(TXT::new(vec![SCHEMA_VERSION.into()]))),
            ["dns"] | ["svc"] | ["pod"] => Outcome::NoData,
            ["ns", "dns"] => self.addresses(self.zone.server_addresses.iter().copied()),
            [namespace, "svc" | "pod"] => self.exists_if(self.records.has_namespace(namespace)),
            [service, namespace, "svc"] => self.service(namespace, service),
            [below, service, namespace, "svc"] => self.below_service(namespace, service, below),
            [port, protocol, service, namespace, "svc"] => self.named_port(namespace, service, port, protocol),
            [address, namespace, "pod"] => self.pod(namespace, address),
            _ => Outcome::NxDomain,
        }
    }

    fn exists_if(&self, exists: bool) -> Outcome {
        if exists { Outcome::NoData } else { Outcome::NxDomain }
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.zone.ttl, data)
    }

    fn only(&self, have: RecordType, data: impl FnOnce() -> RData) -> Outcome {
        if wants(self.kind, have) { found(vec![self.record(data())]) } else { Outcome::NoData }
    }

    fn apex(&self) -> Outcome {
        match self.kind {
            RecordType::SOA | RecordType::ANY => found(vec![self.zone.soa()]),
            RecordType::NS => found(vec![self.record(RData::NS(NS(self.zone.name_below("ns.dns"))))]),
            _ => Outcome::NoData,
        }
    }

    /// The addresses of the family asked for.
    fn addresses(&self, all: impl Iterator<Item = IpAddr>) -> Outcome {
        let unique: BTreeSet<IpAddr> = all.collect();
        let records = unique.into_iter().filter(|a| wants(self.kind, type_of(*a)));
        let answers: Vec<Record> = records.map(|a| self.record(address_data(a))).collect();
        if answers.is_empty() { Outcome::NoData } else { found(answers) }
    }

    fn service(&self, namespace: &str, service: &str) -> Outcome {
        let Some(facts) = self.records.service(namespace, service) else { return Outcome::NxDomain };
        let key = ObjectKey::new(namespace, service);
        match &facts.kind {
            Kind::External(target) => self.external(target),
            Kind::Headless(endpoints) if endpoints.is_empty() => Outcome::NxDomain,
            _ if self.kind == RecordType::SRV => self.service_records(&key, facts, |_| true),
            Kind::Cluster(ips) => self.addresses(ips.iter().copied()),
            Kind::Headless(endpoints) => self.addresses(endpoints.iter().map(|e| e.address)),
        }
    }

    fn external(&self, target: &str) -> Outcome {
        if let Ok(address) = target.parse::<IpAddr>() {
            return self.addresses([address].into_iter());
        }
        let Ok(mut target) = Name::from_ascii(target) else { return Outcome::NoData };
        target.set_fqdn(true);
        let alias = self.record(RData::CNAME(CNAME(target.clone())));
        if matches!(self.kind, RecordType::CNAME | RecordType::ANY) {
            return found(vec![alias]);
        }
        // A name of our own zone is followed here, but only once: aliases may form a ring.
        match self.zone.lookup_once(self.records, &target, self.kind) {
            Some(answers) => found([alias].into_iter().chain(answers).collect()),
            None => Outcome::Elsewhere(Box::new(alias), target),
        }
    }

    fn below_service(&self, namespace: &str, service: &str, below: &str) -> Outcome {
        let Some(facts) = self.records.service(namespace, service) else { return Outcome::NxDomain };
        if let Some(protocol) = below.strip_prefix('_') {
            return self.exists_if(facts.ports.iter().any(|p| !p.name.is_empty() && p.protocol == protocol));
        }
        let Kind::Headless(endpoints) = &facts.kind else { return Outcome::NxDomain };
        let mut of_host = endpoints.iter().filter(|e| e.hostname.eq_ignore_ascii_case(below)).peekable();
        match of_host.peek() {
            Some(_) => self.addresses(of_host.map(|e| e.address)),
            None => Outcome::NxDomain,
        }
    }

    fn named_port(&self, namespace: &str, service: &str, port: &str, protocol: &str) -> Outcome {
        let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
            return Outcome::NxDomain;
        };
        let Some(facts) = self.records.service(namespace, service) else { return Outcome::NxDomain };
        let matches = |p: &Port| !p.name.is_empty() && p.name == port && p.protocol == protocol;
        let outcome = self.service_records(&ObjectKey::new(namespace, service), facts, matches);
        match outcome {
            Outcome::Found(_) if !wants(self.kind, RecordType::SRV) => Outcome::NoData,
            other => other,
        }
    }

    /// SRV records of the ports that match, with the addresses of their targets.
    fn service_records(&self, key: &ObjectKey, facts: &Arc<ServiceFacts>, matches: impl Fn(&Port) -> bool) -> Outcome {
        let mut targets: Vec<(u16, Name, IpAddr)> = Vec::new();
        match &facts.kind {
            Kind::Cluster(ips) => {
                let name = self.zone.service_name(key, None);
                for (port, name) in facts.ports.iter().filter(|p| matches(p)).zip(std::iter::repeat(name)) {
                    let Some(name) = name else { continue };
                    targets.extend(ips.iter().map(|ip| (port.number, name.clone(), *ip)));
                }
            }
            Kind::Headless(endpoints) => {
                for endpoint in endpoints {
                    let Some(name) = self.zone.service_name(key, Some(&endpoint.hostname)) else { continue };
                    let ports = endpoint.ports.iter().filter(|p| matches(p));
                    targets.extend(ports.map(|p| (p.number, name.clone(), endpoint.address)));
                }
            }
            Kind::External(_) => {}
        }
        if targets.is_empty() {
            return Outcome::NxDomain;
        }
        let services: BTreeSet<(u16, Name)> = targets.iter().map(|(port, name, _)| (*port, name.clone())).collect();
        let weight = u16::try_from(100 / services.len().min(100)).unwrap_or(1);
        let srv = |(port, target)| self.record(RData::SRV(SRV::new(0, weight, port, target)));
        let hosts: BTreeSet<(Name, IpAddr)> = targets.into_iter().map(|(_, name, address)| (name, address)).collect();
        let host = |(name, address)| Record::from_rdata(name, self.zone.ttl, address_data(address));
        Outcome::Found(Answer {
            answers: services.into_iter().map(srv).collect(),
            additionals: hosts.into_iter().take(MAX_ADDITIONALS).map(host).collect(),
        })
    }

    /// `a-b-c-d.<namespace>.pod`: any address, as long as the namespace exists.
    fn pod(&self, namespace: &str, label: &str) -> Outcome {
        let address = pod_address(label).filter(|_| self.records.has_namespace(namespace));
        address.map_or(Outcome::NxDomain, |a| self.addresses([a].into_iter()))
    }
}

impl Zone {
    /// The answers to a question about a name of this zone that is no alias; `None` when the name is not ours.
    fn lookup_once(&self, records: &Records, name: &Name, kind: RecordType) -> Option<Vec<Record>> {
        if !self.origin.zone_of(name) {
            return None;
        }
        let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect();
        let is_alias = match labels.as_slice() {
            [service, namespace, svc, ..] if svc == "svc" => {
                records.service(namespace, service).is_some_and(|f| matches!(f.kind, Kind::External(_)))
            }
            _ => false,
        };
        match (is_alias, kind) {
            (true, _) => Some(Vec::new()),
            (false, kind) => match self.lookup(records, name, kind) {
                Outcome::Found(answer) => Some(answer.answers),
                _ => Some(Vec::new()),
            },
        }
    }
}

fn pod_address(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    let address = v4.or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6))?;
    // Only the way the address is written counts, not `010-0-0-1`.
    (dashed(address) == label).then_some(address)
}

fn type_of(address: IpAddr) -> RecordType {
    if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(a) => RData::A(A(a)),
        IpAddr::V6(a) => RData::AAAA(AAAA(a)),
    }
}
