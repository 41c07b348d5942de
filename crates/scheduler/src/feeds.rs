//! What the scheduler watches, and how a change of it becomes a change of the [`State`].

use crate::class::Labels;
use crate::node::Node;
use crate::queue::event;
use crate::state::State;
use ferrokube_api::{Change, Listings, News, Object, ObjectKey, Selection};
use std::collections::HashSet;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are those of the kinds")]
pub enum Feed {
    Pods,
    Nodes,
    Namespaces,
    Services,
    ReplicationControllers,
    ReplicaSets,
    StatefulSets,
    Budgets,
    Claims,
    Volumes,
    StorageClasses,
    CsiNodes,
    CsiDrivers,
    Capacities,
    Attachments,
    Slices,
    DeviceClasses,
    ResourceClaims,
}

/// Group, version, resource of each feed.
pub const FEEDS: [(Feed, &str, &str, &str); 18] = [
    (Feed::Nodes, "", "v1", "nodes"),
    (Feed::Namespaces, "", "v1", "namespaces"),
    (Feed::Services, "", "v1", "services"),
    (Feed::ReplicationControllers, "", "v1", "replicationcontrollers"),
    (Feed::ReplicaSets, "apps", "v1", "replicasets"),
    (Feed::StatefulSets, "apps", "v1", "statefulsets"),
    (Feed::Budgets, "policy", "v1", "poddisruptionbudgets"),
    (Feed::Claims, "", "v1", "persistentvolumeclaims"),
    (Feed::Volumes, "", "v1", "persistentvolumes"),
    (Feed::StorageClasses, "storage.k8s.io", "v1", "storageclasses"),
    (Feed::CsiNodes, "storage.k8s.io", "v1", "csinodes"),
    (Feed::CsiDrivers, "storage.k8s.io", "v1", "csidrivers"),
    (Feed::Capacities, "storage.k8s.io", "v1", "csistoragecapacities"),
    (Feed::Attachments, "storage.k8s.io", "v1", "volumeattachments"),
    (Feed::Slices, "resource.k8s.io", "v1", "resourceslices"),
    (Feed::DeviceClasses, "resource.k8s.io", "v1", "deviceclasses"),
    (Feed::ResourceClaims, "resource.k8s.io", "v1", "resourceclaims"),
    (Feed::Pods, "", "v1", "pods"),
];

/// The subscription of a feed. Pods that have ended take no room and are not watched.
pub fn selection(feed: Feed, group: &str, version: &str, resource: &str) -> Selection {
    let fields = if feed == Feed::Pods { "status.phase!=Succeeded,status.phase!=Failed" } else { "" };
    Selection { group: group.into(), version: version.into(), resource: resource.into(), fields: fields.into(), ..Selection::default() }
}

/// Follows one subscription through its listings: turns every change into objects that are there or gone. What a listing
/// changes is told in one go: no pod is placed, and nobody evicted, by half of it.
#[derive(Default)]
pub struct Follower {
    known: HashSet<ObjectKey>,
    listings: Listings,
    /// The first listing is complete.
    pub synced: bool,
}

impl Follower {
    /// Calls `told` for every object that is there now, or that is gone (`None`).
    pub fn follow(&mut self, change: Change, mut told: impl FnMut(&ObjectKey, Option<&Object>)) {
        match self.listings.take(change) {
            None => {}
            Some(News::Set(object)) => {
                if !self.known.contains(&object.key) {
                    self.known.insert(object.key.clone());
                }
                told(&object.key, Some(&object));
            }
            Some(News::Gone(object)) => {
                if self.known.remove(&object.key) {
                    told(&object.key, None);
                }
            }
            Some(News::All(objects, _)) => {
                let listed: HashSet<ObjectKey> = objects.iter().map(|o| o.key.clone()).collect();
                let before = std::mem::replace(&mut self.known, listed);
                // What is gone comes first: nothing is ever counted twice.
                before.difference(&self.known).for_each(|key| told(key, None));
                objects.iter().for_each(|object| told(&object.key, Some(object)));
                self.synced = true;
            }
        }
    }
}

/// Applies a change of anything but pods; says what happened, as bits of [`event`].
pub fn apply(state: &mut State, feed: Feed, key: &ObjectKey, object: Option<&Object>) -> u32 {
    let read = match feed {
        Feed::Pods => Ok(0),
        Feed::Nodes => node(state, key, object),
        Feed::Namespaces => {
            state.set_namespace(&key.name, object.map(|o| -> Labels { o.labels.clone() }));
            Ok(0)
        }
        Feed::Services => state.owners.set_service(key, object).map(|()| 0),
        Feed::ReplicationControllers => state.owners.set_workload("ReplicationController", key, object).map(|()| 0),
        Feed::ReplicaSets => state.owners.set_workload("ReplicaSet", key, object).map(|()| 0),
        Feed::StatefulSets => state.owners.set_workload("StatefulSet", key, object).map(|()| 0),
        Feed::Budgets => state.owners.set_budget(key, object).map(|()| 0),
        Feed::Claims => state.storage.set_claim(key, object).map(|()| event::CLAIM),
        Feed::Volumes => state.storage.set_volume(&key.name, object).map(|()| event::VOLUME),
        Feed::StorageClasses => state.storage.set_class(&key.name, object).map(|()| event::STORAGE_CLASS),
        Feed::Slices => state.devices.set_slice(&key.name, object).map(|()| event::DEVICES),
        Feed::DeviceClasses => state.devices.set_class(&key.name, object).map(|()| event::DEVICES | event::DEVICE_CLASS),
        Feed::ResourceClaims => {
            state.devices.set_claim(key, object).map(|freed| event::DEVICES | if freed { event::DEVICES_FREED } else { 0 })
        }
        Feed::CsiNodes => state.storage.set_csi_node(&key.name, object).map(|()| event::CSI_NODE),
        Feed::CsiDrivers => state.storage.set_driver(&key.name, object).map(|()| event::CSI_DRIVER),
        Feed::Capacities => state.storage.set_capacity(key, object).map(|()| event::CAPACITY),
        Feed::Attachments => state.storage.set_attachment(&key.name, object).map(|()| if object.is_none() { event::DETACHED } else { 0 }),
    };
    read.unwrap_or_else(|error| {
        tracing::warn!(?feed, %key, "object cannot be read: {error}");
        0
    })
}

fn node(state: &mut State, key: &ObjectKey, object: Option<&Object>) -> Result<u32, serde_json::Error> {
    let Some(object) = object else {
        state.remove_node(&key.name);
        return Ok(event::NODE_DELETE);
    };
    let change = state.set_node(Node::read(object)?);
    let bits = [
        (change.added, event::NODE_ADD),
        (change.labels, event::NODE_LABEL),
        (change.taints, event::NODE_TAINT),
        (change.allocatable, event::NODE_ALLOCATABLE),
        (change.features, event::NODE_FEATURE),
    ];
    Ok(bits.into_iter().filter(|(yes, _)| *yes).map(|(_, bit)| bit).sum())
}
