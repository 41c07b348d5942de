//! What the server may do in the cluster, and the role by which people read what it serves. The names are metrics-server's,
//! so that bindings that were written for it fit.

use serde_json::{Value, json};

/// The service account under which the server asks.
pub const ACCOUNT: &str = "metrics-server";
/// The server's ClusterRole and its binding.
pub const ROLE: &str = "system:metrics-server";
/// The ClusterRole that `view`, `edit` and `admin` take in.
pub const READER: &str = "system:aggregated-metrics-reader";

const RBAC: &str = "rbac.authorization.k8s.io";

/// Usage is asked of kubelets through the API server; selectors are about nodes and pods.
pub fn cluster_role() -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": ROLE},
        "rules": [
            {"apiGroups": [""], "resources": ["nodes/metrics", "nodes/proxy"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list"]},
        ],
    })
}

/// Binds the role to the account.
pub fn binding() -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": crate::NAMESPACE}],
    })
}

/// Who may view a namespace may see what its pods use.
pub fn reader() -> Value {
    let into = |role: &str| (format!("{RBAC}/aggregate-to-{role}"), Value::from("true"));
    let labels: serde_json::Map<String, Value> = ["view", "edit", "admin"].map(into).into_iter().collect();
    json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": READER, "labels": labels},
        "rules": [{"apiGroups": [crate::GROUP], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}],
    })
}
