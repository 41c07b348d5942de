//! Nodes and RuntimeClasses.

use super::json::*;
use super::{Hooks, check, meta, pod};
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
    validate_status: Some(|new, _, e| amounts(new, e)),
    ..Hooks::NONE
};

pub(super) const RUNTIME_CLASS: Hooks = Hooks {
    default: Some(default_runtime_class),
    validate_create: Some(runtime_class),
    validate_update: Some(runtime_class_update),
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
            pod::resources::resource_amount(name, amount, &list.key(name), e);
        }
    }
}

fn validate(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    pod::placement::taints(spec, &SPEC, e);
    amounts(o, e);
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

fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    validate(new, e);
    let (new, old) = (new.get("spec").unwrap_or(&NONE), old.get("spec").unwrap_or(&NONE));
    if !list(old, "podCIDRs").is_empty() && !same(new.get("podCIDRs"), old.get("podCIDRs")) {
        e.forbidden(&SPEC.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    let provider = text(old, "providerID");
    if !provider.is_empty() && text(new, "providerID") != provider {
        e.forbidden(&SPEC.child("providerID"), "node updates may not change providerID except from \"\" to valid");
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
