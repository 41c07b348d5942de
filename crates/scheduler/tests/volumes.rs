//! Claims that wait for their first pod, limits, zones and exclusive claims.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{World, node, pod};
use ferrokube_scheduler::feeds::Feed;
use ferrokube_scheduler::plugins::volumes;
use ferrokube_scheduler::storage::Step;
use serde_json::{Value, json};

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

fn class(name: &str, provisioner: &str, more: &Value) -> Value {
    let mut class = json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer"});
    for (key, value) in more.as_object().into_iter().flatten() {
        class[key] = value.clone();
    }
    class
}

fn claim(name: &str, class: &str, size: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}},
        "status": {"phase": "Pending"}})
}

/// A volume on one node.
fn volume(name: &str, class: &str, size: &str, node: &str) -> Value {
    json!({"metadata": {"name": name, "resourceVersion": "7"},
        "spec": {"storageClassName": class, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": HOST, "operator": "In", "values": [node]}]}]}}},
        "status": {"phase": "Available"}})
}

fn using(name: &str, claim: &str) -> Value {
    pod(name, "x", "", "", &json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]}))
}

fn world() -> World {
    World::new(&[node("a", "4", "8Gi", "z1"), node("b", "4", "8Gi", "z2")])
}

fn reason(world: &World, pod: u32, node: &str) -> String {
    world.check(pod, node).map(|f| f.reasons.join(", ")).unwrap_or_default()
}

fn steps(world: &World, pod: u32, node: &str) -> Vec<Step> {
    volumes::steps(&world.state, world.profile(), pod, world.id(node))
}

#[test]
fn the_smallest_volume_that_fits_is_bound_where_it_is() {
    let mut world = world();
    world.tell(Feed::StorageClasses, &class("local", "kubernetes.io/no-provisioner", &json!({})));
    for (name, size, node) in [("small", "1Gi", "a"), ("middle", "5Gi", "b"), ("large", "9Gi", "b")] {
        world.tell(Feed::Volumes, &volume(name, "local", size, node));
    }
    world.tell(Feed::Claims, &claim("c", "local", "2Gi"));
    let id = world.add(&using("p", "c"));
    assert_eq!(reason(&world, id, "a"), "node(s) didn't find available persistent volumes to bind");
    assert_eq!(world.place(id), Ok("b".to_owned()));
    let [Step::Bind { volume, revision: 7, claim: bound, uid }] = &steps(&world, id, "b")[..] else {
        panic!("{:?}", steps(&world, id, "b"))
    };
    assert_eq!((&**volume, &*bound.name, &**uid), ("middle", "c", "c"));
    // The next pod counts on what the first has taken.
    let taken = steps(&world, id, "b");
    world.state.storage.assume(&taken);
    world.tell(Feed::Claims, &claim("d", "local", "2Gi"));
    let next = world.add(&using("q", "d"));
    assert!(matches!(&steps(&world, next, "b")[..], [Step::Bind { volume, .. }] if &**volume == "large"));
    world.state.storage.forget(&taken);
    assert!(matches!(&steps(&world, next, "b")[..], [Step::Bind { volume, .. }] if &**volume == "middle"));
}

#[test]
fn a_volume_is_made_where_the_class_and_its_space_allow() {
    let mut world = world();
    let topologies = json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": ZONE, "values": ["z2"]}]}]});
    world.tell(Feed::StorageClasses, &class("fast", "csi.example.com", &topologies));
    world.tell(Feed::Claims, &claim("c", "fast", "10Gi"));
    let id = world.add(&using("p", "c"));
    assert_eq!(reason(&world, id, "a"), "node(s) didn't find available persistent volumes to bind");
    assert_eq!(steps(&world, id, "b"), [Step::Provision { claim: ferrokube_api::ObjectKey::new("default", "c"), node: "b".into() }]);
    world.tell(Feed::CsiDrivers, &json!({"metadata": {"name": "csi.example.com"}, "spec": {"storageCapacity": true}}));
    assert_eq!(reason(&world, id, "b"), "node(s) did not have enough free storage");
    let capacity = |size: &str| {
        json!({"metadata": {"name": "cap", "namespace": "kube-system"}, "storageClassName": "fast", "capacity": size,
            "nodeTopology": {"matchLabels": {ZONE: "z2"}}})
    };
    world.tell(Feed::Capacities, &capacity("5Gi"));
    assert_eq!(reason(&world, id, "b"), "node(s) did not have enough free storage");
    world.tell(Feed::Capacities, &capacity("50Gi"));
    assert_eq!(world.place(id), Ok("b".to_owned()));
}

#[test]
fn a_claim_with_a_selected_node_keeps_its_pod_there() {
    let mut world = world();
    world.tell(Feed::StorageClasses, &class("fast", "csi.example.com", &json!({})));
    let mut selected = claim("c", "fast", "1Gi");
    selected["metadata"]["annotations"] = json!({"volume.kubernetes.io/selected-node": "b"});
    world.tell(Feed::Claims, &selected);
    let id = world.add(&using("p", "c"));
    assert_eq!(world.feasible(id), ["b"]);
}

#[test]
fn volumes_of_a_zone_are_used_in_it() {
    let mut world = world();
    world.node(&json!({"metadata": {"name": "nowhere", "labels": {HOST: "nowhere"}}, "status": {"allocatable": {"pods": "10"}}}));
    let mut bound = claim("c", "old", "1Gi");
    bound["spec"]["volumeName"] = "v".into();
    bound["status"]["phase"] = "Bound".into();
    world.tell(Feed::Claims, &bound);
    world.tell(Feed::Volumes, &json!({"metadata": {"name": "v", "labels": {ZONE: "z1__z3"}}, "spec": {"storageClassName": "old"}}));
    let id = world.add(&using("p", "c"));
    assert_eq!(world.feasible(id), ["a", "nowhere"]);
    assert_eq!(reason(&world, id, "b"), "node(s) had no available volume zone");
}

#[test]
fn a_node_takes_no_more_volumes_than_its_driver_says() {
    let mut world = world();
    world.tell(
        Feed::CsiNodes,
        &json!({"metadata": {"name": "a"}, "spec": {"drivers": [{"name": "csi.example.com", "allocatable": {"count": 2}}]}}),
    );
    for i in 0..4 {
        let mut bound = claim(&format!("c{i}"), "fast", "1Gi");
        bound["spec"]["volumeName"] = format!("v{i}").into();
        bound["status"]["phase"] = "Bound".into();
        world.tell(Feed::Claims, &bound);
        let csi = json!({"driver": "csi.example.com", "volumeHandle": format!("h{i}")});
        world.tell(Feed::Volumes, &json!({"metadata": {"name": format!("v{i}")}, "spec": {"csi": csi}}));
    }
    world.on("a", &using("there", "c0"));
    world.tell(Feed::Attachments, &json!({"metadata": {"name": "att"}, "spec": {"nodeName": "a", "attacher": "csi.example.com", "source": {"persistentVolumeName": "v1"}}}));
    let id = world.add(&using("p", "c2"));
    assert_eq!(reason(&world, id, "a"), "node(s) exceed max volume count");
    assert_eq!(reason(&world, id, "b"), "", "nobody limits it there");
    let same = world.add(&using("q", "c0"));
    assert_eq!(reason(&world, same, "a"), "", "the volume is attached already");
}

/// The claim `c` is bound, and for one pod only.
fn with_an_exclusive_claim() -> World {
    let mut world = world();
    let mut single = claim("c", "fast", "1Gi");
    single["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    single["spec"]["volumeName"] = "v".into();
    single["status"]["phase"] = "Bound".into();
    world.tell(Feed::Claims, &single);
    world.tell(Feed::Volumes, &json!({"metadata": {"name": "v"}, "spec": {}}));
    world
}

#[test]
fn a_claim_for_one_pod_is_used_by_one_pod() {
    let mut world = with_an_exclusive_claim();
    let first = world.add(&using("p", "c"));
    world.place(first).unwrap();
    let second = world.add(&using("q", "c"));
    let said = world.place(second).unwrap_err();
    assert!(said.contains("2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"), "{said}");
    world.state.remove_pod(&ferrokube_api::ObjectKey::new("default", "p"));
    assert!(world.place(second).is_ok());
}

#[test]
fn a_more_important_pod_takes_an_exclusive_claim_from_a_less_important_one() {
    let mut world = with_an_exclusive_claim();
    world.on("b", &using("p", "c"));
    world.on("b", &using("bystander", "other"));
    let important = |name: &str, priority: i32| {
        let mut pod = using(name, "c");
        pod["spec"]["priority"] = priority.into();
        pod
    };
    let second = world.add(&important("q", 10));
    assert_eq!(world.preempt(second).unwrap(), ("b".to_owned(), vec!["p".to_owned()]));
    let equal = world.add(&important("r", 0));
    assert!(world.preempt(equal).is_err(), "it is no more important than the one that has it");
}

#[test]
fn a_disk_that_a_pod_names_itself_is_written_by_one_pod_of_a_node() {
    let mut world = world();
    let with = |name: &str, priority: i32, read_only: bool| {
        let disk = json!({"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": read_only}});
        pod(name, "x", "", "", &json!({"priority": priority, "volumes": [disk]}))
    };
    world.on("a", &with("writer", 0, false));
    world.on("b", &with("reader", 5, true));
    let third = world.add(&with("third", 0, false));
    assert!(world.place(third).unwrap_err().contains("2 node(s) had no available disk"));
    let reader = world.add(&with("another", 0, true));
    assert_eq!(reason(&world, reader, "a"), "node(s) had no available disk");
    assert_eq!(world.place(reader).unwrap(), "b");
    let important = world.add(&with("important", 10, false));
    assert_eq!(world.preempt(important).unwrap(), ("a".to_owned(), vec!["writer".to_owned()]));
}

#[test]
fn room_is_made_where_a_node_has_too_many_volumes() {
    let mut world = world();
    for node in ["a", "b"] {
        let drivers = json!([{"name": "csi.example.com", "nodeID": "n", "allocatable": {"count": 1}}]);
        world.tell(Feed::CsiNodes, &json!({"metadata": {"name": node}, "spec": {"drivers": drivers}}));
    }
    for i in 0..3 {
        let mut bound = claim(&format!("c{i}"), "fast", "1Gi");
        bound["spec"]["volumeName"] = format!("v{i}").into();
        bound["status"]["phase"] = "Bound".into();
        world.tell(Feed::Claims, &bound);
        let csi = json!({"driver": "csi.example.com", "volumeHandle": format!("h{i}")});
        world.tell(Feed::Volumes, &json!({"metadata": {"name": format!("v{i}")}, "spec": {"csi": csi}}));
    }
    let with = |name: &str, claim: &str, priority: i32| {
        let mut pod = using(name, claim);
        pod["spec"]["priority"] = priority.into();
        pod
    };
    world.on("a", &with("kept", "c0", 20));
    world.on("b", &with("goes", "c1", 0));
    let id = world.add(&with("p", "c2", 10));
    assert_eq!(world.preempt(id).unwrap(), ("b".to_owned(), vec!["goes".to_owned()]));
}

#[test]
fn an_ephemeral_claim_must_be_the_pods_own() {
    let mut world = world();
    let ephemeral = pod("p", "x", "", "", &json!({"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {}}}]}));
    let id = world.add(&ephemeral);
    assert_eq!(reason(&world, id, "a"), "waiting for ephemeral volume controller to create the persistentvolumeclaim \"p-v\"");
    world.tell(Feed::Claims, &claim("p-v", "fast", "1Gi"));
    assert_eq!(reason(&world, id, "a"), "PVC default/p-v was not created for pod default/p (pod is not owner)");
}

#[test]
fn a_pod_is_woken_by_its_own_claims_and_by_volumes_that_they_may_have() {
    let mut world = world();
    world.tell(Feed::StorageClasses, &class("local", "kubernetes.io/no-provisioner", &json!({})));
    world.tell(Feed::StorageClasses, &class("now", "kubernetes.io/no-provisioner", &json!({"volumeBindingMode": "Immediate"})));
    for (name, class) in [("waits", "local"), ("now", "now"), ("has", "now")] {
        let mut claim = claim(name, class, "1Gi");
        if name == "has" {
            claim["spec"]["volumeName"] = "v".into();
        }
        world.tell(Feed::Claims, &claim);
    }
    let [waits, now, has] = ["waits", "now", "has"].map(|name| world.add(&using(name, name)));
    let missing = world.add(&using("missing", "missing"));
    let key = |name: &str| ferrokube_api::ObjectKey::new("default", name);
    for (pod, own) in [(waits, "waits"), (now, "now"), (has, "has"), (missing, "missing")] {
        for name in ["waits", "now", "has", "missing"] {
            assert_eq!(volumes::uses(&world.state, pod, &key(name)), name == own, "{own} by {name}");
        }
        assert!(!volumes::uses(&world.state, pod, &ferrokube_api::ObjectKey::new("other", own)), "of another namespace");
    }
    let helps = |pod, volume: &str| volumes::may_get(&world.state, pod, volume);
    assert!(helps(waits, "v") && helps(waits, "w"), "any may be the one");
    assert!(helps(has, "v") && !helps(has, "w"));
    // It is the claim that tells when it is bound.
    assert!(!helps(now, "v") && !helps(missing, "v"));
}
