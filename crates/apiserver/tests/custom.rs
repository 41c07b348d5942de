//! Custom resources from definition to deletion.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, Frames};
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}}, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}}});
    json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [version("v1", true), version("v1beta1", false)]}})
}

async fn until(watch: &mut Frames, done: impl Fn(&Value) -> bool) -> Value {
    loop {
        let event = watch.next().await.expect("the watch goes on");
        if done(&event) {
            return event;
        }
    }
}

fn established(event: &Value) -> bool {
    let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True")
}

#[tokio::test]
async fn a_definition_is_served_when_it_says_so_and_leaves_nothing_behind() {
    let cluster = Cluster::start().await;
    let mut watch = cluster.watch(&format!("{CRDS}?watch=1")).await;
    let made = cluster.post(CRDS, &definition()).await;
    assert_eq!(made.code, 201, "{}", made.text);
    until(&mut watch, established).await;
    let widget = |size: Value| json!({"metadata": {"name": "w"}, "spec": {"size": size, "unknown": 1}});
    let refused = cluster.post(WIDGETS, &widget(json!(0))).await;
    assert_eq!((refused.code, refused.json["details"]["causes"][0]["field"].as_str()), (422, Some("spec.size")), "{}", refused.text);
    let stored = cluster.post(WIDGETS, &widget(json!(1))).await;
    assert_eq!(stored.code, 201, "{}", stored.text);
    assert_eq!(stored.json["spec"], json!({"size": 1, "color": "red"}), "pruned and defaulted");
    assert_eq!(stored.json["metadata"]["generation"], 1);
    let other = cluster.get("/apis/example.com/v1beta1/namespaces/default/widgets/w").await.json;
    assert_eq!((other["apiVersion"].as_str(), other["spec"]["size"].as_i64()), (Some("example.com/v1beta1"), Some(1)));
    let status =
        cluster.patch(&format!("{WIDGETS}/w/status"), "merge-patch", &json!({"spec": {"size": 5}, "status": {"ok": true}})).await.json;
    assert_eq!(
        (status["spec"]["size"].as_i64(), status["status"]["ok"].as_bool(), status["metadata"]["generation"].as_i64()),
        (Some(1), Some(true), Some(1))
    );
    assert_eq!(cluster.patch(&format!("{WIDGETS}/w"), "strategic-merge-patch", &json!({})).await.code, 415);
    let groups = cluster.get("/apis").await.json;
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "example.com"));

    drop(watch);
    let cluster = cluster.restart().await;
    assert_eq!(cluster.get(&format!("{WIDGETS}/w")).await.code, 200);
    let mut watch = cluster.watch(&format!("{CRDS}?watch=1")).await;
    cluster.delete(&format!("{CRDS}/widgets.example.com"), &Value::Null).await;
    until(&mut watch, |e| e["type"] == "DELETED").await;
    let left = ferrokube_store::Store::range(&*cluster.store, "/registry/example.com/".into(), "/registry/example.com0".into(), None, 0)
        .await
        .unwrap();
    assert!(left.items.is_empty());
}

fn condition(definition: &Value, kind: &str) -> (String, String) {
    let found = definition["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind);
    let text = |key: &str| found.unwrap()[key].as_str().unwrap().to_owned();
    (text("status"), text("reason"))
}

#[tokio::test]
async fn groups_of_kubernetes_itself_need_an_approval() {
    let cluster = Cluster::start().await;
    let mut own = definition();
    own["metadata"]["name"] = json!("widgets.widgets.k8s.io");
    own["spec"]["group"] = json!("widgets.k8s.io");
    let refused = cluster.post(CRDS, &own).await;
    let cause = &refused.json["details"]["causes"][0];
    assert_eq!(
        (refused.code, cause["field"].as_str()),
        (422, Some("metadata.annotations[api-approved.kubernetes.io]")),
        "{}",
        refused.text
    );
    own["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, for a test"});
    let mut watch = cluster.watch(&format!("{CRDS}?watch=1")).await;
    assert_eq!(cluster.post(CRDS, &own).await.code, 201);
    let event = until(&mut watch, established).await;
    assert_eq!(condition(&event["object"], "KubernetesAPIApprovalPolicyConformant"), ("False".into(), "UnapprovedAnnotation".into()));
    assert_eq!(event["object"]["status"]["observedGeneration"], event["object"]["metadata"]["generation"]);
    let annotation = json!({"metadata": {"annotations": {"api-approved.kubernetes.io": "https://example.com/pull/1"}}});
    cluster.patch(&format!("{CRDS}/widgets.widgets.k8s.io"), "merge-patch", &annotation).await;
    until(&mut watch, |e| condition(&e["object"], "KubernetesAPIApprovalPolicyConformant").1 == "ApprovedAnnotation").await;
}

#[tokio::test]
async fn nothing_new_comes_while_a_definition_goes() {
    let cluster = Cluster::start().await;
    let mut watch = cluster.watch(&format!("{CRDS}?watch=1")).await;
    cluster.post(CRDS, &definition()).await;
    until(&mut watch, established).await;
    // A finalizer of a custom resource needs no domain in front, unlike those of built-in kinds.
    let widget = |name: &str| json!({"metadata": {"name": name, "finalizers": ["hold.example.com"]}, "spec": {"size": 1}});
    let made = cluster.post(WIDGETS, &widget("a")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    cluster.delete(&format!("{CRDS}/widgets.example.com"), &Value::Null).await;
    until(&mut watch, |e| e["object"]["status"]["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Terminating")).await;
    let refused = cluster.post(WIDGETS, &widget("b")).await;
    assert_eq!((refused.code, refused.message()), (405, "create not allowed while custom resource definition is terminating"));
    let freed = cluster.patch(&format!("{WIDGETS}/a"), "merge-patch", &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.code, 200, "{}", freed.text);
    until(&mut watch, |e| e["type"] == "DELETED").await;
}

#[tokio::test]
async fn stored_objects_are_read_by_the_schema_of_now() {
    let cluster = Cluster::start().await;
    let mut definitions = cluster.watch(&format!("{CRDS}?watch=1")).await;
    cluster.post(CRDS, &definition()).await;
    until(&mut definitions, established).await;
    let made = cluster.post(WIDGETS, &json!({"metadata": {"name": "a"}, "spec": {"size": 1}})).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let mut watch = cluster.watch(&format!("{WIDGETS}?watch=1&resourceVersion={}", made.version())).await;
    // A new field with a default, and another that is no more.
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
    let change = json!([
        {"op": "add", "path": format!("{spec}/properties/shape"), "value": {"type": "string", "default": "round"}},
        {"op": "add", "path": "/spec/versions/0/selectableFields", "value": [{"jsonPath": ".spec.shape"}]},
        {"op": "remove", "path": format!("{spec}/properties/size")},
        {"op": "remove", "path": format!("{spec}/required")},
    ]);
    let changed = cluster.patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &change).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    // Who watched has to list again.
    while watch.next().await.is_some() {}
    let selected = loop {
        let list = cluster.get(&format!("{WIDGETS}?fieldSelector=spec.shape%3Dround")).await;
        if list.code == 200 {
            break list;
        }
        tokio::task::yield_now().await;
    };
    let expected = json!({"color": "red", "shape": "round"});
    assert_eq!(selected.json["items"][0]["spec"], expected, "{}", selected.text);
    let read = cluster.get(&format!("{WIDGETS}/a")).await;
    assert_eq!((&read.json["spec"], read.version()), (&expected, made.version()), "nothing was written");
    // What is written from then on has it in the store.
    let mut watch = cluster.watch(&format!("{WIDGETS}?watch=1&resourceVersion={}", selected.version())).await;
    let labelled = cluster.patch(&format!("{WIDGETS}/a"), "merge-patch", &json!({"metadata": {"labels": {"color": "y"}}})).await;
    assert_eq!(labelled.json["spec"], expected, "{}", labelled.text);
    assert_eq!(watch.next().await.expect("an event")["object"]["spec"], expected);
    let change = json!([{"op": "remove", "path": format!("{spec}/properties/shape/default")}]);
    cluster.patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &change).await;
    while watch.next().await.is_some() {}
    assert_eq!(cluster.get(&format!("{WIDGETS}/a")).await.json["spec"], expected);
}

#[tokio::test]
async fn writing_the_same_again_moves_an_object_to_the_storage_version_of_now_once() {
    let cluster = Cluster::start().await;
    let mut definitions = cluster.watch(&format!("{CRDS}?watch=1")).await;
    cluster.post(CRDS, &definition()).await;
    until(&mut definitions, established).await;
    let made = cluster.post(WIDGETS, &json!({"metadata": {"name": "a"}, "spec": {"size": 1}})).await;
    let path = format!("{WIDGETS}/a");
    let same = cluster.put(&path, &made.json).await;
    assert_eq!((same.code, same.version()), (200, made.version()), "nothing to write");
    let change = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    let changed = cluster.patch(&format!("{CRDS}/widgets.example.com"), "json-patch", &change).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    // The change is in effect a moment later.
    let moved = loop {
        let same = cluster.put(&path, &made.json).await;
        if same.version() != made.version() {
            break same;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((moved.code, &moved.json["spec"]), (200, &made.json["spec"]), "{}", moved.text);
    assert_eq!(cluster.put(&path, &moved.json).await.version(), moved.version(), "once");
    let other = cluster.get("/apis/example.com/v1beta1/namespaces/default/widgets/a").await;
    assert_eq!((&other.json["apiVersion"], other.version()), (&json!("example.com/v1beta1"), moved.version()));
}

#[tokio::test]
async fn later_names_that_conflict_leave_a_definition_served_under_the_earlier_ones() {
    let cluster = Cluster::start().await;
    let mut watch = cluster.watch(&format!("{CRDS}?watch=1")).await;
    let named = |plural: &str, kind: &str, short: &str| {
        let mut made = definition();
        made["metadata"]["name"] = json!(format!("{plural}.example.com"));
        made["spec"]["names"] = json!({"plural": plural, "kind": kind, "shortNames": [short]});
        made
    };
    for (plural, kind, short) in [("widgets", "Widget", "w"), ("gadgets", "Gadget", "g")] {
        assert_eq!(cluster.post(CRDS, &named(plural, kind, short)).await.code, 201);
        until(&mut watch, established).await;
    }
    let taken = json!({"spec": {"names": {"shortNames": ["w", "h"]}}});
    let changed = cluster.patch(&format!("{CRDS}/gadgets.example.com"), "merge-patch", &taken).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    let refused = |event: &Value| {
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "NamesAccepted" && c["status"] == "False" && c["reason"] == "ShortNamesConflict")
    };
    let event = until(&mut watch, refused).await;
    assert!(established(&event), "{event}");
    assert_eq!(event["object"]["status"]["acceptedNames"]["shortNames"], json!(["g"]));
    let resources = cluster.get("/apis/example.com/v1").await.json;
    let short = |name: &str| resources["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).map(|r| r["shortNames"].clone());
    assert_eq!((short("widgets"), short("gadgets")), (Some(json!(["w"])), Some(json!(["g"]))));
    let made = cluster
        .post(
            "/apis/example.com/v1/namespaces/default/gadgets",
            &json!({"metadata": {"name": "a"}, "spec": {"size": 1},
        "apiVersion": "example.com/v1", "kind": "Gadget"}),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
}
