//! How often plugins were asked (`scheduler_plugin_evaluation_total`): counted beside the plan, told now and then.
//!
//! As upstream a plugin that has nothing to look at for a pod is not asked. A ranking asks about a node once for all pods of a class,
//! and again when the node changes, so the numbers are far below pods times nodes.

use crate::class::Class;
use crate::plugins::{Plugin, Pre, fit};
use crate::profile::Profile;
use crate::state::Pod;

use Plugin::*;

/// Plugins that look at a node before it may have a pod, in the order in which they are asked.
const FILTERS: [Plugin; 13] = [
    NodeUnschedulable,
    TaintToleration,
    NodeAffinity,
    NodePorts,
    NodeResourcesFit,
    NodeDeclaredFeatures,
    VolumeRestrictions,
    NodeVolumeLimits,
    VolumeBinding,
    VolumeZone,
    PodTopologySpread,
    InterPodAffinity,
    DynamicResources,
];
/// These count nothing before they look at nodes.
const WITHOUT_PRE_FILTER: u32 = 1 << NodeUnschedulable as u32 | 1 << TaintToleration as u32;
/// Nor do these.
const WITHOUT_PRE_SCORE: u32 = 1 << ImageLocality as u32;

/// Extension points, as upstream calls them.
const POINTS: [&str; 4] = ["PreFilter", "Filter", "PreScore", "Score"];

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Evaluations([[u64; Plugin::COUNT]; POINTS.len()]);

fn bits(plugins: &[(Plugin, bool)]) -> u32 {
    plugins.iter().filter(|(_, asked)| *asked).fold(0, |bits, (plugin, _)| bits | plugin.bit())
}

/// Those that have something to look at on a node for any pod of a class, as bits.
pub fn local_filters(profile: &Profile, class: &Class) -> u32 {
    let affinity = !class.node_selector.is_empty() || class.node_required.is_some() || profile.added_required.is_some();
    let asked = bits(&[
        (NodeUnschedulable, true),
        (TaintToleration, true),
        (NodeAffinity, affinity),
        (NodePorts, !class.ports.is_empty()),
        (NodeResourcesFit, true),
        (NodeDeclaredFeatures, !class.features.is_empty()),
    ]);
    asked & profile.filters
}

/// Those that have something to look at for a pod.
pub fn filters(pre: &Pre<'_>, pod: &Pod) -> u32 {
    let (claims, disks) = (!pod.claims.is_empty(), !pod.disks.is_empty());
    let asked = bits(&[
        (VolumeRestrictions, claims || disks),
        (NodeVolumeLimits, claims),
        (VolumeBinding, claims),
        (VolumeZone, claims),
        (PodTopologySpread, !pre.spread.is_empty()),
        (InterPodAffinity, !pre.others.is_empty()),
        (DynamicResources, !pod.devices.is_empty() || pre.devices.is_special()),
    ]);
    local_filters(pre.profile, pre.class) | asked & pre.profile.filters
}

/// Those that compare nodes by themselves alone, for any pod of a class.
pub fn local_scores(profile: &Profile, class: &Class) -> u32 {
    let preferred = !class.node_preferred.is_empty() || !profile.added_preferred.is_empty();
    let asked = bits(&[
        (NodeResourcesFit, true),
        (NodeResourcesBalancedAllocation, fit::uses_balanced(profile, class)),
        (ImageLocality, true),
        (TaintToleration, true),
        (NodeAffinity, preferred),
    ]);
    asked & bits(&Plugin::ALL.map(|plugin| (plugin, profile.weight(plugin) > 0)))
}

impl Evaluations {
    fn add(&mut self, point: usize, plugins: u32, times: u64) {
        for plugin in Plugin::ALL.into_iter().filter(|p| plugins & p.bit() != 0) {
            self.0[point][plugin as usize] += times;
        }
    }

    /// A pod, or a class of them, was looked at before any node was.
    pub fn began(&mut self, filters: u32) {
        self.add(0, filters & !WITHOUT_PRE_FILTER, 1);
    }

    /// A node was looked at; the first one that refuses it is the last one that is asked.
    pub fn filtered(&mut self, filters: u32, refused_by: Option<Plugin>) {
        for plugin in FILTERS.into_iter().filter(|p| filters & p.bit() != 0) {
            self.0[1][plugin as usize] += 1;
            if Some(plugin) == refused_by {
                return;
            }
        }
    }

    /// Nodes are to be compared for a pod, or a class of them.
    pub fn compared(&mut self, scores: u32) {
        self.add(2, scores & !WITHOUT_PRE_SCORE, 1);
    }

    /// So many nodes were compared.
    pub fn scored(&mut self, scores: u32, nodes: usize) {
        self.add(3, scores, nodes as u64);
    }

    /// Takes over what another one has counted.
    pub fn absorb(&mut self, other: Evaluations) {
        let counts = self.0.iter_mut().flatten().zip(other.0.into_iter().flatten());
        counts.for_each(|(mine, more)| *mine += more);
    }

    /// What was counted: the plugin, the extension point and how often.
    pub fn counted(&self) -> impl Iterator<Item = (Plugin, &'static str, u64)> {
        let of = |(point, counts): (&'static str, &[u64; Plugin::COUNT])| Plugin::ALL.map(|p| (p, point, counts[p as usize]));
        POINTS.into_iter().zip(&self.0).flat_map(of).filter(|(.., times)| *times > 0)
    }
}
