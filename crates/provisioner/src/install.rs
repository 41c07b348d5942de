//! What whoever installs the provisioner has to make: its role and its storage class.

use crate::PROVISIONER;
use serde_json::{Value, json};

/// Its service account in `kube-system`.
pub const ACCOUNT: &str = "local-path-provisioner";
/// Name of the role and of its binding.
pub const ROLE: &str = "system:local-path-provisioner";
/// Name of the storage class.
pub const CLASS: &str = "local-path";

/// The ClusterRole.
pub fn cluster_role() -> Value {
    let rule = |group: &str, resource: &str, verbs: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": verbs});
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": ROLE},
        "rules": [
            rule("", "persistentvolumes", &["create", "delete", "get", "list", "patch", "watch"]),
            rule("", "persistentvolumeclaims", &["get", "list", "watch"]),
            rule("storage.k8s.io", "storageclasses", &["get", "list", "watch"]),
            rule("", "events", &["create", "patch", "update"]),
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

/// The storage class, the default one: volumes are made where the first pod that uses them is placed.
pub fn storage_class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    })
}
