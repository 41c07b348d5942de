//! Patches and what they leave.

use super::*;
use serde_json::json;

fn deployment() -> Schema {
    Schema::builtin("io.k8s.api.apps.v1.Deployment").expect("a built-in type")
}

fn merged(live: Value, patch: Value) -> Result<Value, Status> {
    let pod = Schema::builtin("io.k8s.api.core.v1.Pod").expect("a built-in type");
    let mut value = live;
    strategic_merge(&mut value, patch, &pod).map(|()| value)
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|v| v["name"].as_str()).collect()
}

#[test]
fn containers_merge_by_name_and_keep_the_rest() {
    let live =
        json!({"spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "2"}]}});
    let patch = json!({"spec": {"containers": [{"name": "a", "image": "9", "env": [{"name": "Y", "value": null, "valueFrom": {}}]}]}});
    let result = merged(live, patch).expect("valid");
    let containers = &result["spec"]["containers"];
    assert_eq!(names(containers), ["a", "b"]);
    assert_eq!(containers[0]["image"], "9");
    // Elements that only the patch has stand where the patch puts them, as upstream orders them.
    assert_eq!(containers[0]["env"], json!([{"name": "Y", "valueFrom": {}}, {"name": "X", "value": "1"}]));
}

#[test]
fn directives_delete_and_replace() {
    let live =
        || json!({"spec": {"nodeSelector": {"a": "1"}, "containers": [{"name": "a"}, {"name": "b"}], "securityContext": {"runAsUser": 1}}});
    let cases = [
        (json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}), "/spec/containers", json!([{"name": "b"}])),
        (json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "c"}]}}), "/spec/containers", json!([{"name": "c"}])),
        (json!({"spec": {"securityContext": {"$patch": "delete"}}}), "/spec/securityContext", json!({})),
        (json!({"spec": {"securityContext": {"$patch": "replace", "fsGroup": 2}}}), "/spec/securityContext", json!({"fsGroup": 2})),
        (json!({"spec": {"nodeSelector": {"b": "2", "a": null}}}), "/spec/nodeSelector", json!({"b": "2"})),
        (json!({"spec": {"containers": null}}), "/spec/securityContext", json!({"runAsUser": 1})),
    ];
    for (patch, path, expected) in cases {
        assert_eq!(merged(live(), patch.clone()).expect("valid").pointer(path), Some(&expected), "{patch}");
    }
}

#[test]
fn order_directive_sets_the_order_of_named_elements() {
    let live = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "own"}, {"name": "c"}]}});
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "x"}]}});
    let result = merged(live, patch).expect("valid");
    // The server's own element stands before the first named one that it preceded.
    assert_eq!(names(&result["spec"]["containers"]), ["own", "c", "b", "a"]);
}

#[test]
fn primitive_lists_merge_as_sets() {
    let live = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let patch =
        json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"], "$setElementOrder/finalizers": ["d", "a"], "finalizers": ["d"]}});
    let result = merged(live, patch).expect("valid");
    let left = result["metadata"]["finalizers"].as_array().expect("a list");
    assert_eq!(left.len(), 3);
    assert!(!left.contains(&json!("b")));
}

#[test]
fn retain_keys_clears_what_it_does_not_name() {
    let mut live = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    strategic_merge(&mut live, patch, &deployment()).expect("valid");
    assert_eq!(live, json!({"spec": {"strategy": {"type": "Recreate"}}}));
    let bad = json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}});
    assert_eq!(strategic_merge(&mut live, bad, &deployment()).expect_err("bad").message, "invalid patch format of retainKeys");
}

#[test]
fn errors_are_those_of_the_patch_library() {
    let live = || json!({"spec": {"containers": [{"name": "a"}]}});
    let cases = [
        (json!({"spec": {"containers": [{"image": "x"}]}}), "map: {\"image\":\"x\"} does not contain declared merge key: name", 500),
        (json!({"spec": {"containers": [{"$patch": "merge"}]}}), "merging lists cannot yet be specified in the patch", 500),
        (json!({"spec": {"$setElementOrder/containers": "x"}}), "invalid patch format of setElementOrder list", 400),
        (json!({"spec": {"containers": [{"name": "a"}, 1]}}), "list element types are not identical", 500),
    ];
    for (patch, message, code) in cases {
        let error = merged(live(), patch).expect_err("bad");
        assert_eq!((error.message.as_str(), error.code), (message, code));
    }
    assert!(
        merged(live(), json!([]))
            .expect_err("bad")
            .message
            .contains("json: cannot unmarshal array into Go value of type map[string]interface {}")
    );
}

#[test]
fn a_new_branch_is_taken_without_its_directives() {
    let patch = json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "emptyDir"], "emptyDir": {}, "hostPath": null}]}});
    assert_eq!(merged(json!({}), patch).expect("valid"), json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}));
}

#[test]
fn json_patch_is_all_or_nothing() {
    let mut value = json!({"a": 1, "list": [1]});
    let patch = json!([{"op": "add", "path": "/list/-", "value": 2}, {"op": "test", "path": "/a", "value": 2}]);
    let error = json_patch(&mut value, &patch).expect_err("the test fails");
    assert_eq!((error.code, value.clone()), (422, json!({"a": 1, "list": [1]})));
    assert_eq!(json_patch(&mut value, &json!({})).expect_err("not a patch").code, 400);
    let many = vec![json!({"op": "remove", "path": "/a"}); MOST_OPERATIONS + 1];
    assert_eq!(json_patch(&mut value, &Value::Array(many)).expect_err("too many").code, 413);
    json_patch(&mut value, &json!([{"op": "replace", "path": "/a", "value": 3}])).expect("valid");
    assert_eq!(value["a"], 3);
}

#[test]
fn what_is_no_operation_fails_like_one_that_does_not_fit() {
    let told = |operation: Value| {
        let status = json_patch(&mut json!({"a": 1}), &json!([operation])).expect_err("refused");
        (status.code, status.message, status.details)
    };
    let misfit =
        (422, "the server rejected our request due to an error in our request".to_owned(), Some(crate::status::Details::default()));
    for operation in [
        json!({"op": "flip", "path": "/a"}),
        json!({"op": "remove"}),
        json!({"path": "/a"}),
        json!({"op": "test", "path": "/a", "value": 2}),
    ] {
        assert_eq!(told(operation.clone()), misfit, "{operation}");
    }
    for (operation, why) in [
        (json!({"op": 1}), "number into Go struct field jsonPatchOp.op of type string"),
        (json!("x"), "string into Go value of type handlers.jsonPatchOp"),
    ] {
        assert_eq!(told(operation), (400, format!("error decoding patch: json: cannot unmarshal {why}"), None));
    }
    let mut value = json!({});
    json_patch(&mut value, &json!([{"op": "add", "path": "/a"}])).expect("null is a value");
    assert_eq!(value, json!({"a": null}));
    assert_eq!(unknown_fields(&json!([{"op": "add", "path": "/a", "vlaue": 1}])), [r#"unknown field "[0].vlaue""#]);
}

#[test]
fn a_json_patch_may_test_that_something_is_not_there() {
    let patch = json!([{"op": "test", "path": "/m/f~1g", "value": null}, {"op": "add", "path": "/m/f~1g", "value": [1]}]);
    let mut value = json!({"m": {}});
    json_patch(&mut value, &patch).expect("it is not there");
    assert_eq!(value, json!({"m": {"f/g": [1]}}));
    assert_eq!(json_patch(&mut value, &patch).expect_err("it is there").code, 422);
    assert_eq!(json_patch(&mut json!({}), &patch).expect_err("there is nothing it could be in").code, 422);
}

#[test]
fn merge_patch_removes_with_null() {
    let mut value = json!({"a": {"b": 1, "c": 2}});
    merge_patch(&mut value, &json!({"a": {"b": null, "d": [1]}})).expect("valid");
    assert_eq!(value, json!({"a": {"c": 2, "d": [1]}}));
    assert!(merge_patch(&mut value, &json!([1])).is_err());
}
