//! Workloads with dynamic resources. A driver's plugin is played by the slices that it would publish.

use super::*;
use serde_json::json;

const DRIVER: &str = "bench.example.com";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";
/// Devices of each node.
const DEVICES: usize = 10;
/// Only nodes with a driver have it.
const LABEL: &str = "bench.example.com/node-with-devices";

fn node_with_driver(i: usize) -> Value {
    let mut node = node(i);
    node["metadata"]["labels"][LABEL] = "true".into();
    node
}

fn slice(name: &str, pool: &str, slices: usize, more: &Value) -> Thing {
    let mut slice = json!({
        "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
        "spec": {"driver": DRIVER, "pool": {"name": pool, "generation": 1, "resourceSliceCount": slices}},
    });
    for (field, value) in more.as_object().into_iter().flatten() {
        slice["spec"][field] = value.clone();
    }
    (SLICES.to_owned(), slice)
}

/// The slice of a node with so many devices.
fn slice_of(node: &Value, devices: usize, more: &Value) -> Vec<Thing> {
    let name = node["metadata"]["name"].as_str().unwrap_or_default();
    let device = |d: usize| {
        let mut device = more.clone();
        device["name"] = format!("instance-{d:02}").into();
        device
    };
    let devices: Vec<Value> = (0..devices).map(device).collect();
    vec![slice(&format!("{name}-slice"), name, 1, &json!({"nodeName": name, "devices": devices}))]
}

fn ten_devices(node: &Value) -> Vec<Thing> {
    slice_of(node, DEVICES, &json!({}))
}

fn two_devices(node: &Value) -> Vec<Thing> {
    slice_of(node, 2, &json!({}))
}

fn twenty_devices(node: &Value) -> Vec<Thing> {
    slice_of(node, 2 * DEVICES, &json!({}))
}

fn tainted_devices(node: &Value) -> Vec<Thing> {
    slice_of(node, DEVICES, &json!({"taints": [{"key": "bench.example.com/taint", "value": "tainted", "effect": "NoSchedule"}]}))
}

fn class_named(name: &str, expression: &str, extended: Option<String>) -> Thing {
    let mut class = json!({"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": name},
        "spec": {"selectors": [{"cel": {"expression": expression}}]}});
    if let Some(name) = extended {
        class["spec"]["extendedResourceName"] = name.into();
    }
    (CLASSES.to_owned(), class)
}

fn of_driver() -> String {
    format!("device.driver == '{DRIVER}'")
}

fn class(_: usize) -> Vec<Thing> {
    vec![class_named("bench", &of_driver(), None)]
}

fn classes_and_empty_one(_: usize) -> Vec<Thing> {
    vec![class_named("bench", &of_driver(), None), class_named("bench-none", "device.driver == 'none.example.com'", None)]
}

fn class_of_shared(_: usize) -> Vec<Thing> {
    vec![class_named("bench", &format!("{} && device.allowMultipleAllocations == true", of_driver()), None)]
}

/// Each for an extended resource of its own.
fn extended_class(i: usize) -> Vec<Thing> {
    vec![class_named(&format!("bench-{i}"), &of_driver(), Some(format!("bench.example.com/gpu-{i}")))]
}

/// All for one extended resource.
fn extended_class_of_one(i: usize) -> Vec<Thing> {
    vec![class_named(&format!("bench-{i}"), &of_driver(), Some("bench.example.com/gpu".to_owned()))]
}

fn implicit_class(i: usize) -> Vec<Thing> {
    vec![class_named(&format!("bench-{i}"), &of_driver(), None)]
}

/// What a claim asks for.
fn exactly(more: &Value) -> Value {
    let mut exactly = json!({"deviceClassName": "bench"});
    for (field, value) in more.as_object().into_iter().flatten() {
        exactly[field] = value.clone();
    }
    json!([{"name": "req-0", "exactly": exactly}])
}

/// A template in both namespaces.
fn template(spec: &Value) -> Vec<Thing> {
    let of = |namespace: &str| {
        let template = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaimTemplate",
            "metadata": {"name": "bench", "namespace": namespace}, "spec": {"spec": {"devices": spec}}});
        (format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaimtemplates"), template)
    };
    ["bench-0", "bench-1"].map(of).into()
}

fn template_of_one(_: usize) -> Vec<Thing> {
    template(&json!({"requests": exactly(&json!({}))}))
}

fn template_with_toleration(_: usize) -> Vec<Thing> {
    template(&json!({"requests": exactly(&json!({"tolerations": [{"key": "bench.example.com/taint", "operator": "Exists"}]}))}))
}

fn template_of_first(_: usize) -> Vec<Thing> {
    let ways = json!([{"name": "sub-0", "deviceClassName": "bench-none"}, {"name": "sub-1", "deviceClassName": "bench"}]);
    template(&json!({"requests": [{"name": "req-0", "firstAvailable": ways}]}))
}

fn template_of_two(_: usize) -> Vec<Thing> {
    let same = json!([{"requests": ["req-0"], "matchAttribute": "bench.example.com/slice"}]);
    template(&json!({"requests": exactly(&json!({"count": 2})), "constraints": same}))
}

fn template_of_seven(_: usize) -> Vec<Thing> {
    template(&json!({"requests": exactly(&json!({"count": 7}))}))
}

fn template_of_memory(_: usize) -> Vec<Thing> {
    let request = |n: usize| json!({"name": format!("req-{n}"), "exactly": {"deviceClassName": "bench", "capacity": {"requests": {"memory": "10Gi"}}}});
    template(&json!({"requests": [request(0), request(1)]}))
}

fn claim(namespace: &str, i: usize, devices: &Value) -> Vec<Thing> {
    let claim = json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim",
        "metadata": {"name": format!("claim-{i}"), "namespace": namespace}, "spec": {"devices": devices}});
    vec![(format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims"), claim)]
}

fn init_claim(i: usize) -> Vec<Thing> {
    claim("bench-0", i, &json!({"requests": exactly(&json!({}))}))
}

/// One claim for each five pods.
fn shared_claim(i: usize) -> Vec<Thing> {
    let of = |namespace| if i % 5 == 0 { claim(namespace, i / 5, &json!({"requests": exactly(&json!({}))})) } else { Vec::new() };
    [of("bench-0"), of("bench-1")].concat()
}

fn from_template(mut pod: Value) -> Value {
    pod["spec"]["resourceClaims"] = json!([{"name": "resource", "resourceClaimTemplateName": "bench"}]);
    pod["spec"]["containers"][0]["resources"] = json!({"claims": [{"name": "resource"}]});
    pod
}

fn init_from_template(i: usize) -> Value {
    from_template(init_plain(i))
}

fn measured_from_template(i: usize) -> Value {
    from_template(measured_plain(i))
}

fn sharing(mut pod: Value, i: usize) -> Value {
    pod["spec"]["resourceClaims"] = json!([{"name": "resource", "resourceClaimName": format!("claim-{}", i / 5)}]);
    pod["spec"]["containers"][0]["resources"] = json!({"claims": [{"name": "resource"}]});
    pod
}

fn init_sharing(i: usize) -> Value {
    sharing(init_plain(i), i)
}

fn measured_sharing(i: usize) -> Value {
    sharing(measured_plain(i), i)
}

fn extended(mut pod: Value, resource: &str) -> Value {
    let one = json!({resource: "1"});
    pod["spec"]["containers"][0]["resources"] = json!({"requests": one, "limits": one});
    pod
}

/// Pods that ask for an extended resource, in turn for one of several.
macro_rules! extended_rows {
    ($($init:ident, $measured:ident, $resource:expr;)*) => {
        $(fn $init(i: usize) -> Value {
            extended(init_plain(i), &($resource)(i))
        }
        fn $measured(i: usize) -> Value {
            extended(measured_plain(i), &($resource)(i))
        })*
    };
}

extended_rows! {
    init_gpu, measured_gpu, |i| format!("bench.example.com/gpu-{i}");
    init_gpu_of_25, measured_gpu_of_25, |i| format!("bench.example.com/gpu-{}", i % 25);
    init_gpu_of_50, measured_gpu_of_50, |i| format!("bench.example.com/gpu-{}", i % 50);
    init_implicit_of_25, measured_implicit_of_25, |i| format!("deviceclass.resource.kubernetes.io/bench-{}", i % 25);
    init_one_gpu, measured_one_gpu, |_| "bench.example.com/gpu".to_owned();
}

/// The allocation of a claim that is there before: spread evenly over the nodes.
fn allocated(i: usize, sizes: Sizes) -> super::super::script::Change {
    let (node, device) = (format!("bench-node-{}", i % sizes.nodes), format!("instance-{:02}", i / sizes.nodes));
    allocation(i, &node, &device, Some(&node))
}

/// The half of a pool that is taken before.
fn allocated_partition(i: usize, _: Sizes) -> super::super::script::Change {
    allocation(i, &format!("pool-{i}"), "device-2-counters-1", None)
}

fn allocation(i: usize, pool: &str, device: &str, node: Option<&str>) -> super::super::script::Change {
    let term = match node {
        Some(node) => json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}),
        None => json!({"matchExpressions": [{"key": LABEL, "operator": "In", "values": ["true"]}]}),
    };
    let results = json!([{"request": "req-0", "driver": DRIVER, "pool": pool, "device": device}]);
    let status = json!({"allocation": {"devices": {"results": results}, "nodeSelector": {"nodeSelectorTerms": [term]}}});
    let path = format!("/apis/resource.k8s.io/v1/namespaces/bench-0/resourceclaims/claim-{i}/status");
    (path, "application/merge-patch+json", json!({"status": status}))
}

fn on_nodes_with_driver(mut spec: Value) -> Value {
    let term = json!({"matchExpressions": [{"key": LABEL, "operator": "In", "values": ["true"]}]});
    spec["nodeSelector"] = json!({"nodeSelectorTerms": [term]});
    spec
}

fn counters(names: &[&str]) -> Value {
    names.iter().map(|n| ((*n).to_owned(), json!({"value": "1"}))).collect::<serde_json::Map<_, _>>().into()
}

/// A pool of four counters: two devices that take two of them each, four that take one, and never all six at once.
fn partitions(i: usize) -> Vec<Thing> {
    let device = |name: &str, first: bool, takes: &[&str]| {
        json!({
            "name": name,
            "attributes": {"preallocate": {"bool": first}, "slice": {"int": i}},
            "capacity": {"counters": {"value": takes.len().to_string()}},
            "consumesCounters": [{"counterSet": "counter-set", "counters": counters(takes)}],
        })
    };
    let devices = json!([
        device("device-2-counters-1", true, &["counter1", "counter2"]),
        device("device-2-counters-2", false, &["counter3", "counter4"]),
        device("device-1-counter-1", false, &["counter1"]),
        device("device-1-counter-2", false, &["counter2"]),
        device("device-1-counter-3", false, &["counter3"]),
        device("device-1-counter-4", false, &["counter4"]),
    ]);
    let set = json!([{"name": "counter-set", "counters": counters(&["counter1", "counter2", "counter3", "counter4"])}]);
    let pool = format!("pool-{i}");
    vec![
        slice(&format!("bench-counters-{i}"), &pool, 2, &on_nodes_with_driver(json!({"sharedCounters": set}))),
        slice(&format!("bench-devices-{i}"), &pool, 2, &on_nodes_with_driver(json!({"devices": devices}))),
    ]
}

/// Eight devices of which seven are wanted, and the first takes so much that it cannot be one of them.
fn partitions_for_backtracking(i: usize) -> Vec<Thing> {
    let device = |n: usize| {
        let memory = if n == 1 { "20Gi" } else { "10Gi" };
        json!({"name": format!("device-{n}"), "consumesCounters": [
            {"counterSet": "cpus", "counters": counters(&[&format!("cpu{n}")])},
            {"counterSet": "memory", "counters": {"memory": {"value": memory}}},
        ]})
    };
    let cpus: Vec<String> = (1..=8).map(|n| format!("cpu{n}")).collect();
    let cpus: Vec<&str> = cpus.iter().map(String::as_str).collect();
    let sets = json!([
        {"name": "cpus", "counters": counters(&cpus)}, {"name": "memory", "counters": {"memory": {"value": "70Gi"}}},
    ]);
    let pool = format!("pool-{i}");
    let devices: Vec<Value> = (1..=8).map(device).collect();
    vec![
        slice(&format!("bench-counters-{i}"), &pool, 2, &on_nodes_with_driver(json!({"sharedCounters": sets}))),
        slice(&format!("bench-devices-{i}"), &pool, 2, &on_nodes_with_driver(json!({"devices": devices}))),
    ]
}

/// A device of 80Gi that many can share, and another that also takes counters.
fn shareable(i: usize) -> Vec<Thing> {
    let memory = json!({"value": "80Gi", "requestPolicy": {"default": "1Gi", "validRange": {"min": "1Gi"}}});
    let devices = json!([
        {"name": "shareable-device", "allowMultipleAllocations": true, "attributes": {"slice": {"int": i}}, "capacity": {"memory": memory}},
        {"name": "plain-device", "attributes": {"slice": {"int": i}}, "capacity": {"memory": {"value": "80Gi"}}},
    ]);
    vec![slice(&format!("bench-shared-{i}"), &format!("pool-{i}"), 1, &on_nodes_with_driver(json!({"devices": devices})))]
}

/// A claim for a device with two counters, one of those that are meant to be taken before.
fn init_claim_of_two_counters(i: usize) -> Vec<Thing> {
    let expression =
        format!("device.capacity['{DRIVER}'].counters.compareTo(quantity('2')) >= 0 && device.attributes['{DRIVER}'].preallocate");
    claim("bench-0", i, &json!({"requests": exactly(&json!({"selectors": [{"cel": {"expression": expression}}]}))}))
}

const ONE_FOR_GPUS: &str = "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
  pluginConfig:
  - name: NodeResourcesFit
    args:
      scoringStrategy:
        type: LeastAllocated
        resources: [{name: cpu, weight: 1}, {name: memory, weight: 1}, {name: bench.example.com/gpu, weight: 1}]
";

pub(super) fn all() -> Vec<Workload> {
    let drivers = |slices| with(nodes(node_with_driver), slices);
    let things = |many, of| Act::Things { many, of };
    let lasting = Duration::from_secs(10);
    let steady = |many, of| Act::Steady { many, of, lasting };
    let filled = |name, threshold, init_claims| {
        workload(
            name,
            Some(threshold),
            (500, init_claims, 10),
            vec![
                drivers(ten_devices),
                once(class),
                things(Many::Init, init_claim),
                Act::Change { many: Many::Init, of: allocated, rate: 0 },
                once(template_of_one),
                steady(Many::Pods, measured_from_template),
            ],
        )
    };
    let extended = |name, classes, sizes, class: fn(usize) -> Vec<Thing>, before: fn(usize) -> Value, pod: fn(usize) -> Value| {
        workload(name, None, sizes, vec![drivers(ten_devices), things(Many::Just(classes), class), init(before), measured(pod)])
    };
    let large = (500, 2500, 2500);
    vec![
        workload(
            "SchedulingWithResourceClaimTemplate",
            Some(56),
            large,
            vec![drivers(ten_devices), once(class), once(template_of_one), init(init_from_template), measured(measured_from_template)],
        ),
        filled("SteadyStateClusterResourceClaimTemplate/empty", 64, 0),
        filled("SteadyStateClusterResourceClaimTemplate/half", 70, 2500),
        filled("SteadyStateClusterResourceClaimTemplate/full", 60, 4990),
        workload(
            "SchedulingWithResourceClaim",
            None,
            large,
            vec![drivers(two_devices), once(class), things(Many::Pods, shared_claim), init(init_sharing), measured(measured_sharing)],
        ),
        workload(
            "FirstAvailable",
            None,
            (1, 0, 10),
            vec![drivers(ten_devices), once(classes_and_empty_one), once(template_of_first), measured(measured_from_template)],
        ),
        workload(
            "DeviceTaintToleration",
            None,
            (1, 0, 10),
            vec![drivers(tainted_devices), once(class), once(template_with_toleration), measured(measured_from_template)],
        ),
        workload(
            "ConsumableCapacity",
            None,
            (100, 2000, 2000),
            vec![
                nodes(node_with_driver),
                things(Many::Init, shareable),
                once(class_of_shared),
                once(template_of_memory),
                steady(Many::Pods, measured_from_template),
            ],
        ),
        workload(
            "Partitionable",
            None,
            (100, 2000, 2000),
            vec![
                nodes(node_with_driver),
                things(Many::Init, partitions),
                once(class),
                things(Many::Init, init_claim_of_two_counters),
                Act::Change { many: Many::Init, of: allocated_partition, rate: 0 },
                once(template_of_two),
                steady(Many::Pods, measured_from_template),
            ],
        ),
        workload(
            "PartitionableBacktracking",
            None,
            (1, 1, 1),
            vec![
                nodes(node_with_driver),
                things(Many::Init, partitions_for_backtracking),
                once(class),
                once(template_of_seven),
                measured(measured_from_template),
            ],
        ),
        extended("ExtendedResource", 10, (1, 0, 10), extended_class, init_gpu, measured_gpu),
        extended("ExtendedResource_25Classes", 25, large, extended_class, init_gpu_of_25, measured_gpu_of_25),
        extended("ExtendedResource_50Classes", 50, large, extended_class, init_gpu_of_50, measured_gpu_of_50),
        extended("ImplicitExtendedResource_25Classes", 25, large, implicit_class, init_implicit_of_25, measured_implicit_of_25),
        Workload {
            configuration: Some(ONE_FOR_GPUS),
            ..workload(
                "ExtendedResourceScoring",
                None,
                (500, 0, 5000),
                vec![
                    drivers(twenty_devices),
                    things(Many::Just(20), extended_class_of_one),
                    init(init_one_gpu),
                    measured(measured_one_gpu),
                ],
            )
        },
    ]
}
