//! The schemas of a document, from the type table or from the schema of a CRD.

use super::Served;
use super::enums;
use super::prose::{self, Prose};
use crate::kinds::Kind;
use crate::schema::{Absent, Field, Gvk, ListType, Node, Shape, TypeRef, Types};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

const REF: &str = "#/components/schemas/";
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The names of the schemas that a document refers to.
#[derive(Default)]
pub(super) struct Needed(BTreeSet<String>);

impl Needed {
    /// A reference to a schema, which then becomes part of the document.
    pub(super) fn reference(&mut self, name: &str) -> Value {
        if !self.0.contains(name) {
            self.0.insert(name.to_owned());
        }
        json!({ "$ref": format!("{REF}{name}") })
    }

    /// A reference to a type of meta/v1.
    pub(super) fn meta(&mut self, name: &str) -> Value {
        self.reference(&format!("{META}.{name}"))
    }
}

/// The name of a kind's schema: from its row, or for a custom kind its group turned around (`com.example.v1.Widget`).
pub(super) fn name_of(kind: &Kind) -> String {
    if Types::builtin().get(&kind.schema).is_some() {
        return kind.schema.to_string();
    }
    let turned: Vec<&str> = kind.group.rsplit('.').collect();
    format!("{}.{}.{}", turned.join("."), kind.version, kind.kind)
}

/// The name of the schema that another kind is served with (`autoscaling/v1 Scale`).
pub(super) fn name_by_gvk(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    static BY_GVK: std::sync::OnceLock<HashMap<(&'static str, &'static str, &'static str), &'static str>> = std::sync::OnceLock::new();
    let index = BY_GVK.get_or_init(|| {
        let types = Types::builtin();
        let all = types.names().filter_map(|n| types.get(n));
        all.flat_map(|t| t.node().gvks.iter().map(move |g| ((&*g.group, &*g.version, &*g.kind), &*t.node().name))).collect()
    });
    index.get(&(group, version, kind)).copied()
}

/// Writes every schema needed and those that they need. `home` is the group and version of the document: kinds of shared types that are
/// served elsewhere are left out.
pub(super) fn write(needed: Needed, rows: &[Served], home: Option<(&str, &str)>, out: &mut dyn FnMut(&str, Value)) {
    let prose = prose::unpack();
    let mut custom: HashMap<String, Value> = HashMap::new();
    for row in rows.iter().filter(|r| Types::builtin().get(&r.kind.schema).is_none()) {
        let name = name_of(&row.kind);
        custom.insert(format!("{name}List"), custom_list(row, &name, &prose));
        custom.insert(name, custom_schema(row, &prose));
    }
    let (mut waiting, mut done) = (needed.0, BTreeSet::new());
    while let Some(name) = waiting.pop_first() {
        let schema = match (custom.remove(&name), Types::builtin().get(&name)) {
            (Some(schema), _) => schema,
            (None, Some(ty)) => object(ty, home, &prose),
            (None, None) => continue,
        };
        collect(&schema, &mut |found| {
            if !done.contains(found) && found != name {
                waiting.insert(found.to_owned());
            }
        });
        out(&name, schema);
        done.insert(name);
    }
}

/// Every reference in a schema.
fn collect(schema: &Value, found: &mut dyn FnMut(&str)) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REF)) {
                found(name);
            }
            map.values().for_each(|v| collect(v, found));
        }
        Value::Array(list) => list.iter().for_each(|v| collect(v, found)),
        _ => {}
    }
}

fn gvk(g: &Gvk) -> Value {
    json!({"group": g.group, "version": g.version, "kind": g.kind})
}

/// The schema of a named type.
fn object(ty: TypeRef<'_>, home: Option<(&str, &str)>, prose: &Prose) -> Value {
    let node = ty.node();
    let mut schema = shape(node);
    if let Shape::Struct(..) = node.shape {
        schema.insert("type".into(), "object".into());
        let properties: Map<String, Value> = ty.fields().iter().map(|f| (f.name.to_string(), property(ty, f, prose))).collect();
        if !properties.is_empty() {
            schema.insert("properties".into(), Value::Object(properties));
        }
        let required: Vec<&str> = ty.fields().iter().filter(|f| f.required).map(|f| &*f.name).collect();
        if !required.is_empty() {
            schema.insert("required".into(), required.into());
        }
    }
    if let Some(about) = prose.about(&node.name) {
        schema.insert("description".into(), about.into());
    }
    if let Some(map_type) = &node.map_type {
        schema.insert("x-kubernetes-map-type".into(), (**map_type).into());
    }
    if let Some(unions) = node.unions.as_deref().and_then(|u| serde_json::from_str(u).ok()) {
        schema.insert("x-kubernetes-unions".into(), unions);
    }
    let shared = node.gvks.len() > 1;
    let here = |g: &&Gvk| !shared || home.is_none_or(|h| h == (&*g.group, &*g.version)) || (g.group.is_empty() && g.version == "v1");
    let gvks: Vec<Value> = node.gvks.iter().filter(here).map(gvk).collect();
    if !gvks.is_empty() {
        schema.insert("x-kubernetes-group-version-kind".into(), gvks.into());
    }
    Value::Object(schema)
}

/// What a shape is by itself.
fn shape(node: &Node) -> Map<String, Value> {
    let value = match node.shape {
        Shape::Any | Shape::Struct(..) => json!({}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Int32 => json!({"type": "integer", "format": "int32"}),
        Shape::Int64 => json!({"type": "integer", "format": "int64"}),
        Shape::Double => json!({"type": "number", "format": "double"}),
        Shape::String => json!({"type": "string"}),
        Shape::Bytes => json!({"type": "string", "format": "byte"}),
        Shape::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Shape::IntOrString => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        Shape::Time | Shape::MicroTime => json!({"type": "string", "format": "date-time"}),
        Shape::Free | Shape::Map(_) => json!({"type": "object"}),
        Shape::List(_) => json!({"type": "array"}),
    };
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// A type where it is used: a reference for named types.
fn usage(ty: TypeRef<'_>) -> Map<String, Value> {
    let node = ty.node();
    if !node.name.is_empty() {
        return Map::from_iter([("$ref".to_owned(), format!("{REF}{}", node.name).into())]);
    }
    let mut schema = shape(node);
    match (node.shape, ty.element()) {
        (Shape::List(_), Some(inner)) => _ = schema.insert("items".into(), Value::Object(usage(inner))),
        (Shape::Map(_), Some(inner)) => _ = schema.insert("additionalProperties".into(), Value::Object(usage(inner))),
        _ => {}
    }
    schema
}

fn property(owner: TypeRef<'_>, field: &Field, prose: &Prose) -> Value {
    let ty = owner.of(field);
    let node = ty.node();
    let mut extra = Map::new();
    let mut set = |key: &str, value: Value| _ = extra.insert(key.to_owned(), value);
    if let Some(text) = prose.field(&owner.node().name, &field.name) {
        set("description", text.into());
    }
    match (&field.absent, node.shape) {
        (Absent::Nothing, _) => {}
        (Absent::Struct, _) => set("default", json!({})),
        (Absent::Value(value), _) => set("default", value.clone()),
        (Absent::Zero, Shape::Bool) => set("default", false.into()),
        (Absent::Zero, Shape::String | Shape::Bytes) => set("default", "".into()),
        (Absent::Zero, _) => set("default", 0.into()),
    }
    match &node.list {
        ListType::Unset => {}
        ListType::Atomic => set("x-kubernetes-list-type", "atomic".into()),
        ListType::Set => set("x-kubernetes-list-type", "set".into()),
        ListType::Map(keys) => {
            set("x-kubernetes-list-type", "map".into());
            set("x-kubernetes-list-map-keys", keys.iter().map(|k| Value::from(&**k)).collect());
        }
    }
    // A named type says itself how it merges, unless this use of it differs.
    let named = Types::builtin().get(&node.name).and_then(|t| t.node().map_type.clone());
    if let Some(map_type) = node.map_type.as_ref().filter(|m| node.name.is_empty() || named.as_ref() != Some(m)) {
        set("x-kubernetes-map-type", (**map_type).into());
    }
    for (key, text) in [("x-kubernetes-patch-strategy", &field.patch_strategy), ("x-kubernetes-patch-merge-key", &field.merge_key)] {
        if let Some(text) = text {
            set(key, (**text).into());
        }
    }
    let mut schema = usage(ty);
    if let Some(values) = enums::of(&owner.node().name, &field.name) {
        match schema.get_mut("items") {
            Some(items) => items["enum"] = values,
            None => _ = schema.insert("enum".into(), values),
        }
    }
    if schema.contains_key("$ref") && !extra.is_empty() {
        extra.insert("allOf".into(), json!([schema]));
        return Value::Object(extra);
    }
    extra.extend(schema);
    Value::Object(extra)
}

/// A kind whose fields say in prose what those of every kind say.
const USUAL: &str = "io.k8s.api.core.v1.Pod";

fn meta_properties(prose: &Prose) -> [(&'static str, Value); 3] {
    let text = |field: &str| prose.field(USUAL, field).map(Value::from);
    let mut properties = [
        ("apiVersion", json!({"type": "string"})),
        ("kind", json!({"type": "string"})),
        ("metadata", json!({"allOf": [{"$ref": format!("{REF}{META}.ObjectMeta")}]})),
    ];
    for (name, property) in &mut properties {
        if let Some(text) = text(name) {
            property["description"] = text;
        }
    }
    properties
}

/// The schema of a custom kind as its CRD declares it, with what every object has.
fn custom_schema(row: &Served, prose: &Prose) -> Value {
    let mut schema =
        row.schema.as_deref().cloned().unwrap_or_else(|| json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    if let Value::Object(schema) = &mut schema {
        let own = meta_properties(prose);
        embed(schema, &own);
        let properties = schema.entry("properties").or_insert_with(|| json!({}));
        for (name, property) in own {
            properties[name] = property;
        }
        let kind = &row.kind;
        schema.insert("x-kubernetes-group-version-kind".into(), json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]));
    }
    schema
}

/// Objects inside of an object have what every object has.
fn embed(schema: &mut Map<String, Value>, own: &[(&'static str, Value)]) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().filter_map(Value::as_object_mut).for_each(|inner| embed(inner, own));
    }
    for key in ["items", "additionalProperties"] {
        schema.get_mut(key).and_then(Value::as_object_mut).into_iter().for_each(|inner| embed(inner, own));
    }
    if schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
        let properties = schema.entry("properties").or_insert_with(|| json!({}));
        own.iter().for_each(|(name, property)| properties[*name] = property.clone());
        let Some(required) = schema.entry("required").or_insert_with(|| json!([])).as_array_mut() else { return };
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|r| r == name) {
                required.push(name.into());
            }
        }
    }
}

fn custom_list(row: &Served, name: &str, prose: &Prose) -> Value {
    let kind = &row.kind;
    let text = |field: &str| prose.field(USUAL, field).unwrap_or_default();
    json!({
        "type": "object",
        "description": format!("{0}List is a list of {0}", kind.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": text("apiVersion")},
            "kind": {"type": "string", "description": text("kind")},
            "metadata": {"allOf": [{"$ref": format!("{REF}{META}.ListMeta")}]},
            "items": {"type": "array", "items": {"$ref": format!("{REF}{name}")}},
        },
        "x-kubernetes-group-version-kind": [{"group": kind.group, "version": kind.version, "kind": format!("{}List", kind.kind)}],
    })
}
