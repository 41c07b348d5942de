//! Sandboxes: made in one go or not at all, stopped and removed as often as anyone asks.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::Arc;

use ferrokube_cri::v1::{self, ContainerEventType, NamespaceMode};
use prost::Message;

use super::model::{Container, Sandbox, SandboxState, Status, namespace_options, new_id, now, save};
use super::{Engine, remove_directory};
use crate::cni::{self, Attachment, CniError};
use crate::error::{Error, IoContext, Result};
use crate::sandbox::{files, namespaces};
use crate::shim;
use crate::shim::client::{ShimConnection, tell};
use crate::shim::protocol::{Exit, Request};

/// The name that a pod's sandbox reserves.
pub(super) fn sandbox_name(metadata: &v1::PodSandboxMetadata) -> String {
    format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt)
}

impl Engine {
    /// RunPodSandbox.
    pub async fn run_sandbox(self: &Arc<Self>, request: v1::RunPodSandboxRequest) -> Result<String> {
        let config = request.config.clone().ok_or_else(|| Error::InvalidArgument("sandbox config is missing".to_owned()))?;
        let metadata = config.metadata.clone().ok_or_else(|| Error::InvalidArgument("sandbox config has no metadata".to_owned()))?;
        check(&config, &request.runtime_handler)?;
        let id = new_id();
        self.index.write().reserve(sandbox_name(&metadata), &id)?;
        let sandbox = Arc::new(Sandbox {
            directory: self.sandbox_directory(&id),
            state_directory: self.state_directory(&id),
            config,
            runtime_handler: request.runtime_handler.clone(),
            created_at: now(),
            state: Default::default(),
            turn: Default::default(),
            id: id.clone(),
        });
        // On a task of its own: a caller that gives up must not leave a half-made sandbox behind.
        let engine = self.clone();
        let made = self.tasks.spawn(async move {
            let result = engine.make_sandbox(&sandbox, &request).await;
            if let Err(error) = result {
                engine.unmake_sandbox(&sandbox).await;
                engine.index.write().release(&sandbox.id);
                return Err(error);
            }
            Ok(())
        });
        made.await.map_err(|error| Error::Internal(format!("making a sandbox: {error}")))??;
        Ok(id)
    }

    async fn make_sandbox(self: &Arc<Self>, sandbox: &Arc<Sandbox>, request: &v1::RunPodSandboxRequest) -> Result<()> {
        std::fs::create_dir_all(&sandbox.directory).context("making the sandbox's directory")?;
        std::fs::create_dir_all(&sandbox.state_directory).context("making the sandbox's state directory")?;
        save(&sandbox.directory.join("request.pb"), &request.encode_to_vec())?;
        if let Some(directory) = Some(&sandbox.config.log_directory).filter(|directory| !directory.is_empty()) {
            std::fs::create_dir_all(directory).context("making the sandbox's log directory")?;
        }
        let hostname = hostname(&sandbox.config);
        files::write(&sandbox.directory, &hostname, sandbox.config.dns_config.as_ref()).context("writing the sandbox's files")?;
        let options = namespace_options(&sandbox.config);
        let listener = UnixListener::bind(self.shim_socket(sandbox)).context("making the shim's socket")?;
        self.spawn_shim(sandbox, listener.into(), options.pid() == NamespaceMode::Pod)?;
        let socket = self.shim_socket(sandbox);
        let connecting = ShimConnection::open(&socket);
        let (namespaces, connected) = tokio::join!(make_namespaces(sandbox.clone(), hostname), connecting);
        namespaces?;
        let (mut connection, identity) = connected?;
        super::watch::subscribe(&mut connection).await?;
        let network = self.connect_network(sandbox).await?;
        let ips = network.as_ref().map(|attached| cni::addresses(&attached.result)).unwrap_or_default();
        if self.config.cni.is_some() && network.is_some() && ips.is_empty() {
            sandbox.state.lock().network = network;
            return Err(Error::Internal("failed to setup network for sandbox: the network gave no address".to_owned()));
        }
        let (created_at, pod_init) = (sandbox.created_at, identity.pod_init);
        sandbox.change(|state| *state = SandboxState { created_at, ready: true, ips, network, pod_init })?;
        self.index.write().sandboxes.insert(sandbox.id.clone(), sandbox.clone());
        self.follow(sandbox.clone(), connection);
        self.announce(sandbox, &sandbox.id, ContainerEventType::ContainerCreatedEvent);
        self.announce(sandbox, &sandbox.id, ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    /// Starts a shim with its listening socket as stdin, so that it can be talked to before it runs.
    fn spawn_shim(&self, sandbox: &Sandbox, listener: OwnedFd, pod_pid_namespace: bool) -> Result<()> {
        let log = std::fs::File::create(sandbox.directory.join("shim.log")).context("making the shim's log")?;
        let [program, arguments @ ..] = self.config.shim.as_slice() else {
            return Err(Error::Internal("no shim is configured".to_owned()));
        };
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).arg(&sandbox.state_directory).env_clear();
        if pod_pid_namespace {
            command.arg(shim::POD_PID_NAMESPACE);
        }
        command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::from(log));
        let mut child = command.spawn().context(format!("starting the shim {}", program.display()))?;
        // Only to reap it while this server lives; later its parent is somebody else.
        self.tasks.spawn({
            let stop = self.stop.clone();
            async move {
                tokio::select! {
                    _ = child.wait() => {}
                    () = stop.cancelled() => {}
                }
            }
        });
        Ok(())
    }

    async fn connect_network(&self, sandbox: &Sandbox) -> Result<Option<cni::Attached>> {
        let (Some(cni), Some(attachment)) = (&self.config.cni, attachment(sandbox)) else { return Ok(None) };
        match cni.add(&attachment).await {
            Ok(attached) => Ok(Some(attached)),
            Err(error @ CniError::NotInitialized(_)) => Err(Error::Internal(format!("network is not ready: {error}"))),
            Err(error) => Err(Error::Internal(format!("failed to setup network for sandbox {:?}: {error}", sandbox.id))),
        }
    }

    /// Undoes whatever of a sandbox there is. For one that failed or was left behind; nobody is told, so failures are logged.
    pub(super) async fn unmake_sandbox(&self, sandbox: &Sandbox) {
        if let Err(error) = self.release_sandbox(sandbox).await {
            tracing::warn!(sandbox = sandbox.id, "clearing away a failed sandbox: {error}");
        }
        for directory in [&sandbox.state_directory, &sandbox.directory] {
            if let Err(error) = remove_directory(directory) {
                tracing::warn!(sandbox = sandbox.id, "removing {}: {error}", directory.display());
            }
        }
    }

    /// Network, shim, namespaces, shared memory: in the order in which each needs what comes later.
    async fn release_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        let network = sandbox.state.lock().network.clone();
        if let (Some(cni), Some(attached), Some(attachment)) = (&self.config.cni, network, attachment(sandbox)) {
            cni.del(&attached, &attachment)
                .await
                .map_err(|error| Error::Internal(format!("failed to destroy network for sandbox {:?}: {error}", sandbox.id)))?;
            sandbox.state.lock().network = None;
        }
        // One that cannot be reached is gone already.
        if let Err(error) = tell(&self.shim_socket(sandbox), &Request::Shutdown).await {
            tracing::debug!(sandbox = sandbox.id, "the shim is gone already: {error}");
        }
        if let Some(pid) = sandbox.state.lock().pod_init.take() {
            kill_pod_init(pid);
        }
        let (namespaces, shm) = (sandbox.namespaces(), sandbox.state_directory.join("shm"));
        let unmounted = tokio::task::spawn_blocking(move || {
            namespaces::remove(&namespaces)?;
            namespaces::unmount(&shm)
        });
        unmounted.await.map_err(|error| Error::Internal(error.to_string()))?.context("releasing the sandbox's namespaces")
    }

    /// StopPodSandbox. A sandbox that does not exist is stopped.
    pub async fn stop_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let engine = self.clone();
        let stopped = self.tasks.spawn(async move {
            let _turn = sandbox.turn.lock().await;
            engine.stop_sandbox_now(&sandbox).await
        });
        stopped.await.map_err(|error| Error::Internal(format!("stopping a sandbox: {error}")))?
    }

    async fn stop_sandbox_now(self: &Arc<Self>, sandbox: &Arc<Sandbox>) -> Result<()> {
        let was_ready = sandbox.is_ready();
        let containers = self.containers_of(&sandbox.id);
        let stops = containers.iter().map(|container| self.stop_container_now(container, 0));
        futures_util::future::try_join_all(stops).await?;
        if !was_ready && sandbox.state.lock().network.is_none() && !sandbox.namespaces().exists() {
            return Ok(());
        }
        // Not ready before anything is taken apart, so that no container is started in what is left.
        sandbox.change(|state| state.ready = false)?;
        self.release_sandbox(sandbox).await?;
        sandbox.change(|_| {})?;
        if was_ready {
            self.announce(sandbox, &sandbox.id, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    /// RemovePodSandbox: with its containers, whether it was stopped or not. One that does not exist is removed.
    pub async fn remove_sandbox(self: &Arc<Self>, id: &str) -> Result<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        let engine = self.clone();
        let removed = self.tasks.spawn(async move {
            let _turn = sandbox.turn.lock().await;
            engine.stop_sandbox_now(&sandbox).await?;
            for container in engine.containers_of(&sandbox.id) {
                engine.remove_container_now(&container).await?;
            }
            if let Some(cgroup) = engine.own_cgroup(&sandbox) {
                crate::cgroup::remove(&cgroup).context("removing the sandbox's cgroup")?;
            }
            remove_directory(&sandbox.state_directory).context("removing the sandbox's state directory")?;
            remove_directory(&sandbox.directory).context("removing the sandbox's directory")?;
            {
                let mut index = engine.index.write();
                index.sandboxes.remove(&sandbox.id);
                index.release(&sandbox.id);
            }
            engine.announce(&sandbox, &sandbox.id, ContainerEventType::ContainerDeletedEvent);
            Ok(())
        });
        removed.await.map_err(|error| Error::Internal(format!("removing a sandbox: {error}")))?
    }

    /// The cgroup that containers of a sandbox are made in.
    pub(super) fn cgroup_parent(&self, sandbox: &Sandbox) -> String {
        let named = sandbox.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()).filter(|parent| !parent.is_empty());
        named.unwrap_or_else(|| format!("{}/{}", self.config.cgroup_root.trim_end_matches('/'), sandbox.id))
    }

    /// The sandbox's cgroup, when the kubelet did not make one.
    fn own_cgroup(&self, sandbox: &Sandbox) -> Option<String> {
        let named = sandbox.config.linux.as_ref().is_some_and(|linux| !linux.cgroup_parent.is_empty());
        (!named).then(|| self.cgroup_parent(sandbox))
    }

    /// The shim has ended without being asked to: nobody owns the containers' output any more, so they cannot stay.
    pub(super) async fn shim_died(self: &Arc<Self>, sandbox: &Arc<Sandbox>) {
        let _turn = sandbox.turn.lock().await;
        if !sandbox.is_ready() {
            return;
        }
        tracing::warn!(sandbox = sandbox.id, "the pod's shim has died; ending the pod");
        // First: whoever sees that a container has ended must not take this for a place to start it again.
        if let Err(error) = sandbox.change(|state| state.ready = false) {
            tracing::warn!(sandbox = sandbox.id, "recording that the pod has ended: {error}");
        }
        for container in self.containers_of(&sandbox.id) {
            if let Status::Running { started_at, .. } = container.current() {
                self.container_lost(&container, started_at);
            }
        }
        if let Some(pid) = sandbox.state.lock().pod_init.take() {
            kill_pod_init(pid);
        }
        self.announce(sandbox, &sandbox.id, ContainerEventType::ContainerStoppedEvent);
    }

    /// Ends a container that runs without its shim.
    pub(super) fn container_lost(self: &Arc<Self>, container: &Container, started_at: i64) {
        crate::cgroup::kill_all(&container.record.cgroup);
        let lost = Exit {
            exit_code: 255,
            started_at,
            finished_at: now(),
            reason: "Unknown".to_owned(),
            message: "the pod's shim has died".to_owned(),
        };
        self.container_ended(&container.id, super::model::load_json(&container.exit_path()).unwrap_or(lost));
    }

    /// UpdatePodSandboxResources: informative; the pod's cgroup belongs to the kubelet.
    pub fn update_sandbox_resources(&self, id: &str) -> Result<()> {
        self.sandbox(id).map(drop)
    }
}

/// Kills the process that held a pod's PID namespace, if it is still that process.
fn kill_pod_init(pid: u32) {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.trim_end() == "pause" {
        let _ = crate::sys::kill(pid.cast_signed(), libc::SIGKILL);
    }
}

/// Handlers of a RuntimeClass that there are: the default, and the name that it has in other runtimes.
pub const HANDLERS: [&str; 2] = ["", "runc"];

/// What is not possible here, told before anything is made.
fn check(config: &v1::PodSandboxConfig, handler: &str) -> Result<()> {
    if !HANDLERS.contains(&handler) {
        return Err(Error::InvalidArgument(format!("no runtime for {handler:?} is configured")));
    }
    let options = namespace_options(config);
    if options.userns_options.as_ref().is_some_and(|userns| userns.mode() == NamespaceMode::Pod) {
        return Err(Error::Unimplemented("user namespaces are not supported by this runtime".to_owned()));
    }
    if options.network() == NamespaceMode::Node
        && let Some(name) = config.linux.as_ref().and_then(|linux| linux.sysctls.keys().find(|name| name.starts_with("net.")).cloned())
    {
        return Err(Error::InvalidArgument(format!("sysctl {name:?} is not allowed with the node's network")));
    }
    Ok(())
}

fn hostname(config: &v1::PodSandboxConfig) -> String {
    if !config.hostname.is_empty() {
        return config.hostname.clone();
    }
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|_| "localhost".to_owned())
}

async fn make_namespaces(sandbox: Arc<Sandbox>, hostname: String) -> Result<()> {
    let options = namespace_options(&sandbox.config);
    let own_network = options.network() != NamespaceMode::Node;
    let wanted = namespaces::Wanted { network: own_network, ipc: options.ipc() != NamespaceMode::Node, uts: own_network };
    let made = tokio::task::spawn_blocking(move || {
        let sysctls = sandbox.config.linux.as_ref().map(|linux| linux.sysctls.clone()).unwrap_or_default();
        namespaces::create(&sandbox.namespaces(), wanted, &hostname, &sysctls)?;
        if wanted.ipc { namespaces::mount_shm(&sandbox.shm()) } else { Ok(()) }
    });
    made.await.map_err(|error| Error::Internal(error.to_string()))?.context("making the sandbox's namespaces")
}

/// The pod as its network sees it; none with the node's network.
fn attachment(sandbox: &Sandbox) -> Option<Attachment> {
    let metadata = sandbox.metadata();
    Some(Attachment {
        id: sandbox.id.clone(),
        netns: sandbox.netns()?,
        pod: (metadata.name, metadata.namespace, metadata.uid),
        capabilities: cni::capabilities(&sandbox.config),
    })
}
