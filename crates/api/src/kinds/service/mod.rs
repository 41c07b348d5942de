//! Services: defaults, what carries over from the stored object, address families, rules.
//!
//! Which address and port a service gets is the business of the API server's allocators; what a service needs and keeps
//! is decided here, without knowing what is free.

mod carry;
mod families;
mod validate;

pub use carry::carry_over;
pub use families::settle as settle_families;
pub(super) use validate::{balancer_address, balancer_hostname};

use super::json::*;
use super::{HookContext, Hooks, warnings};
use crate::field::At;
use crate::names;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(prepare_create),
    prepare_update: Some(|new, old, _| carry_over(new, old)),
    prepare_status: Some(|new, _, _| default(new)),
    validate_create: Some(validate::create),
    validate_update: Some(validate::update),
    validate_status: Some(validate::status),
    validate_name: Some(names::dns1123_label),
    warnings: Some(warnings::service),
    update_warnings: Some(|new, _| warnings::service(new)),
    status_warnings: Some(warnings::balanced),
    ..Hooks::NONE
};

/// Whether traffic from outside can reach the service.
fn external(spec: &Value) -> bool {
    let by_address = text(spec, "type") == "ClusterIP" && !list(spec, "externalIPs").is_empty();
    matches!(text(spec, "type"), "LoadBalancer" | "NodePort") || by_address
}

fn default(o: &mut Value) {
    let spec = object(o, "spec");
    fill_text(spec, "sessionAffinity", "None");
    match text(spec, "sessionAffinity") {
        "None" => drop(remove(spec, "sessionAffinityConfig")),
        "ClientIP" if at(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none() => {
            set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
        _ => {}
    }
    fill_text(spec, "type", "ClusterIP");
    for port in each_mut(spec, "ports") {
        fill_text(port, "protocol", "TCP");
        let unset = matches!(port.get("targetPort"), None | Some(Value::Null)) || port["targetPort"] == "" || port["targetPort"] == 0;
        if let Some(n) = int(port, "port").filter(|_| unset) {
            set(port, "targetPort", n);
        }
    }
    if external(spec) {
        fill_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(text(spec, "type"), "NodePort" | "LoadBalancer" | "ClusterIP") {
        fill(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, "type") != "LoadBalancer" {
        return;
    }
    fill(spec, "allocateLoadBalancerNodePorts", true);
    if let Some(balancer) = at_mut(o, &["status", "loadBalancer"]) {
        for ingress in each_mut(balancer, "ingress").filter(|i| !text(i, "ip").is_empty()) {
            fill(ingress, "ipMode", "VIP");
        }
    }
}

fn prepare_create(o: &mut Value, _: &HookContext) {
    set(o, "status", json!({"loadBalancer": {}}));
    pair_addresses(object(o, "spec"));
}

/// `clusterIP` and `clusterIPs` of a new service say the same; nothing is said for services without address.
pub fn pair_addresses(spec: &mut Value) {
    let ip = text(spec, "clusterIP").to_owned();
    if !ip.is_empty() && list(spec, "clusterIPs").is_empty() {
        set(spec, "clusterIPs", json!([ip]));
    }
}

/// Whether a service of this spec has an address in the cluster, or is headless on purpose.
pub fn has_address(spec: &Value) -> bool {
    matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer" | "")
}

/// Whether a service of this spec is asked for on a port of every node.
pub fn has_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => get(spec, "allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

/// Whether nodes answer a load balancer's health checks for a service of this spec.
pub fn has_health_port(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

pub(super) fn is_headless(spec: &Value) -> bool {
    list(spec, "clusterIPs").first().is_some_and(|ip| ip == "None") || text(spec, "clusterIP") == "None"
}
