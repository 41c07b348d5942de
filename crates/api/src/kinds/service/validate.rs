//! What a service must look like, new and changed (`ValidateService`, `ValidateServiceUpdate`).

use super::{SPEC, external, has_address, is_headless};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, endpoints};
use crate::names;
use serde_json::{Value, json};
use std::collections::HashSet;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// A new service.
pub fn create(o: &Value, e: &mut Errors) {
    service(o, None, e);
}

fn service(o: &Value, old: Option<&Value>, e: &mut Errors) {
    topology_annotations(o, e);
    let spec = spec(o);
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    if list(spec, "ports").is_empty() && !headless && kind != "ExternalName" {
        e.required(&SPEC.child("ports"), "");
    }
    by_type(spec, kind, headless, e);
    ports(spec, e);
    check::labels(spec, "selector", &SPEC, e);
    check::choice(spec, "sessionAffinity", &["ClientIP", "None"], &SPEC, e);
    affinity(spec, e);
    address_fields(spec, old.map(crate::kinds::json::spec), e);
    external_addresses(spec, old.map(crate::kinds::json::spec), e);
    check::choice(spec, "type", &TYPES, &SPEC, e);
    port_twins(spec, kind, e);
    source_ranges(o, old, e);
    traffic(spec, kind, e);
}

/// The old and the new annotation about topology say the same where both are there.
fn topology_annotations(o: &Value, e: &mut Errors) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let annotation = |key: &str| at(o, &["metadata", "annotations", key]);
    if let (Some(mode), Some(hints)) = (annotation(MODE), annotation(HINTS))
        && mode != hints
    {
        let path = At::field("metadata");
        let path = path.child("annotations");
        e.invalid(&path.key(MODE), mode, &format!("must match annotations[{HINTS}] when both are specified"));
    }
}

fn by_type(spec: &Value, kind: &str, headless: bool, e: &mut Errors) {
    let first = SPEC.child("clusterIPs");
    match kind {
        "LoadBalancer" if headless => {
            e.invalid(&first.index(0), &"None".into(), "may not be set to 'None' for LoadBalancer services");
        }
        "NodePort" if headless => {
            e.invalid(&first.index(0), &"None".into(), "may not be set to 'None' for NodePort services");
        }
        "ExternalName" => {
            for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"].into_iter().filter(|key| !same(spec.get(key), None)) {
                e.forbidden(&SPEC.child(key), "may not be set for ExternalName services");
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

fn ports(spec: &Value, e: &mut Errors) {
    let path = SPEC.child("ports");
    let all = list(spec, "ports");
    let mut known = HashSet::new();
    for (i, port) in all.iter().enumerate() {
        let at = path.index(i);
        let (name, number) = (text(port, "name"), int(port, "port").unwrap_or_default());
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
    }
}

/// Node ports where there can be none, and ports that are there twice.
fn port_twins(spec: &Value, kind: &str, e: &mut Errors) {
    let path = SPEC.child("ports");
    let all = || list(spec, "ports").iter().enumerate();
    let node_port = |port: &Value| int(port, "nodePort").filter(|n| *n != 0);
    if kind == "ClusterIP" {
        for (i, _) in all().filter(|(_, p)| node_port(p).is_some()) {
            e.forbidden(&path.index(i).child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    let mut seen = HashSet::new();
    for (i, port) in all() {
        if let Some(n) = node_port(port).filter(|n| !seen.insert((text(port, "protocol"), *n))) {
            e.duplicate(&path.index(i).child("nodePort"), &n.into());
        }
    }
    let mut seen = HashSet::new();
    for (i, port) in all() {
        let (protocol, number) = (text(port, "protocol"), int(port, "port").unwrap_or_default());
        if !seen.insert((protocol, number)) {
            // As upstream quotes it: the fields of its own Go type.
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":{},\"AppProtocol\":null,\"Port\":{number},\"TargetPort\":0,\"NodePort\":0}}",
                json!(protocol)
            );
            e.duplicate_shown(&path.index(i), &shown);
        }
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

/// `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` (`ValidateServiceClusterIPsRelatedFields`).
pub fn address_fields(spec: &Value, old: Option<&Value>, e: &mut Errors) {
    if text(spec, "type") == "ExternalName" {
        return;
    }
    let path = SPEC.child("clusterIPs");
    let (first, ips): (&str, Vec<&str>) = (text(spec, "clusterIP"), texts(spec, "clusterIPs").collect());
    match ips.first() {
        None if !first.is_empty() => e.required(&path, ""),
        Some(ip) if !first.is_empty() && *ip != first => e.invalid(&path, &spec["clusterIPs"], "first value must match `clusterIP`"),
        Some(_) if first.is_empty() => e.invalid(&path, &spec["clusterIPs"], "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    family_fields(spec, e);
    let before = e.len();
    for (i, ip) in ips.iter().enumerate() {
        match *ip {
            "None" if i == 0 && ips.len() > 1 => e.invalid(&path, &spec["clusterIPs"], "'None' must be the first and only value"),
            "None" if i == 0 => {}
            ip => strict_address(ip, old, "clusterIPs", &path.index(i), e),
        }
    }
    if ips.len() > 2 {
        e.invalid(&path, &spec["clusterIPs"], "may only hold up to 2 values");
    }
    if e.len() == before {
        one_address_each(spec, &ips, e);
    }
}

fn family_fields(spec: &Value, e: &mut Errors) {
    const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
    let path = SPEC.child("ipFamilies");
    let families: Vec<&str> = texts(spec, "ipFamilies").collect();
    for (i, family) in families.iter().enumerate() {
        if !FAMILIES.contains(family) {
            e.not_supported(&path.index(i), &(*family).into(), &FAMILIES);
        }
        if families[..i].contains(family) {
            e.duplicate(&path.index(i), &(*family).into());
        }
    }
    check::choice_if_set(spec, "ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"], &SPEC, e);
}

/// Two addresses are one of each family, in the order of `ipFamilies`.
fn one_address_each(spec: &Value, ips: &[&str], e: &mut Errors) {
    let path = SPEC.child("clusterIPs");
    let is_v4 = |ip: &str| names::parse_ip(ip).is_some_and(|ip| ip.is_ipv4());
    if let [a, b] = ips
        && is_v4(a) == is_v4(b)
    {
        return e.invalid(&path, &spec["clusterIPs"], "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(texts(spec, "ipFamilies")).enumerate() {
        if is_v4(ip) != (family == "IPv4") {
            e.invalid(&path.index(i), &(*ip).into(), &format!("expected an {family} value as indicated by `ipFamilies[{i}]`"));
        }
    }
}

/// An address, unless the service has had it since before addresses were looked at strictly.
fn strict_address(ip: &str, old: Option<&Value>, key: &str, at: &At, e: &mut Errors) {
    if !old.is_some_and(|old| texts(old, key).any(|known| known == ip)) {
        e.invalid_each(at, ip, names::ip_address(ip));
    }
}

fn external_addresses(spec: &Value, old: Option<&Value>, e: &mut Errors) {
    let external = SPEC.child("externalIPs");
    for (i, ip) in texts(spec, "externalIPs").enumerate() {
        strict_address(ip, old, "externalIPs", &external.index(i), e);
        endpoints::special_address(ip, &external.index(i), e);
    }
}

/// Who may use a load balancer: by the field, or by the annotation from before it.
fn source_ranges(o: &Value, old: Option<&Value>, e: &mut Errors) {
    const ELSEWHERE: &str = "may only be used when `type` is 'LoadBalancer'";
    let spec = spec(o);
    let balanced = text(spec, "type") == "LoadBalancer";
    if !list(spec, "loadBalancerSourceRanges").is_empty() {
        // The capital letter is that of 1.36.
        let ranges = SPEC.child("LoadBalancerSourceRanges");
        if !balanced {
            e.forbidden(&ranges, ELSEWHERE);
        }
        let known = |range: &str| old.is_some_and(|old| texts(self::spec(old), "loadBalancerSourceRanges").any(|r| r.trim() == range));
        for (i, range) in texts(spec, "loadBalancerSourceRanges").map(str::trim).enumerate().filter(|(_, range)| !known(range)) {
            e.invalid_each(&ranges.index(i), range, names::cidr(range));
        }
        return;
    }
    let annotated = |o: &Value| at(o, &["metadata", "annotations", RANGES]).and_then(Value::as_str).map(str::to_owned);
    let Some(value) = annotated(o) else { return };
    let path = At::field("metadata");
    let path = path.child("annotations");
    let path = path.key(RANGES);
    if !balanced {
        e.forbidden(&path, ELSEWHERE);
    }
    if old.and_then(annotated).as_ref() != Some(&value) && !value.trim().is_empty() {
        value.trim().split(',').map(str::trim).for_each(|range| e.invalid_each(&path, range, names::cidr(range)));
    }
}

fn traffic(spec: &Value, kind: &str, e: &mut Errors) {
    balancer_fields(spec, kind, e);
    let policy = text(spec, "externalTrafficPolicy");
    let at = SPEC.child("externalTrafficPolicy");
    if !external(spec) {
        if !policy.is_empty() {
            e.invalid(&at, &policy.into(), "may only be set for externally-accessible services");
        }
    } else {
        check::choice(spec, "externalTrafficPolicy", &["Cluster", "Local"], &SPEC, e);
    }
    let at = SPEC.child("healthCheckNodePort");
    match int(spec, "healthCheckNodePort").unwrap_or_default() {
        0 if needs_health_check(spec) => e.required(&at, ""),
        0 => {}
        n if needs_health_check(spec) => e.invalid_each(&at, n, names::port_number(n)),
        n => e.invalid(&at, &n.into(), "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"),
    }
    if !has(spec, "internalTrafficPolicy") && matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        e.required(&SPEC.child("internalTrafficPolicy"), "");
    }
    check::choice_if_set(spec, "internalTrafficPolicy", &["Cluster", "Local"], &SPEC, e);
    check::choice_if_set(spec, "trafficDistribution", &["PreferClose", "PreferSameZone", "PreferSameNode"], &SPEC, e);
}

fn needs_health_check(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer" && text(spec, "externalTrafficPolicy") == "Local"
}

fn balancer_fields(spec: &Value, kind: &str, e: &mut Errors) {
    if kind == "LoadBalancer" {
        if !has(spec, "allocateLoadBalancerNodePorts") {
            // At the root, as upstream has it.
            e.required(&At::field("allocateLoadBalancerNodePorts"), "");
        }
        if let Some(class) = get(spec, "loadBalancerClass").and_then(Value::as_str) {
            e.invalid_each(&SPEC.child("loadBalancerClass"), class, names::qualified_name(class));
        }
        return;
    }
    for key in ["allocateLoadBalancerNodePorts", "loadBalancerClass"].into_iter().filter(|key| has(spec, key)) {
        e.forbidden(&SPEC.child(key), "may only be used when `type` is 'LoadBalancer'");
    }
}

/// A changed service.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    let (n, o) = (spec(new), spec(old));
    if has_address(o) && has_address(n) {
        if !(is_headless(o) && is_headless(n)) {
            kept_addresses(n, o, e);
        }
        if is_headless(o) == is_headless(n) && !is_headless(n) {
            kept_families(n, o, e);
        }
    }
    let class = |s: &Value| s.get("loadBalancerClass").cloned();
    let balanced = |s: &Value| text(s, "type") == "LoadBalancer";
    if balanced(o) && balanced(n) && !same(class(n).as_ref(), class(o).as_ref()) {
        e.invalid(&SPEC.child("loadBalancerClass"), n.get("loadBalancerClass").unwrap_or(&NONE), "may not change once set");
    }
    let checked = |s: &Value| int(s, "healthCheckNodePort").unwrap_or_default();
    if needs_health_check(o) && needs_health_check(n) && checked(o) != checked(n) {
        e.forbidden(&SPEC.child("healthCheckNodePort"), check::IMMUTABLE);
    }
    service(new, Some(old), e);
}

const FIXED: &str = "may not change once set";

/// Addresses are added and released at the end of their list only, and released with the word `SingleStack`.
fn kept_addresses(new: &Value, old: &Value, e: &mut Errors) {
    let path = SPEC.child("clusterIPs");
    let (now, was): (Vec<&str>, Vec<&str>) = (texts(new, "clusterIPs").collect(), texts(old, "clusterIPs").collect());
    let shown = new.get("clusterIPs").unwrap_or(&NONE);
    if now.len() == was.len() {
        for (i, _) in now.iter().zip(&was).enumerate().filter(|(_, (now, was))| now != was) {
            e.invalid(&path.index(i), shown, FIXED);
        }
        return;
    }
    if now.is_empty() {
        e.invalid_shown(&path.index(0), &shown.to_string(), "primary clusterIP can not be unset");
    } else if !was.is_empty() && now[0] != was[0] {
        e.invalid(&path.index(0), shown, FIXED);
    }
    if now.len() < was.len() && now.len() == 1 {
        released(new, "clusterIP", e);
    }
}

/// The same of families. Where the error stands and what it quotes is as upstream has it.
fn kept_families(new: &Value, old: &Value, e: &mut Errors) {
    let path = SPEC.child("ipFamilies");
    let path = path.index(0);
    let (now, was): (Vec<&str>, Vec<&str>) = (texts(new, "ipFamilies").collect(), texts(old, "ipFamilies").collect());
    let (families, addresses) = (new.get("ipFamilies").unwrap_or(&NONE), new.get("clusterIPs").unwrap_or(&NONE));
    if now.len() == was.len() {
        let changed = now.iter().zip(&was).filter(|(now, was)| now != was).count();
        return (0..changed).for_each(|_| e.invalid(&path, families, FIXED));
    }
    if now.len() < was.len() && list(new, "clusterIPs").is_empty() {
        e.invalid_shown(&path, &families.to_string(), "primary ipFamily can not be unset");
    }
    if let (Some(now), Some(was)) = (now.first(), was.first())
        && now != was
    {
        e.invalid_shown(&path, &addresses.to_string(), FIXED);
    }
    if now.len() < was.len() && now.len() == 1 {
        released(new, "ipFamily", e);
    }
}

fn released(new: &Value, what: &str, e: &mut Errors) {
    if text(new, "ipFamilyPolicy") != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        e.invalid(&SPEC.child("ipFamilyPolicy"), new.get("ipFamilyPolicy").unwrap_or(&NONE), &why);
    }
}

/// A change of the status.
pub fn status(new: &Value, old: &Value, e: &mut Errors) {
    let path = At::field("status");
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    let ingress = list_at(new, &["status", "loadBalancer", "ingress"]);
    if !ingress.is_empty() && text(spec(new), "type") != "LoadBalancer" {
        return e.forbidden(&path, "may only be used when `spec.type` is LoadBalancer");
    }
    for (i, point) in ingress.iter().enumerate() {
        let at = path.index(i);
        balancer_address(point, old, &at, e);
        match (text(point, "ip").is_empty(), get(point, "ipMode").is_some()) {
            (false, false) => e.required(&at.child("ipMode"), "must be specified when `ip` is set"),
            (true, true) => e.forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set"),
            _ => check::choice_if_set(point, "ipMode", &["Proxy", "VIP"], &at, e),
        }
        balancer_hostname(point, &at, e);
    }
}

/// The address of a load balancer, unless the object has had it since before addresses were looked at strictly.
pub fn balancer_address(point: &Value, old: &Value, at: &At, e: &mut Errors) {
    let ip = text(point, "ip");
    let known = list_at(old, &["status", "loadBalancer", "ingress"]).iter().any(|point| text(point, "ip") == ip);
    if !known {
        check::form(point, "ip", names::ip_address, at, e);
    }
}

/// The name of a load balancer is a DNS name and no address.
pub fn balancer_hostname(point: &Value, at: &At, e: &mut Errors) {
    check::form(point, "hostname", names::dns1123_subdomain, at, e);
    if names::lenient_ip(text(point, "hostname")).is_some() {
        e.invalid(&at.child("hostname"), &text(point, "hostname").into(), "must be a DNS name, not an IP address");
    }
}
