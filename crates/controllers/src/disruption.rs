//! Disruption budgets: how many pods may be evicted now.
//!
//! Reads budgets, pods and what owns them; writes the status of budgets, which the eviction subresource decides by, and takes
//! back the condition `DisruptionTarget` of pods that nobody deleted after all.
//! Source: `pkg/controller/disruption`.

use crate::Context;
use crate::pods::{condition, is_ready, phase, selects};
use crate::selectors::Selectors;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, Object, ObjectKey, Optional, Patch, Target};
use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, LabelSelectorRequirement, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use std::collections::HashMap;
use std::time::Duration;

/// A pod that was to be disrupted and is still there after this time is no longer to be.
const STALE: i64 = 120;
/// An eviction that was allowed counts as a disruption for this long, until the pod is seen going.
const DELETION_TIMEOUT: i64 = 120;

struct Budgets {
    context: Context,
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    sets: Cache<ReplicaSet>,
    deployments: Cache<Deployment>,
    stateful: Cache<StatefulSet>,
    controllers: Cache<ReplicationController>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("disruption");
    let all = Budgets {
        budgets: context.caches.of(),
        pods: context.caches.of(),
        sets: context.caches.of(),
        deployments: context.caches.of(),
        stateful: context.caches.of(),
        controllers: context.caches.of(),
        context,
    };
    let add = queue.clone();
    all.budgets.on_change(move |d| add.add(d.key().clone()));
    let stale: Queue<ObjectKey> = all.context.queue("stale_pod_disruption");
    let selectors = Selectors::of(&all.budgets, |b: PodDisruptionBudget| b.spec?.selector);
    let (add, add_pod) = (queue.clone(), stale.clone());
    all.pods.on_change(move |d| {
        if d.new.is_some_and(|p| may_be_disrupted(p) || selectors.matching(p).len() > 1) {
            add_pod.add(d.key().clone());
        }
        for side in [d.old, d.new].into_iter().flatten() {
            selectors.matching(side).into_iter().for_each(|key| add.add(key));
        }
    });
    // The expected number follows the owners' size.
    let resized = |queue: &Queue<ObjectKey>, known: &Cache<PodDisruptionBudget>| {
        let (add, known) = (queue.clone(), known.clone());
        move |d: ferrokube_client::Delta<'_>| known.objects_in(&d.key().namespace).iter().for_each(|b| add.add(b.key.clone()))
    };
    all.sets.on_change(resized(&queue, &all.budgets));
    all.deployments.on_change(resized(&queue, &all.budgets));
    all.stateful.on_change(resized(&queue, &all.budgets));
    all.controllers.on_change(resized(&queue, &all.budgets));
    tokio::join!(
        all.budgets.synced(),
        all.pods.synced(),
        all.sets.synced(),
        all.deployments.synced(),
        all.stateful.synced(),
        all.controllers.synced()
    );
    let reconcile = |key: ObjectKey| all.reconcile(key);
    let spare = |key: ObjectKey| all.spare(key);
    tokio::join!(
        controller::run::<_, Error, _, _>("disruption", queue, 1, reconcile),
        controller::run::<_, Error, _, _>("stale-pod-disruption", stale, 1, spare),
    );
}

/// A cheap test before decoding.
fn may_be_disrupted(pod: &Object) -> bool {
    pod.mentions(b"DisruptionTarget")
}

/// Seconds until a pod's `DisruptionTarget` is stale; what the kubelet says, and what is said of pods that end, stays.
fn stale_in(pod: &Pod, now: Timestamp) -> Option<i64> {
    let target =
        condition(pod, "DisruptionTarget").filter(|c| c.status == "True" && c.reason.as_deref() != Some("TerminationByKubelet"))?;
    let ends = pod.metadata.deletion_timestamp.is_some() || matches!(phase(pod), "Succeeded" | "Failed");
    let since = target.last_transition_time.as_ref().map_or(0, |t| t.0.as_second());
    (!ends).then(|| (since + STALE - now.as_second()).max(0))
}

impl Budgets {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(budget) = self.budgets.read(&key.namespace, &key.name)? else { return Ok(Next::Wait) };
        let selector = budget.spec.as_ref().and_then(|s| s.selector.clone());
        let candidates = self.pods.objects_in(&key.namespace);
        let pods: Vec<Pod> =
            candidates.iter().filter(|o| selector.as_ref().is_some_and(|s| selects(s, o))).filter_map(|o| decoded::<Pod>(o)).collect();
        if pods.is_empty() {
            self.context.recorder.about(&budget, EventType::Normal, "NoPods", "No matching pods found");
        }
        let scale = if needs_scale(&budget) { self.scale(&pods).await } else { Ok(0) };
        if let (true, true, Some(selector)) = (needs_scale(&budget), pods.iter().any(is_unmanaged), &selector) {
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                shown(selector)
            );
            self.context.recorder.about(&budget, EventType::Warning, "UnmanagedPods", message);
        }
        let now = Timestamp::now();
        for pod in overdue(&budget, &pods, now) {
            let message = format!("Pod was expected by PDB {}/{} to be deleted but it wasn't", budget.namespace(), budget.name());
            self.context.recorder.about(pod, EventType::Warning, "NotDeleted", message);
        }
        let (status, again) = match scale {
            Ok(scale) => plan(&budget, &pods, scale, now),
            Err(message) => {
                self.context.recorder.about(
                    &budget,
                    EventType::Warning,
                    "CalculateExpectedPodCountFailed",
                    format!("Failed to calculate the number of expected pods: {message}"),
                );
                let mut status = budget.status.clone().unwrap_or_default();
                status.disruptions_allowed = Some(0);
                note(&mut status, budget.metadata.generation, "False", "SyncFailed", &message, now);
                (status, None)
            }
        };
        if budget.status.as_ref() != Some(&status) {
            let changed = PodDisruptionBudget { status: Some(status), ..budget };
            self.context.client.update_status(&changed).await.optional()?;
        }
        Ok(again.map_or(Next::Wait, Next::After))
    }

    /// Tells people that a pod has several budgets, and takes its condition back when the time of that is over.
    async fn spare(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.pods.read(&key.namespace, &key.name)? else { return Ok(Next::Wait) };
        self.tell_of_several(&key, &pod);
        let now = Timestamp::now();
        match stale_in(&pod, now).map(u64::try_from) {
            None | Some(Err(_)) => Ok(Next::Wait),
            Some(Ok(left)) if left > 0 => Ok(Next::After(Duration::from_secs(left))),
            Some(Ok(_)) => {
                let at = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let spared = json!({"type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
                        "observedGeneration": pod.metadata.generation, "lastTransitionTime": at});
                let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [spared]}});
                self.context.client.patch_status::<Pod>(&key.namespace, &key.name, &Patch::Strategic(patch)).await.optional()?;
                Ok(Next::Wait)
            }
        }
    }

    fn tell_of_several(&self, key: &ObjectKey, pod: &Pod) {
        let Some(object) = self.pods.object(&key.namespace, &key.name) else { return };
        let budgets = self.budgets.objects_in(&key.namespace);
        let budgets = budgets.iter().filter_map(|o| decoded::<PodDisruptionBudget>(o));
        let selecting = |b: &PodDisruptionBudget| b.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| selects(s, &object));
        let found: Vec<PodDisruptionBudget> = budgets.filter(selecting).take(2).collect();
        if let [first, _] = &found[..] {
            let (namespace, name) = (&key.namespace, &key.name);
            let message =
                format!("Pod {namespace:?}/{name:?} matches multiple PodDisruptionBudgets.  Chose {:?} arbitrarily.", first.name());
            self.context.recorder.about(pod, EventType::Warning, "MultiplePodDisruptionBudgets", message);
        }
    }

    /// Pods that the owners of these pods want, each owner once.
    async fn scale(&self, pods: &[Pod]) -> Result<i32, String> {
        let mut owners: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let controller = pod.metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true));
            // A pod without a controller cannot say how many there should be.
            let Some(owner) = controller else { continue };
            if !owners.contains_key(&owner.uid) {
                let found = self.owner(pod.namespace(), owner).await?;
                let (uid, wanted) = found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.name()))?;
                owners.insert(owner.uid.clone(), if uid == owner.uid || !owners.contains_key(&uid) { wanted } else { 0 });
                if uid != owner.uid {
                    owners.insert(uid, 0);
                }
            }
        }
        Ok(owners.values().sum())
    }

    /// UID and size of what is in charge: the deployment of a replica set.
    async fn owner(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i32)>, String> {
        let same = |uid: &str| uid == owner.uid;
        match owner.kind.as_str() {
            "ReplicaSet" => {
                if let Some(set) = self.sets.get(namespace, &owner.name).filter(|s| same(s.uid())) {
                    let above =
                        set.metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true) && r.kind == "Deployment");
                    if let Some(deployment) = above.and_then(|r| self.deployments.get(namespace, &r.name).filter(|d| d.uid() == r.uid)) {
                        return Ok(Some((deployment.uid().to_owned(), deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))));
                    }
                    return Ok(Some((owner.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))));
                }
            }
            "StatefulSet" => {
                if let Some(set) = self.stateful.get(namespace, &owner.name).filter(|s| same(s.uid())) {
                    return Ok(Some((owner.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))));
                }
            }
            "ReplicationController" => {
                if let Some(set) = self.controllers.get(namespace, &owner.name).filter(|s| same(s.uid())) {
                    return Ok(Some((owner.uid.clone(), set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1))));
                }
            }
            _ => {}
        }
        self.scale_of_any(namespace, owner).await
    }

    /// By the scale subresource, of whatever kind; nothing when it is gone, or another one of its name.
    async fn scale_of_any(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<(String, i32)>, String> {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let (resources, _) = crate::discovery::all(&self.context.client).await.map_err(|e| e.to_string())?;
        let found = resources.iter().find(|r| r.group == group && r.kind == owner.kind);
        let resource = found.ok_or_else(|| format!("no matches for kind {:?} in version {:?}", owner.kind, owner.api_version))?;
        let target =
            Target { version: version.into(), namespace: namespace.into(), name: owner.name.clone(), ..resource.target() }.sub("scale");
        match self.context.client.request(Method::GET, &target, "", None).await {
            Ok(scale) if scale["metadata"]["uid"] != *owner.uid => Ok(None),
            Ok(scale) => Ok(Some((owner.uid.clone(), scale["spec"]["replicas"].as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0)))),
            // Either there is no such object, or its kind has no size.
            Err(e) if e.is_not_found() => {
                let whole = Target { subresource: String::new(), ..target };
                match self.context.client.request(Method::GET, &whole, "", None).await.optional() {
                    Ok(None) => Ok(None),
                    Ok(Some(_)) => Err(format!("{} does not implement the scale subresource", resource.qualified().trim_end_matches('.'))),
                    Err(e) => Err(e.to_string()),
                }
            }
            Err(e) => Err(e.to_string()),
        }
    }
}

/// Pods whose eviction was allowed too long ago, and that are still there.
fn overdue<'a>(budget: &PodDisruptionBudget, pods: &'a [Pod], now: Timestamp) -> Vec<&'a Pod> {
    let disrupted = budget.status.as_ref().and_then(|s| s.disrupted_pods.as_ref());
    let late = |pod: &&Pod| {
        let at = disrupted.and_then(|d| d.get(pod.name()));
        pod.metadata.deletion_timestamp.is_none() && at.is_some_and(|at| at.0.as_second() + DELETION_TIMEOUT < now.as_second())
    };
    pods.iter().filter(late).collect()
}

fn is_unmanaged(pod: &Pod) -> bool {
    !pod.metadata.owner_references.iter().flatten().any(|r| r.controller == Some(true))
}

/// A selector as Go prints it.
fn shown(selector: &LabelSelector) -> String {
    let labels: String = selector.match_labels.iter().flatten().map(|(k, v)| format!("{k}: {v},")).collect();
    let rule = |e: &LabelSelectorRequirement| {
        format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},",
            e.key,
            e.operator,
            e.values.clone().unwrap_or_default().join(" ")
        )
    };
    let rules: String = selector.match_expressions.iter().flatten().map(rule).collect();
    format!("&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{rules}}},}}")
}

fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let spec = budget.spec.as_ref();
    spec.is_some_and(|s| s.max_unavailable.is_some() || matches!(s.min_available, Some(IntOrString::String(_))))
}

/// A number, or a percentage of `of` rounded up.
fn amount(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => (text.trim_end_matches('%').parse::<i32>().unwrap_or(0) * of + 99) / 100,
    }
}

fn plan(budget: &PodDisruptionBudget, pods: &[Pod], scale: i32, now: Timestamp) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let spec = budget.spec.clone().unwrap_or_default();
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scale, (scale - amount(most, scale)).max(0)),
        (None, Some(least @ IntOrString::String(_))) => (scale, amount(least, scale)),
        (None, Some(IntOrString::Int(least))) => (i32::try_from(pods.len()).unwrap_or(i32::MAX), *least),
        (None, None) => (i32::try_from(pods.len()).unwrap_or(i32::MAX), 0),
    };
    let mut status = budget.status.clone().unwrap_or_default();
    let mut disrupted = status.disrupted_pods.take().unwrap_or_default();
    disrupted.retain(|name, at| {
        let waits = pods.iter().any(|p| p.name() == name && p.metadata.deletion_timestamp.is_none());
        waits && at.0.as_second() + DELETION_TIMEOUT > now.as_second()
    });
    let again = disrupted.values().map(|at| at.0.as_second() + DELETION_TIMEOUT - now.as_second()).min();
    let healthy = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none() && is_ready(p) && !disrupted.contains_key(p.name()));
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    status.disrupted_pods = Some(disrupted).filter(|d| !d.is_empty());
    status.current_healthy = Some(healthy);
    status.desired_healthy = Some(desired);
    status.expected_pods = Some(expected);
    status.disruptions_allowed = Some(allowed);
    status.observed_generation = budget.metadata.generation;
    let (value, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    note(&mut status, budget.metadata.generation, value, reason, "", now);
    (status, again.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs))
}

fn note(status: &mut PodDisruptionBudgetStatus, generation: Option<i64>, value: &str, reason: &str, message: &str, now: Timestamp) {
    const KIND: &str = "DisruptionAllowed";
    let list = status.conditions.get_or_insert_default();
    let since = list.iter().find(|c| c.type_ == KIND && c.status == value).map(|c| c.last_transition_time.clone());
    let fresh = Condition {
        type_: KIND.into(),
        status: value.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since.unwrap_or(Time(now)),
    };
    list.retain(|c| c.type_ != KIND);
    list.push(fresh);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn as_many_disruptions_are_allowed_as_leave_enough_healthy_pods() {
        let pod = |name: &str, ready: bool| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}})).unwrap()
        };
        let pods = [pod("a", true), pod("b", true), pod("c", true), pod("d", false)];
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        // spec, disrupted -> expected, desired, healthy, allowed
        let cases: [(Value, Value, (i32, i32, i32, i32)); 7] = [
            (json!({"minAvailable": 2}), json!({}), (4, 2, 3, 1)),
            (json!({"minAvailable": 4}), json!({}), (4, 4, 3, 0)),
            (json!({"minAvailable": "50%"}), json!({}), (4, 2, 3, 1)),
            (json!({"maxUnavailable": 2}), json!({}), (4, 2, 3, 1)),
            (json!({"maxUnavailable": "30%"}), json!({}), (4, 2, 3, 1)),
            (json!({"minAvailable": 1}), json!({"a": "2026-01-01T00:00:00Z"}), (4, 1, 2, 1)),
            (json!({"minAvailable": 1}), json!({"a": "2025-12-31T23:00:00Z"}), (4, 1, 3, 2)),
        ];
        for (spec, disrupted, expected) in cases {
            let budget: PodDisruptionBudget =
                serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": {"disruptedPods": disrupted}})).unwrap();
            let (status, _) = plan(&budget, &pods, 4, now);
            let n = |v: Option<i32>| v.unwrap();
            assert_eq!(
                (n(status.expected_pods), n(status.desired_healthy), n(status.current_healthy), n(status.disruptions_allowed)),
                expected,
                "{spec}"
            );
        }
    }

    #[test]
    fn of_pods_that_were_to_be_evicted_and_stay_people_are_told() {
        let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
        let pod = |name: &str, deleted: Option<&str>| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "deletionTimestamp": deleted}})).unwrap()
        };
        let pods = [pod("stays", None), pod("goes", Some("2026-01-01T00:09:00Z")), pod("new", None), pod("other", None)];
        let at = json!({"stays": "2026-01-01T00:07:59Z", "goes": "2026-01-01T00:07:00Z", "new": "2026-01-01T00:09:00Z"});
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({"metadata": {}, "spec": {}, "status": {"disruptedPods": at}})).unwrap();
        assert_eq!(overdue(&budget, &pods, now).iter().map(|p| p.name()).collect::<Vec<_>>(), ["stays"]);
    }

    #[test]
    fn a_pod_that_nobody_deleted_is_no_longer_to_be_disrupted() {
        let now: Timestamp = "2026-01-01T00:02:00Z".parse().unwrap();
        let pod = |reason: &str, at: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": [
                {"type": "DisruptionTarget", "status": "True", "reason": reason, "lastTransitionTime": at}]}}))
            .unwrap()
        };
        assert_eq!(stale_in(&pod("PreemptionByScheduler", "2026-01-01T00:01:30Z", "Running"), now), Some(90));
        assert_eq!(stale_in(&pod("EvictionByEvictionAPI", "2026-01-01T00:00:00Z", "Running"), now), Some(0));
        assert_eq!(stale_in(&pod("TerminationByKubelet", "2026-01-01T00:00:00Z", "Running"), now), None);
        assert_eq!(stale_in(&pod("PreemptionByScheduler", "2026-01-01T00:00:00Z", "Failed"), now), None);
    }

    #[test]
    fn a_selector_is_shown_as_go_prints_it() {
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap();
        assert_eq!(
            shown(&selector),
            "&LabelSelector{MatchLabels:map[string]string{app: web,},MatchExpressions:[]LabelSelectorRequirement{},}"
        );
    }
}
