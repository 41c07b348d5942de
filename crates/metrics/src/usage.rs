//! Samples to numbers: how much CPU and memory is in use, as of when, over which time.
//!
//! The kubelet's own rate is taken where it has one; else the rate is made from two counts of CPU time. Must never make a rate of
//! two samples that are not of the same life of a container, nor show half of what a pod uses.

use crate::summary::{Containers, Reading, Sample};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Times of summaries are whole seconds: a rate over less than this is too wrong to be shown.
const SHORTEST: Duration = Duration::from_secs(5);
/// A sample of longer ago says nothing of now.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
/// Over which time kubelets average, when it cannot be told from two samples.
const USUAL: Duration = Duration::from_secs(10);

/// What something uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// CPU, in billionths of a core.
    pub nano_cores: u64,
    /// Memory.
    pub bytes: u64,
}

/// What something used, as of a time and over the time before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// As of when.
    pub timestamp: Timestamp,
    /// Over which time.
    pub window: Duration,
    /// How much.
    pub usage: Usage,
}

/// What a pod used, with each of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredPod {
    /// The earliest of the containers.
    pub timestamp: Timestamp,
    /// Over which time.
    pub window: Duration,
    /// By name.
    pub containers: Vec<(String, Usage)>,
}

/// Between two samples, when the later one is later and the earlier one not long ago.
fn distance(sample: &Sample, before: &Sample) -> Option<Duration> {
    let passed = Duration::try_from(sample.time?.duration_since(before.time?)).ok()?;
    (!passed.is_zero() && passed <= LONGEST).then_some(passed)
}

/// Nanocores from two counts of CPU time; none when they are too near, too far, or of another life.
pub fn rate(sample: &Sample, before: &Sample) -> Option<u64> {
    let passed = distance(sample, before).filter(|passed| *passed >= SHORTEST)?;
    let used = sample.core_nanos?.checked_sub(before.core_nanos?)?;
    u64::try_from(u128::from(used) * 1_000_000_000 / passed.as_nanos()).ok()
}

/// What a sample says, with the help of the one before it.
pub fn measure(sample: &Sample, before: Option<&Sample>) -> Option<Measured> {
    let nano_cores = sample.nano_cores.or_else(|| rate(sample, before?))?;
    let window = before.and_then(|before| distance(sample, before)).unwrap_or(USUAL);
    Some(Measured { timestamp: sample.time?, window, usage: Usage { nano_cores, bytes: sample.working_set? } })
}

/// What is known of the containers of a pod; nothing of those without a rate or without memory.
pub type KnownContainers = BTreeMap<String, Option<Measured>>;

/// All that is known of a node and its pods after a look, or two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The node as a whole.
    pub node: Option<Measured>,
    /// Containers by namespace and name of their pod.
    pub pods: BTreeMap<(String, String), KnownContainers>,
}

impl Known {
    /// From one look, with the help of the one before it.
    pub fn of(reading: &Reading, before: Option<&Reading>) -> Known {
        let pods = reading.pods.iter().map(|(at, (uid, containers))| {
            let before = containers_of(before, at, uid);
            let each = containers.iter().map(|(name, sample)| (name.clone(), measure(sample, before.and_then(|b| b.get(name)))));
            (at.clone(), each.collect())
        });
        Known { node: measure(&reading.node, before.map(|b| &b.node)), pods: pods.collect() }
    }

    /// Takes from a second look what the first one did not tell. What that told is over a longer time, and stays.
    pub fn fill(&mut self, second: &Known) {
        self.node = self.node.or(second.node);
        for (at, containers) in &mut self.pods {
            let Some(others) = second.pods.get(at) else { continue };
            for (name, known) in containers {
                *known = known.or(others.get(name).copied().flatten());
            }
        }
    }

    /// What a pod uses.
    pub fn pod(&self, namespace: &str, name: &str, running: &[String]) -> Option<MeasuredPod> {
        measure_pod(self.pods.get(&(namespace.to_owned(), name.to_owned()))?, running)
    }
}

/// The containers of the same pod, and not of another one of its name.
fn containers_of<'r>(reading: Option<&'r Reading>, at: &(String, String), uid: &str) -> Option<&'r Containers> {
    reading?.pods.get(at).filter(|(other, _)| other == uid).map(|(_, containers)| containers)
}

/// What a pod uses: all of its containers, or nothing at all. `running` are the containers that its status says run.
pub fn measure_pod(containers: &KnownContainers, running: &[String]) -> Option<MeasuredPod> {
    if !running.iter().all(|name| containers.contains_key(name)) {
        return None;
    }
    let each: Vec<(&String, Measured)> = containers.iter().map(|(name, known)| Some((name, (*known)?))).collect::<Option<_>>()?;
    let (_, earliest) = each.iter().min_by_key(|(_, measured)| measured.timestamp)?;
    let (timestamp, window) = (earliest.timestamp, earliest.window);
    Some(MeasuredPod { timestamp, window, containers: each.into_iter().map(|(name, m)| (name.clone(), m.usage)).collect() })
}

/// Whether a second look shortly after would tell a rate that this one does not: the count is there, the rate is not.
pub fn would_gain(reading: &Reading, before: Option<&Reading>) -> bool {
    let lacks = |sample: &Sample, before: Option<&Sample>| {
        sample.nano_cores.is_none() && sample.core_nanos.is_some() && before.and_then(|before| rate(sample, before)).is_none()
    };
    let of_pods = || {
        reading.pods.iter().any(|(at, (uid, containers))| {
            let before = containers_of(before, at, uid);
            containers.iter().any(|(name, sample)| lacks(sample, before.and_then(|b| b.get(name))))
        })
    };
    lacks(&reading.node, before.map(|b| &b.node)) || of_pods()
}

/// A duration as Go writes it: `10.2s`, `1m0s`, `500ms`.
pub fn go_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".into();
    }
    for (unit, name) in [(1_000, "ns"), (1_000_000, "µs"), (1_000_000_000, "ms")] {
        if nanos < unit {
            return format!("{}{name}", decimal(nanos, unit / 1_000));
        }
    }
    let (hours, minutes) = (duration.as_secs() / 3600, duration.as_secs() / 60 % 60);
    let seconds = decimal(nanos % 60_000_000_000, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// So many of a unit, with as many digits after the point as it takes.
fn decimal(nanos: u128, unit: u128) -> String {
    let digits = unit.ilog10() as usize;
    if digits == 0 {
        return nanos.to_string();
    }
    let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
