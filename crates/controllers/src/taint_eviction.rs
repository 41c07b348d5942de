//! Taint eviction: a pod leaves a node whose NoExecute taints it does not tolerate, or no longer.
//!
//! Reads nodes and pods; deletes pods, after noting why in their `DisruptionTarget` condition.
//! Source: `pkg/controller/tainteviction`.

use crate::Context;
use crate::node_lifecycle::by_node;
use crate::nodes::tolerates;
use crate::pods;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::{Desc, Kind};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Client, DeleteOptions, Error, Named, Object, ObjectKey, Optional, Patch};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// Seconds between the moment when a pod had to go and its deletion.
pub(crate) const LATENESS: &[f64] = &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0];

static DELETED: Desc = Desc {
    name: "taint_eviction_controller_pod_deletions_total",
    help: "[ALPHA] Total number of Pods deleted by TaintEvictionController since its start.",
    kind: Kind::Counter,
    labels: &[],
};
static DELETED_AFTER: Desc = Desc {
    name: "taint_eviction_controller_pod_deletion_duration_seconds",
    help: "[ALPHA] Latency, in seconds, between the time when a taint effect has been activated for the Pod and its deletion via TaintEvictionController.",
    kind: Kind::Histogram(LATENESS),
    labels: &[],
};

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("noexec_taint_pod");
    let nodes: Cache<Node> = context.caches.of();
    let pods: Cache<Pod> = context.caches.of();
    let index = by_node(&pods);
    let tainted = nodes.index(|n| if may_execute(n) { vec![String::new()] } else { Vec::new() });
    let add = queue.clone();
    pods.on_change(move |d| {
        // Mostly no node has such a taint: then no pod is looked at.
        if d.new.is_some() && !tainted.get("").is_empty() {
            add.add(d.key().clone());
        }
    });
    let add = queue.clone();
    nodes.on_change(move |d| {
        if [d.old, d.new].into_iter().flatten().any(|n| may_execute(n)) {
            index.get(&d.key().name).iter().for_each(|p| add.add(p.key.clone()));
        }
    });
    tokio::join!(nodes.synced(), pods.synced());
    // Pods that have a time to go, and since when; when it is taken back, people are told.
    let scheduled: Mutex<HashMap<ObjectKey, Timestamp>> = Mutex::default();
    let reconcile = |key: ObjectKey| {
        let (context, nodes, pods, scheduled) = (&context, &nodes, &pods, &scheduled);
        async move {
            let Some(pod) = pods.get(&key.namespace, &key.name).filter(pods::is_active) else {
                scheduled.lock().remove(&key);
                return Ok(Next::Wait);
            };
            let name = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
            let Some(node) = nodes.get("", &name) else { return Ok(Next::Wait) };
            let taints = node.spec.and_then(|s| s.taints).unwrap_or_default();
            let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
            let now = Timestamp::now();
            let seen = scheduled.lock().get(&key).copied().unwrap_or(now);
            let since = since(&taints, &pod, seen);
            match left(&taints, &tolerations, since, now) {
                Left::Stays => {
                    if scheduled.lock().remove(&key).is_some() {
                        let message = format!("Cancelling deletion of Pod {key}");
                        context.recorder.about(&pod, EventType::Normal, "TaintManagerEviction", message);
                    }
                    Ok(Next::Wait)
                }
                Left::After(delay) => {
                    scheduled.lock().insert(key, seen);
                    Ok(Next::After(delay))
                }
                Left::Now => {
                    scheduled.lock().remove(&key);
                    context.recorder.about(&pod, EventType::Normal, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
                    let due = due(&taints, &tolerations, since);
                    let next =
                        evict(&context.client, &pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint").await?;
                    context.metrics.count(&DELETED, &[]);
                    let late = Timestamp::now().duration_since(due).as_secs_f64().max(0.0);
                    context.metrics.series(&DELETED_AFTER, &[]).observe(late);
                    Ok(next)
                }
            }
        }
    };
    controller::run::<_, Error, _, _>("taint-eviction", queue, 8, reconcile).await;
}

fn may_execute(node: &Object) -> bool {
    node.mentions(b"NoExecute")
}

/// Notes why a pod is disrupted, then deletes it.
async fn evict(client: &Client, pod: &Pod, reason: &str, message: &str) -> Result<Next, Error> {
    disrupt(client, pod, reason, message, None).await?;
    client.delete::<Pod>(pod.namespace(), pod.name(), &DeleteOptions::of_uid(pod.uid())).await.optional()?;
    Ok(Next::Wait)
}

/// Sets `DisruptionTarget`, and the phase when nobody else will.
pub(crate) async fn disrupt(client: &Client, pod: &Pod, reason: &str, message: &str, phase: Option<&str>) -> Result<(), Error> {
    let Some(status) = disrupted(pod, reason, message, phase, Timestamp::now()) else { return Ok(()) };
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    client.patch_status::<Pod>(pod.namespace(), pod.name(), &patch).await.optional().map(drop)
}

/// The status of a pod that is to be disrupted, as far as it is new.
fn disrupted(pod: &Pod, reason: &str, message: &str, phase: Option<&str>, now: Timestamp) -> Option<Value> {
    const KIND: &str = "DisruptionTarget";
    let known = pods::condition(pod, KIND).filter(|c| c.status == "True");
    let generation = pod.metadata.generation;
    let (same, since) = match known {
        None => (false, None),
        Some(c) => {
            let said = (c.reason.as_deref(), c.message.as_deref(), c.observed_generation);
            (said == (Some(reason), Some(message), generation), c.last_transition_time.as_ref().map(|t| t.0))
        }
    };
    if same && phase.is_none() {
        return None;
    }
    let since = since.unwrap_or(now).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut status = json!({"conditions": [{"type": KIND, "status": "True", "reason": reason, "message": message,
        "observedGeneration": generation, "lastTransitionTime": since}]});
    if let Some(phase) = phase {
        status["phase"] = phase.into();
        status["observedGeneration"] = generation.into();
    }
    Some(status)
}

/// How long a pod may stay.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Stays,
    After(Duration),
    Now,
}

/// When the first of the taints that evict was added, if they say so. Those that people add do not.
pub(crate) fn added(taints: &[Taint]) -> Option<Timestamp> {
    taints.iter().filter(|t| t.effect == "NoExecute").filter_map(|t| t.time_added.as_ref()).map(|t| t.0).min()
}

/// From when on a pod's tolerations count: since the taint was added or, if that was earlier, since the pod came to it. Of a
/// taint that does not say when it was added, since it was `seen`.
fn since(taints: &[Taint], pod: &Pod, seen: Timestamp) -> Timestamp {
    let came = pods::condition(pod, "PodScheduled").filter(|c| c.status == "True").and_then(|c| c.last_transition_time.as_ref());
    let came = came.or(pod.metadata.creation_timestamp.as_ref()).map_or(Timestamp::MIN, |t| t.0);
    added(taints).map_or(seen, |at| at.max(came))
}

/// A taint that nothing tolerates evicts at once; otherwise the shortest `tolerationSeconds` counts.
pub(crate) fn left(taints: &[Taint], tolerations: &[Toleration], since: Timestamp, now: Timestamp) -> Left {
    let mut shortest: Option<i64> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            return Left::Now;
        }
        let seconds = matching.filter_map(|t| t.toleration_seconds).map(|s| s.max(0)).min();
        shortest = [shortest, seconds].into_iter().flatten().min();
    }
    let Some(seconds) = shortest else { return Left::Stays };
    let gone = now.duration_since(since);
    match Duration::try_from(SignedDuration::from_secs(seconds).saturating_sub(gone)) {
        Ok(left) if !left.is_zero() => Left::After(left),
        _ => Left::Now,
    }
}

/// When a pod that may not stay had to go.
pub(crate) fn due(taints: &[Taint], tolerations: &[Toleration], since: Timestamp) -> Timestamp {
    match left(taints, tolerations, since, since) {
        Left::After(delay) => since.checked_add(delay).unwrap_or(since),
        _ => since,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_says_which_generation_it_is_about_and_since_when_it_holds() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let pod = |conditions: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "generation": 3}, "status": {"conditions": conditions}})).unwrap()
        };
        let first = disrupted(&pod(json!([])), "R", "m", None, now).unwrap();
        let condition = &first["conditions"][0];
        assert_eq!((&condition["observedGeneration"], &condition["lastTransitionTime"]), (&json!(3), &json!("2026-01-01T00:01:00Z")));
        let later: Timestamp = "2026-01-01T00:02:00Z".parse().unwrap();
        let known = pod(first["conditions"].clone());
        assert_eq!(disrupted(&known, "R", "m", None, later), None, "nothing new");
        let failed = disrupted(&known, "other", "m", Some("Failed"), later).unwrap();
        assert_eq!((&failed["phase"], &failed["observedGeneration"]), (&json!("Failed"), &json!(3)));
        assert_eq!(failed["conditions"][0]["lastTransitionTime"], "2026-01-01T00:01:00Z");
    }

    #[test]
    fn a_pod_stays_as_long_as_it_tolerates_every_taint() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:30Z"});
        let tolerate = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let cases = [
            (json!([]), json!([]), Left::Stays),
            (json!([{"key": "a", "effect": "NoSchedule"}]), json!([]), Left::Stays),
            (json!([taint("a")]), json!([]), Left::Now),
            (json!([taint("a")]), json!([tolerate("a", None)]), Left::Stays),
            (json!([taint("a")]), json!([tolerate("a", Some(300))]), Left::After(Duration::from_secs(270))),
            (json!([taint("a")]), json!([tolerate("a", Some(10))]), Left::Now),
            (json!([taint("a"), taint("b")]), json!([tolerate("a", None)]), Left::Now),
            (json!([taint("a"), taint("b")]), json!([tolerate("a", None), tolerate("b", Some(60))]), Left::After(Duration::from_secs(30))),
        ];
        for (taints, tolerations, expected) in cases {
            let (t, o): (Vec<Taint>, Vec<Toleration>) =
                (serde_json::from_value(taints.clone()).unwrap(), serde_json::from_value(tolerations).unwrap());
            assert_eq!(left(&t, &o, added(&t).unwrap_or(now), now), expected, "{taints}");
        }
    }

    #[test]
    fn a_toleration_counts_from_when_the_pod_and_the_taint_have_met() {
        let at = |t: &str| t.parse::<Timestamp>().unwrap();
        let taint = |added: Option<&str>| -> Vec<Taint> {
            serde_json::from_value(json!([{"key": "a", "effect": "NoExecute", "timeAdded": added}])).unwrap()
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:01:00Z"}, "status": {"conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:02:00Z"}]}}))
        .unwrap();
        let seen = at("2026-01-01T00:09:00Z");
        assert_eq!(since(&taint(Some("2026-01-01T00:05:00Z")), &pod, seen), at("2026-01-01T00:05:00Z"));
        assert_eq!(since(&taint(Some("2026-01-01T00:00:00Z")), &pod, seen), at("2026-01-01T00:02:00Z"), "the pod came later");
        assert_eq!(since(&taint(None), &pod, seen), seen);
        let tolerations: Vec<Toleration> =
            serde_json::from_value(json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}])).unwrap();
        let left_at = |now: &str| left(&taint(None), &tolerations, seen, at(now));
        assert_eq!(left_at("2026-01-01T00:09:02Z"), Left::After(Duration::from_secs(3)), "it does not begin anew");
        assert_eq!(left_at("2026-01-01T00:09:05Z"), Left::Now);
    }
}
