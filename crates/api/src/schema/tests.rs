//! The table says what the API description says, and custom schemas become the same thing.

use super::*;
use serde_json::json;

fn pod_spec() -> TypeRef<'static> {
    Types::builtin().get("io.k8s.api.core.v1.PodSpec").expect("the table has PodSpec")
}

#[test]
fn every_line_of_the_table_is_read() {
    let text = include_str!("../../data/types.tsv");
    let types = Types::builtin();
    let headers = text.lines().filter(|l| l.starts_with(':')).count();
    let fields = text.lines().filter(|l| !l.starts_with([':', '#'])).count();
    assert_eq!(types.names.len(), headers);
    assert_eq!(types.fields.len(), fields);
}

#[test]
fn containers_are_a_list_map_by_name() {
    let (_, containers) = pod_spec().field("containers").expect("declared");
    assert!(containers.required);
    assert_eq!(containers.merge_key.as_deref(), Some("name"));
    let list = pod_spec().of(containers);
    assert_eq!(list.node().list, ListType::Map(Box::new(["name".into()])));
    assert_eq!(list.go_name(), "[]v1.Container");
    assert_eq!(list.element().and_then(|c| c.child("image")).map(|t| t.shape()), Some(Shape::String));
}

#[test]
fn atomic_references_keep_their_fields() {
    let env = Types::builtin().get("io.k8s.api.core.v1.EnvVarSource").expect("declared");
    let key = env.child("secretKeyRef").expect("declared");
    assert!(key.node().is_atomic_map());
    assert!(key.field("key").is_some());
    let selector = pod_spec().child("nodeSelector").expect("declared");
    assert!(selector.node().is_atomic_map());
}

#[test]
fn shared_options_name_every_group_they_are_served_in() {
    let options = Types::builtin().get("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions").expect("declared");
    assert!(options.node().gvks.len() > 30);
}

#[test]
fn protobuf_numbers_reach_through_inlined_structs() {
    let volume = Types::builtin().get("io.k8s.api.core.v1.Volume").expect("declared");
    assert_eq!(volume.field("name").map(|(_, f)| f.wire), Some([1, 0, 0, 0]));
    assert_eq!(volume.field("emptyDir").map(|(_, f)| f.wire), Some([2, 2, 0, 0]));
}

fn widget() -> Schema {
    let gvk = Gvk { group: "example.com".into(), version: "v1".into(), kind: "Widget".into() };
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "default": 3},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                  "items": {"type": "object", "properties": {"port": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}}}},
        "raw": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "either": {"x-kubernetes-int-or-string": true},
        "tags": {"type": "object", "additionalProperties": {"type": "string"}},
        "maybe": {"type": "string", "nullable": true, "default": "x"}
    }}}});
    Schema::custom(gvk, Some(&schema)).expect("structural")
}

#[test]
fn a_custom_schema_becomes_the_same_kind_of_table() {
    let widget = widget();
    let spec = widget.root().child("spec").expect("declared");
    assert_eq!(spec.child("ports").map(|p| p.node().list.clone()), Some(ListType::Map(Box::new(["port".into()]))));
    assert_eq!(spec.child("either").map(|t| t.shape()), Some(Shape::IntOrString));
    assert_eq!(spec.child("raw").map(|t| t.shape()), Some(Shape::Free));
    assert!(widget.root().child("metadata").and_then(|m| m.child("labels")).is_some_and(|l| l.node().typed));
}

#[test]
fn defaults_of_a_custom_schema_fill_what_is_absent() {
    let mut value = json!({"spec": {"ports": [{"port": 1}], "maybe": null, "size": null}});
    set_defaults(&mut value, widget().root());
    assert_eq!(value, json!({"spec": {"ports": [{"port": 1, "protocol": "TCP"}], "maybe": null, "size": 3}}));
}

#[test]
fn a_schema_without_types_is_refused_with_its_path() {
    let gvk = Gvk { group: "example.com".into(), version: "v1".into(), kind: "Widget".into() };
    let schema = json!({"type": "object", "properties": {"spec": {"properties": {}}}});
    assert_eq!(Schema::custom(gvk, Some(&schema)).expect_err("not structural").path, "spec");
}
