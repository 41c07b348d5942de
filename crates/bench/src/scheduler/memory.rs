//! Deciding alone: a cluster in memory, no server, no writes. Reading the pod's JSON counts, making it does not.

use super::workloads::Workload;
use crate::process::Meter;
use crate::table::{self, Table};
use anyhow::Context;
use ferrokube_api::Object;
use ferrokube_scheduler::feeds::{self, FEEDS, Feed};
use ferrokube_scheduler::plan::{Decision, Planner};
use ferrokube_scheduler::profile::Profile;
use ferrokube_scheduler::state::State;
use ferrokube_scheduler::{node::PodId, pod};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Objects are made in pieces of so many, so that a million of them need not be in memory as JSON at once.
const PIECE: usize = 10_000;
/// A pod that made room is tried again, at most so often.
const TRIES: usize = 3;

struct Cluster {
    state: State,
    planner: Planner,
    serial: u64,
}

fn object(value: &Value) -> anyhow::Result<Object> {
    Ok(Object::from_json(value.to_string().into())?)
}

impl Cluster {
    fn of(workload: &Workload) -> anyhow::Result<Cluster> {
        let mut state = State::new();
        for (name, labels) in (workload.namespaces)() {
            tell(&mut state, "/api/v1/namespaces", &json!({"metadata": {"name": name, "labels": labels}}))?;
        }
        for i in 0..workload.nodes {
            let node = (workload.node)(i);
            tell(&mut state, "/api/v1/nodes", &node)?;
            for (path, thing) in (workload.with_node)(&node) {
                tell(&mut state, &path, &thing)?;
            }
        }
        for (path, thing) in (workload.things)() {
            tell(&mut state, &path, &thing)?;
        }
        Ok(Cluster { state, planner: Planner::new(1, [Profile::default()].into()), serial: 0 })
    }

    fn make(&mut self, workload: &Workload, pod: fn(usize) -> Value, numbers: std::ops::Range<usize>) -> anyhow::Result<Vec<Object>> {
        let mut made = Vec::with_capacity(numbers.len());
        for i in numbers {
            let mut value = pod(i);
            self.serial += 1;
            value["metadata"]["uid"] = self.serial.to_string().into();
            for (path, thing) in (workload.with_pod)(&value) {
                tell(&mut self.state, &path, &thing)?;
            }
            made.push(object(&value)?);
        }
        Ok(made)
    }

    /// Takes a pod in; `None`: it is not to be placed.
    fn add(&mut self, object: &Object) -> anyhow::Result<Option<PodId>> {
        let facts = pod::read(object)?;
        let gated = facts.gated;
        let id = self.state.set_pod(facts, Some(0)).id;
        Ok((!gated).then_some(id))
    }

    /// Places a pod, with others sent away at once where it must; whether it has a place.
    fn place(&mut self, id: PodId) -> bool {
        for _ in 0..TRIES {
            match self.planner.decide(&self.state, id) {
                Decision::Place(node) => {
                    self.state.assume(id, node);
                    return true;
                }
                Decision::Nowhere(diagnosis) => {
                    let Ok(room) = self.planner.make_room(&self.state, id, &diagnosis) else { return false };
                    let victims: Vec<_> = room.victims.iter().map(|v| self.state.pod(*v).key.clone()).collect();
                    victims.iter().for_each(|key| drop(self.state.remove_pod(key)));
                    let node = self.state.node(room.node).name.clone();
                    self.state.nominate(id, Some(&node));
                }
            }
        }
        false
    }
}

/// Tells the state of an object by the path of its collection.
fn tell(state: &mut State, path: &str, value: &Value) -> anyhow::Result<()> {
    let resource = path.rsplit('/').next().unwrap_or_default();
    // Priorities are on the pods already.
    let Some((feed, ..)) = FEEDS.iter().find(|(_, _, _, r)| *r == resource) else { return Ok(()) };
    debug_assert_ne!(*feed, Feed::Pods);
    let object = object(value)?;
    feeds::apply(state, *feed, &object.key.clone(), Some(&object));
    Ok(())
}

/// Measures.
pub(super) fn run(workloads: &[Workload]) -> anyhow::Result<()> {
    let rows = Table::new(&["workload (in memory)", "nodes", "before", "pods", "placed", "pods/s", "p50", "p99", "threshold", "memory"]);
    for workload in workloads {
        row(&rows, workload).with_context(|| workload.name)?;
    }
    Ok(())
}

fn row(rows: &Table, workload: &Workload) -> anyhow::Result<()> {
    let mut cluster = Cluster::of(workload)?;
    for from in (0..workload.init).step_by(PIECE) {
        for object in cluster.make(workload, workload.init_pod, from..(from + PIECE).min(workload.init))? {
            if let Some(id) = cluster.add(&object)? {
                cluster.place(id);
            }
        }
    }
    let (mut took, mut placed, mut total) = (Vec::with_capacity(workload.pods), 0, Duration::ZERO);
    for from in (0..workload.pods).step_by(PIECE) {
        let mut objects: VecDeque<Object> = cluster.make(workload, workload.pod, from..(from + PIECE).min(workload.pods))?.into();
        let began = Instant::now();
        let mut last = began;
        while let Some(object) = objects.pop_front() {
            if let Some(id) = cluster.add(&object)? {
                placed += usize::from(cluster.place(id));
            }
            let now = Instant::now();
            took.push(now - last);
            last = now;
        }
        total += began.elapsed();
    }
    took.sort_unstable();
    let memory = Meter::new(vec![std::process::id()])?.read().map(|u| table::mebibytes(u.resident));
    rows.row(vec![
        workload.name.to_owned(),
        workload.nodes.to_string(),
        workload.init.to_string(),
        workload.pods.to_string(),
        placed.to_string(),
        table::rate(workload.pods, total),
        table::time(table::quantile(&took, 0.5)),
        table::time(table::quantile(&took, 0.99)),
        table::known(workload.threshold.map(|t| t.to_string())),
        table::known(memory),
    ]);
    Ok(())
}
