//! NodeUnschedulable and TaintToleration.

use super::{Failure, Plugin, Seat};
use crate::class::{Class, Effect, Taint, Toleration};
use crate::node::Node;

const UNSCHEDULABLE: &str = "node(s) were unschedulable";
const UNTOLERATED: &str = "node(s) had untolerated taint(s)";
const KEY: &str = "node.kubernetes.io/unschedulable";

/// A cordoned node takes only pods that tolerate the taint of cordoned nodes.
pub fn unschedulable(seat: &Seat<'_>) -> Option<Failure> {
    if !seat.node.unschedulable {
        return None;
    }
    let taint = Taint { key: KEY.into(), value: Box::default(), effect: Effect::NoSchedule };
    let tolerated = seat.class.tolerations.iter().any(|t| t.tolerates(&taint));
    (!tolerated).then(|| Failure::unresolvable(Plugin::NodeUnschedulable, UNSCHEDULABLE))
}

/// A taint that repels must be tolerated.
pub fn filter(seat: &Seat<'_>) -> Option<Failure> {
    seat.class.untolerated(&seat.node.taints)?;
    Some(Failure::unresolvable(Plugin::TaintToleration, UNTOLERATED))
}

/// How many PreferNoSchedule taints of a node are not tolerated. Fewer is better.
pub fn intolerable(class: &Class, node: &Node) -> i64 {
    let soft = |t: &&Toleration| t.effect.is_none_or(|e| e == Effect::PreferNoSchedule);
    let tolerated = |taint: &Taint| class.tolerations.iter().filter(soft).any(|t| t.tolerates(taint));
    node.taints.iter().filter(|t| t.effect == Effect::PreferNoSchedule && !tolerated(t)).count() as i64
}
