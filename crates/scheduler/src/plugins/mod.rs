//! The plugins of the default profile: one file each, pure, with upstream's names, formulas and words.
//!
//! A filter says why a node is no place for a pod; a score fills one column over the feasible nodes. Both look at a
//! [`State`] that they cannot change and at what [`Pre`] counted once for the pod.

pub mod affinity;
pub mod fit;
pub mod image;
pub mod interpod;
pub mod ports;
pub mod spread;
pub mod taints;
pub mod volumes;

use crate::class::Class;
use crate::node::{Load, Node, NodeId, PodId};
use crate::state::State;
use smallvec::{SmallVec, smallvec};
use std::borrow::Cow;

/// Who said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are upstream's")]
pub enum Plugin {
    NodeUnschedulable,
    NodeName,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    VolumeBinding,
    PodTopologySpread,
    InterPodAffinity,
}

impl Plugin {
    /// A bit of its own.
    pub fn bit(self) -> u32 {
        1 << self as u8
    }
}

/// A reason in the words of the plugin.
pub type Reason = Cow<'static, str>;

/// Why a node is no place for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl<'s> Pre<'s> {
    /// Counts, or says why no node can ever do.
    pub fn of(state: &'s State, class: &'s Class) -> Result<Self, Failure> {
        Ok(Pre {
            class,
            only: affinity::named_nodes(state, class),
            volumes: volumes::Bound::of(state, class)?,
            spread: spread::Counts::of(state, class),
            others: interpod::Counts::of(state, class),
        })
    }

    /// As if a pod of a class were gone from a node (or there, with `delta` 1).
    pub fn shift(&mut self, state: &State, class: &Class, node: NodeId, leaving: bool, delta: i64) {
        self.spread.shift(class, node, leaving, delta);
        self.others.shift(state, class, node, delta);
    }
}

/// One node, looked at for one pod.
#[derive(Clone, Copy)]
pub struct Seat<'a> {
    /// The cluster.
    pub state: &'a State,
    /// The counts for the pod.
    pub pre: &'a Pre<'a>,
    /// Which node.
    pub id: NodeId,
    /// The node.
    pub node: &'a Node,
    /// What is taken of it: the node's own load, or a supposed one.
    pub load: &'a Load,
}

/// Filters in upstream's order. The first that fails speaks for the node.
const FILTERS: [fn(&Seat<'_>) -> Option<Failure>; 8] = [
    taints::unschedulable,
    taints::filter,
    affinity::filter,
    ports::filter,
    fit::filter,
    volumes::filter,
    spread::filter,
    interpod::filter,
];

/// Why a node is no place for the pod; `None`: it is one.
pub fn check(seat: &Seat<'_>) -> Option<Failure> {
    FILTERS.iter().find_map(|filter| filter(seat))
}

/// The pods that would be on a node besides those that are: nominated ones of at least this priority.
pub fn expected(state: &State, node: NodeId, pod: PodId, class: &Class) -> Vec<PodId> {
    let ahead = |p: &&PodId| **p != pod && state.class_of(**p).priority >= class.priority;
    state.nominated(node).iter().filter(ahead).copied().collect()
}
