//! Warnings about objects that are accepted as they are, for kinds that have few of them.

use super::json::*;
use super::pod::warnings::old_label;
use super::service::is_headless;
use crate::field::At;
use crate::names;
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");
const NODE_GONE: [(&str, &str); 2] =
    [("configSource", "the feature is removed"), ("externalID", "this field is deprecated, and is unused by Kubernetes")];

type Out = Vec<String>;

/// What a node is told: fields that nothing reads, and its ranges.
pub(super) fn node(o: &Value) -> Out {
    let set = |key: &str| get(spec(o), key).is_some_and(|v| *v != "");
    let mut out: Out = NODE_GONE.iter().filter(|(key, _)| set(key)).map(|(key, why)| format!("spec.{key}: {why}")).collect();
    let ranges = SPEC.child("podCIDRs");
    out.extend(texts(spec(o), "podCIDRs").enumerate().flat_map(|(i, range)| names::odd_cidr(&ranges.index(i), range)));
    out
}

/// Labels of nodes that have a successor, where a class asks for them.
pub(super) fn runtime_class(o: &Value) -> Out {
    let asked = at(o, &["scheduling"]).into_iter().flat_map(|s| entries(s, "nodeSelector"));
    asked.filter_map(|(label, _)| Some(format!("scheduling.nodeSelector: {}", old_label(label)?))).collect()
}

pub(super) fn storage_class(o: &Value) -> Out {
    let mut out = Vec::new();
    let topologies = At::field("allowedTopologies");
    for (i, term) in list(o, "allowedTopologies").iter().enumerate() {
        let terms = topologies.index(i);
        let terms = terms.child("matchLabelExpressions");
        for (j, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
            let why = old_label(text(expression, "key"));
            out.extend(why.map(|why| format!("{}: {why}", terms.index(j).child("key"))));
        }
    }
    out
}

pub(super) fn capacity(o: &Value) -> Out {
    let Some(topology) = get(o, "nodeTopology") else { return Vec::new() };
    let mut out = Vec::new();
    for (i, expression) in list(topology, "matchExpressions").iter().enumerate() {
        let key = text(expression, "key");
        out.extend(old_label(key).map(|why| format!("nodeTopology.matchExpressions[{i}].key: {key} is {why}")));
    }
    for (label, _) in entries(topology, "matchLabels") {
        out.extend(old_label(label).map(|why| format!("nodeTopology.matchLabels.{label}: {why}")));
    }
    out
}

/// The ranges of a network policy, from and to.
pub(super) fn network_policy(o: &Value) -> Out {
    let mut out = Vec::new();
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        let path = SPEC.child(rules);
        for (i, rule) in list(spec(o), rules).iter().enumerate() {
            let path = path.index(i);
            let path = path.child(peers);
            for (j, peer) in list(rule, peers).iter().enumerate() {
                let path = path.index(j);
                let path = path.child("ipBlock");
                let block = peer.get("ipBlock").unwrap_or(&NONE);
                out.extend(names::odd_cidr(&path.child("cidr"), text(block, "cidr")));
                let except = path.child("except");
                out.extend(texts(block, "except").enumerate().flat_map(|(k, range)| names::odd_cidr(&except.index(k), range)));
            }
        }
    }
    out
}

/// The addresses of a slice that no controller of the cluster keeps.
pub(super) fn slice(o: &Value) -> Out {
    const KEEPERS: [&str; 2] = ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    let mut out = Vec::new();
    if text(o, "addressType") == "FQDN" {
        out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        return out;
    }
    if KEEPERS.contains(&text_at(o, &["metadata", "labels", "endpointslice.kubernetes.io/managed-by"])) {
        return out;
    }
    let path = At::field("endpoints");
    for (i, endpoint) in list(o, "endpoints").iter().enumerate() {
        let path = path.index(i);
        let path = path.child("addresses");
        out.extend(texts(endpoint, "addresses").enumerate().filter_map(|(j, ip)| names::odd_ip(&path.index(j), ip)));
    }
    out
}

/// The addresses of endpoints, ready or not, that no controller keeps.
pub(super) fn endpoints(o: &Value) -> Out {
    let mut out = Vec::new();
    if text_at(o, &["metadata", "labels", "endpoints.kubernetes.io/managed-by"]) == "endpoint-controller" {
        return out;
    }
    let path = At::field("subsets");
    for (i, subset) in list(o, "subsets").iter().enumerate() {
        let path = path.index(i);
        for key in ["addresses", "notReadyAddresses"] {
            let path = path.child(key);
            for (j, address) in list(subset, key).iter().enumerate() {
                out.extend(names::odd_ip(&path.index(j).child("ip"), text(address, "ip")));
            }
        }
    }
    out
}

/// What a service is told besides (`pkg/api/service.GetWarningsForService`).
pub(super) fn service(o: &Value) -> Vec<String> {
    const OLD_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let spec = spec(o);
    let mut out = Vec::new();
    if at(o, &["metadata", "annotations", OLD_HINTS]).is_some() {
        out.push(format!("annotation {OLD_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"));
    }
    let odd_ips = |key: &str, out: &mut Vec<String>| {
        let path = SPEC.child(key);
        out.extend(texts(spec, key).enumerate().filter_map(|(i, value)| names::odd_ip(&path.index(i), value)));
    };
    if !is_headless(spec) {
        odd_ips("clusterIPs", &mut out);
    } else {
        if !text(spec, "loadBalancerIP").is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if !list(spec, "externalIPs").is_empty() {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if text(spec, "sessionAffinity") != "None" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    odd_ips("externalIPs", &mut out);
    out.extend(names::odd_ip(&SPEC.child("loadBalancerIP"), text(spec, "loadBalancerIP")));
    let ranges = SPEC.child("loadBalancerSourceRanges");
    out.extend(texts(spec, "loadBalancerSourceRanges").enumerate().flat_map(|(i, value)| names::odd_cidr(&ranges.index(i), value)));
    let named = text(spec, "type") == "ExternalName";
    if named && !list(spec, "externalIPs").is_empty() {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !named && !text(spec, "externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        out.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    out
}

/// The addresses of a pod and of its node.
pub(super) fn pod_status(o: &Value) -> Out {
    let mut out = Vec::new();
    let path = At::field("status");
    for key in ["podIPs", "hostIPs"] {
        let path = path.child(key);
        let all = list_at(o, &["status", key]).iter().enumerate();
        out.extend(all.filter_map(|(i, address)| names::odd_ip(&path.index(i).child("ip"), text(address, "ip"))));
    }
    out
}

/// The addresses of load balancers; the path ends at their entry, as upstream has it.
pub(super) fn balanced(o: &Value) -> Out {
    let path = At::field("status");
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    let all = list_at(o, &["status", "loadBalancer", "ingress"]).iter().enumerate();
    all.filter_map(|(i, point)| names::odd_ip(&path.index(i), text(point, "ip"))).collect()
}
