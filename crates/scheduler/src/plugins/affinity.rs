//! NodeAffinity: node selector, required and preferred node affinity.

use super::{Failure, Plugin, Seat};
use crate::class::{Class, NodeTerm};
use crate::node::{Node, NodeId};
use crate::profile::Profile;
use crate::state::State;
use ferrokube_api::labels::Operator;

const MISMATCH: &str = "node(s) didn't match Pod's node affinity/selector";
const ENFORCED: &str = "node(s) didn't match scheduler-enforced node affinity";

/// Node selector and required terms must match.
pub fn filter(seat: &Seat<'_>) -> Option<Failure> {
    if seat.profile.added_required.as_ref().is_some_and(|terms| !terms.iter().any(|t| t.matches(seat.node))) {
        return Some(Failure::unresolvable(Plugin::NodeAffinity, ENFORCED));
    }
    (!seat.class.wants_node(seat.node)).then(|| Failure::unresolvable(Plugin::NodeAffinity, MISMATCH))
}

/// When every required term names its nodes (as those of a DaemonSet's pods do), no other node is looked at.
pub fn named_nodes(state: &State, class: &Class) -> Option<Vec<NodeId>> {
    let terms = class.node_required.as_ref().filter(|t| !t.is_empty())?;
    let mut nodes = Vec::new();
    for term in terms {
        let named = term.names.iter().find(|r| r.operator == Operator::In)?;
        nodes.extend(named.values.iter().filter_map(|name| state.node_named(name)));
    }
    nodes.sort_unstable();
    nodes.dedup();
    Some(nodes)
}

/// Sum of the weights of the preferred terms that match.
pub fn preferred(profile: &Profile, class: &Class, node: &Node) -> i64 {
    let matching = |(weight, term): &(i64, NodeTerm)| if term.matches(node) { *weight } else { 0 };
    class.node_preferred.iter().chain(&profile.added_preferred).map(matching).sum()
}
