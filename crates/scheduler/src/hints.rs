//! Whether something that happened may make a pod schedulable that was not (queueing hints).
//!
//! A hint may say yes too often, never no wrongly: a pod that it leaves behind waits for the next event or for minutes.

use crate::class::Class;
use crate::node::{Node, NodeId, PodId};
use crate::plugins::{Plugin, devices, interpod, volumes};
use crate::resources::Resources;
use crate::state::State;
use ferrokube_api::ObjectKey;
use std::sync::Arc;

/// What happened.
#[derive(Clone, Debug)]
pub enum Happening {
    /// Something to a node.
    Node(NodeId),
    /// A pod of a class came to a node, changed there, or left it.
    Pod {
        /// Its class, before and after if that changed.
        class: Arc<Class>,
        /// Where; `None`: room was kept for it somewhere.
        node: Option<NodeId>,
    },
    /// To a persistent volume claim.
    VolumeClaim(ObjectKey),
    /// To a persistent volume.
    Volume(Arc<str>),
    /// To a resource claim.
    Claim {
        /// Which.
        key: ObjectKey,
        /// Others can have its devices now.
        freed: bool,
    },
    /// Anything else.
    Other,
}

/// Whether any of these plugins (bits), which rejected a pod, may now accept it.
pub fn may_help(state: &State, pod: PodId, plugins: u32, happening: &Happening) -> bool {
    let class = &**state.class_of(pod);
    let asked = Plugin::ALL.into_iter().filter(|p| plugins & p.bit() != 0);
    match happening {
        Happening::Other => true,
        Happening::VolumeClaim(key) => volumes::uses(state, pod, key),
        Happening::Volume(name) => volumes::may_get(state, pod, name),
        Happening::Claim { key, freed } => devices::claim_helps(state, pod, key, *freed),
        Happening::Node(id) => asked.into_iter().any(|plugin| node_helps(plugin, class, state.node(*id))),
        Happening::Pod { class: other, node } => asked.into_iter().any(|plugin| pod_helps(state, plugin, class, other, *node)),
    }
}

fn node_helps(plugin: Plugin, class: &Class, node: &Node) -> bool {
    match plugin {
        // A node that goes can make domains even.
        _ if !node.exists => plugin == Plugin::PodTopologySpread,
        Plugin::NodeUnschedulable => !node.unschedulable || !class.tolerations.is_empty(),
        Plugin::TaintToleration => class.untolerated(&node.taints).is_none(),
        Plugin::NodeAffinity | Plugin::VolumeBinding => class.wants_node(node),
        // Amounts that the node has none of may come from devices.
        Plugin::NodeResourcesFit => !class.asks.is_empty() || node.allocatable.covers(&class.requests),
        Plugin::NodeDeclaredFeatures => class.features.iter().all(|f| node.features.iter().any(|d| **d == **f)),
        _ => true,
    }
}

fn pod_helps(state: &State, plugin: Plugin, class: &Class, other: &Class, node: Option<NodeId>) -> bool {
    match plugin {
        // Every pod that leaves frees a place; what counts is whether it gives back anything that is short.
        Plugin::NodeResourcesFit => {
            let full = node.is_none_or(|id| state.node(id).load.pods + 1 >= state.node(id).max_pods);
            full || class.requests.shares_with(&other.requests)
        }
        Plugin::NodePorts => class.ports.iter().any(|p| other.ports.iter().any(|o| p.conflicts(o))),
        Plugin::PodTopologySpread => class.namespace == other.namespace,
        Plugin::InterPodAffinity => {
            let own = class.affinity.iter().chain(&class.anti_affinity).any(|t| interpod::matches(state, t, other));
            own || other.anti_affinity.iter().any(|t| interpod::matches(state, t, class))
        }
        _ => true,
    }
}

impl Resources {
    /// Whether every amount is at least that of another.
    fn covers(&self, wanted: &Resources) -> bool {
        self.milli_cpu >= wanted.milli_cpu
            && self.memory >= wanted.memory
            && self.ephemeral >= wanted.ephemeral
            && wanted.scalars.iter().all(|(name, amount)| self.scalar_amount(name) >= *amount)
    }

    /// Whether both have some of the same resource.
    fn shares_with(&self, other: &Resources) -> bool {
        self.milli_cpu > 0 && other.milli_cpu > 0
            || self.memory > 0 && other.memory > 0
            || self.ephemeral > 0 && other.ephemeral > 0
            || self.scalars.iter().any(|(name, amount)| *amount > 0 && other.scalar_amount(name) > 0)
    }
}
