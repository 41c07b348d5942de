//! How values of a type merge: as a leaf, field by field, or element by element. Structured merge by the type table.

use super::set::field;
use crate::schema::{Absent, ListType, Shape, Text, TypeRef};
use serde_json::{Map, Value};

/// A type, or none below a place whose fields nobody declared.
pub(super) type Type<'s> = Option<TypeRef<'s>>;

/// How a value merges.
#[derive(Clone, Copy, Debug)]
pub(super) enum Merge<'s> {
    /// As a whole.
    Leaf,
    /// Key by key.
    Fields,
    /// Element by element, each told apart by its value.
    Set,
    /// Element by element, each told apart by these fields.
    Keyed(&'s [Text]),
}

/// How a value of that type merges.
pub(super) fn merge_of<'s>(ty: Type<'s>, value: &Value) -> Merge<'s> {
    match value {
        Value::Object(_) => match ty {
            Some(ty) if ty.node().is_atomic_map() => Merge::Leaf,
            Some(ty) if matches!(ty.shape(), Shape::Struct(..) | Shape::Map(_) | Shape::Any | Shape::Free) => Merge::Fields,
            None => Merge::Fields,
            Some(_) => Merge::Leaf,
        },
        Value::Array(_) => match ty.map(|t| (t.shape(), &t.node().list)) {
            Some((Shape::List(_), ListType::Set)) => Merge::Set,
            Some((Shape::List(_), ListType::Map(keys))) => Merge::Keyed(keys),
            _ => Merge::Leaf,
        },
        _ => Merge::Leaf,
    }
}

/// The type below a key; none where the type does not say.
pub(super) fn child<'s>(ty: Type<'s>, name: &str) -> Type<'s> {
    ty.and_then(|t| t.child(name))
}

/// The type of the elements of a list.
pub(super) fn element<'s>(ty: Type<'s>) -> Type<'s> {
    ty.and_then(TypeRef::element)
}

/// Whether the key is a declared field (and not an entry of a map).
pub(super) fn is_declared(ty: Type<'_>, name: &str) -> bool {
    ty.is_some_and(|t| t.field(name).is_some())
}

/// The path element of a list element. An error names the key that is missing.
pub(super) fn path_element(item: &Value, how: Merge<'_>, ty: Type<'_>) -> Result<String, String> {
    match how {
        Merge::Set => Ok(format!("v:{item}")),
        Merge::Keyed(keys) => key_element(item, keys, ty),
        Merge::Leaf | Merge::Fields => Err("not an associative list".to_owned()),
    }
}

fn key_element(item: &Value, keys: &[Text], ty: Type<'_>) -> Result<String, String> {
    if let ([key], Some(Value::String(value))) = (keys, item.get(&*keys[0])) {
        // The common case without an intermediate map: one text key that needs no escapes.
        if !value.bytes().any(|b| matches!(b, b'"' | b'\\') || b < 0x20) {
            return Ok(format!("k:{{\"{key}\":\"{value}\"}}"));
        }
    }
    let mut found = Map::new();
    for key in keys {
        let value = item.get(&**key).filter(|v| !v.is_null()).cloned();
        let default = || match ty.and_then(|t| t.field(key)).map(|(_, f)| (&f.absent, f.required)) {
            Some((Absent::Value(default), _)) => Some(default.clone()),
            Some((Absent::Zero, _)) => {
                ty.and_then(|t| t.child(key)).map(|t| if t.shape() == Shape::String { Value::from("") } else { Value::from(0) })
            }
            _ => None,
        };
        match value.or_else(default) {
            Some(value) => _ = found.insert(key.to_string(), value),
            // Optional keys may be absent together; without any there is nothing to tell elements apart.
            None if keys.len() > 1 => {}
            None => {
                return Err(format!(
                    "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                ));
            }
        }
    }
    Ok(format!("k:{}", Value::Object(found)))
}

/// The elements of an associative list with their path elements, in order.
pub(super) fn indexed<'v>(list: &'v [Value], how: Merge<'_>, ty: Type<'_>) -> Result<Vec<(String, &'v Value)>, String> {
    let inner = element(ty);
    list.iter().map(|item| path_element(item, how, inner).map(|pe| (pe, item))).collect()
}

/// The element of a key of an object.
pub(super) fn key(name: &str) -> String {
    field(name)
}
