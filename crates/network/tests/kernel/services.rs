//! Services: objects to rules to connections. The planned table is put into the kernel as the proxy does it.

use crate::lab::{Answer, Lab, Pod, assert_refused, assert_unreachable, inside, serve, show_rules, tcp, udp, udp_from};
use ferrokube_network::nft::{Nft, RuleSet, diff};
use ferrokube_network::proxy::TABLE;
use ferrokube_network::proxy::plan::{Settings, plan};
use ferrokube_network::proxy::service::NodeFacts;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
const NODE: &str = "node-1";

/// The kernel's table and what we think of it.
struct Table {
    nft: Nft,
    now: RuleSet,
    settings: Settings,
}

impl Table {
    fn new(lab: &Lab) -> Self {
        let settings = Settings { cluster_cidr: Some(lab.node.cluster_cidr), masquerade_all: false };
        let mut nft = Nft::open().expect("netlink");
        let empty = plan(&[], &[], &node(), &settings);
        nft.replace(TABLE, &diff(&RuleSet::default(), &empty)).expect("the skeleton");
        Self { nft, now: empty, settings }
    }

    /// Applies the difference to what these objects ask for.
    fn set(&mut self, objects: &[(Service, EndpointSlice)]) {
        let (services, slices): (Vec<_>, Vec<_>) = objects.iter().cloned().unzip();
        let want = plan(&services, &slices, &node(), &self.settings);
        if let Err(e) = self.nft.apply(TABLE, &diff(&self.now, &want)) {
            show_rules();
            panic!("{e}: {:#?}", diff(&self.now, &want));
        }
        self.now = want;
        if std::env::var_os("FERROKUBE_SHOW_RULES").is_some() {
            show_rules();
        }
    }
}

fn node() -> NodeFacts {
    NodeFacts { name: NODE.into(), zone: None, addresses: vec![Ipv4Addr::new(10, 244, 0, 1)] }
}

/// A service with a TCP and a UDP port 80 to port 8080 of its endpoints; `spec` is merged into its own.
fn service(spec: Value) -> Service {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "type": "ClusterIP", "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP],
            "ports": [
                {"name": "web", "port": 80, "protocol": "TCP", "targetPort": 8080},
                {"name": "udp", "port": 80, "protocol": "UDP", "targetPort": 8080},
            ],
        },
    });
    let target = object["spec"].as_object_mut().expect("an object");
    spec.as_object().expect("an object").iter().for_each(|(k, v)| drop(target.insert(k.clone(), v.clone())));
    serde_json::from_value(object).expect("a service")
}

fn node_port(spec: Value) -> Service {
    let mut service = service(spec);
    let ports = service.spec.as_mut().and_then(|s| s.ports.as_mut()).expect("ports");
    ports.iter_mut().for_each(|p| p.node_port = Some(30080));
    service
}

fn slice(endpoints: Vec<Value>) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [
            {"name": "web", "port": 8080, "protocol": "TCP"},
            {"name": "udp", "port": 8080, "protocol": "UDP"},
        ],
        "endpoints": endpoints,
    }))
    .expect("a slice")
}

fn endpoint(address: Ipv4Addr) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": NODE})
}

fn elsewhere(address: Ipv4Addr) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "node-2"})
}

fn backend(lab: &Lab, name: &'static str) -> Pod {
    let pod = lab.pod();
    pod.serve(8080, name);
    pod
}

fn count(answers: impl Iterator<Item = Answer>) -> BTreeMap<String, usize> {
    answers.fold(BTreeMap::new(), |mut counts, answer| {
        *counts.entry(answer.server).or_default() += 1;
        counts
    })
}

#[test]
fn a_cluster_address_reaches_all_endpoints_from_pods_and_from_the_node() {
    inside("services::a_cluster_address_reaches_all_endpoints_from_pods_and_from_the_node", |lab| {
        let mut table = Table::new(lab);
        let (a, b, client) = (backend(lab, "a"), backend(lab, "b"), lab.pod());
        table.set(&[(service(json!({})), slice(vec![endpoint(a.address), endpoint(b.address)]))]);
        let counts = count((0..60).map(|_| client.run(|| tcp(CLUSTER_IP, 80)).expect("from a pod")));
        assert!(counts["a"] > 10 && counts["b"] > 10, "{counts:?}");
        let counts = count((0..60).map(|_| udp(CLUSTER_IP, 80).expect("from the node, UDP")));
        assert!(counts["a"] > 10 && counts["b"] > 10, "{counts:?}");
        let answer = client.run(|| tcp(CLUSTER_IP, 80)).expect("from a pod");
        assert_eq!(answer.seen_as, client.address.to_string(), "a pod is seen as itself");
        tcp(CLUSTER_IP, 80).expect("from the node");
        client.run(|| udp(CLUSTER_IP, 80)).expect("from a pod, UDP");
        assert_refused("a port the service does not have, from a pod", || client.run(|| tcp(CLUSTER_IP, 81)));
        assert_refused("a port the service does not have, from the node", || tcp(CLUSTER_IP, 81));
        assert_refused("the same by UDP", || client.run(|| udp(CLUSTER_IP, 81)));
    });
}

#[test]
fn an_endpoint_reaches_itself_through_its_service() {
    inside("services::an_endpoint_reaches_itself_through_its_service", |lab| {
        let mut table = Table::new(lab);
        let a = backend(lab, "a");
        table.set(&[(service(json!({})), slice(vec![endpoint(a.address)]))]);
        assert_eq!(a.run(|| tcp(CLUSTER_IP, 80)).expect("TCP").server, "a");
        assert_eq!(a.run(|| udp(CLUSTER_IP, 80)).expect("UDP").server, "a");
    });
}

#[test]
fn without_endpoints_connections_are_refused_until_one_comes() {
    inside("services::without_endpoints_connections_are_refused_until_one_comes", |lab| {
        let mut table = Table::new(lab);
        let (a, client) = (backend(lab, "a"), lab.pod());
        let gateway = lab.node.gateway();
        table.set(&[(node_port(json!({"type": "NodePort"})), slice(vec![]))]);
        for (what, address, port) in [("cluster address", CLUSTER_IP, 80), ("node port", gateway, 30080)] {
            assert_refused(&format!("{what} from a pod"), || client.run(|| tcp(address, port)));
            assert_refused(&format!("{what} from the node"), || tcp(address, port));
            assert_refused(&format!("{what} from a pod, UDP"), || client.run(|| udp(address, port)));
            assert_refused(&format!("{what} from the node, UDP"), || udp(address, port));
        }
        table.set(&[(node_port(json!({"type": "NodePort"})), slice(vec![endpoint(a.address)]))]);
        client.run(|| tcp(CLUSTER_IP, 80)).expect("an endpoint came");
        tcp(gateway, 30080).expect("an endpoint came");
        table.set(&[(node_port(json!({"type": "NodePort"})), slice(vec![]))]);
        assert_refused("it went again", || client.run(|| tcp(CLUSTER_IP, 80)));
        table.set(&[]);
        assert_refused("the service went", || client.run(|| tcp(CLUSTER_IP, 80)));
        assert_eq!(table.now, plan(&[], &[], &node(), &table.settings), "nothing remains");
    });
}

#[test]
fn a_node_port_answers_on_every_address_of_the_node() {
    inside("services::a_node_port_answers_on_every_address_of_the_node", |lab| {
        let mut table = Table::new(lab);
        let (a, client) = (backend(lab, "a"), lab.pod());
        table.set(&[(node_port(json!({"type": "NodePort"})), slice(vec![endpoint(a.address)]))]);
        for address in [lab.node.gateway(), Ipv4Addr::LOCALHOST] {
            assert_eq!(tcp(address, 30080).expect("from the node").server, "a", "{address}");
            assert_eq!(udp(address, 30080).expect("from the node, UDP").server, "a", "{address}");
        }
        assert_eq!(client.run(|| tcp(lab.node.gateway(), 30080)).expect("from a pod").server, "a");
        assert_eq!(a.run(|| tcp(lab.node.gateway(), 30080)).expect("from the endpoint itself").server, "a");
    });
}

#[test]
fn a_client_stays_with_its_endpoint_until_that_goes() {
    inside("services::a_client_stays_with_its_endpoint_until_that_goes", |lab| {
        let mut table = Table::new(lab);
        let (a, b, c) = (backend(lab, "a"), backend(lab, "b"), backend(lab, "c"));
        let client = lab.pod();
        let sticky = || service(json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}}));
        let ask = || client.run(|| tcp(CLUSTER_IP, 80)).expect("answers").server;
        let all = [("a", a.address), ("b", b.address), ("c", c.address)];
        table.set(&[(sticky(), slice(all.iter().map(|(_, x)| endpoint(*x)).collect()))]);
        let first = ask();
        assert!((0..20).all(|_| ask() == first));
        let rest = all.iter().filter(|(name, _)| *name != first).map(|(_, x)| endpoint(*x)).collect();
        table.set(&[(sticky(), slice(rest))]);
        let second = ask();
        assert_ne!(second, first, "a dead endpoint is not chosen");
        assert!((0..20).all(|_| ask() == second), "and the client stays with the new one");
    });
}

#[test]
fn external_addresses_and_balancer_addresses_obey_their_policies() {
    inside("services::external_addresses_and_balancer_addresses_obey_their_policies", |lab| {
        let mut table = Table::new(lab);
        let (here, client, stranger) = (backend(lab, "here"), lab.pod(), lab.pod());
        let (external, balancer) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2));
        let mut object = node_port(json!({
            "type": "LoadBalancer", "externalIPs": [external], "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": [format!("{}/32", client.address)],
        }));
        object.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": balancer}]}})).expect("a status");
        table.set(&[(object.clone(), slice(vec![endpoint(here.address)]))]);
        assert_eq!(client.run(|| tcp(external, 80)).expect("external address").server, "here");
        assert_eq!(client.run(|| tcp(balancer, 80)).expect("balancer address, in range").server, "here");
        stranger.run(|| assert_unreachable("out of range", balancer, 80));
        assert_eq!(stranger.run(|| tcp(external, 80)).expect("the range is the balancer's only").server, "here");
        // Only endpoints elsewhere: who is in the cluster may still go there.
        table.set(&[(object, slice(vec![elsewhere(here.address)]))]);
        assert_eq!(client.run(|| tcp(external, 80)).expect("policy Local does not bind pods").server, "here");
    });
}

#[test]
fn internal_policy_local_keeps_to_this_node() {
    inside("services::internal_policy_local_keeps_to_this_node", |lab| {
        let mut table = Table::new(lab);
        let (a, b, client) = (backend(lab, "a"), backend(lab, "b"), lab.pod());
        let local = || service(json!({"internalTrafficPolicy": "Local"}));
        table.set(&[(local(), slice(vec![endpoint(a.address), elsewhere(b.address)]))]);
        let counts = count((0..20).map(|_| client.run(|| tcp(CLUSTER_IP, 80)).expect("answers")));
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["a"]);
        table.set(&[(local(), slice(vec![elsewhere(b.address)]))]);
        client.run(|| assert_unreachable("dropped rather than sent elsewhere", CLUSTER_IP, 80));
    });
}

#[test]
fn a_restart_replaces_the_table_without_cutting_anything() {
    inside("services::a_restart_replaces_the_table_without_cutting_anything", |lab| {
        let mut table = Table::new(lab);
        let (a, b, client) = (backend(lab, "a"), backend(lab, "b"), lab.pod());
        table.set(&[(node_port(json!({"type": "NodePort"})), slice(vec![endpoint(a.address)]))]);
        let want = plan(&[service(json!({}))], &[slice(vec![endpoint(b.address)])], &node(), &table.settings);
        let mut nft = Nft::open().expect("netlink");
        nft.replace(TABLE, &diff(&RuleSet::default(), &want)).expect("a new proxy takes over");
        assert_eq!(client.run(|| tcp(CLUSTER_IP, 80)).expect("the new rules").server, "b");
        assert_refused("the old node port", || tcp(lab.node.gateway(), 30080));
    });
}

#[test]
fn a_udp_client_that_keeps_sending_moves_to_the_new_endpoint() {
    inside("services::a_udp_client_that_keeps_sending_moves_to_the_new_endpoint", |lab| {
        let mut table = Table::new(lab);
        let (a, b, client) = (backend(lab, "a"), backend(lab, "b"), lab.pod());
        table.set(&[(service(json!({})), slice(vec![endpoint(a.address)]))]);
        let socket = client.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("bind");
        assert_eq!(udp_from(&socket, CLUSTER_IP, 80).expect("first").server, "a");
        table.set(&[(service(json!({})), slice(vec![endpoint(b.address)]))]);
        assert_eq!(udp_from(&socket, CLUSTER_IP, 80).expect("the kernel remembers").server, "a");
        let deleted = ferrokube_network::conntrack::delete_udp(|f| f.original.address == CLUSTER_IP && f.actual.address == a.address);
        assert_eq!(deleted.expect("conntrack"), 1);
        assert_eq!(udp_from(&socket, CLUSTER_IP, 80).expect("after the entry has gone").server, "b");
    });
}

#[test]
fn a_thousand_services_are_planned_and_applied_quickly_and_a_change_touches_little() {
    inside("services::a_thousand_services_are_planned_and_applied_quickly_and_a_change_touches_little", |lab| {
        let mut table = Table::new(lab);
        let a = backend(lab, "a");
        serve(Ipv4Addr::LOCALHOST, 1, "unused");
        let many: Vec<_> = (0..1000u32)
            .map(|n| {
                let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 97, 0, 1)) + n);
                let mut object = service(json!({"clusterIP": ip, "clusterIPs": [ip]}));
                object.metadata.name = Some(format!("web{n}"));
                let endpoints = (0..10).map(|e| endpoint(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 1, 0)) + n * 10 + e)));
                let mut slice = slice(endpoints.collect());
                slice.metadata.labels.as_mut().expect("labels").insert("kubernetes.io/service-name".into(), format!("web{n}"));
                (object, slice)
            })
            .collect();
        let started = std::time::Instant::now();
        table.set(&many);
        println!("1000 services, 2000 ports, 20000 endpoints: {:?}", started.elapsed());
        let mut one_more = many;
        one_more.push((service(json!({})), slice(vec![endpoint(a.address)])));
        let (services, slices): (Vec<_>, Vec<_>) = one_more.into_iter().unzip();
        let want = plan(&services, &slices, &node(), &table.settings);
        let change = diff(&table.now, &want);
        let started = std::time::Instant::now();
        table.nft.apply(TABLE, &change).expect("applies");
        println!("one more: {} operations, {:?}", change.ops.len(), started.elapsed());
        assert!(change.ops.len() < 12, "{}", change.ops.len());
        tcp(CLUSTER_IP, 80).expect("the one more");
    });
}
