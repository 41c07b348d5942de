//! Containers: made on disk, started by the pod's shim, stopped, removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrokube_cri::v1::{self, ContainerEventType, NamespaceMode};
use prost::Message;

use super::model::{Container, ContainerRecord, Sandbox, Status, find, namespace_options, new_id, now, save, save_json};
use super::{Engine, remove_directory};
use crate::error::{Error, IoContext, Result};
use crate::image::Image;
use crate::seccomp;
use crate::shim::client::{ShimConnection, ShimError, tell, unexpected};
use crate::shim::helper::Security;
use crate::shim::protocol::{Exit, Reply, Request, StartContainer};
use crate::spec::{self, ImageVolume, NamespaceChoice, Namespaces, PodFiles};

/// Longer than any sensible grace period: "wait as long as it takes" without overflow.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

pub(super) fn container_name(sandbox: &Sandbox, metadata: &v1::ContainerMetadata) -> String {
    let pod = super::sandboxes::sandbox_name(&sandbox.metadata());
    format!("{}_{pod}_{}", metadata.name, metadata.attempt)
}

impl Engine {
    /// CreateContainer.
    pub async fn create_container(self: &Arc<Self>, request: v1::CreateContainerRequest) -> Result<String> {
        let config = request.config.clone().ok_or_else(|| Error::InvalidArgument("container config is missing".to_owned()))?;
        let metadata = config.metadata.clone().ok_or_else(|| Error::InvalidArgument("container config has no metadata".to_owned()))?;
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Error::FailedPrecondition(format!("sandbox {:?} is not running", sandbox.id)));
        }
        let wanted = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let image =
            self.images.resolve(&wanted).ok_or_else(|| Error::NotFound(format!("failed to resolve image {wanted:?}: not found")))?;
        let id = new_id();
        self.index.write().reserve(container_name(&sandbox, &metadata), &id)?;
        let engine = self.clone();
        let made = self.tasks.spawn_blocking(move || {
            let result = engine.make_container(&id, &sandbox, config, &image, &request);
            match result {
                Ok(container) => {
                    engine.index.write().containers.insert(id.clone(), container);
                    engine.announce(&sandbox, &id, ContainerEventType::ContainerCreatedEvent);
                    Ok(id)
                }
                Err(error) => {
                    engine.unmake_container(&id);
                    engine.index.write().release(&id);
                    Err(error)
                }
            }
        });
        made.await.map_err(|error| Error::Internal(format!("making a container: {error}")))?
    }

    /// Everything that a container is on disk. Blocks.
    fn make_container(
        &self,
        id: &str,
        sandbox: &Arc<Sandbox>,
        config: v1::ContainerConfig,
        image: &Image,
        request: &v1::CreateContainerRequest,
    ) -> Result<Arc<Container>> {
        let directory = self.container_directory(id);
        let bundle = directory.join("bundle");
        std::fs::create_dir_all(&bundle).context("making the container's directory")?;
        let rootfs =
            self.images.prepare_rootfs(image, id).map_err(|error| Error::Internal(format!("preparing the root file system: {error}")))?;
        let (image_volumes, prepared) = self.prepare_image_volumes(id, &config)?;
        let cgroup = format!("{}/{id}", self.cgroup_parent(sandbox).trim_end_matches('/'));
        let namespaces = self.namespaces(sandbox, &config)?;
        let own_pid_namespace = namespaces.pid == NamespaceChoice::New;
        let hostname = std::fs::read_to_string(sandbox.directory.join("hostname")).unwrap_or_default();
        let decision = spec::build(&spec::Input {
            sandbox_id: &sandbox.id,
            config: &config,
            image: &image.config,
            rootfs: &rootfs,
            namespaces,
            files: PodFiles {
                shm: sandbox.shm(),
                resolv_conf: sandbox.directory.join("resolv.conf"),
                hostname: sandbox.directory.join("hostname"),
                hosts: sandbox.directory.join("hosts"),
            },
            image_volumes: &image_volumes,
            cgroup: &cgroup,
            node: self.node,
            hostname: hostname.trim_end(),
        })?;
        make_working_dir(&rootfs, &decision.working_dir)?;
        let filters = self.write_filters(&bundle, &decision)?;
        save_json(&bundle.join("config.json"), &decision.config)?;
        let security = Security {
            capabilities: decision.capabilities,
            ambient: decision.ambient,
            no_new_privileges: decision.no_new_privileges,
            seccomp: filters,
            propagation: spec::mounts::propagation(&config.mounts),
        };
        save_json(&bundle.join("security.json"), &security)?;
        let record = ContainerRecord {
            created_at: now(),
            image_id: image.id.clone(),
            image_ref: image.repo_digests.first().unwrap_or(&image.id).clone(),
            image_name: image.repo_tags.first().or(image.repo_digests.first()).cloned().unwrap_or_default(),
            cgroup,
            log_path: log_path(&sandbox.config, &config)?,
            stop_signal: spec::stop_signal(config.stop_signal(), &image.config.stop_signal),
            user: (decision.user.uid, decision.user.gid),
            groups: decision.user.groups,
            own_pid_namespace,
            image_volumes: prepared,
        };
        save(&directory.join("request.pb"), &request.encode_to_vec())?;
        save_json(&directory.join("state.json"), &record)?;
        Ok(Arc::new(Container {
            id: id.to_owned(),
            sandbox_id: sandbox.id.clone(),
            config: Arc::new(config).into(),
            record,
            directory,
            status: tokio::sync::watch::Sender::new(Status::Created),
            turn: Default::default(),
        }))
    }

    /// Undoes what there is of a container that failed or was left behind.
    pub(super) fn unmake_container(&self, id: &str) {
        if let Err(error) = self.images.remove_rootfs(id) {
            tracing::warn!(container = id, "removing the root file system: {error}");
        }
        for index in 0.. {
            let volume = format!("{id}-{index}");
            let path = self.container_directory(id).join(format!("volume-{index}"));
            if !path.exists() {
                break;
            }
            if let Err(error) = self.images.remove_image_volume(&volume) {
                tracing::warn!(container = id, "removing an image volume: {error}");
            }
        }
        if let Err(error) = remove_directory(&self.container_directory(id)) {
            tracing::warn!(container = id, "removing the container's directory: {error}");
        }
    }

    fn prepare_image_volumes(&self, id: &str, config: &v1::ContainerConfig) -> Result<(Vec<ImageVolume>, Vec<String>)> {
        let (mut volumes, mut prepared) = (Vec::new(), Vec::new());
        for (mount, wanted) in config.mounts.iter().enumerate() {
            let Some(reference) = wanted.image.as_ref().map(|image| image.image.as_str()).filter(|image| !image.is_empty()) else {
                continue;
            };
            let image = self
                .images
                .resolve(reference)
                .ok_or_else(|| Error::NotFound(format!("failed to resolve image {reference:?} of a volume: not found")))?;
            let volume = format!("{id}-{}", prepared.len());
            // A mark by which a crash between here and the record is cleaned up.
            save(&self.container_directory(id).join(format!("volume-{}", prepared.len())), b"")?;
            let source = self
                .images
                .prepare_image_volume(&image, &volume)
                .map_err(|error| Error::Internal(format!("preparing image volume {reference:?}: {error}")))?;
            prepared.push(volume);
            volumes.push(ImageVolume { mount, source: inside(&source, &wanted.image_sub_path)? });
        }
        Ok((volumes, prepared))
    }

    fn namespaces(&self, sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<Namespaces> {
        let pinned = sandbox.namespaces();
        let options = namespace_options(&sandbox.config);
        let own_network = options.network() != NamespaceMode::Node;
        let join = |own: bool, name: &str| if own { NamespaceChoice::Join(pinned.join(name)) } else { NamespaceChoice::Node };
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let of_container = context.and_then(|context| context.namespace_options.clone()).unwrap_or(options.clone());
        let process = |pid: u32| NamespaceChoice::Join(PathBuf::from(format!("/proc/{pid}/ns/pid")));
        let pid =
            match of_container.pid() {
                NamespaceMode::Container => NamespaceChoice::New,
                NamespaceMode::Node => NamespaceChoice::Node,
                NamespaceMode::Pod => process(sandbox.state.lock().pod_init.ok_or_else(|| {
                    Error::FailedPrecondition("the sandbox does not share a PID namespace among its containers".to_owned())
                })?),
                NamespaceMode::Target => {
                    let target = find(&self.index.read().containers, &of_container.target_id, "target container")?;
                    if target.sandbox_id != sandbox.id {
                        return Err(Error::InvalidArgument(format!("container {:?} is not in the same sandbox", target.id)));
                    }
                    let pid = target.pid();
                    process(pid.ok_or_else(|| Error::FailedPrecondition(format!("target container {:?} is not running", target.id)))?)
                }
            };
        Ok(Namespaces {
            network: join(own_network, "net"),
            ipc: join(options.ipc() != NamespaceMode::Node, "ipc"),
            uts: join(own_network, "uts"),
            pid,
        })
    }

    fn write_filters(&self, bundle: &Path, decision: &spec::Decision) -> Result<Vec<PathBuf>> {
        let Some(choice) = &decision.seccomp else { return Ok(Vec::new()) };
        let filters = seccomp::compile(choice, &self.config.seccomp_root, &decision.capabilities)
            .map_err(|error| Error::InvalidArgument(error.to_string()))?;
        let mut paths = Vec::new();
        for (index, filter) in filters.iter().enumerate() {
            let path = bundle.join(format!("seccomp-{index}.bpf"));
            save(&path, filter)?;
            paths.push(path);
        }
        Ok(paths)
    }

    /// StartContainer: returns once the container's program runs, or with the reason why it does not.
    pub async fn start_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let container = self.container(id)?;
        let engine = self.clone();
        let started = self.tasks.spawn(async move {
            let _turn = container.turn.lock().await;
            engine.start_container_now(&container).await
        });
        started.await.map_err(|error| Error::Internal(format!("starting a container: {error}")))?
    }

    async fn start_container_now(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        if container.current() != Status::Created {
            return Err(Error::FailedPrecondition(format!("container {:?} is not in created state", container.id)));
        }
        let sandbox = self.sandbox(&container.sandbox_id)?;
        if !sandbox.is_ready() {
            return Err(Error::FailedPrecondition(format!("sandbox container {:?} is not running", sandbox.id)));
        }
        let config = container.config();
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let start = StartContainer {
            id: container.id.clone(),
            bundle: container.bundle(),
            log_path: container.record.log_path.clone(),
            exit_path: container.exit_path(),
            cgroup: container.record.cgroup.clone(),
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            tty: config.tty,
            oom_score_adj: resources.and_then(|resources| i32::try_from(resources.oom_score_adj).ok()),
            own_pid_namespace: container.record.own_pid_namespace,
        };
        let mut shim = ShimConnection::open(&self.shim_socket(&sandbox)).await?.0;
        match shim.call(&Request::Start(Box::new(start)), &[]).await {
            Ok((Reply::Started { pid, started_at }, _)) => {
                self.container_started(&container.id, pid, started_at);
                Ok(())
            }
            Ok((other, _)) => Err(unexpected(&other).into()),
            Err(ShimError::Refused(message)) => {
                let text = format!("failed to start container {:?}: {message}", container.id);
                let exit =
                    Exit { exit_code: 128, started_at: 0, finished_at: now(), reason: "StartError".to_owned(), message: message.clone() };
                self.container_ended(&container.id, exit);
                Err(Error::Internal(text))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A container runs: its shim says so, here or to whoever asked.
    pub(super) fn container_started(self: &Arc<Self>, id: &str, pid: u32, started_at: i64) {
        let Ok(container) = self.container(id) else { return };
        let changed = container.status.send_if_modified(|status| {
            let fresh = *status == Status::Created;
            if fresh {
                *status = Status::Running { pid, started_at };
            }
            fresh
        });
        if let (true, Ok(sandbox)) = (changed, self.sandbox(&container.sandbox_id)) {
            self.announce(&sandbox, id, ContainerEventType::ContainerStartedEvent);
        }
    }

    /// A container has ended. The first to say so is believed: the record on disk is the same.
    pub(super) fn container_ended(self: &Arc<Self>, id: &str, exit: Exit) {
        let Ok(container) = self.container(id) else { return };
        let changed = container.status.send_if_modified(|status| {
            let fresh = !matches!(status, Status::Exited(_));
            if fresh {
                *status = Status::Exited(exit.clone());
            }
            fresh
        });
        if !changed {
            return;
        }
        if !container.exit_path().exists()
            && let Err(error) = save_json(&container.exit_path(), &exit)
        {
            tracing::warn!(container = id, "recording the container's end: {error}");
        }
        self.cpu_history.forget(id);
        if let Ok(sandbox) = self.sandbox(&container.sandbox_id) {
            self.announce(&sandbox, id, ContainerEventType::ContainerStoppedEvent);
        }
    }

    /// StopContainer: the stop signal, then after `timeout` seconds SIGKILL. One that does not exist is stopped.
    pub async fn stop_container(self: &Arc<Self>, id: &str, timeout: i64) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        self.stop_container_now(&container, timeout).await
    }

    pub(super) async fn stop_container_now(self: &Arc<Self>, container: &Arc<Container>, timeout: i64) -> Result<()> {
        // No turn: while one stop waits for its grace period, another one may shorten it.
        let sandbox = self.sandbox(&container.sandbox_id)?;
        let mut status = container.status.subscribe();
        match container.current() {
            Status::Exited(_) => return Ok(()),
            // Never started, it has nothing to stop; the interface has no such end, so it stays as it is.
            Status::Created => return Ok(()),
            Status::Running { .. } => {}
        }
        let ended = |status: &Status| matches!(status, Status::Exited(_));
        if timeout > 0 {
            self.signal(&sandbox, container, container.record.stop_signal, false).await?;
            let grace = u64::try_from(timeout).map_or(FOREVER, Duration::from_secs).min(FOREVER);
            tokio::select! {
                waited = tokio::time::timeout(grace, async { status.wait_for(ended).await.is_ok() }) => {
                    if waited.is_ok() {
                        return Ok(());
                    }
                }
                () = self.stop.cancelled() => return Err(being_stopped()),
            }
        }
        self.signal(&sandbox, container, libc::SIGKILL, !container.record.own_pid_namespace).await?;
        tokio::select! {
            _ = async { status.wait_for(ended).await.is_ok() } => Ok(()),
            () = self.stop.cancelled() => Err(being_stopped()),
        }
    }

    async fn signal(self: &Arc<Self>, sandbox: &Arc<Sandbox>, container: &Container, signal: i32, all: bool) -> Result<()> {
        let request = Request::Signal { id: container.id.clone(), signal, all };
        match tell(&self.shim_socket(sandbox), &request).await {
            // Not running any more: the event that says so is on its way.
            Ok(()) | Err(ShimError::NotFound(_)) => Ok(()),
            Err(ShimError::Unreachable(error)) => {
                tracing::warn!(container = container.id, "ending a container without its shim: {error}");
                if let Status::Running { started_at, .. } = container.current() {
                    self.container_lost(container, started_at);
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// RemoveContainer: kills it when it runs. One that does not exist is removed.
    pub async fn remove_container(self: &Arc<Self>, id: &str) -> Result<()> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let engine = self.clone();
        let removed = self.tasks.spawn(async move { engine.remove_container_now(&container).await });
        removed.await.map_err(|error| Error::Internal(format!("removing a container: {error}")))?
    }

    pub(super) async fn remove_container_now(self: &Arc<Self>, container: &Arc<Container>) -> Result<()> {
        let _turn = container.turn.lock().await;
        self.stop_container_now(container, 0).await?;
        if let Ok(sandbox) = self.sandbox(&container.sandbox_id)
            && sandbox.is_ready()
        {
            let forget = Request::Forget { id: container.id.clone() };
            if let Err(error) = tell(&self.shim_socket(&sandbox), &forget).await {
                tracing::debug!(container = container.id, "the shim cannot forget: {error}");
            }
        }
        let (engine, held) = (self.clone(), container.clone());
        let removed = tokio::task::spawn_blocking(move || engine.remove_files(&held));
        removed.await.map_err(|error| Error::Internal(error.to_string()))??;
        {
            let mut index = self.index.write();
            index.containers.remove(&container.id);
            index.release(&container.id);
        }
        if let Ok(sandbox) = self.sandbox(&container.sandbox_id) {
            self.announce(&sandbox, &container.id, ContainerEventType::ContainerDeletedEvent);
        }
        Ok(())
    }

    fn remove_files(&self, container: &Container) -> Result<()> {
        crate::cgroup::kill_all(&container.record.cgroup);
        crate::cgroup::remove(&container.record.cgroup).context("removing the container's cgroup")?;
        let libcontainer = self.state_directory(&container.sandbox_id).join("containers").join(&container.id);
        remove_directory(&libcontainer).context("removing the container's state")?;
        for volume in &container.record.image_volumes {
            self.images.remove_image_volume(volume).map_err(|error| Error::Internal(format!("removing an image volume: {error}")))?;
        }
        self.images.remove_rootfs(&container.id).map_err(|error| Error::Internal(format!("removing the root file system: {error}")))?;
        remove_directory(&container.directory).context("removing the container's directory")
    }

    /// UpdateContainerResources: now, when it runs; and for its start, when it does not yet.
    pub async fn update_resources(&self, request: v1::UpdateContainerResourcesRequest) -> Result<()> {
        let container = self.container(&request.container_id)?;
        let Some(wanted) = request.linux else { return Ok(()) };
        let _turn = container.turn.lock().await;
        match container.current() {
            Status::Exited(_) => {
                return Err(Error::FailedPrecondition(format!("container {:?} has exited", container.id)));
            }
            Status::Running { .. } => {
                crate::cgroup::update(&container.record.cgroup, &wanted).context("failed to update resources")?;
            }
            Status::Created => {}
        }
        let mut config = (*container.config()).clone();
        let linux = config.linux.get_or_insert_default();
        merge(linux.resources.get_or_insert_default(), &wanted);
        if container.current() == Status::Created {
            self.rewrite_resources(&container, &config)?;
        }
        let path = container.directory.join("request.pb");
        let mut stored: v1::CreateContainerRequest = super::model::load_message(&path)?;
        stored.config = Some(config.clone());
        save(&path, &stored.encode_to_vec())?;
        *container.config.lock() = Arc::new(config);
        Ok(())
    }

    /// Puts changed resources into the bundle of a container that has not started.
    fn rewrite_resources(&self, container: &Container, config: &v1::ContainerConfig) -> Result<()> {
        let path = container.bundle().join("config.json");
        let mut bundle: serde_json::Value = super::model::load_json(&path)?;
        let wanted = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
        let mut resources = spec::resources(&wanted, self.node);
        resources.insert("devices".to_owned(), bundle["linux"]["resources"]["devices"].clone());
        bundle["linux"]["resources"] = serde_json::Value::Object(resources);
        save_json(&path, &bundle)
    }

    /// ReopenContainerLog.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        if container.pid().is_none() {
            return Err(Error::FailedPrecondition("container is not running".to_owned()));
        }
        let sandbox = self.sandbox(&container.sandbox_id)?;
        tell(&self.shim_socket(&sandbox), &Request::ReopenLog { id: container.id.clone() }).await?;
        Ok(())
    }
}

/// For requests that wait for a container while this server ends: whoever asked asks the next one.
pub(super) fn being_stopped() -> Error {
    Error::Internal("the container runtime is being stopped".to_owned())
}

/// Takes over what an update sets.
fn merge(held: &mut v1::LinuxContainerResources, update: &v1::LinuxContainerResources) {
    let number = |held: &mut i64, new: i64| {
        if new != 0 {
            *held = new;
        }
    };
    number(&mut held.cpu_period, update.cpu_period);
    number(&mut held.cpu_quota, update.cpu_quota);
    number(&mut held.cpu_shares, update.cpu_shares);
    number(&mut held.memory_limit_in_bytes, update.memory_limit_in_bytes);
    number(&mut held.memory_swap_limit_in_bytes, update.memory_swap_limit_in_bytes);
    number(&mut held.oom_score_adj, update.oom_score_adj);
    for (held, new) in [(&mut held.cpuset_cpus, &update.cpuset_cpus), (&mut held.cpuset_mems, &update.cpuset_mems)] {
        if !new.is_empty() {
            held.clone_from(new);
        }
    }
    if !update.hugepage_limits.is_empty() {
        held.hugepage_limits.clone_from(&update.hugepage_limits);
    }
    held.unified.extend(update.unified.iter().map(|(name, value)| (name.clone(), value.clone())));
}

/// The log file, whose folder must be there when the container starts.
fn log_path(sandbox: &v1::PodSandboxConfig, config: &v1::ContainerConfig) -> Result<Option<PathBuf>> {
    if sandbox.log_directory.is_empty() || config.log_path.is_empty() {
        return Ok(None);
    }
    let path = Path::new(&sandbox.log_directory).join(&config.log_path);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context("making the log's directory")?;
    }
    Ok(Some(path))
}

/// A path inside a folder that comes from an image, with links followed inside it only.
fn inside(root: &Path, sub_path: &str) -> Result<PathBuf> {
    let sub_path = sub_path.trim_start_matches('/');
    if sub_path.is_empty() {
        return Ok(root.to_owned());
    }
    let fail = |error: std::io::Error| Error::InvalidArgument(format!("image_sub_path {sub_path:?}: {error}"));
    let resolved = std::fs::canonicalize(root.join(sub_path)).map_err(fail)?;
    let root = std::fs::canonicalize(root).map_err(fail)?;
    if resolved.starts_with(&root) { Ok(resolved) } else { Err(fail(std::io::ErrorKind::NotFound.into())) }
}

/// Makes the working directory in the image when it is missing, without following a link out of the image.
fn make_working_dir(rootfs: &Path, working_dir: &Path) -> Result<()> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
    use nix::sys::stat::{Mode, mkdirat};
    let how = || OpenHow::new().flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let root = std::fs::File::open(rootfs).context("opening the root file system")?;
    let mut walked = PathBuf::from(".");
    for part in working_dir.components() {
        let std::path::Component::Normal(name) = part else { continue };
        let parent = openat2(&root, &walked, how());
        walked.push(name);
        if openat2(&root, &walked, how()).is_ok() {
            continue;
        }
        let parent = parent.map_err(|error| Error::Io(format!("working directory {}", working_dir.display()), error.into()))?;
        match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
            // Something that is not a directory: the start will say so.
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(Error::Io(format!("making the working directory {}", working_dir.display()), error.into())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_working_directory_is_made_inside_the_image_only() {
        let image = tempfile::tempdir().expect("a folder");
        make_working_dir(image.path(), Path::new("/a/b")).expect("made");
        assert!(image.path().join("a/b").is_dir());
        let outside = tempfile::tempdir().expect("a folder");
        std::os::unix::fs::symlink(outside.path(), image.path().join("link")).expect("a link");
        let _ = make_working_dir(image.path(), Path::new("/link/x"));
        assert!(!outside.path().join("x").exists());
    }

    #[test]
    fn an_update_changes_what_it_sets() {
        let mut held = v1::LinuxContainerResources { cpu_shares: 2, memory_limit_in_bytes: 5, ..Default::default() };
        merge(&mut held, &v1::LinuxContainerResources { cpu_shares: 9, cpuset_cpus: "1".into(), ..Default::default() });
        assert_eq!((held.cpu_shares, held.memory_limit_in_bytes, held.cpuset_cpus.as_str()), (9, 5, "1"));
    }
}
