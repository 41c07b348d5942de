//! How objects are encoded at rest and towards clients: `kind`, `apiVersion`, `metadata`, then the rest by name.
//!
//! The order is what makes splicing possible: nothing that a user can write stands before `metadata`.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

struct Ordered<'a>(&'a Value);

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];
        let Value::Object(map) = self.0 else { return self.0.serialize(serializer) };
        let mut out = serializer.serialize_map(Some(map.len()))?;
        for key in FIRST {
            match map.get(key) {
                Some(Value::Object(meta)) if key == "metadata" => out.serialize_entry(key, &Versionless(meta))?,
                Some(value) => out.serialize_entry(key, value)?,
                None => {}
            }
        }
        for (key, value) in map.iter().filter(|(key, _)| !FIRST.contains(&key.as_str())) {
            out.serialize_entry(key, value)?;
        }
        out.end()
    }
}

/// `metadata` without the revision: the store gives it, and reading puts it in.
struct Versionless<'a>(&'a Map<String, Value>);

impl Serialize for Versionless<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().filter(|(key, _)| *key != "resourceVersion"))
    }
}

/// An object as it is stored. `metadata.resourceVersion` is left out.
pub fn encode(object: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    serde_json::to_writer(&mut out, &Ordered(object)).expect("a JSON value encodes");
    out
}
