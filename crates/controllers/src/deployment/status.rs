//! The status of a deployment and its conditions: pure.
//!
//! Source: `pkg/controller/deployment/progress.go`, `sync.go`.

use super::rollout::{max_unavailable, replicas, wanted};
use ferrokube_client::Named;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

/// Zero is left out, as the Go types do.
fn some(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

fn sum(sets: &[ReplicaSet], field: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>) -> i32 {
    sets.iter().filter_map(|s| s.status.as_ref()).filter_map(field).sum()
}

/// Every wanted pod is of the new template and available, and no other pod is left.
pub fn is_complete(deployment: &Deployment, new: Option<&ReplicaSet>, sets: &[ReplicaSet]) -> bool {
    let Some(new) = new else { return false };
    let status = |s: &ReplicaSet| s.status.clone().unwrap_or_default();
    let want = wanted(deployment);
    let current = status(sets.iter().find(|s| s.uid() == new.uid()).unwrap_or(new));
    current.replicas == want
        && sum(sets, |s| Some(s.replicas)) == want
        && current.available_replicas.unwrap_or(0) == want
        && new.metadata.generation.unwrap_or(0) <= current.observed_generation.unwrap_or(0)
}

/// The status, and when to look again for the progress deadline.
pub fn status(
    deployment: &Deployment,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let old = deployment.status.clone().unwrap_or_default();
    let total = sum(sets, |s| Some(s.replicas));
    let available = sum(sets, |s| s.available_replicas);
    let updated = new.and_then(|n| n.status.as_ref()).map_or(0, |s| s.replicas);
    let unavailable = (sets.iter().map(replicas).sum::<i32>() - available).max(0);
    let mut fresh = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(total),
        updated_replicas: some(updated),
        ready_replicas: some(sum(sets, |s| s.ready_replicas)),
        available_replicas: some(available),
        unavailable_replicas: some(unavailable),
        terminating_replicas: Some(sum(sets, |s| s.terminating_replicas)),
        collision_count: old.collision_count,
        conditions: old.conditions.clone(),
    };
    let mut list = old.conditions.clone().unwrap_or_default();
    let minimum = wanted(deployment) - max_unavailable(deployment);
    let verdict = if available >= minimum {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut list, "Available", verdict.0, verdict.1, verdict.2, now);
    let look_again = progress(deployment, &old, &fresh, sets, new, &mut list, now);
    failure(sets, &mut list, now);
    fresh.conditions = Some(list);
    (fresh, look_again)
}

/// Reason of what prevents the new replica set.
pub const NOT_CREATED: &str = "ReplicaSetCreateError";

/// The status when the new replica set could not be made.
pub fn not_created(deployment: &Deployment, message: &str, now: Timestamp) -> Option<DeploymentStatus> {
    let mut status = deployment.status.clone().unwrap_or_default();
    let deadline = deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds).filter(|s| *s < i32::MAX);
    if deadline.is_some() {
        set(status.conditions.get_or_insert_default(), "Progressing", "False", NOT_CREATED, message, now);
    }
    Some(status)
}

fn set(list: &mut Vec<DeploymentCondition>, kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) {
    let known = list.iter().find(|c| c.type_ == kind).cloned();
    let same = known.as_ref().is_some_and(|k| k.status == status && k.reason.as_deref() == Some(reason));
    if same && kind != "Progressing" {
        return;
    }
    if same && known.as_ref().and_then(|k| k.message.as_deref()) == Some(message) && reason != "ReplicaSetUpdated" {
        return;
    }
    let since = known.filter(|k| k.status == status).and_then(|k| k.last_transition_time);
    let fresh = DeploymentCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(Time(now)),
        last_transition_time: since.or(Some(Time(now))),
    };
    list.retain(|c| c.type_ != kind);
    list.push(fresh);
}

fn progress(
    deployment: &Deployment,
    old: &DeploymentStatus,
    fresh: &DeploymentStatus,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    list: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) -> Option<Duration> {
    let spec = deployment.spec.clone().unwrap_or_default();
    let deadline = spec.progress_deadline_seconds.filter(|s| *s < i32::MAX)?;
    if spec.paused == Some(true) {
        set(list, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        return None;
    }
    let known = list.iter().find(|c| c.type_ == "Progressing").cloned();
    let was_paused = known.as_ref().and_then(|k| k.reason.as_deref()) == Some("DeploymentPaused");
    let about = new.map_or_else(|| format!("Deployment {:?}", deployment.name()), |n| format!("ReplicaSet {:?}", n.name()));
    if is_complete(deployment, new, sets) {
        set(list, "Progressing", "True", "NewReplicaSetAvailable", &format!("{about} has successfully progressed."), now);
        return None;
    }
    let done_before = known.as_ref().and_then(|k| k.reason.as_deref()) == Some("NewReplicaSetAvailable");
    let same_set = known.as_ref().and_then(|k| k.message.as_deref()).is_some_and(|m| m.starts_with(&about));
    if known.is_none() || was_paused || (done_before && !same_set) {
        let (reason, verb) = if new.is_some_and(|n| n.status.as_ref().is_none_or(|s| s.replicas == 0)) {
            ("NewReplicaSetCreated", format!("Created new replica set {:?}", new.map(Named::name).unwrap_or_default()))
        } else {
            ("ReplicaSetUpdated", format!("{about} is progressing."))
        };
        if was_paused {
            set(list, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
        } else {
            set(list, "Progressing", "True", reason, &verb, now);
        }
        return Some(seconds(deadline));
    }
    if advanced(old, fresh) {
        set(list, "Progressing", "True", "ReplicaSetUpdated", &format!("{about} is progressing."), now);
        return Some(seconds(deadline));
    }
    // A finished rollout whose pods come and go is not a rollout that makes no progress.
    if done_before {
        return None;
    }
    let since = known.and_then(|k| k.last_update_time).map_or(now, |t| t.0);
    let left = since.as_second() + i64::from(deadline) - now.as_second();
    if left > 0 {
        return Some(Duration::from_secs(u64::try_from(left).unwrap_or(0) + 1));
    }
    set(list, "Progressing", "False", "ProgressDeadlineExceeded", &format!("{about} has timed out progressing."), now);
    None
}

fn seconds(n: i32) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0) + 1)
}

/// More pods of the new template, fewer of the old, more available.
fn advanced(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |v: Option<i32>| v.unwrap_or(0);
    let old_pods = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || old_pods(new) < old_pods(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn failure(sets: &[ReplicaSet], list: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let failures = sets.iter().filter_map(|s| s.status.as_ref()).flat_map(|s| s.conditions.iter().flatten());
    match failures.into_iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True") {
        Some(c) => {
            let (reason, message) = (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default());
            set(list, "ReplicaFailure", "True", &reason, &message, now);
        }
        None => list.retain(|c| c.type_ != "ReplicaFailure"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "generation": 2},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 600, "selector": {}, "template": {}},
        }))
        .unwrap()
    }

    fn set(available: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "uid": "1", "generation": 1}, "spec": {"replicas": 2, "selector": {}},
            "status": {"replicas": 2, "readyReplicas": available, "availableReplicas": available, "observedGeneration": 1},
        }))
        .unwrap()
    }

    fn reason(status: &DeploymentStatus, kind: &str) -> String {
        status.conditions.iter().flatten().find(|c| c.type_ == kind).and_then(|c| c.reason.clone()).unwrap_or_default()
    }

    #[test]
    fn what_no_set_is_to_have_is_not_unavailable() {
        let now = Timestamp::now();
        let unavailable = |sets: &[ReplicaSet]| status(&deployment(), sets, None, now).0.unavailable_replicas;
        assert_eq!(unavailable(&[set(1)]), Some(1));
        // Recreate waits for the old pods to end: there is no new set yet.
        let mut leaving = set(0);
        leaving.spec.as_mut().unwrap().replicas = Some(0);
        assert_eq!((unavailable(&[leaving]), unavailable(&[])), (None, None));
    }

    #[test]
    fn a_rollout_progresses_completes_or_runs_into_its_deadline() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut d = deployment();
        let (first, again) = status(&d, &[set(0)], Some(&set(0)), start);
        assert_eq!(reason(&first, "Available"), "MinimumReplicasUnavailable");
        assert_eq!(reason(&first, "Progressing"), "ReplicaSetUpdated");
        assert!(again.is_some());
        d.status = Some(first);
        let late: Timestamp = "2026-01-01T00:11:00Z".parse().unwrap();
        let (timed_out, _) = status(&d, &[set(0)], Some(&set(0)), late);
        assert_eq!(reason(&timed_out, "Progressing"), "ProgressDeadlineExceeded");
        let (done, again) = status(&d, &[set(2)], Some(&set(2)), late);
        assert_eq!(reason(&done, "Progressing"), "NewReplicaSetAvailable");
        assert_eq!(reason(&done, "Available"), "MinimumReplicasAvailable");
        assert_eq!(again, None);
    }

    #[test]
    fn pausing_and_resuming_is_told_until_something_moves() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut d = deployment();
        d.spec.as_mut().unwrap().paused = Some(true);
        let told = |s: &DeploymentStatus| {
            let c = s.conditions.iter().flatten().find(|c| c.type_ == "Progressing").unwrap().clone();
            (c.status, c.reason.unwrap())
        };
        let (paused, again) = status(&d, &[set(0)], Some(&set(0)), now);
        assert_eq!((told(&paused), again), (("Unknown".into(), "DeploymentPaused".into()), None));
        d.status = Some(paused);
        d.spec.as_mut().unwrap().paused = Some(false);
        let (resumed, again) = status(&d, &[set(0)], Some(&set(0)), now);
        assert_eq!(told(&resumed), ("Unknown".into(), "DeploymentResumed".into()));
        assert!(again.is_some());
        d.status = Some(resumed);
        let (moves, _) = status(&d, &[set(1)], Some(&set(1)), now);
        assert_eq!(told(&moves), ("True".into(), "ReplicaSetUpdated".into()));
    }

    #[test]
    fn a_replica_set_that_cannot_be_made_is_told() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let told = not_created(&deployment(), "Failed to create new replica set \"web-1\": no", now).unwrap();
        let progressing = told.conditions.unwrap().remove(0);
        assert_eq!((progressing.status.as_str(), progressing.reason.as_deref()), ("False", Some(NOT_CREATED)));
    }
}
