//! The workloads of scheduler_perf as a table, in the sizes of its performance tests.

mod devices;
mod events;

use super::script::{Act, Many, Pods, Sizes, Stage, Workload};
use super::templates::*;
use serde_json::Value;
use std::time::Duration;

/// Nodes that need nothing beside them.
const fn nodes(of: fn(usize) -> Value) -> Act {
    Act::Nodes { many: Many::Nodes, of, with: nothing }
}

fn nothing(_: &Value) -> Vec<Thing> {
    Vec::new()
}

/// Things that are there once.
const fn once(of: fn(usize) -> Vec<Thing>) -> Act {
    Act::Things { many: Many::Just(1), of }
}

/// Pods that are there before.
const fn init(of: fn(usize) -> Value) -> Act {
    Act::Pods(Pods { many: Many::Init, of, with: nothing, group: "init", wait: Some(Stage::Bound), measured: false })
}

/// Pods that are measured.
const fn measured(of: fn(usize) -> Value) -> Act {
    Act::Pods(Pods { many: Many::Pods, of, with: nothing, group: "measured", wait: Some(Stage::Bound), measured: true })
}

/// With something that comes with each pod or node.
const fn with(act: Act, with: fn(&Value) -> Vec<Thing>) -> Act {
    match act {
        Act::Nodes { many, of, .. } => Act::Nodes { many, of, with },
        Act::Pods(pods) => Act::Pods(Pods { with, ..pods }),
        other => other,
    }
}

/// Pods that nobody waits for, in a group of their own.
const fn left(act: Act, group: &'static str) -> Act {
    match act {
        Act::Pods(pods) => Act::Pods(Pods { group, wait: None, ..pods }),
        other => other,
    }
}

fn workload(name: &'static str, threshold: Option<u32>, sizes: (usize, usize, usize), acts: Vec<Act>) -> Workload {
    let sizes = Sizes { nodes: sizes.0, init: sizes.1, pods: sizes.2 };
    Workload { name, threshold, sizes, namespaces: two_namespaces, acts, configuration: None }
}

/// Nodes, pods that are there before, pods that are measured.
fn plain_row(
    name: &'static str,
    threshold: u32,
    sizes: (usize, usize, usize),
    node: fn(usize) -> Value,
    before: fn(usize) -> Value,
    pod: fn(usize) -> Value,
) -> Workload {
    workload(name, Some(threshold), sizes, vec![nodes(node), init(before), measured(pod)])
}

fn of_teams(workload: Workload) -> Workload {
    Workload { namespaces: team_namespaces, ..workload }
}

/// The table.
pub(in super::super) fn all() -> Vec<Workload> {
    let mut all = affinity();
    all.extend(spreading());
    all.extend(rest());
    all.extend(volumes());
    all.extend(devices::all());
    all.extend(events::all());
    all
}

fn affinity() -> Vec<Workload> {
    let large = (5000, 5000, 5000);
    let mixed = [init_plain, init_together, init_apart, init_rather_together, init_rather_apart].map(init);
    vec![
        plain_row("SchedulingPodAntiAffinity", 60, (5000, 1000, 2000), node, init_apart, apart),
        plain_row("SchedulingPodMatchingAntiAffinity", 600, (5000, 1000, 5000), node, init_apart, unwanted),
        plain_row("SchedulingPodAffinity", 35, large, node_of_one_zone, init_together, together),
        plain_row("SchedulingPreferredPodAffinity", 90, large, node, init_rather_together, rather_together),
        plain_row("SchedulingPreferredPodAntiAffinity", 90, large, node, init_rather_apart, rather_apart),
        plain_row("SchedulingNodeAffinity", 220, (5000, 5000, 10_000), node, init_plain, in_zones),
        workload(
            "MixedSchedulingBasePod",
            Some(140),
            (5000, 2000, 5000),
            [nodes(node_of_one_zone)].into_iter().chain(mixed).chain([measured(measured_plain)]).collect(),
        ),
        of_teams(plain_row("SchedulingRequiredPodAntiAffinityWithNSSelector", 24, (6000, 4000, 2000), node, init_team_apart, team_apart)),
        of_teams(plain_row(
            "SchedulingPreferredAntiAffinityWithNSSelector",
            55,
            (5000, 4000, 2000),
            node,
            init_team_rather_apart,
            team_rather_apart,
        )),
        of_teams(plain_row(
            "SchedulingRequiredPodAffinityWithNSSelector",
            35,
            (5000, 5000, 2000),
            node_of_one_zone,
            init_team_together,
            team_together,
        )),
        of_teams(plain_row("SchedulingPreferredAffinityWithNSSelector", 90, large, node, init_team_rather_together, team_rather_together)),
        workload(
            "SchedulingGatedPodsWithPodAffinityImpactForThroughput",
            Some(110),
            (1, 10_000, 20_000),
            vec![nodes(large_node), left(init(gated_together), "gated"), Act::Until(Stage::Tried, "gated"), measured(measured_light)],
        ),
    ]
}

fn spreading() -> Vec<Workload> {
    let large = (5000, 5000, 5000);
    vec![
        plain_row("TopologySpreading", 85, large, node, init_plain, spread_zones),
        plain_row("PreferredTopologySpreading", 125, large, node, init_plain, rather_spread_zones),
        workload(
            "DefaultTopologySpreading",
            None,
            (5000, 5000, 10_000),
            vec![nodes(node), once(service), init(init_plain), measured(measured_plain)],
        ),
        workload(
            "SchedulingWithNodeInclusionPolicy",
            Some(68),
            (5000, 0, 4000),
            vec![nodes(node_maybe_tainted), measured(spread_hosts_by_taints)],
        ),
    ]
}

fn rest() -> Vec<Workload> {
    let often = Duration::from_millis(200);
    let features = |name, node| {
        workload(name, None, (5000, 5000, 5000), vec![nodes(node), init(init_asking_as_a_pod), measured(measured_asking_as_a_pod)])
    };
    vec![
        plain_row("SchedulingBasic", 270, (5000, 1000, 10_000), node, init_plain, measured_plain),
        workload(
            "SchedulingDaemonset",
            Some(390),
            (15_000, 0, 30_000),
            vec![Act::Nodes { many: Many::Just(1), of: large_node, with: nothing }, nodes(node), measured(on_first_node)],
        ),
        workload("PreemptionBasic", None, (1000, 4000, 1000), vec![nodes(node), once(priority), init(low), measured(high)]),
        workload(
            "PreemptionAsync",
            Some(160),
            (5000, 20_000, 5000),
            vec![
                nodes(node),
                once(priority),
                init(low),
                Act::Churn { every: often, of: coming_high, again: false },
                measured(measured_plain),
            ],
        ),
        workload(
            "Unschedulable",
            Some(170),
            (5000, 100, 10_000),
            vec![
                nodes(node),
                once(priority),
                init(init_plain),
                Act::Churn { every: often, of: coming_too_large, again: false },
                measured(measured_plain),
            ],
        ),
        workload(
            "SchedulingWithMixedChurn",
            Some(265),
            (5000, 0, 10_000),
            vec![
                nodes(node),
                once(priority),
                Act::Churn { every: Duration::from_secs(1), of: coming_and_going, again: true },
                measured(measured_plain),
            ],
        ),
        workload(
            "SchedulingWhileGated",
            Some(130),
            (1, 10_000, 20_000),
            vec![
                nodes(large_node),
                left(init(gated), "gated"),
                Act::Until(Stage::Tried, "gated"),
                Act::Pods(Pods {
                    many: Many::Pods,
                    of: init_light,
                    with: nothing,
                    group: "leaving",
                    wait: Some(Stage::Bound),
                    measured: false,
                }),
                Act::Delete { group: "leaving", rate: 50 },
                measured(measured_light),
            ],
        ),
        workload(
            "SchedulingDeletedPodsWithFinalizers",
            None,
            (5000, 5000, 5000),
            vec![nodes(node), left(init(with_finalizer), "leaving"), Act::Delete { group: "leaving", rate: 100 }, measured(measured_light)],
        ),
        workload("SchedulingWithExtendedResource", None, (5000, 0, 5000), vec![nodes(node_with_own_resource), measured(with_own_resource)]),
        features("NodeDeclaredFeaturesEnabled/20", node_with_20_features),
        features("NodeDeclaredFeaturesEnabled/100", node_with_100_features),
    ]
}

fn volumes() -> Vec<Workload> {
    let large = (5000, 5000, 5000);
    let claims = |name, threshold, sizes, nodes: Act, volume| {
        workload(name, threshold, sizes, vec![nodes, with(init(init_with_claim), volume), with(measured(pod_with_claim), volume)])
    };
    vec![
        plain_row("SchedulingSecrets", 260, (5000, 1000, 10_000), node, init_plain, with_secret),
        claims("SchedulingInTreePVs", Some(90), (5000, 1000, 2000), nodes(node), disk_volume),
        claims("SchedulingMigratedInTreePVs", Some(35), large, with(nodes(node), csi_node), disk_volume),
        claims("SchedulingCSIPVs", Some(48), large, with(nodes(node), csi_node), csi_volume),
        workload(
            "PreemptionPVs",
            None,
            (1000, 4000, 1000),
            vec![nodes(node), once(priority), init(low), with(measured(high_with_claim), disk_volume)],
        ),
    ]
}
