//! What the CRI server does, without the wire: sandboxes, containers, and what becomes of them.
//!
//! The shims are the truth about what runs, the disk about what was asked for; the index in memory follows both. Operations on one sandbox
//! or container take turns; nothing else is locked while waiting.

mod containers;
mod events;
mod exec;
pub mod model;
mod recover;
mod sandboxes;
mod stats;
mod view;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use exec::{AttachTarget, ExecTarget, Process};
pub use sandboxes::HANDLERS;
pub use view::matches_labels;

use crate::config::Config;
use crate::error::Result;
use crate::image::ImageStore;
use crate::spec::NodeLimits;
use model::{Container, Index, Sandbox, find};

/// The runtime behind the CRI services.
#[derive(Debug)]
pub struct Engine {
    /// As it was started.
    pub config: Config,
    /// Images and root file systems.
    pub images: ImageStore,
    index: RwLock<Index>,
    events: events::Events,
    cpu_history: stats::History,
    node: NodeLimits,
    /// Tasks that follow shims.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Engine {
    /// Opens the folders and takes up what an earlier server left.
    pub async fn open(config: Config, images: ImageStore) -> Result<Arc<Self>> {
        let engine = Arc::new(Self {
            config,
            images,
            index: RwLock::default(),
            events: events::Events::new(),
            cpu_history: stats::History::default(),
            node: NodeLimits::detect(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        engine.make_folders()?;
        engine.recover().await?;
        Ok(engine)
    }

    /// Ends what runs in this process. Shims and containers go on.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Set when this server is to end.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// A sandbox by id.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        find(&self.index.read().sandboxes, id, "sandbox")
    }

    /// A container by id.
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        find(&self.index.read().containers, id, "container")
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.index.read().sandboxes.values().cloned().collect()
    }

    /// All containers.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.index.read().containers.values().cloned().collect()
    }

    /// The containers of a sandbox.
    pub fn containers_of(&self, sandbox_id: &str) -> Vec<Arc<Container>> {
        self.index.read().containers.values().filter(|container| container.sandbox_id == sandbox_id).cloned().collect()
    }

    fn sandbox_directory(&self, id: &str) -> PathBuf {
        self.config.root.join("sandboxes").join(id)
    }

    fn container_directory(&self, id: &str) -> PathBuf {
        self.config.root.join("containers").join(id)
    }

    /// Short, since sockets are in it and their paths must be.
    fn state_directory(&self, sandbox_id: &str) -> PathBuf {
        self.config.state.join("pods").join(&sandbox_id[..sandbox_id.len().min(20)])
    }

    fn shim_socket(&self, sandbox: &Sandbox) -> PathBuf {
        sandbox.state_directory.join("shim")
    }
}

/// Removes a directory; one that is gone already is fine.
fn remove_directory(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
