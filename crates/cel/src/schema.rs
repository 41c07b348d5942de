//! Declarations: types with what schemas add to them, which is how JSON is to be read and how large it may get.
//!
//! A declaration made from a structural schema gives fields their types for the checker, their sizes for the cost
//! estimate, and the reading of JSON values (timestamps, bytes, list maps) for the evaluator. Source: apiserver
//! `cel/common/schemas.go`.

use crate::types::Type;
use serde_json::Value as Json;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// A declared type.
#[derive(Clone, Debug)]
pub struct Decl {
    pub(crate) shape: Shape,
    /// Most elements: characters of a string, bytes, items, entries.
    pub(crate) max: u64,
    /// Fewest bytes of JSON that a value takes.
    pub(crate) least: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Simple(Type),
    List(Arc<Decl>, ListKind),
    Map(Arc<Decl>),
    Object(Arc<ObjectDecl>),
}

/// `x-kubernetes-list-type`: what equality and `+` of a list mean.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ListKind {
    Atomic,
    Set,
    Map(Arc<[Arc<str>]>),
}

/// An object with declared fields.
#[derive(Clone, Debug, Default)]
pub struct ObjectDecl {
    /// Name in messages.
    pub name: Arc<str>,
    /// By the name that an expression uses.
    pub(crate) fields: HashMap<Arc<str>, FieldDecl>,
}

#[derive(Clone, Debug)]
pub(crate) struct FieldDecl {
    /// The key in JSON.
    pub key: Arc<str>,
    pub decl: Arc<Decl>,
}

/// No estimate of a size is larger than a request can be.
pub(crate) const MAX_REQUEST: u64 = 3 * 1024 * 1024;

/// JSON of unknown type.
pub(crate) static DYN: LazyLock<Arc<Decl>> = LazyLock::new(|| Arc::new(Decl::simple(Type::Dyn)));

impl Decl {
    /// A type without anything known about sizes.
    pub fn simple(ty: Type) -> Decl {
        let max = match ty {
            Type::Dyn => MAX_REQUEST,
            Type::String => MAX_REQUEST - 2,
            Type::Bytes => MAX_REQUEST - 2,
            _ => 1,
        };
        let least = match ty {
            Type::Bool => 4,
            Type::String | Type::Bytes => 2,
            Type::Timestamp => 22,
            _ => 1,
        };
        Decl { shape: Shape::Simple(ty), max, least }
    }

    /// A list.
    pub fn list(item: Decl) -> Decl {
        let max = elements(None, item.least, 0);
        Decl { shape: Shape::List(Arc::new(item), ListKind::Atomic), max, least: 2 }
    }

    /// A map from strings.
    pub fn map(value: Decl) -> Decl {
        let max = elements(None, value.least, 5);
        Decl { shape: Shape::Map(Arc::new(value)), max, least: 2 }
    }

    /// The same with at most so many elements.
    #[must_use]
    pub fn with_most(self, max: u64) -> Decl {
        Decl { max: self.max.min(max), ..self }
    }

    /// An object with these fields (names as in JSON).
    pub fn object<K: Into<Arc<str>>>(name: &str, fields: impl IntoIterator<Item = (K, Decl)>) -> Decl {
        let field = |(key, decl): (K, Decl)| {
            let key: Arc<str> = key.into();
            (key.clone(), FieldDecl { key, decl: Arc::new(decl) })
        };
        let fields = fields.into_iter().map(field).collect();
        Decl { shape: Shape::Object(Arc::new(ObjectDecl { name: name.into(), fields })), max: 1, least: 2 }
    }

    /// As the checker sees it.
    pub fn ty(&self) -> Type {
        match &self.shape {
            Shape::Simple(ty) => ty.clone(),
            Shape::List(item, _) => Type::list(item.ty()),
            Shape::Map(value) => Type::map(Type::String, value.ty()),
            Shape::Object(object) => Type::Object(object.clone()),
        }
    }

    /// The largest number of elements that a value can have.
    pub fn max_elements(&self) -> u64 {
        self.max
    }

    /// What `x-kubernetes-validations` of a schema sees as `self`. `root` says that the schema is that of a whole object
    /// (or an embedded one), whose `apiVersion`, `kind` and name are always known. `None` when the schema hides what is in it, so that
    /// no rule can be about it.
    pub fn of_schema(schema: &Json, root: bool) -> Option<Decl> {
        of_schema(schema, root, "selfType")
    }

    pub(crate) fn field(&self, name: &str) -> Option<&Arc<Decl>> {
        match &self.shape {
            Shape::Object(object) => object.fields.get(name).map(|f| &f.decl),
            Shape::Map(value) => Some(value),
            _ => None,
        }
    }

    /// Elements of a list, values of a map.
    pub(crate) fn element(&self) -> Option<&Arc<Decl>> {
        match &self.shape {
            Shape::List(item, _) => Some(item),
            Shape::Map(value) => Some(value),
            _ => None,
        }
    }
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool) == Some(true)
}

fn number(schema: &Json, name: &str) -> Option<u64> {
    schema.get(name)?.as_u64()
}

/// How many elements fit into a request when each takes `least` bytes and a comma.
fn elements(declared: Option<u64>, least: u64, key: u64) -> u64 {
    declared.unwrap_or((MAX_REQUEST - 2) / (least + key + 1))
}

fn of_schema(schema: &Json, root: bool, path: &str) -> Option<Decl> {
    if flag(schema, "x-kubernetes-int-or-string") {
        return Some(Decl { shape: Shape::Simple(Type::Dyn), max: string_max(schema), least: 1 });
    }
    let root = root || flag(schema, "x-kubernetes-embedded-resource");
    match schema.get("type").and_then(Json::as_str).unwrap_or_default() {
        "array" => list_of(schema, path),
        "object" => object_of(schema, root, path),
        "string" => Some(text_of(schema)),
        "boolean" => Some(Decl::simple(Type::Bool)),
        "number" => Some(Decl::simple(Type::Double)),
        "integer" => Some(Decl::simple(Type::Int)),
        "" if root || flag(schema, "x-kubernetes-preserve-unknown-fields") => {
            if root {
                object_of(schema, root, path)
            } else {
                Some(Decl::simple(Type::Dyn))
            }
        }
        _ => None,
    }
}

fn list_of(schema: &Json, path: &str) -> Option<Decl> {
    let item = of_schema(schema.get("items")?, false, &format!("{path}.@idx"))?;
    let max = elements(number(schema, "maxItems"), item.least, 0);
    let keys = || schema.get("x-kubernetes-list-map-keys")?.as_array().cloned();
    let kind = match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(keys().unwrap_or_default().iter().filter_map(Json::as_str).map(Arc::from).collect()),
        _ => ListKind::Atomic,
    };
    Some(Decl { shape: Shape::List(Arc::new(item), kind), max, least: 2 })
}

fn object_of(schema: &Json, root: bool, path: &str) -> Option<Decl> {
    let properties = schema.get("properties").and_then(Json::as_object).filter(|p| !p.is_empty());
    if let Some(values) = schema.get("additionalProperties").filter(|a| a.is_object())
        && properties.is_none()
    {
        let value = of_schema(values, false, &format!("{path}.@elem"))?;
        let max = elements(number(schema, "maxProperties"), value.least, 5);
        return Some(Decl { shape: Shape::Map(Arc::new(value)), max, least: 2 });
    }
    let required: Vec<&str> = schema.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
    let (mut fields, mut least) = (HashMap::new(), 2);
    for (key, inner) in properties.into_iter().flatten() {
        if root && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        // What cannot be described cannot be used in an expression.
        let Some(decl) = of_schema(inner, false, &format!("{path}.{key}")) else { continue };
        if required.contains(&key.as_str()) && inner.get("default").is_none() {
            least += key.len() as u64 + decl.least + 4;
        }
        if let Some(name) = escape(key) {
            fields.insert(name.into(), FieldDecl { key: key.as_str().into(), decl: Arc::new(decl) });
        }
    }
    if root {
        add_type_meta(&mut fields, path);
    }
    Some(Decl { shape: Shape::Object(Arc::new(ObjectDecl { name: path.into(), fields })), max: 1, least })
}

/// What is known of every whole object.
fn add_type_meta(fields: &mut HashMap<Arc<str>, FieldDecl>, path: &str) {
    let text = || Decl::simple(Type::String);
    for key in ["apiVersion", "kind"] {
        fields.insert(key.into(), FieldDecl { key: key.into(), decl: Arc::new(text()) });
    }
    let meta = Decl::object(&format!("{path}.metadata"), [("name", text()), ("generateName", text())]);
    fields.insert("metadata".into(), FieldDecl { key: "metadata".into(), decl: Arc::new(meta) });
}

fn string_max(schema: &Json) -> u64 {
    // A character takes up to four bytes, and the limit counts characters.
    number(schema, "maxLength").map_or(MAX_REQUEST - 2, |n| n.saturating_mul(4).min(MAX_REQUEST))
}

fn text_of(schema: &Json) -> Decl {
    let (ty, max, least) = match schema.get("format").and_then(Json::as_str).unwrap_or_default() {
        "byte" => (Type::Bytes, number(schema, "maxLength").unwrap_or(MAX_REQUEST - 2), 2),
        "duration" => (Type::Duration, 32, 4),
        "date" => (Type::Timestamp, 12, 12),
        "date-time" => (Type::Timestamp, 22, 22),
        _ => (Type::String, enum_max(schema).unwrap_or_else(|| string_max(schema)), 2),
    };
    Decl { shape: Shape::Simple(ty), max, least }
}

fn enum_max(schema: &Json) -> Option<u64> {
    if schema.get("maxLength").is_some() {
        return None;
    }
    schema.get("enum")?.as_array()?.iter().filter_map(Json::as_str).map(|s| s.len() as u64).max()
}

/// Words of the language; those that are reserved besides are the parser's.
const KEYWORDS: [&str; 5] = ["true", "false", "null", "in", "while"];

/// The name by which an expression calls a property; `None` when it cannot be called. Source: `cel/escaping.go`.
pub fn escape(key: &str) -> Option<String> {
    let first = key.chars().next()?;
    if first.is_ascii_digit() {
        return None;
    }
    if KEYWORDS.contains(&key) || crate::parser::RESERVED.contains(&key) {
        return Some(format!("__{key}__"));
    }
    let mut out = String::with_capacity(key.len());
    let mut rest = key;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("__") {
            out.push_str("__underscores__");
            rest = after;
            continue;
        }
        match c {
            '.' => out.push_str("__dot__"),
            '-' => out.push_str("__dash__"),
            '/' => out.push_str("__slash__"),
            c if c.is_ascii_alphanumeric() || c == '_' => out.push(c),
            _ => return None,
        }
        rest = &rest[c.len_utf8()..];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_names_are_escaped_as_kubernetes_does() {
        for (key, name) in [
            ("a", "a"),
            ("x-y", "x__dash__y"),
            ("a.b/c", "a__dot__b__slash__c"),
            ("a__b", "a__underscores__b"),
            ("namespace", "__namespace__"),
            ("_x", "_x"),
        ] {
            assert_eq!(escape(key).as_deref(), Some(name), "{key}");
        }
        assert_eq!((escape("1a"), escape("a b"), escape("")), (None, None, None));
    }
}
