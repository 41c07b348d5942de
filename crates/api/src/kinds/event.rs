//! Events in both groups. They are stored as the core kind; `events.k8s.io` shows the same facts by other names.

use super::Hooks;
use super::json::*;
use crate::field::{At, Errors};
use crate::names;
use serde_json::Value;

pub(super) const CORE: Hooks = Hooks { validate_create: Some(core), validate_name: Some(names::path_segment), ..Hooks::NONE };
pub(super) const EVENTS: Hooks = Hooks {
    validate_create: Some(events),
    validate_update: Some(events_update),
    validate_name: Some(names::path_segment),
    from_storage: Some(|o| rename(o, "events.k8s.io/v1", false)),
    to_storage: Some(|o| rename(o, "v1", true)),
    ..Hooks::NONE
};

/// The same field in `v1` and in `events.k8s.io/v1`.
const FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(o: &mut Value, api_version: &str, to_core: bool) {
    set(o, "apiVersion", api_version);
    for (core, events) in FIELDS {
        let (from, to) = if to_core { (events, core) } else { (core, events) };
        if let Some(value) = remove(o, from) {
            set(o, to, value);
        }
    }
}

fn core(o: &Value, e: &mut Errors) {
    let involved = o.get("involvedObject").unwrap_or(&Value::Null);
    same_namespace(o, text(involved, "namespace"), &At::field("involvedObject"), e);
}

/// Events of cluster-wide objects live in `default`, all others beside their object.
fn same_namespace(o: &Value, about: &str, path: &At, e: &mut Errors) {
    let own = text_at(o, &["metadata", "namespace"]);
    let fits = if about.is_empty() { matches!(own, "default" | "" | "kube-system") } else { own == about };
    if !fits {
        e.invalid(&path.child("namespace"), &about.into(), "does not match event.namespace");
    }
}

fn events(o: &Value, e: &mut Errors) {
    let regarding = o.get("regarding").unwrap_or(&Value::Null);
    same_namespace(o, text(regarding, "namespace"), &At::field("regarding"), e);
    if !has(o, "eventTime") {
        e.required(&At::field("eventTime"), "");
    }
    let controller = text(o, "reportingController");
    if controller.is_empty() {
        e.required(&At::field("reportingController"), "");
    }
    e.invalid_each(&At::field("reportingController"), controller, names::qualified_name(controller));
    for (key, max) in [("reportingInstance", 128), ("action", 128), ("reason", 128)] {
        let value = text(o, key);
        if value.is_empty() {
            e.required(&At::field(key), "");
        }
        if value.len() > max {
            e.invalid(&At::field(key), &"".into(), &format!("can have at most {max} characters"));
        }
    }
    if text(o, "note").len() > 1024 {
        e.invalid(&At::field("note"), &"".into(), "can have at most 1024 characters");
    }
    if !matches!(text(o, "type"), "Normal" | "Warning") {
        e.invalid(&At::field("type"), &"".into(), &format!("has invalid value: {}", text(o, "type")));
    }
}

/// Only the series of an event may change.
fn events_update(new: &Value, old: &Value, e: &mut Errors) {
    for key in ["regarding", "reason", "action", "related", "note", "type", "eventTime", "reportingController", "reportingInstance"] {
        if !same(new.get(key), old.get(key)) {
            e.invalid(&At::field(key), new.get(key).unwrap_or(&Value::Null), super::check::IMMUTABLE);
        }
    }
}
