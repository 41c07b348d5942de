//! The node agent: makes the pods that the API assigns to this node run, through CRI and nothing else.
//!
//! It knows the API through a client, the runtime through CRI, and the kernel only through the thin modules `cgroups`
//! and `volumes`. Containers outlive it: a restart finds them again by their labels.

pub mod cgroups;
pub mod config;
mod grpc_health;
mod hooks;
mod images;
mod inotify;
mod logs;
mod make;
pub mod node;
pub mod pod;
mod probes;
pub mod runtime;
pub mod server;
pub mod static_pods;
mod tls;
pub mod volumes;

pub use config::Config;
pub use node::thresholds::{BadThreshold, Threshold, Thresholds};

use ferrokube_client::events::Recorder;
use ferrokube_client::{Caches, Client, Selection};
use futures_util::future::BoxFuture;
use node::Shared;
use static_pods::source::Directory;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// Why a kubelet does not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error("the container runtime at {endpoint} does not answer: {detail}")]
    Runtime { endpoint: String, detail: String },
    #[error("the container runtime endpoint {endpoint} is not usable")]
    Endpoint { endpoint: String, source: tonic::transport::Error },
    #[error(transparent)]
    Server(#[from] server::ServerError),
}

/// A running kubelet.
pub struct Kubelet {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    manager: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
    ready: Option<oneshot::Receiver<()>>,
}

/// How long the runtime may take to answer for the first time.
const RUNTIME_START: Duration = Duration::from_secs(30);

impl Kubelet {
    /// Starts all parts. `client` is this node's (`system:node:<name>`).
    pub fn start(config: Config, client: Client) -> BoxFuture<'static, Result<Self, StartError>> {
        // Boxed here: an `async fn` would be compiled again in every program that awaits it.
        Box::pin(Self::come_up(config, client))
    }

    async fn come_up(config: Config, client: Client) -> Result<Self, StartError> {
        let endpoint = config.runtime_endpoint.clone();
        let cri = runtime::Cri::connect(&endpoint, config.runtime_timeout)
            .map_err(|source| StartError::Endpoint { endpoint: endpoint.clone(), source })?;
        let runtime_name = first_answer(&cri).await.map_err(|detail| StartError::Runtime { endpoint, detail })?;
        let caches = Caches::new(client.clone());
        let own = Selection {
            version: "v1".into(),
            resource: "nodes".into(),
            fields: format!("metadata.name={}", config.node_name),
            ..Selection::default()
        };
        let shared = Arc::new(Shared {
            own: caches.select(own),
            pressure: parking_lot::Mutex::default(),
            load: node::load::Load::default(),
            probed: probes::Counters::default(),
            recorder: Recorder::new(client.clone(), "kubelet", &config.node_name),
            cgroups: cgroups::Cgroups::new(&config.cgroup_root),
            volumes: volumes::Volumes::new(&config, client.clone()),
            services: caches.of(),
            capacity: node::Capacity::of_this_machine(),
            runtime_name,
            pods: parking_lot::Mutex::new(HashMap::new()),
            mirrors: static_pods::mirror::Mirrors::default(),
            cri,
            client,
            config,
        });
        let server = server::Server::start(shared.clone()).await?;
        let (stop, stopped) = watch::channel(false);
        let (ready_tx, ready) = oneshot::channel();
        let (requests, inbox) = mpsc::channel(16);
        // Static pods are known from the first moment on: what runs of them is not to be taken for somebody else's.
        let files = shared.config.static_pods.clone().map(|path| Directory::new(path, shared.config.node_name.clone()));
        let (pods_of_files, files) = match files {
            Some(mut directory) => {
                let (sender, pods) = watch::channel(directory.read());
                (pods, Some(tokio::spawn(static_pods::source::follow(directory, sender))))
            }
            None => (watch::channel(Vec::new()).1, None),
        };
        let manager = pod::manager::Manager::new(shared.clone(), pods_of_files);
        let mut until = stopped.clone();
        let manager = tokio::spawn(async move {
            let stop = async move { drop(until.wait_for(|s| *s).await) };
            manager.run(inbox, stop).await;
        });
        let mut others = vec![
            tokio::spawn(node::status::keep(shared.clone(), ready_tx)),
            tokio::spawn(node::lease::keep(shared.clone())),
            tokio::spawn(node::eviction::keep(shared.clone(), requests)),
            tokio::spawn(images::gc::keep(shared.clone())),
            tokio::spawn(logs::rotate::keep(shared.clone())),
            tokio::spawn(server.run(stopped)),
        ];
        if let Some(files) = files {
            others.extend([files, tokio::spawn(static_pods::mirror::keep(shared.clone()))]);
        }
        let address = shared.config.server_address;
        Ok(Kubelet { address, stop, manager, others, ready: Some(ready) })
    }

    /// Where the HTTPS server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resolves once the Node has been reported Ready for the first time.
    pub async fn ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            // An error means that the kubelet ended first.
            let _ = ready.await;
        }
    }

    /// Stops everything but the containers.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.others.iter().for_each(JoinHandle::abort);
        if let Err(e) = self.manager.await {
            tracing::error!("the pod manager ended badly: {e}");
        }
    }
}

/// The runtime may be starting at the same time.
async fn first_answer(cri: &runtime::Cri) -> Result<String, String> {
    let deadline = tokio::time::Instant::now() + RUNTIME_START;
    loop {
        match cri.version().await {
            Ok(version) => return Ok(version.runtime_name),
            Err(e) if tokio::time::Instant::now() >= deadline => return Err(e.message().to_owned()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
