//! Takes up what an earlier server left: records on disk, shims that still run, and what was half made.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ferrokube_cri::v1;

use super::model::{Container, ContainerRecord, Sandbox, SandboxState, load_json, load_message};
use super::watch::{status_without_shim, subscribe};
use super::{Engine, remove_directory};
use crate::cni::{Attached, capabilities};
use crate::error::{IoContext, Result};
use crate::shim::client::{ShimConnection, ShimError};
use crate::shim::protocol::ContainerState;

/// A sandbox whose shim lives, and what that says of its containers.
type Reached = (Arc<Sandbox>, ShimConnection, Vec<ContainerState>);

impl Engine {
    pub(super) fn make_folders(&self) -> Result<()> {
        for directory in [self.config.root.join("sandboxes"), self.config.root.join("containers"), self.config.state.join("pods")] {
            std::fs::create_dir_all(&directory).context(format!("making {}", directory.display()))?;
            // Environments of containers are in there, and with them secrets.
            let only_root = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(&directory, only_root).context(format!("permissions of {}", directory.display()))?;
        }
        Ok(())
    }

    /// Reads all records, reaches every shim that lives, and clears away what has no record.
    pub(super) async fn recover(self: &Arc<Self>) -> Result<()> {
        let mut followed = Vec::new();
        for id in names(&self.config.root.join("sandboxes"))? {
            match self.load_sandbox(&id) {
                Ok(sandbox) => followed.extend(self.reach(sandbox).await),
                Err(error) => {
                    tracing::warn!(sandbox = id, "clearing away a half-made sandbox: {error}");
                    self.unmake_sandbox(&self.ghost(&id)).await;
                }
            }
        }
        for id in names(&self.config.root.join("containers"))? {
            match self.load_container(&id) {
                Ok(container) => {
                    self.index.write().containers.insert(id, container);
                }
                Err(error) => {
                    tracing::warn!(container = id, "clearing away a half-made container: {error}");
                    self.unmake_container(&id);
                }
            }
        }
        self.reserve_names();
        self.remove_strays();
        // Only now, so that what shims say of containers finds them.
        for (sandbox, connection, states) in followed {
            self.catch_up(states);
            self.follow(sandbox, connection);
        }
        Ok(())
    }

    fn load_sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let directory = self.sandbox_directory(id);
        let state: SandboxState = load_json(&directory.join("state.json"))?;
        let request: v1::RunPodSandboxRequest = load_message(&directory.join("request.pb"))?;
        Ok(Arc::new(Sandbox {
            id: id.to_owned(),
            config: request.config.unwrap_or_default(),
            runtime_handler: request.runtime_handler,
            created_at: state.created_at,
            directory,
            state_directory: self.state_directory(id),
            state: state.into(),
            turn: Default::default(),
        }))
    }

    /// A sandbox of which little is known, to clear it away.
    fn ghost(&self, id: &str) -> Sandbox {
        let directory = self.sandbox_directory(id);
        let request: v1::RunPodSandboxRequest = load_message(&directory.join("request.pb")).unwrap_or_default();
        let config = request.config.unwrap_or_default();
        // Its network may have been connected without a record of it: disconnecting what is not connected does no harm.
        let list = self.config.cni.as_ref().and_then(|cni| cni.current().ok());
        let network = list.map(|list| Attached { list, result: serde_json::Value::Null, capabilities: capabilities(&config) });
        Sandbox {
            id: id.to_owned(),
            config,
            runtime_handler: String::new(),
            created_at: 0,
            directory,
            state_directory: self.state_directory(id),
            state: SandboxState { network, ..Default::default() }.into(),
            turn: Default::default(),
        }
    }

    /// Connects to a sandbox's shim. One that does not answer has died while nobody watched.
    async fn reach(self: &Arc<Self>, sandbox: Arc<Sandbox>) -> Option<Reached> {
        self.index.write().sandboxes.insert(sandbox.id.clone(), sandbox.clone());
        if !sandbox.is_ready() {
            return None;
        }
        let socket = self.shim_socket(&sandbox);
        let reached = async {
            let (mut connection, _) = ShimConnection::open(&socket).await?;
            let states = subscribe(&mut connection).await?;
            Ok::<_, ShimError>((connection, states))
        };
        match reached.await {
            Ok((connection, states)) => Some((sandbox, connection, states)),
            Err(error) => {
                tracing::warn!(sandbox = sandbox.id, "the pod's shim is gone: {error}");
                if let Err(error) = sandbox.change(|state| state.ready = false) {
                    tracing::warn!(sandbox = sandbox.id, "recording that the pod has ended: {error}");
                }
                None
            }
        }
    }

    fn load_container(&self, id: &str) -> Result<Arc<Container>> {
        let directory = self.container_directory(id);
        let record: ContainerRecord = load_json(&directory.join("state.json"))?;
        let request: v1::CreateContainerRequest = load_message(&directory.join("request.pb"))?;
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        let container = Container {
            id: id.to_owned(),
            sandbox_id: sandbox.id.clone(),
            config: Arc::new(request.config.unwrap_or_default()).into(),
            record,
            directory,
            status: tokio::sync::watch::Sender::new(super::model::Status::Created),
            turn: Default::default(),
        };
        let status = status_without_shim(&container, sandbox.is_ready());
        if !sandbox.is_ready() {
            crate::cgroup::kill_all(&container.record.cgroup);
        }
        container.status.send_replace(status);
        Ok(Arc::new(container))
    }

    fn reserve_names(&self) {
        let mut index = self.index.write();
        let sandboxes: Vec<_> = index.sandboxes.values().cloned().collect();
        let containers: Vec<_> = index.containers.values().cloned().collect();
        for sandbox in &sandboxes {
            index.names.insert(super::sandboxes::sandbox_name(&sandbox.metadata()), sandbox.id.clone());
        }
        for container in containers {
            if let Some(sandbox) = sandboxes.iter().find(|sandbox| sandbox.id == container.sandbox_id) {
                let metadata = container.config().metadata.clone().unwrap_or_default();
                index.names.insert(super::containers::container_name(sandbox, &metadata), container.id.clone());
            }
        }
    }

    /// Root file systems and state directories that belong to nobody any more.
    fn remove_strays(&self) {
        for id in self.images.rootfs_ids() {
            if self.container(&id).is_err()
                && let Err(error) = self.images.remove_rootfs(&id)
            {
                tracing::warn!(container = id, "removing a stray root file system: {error}");
            }
        }
        let known: Vec<_> = self.sandboxes().iter().map(|sandbox| sandbox.state_directory.clone()).collect();
        for name in names(&self.config.state.join("pods")).unwrap_or_default() {
            let directory = self.config.state.join("pods").join(name);
            if !known.contains(&directory) {
                let _ = crate::sandbox::namespaces::remove(&directory.join("ns"));
                let _ = crate::sandbox::namespaces::unmount(&directory.join("shm"));
                if let Err(error) = remove_directory(&directory) {
                    tracing::warn!("removing {}: {error}", directory.display());
                }
            }
        }
    }
}

/// The names in a directory.
fn names(directory: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(directory).context(format!("reading {}", directory.display()))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
