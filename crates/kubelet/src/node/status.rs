//! The Node object: registered once, its status kept true.
//!
//! Source: `pkg/kubelet/kubelet_node_status.go` and `pkg/kubelet/nodestatus/setters.go`.

use super::{Shared, conditions};
use ferrokube_client::events::EventType;
use ferrokube_client::{Optional, Patch, Result};
use ferrokube_cri::v1 as cri;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeDaemonEndpoints, NodeFeatures, NodeRuntimeHandler, NodeRuntimeHandlerFeatures,
    NodeSpec, NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// nodeStatusReportFrequency: an unchanged status is posted this often.
const REPORT_UNCHANGED: Duration = Duration::from_secs(300);
/// nodeStatusMaxImages.
const MAX_IMAGES: usize = 50;
const RETRY: Duration = Duration::from_millis(200);
/// What this kubelet can do of what a pod or its update may need and older ones cannot (`status.declaredFeatures`), sorted.
/// ExtendWebSocketsToKubelet is not among them: which protocols a stream may have is the runtime's to say.
const DECLARED: [&str; 3] =
    ["InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits"];

/// Registers the node, tells through `registered` that it is there and ready, and keeps the status true for ever.
pub async fn keep(node: Arc<Shared>, registered: tokio::sync::oneshot::Sender<()>) {
    node.recorder.event(node.reference(), EventType::Normal, "Starting", "Starting kubelet.");
    let own = loop {
        match register(&node).await {
            Ok(own) => break own,
            Err(e) => tracing::warn!("node not registered: {e}"),
        }
        tokio::time::sleep(RETRY).await;
    };
    let mut keeper = Keeper { node, registered: Some(registered), own, posted: None, unschedulable: false };
    let mut ticks = tokio::time::interval(keeper.node.config.heartbeat);
    loop {
        ticks.tick().await;
        match keeper.round().await {
            Ok(true) => {}
            Ok(false) => ticks.reset_after(RETRY),
            Err(e) => {
                tracing::warn!("node status not written: {e}");
                ticks.reset_after(RETRY);
            }
        }
    }
}

/// What has been said of the node, and to whom.
struct Keeper {
    node: Arc<Shared>,
    registered: Option<tokio::sync::oneshot::Sender<()>>,
    /// The node as the API had it last.
    own: Node,
    /// When the status was written last.
    posted: Option<Instant>,
    unschedulable: bool,
}

impl Keeper {
    /// Looks at the node and writes what differs from what the API has, whoever made it differ. Says whether the node is ready.
    async fn round(&mut self) -> Result<bool> {
        if let Some(seen) = self.node.own.get("", &self.node.config.node_name) {
            self.own = seen;
        }
        let known = self.own.status.clone().unwrap_or_default();
        let status = current(&self.node, &known).await;
        let ready = conditions::is_ready(status.conditions.as_deref().unwrap_or_default());
        let due = self.posted.is_none_or(|at| at.elapsed() >= REPORT_UNCHANGED);
        if due || !same(&known, &status) {
            let written = write(&self.node, &known, &status).await?;
            self.own = written;
            self.posted = Some(Instant::now());
            tell(&self.node, &known, &status);
        }
        if ready && let Some(registered) = self.registered.take() {
            // Nobody may be waiting.
            let _ = registered.send(());
        }
        self.tell_schedulable();
        Ok(ready)
    }

    fn tell_schedulable(&mut self) {
        let now = self.own.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false);
        if std::mem::replace(&mut self.unschedulable, now) != now {
            conditions::tell(&self.node, if now { "NodeNotSchedulable" } else { "NodeSchedulable" });
        }
    }
}

/// Tells what became another between two states of the node.
fn tell(node: &Shared, before: &NodeStatus, now: &NodeStatus) {
    for reason in conditions::news(before.conditions.as_deref().unwrap_or_default(), now.conditions.as_deref().unwrap_or_default()) {
        conditions::tell(node, reason);
    }
    let boot = |s: &NodeStatus| s.node_info.as_ref().map(|i| i.boot_id.clone()).filter(|id| !id.is_empty());
    if let (Some(old), Some(new)) = (boot(before), boot(now))
        && old != new
    {
        let message = format!("Node {} has been rebooted, boot id: {new}", node.config.node_name);
        node.recorder.event(node.reference(), EventType::Warning, "Rebooted", message);
    }
}

/// Makes the Node, or puts its labels on the one that is there, and returns it.
async fn register(node: &Shared) -> Result<Node> {
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
        return node.client.patch::<Node>("", &config.node_name, &patch).await;
    }
    let taints: Vec<Taint> = config.register_taints.iter().filter_map(|t| taint(t)).collect();
    let object = Node {
        metadata: ObjectMeta { name: Some(config.node_name.clone()), labels: Some(labels), ..ObjectMeta::default() },
        spec: Some(NodeSpec { taints: Some(taints).filter(|t| !t.is_empty()), ..NodeSpec::default() }),
        status: Some(current(node, &NodeStatus::default()).await),
    };
    let made = node.client.create(&object).await?;
    if let Some(status) = &object.status {
        tell(node, &NodeStatus::default(), status);
    }
    Ok(made)
}

/// `key[=value]:Effect`.
fn taint(text: &str) -> Option<Taint> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = pair.split_once('=').map_or((pair, None), |(k, v)| (k, Some(v.to_owned())));
    Some(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

async fn write(node: &Shared, known: &NodeStatus, status: &NodeStatus) -> Result<Node> {
    let body = serde_json::to_value(status).unwrap_or_default();
    // Addresses merge by type, so an address that went has to be replaced explicitly.
    let mut patch = json!({"status": body});
    if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
        addresses.push(json!({"$patch": "replace"}));
    }
    let kept = status.allocatable.as_ref();
    for gone in
        known.allocatable.iter().flat_map(BTreeMap::keys).filter(|name| is_extended(name) && !kept.is_some_and(|k| k.contains_key(*name)))
    {
        patch["status"]["allocatable"][gone] = Value::Null;
    }
    node.client.patch_status::<Node>("", &node.config.node_name, &Patch::Strategic(patch)).await
}

/// Whether what the API knows says all that is to be said. What others put there besides (conditions, capacity, attached
/// volumes) does not count, and neither do heartbeat times.
fn same(known: &NodeStatus, ours: &NodeStatus) -> bool {
    let capacity = known.capacity.as_ref();
    let offered = ours.capacity.iter().flatten().all(|(name, amount)| capacity.and_then(|c| c.get(name)) == Some(amount));
    let conditions = known.conditions.as_deref().unwrap_or_default();
    offered
        && known.allocatable == ours.allocatable
        && known.addresses == ours.addresses
        && known.daemon_endpoints == ours.daemon_endpoints
        && known.images.as_deref().unwrap_or_default() == ours.images.as_deref().unwrap_or_default()
        && known.node_info == ours.node_info
        && known.runtime_handlers == ours.runtime_handlers
        && known.features == ours.features
        && known.declared_features == ours.declared_features
        && ours.conditions.iter().flatten().all(|c| conditions.iter().any(|k| conditions::same(k, c)))
}

async fn current(node: &Shared, known: &NodeStatus) -> NodeStatus {
    let config = &node.config;
    let pressure = node.pressure.lock().clone();
    let (capacity, allocatable) = resources(node);
    let runtime = node.cri.runtime.clone().status(cri::StatusRequest { verbose: false }).await.map(tonic::Response::into_inner);
    let mut addresses: Vec<NodeAddress> =
        config.node_ips.iter().map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() }).collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: config.node_name.clone() });
    NodeStatus {
        addresses: Some(addresses),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        // What a runtime that does not answer can do is not known to have changed.
        runtime_handlers: runtime.as_ref().map_or_else(|_| known.runtime_handlers.clone(), |r| handlers(&r.runtime_handlers)),
        features: runtime.as_ref().map_or_else(|_| known.features.clone(), |r| r.features.map(features)),
        conditions: Some(conditions::make(runtime.map(|r| r.status), known.conditions.as_deref().unwrap_or_default(), &pressure)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: config.server_address.port().into() }),
        }),
        images: Some(images(node).await),
        node_info: Some(info(node).await),
        declared_features: Some(DECLARED.map(str::to_owned).into()),
        ..NodeStatus::default()
    }
}

/// The handlers that the runtime names, by name; none if it names none.
fn handlers(named: &[cri::RuntimeHandler]) -> Option<Vec<NodeRuntimeHandler>> {
    let features = |f: &cri::RuntimeHandlerFeatures| NodeRuntimeHandlerFeatures {
        recursive_read_only_mounts: Some(f.recursive_read_only_mounts),
        user_namespaces: Some(f.user_namespaces),
    };
    let handler = |h: &cri::RuntimeHandler| NodeRuntimeHandler { name: Some(h.name.clone()), features: h.features.as_ref().map(features) };
    let mut all: Vec<NodeRuntimeHandler> = named.iter().map(handler).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Some(all).filter(|all| !all.is_empty())
}

fn features(runtime: cri::RuntimeFeatures) -> NodeFeatures {
    NodeFeatures { supplemental_groups_policy: Some(runtime.supplemental_groups_policy) }
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
