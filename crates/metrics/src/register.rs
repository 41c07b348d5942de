//! The APIService `v1beta1.metrics.k8s.io`, the Service `kube-system/metrics-server` and the EndpointSlice that lead to this server.
//!
//! They are written through the API and put back when somebody removes them. Must never: touch objects of these names that somebody
//! else made (they lead to another metrics-server on purpose), nor fight with another server of the same cluster over what they
//! say: what is there is written over once, at the start.

use crate::{GROUP, NAMESPACE, SERVICE, VERSION};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferrokube_client::{Caches, Client, DeleteOptions, Optional, Patch, Result, Selection, Target};
use http::Method;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Who writes these objects.
const MANAGER: &str = "ferrokube";
/// The label that says that an object is ours.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// There is one server per cluster: the next one takes the place of the last.
const SLICE: &str = "metrics-server-ferrokube";
const SLICE_MANAGER: &str = "metrics-server.ferrokube";
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// What to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Where this server answers, reachable from the API server.
    pub server: SocketAddr,
    /// The certificate to take from it, PEM.
    pub certificate: String,
    /// The node this server runs on.
    pub node_name: String,
}

/// Writes the objects and keeps them there. Call it when the server is ready. Runs until dropped.
pub async fn register(client: Client, caches: &Caches, registration: Registration) {
    let wake = Arc::new(Notify::new());
    let watched = [api_service_target(), service_target(), slice_target()].map(|target| caches.dynamic(only(&target)));
    for cache in &watched {
        let wake = wake.clone();
        cache.on_change(move |_| wake.notify_one());
    }
    wake.notify_one();
    let (mut over, mut told) = (Over::Anything, false);
    loop {
        wake.notified().await;
        let other = insist(&client, &registration, over).await;
        match &other {
            None => over = Over::Nothing,
            Some(what) if !told => {
                tracing::info!("{what} is somebody else's: another metrics-server is installed, ours is not registered");
            }
            Some(_) => {}
        }
        told = other.is_some();
    }
}

/// Tries until the API server lets it.
async fn insist(client: &Client, registration: &Registration, over: Over) -> Option<String> {
    let mut delay = FIRST_RETRY;
    loop {
        match ensure(client, registration, over).await {
            Ok(other) => return other,
            Err(e) => tracing::warn!("cannot register the metrics server, will try again: {e}"),
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LAST_RETRY);
    }
}

/// Takes back what a server of ours registered, when there is to be none.
///
/// # Errors
/// The API server says no, or is not there.
pub async fn withdraw(client: &Client) -> Result<()> {
    let found = Found::look(client).await?;
    if found.others().is_some() {
        return Ok(());
    }
    let there = [(&found.api_service, api_service_target()), (&found.service, service_target()), (&found.slice, slice_target())];
    for (_, target) in there.into_iter().filter(|(object, _)| object.is_some()) {
        client.delete_target(&target, &DeleteOptions::default()).await.optional()?;
    }
    Ok(())
}

/// Whether what is there is written over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Anything,
    Nothing,
}

/// What is in the cluster.
struct Found {
    api_service: Option<Value>,
    service: Option<Value>,
    slice: Option<Value>,
}

impl Found {
    async fn look(client: &Client) -> Result<Self> {
        let get = async |target: Target| client.request(Method::GET, &target, "", None).await.optional();
        let (api_service, service, slice) = tokio::try_join!(get(api_service_target()), get(service_target()), get(slice_target()))?;
        Ok(Found { api_service, service, slice })
    }

    /// The object that somebody else made, in words. A selector was not given by us either.
    fn others(&self) -> Option<String> {
        let foreign = |object: &Value| object["metadata"]["labels"][MANAGED_BY] != MANAGER;
        let selects = |service: &Value| service["spec"]["selector"].as_object().is_some_and(|s| !s.is_empty());
        if self.api_service.as_ref().is_some_and(foreign) {
            return Some(format!("the APIService {VERSION}.{GROUP}"));
        }
        let service = self.service.as_ref().is_some_and(|s| foreign(s) || selects(s));
        service.then(|| format!("the Service {NAMESPACE}/{SERVICE}"))
    }
}

/// Writes what is missing, or different; the answer is whose way it would be in.
async fn ensure(client: &Client, registration: &Registration, over: Over) -> Result<Option<String>> {
    let found = Found::look(client).await?;
    if let Some(other) = found.others() {
        return Ok(Some(other));
    }
    let write = async |found: Option<&Value>, target: Target, want: Value| match found {
        Some(have) if over == Over::Nothing || says(have, &want) => Ok(have.clone()),
        _ => {
            let written = client.patch_target(&target, &Patch::Apply(MANAGER, want)).await?;
            serde_json::from_slice(&written).map_err(|source| ferrokube_client::Error::Decode { what: "JSON", source })
        }
    };
    let service = write(found.service.as_ref(), service_target(), service()).await?;
    let uid = service["metadata"]["uid"].as_str().unwrap_or_default();
    write(found.slice.as_ref(), slice_target(), slice(registration, uid)).await?;
    write(found.api_service.as_ref(), api_service_target(), api_service(registration)).await?;
    Ok(None)
}

/// Whether an object has all that is wanted; what the server has added does not matter.
fn says(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => want.iter().all(|(key, want)| have.get(key).is_some_and(|have| says(have, want))),
        (Value::Array(have), Value::Array(want)) => have.len() == want.len() && have.iter().zip(want).all(|(have, want)| says(have, want)),
        _ => have == want,
    }
}

fn api_service_target() -> Target {
    Target {
        group: "apiregistration.k8s.io".into(),
        version: "v1".into(),
        resource: "apiservices".into(),
        name: format!("{VERSION}.{GROUP}"),
        ..Target::default()
    }
}

fn service_target() -> Target {
    Target { version: "v1".into(), resource: "services".into(), namespace: NAMESPACE.into(), name: SERVICE.into(), ..Target::default() }
}

fn slice_target() -> Target {
    Target {
        group: "discovery.k8s.io".into(),
        version: "v1".into(),
        resource: "endpointslices".into(),
        namespace: NAMESPACE.into(),
        name: SLICE.into(),
        ..Target::default()
    }
}

/// The subscription to one object.
fn only(target: &Target) -> Selection {
    Selection {
        group: target.group.clone(),
        version: target.version.clone(),
        resource: target.resource.clone(),
        namespace: target.namespace.clone(),
        fields: format!("metadata.name={}", target.name),
        ..Selection::default()
    }
}

fn labels() -> Value {
    json!({"k8s-app": SERVICE, MANAGED_BY: MANAGER})
}

fn api_service(registration: &Registration) -> Value {
    json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": format!("{VERSION}.{GROUP}"), "labels": labels()},
        "spec": {
            "group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100,
            "service": {"namespace": NAMESPACE, "name": SERVICE, "port": 443},
            "caBundle": STANDARD.encode(&registration.certificate),
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE, "labels": labels()},
        "spec": {"type": "ClusterIP", "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": "https"}]},
    })
}

fn slice(registration: &Registration, service_uid: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": SLICE, "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": SLICE_MANAGER,
                "k8s-app": SERVICE,
                MANAGED_BY: MANAGER,
            },
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": SERVICE, "uid": service_uid}],
        },
        "addressType": if registration.server.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{
            "addresses": [registration.server.ip()],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": registration.node_name,
        }],
        "ports": [{"name": "https", "protocol": "TCP", "port": registration.server.port()}],
    })
}

#[cfg(test)]
#[path = "register_tests.rs"]
mod tests;
