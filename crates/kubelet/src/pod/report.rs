//! How the status of a pod is put into the API: what is ours in it, and the patch that says so.
//!
//! Others write conditions too; those are never touched.

use super::resize;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};

/// Conditions that the kubelet owns.
pub const OURS: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    resize::PENDING,
    resize::IN_PROGRESS,
    RESTARTING,
];
/// All containers end so that they can begin again; only of pods with a rule for it.
pub const RESTARTING: &str = "AllContainersRestarting";

/// What is written in common with those who send pods away (the scheduler, evictions, controllers): whose it is says its reason.
pub const DISRUPTED: &str = "DisruptionTarget";
/// The reason of ours.
pub const BY_KUBELET: &str = "TerminationByKubelet";

fn is_ours(kind: &str, reason: Option<&str>) -> bool {
    OURS.contains(&kind) || kind == DISRUPTED && reason == Some(BY_KUBELET)
}

/// Conditions that others wrote stay in the list with the API's value; ours come from what we wrote last.
pub fn merge_foreign_conditions(pod: &mut Pod, written: &PodStatus) {
    let status = pod.status.get_or_insert_default();
    let ours = written.conditions.iter().flatten().filter(|c| is_ours(&c.type_, c.reason.as_deref()));
    let mut conditions: Vec<PodCondition> = ours.cloned().collect();
    let foreign = status.conditions.iter().flatten().filter(|c| !is_ours(&c.type_, c.reason.as_deref()));
    let foreign: Vec<_> = foreign.filter(|c| conditions.iter().all(|o| o.type_ != c.type_)).cloned().collect();
    conditions.extend(foreign);
    let qos = status.qos_class.clone();
    *status = PodStatus { conditions: Some(conditions), qos_class: qos.or(written.qos_class.clone()), ..written.clone() };
}

/// The patch that makes the status what we computed: lists that the kubelet owns are replaced whole, and of the
/// conditions, which merge by type, those that are over are taken away.
pub fn patch(uid: &str, status: &PodStatus, over: &[&str]) -> serde_json::Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    if let Some(conditions) = body.get_mut("conditions").and_then(serde_json::Value::as_array_mut) {
        conditions.retain(|c| c["type"].as_str().is_some_and(|kind| is_ours(kind, c["reason"].as_str())));
        // Conditions merge by type, so what no longer applies has to be taken away explicitly.
        for condition in conditions.iter_mut() {
            for field in ["reason", "message"] {
                if condition.get(field).is_none() {
                    condition[field] = serde_json::Value::Null;
                }
            }
        }
        conditions.extend(over.iter().map(|kind| serde_json::json!({"type": kind, "$patch": "delete"})));
    }
    // Addresses merge by their value, so an earlier sandbox's would stay beside the new one's.
    for field in ["podIPs", "hostIPs"] {
        if let Some(addresses) = body.get_mut(field).and_then(serde_json::Value::as_array_mut) {
            addresses.insert(0, serde_json::json!({"$patch": "replace"}));
        }
    }
    for field in ["reason", "message"] {
        if body.get(field).is_none() {
            body[field] = serde_json::Value::Null;
        }
    }
    serde_json::json!({"metadata": {"uid": uid}, "status": body})
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn status(conditions: &[Value]) -> PodStatus {
        serde_json::from_value(json!({"conditions": conditions})).unwrap()
    }

    #[test]
    fn that_others_send_a_pod_away_stays_said_and_is_not_said_again_by_us() {
        let ready = json!({"type": "Ready", "status": "True"});
        let of = |reason: &str| json!({"type": DISRUPTED, "status": "True", "reason": reason});
        for (api, written, stays, sent) in [
            (Some("PreemptionByScheduler"), None, Some("PreemptionByScheduler"), None),
            // Ours may not be in the API yet, or it may come after somebody else's.
            (None, Some(BY_KUBELET), Some(BY_KUBELET), Some(BY_KUBELET)),
            (Some("EvictionByEvictionAPI"), Some(BY_KUBELET), Some(BY_KUBELET), Some(BY_KUBELET)),
            (None, None, None, None),
        ] {
            let list = |reason: Option<&str>| -> Vec<Value> { [ready.clone()].into_iter().chain(reason.map(of)).collect() };
            let mut pod = Pod { status: Some(status(&list(api))), ..Pod::default() };
            merge_foreign_conditions(&mut pod, &status(&list(written)));
            let merged = pod.status.unwrap();
            let all: Vec<_> = merged.conditions.iter().flatten().filter(|c| c.type_ == DISRUPTED).collect();
            assert_eq!(all.iter().map(|c| c.reason.as_deref()).collect::<Vec<_>>(), stays.iter().map(|r| Some(*r)).collect::<Vec<_>>());
            let patch = patch("u", &merged, &[]);
            let conditions = patch["status"]["conditions"].as_array().unwrap();
            let told = conditions.iter().find(|c| c["type"] == DISRUPTED).map(|c| c["reason"].as_str().unwrap());
            assert_eq!(told, sent, "{api:?} {written:?}");
        }
        assert!(!OURS.contains(&DISRUPTED), "what the kubelet owns it also takes away");
    }
}
