//! `/metrics`: counters of requests under the stable names of 1.36, written out by hand because their labels come from
//! the rows and cost nothing to keep.

use crate::registry::hash_of;
use crate::request::RequestInfo;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Duration;

/// Upper bounds of `apiserver_request_duration_seconds`.
const BUCKETS: [f64; 24] = [
    0.005,
    0.025,
    0.05,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
    1.0,
    1.25,
    1.5,
    2.0,
    3.0,
    4.0,
    5.0,
    6.0,
    8.0,
    10.0,
    15.0,
    20.0,
    30.0,
    45.0,
    60.0,
    f64::INFINITY,
];

/// What a request is counted under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    verb: &'static str,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: &'static str,
    dry_run: bool,
}

#[derive(Debug, Default)]
struct Series {
    codes: BTreeMap<u16, u64>,
    buckets: [u64; BUCKETS.len()],
    sum: f64,
    count: u64,
}

/// Writes the metrics of a component of this process in the text format.
type Writer = Box<dyn Fn(&mut String) + Send + Sync>;

/// The counters.
#[derive(Default)]
pub struct Metrics {
    /// By the hash of the labels, so that counting allocates only the first time.
    requests: Mutex<HashMap<u64, (Labels, Series)>>,
    others: Mutex<Vec<Writer>>,
}

fn verb(info: &RequestInfo) -> &'static str {
    match info.verb.as_str() {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "other",
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match (info.name.is_empty() || info.verb == "list", info.namespace.is_empty()) {
        _ if !info.resource_request => "",
        (false, _) => "resource",
        (true, false) => "namespace",
        (true, true) => "cluster",
    }
}

impl crate::ApiServer {
    /// Serves the metrics of other components of this process at `/metrics` too.
    pub fn serve_metrics_of(&self, write: impl Fn(&mut String) + Send + Sync + 'static) {
        self.metrics.others.lock().push(Box::new(write));
    }
}

impl Metrics {
    /// Counts a finished request (a watch: its start).
    pub fn observe(&self, info: &RequestInfo, known: bool, code: u16, dry_run: bool, took: Duration) {
        let text = |t: &'_ str| if known { t.to_owned() } else { String::new() };
        let subresource = if info.resource_request && known { info.subresource.as_str() } else { "" };
        let key = hash_of((verb(info), known.then_some((&info.group, &info.version, &info.resource)), subresource, scope(info), dry_run));
        let labels = || Labels {
            verb: verb(info),
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: subresource.to_owned(),
            scope: scope(info),
            dry_run,
        };
        let seconds = took.as_secs_f64();
        let mut requests = self.requests.lock();
        let (_, series) = requests.entry(key).or_insert_with(|| (labels(), Series::default()));
        *series.codes.entry(code).or_default() += 1;
        series.count += 1;
        series.sum += seconds;
        let at = BUCKETS.partition_point(|bound| *bound < seconds);
        series.buckets[at.min(BUCKETS.len() - 1)] += 1;
    }

    /// In the text format.
    pub fn write(&self, out: &mut String) {
        self.others.lock().iter().for_each(|write| write(out));
        let requests = self.requests.lock();
        let requests: BTreeMap<&Labels, &Series> = requests.values().map(|(labels, series)| (labels, series)).collect();
        head(
            out,
            "apiserver_request_total",
            "counter",
            "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for (labels, series) in &requests {
            for (code, count) in &series.codes {
                let _ = writeln!(out, "apiserver_request_total{{code=\"{code}\",{}}} {count}", shown(labels));
            }
        }
        head(
            out,
            "apiserver_request_duration_seconds",
            "histogram",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        for (labels, series) in requests.iter().filter(|(l, _)| l.verb != "WATCH") {
            let labels = shown(labels);
            let mut sum = 0;
            for (bound, count) in BUCKETS.iter().zip(series.buckets) {
                sum += count;
                let le = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
                let _ = writeln!(out, "apiserver_request_duration_seconds_bucket{{{labels},le=\"{le}\"}} {sum}");
            }
            let _ = writeln!(out, "apiserver_request_duration_seconds_sum{{{labels}}} {}", series.sum);
            let _ = writeln!(out, "apiserver_request_duration_seconds_count{{{labels}}} {}", series.count);
        }
    }
}

fn shown(l: &Labels) -> String {
    let dry = if l.dry_run { "All" } else { "" };
    format!(
        "component=\"apiserver\",dry_run=\"{dry}\",group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
        l.group, l.resource, l.scope, l.subresource, l.verb, l.version
    )
}

/// HELP and TYPE lines.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
