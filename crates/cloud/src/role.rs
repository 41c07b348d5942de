//! What the cloud-controller-manager may do: the role that whoever installs it has to make.
//!
//! Kubernetes has no such role among its own: cloud providers ship it.

use serde_json::{Value, json};

/// Its service account in `kube-system`.
pub const ACCOUNT: &str = "cloud-controller-manager";

/// Name of the role and of its binding.
pub const ROLE: &str = "system:cloud-controller-manager";

/// The ClusterRole.
pub fn cluster_role() -> Value {
    let rule = |group: &str, resources: &[&str], verbs: &str| {
        let verbs: Vec<&str> = verbs.split(' ').collect();
        json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
    };
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ROLE},
        "rules": [
            rule("", &["nodes"], "delete get list patch update watch"),
            rule("", &["nodes/status", "services/status"], "patch"),
            rule("", &["services"], "get list patch watch"),
            rule("", &["events"], "create patch update"),
            rule("coordination.k8s.io", &["leases"], "create get list update watch"),
        ],
    })
}

/// The ClusterRoleBinding.
pub fn binding() -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": ROLE},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "kube-system"}],
    })
}
