//! What the scheduler counts, under upstream's names, in the Prometheus text format.

use crate::plugins::Plugin;
use crate::queue::Pending;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::time::Duration;

/// A histogram with exponential bounds.
#[derive(Clone, Debug)]
struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        let at = self.bounds.partition_point(|b| *b < value);
        self.counts[at] += 1;
        self.sum += value;
    }

    fn render(&self, out: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let (mut total, comma) = (0, if labels.is_empty() { "" } else { "," });
        for (count, bound) in self.counts.iter().zip(self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()])) {
            total += count;
            writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}")?;
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(out, "{name}_sum{labels} {}\n{name}_count{labels} {total}", self.sum)
    }
}

/// 1 ms doubling.
const ATTEMPT: [f64; 15] = [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// 10 ms doubling.
const SLI: [f64; 20] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36, 1310.72, 2621.44,
    5242.88,
];
/// 0.1 ms doubling.
const EXTENSION: [f64; 12] = [0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048];
const ATTEMPTS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];
const VICTIMS: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The pod is bound.
    Scheduled,
    /// There is no node for it.
    Unschedulable,
    /// Something went wrong.
    Error,
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Outcome::Scheduled => "scheduled",
            Outcome::Unschedulable => "unschedulable",
            Outcome::Error => "error",
        }
    }
}

#[derive(Debug, Default)]
struct Numbers {
    /// By profile and outcome.
    tries: BTreeMap<(Box<str>, Outcome), (u64, Option<Histogram>)>,
    /// By extension point and profile.
    points: BTreeMap<(&'static str, Box<str>), Histogram>,
    incoming: BTreeMap<(&'static str, &'static str), u64>,
    pending: Pending,
    gated: usize,
    attempts: Option<Histogram>,
    /// By the number of attempts, 15 for all above.
    sli: BTreeMap<u32, Histogram>,
    preemptions: u64,
    victims: Option<Histogram>,
    cached: [usize; 3],
    unschedulable: BTreeMap<(&'static str, Box<str>), i64>,
}

/// See the module. Counting takes a lock for some tens of nanoseconds; only rendering holds it for longer.
#[derive(Debug, Default)]
pub struct Metrics {
    numbers: Mutex<Numbers>,
}

impl Metrics {
    fn with<T>(&self, work: impl FnOnce(&mut Numbers) -> T) -> T {
        // A panic while counting leaves a count that is off by one, which is no reason to stop.
        work(&mut self.numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// A pod was tried.
    pub fn tried(&self, profile: &str, outcome: Outcome, took: Duration) {
        self.with(|n| {
            let (count, histogram) = n.tries.entry((profile.into(), outcome)).or_default();
            *count += 1;
            histogram.get_or_insert_with(|| Histogram::new(&ATTEMPT)).observe(took.as_secs_f64());
        });
    }

    /// An extension point of a profile has run.
    pub fn ran(&self, point: &'static str, profile: &str, took: Duration) {
        self.with(|n| {
            n.points.entry((point, profile.into())).or_insert_with(|| Histogram::new(&EXTENSION)).observe(took.as_secs_f64());
        });
    }

    /// A pod is bound, after so many tries and so long after it first could be placed.
    pub fn bound(&self, attempts: u32, waited: Duration) {
        self.with(|n| {
            n.attempts.get_or_insert_with(|| Histogram::new(&ATTEMPTS)).observe(f64::from(attempts));
            n.sli.entry(attempts.min(15)).or_insert_with(|| Histogram::new(&SLI)).observe(waited.as_secs_f64());
        });
    }

    /// So many pods came into a list of the queue.
    pub fn queued(&self, event: &'static str, queue: &'static str, pods: usize) {
        if pods > 0 {
            self.with(|n| *n.incoming.entry((event, queue)).or_insert(0) += pods as u64);
        }
    }

    /// Room is made by sending so many pods away.
    pub fn preempted(&self, victims: usize) {
        self.with(|n| {
            n.preemptions += 1;
            n.victims.get_or_insert_with(|| Histogram::new(&VICTIMS)).observe(victims as f64);
        });
    }

    /// These plugins (bits) have rejected one pod more, or fewer.
    pub fn rejected(&self, profile: &str, plugins: u32, by: i64) {
        self.with(|n| {
            for (plugin, name) in Plugin::ALL.into_iter().zip(NAMES).filter(|(p, _)| plugins & p.bit() != 0) {
                debug_assert_eq!(plugin.name(), name);
                *n.unschedulable.entry((name, profile.into())).or_insert(0) += by;
            }
        });
    }

    /// How many pods wait, and how many nodes, pods and assumed pods are known.
    pub fn sizes(&self, pending: Pending, gated: usize, cached: [usize; 3]) {
        self.with(|n| (n.pending, n.gated, n.cached) = (pending, gated, cached));
    }

    /// The text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        self.with(|n| n.render(&mut out)).expect("writing to a string does not fail");
        out
    }
}

const NAMES: [&str; Plugin::COUNT] = [
    "SchedulingGates",
    "PrioritySort",
    "NodeUnschedulable",
    "NodeName",
    "TaintToleration",
    "NodeAffinity",
    "NodePorts",
    "NodeResourcesFit",
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "PodTopologySpread",
    "InterPodAffinity",
    "DynamicResources",
    "DefaultPreemption",
    "NodeResourcesBalancedAllocation",
    "ImageLocality",
    "DefaultBinder",
    "NodeDeclaredFeatures",
];

impl Numbers {
    fn render(&self, out: &mut String) -> std::fmt::Result {
        let head = |out: &mut String, name: &str, kind: &str| writeln!(out, "# TYPE {name} {kind}");
        head(out, "scheduler_schedule_attempts_total", "counter")?;
        for ((profile, outcome), (count, _)) in &self.tries {
            writeln!(out, "scheduler_schedule_attempts_total{{profile=\"{profile}\",result=\"{}\"}} {count}", outcome.text())?;
        }
        head(out, "scheduler_scheduling_attempt_duration_seconds", "histogram")?;
        for ((profile, outcome), (_, histogram)) in &self.tries {
            let labels = format!("profile=\"{profile}\",result=\"{}\"", outcome.text());
            histogram.iter().try_for_each(|h| h.render(out, "scheduler_scheduling_attempt_duration_seconds", &labels))?;
        }
        head(out, "scheduler_framework_extension_point_duration_seconds", "histogram")?;
        for ((point, profile), histogram) in &self.points {
            let labels = format!("extension_point=\"{point}\",profile=\"{profile}\",status=\"Success\"");
            histogram.render(out, "scheduler_framework_extension_point_duration_seconds", &labels)?;
        }
        head(out, "scheduler_pending_pods", "gauge")?;
        let Pending { active, backoff, unschedulable } = self.pending;
        for (queue, pods) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", self.gated)] {
            writeln!(out, "scheduler_pending_pods{{queue=\"{queue}\"}} {pods}")?;
        }
        head(out, "scheduler_queue_incoming_pods_total", "counter")?;
        for ((event, queue), pods) in &self.incoming {
            writeln!(out, "scheduler_queue_incoming_pods_total{{event=\"{event}\",queue=\"{queue}\"}} {pods}")?;
        }
        head(out, "scheduler_unschedulable_pods", "gauge")?;
        for ((plugin, profile), pods) in &self.unschedulable {
            writeln!(out, "scheduler_unschedulable_pods{{plugin=\"{plugin}\",profile=\"{profile}\"}} {pods}")?;
        }
        head(out, "scheduler_pod_scheduling_attempts", "histogram")?;
        self.attempts.iter().try_for_each(|h| h.render(out, "scheduler_pod_scheduling_attempts", ""))?;
        head(out, "scheduler_pod_scheduling_sli_duration_seconds", "histogram")?;
        for (attempts, histogram) in &self.sli {
            let attempts = if *attempts < 15 { attempts.to_string() } else { "15+".to_owned() };
            histogram.render(out, "scheduler_pod_scheduling_sli_duration_seconds", &format!("attempts=\"{attempts}\""))?;
        }
        head(out, "scheduler_preemption_attempts_total", "counter")?;
        writeln!(out, "scheduler_preemption_attempts_total {}", self.preemptions)?;
        head(out, "scheduler_preemption_victims", "histogram")?;
        self.victims.iter().try_for_each(|h| h.render(out, "scheduler_preemption_victims", ""))?;
        head(out, "scheduler_cache_size", "gauge")?;
        for (kind, count) in ["nodes", "pods", "assumed_pods"].iter().zip(self.cached) {
            writeln!(out, "scheduler_cache_size{{type=\"{kind}\"}} {count}")?;
        }
        Ok(())
    }
}
