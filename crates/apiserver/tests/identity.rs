//! Who the API servers of a cluster are to each other.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, Reply};
use ferrokube_apiserver::ApiServer;
use serde_json::{Value, json};
use std::time::Duration;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
/// Of the hosts `one` and `two`.
const ONE: &str = "apiserver-lonn3mgjh4otei2c3b7rmvvvfq";
const TWO: &str = "apiserver-v43ve5boifz4om6rvlnrvkmb4i";

/// Asks until it is so.
async fn until(what: &str, cluster: &Cluster, path: &str, holds: impl Fn(&Reply) -> bool) -> Reply {
    ferrokube_testkit::wait_for(what, Duration::from_secs(120), async || {
        let reply = cluster.get(path).await;
        anyhow::ensure!(holds(&reply), "{}", reply.text);
        Ok(reply)
    })
    .await
    .unwrap()
}

fn names(listed: &Reply) -> Vec<&str> {
    listed.json["items"].as_array().unwrap().iter().map(|lease| lease["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_server_has_a_lease_and_goes_on_with_it_when_it_starts_again() {
    let one = |config: &mut ferrokube_apiserver::Config| {
        config.hostname = "one".to_owned();
        config.advertise = "192.0.2.7".parse().unwrap();
    };
    let cluster = Cluster::with(one).await;
    let path = format!("{LEASES}/{ONE}");
    let lease = until("a lease", &cluster, &path, |reply| reply.code == 200).await.json;
    let meta = &lease["metadata"];
    assert_eq!(meta["labels"], json!({"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": "one"}));
    assert_eq!(meta["annotations"], json!({"kubernetes.io/peer-advertise-address": "192.0.2.7:6443"}));
    assert_eq!(meta["managedFields"][0]["manager"], "kube-apiserver");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 3600);
    assert!(lease["spec"]["holderIdentity"].as_str().unwrap().starts_with(&format!("{ONE}_")), "{lease}");
    let health = cluster.get("/readyz?verbose").await.text;
    assert!(health.contains("[+]poststarthook/start-kube-apiserver-identity-lease-controller ok\n"), "{health}");

    let cluster = cluster.restart_with(one).await.unwrap();
    let later = |reply: &Reply| reply.json["spec"]["renewTime"].as_str() > lease["spec"]["renewTime"].as_str();
    let again = until("the lease to be renewed", &cluster, &path, later).await.json;
    assert_eq!(again["metadata"]["uid"], meta["uid"]);
    assert_eq!(again["spec"]["holderIdentity"], lease["spec"]["holderIdentity"]);
}

#[tokio::test]
async fn leases_of_servers_that_are_gone_are_removed_and_no_others() {
    let cluster = Cluster::start().await;
    let lease = |name: &str, label: &str, renewed: &str| {
        json!({"metadata": {"name": name, "labels": {"apiserver.kubernetes.io/identity": label}},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 3600, "renewTime": renewed}})
    };
    let (past, future) = ("2026-01-02T03:04:05.000000Z", "2126-01-02T03:04:05.000000Z");
    for (name, label, renewed) in [("gone", "kube-apiserver", past), ("alive", "kube-apiserver", future), ("other", "something", past)] {
        assert_eq!(cluster.post(LEASES, &lease(name, label, renewed)).await.code, 201);
    }
    let elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    assert_eq!(cluster.post(elsewhere, &lease("gone", "kube-apiserver", past)).await.code, 201);
    let cluster = cluster.restart().await;
    until("the old lease to go", &cluster, &format!("{LEASES}/gone"), |reply| reply.code == 404).await;
    for kept in [format!("{LEASES}/alive"), format!("{LEASES}/other"), format!("{elsewhere}/gone")] {
        assert_eq!(cluster.get(&kept).await.code, 200, "{kept}");
    }
}

#[tokio::test]
async fn servers_of_one_cluster_have_a_lease_each() {
    let cluster = Cluster::with(|config| config.hostname = "one".to_owned()).await;
    let mut second = cluster.pki.config(cluster.store.clone());
    second.hostname = "two".to_owned();
    let second = ApiServer::start(second).await.unwrap();
    let both = format!("{LEASES}?labelSelector=apiserver.kubernetes.io/identity%3Dkube-apiserver");
    let listed = until("two leases", &cluster, &both, |reply| names(reply).len() == 2).await;
    assert_eq!(names(&listed), [ONE, TWO]);
    second.stop().await;
    assert_eq!(names(&cluster.get(&both).await), [ONE, TWO], "until an hour has gone by");
}

#[tokio::test]
async fn without_the_feature_there_is_no_lease() {
    let cluster = Cluster::with(|config| config.features = "APIServerIdentity=false".parse().unwrap()).await;
    assert_eq!(cluster.get("/readyz/poststarthook/start-kube-apiserver-identity-lease-controller").await.code, 404);
    let metrics = cluster.get("/metrics").await.text;
    assert!(metrics.contains("kubernetes_feature_enabled{name=\"APIServerIdentity\",stage=\"BETA\"} 0\n"), "{metrics}");
    assert_eq!(cluster.get(LEASES).await.json["items"], Value::Array(Vec::new()));
}

const VERSIONS: &str = "/apis/internal.apiserver.k8s.io/v1alpha1/storageversions";

fn switch_on(config: &mut ferrokube_apiserver::Config) {
    config.hostname = "one".to_owned();
    config.features = "StorageVersionAPI=true".parse().unwrap();
    config.runtime_config = "internal.apiserver.k8s.io/v1alpha1=true".parse().unwrap();
}

#[tokio::test]
async fn every_server_says_what_it_stores_and_is_ready_when_it_has() {
    let cluster = Cluster::with(switch_on).await;
    let ready = until("the server to be ready", &cluster, "/readyz?verbose", |reply| reply.code == 200).await.text;
    assert!(ready.contains("[+]poststarthook/built-in-resources-storage-version-updater ok\n"), "{ready}");
    let listed = cluster.get(VERSIONS).await;
    assert!(names(&listed).contains(&"core.secrets") && names(&listed).contains(&"internal.apiserver.k8s.io.storageversions"));
    let path = format!("{VERSIONS}/apps.deployments");
    let said = |id: &str| json!({"apiServerID": id, "encodingVersion": "apps/v1", "decodableVersions": ["apps/v1"], "servedVersions": ["apps/v1"]});
    let first = cluster.get(&path).await.json;
    assert_eq!(first["status"]["storageVersions"], json!([said(ONE)]));
    assert_eq!(
        (&first["status"]["commonEncodingVersion"], &first["status"]["conditions"][0]["status"]),
        (&json!("apps/v1"), &json!("True"))
    );

    let mut second = cluster.pki.config(cluster.store.clone());
    switch_on(&mut second);
    second.hostname = "two".to_owned();
    let second = ApiServer::start(second).await.unwrap();
    let two = |reply: &Reply| reply.json["status"]["storageVersions"].as_array().is_some_and(|all| all.len() == 2);
    let both = until("both to have spoken", &cluster, &path, two).await.json;
    assert_eq!(both["status"]["storageVersions"], json!([said(ONE), said(TWO)]));
    assert_eq!(both["status"]["conditions"], first["status"]["conditions"], "they agree as before");
    second.stop().await;

    let nameless = cluster.post(VERSIONS, &json!({"metadata": {"name": "pods"}, "spec": {}})).await;
    assert_eq!(nameless.code, 422, "{}", nameless.text);
    let mut blind = cluster.get(&path).await.json;
    blind["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let put = cluster.put(&path, &blind).await;
    assert_eq!(
        (put.code, put.message().contains("metadata.resourceVersion: Invalid value: 0: must be specified for an update")),
        (422, true),
        "{}",
        put.text
    );
}

#[tokio::test]
async fn storage_versions_are_served_without_the_feature_and_then_nobody_speaks() {
    let cluster = Cluster::with(|config| config.runtime_config = "internal.apiserver.k8s.io/v1alpha1=true".parse().unwrap()).await;
    assert_eq!(cluster.get("/readyz/poststarthook/built-in-resources-storage-version-updater").await.code, 404);
    assert_eq!(cluster.get(VERSIONS).await.json["items"], json!([]));
    let feature = |config: &mut ferrokube_apiserver::Config| config.features = "StorageVersionAPI=true".parse().unwrap();
    let cluster = cluster.restart_with(feature).await.unwrap();
    assert_eq!((cluster.get(VERSIONS).await.code, cluster.get("/readyz").await.code), (404, 200), "there is no place to speak");
}
