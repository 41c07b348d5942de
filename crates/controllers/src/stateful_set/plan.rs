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
        self.set.spec.as_ref().and_then(|s| s.ordinals.as_ref()).and_then(|o| o.start).unwrap_or(0)
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
        self.start()..self.start() + self.replicas()
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
            Some(pod) if matches!(pods::phase(pod), "Failed" | "Succeeded") => {
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
    let condemned: Vec<&&Pod> = map.iter().filter(|(at, _)| !view.wanted().contains(at)).map(|(_, pod)| pod).collect();
    let first_unhealthy = condemned.iter().find(|p| !view.is_healthy(p)).map(|p| p.uid());
    for pod in condemned.iter().rev() {
        if monotonic && !view.is_healthy(pod) && Some(pod.uid()) != first_unhealthy {
            return false;
        }
        if !is_terminating(pod) {
            steps.push(Step::Delete(Box::new((**pod).clone())));
        }
        if monotonic {
            return false;
        }
    }
    true
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
    let alive: Vec<&Pod> = view.pods.iter().filter(|p| !matches!(pods::phase(p), "Failed" | "Succeeded")).collect();
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
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(replicas: i32, more: Value) -> StatefulSet {
        let mut spec = json!({"replicas": replicas, "selector": {}, "template": {}, "serviceName": "s"});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "a", "uid": "s"}, "spec": spec})).unwrap()
    }

    fn pod(at: i32, revision: &str, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("db-{at}"), "namespace": "a", "uid": format!("db-{at}"),
                "labels": {HASH: revision, "statefulset.kubernetes.io/pod-name": format!("db-{at}"), "apps.kubernetes.io/pod-index": at.to_string()}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap()
    }

    fn shown(set: &StatefulSet, pods: &[Pod]) -> Vec<String> {
        shown_with(set, pods, &|_| None)
    }

    fn shown_with(set: &StatefulSet, pods: &[Pod], claim: &(dyn Fn(&str) -> Option<PersistentVolumeClaim> + Sync)) -> Vec<String> {
        let view = View { set, pods, current: "old", update: "new", claim, now: "2026-01-01T00:00:00Z".parse().unwrap() };
        let show = |s: &Step| match s {
            Step::Create { ordinal, updated } => format!("+{ordinal}{}", if *updated { "" } else { " old" }),
            Step::Claim { ordinal } => format!("claims {ordinal}"),
            Step::Relabel(pod) => format!("label {}", pod.name()),
            Step::Own(claim, owners) => {
                format!("{} of {}", claim.name(), owners.references.iter().map(|r| r.name.clone()).collect::<Vec<_>>().join(","))
            }
            Step::Delete(pod) => format!("-{}", pod.name()),
        };
        steps(&view).iter().map(show).collect()
    }

    #[test]
    fn pods_come_and_go_one_after_the_other() {
        let cases = [
            (set(2, json!({})), vec![], vec!["+0"]),
            (set(2, json!({})), vec![pod(0, "new", false)], vec![]),
            (set(2, json!({})), vec![pod(0, "new", true)], vec!["+1"]),
            (set(1, json!({})), vec![pod(0, "new", true), pod(1, "new", true), pod(2, "new", true)], vec!["-db-2"]),
            (set(3, json!({"podManagementPolicy": "Parallel"})), vec![pod(0, "new", false)], vec!["+1", "+2"]),
            (set(2, json!({"ordinals": {"start": 5}})), vec![pod(5, "new", true)], vec!["+6"]),
        ];
        for (set, pods, expected) in cases {
            assert_eq!(shown(&set, &pods), expected);
        }
    }

    #[test]
    fn an_update_replaces_from_the_top_down_to_the_partition() {
        let old = |n| pod(n, "old", true);
        let rolling = |rules: Value| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rules}});
        let cases = [
            (json!({}), vec![old(0), old(1), old(2)], vec!["-db-2"]),
            (json!({}), vec![old(0), old(1), pod(2, "new", false)], vec![]),
            (json!({}), vec![old(0), old(1), pod(2, "new", true)], vec!["-db-1"]),
            (
                json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}),
                vec![old(0), old(1), pod(2, "new", true)],
                vec![],
            ),
            (json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 1}}}), vec![], vec!["+0 old"]),
            (json!({"updateStrategy": {"type": "OnDelete"}}), vec![old(0), old(1), old(2)], vec![]),
            // Upstream waits here for somebody to delete the pod.
            (json!({}), vec![old(0), old(1), pod(2, "old", false)], vec![]),
            (json!({"podManagementPolicy": "Parallel"}), vec![old(0), old(1), pod(2, "old", false)], vec!["-db-2"]),
            (json!({"podManagementPolicy": "Parallel"}), vec![pod(0, "old", false), old(1), old(2)], vec!["-db-2"]),
            (rolling(json!({"maxUnavailable": 2})), vec![old(0), old(1), old(2)], vec!["-db-2", "-db-1"]),
            (rolling(json!({"maxUnavailable": "70%"})), vec![old(0), old(1), old(2)], vec!["-db-2", "-db-1"]),
            (rolling(json!({"maxUnavailable": 2, "partition": 2})), vec![old(0), old(1), old(2)], vec!["-db-2"]),
            (rolling(json!({"maxUnavailable": "10%"})), vec![old(0), old(1), old(2)], vec!["-db-2"]),
        ];
        for (more, pods, expected) in cases {
            assert_eq!(shown(&set(3, more.clone()), &pods), expected, "{more}");
        }
    }

    #[test]
    fn an_update_that_has_reached_every_pod_becomes_the_current_revision() {
        let rolling = |partition: i32| json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}});
        let both = [pod(0, "new", true), pod(1, "new", true)];
        let half = [pod(0, "old", true), pod(1, "new", true)];
        let cases = [
            (set(2, json!({})), &both[..], "new"),
            // Set when the update had passed it already: a pod below it must not fall back.
            (set(2, rolling(1)), &both[..], "new"),
            (set(2, rolling(1)), &half[..], "old"),
            (set(3, rolling(0)), &both[..], "old"),
            (set(2, json!({"updateStrategy": {"type": "OnDelete"}})), &both[..], "old"),
        ];
        for (set, pods, expected) in cases {
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            let (status, _) = status(&View { set: &set, pods, current: "old", update: "new", claim: &|_| None, now });
            let updated = i32::try_from(pods.iter().filter(|p| revision(p) == "new").count()).unwrap();
            let current = if expected == "new" { Some(updated) } else { some(i32::try_from(pods.len()).unwrap() - updated) };
            assert_eq!((status.current_revision.as_deref(), status.current_replicas), (Some(expected), current), "{:?}", set.spec);
            assert_eq!(status.updated_replicas, Some(updated));
        }
    }

    #[test]
    fn a_pod_that_is_over_is_made_again_and_one_that_ends_is_waited_for() {
        let set = set(2, json!({}));
        let over = |phase: &str| {
            let mut pod = pod(0, "new", false);
            pod.status.as_mut().unwrap().phase = Some(phase.into());
            pod
        };
        assert_eq!(shown(&set, &[over("Failed")]), ["-db-0"]);
        assert_eq!(shown(&set, &[over("Succeeded")]), ["-db-0"]);
        let mut going = over("Failed");
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(shown(&set, &[going]).is_empty());
    }

    #[test]
    fn a_pod_that_was_taken_over_gets_the_labels_of_its_place() {
        let mut taken = pod(0, "new", true);
        taken.metadata.labels.as_mut().unwrap().remove("apps.kubernetes.io/pod-index");
        assert_eq!(shown(&set(1, json!({})), &[taken]), ["label db-0"]);
    }

    #[test]
    fn claims_are_made_kept_and_handed_over_as_the_policy_says() {
        let more = |deleted: &str, scaled: &str| {
            json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}})
        };
        let claim = |owners: Value| {
            move |name: &str| serde_json::from_value(json!({"metadata": {"name": name, "ownerReferences": owners}})).unwrap()
        };
        let two = [pod(0, "new", true), pod(1, "new", true)];
        let free = claim(json!([]));
        assert_eq!(shown_with(&set(1, more("Retain", "Retain")), &two, &free), ["-db-1"]);
        assert_eq!(shown_with(&set(1, more("Retain", "Delete")), &two, &free), ["data-db-1 of db-1", "-db-1"], "before its pod goes");
        assert_eq!(shown_with(&set(2, more("Delete", "Retain")), &two, &free), ["data-db-0 of db", "data-db-1 of db"]);
        let stale = claim(json!([{"apiVersion": "v1", "kind": "Pod", "name": "db-1", "uid": "gone", "controller": true}]));
        assert!(
            shown_with(&set(2, more("Retain", "Delete")), &two[..1], &stale).is_empty(),
            "the new pod waits until the old claim is gone"
        );
        let mut pending = pod(0, "new", false);
        pending.status.as_mut().unwrap().phase = Some("Pending".into());
        assert_eq!(shown_with(&set(1, more("Retain", "Retain")), &[pending], &|_| None), ["claims 0"]);
    }
}
