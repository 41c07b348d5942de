//! What is decided, and what is written for it.

use super::{Done, Engine, Preparing, Refused};
use crate::devices::{Readiness, Reservation, extended};
use crate::diagnosis::Diagnosis;
use crate::hints::Happening;
use crate::metrics::Outcome;
use crate::node::{NodeId, PodId};
use crate::plan::Decision;
use crate::plugins::{Plugin, devices, volumes};
use crate::preempt;
use crate::queue::event;
use crate::state::State;
use crate::storage::Step;
use crate::writes::{self, Subject};
use ferrokube_api::ObjectKey;
use ferrokube_client::Error;
use ferrokube_client::events::{EventType, What};
use std::time::{Duration, Instant};

impl Engine {
    /// The next pod that is to be tried. Those that wait for their claims are left until there is news of them.
    pub(super) fn next(&mut self) -> Option<PodId> {
        let id = self.queue.pop()?;
        let profile = self.state.pod(id).profile.and_then(|n| self.configuration.profiles.get(usize::from(n)));
        if profile.is_some_and(|profile| devices::is_held(&self.state, profile, id)) {
            self.queue.hold(id, Plugin::DynamicResources.bit(), Instant::now());
            return None;
        }
        Some(id)
    }

    pub(super) fn place_next(&mut self) {
        let Some(id) = self.next() else { return };
        let began = Instant::now();
        let decision = self.planner.decide(&self.state, id);
        self.decided(id, decision, began);
    }

    pub(super) fn decided(&mut self, id: PodId, decision: Decision, began: Instant) {
        self.metrics.decided(began.elapsed());
        if let Some(profile) = self.state.pod(id).profile {
            // Filters and scores are one step here; its time is that of both.
            self.metrics.ran("Filter", self.name(profile), began.elapsed());
        }
        match decision {
            Decision::Place(node) => self.place(id, node, began),
            Decision::Nowhere(diagnosis) => self.reject(id, *diagnosis, began),
        }
    }

    fn place(&mut self, id: PodId, node: NodeId, began: Instant) {
        let pod = Subject::of(self.state.pod(id));
        let profile = &self.configuration.profiles[usize::from(pod.profile)];
        let (steps, timeout) = (volumes::steps(&self.state, profile, id, node), profile.bind_timeout_seconds);
        let reservations = devices::reservations(&self.state, profile, id, node);
        let reserved = reservations.iter().filter(|r| r.waits).map(|r| r.claim.clone());
        let mut awaited = devices::awaited(&self.state, profile, id);
        awaited.extend(reserved);
        awaited.dedup();
        let device_timeout = profile.device_timeout;
        self.state.assume(id, node);
        self.state.storage.assume(&steps);
        self.state.devices.assume(&reservations);
        self.began.insert(id, began);
        self.binding += 1;
        let name = self.state.node(node).name.clone();
        if steps.is_empty() && reservations.is_empty() && awaited.is_empty() {
            return self.bind(pod, name);
        }
        if !awaited.is_empty() {
            let message = format!("waiting for binding conditions for device on node {name}");
            self.recorder(pod.profile).did("Scheduling", pod.reference(), EventType::Normal, "BindingConditionsPending", message);
        }
        let (client, done, subject) = (self.client.clone(), self.done_sender.clone(), pod.clone());
        let volumes = if steps.is_empty() { Duration::ZERO } else { Duration::from_secs(timeout) };
        let deadline = began + if awaited.is_empty() { Duration::from_secs(timeout) } else { volumes + device_timeout };
        let preparing = Preparing {
            pod,
            node: name,
            selected: vec![false; steps.len()],
            steps: steps.clone(),
            reservations: reservations.clone(),
            awaited,
            deadline,
            written: false,
        };
        self.preparing.insert(id, preparing);
        let host = self.state.node(node).name.clone();
        self.beside(async move {
            log(&subject, writes::nominate(&client, &subject, &host).await);
            let result = writes::prepare_all(&client, &steps, &reservations).await;
            // An error means the engine is gone.
            let _ = done.send(Done::Prepared(id, subject, result));
        });
    }

    fn bind(&self, pod: Subject, node: Box<str>) {
        let (client, done) = (self.client.clone(), self.done_sender.clone());
        let known = self.state.pod_named(&pod.key);
        let extenders = known.map(|id| self.interested(self.state.class_of(id))).unwrap_or_default();
        let binder = extenders.into_iter().find(|e| e.binds());
        self.beside(async move {
            let result = match binder {
                Some(extender) => extender.bind((&pod.key.namespace, &pod.key.name, &pod.uid), &node).await.map_err(Refused::Because),
                None => writes::bind(&client, &pod, &node).await.map_err(|error| match Refused::from(error) {
                    Refused::Because(why) => Refused::Because(format!("running Bind plugin \"DefaultBinder\": {why}")),
                    gone => gone,
                }),
            };
            // An error means the engine is gone.
            let _ = done.send(Done::Bound(pod, node, result));
        });
    }

    fn reject(&mut self, id: PodId, diagnosis: Diagnosis, began: Instant) {
        let room = self.may_preempt(id, &diagnosis).then(|| self.planner.make_room(&self.state, id, &diagnosis));
        self.rejected(id, diagnosis, room, began);
    }

    /// Whether room may be made for a pod at all.
    pub(super) fn may_preempt(&self, id: PodId, diagnosis: &Diagnosis) -> bool {
        let profile = self.state.pod(id).profile.and_then(|n| self.configuration.profiles.get(usize::from(n)));
        diagnosis.nodes() > 0 && profile.is_some_and(|p| p.has(Plugin::DefaultPreemption))
    }

    /// The pod goes nowhere; maybe room is made for it, or it was found why none can be.
    pub(super) fn rejected(
        &mut self,
        id: PodId,
        mut diagnosis: Diagnosis,
        room: Option<Result<preempt::Preemption, String>>,
        began: Instant,
    ) {
        let pod = Subject::of(self.state.pod(id));
        let mut nominated = None;
        if diagnosis.nodes() > 0 && self.configuration.profiles[usize::from(pod.profile)].has(Plugin::DynamicResources) {
            diagnosis.claims = Some(self.take_devices_back(id, &pod));
        }
        match room {
            Some(Ok(room)) => {
                nominated = Some(self.state.node(room.node).name.clone());
                self.make_room(id, &room);
            }
            Some(Err(why)) => diagnosis.preemption = Some(why),
            None => {}
        }
        let message = diagnosis.message();
        self.note_rejection(id, diagnosis.rejectors());
        let new = self.queue.reject(id, diagnosis.rejectors(), &message, Instant::now());
        self.metrics.queued("ScheduleAttemptFailure", "unschedulable", 1);
        self.metrics.tried(self.name(pod.profile), Outcome::Unschedulable, began.elapsed());
        self.say(pod, "Unschedulable", message, nominated, new);
    }

    /// Something went wrong for a pod that has nothing to do with nodes. Says whether the words are new.
    pub(super) fn fail(&mut self, id: PodId, message: &str) -> bool {
        self.metrics.queued("ScheduleAttemptFailure", "backoff", 1);
        self.queue.fail(id, message, Instant::now())
    }

    /// Takes back the devices of a claim that keep a pod from where it could be; says what has come of it.
    fn take_devices_back(&self, id: PodId, pod: &Subject) -> &'static str {
        match devices::help(&self.state, &self.configuration.profiles[usize::from(pod.profile)], id) {
            devices::Help::None(why) => why,
            devices::Help::Release(release) => {
                let client = self.client.clone();
                self.beside(async move {
                    if let Err(error) = writes::release(&client, &release).await {
                        tracing::warn!(claim = %release.claim, "its devices cannot be taken back: {error}");
                    }
                });
                "deallocation of ResourceClaim completed"
            }
        }
    }

    /// Notes by which plugins a pod is now rejected, for the metrics.
    pub(super) fn note_rejection(&self, id: PodId, plugins: u32) {
        let Some(profile) = self.state.pod(id).profile else { return };
        // An extender's no is nobody's of the plugins.
        let of_plugins = |bits: u32| if bits == u32::MAX { 0 } else { bits };
        let (before, plugins) = (of_plugins(self.queue.rejectors(id)), of_plugins(plugins));
        if before != plugins {
            self.metrics.rejected(self.name(profile), before, -1.0);
            self.metrics.rejected(self.name(profile), plugins, 1.0);
        }
    }

    /// Sends the victims away and keeps the room for the pod.
    fn make_room(&mut self, id: PodId, room: &preempt::Preemption) {
        let preemptor = Subject::of(self.state.pod(id));
        let node = self.state.node(room.node).name.clone();
        let priority = self.state.class_of(id).priority;
        self.metrics.preempted(room.victims.len());
        for victim in &room.victims {
            let victim = self.state.pod(*victim);
            if victim.terminating {
                continue;
            }
            let (victim, client, name) = (Subject::of(victim), self.client.clone(), self.name(preemptor.profile).to_owned());
            let message = format!("Preempted by pod {} on node {node}", preemptor.uid);
            let what = What { action: "Preempting", related: Some(preemptor.reference()) };
            self.recorder(preemptor.profile).did(what, victim.reference(), EventType::Normal, "Preempted", message);
            self.beside(async move {
                if let Err(error) = writes::evict(&client, &victim, &name).await
                    && !error.is_not_found()
                {
                    tracing::warn!(pod = %victim.key, "pod cannot be preempted: {error}");
                }
            });
        }
        let lower = |p: &&PodId| self.state.class_of(**p).priority < priority;
        let outranked: Vec<PodId> = self.state.nominated(room.node).iter().filter(lower).copied().collect();
        for other in outranked {
            self.state.nominate(other, None);
            let (other, client) = (Subject::of(self.state.pod(other)), self.client.clone());
            self.beside(async move { log(&other, writes::clear_nomination(&client, &other).await) });
        }
        self.state.nominate(id, Some(&node));
    }

    /// Tells people: an event each time, the condition when there is something new.
    pub(super) fn say(&self, pod: Subject, reason: &'static str, message: String, nominated: Option<Box<str>>, new: bool) {
        self.recorder(pod.profile).did("Scheduling", pod.reference(), EventType::Warning, "FailedScheduling", message.clone());
        if !new && nominated.is_none() {
            return;
        }
        let client = self.client.clone();
        self.beside(async move {
            let result = writes::report(&client, &pod, reason, &message, nominated.as_deref()).await;
            log(&pod, result);
        });
    }
}

/// Volumes and devices of pods that have their place (PreBind).
impl Engine {
    pub(super) fn is_prepared(&mut self, id: PodId, pod: &Subject, result: Result<(), Error>) {
        let Some(preparing) = self.preparing.get_mut(&id).filter(|p| p.pod.uid == pod.uid) else { return };
        match result {
            Ok(()) => {
                preparing.written = true;
                self.look_at_preparations();
            }
            Err(error) => {
                let plugin = if preparing.steps.is_empty() { "DynamicResources" } else { "VolumeBinding" };
                self.give_up(id, plugin, &error.to_string());
            }
        }
    }

    /// Binds the pods whose volumes and devices are there now.
    pub(super) fn look_at_preparations(&mut self) {
        let (mut ready, mut failed) = (Vec::new(), Vec::new());
        for (id, preparing) in &mut self.preparing {
            let volumes = volumes_of(&self.state, preparing);
            let devices = if preparing.written { devices_of(&self.state, preparing) } else { Readiness::Pending };
            match (volumes, devices) {
                (Readiness::Failed(why), _) => failed.push((*id, "VolumeBinding", format!("binding volumes: {why}"))),
                (_, Readiness::Failed(why)) => failed.push((*id, "DynamicResources", why)),
                (Readiness::Ready, Readiness::Ready) => ready.push(*id),
                _ => {}
            }
        }
        for (id, plugin, why) in failed {
            self.give_up(id, plugin, &why);
        }
        for id in ready {
            if let Some(preparing) = self.preparing.remove(&id) {
                self.state.storage.forget(&preparing.steps);
                self.bind(preparing.pod, preparing.node);
            }
        }
    }

    pub(super) fn give_up_on_late_ones(&mut self, now: Instant) {
        let late: Vec<PodId> = self.preparing.iter().filter(|(_, p)| p.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let Some(preparing) = self.preparing.get_mut(&id) else { continue };
            match volumes_of(&self.state, preparing) {
                Readiness::Ready => self.give_up(id, "DynamicResources", "device binding timeout"),
                _ => self.give_up(id, "VolumeBinding", "binding volumes: context deadline exceeded"),
            }
        }
    }

    /// Devices that were counted on are free again.
    pub(super) fn release(&mut self, reservations: &[Reservation]) {
        self.state.devices.forget(reservations);
        if !reservations.is_empty() {
            self.happened(event::DEVICES | event::DEVICES_FREED, Happening::Other, "ClusterEvent");
        }
    }

    fn give_up(&mut self, id: PodId, plugin: &str, why: &str) {
        let Some(Preparing { pod, steps, reservations, awaited, .. }) = self.preparing.remove(&id) else { return };
        for claim in awaited {
            let (client, pod) = (self.client.clone(), pod.clone());
            self.beside(async move {
                let result = writes::unreserve(&client, &claim, &pod).await;
                log(&pod, result);
            });
        }
        self.binding -= 1;
        self.began.remove(&id);
        self.release(&reservations);
        let message = format!("running PreBind plugin \"{plugin}\": {why}");
        self.take_back(id, &pod, &steps, Some(message));
    }
}

/// How far the volumes of a pod are.
fn volumes_of(state: &State, preparing: &mut Preparing) -> Readiness {
    let mut all_bound = preparing.written;
    for (step, selected) in preparing.steps.iter().zip(&mut preparing.selected) {
        let (Step::Bind { claim: key, .. } | Step::Provision { claim: key, .. }) = step;
        let claim = state.storage.claim(&key.namespace, &key.name);
        all_bound &= claim.is_some_and(|c| c.bound);
        let told = claim.is_some_and(|c| c.selected_node.as_ref() == Some(&preparing.node));
        // The one who makes volumes takes the node back when it cannot make one there.
        let refused = matches!(step, Step::Provision { .. }) && *selected && !told && claim.is_some_and(|c| !c.bound);
        if claim.is_none() || refused {
            return Readiness::Failed(format!("provisioning failed for PVC \"{}\"", key.name));
        }
        *selected |= told;
    }
    if all_bound { Readiness::Ready } else { Readiness::Pending }
}

/// How far the devices of a pod are that must be made ready for it.
fn devices_of(state: &State, preparing: &Preparing) -> Readiness {
    // A claim that was made for the pod has its name from the server.
    let made = |key: &ObjectKey| {
        let (made, claim) = state.devices.made_for(&preparing.pod.uid)?;
        (extended::key(&made.namespace, &preparing.pod.uid) == *key).then_some(claim)
    };
    let readiness = |key: &ObjectKey| match state.devices.claim(key).or_else(|| made(key)) {
        Some(claim) => claim.readiness(&key.name),
        None => Readiness::Failed(format!("resourceclaim \"{}\" not found", key.name)),
    };
    preparing.awaited.iter().map(readiness).find(|r| *r != Readiness::Ready).unwrap_or(Readiness::Ready)
}

fn log(pod: &Subject, result: Result<(), Error>) {
    match result {
        Err(error) if !error.is_not_found() => tracing::warn!(pod = %pod.key, "status cannot be written: {error}"),
        _ => {}
    }
}
