//! A scheduler whose subscriptions the test plays: a second listing that comes slowly.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use ferrokube_api::{Change, Object, Selection};
use ferrokube_client::{Client, Transport, TransportError};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{Method, Response};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

struct Played {
    nodes: Vec<Value>,
    pods: Mutex<Option<mpsc::UnboundedReceiver<Change>>>,
    /// What the scheduler asks for: method and path.
    asked: mpsc::UnboundedSender<(Method, String)>,
}

fn object(value: &Value) -> Arc<Object> {
    Arc::new(Object::from_json(value.to_string().into()).unwrap())
}

impl Transport for Played {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        let _ = self.asked.send((request.method().clone(), request.uri().path().to_owned()));
        let answer = json!({"kind": "Status", "status": "Success", "metadata": {"name": "x", "namespace": "default"}});
        Box::pin(async move { Ok(Response::builder().status(201).body(answer.to_string().into()).unwrap()) })
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        if selection.resource == "pods" {
            let mut pods = self.pods.lock().unwrap().take().unwrap();
            return futures_util::stream::poll_fn(move |context| pods.poll_recv(context)).boxed();
        }
        let nodes = if selection.resource == "nodes" { &self.nodes[..] } else { &[] };
        let all: Vec<Change> = nodes.iter().map(|n| Change::Set(object(n))).collect();
        let listing = [Change::Restart].into_iter().chain(all).chain([Change::Synced(1)]);
        futures_util::stream::iter(listing.collect::<Vec<_>>()).chain(futures_util::stream::pending()).boxed()
    }
}

fn pod(name: &str, cpu: &str, priority: i32, node: Option<&str>, revision: u64) -> Change {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": revision.to_string(),
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedulerName": "default-scheduler", "priority": priority,
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}, "status": {},
    });
    if let Some(node) = node {
        pod["spec"]["nodeName"] = node.into();
    }
    Change::Set(object(&pod))
}

#[tokio::test]
async fn nobody_is_evicted_for_the_sake_of_pods_that_a_listing_will_not_name() {
    let amounts = json!({"cpu": "2", "memory": "8Gi", "pods": "110"});
    let node = json!({"metadata": {"name": "n", "uid": "n", "resourceVersion": "1"}, "spec": {}, "status": {"allocatable": amounts}});
    let (tell, pods) = mpsc::unbounded_channel();
    let (asked, mut requests) = mpsc::unbounded_channel();
    let transport = Played { nodes: vec![node], pods: Mutex::new(Some(pods)), asked };
    let scheduler = ferrokube_scheduler::run(Client::new(Arc::new(transport), "test"), ferrokube_scheduler::Config::default());
    let scheduler = tokio::spawn(scheduler);
    // The important one fills the node, and is deleted while nothing is heard; another one has come instead.
    let first = [Change::Restart, pod("gone", "2", 50, Some("n"), 2), pod("bound", "0", 0, None, 3), Change::Synced(3)];
    first.into_iter().for_each(|change| tell.send(change).unwrap());
    let is_bound = |(method, path): &(Method, String)| *method == Method::POST && path.ends_with("/binding");
    while !is_bound(&requests.recv().await.unwrap()) {}
    let half = [Change::Restart, pod("bound", "0", 0, Some("n"), 4), pod("new", "1", 0, Some("n"), 6), pod("urgent", "1", 100, None, 7)];
    half.into_iter().for_each(|change| tell.send(change).unwrap());
    // The scheduler takes in all of that.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    tell.send(Change::Synced(8)).unwrap();
    let urgent = async {
        loop {
            let (method, path) = requests.recv().await.unwrap();
            assert!(method != Method::DELETE, "{path}");
            if method == Method::POST && path.ends_with("/pods/urgent/binding") {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), urgent).await.expect("the pod gets its place");
    scheduler.abort();
}
