//! The task that owns a pod: takes inputs, asks for a plan, starts its steps, writes the status.

use super::allocation::{self, Allocation, Pending};
use super::backoff::Backoff;
use super::ops::{self, StartError, Volumes};
use super::plan::{self, Action, Health, Termination, View, Why};
use super::report;
use super::resize::{self, Change, Resizes};
use super::spec::{Class, ContainerSpec, containers_of};
use super::status::{self, Facts, Waiting};
use super::{Input, ProbeKind, container_reference, title};
use crate::make::resources::Totals;
use crate::node::Shared;
use crate::probes::Probes;
use crate::runtime::{Container, CriError, Observed};
use crate::static_pods::is_static;
use ferrokube_client::events::EventType::{Normal, Warning};
use ferrokube_client::{DeleteOptions, Error, Patch};
use ferrokube_cri::v1::ContainerState;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

/// What a step is about, to clear its mark when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Observe,
    Pod(PodStep),
    Start(String),
    Kill(String),
    Remove,
    Resize,
    Status,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PodStep {
    Prepare,
    CreateSandbox,
    StopSandbox,
    Reclaim,
}

/// How a step ended.
enum Outcome {
    Observed(Result<Observed, CriError>),
    Prepared(Result<(Volumes, Totals), String>),
    Started(String, Result<(), StartError>),
    Done(Result<(), String>),
    Reclaimed(Result<(), String>),
    Resized(resize::Done),
    /// The status, and the UID of the object that it was written into.
    Written(Box<PodStatus>, String, Result<(), Error>),
    Deleted(Result<(), Error>),
}

/// Wait before a failed step of the pod is tried again: 0.5 s doubling to 10 s.
fn retry_delay(failures: u32) -> Duration {
    Duration::from_millis(500 << failures.min(5)).min(Duration::from_secs(10))
}

/// Wait before a container whose configuration was refused is tried again (the kubelet's sync back-off).
const CONFIG_RETRY: Duration = Duration::from_secs(10);

/// The owner of one pod.
pub struct Worker {
    node: Arc<Shared>,
    pod: Arc<Pod>,
    inbox: mpsc::Receiver<Input>,
    observed: Arc<Observed>,
    looked: bool,
    look_again: bool,
    /// Only what was seen after this moment shows what the last step did.
    changed_at: Instant,
    volumes: Option<Arc<Volumes>>,
    remains: bool,
    termination: Option<Termination>,
    verdict: Option<Waiting>,
    /// The node did not take the pod: none of its containers ever was.
    refused_whole: bool,
    /// What probes had found out before this process began has been taken over.
    adopted: bool,
    gone: bool,
    deleted: bool,
    waiting: BTreeMap<String, Waiting>,
    crashes: Backoff,
    pulls: Backoff,
    /// Containers that could not be described or made: tried again after [`CONFIG_RETRY`], without growing delays.
    refused: BTreeMap<String, Instant>,
    seen_exits: BTreeSet<String>,
    messages: BTreeMap<String, String>,
    resizes: Resizes,
    probes: Probes,
    ready: BTreeSet<String>,
    startup_ok: BTreeSet<String>,
    failed: BTreeMap<String, (&'static str, Option<i64>)>,
    steps: JoinSet<Outcome>,
    marks: HashMap<Id, (Step, tokio::task::AbortHandle)>,
    failures: u32,
    retry_at: Option<Instant>,
    written: Option<PodStatus>,
    /// The UID of the object that `written` is in.
    written_to: String,
    started_at: Timestamp,
}

impl Worker {
    /// A worker for a pod; nothing happens until [`Worker::run`].
    pub fn new(node: Arc<Shared>, pod: Arc<Pod>, gone: bool, inbox: mpsc::Receiver<Input>, own: mpsc::Sender<Input>) -> Self {
        let remains = node.config.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default()).exists();
        let started_at = Timestamp::now();
        let written = pod.status.clone();
        let mut worker = Worker {
            probes: Probes::new(node.clone(), pod.metadata.uid.clone().unwrap_or_default(), own),
            node,
            inbox,
            observed: Arc::new(Observed::nothing()),
            looked: false,
            look_again: true,
            changed_at: Instant::now(),
            volumes: None,
            remains,
            termination: None,
            verdict: None,
            refused_whole: false,
            adopted: false,
            gone,
            deleted: false,
            waiting: BTreeMap::new(),
            crashes: Backoff::default(),
            pulls: Backoff::default(),
            refused: BTreeMap::new(),
            seen_exits: BTreeSet::new(),
            messages: BTreeMap::new(),
            resizes: Resizes::default(),
            ready: BTreeSet::new(),
            startup_ok: BTreeSet::new(),
            failed: BTreeMap::new(),
            steps: JoinSet::new(),
            marks: HashMap::new(),
            failures: 0,
            retry_at: None,
            written,
            written_to: pod.metadata.uid.clone().unwrap_or_default(),
            started_at,
            pod: pod.clone(),
        };
        worker.take_spec(pod, None);
        if gone {
            worker.terminate(ops::grace_of(&worker.pod.clone()));
        }
        worker
    }

    /// The node does not take the pod: it has failed.
    pub fn refuse(&mut self, reason: String, message: String) {
        self.refused_whole = true;
        self.verdict = Some((reason, format!("Pod was rejected: {message}")));
        self.terminate(1);
    }

    fn uid(&self) -> String {
        self.pod.metadata.uid.clone().unwrap_or_default()
    }

    /// Runs until nothing of the pod is left here and in the API, or until the inbox closes (the kubelet stops: the
    /// containers stay).
    pub async fn run(mut self) {
        loop {
            let look_at = self.step();
            if self.over() {
                return;
            }
            tokio::select! {
                input = self.inbox.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                Some(ended) = self.steps.join_next_with_id() => self.ended(ended),
                () = sleep_until(look_at) => {}
            }
            while let Ok(input) = self.inbox.try_recv() {
                self.take(input);
            }
        }
    }

    /// Gone from the API, dead and cleared away.
    fn over(&self) -> bool {
        self.gone
            && self.looked
            && !self.look_again
            && self.steps.is_empty()
            && !self.remains
            && self.observed.sandboxes.is_empty()
            && self.observed.containers.is_empty()
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Spec { pod, pending } => self.take_spec(pod, pending),
            Input::Gone => {
                self.gone = true;
                let grace = ops::grace_of(&self.pod);
                self.terminate(self.termination.as_ref().map_or(grace, |t| t.grace));
            }
            // What has to be written where is looked at after every input.
            Input::Copy => {}
            Input::Runtime => self.look_again = true,
            Input::Probe { container_id, kind, healthy } => self.take_probe(container_id, kind, healthy),
            Input::Evict { reason, message, grace } => {
                self.verdict.get_or_insert((reason, message));
                self.terminate(grace);
            }
        }
    }

    fn take_spec(&mut self, pod: Arc<Pod>, pending: Option<Pending>) {
        if Allocation::wanted(&pod) != Allocation::wanted(&self.pod) {
            self.resizes.granted(pod.metadata.generation);
        }
        self.resizes.pending = pending;
        let relabelled = pod.metadata.labels != self.pod.metadata.labels || pod.metadata.annotations != self.pod.metadata.annotations;
        self.pod = pod;
        if relabelled {
            self.node.volumes.update(&self.pod);
        }
        if self.pod.metadata.deletion_timestamp.is_some() {
            self.terminate(ops::grace_of(&self.pod));
        }
        let over = self.pod.status.as_ref().and_then(|s| s.phase.as_deref());
        if let (Some("Failed"), None, Some(status)) = (over, &self.verdict, &self.pod.status) {
            // Failed as a whole before this process started (evicted, deadline): it stays so.
            if let Some(reason) = &status.reason {
                self.verdict = Some((reason.clone(), status.message.clone().unwrap_or_default()));
                self.terminate(ops::grace_of(&self.pod.clone()));
            }
        }
    }

    fn terminate(&mut self, grace: i64) {
        let shorter = self.termination.as_ref().is_none_or(|t| grace < t.grace);
        if !shorter {
            return;
        }
        self.termination = Some(Termination { grace });
        // Starts are cut short; kills are asked for again with the shorter grace.
        for (step, handle) in self.marks.values() {
            if matches!(step, Step::Start(_) | Step::Kill(_) | Step::Pod(PodStep::Prepare | PodStep::CreateSandbox)) {
                handle.abort();
            }
        }
    }

    fn take_probe(&mut self, id: String, kind: ProbeKind, healthy: bool) {
        match (kind, healthy) {
            (ProbeKind::Readiness, true) => drop(self.ready.insert(id)),
            (ProbeKind::Readiness, false) => drop(self.ready.remove(&id)),
            (ProbeKind::Startup, true) => drop(self.startup_ok.insert(id)),
            (ProbeKind::Liveness, true) => {}
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                let word = if kind == ProbeKind::Startup { "startup" } else { "liveness" };
                let grace = self.probe_grace(&id, kind);
                self.failed.insert(id, (word, grace));
            }
        }
    }

    fn probe_grace(&self, id: &str, kind: ProbeKind) -> Option<i64> {
        let container = self.observed.containers.iter().find(|c| c.status.id == id)?;
        let spec = containers_of(&self.pod).into_iter().find(|s| s.name == container.name)?;
        let probe = if kind == ProbeKind::Startup { spec.fields.startup_probe } else { spec.fields.liveness_probe };
        probe?.termination_grace_period_seconds
    }

    fn spawn(&mut self, step: Step, work: impl Future<Output = Outcome> + Send + 'static) {
        let handle = self.steps.spawn(work);
        self.marks.insert(handle.id(), (step, handle));
    }

    fn underway(&self, wanted: impl Fn(&Step) -> bool) -> bool {
        self.marks.values().any(|(step, _)| wanted(step))
    }

    /// A step that changed something in the runtime is over only when the runtime has been looked at afterwards, so each
    /// looks before it ends; the mark stays until then.
    fn ended(&mut self, ended: Result<(Id, Outcome), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(e) => e.id(),
        };
        let step = self.marks.remove(&id).map(|(step, _)| step);
        if !matches!(step, Some(Step::Observe | Step::Status | Step::Delete)) {
            self.look_again = true;
            self.looked = false;
            self.changed_at = Instant::now();
        }
        match ended {
            Ok((_, outcome)) => self.outcome(outcome),
            Err(e) if e.is_panic() => {
                tracing::error!(pod = title(&self.pod), ?step, "a step of the pod panicked");
                self.hold_back();
            }
            Err(_) => {}
        }
    }

    fn hold_back(&mut self) {
        self.retry_at = Some(Instant::now() + retry_delay(self.failures));
        self.failures += 1;
    }

    fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Observed(Ok(observed)) => self.accept(observed),
            Outcome::Observed(Err(e)) => {
                tracing::warn!(pod = title(&self.pod), "the container runtime does not answer: {e}");
                self.look_again = true;
                self.hold_back();
            }
            Outcome::Prepared(Ok((volumes, totals))) => {
                self.resizes.cgroup = Some(totals);
                self.volumes = Some(Arc::new(volumes));
                self.remains = true;
                self.failures = 0;
            }
            Outcome::Prepared(Err(_)) => {
                self.remains = true;
                self.hold_back();
            }
            Outcome::Started(name, Ok(())) => {
                self.waiting.remove(&name);
                self.pulls.forget(&name);
                self.refused.remove(&name);
            }
            Outcome::Started(name, Err(e)) => self.start_failed(name, e),
            Outcome::Resized(done) => {
                if let Some(e) = self.resizes.ended(done) {
                    let message = allocation::message("error", &self.pod, self.pod.metadata.generation, &e);
                    self.node.recorder.about(&*self.pod, Warning, "ResizeError", message);
                }
            }
            Outcome::Reclaimed(Ok(())) => self.remains = false,
            Outcome::Done(Ok(())) => self.failures = 0,
            Outcome::Done(Err(e)) | Outcome::Reclaimed(Err(e)) => {
                tracing::debug!(pod = title(&self.pod), "a step of the pod failed: {e}");
                self.hold_back();
            }
            Outcome::Written(status, to, Ok(())) => {
                self.written = Some(*status);
                self.written_to = to;
            }
            // A static pod does not go with its copy.
            Outcome::Written(_, to, Err(e)) if e.is_not_found() && to == self.uid() => self.take(Input::Gone),
            Outcome::Written(_, _, Err(e)) => {
                tracing::debug!(pod = title(&self.pod), "status not written: {e}");
                self.hold_back();
            }
            Outcome::Deleted(Ok(())) => self.deleted = true,
            Outcome::Deleted(Err(e)) if e.is_not_found() || e.is_conflict() => self.take(Input::Gone),
            Outcome::Deleted(Err(e)) => {
                tracing::debug!(pod = title(&self.pod), "pod not deleted: {e}");
                self.hold_back();
            }
        }
    }

    fn start_failed(&mut self, name: String, e: StartError) {
        let pulling = matches!(e.reason.as_str(), "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError");
        if pulling {
            self.pulls.failed(&name, Instant::now());
        } else if matches!(e.reason.as_str(), "CreateContainerConfigError" | "CreateContainerError") {
            self.refused.insert(name.clone(), Instant::now() + CONFIG_RETRY);
        }
        self.waiting.insert(name, (e.reason, e.message));
    }

    fn accept(&mut self, observed: Observed) {
        if observed.at < self.observed.at {
            return;
        }
        if !self.adopted {
            self.adopted = true;
            (self.ready, self.startup_ok) = status::carried_over(&self.pod, &observed);
            self.resizes.adopt(&self.pod, &observed, &self.node.config.pod_dir(&self.uid()));
        }
        let now = Instant::now();
        for container in observed.containers.iter().filter(|c| c.state() == ContainerState::ContainerExited) {
            let id = &container.status.id;
            if self.seen_exits.insert(id.clone()) {
                // One that never started has no start time and ran for no time.
                let began = if container.status.started_at > 0 { container.status.started_at } else { container.status.finished_at };
                let ran = container.status.finished_at.saturating_sub(began);
                let ran = Duration::from_nanos(u64::try_from(ran).unwrap_or(0));
                let ago = Timestamp::now().as_nanosecond() - i128::from(container.status.finished_at);
                let ended = now.checked_sub(Duration::from_nanos(u64::try_from(ago).unwrap_or(0))).unwrap_or(now);
                self.crashes.ended(&container.name, ran, ended);
                self.messages.insert(id.clone(), termination_message(container));
                self.ready.remove(id);
                self.startup_ok.remove(id);
                self.failed.remove(id);
            }
        }
        let known: BTreeSet<&str> = observed.containers.iter().map(|c| c.status.id.as_str()).collect();
        self.seen_exits.retain(|id| known.contains(id.as_str()));
        self.messages.retain(|id, _| known.contains(id.as_str()));
        self.resizes.retain(|id| known.contains(id));
        self.looked = observed.at >= self.changed_at;
        self.observed = Arc::new(observed);
    }

    /// Everything that follows from the present state; returns when to look again by itself.
    fn step(&mut self) -> Option<Instant> {
        if self.look_again && self.retry_due() && !self.underway(|s| *s == Step::Observe) {
            self.look_again = false;
            let (cri, uid) = (self.node.cri.clone(), self.uid());
            self.spawn(Step::Observe, async move { Outcome::Observed(cri.observe(&uid).await) });
        }
        if !self.looked {
            return self.retry_at;
        }
        self.check_deadline();
        let health = self.health();
        let busy = self.busy();
        let resizes = self.resizes.changes(&containers_of(&self.pod), &self.observed);
        let plan = self.plan(&health, &busy, &resizes);
        self.note_waiting(&plan);
        if self.retry_due() {
            self.retry_at = None;
            plan.actions.into_iter().for_each(|a| self.start_action(a));
        }
        self.tell_resized(&resizes);
        self.watch_health(&health, &busy);
        self.write_status(&health, plan.ended);
        if plan.ended {
            self.finish();
        }
        let backoff = plan.waiting.values().min().map(|left| Instant::now() + *left);
        [backoff, self.retry_at, self.deadline(), self.resizes.retry_at()].into_iter().flatten().min()
    }

    fn retry_due(&self) -> bool {
        self.retry_at.is_none_or(|at| at <= Instant::now())
    }

    fn busy(&self) -> BTreeSet<String> {
        let name = |step: &Step| match step {
            Step::Start(name) | Step::Kill(name) => Some(name.clone()),
            _ => None,
        };
        self.marks.values().filter_map(|(step, _)| name(step)).collect()
    }

    fn health(&self) -> BTreeMap<String, Health> {
        let specs = containers_of(&self.pod);
        let starting = |name: &str| self.underway(|s| *s == Step::Start(name.to_owned()));
        let running = self.observed.containers.iter().filter(|c| c.running());
        let health = running.map(|c| {
            let gated = specs.iter().any(|s| s.name == c.name && s.fields.startup_probe.is_some());
            let started = !starting(&c.name) && (!gated || self.startup_ok.contains(&c.status.id));
            (c.status.id.clone(), Health { started, failed: self.failed.get(&c.status.id).copied() })
        });
        health.collect()
    }

    fn plan(&self, health: &BTreeMap<String, Health>, busy: &BTreeSet<String>, resizes: &BTreeMap<String, Change>) -> plan::Plan {
        let now = Instant::now();
        let backoff = |spec: &ContainerSpec, last: Option<&Container>| {
            let crash = last.and_then(|_| self.crashes.remaining(&spec.name, now));
            let refused = self.refused.get(&spec.name).and_then(|at| at.checked_duration_since(now)).filter(|left| !left.is_zero());
            let all = [crash, self.pulls.remaining(&spec.name, now)];
            all.into_iter().flatten().map(|(left, _)| left).chain(refused).max()
        };
        plan::plan(&View {
            pod: &self.pod,
            observed: &self.observed,
            prepared: self.volumes.is_some(),
            remains: self.remains,
            termination: self.termination.as_ref(),
            health,
            resizes,
            resize_due: self.resizes.due(&self.pod, resizes) && !self.underway(|s| *s == Step::Resize),
            busy,
            pod_busy: self.underway(|s| matches!(s, Step::Pod(_) | Step::Remove)),
            backoff: &backoff,
        })
    }

    /// What a container that waits for its backoff says, and the events that go with it.
    fn note_waiting(&mut self, plan: &plan::Plan) {
        let now = Instant::now();
        for name in plan.waiting.keys() {
            let about = container_reference(&self.pod, name);
            let image = containers_of(&self.pod).into_iter().find(|s| s.name == *name).and_then(|s| s.fields.image).unwrap_or_default();
            let already = self.waiting.get(name).map(|w| w.0.clone()).unwrap_or_default();
            if self.pulls.remaining(name, now).is_some() {
                // The failure itself is shown first; that we back off is told once the failure has been written.
                if !matches!(already.as_str(), "ErrImagePull" | "ImageInspectError") || !self.told(name, &already) {
                    continue;
                }
                let cause = self.waiting.get(name).map(|w| w.1.clone()).unwrap_or_default();
                let message = format!("Back-off pulling image {image:?}: {already}: {cause}");
                self.node.recorder.event(about.clone(), Normal, "BackOff", format!("Back-off pulling image {image:?}"));
                self.node.recorder.event(about, Warning, "Failed", "Error: ImagePullBackOff");
                self.waiting.insert(name.clone(), ("ImagePullBackOff".into(), message));
            } else if let Some((_, delay)) = self.crashes.remaining(name, now) {
                if already == "CrashLoopBackOff" || (!already.is_empty() && !self.told(name, &already)) {
                    continue;
                }
                let message = format!("back-off {} restarting failed container={name} pod={}", spoken(delay), title(&self.pod));
                let event = format!("Back-off restarting failed container {name} in pod {}", title(&self.pod));
                self.node.recorder.event(about, Warning, "BackOff", event);
                self.waiting.insert(name.clone(), ("CrashLoopBackOff".into(), message));
            }
        }
    }

    /// Whether the status in the API says that the container waits for this reason.
    fn told(&self, name: &str, reason: &str) -> bool {
        let Some(status) = &self.written else { return false };
        let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
        let container = lists.into_iter().flatten().flatten().find(|c| c.name == name);
        let waiting = container.and_then(|c| c.state.as_ref()).and_then(|s| s.waiting.as_ref());
        waiting.and_then(|w| w.reason.as_deref()) == Some(reason)
    }

    fn start_action(&mut self, action: Action) {
        let (node, pod) = (self.node.clone(), self.pod.clone());
        match action {
            Action::Prepare => {
                self.spawn(Step::Pod(PodStep::Prepare), async move { Outcome::Prepared(ops::prepare(&node, &pod).await) });
            }
            Action::CreateSandbox { attempt } => {
                if attempt > 0 {
                    node.recorder.about(&*pod, Normal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
                }
                let work = async move { Outcome::Done(ops::create_sandbox(&node, &pod, attempt).await) };
                self.spawn(Step::Pod(PodStep::CreateSandbox), work);
            }
            Action::StopSandbox { id } => {
                self.spawn(Step::Pod(PodStep::StopSandbox), async move { Outcome::Done(ops::stop_sandbox(&node, id).await) });
            }
            Action::Resize => self.resize(),
            Action::Reclaim => {
                self.volumes = None;
                self.spawn(Step::Pod(PodStep::Reclaim), async move { Outcome::Reclaimed(ops::reclaim(&node, &pod).await) });
            }
            Action::RemoveContainer { id } => {
                self.spawn(Step::Remove, async move { Outcome::Done(ops::remove_container(&node, id).await) })
            }
            Action::RemoveSandbox { id } => self.spawn(Step::Remove, async move { Outcome::Done(ops::remove_sandbox(&node, id).await) }),
            Action::Start { name, restarts } => self.start_container(name, restarts),
            Action::Kill { name, id, grace, why } => self.kill_container(name, &id, grace, why),
        }
    }

    fn start_container(&mut self, name: String, restarts: u32) {
        let Some(spec) = containers_of(&self.pod).into_iter().find(|s| s.name == name) else { return };
        let Some(volumes) = self.volumes.clone() else { return };
        if self.observed.latest(&name).is_some() {
            self.crashes.restarted(&name, Instant::now());
        }
        let start = ops::Start { node: self.node.clone(), pod: self.pod.clone(), spec, restarts, observed: self.observed.clone(), volumes };
        self.spawn(Step::Start(name.clone()), async move { Outcome::Started(name, start.run().await) });
    }

    fn kill_container(&mut self, name: String, id: &str, grace: Option<i64>, why: Why) {
        let Some(target) = self.observed.containers.iter().find(|c| c.status.id == id).cloned() else { return };
        let spec = containers_of(&self.pod).into_iter().find(|s| s.name == name);
        self.probes.stop(id);
        let work = ops::kill(self.node.clone(), self.pod.clone(), spec, target, grace, why);
        self.spawn(Step::Kill(name), async move { Outcome::Done(work.await) });
    }

    fn resize(&mut self) {
        let specs = containers_of(&self.pod);
        let changes = self.resizes.changes(&specs, &self.observed);
        let in_place = self.observed.containers.iter().filter(|c| changes.get(&c.status.id) == Some(&Change::InPlace));
        let target = |c: &Container| {
            let promised = specs.iter().find(|s| s.name == c.name)?.fields.resources.clone().unwrap_or_default();
            Some(resize::Target { name: c.name.clone(), id: c.status.id.clone(), given: self.resizes.given(c)?, promised })
        };
        let targets = in_place.filter_map(target).collect();
        let work = resize::carry_out(self.node.clone(), self.pod.clone(), self.resizes.cgroup.unwrap_or_default(), targets);
        self.spawn(Step::Resize, async move { Outcome::Resized(work.await) });
    }

    fn tell_resized(&mut self, changes: &BTreeMap<String, Change>) {
        if let Some(generation) = self.resizes.completed(&self.pod, changes) {
            let message = allocation::message("completed", &self.pod, generation, "");
            self.node.recorder.about(&*self.pod, Normal, "ResizeCompleted", message);
        }
    }

    /// Probes run exactly for the running containers that have been started completely.
    fn watch_health(&mut self, health: &BTreeMap<String, Health>, busy: &BTreeSet<String>) {
        if self.termination.is_some() {
            self.probes.stop_all();
            return;
        }
        let specs = containers_of(&self.pod);
        let ip = self.observed.ready_sandbox().and_then(|s| ops::ips_of(s).into_iter().next());
        let host_network = self.pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
        let ip = if host_network { self.node.host_ips().into_iter().next() } else { ip };
        let mut alive = BTreeSet::new();
        for container in self.observed.containers.iter().filter(|c| c.running() && !busy.contains(&c.name)) {
            let Some(spec) = specs.iter().find(|s| s.name == container.name && s.class != Class::Init) else { continue };
            let started = health.get(&container.status.id).is_some_and(|h| h.started);
            self.probes.watch(&self.pod, spec, &container.status.id, ip.clone(), started);
            alive.insert(container.status.id.clone());
        }
        self.probes.keep_only(&alive);
    }

    fn write_status(&mut self, health: &BTreeMap<String, Health>, ended: bool) {
        if self.gone || self.deleted || self.underway(|s| *s == Step::Status) || !self.retry_due() {
            return;
        }
        // Without a copy in the API there is nobody to tell.
        let Some(to) = (if is_static(&self.pod) { self.node.mirrors.uid_for(&self.pod) } else { Some(self.uid()) }) else { return };
        let fresh = self.fresh_status(health, ended);
        if self.written.as_ref() == Some(&fresh) && self.written_to == to {
            return;
        }
        let (client, meta) = (self.node.client.clone(), self.pod.metadata.clone());
        let over = self.no_longer(&fresh);
        self.spawn(Step::Status, async move {
            let patch = Patch::Strategic(report::patch(&to, &fresh, &over));
            let (namespace, name) = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
            let result = client.patch_status::<Pod>(&namespace, &name, &patch).await.map(drop);
            Outcome::Written(Box::new(fresh), to, result)
        });
    }

    /// Conditions of ours that the API has and that do not apply any more.
    fn no_longer(&self, fresh: &PodStatus) -> Vec<&'static str> {
        let has = |status: Option<&PodStatus>, kind: &str| status.is_some_and(|s| s.conditions.iter().flatten().any(|c| c.type_ == kind));
        let known = |kind: &str| has(self.written.as_ref(), kind) || has(self.pod.status.as_ref(), kind);
        report::OURS.into_iter().filter(|kind| known(kind) && !has(Some(fresh), kind)).collect()
    }

    fn fresh_status(&self, health: &BTreeMap<String, Health>, ended: bool) -> PodStatus {
        let started: BTreeSet<String> = health.iter().filter(|(_, h)| h.started).map(|(id, _)| id.clone()).collect();
        let specs = containers_of(&self.pod);
        let probed = |name: &str| specs.iter().any(|s| s.name == name && s.fields.readiness_probe.is_some());
        let running = self.observed.containers.iter().filter(|c| c.running());
        let ready = running.filter(|c| !probed(&c.name) || self.ready.contains(&c.status.id)).map(|c| c.status.id.clone()).collect();
        // The last status written is the base of conditions and times, not the API's, which may lag behind it.
        let mut pod = (*self.pod).clone();
        if let Some(written) = &self.written {
            report::merge_foreign_conditions(&mut pod, written);
        }
        status::status(&Facts {
            pod: &pod,
            observed: &self.observed,
            waiting: &self.waiting,
            ready: &ready,
            started: &started,
            messages: &self.messages,
            resizes: &self.resizes,
            host_ips: &self.node.host_ips(),
            runtime: &self.node.runtime_name,
            start_time: self.started_at,
            verdict: self.verdict.as_ref(),
            ended,
            rejected: self.refused_whole || rejected_before(&pod),
            now: Timestamp::now(),
        })
    }

    /// Nothing runs and the volumes are gone: the API may forget the pod, then the runtime's records go.
    fn finish(&mut self) {
        let reported = self.written.as_ref().is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
        let wanted = self.pod.metadata.deletion_timestamp.is_some() && !self.gone;
        if wanted && reported && !self.deleted && self.retry_due() && !self.underway(|s| matches!(s, Step::Delete | Step::Status)) {
            let (client, meta) = (self.node.client.clone(), self.pod.metadata.clone());
            self.spawn(Step::Delete, async move {
                let options =
                    DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(meta.uid.as_deref().unwrap_or_default()) };
                let (namespace, name) = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
                Outcome::Deleted(client.delete::<Pod>(&namespace, &name, &options).await)
            });
        }
        if self.gone && !self.underway(|s| *s == Step::Remove) && self.retry_due() {
            let containers: Vec<String> = self.observed.containers.iter().map(|c| c.status.id.clone()).collect();
            let sandboxes: Vec<String> = self.observed.sandboxes.iter().map(|s| s.id.clone()).collect();
            if containers.is_empty() && sandboxes.is_empty() && !log_dir(&self.node, &self.pod).exists() {
                return;
            }
            let (node, pod) = (self.node.clone(), self.pod.clone());
            self.spawn(Step::Remove, async move { Outcome::Done(remove_records(&node, &pod, containers, sandboxes).await) });
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        if self.verdict.is_some() || self.termination.is_some() {
            return None;
        }
        let since = self.pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map_or(self.started_at, |t| t.0);
        let at = since.as_second() + seconds;
        let left = at - Timestamp::now().as_second();
        Some(Instant::now() + Duration::from_secs(u64::try_from(left).unwrap_or(0)))
    }

    fn check_deadline(&mut self) {
        if self.deadline().is_some_and(|at| at <= Instant::now()) && !plan::finished(&self.pod, &self.observed) {
            let message = "Pod was active on the node longer than the specified deadline".to_owned();
            self.node.recorder.about(&*self.pod, Normal, "DeadlineExceeded", message.clone());
            self.verdict = Some(("DeadlineExceeded".into(), message));
            self.terminate(ops::grace_of(&self.pod.clone()));
        }
    }
}

/// A pod that failed without any container status was never taken.
fn rejected_before(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    status.phase.as_deref() == Some("Failed") && status.container_statuses.iter().flatten().next().is_none()
}

fn log_dir(node: &Shared, pod: &Pod) -> std::path::PathBuf {
    let text = |s: &Option<String>| s.clone().unwrap_or_default();
    let meta = &pod.metadata;
    node.config.log_dir(&text(&meta.namespace), &text(&meta.name), &text(&meta.uid))
}

async fn remove_records(node: &Shared, pod: &Pod, containers: Vec<String>, sandboxes: Vec<String>) -> Result<(), String> {
    for id in containers {
        ops::remove_container(node, id).await?;
    }
    for id in sandboxes {
        ops::remove_sandbox(node, id).await?;
    }
    let logs = log_dir(node, pod);
    match tokio::fs::remove_dir_all(&logs).await {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(format!("failed to remove {}: {e}", logs.display())),
        _ => Ok(()),
    }
}

/// The termination message of a dead container (4096 bytes of its file, else the end of its log when the policy says so).
fn termination_message(container: &Container) -> String {
    const FROM_FILE: usize = 4096;
    const FROM_LOG: (usize, usize) = (2048, 80);
    let (file, fallback) = status::termination_source(container);
    let text = std::fs::read(&file).map(|mut bytes| {
        bytes.truncate(FROM_FILE);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    match text {
        Ok(text) if !text.is_empty() => text,
        _ if fallback && container.status.exit_code != 0 => crate::logs::tail(&container.status.log_path, FROM_LOG.0, FROM_LOG.1),
        _ => String::new(),
    }
}

/// A Go duration: `10s`, `1m20s`, `5m0s`.
fn spoken(d: Duration) -> String {
    let (minutes, seconds) = (d.as_secs() / 60, d.as_secs() % 60);
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
