//! Where a pod should go: pure over a [`State`] that it cannot change, deterministic given its seed.

use crate::class::Class;
use crate::diagnosis::Diagnosis;
use crate::node::{NodeId, PodId};
use crate::plugins::{self, Failure, Pre, Seat, affinity, fit, image, interpod, spread, taints};
use crate::state::State;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// What was decided about a pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It goes there.
    Place(NodeId),
    /// It goes nowhere, for these reasons.
    Nowhere(Box<Diagnosis>),
}

/// The state of deciding: where the next search begins, and how ties are broken.
pub struct Planner {
    rng: SmallRng,
    next_start: usize,
    feasible: Vec<NodeId>,
    totals: Vec<i64>,
    column: Vec<i64>,
}

/// How many feasible nodes are enough (`percentageOfNodesToScore` 0: adaptive).
pub fn enough(nodes: usize) -> usize {
    if nodes < 100 {
        return nodes;
    }
    let percent = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(100)
}

impl Planner {
    /// A planner; equal seeds make equal decisions.
    pub fn new(seed: u64) -> Self {
        Planner { rng: SmallRng::seed_from_u64(seed), next_start: 0, feasible: Vec::new(), totals: Vec::new(), column: Vec::new() }
    }

    /// Decides about one pod.
    pub fn decide(&mut self, state: &State, pod: PodId) -> Decision {
        let class = state.class_of(pod);
        let nodes = state.order().len();
        if nodes == 0 {
            return Decision::Nowhere(Box::new(Diagnosis::no_nodes()));
        }
        let pre = match Pre::of(state, class) {
            Ok(pre) => pre,
            Err(failure) => return Decision::Nowhere(Box::new(Diagnosis::before_nodes(nodes, failure))),
        };
        let mut diagnosis = Diagnosis::new(nodes);
        self.search(state, pod, &pre, &mut diagnosis);
        match self.feasible.len() {
            0 => Decision::Nowhere(Box::new(diagnosis)),
            1 => Decision::Place(self.feasible[0]),
            _ => {
                self.score(state, class);
                Decision::Place(self.best())
            }
        }
    }

    /// Fills `feasible`: the nominated node alone when it still does, else as many as are enough from where the last
    /// search ended.
    fn search(&mut self, state: &State, pod: PodId, pre: &Pre<'_>, diagnosis: &mut Diagnosis) {
        self.feasible.clear();
        if let Some(node) = state.pod(pod).nominated
            && check(state, pod, pre, node).is_none()
        {
            self.feasible.push(node);
            return;
        }
        let nodes = pre.only.as_deref().unwrap_or(state.order());
        let wanted = enough(nodes.len());
        let mut looked_at = 0;
        for step in 0..nodes.len() {
            let id = nodes[(self.next_start + step) % nodes.len()];
            looked_at += 1;
            match check(state, pod, pre, id) {
                Some(failure) => diagnosis.note(id, failure),
                None => self.feasible.push(id),
            }
            if self.feasible.len() >= wanted {
                break;
            }
        }
        self.next_start = (self.next_start + looked_at) % nodes.len().max(1);
    }

    fn score(&mut self, state: &State, class: &Class) {
        let feasible = std::mem::take(&mut self.feasible);
        self.totals.clear();
        self.totals.resize(feasible.len(), 0);
        for (at, id) in feasible.iter().enumerate() {
            let node = state.node(*id);
            self.totals[at] += fit::least_allocated(class, node) + fit::balanced(class, node);
        }
        if class.images.iter().any(|name| state.nodes_with_image(name) > 0) {
            self.fill(&feasible, |id| image::score(state, class, state.node(id)));
            self.add(1);
        }
        self.fill(&feasible, |id| taints::intolerable(class, state.node(id)));
        share(&mut self.column, true);
        self.add(3);
        if !class.node_preferred.is_empty() {
            self.fill(&feasible, |id| affinity::preferred(class, state.node(id)));
            share(&mut self.column, false);
            self.add(2);
        }
        if let Some(scores) = spread::scores(state, class, &feasible) {
            self.column = scores;
            self.add(2);
        }
        if let Some(scores) = interpod::scores(state, class, &feasible) {
            self.column = scores;
            stretch(&mut self.column);
            self.add(2);
        }
        self.feasible = feasible;
    }

    fn fill(&mut self, feasible: &[NodeId], score: impl Fn(NodeId) -> i64) {
        self.column.clear();
        self.column.extend(feasible.iter().map(|id| score(*id)));
    }

    fn add(&mut self, weight: i64) {
        self.totals.iter_mut().zip(&self.column).for_each(|(total, score)| *total += weight * score);
    }

    /// The node with the highest total; among equals each is as likely as any other.
    fn best(&mut self) -> NodeId {
        let (mut best, mut ties) = (0, 1u32);
        for at in 1..self.totals.len() {
            if self.totals[at] > self.totals[best] {
                (best, ties) = (at, 1);
            } else if self.totals[at] == self.totals[best] {
                ties += 1;
                if self.rng.random_range(0..ties) == 0 {
                    best = at;
                }
            }
        }
        self.feasible[best]
    }

    /// The feasible nodes of the last decision with their totals.
    pub fn scored(&self) -> impl Iterator<Item = (NodeId, i64)> {
        self.feasible.iter().copied().zip(self.totals.iter().copied())
    }
}

/// Looks at a node, also as it will be once the pods that room was made for are there.
pub fn check(state: &State, pod: PodId, pre: &Pre<'_>, id: NodeId) -> Option<Failure> {
    let node = state.node(id);
    if !state.nominated(id).is_empty() {
        let with = plugins::expected(state, id, pod, pre.class);
        if !with.is_empty() {
            let load = state.load_with(id, &[], &with);
            let mut supposed = pre.clone();
            with.iter().for_each(|p| supposed.shift(state, state.class_of(*p), id, false, 1));
            let failure = plugins::check(&Seat { state, pre: &supposed, id, node, load: &load });
            if failure.is_some() {
                return failure;
            }
        }
    }
    plugins::check(&Seat { state, pre, id, node, load: &node.load })
}

/// `DefaultNormalizeScore`: shares of the largest, from 0 to 100, maybe turned around.
pub fn share(column: &mut [i64], reverse: bool) {
    let most = column.iter().copied().max().unwrap_or(0);
    for score in column {
        let share = if most == 0 { 0 } else { 100 * *score / most };
        *score = if reverse { 100 - share } else { share };
    }
}

/// The smallest becomes 0, the largest 100 (normalisation of InterPodAffinity).
pub fn stretch(column: &mut [i64]) {
    let (least, most) = (column.iter().copied().min().unwrap_or(0), column.iter().copied().max().unwrap_or(0));
    for score in column {
        *score = if most == least { 0 } else { (100.0 * ((*score - least) as f64 / (most - least) as f64)) as i64 };
    }
}
