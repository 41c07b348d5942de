//! How many replicas a metric asks for. Pure.
//!
//! Source: `pkg/controller/podautoscaler/replica_calculator.go`. Values are in thousandths of the metric's unit; ages and
//! windows in seconds.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;

/// `--horizontal-pod-autoscaler-cpu-initialization-period`.
const INITIALIZATION: i64 = 300;
/// `--horizontal-pod-autoscaler-initial-readiness-delay`.
const READINESS_DELAY: i64 = 30;

/// What a pod's metric was, when, and over how long.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub value: i64,
    pub at: Timestamp,
    pub window: i64,
}

/// Samples by pod.
pub(super) type Samples = BTreeMap<String, Sample>;

/// How far from one the ratio may be without anything happening.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    pub up: f64,
    pub down: f64,
}

impl Tolerance {
    pub(super) fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// Pods by what their metric is worth.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: Vec<String>,
    missing: Vec<String>,
    ignored: Vec<String>,
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn group(pods: &[Pod], samples: &Samples, cpu: bool, now: Timestamp) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let phase = crate::pods::phase(pod);
        if pod.metadata.deletion_timestamp.is_some() || phase == "Failed" {
            groups.ignored.push(name(pod));
        } else if phase == "Pending" {
            groups.unready.push(name(pod));
        } else {
            match samples.get(&name(pod)) {
                None => groups.missing.push(name(pod)),
                Some(sample) if cpu && !counts(pod, sample, now) => groups.unready.push(name(pod)),
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether the CPU of a pod is that of its work, not of its start.
fn counts(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second());
    let (Some(ready), Some(started)) = (crate::pods::condition(pod, "Ready"), started) else { return false };
    let changed = ready.last_transition_time.as_ref().map_or(0, |t| t.0.as_second());
    let unready = ready.status == "False";
    if started + INITIALIZATION > now.as_second() {
        return !unready && sample.at.as_second() >= changed + sample.window;
    }
    !(unready && started + READINESS_DELAY > changed)
}

/// What a metric asks for, and what it was: utilization in percent (when it is one) and average value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    pub utilization: Option<i32>,
    pub average: i64,
}

/// The goal of a metric of pods.
pub(super) enum Goal<'a> {
    /// Percent of what each pod requests.
    Utilization(i32, &'a BTreeMap<String, i64>),
    /// Value of each pod.
    Average(i64),
}

impl Goal<'_> {
    /// How much more is used than wanted, and the proposal's figures.
    fn ratio(&self, samples: &Samples) -> Result<(f64, Option<i32>, i64), String> {
        match self {
            Goal::Utilization(target, requests) => {
                let known: Vec<(i64, i64)> = samples.iter().filter_map(|(pod, s)| Some((s.value, *requests.get(pod)?))).collect();
                let (used, requested) = known.iter().fold((0, 0), |(u, r), (value, request)| (u + value, r + request));
                if requested == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
                Ok((f64::from(utilization) / f64::from(*target), Some(utilization), used / known.len() as i64))
            }
            Goal::Average(target) => {
                let average = samples.values().map(|s| s.value).sum::<i64>() / samples.len().max(1) as i64;
                Ok((average as f64 / *target as f64, None, average))
            }
        }
    }

    /// What a pod without a metric is taken to use when fewer pods are wanted: no less than its goal.
    fn at_goal(&self, pod: &str) -> i64 {
        match self {
            Goal::Utilization(target, requests) => requests.get(pod).copied().unwrap_or(0) * i64::from((*target).max(100)) / 100,
            Goal::Average(target) => *target,
        }
    }
}

/// Replicas for a metric of pods.
pub(super) fn of_pods(
    current: i32,
    pods: &[Pod],
    mut samples: Samples,
    goal: &Goal<'_>,
    cpu: bool,
    tolerance: Tolerance,
    now: Timestamp,
) -> Result<Proposal, String> {
    if pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".into());
    }
    let groups = group(pods, &samples, cpu, now);
    let selected: Vec<String> = pods.iter().map(name).collect();
    samples.retain(|pod, _| selected.contains(pod) && !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let (ratio, utilization, average) = goal.ratio(&samples)?;
    let proposal = |replicas| Ok(Proposal { replicas, utilization, average });
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        return proposal(if tolerance.covers(ratio) { current } else { ceil(ratio * groups.ready as f64) });
    }
    let mut assume = |pod: &String, value| {
        samples.insert(pod.clone(), Sample { value, at: now, window: 0 });
    };
    for pod in &groups.missing {
        // Whatever is not known speaks against a change.
        if ratio < 1.0 {
            assume(pod, goal.at_goal(pod));
        } else if ratio > 1.0 {
            assume(pod, 0);
        }
    }
    if with_unready {
        groups.unready.iter().for_each(|pod| assume(pod, 0));
    }
    let (fresh, ..) = goal.ratio(&samples)?;
    if tolerance.covers(fresh) || (ratio < 1.0 && fresh > 1.0) || (ratio > 1.0 && fresh < 1.0) {
        return proposal(current);
    }
    let wanted = ceil(fresh * samples.len() as f64);
    let against = (fresh < 1.0 && wanted > current) || (fresh > 1.0 && wanted < current);
    proposal(if against { current } else { wanted })
}

/// Replicas for one value of an object or of something outside, that all pods share.
pub(super) fn of_value(current: i32, ready: i32, value: i64, target: i64, tolerance: Tolerance) -> Proposal {
    let ratio = value as f64 / target as f64;
    let replicas = if current == 0 {
        ceil(ratio)
    } else if tolerance.covers(ratio) {
        current
    } else {
        ceil(ratio * f64::from(ready))
    };
    Proposal { replicas, utilization: None, average: value }
}

/// Replicas for one value that is to be divided among the pods.
pub(super) fn of_share(current: i32, value: i64, target: i64, tolerance: Tolerance) -> Proposal {
    let ratio = value as f64 / (target as f64 * f64::from(current));
    let within = current > 0 && tolerance.covers(ratio);
    let replicas = if within { current } else { ceil(value as f64 / target as f64) };
    Proposal { replicas, utilization: None, average: ceil(value as f64 / f64::from(current.max(1))).into() }
}

fn ceil(value: f64) -> i32 {
    // Saturates; NaN, from nothing over nothing, is zero.
    value.ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const TOLERANCE: Tolerance = Tolerance { up: 0.1, down: 0.1 };

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn pod(n: usize, phase: &str, ready: &str) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": format!("p{n}")}, "status": {"phase": phase, "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:05Z"}]}}),
        )
        .unwrap()
    }

    fn running(values: &[Option<i64>]) -> (Vec<Pod>, Samples, BTreeMap<String, i64>) {
        let pods: Vec<Pod> = (0..values.len()).map(|n| pod(n, "Running", "True")).collect();
        let sample = |v: i64| Sample { value: v, at: now(), window: 60 };
        let samples = values.iter().enumerate().filter_map(|(n, v)| Some((format!("p{n}"), sample((*v)?)))).collect();
        (pods, samples, (0..values.len()).map(|n| (format!("p{n}"), 1000)).collect())
    }

    fn utilization(values: &[Option<i64>], target: i32) -> i32 {
        let (pods, samples, requests) = running(values);
        let current = i32::try_from(values.len()).unwrap();
        of_pods(current, &pods, samples, &Goal::Utilization(target, &requests), true, TOLERANCE, now()).unwrap().replicas
    }

    #[test]
    fn utilization_decides_and_what_is_unknown_speaks_against_a_change() {
        let cases: [(&[Option<i64>], i32, i32); 7] = [
            (&[Some(300), Some(500), Some(700)], 30, 5),
            (&[Some(300), Some(300), Some(300)], 30, 3),
            (&[Some(320), Some(320), Some(320)], 30, 3),
            (&[Some(100), Some(300), Some(500), Some(250), Some(250)], 50, 3),
            (&[Some(600), Some(600), None], 60, 3),
            (&[Some(100), Some(100), None], 100, 2),
            (&[Some(1000), Some(1000), None, None], 50, 4),
        ];
        for (values, target, expected) in cases {
            assert_eq!(utilization(values, target), expected, "{values:?} at {target} %");
        }
    }

    #[test]
    fn pods_that_start_are_no_reason_to_grow() {
        let (mut pods, samples, mut requests) = running(&[Some(900), Some(900)]);
        requests.insert("p2".into(), 1000);
        pods.push(pod(2, "Pending", "False"));
        let wanted = of_pods(3, &pods, samples, &Goal::Utilization(60, &requests), true, TOLERANCE, now()).unwrap();
        assert_eq!((wanted.replicas, wanted.utilization), (3, Some(90)));
    }

    #[test]
    fn values_are_shared_or_compared_as_a_whole() {
        assert_eq!(of_value(3, 3, 20_000, 15_000, TOLERANCE).replicas, 4);
        assert_eq!(of_value(3, 3, 15_500, 15_000, TOLERANCE).replicas, 3);
        assert_eq!(of_share(3, 8_600, 2_867, TOLERANCE).replicas, 3);
        assert_eq!(of_share(4, 8_600, 2_150 * 2, TOLERANCE).replicas, 2);
        assert_eq!(of_share(0, 5_000, 2_000, TOLERANCE).replicas, 3);
    }
}
