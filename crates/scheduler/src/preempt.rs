//! DefaultPreemption: on which node would removing pods of lower priority make room, and which pods.
//!
//! Pure, like the decision before it. The victims are chosen by upstream's five rules, disruption budgets first.

use crate::class::label;
use crate::diagnosis::{Diagnosis, Histogram, sentence};
use crate::node::{NodeId, PodId};
use crate::owners::Budget;
use crate::plugins::{self, Failure, Pre, Seat};
use crate::state::{Pod, State};
use std::cmp::Reverse;

const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const UNDER_WAY: &str = "not eligible due to a terminating pod on the nominated node.";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
/// At least so many candidates are compared, or this share of the nodes.
const MIN_CANDIDATES: usize = 100;
const MIN_CANDIDATES_PERCENT: usize = 10;

/// Room to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// Where.
    pub node: NodeId,
    /// At whose cost, the most important first.
    pub victims: Vec<PodId>,
    violations: usize,
}

/// Where room can be made for a pod that fits nowhere; or why nowhere, in words.
pub fn plan(state: &State, id: PodId, diagnosis: &Diagnosis, offset: usize) -> Result<Preemption, String> {
    let class = state.class_of(id);
    if class.never_preempts {
        return Err(NEVER.to_owned());
    }
    let resolvable = &diagnosis.resolvable;
    if let Some(node) = state.pod(id).nominated {
        let leaving = |p: &PodId| state.pod(*p).terminating && state.class_of(*p).priority < class.priority;
        if state.node(node).pods.iter().any(leaving) && resolvable.contains(&node) {
            return Err(UNDER_WAY.to_owned());
        }
    }
    let mut why = Histogram::new();
    let unhelpful = diagnosis.nodes() - resolvable.len();
    if unhelpful > 0 {
        why.insert(NOT_HELPFUL.into(), unhelpful);
    }
    let enough = (diagnosis.nodes() * MIN_CANDIDATES_PERCENT / 100).max(MIN_CANDIDATES);
    let mut candidates = Vec::new();
    if let (false, Ok(pre)) = (resolvable.is_empty(), Pre::of(state, class)) {
        for step in 0..resolvable.len() {
            let node = resolvable[(offset + step) % resolvable.len()];
            match victims(state, id, &pre, node) {
                Ok(candidate) => candidates.push(candidate),
                Err(reasons) => reasons.into_iter().for_each(|r| *why.entry(r).or_insert(0) += 1),
            }
            if candidates.len() >= enough {
                break;
            }
        }
    }
    let cost = |c: &Preemption| cost(state, c);
    candidates.into_iter().min_by_key(cost).ok_or_else(|| sentence(diagnosis.nodes(), &why))
}

type Cost = (usize, i32, i64, usize, Reverse<Box<str>>);

/// Fewest violated budgets, lowest of the highest priorities, smallest sum of priorities, fewest victims, the latest
/// start among the most important.
fn cost(state: &State, candidate: &Preemption) -> Cost {
    let priorities = || candidate.victims.iter().map(|p| state.class_of(*p).priority);
    let highest = priorities().max().unwrap_or(i32::MIN);
    let sum = priorities().map(|p| i64::from(p) + (1 << 31)).sum();
    let most_important = candidate.victims.iter().filter(|p| state.class_of(**p).priority == highest);
    let earliest = most_important.map(|p| state.pod(*p).started.clone()).min().unwrap_or_default();
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
}

struct Trial<'a> {
    state: &'a State,
    pre: Pre<'a>,
    node: NodeId,
    gone: Vec<PodId>,
    coming: Vec<PodId>,
}

impl Trial<'_> {
    fn shift(&mut self, pod: PodId, delta: i64) {
        let leaving = self.state.pod(pod).terminating;
        self.pre.shift(self.state, self.state.class_of(pod), self.node, leaving, delta);
    }

    fn remove(&mut self, pod: PodId) {
        self.shift(pod, -1);
        self.gone.push(pod);
    }

    fn restore(&mut self, pod: PodId) {
        self.shift(pod, 1);
        self.gone.retain(|p| *p != pod);
    }

    fn failure(&self) -> Option<Failure> {
        let load = self.state.load_with(self.node, &self.gone, &self.coming);
        let node = self.state.node(self.node);
        plugins::check(&Seat { state: self.state, pre: &self.pre, id: self.node, node, load: &load })
    }
}

/// The fewest pods whose removal makes room on a node.
fn victims(state: &State, id: PodId, pre: &Pre<'_>, node: NodeId) -> Result<Preemption, Vec<plugins::Reason>> {
    let class = state.class_of(id);
    let lower = |p: &PodId| state.class_of(*p).priority < class.priority;
    let mut potential: Vec<PodId> = state.node(node).pods.iter().copied().filter(lower).collect();
    if potential.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    let coming = plugins::expected(state, node, id, class);
    let mut trial = Trial { state, pre: pre.clone(), node, gone: Vec::new(), coming };
    for pod in trial.coming.clone() {
        trial.shift(pod, 1);
    }
    potential.iter().for_each(|pod| trial.remove(*pod));
    if let Some(failure) = trial.failure() {
        return Err(failure.reasons.into_vec());
    }
    // The most important first: they are the first to be spared.
    potential.sort_by_key(|p| (Reverse(state.class_of(*p).priority), state.pod(*p).started.clone()));
    let (violating, others) = split_by_budgets(state, &potential);
    let mut violations = 0;
    for (pods, violates) in [(violating, true), (others, false)] {
        for pod in pods {
            trial.restore(pod);
            if trial.failure().is_some() {
                trial.remove(pod);
                violations += usize::from(violates);
            }
        }
    }
    let mut victims = trial.gone;
    victims.sort_by_key(|p| (Reverse(state.class_of(*p).priority), state.pod(*p).started.clone()));
    Ok(Preemption { node, victims, violations })
}

/// Pods whose removal would violate a budget, and the others, in order.
fn split_by_budgets(state: &State, pods: &[PodId]) -> (Vec<PodId>, Vec<PodId>) {
    let mut left: Vec<(&Budget, &str, i64)> = Vec::new();
    let mut namespaces: Vec<&str> = pods.iter().map(|p| &*state.class_of(*p).namespace).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    for namespace in namespaces {
        left.extend(state.owners.budgets(namespace).map(|b| (b, namespace, b.allowed)));
    }
    pods.iter().partition(|id| {
        let (pod, class): (&Pod, _) = (state.pod(**id), state.class_of(**id));
        let mut violates = false;
        for (budget, namespace, allowed) in &mut left {
            let selected = *class.namespace == **namespace
                && !budget.selector.is_everything()
                && budget.selector.matches_with(|key| label(&class.labels, key));
            if selected && !budget.disrupted.contains(&pod.key.name) {
                *allowed -= 1;
                violates |= *allowed < 0;
            }
        }
        violates
    })
}
