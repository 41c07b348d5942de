//! All nodes ranked for the pods of one class, kept from one decision to the next.
//!
//! A binding touches one node, so the next pod of the same template costs what one node costs and not what all cost.
//! A ranking reads the state's [journal](crate::journal) and looks again at the nodes that it names; what a pod changes
//! for whole domains is one number in [`counts`]; [`groups`] keeps nodes sorted. Where that does not hold (nodes with
//! other labels, namespaces with other labels) it is made anew. It must come to the same result as looking at every
//! node, which `tests/ranking.rs` holds it to.

pub mod counts;
pub mod groups;
pub mod rooms;

use crate::class::Class;
use crate::diagnosis::Diagnosis;
use crate::evaluations::{self, Evaluations};
use crate::journal::Event;
use crate::node::NodeId;
use crate::plan::{share, stretch};
use crate::plugins::{self, Plugin, Seat, affinity, fit, image, taints};
use crate::profile::Profile;
use crate::state::State;
use counts::{Counts, Stale};
use groups::{Groups, Key, Verdict};
use rand::Rng;
use rooms::Rooms;
use std::sync::Arc;

/// See the module.
pub struct Ranking {
    class: Arc<Class>,
    counts: Counts,
    groups: Groups,
    rooms: Option<Rooms>,
    seen: u64,
    rare: [u64; 3],
    /// How many nodes hold each image of the class, and how many nodes there are; empty when none does.
    holders: Vec<usize>,
    /// When it was last asked, on the planner's own clock.
    pub used: u64,
    /// How often plugins were asked for it.
    pub evaluations: Evaluations,
    /// Those that filter and those that score nodes for the class, as bits.
    asked: [u32; 2],
}

impl Ranking {
    /// Looks at every node.
    pub fn of(state: &State, profile: &Profile, class: &Arc<Class>) -> Self {
        let mut ranking = Ranking {
            class: class.clone(),
            counts: Counts::of(state, profile, class),
            groups: Groups::default(),
            rooms: None,
            seen: state.journal().end(),
            rare: state.rare_changes(),
            holders: holders(state, class),
            used: 0,
            evaluations: Evaluations::default(),
            asked: [evaluations::local_filters(profile, class), evaluations::local_scores(profile, class)],
        };
        ranking.evaluations.began(ranking.asked[0]);
        ranking.evaluations.compared(ranking.asked[1]);
        state.order().iter().for_each(|id| ranking.look_at(state, profile, *id));
        ranking
    }

    /// The class whose pods it is for.
    pub fn class(&self) -> &Arc<Class> {
        &self.class
    }

    /// Whether what a node is for the class depends on the node alone.
    pub fn is_local(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether a node's score depends on itself alone, and not on which other nodes will do.
    pub fn is_uniform(&self) -> bool {
        self.groups.iter().filter(|g| self.counts.failure(&g.key).is_none()).nth(1).is_none()
    }

    /// Takes in what has happened since.
    pub fn catch_up(&mut self, state: &State, profile: &Profile) {
        if self.follow(state, profile).is_err() {
            let (used, evaluations) = (self.used, std::mem::take(&mut self.evaluations));
            *self = Ranking { used, ..Ranking::of(state, profile, &self.class.clone()) };
            self.evaluations.absorb(evaluations);
        }
    }

    fn follow(&mut self, state: &State, profile: &Profile) -> Result<(), Stale> {
        if self.seen == state.journal().end() && self.rare == state.rare_changes() {
            return Ok(());
        }
        let [namespaces, owners, images] = state.rare_changes();
        let nodes = self.holders.last().is_some_and(|n| *n != state.order().len());
        let image_matters = (nodes || images != self.rare[2]) && self.holders != holders(state, &self.class);
        let default_spread = self.class.spread.is_empty() && owners != self.rare[1];
        if namespaces != self.rare[0] || default_spread || image_matters || self.counts.is_stale(state) || self.groups.is_sparse() {
            return Err(Stale);
        }
        self.rare = state.rare_changes();
        let class = self.class.clone();
        for event in state.journal().since(self.seen).ok_or(Stale)? {
            let node = match event {
                Event::Node { facts: true, .. } if !self.counts.is_empty() => return Err(Stale),
                Event::Node { node, .. } => *node,
                Event::Pods { node, class: other, pods, staying } => {
                    self.counts.happened(state, profile, &class, (*node, other, *pods, *staying))?;
                    *node
                }
            };
            self.look_at(state, profile, node);
        }
        self.seen = state.journal().end();
        Ok(())
    }

    fn look_at(&mut self, state: &State, profile: &Profile, node: NodeId) {
        let verdict = self.judge(state, profile, node);
        let [filters, scores] = self.asked;
        match &verdict {
            Verdict::Absent => {}
            Verdict::Fails(failure) => self.evaluations.filtered(filters, Some(failure.plugin)),
            Verdict::May(..) => {
                self.evaluations.filtered(filters, None);
                self.evaluations.scored(scores, 1);
            }
        }
        self.groups.put(node, verdict);
        if let Some(rooms) = &mut self.rooms {
            rooms.look_at(state, profile, &self.class, node, self.groups.failure(node));
        }
    }

    fn judge(&self, state: &State, profile: &Profile, id: NodeId) -> Verdict {
        let (node, class) = (state.node(id), &*self.class);
        if !node.exists {
            return Verdict::Absent;
        }
        let seat = Seat { state, profile, class, id, node, load: &node.load };
        if !state.nominated(id).is_empty() {
            let coming = plugins::expected(state, id, None, class);
            let load = state.load_with(id, &[], &coming);
            if let Some(failure) = plugins::check_local(&Seat { load: &load, ..seat }) {
                return Verdict::Fails(failure);
            }
        }
        if let Some(failure) = plugins::check_local(&seat) {
            return Verdict::Fails(failure);
        }
        let intolerable = if profile.weight(Plugin::TaintToleration) == 0 { 0 } else { taints::intolerable(class, node) };
        let preferred = if profile.weight(Plugin::NodeAffinity) == 0 { 0 } else { affinity::preferred(profile, class, node) };
        Verdict::May(self.counts.key(state, id, intolerable, preferred), local_score(state, profile, class, id))
    }

    /// The best node that is accepted, any of the best with equal chance; `None`: there is none. A node that is not
    /// accepted costs a look at the groups, so there should be few of them: after `patience` of them it is an error.
    pub fn choose(
        &mut self,
        profile: &Profile,
        rng: &mut impl Rng,
        patience: usize,
        mut accept: impl FnMut(NodeId) -> bool,
    ) -> Result<Option<NodeId>, Impatient> {
        let mut aside: Vec<(NodeId, Verdict)> = Vec::new();
        let found = loop {
            let Some(node) = self.best(profile, rng) else { break Ok(None) };
            if accept(node) {
                break Ok(Some(node));
            }
            if aside.len() >= patience {
                break Err(Impatient);
            }
            aside.extend(self.groups.set_aside(node).map(|verdict| (node, verdict)));
        };
        for (node, verdict) in aside {
            self.groups.put(node, verdict);
        }
        found
    }

    fn best(&self, profile: &Profile, rng: &mut impl Rng) -> Option<NodeId> {
        let (mut most, mut ties, mut chosen) = (i64::MIN, 0, None);
        for (group, common) in self.scored_groups(profile) {
            let Some((local, nodes)) = group.best() else { continue };
            let total = common + local;
            if total < most {
                continue;
            }
            if total > most {
                (most, ties) = (total, 0);
            }
            ties += nodes.len();
            // Each of the nodes seen so far that are equally good is as likely as any other.
            let pick = rng.random_range(0..ties);
            if pick < nodes.len() {
                chosen = Some(nodes[pick]);
            }
        }
        chosen
    }

    /// Groups that will do, with what their nodes' scores have in common.
    fn scored_groups(&self, profile: &Profile) -> Vec<(&groups::Group, i64)> {
        let feasible: Vec<&groups::Group> = self.groups.iter().filter(|g| self.counts.failure(&g.key).is_none()).collect();
        if feasible.len() < 2 {
            return feasible.into_iter().map(|g| (g, 0)).collect();
        }
        let keys: Vec<(&Key, usize)> = feasible.iter().map(|g| (&g.key, g.nodes)).collect();
        let mut totals = vec![0; keys.len()];
        let mut add = |weight: i64, column: &[i64]| totals.iter_mut().zip(column).for_each(|(t, s)| *t += weight * s);
        let mut column: Vec<i64> = keys.iter().map(|(key, _)| key[0]).collect();
        share(&mut column, true);
        add(profile.weight(Plugin::TaintToleration), &column);
        column = keys.iter().map(|(key, _)| key[1]).collect();
        share(&mut column, false);
        add(profile.weight(Plugin::NodeAffinity), &column);
        if let Some(column) = self.counts.spread(&keys) {
            add(profile.weight(Plugin::PodTopologySpread), &column);
        }
        if let Some(mut column) = self.counts.preference(&keys) {
            stretch(&mut column);
            add(profile.weight(Plugin::InterPodAffinity), &column);
        }
        feasible.into_iter().zip(totals).collect()
    }

    /// Every feasible node with its score, up to what all have in common; for tests and for looking in.
    pub fn scores(&self, profile: &Profile) -> Vec<(NodeId, i64)> {
        let groups = self.scored_groups(profile).into_iter();
        groups.flat_map(|(group, common)| group.all().map(move |(node, local)| (node, local + common))).collect()
    }

    /// Why no node will do.
    pub fn diagnosis(&self, state: &State) -> Diagnosis {
        let mut diagnosis = Diagnosis::new(state.order().len());
        self.groups.failures().for_each(|(failure, nodes)| diagnosis.note_many(failure, nodes));
        for group in self.groups.iter() {
            let Some(failure) = self.counts.failure(&group.key) else { continue };
            diagnosis.note_many(&failure, group.nodes);
            if !failure.unresolvable {
                diagnosis.resolvable.extend(group.all().map(|(node, _)| node));
            }
        }
        let own = |id: &&NodeId| self.groups.failure(**id).is_some_and(|f| !f.unresolvable);
        diagnosis.resolvable.extend(state.order().iter().filter(own));
        diagnosis
    }

    /// Where room can be made; `None`: the nodes' neighbours matter as well, so every node must be tried.
    pub fn rooms(&mut self, state: &State, profile: &Profile) -> Option<&Rooms> {
        if !self.counts.is_empty() {
            return None;
        }
        if self.rooms.as_ref().is_some_and(|rooms| rooms.is_stale(state)) {
            self.rooms = None;
        }
        if self.rooms.is_none() {
            let mut rooms = Rooms::new(state);
            for id in state.order() {
                rooms.look_at(state, profile, &self.class, *id, self.groups.failure(*id));
            }
            self.rooms = Some(rooms);
        }
        self.rooms.as_ref()
    }
}

/// See [`Ranking`]: scores of images depend on the share of nodes that hold them.
fn holders(state: &State, class: &Class) -> Vec<usize> {
    let mut counts: Vec<usize> = class.images.iter().map(|name| state.nodes_with_image(name) as usize).collect();
    if counts.iter().all(|n| *n == 0) {
        return Vec::new();
    }
    counts.push(state.order().len());
    counts
}

/// Too many of the best nodes were not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impatient;

/// What of a node's score depends on the node alone.
pub fn local_score(state: &State, profile: &Profile, class: &Class, id: NodeId) -> i64 {
    let node = state.node(id);
    let mut score = 0;
    let mut add = |plugin: Plugin, of: &dyn Fn() -> i64| match profile.weight(plugin) {
        0 => {}
        weight => score += weight * of(),
    };
    add(Plugin::NodeResourcesFit, &|| fit::score(&state.devices, profile, class, node));
    add(Plugin::NodeResourcesBalancedAllocation, &|| fit::balanced(&state.devices, profile, class, node));
    if class.images.iter().any(|name| state.nodes_with_image(name) > 0) {
        add(Plugin::ImageLocality, &|| image::score(state, class, node));
    }
    score
}
