//! Whether this node takes a pod at all: pure, from the pod, the pods already here and what the node has.
//!
//! The scheduler has normally seen to it; pods that name their node, or that were placed on old knowledge, have not been
//! looked at. Source: `pkg/kubelet/lifecycle/predicate.go` and the admit handlers around it. A pod that is not taken is
//! Failed for good.

use super::preempt;
use crate::make::resources::requested;
use crate::static_pods::is_static;
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the node offers.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Name of the node.
    pub name: String,
    /// Its labels; `None` while the Node is not known.
    pub labels: Option<BTreeMap<String, String>>,
    /// Allocatable: cpu in thousandths, the rest in units.
    pub allocatable: BTreeMap<String, i64>,
    /// Most pods.
    pub max_pods: usize,
    /// Node conditions under which pods are refused.
    pub pressure: BTreeSet<&'static str>,
}

/// (reason, message) of a refusal.
pub type Refusal = (String, String);

/// What there is not enough of: cpu in thousandths, the rest in units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short {
    /// Name of the resource.
    pub resource: String,
    /// What the pod asks for.
    pub asked: i64,
    /// What the others were promised.
    pub used: i64,
    /// What the node has for pods.
    pub capacity: i64,
}

impl Short {
    /// What would have to become free.
    pub fn missing(&self) -> i64 {
        self.asked - (self.capacity - self.used)
    }

    fn refusal(&self) -> Refusal {
        let Short { resource, asked, used, capacity } = self;
        let message = format!("Node didn't have enough resource: {resource}, requested: {asked}, used: {used}, capacity: {capacity}");
        (format!("OutOf{resource}"), message)
    }
}

/// What becomes of a pod that comes.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It is taken.
    Taken,
    /// It is taken once these have gone for its sake.
    After(Vec<Arc<Pod>>),
    /// It is not taken.
    Refused(Refusal),
}

/// Sysctls that a pod may set without the node's leave: they are namespaced and cannot harm others.
const SAFE_SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
];
const MORE_SAFE_SYSCTLS: [&str; 1] = ["net.ipv4.tcp_wmem"];

/// Takes the pod or says why not; `others` are the pods that use the node already. For a critical pod others have to go.
pub fn admit(pod: &Pod, others: &[Arc<Pod>], offer: &Offer) -> Verdict {
    let before = under_pressure(pod, offer).and_then(|()| sysctls(pod)).and_then(|()| operating_system(pod));
    if let Err(refusal) = before {
        return Verdict::Refused(refusal);
    }
    let short = short(pod, others, offer);
    let rest = affinity(pod, offer).and_then(|()| ports(pod, others));
    match (short.first(), rest) {
        (None, Ok(())) => Verdict::Taken,
        (Some(first), _) if !is_critical(pod) => Verdict::Refused(first.refusal()),
        (_, Err(refusal)) => Verdict::Refused(refusal),
        (Some(_), Ok(())) => match preempt::victims(pod, others, &short) {
            Ok(victims) => Verdict::After(victims),
            Err(e) => {
                let what = "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt";
                Verdict::Refused(("UnexpectedAdmissionError".into(), format!("{what}: {e}")))
            }
        },
    }
}

/// Whether the cluster, or whoever put it on this very node, does not do without the pod.
pub fn is_critical(pod: &Pod) -> bool {
    is_static(pod) || pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_000_000)
}

fn refuse(reason: &str, message: impl Into<String>) -> Result<(), Refusal> {
    Err((reason.to_owned(), message.into()))
}

/// Critical pods always; under memory pressure all but best-effort ones (and those that tolerate it); else nobody.
fn under_pressure(pod: &Pod, offer: &Offer) -> Result<(), Refusal> {
    let spec = pod.spec.as_ref();
    if offer.pressure.is_empty() || is_critical(pod) {
        return Ok(());
    }
    if offer.pressure.iter().all(|c| *c == "MemoryPressure") {
        let tolerates = spec.into_iter().flat_map(|s| s.tolerations.iter().flatten()).any(|t| {
            let key = t.key.as_deref().unwrap_or_default();
            let effect = t.effect.as_deref().unwrap_or_default();
            let named = key == "node.kubernetes.io/memory-pressure" || (key.is_empty() && t.operator.as_deref() == Some("Exists"));
            named && (effect.is_empty() || effect == "NoSchedule")
        });
        let best_effort = crate::make::resources::Qos::of(pod) == crate::make::resources::Qos::BestEffort;
        if !best_effort || tolerates {
            return Ok(());
        }
    }
    let conditions = offer.pressure.iter().copied().collect::<Vec<_>>().join(" ");
    refuse("Evicted", format!("The node had condition: [{conditions}]. "))
}

fn sysctls(pod: &Pod) -> Result<(), Refusal> {
    let list = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|c| c.sysctls.as_ref());
    for sysctl in list.into_iter().flatten() {
        let name = sysctl.name.replace('/', ".");
        if !SAFE_SYSCTLS.iter().chain(&MORE_SAFE_SYSCTLS).any(|s| **s == name) {
            return refuse("SysctlForbidden", format!("forbidden sysctl: {:?} not allowlisted", sysctl.name));
        }
    }
    Ok(())
}

fn operating_system(pod: &Pod) -> Result<(), Refusal> {
    match pod.spec.as_ref().and_then(|s| s.os.as_ref()) {
        Some(os) if os.name != "linux" => refuse("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"),
        _ => Ok(()),
    }
}

/// Whether what the pod asks for fits beside the others.
pub fn resources(pod: &Pod, others: &[Arc<Pod>], offer: &Offer) -> Result<(), Refusal> {
    short(pod, others, offer).first().map_or(Ok(()), |first| Err(first.refusal()))
}

/// What there is not enough of for the pod beside the others.
fn short(pod: &Pod, others: &[Arc<Pod>], offer: &Offer) -> Vec<Short> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let pods = Short { resource: "pods".into(), asked: 1, used: count(others.len()), capacity: count(offer.max_pods) };
    let others = |name: &str| others.iter().map(|p| requested(p, name)).sum();
    let counted = offer.allocatable.iter().map(|(name, capacity)| Short {
        resource: name.clone(),
        asked: requested(pod, name),
        used: others(name),
        capacity: *capacity,
    });
    [pods].into_iter().chain(counted).filter(|s| s.asked > 0 && s.missing() > 0).collect()
}

fn affinity(pod: &Pod, offer: &Offer) -> Result<(), Refusal> {
    let (Some(spec), Some(labels)) = (&pod.spec, &offer.labels) else { return Ok(()) };
    let selected = spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v));
    let required = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = required.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let fits = required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, labels, &offer.name)));
    if selected && fits {
        return Ok(());
    }
    refuse("NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector")
}

fn term_matches(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let (by_label, by_field) = (term.match_expressions.as_deref().unwrap_or_default(), term.match_fields.as_deref().unwrap_or_default());
    // A term that asks for nothing matches nothing.
    let empty = by_label.is_empty() && by_field.is_empty();
    let field = |key: &str| (key == "metadata.name").then_some(name);
    let label = |key: &str| labels.get(key).map(String::as_str);
    !empty && by_label.iter().all(|r| holds(r, label(&r.key))) && by_field.iter().all(|r| holds(r, field(&r.key)))
}

fn holds(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let listed = |v: &str| requirement.values.iter().flatten().any(|w| w == v);
    let number = |text: &str| text.parse::<i64>().ok();
    let bound = requirement.values.iter().flatten().next().and_then(|v| number(v));
    let compared = |test: fn(i64, i64) -> bool| value.and_then(number).zip(bound).is_some_and(|(v, b)| test(v, b));
    match requirement.operator.as_str() {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared(|v, b| v > b),
        "Lt" => compared(|v, b| v < b),
        _ => false,
    }
}

type HostPort = (String, i32, String);

/// (protocol, port, address) of every host port.
fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let all = ports.filter(|p| p.host_port.unwrap_or(0) > 0).map(|p| {
        let address = p.host_ip.clone().filter(|ip| !ip.is_empty() && ip != "::").unwrap_or_else(|| "0.0.0.0".into());
        (p.protocol.clone().unwrap_or_else(|| "TCP".into()), p.host_port.unwrap_or(0), address)
    });
    all.collect()
}

fn ports(pod: &Pod, others: &[Arc<Pod>]) -> Result<(), Refusal> {
    let taken: Vec<HostPort> = others.iter().flat_map(|p| host_ports(p)).collect();
    let any = "0.0.0.0";
    let clash = |a: &HostPort, b: &HostPort| a.0 == b.0 && a.1 == b.1 && (a.2 == b.2 || a.2 == any || b.2 == any);
    if host_ports(pod).iter().any(|p| taken.iter().any(|t| clash(p, t))) {
        return refuse("NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn cpu(amount: &str) -> Value {
        json!({"requests": {"cpu": amount}})
    }

    fn offer() -> Offer {
        Offer {
            name: "n1".into(),
            labels: Some(BTreeMap::from([("disk".into(), "ssd".into()), ("gen".into(), "7".into())])),
            allocatable: BTreeMap::from([("cpu".into(), 2000), ("memory".into(), 1 << 30)]),
            max_pods: 3,
            pressure: BTreeSet::new(),
        }
    }

    fn refusal(pod: &Pod, others: &[Arc<Pod>], offer: &Offer) -> Option<Refusal> {
        match admit(pod, others, offer) {
            Verdict::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    fn reason(pod: &Pod, others: &[Arc<Pod>], offer: &Offer) -> Option<String> {
        refusal(pod, others, offer).map(|r| r.0)
    }

    #[test]
    fn a_pod_that_does_not_fit_is_refused_with_the_resource_in_the_reason() {
        let half = Arc::new(pod(json!({"containers": [{"name": "c", "resources": cpu("1500m")}]})));
        let big = pod(json!({"containers": [{"name": "c", "resources": cpu("600m")}]}));
        let (reason, message) = refusal(&big, &[half.clone()], &offer()).unwrap();
        assert_eq!(reason, "OutOfcpu");
        assert_eq!(message, "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000");
        assert_eq!(refusal(&big, &[], &offer()), None);
        let none = Arc::new(pod(json!({})));
        let (reason, message) = refusal(&pod(json!({})), &[none.clone(), none.clone(), none], &offer()).unwrap();
        assert_eq!(
            (reason.as_str(), message.as_str()),
            ("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 3, capacity: 3")
        );
    }

    #[test]
    fn others_go_for_a_critical_pod_unless_something_else_speaks_against_it() {
        let half = Arc::new(pod(json!({"containers": [{"name": "c", "resources": cpu("1500m")}]})));
        let mut critical = json!({"priority": 2_000_000_000, "containers": [{"name": "c", "resources": cpu("600m")}]});
        let Verdict::After(victims) = admit(&pod(critical.clone()), &[half.clone()], &offer()) else { panic!("not taken") };
        assert_eq!(victims, [half.clone()]);
        let kept = Arc::new(pod(json!({"priority": 2_000_000_000, "containers": [{"name": "c", "resources": cpu("1500m")}]})));
        let (reason, message) = refusal(&pod(critical.clone()), &[kept], &offer()).unwrap();
        assert_eq!(reason, "UnexpectedAdmissionError");
        assert!(message.ends_with("no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]"), "{message}");
        critical["nodeSelector"] = json!({"disk": "hdd"});
        assert_eq!(refusal(&pod(critical), &[half], &offer()).unwrap().0, "NodeAffinity");
    }

    #[test]
    fn init_containers_count_by_their_peak_and_sidecars_add_to_what_runs_beside_them() {
        let init = |name: &str, amount: &str| json!({"name": name, "resources": cpu(amount)});
        let sidecar = |amount: &str| json!({"name": "s", "restartPolicy": "Always", "resources": cpu(amount)});
        let cases = [
            (json!([init("i", "900m")]), 900),
            (json!([init("i", "100m"), init("j", "50m")]), 300),
            (json!([sidecar("200m")]), 500),
            (json!([sidecar("200m"), init("i", "900m")]), 1100),
            (json!([init("i", "900m"), sidecar("200m")]), 900),
        ];
        for (inits, expected) in cases {
            let pod = pod(json!({"initContainers": inits, "containers": [{"name": "c", "resources": cpu("300m")}]}));
            assert_eq!(requested(&pod, "cpu"), expected, "{inits}");
        }
        let whole =
            pod(json!({"resources": cpu("1"), "overhead": {"cpu": "50m"}, "containers": [{"name": "c", "resources": cpu("300m")}]}));
        assert_eq!(requested(&whole, "cpu"), 1050);
    }

    #[test]
    fn the_nodes_labels_and_name_must_match() {
        let required = |terms: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}});
        let expr = |key: &str, op: &str, values: Value| json!([{"matchExpressions": [{"key": key, "operator": op, "values": values}]}]);
        let cases = [
            (json!({"nodeSelector": {"disk": "ssd"}}), true),
            (json!({"nodeSelector": {"disk": "hdd"}}), false),
            (required(expr("disk", "In", json!(["ssd", "nvme"]))), true),
            (required(expr("disk", "NotIn", json!(["ssd"]))), false),
            (required(expr("zone", "NotIn", json!(["a"]))), true),
            (required(expr("zone", "Exists", json!([]))), false),
            (required(expr("zone", "DoesNotExist", json!([]))), true),
            (required(expr("gen", "Gt", json!(["6"]))), true),
            (required(expr("gen", "Lt", json!(["7"]))), false),
            (required(json!([{}])), false),
            (required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}])), true),
            (required(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n2"]}]}])), false),
        ];
        for (spec, fits) in cases {
            let expected = (!fits).then(|| "NodeAffinity".to_owned());
            assert_eq!(reason(&pod(spec.clone()), &[], &offer()), expected, "{spec}");
        }
        // Nothing is known of the node yet: the scheduler is believed.
        let unknown = Offer { labels: None, ..offer() };
        assert_eq!(reason(&pod(json!({"nodeSelector": {"disk": "hdd"}})), &[], &unknown), None);
    }

    #[test]
    fn host_ports_clash_by_protocol_port_and_address() {
        let ports = |p: Value| json!({"containers": [{"name": "c", "ports": [p]}]});
        let taken = Arc::new(pod(ports(json!({"containerPort": 80, "hostPort": 8080, "hostIP": "10.0.0.1"}))));
        let cases = [
            (json!({"containerPort": 81, "hostPort": 8080}), true),
            (json!({"containerPort": 81, "hostPort": 8080, "hostIP": "10.0.0.2"}), false),
            (json!({"containerPort": 81, "hostPort": 8080, "protocol": "UDP"}), false),
            (json!({"containerPort": 8080}), false),
        ];
        for (port, clashes) in cases {
            let expected = clashes.then(|| "NodePorts".to_owned());
            assert_eq!(reason(&pod(ports(port.clone())), &[taken.clone()], &offer()), expected, "{port}");
        }
    }

    #[test]
    fn under_pressure_only_those_come_in_who_cannot_make_it_worse() {
        let memory = Offer { pressure: BTreeSet::from(["MemoryPressure"]), ..offer() };
        let disk = Offer { pressure: BTreeSet::from(["DiskPressure"]), ..offer() };
        let best_effort = pod(json!({}));
        let tolerant = pod(json!({"tolerations": [{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]}));
        let critical = pod(json!({"priority": 2_000_000_000}));
        let mut burstable = pod(json!({}));
        burstable.status = serde_json::from_value(json!({"qosClass": "Burstable"})).unwrap();
        let refused = Some("Evicted".to_owned());
        for (pod, at_memory, at_disk) in
            [(&best_effort, &refused, &refused), (&tolerant, &None, &refused), (&critical, &None, &None), (&burstable, &None, &refused)]
        {
            assert_eq!((&reason(pod, &[], &memory), &reason(pod, &[], &disk)), (at_memory, at_disk));
        }
        assert_eq!(refusal(&best_effort, &[], &memory).unwrap().1, "The node had condition: [MemoryPressure]. ");
    }

    #[test]
    fn unsafe_sysctls_and_foreign_systems_are_refused() {
        let sysctl = |name: &str| pod(json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}}));
        assert_eq!(reason(&sysctl("net.ipv4.tcp_syncookies"), &[], &offer()), None);
        assert_eq!(reason(&sysctl("kernel.msgmax"), &[], &offer()).as_deref(), Some("SysctlForbidden"));
        assert_eq!(reason(&pod(json!({"os": {"name": "windows"}})), &[], &offer()).as_deref(), Some("PodOSNotSupported"));
    }
}
