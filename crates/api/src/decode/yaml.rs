//! YAML bodies: YAML 1.1 as Go's converter reads it, into the JSON value that it would have made.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::DuplicateKeyPolicy;
use std::fmt;

/// A parsed document.
pub(super) struct Document {
    pub(super) value: Value,
    /// The finding for a key that stands twice in one mapping.
    pub(super) duplicate: Option<String>,
}

/// Parses a document. The error is the text for the client.
pub(super) fn parse(bytes: &[u8]) -> Result<Document, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "yaml: invalid leading UTF-8 octet".to_owned())?;
    match read(text, DuplicateKeyPolicy::Error) {
        Ok(value) => Ok(Document { value, duplicate: None }),
        Err(error) => {
            let serde_saphyr::Error::DuplicateMappingKey { key, location } = error.without_snippet() else { return Err(shown(&error)) };
            let key = key.clone().unwrap_or_default();
            let duplicate = format!("yaml: unmarshal errors:\n  line {}: key {key:?} already set in map", location.line());
            let value = read(text, DuplicateKeyPolicy::LastWins).map_err(|e| shown(&e))?;
            Ok(Document { value, duplicate: Some(duplicate) })
        }
    }
}

fn read(text: &str, duplicates: DuplicateKeyPolicy) -> Result<Value, serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        duplicate_keys: duplicates,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Json>(text, options).map(|j| j.0)
}

fn shown(error: &serde_saphyr::Error) -> String {
    let inner = error.without_snippet();
    let message = inner.to_string();
    let line = inner.location().map_or(0, |l| l.line());
    let first = message.lines().next().unwrap_or_default();
    if line == 0 { format!("yaml: {first}") } else { format!("yaml: line {line}: {first}") }
}

/// A JSON value out of YAML: whole floats are integers, as after Go's way through JSON.
struct Json(Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(JsonVisitor).map(Json)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if value.fract() == 0.0 && value.abs() < EXACT {
            return Ok(Value::from(value as i64));
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("json: unsupported value"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<Value, D::Error> {
        source.deserialize_any(JsonVisitor)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Json(value)) = source.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Json(value))) = source.next_entry::<String, Json>()? {
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
