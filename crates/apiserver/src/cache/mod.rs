//! The watch cache: every stored object once per process, as bytes, with recent history and watchers.
//!
//! Reads never touch the disk and never decode: lists splice the bytes that stand here, watch events are shared. One
//! task per process follows the store ([`feed`]); a read that must be consistent waits until that task has applied the
//! store's revision. Nothing here knows HTTP, users or what an object means.

mod event;
mod feed;
mod kind;
mod load;
pub mod outline;
mod queue;
#[cfg(test)]
mod tests;
mod watchers;

pub use event::{Event, EventType, Projection};
pub use feed::Feed;
pub use kind::{KindCache, Range, Renew, Snapshot, TooOld, Watch};
pub use watchers::Interest;

use crate::objects::Objects;
use crate::registry::hash_of;
use ferrokube_api::Object;
use ferrokube_api::kinds::Kind;
use ferrokube_store::Store;
use futures_util::future::BoxFuture;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

#[derive(Debug, Default)]
struct Directory {
    /// By path segment below `/registry/`.
    by_prefix: HashMap<String, Arc<KindCache>>,
    /// By group and resource; resources stored together share a cache.
    by_resource: HashMap<u64, Vec<ByResource>>,
}

impl Directory {
    /// Puts a cache in its place, and returns the one that stood there.
    fn install(&mut self, cache: Arc<KindCache>) -> Option<Arc<KindCache>> {
        for (_, _, known) in self.by_resource.values_mut().flatten().filter(|(_, _, known)| known.prefix() == cache.prefix()) {
            *known = cache.clone();
        }
        self.by_prefix.insert(cache.prefix().to_owned(), cache)
    }
}

/// Group, resource and their cache. Looked up by the hash of both, without allocating.
type ByResource = (String, String, Arc<KindCache>);

/// All caches of the process.
pub struct Caches {
    store: Arc<dyn Store>,
    directory: RwLock<Directory>,
    applied: watch::Sender<u64>,
    /// What was before this, the store has forgotten.
    forgotten: AtomicU64,
}

impl Caches {
    fn new(store: Arc<dyn Store>) -> Self {
        Caches { store, directory: RwLock::default(), applied: watch::Sender::new(0), forgotten: AtomicU64::new(0) }
    }

    /// The cache that holds the objects of a row.
    pub fn of(&self, kind: &Kind) -> Option<Arc<KindCache>> {
        let directory = self.directory.read();
        directory.by_prefix.get(kind.storage_prefix.as_deref()?).cloned()
    }

    /// The cache of a resource, whatever the version.
    pub fn get(&self, group: &str, resource: &str) -> Option<Arc<KindCache>> {
        let directory = self.directory.read();
        let candidates = directory.by_resource.get(&hash_of((group, resource)))?;
        candidates.iter().find(|(g, r, _)| g == group && r == resource).map(|(_, _, cache)| cache.clone())
    }

    /// Every cache.
    pub fn all(&self) -> Vec<Arc<KindCache>> {
        self.directory.read().by_prefix.values().cloned().collect()
    }

    /// Ends every watch, for the server stops.
    pub fn end_watches(&self) {
        self.all().iter().for_each(|cache| cache.end_watches());
    }

    /// Everything at or before this revision is applied to all caches.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// The store was compacted up to here. Lists of what was before are refused, although a quiet kind could still tell: a
    /// page that goes on for ever in one place and not in another is no promise.
    pub fn forget_before(&self, revision: u64) {
        self.forgotten.fetch_max(revision, Ordering::Relaxed);
    }

    /// Whether that revision is forgotten.
    pub fn has_forgotten(&self, revision: u64) -> bool {
        revision < self.forgotten.load(Ordering::Relaxed)
    }

    /// Resolves with the applied revision when it is at least `revision`.
    pub async fn reach(&self, revision: u64) -> u64 {
        if self.applied() < revision {
            let mut applied = self.applied.subscribe();
            // The sender lives as long as `self`: no error can happen.
            let _ = applied.wait_for(|at| *at >= revision).await;
        }
        self.applied()
    }

    /// Resolves when the caches show everything that was acknowledged before the call.
    pub async fn consistent(&self) -> Result<u64, ferrokube_store::Error> {
        let revision = self.store.revision().await?;
        Ok(self.reach(revision).await)
    }

    /// As [`Caches::reach`], but gives up after `patience`: `Err` holds the applied revision.
    pub async fn reach_within(&self, revision: u64, patience: Duration) -> Result<u64, u64> {
        tokio::time::timeout(patience, self.reach(revision)).await.map_err(|_| self.applied())
    }
}

impl std::fmt::Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Caches(applied {})", self.applied())
    }
}

impl Objects for Caches {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        Caches::get(self, group, resource)?.get(namespace, name)
    }

    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
        Caches::get(self, group, resource).map(|cache| cache.list(namespace)).unwrap_or_default()
    }

    fn revision(&self, group: &str, resource: &str) -> u64 {
        Caches::get(self, group, resource).map_or(0, |cache| cache.revision())
    }

    fn catch_up<'a>(&'a self, _group: &'a str, _resource: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if let Err(error) = self.consistent().await {
                tracing::warn!(%error, "the store does not tell its revision; reading what the cache has");
            }
        })
    }

    fn changed<'a>(&'a self, group: &'a str, resource: &'a str, seen: u64) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Some(cache) = Caches::get(self, group, resource) else { return std::future::pending().await };
            let mut changes = cache.changes();
            let _ = changes.wait_for(|at| *at != seen).await;
        })
    }
}
