//! What the controllers ask about nodes. Pure.

use k8s_openapi::api::core::v1::{Node, Taint};

/// No load balancer sends to such a node.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// The autoscaler is about to remove the node.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// A taint by its key.
pub(crate) fn taint<'a>(node: &'a Node, key: &str) -> Option<&'a Taint> {
    node.spec.as_ref()?.taints.as_ref()?.iter().find(|t| t.key == key)
}

/// Whether the node says that it is ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|c| c.type_ == "Ready" && c.status == "True"))
}

/// Whether load balancers send to the node.
pub(crate) fn takes_traffic(node: &Node) -> bool {
    let excluded = node.metadata.labels.as_ref().is_some_and(|l| l.contains_key(EXCLUDED));
    !excluded && taint(node, TO_BE_DELETED).is_none() && node.metadata.deletion_timestamp.is_none() && is_ready(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_ready_nodes_that_stay_take_traffic() {
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        let cases = [
            (json!({"status": ready}), true),
            (json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}), false),
            (json!({"metadata": {"labels": {EXCLUDED: ""}}, "status": ready}), false),
            (json!({"spec": {"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]}, "status": ready}), false),
        ];
        for (mut node, expected) in cases {
            node["metadata"]["name"] = "n".into();
            assert_eq!(takes_traffic(&serde_json::from_value(node.clone()).unwrap()), expected, "{node}");
        }
    }
}
