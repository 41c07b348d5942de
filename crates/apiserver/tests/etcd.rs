//! The server on a real etcd: what it is chosen for, several servers that are one cluster, and what etcd can do to them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::pki::Pki;
use common::{Frames, Reply, admin, pair, reply};
use ferrokube_apiserver::{ApiServer, Running};
use ferrokube_store::Store;
use ferrokube_store::etcd::{Etcd, Options};
use ferrokube_testkit::etcd as real;
use http_body_util::BodyStream;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn etcd() -> Option<real::Etcd> {
    if let Err(error) = ferrokube_testkit::tools::etcd() {
        eprintln!("SKIP: nothing is known about the server on etcd: {error:#}");
        return None;
    }
    Some(real::Etcd::start(real::Options::default()).unwrap())
}

struct Server(Running);

impl Server {
    async fn start(etcd: &real::Etcd, pki: &Pki) -> Server {
        Self::with(Options::new(etcd.endpoints()), pki).await
    }

    async fn with(options: Options, pki: &Pki) -> Server {
        let store: Arc<dyn Store> = Arc::new(Etcd::connect(options).await.unwrap());
        Server(ApiServer::start(pki.config(store)).await.unwrap())
    }

    async fn raw(&self, method: &str, uri: &str, media: &str, body: Vec<u8>) -> http::Response<ferrokube_apiserver::Body> {
        let request = http::Request::builder().method(method).uri(uri).header("content-type", media).header("user-agent", "test/1");
        self.0.server.call(admin(), request.body(body.into()).unwrap()).await
    }

    async fn ask(&self, method: &str, uri: &str, body: &Value) -> Reply {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        reply(self.raw(method, uri, media, body).await).await
    }

    async fn watch(&self, uri: &str) -> Frames {
        let response = self.raw("GET", uri, "application/json", Vec::new()).await;
        assert_eq!(response.status(), 200, "{uri}");
        Frames::new(BodyStream::new(response.into_body()))
    }
}

fn map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"k": value}})
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_on_one_etcd_are_one_cluster() {
    let Some(etcd) = etcd() else { return };
    let pki = Pki::make().unwrap();
    let (a, b) = (Server::start(&etcd, &pki).await, Server::start(&etcd, &pki).await);
    let listed = b.ask("GET", MAPS, &Value::Null).await;
    let mut watch = b.watch(&format!("{MAPS}?watch=1&resourceVersion={}", listed.version())).await;
    for n in 0..20 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("m{n}");
        let made = writer.ask("POST", MAPS, &map(&name, "1")).await;
        assert_eq!(made.code, 201, "{}", made.text);
        // What one has acknowledged, the other shows at once: reads are consistent.
        let read = reader.ask("GET", &format!("{MAPS}/{name}"), &Value::Null).await;
        assert_eq!((read.code, read.version()), (200, made.version()));
        assert_eq!(watch.told().await, pair("ADDED", &name));
    }
    let first = a.ask("GET", &format!("{MAPS}/m0"), &Value::Null).await.json;
    let changed = b.ask("PATCH", &format!("{MAPS}/m0"), &json!({"data": {"k": "2"}})).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    let stale = a.ask("PUT", &format!("{MAPS}/m0"), &first).await;
    assert_eq!((stale.code, stale.json["reason"].as_str()), (409, Some("Conflict")), "{}", stale.text);
    assert_eq!(watch.told().await, pair("MODIFIED", "m0"));
    assert_eq!(a.ask("DELETE", &format!("{MAPS}/m0"), &Value::Null).await.code, 200);
    assert_eq!(watch.told().await, pair("DELETED", "m0"));
    assert_eq!(b.ask("GET", &format!("{MAPS}/m0"), &Value::Null).await.code, 404);
    let all = a.ask("GET", &format!("{MAPS}?limit=5"), &Value::Null).await;
    assert_eq!(all.json["items"].as_array().unwrap().len(), 5);
    assert!(!all.json["metadata"]["continue"].as_str().unwrap().is_empty());
    for server in [a, b] {
        server.0.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_defined_at_one_server_is_served_by_the_other() {
    let Some(etcd) = etcd() else { return };
    let pki = Pki::make().unwrap();
    let (a, b) = (Server::start(&etcd, &pki).await, Server::start(&etcd, &pki).await);
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    assert_eq!(a.ask("POST", CRDS, &definition).await.code, 201);
    let widgets = "/apis/example.com/v1/namespaces/default/widgets";
    let wait = |server| {
        ferrokube_testkit::wait_for("the kind to be served", Duration::from_secs(120), async move || {
            let server: &Server = server;
            let listed = server.ask("GET", widgets, &Value::Null).await;
            anyhow::ensure!(listed.code == 200, "{}", listed.text);
            Ok(())
        })
    };
    wait(&a).await.unwrap();
    wait(&b).await.unwrap();
    assert_eq!(
        b.ask("POST", widgets, &json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}})).await.code,
        201
    );
    assert_eq!(a.ask("GET", &format!("{widgets}/w"), &Value::Null).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_etcd_is_away_requests_are_refused_and_afterwards_watches_go_on_without_a_gap() {
    let Some(mut etcd) = etcd() else { return };
    let pki = Pki::make().unwrap();
    // Twice the test waits for so long.
    let server = Server::with(Options { timeout: Duration::from_secs(8), ..Options::new(etcd.endpoints()) }, &pki).await;
    let listed = server.ask("GET", MAPS, &Value::Null).await;
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={}", listed.version())).await;
    assert_eq!(server.ask("POST", MAPS, &map("before", "1")).await.code, 201);
    tokio::task::block_in_place(|| etcd.kill(0)).unwrap();
    let refused = server.ask("POST", MAPS, &map("meanwhile", "1")).await;
    assert_eq!((refused.code, refused.json["reason"].as_str()), (503, Some("ServiceUnavailable")), "{}", refused.text);
    assert_eq!(server.ask("GET", &format!("{MAPS}/before"), &Value::Null).await.code, 503, "a consistent read needs etcd");
    assert_eq!(server.ask("GET", &format!("{MAPS}/before?resourceVersion=0"), &Value::Null).await.code, 200, "any other does not");
    tokio::task::block_in_place(|| etcd.restart(0)).unwrap();
    assert_eq!(server.ask("POST", MAPS, &map("after", "1")).await.code, 201);
    assert_eq!(watch.told().await, pair("ADDED", "before"));
    assert_eq!(watch.told().await, pair("ADDED", "after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_etcd_does_not_have_is_gone_from_the_caches_and_watchers_are_sent_to_list_again() {
    let Some(mut etcd) = etcd() else { return };
    let pki = Pki::make().unwrap();
    let server = Server::start(&etcd, &pki).await;
    assert_eq!(server.ask("POST", MAPS, &map("kept", "1")).await.code, 201);
    let backup = tokio::task::block_in_place(|| {
        etcd.kill(0)?;
        let backup = etcd.back_up(0)?;
        etcd.restart(0).map(|()| backup)
    });
    let position = server.ask("POST", MAPS, &map("later", "1")).await.version();
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={position}")).await;
    tokio::task::block_in_place(|| {
        etcd.kill(0)?;
        etcd.restore(0, &backup?)?;
        etcd.restart(0)
    })
    .unwrap();
    assert!(watch.next().await.is_none(), "a watch of what is no longer so ends");
    ferrokube_testkit::wait_for("the caches to be read anew", Duration::from_secs(120), async || {
        let cached = async |name: &str| server.ask("GET", &format!("{MAPS}/{name}?resourceVersion=0"), &Value::Null).await.code;
        anyhow::ensure!((cached("kept").await, cached("later").await) == (200, 404));
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_a_server_that_was_started_later() {
    let Some(etcd) = etcd() else { return };
    let pki = Pki::make().unwrap();
    let first = Server::start(&etcd, &pki).await;
    let position = first.ask("POST", MAPS, &map("one", "1")).await.version();
    assert_eq!(first.ask("POST", MAPS, &map("two", "1")).await.code, 201);
    first.0.stop().await;
    let second = Server::start(&etcd, &pki).await;
    let mut watch = second.watch(&format!("{MAPS}?watch=1&resourceVersion={position}")).await;
    assert_eq!(watch.told().await, pair("ADDED", "two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_a_go_server_that_cannot_be_read_are_refused_by_name_and_its_other_keys_are_not() {
    let Some(etcd) = etcd() else { return };
    let pki = Pki::make().unwrap();
    let store: Arc<dyn Store> = Arc::new(Etcd::connect(Options::new(etcd.endpoints())).await.unwrap());
    let put = async |key: &'static str| {
        store.put(key.into(), bytes::Bytes::from_static(b"k8s\0\n\x0f"), ferrokube_store::Expect::Any, None).await
    };
    put("/registry/ranges/serviceips").await.unwrap();
    put("/registry/masterleases/10.0.0.1").await.unwrap();
    Server::start(&etcd, &pki).await.0.stop().await;
    put("/registry/configmaps/default/theirs").await.unwrap();
    let refused = ApiServer::start(pki.config(store.clone())).await.err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused.contains("/registry/configmaps/default/theirs") && refused.contains("protobuf"), "{refused}");
}
