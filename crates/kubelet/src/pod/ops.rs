//! The steps of a pod's life, each a future that does one thing through CRI and tells how it went.
//!
//! They know nothing of the plan; the worker starts them and takes the outcome.

use super::allocation::Allocation;
use super::lives;
use super::plan::Why;
use super::spec::{ContainerSpec, containers_of};
use super::{container_reference, title};
use crate::hooks;
use crate::images::{self, Puller};
use crate::logs::links;
use crate::make::container::{Inputs, VolumeSource};
use crate::make::env::{Lookup, references};
use crate::make::resources::Totals;
use crate::make::{container, dns, resources, sandbox};
use crate::node::Shared;
use crate::runtime::{Container, Observed, unless_gone};
use ferrokube_client::Optional;
use ferrokube_client::events::EventType::{Normal, Warning};
use ferrokube_cri::v1 as cri;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where the volumes of a pod are.
pub type Volumes = BTreeMap<String, VolumeSource>;

/// Why a container does not run: the waiting reason, its message, and whether pulling is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// `ErrImagePull`, `CreateContainerConfigError`, `CreateContainerError`, `RunContainerError`, `PostStartHookError`, ...
    pub reason: String,
    /// For a person.
    pub message: String,
}

/// Seconds that a stop gets at least after preStop has used the grace up.
const MINIMUM_GRACE: i64 = 2;

/// Directories, cgroup and volumes; tells what the cgroup was given.
pub async fn prepare(node: &Shared, pod: &Pod) -> Result<(Volumes, Totals), String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let (name, namespace) = (pod.metadata.name.as_deref().unwrap_or_default(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let directories = [node.config.pod_dir(uid), node.config.log_dir(namespace, name, uid)];
    for directory in &directories {
        tokio::fs::create_dir_all(directory)
            .await
            .map_err(|e| format!("error making pod data directories: {}: {e}", directory.display()))?;
    }
    Allocation::wanted(pod).save(&node.config.pod_dir(uid)).map_err(|e| format!("cannot write down what the pod is promised: {e}"))?;
    node.cgroups.ensure_pod(pod).map_err(|e| {
        let message = format!("unable to ensure pod cgroup: {e}");
        node.recorder.about(pod, Warning, "FailedCreatePodContainer", message.clone());
        message
    })?;
    let volumes = node.volumes.mount(pod).await.map_err(|e| {
        node.recorder.about(pod, Warning, "FailedMount", e.to_string());
        e.to_string()
    })?;
    Ok((volumes, resources::pod_totals(pod)))
}

/// The managed `/etc/hosts` of a pod; in the host's network a copy of the host's with the aliases.
async fn hosts_file(node: &Shared, pod: &Pod, ips: &[String]) -> std::io::Result<PathBuf> {
    let path = node.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default()).join("etc-hosts");
    let host_network = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    let text = if host_network {
        let hosts = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{hosts}{}", dns::aliases(pod))
    } else {
        dns::hosts_file(pod, ips, &node.config)
    };
    tokio::fs::write(&path, text).await?;
    Ok(path)
}

/// Makes the sandbox.
pub async fn create_sandbox(node: &Shared, pod: &Pod, attempt: u32) -> Result<(), String> {
    let config = sandbox::config(pod, attempt, &node.config, &node.host_resolv());
    let handler = match pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()) {
        Some(class) => node.runtime_handler(class).await?,
        None => String::new(),
    };
    let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler };
    let made = node.cri.runtime.clone().run_pod_sandbox(request).await;
    made.map(drop).map_err(|e| {
        let message = format!("Failed to create pod sandbox: {}", e.message());
        node.recorder.about(pod, Warning, "FailedCreatePodSandBox", message.clone());
        message
    })
}

/// Stops a sandbox; all its containers are dead already.
pub async fn stop_sandbox(node: &Shared, id: String) -> Result<(), String> {
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: id };
    unless_gone(node.cri.runtime.clone().stop_pod_sandbox(request).await).map(drop).map_err(|e| e.message().to_owned())
}

/// Removes a dead sandbox.
pub async fn remove_sandbox(node: &Shared, id: String) -> Result<(), String> {
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
    unless_gone(node.cri.runtime.clone().remove_pod_sandbox(request).await).map(drop).map_err(|e| e.message().to_owned())
}

/// Removes a dead container.
pub async fn remove_container(node: &Shared, id: String) -> Result<(), String> {
    let request = cri::ContainerStatusRequest { container_id: id.clone(), verbose: false };
    let status = unless_gone(node.cri.runtime.clone().container_status(request).await).map_err(|e| e.message().to_owned())?;
    let log = status.and_then(|s| s.into_inner().status).map(|s| PathBuf::from(s.log_path)).filter(|p| p.is_absolute());
    links::remove(&links::directory(&node.config.pod_logs), &id);
    let request = cri::RemoveContainerRequest { container_id: id };
    unless_gone(node.cri.runtime.clone().remove_container(request).await).map_err(|e| e.message().to_owned())?;
    // The log goes with its container, the rotated files too.
    let files = log.iter().flat_map(|log| crate::logs::rotate::rotated(log).unwrap_or_default().into_iter().chain([log.clone()]));
    for file in files {
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => tracing::warn!("log {} not removed: {e}", file.display()),
            _ => {}
        }
    }
    Ok(())
}

/// Unmounts the volumes and removes the cgroup.
pub async fn reclaim(node: &Shared, pod: &Pod) -> Result<(), String> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    node.volumes.unmount(uid).await.map_err(|e| e.to_string())?;
    node.cgroups.remove_pod(pod).map_err(|e| format!("failed to remove the pod's cgroup: {e}"))?;
    match tokio::fs::remove_dir_all(node.config.pod_dir(uid)).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("failed to remove the pod's directory: {e}")),
        _ => Ok(()),
    }
}

/// What is needed to start a container.
pub struct Start {
    /// The node.
    pub node: Arc<Shared>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub spec: ContainerSpec,
    /// How often it was restarted before.
    pub restarts: u32,
    /// What runs.
    pub observed: Arc<Observed>,
    /// Where the volumes are.
    pub volumes: Arc<Volumes>,
}

impl Start {
    /// Pulls the image, creates and starts the container, runs postStart.
    pub async fn run(self) -> Result<(), StartError> {
        let about = container_reference(&self.pod, &self.spec.name);
        let sandbox = self.observed.ready_sandbox().ok_or_else(|| error("RunContainerError", "the pod has no sandbox"))?.clone();
        let attempt = sandbox.metadata.as_ref().map_or(0, |m| m.attempt);
        let sandbox_config = sandbox::config(&self.pod, attempt, &self.node.config, &self.node.host_resolv());
        let node = &self.node;
        let puller = Puller {
            cri: &node.cri,
            client: &node.client,
            recorder: &node.recorder,
            pod: &self.pod,
            about: about.clone(),
            sandbox: &sandbox_config,
        };
        let refused = |e: images::PullError| StartError { reason: e.reason.into(), message: e.message };
        let volumes = self.image_volumes(&puller).await.map_err(refused)?;
        let image = puller.ensure(&self.spec.fields).await.map_err(refused)?;
        let config = self.config(&sandbox, &image, &volumes).await.inspect_err(|e| {
            node.recorder.event(about.clone(), Warning, "Failed", format!("Error: {}", e.message));
        })?;
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox_config.clone()),
        };
        let created = node.cri.runtime.clone().create_container(request).await;
        let id = created.map_err(|e| self.failed("CreateContainerError", e.message()))?.into_inner().container_id;
        node.recorder.event(about.clone(), Normal, "Created", "Container created");
        let started = node.cri.runtime.clone().start_container(cri::StartContainerRequest { container_id: id.clone() }).await;
        // The name says more than the id, and events about every try are the same then.
        started.map_err(|e| self.failed("RunContainerError", &e.message().replace(&id, &self.spec.name)))?;
        node.recorder.event(about, Normal, "Started", "Container started");
        self.link_log(&id);
        self.post_start(&sandbox, &id).await
    }

    fn link_log(&self, id: &str) {
        let config = &self.node.config;
        let text = |s: &Option<String>| s.clone().unwrap_or_default();
        let meta = &self.pod.metadata;
        let (namespace, name) = (text(&meta.namespace), text(&meta.name));
        let log = config.log_dir(&namespace, &name, &text(&meta.uid)).join(crate::runtime::log_path(&self.spec.name, self.restarts));
        let links = links::directory(&config.pod_logs);
        if let Err(e) = links::add(&links, (&name, &namespace), &self.spec.name, id, &log) {
            tracing::warn!("no link to the log of container {id}: {e}");
        }
    }

    fn failed(&self, reason: &str, message: &str) -> StartError {
        let about = container_reference(&self.pod, &self.spec.name);
        self.node.recorder.event(about, Warning, "Failed", format!("Error: {message}"));
        error(reason, message)
    }

    /// The volumes with those that are images pulled, as far as this container mounts them.
    async fn image_volumes(&self, puller: &Puller<'_>) -> Result<Volumes, images::PullError> {
        let mut volumes = (*self.volumes).clone();
        for mount in self.spec.fields.volume_mounts.iter().flatten() {
            let Some(VolumeSource::Image(spec)) = volumes.get_mut(&mount.name) else { continue };
            let declared = self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).find(|v| v.name == mount.name);
            let policy = declared.and_then(|v| v.image.as_ref()).and_then(|i| i.pull_policy.clone());
            let wanted = k8s_openapi::api::core::v1::Container {
                image: Some(spec.user_specified_image.clone()),
                image_pull_policy: policy,
                ..Default::default()
            };
            spec.image = puller.ensure(&wanted).await?.id;
        }
        Ok(volumes)
    }

    async fn config(
        &self,
        sandbox: &cri::PodSandboxStatus,
        image: &cri::Image,
        volumes: &Volumes,
    ) -> Result<cri::ContainerConfig, StartError> {
        let refuse = |message: String| error("CreateContainerConfigError", &message);
        let ips = ips_of(sandbox);
        let lookup = self.lookup(ips.clone()).await.map_err(refuse)?;
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        let hosts = hosts_file(&self.node, &self.pod, &ips).await.map_err(|e| refuse(e.to_string()))?;
        let termination = self.termination_file(uid).await.map_err(|e| refuse(e.to_string()))?;
        let target = self.spec.target.as_ref().and_then(|t| self.observed.latest(t)).map(|c| c.status.id.clone());
        let inputs = Inputs {
            pod: &self.pod,
            spec: &self.spec,
            restarts: self.restarts,
            life: lives::present(&containers_of(&self.pod), &self.observed),
            image,
            lookup: &lookup,
            volumes,
            hosts_file: Some(&hosts),
            termination_file: &termination,
            target_id: target.as_deref(),
            node_memory: self.node.capacity.memory,
            config: &self.node.config,
        };
        container::config(&inputs).map_err(|e| refuse(e.0))
    }

    /// An empty file that anyone in the container may write.
    async fn termination_file(&self, uid: &str) -> std::io::Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let directory = self.node.config.pod_dir(uid).join("containers").join(&self.spec.name);
        tokio::fs::create_dir_all(&directory).await?;
        let path = directory.join(format!("{:08x}", rand::random::<u32>()));
        tokio::fs::write(&path, b"").await?;
        tokio::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).await?;
        Ok(path)
    }

    async fn lookup(&self, pod_ips: Vec<String>) -> Result<Lookup, String> {
        let (maps, secrets) = references(&self.spec.fields);
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut lookup = Lookup {
            pod_ips,
            host_ips: self.node.host_ips(),
            services: self.node.services.list(),
            allocatable: (self.node.capacity.milli_cpu, self.node.capacity.memory_of_pods()),
            ..Lookup::default()
        };
        for name in maps {
            let found = self.node.client.get::<ConfigMap>(namespace, &name).await.optional().map_err(|e| e.to_string())?;
            lookup.config_maps.insert(name, found);
        }
        for name in secrets {
            let found = self.node.client.get::<Secret>(namespace, &name).await.optional().map_err(|e| e.to_string())?;
            lookup.secrets.insert(name, found);
        }
        Ok(lookup)
    }

    async fn post_start(&self, sandbox: &cri::PodSandboxStatus, id: &str) -> Result<(), StartError> {
        let Some(hook) = self.spec.fields.lifecycle.as_ref().and_then(|l| l.post_start.clone()) else { return Ok(()) };
        let target =
            hooks::Target { node: &self.node, container_id: id, container: &self.spec.fields, pod_ip: ips_of(sandbox).into_iter().next() };
        if let Err(e) = hooks::run(&hook, &target).await {
            let about = container_reference(&self.pod, &self.spec.name);
            self.node.recorder.event(about, Warning, "FailedPostStartHook", format!("PostStartHook failed: {e}"));
            let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout: grace_of(&self.pod) };
            // The container is restarted by its policy, whether or not it stops nicely.
            let _ = self.node.cri.runtime.clone().stop_container(request).await;
            return Err(error("PostStartHookError", &e));
        }
        Ok(())
    }
}

fn error(reason: &str, message: &str) -> StartError {
    StartError { reason: reason.to_owned(), message: message.to_owned() }
}

/// The addresses of a sandbox.
pub fn ips_of(sandbox: &cri::PodSandboxStatus) -> Vec<String> {
    let network = sandbox.network.iter();
    network
        .flat_map(|n| std::iter::once(n.ip.clone()).chain(n.additional_ips.iter().map(|a| a.ip.clone())))
        .filter(|ip| !ip.is_empty())
        .collect()
}

/// Seconds that a pod's containers get to stop.
pub fn grace_of(pod: &Pod) -> i64 {
    let asked = pod.metadata.deletion_grace_period_seconds;
    asked.or(pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds)).unwrap_or(30).max(1)
}

/// Runs preStop, then stops the container within the grace that is left.
pub async fn kill(
    node: Arc<Shared>,
    pod: Arc<Pod>,
    spec: Option<ContainerSpec>,
    target: Container,
    grace: Option<i64>,
    why: Why,
) -> Result<(), String> {
    let about = container_reference(&pod, &target.name);
    let message = match &why {
        Why::PodTerminating | Why::PodCompleted => format!("Stopping container {}", target.name),
        Why::SandboxGone => "Pod sandbox changed, it will be killed and re-created.".to_owned(),
        Why::RestartAll => format!("Stopping container {} because all containers of the pod are restarted", target.name),
        Why::Changed => format!("Container {} definition changed, will be restarted", target.name),
        Why::Resized => format!("Container {} resize requires restart", target.name),
        Why::Unhealthy { probe: "startup", .. } => format!("Container {} failed startup probe, will be restarted", target.name),
        Why::Unhealthy { .. } => format!("Container {} failed liveness probe, will be restarted", target.name),
    };
    node.recorder.event(about.clone(), Normal, "Killing", message);
    let own = match &why {
        Why::Unhealthy { grace: Some(grace), .. } => Some(*grace),
        _ => None,
    };
    let grace = own.or(grace).unwrap_or_else(|| grace_of(&pod)).max(0);
    let began = tokio::time::Instant::now();
    let hook = spec.as_ref().and_then(|s| s.fields.lifecycle.as_ref()).and_then(|l| l.pre_stop.clone());
    if let (Some(hook), Some(spec)) = (hook.filter(|_| grace > 0), &spec) {
        let pod_ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone());
        let target = hooks::Target { node: &node, container_id: &target.status.id, container: &spec.fields, pod_ip };
        let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        match tokio::time::timeout(limit, hooks::run(&hook, &target)).await {
            Ok(Err(e)) => node.recorder.event(about, Warning, "FailedPreStopHook", format!("PreStopHook failed: {e}")),
            Err(_) => node.recorder.event(about, Warning, "FailedPreStopHook", "PreStopHook did not finish within the grace period"),
            Ok(Ok(())) => {}
        }
    }
    let used = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
    let left = if grace == 0 { 0 } else { (grace - used).max(MINIMUM_GRACE.min(grace)) };
    let mut request = tonic::Request::new(cri::StopContainerRequest { container_id: target.status.id.clone(), timeout: left });
    request.set_timeout(Duration::from_secs(u64::try_from(left).unwrap_or(0)) + node.config.runtime_timeout);
    unless_gone(node.cri.runtime.clone().stop_container(request).await).map(drop).map_err(|e| {
        tracing::warn!(pod = title(&pod), container = target.name, "container not stopped: {e}");
        e.message().to_owned()
    })
}

/// The cgroup a pod's sandbox is told.
pub fn cgroup(node: &Shared, pod: &Pod) -> String {
    resources::pod_cgroup(&node.config.cgroup_root, pod)
}

/// Whether the image of a container is on the node.
pub async fn has_image(node: &Shared, image: &str) -> bool {
    matches!(images::image_status(&node.cri, image).await, Ok(Some(_)))
}
