//! What to do next for a pod: pure, from its spec and what the runtime shows.
//!
//! The worker calls [`plan`] after everything that happened and starts the actions it gets; it never does anything else.
//! Rules from the kubelet's `computePodActions` and `killPod`, with actions that are under way taken into account.

use super::lives;
use super::resize::Change;
use super::spec::{Class, ContainerSpec, containers_of};
use crate::runtime::{Container, Observed, annotations};
use ferrokube_cri::v1::{ContainerState, PodSandboxState};
use k8s_openapi::api::core::v1::Pod;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One step. The worker runs at most one of a kind per container (or per pod) at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Mount the volumes and make the directories and the cgroup.
    Prepare,
    /// Make a sandbox, the `attempt`-th of this pod.
    CreateSandbox { attempt: u32 },
    /// Stop a sandbox.
    StopSandbox { id: String },
    /// Pull, create and start a container.
    Start { name: String, restarts: u32 },
    /// Stop a container: preStop, signal, wait, kill.
    Kill { name: String, id: String, grace: Option<i64>, why: Why },
    /// Remove a dead container.
    RemoveContainer { id: String },
    /// Remove a dead sandbox.
    RemoveSandbox { id: String },
    /// Bring the cgroups of the pod and its containers to what was promised.
    Resize,
    /// Unmount the volumes and remove the cgroup; everything is dead.
    Reclaim,
}

/// Why a container is killed; told in an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The pod is going.
    PodTerminating,
    /// The sandbox is gone or dead.
    SandboxGone,
    /// All containers of the pod begin again.
    RestartAll,
    /// Spec changed.
    Changed,
    /// It was promised other resources, and its resize policy asks for a restart.
    Resized,
    /// A probe (liveness or startup) failed for good.
    Unhealthy { probe: &'static str, grace: Option<i64> },
    /// The main containers are done, the sidecar is not needed any more.
    PodCompleted,
}

/// What probes know about a container instance, by container id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The startup probe succeeded, or there is none, and postStart is done.
    pub started: bool,
    /// A liveness or startup probe failed for good: (which, its own grace period).
    pub failed: Option<(&'static str, Option<i64>)>,
}

/// How and why a pod is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// Seconds of grace from now on; shrinks when a shorter one is asked for.
    pub grace: i64,
}

/// What the plan is made from.
pub struct View<'a> {
    /// The pod as the API has it.
    pub pod: &'a Pod,
    /// What the runtime has.
    pub observed: &'a Observed,
    /// Whether this process has made sure of volumes, directories and cgroup.
    pub prepared: bool,
    /// Whether the pod has directories, mounts or a cgroup on this node, from this process or an earlier one.
    pub remains: bool,
    /// Set once the pod must end (deleted, evicted, deadline).
    pub termination: Option<&'a Termination>,
    /// Health by container id.
    pub health: &'a BTreeMap<String, Health>,
    /// Running containers that do not have the resources they were promised, by id.
    pub resizes: &'a BTreeMap<String, Change>,
    /// Resources can be changed in place now.
    pub resize_due: bool,
    /// Containers whose start or kill is under way, by name.
    pub busy: &'a BTreeSet<String>,
    /// Prepare, CreateSandbox, StopSandbox or Reclaim is under way.
    pub pod_busy: bool,
    /// Time left that a container has to wait before it may be started again.
    pub backoff: &'a dyn Fn(&ContainerSpec, Option<&Container>) -> Option<Duration>,
}

/// What to do now and when to look again.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be started now.
    pub actions: Vec<Action>,
    /// Containers that wait for their backoff, with the time left.
    pub waiting: BTreeMap<String, Duration>,
    /// Nothing of the pod runs any more and nothing will.
    pub ended: bool,
}

/// Makes the plan.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let finished = finished(view.pod, view.observed);
    if view.termination.is_some() || finished {
        wind_down(view, finished, &mut plan);
    } else {
        keep_running(view, &mut plan);
    }
    plan.actions.extend(dead_instances(view));
    plan
}

/// Every container has ended for good according to the restart policy.
pub fn finished(pod: &Pod, observed: &Observed) -> bool {
    let specs = containers_of(pod);
    let life = lives::present(&specs, observed);
    let exited = |c: &ContainerSpec| {
        observed
            .latest(&c.name)
            .filter(|i| lives::of(i) == life && i.state() == ContainerState::ContainerExited)
            .map(|i| i.status.exit_code)
    };
    let main: Vec<_> = specs.iter().filter(|c| c.class == Class::Main).collect();
    let ended = |c: &ContainerSpec| exited(c).is_some_and(|code| !c.restarts_after(code));
    let init_failed = specs.iter().any(|c| {
        let failed = exited(c).is_some_and(|code| code != 0 && !c.restarts_after(code));
        c.class == Class::Init && failed
    });
    init_failed || (!main.is_empty() && main.iter().all(|c| ended(c)))
}

fn keep_running(view: &View<'_>, plan: &mut Plan) {
    let Some(sandbox) = view.observed.ready_sandbox() else { return new_sandbox(view, plan) };
    if !view.prepared {
        if !view.pod_busy {
            plan.actions.push(Action::Prepare);
        }
        return;
    }
    let strangers = view.observed.containers.iter().filter(|c| c.sandbox != sandbox.id && c.running());
    for container in strangers {
        kill(view, plan, container, None, Why::SandboxGone);
    }
    if view.resize_due && !view.pod_busy {
        plan.actions.push(Action::Resize);
    }
    let specs = containers_of(view.pod);
    if lives::ending(&specs, view.observed) {
        let life = lives::present(&specs, view.observed);
        let earlier = view.observed.containers.iter().filter(|c| c.running() && lives::of(c) < life);
        // Neither preStop nor grace: what follows is a beginning, not an end.
        return earlier.for_each(|c| kill(view, plan, c, Some(0), Why::RestartAll));
    }
    let life = lives::present(&specs, view.observed);
    let instance = |name: &str| view.observed.latest_in(&sandbox.id, name).filter(|c| lives::of(c) == life);
    let initialized = specs.iter().any(|c| c.class == Class::Main && instance(&c.name).is_some());
    // Ephemeral containers are not run again.
    let again =
        |spec: &&ContainerSpec| spec.class != Class::Ephemeral || view.observed.latest(&spec.name).is_none_or(|c| lives::of(c) == life);
    for spec in specs.iter().filter(again) {
        let instance = instance(&spec.name);
        let done = container(view, plan, spec, instance, initialized);
        let gate = matches!(spec.class, Class::Init | Class::Sidecar) && !initialized;
        if gate && !done {
            return;
        }
    }
}

/// Plans one container; returns whether what comes after it may start.
fn container(view: &View<'_>, plan: &mut Plan, spec: &ContainerSpec, instance: Option<&Container>, initialized: bool) -> bool {
    let Some(instance) = instance else {
        if spec.class == Class::Init && initialized {
            return true; // Its record was removed after the pod had come up: it must not run again.
        }
        start(view, plan, spec, None);
        return false;
    };
    match instance.state() {
        ContainerState::ContainerRunning => running(view, plan, spec, instance),
        ContainerState::ContainerExited => {
            let ok = spec.class == Class::Init && instance.status.exit_code == 0;
            let again = !ok && spec.restarts_after(instance.status.exit_code) && !(spec.class == Class::Init && initialized);
            if again {
                start(view, plan, spec, Some(instance));
            }
            ok || (spec.class == Class::Init && initialized)
        }
        // A create that was cut short by a restart of the kubelet, or a state the runtime lost: begin again.
        ContainerState::ContainerCreated | ContainerState::ContainerUnknown => {
            if !view.busy.contains(&spec.name) {
                plan.actions.push(Action::RemoveContainer { id: instance.status.id.clone() });
            }
            false
        }
    }
}

fn running(view: &View<'_>, plan: &mut Plan, spec: &ContainerSpec, instance: &Container) -> bool {
    let health = view.health.get(&instance.status.id);
    if let Some((probe, grace)) = health.and_then(|h| h.failed) {
        kill(view, plan, instance, grace, Why::Unhealthy { probe, grace });
        return false;
    }
    let hash = instance.annotation(annotations::HASH);
    if !hash.is_empty() && hash != spec.hash && spec.class != Class::Ephemeral {
        kill(view, plan, instance, None, Why::Changed);
        return false;
    }
    if view.resizes.get(&instance.status.id) == Some(&Change::Restart) {
        kill(view, plan, instance, None, Why::Resized);
        return false;
    }
    spec.class != Class::Init && health.is_some_and(|h| h.started)
}

fn start(view: &View<'_>, plan: &mut Plan, spec: &ContainerSpec, last: Option<&Container>) {
    if view.busy.contains(&spec.name) {
        return;
    }
    // An instance of an earlier sandbox counts for restarts and backoff too.
    let last = last.or_else(|| view.observed.latest(&spec.name));
    if let Some(left) = (view.backoff)(spec, last) {
        plan.waiting.insert(spec.name.clone(), left);
        return;
    }
    let restarts = last.map_or(0, |c| c.restarts() + 1);
    plan.actions.push(Action::Start { name: spec.name.clone(), restarts });
}

fn kill(view: &View<'_>, plan: &mut Plan, container: &Container, grace: Option<i64>, why: Why) {
    if !view.busy.contains(&container.name) {
        let id = container.status.id.clone();
        plan.actions.push(Action::Kill { name: container.name.clone(), id, grace, why });
    }
}

fn new_sandbox(view: &View<'_>, plan: &mut Plan) {
    let running: Vec<_> = view.observed.containers.iter().filter(|c| c.running()).collect();
    if !running.is_empty() {
        running.into_iter().for_each(|c| kill(view, plan, c, None, Why::SandboxGone));
        return;
    }
    if view.pod_busy || !view.busy.is_empty() {
        return;
    }
    if !view.prepared {
        plan.actions.push(Action::Prepare);
        return;
    }
    let attempt = view.observed.sandboxes.first().and_then(|s| s.metadata.as_ref()).map_or(0, |m| m.attempt + 1);
    plan.actions.push(Action::CreateSandbox { attempt });
}

fn wind_down(view: &View<'_>, finished: bool, plan: &mut Plan) {
    let specs = containers_of(view.pod);
    let class = |name: &str| specs.iter().find(|s| s.name == name).map_or(Class::Main, |s| s.class);
    let why = || if finished && view.termination.is_none() { Why::PodCompleted } else { Why::PodTerminating };
    let grace = view.termination.map(|t| t.grace);
    let (sidecars, others): (Vec<_>, Vec<_>) =
        view.observed.containers.iter().filter(|c| c.running()).partition(|c| class(&c.name) == Class::Sidecar);
    for container in &others {
        // A start under way is cancelled by the worker before it asks for a plan; a kill under way is enough.
        kill(view, plan, container, grace, why());
    }
    if !others.is_empty() {
        return;
    }
    // Sidecars go in the reverse order of their start, one after the other.
    let order = |name: &str| specs.iter().position(|s| s.name == name);
    if let Some(last) = sidecars.iter().max_by_key(|c| order(&c.name)) {
        kill(view, plan, last, grace, why());
        return;
    }
    if !view.busy.is_empty() || view.pod_busy {
        return;
    }
    let ready: Vec<_> = view.observed.sandboxes.iter().filter(|s| s.state() == PodSandboxState::SandboxReady).collect();
    if !ready.is_empty() {
        plan.actions.extend(ready.iter().map(|s| Action::StopSandbox { id: s.id.clone() }));
    } else if view.remains {
        plan.actions.push(Action::Reclaim);
    } else {
        plan.ended = true;
    }
}

/// Of each container one dead instance is kept for its logs and last state; dead sandboxes without containers go
/// (container GC: max 1 per container).
fn dead_instances(view: &View<'_>) -> Vec<Action> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut actions = Vec::new();
    for container in &view.observed.containers {
        let newer = seen.entry(&container.name).or_insert(0);
        if container.state() == ContainerState::ContainerExited && *newer >= 2 && !view.busy.contains(&container.name) {
            actions.push(Action::RemoveContainer { id: container.status.id.clone() });
        }
        *newer += 1;
    }
    let newest = view.observed.sandboxes.first().map(|s| s.id.as_str());
    let used: BTreeSet<&str> = view.observed.containers.iter().map(|c| c.sandbox.as_str()).collect();
    let dead = view.observed.sandboxes.iter().filter(|s| s.state() != PodSandboxState::SandboxReady && Some(s.id.as_str()) != newest);
    actions.extend(dead.filter(|s| !used.contains(s.id.as_str())).map(|s| Action::RemoveSandbox { id: s.id.clone() }));
    actions
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
