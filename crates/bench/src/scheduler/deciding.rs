//! Deciding alone: a cluster in memory, no server, no writes. Reading the pod's JSON counts, making it does not.

use super::script::{Act, Pods, Workload};
use super::templates::Thing;
use crate::process::Meter;
use crate::table::{self, Table};
use anyhow::{Context, bail};
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
    nodes: usize,
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
        Ok(Cluster { state, planner: Planner::new(1, [Profile::default()].into()), serial: 0, nodes: 0 })
    }

    /// Does what makes the cluster as it is before its pods are measured.
    fn prepare(&mut self, workload: &Workload, act: &Act) -> anyhow::Result<()> {
        match act {
            Act::Nodes { many, of, with } => {
                for _ in 0..workload.sizes.of(*many) {
                    let node = of(self.nodes);
                    self.nodes += 1;
                    tell(&mut self.state, "/api/v1/nodes", &node)?;
                    self.tell_all(with(&node))?;
                }
                Ok(())
            }
            Act::Things { many, of } => (0..workload.sizes.of(*many)).try_for_each(|i| self.tell_all(of(i))),
            Act::Pods(pods) => {
                let count = workload.sizes.of(pods.many);
                for from in (0..count).step_by(PIECE) {
                    for object in self.make(pods, from..(from + PIECE).min(count))? {
                        if let Some(id) = self.add(&object)? {
                            self.place(id);
                        }
                    }
                }
                Ok(())
            }
            Act::Until(..) => Ok(()),
            _ => bail!("its acts are events, which deciding alone knows nothing of"),
        }
    }

    fn tell_all(&mut self, things: Vec<Thing>) -> anyhow::Result<()> {
        things.iter().try_for_each(|(path, thing)| tell(&mut self.state, path, thing))
    }

    fn make(&mut self, pods: &Pods, numbers: std::ops::Range<usize>) -> anyhow::Result<Vec<Object>> {
        let mut made = Vec::with_capacity(numbers.len());
        for i in numbers {
            let mut value = (pods.of)(i);
            self.serial += 1;
            value["metadata"]["uid"] = self.serial.to_string().into();
            self.tell_all((pods.with)(&value))?;
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

/// Whether a workload is more than placing one pod after the other on what is there.
fn needs_events(workload: &Workload) -> bool {
    let plain = |act: &Act| matches!(act, Act::Nodes { .. } | Act::Things { .. } | Act::Pods(_) | Act::Until(..));
    let of_devices = workload.things().any(|(path, _)| path.starts_with("/apis/resource.k8s.io"));
    workload.configuration.is_some() || of_devices || !workload.acts.iter().all(plain) || measured(workload).is_none()
}

/// The pods that are measured, if that is one act, the last one.
fn measured(workload: &Workload) -> Option<(&Pods, &[Act])> {
    let (last, before) = workload.acts.split_last()?;
    match last {
        Act::Pods(pods) if pods.measured => Some((pods, before)),
        _ => None,
    }
}

/// Measures.
pub(super) fn run(workloads: &[Workload]) -> anyhow::Result<()> {
    let rows =
        Table::new(&["workload (deciding alone)", "nodes", "before", "pods", "placed", "pods/s", "p50", "p99", "threshold", "memory"]);
    for workload in workloads {
        if needs_events(workload) {
            eprintln!("{}: left out, it is about events or devices; see --in-memory", workload.name);
            continue;
        }
        row(&rows, workload).with_context(|| workload.name)?;
    }
    Ok(())
}

fn row(rows: &Table, workload: &Workload) -> anyhow::Result<()> {
    let (pods, before) = measured(workload).context("no pods are measured")?;
    let mut cluster = Cluster::of(workload)?;
    before.iter().try_for_each(|act| cluster.prepare(workload, act))?;
    let count = workload.sizes.of(pods.many);
    let (mut took, mut placed, mut total) = (Vec::with_capacity(count), 0, Duration::ZERO);
    for from in (0..count).step_by(PIECE) {
        let mut objects: VecDeque<Object> = cluster.make(pods, from..(from + PIECE).min(count))?.into();
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
        workload.nodes().to_string(),
        workload.sizes.init.to_string(),
        count.to_string(),
        placed.to_string(),
        table::rate(count, total),
        table::time(table::quantile(&took, 0.5)),
        table::time(table::quantile(&took, 0.99)),
        table::known(workload.threshold.map(|t| t.to_string())),
        table::known(memory),
    ]);
    Ok(())
}
