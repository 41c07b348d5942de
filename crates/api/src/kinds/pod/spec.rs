//! A pod spec as a whole, in a pod or in a template.

use super::containers::{self, Pod};
use super::{env, placement, resources, security, volumes, windows};
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;
use std::collections::HashSet;

/// Checks a pod spec. `pod_name` is there when the spec stands in a pod.
pub fn validate(spec: &Value, pod_name: Option<&str>, path: &At, e: &mut Errors) {
    let grace = int(spec, "terminationGracePeriodSeconds");
    if grace.is_none() {
        e.required(&path.child("terminationGracePeriodSeconds"), "");
    }
    let volumes = volumes::validate(spec, pod_name, &path.child("volumes"), e);
    resource_claims(spec, path, e);
    let pod = Pod { spec, volumes, grace, is_pod: pod_name.is_some() };
    containers::main(&pod, &path.child("containers"), e);
    containers::init(&pod, &path.child("initContainers"), e);
    containers::ephemeral(&pod, &path.child("ephemeralContainers"), e);
    resources::validate_pod_level(spec, list(spec, "resourceClaims"), &path.child("resources"), e);
    host_network(&pod, path, e);
    check::choice(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, e);
    check::choice(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, e);
    check::labels(spec, "nodeSelector", path, e);
    security::pod(spec, path, e);
    placement::affinity(spec, path, e);
    dns_config(spec, path, e);
    gates(spec, path, e);
    placement::spread(spec, path, e);
    windows::host_processes(spec, path, e);
    security::host_users(spec, path, e);
    hostname_override(spec, path, e);
    small_fields(spec, path, e);
    placement::tolerations(spec, "tolerations", path, e);
    host_aliases(spec, path, e);
    classes(spec, path, e);
    if let Some(overhead) = get(spec, "overhead") {
        let limits = serde_json::json!({ "limits": overhead });
        resources::validate(&limits, &[], &path.child("overhead"), e);
    }
    windows::operating_system(spec, path, e);
    env::file_volumes(spec, path, e);
}

fn hostname_override(spec: &Value, path: &At, e: &mut Errors) {
    const MOST_BYTES: usize = 64;
    let Some(name) = get(spec, "hostnameOverride").and_then(Value::as_str) else { return };
    let at = path.child("hostnameOverride");
    for key in ["setHostnameAsFQDN", "hostNetwork"] {
        if flag(spec, key) {
            e.forbidden(&at, &format!("may not be specified when {key} is true"));
        }
    }
    if name.len() > MOST_BYTES {
        e.too_long(&at, MOST_BYTES);
    }
    e.invalid_each(&at, name, names::dns1123_subdomain(name));
}

fn small_fields(spec: &Value, path: &At, e: &mut Errors) {
    check::form(spec, "serviceAccountName", names::dns1123_subdomain, path, e);
    check::form(spec, "nodeName", names::dns1123_subdomain, path, e);
    check::within(spec, "activeDeadlineSeconds", 1, i32::MAX.into(), path, e);
    for key in ["hostname", "subdomain"] {
        check::form(spec, key, names::dns1123_label, path, e);
    }
}

fn classes(spec: &Value, path: &At, e: &mut Errors) {
    check::form(spec, "priorityClassName", names::dns1123_subdomain, path, e);
    if let Some(name) = get(spec, "runtimeClassName").and_then(Value::as_str) {
        e.invalid_each(&path.child("runtimeClassName"), name, names::dns1123_subdomain(name));
    }
    if has(spec, "preemptionPolicy") {
        check::choice(spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path, e);
    }
}

fn resource_claims(spec: &Value, path: &At, e: &mut Errors) {
    const WAYS: [&str; 2] = ["resourceClaimName", "resourceClaimTemplateName"];
    let path = path.child("resourceClaims");
    let mut seen = HashSet::new();
    for (i, claim) in list(spec, "resourceClaims").iter().enumerate() {
        let (at, name) = (path.index(i), text(claim, "name"));
        if name.is_empty() {
            e.required(&at.child("name"), "");
        } else if !seen.insert(name) {
            e.duplicate(&at.child("name"), &name.into());
        } else {
            e.invalid_each(&at.child("name"), name, names::dns1123_label(name));
        }
        match WAYS.iter().filter(|k| has(claim, k)).count() {
            0 => e.invalid(&at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"),
            1 => {}
            _ => e.invalid(&at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"),
        }
        for key in WAYS {
            if let Some(name) = get(claim, key).and_then(Value::as_str) {
                e.invalid_each(&at.child(key), name, names::dns1123_subdomain(name));
            }
        }
    }
}

fn host_network(pod: &Pod, path: &At, e: &mut Errors) {
    if !flag(pod.spec, "hostNetwork") {
        return;
    }
    let path = path.child("containers");
    for (i, c) in list(pod.spec, "containers").iter().enumerate() {
        let container = path.index(i);
        let ports = container.child("ports");
        for (j, port) in list(c, "ports").iter().enumerate() {
            let host = int(port, "hostPort").unwrap_or_default();
            if (pod.is_pod || host != 0) && host != int(port, "containerPort").unwrap_or_default() {
                let why = "must match `containerPort` when `hostNetwork` is true";
                e.invalid(&ports.index(j).child("hostPort"), &host.into(), why);
            }
        }
    }
}

fn dns_config(spec: &Value, path: &At, e: &mut Errors) {
    let path = path.child("dnsConfig");
    let config = get(spec, "dnsConfig");
    let servers = config.map_or(&[][..], |c| list(c, "nameservers"));
    if text(spec, "dnsPolicy") == "None" {
        if config.is_none() {
            return e.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            return e.required(&path.child("nameservers"), why);
        }
    }
    let Some(config) = config else { return };
    let at = path.child("nameservers");
    if servers.len() > 3 {
        e.invalid(&at, &config["nameservers"], "must not have more than 3 nameservers");
    }
    for (i, server) in texts(config, "nameservers").enumerate() {
        e.invalid_each(&at.index(i), server, names::ip_address(server));
    }
    searches(config, &path.child("searches"), e);
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            e.required(&path.child("options").index(i), "must not be empty");
        }
    }
}

fn searches(config: &Value, at: &At, e: &mut Errors) {
    let all: Vec<&str> = texts(config, "searches").collect();
    if all.len() > 32 {
        e.invalid(at, &config["searches"], "must not have more than 32 search paths");
    }
    if all.iter().map(|s| s.len() + 1).sum::<usize>() > 2048 + 1 {
        let why = "must not have more than 2048 characters (including spaces) in the search list";
        e.invalid(at, &config["searches"], why);
    }
    for (i, search) in all.iter().enumerate().filter(|(_, s)| **s != ".") {
        let search = search.strip_suffix('.').unwrap_or(search);
        e.invalid_each(&at.index(i), search, names::dns1123_subdomain_with_underscore(search));
    }
}

fn gates(spec: &Value, path: &At, e: &mut Errors) {
    let readiness = path.child("readinessGates");
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        check::label_name(text(gate, "conditionType"), &readiness.index(i).child("conditionType"), e);
    }
    let scheduling = path.child("schedulingGates");
    let mut seen = HashSet::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        check::label_name(name, &scheduling.index(i), e);
        if !seen.insert(name) {
            e.duplicate(&scheduling.index(i), &name.into());
        }
    }
}

fn host_aliases(spec: &Value, path: &At, e: &mut Errors) {
    let path = path.child("hostAliases");
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = path.index(i);
        e.invalid_each(&at.child("ip"), text(alias, "ip"), names::ip_address(text(alias, "ip")));
        let hostnames = at.child("hostnames");
        for (j, name) in texts(alias, "hostnames").enumerate() {
            e.invalid_each(&hostnames.index(j), name, names::dns1123_subdomain(name));
        }
    }
}
