//! Answers in Kubernetes protobuf, written straight from the stored bytes.
//!
//! The length of a list stands before its items, so a list is written as a whole before it is sent.

use super::list::Many;
use super::negotiate::not_acceptable;
use super::{Body, Shape, pieces, present};
use crate::registry::Entry;
use bytes::Bytes;
use ferrokube_api::protobuf::{self, ENVELOPE_TAIL, Encoder};
use ferrokube_api::schema::{Schema, Types};
use ferrokube_api::{Object, Status};
use std::sync::Arc;

const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const PARTIAL: &str = "PartialObjectMetadata";
const PARTIAL_LIST: &str = "PartialObjectMetadataList";

fn meta_version(beta: bool) -> &'static str {
    if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" }
}

/// An object of the row, or its metadata. Tables have no such form.
pub fn one(entry: &Entry, json: &[u8], shape: Shape, beta: bool) -> Result<Bytes, Status> {
    if shape == Shape::Object {
        return protobuf::write(json, &entry.schema).map(Bytes::from).map_err(Status::internal);
    }
    let mut raw = Vec::with_capacity(1024);
    Encoder::default().partial(json, &mut raw).map_err(Status::internal)?;
    Ok(protobuf::enveloped(meta_version(beta), PARTIAL, &raw).into())
}

/// A page of objects, or of their metadata.
pub async fn many(entry: &Arc<Entry>, many: Many, shape: Shape, beta: bool) -> Result<Body, Status> {
    let list_meta = Types::builtin().get(LIST_META).ok_or_else(|| Status::internal("no type for the metadata of lists"))?;
    let mut metadata = Vec::with_capacity(256);
    Encoder::default().nested(1, many.metadata().to_string().as_bytes(), list_meta, &mut metadata).map_err(Status::internal)?;
    let item_entry = entry.clone();
    let items = move |objects: &[Arc<Object>], out: &mut Vec<u8>| {
        let mut encoder = Encoder::default();
        objects.iter().try_for_each(|object| match shape {
            Shape::Object => {
                let shown = present::object(&item_entry, object)?;
                encoder.nested(2, &shown.json(), item_entry.schema.root(), out).map_err(Status::internal)
            }
            _ => encoder.nested_partial(2, &object.json(), out).map_err(Status::internal),
        })
    };
    let mut blocks = pieces::written(many.objects, items).await?;
    blocks.insert(0, metadata.into());
    let raw = blocks.iter().map(Bytes::len).sum();
    let head = match shape {
        Shape::Object => protobuf::envelope_head(&entry.kind.api_version(), &entry.list_kind(), raw),
        _ => protobuf::envelope_head(meta_version(beta), PARTIAL_LIST, raw),
    };
    blocks.insert(0, head.into());
    blocks.push(Bytes::from_static(ENVELOPE_TAIL));
    Ok(Body::blocks(blocks))
}

/// A value of any built-in kind (`Status`, `Scale`, discovery documents), found by its name.
pub fn value(json: &[u8]) -> Result<Bytes, Status> {
    let (api_version, kind) = protobuf::named(json).map_err(Status::internal)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (api_version, kind) = (text(&api_version), text(&kind));
    // Discovery's oldest documents do not say their version.
    let api_version = if api_version.is_empty() { "v1".to_owned() } else { api_version };
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let name = Types::builtin().name_of(group, version, &kind);
    let schema = name.and_then(Schema::builtin).ok_or_else(|| not_acceptable(false))?;
    let mut raw = Vec::with_capacity(json.len());
    Encoder::default().message(json, schema.root(), &mut raw).map_err(Status::internal)?;
    Ok(protobuf::enveloped(&api_version, &kind, &raw).into())
}
