//! Pods that wait for a place: ready ones by priority, those that back off, and those that wait for something to change.
//!
//! Pure: it is told the time. A pod that no node could take is moved by an event only when one of the plugins that said
//! no cares for that kind of event, and at the latest after five minutes.

use crate::node::PodId;
use crate::plugins::Plugin;
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// A pod does not wait longer than this for an event, unless it is said otherwise.
pub const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What happened in the cluster, as bits (upstream's cluster events).
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
    pub const CLAIM: u32 = 1 << 9;
    pub const VOLUME: u32 = 1 << 10;
    pub const STORAGE_CLASS: u32 = 1 << 11;
    pub const CSI_NODE: u32 = 1 << 12;
    pub const CSI_DRIVER: u32 = 1 << 13;
    pub const CAPACITY: u32 = 1 << 14;
    pub const DETACHED: u32 = 1 << 15;
    pub const NODE_FEATURE: u32 = 1 << 16;
    pub const DEVICES: u32 = 1 << 17;
    pub const DEVICE_CLASS: u32 = 1 << 18;
    pub const DEVICES_FREED: u32 = 1 << 19;
    /// Anything about a node.
    pub const NODE: u32 = NODE_ADD | NODE_LABEL | NODE_TAINT | NODE_ALLOCATABLE | NODE_FEATURE;
    /// Anything about a pod.
    pub const POD: u32 = POD_ADD | POD_LABEL | POD_SHRINK | POD_DELETE;
}

use event::*;

/// Which events may make a plugin say yes (reference: cluster events registered for requeue).
const INTERESTS: [(Plugin, u32); 14] = [
    (Plugin::NodeUnschedulable, NODE_ADD | NODE_TAINT),
    (Plugin::NodeName, NODE_ADD),
    (Plugin::TaintToleration, NODE_ADD | NODE_TAINT),
    (Plugin::NodeAffinity, NODE_ADD | NODE_LABEL),
    (Plugin::NodePorts, NODE_ADD | POD_DELETE),
    (Plugin::NodeResourcesFit, NODE_ADD | NODE_ALLOCATABLE | POD_DELETE | POD_SHRINK | DEVICE_CLASS),
    (Plugin::VolumeRestrictions, NODE_ADD | POD_DELETE | CLAIM),
    (Plugin::NodeVolumeLimits, CSI_NODE | POD_DELETE | CLAIM | DETACHED),
    (Plugin::VolumeBinding, NODE_ADD | NODE_LABEL | CLAIM | VOLUME | STORAGE_CLASS | CSI_NODE | CSI_DRIVER | CAPACITY),
    (Plugin::VolumeZone, NODE_ADD | NODE_LABEL | CLAIM | VOLUME | STORAGE_CLASS),
    (Plugin::PodTopologySpread, NODE_ADD | NODE_DELETE | NODE_LABEL | NODE_TAINT | POD_ADD | POD_LABEL | POD_DELETE),
    (Plugin::InterPodAffinity, NODE_ADD | NODE_LABEL | POD_ADD | POD_LABEL | POD_DELETE),
    (Plugin::DynamicResources, NODE_ADD | NODE_LABEL | NODE_ALLOCATABLE | DEVICES),
    (Plugin::NodeDeclaredFeatures, NODE_ADD | NODE_FEATURE),
];

/// The plugins among those (bits) that rejected a pod which an event may make say yes. Nobody rejected: there was no
/// node at all.
fn interested(rejectors: u32, events: u32) -> u32 {
    if rejectors == 0 {
        return if events & NODE_ADD != 0 { u32::MAX } else { 0 };
    }
    let cares = |(plugin, interests): &&(Plugin, u32)| rejectors & plugin.bit() != 0 && interests & events != 0;
    INTERESTS.iter().filter(cares).map(|(plugin, _)| plugin.bit()).sum()
}

/// Lists of the queue, as its metrics name them, with the number of pods in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the metric's label")]
pub struct Pending {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
}

/// How many pods came from waiting to where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the metric's label")]
pub struct Moved {
    pub active: usize,
    pub backoff: usize,
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
    /// When it came.
    since: Instant,
    rejectors: u32,
    /// What was last said about it.
    said: String,
    /// It waits without having been tried.
    held: bool,
}

impl Entry {
    fn backoff_ends(&self, backoff: Backoff) -> Instant {
        let tries = if self.errors > 0 { self.errors } else { self.unschedulable };
        if tries == 0 {
            return self.failed;
        }
        self.failed + backoff.first.saturating_mul(1 << (tries - 1).min(16)).min(backoff.longest)
    }
}

/// How long a pod stays back after a try: doubling from the first to the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// After one try (`podInitialBackoffSeconds`).
    pub first: Duration,
    /// After many (`podMaxBackoffSeconds`).
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(10) }
    }
}

/// See the module.
pub struct Queue {
    backoff: Backoff,
    longest_wait: Duration,
    entries: HashMap<PodId, Entry>,
    ready: BTreeSet<(Reverse<i32>, u64, PodId)>,
    backing_off: BTreeSet<(Instant, PodId)>,
    after_errors: BTreeSet<(Instant, PodId)>,
    waiting: BTreeSet<(Instant, PodId)>,
    /// How many of them are held.
    held: usize,
    turns: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Queue::new(Backoff::default(), LONGEST_WAIT)
    }
}

impl Queue {
    /// An empty queue, in which no pod waits longer than `longest_wait` for an event.
    pub fn new(backoff: Backoff, longest_wait: Duration) -> Self {
        Queue {
            backoff,
            longest_wait,
            entries: HashMap::new(),
            ready: BTreeSet::new(),
            backing_off: BTreeSet::new(),
            after_errors: BTreeSet::new(),
            waiting: BTreeSet::new(),
            held: 0,
            turns: 0,
        }
    }

    /// How many pods are in which list.
    pub fn pending(&self) -> Pending {
        Pending {
            active: self.ready.len(),
            backoff: self.backing_off.len() + self.after_errors.len(),
            unschedulable: self.waiting.len() - self.held,
            gated: self.held,
        }
    }

    /// How often a pod has been tried without success, and since when it waits.
    pub fn history(&self, id: PodId) -> Option<(u32, Instant)> {
        self.entries.get(&id).map(|e| (e.unschedulable + e.errors, e.since))
    }

    /// The plugins (bits) that last rejected a pod.
    pub fn rejectors(&self, id: PodId) -> u32 {
        self.entries.get(&id).map_or(0, |e| e.rejectors)
    }

    /// A pod that waits for its first try.
    pub fn add(&mut self, id: PodId, priority: i32, now: Instant) {
        let entry = Entry {
            priority,
            turn: 0,
            place: Place::Out,
            unschedulable: 0,
            errors: 0,
            failed: now,
            since: now,
            rejectors: 0,
            said: String::new(),
            held: false,
        };
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
        self.held -= usize::from(std::mem::take(&mut entry.held));
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

    /// It need not be tried before something happens that these plugins wait for (PreEnqueue). That is no try.
    pub fn hold(&mut self, id: PodId, plugins: u32, now: Instant) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.rejectors = plugins;
        // It is out of all lists now: the time under which it is listed may change.
        entry.failed = now;
        self.put(id, Place::Waiting);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.held = true;
            self.held += 1;
        }
    }

    /// Something went wrong that has nothing to do with nodes. Says whether the words are new.
    pub fn fail(&mut self, id: PodId, words: &str, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.errors += 1;
        let new = entry.said != words;
        words.clone_into(&mut entry.said);
        entry.failed = now;
        let until = entry.backoff_ends(self.backoff);
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

    /// Whether it is ready at once.
    fn release(&mut self, id: PodId, now: Instant) -> bool {
        let Some(until) = self.entries.get(&id).map(|e| e.backoff_ends(self.backoff)) else { return false };
        self.put(id, if until <= now { Place::Ready } else { Place::BackingOff(until, false) });
        until <= now
    }

    /// Something happened in the cluster: pods that it may help get another try. `hint` says whether it may for a pod
    /// that these plugins rejected and may now accept (queueing hints). The answer is how many are ready, and how many
    /// still back off.
    pub fn happened(&mut self, events: u32, now: Instant, hint: impl Fn(PodId, u32) -> bool) -> Moved {
        if self.waiting.is_empty() || events == 0 {
            return Moved::default();
        }
        let helped = |id: &PodId| {
            let plugins = self.entries.get(id).map_or(0, |e| interested(e.rejectors, events));
            plugins != 0 && hint(*id, plugins)
        };
        let moved: Vec<PodId> = self.waiting.iter().map(|(_, id)| *id).filter(helped).collect();
        let active = moved.iter().filter(|id| self.release(**id, now)).count();
        Moved { active, backoff: moved.len() - active }
    }

    /// Time passes. Says how many pods have backed off for long enough, and how many waited for too long for an event.
    pub fn tick(&mut self, now: Instant) -> (usize, Moved) {
        let (mut done, mut late) = (0, Moved::default());
        while let Some((until, id)) = self.after_errors.first().copied()
            && until <= now
        {
            self.put(id, Place::Ready);
            done += 1;
        }
        while let Some((until, id)) = self.backing_off.first().copied()
            && until <= now
        {
            self.put(id, Place::Ready);
            done += 1;
        }
        while let Some((since, id)) = self.waiting.first().copied()
            && since + self.longest_wait <= now
        {
            let active = self.release(id, now);
            late.active += usize::from(active);
            late.backoff += usize::from(!active);
        }
        (done, late)
    }

    /// When [`Queue::tick`] has something to do next.
    pub fn due(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, PodId)>| set.first().map(|(at, _)| *at);
        let waiting = first(&self.waiting).map(|at| at + self.longest_wait);
        [first(&self.after_errors), first(&self.backing_off), waiting].into_iter().flatten().min()
    }
}
