//! Endpoints: the older way to publish the addresses behind a service, still written for those who read it.
//!
//! Reads services and pods; writes endpoints of services with a selector. Source: `pkg/controller/endpoint`.

use crate::Context;
use crate::endpoint_slice::{Triggers, address, annotated, selected, selectors, target_port};
use crate::pods::is_ready;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Named, ObjectKey, Optional};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::time::Duration;

/// More addresses than this are cut off, and an annotation says so.
const MOST: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";

/// Retries of one key.
const TRIES: u32 = 15;

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> =
        context.queue("endpoint").backoff(Duration::from_secs(1), Duration::from_secs(1000)).giving_up_after(TRIES);
    let triggers = Triggers::default();
    let (services, pods, endpoints): (Cache<Service>, Cache<Pod>, Cache<Endpoints>) =
        (context.caches.of(), context.caches.of(), context.caches.of());
    let add = queue.clone();
    services.on_change(move |d| add.add(d.key().clone()));
    let add = queue.clone();
    endpoints.on_change(move |d| add.add(d.key().clone()));
    let (add, selectors, wait) = (queue.clone(), selectors(&services), context.config.settings.endpoints.endpoints_wait);
    pods.on_change(move |d| {
        for side in [d.old, d.new].into_iter().flatten() {
            selectors.matching(side).into_iter().for_each(|key| add.add_after(key, wait));
        }
    });
    tokio::join!(services.synced(), pods.synced(), endpoints.synced());
    let reconcile = |key: ObjectKey| {
        let (context, services, pods, endpoints, triggers) = (&context, &services, &pods, &endpoints, &triggers);
        async move {
            let current = endpoints.read(&key.namespace, &key.name)?;
            match services.read(&key.namespace, &key.name)? {
                None => {
                    triggers.forget(&key);
                    remove(context, current).await
                }
                Some(service) if !is_followed(&service) => Ok(Next::Wait),
                Some(service) => {
                    let pods = selected(&service, pods);
                    let mut wanted = plan(&service, &pods);
                    wanted.metadata.annotations = annotated(wanted.metadata.annotations.take(), triggers.look(&key, &service, &pods));
                    write(context, &service, wanted, current).await
                }
            }
        }
    };
    controller::run::<_, Error, _, _>("endpoints", queue, 5, reconcile).await;
}

/// Whether a service has endpoints from here. Behind an external name there are none, whatever the selector says.
fn is_followed(service: &Service) -> bool {
    let selects = |s: &ServiceSpec| s.selector.as_ref().is_some_and(|selector| !selector.is_empty());
    service.spec.as_ref().is_some_and(|s| selects(s) && s.type_.as_deref() != Some("ExternalName"))
}

/// Endpoints of a service that is gone. Those that somebody else wrote by hand stay.
async fn remove(context: &Context, current: Option<Endpoints>) -> Result<Next, Error> {
    let ours = |e: &Endpoints| e.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).map(String::as_str) == Some(MANAGER);
    if let Some(current) = current.filter(ours) {
        let options = DeleteOptions::of_uid(current.uid());
        context.client.delete::<Endpoints>(current.namespace(), current.name(), &options).await.optional()?;
    }
    Ok(Next::Wait)
}

async fn write(context: &Context, service: &Service, wanted: Endpoints, current: Option<Endpoints>) -> Result<Next, Error> {
    let client = &context.client;
    let (written, done) = match current {
        None => {
            let done = client.create(&wanted).await;
            (wanted, done)
        }
        Some(current) if is_same(&current, &wanted) => return Ok(Next::Wait),
        Some(current) => {
            let changed = changed(current, wanted);
            let done = client.update(&changed).await;
            (changed, done)
        }
    };
    match done {
        Err(e) if e.is_namespace_terminating() => Ok(Next::Wait),
        Err(e) => {
            let (reason, what) = match written.metadata.resource_version {
                None => ("FailedToCreateEndpoint", "create endpoint for service"),
                Some(_) => ("FailedToUpdateEndpoint", "update endpoint"),
            };
            let message = format!("Failed to {what} {}/{}: {e}", service.namespace(), service.name());
            context.recorder.about(&written, EventType::Warning, reason, message);
            Err(e)
        }
        Ok(_) => Ok(Next::Wait),
    }
}

fn is_same(current: &Endpoints, wanted: &Endpoints) -> bool {
    let cut = |e: &Endpoints| e.metadata.annotations.as_ref().and_then(|a| a.get(OVER_CAPACITY)).cloned();
    current.subsets == wanted.subsets && current.metadata.labels == wanted.metadata.labels && cut(current) == cut(wanted)
}

/// What there is, as it should be. Annotations of others stay.
fn changed(current: Endpoints, wanted: Endpoints) -> Endpoints {
    let mut annotations = annotated(current.metadata.annotations, None).unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    annotations.extend(wanted.metadata.annotations.unwrap_or_default());
    let annotations = Some(annotations).filter(|a| !a.is_empty());
    let metadata = ObjectMeta { labels: wanted.metadata.labels, annotations, ..current.metadata };
    Endpoints { metadata, subsets: wanted.subsets }
}

/// Cuts what is too much off: addresses that are not ready go first, and each subset keeps its share.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let len = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|s| len(&s.addresses)).sum();
    let unready: usize = subsets.iter().map(|s| len(&s.not_ready_addresses)).sum();
    if ready + unready <= MOST {
        return false;
    }
    let (room, of) = if ready > MOST { (MOST, ready) } else { (MOST - ready, unready) };
    let mut left = room;
    for subset in subsets {
        if ready > MOST {
            subset.not_ready_addresses = None;
        }
        let list = if ready > MOST { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (len(list) * room).div_ceil(of).min(left);
        list.iter_mut().for_each(|l| l.truncate(share));
        left -= len(list);
        list.take_if(|l| l.is_empty());
    }
    true
}

fn plan(service: &Service, pods: &[Pod]) -> Endpoints {
    let spec = service.spec.clone().unwrap_or_default();
    let family = spec.ip_families.as_ref().and_then(|f| f.first()).map_or("IPv4", String::as_str);
    let publish = spec.publish_not_ready_addresses.unwrap_or(false);
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let mut groups: BTreeMap<String, EndpointSubset> = BTreeMap::new();
    let mut sorted: Vec<(&Pod, String)> =
        pods.iter().filter(|p| publish || p.metadata.deletion_timestamp.is_none()).filter_map(|p| Some((p, address(p, family)?))).collect();
    sorted.sort_by(|a, b| a.1.cmp(&b.1));
    for (pod, ip) in sorted {
        let ports: Vec<EndpointPort> = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|p| {
                Some(EndpointPort {
                    name: p.name.clone().filter(|n| !n.is_empty()),
                    port: target_port(p, pod)?,
                    protocol: Some(p.protocol.clone().unwrap_or_else(|| "TCP".into())),
                    app_protocol: p.app_protocol.clone(),
                })
            })
            .collect();
        // Only a headless service without ports has addresses without any.
        if ports.is_empty() && !(headless && spec.ports.as_ref().is_none_or(Vec::is_empty)) {
            continue;
        }
        let key = serde_json::to_string(&ports).unwrap_or_default();
        let subset = groups
            .entry(key)
            .or_insert_with(|| EndpointSubset { ports: Some(ports).filter(|p| !p.is_empty()), ..EndpointSubset::default() });
        let list = if publish || is_ready(pod) { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.get_or_insert_default().push(entry(service, pod, ip));
    }
    let mut subsets: Vec<EndpointSubset> = groups.into_values().collect();
    let cut = truncate(&mut subsets);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    if headless {
        labels.insert("service.kubernetes.io/headless".into(), String::new());
    }
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: cut.then(|| BTreeMap::from([(OVER_CAPACITY.to_owned(), "truncated".to_owned())])),
            ..ObjectMeta::default()
        },
        subsets: Some(subsets).filter(|s| !s.is_empty()),
    }
}

fn entry(service: &Service, pod: &Pod, ip: String) -> EndpointAddress {
    let spec = pod.spec.as_ref();
    EndpointAddress {
        ip,
        hostname: spec
            .filter(|s| s.subdomain.as_deref() == Some(service.name()))
            .and_then(|s| s.hostname.clone())
            .filter(|h| !h.is_empty()),
        node_name: spec.and_then(|s| s.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn service(more: serde_json::Value) -> Service {
        let mut service = json!({"metadata": {"name": "web", "namespace": "a"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
        for (key, value) in more.as_object().unwrap() {
            service["spec"][key] = value.clone();
        }
        serde_json::from_value(service).unwrap()
    }

    fn pods(numbers: std::ops::Range<usize>, ready: &str) -> Vec<Pod> {
        let pod = |n: usize| {
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{n}"), "namespace": "a"}, "spec": {"containers": []},
                "status": {"podIP": format!("10.0.{}.{}", n / 250, n % 250), "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        numbers.map(pod).collect()
    }

    #[test]
    fn of_too_many_addresses_those_that_are_not_ready_go_first() {
        let counts = |pods: &[Pod]| {
            let made = plan(&service(json!({})), pods);
            let cut = made.metadata.annotations.as_ref().is_some_and(|a| a[OVER_CAPACITY] == "truncated");
            let subset = made.subsets.unwrap().remove(0);
            (subset.addresses.map_or(0, |a| a.len()), subset.not_ready_addresses.map_or(0, |a| a.len()), cut)
        };
        // By their addresses the ones that are not ready would be first.
        assert_eq!(counts(&[pods(0..300, "False"), pods(300..1200, "True")].concat()), (900, 100, true));
        assert_eq!(counts(&[pods(0..300, "False"), pods(300..1400, "True")].concat()), (1000, 0, true));
        assert_eq!(counts(&[pods(0..300, "False"), pods(300..1000, "True")].concat()), (700, 300, false));
    }

    #[test]
    fn annotations_of_others_stay_and_those_of_before_do_not() {
        let annotated = |all: serde_json::Value| -> Endpoints {
            serde_json::from_value(json!({"metadata": {"name": "web", "resourceVersion": "1", "annotations": all}})).unwrap()
        };
        let current =
            annotated(json!({"mine": "x", OVER_CAPACITY: "truncated", "endpoints.kubernetes.io/last-change-trigger-time": "then"}));
        assert_eq!(
            changed(current, plan(&service(json!({})), &[])).metadata.annotations.unwrap(),
            BTreeMap::from([("mine".into(), "x".into())])
        );
    }

    #[test]
    fn a_service_has_endpoints_where_it_selects_pods_and_has_no_other_name() {
        assert!(is_followed(&service(json!({}))) && !is_followed(&service(json!({"selector": null}))));
        assert!(!is_followed(&service(json!({"type": "ExternalName", "externalName": "example.com"}))));
        let headless = |ports: serde_json::Value| plan(&service(json!({"clusterIP": "None", "ports": ports})), &pods(1..2, "True")).subsets;
        assert_eq!(headless(json!([])).unwrap()[0].ports, None);
        assert_eq!(headless(json!([{"port": 80, "targetPort": "nowhere"}])), None, "a port that the pod has not");
    }

    #[test]
    fn ready_and_unready_addresses_are_kept_apart() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "a"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        }))
        .unwrap();
        let pod = |n: u8, ready: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": format!("p{n}"), "namespace": "a"}, "spec": {"containers": []},
                "status": {"podIP": format!("10.0.0.{n}"), "conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        let made = plan(&service, &[pod(2, "False"), pod(1, "True")]);
        let subset = &made.subsets.unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert_eq!(subset.ports.as_ref().unwrap()[0].port, 8080);
    }
}
