//! How long admission takes, under the stable names of 1.36: each plugin, each half as a whole, each webhook.
//!
//! Plugins and halves are counted without a lock, because every write passes all of them.

use super::{Operation, PLUGINS};
use crate::server::metrics::{Family, head};
use ferrokube_api::Status;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BOUNDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOK_BOUNDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
const POLICY_BOUNDS: &[f64] = &[0.000_000_5, 0.001, 0.01, 0.1, 1.0];
const POLICY_DURATION: &str = "[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.";
const POLICY_TOTAL: &str =
    "[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.";
const OPERATIONS: [Operation; 4] = [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];

/// Which half of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    Admit,
    Validate,
}

impl Half {
    fn name(self) -> &'static str {
        if self == Half::Admit { "admit" } else { "validate" }
    }
}

#[derive(Debug, Default)]
struct Series {
    /// The last one is everything above the bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Series {
    fn count(&self, took: Duration) {
        let at = BOUNDS.partition_point(|bound| *bound < took.as_secs_f64());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn read(&self) -> (Vec<u64>, f64) {
        let buckets = self.buckets.iter().map(|b| b.load(Ordering::Relaxed)).collect();
        (buckets, Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)).as_secs_f64())
    }
}

/// By half, operation and whether the request was refused.
type Table = [[[Series; 2]; OPERATIONS.len()]; 2];

fn observe(table: &Table, half: Half, operation: Operation, rejected: bool, took: Duration) {
    table[usize::from(half == Half::Validate)][operation as usize][usize::from(rejected)].count(took);
}

/// What is told of a webhook: its name, the operation, `admit` or `validating`, whether it refused, and the HTTP code (0: none).
type Call = (String, &'static str, &'static str, bool, u16);

#[derive(Debug, Default)]
struct Calls {
    buckets: [u64; WEBHOOK_BOUNDS.len() + 1],
    sum: f64,
}

/// Why a webhook stood in the way of a request.
type Rejection = (String, &'static str, &'static str, &'static str, u16);

/// The counters of admission.
#[derive(Debug)]
pub(super) struct Metrics {
    plugins: Vec<Table>,
    steps: Table,
    calls: Mutex<BTreeMap<Call, Calls>>,
    rejections: Mutex<BTreeMap<Rejection, u64>>,
    failed_open: Mutex<BTreeMap<(String, &'static str), u64>>,
    policies: Family,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics {
            plugins: PLUGINS.iter().map(|_| Table::default()).collect(),
            steps: Table::default(),
            calls: Mutex::default(),
            rejections: Mutex::default(),
            failed_open: Mutex::default(),
            policies: Family::new("apiserver_validating_admission_policy_check_duration_seconds", POLICY_DURATION, POLICY_BOUNDS),
        }
    }
}

impl Metrics {
    /// A plugin, by its place in the table, has looked at a request.
    pub fn plugin<T>(&self, at: usize, half: Half, operation: Operation, start: Instant, result: &Result<T, Status>) {
        observe(&self.plugins[at], half, operation, result.is_err(), start.elapsed());
    }

    /// A half is done.
    pub fn step<T>(&self, half: Half, operation: Operation, start: Instant, result: &Result<T, Status>) {
        observe(&self.steps, half, operation, result.is_err(), start.elapsed());
    }

    /// A webhook has been asked; `code` is the one of its refusal, or 200.
    pub fn webhook(&self, name: &str, operation: &'static str, mutating: bool, start: Instant, rejected: bool, code: u16) {
        let seconds = start.elapsed().as_secs_f64();
        let mut calls = self.calls.lock();
        let series = calls.entry((name.to_owned(), operation, kind(mutating), rejected, code)).or_default();
        series.buckets[WEBHOOK_BOUNDS.partition_point(|bound| *bound < seconds)] += 1;
        series.sum += seconds;
    }

    /// A webhook refused, or failed and had to be obeyed. `why` is the `error_type`.
    pub fn rejected(&self, name: &str, operation: &'static str, mutating: bool, why: &'static str, code: u16) {
        *self.rejections.lock().entry((name.to_owned(), operation, kind(mutating), why, code)).or_default() += 1;
    }

    /// A webhook failed and was passed by.
    pub fn failed_open(&self, name: &str, mutating: bool) {
        *self.failed_open.lock().entry((name.to_owned(), kind(mutating))).or_default() += 1;
    }

    /// A validating policy, by the name of its binding, stood up and something came of it.
    pub fn policy(&self, policy: &str, binding: &str, error: &str, action: &str, took: Duration) {
        let labels = format!("enforcement_action=\"{action}\",error_type=\"{error}\",policy={policy:?},policy_binding={binding:?}");
        self.policies.record(labels, took);
    }

    /// In the text format.
    pub fn write(&self, out: &mut String) {
        const CONTROLLER: &str = "apiserver_admission_controller_admission_duration_seconds";
        const STEP: &str = "apiserver_admission_step_admission_duration_seconds";
        head(
            out,
            CONTROLLER,
            "histogram",
            "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        );
        for (plugin, table) in PLUGINS.iter().zip(&self.plugins) {
            tables(out, CONTROLLER, &format!("name=\"{}\",", plugin.name), table);
        }
        head(
            out,
            STEP,
            "histogram",
            "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
        );
        tables(out, STEP, "", &self.steps);
        self.write_webhooks(out);
        self.policies.write(out);
        self.policies.write_counts("apiserver_validating_admission_policy_check_total", POLICY_TOTAL, out);
    }

    fn write_webhooks(&self, out: &mut String) {
        const DURATION: &str = "apiserver_admission_webhook_admission_duration_seconds";
        let calls = self.calls.lock();
        head(
            out,
            DURATION,
            "histogram",
            "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
        );
        let mut durations: BTreeMap<String, Calls> = BTreeMap::new();
        for ((name, operation, kind, rejected, _), one) in &*calls {
            let labels = format!("name={name:?},operation=\"{operation}\",rejected=\"{rejected}\",type=\"{kind}\"");
            let all = durations.entry(labels).or_default();
            all.buckets.iter_mut().zip(one.buckets).for_each(|(all, one)| *all += one);
            all.sum += one.sum;
        }
        for (labels, calls) in &durations {
            histogram(out, DURATION, labels, &WEBHOOK_BOUNDS, &calls.buckets, calls.sum);
        }
        let name = "apiserver_admission_webhook_request_total";
        head(
            out,
            name,
            "counter",
            "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
        );
        for ((hook, operation, kind, rejected, code), one) in &*calls {
            let count: u64 = one.buckets.iter().sum();
            let _ = writeln!(
                out,
                "{name}{{code=\"{code}\",name={hook:?},operation=\"{operation}\",rejected=\"{rejected}\",type=\"{kind}\"}} {count}"
            );
        }
        drop(calls);
        let name = "apiserver_admission_webhook_rejection_count";
        head(
            out,
            name,
            "counter",
            "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
        );
        for ((hook, operation, kind, why, code), count) in &*self.rejections.lock() {
            let _ = writeln!(
                out,
                "{name}{{error_type=\"{why}\",name={hook:?},operation=\"{operation}\",rejection_code=\"{code}\",type=\"{kind}\"}} {count}"
            );
        }
        let name = "apiserver_admission_webhook_fail_open_count";
        head(
            out,
            name,
            "counter",
            "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
        );
        for ((hook, kind), count) in &*self.failed_open.lock() {
            let _ = writeln!(out, "{name}{{name={hook:?},type=\"{kind}\"}} {count}");
        }
    }
}

fn kind(mutating: bool) -> &'static str {
    if mutating { "admit" } else { "validating" }
}

/// The series of a table that have something to tell.
fn tables(out: &mut String, name: &str, first: &str, table: &Table) {
    for (half, operations) in [Half::Admit, Half::Validate].into_iter().zip(table) {
        for (operation, verdicts) in OPERATIONS.into_iter().zip(operations) {
            for (rejected, series) in [false, true].into_iter().zip(verdicts) {
                let (buckets, sum) = series.read();
                if buckets.iter().all(|n| *n == 0) {
                    continue;
                }
                let operation = operation.as_str();
                let labels = format!("{first}operation=\"{operation}\",rejected=\"{rejected}\",type=\"{}\"", half.name());
                histogram(out, name, &labels, &BOUNDS, &buckets, sum);
            }
        }
    }
}

fn histogram(out: &mut String, name: &str, labels: &str, bounds: &[f64], buckets: &[u64], sum: f64) {
    let mut total = 0;
    for (bound, count) in bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(buckets) {
        total += count;
        let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {total}");
    }
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
    let _ = writeln!(out, "{name}_count{{{labels}}} {total}");
}
