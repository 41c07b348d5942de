//! What the controller counts (`job_controller_*`).

use super::plan::{Plan, condition};
use super::{indexes, policy};
use crate::pods;
use ferrokube_client::Named;
use ferrokube_client::metrics::{Desc, Metrics};
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use std::time::Duration;

static DURATION: Desc = Desc::histogram(
    "job_controller_job_sync_duration_seconds",
    "[STABLE] The time it took to sync a job",
    &[0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768, 65.536],
    &["completion_mode", "result", "action"],
);
static SYNCS: Desc =
    Desc::counter("job_controller_job_syncs_total", "[STABLE] The number of job syncs", &["completion_mode", "result", "action"]);
static FINISHED: Desc =
    Desc::counter("job_controller_jobs_finished_total", "[STABLE] The number of finished jobs", &["completion_mode", "result", "reason"]);
static PODS_FINISHED: Desc = Desc::counter(
    "job_controller_job_pods_finished_total",
    "[STABLE] The number of finished Pods that are fully tracked",
    &["completion_mode", "result"],
);
static EXTERNAL: Desc = Desc::counter(
    "job_controller_jobs_by_external_controller_total",
    "[ALPHA] The number of Jobs managed by an external controller",
    &["controller_name"],
);

static INDEXES_FINISHED: Desc = Desc::counter(
    "job_controller_job_finished_indexes_total",
    "[ALPHA] `The number of finished indexes. Possible values for the, status label are: \"succeeded\", \"failed\". Possible values for the, backoffLimit label are: \"perIndex\" and \"global\"`.",
    &["status", "backoffLimit"],
);
static PODS_CREATED: Desc = Desc::counter(
    "job_controller_job_pods_creation_total",
    "[ALPHA] The number of Pods created by the Job controller labelled with a reason for the Pod creation. This metric also distinguishes between Pods created using different PodReplacementPolicy settings. Possible values of the \"reason\" label are: \"new\", \"recreate_terminating_or_failed\", \"recreate_failed\". Possible values of the \"status\" label are: \"succeeded\", \"failed\".",
    &["reason", "status"],
);
static TRACKED: Desc = Desc::counter(
    "job_controller_terminated_pods_tracking_finalizer_total",
    "[BETA] `The number of terminated pods (phase=Failed|Succeeded) that have the finalizer batch.kubernetes.io/job-tracking. The event label can be \"add\" or \"delete\".`",
    &["event"],
);

/// Pods were made for a job of which some have failed, or not; and some could not be made.
pub fn created(metrics: &Metrics, job: &Job, made: usize, missing: usize) {
    let (spec, status) = (job.spec.as_ref(), job.status.as_ref());
    let failed = status.and_then(|s| s.failed).unwrap_or(0) > 0;
    let ending = status.and_then(|s| s.terminating).unwrap_or(0) > 0;
    let waits = spec.and_then(|s| s.pod_replacement_policy.as_deref()) == Some("Failed");
    let reason = match (failed, ending, waits) {
        (true, _, true) => "recreate_failed",
        (true, ..) | (_, true, false) => "recreate_terminating_or_failed",
        _ => "new",
    };
    for (count, word) in [(made, "succeeded"), (missing, "failed")] {
        #[allow(clippy::cast_precision_loss, reason = "a number of pods")]
        metrics.series(&PODS_CREATED, &[reason, word]).add(count as f64);
    }
}

/// A pod that is over has its finalizer, or has lost it.
pub fn tracked(metrics: &Metrics, was: bool, is: bool) {
    if was != is {
        metrics.count(&TRACKED, &[if is { "add" } else { "delete" }]);
    }
}

fn mode(job: &Job) -> &str {
    job.spec.as_ref().and_then(|s| s.completion_mode.as_deref()).unwrap_or("NonIndexed")
}

/// What a round mainly did.
pub fn action(plan: &Plan) -> &'static str {
    if !plan.create.is_empty() {
        "pods_created"
    } else if !plan.delete.is_empty() {
        "pods_deleted"
    } else if !plan.release.is_empty() {
        "tracking"
    } else {
        "reconciling"
    }
}

/// A round is over.
pub fn synced(metrics: &Metrics, job: &Job, action: &str, ok: bool, took: Duration) {
    let labels = [mode(job), if ok { "success" } else { "error" }, action];
    metrics.count(&SYNCS, &labels);
    metrics.series(&DURATION, &labels).observe(took.as_secs_f64());
}

/// A new status was written.
pub fn written(metrics: &Metrics, job: &Job, status: &JobStatus) {
    let before = job.status.clone().unwrap_or_default();
    for (result, old, new) in [("succeeded", before.succeeded, status.succeeded), ("failed", before.failed, status.failed)] {
        let more = new.unwrap_or(0) - old.unwrap_or(0);
        if more > 0 {
            metrics.series(&PODS_FINISHED, &[mode(job), result]).add(f64::from(more));
        }
    }
    let limit = if job.spec.as_ref().is_some_and(|s| s.backoff_limit_per_index.is_some()) { "perIndex" } else { "global" };
    let count = |text: &Option<String>| indexes::parse(text.as_deref().unwrap_or_default(), i32::MAX).len();
    for (result, old, new) in
        [("succeeded", &before.completed_indexes, &status.completed_indexes), ("failed", &before.failed_indexes, &status.failed_indexes)]
    {
        if old != new {
            #[allow(clippy::cast_precision_loss, reason = "a number of indexes")]
            metrics.series(&INDEXES_FINISHED, &[result, limit]).add(count(new).saturating_sub(count(old)) as f64);
        }
    }
    for (kind, result) in [("Complete", "succeeded"), ("Failed", "failed")] {
        if let (Some(end), None) = (condition(Some(status), kind), condition(Some(&before), kind)) {
            metrics.count(&FINISHED, &[mode(job), result, end.reason.as_deref().unwrap_or_default()]);
        }
    }
}

static BY_POLICY: Desc = Desc::counter(
    "job_controller_pod_failures_handled_by_failure_policy_total",
    "[BETA] `The number of failed Pods handled by failure policy with respect to the failure policy action applied based on the matched rule. Possible values of the action label correspond to the possible values for the failure policy rule action, which are: \"FailJob\", \"Ignore\" and \"Count\".`",
    &["action"],
);

/// Of these pods, which are over, those that a status has not counted before were judged by the failure policy.
pub fn judged(metrics: &Metrics, job: &Job, pods: &[Pod]) {
    if job.spec.as_ref().is_none_or(|s| s.pod_failure_policy.is_none()) {
        return;
    }
    let known = job.status.as_ref().and_then(|s| s.uncounted_terminated_pods.as_ref()).and_then(|u| u.failed.as_ref());
    let fresh = |p: &&Pod| known.is_none_or(|all| !all.iter().any(|uid| uid == p.uid()));
    let failed = pods.iter().filter(|p| pods::phase(p) == "Failed").filter(fresh);
    failed.filter_map(|p| policy::action(job, p)).for_each(|action| metrics.count(&BY_POLICY, &[action]));
}

/// A job that somebody else runs was made.
pub fn external(metrics: &Metrics, manager: &str) {
    metrics.count(&EXTERNAL, &[manager]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn failures_that_a_rule_matches_are_counted_once_by_its_action() {
        let rule = |code: i32, action: &str| json!({"action": action, "onExitCodes": {"operator": "In", "values": [code]}});
        let job: Job = serde_json::from_value(json!({"metadata": {"name": "j"}, "spec": {"template": {},
            "podFailurePolicy": {"rules": [rule(1, "Ignore"), rule(2, "Count")]}},
            "status": {"uncountedTerminatedPods": {"failed": ["known"]}}}))
        .unwrap();
        let pod = |uid: &str, code: i32| -> Pod {
            let state = json!({"terminated": {"exitCode": code}});
            serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "status": {"phase": "Failed",
                "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}}))
            .unwrap()
        };
        let (metrics, mut out) = (Metrics::default(), String::new());
        judged(&metrics, &job, &[pod("a", 1), pod("b", 2), pod("known", 2), pod("c", 3)]);
        metrics.write(&mut out);
        for action in ["Ignore", "Count"] {
            let line = format!("job_controller_pod_failures_handled_by_failure_policy_total{{action=\"{action}\"}} 1\n");
            assert!(out.contains(&line), "{out}");
        }
    }
}
