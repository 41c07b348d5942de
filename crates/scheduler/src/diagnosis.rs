//! Why a pod goes nowhere, and the sentence that says so (framework `FitError`).

use crate::node::NodeId;
use crate::plugins::{Failure, Plugin, Reason};
use std::collections::BTreeMap;

/// Reasons with the number of nodes that each holds for.
pub type Histogram = BTreeMap<Reason, usize>;

/// What was found while no node was.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    nodes: usize,
    /// What holds before any node is looked at.
    before: Option<Failure>,
    reasons: Histogram,
    looked_at: usize,
    /// Nodes that removing pods may open.
    pub resolvable: Vec<NodeId>,
    /// Bits of the plugins that said no.
    pub plugins: u32,
    /// What preemption said, when it was tried.
    pub preemption: Option<String>,
    /// What the dynamic resources plugin said before that; it says this when it has nothing to give back.
    pub claims: Option<&'static str>,
}

impl Diagnosis {
    /// Nothing found yet, among this many nodes.
    pub fn new(nodes: usize) -> Self {
        Diagnosis { nodes, ..Self::default() }
    }

    /// There is no node at all.
    pub fn no_nodes() -> Self {
        Self::default()
    }

    /// No node can do, whatever it is like.
    pub fn before_nodes(nodes: usize, failure: Failure) -> Self {
        Diagnosis { nodes, plugins: failure.plugin.bit(), before: Some(failure), ..Self::default() }
    }

    /// A node said no.
    pub fn note(&mut self, node: NodeId, failure: Failure) {
        self.looked_at += 1;
        self.plugins |= failure.plugin.bit();
        if !failure.unresolvable {
            self.resolvable.push(node);
        }
        for reason in failure.reasons {
            *self.reasons.entry(reason).or_insert(0) += 1;
        }
    }

    /// So many nodes said no in the same way; those that removing pods may open are added to `resolvable` apart.
    pub fn note_many(&mut self, failure: &Failure, nodes: usize) {
        self.looked_at += nodes;
        self.plugins |= failure.plugin.bit();
        for reason in &failure.reasons {
            *self.reasons.entry(reason.clone()).or_insert(0) += nodes;
        }
    }

    /// An extender said no about a node. Nobody knows what would change its mind, so anything may.
    pub fn note_extender(&mut self, node: NodeId, reason: String, unresolvable: bool) {
        self.looked_at += 1;
        self.plugins = u32::MAX;
        if !unresolvable {
            self.resolvable.push(node);
        }
        *self.reasons.entry(reason.into()).or_insert(0) += 1;
    }

    /// Whether every node has said no.
    pub fn is_complete(&self) -> bool {
        self.looked_at == self.nodes
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// The message of the event and of the condition.
    pub fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut text = match &self.before {
            Some(failure) => format!("0/{} nodes are available: {}.", self.nodes, failure.reasons.join(", ")),
            None => {
                let mut reasons = self.reasons.clone();
                let absent = self.nodes.saturating_sub(self.looked_at);
                if absent > 0 {
                    *reasons.entry("node(s) didn't satisfy plugin(s) [NodeAffinity]".into()).or_insert(0) += absent;
                }
                sentence(self.nodes, &reasons)
            }
        };
        if let Some(preemption) = &self.preemption {
            let claims = self.claims.unwrap_or("no new claims to deallocate");
            text.push_str(&format!(" {claims}, preemption: {preemption}"));
        }
        text
    }

    /// The bits of plugins, with those that stand for nodes never looked at.
    pub fn rejectors(&self) -> u32 {
        let absent = self.before.is_none() && self.looked_at < self.nodes;
        self.plugins | if absent { Plugin::NodeAffinity.bit() } else { 0 }
    }
}

/// `0/3 nodes are available: 1 x, 2 y.`, sorted as text, numbers included.
pub fn sentence(nodes: usize, reasons: &Histogram) -> String {
    let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort_unstable();
    if parts.is_empty() {
        return format!("0/{nodes} nodes are available:");
    }
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}
