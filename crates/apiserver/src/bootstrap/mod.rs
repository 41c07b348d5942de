//! What must exist in every cluster: reconciled at each start, and only what differs is written.
//!
//! The wanted objects are compared with the caches; what is missing or differs is written concurrently through the
//! loopback client, so that the store commits them in a few groups. Nothing here may overwrite what an administrator
//! changed on purpose: objects are completed, and those that say so in their `autoupdate` annotation are left alone.

mod plan;
mod policy;
mod roles;
mod system;
mod trust;

use crate::authn::RequestHeaders;
use crate::objects::{Loopback, Objects};
use ferrokube_api::features::Features;
use ferrokube_api::{Reason, Status};
use futures_util::future::join_all;
use plan::{Step, Wanted};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often system namespaces and `default/kubernetes` are looked at again, as in the Go server.
const RESYNC: Duration = Duration::from_secs(10);

/// Facts of this cluster that its bootstrap objects carry.
#[derive(Clone, Debug)]
pub struct BootstrapConfig {
    /// Address ranges of services, one or two: `10.96.0.0/12`.
    pub service_cidrs: Vec<String>,
    /// The first address of the first range: that of Service `default/kubernetes`.
    pub service_ip: IpAddr,
    /// Address at which this API server is reached from pods. A loopback address is not published.
    pub advertise: IpAddr,
    /// Its port.
    pub port: u16,
    /// PEM of the client CA, published in ConfigMap `kube-system/extension-apiserver-authentication`.
    pub client_ca: String,
    /// The front proxy, published likewise.
    pub front_proxy: Option<RequestHeaders>,
    /// Group and version of everything served by this server, for APIService objects.
    pub served: Vec<(String, String)>,
    /// Which features there are: some controllers have roles only with theirs.
    pub features: Features,
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
///
/// Three rounds, because objects need their namespace and a status needs its object; each round is one concurrent burst.
pub async fn run(objects: &dyn Objects, loopback: &dyn Loopback, config: &BootstrapConfig) -> Result<usize, BootstrapError> {
    let mut first = system::cluster_scoped(config);
    let mut second = system::namespaced(config);
    for wanted in policy::wanted(&config.features) {
        if wanted.target.namespace.is_empty() { first.push(wanted) } else { second.push(wanted) }
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut written = round(objects, loopback, &first).await?;
    for left_over in system::left_over(objects, config) {
        let what = format!("{} {:?}", left_over.resource, left_over.name);
        match loopback.delete(left_over).await {
            Ok(()) => written += 1,
            Err(status) if status.is(Reason::NotFound) => {}
            Err(status) => return Err(BootstrapError { what, status }),
        }
    }
    if written > 0 {
        objects.catch_up("", "namespaces").await;
    }
    second.extend(system::statuses(config, &now));
    written += round(objects, loopback, &second).await?;
    if written > 0 {
        objects.catch_up("", "services").await;
    }
    Ok(written)
}

async fn round(objects: &dyn Objects, loopback: &dyn Loopback, wanted: &[Wanted]) -> Result<usize, BootstrapError> {
    write_all(loopback, wanted.iter().filter_map(|w| w.step(objects)).collect()).await
}

/// Writes concurrently. Losing against another server that bootstraps the same cluster is fine: it wrote the same.
async fn write_all(loopback: &dyn Loopback, steps: Vec<Step>) -> Result<usize, BootstrapError> {
    let write = async |step: Step| {
        let what = format!("{} {:?}", step.target.resource, step.target.name);
        let wrote =
            if step.create { loopback.create(step.target, step.object).await } else { loopback.update(step.target, step.object).await };
        match wrote {
            Ok(_) => Ok(1),
            Err(status) if status.is(Reason::AlreadyExists) || status.is(Reason::Conflict) => Ok(0),
            Err(status) => Err(BootstrapError { what, status }),
        }
    };
    let results = join_all(steps.into_iter().map(write)).await;
    results.into_iter().try_fold(0, |sum, result| Ok(sum + result?))
}

/// Keeps what may be deleted while the server runs: system namespaces, Service and endpoints of `default/kubernetes`.
/// Never returns.
pub async fn keep(objects: Arc<dyn Objects>, loopback: Arc<dyn Loopback>, mut facts: watch::Receiver<BootstrapConfig>) {
    let mut tick = tokio::time::interval(RESYNC);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // An error means that the server is gone, and this with it.
            Ok(()) = facts.changed() => {}
        }
        let config = facts.borrow_and_update().clone();
        for wanted in [system::namespaces(), system::namespaced(&config)] {
            if let Err(error) = round(&*objects, &*loopback, &wanted).await {
                tracing::warn!(%error, "a system object is not up to date");
            }
        }
    }
}

#[cfg(test)]
mod tests;
