//! On which nodes removing pods would make room for the pods of a class, kept from one preemption to the next.
//!
//! Like the ranking it belongs to, it looks again only at nodes that changed.

use crate::class::Class;
use crate::diagnosis::Histogram;
use crate::node::NodeId;
use crate::plugins::{Failure, Reason};
use crate::preempt::{self, Cost, Preemption};
use crate::profile::Profile;
use crate::state::State;
use std::collections::{BTreeMap, HashMap};

/// See the module.
pub struct Rooms {
    best: BTreeMap<(Cost, NodeId), Preemption>,
    costs: HashMap<NodeId, Cost>,
    reasons: HashMap<NodeId, Vec<Reason>>,
    why: Histogram,
    budgets: u64,
}

impl Rooms {
    /// Nothing looked at yet.
    pub fn new(state: &State) -> Self {
        Rooms {
            best: BTreeMap::new(),
            costs: HashMap::new(),
            reasons: HashMap::new(),
            why: Histogram::new(),
            budgets: state.owners.budget_changes(),
        }
    }

    /// Whether disruption budgets have changed since.
    pub fn is_stale(&self, state: &State) -> bool {
        self.budgets != state.owners.budget_changes()
    }

    /// The node has changed; `failure` says why it is no place as it is.
    pub fn look_at(&mut self, state: &State, profile: &Profile, class: &Class, node: NodeId, failure: Option<&Failure>) {
        self.forget(node);
        if failure.is_none_or(|f| f.unresolvable) {
            return;
        }
        match preempt::local_victims(state, profile, class, node) {
            Ok(candidate) => {
                let cost = preempt::cost(state, &candidate);
                self.costs.insert(node, cost.clone());
                self.best.insert((cost, node), candidate);
            }
            Err(reasons) => {
                reasons.iter().for_each(|r| *self.why.entry(r.clone()).or_insert(0) += 1);
                self.reasons.insert(node, reasons);
            }
        }
    }

    fn forget(&mut self, node: NodeId) {
        if let Some(cost) = self.costs.remove(&node) {
            self.best.remove(&(cost, node));
        }
        for reason in self.reasons.remove(&node).into_iter().flatten() {
            if let Some(nodes) = self.why.get_mut(&reason) {
                *nodes -= 1;
                if *nodes == 0 {
                    self.why.remove(&reason);
                }
            }
        }
    }

    /// The cheapest room.
    pub fn best(&self) -> Option<&Preemption> {
        self.best.first_key_value().map(|(_, room)| room)
    }

    /// Why no room can be made on the nodes where removing pods could have helped.
    pub fn why(&self) -> &Histogram {
        &self.why
    }
}
