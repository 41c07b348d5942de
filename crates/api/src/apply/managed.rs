//! `metadata.managedFields`: who set what, when, through which view.

use super::fields::Fields;
use serde_json::{Map, Value};

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
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) manager: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
    pub(super) subresource: String,
    pub(super) fields: Fields,
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

    fn read(value: Value) -> Option<Entry> {
        let Value::Object(mut value) = value else { return None };
        let mut text = |key: &str| if let Some(Value::String(text)) = value.remove(key) { Some(text) } else { None };
        let operation = match text("operation").as_deref() {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return None,
        };
        Some(Entry {
            manager: text("manager").unwrap_or_default(),
            operation,
            api_version: text("apiVersion").unwrap_or_default(),
            time: text("time"),
            subresource: text("subresource").unwrap_or_default(),
            fields: value.remove("fieldsV1").map(Fields::read).unwrap_or_default(),
        })
    }

    fn write(self) -> Value {
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let texts = [
            ("manager", Some(self.manager)),
            ("operation", Some(operation.to_owned())),
            ("apiVersion", Some(self.api_version)),
            ("fieldsType", Some("FieldsV1".to_owned())),
            ("time", self.time.filter(|t| !t.is_empty())),
            ("subresource", Some(self.subresource).filter(|s| !s.is_empty())),
        ];
        let texts = texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), Value::String(text?))));
        Value::Object(texts.chain([("fieldsV1".to_owned(), self.fields.write())]).collect())
    }
}

/// `metadata.managedFields` of an object.
pub(super) fn raw(object: &Value) -> &[Value] {
    object.get("metadata").and_then(|m| m.get("managedFields")).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Whether the client asks to forget all managers: one entry that says nothing.
pub(super) fn is_reset(raw: &[Value]) -> bool {
    let says_nothing = |m: &Map<String, Value>| m.values().all(|v| v.is_null() || v.as_str() == Some(""));
    matches!(raw, [Value::Object(entry)] if says_nothing(entry))
}

/// The entries, or `None` when one cannot be read.
pub(super) fn read(raw: Vec<Value>) -> Option<Vec<Entry>> {
    raw.into_iter().map(Entry::read).collect()
}

/// Takes `metadata.managedFields` off the object.
pub(super) fn take(object: &mut Value) -> Vec<Value> {
    match object.get_mut("metadata").and_then(Value::as_object_mut).and_then(|metadata| metadata.remove("managedFields")) {
        Some(Value::Array(raw)) => raw,
        _ => Vec::new(),
    }
}

/// Writes the entries into the object, in the order of the API.
pub(super) fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.fields.is_empty());
    if entries.is_empty() {
        return drop(take(object));
    }
    fn order(e: &Entry) -> impl Ord {
        (e.operation, e.time.as_deref().unwrap_or_default(), &e.manager, &e.api_version, &e.subresource)
    }
    entries.sort_by(|a, b| order(a).cmp(&order(b)));
    let Value::Object(object) = object else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    metadata["managedFields"] = Value::Array(entries.into_iter().map(Entry::write).collect());
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
                bucket.fields.unite(&entry.fields.set());
                bucket.time = entry.time;
                excess -= 1;
            }
            _ => kept.push(entry),
        }
    }
    entries.append(&mut kept);
}
