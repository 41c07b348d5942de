//! What an object uses of which quota resource.

use super::super::list;
use super::super::usage::{Amounts, amounts, pod_limits, pod_requests};
use ferrokube_api::quantity::{Format, Quantity};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const fn one() -> Quantity {
    Quantity::units(1, Format::DecimalSI)
}

/// Kinds of core that have a resource of their own name besides `count/<name>`.
const PLAIN: &[&str] = &["pods", "services", "secrets", "configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas"];
const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

/// Whether an update of this resource can use more than before.
pub(super) fn usage_may_change(group: &str, resource: &str, subresource: &str) -> bool {
    group.is_empty() && matches!((resource, subresource), ("pods", "resize") | ("services" | "persistentvolumeclaims", ""))
}

/// What usage depends on: all that is kept of an object in memory.
pub(super) fn relevant(group: &str, resource: &str, mut object: Value) -> Value {
    if !group.is_empty() {
        return json!({});
    }
    let spec = &mut object["spec"];
    match resource {
        "pods" => {
            let containers = |spec: &Value, kind: &str| -> Value {
                list(spec, kind)
                    .map(|c| json!({ "name": c["name"], "resources": c["resources"], "restartPolicy": c["restartPolicy"] }))
                    .collect()
            };
            json!({
                "metadata": { "deletionTimestamp": object["metadata"]["deletionTimestamp"], "deletionGracePeriodSeconds": object["metadata"]["deletionGracePeriodSeconds"] },
                "spec": {
                    "containers": containers(&object["spec"], "containers"),
                    "initContainers": containers(&object["spec"], "initContainers"),
                    "resources": object["spec"]["resources"], "overhead": object["spec"]["overhead"],
                    "activeDeadlineSeconds": object["spec"]["activeDeadlineSeconds"], "priorityClassName": object["spec"]["priorityClassName"],
                    "affinity": object["spec"]["affinity"],
                },
                "status": { "phase": object["status"]["phase"] },
            })
        }
        "services" | "persistentvolumeclaims" => json!({ "spec": spec.take() }),
        _ => json!({}),
    }
}

/// What the object uses.
pub(super) fn usage(group: &str, resource: &str, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    let counted = if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
    used.insert(counted, one());
    if !group.is_empty() {
        return used;
    }
    if resource == "pods" && finished(object) {
        return used;
    }
    if PLAIN.contains(&resource) {
        used.insert(resource.to_owned(), one());
    }
    match resource {
        "pods" => pod(object, &mut used),
        "services" => service(object, &mut used),
        "persistentvolumeclaims" => claim(object, &mut used),
        _ => {}
    }
    used
}

/// A pod that has ended, or should be gone by now, uses nothing.
fn finished(pod: &Value) -> bool {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return true;
    }
    let deleted = pod["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    // The timestamp is the time of the request plus the grace period.
    deleted.is_some_and(|at| at < jiff::Timestamp::now())
}

fn pod(pod: &Value, used: &mut Amounts) {
    for (name, amount) in pod_requests(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-") {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    for (name, amount) in pod_limits(pod) {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            used.insert(format!("limits.{name}"), amount);
        }
    }
}

fn service(service: &Value, used: &mut Amounts) {
    let spec = &service["spec"];
    let ports = Quantity::units(list(spec, "ports").count() as i64, Format::DecimalSI);
    match spec["type"].as_str() {
        Some("NodePort") => {
            used.insert("services.nodeports".into(), ports);
        }
        Some("LoadBalancer") => {
            used.insert("services.loadbalancers".into(), one());
            if spec["allocateLoadBalancerNodePorts"] != false {
                used.insert("services.nodeports".into(), ports);
            }
        }
        _ => {}
    }
}

fn claim(claim: &Value, used: &mut Amounts) {
    let size = amounts(&claim["spec"]["resources"]["requests"]).remove("storage");
    let class = claim["spec"]["storageClassName"].as_str().filter(|c| !c.is_empty());
    if let Some(class) = class {
        used.insert(format!("{class}{CLASS_SUFFIX}persistentvolumeclaims"), one());
    }
    if let Some(size) = size {
        used.insert("requests.storage".into(), size);
        if let Some(class) = class {
            used.insert(format!("{class}{CLASS_SUFFIX}requests.storage"), size);
        }
    }
}

/// Compute resources that the quota limits and containers of the pod leave open: `limits.cpu for: a,b; ...`.
pub(super) fn unspecified(group: &str, resource: &str, pod: &Value, hard: &Amounts) -> Option<String> {
    if !group.is_empty() || resource != "pods" {
        return None;
    }
    let spec = &pod["spec"];
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"] {
        if !hard.contains_key(name) {
            continue;
        }
        let (field, plain) = name.split_once('.').unwrap_or(("requests", name));
        if !spec["resources"][field][plain].is_null() {
            continue;
        }
        for container in list(spec, "containers").chain(list(spec, "initContainers")) {
            if container["resources"][field][plain].is_null() {
                missing.entry(name).or_default().push(container["name"].as_str().unwrap_or_default());
            }
        }
    }
    if missing.is_empty() {
        return None;
    }
    let lines = missing.into_iter().map(|(name, mut containers)| {
        containers.sort_unstable();
        format!("{name} for: {}", containers.join(","))
    });
    Some(lines.collect::<Vec<_>>().join("; "))
}
