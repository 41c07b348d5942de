//! Pods that wait for a place: ready ones by priority, those that back off, and those that wait for something to change.
//!
//! Pure: it is told the time. A pod that no node could take is moved by an event only when one of the plugins that said
//! no cares for that kind of event, and at the latest after five minutes.

use crate::node::PodId;
use crate::plugins::Plugin;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod does not wait longer than this for an event.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What happened in the cluster, as bits.
pub mod event {
    #![allow(missing_docs, reason = "the names say it")]
    pub const NODE_ADD: u32 = 1;
    pub const NODE_LABEL: u32 = 1 << 1;
    pub const NODE_TAINT: u32 = 1 << 2;
    pub const NODE_ALLOCATABLE: u32 = 1 << 3;
    pub const NODE_DELETE: u32 = 1 << 4;
    pub const POD_ADD: u32 = 1 << 5;
    pub const POD_LABEL: u32 = 1 << 6;
    pub const POD_SHRINK: u32 = 1 << 7;
    pub const POD_DELETE: u32 = 1 << 8;
    pub const STORAGE: u32 = 1 << 9;
}

use event::*;

/// Which events may make a plugin say yes (reference: cluster events registered for requeue).
const INTERESTS: [(Plugin, u32); 9] = [
    (Plugin::NodeUnschedulable, NODE_ADD | NODE_TAINT),
    (Plugin::NodeName, NODE_ADD),
    (Plugin::TaintToleration, NODE_ADD | NODE_TAINT),
    (Plugin::NodeAffinity, NODE_ADD | NODE_LABEL),
    (Plugin::NodePorts, NODE_ADD | POD_DELETE),
    (Plugin::NodeResourcesFit, NODE_ADD | NODE_ALLOCATABLE | POD_DELETE | POD_SHRINK),
    (Plugin::VolumeBinding, NODE_ADD | NODE_LABEL | STORAGE),
    (Plugin::PodTopologySpread, NODE_ADD | NODE_DELETE | NODE_LABEL | NODE_TAINT | POD_ADD | POD_LABEL | POD_DELETE),
    (Plugin::InterPodAffinity, NODE_ADD | NODE_LABEL | POD_ADD | POD_LABEL | POD_DELETE),
];

/// Whether an event may help a pod that these plugins (bits) rejected. Nobody: there was no node at all.
fn helps(rejectors: u32, events: u32) -> bool {
    if rejectors == 0 {
        return events & NODE_ADD != 0;
    }
    INTERESTS.iter().any(|(plugin, interests)| rejectors & plugin.bit() != 0 && interests & events != 0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    /// Until when; after an error it is not taken out early.
    BackingOff(Instant, bool),
    Waiting,
    /// Being placed or bound.
    Out,
}

#[derive(Clone, Debug)]
struct Entry {
    priority: i32,
    /// Order among equals.
    turn: u64,
    place: Place,
    /// Tries that found no node.
    unschedulable: u32,
    /// Errors in a row.
    errors: u32,
    /// When it last failed.
    failed: Instant,
    rejectors: u32,
    /// What was last said about it.
    said: String,
}

impl Entry {
    fn backoff_ends(&self) -> Instant {
        let tries = if self.errors > 0 { self.errors } else { self.unschedulable };
        if tries == 0 {
            return self.failed;
        }
        self.failed + FIRST_BACKOFF.saturating_mul(1 << (tries - 1).min(8)).min(LONGEST_BACKOFF)
    }
}

/// See the module.
#[derive(Default)]
pub struct Queue {
    entries: HashMap<PodId, Entry>,
    ready: BTreeSet<(Reverse<i32>, u64, PodId)>,
    backing_off: BTreeSet<(Instant, PodId)>,
    after_errors: BTreeSet<(Instant, PodId)>,
    waiting: BTreeSet<(Instant, PodId)>,
    turns: u64,
}

impl Queue {
    /// A pod that waits for its first try.
    pub fn add(&mut self, id: PodId, priority: i32, now: Instant) {
        let entry =
            Entry { priority, turn: 0, place: Place::Out, unschedulable: 0, errors: 0, failed: now, rejectors: 0, said: String::new() };
        self.remove(id);
        self.entries.insert(id, entry);
        self.put(id, Place::Ready);
    }

    /// Whether it is known here, being bound included.
    pub fn contains(&self, id: PodId) -> bool {
        self.entries.contains_key(&id)
    }

    /// How many wait in one way or another.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The pod is gone, or bound.
    pub fn remove(&mut self, id: PodId) {
        self.take_out(id);
        self.entries.remove(&id);
    }

    fn take_out(&mut self, id: PodId) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match std::mem::replace(&mut entry.place, Place::Out) {
            Place::Ready => drop(self.ready.remove(&(Reverse(entry.priority), entry.turn, id))),
            Place::BackingOff(until, false) => drop(self.backing_off.remove(&(until, id))),
            Place::BackingOff(until, true) => drop(self.after_errors.remove(&(until, id))),
            Place::Waiting => drop(self.waiting.remove(&(entry.failed, id))),
            Place::Out => {}
        }
    }

    fn put(&mut self, id: PodId, place: Place) {
        self.take_out(id);
        self.turns += 1;
        let turn = self.turns;
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.place = place;
        entry.turn = turn;
        match place {
            Place::Ready => drop(self.ready.insert((Reverse(entry.priority), turn, id))),
            Place::BackingOff(until, false) => drop(self.backing_off.insert((until, id))),
            Place::BackingOff(until, true) => drop(self.after_errors.insert((until, id))),
            Place::Waiting => drop(self.waiting.insert((entry.failed, id))),
            Place::Out => {}
        }
    }

    /// The next pod to be placed. With nobody ready, one that backs off goes early, unless an error is the cause.
    pub fn pop(&mut self) -> Option<PodId> {
        let ready = self.ready.first().map(|(_, _, id)| *id);
        let id = ready.or_else(|| self.backing_off.first().map(|(_, id)| *id))?;
        self.take_out(id);
        Some(id)
    }

    /// Whether [`Queue::pop`] has somebody.
    pub fn has_next(&self) -> bool {
        !self.ready.is_empty() || !self.backing_off.is_empty()
    }

    /// No node could take it, as these plugins said. Says whether the words are new.
    pub fn reject(&mut self, id: PodId, rejectors: u32, words: &str, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.unschedulable += 1;
        entry.errors = 0;
        entry.rejectors = rejectors;
        let new = entry.said != words;
        words.clone_into(&mut entry.said);
        // It is out of all lists now: the time under which it is listed may change.
        entry.failed = now;
        self.put(id, Place::Waiting);
        new
    }

    /// Something went wrong that has nothing to do with nodes. Says whether the words are new.
    pub fn fail(&mut self, id: PodId, words: &str, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.errors += 1;
        let new = entry.said != words;
        words.clone_into(&mut entry.said);
        entry.failed = now;
        let until = entry.backoff_ends();
        self.put(id, Place::BackingOff(until, true));
        new
    }

    /// Something about the pod itself changed.
    pub fn wake(&mut self, id: PodId, priority: i32, now: Instant) {
        let Some(entry) = self.entries.get(&id) else { return };
        if entry.place == Place::Ready || entry.place == Place::Waiting {
            self.take_out(id);
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.priority = priority;
            }
            self.release(id, now);
        }
    }

    fn release(&mut self, id: PodId, now: Instant) {
        let Some(until) = self.entries.get(&id).map(Entry::backoff_ends) else { return };
        self.put(id, if until <= now { Place::Ready } else { Place::BackingOff(until, false) });
    }

    /// Something happened in the cluster: pods that it may help get another try.
    pub fn happened(&mut self, events: u32, now: Instant) {
        if self.waiting.is_empty() || events == 0 {
            return;
        }
        let helped = |id: &PodId| self.entries.get(id).is_some_and(|e| helps(e.rejectors, events));
        let moved: Vec<PodId> = self.waiting.iter().map(|(_, id)| *id).filter(helped).collect();
        moved.into_iter().for_each(|id| self.release(id, now));
    }

    /// Time passes.
    pub fn tick(&mut self, now: Instant) {
        while let Some((until, id)) = self.after_errors.first().copied()
            && until <= now
        {
            self.put(id, Place::Ready);
        }
        while let Some((until, id)) = self.backing_off.first().copied()
            && until <= now
        {
            self.put(id, Place::Ready);
        }
        while let Some((since, id)) = self.waiting.first().copied()
            && since + LONGEST_WAIT <= now
        {
            self.release(id, now);
        }
    }

    /// When [`Queue::tick`] has something to do next.
    pub fn due(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, PodId)>| set.first().map(|(at, _)| *at);
        let waiting = first(&self.waiting).map(|at| at + LONGEST_WAIT);
        [first(&self.after_errors), first(&self.backing_off), waiting].into_iter().flatten().min()
    }
}
