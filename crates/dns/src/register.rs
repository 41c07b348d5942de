//! The Service `kube-system/kube-dns` and the EndpointSlice that leads it to this server.
//!
//! Pods find cluster DNS by a service address like any other service; the service has no selector, because the server is
//! no pod. The objects are written through the API under the component's own identity and put back when somebody removes
//! them. Must never: change a Service of that name that somebody else made (it may lead to another DNS server on purpose).

use ferrokube_client::k8s_openapi::api::core::v1::Service;
use ferrokube_client::k8s_openapi::api::discovery::v1::EndpointSlice;
use ferrokube_client::{Cache, Caches, Client, Optional, Resource, Selection};
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Namespace of the Service.
pub const NAMESPACE: &str = "kube-system";
/// Name of the Service.
pub const SERVICE: &str = "kube-dns";
const MANAGER: &str = "dns.ferrokube";
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Cluster address of the Service: the tenth of the service range by convention.
    pub cluster_ip: IpAddr,
    /// Where this server answers, reachable from pods.
    pub server: SocketAddr,
    /// Port of `/metrics` on the same address, when served.
    pub metrics_port: Option<u16>,
    /// The node this server runs on.
    pub node_name: String,
}

/// Writes Service and EndpointSlice and keeps them there. Call it when the server is ready. Runs until dropped.
pub async fn register(client: Client, caches: &Caches, registration: Registration) {
    let only = |name: &str| Selection { namespace: NAMESPACE.into(), fields: format!("metadata.name={name}"), ..Selection::default() };
    let services: Cache<Service> = caches.select(only(SERVICE));
    let slices: Cache<EndpointSlice> = caches.select(only(&slice_name(&registration)));
    let wake = Arc::new(Notify::new());
    let (a, b) = (wake.clone(), wake.clone());
    services.on_change(move |_| a.notify_one());
    slices.on_change(move |_| b.notify_one());
    wake.notify_one();
    let mut delay = FIRST_RETRY;
    loop {
        wake.notified().await;
        while let Err(e) = ensure(&client, &registration).await {
            tracing::warn!("cannot register the DNS service, will try again: {e}");
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(LAST_RETRY);
        }
        delay = FIRST_RETRY;
    }
}

fn slice_name(registration: &Registration) -> String {
    format!("{SERVICE}-{}", registration.node_name)
}

async fn ensure(client: &Client, registration: &Registration) -> ferrokube_client::Result<()> {
    let service = match client.get::<Service>(NAMESPACE, SERVICE).await.optional()? {
        Some(service) => service,
        None => client.create(&service(registration)).await?,
    };
    let has_selector = service.spec.as_ref().and_then(|s| s.selector.as_ref()).is_some_and(|s| !s.is_empty());
    if has_selector {
        tracing::debug!("the Service {NAMESPACE}/{SERVICE} has a selector: another DNS server is installed");
        return Ok(());
    }
    let mut want = slice(registration, service.metadata.uid.as_deref().unwrap_or_default());
    match client.get::<EndpointSlice>(NAMESPACE, &slice_name(registration)).await.optional()? {
        None => client.create(&want).await.map(drop),
        Some(have) if same(&have, &want) => Ok(()),
        Some(have) => {
            want.metadata.resource_version = have.metadata.resource_version;
            client.update(&want).await.map(drop)
        }
    }
}

fn same(have: &EndpointSlice, want: &EndpointSlice) -> bool {
    have.endpoints == want.endpoints && have.ports == want.ports && have.metadata.labels == want.metadata.labels
}

/// Name, protocol, service port, port of the server.
fn ports(registration: &Registration) -> Vec<(&'static str, &'static str, u16, u16)> {
    let port = registration.server.port();
    let mut ports = vec![("dns", "UDP", 53, port), ("dns-tcp", "TCP", 53, port)];
    ports.extend(registration.metrics_port.map(|metrics| ("metrics", "TCP", 9153, metrics)));
    ports
}

fn service(registration: &Registration) -> Service {
    let ports: Vec<_> = ports(registration)
        .into_iter()
        .map(|(name, protocol, port, target)| json!({"name": name, "protocol": protocol, "port": port, "targetPort": target}))
        .collect();
    typed(json!({
        "metadata": {
            "name": SERVICE,
            "namespace": NAMESPACE,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
            "annotations": {"prometheus.io/port": "9153", "prometheus.io/scrape": "true"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": registration.cluster_ip,
            "clusterIPs": [registration.cluster_ip],
            "ports": ports,
        },
    }))
}

fn slice(registration: &Registration, service_uid: &str) -> EndpointSlice {
    let ports: Vec<_> = ports(registration)
        .into_iter()
        .map(|(name, protocol, _, target)| json!({"name": name, "protocol": protocol, "port": target}))
        .collect();
    typed(json!({
        "metadata": {
            "name": slice_name(registration),
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
                "k8s-app": "kube-dns",
            },
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": SERVICE, "uid": service_uid}],
        },
        "addressType": if registration.server.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{
            "addresses": [registration.server.ip()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": registration.node_name,
        }],
        "ports": ports,
    }))
}

fn typed<R: Resource>(value: serde_json::Value) -> R {
    R::decode(value.to_string().as_bytes()).expect("our own objects have the kind's shape")
}
