//! Custom resources: the structural schema of a CRD version as a type table, and defaulting by it.
//!
//! The result drives the same code as the built-in table. What a value may be beyond its shape (patterns, limits, enums,
//! CEL) is validation and stays with whoever serves CRDs.

use super::{Absent, Field, Gvk, ListType, Node, Schema, Shape, Text, TypeId, TypeRef, Types};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// Why a schema cannot drive the machinery.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct NotStructural {
    /// Where in the schema: `spec.versions[..].schema.openAPIV3Schema` is left out, the rest is as in a CRD.
    pub path: String,
    /// In the words of the CRD's own checks.
    pub reason: String,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

pub(super) fn convert(gvk: Gvk, schema: Option<&Value>) -> Result<Schema, NotStructural> {
    let mut builder = Builder { types: Types::default(), imported: HashMap::new() };
    let root = match schema {
        Some(schema) => builder.node(schema, &mut String::new(), true)?,
        None => {
            let shape = builder.object(Vec::new());
            builder.types.push(Node { preserve_unknown: true, typed: false, ..Node::of(shape) })
        }
    };
    builder.types.nodes[root.0 as usize].gvks = Box::new([gvk]);
    Ok(Schema { types: Arc::new(builder.types), id: root })
}

struct Builder {
    types: Types,
    /// Nodes copied from the built-in table, by their id there.
    imported: HashMap<TypeId, TypeId>,
}

fn flag(schema: &Value, name: &str) -> bool {
    schema.get(name).and_then(Value::as_bool) == Some(true)
}

fn text<'a>(schema: &'a Value, name: &str) -> Option<&'a str> {
    schema.get(name).and_then(Value::as_str)
}

impl Builder {
    /// Copies a built-in type and what it refers to.
    fn import(&mut self, from: TypeRef<'_>) -> TypeId {
        if let Some(id) = self.imported.get(&from.id()) {
            return *id;
        }
        let id = self.types.push(from.node().clone());
        self.imported.insert(from.id(), id);
        let shape = match from.shape() {
            Shape::Struct(..) => {
                let fields = from.fields().iter().map(|f| Field { ty: self.import(from.of(f)), ..f.clone() }).collect();
                self.types.push_fields(fields)
            }
            Shape::List(_) => from.element().map_or(Shape::Any, |e| Shape::List(self.import(e))),
            Shape::Map(_) => from.element().map_or(Shape::Any, |e| Shape::Map(self.import(e))),
            other => other,
        };
        self.types.nodes[id.0 as usize].shape = shape;
        id
    }

    /// The fields given, with those that every object has.
    fn object(&mut self, mut fields: Vec<Field>) -> Shape {
        fields.retain(|f| !matches!(&*f.name, "apiVersion" | "kind" | "metadata"));
        for name in ["apiVersion", "kind"] {
            let ty = self.types.push(Node { typed: false, ..Node::of(Shape::String) });
            fields.push(Field::named(Text::Borrowed(name), ty));
        }
        if let Some(meta) = Types::builtin().get(META) {
            let ty = self.import(meta);
            fields.push(Field { absent: Absent::Struct, ..Field::named(Text::Borrowed("metadata"), ty) });
        }
        self.types.push_fields(fields)
    }

    fn node(&mut self, schema: &Value, path: &mut String, root: bool) -> Result<TypeId, NotStructural> {
        let embedded = root || flag(schema, "x-kubernetes-embedded-resource");
        let mut node = Node { typed: false, embedded, nullable: flag(schema, "nullable"), ..Node::of(Shape::Any) };
        node.preserve_unknown = flag(schema, "x-kubernetes-preserve-unknown-fields");
        node.map_type = text(schema, "x-kubernetes-map-type").map(|t| Text::Owned(t.to_owned()));
        node.shape = self.shape(schema, path, embedded)?;
        if let Shape::List(_) = node.shape {
            node.list = list_type(schema);
        }
        Ok(self.types.push(node))
    }

    fn shape(&mut self, schema: &Value, path: &mut String, embedded: bool) -> Result<Shape, NotStructural> {
        if flag(schema, "x-kubernetes-int-or-string") {
            return Ok(Shape::IntOrString);
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        match (text(schema, "type").unwrap_or_default(), schema.get("additionalProperties")) {
            ("object", _) if embedded || properties.is_some() => {
                let fields = self.fields(schema, path)?;
                Ok(if embedded { self.object(fields) } else { self.types.push_fields(fields) })
            }
            ("object", Some(inner)) if inner.is_object() => Ok(Shape::Map(self.below(inner, path, "*")?)),
            ("object", Some(Value::Bool(true))) => Ok(Shape::Free),
            ("object", _) if flag(schema, "x-kubernetes-preserve-unknown-fields") => Ok(Shape::Free),
            // Nothing is declared, so nothing survives pruning.
            ("object", _) => Ok(Shape::Struct(0, 0)),
            ("array", _) => match schema.get("items") {
                Some(items) if items.is_object() => Ok(Shape::List(self.below(items, path, "items")?)),
                _ => Err(NotStructural { path: path.clone(), reason: "Required value: must be specified for an array".into() }),
            },
            ("string", _) => Ok(Shape::String),
            ("integer", _) => Ok(Shape::Int64),
            ("number", _) => Ok(Shape::Double),
            ("boolean", _) => Ok(Shape::Bool),
            ("", _) if embedded || flag(schema, "x-kubernetes-preserve-unknown-fields") => {
                Ok(if embedded { self.object(Vec::new()) } else { Shape::Any })
            }
            ("", _) => {
                Err(NotStructural { path: path.clone(), reason: "Required value: must not be empty for specified object fields".into() })
            }
            (other, _) => Err(NotStructural { path: path.clone(), reason: format!("Unsupported value: {other:?}") }),
        }
    }

    fn fields(&mut self, schema: &Value, path: &mut String) -> Result<Vec<Field>, NotStructural> {
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut fields = Vec::new();
        for (name, inner) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let ty = self.below(inner, path, name)?;
            let absent = inner.get("default").map_or(Absent::Nothing, |d| Absent::Value(d.clone()));
            let required = required.contains(&name.as_str());
            fields.push(Field { absent, required, ..Field::named(Text::Owned(name.clone()), ty) });
        }
        Ok(fields)
    }

    fn below(&mut self, schema: &Value, path: &mut String, name: &str) -> Result<TypeId, NotStructural> {
        let length = path.len();
        path.push_str(if length == 0 { "" } else { "." });
        path.push_str(name);
        let id = self.node(schema, path, false);
        path.truncate(length);
        id
    }
}

fn list_type(schema: &Value) -> ListType {
    let keys = || schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    match text(schema, "x-kubernetes-list-type") {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(keys().into_iter().flatten().filter_map(Value::as_str).map(|k| Text::Owned(k.to_owned())).collect()),
        _ => ListType::Atomic,
    }
}

/// Sets the defaults that the schema declares, as a structural schema does: an absent property, or a `null` where it is
/// not a value, takes its default; a `null` without a default goes away; then the same below. Built-in types, whose
/// defaults are code, are left alone.
pub fn set_defaults(value: &mut Value, ty: TypeRef<'_>) {
    match (value, ty.shape()) {
        (Value::Object(map), Shape::Struct(..)) if !ty.node().typed => {
            for field in ty.fields() {
                let inner = ty.of(field);
                let unset = match map.get(&*field.name) {
                    None => true,
                    Some(Value::Null) => !inner.node().nullable && !inner.node().typed && !matches!(inner.shape(), Shape::Any),
                    Some(_) => false,
                };
                match (&field.absent, unset) {
                    (Absent::Value(default), true) => _ = map.insert(field.name.to_string(), default.clone()),
                    (_, true) => continue,
                    (_, false) => {}
                }
                if let Some(child) = map.get_mut(&*field.name) {
                    set_defaults(child, inner);
                }
            }
        }
        (Value::Object(map), Shape::Map(_)) => {
            if let Some(inner) = ty.element() {
                map.values_mut().for_each(|v| set_defaults(v, inner));
            }
        }
        (Value::Array(list), Shape::List(_)) => {
            if let Some(inner) = ty.element() {
                list.iter_mut().for_each(|v| set_defaults(v, inner));
            }
        }
        _ => {}
    }
}
