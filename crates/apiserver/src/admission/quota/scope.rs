//! Which objects a quota is about: its scopes and scope selector.

use super::super::list;
use super::super::usage::{pod_limits, pod_requests};
use serde_json::Value;

/// Whether the quota covers the object. A quota with scopes covers pods only (claims with VolumeAttributesClass).
pub(super) fn matches(quota: &Value, group: &str, resource: &str, object: &Value) -> bool {
    let plain = list(quota, "scopes").filter_map(Value::as_str).map(|s| (s, "Exists", Vec::new()));
    let selected = list(&quota["scopeSelector"], "matchExpressions").map(|e| {
        let values = list(e, "values").filter_map(Value::as_str).collect();
        (e["scopeName"].as_str().unwrap_or_default(), e["operator"].as_str().unwrap_or_default(), values)
    });
    let is = |kind: &str| group.is_empty() && resource == kind;
    plain.chain(selected).all(|(scope, operator, values)| match scope {
        "VolumeAttributesClass" if is("persistentvolumeclaims") => {
            compare(object["spec"]["volumeAttributesClassName"].as_str().unwrap_or_default(), operator, &values)
        }
        "VolumeAttributesClass" => false,
        _ if !is("pods") => false,
        "Terminating" => object["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|s| s >= 0),
        "NotTerminating" => object["spec"]["activeDeadlineSeconds"].is_null(),
        "BestEffort" => best_effort(object),
        "NotBestEffort" => !best_effort(object),
        "PriorityClass" => compare(object["spec"]["priorityClassName"].as_str().unwrap_or_default(), operator, &values),
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

fn best_effort(pod: &Value) -> bool {
    let asks = |amounts: super::Amounts| ["cpu", "memory"].iter().any(|n| amounts.get(*n).is_some_and(|q| !q.is_zero()));
    !asks(pod_requests(pod)) && !asks(pod_limits(pod))
}

fn crosses_namespaces(pod: &Value) -> bool {
    let crosses = |term: &Value| list(term, "namespaces").next().is_some() || !term["namespaceSelector"].is_null();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        list(affinity, "requiredDuringSchedulingIgnoredDuringExecution").any(crosses)
            || list(affinity, "preferredDuringSchedulingIgnoredDuringExecution").any(|w| crosses(&w["podAffinityTerm"]))
    })
}
