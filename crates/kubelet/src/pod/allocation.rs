//! What this node has promised to each pod: the resources it was admitted with, and those of each resize that was granted.
//!
//! A pod's spec says what is wanted; everything below the pod manager works with what was promised. A promise outlives the
//! kubelet in the pod's directory. Source: `pkg/kubelet/allocation`.

use super::admission::{self, Offer};
use crate::make::resources::requested;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Resources promised to a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    /// `spec.resources`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<ResourceRequirements>,
    /// Of each container and init container, by name.
    containers: BTreeMap<String, ResourceRequirements>,
}

fn every(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers))
}

impl Allocation {
    /// What the pod asks for.
    pub fn wanted(pod: &Pod) -> Self {
        let containers = every(pod).map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect();
        Allocation { pod: pod.spec.as_ref().and_then(|s| s.resources.clone()), containers }
    }

    /// The pod with what was promised in the place of what it asks for.
    pub fn laid_over(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if *self == Self::wanted(pod) {
            return pod.clone();
        }
        let mut pod = (**pod).clone();
        if let Some(spec) = &mut pod.spec {
            spec.resources.clone_from(&self.pod);
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                if let Some(promised) = self.containers.get(&container.name) {
                    container.resources = Some(promised.clone());
                }
            }
        }
        Arc::new(pod)
    }

    /// The promise that an earlier kubelet wrote down.
    pub fn load(directory: &Path) -> Option<Self> {
        let text = std::fs::read(file(directory)).ok()?;
        serde_json::from_slice(&text).inspect_err(|e| tracing::warn!("{}: {e}", file(directory).display())).ok()
    }

    /// Writes the promise down; the pod's directory may not be there yet.
    pub fn save(&self, directory: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(directory)?;
        let next = directory.join("allocation.next");
        std::fs::write(&next, serde_json::to_vec(self)?)?;
        std::fs::rename(next, file(directory))
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("allocation.json")
}

/// Why a resize is not granted (yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred`: others have to go first; `Infeasible`: the node is too small.
    pub reason: &'static str,
    /// For a person.
    pub message: String,
    /// `metadata.generation` that asked for it.
    pub generation: Option<i64>,
}

/// Grants a resize or says why not. `others` are the other pods that use the node, with what they were promised.
pub fn resize(wanted: &Pod, others: &[Arc<Pod>], offer: &Offer) -> Result<(), Pending> {
    let pending = |reason, message| Err(Pending { reason, message, generation: wanted.metadata.generation });
    for name in ["memory", "cpu"] {
        let (asked, capacity) = (requested(wanted, name), offer.allocatable.get(name).copied().unwrap_or(0));
        if asked > capacity {
            let message = format!("Node didn't have enough capacity: {name}, requested: {asked}, capacity: {capacity}");
            return pending("Infeasible", message);
        }
    }
    match admission::resources(wanted, others, offer) {
        Ok(()) => Ok(()),
        Err((_, message)) => pending("Deferred", message),
    }
}

/// Whether the pod asks for more than it was promised: those that do not can always be granted.
fn grows(wanted: &Pod, promised: &Pod) -> bool {
    ["cpu", "memory"].iter().any(|name| requested(wanted, name) > requested(promised, name))
}

/// The order in which pending resizes are looked at: those that take nothing first, then by priority, then guaranteed ones.
pub fn turn(wanted: &Pod, promised: &Pod) -> (bool, i64, bool) {
    let priority = wanted.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    let guaranteed = crate::make::resources::Qos::of(wanted) == crate::make::resources::Qos::Guaranteed;
    (grows(wanted, promised), -i64::from(priority), !guaranteed)
}

/// `Pod resize <what>: {...}`, as events tell it.
pub fn message<'a>(what: &str, pod: &'a Pod, generation: Option<i64>, error: &'a str) -> String {
    #[derive(Serialize)]
    struct Named<'a> {
        name: &'a str,
        resources: ResourceRequirements,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Summary<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<Named<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<Named<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    let spec = pod.spec.as_ref();
    let named = |c: &'a Container| Named { name: &c.name, resources: c.resources.clone().unwrap_or_default() };
    let init_containers = spec.iter().flat_map(|s| s.init_containers.iter().flatten()).map(named).collect();
    let containers = spec.iter().flat_map(|s| &s.containers).map(named).collect();
    let summary = Summary { init_containers, containers, generation: generation.unwrap_or(0), error };
    format!("Pod resize {what}: {}", serde_json::to_string(&summary).unwrap_or_default())
}
