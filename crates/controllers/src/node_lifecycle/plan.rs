//! What a node's heartbeat, conditions and taints should be: pure.
//!
//! Source: `pkg/controller/nodelifecycle/node_lifecycle_controller.go`.

use crate::nodes::condition;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

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

/// Older names of labels that are still read, and the present ones.
const OLDER_LABELS: [(&str, &str); 2] = [("beta.kubernetes.io/os", "kubernetes.io/os"), ("beta.kubernetes.io/arch", "kubernetes.io/arch")];

/// Older labels that a node lacks or has with another value.
pub fn older_labels(node: &Node) -> BTreeMap<&'static str, String> {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key));
    let missing = |(older, present): &(&'static str, &str)| label(present).filter(|v| label(older) != Some(v)).map(|v| (*older, v.clone()));
    OLDER_LABELS.iter().filter_map(missing).collect()
}

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

/// Whether nothing is heard of a node. One that says itself that it is not ready speaks for its pods, too, and must not be
/// contradicted.
pub fn is_unheard(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|c| c.status == "Unknown")
}

fn taint(key: &str, effect: &str, now: Option<Timestamp>) -> Taint {
    Taint { key: key.into(), effect: effect.into(), value: None, time_added: now.map(Time) }
}

/// Whether taints may evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evict {
    /// They may.
    Yes,
    /// Not yet, but what evicts already stays.
    Later,
    /// No: nothing is heard from anywhere.
    No,
}

/// The taint that evicts from a node as it is now.
pub fn executed(node: &Node) -> Option<&'static str> {
    match condition(node, "Ready").map(|c| c.status.as_str()) {
        Some("False") => Some(NOT_READY),
        Some("Unknown") => Some(UNREACHABLE),
        _ => None,
    }
}

/// The taints a node should have; those of others stay.
pub fn taints(node: &Node, evict: Evict, now: Timestamp) -> Vec<Taint> {
    let old = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let is = |kind: &str, status: &str| condition(node, kind).is_some_and(|c| c.status == status);
    let mut wanted: Vec<Taint> =
        NO_SCHEDULE.iter().filter(|(kind, status, _)| is(kind, status)).map(|(_, _, key)| taint(key, "NoSchedule", None)).collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true) {
        wanted.push(taint(UNSCHEDULABLE, "NoSchedule", None));
    }
    // One of the two becomes the other at once: its pods are leaving already.
    let leaving = old.iter().any(|t| t.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&t.key.as_str()));
    let evicts = evict == Evict::Yes || (evict == Evict::Later && leaving);
    wanted.extend(executed(node).filter(|_| evicts).map(|key| taint(key, "NoExecute", Some(now))));
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
    fn pods_are_spoken_for_only_where_their_node_is_silent() {
        let unheard = |conditions: Value| is_unheard(&node(conditions, json!({})));
        assert!(unheard(json!([{"type": "Ready", "status": "Unknown"}])));
        assert!(!unheard(json!([{"type": "Ready", "status": "False"}])) && !unheard(json!([])));
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
            let made = taints(&node(conditions.clone(), spec), Evict::Yes, now());
            let shown: Vec<(&str, &str)> = made.iter().map(|t| (t.key.as_str(), t.effect.as_str())).collect();
            assert_eq!(shown, expected, "{conditions}");
        }
    }

    #[test]
    fn what_evicts_comes_in_its_turn_and_goes_when_nothing_is_heard() {
        let unknown = json!([{"type": "Ready", "status": "Unknown"}]);
        let leaving = json!({"taints": [{"key": NOT_READY, "effect": "NoExecute"}]});
        let cases: [(Value, Evict, &[&str]); 5] = [
            (json!({}), Evict::Yes, &[UNREACHABLE]),
            (json!({}), Evict::Later, &[]),
            (leaving.clone(), Evict::Later, &[UNREACHABLE]),
            (json!({}), Evict::No, &[]),
            (leaving, Evict::No, &[]),
        ];
        for (spec, evict, expected) in cases {
            let made = taints(&node(unknown.clone(), spec.clone()), evict, now());
            let executing: Vec<&str> = made.iter().filter(|t| t.effect == "NoExecute").map(|t| t.key.as_str()).collect();
            assert_eq!(executing, expected, "{spec} {evict:?}");
        }
    }

    #[test]
    fn older_labels_follow_the_present_ones() {
        let n: Node = serde_json::from_value(json!({"metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "beta.kubernetes.io/arch": "amd64"}}})).unwrap();
        assert_eq!(older_labels(&n), [("beta.kubernetes.io/os", "linux".to_owned())].into());
    }
}
