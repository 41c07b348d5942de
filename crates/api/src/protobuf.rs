//! The protobuf form of objects by the type table: what Go clients send and ask for when they have the choice. Reading is
//! here, writing in `encode`.
//!
//! The bytes `k8s\0`, an envelope that names the kind, and the message. The result is the JSON form; whoever calls reads it on
//! with [`crate::decode`], which drops the zeros that Go's generated code always writes. Source of the numbers: the
//! `.proto` facts in the type table; of the envelope: apimachinery `runtime.Unknown`.

mod encode;
mod json;
mod memo;
mod mold;

pub use encode::{ENVELOPE_TAIL, Encoder, ITEMS, envelope_head, enveloped, item_len, named, watch_frame, write};

use crate::schema::{Field, Schema, Shape, TypeRef, WirePath};
use crate::time;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

/// The first bytes of every object.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// Messages inside messages: deeper is not an object of ours.
const DEPTH: usize = 100;

/// Why bytes are not an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Malformed {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    #[error("unexpected EOF")]
    Short,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: {0}")]
    Value(&'static str),
}

type Read<T> = Result<T, Malformed>;

/// A field as it stands on the wire.
#[derive(Clone, Copy)]
enum Wire<'b> {
    Number(u64),
    Fixed(u64),
    Bytes(&'b [u8]),
}

/// The fields of a message, one after the other.
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn varint(&mut self) -> Read<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first().ok_or(Malformed::Short)?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed::Overflow)
    }

    fn take(&mut self, len: usize) -> Read<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn next(&mut self) -> Read<Option<(u64, Wire<'b>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Fixed(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| Malformed::Short)?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed::Overflow)?;
                Wire::Bytes(self.take(len)?)
            }
            5 => Wire::Fixed(u64::from(u32::from_le_bytes(self.take(4)?.try_into().map_err(|_| Malformed::Short)?))),
            other => return Err(Malformed::WireType(other as u8)),
        };
        Ok(Some((tag >> 3, wire)))
    }

    /// The last value of a field.
    fn find(mut self, wanted: u64) -> Read<Option<Wire<'b>>> {
        let mut found = None;
        while let Some((number, wire)) = self.next()? {
            if number == wanted {
                found = Some(wire);
            }
        }
        Ok(found)
    }
}

impl<'b> Wire<'b> {
    fn bytes(self) -> Read<&'b [u8]> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed::Value("a message where a number stands")),
        }
    }

    fn number(self) -> Read<u64> {
        match self {
            Wire::Number(n) | Wire::Fixed(n) => Ok(n),
            Wire::Bytes(_) => Err(Malformed::Value("a number where bytes stand")),
        }
    }

    fn text(self) -> Read<&'b str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed::Value("string field contains invalid UTF-8"))
    }
}

/// Whether bytes claim to be an object in this form.
pub fn is_protobuf(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// `apiVersion` and `kind` in the envelope of an object.
///
/// # Errors
/// When there is no envelope.
pub fn named_in(bytes: &[u8]) -> Result<(String, String), Malformed> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(Malformed::NoMagic)?;
    let meta = Fields(envelope).find(1)?.ok_or(Malformed::Short)?.bytes()?;
    let text = |number| Ok(Fields(meta).find(number)?.map(Wire::text).transpose()?.unwrap_or_default().to_owned());
    Ok((text(1)?, text(2)?))
}

/// Reads an object of the type that `schema` is the root of; `apiVersion` and `kind` come from the envelope when it names them.
///
/// # Errors
/// When the bytes are not an object in this form.
pub fn read(bytes: &[u8], schema: &Schema) -> Result<Value, Malformed> {
    let envelope = bytes.strip_prefix(MAGIC).ok_or(Malformed::NoMagic)?;
    let (mut head, mut raw) = (Map::new(), &b""[..]);
    let mut fields = Fields(envelope);
    while let Some((number, wire)) = fields.next()? {
        match number {
            1 => {
                let meta = wire.bytes()?;
                for (number, name) in [(1, "apiVersion"), (2, "kind")] {
                    if let Some(text) = Fields(meta).find(number)? {
                        head.insert(name.to_owned(), text.text()?.into());
                    }
                }
            }
            2 => raw = wire.bytes()?,
            _ => {}
        }
    }
    let mut object = Map::new();
    message(raw, schema.root(), WirePath::default(), 0, &mut object, 0)?;
    object.append(&mut head);
    Ok(Value::Object(object))
}

/// The field that a path of numbers leads to.
fn field<'t>(ty: TypeRef<'t>, path: WirePath) -> Option<&'t Field> {
    ty.fields().iter().find(|f| f.wire == path)
}

/// Reads the fields of a message into `out`. `path` leads through the `inlined` messages that JSON inlines.
fn message(bytes: &[u8], ty: TypeRef<'_>, path: WirePath, inlined: usize, out: &mut Map<String, Value>, depth: usize) -> Read<()> {
    if depth > DEPTH {
        return Err(Malformed::Value("messages nested too deeply"));
    }
    let mut fields = Fields(bytes);
    while let Some((number, wire)) = fields.next()? {
        let (Ok(number), true) = (u8::try_from(number), inlined + 1 < path.len()) else { continue };
        let mut path = path;
        path[inlined] = number;
        match field(ty, path) {
            Some(field) => {
                member(wire, ty.of(field), out, &field.name, depth + 1)?;
                if field.drop_zero && out.get(&*field.name).is_some_and(is_zero) {
                    out.remove(&*field.name);
                }
            }
            None => {
                let below = |f: &Field| f.wire[..=inlined] == path[..=inlined];
                if ty.fields().iter().any(below) {
                    message(wire.bytes()?, ty, path, inlined + 1, out, depth + 1)?;
                }
            }
        }
    }
    Ok(())
}

fn member(wire: Wire<'_>, ty: TypeRef<'_>, out: &mut Map<String, Value>, name: &str, depth: usize) -> Read<()> {
    match (ty.shape(), ty.element()) {
        (Shape::List(_), Some(element)) => {
            let slot = out.entry(name.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = slot else { return Ok(()) };
            elements(wire, element, list, depth)
        }
        (Shape::Map(_), Some(element)) => {
            let entry = wire.bytes()?;
            let key = Fields(entry).find(1)?.map(Wire::text).transpose()?.unwrap_or_default().to_owned();
            let value = match Fields(entry).find(2)? {
                Some(wire) => map_value(wire, element, depth)?,
                None => zero(element),
            };
            let slot = out.entry(name.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = slot {
                map.insert(key, value);
            }
            Ok(())
        }
        _ => {
            out.insert(name.to_owned(), value(wire, ty, depth)?);
            Ok(())
        }
    }
}

/// One element, or several packed scalars.
fn elements(wire: Wire<'_>, element: TypeRef<'_>, list: &mut Vec<Value>, depth: usize) -> Read<()> {
    let packed = matches!(element.shape(), Shape::Bool | Shape::Int32 | Shape::Int64);
    match wire {
        Wire::Bytes(bytes) if packed => {
            let mut rest = Fields(bytes);
            while !rest.0.is_empty() {
                let number = Wire::Number(rest.varint()?);
                list.push(value(number, element, depth)?);
            }
        }
        wire => list.push(value(wire, element, depth)?),
    }
    Ok(())
}

/// A list as the value of a map is a message with `items`.
fn map_value(wire: Wire<'_>, ty: TypeRef<'_>, depth: usize) -> Read<Value> {
    let (Shape::List(_), Some(element)) = (ty.shape(), ty.element()) else { return value(wire, ty, depth) };
    let (mut list, mut fields) = (Vec::new(), Fields(wire.bytes()?));
    while let Some((number, wire)) = fields.next()? {
        if number == 1 {
            elements(wire, element, &mut list, depth + 1)?;
        }
    }
    Ok(Value::Array(list))
}

/// What Go writes on the wire for a scalar that nobody set.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(yes) => !yes,
        Value::Number(n) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

fn zero(ty: TypeRef<'_>) -> Value {
    match ty.shape() {
        Shape::String | Shape::Bytes => "".into(),
        Shape::Bool => false.into(),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => 0.into(),
        Shape::Quantity => "0".into(),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Struct(..) | Shape::Map(_) | Shape::Free => Value::Object(Map::new()),
        Shape::Any | Shape::Time | Shape::MicroTime => Value::Null,
    }
}

fn value(wire: Wire<'_>, ty: TypeRef<'_>, depth: usize) -> Read<Value> {
    Ok(match ty.shape() {
        Shape::Bool => (wire.number()? != 0).into(),
        // Negative numbers are sign-extended to 64 bits.
        Shape::Int32 => (wire.number()? as i32).into(),
        Shape::Int64 => (wire.number()? as i64).into(),
        Shape::Double => f64::from_bits(wire.number()?).into(),
        Shape::String => wire.text()?.into(),
        Shape::Bytes => STANDARD.encode(wire.bytes()?).into(),
        Shape::Quantity => Fields(wire.bytes()?).find(1)?.map(Wire::text).transpose()?.unwrap_or("0").into(),
        Shape::IntOrString => int_or_string(wire.bytes()?)?,
        Shape::Time => moment(wire.bytes()?, time::format_time)?,
        Shape::MicroTime => moment(wire.bytes()?, time::format_micro_time)?,
        Shape::Any if ty.struct_name().starts_with("JSONSchemaPropsOr") => schema_form(wire.bytes()?, ty, depth + 1)?,
        Shape::Free | Shape::Any => match Fields(wire.bytes()?).find(1)? {
            Some(raw) => serde_json::from_slice(raw.bytes()?).map_err(|_| Malformed::Value("a raw extension is not JSON"))?,
            None => Value::Null,
        },
        Shape::Struct(..) => {
            let mut object = Map::new();
            message(wire.bytes()?, ty, WirePath::default(), 0, &mut object, depth + 1)?;
            Value::Object(object)
        }
        Shape::List(_) | Shape::Map(_) => return Err(Malformed::Value("a collection inside a collection")),
    })
}

/// The schema type beside one of its many-formed relatives (`JSONSchemaPropsOrBool`, `...OrArray`, `...OrStringArray`).
pub(crate) fn schema_props(ty: TypeRef<'_>) -> Option<TypeRef<'_>> {
    let (package, _) = ty.node().name.rsplit_once('.')?;
    ty.types().get(&format!("{package}.JSONSchemaProps"))
}

/// A type of a CRD's schema whose JSON has more than one form.
fn schema_form(bytes: &[u8], ty: TypeRef<'_>, depth: usize) -> Read<Value> {
    if depth > DEPTH {
        return Err(Malformed::Value("messages nested too deeply"));
    }
    let props = schema_props(ty).ok_or(Malformed::Value("a schema of no known form"))?;
    let (mut schema, mut list, mut allows) = (None, Vec::new(), false);
    let mut fields = Fields(bytes);
    while let Some((number, wire)) = fields.next()? {
        match (ty.struct_name(), number) {
            ("JSONSchemaPropsOrBool", 1) => allows = wire.number()? != 0,
            ("JSONSchemaPropsOrStringArray", 2) => list.push(wire.text()?.into()),
            ("JSONSchemaPropsOrArray", 2) => list.push(value(wire, props, depth)?),
            (_, 1 | 2) => schema = Some(value(wire, props, depth)?),
            _ => {}
        }
    }
    Ok(match (schema, ty.struct_name()) {
        (Some(schema), _) => schema,
        (None, "JSONSchemaPropsOrBool") => allows.into(),
        (None, _) => Value::Array(list),
    })
}

fn int_or_string(bytes: &[u8]) -> Read<Value> {
    let is_text = Fields(bytes).find(1)?.map(Wire::number).transpose()? == Some(1);
    if is_text {
        return Ok(Fields(bytes).find(3)?.map(Wire::text).transpose()?.unwrap_or_default().into());
    }
    Ok((Fields(bytes).find(2)?.map(Wire::number).transpose()?.unwrap_or(0) as i32).into())
}

/// Nothing set is no time at all.
fn moment(bytes: &[u8], format: fn(Timestamp) -> String) -> Read<Value> {
    let number = |n| Fields(bytes).find(n)?.map(Wire::number).transpose();
    let (seconds, nanos) = (number(1)?, number(2)?);
    if seconds.is_none() && nanos.is_none() {
        return Ok(Value::Null);
    }
    let at = Timestamp::new(seconds.unwrap_or(0) as i64, nanos.unwrap_or(0) as i32);
    Ok(format(at.map_err(|_| Malformed::Value("a time out of range"))?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(name: &str) -> Schema {
        Schema::builtin(name).expect("a built-in type")
    }

    fn tagged(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, bytes.len() as u8][..], bytes].concat()
    }

    #[test]
    fn an_object_is_read_by_its_numbers() {
        let meta = tagged(1, b"cm");
        let data = tagged(2, &[tagged(1, b"k"), tagged(2, b"v")].concat());
        let raw = [tagged(1, &meta), data].concat();
        let kind = [tagged(1, b"v1"), tagged(2, b"ConfigMap")].concat();
        let bytes = [&MAGIC[..], &tagged(1, &kind), &tagged(2, &raw)].concat();
        let object = read(&bytes, &schema("io.k8s.api.core.v1.ConfigMap")).expect("an object");
        assert_eq!(object, serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"k": "v"}}));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let schema = schema("io.k8s.api.core.v1.Pod");
        assert_eq!(read(b"{}", &schema), Err(Malformed::NoMagic));
        for bytes in [&b"k8s\0\x12\xff"[..], b"k8s\0\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"k8s\0\x0f"] {
            assert!(read(bytes, &schema).is_err());
        }
    }

    /// Upstream's round-trip fixtures, when they are beside the checkout: the protobuf form reads as the JSON form does.
    #[test]
    fn fixtures_of_every_kind_read_as_their_json_does() {
        let files = fixtures();
        let (mut compared, mut wrong, mut missing) = (0, Vec::new(), Vec::new());
        for kind in crate::kinds::known().filter(|_| !files.is_empty()) {
            let group = if kind.group.is_empty() { "core" } else { &kind.group };
            let name = format!("{group}.{}.{}.pb", kind.version, kind.kind);
            let Some(file) = files.iter().find(|f| f.file_name().is_some_and(|n| *n == *name)) else {
                missing.push(name);
                continue;
            };
            let (Ok(pb), Ok(json)) = (std::fs::read(file), std::fs::read(file.with_extension("json"))) else { continue };
            let Some(schema) = Schema::builtin(&kind.schema) else { continue };
            let by_wire = read(&pb, &schema).map(|v| crate::decode::normalize(v, &schema, crate::decode::Strictness::Ignore));
            let by_json = crate::decode::decode(&json, crate::decode::ContentType::Json, &schema, crate::decode::Strictness::Ignore);
            match (by_wire, by_json) {
                (Ok(Ok(a)), Ok(b)) if a.value == b.value => compared += 1,
                (a, _) => wrong.push(format!("{} {}", kind.kind, a.err().map(|e| e.to_string()).unwrap_or_default())),
            }
        }
        assert!(wrong.is_empty(), "{compared} fine, {} differ: {wrong:?}", wrong.len());
        // kube-aggregator publishes none for its only kind.
        assert!(missing.iter().all(|name| name.starts_with("apiregistration")), "no fixtures for {missing:?}");
    }
}

/// Upstream's round-trip fixtures, when they are beside the checkout.
#[cfg(test)]
fn fixtures() -> Vec<std::path::PathBuf> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/staging/src/k8s.io");
    let folders = ["api/testdata/HEAD", "apiextensions-apiserver/pkg/apis/testdata/HEAD"];
    let files = folders.iter().filter_map(|f| std::fs::read_dir(root.join(f)).ok()).flatten().filter_map(|e| Some(e.ok()?.path()));
    let files: Vec<_> = files.collect();
    if files.is_empty() {
        println!("SKIP: no round-trip fixtures below {}", root.display());
    }
    files
}
