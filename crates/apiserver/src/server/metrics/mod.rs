//! `/metrics`: counters of requests under the stable names of 1.36, written out by hand because their labels come from
//! the rows and cost nothing to keep.

mod active;
mod families;
mod features;
mod histogram;
mod process;

pub use active::Active;
pub use families::{Family, Times};
pub use histogram::Histogram;

use crate::registry::hash_of;
use crate::request::RequestInfo;
use active::Running;
use ferrokube_api::features::Features;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::time::Duration;

/// Bounds of `apiserver_request_duration_seconds`.
const SECONDS: [f64; 23] =
    [0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
/// Bounds of `apiserver_response_sizes`.
const BYTES: [f64; 7] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];

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

#[derive(Debug)]
struct Series {
    codes: BTreeMap<u16, u64>,
    seconds: Histogram,
    bytes: Histogram,
}

impl Default for Series {
    fn default() -> Self {
        Series { codes: BTreeMap::new(), seconds: Histogram::new(&SECONDS), bytes: Histogram::new(&BYTES) }
    }
}

/// Writes the metrics of a component of this process in the text format.
type Writer = Box<dyn Fn(&mut String) + Send + Sync>;
/// Group, version, resource and subresource.
type Deprecated = [String; 4];

/// The counters.
#[derive(Default)]
pub struct Metrics {
    /// By the hash of the labels, so that counting allocates only the first time.
    requests: Mutex<HashMap<u64, (Labels, Series)>>,
    running: Running,
    deprecated: Mutex<BTreeSet<Deprecated>>,
    /// What is timed beside requests.
    pub times: Times,
    others: Mutex<Vec<Writer>>,
    features: Features,
}

/// A request that was answered.
pub struct Answered<'r> {
    /// What it asked for.
    pub info: &'r RequestInfo,
    /// Whether that is served at all.
    pub known: bool,
    /// A server-side apply, which has a verb of its own here.
    pub apply: bool,
    /// `dryRun=All`.
    pub dry_run: bool,
    /// Code of the answer.
    pub code: u16,
    /// Its length, if that is known.
    pub bytes: Option<u64>,
    /// How long it took (a watch: to its start).
    pub took: Duration,
}

fn verb(info: &RequestInfo, apply: bool) -> &'static str {
    match info.verb.as_str() {
        "patch" if apply => "APPLY",
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

fn labels(info: &RequestInfo, known: bool, apply: bool, dry_run: bool) -> Labels {
    let text = |t: &str| if known { t.to_owned() } else { String::new() };
    Labels {
        verb: verb(info, apply),
        group: text(&info.group),
        version: text(&info.version),
        resource: text(&info.resource),
        subresource: if info.resource_request { text(&info.subresource) } else { String::new() },
        scope: scope(info),
        dry_run,
    }
}

impl Metrics {
    /// Which features the server has.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// Of a server that has these features.
    pub fn of(features: Features) -> Self {
        Metrics { features, ..Metrics::default() }
    }

    /// Counts a finished request (a watch: its start).
    pub fn observe(&self, answered: &Answered<'_>) {
        let Answered { info, known, apply, dry_run, .. } = *answered;
        let subresource = if info.resource_request && known { info.subresource.as_str() } else { "" };
        let verb = verb(info, apply);
        let key = hash_of((verb, known.then_some((&info.group, &info.version, &info.resource)), subresource, scope(info), dry_run));
        let mut requests = self.requests.lock();
        let (_, series) = requests.entry(key).or_insert_with(|| (labels(info, known, apply, dry_run), Series::default()));
        *series.codes.entry(answered.code).or_default() += 1;
        series.seconds.record(answered.took.as_secs_f64());
        // Only what is read has a size worth knowing.
        if let Some(bytes) = answered.bytes.filter(|_| matches!(verb, "GET" | "LIST")) {
            series.bytes.record(bytes as f64);
        }
    }

    /// Counts a request that takes long, for as long as the answer is held.
    pub fn begin(&self, info: &RequestInfo, known: bool) -> Active {
        self.running.begin(labels(info, known, false, false))
    }

    /// A watch has told all that existed when it began.
    pub fn told_initially(&self, info: &RequestInfo, took: Duration) {
        let labels =
            format!("group=\"{}\",resource=\"{}\",scope=\"{}\",version=\"{}\"", info.group, info.resource, scope(info), info.version);
        self.times.watch_lists.record(labels, took);
    }

    /// A deprecated resource was asked for.
    pub fn deprecated(&self, info: &RequestInfo) {
        let asked = [&info.group, &info.version, &info.resource, &info.subresource].map(Clone::clone);
        self.deprecated.lock().insert(asked);
    }

    /// In the text format.
    pub fn write(&self, out: &mut String) {
        process::write(out);
        self.others.lock().iter().for_each(|write| write(out));
        self.write_requests(out);
        self.running.write(out);
        self.times.write(out);
        features::write(out, &self.features);
        self.write_deprecated(out);
    }

    fn write_requests(&self, out: &mut String) {
        let requests = self.requests.lock();
        let requests: BTreeMap<&Labels, &Series> = requests.values().map(|(labels, series)| (labels, series)).collect();
        let name = "apiserver_request_total";
        head(
            out,
            name,
            "counter",
            "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
        );
        for (labels, series) in &requests {
            for (code, count) in &series.codes {
                let _ = writeln!(out, "{name}{{code=\"{code}\",{}}} {count}", shown(labels, true));
            }
        }
        let name = "apiserver_request_duration_seconds";
        head(
            out,
            name,
            "histogram",
            "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
        );
        for (labels, series) in requests.iter().filter(|(l, _)| l.verb != "WATCH") {
            series.seconds.write(out, name, &shown(labels, true));
        }
        let name = "apiserver_response_sizes";
        head(
            out,
            name,
            "histogram",
            "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
        );
        for (labels, series) in requests.iter().filter(|(_, s)| s.bytes.count() > 0) {
            series.bytes.write(out, name, &shown(labels, false));
        }
    }

    fn write_deprecated(&self, out: &mut String) {
        let name = "apiserver_requested_deprecated_apis";
        let help = "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.";
        head(out, name, "gauge", help);
        for [group, version, resource, subresource] in self.deprecated.lock().iter() {
            let labels = format!(
                "group=\"{group}\",removed_release=\"\",resource=\"{resource}\",subresource=\"{subresource}\",version=\"{version}\""
            );
            let _ = writeln!(out, "{name}{{{labels}}} 1");
        }
    }
}

fn shown(l: &Labels, with_dry_run: bool) -> String {
    let dry = match (with_dry_run, l.dry_run) {
        (true, true) => "dry_run=\"All\",",
        (true, false) => "dry_run=\"\",",
        (false, _) => "",
    };
    format!(
        "component=\"apiserver\",{dry}group=\"{}\",resource=\"{}\",scope=\"{}\",subresource=\"{}\",verb=\"{}\",version=\"{}\"",
        l.group, l.resource, l.scope, l.subresource, l.verb, l.version
    )
}

/// HELP and TYPE lines.
pub fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
