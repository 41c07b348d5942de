//! The local-path provisioner: volumes that are directories of a node.
//!
//! An external provisioner as others are, one on each node, with an account of its own: the binder asks for a volume by
//! annotation, the scheduler has said for which node, and the provisioner of that node makes a directory and the
//! PersistentVolume. When the volume is released and its policy says so, it removes both. It is the one part that makes
//! and removes these directories; the kubelet only mounts them, and no controller of the control plane touches a disk.
//! It must never remove anything outside its root. Sizes are not enforced: it is the node's file system.

mod directories;
pub mod install;
mod plan;

use directories::Directories;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::{EventType, Recorder};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Caches, Client, DeleteOptions, Error, Named, ObjectKey, Optional, Patch};
use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use plan::{ClaimStep, VolumeStep, plan_claim, plan_volume};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Name of the provisioner in storage classes.
pub const PROVISIONER: &str = "ferrokube.io/local-path";
/// How soon a directory that could not be made or removed is tried again.
const AGAIN: Duration = Duration::from_secs(15);
const WORKERS: usize = 4;

/// What the provisioner is given.
#[derive(Clone)]
pub struct Config {
    /// Requests, as `system:serviceaccount:kube-system:local-path-provisioner`.
    pub client: Client,
    /// The node whose disk this is.
    pub node_name: String,
    /// Where volumes are; nothing else may be there.
    pub root: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(ObjectKey),
    Volume(Arc<str>),
}

struct Provisioner {
    client: Client,
    recorder: Recorder,
    node: String,
    directories: Directories,
    claims: Cache<PersistentVolumeClaim>,
    volumes: Cache<PersistentVolume>,
    classes: Cache<StorageClass>,
}

/// Runs until dropped.
pub fn run(config: Config) -> BoxFuture<'static, ()> {
    // Boxed here: an `async fn` would be compiled again in every program that awaits it.
    Box::pin(serve(config))
}

async fn serve(config: Config) {
    let caches = Caches::new(config.client.clone());
    let queue: Queue<Key> = Queue::new();
    let all = Provisioner {
        recorder: Recorder::new(config.client.clone(), PROVISIONER, &config.node_name),
        client: config.client,
        node: config.node_name,
        directories: Directories::new(config.root),
        claims: caches.of(),
        volumes: caches.of(),
        classes: caches.of(),
    };
    let add = queue.clone();
    all.claims.on_change(move |d| {
        if d.new.is_some() {
            add.add(Key::Claim(d.key().clone()));
        }
    });
    let add = queue.clone();
    all.volumes.on_change(move |d| {
        if d.new.is_some() {
            add.add(Key::Volume(d.key().name.clone()));
        }
    });
    tokio::join!(all.claims.synced(), all.volumes.synced(), all.classes.synced());
    let reconcile = |key: Key| {
        let all = &all;
        async move {
            match key {
                Key::Claim(key) => all.provision(&key).await,
                Key::Volume(name) => all.release(&name).await,
            }
        }
    };
    controller::run::<_, Error, _, _>("local-path", queue, WORKERS, reconcile).await;
}

impl Provisioner {
    async fn provision(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        let class = plan::class_of(&claim).and_then(|name| self.classes.get("", name));
        let volume = match plan_claim(&claim, class.as_ref(), &self.node, &self.directories) {
            ClaimStep::Nothing => return Ok(Next::Wait),
            ClaimStep::Refuse(why) => return Ok(self.failed(&claim, &why)),
            ClaimStep::Provision(volume) => *volume,
        };
        if self.volumes.object("", volume.name()).is_some() {
            return Ok(Next::Wait);
        }
        let message = format!("External provisioner is provisioning volume for claim \"{key}\"");
        self.recorder.about(&claim, EventType::Normal, "Provisioning", message);
        if let Err(e) = self.directories.make(&plan::path_of(&volume)).await {
            return Ok(self.failed(&claim, &e.to_string()));
        }
        match self.client.create(&volume).await {
            Err(e) if e.is_already_exists() => return Ok(Next::Wait),
            other => drop(other?),
        }
        let message = format!("Successfully provisioned volume {}", volume.name());
        self.recorder.about(&claim, EventType::Normal, "ProvisioningSucceeded", message);
        Ok(Next::Wait)
    }

    fn failed(&self, claim: &PersistentVolumeClaim, why: &str) -> Next {
        let class = plan::class_of(claim).unwrap_or_default();
        let message = format!("failed to provision volume with StorageClass \"{class}\": {why}");
        self.recorder.about(claim, EventType::Warning, "ProvisioningFailed", message);
        Next::After(AGAIN)
    }

    async fn release(&self, name: &str) -> Result<Next, Error> {
        let Some(volume) = self.volumes.get("", name) else { return Ok(Next::Wait) };
        match plan_volume(&volume, &self.node) {
            VolumeStep::Nothing => return Ok(Next::Wait),
            VolumeStep::LetGo => {}
            VolumeStep::Remove => {
                if let Err(e) = self.directories.remove(&plan::path_of(&volume)).await {
                    self.recorder.about(&volume, EventType::Warning, "VolumeFailedDelete", e.to_string());
                    return Ok(Next::After(AGAIN));
                }
                self.client.delete::<PersistentVolume>("", name, &DeleteOptions::of_uid(volume.uid())).await.optional()?;
            }
        }
        let left: Vec<&String> = volume.metadata.finalizers.iter().flatten().filter(|f| *f != plan::FINALIZER).collect();
        let patch = Patch::Merge(json!({"metadata": {"uid": volume.uid(), "resourceVersion": null, "finalizers": left}}));
        self.client.patch::<PersistentVolume>("", name, &patch).await.optional()?;
        Ok(Next::Wait)
    }
}
