//! Nodes and RuntimeClasses.

use super::json::*;
use super::{Hooks, check, meta, pod, warnings};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Map, Value, json};

const SPEC: At<'static> = At::field("spec");

/// A kubelet registers its node with the status in place, so a new node keeps it.
pub(super) const HOOKS: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(super::common::keep_all),
    prepare_status: Some(|new, _, _| default(new)),
    validate_create: Some(validate),
    validate_update: Some(validate_update),
    validate_status: Some(changed),
    warnings: Some(warnings::node),
    update_warnings: Some(|new, _| warnings::node(new)),
    ..Hooks::NONE
};

pub(super) const RUNTIME_CLASS: Hooks = Hooks {
    default: Some(default_runtime_class),
    validate_create: Some(runtime_class),
    validate_update: Some(runtime_class_update),
    warnings: Some(warnings::runtime_class),
    update_warnings: Some(|new, _| warnings::runtime_class(new)),
    ..Hooks::NONE
};

fn default(o: &mut Value) {
    fill(o, "spec", Map::new());
    let Some(status) = get_mut(o, "status") else { return };
    check::canonical_amounts(status, "capacity");
    check::canonical_amounts(status, "allocatable");
    if let Some(capacity) = get(status, "capacity").cloned() {
        fill(status, "allocatable", capacity);
    }
}

fn amounts(o: &Value, e: &mut Errors) {
    let path = At::field("status");
    for key in ["capacity", "allocatable"] {
        let list = path.child(key);
        for (name, amount) in at(o, &["status"]).into_iter().flat_map(|s| entries(s, key)) {
            // The name is a step of the path here, as upstream has it.
            pod::resources::resource_amount(name, amount, &list.child(name), e);
        }
    }
}

fn validate(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    // Upstream tells of taints as if they stood in the metadata.
    pod::placement::taints(spec, &At::field("metadata"), e);
    amounts(o, e);
    declared_features(o, e);
    let path = SPEC.child("podCIDRs");
    let all: Vec<&str> = texts(spec, "podCIDRs").collect();
    for (i, range) in all.iter().enumerate() {
        e.invalid_each(&path.index(i), *range, names::cidr(range));
    }
    let families = |v4: bool| all.iter().filter(|r| names::parse_cidr(r).is_some_and(|c| c.0.is_ipv4() == v4)).count();
    if all.len() > 2 || families(true) > 1 || families(false) > 1 {
        e.invalid(&path, &spec["podCIDRs"], "may specify no more than one CIDR for each IP family");
    }
}

/// Names of features: sorted, each once, words of letters and digits that start with a capital.
fn declared_features(o: &Value, e: &mut Errors) {
    const LONGEST: usize = 253;
    let path = At::field("status");
    let path = path.child("declaredFeatures");
    let all: Vec<&str> = list_at(o, &["status", "declaredFeatures"]).iter().filter_map(Value::as_str).collect();
    for (i, name) in all.iter().enumerate() {
        if name.len() > LONGEST {
            let why = format!("invalid feature name {name:?}: must be no more than {LONGEST} characters");
            e.invalid(&path.index(i), &(*name).into(), &why);
        } else if !is_feature(name) {
            let why = format!(
                "invalid feature name {name:?}: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"
            );
            e.invalid(&path.index(i), &(*name).into(), &why);
        }
        match all.get(i + 1) {
            Some(next) if next == name => e.duplicate(&path.index(i + 1), &(*next).into()),
            Some(next) if name > next => e.invalid(&path.index(i + 1), &(*next).into(), "list must be sorted alphabetically"),
            _ => {}
        }
    }
}

fn is_feature(name: &str) -> bool {
    let word = |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric());
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.split('/').all(word)
}

fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    validate(new, e);
    changed(new, old, e);
}

/// What holds of every change, of the status too (`ValidateNodeUpdate`).
fn changed(new: &Value, old: &Value, e: &mut Errors) {
    amounts(new, e);
    declared_features(new, e);
    let path = At::field("status");
    let path = path.child("addresses");
    let addresses = list_at(new, &["status", "addresses"]);
    for (i, address) in addresses.iter().enumerate().filter(|(i, a)| addresses[..*i].contains(a)) {
        let shown = format!("{{\"Type\":{},\"Address\":{}}}", json!(text(address, "type")), json!(text(address, "address")));
        e.duplicate_shown(&path.index(i), &shown);
    }
    let (now, was) = (spec(new), spec(old));
    let (ranges, before) = (list(now, "podCIDRs"), list(was, "podCIDRs"));
    if !before.is_empty() {
        let moved = if ranges.len() == before.len() { before.iter().zip(ranges).filter(|(a, b)| a != b).count() } else { 1 };
        (0..moved).for_each(|_| e.forbidden(&SPEC.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"));
    }
    let provider = text(was, "providerID");
    if !provider.is_empty() && text(now, "providerID") != provider {
        e.forbidden(&SPEC.child("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
    pod::placement::taints(now, &At::field("metadata"), e);
    if text(now, "externalID") != text(was, "externalID") {
        e.forbidden(&SPEC.child("externalID"), "may not be updated");
    }
}

fn default_runtime_class(o: &mut Value) {
    if let Some(overhead) = get_mut(o, "overhead") {
        check::canonical_amounts(overhead, "podFixed");
    }
}

fn runtime_class(o: &Value, e: &mut Errors) {
    let handler = text(o, "handler");
    e.invalid_each(&At::field("handler"), handler, names::dns1123_label(handler));
    if let Some(overhead) = at(o, &["overhead", "podFixed"]) {
        let path = At::field("overhead");
        pod::resources::validate(&json!({ "limits": overhead }), &[], &path.child("podFixed"), e);
    }
    if let Some(scheduling) = get(o, "scheduling") {
        let path = At::field("scheduling");
        check::labels(scheduling, "nodeSelector", &path, e);
        pod::placement::tolerations(scheduling, "tolerations", &path, e);
    }
}

fn runtime_class_update(new: &Value, old: &Value, e: &mut Errors) {
    runtime_class(new, e);
    meta::immutable_value(new.get("handler"), old.get("handler"), &At::field("handler"), e);
}
