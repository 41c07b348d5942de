//! `/openapi/v2` as protobuf, the only form in which kubectl reads it (when a kind is not in v3).
//!
//! The message types are those of OpenAPI v2 in protobuf (`openapi.v2.Document`); one table below says which JSON
//! member is which field. Members the table does not know are left out, `x-` members become vendor extensions.

use super::{Document, OpenApi, Served, others_of, paths, schemas, v2};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How a JSON member is written.
#[derive(Clone, Copy)]
enum Shape {
    Text,
    Texts,
    Flag,
    Number,
    /// `Any`, as YAML text; JSON is YAML.
    Any,
    Anys,
    /// A message, by its table.
    One(&'static Message),
    Many(&'static Message),
    /// An object of messages: a wrapper of `NamedX` pairs, in the wrapper's field of this number.
    Named(&'static Message, u32),
    /// `type`: a text or a list of them, in a wrapper.
    Type,
    /// `items`: a schema in a wrapper.
    Items,
    /// `additionalProperties`: a schema or a flag.
    Additional,
    /// `parameters`: body, query, header or path, each in its own wrapper.
    Parameters,
    /// `responses`: status to response.
    Responses,
}

/// JSON members of a message with their field numbers, and the number of its vendor extensions.
struct Message {
    fields: &'static [(&'static str, u32, Shape)],
    extensions: u32,
}

static INFO: Message =
    Message { fields: &[("title", 1, Shape::Text), ("version", 2, Shape::Text), ("description", 3, Shape::Text)], extensions: 7 };

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, Shape::One(&OPERATION)),
        ("put", 3, Shape::One(&OPERATION)),
        ("post", 4, Shape::One(&OPERATION)),
        ("delete", 5, Shape::One(&OPERATION)),
        ("options", 6, Shape::One(&OPERATION)),
        ("head", 7, Shape::One(&OPERATION)),
        ("patch", 8, Shape::One(&OPERATION)),
        ("parameters", 9, Shape::Parameters),
    ],
    extensions: 10,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Shape::Texts),
        ("summary", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("operationId", 5, Shape::Text),
        ("produces", 6, Shape::Texts),
        ("consumes", 7, Shape::Texts),
        ("parameters", 8, Shape::Parameters),
        ("responses", 9, Shape::Responses),
        ("schemes", 10, Shape::Texts),
        ("deprecated", 11, Shape::Flag),
    ],
    extensions: 13,
};

static BODY: Message = Message {
    fields: &[
        ("description", 1, Shape::Text),
        ("name", 2, Shape::Text),
        ("in", 3, Shape::Text),
        ("required", 4, Shape::Flag),
        ("schema", 5, Shape::One(&SCHEMA)),
    ],
    extensions: 6,
};

/// Header and path parameters, which number their fields alike; only the extensions are not used there.
static PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Shape::Flag),
        ("in", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("name", 4, Shape::Text),
        ("type", 5, Shape::Text),
        ("format", 6, Shape::Text),
    ],
    extensions: 22,
};

/// Query parameters have one field more in the middle.
static QUERY: Message = Message {
    fields: &[
        ("required", 1, Shape::Flag),
        ("in", 2, Shape::Text),
        ("description", 3, Shape::Text),
        ("name", 4, Shape::Text),
        ("allowEmptyValue", 5, Shape::Flag),
        ("type", 6, Shape::Text),
        ("format", 7, Shape::Text),
    ],
    extensions: 23,
};

static RESPONSE: Message = Message { fields: &[("description", 1, Shape::Text), ("schema", 2, Shape::One(&SCHEMA_ITEM))], extensions: 5 };

/// `SchemaItem`: a schema in one of two wrappers.
static SCHEMA_ITEM: Message = Message { fields: &[], extensions: 0 };

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Shape::Text),
        ("format", 2, Shape::Text),
        ("title", 3, Shape::Text),
        ("description", 4, Shape::Text),
        ("default", 5, Shape::Any),
        ("maximum", 7, Shape::Number),
        ("minimum", 9, Shape::Number),
        ("pattern", 13, Shape::Text),
        ("required", 19, Shape::Texts),
        ("enum", 20, Shape::Anys),
        ("additionalProperties", 21, Shape::Additional),
        ("type", 22, Shape::Type),
        ("items", 23, Shape::Items),
        ("allOf", 24, Shape::Many(&SCHEMA)),
        ("properties", 25, Shape::Named(&SCHEMA, 1)),
        ("example", 30, Shape::Any),
    ],
    extensions: 31,
};

impl OpenApi {
    /// `/openapi/v2` as protobuf. Made piece by piece, like the JSON.
    pub fn v2_protobuf(&self, others: &[Arc<Value>]) -> Document {
        let mut out = Vec::with_capacity(512 * 1024);
        text(&mut out, 1, "2.0");
        let info = serde_json::json!({ "title": "Kubernetes", "version": "v1.36.0" });
        bytes(&mut out, 2, &message(&INFO, &info));
        let mut needed = schemas::Needed::default();
        let rows: Vec<Served> = self.parts.values().flat_map(|p| p.rows.iter().cloned()).collect();
        let mut written = Vec::with_capacity(256 * 1024);
        let mut path = |path: &str, item: &Value| bytes(&mut written, 2, &pair(path, &message(&PATH_ITEM, item)));
        for part in self.parts.values() {
            for row in &part.rows {
                paths::of(row, &mut needed, &mut |name, item| path(name, &v2::path_item(item)));
            }
            paths::resources(&part.rows[0].kind, &mut needed, &mut |name, item| path(name, &v2::path_item(item)));
        }
        others_of(others, "paths", &BTreeSet::new(), &mut path);
        bytes(&mut out, 8, &written);
        written.clear();
        let mut own = BTreeSet::new();
        schemas::write(needed, &rows, None, &mut |name, schema| {
            bytes(&mut written, 1, &pair(name, &message(&SCHEMA, &v2::schema(schema))));
            own.insert(name.to_owned());
        });
        let mut definition = |name: &str, schema: &Value| bytes(&mut written, 1, &pair(name, &message(&SCHEMA, schema)));
        others_of(others, "definitions", &own, &mut definition);
        bytes(&mut out, 9, &written);
        Document { json: out.into(), hash: self.v2_hash() }
    }
}

fn message(table: &Message, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    if std::ptr::eq(table, &SCHEMA_ITEM) {
        bytes(&mut out, 1, &message(&SCHEMA, value));
        return out;
    }
    for (name, number, shape) in table.fields {
        if let Some(value) = object.get(*name) {
            member(&mut out, *number, *shape, value);
        }
    }
    for (name, value) in object.iter().filter(|(name, _)| name.starts_with("x-")) {
        bytes(&mut out, table.extensions, &pair(name, &any(value)));
    }
    out
}

fn member(out: &mut Vec<u8>, number: u32, shape: Shape, value: &Value) {
    let list = || value.as_array().into_iter().flatten();
    match shape {
        Shape::Text => value.as_str().into_iter().for_each(|t| text(out, number, t)),
        Shape::Texts => list().filter_map(Value::as_str).for_each(|t| text(out, number, t)),
        Shape::Flag => flag(out, number, value.as_bool().unwrap_or_default()),
        Shape::Number => {
            tag(out, number, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Shape::Any => bytes(out, number, &any(value)),
        Shape::Anys => list().for_each(|v| bytes(out, number, &any(v))),
        Shape::One(table) => bytes(out, number, &message(table, value)),
        Shape::Many(table) => list().for_each(|v| bytes(out, number, &message(table, v))),
        Shape::Named(table, inner) => {
            let mut wrapper = Vec::new();
            for (name, value) in value.as_object().into_iter().flatten() {
                bytes(&mut wrapper, inner, &pair(name, &message(table, value)));
            }
            bytes(out, number, &wrapper);
        }
        Shape::Type => {
            let mut wrapper = Vec::new();
            value.as_str().into_iter().chain(list().filter_map(Value::as_str)).for_each(|t| text(&mut wrapper, 1, t));
            bytes(out, number, &wrapper);
        }
        Shape::Items => {
            let mut wrapper = Vec::new();
            bytes(&mut wrapper, 1, &message(&SCHEMA, value));
            bytes(out, number, &wrapper);
        }
        Shape::Additional => {
            let mut wrapper = Vec::new();
            match value {
                Value::Bool(allowed) => flag(&mut wrapper, 2, *allowed),
                schema => bytes(&mut wrapper, 1, &message(&SCHEMA, schema)),
            }
            bytes(out, number, &wrapper);
        }
        Shape::Parameters => list().for_each(|v| bytes(out, number, &parameter(v))),
        Shape::Responses => bytes(out, number, &responses(value)),
    }
}

/// `ParametersItem { Parameter { BodyParameter | NonBodyParameter { one of four } } }`, or a reference.
fn parameter(value: &Value) -> Vec<u8> {
    let (mut item, mut parameter) = (Vec::new(), Vec::new());
    if let Some(reference) = value["$ref"].as_str() {
        let mut json_reference = Vec::new();
        text(&mut json_reference, 1, reference);
        bytes(&mut item, 2, &json_reference);
        return item;
    }
    let mut inner = Vec::new();
    match value["in"].as_str() {
        Some("body") => {
            bytes(&mut parameter, 1, &message(&BODY, value));
            bytes(&mut item, 1, &parameter);
            return item;
        }
        Some("query") => bytes(&mut inner, 3, &message(&QUERY, value)),
        Some("path") => bytes(&mut inner, 4, &message(&PARAMETER, value)),
        _ => bytes(&mut inner, 1, &message(&PARAMETER, value)),
    }
    bytes(&mut parameter, 2, &inner);
    bytes(&mut item, 1, &parameter);
    item
}

/// `Responses { NamedResponseValue { ResponseValue { Response } } }`.
fn responses(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (status, response) in value.as_object().into_iter().flatten() {
        let mut wrapper = Vec::new();
        bytes(&mut wrapper, 1, &message(&RESPONSE, response));
        bytes(&mut out, 1, &pair(status, &wrapper));
    }
    out
}

/// A `NamedX`: name and value.
fn pair(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 8);
    text(&mut out, 1, name);
    bytes(&mut out, 2, value);
    out
}

fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 2, &value.to_string());
    out
}

fn tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn flag(out: &mut Vec<u8>, number: u32, value: bool) {
    if value {
        tag(out, number, 0);
        out.push(1);
    }
}

fn text(out: &mut Vec<u8>, number: u32, value: &str) {
    bytes(out, number, value.as_bytes());
}

fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    tag(out, number, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn messages_have_the_fields_of_openapi_v2() {
        assert_eq!(message(&INFO, &json!({"title": "a", "version": "b"})), b"\x0a\x01a\x12\x01b");
        // Schema { type: { value: "array" }, items: { schema: { $ref } }, x-list: yaml }
        let schema = message(&SCHEMA, &json!({"type": "array", "items": {"$ref": "r"}, "x-y": 1}));
        assert_eq!(schema, b"\xb2\x01\x07\x0a\x05array\xba\x01\x05\x0a\x03\x0a\x01r\xfa\x01\x0a\x0a\x03x-y\x12\x03\x12\x011");
        // A query parameter sits four messages deep.
        let operation = message(&OPERATION, &json!({"parameters": [{"in": "query", "name": "n"}]}));
        assert_eq!(operation, b"\x42\x10\x0a\x0e\x12\x0c\x1a\x0a\x12\x05query\x22\x01n");
    }
}
