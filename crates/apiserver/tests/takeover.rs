//! A store that a Go API server wrote: its objects are served, watched and changed as if they were our own.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, Frames, MAPS};
use ferrokube_api::kinds;
use ferrokube_api::protobuf;
use ferrokube_api::schema::Schema;
use ferrokube_apiserver::foreign;
use ferrokube_store::{Expect, Store};
use serde_json::{Value, json};
use std::path::PathBuf;

fn in_protobuf(object: &Value, schema: &str) -> Vec<u8> {
    protobuf::write(object.to_string().as_bytes(), &Schema::builtin(schema).unwrap()).unwrap()
}

async fn put(cluster: &Cluster, key: &str, value: Vec<u8>) {
    cluster.store.put(key.to_owned().into(), value.into(), Expect::Any, None).await.unwrap();
}

fn map(name: &str) -> Vec<u8> {
    let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default", "uid": "u", "labels": {"l": "1"}}, "data": {"k": "v"}});
    in_protobuf(&map, "io.k8s.api.core.v1.ConfigMap")
}

#[tokio::test]
async fn protobuf_in_the_store_is_listed_watched_changed_and_deleted() {
    let cluster = Cluster::start().await;
    let at = cluster.get(MAPS).await.version();
    let mut watch = cluster.watch(&format!("{MAPS}?watch=1&resourceVersion={at}&labelSelector=l%3D1")).await;
    put(&cluster, "/registry/configmaps/default/a", map("a")).await;
    assert_eq!(watch.told().await, common::pair("ADDED", "a"));
    let scaler = json!({"kind": "HorizontalPodAutoscaler", "apiVersion": "autoscaling/v2", "metadata": {"name": "h", "namespace": "default"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}});
    let scaler = in_protobuf(&scaler, "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler");
    put(&cluster, "/registry/horizontalpodautoscalers/default/h", scaler).await;

    drop(watch);
    // What a server finds at its start, and what comes while it runs, is the same.
    let cluster = cluster.restart().await;
    let list = cluster.get(&format!("{MAPS}?labelSelector=l%3D1")).await.json;
    assert_eq!((list["items"].as_array().map(Vec::len), &list["items"][0]["data"]["k"]), (Some(1), &json!("v")));
    let scaler = cluster.get("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h").await.json;
    assert_eq!((scaler["apiVersion"].as_str(), scaler["spec"]["maxReplicas"].as_i64()), (Some("autoscaling/v1"), Some(3)));

    assert!(cluster.stored("/registry/configmaps/default/a").await.starts_with(b"k8s\0"), "reading writes nothing");
    let patched = cluster.patch(&format!("{MAPS}/a"), "merge-patch", &json!({"data": {"k": "w"}})).await;
    assert_eq!(
        (patched.code, &patched.json["data"]["k"], &patched.json["metadata"]["uid"]),
        (200, &json!("w"), &json!("u")),
        "{}",
        patched.text
    );
    assert!(cluster.stored("/registry/configmaps/default/a").await.starts_with(b"{\"kind\":\"ConfigMap\""));
    put(&cluster, "/registry/configmaps/default/b", map("b")).await;
    assert_eq!(cluster.delete(&format!("{MAPS}/b"), &Value::Null).await.code, 200);
}

async fn until_established(watch: &mut Frames) {
    loop {
        let event = watch.next().await.expect("the watch goes on");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return;
        }
    }
}

#[tokio::test]
async fn definitions_and_custom_objects_are_taken_over_as_upstream_stores_them() {
    let cluster = Cluster::start().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"data": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "as.example.com", "uid": "d", "generation": 1},
        "spec": {"group": "example.com", "version": "v1", "scope": "Namespaced", "names": {"plural": "as", "singular": "a", "kind": "A", "listKind": "AList"},
            "validation": schema, "preserveUnknownFields": false, "versions": [{"name": "v1", "served": true, "storage": true}], "conversion": {"strategy": "None"}},
        "status": {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v1"]}});
    // Go writes `kind` first, serde_json sorts.
    let text = definition.to_string().replacen(
        r#"{"apiVersion":"apiextensions.k8s.io/v1beta1","kind":"CustomResourceDefinition","#,
        r#"{"kind":"CustomResourceDefinition","apiVersion":"apiextensions.k8s.io/v1beta1","#,
        1,
    );
    let own = br#"{"apiVersion":"example.com/v1","data":{"metadata":{"name":"no"}},"kind":"A","metadata":{"name":"one","namespace":"default","uid":"x"}}"#;
    put(&cluster, "/registry/example.com/as/default/one", own.to_vec()).await;
    let mut watch = cluster.watch("/apis/apiextensions.k8s.io/v1/customresourcedefinitions?watch=1").await;
    put(&cluster, "/registry/apiextensions.k8s.io/customresourcedefinitions/as.example.com", text.into_bytes()).await;
    until_established(&mut watch).await;
    let one = cluster.get("/apis/example.com/v1/namespaces/default/as/one").await;
    assert_eq!((one.code, &one.json["data"]), (200, &json!({"metadata": {"name": "no"}})), "{}", one.text);
    let written = cluster.stored("/registry/apiextensions.k8s.io/customresourcedefinitions/as.example.com").await;
    let written: Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(
        (written["apiVersion"].as_str(), written["spec"]["versions"][0].get("schema")),
        (Some("apiextensions.k8s.io/v1"), Some(&schema))
    );
}

/// The objects that upstream publishes to test that old bytes can still be read.
#[test]
fn published_objects_of_every_stored_kind_are_read() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/staging/src/k8s.io/api/testdata/HEAD");
    if !folder.is_dir() {
        return println!("SKIP: no published objects at {}", folder.display());
    }
    let mut read = 0;
    for kind in kinds::builtin().iter().filter(|k| k.storage_prefix.is_some() && k.stored_as.is_none()) {
        let group = if kind.group.is_empty() { "core" } else { &kind.group };
        let file = folder.join(format!("{group}.{}.{}", kind.version, kind.kind));
        let named = |ending: &str| format!("{}.{ending}", file.display());
        let Ok(stored) = std::fs::read(named("pb")) else { continue };
        let found: Value = serde_json::from_slice(&foreign::native(&stored).unwrap_or_else(|e| panic!("{}: {e}", kind.kind))).unwrap();
        let json: Value = serde_json::from_slice(&std::fs::read(named("json")).unwrap()).unwrap();
        for key in ["spec", "status", "data", "rules", "webhooks", "subjects"] {
            assert_eq!(found.get(key).is_some(), json.get(key).is_some(), "{} {key}", kind.kind);
        }
        assert_eq!(found["metadata"]["name"], json["metadata"]["name"], "{}", kind.kind);
        assert_eq!(found["metadata"]["creationTimestamp"], json["metadata"]["creationTimestamp"], "{}", kind.kind);
        read += 1;
    }
    assert!(read > 40, "only {read} kinds");
}
