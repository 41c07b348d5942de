//! How fast a number of replicas may change: stabilization windows, policies and bounds. Pure.
//!
//! Source: `pkg/controller/podautoscaler/horizontal.go`. Without a behaviour the older rules hold: at most the double (or
//! four), and the highest recommendation of the last five minutes. Times here are of the clock that nobody sets: a window must
//! not end because the wall clock is put right.

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};
use tokio::time::Instant;

const LONGEST_WINDOW: u64 = 3600;

/// What was recommended, and by how much was scaled, in the last hour.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    pub recommended: Vec<(Instant, i32)>,
    pub grown: Vec<(Instant, i32)>,
    pub shrunk: Vec<(Instant, i32)>,
}

fn within(at: Instant, seconds: u64, now: Instant) -> bool {
    now.duration_since(at).as_secs() < seconds
}

/// Seconds of a field that is validated not to be negative.
fn seconds(number: i32) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl History {
    pub(super) fn scaled(&mut self, from: i32, to: i32, now: Instant) {
        if to > from {
            self.grown.push((now, to - from));
        } else if to < from {
            self.shrunk.push((now, from - to));
        }
    }

    pub(super) fn forget_old(&mut self, now: Instant) {
        for list in [&mut self.recommended, &mut self.grown, &mut self.shrunk] {
            list.retain(|(at, _)| within(*at, LONGEST_WINDOW, now));
        }
    }
}

/// Reason and message of a condition.
pub(super) type Words = (&'static str, &'static str);

/// The number that is allowed, and what conditions AbleToScale and ScalingLimited say.
#[derive(Debug, PartialEq)]
pub(super) struct Allowed {
    pub replicas: i32,
    pub able: Words,
    pub limited: bool,
    pub limit: Words,
}

const READY: Words = ("ReadyForNewScale", "recommended size matches current size");
const HIGHER: Words =
    ("ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation");
const LOWER: Words = ("ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation");
const RANGE: Words = ("DesiredWithinRange", "the desired count is within the acceptable range");
const FEW: Words = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const MANY: Words = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP: Words = ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN: Words = ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

/// Bounds what the metrics ask for.
pub(super) fn allow(
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    history: &mut History,
    current: i32,
    wanted: i32,
    bounds: (i32, i32),
    downscale_window: u64,
    now: Instant,
) -> Allowed {
    let window = |rules: Option<&HPAScalingRules>, default| rules.and_then(|r| r.stabilization_window_seconds).map_or(default, seconds);
    let (up, down) = (behavior.and_then(|b| b.scale_up.as_ref()), behavior.and_then(|b| b.scale_down.as_ref()));
    let recent = |seconds: u64| history.recommended.iter().filter(move |(at, _)| within(*at, seconds, now)).map(|(_, n)| *n);
    let lowest = recent(window(up, 0)).chain([wanted]).min().unwrap_or(wanted);
    let highest = recent(window(down, downscale_window)).chain([wanted]).max().unwrap_or(wanted);
    let stable = match behavior {
        None => highest,
        Some(_) => current.max(lowest).min(highest),
    };
    history.recommended.push((now, wanted));
    history.forget_old(now);
    let able = match (stable == wanted, behavior.is_some() && wanted >= current) {
        (true, _) => READY,
        (false, true) => LOWER,
        (false, false) => HIGHER,
    };
    let (replicas, limit) = match behavior {
        None => by_older_rules(current, stable, bounds),
        Some(_) if stable > current => {
            let fastest = up.map_or(i32::MAX, |rules| most(rules, history, current, now)).max(current);
            let (most, words) = if bounds.1 > fastest { (fastest, UP) } else { (bounds.1, MANY) };
            if stable > most { (most, words) } else { (stable, RANGE) }
        }
        Some(_) if stable < current => {
            let fastest = down.map_or(0, |rules| least(rules, history, current, now)).min(current);
            let (least, words) = if bounds.0 < fastest { (fastest, DOWN) } else { (bounds.0, FEW) };
            if stable < least { (least, words) } else { (stable, RANGE) }
        }
        Some(_) => (stable, RANGE),
    };
    Allowed { replicas, able, limited: replicas != stable, limit }
}

fn by_older_rules(current: i32, wanted: i32, (least, most): (i32, i32)) -> (i32, Words) {
    let fastest = current.saturating_mul(2).max(4);
    let (most, words) = if most > fastest { (fastest, UP) } else { (most, MANY) };
    if wanted < least {
        (least, FEW)
    } else if wanted > most {
        (most, words)
    } else {
        (wanted, RANGE)
    }
}

fn sum(changes: &[(Instant, i32)], period: i32, now: Instant) -> i32 {
    changes.iter().filter(|(at, _)| within(*at, seconds(period), now)).map(|(_, n)| n).sum()
}

/// Up to how many may be grown now.
fn most(rules: &HPAScalingRules, history: &History, current: i32, now: Instant) -> i32 {
    let proposals = rules.policies.iter().flatten().map(|p| {
        let start = current - sum(&history.grown, p.period_seconds, now) + sum(&history.shrunk, p.period_seconds, now);
        match p.type_.as_str() {
            "Pods" => start.saturating_add(p.value),
            _ => (f64::from(start) * (1.0 + f64::from(p.value) / 100.0)).ceil() as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.min().unwrap_or(current),
        _ => proposals.max().unwrap_or(current),
    }
}

/// Down to how many may be shrunk now.
fn least(rules: &HPAScalingRules, history: &History, current: i32, now: Instant) -> i32 {
    let proposals = rules.policies.iter().flatten().map(|p| {
        let start = current + sum(&history.shrunk, p.period_seconds, now) - sum(&history.grown, p.period_seconds, now);
        match p.type_.as_str() {
            "Pods" => start.saturating_sub(p.value),
            _ => (f64::from(start) * (1.0 - f64::from(p.value) / 100.0)) as i32,
        }
    });
    match rules.select_policy.as_deref() {
        Some("Disabled") => current,
        Some("Min") => proposals.max().unwrap_or(current),
        _ => proposals.min().unwrap_or(current),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::OnceLock;
    use std::time::Duration;

    const NOW: Duration = Duration::from_secs(10_000);

    /// The same beginning for all times of a test.
    fn beginning() -> Instant {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        *BEGINNING.get_or_init(Instant::now)
    }

    fn now() -> Instant {
        beginning() + NOW
    }

    fn ago(seconds: u64) -> Instant {
        now() - Duration::from_secs(seconds)
    }

    #[test]
    fn without_a_behaviour_growth_doubles_and_shrinking_waits() {
        let mut history = History { recommended: vec![(ago(200), 8), (ago(400), 20)], ..History::default() };
        let shrunk = allow(None, &mut history, 8, 3, (1, 100), 300, now());
        assert_eq!((shrunk.replicas, shrunk.able), (8, HIGHER));
        let grown = allow(None, &mut History::default(), 3, 50, (1, 100), 300, now());
        assert_eq!((grown.replicas, grown.limited, grown.limit), (6, true, UP));
        let capped = allow(None, &mut History::default(), 3, 50, (1, 5), 300, now());
        assert_eq!((capped.replicas, capped.limit), (5, MANY));
    }

    #[test]
    fn policies_bound_the_change_of_a_period() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 10, "periodSeconds": 60}]},
            "scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Percent", "value": 50, "periodSeconds": 60}]}}))
        .unwrap();
        let go = |history: &mut History, current, wanted| allow(Some(&behavior), history, current, wanted, (1, 100), 300, now()).replicas;
        assert_eq!(go(&mut History::default(), 10, 50), 14);
        assert_eq!(go(&mut History { grown: vec![(ago(30), 3)], ..History::default() }, 10, 50), 11, "three of four are used up");
        assert_eq!(go(&mut History { grown: vec![(ago(90), 3)], ..History::default() }, 10, 50), 14);
        assert_eq!(go(&mut History::default(), 10, 1), 5);
        let mut disabled = behavior.clone();
        disabled.scale_down.as_mut().unwrap().select_policy = Some("Disabled".into());
        assert_eq!(allow(Some(&disabled), &mut History::default(), 10, 1, (1, 100), 300, now()).replicas, 10);
    }

    #[test]
    fn windows_take_the_lowest_when_growing_and_the_highest_when_shrinking() {
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(json!({
            "scaleUp": {"stabilizationWindowSeconds": 60, "policies": [{"type": "Percent", "value": 900, "periodSeconds": 15}]},
            "scaleDown": {"policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}))
        .unwrap();
        let go = |recommended: Vec<(Instant, i32)>, current, wanted| {
            let mut history = History { recommended, ..History::default() };
            let allowed = allow(Some(&behavior), &mut history, current, wanted, (2, 100), 300, now());
            (allowed.replicas, allowed.able.0, allowed.limit.0, allowed.limited)
        };
        assert_eq!(go(vec![(ago(30), 12), (ago(90), 10)], 10, 20), (12, "ScaleUpStabilized", "DesiredWithinRange", false));
        assert_eq!(go(vec![(ago(90), 10)], 10, 20), (20, "ReadyForNewScale", "DesiredWithinRange", false));
        assert_eq!(go(vec![(ago(200), 8), (ago(400), 10)], 10, 4), (8, "ScaleDownStabilized", "DesiredWithinRange", false));
        assert_eq!(
            go(vec![(ago(301), 10)], 10, 1),
            (2, "ReadyForNewScale", "TooFewReplicas", true),
            "the window of the flag, and the minimum"
        );
        assert_eq!(go(vec![], 10, 200), (100, "ReadyForNewScale", "TooManyReplicas", true));
    }
}
