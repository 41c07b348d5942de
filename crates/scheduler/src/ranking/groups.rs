//! The nodes of a ranking in groups that differ in nothing but a local score, each group sorted by it.
//!
//! Moving one node costs a few steps in small maps; the best node of a group is at hand. Nodes that fail for a reason
//! of their own are counted by reason.

use crate::node::NodeId;
use crate::plugins::Failure;
use smallvec::SmallVec;
use std::collections::{BTreeMap, HashMap};

/// What distinguishes groups.
pub type Key = SmallVec<[i64; 6]>;

/// What was found about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does not exist.
    Absent,
    /// It fails, whatever the other nodes are like.
    Fails(Failure),
    /// It may do: its group, and its score in it.
    May(Key, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Absent,
    Failed(u32),
    In { group: u32, score: i64, at: u32 },
}

/// Nodes that differ only in their local score.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they have in common.
    pub key: Key,
    by_score: BTreeMap<i64, Vec<NodeId>>,
    /// How many.
    pub nodes: usize,
}

impl Group {
    /// The best local score and the nodes that have it.
    pub fn best(&self) -> Option<(i64, &[NodeId])> {
        self.by_score.last_key_value().map(|(score, nodes)| (*score, nodes.as_slice()))
    }

    /// All its nodes with their scores.
    pub fn all(&self) -> impl Iterator<Item = (NodeId, i64)> {
        self.by_score.iter().flat_map(|(score, nodes)| nodes.iter().map(|n| (*n, *score)))
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    places: Vec<Place>,
    list: Vec<Group>,
    by_key: HashMap<Key, u32>,
    failures: Vec<(Failure, usize)>,
    by_failure: HashMap<Failure, u32>,
}

impl Groups {
    /// Groups that have nodes.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.list.iter().filter(|g| g.nodes > 0)
    }

    /// How many groups there are, empty ones included.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Reasons with the number of nodes that fail for them.
    pub fn failures(&self) -> impl Iterator<Item = (&Failure, usize)> {
        self.failures.iter().filter(|(_, nodes)| *nodes > 0).map(|(failure, nodes)| (failure, *nodes))
    }

    /// Why a node fails, if for a reason of its own.
    pub fn failure(&self, node: NodeId) -> Option<&Failure> {
        match self.places.get(node as usize) {
            Some(Place::Failed(at)) => Some(&self.failures[*at as usize].0),
            _ => None,
        }
    }

    /// The group a node is in.
    pub fn group_of(&self, node: NodeId) -> Option<&Group> {
        match self.places.get(node as usize) {
            Some(Place::In { group, .. }) => Some(&self.list[*group as usize]),
            _ => None,
        }
    }

    /// Forgets empty groups.
    pub fn is_sparse(&self) -> bool {
        self.list.len() > 64 && self.iter().count() * 4 < self.list.len()
    }

    /// Puts a node where a verdict says; the answer is its former verdict's group and score, if it was in one.
    pub fn put(&mut self, node: NodeId, verdict: Verdict) {
        let slot = node as usize;
        if self.places.len() <= slot {
            self.places.resize(slot + 1, Place::Absent);
        }
        if let (Place::In { group, score, .. }, Verdict::May(key, wanted)) = (self.places[slot], &verdict)
            && score == *wanted
            && self.list[group as usize].key == *key
        {
            return;
        }
        self.take_out(slot);
        self.places[slot] = match verdict {
            Verdict::Absent => Place::Absent,
            Verdict::Fails(failure) => self.fail(failure),
            Verdict::May(key, score) => self.seat(node, key, score),
        };
    }

    /// Takes a node out for a moment; [`Groups::put_back`] returns it.
    pub fn set_aside(&mut self, node: NodeId) -> Option<Verdict> {
        let Some(Place::In { group, score, .. }) = self.places.get(node as usize).copied() else { return None };
        let verdict = Verdict::May(self.list[group as usize].key.clone(), score);
        self.take_out(node as usize);
        Some(verdict)
    }

    fn fail(&mut self, failure: Failure) -> Place {
        if let Some(at) = self.by_failure.get(&failure) {
            self.failures[*at as usize].1 += 1;
            return Place::Failed(*at);
        }
        let at = self.failures.len() as u32;
        self.by_failure.insert(failure.clone(), at);
        self.failures.push((failure, 1));
        Place::Failed(at)
    }

    fn seat(&mut self, node: NodeId, key: Key, score: i64) -> Place {
        let group = match self.by_key.get(&key) {
            Some(group) => *group,
            None => {
                self.by_key.insert(key.clone(), self.list.len() as u32);
                self.list.push(Group { key, by_score: BTreeMap::new(), nodes: 0 });
                self.list.len() as u32 - 1
            }
        };
        let entry = &mut self.list[group as usize];
        entry.nodes += 1;
        let level = entry.by_score.entry(score).or_default();
        level.push(node);
        Place::In { group, score, at: level.len() as u32 - 1 }
    }

    fn take_out(&mut self, slot: usize) {
        match std::mem::replace(&mut self.places[slot], Place::Absent) {
            Place::Absent => {}
            Place::Failed(at) => self.failures[at as usize].1 -= 1,
            Place::In { group, score, at } => {
                let entry = &mut self.list[group as usize];
                entry.nodes -= 1;
                let Some(level) = entry.by_score.get_mut(&score) else { return };
                level.swap_remove(at as usize);
                match level.get(at as usize).copied() {
                    Some(moved) => self.places[moved as usize] = Place::In { group, score, at },
                    None if level.is_empty() => drop(entry.by_score.remove(&score)),
                    None => {}
                }
            }
        }
    }
}
