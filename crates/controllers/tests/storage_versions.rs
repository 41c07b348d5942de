//! What API servers that are gone have said of the versions they store.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::Cluster;
use ferrokube_apiserver::Config;
use http::Method;
use serde_json::{Value, json};

const VERSIONS: &str = "/apis/internal.apiserver.k8s.io/v1alpha1/storageversions";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

fn switch_on(config: &mut Config) {
    config.features = "StorageVersionAPI=true".parse().unwrap();
    config.runtime_config = "internal.apiserver.k8s.io/v1alpha1=true".parse().unwrap();
}

fn lease(id: &str) -> Value {
    json!({"metadata": {"name": id, "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"}},
        "spec": {"holderIdentity": id, "leaseDurationSeconds": 3600, "renewTime": "2126-01-02T03:04:05.000000Z"}})
}

fn said(id: &str, version: &str) -> Value {
    json!({"apiServerID": id, "encodingVersion": version, "decodableVersions": [version]})
}

/// A StorageVersion in which these have spoken, each another version.
async fn spoken(cluster: &Cluster, resource: &str, ids: &[&str]) {
    let mut object = cluster.post(VERSIONS, json!({"metadata": {"name": resource}, "spec": {}})).await;
    object["status"]["storageVersions"] = ids.iter().enumerate().map(|(n, id)| said(id, &format!("example.com/v{n}"))).collect();
    if ids.len() == 1 {
        object["status"]["commonEncodingVersion"] = json!("example.com/v0");
    }
    cluster.ask(Method::PUT, &format!("{VERSIONS}/{resource}/status"), Some(&object)).await.unwrap();
}

fn servers(object: &Value) -> Vec<&str> {
    let all = object["status"]["storageVersions"].as_array().into_iter().flatten();
    all.map(|s| s["apiServerID"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_servers_that_are_gone_have_said_goes_and_the_last_word_takes_the_object_along() {
    let cluster = Cluster::with_config(&["serviceaccount", "storage-version-gc"], switch_on).await;
    for id in ["alive", "leaving"] {
        cluster.post(LEASES, lease(id)).await;
    }
    // A Lease of something else is none of a server.
    let mut other = lease("other");
    other["metadata"]["labels"] = json!({});
    cluster.post(LEASES, other).await;
    spoken(&cluster, "example.com.kept", &["alive", "leaving"]).await;
    spoken(&cluster, "example.com.last", &["leaving"]).await;
    spoken(&cluster, "example.com.strange", &["alive", "unheard-of", "other"]).await;

    let path = |resource: &str| format!("{VERSIONS}/{resource}");
    cluster.eventually("what has no Lease to go", async || servers(&cluster.get(&path("example.com.strange")).await) == ["alive"]).await;
    let strange = cluster.get(&path("example.com.strange")).await;
    assert_eq!(
        (&strange["status"]["commonEncodingVersion"], &strange["status"]["conditions"][0]["status"]),
        (&json!("example.com/v0"), &json!("True"))
    );
    assert_eq!(servers(&cluster.get(&path("example.com.kept")).await), ["alive", "leaving"]);
    assert_eq!(servers(&cluster.get(&path("example.com.last")).await), ["leaving"]);

    cluster.delete(&format!("{LEASES}/leaving"), "Background").await;
    cluster.eventually("the last word to go", async || cluster.try_get(&path("example.com.last")).await.is_none()).await;
    cluster.eventually("its other word to go", async || servers(&cluster.get(&path("example.com.kept")).await) == ["alive"]).await;
    // What the server itself has said stands.
    let own = async || cluster.try_get(&path("core.secrets")).await.is_some_and(|own| servers(&own).len() == 1);
    cluster.eventually("the server to have spoken", own).await;
    cluster.stop().await;
}
