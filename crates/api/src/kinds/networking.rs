//! Ingresses, network policies, service addresses and their ranges.

use super::json::*;
use super::{Hooks, check, common, warnings};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Value, json};
use std::collections::HashSet;

const SPEC: At<'static> = At::field("spec");

pub(super) const INGRESS: Hooks = Hooks {
    prepare_create: Some(|o, _| set(o, "status", json!({"loadBalancer": {}}))),
    validate_create: Some(new_ingress),
    validate_update: Some(|new, old, e| ingress(new, Some(old), e)),
    validate_status: Some(ingress_status),
    warnings: Some(ingress_warnings),
    status_warnings: Some(warnings::balanced),
    ..Hooks::NONE
};
pub(super) const INGRESS_CLASS: Hooks =
    Hooks { default: Some(default_class), validate_create: Some(class), validate_update: Some(class_update), ..Hooks::NONE };
pub(super) const POLICY: Hooks = Hooks {
    default: Some(default_policy),
    validate_create: Some(|o, e| policy(o, None, e)),
    validate_update: Some(|new, old, e| policy(new, Some(old), e)),
    warnings: Some(warnings::network_policy),
    update_warnings: Some(|new, _| warnings::network_policy(new)),
    ..Hooks::NONE
};
pub(super) const IP_ADDRESS: Hooks =
    Hooks { validate_create: Some(address), validate_update: Some(address_update), validate_name: Some(address_name), ..Hooks::NONE };
pub(super) const SERVICE_CIDR: Hooks = Hooks {
    prepare_create: Some(common::reset_status),
    validate_create: Some(ranges),
    validate_update: Some(ranges_update),
    ..Hooks::NONE
};

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn new_ingress(o: &Value, e: &mut Errors) {
    ingress(o, None, e);
    let old_way = at(o, &["metadata", "annotations", CLASS_ANNOTATION]);
    if let Some(class) = old_way.filter(|class| get(spec(o), "ingressClassName").is_some_and(|named| named != *class)) {
        // Not below the metadata, as upstream has it.
        let path = At::field("annotations");
        e.invalid(&path.child(CLASS_ANNOTATION), class, "must match `ingressClassName` when both are specified");
    }
}

fn ingress_warnings(o: &Value) -> Vec<String> {
    let old_way = at(o, &["metadata", "annotations", CLASS_ANNOTATION]).is_some() && !has(spec(o), "ingressClassName");
    let why = format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead");
    if old_way { vec![why] } else { Vec::new() }
}

fn ingress_status(new: &Value, old: &Value, e: &mut Errors) {
    let path = At::field("status");
    let path = path.child("loadBalancer");
    let path = path.child("ingress");
    for (i, point) in list_at(new, &["status", "loadBalancer", "ingress"]).iter().enumerate() {
        let at = path.index(i);
        super::service::balancer_address(point, old, &at, e);
        super::service::balancer_hostname(point, &at, e);
    }
}

/// What an older ingress had may stay.
#[derive(Default)]
struct Ratchet {
    odd_secrets: bool,
    odd_wildcards: bool,
}

impl Ratchet {
    fn of(old: &Value) -> Self {
        let odd_secret = |entry: &Value| {
            let name = text(entry, "secretName");
            !name.is_empty() && !names::dns1123_subdomain(name).is_empty()
        };
        let odd_wildcard = |rule: &Value| {
            let mut e = Errors::default();
            rule_value(rule, &At::ROOT, &mut e);
            text(rule, "host").contains('*') && !e.is_empty()
        };
        Ratchet {
            odd_secrets: list(spec(old), "tls").iter().any(odd_secret),
            odd_wildcards: list(spec(old), "rules").iter().any(odd_wildcard),
        }
    }
}

fn ingress(o: &Value, old: Option<&Value>, e: &mut Errors) {
    let spec = spec(o);
    let ratchet = old.map(Ratchet::of).unwrap_or_default();
    if list(spec, "rules").is_empty() && !has(spec, "defaultBackend") {
        e.invalid_shown(&SPEC, "null", "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(b) = get(spec, "defaultBackend") {
        backend(b, &SPEC.child("defaultBackend"), e);
    }
    let rules = SPEC.child("rules");
    for (i, rule) in list(spec, "rules").iter().enumerate() {
        ingress_rule(rule, &ratchet, &rules.index(i), e);
    }
    let tls = SPEC.child("tls");
    for (i, entry) in list(spec, "tls").iter().enumerate() {
        let item = tls.index(i);
        let hosts = item.child("hosts");
        for (j, host) in texts(entry, "hosts").enumerate() {
            let check = if host.contains('*') { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain };
            e.invalid_each(&hosts.index(j), host, check(host));
        }
        if !ratchet.odd_secrets {
            check::form(entry, "secretName", names::dns1123_subdomain, &item, e);
        }
    }
    if let Some(class) = get(spec, "ingressClassName").and_then(Value::as_str) {
        e.invalid_each(&SPEC.child("ingressClassName"), class, names::dns1123_subdomain(class));
    }
}

fn ingress_rule(rule: &Value, ratchet: &Ratchet, at: &At, e: &mut Errors) {
    let host = text(rule, "host");
    if !host.is_empty() {
        let path = at.child("host");
        if names::lenient_ip(host).is_some() {
            e.invalid(&path, &host.into(), "must be a DNS name, not an IP address");
        }
        let check = if host.contains('*') { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain };
        e.invalid_each(&path, host, check(host));
    }
    if !(ratchet.odd_wildcards && host.contains('*')) {
        rule_value(rule, at, e);
    }
}

fn rule_value(rule: &Value, at: &At, e: &mut Errors) {
    let Some(http) = get(rule, "http") else { return };
    let at = at.child("http");
    let paths = at.child("paths");
    if list(http, "paths").is_empty() {
        e.required(&paths, "");
    }
    for (i, path) in list(http, "paths").iter().enumerate() {
        ingress_path(path, &paths.index(i), e);
    }
}

fn ingress_path(path: &Value, at: &At, e: &mut Errors) {
    const TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
    let value = text(path, "path");
    match get(path, "pathType").and_then(Value::as_str) {
        None => return e.required(&at.child("pathType"), "pathType must be specified"),
        Some("Exact" | "Prefix") => {
            if !value.starts_with('/') {
                e.invalid(&at.child("path"), &value.into(), "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|bad| value.contains(**bad)) {
                e.invalid(&at.child("path"), &value.into(), &format!("must not contain '{bad}'"));
            }
            for bad in ["/..", "/."].iter().filter(|bad| value.ends_with(**bad)) {
                e.invalid(&at.child("path"), &value.into(), &format!("cannot end with '{bad}'"));
            }
        }
        Some("ImplementationSpecific") => {
            if !value.is_empty() && !value.starts_with('/') {
                e.invalid(&at.child("path"), &value.into(), "must be an absolute path");
            }
        }
        Some(other) => e.not_supported(&at.child("pathType"), &other.into(), &TYPES),
    }
    backend(path.get("backend").unwrap_or(&NONE), &at.child("backend"), e);
}

fn backend(backend: &Value, at: &At, e: &mut Errors) {
    match (get(backend, "resource"), get(backend, "service")) {
        (Some(_), Some(_)) => e.invalid(at, &"".into(), "cannot set both resource and service backends"),
        (None, None) => e.invalid(at, &"".into(), "resource or service backend is required"),
        (Some(resource), None) => reference(resource, &at.child("resource"), e),
        (None, Some(service)) => {
            let path = at.child("service");
            match text(service, "name") {
                "" => e.required(&path.child("name"), ""),
                name => e.invalid_each(&path.child("name"), name, names::dns1123_label(name)),
            }
            let port = service.get("port").unwrap_or(&NONE);
            let (name, number) = (text(port, "name"), int(port, "number").unwrap_or_default());
            let port = path.child("port");
            match (name.is_empty(), number) {
                (true, 0) => e.required(at, "port name or number is required"),
                (false, n) if n != 0 => e.invalid(at, &"".into(), "cannot set both port name & port number"),
                (false, _) => e.invalid_each(&port.child("name"), name, names::port_name(name)),
                (true, n) => e.invalid_each(&port.child("number"), n, names::port_number(n)),
            }
        }
    }
}

/// A reference by group, kind and name.
fn reference(v: &Value, path: &At, e: &mut Errors) {
    if let Some(group) = get(v, "apiGroup").and_then(Value::as_str) {
        e.invalid_each(&path.child("apiGroup"), group, names::dns1123_subdomain(group));
    }
    for (key, missing) in [("kind", "kind is required"), ("name", "name is required")] {
        if text(v, key).is_empty() {
            e.required(&path.child(key), missing);
        }
        check::form(v, key, names::path_segment, path, e);
    }
}

fn default_class(o: &mut Value) {
    if let Some(parameters) = at_mut(o, &["spec", "parameters"]) {
        fill(parameters, "scope", "Cluster");
    }
}

fn class(o: &Value, e: &mut Errors) {
    let controller = text(spec(o), "controller");
    let at = SPEC.child("controller");
    if controller.len() > 250 {
        e.too_long(&at, 250);
    }
    e.invalid_each(&at, controller, names::domain_prefixed_path(controller));
    let Some(parameters) = get(spec(o), "parameters") else { return };
    let path = SPEC.child("parameters");
    reference(parameters, &path, e);
    let namespace = get(parameters, "namespace").and_then(Value::as_str);
    let at = path.child("namespace");
    match (text(parameters, "scope"), namespace) {
        ("Namespace", None) => e.required(&at, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(name)) => e.invalid_each(&at, name, names::dns1123_label(name)),
        ("Cluster", Some(_)) => e.forbidden(&at, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        _ if !has(parameters, "scope") => e.required(&path.child("scope"), ""),
        _ => check::member(parameters, "scope", &["Cluster", "Namespace"], &path, e),
    }
}

fn class_update(new: &Value, old: &Value, e: &mut Errors) {
    check::immutable(spec(new), spec(old), "controller", &SPEC, e);
    class(new, e);
}

fn default_policy(o: &mut Value) {
    let spec = object(o, "spec");
    fill(spec, "podSelector", json!({}));
    if list(spec, "policyTypes").is_empty() {
        let egress = !list(spec, "egress").is_empty();
        set(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
    for key in ["ingress", "egress"] {
        for rule in each_mut(spec, key) {
            each_mut(rule, "ports").for_each(|p| fill_text(p, "protocol", "TCP"));
        }
    }
}

/// What an older policy had may stay: odd values in selectors, and ranges in the notation of before.
struct Accepted {
    strict_values: bool,
    ranges: HashSet<String>,
}

impl Accepted {
    fn of(old: Option<&Value>) -> Self {
        let mut e = Errors::default();
        let mut ranges = HashSet::new();
        if let Some(old) = old.map(spec) {
            check::label_selector(old.get("podSelector").unwrap_or(&NONE), &SPEC, &mut e);
            for (key, peers) in [("ingress", "from"), ("egress", "to")] {
                for block in list(old, key).iter().flat_map(|rule| list(rule, peers)).filter_map(|peer| get(peer, "ipBlock")) {
                    ranges.insert(text(block, "cidr").to_owned());
                    ranges.extend(texts(block, "except").map(str::to_owned));
                }
            }
        }
        Accepted { strict_values: e.is_empty(), ranges }
    }

    fn range(&self, range: &str, at: &At, e: &mut Errors) {
        if !self.ranges.contains(range) {
            e.invalid_each(at, range, names::cidr(range));
        }
    }
}

fn policy(o: &Value, old: Option<&Value>, e: &mut Errors) {
    let spec = spec(o);
    let accepted = Accepted::of(old);
    let pods = spec.get("podSelector").unwrap_or(&NONE);
    check::label_selector_with(pods, accepted.strict_values, &SPEC.child("podSelector"), e);
    for (key, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules = SPEC.child(key);
        for (i, rule) in list(spec, key).iter().enumerate() {
            let at = rules.index(i);
            let (ports, list_path) = (at.child("ports"), at.child(peers));
            for (j, port) in list(rule, "ports").iter().enumerate() {
                policy_port(port, &ports.index(j), e);
            }
            for (j, peer) in list(rule, peers).iter().enumerate() {
                policy_peer(peer, &accepted, &list_path.index(j), e);
            }
        }
    }
    let types = SPEC.child("policyTypes");
    if list(spec, "policyTypes").len() > 2 {
        return e.invalid(&types, &spec["policyTypes"], "may not specify more than two policyTypes");
    }
    for (i, kind) in texts(spec, "policyTypes").enumerate().filter(|(_, k)| !matches!(*k, "Egress" | "Ingress")) {
        e.not_supported(&types.index(i), &kind.into(), &["Ingress", "Egress"]);
    }
}

fn policy_port(port: &Value, at: &At, e: &mut Errors) {
    check::choice_if_set(port, "protocol", &["TCP", "UDP", "SCTP"], at, e);
    let end = int(port, "endPort");
    match get(port, "port") {
        None => {
            if let Some(end) = end {
                e.invalid(&at.child("endPort"), &end.into(), "may not be specified when `port` is not specified");
            }
        }
        Some(value @ Value::Number(n)) => {
            check::port(Some(value), &at.child("port"), e);
            if let Some(end) = end {
                if end < n.as_i64().unwrap_or_default() {
                    // It is the port that upstream quotes.
                    e.invalid(&at.child("endPort"), value, "must be greater than or equal to `port`");
                }
                e.invalid_each(&at.child("endPort"), end, names::port_number(end));
            }
        }
        Some(name) => {
            if let Some(end) = end {
                e.invalid(&at.child("endPort"), &end.into(), "may not be specified when `port` is non-numeric");
            }
            check::port(Some(name), &at.child("port"), e);
        }
    }
}

fn policy_peer(peer: &Value, accepted: &Accepted, at: &At, e: &mut Errors) {
    let mut count = 0;
    for key in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = get(peer, key) {
            count += 1;
            check::label_selector_with(selector, accepted.strict_values, &at.child(key), e);
        }
    }
    let block = get(peer, "ipBlock");
    if let Some(block) = block {
        ip_block(block, accepted, &at.child("ipBlock"), e);
    }
    match (count, block) {
        (0, None) => e.required(at, "must specify a peer"),
        (0, Some(_)) | (_, None) => {}
        _ => e.forbidden(at, "may not specify both ipBlock and another peer"),
    }
}

fn ip_block(block: &Value, accepted: &Accepted, at: &At, e: &mut Errors) {
    let cidr = text(block, "cidr");
    if cidr.is_empty() {
        return e.required(&at.child("cidr"), "");
    }
    accepted.range(cidr, &at.child("cidr"), e);
    let Some(outer) = names::lenient_cidr(cidr) else { return };
    let path = at.child("except");
    for (i, except) in texts(block, "except").enumerate() {
        let at = path.index(i);
        accepted.range(except, &at, e);
        if let Some(inner) = names::lenient_cidr(except)
            && !(contains(outer, inner.0) && outer.1 < inner.1)
        {
            e.invalid(&at, &except.into(), "must be a strict subset of `cidr`");
        }
    }
}

/// Whether a range holds an address.
fn contains((network, bits): (std::net::IpAddr, u8), ip: std::net::IpAddr) -> bool {
    use std::net::IpAddr::{V4, V6};
    match (network, ip) {
        (V4(n), V4(ip)) => bits == 0 || (n.to_bits() ^ ip.to_bits()) >> (32 - u32::from(bits)) == 0,
        (V6(n), V6(ip)) => bits == 0 || (n.to_bits() ^ ip.to_bits()) >> (128 - u32::from(bits)) == 0,
        _ => false,
    }
}

fn address_name(name: &str) -> Vec<String> {
    match names::parse_ip(name) {
        None => names::ip_address(name),
        Some(ip) if ip.to_string() != name => vec![format!("must be in canonical form ({:?})", ip.to_string())],
        Some(_) => Vec::new(),
    }
}

fn address(o: &Value, e: &mut Errors) {
    let path = SPEC.child("parentRef");
    match get(spec(o), "parentRef") {
        None => e.required(&path, ""),
        Some(parent) => {
            check::form(parent, "group", names::dns1123_subdomain, &path, e);
            check::required_form(parent, "resource", names::path_segment, &path, e);
            check::required_form(parent, "name", names::path_segment, &path, e);
            check::form(parent, "namespace", names::path_segment, &path, e);
        }
    }
}

fn address_update(new: &Value, old: &Value, e: &mut Errors) {
    check::immutable(spec(new), spec(old), "parentRef", &SPEC, e);
}

/// As upstream quotes it: the field of its own Go type.
fn shown_ranges(o: &Value) -> String {
    format!("{{\"CIDRs\":{}}}", spec(o)["cidrs"])
}

fn ranges(o: &Value, e: &mut Errors) {
    let path = SPEC.child("cidrs");
    let all: Vec<&str> = texts(spec(o), "cidrs").collect();
    if all.is_empty() {
        return e.required(&path, "at least one CIDR required");
    }
    if all.len() > 2 {
        return e.invalid_shown(&path, &shown_ranges(o), "may only hold up to 2 values");
    }
    if let [a, b] = all.as_slice() {
        let families = (names::parse_cidr(a).map(|c| c.0.is_ipv4()), names::parse_cidr(b).map(|c| c.0.is_ipv4()));
        if !matches!(families, (Some(a), Some(b)) if a != b) {
            let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            return e.invalid_shown(&path, &shown_ranges(o), why);
        }
    }
    for (i, cidr) in all.iter().enumerate() {
        e.invalid_each(&path.index(i), *cidr, names::cidr(cidr));
    }
}

/// A range of one family may get a second one beside it; nothing else changes.
fn ranges_update(new: &Value, old: &Value, e: &mut Errors) {
    let path = SPEC.child("cidrs");
    let (now, was) = (list(spec(new), "cidrs"), list(spec(old), "cidrs"));
    if now.len() < was.len() || (now.len() > was.len() && !(was.len() == 1 && now.len() == 2)) {
        return e.invalid(&path, spec(new), check::IMMUTABLE);
    }
    for (i, (now, _)) in now.iter().zip(was).enumerate().filter(|(_, (now, was))| now != was) {
        e.invalid(&path.index(i), now, check::IMMUTABLE);
    }
    ranges(new, e);
}
