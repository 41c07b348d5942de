//! The cluster as placement sees it: one owner, changed in place by what happened, never copied per decision.
//!
//! Nodes, pods and classes sit in slots with small numbers. What depends on pods is counted per class and node, so that
//! a selector is evaluated once per class, and a pod that comes or goes touches one node and one class.
//! A pod that was placed but not yet bound counts as if it were there ("assumed").

use crate::class::{Class, Labels, label};
use crate::devices::Devices;
use crate::disks::Disk;
use crate::journal::{Event, Journal};
use crate::node::{Load, Node, NodeId, PodId};
use crate::owners::Owners;
use crate::pod::{DeviceClaim, Facts, VolumeClaim};
use crate::storage::Storage;
use crate::topology::Topology;
use ferrokube_api::ObjectKey;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Slot of a class.
pub type ClassId = u32;

/// How many pods of a class are on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// How many.
    pub pods: u32,
    /// How many of them are being deleted.
    pub leaving: u32,
}

/// A class and where its pods are.
#[derive(Clone, Debug)]
pub struct ClassEntry {
    /// The class.
    pub class: Arc<Class>,
    /// Pods of it, placed or not.
    pub pods: u32,
    /// By node.
    pub placed: BTreeMap<NodeId, Placed>,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Namespace and name.
    pub key: Arc<ObjectKey>,
    /// UID.
    pub uid: Arc<str>,
    /// Its class.
    pub class: ClassId,
    /// Where it is, or is assumed to be.
    pub node: Option<NodeId>,
    /// Placed by us, and not yet seen bound.
    pub assumed: bool,
    /// Being deleted.
    pub terminating: bool,
    /// To make room for another pod.
    pub preempted: bool,
    /// Has scheduling gates.
    pub gated: bool,
    /// The profile that `spec.schedulerName` names, by its number; `None`: another scheduler's.
    pub profile: Option<u16>,
    /// Its persistent volume claims.
    pub claims: Box<[VolumeClaim]>,
    /// Disks that it names itself.
    pub disks: Box<[Disk]>,
    /// Its resource claims.
    pub devices: Box<[DeviceClaim]>,
    /// The node that preemption made room on for it.
    pub nominated: Option<NodeId>,
    /// Text that sorts by start time.
    pub started: Box<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub revision: u64,
    /// The condition PodScheduled is already False.
    pub reported: bool,
}

/// What became of a pod that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodChange {
    /// Which.
    pub id: PodId,
    /// It was not known.
    pub added: bool,
    /// It is newly seen on a node (an assumed pod included).
    pub bound: bool,
    /// What placement depends on has changed.
    pub class: bool,
    /// Its resource claims are others, such as those just made for it.
    pub devices: bool,
    /// Its gates are gone.
    pub ungated: bool,
    /// It was on a node, and asks for less now or is leaving.
    pub shrank: bool,
}

/// What changed of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct NodeChange {
    pub added: bool,
    pub labels: bool,
    pub taints: bool,
    pub allocatable: bool,
    pub images: bool,
    pub features: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct State {
    nodes: Vec<Node>,
    free_nodes: Vec<NodeId>,
    by_name: HashMap<Box<str>, NodeId>,
    order: Vec<NodeId>,
    pods: Vec<Option<Pod>>,
    free_pods: Vec<PodId>,
    by_key: HashMap<Arc<ObjectKey>, PodId>,
    classes: Vec<Option<ClassEntry>>,
    free_classes: Vec<ClassId>,
    by_fingerprint: HashMap<u64, Vec<ClassId>>,
    in_namespace: HashMap<Arc<str>, BTreeSet<ClassId>>,
    minding: BTreeSet<ClassId>,
    topologies: HashMap<Box<str>, Topology>,
    image_nodes: HashMap<Box<str>, u32>,
    nominated: HashMap<NodeId, Vec<PodId>>,
    namespaces: HashMap<Box<str>, Labels>,
    /// Pods on nodes by the claims they use.
    claim_users: HashMap<(Arc<str>, Box<str>), Vec<PodId>>,
    journal: Journal,
    namespace_changes: u64,
    image_changes: u64,
    /// Claims, volumes and their classes.
    pub storage: Storage,
    /// Devices and the claims to them.
    pub devices: Devices,
    /// Services and workloads, and disruption budgets.
    pub owners: Owners,
}

impl State {
    /// An empty cluster.
    pub fn new() -> Self {
        let mut state = State::default();
        state.topologies.insert(crate::topology::HOSTNAME.into(), Topology::default());
        state.topologies.insert(crate::topology::ZONE.into(), Topology::default());
        state
    }

    /// Nodes that exist, in a stable order.
    pub fn order(&self) -> &[NodeId] {
        &self.order
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    /// How many slots of nodes there are; ids are below it.
    pub fn node_slots(&self) -> usize {
        self.nodes.len()
    }

    /// The node with a name, if it exists.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        self.by_name.get(name).copied().filter(|id| self.node(*id).exists)
    }

    /// A pod; ids come from this state and are used before the pod goes.
    pub fn pod(&self, id: PodId) -> &Pod {
        self.pods[id as usize].as_ref().expect("the id of a pod is not used after the pod is removed")
    }

    /// A pod by its name.
    pub fn pod_named(&self, key: &ObjectKey) -> Option<PodId> {
        self.by_key.get(key).copied()
    }

    /// How many pods.
    pub fn pod_count(&self) -> usize {
        self.by_key.len()
    }

    /// A class.
    pub fn class(&self, id: ClassId) -> &ClassEntry {
        self.classes[id as usize].as_ref().expect("a class lives as long as it has pods")
    }

    /// The class of a pod.
    pub fn class_of(&self, id: PodId) -> &Arc<Class> {
        &self.class(self.pod(id).class).class
    }

    /// All classes that pods have.
    pub fn classes(&self) -> impl Iterator<Item = &ClassEntry> {
        self.classes.iter().flatten()
    }

    /// What changed of nodes and of the pods on them.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// How often something changed that the journal does not tell: namespaces, what selects pods, images.
    pub fn rare_changes(&self) -> [u64; 3] {
        [self.namespace_changes, self.owners.changes(), self.image_changes]
    }

    /// Pods on nodes that use a claim.
    pub fn users_of_claim(&self, namespace: &str, claim: &str) -> &[PodId] {
        self.claim_users.get(&(namespace.into(), claim.into())).map_or(&[], Vec::as_slice)
    }

    /// Classes of a namespace.
    pub fn classes_in(&self, namespace: &str) -> impl Iterator<Item = &ClassEntry> {
        self.in_namespace.get(namespace).into_iter().flatten().map(|id| self.class(*id))
    }

    /// Namespaces that have pods.
    pub fn namespaces_with_pods(&self) -> impl Iterator<Item = &str> {
        self.in_namespace.keys().map(|n| &**n)
    }

    /// Classes with terms about other pods.
    pub fn minding(&self) -> impl Iterator<Item = &ClassEntry> {
        self.minding.iter().map(|id| self.class(*id))
    }

    /// The domains of a topology key; known for every key that a pod names.
    pub fn topology(&self, key: &str) -> Option<&Topology> {
        self.topologies.get(key)
    }

    /// How many nodes hold an image.
    pub fn nodes_with_image(&self, name: &str) -> u32 {
        self.image_nodes.get(name).copied().unwrap_or(0)
    }

    /// Pods for which room was made on a node.
    pub fn nominated(&self, node: NodeId) -> &[PodId] {
        self.nominated.get(&node).map_or(&[], Vec::as_slice)
    }

    /// Labels of a namespace.
    pub fn namespace_labels(&self, name: &str) -> &[(Arc<str>, Arc<str>)] {
        self.namespaces.get(name).map_or(&[], |l| l)
    }

    /// A namespace exists with these labels, or `None`: it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        // Of a namespace without pods nothing can have been counted.
        if self.in_namespace.contains_key(name) && self.namespaces.get(name) != labels.as_ref() {
            self.namespace_changes += 1;
        }
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.into(), labels)),
            None => drop(self.namespaces.remove(name)),
        }
    }

    /// Pods that are known, by id.
    pub fn pods(&self) -> impl Iterator<Item = (PodId, &Pod)> {
        self.pods.iter().enumerate().filter_map(|(i, p)| Some((i as PodId, p.as_ref()?)))
    }
}

/// Nodes come, change and go.
impl State {
    /// A node as it is now; its load stays.
    pub fn set_node(&mut self, node: Node) -> NodeChange {
        let id = self.slot_of(&node.name);
        let old = &mut self.nodes[id as usize];
        let change = NodeChange {
            added: !old.exists,
            labels: old.labels != node.labels,
            taints: old.taints != node.taints || old.unschedulable != node.unschedulable,
            allocatable: old.allocatable != node.allocatable || old.max_pods != node.max_pods,
            images: old.images != node.images,
            features: old.features != node.features,
        };
        let (load, pods) = (std::mem::take(&mut old.load), std::mem::take(&mut old.pods));
        let old = std::mem::replace(old, Node { load, pods, ..node });
        if !old.exists {
            self.order.push(id);
        }
        let facts = change.added || change.labels || change.taints;
        if facts || change.allocatable || change.images || change.features {
            self.journal.note(Event::Node { node: id, facts }, self.nodes.len());
        }
        if change.added || change.labels {
            let labels = self.nodes[id as usize].labels.clone();
            self.topologies.iter_mut().for_each(|(key, t)| t.set(id, label(&labels, key)));
        }
        if old.images != self.nodes[id as usize].images {
            self.count_images(&old.images, false);
            let images = self.nodes[id as usize].images.clone();
            self.count_images(&images, true);
        }
        change
    }

    /// A node is gone. Pods on it stay counted until they are gone too.
    pub fn remove_node(&mut self, name: &str) {
        let Some(id) = self.node_named(name) else { return };
        let node = &mut self.nodes[id as usize];
        node.exists = false;
        self.journal.note(Event::Node { node: id, facts: true }, self.nodes.len());
        let node = &mut self.nodes[id as usize];
        let images = std::mem::take(&mut node.images);
        self.count_images(&images, false);
        self.order.retain(|n| *n != id);
        self.topologies.values_mut().for_each(|t| t.set(id, None));
        self.vacate(id);
    }

    fn count_images(&mut self, images: &[(Box<str>, i64)], come: bool) {
        self.image_changes += u64::from(!images.is_empty());
        for (name, _) in images {
            let count = self.image_nodes.entry(name.clone()).or_insert(0);
            *count = if come { *count + 1 } else { count.saturating_sub(1) };
            if *count == 0 {
                self.image_nodes.remove(name);
            }
        }
    }

    fn slot_of(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let node = Node { name: name.into(), ..Node::default() };
        let id = match self.free_nodes.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as NodeId
            }
        };
        self.by_name.insert(name.into(), id);
        id
    }

    /// Frees the slot of a node that neither exists nor has pods.
    fn vacate(&mut self, id: NodeId) {
        let node = &self.nodes[id as usize];
        if !node.exists && node.pods.is_empty() && self.nominated(id).is_empty() {
            self.by_name.remove(&node.name);
            self.nodes[id as usize] = Node::default();
            self.free_nodes.push(id);
        }
    }
}

/// Pods come, change and go.
impl State {
    /// A pod as it is now. `profile` is the one that its scheduler name means, if it is one of ours.
    pub fn set_pod(&mut self, facts: Facts, profile: Option<u16>) -> PodChange {
        let known = self.pod_named(&facts.key).filter(|id| self.pod(*id).uid == facts.uid);
        match known {
            Some(id) => self.update_pod(id, facts, profile),
            None => {
                self.remove_pod(&facts.key);
                self.add_pod(facts, profile)
            }
        }
    }

    fn add_pod(&mut self, facts: Facts, profile: Option<u16>) -> PodChange {
        let key = Arc::new(facts.key);
        let class = self.intern(facts.class);
        let pod = Pod {
            key: key.clone(),
            uid: facts.uid,
            class,
            node: None,
            assumed: false,
            terminating: facts.terminating,
            preempted: facts.preempted,
            gated: facts.gated,
            profile,
            claims: facts.claims,
            disks: facts.disks,
            devices: facts.devices,
            nominated: None,
            started: facts.started,
            generation: facts.generation,
            revision: facts.revision,
            reported: facts.reported,
        };
        let id = match self.free_pods.pop() {
            Some(id) => {
                self.pods[id as usize] = Some(pod);
                id
            }
            None => {
                self.pods.push(Some(pod));
                (self.pods.len() - 1) as PodId
            }
        };
        self.by_key.insert(key, id);
        let bound = facts.node.is_some();
        if let Some(node) = facts.node {
            let node = self.slot_of(&node);
            self.seat(id, node);
        } else {
            self.nominate(id, facts.nominated.as_deref());
        }
        PodChange { id, added: true, bound, class: false, devices: false, ungated: false, shrank: false }
    }

    fn update_pod(&mut self, id: PodId, facts: Facts, profile: Option<u16>) -> PodChange {
        let old = self.pod(id);
        let (old_class, seat, assumed, was_gated, was_leaving) = (old.class, old.node, old.assumed, old.gated, old.terminating);
        let class_changed = *self.class(old_class).class != facts.class;
        let bound = facts.node.is_some() && (seat.is_none() || assumed);
        let shrank = seat.is_some() && class_changed || (facts.terminating && !was_leaving);
        // An assumed pod stays where we put it until it is seen bound, wherever that is.
        let here = seat.map(|node| self.node(node).name.clone());
        let target = facts.node.clone().or_else(|| here.clone().filter(|_| assumed));
        let moved = target != here || class_changed || facts.terminating != was_leaving;
        if moved {
            self.unseat(id);
        }
        if class_changed {
            self.release(old_class);
            let class = self.intern(facts.class);
            self.pod_mut(id).class = class;
        }
        let pod = self.pod_mut(id);
        pod.terminating = facts.terminating;
        pod.preempted = facts.preempted;
        pod.gated = facts.gated;
        pod.profile = profile;
        let devices = pod.devices != facts.devices;
        pod.devices = facts.devices;
        pod.generation = facts.generation;
        pod.revision = facts.revision;
        pod.reported = facts.reported;
        let restarted = pod.started != facts.started;
        pod.started = facts.started;
        if let (Some(node), true, false) = (pod.node, restarted, moved) {
            // Preemption compares the times when pods started.
            self.journal.note(Event::Node { node, facts: false }, self.nodes.len());
        }
        if let (Some(name), true) = (target, moved) {
            // By name: the slot of a node that no longer exists may have gone with its last pod.
            let node = self.slot_of(&name);
            self.seat(id, node);
        }
        if facts.node.is_some() {
            self.pod_mut(id).assumed = false;
            self.nominate(id, None);
        } else if !assumed {
            self.nominate(id, facts.nominated.as_deref());
        }
        PodChange { id, added: false, bound, class: class_changed, devices, ungated: was_gated && !facts.gated, shrank }
    }

    /// A pod is gone; the answer is how it was before, with where it was and where room was kept for it.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Option<Pod> {
        let id = self.by_key.remove(key)?;
        let last = self.pod(id).clone();
        self.nominate(id, None);
        self.unseat(id);
        self.pods[id as usize] = None;
        self.free_pods.push(id);
        self.release(last.class);
        Some(last)
    }

    /// Places a pod, ahead of its binding.
    pub fn assume(&mut self, id: PodId, node: NodeId) {
        self.nominate(id, None);
        self.seat(id, node);
        self.pod_mut(id).assumed = true;
    }

    /// Takes an assumption back.
    pub fn forget(&mut self, id: PodId) {
        if self.pod(id).assumed {
            self.unseat(id);
            self.pod_mut(id).assumed = false;
        }
    }

    /// Notes the node that room was made on for a pod, or that there is none.
    pub fn nominate(&mut self, id: PodId, name: Option<&str>) {
        let node = name.and_then(|n| self.node_named(n));
        let old = std::mem::replace(&mut self.pod_mut(id).nominated, node);
        if old == node {
            return;
        }
        for node in old.into_iter().chain(node) {
            self.journal.note(Event::Node { node, facts: false }, self.nodes.len());
        }
        if let Some(list) = old.and_then(|n| self.nominated.get_mut(&n)) {
            list.retain(|p| *p != id);
        }
        if let Some(node) = node {
            self.nominated.entry(node).or_default().push(id);
        }
        if let Some(old) = old {
            if self.nominated(old).is_empty() {
                self.nominated.remove(&old);
            }
            self.vacate(old);
        }
    }

    fn pod_mut(&mut self, id: PodId) -> &mut Pod {
        self.pods[id as usize].as_mut().expect("the id of a pod is not used after the pod is removed")
    }

    fn seat(&mut self, id: PodId, node: NodeId) {
        self.pod_mut(id).node = Some(node);
        self.nodes[node as usize].pods.push(id);
        self.count(id, node, 1);
        let pod = self.pods[id as usize].as_ref().expect("just used");
        for claim in &pod.claims {
            let key = (pod.key.namespace.clone(), claim.name.clone());
            self.claim_users.entry(key).or_default().push(id);
        }
    }

    fn unseat(&mut self, id: PodId) {
        let Some(node) = self.pod_mut(id).node.take() else { return };
        self.nodes[node as usize].pods.retain(|p| *p != id);
        self.count(id, node, -1);
        let pod = self.pods[id as usize].as_ref().expect("just used");
        for claim in &pod.claims {
            forget_in(&mut self.claim_users, &(pod.key.namespace.clone(), claim.name.clone()), id);
        }
        self.vacate(node);
    }

    /// Counts a pod that came to a node (1) or went (-1).
    fn count(&mut self, id: PodId, node: NodeId, pods: i64) {
        let pod = self.pods[id as usize].as_ref().expect("the id of a pod is not used after the pod is removed");
        let leaving = i64::from(pod.terminating) * pods;
        let entry = self.classes[pod.class as usize].as_mut().expect("a class lives as long as it has pods");
        let load = &mut self.nodes[node as usize].load;
        if pods > 0 {
            load.add(&entry.class)
        } else {
            load.remove(&entry.class)
        }
        let placed = entry.placed.entry(node).or_default();
        placed.pods = placed.pods.wrapping_add_signed(pods as i32);
        placed.leaving = placed.leaving.wrapping_add_signed(leaving as i32);
        if placed.pods == 0 {
            entry.placed.remove(&node);
        }
        let event = Event::Pods { node, class: entry.class.clone(), pods, staying: pods - leaving };
        self.journal.note(event, self.nodes.len());
    }

    /// The slot of a class equal to this one, with one more pod.
    fn intern(&mut self, class: Class) -> ClassId {
        let fingerprint = class.fingerprint();
        let known = self.by_fingerprint.get(&fingerprint).into_iter().flatten();
        if let Some(id) = known.copied().find(|id| *self.class(*id).class == class) {
            self.classes[id as usize].as_mut().expect("just found").pods += 1;
            return id;
        }
        let keys = class.affinity.iter().chain(&class.anti_affinity).chain(class.pod_preferred.iter().map(|(_, t)| t));
        let keys: Vec<Box<str>> = keys.map(|t| t.key.clone()).chain(class.spread.iter().map(|s| s.key.clone())).collect();
        keys.iter().for_each(|key| self.know_topology(key));
        let (namespace, minds) = (class.namespace.clone(), class.minds_others());
        let entry = Some(ClassEntry { class: Arc::new(class), pods: 1, placed: BTreeMap::new() });
        let id = match self.free_classes.pop() {
            Some(id) => {
                self.classes[id as usize] = entry;
                id
            }
            None => {
                self.classes.push(entry);
                (self.classes.len() - 1) as ClassId
            }
        };
        self.by_fingerprint.entry(fingerprint).or_default().push(id);
        self.in_namespace.entry(namespace).or_default().insert(id);
        if minds {
            self.minding.insert(id);
        }
        id
    }

    fn release(&mut self, id: ClassId) {
        let entry = self.classes[id as usize].as_mut().expect("a class lives as long as it has pods");
        entry.pods -= 1;
        if entry.pods > 0 {
            return;
        }
        let class = entry.class.clone();
        self.classes[id as usize] = None;
        self.free_classes.push(id);
        self.minding.remove(&id);
        forget_in(&mut self.by_fingerprint, &class.fingerprint(), id);
        if let Some(ids) = self.in_namespace.get_mut(&class.namespace) {
            ids.remove(&id);
            if ids.is_empty() {
                self.in_namespace.remove(&class.namespace);
            }
        }
    }

    /// Divides the nodes by a topology key from now on.
    pub fn know_topology(&mut self, key: &str) {
        if self.topologies.contains_key(key) {
            return;
        }
        let mut topology = Topology::default();
        self.order.iter().for_each(|id| topology.set(*id, label(&self.nodes[*id as usize].labels, key)));
        self.topologies.insert(key.into(), topology);
    }

    /// The load of a node without some of its pods and with others.
    pub fn load_with(&self, node: NodeId, without: &[PodId], with: &[PodId]) -> Load {
        let mut load = self.node(node).load.clone();
        without.iter().for_each(|p| load.remove(self.class_of(*p)));
        with.iter().for_each(|p| load.add(self.class_of(*p)));
        load
    }
}

fn forget_in<K: std::hash::Hash + Eq, Q: std::hash::Hash + Eq + ?Sized>(map: &mut HashMap<K, Vec<ClassId>>, key: &Q, id: ClassId)
where
    K: std::borrow::Borrow<Q>,
{
    if let Some(list) = map.get_mut(key) {
        list.retain(|c| *c != id);
        if list.is_empty() {
            map.remove(key);
        }
    }
}
