//! Behaviour of the built-in kinds, as clients meet it: what is filled in, what is refused and in which words.
#![allow(clippy::unwrap_used, missing_docs)]

mod devices;
mod endpoints;
mod fixtures;
mod networks;
mod pod_changes;
mod pod_rules;
mod pods;
mod policies;
mod rules;
mod storage;
mod storage_migration;
mod storage_version;
mod tables;
mod validation;
mod warnings;
mod workloads;

use ferrokube_api::field::Errors;
use ferrokube_api::kinds::{self, HookContext, Kind, meta};
use serde_json::{Value, json};

pub fn context() -> HookContext {
    HookContext { now: "2026-06-01T12:00:00Z".parse().unwrap() }
}

/// The row of a kind, whatever its group; the version is given where there are two.
pub fn row(kind: &str) -> &'static Kind {
    kinds::known().find(|k| k.kind == kind).unwrap()
}

/// `path: message` of every error.
pub fn lines(e: Errors) -> Vec<String> {
    e.into_causes().into_iter().map(|c| if c.field.is_empty() { c.message } else { format!("{}: {}", c.field, c.message) }).collect()
}

/// Runs the hooks of a create in their order.
pub fn create(kind: &Kind, object: &mut Value) -> Vec<String> {
    let hooks = &kind.hooks;
    if let Some(prepare) = hooks.prepare_create {
        prepare(object, &context());
    }
    if let Some(default) = hooks.default {
        default(object);
    }
    let mut e = Errors::default();
    meta::validate(kind, object, &mut e);
    if let Some(validate) = hooks.validate_create {
        validate(object, &mut e);
    }
    lines(e)
}

/// Runs the hooks of an update in their order.
pub fn update(kind: &Kind, new: &mut Value, old: &Value) -> Vec<String> {
    let hooks = &kind.hooks;
    if let Some(default) = hooks.default {
        default(new);
    }
    meta::fill_update(new, old);
    if let Some(prepare) = hooks.prepare_update {
        prepare(new, old, &context());
    }
    let mut e = Errors::default();
    meta::validate_update(new, old, &mut e);
    match (hooks.validate_update, hooks.validate_create) {
        (Some(validate), _) => validate(new, old, &mut e),
        (None, Some(validate)) => validate(new, &mut e),
        (None, None) => {}
    }
    lines(e)
}

/// An object with name, namespace and what the server sets.
pub fn object(kind: &str, rest: Value) -> Value {
    let row = row(kind);
    let mut o = json!({"apiVersion": row.api_version(), "kind": kind, "metadata": {"name": "a", "uid": "u1", "resourceVersion": "7"}});
    if row.namespaced() {
        o["metadata"]["namespace"] = "ns".into();
    }
    merge(&mut o, rest);
    o
}

pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.into_iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v));
        }
        (into, from) => *into = from,
    }
}
