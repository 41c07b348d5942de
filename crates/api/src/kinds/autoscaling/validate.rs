//! What an autoscaler must look like (`pkg/apis/autoscaling/validation`).

use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, pod};
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");

/// What the group of a reference may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// There must be one.
    Named,
    /// That of the core will do.
    Any,
    /// Nobody looks: it has been accepted before.
    Accepted,
}

/// What an older object had may stay.
struct Ratchet {
    least: i64,
    target: Group,
    described: Group,
}

/// A new one.
pub fn create(o: &Value, e: &mut Errors) {
    let target = target_group(target_of(o));
    rules(spec(o), &Ratchet { least: 1, target, described: Group::Any }, e);
}

/// A changed one.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    let (now, was) = (target_of(new), target_of(old));
    let same_target = ["apiVersion", "kind"].iter().all(|key| text(now, key) == text(was, key));
    let described = |metric: &Value| text(metric, "type") == "Object" && wrong_version(described(metric), Group::Any).is_some();
    let ratchet = Ratchet {
        least: if int(spec(old), "minReplicas") == Some(0) { 0 } else { 1 },
        target: if same_target { Group::Accepted } else { target_group(now) },
        described: if list(spec(old), "metrics").iter().any(described) { Group::Accepted } else { Group::Any },
    };
    rules(spec(new), &ratchet, e);
}

fn target_of(o: &Value) -> &Value {
    spec(o).get("scaleTargetRef").unwrap_or(&NONE)
}

/// Of all that scales only a replication controller is of the core.
fn target_group(target: &Value) -> Group {
    if text(target, "kind") == "ReplicationController" { Group::Any } else { Group::Named }
}

fn described(metric: &Value) -> &Value {
    at(metric, &["object", "describedObject"]).unwrap_or(&NONE)
}

fn rules(spec: &Value, ratchet: &Ratchet, e: &mut Errors) {
    let (least, most) = (int(spec, "minReplicas").unwrap_or(1), int(spec, "maxReplicas").unwrap_or_default());
    if least < ratchet.least {
        e.invalid(&SPEC.child("minReplicas"), &least.into(), &format!("must be greater than or equal to {}", ratchet.least));
    }
    match most {
        0 => e.required(&SPEC.child("maxReplicas"), "must be set and greater than 0"),
        most if most < 1 => e.invalid(&SPEC.child("maxReplicas"), &most.into(), "must be greater than 0"),
        _ => {}
    }
    if most < least {
        e.invalid(&SPEC.child("maxReplicas"), &most.into(), "must be greater than or equal to `minReplicas`");
    }
    object_reference(spec.get("scaleTargetRef").unwrap_or(&NONE), ratchet.target, &SPEC.child("scaleTargetRef"), e);
    let path = SPEC.child("metrics");
    for (i, metric) in list(spec, "metrics").iter().enumerate() {
        self::metric(metric, ratchet.described, &path.index(i), e);
    }
    let from_outside = |metric: &Value| matches!(text(metric, "type"), "Object" | "External");
    if least == 0 && !list(spec, "metrics").iter().any(from_outside) {
        e.forbidden(&path, "must specify at least one Object or External metric to support scaling to zero replicas");
    }
    let path = SPEC.child("behavior");
    for key in ["scaleUp", "scaleDown"] {
        if let Some(rules) = at(spec, &["behavior", key]) {
            behavior(rules, &path.child(key), e);
        }
    }
}

/// A change of the status.
pub fn status(o: &Value, e: &mut Errors) {
    check::counters(o.get("status").unwrap_or(&NONE), &["currentReplicas", "desiredReplicas"], &[], e);
}

fn object_reference(reference: &Value, group: Group, path: &At, e: &mut Errors) {
    for key in ["kind", "name"] {
        check::required_form(reference, key, names::path_segment, path, e);
    }
    if let Some(why) = wrong_version(reference, group) {
        e.invalid(&path.child("apiVersion"), &text(reference, "apiVersion").into(), &why);
    }
}

fn wrong_version(reference: &Value, group: Group) -> Option<String> {
    let version = text(reference, "apiVersion");
    match version.split('/').collect::<Vec<_>>().as_slice() {
        _ if group == Group::Accepted => None,
        [_, _, _, ..] => Some(format!("unexpected GroupVersion string: {version}")),
        [_] | ["", _] if group == Group::Named => Some("apiVersion must specify API group".to_owned()),
        _ => None,
    }
}

/// The sources of a metric by the name of their type.
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

fn metric(metric: &Value, described: Group, at: &At, e: &mut Errors) {
    let kind = text(metric, "type");
    let wanted = SOURCES.iter().find(|(name, _)| *name == kind).map(|(_, field)| *field);
    if kind.is_empty() {
        e.required(&at.child("type"), "must specify a metric source type");
    }
    if wanted.is_none() {
        e.not_supported(&at.child("type"), &kind.into(), &SOURCES.map(|s| s.0));
    }
    // In the order in which 1.36 looks for them.
    let order = ["object", "external", "pods", "resource", "containerResource"];
    let present: Vec<&str> = order.into_iter().filter(|field| has(metric, field)).collect();
    if let Some(first) = present.first() {
        source(first, &metric[*first], described, &at.child(first), e);
    }
    match wanted {
        // Told a second time, as upstream does.
        None => e.not_supported(&at.child("type"), &kind.into(), &SOURCES.map(|s| s.0)),
        Some(field) if !present.contains(&field) => {
            e.required(&at.child(field), "must populate information for the given metric source");
        }
        Some(_) => {}
    }
    if present.len() != 1 {
        for field in present.iter().filter(|field| Some(**field) != wanted) {
            e.forbidden(&at.child(field), "must populate the given metric source only");
        }
    }
}

fn source(field: &str, source: &Value, described: Group, at: &At, e: &mut Errors) {
    let aim = source.get("target").unwrap_or(&NONE);
    let path = at.child("target");
    match field {
        "object" => {
            object_reference(source.get("describedObject").unwrap_or(&NONE), described, &at.child("describedObject"), e);
            identifier(source, at, e);
            target(aim, &path, e);
            if !has(aim, "value") && !has(aim, "averageValue") {
                e.required(&path.child("averageValue"), "must set either a target value or averageValue");
            }
        }
        "external" => {
            identifier(source, at, e);
            target(aim, &path, e);
            match (has(aim, "value"), has(aim, "averageValue")) {
                (false, false) => {
                    let why = "must set either a target value for metric or a per-pod target";
                    e.required(&path.child("averageValue"), why);
                }
                (true, true) => e.forbidden(&path.child("value"), "may not set both a target value for metric and a per-pod target"),
                _ => {}
            }
        }
        "pods" => {
            identifier(source, at, e);
            target(aim, &path, e);
            if !has(aim, "averageValue") {
                e.required(&path.child("averageValue"), "must specify a positive target averageValue");
            }
        }
        _ => resource(field, source, at, e),
    }
}

fn resource(field: &str, source: &Value, at: &At, e: &mut Errors) {
    let aim = source.get("target").unwrap_or(&NONE);
    let path = at.child("target");
    let of_container = field == "containerResource";
    match text(source, "name") {
        "" => e.required(&at.child("name"), "must specify a resource name"),
        name if of_container => pod::resources::resource_name(name, &at.child("name"), e),
        _ => {}
    }
    match text(source, "container") {
        _ if !of_container => {}
        "" => e.required(&at.child("container"), "must specify a container"),
        name => e.invalid_each(&at.child("container"), name, names::dns1123_label(name)),
    }
    target(aim, &path, e);
    match (has(aim, "averageUtilization"), has(aim, "averageValue")) {
        (false, false) => {
            let why = "must set either a target raw value or a target utilization";
            e.required(&path.child("averageUtilization"), why);
        }
        (true, true) => e.forbidden(&path.child("averageValue"), "may not set both a target raw value and a target utilization"),
        _ => {}
    }
}

fn identifier(source: &Value, at: &At, e: &mut Errors) {
    let path = at.child("metric");
    let metric = source.get("metric").unwrap_or(&NONE);
    match text(metric, "name") {
        "" => e.required(&path.child("name"), "must specify a metric name"),
        name => e.invalid_each(&path.child("name"), name, names::path_segment(name)),
    }
}

fn is_positive(v: &Value) -> bool {
    Quantity::from_json(v).is_ok_and(|q| q > Quantity::ZERO)
}

fn target(target: &Value, at: &At, e: &mut Errors) {
    let kind = text(target, "type");
    if kind.is_empty() {
        e.required(&at.child("type"), "must specify a metric target type");
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        e.invalid(&at.child("type"), &kind.into(), "must be either Utilization, Value, or AverageValue");
    }
    for key in ["value", "averageValue"] {
        if let Some(v) = get(target, key).filter(|v| !is_positive(v)) {
            e.invalid(&at.child(key), v, "must be positive");
        }
    }
    if let Some(n) = int(target, "averageUtilization").filter(|n| *n < 1) {
        e.invalid(&at.child("averageUtilization"), &n.into(), "must be greater than 0");
    }
}

fn behavior(rules: &Value, at: &At, e: &mut Errors) {
    const WINDOW: i64 = 3600;
    match int(rules, "stabilizationWindowSeconds") {
        Some(n) if n < 0 => e.invalid(&at.child("stabilizationWindowSeconds"), &n.into(), "must be greater than or equal to zero"),
        Some(n) if n > WINDOW => {
            let why = format!("must be less than or equal to {WINDOW}");
            e.invalid(&at.child("stabilizationWindowSeconds"), &n.into(), &why);
        }
        _ => {}
    }
    check::choice_if_set(rules, "selectPolicy", &["Disabled", "Max", "Min"], at, e);
    let path = at.child("policies");
    if list(rules, "policies").is_empty() {
        e.required(&path, "must specify at least one Policy");
    }
    for (i, policy) in list(rules, "policies").iter().enumerate() {
        scaling_policy(policy, &path.index(i), e);
    }
    if let Some(tolerance) = get(rules, "tolerance") {
        check::non_negative_quantity(tolerance, &at.child("tolerance"), e);
    }
}

fn scaling_policy(policy: &Value, at: &At, e: &mut Errors) {
    const PERIOD: i64 = 1800;
    if !matches!(text(policy, "type"), "Percent" | "Pods") {
        e.not_supported(&at.child("type"), &text(policy, "type").into(), &["Percent", "Pods"]);
    }
    for key in ["value", "periodSeconds"] {
        let n = int(policy, key).unwrap_or_default();
        if n <= 0 {
            e.invalid(&at.child(key), &n.into(), "must be greater than zero");
        } else if key == "periodSeconds" && n > PERIOD {
            e.invalid(&at.child(key), &n.into(), &format!("must be less than or equal to {PERIOD}"));
        }
    }
}
