//! What changed of nodes and of the pods on them, for those who keep results from one decision to the next.
//!
//! A reader notes how far it has read. One that has fallen behind what is kept must begin again from the state itself,
//! which costs no more than catching up would have.

use crate::class::Class;
use crate::node::NodeId;
use std::collections::VecDeque;
use std::sync::Arc;

/// Kept however few nodes there are.
const LEAST: usize = 1024;

/// One change.
#[derive(Clone, Debug)]
pub enum Event {
    /// Pods of a class came to a node, or went.
    Pods {
        /// Where.
        node: NodeId,
        /// Of which class.
        class: Arc<Class>,
        /// How many came; fewer than 0: went.
        pods: i64,
        /// How many of them are not being deleted.
        staying: i64,
    },
    /// The node itself is another.
    Node {
        /// Which.
        node: NodeId,
        /// It came, went, or has other labels or taints.
        facts: bool,
    },
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    events: VecDeque<Event>,
    dropped: u64,
}

impl Journal {
    /// Notes a change, in a cluster of so many nodes.
    pub fn note(&mut self, event: Event, nodes: usize) {
        while self.events.len() >= LEAST.max(nodes) {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(event);
    }

    /// How many changes there have been.
    pub fn end(&self) -> u64 {
        self.dropped + self.events.len() as u64
    }

    /// The changes after the first `seen`; `None`: some of them are not kept.
    pub fn since(&self, seen: u64) -> Option<impl Iterator<Item = &Event>> {
        let skip = usize::try_from(seen.checked_sub(self.dropped)?).ok()?;
        Some(self.events.range(skip.min(self.events.len())..))
    }
}
