//! PersistentVolumeClaims: on their own, in stateful sets and in pods.

use super::json::*;
use super::{Hooks, check};
use crate::field::{At, Errors};
use crate::names;
use crate::quantity::Quantity;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(|o, _| set(o, "status", json!({"phase": "Pending"}))),
    validate_create: Some(claim),
    validate_update: Some(claim_update),
    validate_status: Some(|new, _, e| claim_status(new.get("status").unwrap_or(&NONE), e)),
    ..Hooks::NONE
};

/// Defaults of a claim, on its own or in a StatefulSet.
pub(super) fn default(o: &mut Value) {
    spec_defaults(object(o, "spec"));
    let status = object(o, "status");
    fill_text(status, "phase", "Pending");
    check::canonical_amounts(status, "capacity");
}

/// Defaults of a claim's spec, wherever it stands.
pub(super) fn spec_defaults(spec: &mut Value) {
    fill_text(spec, "volumeMode", "Filesystem");
    let resources = object(spec, "resources");
    check::canonical_amounts(resources, "requests");
    check::canonical_amounts(resources, "limits");
    // The old and the new way to name a source say the same, when they can.
    if let (Some(source), false) = (get(spec, "dataSource").cloned(), has(spec, "dataSourceRef")) {
        set(spec, "dataSourceRef", source);
    } else if let (Some(source), false) = (get(spec, "dataSourceRef").cloned(), has(spec, "dataSource"))
        && text(&source, "namespace").is_empty()
        && matches!(text(&source, "kind"), "PersistentVolumeClaim" | "VolumeSnapshot")
    {
        set(spec, "dataSource", source);
    }
}

/// Checks a claim's spec, wherever it stands.
pub(super) fn validate_spec(spec: &Value, path: &At, e: &mut Errors) {
    super::storage::access_modes(spec, path, "at least 1 access mode is required", e);
    if let Some(selector) = get(spec, "selector") {
        check::label_selector(selector, &path.child("selector"), e);
    }
    let resources = path.child("resources");
    let requests = resources.child("requests");
    match at(spec, &["resources", "requests", "storage"]) {
        None => e.required(&resources.key("storage"), ""),
        Some(amount) => {
            if Quantity::from_json(amount).is_ok_and(|q| q <= Quantity::ZERO) {
                e.invalid(&requests, &Quantity::from_json(amount).unwrap_or_default().to_string().into(), "must be greater than zero");
            }
        }
    }
    check::form(spec, "storageClassName", names::dns1123_subdomain, path, e);
    check::choice_if_set(spec, "volumeMode", &["Block", "Filesystem"], path, e);
    check::form(spec, "volumeAttributesClassName", names::dns1123_subdomain, path, e);
    for key in ["dataSource", "dataSourceRef"] {
        if let Some(source) = get(spec, key) {
            let at = path.child(key);
            check::required(source, "name", &at, e);
            check::required(source, "kind", &at, e);
            if text(source, "apiGroup").is_empty() && !matches!(text(source, "kind"), "" | "PersistentVolumeClaim") {
                let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
                e.invalid(&at, &text(source, "kind").into(), why);
            }
        }
    }
    same_sources(spec, path, e);
}

fn claim(o: &Value, e: &mut Errors) {
    validate_spec(spec(o), &SPEC, e);
}

fn claim_update(new: &Value, old: &Value, e: &mut Errors) {
    claim(new, e);
    let (now, was) = (spec(new), spec(old));
    let storage = |s: &Value| at(s, &["resources", "requests", "storage"]).and_then(|v| Quantity::from_json(v).ok());
    let bound = text_at(old, &["status", "phase"]) == "Bound";
    let mut munged = now.clone();
    if text(was, "volumeName").is_empty() {
        // Binding sets the volume, and with it the class.
        copy(&mut munged, was, "volumeName");
        if text(was, "storageClassName").is_empty() {
            copy(&mut munged, was, "storageClassName");
        }
    }
    if bound {
        copy(&mut munged, was, "resources");
        copy(&mut munged, was, "volumeAttributesClassName");
    }
    if !same(Some(&munged), Some(was)) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        return e.forbidden(&SPEC, why);
    }
    let capacity = at(old, &["status", "capacity", "storage"]).and_then(|v| Quantity::from_json(v).ok()).unwrap_or_default();
    if let (Some(n), Some(o)) = (storage(now), storage(was))
        && n < o
        && n <= capacity
    {
        let path = SPEC.child("resources");
        let path = path.child("requests");
        e.forbidden(&path.child("storage"), "field can not be less than status.capacity");
    }
}

fn claim_status(status: &Value, e: &mut Errors) {
    let path = At::field("status");
    for key in ["capacity", "allocatedResources"] {
        let list_path = path.child(key);
        for (name, amount) in entries(status, key) {
            check::non_negative_quantity(amount, &list_path.key(name), e);
        }
    }
    let list_path = path.child("allocatedResourceStatuses");
    for (name, _) in entries(status, "allocatedResourceStatuses").filter(|(name, _)| *name != "storage" && !name.contains('/')) {
        e.not_supported(&list_path, &name.into(), &["storage"]);
    }
}

/// The old and the new way to name a source say the same where both are there.
fn same_sources(spec: &Value, path: &At, e: &mut Errors) {
    let (Some(old), Some(new)) = (get(spec, "dataSource"), get(spec, "dataSourceRef")) else { return };
    if text(new, "namespace").is_empty() {
        for key in ["apiGroup", "kind", "name"] {
            if text(old, key) != text(new, key) {
                return e.invalid(path, &path.child("dataSource").to_string().into(), "must match dataSourceRef");
            }
        }
    } else {
        e.invalid(path, &path.child("dataSource").to_string().into(), "may not be specified when dataSourceRef.namespace is specified");
    }
}
