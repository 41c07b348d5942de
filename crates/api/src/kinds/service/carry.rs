//! What an update keeps of the stored service (`patchAllocatedValues`, `normalizeClusterIPs`), and what it loses because
//! the new type has no use for it (`dropTypeDependentFields`). Idempotent.

use super::{external, has_address, has_health_port, has_node_ports};
use crate::kinds::json::*;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Carries allocated values over from the stored service and drops what only the old type needed.
pub fn carry_over(new: &mut Value, old: &Value) {
    let old = spec(old);
    let new = object(new, "spec");
    patch_allocated(new, old);
    normalize_addresses(new, old);
    drop_unused(new, old);
}

fn patch_allocated(new: &mut Value, old: &Value) {
    if has_address(old) && has_address(new) {
        if text(new, "clusterIP").is_empty() {
            copy(new, old, "clusterIP");
        }
        if list(new, "clusterIPs").is_empty() && text(new, "clusterIP") == text(old, "clusterIP") {
            copy(new, old, "clusterIPs");
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        keep_node_ports(new, old);
    }
    if has_health_port(old) && has_health_port(new) && int(new, "healthCheckNodePort").unwrap_or_default() == 0 {
        copy(new, old, "healthCheckNodePort");
    }
}

fn node_ports(spec: &Value) -> HashSet<i64> {
    list(spec, "ports").iter().filter_map(|p| int(p, "nodePort")).filter(|n| *n != 0).collect()
}

/// A port keeps its node port by its name, unless that number serves another port now.
fn keep_node_ports(new: &mut Value, old: &Value) {
    let mut used: HashSet<i64> = node_ports(old).intersection(&node_ports(new)).copied().collect();
    for port in each_mut(new, "ports").filter(|p| int(p, "nodePort").unwrap_or_default() == 0) {
        let before = list(old, "ports").iter().rfind(|o| text(o, "name") == text(port, "name")).and_then(|o| int(o, "nodePort"));
        if let Some(n) = before.filter(|n| *n != 0 && used.insert(*n)) {
            set(port, "nodePort", n);
        }
    }
}

/// `clusterIP` and the first of `clusterIPs` follow whichever the client changed.
fn normalize_addresses(new: &mut Value, old: &Value) {
    let (ip, before) = (text(new, "clusterIP").to_owned(), text(old, "clusterIP"));
    let unchanged = same(new.get("clusterIPs"), old.get("clusterIPs"));
    if ip != before {
        match ip.as_str() {
            "" if unchanged => drop(remove(new, "clusterIPs")),
            "" => {
                if let Some(first) = list(new, "clusterIPs").first().cloned() {
                    set(new, "clusterIP", first);
                }
            }
            _ if unchanged || list(new, "clusterIPs").is_empty() => set(new, "clusterIPs", json!([ip])),
            _ => {}
        }
    } else if !unchanged && !ip.is_empty() && list(new, "clusterIPs").is_empty() {
        set(new, "clusterIPs", json!([ip]));
    }
}

/// Fields that only some types have are dropped when the type changes and the client did not touch them.
fn drop_unused(new: &mut Value, old: &Value) {
    let untouched = |new: &Value, key: &str| same(new.get(key), old.get(key));
    if has_address(old) && !has_address(new) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if untouched(new, key) {
                remove(new, key);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(new) && node_ports(old).is_superset(&node_ports(new)) {
        each_mut(new, "ports").for_each(|port| drop(remove(port, "nodePort")));
    }
    if has_health_port(old) && !has_health_port(new) && untouched(new, "healthCheckNodePort") {
        remove(new, "healthCheckNodePort");
    }
    let balanced = |s: &Value| text(s, "type") == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if untouched(new, key) {
                remove(new, key);
            }
        }
    }
    if external(old) && !external(new) && untouched(new, "externalTrafficPolicy") {
        remove(new, "externalTrafficPolicy");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(new: Value, old: Value) -> Value {
        let mut new = json!({ "spec": new });
        carry_over(&mut new, &json!({ "spec": old }));
        new["spec"].take()
    }

    #[test]
    fn node_ports_stay_with_the_name_of_their_port() {
        let old = json!({"type": "NodePort", "ports": [{"name": "a", "port": 1, "nodePort": 30001}, {"name": "b", "port": 2, "nodePort": 30002}]});
        let new = json!({"type": "NodePort", "ports": [{"name": "b", "port": 9}, {"name": "c", "port": 3, "nodePort": 30001}, {"name": "a", "port": 1}]});
        let ports: Vec<_> = carried(new, old)["ports"].as_array().into_iter().flatten().map(|p| int(p, "nodePort")).collect();
        // `a` lost its number to `c`, which asked for it.
        assert_eq!(ports, [Some(30002), Some(30001), None]);
    }

    #[test]
    fn a_service_that_becomes_a_name_loses_its_address_and_ports() {
        let old = json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "allocateLoadBalancerNodePorts": true, "externalTrafficPolicy": "Local", "healthCheckNodePort": 30009, "ports": [{"port": 1, "nodePort": 30001}]});
        let mut new = old.clone();
        set(&mut new, "type", "ExternalName");
        assert_eq!(carried(new, old), json!({"type": "ExternalName", "ports": [{"port": 1}]}));
    }

    #[test]
    fn node_ports_go_with_the_type_also_when_some_of_them_went_before() {
        let old = json!({"type": "NodePort", "ports": [{"name": "a", "port": 1, "nodePort": 30001}, {"name": "b", "port": 2, "nodePort": 30002}]});
        let ports = |port: i64| json!({"type": "ClusterIP", "ports": [{"name": "a", "port": 1, "nodePort": port}]});
        assert_eq!(carried(ports(30001), old.clone())["ports"], json!([{"name": "a", "port": 1}]));
        // One that was not there is asked for, and refused later.
        assert_eq!(carried(ports(30003), old)["ports"][0]["nodePort"], 30003);
    }
}
