//! How fast nodes may be declared lost: by zone, and not at all while nothing can be heard from anywhere. Pure but for what
//! it remembers.
//!
//! When every zone is silent it is this controller that is cut off, not the nodes. Source:
//! `pkg/controller/nodelifecycle/node_lifecycle_controller.go` (`handleDisruption`).

use crate::settings::NodeHealth;
use ferrokube_client::metrics::{Desc, Kind, Metrics};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

static ZONE_HEALTH: Desc = Desc {
    name: "node_collector_zone_health",
    help: "[ALPHA] Gauge measuring percentage of healthy nodes per zone.",
    kind: Kind::Gauge,
    labels: &["zone"],
};
static ZONE_SIZE: Desc = Desc {
    name: "node_collector_zone_size",
    help: "[ALPHA] Gauge measuring number of registered Nodes per zones.",
    kind: Kind::Gauge,
    labels: &["zone"],
};
static UNHEALTHY: Desc = Desc {
    name: "node_collector_unhealthy_nodes_in_zone",
    help: "[ALPHA] Gauge measuring number of not Ready Nodes per zones.",
    kind: Kind::Gauge,
    labels: &["zone"],
};
/// Nodes that were given a taint that evicts.
pub static EVICTIONS: Desc = Desc {
    name: "node_collector_evictions_total",
    help: "[STABLE] Number of Node evictions that happened since current instance of NodeController started.",
    kind: Kind::Counter,
    labels: &["zone"],
};

/// What decides about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// Region and zone in one word.
    pub zone: String,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// Whether it counts (label `node.kubernetes.io/exclude-disruption`).
    pub counts: bool,
}

/// State of a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Normal,
    /// Much of more than two nodes is silent.
    Partial,
    /// All are.
    Full,
}

impl State {
    fn of(ready: usize, silent: usize, rules: &NodeHealth) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "numbers of nodes")]
        let share = silent as f64 / (ready + silent) as f64;
        if ready == 0 && silent > 0 {
            State::Full
        } else if silent > 2 && share >= rules.unhealthy_share {
            State::Partial
        } else {
            State::Normal
        }
    }

    /// Time between two evictions in a zone of this size; `None`: nobody is evicted.
    fn pause(self, size: usize, rules: &NodeHealth) -> Option<Duration> {
        let rate = match self {
            State::Normal | State::Full => rules.eviction_rate,
            State::Partial if size > rules.large_zone => rules.secondary_eviction_rate,
            State::Partial => return None,
        };
        // None at all for a rate of zero.
        Duration::try_from_secs_f64(1.0 / rate).ok()
    }
}

/// What a change of a node means for others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Zones in which the pace has changed.
    pub zones: Vec<String>,
    /// Everything fell silent (`true`), or something is heard again (`false`).
    pub all_silent: Option<bool>,
}

#[derive(Debug, Default)]
struct Zone {
    ready: usize,
    silent: usize,
    last_eviction: Option<Instant>,
}

impl Zone {
    fn state(&self, rules: &NodeHealth) -> State {
        State::of(self.ready, self.silent, rules)
    }

    fn pause(&self, rules: &NodeHealth) -> Option<Duration> {
        self.state(rules).pause(self.ready + self.silent, rules)
    }

    fn count(&mut self, fact: &Fact, by: isize) {
        let side = if fact.ready { &mut self.ready } else { &mut self.silent };
        *side = side.saturating_add_signed(by);
    }
}

/// The zones and their nodes.
#[derive(Debug, Default)]
pub struct Zones {
    nodes: HashMap<String, Fact>,
    zones: BTreeMap<String, Zone>,
    rules: NodeHealth,
}

impl Zones {
    /// No nodes yet.
    pub fn new(rules: NodeHealth) -> Self {
        Zones { rules, ..Zones::default() }
    }

    /// Whether there are nodes and none of them is ready.
    pub fn all_silent(&self) -> bool {
        let mut counted = self.zones.values().filter(|z| z.ready + z.silent > 0).peekable();
        counted.peek().is_some() && counted.all(|z| z.state(&self.rules) == State::Full)
    }

    fn paces(&self) -> BTreeMap<String, (State, Option<Duration>)> {
        self.zones.iter().map(|(name, z)| (name.clone(), (z.state(&self.rules), z.pause(&self.rules)))).collect()
    }

    /// A node is as this says now, or gone.
    pub fn set(&mut self, node: &str, fact: Option<Fact>) -> Turn {
        if self.nodes.get(node) == fact.as_ref() {
            return Turn::default();
        }
        let (before, was_silent) = (self.paces(), self.all_silent());
        let known = match fact.clone() {
            Some(fact) => self.nodes.insert(node.to_owned(), fact),
            None => self.nodes.remove(node),
        };
        for (fact, by) in [(known, -1), (fact, 1)] {
            if let Some(fact) = fact.filter(|f| f.counts) {
                self.zones.entry(fact.zone.clone()).or_default().count(&fact, by);
            }
        }
        let silent = self.all_silent();
        let changed = |(name, pace): &(String, (State, Option<Duration>))| before.get(name).is_some_and(|b| b != pace);
        Turn {
            zones: self.paces().into_iter().filter(changed).map(|(name, _)| name).collect(),
            all_silent: (silent != was_silent).then_some(silent),
        }
    }

    /// Nodes of a zone that are not ready.
    pub fn silent_in(&self, zone: &str) -> Vec<String> {
        self.nodes.iter().filter(|(_, f)| f.zone == zone && !f.ready).map(|(name, _)| name.clone()).collect()
    }

    /// All nodes.
    pub fn names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Takes the zone's turn to evict a node. Else how long to wait; without a time, until the zone changes.
    pub fn may_evict(&mut self, zone: &str, now: Instant) -> Result<(), Option<Duration>> {
        if self.all_silent() {
            return Err(None);
        }
        let zone = self.zones.entry(zone.to_owned()).or_default();
        let pause = zone.pause(&self.rules).ok_or(None)?;
        match zone.last_eviction.map(|at| at + pause).filter(|at| *at > now) {
            Some(at) => Err(Some(at - now)),
            None => {
                zone.last_eviction = Some(now);
                Ok(())
            }
        }
    }

    /// Shows sizes and health.
    pub fn measure(&self, metrics: &Metrics) {
        #[allow(clippy::cast_precision_loss, reason = "numbers of nodes")]
        for (name, zone) in &self.zones {
            let (size, silent) = ((zone.ready + zone.silent) as f64, zone.silent as f64);
            metrics.series(&ZONE_SIZE, &[name]).set(size);
            metrics.series(&UNHEALTHY, &[name]).set(silent);
            metrics.series(&ZONE_HEALTH, &[name]).set(if size > 0.0 { 100.0 * (size - silent) / size } else { 100.0 });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn fill(zones: &mut Zones, zone: &str, ready: usize, silent: usize) {
        for at in 0..ready + silent {
            zones.set(&format!("{zone}-{at}"), Some(Fact { zone: zone.into(), ready: at < ready, counts: true }));
        }
    }

    #[test]
    fn a_zone_is_disrupted_in_part_or_as_a_whole() {
        let cases = [
            (1, 0, State::Normal),
            (1, 2, State::Normal),
            (3, 3, State::Normal),
            (2, 3, State::Partial),
            (9, 11, State::Partial),
            (0, 1, State::Full),
            (0, 0, State::Normal),
        ];
        for (ready, silent, expected) in cases {
            assert_eq!(State::of(ready, silent, &NodeHealth::default()), expected, "{ready} {silent}");
        }
        let pause = |state: State, size| state.pause(size, &NodeHealth::default());
        assert_eq!(pause(State::Partial, 50), None);
        assert_eq!(pause(State::Partial, 51), Some(Duration::from_secs(100)));
        assert_eq!(pause(State::Full, 3), Some(PAUSE), "one silent zone of several is given up");
    }

    #[test]
    fn thresholds_and_rates_are_as_the_flags_say() {
        let rules =
            NodeHealth { eviction_rate: 0.5, secondary_eviction_rate: 0.0, large_zone: 3, unhealthy_share: 0.9, ..NodeHealth::default() };
        assert_eq!(State::of(2, 3, &rules), State::Normal);
        assert_eq!(State::Normal.pause(5, &rules), Some(Duration::from_secs(2)));
        assert_eq!(State::Partial.pause(5, &rules), None, "a rate of zero evicts nobody");
    }

    #[tokio::test(start_paused = true)]
    async fn each_zone_evicts_at_its_own_pace() {
        let mut zones = Zones::default();
        fill(&mut zones, "a", 5, 1);
        fill(&mut zones, "b", 0, 4);
        fill(&mut zones, "c", 2, 3);
        let now = Instant::now();
        assert_eq!(zones.may_evict("a", now), Ok(()));
        assert_eq!(zones.may_evict("a", now), Err(Some(PAUSE)));
        assert_eq!(zones.may_evict("b", now), Ok(()), "the other zone has its own turn");
        assert_eq!(zones.may_evict("c", now), Err(None), "a small zone in trouble evicts nobody");
        assert_eq!(zones.may_evict("a", now + PAUSE), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_evicted_while_nothing_is_heard() {
        let mut zones = Zones::default();
        fill(&mut zones, "a", 1, 1);
        fill(&mut zones, "b", 0, 1);
        let lost = zones.set("a-0", Some(Fact { zone: "a".into(), ready: false, counts: true }));
        assert_eq!((lost.all_silent, zones.may_evict("b", Instant::now())), (Some(true), Err(None)));
        let found = zones.set("a-1", Some(Fact { zone: "a".into(), ready: true, counts: true }));
        assert_eq!((found.all_silent, found.zones), (Some(false), vec!["a".to_owned()]));
        assert_eq!(zones.may_evict("b", Instant::now()), Ok(()));
    }

    #[test]
    fn excluded_nodes_do_not_count_and_gone_ones_no_longer() {
        let mut zones = Zones::default();
        fill(&mut zones, "a", 1, 0);
        zones.set("x", Some(Fact { zone: "a".into(), ready: false, counts: false }));
        zones.set("a-0", None);
        assert!(!zones.all_silent(), "there is no node that counts");
        assert_eq!(zones.silent_in("a"), ["x"]);
    }
}
