//! What an object uses of which quota resource, and which objects a quota is about: the rules by which admission decides and
//! by which the controller fills the status of quotas. Pure; nothing here knows what there is in a namespace.
//!
//! Source: `pkg/quota/v1/evaluator/core`.

mod amounts;
mod scope;

pub use amounts::{Amounts, add, amounts, pod_limits, pod_requests, running};
pub use scope::{Scope, covers};

use crate::quantity::{Format, Quantity};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Kinds of core that have a resource of their own name besides `count/<name>`.
const PLAIN: &[&str] = &["pods", "services", "secrets", "configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas"];
const STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
/// Where claims named their class before there was a field.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

const fn units(n: i64) -> Quantity {
    Quantity::units(n, Format::DecimalSI)
}

/// Group and plural of the objects that a quota resource counts.
pub fn counted_by(name: &str) -> (String, String) {
    if let Some(rest) = name.strip_prefix("count/") {
        let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
        return (group.to_owned(), resource.to_owned());
    }
    if name.ends_with(DEVICE_CLASS) {
        return ("resource.k8s.io".to_owned(), "resourceclaims".to_owned());
    }
    let resource = match name {
        "services.nodeports" | "services.loadbalancers" => "services",
        "requests.storage" => "persistentvolumeclaims",
        claims if claims.contains(STORAGE_CLASS) => "persistentvolumeclaims",
        plain if PLAIN.contains(&plain) => plain,
        _ => "pods",
    };
    (String::new(), resource.to_owned())
}

/// Whether an update through this door can use more than before.
pub fn update_may_use_more(group: &str, resource: &str, subresource: &str) -> bool {
    let door = (resource, subresource);
    group.is_empty() && matches!(door, ("pods", "resize") | ("services" | "persistentvolumeclaims", ""))
}

/// What usage and scopes depend on: all that need be kept of an object in memory.
pub fn relevant(group: &str, resource: &str, mut object: Value) -> Value {
    if group == "resource.k8s.io" && resource == "resourceclaims" {
        return json!({ "spec": object["spec"].take() });
    }
    if !group.is_empty() {
        return json!({});
    }
    match resource {
        "pods" => {
            let containers = |kind: &str| -> Value {
                let of = |c: &Value| json!({ "name": c["name"], "resources": c["resources"], "restartPolicy": c["restartPolicy"] });
                list(&object["spec"], kind).map(of).collect()
            };
            let spec = &object["spec"];
            json!({
                "metadata": { "deletionTimestamp": object["metadata"]["deletionTimestamp"] },
                "spec": {
                    "containers": containers("containers"), "initContainers": containers("initContainers"),
                    "resources": spec["resources"], "overhead": spec["overhead"], "affinity": spec["affinity"],
                    "activeDeadlineSeconds": spec["activeDeadlineSeconds"], "priorityClassName": spec["priorityClassName"],
                },
                "status": { "phase": object["status"]["phase"] },
            })
        }
        "services" => json!({ "spec": object["spec"].take() }),
        "persistentvolumeclaims" => {
            let status = &object["status"];
            let status = json!({
                "allocatedResources": status["allocatedResources"], "modifyVolumeStatus": status["modifyVolumeStatus"],
                "currentVolumeAttributesClassName": status["currentVolumeAttributesClassName"],
            });
            let annotations = json!({ BETA_CLASS: object["metadata"]["annotations"][BETA_CLASS] });
            json!({ "metadata": { "annotations": annotations }, "spec": object["spec"].take(), "status": status })
        }
        _ => json!({}),
    }
}

/// What the object uses.
pub fn usage(group: &str, resource: &str, object: &Value, now: Timestamp) -> Amounts {
    let counted = if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
    let mut used = Amounts::from([(counted, units(1))]);
    match (group, resource) {
        ("resource.k8s.io", "resourceclaims") => devices(&object["spec"], &mut used),
        ("", "pods") if is_over(object, now) => return used,
        ("", "pods") => pod(object, &mut used),
        ("", "services") => service(&object["spec"], &mut used),
        ("", "persistentvolumeclaims") => claim(object, &mut used),
        _ => {}
    }
    if group.is_empty() && PLAIN.contains(&resource) {
        used.insert(resource.to_owned(), units(1));
    }
    used
}

/// A pod that has ended, or should be gone by now (its deletion timestamp includes its grace), uses nothing.
fn is_over(pod: &Value, now: Timestamp) -> bool {
    let deleted = pod["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) || deleted.is_some_and(|at| at < now)
}

fn pod(pod: &Value, used: &mut Amounts) {
    let compute = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
    for (name, amount) in pod_requests(pod) {
        if compute(&name) || name.starts_with("hugepages-") {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    let limits = pod_limits(pod).into_iter().filter(|(name, _)| compute(name));
    used.extend(limits.map(|(name, amount)| (format!("limits.{name}"), amount)));
}

fn service(spec: &Value, used: &mut Amounts) {
    let balanced = spec["type"] == "LoadBalancer";
    if balanced {
        used.insert("services.loadbalancers".into(), units(1));
    }
    if balanced || spec["type"] == "NodePort" {
        // A balancer that asked for none has those that it names itself.
        let all = !balanced || spec["allocateLoadBalancerNodePorts"] != false;
        let ports = list(spec, "ports").filter(|p| all || p["nodePort"].as_i64().is_some_and(|n| n != 0)).count();
        used.insert("services.nodeports".into(), units(i64::try_from(ports).unwrap_or(i64::MAX)));
    }
}

fn claim(claim: &Value, used: &mut Amounts) {
    let spec = &claim["spec"];
    let asked = amounts(&spec["resources"]["requests"]).remove("storage");
    // While a resize is undone, what was promised before still counts.
    let promised = amounts(&claim["status"]["allocatedResources"]).remove("storage");
    let annotated = claim["metadata"]["annotations"][BETA_CLASS].as_str();
    let class = annotated.or_else(|| spec["storageClassName"].as_str()).filter(|c| !c.is_empty());
    used.extend(class.map(|c| (format!("{c}{STORAGE_CLASS}persistentvolumeclaims"), units(1))));
    if let Some(size) = asked.max(promised) {
        used.insert("requests.storage".into(), size);
        used.extend(class.map(|c| (format!("{c}{STORAGE_CLASS}requests.storage"), size)));
    }
}

/// Devices by class; of alternatives, the most that one could take.
fn devices(spec: &Value, used: &mut Amounts) {
    const ALL: i64 = 32;
    let count = |r: &Value| if r["allocationMode"] == "All" { ALL } else { r["count"].as_i64().unwrap_or(1) };
    for request in list(&spec["devices"], "requests") {
        let mut most: BTreeMap<String, i64> = BTreeMap::new();
        for one in list(request, "firstAvailable").chain(request.get("exactly")) {
            let class = one["deviceClassName"].as_str().unwrap_or_default();
            let own = most.entry(format!("{class}{DEVICE_CLASS}")).or_default();
            *own = (*own).max(count(one));
        }
        most.into_iter().for_each(|(name, n)| *used.entry(name).or_default() += units(n));
    }
}

/// Compute resources that a quota limits and containers of a pod leave open: `limits.cpu for: a,b; ...`.
pub fn unspecified(group: &str, resource: &str, pod: &Value, hard: &Amounts) -> Option<String> {
    if !group.is_empty() || resource != "pods" {
        return None;
    }
    let spec = &pod["spec"];
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"] {
        let (field, plain) = name.split_once('.').unwrap_or(("requests", name));
        if !hard.contains_key(name) || !spec["resources"][field][plain].is_null() {
            continue;
        }
        for container in list(spec, "containers").chain(list(spec, "initContainers")) {
            if container["resources"][field][plain].is_null() {
                missing.entry(name).or_default().push(container["name"].as_str().unwrap_or_default());
            }
        }
    }
    let lines = missing.into_iter().map(|(name, mut containers)| {
        containers.sort_unstable();
        format!("{name} for: {}", containers.join(","))
    });
    let lines: Vec<String> = lines.collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(used: &Amounts, name: &str) -> Option<String> {
        used.get(name).map(ToString::to_string)
    }

    #[test]
    fn quota_resources_name_what_they_count() {
        let cases = [
            ("cpu", "", "pods"),
            ("requests.storage", "", "persistentvolumeclaims"),
            ("count/deployments.apps", "apps", "deployments"),
            ("count/secrets", "", "secrets"),
            ("services.nodeports", "", "services"),
            ("fast.storageclass.storage.k8s.io/requests.storage", "", "persistentvolumeclaims"),
            ("gpu.deviceclass.resource.k8s.io/devices", "resource.k8s.io", "resourceclaims"),
            ("configmaps", "", "configmaps"),
            ("requests.nvidia.com/gpu", "", "pods"),
        ];
        for (name, group, resource) in cases {
            assert_eq!(counted_by(name), (group.to_owned(), resource.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_pod_uses_what_it_requests_until_it_is_over() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let containers = json!([{"resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}}, {"resources": {"requests": {"cpu": "200m"}}}]);
        let mut pod = json!({"spec": {"containers": containers}});
        let used = usage("", "pods", &pod, now);
        let of = |name: &str| shown(&used, name).unwrap_or_default();
        assert_eq!([of("requests.cpu"), of("cpu"), of("limits.memory"), of("pods")], ["300m", "300m", "1Gi", "1"]);
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(usage("", "pods", &pod, now).len(), 1);
        assert!(covers(&json!({"scopes": ["NotBestEffort"]}), "", "pods", &pod));
        assert!(!covers(&json!({"scopes": ["BestEffort"]}), "", "pods", &pod));
    }

    #[test]
    fn claims_use_storage_and_devices() {
        let now = Timestamp::UNIX_EPOCH;
        let claim = json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}}, "status": {"allocatedResources": {"storage": "2Gi"}}});
        let used = usage("", "persistentvolumeclaims", &claim, now);
        assert_eq!(shown(&used, "fast.storageclass.storage.k8s.io/requests.storage").as_deref(), Some("2Gi"));
        let request = json!({"exactly": {"deviceClassName": "gpu", "count": 2}});
        let either =
            json!({"firstAvailable": [{"deviceClassName": "gpu", "count": 3}, {"deviceClassName": "tpu", "allocationMode": "All"}]});
        let claim = json!({"spec": {"devices": {"requests": [request, either]}}});
        let used = usage("resource.k8s.io", "resourceclaims", &claim, now);
        assert_eq!(shown(&used, "gpu.deviceclass.resource.k8s.io/devices").as_deref(), Some("5"));
        assert_eq!(shown(&used, "tpu.deviceclass.resource.k8s.io/devices").as_deref(), Some("32"));
    }

    #[test]
    fn services_use_the_ports_that_nodes_open_for_them() {
        let ports = json!([{"port": 80, "nodePort": 30080}, {"port": 443}]);
        let of = |spec: Value| shown(&usage("", "services", &json!({ "spec": spec }), Timestamp::UNIX_EPOCH), "services.nodeports");
        assert_eq!(of(json!({"type": "ClusterIP", "ports": ports})), None);
        assert_eq!(of(json!({"type": "NodePort", "ports": ports})).as_deref(), Some("2"));
        assert_eq!(of(json!({"type": "LoadBalancer", "ports": ports})).as_deref(), Some("2"));
        assert_eq!(of(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": ports})).as_deref(), Some("1"));
    }

    #[test]
    fn a_pod_with_overhead_alone_is_best_effort() {
        let pod = json!({"spec": {"overhead": {"cpu": "100m"}, "containers": [{"name": "c"}]}});
        assert!(covers(&json!({"scopes": ["BestEffort"]}), "", "pods", &pod));
        assert!(covers(&json!({"scopes": ["BestEffort"]}), "", "pods", &relevant("", "pods", pod)));
    }

    #[test]
    fn a_claim_is_in_the_scope_of_every_class_it_refers_to() {
        let claim = json!({"spec": {"volumeAttributesClassName": "new"}, "status": {"currentVolumeAttributesClassName": "old", "modifyVolumeStatus": {"targetVolumeAttributesClassName": "next"}}});
        let kept = relevant("", "persistentvolumeclaims", claim);
        for (class, want) in [("new", true), ("old", true), ("next", true), ("other", false)] {
            let spec = json!({"scopeSelector": {"matchExpressions": [{"scopeName": "VolumeAttributesClass", "operator": "In", "values": [class]}]}});
            assert_eq!(covers(&spec, "", "persistentvolumeclaims", &kept), want, "{class}");
        }
    }

    #[test]
    fn scopes_select_by_class_and_affinity() {
        let pod = json!({"spec": {"priorityClassName": "high", "activeDeadlineSeconds": 5}});
        let term = |name: &str, operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": name, "operator": operator, "values": values}]}});
        for (spec, want) in [
            (term("PriorityClass", "In", json!(["high"])), true),
            (term("PriorityClass", "NotIn", json!(["high"])), false),
            (term("PriorityClass", "Exists", json!([])), true),
            (term("CrossNamespacePodAffinity", "Exists", json!([])), false),
            (json!({"scopes": ["Terminating", "BestEffort"]}), true),
            (json!({"scopes": ["NotTerminating"]}), false),
        ] {
            assert_eq!(covers(&spec, "", "pods", &pod), want, "{spec}");
        }
        assert!(!covers(&json!({"scopes": ["BestEffort"]}), "", "services", &json!({})));
    }
}
