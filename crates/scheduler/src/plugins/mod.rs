//! The plugins of the default profile: one file each, pure, with upstream's names, formulas and words.
//!
//! A filter says why a node is no place for a pod; a score fills one column over the feasible nodes. Some look at the
//! node alone ([`LOCAL`]), some at the pod's volumes, some at what [`Pre`] counted of other pods. All look at a [`State`]
//! that they cannot change.

pub mod affinity;
pub mod devices;
pub mod features;
pub mod fit;
pub mod image;
pub mod interpod;
pub mod ports;
pub mod spread;
pub mod taints;
pub mod volumes;

use crate::class::Class;
use crate::node::{Load, Node, NodeId, PodId};
use crate::profile::Profile;
use crate::state::State;
use smallvec::{SmallVec, smallvec};
use std::borrow::Cow;

/// The plugins, in upstream's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are upstream's")]
pub enum Plugin {
    SchedulingGates,
    PrioritySort,
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
    DefaultPreemption,
    NodeResourcesBalancedAllocation,
    ImageLocality,
    DefaultBinder,
    NodeDeclaredFeatures,
}

use Plugin::*;

impl Plugin {
    /// How many there are.
    pub const COUNT: usize = 20;

    /// All of them, in order.
    pub const ALL: [Plugin; Plugin::COUNT] = [
        SchedulingGates,
        PrioritySort,
        NodeUnschedulable,
        NodeName,
        TaintToleration,
        NodeAffinity,
        NodePorts,
        NodeResourcesFit,
        VolumeRestrictions,
        NodeVolumeLimits,
        VolumeBinding,
        VolumeZone,
        PodTopologySpread,
        InterPodAffinity,
        DynamicResources,
        DefaultPreemption,
        NodeResourcesBalancedAllocation,
        ImageLocality,
        DefaultBinder,
        NodeDeclaredFeatures,
    ];

    /// Those that score, with the weights of the default profile.
    pub const DEFAULT_WEIGHTS: [(Plugin, i64); 8] = [
        (TaintToleration, 3),
        (NodeAffinity, 2),
        (NodeResourcesFit, 1),
        (PodTopologySpread, 2),
        (InterPodAffinity, 2),
        (DynamicResources, 2),
        (NodeResourcesBalancedAllocation, 1),
        (ImageLocality, 1),
    ];

    /// A bit of its own.
    pub fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Upstream's name.
    pub fn name(self) -> String {
        format!("{self:?}")
    }

    /// The plugin with a name.
    pub fn named(name: &str) -> Option<Plugin> {
        Plugin::ALL.into_iter().find(|p| p.name() == name)
    }
}

/// A reason in the words of the plugin.
pub type Reason = Cow<'static, str>;

/// Why a node is no place for a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// Who says so.
    pub plugin: Plugin,
    /// In words, one or several.
    pub reasons: SmallVec<[Reason; 1]>,
    /// Removing pods would not help (`UnschedulableAndUnresolvable`).
    pub unresolvable: bool,
}

impl Failure {
    /// A failure that removing pods may cure.
    pub fn new(plugin: Plugin, reason: impl Into<Reason>) -> Self {
        Failure { plugin, reasons: smallvec![reason.into()], unresolvable: false }
    }

    /// A failure that removing pods cannot cure.
    pub fn unresolvable(plugin: Plugin, reason: impl Into<Reason>) -> Self {
        Failure { unresolvable: true, ..Failure::new(plugin, reason) }
    }
}

/// What is counted once for a pod, before nodes are looked at (PreFilter).
#[derive(Clone, Debug)]
pub struct Pre<'s> {
    /// The profile it is placed by.
    pub profile: &'s Profile,
    /// The pod's class.
    pub class: &'s Class,
    /// Only these nodes, when required affinity names them.
    pub only: Option<Vec<NodeId>>,
    /// Topology spread.
    pub spread: spread::Counts<'s>,
    /// Pods that it or that mind each other.
    pub others: interpod::Counts<'s>,
    /// Volumes.
    pub volumes: volumes::Bound<'s>,
    /// Devices.
    pub devices: devices::Wanted<'s>,
}

impl<'s> Pre<'s> {
    /// Counts, or says why no node can ever do.
    pub fn of(state: &'s State, profile: &'s Profile, pod: PodId) -> Result<Self, Failure> {
        let class: &Class = state.class_of(pod);
        Ok(Pre {
            profile,
            class,
            only: affinity::named_nodes(state, class),
            volumes: volumes::Bound::of(state, profile, pod)?,
            devices: devices::Wanted::of(state, profile, pod)?,
            spread: spread::Counts::of(state, profile, class),
            others: interpod::Counts::of(state, profile, class),
        })
    }

    /// As if a pod were gone from a node (or there, with `delta` 1).
    pub fn shift(&mut self, state: &State, pod: PodId, node: NodeId, delta: i64) {
        let class = state.class_of(pod);
        self.spread.shift(class, node, state.pod(pod).terminating, delta);
        self.others.shift(state, class, node, delta);
        self.volumes.shift(pod, delta);
    }
}

/// One node, looked at for the pods of a class.
#[derive(Clone, Copy)]
pub struct Seat<'a> {
    /// The cluster.
    pub state: &'a State,
    /// The profile.
    pub profile: &'a Profile,
    /// What the pod is like.
    pub class: &'a Class,
    /// Which node.
    pub id: NodeId,
    /// The node.
    pub node: &'a Node,
    /// What is taken of it: the node's own load, or a supposed one.
    pub load: &'a Load,
}

/// A filter that looks at the node alone.
type Filter = fn(&Seat<'_>) -> Option<Failure>;

/// Filters that look at the node alone, in upstream's order. (The last of them comes last upstream as well; it is rare
/// enough that a node that also fails for its volumes or neighbours may name it first.)
pub const LOCAL: [(Plugin, Filter); 6] = [
    (NodeUnschedulable, taints::unschedulable),
    (TaintToleration, taints::filter),
    (NodeAffinity, affinity::filter),
    (NodePorts, ports::filter),
    (NodeResourcesFit, fit::filter),
    (NodeDeclaredFeatures, features::filter),
];

/// Why a node is no place for any pod of the class, whatever its volumes and the other nodes; the first filter that
/// fails speaks for the node.
pub fn check_local(seat: &Seat<'_>) -> Option<Failure> {
    LOCAL.iter().filter(|(plugin, _)| seat.profile.filters(*plugin)).find_map(|(_, filter)| filter(seat))
}

/// The same for a pod some of whose resources may come from devices.
fn check_local_but(seat: &Seat<'_>, wanted: &devices::Wanted<'_>) -> Option<Failure> {
    let devices = |resource: &str| wanted.come_from_devices(resource, seat.node);
    LOCAL.iter().filter(|(plugin, _)| seat.profile.filters(*plugin)).find_map(|(plugin, filter)| match plugin {
        NodeResourcesFit => fit::filter_but(seat, devices),
        _ => filter(seat),
    })
}

/// Why a node is no place for the pod; `None`: it is one.
pub fn check(seat: &Seat<'_>, pre: &Pre<'_>) -> Option<Failure> {
    let local = if pre.devices.is_special() { check_local_but(seat, &pre.devices) } else { check_local(seat) };
    local
        .or_else(|| volumes::filter(seat, &pre.volumes))
        .or_else(|| spread::filter(&pre.spread, seat.id))
        .or_else(|| interpod::filter(&pre.others, seat.id))
        .or_else(|| devices::filter(seat, &pre.devices))
}

/// The pods that would be on a node besides those that are: nominated ones of at least this priority.
pub fn expected(state: &State, node: NodeId, pod: Option<PodId>, class: &Class) -> Vec<PodId> {
    let ahead = |p: &&PodId| Some(**p) != pod && state.class_of(**p).priority >= class.priority;
    state.nominated(node).iter().filter(ahead).copied().collect()
}
