//! NodePorts: a host port is free on the node.

use super::{Failure, Plugin, Seat};

const TAKEN: &str = "node(s) didn't have free ports for the requested pod ports";

/// No wanted port conflicts with one in use.
pub fn filter(seat: &Seat<'_>) -> Option<Failure> {
    let taken = seat.class.ports.iter().any(|wanted| seat.load.ports.iter().any(|used| wanted.conflicts(used)));
    taken.then(|| Failure::new(Plugin::NodePorts, TAKEN))
}
