//! Starting and stopping: sockets, the gRPC server, and who waits for whom.

use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use ferrokube_cri::v1::image_service_server::ImageServiceServer;
use ferrokube_cri::v1::runtime_service_server::RuntimeServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::engine::Engine;
use crate::error::{Error, IoContext, Result};
use crate::image::{ImageServiceImpl, ImageStore};
use crate::service::RuntimeServer;
use crate::streaming::Streaming;

/// The kubelet sends and takes messages of this size.
const MAX_MESSAGE: usize = 16 << 20;

/// Where a runtime can be reached.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// CRI.
    pub socket: PathBuf,
    /// Exec, attach and port-forward.
    pub streaming: SocketAddr,
}

/// A runtime that is being served.
#[derive(Debug)]
pub struct Runtime {
    engine: Arc<Engine>,
    images: ImageStore,
    addresses: Addresses,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Runtime {
    /// Takes up what an earlier runtime left in the same folders, and serves CRI.
    ///
    /// # Errors
    /// When a folder or socket cannot be made or is in use by another runtime that answers, or a record cannot be read.
    pub fn start(config: Config) -> BoxFuture<'static, Result<Self>> {
        // Boxed here: an `async fn` would be compiled again in every program that awaits it.
        Box::pin(Self::come_up(config))
    }

    async fn come_up(config: Config) -> Result<Self> {
        std::fs::create_dir_all(&config.root).context(format!("making {}", config.root.display()))?;
        std::fs::create_dir_all(&config.state).context(format!("making {}", config.state.display()))?;
        let listener = listen(&config.socket).await?;
        let streams = TcpListener::bind(config.streaming).await.context(format!("streaming server at {}", config.streaming))?;
        let address = streams.local_addr().context("streaming server")?;
        let store = (config.root.join("images"), config.images.clone());
        let images = tokio::task::spawn_blocking(move || ImageStore::open(&store.0, store.1));
        let images = images.await.map_err(|error| Error::Internal(error.to_string()))?;
        let images = images.map_err(|error| Error::Internal(format!("opening the image store: {error}")))?;
        let addresses = Addresses { socket: config.socket.clone(), streaming: address };
        let engine = Engine::open(config, images.clone()).await?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let streaming = Streaming::new(address);
        let runtime = RuntimeServiceServer::new(RuntimeServer::new(engine.clone(), streaming.clone()))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let image = ImageServiceServer::new(ImageServiceImpl::new(images.clone()))
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        let server = tonic::transport::Server::builder().add_service(runtime).add_service(image);
        let stopped = stop.clone();
        tasks.spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, stopped.cancelled_owned()).await {
                tracing::error!("the CRI server has ended: {error}");
            }
        });
        let (stopped, served) = (stop.clone(), engine.clone());
        tasks.spawn(async move { crate::streaming::serve(streams, served, streaming, stopped).await });
        tracing::info!(socket = %addresses.socket.display(), streaming = %addresses.streaming, "the container runtime serves");
        Ok(Self { engine, images, addresses, stop, tasks })
    }

    /// Ends and removes every pod, and every file of the runtime, images too: for a node that leaves its cluster for good.
    ///
    /// No runtime may be serving on these folders.
    ///
    /// # Errors
    /// When a pod cannot be taken apart (its network plug-in fails, for example): what is left is as it was, so it can be tried again.
    pub fn purge(config: Config) -> BoxFuture<'static, Result<()>> {
        // Boxed here: an `async fn` would be compiled again in every program that awaits it.
        Box::pin(Self::take_apart(config))
    }

    async fn take_apart(config: Config) -> Result<()> {
        let (root, state) = (config.root.clone(), config.state.clone());
        if !root.exists() && !state.exists() {
            return Ok(());
        }
        if tokio::net::UnixStream::connect(&config.socket).await.is_ok() {
            return Err(Error::FailedPrecondition(format!("a container runtime serves {}", config.socket.display())));
        }
        let images = ImageStore::open(&root.join("images"), config.images.clone())
            .map_err(|error| Error::Internal(format!("opening the image store: {error}")))?;
        let engine = Engine::open(config, images).await?;
        for sandbox in engine.sandboxes() {
            engine.remove_sandbox(&sandbox.id).await?;
        }
        engine.close().await;
        let removed = tokio::task::spawn_blocking(move || {
            for directory in [root.join("images"), root, state.join("pods")] {
                match std::fs::remove_dir_all(&directory) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::Io(format!("removing {}", directory.display()), error));
                    }
                    _ => {}
                }
            }
            Ok(())
        });
        removed.await.map_err(|error| Error::Internal(error.to_string()))?
    }

    /// Where it can be reached.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The image store, for imports that do not come over CRI.
    pub fn images(&self) -> &ImageStore {
        &self.images
    }

    /// Ends the servers. Shims and containers go on, and the next runtime takes them up.
    pub async fn shutdown(self) {
        // Streams of events have no end of their own: the engine's stop ends them, and with them the server's last requests.
        self.stop.cancel();
        self.engine.close().await;
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = std::fs::remove_file(&self.addresses.socket) {
            tracing::debug!("removing {}: {error}", self.addresses.socket.display());
        }
    }
}

/// Listens on a socket that only root may use. One that was left behind is replaced, one that somebody answers is not.
async fn listen(path: &PathBuf) -> Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context(format!("making {}", folder.display()))?;
    }
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(Error::AlreadyExists(format!("another container runtime serves {}", path.display())));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::Io(format!("replacing {}", path.display()), error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).context(format!("listening at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).context(format!("permissions of {}", path.display()))?;
    Ok(listener)
}
