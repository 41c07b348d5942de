//! What a workload is: acts, one after the other, in sizes that can be changed from outside.

use super::templates::Thing;
use serde_json::Value;
use std::time::Duration;

/// How many of something an act makes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Many {
    /// As many as the workload has nodes.
    Nodes,
    /// As many as are there before.
    Init,
    /// As many as are measured.
    Pods,
    /// That many, however large the workload is.
    Just(usize),
}

/// The numbers of a workload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub nodes: usize,
    pub init: usize,
    pub pods: usize,
}

impl Sizes {
    /// How many that are.
    pub fn of(&self, many: Many) -> usize {
        match many {
            Many::Nodes => self.nodes,
            Many::Init => self.init,
            Many::Pods => self.pods,
            Many::Just(count) => count,
        }
    }
}

/// How far pods have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The scheduler has looked at them, or they wait for a gate.
    Tried,
    /// They have a node.
    Bound,
}

/// What is done to an object: the path of it, the media type of the patch, and the patch.
pub(super) type Change = (String, &'static str, Value);

/// Pods of one kind.
#[derive(Clone, Copy)]
pub(super) struct Pods {
    pub many: Many,
    /// The pod of a number.
    pub of: fn(usize) -> Value,
    /// What comes with each pod.
    pub with: fn(&Value) -> Vec<Thing>,
    /// Under this name later acts speak of them.
    pub group: &'static str,
    /// The next act waits until they have come so far.
    pub wait: Option<Stage>,
    /// They are what the workload measures.
    pub measured: bool,
}

/// One act.
#[derive(Clone, Copy)]
pub(super) enum Act {
    /// Nodes. They get their numbers in the order they are made, over all acts of a workload.
    Nodes { many: Many, of: fn(usize) -> Value, with: fn(&Value) -> Vec<Thing> },
    /// Anything else.
    Things { many: Many, of: fn(usize) -> Vec<Thing> },
    /// Pods.
    Pods(Pods),
    /// All pods of a group come so far.
    Until(Stage, &'static str),
    /// Changes of what is there, so many a second (as fast as they go, if 0).
    Change { many: Many, of: fn(usize, Sizes) -> Change, rate: u32 },
    /// The pods of a group are deleted beside what follows, so many a second.
    Delete { group: &'static str, rate: u32 },
    /// Beside what follows, things are made again and again; with `again`, those of the last time are deleted first.
    Churn { every: Duration, of: fn(usize) -> Vec<Thing>, again: bool },
    /// For so long, each pod that has a node is deleted and another made.
    Steady { many: Many, of: fn(usize) -> Value, lasting: Duration },
}

/// One row.
#[derive(Clone)]
pub(super) struct Workload {
    pub name: &'static str,
    /// Pods per second that kube-scheduler must reach in its own benchmark.
    pub threshold: Option<u32>,
    pub sizes: Sizes,
    /// Namespaces with their labels.
    pub namespaces: fn() -> Vec<(String, Value)>,
    pub acts: Vec<Act>,
    /// A KubeSchedulerConfiguration, where the default one is not meant.
    pub configuration: Option<&'static str>,
}

impl Workload {
    /// All things that it makes whatever its nodes and pods are; to be taken away again.
    pub fn things(&self) -> impl Iterator<Item = Thing> {
        self.acts.iter().flat_map(|act| match act {
            Act::Things { many, of } => (0..self.sizes.of(*many)).flat_map(of).collect(),
            _ => Vec::new(),
        })
    }

    /// How many nodes it makes.
    pub fn nodes(&self) -> usize {
        let of_act = |act: &Act| match act {
            Act::Nodes { many, .. } => self.sizes.of(*many),
            _ => 0,
        };
        self.acts.iter().map(of_act).sum()
    }
}
