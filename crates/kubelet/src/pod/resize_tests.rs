//! What a resize comes to, as tables.

use super::*;
use crate::pod::admission::Offer;
use crate::pod::allocation::{self, Allocation};
use crate::pod::spec::containers_of;
use ferrokube_cri::v1::{ContainerState, ContainerStatus};
use serde_json::{Value, json};

fn pod(containers: Value) -> Pod {
    let meta = json!({"name": "p", "uid": "u", "generation": 2});
    serde_json::from_value(json!({"metadata": meta, "spec": {"containers": containers}})).unwrap()
}

fn both(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

fn running(name: &str, resources: &Value) -> Container {
    let status = ContainerStatus {
        id: format!("{name}-id"),
        state: ContainerState::ContainerRunning.into(),
        annotations: BTreeMap::from([(annotations::RESOURCES.to_owned(), resources.to_string())]),
        ..Default::default()
    };
    Container { name: name.into(), sandbox: "box".into(), status }
}

fn observed(containers: Vec<Container>) -> Observed {
    Observed { containers, ..Observed::nothing() }
}

#[test]
fn a_container_is_changed_under_way_unless_its_policy_for_what_changes_asks_for_a_restart() {
    let policy =
        json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let cases = [
        (both("1", "1Gi"), Value::Null, None),
        // The same amounts in other words.
        (both("1000m", "1024Mi"), Value::Null, None),
        (both("2", "1Gi"), Value::Null, Some(Change::InPlace)),
        (both("2", "1Gi"), policy.clone(), Some(Change::InPlace)),
        (both("1", "2Gi"), policy.clone(), Some(Change::Restart)),
        (json!({"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}), policy, Some(Change::Restart)),
        (json!({}), Value::Null, Some(Change::InPlace)),
    ];
    for (promised, policy, expected) in cases {
        let pod = pod(json!([{"name": "c", "resources": promised, "resizePolicy": policy}]));
        let seen = observed(vec![running("c", &both("1", "1Gi"))]);
        let changes = Resizes::default().changes(&containers_of(&pod), &seen);
        assert_eq!(changes.get("c-id").copied(), expected, "{promised}");
    }
}

#[test]
fn a_resize_is_in_progress_until_containers_and_cgroup_have_it() {
    let pod = pod(json!([{"name": "c", "resources": both("2", "1Gi")}]));
    let seen = observed(vec![running("c", &both("1", "1Gi"))]);
    let specs = containers_of(&pod);
    let mut resizes =
        Resizes { cgroup: Some(Totals { cpu_request: 1000, cpu_limit: Some(1000), memory_limit: Some(1 << 30) }), ..Default::default() };
    resizes.granted(Some(2));
    let changes = resizes.changes(&specs, &seen);
    assert!(resizes.due(&pod, &changes) && resizes.completed(&pod, &changes).is_none());
    let kinds = |r: &Resizes| {
        r.conditions(&[], jiff::Timestamp::UNIX_EPOCH).iter().map(|c| (c.type_.clone(), c.reason.clone())).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&resizes), [(IN_PROGRESS.to_owned(), None)]);
    let failed = |text: &str| Done { given: Vec::new(), cgroup: resources::pod_totals(&pod), error: Some(text.to_owned()) };
    assert_eq!(resizes.ended(failed("no")).as_deref(), Some("no"));
    assert_eq!(resizes.ended(failed("no")), None, "told once");
    assert_eq!(kinds(&resizes), [(IN_PROGRESS.to_owned(), Some("Error".to_owned()))]);
    assert!(!resizes.due(&pod, &changes), "a failed resize waits before it is tried again");
    let promised = specs[0].fields.resources.clone().unwrap();
    resizes.ended(Done { given: vec![("c-id".into(), promised)], cgroup: resources::pod_totals(&pod), error: None });
    let changes = resizes.changes(&specs, &seen);
    assert!(changes.is_empty() && !resizes.due(&pod, &changes));
    assert_eq!(resizes.completed(&pod, &changes), Some(Some(2)));
    assert_eq!(resizes.completed(&pod, &changes), None);
    assert!(kinds(&resizes).is_empty());
}

#[test]
fn a_resize_that_does_not_fit_is_deferred_and_one_that_never_can_is_infeasible() {
    let offer = Offer { allocatable: BTreeMap::from([("cpu".into(), 2000), ("memory".into(), 1 << 30)]), max_pods: 10, ..Offer::default() };
    let other = Arc::new(pod(json!([{"name": "c", "resources": both("1500m", "100Mi")}])));
    let ask = |cpu: &str, memory: &str| {
        let wanted = pod(json!([{"name": "c", "resources": both(cpu, memory)}]));
        allocation::resize(&wanted, &[other.clone()], &offer).map_err(|p| (p.reason, p.message))
    };
    assert_eq!(ask("500m", "100Mi"), Ok(()));
    let deferred = "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000";
    assert_eq!(ask("600m", "100Mi"), Err(("Deferred", deferred.to_owned())));
    let infeasible = "Node didn't have enough capacity: cpu, requested: 3000, capacity: 2000";
    assert_eq!(ask("3", "100Mi"), Err(("Infeasible", infeasible.to_owned())));
    let infeasible = "Node didn't have enough capacity: memory, requested: 2147483648, capacity: 1073741824";
    assert_eq!(ask("3", "2Gi"), Err(("Infeasible", infeasible.to_owned())));
}

#[test]
fn a_promise_takes_the_place_of_what_is_asked_for_and_outlives_the_process() {
    let small = Arc::new(pod(json!([{"name": "c", "resources": both("1", "1Gi")}])));
    let large = Arc::new(pod(json!([{"name": "c", "resources": both("2", "2Gi")}, {"name": "new"}])));
    let promised = Allocation::wanted(&small);
    let view = promised.laid_over(&large);
    assert_eq!(view.spec.as_ref().unwrap().containers[0].resources, small.spec.as_ref().unwrap().containers[0].resources);
    assert!(Arc::ptr_eq(&Allocation::wanted(&large).laid_over(&large), &large));
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(Allocation::load(directory.path()), None);
    promised.save(&directory.path().join("u")).unwrap();
    assert_eq!(Allocation::load(&directory.path().join("u")), Some(promised));
}

#[test]
fn events_tell_the_resources_of_every_container_and_the_generation() {
    let pod = pod(json!([{"name": "c", "resources": {"requests": {"cpu": "1"}}}]));
    assert_eq!(
        allocation::message("completed", &pod, Some(2), ""),
        r#"Pod resize completed: {"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}],"generation":2}"#
    );
    assert_eq!(
        allocation::message("Deferred", &pod, Some(2), "full"),
        r#"Pod resize Deferred: {"containers":[{"name":"c","resources":{"requests":{"cpu":"1"}}}],"generation":2,"error":"full"}"#
    );
}

#[test]
fn resizes_that_take_nothing_go_first_then_by_priority_then_guaranteed_pods() {
    let sized = |cpu: &str, priority: i64, class: &str| -> Pod {
        let mut value = serde_json::to_value(pod(json!([{"name": "c", "resources": both(cpu, "1Gi")}]))).unwrap();
        value["spec"]["priority"] = json!(priority);
        value["status"] = json!({"qosClass": class});
        serde_json::from_value(value).unwrap()
    };
    let had = sized("1", 0, "Guaranteed");
    let asks = [sized("500m", 0, "Burstable"), sized("2", 9, "Burstable"), sized("2", 0, "Guaranteed"), sized("2", 0, "Burstable")];
    assert!(asks.map(|ask| allocation::turn(&ask, &had)).is_sorted());
}
