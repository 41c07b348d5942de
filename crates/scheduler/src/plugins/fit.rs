//! NodeResourcesFit (filter, scoring strategies) and NodeResourcesBalancedAllocation.

use super::{Failure, Plugin, Reason, Seat};
use crate::class::Class;
use crate::devices::Devices;
use crate::node::Node;
use crate::profile::{Profile, Strategy};
use smallvec::SmallVec;

/// What a pod asks for is free on the node, and there is room for one more pod.
pub fn filter(seat: &Seat<'_>) -> Option<Failure> {
    filter_but(seat, |_| false)
}

/// The same, but for resources that come from devices there.
pub fn filter_but(seat: &Seat<'_>, devices: impl Fn(&str) -> bool) -> Option<Failure> {
    let (node, load, wanted) = (seat.node, seat.load, &seat.class.requests);
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
    for (name, amount) in wanted.scalars.iter().filter(|(name, _)| !ignored(seat.profile, name) && !devices(name)) {
        let (offered, used) = (offered.scalar_amount(name), load.requested.scalar_amount(name));
        ask(*amount, offered, used, &|| format!("Insufficient {name}").into());
    }
    (!reasons.is_empty()).then_some(Failure { plugin: Plugin::NodeResourcesFit, reasons, unresolvable: hopeless })
}

/// Extended resources that the profile (or an extender) says to leave alone.
fn ignored(profile: &Profile, name: &str) -> bool {
    let group = name.split_once('/').map(|(group, _)| group);
    profile.ignored_resources.iter().any(|r| **r == *name) || profile.ignored_groups.iter().any(|g| group == Some(g))
}

/// What a node has of a resource, and what of it is in use with the pod; `None`: the resource does not count here. Of one that the node
/// does not offer itself it has the devices that stand for it (`DRAExtendedResource`).
fn with_pod(devices: &Devices, class: &Class, node: &Node, name: &str, used: (i64, i64), asked: (i64, i64)) -> Option<(i64, i64)> {
    let (capacity, in_use) = match name {
        "cpu" => (node.allocatable.milli_cpu, used.0 + asked.0),
        "memory" => (node.allocatable.memory, used.1 + asked.1),
        "ephemeral-storage" => (node.allocatable.ephemeral, node.load.requested.ephemeral + class.requests.ephemeral),
        _ => match class.requests.scalar_amount(name) {
            0 => return None,
            asked => match devices.standing_for(name, node) {
                Some((all, taken)) => (all, taken + asked),
                None => (node.allocatable.scalar_amount(name), node.load.requested.scalar_amount(name) + asked),
            },
        },
    };
    (capacity != 0).then_some((capacity, in_use))
}

/// The score of NodeResourcesFit, 0 to 100: the weighted mean over the resources of the profile.
pub fn score(devices: &Devices, profile: &Profile, class: &Class, node: &Node) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (name, weight) in &profile.fit {
        let Some((capacity, used)) = with_pod(devices, class, node, name, node.load.scoring, class.scoring) else { continue };
        let score = match &profile.strategy {
            Strategy::Least => (capacity - used).max(0) * 100 / capacity,
            Strategy::Most => used.min(capacity) * 100 / capacity,
            Strategy::Ratio(shape) => ratio(shape, if used > capacity { 100 } else { used * 100 / capacity }),
        };
        if score > 0 || !matches!(profile.strategy, Strategy::Ratio(_)) {
            sum += score * weight;
            weights += weight;
        }
    }
    match (&profile.strategy, weights) {
        (_, 0) => 0,
        (Strategy::Ratio(_), _) => (sum as f64 / weights as f64).round() as i64,
        _ => sum / weights,
    }
}

/// The value of a line through points at `used` percent; points score from 0 to 10, the result from 0 to 100.
fn ratio(shape: &[(i64, i64)], used: i64) -> i64 {
    let Some(after) = shape.iter().position(|(at, _)| used <= *at) else {
        return shape.last().map_or(0, |(_, score)| score * 10);
    };
    let (at, score) = shape[after];
    let Some((before, from)) = after.checked_sub(1).map(|i| shape[i]) else { return score * 10 };
    from * 10 + (score - from) * 10 * (used - before) / (at - before)
}

/// Whether a pod asks for any of the resources that are to be balanced; one that does not makes no difference anywhere.
pub(crate) fn uses_balanced(profile: &Profile, class: &Class) -> bool {
    profile.balanced.iter().any(|name| class.requests.amount(name) != 0)
}

/// How much more evenly resources are used with the pod than without it: 75 for no difference.
/// Best-effort pods make none, and score 0.
pub fn balanced(devices: &Devices, profile: &Profile, class: &Class, node: &Node) -> i64 {
    if !uses_balanced(profile, class) {
        return 0;
    }
    let (without, with) = (balance(devices, profile, class, node, false), balance(devices, profile, class, node, true));
    50 + (50 + with - without) / 2
}

/// 100 when the resources are used to the same degree, with the pod or without it, less by the deviation between them.
fn balance(devices: &Devices, profile: &Profile, class: &Class, node: &Node, with: bool) -> i64 {
    let used = (node.load.requested.milli_cpu, node.load.requested.memory);
    let asked = (class.requests.milli_cpu, class.requests.memory);
    let degree = |name: &Box<str>| {
        let (capacity, mut in_use) = with_pod(devices, class, node, name, used, asked)?;
        if !with {
            in_use -= class.requests.amount(name);
        }
        Some((in_use as f64 / capacity as f64).min(1.0))
    };
    let degrees: SmallVec<[f64; 4]> = profile.balanced.iter().filter_map(degree).collect();
    let deviation = match degrees.as_slice() {
        [] | [_] => 0.0,
        [a, b] => ((a - b) / 2.0).abs(),
        many => {
            let mean = many.iter().sum::<f64>() / many.len() as f64;
            (many.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / many.len() as f64).sqrt()
        }
    };
    ((1.0 - deviation) * 100.0) as i64
}
