//! NodeResourcesFit (filter, LeastAllocated) and NodeResourcesBalancedAllocation.

use super::{Failure, Plugin, Reason, Seat};
use crate::class::Class;
use crate::node::Node;
use smallvec::SmallVec;

/// What a pod asks for is free on the node, and there is room for one more pod.
pub fn filter(seat: &Seat<'_>) -> Option<Failure> {
    let (node, load, wanted) = (seat.node, seat.load, &seat.pre.class.requests);
    let mut reasons: SmallVec<[Reason; 1]> = SmallVec::new();
    let mut hopeless = false;
    if load.pods + 1 > node.max_pods {
        reasons.push("Too many pods".into());
    }
    let offered = &node.allocatable;
    let mut ask = |wanted: i64, offered: i64, used: i64, reason: &dyn Fn() -> Reason| {
        if wanted > 0 && wanted > offered - used {
            reasons.push(reason());
            hopeless |= wanted > offered;
        }
    };
    ask(wanted.milli_cpu, offered.milli_cpu, load.requested.milli_cpu, &|| "Insufficient cpu".into());
    ask(wanted.memory, offered.memory, load.requested.memory, &|| "Insufficient memory".into());
    ask(wanted.ephemeral, offered.ephemeral, load.requested.ephemeral, &|| "Insufficient ephemeral-storage".into());
    for (name, amount) in &wanted.scalars {
        let (offered, used) = (offered.scalar_amount(name), load.requested.scalar_amount(name));
        ask(*amount, offered, used, &|| format!("Insufficient {name}").into());
    }
    (!reasons.is_empty()).then_some(Failure { plugin: Plugin::NodeResourcesFit, reasons, unresolvable: hopeless })
}

/// `LeastAllocated` over cpu and memory, each with weight 1: the mean of what would remain, in percent.
pub fn least_allocated(class: &Class, node: &Node) -> i64 {
    let remaining = |capacity: i64, used: i64| if used > capacity { 0 } else { (capacity - used) * 100 / capacity };
    let columns = [
        (node.allocatable.milli_cpu, node.load.scoring.0 + class.scoring.0),
        (node.allocatable.memory, node.load.scoring.1 + class.scoring.1),
    ];
    let (mut sum, mut weights) = (0, 0);
    for (capacity, used) in columns.into_iter().filter(|(capacity, _)| *capacity != 0) {
        sum += remaining(capacity, used);
        weights += 1;
    }
    if weights == 0 { 0 } else { sum / weights }
}

/// How much more evenly cpu and memory are used with the pod than without it: 75 for no difference.
/// Best-effort pods make none, and score 0.
pub fn balanced(class: &Class, node: &Node) -> i64 {
    if class.requests.milli_cpu == 0 && class.requests.memory == 0 {
        return 0;
    }
    let used = &node.load.requested;
    let without = balance(node, used.milli_cpu, used.memory);
    let with = balance(node, used.milli_cpu + class.requests.milli_cpu, used.memory + class.requests.memory);
    50 + (50 + with - without) / 2
}

/// 100 when cpu and memory are used to the same degree, less by the deviation between them.
fn balance(node: &Node, milli_cpu: i64, memory: i64) -> i64 {
    let degree = |used: i64, capacity: i64| (used as f64 / capacity as f64).min(1.0);
    let offered = &node.allocatable;
    let deviation = match (offered.milli_cpu, offered.memory) {
        (0, _) | (_, 0) => 0.0,
        (cpu, bytes) => ((degree(milli_cpu, cpu) - degree(memory, bytes)) / 2.0).abs(),
    };
    ((1.0 - deviation) * 100.0) as i64
}
