//! The server over real sockets on loopback, fed by subscriptions as in a cluster.

use ferrokube_client::{Caches, Change, Client, Object, Selection, Transport, TransportError};
use ferrokube_dns::{Config, Registration, Server};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Objects in memory by path, with just the requests that registration makes.
#[derive(Default)]
struct Memory(Mutex<State>);

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<String, Arc<Object>>,
    subscribers: Vec<(String, mpsc::UnboundedSender<Change>)>,
}

impl Memory {
    fn set(&self, resource: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        self.0.lock().expect("lock").set(&format!("{resource}/{namespace}/{name}"), object);
    }

    fn delete(&self, key: &str) {
        let mut state = self.0.lock().expect("lock");
        let object = state.objects.remove(key).expect("it exists");
        state.tell(key, &Change::Gone(object));
    }

    fn get(&self, key: &str) -> Option<Value> {
        self.0.lock().expect("lock").objects.get(key).map(|o| o.decode().expect("JSON"))
    }
}

impl State {
    fn set(&mut self, key: &str, mut object: Value) -> Arc<Object> {
        self.revision += 1;
        object["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        object["metadata"]["uid"] = json!(format!("uid-{key}"));
        let object = Arc::new(Object::from_json(object.to_string().into()).expect("an object"));
        self.objects.insert(key.into(), object.clone());
        self.tell(key, &Change::Set(object.clone()));
        object
    }

    fn tell(&mut self, key: &str, change: &Change) {
        let resource = key.split('/').next().unwrap_or_default();
        self.subscribers.retain(|(r, tx)| r != resource || tx.send(change.clone()).is_ok());
    }
}

impl Transport for Memory {
    fn send(&self, request: http::Request<bytes::Bytes>) -> BoxFuture<'_, Result<http::Response<bytes::Bytes>, TransportError>> {
        let mut state = self.0.lock().expect("lock");
        let parts: Vec<&str> = request.uri().path().split('/').collect();
        let at = parts.iter().position(|p| *p == "namespaces").expect("a namespaced path");
        let (namespace, resource) = (parts[at + 1], parts[at + 2]);
        let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let name = parts.get(at + 3).map_or_else(|| body["metadata"]["name"].as_str().unwrap_or_default().to_owned(), ToString::to_string);
        let key = format!("{resource}/{namespace}/{name}");
        let answer = match *request.method() {
            Method::GET => state.objects.get(&key).cloned(),
            _ => Some(state.set(&key, body)),
        };
        let (code, body) = answer.map_or((404, bytes::Bytes::new()), |o| (200, o.json()));
        let response = http::Response::builder().status(code).body(body).map_err(TransportError::new);
        Box::pin(async move { response })
    }

    fn subscribe(&self, selection: Selection) -> BoxStream<'static, Change> {
        let mut state = self.0.lock().expect("lock");
        let (tx, rx) = mpsc::unbounded_channel();
        let prefix = format!("{}/", selection.resource);
        let known = state.objects.iter().filter(|(k, _)| k.starts_with(&prefix)).map(|(_, o)| Change::Set(o.clone()));
        let first = [Change::Restart].into_iter().chain(known).chain([Change::Synced(state.revision)]);
        first.for_each(|change| tx.send(change).expect("the receiver is here"));
        state.subscribers.push((selection.resource, tx));
        futures_util::stream::unfold(rx, |mut rx| async { rx.recv().await.map(|change| (change, rx)) }).boxed()
    }
}

fn service(name: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80}]},
    })
}

struct Lab {
    memory: Arc<Memory>,
    client: Client,
    caches: Caches,
    server: Server,
}

async fn lab(config: Config) -> Lab {
    let memory = Arc::new(Memory::default());
    memory.set("namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
    memory.set("services", service("web", "10.96.0.20"));
    let client = Client::new(memory.clone(), "test");
    let caches = Caches::new(client.clone());
    let listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    let server = Server::start(Config { listen, ..config }, &caches).await.expect("starts");
    server.ready().await;
    Lab { memory, client, caches, server }
}

fn question(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message.edns = edns.map(|size| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns
    });
    message
}

fn udp(server: SocketAddr, request: &Message) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("timeout");
    socket.send_to(&request.to_vec().expect("encodes"), server).expect("send");
    let mut buf = [0; 4096];
    let n = socket.recv(&mut buf).expect("an answer");
    let answer = Message::from_vec(&buf[..n]).expect("a message");
    assert_eq!(answer.metadata.id, request.metadata.id);
    answer
}

fn tcp(server: SocketAddr, request: &Message) -> Message {
    let mut stream = TcpStream::connect(server).expect("connect");
    let bytes = request.to_vec().expect("encodes");
    stream.write_all(&[&u16::try_from(bytes.len()).expect("short").to_be_bytes(), bytes.as_slice()].concat()).expect("send");
    let mut length = [0; 2];
    stream.read_exact(&mut length).expect("length");
    let mut buf = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut buf).expect("answer");
    Message::from_vec(&buf).expect("a message")
}

fn addresses(message: &Message) -> Vec<String> {
    let all = message.answers.iter().filter(|r| r.record_type() == RecordType::A);
    all.map(|r| r.data.to_string()).collect()
}

const WEB: &str = "web.default.svc.cluster.local.";

#[tokio::test(flavor = "multi_thread")]
async fn names_follow_the_objects_over_udp_and_tcp() {
    let lab = lab(Config::default()).await;
    let server = lab.server.addresses()[0];
    for ask in [udp, tcp] {
        let answer = ask(server, &question(WEB, RecordType::A, Some(1232)));
        assert_eq!(addresses(&answer), ["10.96.0.20"]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.answers[0].ttl, 5);
        let none = ask(server, &question(WEB, RecordType::AAAA, None));
        assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NoError, 1));
        let absent = ask(server, &question("no.default.svc.cluster.local.", RecordType::A, None));
        assert_eq!(absent.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(absent.authorities[0].record_type(), RecordType::SOA);
        let foreign = ask(server, &question("example.org.", RecordType::A, None));
        assert_eq!(foreign.metadata.response_code, ResponseCode::Refused, "nobody to ask");
    }
    lab.memory.set("services", service("late", "10.96.0.30"));
    let started = Instant::now();
    let late = || udp(server, &question("late.default.svc.cluster.local.", RecordType::A, None));
    while addresses(&late()) != ["10.96.0.30"] {
        assert!(started.elapsed() < Duration::from_secs(60), "a new service gets its name");
    }
    println!("from the object to its name: {:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_truncated_and_tcp_has_it_all() {
    let lab = lab(Config::default()).await;
    let server = lab.server.addresses()[0];
    let endpoints: Vec<_> = (0..100).map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    lab.memory.set(
        "endpointslices",
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "many-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "many"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [],
        }),
    );
    lab.memory.set("services", service("many", "None"));
    let many = |edns| question("many.default.svc.cluster.local.", RecordType::A, edns);
    let started = Instant::now();
    while tcp(server, &many(None)).answers.len() != 100 {
        assert!(started.elapsed() < Duration::from_secs(60), "all endpoints have the name");
    }
    for (edns, limit) in [(None, 512), (Some(1232), 1232), (Some(65535), 1232)] {
        let answer = udp(server, &many(edns));
        assert!(answer.metadata.truncation && answer.answers.len() > 10, "{edns:?}");
        assert!(answer.to_vec().expect("encodes").len() <= limit, "{edns:?}");
        assert_eq!(answer.edns.is_some(), edns.is_some());
    }
    let first = |answer: Message| addresses(&answer)[0].clone();
    let firsts: std::collections::BTreeSet<_> = (0..20).map(|_| first(tcp(server, &many(None)))).collect();
    assert!(firsts.len() > 10, "clients that take the first address spread: {firsts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_forwarded_and_remembered() {
    let upstream = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = upstream.local_addr().expect("address");
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        let mut buf = [0; 4096];
        while let Ok((n, peer)) = upstream.recv_from(&mut buf) {
            let mut answer = Message::from_vec(&buf[..n]).expect("a message").into_response();
            let name = answer.queries[0].name().clone();
            answer.answers.push(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 7)))));
            *count.lock().expect("lock") += 1;
            // A forged answer first: it must not be taken.
            let mut forged = answer.clone();
            forged.metadata.id = forged.metadata.id.wrapping_add(1);
            forged.answers.clear();
            let _ = upstream.send_to(&forged.to_vec().expect("encodes"), peer);
            let _ = upstream.send_to(&answer.to_vec().expect("encodes"), peer);
        }
    });
    let lab = lab(Config { upstreams: vec![address], ..Config::default() }).await;
    let server = lab.server.addresses()[0];
    for _ in 0..3 {
        let answer = udp(server, &question("example.org.", RecordType::A, None));
        assert_eq!(addresses(&answer), ["192.0.2.7"]);
        assert!(!answer.metadata.authoritative && answer.answers[0].ttl <= 60);
    }
    assert_eq!(*asked.lock().expect("lock"), 1, "the second and third came from the cache");
    udp(server, &question("no.default.svc.cluster.local.", RecordType::A, None));
    assert_eq!(*asked.lock().expect("lock"), 1, "a name of the zone never leaves");
    lab.memory.set(
        "services",
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "far", "namespace": "default"},
            "spec": {"type": "ExternalName", "externalName": "far.example.org"},
        }),
    );
    let started = Instant::now();
    let far = || tcp(server, &question("far.default.svc.cluster.local.", RecordType::A, None));
    while addresses(&far()) != ["192.0.2.7"] {
        assert!(started.elapsed() < Duration::from_secs(60), "an alias is followed upstream: {:?}", far());
    }
    assert_eq!(far().answers[0].record_type(), RecordType::CNAME);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_not_there_ends_in_server_failure() {
    let closed = {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        socket.local_addr().expect("address")
    };
    let lab = lab(Config { upstreams: vec![closed], ..Config::default() }).await;
    let answer = udp(lab.server.addresses()[0], &question("example.org.", RecordType::A, None));
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_get_the_error_of_the_protocol_or_silence() {
    let lab = lab(Config::default()).await;
    let server = lab.server.addresses()[0];
    let mut two = question(WEB, RecordType::A, None);
    two.queries.push(two.queries[0].clone());
    assert_eq!(udp(server, &two).metadata.response_code, ResponseCode::FormErr);
    assert_eq!(udp(server, &question(WEB, RecordType::AXFR, None)).metadata.response_code, ResponseCode::Refused);
    let mut new = question(WEB, RecordType::A, Some(1232));
    new.edns.as_mut().expect("edns").set_version(1);
    let code = u16::from(udp(server, &new).metadata.response_code);
    assert_eq!(code, u16::from(ResponseCode::BADVERS));
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    socket.connect(server).expect("connect");
    let mut response = question(WEB, RecordType::A, None).into_response().to_vec().expect("encodes");
    socket.send(&response).expect("a response is no request");
    socket.send(&[1, 2, 3]).expect("nor is this");
    response.truncate(14);
    response[2] &= 0x7f;
    socket.send(&response).expect("cut off");
    let mut buf = [0; 512];
    let n = socket.recv(&mut buf).expect("an answer to the last one only");
    assert_eq!(Message::from_vec(&buf[..n]).expect("a message").metadata.response_code, ResponseCode::FormErr);
    assert_eq!(addresses(&udp(server, &question(WEB, RecordType::A, None))), ["10.96.0.20"], "and life goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_registered_and_put_back() {
    let lab = lab(Config::default()).await;
    let registration = Registration {
        cluster_ip: "10.96.0.10".parse().expect("an address"),
        server: "10.244.0.1:53".parse().expect("an address"),
        metrics_port: None,
        node_name: "n".into(),
    };
    let (client, caches) = (lab.client.clone(), lab.caches.clone());
    tokio::spawn(async move { ferrokube_dns::register(client, &caches, registration).await });
    let wait_for = |key: &str| {
        let started = Instant::now();
        loop {
            if let Some(object) = lab.memory.get(key) {
                return object;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "{key}");
        }
    };
    let (service, slice) = ("services/kube-system/kube-dns", "endpointslices/kube-system/kube-dns-n");
    assert_eq!(wait_for(service)["spec"]["clusterIP"], "10.96.0.10");
    let written = wait_for(slice);
    assert_eq!(written["endpoints"][0]["addresses"][0], "10.244.0.1");
    assert_eq!(written["metadata"]["labels"]["kubernetes.io/service-name"], "kube-dns");
    lab.memory.delete(slice);
    assert_eq!(wait_for(slice)["ports"], written["ports"]);
    let server = lab.server.addresses()[0];
    let started = Instant::now();
    while addresses(&udp(server, &question("kube-dns.kube-system.svc.cluster.local.", RecordType::A, None))).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(60), "the service has its own name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_tell_health_readiness_and_counters() {
    let free = || SocketAddr::from((Ipv4Addr::LOCALHOST, ferrokube_testkit::free_port()));
    let (health, ready, metrics) = (free(), free(), free());
    let config = Config { health: Some(health), ready: Some(ready), metrics: Some(metrics), ..Config::default() };
    let lab = lab(config).await;
    udp(lab.server.addresses()[0], &question(WEB, RecordType::A, None));
    let get = |address: SocketAddr, path: &str| {
        let mut stream = TcpStream::connect(address).expect("connect");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("send");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        text
    };
    assert!(get(health, "/health").starts_with("HTTP/1.1 200"));
    assert!(get(ready, "/ready").starts_with("HTTP/1.1 200"));
    assert!(get(ready, "/other").starts_with("HTTP/1.1 404"));
    assert!(get(metrics, "/metrics").contains("coredns_dns_requests_total{proto=\"udp\",type=\"A\"} 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_per_second() {
    let lab = lab(Config::default()).await;
    let server = lab.server.addresses()[0];
    let request = question(WEB, RecordType::A, Some(1232)).to_vec().expect("encodes");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    socket.connect(server).expect("connect");
    let (window, total) = (32, 20_000);
    let started = Instant::now();
    let mut buf = [0; 512];
    (0..window).for_each(|_| drop(socket.send(&request)));
    for n in 0..total {
        socket.recv(&mut buf).expect("an answer");
        if n < total - window {
            socket.send(&request).expect("send");
        }
    }
    println!("{:.0} questions per second, one client, {window} in flight", f64::from(total) / started.elapsed().as_secs_f64());
}
