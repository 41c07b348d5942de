//! What the planned table says, for the cases that need no kernel: which endpoints a service leads to, by the rules of the
//! Kubernetes API; and that transactions between any two plans are right.

use ferrokube_network::nft::expr::{addr_proto_port, proto_port};
use ferrokube_network::nft::{Data, Expr, RuleSet, Verdict, diff};
use ferrokube_network::proxy::plan::{Settings, plan};
use ferrokube_network::proxy::service::NodeFacts;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const TCP: u8 = 6;

fn node() -> NodeFacts {
    NodeFacts { name: "here".into(), zone: Some("z1".into()), addresses: vec![[192, 168, 0, 1].into()] }
}

fn settings() -> Settings {
    Settings { cluster_cidr: Some("10.244.0.0/16".parse().expect("valid")), masquerade_all: false }
}

fn service(spec: Value) -> Service {
    let mut object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
        "type": "ClusterIP", "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}],
    }});
    merge(&mut object, &spec);
    serde_json::from_value(object).expect("a service")
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => from.iter().for_each(|(k, v)| merge(into.entry(k.clone()).or_insert(Value::Null), v)),
        (into, from) => *into = from.clone(),
    }
}

fn slice(endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints,
    }))
    .expect("a slice")
}

/// Last octets of the endpoints a chain leads to.
fn targets(rules: &RuleSet, chain: &str) -> BTreeSet<u8> {
    let Some(chain) = rules.chains.get(chain) else { return BTreeSet::new() };
    let inline = |e: &Expr| match e {
        Expr::Lookup { set: ferrokube_network::nft::expr::SetRef::Inline(_, elements), .. } => {
            elements.iter().filter_map(|(_, d)| if let Data::Value(v) = d { Some(v[3]) } else { None }).collect()
        }
        Expr::Immediate { value, .. } if value.len() == 4 => vec![value[3]],
        _ => Vec::new(),
    };
    chain.rules.iter().flatten().flat_map(inline).collect()
}

fn element<'a>(rules: &'a RuleSet, map: &str, key: &[u8]) -> Option<&'a Data> {
    rules.sets.get(map)?.elements.get(key)
}

fn goes_to(data: Option<&Data>) -> String {
    match data {
        Some(Data::Verdict(Verdict::Goto(chain))) => chain.to_string(),
        Some(Data::Verdict(Verdict::Drop)) => "drop".into(),
        None => "-".into(),
        other => format!("{other:?}"),
    }
}

fn endpoint(octet: u8, more: Value) -> Value {
    let mut out = json!({"addresses": [format!("10.244.0.{octet}")]});
    merge(&mut out, &more);
    out
}

fn ready(ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
}

#[test]
fn endpoints_are_chosen_by_their_conditions_and_hints() {
    let on = |node: &str| json!({"nodeName": node});
    let zone = |name: &str| json!({"hints": {"forZones": [{"name": name}]}});
    let for_node = |name: &str| json!({"hints": {"forNodes": [{"name": name}]}});
    let table: Vec<(&str, Vec<Value>, Vec<u8>)> = vec![
        ("no conditions means ready", vec![endpoint(1, json!({}))], vec![1]),
        ("ready beats terminating", vec![endpoint(1, ready(true, true, false)), endpoint(2, ready(false, true, true))], vec![1]),
        (
            "terminating but serving is better than nothing",
            vec![endpoint(1, ready(false, true, true)), endpoint(2, ready(false, false, true))],
            vec![1],
        ),
        ("not ready is nothing", vec![endpoint(1, ready(false, false, false))], vec![]),
        ("own zone", vec![endpoint(1, zone("z1")), endpoint(2, zone("z2"))], vec![1]),
        ("one without a hint: all", vec![endpoint(1, zone("z1")), endpoint(2, json!({}))], vec![1, 2]),
        ("no hint names us: all", vec![endpoint(1, zone("z2")), endpoint(2, zone("z3"))], vec![1, 2]),
        ("own node", vec![endpoint(1, for_node("here")), endpoint(2, for_node("there"))], vec![1]),
        ("the node it runs on is no hint", vec![endpoint(1, on("here")), endpoint(2, on("there"))], vec![1, 2]),
    ];
    for (what, endpoints, want) in table {
        let rules = plan(&[service(json!({}))], &[slice(json!(endpoints))], &node(), &settings());
        let got: Vec<u8> = targets(&rules, "service-default/web/tcp/http").into_iter().collect();
        assert_eq!(got, want, "{what}");
    }
}

#[test]
fn every_address_of_a_service_leads_where_its_policies_say() {
    let here = || endpoint(1, json!({"nodeName": "here"}));
    let there = || endpoint(2, json!({"nodeName": "there"}));
    let node_port = |policy: &str| json!({"spec": {"type": "NodePort", "externalTrafficPolicy": policy}});
    // Service, endpoints; then cluster address, node port, and what the filter does to either.
    let (chain, local, external) = ("service-default/web/tcp/http", "local-default/web/tcp/http", "external-default/web/tcp/http");
    let table = vec![
        (json!({}), vec![here(), there()], [chain, "-"], ["-", "-"]),
        (json!({}), vec![], ["-", "-"], ["reject-chain", "-"]),
        (json!({"spec": {"internalTrafficPolicy": "Local"}}), vec![here(), there()], [local, "-"], ["-", "-"]),
        (json!({"spec": {"internalTrafficPolicy": "Local"}}), vec![there()], ["-", "-"], ["drop", "-"]),
        (node_port("Cluster"), vec![there()], [chain, external], ["-", "-"]),
        (node_port("Local"), vec![here()], [chain, external], ["-", "-"]),
        (node_port("Local"), vec![there()], [chain, external], ["-", "drop"]),
        (node_port("Local"), vec![], ["-", "-"], ["reject-chain", "reject-chain"]),
        (json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}), vec![here()], ["-", "-"], ["-", "-"]),
        (json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "other"}}}), vec![here()], ["-", "-"], ["-", "-"]),
    ];
    for (spec, endpoints, to, filtered) in table {
        let mut spec = spec;
        if spec["spec"]["type"] != "NodePort" {
            merge(&mut spec, &json!({"spec": {"ports": [{"name": "http", "port": 80}]}}));
        }
        let rules = plan(&[service(spec.clone())], &[slice(json!(endpoints))], &node(), &settings());
        let ip_key = addr_proto_port([10, 96, 0, 20].into(), TCP, 80);
        let port_key = proto_port(TCP, 30080);
        let got = [goes_to(element(&rules, "service-ips", &ip_key)), goes_to(element(&rules, "service-nodeports", &port_key))];
        assert_eq!(got, to, "{spec} {endpoints:?}");
        let got = [goes_to(element(&rules, "no-endpoint-services", &ip_key)), goes_to(element(&rules, "no-endpoint-nodeports", &port_key))];
        assert_eq!(got, filtered, "{spec} {endpoints:?}");
    }
}

#[test]
fn a_balancer_in_proxy_mode_is_left_alone_and_two_claims_to_one_address_do_not_clash() {
    let mut balancer = service(json!({"spec": {"type": "LoadBalancer", "externalIPs": ["192.0.2.9"]}}));
    balancer.status =
        serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "Proxy"}, {"ip": "192.0.2.2"}]}}))
            .expect("a status");
    let mut rival = service(json!({"spec": {"clusterIP": "10.96.0.21", "clusterIPs": ["10.96.0.21"], "externalIPs": ["192.0.2.9"]}}));
    rival.metadata.name = Some("zzz".into());
    let rules = plan(&[balancer, rival], &[slice(json!([endpoint(1, json!({}))]))], &node(), &settings());
    let at = |last| goes_to(element(&rules, "service-ips", &addr_proto_port([192, 0, 2, last].into(), TCP, 80)));
    assert_eq!([at(1), at(2), at(9)], ["-", "external-default/web/tcp/http", "external-default/web/tcp/http"]);
}

fn services() -> impl Strategy<Value = (Vec<Service>, Vec<EndpointSlice>)> {
    let one = (0u8..4, 0u8..3, any::<[bool; 5]>(), proptest::collection::vec((1u8..6, any::<bool>(), any::<bool>()), 0..5));
    proptest::collection::btree_map(0u8..5, one, 0..5).prop_map(|all| {
        let mut out = (Vec::new(), Vec::new());
        for (name, (port, node_port, [internal, external, sticky, udp, ranges], endpoints)) in all {
            let kind = ["ClusterIP", "NodePort", "LoadBalancer"][usize::from(node_port)];
            let protocol = if udp { "UDP" } else { "TCP" };
            let mut spec = json!({"spec": {
                "type": kind, "clusterIP": format!("10.96.0.{name}"), "clusterIPs": [format!("10.96.0.{name}")],
                "internalTrafficPolicy": if internal { "Local" } else { "Cluster" },
                "externalTrafficPolicy": if external { "Local" } else { "Cluster" },
                "sessionAffinity": if sticky { "ClientIP" } else { "None" },
                "ports": [{"name": "http", "port": 80 + u16::from(port), "protocol": protocol, "nodePort": 30000 + u16::from(port)}],
            }});
            if ranges {
                merge(&mut spec, &json!({"spec": {"loadBalancerSourceRanges": ["10.0.0.0/8", "bad"]}}));
            }
            let mut object = service(spec);
            object.metadata.name = Some(format!("s{name}"));
            if kind == "LoadBalancer" {
                object.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{}", name % 2)}]}}))
                    .expect("a status");
            }
            let endpoints: Vec<_> = endpoints
                .into_iter()
                .map(|(octet, is_ready, local)| {
                    let node = if local { "here" } else { "there" };
                    endpoint(octet, json!({"nodeName": node, "conditions": {"ready": is_ready, "serving": true, "terminating": !is_ready}}))
                })
                .collect();
            let mut slice = slice(json!(endpoints));
            slice.metadata.labels.as_mut().expect("labels").insert("kubernetes.io/service-name".into(), format!("s{name}"));
            slice.ports.as_mut().expect("ports")[0].protocol = Some(protocol.into());
            out.0.push(object);
            out.1.push(slice);
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_plan_follows_from_any_other_by_its_transaction(a in services(), b in services()) {
        let (a, b) = (plan(&a.0, &a.1, &node(), &settings()), plan(&b.0, &b.1, &node(), &settings()));
        let mut model = a.clone();
        model.apply(&diff(&a, &b)).expect("every step is one the kernel takes");
        prop_assert_eq!(model, b);
    }
}

/// The same against the kernel, in a network namespace of its own (a thread's: nothing else notices).
#[test]
fn the_kernel_takes_every_transaction_and_holds_what_the_model_holds() {
    use ferrokube_network::nft::Nft;
    use ferrokube_network::proxy::TABLE;
    use proptest::strategy::ValueTree;
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: the_kernel_takes_every_transaction: needs root (network namespaces, nftables)");
        return;
    }
    let work = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root may unshare");
        let mut nft = Nft::open().expect("netlink");
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let mut now = plan(&[], &[], &node(), &settings());
        nft.replace(TABLE, &diff(&RuleSet::default(), &now)).expect("the skeleton");
        for round in 0..200 {
            let (services, slices) = services().new_tree(&mut runner).expect("generates").current();
            let want = plan(&services, &slices, &node(), &settings());
            let transaction = diff(&now, &want);
            nft.apply(TABLE, &transaction).unwrap_or_else(|e| panic!("round {round}: {e}: {transaction:#?}"));
            for (name, set) in &want.sets {
                let keys: BTreeSet<Vec<u8>> = nft.elements(TABLE, name).expect("lists").into_iter().map(|(key, _)| key).collect();
                let model: BTreeSet<Vec<u8>> = set.elements.keys().cloned().collect();
                assert_eq!(keys, model, "round {round}: set {name}");
            }
            now = want;
        }
    };
    std::thread::spawn(work).join().unwrap_or_else(|e| std::panic::resume_unwind(e));
}
