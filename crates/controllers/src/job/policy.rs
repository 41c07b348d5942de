//! What a failed pod means (`podFailurePolicy`) and what is enough (`successPolicy`): pure.
//!
//! Source: `pkg/controller/job/pod_failure_policy.go`, `success_policy.go`.

use super::indexes;
use crate::pods::condition;
use ferrokube_client::Named;
use k8s_openapi::api::batch::v1::{Job, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeSet;

/// What a failure counts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Towards the backoff limit.
    Count,
    /// For nothing.
    Ignore,
    /// Its index has failed.
    FailIndex,
    /// The job has failed, with this message.
    FailJob(String),
}

/// The verdict of the first rule that matches.
pub fn verdict(job: &Job, pod: &Pod) -> Verdict {
    match matched(job, pod) {
        Some(("Ignore", _)) => Verdict::Ignore,
        Some(("FailIndex", _)) => Verdict::FailIndex,
        Some(("FailJob", why)) => Verdict::FailJob(why),
        _ => Verdict::Count,
    }
}

/// The action of the first rule that matches.
pub fn action<'a>(job: &'a Job, pod: &Pod) -> Option<&'a str> {
    matched(job, pod).map(|(action, _)| action)
}

/// The action of the first rule that matches, and why it does.
fn matched<'a>(job: &'a Job, pod: &Pod) -> Option<(&'a str, String)> {
    let policy = job.spec.as_ref()?.pod_failure_policy.as_ref()?;
    policy.rules.iter().enumerate().find_map(|(at, rule)| {
        let why = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => exit(pod, codes).map(|(container, code)| {
                format!(
                    "Container {container} for pod {}/{} failed with exit code {code} matching {} rule at index {at}",
                    pod.namespace(),
                    pod.name(),
                    rule.action
                )
            }),
            (None, Some(conditions)) => conditions
                .iter()
                .find(|c| condition(pod, &c.type_).is_some_and(|have| have.status == c.status.as_deref().unwrap_or("True")))
                .map(|c| {
                    format!("Pod {}/{} has condition {} matching {} rule at index {at}", pod.namespace(), pod.name(), c.type_, rule.action)
                }),
            (None, None) => None,
        };
        Some((rule.action.as_str(), why?))
    })
}

/// The container whose exit code matches.
fn exit(pod: &Pod, rule: &PodFailurePolicyOnExitCodesRequirement) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    all.filter(|c| rule.container_name.as_ref().is_none_or(|n| *n == c.name)).find_map(|c| {
        let code = c.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = rule.values.contains(&code);
        (code != 0 && listed == (rule.operator == "In")).then(|| (c.name.clone(), code))
    })
}

/// Which rule of a success policy is met.
pub fn met(policy: &SuccessPolicy, completed: &BTreeSet<i32>, completions: i32) -> Option<usize> {
    policy.rules.iter().position(|rule| {
        let asked = rule.succeeded_indexes.as_deref().map(|text| indexes::parse(text, completions));
        let matching = |set: &BTreeSet<i32>| set.intersection(completed).count();
        match (asked, rule.succeeded_count) {
            (Some(set), Some(count)) => matching(&set) >= usize::try_from(count).unwrap_or(0),
            (Some(set), None) => matching(&set) == set.len(),
            (None, Some(count)) => completed.len() >= usize::try_from(count).unwrap_or(0),
            (None, None) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(rules: Value) -> Job {
        serde_json::from_value(json!({"metadata": {}, "spec": {"template": {}, "podFailurePolicy": {"rules": rules}}})).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "a"},
            "status": {"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True"}],
                "containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 42}}}]},
        }))
        .unwrap();
        let codes = |action: &str, operator: &str, values: Value| json!({"action": action, "onExitCodes": {"operator": operator, "values": values}});
        let cases = [
            (
                json!([codes("FailJob", "In", json!([42]))]),
                Verdict::FailJob("Container main for pod a/p failed with exit code 42 matching FailJob rule at index 0".into()),
            ),
            (json!([codes("FailJob", "In", json!([1]))]), Verdict::Count),
            (json!([codes("Ignore", "NotIn", json!([1]))]), Verdict::Ignore),
            (json!([codes("Count", "In", json!([42])), codes("FailJob", "In", json!([42]))]), Verdict::Count),
            (json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]), Verdict::Ignore),
        ];
        for (rules, expected) in cases {
            assert_eq!(verdict(&job(rules.clone()), &pod), expected, "{rules}");
        }
    }

    #[test]
    fn a_success_policy_is_met_by_indexes_by_count_or_by_both() {
        let cases = [
            (json!({"succeededIndexes": "0"}), true),
            (json!({"succeededIndexes": "0,1"}), false),
            (json!({"succeededIndexes": "0-4", "succeededCount": 2}), true),
            (json!({"succeededCount": 3}), false),
        ];
        for (rule, expected) in cases {
            let policy: SuccessPolicy = serde_json::from_value(json!({"rules": [rule]})).unwrap();
            assert_eq!(met(&policy, &[0, 3].into(), 5).is_some(), expected, "{rule}");
        }
    }
}
