//! Sandboxes and containers as the server holds them, and their records on disk.
//!
//! What a request said is kept as the request itself; what happened since is a small JSON file beside it. A directory without that file is
//! half-made and is cleared away when the server starts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrokube_cri::v1;
use parking_lot::Mutex;
use prost::Message;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::cni::Attached;
use crate::error::{Error, IoContext, Result};
use crate::shim::protocol::Exit;

/// A pod sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// 64 hexadecimal digits.
    pub id: String,
    /// As it was asked for.
    pub config: v1::PodSandboxConfig,
    /// As it was asked for; empty for the only one there is.
    pub runtime_handler: String,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Durable files.
    pub directory: PathBuf,
    /// Files that end with the machine; the shim's working directory.
    pub state_directory: PathBuf,
    /// What changes.
    pub state: Mutex<SandboxState>,
    /// One operation on a sandbox at a time; guards no data.
    pub turn: tokio::sync::Mutex<()>,
}

/// What changes in a sandbox; its `state.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxState {
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// It can run containers.
    pub ready: bool,
    /// Addresses, the primary one first.
    #[serde(default)]
    pub ips: Vec<String>,
    /// What the network did, until it is undone.
    #[serde(default)]
    pub network: Option<Attached>,
    /// The process that holds the pod's PID namespace.
    #[serde(default)]
    pub pod_init: Option<u32>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq)]
pub enum Status {
    /// Made, not started.
    Created,
    /// Its first process runs.
    Running {
        /// That process.
        pid: u32,
        /// Nanoseconds since the epoch.
        started_at: i64,
    },
    /// It has ended, or could not be started.
    Exited(Exit),
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its sandbox.
    pub sandbox_id: String,
    /// As it was asked for; its resources follow updates.
    pub config: Mutex<Arc<v1::ContainerConfig>>,
    /// What was decided when it was made; its `state.json`.
    pub record: ContainerRecord,
    /// Durable files.
    pub directory: PathBuf,
    /// Where it is in its life; watched by those who wait for its end.
    pub status: watch::Sender<Status>,
    /// One operation on a container at a time; guards no data.
    pub turn: tokio::sync::Mutex<()>,
}

/// What was decided when a container was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Image id.
    pub image_id: String,
    /// A digest reference of the image, else its id.
    pub image_ref: String,
    /// What people call it: a tag, else a digest reference. The kubelet may have asked for it by its id.
    #[serde(default)]
    pub image_name: String,
    /// Cgroup path below each hierarchy.
    pub cgroup: String,
    /// CRI log file.
    pub log_path: Option<PathBuf>,
    /// The signal that stops it.
    pub stop_signal: i32,
    /// User and primary group.
    pub user: (u32, u32),
    /// All its groups.
    pub groups: Vec<u32>,
    /// Its processes are in a PID namespace of its own.
    pub own_pid_namespace: bool,
    /// Image volumes that were prepared for it.
    #[serde(default)]
    pub image_volumes: Vec<String>,
}

impl Sandbox {
    /// Where its namespaces are pinned.
    pub fn namespaces(&self) -> PathBuf {
        self.state_directory.join("ns")
    }

    /// Its network namespace; none with the node's network.
    pub fn netns(&self) -> Option<PathBuf> {
        (namespace_options(&self.config).network() != v1::NamespaceMode::Node).then(|| self.namespaces().join("net"))
    }

    /// Its `/dev/shm`; the node's when it shares the node's IPC namespace.
    pub fn shm(&self) -> PathBuf {
        match namespace_options(&self.config).ipc() {
            v1::NamespaceMode::Node => "/dev/shm".into(),
            _ => self.state_directory.join("shm"),
        }
    }

    /// Whether containers can be run in it.
    pub fn is_ready(&self) -> bool {
        self.state.lock().ready
    }

    /// Its metadata; empty when the request had none.
    pub fn metadata(&self) -> v1::PodSandboxMetadata {
        self.config.metadata.clone().unwrap_or_default()
    }

    /// Changes the state and puts it on disk.
    pub fn change(&self, change: impl FnOnce(&mut SandboxState)) -> Result<()> {
        let state = {
            let mut state = self.state.lock();
            change(&mut state);
            state.clone()
        };
        save_json(&self.directory.join("state.json"), &state)
    }
}

/// The namespace options of a pod.
pub fn namespace_options(config: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    context.and_then(|context| context.namespace_options.clone()).unwrap_or_default()
}

impl Container {
    /// Where it is in its life.
    pub fn current(&self) -> Status {
        self.status.borrow().clone()
    }

    /// As it was asked for, with its present resources.
    pub fn config(&self) -> Arc<v1::ContainerConfig> {
        self.config.lock().clone()
    }

    /// Its OCI bundle.
    pub fn bundle(&self) -> PathBuf {
        self.directory.join("bundle")
    }

    /// Where the shim records its end.
    pub fn exit_path(&self) -> PathBuf {
        self.directory.join("exit.json")
    }

    /// The pid of its first process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        match &*self.status.borrow() {
            Status::Running { pid, .. } => Some(*pid),
            _ => None,
        }
    }
}

/// Replaces a file by a JSON document, whole or not at all.
pub fn save_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|error| Error::Internal(error.to_string()))?;
    save(path, &text)
}

/// Replaces a file, whole or not at all.
pub fn save(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, content).context(format!("writing {}", temporary.display()))?;
    std::fs::rename(&temporary, path).context(format!("replacing {}", path.display()))
}

/// Reads a JSON document.
pub fn load_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).context(format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| Error::Internal(format!("{}: {error}", path.display())))
}

/// Reads a message as it was sent.
pub fn load_message<T: Message + Default>(path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).context(format!("reading {}", path.display()))?;
    T::decode(bytes.as_slice()).map_err(|error| Error::Internal(format!("{}: {error}", path.display())))
}

/// A fresh id.
pub fn new_id() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The present, in nanoseconds since the epoch.
pub fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Everything there is, by id.
#[derive(Debug, Default)]
pub struct Index {
    /// Sandboxes.
    pub sandboxes: BTreeMap<String, Arc<Sandbox>>,
    /// Containers.
    pub containers: BTreeMap<String, Arc<Container>>,
    /// Names that are taken, with whom by.
    pub names: BTreeMap<String, String>,
}

impl Index {
    /// Takes a name, or says who has it.
    pub fn reserve(&mut self, name: String, id: &str) -> Result<()> {
        match self.names.get(&name) {
            Some(holder) if holder != id => {
                Err(Error::AlreadyExists(format!("failed to reserve name {name:?}: name is reserved for {holder:?}")))
            }
            _ => {
                self.names.insert(name, id.to_owned());
                Ok(())
            }
        }
    }

    /// Gives back every name that an id has.
    pub fn release(&mut self, id: &str) {
        self.names.retain(|_, holder| holder != id);
    }
}

/// Finds by id or by the beginning of one, when that is unambiguous.
pub fn find<T>(map: &BTreeMap<String, Arc<T>>, id: &str, what: &str) -> Result<Arc<T>> {
    if let Some(found) = map.get(id) {
        return Ok(found.clone());
    }
    let mut matches = map.range(id.to_owned()..).take_while(|(known, _)| !id.is_empty() && known.starts_with(id));
    match (matches.next(), matches.next()) {
        (Some((_, found)), None) => Ok(found.clone()),
        _ => Err(Error::NotFound(format!("an error occurred when try to find {what} {id:?}: not found"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beginning_of_an_id_is_enough_while_it_is_unambiguous() {
        let map: BTreeMap<String, Arc<u32>> = [("abc1", 1), ("abd2", 2)].map(|(id, value)| (id.to_owned(), Arc::new(value))).into();
        assert_eq!(*find(&map, "abc", "x").expect("one"), 1);
        assert!(find(&map, "ab", "x").is_err());
        assert!(find(&map, "", "x").is_err());
        assert!(find(&map, "zz", "x").is_err());
    }

    #[test]
    fn a_name_is_for_one_at_a_time() {
        let mut index = Index::default();
        index.reserve("pod".into(), "a").expect("free");
        assert!(matches!(index.reserve("pod".into(), "b"), Err(Error::AlreadyExists(_))));
        index.release("a");
        index.reserve("pod".into(), "b").expect("free again");
    }
}
