//! What one profile of the configuration says: which plugins take part, with which weights and arguments.
//!
//! The default is upstream's default profile. The plan reads it and never changes it.

use crate::class::{NodeTerm, Spread};
use crate::plugins::Plugin;
use std::time::Duration;

/// How NodeResourcesFit compares nodes (`scoringStrategy.type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// `LeastAllocated`: what remains.
    Least,
    /// `MostAllocated`: what is used.
    Most,
    /// `RequestedToCapacityRatio`: a line through these points: percent used, score from 0 to 10.
    Ratio(Vec<(i64, i64)>),
}

/// How pods are spread that say nothing about it (`defaultingType`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefaultSpread {
    /// `System`: host names with skew 3, zones with skew 5.
    System,
    /// `List`: these; their selectors are filled in per pod.
    List(Vec<Spread>),
}

/// A share of all nodes, in percent and at least so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Percent of the nodes.
    pub percent: usize,
    /// Never fewer than these.
    pub at_least: usize,
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// `schedulerName`: the pods that are its own.
    pub name: Box<str>,
    /// Plugins that filter, as bits.
    pub filters: u32,
    /// Weights of the plugins that score, by [`Plugin`]; 0: it does not score.
    pub weights: [i64; Plugin::COUNT],
    /// Plugins with any other extension point, as bits.
    pub others: u32,
    /// Resources that NodeResourcesFit does not look at: names, and groups before the slash.
    pub ignored_resources: Vec<Box<str>>,
    /// See [`Profile::ignored_resources`].
    pub ignored_groups: Vec<Box<str>>,
    /// How NodeResourcesFit scores.
    pub strategy: Strategy,
    /// Resources that NodeResourcesFit scores, with weights.
    pub fit: Vec<(Box<str>, i64)>,
    /// Resources that NodeResourcesBalancedAllocation looks at.
    pub balanced: Vec<Box<str>>,
    /// `hardPodAffinityWeight`.
    pub hard_affinity_weight: i64,
    /// `ignorePreferredTermsOfExistingPods`.
    pub ignore_preferred_of_existing: bool,
    /// Default constraints of PodTopologySpread.
    pub spread: DefaultSpread,
    /// `addedAffinity`: required terms, any of which must match as well.
    pub added_required: Option<Vec<NodeTerm>>,
    /// `addedAffinity`: preferred terms.
    pub added_preferred: Vec<(i64, NodeTerm)>,
    /// How many candidates preemption compares at most.
    pub candidates: Share,
    /// `percentageOfNodesToScore`; 0: adaptive.
    pub percentage: usize,
    /// `bindTimeoutSeconds` of VolumeBinding.
    pub bind_timeout_seconds: u64,
    /// `bindingTimeout` of DynamicResources: how long a pod waits for its devices to be made ready.
    pub device_timeout: Duration,
}

impl Default for Profile {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|n| Box::from(*n)).collect::<Vec<Box<str>>>();
        let mut weights = [0; Plugin::COUNT];
        for (plugin, weight) in Plugin::DEFAULT_WEIGHTS {
            weights[plugin as usize] = weight;
        }
        Profile {
            name: "default-scheduler".into(),
            filters: u32::MAX,
            weights,
            others: u32::MAX,
            ignored_resources: Vec::new(),
            ignored_groups: Vec::new(),
            strategy: Strategy::Least,
            fit: names(&["cpu", "memory"]).into_iter().map(|n| (n, 1)).collect(),
            balanced: names(&["cpu", "memory"]),
            hard_affinity_weight: 1,
            ignore_preferred_of_existing: false,
            spread: DefaultSpread::System,
            added_required: None,
            added_preferred: Vec::new(),
            candidates: Share { percent: 10, at_least: 100 },
            percentage: 0,
            bind_timeout_seconds: 600,
            device_timeout: Duration::from_secs(600),
        }
    }
}

impl Profile {
    /// Whether a plugin filters.
    pub fn filters(&self, plugin: Plugin) -> bool {
        self.filters & plugin.bit() != 0
    }

    /// Whether a plugin takes part at any extension point but Filter and Score.
    pub fn has(&self, plugin: Plugin) -> bool {
        self.others & plugin.bit() != 0
    }

    /// The weight of a plugin's score.
    pub fn weight(&self, plugin: Plugin) -> i64 {
        self.weights[plugin as usize]
    }

    /// How many feasible nodes are enough when nodes are looked at one by one (`numFeasibleNodesToFind`).
    pub fn enough(&self, nodes: usize) -> usize {
        if nodes < 100 || self.percentage >= 100 {
            return nodes;
        }
        let percent = if self.percentage > 0 { self.percentage } else { 50usize.saturating_sub(nodes / 125).max(5) };
        (nodes * percent / 100).max(100)
    }
}
