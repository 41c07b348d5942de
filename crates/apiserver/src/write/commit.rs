//! The store transaction: encoded bytes in, an object with its revision out.

use super::prepare;
use crate::cache::{KindCache, outline};
use crate::output::{canonical, present};
use crate::pipeline::Request;
use crate::verbs::list::store_failure;
use bytes::Bytes;
use ferrokube_api::{Object, ObjectKey, Status, protobuf};
use ferrokube_store::{Committed, Error as StoreError, Expect};
use serde_json::Value;
use std::sync::Arc;

/// Why a write did not happen.
pub enum Lost {
    /// Somebody else wrote first; the revision that stands there now, if any.
    Race(Option<u64>),
    /// The client is told this.
    Refused(Status),
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Lost::Refused(status)
    }
}

fn lost(error: StoreError) -> Lost {
    match error {
        StoreError::Conflict { actual } => Lost::Race(actual),
        other => Lost::Refused(store_failure(&other)),
    }
}

impl Request<'_> {
    /// The key of an object in the store.
    pub fn key(&self, cache: &KindCache, name: &str) -> Result<Bytes, Status> {
        let key = cache.row().storage_key(self.namespace(), name).ok_or_else(Status::method_not_allowed)?;
        Ok(key.into_bytes().into())
    }

    /// Bytes as stored: in the storage version, without revision.
    pub async fn stored_bytes(&self, cache: &KindCache, object: &Value) -> Result<Bytes, Status> {
        let row = cache.row();
        if row.group == self.entry.kind.group && row.version == self.entry.kind.version {
            return Ok(canonical::encode(object).into());
        }
        if let Some(converter) = self.converter() {
            let stored = converter.convert(&*self.server.caches, &row.api_version(), vec![object.clone()]).await?;
            return Ok(canonical::encode(stored.first().unwrap_or(object)).into());
        }
        let mut stored = object.clone();
        if let Some(convert) = self.entry.kind.hooks.to_storage {
            convert(&mut stored);
        }
        if let Value::Object(map) = &mut stored {
            map.insert("kind".into(), Value::from(row.kind.as_ref()));
            map.insert("apiVersion".into(), Value::from(row.api_version()));
        }
        Ok(canonical::encode(&stored).into())
    }

    fn converter(&self) -> Option<&crate::crd::Converter> {
        self.entry.custom.as_ref()?.conversion.as_ref()
    }

    /// Whether the stored bytes are not what would be written now: of a version that was the storage version once, or encrypted in another
    /// way than the configuration says, or not at all. Writing the same again is how objects are moved to another version or key.
    pub async fn is_stale_at_rest(&self, cache: &KindCache, name: &str) -> Result<bool, Status> {
        let earlier = cache.get(self.namespace(), name).is_some_and(|stored| {
            let version = cache.row().api_version();
            protobuf::named(&stored.json()).is_ok_and(|(stored, _)| *stored != *version.as_bytes())
        });
        let Some(sealed) = self.server.sealed.as_ref().filter(|_| !earlier) else { return Ok(earlier) };
        sealed.is_stale(self.key(cache, name)?).await.map_err(|e| store_failure(&e))
    }

    /// Writes; the answer is the object as a reader sees it.
    pub async fn put(&self, cache: &KindCache, object: &Value, expect: Expect) -> Result<Arc<Object>, Lost> {
        let name = prepare::text(object, "name");
        let stored = self.stored_bytes(cache, object).await?;
        let key = self.key(cache, name)?;
        let ttl = super::rules::expires(&self.entry).then_some(self.server.event_ttl);
        let committed = self.server.store.put(key, stored.clone(), expect, ttl).await.map_err(lost)?;
        // Whoever reads after this answer, admission and authorization included, reads what was written.
        self.server.caches.reach(committed.revision).await;
        // Most of the time nobody has written since, and the cache holds the very object.
        let cached = cache.get(self.namespace(), name).filter(|o| o.revision == committed.revision);
        let stored = match cached {
            Some(object) => object,
            None => Arc::new(outline::object(&cache.row().fields, &stored, committed.revision, None).map_err(Status::internal)?),
        };
        let stored = self.server.converted_one(&self.entry, stored).await?;
        Ok(present::object(&self.entry, &stored)?)
    }

    /// Deletes what stands at `revision`.
    pub async fn remove(&self, cache: &KindCache, name: &str, revision: u64) -> Result<Committed, Lost> {
        let key = self.key(cache, name)?;
        let committed = self.server.store.delete(key, Expect::Revision(revision)).await.map_err(lost)?;
        self.server.caches.reach(committed.revision).await;
        Ok(committed)
    }

    /// An object that is not (or no longer) in the store, for an answer. Revision 0 shows none.
    pub fn unstored(&self, object: &Value, revision: u64) -> Result<Arc<Object>, Status> {
        let bytes = canonical::encode(object);
        let json = if revision == 0 { Bytes::from(bytes) } else { outline::splice(&bytes, revision).map_err(Status::internal)? };
        Ok(Arc::new(Object {
            key: ObjectKey::new(prepare::text(object, "namespace"), prepare::text(object, "name")),
            uid: prepare::text(object, "uid").into(),
            revision,
            labels: Arc::default(),
            fields: Arc::default(),
            json: json.into(),
        }))
    }
}
