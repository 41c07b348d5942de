//! Pods counted by the domains of a topology key, kept up to date by what comes and goes.
//!
//! A class needs one column per term of its own about other pods, and one per topology key of the terms of others that
//! mean it. Where every domain is one node (host names) a column counts by node, and the count is part of what the node
//! is like; where a domain has many nodes, one number stands for all of them.

use super::groups::Key;
use crate::class::{Class, Spread, label};
use crate::node::NodeId;
use crate::plugins::{Failure, Plugin, interpod, spread};
use crate::profile::Profile;
use crate::state::State;
use crate::topology::{HOSTNAME, Topology};
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What a column counts.
#[derive(Clone, Debug, PartialEq)]
enum Role {
    /// Pods that all required affinity terms mean.
    Affinity,
    /// Pods that a required anti-affinity term means.
    Anti(usize),
    /// Pods whose anti-affinity means this class.
    Existing,
    /// Pods that a constraint counts which must hold.
    Hard(Spread, bool),
    /// Pods that a preferred constraint counts.
    Soft(Spread),
    /// Sums of the weights of preferences.
    Preference,
}

#[derive(Clone, Debug)]
struct Column {
    key: Box<str>,
    role: Role,
    /// By node and not by domain.
    own: bool,
    values: Vec<i64>,
    /// Nodes whose pods count; empty: all.
    eligible: Vec<bool>,
    total: i64,
    /// How many domains have which count, of a constraint that must hold.
    histogram: BTreeMap<i64, usize>,
}

impl Column {
    fn counts(&self, node: NodeId) -> bool {
        self.eligible.is_empty() || self.eligible.get(node as usize).copied().unwrap_or(false)
    }

    fn slot(&self, topology: &Topology, node: NodeId) -> Option<usize> {
        let domain = topology.domain(node)?;
        Some(if self.own { node as usize } else { domain })
    }

    fn add(&mut self, topology: &Topology, node: NodeId, amount: i64) {
        let Some(slot) = self.slot(topology, node).filter(|_| self.counts(node)) else { return };
        if self.values.len() <= slot {
            self.values.resize(slot + 1, 0);
        }
        let old = self.values[slot];
        self.values[slot] += amount;
        self.total += amount;
        if matches!(self.role, Role::Hard(..)) {
            if let Some(domains) = self.histogram.get_mut(&old) {
                *domains -= 1;
                if *domains == 0 {
                    self.histogram.remove(&old);
                }
            }
            *self.histogram.entry(old + amount).or_insert(0) += 1;
        }
    }

    fn at(&self, slot: usize) -> i64 {
        self.values.get(slot).copied().unwrap_or(0)
    }

    /// What of a node's count makes its group.
    fn part(&self, topology: &Topology, node: NodeId) -> i64 {
        let Some(slot) = self.slot(topology, node) else { return NONE };
        match (&self.role, self.own) {
            (_, false) => slot as i64,
            (Role::Affinity | Role::Anti(_) | Role::Existing, true) => self.at(slot).min(1),
            (Role::Hard(..) | Role::Soft(_), true) => self.at(slot),
            (Role::Preference, true) => 0,
        }
    }

    /// The count that a part of a key stands for.
    fn value(&self, part: i64) -> Option<i64> {
        match part {
            NONE => None,
            _ if self.own => Some(part),
            slot => Some(self.at(slot as usize)),
        }
    }

    /// The count of the emptiest domain; 0 while there are fewer domains than asked for.
    fn fewest(&self, min_domains: usize) -> i64 {
        if self.histogram.values().sum::<usize>() < min_domains {
            return 0;
        }
        self.histogram.first_key_value().map_or(i64::MAX, |(count, _)| *count)
    }
}

/// The node is in no domain.
const NONE: i64 = -1;
/// The parts of a key before those of the columns.
const PARTS: usize = 3;

/// What one pod of a class adds to columns: which, how much, and whether not while it is being deleted.
type Effects = SmallVec<[(u32, i64, bool); 2]>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Counts {
    columns: Vec<Column>,
    effects: HashMap<usize, (Arc<Class>, Effects)>,
    matches_itself: bool,
    all_labels: bool,
    minds: bool,
}

/// The counts no longer have the columns that are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

impl Counts {
    /// Counts everything.
    pub fn of(state: &State, profile: &Profile, class: &Class) -> Self {
        let mut counts = Counts {
            columns: Vec::new(),
            effects: HashMap::new(),
            matches_itself: interpod::matches_all(state, &class.affinity, class),
            all_labels: false,
            minds: class.minds_others(),
        };
        counts.add_own(state, profile, class);
        counts.add_of_others(state, profile, class);
        if counts.columns.is_empty() {
            return counts;
        }
        counts.mark_eligible(state, class);
        for entry in state.classes().filter(|e| !e.placed.is_empty()) {
            let Ok(effects) = counts.effects_of(state, profile, class, &entry.class) else { continue };
            for (node, placed) in &entry.placed {
                let pods = i64::from(placed.pods);
                counts.apply(state, &effects, *node, pods, pods - i64::from(placed.leaving));
            }
        }
        counts
    }

    fn column(&mut self, state: &State, key: &str, role: Role) {
        let Some(topology) = state.topology(key) else { return };
        let own = topology.is_unique() || matches!(role, Role::Soft(_)) && key == HOSTNAME;
        let (values, eligible, histogram) = (Vec::new(), Vec::new(), BTreeMap::new());
        self.columns.push(Column { key: key.into(), role, own, values, eligible, total: 0, histogram });
    }

    /// Columns for the class's own terms.
    fn add_own(&mut self, state: &State, profile: &Profile, class: &Class) {
        if profile.filters(Plugin::PodTopologySpread) {
            for constraint in spread::hard(state, profile, class) {
                let own = constraint.selector.matches_with(|key| label(&class.labels, key));
                self.column(state, &constraint.key.clone(), Role::Hard(constraint, own));
            }
        }
        if profile.weight(Plugin::PodTopologySpread) > 0 {
            let (constraints, all_labels) = spread::soft(state, profile, class);
            self.all_labels = all_labels;
            for constraint in constraints {
                self.column(state, &constraint.key.clone(), Role::Soft(constraint));
            }
        }
        if profile.filters(Plugin::InterPodAffinity) {
            class.affinity.iter().for_each(|t| self.column(state, &t.key, Role::Affinity));
            class.anti_affinity.iter().enumerate().for_each(|(i, t)| self.column(state, &t.key, Role::Anti(i)));
        }
        if profile.weight(Plugin::InterPodAffinity) > 0 {
            class.pod_preferred.iter().for_each(|(_, t)| self.once(state, &t.key, Role::Preference));
        }
    }

    /// Columns for the terms of others that mean the class.
    fn add_of_others(&mut self, state: &State, profile: &Profile, class: &Class) {
        for entry in state.minding().filter(|e| !e.placed.is_empty()) {
            let other: &Class = &entry.class;
            if profile.filters(Plugin::InterPodAffinity) {
                let terms = other.anti_affinity.iter().filter(|t| interpod::matches(state, t, class));
                terms.for_each(|t| self.once(state, &t.key, Role::Existing));
            }
            for (term, _) in preferences(profile, class, other).filter(|(t, _)| interpod::matches(state, t, class)) {
                self.once(state, &term.key, Role::Preference);
            }
        }
    }

    fn once(&mut self, state: &State, key: &str, role: Role) {
        if !self.columns.iter().any(|c| *c.key == *key && c.role == role) {
            self.column(state, key, role);
        }
    }

    /// Finds whose pods the constraints count, and the domains that are there.
    fn mark_eligible(&mut self, state: &State, class: &Class) {
        let keys = |hard: bool| -> Vec<&Topology> {
            let of_kind = |c: &&Column| if hard { matches!(c.role, Role::Hard(..)) } else { matches!(c.role, Role::Soft(_)) };
            self.columns.iter().filter(of_kind).filter_map(|c| state.topology(&c.key)).collect()
        };
        let whole = |topologies: &[&Topology], node: NodeId| topologies.iter().all(|t| t.domain(node).is_some());
        let (hard, soft) = (keys(true), keys(false));
        let all_labels = self.all_labels;
        for column in &mut self.columns {
            let (constraint, all) = match &column.role {
                Role::Hard(constraint, _) => (constraint, &hard),
                Role::Soft(constraint) if *constraint.key != *HOSTNAME => (constraint, &soft),
                _ => continue,
            };
            let needs_all = all_labels || matches!(column.role, Role::Hard(..));
            let mut eligible = vec![false; state.node_slots()];
            for id in state.order() {
                let labelled = !needs_all || whole(all, *id);
                eligible[*id as usize] = labelled && spread::includes(constraint, class, state.node(*id));
            }
            if let (Role::Hard(..), Some(topology)) = (&column.role, state.topology(&column.key)) {
                let nodes = state.order().iter().filter(|id| eligible[**id as usize]);
                let mut domains: Vec<usize> = nodes.filter_map(|id| column.slot(topology, *id)).collect();
                domains.sort_unstable();
                domains.dedup();
                column.histogram = BTreeMap::from([(0, domains.len())]);
                column.histogram.retain(|_, n| *n > 0);
            }
            column.eligible = eligible;
        }
    }

    /// What one pod of another class adds.
    fn effects_of(&self, state: &State, profile: &Profile, class: &Class, other: &Class) -> Result<Effects, Stale> {
        let mut effects = Effects::new();
        let wanted = interpod::matches_all(state, &class.affinity, other);
        let mut preference: SmallVec<[(&str, i64); 2]> = SmallVec::new();
        if profile.weight(Plugin::InterPodAffinity) > 0 {
            let own = class.pod_preferred.iter().filter(|(_, t)| interpod::matches(state, t, other)).map(|(w, t)| (t, *w));
            let theirs = preferences(profile, class, other).filter(|(t, _)| interpod::matches(state, t, class));
            preference.extend(own.chain(theirs).map(|(t, w)| (&*t.key, w)));
        }
        let mut existing: SmallVec<[&str; 2]> = SmallVec::new();
        if profile.filters(Plugin::InterPodAffinity) {
            existing.extend(other.anti_affinity.iter().filter(|t| interpod::matches(state, t, class)).map(|t| &*t.key));
        }
        for (at, column) in self.columns.iter().enumerate() {
            let selected = |s: &Spread| class.namespace == other.namespace && s.selector.matches_with(|key| label(&other.labels, key));
            let amount = match &column.role {
                Role::Affinity => i64::from(wanted),
                Role::Anti(term) => i64::from(interpod::matches(state, &class.anti_affinity[*term], other)),
                Role::Existing => existing.iter().filter(|key| ***key == *column.key).count() as i64,
                Role::Hard(constraint, _) | Role::Soft(constraint) => i64::from(selected(constraint)),
                Role::Preference => preference.iter().filter(|(key, _)| **key == *column.key).map(|(_, w)| w).sum(),
            };
            if amount != 0 {
                effects.push((at as u32, amount, matches!(column.role, Role::Hard(..) | Role::Soft(_))));
            }
        }
        let known = |key: &str, role: &Role| self.columns.iter().any(|c| *c.key == *key && c.role == *role);
        let all_known =
            existing.iter().all(|key| known(key, &Role::Existing)) && preference.iter().all(|(key, _)| known(key, &Role::Preference));
        if all_known { Ok(effects) } else { Err(Stale) }
    }

    fn apply(&mut self, state: &State, effects: &Effects, node: NodeId, pods: i64, staying: i64) {
        for (at, amount, only_staying) in effects {
            let column = &mut self.columns[*at as usize];
            if let Some(topology) = state.topology(&column.key) {
                column.add(topology, node, amount * if *only_staying { staying } else { pods });
            }
        }
    }

    /// Pods of a class came to a node or went.
    pub fn happened(
        &mut self,
        state: &State,
        profile: &Profile,
        class: &Class,
        event: (NodeId, &Arc<Class>, i64, i64),
    ) -> Result<(), Stale> {
        let (node, other, pods, staying) = event;
        if self.columns.is_empty() && !self.minds && !other.minds_others() {
            return Ok(());
        }
        let at = Arc::as_ptr(other) as usize;
        let effects = match self.effects.get(&at) {
            Some((_, effects)) => effects.clone(),
            None => {
                let effects = self.effects_of(state, profile, class, other)?;
                if self.effects.len() > 4096 {
                    self.effects.clear();
                }
                // Holding the class keeps its address from meaning another.
                self.effects.insert(at, (other.clone(), effects.clone()));
                effects
            }
        };
        self.apply(state, &effects, node, pods, staying);
        Ok(())
    }

    /// Whether there is nothing to count.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Whether a topology key no longer divides nodes the way the columns were made for.
    pub fn is_stale(&self, state: &State) -> bool {
        let unique = |c: &Column| state.topology(&c.key).is_some_and(Topology::is_unique);
        self.columns.iter().any(|c| c.own != unique(c) && !(matches!(c.role, Role::Soft(_)) && *c.key == *HOSTNAME))
    }

    /// The group of a node.
    pub fn key(&self, state: &State, node: NodeId, intolerable: i64, preferred: i64) -> Key {
        let mut key: Key = smallvec::smallvec![intolerable, preferred, 0];
        for column in &self.columns {
            let Some(topology) = state.topology(&column.key) else { continue };
            key.push(column.part(topology, node));
            if let (Role::Preference, true, Some(slot)) = (&column.role, column.own, column.slot(topology, node)) {
                key[2] += column.at(slot);
            }
        }
        key
    }

    fn parts<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (&'a Column, i64)> {
        self.columns.iter().zip(key.iter().skip(PARTS).copied())
    }

    /// Why a group is no place for the pod.
    pub fn failure(&self, key: &Key) -> Option<Failure> {
        for (column, part) in self.parts(key) {
            let Role::Hard(constraint, own) = &column.role else { continue };
            let Some(there) = column.value(part) else {
                return Some(Failure::unresolvable(Plugin::PodTopologySpread, spread::NO_LABEL));
            };
            if there + i64::from(*own) - column.fewest(constraint.min_domains) > constraint.max_skew {
                return Some(Failure::new(Plugin::PodTopologySpread, spread::UNEVEN));
            }
        }
        if !self.wanted_are_there(key) {
            return Some(Failure::unresolvable(Plugin::InterPodAffinity, interpod::AFFINITY));
        }
        let present = |anti: bool| {
            let of_kind = |c: &Column| if anti { matches!(c.role, Role::Anti(_)) } else { c.role == Role::Existing };
            self.parts(key).any(|(c, part)| of_kind(c) && c.value(part).is_some_and(|pods| pods > 0))
        };
        if present(true) {
            return Some(Failure::new(Plugin::InterPodAffinity, interpod::ANTI_AFFINITY));
        }
        present(false).then(|| Failure::new(Plugin::InterPodAffinity, interpod::EXISTING))
    }

    fn wanted_are_there(&self, key: &Key) -> bool {
        let (mut all_there, mut none_anywhere, mut any) = (true, true, false);
        for (column, part) in self.parts(key).filter(|(c, _)| c.role == Role::Affinity) {
            any = true;
            let Some(pods) = column.value(part) else { return false };
            all_there &= pods > 0;
            none_anywhere &= column.total == 0;
        }
        // The first pod of a group that wants its own kind may go anywhere.
        !any || all_there || self.matches_itself && none_anywhere
    }

    /// Scores of PodTopologySpread for groups of so many nodes, from 0 to 100.
    pub fn spread(&self, groups: &[(&Key, usize)]) -> Option<Vec<i64>> {
        let soft: Vec<(usize, &Column, &Spread)> = self
            .columns
            .iter()
            .enumerate()
            .filter_map(|(at, column)| match &column.role {
                Role::Soft(constraint) => Some((at, column, constraint)),
                _ => None,
            })
            .collect();
        if soft.is_empty() {
            return None;
        }
        let lacks = |key: &Key| soft.iter().any(|(at, ..)| key[PARTS + at] == NONE);
        let ignored: Vec<bool> = groups.iter().map(|(key, _)| self.all_labels && lacks(key)).collect();
        let mut raw = vec![0.0; groups.len()];
        for (at, column, constraint) in soft {
            let counted =
                || groups.iter().zip(&ignored).filter(|(_, ignored)| !**ignored).map(|((key, nodes), _)| (key[PARTS + at], *nodes));
            let size = if *column.key == *HOSTNAME {
                counted().map(|(_, nodes)| nodes).sum()
            } else if column.own {
                let labelled = counted().filter(|(part, _)| *part != NONE).map(|(_, nodes)| nodes).sum::<usize>();
                labelled + usize::from(counted().any(|(part, _)| part == NONE))
            } else {
                // Nodes without the label are one domain more.
                let mut domains: SmallVec<[i64; 16]> = counted().map(|(part, _)| part).collect();
                domains.sort_unstable();
                domains.dedup();
                domains.len()
            };
            let weight = ((size + 2) as f64).ln();
            for (group, ((key, _), ignored)) in groups.iter().zip(&ignored).enumerate() {
                if let (Some(pods), false) = (column.value(key[PARTS + at]), ignored) {
                    raw[group] += pods as f64 * weight + (constraint.max_skew - 1) as f64;
                }
            }
        }
        Some(spread::normalise(&raw, &ignored))
    }

    /// Sums of the preferences of InterPodAffinity, not yet normalised; `None`: nobody cares.
    pub fn preference(&self, groups: &[(&Key, usize)]) -> Option<Vec<i64>> {
        if !self.columns.iter().any(|c| c.role == Role::Preference) {
            return None;
        }
        let shared = |key: &Key| -> i64 {
            self.parts(key).filter(|(c, _)| c.role == Role::Preference && !c.own).filter_map(|(c, part)| c.value(part)).sum()
        };
        Some(groups.iter().map(|(key, _)| key[2] + shared(key)).collect())
    }
}

/// The terms of a pod that is there which say how much it likes others: required affinity counts as a preference.
fn preferences<'a>(profile: &'a Profile, class: &'a Class, other: &'a Class) -> impl Iterator<Item = (&'a crate::class::PodTerm, i64)> {
    let scores = profile.weight(Plugin::InterPodAffinity) > 0 && interpod::prefers(profile, class);
    let required = other.affinity.iter().filter(move |_| scores && profile.hard_affinity_weight != 0);
    let preferred = other.pod_preferred.iter().filter(move |_| scores);
    required.map(|t| (t, profile.hard_affinity_weight)).chain(preferred.map(|(weight, t)| (t, *weight)))
}
