//! A scheduler whose API server fails in every way it can: refused and broken connections, errors, answers that are lost
//! after the write, watches that are late or start again, schedulers that are killed. Whatever happens, every pod gets one node and no
//! node gets too many.
#![allow(clippy::unwrap_used, reason = "a test")]

use bytes::Bytes;
use ferrokube_api::{Change, Object, Selection};
use ferrokube_client::{Client, Transport, TransportError};
use ferrokube_scheduler::config::Configuration;
use ferrokube_scheduler::queue::Backoff;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use http::{Method, Response};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

const NODES: usize = 4;
/// Each node takes so many of the pods.
const ROOM: usize = 6;

struct Cluster {
    pods: BTreeMap<String, Value>,
    revision: u64,
    watchers: Vec<mpsc::UnboundedSender<Change>>,
    /// What the watches have not told yet.
    untold: Vec<Change>,
    random: SmallRng,
    /// Percent of requests that fail.
    faults: u32,
    broken: Vec<String>,
}

/// The API server.
struct Server {
    cluster: Mutex<Cluster>,
    changed: Notify,
}

fn object(value: &Value) -> Arc<Object> {
    Arc::new(Object::from_json(value.to_string().into()).unwrap())
}

fn answer(code: u16, body: &Value) -> Response<Bytes> {
    Response::builder().status(code).body(Bytes::from(body.to_string())).unwrap()
}

fn refusal(code: u16, reason: &str) -> Response<Bytes> {
    answer(code, &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}))
}

impl Cluster {
    fn happens(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn put(&mut self, mut pod: Value) {
        self.revision += 1;
        pod["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.untold.push(Change::Set(object(&pod)));
        self.pods.insert(pod["metadata"]["name"].as_str().unwrap().to_owned(), pod);
        if self.happens(3) {
            self.list_again();
        }
    }

    /// The watches tell what has happened.
    fn tell(&mut self) {
        let untold = std::mem::take(&mut self.untold);
        self.watchers.retain(|w| untold.iter().cloned().all(|change| w.send(change).is_ok()));
    }

    /// The watches have lost their history.
    fn list_again(&mut self) {
        self.untold.clear();
        let listing: Vec<Change> = [Change::Restart].into_iter().chain(self.pods.values().map(|p| Change::Set(object(p)))).collect();
        let revision = self.revision;
        self.watchers.retain(|w| listing.iter().cloned().chain([Change::Synced(revision)]).all(|change| w.send(change).is_ok()));
    }

    fn create(&mut self, name: &str) {
        let resources = json!({"requests": {"cpu": "1"}});
        self.put(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}-{}", self.revision)},
            "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "i", "resources": resources}]}, "status": {},
        }));
    }

    fn delete(&mut self, name: &str) {
        let Some(pod) = self.pods.remove(name) else { return };
        self.revision += 1;
        self.untold.push(Change::Gone(object(&pod)));
    }

    fn bind(&mut self, name: &str, body: &Value) -> Response<Bytes> {
        let Some(mut pod) = self.pods.get(name).cloned().filter(|p| p["metadata"]["uid"] == body["metadata"]["uid"]) else {
            return refusal(404, "NotFound");
        };
        if pod["spec"]["nodeName"].is_string() {
            return refusal(409, "Conflict");
        }
        let node = &body["target"]["name"];
        let there = self.pods.values().filter(|p| p["spec"]["nodeName"] == *node).count();
        if there >= ROOM {
            self.broken.push(format!("{node} gets pod {name} beside {there} others"));
        }
        pod["spec"]["nodeName"] = node.clone();
        self.put(pod);
        answer(201, &json!({"kind": "Status", "status": "Success"}))
    }

    fn request(&mut self, request: &http::Request<Bytes>) -> Response<Bytes> {
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let body = || serde_json::from_slice::<Value>(request.body()).unwrap();
        match (request.method().clone(), &path[..]) {
            (Method::POST, [.., "pods", name, "binding"]) => self.bind(name, &body()),
            (Method::GET, [.., "pods", name]) => match self.pods.get(*name) {
                Some(pod) => answer(200, pod),
                None => refusal(404, "NotFound"),
            },
            (Method::PATCH, [.., "pods", name, "status"]) => match self.pods.get(*name).cloned() {
                Some(mut pod) => {
                    pod["status"]["conditions"] = body()["status"]["conditions"].clone();
                    self.put(pod.clone());
                    answer(200, &pod)
                }
                None => refusal(404, "NotFound"),
            },
            // Events.
            _ => answer(201, &json!({"kind": "Event", "metadata": {"name": "e", "namespace": "default"}})),
        }
    }
}

/// One scheduler's connection; nothing comes through it any more once its process is dead.
#[derive(Clone)]
struct Link {
    server: Arc<Server>,
    alive: Arc<AtomicBool>,
}

impl Transport for Link {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, TransportError>> {
        Box::pin(async move {
            let (before, after, delay, faults) = {
                let mut cluster = self.server.cluster.lock().unwrap();
                let faults = cluster.faults;
                (cluster.happens(faults), cluster.happens(faults), cluster.random.random_range(0..4), faults)
            };
            for _ in 0..delay {
                tokio::task::yield_now().await;
            }
            if before {
                let refused = self.server.cluster.lock().unwrap().happens(50);
                return if refused { Ok(refusal(500, "InternalError")) } else { Err(TransportError::new("connection refused")) };
            }
            if !self.alive.load(Relaxed) {
                return Err(TransportError::new("the process is gone"));
            }
            let answer = {
                let mut cluster = self.server.cluster.lock().unwrap();
                let answer = cluster.request(&request);
                if faults == 0 || cluster.happens(20) {
                    cluster.tell();
                }
                answer
            };
            self.server.changed.notify_waiters();
            tokio::task::yield_now().await;
            if after && faults > 0 { Err(TransportError::new("connection reset")) } else { Ok(answer) }
        })
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        let mut cluster = self.server.cluster.lock().unwrap();
        let listed: Vec<Value> = match &*selection.resource {
            "pods" => cluster.pods.values().cloned().collect(),
            "nodes" => (0..NODES)
                .map(|n| {
                    json!({"metadata": {"name": format!("n{n}"), "uid": format!("n{n}")}, "spec": {},
                        "status": {"allocatable": {"cpu": ROOM.to_string(), "memory": "8Gi", "pods": "110"}}})
                })
                .collect(),
            _ => Vec::new(),
        };
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let changes =
            [Change::Restart].into_iter().chain(listed.iter().map(|o| Change::Set(object(o)))).chain([Change::Synced(cluster.revision)]);
        changes.for_each(|change| drop(sender.send(change)));
        if selection.resource == "pods" {
            cluster.watchers.push(sender);
        } else {
            // Nothing happens to these, but their streams stay.
            std::mem::forget(sender);
        }
        futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
    }
}

fn scheduler(server: &Arc<Server>, seed: u64) -> (tokio::task::JoinHandle<()>, Arc<AtomicBool>) {
    let link = Link { server: server.clone(), alive: Arc::new(AtomicBool::new(true)) };
    let alive = link.alive.clone();
    let client = Client::new(Arc::new(link), "test");
    let configuration = Configuration { backoff: Backoff { first: Duration::ZERO, longest: Duration::ZERO }, ..Configuration::default() };
    let config = ferrokube_scheduler::Config { configuration, seed: Some(seed), ..Default::default() };
    (tokio::spawn(ferrokube_scheduler::run(client, config)), alive)
}

async fn run(seed: u64) {
    let cluster = Cluster {
        pods: BTreeMap::new(),
        revision: 10,
        watchers: Vec::new(),
        untold: Vec::new(),
        random: SmallRng::seed_from_u64(seed),
        faults: 15,
        broken: Vec::new(),
    };
    let server = Arc::new(Server { cluster: Mutex::new(cluster), changed: Notify::new() });
    let (mut task, mut alive) = scheduler(&server, seed);
    for step in 0..60 {
        {
            let mut cluster = server.cluster.lock().unwrap();
            if cluster.pods.len() < NODES * ROOM && !cluster.happens(25) {
                cluster.create(&format!("p{step}"));
            } else {
                let pods = cluster.pods.len().max(1);
                let at = cluster.random.random_range(0..pods);
                let name = cluster.pods.keys().nth(at).cloned();
                name.into_iter().for_each(|n| cluster.delete(&n));
            }
            if cluster.happens(10) {
                cluster.list_again();
            } else if cluster.happens(40) {
                cluster.tell();
            }
        }
        if step % 20 == 19 {
            // A crash, and another that takes over.
            alive.store(false, Relaxed);
            task.abort();
            let _ = task.await;
            {
                let mut cluster = server.cluster.lock().unwrap();
                cluster.watchers.clear();
                // The next one lists.
                cluster.untold.clear();
            }
            (task, alive) = scheduler(&server, seed + step);
        }
        for _ in 0..seed % 7 {
            tokio::task::yield_now().await;
        }
    }
    {
        let mut cluster = server.cluster.lock().unwrap();
        cluster.faults = 0;
        cluster.tell();
    }
    let all_bound = async {
        loop {
            let changed = server.changed.notified();
            let open: Vec<String> = {
                let cluster = server.cluster.lock().unwrap();
                cluster.pods.iter().filter(|(_, p)| !p["spec"]["nodeName"].is_string()).map(|(name, _)| name.clone()).collect()
            };
            if open.is_empty() {
                return;
            }
            changed.await;
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(120), all_bound).await;
    let cluster = server.cluster.lock().unwrap();
    assert!(done.is_ok(), "seed {seed}: pods are left without a node: {:?}", cluster.pods.values().collect::<Vec<_>>());
    assert!(cluster.broken.is_empty(), "seed {seed}: {:?}", cluster.broken);
    task.abort();
}

#[tokio::test]
async fn every_pod_gets_one_node_and_no_node_too_many_whatever_the_server_does() {
    for seed in 0..200 {
        run(seed).await;
    }
}
