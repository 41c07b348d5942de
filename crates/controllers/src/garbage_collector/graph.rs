//! Who owns whom, by UID: pure.
//!
//! Only objects with owners, and objects whose deletion waits for the collector, have a node; everything else is only
//! known to its cache. A node is a key, a UID and owner references, never the object.

use crate::discovery::ApiResource;
use ferrokube_client::{Object, ObjectKey};
use serde::{Deserialize, Deserializer};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Finalizer of a deletion that leaves the dependents alone.
pub const ORPHAN: &str = "orphan";
/// Finalizer of a deletion that waits for the dependents.
pub const FOREGROUND: &str = "foregroundDeletion";

/// An owner, as a node remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Owner {
    /// UID.
    #[serde(deserialize_with = "text")]
    pub uid: Arc<str>,
    /// `blockOwnerDeletion`.
    #[serde(default, rename = "blockOwnerDeletion")]
    pub blocks: bool,
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<str>, D::Error> {
    Box::<str>::deserialize(deserializer).map(Arc::from)
}

/// An object, as the collector remembers it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its resource.
    pub resource: Arc<ApiResource>,
    /// Namespace and name.
    pub key: ObjectKey,
    /// Its owners.
    pub owners: Vec<Owner>,
    /// Has a deletion timestamp.
    pub deleting: bool,
    /// Waits for its dependents to go.
    pub foreground: bool,
    /// Waits for its dependents to be let go.
    pub orphan: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    owner_references: Option<Vec<Owner>>,
    #[serde(default)]
    deletion_timestamp: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    finalizers: Option<Vec<Box<str>>>,
}

/// What an encoded object is to the collector.
pub fn node(resource: &Arc<ApiResource>, object: &Object) -> Node {
    let meta = object.metadata::<Meta>().unwrap_or_default();
    let deleting = meta.deletion_timestamp.is_some();
    let has = |name: &str| deleting && meta.finalizers.iter().flatten().any(|f| **f == *name);
    Node {
        resource: resource.clone(),
        key: object.key.clone(),
        deleting,
        foreground: has(FOREGROUND),
        orphan: has(ORPHAN),
        owners: meta.owner_references.unwrap_or_default(),
    }
}

/// All nodes, and dependents by owner.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Arc<str>, Node>,
    dependents: HashMap<Arc<str>, HashSet<Arc<str>>>,
}

impl Graph {
    /// The node of a UID.
    pub fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// UIDs and nodes of the dependents of an owner.
    pub fn dependents(&self, uid: &str) -> Vec<(Arc<str>, Node)> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| Some((d.clone(), self.nodes.get(d)?.clone()))).collect()
    }

    /// The object exists and looks like this; returns the UIDs to look at. `known` tells whether a cache shows an object
    /// with the UID of an owner.
    pub fn set(&mut self, uid: &Arc<str>, mut node: Node, known: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let before = self.unlink(uid);
        let mut look = Vec::new();
        // An owner that waits for its dependents must learn when one no longer blocks it.
        let owners = before.iter().flat_map(|n| &n.owners).chain(&node.owners);
        look.extend(owners.filter(|o| self.nodes.get(&o.uid).is_some_and(|n| n.foreground)).map(|o| o.uid.clone()));
        let owned = !node.owners.is_empty() && !node.deleting;
        let lost = |o: &Owner| !known(&o.uid) || self.nodes.get(&o.uid).is_some_and(|n| n.foreground);
        if node.foreground || node.orphan || (owned && node.owners.iter().any(lost)) {
            look.push(uid.clone());
        }
        let newly = |now: bool, was: fn(&Node) -> bool| now && !before.as_ref().is_some_and(was);
        if newly(node.foreground, |n| n.foreground) {
            look.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        }
        if !node.owners.is_empty() || node.foreground || node.orphan {
            for owner in &mut node.owners {
                // Many dependents of one owner share its UID.
                if let Some((known, _)) = self.dependents.get_key_value(&owner.uid) {
                    owner.uid = known.clone();
                }
                self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
            }
            self.nodes.insert(uid.clone(), node);
        }
        look
    }

    /// The object is gone; returns the UIDs to look at.
    pub fn remove(&mut self, uid: &str) -> Vec<Arc<str>> {
        let before = self.unlink(uid);
        let mut look: Vec<Arc<str>> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        let owners = before.into_iter().flat_map(|n| n.owners);
        look.extend(owners.filter(|o| self.nodes.get(&o.uid).is_some_and(|n| n.foreground)).map(|o| o.uid));
        look
    }

    /// Nodes with an owner that no cache shows.
    pub fn lost(&self, known: impl Fn(&Node, &str) -> bool) -> Vec<Arc<str>> {
        let lost = |node: &Node| node.owners.iter().any(|o| !known(node, &o.uid));
        self.nodes.iter().filter(|(_, node)| lost(node)).map(|(uid, _)| uid.clone()).collect()
    }

    /// The resource is no longer served.
    pub fn forget(&mut self, resource: &ApiResource) {
        let gone: Vec<Arc<str>> = self.nodes.iter().filter(|(_, n)| *n.resource == *resource).map(|(uid, _)| uid.clone()).collect();
        gone.iter().for_each(|uid| drop(self.unlink(uid)));
    }

    fn unlink(&mut self, uid: &str) -> Option<Node> {
        let node = self.nodes.remove(uid)?;
        for owner in &node.owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object(uid: &str, meta: Value) -> (Node, String) {
        let resource = ApiResource {
            group: String::new(),
            version: "v1".into(),
            resource: "configmaps".into(),
            kind: "ConfigMap".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let mut meta = meta;
        meta["name"] = uid.into();
        meta["uid"] = uid.into();
        let object = Object::from_json(json!({"metadata": meta}).to_string().into()).unwrap();
        (node(&Arc::new(resource), &object), uid.to_owned())
    }

    fn set(graph: &mut Graph, uid: &str, meta: Value, known: bool) -> Vec<String> {
        let (node, uid) = object(uid, meta);
        let mut list: Vec<String> = graph.set(&uid.into(), node, |_| known).into_iter().map(|uid| uid.to_string()).collect();
        list.sort();
        list
    }

    #[test]
    fn a_dependent_is_looked_at_when_its_owner_is_not_known_or_goes() {
        let mut graph = Graph::default();
        assert!(set(&mut graph, "c", json!({"ownerReferences": [{"uid": "o"}]}), true).is_empty());
        assert_eq!(set(&mut graph, "d", json!({"ownerReferences": [{"uid": "x"}]}), false), ["d"]);
        assert_eq!(graph.remove("o"), ["c".into()]);
        assert!(graph.remove("c").is_empty());
        assert!(graph.dependents("o").is_empty());
    }

    #[test]
    fn an_owner_that_waits_learns_about_every_change_of_its_dependents() {
        let mut graph = Graph::default();
        let owned = json!({"ownerReferences": [{"uid": "o", "blockOwnerDeletion": true}]});
        set(&mut graph, "c", owned.clone(), true);
        let waiting = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]});
        assert_eq!(set(&mut graph, "o", waiting, true), ["c", "o"]);
        assert_eq!(set(&mut graph, "c", json!({}), true), ["o"]);
        set(&mut graph, "c", owned, true);
        assert_eq!(graph.remove("c"), ["o".into()]);
    }

    #[test]
    fn finalizers_count_only_on_objects_that_are_being_deleted() {
        let (node, _) = object("a", json!({"finalizers": [ORPHAN, FOREGROUND]}));
        assert!(!node.orphan && !node.foreground);
        let mut graph = Graph::default();
        set(&mut graph, "a", json!({"finalizers": [ORPHAN]}), true);
        assert!(graph.node("a").is_none(), "objects without owners cost nothing");
    }
}
