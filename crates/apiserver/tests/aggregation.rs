//! Another API server behind an APIService: a small metrics API over TLS that asks for the front proxy's certificate.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use common::{Cluster, Frames, admin, pair, reply};
use ferrokube_apiserver::{Tls, UserInfo};
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1beta1.metrics.k8s.io";
const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What happens to the extension server.
#[derive(Default)]
struct State {
    broken: AtomicBool,
    connections: AtomicUsize,
    /// Part of an answer has arrived.
    arrived: Notify,
    /// Requests whose connection was cut instead of an answer.
    cut: AtomicUsize,
}

/// The extension server. Dropping it ends it.
struct Extension {
    port: u16,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Extension {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn full(code: u16, value: &Value) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

fn told(headers: &HeaderMap) -> Value {
    let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    json!({"user": all("x-remote-user"), "groups": all("x-remote-group"), "extra": all("x-remote-extra-scopes"), "authorization": all("authorization")})
}

async fn answer(mut request: Request<Incoming>, state: Arc<State>) -> io::Result<Answer> {
    if state.broken.load(Ordering::Relaxed) {
        return Ok(full(500, &json!({})));
    }
    let path = request.uri().path().to_owned();
    Ok(match path.strip_prefix(GROUP).unwrap_or(&path) {
        "" => {
            let resource = |name: &str, kind: &str, namespaced: bool| json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": ["get", "list"]});
            full(
                200,
                &json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "metrics.k8s.io/v1beta1",
                "resources": [resource("nodes", "NodeMetrics", false), resource("pods", "PodMetrics", true)]}),
            )
        }
        "/nodes" => full(
            200,
            &json!({"kind": "NodeMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {},
            "items": [{"metadata": {"name": "n1"}, "timestamp": "2026-01-01T00:00:00Z", "window": "10s", "usage": {"cpu": "100m", "memory": "200Mi"}}]}),
        ),
        "/nodes/whoami" => full(200, &told(request.headers())),
        "/nodes/echo" => {
            let (method, query) = (request.method().to_string(), request.uri().query().unwrap_or_default().to_owned());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            full(201, &json!({"method": method, "query": query, "body": String::from_utf8_lossy(&body)}))
        }
        // More is promised than comes, and that only once the first part has arrived.
        "/nodes/broken" => {
            let part = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"{}")))]);
            let end = futures_util::stream::once(async move { state.arrived.notified().await }).filter_map(async |()| None);
            let mut response = Response::new(StreamBody::new(part.chain(end)).boxed_unsync());
            response.headers_mut().insert("content-length", "100".parse().unwrap());
            response
        }
        // The first GET is cut off, and every POST.
        "/nodes/cut" => {
            if request.method() == "POST" || state.cut.load(Ordering::SeqCst) == 0 {
                state.cut.fetch_add(1, Ordering::SeqCst);
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            full(200, &json!({}))
        }
        "/nodes/elsewhere" => {
            let mut response = full(302, &json!({}));
            response.headers_mut().insert("location", "https://127.0.0.1/".parse().unwrap());
            response
        }
        "/namespaces/default/pods" => {
            let event = |name: &str| Bytes::from(format!("{}\n", json!({"type": "ADDED", "object": {"metadata": {"name": name}}})));
            let events =
                futures_util::stream::iter(["a", "b"]).map(move |name| Ok(Frame::data(event(name)))).chain(futures_util::stream::pending());
            Response::new(StreamBody::new(events).boxed_unsync())
        }
        "/namespaces/default/pods/p/exec" => {
            tokio::spawn(async move {
                let mut io = TokioIo::new(hyper::upgrade::on(&mut request).await.unwrap());
                let mut four = [0; 4];
                io.read_exact(&mut four).await.unwrap();
                four.reverse();
                io.write_all(&four).await.unwrap();
            });
            let mut response = Response::new(Full::default().boxed_unsync());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
            response.headers_mut().insert("upgrade", "reversed".parse().unwrap());
            response
        }
        "/openapi/v3" => full(
            200,
            &json!({"paths": {"apis/metrics.k8s.io/v1beta1": {"serverRelativeURL": "/openapi/v3/apis/metrics.k8s.io/v1beta1?hash=AB"}}}),
        ),
        "/openapi/v3/apis/metrics.k8s.io/v1beta1" => full(200, &json!({"openapi": "3.0.0", "theirs": true})),
        "/openapi/v2" => full(
            200,
            &json!({"swagger": "2.0",
            "paths": {"/apis/metrics.k8s.io/v1beta1/nodes": {"get": {"responses": {"200": {"schema": {"$ref": "#/definitions/io.example.NodeMetricsList"}}}}}, "/version/": {}},
            "definitions": {"io.example.NodeMetricsList": {"type": "object", "properties": {"metadata": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"}}},
                "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta": {"description": "theirs"}, "io.example.Unused": {}}}),
        ),
        _ => full(404, &json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})),
    })
}

async fn extension(identity: &Tls, client_ca: &str) -> Extension {
    extension_speaking(identity, client_ca, &[]).await
}

async fn extension_speaking(identity: &Tls, client_ca: &str, protocols: &[&str]) -> Extension {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(client_ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut tls = builder.with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap();
    tls.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let state = Arc::new(State::default());
    let shared = state.clone();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, state) = (tls.clone(), shared.clone());
            state.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let service = hyper::service::service_fn(move |request| answer(request, state.clone()));
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            });
        }
    });
    Extension { port, state, task }
}

async fn cluster() -> Cluster {
    Cluster::with_pki(|config, pki| config.proxy_client = Some(pki.client("front-proxy-client", "").unwrap())).await
}

/// A service that leads to this machine: endpoints may not have loopback addresses.
async fn register(cluster: &Cluster, port: u16, spec: Value) {
    let service = json!({"metadata": {"name": "metrics"}, "spec": {"type": "ExternalName", "externalName": "127.0.0.1"}});
    let made = cluster.post("/api/v1/namespaces/kube-system/services", &service).await;
    assert!(matches!(made.code, 201 | 409), "{}", made.text);
    let mut spec = spec;
    for (key, value) in [
        ("group", json!("metrics.k8s.io")),
        ("version", json!("v1beta1")),
        ("groupPriorityMinimum", json!(100)),
        ("versionPriority", json!(100)),
    ] {
        spec[key] = value;
    }
    spec["service"] = json!({"name": "metrics", "namespace": "kube-system", "port": port});
    let made = cluster.post(SERVICES, &json!({"metadata": {"name": NAME}, "spec": spec})).await;
    assert_eq!(made.code, 201, "{}", made.text);
}

fn available(object: &Value) -> Option<(String, String)> {
    let conditions = object["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|c| c["type"] == "Available")?;
    Some((condition["status"].as_str()?.to_owned(), condition["reason"].as_str()?.to_owned()))
}

async fn until(cluster: &Cluster, name: &str, status: &str, reason: &str) {
    let mut watch = cluster.watch(&format!("{SERVICES}?watch=1&fieldSelector=metadata.name={name}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")).await;
    let wanted = Some((status.to_owned(), reason.to_owned()));
    loop {
        let event = watch.next().await.expect("the watch goes on");
        if available(&event["object"]) == wanted {
            return;
        }
    }
}

fn ca_bundle(pem: &str) -> Value {
    use base64::Engine;
    json!(base64::engine::general_purpose::STANDARD.encode(pem))
}

async fn ready() -> (Cluster, Extension) {
    ready_speaking(&[]).await
}

async fn ready_speaking(protocols: &[&str]) -> (Cluster, Extension) {
    let cluster = cluster().await;
    let identity = cluster.pki.serving(&["metrics.kube-system.svc"]).unwrap();
    let extension = extension_speaking(&identity, &cluster.pki.ca, protocols).await;
    register(&cluster, extension.port, json!({"caBundle": ca_bundle(&cluster.pki.ca)})).await;
    until(&cluster, NAME, "True", "Passed").await;
    (cluster, extension)
}

#[tokio::test]
async fn requests_go_to_the_server_behind_the_service_in_the_name_of_the_user() {
    let (cluster, _extension) = ready().await;
    let nodes = cluster.get(&format!("{GROUP}/nodes")).await;
    assert_eq!((nodes.code, nodes.json["items"][0]["usage"]["cpu"].as_str()), (200, Some("100m")), "{}", nodes.text);
    let mut user = UserInfo::component("jane", &["system:masters", "dev"]);
    user.extra.insert("scopes".into(), vec!["x".into()]);
    let request = Request::get(format!("{GROUP}/nodes/whoami")).header("x-remote-user", "root").header("authorization", "Bearer secret");
    let who = reply(cluster.running.server.call(user, request.body(Bytes::new()).unwrap()).await).await;
    assert_eq!((&who.json["user"], &who.json["extra"]), (&json!(["jane"]), &json!(["x"])), "{}", who.text);
    assert!(who.json["groups"].as_array().unwrap().contains(&json!("dev")), "{}", who.text);
    assert_eq!(who.json["authorization"], json!([]), "credentials stay here");
    let echo = cluster.ask("POST", &format!("{GROUP}/nodes/echo?a=b%2Fc"), "application/json", b"{\"k\":1}".to_vec()).await;
    assert_eq!((echo.code, &echo.json), (201, &json!({"method": "POST", "query": "a=b%2Fc", "body": "{\"k\":1}"})));
    let away = cluster.get(&format!("{GROUP}/nodes/elsewhere")).await;
    assert_eq!((away.code, away.text.trim()), (502, "the backend attempted to redirect this request, which is not permitted"));
    // Whoever may not, is refused here: the other server is not asked.
    let nobody = UserInfo::component("nobody", &[]);
    let refused = reply(cluster.send(nobody, "GET", &format!("{GROUP}/nodes"), "", "application/json", Vec::new()).await).await;
    assert_eq!(refused.code, 403);
    let mut watch: Frames = cluster.watch(&format!("{GROUP}/namespaces/default/pods?watch=1")).await;
    assert_eq!(watch.told().await, pair("ADDED", "a"));
    assert_eq!(watch.told().await, pair("ADDED", "b"));
}

#[tokio::test]
async fn connections_are_kept_for_the_next_request() {
    for protocols in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let (cluster, extension) = ready_speaking(protocols).await;
        let before = extension.state.connections.load(Ordering::SeqCst);
        for at in 0..30 {
            let path = format!("{GROUP}/nodes/echo?n={at}");
            let echo = cluster.ask("POST", &path, "application/json", b"{}".to_vec()).await;
            assert_eq!((echo.code, &echo.json["body"]), (201, &json!("{}")), "{}", echo.text);
            let nodes = cluster.get(&format!("{GROUP}/nodes")).await;
            assert_eq!((nodes.code, &nodes.json["items"][0]["metadata"]["name"]), (200, &json!("n1")), "{}", nodes.text);
        }
        // The look that the server takes now and then may meet one of them.
        let made = extension.state.connections.load(Ordering::SeqCst) - before;
        assert!(made <= 1, "{made} new connections for 60 requests over {protocols:?}");
        // Many watches need no connection each over HTTP/2, and more than one over HTTP/1.1.
        let mut watches: Vec<Frames> = Vec::new();
        for _ in 0..70 {
            watches.push(cluster.watch(&format!("{GROUP}/namespaces/default/pods?watch=1")).await);
        }
        for watch in &mut watches {
            assert_eq!(watch.told().await, pair("ADDED", "a"));
        }
        let nodes = cluster.get(&format!("{GROUP}/nodes")).await;
        assert_eq!(nodes.code, 200, "a request has room beside watches");
    }
}

#[tokio::test]
async fn what_breaks_off_is_asked_again_when_that_changes_nothing_and_never_otherwise() {
    let (cluster, extension) = ready_speaking(&["http/1.1"]).await;
    let path = format!("{GROUP}/nodes/cut");
    let again = cluster.get(&path).await;
    assert_eq!((again.code, extension.state.cut.load(Ordering::SeqCst)), (200, 1), "{}", again.text);
    let once = cluster.ask("POST", &path, "application/json", b"{}".to_vec()).await;
    assert_eq!((once.code, extension.state.cut.load(Ordering::SeqCst)), (503, 2), "{}", once.text);
}

#[tokio::test]
async fn what_breaks_off_in_the_middle_is_not_passed_off_as_whole() {
    for protocols in [&["http/1.1"][..], &["h2", "http/1.1"]] {
        let (cluster, extension) = ready_speaking(protocols).await;
        let request = Request::get(format!("{GROUP}/nodes/broken")).body(Bytes::new()).unwrap();
        let broken = cluster.running.server.call(admin(), request).await;
        assert_eq!(broken.status(), 200);
        extension.state.arrived.notify_one();
        assert!(broken.into_body().collect().await.is_err(), "{protocols:?}");
        let nodes = cluster.get(&format!("{GROUP}/nodes")).await;
        assert_eq!(nodes.code, 200, "its connection is not used again: {}", nodes.text);
    }
}

#[tokio::test]
async fn discovery_and_openapi_show_both_servers_as_one() {
    let (cluster, extension) = ready().await;
    let groups = cluster.get("/apis").await;
    let names: Vec<_> = groups.json["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"apiregistration.k8s.io"), Some(&"metrics.k8s.io")));
    let own = cluster.get(&format!("{SERVICES}/v1.apiregistration.k8s.io")).await;
    assert_eq!((own.code, cluster.get(&format!("{SERVICES}/v1.apps")).await.code), (404, 200), "all groups but the aggregator's own");
    assert_eq!(cluster.get("/apis/metrics.k8s.io").await.json["preferredVersion"]["groupVersion"], "metrics.k8s.io/v1beta1");
    assert_eq!(cluster.get(GROUP).await.json["resources"][0]["kind"], "NodeMetrics");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let version = async || {
        let all = reply(cluster.send(admin(), "GET", "/apis", "", accept, Vec::new()).await).await;
        let items = all.json["items"].as_array().unwrap().clone();
        items.into_iter().find(|i| i["metadata"]["name"] == "metrics.k8s.io").unwrap()["versions"][0].clone()
    };
    let current = version().await;
    assert_eq!((&current["freshness"], &current["resources"][1]["responseKind"]["kind"]), (&json!("Current"), &json!("PodMetrics")));
    let index = cluster.get("/openapi/v3").await;
    assert_eq!(index.json["paths"]["apis/metrics.k8s.io/v1beta1"]["serverRelativeURL"], "/openapi/v3/apis/metrics.k8s.io/v1beta1?hash=AB");
    assert_eq!(cluster.get("/openapi/v3/apis/metrics.k8s.io/v1beta1").await.json["theirs"], true);
    let old = cluster.get("/openapi/v2").await.json;
    assert!(old["paths"]["/apis/metrics.k8s.io/v1beta1/nodes"].is_object() && old["paths"]["/api/v1/nodes"].is_object());
    let known = |name: &str| old["definitions"].get(name).is_some();
    assert!(known("io.example.NodeMetricsList") && !known("io.example.Unused") && known("io.k8s.api.core.v1.Node"));
    assert_ne!(old["definitions"]["io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"]["description"], "theirs");
    let as_protobuf = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let wire = cluster.send(admin(), "GET", "/openapi/v2", "", as_protobuf, Vec::new()).await.into_body().collect().await.unwrap();
    assert!(wire.windows(26).any(|w| w == b"io.example.NodeMetricsList"));
    let counted = format!("aggregator_openapi_v2_regeneration_count{{apiservice={NAME:?},reason=\"add\"}} 1\n");
    assert!(cluster.get("/metrics").await.text.contains(&counted));
    // The server goes bad: what it had is still shown, as stale, and requests are refused at once.
    extension.state.broken.store(true, Ordering::Relaxed);
    cluster
        .patch("/api/v1/namespaces/kube-system/services/metrics", "merge-patch", &json!({"metadata": {"labels": {"touched": "yes"}}}))
        .await;
    until(&cluster, NAME, "False", "FailedDiscoveryCheck").await;
    let stale = version().await;
    assert_eq!((&stale["freshness"], &stale["resources"][1]["responseKind"]["kind"]), (&json!("Stale"), &json!("PodMetrics")));
    let refused = cluster.get(&format!("{GROUP}/nodes")).await;
    assert_eq!((refused.code, refused.text.as_str()), (503, "service unavailable\n"));
    // And it is gone with its APIService.
    assert_eq!(cluster.delete(&format!("{SERVICES}/{NAME}"), &Value::Null).await.code, 200);
    let gone = async || anyhow::Ok(anyhow::ensure!(cluster.get(&format!("{GROUP}/nodes")).await.code == 404, "still there"));
    ferrokube_testkit::wait_for("the group to go", Duration::from_secs(60), gone).await.unwrap();
    assert!(!cluster.get("/apis").await.text.contains("metrics.k8s.io"));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_makes_the_service_unavailable_unless_it_does_not_matter() {
    let cluster = cluster().await;
    // Not valid for the service's name.
    let identity = cluster.pki.serving(&["somebody.else"]).unwrap();
    let extension = extension(&identity, &cluster.pki.ca).await;
    register(&cluster, extension.port, json!({"caBundle": ca_bundle(&cluster.pki.ca)})).await;
    until(&cluster, NAME, "False", "FailedDiscoveryCheck").await;
    let object = cluster.get(&format!("{SERVICES}/{NAME}")).await.json;
    assert!(object["status"]["conditions"][0]["message"].as_str().unwrap().contains("certificate"), "{object}");
    assert_eq!(cluster.delete(&format!("{SERVICES}/{NAME}"), &Value::Null).await.code, 200);
    register(&cluster, extension.port, json!({"insecureSkipTLSVerify": true})).await;
    until(&cluster, NAME, "True", "Passed").await;
    assert_eq!(cluster.get(&format!("{GROUP}/nodes")).await.code, 200);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_said_so_and_local_groups_are_always_available() {
    let cluster = cluster().await;
    until(&cluster, "v1.apps", "True", "Local").await;
    let spec = json!({"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100,
        "insecureSkipTLSVerify": true, "service": {"name": "none", "namespace": "kube-system"}});
    assert_eq!(cluster.post(SERVICES, &json!({"metadata": {"name": NAME}, "spec": spec})).await.code, 201);
    until(&cluster, NAME, "False", "ServiceNotFound").await;
    let object = cluster.get(&format!("{SERVICES}/{NAME}")).await.json;
    assert_eq!(object["status"]["conditions"][0]["message"], "service/none in \"kube-system\" is not present");
    let metrics = cluster.get("/metrics").await.text;
    assert!(metrics.contains("\naggregator_unavailable_apiservice{name=\"v1.apps\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn groups_of_crds_are_registered_and_forgotten_with_them() {
    let cluster = cluster().await;
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let crd = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(cluster.post(crds, &crd).await.code, 201);
    until(&cluster, "v1.example.com", "True", "Local").await;
    let made = cluster.get(&format!("{SERVICES}/v1.example.com")).await.json;
    assert_eq!(made["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "true");
    assert_eq!((&made["spec"]["groupPriorityMinimum"], &made["spec"]["versionPriority"]), (&json!(1000), &json!(100)));
    assert_eq!(cluster.delete(&format!("{crds}/widgets.example.com"), &Value::Null).await.code, 200);
    let gone = async || anyhow::Ok(anyhow::ensure!(cluster.get(&format!("{SERVICES}/v1.example.com")).await.code == 404, "still there"));
    ferrokube_testkit::wait_for("the APIService to go", Duration::from_secs(60), gone).await.unwrap();
}

async fn listening() -> (Cluster, Extension) {
    let cluster = Cluster::with_pki(|config, pki| {
        config.proxy_client = Some(pki.client("front-proxy-client", "").unwrap());
        config.listen = Some("127.0.0.1:0".parse().unwrap());
    })
    .await;
    let identity = cluster.pki.serving(&["metrics.kube-system.svc"]).unwrap();
    let extension = extension(&identity, &cluster.pki.ca).await;
    register(&cluster, extension.port, json!({"caBundle": ca_bundle(&cluster.pki.ca)})).await;
    until(&cluster, NAME, "True", "Passed").await;
    (cluster, extension)
}

#[tokio::test]
async fn an_upgraded_connection_leads_through_to_the_other_server() {
    let (cluster, _extension) = listening().await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(cluster.pki.ca.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let chain = vec![CertificateDer::from_pem_slice(cluster.pki.admin.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(cluster.pki.admin.key.as_bytes()).unwrap();
    let tls =
        builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap();
    let stream = tokio::net::TcpStream::connect(cluster.running.address.unwrap()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let path = format!("{GROUP}/namespaces/default/pods/p/exec?command=x");
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: reversed\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101") && head.to_ascii_lowercase().contains("upgrade: reversed"), "{head}");
    stream.write_all(b"abcd").await.unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"dcba");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_top_shows_what_the_metrics_api_says() {
    let kubectl = match ferrokube_testkit::tools::kubectl() {
        Ok(kubectl) => kubectl,
        Err(error) => return eprintln!("SKIP: kubectl top is not tried: {error:#}"),
    };
    let (cluster, _extension) = listening().await;
    let node = json!({"metadata": {"name": "n1"}});
    assert_eq!(cluster.post("/api/v1/nodes", &node).await.code, 201);
    let status = json!({"status": {"allocatable": {"cpu": "1", "memory": "400Mi"}, "capacity": {"cpu": "1", "memory": "400Mi"}}});
    assert_eq!(cluster.patch("/api/v1/nodes/n1/status", "merge-patch", &status).await.code, 200);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("kubeconfig");
    std::fs::write(&config, cluster.pki.kubeconfig(&cluster.running.address.unwrap().to_string())).unwrap();
    let mut command = std::process::Command::new(kubectl);
    command.arg("--kubeconfig").arg(&config).arg("--cache-dir").arg(folder.path()).args(["top", "nodes"]);
    let shown = tokio::task::spawn_blocking(move || ferrokube_testkit::tools::run(&mut command)).await.unwrap().unwrap();
    let row = shown.lines().find(|line| line.starts_with("n1")).unwrap_or_default().split_whitespace().collect::<Vec<_>>();
    assert_eq!(row, ["n1", "100m", "10%", "200Mi", "50%"], "{shown}");
}
