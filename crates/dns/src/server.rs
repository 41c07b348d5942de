//! Sockets: UDP and TCP on the given addresses, and the pages about the server itself.
//!
//! Answers from the zone or the cache are made in the loop that received the question; only forwarding needs a task.

use crate::forward::Forwarder;
use crate::handler::{Handler, Step};
use crate::http;
use crate::metrics::{Metrics, Transport};
use crate::records::{Records, Updater};
use crate::zone::Zone;
use ferrokube_client::Caches;
use futures_util::future::BoxFuture;
use hickory_proto::rr::Name;
use parking_lot::RwLock;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

const MAX_DATAGRAM: usize = 4096;
const TCP_IDLE: Duration = Duration::from_secs(10);
const TCP_CONNECTIONS: usize = 512;

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's domain.
    pub domain: String,
    /// Addresses to serve on, UDP and TCP. They must be the node's own.
    pub listen: Vec<SocketAddr>,
    /// Servers for other names; without any, those are refused.
    pub upstreams: Vec<SocketAddr>,
    /// Time to live of our records in seconds.
    pub ttl: u32,
    /// Addresses of the DNS service (`ns.dns.<domain>`).
    pub service_addresses: Vec<IpAddr>,
    /// Networks whose reverse names are never forwarded: those of pods and services.
    pub reverse_networks: Vec<(Ipv4Addr, u8)>,
    /// Where `/health` is served (port 8080 by convention).
    pub health: Option<SocketAddr>,
    /// Where `/ready` is served (port 8181 by convention).
    pub ready: Option<SocketAddr>,
    /// Where `/metrics` is served (port 9153 by convention).
    pub metrics: Option<SocketAddr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            domain: "cluster.local".into(),
            listen: Vec::new(),
            upstreams: Vec::new(),
            ttl: 5,
            service_addresses: Vec::new(),
            reverse_networks: Vec::new(),
            health: None,
            ready: None,
            metrics: None,
        }
    }
}

/// A running server; dropping it stops it.
pub struct Server {
    addresses: Vec<SocketAddr>,
    ready: watch::Receiver<bool>,
    tasks: JoinSet<()>,
}

impl Server {
    /// Binds all sockets, then serves. Names of the cluster are answered once the caches are complete.
    ///
    /// # Errors
    /// The domain is no name, or an address cannot be bound (the message says which).
    pub fn start(config: Config, caches: &Caches) -> BoxFuture<'_, io::Result<Self>> {
        // Boxed here: an `async fn` would be compiled again in every program that awaits it.
        Box::pin(Self::come_up(config, caches))
    }

    async fn come_up(config: Config, caches: &Caches) -> io::Result<Self> {
        let records = Arc::new(RwLock::new(Records::default()));
        let updater = Updater::new(caches, records.clone());
        let handler = Arc::new(handler(&config, records)?);
        let (mut tasks, mut addresses) = (JoinSet::new(), Vec::new());
        for address in &config.listen {
            let (udp, tcp) = bind(*address).await?;
            addresses.push(udp.local_addr()?);
            tasks.spawn(serve_udp(Arc::new(udp), handler.clone()));
            tasks.spawn(serve_tcp(tcp, handler.clone()));
        }
        for (address, paths) in [(config.health, &["/health"][..]), (config.ready, &["/ready"]), (config.metrics, &["/metrics"])] {
            if let Some(address) = address {
                let listener = TcpListener::bind(address).await.map_err(|e| cannot_bind(address, &e))?;
                let handler = handler.clone();
                tasks.spawn(http::serve(listener, move |path| paths.contains(&path).then(|| page(&handler, path))));
            }
        }
        let (ready_tx, ready) = watch::channel(false);
        tasks.spawn(updater.run(move || {
            handler.ready.store(true, Ordering::Release);
            ready_tx.send_replace(true);
        }));
        Ok(Self { addresses, ready, tasks })
    }

    /// The addresses served, in the order of the settings.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Resolves once names of the cluster are answered.
    pub async fn ready(&self) {
        // The sender goes only with the server.
        let _ = self.ready.clone().wait_for(|ready| *ready).await;
    }

    /// Serves until dropped; returns only when a task has died, which is a bug.
    pub async fn run(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(e) = ended {
                tracing::error!("DNS server task ended: {e}");
                return;
            }
        }
    }
}

fn handler(config: &Config, records: Arc<RwLock<Records>>) -> io::Result<Handler> {
    let mut origin = Name::from_ascii(&config.domain)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, format!("cluster domain {:?}: {e}", config.domain)))?;
    origin.set_fqdn(true);
    let metrics = Arc::new(Metrics::default());
    let own: Vec<SocketAddr> = config.listen.clone();
    let not_us = |s: &SocketAddr| !own.contains(s) && !config.service_addresses.contains(&s.ip());
    let upstreams = config.upstreams.iter().copied().filter(not_us).collect();
    Ok(Handler {
        zone: Zone {
            origin: origin.to_lowercase(),
            ttl: config.ttl,
            server_addresses: config.service_addresses.clone(),
            reverse_networks: config.reverse_networks.clone(),
        },
        records,
        ready: AtomicBool::new(false),
        forwarder: Forwarder::new(upstreams, metrics.clone()),
        metrics,
        turn: AtomicUsize::new(0),
    })
}

/// Both sockets on one port. Port 0 is any port that is free for both.
async fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let attempts = if address.port() == 0 { 16 } else { 1 };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let tcp = TcpListener::bind(address).await.map_err(|e| cannot_bind(address, &e))?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((udp, tcp)),
            Err(e) if attempt == attempts => return Err(cannot_bind(address, &e)),
            Err(_) => {}
        }
    }
}

fn cannot_bind(address: SocketAddr, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("DNS server cannot listen on {address}: {e}"))
}

fn page(handler: &Handler, path: &str) -> (bool, String) {
    match path {
        "/metrics" => (true, handler.metrics.render()),
        "/ready" if !handler.ready.load(Ordering::Acquire) => (false, "kubernetes".into()),
        _ => (true, "OK".into()),
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, handler: Arc<Handler>) {
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        // An error here is about an earlier answer (ICMP), not about this socket.
        let Ok((n, client)) = socket.recv_from(&mut buf).await else { continue };
        match handler.handle(&buf[..n], Transport::Udp) {
            Step::Ignore => {}
            Step::Reply(reply) => {
                if socket.try_send_to(&reply, client).is_err() {
                    let _ = socket.send_to(&reply, client).await; // A client that has gone needs no answer.
                }
            }
            Step::Forward(pending) => {
                let (socket, handler) = (socket.clone(), handler.clone());
                tokio::spawn(async move {
                    let reply = handler.finish(*pending).await;
                    let _ = socket.send_to(&reply, client).await;
                });
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, handler: Arc<Handler>) {
    let slots = Arc::new(Semaphore::new(TCP_CONNECTIONS));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let handler = handler.clone();
                tokio::spawn(async move {
                    let _ = serve_stream(stream, &handler).await; // Errors are the client's leaving.
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await, // Out of descriptors.
        }
    }
}

async fn serve_stream(mut stream: TcpStream, handler: &Handler) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = Vec::new();
    loop {
        let length = tokio::time::timeout(TCP_IDLE, stream.read_u16()).await??;
        buf.resize(usize::from(length), 0);
        tokio::time::timeout(TCP_IDLE, stream.read_exact(&mut buf)).await??;
        let reply = match handler.handle(&buf, Transport::Tcp) {
            Step::Ignore => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Forward(pending) => handler.finish(*pending).await,
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), reply.as_slice()].concat();
        tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await??;
    }
}
