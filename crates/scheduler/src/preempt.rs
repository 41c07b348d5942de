//! DefaultPreemption: on which node would removing pods of lower priority make room, and which pods.
//!
//! Pure, like the decision before it. The victims are chosen by upstream's five rules, disruption budgets first.

use crate::class::{Class, label};
use crate::diagnosis::{Diagnosis, Histogram, sentence};
use crate::node::{Load, NodeId, PodId};
use crate::owners::Budget;
use crate::plugins::{self, Failure, Pre, Seat};
use crate::profile::Profile;
use crate::state::{Pod, State};
use std::cmp::Reverse;

const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const UNDER_WAY: &str = "not eligible due to a terminating pod on the nominated node.";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
/// What is said when extenders leave nothing of what was found.
pub const NO_CANDIDATE: &str = "no candidate node for preemption";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Room to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// Where.
    pub node: NodeId,
    /// At whose cost, the most important first.
    pub victims: Vec<PodId>,
    /// How many of them go against a disruption budget.
    pub violations: usize,
}

/// Whether a pod may make room at all, or why not, in words.
pub fn eligible(state: &State, id: PodId, diagnosis: &Diagnosis) -> Result<(), String> {
    let class = state.class_of(id);
    if class.never_preempts {
        return Err(NEVER.to_owned());
    }
    if let Some(node) = state.pod(id).nominated {
        // Whoever goes for another reason is no room that was made for this pod.
        let leaving = |p: &PodId| state.pod(*p).preempted && state.class_of(*p).priority < class.priority;
        if state.node(node).pods.iter().any(leaving) && diagnosis.resolvable.contains(&node) {
            return Err(UNDER_WAY.to_owned());
        }
    }
    Ok(())
}

/// Why no room can be made: what the nodes said where removing pods could have helped, and that it could not elsewhere.
pub fn hopeless(diagnosis: &Diagnosis, why: &Histogram) -> String {
    let mut why = why.clone();
    let unhelpful = diagnosis.nodes() - diagnosis.resolvable.len();
    if unhelpful > 0 {
        why.insert(NOT_HELPFUL.into(), unhelpful);
    }
    sentence(diagnosis.nodes(), &why)
}

/// Where room can be made best for a pod that fits nowhere; or why nowhere, in words.
pub fn plan(state: &State, profile: &Profile, id: PodId, diagnosis: &Diagnosis, offset: usize) -> Result<Preemption, String> {
    let candidates = candidates(state, profile, id, diagnosis, offset)?;
    choose(state, candidates).ok_or_else(|| NO_CANDIDATE.to_owned())
}

/// The room that costs least.
pub fn choose(state: &State, candidates: Vec<Preemption>) -> Option<Preemption> {
    candidates.into_iter().min_by_key(|c| cost(state, c))
}

/// Where room can be made for a pod that fits nowhere, trying nodes from `offset` until enough are compared; at least one
/// place, or why there is none, in words.
pub fn candidates(state: &State, profile: &Profile, id: PodId, diagnosis: &Diagnosis, offset: usize) -> Result<Vec<Preemption>, String> {
    eligible(state, id, diagnosis)?;
    let resolvable = &diagnosis.resolvable;
    let mut why = Histogram::new();
    let enough = (resolvable.len() * profile.candidates.percent / 100).max(profile.candidates.at_least);
    let mut candidates = Vec::new();
    if let (false, Ok(pre)) = (resolvable.is_empty(), Pre::of(state, profile, id)) {
        for step in 0..resolvable.len() {
            let node = resolvable[(offset + step) % resolvable.len()];
            match victims(state, Some(id), Some(&pre), profile, state.class_of(id), node) {
                Ok(candidate) => candidates.push(candidate),
                Err(reasons) => reasons.into_iter().for_each(|r| *why.entry(r).or_insert(0) += 1),
            }
            // A place that costs no disruption budget is worth looking further for.
            if candidates.len() >= enough && candidates.iter().any(|c| c.violations == 0) {
                break;
            }
        }
    }
    if candidates.is_empty() { Err(hopeless(diagnosis, &why)) } else { Ok(candidates) }
}

/// [`victims`] for any pod of a class that looks at nothing but the node.
pub fn local_victims(state: &State, profile: &Profile, class: &Class, node: NodeId) -> Result<Preemption, Vec<plugins::Reason>> {
    victims(state, None, None, profile, class, node)
}

/// What a preemption costs; less is better.
pub type Cost = (usize, i32, i64, usize, Reverse<Box<str>>);

/// Fewest violated budgets, lowest of the highest priorities, smallest sum of priorities, fewest victims, the latest
/// start among the most important.
pub fn cost(state: &State, candidate: &Preemption) -> Cost {
    let priorities = || candidate.victims.iter().map(|p| state.class_of(*p).priority);
    let highest = priorities().max().unwrap_or(i32::MIN);
    let sum = priorities().map(|p| i64::from(p) + (1 << 31)).sum();
    let most_important = candidate.victims.iter().filter(|p| state.class_of(**p).priority == highest);
    let earliest = most_important.map(|p| state.pod(*p).started.clone()).min().unwrap_or_default();
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(earliest))
}

struct Trial<'a> {
    state: &'a State,
    profile: &'a Profile,
    class: &'a Class,
    pre: Option<Pre<'a>>,
    node: NodeId,
    gone: Vec<PodId>,
    coming: Vec<PodId>,
    load: Load,
}

impl Trial<'_> {
    fn shift(&mut self, pod: PodId, delta: i64) {
        let class = self.state.class_of(pod);
        if delta > 0 {
            self.load.add(class)
        } else {
            self.load.remove(class)
        }
        if let Some(pre) = &mut self.pre {
            pre.shift(self.state, pod, self.node, delta);
        }
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
        let (state, profile, class, id) = (self.state, self.profile, self.class, self.node);
        let seat = Seat { state, profile, class, id, node: state.node(id), load: &self.load };
        match &self.pre {
            Some(pre) => plugins::check(&seat, pre),
            None => plugins::check_local(&seat),
        }
    }
}

/// The fewest pods whose removal makes room on a node.
fn victims(
    state: &State,
    id: Option<PodId>,
    pre: Option<&Pre<'_>>,
    profile: &Profile,
    class: &Class,
    node: NodeId,
) -> Result<Preemption, Vec<plugins::Reason>> {
    let lower = |p: &PodId| state.class_of(*p).priority < class.priority;
    let mut potential: Vec<PodId> = state.node(node).pods.iter().copied().filter(lower).collect();
    if potential.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    let (coming, load) = (plugins::expected(state, node, id, class), state.node(node).load.clone());
    let mut trial = Trial { state, profile, class, pre: pre.cloned(), node, gone: Vec::new(), coming, load };
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
            // A pod without labels is in nobody's budget.
            let selected = *class.namespace == **namespace
                && !class.labels.is_empty()
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
