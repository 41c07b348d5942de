//! How many processors each zone has, as the nodes tell it.
//!
//! Source: `k8s.io/endpointslice/topologycache` (`SetNodes`).

use super::hints::Ratios;
use ferrokube_api::quantity::Quantity;
use k8s_openapi::api::core::v1::Node;
use std::collections::{BTreeMap, HashMap};

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// Nodes that serve nobody.
const EXCLUDED: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Zone and processors of a ready node; without either it is unknown.
type Fact = Option<(String, i64)>;

/// Ready nodes and what they say. The sums are kept as nodes come and go: a cluster that grows by one node must not count
/// all of them anew.
#[derive(Debug, Default)]
pub(super) struct Topology {
    nodes: HashMap<String, Fact>,
    /// Nodes and processors of each zone.
    zones: BTreeMap<String, (usize, i64)>,
    /// Ready nodes that do not say enough.
    silent: usize,
    ratios: Option<Ratios>,
}

fn fact(node: &Node) -> Option<Fact> {
    let labels = node.metadata.labels.as_ref();
    let excluded = EXCLUDED.iter().any(|l| labels.is_some_and(|have| have.contains_key(*l)));
    let ready = crate::nodes::condition(node, "Ready").is_some_and(|c| c.status == "True");
    let zone = labels.and_then(|l| l.get(ZONE)).filter(|z| !z.is_empty());
    let cpu = node.status.as_ref().and_then(|s| s.allocatable.as_ref()?.get("cpu")).and_then(|q| Quantity::parse(&q.0).ok());
    let cpu = cpu.map(|q| q.milli_value()).filter(|n| *n > 0);
    (ready && !excluded).then(|| zone.cloned().zip(cpu))
}

impl Topology {
    /// A node is as this says, or gone; whether shares have changed.
    pub fn set(&mut self, name: &str, node: Option<&Node>) -> bool {
        let before = match node.and_then(fact) {
            Some(fact) => {
                let before = self.nodes.insert(name.to_owned(), fact);
                if before.as_ref() == self.nodes.get(name) {
                    return false;
                }
                before
            }
            None => self.nodes.remove(name),
        };
        if let Some(before) = &before {
            self.add(before, false);
        }
        if let Some(now) = self.nodes.get(name).cloned() {
            self.add(&now, true);
        }
        let ratios = self.shares();
        let changed = ratios != self.ratios;
        self.ratios = ratios;
        tracing::trace!(node = name, ?before, changed, "topology");
        changed
    }

    /// Counts a node in, or out.
    fn add(&mut self, fact: &Fact, comes: bool) {
        let Some((zone, cpu)) = fact else {
            self.silent = if comes { self.silent + 1 } else { self.silent.saturating_sub(1) };
            return;
        };
        let (nodes, sum) = self.zones.entry(zone.clone()).or_default();
        (*nodes, *sum) = if comes { (*nodes + 1, *sum + cpu) } else { (nodes.saturating_sub(1), *sum - cpu) };
        if *nodes == 0 {
            self.zones.remove(zone);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "milli processors")]
    fn shares(&self) -> Option<Ratios> {
        // One node that does not say makes the shares of all wrong.
        if self.silent > 0 || self.zones.len() < 2 {
            return None;
        }
        let total: i64 = self.zones.values().map(|(_, cpu)| cpu).sum();
        Some(self.zones.iter().map(|(zone, (_, cpu))| (zone.clone(), *cpu as f64 / total as f64)).collect())
    }

    /// Each zone's part of all processors.
    pub fn ratios(&self) -> Option<&Ratios> {
        self.ratios.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(labels: Value, cpu: &str, ready: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    #[test]
    fn shares_follow_ready_nodes_that_all_say_what_they_have() {
        let mut topology = Topology::default();
        let zone = |zone: &str| json!({ZONE: zone});
        topology.set("1", Some(&node(zone("a"), "3", "True")));
        assert_eq!(topology.ratios(), None, "one zone has no shares");
        assert!(topology.set("2", Some(&node(zone("b"), "1000m", "True"))));
        assert_eq!(topology.ratios().unwrap()["a"], 0.75);
        assert!(!topology.set("3", Some(&node(zone("b"), "9", "False"))), "a node that is not ready does not count");
        let control = json!({ZONE: "b", "node-role.kubernetes.io/control-plane": ""});
        assert!(!topology.set("4", Some(&node(control, "9", "True"))));
        assert!(topology.set("5", Some(&node(json!({}), "9", "True"))));
        assert_eq!(topology.ratios(), None, "one node without a zone");
        assert!(topology.set("5", None) && topology.ratios().is_some());
        assert!(topology.set("1", Some(&node(zone("b"), "3", "True"))), "it has moved");
        assert_eq!(topology.ratios(), None, "nobody is left in the first zone");
        assert!(topology.set("6", Some(&node(zone("a"), "4", "True"))));
        assert_eq!(topology.ratios().unwrap()["b"], 0.5);
    }
}
