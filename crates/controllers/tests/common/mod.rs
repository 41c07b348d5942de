//! A real API server on a store of its own, with the controllers running against it under their own identities.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each test uses a part")]

use bytes::Bytes;
use ferrokube_api::{Change, Selection};
use ferrokube_apiserver::tokens::{Signer, TokenConfig};
use ferrokube_apiserver::{ApiServer, Config, Running, Tls, UserInfo};
use ferrokube_client::{Caches, Client, Resource, Target, Transport, TransportError};
use ferrokube_store::Store;
use ferrokube_store::embedded::{Embedded, Options};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use http::Method;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

struct InProcess {
    server: Arc<ApiServer>,
    user: UserInfo,
}

impl Transport for InProcess {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let (parts, body) = self.server.call(self.user.clone(), request).await.into_parts();
            Ok(http::Response::from_parts(parts, body.collect().await.map_err(TransportError::new)?))
        })
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        let (server, user) = (self.server.clone(), self.user.clone());
        let tries = move |()| {
            let (server, user, selection) = (server.clone(), user.clone(), selection.clone());
            async move {
                loop {
                    if server.is_stopping() {
                        return None;
                    }
                    match server.subscribe(user.clone(), selection.clone()) {
                        Ok(changes) => return Some((changes.boxed(), ())),
                        // Roles and definitions may still be on their way.
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                }
            }
        };
        stream::unfold((), tries).flatten().boxed()
    }
}

/// The way to a server in this process, as somebody.
pub fn transport(server: &Arc<ApiServer>, user: &str, groups: &[&str]) -> Arc<dyn Transport> {
    Arc::new(InProcess { server: server.clone(), user: UserInfo::component(user, groups) })
}

/// What controllers are answered instead of by the API server, and what they have read, by path.
#[derive(Clone, Default)]
struct Extensions {
    says: Arc<std::sync::Mutex<std::collections::HashMap<String, (u16, Value)>>>,
    read: Arc<std::sync::Mutex<std::collections::HashMap<String, usize>>>,
    /// Where the answer to the next write is lost, and the resource of which nothing is heard from then on.
    loses: Arc<std::sync::Mutex<Option<(String, String)>>>,
    late: tokio::sync::watch::Sender<String>,
}

/// The API server with extension API servers that say what the test wants.
struct Extended(InProcess, Extensions);

impl Transport for Extended {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        let path = request.uri().path();
        if request.method() == Method::GET {
            *self.1.read.lock().unwrap().entry(path.to_owned()).or_default() += 1;
        } else if let Some((_, resource)) = self.1.loses.lock().unwrap().take_if(|(loses, _)| loses == path) {
            self.1.late.send_replace(resource);
            let answer = self.0.send(request);
            return Box::pin(async move {
                answer.await?;
                Err(TransportError::new(std::io::Error::other("the answer was lost")))
            });
        }
        let said = self.1.says.lock().unwrap().get(path).cloned();
        match said {
            Some((code, answer)) => Box::pin(async move {
                let mut response = http::Response::new(Bytes::from(answer.to_string()));
                *response.status_mut() = code.try_into().unwrap();
                Ok(response)
            }),
            None => self.0.send(request),
        }
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        self.0.subscribe(selection)
    }
}

/// The API server whose news of one resource, the one named here, are late, save so many as are let through.
struct Late(Arc<dyn Transport>, tokio::sync::watch::Receiver<String>, Arc<Semaphore>);

impl Transport for Late {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, TransportError>> {
        self.0.send(request)
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        let (late, resource, through) = (self.1.clone(), selection.resource.clone(), self.2.clone());
        let in_time = move |change: Change| {
            let (mut late, resource, through) = (late.clone(), resource.clone(), through.clone());
            async move {
                tokio::select! {
                    biased;
                    // Nobody can make it late any more when the test is over.
                    _ = late.wait_for(|late| *late != resource) => {}
                    Ok(permit) = through.acquire() => permit.forget(),
                }
                change
            }
        };
        ferrokube_testkit::late(self.0.subscribe(selection).then(in_time))
    }
}

fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str]) -> Client {
    Client::new(transport(server, user, groups), user)
}

pub struct Cluster {
    pub client: Client,
    extensions: Extensions,
    /// The resource of which the controllers' caches hear nothing now.
    pub late: tokio::sync::watch::Sender<String>,
    /// So many of its news are let through, one after the other.
    pub let_through: Arc<Semaphore>,
    server: Arc<ApiServer>,
    store: Arc<Embedded>,
    metrics: ferrokube_client::metrics::Metrics,
    running: Option<Running>,
    controllers: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::with(&["*"]).await
    }

    pub async fn with(selection: &[&str]) -> Self {
        Self::with_config(selection, |_| {}).await
    }

    /// The same with another configuration of the API server, whose features the controllers have too.
    pub async fn with_config(selection: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(folder.path(), Options { fsync: false, ..Options::default() }).unwrap());
        let (mut config, keys) = config_with_keys(store.clone());
        change(&mut config);
        let features = config.features.clone();
        let running = ApiServer::start(config).await.unwrap();
        let server = running.server.clone();
        let own = server.clone();
        let (late, is_late) = tokio::sync::watch::channel(String::new());
        let let_through = Arc::new(Semaphore::new(0));
        let news = Late(transport(&server, "system:kube-controller-manager", &[]), is_late, let_through.clone());
        let caches = Caches::new(Client::new(Arc::new(news), "system:kube-controller-manager"));
        let extensions = Extensions { late: late.clone(), ..Extensions::default() };
        let said = extensions.clone();
        let client_for = Arc::new(move |account: &str| {
            let groups = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];
            let user = format!("system:serviceaccount:kube-system:{account}");
            let inner = InProcess { server: own.clone(), user: UserInfo::component(&user, &groups) };
            Client::new(Arc::new(Extended(inner, said.clone())), &user)
        });
        let (authority, signer) = keys;
        let config = ferrokube_controllers::Config {
            signing: Some(authority),
            sign_token: Some(Arc::new(move |claims| Some(signer.sign(claims)))),
            node_cidrs: Some(ferrokube_controllers::NodeCidrs {
                cluster: vec!["10.244.0.0/16".into(), "fd00:10:244::/56".into()],
                services: vec!["10.96.0.0/16".into()],
                mask_ipv4: 24,
                mask_ipv6: 64,
            }),
            controllers: selection.iter().map(|s| (*s).to_owned()).collect(),
            root_ca: "CA".into(),
            features,
            ..ferrokube_controllers::Config::new(caches, client_for)
        };
        let metrics = config.metrics.clone();
        let controllers = tokio::spawn(ferrokube_controllers::run(config));
        let client = client(&server, "kubernetes-admin", &["system:masters"]);
        let cluster =
            Cluster { client, extensions, late, let_through, server, store, metrics, running: Some(running), controllers, _folder: folder };
        cluster
            .eventually("the default service account", async || {
                cluster.try_get("/api/v1/namespaces/default/serviceaccounts/default").await.is_some()
            })
            .await;
        cluster
    }

    /// What an extension API server says at a path.
    pub fn extension_says(&self, path: &str, answer: Value) {
        self.extensions.says.lock().unwrap().insert(path.to_owned(), (200, answer));
    }

    /// The API server refuses the controllers what is at a path, as one that has too much to do, or no longer does.
    pub fn refuses(&self, path: &str, does: bool) {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503, "reason": "ServiceUnavailable", "message": "busy"});
        let mut says = self.extensions.says.lock().unwrap();
        if does { drop(says.insert(path.to_owned(), (503, status))) } else { drop(says.remove(path)) }
    }

    /// The next write of a controller to this path is done, and no controller hears of it: its answer is lost, and news of this
    /// resource are late from then on.
    pub fn loses_answer(&self, path: &str, resource: &str) {
        *self.extensions.loses.lock().unwrap() = Some((path.to_owned(), resource.to_owned()));
    }

    /// How often a controller has read what is at a path.
    pub fn was_read(&self, path: &str) -> usize {
        self.extensions.read.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    /// A client as another user.
    pub fn client_as(&self, user: &str) -> Client {
        client(&self.server, user, &[])
    }

    /// Asks with a bearer token, as somebody from outside would, who the API server thinks it is.
    pub async fn who_am_i(&self, token: &str) -> Result<Value, ferrokube_client::Error> {
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        self.ask(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", Some(&review)).await
    }

    /// The bytes of a key as the store has them.
    pub async fn stored(&self, key: &str) -> Bytes {
        self.store.get(Bytes::copy_from_slice(key.as_bytes())).await.unwrap().expect("the key exists").value
    }

    /// What `/metrics` would show.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        self.metrics.write(&mut text);
        text
    }

    pub async fn stop(mut self) {
        self.controllers.abort();
        self.running.take().unwrap().stop().await;
    }

    /// Polls until the condition holds; panics after two minutes.
    pub async fn eventually(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(120), wait).await.is_err() {
            panic!("not within two minutes: {what}\nevents: {:#?}", self.events().await);
        }
    }

    pub async fn events(&self) -> Vec<String> {
        let list = self.get("/api/v1/events").await;
        let line = |e: &Value| format!("{} {} {}: {}", e["involvedObject"]["kind"], e["involvedObject"]["name"], e["reason"], e["message"]);
        list["items"].as_array().into_iter().flatten().map(line).collect()
    }

    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ferrokube_client::Error> {
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let bytes = body.map(|b| Bytes::from(b.to_string())).unwrap_or_default();
        let response = self.client.send(method, path, body.map(|_| kind), bytes).await?;
        Ok(serde_json::from_slice(response.body()).unwrap_or_default())
    }

    pub async fn try_get(&self, path: &str) -> Option<Value> {
        self.ask(Method::GET, path, None).await.ok()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.ask(Method::GET, path, None).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(Method::POST, path, Some(&body)).await.unwrap_or_else(|e| panic!("POST {path}: {e}"))
    }

    pub async fn patch(&self, path: &str, body: Value) -> Value {
        self.ask(Method::PATCH, path, Some(&body)).await.unwrap_or_else(|e| panic!("PATCH {path}: {e}"))
    }

    pub async fn delete(&self, path: &str, propagation: &str) -> Value {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation, "gracePeriodSeconds": 0});
        self.ask(Method::DELETE, path, Some(&options)).await.unwrap_or_else(|e| panic!("DELETE {path}: {e}"))
    }

    pub async fn list(&self, path: &str) -> Vec<Value> {
        self.get(path).await["items"].as_array().cloned().unwrap_or_default()
    }

    /// Objects of a kind in namespace `default`.
    pub async fn all<R: Resource>(&self) -> Vec<Value> {
        self.list(&Target::of::<R>("default", "").path()).await
    }

    /// What the kubelet would say of a pod.
    pub async fn set_pod(&self, pod: &Value, phase: &str, ready: bool) {
        let (namespace, name) = (pod["metadata"]["namespace"].as_str().unwrap(), pod["metadata"]["name"].as_str().unwrap());
        let status = json!({"status": {"phase": phase, "podIP": "10.0.0.1", "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        drop(self.ask(Method::PATCH, &path, Some(&status)).await);
    }

    /// All pods of `default` that are not over run and are ready.
    pub async fn run_pods(&self) {
        for pod in self.list(PODS).await {
            let status = &pod["status"];
            if status["phase"] == "Pending" && !pod["metadata"]["deletionTimestamp"].is_string() {
                self.set_pod(&pod, "Running", true).await;
            }
        }
    }
}

pub const PODS: &str = "/api/v1/namespaces/default/pods";

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// A server without a socket, with keys of its own.
pub fn config(store: Arc<dyn Store>) -> Config {
    config_with_keys(store).0
}

/// The same, and the keys that the controllers get.
fn config_with_keys(store: Arc<dyn Store>) -> (Config, (ferrokube_controllers::Signing, Signer)) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let signing = ferrokube_controllers::Signing {
        certificate: ca.pem(),
        key: ca_key.serialize_pem(),
        duration: Duration::from_secs(365 * 24 * 3600),
    };
    let issuer = Issuer::new(params, ca_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let token_key = KeyPair::generate().unwrap().serialize_pem();
    let signer = Signer::new(&token_key).unwrap();
    let tokens = TokenConfig {
        issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
        api_audiences: Vec::new(),
        signing_key: token_key,
        verify_keys: Vec::new(),
        extend_expiration: true,
        max_expiration_seconds: 0,
    };
    let mut config = Config::new(store, tokens);
    config.tls = Tls { certificate: certificate.pem(), key: key.serialize_pem() };
    config.authn.client_ca = ca.pem();
    config.service_cidrs = vec!["10.96.0.0/16".to_owned()];
    (config, (signing, signer))
}
