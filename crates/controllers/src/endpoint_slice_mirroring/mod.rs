//! Endpoints that somebody writes by hand, for a service without a selector, as EndpointSlices: consumers read only those.
//!
//! Reads services, endpoints and slices; owns the slices it made (label `managed-by`). Source:
//! `pkg/controller/endpointslicemirroring`.

mod measure;

use crate::Context;
use crate::latest::Latest;
use crate::pods::controller_reference;
use ferrokube_client::cache::readable;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, ObjectKey, Optional};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use measure::Measures;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Endpoints that only held a lock of an older kind of leader election.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Endpoints in one slice.
const MOST: usize = 100;
/// Retries of one key.
const TRIES: u32 = 15;

struct Mirror {
    context: Context,
    services: Cache<Service>,
    endpoints: Cache<Endpoints>,
    by_service: Arc<Index>,
    /// Own writes: a cache that lags behind would have a second slice made for the same addresses.
    written: Arc<Latest<EndpointSlice>>,
    measures: Measures,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> =
        context.queue("endpoint_slice_mirroring").backoff(Duration::from_secs(1), Duration::from_secs(100)).giving_up_after(TRIES);
    let (services, endpoints): (Cache<Service>, Cache<Endpoints>) = (context.caches.of(), context.caches.of());
    let slices: Cache<EndpointSlice> = context.caches.of();
    let by_service = slices.index(|o| {
        let ours = o.label(MANAGED_BY) == Some(MANAGER);
        o.label(SERVICE_NAME).filter(|_| ours).map(|s| format!("{}/{s}", o.key.namespace)).into_iter().collect()
    });
    let add = queue.clone();
    services.on_change(move |d| add.add(d.key().clone()));
    let (add, wait) = (queue.clone(), context.config.settings.endpoints.mirrored_wait);
    endpoints.on_change(move |d| add.add_after(d.key().clone(), wait));
    let written: Arc<Latest<EndpointSlice>> = Arc::default();
    let (add, gone) = (queue.clone(), written.clone());
    slices.on_change(move |d| {
        if d.new.is_none() {
            gone.forget(&d.latest().uid);
        }
        let ours = d.latest().label(MANAGED_BY) == Some(MANAGER);
        if let Some(service) = d.latest().label(SERVICE_NAME).filter(|_| ours) {
            add.add(ObjectKey::new(&d.key().namespace, service));
        }
    });
    tokio::join!(services.synced(), endpoints.synced(), slices.synced());
    let measures = Measures::new(context.metrics.clone());
    let mirror = Mirror { context, services, endpoints, by_service, written, measures };
    let reconcile = |key| async {
        let begun = Instant::now();
        let result = mirror.reconcile(key).await;
        mirror.measures.synced(begun.elapsed());
        result
    };
    controller::run::<_, Error, _, _>("endpointslice-mirroring", queue, 5, reconcile).await;
}

impl Mirror {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let cached = self.by_service.get(&key.to_string()).iter().map(|o| readable(o)).collect::<Result<Vec<EndpointSlice>, _>>()?;
        let mine = |s: &EndpointSlice| {
            let service = s.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
            s.namespace() == &*key.namespace && service.is_some_and(|name| **name == *key.name)
        };
        let own = self.written.complete(cached.into_iter(), mine);
        let service = self.services.read(&key.namespace, &key.name)?;
        let endpoints = self.endpoints.read(&key.namespace, &key.name)?;
        let endpoints = endpoints.filter(|e| service.as_ref().is_some_and(|s| is_mirrored(s, e)));
        let most = self.context.config.settings.endpoints.mirrored_per_subset;
        let skipped = endpoints.as_ref().map_or(0, |e| skipped(e, most));
        if let (Some(endpoints), true) = (&endpoints, skipped > 0) {
            let message = format!(
                "A max of {most} addresses can be mirrored to EndpointSlices per Endpoints subset. {skipped} addresses were skipped"
            );
            self.context.recorder.about(endpoints, EventType::Warning, "TooManyAddressesToMirror", message);
        }
        let wanted = endpoints.as_ref().map(|e| wanted(e, most)).unwrap_or_default();
        self.measures.planned(&key, &own, &wanted, skipped);
        for change in plan(wanted, own) {
            self.measures.changed(&change);
            self.apply(change).await?;
        }
        Ok(Next::Wait)
    }

    async fn apply(&self, change: Change) -> Result<(), Error> {
        let client = &self.context.client;
        let written = match change {
            Change::Create(slice) => match client.create(&*slice).await {
                Err(e) if e.is_namespace_terminating() => return Ok(()),
                other => other?,
            },
            Change::Update(slice) => match client.update(&*slice).await {
                Err(e) => {
                    if e.is_not_found() {
                        self.written.forget(slice.uid());
                    }
                    return Err(e);
                }
                Ok(written) => written,
            },
            Change::Delete(slice) => {
                let options = DeleteOptions::of_uid(slice.uid());
                client.delete::<EndpointSlice>(slice.namespace(), slice.name(), &options).await.optional()?;
                self.written.forget(slice.uid());
                return Ok(());
            }
        };
        self.written.wrote(&written);
        Ok(())
    }
}

#[derive(Debug, PartialEq)]
enum Change {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Box<EndpointSlice>),
}

/// Whether endpoints are somebody's own, for a service that does not select pods.
fn is_mirrored(service: &Service, endpoints: &Endpoints) -> bool {
    let selects = service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    let skip = endpoints.metadata.labels.as_ref().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    let lock = endpoints.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(LEADER));
    !selects && !skip && !lock && endpoints.metadata.deletion_timestamp.is_none()
}

/// Addresses with whether they are ready, ready ones first.
fn addresses(subset: &EndpointSubset) -> impl Iterator<Item = (&EndpointAddress, bool)> {
    let ready = subset.addresses.iter().flatten().map(|a| (a, true));
    ready.chain(subset.not_ready_addresses.iter().flatten().map(|a| (a, false)))
}

/// Addresses that are too many: of a subset, `most` are mirrored.
fn skipped(endpoints: &Endpoints, most: usize) -> usize {
    endpoints.subsets.iter().flatten().map(|s| addresses(s).count().saturating_sub(most)).sum()
}

/// The slices that show the endpoints: by ports and family of addresses, in parts.
fn wanted(endpoints: &Endpoints, most: usize) -> Vec<EndpointSlice> {
    let mut groups: BTreeMap<(String, &str), (Vec<EndpointPort>, BTreeMap<IpAddr, Endpoint>)> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = ports(subset);
        for (address, ready) in addresses(subset).take(most) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else { continue };
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            let group = groups.entry((sort_key(&ports), family)).or_insert_with(|| (ports.clone(), BTreeMap::new()));
            group.1.entry(ip).or_insert_with(|| endpoint(address, ready));
        }
    }
    let slices = groups.into_iter().flat_map(|((_, family), (ports, all))| {
        let all: Vec<Endpoint> = all.into_values().collect();
        all.chunks(MOST).map(|part| slice(endpoints, family, &ports, part.to_vec())).collect::<Vec<_>>()
    });
    slices.collect()
}

fn sort_key(ports: &[EndpointPort]) -> String {
    serde_json::to_string(ports).unwrap_or_default()
}

fn ports(subset: &EndpointSubset) -> Vec<EndpointPort> {
    let port = |p: &k8s_openapi::api::core::v1::EndpointPort| EndpointPort {
        name: Some(p.name.clone().unwrap_or_default()),
        port: Some(p.port),
        protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
        app_protocol: p.app_protocol.clone(),
    };
    subset.ports.iter().flatten().map(port).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|h| !h.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

fn slice(endpoints: &Endpoints, family: &str, ports: &[EndpointPort], part: Vec<Endpoint>) -> EndpointSlice {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.insert(SERVICE_NAME.into(), endpoints.name().into());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", endpoints.name())),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|a| !a.is_empty()),
            owner_references: Some(vec![controller_reference(endpoints)]),
            ..ObjectMeta::default()
        },
        address_type: family.into(),
        endpoints: Some(part),
        ports: Some(ports.to_vec()),
    }
}

/// What has to change. A slice is used again for the same family and ports, whatever its endpoints.
fn plan(wanted: Vec<EndpointSlice>, mut own: Vec<EndpointSlice>) -> Vec<Change> {
    let mut changes = Vec::new();
    for fresh in wanted {
        let same_place = |s: &EndpointSlice| {
            s.address_type == fresh.address_type && s.ports.as_deref().unwrap_or_default() == fresh.ports.as_deref().unwrap_or_default()
        };
        let same = |s: &EndpointSlice| same_place(s) && s.endpoints == fresh.endpoints;
        let Some(at) = own.iter().position(same).or_else(|| own.iter().position(same_place)) else {
            changes.push(Change::Create(Box::new(fresh)));
            continue;
        };
        let present = own.swap_remove(at);
        let unchanged = present.endpoints == fresh.endpoints
            && present.metadata.labels == fresh.metadata.labels
            && present.metadata.annotations == fresh.metadata.annotations;
        if !unchanged {
            let metadata = ObjectMeta { labels: fresh.metadata.labels, annotations: fresh.metadata.annotations, ..present.metadata };
            changes.push(Change::Update(Box::new(EndpointSlice { metadata, ..fresh })));
        }
    }
    changes.extend(own.into_iter().map(|s| Change::Delete(Box::new(s))));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoints(ready: usize) -> Endpoints {
        let addresses: Vec<_> = (0..ready).map(|n| json!({"ip": format!("10.0.{}.{}", n / 250, n % 250)})).collect();
        serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "a", "uid": "e", "labels": {"app": "db"}},
            "subsets": [{"addresses": addresses, "notReadyAddresses": [{"ip": "fd00::1"}], "ports": [{"name": "sql", "port": 5432}]}]}))
        .unwrap()
    }

    #[test]
    fn each_family_has_slices_of_its_own_and_a_second_look_changes_nothing() {
        let slices = wanted(&endpoints(101), 1000);
        let shape: Vec<_> = slices.iter().map(|s| (s.address_type.as_str(), s.endpoints.as_ref().map_or(0, Vec::len))).collect();
        assert_eq!(shape, [("IPv4", 100), ("IPv4", 1), ("IPv6", 1)]);
        assert_eq!(slices[2].endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap().ready, Some(false));
        assert_eq!(slices[0].metadata.labels.as_ref().unwrap()["app"], "db");
        assert_eq!(plan(wanted(&endpoints(101), 1000), slices), []);
    }

    #[test]
    fn slices_are_used_again_and_go_with_their_endpoints() {
        let changes = plan(wanted(&endpoints(2), 1000), wanted(&endpoints(1), 1000));
        assert!(matches!(changes.as_slice(), [Change::Update(_)]), "{changes:?}");
        assert!(plan(Vec::new(), wanted(&endpoints(1), 1000)).iter().all(|c| matches!(c, Change::Delete(_))));
    }

    #[test]
    fn only_what_somebody_wrote_for_a_service_without_a_selector_is_mirrored() {
        let service = |selector| -> Service { serde_json::from_value(json!({"metadata": {}, "spec": {"selector": selector}})).unwrap() };
        let mut e = endpoints(1);
        assert!(is_mirrored(&service(json!(null)), &e));
        assert!(!is_mirrored(&service(json!({"app": "x"})), &e));
        e.metadata.labels.get_or_insert_default().insert(SKIP.into(), "true".into());
        assert!(!is_mirrored(&service(json!(null)), &e));
    }

    #[test]
    fn a_subset_is_cut_at_a_thousand_addresses() {
        assert_eq!((skipped(&endpoints(1000), 1000), skipped(&endpoints(10), 1000)), (1, 0));
    }
}
