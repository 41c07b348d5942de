//! From the bytes of a request to the value that the pipeline works on, as a Go API server would have read and re-encoded it.
//!
//! One walk by the schema finds unknown and duplicate fields, wrong types, canonical forms of quantities and times, and
//! the zeros that Go shows or hides. Errors and warnings are in the words of kube-apiserver: clients print them.
//! Nothing here defaults or validates; that is the business of the kind.

mod go;
mod scalar;
mod syntax;
#[cfg(test)]
mod tests;
mod yaml;

pub use syntax::explain;

use crate::field::{Errors, Path};
use crate::schema::{Gvk, Schema, Types};
use crate::status::Status;
use serde::de::DeserializeSeed;
use serde_json::Value;

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// `fieldValidation` of the request. The server's default is `Warn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Unknown and duplicate fields fail the request.
    Strict,
    /// They become warnings.
    Warn,
    /// They are dropped in silence.
    Ignore,
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind`.
    pub value: Value,
    /// Texts for `Warning: 299` headers.
    pub warnings: Vec<String>,
}

/// Decodes a request body as the kind that `schema` is the root of.
///
/// # Errors
/// 400 for bytes that are not JSON or YAML, another kind than expected, wrong types, and, when strict, for unknown or duplicate fields.
pub fn decode(bytes: &[u8], content: ContentType, schema: &Schema, strictness: Strictness) -> Result<Decoded, Status> {
    let fallback = Gvk { group: "".into(), version: "".into(), kind: "".into() };
    decode_as(bytes, content, schema, schema.root().gvk().unwrap_or(&fallback), strictness)
}

/// [`decode`] for a type that serves several kinds (`DeleteOptions`, `Scale`): `expected` names the one that an object without
/// `apiVersion` and `kind` is.
///
/// # Errors
/// As [`decode`].
pub fn decode_as(bytes: &[u8], content: ContentType, schema: &Schema, expected: &Gvk, strictness: Strictness) -> Result<Decoded, Status> {
    match content {
        ContentType::Json => {
            let mut walk = go::Walk::new(strictness != Strictness::Ignore);
            let mut source = serde_json::Deserializer::from_slice(bytes);
            let value = walk.at(schema.root()).deserialize(&mut source).and_then(|v| source.end().map(|()| v));
            let value = value.map_err(|e| {
                unreadable(expected, &format!("couldn't get version/kind; json parse error: {}", syntax::explain(bytes, &e)), bytes)
            })?;
            let value = something(&mut walk, value, schema);
            finish(walk, value, expected, strictness, bytes)
        }
        ContentType::Yaml => {
            let document = yaml::parse(bytes).map_err(|text| unreadable(expected, &text, bytes))?;
            let mut walk = go::Walk::new(strictness != Strictness::Ignore);
            walk.findings.extend(document.duplicate.filter(|_| strictness != Strictness::Ignore));
            let value = walk_value(&mut walk, document.value, schema);
            let value = something(&mut walk, value, schema);
            finish(walk, value, expected, strictness, bytes)
        }
    }
}

/// Brings a value that a patch made into the form that [`decode`] gives, with the same errors.
///
/// # Errors
/// As [`decode`].
pub fn normalize(value: Value, schema: &Schema, strictness: Strictness) -> Result<Decoded, Status> {
    let fallback = Gvk { group: "".into(), version: "".into(), kind: "".into() };
    let mut walk = go::Walk::new(strictness != Strictness::Ignore);
    let value = walk_value(&mut walk, value, schema);
    let value = something(&mut walk, value, schema);
    finish(walk, value, schema.root().gvk().unwrap_or(&fallback), strictness, b"")
}

/// Reads by its type what somebody made of an object after it was decoded: unknown fields are passed over.
///
/// # Errors
/// What does not fit, in the words of Go's decoder.
pub fn again(value: Value, schema: &Schema) -> Result<Value, String> {
    let mut walk = go::Walk::new(false);
    let value = walk_value(&mut walk, value, schema);
    walk.failure.map_or(Ok(value), Err)
}

/// [`normalize`] for the result of a patch: what does not fit is a 422 whose cause shows the patch. `findings` are the duplicate fields of the
/// patch itself ([`parse`]); `patch` shows it, for which few patches give a reason.
///
/// # Errors
/// 422 for wrong types, and, when strict, for unknown or duplicate fields.
pub fn patched(
    value: Value,
    schema: &Schema,
    strictness: Strictness,
    patch: &dyn Fn() -> String,
    mut findings: Vec<String>,
) -> Result<Decoded, Status> {
    let mut walk = go::Walk::new(strictness != Strictness::Ignore);
    let value = walk_value(&mut walk, value, schema);
    let refused = |why: String| {
        let mut errors = Errors::default();
        errors.invalid(&Path::new("patch"), &Value::from(patch()), &why);
        Status::invalid("", "", "", errors.into_causes())
    };
    if let Some(failure) = walk.failure {
        return Err(refused(failure));
    }
    findings.append(&mut walk.findings);
    match strictness {
        Strictness::Strict if !findings.is_empty() => Err(refused(format!("strict decoding error: {}", findings.join(", ")))),
        Strictness::Warn => Ok(Decoded { value, warnings: findings }),
        _ => Ok(Decoded { value, warnings: Vec::new() }),
    }
}

/// Parses bytes without a schema, as a patch or an apply configuration is read. Gives the duplicate fields found besides the value.
///
/// # Errors
/// 400 in the words of the decoder.
pub fn parse(bytes: &[u8], content: ContentType) -> Result<(Value, Vec<String>), Status> {
    match content {
        ContentType::Json => {
            let mut walk = go::Walk::new(true);
            let mut source = serde_json::Deserializer::from_slice(bytes);
            let value = walk.anything().deserialize(&mut source).and_then(|v| source.end().map(|()| v));
            let value = value.map_err(|e| Status::bad_request(format!("error decoding patch: {}", syntax::explain(bytes, &e))))?;
            Ok((value, walk.findings))
        }
        ContentType::Yaml => {
            let document = yaml::parse(bytes).map_err(|text| Status::bad_request(format!("error decoding YAML: {text}")))?;
            Ok((document.value, document.duplicate.into_iter().collect()))
        }
    }
}

/// What Go's decoder calls a value of that kind.
pub fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A [`Value`] cannot fail as a source, except for nesting that serde_json already refused.
fn walk_value(walk: &mut go::Walk<'_>, value: Value, schema: &Schema) -> Value {
    // The walk borrows the schema for as long as it lives; findings are owned.
    let mut inner = go::Walk::new(walk.tracks());
    let result = inner.at(schema.root()).deserialize(value);
    walk.findings.append(&mut inner.findings);
    walk.failure = walk.failure.take().or(inner.failure.take());
    result.unwrap_or_else(|e| {
        walk.failure.get_or_insert(e.to_string());
        Value::Null
    })
}

/// Go reads `null` into a struct as nothing at all: the object with the zeros that it shows.
fn something(walk: &mut go::Walk<'_>, value: Value, schema: &Schema) -> Value {
    match value {
        Value::Null if walk.failure.is_none() => walk_value(walk, Value::Object(serde_json::Map::new()), schema),
        value => value,
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn finish(walk: go::Walk<'_>, mut value: Value, expected: &Gvk, strictness: Strictness, bytes: &[u8]) -> Result<Decoded, Status> {
    if let (Value::Object(object), false) = (&mut value, expected.kind.is_empty()) {
        for (key, default) in [("kind", &*expected.kind), ("apiVersion", &*expected.api_version())] {
            let slot = object.entry(key).or_insert(Value::Null);
            if slot.is_null() || slot.as_str() == Some("") {
                *slot = Value::from(default);
            }
        }
    }
    if let Some(failure) = walk.failure {
        return Err(if value.is_object() { unusable(&value, expected, &failure) } else { nameless(expected, &failure, bytes) });
    }
    check_kind(&value, expected)?;
    match strictness {
        Strictness::Strict if !walk.findings.is_empty() => {
            let list = walk.findings.join(", ");
            Err(unusable(&value, expected, &format!("strict decoding error: {list}")))
        }
        Strictness::Warn => Ok(Decoded { value, warnings: walk.findings }),
        _ => Ok(Decoded { value, warnings: Vec::new() }),
    }
}

/// The object names a kind, but does not fit it.
fn unusable(value: &Value, expected: &Gvk, why: &str) -> Status {
    let (kind, api_version) = (text(value, "kind"), text(value, "apiVersion"));
    let version = api_version.rsplit('/').next().unwrap_or(api_version);
    Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {}: {why}", expected.kind))
}

/// The bytes do not even name a kind.
fn unreadable(expected: &Gvk, why: &str, bytes: &[u8]) -> Status {
    let shown = syntax::summarize(bytes, 30);
    Status::bad_request(format!("the object provided is unrecognized (must be of type {}): {why} ({shown})", expected.kind))
}

/// Something else than an object: upstream fails when it looks for the kind, in a struct of these two fields.
fn nameless(expected: &Gvk, failure: &str, bytes: &[u8]) -> Status {
    let found = failure.strip_prefix("json: cannot unmarshal ").and_then(|f| f.split(' ').next()).unwrap_or("value");
    let target = r#"struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;
    unreadable(
        expected,
        &format!("couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type {target}"),
        bytes,
    )
}

fn check_kind(value: &Value, expected: &Gvk) -> Result<(), Status> {
    if expected.kind.is_empty() || !value.is_object() {
        return Ok(());
    }
    let (kind, api_version) = (text(value, "kind"), text(value, "apiVersion"));
    if kind == expected.kind && is_version(api_version, expected) {
        return Ok(());
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    // Options of meta/v1 are registered in every group, those of custom kinds too.
    if kind == expected.kind && kind.ends_with("Options") {
        return Ok(());
    }
    if !Types::builtin().serves(group, version, kind) {
        let scheme = "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30";
        return Err(unusable(value, expected, &format!("no kind {kind:?} is registered for version {api_version:?} in scheme {scheme:?}")));
    }
    if kind == expected.kind {
        let wanted = expected.api_version();
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        )));
    }
    let internal = |group: &str| if group.is_empty() { "core".to_owned() } else { group.split('.').next().unwrap_or(group).to_owned() };
    let why = format!("converting ({version}.{kind}) to ({}.{}): unknown conversion", internal(&expected.group), expected.kind);
    Err(unusable(value, expected, &why))
}

fn is_version(api_version: &str, expected: &Gvk) -> bool {
    match api_version.split_once('/') {
        None => expected.group.is_empty() && api_version == expected.version,
        Some((group, version)) => group == expected.group && version == expected.version,
    }
}
