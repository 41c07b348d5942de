//! Conditions of the node, and what is told when one of them becomes another. All but [`tell`] is pure.
//!
//! Source: `pkg/kubelet/nodestatus/setters.go`.

use super::Shared;
use ferrokube_client::events::EventType;
use ferrokube_cri::v1 as cri;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::NodeCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;

/// (condition, reason and message when it holds, reason and message when it does not).
const PRESSURES: [(&str, &str, &str, &str, &str); 3] = [
    (
        "MemoryPressure",
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
    ("DiskPressure", "KubeletHasDiskPressure", "kubelet has disk pressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    (
        "PIDPressure",
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
    ),
];

/// The conditions of the node now; one that is as it was known keeps the time since when it is so.
pub fn make(
    runtime: Result<Option<cri::RuntimeStatus>, tonic::Status>,
    known: &[NodeCondition],
    pressure: &BTreeSet<&'static str>,
) -> Vec<NodeCondition> {
    let now = Time(Timestamp::now());
    let ready = match runtime {
        Err(e) => Err(format!("container runtime is down: {}", e.message())),
        Ok(status) => {
            let bad = status.iter().flat_map(|s| &s.conditions).filter(|c| !c.status);
            let texts: Vec<String> = bad
                .map(|c| {
                    format!("container runtime network not ready: {}={} reason:{} message:{}", c.r#type, c.status, c.reason, c.message)
                })
                .collect();
            if texts.is_empty() { Ok(()) } else { Err(texts.join(", ")) }
        }
    };
    let make = |kind: &str, status: &str, reason: &str, message: &str| {
        let before = known.iter().find(|c| c.type_ == kind && c.status == status);
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(now.clone())),
        }
    };
    let pressures = PRESSURES.iter().map(|(kind, bad, bad_text, good, good_text)| {
        if pressure.contains(kind) { make(kind, "True", bad, bad_text) } else { make(kind, "False", good, good_text) }
    });
    let mut list: Vec<NodeCondition> = pressures.collect();
    list.push(match ready {
        Ok(()) => make("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        Err(message) => make("Ready", "False", "KubeletNotReady", &message),
    });
    list
}

/// Whether `Ready` is among them and true.
pub fn is_ready(conditions: &[NodeCondition]) -> bool {
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Equal but for the heartbeat.
pub fn same(a: &NodeCondition, b: &NodeCondition) -> bool {
    let said = |c: &NodeCondition| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone());
    // The API keeps whole seconds.
    let since = |c: &NodeCondition| c.last_transition_time.as_ref().map(|t| t.0.as_second());
    said(a) == said(b) && since(a) == since(b)
}

/// Reasons of the events that are due when conditions become others.
pub fn news(before: &[NodeCondition], now: &[NodeCondition]) -> Vec<&'static str> {
    let changed = now.iter().filter(|c| !before.iter().any(|b| b.type_ == c.type_ && b.status == c.status));
    let reason = |c: &NodeCondition| {
        Some(match (c.type_.as_str(), c.status == "True") {
            ("MemoryPressure", true) => "NodeHasInsufficientMemory",
            ("MemoryPressure", false) => "NodeHasSufficientMemory",
            ("DiskPressure", true) => "NodeHasDiskPressure",
            ("DiskPressure", false) => "NodeHasNoDiskPressure",
            ("PIDPressure", true) => "NodeHasInsufficientPID",
            ("PIDPressure", false) => "NodeHasSufficientPID",
            ("Ready", true) => "NodeReady",
            ("Ready", false) => "NodeNotReady",
            _ => return None,
        })
    };
    changed.filter_map(reason).collect()
}

/// Tells of this node that it has become something.
pub fn tell(node: &Shared, reason: &str) {
    let message = format!("Node {} status is now: {reason}", node.config.node_name);
    node.recorder.event(node.reference(), EventType::Normal, reason, message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::ToSpan;

    fn healthy() -> Result<Option<cri::RuntimeStatus>, tonic::Status> {
        Ok(None)
    }

    fn ago(mut conditions: Vec<NodeCondition>) -> Vec<NodeCondition> {
        let then = Time(Timestamp::now() - 1.hour());
        conditions.iter_mut().for_each(|c| c.last_transition_time = Some(then.clone()));
        conditions
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time_also_across_a_restart() {
        let known = ago(make(healthy(), &[], &BTreeSet::new()));
        let now = make(healthy(), &known, &BTreeSet::from(["DiskPressure"]));
        for (before, after) in known.iter().zip(&now) {
            assert_eq!(same(before, after), before.type_ != "DiskPressure", "{}", before.type_);
        }
    }

    #[test]
    fn each_change_of_a_condition_is_told_once() {
        let first = make(healthy(), &[], &BTreeSet::new());
        assert_eq!(news(&[], &first), ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady"]);
        assert!(news(&first, &make(healthy(), &first, &BTreeSet::new())).is_empty());
        let down = make(Err(tonic::Status::unavailable("gone")), &first, &BTreeSet::from(["MemoryPressure"]));
        assert_eq!(news(&first, &down), ["NodeHasInsufficientMemory", "NodeNotReady"]);
        // What the controller of nodes said in between is ended by the node itself.
        let mut unknown = first.clone();
        unknown.iter_mut().for_each(|c| c.status = "Unknown".into());
        assert_eq!(news(&unknown, &first).last(), Some(&"NodeReady"));
    }
}
