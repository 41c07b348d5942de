//! Names that are not the cluster's: asked of upstream servers, remembered for a short while.
//!
//! Must never: ask a server that is ourselves, take an answer to another question, or remember longer than the answer
//! allows.

use crate::metrics::Metrics;
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

const TRY: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// Questions on their way at one time; more are refused, as overload would only make all of them late.
const MAX_CONCURRENT: usize = 1000;
const MAX_TTL: u32 = 30;
const CACHE_ENTRIES: usize = 4096;
const UPSTREAM_PAYLOAD: u16 = 1232;

/// The upstream servers that a `resolv.conf` names, without `own` addresses: forwarding to ourselves would never end.
pub fn upstreams_of(resolv_conf: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.split(['#', ';']).next());
    let servers = lines.filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()).flatten()
    });
    let addresses = servers.filter_map(|text| text.split('%').next()?.parse::<IpAddr>().ok());
    addresses.filter(|a| !own.contains(a)).map(|a| SocketAddr::new(a, 53)).collect()
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    name: Name,
    kind: RecordType,
    dnssec: bool,
    checking_disabled: bool,
}

struct Entry {
    message: Message,
    since: Instant,
    ttl: u32,
}

/// Forwards and remembers.
pub struct Forwarder {
    upstreams: Vec<SocketAddr>,
    /// The server that answered last is asked first.
    preferred: AtomicUsize,
    cache: Mutex<HashMap<Key, Entry>>,
    concurrent: Semaphore,
    metrics: Arc<Metrics>,
}

impl Forwarder {
    /// Forwards to these servers.
    pub fn new(upstreams: Vec<SocketAddr>, metrics: Arc<Metrics>) -> Self {
        Self { upstreams, preferred: AtomicUsize::new(0), cache: Mutex::default(), concurrent: Semaphore::new(MAX_CONCURRENT), metrics }
    }

    /// Whether there is nobody to ask.
    pub fn is_empty(&self) -> bool {
        self.upstreams.is_empty()
    }

    /// The answer, when it is still fresh.
    pub fn cached(&self, request: &Message, question: &Query) -> Option<Message> {
        let cache = self.cache.lock();
        let entry = cache.get(&key(request, question));
        let fresh = entry.and_then(|e| {
            let age = u32::try_from(e.since.elapsed().as_secs()).unwrap_or(u32::MAX);
            (age < e.ttl).then(|| {
                let mut message = e.message.clone();
                let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
                sections.into_iter().flatten().for_each(|r| r.ttl = r.ttl.saturating_sub(age));
                message
            })
        });
        let counter = if fresh.is_some() { &self.metrics.cache_hits } else { &self.metrics.cache_misses };
        counter.fetch_add(1, Relaxed);
        fresh
    }

    /// Asks the servers one after the other; `None` when none answers.
    pub async fn ask(&self, request: &Message, question: &Query) -> Option<Message> {
        let _permit = self.concurrent.try_acquire().ok()?;
        self.metrics.forwarded.fetch_add(1, Relaxed);
        let first = self.preferred.load(Relaxed);
        let mut last = None;
        for n in 0..self.upstreams.len() * ROUNDS {
            let index = (first + n) % self.upstreams.len();
            let server = self.upstreams[index];
            match tokio::time::timeout(TRY, exchange(server, request, question)).await {
                Ok(Ok(message)) if message.metadata.response_code == ResponseCode::ServFail => last = Some(message),
                Ok(Ok(message)) => {
                    self.preferred.store(index, Relaxed);
                    self.remember(key(request, question), &message);
                    return Some(message);
                }
                Ok(Err(e)) => tracing::debug!(%server, "upstream DNS server: {e}"),
                Err(_) => tracing::debug!(%server, "upstream DNS server does not answer"),
            }
        }
        self.metrics.forward_failures.fetch_add(1, Relaxed);
        last
    }

    fn remember(&self, key: Key, message: &Message) {
        let Some(ttl) = time_to_live(message).filter(|ttl| *ttl > 0) else { return };
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE_ENTRIES {
            cache.retain(|_, e| e.since.elapsed().as_secs() < u64::from(e.ttl));
            if cache.len() >= CACHE_ENTRIES {
                cache.clear();
            }
        }
        cache.insert(key, Entry { message: message.clone(), since: Instant::now(), ttl });
    }
}

fn key(request: &Message, question: &Query) -> Key {
    Key {
        name: question.name().clone(),
        kind: question.query_type(),
        dnssec: wants_dnssec(request),
        checking_disabled: request.metadata.checking_disabled,
    }
}

fn wants_dnssec(request: &Message) -> bool {
    request.edns.as_ref().is_some_and(|e| e.flags().dnssec_ok)
}

/// How long an answer may be remembered: its smallest time to live; for a negative one, what its SOA says.
fn time_to_live(message: &Message) -> Option<u32> {
    if !matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return None;
    }
    let answers = message.answers.iter().map(|r| r.ttl).min();
    let negative = || {
        message.authorities.iter().find_map(|r| match &r.data {
            RData::SOA(soa) => Some(r.ttl.min(soa.minimum)),
            _ => None,
        })
    };
    answers.or_else(negative).map(|ttl| ttl.min(MAX_TTL))
}

/// One question to one server: by UDP from a fresh random port, by TCP when the answer does not fit.
async fn exchange(server: SocketAddr, request: &Message, question: &Query) -> io::Result<Message> {
    let mut message = Message::query();
    message.metadata.id = rand::random();
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.queries.push(question.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UPSTREAM_PAYLOAD).set_dnssec_ok(wants_dnssec(request));
    message.edns = Some(edns);
    let bytes = message.to_vec().map_err(io::Error::other)?;
    let local: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buf = vec![0; 4096];
    loop {
        let n = socket.recv(&mut buf).await?;
        let Some(answer) = answer_to(&message, &buf[..n]) else { continue };
        return if answer.metadata.truncation { by_tcp(server, &message, &bytes).await } else { Ok(answer) };
    }
}

async fn by_tcp(server: SocketAddr, message: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    answer_to(message, &answer).ok_or_else(|| io::Error::other("an answer to another question"))
}

/// The message, when it answers this question.
fn answer_to(question: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = answer.metadata.id == question.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && answer.queries == question.queries;
    same.then_some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_servers_are_read_from_resolv_conf_without_ourselves() {
        let text = "# comment\nsearch x\nnameserver 127.0.0.53\nnameserver 10.96.0.10 # us\nnameserver fe80::1%eth0\nnameserver bad\n";
        let own = ["10.96.0.10".parse().expect("an address")];
        let got: Vec<String> = upstreams_of(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["127.0.0.53:53", "[fe80::1]:53"]);
    }
}
