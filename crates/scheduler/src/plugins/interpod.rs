//! InterPodAffinity: pods that want to be together, and pods that must not be.

use super::{Failure, Plugin};
use crate::class::{Class, PodTerm};
use crate::node::NodeId;
use crate::profile::Profile;
use crate::state::{ClassEntry, State};
use crate::topology::Topology;

/// No pod that is wanted is there.
pub(crate) const AFFINITY: &str = "node(s) didn't match pod affinity rules";
/// A pod that is not wanted is there.
pub(crate) const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
/// A pod is there that does not want it.
pub(crate) const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

#[derive(Clone, Debug)]
struct Column<'s> {
    key: &'s str,
    topology: &'s Topology,
    domains: Vec<i64>,
}

impl<'s> Column<'s> {
    fn new(state: &'s State, key: &'s str) -> Option<Self> {
        let topology = state.topology(key)?;
        Some(Column { key, topology, domains: vec![0; topology.size()] })
    }

    fn add(&mut self, node: NodeId, amount: i64) {
        if let Some(domain) = self.topology.domain(node) {
            self.domains[domain] += amount;
        }
    }

    fn at(&self, node: NodeId) -> Option<i64> {
        self.topology.domain(node).map(|d| self.domains[d])
    }
}

/// The column of a key, made when it is first needed.
fn column<'a, 's>(list: &'a mut Vec<Column<'s>>, state: &'s State, key: &'s str) -> Option<&'a mut Column<'s>> {
    let at = match list.iter().position(|c| c.key == key) {
        Some(at) => at,
        None => {
            list.push(Column::new(state, key)?);
            list.len() - 1
        }
    };
    list.get_mut(at)
}

/// Pods that matter for a pod's required terms, and those whose terms matter for it.
#[derive(Clone, Debug)]
pub struct Counts<'s> {
    class: &'s Class,
    /// Pods that match all of its affinity terms, per term.
    affinity: Vec<Column<'s>>,
    /// Pods that match its anti-affinity terms, per term.
    anti: Vec<Column<'s>>,
    /// Pods that do not want it, per topology key.
    existing: Vec<Column<'s>>,
    matches_itself: bool,
}

/// Whether a term means the pods of a class.
pub(crate) fn matches(state: &State, term: &PodTerm, class: &Class) -> bool {
    term.matches(&class.namespace, state.namespace_labels(&class.namespace), &class.labels)
}

/// Whether all terms (and there are some) mean the pods of a class.
pub(crate) fn matches_all(state: &State, terms: &[PodTerm], class: &Class) -> bool {
    !terms.is_empty() && terms.iter().all(|t| matches(state, t, class))
}

/// Classes with placed pods in the namespaces that any of the terms means.
fn candidates<'s>(state: &'s State, terms: &[&PodTerm]) -> Vec<&'s ClassEntry> {
    let meant = |name: &str| terms.iter().any(|t| t.selects_namespace(name, state.namespace_labels(name)));
    let by_name = terms.iter().all(|t| t.namespace_selector.is_nothing());
    let mut namespaces: Vec<&str> = if by_name {
        terms.iter().flat_map(|t| t.namespaces.iter().map(|n| &**n)).collect()
    } else {
        state.namespaces_with_pods().filter(|n| meant(n)).collect()
    };
    namespaces.sort_unstable();
    namespaces.dedup();
    namespaces.into_iter().flat_map(|n| state.classes_in(n)).filter(|e| !e.placed.is_empty()).collect()
}

impl<'s> Counts<'s> {
    /// Counts.
    pub fn of(state: &'s State, profile: &Profile, class: &'s Class) -> Self {
        if !profile.filters(Plugin::InterPodAffinity) {
            return Counts { class, affinity: Vec::new(), anti: Vec::new(), existing: Vec::new(), matches_itself: false };
        }
        let columns = |terms: &'s [PodTerm]| terms.iter().filter_map(|t| Column::new(state, &t.key)).collect();
        let mut counts = Counts {
            class,
            affinity: columns(&class.affinity),
            anti: columns(&class.anti_affinity),
            existing: Vec::new(),
            matches_itself: matches_all(state, &class.affinity, class),
        };
        let terms: Vec<&PodTerm> = class.affinity.iter().chain(&class.anti_affinity).collect();
        for entry in candidates(state, &terms) {
            counts.count_wanted(state, entry.class.as_ref(), entry.placed.iter().map(|(node, p)| (*node, i64::from(p.pods))));
        }
        for entry in state.minding() {
            counts.count_minding(state, &entry.class, entry.placed.iter().map(|(node, p)| (*node, i64::from(p.pods))));
        }
        counts
    }

    fn count_wanted(&mut self, state: &State, other: &Class, at: impl Iterator<Item = (NodeId, i64)> + Clone) {
        if matches_all(state, &self.class.affinity, other) {
            self.affinity.iter_mut().for_each(|c| at.clone().for_each(|(node, pods)| c.add(node, pods)));
        }
        for (term, column) in self.class.anti_affinity.iter().zip(&mut self.anti) {
            if matches(state, term, other) {
                at.clone().for_each(|(node, pods)| column.add(node, pods));
            }
        }
    }

    fn count_minding(&mut self, state: &'s State, other: &'s Class, at: impl Iterator<Item = (NodeId, i64)> + Clone) {
        for term in other.anti_affinity.iter().filter(|t| matches(state, t, self.class)) {
            if let Some(column) = column(&mut self.existing, state, &term.key) {
                at.clone().for_each(|(node, pods)| column.add(node, pods));
            }
        }
    }

    /// Whether no pod minds any other.
    pub fn is_empty(&self) -> bool {
        self.class.affinity.is_empty() && self.anti.is_empty() && self.existing.is_empty()
    }

    /// As if a pod came to a node or left it.
    pub fn shift(&mut self, state: &State, other: &Class, node: NodeId, delta: i64) {
        self.count_wanted(state, other, std::iter::once((node, delta)));
        for term in other.anti_affinity.iter().filter(|t| matches(state, t, self.class)) {
            if let Some(column) = self.existing.iter_mut().find(|c| c.key == &*term.key) {
                column.add(node, delta);
            }
        }
    }

    fn wanted_are_there(&self, node: NodeId) -> bool {
        if self.affinity.iter().any(|c| c.at(node).is_none()) {
            return false;
        }
        if self.affinity.iter().all(|c| c.at(node).is_some_and(|pods| pods > 0)) {
            return true;
        }
        // The first pod of a group that wants its own kind may go anywhere.
        self.matches_itself && self.affinity.iter().all(|c| c.domains.iter().all(|pods| *pods == 0))
    }
}

/// Required terms hold both ways.
pub fn filter(counts: &Counts<'_>, node: NodeId) -> Option<Failure> {
    let present = |columns: &[Column<'_>]| columns.iter().any(|c| c.at(node).is_some_and(|pods| pods > 0));
    if !counts.wanted_are_there(node) {
        return Some(Failure::unresolvable(Plugin::InterPodAffinity, AFFINITY));
    }
    if present(&counts.anti) {
        return Some(Failure::new(Plugin::InterPodAffinity, ANTI_AFFINITY));
    }
    present(&counts.existing).then(|| Failure::new(Plugin::InterPodAffinity, EXISTING))
}

/// Whether nodes are compared by who is there at all: with `ignorePreferredTermsOfExistingPods` a pod that prefers nobody leaves out what
/// others want of it, their required terms included.
pub(crate) fn prefers(profile: &Profile, class: &Class) -> bool {
    !profile.ignore_preferred_of_existing || !class.pod_preferred.is_empty()
}

/// Sums of weights for the feasible nodes, not yet normalised; `None` when no pod cares.
pub fn scores(state: &State, profile: &Profile, class: &Class, feasible: &[NodeId]) -> Option<Vec<i64>> {
    if !prefers(profile, class) {
        return None;
    }
    let mut columns: Vec<Column<'_>> = Vec::new();
    let terms: Vec<&PodTerm> = class.pod_preferred.iter().map(|(_, t)| t).collect();
    for entry in candidates(state, &terms) {
        for (weight, term) in class.pod_preferred.iter().filter(|(_, t)| matches(state, t, &entry.class)) {
            add_all(&mut columns, state, &term.key, entry, *weight);
        }
    }
    for entry in state.minding().filter(|e| !e.placed.is_empty()) {
        for term in entry.class.affinity.iter().filter(|t| profile.hard_affinity_weight != 0 && matches(state, t, class)) {
            add_all(&mut columns, state, &term.key, entry, profile.hard_affinity_weight);
        }
        for (weight, term) in entry.class.pod_preferred.iter().filter(|(_, t)| matches(state, t, class)) {
            add_all(&mut columns, state, &term.key, entry, *weight);
        }
    }
    if columns.is_empty() {
        return None;
    }
    Some(feasible.iter().map(|id| columns.iter().filter_map(|c| c.at(*id)).sum()).collect())
}

fn add_all<'s>(columns: &mut Vec<Column<'s>>, state: &'s State, key: &'s str, entry: &ClassEntry, weight: i64) {
    if let Some(column) = column(columns, state, key) {
        entry.placed.iter().for_each(|(node, p)| column.add(*node, weight * i64::from(p.pods)));
    }
}
