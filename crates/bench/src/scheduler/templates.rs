//! The objects of the workloads, by their numbers. Nodes offer 4 cpus, 32Gi and 110 pods, pods ask for 100m and 500Mi, unless a name
//! says otherwise.

use serde_json::{Value, json};

pub(super) const HOST: &str = "kubernetes.io/hostname";
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// Storage driver of the workloads with volumes.
const DRIVER: &str = "ebs.csi.aws.com";

/// Something that a workload needs besides nodes and pods: the path of its collection, and the object.
pub(super) type Thing = (String, Value);

pub(crate) fn node(i: usize) -> Value {
    let name = format!("bench-node-{i}");
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {HOST: name, "kubernetes.io/os": "linux", ZONE: format!("zone{}", i % 3 + 1), "ferrokube-bench": "true"}},
        "spec": {},
        "status": {
            "capacity": {"cpu": "4", "memory": "32Gi", "pods": "110"}, "allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow"}],
        },
    })
}

/// All in one zone.
pub(super) fn node_of_one_zone(i: usize) -> Value {
    let mut node = node(i);
    node["metadata"]["labels"][ZONE] = "zone1".into();
    node
}

/// Every fifth has a taint.
pub(super) fn node_maybe_tainted(i: usize) -> Value {
    let mut node = node(i);
    if i % 5 == 0 {
        node["spec"]["taints"] = json!([{"key": "foo", "value": "", "effect": "NoSchedule"}]);
    }
    node
}

/// A pod in a namespace with labels, and more of a spec.
pub(super) fn pod(namespace: &str, name: &str, labels: &Value, spec: &Value) -> Value {
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

pub(super) fn plain(namespace: &str, prefix: &str, i: usize) -> Value {
    pod(namespace, &format!("{prefix}-{i}"), &json!({"app": "bench"}), &json!({}))
}

pub(super) fn init_plain(i: usize) -> Value {
    plain("bench-0", "init", i)
}

pub(super) fn measured_plain(i: usize) -> Value {
    plain("bench-1", "pod", i)
}

pub(super) fn asking(mut pod: Value, cpu: &str, memory: &str) -> Value {
    pod["spec"]["containers"][0]["resources"]["requests"] = json!({"cpu": cpu, "memory": memory});
    pod
}

/// Affinity to pods of the same colour.
pub(super) fn coloured(namespace: &str, name: &str, colour: &str, kind: &str, required: bool, key: &str, namespaces: &Value) -> Value {
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
        $(pub(super) fn $name(i: usize) -> Value {
            let both = json!({"namespaces": ["bench-0", "bench-1"]});
            coloured($namespace, &format!("{}-{}-{i}", $prefix, $colour), $colour, $kind, $required, $key, &both)
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
        $(pub(super) fn $init(i: usize) -> Value {
            let team = json!({"namespaceSelector": {"matchLabels": {"team": "devops"}}});
            coloured(&format!("bench-team-{}", i % 100), &format!("init-{i}"), $colour, $kind, $required, $key, &team)
        }
        pub(super) fn $name(i: usize) -> Value {
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
pub(super) fn unwanted(i: usize) -> Value {
    pod("bench-1", &format!("pod-{i}"), &json!({"color": "green"}), &json!({}))
}

pub(super) fn in_zones(i: usize) -> Value {
    let term = json!({"matchExpressions": [{"key": ZONE, "operator": "In", "values": ["zone1", "zone2"]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    pod("bench-1", &format!("pod-{i}"), &json!({"app": "bench"}), &json!({"affinity": {"nodeAffinity": required}}))
}

pub(super) fn spread(name: &str, key: &str, skew: i64, when: &str, more: &Value) -> Value {
    let mut constraint =
        json!({"maxSkew": skew, "topologyKey": key, "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"color": "blue"}}});
    for (field, value) in more.as_object().into_iter().flatten() {
        constraint[field] = value.clone();
    }
    pod("bench-1", name, &json!({"color": "blue"}), &json!({"topologySpreadConstraints": [constraint]}))
}

pub(super) fn spread_zones(i: usize) -> Value {
    spread(&format!("pod-{i}"), ZONE, 5, "DoNotSchedule", &json!({}))
}

pub(super) fn rather_spread_zones(i: usize) -> Value {
    spread(&format!("pod-{i}"), ZONE, 5, "ScheduleAnyway", &json!({}))
}

pub(super) fn spread_hosts_by_taints(i: usize) -> Value {
    spread(&format!("pod-{i}"), HOST, 1, "DoNotSchedule", &json!({"nodeTaintsPolicy": "Honor"}))
}

/// Of high priority.
pub(super) fn important(mut pod: Value) -> Value {
    pod["spec"]["priorityClassName"] = "bench-high".into();
    pod["spec"]["priority"] = 1000.into();
    pod
}

/// More than any node has.
pub(super) fn too_large(i: usize) -> Value {
    asking(plain("bench-0", "large", i), "9", "500Mi")
}

pub(super) fn low(i: usize) -> Value {
    asking(plain("bench-0", "low", i), "900m", "500Mi")
}

pub(super) fn high(i: usize) -> Value {
    important(asking(plain("bench-1", "high", i), "3", "500Mi"))
}

pub(super) fn high_with_claim(i: usize) -> Value {
    with_claim(high(i))
}

/// A pod that asks for nothing.
pub(super) fn light(mut pod: Value) -> Value {
    if let Some(container) = pod["spec"]["containers"][0].as_object_mut() {
        container.remove("resources");
    }
    pod
}

pub(super) fn measured_light(i: usize) -> Value {
    light(measured_plain(i))
}

pub(super) fn init_light(i: usize) -> Value {
    light(plain("bench-0", "light", i))
}

/// Somebody must let go of it before it can be gone.
pub(super) fn with_finalizer(i: usize) -> Value {
    let mut pod = light(init_plain(i));
    pod["metadata"]["finalizers"] = json!(["bench.example.com/keep"]);
    pod
}

pub(super) fn gated(i: usize) -> Value {
    let mut pod = light(plain("bench-0", "gated", i));
    pod["spec"]["schedulingGates"] = json!([{"name": "bench.example.com/wait"}]);
    pod
}

/// Every pod that is placed could be what it waits for.
pub(super) fn gated_together(i: usize) -> Value {
    let mut pod = gated(i);
    let term = json!({"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": "bench"}}, "namespaces": ["bench-0", "bench-1"]});
    pod["spec"]["affinity"] = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    pod
}

/// A node with room for all.
pub(super) fn large_node(i: usize) -> Value {
    let mut node = node(i);
    for list in ["capacity", "allocatable"] {
        node["status"][list]["pods"] = "90000".into();
    }
    node
}

/// Pods that name their node, as those of daemon sets do: all of them the first one.
pub(super) fn on_first_node(i: usize) -> Value {
    let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["bench-node-0"]}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    light(pod("bench-1", &format!("pod-{i}"), &json!({"app": "agent"}), &json!({"affinity": {"nodeAffinity": required}})))
}

/// A node that offers one piece of a resource that no other has.
pub(super) fn node_with_own_resource(i: usize) -> Value {
    let mut node = node(i);
    for list in ["capacity", "allocatable"] {
        node["status"][list][format!("bench.example.com/thing-{i}")] = "1".into();
    }
    node
}

/// A pod that fits only the node of its number.
pub(super) fn with_own_resource(i: usize) -> Value {
    let mut pod = measured_light(i);
    let one = json!({format!("bench.example.com/thing-{i}"): "1"});
    pod["spec"]["containers"][0]["resources"] = json!({"requests": one, "limits": one});
    pod
}

/// A node that says which features its kubelet has, so many of them.
fn node_with_features(i: usize, features: usize) -> Value {
    let mut node = node(i);
    node["status"]["declaredFeatures"] = (1..=features).map(|n| format!("Feature{n:03}")).collect::<Vec<_>>().into();
    node
}

pub(super) fn node_with_20_features(i: usize) -> Value {
    node_with_features(i, 20)
}

pub(super) fn node_with_100_features(i: usize) -> Value {
    node_with_features(i, 100)
}

fn asking_as_a_pod(mut pod: Value) -> Value {
    pod["spec"]["resources"] = json!({"requests": {"cpu": "100m", "memory": "200Mi"}});
    light(pod)
}

pub(super) fn init_asking_as_a_pod(i: usize) -> Value {
    asking_as_a_pod(init_plain(i))
}

pub(super) fn measured_asking_as_a_pod(i: usize) -> Value {
    asking_as_a_pod(measured_plain(i))
}

pub(super) fn with_claim(mut pod: Value) -> Value {
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": pod["metadata"]["name"]}}]);
    pod
}

pub(super) fn init_with_claim(i: usize) -> Value {
    with_claim(init_plain(i))
}

pub(super) fn pod_with_claim(i: usize) -> Value {
    with_claim(measured_plain(i))
}

pub(super) fn with_secret(i: usize) -> Value {
    let mut pod = measured_plain(i);
    pod["spec"]["volumes"] = json!([{"name": "s", "secret": {"secretName": "bench", "optional": true}}]);
    pod
}

/// A claim of the pod's name, bound to a volume of its own.
pub(super) fn bound_volume(pod: &Value, source: &str, value: &Value) -> Vec<Thing> {
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

pub(super) fn csi_volume(pod: &Value) -> Vec<Thing> {
    let handle = format!("vol-{}", pod["metadata"]["name"].as_str().unwrap_or_default());
    bound_volume(pod, "csi", &json!({"driver": DRIVER, "volumeHandle": handle}))
}

pub(super) fn disk_volume(pod: &Value) -> Vec<Thing> {
    let id = format!("vol-{}", pod["metadata"]["name"].as_str().unwrap_or_default());
    bound_volume(pod, "awsElasticBlockStore", &json!({"volumeID": id}))
}

pub(super) fn csi_node(node: &Value) -> Vec<Thing> {
    csi_node_of(node, 39)
}

/// With room for so many volumes.
pub(super) fn csi_node_of(node: &Value, volumes: usize) -> Vec<Thing> {
    let name = &node["metadata"]["name"];
    let csi = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name},
        "spec": {"drivers": [{"name": DRIVER, "nodeID": name, "topologyKeys": null, "allocatable": {"count": volumes}}]},
    });
    vec![("/apis/storage.k8s.io/v1/csinodes".to_owned(), csi)]
}

pub(super) fn two_namespaces() -> Vec<(String, Value)> {
    ["bench-0", "bench-1"].map(|n| (n.to_owned(), json!({}))).into()
}

pub(super) fn team_namespaces() -> Vec<(String, Value)> {
    let teams = (0..100).map(|i| (format!("bench-team-{i}"), json!({"team": "devops"})));
    teams.chain([("bench-1".to_owned(), json!({"team": "devops"}))]).collect()
}

pub(super) fn service(_: usize) -> Vec<Thing> {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bench", "namespace": "bench-1"},
        "spec": {"selector": {"app": "bench"}, "ports": [{"port": 80}]}});
    vec![("/api/v1/namespaces/bench-1/services".to_owned(), service)]
}

pub(super) fn priority(_: usize) -> Vec<Thing> {
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "bench-high"}, "value": 1000});
    vec![("/apis/scheduling.k8s.io/v1/priorityclasses".to_owned(), class)]
}

/// What comes and goes beside the others in a cluster: a node, a pod that fits nowhere, a service.
pub(super) fn coming_and_going(i: usize) -> Vec<Thing> {
    let mut node = node(i);
    node["metadata"]["name"] = format!("bench-node-new-{i}").into();
    node["metadata"]["labels"][HOST] = format!("bench-node-new-{i}").into();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("bench-{i}"), "namespace": "bench-0"},
        "spec": {"selector": {"app": "foo"}, "ports": [{"port": 8080}]}});
    let mut things = vec![("/api/v1/nodes".to_owned(), node)];
    things.extend(coming_too_large(i));
    things.push(("/api/v1/namespaces/bench-0/services".to_owned(), service));
    things
}

/// An important pod that fits nowhere.
pub(super) fn coming_too_large(i: usize) -> Vec<Thing> {
    vec![("/api/v1/namespaces/bench-0/pods".to_owned(), important(too_large(i)))]
}

/// An important pod that others must go for.
pub(super) fn coming_high(i: usize) -> Vec<Thing> {
    let mut pod = high(i);
    pod["metadata"]["namespace"] = "bench-0".into();
    vec![("/api/v1/namespaces/bench-0/pods".to_owned(), pod)]
}
