//! What is counted per FlowSchema, and the metrics of flow control.

use super::FlowControl;
use super::level::Refusal;
use crate::server::metrics::head;
use parking_lot::Mutex;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

const BOUNDS: [f64; 13] = [0.0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0];
const REASONS: [&str; 3] = ["queue-full", "concurrency-limit", "time-out"];

#[derive(Debug, Default)]
struct Waits {
    buckets: [u64; BOUNDS.len() + 1],
    sum: f64,
}

/// Counters of a FlowSchema.
#[derive(Debug, Default)]
pub(super) struct Counts {
    immediate: AtomicU64,
    queued: AtomicI64,
    refused: [AtomicU64; REASONS.len()],
    waits: Mutex<Waits>,
}

impl Counts {
    pub fn immediate(&self) {
        self.immediate.fetch_add(1, Ordering::Relaxed);
    }

    pub fn queued(&self, change: i64) {
        self.queued.fetch_add(change, Ordering::Relaxed);
    }

    pub fn refused(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn waited(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let mut waits = self.waits.lock();
        waits.buckets[BOUNDS.partition_point(|b| *b < seconds)] += 1;
        waits.sum += seconds;
    }

    pub fn dispatched(&self) -> u64 {
        self.immediate.load(Ordering::Relaxed) + self.waits.lock().buckets.iter().sum::<u64>()
    }

    /// (queue full or no seat, waited too long).
    pub fn rejected(&self) -> (u64, u64) {
        let read = |why: Refusal| self.refused[why as usize].load(Ordering::Relaxed);
        (read(Refusal::QueueFull) + read(Refusal::ConcurrencyLimit), read(Refusal::TimeOut))
    }
}

impl FlowControl {
    pub(crate) fn metrics(&self, out: &mut String) {
        let plan = self.plan.load_full();
        let gauges: [(&str, &str, fn(&super::level::Level) -> u32); 5] = [
            ("nominal_limit_seats", "[BETA] Nominal number of execution seats configured for each priority level", |l| l.shape().nominal),
            ("current_limit_seats", "[ALPHA] current derived number of execution seats available to each priority level", |l| l.limit()),
            (
                "current_executing_seats",
                "[BETA] Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
                |l| l.current().1,
            ),
            (
                "current_executing_requests",
                "[BETA] Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
                |l| l.current().0,
            ),
            (
                "current_inqueue_requests",
                "[BETA] Number of requests currently pending in queues of the API Priority and Fairness subsystem",
                |l| l.current().2,
            ),
        ];
        for (name, help, read) in gauges {
            let name = format!("apiserver_flowcontrol_{name}");
            head(out, &name, "gauge", help);
            for level in plan.levels.values() {
                let _ = writeln!(out, "{name}{{priority_level=\"{}\"}} {}", level.name, read(level));
            }
        }
        let name = "apiserver_flowcontrol_dispatched_requests_total";
        head(out, name, "counter", "[BETA] Number of requests executed by API Priority and Fairness subsystem");
        for schema in &plan.schemas {
            let _ = writeln!(
                out,
                "{name}{{flow_schema=\"{}\",priority_level=\"{}\"}} {}",
                schema.name,
                schema.level.name,
                schema.counts.dispatched()
            );
        }
        let name = "apiserver_flowcontrol_rejected_requests_total";
        head(out, name, "counter", "[BETA] Number of requests rejected by API Priority and Fairness subsystem");
        for schema in &plan.schemas {
            for (reason, count) in REASONS.iter().zip(&schema.counts.refused) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    let _ = writeln!(
                        out,
                        "{name}{{flow_schema=\"{}\",priority_level=\"{}\",reason=\"{reason}\"}} {count}",
                        schema.name, schema.level.name
                    );
                }
            }
        }
        self.waits(&plan, out);
    }

    fn waits(&self, plan: &super::plan::Plan, out: &mut String) {
        let name = "apiserver_flowcontrol_request_wait_duration_seconds";
        head(out, name, "histogram", "[BETA] Length of time a request spent waiting in its queue");
        for schema in &plan.schemas {
            let labels = format!("execute=\"true\",flow_schema=\"{}\",priority_level=\"{}\"", schema.name, schema.level.name);
            let waits = schema.counts.waits.lock();
            let mut sum = schema.counts.immediate.load(Ordering::Relaxed);
            for (at, count) in waits.buckets.iter().enumerate() {
                sum += count;
                let le = BOUNDS.get(at).map_or("+Inf".to_owned(), f64::to_string);
                let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {sum}");
            }
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", waits.sum);
            let _ = writeln!(out, "{name}_count{{{labels}}} {sum}");
        }
    }
}
