//! What a pod is as an endpoint of a service: pure.
//!
//! Source: `k8s.io/endpointslice/utils.go`.

use crate::selectors::{Selectors, plain};
use ferrokube_client::cache::decoded;
use ferrokube_client::{Cache, Named};
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::sync::Arc;

/// The selectors of services, by which a pod's services are found.
pub(crate) fn selectors(services: &Cache<Service>) -> Arc<Selectors> {
    Selectors::of(services, |service: Service| plain(service.spec?.selector))
}

/// The pods that a service selects.
pub(crate) fn selected(service: &Service, pods: &Cache<Pod>) -> Vec<Pod> {
    let Some(selector) = service.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|s| !s.is_empty()) else { return Vec::new() };
    let matching = pods.objects_in(service.namespace());
    let matching = matching.iter().filter(|o| selector.iter().all(|(k, v)| o.label(k) == Some(v)));
    matching.filter_map(|o| decoded(o)).collect()
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

pub(super) fn endpoint(service: &Service, pod: &Pod, family: &str, zone: &dyn Fn(&str) -> Option<String>) -> Option<Endpoint> {
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

pub(super) fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
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
