//! The task that owns the kernel's table.
//!
//! Inputs: changes of Services, EndpointSlices and our own Node, noted as keys by the shared caches. A change is applied
//! at once when it comes alone; under churn the table changes at most every [`MIN_INTERVAL`]. Only the services that
//! changed are planned again, and only what differs is sent. When the kernel refuses (somebody changed our table), the
//! next attempt replaces the whole table.
//!
//! Must never: apply a plan made before the caches were complete (it would cut off services that exist).

use super::health::{Health, HealthPorts};
use super::plan::{self, Fragment, Settings, UdpFlows};
use super::service::{NodeFacts, SERVICE_NAME_LABEL};
use super::{Config, TABLE};
use crate::conntrack::{self, End, Flow};
use crate::netlink::{self, route::Route};
use crate::nft::{Nft, RuleSet, Transaction, diff};
use ferrokube_client::cache::decoded;
use ferrokube_client::k8s_openapi::api::core::v1::{Node, Service};
use ferrokube_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use ferrokube_client::{Cache, Caches, Index, Object, ObjectKey, Selection};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Under churn the table changes at most this often.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What has changed since the last look.
#[derive(Default)]
struct Noted {
    services: HashSet<ObjectKey>,
    node: bool,
}

#[derive(Default)]
struct Dirty {
    noted: Mutex<Noted>,
    wake: Notify,
}

impl Dirty {
    fn note(&self, change: impl FnOnce(&mut Noted)) {
        change(&mut self.noted.lock());
        self.wake.notify_one();
    }

    fn take(&self) -> Noted {
        std::mem::take(&mut self.noted.lock())
    }
}

/// Runs the proxy until the task is dropped; its rules stay.
///
/// # Errors
/// The health check address cannot be bound. Trouble with the kernel is logged and tried again.
pub fn run(caches: &Caches, config: Config) -> BoxFuture<'_, std::io::Result<()>> {
    // Boxed here: an `async fn` would be compiled again in every program that awaits it.
    Box::pin(keep(caches, config))
}

async fn keep(caches: &Caches, config: Config) -> std::io::Result<()> {
    let health = Health::default();
    if let Some(address) = config.healthz {
        health.serve(address).await?;
    }
    let mut proxy = Proxy::new(caches, config, health);
    proxy.services.synced().await;
    proxy.slices.synced().await;
    proxy.nodes.synced().await;
    let mut retry: Option<Duration> = None;
    loop {
        match retry {
            None => proxy.dirty.wake.notified().await,
            Some(delay) => {
                let _ = tokio::time::timeout(delay, proxy.dirty.wake.notified()).await;
            }
        }
        tokio::time::sleep_until(proxy.last_sync + MIN_INTERVAL).await;
        proxy.replan();
        retry = match proxy.sync().await {
            Ok(()) => None,
            Err(e) => {
                tracing::error!("service proxy cannot change the kernel's rules, will try again: {e}");
                Some(retry.map_or(FIRST_RETRY, |d| (d * 2).min(LAST_RETRY)))
            }
        };
    }
}

/// The state of the task.
struct Proxy {
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    nodes: Cache<Node>,
    slices_of: Arc<Index>,
    dirty: Arc<Dirty>,
    node_name: String,
    settings: Settings,
    node: NodeFacts,
    fragments: BTreeMap<ObjectKey, Arc<Fragment>>,
    /// What the kernel holds; `None` when unknown.
    applied: Option<Arc<RuleSet>>,
    /// UDP destinations whose connection entries have not been checked since they changed.
    udp_changed: bool,
    /// UDP destinations that no longer exist, to be forgotten once.
    udp_gone: UdpFlows,
    last_sync: Instant,
    health: Health,
    health_ports: HealthPorts,
}

impl Proxy {
    fn new(caches: &Caches, config: Config, health: Health) -> Self {
        let services: Cache<Service> = caches.of();
        let slices: Cache<EndpointSlice> = caches.of();
        let own = Selection { fields: field_selector(&config.node_name), ..Selection::default() };
        let nodes: Cache<Node> = caches.select(own);
        let dirty = Arc::new(Dirty::default());
        let slices_of = slices.index(|o| service_of(o).map(|key| key.to_string()).into_iter().collect());
        let note = dirty.clone();
        services.on_change(move |delta| note.note(|n| n.services.extend([delta.key().clone()])));
        let note = dirty.clone();
        slices.on_change(move |delta| {
            let keys = [delta.old, delta.new].into_iter().flatten().filter_map(|o| service_of(o));
            note.note(|n| n.services.extend(keys));
        });
        let note = dirty.clone();
        nodes.on_change(move |_| note.note(|n| n.node = true));
        // Even without any service the table must be there.
        dirty.note(|n| n.node = true);
        Self {
            services,
            slices,
            nodes,
            slices_of,
            dirty,
            settings: Settings { cluster_cidr: config.cluster_cidr, masquerade_all: config.masquerade_all },
            node: NodeFacts::new(&config.node_name, None),
            node_name: config.node_name,
            fragments: BTreeMap::new(),
            applied: None,
            udp_changed: false,
            udp_gone: UdpFlows::default(),
            last_sync: Instant::now() - MIN_INTERVAL,
            health_ports: HealthPorts::new(health.clone()),
            health,
        }
    }

    /// Plans again what changed.
    fn replan(&mut self) {
        let mut noted = self.dirty.take();
        if noted.node {
            let node = self.nodes.get("", &self.node_name);
            self.health.set_node_eligible(node.as_ref());
            let facts = NodeFacts::new(&self.node_name, node.as_ref());
            if facts != self.node {
                self.node = facts;
                noted.services.extend(self.services.objects().iter().map(|o| o.key.clone()));
            }
        }
        for key in noted.services {
            self.replan_service(key);
        }
    }

    fn replan_service(&mut self, key: ObjectKey) {
        let service: Option<Service> = self.services.get(&key.namespace, &key.name);
        let new = service.map(|service| {
            let slices: Vec<_> = self.slices_of.get(&key.to_string()).iter().filter_map(|o| decoded(o)).collect();
            Arc::new(plan::fragment(&service, &slices, &self.node, &self.settings))
        });
        let old = match new.clone() {
            Some(new) => self.fragments.insert(key, new),
            None => self.fragments.remove(&key),
        };
        let (old, new) = (old.as_deref().map(|f| &f.udp), new.as_deref().map(|f| &f.udp));
        if old != new {
            self.udp_changed = true;
            self.udp_gone.extend_missing(old, new);
        }
    }

    async fn sync(&mut self) -> netlink::Result<()> {
        let want = Arc::new(plan::union(self.fragments.values().map(|f| &**f)));
        let replace = self.applied.is_none();
        let transaction = diff(self.applied.as_deref().unwrap_or(&RuleSet::default()), &want);
        let started = Instant::now();
        self.last_sync = started;
        let operations = transaction.ops.len();
        self.applied = None;
        blocking(move || apply(replace, &transaction)).await?;
        self.applied = Some(want);
        if operations > 0 {
            let elapsed = started.elapsed();
            tracing::debug!(operations, replace, ?elapsed, services = self.fragments.len(), "service rules applied");
        }
        self.forget_udp().await?;
        self.health.synced();
        self.health_ports.set(self.fragments.iter().filter_map(|(key, f)| Some((key, f.health?))));
        Ok(())
    }

    /// Forgets UDP flows whose endpoint no longer serves. After the rules: a flow that comes back meets the new ones.
    async fn forget_udp(&mut self) -> netlink::Result<()> {
        if !self.udp_changed {
            return Ok(());
        }
        let mut current = std::mem::take(&mut self.udp_gone);
        for fragment in self.fragments.values() {
            current.by_address.extend(fragment.udp.by_address.clone());
            current.by_node_port.extend(fragment.udp.by_node_port.clone());
        }
        let deleted = blocking(move || {
            let local: BTreeSet<Ipv4Addr> = Route::open()?.addresses()?.into_iter().map(|(_, a, _)| a).collect();
            conntrack::delete_udp(|flow| current.is_stale(flow, &local))
        });
        let deleted = deleted.await?;
        self.udp_changed = false;
        if deleted > 0 {
            tracing::debug!(deleted, "stale UDP connection entries deleted");
        }
        Ok(())
    }
}

fn field_selector(node_name: &str) -> String {
    format!("metadata.name={node_name}")
}

fn service_of(slice: &Object) -> Option<ObjectKey> {
    Some(ObjectKey::new(&slice.key.namespace, slice.label(SERVICE_NAME_LABEL)?))
}

fn apply(replace: bool, transaction: &Transaction) -> netlink::Result<()> {
    if replace {
        return Nft::open()?.replace(TABLE, transaction);
    }
    if transaction.ops.is_empty() {
        return Ok(());
    }
    Nft::open()?.apply(TABLE, transaction)
}

/// The kernel's answer may take some milliseconds: not on a thread that serves others.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> netlink::Result<T> + Send + 'static) -> netlink::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => Err(netlink::Error::new("change the kernel's rules", std::io::Error::other(e))),
    }
}

impl UdpFlows {
    /// Adds the destinations that are in `old` but not in `new`, without any endpoint.
    fn extend_missing(&mut self, old: Option<&UdpFlows>, new: Option<&UdpFlows>) {
        let Some(old) = old else { return };
        for address in old.by_address.keys().filter(|a| !new.is_some_and(|n| n.by_address.contains_key(*a))) {
            self.by_address.insert(*address, BTreeSet::new());
        }
        for port in old.by_node_port.keys().filter(|p| !new.is_some_and(|n| n.by_node_port.contains_key(*p))) {
            self.by_node_port.insert(*port, BTreeSet::new());
        }
    }

    /// Whether a flow goes to a destination of ours, but not to one of its endpoints.
    fn is_stale(&self, flow: &Flow, local: &BTreeSet<Ipv4Addr>) -> bool {
        let by_port = |end: &End| local.contains(&end.address).then(|| self.by_node_port.get(&end.port)).flatten();
        let serving = self.by_address.get(&flow.original).or_else(|| by_port(&flow.original));
        serving.is_some_and(|endpoints| !endpoints.contains(&flow.actual))
    }
}
