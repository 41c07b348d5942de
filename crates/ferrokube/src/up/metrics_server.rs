//! Usage of nodes and pods (`metrics.k8s.io`) beside the node part, or its registration taken back.
//!
//! Nothing waits for it: who asks too early is told that it is not there yet. Must never hold up the start of a cluster.

use super::supervise::supervise;
use super::{Plan, addons};
use crate::{flags, wire};
use anyhow::{Context, Result};
use ferrokube_apiserver::ApiServer;
use ferrokube_client::{Caches, Client};
use ferrokube_metrics::{Config, Registration, Server, register, role, withdraw};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinHandle;

fn admin(server: &Arc<ApiServer>) -> Client {
    wire::client(server, "kubernetes-admin", &[crate::pki::ADMIN_GROUP], "ferrokube")
}

/// Serves at the node's address, at any free port.
pub fn start(plan: &Plan, server: &Arc<ApiServer>) -> Result<JoinHandle<()>> {
    let front_proxy_ca = match plan.options.apiserver.front_proxy_ca() {
        Some(path) => flags::read(&path)?,
        None => plan.pki.front_proxy_ca().to_owned(),
    };
    let config = Config { listen: SocketAddr::new(plan.node_ip, 0), front_proxy_ca };
    let client = wire::account_client(server, role::ACCOUNT, role::ACCOUNT);
    let (admin, node_name) = (admin(server), plan.node_name.clone());
    Ok(supervise("metrics-server", move || {
        let (config, client, admin, node_name) = (config.clone(), client.clone(), admin.clone(), node_name.clone());
        async move {
            if let Err(e) = serve(config, client, admin, node_name).await {
                tracing::warn!("the metrics server does not run: {e:#}");
            }
        }
    }))
}

async fn serve(config: Config, client: Client, admin: Client, node_name: String) -> Result<()> {
    addons::metrics_roles(&admin).await.context("cannot write its roles")?;
    let server = Server::start(config, client).await?;
    let registration = Registration { server: server.address(), certificate: server.certificate().to_owned(), node_name };
    let caches = Caches::new(admin.clone());
    tokio::select! {
        () = server.run() => {}
        () = register(admin, &caches, registration) => {}
    }
    Ok(())
}

/// An APIService that leads nowhere would make discovery incomplete, for ever.
pub fn take_back(server: &Arc<ApiServer>) {
    let admin = admin(server);
    tokio::spawn(async move {
        if let Err(e) = withdraw(&admin).await {
            tracing::warn!("what an earlier metrics server registered is still there: {e}");
        }
    });
}
