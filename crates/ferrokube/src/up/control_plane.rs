//! The control plane in this process: store, API server, controllers, scheduler, cloud-controller-manager.

use super::apiserver::Material;
use super::progress::Progress;
use super::supervise::{supervise, supervise_openly};
use super::{Plan, addons, server_url};
use crate::{controller_manager, wire};
use anyhow::{Context, Result};
use ferrokube_apiserver::ApiServer;
use ferrokube_apiserver::server::{Config, Running};
use ferrokube_apiserver::tokens::Signer;
use ferrokube_client::{Caches, Client};
use ferrokube_cloud::bare_metal::BareMetal;
use ferrokube_controllers::{NodeCidrs, Signing};
use ferrokube_scheduler::config::Configuration;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The running control plane.
pub struct ControlPlane {
    running: Running,
    address: SocketAddr,
    parts: Vec<JoinHandle<()>>,
}

impl ControlPlane {
    /// Where the API server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API server.
    pub fn server(&self) -> &Arc<ApiServer> {
        &self.running.server
    }

    /// Supervised parts never end by themselves.
    pub async fn failed(&mut self) -> String {
        std::future::pending().await
    }

    /// Stops everything; the data stays.
    pub async fn stop(self) {
        self.parts.iter().for_each(JoinHandle::abort);
        self.running.stop().await;
    }
}

/// Starts the control plane; returns when the API server is ready.
pub async fn start(plan: &Plan, progress: &Progress) -> Result<ControlPlane> {
    let configuration = crate::scheduler::configuration(plan.options.scheduler_config.as_deref())?;
    let began = Instant::now();
    let store = plan.options.etcd.open(&plan.layout.store()).await?;
    progress.done("store", began, &plan.options.etcd.spoken());
    let began = Instant::now();
    let running = ApiServer::start(config(plan, store)?).await?;
    let address = running.address.context("the API server listens nowhere")?;
    progress.done("API server", began, &server_url(address));
    let began = Instant::now();
    let mut parts = vec![controllers(plan, &running.server)?, scheduler(&running.server, configuration)];
    parts.extend(cloud(plan, &running.server));
    progress.done("controllers, scheduler", began, "");
    Ok(ControlPlane { running, address, parts })
}

fn config(plan: &Plan, store: Arc<dyn ferrokube_store::Store>) -> Result<Config> {
    let options = &plan.options;
    let issuer = format!("https://kubernetes.default.svc.{}", options.cluster_domain);
    let mut config = Config {
        listen: Some(options.listen()),
        service_cidrs: vec![options.service_cidr.to_string()],
        advertise: plan.node_ip,
        ..Material::of(&plan.pki).config(store, issuer)
    };
    options.apiserver.apply(&mut config, &plan.layout.pki())?;
    Ok(config)
}

fn manager(server: &Arc<ApiServer>) -> Client {
    wire::client(server, "system:kube-controller-manager", &[], "kube-controller-manager")
}

fn controllers(plan: &Plan, server: &Arc<ApiServer>) -> Result<JoinHandle<()>> {
    let signer = Signer::new(&plan.pki.service_account_key).context("the key of service-account tokens")?;
    let own = server.clone();
    let client_for = Arc::new(move |account: &str| wire::account_client(&own, account, &controller_manager::agent(account)));
    let config = ferrokube_controllers::Config {
        controllers: plan.options.controllers.clone(),
        root_ca: plan.pki.ca().to_owned(),
        signing: signing(plan)?,
        sign_token: Some(Arc::new(move |claims| Some(signer.sign(claims)))),
        node_cidrs: Some(node_cidrs(plan)),
        features: plan.options.apiserver.features(),
        ..ferrokube_controllers::Config::new(Caches::new(manager(server)), client_for)
    };
    let metrics = config.metrics.clone();
    server.serve_metrics_of(move |out| metrics.write(out));
    Ok(supervise_openly("controller-manager", shown(server, "controller-manager"), move || ferrokube_controllers::run(config.clone())))
}

/// A flag that ComponentStatus shows as the health of a component.
fn shown(server: &Arc<ApiServer>, name: &'static str) -> Arc<AtomicBool> {
    let runs = Arc::new(AtomicBool::new(false));
    let seen = runs.clone();
    server.serve_health_of(name, move || if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("it is being started again".to_owned()) });
    runs
}

/// The cluster's CA signs certificate requests, for a year as with kube-controller-manager. A CA whose key was taken away
/// signs nothing.
fn signing(plan: &Plan) -> Result<Option<Signing>> {
    let key = plan.pki.ca_key().context("the key of the CA")?;
    Ok(key.map(|key| Signing { certificate: plan.pki.ca().to_owned(), key, duration: Duration::from_secs(365 * 24 * 3600) }))
}

fn node_cidrs(plan: &Plan) -> NodeCidrs {
    let options = &plan.options;
    NodeCidrs {
        cluster: vec![options.pod_cidr.to_string()],
        services: vec![options.service_cidr.to_string()],
        mask_ipv4: options.pod_cidr.prefix().max(super::node::MEMBER_CIDR),
        mask_ipv6: 64,
    }
}

/// Addresses for Services of type LoadBalancer, unless somebody else gives them.
fn cloud(plan: &Plan, server: &Arc<ApiServer>) -> Option<JoinHandle<()>> {
    let addresses = plan.options.load_balancers.addresses(plan.options.own_ports())?;
    let server = server.clone();
    let registry = ferrokube_client::metrics::Metrics::default();
    let counted = registry.clone();
    server.serve_metrics_of(move |out| counted.write(out));
    let part = supervise("cloud-controller-manager", move || {
        let admin = wire::client(&server, "kubernetes-admin", &[crate::pki::ADMIN_GROUP], "ferrokube");
        let client = wire::account_client(&server, ferrokube_cloud::role::ACCOUNT, ferrokube_cloud::role::ACCOUNT);
        let caches = Caches::new(client.clone());
        let provider = Arc::new(BareMetal::new(addresses.clone(), &caches));
        let config = ferrokube_cloud::Config {
            caches,
            client,
            provider,
            cluster_name: "kubernetes".to_owned(),
            metrics: registry.clone(),
            controllers: vec!["*".to_owned()],
        };
        async move {
            match addons::cloud_role(&admin).await {
                Ok(()) => ferrokube_cloud::run(config).await,
                Err(e) => tracing::warn!("the role of the cloud-controller-manager cannot be written: {e}"),
            }
        }
    });
    Some(part)
}

fn scheduler(server: &Arc<ApiServer>, configuration: Configuration) -> JoinHandle<()> {
    let server = server.clone();
    let registry = ferrokube_client::metrics::Metrics::default();
    let counted = registry.clone();
    server.serve_metrics_of(move |out| counted.write(out));
    let metrics = ferrokube_scheduler::metrics::Metrics::new(registry);
    // The only scheduler of this process has nobody to be elected among.
    let config = ferrokube_scheduler::Config { configuration, metrics, seed: None, identity: None };
    supervise_openly("scheduler", shown(&server, "scheduler"), move || {
        let client = wire::client(&server, "system:kube-scheduler", &[], "kube-scheduler");
        ferrokube_scheduler::run(client, config.clone())
    })
}
