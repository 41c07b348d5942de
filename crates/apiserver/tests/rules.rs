//! CEL rules of custom resources, through a real server.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Cluster, Reply};
use serde_json::{Value, json};
use std::path::PathBuf;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GADGETS: &str = "/apis/example.com/v1/namespaces/default/gadgets";

fn definition(spec: Value) -> Value {
    json!({"metadata": {"name": "gadgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "gadgets", "kind": "Gadget"}, "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}}]}})
}

/// Waits until the definition is served.
async fn define(cluster: &Cluster, definition: &Value) {
    let made = cluster.post(CRDS, definition).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let name = made.json["metadata"]["name"].as_str().unwrap();
    let mut watch = cluster.watch(&format!("{CRDS}?watch=1&fieldSelector=metadata.name%3D{name}")).await;
    loop {
        let event = watch.next().await.expect("the watch goes on");
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True") {
            return;
        }
    }
}

fn causes(reply: &Reply) -> Vec<String> {
    let causes = reply.json["details"]["causes"].as_array().cloned().unwrap_or_default();
    causes.iter().map(|c| format!("{}: {}", c["field"].as_str().unwrap(), c["message"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn rules_judge_creates_and_updates() {
    let cluster = Cluster::start().await;
    let spec = json!({"type": "object", "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "message": "min is above max", "fieldPath": ".min", "reason": "FieldValueForbidden"},
            {"rule": "self.max < 100", "messageExpression": "'max is ' + string(self.max)"},
            {"rule": "oldSelf.?fixed.orValue('') == self.?fixed.orValue('')"},
            {"rule": "!oldSelf.hasValue() || self.max >= oldSelf.value().max", "optionalOldSelf": true, "message": "max must not shrink"}],
        "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}, "fixed": {"type": "string"},
            "name": {"type": "string", "maxLength": 20, "x-kubernetes-validations": [{"rule": "self != 'bad'", "message": "no bad names"}]},
            "ports": {"type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items":
                {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "port": {"type": "integer",
                    "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "a port stays"}]}}}}}});
    define(&cluster, &definition(spec)).await;
    let gadget = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": spec});
    let create = async |spec: Value| causes(&cluster.post(GADGETS, &gadget(spec)).await);
    assert_eq!(create(json!({"min": 5, "max": 3})).await, ["spec.min: Forbidden: min is above max"]);
    assert_eq!(create(json!({"min": 5, "max": 300})).await, ["spec: Invalid value: max is 300"]);
    assert_eq!(create(json!({"min": 1, "max": 3, "name": "bad"})).await, ["spec.name: Invalid value: \"bad\": no bad names"]);
    assert_eq!(create(json!({"max": 3})).await, ["spec: Invalid value: no such key: min evaluating rule: min is above max"]);
    let ports = json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}]);
    assert!(create(json!({"min": 1, "max": 3, "fixed": "x", "ports": ports})).await.is_empty());
    let patch = async |spec: Value| cluster.patch(&format!("{GADGETS}/g"), "merge-patch", &json!({"spec": spec})).await;
    assert_eq!(
        causes(&patch(json!({"fixed": "y"})).await),
        ["spec: Invalid value: failed rule: oldSelf.?fixed.orValue('') == self.?fixed.orValue('')"]
    );
    assert_eq!(causes(&patch(json!({"max": 2})).await), ["spec: Invalid value: max must not shrink"]);
    assert_eq!(
        causes(&patch(json!({"ports": [{"name": "b", "port": 3}, {"name": "c", "port": 9}]})).await),
        ["spec.ports[0].port: Invalid value: 3: a port stays"]
    );
    assert_eq!(patch(json!({"max": 4, "ports": [{"name": "b", "port": 2}]})).await.code, 200);
}

#[tokio::test]
async fn what_was_wrong_before_and_is_unchanged_may_stay() {
    let cluster = Cluster::start().await;
    let text = |rules: Value, extra: Value| {
        let mut schema = json!({"type": "string", "x-kubernetes-validations": rules});
        schema.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        schema
    };
    let loose =
        definition(json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}, "c": {"type": "string"}}}));
    define(&cluster, &loose).await;
    let made = json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "g"}, "spec": {"a": "wrong", "b": "wrong", "c": "1"}});
    assert_eq!(cluster.post(GADGETS, &made).await.code, 201);
    let rule = json!([{"rule": "self == 'right'", "message": "must be right"}]);
    let strict = json!({"type": "object", "properties": {"a": text(rule, json!({"maxLength": 10})), "b": text(json!([]), json!({"enum": ["right"]})), "c": {"type": "string"}}});
    let mut current = cluster.get(&format!("{CRDS}/gadgets.example.com")).await.json;
    current["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = strict;
    let changed = cluster.put(&format!("{CRDS}/gadgets.example.com"), &current).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    // The new schema serves from the moment that a new wrong object is refused.
    let other = json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "h"}, "spec": {"a": "wrong"}});
    while cluster.post(&format!("{GADGETS}?dryRun=All"), &other).await.code != 422 {
        tokio::task::yield_now().await;
    }
    let at = format!("{GADGETS}/g");
    assert_eq!(cluster.patch(&at, "merge-patch", &json!({"spec": {"c": "2"}})).await.code, 200);
    let refused = cluster.patch(&at, "merge-patch", &json!({"spec": {"a": "also wrong"}})).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert_eq!(cluster.patch(&at, "merge-patch", &json!({"spec": {"b": "still wrong"}})).await.code, 422);
    assert_eq!(cluster.patch(&at, "merge-patch", &json!({"spec": {"a": "right"}})).await.code, 200);
}

#[tokio::test]
async fn a_definition_with_a_wrong_or_expensive_rule_is_refused() {
    let cluster = Cluster::start().await;
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec]";
    let tried = async |spec: Value| causes(&cluster.post(CRDS, &definition(spec)).await);
    let list = |rules: Value| json!({"type": "object", "x-kubernetes-validations": rules, "properties": {"names": {"type": "array", "items": {"type": "string"}}}});
    let one = tried(list(json!([{"rule": "self.nams.size() > 0"}]))).await;
    assert_eq!(one.len(), 1, "{one:?}");
    assert!(one[0].starts_with(&format!("{at}.x-kubernetes-validations[0].rule: Invalid value: {{")), "{}", one[0]);
    assert!(
        one[0].ends_with("compilation failed: ERROR: <input>:1:5: undefined field 'nams'\n | self.nams.size() > 0\n | ....^"),
        "{}",
        one[0]
    );
    let one = tried(list(json!([{"rule": "self.names.size()"}]))).await;
    assert!(one[0].ends_with("rule must evaluate to a bool"), "{one:?}");
    let one = tried(list(json!([{"rule": "true", "messageExpression": "1"}]))).await;
    assert!(one[0].ends_with("messageExpression must evaluate to a string"), "{one:?}");
    let one = tried(list(json!([{"rule": "self.names.all(a, self.names.all(b, a == b || a.contains(b)))"}]))).await;
    assert!(
        one[0].starts_with(&format!(
            "{at}.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"
        )),
        "{one:?}"
    );
    assert_eq!(
        tried(list(json!([{"rule": "true", "reason": "Because", "fieldPath": ".nope"}]))).await,
        [
            format!(
                "{at}.x-kubernetes-validations[0].reason: Unsupported value: \"Because\": supported values: \"FieldValueDuplicate\", \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
            ),
            format!("{at}.x-kubernetes-validations[0].fieldPath: Invalid value: \".nope\": fieldPath must be a valid path"),
        ]
    );
    let items = json!({"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 5, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}});
    assert_eq!(
        tried(items).await,
        [format!(
            "{at}.items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within {at}.items"
        )]
    );
    // Not structural.
    assert_eq!(
        tried(json!({"type": "object", "properties": {"a": {}}, "$ref": "x"})).await,
        [
            format!("{at}.$ref: Forbidden: $ref is not supported"),
            format!("{at}.properties[a].type: Required value: must not be empty for specified object fields")
        ]
    );
    assert_eq!(tried(json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}})).await.len(), 1);
}

/// The Gateway API's definitions and its right and wrong objects, when the reference data stands beside the checkout.
fn gateway_cases() -> Option<PathBuf> {
    let below = "reference/data/staging/src/k8s.io/apiextensions-apiserver/test/integration/ratcheting_test_cases";
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|a| a.join("shared").join(below)).find(|p| p.is_dir())
}

fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("\n---").filter(|p| !p.trim().is_empty());
    parts.filter_map(|p| serde_saphyr::from_str::<Value>(p).ok()).filter(Value::is_object).collect()
}

fn files(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() { out.extend(files(&entry.path())) } else { out.push(entry.path()) }
    }
    out.sort();
    out
}

#[tokio::test]
async fn the_gateway_api_is_judged_as_upstream_judges_it() {
    let Some(cases) = gateway_cases() else {
        eprintln!("SKIPPED: ../shared is not beside the checkout");
        return;
    };
    let cluster = Cluster::start().await;
    let mut plurals = std::collections::BTreeMap::new();
    for definition in documents(&std::fs::read_to_string(cases.join("crds/standard-install.yaml")).unwrap()) {
        if definition["kind"] == "CustomResourceDefinition" {
            define(&cluster, &definition).await;
            let names = &definition["spec"]["names"];
            plurals.insert(
                names["kind"].as_str().unwrap().to_owned(),
                (names["plural"].as_str().unwrap().to_owned(), definition["spec"]["scope"] == "Namespaced"),
            );
        }
    }
    let mut judged = (0, 0);
    for (folder, wanted) in [("valid", 201), ("invalid", 422)] {
        for file in files(&cases.join(folder)) {
            for object in documents(&std::fs::read_to_string(&file).unwrap()) {
                let Some((plural, namespaced)) = plurals.get(object["kind"].as_str().unwrap()) else { continue };
                let version = object["apiVersion"].as_str().unwrap();
                let place = if *namespaced { "/namespaces/default" } else { "" };
                let mut object = object.clone();
                object["metadata"].as_object_mut().unwrap().remove("namespace");
                let reply = cluster.post(&format!("/apis/{version}{place}/{plural}?dryRun=All"), &object).await;
                assert_eq!(reply.code, wanted, "{}: {}", file.display(), reply.text);
                if wanted == 201 { judged.0 += 1 } else { judged.1 += 1 }
            }
        }
    }
    assert!(judged.0 > 5 && judged.1 > 15, "{judged:?}");
}
