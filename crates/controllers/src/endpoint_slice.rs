//! Endpoint slices: the addresses behind every service with a selector.
//!
//! Reads services, pods, nodes and slices; writes the slices it made (label `managed-by`). Source: `pkg/controller/endpointslice`
//! and `k8s.io/endpointslice`.
//!
//! The plan keeps slices that are right as they are, changes as few as it can, and never has more than 100 endpoints in one.

use crate::Context;
use crate::pods::controller_reference;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, ObjectKey, Optional};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
const LAST_CHANGE: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// `--max-endpoints-per-slice`.
const MOST: usize = 100;

struct Slices {
    context: Context,
    services: Cache<Service>,
    slices: Cache<EndpointSlice>,
    by_service: Arc<Index>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("endpoint_slice");
    let services: Cache<Service> = context.caches.of();
    let slices: Cache<EndpointSlice> = context.caches.of();
    let (pods, nodes): (Cache<Pod>, Cache<Node>) = (context.caches.of(), context.caches.of());
    let add = queue.clone();
    services.on_change(move |d| add.add(d.key().clone()));
    let by_service = slices.index(|o| o.label(SERVICE_NAME).map(|s| format!("{}/{s}", o.key.namespace)).into_iter().collect());
    let add = queue.clone();
    slices.on_change(move |d| {
        let ours = d.latest().label(MANAGED_BY) == Some(MANAGER);
        if let Some(service) = d.latest().label(SERVICE_NAME).filter(|_| ours) {
            add.add(ObjectKey::new(&d.key().namespace, service));
        }
    });
    let (add, known) = (queue.clone(), services.clone());
    pods.on_change(move |d| {
        for side in [d.old, d.new].into_iter().flatten() {
            selecting(&known, side).into_iter().for_each(|key| add.add(key));
        }
    });
    tokio::join!(services.synced(), slices.synced(), pods.synced(), nodes.synced());
    let all = Slices { context, services, slices, by_service, pods, nodes };
    controller::run::<_, Error, _, _>("endpointslice", queue, 5, |key| all.reconcile(key)).await;
}

/// The services of the pod's namespace whose selector matches it.
pub(crate) fn selecting(services: &Cache<Service>, pod: &ferrokube_client::Object) -> Vec<ObjectKey> {
    #[derive(serde::Deserialize)]
    struct Outer {
        spec: Inner,
    }
    #[derive(serde::Deserialize)]
    struct Inner {
        #[serde(default)]
        selector: Option<BTreeMap<String, String>>,
    }
    let matches = |o: &&Arc<ferrokube_client::Object>| {
        let selector = o.decode::<Outer>().ok().and_then(|s| s.spec.selector).filter(|s| !s.is_empty());
        selector.is_some_and(|s| s.iter().all(|(k, v)| pod.label(k) == Some(v)))
    };
    services.objects_in(&pod.key.namespace).iter().filter(matches).map(|o| o.key.clone()).collect()
}

/// The pods that a service selects.
pub(crate) fn selected(service: &Service, pods: &Cache<Pod>) -> Vec<Pod> {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty()) else { return Vec::new() };
    let matching = pods.objects_in(service.namespace());
    let matching = matching.iter().filter(|o| selector.iter().all(|(k, v)| o.label(k) == Some(v)));
    matching.filter_map(|o| decoded(o)).collect()
}

impl Slices {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let service = self.services.read(&key.namespace, &key.name)?;
        let wants = service
            .as_ref()
            .and_then(|s| s.spec.as_ref())
            .is_some_and(|s| s.selector.as_ref().is_some_and(|m| !m.is_empty()) && s.type_.as_deref() != Some("ExternalName"));
        // Slices of a service that is gone go with it, through the garbage collector.
        let Some(service) = service.filter(|s| wants && s.metadata.deletion_timestamp.is_none()) else { return Ok(Next::Wait) };
        let own: Vec<EndpointSlice> =
            self.by_service.get(&format!("{}/{}", key.namespace, key.name)).iter().filter_map(|o| decoded(o)).collect();
        let own = own.into_iter().filter(|s| label(s, MANAGED_BY) == Some(MANAGER)).collect();
        let pods = selected(&service, &self.pods);
        let zone = |node: &str| self.nodes.object("", node).and_then(|n| n.label(ZONE).map(str::to_owned));
        for change in plan(&service, &pods, &zone, own) {
            self.apply(change).await?;
        }
        tracing::trace!(service = service.name(), slices = self.slices.len(), "endpoint slices reconciled");
        Ok(Next::Wait)
    }

    async fn apply(&self, change: Change) -> Result<(), Error> {
        let client = &self.context.client;
        match change {
            Change::Create(slice) => match client.create(&*slice).await {
                Err(e) if e.is_namespace_terminating() => Ok(()),
                other => other.map(drop),
            },
            Change::Update(slice) => client.update(&*slice).await.map(drop),
            Change::Delete(slice) => client
                .delete::<EndpointSlice>(slice.namespace(), slice.name(), &DeleteOptions::of_uid(slice.uid()))
                .await
                .optional()
                .map(drop),
        }
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

/// Ports of a slice, comparable.
type Ports = Vec<EndpointPort>;

/// What has to change so that the slices show the pods.
fn plan(service: &Service, pods: &[Pod], zone: &dyn Fn(&str) -> Option<String>, own: Vec<EndpointSlice>) -> Vec<Change> {
    let mut changes = Vec::new();
    let families = families(service);
    let (known, foreign): (Vec<_>, Vec<_>) = own.into_iter().partition(|s| families.contains(&s.address_type));
    changes.extend(foreign.into_iter().map(|s| Change::Delete(Box::new(s))));
    for family in &families {
        let mut wanted: BTreeMap<String, (Ports, Vec<Endpoint>)> = BTreeMap::new();
        for pod in pods {
            let Some(endpoint) = endpoint(service, pod, family, zone) else { continue };
            let ports = ports(service, pod);
            wanted.entry(sort_key(&ports)).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
        }
        if wanted.is_empty() {
            // Consumers like to see that there is nothing rather than to see nothing.
            wanted.insert(String::new(), (Vec::new(), Vec::new()));
        }
        let of_family = known.iter().filter(|s| s.address_type == *family).cloned().collect();
        changes.extend(arrange(service, family, wanted, of_family));
    }
    changes
}

fn families(service: &Service) -> Vec<String> {
    let listed = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    let listed = if listed.is_empty() { vec!["IPv4".to_owned()] } else { listed };
    listed.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn sort_key(ports: &Ports) -> String {
    serde_json::to_string(ports).unwrap_or_default()
}

/// Puts endpoints into slices: those that stay where they are stay, gaps are filled, the rest gets new slices.
fn arrange(service: &Service, family: &str, wanted: BTreeMap<String, (Ports, Vec<Endpoint>)>, own: Vec<EndpointSlice>) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut by_ports: BTreeMap<String, Vec<EndpointSlice>> = BTreeMap::new();
    for slice in own {
        by_ports.entry(sort_key(&slice.ports.clone().unwrap_or_default())).or_default().push(slice);
    }
    for (key, (ports, mut endpoints)) in wanted {
        let existing = by_ports.remove(&if key.is_empty() { "[]".to_owned() } else { key }).unwrap_or_default();
        let mut slices: Vec<(EndpointSlice, Vec<Endpoint>)> = Vec::new();
        for slice in existing {
            let here: BTreeSet<String> = slice.endpoints.iter().flatten().filter_map(target).collect();
            let (stay, go) = endpoints.into_iter().partition(|e| target(e).is_some_and(|t| here.contains(&t)));
            endpoints = go;
            slices.push((slice, stay));
        }
        for (_, kept) in &mut slices {
            let room = MOST.saturating_sub(kept.len()).min(endpoints.len());
            kept.extend(endpoints.drain(..room));
        }
        let empty_wanted = slices.iter().all(|(_, e)| e.is_empty()) && endpoints.is_empty();
        let mut kept_one = false;
        for (slice, kept) in slices {
            if kept.is_empty() && (!empty_wanted || kept_one) {
                changes.push(Change::Delete(Box::new(slice)));
                continue;
            }
            kept_one = true;
            let fresh = EndpointSlice { endpoints: listed(kept), ..refreshed(service, slice.clone()) };
            let slice = EndpointSlice { endpoints: listed(slice.endpoints.clone().unwrap_or_default()), ..slice };
            if fresh != slice {
                changes.push(Change::Update(Box::new(fresh)));
            }
        }
        while !endpoints.is_empty() || (empty_wanted && !kept_one) {
            kept_one = true;
            let part = endpoints.drain(..MOST.min(endpoints.len())).collect();
            changes.push(Change::Create(Box::new(made(service, family, &ports, part))));
        }
    }
    changes.extend(by_ports.into_values().flatten().map(|s| Change::Delete(Box::new(s))));
    changes
}

/// An empty list and none are the same to the API; one form of them compares.
fn listed(endpoints: Vec<Endpoint>) -> Option<Vec<Endpoint>> {
    Some(endpoints).filter(|e| !e.is_empty())
}

fn target(endpoint: &Endpoint) -> Option<String> {
    endpoint.target_ref.as_ref().and_then(|r| r.uid.clone())
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

fn made(service: &Service, family: &str, ports: &Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let trigger = service
        .metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(LAST_CHANGE))
        .map(|t| BTreeMap::from([(LAST_CHANGE.to_owned(), t.clone())]));
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name())),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels_of(service)),
            annotations: trigger,
            owner_references: Some(vec![controller_reference(service)]),
            ..ObjectMeta::default()
        },
        address_type: family.into(),
        endpoints: listed(endpoints),
        ports: Some(ports.clone()),
    }
}

/// The address of a pod in a family, when the pod counts as an endpoint at all.
pub(crate) fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let of_family = |ip: &String| ip.contains(':') == (family == "IPv6");
    let listed = status.pod_ips.iter().flatten().map(|p| p.ip.clone()).find(of_family);
    listed.or_else(|| status.pod_ip.clone().filter(of_family)).filter(|ip| !ip.is_empty())
}

fn endpoint(service: &Service, pod: &Pod, family: &str, zone: &dyn Fn(&str) -> Option<String>) -> Option<Endpoint> {
    let address = address(pod, family)?;
    let serving = crate::pods::is_ready(pod);
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let publish = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses).unwrap_or(false);
    let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
    let hostname = pod.spec.as_ref().and_then(|s| {
        let ours = s.subdomain.as_deref() == Some(service.name());
        s.hostname.clone().filter(|h| ours && !h.is_empty())
    });
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(publish || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname,
        zone: node.as_deref().and_then(zone),
        node_name: node,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

/// The number of a service port's target in a pod.
pub(crate) fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(n)) => Some(if *n == 0 { port.port } else { *n }),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let named = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
                p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.into_iter().find(named).map(|p| p.container_port)
        }
    }
}

fn ports(service: &Service, pod: &Pod) -> Ports {
    let listed = service.spec.as_ref().and_then(|s| s.ports.as_ref());
    let port = |p: &ServicePort| {
        Some(EndpointPort {
            name: Some(p.name.clone().unwrap_or_default()),
            protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
            port: Some(target_port(p, pod)?),
            app_protocol: p.app_protocol.clone(),
        })
    };
    listed.into_iter().flatten().filter_map(port).collect()
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
        plan(&service(), pods, &|_| None, own)
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
}
