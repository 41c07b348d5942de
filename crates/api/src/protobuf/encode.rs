//! Stored JSON to the wire by the type table, in one pass over the bytes: a list of 10,000 pods is written this way for every
//! client that asks for it, so nothing here builds a tree.
//!
//! Fields are written in the order of their numbers, as Go's generated code does. What does not fit its type is left out:
//! objects are validated long before they are encoded. Zeros that JSON does not show are not written either (Go writes those
//! held by value); readers cannot tell the difference.

use super::json::Json;
use super::memo::{Memo, Outcome, Place};
use super::mold::Molds;
use super::{DEPTH, MAGIC, Malformed, Read, schema_props};
use crate::schema::{Field, Schema, Shape, TypeRef, Types, WirePath};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::borrow::Cow;

/// A message of a type with no more fields than this is most likely shorter than 128 bytes.
const SMALL: u32 = 6;

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;

/// The number of `items` in every list.
pub const ITEMS: u32 = 2;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// What follows an object in its envelope: content encoding and type, empty and written, as Go writes them.
pub const ENVELOPE_TAIL: &[u8] = &[3 << 3 | 2, 0, 4 << 3 | 2, 0];

/// What stands before an object of `raw` bytes in its envelope.
pub fn envelope_head(api_version: &str, kind: &str, raw: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(MAGIC);
    let mark = begin(1, &mut out);
    bytes(1, api_version.as_bytes(), &mut out);
    bytes(2, kind.as_bytes(), &mut out);
    finish(mark, &mut out);
    tag(2, BYTES, &mut out);
    varint(raw as u64, &mut out);
    out
}

/// How many bytes a message of `len` bytes takes as an item of a list.
pub fn item_len(len: usize) -> usize {
    1 + varint_len(len) + len
}

/// Writes an object with the envelope that names its kind, as the object itself says it.
///
/// # Errors
/// When `json` is not a JSON object.
pub fn write(json: &[u8], schema: &Schema) -> Read<Vec<u8>> {
    let (api_version, kind) = named(json)?;
    let mut raw = Vec::with_capacity(json.len());
    Encoder::default().message(json, schema.root(), &mut raw)?;
    Ok(enveloped(&String::from_utf8_lossy(&api_version), &String::from_utf8_lossy(&kind), &raw))
}

/// A message in the envelope that names its kind.
pub fn enveloped(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(api_version, kind, raw.len());
    out.reserve(raw.len() + ENVELOPE_TAIL.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(ENVELOPE_TAIL);
    out
}

/// A frame of a watch: its length in four bytes, and a `metav1.WatchEvent` around an object in its envelope.
pub fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + event.len() + 24);
    out.extend_from_slice(&[0; 4]);
    bytes(1, event.as_bytes(), &mut out);
    let mark = begin(2, &mut out);
    bytes(1, object, &mut out);
    finish(mark, &mut out);
    let length = u32::try_from(out.len() - 4).unwrap_or(u32::MAX);
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// `apiVersion` and `kind`, which stand first in what is stored.
///
/// # Errors
/// When `json` is not a JSON object.
pub fn named(json: &[u8]) -> Read<(Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    let (mut api_version, mut kind) = (None, None);
    let mut json = Json::new(json);
    json.expect(b'{')?;
    let mut first = true;
    while (api_version.is_none() || kind.is_none()) && json.more(b'}', &mut first)? {
        let key = json.key()?;
        match (&*key, json.peek()) {
            (b"apiVersion", b'"') => api_version = Some(json.string()?),
            (b"kind", b'"') => kind = Some(json.string()?),
            _ => _ = json.skip()?,
        }
    }
    Ok((api_version.unwrap_or_default(), kind.unwrap_or_default()))
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

/// Where a nested message starts whose length is not known yet, and the bytes that are kept for it.
struct Mark {
    start: usize,
    room: usize,
}

/// A message that is most likely shorter than 128 bytes.
fn begin(number: u32, out: &mut Vec<u8>) -> Mark {
    begin_with(number, 1, out)
}

fn begin_with(number: u32, room: usize, out: &mut Vec<u8>) -> Mark {
    tag(number, BYTES, out);
    out.resize(out.len() + room, 0);
    Mark { start: out.len(), room }
}

/// Bytes that a length takes.
pub(super) fn varint_len(value: usize) -> usize {
    (usize::BITS - value.leading_zeros()).div_ceil(7).max(1) as usize
}

/// Puts the length before a nested message; the message moves when the guess about it was wrong.
fn finish(Mark { start, room }: Mark, out: &mut Vec<u8>) {
    let length = out.len() - start;
    let needed = varint_len(length);
    if needed != room {
        let begins = start - room + needed;
        out.resize(out.len().max(begins + length), 0);
        out.copy_within(start..start + length, begins);
        out.truncate(begins + length);
    }
    let (mut at, mut rest) = (start - room, length);
    while rest >= 0x80 {
        out[at] = rest as u8 | 0x80;
        (at, rest) = (at + 1, rest >> 7);
    }
    out[at] = rest as u8;
}

/// A field that is written: its number, and where it stands.
struct Segment {
    path: WirePath,
    start: usize,
    end: usize,
}

/// Fields that share the first `depth` numbers of their paths, inside the messages that JSON inlines.
fn group(segments: &[Segment], depth: usize, from: &[u8], out: &mut Vec<u8>) {
    for run in segments.chunk_by(|a, b| a.path[depth] == b.path[depth]) {
        if run[0].path[depth + 1] == 0 {
            run.iter().for_each(|s| out.extend_from_slice(&from[s.start..s.end]));
        } else {
            let mark = begin(u32::from(run[0].path[depth]), out);
            group(run, depth + 1, from, out);
            finish(mark, out);
        }
    }
}

/// Reads a member's name and finds its field. Names come sorted, as the fields are, so the search goes on where it ended and most
/// names need not be read to be known; what stands out of order is looked up.
fn find(fields: &[Field], json: &mut Json<'_>, next: &mut usize) -> Read<Option<usize>> {
    for (at, field) in fields.iter().enumerate().skip(*next) {
        if json.take_key(field.name.as_bytes()) {
            *next = at + 1;
            return Ok(Some(at));
        }
    }
    let name = json.key()?;
    Ok(fields.binary_search_by(|f| f.name.as_bytes().cmp(&name)).ok())
}

/// Writes messages of the types of one table; keep it to write many, the more alike the better.
#[derive(Default)]
pub struct Encoder {
    /// The fields of the messages under way, outermost first.
    segments: Vec<Segment>,
    scratch: Vec<u8>,
    depth: usize,
    /// In the list around what is being written.
    position: u32,
    memo: Memo,
    pub(super) molds: Molds,
}

impl Encoder {
    /// Appends the fields of an object, without an envelope.
    ///
    /// # Errors
    /// When `json` is not a JSON object.
    pub fn message(&mut self, json: &[u8], ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        self.segments.clear();
        (self.depth, self.position) = (0, 0);
        let (mut molds, start) = (std::mem::take(&mut self.molds), out.len());
        let scalar = |number, value: &[u8], ty: TypeRef<'_>, out: &mut Vec<u8>| self.single(number, &mut Json::new(value), ty, out);
        let written = if molds.write(json, ty, out, scalar) {
            Ok(())
        } else {
            self.fields(&mut Json::new(json), ty, out).map(|()| molds.keep(json, ty, &out[start..]))
        };
        self.molds = molds;
        written
    }

    /// Appends the fields of the `PartialObjectMetadata` of an object of any kind, without an envelope.
    ///
    /// # Errors
    /// When `json` is not a JSON object.
    pub fn partial(&mut self, json: &[u8], out: &mut Vec<u8>) -> Read<()> {
        let meta = Types::builtin().get(OBJECT_META).ok_or(Malformed::Value("no type for metadata"))?;
        let mut json = Json::new(json);
        json.expect(b'{')?;
        let mut first = true;
        while json.more(b'}', &mut first)? {
            let key = json.key()?;
            let value = json.skip()?;
            if &*key == b"metadata" {
                return self.nested(1, value, meta, out);
            }
        }
        Ok(())
    }

    /// Appends an object's `PartialObjectMetadata` as the field `number` of the message around it.
    ///
    /// # Errors
    /// As [`Encoder::partial`].
    pub fn nested_partial(&mut self, number: u32, json: &[u8], out: &mut Vec<u8>) -> Read<()> {
        let mark = begin_with(number, 2, out);
        self.partial(json, out)?;
        finish(mark, out);
        Ok(())
    }

    /// Appends an object as the field `number` of the message around it.
    ///
    /// # Errors
    /// As [`Encoder::message`].
    pub fn nested(&mut self, number: u32, json: &[u8], ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        let mark = begin_with(number, 2, out);
        self.message(json, ty, out)?;
        finish(mark, out);
        Ok(())
    }

    fn fields(&mut self, json: &mut Json<'_>, ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Malformed::Value("messages nested too deeply"));
        }
        let (base, begun) = (self.segments.len(), out.len());
        let (fields, mut next, mut first) = (ty.fields(), 0, true);
        json.expect(b'{')?;
        while json.more(b'}', &mut first)? {
            let field = find(fields, json, &mut next)?.map(|at| (at, &fields[at]));
            match (field, json.peek()) {
                (Some((at, field)), value) if field.wire[0] != 0 && value != b'n' => {
                    let start = out.len();
                    let number = field.wire.iter().rev().find(|n| **n != 0).map_or(0, |n| u32::from(*n));
                    match value {
                        b'{' | b'[' => self.known_field((ty.field_number(at), self.position), number, json, ty.of(field), out)?,
                        _ => self.field(number, json, ty.of(field), out)?,
                    }
                    self.segments.push(Segment { path: field.wire, start, end: out.len() });
                }
                _ => _ = json.skip()?,
            }
        }
        self.arrange(base, begun, out);
        self.depth -= 1;
        Ok(())
    }

    /// Brings the fields written since `begun` into the order of their numbers.
    fn arrange(&mut self, base: usize, begun: usize, out: &mut Vec<u8>) {
        let segments = &mut self.segments[base..];
        if !segments.is_sorted_by_key(|s| s.path) || segments.iter().any(|s| s.path[1] != 0) {
            segments.sort_by_key(|s| s.path);
            self.scratch.clear();
            group(segments, 0, out, &mut self.scratch);
            out.truncate(begun);
            out.extend_from_slice(&self.scratch);
        }
        self.segments.truncate(base);
    }

    /// As [`Encoder::field`], unless the value is the one that stood in this `place` before.
    fn known_field(&mut self, place: Place, number: u32, json: &mut Json<'_>, ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        let outcome = self.memo.write(place, json, out);
        if outcome == Outcome::Written {
            return Ok(());
        }
        let (from, start) = (json.at(), out.len());
        self.field(number, json, ty, out)?;
        if outcome == Outcome::Keep {
            self.memo.keep(place, json.since(from), &out[start..]);
        }
        Ok(())
    }

    fn field(&mut self, number: u32, json: &mut Json<'_>, ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        let mut first = true;
        match (ty.shape(), json.peek(), ty.element()) {
            (Shape::List(_), b'[', Some(inner)) => {
                json.expect(b'[')?;
                let around = std::mem::take(&mut self.position);
                while json.more(b']', &mut first)? {
                    self.single(number, json, inner, out)?;
                    self.position += 1;
                }
                self.position = around;
                Ok(())
            }
            (Shape::Map(_), b'{', Some(inner)) => {
                json.expect(b'{')?;
                while json.more(b'}', &mut first)? {
                    let key = json.key()?;
                    let mark = begin(number, out);
                    bytes(1, &key, out);
                    // The zero time is a message without fields.
                    match json.peek() {
                        b'n' => {
                            json.skip()?;
                            bytes(2, b"", out);
                        }
                        _ => self.single(2, json, inner, out)?,
                    }
                    finish(mark, out);
                }
                Ok(())
            }
            _ => self.single(number, json, ty, out),
        }
    }

    fn single(&mut self, number: u32, json: &mut Json<'_>, ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        match (ty.shape(), json.peek()) {
            (Shape::Bool, b't' | b'f') => integer(number, i64::from(json.scalar()? == b"true"), out),
            (Shape::Int32 | Shape::Int64, b'-' | b'0'..=b'9') => integer(number, json.integer()?, out),
            (Shape::Double, b'-' | b'0'..=b'9') => {
                tag(number, FIXED64, out);
                out.extend_from_slice(&json.double()?.to_le_bytes());
            }
            (Shape::String, b'"') => bytes(number, &json.string()?, out),
            (Shape::Bytes, b'"') => bytes(number, &STANDARD.decode(&*json.string()?).unwrap_or_default(), out),
            (Shape::Free, _) => {
                let raw = json.skip()?;
                tag(number, BYTES, out);
                varint((1 + varint_len(raw.len()) + raw.len()) as u64, out);
                bytes(1, raw, out);
            }
            (Shape::Struct(first, end), _) => {
                let mark = begin_with(number, if end - first > SMALL { 2 } else { 1 }, out);
                self.inner(json, ty, out)?;
                finish(mark, out);
            }
            (Shape::List(_) | Shape::Quantity | Shape::Time | Shape::MicroTime | Shape::IntOrString | Shape::Any, _) => {
                let mark = begin(number, out);
                self.inner(json, ty, out)?;
                finish(mark, out);
            }
            _ => _ = json.skip()?,
        }
        Ok(())
    }

    /// The inside of a value that is a message on the wire.
    fn inner(&mut self, json: &mut Json<'_>, ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        match (ty.shape(), json.peek()) {
            (Shape::Struct(..), b'{') => return self.fields(json, ty, out),
            // A list as the value of a map is a message of its own (`ExtraValue`).
            (Shape::List(_), b'[') => return self.field(1, json, ty, out),
            (Shape::Any, _) => return self.schema_form(json, ty, out),
            (Shape::Quantity, b'"') => bytes(1, &json.string()?, out),
            (Shape::Quantity, b'-' | b'0'..=b'9') => bytes(1, json.scalar()?, out),
            (Shape::Time | Shape::MicroTime, b'"') => time(&json.string()?, out),
            (Shape::IntOrString, b'"') => int_or_string(1, 0, &json.string()?, out),
            (Shape::IntOrString, b'-' | b'0'..=b'9') => int_or_string(0, json.integer()?, b"", out),
            _ => _ = json.skip()?,
        }
        Ok(())
    }

    /// The types of a CRD's schema whose JSON has more than one form.
    fn schema_form(&mut self, json: &mut Json<'_>, ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        let mut first = true;
        match (ty.struct_name(), json.peek()) {
            ("JSONSchemaPropsOrArray", b'[') => {
                json.expect(b'[')?;
                while json.more(b']', &mut first)? {
                    self.props(2, json, ty, out)?;
                }
            }
            ("JSONSchemaPropsOrStringArray", b'[') => {
                json.expect(b'[')?;
                while json.more(b']', &mut first)? {
                    bytes(2, &json.string()?, out);
                }
            }
            ("JSONSchemaPropsOrBool", b't' | b'f') => integer(1, i64::from(json.scalar()? == b"true"), out),
            ("JSONSchemaPropsOrBool", _) => {
                integer(1, 1, out);
                self.props(2, json, ty, out)?;
            }
            ("JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray", _) => self.props(1, json, ty, out)?,
            _ => bytes(1, json.skip()?, out),
        }
        Ok(())
    }

    fn props(&mut self, number: u32, json: &mut Json<'_>, ty: TypeRef<'_>, out: &mut Vec<u8>) -> Read<()> {
        match (schema_props(ty), json.peek()) {
            (Some(props), b'{') => self.single(number, json, props, out),
            _ => json.skip().map(|_| ()),
        }
    }
}

fn int_or_string(kind: i64, number: i64, text: &[u8], out: &mut Vec<u8>) {
    integer(1, kind, out);
    integer(2, number, out);
    bytes(3, text, out);
}

fn time(text: &[u8], out: &mut Vec<u8>) {
    let usual = plain_seconds(text).map(|seconds| (seconds, 0));
    let parsed = || crate::time::parse_time(std::str::from_utf8(text).ok()?).map(|at| (at.as_second(), at.subsec_nanosecond()));
    if let Some((seconds, nanos)) = usual.or_else(parsed) {
        integer(1, seconds, out);
        integer(2, i64::from(nanos), out);
    }
}

/// Seconds since 1970 of `2006-01-02T15:04:05Z`, the form of nearly every time in an object.
fn plain_seconds(text: &[u8]) -> Option<i64> {
    let fits = text.len() == 20 && [text[4], text[7], text[10], text[13], text[16], text[19]] == *b"--T::Z";
    if !fits {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to].iter().try_fold(0i64, |n, d| if d.is_ascii_digit() { Some(n * 10 + i64::from(d - b'0')) } else { None })
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    // Days before the month in a year that starts in March, so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::super::{fixtures, read};
    use super::*;
    use crate::decode::{Strictness, normalize};
    use serde_json::{Value, json};

    fn written(object: &Value, schema: &Schema) -> Vec<u8> {
        write(object.to_string().as_bytes(), schema).expect("an object")
    }

    /// The members of what is certainly no map in reverse order, with spaces.
    fn reversed(object: &Value) -> Vec<u8> {
        let members: Vec<_> = object.as_object().into_iter().flatten().map(|(key, value)| format!("{key:?} : {value}")).rev().collect();
        format!("{{ {} }}", members.join(" ,\n ")).into_bytes()
    }

    #[test]
    fn a_length_stands_right_whatever_was_guessed() {
        for (length, room) in [0, 1, 127, 128, 129, 16_383, 16_384, 70_000].into_iter().flat_map(|l| [(l, 1), (l, 2)]) {
            let (content, mut out, mut wanted) = (vec![7; length], b"before".to_vec(), b"before".to_vec());
            let mark = begin_with(3, room, &mut out);
            out.extend_from_slice(&content);
            finish(mark, &mut out);
            bytes(3, &content, &mut wanted);
            assert!(out == wanted, "{length} bytes, room for a length of {room}");
        }
    }

    #[test]
    fn an_item_is_as_long_as_was_counted() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 70_000] {
            let mut out = Vec::new();
            bytes(ITEMS, &vec![7; length], &mut out);
            assert_eq!(out.len(), item_len(length));
        }
    }

    #[test]
    fn an_object_comes_back_as_it_was() {
        let pod = Schema::builtin("io.k8s.api.core.v1.Pod").expect("a built-in type");
        let body = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "labels": {"a": "b\n\"ü"}, "creationTimestamp": "2026-01-02T03:04:05Z",
                         "annotations": {"long": "x".repeat(300)},
                         "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}, "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 5}}],
                     "volumes": [{"name": "v", "emptyDir": {}}, {"configMap": {"name": "cm", "items": [{"key": "k", "path": "p"}]}, "name": "w"}],
                     "securityContext": {"supplementalGroups": [1, -2]}}});
        let value = normalize(body, &pod, Strictness::Strict).expect("valid").value;
        let back = read(&written(&value, &pod), &pod).expect("our own bytes");
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
        let back = read(&written(&object, &crd), &crd).expect("our own bytes");
        assert_eq!(back["spec"]["versions"][0]["schema"]["openAPIV3Schema"], schema);
    }

    #[test]
    fn the_bytes_are_those_of_go() {
        // From the published encoding rules: a Service with a named target port, fields by number, ports before the address.
        let service = Schema::builtin("io.k8s.api.core.v1.Service").expect("a built-in type");
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80, "targetPort": "web"}]}});
        let port = [&[0x18, 80, 0x22, 9][..], &[0x08, 1, 0x10, 0, 0x1a, 3], b"web"].concat();
        let spec = [&[0x0a, port.len() as u8][..], &port, &[0x1a, 8], b"10.0.0.1"].concat();
        let raw = [&[0x0a, 3, 0x0a, 1][..], b"s", &[0x12, spec.len() as u8], &spec].concat();
        let kind = [&[0x0a, 2][..], b"v1", &[0x12, 7], b"Service"].concat();
        let all = [&b"k8s\0\x0a"[..], &[kind.len() as u8], &kind, &[0x12, raw.len() as u8], &raw, &[0x1a, 0, 0x22, 0]].concat();
        assert_eq!(written(&object, &service), all);
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let pod = Schema::builtin("io.k8s.api.core.v1.Pod").expect("a built-in type");
        let whole = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p\u00e9","labels":{"a":"b"}},"spec":{"containers":[{"name":"c","ports":[{"containerPort":80}]}]}}"#;
        assert!(write(whole, &pod).is_ok());
        for end in 0..whole.len() {
            assert!(write(&whole[..end], &pod).is_err(), "{end}");
        }
        let deep = format!("{}{}", "{\"not\":".repeat(5_000), "}".repeat(5_000));
        let props = Types::builtin().get("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps").expect("declared");
        assert!(Encoder::default().message(deep.as_bytes(), props, &mut Vec::new()).is_err());
    }

    #[test]
    fn times_are_read_as_the_calendar_has_them() {
        for text in ["1970-01-01T00:00:00Z", "2000-02-29T23:59:59Z", "2026-11-28T14:00:01Z", "1999-12-31T00:00:00Z", "2100-03-01T00:00:00Z"]
        {
            assert_eq!(plain_seconds(text.as_bytes()), crate::time::parse_time(text).map(|t| t.as_second()), "{text}");
        }
        assert_eq!(plain_seconds(b"2026-11-28T14:00:0xZ"), None);
    }

    #[test]
    fn a_watch_frame_has_its_length_in_front() {
        let frame = watch_frame("ADDED", b"k8s\0");
        assert_eq!(frame, [&[0, 0, 0, 15][..], &[0x0a, 5], b"ADDED", &[0x12, 6, 0x0a, 4], b"k8s\0"].concat());
    }

    #[test]
    fn the_published_objects_are_written_byte_for_byte() {
        let (mut seen, mut wrong) = (0, Vec::new());
        for path in fixtures().iter().filter(|p| p.extension().is_some_and(|e| e == "pb")) {
            let wire = std::fs::read(path).expect("a fixture");
            let json = std::fs::read(path.with_extension("json")).expect("its twin");
            let value: Value = serde_json::from_slice(&json).expect("JSON");
            let text = |key: &str| value[key].as_str().unwrap_or_default();
            let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
            let Some(name) = Types::builtin().name_of(group, version, text("kind")) else { continue };
            let schema = Schema::builtin(name).expect("just found");
            seen += 1;
            let ours = written(&value, &schema);
            // Names that stand where they are expected are not read, others are: both ways lead to the same bytes.
            assert_eq!(write(&reversed(&value), &schema).expect("an object"), ours, "{name}");
            // The schema of a CRD holds empty schemas, for which Go writes all zeros.
            if ours != wire && !(group == "apiextensions.k8s.io" && read(&ours, &schema) == read(&wire, &schema)) {
                wrong.push(name);
            }
        }
        assert!(wrong.is_empty(), "{} of {seen} differ: {wrong:?}", wrong.len());
        assert!(seen > 70 || fixtures().is_empty(), "only {seen} fixtures");
    }
}
