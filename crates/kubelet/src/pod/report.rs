//! How the status of a pod is put into the API: what is ours in it, and the patch that says so.
//!
//! Others write conditions too; those are never touched.

use super::resize;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

/// Conditions that the kubelet owns.
pub const OURS: [&str; 8] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "DisruptionTarget",
    resize::PENDING,
    resize::IN_PROGRESS,
];

/// Conditions that others wrote stay in the list with the API's value; ours come from what we wrote last.
pub fn merge_foreign_conditions(pod: &mut Pod, written: &PodStatus) {
    let status = pod.status.get_or_insert_default();
    let foreign: Vec<_> = status.conditions.iter().flatten().filter(|c| !OURS.contains(&c.type_.as_str())).cloned().collect();
    let ours = written.conditions.iter().flatten().filter(|c| OURS.contains(&c.type_.as_str())).cloned();
    let conditions = ours.chain(foreign).collect();
    let qos = status.qos_class.clone();
    *status = PodStatus { conditions: Some(conditions), qos_class: qos.or(written.qos_class.clone()), ..written.clone() };
}

/// The patch that makes the status what we computed: lists that the kubelet owns are replaced whole, and of the
/// conditions, which merge by type, those that are over are taken away.
pub fn patch(uid: &Option<String>, status: &PodStatus, over: &[&str]) -> serde_json::Value {
    let mut body = serde_json::to_value(status).unwrap_or_default();
    if let Some(conditions) = body.get_mut("conditions").and_then(serde_json::Value::as_array_mut) {
        conditions.retain(|c| c["type"].as_str().is_some_and(|t| OURS.contains(&t)));
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
