//! The proxy's task, fed by subscriptions as in a cluster: objects come and go, connections follow.

use crate::lab::{Answer, assert_refused, inside, tcp, udp_from};
use ferrokube_client::{Caches, Change, Client, Object, Selection, Transport, TransportError};
use ferrokube_network::proxy::{self, Config};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);

/// Subscriptions from a map in memory. Requests are not what is tested here: they fail.
#[derive(Default)]
struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    revision: u64,
    objects: HashMap<String, BTreeMap<String, Arc<Object>>>,
    subscribers: Vec<(String, mpsc::UnboundedSender<Change>)>,
}

impl Memory {
    fn set(&self, resource: &str, mut object: Value) {
        let mut state = self.0.lock().expect("no panic under the lock");
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        let object = Arc::new(Object::from_json(object.to_string().into()).expect("an object"));
        state.objects.entry(resource.into()).or_default().insert(object.key.to_string(), object.clone());
        state.tell(resource, Change::Set(object));
    }

    fn delete(&self, resource: &str, key: &str) {
        let mut state = self.0.lock().expect("no panic under the lock");
        let object = state.objects.get_mut(resource).and_then(|o| o.remove(key)).expect("it exists");
        state.tell(resource, Change::Gone(object));
    }
}

impl State {
    fn tell(&mut self, resource: &str, change: Change) {
        self.subscribers.retain(|(r, tx)| r != resource || tx.send(change.clone()).is_ok());
    }
}

impl Transport for Memory {
    fn send(&self, _: http::Request<bytes::Bytes>) -> BoxFuture<'_, Result<http::Response<bytes::Bytes>, TransportError>> {
        Box::pin(async { Err(TransportError::new("no requests here")) })
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        let mut state = self.0.lock().expect("no panic under the lock");
        let (tx, rx) = mpsc::unbounded_channel();
        let known = state.objects.get(&selection.resource).into_iter().flat_map(BTreeMap::values).cloned();
        let first = [Change::Restart].into_iter().chain(known.map(Change::Set)).chain([Change::Synced(state.revision)]);
        first.for_each(|change| tx.send(change).expect("the receiver is here"));
        state.subscribers.push((selection.resource, tx));
        futures_util::stream::unfold(rx, |mut rx| async { rx.recv().await.map(|change| (change, rx)) }).boxed()
    }
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP],
            "healthCheckNodePort": 30999, "externalTrafficPolicy": "Local", "ports": [
            {"name": "t", "port": 80, "protocol": "TCP"}, {"name": "u", "port": 80, "protocol": "UDP"}]},
    })
}

fn slice(addresses: &[Ipv4Addr]) -> Value {
    let endpoints: Vec<_> = addresses.iter().map(|a| json!({"addresses": [a], "nodeName": "n"})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "t", "port": 8080, "protocol": "TCP"}, {"name": "u", "port": 8080, "protocol": "UDP"}],
    })
}

/// Asks until the answer is the expected one; says how long that took.
fn until(what: &str, ask: impl Fn() -> io::Result<Answer>, good: impl Fn(&io::Result<Answer>) -> bool) -> Duration {
    let started = Instant::now();
    loop {
        let answer = ask();
        if good(&answer) {
            return started.elapsed();
        }
        assert!(started.elapsed() < Duration::from_secs(300), "{what}: {answer:?}");
    }
}

fn http_status(port: u16, path: &str) -> String {
    use std::io::{Read, Write};
    let mut text = String::new();
    // Nobody listens yet, or no more: that is no answer.
    let _ = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|mut stream| {
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
        stream.read_to_string(&mut text)
    });
    text
}

#[test]
fn rules_follow_the_objects() {
    inside("live::rules_follow_the_objects", |lab| {
        let runtime = tokio::runtime::Runtime::new().expect("runtime");
        let memory = Arc::new(Memory::default());
        let client = Client::new(memory.clone(), "test");
        let caches = runtime.block_on(async { Caches::new(client) });
        let config = Config {
            node_name: "n".into(),
            cluster_cidr: Some(lab.node.cluster_cidr),
            masquerade_all: false,
            healthz: Some(([127, 0, 0, 1], 10256).into()),
        };
        let run = |config: Config| {
            let caches = caches.clone();
            runtime.spawn(async move { proxy::run(&caches, config).await })
        };
        let task = run(config.clone());
        let (a, b, pod) = (lab.pod(), lab.pod(), lab.pod());
        a.serve(8080, "a");
        b.serve(8080, "b");
        let ask = || pod.run(|| tcp(CLUSTER_IP, 80));
        let from = |name: &'static str| move |r: &io::Result<Answer>| r.as_ref().is_ok_and(|a| a.server == name);

        memory.set("services", service());
        memory.set("endpointslices", slice(&[a.address]));
        let took = until("the service is there", ask, from("a"));
        println!("from the objects to the first connection: {took:?}");
        until("health", ask, |_| http_status(10256, "/healthz").starts_with("HTTP/1.1 200"));
        let weight = "X-Load-Balancing-Endpoint-Weight: 1\r\n";
        until("the service's health", ask, |_| http_status(30999, "/").contains(weight));

        // A UDP client that never stops sending moves on when its endpoint goes.
        let socket = pod.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).expect("bind");
        assert_eq!(udp_from(&socket, CLUSTER_IP, 80).expect("UDP").server, "a");
        memory.set("endpointslices", slice(&[b.address]));
        until("the new endpoint", ask, from("b"));
        until("the new endpoint, UDP", || udp_from(&socket, CLUSTER_IP, 80), from("b"));

        memory.set("endpointslices", slice(&[]));
        until("no endpoint", ask, Result::is_err);
        assert_refused("no endpoint", ask);
        until("the service's health", ask, |_| http_status(30999, "/").starts_with("HTTP/1.1 503"));

        // The proxy stops, the world changes, another one starts.
        task.abort();
        memory.set("endpointslices", slice(&[a.address]));
        let config = Config { healthz: None, ..config };
        let _again = run(config);
        until("after a restart", ask, from("a"));

        memory.delete("services", "default/web");
        until("the service has gone", ask, Result::is_err);
        memory.set("services", service());
        until("and is there again", ask, from("a"));
        let _ = std::process::Command::new("nft").args(["delete", "table", "ip", "ferrokube-proxy"]).status();
        memory.set("endpointslices", slice(&[b.address]));
        until("somebody deleted our table: it comes back with the next change", ask, from("b"));
    });
}
