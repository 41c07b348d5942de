//! From a configuration to a running server: caches, authentication and authorization, custom kinds, sockets, and the
//! objects that every cluster has.

use super::config::Config;
use super::health::Health;
use super::http;
use super::limits::Limits;
use super::metrics::Metrics;
use super::reload::ConfigFile;
use super::serving::{Serving, ServingError};
use super::tls::{Terms, TlsError};
use crate::ApiServer;
use crate::admission::{Admission, AdmissionConfigError};
use crate::aggregate::{self, Aggregator};
use crate::audit::{Audit, AuditError};
use crate::authn::{Authenticator, AuthnConfigError};
use crate::authz::{Authorizer, AuthzConfigError};
use crate::bootstrap::{self, BootstrapConfig, BootstrapError};
use crate::cache::Feed;
use crate::connect::kubelet::Kubelets;
use crate::encryption::{EncryptionError, Sealed};
use crate::flowcontrol::FlowControl;
use crate::identity::{self, Identity};
use crate::local::{OwnClient, OwnPart};
use crate::objects::Objects;
use crate::registry::Registry;
use crate::special::services::{Allocator, Cidr};
use crate::storage_versions::{self, StorageVersions};
use crate::tokens::{KeyError, ServiceAccountTokens};
use ferrokube_api::features::API_SERVER_IDENTITY;
use ferrokube_api::kinds;
use ferrokube_store::Store;
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the store cannot be read: {0}")]
    Store(#[from] ferrokube_store::Error),
    #[error("service-account key: {0}")]
    Keys(#[from] KeyError),
    #[error("authentication: {0}")]
    Authn(#[from] AuthnConfigError),
    #[error("admission: {0}")]
    Admission(#[from] AdmissionConfigError),
    #[error("authorization: {0}")]
    Authz(#[from] AuthzConfigError),
    #[error(transparent)]
    Serving(#[from] ServingError),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("{0:?} is not an address range")]
    ServiceCidr(String),
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
}

/// A running server. Dropping it stops it without waiting.
pub struct Running {
    /// The server, for callers of this process.
    pub server: Arc<ApiServer>,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    serving: Option<JoinHandle<()>>,
    background: Vec<JoinHandle<()>>,
}

impl Running {
    /// Says that it is not ready, waits, lets requests finish, ends watches, and resolves when everything has stopped.
    pub fn stop(self) -> BoxFuture<'static, ()> {
        // Boxed here: an `async fn` would be compiled again in every program that awaits it.
        Box::pin(self.wind_down())
    }

    async fn wind_down(mut self) {
        self.server.health.leaving.store(true, Ordering::Relaxed);
        let times = &self.server.serving.config;
        if !times.shutdown_delay.is_zero() {
            tokio::time::sleep(times.shutdown_delay).await;
        }
        self.server.draining.cancel();
        if let (false, Some(serving)) = (times.watch_grace.is_zero(), self.serving.as_mut())
            && tokio::time::timeout(times.watch_grace, serving).await.is_ok()
        {
            self.serving = None;
        }
        self.server.end_streams();
        if let Some(serving) = self.serving.take() {
            let _ = serving.await;
        }
        for task in std::mem::take(&mut self.background) {
            task.abort();
            let _ = task.await;
        }
        self.server.feed.stop().await;
        if let Some(audit) = &self.server.audit {
            audit.stop().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.server.draining.cancel();
        self.server.end_streams();
        self.background.iter().chain(&self.serving).for_each(JoinHandle::abort);
    }
}

impl ApiServer {
    /// An end to all that would go on by itself.
    fn end_streams(&self) {
        self.stopping.cancel();
        // Only after the token: a watch that begins now sees it, one that began before is in a cache.
        self.caches.end_watches();
    }

    /// Starts a server. Resolves when it serves and the bootstrap objects are there.
    pub fn start(config: Config) -> BoxFuture<'static, Result<Running, StartError>> {
        // Boxed here: an `async fn` would be compiled again in every program that awaits it.
        Box::pin(Self::come_up(config))
    }

    async fn come_up(config: Config) -> Result<Running, StartError> {
        let listener = match config.listen {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|source| StartError::Listen { address, source })?),
            None => None,
        };
        let marks = [&config.authn.file, &config.authz.file, &config.encryption].map(|file| file.as_ref().map(ConfigFile::mark));
        let [authn_mark, authz_mark, encryption_mark] = marks;
        let bound = listener.as_ref().and_then(|l| l.local_addr().ok());
        for (kind, feature) in kinds::in_vain(&config.features, &config.runtime_config) {
            tracing::warn!("{} is switched on but not served: the feature {feature} is off", kind.api_version());
        }
        let registry = Registry::serving(kinds::served(&config.features, &config.runtime_config));
        let rows = registry.table().entries().iter().map(|e| e.kind.clone()).collect::<Vec<_>>();
        let sealed = match &config.encryption {
            Some(source) => Some(Sealed::open(source, config.store.clone(), &registry).await?),
            None => None,
        };
        let store = sealed.clone().map_or(config.store.clone(), |sealed| sealed as Arc<dyn Store>);
        let (caches, feed) = Feed::start(store.clone(), rows).await?;
        let objects: Arc<dyn Objects> = caches.clone();
        let tokens = Arc::new(ServiceAccountTokens::new(config.tokens.clone())?);
        let authenticator = Authenticator::new(config.authn.clone(), tokens, objects.clone())?;
        let authorizer = Arc::new(Authorizer::with(objects.clone(), &config.authz)?);
        let admission = Admission::new(objects.clone(), authorizer.clone(), &config.admission)?;
        let parse = |text: &String| Cidr::parse(text).ok_or_else(|| StartError::ServiceCidr(text.clone()));
        let ranges = config.service_cidrs.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let services = objects.list("", "services", "");
        let front = config.front_proxy().map_or_else(String::new, |f| f.ca);
        let terms = || Terms::new(&config.tls, &config.named_certificates, &[&config.authn.client_ca, &front], config.serving.clone());
        let terms = listener.as_ref().map(|_| terms()).transpose()?;
        let kubelets = config.kubelet.as_ref().map(Kubelets::new).transpose()?.map(Arc::new);
        let seats = config.max_reading + config.max_mutating;
        let flow = (config.priority_and_fairness && seats > 0).then(|| Arc::new(FlowControl::new(seats, config.request_timeout)));
        let server = Arc::new(ApiServer {
            store: store.clone(),
            storage_versions: StorageVersions::of(&config.features, &registry.table()),
            sealed: sealed.clone(),
            caches,
            feed,
            registry,
            authenticator,
            authorizer: authorizer.clone(),
            admission,
            services: Arc::new(Allocator::new(ranges.clone(), config.node_ports.clone(), &services)),
            reloads: Default::default(),
            serving: Serving::new(config.serving.clone())?,
            audit: config.audit.as_ref().map(Audit::start).transpose()?.flatten(),
            limits: if flow.is_some() { Limits::new(0, 0) } else { Limits::new(config.max_reading, config.max_mutating) },
            flow: flow.clone(),
            components: Default::default(),
            metrics: Metrics::of(config.features.clone()),
            flags: super::zpages::flags(&config),
            health: Health::default(),
            kubelets: kubelets.into(),
            terms,
            facts: OnceLock::new(),
            external: OnceLock::new(),
            request_timeout: config.request_timeout,
            event_ttl: config.event_ttl,
            jwks_uri: config.jwks_uri.clone(),
            aggregator: Aggregator::new(config.proxy_client.as_ref())?,
            documents: crate::discovery::Documents::default(),
            draining: CancellationToken::new(),
            stopping: CancellationToken::new(),
        });
        let port = config.advertise_port.or(bound.map(|b| b.port())).unwrap_or(6443);
        let host = if config.external_host.is_empty() {
            SocketAddr::new(config.advertise, port).to_string()
        } else {
            config.external_host.clone()
        };
        let _ = server.external.set(host);
        let mut background = crate::crd::start(&server).await;
        if let (true, Some(sealed)) = (config.encryption_rewrite, sealed.clone()) {
            background.push(tokio::spawn(async move {
                match sealed.rewrite().await {
                    Ok(0) => {}
                    Ok(values) => tracing::info!(values, "values encrypted anew"),
                    Err(error) => tracing::error!(%error, "not all values could be encrypted anew"),
                }
            }));
        }
        if let (Some(sealed), Some(source), Some(mark)) = (sealed, config.encryption.clone(), encryption_mark) {
            background.push(tokio::spawn(sealed.follow(source, mark, Arc::downgrade(&server))));
        }
        if !config.compaction.is_zero() {
            let caches = server.caches.clone();
            let forgotten = move |revision| caches.forget_before(revision);
            background.push(tokio::spawn(crate::compactor::run(store, config.compaction, forgotten)));
        }
        let drain = config.drain + config.serving.watch_grace;
        let serving = listener.map(|listener| tokio::spawn(http::serve(server.clone(), listener, drain)));
        let own = Arc::new(OwnClient(server.clone()));
        server.admission.write_through(Arc::new(OwnPart(Arc::downgrade(&server))));
        let facts = BootstrapConfig {
            service_cidrs: config.service_cidrs.clone(),
            service_ip: ranges.first().map_or(config.advertise, |r| r.nth(0)),
            advertise: config.advertise,
            port,
            client_ca: config.authn.client_ca.clone(),
            front_proxy: config.front_proxy(),
            served: served(&server),
            features: config.features.clone(),
        };
        let mut running = Running { server: server.clone(), address: bound, serving, background: Vec::new() };
        let written = bootstrap::run(&*objects, &*own, &facts).await?;
        server.health.bootstrapped.store(true, Ordering::Relaxed);
        tracing::info!(address = ?bound, written, "the API server is ready");
        if let Some(flow) = flow {
            background.push(tokio::spawn(flow.run(objects.clone(), own.clone())));
        }
        if let (Some(file), Some(mark)) = (config.authz.file.clone(), authz_mark) {
            let (authorizer, authz) = (authorizer.clone(), config.authz.clone());
            background.push(tokio::spawn(file.follow(mark, "authorization", server.reloads[1].clone(), move || authorizer.reload(&authz))));
        }
        if let (Some(file), Some(mark)) = (config.authn.file.clone(), authn_mark) {
            let reloads = server.reloads[0].clone();
            let (server, authn) = (Arc::downgrade(&server), config.authn.clone());
            let apply = move || server.upgrade().map_or(Ok(()), |server| server.authenticator.reload(&authn));
            background.push(tokio::spawn(file.follow(mark, "authentication", reloads, apply)));
        }
        background.push(aggregate::start(&server));
        background.push(tokio::spawn(crate::authn::legacy::follow(server.clone())));
        if config.features.has(API_SERVER_IDENTITY) {
            let identity = Identity::new(&config.hostname, SocketAddr::new(config.advertise, port));
            let (has, held) = watch::channel(false);
            if server.storage_versions.is_some() {
                background.push(tokio::spawn(storage_versions::keep(server.clone(), own.clone(), identity.id.clone(), held)));
            }
            background.push(tokio::spawn(identity::keep(objects.clone(), own.clone(), identity, has)));
        }
        let (facts, followed) = watch::channel(facts);
        let _ = server.facts.set(facts);
        background.push(tokio::spawn(bootstrap::keep(objects, own, followed)));
        background.push(tokio::spawn(crate::special::services::follow_ports(server.clone())));
        background.push(tokio::spawn(crate::special::services::repair(server)));
        running.background = background;
        Ok(running)
    }
}

fn served(server: &ApiServer) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    // The group of APIServices itself is the aggregator's: there is no APIService for it.
    for entry in server.registry.table().entries().iter().filter(|e| e.custom.is_none() && *e.kind.group != *aggregate::GROUP) {
        let pair = (entry.kind.group.to_string(), entry.kind.version.to_string());
        if !out.contains(&pair) {
            out.push(pair);
        }
    }
    out
}
