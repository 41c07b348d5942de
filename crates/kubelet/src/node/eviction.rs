//! Measures what is left on this node every ten seconds, frees what nobody needs, and asks pods to go when that is not enough.

use super::Shared;
use super::pressure::{self, Crossed, Filesystem, Memory, Signals, Usage};
use crate::images::gc;
use crate::pod::manager::Request;
use ferrokube_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;
use nix::sys::statvfs::statvfs;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

const PERIOD: Duration = Duration::from_secs(10);
const REASON: &str = "Evicted";
/// Hard evictions leave a container one second.
const GRACE: i64 = 1;

/// Watches for ever.
pub async fn keep(node: Arc<Shared>, requests: mpsc::Sender<Request>) {
    let mut memory = Memory::default();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut crossed = pressure::crossed(&measure(&node).await, &node.config.eviction_hard);
        *node.pressure.lock() = memory.conditions(&crossed, Instant::now());
        if crossed.iter().any(|c| c.condition == "DiskPressure") {
            gc::free_all(&node).await;
            crossed = pressure::crossed(&measure(&node).await, &node.config.eviction_hard);
        }
        let sent = match crossed.first() {
            Some(first) => evict_one(&node, first, &requests).await,
            None => evict_over_limits(&node, &requests).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The filesystem at a path (or the nearest directory above it that exists).
pub fn filesystem(path: &Path) -> Filesystem {
    let found = path.ancestors().find_map(|p| statvfs(p).ok());
    found.map_or_else(Filesystem::default, |s| Filesystem {
        size: s.blocks() * s.fragment_size(),
        available: s.blocks_available() * s.fragment_size(),
        inodes: s.files(),
        inodes_free: s.files_available(),
    })
}

/// Where the runtime keeps its images.
pub async fn image_directory(node: &Shared) -> Option<PathBuf> {
    let answer = node.cri.images.clone().image_fs_info(cri::ImageFsInfoRequest {}).await.ok()?.into_inner();
    let first = answer.image_filesystems.into_iter().next()?;
    first.fs_id.map(|id| PathBuf::from(id.mountpoint)).filter(|p| p.is_absolute())
}

async fn measure(node: &Shared) -> Signals {
    let nodefs = filesystem(&node.config.root);
    let imagefs = image_directory(node).await.map_or(nodefs, |p| filesystem(&p));
    let machine = crate::server::Machine::read();
    node.load.note(Instant::now(), machine.cpu_nanos);
    Signals { memory: machine.available_memory + machine.used_memory, memory_available: machine.available_memory, nodefs, imagefs }
}

/// Pods of this node that have not ended.
fn active(node: &Shared) -> Vec<Arc<Pod>> {
    let over = |p: &Pod| matches!(p.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"));
    node.pods.lock().values().filter(|p| !over(p)).cloned().collect()
}

/// Usage of each pod by container: memory, or bytes written.
async fn usage(node: &Shared, resource: &str) -> BTreeMap<String, Usage> {
    let request = cri::ListContainerStatsRequest::default();
    let stats = node.cri.runtime.clone().list_container_stats(request).await.map(|a| a.into_inner().stats).unwrap_or_default();
    let mut all: BTreeMap<String, Usage> = BTreeMap::new();
    for stats in stats {
        let Some(attributes) = &stats.attributes else { continue };
        let names = crate::server::names(&attributes.labels);
        let amount = match resource {
            "memory" => stats.memory.as_ref().and_then(|m| m.working_set_bytes.as_ref()),
            _ => stats.writable_layer.as_ref().and_then(|w| w.used_bytes.as_ref()),
        };
        all.entry(names["uid"].clone()).or_default().insert(names["container"].clone(), amount.map_or(0, |v| v.value));
    }
    all
}

async fn evict_one(node: &Shared, crossed: &Crossed, requests: &mpsc::Sender<Request>) -> Result<(), mpsc::error::SendError<Request>> {
    let (pods, usage) = (active(node), usage(node, crossed.resource).await);
    let Some(pod) = pressure::victim(&pods, &usage, crossed.resource) else { return Ok(()) };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    evict(node, pod, pressure::message(pod, crossed, usage.get(&uid)), requests).await
}

async fn evict(node: &Shared, pod: &Pod, message: String, requests: &mpsc::Sender<Request>) -> Result<(), mpsc::error::SendError<Request>> {
    node.recorder.about(pod, ferrokube_client::events::EventType::Warning, REASON, message.clone());
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    requests.send(Request::Evict { uid, reason: REASON.into(), message, grace: GRACE }).await
}

/// Local storage isolation: pods that write more than their own limits allow.
async fn evict_over_limits(node: &Shared, requests: &mpsc::Sender<Request>) -> Result<(), mpsc::error::SendError<Request>> {
    let limited: Vec<Arc<Pod>> = active(node).into_iter().filter(|p| has_storage_limits(p)).collect();
    if limited.is_empty() {
        return Ok(());
    }
    let usage = usage(node, "ephemeral-storage").await;
    for pod in limited {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let directories = empty_dirs(node, &pod);
        let sizes = tokio::task::spawn_blocking(move || directories.into_iter().map(|(name, path)| (name, size(&path))).collect());
        let Ok(sizes) = sizes.await else { continue };
        let none = Usage::new();
        if let Some(message) = pressure::over_storage_limits(&pod, &sizes, usage.get(&uid).unwrap_or(&none)) {
            evict(node, &pod, message, requests).await?;
        }
    }
    Ok(())
}

fn has_storage_limits(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let sized = spec.volumes.iter().flatten().any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some()));
    let limits = spec.containers.iter().filter_map(|c| c.resources.as_ref()?.limits.as_ref());
    sized || limits.into_iter().any(|l| l.contains_key("ephemeral-storage"))
}

fn empty_dirs(node: &Shared, pod: &Pod) -> Vec<(String, PathBuf)> {
    let root = node.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default()).join("volumes/kubernetes.io~empty-dir");
    let names = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| v.empty_dir.is_some()).map(|v| v.name.clone());
    names.map(|name| (name.clone(), root.join(name))).collect()
}

/// Bytes that the files below a directory take up.
fn size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    let each = entries.map(|e| match e.metadata() {
        Ok(m) if m.is_dir() => size(&e.path()),
        Ok(m) => m.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}
