//! `metadata.managedFields`: who set what, when, through which view.

use super::set::Set;
use serde_json::{Map, Value, json};

/// More update entries than this are merged, oldest first, into one per API version.
const MOST_UPDATERS: usize = 10;
/// The manager that old updates are merged into.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    pub(super) subresource: String,
    pub(super) set: Set,
}

impl Entry {
    /// Whether two entries belong to the same manager: appliers are one across versions.
    pub(super) fn is_same_manager(&self, other: &Entry) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    /// As conflicts name it: `"kubectl" with subresource "status" using apps/v1`.
    pub(super) fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }

    fn read(value: &Value) -> Option<Entry> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Entry {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            time: value.get("time").and_then(Value::as_str).map(str::to_owned),
            subresource: text("subresource"),
            set: value.get("fieldsV1").map(Set::from_fields_v1).map(|s| Set { member: false, ..s }).unwrap_or_default(),
        })
    }

    fn write(&self) -> Value {
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let mut entry = json!({
            "manager": self.manager, "operation": operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.set.to_fields_v1(),
        });
        for (key, value) in [("time", self.time.as_deref().unwrap_or_default()), ("subresource", &self.subresource)] {
            if !value.is_empty() {
                entry[key] = Value::from(value);
            }
        }
        entry
    }
}

/// `metadata.managedFields` of an object.
pub(super) fn raw(object: &Value) -> &[Value] {
    object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether the client asks to forget all managers: one entry that says nothing.
pub(super) fn is_reset(object: &Value) -> bool {
    let says_nothing = |m: &Map<String, Value>| m.values().all(|v| v.is_null() || v.as_str() == Some(""));
    matches!(raw(object), [Value::Object(entry)] if says_nothing(entry))
}

/// The entries, or `None` when one cannot be read.
pub(super) fn read(object: &Value) -> Option<Vec<Entry>> {
    raw(object).iter().map(Entry::read).collect()
}

/// Takes `metadata.managedFields` off the object.
pub(super) fn strip(object: &mut Value) {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("managedFields");
    }
}

/// Writes the entries into the object, in the order of the API.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    if entries.is_empty() {
        return strip(object);
    }
    entries.sort_by(|a, b| {
        let order =
            |e: &Entry| (e.operation, e.time.clone().unwrap_or_default(), e.manager.clone(), e.api_version.clone(), e.subresource.clone());
        order(a).cmp(&order(b))
    });
    let Value::Object(object) = object else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    metadata["managedFields"] = Value::Array(entries.iter().map(Entry::write).collect());
}

/// Merges the oldest update entries until few enough are left.
pub(super) fn cap(entries: &mut Vec<Entry>) {
    let updaters = |entries: &[Entry]| entries.iter().filter(|e| e.operation == Operation::Update).count();
    if updaters(entries) <= MOST_UPDATERS {
        return;
    }
    let mut oldest: Vec<Entry> = entries.extract_if(.., |e| e.operation == Operation::Update).collect();
    oldest.sort_by(|a, b| (&a.time, &a.manager).cmp(&(&b.time, &b.manager)));
    let mut excess = oldest.len() - MOST_UPDATERS;
    let mut kept: Vec<Entry> = Vec::with_capacity(MOST_UPDATERS);
    for entry in oldest {
        match kept.iter_mut().find(|k| k.api_version == entry.api_version) {
            // The first of a version becomes the bucket of those that follow it.
            Some(bucket) if excess > 0 => {
                bucket.manager = ANCIENT.to_owned();
                bucket.subresource.clear();
                bucket.set.unite(&entry.set);
                bucket.time = entry.time;
                excess -= 1;
            }
            _ => kept.push(entry),
        }
    }
    entries.append(&mut kept);
}
