//! A node as placement sees it: what it offers, what is taken, who is on it.

use crate::class::{Class, Effect, HostPort, Labels, Taint};
use crate::resources::Resources;
use ferrokube_api::Object;
use ferrokube_api::quantity::Quantity;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Slot of a node in the [`State`](crate::state::State).
pub type NodeId = u32;
/// Slot of a pod.
pub type PodId = u32;

/// What is taken of a node.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// Sum of the requests.
    pub requested: Resources,
    /// Sum of cpu and memory for comparing.
    pub scoring: (i64, i64),
    /// How many pods.
    pub pods: i64,
    /// Host ports in use.
    pub ports: Vec<HostPort>,
}

impl Load {
    /// A pod comes.
    pub fn add(&mut self, class: &Class) {
        self.requested.add(&class.requests);
        self.scoring.0 += class.scoring.0;
        self.scoring.1 += class.scoring.1;
        self.pods += 1;
        self.ports.extend(class.ports.iter().cloned());
    }

    /// A pod goes.
    pub fn remove(&mut self, class: &Class) {
        self.requested.sub(&class.requests);
        self.scoring.0 -= class.scoring.0;
        self.scoring.1 -= class.scoring.1;
        self.pods -= 1;
        for port in &class.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

/// A node.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Name.
    pub name: Box<str>,
    /// Whether the object exists; pods may be bound to a node that does not.
    pub exists: bool,
    /// Labels.
    pub labels: Labels,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What it offers.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub max_pods: i64,
    /// Images on it with their size in bytes, sorted by name.
    pub images: Vec<(Box<str>, i64)>,
    /// `status.declaredFeatures`, sorted.
    pub features: Vec<Box<str>>,
    /// What is taken.
    pub load: Load,
    /// Pods on it, assumed ones included.
    pub pods: Vec<PodId>,
}

#[derive(Deserialize)]
struct View<'a> {
    #[serde(borrow, default)]
    spec: Spec<'a>,
    #[serde(borrow, default)]
    status: Status<'a>,
}

#[derive(Deserialize, Default)]
struct Spec<'a> {
    #[serde(default)]
    unschedulable: bool,
    #[serde(borrow, default)]
    taints: Option<Vec<TaintView<'a>>>,
}

#[derive(Deserialize)]
struct TaintView<'a> {
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Cow<'a, str>,
    #[serde(borrow, default)]
    effect: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow, default)]
    allocatable: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(borrow, default)]
    images: Option<Vec<ImageView<'a>>>,
    #[serde(borrow, default)]
    declared_features: Option<Vec<Cow<'a, str>>>,
}

#[derive(Deserialize)]
struct ImageView<'a> {
    #[serde(borrow, default)]
    names: Option<Vec<Cow<'a, str>>>,
    #[serde(default, rename = "sizeBytes")]
    size: i64,
}

impl Node {
    /// Reads a node object; load and pods are empty.
    pub fn read(object: &Object) -> Result<Self, serde_json::Error> {
        let json = object.json();
        let view: View = serde_json::from_slice(&json)?;
        let mut node = Node {
            name: (*object.key.name).into(),
            exists: true,
            labels: object.labels.clone(),
            unschedulable: view.spec.unschedulable,
            ..Node::default()
        };
        for taint in view.spec.taints.into_iter().flatten() {
            if let Some(effect) = Effect::parse(&taint.effect) {
                node.taints.push(Taint { key: taint.key.into(), value: taint.value.into(), effect });
            }
        }
        for (name, text) in view.status.allocatable.into_iter().flatten() {
            let Ok(amount) = Quantity::parse(&text) else { continue };
            if name == "pods" {
                node.max_pods = amount.value();
            }
            node.allocatable.set(&name, amount);
        }
        for image in view.status.images.into_iter().flatten() {
            let names = image.names.into_iter().flatten();
            node.images.extend(names.map(|name| (Box::from(&*name), image.size)));
        }
        node.images.sort();
        node.features = view.status.declared_features.into_iter().flatten().map(Box::from).collect();
        node.features.sort_unstable();
        Ok(node)
    }

    /// Size of an image on this node, bytes.
    pub fn image(&self, name: &str) -> Option<i64> {
        self.images.binary_search_by(|(n, _)| (**n).cmp(name)).ok().map(|at| self.images[at].1)
    }
}
