//! Containers of all three sorts.

use super::handlers::{self, Grace};
use super::{env, mounts, resources, security};
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;
use std::collections::HashSet;

/// What the checks of a container know of its pod.
pub struct Pod<'a> {
    /// The spec of the pod.
    pub spec: &'a Value,
    /// Names and sources of the volumes that are well formed.
    pub volumes: Vec<(&'a str, &'a Value)>,
    /// Grace period of the pod.
    pub grace: Grace,
    /// Whether the spec stands in a pod, not in a template.
    pub is_pod: bool,
}

const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";
const NOT_FOR_EPHEMERAL: &str = "cannot be set for an Ephemeral Container";

fn name(container: &Value) -> &str {
    text(container, "name")
}

/// `containers`.
pub fn main(pod: &Pod, path: &At, e: &mut Errors) {
    let containers = list(pod.spec, "containers");
    if containers.is_empty() {
        return e.required(path, "");
    }
    let mut seen = HashSet::new();
    for (i, c) in containers.iter().enumerate() {
        let at = path.index(i);
        common(c, pod, &at, e);
        if !seen.insert(name(c)) {
            e.duplicate(&at.child("name"), &name(c).into());
        }
        handlers::lifecycle(c, pod.grace, &at, e);
        handlers::probes(c, pod.grace, &at, e);
        restart_policy(c, &at, e);
    }
    host_port_conflicts(containers, path, e);
}

/// A container's own restart policy and the rules that come before it.
fn restart_policy(c: &Value, at: &At, e: &mut Errors) {
    const MOST_RULES: usize = 20;
    const MOST_CODES: usize = 255;
    check::choice_if_set(c, "restartPolicy", &["Always", "Never", "OnFailure"], at, e);
    let (rules, path) = (list(c, "restartPolicyRules"), at.child("restartPolicyRules"));
    if !rules.is_empty() && !has(c, "restartPolicy") {
        e.required(&at.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > MOST_RULES {
        e.too_many(&path, rules.len(), MOST_RULES);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        check::member(rule, "action", &["Restart", "RestartAllContainers"], &at, e);
        let Some(codes) = rule.get("exitCodes").filter(|c| c.is_object()) else {
            e.required(&at.child("exitCodes"), "must be specified");
            continue;
        };
        let at = at.child("exitCodes");
        check::member(codes, "operator", &["In", "NotIn"], &at, e);
        let values = list(codes, "values").len();
        if values > MOST_CODES {
            e.too_many(&at.child("values"), values, MOST_CODES);
        }
    }
}

/// `initContainers`.
pub fn init(pod: &Pod, path: &At, e: &mut Errors) {
    let mut seen: HashSet<&str> = list(pod.spec, "containers").iter().map(name).collect();
    for (i, c) in list(pod.spec, "initContainers").iter().enumerate() {
        let at = path.index(i);
        common(c, pod, &at, e);
        restart_policy(c, &at, e);
        if !seen.insert(name(c)) && !name(c).is_empty() {
            e.duplicate(&at.child("name"), &name(c).into());
        }
        host_port_conflicts(std::slice::from_ref(c), path, e);
        if resources::is_sidecar(c) {
            handlers::lifecycle(c, pod.grace, &at, e);
            handlers::probes(c, pod.grace, &at, e);
            continue;
        }
        for key in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if has(c, key) {
                e.forbidden(&at.child(key), NOT_FOR_INIT);
            }
        }
        no_restart_on_resize(c, &at, e);
    }
}

/// An init container that ends cannot be restarted for more resources.
fn no_restart_on_resize(c: &Value, at: &At, e: &mut Errors) {
    let path = at.child("resizePolicy");
    for (i, policy) in list(c, "resizePolicy").iter().enumerate() {
        if text(policy, "restartPolicy") == "RestartContainer" {
            let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            e.invalid(&path.index(i).child("restartPolicy"), &"RestartContainer".into(), why);
        }
    }
}

/// The containers of all three sorts with their paths, in the order in which upstream visits them.
pub fn each<'a>(spec: &'a Value, path: &At, mut see: impl FnMut(&'a Value, &At)) {
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        let lists = path.child(key);
        list(spec, key).iter().enumerate().for_each(|(i, c)| see(c, &lists.index(i)));
    }
}

/// `ephemeralContainers`.
pub fn ephemeral(pod: &Pod, path: &At, e: &mut Errors) {
    let long_lived = || list(pod.spec, "containers").iter().chain(list(pod.spec, "initContainers"));
    let mut seen: HashSet<&str> = long_lived().map(name).collect();
    for (i, c) in list(pod.spec, "ephemeralContainers").iter().enumerate() {
        let at = path.index(i);
        common(c, pod, &at, e);
        image_padding(c, &at, e);
        if !seen.insert(name(c)) {
            e.duplicate(&at.child("name"), &name(c).into());
        }
        let target = text(c, "targetContainerName");
        if !target.is_empty() && !long_lived().any(|c| name(c) == target) {
            e.not_found(&at.child("targetContainerName"), &target.into());
        }
        not_for_ephemeral(c, &at, e);
    }
}

fn not_for_ephemeral(c: &Value, at: &At, e: &mut Errors) {
    const KEYS: [&str; 9] = [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ];
    for key in KEYS {
        if !same(c.get(key), None) {
            e.forbidden(&at.child(key), NOT_FOR_EPHEMERAL);
        }
    }
    let mounts = at.child("volumeMounts");
    for (i, mount) in list(c, "volumeMounts").iter().enumerate() {
        for key in ["subPath", "subPathExpr"] {
            if !text(mount, key).is_empty() {
                e.forbidden(&mounts.index(i).child(key), NOT_FOR_EPHEMERAL);
            }
        }
    }
}

fn common(c: &Value, pod: &Pod, at: &At, e: &mut Errors) {
    check::required_form(c, "name", names::dns1123_label, at, e);
    check::required(c, "image", at, e);
    check::choice(c, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], at, e);
    ports(c, at, e);
    env::validate(c, at, e);
    mounts::mounts(c, &pod.volumes, at, e);
    mounts::devices(c, &pod.volumes, at, e);
    check::choice(c, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], at, e);
    if let Some(r) = get(c, "resources") {
        resources::validate(r, list(pod.spec, "resourceClaims"), &at.child("resources"), e);
    }
    resize_policy(c, pod, at, e);
    if let Some(context) = get(c, "securityContext") {
        security::container(context, pod.spec, &at.child("securityContext"), e);
    }
}

fn ports(c: &Value, at: &At, e: &mut Errors) {
    let path = at.child("ports");
    let mut seen = HashSet::new();
    for (i, port) in list(c, "ports").iter().enumerate() {
        let at = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let wrong = names::port_name(name);
            if !wrong.is_empty() {
                e.invalid_each(&at.child("name"), name, wrong);
            } else if !seen.insert(name) {
                e.duplicate(&at.child("name"), &name.into());
            }
        }
        match int(port, "containerPort").unwrap_or_default() {
            0 => e.required(&at.child("containerPort"), ""),
            n => e.invalid_each(&at.child("containerPort"), n, names::port_number(n)),
        }
        if let Some(n) = int(port, "hostPort").filter(|n| *n != 0) {
            e.invalid_each(&at.child("hostPort"), n, names::port_number(n));
        }
        check::choice(port, "protocol", &["SCTP", "TCP", "UDP"], &at, e);
    }
}

fn host_port_conflicts(containers: &[Value], path: &At, e: &mut Errors) {
    let mut seen = HashSet::new();
    for (i, c) in containers.iter().enumerate() {
        for (j, port) in list(c, "ports").iter().enumerate() {
            let Some(n) = int(port, "hostPort").filter(|n| *n != 0) else { continue };
            let key = (text(port, "protocol"), text(port, "hostIP"), n);
            if !seen.insert(key) {
                let at = path.index(i);
                let at = at.child("ports");
                let shown = format!("{}/{}/{}", key.0, key.1, key.2);
                e.duplicate(&at.index(j).child("hostPort"), &shown.into());
            }
        }
    }
}

fn resize_policy(c: &Value, pod: &Pod, at: &At, e: &mut Errors) {
    let path = at.child("resizePolicy");
    let policies = list(c, "resizePolicy");
    for (i, policy) in policies.iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if policies[..i].iter().any(|p| text(p, "resourceName") == resource) {
            e.duplicate(&path.index(i), &resource.into());
        }
        match resource {
            "cpu" | "memory" => {}
            "" => e.required(&path, ""),
            other => e.not_supported(&path, &other.into(), &["cpu", "memory"]),
        }
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => e.required(&path, ""),
            other => e.not_supported(&path, &other.into(), &["NotRequired", "RestartContainer"]),
        }
        if text(pod.spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            e.invalid(&path, &restart.into(), "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

/// Blanks around an image are refused in pods, not in templates.
pub fn image_padding(c: &Value, at: &At, e: &mut Errors) {
    let image = text(c, "image");
    if image.trim().len() != image.len() {
        e.invalid(&at.child("image"), &image.into(), "must not have leading or trailing whitespace");
    }
}
