//! The metadata that the server owns, and what each view may change: `rest.BeforeCreate`, `rest.BeforeUpdate` and the
//! generic half of every strategy.

use super::rules::{self, View};
use crate::registry::Entry;
use ferrokube_api::time;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// Length of a generated suffix, and what it is made of (no vowels: no words).
const SUFFIX: usize = 5;
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Names generated are at most this long.
const GENERATED_MAX: usize = 63;

/// `metadata`, made when missing.
pub fn meta(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let map = object.as_object_mut().expect("made an object above");
    let meta = map.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if !meta.is_object() {
        *meta = Value::Object(Map::new());
    }
    meta.as_object_mut().expect("made an object above")
}

/// A text of `metadata`; empty when absent.
pub fn text<'v>(object: &'v Value, key: &str) -> &'v str {
    object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// A name from a prefix.
pub fn generated(prefix: &str) -> String {
    let mut cut = prefix.len().min(GENERATED_MAX - SUFFIX);
    while !prefix.is_char_boundary(cut) {
        cut -= 1;
    }
    let mut name = prefix[..cut].to_owned();
    name.extend((0..SUFFIX).map(|_| ALPHABET[rand::random_range(0..ALPHABET.len())] as char));
    name
}

fn drop_empty(meta: &mut Map<String, Value>) {
    meta.retain(|key, value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty() || key == "managedFields",
        Value::Number(n) => key != "generation" || n.as_i64() != Some(0),
        Value::Bool(_) => true,
    });
}

/// Sets what a client cannot choose on a new object.
pub fn create(entry: &Entry, object: &mut Value, now: Timestamp) {
    let generation = rules::has_generation(entry);
    let custom_status = entry.custom.is_some() && entry.behaviour("status").is_some();
    let meta = meta(object);
    for key in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"] {
        meta.remove(key);
    }
    meta.insert("uid".into(), Value::from(uuid::Uuid::new_v4().to_string()));
    meta.insert("creationTimestamp".into(), Value::from(time::format_time(now)));
    if generation {
        meta.insert("generation".into(), Value::from(1));
    }
    drop_empty(meta);
    if custom_status && let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
}

fn keep(new: &mut Map<String, Value>, old: &Map<String, Value>, key: &str) {
    match old.get(key) {
        Some(value) => _ = new.insert(key.to_owned(), value.clone()),
        None => _ = new.remove(key),
    }
}

/// Sets what a client cannot change, and limits the change to the view.
pub fn update(entry: &Entry, new: &mut Value, old: &Value, view: View) {
    let empty = Map::new();
    let before = old.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    ferrokube_api::kinds::meta::fill_update(new, old);
    let meta = meta(new);
    keep(meta, before, "generation");
    meta.remove("selfLink");
    meta.remove("resourceVersion");
    drop_empty(meta);
    match view {
        View::Main => {
            if entry.behaviour("status").is_some() {
                restore(new, old, "status");
            }
        }
        View::Status => status(entry, new, old, before),
        // Built from the old object, or limited to its part by the view's own hook.
        _ => {}
    }
}

fn restore(new: &mut Value, old: &Value, key: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => _ = map.insert(key.to_owned(), value.clone()),
        None => _ = map.remove(key),
    }
}

fn status(entry: &Entry, new: &mut Value, old: &Value, before: &Map<String, Value>) {
    let keys: Vec<String> = [&*new, old].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys().cloned()).collect();
    for key in keys.iter().filter(|k| !matches!(k.as_str(), "status" | "metadata" | "kind" | "apiVersion")) {
        restore(new, old, key);
    }
    let meta = meta(new);
    if entry.custom.is_some() {
        let managed = meta.remove("managedFields");
        *meta = before.clone();
        meta.remove("resourceVersion");
        meta.extend(managed.map(|m| ("managedFields".to_owned(), m)));
        return;
    }
    rules::status_keeps(entry).iter().for_each(|key| keep(meta, before, key));
}

/// Counts the generation up when anything outside `metadata` and `status` changed.
pub fn count_generation(entry: &Entry, new: &mut Value, old: &Value, view: View) {
    // A binding goes around the strategy upstream: it places a pod without counting.
    if matches!(view, View::Status | View::Binding) || !rules::has_generation(entry) {
        return;
    }
    let status_counts = entry.behaviour("status").is_none();
    let relevant = |key: &str| !matches!(key, "metadata" | "kind" | "apiVersion") && (status_counts || key != "status");
    let (Some(new_map), Some(old_map)) = (new.as_object(), old.as_object()) else { return };
    let changed = new_map.iter().any(|(k, v)| relevant(k) && old_map.get(k) != Some(v))
        || old_map.keys().any(|k| relevant(k) && !new_map.contains_key(k));
    let before = old["metadata"]["generation"].as_i64().unwrap_or(0);
    // A hook may have counted already (deletion, strategies of its own).
    if changed && new["metadata"]["generation"].as_i64().unwrap_or(0) <= before {
        meta(new).insert("generation".into(), Value::from(before + 1));
    }
}
