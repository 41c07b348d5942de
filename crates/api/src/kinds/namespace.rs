//! Namespaces: the finalizer that empties them, and their phase.

use super::json::*;
use super::{HookContext, Hooks, View};
use crate::field::{At, Errors};
use crate::names;
use serde_json::{Map, Value, json};

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(default),
    prepare_create: Some(prepare_create),
    prepare_update: Some(prepare_update),
    validate_create: Some(validate),
    validate_status: Some(validate_status),
    validate_name: Some(names::dns1123_label),
    views: &[View { name: "finalize", prepare: prepare_finalize, validate: |new, _, e| finalizers(new, e) }],
    ..Hooks::NONE
};

fn default(o: &mut Value) {
    let name = text_at(o, &["metadata", "name"]).to_owned();
    if !name.is_empty() {
        set(object(object(o, "metadata"), "labels"), "kubernetes.io/metadata.name", name);
    }
    fill_text(object(o, "status"), "phase", "Active");
}

fn prepare_create(o: &mut Value, _: &HookContext) {
    set(o, "status", json!({"phase": "Active"}));
    let spec = object(o, "spec");
    fill(spec, "finalizers", Vec::<Value>::new());
    if let Some(list) = spec["finalizers"].as_array_mut().filter(|l| !l.iter().any(|f| f == "kubernetes")) {
        list.push("kubernetes".into());
    }
}

/// Finalizers change through their own view only.
fn prepare_update(new: &mut Value, old: &Value, _: &HookContext) {
    copy(object(new, "spec"), old.get("spec").unwrap_or(&NONE), "finalizers");
}

fn prepare_finalize(new: &mut Value, old: &Value, _: &HookContext) {
    let finalizers = at(new, &["spec", "finalizers"]).cloned();
    let metadata = new.get("metadata").cloned().unwrap_or(Value::Object(Map::new()));
    *new = old.clone();
    for key in ["resourceVersion", "managedFields"] {
        copy(object(new, "metadata"), &metadata, key);
    }
    let spec = object(new, "spec");
    match finalizers {
        Some(list) => set(spec, "finalizers", list),
        None => drop(remove(spec, "finalizers")),
    }
}

fn finalizers(o: &Value, e: &mut Errors) {
    let path = At::field("spec");
    let path = path.child("finalizers");
    for (i, name) in list_at(o, &["spec", "finalizers"]).iter().filter_map(Value::as_str).enumerate() {
        finalizer(name, &path.index(i), e);
    }
}

fn validate(o: &Value, e: &mut Errors) {
    let path = At::field("spec");
    let path = path.child("finalizers");
    list_at(o, &["spec", "finalizers"]).iter().filter_map(Value::as_str).for_each(|name| finalizer(name, &path, e));
}

fn finalizer(name: &str, path: &At, e: &mut Errors) {
    e.invalid_each(path, name, names::qualified_name(name));
    if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        e.invalid(path, &name.into(), "name is neither a standard finalizer name nor is it fully qualified");
    }
}

fn validate_status(new: &Value, _: &Value, e: &mut Errors) {
    let path = At::field("status");
    // With a capital letter, as upstream has it.
    let path = path.child("Phase");
    let phase = text_at(new, &["status", "phase"]);
    let deleted = at(new, &["metadata", "deletionTimestamp"]).is_some();
    if !deleted && phase != "Active" {
        e.invalid(&path, &phase.into(), "may only be 'Active' if `deletionTimestamp` is empty");
    } else if deleted && phase != "Terminating" {
        e.invalid(&path, &phase.into(), "may only be 'Terminating' if `deletionTimestamp` is not empty");
    }
}
