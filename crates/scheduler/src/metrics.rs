//! What the scheduler counts, under upstream's names.

use crate::evaluations::Evaluations;
use crate::plugins::Plugin;
use crate::queue::{Moved, Pending};
use ferrokube_client::metrics::{Desc, Metrics as Registry};
use std::time::Duration;

/// 1 ms doubling.
const ATTEMPT: &[f64] = &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
/// 10 ms doubling.
const SLI: &[f64] = &[
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36, 1310.72, 2621.44,
    5242.88,
];
/// 0.1 ms doubling.
const POINT: &[f64] = &[0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128, 0.0256, 0.0512, 0.1024, 0.2048];
const TRIES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0];
const VICTIMS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

static ATTEMPTS_TOTAL: Desc =
    Desc::counter("scheduler_schedule_attempts_total", "[STABLE] Number of tries to place pods, by the result.", &["profile", "result"]);
static ATTEMPT_DURATION: Desc = Desc::histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "[STABLE] Duration of one try to place a pod, binding included.",
    ATTEMPT,
    &["profile", "result"],
);
static DECISION_DURATION: Desc =
    Desc::histogram("scheduler_scheduling_algorithm_duration_seconds", "[ALPHA] Duration of one search for a node.", ATTEMPT, &[]);
static POINT_DURATION: Desc = Desc::histogram(
    "scheduler_framework_extension_point_duration_seconds",
    "[STABLE] Duration of all plugins of an extension point.",
    POINT,
    &["extension_point", "profile", "status"],
);
static PENDING: Desc = Desc::gauge("scheduler_pending_pods", "[STABLE] Number of pods that wait, by the part of the queue.", &["queue"]);
static INCOMING: Desc = Desc::counter(
    "scheduler_queue_incoming_pods_total",
    "[STABLE] Number of pods that came into a part of the queue, by the event.",
    &["event", "queue"],
);
static POD_ATTEMPTS: Desc =
    Desc::histogram("scheduler_pod_scheduling_attempts", "[STABLE] Number of tries that it took to place a pod.", TRIES, &[]);
static POD_SLI: Desc = Desc::histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "[BETA] Time from the moment a pod could first be tried until it is bound, by the number of tries.",
    SLI,
    &["attempts"],
);
static PREEMPTIONS: Desc = Desc::counter("scheduler_preemption_attempts_total", "[STABLE] Number of times that room was made.", &[]);
static PREEMPTION_VICTIMS: Desc =
    Desc::histogram("scheduler_preemption_victims", "[STABLE] Number of pods that were sent away to make room.", VICTIMS, &[]);
static UNSCHEDULABLE: Desc = Desc::gauge(
    "scheduler_unschedulable_pods",
    "[BETA] Number of pods that a plugin has rejected and that still wait.",
    &["plugin", "profile"],
);
static EVALUATIONS: Desc = Desc::counter(
    "scheduler_plugin_evaluation_total",
    "[BETA] Number of times that a plugin was asked, by the extension point (PreFilter, Filter, PreScore, and Score).",
    &["plugin", "extension_point", "profile"],
);
static RUNNING: Desc =
    Desc::gauge("scheduler_goroutines", "[BETA] Number of pieces of work under way beside the search, by what they do.", &["operation"]);
static CACHE: Desc = Desc::gauge("scheduler_cache_size", "[ALPHA] Number of nodes, pods and assumed pods that are known.", &["type"]);

/// How a try ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Counts in a registry.
    pub fn new(registry: Registry) -> Self {
        Metrics { registry }
    }

    /// A pod was tried.
    pub fn tried(&self, profile: &str, outcome: Outcome, took: Duration) {
        let labels = [profile, outcome.text()];
        self.registry.count(&ATTEMPTS_TOTAL, &labels);
        self.registry.series(&ATTEMPT_DURATION, &labels).observe(took.as_secs_f64());
    }

    /// A node was looked for.
    pub fn decided(&self, took: Duration) {
        self.registry.series(&DECISION_DURATION, &[]).observe(took.as_secs_f64());
    }

    /// An extension point of a profile has run.
    pub fn ran(&self, point: &'static str, profile: &str, took: Duration) {
        self.registry.series(&POINT_DURATION, &[point, profile, "Success"]).observe(took.as_secs_f64());
    }

    /// A pod is bound, after so many tries and so long after it first could be placed.
    pub fn bound(&self, attempts: u32, waited: Duration) {
        self.registry.series(&POD_ATTEMPTS, &[]).observe(f64::from(attempts));
        let attempts = if attempts < 15 { attempts.to_string() } else { "15+".to_owned() };
        self.registry.series(&POD_SLI, &[&attempts]).observe(waited.as_secs_f64());
    }

    /// So many pods came into a part of the queue.
    pub fn queued(&self, event: &str, queue: &str, pods: usize) {
        if pods > 0 {
            self.registry.series(&INCOMING, &[event, queue]).add(pods as f64);
        }
    }

    /// Pods that waited came into other parts of the queue.
    pub fn moved(&self, event: &str, moved: Moved) {
        self.queued(event, "active", moved.active);
        self.queued(event, "backoff", moved.backoff);
    }

    /// Room is made by sending so many pods away.
    pub fn preempted(&self, victims: usize) {
        self.registry.count(&PREEMPTIONS, &[]);
        self.registry.series(&PREEMPTION_VICTIMS, &[]).observe(victims as f64);
    }

    /// These plugins (bits) have rejected one pod more, or fewer.
    pub fn rejected(&self, profile: &str, plugins: u32, by: f64) {
        for plugin in Plugin::ALL.into_iter().filter(|p| plugins & p.bit() != 0) {
            self.registry.series(&UNSCHEDULABLE, &[&plugin.name(), profile]).add(by);
        }
    }

    /// Plugins were asked by a profile.
    pub fn evaluated(&self, profile: &str, counted: &Evaluations) {
        for (plugin, point, times) in counted.counted() {
            self.registry.series(&EVALUATIONS, &[&plugin.name(), point, profile]).add(times as f64);
        }
    }

    /// How many pods wait, how many are being bound, and how many nodes, pods and assumed pods are known.
    pub fn sizes(&self, pending: Pending, binding: usize, cached: [usize; 3]) {
        self.registry.series(&RUNNING, &["binding"]).set(binding as f64);
        let Pending { active, backoff, unschedulable, gated } = pending;
        for (queue, pods) in [("active", active), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)] {
            self.registry.series(&PENDING, &[queue]).set(pods as f64);
        }
        for (kind, count) in ["nodes", "pods", "assumed_pods"].into_iter().zip(cached) {
            self.registry.series(&CACHE, &[kind]).set(count as f64);
        }
    }
}
