//! What an object uses of which quota resource, and which objects a quota is about: pure.
//!
//! Admission decides by the same rules (`apiserver/src/admission/quota`); both belong into the `api` crate.
//! Source: `pkg/quota/v1/evaluator/core`.

use ferrokube_api::quantity::{Format, Quantity};
use serde_json::Value;
use std::collections::BTreeMap;

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

/// Kinds of core that have a resource of their own name besides `count/<name>`.
pub const PLAIN: &[&str] =
    &["pods", "services", "secrets", "configmaps", "persistentvolumeclaims", "replicationcontrollers", "resourcequotas"];
const CLASS: &str = ".storageclass.storage.k8s.io/";

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value[field].as_array().into_iter().flatten()
}

const fn one() -> Quantity {
    Quantity::units(1, Format::DecimalSI)
}

/// Reads a resource list; amounts that are none count as zero.
pub fn amounts(map: &Value) -> Amounts {
    map.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), Quantity::from_json(v).unwrap_or_default())).collect()
}

/// Adds amounts to others.
pub fn add(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        *total.entry(name.clone()).or_default() += *amount;
    }
}

/// Group and plural of the objects that a quota resource counts.
pub fn counted_by(name: &str) -> (String, String) {
    if let Some(rest) = name.strip_prefix("count/") {
        let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
        return (group.to_owned(), resource.to_owned());
    }
    let resource = match name {
        "services.nodeports" | "services.loadbalancers" => "services",
        "requests.storage" => "persistentvolumeclaims",
        claims if claims.contains(CLASS) => "persistentvolumeclaims",
        plain if PLAIN.contains(&plain) => plain,
        _ => "pods",
    };
    (String::new(), resource.to_owned())
}

/// What the object uses.
pub fn usage(group: &str, resource: &str, object: &Value, now: jiff::Timestamp) -> Amounts {
    let counted = if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
    let mut used = Amounts::from([(counted, one())]);
    if !group.is_empty() || (resource == "pods" && is_over(object, now)) {
        return used;
    }
    if PLAIN.contains(&resource) {
        used.insert(resource.to_owned(), one());
    }
    match resource {
        "pods" => pod(object, &mut used),
        "services" => service(&object["spec"], &mut used),
        "persistentvolumeclaims" => claim(&object["spec"], &mut used),
        _ => {}
    }
    used
}

/// A pod that has ended, or should be gone by now, uses nothing.
fn is_over(pod: &Value, now: jiff::Timestamp) -> bool {
    let deleted = pod["metadata"]["deletionTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) || deleted.is_some_and(|at| at < now)
}

/// Sum over the containers as they run together, with init containers, sidecars and overhead.
fn pod_amounts(pod: &Value, field: &str) -> Amounts {
    let spec = &pod["spec"];
    let of = |c: &Value| amounts(&c["resources"][field]);
    let (mut running, mut sidecars, mut start) = (Amounts::new(), Amounts::new(), Amounts::new());
    list(spec, "containers").for_each(|c| add(&mut running, &of(c)));
    for container in list(spec, "initContainers") {
        let mut now = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        raise(&mut start, &now);
    }
    raise(&mut running, &start);
    running.extend(amounts(&spec["resources"][field]));
    for (name, amount) in amounts(&spec["overhead"]) {
        let own = running.entry(name).or_default();
        // Overhead raises the limits that exist; it makes none.
        if field == "requests" || !own.is_zero() {
            *own += amount;
        }
    }
    running
}

fn raise(total: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let own = total.entry(name.clone()).or_default();
        *own = (*own).max(*amount);
    }
}

fn pod(pod: &Value, used: &mut Amounts) {
    let compute = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
    for (name, amount) in pod_amounts(pod, "requests") {
        if compute(&name) || name.starts_with("hugepages-") {
            used.insert(name.clone(), amount);
        }
        used.insert(format!("requests.{name}"), amount);
    }
    let limits = pod_amounts(pod, "limits").into_iter().filter(|(name, _)| compute(name));
    used.extend(limits.map(|(name, amount)| (format!("limits.{name}"), amount)));
}

fn service(spec: &Value, used: &mut Amounts) {
    let ports = Quantity::units(i64::try_from(list(spec, "ports").count()).unwrap_or(0), Format::DecimalSI);
    let balanced = spec["type"] == "LoadBalancer";
    if balanced {
        used.insert("services.loadbalancers".into(), one());
    }
    if spec["type"] == "NodePort" || (balanced && spec["allocateLoadBalancerNodePorts"] != false) {
        used.insert("services.nodeports".into(), ports);
    }
}

fn claim(spec: &Value, used: &mut Amounts) {
    let size = amounts(&spec["resources"]["requests"]).remove("storage");
    let class = spec["storageClassName"].as_str().filter(|c| !c.is_empty());
    used.extend(class.map(|c| (format!("{c}{CLASS}persistentvolumeclaims"), one())));
    if let Some(size) = size {
        used.insert("requests.storage".into(), size);
        used.extend(class.map(|c| (format!("{c}{CLASS}requests.storage"), size)));
    }
}

/// Whether the scopes of a quota cover the object; a quota with scopes covers pods only (claims with VolumeAttributesClass).
pub fn covers(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let plain = list(quota, "scopes").filter_map(Value::as_str).map(|s| (s, "Exists", Vec::new()));
    let selected = list(&quota["scopeSelector"], "matchExpressions").map(|e| {
        let values: Vec<&str> = list(e, "values").filter_map(Value::as_str).collect();
        (e["scopeName"].as_str().unwrap_or_default(), e["operator"].as_str().unwrap_or_default(), values)
    });
    let is = |kind: &str| group.is_empty() && resource == kind;
    let text = |field: &str| object["spec"][field].as_str().unwrap_or_default();
    plain.chain(selected).all(|(scope, operator, values)| match scope {
        "VolumeAttributesClass" => is("persistentvolumeclaims") && compare(text("volumeAttributesClassName"), operator, &values),
        _ if !is("pods") => false,
        "Terminating" => object["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0),
        "NotTerminating" => object["spec"]["activeDeadlineSeconds"].is_null(),
        "BestEffort" => is_best_effort(object),
        "NotBestEffort" => !is_best_effort(object),
        "PriorityClass" => compare(text("priorityClassName"), operator, &values),
        "CrossNamespacePodAffinity" => crosses_namespaces(object),
        _ => false,
    })
}

fn compare(value: &str, operator: &str, values: &[&str]) -> bool {
    match operator {
        "In" => values.contains(&value),
        "NotIn" => !values.contains(&value),
        "Exists" => !value.is_empty(),
        "DoesNotExist" => value.is_empty(),
        _ => false,
    }
}

fn is_best_effort(pod: &Value) -> bool {
    let asks = |field: &str| {
        let all = pod_amounts(pod, field);
        ["cpu", "memory"].iter().any(|n| all.get(*n).is_some_and(|q| !q.is_zero()))
    };
    !asks("requests") && !asks("limits")
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| list(term, "namespaces").next().is_some() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || list(affinity, "preferredDuringSchedulingIgnoredDuringExecution").any(|w| crosses(&w["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quota_resources_name_what_they_count() {
        let cases = [
            ("cpu", "", "pods"),
            ("requests.storage", "", "persistentvolumeclaims"),
            ("count/deployments.apps", "apps", "deployments"),
            ("count/secrets", "", "secrets"),
            ("services.nodeports", "", "services"),
            ("fast.storageclass.storage.k8s.io/requests.storage", "", "persistentvolumeclaims"),
            ("configmaps", "", "configmaps"),
            ("requests.nvidia.com/gpu", "", "pods"),
        ];
        for (name, group, resource) in cases {
            assert_eq!(counted_by(name), (group.to_owned(), resource.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_pod_uses_what_it_requests_until_it_is_over() {
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}}, {"resources": {"requests": {"cpu": "200m"}}}]}});
        let used = usage("", "pods", &pod, now);
        let shown = |name: &str| used.get(name).map(ToString::to_string);
        assert_eq!(
            (shown("requests.cpu").as_deref(), shown("cpu").as_deref(), shown("limits.memory").as_deref(), shown("pods").as_deref()),
            (Some("300m"), Some("300m"), Some("1Gi"), Some("1"))
        );
        pod["status"] = json!({"phase": "Succeeded"});
        assert_eq!(usage("", "pods", &pod, now).len(), 1);
        assert!(covers(&json!({"scopes": ["NotBestEffort"]}), "", "pods", &pod));
        assert!(!covers(&json!({"scopes": ["BestEffort"]}), "", "pods", &pod));
    }
}
