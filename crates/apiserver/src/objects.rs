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

#[cfg(test)]
pub(crate) mod testing {
    //! A map of objects that stands in for caches and pipeline.

    use super::{Loopback, Objects, Target};
    use bytes::Bytes;
    use ferrokube_api::{Object, Status};
    use futures_util::future::BoxFuture;
    use parking_lot::RwLock;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    type Key = (String, String, String, String);

    #[derive(Default)]
    pub(crate) struct Map {
        objects: RwLock<BTreeMap<Key, Arc<Object>>>,
        revision: RwLock<u64>,
        pub(crate) writes: RwLock<Vec<Target>>,
    }

    impl Map {
        /// Puts an object; the uid defaults to `uid-<name>`.
        pub(crate) fn put(&self, group: &str, resource: &str, mut object: Value) -> Arc<Object> {
            let mut revision = self.revision.write();
            *revision += 1;
            let meta = &mut object["metadata"];
            let name = meta["name"].as_str().unwrap_or_default().to_owned();
            let namespace = meta["namespace"].as_str().unwrap_or_default().to_owned();
            meta["resourceVersion"] = json!(revision.to_string());
            if meta["uid"].is_null() {
                meta["uid"] = json!(format!("uid-{name}"));
            }
            let object = Object::from_json(Bytes::from(object.to_string())).expect("an object");
            let object = Arc::new(object);
            self.objects.write().insert((group.into(), resource.into(), namespace, name), object.clone());
            object
        }

        pub(crate) fn remove(&self, group: &str, resource: &str, namespace: &str, name: &str) {
            *self.revision.write() += 1;
            self.objects.write().remove(&(group.into(), resource.into(), namespace.into(), name.into()));
        }
    }

    impl Objects for Map {
        fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
            self.objects.read().get(&(group.into(), resource.into(), namespace.into(), name.into())).cloned()
        }

        fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Object>> {
            let objects = self.objects.read();
            let wanted = objects.iter().filter(|((g, r, n, _), _)| g == group && r == resource && (namespace.is_empty() || n == namespace));
            wanted.map(|(_, o)| o.clone()).collect()
        }

        fn revision(&self, _: &str, _: &str) -> u64 {
            *self.revision.read()
        }

        fn catch_up<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, ()> {
            Box::pin(std::future::ready(()))
        }

        fn changed<'a>(&'a self, _: &'a str, _: &'a str, _: u64) -> BoxFuture<'a, ()> {
            Box::pin(std::future::pending())
        }
    }

    impl Loopback for Map {
        fn create(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
            self.put(&target.group, &target.resource, object.clone());
            self.writes.write().push(target);
            Box::pin(std::future::ready(Ok(object)))
        }

        fn update(&self, target: Target, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
            self.create(target, object)
        }

        fn delete(&self, target: Target) -> BoxFuture<'_, Result<(), Status>> {
            self.remove(&target.group, &target.resource, &target.namespace, &target.name);
            Box::pin(std::future::ready(Ok(())))
        }
    }
}
