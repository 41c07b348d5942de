//! Answers in Kubernetes protobuf, written straight from the stored bytes.
//!
//! The length of a list stands before its items. Objects remember how long theirs is, so a list is written while it is sent, as one in
//! JSON is; those that were never in such a list are written twice, the first time only to be counted.

use super::list::Many;
use super::negotiate::not_acceptable;
use super::pieces::{self, Begun};
use super::{Body, Shape, present};
use crate::registry::Entry;
use bytes::Bytes;
use ferrokube_api::protobuf::{self, ENVELOPE_TAIL, Encoder, ITEMS};
use ferrokube_api::schema::{Schema, Types};
use ferrokube_api::{Object, Status};
use parking_lot::Mutex;
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

/// How the objects of a list become its items.
struct Items {
    entry: Arc<Entry>,
    shape: Shape,
    /// Those that no piece needs right now: they have learned what the objects look like.
    encoders: Mutex<Vec<Encoder>>,
}

impl Items {
    fn with_encoder(&self, write: impl FnOnce(&mut Encoder) -> Result<(), Status>) -> Result<(), Status> {
        let mut encoder = self.encoders.lock().pop().unwrap_or_default();
        write(&mut encoder)?;
        self.encoders.lock().push(encoder);
        Ok(())
    }

    fn write(&self, objects: &[Arc<Object>], out: &mut Vec<u8>) -> Result<(), Status> {
        let mut scratch = Vec::new();
        self.with_encoder(|encoder| {
            objects.iter().try_for_each(|object| match self.shape {
                Shape::Object => {
                    let (shown, root) = (present::object(&self.entry, object)?, self.entry.schema.root());
                    shown.json.with(&mut scratch, |json| encoder.nested(ITEMS, json, root, out)).map_err(Status::internal)
                }
                _ => object.json.with(&mut scratch, |json| encoder.nested_partial(ITEMS, json, out)).map_err(Status::internal),
            })
        })
    }

    /// Writes those whose length nobody knows, only to know it. They are stored in the row's version.
    fn count(&self, objects: &[Arc<Object>], out: &mut Vec<u8>) -> Result<(), Status> {
        let mut scratch = Vec::new();
        self.with_encoder(|encoder| {
            // Another list may have counted some meanwhile.
            for object in objects.iter().filter(|o| o.json.wire_len().is_none()) {
                out.clear();
                let message = |json: &[u8]| encoder.message(json, self.entry.schema.root(), out);
                object.json.with(&mut scratch, message).map_err(Status::internal)?;
                object.json.count_wire(out.len());
            }
            out.clear();
            Ok(())
        })
    }
}

/// The length of all items together.
async fn counted(items: &Arc<Items>, objects: &[Arc<Object>]) -> Result<usize, Status> {
    let unknown: Vec<_> = objects.iter().filter(|o| o.json.wire_len().is_none()).cloned().collect();
    if !unknown.is_empty() {
        let items = items.clone();
        pieces::written(unknown, move |objects, out| items.count(objects, out)).await?;
    }
    Ok(objects.iter().map(|o| protobuf::item_len(o.json.wire_len().unwrap_or_default())).sum())
}

/// A page of objects, or of their metadata.
pub async fn many(entry: &Arc<Entry>, many: Many, shape: Shape, beta: bool) -> Result<Body, Status> {
    let list_meta = Types::builtin().get(LIST_META).ok_or_else(|| Status::internal("no type for the metadata of lists"))?;
    let mut metadata = Vec::with_capacity(256);
    Encoder::default().nested(1, many.metadata().to_string().as_bytes(), list_meta, &mut metadata).map_err(Status::internal)?;
    let head = |items: usize| {
        let raw = metadata.len() + items;
        let head = match shape {
            Shape::Object => protobuf::envelope_head(&entry.kind.api_version(), &entry.list_kind(), raw),
            _ => protobuf::envelope_head(meta_version(beta), PARTIAL_LIST, raw),
        };
        Bytes::from([&head[..], &metadata].concat())
    };
    let (items, tail) = (Arc::new(Items { entry: entry.clone(), shape, encoders: Mutex::default() }), Bytes::from_static(ENVELOPE_TAIL));
    let as_stored = || many.objects.first().is_some_and(|o| o.json.starts_with(entry.head.as_bytes()));
    if shape == Shape::Object && pieces::many(&many.objects) && as_stored() {
        let length = counted(&items, &many.objects).await?;
        let head = head(length);
        let whole = (head.len() + length + tail.len()) as u64;
        let Begun { first, rest } = pieces::begun(many.objects, move |objects, out| items.write(objects, out)).await?;
        return Ok(Body::pieces(vec![head, first], rest, tail, Some(whole)));
    }
    let mut blocks = pieces::written(many.objects, move |objects, out| items.write(objects, out)).await?;
    blocks.insert(0, head(blocks.iter().map(Bytes::len).sum()));
    blocks.push(tail);
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
