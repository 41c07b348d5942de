//! Volumes of pods: made before the sandbox, kept up to date while the pod lives, removed after it.
//!
//! One keeper task per pod owns the files of its configMap, secret, projected and downwardAPI volumes and rewrites them
//! when what they come from changes. Directories are below `pods/<uid>/volumes/<plugin>/<name>`, as the kubelet's.

mod atomic;
mod files;
mod host;
mod keeper;

use crate::config::Config;
use crate::make::container::VolumeSource;
use crate::make::resources;
use crate::node::Capacity;
use ferrokube_client::{Caches, Client, Optional};
use ferrokube_cri::v1 as cri;
use files::Sources;
use host::Access;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use keeper::Keeper;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a volume could not be set up; the text of the `FailedMount` event.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume {volume:?} : {detail}")]
pub struct VolumeError {
    /// Name of the volume in the pod.
    pub volume: String,
    /// What went wrong.
    pub detail: String,
}

/// The volumes of all pods of this node.
pub struct Volumes {
    root: PathBuf,
    context: Arc<Context>,
    keepers: Mutex<HashMap<String, Keeper>>,
}

/// What every keeper needs.
pub(crate) struct Context {
    pub client: Client,
    pub caches: Caches,
    pub host_ips: Vec<String>,
    pub capacity: Capacity,
}

impl Volumes {
    /// No pods yet.
    pub fn new(config: &Config, client: Client) -> Self {
        let context = Context {
            caches: Caches::new(client.clone()),
            client,
            host_ips: config.node_ips.iter().map(ToString::to_string).collect(),
            capacity: Capacity::of_this_machine(),
        };
        Volumes { root: config.root.clone(), context: Arc::new(context), keepers: Mutex::default() }
    }

    fn directory(&self, uid: &str, plugin: &str, name: &str) -> PathBuf {
        self.root.join("pods").join(uid).join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// Makes all volumes of a pod; doing it again changes nothing that is right already.
    pub async fn mount(&self, pod: &Pod) -> Result<BTreeMap<String, VolumeSource>, VolumeError> {
        let mut made = BTreeMap::new();
        let mut kept = Vec::new();
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let wrong = |detail: String| VolumeError { volume: volume.name.clone(), detail };
            if let Some(image) = &volume.image {
                // The runtime mounts it; it is pulled when a container that mounts it starts.
                let reference = image.reference.clone().unwrap_or_default();
                let spec = cri::ImageSpec { image: reference.clone(), user_specified_image: reference, ..cri::ImageSpec::default() };
                made.insert(volume.name.clone(), VolumeSource::Image(Box::new(spec)));
                continue;
            }
            let path = match files::plugin(volume) {
                Some(plugin) => {
                    let path = self.directory(pod.metadata.uid.as_deref().unwrap_or_default(), plugin, &volume.name);
                    host::tmpfs(&path, None).map_err(wrong)?;
                    kept.push((volume.clone(), path.clone()));
                    path
                }
                None => self.mount_other(pod, volume).await.map_err(wrong)?,
            };
            made.insert(volume.name.clone(), VolumeSource::Path(path));
        }
        self.keep(pod, kept).await?;
        Ok(made)
    }

    /// Writes the files for the first time and leaves a keeper behind.
    async fn keep(&self, pod: &Pod, volumes: Vec<(Volume, PathBuf)>) -> Result<(), VolumeError> {
        if volumes.is_empty() {
            return Ok(());
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let sources = Sources::new(self.context.clone(), Arc::new(pod.clone()));
        let keeper = Keeper::start(sources, volumes).await?;
        self.keepers.lock().insert(uid, keeper);
        Ok(())
    }

    /// The pod's metadata changed: downward API files may have to follow.
    pub fn update(&self, pod: &Arc<Pod>) {
        if let Some(keeper) = self.keepers.lock().get(pod.metadata.uid.as_deref().unwrap_or_default()) {
            keeper.pod_changed(pod.clone());
        }
    }

    async fn mount_other(&self, pod: &Pod, volume: &Volume) -> Result<PathBuf, String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some(empty) = &volume.empty_dir {
            let path = self.directory(uid, "empty-dir", &volume.name);
            return empty_dir(pod, empty, path, self.context.capacity.memory_of_pods());
        }
        if let Some(source) = &volume.host_path {
            return host::host_path(&source.path, source.type_.as_deref().unwrap_or_default());
        }
        let claim = volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
        let own = volume.ephemeral.as_ref().map(|_| format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name));
        match claim.or(own) {
            Some(claim) => {
                let readonly = volume.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true));
                self.claimed(pod, &claim, readonly).await
            }
            None => Err("this kind of volume is not supported by this node".to_owned()),
        }
    }

    /// A claim that is bound to a directory of this node.
    async fn claimed(&self, pod: &Pod, claim: &str, readonly: bool) -> Result<PathBuf, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let client = &self.context.client;
        let found = client.get::<PersistentVolumeClaim>(namespace, claim).await.optional().map_err(|e| e.to_string())?;
        let found = found.ok_or_else(|| format!("persistentvolumeclaim {claim:?} not found"))?;
        let volume = found.spec.and_then(|s| s.volume_name).filter(|v| !v.is_empty());
        let volume = volume
            .ok_or_else(|| format!("PVC {namespace}/{claim} has non-bound phase (\"Pending\") or empty pvc.Spec.VolumeName (\"\")"))?;
        let spec = client.get::<PersistentVolume>("", &volume).await.map_err(|e| e.to_string())?.spec.unwrap_or_default();
        if let Some(source) = spec.host_path {
            return host::host_path(&source.path, source.type_.as_deref().unwrap_or_default());
        }
        match spec.local {
            Some(local) => {
                let path = host::host_path(&local.path, "")?;
                match fs_group(pod) {
                    // What the pod only reads stays as it is; and so does a hostPath above, which is the node's own.
                    Some(group) if !readonly => give(pod, &path, group)?,
                    _ => {}
                }
                Ok(path)
            }
            None => Err(format!("PersistentVolume {volume:?} is of a kind that is not supported by this node")),
        }
    }

    /// Removes the volumes of a pod.
    pub async fn unmount(&self, uid: &str) -> Result<(), VolumeError> {
        let keeper = self.keepers.lock().remove(uid);
        drop(keeper);
        let volumes = self.root.join("pods").join(uid).join("volumes");
        host::remove_tree(&volumes).map_err(|detail| VolumeError { volume: volumes.display().to_string(), detail })
    }
}

fn empty_dir(pod: &Pod, source: &EmptyDirVolumeSource, path: PathBuf, of_node: i64) -> Result<PathBuf, String> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => host::directory(&path, 0o777)?,
        "Memory" => {
            host::tmpfs(&path, Some(memory_of(pod, source, of_node)))?;
            host::directory(&path, 0o777)?;
        }
        other => return Err(format!("unknown storage medium {other:?}")),
    }
    if let Some(group) = fs_group(pod) {
        host::give_to_group(&path, group, Access::Write)?;
    }
    Ok(path)
}

/// How large a volume in memory may become: no larger than it says, nor than what its pod may use, nor than what all pods may.
fn memory_of(pod: &Pod, source: &EmptyDirVolumeSource, of_node: i64) -> i64 {
    let said = source.size_limit.as_ref().and_then(|q| ferrokube_api::quantity::Quantity::parse(&q.0).ok()).map(|q| q.value());
    let of_pod = resources::pod_totals(pod).memory_limit;
    said.into_iter().chain(of_pod).filter(|limit| *limit > 0).fold(of_node, i64::min)
}

/// Everything on a volume is given to `fsGroup`, unless the pod only wants it done where the root says that it was not yet.
fn give(pod: &Pod, path: &Path, group: u32) -> Result<(), String> {
    let policy = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()?.fs_group_change_policy.as_deref());
    if policy == Some("OnRootMismatch") && host::is_of_group(path, group, Access::Write) {
        return Ok(());
    }
    host::give_to_group(path, group, Access::Write)
}

/// `spec.securityContext.fsGroup`.
pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// A relative path of a file in a volume that stays in it.
pub(crate) fn safe_relative(path: &str) -> Result<&Path, String> {
    use std::path::Component;
    let relative = Path::new(path);
    let stays = relative.components().all(|c| matches!(c, Component::Normal(_)));
    if stays && !path.is_empty() && !path.starts_with("..") {
        Ok(relative)
    } else {
        Err(format!("invalid path: {path:?} must be relative and not contain '..'"))
    }
}
