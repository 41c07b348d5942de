//! The status of a pod: pure, from its spec, what the runtime shows and what the worker knows.
//!
//! Rules from the kubelet's `generateAPIPodStatus`, `getPhase` and `pkg/kubelet/status/generate.go`.

use super::resize::{self, Resizes};
use super::spec::{Class, ContainerSpec, containers_of};
use super::{amounts, lives, preempt, report};
use crate::runtime::{Container, Observed, annotations};
use ferrokube_cri::v1::ContainerState as State;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, ContainerUser, HostIP,
    LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};

/// Why a container is not running, as the worker knows it: (reason, message).
pub type Waiting = (String, String);

/// What the status is made from.
pub struct Facts<'a> {
    /// The pod as the API has it; its status is the last one written.
    pub pod: &'a Pod,
    /// What the runtime has.
    pub observed: &'a Observed,
    /// Waiting reasons by container.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// Ids of containers whose readiness probe (if any) says yes.
    pub ready: &'a BTreeSet<String>,
    /// Ids of containers that are started (startup probe, postStart).
    pub started: &'a BTreeSet<String>,
    /// How the pod's resizes stand.
    pub resizes: &'a Resizes,
    /// Termination messages by container id.
    pub messages: &'a BTreeMap<String, String>,
    /// Addresses of the node, primary first.
    pub host_ips: &'a [String],
    /// Name of the runtime, the scheme of container ids.
    pub runtime: &'a str,
    /// When this node first saw the pod.
    pub start_time: Timestamp,
    /// A verdict that overrides the phase: (reason, message), phase Failed.
    pub verdict: Option<&'a Waiting>,
    /// Nothing runs any more and nothing will.
    pub ended: bool,
    /// The node never took the pod: there are no containers to tell about.
    pub rejected: bool,
    /// Now.
    pub now: Timestamp,
}

/// Makes the status.
pub fn status(facts: &Facts<'_>) -> PodStatus {
    let specs = if facts.rejected { Vec::new() } else { containers_of(facts.pod) };
    let of = |classes: &[Class]| -> Vec<ContainerStatus> {
        specs.iter().filter(|s| classes.contains(&s.class)).map(|s| container_status(facts, s, &specs)).collect()
    };
    let init = of(&[Class::Init, Class::Sidecar]);
    let main = of(&[Class::Main]);
    let ephemeral = of(&[Class::Ephemeral]);
    let old = facts.pod.status.clone().unwrap_or_default();
    let phase = phase(facts, &specs, &init, &main, old.phase.as_deref());
    let addresses = addresses(facts);
    let (allocated, resources) = amounts::of_pod(facts.pod, facts.resizes.cgroup);
    let mut status = PodStatus {
        allocated_resources: allocated.filter(|_| !facts.rejected),
        resources: Some(resources).filter(|_| !facts.rejected),
        observed_generation: facts.pod.metadata.generation,
        reason: settled(facts).map(|v| v.0.clone()).or(old.reason.clone()),
        message: settled(facts).map(|v| v.1.clone()).or(old.message.clone()),
        host_ip: facts.host_ips.first().cloned(),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: addresses.first().cloned().or(old.pod_ip.clone()),
        pod_ips: if addresses.is_empty() { old.pod_ips.clone() } else { Some(addresses.into_iter().map(|ip| PodIP { ip }).collect()) },
        start_time: old.start_time.clone().or(Some(Time(facts.start_time))),
        qos_class: old.qos_class.clone(),
        init_container_statuses: Some(init).filter(|l| !l.is_empty()),
        ephemeral_container_statuses: Some(ephemeral).filter(|l| !l.is_empty()),
        container_statuses: Some(main),
        phase: Some(phase),
        ..PodStatus::default()
    };
    status.conditions = Some(conditions(facts, &specs, &status, &old));
    status
}

/// The verdict, once nothing runs any more: a pod that is over must not have processes left.
fn settled<'a>(facts: &Facts<'a>) -> Option<&'a Waiting> {
    facts.verdict.filter(|_| !facts.observed.any_running())
}

fn addresses(facts: &Facts<'_>) -> Vec<String> {
    let host_network = facts.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    if host_network {
        return facts.host_ips.to_vec();
    }
    let Some(network) = facts.observed.ready_sandbox().and_then(|s| s.network.as_ref()) else { return Vec::new() };
    let more = network.additional_ips.iter().map(|a| a.ip.clone());
    std::iter::once(network.ip.clone()).chain(more).filter(|ip| !ip.is_empty()).collect()
}

fn time(nanos: i64) -> Option<Time> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(nanos.into()).ok().map(Time)).flatten()
}

fn terminated(facts: &Facts<'_>, instance: &Container) -> ContainerStateTerminated {
    let status = &instance.status;
    let reason = match (status.reason.as_str(), status.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (given, _) => given,
    };
    // What the runtime says comes first, then what the container has left as its termination message.
    let said = [Some(status.message.as_str()), facts.messages.get(&status.id).map(String::as_str)];
    let message = said.into_iter().flatten().filter(|m| !m.is_empty()).collect::<Vec<_>>().join(": ");
    ContainerStateTerminated {
        container_id: Some(container_id(facts, &status.id)),
        exit_code: status.exit_code,
        reason: Some(reason.to_owned()),
        message: Some(message).filter(|m| !m.is_empty()),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        signal: None,
    }
}

fn container_id(facts: &Facts<'_>, id: &str) -> String {
    format!("{}://{id}", facts.runtime)
}

fn container_status(facts: &Facts<'_>, spec: &ContainerSpec, all: &[ContainerSpec]) -> ContainerStatus {
    let instances: Vec<&Container> = facts.observed.containers.iter().filter(|c| c.name == spec.name).collect();
    let latest = instances.first().copied();
    let previous = instances.get(1).copied();
    let known = previous_status(facts.pod, &spec.name);
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: spec.fields.image.clone().unwrap_or_default(),
        image_id: known.as_ref().map(|k| k.image_id.clone()).unwrap_or_default(),
        started: (spec.class != Class::Ephemeral).then_some(false),
        volume_mounts: volume_mounts(spec),
        ..ContainerStatus::default()
    };
    let waiting = facts.waiting.get(&spec.name);
    let Some(instance) = latest else {
        return without_instance(facts, spec, all, status, known);
    };
    status.container_id = Some(container_id(facts, &instance.status.id));
    status.restart_count = i32::try_from(instance.restarts()).unwrap_or(i32::MAX);
    if let Some(image) = instance.status.image.as_ref().filter(|i| !i.image.is_empty()) {
        status.image = image.image.clone();
    }
    status.image_id =
        if instance.status.image_ref.is_empty() { instance.status.image_id.clone() } else { instance.status.image_ref.clone() };
    status.user = user(instance);
    status.last_state = previous.filter(|p| p.state() == State::ContainerExited).map(|p| ended_state(facts, p));
    match instance.state() {
        State::ContainerRunning => {
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: time(instance.status.started_at) }),
                ..ContainerState::default()
            });
            status.started = (spec.class != Class::Ephemeral).then(|| facts.started.contains(&instance.status.id));
            // An init container is ready once it is done, an ephemeral one never.
            let counts = matches!(spec.class, Class::Main | Class::Sidecar);
            status.ready = counts && facts.ready.contains(&instance.status.id) && facts.started.contains(&instance.status.id);
            status.allocated_resources = spec.fields.resources.as_ref().and_then(|r| r.requests.clone());
            status.resources = facts.resizes.given(instance).or(spec.fields.resources.clone()).or(Some(Default::default()));
        }
        State::ContainerExited => match waiting {
            Some((reason, message)) if !facts.ended => {
                status.last_state = Some(ended_state(facts, instance));
                status.state = Some(waiting_state(reason, message));
            }
            _ => {
                status.ready = spec.class == Class::Init && instance.status.exit_code == 0;
                status.state = Some(ended_state(facts, instance));
            }
        },
        State::ContainerCreated | State::ContainerUnknown => {
            let (reason, message) = waiting.cloned().unwrap_or_else(|| ("ContainerCreating".into(), String::new()));
            status.state = Some(waiting_state(&reason, &message));
        }
    }
    status
}

/// No instance in the runtime: it is waited for, or its record is already gone.
fn without_instance(
    facts: &Facts<'_>,
    spec: &ContainerSpec,
    all: &[ContainerSpec],
    mut status: ContainerStatus,
    known: Option<ContainerStatus>,
) -> ContainerStatus {
    if let Some(known) = known.filter(|k| k.state.as_ref().is_some_and(|s| s.terminated.is_some())) {
        return known;
    }
    if facts.ended && located(facts, spec, all) {
        status.state = Some(ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                ..ContainerStateTerminated::default()
            }),
            ..ContainerState::default()
        });
        return status;
    }
    let behind_init = spec.class == Class::Main && all.iter().any(|s| matches!(s.class, Class::Init | Class::Sidecar));
    let usual = if behind_init { "PodInitializing" } else { "ContainerCreating" };
    let usual = if matches!(spec.class, Class::Init | Class::Sidecar) { "PodInitializing" } else { usual };
    let (reason, message) = facts.waiting.get(&spec.name).cloned().unwrap_or_else(|| (usual.into(), String::new()));
    status.state = Some(waiting_state(&reason, &message));
    status
}

/// Whether a container that is not there counts as lost: every one of a pod that had come up, and of one that had not,
/// those init containers that had their turn.
fn located(facts: &Facts<'_>, spec: &ContainerSpec, all: &[ContainerSpec]) -> bool {
    let began = |s: &ContainerSpec| facts.observed.latest(&s.name).is_some();
    let init = |s: &&ContainerSpec| matches!(s.class, Class::Init | Class::Sidecar);
    let Some(last) = all.iter().rfind(init) else { return true };
    let through = |s: &ContainerSpec| match s.class {
        Class::Init => facts.observed.latest(&s.name).is_some_and(|i| i.state() == State::ContainerExited && i.status.exit_code == 0),
        _ => began(s),
    };
    let initialized = all.iter().any(|s| s.class == Class::Main && began(s)) || through(last);
    let turn = all.iter().rposition(|s| init(&s) && began(s)).unwrap_or(0);
    initialized || (init(&spec) && all.iter().position(|s| s.name == spec.name).is_some_and(|at| at <= turn))
}

fn ended_state(facts: &Facts<'_>, instance: &Container) -> ContainerState {
    ContainerState { terminated: Some(terminated(facts, instance)), ..ContainerState::default() }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.into()), message: Some(message.to_owned()).filter(|m| !m.is_empty()) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn previous_status(pod: &Pod, name: &str) -> Option<ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|c| c.name == name).cloned()
}

fn user(instance: &Container) -> Option<ContainerUser> {
    let linux = instance.status.user.as_ref()?.linux.as_ref()?;
    let groups = linux.supplemental_groups.clone();
    let linux = LinuxContainerUser { uid: linux.uid, gid: linux.gid, supplemental_groups: Some(groups).filter(|g| !g.is_empty()) };
    Some(ContainerUser { linux: Some(linux) })
}

fn volume_mounts(spec: &ContainerSpec) -> Option<Vec<VolumeMountStatus>> {
    let mounts = spec.fields.volume_mounts.as_ref()?;
    let status = |m: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
        name: m.name.clone(),
        mount_path: m.mount_path.clone(),
        read_only: m.read_only,
        recursive_read_only: m.read_only.filter(|r| *r).map(|_| m.recursive_read_only.clone().unwrap_or_else(|| "Disabled".into())),
        ..VolumeMountStatus::default()
    };
    Some(mounts.iter().map(status).collect())
}

fn phase(facts: &Facts<'_>, specs: &[ContainerSpec], init: &[ContainerStatus], main: &[ContainerStatus], old: Option<&str>) -> String {
    // Once over, always over.
    if let Some(over @ ("Succeeded" | "Failed")) = old {
        return over.to_owned();
    }
    if settled(facts).is_some() {
        return "Failed".into();
    }
    let ended = |s: &ContainerStatus| s.state.as_ref().and_then(|s| s.terminated.clone());
    let runs = |s: &ContainerStatus| s.state.as_ref().is_some_and(|s| s.running.is_some());
    let had_run = |s: &ContainerStatus| runs(s) || ended(s).is_some() || s.last_state.as_ref().is_some_and(|l| l.terminated.is_some());
    let spec = |name: &str| specs.iter().find(|s| s.name == name);
    let life = lives::present(specs, facts.observed);
    // What ended with an earlier life begins again, whatever its policy says.
    let earlier = |name: &str| facts.observed.latest(name).is_some_and(|c| lives::of(c) < life);
    let restarts = |s: &ContainerStatus, code: i32| earlier(&s.name) || spec(&s.name).is_some_and(|c| c.restarts_after(code));
    let init_failed = init.iter().any(|s| {
        let class = spec(&s.name).map(|c| c.class);
        class == Some(Class::Init) && ended(s).is_some_and(|t| t.exit_code != 0 && !restarts(s, t.exit_code))
    });
    if init_failed {
        return "Failed".into();
    }
    if facts.ended {
        let ok = !main.is_empty() && main.iter().all(|s| ended(s).is_some_and(|t| t.exit_code == 0));
        return if ok { "Succeeded" } else { "Failed" }.into();
    }
    if main.iter().any(|s| !had_run(s)) {
        return "Pending".into();
    }
    let over = main.iter().all(|s| ended(s).is_some_and(|t| !restarts(s, t.exit_code)));
    if !over {
        return "Running".into();
    }
    // While sidecars wind down the pod is still Running.
    if facts.observed.any_running() {
        return "Running".into();
    }
    if main.iter().all(|s| ended(s).is_some_and(|t| t.exit_code == 0)) { "Succeeded" } else { "Failed" }.into()
}

fn restarting(facts: &Facts<'_>, specs: &[ContainerSpec], phase: &str) -> Verdict {
    match phase {
        "Succeeded" => Verdict::no("PodCompleted", String::new()),
        "Failed" => Verdict::no("PodFailed", String::new()),
        _ if lives::ending(specs, facts.observed) => {
            Verdict { message: "container exited with restart policy rule".into(), ..Verdict::yes("RestartAllContainersStarted") }
        }
        _ => Verdict::no("", String::new()),
    }
}

fn conditions(facts: &Facts<'_>, specs: &[ContainerSpec], status: &PodStatus, old: &PodStatus) -> Vec<PodCondition> {
    let phase = status.phase.as_deref().unwrap_or_default();
    let unready = unready(specs, status);
    let containers_ready = verdict_of_ready(phase, &unready);
    let ready = with_gates(facts, old, containers_ready.clone());
    let sandbox = facts.observed.ready_sandbox().is_some();
    let mut computed = vec![
        ("PodReadyToStartContainers", if sandbox { Verdict::yes("") } else { Verdict::no("", String::new()) }),
        ("Initialized", initialized(specs, status, phase)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::yes("")),
    ];
    let disrupted = facts.verdict.filter(|_| !facts.rejected).and_then(|(reason, message)| match reason.as_str() {
        "Evicted" => Some(message.as_str()),
        preempt::REASON => Some(preempt::CONDITION),
        _ => None,
    });
    if let Some(message) = disrupted {
        computed.push((report::DISRUPTED, Verdict { message: message.to_owned(), ..Verdict::yes(report::BY_KUBELET) }));
    }
    if specs.iter().any(ContainerSpec::may_restart_all) {
        computed.push((report::RESTARTING, restarting(facts, specs, phase)));
    }
    let known = old.conditions.clone().unwrap_or_default();
    let mut list = facts.resizes.conditions(&known, facts.now);
    list.extend(known.into_iter().filter(|c| ![resize::PENDING, resize::IN_PROGRESS].contains(&c.type_.as_str())));
    for (kind, verdict) in computed {
        let state = if verdict.ok { "True" } else { "False" };
        let fresh = PodCondition {
            type_: kind.to_owned(),
            status: state.to_owned(),
            reason: Some(verdict.reason).filter(|r| !r.is_empty()),
            message: Some(verdict.message).filter(|m| !m.is_empty()),
            last_transition_time: Some(Time(facts.now)),
            observed_generation: facts.pod.metadata.generation,
            last_probe_time: None,
        };
        match list.iter_mut().find(|c| c.type_ == kind) {
            Some(known) if known.status == fresh.status => {
                let since = known.last_transition_time.clone().or(fresh.last_transition_time.clone());
                *known = PodCondition { last_transition_time: since, ..fresh };
            }
            Some(known) => *known = fresh,
            None => list.push(fresh),
        }
    }
    list
}

#[derive(Clone)]
struct Verdict {
    ok: bool,
    reason: String,
    message: String,
}

impl Verdict {
    fn yes(reason: &str) -> Self {
        Verdict { ok: true, reason: reason.into(), message: String::new() }
    }
    fn no(reason: &str, message: String) -> Self {
        Verdict { ok: false, reason: reason.into(), message }
    }
}

/// Main containers and sidecars that are not ready.
fn unready(specs: &[ContainerSpec], status: &PodStatus) -> Vec<String> {
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let ready: BTreeMap<&str, bool> = lists.into_iter().flatten().flatten().map(|c| (c.name.as_str(), c.ready)).collect();
    let counts = specs.iter().filter(|s| matches!(s.class, Class::Main | Class::Sidecar));
    counts.filter(|s| !ready.get(s.name.as_str()).copied().unwrap_or(false)).map(|s| s.name.clone()).collect()
}

fn verdict_of_ready(phase: &str, unready: &[String]) -> Verdict {
    match phase {
        "Succeeded" => Verdict::no("PodCompleted", String::new()),
        "Failed" => Verdict::no("PodFailed", String::new()),
        _ if unready.is_empty() => Verdict::yes(""),
        _ => Verdict::no("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
    }
}

fn with_gates(facts: &Facts<'_>, old: &PodStatus, containers: Verdict) -> Verdict {
    if !containers.ok {
        return containers;
    }
    let gates = facts.pod.spec.as_ref().and_then(|s| s.readiness_gates.as_ref());
    let mut messages = Vec::new();
    for gate in gates.into_iter().flatten() {
        let condition = old.conditions.iter().flatten().find(|c| c.type_ == gate.condition_type);
        match condition {
            None => messages.push(format!("corresponding condition of pod readiness gate {:?} does not exist.", gate.condition_type)),
            Some(c) if c.status != "True" => {
                messages.push(format!("the status of pod readiness gate {:?} is not \"True\", but {}", gate.condition_type, c.status));
            }
            Some(_) => {}
        }
    }
    if messages.is_empty() { containers } else { Verdict::no("ReadinessGatesNotReady", messages.join(", ")) }
}

fn initialized(specs: &[ContainerSpec], status: &PodStatus, phase: &str) -> Verdict {
    if phase == "Succeeded" {
        return Verdict::yes("PodCompleted");
    }
    let main_began = status
        .container_statuses
        .iter()
        .flatten()
        .any(|c| c.last_state.is_some() || c.state.as_ref().is_some_and(|s| s.running.is_some() || s.terminated.is_some()));
    if main_began {
        return Verdict::yes("");
    }
    let init = specs.iter().filter(|s| matches!(s.class, Class::Init | Class::Sidecar));
    let done = |s: &&ContainerSpec| {
        let status = status.init_container_statuses.iter().flatten().find(|c| c.name == s.name);
        match s.class {
            Class::Sidecar => status.is_some_and(|c| c.started == Some(true)),
            _ => status.is_some_and(|c| c.ready),
        }
    };
    let incomplete: Vec<&str> = init.filter(|s| !done(s)).map(|s| s.name.as_str()).collect();
    if incomplete.is_empty() {
        return Verdict::yes("");
    }
    Verdict::no("ContainersNotInitialized", format!("containers with incomplete status: [{}]", incomplete.join(" ")))
}

/// What probes had found out before this process began: ids of running instances that the API has as (ready, started).
/// Without it every restart of the node would take its pods out of their services for a moment.
pub fn carried_over(pod: &Pod, observed: &Observed) -> (BTreeSet<String>, BTreeSet<String>) {
    let known = |c: &Container| {
        let status = previous_status(pod, &c.name)?;
        let same = status.container_id.as_ref().is_some_and(|id| id.rsplit("://").next() == Some(c.status.id.as_str()));
        (same && c.running()).then_some(status)
    };
    let of = |test: fn(&ContainerStatus) -> bool| {
        let found = observed.containers.iter().filter(|c| known(c).is_some_and(|s| test(&s)));
        found.map(|c| c.status.id.clone()).collect()
    };
    (of(|s| s.ready), of(|s| s.started == Some(true)))
}

/// Where the termination message of an instance is on this host, and whether its log may stand in for it.
pub fn termination_source(instance: &Container) -> (String, bool) {
    let file = instance.annotation(annotations::TERMINATION_FILE).to_owned();
    (file, instance.annotation(annotations::TERMINATION_POLICY) == "FallbackToLogsOnError")
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
