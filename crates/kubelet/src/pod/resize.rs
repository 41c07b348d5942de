//! In-place resize: what of a running pod is not as promised yet, and the step that makes it so.
//!
//! The pod manager grants resizes ([`super::allocation`]); here they are carried out. Limits of the pod's cgroup grow
//! before those of its containers and shrink after them. Source: `computePodResizeAction` and `doPodResizeAction`.

use super::allocation::Pending;
use super::spec::ContainerSpec;
use crate::make::resources::{self, Totals, request_and_limit};
use crate::node::Shared;
use crate::runtime::{Container, Observed, annotations};
use ferrokube_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodCondition, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Wait before a resize that went wrong is tried again (the kubelet's sync back-off).
const RETRY: Duration = Duration::from_secs(10);

/// How a running container gets what it was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Its cgroup is changed under it.
    InPlace,
    /// Its resize policy says that it has to be restarted.
    Restart,
}

/// What differs between what a container was given and what it was promised, by its resize policy.
pub fn change(spec: &ContainerSpec, given: &ResourceRequirements) -> Option<Change> {
    let differs = |name: &&str| request_and_limit(spec.fields.resources.as_ref(), name) != request_and_limit(Some(given), name);
    let restarts = |name: &str| {
        let policies = spec.fields.resize_policy.iter().flatten();
        policies.into_iter().any(|p| p.resource_name == name && p.restart_policy == "RestartContainer")
    };
    let changed: Vec<&str> = ["cpu", "memory"].into_iter().filter(|name| differs(name)).collect();
    match changed.as_slice() {
        [] => None,
        names if names.iter().any(|name| restarts(name)) => Some(Change::Restart),
        _ => Some(Change::InPlace),
    }
}

/// A resize that was carried out, as it is remembered beside the container: its making only tells what it began with.
#[derive(Serialize, Deserialize)]
struct Resized {
    id: String,
    resources: ResourceRequirements,
}

/// State of a pod's resizes; owned by its worker.
#[derive(Default)]
pub struct Resizes {
    /// A resize that was not granted yet.
    pub pending: Option<Pending>,
    /// The generation whose resize is being carried out.
    under_way: Option<Option<i64>>,
    /// Why the last try went wrong.
    error: Option<String>,
    retry_at: Option<Instant>,
    /// What the pod's cgroup was given, once this process has seen to it.
    pub cgroup: Option<Totals>,
    /// What containers were given after they had been made, by id.
    given: BTreeMap<String, ResourceRequirements>,
}

/// What a step came to.
pub struct Done {
    /// Containers that have been changed, by id.
    given: Vec<(String, ResourceRequirements)>,
    /// What the pod's cgroup has now.
    cgroup: Totals,
    error: Option<String>,
}

impl Resizes {
    /// Takes over what an earlier kubelet had done and begun.
    pub fn adopt(&mut self, pod: &Pod, observed: &Observed, directory: &Path) {
        for container in observed.containers.iter().filter(|c| c.running()) {
            let Ok(text) = std::fs::read(record(directory, &container.name)) else { continue };
            match serde_json::from_slice::<Resized>(&text) {
                Ok(resized) if resized.id == container.status.id => drop(self.given.insert(resized.id, resized.resources)),
                Ok(_) => {}
                Err(e) => tracing::warn!(container = container.name, "what it was resized to cannot be read: {e}"),
            }
        }
        let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        if let Some(condition) = conditions.into_iter().find(|c| c.type_ == IN_PROGRESS) {
            self.under_way = Some(condition.observed_generation);
        }
    }

    /// The promise has changed.
    pub fn granted(&mut self, generation: Option<i64>) {
        *self = Resizes { under_way: Some(generation), cgroup: self.cgroup, given: std::mem::take(&mut self.given), ..Resizes::default() };
    }

    /// What a running container has; `None` for one that was made by a kubelet that did not write it down.
    pub fn given(&self, container: &Container) -> Option<ResourceRequirements> {
        let first = || serde_json::from_str(container.annotation(annotations::RESOURCES)).ok();
        self.given.get(&container.status.id).cloned().or_else(first)
    }

    /// Running containers that do not have what they were promised, by id.
    pub fn changes(&self, specs: &[ContainerSpec], observed: &Observed) -> BTreeMap<String, Change> {
        let due = |container: &Container| {
            let spec = specs.iter().find(|s| s.name == container.name)?;
            Some((container.status.id.clone(), change(spec, &self.given(container)?)?))
        };
        observed.containers.iter().filter(|c| c.running()).filter_map(due).collect()
    }

    /// Whether a step is due now, given what has to change.
    pub fn due(&self, pod: &Pod, changes: &BTreeMap<String, Change>) -> bool {
        let stale = self.cgroup.is_some_and(|given| given != resources::pod_totals(pod));
        let waits = self.retry_at.is_some_and(|at| at > Instant::now());
        !waits && (stale || changes.values().any(|c| *c == Change::InPlace))
    }

    /// When to look again after a failure.
    pub fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The generation whose resize has just come to its end, once.
    pub fn completed(&mut self, pod: &Pod, changes: &BTreeMap<String, Change>) -> Option<Option<i64>> {
        let settled = changes.is_empty() && self.cgroup.is_none_or(|given| given == resources::pod_totals(pod));
        self.under_way.take_if(|_| settled)
    }

    /// Takes what a step came to; returns an error that was not told yet.
    pub fn ended(&mut self, done: Done) -> Option<String> {
        self.given.extend(done.given);
        self.cgroup = Some(done.cgroup);
        self.retry_at = done.error.is_some().then(|| Instant::now() + RETRY);
        let news = done.error != self.error;
        self.error = done.error;
        self.error.clone().filter(|_| news)
    }

    /// Forgets containers that are gone.
    pub fn retain(&mut self, known: impl Fn(&str) -> bool) {
        self.given.retain(|id, _| known(id));
    }

    /// `PodResizePending` and `PodResizeInProgress`, as far as they apply.
    pub fn conditions(&self, old: &[PodCondition], now: jiff::Timestamp) -> Vec<PodCondition> {
        let condition = |kind: &str, reason: &str, message: &str, generation: Option<i64>| {
            let since = old.iter().find(|c| c.type_ == kind).and_then(|c| c.last_transition_time.clone());
            PodCondition {
                type_: kind.to_owned(),
                status: "True".to_owned(),
                reason: Some(reason.to_owned()).filter(|r| !r.is_empty()),
                message: Some(message.to_owned()).filter(|m| !m.is_empty()),
                observed_generation: generation,
                last_transition_time: Some(since.unwrap_or(Time(now))),
                last_probe_time: None,
            }
        };
        let pending = self.pending.as_ref().map(|p| condition(PENDING, p.reason, &p.message, p.generation));
        let error = self.error.as_deref().unwrap_or_default();
        let reason = if error.is_empty() { "" } else { "Error" };
        let running = self.under_way.map(|generation| condition(IN_PROGRESS, reason, error, generation));
        pending.into_iter().chain(running).collect()
    }
}

/// A resize waits for its grant.
pub const PENDING: &str = "PodResizePending";
/// A resize is being carried out.
pub const IN_PROGRESS: &str = "PodResizeInProgress";

fn record(pod_directory: &Path, container: &str) -> PathBuf {
    pod_directory.join("containers").join(container).join("resized.json")
}

/// One container to be changed in place.
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// What it has.
    pub given: ResourceRequirements,
    /// What it gets.
    pub promised: ResourceRequirements,
}

/// Brings the pod's cgroup and the containers to what was promised. Where it fails it stops; what was done is told.
pub async fn carry_out(node: Arc<Shared>, pod: Arc<Pod>, before: Totals, targets: Vec<Target>) -> Done {
    let promised = resources::pod_totals(&pod);
    let mut done = Done { given: Vec::new(), cgroup: before, error: None };
    if let Err(e) = run(&node, &pod, promised, targets, &mut done).await {
        done.error = Some(e);
    }
    done
}

async fn run(node: &Shared, pod: &Pod, promised: Totals, targets: Vec<Target>, done: &mut Done) -> Result<(), String> {
    for target in &targets {
        room_to_shrink(node, target).await.map_err(|e| format!("cannot decrease memory limits: {e}"))?;
    }
    set_cgroup(node, pod, done.cgroup.widest(promised), done)?;
    for target in targets {
        update(node, pod, &target).await?;
        let directory = node.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
        let resized = Resized { id: target.id, resources: target.promised };
        remember(&record(&directory, &target.name), &resized).map_err(|e| format!("cannot write down the new resources: {e}"))?;
        done.given.push((resized.id, resized.resources));
    }
    set_cgroup(node, pod, promised, done)
}

fn set_cgroup(node: &Shared, pod: &Pod, totals: Totals, done: &mut Done) -> Result<(), String> {
    if done.cgroup != totals {
        node.cgroups.limit_pod(pod, totals).map_err(|e| format!("failed to set the pod's cgroup: {e}"))?;
        done.cgroup = totals;
    }
    Ok(())
}

fn remember(path: &Path, resized: &Resized) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
    std::fs::write(path, serde_json::to_vec(resized)?)
}

/// A memory limit below what is in use would get the container killed.
async fn room_to_shrink(node: &Shared, target: &Target) -> Result<(), String> {
    let limit = |r: &ResourceRequirements| request_and_limit(Some(r), "memory").1.unwrap_or(i64::MAX);
    let wanted = limit(&target.promised);
    if wanted >= limit(&target.given) {
        return Ok(());
    }
    let request = cri::ContainerStatsRequest { container_id: target.id.clone() };
    let stats = node.cri.runtime.clone().container_stats(request).await.map_err(|e| e.message().to_owned())?;
    let used = stats.into_inner().stats.and_then(|s| s.memory).and_then(|m| m.usage_bytes).map_or(0, |v| v.value);
    if u64::try_from(wanted).is_ok_and(|wanted| wanted < used) {
        return Err(format!("attempting to set container {:?} memory limit ({wanted}) below current usage ({used})", target.name));
    }
    Ok(())
}

async fn update(node: &Shared, pod: &Pod, target: &Target) -> Result<(), String> {
    let mut linux = resources::linux(pod, Some(&target.promised), node.capacity.memory);
    // Zero would mean "leave as it is"; whoever has no limit any more gets none.
    for limit in [&mut linux.cpu_quota, &mut linux.memory_limit_in_bytes] {
        *limit = if *limit == 0 { -1 } else { *limit };
    }
    let request = cri::UpdateContainerResourcesRequest { container_id: target.id.clone(), linux: Some(linux), ..Default::default() };
    node.cri.runtime.clone().update_container_resources(request).await.map(drop).map_err(|e| e.message().to_owned())
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
