//! When nodes last gave a sign of life, by this process's own clock: clocks of nodes may be wrong.
//!
//! Ten thousand nodes renew a thousand leases a second. What a renewal says of a node that was found in order is noted here
//! and costs no look at the node; the look comes when the node changes, or when its time runs out. Pure but for what it
//! remembers.

use jiff::Timestamp;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
struct Sign {
    lease: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    at: Instant,
    /// The revision of the node at which nothing was to be done about it.
    calm: Option<u64>,
}

/// The last sign of each node.
#[derive(Debug)]
pub(super) struct Signs {
    grace: Duration,
    nodes: HashMap<Box<str>, Sign>,
}

impl Signs {
    /// A node may be silent for so long.
    pub fn new(grace: Duration) -> Self {
        Signs { grace, nodes: HashMap::new() }
    }

    /// Notes what a node and its lease say; how long the node has been silent. A condition that this controller wrote has the
    /// old heartbeat: it is no sign of life.
    pub fn heard(&mut self, node: &str, lease: Option<Timestamp>, heartbeat: Option<Timestamp>, now: Instant) -> Duration {
        let fresh = Sign { lease, heartbeat, at: now, calm: None };
        match self.nodes.get_mut(node) {
            None => {
                self.nodes.insert(node.into(), fresh);
                Duration::ZERO
            }
            Some(known) => {
                known.calm = None;
                if (known.lease, known.heartbeat) != (lease, heartbeat) {
                    *known = fresh;
                }
                now.duration_since(known.at)
            }
        }
    }

    /// A lease was renewed; whether that is all there is to it.
    pub fn renewed(&mut self, node: &str, lease: Timestamp, now: Instant) -> bool {
        let Some(known) = self.nodes.get_mut(node).filter(|s| s.calm.is_some()) else { return false };
        if known.lease != Some(lease) {
            (known.lease, known.at) = (Some(lease), now);
        }
        true
    }

    /// At this revision of the node nothing is to be done about it as long as it is heard.
    pub fn set_calm(&mut self, node: &str, revision: u64) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.calm = Some(revision);
        }
    }

    /// How long a node at this revision needs no look, if at all.
    pub fn calm(&self, node: &str, revision: u64, now: Instant) -> Option<Duration> {
        let known = self.nodes.get(node).filter(|s| s.calm == Some(revision))?;
        Some(self.grace.saturating_sub(now.duration_since(known.at))).filter(|left| !left.is_zero())
    }

    /// The node is gone.
    pub fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// Everybody gets the time anew.
    pub fn clear(&mut self) {
        self.nodes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(50);

    fn time(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    #[test]
    fn a_node_is_silent_since_its_last_sign_whatever_its_clock_says() {
        let (mut signs, start) = (Signs::new(GRACE), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(signs.heard("n", time(900), None, start), Duration::ZERO);
        assert_eq!(signs.heard("n", time(900), None, after(30)).as_secs(), 30);
        assert_eq!(signs.heard("n", time(800), None, after(40)).as_secs(), 0, "set back, but renewed");
        assert_eq!(signs.heard("n", time(800), time(1), after(50)).as_secs(), 0, "a heartbeat is a sign too");
    }

    #[test]
    fn renewals_of_a_node_in_order_ask_for_no_look_until_it_changes_or_falls_silent() {
        let (mut signs, start) = (Signs::new(GRACE), Instant::now());
        let after = |seconds: u64| start + Duration::from_secs(seconds);
        signs.heard("n", time(1), None, start);
        assert!(!signs.renewed("n", time(2).unwrap(), start), "it was not looked at yet");
        signs.set_calm("n", 7);
        assert!(signs.renewed("n", time(10).unwrap(), after(10)));
        assert_eq!(signs.calm("n", 7, after(20)), Some(GRACE - Duration::from_secs(10)));
        assert_eq!(signs.calm("n", 8, after(20)), None, "it has changed");
        assert_eq!(signs.calm("n", 7, after(10) + GRACE), None, "it is silent");
        assert!(signs.renewed("n", time(10).unwrap(), after(30)));
        assert_eq!(signs.calm("n", 7, after(30)), Some(GRACE - Duration::from_secs(20)), "the same lease again is no sign");
        assert_eq!(signs.heard("n", time(10), None, after(10) + GRACE), GRACE);
        assert!(!signs.renewed("n", time(99).unwrap(), after(10) + GRACE), "from silence it is looked at");
        assert!(!signs.renewed("other", time(1).unwrap(), start));
    }
}
