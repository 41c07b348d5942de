//! The Node object: registered once, its status kept true.
//!
//! Source: `pkg/kubelet/kubelet_node_status.go` and `pkg/kubelet/nodestatus/setters.go`.

use super::Shared;
use ferrokube_client::{Error, Optional, Patch, Result};
use ferrokube_cri::v1 as cri;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// nodeStatusReportFrequency: an unchanged status is posted this often.
const REPORT_UNCHANGED: Duration = Duration::from_secs(300);
/// nodeStatusMaxImages.
const MAX_IMAGES: usize = 50;
const RETRY: Duration = Duration::from_millis(200);

/// Registers the node, tells through `registered` that it is there and ready, and keeps the status true for ever.
pub async fn keep(node: Arc<Shared>, registered: tokio::sync::oneshot::Sender<()>) {
    let mut registered = Some(registered);
    while let Err(e) = register(&node).await {
        tracing::warn!("node not registered: {e}");
        tokio::time::sleep(RETRY).await;
    }
    let mut ticks = tokio::time::interval(node.config.heartbeat);
    let mut last: Option<(NodeStatus, tokio::time::Instant)> = None;
    loop {
        ticks.tick().await;
        let known = last.as_ref().map(|(s, _)| s);
        let status = current(&node, known).await;
        let unchanged = known.is_some_and(|k| same(k, &status));
        if unchanged && last.as_ref().is_some_and(|(_, at)| at.elapsed() < REPORT_UNCHANGED) {
            continue;
        }
        match write(&node, &status).await {
            Ok(()) => {
                let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
                last = Some((status, tokio::time::Instant::now()));
                if ready && let Some(tell) = registered.take() {
                    // Nobody may be waiting.
                    let _ = tell.send(());
                }
                if !ready {
                    ticks.reset_after(RETRY);
                }
            }
            Err(e) => {
                tracing::warn!("node status not written: {e}");
                ticks.reset_after(RETRY);
            }
        }
    }
}

async fn register(node: &Shared) -> Result<()> {
    let config = &node.config;
    let machine = uname();
    let arch = go_arch(&machine.1);
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), config.node_name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), arch.to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), arch.to_owned()),
    ]);
    labels.extend(config.labels.iter().cloned());
    let existing = node.client.get::<Node>("", &config.node_name).await.optional()?;
    if existing.is_some() {
        let patch = Patch::Strategic(json!({"metadata": {"labels": labels}}));
        return node.client.patch::<Node>("", &config.node_name, &patch).await.map(drop);
    }
    let taints: Vec<Taint> = config.register_taints.iter().filter_map(|t| taint(t)).collect();
    let object = Node {
        metadata: ObjectMeta { name: Some(config.node_name.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec { taints: Some(taints).filter(|t| !t.is_empty()), ..NodeSpec::default() }),
        status: Some(current(node, None).await),
    };
    match node.client.create(&object).await {
        Err(e @ Error::Api(_)) if e.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// `key[=value]:Effect`.
fn taint(text: &str) -> Option<Taint> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = pair.split_once('=').map_or((pair, None), |(k, v)| (k, Some(v.to_owned())));
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

async fn write(node: &Shared, status: &NodeStatus) -> Result<()> {
    let body = serde_json::to_value(status).unwrap_or_default();
    // Addresses merge by type, so an address that went has to be replaced explicitly.
    let mut patch = json!({"status": body});
    if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
        addresses.push(json!({"$patch": "replace"}));
    }
    let shown = node.own.get("", &node.config.node_name).and_then(|n| n.status?.allocatable).unwrap_or_default();
    let kept = status.allocatable.as_ref();
    for gone in shown.keys().filter(|name| is_extended(name) && !kept.is_some_and(|k| k.contains_key(*name))) {
        patch["status"]["allocatable"][gone] = Value::Null;
    }
    node.client.patch_status::<Node>("", &node.config.node_name, &Patch::Strategic(patch)).await.map(drop)
}

/// Equal but for heartbeat times.
fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let bare = |s: &NodeStatus| {
        let mut value = serde_json::to_value(s).unwrap_or_default();
        for condition in value["conditions"].as_array_mut().into_iter().flatten() {
            condition["lastHeartbeatTime"] = Value::Null;
        }
        value
    };
    bare(a) == bare(b)
}

async fn current(node: &Shared, known: Option<&NodeStatus>) -> NodeStatus {
    let config = &node.config;
    let pressure = node.pressure.lock().clone();
    let (capacity, allocatable) = resources(node);
    let runtime = node.cri.runtime.clone().status(cri::StatusRequest { verbose: false }).await;
    let mut addresses: Vec<NodeAddress> =
        config.node_ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions(runtime.map(|r| r.into_inner().status), known, &pressure)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: config.server_address.port().into() }),
        }),
        images: Some(images(node).await),
        node_info: Some(info(node).await),
        ..NodeStatus::default()
    }
}

/// What pods may use of this node.
pub fn allocatable(node: &Shared) -> BTreeMap<String, Quantity> {
    resources(node).1
}

fn resources(node: &Shared) -> (BTreeMap<String, Quantity>, BTreeMap<String, Quantity>) {
    let cpus = node.capacity.milli_cpu / 1000;
    let memory = node.capacity.memory / 1024;
    let (disk, _) = filesystem(&node.config.root);
    let make = |disk: String| {
        BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpus.to_string())),
            ("memory".to_owned(), Quantity(format!("{memory}Ki"))),
            ("pods".to_owned(), Quantity(node.config.max_pods.to_string())),
            ("ephemeral-storage".to_owned(), Quantity(disk)),
        ])
    };
    let capacity = make(format!("{}Ki", disk / 1024));
    let mut allocatable = make((disk - disk / 10).to_string());
    allocatable.insert("memory".into(), Quantity(format!("{}Ki", node.capacity.memory_of_pods() / 1024)));
    // What somebody else says the node has besides is for pods as a whole; so people advertise resources by hand.
    let advertised = node.own.get("", &node.config.node_name).and_then(|n| n.status?.capacity).unwrap_or_default();
    allocatable.extend(advertised.into_iter().filter(|(name, _)| is_extended(name)));
    (capacity, allocatable)
}

/// Whether a resource is none of Kubernetes' own.
fn is_extended(name: &str) -> bool {
    name.split_once('/').is_some_and(|(domain, _)| !domain.ends_with("kubernetes.io") && !domain.starts_with("requests."))
}

/// (size, available) in bytes of the filesystem at a path.
pub fn filesystem(path: &std::path::Path) -> (u64, u64) {
    let found = path.ancestors().find_map(|p| nix::sys::statvfs::statvfs(p).ok());
    found.map_or((0, 0), |s| (s.blocks() * s.fragment_size(), s.blocks_available() * s.fragment_size()))
}

/// (condition, reason and message when it holds, reason and message when it does not).
const PRESSURES: [(&str, &str, &str, &str, &str); 3] = [
    (
        "MemoryPressure",
        "KubeletHasInsufficientMemory",
        "kubelet has insufficient memory available",
        "KubeletHasSufficientMemory",
        "kubelet has sufficient memory available",
    ),
    ("DiskPressure", "KubeletHasDiskPressure", "kubelet has disk pressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    (
        "PIDPressure",
        "KubeletHasInsufficientPID",
        "kubelet has insufficient PID available",
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
    ),
];

fn conditions(
    runtime: std::result::Result<Option<cri::RuntimeStatus>, tonic::Status>,
    known: Option<&NodeStatus>,
    pressure: &BTreeSet<&'static str>,
) -> Vec<NodeCondition> {
    let now = Time(Timestamp::now());
    let ready = match runtime {
        Err(e) => Err(format!("container runtime is down: {}", e.message())),
        Ok(status) => {
            let bad = status.iter().flat_map(|s| &s.conditions).filter(|c| !c.status);
            let texts: Vec<String> = bad
                .map(|c| {
                    format!("container runtime network not ready: {}={} reason:{} message:{}", c.r#type, c.status, c.reason, c.message)
                })
                .collect();
            if texts.is_empty() { Ok(()) } else { Err(texts.join(", ")) }
        }
    };
    let make = |kind: &str, status: &str, reason: &str, message: &str| {
        let before = known.and_then(|k| k.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status));
        NodeCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or(Some(now.clone())),
        }
    };
    let pressures = PRESSURES.iter().map(|(kind, bad, bad_text, good, good_text)| {
        if pressure.contains(kind) { make(kind, "True", bad, bad_text) } else { make(kind, "False", good, good_text) }
    });
    let mut list: Vec<NodeCondition> = pressures.collect();
    list.push(match ready {
        Ok(()) => make("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        Err(message) => make("Ready", "False", "KubeletNotReady", &message),
    });
    list
}

async fn images(node: &Shared) -> Vec<ContainerImage> {
    let listed = node.cri.images.clone().list_images(cri::ListImagesRequest::default()).await;
    let mut images = listed.map(|l| l.into_inner().images).unwrap_or_default();
    images.sort_by_key(|i| std::cmp::Reverse(i.size));
    let names = |i: cri::Image| ContainerImage {
        names: Some(i.repo_digests.into_iter().chain(i.repo_tags).take(5).collect()),
        size_bytes: i64::try_from(i.size).ok(),
    };
    images.into_iter().filter(|i| !i.repo_tags.is_empty() || !i.repo_digests.is_empty()).take(MAX_IMAGES).map(names).collect()
}

async fn info(node: &Shared) -> NodeSystemInfo {
    let (kernel, machine) = uname();
    let runtime = node.cri.version().await.unwrap_or_default();
    let read = |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
    let machine_id = read("/etc/machine-id");
    NodeSystemInfo {
        architecture: go_arch(&machine).into(),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("{}://{}", runtime.runtime_name, runtime.runtime_version),
        kernel_version: kernel,
        kube_proxy_version: String::new(),
        kubelet_version: node.config.version.clone(),
        system_uuid: Some(read("/sys/class/dmi/id/product_uuid")).filter(|s| !s.is_empty()).unwrap_or_else(|| machine_id.clone()),
        machine_id,
        operating_system: "linux".into(),
        os_image: os_image(),
        ..NodeSystemInfo::default()
    }
}

fn os_image() -> String {
    let text = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |l| l.trim_matches('"').to_owned())
}

/// (kernel release, machine).
fn uname() -> (String, String) {
    let text = |s: &std::ffi::OsStr| s.to_string_lossy().into_owned();
    nix::sys::utsname::uname().map(|u| (text(u.release()), text(u.machine()))).unwrap_or_default()
}

/// GOARCH of a machine name.
pub fn go_arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
