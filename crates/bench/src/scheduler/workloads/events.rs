//! Workloads about what wakes pods that wait: each kind of event makes room for pods that one plugin has refused.

use super::super::script::Change;
use super::*;
use serde_json::json;

const MERGE: &str = "application/merge-patch+json";

/// Waits for what happens later.
const fn waiting(many: Many, of: fn(usize) -> Value) -> Act {
    Act::Pods(Pods { many, of, with: nothing, group: "waiting", wait: None, measured: true })
}

const fn placed(many: Many, of: fn(usize) -> Value, group: &'static str) -> Act {
    Act::Pods(Pods { many, of, with: nothing, group, wait: Some(Stage::Bound), measured: false })
}

const TRIED: Act = Act::Until(Stage::Tried, "waiting");
const BOUND: Act = Act::Until(Stage::Bound, "waiting");

const fn some_nodes(many: Many, of: fn(usize) -> Value) -> Act {
    Act::Nodes { many, of, with: nothing }
}

/// A pod that asks for nothing, of a colour or whatever the labels say.
fn small(prefix: &str, i: usize, labels: &Value, spec: &Value) -> Value {
    light(pod("bench-1", &format!("{prefix}-{i}"), labels, spec))
}

fn asking_for(prefix: &str, i: usize, cpu: &str, memory: &str, spec: &Value) -> Value {
    asking(pod("bench-1", &format!("{prefix}-{i}"), &json!({"app": "waiting"}), spec), cpu, memory)
}

fn anti_affinity(labels: &Value) -> Value {
    affinity_of("podAntiAffinity", labels, HOST)
}

fn affinity_of(kind: &str, labels: &Value, key: &str) -> Value {
    let term = json!({"topologyKey": key, "labelSelector": {"matchLabels": labels}, "namespaces": ["bench-0", "bench-1"]});
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
}

/// Constraints that fewer domains than they want make strict: no domain may have more than `skew`.
fn spread_of(skew: usize, domains: Option<usize>, key: &str) -> Value {
    let mut constraint = json!({
        "maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"topology": "blue"}},
    });
    if let Some(domains) = domains {
        constraint["minDomains"] = domains.into();
    }
    json!({"topologySpreadConstraints": [constraint]})
}

fn toleration(key: &str) -> Value {
    json!([{"key": key, "operator": "Exists", "effect": "NoSchedule"}])
}

/// With a taint that all pods of these workloads tolerate but those that wait for another node.
const ALLOW: &str = "bench.example.com/allow";

fn allowed(mut spec: Value) -> Value {
    spec["tolerations"] = toleration(ALLOW);
    spec
}

fn taint(key: &str) -> Value {
    json!([{"key": key, "effect": "NoSchedule"}])
}

// Pods are deleted.

fn twenty_volumes(node: &Value) -> Vec<Thing> {
    csi_node_of(node, 20)
}

fn blocker_of_ports(i: usize) -> Value {
    let mut pod =
        asking(pod("bench-0", &format!("ports-{i}"), &json!({"topology": "blue"}), &spread_of(10, Some(10_000), HOST)), "350m", "3Gi");
    pod["spec"]["containers"][0]["ports"] = json!([{"hostPort": 8000 + i % 12, "containerPort": 8000}]);
    with_claim(pod)
}

fn blocker_of_affinity(i: usize) -> Value {
    with_claim(light(pod("bench-0", &format!("affinity-{i}"), &json!({"color": "green"}), &json!({}))))
}

/// The claim of a pod, for one pod only.
fn csi_volume_of_one(pod: &Value) -> Vec<Thing> {
    let mut things = csi_volume(pod);
    for (_, thing) in &mut things {
        thing["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    }
    things
}

fn waits_for_skew(i: usize) -> Value {
    let mut pod = small("skew", i, &json!({"topology": "blue"}), &spread_of(11, Some(10_000), HOST));
    pod["metadata"]["namespace"] = "bench-0".into();
    pod
}

fn waits_for_claim(i: usize) -> Value {
    let mut pod = small("claim", i, &json!({"app": "waiting"}), &json!({}));
    pod["metadata"]["namespace"] = "bench-0".into();
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": format!("affinity-{i}")}}]);
    pod
}

fn waits_for_port(i: usize) -> Value {
    let mut pod = small("port", i, &json!({"app": "waiting"}), &json!({}));
    pod["spec"]["containers"][0]["ports"] = json!([{"hostPort": 8000 + i % 12, "containerPort": 8000}]);
    pod
}

fn waits_for_room(i: usize) -> Value {
    asking_for("room", i, "200m", "1Gi", &json!({}))
}

fn waits_for_volumes(i: usize) -> Value {
    with_claim(small("volumes", i, &json!({"app": "waiting"}), &json!({})))
}

fn waits_for_green_to_go(i: usize) -> Value {
    small("green", i, &json!({"app": "waiting"}), &anti_affinity(&json!({"color": "green"})))
}

fn pod_delete() -> Workload {
    let blockers = |of, volume| with(placed(Many::Init, of, "blockers"), volume);
    workload(
        "EventHandlingPodDelete",
        None,
        (50, 480, 500),
        vec![
            with(some_nodes(Many::Nodes, node), twenty_volumes),
            blockers(blocker_of_ports, csi_volume),
            blockers(blocker_of_affinity, csi_volume_of_one),
            waiting(Many::Pods, waits_for_skew),
            waiting(Many::Init, waits_for_claim),
            waiting(Many::Pods, waits_for_port),
            waiting(Many::Pods, waits_for_room),
            with(waiting(Many::Init, waits_for_volumes), csi_volume),
            waiting(Many::Pods, waits_for_green_to_go),
            TRIED,
            Act::Delete { group: "blockers", rate: 200 },
            BOUND,
        ],
    )
}

// Pods are changed.

fn closed_large_node(i: usize) -> Value {
    let mut node = large_node(i);
    node["spec"]["unschedulable"] = true.into();
    node
}

fn tainted_large_node(i: usize) -> Value {
    let mut node = large_node(i);
    node["spec"]["taints"] = taint("bench.example.com/special");
    node
}

fn large_node_of_blockers(i: usize) -> Value {
    let mut node = large_node(i);
    node["metadata"]["labels"]["bench.example.com/blockers"] = "true".into();
    node
}

/// It has a toleration, so that another can be added to the list.
fn may_tolerate(prefix: &str, i: usize) -> Value {
    small(prefix, i, &json!({"app": "waiting"}), &json!({"tolerations": toleration("bench.example.com/nothing")}))
}

fn waits_for_closed(i: usize) -> Value {
    may_tolerate("closed", i)
}

fn waits_for_tainted(i: usize) -> Value {
    may_tolerate("tainted", i)
}

fn tolerate(name: &str, i: usize, key: &str) -> Change {
    let more = json!([{"op": "add", "path": "/spec/tolerations/-", "value": {"key": key, "operator": "Exists", "effect": "NoSchedule"}}]);
    (format!("/api/v1/namespaces/bench-1/pods/{name}-{i}"), "application/json-patch+json", more)
}

fn tolerate_closed(i: usize, _: Sizes) -> Change {
    tolerate("closed", i, "node.kubernetes.io/unschedulable")
}

fn tolerate_tainted(i: usize, _: Sizes) -> Change {
    tolerate("tainted", i, "bench.example.com/special")
}

/// Thirty of the thirty-two GiB of a node together.
fn blocker_of_memory(i: usize) -> Value {
    let labels = json!({"color": format!("green-{i}"), "topology": "blue"});
    let mut pod = asking(pod("bench-0", &format!("blocker-{i}"), &labels, &json!({})), "1m", "30Mi");
    pod["spec"]["nodeSelector"] = json!({"bench.example.com/blockers": "true"});
    pod
}

fn waits_for_own_green_to_go(i: usize) -> Value {
    small("green", i, &json!({"app": "waiting"}), &anti_affinity(&json!({"color": format!("green-{i}")})))
}

fn waits_for_memory(i: usize) -> Value {
    asking_for("memory", i, "1m", "30Mi", &json!({}))
}

fn waits_for_blue_to_go(i: usize) -> Value {
    small("blue", i, &json!({"topology": "blue"}), &spread_of(1000, Some(100), HOST))
}

fn waits_for_gate(i: usize) -> Value {
    small("gate", i, &json!({"app": "waiting"}), &json!({"schedulingGates": [{"name": "bench.example.com/wait"}]}))
}

fn without_labels(i: usize, _: Sizes) -> Change {
    let path = format!("/api/v1/namespaces/bench-0/pods/blocker-{i}");
    (path, MERGE, json!({"metadata": {"labels": {"color": null, "topology": null}}}))
}

fn smaller(i: usize, _: Sizes) -> Change {
    let path = format!("/api/v1/namespaces/bench-0/pods/blocker-{i}/resize");
    let container = json!({"name": "pause", "resources": {"requests": {"memory": "1Mi"}}});
    (path, "application/strategic-merge-patch+json", json!({"spec": {"containers": [container]}}))
}

fn without_gate(i: usize, _: Sizes) -> Change {
    (format!("/api/v1/namespaces/bench-1/pods/gate-{i}"), MERGE, json!({"spec": {"schedulingGates": null}}))
}

fn pod_update() -> Workload {
    let change = |many, of| Act::Change { many, of, rate: 100 };
    workload(
        "EventHandlingPodUpdate",
        None,
        (1, 1000, 1000),
        vec![
            some_nodes(Many::Just(1), closed_large_node),
            waiting(Many::Pods, waits_for_closed),
            some_nodes(Many::Just(1), tainted_large_node),
            waiting(Many::Pods, waits_for_tainted),
            TRIED,
            change(Many::Pods, tolerate_closed),
            change(Many::Pods, tolerate_tainted),
            BOUND,
            some_nodes(Many::Just(1), large_node_of_blockers),
            placed(Many::Init, blocker_of_memory, "blockers"),
            waiting(Many::Pods, waits_for_own_green_to_go),
            waiting(Many::Pods, waits_for_memory),
            waiting(Many::Init, waits_for_blue_to_go),
            waiting(Many::Pods, waits_for_gate),
            TRIED,
            change(Many::Init, without_labels),
            change(Many::Init, smaller),
            change(Many::Pods, without_gate),
            BOUND,
        ],
    )
}

// Nodes come.

/// A node of the kinds that come: cpu, memory, labels and taints.
fn coming_node(i: usize, cpu: &str, memory: &str, labels: &Value, spec: &Value) -> Value {
    let mut node = node(i);
    if let Some(own) = node["metadata"]["labels"].as_object_mut() {
        own.remove(ZONE);
    }
    for (key, value) in labels.as_object().into_iter().flatten() {
        node["metadata"]["labels"][key] = value.clone();
    }
    node["spec"] = spec.clone();
    for list in ["capacity", "allocatable"] {
        node["status"][list] = json!({"cpu": cpu, "memory": memory, "pods": "3000"});
    }
    node
}

fn closed_node(i: usize) -> Value {
    coming_node(i, "4", "32Gi", &json!({}), &json!({"unschedulable": true}))
}

fn low_node(i: usize) -> Value {
    coming_node(i, "100m", "100Mi", &json!({}), &json!({"taints": taint(ALLOW)}))
}

fn high_node(i: usize) -> Value {
    coming_node(i, "200", "200Gi", &json!({}), &json!({"taints": taint(ALLOW)}))
}

fn labelled_node(i: usize) -> Value {
    let labels = json!({ZONE: "zone1", "bench.example.com/kind": "labelled", "bench.example.com/topology": format!("topology-{i}")});
    coming_node(i, "4", "32Gi", &labels, &json!({"taints": taint(ALLOW)}))
}

fn special_node(i: usize) -> Value {
    coming_node(i, "4", "32Gi", &json!({}), &json!({"taints": taint("bench.example.com/special")}))
}

fn waits_for_open(i: usize) -> Value {
    small("open", i, &json!({"app": "waiting"}), &allowed(json!({})))
}

fn waits_for_high(i: usize) -> Value {
    asking_for("high", i, "200m", "200Mi", &allowed(json!({})))
}

fn waits_for_zone(i: usize) -> Value {
    small("zone", i, &json!({"color": "green"}), &allowed(affinity_of("podAffinity", &json!({"color": "green"}), ZONE)))
}

fn waits_for_kind(i: usize) -> Value {
    let term = json!({"matchExpressions": [{"key": "bench.example.com/kind", "operator": "In", "values": ["labelled"]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    small("kind", i, &json!({"app": "waiting"}), &allowed(json!({"affinity": {"nodeAffinity": required}})))
}

fn waits_for_topology(i: usize) -> Value {
    small("topology", i, &json!({"topology": "blue"}), &allowed(spread_of(1000, Some(10_000), "bench.example.com/topology")))
}

fn waits_for_special(i: usize) -> Value {
    let term = json!({"matchExpressions": [{"key": "bench.example.com/special", "operator": "In", "values": ["true"]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    let spec = json!({"tolerations": toleration("bench.example.com/special"), "affinity": {"nodeAffinity": required}});
    small("special", i, &json!({"app": "waiting"}), &spec)
}

fn special_labelled_node(i: usize) -> Value {
    let mut node = special_node(i);
    node["metadata"]["labels"]["bench.example.com/special"] = "true".into();
    node
}

fn node_add() -> Workload {
    workload(
        "EventHandlingNodeAdd",
        None,
        (100, 0, 1000),
        vec![
            some_nodes(Many::Just(1), closed_node),
            waiting(Many::Pods, waits_for_open),
            TRIED,
            some_nodes(Many::Just(1), low_node),
            waiting(Many::Pods, waits_for_high),
            TRIED,
            some_nodes(Many::Nodes, high_node),
            BOUND,
            waiting(Many::Pods, waits_for_zone),
            waiting(Many::Pods, waits_for_kind),
            waiting(Many::Pods, waits_for_topology),
            TRIED,
            some_nodes(Many::Nodes, labelled_node),
            BOUND,
            waiting(Many::Pods, waits_for_special),
            TRIED,
            some_nodes(Many::Nodes, special_labelled_node),
            BOUND,
        ],
    )
}

// Pods come.

fn roomy_node(i: usize) -> Value {
    let mut node = node(i);
    for list in ["capacity", "allocatable"] {
        node["status"][list]["pods"] = "3000".into();
    }
    node
}

fn green(i: usize) -> Value {
    small("first", i, &json!({"color": "green"}), &json!({}))
}

/// Not beside the green ones, and no more of them than there are.
fn waits_for_blue(i: usize) -> Value {
    let mut spec = spread_of(1, None, HOST);
    spec["affinity"] = anti_affinity(&json!({"color": "green"}))["affinity"].clone();
    small("blue", i, &json!({"topology": "blue"}), &spec)
}

fn waits_for_yellow(i: usize) -> Value {
    small("beside", i, &json!({"app": "waiting"}), &affinity_of("podAffinity", &json!({"color": format!("yellow-{i}")}), HOST))
}

fn blue_beside_green(i: usize) -> Value {
    small("more", i, &json!({"topology": "blue", "color": "green"}), &affinity_of("podAffinity", &json!({"color": "green"}), HOST))
}

fn yellow(i: usize) -> Value {
    small("yellow", i, &json!({"color": format!("yellow-{i}")}), &json!({}))
}

fn pod_add() -> Workload {
    workload(
        "EventHandlingPodAdd",
        None,
        (2, 0, 1000),
        vec![
            some_nodes(Many::Nodes, roomy_node),
            placed(Many::Just(1), green, "first"),
            waiting(Many::Pods, waits_for_blue),
            waiting(Many::Pods, waits_for_yellow),
            TRIED,
            placed(Many::Pods, blue_beside_green, "more"),
            placed(Many::Pods, yellow, "more"),
            BOUND,
        ],
    )
}

// Nodes change.

/// The number of the node that a change is about: of the `act`th act that made nodes.
fn node_path(i: usize, sizes: Sizes, act: usize, sub: &str) -> String {
    format!("/api/v1/nodes/bench-node-{}{sub}", act * sizes.nodes + i)
}

fn opened(i: usize, sizes: Sizes) -> Change {
    (node_path(i, sizes, 0, ""), MERGE, json!({"spec": {"unschedulable": null}}))
}

fn raised(i: usize, sizes: Sizes) -> Change {
    let room = json!({"cpu": "200", "memory": "200Gi", "pods": "3000"});
    (node_path(i, sizes, 1, "/status"), MERGE, json!({"status": {"capacity": room, "allocatable": room}}))
}

fn labelled(i: usize, sizes: Sizes) -> Change {
    let labels = json!({ZONE: "zone1", "bench.example.com/kind": "labelled", "bench.example.com/topology": format!("topology-{i}")});
    (node_path(i, sizes, 2, ""), MERGE, json!({"metadata": {"labels": labels}}))
}

fn untainted(i: usize, sizes: Sizes) -> Change {
    (node_path(i, sizes, 3, ""), MERGE, json!({"spec": {"taints": null}}))
}

fn closed_node_for_all(i: usize) -> Value {
    coming_node(i, "4", "32Gi", &json!({}), &json!({"unschedulable": true, "taints": taint("bench.example.com/closed")}))
}

fn waits_for_opened(i: usize) -> Value {
    asking_for("opened", i, "1m", "1Mi", &json!({"tolerations": toleration("bench.example.com/closed")}))
}

fn unlabelled_node(i: usize) -> Value {
    coming_node(i, "4", "32Gi", &json!({}), &json!({"taints": taint(ALLOW)}))
}

fn waits_for_mark(i: usize) -> Value {
    let term = json!({"matchExpressions": [{"key": "bench.example.com/marked", "operator": "In", "values": ["true"]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    small("mark", i, &json!({"app": "waiting"}), &json!({"affinity": {"nodeAffinity": required}}))
}

fn marked_node(i: usize) -> Value {
    coming_node(i, "4", "32Gi", &json!({"bench.example.com/marked": "true"}), &json!({"taints": taint("bench.example.com/special")}))
}

fn node_update() -> Workload {
    let change = |of| Act::Change { many: Many::Nodes, of, rate: 100 };
    workload(
        "EventHandlingNodeUpdate",
        None,
        (100, 0, 1000),
        vec![
            some_nodes(Many::Nodes, closed_node_for_all),
            waiting(Many::Pods, waits_for_opened),
            TRIED,
            change(opened),
            BOUND,
            some_nodes(Many::Nodes, low_node),
            waiting(Many::Pods, waits_for_high),
            TRIED,
            change(raised),
            BOUND,
            some_nodes(Many::Nodes, unlabelled_node),
            waiting(Many::Pods, waits_for_zone),
            waiting(Many::Pods, waits_for_kind),
            waiting(Many::Pods, waits_for_topology),
            TRIED,
            change(labelled),
            BOUND,
            some_nodes(Many::Nodes, marked_node),
            waiting(Many::Pods, waits_for_mark),
            TRIED,
            change(untainted),
            BOUND,
        ],
    )
}

pub(super) fn all() -> Vec<Workload> {
    vec![pod_delete(), pod_update(), node_add(), pod_add(), node_update()]
}
