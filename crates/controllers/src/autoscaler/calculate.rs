//! How many replicas a metric asks for. Pure.
//!
//! Source: `pkg/controller/podautoscaler/replica_calculator.go`. Values are in thousandths of the metric's unit; ages and
//! windows in seconds.

use crate::pods;
use crate::settings::Autoscaling;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use std::collections::BTreeMap;
use std::time::Duration;

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

/// What does not depend on the metric.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    /// Replicas as the target's spec says.
    pub current: i32,
    /// Replicas that there are.
    pub present: i32,
    /// The pods.
    pub pods: &'a [Pod],
    /// How far from the goal nothing happens.
    pub tolerance: Tolerance,
    /// What the flags say.
    pub settings: &'a Autoscaling,
    /// Now.
    pub now: Timestamp,
}

impl Scene<'_> {
    /// Pods that run and are ready.
    fn ready(&self) -> Result<usize, String> {
        if self.pods.is_empty() {
            return Err(format!("unable to calculate ready pods: {NO_PODS}"));
        }
        Ok(self.pods.iter().filter(|p| pods::phase(p) == "Running" && pods::is_ready(p)).count())
    }
}

const NO_PODS: &str = "no pods returned by selector while calculating replica count";

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
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

fn group(scene: &Scene, samples: &Samples, cpu: bool) -> Groups {
    let mut groups = Groups::default();
    for pod in scene.pods {
        let phase = pods::phase(pod);
        if pod.metadata.deletion_timestamp.is_some() || phase == "Failed" {
            groups.ignored.push(name(pod));
        } else if phase == "Pending" {
            groups.unready.push(name(pod));
        } else {
            match samples.get(&name(pod)) {
                None => groups.missing.push(name(pod)),
                Some(sample) if cpu && !counts(scene, pod, sample) => groups.unready.push(name(pod)),
                Some(_) => groups.ready += 1,
            }
        }
    }
    groups
}

/// Whether the CPU of a pod is that of its work, not of its start.
fn counts(scene: &Scene, pod: &Pod, sample: &Sample) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0.as_second());
    let (Some(ready), Some(started)) = (pods::condition(pod, "Ready"), started) else { return false };
    let changed = ready.last_transition_time.as_ref().map_or(0, |t| t.0.as_second());
    let unready = ready.status == "False";
    if started.saturating_add(seconds(scene.settings.initialization)) > scene.now.as_second() {
        return !unready && sample.at.as_second() >= changed + sample.window;
    }
    !(unready && started.saturating_add(seconds(scene.settings.readiness_delay)) > changed)
}

/// What a metric asks for, and what it was: utilization in percent (when it is one) and average value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub replicas: i32,
    pub utilization: Option<i32>,
    pub average: i64,
}

/// The goal of a metric of pods.
pub(super) enum Goal {
    /// Percent of what each pod requests.
    Utilization(i32, BTreeMap<String, i64>),
    /// Value of each pod.
    Average(i64),
}

impl Goal {
    /// How much more is used than wanted, and the proposal's figures.
    fn ratio(&self, samples: &Samples) -> Result<(f64, Option<i32>, i64), String> {
        match self {
            Goal::Utilization(target, requests) => {
                let known: Vec<(i64, i64)> = samples.iter().filter_map(|(pod, s)| Some((s.value, *requests.get(pod)?))).collect();
                let (used, requested) =
                    known.iter().fold((0, 0), |(u, r), (value, request)| (u + i128::from(*value), r + i128::from(*request)));
                if requested == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let utilization = i32::try_from(used * 100 / requested).unwrap_or(i32::MAX);
                Ok((f64::from(utilization) / f64::from(*target), Some(utilization), mean(used, known.len())))
            }
            Goal::Average(target) => {
                let average = mean(samples.values().map(|s| i128::from(s.value)).sum(), samples.len());
                Ok((average as f64 / *target as f64, None, average))
            }
        }
    }

    /// What a pod without a metric is taken to use when fewer pods are wanted: no less than its goal.
    fn at_goal(&self, pod: &str) -> i64 {
        match self {
            Goal::Utilization(target, requests) => {
                requests.get(pod).copied().unwrap_or(0).saturating_mul(i64::from((*target).max(100))) / 100
            }
            Goal::Average(target) => *target,
        }
    }

    /// Whether a pod without a metric is taken to use nothing. With a value as the goal that is so even when it is met exactly.
    fn assumes_none(&self, ratio: f64) -> bool {
        match self {
            Goal::Utilization(..) => ratio > 1.0,
            Goal::Average(_) => ratio >= 1.0,
        }
    }
}

fn mean(sum: i128, count: usize) -> i64 {
    let mean = sum / i128::try_from(count.max(1)).unwrap_or(1);
    i64::try_from(mean).unwrap_or(i64::MAX)
}

/// Replicas for a metric of pods. The goal is asked for only when something was measured.
pub(super) fn of_pods(
    scene: &Scene<'_>,
    mut samples: Samples,
    cpu: bool,
    goal: impl FnOnce() -> Result<Goal, String>,
) -> Result<Proposal, String> {
    let Scene { current, pods, tolerance, now, .. } = *scene;
    if pods.is_empty() {
        return Err(NO_PODS.into());
    }
    let groups = group(scene, &samples, cpu);
    samples.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if samples.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let goal = goal()?;
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
        } else if goal.assumes_none(ratio) {
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
pub(super) fn of_value(scene: &Scene<'_>, value: i64, target: i64) -> Result<Proposal, String> {
    let ratio = value as f64 / target as f64;
    let replicas = if scene.current == 0 {
        ceil(ratio)
    } else if scene.tolerance.covers(ratio) {
        scene.current
    } else {
        ceil(ratio * scene.ready()? as f64)
    };
    Ok(Proposal { replicas, utilization: None, average: value })
}

/// Replicas for one value that is to be divided among the pods that there are.
pub(super) fn of_share(scene: &Scene<'_>, value: i64, target: i64) -> Proposal {
    let ratio = value as f64 / (target as f64 * f64::from(scene.present));
    let within = scene.present > 0 && scene.tolerance.covers(ratio);
    let replicas = if within { scene.present } else { ceil(value as f64 / target as f64) };
    Proposal { replicas, utilization: None, average: ceil(value as f64 / f64::from(scene.present.max(1))).into() }
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

    static SETTINGS: std::sync::LazyLock<Autoscaling> = std::sync::LazyLock::new(Autoscaling::default);

    fn scene(current: i32, pods: &[Pod]) -> Scene<'_> {
        Scene { current, present: current, pods, tolerance: TOLERANCE, settings: &SETTINGS, now: now() }
    }

    fn utilization(values: &[Option<i64>], target: i32) -> i32 {
        let (pods, samples, requests) = running(values);
        let current = i32::try_from(values.len()).unwrap();
        of_pods(&scene(current, &pods), samples, true, || Ok(Goal::Utilization(target, requests))).unwrap().replicas
    }

    fn average(values: &[Option<i64>], target: i64) -> i32 {
        let (pods, samples, _) = running(values);
        let current = i32::try_from(values.len()).unwrap();
        of_pods(&scene(current, &pods), samples, false, || Ok(Goal::Average(target))).unwrap().replicas
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
        let wanted = of_pods(&scene(3, &pods), samples, true, || Ok(Goal::Utilization(60, requests))).unwrap();
        assert_eq!((wanted.replicas, wanted.utilization), (3, Some(90)));
    }

    #[test]
    fn an_average_value_is_compared_with_that_of_each_pod() {
        let cases: [(&[Option<i64>], i64, i32); 5] = [
            (&[Some(10_000), Some(20_000), Some(30_000)], 10_000, 6),
            (&[Some(10_500), Some(10_500)], 10_000, 2),
            (&[Some(2_000), Some(2_000), None], 10_000, 2),
            (&[Some(20_000), None, None], 10_000, 3),
            // Exactly as much as is wanted by those that are known: the others are taken to be idle.
            (&[Some(10_000), Some(10_000), None, None], 10_000, 2),
        ];
        for (values, target, expected) in cases {
            assert_eq!(average(values, target), expected, "{values:?} at {target}");
        }
    }

    #[test]
    fn a_pods_first_minutes_count_only_while_it_is_ready_and_measured_since() {
        let started = |seconds: i64, ready: &str, changed: i64| -> Pod {
            let at = |seconds: i64| (now() - jiff::SignedDuration::from_secs(seconds)).to_string();
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": "Running", "startTime": at(seconds),
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": at(changed)}]}}))
            .unwrap()
        };
        let cases = [
            // (started, ready, changed, measured) seconds ago; does it count?
            (60, "True", 40, 15, false),
            (60, "True", 40, 10, true),
            (60, "False", 50, 5, false),
            (600, "False", 590, 5, false),
            (600, "False", 100, 5, true),
            (600, "True", 5, 100, true),
        ];
        for (start, ready, changed, measured, expected) in cases {
            let pod = started(start, ready, changed);
            let sample = Sample { value: 1, at: now() - jiff::SignedDuration::from_secs(measured), window: 30 };
            let counted = counts(&scene(1, std::slice::from_ref(&pod)), &pod, &sample);
            assert_eq!(counted, expected, "{start} {ready} {changed} {measured}");
        }
    }

    #[test]
    fn what_was_not_measured_is_said_before_what_was_not_requested() {
        let (pods, ..) = running(&[None]);
        let asked = of_pods(&scene(1, &pods), Samples::new(), true, || Err("missing request".into()));
        assert_eq!(asked.unwrap_err(), "did not receive metrics for targeted pods (pods might be unready)");
        assert_eq!(of_pods(&scene(1, &[]), Samples::new(), true, || Err(String::new())).unwrap_err(), NO_PODS);
    }

    #[test]
    fn values_are_shared_or_compared_as_a_whole() {
        let (three, ..) = running(&[None, None, None]);
        let whole = |value, target| of_value(&scene(3, &three), value, target).unwrap().replicas;
        assert_eq!((whole(20_000, 15_000), whole(15_500, 15_000)), (4, 3));
        assert_eq!(of_value(&scene(0, &[]), 20_000, 15_000).unwrap().replicas, 2, "from nothing, readiness decides nothing");
        assert!(of_value(&scene(3, &[]), 20_000, 15_000).is_err());
        let share = |present, value, target| of_share(&scene(present, &[]), value, target).replicas;
        assert_eq!((share(3, 8_600, 2_867), share(4, 8_600, 2_150 * 2), share(0, 5_000, 2_000)), (3, 2, 3));
    }
}
