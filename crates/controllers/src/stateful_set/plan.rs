//! The next step of a stateful set: pure.
//!
//! Source: `pkg/controller/statefulset/stateful_set_control.go`.

use super::identity::{self, ordinal};
use super::retention::{self, Owners};
use crate::pods::{self, availability, is_ready};
use crate::revisions::HASH;
use ferrokube_client::Named;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;
use std::time::Duration;

/// What is known. Revisions are names of ControllerRevisions.
pub struct View<'a> {
    pub set: &'a StatefulSet,
    pub pods: &'a [Pod],
    pub current: &'a str,
    pub update: &'a str,
    /// The claim of this name, when the cache has one.
    pub claim: &'a (dyn Fn(&str) -> Option<PersistentVolumeClaim> + Sync),
    pub now: Timestamp,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Make the pod of this ordinal, of the present or the earlier template.
    Create { ordinal: i32, updated: bool },
    /// Make the claims that the pod of this ordinal waits for.
    Claim { ordinal: i32 },
    /// Give a pod that was taken over the labels of its place.
    Relabel(Box<Pod>),
    /// Give a claim other owners.
    Own(Box<PersistentVolumeClaim>, Owners),
    /// Delete a pod.
    Delete(Box<Pod>),
}

impl View<'_> {
    fn start(&self) -> i32 {
        self.wanted().start
    }

    fn replicas(&self) -> i32 {
        self.set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn is_parallel(&self) -> bool {
        self.set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()) == Some("Parallel")
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn on_delete(&self) -> bool {
        self.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()).and_then(|s| s.type_.as_deref()) == Some("OnDelete")
    }

    fn partition(&self) -> i32 {
        let strategy = self.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.partition).unwrap_or(0)
    }

    /// How many pods an update may make unavailable. Without a number it goes one by one (`MaxUnavailableStatefulSet` is off).
    fn max_unavailable(&self) -> Option<usize> {
        let strategy = self.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        let replicas = usize::try_from(self.replicas()).unwrap_or(0);
        let amount = match strategy.and_then(|s| s.rolling_update.as_ref()).and_then(|r| r.max_unavailable.as_ref())? {
            IntOrString::Int(n) => usize::try_from(*n).unwrap_or(1),
            IntOrString::String(text) => text.trim_end_matches('%').parse::<usize>().unwrap_or(0) * replicas / 100,
        };
        Some(amount.max(1))
    }

    fn wanted(&self) -> std::ops::Range<i32> {
        identity::wanted(self.set)
    }

    fn by_ordinal(&self) -> BTreeMap<i32, &Pod> {
        self.pods.iter().filter_map(|p| Some((ordinal(self.set.name(), p.name())?, p))).collect()
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        pod.metadata.deletion_timestamp.is_none()
            && pods::phase(pod) == "Running"
            && is_ready(pod)
            && availability(pod, self.min_ready(), self.now).is_ok()
    }
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)).map_or("", String::as_str)
}

fn some(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

fn is_over(pod: &Pod) -> bool {
    matches!(pods::phase(pod), "Failed" | "Succeeded")
}

fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// What to do now; with ordered management at most one pod comes or goes.
pub fn steps(view: &View) -> Vec<Step> {
    let map = view.by_ordinal();
    let monotonic = !view.is_parallel();
    let mut steps = Vec::new();
    for at in view.wanted() {
        let waits = match map.get(&at) {
            None => {
                // A claim that goes with the pod before this one must be gone first.
                let pod = format!("{}-{at}", view.set.name());
                if !claims_of(view, at).any(|c| retention::is_stale(view.set, &pod, &c)) {
                    steps.push(Step::Create { ordinal: at, updated: at >= view.start() + view.partition() });
                }
                true
            }
            Some(pod) if is_over(pod) => {
                // However it ended: an evicted pod may have succeeded.
                if !is_terminating(pod) {
                    steps.push(Step::Delete(Box::new((*pod).clone())));
                }
                true
            }
            Some(pod) => {
                present(view, at, pod, &mut steps);
                is_terminating(pod) || !view.is_healthy(pod)
            }
        };
        if waits && monotonic {
            return steps;
        }
    }
    for (at, pod) in map.iter().filter(|(at, _)| !view.wanted().contains(at)) {
        own(view, *at, pod, true, &mut steps);
    }
    if !condemn(view, &map, monotonic, &mut steps) {
        return steps;
    }
    let busy = steps.iter().any(|s| matches!(s, Step::Create { .. } | Step::Delete(_)));
    if !busy && !view.on_delete() {
        steps.extend(outdated(view, &map));
    }
    steps
}

fn claims_of(view: &View, at: i32) -> impl Iterator<Item = PersistentVolumeClaim> {
    identity::claims(view.set, at).into_iter().filter_map(|c| (view.claim)(c.name()))
}

/// What a pod that is there lacks: claims it waits for, labels of its place, the owners of its claims.
fn present(view: &View, at: i32, pod: &Pod, steps: &mut Vec<Step>) {
    if pods::phase(pod) == "Pending" && identity::claims(view.set, at).iter().any(|c| (view.claim)(c.name()).is_none()) {
        steps.push(Step::Claim { ordinal: at });
    }
    if !view.is_parallel() && !view.is_healthy(pod) {
        return;
    }
    if !identity::is_labelled(at, pod) {
        let mut changed = pod.clone();
        identity::label(at, &mut changed);
        steps.push(Step::Relabel(Box::new(changed)));
    }
    own(view, at, pod, false, steps);
}

/// Owners of a pod's claims that are not as the retention policy says.
fn own(view: &View, at: i32, pod: &Pod, beyond: bool, steps: &mut Vec<Step>) {
    for claim in claims_of(view, at) {
        if let Some(owners) = retention::owners(view.set, pod, beyond, &claim) {
            steps.push(Step::Own(Box::new(claim), owners));
        }
    }
}

/// Pods beyond the wanted number go, the highest ordinal first; whether the update may go on.
fn condemn(view: &View, map: &BTreeMap<i32, &Pod>, monotonic: bool, steps: &mut Vec<Step>) -> bool {
    let condemned: Vec<&Pod> = map.iter().filter(|(at, _)| !view.wanted().contains(at)).map(|(_, pod)| *pod).collect();
    for (n, pod) in condemned.iter().enumerate().rev() {
        if monotonic && is_awaited(view, pod, &condemned[..n]) {
            return false;
        }
        if !is_terminating(pod) {
            steps.push(Step::Delete(Box::new((*pod).clone())));
        }
        if monotonic {
            return false;
        }
    }
    true
}

/// Whether a pod that is to go must get well first. As upstream, of those that are ill only the lowest may go as it is.
///
/// A pod that is over never gets well, and beyond the wanted number nobody makes it anew: upstream waits for ever where two are over. It
/// runs nothing that an order could be about, so it goes once none of those below it can get well any more.
fn is_awaited(view: &View, pod: &Pod, below: &[&Pod]) -> bool {
    let ill_below = || below.iter().filter(|p| !view.is_healthy(p));
    !view.is_healthy(pod) && ill_below().any(|p| !(is_over(pod) && is_over(p)))
}

/// Pods of the earlier template that are replaced now, from the highest ordinal down to the partition.
fn outdated(view: &View, map: &BTreeMap<i32, &Pod>) -> Vec<Step> {
    let replaced = |pod: &Pod| revision(pod) != view.update && !is_terminating(pod);
    let above_partition = view.wanted().rev().filter(|at| *at >= view.start() + view.partition()).filter_map(|at| map.get(&at));
    let delete = |pod: &Pod| Step::Delete(Box::new(pod.clone()));
    let Some(most) = view.max_unavailable() else {
        // The highest one that is not as it should be decides: it is replaced, or waited for.
        let first = above_partition.into_iter().find(|pod| replaced(pod) || !view.is_healthy(pod));
        return first.filter(|pod| replaced(pod)).map(|pod| delete(pod)).into_iter().collect();
    };
    let unavailable = view.wanted().filter(|i| map.get(i).is_none_or(|p| !view.is_healthy(p))).count();
    above_partition.filter(|pod| replaced(pod)).take(most.saturating_sub(unavailable)).map(|pod| delete(pod)).collect()
}

/// The status, and when it will change by itself.
pub fn status(view: &View) -> (StatefulSetStatus, Option<Duration>) {
    let old = view.set.status.clone().unwrap_or_default();
    let alive: Vec<&Pod> = view.pods.iter().filter(|p| !is_over(p)).collect();
    let count = |keep: &dyn Fn(&Pod) -> bool| i32::try_from(alive.iter().filter(|p| keep(p)).count()).unwrap_or(i32::MAX);
    let running = |p: &Pod| pods::phase(p) == "Running" && is_ready(p);
    let waits = alive.iter().filter(|p| running(p)).filter_map(|p| availability(p, view.min_ready(), view.now).err().flatten());
    let soon = waits.min();
    let (replicas, ready) = (count(&|_| true), count(&running));
    let updated = count(&|p| !is_terminating(p) && revision(p) == view.update);
    let current = count(&|p| !is_terminating(p) && revision(p) == view.current);
    let done = !view.on_delete() && [replicas, ready, updated] == [view.replicas(); 3];
    let status = StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        replicas,
        ready_replicas: some(ready),
        available_replicas: Some(count(&|p| running(p) && availability(p, view.min_ready(), view.now).is_ok())),
        current_replicas: some(if done { updated } else { current }),
        updated_replicas: some(updated),
        current_revision: Some(if done { view.update } else { view.current }.to_owned()),
        update_revision: Some(view.update.to_owned()),
        collision_count: Some(old.collision_count.unwrap_or(0)),
        conditions: old.conditions,
    };
    (status, soon)
}

#[cfg(test)]
mod tests;
