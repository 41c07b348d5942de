//! Decisions as a whole: words, preemption, the queue, and properties that hold for every cluster.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{World, node, pod};
use ferrokube_scheduler::feeds::Feed;
use ferrokube_scheduler::plugins::Plugin;
use ferrokube_scheduler::profile::{Profile, Share};
use ferrokube_scheduler::queue::{Queue, event};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn the_sentence_counts_nodes_by_reason_in_the_order_of_its_text() {
    let mut tainted = node("a", "4", "1Gi", "z");
    tainted["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let mut world = World::new(&[tainted, node("b", "1", "1Gi", "z"), node("c", "1", "1Gi", "z")]);
    world.on("b", &pod("x", "x", "500m", "", &json!({})));
    world.on("c", &pod("y", "x", "500m", "", &json!({})));
    let id = world.add(&pod("p", "x", "1", "", &json!({})));
    assert_eq!(
        world.place(id).unwrap_err(),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to deallocate, \
         preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No preemption victims found for incoming pod."
    );
    let proud = world.add(&pod("q", "x", "1", "", &json!({"preemptionPolicy": "Never", "tolerations": [{"operator": "Exists"}]})));
    assert_eq!(world.place(proud), Ok("a".to_owned()));
    let next = world.add(&pod("r", "x", "4", "", &json!({"preemptionPolicy": "Never"})));
    assert_eq!(
        world.place(next).unwrap_err(),
        "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu. no new claims to deallocate, \
         preemption: not eligible due to preemptionPolicy=Never."
    );
}

#[test]
fn plugins_are_counted_where_they_are_asked() {
    let mut tainted = node("a", "4", "1Gi", "z");
    tainted["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
    let mut world = World::new(&[tainted, node("b", "4", "1Gi", "z"), node("c", "4", "1Gi", "z")]);
    let count = |world: &mut World, plugin: Plugin| -> Vec<(&'static str, u64)> {
        let all = world.planner.take_evaluations();
        all[0].counted().filter(|(p, ..)| *p == plugin).map(|(_, point, times)| (point, times)).collect()
    };
    let template = |name: &str, more: Value| {
        let mut pod = pod(name, "x", "1", "", &more);
        pod["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
        pod
    };
    let alone = world.add(&template("alone", json!({})));
    world.place(alone).unwrap();
    assert_eq!(count(&mut world, Plugin::NodeResourcesFit), [("PreFilter", 1), ("Filter", 2), ("PreScore", 1), ("Score", 2)]);
    assert!(count(&mut world, Plugin::NodeResourcesFit).is_empty(), "each is told once");
    let ports = json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 1, "hostPort": 1}]}]});
    let with_port = world.add(&template("port", ports));
    world.place(with_port).unwrap();
    assert_eq!(count(&mut world, Plugin::NodePorts), [("PreFilter", 1), ("Filter", 2)], "the tainted node is refused before");
    // From the third pod of a class on every node is looked at once, and then the one that the pod before was placed on.
    let many: Vec<u32> = ["m1", "m2", "m3", "m4"].map(|name| world.add(&template(name, json!({"nodeSelector": {}})))).to_vec();
    world.place(many[0]).unwrap();
    assert_eq!(count(&mut world, Plugin::TaintToleration), [("Filter", 3), ("PreScore", 1), ("Score", 2)]);
    world.place(many[1]).unwrap();
    assert_eq!(count(&mut world, Plugin::TaintToleration), [("Filter", 1), ("Score", 1)]);
}

#[test]
fn without_nodes_the_sentence_is_short() {
    let mut world = World::new(&[]);
    let id = world.add(&pod("p", "x", "", "", &json!({})));
    assert_eq!(world.place(id).unwrap_err(), "no nodes available to schedule pods");
}

#[test]
fn a_pod_that_names_its_node_says_nothing_about_the_others() {
    let name = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
        [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}]}}}});
    let mut world = World::new(&[node("a", "4", "1Gi", "z"), node("b", "4", "1Gi", "z"), node("c", "4", "1Gi", "z")]);
    let id = world.add(&pod("p", "x", "1", "", &name));
    assert_eq!(world.place(id), Ok("b".to_owned()));
    let id = world.add(&pod("q", "x", "8", "", &name));
    let said = world.place(id).unwrap_err();
    assert!(said.starts_with("0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."), "{said}");
}

#[test]
fn an_unbound_claim_is_said_before_nodes_are_looked_at() {
    let mut world = World::new(&[node("a", "4", "1Gi", "z")]);
    let id = world.add(&pod("p", "x", "", "", &json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]})));
    assert_eq!(
        world.place(id).unwrap_err(),
        "0/1 nodes are available: persistentvolumeclaim \"c\" not found. no new claims to deallocate, \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
}

fn with_priority(priority: i32) -> Value {
    json!({"priority": priority})
}

#[test]
fn preemption_takes_the_cheapest_node_and_the_fewest_pods() {
    let mut world = World::new(&[node("a", "2", "1Gi", "z"), node("b", "2", "1Gi", "z")]);
    world.on("a", &pod("a-high", "x", "1", "", &with_priority(50)));
    world.on("a", &pod("a-low", "x", "1", "", &with_priority(1)));
    world.on("b", &pod("b-mid", "x", "2", "", &with_priority(20)));
    let id = world.add(&pod("p", "x", "1", "", &with_priority(100)));
    assert_eq!(world.preempt(id), Ok(("a".to_owned(), vec!["a-low".to_owned()])));
    let equal = world.add(&pod("q", "x", "1", "", &with_priority(1)));
    assert!(world.preempt(equal).is_err(), "equals are not sent away");
}

#[test]
fn preemption_spares_disruption_budgets_where_it_can() {
    let mut world = World::new(&[node("a", "1", "1Gi", "z"), node("b", "1", "1Gi", "z")]);
    world.on("a", &pod("guarded", "guarded", "1", "", &with_priority(1)));
    world.on("b", &pod("free", "free", "1", "", &with_priority(9)));
    world.tell(
        Feed::Budgets,
        &json!({"metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "guarded"}}}, "status": {"disruptionsAllowed": 0}}),
    );
    let id = world.add(&pod("p", "x", "1", "", &with_priority(100)));
    assert_eq!(world.preempt(id), Ok(("b".to_owned(), vec!["free".to_owned()])));
}

#[test]
fn preemption_looks_on_until_there_is_a_place_that_costs_no_budget() {
    let profile = Profile { candidates: Share { percent: 0, at_least: 1 }, ..Profile::default() };
    let mut world = World::with_profile(&[node("a", "1", "1Gi", "z"), node("b", "1", "1Gi", "z")], profile);
    world.on("a", &pod("guarded", "guarded", "1", "", &with_priority(1)));
    world.on("b", &pod("free", "free", "1", "", &with_priority(9)));
    world.tell(
        Feed::Budgets,
        &json!({"metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "guarded"}}}, "status": {"disruptionsAllowed": 0}}),
    );
    let id = world.add(&pod("p", "x", "1", "", &with_priority(100)));
    assert_eq!(world.preempt(id), Ok(("b".to_owned(), vec!["free".to_owned()])));
}

#[test]
fn preemption_compares_a_share_of_the_nodes_that_may_be_opened() {
    let profile = Profile { candidates: Share { percent: 50, at_least: 0 }, ..Profile::default() };
    let mut world = World::with_profile(&[node("a", "1", "1Gi", "z"), node("b", "1", "1Gi", "z")], profile);
    for name in ["c", "d"] {
        let mut cordoned = node(name, "1", "1Gi", "z");
        cordoned["spec"]["unschedulable"] = true.into();
        world.node(&cordoned);
    }
    world.on("a", &pod("first", "x", "1", "", &with_priority(50)));
    world.on("b", &pod("cheaper", "x", "1", "", &with_priority(1)));
    let id = world.add(&pod("p", "x", "1", "", &with_priority(100)));
    assert_eq!(world.preempt(id), Ok(("a".to_owned(), vec!["first".to_owned()])), "one of two is enough");
}

#[test]
fn a_pod_without_labels_is_in_nobodys_budget() {
    let mut world = World::new(&[node("a", "1", "1Gi", "z"), node("b", "1", "1Gi", "z")]);
    let mut bare = pod("bare", "x", "1", "", &with_priority(1));
    bare["metadata"]["labels"] = json!({});
    world.on("a", &bare);
    world.on("b", &pod("dearer", "x", "1", "", &with_priority(9)));
    world.tell(
        Feed::Budgets,
        &json!({"metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}, "status": {"disruptionsAllowed": 0}}),
    );
    let id = world.add(&pod("p", "x", "1", "", &with_priority(100)));
    assert_eq!(world.preempt(id), Ok(("a".to_owned(), vec!["bare".to_owned()])));
}

#[test]
fn room_made_for_a_pod_is_not_taken_by_a_lesser_one() {
    let mut world = World::new(&[node("a", "1", "1Gi", "z")]);
    let high = world.add(&pod("high", "x", "1", "", &with_priority(100)));
    world.state.nominate(high, Some("a"));
    let low = world.add(&pod("low", "x", "1", "", &with_priority(1)));
    assert!(world.place(low).is_err());
    assert_eq!(world.place(high), Ok("a".to_owned()));
}

#[test]
fn equal_seeds_decide_alike_and_ties_are_spread() {
    let run = || {
        let nodes: Vec<Value> = (0..8).map(|i| node(&format!("n{i}"), "64", "64Gi", "z")).collect();
        let mut world = World::new(&nodes);
        (0..8)
            .map(|i| {
                let id = world.add(&pod(&format!("p{i}"), "x", "1", "1Gi", &json!({})));
                world.place(id).unwrap()
            })
            .collect::<Vec<_>>()
    };
    let first = run();
    assert_eq!(first, run());
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(distinct.len(), 8, "least allocated spreads them: {first:?}");
}

#[test]
fn a_pod_that_was_rejected_is_moved_by_events_that_help_after_its_backoff() {
    let (mut queue, start) = (Queue::default(), Instant::now());
    queue.add(1, 0, start);
    assert_eq!(queue.pop(), Some(1));
    assert!(queue.reject(1, Plugin::NodeResourcesFit.bit(), "words", start));
    queue.happened(event::NODE_TAINT | event::POD_ADD, start, |_, _| true);
    assert_eq!(queue.pop(), None, "these do not help");
    queue.happened(event::POD_DELETE, start, |_, _| true);
    assert_eq!(queue.due(), Some(start + Duration::from_secs(1)));
    assert_eq!(queue.pop(), Some(1), "with nobody else ready it may go early");
    assert!(!queue.reject(1, Plugin::NodeResourcesFit.bit(), "words", start), "nothing new is said");
    queue.happened(event::NODE_ADD, start, |_, _| true);
    assert_eq!(queue.due(), Some(start + Duration::from_secs(2)), "backoff doubles");
}

#[test]
fn the_longest_wait_is_five_minutes_and_the_longest_backoff_ten_seconds() {
    let (mut queue, start) = (Queue::default(), Instant::now());
    queue.add(1, 0, start);
    for _ in 0..9 {
        queue.tick(start);
        queue.pop();
        queue.reject(1, Plugin::NodeAffinity.bit(), "", start);
        queue.happened(event::NODE_LABEL, start, |_, _| true);
    }
    assert_eq!(queue.due(), Some(start + Duration::from_secs(10)));
    queue.pop();
    queue.reject(1, Plugin::NodeAffinity.bit(), "", start);
    queue.tick(start + Duration::from_secs(299));
    assert!(!queue.has_next());
    queue.tick(start + Duration::from_secs(300));
    assert_eq!(queue.pop(), Some(1));
}

#[test]
fn after_an_error_backoff_is_kept_whatever_happens() {
    let (mut queue, start) = (Queue::default(), Instant::now());
    queue.add(1, 0, start);
    queue.pop();
    queue.fail(1, "error", start);
    queue.happened(u32::MAX, start, |_, _| true);
    assert_eq!(queue.pop(), None);
    queue.tick(start + Duration::from_secs(1));
    assert_eq!(queue.pop(), Some(1));
}

#[test]
fn higher_priority_goes_first_then_the_one_that_came_first() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    for (id, priority) in [(1, 0), (2, 10), (3, 0), (4, 10)] {
        queue.add(id, priority, now);
    }
    assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), [2, 4, 1, 3]);
}

#[derive(Clone, Debug)]
struct Shape {
    cpu: i64,
    app: u8,
    anti: Option<u8>,
    port: Option<u16>,
    selector: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    let port = proptest::option::weighted(0.2, 80u16..83);
    (0i64..1500, 0u8..3, proptest::option::weighted(0.3, 0u8..3), port, proptest::bool::weighted(0.2))
        .prop_map(|(cpu, app, anti, port, selector)| Shape { cpu, app, anti, port, selector })
}

impl Shape {
    fn object(&self, name: &str) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": format!("{}m", self.cpu)}}}]});
        if let Some(port) = self.port {
            spec["containers"][0]["ports"] = json!([{"containerPort": port, "hostPort": port}]);
        }
        if let Some(app) = self.anti {
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": format!("app{app}")}}}]}});
        }
        if self.selector {
            spec["nodeSelector"] = json!({"topology.kubernetes.io/zone": "z0"});
        }
        pod(name, &format!("app{}", self.app), "", "", &spec)
    }

    /// The rules, written down once more without any of the machinery.
    fn fits(&self, there: &[&Shape], node: usize) -> bool {
        let used: i64 = there.iter().map(|s| s.cpu).sum();
        (self.cpu == 0 || used + self.cpu <= 2000)
            && there.len() < 10
            && (!self.selector || node % 2 == 0)
            && self.port.is_none_or(|p| there.iter().all(|s| s.port != Some(p)))
            && self.anti.is_none_or(|app| there.iter().all(|s| s.app != app))
            && there.iter().all(|s| s.anti != Some(self.app))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn feasible_nodes_are_those_of_brute_force_and_nothing_is_overcommitted(shapes in proptest::collection::vec(shape(), 1..40), gone in proptest::collection::vec(any::<bool>(), 40)) {
        let nodes: Vec<Value> = (0..4).map(|i| node(&format!("n{i}"), "2", "1Gi", &format!("z{}", i % 2))).collect();
        let mut world = World::new(&nodes);
        let mut placed: Vec<(usize, usize)> = Vec::new();
        for (i, shape) in shapes.iter().enumerate() {
            let id = world.add(&shape.object(&format!("p{i}")));
            let there = |n: usize| placed.iter().filter(|(_, at)| *at == n).map(|(s, _)| &shapes[*s]).collect::<Vec<_>>();
            let want: Vec<String> = (0..4).filter(|n| shape.fits(&there(*n), *n)).map(|n| format!("n{n}")).collect();
            prop_assert_eq!(&world.feasible(id), &want);
            match world.place(id) {
                Ok(node) => {
                    prop_assert!(want.contains(&node));
                    placed.push((i, node[1..].parse().unwrap()));
                }
                Err(_) => prop_assert!(want.is_empty()),
            }
            if gone[i] && let Some((s, _)) = placed.first().copied() {
                placed.remove(0);
                world.state.remove_pod(&ferrokube_api::ObjectKey::new("default", &format!("p{s}")));
            }
            for n in 0..4 {
                let node = world.state.node(world.id(&format!("n{n}")));
                prop_assert!(node.load.requested.milli_cpu <= 2000 && node.load.pods <= 10);
                prop_assert_eq!(node.load.pods, placed.iter().filter(|(_, at)| *at == n).count() as i64);
            }
        }
    }
}

#[test]
fn a_pod_that_is_held_was_not_tried_and_is_ready_as_soon_as_it_is_let_go() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.add(1, 0, now);
    assert_eq!(queue.pop(), Some(1));
    queue.hold(1, Plugin::DynamicResources.bit(), now);
    assert_eq!((queue.pending().gated, queue.pending().unschedulable), (1, 0));
    assert_eq!(queue.history(1).map(|(tries, _)| tries), Some(0));
    let moved = queue.happened(event::DEVICES, now, |_, _| true);
    assert_eq!((moved.active, moved.backoff), (1, 0), "it does not back off");
    assert_eq!((queue.pending().gated, queue.pending().active), (0, 1));
    assert_eq!(queue.pop(), Some(1));
    // Once it is tried it waits as others do.
    queue.reject(1, Plugin::DynamicResources.bit(), "no", now);
    assert_eq!((queue.pending().gated, queue.pending().unschedulable), (0, 1));
    queue.hold(1, Plugin::DynamicResources.bit(), now);
    queue.remove(1);
    assert_eq!(queue.pending(), ferrokube_scheduler::queue::Pending::default());
}
