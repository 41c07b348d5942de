//! Dependents that no cache shows yet: what was made a moment ago is on its way in a watch that may be behind the one that told of the
//! owner's deletion. Upstream orphans what its graph knows and collects the rest; here the API server is asked before the owner goes.
//! Deletions that orphan are rare, so a listing of metadata for each resource is cheap enough.

use super::collect::Collector;
use super::graph::Node;
use crate::discovery::ApiResource;
use ferrokube_client::{Error, Optional, Target};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde::Deserialize;
use std::sync::Arc;

/// Listings at once.
const AT_ONCE: usize = 4;

/// Other servers write `null` where there is nothing.
#[derive(Deserialize)]
struct List {
    #[serde(default)]
    items: Option<Vec<Item>>,
}

#[derive(Deserialize)]
struct Item {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    name: String,
    #[serde(default)]
    namespace: String,
    uid: String,
    #[serde(default)]
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize)]
struct Owner {
    uid: String,
}

impl Collector {
    /// UIDs and places of the objects that name this owner now, as the API server has them.
    pub(super) async fn unseen(&self, owner: &str, node: &Node) -> Result<Vec<(String, Target)>, Error> {
        // Whoever lives in a namespace can only own there.
        let may_depend = |r: &ApiResource| r.namespaced || !node.resource.namespaced;
        let resources: Vec<Arc<ApiResource>> = self.monitors.caches.read().keys().filter(|r| may_depend(r)).cloned().collect();
        let found = stream::iter(resources).map(|resource| async move { self.dependents_among(&resource, owner, node).await });
        let found: Vec<Vec<_>> = found.buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn dependents_among(&self, resource: &ApiResource, owner: &str, node: &Node) -> Result<Vec<(String, Target)>, Error> {
        let namespace = if resource.namespaced { node.key.namespace.to_string() } else { String::new() };
        let target = Target { namespace, ..resource.target() };
        let body = match self.context.client.list_metadata(&target, "").await.optional() {
            Ok(Some(body)) => body,
            // Its definition has gone, and its objects with it.
            Ok(None) => return Ok(Vec::new()),
            // What another server has, the caches have to do for while it is away.
            Err(_) if self.sources.are_elsewhere(&resource.group) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let list: List = serde_json::from_slice(&body).map_err(|source| Error::Decode { what: "PartialObjectMetadataList", source })?;
        let names = |m: &Meta| m.owner_references.iter().flatten().any(|o| o.uid == *owner);
        let named = list.items.into_iter().flatten().map(|i| i.metadata).filter(names);
        Ok(named.map(|m| (m.uid, Target { namespace: m.namespace, name: m.name, ..resource.target() })).collect())
    }
}
