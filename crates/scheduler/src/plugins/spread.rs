//! PodTopologySpread: pods of a group are spread evenly over the domains of a topology key.

use super::{Failure, Plugin};
use crate::class::{Class, Spread, label};
use crate::node::{Node, NodeId};
use crate::profile::{DefaultSpread, Profile};
use crate::state::State;
use crate::topology::{HOSTNAME, Topology, ZONE};
use ferrokube_api::labels::Selector;

/// The domain is too far ahead.
pub(crate) const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
/// The node is in no domain.
pub(crate) const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// A domain that no eligible node is in.
const NOWHERE: i64 = -1;

/// What is counted for one constraint.
#[derive(Clone, Debug)]
struct Count<'s> {
    constraint: Spread,
    topology: &'s Topology,
    /// Matching pods by domain; [`NOWHERE`] where none are counted.
    domains: Vec<i64>,
    /// Whose pods count.
    eligible: Vec<bool>,
    own: i64,
    fewest: i64,
}

impl Count<'_> {
    /// The count of the emptiest domain; 0 while there are fewer domains than asked for.
    fn settle(&mut self) {
        let counted = self.domains.iter().filter(|n| **n != NOWHERE);
        let (number, fewest) = counted.fold((0, i64::MAX), |(k, least), n| (k + 1, least.min(*n)));
        self.fewest = if number < self.constraint.min_domains { 0 } else { fewest };
    }
}

/// What is counted for the constraints that must hold.
#[derive(Clone, Debug, Default)]
pub struct Counts<'s> {
    namespace: &'s str,
    list: Vec<Count<'s>>,
}

/// Whether pods on a node count for a constraint.
pub(crate) fn includes(constraint: &Spread, class: &Class, node: &Node) -> bool {
    (!constraint.honor_affinity || class.wants_node(node)) && (!constraint.honor_taints || class.untolerated(&node.taints).is_none())
}

/// Adds the pods of a namespace that a constraint selects, per node. Pods that are leaving do not count.
fn each_match(state: &State, namespace: &str, constraint: &Spread, mut add: impl FnMut(NodeId, i64)) {
    for entry in state.classes_in(namespace).filter(|e| !e.placed.is_empty()) {
        if constraint.selector.matches_with(|key| label(&entry.class.labels, key)) {
            entry.placed.iter().for_each(|(node, p)| add(*node, i64::from(p.pods - p.leaving)));
        }
    }
}

impl<'s> Counts<'s> {
    /// Counts.
    pub fn of(state: &'s State, profile: &Profile, class: &'s Class) -> Self {
        if !profile.filters(Plugin::PodTopologySpread) {
            return Counts::default();
        }
        let constraints = hard(state, profile, class);
        let hard: Vec<(&Spread, &Topology)> = constraints.iter().filter_map(|s| Some((s, state.topology(&s.key)?))).collect();
        let in_all = |node: NodeId| hard.iter().all(|(_, t)| t.domain(node).is_some());
        let mut counts = Counts { namespace: &class.namespace, list: Vec::with_capacity(hard.len()) };
        for (constraint, topology) in &hard {
            let mut domains = vec![NOWHERE; topology.size()];
            let mut eligible = vec![false; state.node_slots()];
            for id in state.order().iter().filter(|id| in_all(**id)) {
                if let (Some(domain), true) = (topology.domain(*id), includes(constraint, class, state.node(*id))) {
                    domains[domain] = 0;
                    eligible[*id as usize] = true;
                }
            }
            each_match(state, &class.namespace, constraint, |node, pods| {
                if let (Some(domain), true) = (topology.domain(node), eligible[node as usize]) {
                    domains[domain] += pods;
                }
            });
            let own = i64::from(constraint.selector.matches_with(|key| label(&class.labels, key)));
            let constraint = (*constraint).clone();
            let mut count = Count { constraint, topology, domains, eligible, own, fewest: 0 };
            count.settle();
            counts.list.push(count);
        }
        counts
    }

    /// Whether no constraint must hold.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// As if a pod came to a node or left it.
    pub fn shift(&mut self, class: &Class, node: NodeId, leaving: bool, delta: i64) {
        if leaving || *class.namespace != *self.namespace {
            return;
        }
        for count in &mut self.list {
            let selected = count.constraint.selector.matches_with(|key| label(&class.labels, key));
            if let (Some(domain), true, true) = (count.topology.domain(node), selected, count.eligible[node as usize]) {
                count.domains[domain] += delta;
                count.settle();
            }
        }
    }
}

/// With the pod, no domain may be ahead of the emptiest by more than the skew allowed.
pub fn filter(counts: &Counts<'_>, node: NodeId) -> Option<Failure> {
    for count in &counts.list {
        let Some(domain) = count.topology.domain(node) else {
            return Some(Failure::unresolvable(Plugin::PodTopologySpread, NO_LABEL));
        };
        let there = count.domains[domain].max(0);
        if there + count.own - count.fewest > count.constraint.max_skew {
            return Some(Failure::new(Plugin::PodTopologySpread, UNEVEN));
        }
    }
    None
}

/// The constraints that must hold: those of the pod, or else the profile's.
pub fn hard(state: &State, profile: &Profile, class: &Class) -> Vec<Spread> {
    defaults(state, profile, class).into_iter().chain(class.spread.iter().cloned()).filter(|s| !s.anyway).collect()
}

/// The constraints that are preferences, and whether a node must have all their labels to count; for pods without any
/// constraint those of the profile.
pub fn soft(state: &State, profile: &Profile, class: &Class) -> (Vec<Spread>, bool) {
    let all_labels = !class.spread.is_empty() || profile.spread != DefaultSpread::System;
    let all = defaults(state, profile, class).into_iter().chain(class.spread.iter().cloned());
    (all.filter(|s| s.anyway).collect(), all_labels)
}

/// What the profile says about pods of a group that say nothing about it themselves.
fn defaults(state: &State, profile: &Profile, class: &Class) -> Vec<Spread> {
    if !class.spread.is_empty() || profile.spread == DefaultSpread::List(Vec::new()) {
        return Vec::new();
    }
    let Some(selector) = state.owners.default_selector(class) else { return Vec::new() };
    let system = |key: &str, max_skew| Spread {
        max_skew,
        key: key.into(),
        anyway: true,
        selector: Selector::everything(),
        min_domains: 1,
        honor_affinity: true,
        honor_taints: false,
    };
    let list = match &profile.spread {
        DefaultSpread::System => vec![system(HOSTNAME, 3), system(ZONE, 5)],
        DefaultSpread::List(list) => list.clone(),
    };
    list.into_iter().map(|s| Spread { selector: selector.clone(), ..s }).collect()
}

/// Scores of the feasible nodes, already from 0 to 100; `None` when there is nothing to prefer.
pub fn scores(state: &State, profile: &Profile, class: &Class, feasible: &[NodeId]) -> Option<Vec<i64>> {
    let (constraints, all_labels) = soft(state, profile, class);
    let columns: Vec<(&Spread, &Topology)> = constraints.iter().filter_map(|s| Some((s, state.topology(&s.key)?))).collect();
    if columns.is_empty() {
        return None;
    }
    let ignored: Vec<bool> = feasible.iter().map(|id| all_labels && columns.iter().any(|(_, t)| t.domain(*id).is_none())).collect();
    let mut raw = vec![0.0; feasible.len()];
    for (constraint, topology) in &columns {
        let mut domains = vec![NOWHERE; topology.size()];
        let (mut size, mut unlabelled) = (0, 0);
        for (id, _) in feasible.iter().zip(&ignored).filter(|(_, ignored)| !**ignored) {
            match topology.domain(*id) {
                Some(domain) => {
                    size += usize::from(domains[domain] == NOWHERE);
                    domains[domain] = 0;
                }
                None => unlabelled = 1,
            }
        }
        // Together the nodes without the label weigh as one domain more, though nothing is counted there.
        size += unlabelled;
        if *constraint.key == *HOSTNAME {
            size = ignored.iter().filter(|i| !**i).count();
        }
        each_match(state, &class.namespace, constraint, |id, pods| {
            let counted = topology.domain(id).filter(|d| domains[*d] != NOWHERE);
            let Some(domain) = counted else { return };
            let whole = !all_labels || columns.iter().all(|(_, t)| t.domain(id).is_some());
            // A node's own pods count as they are; other domains only through the nodes that the policies include.
            if *constraint.key == *HOSTNAME || whole && includes(constraint, class, state.node(id)) {
                domains[domain] += pods;
            }
        });
        let weight = ((size + 2) as f64).ln();
        for (at, id) in feasible.iter().enumerate().filter(|(at, _)| !ignored[*at]) {
            if let Some(domain) = topology.domain(*id) {
                raw[at] += domains[domain] as f64 * weight + (constraint.max_skew - 1) as f64;
            }
        }
    }
    Some(normalise(&raw, &ignored))
}

/// Fewer is better: `100 × (most + least - n) / most`; nodes without the labels get 0.
pub(crate) fn normalise(raw: &[f64], ignored: &[bool]) -> Vec<i64> {
    let rounded: Vec<i64> = raw.iter().map(|s| s.round() as i64).collect();
    let counted = || rounded.iter().zip(ignored).filter(|(_, i)| !**i).map(|(s, _)| *s);
    let (most, least) = (counted().max().unwrap_or(0), counted().min().unwrap_or(0));
    let score = |(s, ignored): (&i64, &bool)| match (ignored, most) {
        (true, _) => 0,
        (false, 0) => 100,
        (false, _) => 100 * (most + least - s) / most,
    };
    rounded.iter().zip(ignored).map(score).collect()
}
