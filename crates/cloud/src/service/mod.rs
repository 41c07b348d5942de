//! Load balancers of Services.
//!
//! Reads Services and nodes; owns the finalizer `service.kubernetes.io/load-balancer-cleanup` and `status.loadBalancer`
//! of Services of type LoadBalancer without a class. A Service is not let go before its load balancer is removed.
//! Source: `k8s.io/cloud-provider/controllers/service`.

mod plan;

use crate::Context;
use crate::nodes::takes_traffic;
use crate::provider::{Error as ProviderError, LoadBalancers};
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::Desc;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, Object, ObjectKey, Optional, Patch};
use k8s_openapi::api::core::v1::{LoadBalancerStatus, Node, Service};
use parking_lot::Mutex;
use plan::{Asked, FINALIZER, Step, has_finalizer, plan, seen};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// `--concurrent-service-syncs`.
const WORKERS: usize = 1;
/// Back-off of a load balancer that fails (`minRetryDelay`, `maxRetryDelay`).
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Names of nodes in one event.
const MOST_NAMES: usize = 20;
const NO_NODES: &str = "There are no available nodes for LoadBalancer";
/// 1 s doubling.
const SECONDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

static SYNCS: Desc = Desc::counter(
    "service_controller_loadbalancer_sync_total",
    "[ALPHA] A metric counting the amount of times any load balancer has been configured, as an effect of service/node changes on the cluster",
    &[],
);
static NODE_ERRORS: Desc = Desc::counter(
    "service_controller_nodesync_error_total",
    "[ALPHA] A metric counting the amount of times any load balancer has been configured and errored, as an effect of node changes on the cluster",
    &[],
);
static NODES_IN: Desc = Desc::histogram(
    "service_controller_nodesync_latency_seconds",
    "[ALPHA] A metric measuring the latency for nodesync which updates loadbalancer hosts on cluster node updates.",
    SECONDS,
    &[],
);
static HOSTS_IN: Desc = Desc::histogram(
    "service_controller_update_loadbalancer_host_latency_seconds",
    "[ALPHA] A metric measuring the latency for updating each load balancer hosts.",
    SECONDS,
    &[],
);

#[derive(Default)]
struct Known {
    asked: Option<Asked>,
    failures: u32,
}

struct Balancers {
    context: Context,
    services: Cache<Service>,
    nodes: Cache<Node>,
    known: Mutex<HashMap<ObjectKey, Known>>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let services: Cache<Service> = context.caches.of();
    let nodes: Cache<Node> = context.caches.of();
    let queue: Queue<ObjectKey> = Queue::new();
    let balanced = services.index(|o| if may_balance(o) { vec![String::new()] } else { Vec::new() });
    let (add, all) = (queue.clone(), balanced.clone());
    services.on_change(move |d| {
        add.add(d.key().clone());
        // What one service gives back another may be waiting for.
        if d.new.is_none_or(|o| !may_balance(o)) && d.old.is_some_and(|o| may_balance(o)) {
            all.get("").iter().for_each(|o| add.add(o.key.clone()));
        }
    });
    let add = queue.clone();
    nodes.on_change(move |d| {
        let services = balanced.get("");
        // Nodes speak up all the time, and every look at a service is a look at all of them.
        let seen = |side: Option<&Arc<Object>>| side.and_then(|o| seen(&decoded(o)?));
        if !services.is_empty() && seen(d.old) != seen(d.new) {
            services.iter().for_each(|o| add.add(o.key.clone()));
        }
    });
    tokio::join!(services.synced(), nodes.synced());
    let balancers = Balancers { context, services, nodes, known: Mutex::default() };
    controller::run::<_, Error, _, _>("service-lb", queue, WORKERS, |key: ObjectKey| balancers.sync(key)).await;
}

/// Names of nodes, sorted, and how many more there are.
fn shown(nodes: &[Node]) -> String {
    let mut names: Vec<String> = nodes.iter().take(MOST_NAMES).map(|n| n.name().to_owned()).collect();
    names.sort();
    if nodes.len() > MOST_NAMES {
        names.push(format!("<{} more>", nodes.len() - MOST_NAMES));
    }
    names.join(" ")
}

/// Most services have no load balancer: they are not decoded.
fn may_balance(object: &Object) -> bool {
    let says = |word: &[u8]| object.mentions(word);
    says(b"\"LoadBalancer\"") || says(FINALIZER.as_bytes())
}

impl Balancers {
    async fn sync(&self, key: ObjectKey) -> Result<Next, Error> {
        let service = self.services.object(&key.namespace, &key.name).filter(|o| may_balance(o));
        let Some(service) = service.and_then(|_| self.services.get(&key.namespace, &key.name)) else {
            self.known.lock().remove(&key);
            return Ok(Next::Wait);
        };
        let provider = self.context.provider.clone();
        let Some(balancers) = provider.load_balancers() else { return Ok(Next::Wait) };
        let nodes = self.nodes.list();
        let step = plan(&service, &nodes, self.known.lock().get(&key).and_then(|k| k.asked.as_ref()));
        match step {
            Step::Nothing => Ok(Next::Wait),
            Step::Remove => self.remove(&key, &service, balancers).await,
            Step::Ensure(asked) => self.ensure(&key, service, &nodes, balancers, asked).await,
            Step::Update(asked) => self.update(&key, &service, &nodes, balancers, asked).await,
        }
    }

    fn note(&self, service: &Service, kind: EventType, reason: &str, message: impl Into<String>) {
        self.context.recorder.about(service, kind, reason, message);
    }

    async fn ensure(
        &self,
        key: &ObjectKey,
        mut service: Service,
        nodes: &[Node],
        balancers: &dyn LoadBalancers,
        asked: Asked,
    ) -> Result<Next, Error> {
        self.note(&service, EventType::Normal, "EnsuringLoadBalancer", "Ensuring load balancer");
        // The finalizer first: what is made is never forgotten.
        if !has_finalizer(&service) {
            let Some(changed) = self.finalizers(&service, true).await? else { return Ok(Next::Wait) };
            service = changed;
        }
        let usable: Vec<Node> = nodes.iter().filter(|n| takes_traffic(n)).cloned().collect();
        if usable.is_empty() {
            self.note(&service, EventType::Warning, "UnAvailableLoadBalancer", NO_NODES);
        }
        self.context.metrics.count(&SYNCS, &[]);
        match balancers.ensure(&service, &usable).await {
            Ok(status) => {
                self.note(&service, EventType::Normal, "EnsuredLoadBalancer", "Ensured load balancer");
                self.publish(&service, &status).await?;
                self.done(key, asked);
                Ok(Next::Wait)
            }
            Err(e) => Ok(self.failed(key, &service, "ensure", &e)),
        }
    }

    async fn update(
        &self,
        key: &ObjectKey,
        service: &Service,
        nodes: &[Node],
        balancers: &dyn LoadBalancers,
        asked: Asked,
    ) -> Result<Next, Error> {
        let usable: Vec<Node> = nodes.iter().filter(|n| takes_traffic(n)).cloned().collect();
        let measures = &self.context.metrics;
        measures.count(&SYNCS, &[]);
        let begun = Instant::now();
        let done = balancers.ensure(service, &usable).await;
        let took = begun.elapsed().as_secs_f64();
        [&HOSTS_IN, &NODES_IN].iter().for_each(|desc| measures.series(desc, &[]).observe(took));
        match done {
            Ok(status) => {
                self.publish(service, &status).await?;
                self.done(key, asked);
                if usable.is_empty() {
                    self.note(service, EventType::Warning, "UnAvailableLoadBalancer", NO_NODES);
                } else {
                    self.note(service, EventType::Normal, "UpdatedLoadBalancer", "Updated load balancer with new hosts");
                }
                Ok(Next::Wait)
            }
            Err(e) => {
                measures.count(&NODE_ERRORS, &[]);
                let (names, all) = (shown(&usable), usable.len());
                let message = format!(
                    "Error updating load balancer with new hosts [{names}] [node names limited, total number of nodes: {all}], error: {e}"
                );
                self.note(service, EventType::Warning, "UpdateLoadBalancerFailed", message);
                Ok(Next::After(self.delay(key)))
            }
        }
    }

    async fn remove(&self, key: &ObjectKey, service: &Service, balancers: &dyn LoadBalancers) -> Result<Next, Error> {
        self.note(service, EventType::Normal, "DeletingLoadBalancer", "Deleting load balancer");
        if let Err(e) = balancers.delete(service).await {
            return Ok(self.failed(key, service, "delete", &e));
        }
        self.publish(service, &LoadBalancerStatus::default()).await?;
        self.finalizers(service, false).await?;
        self.known.lock().remove(key);
        self.note(service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(Next::Wait)
    }

    fn done(&self, key: &ObjectKey, asked: Asked) {
        self.known.lock().insert(key.clone(), Known { asked: Some(asked), failures: 0 });
    }

    fn failed(&self, key: &ObjectKey, service: &Service, what: &str, error: &ProviderError) -> Next {
        let message = format!("Error syncing load balancer: failed to {what} load balancer: {error}");
        self.note(service, EventType::Warning, "SyncLoadBalancerFailed", message);
        Next::After(self.delay(key))
    }

    /// What was asked does not hold any more; when to ask again.
    fn delay(&self, key: &ObjectKey) -> Duration {
        let mut known = self.known.lock();
        let known = known.entry(key.clone()).or_default();
        known.asked = None;
        let delay = FIRST_RETRY.saturating_mul(1 << known.failures.min(8)).min(LONGEST_RETRY);
        known.failures += 1;
        delay
    }

    /// Adds or removes the finalizer; `None` when the service is gone.
    async fn finalizers(&self, service: &Service, add: bool) -> Result<Option<Service>, Error> {
        let mut list = service.metadata.finalizers.clone().unwrap_or_default();
        list.retain(|f| f != FINALIZER);
        if add {
            list.push(FINALIZER.to_owned());
        }
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": service.metadata.resource_version, "finalizers": list}}));
        self.context.client.patch::<Service>(service.namespace(), service.name(), &patch).await.optional()
    }

    async fn publish(&self, service: &Service, status: &LoadBalancerStatus) -> Result<(), Error> {
        let known = service.status.as_ref().and_then(|s| s.load_balancer.clone()).unwrap_or_default();
        if known.ingress.as_deref().unwrap_or_default() == status.ingress.as_deref().unwrap_or_default() {
            return Ok(());
        }
        let patch = Patch::Merge(json!({"status": {"loadBalancer": {"ingress": status.ingress}}}));
        self.context.client.patch_status::<Service>(service.namespace(), service.name(), &patch).await.optional().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    #[test]
    fn an_event_names_twenty_nodes_and_counts_the_others() {
        let node = |i: usize| Node { metadata: ObjectMeta { name: Some(format!("n{i:02}")), ..ObjectMeta::default() }, ..Node::default() };
        let nodes: Vec<Node> = (0..23).map(node).rev().collect();
        assert_eq!(shown(&nodes[20..]), "n00 n01 n02");
        let text = shown(&nodes);
        assert!(text.starts_with("n03 n04") && text.ends_with("n22 <3 more>"), "{text}");
    }
}
