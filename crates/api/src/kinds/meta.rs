//! `metadata`, the same for every kind: what a new object's must look like and what a change may not touch.
//!
//! Source of the rules: apimachinery `api/validation` (`ValidateObjectMeta`, `ValidateObjectMetaUpdate`).

use super::Kind;
use super::check::{self, IMMUTABLE, NEGATIVE};
use super::json::*;
use crate::field::{At, Errors};
use crate::names;
use serde_json::Value;

/// Annotations of an object may not be larger than this, keys and values together (bytes).
pub const ANNOTATIONS_MAX: usize = 256 << 10;
const META: At<'static> = At::field("metadata");

fn meta(object: &Value) -> &Value {
    object.get("metadata").unwrap_or(&NONE)
}

/// Checks the metadata of a new object, whose name is already generated.
pub fn validate(kind: &Kind, object: &Value, e: &mut Errors) {
    let check = kind.hooks.validate_name.unwrap_or(names::dns1123_subdomain);
    named(meta(object), kind.namespaced(), check, &META, e);
    finalizers(meta(object), &kind.group, &META, e);
}

/// Checks metadata that stands elsewhere than at the root.
pub fn validate_with(m: &Value, namespaced: bool, name_form: fn(&str) -> Vec<String>, path: &At, e: &mut Errors) {
    named(m, namespaced, name_form, path, e);
    finalizers(m, "", path, e);
}

fn named(m: &Value, namespaced: bool, name_form: fn(&str) -> Vec<String>, path: &At, e: &mut Errors) {
    let prefix = text(m, "generateName");
    if !prefix.is_empty() {
        e.invalid_each(&path.child("generateName"), prefix, name_form(&names::mask_trailing_dash(prefix)));
    }
    match text(m, "name") {
        "" => e.required(&path.child("name"), "name or generateName is required"),
        name => e.invalid_each(&path.child("name"), name, name_form(name)),
    }
    match (namespaced, text(m, "namespace")) {
        (true, "") => e.required(&path.child("namespace"), ""),
        (true, ns) => e.invalid_each(&path.child("namespace"), ns, names::dns1123_label(ns)),
        (false, "") => {}
        (false, _) => e.forbidden(&path.child("namespace"), "not allowed on this type"),
    }
    if let Some(n) = int(m, "generation").filter(|n| *n < 0) {
        e.invalid(&path.child("generation"), &n.into(), NEGATIVE);
    }
    common(m, path, e);
}

fn common(m: &Value, path: &At, e: &mut Errors) {
    check::labels(m, "labels", path, e);
    annotations(m, path, e);
    owners(m, path, e);
    managed_fields(m, path, e);
}

/// The annotations of metadata.
pub fn annotations(m: &Value, path: &At, e: &mut Errors) {
    let mut size = 0;
    for (key, value) in entries(m, "annotations") {
        size += key.len() + value.as_str().map_or(0, str::len);
        if key.bytes().any(|b| b.is_ascii_uppercase()) {
            e.invalid_each(&path.child("annotations"), key, names::qualified_name(&key.to_ascii_lowercase()));
        } else {
            e.invalid_each(&path.child("annotations"), key, names::qualified_name(key));
        }
    }
    if size > ANNOTATIONS_MAX {
        e.too_long(&path.child("annotations"), ANNOTATIONS_MAX);
    }
}

fn owners(m: &Value, path: &At, e: &mut Errors) {
    let path = path.child("ownerReferences");
    let mut controller: Option<String> = None;
    for owner in list(m, "ownerReferences") {
        let version = text(owner, "apiVersion").rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            e.invalid(&path.child("apiVersion"), &text(owner, "apiVersion").into(), "version must not be empty");
        }
        for key in ["kind", "name", "uid"] {
            if text(owner, key).is_empty() {
                e.invalid(&path.child(key), &"".into(), "must not be empty");
            }
        }
        if text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Event" {
            e.invalid(&path, owner, "/v1, Kind=Event is disallowed from being an owner");
        }
        if flag(owner, "controller") {
            let shown = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
            if let Some(first) = &controller {
                let why =
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {shown}");
                e.invalid(&path, &m["ownerReferences"], &why);
            }
            controller.get_or_insert(shown);
        }
    }
}

/// Whether finalizers of a group's objects may have any qualified name: those of what extends the API, and of custom resources.
fn any_finalizer(group: &str) -> bool {
    matches!(group, "apiextensions.k8s.io" | "apiregistration.k8s.io") || super::known().all(|k| k.group != group)
}

fn finalizers(m: &Value, group: &str, path: &At, e: &mut Errors) {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let path = path.child("finalizers");
    for (i, name) in texts(m, "finalizers").enumerate() {
        e.invalid_each(&path, name, names::qualified_name(name));
        if !name.contains('/') && !STANDARD.contains(&name) && !any_finalizer(group) {
            e.invalid(&path.index(i), &name.into(), "name is neither a standard finalizer name nor is it fully qualified");
        }
    }
    let has = |wanted: &str| texts(m, "finalizers").any(|f| f == wanted);
    if has("orphan") && has("foregroundDeletion") {
        e.invalid(&path, &m["finalizers"], "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

fn managed_fields(m: &Value, path: &At, e: &mut Errors) {
    let path = path.child("managedFields");
    for (i, entry) in list(m, "managedFields").iter().enumerate() {
        let at = path.index(i);
        let operation = text(entry, "operation");
        if !matches!(operation, "Apply" | "Update") {
            e.invalid(&at.child("operation"), &operation.into(), "must be `Apply` or `Update`");
        }
        let fields = text(entry, "fieldsType");
        if !fields.is_empty() && fields != "FieldsV1" {
            e.invalid(&at.child("fieldsType"), &fields.into(), "must be `FieldsV1`");
        }
        if text(entry, "manager").len() > 128 {
            e.too_long(&at.child("manager"), 128);
        }
        if text(entry, "subresource").len() > 256 {
            e.too_long(&at.child("subresource"), 256);
        }
    }
}

/// Puts what a client may leave out of an update, and what it cannot touch once it is set, into the new object. What it says of the
/// rest must be true, which [`validate_update`] looks at.
pub fn fill_update(new: &mut Value, old: &Value) {
    let old = meta(old);
    let new = object(new, "metadata");
    copy(new, old, "creationTimestamp");
    if text(new, "uid").is_empty() {
        copy(new, old, "uid");
    }
    if has(old, "deletionTimestamp") {
        copy(new, old, "deletionTimestamp");
    }
    if has(old, "deletionGracePeriodSeconds") && !has(new, "deletionGracePeriodSeconds") {
        copy(new, old, "deletionGracePeriodSeconds");
    }
}

/// Checks the metadata of a changed object against what is stored.
pub fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    let group = text(new, "apiVersion").split_once('/').map_or("", |(group, _)| group);
    let (new, old) = (meta(new), meta(old));
    if has(old, "deletionTimestamp") {
        no_new_finalizers(new, old, e);
    }
    if text(new, "resourceVersion").is_empty() {
        e.invalid(&META.child("resourceVersion"), &"".into(), "must be specified for an update");
    }
    let generation = |m: &Value| int(m, "generation").unwrap_or_default();
    if generation(new) < generation(old) {
        e.invalid(&META.child("generation"), &generation(new).into(), "must not be decremented");
    }
    for key in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        check::immutable(new, old, key, &META, e);
    }
    common(new, &META, e);
    finalizers(new, group, &META, e);
}

fn no_new_finalizers(new: &Value, old: &Value, e: &mut Errors) {
    let known = |name: &str| texts(old, "finalizers").any(|f| f == name);
    let mut added: Vec<&str> = texts(new, "finalizers").filter(|f| !known(f)).collect();
    if added.is_empty() {
        return;
    }
    added.sort_unstable();
    let list = added.iter().map(|f| format!("{f:?}")).collect::<Vec<_>>().join(", ");
    let why = format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}");
    e.forbidden(&META.child("finalizers"), &why);
}

/// The metadata of what another object is a template for (`ValidateTemplateObjectMeta`): labels, annotations and nothing else.
pub fn template(metadata: &Value, path: &At, e: &mut Errors) {
    annotations(metadata, path, e);
    check::labels(metadata, "labels", path, e);
    let others = metadata.as_object().into_iter().flatten().filter(|(key, _)| !matches!(key.as_str(), "annotations" | "labels"));
    for (key, _) in others.filter(|(_, value)| !same(Some(value), None)) {
        // The name of the field in Go, its first letter small.
        e.forbidden(&path.child(if key == "uid" { "uID" } else { key }), "cannot be set");
    }
}

/// A field that must not change, for rules of kinds.
pub fn immutable_value(new: Option<&Value>, old: Option<&Value>, path: &At, e: &mut Errors) {
    if !same(new, old) {
        e.invalid(path, new.unwrap_or(&NONE), IMMUTABLE);
    }
}
