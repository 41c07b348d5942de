//! The plan of a job as tables.

use super::plan::{Backoff, NewPod, Plan, View, condition, plan};
use super::{FINALIZER, INDEX};
use ferrokube_client::Named;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut spec = spec;
    spec["template"] = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c"}]}});
    serde_json::from_value(json!({"metadata": {"name": "j", "namespace": "a", "uid": "j"}, "spec": spec, "status": status})).unwrap()
}

fn pod(uid: &str, phase: &str, tracked: bool) -> Pod {
    let finalizers = if tracked { json!([FINALIZER]) } else { json!([]) };
    serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "a", "uid": uid, "finalizers": finalizers, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": if phase == "Failed" { json!({"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:59:55Z"}}) } else { json!({}) }}]},
    }))
    .unwrap()
}

fn at_index(mut pod: Pod, index: i32) -> Pod {
    pod.metadata.annotations = Some([(INDEX.to_owned(), index.to_string())].into());
    pod
}

fn planned(job: &Job, pods: &[Pod]) -> Plan {
    plan(&View { job, pods, settled: true, backoff: Backoff::default(), now: now() })
}

fn kinds(plan: &Plan) -> Vec<String> {
    plan.status.conditions.iter().flatten().filter(|c| c.status == "True").map(|c| c.type_.clone()).collect()
}

#[test]
fn as_many_pods_run_as_are_wanted_and_still_missing() {
    let cases = [
        (json!({"parallelism": 2, "completions": 5}), json!({}), vec![], 2, 0),
        (json!({"parallelism": 2, "completions": 5}), json!({"succeeded": 4}), vec![], 1, 0),
        (json!({"parallelism": 3}), json!({}), vec![pod("a", "Running", true)], 2, 0),
        (json!({"parallelism": 1}), json!({}), vec![pod("a", "Running", true), pod("b", "Pending", true)], 0, 1),
        (json!({"parallelism": 3}), json!({"succeeded": 1}), vec![pod("a", "Running", true)], 0, 0),
        (json!({"parallelism": 1}), json!({"succeeded": 1}), vec![pod("a", "Running", true), pod("b", "Running", true)], 0, 0),
        (json!({"parallelism": 2, "suspend": true}), json!({}), vec![pod("a", "Running", true)], 0, 1),
    ];
    for (spec, status, pods, create, delete) in cases {
        let plan = planned(&job(spec.clone(), status), &pods);
        assert_eq!((plan.create.len(), plan.delete.len()), (create, delete), "{spec}");
        assert!(plan.surplus, "what is deleted has not failed");
    }
}

#[test]
fn nothing_is_made_while_the_cache_lags_behind() {
    let job = job(json!({"parallelism": 2, "completions": 2}), json!({}));
    let plan = plan(&View { job: &job, pods: &[], settled: false, backoff: Backoff::default(), now: now() });
    assert!(plan.create.is_empty());
}

#[test]
fn a_finished_pod_is_counted_once_and_then_the_job_ends() {
    let spec = json!({"parallelism": 1, "completions": 1});
    let first = planned(&job(spec.clone(), json!({})), &[pod("a", "Succeeded", true)]);
    assert_eq!(first.status.succeeded, None);
    assert_eq!(first.status.uncounted_terminated_pods.as_ref().unwrap().succeeded.as_deref(), Some(&["a".to_owned()][..]));
    assert_eq!((first.release.len(), first.create.len()), (1, 0));
    assert_eq!(kinds(&first), ["SuccessCriteriaMet"]);
    // Again with the finalizer still there: nothing new.
    let again = planned(&job(spec.clone(), serde_json::to_value(&first.status).unwrap()), &[pod("a", "Succeeded", true)]);
    assert_eq!(again.status, first.status);
    let last = planned(&job(spec, serde_json::to_value(&first.status).unwrap()), &[pod("a", "Succeeded", false)]);
    assert_eq!(last.status.succeeded, Some(1));
    assert_eq!(kinds(&last), ["SuccessCriteriaMet", "Complete"]);
    assert!(last.status.completion_time.is_some());
    assert_eq!(last.events, [(false, "Completed".to_owned(), "Job completed".to_owned())]);
}

#[test]
fn failures_back_off_and_end_the_job_beyond_the_limit() {
    let spec = json!({"parallelism": 1, "completions": 1, "backoffLimit": 1});
    let first = planned(&job(spec.clone(), json!({})), &[pod("a", "Failed", true)]);
    assert_eq!(first.backoff.failures, 1);
    assert!(first.create.is_empty());
    assert_eq!(first.again.unwrap().as_secs(), 5);
    let over = planned(&job(spec.clone(), json!({"failed": 1})), &[pod("b", "Failed", true), pod("c", "Running", true)]);
    assert_eq!(kinds(&over), ["FailureTarget"]);
    assert_eq!(over.delete.len(), 1);
    let ended = planned(&job(spec, serde_json::to_value(&over.status).unwrap()), &[pod("b", "Failed", false)]);
    assert_eq!(kinds(&ended), ["FailureTarget", "Failed"]);
    assert_eq!(ended.status.failed, Some(2));
    assert_eq!(ended.events[0].1, "BackoffLimitExceeded");
}

#[test]
fn a_job_beyond_its_deadline_fails() {
    let job = job(json!({"activeDeadlineSeconds": 60}), json!({"startTime": "2026-01-01T00:00:00Z"}));
    let plan = planned(&job, &[pod("a", "Running", true)]);
    assert_eq!(condition(Some(&plan.status), "FailureTarget").unwrap().reason.as_deref(), Some("DeadlineExceeded"));
    assert_eq!(plan.delete.len(), 1);
}

#[test]
fn every_index_has_one_pod_until_it_is_complete() {
    let spec = json!({"parallelism": 3, "completions": 4, "completionMode": "Indexed"});
    let pods = [at_index(pod("a", "Succeeded", true), 0), at_index(pod("b", "Running", true), 2), at_index(pod("c", "Running", true), 2)];
    let plan = planned(&job(spec.clone(), json!({})), &pods);
    assert_eq!(plan.delete.len(), 1, "two pods of one index");
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("0"));
    assert_eq!(plan.status.succeeded, Some(1));
    let plan = planned(&job(spec, json!({"completedIndexes": "0", "succeeded": 1})), &pods[1..2]);
    assert_eq!(plan.create, [NewPod { index: Some(1), failures: None }, NewPod { index: Some(3), failures: None }]);
}

#[test]
fn an_index_fails_alone_when_failures_are_limited_by_index() {
    let spec = json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimit": 100, "backoffLimitPerIndex": 0});
    let plan = planned(&job(spec, json!({})), &[at_index(pod("a", "Failed", true), 0), at_index(pod("b", "Running", true), 1)]);
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("0"));
    assert!(plan.create.is_empty() && plan.delete.is_empty());
    assert!(kinds(&plan).is_empty());
}

#[test]
fn an_index_that_had_two_pods_has_one_end() {
    let spec = json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimit": 100, "backoffLimitPerIndex": 0});
    let ends = |status: Value, pods: &[Pod]| {
        let plan = planned(&job(spec.clone(), status), pods);
        assert_eq!(plan.release.len(), pods.len(), "all are let go");
        (plan.status.completed_indexes.unwrap_or_default(), plan.status.failed_indexes.unwrap_or_default())
    };
    let (failed, good) = (at_index(pod("a", "Failed", true), 0), at_index(pod("b", "Succeeded", true), 0));
    let end = |completed: &str, failed: &str| (completed.to_owned(), failed.to_owned());
    assert_eq!(ends(json!({"completedIndexes": "0", "succeeded": 1}), std::slice::from_ref(&failed)), end("0", ""));
    assert_eq!(ends(json!({"failedIndexes": "0", "failed": 1}), std::slice::from_ref(&good)), end("", "0"));
    let both = ends(json!({}), &[failed, good]);
    assert!(both == end("0", "") || both == end("", "0"), "the API server takes no index that is in both: {both:?}");
}

#[test]
fn the_last_failure_of_an_index_is_let_go_when_its_job_ends() {
    let spec = json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed", "backoffLimit": 100, "backoffLimitPerIndex": 1,
        "maxFailedIndexes": 0});
    let carrier = at_index(pod("a", "Failed", true), 0);
    let released =
        |pods: &[Pod]| planned(&job(spec.clone(), json!({})), pods).release.iter().map(|p| p.uid().to_owned()).collect::<Vec<_>>();
    assert!(released(std::slice::from_ref(&carrier)).is_empty(), "it carries the number of failures");
    assert_eq!(released(&[carrier.clone(), at_index(pod("b", "Running", true), 0)]), ["a"], "its successor does");
    assert_eq!(released(&[carrier.clone(), at_index(pod("b", "Succeeded", false), 0), at_index(pod("c", "Succeeded", true), 0)]).len(), 2);
    let mut second = at_index(pod("d", "Failed", true), 1);
    second.metadata.annotations.as_mut().unwrap().insert(super::INDEX_FAILURES.into(), "1".into());
    assert_eq!(released(&[carrier, second]).len(), 2, "the job fails, and nothing comes after it");
}

#[test]
fn a_pod_that_never_ran_is_replaced_when_its_time_has_come() {
    let spec = json!({"parallelism": 1, "completions": 1, "completionMode": "Indexed", "backoffLimit": 100, "backoffLimitPerIndex": 3});
    // The kubelet refused it: no container says when it ended.
    let refused = |made: &str| {
        let mut pod = at_index(pod("a", "Failed", true), 0);
        pod.metadata.creation_timestamp = serde_json::from_value(json!(made)).unwrap();
        pod.status.as_mut().unwrap().container_statuses = None;
        pod
    };
    let soon = planned(&job(spec.clone(), json!({})), &[refused("2026-01-01T00:59:55Z")]);
    assert_eq!((soon.create.len(), soon.again), (0, Some(std::time::Duration::from_secs(5))));
    let now = planned(&job(spec, json!({})), &[refused("2026-01-01T00:59:50Z")]);
    assert_eq!(now.create, [NewPod { index: Some(0), failures: Some(1) }]);
}

#[test]
fn suspending_and_resuming_is_told() {
    let suspended = planned(&job(json!({"suspend": true}), json!({})), &[]);
    assert_eq!(kinds(&suspended), ["Suspended"]);
    assert_eq!(suspended.status.start_time, None);
    let running = planned(&job(json!({"suspend": true}), json!({"startTime": "2026-01-01T00:00:00Z"})), &[]);
    assert_eq!(running.status.start_time, None, "from now on its pods may be sent elsewhere");
    let resumed = planned(&job(json!({"suspend": false}), serde_json::to_value(&suspended.status).unwrap()), &[]);
    assert_eq!(resumed.events[0].1, "Resumed");
    assert!(resumed.status.start_time.is_some());
    assert!(kinds(&resumed).is_empty());
}

#[test]
fn replacements_wait_for_the_end_of_pods_when_only_failed_ones_are_replaced() {
    let mut going = pod("a", "Running", true);
    going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:59:00Z")).unwrap();
    let pods = [going];
    let spec = |policy: &str| json!({"parallelism": 1, "completions": 1, "podReplacementPolicy": policy});
    let at_once = planned(&job(spec("TerminatingOrFailed"), json!({})), &pods);
    assert_eq!((at_once.status.terminating, at_once.status.uncounted_terminated_pods.unwrap().failed.is_some()), (Some(1), true));
    let later = planned(&job(spec("Failed"), json!({})), &pods);
    assert_eq!((later.create.len(), later.status.terminating, later.status.uncounted_terminated_pods.unwrap().failed), (0, Some(1), None));
}

#[test]
fn an_elastic_indexed_job_shrinks_from_the_top() {
    let spec = |n: i32| json!({"parallelism": n, "completions": n, "completionMode": "Indexed"});
    let pods: Vec<Pod> = (0..4).map(|n| at_index(pod(&format!("p{n}"), "Running", true), n)).collect();
    let plan = planned(&job(spec(2), json!({"completedIndexes": "3", "succeeded": 1})), &pods);
    let gone: Vec<_> = plan.delete.iter().map(|p| p.metadata.name.clone().unwrap()).collect();
    assert_eq!(gone.len(), 2, "{gone:?}");
    assert!(gone.contains(&"p2".to_owned()) && gone.contains(&"p3".to_owned()));
    assert_eq!((plan.status.succeeded, plan.status.completed_indexes), (None, None), "what is out of range no longer counts");
}

#[test]
fn an_indexed_job_ends_by_its_failed_indexes() {
    let spec = json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "maxFailedIndexes": 0});
    let plan = planned(&job(spec, json!({})), &[at_index(pod("a", "Failed", true), 0), at_index(pod("b", "Running", true), 1)]);
    let reason = |p: &Plan| condition(Some(&p.status), "FailureTarget").unwrap().reason.clone().unwrap();
    assert_eq!((reason(&plan).as_str(), plan.delete.len()), ("MaxFailedIndexesExceeded", 1));
    let spec = json!({"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "backoffLimit": 100});
    let plan = planned(&job(spec, json!({})), &[at_index(pod("a", "Failed", true), 0), at_index(pod("b", "Succeeded", true), 1)]);
    assert_eq!(reason(&plan), "FailedIndexes");
}

#[test]
fn a_success_policy_ends_the_job_while_others_run() {
    let spec =
        json!({"parallelism": 3, "completions": 3, "completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    let plan = planned(&job(spec, json!({})), &[at_index(pod("a", "Succeeded", true), 0), at_index(pod("b", "Running", true), 1)]);
    let met = condition(Some(&plan.status), "SuccessCriteriaMet").unwrap();
    assert_eq!((met.reason.as_deref(), met.message.as_deref()), (Some("SuccessPolicy"), Some("Matched rules at index 0")));
    assert_eq!(plan.delete.len(), 1);
}
