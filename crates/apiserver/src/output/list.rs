//! Lists on their way out: spliced, as Table, or as partial metadata.

use super::table::{self, Include};
use super::{Body, present};
use crate::registry::Entry;
use bytes::Bytes;
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
    pub fn table(self, entry: &Entry, include: Include, beta: bool) -> Result<Body, Status> {
        let now = jiff::Timestamp::now();
        let mut out = Vec::with_capacity(1024 + self.objects.len() * 512);
        table::head(&mut out, &self.metadata(), &table::columns(entry), beta);
        for (at, object) in self.objects.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            table::row(&mut out, entry, object, include, beta, now)?;
        }
        out.extend_from_slice(table::TAIL);
        Ok(Body::Full(out.into()))
    }

    /// `PartialObjectMetadataList` in JSON.
    pub fn partial(self, beta: bool) -> Result<Body, Status> {
        let version = if beta { "meta.k8s.io/v1beta1" } else { "meta.k8s.io/v1" };
        let mut out = self.head("PartialObjectMetadataList", version).to_vec();
        for (at, object) in self.objects.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            present::write_partial(&mut out, &object.json, beta)?;
        }
        out.extend_from_slice(b"]}\n");
        Ok(Body::Full(out.into()))
    }
}
