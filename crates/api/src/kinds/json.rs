//! Short words for reading and filling decoded objects.
//!
//! Types were checked by the type table before, so a value of another type reads as absent; nothing here fails.

use serde_json::{Map, Value};

/// What an absent part of an object reads as.
pub const NONE: Value = Value::Null;

/// The `spec` of an object.
pub fn spec(object: &Value) -> &Value {
    object.get("spec").unwrap_or(&NONE)
}

/// The value of a field, unless it is absent or null.
pub fn get<'a>(v: &'a Value, key: &str) -> Option<&'a Value> {
    v.get(key).filter(|v| !v.is_null())
}

/// Whether a field is there and not null.
pub fn has(v: &Value, key: &str) -> bool {
    get(v, key).is_some()
}

/// The value at a path of fields.
pub fn at<'a>(v: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(v, |v, key| get(v, key))
}

/// A text; empty when absent.
pub fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A text at a path; empty when absent.
pub fn text_at<'a>(v: &'a Value, path: &[&str]) -> &'a str {
    at(v, path).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number.
pub fn int(v: &Value, key: &str) -> Option<i64> {
    v.get(key).and_then(Value::as_i64)
}

/// A whole number at a path; zero when absent.
pub fn int_at(v: &Value, path: &[&str]) -> i64 {
    at(v, path).and_then(Value::as_i64).unwrap_or_default()
}

/// A truth value; false when absent.
pub fn flag(v: &Value, key: &str) -> bool {
    v.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// A list; empty when absent.
pub fn list<'a>(v: &'a Value, key: &str) -> &'a [Value] {
    v.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A list at a path; empty when absent.
pub fn list_at<'a>(v: &'a Value, path: &[&str]) -> &'a [Value] {
    at(v, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of a map; none when absent.
pub fn entries<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    v.get(key).and_then(Value::as_object).into_iter().flatten().map(|(k, v)| (k.as_str(), v))
}

/// Texts of a list.
pub fn texts<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    list(v, key).iter().filter_map(Value::as_str)
}

/// A field to be changed, unless it is absent or null.
pub fn get_mut<'a>(v: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    v.get_mut(key).filter(|v| !v.is_null())
}

/// A value at a path, to be changed.
pub fn at_mut<'a>(v: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(v, |v, key| get_mut(v, key))
}

/// The elements of a list, to be changed.
pub fn each_mut<'a>(v: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    v.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a field of an object.
pub fn set(v: &mut Value, key: &str, value: impl Into<Value>) {
    if let Value::Object(map) = v {
        map.insert(key.to_owned(), value.into());
    }
}

/// Removes a field.
pub fn remove(v: &mut Value, key: &str) -> Option<Value> {
    v.as_object_mut()?.remove(key)
}

/// Sets a field that is absent or null.
pub fn fill(v: &mut Value, key: &str, value: impl Into<Value>) {
    if !has(v, key) {
        set(v, key, value);
    }
}

/// Sets a text that is absent or empty.
pub fn fill_text(v: &mut Value, key: &str, value: &str) {
    if text(v, key).is_empty() {
        set(v, key, value);
    }
}

/// Sets a number that is absent or zero.
pub fn fill_int(v: &mut Value, key: &str, value: i64) {
    if int(v, key).unwrap_or_default() == 0 {
        set(v, key, value);
    }
}

/// The object in a field, made when absent.
pub fn object<'a>(v: &'a mut Value, key: &str) -> &'a mut Value {
    fill(v, key, Map::new());
    &mut v[key]
}

/// Copies a field from another object, removing it when the other has none.
pub fn copy(to: &mut Value, from: &Value, key: &str) {
    match from.get(key) {
        Some(value) => set(to, key, value.clone()),
        None => drop(remove(to, key)),
    }
}

/// Whether a value says nothing: null, or an empty text, list or map.
fn says_nothing(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// Equality of `apiequality.Semantic`: absent, null and empty are the same.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a.filter(|v| !says_nothing(v)), b.filter(|v| !says_nothing(v))) {
        (None, None) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(k, v)| same(Some(v), b.get(k))) && b.iter().all(|(k, v)| a.contains_key(k) || says_nothing(v))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b))),
        (Some(a), Some(b)) => a == b,
        _ => false,
    }
}
