//! Endpoint slices: the addresses behind every service with a selector.
//!
//! Reads services, pods, nodes and slices; writes the slices it made (label `managed-by`). Source: `pkg/controller/endpointslice`
//! and `k8s.io/endpointslice`.
//!
//! The plan keeps slices that are right as they are, changes as few as it can, and never has more than 100 endpoints in one.

mod endpoint;
mod hints;
mod measure;
mod pack;
mod topology;
mod trigger;

pub(crate) use endpoint::{address, selected, selectors, target_port};
pub(crate) use trigger::{Triggers, annotated};

use crate::Context;
use crate::latest::Latest;
use crate::pods::controller_reference;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, ObjectKey, Optional};
use hints::{Given, Ratios, Told, Wish};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use measure::Measures;
use pack::{Group, Rules, Sorted};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use topology::{Topology, ZONE};

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Retries of one key.
const TRIES: u32 = 15;

/// Shares of the zones by service and family of addresses.
type Shared = HashMap<ObjectKey, BTreeMap<String, Given>>;

struct Slices {
    context: Context,
    services: Cache<Service>,
    by_service: Arc<Index>,
    /// Own writes: a cache that lags behind would have a second slice made for the same endpoints.
    written: Arc<Latest<EndpointSlice>>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    triggers: Triggers,
    topology: Arc<Mutex<Topology>>,
    shared: Arc<Mutex<Shared>>,
    waiting: Arc<Mutex<Waiting>>,
    measures: Measures,
}

/// Services some of whose pods are on nodes that are not there (yet), by node.
type Waiting = HashMap<String, BTreeSet<ObjectKey>>;

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> =
        context.queue("endpoint_slice").backoff(Duration::from_secs(1), Duration::from_secs(1000)).giving_up_after(TRIES);
    let services: Cache<Service> = context.caches.of();
    let slices: Cache<EndpointSlice> = context.caches.of();
    let (pods, nodes): (Cache<Pod>, Cache<Node>) = (context.caches.of(), context.caches.of());
    let add = queue.clone();
    services.on_change(move |d| add.add(d.key().clone()));
    let by_service = slices.index(|o| o.label(SERVICE_NAME).map(|s| format!("{}/{s}", o.key.namespace)).into_iter().collect());
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
    let (add, selectors, wait) = (queue.clone(), selectors(&services), context.config.settings.endpoints.slices_wait);
    pods.on_change(move |d| {
        for side in [d.old, d.new].into_iter().flatten() {
            selectors.matching(side).into_iter().for_each(|key| add.add_after(key, wait));
        }
    });
    let (topology, shared) = (Arc::<Mutex<Topology>>::default(), Arc::<Mutex<Shared>>::default());
    let waiting = Arc::<Mutex<Waiting>>::default();
    watch_nodes(&nodes, &queue, &topology, &shared);
    let (add, awaited) = (queue.clone(), waiting.clone());
    nodes.on_change(move |d| {
        if d.old.is_none() {
            awaited.lock().remove(&*d.key().name).into_iter().flatten().for_each(|key| add.add(key));
        }
    });
    tokio::join!(services.synced(), slices.synced(), pods.synced(), nodes.synced());
    let measures = Measures::new(context.metrics.clone());
    let all =
        Slices { context, services, by_service, written, pods, nodes, triggers: Triggers::default(), topology, shared, waiting, measures };
    controller::run::<_, Error, _, _>("endpointslice", queue, 5, |key| all.reconcile(key)).await;
}

/// When the zones' shares of processors change, services of which a zone has too few endpoints are looked at anew.
fn watch_nodes(nodes: &Cache<Node>, queue: &Queue<ObjectKey>, topology: &Arc<Mutex<Topology>>, shared: &Arc<Mutex<Shared>>) {
    let (add, topology, shared) = (queue.clone(), topology.clone(), shared.clone());
    nodes.on_change(move |d| {
        let node = d.new.and_then(|o| decoded::<Node>(o));
        let mut topology = topology.lock();
        if !topology.set(&d.key().name, node.as_ref()) {
            return;
        }
        let overloaded = |families: &BTreeMap<String, Given>| families.values().any(|g| hints::is_overloaded(g, topology.ratios()));
        shared.lock().iter().filter(|(_, families)| overloaded(families)).for_each(|(key, _)| add.add(key.clone()));
    });
}

impl Slices {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let service = self.services.read(&key.namespace, &key.name)?;
        let wants = service
            .as_ref()
            .and_then(|s| s.spec.as_ref())
            .is_some_and(|s| s.selector.as_ref().is_some_and(|m| !m.is_empty()) && s.type_.as_deref() != Some("ExternalName"));
        // Slices of a service that is gone go with it, through the garbage collector.
        let Some(service) = service.filter(|s| wants && s.metadata.deletion_timestamp.is_none()) else {
            self.triggers.forget(&key);
            self.shared.lock().remove(&key);
            self.measures.forget(&key);
            return Ok(Next::Wait);
        };
        let outcome = self.follow(&key, &service).await;
        self.measures.synced(outcome.is_ok());
        if let Err(e) = &outcome
            && !e.is_conflict()
        {
            let message = format!("Error updating Endpoint Slices for Service {}/{}: {e}", key.namespace, key.name);
            self.context.recorder.about(&service, EventType::Warning, "FailedToUpdateEndpointSlices", message);
        }
        outcome.map(|()| Next::Wait)
    }

    /// Whether the node of a pod is there. Nobody answers at the address of one that is on none, unless its service says that
    /// this is nobody's business.
    fn is_somewhere(&self, key: &ObjectKey, service: &Service, pod: &Pod) -> bool {
        let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        if service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true) {
            return true;
        }
        let mut waiting = self.waiting.lock();
        let there = self.nodes.object("", node).is_some();
        if !there && !node.is_empty() {
            waiting.entry(node.to_owned()).or_default().insert(key.clone());
        }
        there
    }

    async fn follow(&self, key: &ObjectKey, service: &Service) -> Result<(), Error> {
        let cached = self.by_service.get(&key.to_string());
        let mine = |s: &EndpointSlice| s.namespace() == &*key.namespace && label(s, SERVICE_NAME) == Some(&*key.name);
        let mut own = self.written.complete(cached.iter().filter_map(|o| decoded(o)), mine);
        own.retain(|s| label(s, MANAGED_BY) == Some(MANAGER));
        let mut pods = selected(service, &self.pods);
        pods.retain(|pod| self.is_somewhere(key, service, pod));
        let zone = |node: &str| self.nodes.object("", node).and_then(|n| n.label(ZONE).map(str::to_owned));
        let plan = {
            let (topology, shared) = (self.topology.lock(), self.shared.lock());
            let had = shared.contains_key(key);
            let most = self.context.config.settings.endpoints.per_slice;
            plan(&View { service, pods: &pods, zone: &zone, ratios: topology.ratios(), had, most }, own)
        };
        if plan.shared.is_empty() {
            self.shared.lock().remove(key);
        } else {
            self.shared.lock().insert(key.clone(), plan.shared.clone());
        }
        self.measures.planned(key, service, &plan);
        let trigger = self.triggers.look(key, service, &pods);
        for change in plan.changes {
            self.apply(change, trigger).await?;
        }
        for told in plan.events {
            self.context.recorder.about(service, told.kind, told.reason, told.message);
        }
        Ok(())
    }

    async fn apply(&self, change: Change, trigger: Option<Timestamp>) -> Result<(), Error> {
        let client = &self.context.client;
        let dated = |mut slice: EndpointSlice| {
            slice.metadata.annotations = annotated(slice.metadata.annotations.take(), trigger);
            slice
        };
        let (verb, written) = match change {
            Change::Create(slice) => match client.create(&dated(*slice)).await {
                Err(e) if e.is_namespace_terminating() => return Ok(()),
                other => ("create", Some(other?)),
            },
            Change::Update(slice) => match client.update(&dated(*slice.clone())).await {
                Ok(written) => ("update", Some(written)),
                Err(e) => {
                    if e.is_not_found() {
                        self.written.forget(slice.uid());
                    }
                    return Err(e);
                }
            },
            Change::Delete(slice) => {
                let options = DeleteOptions::of_uid(slice.uid());
                client.delete::<EndpointSlice>(slice.namespace(), slice.name(), &options).await.optional()?;
                self.written.forget(slice.uid());
                ("delete", None)
            }
        };
        self.measures.changed(verb);
        written.iter().for_each(|slice| self.written.wrote(slice));
        Ok(())
    }
}

fn label<'a>(slice: &'a EndpointSlice, name: &str) -> Option<&'a str> {
    slice.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

#[derive(Debug, PartialEq)]
enum Change {
    Create(Box<EndpointSlice>),
    Update(Box<EndpointSlice>),
    Delete(Box<EndpointSlice>),
}

/// What is known of a service.
struct View<'a> {
    service: &'a Service,
    pods: &'a [Pod],
    /// The zone of a node.
    zone: &'a dyn Fn(&str) -> Option<String>,
    /// The zones' shares of processors.
    ratios: Option<&'a Ratios>,
    /// Whether endpoints were shared out between zones before.
    had: bool,
    /// Endpoints in a slice.
    most: usize,
}

/// What has to change so that the slices show the pods, and what that amounts to.
#[derive(Debug, Default)]
struct Plan {
    changes: Vec<Change>,
    events: Vec<Told>,
    shared: BTreeMap<String, Given>,
    added: usize,
    removed: usize,
    endpoints: usize,
    slices: usize,
    ideal: usize,
}

fn plan(view: &View, own: Vec<EndpointSlice>) -> Plan {
    let mut plan = Plan::default();
    let families = families(view.service);
    let controls = |s: &EndpointSlice| s.metadata.owner_references.iter().flatten().any(|r| r.uid == view.service.uid());
    let (mut known, foreign): (Vec<_>, Vec<_>) = own.into_iter().partition(|s| families.contains(&s.address_type) && controls(s));
    for family in &families {
        let of_family: Vec<EndpointSlice> = known.extract_if(.., |s| s.address_type == *family).collect();
        one_family(view, family, of_family, &mut plan);
    }
    plan.changes.extend(foreign.into_iter().map(|s| Change::Delete(Box::new(s))));
    plan
}

fn one_family(view: &View, family: &str, present: Vec<EndpointSlice>, plan: &mut Plan) {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for pod in view.pods {
        let Some(endpoint) = endpoint::endpoint(view.service, pod, family, view.zone) else { continue };
        let ports = endpoint::ports(view.service, pod);
        groups.entry(pack::key(&ports)).or_insert_with(|| Group { ports, endpoints: Vec::new() }).endpoints.push(endpoint);
    }
    plan.endpoints += groups.values().map(|g| g.endpoints.len()).sum::<usize>();
    plan.ideal += groups.values().map(|g| g.endpoints.len().div_ceil(view.most)).sum::<usize>().max(1);
    let (empty, labelled) = (|ports: &[EndpointPort]| made(view.service, family, ports), |s| refreshed(view.service, s));
    let mut sorted: Sorted = pack::pack(groups, present, &Rules { most: view.most, empty: &empty, labelled: &labelled });
    let wish = Wish::of(view.service);
    // Beginning and end are told once, not once per family.
    let had = if wish == Wish::Shares { view.had || !plan.shared.is_empty() } else { view.had && plan.events.is_empty() };
    let given = hints::give(wish, &mut sorted, view.ratios, had, family, &mut plan.events);
    plan.shared.extend(given.map(|g| (family.to_owned(), g)));
    sorted.reuse();
    plan.added += sorted.added;
    plan.removed += sorted.removed;
    plan.slices += sorted.create.len() + sorted.update.len() + sorted.unchanged.len();
    plan.changes.extend(sorted.create.into_iter().map(|s| Change::Create(Box::new(s))));
    plan.changes.extend(sorted.update.into_iter().map(|s| Change::Update(Box::new(s))));
    plan.changes.extend(sorted.delete.into_iter().map(|s| Change::Delete(Box::new(s))));
}

fn families(service: &Service) -> BTreeSet<String> {
    let listed = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if listed.is_empty() { BTreeSet::from(["IPv4".to_owned()]) } else { listed.into_iter().collect() }
}

fn labels_of(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    for reserved in [SERVICE_NAME, MANAGED_BY, HEADLESS] {
        labels.remove(reserved);
    }
    labels.insert(SERVICE_NAME.into(), service.name().into());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn refreshed(service: &Service, mut slice: EndpointSlice) -> EndpointSlice {
    slice.metadata.labels = Some(labels_of(service));
    slice
}

fn made(service: &Service, family: &str, ports: &[EndpointPort]) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels_of(service)),
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.into(),
        endpoints: None,
        ports: Some(ports.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}], "ipFamilies": ["IPv4"]},
        }))
        .unwrap()
    }

    fn pod(n: usize, ready: bool, port: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": format!("p{n}"), "namespace": "a", "uid": format!("u{n}")},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": format!("10.0.0.{n}"), "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap()
    }

    fn run(pods: &[Pod], own: Vec<EndpointSlice>) -> Vec<Change> {
        planned(&service(), pods, own).changes
    }

    fn planned(service: &Service, pods: &[Pod], own: Vec<EndpointSlice>) -> Plan {
        plan(&View { service, pods, zone: &|node| Some(format!("zone-of-{node}")), ratios: None, had: false, most: 100 }, own)
    }

    fn created(changes: Vec<Change>) -> Vec<EndpointSlice> {
        let slices = changes.into_iter().map(|c| match c {
            Change::Create(s) => *s,
            other => panic!("{other:?}"),
        });
        slices.collect()
    }

    #[test]
    fn pods_become_endpoints_and_a_second_look_changes_nothing() {
        let pods = [pod(1, true, 8080), pod(2, false, 8080)];
        let slices = created(run(&pods, Vec::new()));
        assert_eq!(slices.len(), 1);
        let ready: Vec<_> = slices[0].endpoints.iter().flatten().map(|e| e.conditions.as_ref().unwrap().ready).collect();
        assert_eq!(ready, [Some(true), Some(false)]);
        assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
        assert_eq!(run(&pods, slices), []);
    }

    #[test]
    fn a_hundred_and_one_endpoints_need_two_slices() {
        let pods: Vec<Pod> = (0..101).map(|n| pod(n, true, 80)).collect();
        let sizes: Vec<usize> = created(run(&pods, Vec::new())).iter().map(|s| s.endpoints.as_ref().map_or(0, Vec::len)).collect();
        assert_eq!(sizes, [100, 1]);
    }

    #[test]
    fn pods_with_different_numbers_behind_a_named_port_get_slices_of_their_own() {
        let slices = created(run(&[pod(1, true, 80), pod(2, true, 81)], Vec::new()));
        assert_eq!(slices.len(), 2);
    }

    #[test]
    fn without_pods_one_empty_slice_stays() {
        let slices = created(run(&[], Vec::new()));
        assert_eq!((slices.len(), &slices[0].endpoints), (1, &None));
        assert_eq!(run(&[], slices), []);
    }

    #[test]
    fn one_pod_that_goes_changes_one_slice() {
        let pods: Vec<Pod> = (0..150).map(|n| pod(n, true, 80)).collect();
        let slices = created(run(&pods, Vec::new()));
        let changes = run(&pods[1..], slices);
        assert!(matches!(changes.as_slice(), [Change::Update(_)]), "{changes:?}");
    }

    #[test]
    fn as_few_slices_as_possible_change() {
        let pods: Vec<Pod> = (0..250).map(|n| pod(n, true, 80)).collect();
        let named = |slices: Vec<EndpointSlice>| -> Vec<EndpointSlice> {
            let name = |(at, mut s): (usize, EndpointSlice)| {
                s.metadata.name = Some(format!("s{at}"));
                s
            };
            slices.into_iter().enumerate().map(name).collect()
        };
        let slices = named(created(run(&pods[..150], Vec::new())));
        let shown = |changes: &[Change]| -> Vec<String> {
            let size = |s: &EndpointSlice| s.endpoints.as_ref().map_or(0, Vec::len);
            changes
                .iter()
                .map(|c| match c {
                    Change::Create(s) => format!("+{}", size(s)),
                    Change::Update(s) => format!("{} {}", s.name(), size(s)),
                    Change::Delete(s) => format!("-{}", s.name()),
                })
                .collect()
        };
        assert_eq!(shown(&run(&pods[..160], slices.clone())), ["s1 60"], "the slice that has room");
        assert_eq!(shown(&run(&pods[..250], slices.clone())), ["+100"], "more than fits: the others stay as they are");
        assert_eq!(shown(&run(&pods[1..151], slices.clone())), ["s0 100"], "the slice that changes anyway takes the new one");
        assert_eq!(shown(&run(&pods[..100], slices.clone())), ["-s1"]);
        let other_ports: Vec<Pod> = (0..1).map(|n| pod(n, true, 81)).collect();
        assert_eq!(shown(&run(&other_ports, slices)), ["s0 1", "-s1"], "a slice is used again rather than deleted and made");
    }

    #[test]
    fn each_family_of_a_dual_stack_service_has_slices_of_its_own() {
        let mut service = service();
        service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv6".into(), "IPv4".into()]);
        let mut both = pod(1, true, 80);
        both.status.as_mut().unwrap().pod_ips = serde_json::from_value(json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}])).unwrap();
        let slices = created(planned(&service, &[both.clone()], Vec::new()).changes);
        let shown: Vec<_> =
            slices.iter().map(|s| (s.address_type.as_str(), s.endpoints.as_ref().unwrap()[0].addresses[0].as_str())).collect();
        assert_eq!(shown, [("IPv4", "10.0.0.1"), ("IPv6", "fd00::1")]);
        service.spec.as_mut().unwrap().ip_families = Some(vec!["IPv4".into()]);
        let changes = planned(&service, &[both], slices).changes;
        assert!(matches!(changes.as_slice(), [Change::Delete(s)] if s.address_type == "IPv6"), "{changes:?}");
    }

    #[test]
    fn an_endpoint_that_ends_still_serves_but_is_ready_only_when_published() {
        let mut going = pod(1, true, 80);
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut service = service();
        for (publish, ready) in [(false, false), (true, true)] {
            service.spec.as_mut().unwrap().publish_not_ready_addresses = Some(publish);
            let slices = created(planned(&service, std::slice::from_ref(&going), Vec::new()).changes);
            let conditions = slices[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
            assert_eq!((conditions.ready, conditions.serving, conditions.terminating), (Some(ready), Some(true), Some(true)));
        }
    }

    #[test]
    fn hints_come_and_go_with_what_the_service_asks_for() {
        let mut service = service();
        service.spec.as_mut().unwrap().traffic_distribution = Some("PreferSameZone".into());
        let pods = [pod(1, true, 80)];
        let slices = created(planned(&service, &pods, Vec::new()).changes);
        let zone = |s: &EndpointSlice| Some(s.endpoints.as_ref()?[0].hints.as_ref()?.for_zones.as_ref()?[0].name.clone());
        assert_eq!(zone(&slices[0]).as_deref(), Some("zone-of-n"));
        assert_eq!(planned(&service, &pods, slices.clone()).changes, []);
        service.spec.as_mut().unwrap().traffic_distribution = None;
        let changes = planned(&service, &pods, slices).changes;
        assert!(matches!(changes.as_slice(), [Change::Update(s)] if zone(s).is_none()), "{changes:?}");
    }

    #[test]
    fn slices_of_an_earlier_service_of_the_name_go() {
        let pods = [pod(1, true, 80)];
        let mut slices = created(run(&pods, Vec::new()));
        slices[0].metadata.owner_references.as_mut().unwrap()[0].uid = "earlier".into();
        let changes = run(&pods, slices);
        assert!(matches!(changes.as_slice(), [Change::Create(_), Change::Delete(_)]), "{changes:?}");
    }
}
