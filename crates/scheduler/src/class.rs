//! What placement needs to know of a pod, shared by all pods of one template.
//!
//! Pods of one template are equal here, so the scheduler keeps one [`Class`] for all of them: memory per pod stays
//! small, selectors are evaluated once per class and not once per pod, and results can be kept per class.

use crate::devices::extended::Ask;
use crate::node::Node;
use crate::resources::Resources;
use ferrokube_api::labels::{Requirement, Selector};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use ferrokube_api::object::Labels;

/// The value of a label.
pub fn label<'a>(labels: &'a [(Arc<str>, Arc<str>)], key: &str) -> Option<&'a str> {
    labels.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|at| &*labels[at].1)
}

/// What a taint does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// `NoSchedule`.
    NoSchedule,
    /// `PreferNoSchedule`.
    PreferNoSchedule,
    /// `NoExecute`.
    NoExecute,
}

impl Effect {
    /// Reads `effect`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "NoSchedule" => Some(Effect::NoSchedule),
            "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
            "NoExecute" => Some(Effect::NoExecute),
            _ => None,
        }
    }
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Taint {
    /// Key.
    pub key: Box<str>,
    /// Value, maybe empty.
    pub value: Box<str>,
    /// Effect.
    pub effect: Effect,
}

/// A toleration of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// Empty: every key.
    pub key: Box<str>,
    /// `Exists`; otherwise the value must be equal.
    pub exists: bool,
    /// Value.
    pub value: Box<str>,
    /// `None`: every effect.
    pub effect: Option<Effect>,
}

impl Toleration {
    /// `ToleratesTaint`.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|e| e == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && (self.exists || (!self.key.is_empty() && self.value == taint.value))
    }
}

/// A term of a node selector; without requirements it matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeTerm {
    /// `matchExpressions`.
    pub labels: Vec<Requirement>,
    /// `matchFields`, all on `metadata.name`.
    pub names: Vec<Requirement>,
}

impl NodeTerm {
    /// Whether the term asks for nothing, and so matches nothing.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.names.is_empty()
    }

    /// Whether a node matches.
    pub fn matches(&self, node: &Node) -> bool {
        !self.is_empty()
            && self.labels.iter().all(|r| r.matches_value(label(&node.labels, &r.key)))
            && self.names.iter().all(|r| r.matches_value(Some(&node.name)))
    }
}

/// A term of pod affinity or anti-affinity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTerm {
    /// `topologyKey`.
    pub key: Box<str>,
    /// Which pods.
    pub selector: Selector,
    /// In which namespaces, by name.
    pub namespaces: Vec<Box<str>>,
    /// In which namespaces, by their labels.
    pub namespace_selector: Selector,
}

impl PodTerm {
    /// Whether a pod with these labels in a namespace with these labels is meant.
    pub fn matches(&self, namespace: &str, of_namespace: &[(Arc<str>, Arc<str>)], labels: &[(Arc<str>, Arc<str>)]) -> bool {
        self.selects_namespace(namespace, of_namespace) && self.selector.matches_with(|key| label(labels, key))
    }

    /// Whether pods of a namespace are meant.
    pub fn selects_namespace(&self, namespace: &str, labels: &[(Arc<str>, Arc<str>)]) -> bool {
        self.namespaces.iter().any(|n| **n == *namespace) || self.namespace_selector.matches_with(|key| label(labels, key))
    }
}

/// A topology spread constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// `maxSkew`.
    pub max_skew: i64,
    /// `topologyKey`.
    pub key: Box<str>,
    /// `whenUnsatisfiable` is ScheduleAnyway.
    pub anyway: bool,
    /// Which pods are counted, `matchLabelKeys` included.
    pub selector: Selector,
    /// `minDomains`, 1 when unset.
    pub min_domains: usize,
    /// `nodeAffinityPolicy` is Honor.
    pub honor_affinity: bool,
    /// `nodeTaintsPolicy` is Honor.
    pub honor_taints: bool,
}

/// A port of the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub ip: Box<str>,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: Box<str>,
    /// Number.
    pub port: u16,
}

impl HostPort {
    /// Whether both cannot be on one node.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        const ANY: &str = "0.0.0.0";
        self.port == other.port && self.protocol == other.protocol && (self.ip == other.ip || &*self.ip == ANY || &*other.ip == ANY)
    }
}

/// What placement needs to know of a pod; see the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Class {
    /// Namespace.
    pub namespace: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// What it takes of a node.
    pub requests: Resources,
    /// What of it may be devices, by container; empty for nearly all pods.
    pub asks: Box<[Ask]>,
    /// cpu (thousandths) and memory (bytes) when nodes are compared.
    pub scoring: (i64, i64),
    /// `spec.nodeName` of a pod that still asks to be placed is never set; this is the priority.
    pub priority: i32,
    /// `preemptionPolicy: Never`.
    pub never_preempts: bool,
    /// `spec.nodeSelector`.
    pub node_selector: Vec<(Box<str>, Box<str>)>,
    /// Required node affinity: any of the terms.
    pub node_required: Option<Vec<NodeTerm>>,
    /// Preferred node affinity.
    pub node_preferred: Vec<(i64, NodeTerm)>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Host ports.
    pub ports: Vec<HostPort>,
    /// Images of init containers and containers, normalised.
    pub images: Vec<Box<str>>,
    /// Required pod affinity.
    pub affinity: Vec<PodTerm>,
    /// Required pod anti-affinity.
    pub anti_affinity: Vec<PodTerm>,
    /// Preferred pod affinity (positive weight) and anti-affinity (negative).
    pub pod_preferred: Vec<(i64, PodTerm)>,
    /// Topology spread constraints.
    pub spread: Vec<Spread>,
    /// Features that the node must declare, sorted.
    pub features: Vec<&'static str>,
    /// Kind and name of the controlling owner.
    pub owner: Option<(Box<str>, Box<str>)>,
}

impl Class {
    /// A hash for finding an equal class; equal classes have equal hashes.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        (&self.namespace, &self.labels, &self.requests, self.priority, &self.node_selector).hash(&mut hasher);
        for term in self.node_required.iter().flatten() {
            for requirement in term.names.iter().chain(&term.labels) {
                (&requirement.key, &requirement.values).hash(&mut hasher);
            }
        }
        hasher.finish()
    }

    /// The taint among these that it does not tolerate, of those that keep pods away.
    pub fn untolerated<'a>(&self, taints: &'a [Taint]) -> Option<&'a Taint> {
        let repels = |t: &&Taint| t.effect != Effect::PreferNoSchedule;
        taints.iter().filter(repels).find(|t| !self.tolerations.iter().any(|x| x.tolerates(t)))
    }

    /// Node selector and required node affinity.
    pub fn wants_node(&self, node: &Node) -> bool {
        self.node_selector.iter().all(|(k, v)| label(&node.labels, k) == Some(v))
            && self.node_required.as_ref().is_none_or(|terms| terms.iter().any(|t| t.matches(node)))
    }

    /// Whether it has terms about other pods that must be looked at when another pod is placed.
    pub fn minds_others(&self) -> bool {
        !(self.affinity.is_empty() && self.anti_affinity.is_empty() && self.pod_preferred.is_empty())
    }
}
