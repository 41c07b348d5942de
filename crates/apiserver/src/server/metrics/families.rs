//! Histograms with labels that are only known when something happens.

use super::{Histogram, head};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// As Prometheus has them when nothing is said.
const DEFAULT_BOUNDS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const WATCH_LISTS: &[f64] = &[0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];

/// A histogram for each set of labels.
#[derive(Debug)]
pub struct Family {
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64],
    series: Mutex<BTreeMap<String, Histogram>>,
}

impl Family {
    /// Nothing counted yet.
    pub fn new(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        Family { name, help, bounds, series: Mutex::new(BTreeMap::new()) }
    }

    /// One without labels, which is there from the beginning.
    fn plain(name: &'static str, help: &'static str) -> Self {
        let series = Mutex::new(BTreeMap::from([(String::new(), Histogram::new(DEFAULT_BOUNDS))]));
        Family { name, help, bounds: DEFAULT_BOUNDS, series }
    }

    /// Counts under labels, as they are written.
    pub fn record(&self, labels: String, took: Duration) {
        let mut series = self.series.lock();
        series.entry(labels).or_insert_with(|| Histogram::new(self.bounds)).record(took.as_secs_f64());
    }

    /// In the text format.
    pub fn write(&self, out: &mut String) {
        head(out, self.name, "histogram", self.help);
        self.series.lock().iter().for_each(|(labels, series)| series.write(out, self.name, labels));
    }

    /// How often each was counted, as a counter of its own.
    pub fn write_counts(&self, name: &str, help: &str, out: &mut String) {
        head(out, name, "counter", help);
        for (labels, series) in self.series.lock().iter() {
            let _ = writeln!(out, "{name}{{{labels}}} {}", series.count());
        }
    }
}

/// What takes time outside of admission, and is no request.
#[derive(Debug)]
pub struct Times {
    /// From the beginning of a watch with initial events to the bookmark that ends them.
    pub watch_lists: Family,
    /// Rules of a version of a CRD, made into programs.
    pub cel_compilation: Family,
    /// All rules of a version, run over an object.
    pub cel_evaluation: Family,
}

impl Default for Times {
    fn default() -> Self {
        let help = "[BETA] Response latency distribution in seconds for watch list requests broken by group, version, resource and scope.";
        Times {
            watch_lists: Family::new("apiserver_watch_list_duration_seconds", help, WATCH_LISTS),
            cel_compilation: Family::plain("apiserver_cel_compilation_duration_seconds", "[BETA] CEL compilation time in seconds."),
            cel_evaluation: Family::plain("apiserver_cel_evaluation_duration_seconds", "[BETA] CEL evaluation time in seconds."),
        }
    }
}

impl Times {
    /// In the text format.
    pub fn write(&self, out: &mut String) {
        [&self.watch_lists, &self.cel_compilation, &self.cel_evaluation].into_iter().for_each(|family| family.write(out));
    }
}
