//! Counters of the server, under the names operators of cluster DNS already graph.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const TYPES: [(&str, Option<RecordType>); 8] = [
    ("A", Some(RecordType::A)),
    ("AAAA", Some(RecordType::AAAA)),
    ("SRV", Some(RecordType::SRV)),
    ("PTR", Some(RecordType::PTR)),
    ("CNAME", Some(RecordType::CNAME)),
    ("TXT", Some(RecordType::TXT)),
    ("SOA", Some(RecordType::SOA)),
    ("other", None),
];
const CODES: [(&str, Option<ResponseCode>); 6] = [
    ("NOERROR", Some(ResponseCode::NoError)),
    ("NXDOMAIN", Some(ResponseCode::NXDomain)),
    ("SERVFAIL", Some(ResponseCode::ServFail)),
    ("REFUSED", Some(ResponseCode::Refused)),
    ("FORMERR", Some(ResponseCode::FormErr)),
    ("other", None),
];
/// Upper bounds in seconds.
const BUCKETS: [f64; 8] = [0.00025, 0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096];

/// How a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram.
    Udp,
    /// A stream.
    Tcp,
}

/// All counters.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [[AtomicU64; TYPES.len()]; 2],
    responses: [AtomicU64; CODES.len()],
    buckets: [AtomicU64; BUCKETS.len() + 1],
    nanoseconds: AtomicU64,
    /// Answers from the cache of forwarded names.
    pub cache_hits: AtomicU64,
    /// Forwarded names that were not in the cache.
    pub cache_misses: AtomicU64,
    /// Questions sent to upstream servers.
    pub forwarded: AtomicU64,
    /// Questions no upstream server answered.
    pub forward_failures: AtomicU64,
}

impl Metrics {
    /// Counts a question.
    pub fn request(&self, transport: Transport, kind: RecordType) {
        let at = TYPES.iter().position(|(_, t)| *t == Some(kind)).unwrap_or(TYPES.len() - 1);
        self.requests[transport as usize][at].fetch_add(1, Relaxed);
    }

    /// Counts an answer.
    pub fn response(&self, code: ResponseCode, took: Duration) {
        let at = CODES.iter().position(|(_, c)| *c == Some(code)).unwrap_or(CODES.len() - 1);
        self.responses[at].fetch_add(1, Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|b| seconds <= *b).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.render_into(&mut out).expect("writing to a string does not fail");
        out
    }

    fn render_into(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "# TYPE coredns_dns_requests_total counter")?;
        for (proto, by_type) in ["udp", "tcp"].iter().zip(&self.requests) {
            for ((name, _), count) in TYPES.iter().zip(by_type) {
                let n = count.load(Relaxed);
                writeln!(out, "coredns_dns_requests_total{{proto=\"{proto}\",type=\"{name}\"}} {n}")?;
            }
        }
        writeln!(out, "# TYPE coredns_dns_responses_total counter")?;
        for ((name, _), count) in CODES.iter().zip(&self.responses) {
            writeln!(out, "coredns_dns_responses_total{{rcode=\"{name}\"}} {}", count.load(Relaxed))?;
        }
        writeln!(out, "# TYPE coredns_dns_request_duration_seconds histogram")?;
        let mut total = 0;
        for (i, count) in self.buckets.iter().enumerate() {
            total += count.load(Relaxed);
            let bound = BUCKETS.get(i).map_or("+Inf".into(), f64::to_string);
            writeln!(out, "coredns_dns_request_duration_seconds_bucket{{le=\"{bound}\"}} {total}")?;
        }
        let seconds = Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64();
        writeln!(out, "coredns_dns_request_duration_seconds_sum {seconds}")?;
        writeln!(out, "coredns_dns_request_duration_seconds_count {total}")?;
        for (name, count) in [
            ("coredns_cache_hits_total", &self.cache_hits),
            ("coredns_cache_misses_total", &self.cache_misses),
            ("coredns_proxy_requests_total", &self.forwarded),
            ("coredns_forward_failures_total", &self.forward_failures),
        ] {
            writeln!(out, "# TYPE {name} counter\n{name} {}", count.load(Relaxed))?;
        }
        Ok(())
    }
}
