//! Requests and limits as numbers for the kernel, and the QoS class they give a pod.
//!
//! Source: `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`.

use ferrokube_api::quantity::Quantity;
use ferrokube_cri::v1::LinuxContainerResources;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use std::collections::BTreeMap;

/// CFS period in microseconds.
pub const PERIOD: i64 = 100_000;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const MIN_QUOTA: i64 = 1000;

/// `status.qosClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Limits equal requests for cpu and memory in every container.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

impl Qos {
    /// The class the API server wrote into the pod's status.
    pub fn of(pod: &Pod) -> Self {
        match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
            Some("Guaranteed") => Qos::Guaranteed,
            Some("Burstable") => Qos::Burstable,
            _ => Qos::BestEffort,
        }
    }
}

/// The cgroup of a pod below the hierarchy's root: `/kubepods[/burstable|/besteffort]/pod<uid>`.
pub fn pod_cgroup(root: &str, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match Qos::of(pod) {
        Qos::Guaranteed => format!("{root}/pod{uid}"),
        Qos::Burstable => format!("{root}/burstable/pod{uid}"),
        Qos::BestEffort => format!("{root}/besteffort/pod{uid}"),
    }
}

fn find(map: Option<&BTreeMap<String, Text>>, name: &str) -> Option<Quantity> {
    Quantity::parse(&map?.get(name)?.0).ok()
}

fn number(name: &str, amount: Quantity) -> i64 {
    if name == "cpu" { amount.milli_value() } else { amount.value() }
}

/// What is asked for of one resource: (request, limit) in milli-units for cpu, units for the rest; the limit stands in for an absent request.
pub fn request_and_limit(resources: Option<&ResourceRequirements>, name: &str) -> (Option<i64>, Option<i64>) {
    let limit = find(resources.and_then(|r| r.limits.as_ref()), name).map(|q| number(name, q));
    let request = find(resources.and_then(|r| r.requests.as_ref()), name).map(|q| number(name, q));
    (request.or(limit), limit)
}

/// cpu.shares of a number of milli-CPUs.
pub fn shares(milli: i64) -> i64 {
    if milli == 0 { MIN_SHARES } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) }
}

/// CFS quota in microseconds per [`PERIOD`]; 0 means no limit.
pub fn quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * PERIOD / 1000).max(MIN_QUOTA) }
}

/// The kernel's preference for killing this container when memory runs out.
pub fn oom_score_adj(pod: &Pod, memory_request: i64, node_memory: i64) -> i64 {
    let critical = pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= 2_000_001_000);
    if critical {
        return -997;
    }
    match Qos::of(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let score = 1000 - (1000 * memory_request) / node_memory.max(1);
            // Between a guaranteed pod and a best-effort one, whatever the numbers say.
            score.clamp(3, 999)
        }
    }
}

/// The resources of a container as CRI takes them.
pub fn linux(pod: &Pod, resources: Option<&ResourceRequirements>, node_memory: i64) -> LinuxContainerResources {
    let (cpu_request, cpu_limit) = request_and_limit(resources, "cpu");
    let (memory_request, memory_limit) = request_and_limit(resources, "memory");
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota(cpu_limit.unwrap_or(0)),
        cpu_shares: shares(cpu_request.unwrap_or(0)),
        memory_limit_in_bytes: memory_limit.unwrap_or(0),
        oom_score_adj: oom_score_adj(pod, memory_request.unwrap_or(0), node_memory),
        ..LinuxContainerResources::default()
    }
}

/// What a pod's cgroup is given: sums over its containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Milli-CPUs requested, overhead included, as in the limits.
    pub cpu_request: i64,
    /// Milli-CPUs, when every container has a limit.
    pub cpu_limit: Option<i64>,
    /// Bytes, when every container has a limit.
    pub memory_limit: Option<i64>,
}

impl Totals {
    /// The larger of each.
    pub fn widest(self, other: Self) -> Self {
        let wider = |a: Option<i64>, b: Option<i64>| a.zip(b).map(|(a, b)| a.max(b));
        Totals {
            cpu_request: self.cpu_request.max(other.cpu_request),
            cpu_limit: wider(self.cpu_limit, other.cpu_limit),
            memory_limit: wider(self.memory_limit, other.memory_limit),
        }
    }
}

/// What the containers take of something at their hungriest moment: those that stay, together, or an init container beside the sidecars
/// before it.
fn peak(spec: &PodSpec, of: impl Fn(&Container) -> i64) -> i64 {
    let (mut sidecars, mut peak) = (0, 0);
    for init in spec.init_containers.iter().flatten() {
        let moment = sidecars + of(init);
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars = moment;
        }
        peak = peak.max(moment);
    }
    (spec.containers.iter().map(of).sum::<i64>() + sidecars).max(peak)
}

fn overhead(spec: &PodSpec, name: &str) -> i64 {
    find(spec.overhead.as_ref(), name).map_or(0, |q| number(name, q))
}

/// What a pod asks for of a resource, overhead included, in milli-units for cpu and units for the rest; `spec.resources` goes before the
/// containers.
pub fn requested(pod: &Pod, name: &str) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let of = |c: &Container| request_and_limit(c.resources.as_ref(), name).0.unwrap_or(0);
    let whole = request_and_limit(spec.resources.as_ref(), name).0.unwrap_or_else(|| peak(spec, of));
    whole + overhead(spec, name)
}

/// What the pod's cgroup gets. There is a limit when the pod names one, or every container of it does.
pub fn pod_totals(pod: &Pod) -> Totals {
    let Some(spec) = &pod.spec else { return Totals::default() };
    let limit = |name: &str| {
        let of = |c: &Container| request_and_limit(c.resources.as_ref(), name).1.unwrap_or(0);
        let every = || spec.init_containers.iter().flatten().chain(&spec.containers).all(|c| of(c) > 0);
        let own = request_and_limit(spec.resources.as_ref(), name).1.filter(|limit| *limit > 0);
        Some(own.or_else(|| every().then(|| peak(spec, of)))? + overhead(spec, name))
    };
    Totals { cpu_request: requested(pod, "cpu"), cpu_limit: limit("cpu"), memory_limit: limit("memory") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_becomes_shares_and_quota_as_the_kubelet_computes_them() {
        let cases = [(0, 2, 0), (1, 2, 1000), (100, 102, 10_000), (1000, 1024, 100_000), (2500, 2560, 250_000)];
        for (milli, expect_shares, expect_quota) in cases {
            assert_eq!((shares(milli), quota(milli)), (expect_shares, expect_quota), "{milli}m");
        }
    }

    #[test]
    fn a_pod_has_limits_when_it_names_them_or_all_its_containers_do() {
        use serde_json::json;
        let container = |cpu: &str| json!({ "name": "c", "resources": { "limits": { "cpu": cpu, "memory": "1Ki" } } });
        let unlimited = json!({ "name": "c" });
        let cpu_limit = |spec: serde_json::Value| {
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).expect("a pod");
            pod_totals(&pod).cpu_limit
        };
        let sidecar = |cpu: &str| {
            let mut sidecar = container(cpu);
            sidecar["restartPolicy"] = "Always".into();
            sidecar
        };
        assert_eq!(cpu_limit(json!({ "containers": [container("1"), container("500m")] })), Some(1500));
        assert_eq!(cpu_limit(json!({ "containers": [container("1"), unlimited] })), None);
        assert_eq!(cpu_limit(json!({ "containers": [container("1")], "initContainers": [unlimited] })), None, "it must not be held back");
        let spec = json!({ "containers": [container("1")], "initContainers": [sidecar("200m"), container("1500m")] });
        assert_eq!(cpu_limit(spec), Some(1700), "the init container beside the sidecar before it");
        let spec = json!({ "containers": [container("1")], "overhead": { "cpu": "50m" } });
        assert_eq!(cpu_limit(spec), Some(1050));
        let spec = json!({ "containers": [unlimited], "resources": { "limits": { "cpu": "3" } } });
        assert_eq!(cpu_limit(spec), Some(3000));
    }
}
