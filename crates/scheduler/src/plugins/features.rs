//! NodeDeclaredFeatures: the kubelet of the node can do what the pod needs of it (`status.declaredFeatures`).

use super::{Failure, Plugin, Seat};

/// Every feature that the pod needs is declared by the node.
pub fn filter(seat: &Seat<'_>) -> Option<Failure> {
    let declared = |f: &&&str| seat.node.features.binary_search_by(|d| (**d).cmp(**f)).is_err();
    let missing: Vec<&str> = seat.class.features.iter().filter(declared).copied().collect();
    if missing.is_empty() {
        return None;
    }
    let reason = format!("node declared features check failed - unsatisfied requirements: {}", missing.join(", "));
    Some(Failure::unresolvable(Plugin::NodeDeclaredFeatures, reason))
}
