//! Resource claims and device taints against a real API server; the test plays scheduler and driver.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cluster, PODS, name};
use serde_json::{Value, json};

const GROUP: &str = "/apis/resource.k8s.io/v1";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

fn devices() -> Value {
    json!({"devices": {"requests": [{"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}})
}

fn pod(name: &str, claim: Value) -> Value {
    let mut entry = claim;
    entry["name"] = "dev".into();
    json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0, "resourceClaims": [entry],
        "containers": [{"name": "c", "image": "i", "resources": {"claims": [{"name": "dev"}]}}]}})
}

async fn claim_of(cluster: &Cluster, pod: &str) -> Option<String> {
    let pod = cluster.get(&format!("{PODS}/{pod}")).await;
    pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"].as_str().map(str::to_owned)
}

/// What the scheduler writes: an allocation for the pod.
async fn allocate(cluster: &Cluster, claim: &str, pod: &str, tolerations: Value) {
    let uid = cluster.get(&format!("{PODS}/{pod}")).await["metadata"]["uid"].clone();
    let path = format!("{CLAIMS}/{claim}");
    cluster.patch(&path, json!({"metadata": {"finalizers": [FINALIZER]}})).await;
    let result = json!({"request": "gpu", "driver": "gpu.example.com", "pool": "n1", "device": "gpu-0", "tolerations": tolerations});
    let status = json!({"allocation": {"devices": {"results": [result]}}, "reservedFor": [{"resource": "pods", "name": pod, "uid": uid}]});
    cluster.patch(&format!("{path}/status"), json!({"status": status})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_a_claim_from_its_template_and_gives_its_devices_back() {
    let cluster = Cluster::start().await;
    cluster.post(PODS, pod("p", json!({"resourceClaimTemplateName": "t"}))).await;
    let told = async || cluster.events().await.iter().any(|e| e.contains("FailedResourceClaimCreation"));
    cluster.eventually("without the template it is told", told).await;
    cluster.post(TEMPLATES, json!({"metadata": {"name": "t"}, "spec": {"metadata": {"labels": {"a": "b"}}, "spec": devices()}})).await;
    cluster.eventually("the pod names its claim", async || claim_of(&cluster, "p").await.is_some()).await;
    let claim = claim_of(&cluster, "p").await.unwrap();
    assert!(claim.starts_with("p-dev-"));
    let made = cluster.get(&format!("{CLAIMS}/{claim}")).await;
    assert_eq!((&made["metadata"]["ownerReferences"][0]["name"], &made["metadata"]["labels"]["a"]), (&json!("p"), &json!("b")));
    assert_eq!(cluster.list(CLAIMS).await.len(), 1, "made once");
    allocate(&cluster, &claim, "p", json!([])).await;
    // The pod ends: nobody uses the devices any more, and the claim made for it goes.
    let p = cluster.get(&format!("{PODS}/p")).await;
    cluster.set_pod(&p, "Succeeded", false).await;
    cluster.eventually("the claim is gone", async || cluster.list(CLAIMS).await.is_empty()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_claim_is_deallocated_when_its_last_pod_is_gone() {
    let cluster = Cluster::start().await;
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    cluster.post(CLAIMS, json!({"metadata": {"name": "shared"}, "spec": devices()})).await;
    cluster.post(PODS, pod("a", json!({"resourceClaimName": "shared"}))).await;
    allocate(&cluster, "shared", "a", json!([])).await;
    // A pod that was put on its node past the scheduler gets its reservation from the controller.
    let mut placed = pod("b", json!({"resourceClaimName": "shared"}));
    placed["spec"]["nodeName"] = "n1".into();
    cluster.post(PODS, placed).await;
    let path = format!("{CLAIMS}/shared");
    let users = async || {
        let claim = cluster.get(&path).await;
        let users = claim["status"]["reservedFor"].as_array().into_iter().flatten();
        // Whoever reserves first stands first.
        users.map(|c| c["name"].as_str().unwrap().to_owned()).collect::<std::collections::BTreeSet<_>>()
    };
    cluster.eventually("both use it", async || users().await == ["a", "b"].map(String::from).into()).await;
    cluster.delete(&format!("{PODS}/a"), "Background").await;
    cluster.eventually("one is left", async || users().await == ["b"].map(String::from).into()).await;
    assert!(cluster.get(&path).await["status"]["allocation"].is_object());
    cluster.delete(&format!("{PODS}/b"), "Background").await;
    cluster
        .eventually("the devices are free, the claim stays", async || {
            let claim = cluster.get(&path).await;
            claim["status"]["allocation"].is_null() && claim["metadata"]["finalizers"].is_null()
        })
        .await;
    assert_eq!(name(&cluster.get(&path).await), "shared");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_leaves_a_device_whose_taint_its_claim_does_not_tolerate() {
    let cluster = Cluster::start().await;
    for (pod_name, claim) in [("patient", "one"), ("touchy", "two")] {
        cluster.post(CLAIMS, json!({"metadata": {"name": claim}, "spec": devices()})).await;
        cluster.post(PODS, pod(pod_name, json!({"resourceClaimName": claim}))).await;
    }
    allocate(&cluster, "one", "patient", json!([{"key": "broken", "operator": "Exists"}])).await;
    allocate(&cluster, "two", "touchy", json!([])).await;
    let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": "gpu.example.com", "nodeName": "n1",
        "pool": {"name": "n1", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "gpu-0", "taints": [{"key": "broken", "value": "yes", "effect": "NoExecute"}]}]}});
    cluster.post(&format!("{GROUP}/resourceslices"), slice).await;
    cluster.eventually("it is gone", async || cluster.try_get(&format!("{PODS}/touchy")).await.is_none()).await;
    let told = async || cluster.events().await.iter().any(|e| e.contains("DeviceTaintManagerEviction") && e.contains("touchy"));
    cluster.eventually("it was told why", told).await;
    assert!(cluster.get(&format!("{PODS}/patient")).await["metadata"]["deletionTimestamp"].is_null());
    cluster.stop().await;
}
