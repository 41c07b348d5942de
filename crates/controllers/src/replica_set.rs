//! ReplicaSets: as many pods of a template as `spec.replicas` says.
//!
//! Reads replica sets and pods; writes pods and the status of replica sets. Source: `pkg/controller/replicaset`.

use crate::Context;
use crate::pods::{self, Pods, availability, is_active, is_ready};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, ObjectKey, Resource};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Most pods created or deleted in one round (`BurstReplicas`).
const BURST: usize = 500;
/// Set by people to say which pods go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let sets: Cache<ReplicaSet> = context.caches.of();
    let queue: Queue<ObjectKey> = context.queue("replicaset");
    let add = queue.clone();
    sets.on_change(move |d| add.add(d.key().clone()));
    let (add, add_all, known) = (queue.clone(), queue.clone(), sets.clone());
    let pods = Pods::new(
        context.caches.of(),
        ReplicaSet::KIND,
        move |namespace, owner| add.add(ObjectKey::new(namespace, &owner.name)),
        move |orphan| {
            // Any set of the namespace whose selector matches may want it; each looks for itself.
            for set in known.objects_in(&orphan.key.namespace) {
                add_all.add(set.key.clone());
            }
        },
    );
    tokio::join!(sets.synced(), pods.cache.synced());
    let reconcile = |key: ObjectKey| {
        let (context, sets, pods) = (&context, &sets, &pods);
        async move {
            match sets.read(&key.namespace, &key.name)? {
                Some(set) => reconcile(context, pods, set).await,
                None => Ok(Next::Wait),
            }
        }
    };
    controller::run::<_, Error, _, _>("replicaset", queue, 5, reconcile).await;
}

async fn reconcile(context: &Context, pods: &Pods, set: ReplicaSet) -> Result<Next, Error> {
    let selector = set.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default();
    let settled = pods.settled(set.uid());
    let own = pods.claim(&context.client, &set, &selector).await?;
    let active: Vec<Pod> = own.iter().filter(|p| is_active(p)).cloned().collect();
    let mut failure = None;
    if settled && set.metadata.deletion_timestamp.is_none() {
        failure = apply(context, pods, &set, plan(&set, &active)).await;
    }
    let (status, soon) = status(&set, &own, failure.as_ref(), Timestamp::now());
    if set.status.as_ref() != Some(&status) {
        let mut changed = set.clone();
        changed.status = Some(status);
        context.client.update_status(&changed).await?;
    }
    match failure {
        Some(e) if e.is_namespace_terminating() => Ok(Next::Wait),
        Some(e) => Err(e),
        None => Ok(soon.map_or(Next::Wait, Next::After)),
    }
}

/// What to do about the number of pods.
#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Create(usize),
    Delete(Vec<Pod>),
}

fn plan(set: &ReplicaSet, active: &[Pod]) -> Action {
    let wanted = usize::try_from(set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        return Action::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Action::Nothing;
    }
    Action::Delete(ranked(active).into_iter().take(surplus).collect())
}

async fn apply(context: &Context, pods: &Pods, set: &ReplicaSet, action: Action) -> Option<Error> {
    let (client, recorder) = (&context.client, &context.recorder);
    match action {
        Action::Nothing => None,
        Action::Create(count) => {
            let template = set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
            let create = |_| {
                let template = &template;
                async move { pods.create(client, recorder, set, template, |_| {}).await.map(drop) }
            };
            pods::slow_start(count, create).await.1
        }
        Action::Delete(victims) => {
            let deletes = victims.iter().map(|pod| pods.delete(client, recorder, set, pod));
            futures_util::future::join_all(deletes).await.into_iter().find_map(Result::err)
        }
    }
}

/// Pods in the order in which they go (`ActivePodsWithRanks`): unassigned, pending, unready, cheap, crowded, young ones first.
fn ranked(pods: &[Pod]) -> Vec<Pod> {
    let mut per_node: HashMap<String, i64> = HashMap::new();
    let node = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    pods.iter().for_each(|p| *per_node.entry(node(p)).or_default() += 1);
    let mut list = pods.to_vec();
    list.sort_by_cached_key(|p| {
        let assigned = !node(p).is_empty();
        let phase = match pods::phase(p) {
            "Pending" => 0,
            "Unknown" => 1,
            _ => 2,
        };
        let cost: i64 = p.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST)).and_then(|c| c.parse().ok()).unwrap_or(0);
        let ready_since =
            pods::condition(p, "Ready").filter(|_| is_ready(p)).and_then(|c| c.last_transition_time.as_ref()).map(|t| -t.0.as_second());
        let restarts: i32 =
            p.status.as_ref().and_then(|s| s.container_statuses.as_ref()).map_or(0, |l| l.iter().map(|c| c.restart_count).sum());
        let born = p.metadata.creation_timestamp.as_ref().map(|t| -t.0.as_second());
        (assigned, phase, is_ready(p), cost, -per_node[&node(p)], ready_since, -restarts, born)
    });
    list
}

/// The status, and when it will change by itself (pods that become available).
fn status(set: &ReplicaSet, own: &[Pod], failure: Option<&Error>, now: Timestamp) -> (ReplicaSetStatus, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let template_labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone()).unwrap_or_default();
    let labelled = |p: &&Pod| template_labels.iter().all(|(k, v)| p.metadata.labels.as_ref().and_then(|l| l.get(k)) == Some(v));
    let active: Vec<&Pod> = own.iter().filter(|p| is_active(p)).collect();
    let waits: Vec<Result<(), Option<Duration>>> = active.iter().map(|p| availability(p, min_ready, now)).collect();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let terminating =
        own.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !matches!(pods::phase(p), "Succeeded" | "Failed")).count();
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: some(count(active.iter().copied().filter(|p| labelled(&p)).count())),
        ready_replicas: some(count(active.iter().filter(|p| is_ready(p)).count())),
        available_replicas: some(count(waits.iter().filter(|w| w.is_ok()).count())),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.metadata.generation,
        conditions: conditions(old.conditions, failure, active.len() < usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0), now),
    };
    let soon = waits.into_iter().filter_map(|w| w.err().flatten()).min();
    (status, soon)
}

/// Zero is left out, as the Go types do.
fn some(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

fn conditions(
    old: Option<Vec<ReplicaSetCondition>>,
    failure: Option<&Error>,
    creating: bool,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    const FAILURE: &str = "ReplicaFailure";
    let mut list = old.unwrap_or_default();
    match failure {
        None => list.retain(|c| c.type_ != FAILURE),
        Some(e) => {
            let reason = if creating { "FailedCreate" } else { "FailedDelete" };
            let message = e.to_string();
            let same =
                list.iter().any(|c| c.type_ == FAILURE && c.reason.as_deref() == Some(reason) && c.message.as_ref() == Some(&message));
            if !same {
                list.retain(|c| c.type_ != FAILURE);
                list.push(ReplicaSetCondition {
                    type_: FAILURE.into(),
                    status: "True".into(),
                    reason: Some(reason.into()),
                    message: Some(message),
                    last_transition_time: Some(Time(now)),
                });
            }
        }
    }
    Some(list).filter(|l| !l.is_empty())
}

/// A label or annotation map with one more entry.
pub(crate) fn with(map: Option<BTreeMap<String, String>>, key: &str, value: &str) -> Option<BTreeMap<String, String>> {
    let mut map = map.unwrap_or_default();
    map.insert(key.to_owned(), value.to_owned());
    Some(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "generation": 3},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}}},
        }))
        .unwrap()
    }

    fn pod(name: &str, phase: &str, ready: bool, node: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "labels": {"app": "web"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        }))
        .unwrap()
    }

    fn names(action: Action) -> Vec<String> {
        match action {
            Action::Delete(pods) => pods.iter().map(|p| p.name().to_owned()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn missing_pods_are_created_and_surplus_pods_deleted() {
        let pods = [pod("a", "Running", true, "n"), pod("b", "Running", true, "n")];
        assert_eq!(plan(&set(2), &pods), Action::Nothing);
        assert_eq!(plan(&set(5), &pods), Action::Create(3));
        assert_eq!(names(plan(&set(0), &pods)).len(), 2);
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = [
            pod("ready", "Running", true, "n1"),
            pod("unready", "Running", false, "n2"),
            pod("pending", "Pending", false, "n3"),
            pod("unassigned", "Pending", false, ""),
        ];
        assert_eq!(names(plan(&set(0), &pods)), ["unassigned", "pending", "unready", "ready"]);
    }

    #[test]
    fn pods_on_a_crowded_node_go_first() {
        let pods = [pod("alone", "Running", true, "n1"), pod("one", "Running", true, "n2"), pod("two", "Running", true, "n2")];
        assert_ne!(names(plan(&set(2), &pods)), ["alone"]);
    }

    #[test]
    fn status_counts_ready_and_available_pods_and_says_when_to_look_again() {
        let mut set = set(2);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        let pods = [pod("a", "Running", true, "n"), pod("b", "Running", false, "n")];
        let now: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
        let (status, soon) = status(&set, &pods, None, now);
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (2, Some(1), None));
        assert_eq!(soon, Some(Duration::from_secs(20)));
    }
}
