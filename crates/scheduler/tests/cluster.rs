//! The scheduler against a real API server in this process.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use ferrokube_api::{Change, Selection};
use ferrokube_apiserver::tokens::TokenConfig;
use ferrokube_apiserver::{ApiServer, Config, Running, UserInfo};
use ferrokube_client::{Client, Transport, TransportError};
use ferrokube_scheduler::config::Configuration;
use ferrokube_store::embedded::{Embedded, Options};
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How long anything may take: debug builds on busy machines run this.
const PATIENCE: Duration = Duration::from_secs(120);

/// As the binary wires it: calls into the server under an identity.
struct InProcess(Arc<ApiServer>, UserInfo);

impl Transport for InProcess {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let (parts, body) = self.0.call(self.1.clone(), request).await.into_parts();
            Ok(http::Response::from_parts(parts, body.collect().await.map_err(TransportError::new)?))
        })
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        match self.0.subscribe(self.1.clone(), selection.clone()) {
            Ok(changes) => ferrokube_testkit::late(changes),
            Err(status) => panic!("{selection:?} is refused: {status}"),
        }
    }
}

struct Cluster {
    as_scheduler: Client,
    _running: Running,
    admin: Client,
    server: Arc<ApiServer>,
    _folder: tempfile::TempDir,
    scheduler: tokio::task::JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        Cluster::start_with(Configuration::default()).await
    }

    async fn start_with(configuration: Configuration) -> Self {
        // The scheduler's warnings belong to a failing test's output.
        let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_test_writer().try_init();
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(folder.path(), Options { fsync: false, ..Options::default() }).unwrap();
        let tokens = TokenConfig {
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            api_audiences: Vec::new(),
            signing_key: rcgen::KeyPair::generate().unwrap().serialize_pem(),
            verify_keys: Vec::new(),
            extend_expiration: true,
            max_expiration_seconds: 0,
        };
        let mut config = Config::new(Arc::new(store), tokens);
        config.service_cidrs = vec!["10.96.0.0/16".to_owned()];
        let running = ApiServer::start(config).await.unwrap();
        let server = running.server.clone();
        let client =
            |user: &str, groups: &[&str]| Client::new(Arc::new(InProcess(server.clone(), UserInfo::component(user, groups))), "test");
        let admin = client("admin", &["system:masters"]);
        let as_scheduler = client("system:kube-scheduler", &["system:authenticated"]);
        let scheduler = as_scheduler.clone();
        let scheduler = tokio::spawn(ferrokube_scheduler::run(
            scheduler,
            ferrokube_scheduler::Config { configuration, seed: Some(1), ..Default::default() },
        ));
        let cluster = Cluster { as_scheduler, _running: running, admin, server, _folder: folder, scheduler };
        for namespace in ["default", "kube-system"] {
            let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            cluster.post(&accounts, &json!({"metadata": {"name": "default"}})).await;
        }
        cluster
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: &Value) -> Value {
        let response = self.admin.send(method, path, Some(kind), Bytes::from(body.to_string())).await;
        serde_json::from_slice(response.unwrap_or_else(|e| panic!("{path}: {e}")).body()).unwrap()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        self.send(Method::POST, path, "application/json", body).await
    }

    /// A node that the scheduler knows.
    async fn node(&self, name: &str, cpu: &str) {
        self.unknown_node(name, cpu).await;
        self.is_known(name).await;
    }

    /// A node that the scheduler will know some time.
    async fn unknown_node(&self, name: &str, cpu: &str) {
        let meta = json!({"name": name, "labels": {"kubernetes.io/hostname": name}});
        self.post("/api/v1/nodes", &json!({"metadata": meta})).await;
        let amounts = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
        let status = json!({"status": {"capacity": amounts, "allocatable": amounts}});
        self.send(Method::PATCH, &format!("/api/v1/nodes/{name}/status"), "application/merge-patch+json", &status).await;
        // Admission taints new nodes until the node controller takes the taint away; there is none here.
        let patch = json!({"spec": {"taints": null}});
        self.send(Method::PATCH, &format!("/api/v1/nodes/{name}"), "application/merge-patch+json", &patch).await;
    }

    /// Waits until the scheduler knows a node as it is now, and with it all that happened to nodes before: the news of a
    /// kind come in order, those of two kinds do not.
    async fn is_known(&self, node: &str) {
        let pods = "/api/v1/namespaces/kube-system/pods";
        let selector = json!({"kubernetes.io/hostname": node});
        let spec = json!({"nodeSelector": selector, "terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "i"}]});
        self.post(pods, &json!({"metadata": {"name": node}, "spec": spec})).await;
        self.wait_in("kube-system", "pods", node, |p| p["metadata"]["name"] == node && p["spec"]["nodeName"] == node).await;
        self.send(Method::DELETE, &format!("{pods}/{node}"), "application/json", &json!({"gracePeriodSeconds": 0})).await;
    }

    async fn pod(&self, name: &str, cpu: &str, spec: &Value) {
        let mut pod = json!({"metadata": {"name": name}, "spec": {"terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "busybox", "resources": {"requests": {"cpu": cpu}}}]}});
        for (key, value) in spec.as_object().into_iter().flatten() {
            pod["spec"][key] = value.clone();
        }
        self.post(PODS, &pod).await;
    }

    /// Waits for the object of a selection that passes; the watch tells, nothing is polled.
    async fn wait(&self, resource: &str, what: &str, passes: impl Fn(&Value) -> bool) -> Value {
        self.wait_in("default", resource, what, passes).await
    }

    async fn wait_in(&self, namespace: &str, resource: &str, what: &str, passes: impl Fn(&Value) -> bool) -> Value {
        let selection = Selection { version: "v1".into(), resource: resource.into(), namespace: namespace.into(), ..Selection::default() };
        let user = UserInfo::component("admin", &["system:masters"]);
        let changes = self.server.subscribe(user, selection).map_err(|s| s.to_string()).unwrap();
        let mut changes = std::pin::pin!(changes);
        let mut seen = Vec::new();
        let search = async {
            while let Some(change) = changes.next().await {
                let Change::Set(object) = change else { continue };
                let value: Value = serde_json::from_slice(&object.json()).unwrap();
                if passes(&value) {
                    return value;
                }
                seen.push(value);
            }
            panic!("the subscription ended");
        };
        let found = tokio::time::timeout(PATIENCE, search).await;
        found.unwrap_or_else(|_| panic!("no {what} in time, only {seen:#?}"))
    }

    async fn bound(&self, name: &str) -> String {
        let pod = self.wait("pods", name, |p| p["metadata"]["name"] == name && p["spec"]["nodeName"].is_string()).await;
        pod["spec"]["nodeName"].as_str().unwrap().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.scheduler.abort();
    }
}

const PODS: &str = "/api/v1/namespaces/default/pods";

fn condition(pod: &Value) -> (&str, &str, &str) {
    let condition = pod["status"]["conditions"].as_array().and_then(|l| l.iter().find(|c| c["type"] == "PodScheduled"));
    let text = |key: &str| condition.and_then(|c| c[key].as_str()).unwrap_or_default();
    (text("status"), text("reason"), text("message"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_bound_and_an_event_says_where() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.pod("p", "1", &json!({})).await;
    assert_eq!(cluster.bound("p").await, "a");
    let event = cluster.wait("events", "event", |e| e["reason"] == "Scheduled").await;
    assert_eq!(event["message"], "Successfully assigned default/p to a");
    assert_eq!((&event["type"], &event["reportingComponent"]), (&json!("Normal"), &json!("default-scheduler")));
    assert_eq!((&event["action"], &event["count"], &event["source"]), (&json!("Binding"), &Value::Null, &json!({})));
    assert!(event["reportingInstance"].as_str().is_some_and(|i| i.starts_with("default-scheduler-")) && event["eventTime"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_without_a_place_says_why_and_gets_one_when_a_node_comes() {
    let cluster = Cluster::start().await;
    cluster.node("a", "1").await;
    cluster.pod("p", "2", &json!({})).await;
    let pod = cluster.wait("pods", "condition", |p| condition(p).0 == "False").await;
    let message = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(condition(&pod), ("False", "Unschedulable", message));
    let event = cluster.wait("events", "event", |e| e["reason"] == "FailedScheduling").await;
    assert_eq!((&event["type"], &event["message"]), (&json!("Warning"), &json!(message)));
    cluster.node("b", "4").await;
    assert_eq!(cluster.bound("p").await, "b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gated_pod_waits_for_its_gates() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.pod("gated", "1", &json!({"schedulingGates": [{"name": "example.com/wait"}]})).await;
    cluster.pod("other", "1", &json!({})).await;
    cluster.bound("other").await;
    let pod = cluster.wait("pods", "gated", |p| p["metadata"]["name"] == "gated").await;
    assert_eq!((condition(&pod).1, &pod["spec"]["nodeName"]), ("SchedulingGated", &Value::Null));
    cluster
        .send(Method::PATCH, &format!("{PODS}/gated"), "application/merge-patch+json", &json!({"spec": {"schedulingGates": null}}))
        .await;
    assert_eq!(cluster.bound("gated").await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_of_higher_priority_takes_the_place_of_a_lesser_one() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.post("/apis/scheduling.k8s.io/v1/priorityclasses", &json!({"metadata": {"name": "high"}, "value": 1000})).await;
    cluster.pod("low", "2", &json!({})).await;
    cluster.bound("low").await;
    cluster.pod("high", "2", &json!({"priorityClassName": "high"})).await;
    assert_eq!(cluster.bound("high").await, "a");
    let event = cluster.wait("events", "event", |e| e["reason"] == "Preempted").await;
    assert_eq!(event["involvedObject"]["name"], "low");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pods_at_once_are_all_bound_and_no_node_is_overfull() {
    let cluster = Cluster::start().await;
    for i in 0..4 {
        cluster.node(&format!("n{i}"), "10").await;
    }
    let creations = (0..200).map(|i| {
        let cluster = &cluster;
        async move { cluster.pod(&format!("p{i}"), "200m", &json!({})).await }
    });
    stream::iter(creations).buffer_unordered(32).collect::<Vec<_>>().await;
    let mut per_node = std::collections::BTreeMap::<String, usize>::new();
    for i in 0..200 {
        *per_node.entry(cluster.bound(&format!("p{i}")).await).or_default() += 1;
    }
    assert!(per_node.values().all(|n| *n == 50), "{per_node:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_waits_is_told_its_node_and_its_pod_is_bound_once_it_is() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    let class = json!({"metadata": {"name": "wait"}, "provisioner": "example.com/made", "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.post("/apis/storage.k8s.io/v1/storageclasses", &class).await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "wait", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.post(claims, &claim).await;
    cluster.pod("p", "1", &json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]})).await;
    let selected = cluster
        .wait("persistentvolumeclaims", "selected node", |c| c["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == "a")
        .await;
    assert_eq!(selected["metadata"]["name"], "data");
    let pod = cluster.wait("pods", "p", |p| p["metadata"]["name"] == "p").await;
    assert_eq!(pod["spec"]["nodeName"], Value::Null, "it is not bound before its volume");
    // Now the one who makes volumes, and the controller that binds them.
    let volume = json!({"metadata": {"name": "made"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "wait", "hostPath": {"path": "/tmp"}, "claimRef": {"namespace": "default", "name": "data", "uid": selected["metadata"]["uid"]}}});
    cluster.post("/api/v1/persistentvolumes", &volume).await;
    let patch = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "made"}});
    cluster.send(Method::PATCH, &format!("{claims}/data"), "application/merge-patch+json", &patch).await;
    assert_eq!(cluster.bound("p").await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_that_is_there_is_reserved_for_the_claim() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    let class =
        json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
    cluster.post("/apis/storage.k8s.io/v1/storageclasses", &class).await;
    let volume = json!({"metadata": {"name": "disk"}, "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "local", "hostPath": {"path": "/tmp"}}});
    cluster.post("/api/v1/persistentvolumes", &volume).await;
    let available = json!({"status": {"phase": "Available"}});
    cluster.send(Method::PATCH, "/api/v1/persistentvolumes/disk/status", "application/merge-patch+json", &available).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.post("/api/v1/namespaces/default/persistentvolumeclaims", &claim).await;
    cluster.pod("p", "1", &json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]})).await;
    let selection = Selection { version: "v1".into(), resource: "persistentvolumes".into(), ..Selection::default() };
    let user = UserInfo::component("admin", &["system:masters"]);
    let changes = cluster.server.subscribe(user, selection).map_err(|s| s.to_string()).unwrap();
    let mut changes = std::pin::pin!(changes);
    let reserved = async {
        while let Some(change) = changes.next().await {
            let Change::Set(object) = change else { continue };
            let value: Value = serde_json::from_slice(&object.json()).unwrap();
            if value["spec"]["claimRef"]["name"] == "data" {
                return value;
            }
        }
        panic!("the subscription ended");
    };
    let volume = tokio::time::timeout(PATIENCE, reserved).await.expect("the volume is reserved");
    assert_eq!(volume["metadata"]["annotations"]["pv.kubernetes.io/bound-by-controller"], "yes");
    let patch = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "disk"}});
    cluster.send(Method::PATCH, "/api/v1/namespaces/default/persistentvolumeclaims/data", "application/merge-patch+json", &patch).await;
    assert_eq!(cluster.bound("p").await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_allocated_and_reserved_before_its_pod_is_bound() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.node("b", "2").await;
    cluster.post("/apis/resource.k8s.io/v1/deviceclasses", &json!({"metadata": {"name": "gpu"}, "spec": {}})).await;
    let slice = json!({"metadata": {"name": "b-gpu"}, "spec": {"driver": "gpu.example.com", "nodeName": "b",
        "pool": {"name": "b", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "d0"}]}});
    cluster.post("/apis/resource.k8s.io/v1/resourceslices", &slice).await;
    let claim =
        json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    cluster.post("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", &claim).await;
    cluster.pod("p", "1", &json!({"resourceClaims": [{"name": "d", "resourceClaimName": "c"}]})).await;
    assert_eq!(cluster.bound("p").await, "b");
    let path = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/c";
    let claim = cluster.admin.send(Method::GET, path, None, Bytes::new()).await.unwrap();
    let claim: Value = serde_json::from_slice(claim.body()).unwrap();
    assert_eq!(claim["status"]["allocation"]["devices"]["results"][0]["device"], "d0", "{claim:#}");
    assert_eq!(claim["status"]["reservedFor"][0]["name"], "p");
    assert_eq!(claim["metadata"]["finalizers"], json!(["resource.kubernetes.io/delete-protection"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_whose_claim_is_not_there_yet_is_not_tried_before_it_is() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.post("/apis/resource.k8s.io/v1/deviceclasses", &json!({"metadata": {"name": "gpu"}, "spec": {}})).await;
    let slice = json!({"metadata": {"name": "a-gpu"}, "spec": {"driver": "gpu.example.com", "nodeName": "a",
        "pool": {"name": "a", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "d0"}]}});
    cluster.post("/apis/resource.k8s.io/v1/resourceslices", &slice).await;
    cluster.pod("early", "1", &json!({"resourceClaims": [{"name": "d", "resourceClaimName": "late"}]})).await;
    // Whoever comes after it is placed, so its turn has passed.
    cluster.pod("other", "1", &json!({})).await;
    cluster.bound("other").await;
    let early = cluster.admin.send(Method::GET, &format!("{PODS}/early"), None, Bytes::new()).await.unwrap();
    let early: Value = serde_json::from_slice(early.body()).unwrap();
    assert!(early["status"]["conditions"].is_null(), "nothing is said about it: {:#}", early["status"]);
    let claim =
        json!({"metadata": {"name": "late"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    cluster.post("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims", &claim).await;
    assert_eq!(cluster.bound("early").await, "a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_asks_for_devices_as_an_amount_gets_a_claim_and_is_told_of_it() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.node("b", "2").await;
    let slice = json!({"metadata": {"name": "b-gpu"}, "spec": {"driver": "gpu.example.com", "nodeName": "b",
        "pool": {"name": "b", "generation": 1, "resourceSliceCount": 1}, "devices": [{"name": "d0"}]}});
    cluster.post("/apis/resource.k8s.io/v1/resourceslices", &slice).await;
    let amounts = json!({"example.com/gpu": "1"});
    cluster
        .pod("p", "1", &json!({"containers": [{"name": "c", "image": "busybox", "resources": {"requests": amounts, "limits": amounts}}]}))
        .await;
    cluster.wait("events", "event", |e| e["reason"] == "FailedScheduling").await;
    // A class that comes to stand for the resource is what the pod waits for.
    cluster
        .post(
            "/apis/resource.k8s.io/v1/deviceclasses",
            &json!({"metadata": {"name": "gpu"}, "spec": {"extendedResourceName": "example.com/gpu"}}),
        )
        .await;
    assert_eq!(cluster.bound("p").await, "b");
    let read = async |path: &str| -> Value {
        let answer = cluster.admin.send(Method::GET, path, None, Bytes::new()).await.unwrap();
        serde_json::from_slice(answer.body()).unwrap()
    };
    let told = read(&format!("{PODS}/p")).await["status"]["extendedResourceClaimStatus"].clone();
    let mapping = json!({"containerName": "c", "resourceName": "example.com/gpu", "requestName": "container-0-request-0"});
    assert_eq!(told["requestMappings"], json!([mapping]), "{told:#}");
    let name = told["resourceClaimName"].as_str().unwrap();
    let claim = read(&format!("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/{name}")).await;
    assert!(name.starts_with("p-extended-resources-"), "{name}");
    assert_eq!(claim["status"]["allocation"]["devices"]["results"][0]["device"], "d0", "{claim:#}");
    assert_eq!(claim["status"]["reservedFor"][0]["name"], "p");
    assert_eq!(claim["metadata"]["ownerReferences"][0]["name"], "p");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_waits_until_its_driver_has_made_its_device_ready() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    cluster.post("/apis/resource.k8s.io/v1/deviceclasses", &json!({"metadata": {"name": "gpu"}, "spec": {}})).await;
    let device = json!({"name": "d0", "bindsToNode": true, "bindingConditions": ["ready"], "bindingFailureConditions": ["broken"]});
    let slice = json!({"metadata": {"name": "fabric"}, "spec": {"driver": "gpu.example.com", "allNodes": true,
        "pool": {"name": "fabric", "generation": 1, "resourceSliceCount": 1}, "devices": [device]}});
    cluster.post("/apis/resource.k8s.io/v1/resourceslices", &slice).await;
    let claim =
        json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    cluster.post(claims, &claim).await;
    cluster.pod("p", "1", &json!({"resourceClaims": [{"name": "d", "resourceClaimName": "c"}]})).await;
    let event = cluster.wait("events", "event", |e| e["reason"] == "BindingConditionsPending").await;
    assert_eq!(event["message"], "waiting for binding conditions for device on node a");
    // The event is told when it is decided; the claim is written beside.
    let path = format!("{claims}/c");
    let claim = loop {
        let claim = cluster.admin.send(Method::GET, &path, None, Bytes::new()).await.unwrap();
        let claim: Value = serde_json::from_slice(claim.body()).unwrap();
        if claim["status"]["reservedFor"].is_array() {
            break claim;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(claim["status"]["allocation"]["allocationTimestamp"].is_string(), "{claim:#}");
    let pod = cluster.wait("pods", "nomination", |p| p["status"]["nominatedNodeName"] == "a").await;
    assert_eq!(pod["spec"]["nodeName"], Value::Null, "not yet, but soon");
    let condition =
        json!({"type": "ready", "status": "True", "reason": "Attached", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let devices = json!([{"driver": "gpu.example.com", "pool": "fabric", "device": "d0", "conditions": [condition]}]);
    let patch = json!({"status": {"devices": devices}});
    cluster.send(Method::PATCH, &format!("{path}/status"), "application/merge-patch+json", &patch).await;
    assert_eq!(cluster.bound("p").await, "a");
    let pod = cluster.admin.send(Method::GET, "/api/v1/namespaces/default/pods/p", None, Bytes::new()).await.unwrap();
    let pod: Value = serde_json::from_slice(pod.body()).unwrap();
    assert_eq!(pod["status"].get("nominatedNodeName"), None, "{pod:#}");
}

fn configuration(more: &Value) -> Configuration {
    let mut file = json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration"});
    for (key, value) in more.as_object().into_iter().flatten() {
        file[key] = value.clone();
    }
    Configuration::read(file).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_profile_places_its_own_pods_and_speaks_by_its_name() {
    let fuller = json!({"schedulerName": "fuller", "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated"}}}]});
    let cluster = Cluster::start_with(configuration(&json!({"profiles": [{"schedulerName": "default-scheduler"}, fuller]}))).await;
    cluster.node("a", "8").await;
    cluster.node("b", "8").await;
    cluster.pod("first", "4", &json!({"nodeName": "a"})).await;
    cluster.pod("emptier", "1", &json!({})).await;
    assert_eq!(cluster.bound("emptier").await, "b");
    cluster.pod("full", "1", &json!({"schedulerName": "fuller"})).await;
    assert_eq!(cluster.bound("full").await, "a");
    let event = cluster.wait("events", "event", |e| e["reason"] == "Scheduled" && e["involvedObject"]["name"] == "full").await;
    assert_eq!(event["reportingComponent"], "fuller");
    cluster.pod("foreign", "1", &json!({"schedulerName": "somebody-else"})).await;
    cluster.pod("last", "1", &json!({})).await;
    cluster.bound("last").await;
    let foreign = cluster.wait("pods", "foreign", |p| p["metadata"]["name"] == "foreign").await;
    assert_eq!(foreign["spec"]["nodeName"], Value::Null);
}

/// An extender that refuses nodes whose names begin with `bad`, prefers `best`, and binds through the API itself.
async fn extender(asked: tokio::sync::mpsc::UnboundedSender<(String, Value)>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = asked.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                loop {
                    let text = String::from_utf8_lossy(&request).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                        continue;
                    };
                    let length = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok());
                    if body.len() < length.unwrap_or(0) {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                        continue;
                    }
                    let verb = head.split(' ').nth(1).unwrap_or_default().trim_start_matches("/ext/").to_owned();
                    let body: Value = serde_json::from_str(body).unwrap();
                    let names: Vec<String> =
                        body["NodeNames"].as_array().into_iter().flatten().map(|n| n.as_str().unwrap().to_owned()).collect();
                    let (bad, good): (Vec<String>, Vec<String>) = names.into_iter().partition(|n| n.starts_with("bad"));
                    let answer = match &*verb {
                        "filter" => {
                            let failed: serde_json::Map<String, Value> = bad.into_iter().map(|n| (n, "it is bad".into())).collect();
                            json!({"nodenames": good, "failedNodes": failed})
                        }
                        // Room may be made on nodes that are not bad, at the cost that was found.
                        "preempt" => {
                            let rooms = body["NodeNameToMetaVictims"].as_object().unwrap().iter();
                            let left: serde_json::Map<String, Value> =
                                rooms.filter(|(n, _)| !n.starts_with("bad")).map(|(n, v)| (n.clone(), v.clone())).collect();
                            json!({"NodeNameToMetaVictims": left})
                        }
                        "prioritize" => good.iter().map(|n| json!({"Host": n, "Score": if n == "best" { 10 } else { 0 }})).collect(),
                        _ => json!({}),
                    };
                    let _ = asked.send((verb, body));
                    let answer = answer.to_string();
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
                    stream.write_all(format!("{head}{answer}").as_bytes()).await.unwrap();
                    request.clear();
                }
            });
        }
    });
    format!("http://{address}/ext")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extender_filters_and_scores_and_is_told_about_its_resources_only() {
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let url = extender(sender).await;
    let managed = json!([{"name": "example.com/card", "ignoredByScheduler": true}]);
    let extender = json!({"urlPrefix": url, "filterVerb": "filter", "prioritizeVerb": "prioritize", "weight": 5, "nodeCacheCapable": true, "managedResources": managed});
    let cluster = Cluster::start_with(configuration(&json!({"extenders": [extender]}))).await;
    for (name, cpu) in [("bad-1", "64"), ("good", "64"), ("best", "8")] {
        cluster.node(name, cpu).await;
    }
    cluster.pod("plain", "1", &json!({})).await;
    cluster.bound("plain").await;
    assert!(asked.try_recv().is_err(), "it has no say in this pod");
    let cards = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"example.com/card": "1"}, "limits": {"example.com/card": "1"}}}]});
    cluster.pod("carded", "1", &cards).await;
    assert_eq!(cluster.bound("carded").await, "best");
    let (verb, body) = asked.recv().await.unwrap();
    assert_eq!((&*verb, body["Pod"]["metadata"]["name"].as_str()), ("filter", Some("carded")));
    cluster.send(Method::DELETE, "/api/v1/nodes/good", "application/json", &json!({})).await;
    cluster.send(Method::DELETE, "/api/v1/nodes/best", "application/json", &json!({})).await;
    // So that it knows that they are gone.
    cluster.node("bad-2", "64").await;
    cluster.pod("nowhere", "1", &cards).await;
    let pod = cluster.wait("pods", "condition", |p| p["metadata"]["name"] == "nowhere" && condition(p).0 == "False").await;
    assert!(condition(&pod).2.starts_with("0/2 nodes are available: 2 it is bad."), "{}", condition(&pod).2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extender_says_where_room_may_be_made() {
    let (sender, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let url = extender(sender).await;
    let extender = json!({"urlPrefix": url, "preemptVerb": "preempt", "nodeCacheCapable": true});
    let cluster = Cluster::start_with(configuration(&json!({"extenders": [extender]}))).await;
    cluster.post("/apis/scheduling.k8s.io/v1/priorityclasses", &json!({"metadata": {"name": "high"}, "value": 1000})).await;
    cluster.node("bad", "2").await;
    cluster.node("good", "2").await;
    for (name, node) in [("cheap", "bad"), ("dear", "good"), ("dearer", "good")] {
        let cpu = if node == "bad" { "2" } else { "1" };
        cluster.pod(name, cpu, &json!({"nodeName": node})).await;
    }
    cluster.pod("urgent", "2", &json!({"priorityClassName": "high"})).await;
    let pod =
        cluster.wait("pods", "nomination", |p| p["metadata"]["name"] == "urgent" && p["status"]["nominatedNodeName"].is_string()).await;
    // On the other node fewer pods would have had to go.
    assert_eq!(pod["status"]["nominatedNodeName"], "good");
    let (verb, body) = asked.recv().await.unwrap();
    assert_eq!((&*verb, body["Pod"]["metadata"]["name"].as_str()), ("preempt", Some("urgent")));
    assert_eq!(body["NodeNameToMetaVictims"]["good"]["Pods"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extender_that_does_not_answer_fails_the_pod_unless_it_is_ignorable() {
    // Nobody listens on the port of a listener that is gone.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let extender = |ignorable: bool| json!({"urlPrefix": format!("http://{gone}"), "filterVerb": "filter", "ignorable": ignorable});
    let cluster = Cluster::start_with(configuration(&json!({"extenders": [extender(true)]}))).await;
    cluster.node("a", "8").await;
    cluster.pod("p", "1", &json!({})).await;
    assert_eq!(cluster.bound("p").await, "a");
    let cluster = Cluster::start_with(configuration(&json!({"extenders": [extender(false)]}))).await;
    cluster.unknown_node("a", "8").await;
    cluster.pod("p", "1", &json!({})).await;
    cluster.wait("pods", "condition", |p| condition(p).0 == "False" && condition(p).1 == "SchedulerError").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_several_schedulers_is_elected_and_gives_its_place_back_when_it_stops() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let candidate = |identity: &str| {
        let election = json!({"leaseDuration": "90s", "renewDeadline": "60s", "retryPeriod": "100ms"});
        let config = ferrokube_scheduler::Config {
            configuration: configuration(&json!({"profiles": [{"schedulerName": "elected"}], "leaderElection": election})),
            identity: Some(identity.to_owned()),
            ..Default::default()
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        (stop, tokio::spawn(ferrokube_scheduler::run_until(cluster.as_scheduler.clone(), config, stopped)))
    };
    let holder = async || {
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler";
        let lease = cluster.admin.send(Method::GET, path, None, Bytes::new()).await.unwrap();
        let lease: Value = serde_json::from_slice(lease.body()).unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
    };
    let elected = json!({"schedulerName": "elected"});
    let (stop_first, first) = candidate("first");
    cluster.pod("p", "1", &elected).await;
    cluster.bound("p").await;
    let (_stop_second, second) = candidate("second");
    assert_eq!(holder().await, "first");
    stop_first.send(()).unwrap();
    first.await.unwrap();
    cluster.pod("q", "1", &elected).await;
    cluster.bound("q").await;
    assert_eq!(holder().await, "second");
    second.abort();
}
