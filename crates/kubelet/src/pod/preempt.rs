//! Room for a critical pod: which pods go so that it can come. Pure; the manager sends them away.
//!
//! As few pods as possible go, and of those the ones that matter least: best-effort before burstable before guaranteed ones.
//! Source: `pkg/kubelet/preemption/preemption.go`.

use super::admission::{Short, is_critical};
use crate::make::resources::Qos;
use crate::make::resources::requested;
use crate::static_pods::is_static;
use k8s_openapi::api::core::v1::Pod;
use std::sync::Arc;

/// Reason of the event and of the status of a pod that had to go.
pub const REASON: &str = "Preempting";
/// The message that goes with it.
pub const MESSAGE: &str = "Preempted in order to admit critical pod";
/// What the condition `DisruptionTarget` says.
pub const CONDITION: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";

/// What is still missing: (resource, amount), none of them nothing.
type Missing = Vec<(String, i64)>;

/// The pods that go so that `pod`, which lacks what `short` says, has room; an error says what no set of pods could give.
pub fn victims(pod: &Pod, running: &[Arc<Pod>], short: &[Short]) -> Result<Vec<Arc<Pod>>, String> {
    let all: Missing = short.iter().map(|s| (s.resource.clone(), s.missing())).collect();
    let of = |qos: Qos| -> Vec<&Arc<Pod>> { running.iter().filter(|p| may_go(pod, p) && Qos::of(p) == qos).collect() };
    let (best_effort, burstable, guaranteed) = (of(Qos::BestEffort), of(Qos::Burstable), of(Qos::Guaranteed));
    let beyond = [&best_effort, &burstable, &guaranteed].into_iter().fold(all.clone(), |left, pods| without(left, pods));
    if !beyond.is_empty() {
        let listed: String = all.iter().map(|(resource, amount)| format!("(res: {resource}, q: {amount}), ")).collect();
        return Err(format!("no set of running pods found to reclaim resources: [{listed}]"));
    }
    // Each class gives only what all of those below it could not.
    let first = nearest(guaranteed, without(without(all.clone(), &best_effort), &burstable));
    let second = nearest(burstable, without(without(all.clone(), &best_effort), &first));
    let third = nearest(best_effort, without(without(all, &second), &first));
    Ok(first.into_iter().chain(second).chain(third).cloned().collect())
}

fn may_go(coming: &Pod, running: &Pod) -> bool {
    let priority = |p: &Pod| p.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    // A static pod would be back at once: its file still asks for it.
    !is_static(running) && (is_critical(coming) && !is_critical(running) || priority(coming) > priority(running))
}

fn gives(pod: &Pod, resource: &str) -> i64 {
    if resource == "pods" { 1 } else { requested(pod, resource) }
}

fn without(missing: Missing, pods: &[&Arc<Pod>]) -> Missing {
    let given = |resource: &str| pods.iter().map(|p| gives(p, resource)).sum::<i64>();
    missing.into_iter().map(|(resource, amount)| (amount - given(&resource), resource)).filter(|m| m.0 > 0).map(|(a, r)| (r, a)).collect()
}

/// Pods until nothing is missing, each time the one after which the least is; of equal ones the one that asks for less.
fn nearest<'a>(mut pods: Vec<&'a Arc<Pod>>, mut missing: Missing) -> Vec<&'a Arc<Pod>> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let rank = |p: &Arc<Pod>| (distance(&missing, p), gives(p, "memory"), gives(p, "cpu"));
        let ranked = pods.iter().enumerate().map(|(n, p)| (rank(p), n));
        let best = ranked.min_by(|((a, am, ac), _), ((b, bm, bc), _)| a.total_cmp(b).then(am.cmp(bm)).then(ac.cmp(bc)));
        let Some((_, n)) = best else { break };
        let pod = pods.swap_remove(n);
        missing = without(missing, &[pod]);
        chosen.push(pod);
    }
    chosen
}

/// How much would be missing after a pod has gone: the sum of the squares of the parts.
#[allow(clippy::cast_precision_loss, reason = "a rank, not an amount")]
fn distance(missing: &Missing, pod: &Pod) -> f64 {
    let part = |(resource, amount): &(String, i64)| (amount - gives(pod, resource)).max(0) as f64 / *amount as f64;
    missing.iter().map(|m| part(m).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, qos: &str, priority: i64, requests: Value) -> Arc<Pod> {
        let value = json!({
            "metadata": {"name": name},
            "spec": {"priority": priority, "containers": [{"name": "c", "resources": {"requests": requests}}]},
            "status": {"qosClass": qos},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
        pods.iter().filter_map(|p| p.metadata.name.as_deref()).collect()
    }

    fn short(resource: &str, missing: i64) -> Short {
        Short { resource: resource.into(), asked: missing, used: 1000, capacity: 1000 }
    }

    fn running() -> Vec<Arc<Pod>> {
        vec![
            pod("nothing", "BestEffort", 0, json!({})),
            pod("small", "Burstable", 0, json!({"cpu": "100m", "memory": "100"})),
            pod("middle", "Burstable", 0, json!({"cpu": "200m", "memory": "100"})),
            pod("large", "Guaranteed", 0, json!({"cpu": "500m", "memory": "500"})),
            pod("critical", "Guaranteed", 2_000_000_000, json!({"cpu": "5", "memory": "5000"})),
        ]
    }

    #[test]
    fn those_go_that_matter_least_and_no_more_than_needed() {
        let critical = pod("new", "Burstable", 2_000_000_000, json!({}));
        for (missing, expected) in [
            (vec![short("pods", 1)], vec!["nothing"]),
            (vec![short("cpu", 100)], vec!["small"]),
            (vec![short("cpu", 150)], vec!["middle"]),
            (vec![short("cpu", 300)], vec!["middle", "small"]),
            // What the burstable ones cannot give, the guaranteed one gives, and then they need not go.
            (vec![short("cpu", 400)], vec!["large"]),
            (vec![short("cpu", 600)], vec!["large", "small"]),
            (vec![short("cpu", 100), short("pods", 1)], vec!["small"]),
        ] {
            let chosen = victims(&critical, &running(), &missing).unwrap();
            assert_eq!(names(&chosen), expected, "{missing:?}");
        }
    }

    #[test]
    fn critical_pods_stay_and_what_cannot_be_had_is_named() {
        let critical = pod("new", "Burstable", 2_000_000_000, json!({}));
        let error = victims(&critical, &running(), &[short("cpu", 801)]).unwrap_err();
        assert_eq!(error, "no set of running pods found to reclaim resources: [(res: cpu, q: 801), ]");
    }
}
