//! Services: defaults, what carries over from the stored object, rules. Addresses and ports are the allocators' business.

use super::json::*;
use super::{HookContext, Hooks, check};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Value, json};
use std::collections::HashSet;

const SPEC: At<'static> = At::field("spec");
const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(prepare_create),
    prepare_update: Some(prepare_update),
    prepare_status: Some(|new, _, _| default(new)),
    validate_create: Some(validate),
    validate_update: Some(validate_update),
    validate_status: Some(validate_status),
    validate_name: Some(names::dns1123_label),
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
    let spec = object(o, "spec");
    let ip = text(spec, "clusterIP").to_owned();
    if !ip.is_empty() && list(spec, "clusterIPs").is_empty() {
        set(spec, "clusterIPs", json!([ip]));
    } else if let (true, Some(first)) = (ip.is_empty(), list(spec, "clusterIPs").first().cloned()) {
        set(spec, "clusterIP", first);
    }
}

fn has_address(spec: &Value) -> bool {
    matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer" | "")
}

fn has_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => get(spec, "allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

/// What was allocated stays, unless the new object says otherwise or the type has no use for it.
fn prepare_update(new: &mut Value, old: &Value, _: &HookContext) {
    let old = spec(old);
    let new = object(new, "spec");
    normalize_addresses(new, old);
    if has_address(old) && has_address(new) && text(new, "clusterIP").is_empty() && list(new, "clusterIPs").is_empty() {
        copy(new, old, "clusterIP");
        copy(new, old, "clusterIPs");
    }
    if has_address(old) && has_address(new) {
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if !has(new, key) {
                copy(new, old, key);
            }
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        keep_node_ports(new, old);
    }
    let checked = |spec: &Value| text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local";
    if checked(old) && checked(new) && int(new, "healthCheckNodePort").unwrap_or_default() == 0 {
        copy(new, old, "healthCheckNodePort");
    }
    drop_unused(new, old);
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

fn keep_node_ports(new: &mut Value, old: &Value) {
    for port in each_mut(new, "ports").filter(|p| int(p, "nodePort").unwrap_or_default() == 0) {
        let twin = |o: &&Value| text(o, "protocol") == text(port, "protocol") && int(o, "port") == int(port, "port");
        if let Some(n) = list(old, "ports").iter().find(twin).and_then(|o| int(o, "nodePort")) {
            set(port, "nodePort", n);
        }
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
    if has_node_ports(old) && !has_node_ports(new) {
        let before = list(old, "ports");
        for port in each_mut(new, "ports") {
            if before.iter().any(|o| int(o, "nodePort") == int(port, "nodePort")) {
                remove(port, "nodePort");
            }
        }
    }
    let balanced = |s: &Value| text(s, "type") == "LoadBalancer";
    if balanced(old) && !balanced(new) {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"] {
            if untouched(new, key) {
                remove(new, key);
            }
        }
    }
    if external(old) && !external(new) && untouched(new, "externalTrafficPolicy") {
        remove(new, "externalTrafficPolicy");
    }
}

fn validate(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        e.required(&SPEC.child("ports"), "");
    }
    by_type(spec, kind, headless, e);
    ports(spec, kind, headless, e);
    check::labels(spec, "selector", &SPEC, e);
    check::choice(spec, "sessionAffinity", &["ClientIP", "None"], &SPEC, e);
    affinity(spec, e);
    check::choice(spec, "type", &TYPES, &SPEC, e);
    addresses(spec, e);
    traffic(spec, kind, e);
}

fn by_type(spec: &Value, kind: &str, headless: bool, e: &mut Errors) {
    let first = SPEC.child("clusterIPs");
    match kind {
        "LoadBalancer" => {
            let ports = SPEC.child("ports");
            for (i, port) in list(spec, "ports").iter().enumerate().filter(|(_, p)| int(p, "port") == Some(10250)) {
                e.invalid(&ports.index(i), port, "may not expose port 10250 externally since it is used by kubelet");
            }
            if headless {
                e.invalid(&first.index(0), &"None".into(), "may not be set to 'None' for LoadBalancer services");
            }
        }
        "NodePort" if headless => {
            e.invalid(&first.index(0), &"None".into(), "may not be set to 'None' for NodePort services");
        }
        "ExternalName" => {
            if !list(spec, "clusterIPs").is_empty() {
                e.forbidden(&first, "may not be set for ExternalName services");
            }
            let name = text(spec, "externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            match name {
                "" => e.required(&SPEC.child("externalName"), ""),
                name => e.invalid_each(&SPEC.child("externalName"), name, names::dns1123_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn ports(spec: &Value, kind: &str, _headless: bool, e: &mut Errors) {
    let path = SPEC.child("ports");
    let all = list(spec, "ports");
    let (mut known, mut pairs, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (i, port) in all.iter().enumerate() {
        let at = path.index(i);
        let (name, number, protocol) = (text(port, "name"), int(port, "port").unwrap_or_default(), text(port, "protocol"));
        if name.is_empty() {
            if all.len() > 1 {
                e.required(&at.child("name"), "");
            }
        } else {
            e.invalid_each(&at.child("name"), name, names::dns1123_label(name));
            if !known.insert(name) {
                e.duplicate(&at.child("name"), &name.into());
            }
        }
        e.invalid_each(&at.child("port"), number, names::port_number(number));
        check::choice(port, "protocol", &["SCTP", "TCP", "UDP"], &at, e);
        check::port(get(port, "targetPort"), &at.child("targetPort"), e);
        if let Some(app) = get(port, "appProtocol").and_then(Value::as_str) {
            e.invalid_each(&at.child("appProtocol"), app, names::qualified_name(app));
        }
        if !pairs.insert((protocol, number)) {
            e.duplicate(&at, &json!({"protocol": protocol, "port": number}));
        }
        node_port(port, kind, &at, &mut node_ports, e);
    }
}

fn node_port<'a>(port: &'a Value, kind: &str, at: &At, seen: &mut HashSet<(&'a str, i64)>, e: &mut Errors) {
    let Some(n) = int(port, "nodePort").filter(|n| *n != 0) else { return };
    let at = at.child("nodePort");
    if matches!(kind, "ClusterIP" | "ExternalName") {
        return e.forbidden(&at, &format!("may not be used when `type` is '{kind}'"));
    }
    if !seen.insert((text(port, "protocol"), n)) {
        e.duplicate(&at, &n.into());
    }
}

fn affinity(spec: &Value, e: &mut Errors) {
    let path = SPEC.child("sessionAffinityConfig");
    match text(spec, "sessionAffinity") {
        "ClientIP" => {
            let at = path.child("clientIP");
            let seconds = int_at(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]);
            if !(1..=86400).contains(&seconds) {
                e.invalid(&at.child("timeoutSeconds"), &seconds.into(), "must be greater than 0 and less than 86400");
            }
        }
        "None" if has(spec, "sessionAffinityConfig") => {
            e.forbidden(&path, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn addresses(spec: &Value, e: &mut Errors) {
    let path = SPEC.child("clusterIPs");
    let ips: Vec<&str> = texts(spec, "clusterIPs").collect();
    for (i, ip) in ips.iter().enumerate().filter(|(i, ip)| !(*i == 0 && matches!(**ip, "None" | ""))) {
        if names::parse_ip(ip).is_none() {
            e.invalid_each(&path.index(i), *ip, names::ip_address(ip));
        }
    }
    if let Some(first) = ips.first().filter(|first| text(spec, "clusterIP") != **first) {
        e.invalid(&path, &first.to_string().into(), "first value must match `clusterIP`");
    }
    if ips.len() > 2 {
        e.invalid(&path, &spec["clusterIPs"], "may only hold up to 2 values");
    }
    let external = SPEC.child("externalIPs");
    for (i, ip) in texts(spec, "externalIPs").enumerate() {
        e.invalid_each(&external.index(i), ip, names::ip_address(ip));
        super::endpoints::special_address(ip, &external.index(i), e);
    }
    // The capital letter is that of 1.36.
    let ranges = SPEC.child("LoadBalancerSourceRanges");
    if !list(spec, "loadBalancerSourceRanges").is_empty() && text(spec, "type") != "LoadBalancer" {
        e.forbidden(&ranges, "may only be used when `type` is 'LoadBalancer'");
    }
    for (i, range) in texts(spec, "loadBalancerSourceRanges").enumerate() {
        e.invalid_each(&ranges.index(i), range, names::cidr(range.trim()));
    }
    check::choice_if_set(spec, "ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"], &SPEC, e);
    let families = SPEC.child("ipFamilies");
    for (i, family) in texts(spec, "ipFamilies").enumerate().filter(|(_, f)| !matches!(*f, "IPv4" | "IPv6")) {
        e.not_supported(&families.index(i), &family.into(), &["IPv4", "IPv6"]);
    }
}

fn traffic(spec: &Value, kind: &str, e: &mut Errors) {
    let policy = text(spec, "externalTrafficPolicy");
    let at = SPEC.child("externalTrafficPolicy");
    if !external(spec) {
        if !policy.is_empty() {
            e.invalid(&at, &policy.into(), "may only be set for externally-accessible services");
        }
    } else {
        check::choice(spec, "externalTrafficPolicy", &["Cluster", "Local"], &SPEC, e);
    }
    if let Some(n) = int(spec, "healthCheckNodePort").filter(|n| *n != 0)
        && !(kind == "LoadBalancer" && policy == "Local")
    {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        e.invalid(&SPEC.child("healthCheckNodePort"), &n.into(), why);
    }
    check::choice_if_set(spec, "internalTrafficPolicy", &["Cluster", "Local"], &SPEC, e);
    if kind != "LoadBalancer" {
        for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if has(spec, key) {
                e.forbidden(&SPEC.child(key), "may only be used when `type` is 'LoadBalancer'");
            }
        }
    } else if !has(spec, "allocateLoadBalancerNodePorts") {
        e.required(&SPEC.child("allocateLoadBalancerNodePorts"), "");
    }
    check::form(spec, "loadBalancerClass", names::qualified_name, &SPEC, e);
    check::choice_if_set(spec, "trafficDistribution", &["PreferClose", "PreferSameNode", "PreferSameZone"], &SPEC, e);
}

fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    validate(new, e);
    let (new, old) = (spec(new), spec(old));
    let before = text(old, "clusterIP");
    if has_address(old) && has_address(new) && !before.is_empty() && text(new, "clusterIP") != before {
        let path = SPEC.child("clusterIPs");
        e.invalid(&path.index(0), new.get("clusterIPs").unwrap_or(&NONE), "may not change once set");
    }
    let (families, family) = (SPEC.child("ipFamilies"), |s: &Value| list(s, "ipFamilies").first().cloned());
    if has_address(old) && has_address(new) && family(old).is_some() && family(old) != family(new) {
        e.invalid(&families.index(0), new.get("ipFamilies").unwrap_or(&NONE), "may not change once set");
    }
    let balanced = |s: &Value| text(s, "type") == "LoadBalancer";
    if balanced(old) && balanced(new) && !same(new.get("loadBalancerClass"), old.get("loadBalancerClass")) {
        e.invalid(&SPEC.child("loadBalancerClass"), new.get("loadBalancerClass").unwrap_or(&NONE), "may not change once set");
    }
}

fn validate_status(new: &Value, _: &Value, e: &mut Errors) {
    let path = At::field("status");
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    let ingress = list_at(new, &["status", "loadBalancer", "ingress"]);
    if !ingress.is_empty() && text(spec(new), "type") != "LoadBalancer" {
        return e.forbidden(&path, "may only be used when `spec.type` is LoadBalancer");
    }
    for (i, point) in ingress.iter().enumerate() {
        let at = path.index(i);
        check::form(point, "ip", names::ip_address, &at, e);
        check::form(point, "hostname", names::dns1123_subdomain, &at, e);
    }
}
