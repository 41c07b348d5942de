//! Port forwarding: each connection of the client becomes one to a port on the pod's loopback.

use std::collections::HashMap;
use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::remote::Outgoing;
use super::{spdy, websocket};
use crate::engine::Engine;
use crate::sandbox::namespaces::in_network;

/// The first half of a connection waits this long for the second.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);

/// Nothing on loopback takes longer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// The two streams of a connection, as they come.
#[derive(Default)]
struct Pair {
    port: Option<u16>,
    data: Option<(mpsc::Receiver<Bytes>, spdy::Outgoing)>,
    error: Option<spdy::Outgoing>,
}

/// `portforward.k8s.io` over SPDY: for each connection an error and a data stream with the same request id.
pub async fn over_spdy(engine: &Arc<Engine>, sandbox: &str, mut connection: spdy::Connection) {
    let mut pairs: HashMap<String, (tokio::time::Instant, Pair)> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connection.accept() => stream,
            Some(_) = running.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        pairs.retain(|_, (since, _)| since.elapsed() < PAIR_TIMEOUT);
        let header = |name: &str| spdy::headers::get(&stream.headers, name).map(str::to_owned);
        let (kind, port) = (header("streamtype"), header("port").and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0));
        let request = header("requestid").or_else(|| header("port")).unwrap_or_default();
        let Some(port) = port else {
            let _ = stream.outgoing.refuse().await;
            continue;
        };
        let (_, pair) = pairs.entry(request.clone()).or_insert_with(|| (tokio::time::Instant::now(), Pair::default()));
        pair.port = Some(port);
        match kind.as_deref() {
            Some("data") if pair.data.is_none() => pair.data = Some((stream.incoming, stream.outgoing)),
            Some("error") if pair.error.is_none() => pair.error = Some(stream.outgoing),
            _ => {
                let _ = stream.outgoing.refuse().await;
            }
        }
        if pair.data.is_some()
            && pair.error.is_some()
            && let Some((_, Pair { data: Some((incoming, outgoing)), error: Some(error), .. })) = pairs.remove(&request)
        {
            let (engine, sandbox) = (engine.clone(), sandbox.to_owned());
            running.spawn(async move {
                forward(&engine, &sandbox, port, incoming, Outgoing::Spdy(outgoing), Outgoing::Spdy(error)).await;
            });
        }
    }
}

/// `v4.channel.k8s.io` over a websocket: two channels per port that was asked for, each opened with the port's number.
pub async fn over_websocket(
    engine: &Arc<Engine>,
    sandbox: &str,
    ports: &[u16],
    session: websocket::Session,
    incoming: Vec<mpsc::Receiver<Bytes>>,
) {
    let mut running = JoinSet::new();
    for ((index, port), incoming) in (0u8..).step_by(2).zip(ports).zip(incoming) {
        let (data, error) = (session.channel(index), session.channel(index + 1));
        let number = Bytes::copy_from_slice(&port.to_le_bytes());
        if data.send(number.clone()).await.is_err() || error.send(number).await.is_err() {
            break;
        }
        let (engine, sandbox, port) = (engine.clone(), sandbox.to_owned(), *port);
        running.spawn(async move {
            forward(&engine, &sandbox, port, incoming, Outgoing::Websocket(data), Outgoing::Websocket(error)).await;
        });
    }
    while running.join_next().await.is_some() {}
    session.close().await;
}

async fn forward(engine: &Arc<Engine>, sandbox: &str, port: u16, incoming: mpsc::Receiver<Bytes>, outgoing: Outgoing, error: Outgoing) {
    let dialled = dial(engine, sandbox, port).await;
    match dialled {
        Ok(stream) => {
            if let Err(failure) = copy(stream, incoming, outgoing).await {
                let _ = error.send(Bytes::from(format!("error forwarding port {port}: {failure}"))).await;
            }
        }
        Err(failure) => {
            let text = format!("error forwarding port {port} to pod {sandbox}: {failure}");
            let _ = error.send(Bytes::from(text)).await;
            outgoing.finish().await;
        }
    }
    error.finish().await;
}

/// Connects to a port on the pod's loopback, IPv4 first.
async fn dial(engine: &Arc<Engine>, sandbox: &str, port: u16) -> Result<TcpStream> {
    let sandbox = engine.sandbox(sandbox).map_err(Error::other)?;
    if !sandbox.is_ready() {
        return Err(Error::other("the sandbox is not running"));
    }
    let connect = move || {
        let to = |ip: IpAddr| std::net::TcpStream::connect_timeout(&SocketAddr::new(ip, port), DIAL_TIMEOUT);
        to(Ipv4Addr::LOCALHOST.into()).or_else(|error| to(Ipv6Addr::LOCALHOST.into()).map_err(|_| error))
    };
    let dialled = tokio::task::spawn_blocking(move || match sandbox.netns() {
        Some(netns) => in_network(&netns, connect),
        None => connect(),
    });
    let stream = dialled.await.map_err(Error::other)??;
    stream.set_nonblocking(true)?;
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Copies both ways. The end of one way is passed on; the connection ends with the pod's side, or when the client is gone.
async fn copy(stream: TcpStream, mut incoming: mpsc::Receiver<Bytes>, outgoing: Outgoing) -> Result<()> {
    let (mut read, mut write) = stream.into_split();
    let up = tokio::spawn(async move {
        while let Some(data) = incoming.recv().await {
            write.write_all(&data).await?;
        }
        write.shutdown().await
    });
    let mut chunk = vec![0; 32 * 1024];
    let result = loop {
        match read.read(&mut chunk).await {
            Ok(0) => break Ok(()),
            Ok(length) => {
                if outgoing.send(Bytes::copy_from_slice(&chunk[..length])).await.is_err() {
                    break Ok(());
                }
            }
            Err(error) => break Err(error),
        }
    };
    up.abort();
    outgoing.finish().await;
    result
}
