//! Garbage collection against a real API server.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Cluster, PODS};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";
const SETS: &str = "/apis/apps/v1/namespaces/default/replicasets";

async fn map(cluster: &Cluster, name: &str, owners: Value) -> Value {
    cluster.post(MAPS, json!({"metadata": {"name": name, "ownerReferences": owners}})).await
}

fn owner(object: &Value, blocks: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": object["metadata"]["name"], "uid": object["metadata"]["uid"], "blockOwnerDeletion": blocks})
}

/// A kind that the API server does not have from the start.
async fn define_things(cluster: &Cluster) {
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    cluster
        .post(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            json!({"metadata": {"name": "things.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}}),
        )
        .await;
    cluster.eventually("things are served", async || cluster.try_get(THINGS).await.is_some()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_go_with_their_last_owner() {
    let cluster = Cluster::start().await;
    let (a, b) = (map(&cluster, "a", json!([])).await, map(&cluster, "b", json!([])).await);
    map(&cluster, "of-a", json!([owner(&a, false)])).await;
    map(&cluster, "of-both", json!([owner(&a, false), owner(&b, false)])).await;
    cluster.delete(&format!("{MAPS}/a"), "Background").await;
    cluster.eventually("the dependent is gone", async || cluster.try_get(&format!("{MAPS}/of-a")).await.is_none()).await;
    let both = format!("{MAPS}/of-both");
    cluster
        .eventually("one owner is left", async || {
            cluster.get(&both).await["metadata"]["ownerReferences"].as_array().map(Vec::len) == Some(1)
        })
        .await;
    cluster.delete(&format!("{MAPS}/b"), "Background").await;
    cluster.eventually("the other is gone", async || cluster.try_get(&both).await.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dependent_of_an_owner_that_never_was_goes_and_another_name_in_its_place_does_not_save_it() {
    let cluster = Cluster::start().await;
    let real = map(&cluster, "real", json!([])).await;
    let mut stale = owner(&real, false);
    stale["uid"] = "00000000-0000-0000-0000-000000000000".into();
    map(&cluster, "stale", json!([stale])).await;
    map(&cluster, "good", json!([owner(&real, false)])).await;
    cluster.eventually("the stale one is gone", async || cluster.try_get(&format!("{MAPS}/stale")).await.is_none()).await;
    assert!(cluster.try_get(&format!("{MAPS}/good")).await.is_some());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreground_deletion_waits_for_dependents_that_block() {
    let cluster = Cluster::start().await;
    let a = map(&cluster, "a", json!([])).await;
    let path = format!("{MAPS}/child");
    cluster
        .post(MAPS, json!({"metadata": {"name": "child", "finalizers": ["example.com/hold"], "ownerReferences": [owner(&a, true)]}}))
        .await;
    cluster.delete(&format!("{MAPS}/a"), "Foreground").await;
    cluster.eventually("the child is being deleted", async || cluster.get(&path).await["metadata"]["deletionTimestamp"].is_string()).await;
    let a = cluster.get(&format!("{MAPS}/a")).await;
    assert_eq!(a["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    cluster.patch(&path, json!({"metadata": {"finalizers": null}})).await;
    cluster.eventually("the owner goes last", async || cluster.try_get(&format!("{MAPS}/a")).await.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaning_deletion_lets_the_dependents_go() {
    let cluster = Cluster::start().await;
    let set = json!({"metadata": {"name": "web"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.post(SETS, set).await;
    cluster.eventually("two pods", async || cluster.list(PODS).await.len() == 2).await;
    cluster.delete(&format!("{SETS}/web"), "Orphan").await;
    cluster.eventually("the set is gone", async || cluster.try_get(&format!("{SETS}/web")).await.is_none()).await;
    let pods = cluster.list(PODS).await;
    assert_eq!(pods.len(), 2);
    assert!(pods.iter().all(|p| p["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty)), "{pods:#?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphaning_deletion_lets_go_what_no_cache_shows_yet() {
    let cluster = Cluster::start().await;
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = async |name: &str, owner: &Value| {
        cluster.post(secrets, json!({"metadata": {"name": name, "ownerReferences": [owner]}})).await;
    };
    // Once one has been collected, secrets are known to have been listed.
    secret("listed", &json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "gone"})).await;
    cluster.eventually("secrets to be listed", async || cluster.try_get(&format!("{secrets}/listed")).await.is_none()).await;
    let owner = owner(&map(&cluster, "a", json!([])).await, false);
    secret("seen", &owner).await;
    cluster.late.send_replace("secrets".to_owned());
    secret("unseen", &owner).await;
    cluster.delete(&format!("{MAPS}/a"), "Orphan").await;
    cluster.eventually("the owner is gone", async || cluster.try_get(&format!("{MAPS}/a")).await.is_none()).await;
    for name in ["seen", "unseen"] {
        let left = cluster.get(&format!("{secrets}/{name}")).await["metadata"]["ownerReferences"].clone();
        assert!(left.as_array().is_none_or(Vec::is_empty), "{name}: {left}");
    }
    cluster.late.send_replace(String::new());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_objects_are_collected_as_soon_as_their_kind_exists() {
    let cluster = Cluster::start().await;
    define_things(&cluster).await;
    let things = THINGS;
    let thing = cluster.post(things, json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}})).await;
    let reference = json!([{"apiVersion": "example.com/v1", "kind": "Thing", "name": "t", "uid": thing["metadata"]["uid"]}]);
    map(&cluster, "of-thing", reference).await;
    let owned = json!([owner(&map(&cluster, "m", json!([])).await, false)]);
    cluster
        .post(things, json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "owned", "ownerReferences": owned}}))
        .await;
    cluster.delete(&format!("{things}/t"), "Background").await;
    cluster.delete(&format!("{MAPS}/m"), "Background").await;
    cluster.eventually("the map goes with the thing", async || cluster.try_get(&format!("{MAPS}/of-thing")).await.is_none()).await;
    cluster.eventually("the thing goes with the map", async || cluster.try_get(&format!("{things}/owned")).await.is_none()).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dependents_of_a_kind_that_a_busy_server_did_not_tell_of_are_let_go_before_their_owner() {
    const DISCOVERY: &str = "/apis/example.com/v1";
    let cluster = Cluster::with(&["garbage-collector-controller", "serviceaccount-controller"]).await;
    cluster.refuses(DISCOVERY, true);
    define_things(&cluster).await;
    let path = format!("{MAPS}/m");
    let owned = json!([owner(&map(&cluster, "m", json!([])).await, false)]);
    cluster
        .post(THINGS, json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "ownerReferences": owned}}))
        .await;
    cluster.eventually("a refusal is known", async || cluster.was_read(DISCOVERY) > 1).await;
    cluster.delete(&path, "Orphan").await;
    cluster.eventually("it is looked at again", async || cluster.was_read(&path) > 1 || cluster.try_get(&path).await.is_none()).await;
    assert!(cluster.try_get(&path).await.is_some(), "things that nobody has seen yet may be its dependents");
    cluster.refuses(DISCOVERY, false);
    cluster.eventually("the owner is gone", async || cluster.try_get(&path).await.is_none()).await;
    let thing = cluster.get(&format!("{THINGS}/t")).await;
    assert!(thing["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty), "{thing:#?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_in_another_namespace_is_no_owner() {
    let cluster = Cluster::start().await;
    let a = cluster.post("/api/v1/namespaces/kube-system/configmaps", json!({"metadata": {"name": "far"}})).await;
    map(&cluster, "near", json!([owner(&a, false)])).await;
    cluster.eventually("it goes", async || cluster.try_get(&format!("{MAPS}/near")).await.is_none()).await;
    cluster
        .eventually("and an event says why", async || cluster.events().await.iter().any(|e| e.contains("OwnerRefInvalidNamespace")))
        .await;
    cluster.stop().await;
}
