//! What authentication, authorization, admission and bootstrap may ask of the rest of the server: read objects from
//! the caches, and write through the pipeline as the server itself. Nothing here may know the store or a socket.
//!
//! Two narrow traits, so that every decision can be tested with a map of objects.

use ferrokube_api::{Object, Status};
use futures_util::future::BoxFuture;
use serde_json::Value;
use std::sync::Arc;

/// Read access to the current objects of every kind, by group and resource, whatever the version.
pub trait Objects: Send + Sync + 'static {
    /// One object. `namespace` is empty for cluster-scoped kinds.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// All objects of a namespace, or of all namespaces when it is empty, in key order.
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>>;

    /// A number that changes whenever an object of this kind changes. 0 when the kind is not known.
    fn revision(&self, group: &str, resource: &str) -> u64;

    /// Resolves when the cache of this kind shows everything that was acknowledged before the call.
    fn catch_up<'a>(&'a self, group: &'a str, resource: &'a str) -> BoxFuture<'a, ()>;

    /// Resolves when [`Objects::revision`] of this kind is no longer `seen`.
    fn changed<'a>(&'a self, group: &'a str, resource: &'a str, seen: u64) -> BoxFuture<'a, ()>;
}

/// Where a write of the server itself goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// API group; empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural.
    pub resource: String,
    /// Empty for the main resource.
    pub subresource: String,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    /// `metadata.name`; not used by a create.
    pub name: String,
}

/// Writes through the pipeline as `system:apiserver` in group `system:masters`, without a socket: the loopback client
/// of the Go server. Implemented by the pipeline.
pub trait Loopback: Send + Sync + 'static {
    /// POST. Answers with the created object.
    fn create(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>>;

    /// PUT. Answers with the updated object.
    fn update(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>>;

    /// DELETE.
    fn delete(&self, target: Target) -> BoxFuture<'_, Result<(), Status>>;
}
