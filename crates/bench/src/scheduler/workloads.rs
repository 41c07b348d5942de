//! The workloads as a table: how many nodes of what kind, what is there before, and which pods are measured.
//!
//! Sizes and thresholds are those of scheduler_perf's performance tests. Nodes offer 4 cpus, 32Gi and 110 pods, pods ask
//! for 100m and 500Mi, unless the row says otherwise.

use serde_json::{Value, json};

pub(super) const HOST: &str = "kubernetes.io/hostname";
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// Storage driver of the workloads with volumes.
const DRIVER: &str = "ebs.csi.aws.com";

/// Something that a workload needs besides nodes and pods: the path of its collection, and the object.
pub(super) type Thing = (String, Value);

/// One row. Functions get the number of the node or pod.
#[derive(Clone, Copy)]
pub(super) struct Workload {
    pub name: &'static str,
    /// Pods per second that kube-scheduler must reach in its own benchmark.
    pub threshold: Option<u32>,
    pub nodes: usize,
    pub node: fn(usize) -> Value,
    /// Pods that are there before.
    pub init: usize,
    pub init_pod: fn(usize) -> Value,
    /// Whether those pods are placed; otherwise they find no node and stay.
    pub init_placed: bool,
    /// Pods that are measured.
    pub pods: usize,
    pub pod: fn(usize) -> Value,
    /// Namespaces with their labels.
    pub namespaces: fn() -> Vec<(String, Value)>,
    /// What comes with each pod, of both kinds.
    pub with_pod: fn(&Value) -> Vec<Thing>,
    /// What comes with each node.
    pub with_node: fn(&Value) -> Vec<Thing>,
    /// What else is there.
    pub things: fn() -> Vec<Thing>,
}

pub(crate) fn node(i: usize) -> Value {
    let name = format!("bench-node-{i}");
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {HOST: name, ZONE: format!("zone{}", i % 3 + 1), "ferrokube-bench": "true"}},
        "spec": {},
        "status": {
            "capacity": {"cpu": "4", "memory": "32Gi", "pods": "110"}, "allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow"}],
        },
    })
}

/// All in one zone.
fn node_of_one_zone(i: usize) -> Value {
    let mut node = node(i);
    node["metadata"]["labels"][ZONE] = "zone1".into();
    node
}

/// Every fifth has a taint.
fn node_maybe_tainted(i: usize) -> Value {
    let mut node = node(i);
    if i % 5 == 0 {
        node["spec"]["taints"] = json!([{"key": "foo", "value": "", "effect": "NoSchedule"}]);
    }
    node
}

/// A pod in a namespace with labels, and more of a spec.
fn pod(namespace: &str, name: &str, labels: &Value, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "pause", "image": "registry.invalid/pause", "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn plain(namespace: &str, prefix: &str, i: usize) -> Value {
    pod(namespace, &format!("{prefix}-{i}"), &json!({"app": "bench"}), &json!({}))
}

fn init_plain(i: usize) -> Value {
    plain("bench-0", "init", i)
}

fn measured_plain(i: usize) -> Value {
    plain("bench-1", "pod", i)
}

fn asking(mut pod: Value, cpu: &str, memory: &str) -> Value {
    pod["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": cpu, "memory": memory});
    pod
}

/// Affinity to pods of the same colour.
fn coloured(namespace: &str, name: &str, colour: &str, kind: &str, required: bool, key: &str, namespaces: &Value) -> Value {
    let mut term = json!({"topologyKey": key, "labelSelector": {"matchLabels": {"color": colour}}});
    for (field, value) in namespaces.as_object().into_iter().flatten() {
        term[field] = value.clone();
    }
    let terms = match required {
        true => json!({"requiredDuringSchedulingIgnoredDuringExecution": [term]}),
        false => json!({"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}),
    };
    pod(namespace, name, &json!({"color": colour}), &json!({"affinity": {kind: terms}}))
}

/// A function for a row: pods of a colour in a namespace.
macro_rules! colour_rows {
    ($($name:ident, $namespace:literal, $prefix:literal, $colour:literal, $kind:literal, $required:literal, $key:expr;)*) => {
        $(fn $name(i: usize) -> Value {
            let both = json!({"namespaces": ["bench-0", "bench-1"]});
            coloured($namespace, &format!("{}-{i}", $prefix), $colour, $kind, $required, $key, &both)
        })*
    };
}

colour_rows! {
    init_apart, "bench-0", "init", "green", "podAntiAffinity", true, HOST;
    apart, "bench-1", "pod", "green", "podAntiAffinity", true, HOST;
    init_together, "bench-0", "init", "blue", "podAffinity", true, ZONE;
    together, "bench-1", "pod", "blue", "podAffinity", true, ZONE;
    init_rather_together, "bench-0", "init", "red", "podAffinity", false, HOST;
    rather_together, "bench-1", "pod", "red", "podAffinity", false, HOST;
    init_rather_apart, "bench-0", "init", "yellow", "podAntiAffinity", false, HOST;
    rather_apart, "bench-1", "pod", "yellow", "podAntiAffinity", false, HOST;
}

/// Pods of a colour in a hundred namespaces of a team, by namespace selector.
macro_rules! team_rows {
    ($($init:ident, $name:ident, $colour:literal, $kind:literal, $required:literal, $key:expr;)*) => {
        $(fn $init(i: usize) -> Value {
            let team = json!({"namespaceSelector": {"matchLabels": {"team": "devops"}}});
            coloured(&format!("bench-team-{}", i % 100), &format!("init-{i}"), $colour, $kind, $required, $key, &team)
        }
        fn $name(i: usize) -> Value {
            let team = json!({"namespaceSelector": {"matchLabels": {"team": "devops"}}});
            coloured("bench-1", &format!("pod-{i}"), $colour, $kind, $required, $key, &team)
        })*
    };
}

team_rows! {
    init_team_apart, team_apart, "green", "podAntiAffinity", true, HOST;
    init_team_rather_apart, team_rather_apart, "yellow", "podAntiAffinity", false, HOST;
    init_team_together, team_together, "blue", "podAffinity", true, ZONE;
    init_team_rather_together, team_rather_together, "red", "podAffinity", false, HOST;
}

/// Pods that only the anti-affinity of others means.
fn unwanted(i: usize) -> Value {
    pod("bench-1", &format!("pod-{i}"), &json!({"color": "green"}), &json!({}))
}

fn in_zones(i: usize) -> Value {
    let term = json!({"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone1", "zone2"]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    pod("bench-1", &format!("pod-{i}"), &json!({"app": "bench"}), &json!({"affinity": {"nodeAffinity": required}}))
}

fn spread(name: &str, key: &str, skew: i64, when: &str, more: &Value) -> Value {
    let mut constraint =
        json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"color": "blue"}}});
    for (field, value) in more.as_object().into_iter().flatten() {
        constraint[field] = value.clone();
    }
    pod("bench-1", name, &json!({"color": "blue"}), &json!({"topologySpreadConstraints": [constraint]}))
}

fn spread_zones(i: usize) -> Value {
    spread(&format!("pod-{i}"), ZONE, 5, "DoNotSchedule", &json!({}))
}

fn rather_spread_zones(i: usize) -> Value {
    spread(&format!("pod-{i}"), ZONE, 5, "ScheduleAnyway", &json!({}))
}

fn spread_hosts_by_taints(i: usize) -> Value {
    spread(&format!("pod-{i}"), HOST, 1, "DoNotSchedule", &json!({"nodeTaintsPolicy": "Honor"}))
}

fn mixed(i: usize) -> Value {
    [init_plain, init_together, init_apart, init_rather_together, init_rather_apart][i % 5](i)
}

fn too_large(i: usize) -> Value {
    asking(plain("bench-0", "large", i), "9", "500Mi")
}

fn low(i: usize) -> Value {
    asking(plain("bench-0", "low", i), "900m", "500Mi")
}

fn high(i: usize) -> Value {
    let mut pod = asking(plain("bench-1", "high", i), "3", "500Mi");
    pod["spec"]["priorityClassName"] = "bench-high".into();
    pod["spec"]["priority"] = 1000.into();
    pod
}

fn gated(i: usize) -> Value {
    let mut pod = plain("bench-0", "gated", i);
    pod["spec"]["schedulingGates"] = json!([{"name": "bench.example.com/wait"}]);
    pod
}

/// Pods that name their node, as those of daemon sets do; two for each.
fn on_its_node(i: usize) -> Value {
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [format!("bench-node-{}", i / 2)]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    asking(pod("bench-1", &format!("pod-{i}"), &json!({"app": "agent"}), &json!({"affinity": {"nodeAffinity": required}})), "10m", "50Mi")
}

fn with_claim(mut pod: Value) -> Value {
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": pod["metadata"]["name"]}}]);
    pod
}

fn init_with_claim(i: usize) -> Value {
    with_claim(init_plain(i))
}

fn pod_with_claim(i: usize) -> Value {
    with_claim(measured_plain(i))
}

fn with_secret(i: usize) -> Value {
    let mut pod = measured_plain(i);
    pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "bench", "optional": true}}]);
    pod
}

/// A claim of the pod's name, bound to a volume of its own.
fn bound_volume(pod: &Value, source: &str, value: &Value) -> Vec<Thing> {
    let (namespace, name) =
        (pod["metadata"]["namespace"].as_str().unwrap_or_default(), pod["metadata"]["name"].as_str().unwrap_or_default());
    let volume_name = format!("{namespace}-{name}");
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume_name},
        "spec": {"accessModes": ["ReadOnlyMany"], "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "bench", "claimRef": {"kind": "PersistentVolumeClaim", "namespace": namespace, "name": name}},
        "status": {"phase": "Bound"},
    });
    volume["spec"][source] = value.clone();
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace, "annotations": {"pv.kubernetes.io/bind-completed": "true"}},
        "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "bench", "volumeName": volume_name},
        "status": {"phase": "Bound"},
    });
    vec![("/api/v1/persistentvolumes".to_owned(), volume), (format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims"), claim)]
}

fn csi_volume(pod: &Value) -> Vec<Thing> {
    let handle = format!("vol-{}", pod["metadata"]["name"].as_str().unwrap_or_default());
    bound_volume(pod, "csi", &json!({"driver": DRIVER, "volumeHandle": handle}))
}

fn disk_volume(pod: &Value) -> Vec<Thing> {
    let id = format!("vol-{}", pod["metadata"]["name"].as_str().unwrap_or_default());
    bound_volume(pod, "awsElasticBlockStore", &json!({"volumeID": id}))
}

fn csi_node(node: &Value) -> Vec<Thing> {
    let name = &node["metadata"]["name"];
    let csi = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name},
        "spec": {"drivers": [{"name": DRIVER, "nodeID": name, "topologyKeys": null, "allocatable": {"count": 39}}]},
    });
    vec![("/apis/storage.k8s.io/v1/csinodes".to_owned(), csi)]
}

fn two_namespaces() -> Vec<(String, Value)> {
    ["bench-0", "bench-1"].map(|n| (n.to_owned(), json!({}))).into()
}

fn team_namespaces() -> Vec<(String, Value)> {
    let teams = (0..100).map(|i| (format!("bench-team-{i}"), json!({"team": "devops"})));
    teams.chain([("bench-1".to_owned(), json!({"team": "devops"}))]).collect()
}

fn service() -> Vec<Thing> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bench", "namespace": "bench-1"},
        "spec": {"selector": {"app": "bench"}, "ports": [{"port": 80}]}});
    vec![("/api/v1/namespaces/bench-1/services".to_owned(), service)]
}

fn priority() -> Vec<Thing> {
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "bench-high"}, "value": 1000});
    vec![("/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(), class)]
}

const BASIC: Workload = Workload {
    name: "SchedulingBasic",
    threshold: Some(270),
    nodes: 5000,
    node,
    init: 1000,
    init_pod: init_plain,
    init_placed: true,
    pods: 10_000,
    pod: measured_plain,
    namespaces: two_namespaces,
    with_pod: |_| Vec::new(),
    with_node: |_| Vec::new(),
    things: Vec::new,
};

/// A row like [`BASIC`] but for its pods.
const fn row(name: &'static str, threshold: u32, init: (usize, fn(usize) -> Value), pods: (usize, fn(usize) -> Value)) -> Workload {
    Workload { name, threshold: Some(threshold), init: init.0, init_pod: init.1, pods: pods.0, pod: pods.1, ..BASIC }
}

/// The table.
pub(super) fn all() -> Vec<Workload> {
    let of_one_zone = |w: Workload| Workload { node: node_of_one_zone, ..w };
    let of_teams = |w: Workload| Workload { namespaces: team_namespaces, ..w };
    vec![
        BASIC,
        row("SchedulingPodAntiAffinity", 60, (1000, init_apart), (2000, apart)),
        row("SchedulingPodMatchingAntiAffinity", 600, (1000, init_apart), (4000, unwanted)),
        of_one_zone(row("SchedulingPodAffinity", 35, (5000, init_together), (5000, together))),
        row("SchedulingPreferredPodAffinity", 90, (5000, init_rather_together), (5000, rather_together)),
        row("SchedulingPreferredPodAntiAffinity", 90, (5000, init_rather_apart), (5000, rather_apart)),
        row("SchedulingNodeAffinity", 220, (5000, init_plain), (10_000, in_zones)),
        of_one_zone(row("MixedSchedulingBasePod", 140, (5000, mixed), (5000, measured_plain))),
        of_teams(Workload {
            nodes: 6000,
            ..row("SchedulingRequiredPodAntiAffinityWithNSSelector", 24, (4000, init_team_apart), (2000, team_apart))
        }),
        of_teams(row("SchedulingPreferredAntiAffinityWithNSSelector", 55, (4000, init_team_rather_apart), (2000, team_rather_apart))),
        of_teams(of_one_zone(row("SchedulingRequiredPodAffinityWithNSSelector", 35, (5000, init_team_together), (2000, team_together)))),
        of_teams(row("SchedulingPreferredAffinityWithNSSelector", 90, (5000, init_team_rather_together), (5000, team_rather_together))),
        row("TopologySpreading", 85, (5000, init_plain), (5000, spread_zones)),
        row("PreferredTopologySpreading", 125, (5000, init_plain), (5000, rather_spread_zones)),
        Workload { things: service, threshold: None, ..row("DefaultTopologySpreading", 0, (5000, init_plain), (10_000, measured_plain)) },
        Workload {
            node: node_maybe_tainted,
            ..row("SchedulingWithNodeInclusionPolicy", 68, (0, init_plain), (4000, spread_hosts_by_taints))
        },
        Workload { init_placed: false, ..row("Unschedulable", 140, (100, too_large), (10_000, measured_plain)) },
        Workload { threshold: Some(160), things: priority, ..row("Preemption", 160, (20_000, low), (5000, high)) },
        Workload { nodes: 1000, init_placed: false, ..row("SchedulingWhileGated", 130, (10_000, gated), (20_000, measured_plain)) },
        Workload { nodes: 15_000, ..row("SchedulingDaemonset", 390, (0, init_plain), (30_000, on_its_node)) },
        row("SchedulingSecrets", 260, (1000, init_plain), (10_000, with_secret)),
        Workload { with_pod: disk_volume, ..row("SchedulingInTreePVs", 90, (1000, init_with_claim), (2000, pod_with_claim)) },
        Workload {
            with_pod: disk_volume,
            with_node: csi_node,
            ..row("SchedulingMigratedInTreePVs", 35, (5000, init_with_claim), (5000, pod_with_claim))
        },
        Workload {
            with_pod: csi_volume,
            with_node: csi_node,
            ..row("SchedulingCSIPVs", 48, (5000, init_with_claim), (5000, pod_with_claim))
        },
    ]
}
