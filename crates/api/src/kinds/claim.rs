//! PersistentVolumeClaims: on their own, in stateful sets and in pods.

use super::json::*;
use super::{Hooks, check, meta};
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
    warnings: Some(warnings),
    update_warnings: Some(|new, _| warnings(new)),
    ..Hooks::NONE
};

fn warnings(o: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if at(o, &["metadata", "annotations", CLASS]).is_some() {
        let why = "deprecated since v1.8; use \"storageClassName\" attribute instead";
        out.push(format!("metadata.annotations[{CLASS}]: {why}"));
    }
    spec_warnings(spec(o), &SPEC, &mut out);
    out
}

/// Warnings about the spec of a claim.
pub(super) fn spec_warnings(spec: &Value, path: &At, out: &mut Vec<String>) {
    let Some(resources) = get(spec, "resources") else { return };
    let path = path.child("resources");
    for key in ["requests", "limits"] {
        super::pod::warnings::fraction(resources.get(key).unwrap_or(&NONE), "storage", &path.child(key), out);
    }
}

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
    if list(spec, "accessModes").is_empty() {
        e.required(&path.child("accessModes"), "at least 1 access mode is required");
    }
    if let Some(selector) = get(spec, "selector") {
        check::label_selector(selector, &path.child("selector"), e);
    }
    super::storage::access_modes(spec, path, e);
    // The path leaves the requests out, as upstream has it.
    let storage = path.child("resources");
    let storage = storage.key("storage");
    match at(spec, &["resources", "requests", "storage"]) {
        None => e.required(&storage, ""),
        Some(amount) => {
            if let Some(q) = Quantity::from_json(amount).ok().filter(|q| *q <= Quantity::ZERO) {
                e.invalid(&storage, &q.to_string().into(), "must be greater than zero");
            }
        }
    }
    check::form(spec, "storageClassName", names::dns1123_subdomain, path, e);
    check::choice_if_set(spec, "volumeMode", &["Block", "Filesystem"], path, e);
    for key in ["dataSource", "dataSourceRef"] {
        if let Some(source) = get(spec, key) {
            data_source(source, &path.child(key), e);
        }
    }
    same_sources(spec, path, e);
    check::form(spec, "volumeAttributesClassName", names::dns1123_subdomain, path, e);
}

fn data_source(source: &Value, at: &At, e: &mut Errors) {
    check::required(source, "name", at, e);
    check::required(source, "kind", at, e);
    if text(source, "apiGroup").is_empty() && text(source, "kind") != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        e.invalid(at, &text(source, "kind").into(), why);
    }
    check::form(source, "apiGroup", names::dns1123_subdomain, at, e);
    check::form(source, "namespace", names::dns1123_label, at, e);
}

fn claim(o: &Value, e: &mut Errors) {
    validate_spec(spec(o), &SPEC, e);
}

/// The class as it was named before it had a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn claim_update(new: &Value, old: &Value, e: &mut Errors) {
    claim(new, e);
    let (now, was) = (spec(new), spec(old));
    let mut munged = now.clone();
    if text(was, "volumeName").is_empty() {
        // Binding sets the volume once.
        copy(&mut munged, was, "volumeName");
    }
    class_update(&mut munged, new, old, e);
    if text_at(new, &["status", "phase"]) == "Bound" {
        if let Some(requests) = at_mut(&mut munged, &["resources", "requests"]) {
            copy(requests, at(was, &["resources", "requests"]).unwrap_or(&NONE), "storage");
        }
        copy(&mut munged, was, "volumeAttributesClassName");
    }
    if !same(Some(&munged), Some(was)) {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        e.forbidden(&SPEC, why);
    }
    let storage = |s: &Value| at(s, &["resources", "requests", "storage"]).and_then(|v| Quantity::from_json(v).ok());
    let capacity = at(old, &["status", "capacity", "storage"]).and_then(|v| Quantity::from_json(v).ok()).unwrap_or_default();
    if let (Some(n), Some(o)) = (storage(now), storage(was))
        && n < o
        && n <= capacity
    {
        let path = SPEC.child("resources");
        let path = path.child("requests");
        e.forbidden(&path.child("storage"), "field can not be less than status.capacity");
    }
    // At the root, as upstream has it.
    meta::immutable_value(now.get("volumeMode"), was.get("volumeMode"), &At::field("volumeMode"), e);
    let class = |s: &Value| get(s, "volumeAttributesClassName").and_then(Value::as_str).map(str::to_owned);
    let applied = at(old, &["status", "currentVolumeAttributesClassName"]).is_some();
    let gone = match class(now).as_deref() {
        None => Some("nil"),
        Some("") => Some("empty string"),
        Some(_) => None,
    };
    if let Some(what) = gone.filter(|_| applied && class(now) != class(was)) {
        let why = format!("update to {what} is forbidden when status.currentVolumeAttributesClassName is not nil");
        e.forbidden(&SPEC.child("volumeAttributesClassName"), &why);
    }
}

/// A claim without a class may be given one, and what an annotation says may move into the field.
fn class_update(munged: &mut Value, new: &Value, old: &Value, e: &mut Errors) {
    let annotation = |o: &Value| at(o, &["metadata", "annotations", CLASS]).and_then(Value::as_str).map(str::to_owned);
    let (now, was) = (get(spec(new), "storageClassName"), get(spec(old), "storageClassName"));
    let (annotated, before) = (annotation(new), annotation(old));
    let moved = before.is_some()
        && was.is_none()
        && now.and_then(Value::as_str) == before.as_deref()
        && (annotated.is_none() || annotated == before);
    if !moved && annotated.clone().unwrap_or_default() != before.clone().unwrap_or_default() {
        let path = At::field("metadata");
        let path = path.child("annotations");
        e.invalid(&path.child(CLASS), &annotated.unwrap_or_default().into(), check::IMMUTABLE);
    }
    let given = now.is_some() && was.is_none() && before.as_deref().is_none_or(|b| now.and_then(Value::as_str) == Some(b));
    if moved || given {
        copy(munged, spec(old), "storageClassName");
    }
}

fn claim_status(status: &Value, e: &mut Errors) {
    const STEPS: [&str; 5] =
        ["ControllerResizeInProgress", "ControllerResizeInfeasible", "NodeResizePending", "NodeResizeInProgress", "NodeResizeInfeasible"];
    let path = At::field("status");
    let amounts = |key: &str, e: &mut Errors| {
        let path = path.child(key);
        for (name, amount) in entries(status, key) {
            if key == "allocatedResources" && !resource_key(name, &path, e) {
                continue;
            }
            check::basic_amount(amount, &path.key(name), e);
        }
    };
    amounts("capacity", e);
    // In the singular, as upstream has it.
    let list_path = path.child("allocatedResourceStatus");
    for (name, step) in entries(status, "allocatedResourceStatuses") {
        resource_key(name, &list_path, e);
        if !step.as_str().is_some_and(|s| STEPS.contains(&s)) {
            let mut sorted = STEPS;
            sorted.sort_unstable();
            e.not_supported(&list_path, &name.into(), &sorted);
        }
    }
    amounts("allocatedResources", e);
}

/// Of Kubernetes' own resources only storage is one of claims.
fn resource_key(name: &str, path: &At, e: &mut Errors) -> bool {
    let before = e.len();
    e.invalid_each(path, name, names::qualified_name(name));
    if e.len() == before && super::pod::resources::is_native(name) && name != "storage" {
        e.not_supported(path, &name.into(), &["storage"]);
    }
    e.len() == before
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
