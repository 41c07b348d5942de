//! Decisions per second over a cluster in memory: `cargo run --release -p ferrokube-scheduler --example bench [nodes] [pods]`.
//!
//! Counts reading the pod's JSON, deciding and assuming; not the API server. Nodes are scheduler_perf's default template
//! (4 cpu, 32Gi, 110 pods), pods ask for 100m and 500Mi.

use ferrokube_api::Object;
use ferrokube_scheduler::node::Node;
use ferrokube_scheduler::plan::{Decision, Planner};
use ferrokube_scheduler::profile::Profile;
use ferrokube_scheduler::state::State;
use serde_json::{Value, json};
use std::time::Instant;

fn object(value: &Value) -> anyhow::Result<Object> {
    Ok(Object::from_json(value.to_string().into())?)
}

fn node(i: usize) -> Value {
    let zone = format!("zone{}", i % 3);
    json!({
        "metadata": {"name": format!("node-{i}"), "labels": {"kubernetes.io/hostname": format!("node-{i}"), "topology.kubernetes.io/zone": zone}},
        "spec": {}, "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}},
    })
}

fn pod(i: usize, spec: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": format!("pod-{i}"), "namespace": "default", "uid": format!("{i}"), "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "pause", "image": "pause", "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn run(name: &str, nodes: usize, pods: usize, spec: &Value) -> anyhow::Result<()> {
    let (mut state, mut planner) = (State::new(), Planner::new(1, [Profile::default()].into()));
    state.set_namespace("default", Some(Default::default()));
    for i in 0..nodes {
        state.set_node(Node::read(&object(&node(i))?)?);
    }
    let objects = (0..pods).map(|i| object(&pod(i, spec))).collect::<anyhow::Result<Vec<_>>>()?;
    let (began, mut placed) = (Instant::now(), 0);
    for object in &objects {
        let id = state.set_pod(ferrokube_scheduler::pod::read(object)?, Some(0)).id;
        if let Decision::Place(node) = planner.decide(&state, id) {
            state.assume(id, node);
            placed += 1;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "{name:<28} {nodes:>6} nodes {placed:>6}/{pods} pods placed  {:>9.0} pods/s  {:>7.1} µs each",
        pods as f64 / seconds,
        seconds * 1e6 / pods as f64
    );
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let nodes = arguments.next().transpose()?.unwrap_or(1000);
    let pods = arguments.next().transpose()?.unwrap_or(5000);
    let selector = json!({"matchLabels": {"app": "web"}});
    let zone = "topology.kubernetes.io/zone";
    let required = |kind: &str, key: &str| json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": key, "labelSelector": selector}]}}});
    let spread = |when: &str| json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": zone, "whenUnsatisfiable": when, "labelSelector": selector}]});
    let in_zone = json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
        [{"matchExpressions": [{"key": zone, "operator": "In", "values": ["zone0", "zone1"]}]}]}}}});
    run("SchedulingBasic", nodes, pods, &json!({}))?;
    run("SchedulingNodeAffinity", nodes, pods, &in_zone)?;
    run("TopologySpreading", nodes, pods, &spread("DoNotSchedule"))?;
    run("PreferredTopologySpreading", nodes, pods, &spread("ScheduleAnyway"))?;
    run("SchedulingPodAffinity", nodes, pods, &required("podAffinity", zone))?;
    run("SchedulingPodAntiAffinity", nodes, nodes.min(pods), &required("podAntiAffinity", "kubernetes.io/hostname"))
}
