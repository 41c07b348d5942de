//! Migrations of a resource's objects to the storage version of now.
//!
//! Source: `pkg/apis/storagemigration/validation`, `pkg/registry/storagemigration`. Conditions: a migration cannot have succeeded and
//! failed, and what it came to is final. It may be told to run and to be over at once: 1.36's own controller ends one in two writes.

use super::json::*;
use super::{Hooks, check, common};
use crate::field::{At, Errors};
use crate::names;
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");
const STATUS: At<'static> = At::field("status");

pub(super) const MIGRATION: Hooks = Hooks {
    prepare_create: Some(common::reset_status),
    validate_create: Some(migration),
    validate_update: Some(update),
    validate_status: Some(status),
    ..Hooks::NONE
};

fn migration(o: &Value, e: &mut Errors) {
    let path = SPEC.child("resource");
    let (group, resource) = (text_at(o, &["spec", "resource", "group"]), text_at(o, &["spec", "resource", "resource"]));
    let joined = |path: At, value: &str, wrong: Vec<String>, e: &mut Errors| {
        if !wrong.is_empty() {
            e.invalid(&path, &value.into(), &wrong.join(","));
        }
    };
    if resource.is_empty() {
        e.required(&path.child("resource"), "resource is required to be set");
    } else {
        joined(path.child("resource"), resource, names::dns1035_label(resource), e);
    }
    if !group.is_empty() {
        joined(path.child("group"), group, names::dns1123_subdomain(group), e);
    }
}

fn update(new: &Value, old: &Value, e: &mut Errors) {
    migration(new, e);
    if !same(new.get("spec"), old.get("spec")) {
        e.invalid_shown(&SPEC, &shown(spec(new)), check::IMMUTABLE);
    }
}

/// A spec as upstream quotes it: the field of its own Go type.
fn shown(spec: &Value) -> String {
    let named = |key: &str| Value::from(text_at(spec, &["resource", key]));
    format!("{{\"Resource\":{{\"group\":{},\"resource\":{}}}}}", named("group"), named("resource"))
}

fn status(new: &Value, old: &Value, e: &mut Errors) {
    let (status, before) = (new.get("status").unwrap_or(&NONE), old.get("status").unwrap_or(&NONE));
    let path = STATUS.child("resourceVersion");
    let (version, was) = (text(status, "resourceVersion"), text(before, "resourceVersion"));
    if !version.is_empty() && !is_resource_version(version) {
        e.invalid(&path, &version.into(), &format!("resource version is not well formed: {version}"));
    }
    check::conditions(status, &STATUS, e);
    if !was.is_empty() && was != version {
        e.invalid(&path, &version.into(), check::IMMUTABLE);
    }
    let holds =
        |status: &Value, kind: &str| list(status, "conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == "True");
    let path = STATUS.child("conditions");
    let mut wrong = |why: &str| e.invalid(&path, &status["conditions"], why);
    if holds(status, "Succeeded") && holds(status, "Failed") {
        wrong("Both success and failed conditions cannot be true at the same time");
    }
    if holds(before, "Succeeded") && !holds(status, "Succeeded") {
        wrong("Success condition cannot be set to false once it is true");
    }
    if holds(before, "Failed") && !holds(status, "Failed") {
        wrong("Failed condition cannot be set to false once it is true");
    }
}

/// A whole number above zero, without leading zeros.
fn is_resource_version(text: &str) -> bool {
    !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
}
