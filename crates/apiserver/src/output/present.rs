//! Objects in the version that the client asked for, and the partial forms of them.

use crate::cache::outline;
use crate::output::canonical;
use crate::registry::Entry;
use bytes::Bytes;
use ferrokube_api::{Object, Status};
use serde_json::Value;
use std::sync::Arc;

/// Puts the row's kind and version on a value.
pub fn stamp(entry: &Entry, value: &mut Value) {
    if let Value::Object(map) = value {
        map.insert("kind".into(), Value::from(entry.kind.kind.as_ref()));
        map.insert("apiVersion".into(), Value::from(entry.kind.api_version()));
    }
}

/// The object in the row's version: the very same `Arc` when it is stored in that version.
pub fn object(entry: &Entry, object: &Arc<Object>) -> Result<Arc<Object>, Status> {
    if object.json.starts_with(entry.head.as_bytes()) {
        return Ok(object.clone());
    }
    let mut value = value(entry, object)?;
    take_version(&mut value);
    let json = canonical::encode(&value);
    let shown = Object {
        key: object.key.clone(),
        uid: object.uid.clone(),
        revision: object.revision,
        labels: object.labels.clone(),
        fields: object.fields.clone(),
        json: outline::splice(&json, object.revision).map_err(Status::internal)?.into(),
    };
    Ok(Arc::new(shown))
}

/// The object decoded, in the row's version, `resourceVersion` included.
pub fn value(entry: &Entry, object: &Object) -> Result<Value, Status> {
    let mut value: Value = object.decode().map_err(Status::internal)?;
    if !object.json.starts_with(entry.head.as_bytes()) {
        if entry.custom.as_ref().is_some_and(|c| c.conversion.is_some()) {
            // Whoever shows objects has them converted first; names alone must never be changed here.
            return Err(Status::internal(format_args!("an object of {} was not converted", entry.kind.resource)));
        }
        if let Some(convert) = entry.kind.hooks.from_storage {
            convert(&mut value);
        }
        stamp(entry, &mut value);
    }
    Ok(value)
}

/// Takes `metadata.resourceVersion` out.
pub fn take_version(value: &mut Value) -> Option<String> {
    match value.get_mut("metadata")?.as_object_mut()?.remove("resourceVersion") {
        Some(Value::String(version)) => Some(version),
        _ => None,
    }
}

/// `PartialObjectMetadata` of an encoded object, spliced.
pub fn partial(json: &[u8], beta: bool) -> Result<Bytes, Status> {
    let mut out = Vec::with_capacity(1024);
    write_partial(&mut out, json, beta)?;
    Ok(out.into())
}

/// The same, written behind what is there. Only the metadata is looked at.
pub fn write_partial(out: &mut Vec<u8>, json: &[u8], beta: bool) -> Result<(), Status> {
    let metadata = outline::metadata(json).map_err(Status::internal)?;
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.extend_from_slice(if beta { b"v1beta1" } else { b"v1" });
    out.extend_from_slice(b"\",\"metadata\":");
    out.extend_from_slice(metadata);
    out.push(b'}');
    Ok(())
}
