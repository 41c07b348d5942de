//! Health over HTTP: of the proxy itself, and of services whose load balancer asks which nodes have an endpoint.
//!
//! The answers are a line of JSON and the connection is closed, so this is HTTP by hand rather than a server library.

use ferrokube_client::ObjectKey;
use ferrokube_client::k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const DELETION_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const MAX_REQUEST: usize = 8 << 10;
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    last_sync: Option<SystemTime>,
    node_leaving: bool,
    servers: JoinSet<()>,
}

/// Health of the proxy, shared between the task that knows it and the servers that tell.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<State>>);

struct Answer {
    ok: bool,
    body: serde_json::Value,
    weight: Option<usize>,
}

impl Health {
    /// Notes a successful change of the rules.
    pub fn synced(&self) {
        self.0.lock().last_sync = Some(SystemTime::now());
    }

    /// A node that is being removed tells load balancers to go elsewhere.
    pub fn set_node_eligible(&self, node: Option<&Node>) {
        let taints = node.and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.as_ref());
        let tainted = taints.is_some_and(|t| t.iter().any(|t| t.key == DELETION_TAINT));
        let deleted = node.is_some_and(|n| n.metadata.deletion_timestamp.is_some());
        self.0.lock().node_leaving = tainted || deleted;
    }

    fn healthy(&self) -> bool {
        self.0.lock().last_sync.is_some()
    }

    fn answer(&self, path: &str) -> Option<Answer> {
        let state = self.0.lock();
        let (synced, eligible) = (state.last_sync.is_some(), !state.node_leaving);
        let ok = match path {
            "/healthz" => synced && eligible,
            "/livez" => synced,
            _ => return None,
        };
        let seconds = |t: SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let time = |t: SystemTime| jiff::Timestamp::from_second(seconds(t) as i64).map_or(String::new(), |t| t.to_string());
        let body = json!({
            "lastUpdated": state.last_sync.map(time).unwrap_or_default(),
            "currentTime": time(SystemTime::now()),
            "nodeEligible": eligible,
        });
        Some(Answer { ok, body, weight: None })
    }

    /// Serves `/healthz` and `/livez` for as long as the proxy lives.
    pub async fn serve(&self, address: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::bind(address).await?;
        let weak = Arc::downgrade(&self.0);
        let server = serve(listener, move |path| Health(weak.upgrade()?).answer(path));
        self.0.lock().servers.spawn(server);
        Ok(())
    }
}

/// One listener per service with a health check node port.
pub struct HealthPorts {
    health: Health,
    open: BTreeMap<u16, Open>,
}

struct Open {
    owner: ObjectKey,
    local: Arc<Mutex<usize>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl HealthPorts {
    /// None yet.
    pub fn new(health: Health) -> Self {
        Self { health, open: BTreeMap::new() }
    }

    /// Opens, updates and closes listeners so that these are there: (service, (port, ready endpoints on this node)).
    pub fn set<'a>(&mut self, want: impl Iterator<Item = (&'a ObjectKey, (u16, usize))>) {
        let want: BTreeMap<u16, (&ObjectKey, usize)> = want.map(|(key, (port, local))| (port, (key, local))).collect();
        self.open.retain(|port, open| want.get(port).is_some_and(|(key, _)| **key == open.owner));
        for (port, (key, count)) in want {
            if let Some(open) = self.open.get(&port) {
                *open.local.lock() = count;
            } else {
                let local = Arc::new(Mutex::new(count));
                let server = tokio::spawn(serve_service(port, key.clone(), local.clone(), self.health.clone()));
                self.open.insert(port, Open { owner: key.clone(), local, server });
            }
        }
    }
}

async fn serve_service(port: u16, service: ObjectKey, local: Arc<Mutex<usize>>, health: Health) {
    let listener = match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        Err(e) => return tracing::warn!(%service, port, "health check node port cannot be opened: {e}"),
    };
    let answer = move |_: &str| {
        let (count, healthy) = (*local.lock(), health.healthy());
        let body = json!({
            "service": {"namespace": &*service.namespace, "name": &*service.name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        });
        Some(Answer { ok: count > 0 && healthy, body, weight: Some(count) })
    };
    serve(listener, answer).await;
}

async fn serve(listener: TcpListener, answer: impl Fn(&str) -> Option<Answer> + Clone + Send + Sync + 'static) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    // A client that is slow or gone is no concern of ours.
                    let _ = tokio::time::timeout(CLIENT_PATIENCE, one_request(stream, answer)).await;
                });
            }
            // Out of descriptors: give the others time to finish.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn one_request(mut stream: TcpStream, answer: impl Fn(&str) -> Option<Answer>) -> io::Result<()> {
    let mut request = Vec::with_capacity(512);
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < MAX_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(request.split(|b| *b == b'\r').next().unwrap_or(&[])).into_owned();
    let path = line.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let (status, body, extra) = match answer(path) {
        Some(a) => {
            let weight = a.weight.map(|w| format!("X-Load-Balancing-Endpoint-Weight: {w}\r\n")).unwrap_or_default();
            (if a.ok { "200 OK" } else { "503 Service Unavailable" }, a.body.to_string(), weight)
        }
        None => ("404 Not Found", String::new(), String::new()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n{extra}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}
