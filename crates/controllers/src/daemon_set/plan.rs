//! Which pods of a daemon set are made, deleted and replaced: pure.
//!
//! Source: `pkg/controller/daemon/daemon_controller.go`, `update.go`.

use crate::nodes::{repelled, selected};
use crate::pods::{self, availability};
use crate::revisions::HASH;
use ferrokube_client::Named;
use ferrokube_client::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

/// Most pods made or deleted in one round.
const BURST: usize = 250;
/// Annotation of the set and label of its pods from before there were revisions.
pub const GENERATION: &str = "deprecated.daemonset.template.generation";

/// What is known.
pub struct View<'a> {
    pub set: &'a DaemonSet,
    pub nodes: &'a [Node],
    pub pods: &'a [Pod],
    /// Hash of the present template.
    pub hash: &'a str,
    /// Nodes on which a pod failed lately, and how much longer that one is left alone.
    pub waits: &'a HashMap<String, Duration>,
    pub now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Names of nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Pod>,
    /// Kind, reason and message.
    pub events: Vec<(EventType, &'static str, String)>,
    /// Nodes whose failed pod is replaced now.
    pub failed: Vec<String>,
    /// When to look again at those that are left alone.
    pub again: Option<Duration>,
}

/// Taints that every daemon pod tolerates; the last one only with the host's network.
const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// Adds what every daemon pod tolerates.
pub fn tolerate(spec: &mut PodSpec) {
    let rows = if spec.host_network == Some(true) { &TOLERATED[..] } else { &TOLERATED[..6] };
    let list = spec.tolerations.get_or_insert_default();
    for (key, effect) in rows {
        let toleration = Toleration {
            key: Some((*key).into()),
            operator: Some("Exists".into()),
            effect: Some((*effect).into()),
            ..Toleration::default()
        };
        if !list.contains(&toleration) {
            list.push(toleration);
        }
    }
}

/// Ties a pod to a node; the scheduler binds it.
pub fn pin(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement { key: "metadata.name".into(), operator: "In".into(), values: Some(vec![node.to_owned()]) };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The node of a pod, bound or not yet.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(name);
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    fields.filter(|f| f.key == "metadata.name" && f.operator == "In").find_map(|f| f.values.as_ref()?.first()).map(String::as_str)
}

/// Whether a node should run a pod of the set, and whether one that runs there may stay.
pub fn belongs(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let mut spec = set.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
    tolerate(&mut spec);
    if spec.node_name.as_deref().is_some_and(|n| !n.is_empty() && n != node.name()) || !selected(&spec, node) {
        return (false, false);
    }
    let tolerations = spec.tolerations.unwrap_or_default();
    if repelled(node, &tolerations, &["NoSchedule", "NoExecute"]) {
        return (false, !repelled(node, &tolerations, &["NoExecute"]));
    }
    (true, true)
}

/// Pods by node: bound ones first, then the oldest. One that is over and on its way out is nobody's any more.
fn by_node(pods: &[Pod]) -> BTreeMap<&str, Vec<&Pod>> {
    let mut map: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    let is_done = |p: &&Pod| p.metadata.deletion_timestamp.is_some() && matches!(pods::phase(p), "Succeeded" | "Failed");
    for pod in pods.iter().filter(|p| !is_done(p)) {
        map.entry(node_of(pod).unwrap_or_default()).or_default().push(pod);
    }
    let unbound = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_none_or(str::is_empty);
    map.values_mut().for_each(|list| list.sort_by_key(|p| (unbound(p), p.metadata.creation_timestamp.clone(), p.name().to_owned())));
    map
}

impl View<'_> {
    fn is_new(&self, pod: &Pod) -> bool {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key));
        let generation = self.set.metadata.annotations.as_ref().and_then(|a| a.get(GENERATION));
        (!self.hash.is_empty() && label(HASH).is_some_and(|h| h == self.hash))
            || (generation.is_some() && label("pod-template-generation") == generation)
    }

    fn min_ready(&self) -> i32 {
        self.set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        availability(pod, self.min_ready(), self.now).is_ok()
    }

    /// (maxSurge, maxUnavailable) of a rolling update; `None` with `OnDelete`.
    fn limits(&self, desired: usize) -> Option<(usize, usize)> {
        let strategy = self.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        if strategy.and_then(|s| s.type_.as_deref()) == Some("OnDelete") {
            return None;
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let of = |value: Option<&IntOrString>, default: usize| match value {
            None => default,
            Some(IntOrString::Int(n)) => usize::try_from(*n).unwrap_or(0),
            Some(IntOrString::String(text)) => (text.trim_end_matches('%').parse::<usize>().unwrap_or(0) * desired).div_ceil(100),
        };
        let surge = of(rolling.and_then(|r| r.max_surge.as_ref()), 0);
        let unavailable = of(rolling.and_then(|r| r.max_unavailable.as_ref()), 1);
        Some((surge, if surge == 0 { unavailable.max(1) } else { unavailable }))
    }
}

/// One pod on every node that should have one, none elsewhere.
pub fn manage(view: &View) -> Plan {
    let mut plan = Plan::default();
    let map = by_node(view.pods);
    let surge = view.limits(view.nodes.len()).is_some_and(|(surge, _)| surge > 0);
    for node in view.nodes {
        let here = map.get(node.name()).map(Vec::as_slice).unwrap_or_default();
        let (should_run, may_stay) = belongs(view.set, node);
        if !may_stay {
            plan.delete.extend(here.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).map(|p| (*p).clone()));
        } else if here.is_empty() && should_run {
            plan.create.push(node.name().to_owned());
        } else {
            tidy(view, here, node.name(), surge, &mut plan);
        }
    }
    // Pods that wait for a node that is gone would wait for ever.
    let names: HashSet<&str> = view.nodes.iter().map(Named::name).collect();
    let unbound = |p: &&Pod| p.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_none_or(str::is_empty);
    let lost = view.pods.iter().filter(unbound).filter(|p| !names.contains(node_of(p).unwrap_or_default()));
    plan.delete.extend(lost.filter(|p| p.metadata.deletion_timestamp.is_none()).cloned());
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

/// Pods that are over are replaced; of several that run the oldest stays (with surge, the oldest of each template).
fn tidy(view: &View, here: &[&Pod], node: &str, surge: bool, plan: &mut Plan) {
    let mut running = Vec::new();
    for pod in here.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
        let name = format!("daemon pod {}/{} on node {node}", pod.namespace(), pod.name());
        match pods::phase(pod) {
            "Failed" => {
                if let Some(left) = view.waits.get(node) {
                    plan.again = Some(plan.again.map_or(*left, |a| a.min(*left)));
                    continue;
                }
                plan.failed.push(node.to_owned());
                plan.events.push((EventType::Warning, "FailedDaemonPod", format!("Found failed {name}, will try to kill it")));
            }
            "Succeeded" => {
                plan.events.push((EventType::Normal, "SucceededDaemonPod", format!("Found succeeded {name}, will try to delete it")));
            }
            _ => {
                running.push(*pod);
                continue;
            }
        }
        plan.delete.push((*pod).clone());
    }
    if !surge {
        plan.delete.extend(running.iter().skip(1).map(|p| (*p).clone()));
        return;
    }
    let (new, old): (Vec<&Pod>, Vec<&Pod>) = running.into_iter().partition(|p| view.is_new(p));
    let replaced =
        new.first().is_some_and(|p| view.is_available(p)) || (new.first().is_some() && old.first().is_some_and(|p| !pods::is_ready(p)));
    plan.delete.extend(new.iter().skip(1).chain(old.iter().skip(usize::from(!replaced))).map(|p| (*p).clone()));
}

/// One step of a rolling update.
pub fn roll(view: &View) -> Plan {
    let mut plan = Plan::default();
    let nodes: Vec<&Node> = view.nodes.iter().filter(|n| belongs(view.set, n).0).collect();
    let Some((surge, unavailable)) = view.limits(nodes.len()) else { return plan };
    let map = by_node(view.pods);
    let (mut busy, mut free, mut candidates) = (0, Vec::new(), Vec::new());
    for node in nodes {
        let here = map.get(node.name()).map(Vec::as_slice).unwrap_or_default();
        let staying = || here.iter().copied().filter(|p| p.metadata.deletion_timestamp.is_none());
        let (new, old) = (staying().find(|p| view.is_new(p)), staying().find(|p| !view.is_new(p)));
        match (surge, new, old) {
            (0, None, None) => busy += 1,
            (0, Some(new), old) => busy += usize::from(old.is_some() || !view.is_available(new)),
            (0, None, Some(old)) if view.is_available(old) => candidates.push((node, old)),
            (0, None, Some(old)) => {
                busy += 1;
                free.push((node, old));
            }
            (_, _, None) => {}
            (_, Some(new), Some(old)) if view.is_available(new) => plan.delete.push(old.clone()),
            (_, Some(_), Some(_)) => busy += 1,
            (_, None, Some(old)) if view.is_available(old) => candidates.push((node, old)),
            (_, None, Some(old)) => free.push((node, old)),
        }
    }
    let most = if surge == 0 { unavailable } else { surge };
    let chosen = free.into_iter().chain(candidates.into_iter().take(most.saturating_sub(busy)));
    for (node, old) in chosen {
        if surge == 0 {
            plan.delete.push(old.clone());
        } else {
            plan.create.push(node.name().to_owned());
        }
    }
    plan
}

/// The status, and when it will change by itself.
pub fn status(view: &View) -> (DaemonSetStatus, Option<Duration>) {
    let map = by_node(view.pods);
    let mut status = DaemonSetStatus { observed_generation: view.set.metadata.generation, ..DaemonSetStatus::default() };
    let old = view.set.status.as_ref();
    status.collision_count = old.and_then(|s| s.collision_count);
    status.conditions = old.and_then(|s| s.conditions.clone());
    let (mut available, mut updated, mut soon) = (0, 0, None::<Duration>);
    for node in view.nodes {
        let oldest = map.get(node.name()).and_then(|list| list.first());
        if !belongs(view.set, node).0 {
            status.number_misscheduled += i32::from(oldest.is_some());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = oldest else { continue };
        status.current_number_scheduled += 1;
        status.number_ready += i32::from(pods::is_ready(pod));
        match availability(pod, view.min_ready(), view.now) {
            Ok(()) => available += 1,
            Err(wait) => soon = [soon, wait].into_iter().flatten().min(),
        }
        updated += i32::from(view.is_new(pod));
    }
    let some = |n: i32| (n != 0).then_some(n);
    status.number_available = some(available);
    status.updated_number_scheduled = some(updated);
    status.number_unavailable = some(status.desired_number_scheduled - available);
    (status, soon)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(strategy: Value) -> DaemonSet {
        serde_json::from_value(json!({"metadata": {"name": "d", "namespace": "a", "uid": "d"}, "spec": {
            "selector": {}, "updateStrategy": strategy, "template": {"spec": {"containers": [], "nodeSelector": {"role": "worker"}}}}}))
        .unwrap()
    }

    fn node(name: &str, role: &str, taints: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"role": role}}, "spec": {"taints": taints}})).unwrap()
    }

    fn pod(name: &str, node: &str, hash: &str, phase: &str, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {HASH: hash}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }

    fn view<'a>(set: &'a DaemonSet, nodes: &'a [Node], pods: &'a [Pod]) -> View<'a> {
        static NONE: std::sync::LazyLock<HashMap<String, Duration>> = std::sync::LazyLock::new(HashMap::new);
        View { set, nodes, pods, hash: "new", waits: &NONE, now: "2026-01-01T01:00:00Z".parse().unwrap() }
    }

    fn names(pods: &[Pod]) -> Vec<&str> {
        pods.iter().map(Named::name).collect()
    }

    #[test]
    fn every_node_that_fits_gets_one_pod_and_only_those() {
        let nodes = [
            node("n1", "worker", json!([])),
            node("n2", "master", json!([])),
            node("n3", "worker", json!([{"key": "x", "effect": "NoSchedule"}])),
            node("n4", "worker", json!([{"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}])),
            node("n5", "worker", json!([{"key": "x", "effect": "NoExecute"}])),
        ];
        let pods =
            [pod("on2", "n2", "new", "Running", true), pod("on3", "n3", "new", "Running", true), pod("on5", "n5", "new", "Running", true)];
        let set = set(json!({}));
        let plan = manage(&view(&set, &nodes, &pods));
        assert_eq!(plan.create, ["n1", "n4"]);
        assert_eq!(names(&plan.delete), ["on2", "on5"], "a pod may stay on a node that takes no new ones");
        let (status, _) = status(&view(&set, &nodes, &pods));
        assert_eq!((status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled), (2, 0, 3));
    }

    #[test]
    fn failed_pods_and_twins_go() {
        let nodes = [node("n1", "worker", json!([])), node("n2", "worker", json!([]))];
        let pods = [pod("a", "n1", "new", "Failed", false), pod("b", "n2", "new", "Running", true), pod("c", "n2", "new", "Running", true)];
        let plan = manage(&view(&set(json!({})), &nodes, &pods));
        assert_eq!(names(&plan.delete), ["a", "c"]);
        assert_eq!((plan.events[0].1, plan.failed), ("FailedDaemonPod", vec!["n1".to_owned()]));
    }

    #[test]
    fn a_pod_that_failed_again_is_left_alone_for_a_while() {
        let (nodes, set) = ([node("n1", "worker", json!([]))], set(json!({})));
        let pods = [pod("a", "n1", "new", "Failed", false)];
        let waits = HashMap::from([("n1".to_owned(), Duration::from_secs(4))]);
        let plan = manage(&View { waits: &waits, ..view(&set, &nodes, &pods) });
        assert!(plan.delete.is_empty() && plan.create.is_empty() && plan.events.is_empty());
        assert_eq!(plan.again, Some(Duration::from_secs(4)));
    }

    #[test]
    fn a_pod_that_is_over_and_held_by_a_finalizer_does_not_keep_its_node_empty() {
        let (nodes, set) = ([node("n1", "worker", json!([]))], set(json!({})));
        let mut held = pod("a", "n1", "new", "Failed", false);
        held.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(manage(&view(&set, &nodes, &[held])).create, ["n1"]);
    }

    #[test]
    fn a_rolling_update_keeps_to_its_limits() {
        let nodes: Vec<Node> = (1..=3).map(|i| node(&format!("n{i}"), "worker", json!([]))).collect();
        let old = |n: u8, ready| pod(&format!("o{n}"), &format!("n{n}"), "old", "Running", ready);
        let new = |n: u8, ready| pod(&format!("w{n}"), &format!("n{n}"), "new", "Running", ready);
        let cases: Vec<(Value, Vec<Pod>, Vec<&str>, Vec<&str>)> = vec![
            (json!({}), vec![old(1, true), old(2, true), old(3, true)], vec!["o1"], vec![]),
            (json!({}), vec![new(1, false), old(2, true), old(3, true)], vec![], vec![]),
            (json!({}), vec![new(1, true), old(2, true), old(3, true)], vec!["o2"], vec![]),
            (json!({}), vec![old(1, true), old(2, false), old(3, true)], vec!["o2"], vec![]),
            (json!({"type": "OnDelete"}), vec![old(1, true)], vec![], vec![]),
            (
                json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
                vec![old(1, true), old(2, true), old(3, true)],
                vec![],
                vec!["n1"],
            ),
            (
                json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
                vec![old(1, true), new(1, true), old(2, true), old(3, true)],
                vec!["o1"],
                vec!["n2"],
            ),
            (json!({"rollingUpdate": {"maxUnavailable": "50%"}}), vec![old(1, true), old(2, true), old(3, true)], vec!["o1", "o2"], vec![]),
        ];
        for (strategy, pods, deleted, created) in cases {
            let set = set(strategy.clone());
            let plan = roll(&view(&set, &nodes, &pods));
            assert_eq!((names(&plan.delete), plan.create.iter().map(String::as_str).collect::<Vec<_>>()), (deleted, created), "{strategy}");
        }
    }

    #[test]
    fn a_pod_is_pinned_and_tolerates_what_daemons_must() {
        let mut spec = PodSpec { host_network: Some(true), ..PodSpec::default() };
        tolerate(&mut spec);
        tolerate(&mut spec);
        assert_eq!(spec.tolerations.as_ref().unwrap().len(), 7);
        pin(&mut spec, "n1");
        let pod = Pod { spec: Some(spec), ..Pod::default() };
        assert_eq!(node_of(&pod), Some("n1"));
    }
}
