//! What kubeadm's phases `addon` and `mark-control-plane` leave in a cluster, written as the administrator.

use ferrokube_client::{Client, Patch, Result, Target};
use serde_json::{Value, json};

/// Field manager of these objects.
const MANAGER: &str = "ferrokube";
const RBAC: &str = "rbac.authorization.k8s.io";

/// The service account under which cluster DNS reads the API.
pub const DNS_ACCOUNT: &str = "coredns";

async fn apply(client: &Client, group: &str, resource: &str, name: &str, object: Value) -> Result<()> {
    let target = Target { group: group.into(), version: "v1".into(), resource: resource.into(), name: name.into(), ..Target::default() };
    client.patch_target(&target, &Patch::Apply(MANAGER, object)).await.map(drop)
}

/// What cluster DNS may read.
pub async fn dns_role(client: &Client) -> Result<()> {
    let name = "system:coredns";
    let role = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [
            {"apiGroups": [""], "resources": ["endpoints", "services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    });
    let binding = json!({
        "apiVersion": format!("{RBAC}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": DNS_ACCOUNT, "namespace": "kube-system"}],
    });
    let (role, binding) = (apply(client, RBAC, "clusterroles", name, role), apply(client, RBAC, "clusterrolebindings", name, binding));
    tokio::try_join!(role, binding).map(drop)
}

/// What the metrics server may do, and who may read what it serves.
pub async fn metrics_roles(client: &Client) -> Result<()> {
    use ferrokube_metrics::role;
    let made = apply(client, RBAC, "clusterroles", role::ROLE, role::cluster_role());
    let bound = apply(client, RBAC, "clusterrolebindings", role::ROLE, role::binding());
    let reader = apply(client, RBAC, "clusterroles", role::READER, role::reader());
    tokio::try_join!(made, bound, reader).map(drop)
}

/// What the cloud-controller-manager may do.
pub async fn cloud_role(client: &Client) -> Result<()> {
    use ferrokube_cloud::role;
    let made = apply(client, RBAC, "clusterroles", role::ROLE, role::cluster_role());
    let bound = apply(client, RBAC, "clusterrolebindings", role::ROLE, role::binding());
    tokio::try_join!(made, bound).map(drop)
}

/// What the local-path provisioner may do, and its storage class. A class that is there is left as people made it.
pub async fn local_path(client: &Client) -> Result<()> {
    use ferrokube_provisioner::install;
    let made = apply(client, RBAC, "clusterroles", install::ROLE, install::cluster_role());
    let bound = apply(client, RBAC, "clusterrolebindings", install::ROLE, install::binding());
    tokio::try_join!(made, bound)?;
    let classes = Target { group: "storage.k8s.io".into(), version: "v1".into(), resource: "storageclasses".into(), ..Target::default() };
    match client.request(http::Method::POST, &classes, &format!("fieldManager={MANAGER}"), Some(&install::storage_class())).await {
        Err(e) if e.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// The label by which people see the control plane; a kubelet may not give it to itself.
pub async fn mark_control_plane(client: &Client, node: &str) -> Result<()> {
    let object =
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": {"node-role.kubernetes.io/control-plane": ""}}});
    apply(client, "", "nodes", node, object).await
}
