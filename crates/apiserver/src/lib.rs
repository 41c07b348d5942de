//! The Kubernetes API server: one pipeline for every verb of every kind.
//!
//! Knows the store only as a trait and the kinds only as rows. No component of the cluster is known here.

pub mod admission;
pub mod aggregate;
pub mod attributes;
pub mod audit;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cache;
mod compactor;
pub mod connect;
pub mod crd;
pub mod discovery;
pub mod encryption;
mod expiring;
pub mod flowcontrol;
pub mod foreign;
mod identity;
pub mod local;
pub mod objects;
pub mod outbound;
pub mod output;
pub mod pipeline;
pub mod registry;
pub mod request;
pub mod route;
pub mod server;
pub mod special;
mod storage_versions;
pub mod tokens;
pub mod verbs;
pub mod websocket;
pub mod write;

pub use attributes::UserInfo;
pub use discovery::version::GIT_VERSION as VERSION;
pub use output::Body;
pub use server::{ClientCas, Config, ConfigFile, KubeletAccess, MinTls, NamedCertificate, Running, ServingConfig, StartError, Tls};

use ferrokube_store::Store;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A running API server: what every request needs. Made by [`ApiServer::start`].
pub struct ApiServer {
    pub(crate) store: Arc<dyn Store>,
    /// The store again, when values are encrypted in it.
    pub(crate) sealed: Option<Arc<encryption::Sealed>>,
    pub(crate) caches: Arc<cache::Caches>,
    pub(crate) feed: cache::Feed,
    pub(crate) registry: registry::Registry,
    pub(crate) authenticator: authn::Authenticator,
    pub(crate) authorizer: Arc<authz::Authorizer>,
    pub(crate) admission: admission::Admission,
    pub(crate) components: special::components::Components,
    pub(crate) services: Arc<special::services::Allocator>,
    /// Of the configuration files of authentication, authorization and encryption.
    pub(crate) reloads: [Arc<server::reload::Reloads>; 3],
    pub(crate) serving: server::serving::Serving,
    pub(crate) limits: server::limits::Limits,
    /// `None`: only the number of requests in flight is limited.
    pub(crate) flow: Option<Arc<flowcontrol::FlowControl>>,
    pub(crate) audit: Option<Arc<audit::Audit>>,
    pub(crate) metrics: server::metrics::Metrics,
    /// `None`: it is not told in which versions objects are stored.
    pub(crate) storage_versions: Option<storage_versions::StorageVersions>,
    /// For `/flagz`.
    pub(crate) flags: server::zpages::Flags,
    pub(crate) health: server::health::Health,
    pub(crate) kubelets: arc_swap::ArcSwapOption<connect::kubelet::Kubelets>,
    /// `None`: it does not listen.
    pub(crate) terms: Option<server::tls::Terms>,
    /// What bootstrap objects say of this server, once it has started.
    pub(crate) facts: OnceLock<tokio::sync::watch::Sender<bootstrap::BootstrapConfig>>,
    pub(crate) external: OnceLock<String>,
    pub(crate) request_timeout: Duration,
    /// How long events live.
    pub(crate) event_ttl: Duration,
    /// Where the keys of service-account tokens are told to be, when that is not here.
    pub(crate) jwks_uri: String,
    pub(crate) aggregator: aggregate::Aggregator,
    pub(crate) documents: discovery::Documents,
    /// No new connections.
    pub(crate) draining: CancellationToken,
    /// Streams end.
    pub(crate) stopping: CancellationToken,
}

impl ApiServer {
    /// The caches: what is stored, as bytes.
    pub fn caches(&self) -> &Arc<cache::Caches> {
        &self.caches
    }

    /// Whether streams are being ended because the server stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ApiServer({:?})", self.caches)
    }
}
