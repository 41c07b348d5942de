//! JSON to wire by the type table. What does not fit its type is left out: objects are validated long before they are encoded.
//!
//! Zeros that JSON does not show are not written either (Go writes those held by value); readers cannot tell the difference.

use super::MAGIC;
use crate::schema::{Field, Schema, Shape, TypeRef};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// A field's number as the path through messages that JSON inlines, ended by 0: `2.5` is `[2, 5, 0, 0]`.
type Path = [u32; 4];

fn path_of(field: &Field) -> Path {
    let mut path = [0; 4];
    for (slot, part) in path.iter_mut().take(3).zip(field.number.split('.')) {
        *slot = part.parse().unwrap_or(0);
    }
    path
}

/// Writes an object with the envelope that names its kind.
pub fn write(object: &Value, schema: &Schema) -> Vec<u8> {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut raw = Vec::with_capacity(1024);
    if let Value::Object(map) = object {
        message(map, schema.root(), &mut raw);
    }
    let mut kind = Vec::with_capacity(64);
    bytes(1, text("apiVersion").as_bytes(), &mut kind);
    bytes(2, text("kind").as_bytes(), &mut kind);
    let mut out = Vec::with_capacity(raw.len() + kind.len() + 32);
    out.extend_from_slice(MAGIC);
    bytes(1, &kind, &mut out);
    bytes(2, &raw, &mut out);
    // Content encoding and type are empty, and written, as Go writes them.
    bytes(3, b"", &mut out);
    bytes(4, b"", &mut out);
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(number: u32, wire: u32, out: &mut Vec<u8>) {
    varint(u64::from(number << 3 | wire), out);
}

fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    tag(number, BYTES, out);
    varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn integer(number: u32, value: i64, out: &mut Vec<u8>) {
    tag(number, VARINT, out);
    varint(value as u64, out);
}

/// A nested message, written in place; the length is put before it afterwards.
fn nested(number: u32, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    tag(number, BYTES, out);
    let start = out.len();
    write(out);
    let mut length = Vec::with_capacity(4);
    varint((out.len() - start) as u64, &mut length);
    out.splice(start..start, length);
}

/// The fields of an object, in the order of their numbers.
fn message(object: &Map<String, Value>, ty: TypeRef<'_>, out: &mut Vec<u8>) {
    let mut present: Vec<(Path, &Value, TypeRef<'_>)> = ty
        .fields()
        .iter()
        .filter_map(|field| {
            let value = object.get(&*field.name).filter(|v| !v.is_null())?;
            let path = path_of(field);
            (path[0] != 0).then(|| (path, value, ty.of(field)))
        })
        .collect();
    present.sort_by_key(|(path, ..)| *path);
    group(&present, 0, out);
}

/// Fields that share the first `depth` numbers of their paths.
fn group(fields: &[(Path, &Value, TypeRef<'_>)], depth: usize, out: &mut Vec<u8>) {
    for run in fields.chunk_by(|a, b| a.0[depth] == b.0[depth]) {
        let (path, value, ty) = run[0];
        if path[depth + 1] == 0 {
            field(path[depth], value, ty, out);
        } else {
            nested(path[depth], out, |out| group(run, depth + 1, out));
        }
    }
}

fn field(number: u32, value: &Value, ty: TypeRef<'_>, out: &mut Vec<u8>) {
    match (ty.shape(), value, ty.element()) {
        (Shape::List(_), Value::Array(list), Some(inner)) => list.iter().for_each(|v| single(number, v, inner, out)),
        (Shape::Map(_), Value::Object(map), Some(inner)) => {
            for (key, value) in map {
                nested(number, out, |out| {
                    bytes(1, key.as_bytes(), out);
                    // The zero time is a message without fields.
                    if value.is_null() { bytes(2, b"", out) } else { single(2, value, inner, out) }
                });
            }
        }
        _ => single(number, value, ty, out),
    }
}

fn single(number: u32, value: &Value, ty: TypeRef<'_>, out: &mut Vec<u8>) {
    match (ty.shape(), value) {
        (Shape::Bool, Value::Bool(b)) => integer(number, i64::from(*b), out),
        (Shape::Int32 | Shape::Int64, Value::Number(n)) => integer(number, n.as_i64().unwrap_or_default(), out),
        (Shape::Double, Value::Number(n)) => {
            tag(number, FIXED64, out);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Shape::String, Value::String(s)) => bytes(number, s.as_bytes(), out),
        (Shape::Bytes, Value::String(s)) => bytes(number, &STANDARD.decode(s).unwrap_or_default(), out),
        (Shape::Quantity, Value::String(s)) => nested(number, out, |out| bytes(1, s.as_bytes(), out)),
        (Shape::Time | Shape::MicroTime, Value::String(s)) => nested(number, out, |out| time(s, out)),
        (Shape::IntOrString, _) => nested(number, out, |out| int_or_string(value, out)),
        (Shape::Struct(..), Value::Object(map)) => nested(number, out, |out| message(map, ty, out)),
        (Shape::Free, _) => nested(number, out, |out| bytes(1, value.to_string().as_bytes(), out)),
        (Shape::Any, _) => nested(number, out, |out| schema_form(value, ty, out)),
        // A list as the value of a map is a message of its own (`ExtraValue`).
        (Shape::List(_), Value::Array(_)) => nested(number, out, |out| field(1, value, ty, out)),
        _ => {}
    }
}

fn time(text: &str, out: &mut Vec<u8>) {
    if let Some(at) = crate::time::parse_time(text) {
        integer(1, at.as_second(), out);
        integer(2, i64::from(at.subsec_nanosecond()), out);
    }
}

fn int_or_string(value: &Value, out: &mut Vec<u8>) {
    let (kind, number, text) = match value {
        Value::String(s) => (1, 0, s.as_str()),
        other => (0, other.as_i64().unwrap_or_default(), ""),
    };
    integer(1, kind, out);
    integer(2, number, out);
    bytes(3, text.as_bytes(), out);
}

/// The types of a CRD's schema whose JSON has more than one form.
fn schema_form(value: &Value, ty: TypeRef<'_>, out: &mut Vec<u8>) {
    let props = super::schema_props(ty);
    let schema = |number: u32, value: &Value, out: &mut Vec<u8>| {
        if let (Value::Object(map), Some(props)) = (value, props) {
            nested(number, out, |out| message(map, props, out));
        }
    };
    match (ty.struct_name(), value) {
        ("JSONSchemaPropsOrArray", Value::Array(list)) => list.iter().for_each(|v| schema(2, v, out)),
        ("JSONSchemaPropsOrStringArray", Value::Array(list)) => {
            list.iter().filter_map(Value::as_str).for_each(|s| bytes(2, s.as_bytes(), out))
        }
        ("JSONSchemaPropsOrBool", Value::Bool(allows)) => integer(1, i64::from(*allows), out),
        ("JSONSchemaPropsOrBool", _) => {
            integer(1, 1, out);
            schema(2, value, out);
        }
        ("JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray", _) => schema(1, value, out),
        _ => bytes(1, value.to_string().as_bytes(), out),
    }
}

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;
    use crate::decode::{Strictness, normalize};
    use crate::schema::Types;
    use serde_json::json;

    #[test]
    fn an_object_comes_back_as_it_was() {
        let pod = Schema::builtin("io.k8s.api.core.v1.Pod").expect("a built-in type");
        let body = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T03:04:05Z",
                         "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 5}}],
                     "volumes": [{"name": "v", "emptyDir": {}}], "securityContext": {"supplementalGroups": [1, -2]}}});
        let value = normalize(body, &pod, Strictness::Strict).expect("valid").value;
        let back = read(&write(&value, &pod), &pod).expect("our own bytes");
        assert_eq!(normalize(back, &pod, Strictness::Strict).expect("valid").value, value);
    }

    #[test]
    fn the_forms_of_a_crd_schema_come_back() {
        let crd =
            Schema::builtin("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition").expect("a built-in type");
        let schema = json!({"type": "object", "additionalProperties": {"type": "string"}, "default": {"a": 1}, "enum": ["x", 2],
            "properties": {"list": {"type": "array", "items": {"type": "string"}}, "any": {"additionalProperties": true}, "not": {"additionalProperties": false}}});
        let object = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let back = read(&write(&object, &crd), &crd).expect("our own bytes");
        assert_eq!(back["spec"]["versions"][0]["schema"]["openAPIV3Schema"], schema);
    }

    #[test]
    fn the_published_objects_are_written_byte_for_byte() {
        let folder = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared/reference/data/staging/src/k8s.io/api/testdata/HEAD");
        let Ok(entries) = std::fs::read_dir(&folder) else {
            eprintln!("SKIP: no ../shared/reference beside the checkout with the round-trip fixtures");
            return;
        };
        let (mut seen, mut wrong) = (0, Vec::new());
        for path in entries.filter_map(|e| e.ok()).map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "pb")) {
            let wire = std::fs::read(&path).expect("a fixture");
            let value: Value = serde_json::from_slice(&std::fs::read(path.with_extension("json")).expect("its twin")).expect("JSON");
            let text = |key: &str| value[key].as_str().unwrap_or_default();
            let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
            let Some(name) = Types::builtin().name_of(group, version, text("kind")) else { continue };
            let schema = Schema::builtin(name).expect("just found");
            seen += 1;
            if write(&value, &schema) != wire {
                wrong.push(name);
            }
        }
        assert!(wrong.is_empty(), "{} of {seen} differ: {wrong:?}", wrong.len());
        assert!(seen > 70, "only {seen} fixtures");
    }
}
