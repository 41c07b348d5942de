//! The provisioner of a node against a real API server with the binder; the test plays the scheduler.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "../../controllers/tests/common/mod.rs"]
mod common;

use common::Cluster;
use ferrokube_provisioner::{Config, install};
use serde_json::{Value, json};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_gets_a_directory_on_the_chosen_node_and_gives_it_back() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    cluster.post(&format!("{RBAC}/clusterroles"), install::cluster_role()).await;
    cluster.post(&format!("{RBAC}/clusterrolebindings"), install::binding()).await;
    cluster.post("/apis/storage.k8s.io/v1/storageclasses", install::storage_class()).await;
    let start = |node: &str| {
        let client = cluster.client_as(&format!("system:serviceaccount:kube-system:{}", install::ACCOUNT));
        let config = Config { client, node_name: node.into(), root: folder.path().join(node) };
        tokio::spawn(ferrokube_provisioner::run(config))
    };
    let nodes = [start("n1"), start("n2")];
    let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let made = cluster.post(CLAIMS, json!({"metadata": {"name": "data"}, "spec": spec})).await;
    assert_eq!(made["spec"]["storageClassName"], "local-path", "the default class");
    let path = format!("{CLAIMS}/data");
    let chosen = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n2"}}});
    cluster.patch(&path, chosen).await;
    cluster.eventually("it is bound", async || cluster.get(&path).await["status"]["phase"] == "Bound").await;
    let volumes = cluster.list(VOLUMES).await;
    assert_eq!(volumes.len(), 1);
    let directory = volumes[0]["spec"]["local"]["path"].as_str().unwrap().to_owned();
    assert!(directory.starts_with(folder.path().join("n2").to_str().unwrap()) && std::path::Path::new(&directory).is_dir());
    std::fs::write(format!("{directory}/file"), "content").unwrap();
    cluster.delete(&path, "Background").await;
    cluster
        .eventually("claim, volume and directory are gone", async || {
            cluster.try_get(&path).await.is_none() && cluster.list(VOLUMES).await.is_empty() && !std::path::Path::new(&directory).exists()
        })
        .await;
    // What cannot be a directory is refused in words.
    let shared: Value = json!({"metadata": {"name": "shared", "annotations": {"volume.kubernetes.io/selected-node": "n1"}},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.post(CLAIMS, shared).await;
    let told = async || cluster.events().await.iter().any(|e| e.contains("ProvisioningFailed") && e.contains("ReadWriteMany"));
    cluster.eventually("it is told why not", told).await;
    nodes.iter().for_each(|n| n.abort());
    cluster.stop().await;
}
