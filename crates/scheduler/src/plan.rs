//! Where a pod should go: pure over a [`State`] that it cannot change, deterministic given its seed.
//!
//! Pods of a template that has several are placed by the [`Ranking`] of their class, which considers every node. Where
//! there is none (a single pod, few named nodes, volumes that restrict it) nodes are looked at one by one, as many as
//! `percentageOfNodesToScore` asks for. Both come to the same result over the same nodes.

use crate::class::Class;
use crate::diagnosis::Diagnosis;
use crate::evaluations::{self, Evaluations};
use crate::node::{NodeId, PodId};
use crate::plugins::{self, Failure, Plugin, Pre, Seat, affinity, devices, interpod, spread, taints, volumes};
use crate::preempt::{self, Preemption};
use crate::profile::Profile;
use crate::ranking::{Ranking, local_score};
use crate::state::State;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::sync::Arc;

/// Rankings kept: a ranking has some twenty bytes per node.
const MOST_RANKINGS: usize = 256;
const MOST_RANKED_NODES: usize = 1 << 24;
/// So many of the best nodes may be refused for reasons of the pod's own before every node is looked at.
const PATIENCE: usize = 32;

/// What was decided about a pod.
#[derive(Clone, Debug)]
pub enum Decision {
    /// It goes there.
    Place(NodeId),
    /// It goes nowhere, for these reasons.
    Nowhere(Box<Diagnosis>),
}

/// The state of deciding: rankings, where the next search begins, and how ties are broken.
pub struct Planner {
    profiles: Arc<[Profile]>,
    /// A class is ranked once it has so many pods (3).
    pub ranked_from: u32,
    rng: SmallRng,
    /// By profile and class.
    rankings: HashMap<(u16, usize), Ranking>,
    clock: u64,
    next_start: usize,
    feasible: Vec<NodeId>,
    totals: Vec<i64>,
    column: Vec<i64>,
    /// By profile.
    evaluations: Vec<Evaluations>,
}

impl Planner {
    /// A planner; equal seeds make equal decisions.
    pub fn new(seed: u64, profiles: Arc<[Profile]>) -> Self {
        Planner {
            evaluations: vec![Evaluations::default(); profiles.len()],
            profiles,
            ranked_from: 3,
            rng: SmallRng::seed_from_u64(seed),
            rankings: HashMap::new(),
            clock: 0,
            next_start: 0,
            feasible: Vec::new(),
            totals: Vec::new(),
            column: Vec::new(),
        }
    }

    /// How often plugins were asked since this was last asked, by profile.
    pub fn take_evaluations(&mut self) -> Vec<Evaluations> {
        let fresh = vec![Evaluations::default(); self.evaluations.len()];
        std::mem::replace(&mut self.evaluations, fresh)
    }

    fn note(&mut self, state: &State, pod: PodId, counted: Evaluations) {
        if let Some(known) = state.pod(pod).profile.and_then(|number| self.evaluations.get_mut(usize::from(number))) {
            known.absorb(counted);
        }
    }

    /// The profile that a pod is placed by; a pod of another scheduler has none and is not decided about.
    pub fn profile(&self, state: &State, pod: PodId) -> Option<(u16, &Profile)> {
        let number = state.pod(pod).profile?;
        self.profiles.get(usize::from(number)).map(|profile| (number, profile))
    }

    /// Decides about one pod.
    pub fn decide(&mut self, state: &State, pod: PodId) -> Decision {
        let profiles = self.profiles.clone();
        let nodes = state.order().len();
        let profile = state.pod(pod).profile.and_then(|number| Some((number, profiles.get(usize::from(number))?)));
        let (Some((number, profile)), 1..) = (profile, nodes) else {
            return Decision::Nowhere(Box::new(Diagnosis::no_nodes()));
        };
        if state.pod(pod).nominated.is_none()
            && let Some(decision) = self.by_ranking(state, number, profile, pod)
        {
            return decision;
        }
        self.one_by_one(state, profile, pod)
    }

    /// As [`Planner::decide`], looking at nodes one by one.
    pub fn one_by_one(&mut self, state: &State, profile: &Profile, pod: PodId) -> Decision {
        let pre = match Pre::of(state, profile, pod) {
            Ok(pre) => pre,
            Err(failure) => return Decision::Nowhere(Box::new(Diagnosis::before_nodes(state.order().len(), failure))),
        };
        let mut diagnosis = Diagnosis::new(state.order().len());
        self.search(state, pod, &pre, &mut diagnosis);
        match self.feasible.len() {
            0 => Decision::Nowhere(Box::new(diagnosis)),
            1 => Decision::Place(self.feasible[0]),
            _ => {
                self.score(state, pod, &pre);
                Decision::Place(self.best())
            }
        }
    }

    /// The nodes that will do with their scores, looked at one by one, for those who have a say after the plugins; what
    /// the others said is in the diagnosis.
    pub fn candidates(&mut self, state: &State, pod: PodId) -> Result<(Vec<(NodeId, i64)>, Diagnosis), Box<Diagnosis>> {
        let profiles = self.profiles.clone();
        let nodes = state.order().len();
        let profile = state.pod(pod).profile.and_then(|number| profiles.get(usize::from(number)));
        let (Some(profile), 1..) = (profile, nodes) else { return Err(Box::new(Diagnosis::no_nodes())) };
        let pre = Pre::of(state, profile, pod).map_err(|failure| Box::new(Diagnosis::before_nodes(nodes, failure)))?;
        let mut diagnosis = Diagnosis::new(nodes);
        self.search(state, pod, &pre, &mut diagnosis);
        if self.feasible.is_empty() {
            return Err(Box::new(diagnosis));
        }
        self.score(state, pod, &pre);
        Ok((self.scored().collect(), diagnosis))
    }

    /// One of the best of some nodes (at least one), any with equal chance.
    pub fn pick(&mut self, candidates: &[(NodeId, i64)]) -> NodeId {
        (self.feasible, self.totals) = candidates.iter().copied().unzip();
        self.best()
    }

    /// Where room can be made for a pod that fits nowhere; or why nowhere, in words.
    pub fn make_room(&mut self, state: &State, pod: PodId, diagnosis: &Diagnosis) -> Result<Preemption, String> {
        let profiles = self.profiles.clone();
        let Some((number, profile)) = state.pod(pod).profile.and_then(|n| Some((n, profiles.get(usize::from(n))?))) else {
            return Err(String::new());
        };
        preempt::eligible(state, pod, diagnosis)?;
        let own = state.pod(pod);
        if own.claims.is_empty()
            && own.disks.is_empty()
            && own.devices.is_empty()
            && !state.devices.back(&state.class_of(pod).asks)
            && own.nominated.is_none()
            && let Some(ranking) = self.ranking(state, number, profile, pod)
            && let Some(rooms) = ranking.rooms(state, profile)
        {
            return rooms.best().cloned().ok_or_else(|| preempt::hopeless(diagnosis, rooms.why()));
        }
        let offset = self.rng.random_range(0..diagnosis.resolvable.len().max(1));
        preempt::plan(state, profile, pod, diagnosis, offset)
    }

    /// All places where room can be made, for those who have a say in it; at least one, or why there is none.
    pub fn rooms(&mut self, state: &State, pod: PodId, diagnosis: &Diagnosis) -> Result<Vec<Preemption>, String> {
        let profiles = self.profiles.clone();
        let Some(profile) = state.pod(pod).profile.and_then(|n| profiles.get(usize::from(n))) else { return Err(String::new()) };
        let offset = self.rng.random_range(0..diagnosis.resolvable.len().max(1));
        preempt::candidates(state, profile, pod, diagnosis, offset)
    }

    /// The feasible nodes of the last search one by one, with their totals.
    pub fn scored(&self) -> impl Iterator<Item = (NodeId, i64)> {
        self.feasible.iter().copied().zip(self.totals.iter().copied())
    }
}

/// By ranking.
impl Planner {
    fn by_ranking(&mut self, state: &State, number: u16, profile: &Profile, pod: PodId) -> Option<Decision> {
        let own = state.pod(pod);
        let bound = match own.claims.is_empty() && own.disks.is_empty() {
            true => volumes::Bound::default(),
            false => volumes::Bound::of(state, profile, pod).ok().filter(|b| !b.restricts_nodes())?,
        };
        let wanted = devices::Wanted::of(state, profile, pod).ok().filter(|w| !w.restricts_nodes() && !w.has_preferences())?;
        let plain = own.claims.is_empty() && own.disks.is_empty() && own.devices.is_empty();
        let mut rng = SmallRng::from_rng(&mut self.rng);
        let ranking = self.ranking(state, number, profile, pod)?;
        if !plain && !ranking.is_uniform() {
            // Scores are shares of the largest among the nodes that will do, and which will is not known beforehand.
            return None;
        }
        let alone = ranking.is_local();
        let fits = |id: NodeId| {
            let (node, class) = (state.node(id), &**state.class_of(pod));
            let seat = Seat { state, profile, class, id, node, load: &node.load };
            plain || volumes::filter(&seat, &bound).or_else(|| devices::filter(&seat, &wanted)).is_none()
        };
        // Pods for which room was made may be in the way of others in their domain, which the ranking does not know.
        let neighbours = |id: NodeId| {
            alone || state.nominated(id).is_empty() || Pre::of(state, profile, pod).is_ok_and(|pre| check(state, pod, &pre, id).is_none())
        };
        match ranking.choose(profile, &mut rng, PATIENCE, |id| fits(id) && neighbours(id)) {
            Ok(Some(node)) => Some(Decision::Place(node)),
            Ok(None) if plain => {
                let diagnosis = ranking.diagnosis(state);
                // Nodes that were refused above have no reason in the ranking.
                diagnosis.is_complete().then(|| Decision::Nowhere(Box::new(diagnosis)))
            }
            _ => None,
        }
    }

    /// The ranking of a pod's class, up to date; `None`: it is not worth one.
    pub fn ranking(&mut self, state: &State, number: u16, profile: &Profile, pod: PodId) -> Option<&mut Ranking> {
        let entry = state.class(state.pod(pod).class);
        let key = (number, Arc::as_ptr(&entry.class) as usize);
        self.clock += 1;
        let known = self.rankings.contains_key(&key);
        if !known {
            if entry.pods < self.ranked_from || affinity::named_nodes(state, &entry.class).is_some() {
                return None;
            }
            self.make_space(state.node_slots());
            self.rankings.insert(key, Ranking::of(state, profile, &entry.class));
        }
        let ranking = self.rankings.get_mut(&key)?;
        ranking.used = self.clock;
        ranking.catch_up(state, profile);
        if let Some(evaluations) = self.evaluations.get_mut(usize::from(number)) {
            evaluations.absorb(std::mem::take(&mut ranking.evaluations));
        }
        Some(ranking)
    }

    /// Forgets rankings: of classes that are gone, and of the one that was not asked for the longest time.
    fn make_space(&mut self, nodes: usize) {
        let most = (MOST_RANKED_NODES / nodes.max(1)).clamp(4, MOST_RANKINGS);
        if self.rankings.len() < most {
            return;
        }
        self.rankings.retain(|_, ranking| Arc::strong_count(ranking.class()) > 1);
        while self.rankings.len() >= most {
            let oldest = self.rankings.iter().min_by_key(|(_, ranking)| ranking.used).map(|(key, _)| *key);
            oldest.and_then(|key| self.rankings.remove(&key));
        }
    }
}

/// One by one.
impl Planner {
    /// Fills `feasible`: the nominated node alone when it still does, else as many as are enough from where the last
    /// search ended.
    fn search(&mut self, state: &State, pod: PodId, pre: &Pre<'_>, diagnosis: &mut Diagnosis) {
        self.feasible.clear();
        let (mut counted, asked) = (Evaluations::default(), evaluations::filters(pre, state.pod(pod)));
        counted.began(asked);
        if let Some(node) = state.pod(pod).nominated
            && check(state, pod, pre, node).is_none()
        {
            counted.filtered(asked, None);
            self.feasible.push(node);
            return self.note(state, pod, counted);
        }
        let nodes = pre.only.as_deref().unwrap_or(state.order());
        let wanted = pre.profile.enough(nodes.len());
        let mut looked_at = 0;
        for step in 0..nodes.len() {
            let id = nodes[(self.next_start + step) % nodes.len()];
            looked_at += 1;
            let failure = check(state, pod, pre, id);
            counted.filtered(asked, failure.as_ref().map(|f| f.plugin));
            match failure {
                Some(failure) => diagnosis.note(id, failure),
                None => self.feasible.push(id),
            }
            if self.feasible.len() >= wanted {
                break;
            }
        }
        self.next_start = (self.next_start + looked_at) % nodes.len().max(1);
        self.note(state, pod, counted);
    }

    fn score(&mut self, state: &State, pod: PodId, pre: &Pre<'_>) {
        let (profile, class): (&Profile, &Class) = (pre.profile, pre.class);
        let feasible = std::mem::take(&mut self.feasible);
        let mut asked = evaluations::local_scores(profile, class);
        self.totals.clear();
        self.totals.extend(feasible.iter().map(|id| local_score(state, profile, class, *id)));
        self.fill(&feasible, |id| taints::intolerable(class, state.node(id)));
        share(&mut self.column, true);
        self.add(profile.weight(Plugin::TaintToleration));
        if !class.node_preferred.is_empty() || !profile.added_preferred.is_empty() {
            self.fill(&feasible, |id| affinity::preferred(profile, class, state.node(id)));
            share(&mut self.column, false);
            self.add(profile.weight(Plugin::NodeAffinity));
        }
        if profile.weight(Plugin::PodTopologySpread) > 0
            && let Some(scores) = spread::scores(state, profile, class, &feasible)
        {
            self.column = scores;
            asked |= Plugin::PodTopologySpread.bit();
            self.add(profile.weight(Plugin::PodTopologySpread));
        }
        if profile.weight(Plugin::InterPodAffinity) > 0
            && let Some(scores) = interpod::scores(state, profile, class, &feasible)
        {
            self.column = scores;
            asked |= Plugin::InterPodAffinity.bit();
            stretch(&mut self.column);
            self.add(profile.weight(Plugin::InterPodAffinity));
        }
        if profile.weight(Plugin::DynamicResources) > 0 && pre.devices.has_preferences() {
            asked |= Plugin::DynamicResources.bit();
            self.fill(&feasible, |id| devices::score(state, &pre.devices, id));
            share(&mut self.column, false);
            self.add(profile.weight(Plugin::DynamicResources));
        }
        let mut counted = Evaluations::default();
        counted.compared(asked);
        counted.scored(asked, feasible.len());
        self.note(state, pod, counted);
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
}

/// Looks at a node, also as it will be once the pods that room was made for are there.
pub fn check(state: &State, pod: PodId, pre: &Pre<'_>, id: NodeId) -> Option<Failure> {
    let node = state.node(id);
    let seat = Seat { state, profile: pre.profile, class: pre.class, id, node, load: &node.load };
    if !state.nominated(id).is_empty() {
        let with = plugins::expected(state, id, Some(pod), pre.class);
        if !with.is_empty() {
            let load = state.load_with(id, &[], &with);
            let mut supposed = pre.clone();
            with.iter().for_each(|p| supposed.shift(state, *p, id, 1));
            let failure = plugins::check(&Seat { load: &load, ..seat }, &supposed);
            if failure.is_some() {
                return failure;
            }
        }
    }
    plugins::check(&seat, pre)
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
