//! What a node's heartbeat, conditions and taints should be: pure.
//!
//! Source: `pkg/controller/nodelifecycle/node_lifecycle_controller.go`.

use crate::nodes::condition;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

/// `--node-monitor-grace-period`.
pub const GRACE: Duration = Duration::from_secs(50);
/// `--node-startup-grace-period`.
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);

pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Conditions that keep new pods away: type, status, taint.
const NO_SCHEDULE: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

/// Conditions that become Unknown with the node.
const FROM_KUBELET: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// Conditions of a node that has not been heard of for too long; `None` when nothing changes.
pub fn silent(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let old = node.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
    let mut list = old.clone();
    for kind in FROM_KUBELET {
        match list.iter_mut().find(|c| c.type_ == kind) {
            None => list.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
            Some(known) if known.status != "Unknown" => {
                known.status = "Unknown".into();
                known.reason = Some("NodeStatusUnknown".into());
                known.message = Some("Kubelet stopped posting node status.".into());
                known.last_transition_time = Some(Time(now));
            }
            Some(_) => {}
        }
    }
    (list != old).then_some(list)
}

fn taint(key: &str, effect: &str, now: Option<Timestamp>) -> Taint {
    Taint { key: key.into(), effect: effect.into(), value: None, time_added: now.map(Time) }
}

/// The taints a node should have; those of others stay. `evict` is false while whole zones are silent: then nothing new
/// is evicted (`FullDisruption`).
pub fn taints(node: &Node, evict: bool, now: Timestamp) -> Vec<Taint> {
    let old = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let is = |kind: &str, status: &str| condition(node, kind).is_some_and(|c| c.status == status);
    let mut wanted: Vec<Taint> =
        NO_SCHEDULE.iter().filter(|(kind, status, _)| is(kind, status)).map(|(_, _, key)| taint(key, "NoSchedule", None)).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule", None));
    }
    let executed = match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    };
    let has = |key: &str| old.iter().any(|t| t.key == key && t.effect == "NoExecute");
    wanted.extend(executed.filter(|key| evict || has(key)).map(|key| taint(key, "NoExecute", Some(now))));
    let ours = |t: &Taint| match t.effect.as_str() {
        "NoSchedule" => t.key == UNSCHEDULABLE || NO_SCHEDULE.iter().any(|(_, _, key)| *key == t.key),
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&t.key.as_str()),
        _ => false,
    };
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    let mut list: Vec<Taint> = old.into_iter().filter(|t| !ours(t) || wanted.iter().any(|w| same(w, t))).collect();
    wanted.retain(|w| !list.iter().any(|t| same(w, t)));
    list.extend(wanted);
    list
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(conditions: Value, spec: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec, "status": {"conditions": conditions}})).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_silent_node_becomes_unknown_once() {
        let mut n = node(json!([{"type": "Ready", "status": "True"}]), json!({}));
        let list = silent(&n, now()).unwrap();
        assert_eq!(list.len(), 4);
        assert!(list.iter().all(|c| c.status == "Unknown"));
        assert_eq!(list[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(list[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        n.status.as_mut().unwrap().conditions = Some(list);
        assert_eq!(silent(&n, now()), None);
    }

    #[test]
    fn taints_follow_conditions_and_leave_those_of_others_alone() {
        let others = json!({"key": "mine", "effect": "NoSchedule"});
        let cases = [
            (json!([{"type": "Ready", "status": "True"}]), json!({"taints": [others]}), vec![("mine", "NoSchedule")]),
            (json!([{"type": "Ready", "status": "False"}]), json!({}), vec![(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
            (json!([{"type": "Ready", "status": "Unknown"}]), json!({}), vec![(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
            (
                json!([{"type": "Ready", "status": "True"}]),
                json!({"taints": [{"key": NOT_READY, "effect": "NoExecute"}, others]}),
                vec![("mine", "NoSchedule")],
            ),
            (
                json!([{"type": "Ready", "status": "True"}, {"type": "MemoryPressure", "status": "True"}]),
                json!({}),
                vec![("node.kubernetes.io/memory-pressure", "NoSchedule")],
            ),
            (json!([{"type": "Ready", "status": "True"}]), json!({"unschedulable": true}), vec![(UNSCHEDULABLE, "NoSchedule")]),
        ];
        for (conditions, spec, expected) in cases {
            let made = taints(&node(conditions.clone(), spec), true, now());
            let shown: Vec<(&str, &str)> = made.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect();
            assert_eq!(shown, expected, "{conditions}");
        }
        let calm = taints(&node(json!([{"type": "Ready", "status": "Unknown"}]), json!({})), false, now());
        assert!(calm.iter().all(|t| t.effect == "NoSchedule"), "nothing is evicted while everything is silent");
    }
}
