//! Ownership as several managers write, and what apply makes of it.

use super::*;
use crate::Cause;
use crate::decode::{Strictness, normalize};
use serde_json::json;

fn schema(name: &str) -> Schema {
    Schema::builtin(name).expect("a built-in type")
}

fn deployment() -> Schema {
    schema("io.k8s.api.apps.v1.Deployment")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).expect("in range")
}

fn writer(manager: &str, second: i64) -> Writer<'_> {
    Writer {
        manager,
        api_version: "apps/v1",
        subresource: "",
        has_status: true,
        status_resets: Some(&["f:labels"]),
        versions: None,
        now: at(second),
    }
}

fn read(value: Value, schema: &Schema) -> Value {
    normalize(value, schema, Strictness::Strict).expect("valid").value
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "default"}, "spec": spec})
}

fn applied(live: Option<&Value>, spec: Value, manager: &str, second: i64) -> Value {
    apply(live, config(spec), &deployment(), false, &writer(manager, second)).expect("no conflict")
}

fn fields(object: &Value, manager: &str) -> Value {
    let entry = managed::raw(object).iter().find(|e| e["manager"] == manager);
    entry.map_or(Value::Null, |e| e["fieldsV1"].clone())
}

fn managers(object: &Value) -> Vec<&str> {
    managed::raw(object).iter().filter_map(|e| e["manager"].as_str()).collect()
}

#[test]
fn a_create_owns_what_it_set_beyond_gos_zeros() {
    let pod = schema("io.k8s.api.core.v1.Pod");
    let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "TCP"}]}], "nodeSelector": {"a": "b"},
                 "tolerations": [{"key": "k"}], "securityContext": {}}});
    let mut object = read(body, &pod);
    track_update(None, &mut object, &pod, &Writer { api_version: "v1", ..writer("kubectl-create", 0) });
    let entry = &managed::raw(&object)[0];
    assert_eq!((entry["operation"].as_str(), entry["time"].as_str()), (Some("Update"), Some("2027-01-15T08:00:00Z")));
    assert_eq!(
        entry["fieldsV1"],
        json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {
                "f:containers": {"k:{\"name\":\"c\"}": {
                    ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                    "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}}}},
                "f:nodeSelector": {}, "f:securityContext": {}, "f:tolerations": {}}
        })
    );
}

#[test]
fn an_update_takes_over_only_what_it_changes() {
    let deployment = deployment();
    let mut first =
        read(config(json!({"replicas": 1, "paused": true, "selector": {"matchLabels": {"a": "b"}}, "template": {}})), &deployment);
    track_update(None, &mut first, &deployment, &writer("one", 0));
    let mut second = first.clone();
    second["spec"]["replicas"] = json!(2);
    track_update(Some(&first), &mut second, &deployment, &writer("two", 5));
    assert_eq!(fields(&second, "two"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields(&second, "one"), json!({"f:spec": {"f:paused": {}, "f:selector": {}}}));
    let mut same = second.clone();
    track_update(Some(&second), &mut same, &deployment, &writer("three", 9));
    assert_eq!(same, second);
    let mut removed = second.clone();
    removed["spec"].as_object_mut().expect("an object").remove("paused");
    removed["metadata"].as_object_mut().expect("an object").remove("managedFields");
    track_update(Some(&second), &mut removed, &deployment, &writer("two", 9));
    assert_eq!(fields(&removed, "one"), json!({"f:spec": {"f:selector": {}}}));
}

#[test]
fn the_status_view_owns_status_and_nothing_else() {
    let deployment = deployment();
    let mut live = read(config(json!({"replicas": 1, "selector": {}, "template": {}})), &deployment);
    track_update(None, &mut live, &deployment, &writer("one", 0));
    let mut new = live.clone();
    new["status"] = json!({"replicas": 1, "conditions": [{"type": "Available", "status": "True"}]});
    new["metadata"]["labels"] = json!({"x": "y"});
    track_update(Some(&live), &mut new, &deployment, &Writer { subresource: "status", ..writer("one", 5) });
    let entry = managed::raw(&new).iter().find(|e| e["subresource"] == "status").expect("a second entry of the same manager");
    assert_eq!(
        entry["fieldsV1"],
        json!({"f:status": {"f:replicas": {}, "f:conditions": {
        ".": {}, "k:{\"type\":\"Available\"}": {".": {}, "f:type": {}, "f:status": {}}}}})
    );
}

#[test]
fn applying_less_takes_away_what_nobody_else_owns() {
    let one = applied(None, json!({"replicas": 1, "paused": true, "minReadySeconds": 3}), "a", 0);
    assert_eq!(fields(&one, "a"), json!({"f:spec": {"f:replicas": {}, "f:paused": {}, "f:minReadySeconds": {}}}));
    let two = applied(Some(&one), json!({"paused": true}), "b", 1);
    let three = applied(Some(&two), json!({"replicas": 1}), "a", 2);
    // Still there because b applied it too; gone because only a had.
    assert_eq!(three["spec"], json!({"replicas": 1, "paused": true}));
    assert_eq!(managers(&three), ["b", "a"]);
}

#[test]
fn list_elements_come_and_go_with_their_applier() {
    let template = |containers: Value| json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}}});
    let one = applied(None, template(json!([{"name": "x", "image": "1"}, {"name": "y", "image": "2"}])), "a", 0);
    let two = applied(Some(&one), template(json!([{"name": "z", "image": "3"}])), "b", 1);
    let three = applied(Some(&two), template(json!([{"name": "y", "image": "9"}])), "a", 2);
    let containers = &three["spec"]["template"]["spec"]["containers"];
    let names: Vec<&str> = containers.as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names.contains(&"y") && names.contains(&"z"));
    assert_eq!(three["spec"]["template"]["metadata"]["labels"], json!({"a": "b"}));
}

#[test]
fn conflicts_name_manager_and_field() {
    let mut live = read(config(json!({"replicas": 1, "selector": {}, "template": {}})), &deployment());
    track_update(None, &mut live, &deployment(), &writer("kubectl-client", 0));
    let error = apply(Some(&live), config(json!({"replicas": 3})), &deployment(), false, &writer("me", 1)).expect_err("conflict");
    assert_eq!((error.code, error.reason), (409, Some(Reason::Conflict)));
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"kubectl-client\" using apps/v1: .spec.replicas");
    let causes = error.details.expect("details").causes;
    assert_eq!(
        causes,
        [Cause {
            kind: "FieldManagerConflict".into(),
            message: "conflict with \"kubectl-client\" using apps/v1".into(),
            field: ".spec.replicas".into()
        }]
    );
    let forced = apply(Some(&live), config(json!({"replicas": 3})), &deployment(), true, &writer("me", 1)).expect("forced");
    assert_eq!(forced["spec"]["replicas"], 3);
    assert_eq!(fields(&forced, "me"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(fields(&forced, "kubectl-client")["f:spec"].get("f:replicas"), None);
    // The same value is no conflict, and is then owned by both.
    let shared = apply(Some(&live), config(json!({"replicas": 1})), &deployment(), false, &writer("me", 1)).expect("the same value");
    assert_eq!(managers(&shared), ["me", "kubectl-client"]);
}

#[test]
fn several_conflicts_are_listed_by_manager() {
    let one = applied(None, json!({"replicas": 1, "paused": true}), "a", 0);
    let two = applied(Some(&one), json!({"minReadySeconds": 1}), "b", 1);
    let error =
        apply(Some(&two), config(json!({"replicas": 2, "paused": false, "minReadySeconds": 2})), &deployment(), false, &writer("c", 2))
            .expect_err("conflicts");
    assert_eq!(
        error.message,
        "Apply failed with 3 conflicts: conflicts with \"a\":\n- .spec.paused\n- .spec.replicas\nconflicts with \"b\":\n- .spec.minReadySeconds"
    );
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let one = applied(None, json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}}), "a", 0);
    assert_eq!(applied(Some(&one), json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}}), "a", 50), one);
}

#[test]
fn what_was_there_before_apply_belongs_to_nobody_that_can_be_asked() {
    let live = read(config(json!({"replicas": 1, "selector": {}, "template": {}})), &deployment());
    let error = apply(Some(&live), config(json!({"replicas": 2})), &deployment(), false, &writer("me", 1)).expect_err("conflict");
    assert!(error.message.contains("conflict with \"before-first-apply\" using apps/v1: .spec.replicas"));
}

#[test]
fn kubectl_moves_from_client_side_apply_without_conflict() {
    let annotation = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1}}).to_string();
    let mut live = read(config(json!({"replicas": 1, "selector": {}, "template": {}})), &deployment());
    live["metadata"]["annotations"] = json!({LAST_APPLIED: annotation});
    track_update(None, &mut live, &deployment(), &writer("kubectl-client-side-apply", 0));
    let moved = apply(Some(&live), config(json!({"replicas": 5})), &deployment(), false, &writer("kubectl", 1)).expect("migrated");
    assert_eq!(moved["spec"]["replicas"], 5);
    assert!(text(&moved, &["metadata", "annotations", LAST_APPLIED]).contains("\"replicas\":5"));
    apply(Some(&live), config(json!({"replicas": 5})), &deployment(), false, &writer("other", 1)).expect_err("others do conflict");
}

#[test]
fn a_configuration_that_does_not_fit_is_refused_in_the_words_of_the_converter() {
    let refused = |patch: Value| apply(None, patch, &deployment(), false, &writer("a", 0)).expect_err("refused").message;
    assert_eq!(
        refused(config(json!({"foo": 1, "replicas": "x"}))),
        "failed to create typed patch object (default/d; apps/v1, Kind=Deployment): errors:\n  .spec.foo: field not declared in schema\n  \
         .spec.replicas: expected numeric (int or float), got string"
    );
    let twice = json!({"template": {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}}});
    assert!(refused(config(twice)).ends_with(".spec.template.spec.containers: duplicate entries for key [name=\"a\"]"));
    let mut other = config(json!({}));
    other["metadata"]["managedFields"] = json!([{"manager": "x"}]);
    assert_eq!(refused(other), "metadata.managedFields must be nil");
}

#[test]
fn old_updaters_are_merged_beyond_ten() {
    let deployment = deployment();
    let mut live = read(config(json!({"selector": {}, "template": {}})), &deployment);
    track_update(None, &mut live, &deployment, &writer("m0", 0));
    for n in 1..15i64 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{n}")] = json!("x");
        let name = format!("m{n}");
        track_update(Some(&live), &mut new, &deployment, &writer(&name, n));
        live = new;
    }
    let names = managers(&live);
    assert_eq!(names.len(), 10);
    assert_eq!(names.iter().filter(|n| **n == "ancient-changes").count(), 1);
    assert!(fields(&live, "ancient-changes")["f:metadata"]["f:labels"].get("f:l3").is_some());
}

#[test]
fn one_empty_entry_forgets_all_managers() {
    let deployment = deployment();
    let mut live = read(config(json!({"replicas": 1, "selector": {}, "template": {}})), &deployment);
    track_update(None, &mut live, &deployment, &writer("one", 0));
    let mut new = live.clone();
    new["metadata"]["managedFields"] = json!([{}]);
    track_update(Some(&live), &mut new, &deployment, &writer("two", 1));
    assert_eq!(new["metadata"].get("managedFields"), None);
    let mut kept = live.clone();
    kept["metadata"]["managedFields"] = json!([]);
    track_update(Some(&live), &mut kept, &deployment, &writer("two", 1));
    assert_eq!(managers(&kept), ["one"]);
}

#[test]
fn custom_objects_merge_by_their_schema() {
    let gvk = crate::schema::Gvk { group: "example.com".into(), version: "v1".into(), kind: "Widget".into() };
    let openapi = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}, "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}}}});
    let widget = Schema::custom(gvk, Some(&openapi)).expect("structural");
    let body = |spec: Value| json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec});
    let who = |manager| Writer { api_version: "example.com/v1", has_status: false, ..writer(manager, 0) };
    let one = apply(None, body(json!({"tags": ["a"]})), &widget, false, &who("x")).expect("valid");
    let two = apply(Some(&one), body(json!({"tags": ["b"], "size": 1})), &widget, false, &who("y")).expect("valid");
    assert_eq!(two["spec"]["tags"].as_array().map(Vec::len), Some(2));
    assert_eq!(fields(&two, "y"), json!({"f:spec": {"f:size": {}, "f:tags": {"v:\"b\"": {}}}}));
    let three = apply(Some(&two), body(json!({"tags": ["c"]})), &widget, false, &who("x")).expect("valid");
    assert!(!three["spec"]["tags"].as_array().expect("a list").contains(&json!("a")));
    let mut created = body(json!({"size": 1}));
    track_update(None, &mut created, &widget, &who("z"));
    assert_eq!(fields(&created, "z"), json!({"f:spec": {".": {}, "f:size": {}}}));
}

mod laws {
    //! Sets of paths obey the laws of sets, and merging is stable.

    use super::*;
    use proptest::prelude::*;

    fn element() -> impl Strategy<Value = String> {
        prop_oneof![Just("f:a".to_owned()), Just("f:b".to_owned()), Just("k:{\"name\":\"x\"}".to_owned()), Just("v:1".to_owned())]
    }

    fn set() -> impl Strategy<Value = Set> {
        let leaf = any::<bool>().prop_map(|_| Set::leaf());
        leaf.prop_recursive(4, 24, 4, |inner| {
            (any::<bool>(), prop::collection::btree_map(element(), inner, 1..4)).prop_map(|(member, children)| Set { member, children })
        })
        .prop_map(|s| Set { member: false, ..s })
    }

    fn paths(set: &Set) -> std::collections::BTreeSet<String> {
        set.paths().into_iter().collect()
    }

    proptest! {
        #[test]
        fn fields_v1_reads_back(set in set()) {
            let read = Set::from_fields_v1(&set.clone().into_fields_v1());
            prop_assert_eq!(Set { member: false, ..read }, set);
        }

        #[test]
        fn sets_are_sets(a in set(), b in set()) {
            let (pa, pb) = (paths(&a), paths(&b));
            let mut union = a.clone();
            union.unite(&b);
            prop_assert_eq!(paths(&union), &pa | &pb);
            let mut difference = a.clone();
            difference.subtract(&b);
            prop_assert_eq!(paths(&difference), &pa - &pb);
            prop_assert_eq!(paths(&a.intersection(&b)), &pa & &pb);
        }

        #[test]
        fn applying_twice_is_applying_once(replicas in 0..5i64, names in prop::collection::btree_set("[a-e]", 1..4), more in prop::collection::btree_set("[a-e]", 0..4)) {
            let containers = |names: &std::collections::BTreeSet<String>| names.iter().map(|n| json!({"name": n, "image": n})).collect::<Vec<_>>();
            let spec = |names: &std::collections::BTreeSet<String>| json!({"replicas": replicas, "template": {"spec": {"containers": containers(names)}}});
            let one = applied(None, spec(&names), "a", 0);
            let two = apply(Some(&one), config(spec(&more)), &deployment(), true, &writer("b", 1)).expect("forced");
            let again = apply(Some(&two), config(spec(&more)), &deployment(), true, &writer("b", 2)).expect("forced");
            prop_assert_eq!(&again, &two);
            // Everything either of them applied is there, once.
            let list = two["spec"]["template"]["spec"]["containers"].as_array().cloned().unwrap_or_default();
            let present: std::collections::BTreeSet<String> = list.iter().filter_map(|c| c["name"].as_str()).map(str::to_owned).collect();
            prop_assert_eq!(list.len(), present.len());
            prop_assert_eq!(present, &names | &more);
            // When a applies nothing of it any more, only what b applied is left.
            let three = applied(Some(&two), json!({"replicas": replicas}), "a", 3);
            let left = three["spec"]["template"]["spec"]["containers"].as_array().map_or(0, Vec::len);
            prop_assert_eq!(left, more.len());
        }
    }
}

/// Autoscalers, as the API server converts them.
#[derive(Debug)]
struct Autoscalers;

impl Versions for Autoscalers {
    fn convert(&self, object: &Value, api_version: &str) -> Option<(Value, Schema)> {
        let row =
            |version: &str| crate::kinds::lookup_kind("autoscaling", version.strip_prefix("autoscaling/")?, "HorizontalPodAutoscaler");
        let mut value = object.clone();
        let from = row(object["apiVersion"].as_str()?)?;
        let to = row(api_version)?;
        if let Some(convert) = from.hooks.to_storage {
            convert(&mut value);
        }
        if let Some(convert) = to.hooks.from_storage {
            convert(&mut value);
        }
        value["apiVersion"] = api_version.into();
        Some((value, Schema::builtin(&to.schema)?))
    }
}

#[test]
fn a_manager_of_another_version_conflicts_in_its_own_words() {
    let scaler = |version: &str, spec: Value| {
        let mut object = json!({"apiVersion": version, "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h", "namespace": "default"}, "spec": spec});
        object["spec"]["scaleTargetRef"] = json!({"kind": "Deployment", "name": "d"});
        object
    };
    let (v1, v2) =
        (schema("io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler"), schema("io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler"));
    let who = |manager, api_version, second| Writer { api_version, versions: Some(&Autoscalers), ..writer(manager, second) };
    let old = scaler("autoscaling/v1", json!({"maxReplicas": 5, "minReplicas": 2, "targetCPUUtilizationPercentage": 60}));
    let made = apply(None, old, &v1, false, &who("old", "autoscaling/v1", 0)).expect("no conflict");
    let (live, _) = Autoscalers.convert(&made, "autoscaling/v2").expect("served");
    let cpu = |percent: i64| json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}]);
    let same = scaler("autoscaling/v2", json!({"maxReplicas": 5, "metrics": cpu(60)}));
    let shared = apply(Some(&live), same, &v2, false, &who("new", "autoscaling/v2", 1)).expect("the same facts");
    assert_eq!(managers(&shared), ["old", "new"]);
    assert_eq!(fields(&shared, "old")["f:spec"]["f:targetCPUUtilizationPercentage"], json!({}));
    let other = scaler("autoscaling/v2", json!({"maxReplicas": 5, "metrics": cpu(80)}));
    let refused = apply(Some(&shared), other.clone(), &v2, false, &who("new", "autoscaling/v2", 2)).expect_err("a conflict");
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"old\": .spec.targetCPUUtilizationPercentage");
    let forced = apply(Some(&shared), other, &v2, true, &who("new", "autoscaling/v2", 3)).expect("forced");
    assert_eq!(fields(&forced, "old")["f:spec"].get("f:targetCPUUtilizationPercentage"), None);
    // Who applies in another version than before takes away what he no longer names.
    let less = scaler("autoscaling/v2", json!({"maxReplicas": 5, "metrics": cpu(60)}));
    let moved = apply(Some(&live), less, &v2, false, &who("old", "autoscaling/v2", 4)).expect("his own");
    assert_eq!((managers(&moved), &moved["spec"]["minReplicas"], &moved["spec"]["metrics"]), (vec!["old"], &Value::Null, &cpu(60)));
}

mod properties {
    //! What holds whatever is applied.

    use super::*;
    use proptest::prelude::*;

    /// Some fields of a deployment's spec: scalars, a map, a list told apart by key.
    fn spec() -> impl Strategy<Value = Value> {
        let map = prop::collection::btree_map("[ab]", "[xy]", 0..3);
        let containers = prop::collection::btree_map("[cde]", prop::option::of("[ij]"), 0..3);
        (prop::option::of(0..3i64), prop::option::of(any::<bool>()), map, containers).prop_map(|(replicas, paused, labels, containers)| {
            let mut spec = json!({});
            if let Some(replicas) = replicas {
                spec["replicas"] = json!(replicas);
            }
            if let Some(paused) = paused {
                spec["paused"] = json!(paused);
            }
            if !labels.is_empty() {
                spec["template"]["metadata"]["labels"] = json!(labels);
            }
            let list = containers.into_iter().map(|(name, image)| match image {
                Some(image) => json!({"name": name, "image": image}),
                None => json!({ "name": name }),
            });
            let list: Vec<Value> = list.collect();
            if !list.is_empty() {
                spec["template"]["spec"]["containers"] = json!(list);
            }
            spec
        })
    }

    fn forced(live: Option<&Value>, spec: Value, manager: &str, second: i64) -> Value {
        apply(live, config(spec), &deployment(), true, &writer(manager, second)).expect("forced")
    }

    /// Paths that a configuration names, below the metadata that nobody owns.
    fn named(spec: &Value) -> Set {
        let mut set = merge::field_set(&config(spec.clone()), Some(deployment().root()));
        strip_meta(&mut set);
        set
    }

    fn owned(object: &Value, manager: &str) -> Set {
        let entries = managed::read(managed::raw(object).to_vec()).unwrap_or_default();
        entries.into_iter().find(|e| e.manager == manager).map(|e| e.fields.set().into_owned()).unwrap_or_default()
    }

    /// The spec with its containers in the order of their names.
    fn ordered(object: &Value) -> Value {
        let mut spec = object["spec"].clone();
        if let Some(list) = spec.pointer_mut("/template/spec/containers").and_then(Value::as_array_mut) {
            list.sort_by_key(|c| c["name"].as_str().unwrap_or_default().to_owned());
        }
        if spec.is_null() { json!({}) } else { spec }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_last_configuration_of_a_lone_manager_is_what_is_there(first in spec(), second in spec()) {
            let one = forced(None, first, "a", 0);
            let two = forced(Some(&one), second.clone(), "a", 1);
            prop_assert_eq!(ordered(&two), second.clone());
            prop_assert_eq!(owned(&two, "a"), named(&second));
        }

        #[test]
        fn applying_again_changes_nothing(first in spec(), other in spec()) {
            let one = forced(None, first.clone(), "a", 0);
            let two = forced(Some(&one), other.clone(), "b", 1);
            prop_assert_eq!(&forced(Some(&two), other, "b", 2), &two);
        }

        #[test]
        fn what_one_manager_leaves_the_other_keeps(first in spec(), second in spec()) {
            let one = forced(None, first, "a", 0);
            let two = forced(Some(&one), second.clone(), "b", 1);
            let three = forced(Some(&two), json!({}), "a", 2);
            prop_assert_eq!(ordered(&three), second);
        }
    }
}
