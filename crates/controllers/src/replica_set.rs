//! ReplicaSets: as many pods of a template as `spec.replicas` says.
//!
//! Reads replica sets and pods; writes pods and the status of replica sets. Source: `pkg/controller/replicaset`.

use crate::Context;
use crate::counted::{Counted, Phase};
use crate::pods::{self, Pods, View};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::metrics::Desc;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Index, Named, ObjectKey, Resource};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, Time};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Most pods created or deleted in one round (`BurstReplicas`).
const BURST: usize = 500;

static SKIPS: Desc = Desc::counter(
    "replicaset_controller_stale_sync_skips_total",
    "[ALPHA] Total number of ReplicaSet syncs skipped due to a stale watch cache.",
    &["group", "resource"],
);

/// What a kind that keeps a number of pods says: replica sets, and replication controllers.
pub(crate) trait Replicated: Resource {
    /// What is wanted.
    fn wanted(&self) -> Wanted;
    /// The status, in the terms of replica sets.
    fn status(&self) -> ReplicaSetStatus;
    /// The object with another status.
    fn with_status(&self, status: ReplicaSetStatus) -> Self;
}

/// What is wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// How many.
    pub replicas: usize,
    /// Seconds of readiness after which a pod counts as available.
    pub min_ready_seconds: i32,
    /// Which pods.
    pub selector: LabelSelector,
    /// How they are made.
    pub template: PodTemplateSpec,
}

impl Replicated for ReplicaSet {
    fn wanted(&self) -> Wanted {
        let spec = self.spec.clone().unwrap_or_default();
        Wanted {
            replicas: usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector: spec.selector,
            template: spec.template.unwrap_or_default(),
        }
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn with_status(&self, status: ReplicaSetStatus) -> Self {
        ReplicaSet { status: Some(status), ..self.clone() }
    }
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    run_for::<ReplicaSet>(context, "replicaset").await;
}

/// Runs the controller of a kind.
pub(crate) async fn run_for<R: Replicated>(context: Context, name: &'static str) {
    let sets: Cache<R> = context.caches.of();
    let queue: Queue<ObjectKey> = context.queue(name);
    let add = queue.clone();
    sets.on_change(move |d| add.add(d.key().clone()));
    // Sets of one deployment count each other's pods when they choose which of their own go.
    let siblings = sets.index(|o| o.controller().map(|r| r.uid).into_iter().collect());
    let pods: Pods<Counted> = Pods::new(context.caches.of(), &sets, |set: R| Some(set.wanted().selector), &queue);
    let pods = pods.consistent(&context.metrics, &SKIPS, &sets);
    tokio::join!(sets.synced(), pods.cache.synced());
    let reconcile = |key: ObjectKey| {
        let (context, sets, pods, siblings) = (&context, &sets, &pods, &siblings);
        async move {
            match sets.read(&key.namespace, &key.name)? {
                Some(set) => reconcile(context, pods, siblings, set).await,
                None => Ok(Next::Wait),
            }
        }
    };
    controller::run::<_, Error, _, _>(name, queue, 5, reconcile).await;
}

async fn reconcile<R: Replicated>(context: &Context, pods: &Pods<Counted>, siblings: &Index, set: R) -> Result<Next, Error> {
    if let Some(again) = pods.is_behind(set.uid()) {
        return Ok(Next::After(again));
    }
    let wanted = set.wanted();
    let unsettled = pods.unsettled(set.uid());
    let own = pods.claim(&context.client, &set, &wanted.selector).await?;
    let mut failure = None;
    if unsettled.is_none() && set.meta().deletion_timestamp.is_none() {
        let active: Vec<Counted> = own.iter().filter(|p| p.is_active()).cloned().collect();
        let action = plan(wanted.replicas, &active, || related(pods, siblings, &set, &active));
        // Nothing can be made where everything ends, and nobody is to blame.
        failure = apply(context, pods, &set, &wanted.template, action).await.filter(|e| !e.is_namespace_terminating());
    }
    let (status, soon) = status(&set, &wanted, &own, failure.as_ref(), Timestamp::now());
    let changed = set.with_status(status);
    if changed.status() != set.status() {
        let written = context.client.update_status(&changed).await?;
        pods.wrote(set.uid(), &written);
    }
    match failure {
        Some(e) => Err(e),
        None => Ok([soon, unsettled, pods.awaited(set.uid())].into_iter().flatten().min().map_or(Next::Wait, Next::After)),
    }
}

/// How many active pods of this set and of the other sets of its owner each node has.
fn related<R: Replicated>(pods: &Pods<Counted>, siblings: &Index, set: &R, active: &[Counted]) -> PerNode {
    let owner = set.meta().owner_references.iter().flatten().find(|r| r.controller == Some(true));
    let others = owner.map(|o| siblings.get(&o.uid)).unwrap_or_default();
    let others = others.iter().filter(|o| *o.uid != *set.uid()).flat_map(|o| pods.of(&o.uid).unwrap_or_default());
    let mut count = PerNode::new();
    for pod in active.iter().cloned().chain(others.filter(Counted::is_active)) {
        *count.entry(pod.node.clone()).or_default() += 1;
    }
    count
}

/// Active pods by node.
type PerNode = HashMap<Box<str>, i64>;

/// What to do about the number of pods.
#[derive(Debug)]
enum Action {
    Nothing,
    Create(usize),
    Delete(Vec<Counted>),
}

fn plan(wanted: usize, active: &[Counted], per_node: impl FnOnce() -> PerNode) -> Action {
    if active.len() < wanted {
        return Action::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Action::Nothing;
    }
    // When all go, the order is of no interest.
    let victims = if surplus == active.len() { active.to_vec() } else { ranked(active, &per_node(), Timestamp::now()) };
    Action::Delete(victims.into_iter().take(surplus).collect())
}

async fn apply<R: Replicated>(
    context: &Context,
    pods: &Pods<Counted>,
    set: &R,
    template: &PodTemplateSpec,
    action: Action,
) -> Option<Error> {
    let (client, recorder) = (&context.client, &context.recorder);
    match action {
        Action::Nothing => None,
        Action::Create(count) => {
            let create = |_| async move { pods.create(client, recorder, set, template, |_| {}).await.map(drop) };
            pods::slow_start(count, create).await.1
        }
        Action::Delete(victims) => {
            let deletes = victims.iter().map(|pod| pods.delete(client, recorder, set, pod));
            futures_util::future::join_all(deletes).await.into_iter().find_map(Result::err)
        }
    }
}

/// Pods in the order in which they go (`ActivePodsWithRanks`): unassigned, pending, unready, cheap, crowded ones first, then
/// those that became ready or were made later. Ages count by orders of magnitude, and within one the UID decides: that
/// spreads the choice over failure domains (`LogarithmicScaleDown`). It must be a total order, which upstream's is not (there
/// the UID decides between pods of different ages only): a sort that finds a contradiction panics.
fn ranked(pods: &[Counted], per_node: &PerNode, now: Timestamp) -> Vec<Counted> {
    let mut list = pods.to_vec();
    list.sort_by_cached_key(|p| rank(p, per_node, now));
    list
}

fn rank(p: &Counted, per_node: &PerNode, now: Timestamp) -> impl Ord + use<> {
    let phase = match p.phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        Phase::Running | Phase::Over => 2,
    };
    let first = (!p.node.is_empty(), phase, p.ready, p.cost, Reverse(per_node.get(&p.node).copied().unwrap_or(0)));
    let ready_since = p.since.filter(|_| p.ready);
    let uid = p.identity().2.to_owned();
    (first, ready_since.map(|t| magnitude(t, now)), Reverse(p.restarts), p.born.map(|t| magnitude(t, now)), uid)
}

/// The order of magnitude of an age; less than none for one that is not over yet.
fn magnitude(since: Timestamp, now: Timestamp) -> i64 {
    let age = u64::try_from(now.as_nanosecond() - since.as_nanosecond()).ok().and_then(u64::checked_ilog2);
    age.map_or(-1, i64::from)
}

/// The status, and when it will change by itself (pods that become available).
fn status<R: Replicated>(
    set: &R,
    wanted: &Wanted,
    own: &[Counted],
    failure: Option<&Error>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let min_ready = wanted.min_ready_seconds;
    let template_labels = wanted.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
    let labelled = |p: &&&Counted| template_labels.into_iter().flatten().all(|(k, v)| p.object().label(k) == Some(v));
    let active: Vec<&Counted> = own.iter().filter(|p| p.is_active()).collect();
    let waits: Vec<Result<(), Option<Duration>>> = active.iter().map(|p| p.availability(min_ready, now)).collect();
    let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let terminating = own.iter().filter(|p| p.deleting && p.phase != Phase::Over).count();
    let status = ReplicaSetStatus {
        replicas: count(active.len()),
        fully_labeled_replicas: some(count(active.iter().filter(labelled).count())),
        ready_replicas: some(count(active.iter().filter(|p| p.ready).count())),
        available_replicas: some(count(waits.iter().filter(|w| w.is_ok()).count())),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.meta().generation,
        conditions: conditions(set.status().conditions, failure, active.len() < wanted.replicas, now),
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
        // The first failure stays until there is none: each try has a pod of another name in its message.
        Some(_) if list.iter().any(|c| c.type_ == FAILURE) => {}
        Some(e) => list.push(ReplicaSetCondition {
            type_: FAILURE.into(),
            status: "True".into(),
            reason: Some(if creating { "FailedCreate" } else { "FailedDelete" }.into()),
            message: Some(e.to_string()),
            last_transition_time: Some(Time(now)),
        }),
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
    use crate::counted::Facts;
    use serde_json::json;
    use std::sync::Arc;

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "generation": 3},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}}}},
        }))
        .unwrap()
    }

    fn pod(name: &str, phase: &str, ready: bool, node: &str) -> Counted {
        let json = json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:10Z"}]},
        });
        let object = Arc::new(ferrokube_client::Object::from_json(json.to_string().into()).unwrap());
        Counted::see(&Counted::keep(&object)).unwrap()
    }

    fn planned(replicas: usize, active: &[Counted]) -> Action {
        let count = || {
            let mut count = PerNode::new();
            active.iter().for_each(|p| *count.entry(p.node.clone()).or_default() += 1);
            count
        };
        plan(replicas, active, count)
    }

    fn sorted(pods: &[Counted], per_node: &PerNode, now: Timestamp) -> Vec<String> {
        ranked(pods, per_node, now).iter().map(|p| p.identity().1.to_owned()).collect()
    }

    fn names(action: Action) -> Vec<String> {
        match action {
            Action::Delete(pods) => pods.iter().map(|p| p.identity().1.to_owned()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn missing_pods_are_created_and_surplus_pods_deleted() {
        let pods = [pod("a", "Running", true, "n"), pod("b", "Running", true, "n")];
        assert!(matches!(planned(2, &pods), Action::Nothing));
        assert!(matches!(planned(5, &pods), Action::Create(3)));
        assert_eq!(names(planned(0, &pods)).len(), 2);
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = [
            pod("ready", "Running", true, "n1"),
            pod("unready", "Running", false, "n2"),
            pod("pending", "Pending", false, "n3"),
            pod("unassigned", "Pending", false, ""),
        ];
        assert_eq!(sorted(&pods, &PerNode::new(), Timestamp::now()), ["unassigned", "pending", "unready", "ready"]);
        assert_eq!(names(planned(1, &pods)), ["unassigned", "pending", "unready"]);
    }

    #[test]
    fn pods_on_a_crowded_node_go_first() {
        let pods = [pod("alone", "Running", true, "n1"), pod("one", "Running", true, "n2"), pod("two", "Running", true, "n2")];
        assert_ne!(names(planned(2, &pods)), ["alone"]);
        let siblings = PerNode::from([("n1".into(), 9), ("n2".into(), 2)]);
        assert_eq!(sorted(&pods, &siblings, Timestamp::now())[0], "alone", "pods of the deployment's other sets count too");
    }

    /// Since so many seconds ready, and with this many restarts.
    fn aged(name: &str, now: Timestamp, seconds: i64, restarts: i32) -> Counted {
        let pod = pod(name, "Running", true, "n");
        let since = Some(now - jiff::SignedDuration::from_secs(seconds));
        let object = ferrokube_client::Object::from_json(pod.object().json()).unwrap();
        Counted::new(Arc::new(object), Facts { since, restarts, ..Facts::clone(&pod) })
    }

    #[test]
    fn ages_count_by_orders_of_magnitude() {
        let now = Timestamp::now();
        let order = |pods: &[Counted]| sorted(pods, &PerNode::new(), now);
        assert_eq!(order(&[aged("a", now, 3600, 0), aged("b", now, 10, 0)]), ["b", "a"], "the younger goes first whatever its UID");
        assert_eq!(order(&[aged("b", now, 3600, 0), aged("a", now, 3700, 0)]), ["a", "b"], "of two that are about as old the UID decides");
        assert_eq!(order(&[aged("a", now, 3600, 0), aged("b", now, 3700, 5)]), ["b", "a"], "the one that has started anew more often goes");
    }

    #[test]
    fn a_great_many_pods_of_mixed_ages_are_ranked() {
        let now = Timestamp::now();
        // Many of an age and many of about an age, with restarts that contradict the UIDs.
        let pods: Vec<Counted> =
            (0..2000).map(|n: i32| aged(&format!("p{}", n * 7919 % 2000), now, i64::from(n % 97), n * 31 % 5)).collect();
        let once = sorted(&pods, &PerNode::new(), now);
        let mut turned = pods;
        turned.reverse();
        let again = sorted(&turned, &PerNode::new(), now);
        assert!(once == again, "the order does not depend on how they came");
    }

    #[test]
    fn status_counts_ready_and_available_pods_and_says_when_to_look_again() {
        let mut set = set(2);
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        let pods = [pod("a", "Running", true, "n"), pod("b", "Running", false, "n")];
        let now: Timestamp = "2026-01-01T00:00:20Z".parse().unwrap();
        let (status, soon) = status(&set, &set.wanted(), &pods, None, now);
        assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (2, Some(1), None));
        assert_eq!(soon, Some(Duration::from_secs(20)));
    }
}
