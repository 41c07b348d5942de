//! The rooms that are kept from one preemption to the next, against trying every node anew.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{World, node, pod};
use ferrokube_api::ObjectKey;
use ferrokube_scheduler::feeds::Feed;
use ferrokube_scheduler::plan::Decision;
use ferrokube_scheduler::preempt::{self, Preemption};
use ferrokube_scheduler::profile::{Profile, Share};
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
enum Step {
    /// A pod comes: priority and cpu, in tenths.
    Come(i32, u32),
    /// The pod with this number (of those that are there) goes.
    Go(usize),
    /// It is being deleted.
    Leave(usize),
    /// A budget allows so many disruptions of an application.
    Allow(i64),
    /// A node is cordoned, or no longer.
    Cordon(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4i32, 2..12u32).prop_map(|(priority, cpu)| Step::Come(priority * 10, cpu)),
        2 => (0..20usize).prop_map(Step::Go),
        1 => (0..20usize).prop_map(Step::Leave),
        1 => (0..3i64).prop_map(Step::Allow),
        1 => (0..4usize, any::<bool>()).prop_map(|(n, on)| Step::Cordon(n, on)),
    ]
}

fn cordoned(n: usize, on: bool) -> Value {
    let mut node = node(&format!("n{n}"), "2", "4Gi", "z");
    node["spec"]["unschedulable"] = on.into();
    node
}

fn pod_of(name: &str, priority: i32, tenths: u32) -> Value {
    let mut pod =
        pod(name, if priority == 10 { "guarded" } else { "x" }, &format!("{}m", tenths * 100), "", &json!({"priority": priority}));
    pod["metadata"]["uid"] = format!("uid-{name}").into();
    pod
}

/// What both ways say: the cost, since several rooms may be equally cheap.
fn costs(world: &World, room: &Result<Preemption, String>) -> Result<impl PartialEq + std::fmt::Debug + use<>, String> {
    room.clone().map(|room| preempt::cost(&world.state, &room))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn kept_rooms_are_those_of_trying_every_node(steps in proptest::collection::vec(step(), 5..40)) {
        let profile = Profile { candidates: Share { percent: 100, at_least: 100 }, ..Profile::default() };
        let mut world = World::with_profile(&(0..4).map(|n| cordoned(n, false)).collect::<Vec<_>>(), profile);
        world.planner.ranked_from = 1;
        let mut there: Vec<Value> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Come(priority, cpu) => {
                    let mut value = pod_of(&format!("p{number}"), priority, cpu);
                    let id = world.add(&value);
                    let Decision::Nowhere(diagnosis) = world.planner.decide(&world.state, id) else {
                        let Decision::Place(node) = world.planner.decide(&world.state, id) else { unreachable!("it fitted") };
                        value["spec"]["nodeName"] = world.name(node).into();
                        value["status"]["startTime"] = format!("2026-01-01T00:00:{number:02}Z").into();
                        world.add(&value);
                        there.push(value);
                        continue;
                    };
                    let kept = world.planner.make_room(&world.state, id, &diagnosis);
                    let anew = preempt::plan(&world.state, world.profile(), id, &diagnosis, number);
                    prop_assert_eq!(costs(&world, &kept), costs(&world, &anew));
                    match kept {
                        Ok(room) => {
                            // It stays nominated; its victims go one by one with later steps.
                            let name = world.name(room.node);
                            world.state.nominate(id, Some(&name));
                        }
                        Err(_) => drop(world.state.remove_pod(&ObjectKey::new("default", &format!("p{number}")))),
                    }
                }
                Step::Go(at) if !there.is_empty() => {
                    let gone = there.swap_remove(at % there.len());
                    world.state.remove_pod(&ObjectKey::new("default", gone["metadata"]["name"].as_str().unwrap()));
                }
                Step::Leave(at) if !there.is_empty() => {
                    let at = at % there.len();
                    there[at]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
                    world.add(&there[at]);
                }
                Step::Allow(allowed) => world.tell(
                    Feed::Budgets,
                    &json!({"metadata": {"name": "b", "namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "guarded"}}},
                        "status": {"disruptionsAllowed": allowed}}),
                ),
                Step::Cordon(n, on) => world.node(&cordoned(n, on)),
                Step::Go(_) | Step::Leave(_) => {}
            }
        }
    }
}

#[test]
fn a_pod_waits_for_those_that_were_sent_away_for_it_and_not_for_others_that_go() {
    let mut world = World::new(&[node("n0", "2", "4Gi", "z")]);
    let mut leaving = pod_of("low", 0, 20);
    leaving["spec"]["nodeName"] = "n0".into();
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    world.add(&leaving);
    let id = world.add(&pod_of("high", 20, 20));
    world.state.nominate(id, Some("n0"));
    assert_eq!(world.preempt(id), Ok(("n0".to_owned(), vec!["low".to_owned()])));
    leaving["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
    world.add(&leaving);
    assert_eq!(world.preempt(id), Err("not eligible due to a terminating pod on the nominated node.".to_owned()));
}
