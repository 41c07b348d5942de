//! How long a daemon pod that failed is left alone before it is replaced.
//!
//! A kubelet that refuses a pod refuses the next one as well: without a pause, the set and the kubelet would fight as fast as
//! they can. Source: `failedPodsBackoff` in `pkg/controller/daemon/daemon_controller.go`.

use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

struct Pause {
    length: Duration,
    since: Instant,
}

/// Pauses by set (its UID and generation) and node.
#[derive(Default)]
pub struct Failures(HashMap<(String, i64), HashMap<String, Pause>>);

impl Failures {
    /// Nodes on which this set waits, and for how long.
    pub fn waits(&self, set: &str, generation: i64, now: Instant) -> HashMap<String, Duration> {
        let left = |p: &Pause| (p.since + p.length).checked_duration_since(now).filter(|d| !d.is_zero());
        let pauses = self.0.get(&(set.to_owned(), generation)).into_iter().flatten();
        pauses.filter_map(|(node, pause)| Some((node.clone(), left(pause)?))).collect()
    }

    /// A pod has failed on a node: the next time is waited for twice as long.
    pub fn note(&mut self, set: &str, generation: i64, node: &str, now: Instant) {
        let old = |p: &mut Pause| now.saturating_duration_since(p.since) < 2 * LONGEST;
        self.0.retain(|(uid, known), nodes| {
            nodes.retain(|_, p| old(p));
            !nodes.is_empty() && (uid != set || *known == generation)
        });
        let nodes = self.0.entry((set.to_owned(), generation)).or_default();
        let length = nodes.get(node).map_or(FIRST, |p| (p.length * 2).min(LONGEST));
        nodes.insert(node.to_owned(), Pause { length, since: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_failure_on_a_node_doubles_the_pause_until_the_set_changes() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        failures.note("ds", 1, "n1", start);
        assert_eq!(failures.waits("ds", 1, start), HashMap::from([("n1".into(), FIRST)]));
        let later = start + FIRST;
        assert!(failures.waits("ds", 1, later).is_empty());
        failures.note("ds", 1, "n1", later);
        assert_eq!(failures.waits("ds", 1, later)["n1"], 2 * FIRST);
        assert!(failures.waits("ds", 2, later).is_empty(), "another template may fare better");
        for _ in 0..20 {
            failures.note("ds", 1, "n1", later);
        }
        assert_eq!(failures.waits("ds", 1, later)["n1"], LONGEST);
    }
}
