//! Which domain of a topology key each node is in, as small numbers, so that counts per domain are plain columns.

use crate::node::NodeId;
use std::collections::HashMap;

/// The well-known key of a node's own name.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The well-known key of zones.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// The domains of one key.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// By node: the number of its domain, 0 when it has none.
    of_node: Vec<u32>,
    numbers: HashMap<Box<str>, (u32, u32)>,
    free: Vec<u32>,
    names: Vec<Box<str>>,
    /// Domains with more than one node.
    crowded: usize,
}

impl Topology {
    /// The domain of a node.
    pub fn domain(&self, node: NodeId) -> Option<usize> {
        self.of_node.get(node as usize).copied().filter(|d| *d != 0).map(|d| d as usize - 1)
    }

    /// One more than the largest domain number.
    pub fn size(&self) -> usize {
        self.names.len()
    }

    /// Whether every node with a domain has it for itself, as with host names.
    pub fn is_unique(&self) -> bool {
        self.crowded == 0
    }

    /// Says in which domain a node is now.
    pub fn set(&mut self, node: NodeId, value: Option<&str>) {
        let at = node as usize;
        if self.of_node.len() <= at {
            self.of_node.resize(at + 1, 0);
        }
        self.leave(at);
        let Some(value) = value else { return };
        if let Some((number, nodes)) = self.numbers.get_mut(value) {
            *nodes += 1;
            self.crowded += usize::from(*nodes == 2);
            self.of_node[at] = *number;
            return;
        }
        let number = self.free.pop().unwrap_or_else(|| {
            self.names.push(Box::default());
            self.names.len() as u32
        });
        self.names[number as usize - 1] = value.into();
        self.numbers.insert(value.into(), (number, 1));
        self.of_node[at] = number;
    }

    fn leave(&mut self, at: usize) {
        let number = std::mem::take(&mut self.of_node[at]);
        if number == 0 {
            return;
        }
        let name = &self.names[number as usize - 1];
        if let Some((_, nodes)) = self.numbers.get_mut(name) {
            *nodes -= 1;
            self.crowded -= usize::from(*nodes == 1);
            if *nodes == 0 {
                self.numbers.remove(name);
                self.free.push(number);
            }
        }
    }
}
