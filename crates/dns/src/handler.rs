//! A message to a message: the rules of the protocol around what the zone and the forwarder say.

use crate::forward::Forwarder;
use crate::metrics::{Metrics, Transport};
use crate::records::Records;
use crate::zone::{Answer, Outcome, Zone};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// Datagrams of this size get through every network without fragments.
const MAX_UDP: u16 = 1232;
const MIN_UDP: u16 = 512;

/// Everything an answer needs.
pub struct Handler {
    /// The cluster's zone.
    pub zone: Zone,
    /// What its names lead to.
    pub records: Arc<RwLock<Records>>,
    /// Whether the records are complete.
    pub ready: AtomicBool,
    /// Other names.
    pub forwarder: Forwarder,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Turns the order of addresses, so that clients that take the first one spread.
    pub turn: AtomicUsize,
}

/// What is to be done about a request.
pub enum Step {
    /// Send this.
    Reply(Vec<u8>),
    /// Ask upstream; see [`Handler::finish`].
    Forward(Box<Pending>),
    /// Nothing: it was no request.
    Ignore,
}

/// A request on its way upstream.
pub struct Pending {
    request: Message,
    transport: Transport,
    started: Instant,
    /// An alias of ours and the name it leads to.
    alias: Option<(Record, Name)>,
}

impl Handler {
    /// Answers a request, or says that an upstream server must be asked.
    pub fn handle(&self, bytes: &[u8], transport: Transport) -> Step {
        let started = Instant::now();
        let request = match Message::from_vec(bytes) {
            Ok(request) if request.metadata.message_type == MessageType::Query => request,
            Ok(_) => return Step::Ignore,
            Err(_) => return malformed(bytes),
        };
        let mut pending = Pending { request, transport, started, alias: None };
        match self.decide(&mut pending) {
            Some(response) => Step::Reply(self.encode(response, &pending)),
            None => Step::Forward(Box::new(pending)),
        }
    }

    /// The response, unless it needs an upstream server.
    fn decide(&self, pending: &mut Pending) -> Option<Message> {
        let request = &pending.request;
        let refuse = |code| Some(response_to(request, code));
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let [query] = request.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
        self.metrics.request(pending.transport, query.query_type());
        if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
            return refuse(ResponseCode::BADVERS);
        }
        if query.query_class() != DNSClass::IN {
            return refuse(ResponseCode::Refused);
        }
        if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return refuse(ResponseCode::Refused);
        }
        let outcome = self.zone.lookup(&self.records.read(), query.name(), query.query_type());
        if outcome != Outcome::NotOurs && !self.ready.load(Ordering::Acquire) {
            return refuse(ResponseCode::ServFail);
        }
        match outcome {
            Outcome::Found(answer) => Some(self.positive(request, answer)),
            Outcome::NoData => Some(self.negative(request, ResponseCode::NoError)),
            Outcome::NxDomain => Some(self.negative(request, ResponseCode::NXDomain)),
            // The alias is all we know; a resolver with other servers can go on from there.
            Outcome::Elsewhere(alias, _) if self.forwarder.is_empty() => {
                Some(self.positive(request, Answer { answers: vec![*alias], additionals: Vec::new() }))
            }
            Outcome::NotOurs if self.forwarder.is_empty() => refuse(ResponseCode::Refused),
            Outcome::Elsewhere(alias, target) => {
                let question = Query::query(target.clone(), query.query_type());
                let known = self.forwarder.cached(request, &question);
                match known {
                    Some(known) => Some(self.with_alias(request, *alias, known)),
                    None => {
                        pending.alias = Some((*alias, target));
                        None
                    }
                }
            }
            Outcome::NotOurs => self.forwarder.cached(request, query).map(|known| relayed(request, known)),
        }
    }

    /// Asks upstream and makes the response.
    pub async fn finish(&self, pending: Pending) -> Vec<u8> {
        let request = &pending.request;
        let question = match &pending.alias {
            Some((_, target)) => Query::query(target.clone(), request.queries[0].query_type()),
            None => request.queries[0].clone(),
        };
        let answered = self.forwarder.ask(request, &question).await;
        let response = match (answered, &pending.alias) {
            (Some(upstream), None) => relayed(request, upstream),
            (Some(upstream), Some((alias, _))) => self.with_alias(request, alias.clone(), upstream),
            (None, _) => response_to(request, ResponseCode::ServFail),
        };
        self.encode(response, &pending)
    }

    fn positive(&self, request: &Message, answer: Answer) -> Message {
        let mut response = response_to(request, ResponseCode::NoError);
        response.metadata.authoritative = true;
        response.answers = answer.answers;
        response.additionals = answer.additionals;
        if response.answers.len() > 1 {
            // Aliases stay in front of what they lead to.
            let aliases = response.answers.iter().take_while(|r| r.record_type() == RecordType::CNAME).count();
            let rest = &mut response.answers[aliases..];
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % rest.len().max(1);
            rest.rotate_left(turn);
        }
        response
    }

    fn negative(&self, request: &Message, code: ResponseCode) -> Message {
        let mut response = response_to(request, code);
        response.metadata.authoritative = true;
        response.authorities.push(self.zone.soa());
        response
    }

    fn with_alias(&self, request: &Message, alias: Record, upstream: Message) -> Message {
        let mut response = response_to(request, upstream.metadata.response_code);
        response.answers.push(alias);
        response.answers.extend(upstream.answers);
        response.authorities = upstream.authorities;
        response
    }

    fn encode(&self, mut response: Message, pending: &Pending) -> Vec<u8> {
        let limit = match (&pending.transport, &pending.request.edns) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => MIN_UDP,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(MIN_UDP, MAX_UDP),
        };
        if let Some(edns) = &pending.request.edns {
            let mut ours = Edns::new();
            ours.set_max_payload(MAX_UDP).set_dnssec_ok(edns.flags().dnssec_ok);
            response.edns = Some(ours);
        }
        self.metrics.response(response.metadata.response_code, pending.started.elapsed());
        encode_within(response, limit)
    }
}

fn response_to(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.metadata.response_code = code;
    response.queries = request.queries.clone();
    response
}

/// What an upstream server said, as the answer to our client's request.
fn relayed(request: &Message, upstream: Message) -> Message {
    let mut response = response_to(request, upstream.metadata.response_code);
    response.metadata.authentic_data = upstream.metadata.authentic_data;
    response.answers = upstream.answers;
    response.authorities = upstream.authorities;
    response.additionals = upstream.additionals;
    response
}

/// A request that cannot be read still gets an answer when it has an id and calls itself a request.
fn malformed(bytes: &[u8]) -> Step {
    match bytes {
        [a, b, flags, ..] if bytes.len() >= 12 && flags & 0x80 == 0 => {
            let response = Message::error_msg(u16::from_be_bytes([*a, *b]), OpCode::Query, ResponseCode::FormErr);
            Step::Reply(encode_within(response, MIN_UDP))
        }
        _ => Step::Ignore,
    }
}

/// Encodes; what does not fit goes from the end, and the truncation flag tells.
fn encode_within(mut response: Message, limit: u16) -> Vec<u8> {
    loop {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        if let Err(e) = response.emit(&mut encoder) {
            tracing::warn!("DNS answer cannot be encoded: {e}");
            let id = response.metadata.id;
            response = Message::error_msg(id, OpCode::Query, ResponseCode::ServFail);
            continue;
        }
        if bytes.len() <= usize::from(limit) {
            return bytes;
        }
        if !response.additionals.is_empty() {
            // Additional records are a courtesy: leaving them out is no truncation.
            response.additionals.clear();
            continue;
        }
        response.metadata.truncation = true;
        response.authorities.clear();
        let keep = response.answers.len() * usize::from(limit) / bytes.len();
        response.answers.truncate(keep.min(response.answers.len().saturating_sub(1)));
    }
}
