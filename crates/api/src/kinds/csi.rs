//! What CSI drivers say about themselves: CSIDriver, CSINode, CSIStorageCapacity.

use super::json::*;
use super::{Hooks, check, meta, pod, warnings};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");

pub(super) const DRIVER: Hooks =
    Hooks { default: Some(default_driver), validate_create: Some(driver), validate_update: Some(driver_update), ..Hooks::NONE };
pub(super) const NODE: Hooks = Hooks { validate_create: Some(node), validate_update: Some(node_update), ..Hooks::NONE };
pub(super) const CAPACITY: Hooks = Hooks {
    default: Some(default_capacity),
    validate_create: Some(|o, e| capacity(o, true, e)),
    validate_update: Some(capacity_update),
    warnings: Some(warnings::capacity),
    update_warnings: Some(|new, _| warnings::capacity(new)),
    ..Hooks::NONE
};

fn default_driver(o: &mut Value) {
    let spec = object(o, "spec");
    fill(spec, "attachRequired", true);
    fill(spec, "podInfoOnMount", false);
    fill(spec, "storageCapacity", false);
    fill_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if list(spec, "volumeLifecycleModes").is_empty() {
        set(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }
    fill(spec, "requiresRepublish", false);
    fill(spec, "seLinuxMount", false);
}

fn driver(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    check::choice_if_set(spec, "fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], &SPEC, e);
    let path = SPEC.child("volumeLifecycleModes");
    token_requests(spec, e);
    for mode in texts(spec, "volumeLifecycleModes").filter(|m| !matches!(*m, "Ephemeral" | "Persistent")) {
        e.not_supported(&path, &mode.into(), &["Persistent", "Ephemeral"]);
    }
    if let Some(n) = int(spec, "nodeAllocatableUpdatePeriodSeconds").filter(|n| *n < 10) {
        e.invalid(&SPEC.child("nodeAllocatableUpdatePeriodSeconds"), &n.into(), "must be greater than or equal to 10 seconds");
    }
}

fn token_requests(spec: &Value, e: &mut Errors) {
    let path = SPEC.child("tokenRequests");
    let all = list(spec, "tokenRequests");
    for (i, request) in all.iter().enumerate() {
        let (at, audience) = (path.index(i), text(request, "audience"));
        if all[..i].iter().any(|r| text(r, "audience") == audience) {
            e.duplicate(&at.child("audience"), &audience.into());
            continue;
        }
        let seconds = at.child("expirationSeconds");
        match int(request, "expirationSeconds") {
            Some(n) if n < 600 => e.invalid(&seconds, &n.into(), "may not specify a duration less than 10 minutes"),
            Some(n) if n > 1 << 32 => e.invalid(&seconds, &n.into(), "may not specify a duration larger than 2^32 seconds"),
            _ => {}
        }
    }
}

/// Told twice, as upstream does.
fn driver_update(new: &Value, old: &Value, e: &mut Errors) {
    driver(new, e);
    driver(new, e);
    let (new, old) = (spec(new), spec(old));
    // The path is that of 1.36.
    meta::immutable_value(new.get("attachRequired"), old.get("attachRequired"), &SPEC.child("attachedRequired"), e);
    check::immutable(new, old, "volumeLifecycleModes", &SPEC, e);
}

fn node(o: &Value, e: &mut Errors) {
    const LONGEST_ID: usize = 256;
    let path = SPEC.child("drivers");
    let drivers = list(spec(o), "drivers");
    for (i, driver) in drivers.iter().enumerate() {
        let (at, name) = (path.index(i), text(driver, "name"));
        pod::volumes::driver_name(name, &at.child("name"), e);
        check::required(driver, "nodeID", &at, e);
        let id = text(driver, "nodeID");
        if id.len() > LONGEST_ID {
            e.invalid(&at.child("nodeID"), &id.into(), &format!("must be {LONGEST_ID} characters or less"));
        }
        if let Some(n) = at_count(driver).filter(|n| *n < 0) {
            e.invalid(&at.child("allocatable").child("count"), &n.into(), check::NEGATIVE);
        }
        if drivers[..i].iter().any(|d| text(d, "name") == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
        // Upstream tells of keys at the driver itself.
        let keys: Vec<&str> = texts(driver, "topologyKeys").collect();
        for (j, key) in keys.iter().enumerate() {
            if key.is_empty() {
                e.required(&at, "");
            }
            if keys[..j].contains(key) {
                e.duplicate(&at, &(*key).into());
            }
            e.invalid_each(&at, *key, names::qualified_name(key));
        }
    }
}

fn at_count(driver: &Value) -> Option<i64> {
    at(driver, &["allocatable", "count"]).and_then(Value::as_i64)
}

/// A driver that is there stays as it is, except for how many volumes the node takes.
fn node_update(new: &Value, old: &Value, e: &mut Errors) {
    // Told twice, as upstream does.
    node(new, e);
    node(new, e);
    let path = SPEC.child("drivers");
    let now = list(spec(new), "drivers");
    for twin in list(spec(old), "drivers") {
        for driver in now.iter().filter(|d| text(d, "name") == text(twin, "name")) {
            let mut munged = driver.clone();
            copy(&mut munged, twin, "allocatable");
            if !same(Some(&munged), Some(twin)) {
                // As upstream quotes it: the fields of its own Go type.
                let shown = format!(
                    "{{\"Name\":{},\"NodeID\":{},\"TopologyKeys\":{},\"Allocatable\":null}}",
                    json!(text(driver, "name")),
                    json!(text(driver, "nodeID")),
                    driver.get("topologyKeys").unwrap_or(&NONE)
                );
                e.invalid_shown(&path, &shown, check::IMMUTABLE);
            }
        }
    }
}

fn default_capacity(o: &mut Value) {
    for key in ["capacity", "maximumVolumeSize"] {
        if let Some(amount) = get_mut(o, key) {
            check::canonical_amount(amount);
        }
    }
}

fn capacity(o: &Value, strict_values: bool, e: &mut Errors) {
    if let Some(selector) = get(o, "nodeTopology") {
        check::label_selector_with(selector, strict_values, &At::field("nodeTopology"), e);
    }
    let class = text(o, "storageClassName");
    e.invalid_each(&At::field("storageClassName"), class, names::dns1123_subdomain(class));
    if let Some(amount) = get(o, "capacity") {
        check::non_negative_quantity(amount, &At::field("capacity"), e);
    }
}

fn capacity_update(new: &Value, old: &Value, e: &mut Errors) {
    // Where something is wrong with the old selector, values are let alone.
    let mut wrong = Errors::default();
    check::label_selector(old.get("nodeTopology").unwrap_or(&NONE), &At::field("nodeTopology"), &mut wrong);
    capacity(new, wrong.is_empty(), e);
    for key in ["nodeTopology", "storageClassName"] {
        check::immutable(new, old, key, &At::ROOT, e);
    }
}
