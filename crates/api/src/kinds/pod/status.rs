//! What may be said about a pod through its status view.

use super::{annotations, ratchet};
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const STATUS: At<'static> = At::field("status");
const NEGATIVE: &str = "must be a non-negative integer";
const LISTS: [&str; 3] = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];

fn status(pod: &Value) -> &Value {
    pod.get("status").unwrap_or(&NONE)
}

/// A generation that was observed is not forgotten by clients that do not know the field; what belongs to features that
/// are off (ImageVolumeWithDigest, DRANodeAllocatableResources) is.
pub fn keep_observed(new: &mut Value, old: &Value) {
    const KEY: &str = "observedGeneration";
    let old = status(old);
    let Some(status) = get_mut(new, "status") else { return };
    remove(status, "nodeAllocatableResourceClaimStatuses");
    for key in LISTS {
        each_mut(status, key).flat_map(|c| each_mut(c, "volumeMounts")).for_each(|mount| drop(remove(mount, "volumeStatus")));
    }
    let observed = |v: &Value| int(v, KEY).filter(|n| *n != 0);
    if let (None, Some(n)) = (observed(status), observed(old)) {
        set(status, KEY, n);
    }
    for condition in each_mut(status, "conditions").filter(|c| observed(c).is_none()) {
        let before = list(old, "conditions").iter().find(|c| text(c, "type") == text(condition, "type"));
        if let Some(n) = before.and_then(observed) {
            set(condition, KEY, n);
        }
    }
}

/// A change through the status view.
pub fn validate(new: &Value, old: &Value, e: &mut Errors) {
    ratchet::checked(new, old, annotations::validate, e);
    annotations::unchanged(new, old, e);
    let (new_spec, old_spec) = (spec(new), spec(old));
    let (new, old) = (status(new), status(old));
    conditions(new, e);
    let node = text(old_spec, "nodeName");
    if text(new_spec, "nodeName") != node {
        e.forbidden(&STATUS.child("nodeName"), "may not be changed directly");
    }
    if text(new, "nominatedNodeName") != text(old, "nominatedNodeName") {
        check::form(new, "nominatedNodeName", names::dns1123_subdomain, &STATUS, e);
        if !node.is_empty() && !text(new, "nominatedNodeName").is_empty() {
            e.forbidden(&STATUS.child("nominatedNodeName"), "may not be set on pods that are already bound to a node");
        }
    }
    observed_generation(new, &STATUS, e);
    check::immutable(new, old, "qosClass", &STATUS, e);
    transitions(new, old, old_spec, e);
    claims(new, new_spec, e);
    extended_claim(new, new_spec, e);
    addresses(new, old, "podIPs", e);
    let first = list(new, "hostIPs").first().map(|h| text(h, "ip"));
    if let Some(first) = first.filter(|f| *f != text(new, "hostIP")) {
        let path = STATUS.child("hostIPs");
        e.invalid(&path.index(0).child("ip"), &first.into(), "must be equal to `hostIP`");
    }
    addresses(new, old, "hostIPs", e);
    LISTS.iter().for_each(|key| users(new, key, new_spec, e));
    allocated(new, "containerStatuses", Some(list(new_spec, "containers")), e);
    allocated(new, "initContainerStatuses", Some(list(new_spec, "initContainers")), e);
    allocated(new, "ephemeralContainerStatuses", None, e);
}

fn observed_generation(v: &Value, path: &At, e: &mut Errors) {
    if let Some(n) = int(v, "observedGeneration").filter(|n| *n < 0) {
        e.invalid(&path.child("observedGeneration"), &n.into(), NEGATIVE);
    }
}

fn conditions(status: &Value, e: &mut Errors) {
    let path = STATUS.child("conditions");
    for (i, condition) in list(status, "conditions").iter().enumerate() {
        let at = path.index(i);
        observed_generation(condition, &at, e);
        if !matches!(text(condition, "type"), "PodScheduled" | "Ready" | "Initialized") {
            check::label_name(text(condition, "type"), &at.child("Type"), e);
        }
    }
}

/// A container that ended stays ended unless something starts it again.
fn transitions(new: &Value, old: &Value, spec: &Value, e: &mut Errors) {
    let of = |name: &'static str| list(spec, name);
    if of("containers").iter().chain(of("initContainers")).any(restarts_all) {
        return ended(new, old, LISTS[2], |_, _| false, e);
    }
    for (key, containers) in [(LISTS[0], "containers"), (LISTS[1], "initContainers")] {
        let restarts = |name: &str, code: i64| {
            let container = of(containers).iter().find(|c| text(c, "name") == name);
            container.is_some_and(|c| starts_again(c, text(spec, "restartPolicy"), code))
        };
        ended(new, old, key, restarts, e);
    }
    ended(new, old, LISTS[2], |_, _| false, e);
}

fn restarts_all(container: &Value) -> bool {
    list(container, "restartPolicyRules").iter().any(|rule| text(rule, "action") == "RestartAllContainers")
}

/// Whether a container that ended with a code is started again: by its rules, its own policy, or that of the pod.
fn starts_again(container: &Value, pod_policy: &str, code: i64) -> bool {
    let by = |policy: &str| match policy {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    };
    let own = text(container, "restartPolicy");
    if own.is_empty() {
        return by(pod_policy);
    }
    let matches = |rule: &&Value| {
        let Some(codes) = get(rule, "exitCodes") else { return false };
        let listed = list(codes, "values").iter().any(|v| v.as_i64() == Some(code));
        listed == (text(codes, "operator") == "In")
    };
    let rule = list(container, "restartPolicyRules").iter().find(matches);
    rule.is_some_and(|rule| text(rule, "action") == "Restart") || by(own)
}

fn ended(new: &Value, old: &Value, key: &str, restarts: impl Fn(&str, i64) -> bool, e: &mut Errors) {
    let path = STATUS.child(key);
    for (i, before) in list(old, key).iter().enumerate() {
        let Some(terminated) = at(before, &["state", "terminated"]) else { continue };
        let name = text(before, "name");
        let alive = |s: &Value| text(s, "name") == name && at(s, &["state", "terminated"]).is_none();
        if list(new, key).iter().any(alive) && !restarts(name, int(terminated, "exitCode").unwrap_or_default()) {
            e.forbidden(&path.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn claims(status: &Value, spec: &Value, e: &mut Errors) {
    let path = STATUS.child("resourceClaimStatuses");
    let all = list(status, "resourceClaimStatuses");
    for (i, claim) in all.iter().enumerate() {
        let (at, name) = (path.index(i), text(claim, "name"));
        if !list(spec, "resourceClaims").iter().any(|c| text(c, "name") == name) {
            e.invalid(&at.child("name"), &name.into(), "must match the name of an entry in `spec.resourceClaims`");
        }
        if all[..i].iter().any(|c| text(c, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
        if let Some(made) = get(claim, "resourceClaimName").and_then(Value::as_str) {
            e.invalid_each(&at.child("resourceClaimName"), made, names::dns1123_subdomain(made));
        }
    }
}

/// The claim that the scheduler made for resources of containers.
fn extended_claim(status: &Value, spec: &Value, e: &mut Errors) {
    let Some(claim) = get(status, "extendedResourceClaimStatus") else { return };
    let path = STATUS.child("extendedResourceClaimStatus");
    let (mappings, at) = (list(claim, "requestMappings"), path.child("requestMappings"));
    if mappings.is_empty() {
        e.required(&at, "at least one request mapping is required");
    }
    let parts = |m: &Value| ["containerName", "resourceName", "requestName"].map(|key| text(m, key).to_owned());
    for (i, mapping) in mappings.iter().enumerate() {
        let (at, [container, resource, request]) = (at.index(i), parts(mapping));
        let all = || list(spec, "initContainers").iter().chain(list(spec, "containers"));
        match all().rfind(|c| text(c, "name") == container) {
            None => {
                let why = "must match the name of an entry in spec.initContainers.name or spec.containers.name";
                e.invalid(&at.child("containerName"), &container.clone().into(), why);
            }
            Some(c) if crate::kinds::json::at(c, &["resources", "requests", &resource]).is_none() => {
                let why = "must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests";
                e.invalid(&at.child("resourceName"), &resource.clone().into(), why);
            }
            Some(_) => {}
        }
        e.invalid_each(&path.child("requestName"), request.clone(), names::dns1123_label(&request));
        if mappings[..i].iter().any(|m| parts(m) == parts(mapping)) {
            for (key, value) in [("containerName", container), ("resourceName", resource), ("requestName", request)] {
                e.duplicate(&at.child(key), &value.into());
            }
        }
    }
    check::required_form(claim, "resourceClaimName", names::dns1123_subdomain, &path, e);
}

fn addresses(status: &Value, old: &Value, key: &str, e: &mut Errors) {
    let path = STATUS.child(key);
    let all: Vec<&str> = list(status, key).iter().map(|a| text(a, "ip")).collect();
    let known = |ip: &str| list(old, key).iter().any(|a| text(a, "ip") == ip);
    for (i, ip) in all.iter().enumerate().filter(|(_, ip)| !known(ip)) {
        e.invalid_each(&path.index(i), *ip, names::ip_address(ip));
    }
    let families = |v4: bool| all.iter().filter(|ip| names::parse_ip(ip).is_some_and(|ip| ip.is_ipv4() == v4)).count();
    if all.len() > 2 || families(true) > 1 || families(false) > 1 {
        e.invalid(&path, &status[key], "may specify no more than one IP for each IP family");
    }
}

/// Whom containers run as.
fn users(status: &Value, key: &str, spec: &Value, e: &mut Errors) {
    const ID_MAX: i64 = i32::MAX as i64;
    let path = STATUS.child(key);
    for (i, container) in list(status, key).iter().enumerate() {
        let Some(user) = at(container, &["user", "linux"]) else { continue };
        let at = path.index(i);
        let at = at.child("user");
        let at = at.child("linux");
        if text_at(spec, &["os", "name"]) == "windows" {
            e.forbidden(&at, "cannot be set for a windows pod");
            continue;
        }
        check::within(user, "uid", 0, ID_MAX, &at, e);
        check::within(user, "gid", 0, ID_MAX, &at, e);
        let groups = at.child("supplementalGroups");
        for (g, gid) in list(user, "supplementalGroups").iter().enumerate() {
            if gid.as_i64().is_some_and(|n| !(0..=ID_MAX).contains(&n)) {
                e.invalid(&groups.index(g), gid, &names::inclusive_range(0, ID_MAX));
            }
        }
    }
}

/// Health of the devices that containers have; `containers` are those that may have some.
fn allocated(status: &Value, key: &str, containers: Option<&[Value]>, e: &mut Errors) {
    let path = STATUS.child(key);
    for (i, s) in list(status, key).iter().enumerate() {
        let at = path.index(i);
        let at = at.child("allocatedResourcesStatus");
        let all = list(s, "allocatedResourcesStatus");
        let Some(containers) = containers else {
            if !all.is_empty() {
                e.forbidden(&at, "must not be specified in container status");
            }
            continue;
        };
        let container = containers.iter().find(|c| text(c, "name") == text(s, "name"));
        for (j, resource) in all.iter().enumerate() {
            let at = at.index(j);
            if let Some(c) = container {
                asked_for(c, text(resource, "name"), &at.child("name"), e);
            }
            health(resource, &at.child("resources"), e);
        }
    }
}

fn asked_for(container: &Value, name: &str, at: &At, e: &mut Errors) {
    let requirements = container.get("resources").unwrap_or(&NONE);
    let (found, why) = match name.strip_prefix("claim:") {
        Some(claim) => (
            list(requirements, "claims").iter().any(|c| match text(c, "request") {
                "" => text(c, "name") == claim,
                request => claim == format!("{}/{request}", text(c, "name")),
            }),
            "must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
        ),
        None => {
            (entries(requirements, "requests").any(|(resource, _)| resource == name), "must match one of the container's resource requests")
        }
    };
    if !found {
        e.invalid(at, &name.into(), why);
    }
}

fn health(resource: &Value, path: &At, e: &mut Errors) {
    const MOST_BYTES: usize = 1024;
    let all = list(resource, "resources");
    for (k, device) in all.iter().enumerate() {
        let at = path.index(k);
        check::member(device, "health", &["Healthy", "Unhealthy", "Unknown"], &at, e);
        match get(device, "message").and_then(Value::as_str) {
            Some("") => e.required(&at.child("message"), "must be non-empty if specified"),
            Some(message) if message.len() > MOST_BYTES => e.too_long(&at.child("message"), MOST_BYTES),
            _ => {}
        }
        let id = text(device, "resourceID");
        if all[..k].iter().any(|d| text(d, "resourceID") == id) {
            e.duplicate(&at.child("resourceID"), &id.into());
        }
    }
}
