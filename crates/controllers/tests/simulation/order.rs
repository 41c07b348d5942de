//! The order in which pods of a stateful set come and go, looked for in everything that was ever written.
//!
//! A controller acts on what its caches show, which may be old, each by another time, and a pod may fall ill while it acts: what
//! it does must have been right by pods and a set that it may have seen.

use crate::history::{Change, app, count, image, is_leaving, is_over, is_ready, owner, text, uid};
use crate::scenario::UNSEEN;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Ordinals that any set has at most.
pub const MOST: usize = 8;

/// What may be done about the pod of an ordinal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deed {
    Make,
    /// It is beyond the number of replicas.
    Drop,
    /// It is of an earlier template.
    Replace,
    /// Its claim may go.
    Unclaim,
}

type Set = Option<Rc<Value>>;
type Pods = BTreeMap<usize, Rc<Value>>;

/// A set and its pods as they are at one moment, and as they were lately, with the times until which they were so.
#[derive(Default)]
struct Order {
    set: Set,
    /// There has been a set.
    began: bool,
    pods: Pods,
    sets: Vec<(Duration, Set)>,
    states: Vec<(Duration, Pods)>,
}

/// Everything that was done too early; `taken` are pods that somebody else took away.
pub fn audit(history: &[Change], taken: &BTreeSet<String>) -> Vec<String> {
    let (mut orders, mut found) = (BTreeMap::<String, Order>::new(), Vec::new());
    for change in history {
        let latest = change.latest();
        let name = match (text(&latest["kind"]), owner(latest)) {
            ("StatefulSet", _) => change.name(),
            ("Pod", Some(("StatefulSet", name, _))) => name,
            ("PersistentVolumeClaim", _) => app(latest),
            _ => continue,
        };
        let order = orders.entry(name.to_owned()).or_default();
        order.until(change.at);
        let wrong = match text(&latest["kind"]) {
            "StatefulSet" => order.set(change),
            "Pod" => order.pod(change, taken),
            _ => order.claim(change),
        };
        found.extend(wrong.map(|what| format!("{what} at {:?}", change.at)));
    }
    found
}

fn ordinal(name: &str) -> Option<usize> {
    name.rsplit_once('-')?.1.parse().ok()
}

fn is_right(deed: Deed, n: usize, set: Option<&Value>, pods: &Pods) -> bool {
    // Without its set, all of it may go.
    let Some(set) = set else { return deed != Deed::Make };
    let replicas = count(&set["spec"]["replicas"]);
    let is_parallel = set["spec"]["podManagementPolicy"] == "Parallel";
    let partition = count(&set["spec"]["updateStrategy"]["rollingUpdate"]["partition"]);
    let good = |m: usize| pods.get(&m).is_some_and(|p| is_ready(p));
    let is_new = |m: usize| pods.get(&m).is_some_and(|p| image(p) == image(&set["spec"]["template"]));
    match deed {
        Deed::Make => n < replicas && !pods.contains_key(&n) && (is_parallel || (0..n).all(good)),
        Deed::Drop => n >= replicas && (is_parallel || (0..replicas).all(good) && !(n + 1..MOST).any(|m| pods.contains_key(&m))),
        // An update waits for pods that are to go, and for those above.
        Deed::Replace => n >= partition && n < replicas && !is_new(n) && (n + 1..replicas).all(|m| good(m) && is_new(m)),
        Deed::Unclaim => {
            let policy = &set["spec"]["persistentVolumeClaimRetentionPolicy"];
            is_leaving(set) && policy["whenDeleted"] == "Delete" || n >= replicas && policy["whenScaled"] == "Delete"
        }
    }
}

impl Order {
    /// What is now has been so until now.
    fn until(&mut self, at: Duration) {
        let recent = |until: &Duration| *until + UNSEEN >= at;
        self.sets.retain(|(until, _)| recent(until));
        self.states.retain(|(until, _)| recent(until));
        // Nobody can have seen that there is no set any more before there was one.
        if self.began {
            self.sets.push((at, self.set.clone()));
        }
        self.states.push((at, self.pods.clone()));
    }

    fn was_right(&self, deed: Deed, n: usize) -> bool {
        self.sets.iter().any(|(_, set)| self.states.iter().any(|(_, pods)| is_right(deed, n, set.as_deref(), pods)))
    }

    fn set(&mut self, change: &Change) -> Option<String> {
        self.set = change.after.clone();
        self.began = true;
        None
    }

    fn pod(&mut self, change: &Change, taken: &BTreeSet<String>) -> Option<String> {
        let (name, pod) = (change.name(), change.latest());
        let n = ordinal(name)?;
        let wrong = if change.is_new() {
            (!self.was_right(Deed::Make, n)).then(|| format!("{name} is made too early"))
        } else if change.is_end() {
            // What somebody else took away, or is over, or lost its set.
            let may = taken.contains(uid(pod)) || is_over(pod) || self.set.as_deref().is_none_or(is_leaving);
            let right = may || [Deed::Drop, Deed::Replace].iter().any(|deed| self.was_right(*deed, n));
            let vanished = change.after.is_none() && !is_over(pod) && pod["spec"]["nodeName"].is_string();
            if vanished {
                Some(format!("{name} is gone while its kubelet runs it"))
            } else {
                (!right).then(|| format!("{name} goes too early"))
            }
        } else {
            None
        };
        match &change.after {
            Some(after) => drop(self.pods.insert(n, after.clone())),
            None => drop(self.pods.remove(&n)),
        }
        wrong
    }

    fn claim(&self, change: &Change) -> Option<String> {
        let n = ordinal(change.name())?;
        let policy = self.set.as_ref().map(|s| &s["spec"]["persistentVolumeClaimRetentionPolicy"]);
        // A set that is gone takes those along that were its own.
        let own = policy.is_none() && change.before.as_deref().and_then(owner).is_some();
        let right = own || policy.is_some() && self.was_right(Deed::Unclaim, n);
        (change.is_end() && !right).then(|| format!("claim {} is lost", change.name()))
    }
}
