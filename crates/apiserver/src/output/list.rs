//! Lists on their way out: spliced, as Table, or as partial metadata.

use super::pieces::{self, Begun};
use super::table::{self, Include};
use super::{Body, present};
use crate::registry::Entry;
use bytes::{Buf, Bytes};
use ferrokube_api::{Object, Status};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A page of objects with its `metadata`.
#[derive(Clone, Debug)]
pub struct Many {
    /// In the order shown.
    pub objects: Vec<Arc<Object>>,
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// `metadata.continue`; empty on the last page.
    pub token: String,
    /// `metadata.remainingItemCount`, when it is known exactly.
    pub remaining: Option<usize>,
}

impl Many {
    /// `metadata` as JSON.
    pub fn metadata(&self) -> Value {
        let mut meta = Map::new();
        meta.insert("resourceVersion".into(), Value::from(self.revision.to_string()));
        if !self.token.is_empty() {
            meta.insert("continue".into(), Value::from(self.token.as_str()));
        }
        if let Some(remaining) = self.remaining.filter(|n| *n > 0) {
            meta.insert("remainingItemCount".into(), Value::from(remaining));
        }
        Value::Object(meta)
    }

    fn head(&self, kind: &str, api_version: &str) -> Bytes {
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{},\"items\":[", self.metadata()).into()
    }

    /// `<Kind>List` in JSON.
    pub fn plain(self, entry: &Entry) -> Result<Body, Status> {
        let head = self.head(&entry.list_kind(), &entry.kind.api_version());
        let stored_here = self.objects.first().is_none_or(|o| o.json.starts_with(entry.head.as_bytes()));
        let objects =
            if stored_here { self.objects } else { self.objects.iter().map(|o| present::object(entry, o)).collect::<Result<_, _>>()? };
        // Items of built-in lists carry no kind and apiVersion of their own, those of custom ones do.
        let skip = if entry.custom.is_some() { 0 } else { entry.head.len() };
        Ok(Body::splice(head, objects, skip, Bytes::from_static(b"]}\n")))
    }

    /// `Table` in JSON.
    pub async fn table(self, entry: &Arc<Entry>, include: Include, beta: bool) -> Result<Body, Status> {
        let (now, row_entry) = (jiff::Timestamp::now(), entry.clone());
        let mut head = Vec::with_capacity(1024);
        table::head(&mut head, &self.metadata(), &table::columns(entry), beta);
        let row = move |object: &Arc<Object>, out: &mut Vec<u8>| table::row(out, &row_entry, object, include, beta, now);
        joined(head.into(), self.objects, row, table::TAIL).await
    }

    /// `PartialObjectMetadataList` in JSON.
    pub async fn partial(self, beta: bool) -> Result<Body, Status> {
        let version = if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" };
        let head = self.head("PartialObjectMetadataList", version);
        joined(head, self.objects, move |object, out| present::write_partial(out, &object.json(), beta), b"]}\n").await
    }
}

/// A JSON list: what `item` writes for each object, between commas.
async fn joined<F>(head: Bytes, objects: Vec<Arc<Object>>, item: F, tail: &'static [u8]) -> Result<Body, Status>
where
    F: Fn(&Arc<Object>, &mut Vec<u8>) -> Result<(), Status> + Send + Sync + 'static,
{
    let items = move |objects: &[Arc<Object>], out: &mut Vec<u8>| {
        objects.iter().try_for_each(|object| {
            out.push(b',');
            item(object, out)
        })
    };
    let Begun { mut first, rest } = pieces::begun(objects, items).await?;
    // No comma stands before the first one.
    first.advance(first.len().min(1));
    Ok(Body::pieces(vec![head, first], rest, Bytes::from_static(tail), None))
}
