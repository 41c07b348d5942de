//! The cloud-controller-manager against a real API server, under its own identity; the test is the place.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "../../controllers/tests/common/mod.rs"]
mod common;

use common::{Cluster, name};
use ferrokube_client::Caches;
use ferrokube_client::metrics::Metrics;
use ferrokube_cloud::bare_metal::{Addresses, BareMetal};
use ferrokube_cloud::{Config, InstanceMetadata, Instances, Provider, ProviderError, Route, Routes, role};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Method;
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A place whose machines are a map.
#[derive(Default)]
struct Place {
    machines: Mutex<BTreeMap<String, bool>>,
    routes: Mutex<Vec<Route>>,
}

impl Provider for Place {
    fn name(&self) -> &str {
        "test"
    }
    fn instances(&self) -> Option<&dyn Instances> {
        Some(self)
    }
    fn routes(&self) -> Option<&dyn Routes> {
        Some(self)
    }
}

type Answer<'a, T> = BoxFuture<'a, Result<T, ProviderError>>;

fn name_of(node: &Node) -> String {
    node.metadata.name.clone().unwrap()
}

impl Instances for Place {
    fn exists<'a>(&'a self, node: &'a Node) -> Answer<'a, bool> {
        async { Ok(self.machines.lock().contains_key(&name_of(node))) }.boxed()
    }
    fn is_shut_down<'a>(&'a self, node: &'a Node) -> Answer<'a, bool> {
        async { Ok(self.machines.lock().get(&name_of(node)).is_some_and(|runs| !runs)) }.boxed()
    }
    fn metadata<'a>(&'a self, node: &'a Node) -> Answer<'a, InstanceMetadata> {
        let provider_id = format!("test://{}", name_of(node));
        async { Ok(InstanceMetadata { provider_id, zone: "z".into(), ..InstanceMetadata::default() }) }.boxed()
    }
}

impl Routes for Place {
    fn list<'a>(&'a self, _: &'a str) -> Answer<'a, Vec<Route>> {
        async { Ok(self.routes.lock().clone()) }.boxed()
    }
    fn create<'a>(&'a self, _: &'a str, route: &'a Route) -> Answer<'a, ()> {
        self.routes.lock().push(route.clone());
        async { Ok(()) }.boxed()
    }
    fn delete<'a>(&'a self, _: &'a str, route: &'a Route) -> Answer<'a, ()> {
        self.routes.lock().retain(|r| r != route);
        async { Ok(()) }.boxed()
    }
}

async fn start(provider: impl FnOnce(&Caches) -> Arc<dyn Provider>) -> (Cluster, JoinHandle<()>) {
    let cluster = Cluster::with(&["serviceaccount-controller"]).await;
    cluster.post(&format!("{RBAC}/clusterroles"), role::cluster_role()).await;
    cluster.post(&format!("{RBAC}/clusterrolebindings"), role::binding()).await;
    let user = format!("system:serviceaccount:kube-system:{}", role::ACCOUNT);
    let client = cluster.client_as(&user);
    let caches = Caches::new(client.clone());
    let provider = provider(&caches);
    let (cluster_name, metrics) = ("kubernetes".into(), Metrics::default());
    let config = Config { caches, client, provider, cluster_name, metrics, controllers: vec!["*".to_owned()] };
    (cluster, tokio::spawn(ferrokube_cloud::run(config)))
}

async fn node(cluster: &Cluster, name: &str, spec: Value, ready: &str, address: &str) {
    cluster.post("/api/v1/nodes", json!({"metadata": {"name": name}, "spec": spec})).await;
    let status = json!({"conditions": [{"type": "Ready", "status": ready}], "addresses": [{"type": "InternalIP", "address": address}]});
    cluster.patch(&format!("/api/v1/nodes/{name}/status"), json!({"status": status})).await;
}

fn balanced(name: &str, port: u16) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "LoadBalancer", "selector": {"app": name}, "ports": [{"port": port}]}})
}

fn tainted(node: &Value, key: &str) -> bool {
    node["spec"]["taints"].as_array().into_iter().flatten().any(|t| t["key"] == key)
}

async fn addresses(cluster: &Cluster, service: &str) -> Vec<String> {
    let service = cluster.get(&format!("{SERVICES}/{service}")).await;
    let ingress = service["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
    ingress.iter().map(|i| i["ip"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_type_load_balancer_gets_the_addresses_of_the_nodes() {
    let reserved = [6443].into();
    let (cluster, cloud) = start(|caches| Arc::new(BareMetal::new(Addresses::Nodes { reserved }, caches))).await;
    node(&cluster, "n1", json!({}), "True", "192.0.2.1").await;
    cluster.post(SERVICES, balanced("web", 80)).await;
    cluster.eventually("the node's address", async || addresses(&cluster, "web").await == ["192.0.2.1"]).await;
    node(&cluster, "n2", json!({}), "True", "192.0.2.2").await;
    cluster.eventually("both nodes'", async || addresses(&cluster, "web").await == ["192.0.2.1", "192.0.2.2"]).await;
    let told = async |text: &str| cluster.events().await.iter().any(|e| e.contains(text));
    for reason in ["EnsuringLoadBalancer", "EnsuredLoadBalancer", "Updated load balancer with new hosts"] {
        cluster.eventually(reason, async || told(reason).await).await;
    }
    // A port of the nodes is given once; the next service gets it when the first one gives it back.
    cluster.post(SERVICES, balanced("second", 80)).await;
    cluster.eventually("it is said why not", async || told("port 80/TCP of the nodes is in use by service default/web").await).await;
    assert!(addresses(&cluster, "second").await.is_empty());
    cluster.post(SERVICES, balanced("api", 6443)).await;
    cluster.eventually("nor a port of the node", async || told("used by the nodes themselves").await).await;
    drop(cluster.ask(Method::DELETE, &format!("{SERVICES}/web"), None).await);
    cluster.eventually("the first is gone", async || cluster.try_get(&format!("{SERVICES}/web")).await.is_none()).await;
    cluster.eventually("the second has it", async || addresses(&cluster, "second").await.len() == 2).await;
    cloud.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_gives_each_service_its_own_address_and_takes_it_back() {
    let ranges = vec!["198.51.100.0/31".parse().unwrap()];
    let (cluster, cloud) = start(|caches| Arc::new(BareMetal::new(Addresses::Pool(ranges), caches))).await;
    cluster.post(SERVICES, balanced("a", 80)).await;
    cluster.eventually("the first address", async || addresses(&cluster, "a").await == ["198.51.100.0"]).await;
    cluster.post(SERVICES, balanced("b", 80)).await;
    cluster.eventually("the second", async || addresses(&cluster, "b").await == ["198.51.100.1"]).await;
    let mut foreign = balanced("c", 80);
    foreign["spec"]["loadBalancerClass"] = "example.com/other".into();
    cluster.post(SERVICES, foreign).await;
    let finalizers = cluster.get(&format!("{SERVICES}/a")).await["metadata"]["finalizers"].clone();
    assert_eq!(finalizers, json!(["service.kubernetes.io/load-balancer-cleanup"]));
    // A service that is no longer of the type gives its address back, and the finalizer goes.
    cluster.patch(&format!("{SERVICES}/a"), json!({"spec": {"type": "ClusterIP"}})).await;
    cluster
        .eventually("it has neither", async || {
            let service = cluster.get(&format!("{SERVICES}/a")).await;
            addresses(&cluster, "a").await.is_empty() && service["metadata"]["finalizers"].is_null()
        })
        .await;
    cluster.post(SERVICES, balanced("d", 80)).await;
    cluster.eventually("the next one gets it", async || addresses(&cluster, "d").await == ["198.51.100.0"]).await;
    assert!(cluster.get(&format!("{SERVICES}/c")).await["metadata"]["finalizers"].is_null(), "another's class");
    cloud.abort();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_completed_routed_tainted_and_removed_as_the_place_says() {
    let place = Arc::new(Place::default());
    place.machines.lock().insert("n1".into(), true);
    let provider = place.clone();
    let (cluster, cloud) = start(|_| provider).await;
    let taint = json!([{"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"}]);
    node(&cluster, "n1", json!({"taints": taint, "podCIDR": "10.1.0.0/24"}), "True", "192.0.2.1").await;
    let path = "/api/v1/nodes/n1";
    cluster
        .eventually("it is complete", async || {
            let node = cluster.get(path).await;
            node["spec"]["providerID"] == "test://n1"
                && !tainted(&node, "node.cloudprovider.kubernetes.io/uninitialized")
                && node["metadata"]["labels"]["topology.kubernetes.io/zone"] == "z"
        })
        .await;
    cluster
        .eventually("its pods have a route, and it says so", async || {
            let conditions = cluster.get(path).await["status"]["conditions"].clone();
            let said = conditions.as_array().unwrap().iter().any(|c| c["type"] == "NetworkUnavailable" && c["status"] == "False");
            said && place.routes.lock().iter().any(|r| r.destination == "10.1.0.0/24" && r.node == "n1")
        })
        .await;
    place.machines.lock().insert("n1".into(), false);
    cluster.patch(&format!("{path}/status"), json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})).await;
    let shut = async || tainted(&cluster.get(path).await, "node.cloudprovider.kubernetes.io/shutdown");
    cluster.eventually("it is shut down", shut).await;
    place.machines.lock().remove("n1");
    cluster.eventually("it goes with its machine", async || cluster.list("/api/v1/nodes").await.iter().all(|n| name(n) != "n1")).await;
    cloud.abort();
    cluster.stop().await;
}
