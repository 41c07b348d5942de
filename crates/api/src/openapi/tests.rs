//! The documents, against a few goldens always and against the published description when it stands beside the checkout.

use super::*;
use crate::kinds;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn all() -> OpenApi {
    OpenApi::new(kinds::builtin().iter().map(|k| Served { kind: Arc::new(k.clone()), schema: None }))
}

fn parsed(document: &Document) -> Value {
    serde_json::from_slice(&document.json).expect("a document is JSON")
}

#[test]
fn the_index_points_at_every_group_version_by_hash() {
    let api = all();
    let index = parsed(&api.index());
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().expect("served");
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", api.hash("apis/apps/v1").expect("served")));
    assert_eq!(api.hash("apis/apps/v1"), all().hash("apis/apps/v1"));
    assert!(api.v3("apis/none/v1").is_none());
}

#[test]
fn lists_and_maps_say_how_they_merge() {
    let document = parsed(&all().v3("api/v1").expect("served"));
    let schema = |name: &str| &document["components"]["schemas"][format!("io.k8s.api.core.v1.{name}")];
    let mut ports = schema("ServiceSpec")["properties"]["ports"].clone();
    ports.as_object_mut().expect("an object").remove("description");
    assert_eq!(
        ports,
        json!({
        "type": "array", "items": {"$ref": "#/components/schemas/io.k8s.api.core.v1.ServicePort"},
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
        "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "port"})
    );
    assert_eq!(schema("Pod")["x-kubernetes-group-version-kind"], json!([{"group": "", "version": "v1", "kind": "Pod"}]));
    assert_eq!(schema("SecretKeySelector")["x-kubernetes-map-type"], "atomic");
    assert_eq!(schema("PodSpec")["required"], json!(["containers"]));
}

#[test]
fn closed_sets_of_values_are_told_of_fields_and_of_the_items_of_lists() {
    let document = parsed(&all().v3("api/v1").expect("served"));
    let field =
        |name: &str, field: &str| document["components"]["schemas"][format!("io.k8s.api.core.v1.{name}")]["properties"][field].clone();
    assert_eq!(field("Container", "imagePullPolicy")["enum"], json!(["Always", "IfNotPresent", "Never"]));
    let modes = field("PersistentVolumeClaimSpec", "accessModes");
    assert_eq!((modes.get("enum"), modes["items"]["enum"].as_array().map(Vec::len)), (None, Some(4)));
    assert_eq!(field("ServiceSpec", "ipFamilies")["items"]["enum"], json!(["", "IPv4", "IPv6"]));
    let v2 = parsed(&all().v2(&[]));
    assert_eq!(v2["definitions"]["io.k8s.api.core.v1.HTTPGetAction"]["properties"]["scheme"]["enum"], json!(["HTTP", "HTTPS"]));
}

#[test]
fn patch_says_that_fields_are_validated_by_the_server() {
    let document = parsed(&all().v3("apis/apps/v1").expect("served"));
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let names: Vec<&str> = patch["parameters"].as_array().into_iter().flatten().filter_map(|p| p["name"].as_str()).collect();
    assert!(names.contains(&"fieldValidation"), "{names:?}");
}

#[test]
fn types_and_fields_are_described() {
    if prose::size() < 1000 {
        eprintln!("SKIP: built without the source of k8s-openapi, so there are no descriptions");
        return;
    }
    let document = parsed(&all().v3("api/v1").expect("served"));
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert!(pod["description"].as_str().is_some_and(|d| d.starts_with("Pod is")));
    assert!(pod["properties"]["spec"]["description"].is_string());
    assert!(pod["properties"]["kind"]["description"].is_string());
    assert!(document["components"]["schemas"]["io.k8s.api.core.v1.Container"]["properties"]["image"]["description"].is_string());
}

#[test]
fn a_custom_kind_is_described_by_its_schema() {
    let row = kinds::lookup("apps", "v1", "deployments").expect("a row");
    let kind = Kind {
        group: "example.com".into(),
        kind: "Widget".into(),
        resource: "widgets".into(),
        schema: "example.com/v1/Widget".into(),
        ..row.clone()
    };
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 1}}}}});
    let api = OpenApi::new([Served { kind: Arc::new(kind), schema: Some(Arc::new(schema)) }]);
    let document = parsed(&api.v3("apis/example.com/v1").expect("served"));
    let widget = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(widget["properties"]["spec"]["properties"]["size"]["type"], "integer");
    assert!(document["components"]["schemas"].get("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").is_some());
    let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert!(patch["requestBody"]["content"].get("application/strategic-merge-patch+json").is_none());
    assert_eq!(
        parsed(&api.v2(&[]))["definitions"]["com.example.v1.Widget"]["properties"]["spec"]["properties"]["size"],
        json!({"type": "integer"})
    );
}

fn described(schema: Value) -> (Value, Value) {
    let row = kinds::lookup("apps", "v1", "deployments").expect("a row");
    let kind = Kind {
        group: "example.com".into(),
        kind: "Widget".into(),
        resource: "widgets".into(),
        schema: "example.com/v1/Widget".into(),
        ..row.clone()
    };
    let api = OpenApi::new([Served { kind: Arc::new(kind), schema: Some(Arc::new(schema)) }]);
    let v3 = parsed(&api.v3("apis/example.com/v1").expect("served"))["components"]["schemas"].clone();
    (parsed(&api.v2(&[]))["definitions"].clone(), v3)
}

/// What upstream's conformance tests and kubectl's `explain` look for.
#[test]
fn a_custom_kind_and_its_list_are_described_with_what_every_object_has() {
    let inner = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"a": {"type": "string"}}});
    let (v2, v3) = described(json!({"type": "object", "description": "A widget", "properties": {"spec": inner}}));
    for (place, reference) in [(&v2, "/$ref"), (&v3, "/allOf/0/$ref")] {
        let widget = &place["com.example.v1.Widget"];
        for metadata in [&widget["properties"]["metadata"], &widget["properties"]["spec"]["properties"]["metadata"]] {
            assert!(metadata["description"].as_str().is_some_and(|d| d.starts_with("Standard object's metadata.")), "{metadata}");
            assert!(metadata.pointer(reference).is_some(), "{metadata}");
        }
        assert_eq!(widget["properties"]["spec"]["required"], json!(["kind", "apiVersion"]));
        let list = &place["com.example.v1.WidgetList"];
        assert!(list["properties"]["kind"]["description"].as_str().is_some_and(|d| !d.is_empty()), "{list}");
    }
}

#[test]
fn what_takes_any_field_or_null_is_left_open_in_the_older_form() {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "d", "properties": {"a": {"type": "string"}}});
    let (v2, v3) = described(open.clone());
    let widget = v2["com.example.v1.Widget"].as_object().expect("a definition");
    assert_eq!(widget.keys().collect::<Vec<_>>(), ["type", "x-kubernetes-group-version-kind"]);
    assert!(v3["com.example.v1.Widget"]["properties"]["metadata"].is_object());

    let spec = json!({"type": "object", "required": ["b", "n"], "properties": {
        "open": open, "b": {"type": "string"}, "n": {"type": "array", "nullable": true, "items": {"type": "string"}},
        "either": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "checked": {"type": "string", "allOf": [{"maxLength": 3}]},
    }});
    let (v2, _) = described(json!({"type": "object", "properties": {"spec": spec}}));
    let spec = &v2["com.example.v1.Widget"]["properties"]["spec"];
    assert_eq!(spec["required"], json!(["b"]));
    assert_eq!(spec["properties"]["open"], json!({"description": "d", "x-kubernetes-preserve-unknown-fields": true}));
    assert_eq!(spec["properties"]["n"], json!({}));
    assert_eq!(spec["properties"]["either"], json!({"x-kubernetes-int-or-string": true}));
    assert_eq!(spec["properties"]["checked"], json!({"type": "string"}));
}

/// The published description beside the checkout.
fn reference() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/data/api/openapi-spec");
    if !path.is_dir() {
        eprintln!("SKIP: no ../shared/reference beside the checkout to compare the API description with");
        return None;
    }
    Some(path)
}

/// What a program reads: no prose, and sets in one order. The published description was made with OpenAPIEnums off.
fn without_descriptions(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(required)) = map.get_mut("required") {
                required.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
            }
            if map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            if map.get("enum").is_some_and(Value::is_array) {
                map.remove("enum");
            }
            map.values_mut().for_each(without_descriptions);
            // A reference is wrapped only to stand beside a description.
            if let (1, Some(Value::Array(list))) = (map.len(), map.get("allOf")) {
                *value = list[0].clone();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(without_descriptions),
        _ => {}
    }
}

fn reference_document(folder: &std::path::Path, path: &str) -> Value {
    let file = folder.join("v3").join(format!("{}_openapi.json", path.replace('/', "__")));
    serde_json::from_slice(&std::fs::read(&file).expect("the published document")).expect("JSON")
}

#[test]
fn schemas_are_those_of_the_published_description() {
    let Some(folder) = reference() else { return };
    let api = all();
    for path in api.parts.keys() {
        let (mut ours, mut theirs) = (parsed(&api.v3(path).expect("served")), reference_document(&folder, path));
        without_descriptions(&mut ours);
        without_descriptions(&mut theirs);
        assert!(ours["components"]["schemas"].as_object().is_some_and(|s| s.len() > 10));
        for (name, schema) in ours["components"]["schemas"].as_object().expect("schemas") {
            assert_eq!(Some(schema), theirs["components"]["schemas"].get(name), "{path} {name}");
        }
    }
}

/// Path → method → (action, operation id, kind, names of parameters).
fn outline(document: &Value) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten().filter(|(m, _)| *m != "parameters") {
            let lists = [&item["parameters"], &operation["parameters"]];
            let names: BTreeSet<&str> = lists
                .iter()
                .filter_map(|l| l.as_array())
                .flatten()
                .filter_map(|p| p["name"].as_str())
                .filter(|n| *n != "shardSelector")
                .collect();
            let about = format!(
                "{} {} {} {names:?}",
                operation["operationId"], operation["x-kubernetes-action"], operation["x-kubernetes-group-version-kind"]
            );
            all.insert(format!("{method} {path}"), about);
        }
    }
    all
}

#[test]
fn paths_are_those_of_the_published_description() {
    let Some(folder) = reference() else { return };
    let api = all();
    let mut wrong = Vec::new();
    for path in api.parts.keys() {
        let (ours, theirs) = (outline(&parsed(&api.v3(path).expect("served"))), outline(&reference_document(&folder, path)));
        for key in ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
            if ours.get(key) != theirs.get(key) {
                wrong.push(format!("{key}\n  ours   {:?}\n  theirs {:?}", ours.get(key), theirs.get(key)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} operations differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_old_form_defines_the_same_types() {
    let Some(folder) = reference() else { return };
    let mut theirs: Value = serde_json::from_slice(&std::fs::read(folder.join("swagger.json")).expect("published")).expect("JSON");
    let mut ours = parsed(&all().v2(&[]));
    without_descriptions(&mut ours);
    without_descriptions(&mut theirs);
    for (name, schema) in ours["definitions"].as_object().expect("definitions") {
        assert_eq!(Some(schema), theirs["definitions"].get(name), "{name}");
    }
}
