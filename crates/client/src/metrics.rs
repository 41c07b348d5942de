//! Counters, gauges and histograms of a component, in Prometheus' text format.
//!
//! A registry is given to a component like its client, and whoever serves `/metrics` writes it out. A series is found once
//! and then changed without a lock. Values that only make sense when looked at (how long the oldest worker has been busy)
//! are set by collectors, which run at each writing and go when what they look at has gone.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What kind of values a family has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations up to each of these bounds; `+Inf` is added.
    Histogram(&'static [f64]),
}

/// A family of series: name, help and names of labels are facts of Kubernetes.
#[derive(Debug)]
pub struct Desc {
    /// Name.
    pub name: &'static str,
    /// Help, with its `[STABLE]`, `[BETA]` or `[ALPHA]`.
    pub help: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Names of the labels.
    pub labels: &'static [&'static str],
}

impl Desc {
    /// A counter.
    pub const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Desc {
        Desc { name, help, kind: Kind::Counter, labels }
    }

    /// A gauge.
    pub const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Desc {
        Desc { name, help, kind: Kind::Gauge, labels }
    }

    /// A histogram.
    pub const fn histogram(name: &'static str, help: &'static str, bounds: &'static [f64], labels: &'static [&'static str]) -> Desc {
        Desc { name, help, kind: Kind::Histogram(bounds), labels }
    }
}

/// One series of a family. Cheap to clone, changed without a lock.
#[derive(Clone, Debug)]
pub struct Series(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Bits of an `f64`: the value, or the sum of a histogram.
    value: AtomicU64,
    count: AtomicU64,
    bounds: &'static [f64],
    buckets: Vec<AtomicU64>,
}

impl Series {
    fn new(kind: Kind) -> Self {
        let bounds = if let Kind::Histogram(bounds) = kind { bounds } else { &[] };
        Series(Arc::new(Inner { bounds, buckets: bounds.iter().map(|_| AtomicU64::new(0)).collect(), ..Inner::default() }))
    }

    /// Adds to a counter or gauge.
    pub fn add(&self, by: f64) {
        let change = |bits| Some((f64::from_bits(bits) + by).to_bits());
        // The closure never refuses.
        let _ = self.0.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change);
    }

    /// Sets a gauge.
    pub fn set(&self, value: f64) {
        self.0.value.store(value.to_bits(), Ordering::Relaxed);
    }

    /// The value of a counter or gauge, or the sum of a histogram.
    pub fn value(&self) -> f64 {
        f64::from_bits(self.0.value.load(Ordering::Relaxed))
    }

    /// Counts one observation of a histogram.
    pub fn observe(&self, value: f64) {
        self.add(value);
        self.0.count.fetch_add(1, Ordering::Relaxed);
        if let Some(bucket) = self.0.buckets.get(self.0.bounds.partition_point(|b| *b < value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Family {
    desc: &'static Desc,
    series: BTreeMap<Vec<String>, Series>,
}

/// Sets values just before they are written; `false` when there is nothing to look at any more.
type Collector = Box<dyn Fn() -> bool + Send + Sync>;

#[derive(Default)]
struct Shared {
    families: Mutex<BTreeMap<&'static str, Family>>,
    collectors: Mutex<Vec<Collector>>,
}

/// The registry. Cheap to clone.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Shared>);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics(..)")
    }
}

impl Metrics {
    /// The series of a family with these label values, made when it is new.
    pub fn series(&self, desc: &'static Desc, labels: &[&str]) -> Series {
        let mut families = self.0.families.lock();
        let family = families.entry(desc.name).or_insert_with(|| Family { desc, series: BTreeMap::new() });
        let values: Vec<String> = labels.iter().map(|l| (*l).to_owned()).collect();
        family.series.entry(values).or_insert_with(|| Series::new(desc.kind)).clone()
    }

    /// Adds one to a counter.
    pub fn count(&self, desc: &'static Desc, labels: &[&str]) {
        self.series(desc, labels).add(1.0);
    }

    /// Sets a whole family of gauges: series that are not named are gone.
    pub fn replace(&self, desc: &'static Desc, values: impl IntoIterator<Item = (Vec<String>, f64)>) {
        let series = values.into_iter().map(|(labels, value)| {
            let series = Series::new(desc.kind);
            series.set(value);
            (labels, series)
        });
        let series = series.collect();
        self.0.families.lock().insert(desc.name, Family { desc, series });
    }

    /// Calls `collect` at each writing until it says that it is over.
    pub fn on_collect(&self, collect: impl Fn() -> bool + Send + Sync + 'static) {
        self.0.collectors.lock().push(Box::new(collect));
    }

    /// Writes everything in the text format.
    pub fn write(&self, out: &mut String) {
        self.0.collectors.lock().retain(|collect| collect());
        for (name, family) in self.0.families.lock().iter() {
            let kind = match family.desc.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram(_) => "histogram",
            };
            let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.desc.help);
            for (values, series) in &family.series {
                write_series(out, family.desc, values, series);
            }
        }
    }
}

fn write_series(out: &mut String, desc: &Desc, values: &[String], series: &Series) {
    let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = desc.labels.iter().zip(values).map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    let pairs = pairs.join(",");
    let shown = if pairs.is_empty() { String::new() } else { format!("{{{pairs}}}") };
    let name = desc.name;
    let Kind::Histogram(bounds) = desc.kind else {
        let _ = writeln!(out, "{name}{shown} {}", series.value());
        return;
    };
    let comma = if pairs.is_empty() { "" } else { "," };
    let mut sum = 0;
    for (bound, bucket) in bounds.iter().zip(&series.0.buckets) {
        sum += bucket.load(Ordering::Relaxed);
        let _ = writeln!(out, "{name}_bucket{{{pairs}{comma}le=\"{bound}\"}} {sum}");
    }
    let count = series.0.count.load(Ordering::Relaxed);
    let _ = writeln!(
        out,
        "{name}_bucket{{{pairs}{comma}le=\"+Inf\"}} {count}\n{name}_sum{shown} {}\n{name}_count{shown} {count}",
        series.value()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    static JOBS: Desc = Desc { name: "jobs_total", help: "[STABLE] Jobs.", kind: Kind::Counter, labels: &["result"] };
    static TIME: Desc = Desc { name: "time_seconds", help: "[ALPHA] Time.", kind: Kind::Histogram(&[0.5, 2.0]), labels: &[] };

    #[test]
    fn series_are_written_in_the_text_format() {
        let metrics = Metrics::default();
        metrics.count(&JOBS, &["a\"b"]);
        metrics.series(&JOBS, &["a\"b"]).add(2.0);
        let time = metrics.series(&TIME, &[]);
        [0.5, 1.0, 7.0].into_iter().for_each(|t| time.observe(t));
        let mut out = String::new();
        metrics.write(&mut out);
        let expected = "# HELP jobs_total [STABLE] Jobs.\n# TYPE jobs_total counter\njobs_total{result=\"a\\\"b\"} 3\n\
            # HELP time_seconds [ALPHA] Time.\n# TYPE time_seconds histogram\ntime_seconds_bucket{le=\"0.5\"} 1\n\
            time_seconds_bucket{le=\"2\"} 2\ntime_seconds_bucket{le=\"+Inf\"} 3\ntime_seconds_sum 8.5\ntime_seconds_count 3\n";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_collector_goes_when_what_it_looks_at_has_gone() {
        let metrics = Metrics::default();
        let seen = Arc::new(AtomicU64::new(0));
        let counted = seen.clone();
        metrics.on_collect(move || counted.fetch_add(1, Ordering::Relaxed) == 0);
        (0..3).for_each(|_| metrics.write(&mut String::new()));
        assert_eq!(seen.load(Ordering::Relaxed), 2);
    }
}
