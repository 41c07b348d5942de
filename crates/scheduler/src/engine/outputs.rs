//! What is decided, and what is written for it.

use super::{Done, Engine, Preparing, Refused};
use crate::diagnosis::Diagnosis;
use crate::metrics::Outcome;
use crate::node::{NodeId, PodId};
use crate::plan::Decision;
use crate::plugins::{Plugin, devices, volumes};
use crate::preempt;
use crate::storage::Step;
use crate::writes::{self, Subject};
use ferrokube_client::Error;
use ferrokube_client::events::EventType;
use std::time::{Duration, Instant};

impl Engine {
    pub(super) fn place_next(&mut self) {
        let Some(id) = self.queue.pop() else { return };
        let began = Instant::now();
        let decision = self.planner.decide(&self.state, id);
        self.decided(id, decision, began);
    }

    pub(super) fn decided(&mut self, id: PodId, decision: Decision, began: Instant) {
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
        self.state.assume(id, node);
        self.state.storage.assume(&steps);
        self.state.devices.assume(&reservations);
        self.began.insert(id, began);
        self.binding += 1;
        let name = self.state.node(node).name.clone();
        if steps.is_empty() && reservations.is_empty() {
            return self.bind(pod, name);
        }
        let (client, done, subject) = (self.client.clone(), self.done_sender.clone(), pod.clone());
        let deadline = began + Duration::from_secs(timeout);
        let selected = vec![false; steps.len()];
        self.preparing.insert(
            id,
            Preparing { pod, node: name, steps: steps.clone(), reservations: reservations.clone(), deadline, written: false, selected },
        );
        self.beside(async move {
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

    fn reject(&mut self, id: PodId, mut diagnosis: Diagnosis, began: Instant) {
        let pod = Subject::of(self.state.pod(id));
        let mut nominated = None;
        let preempts = self.configuration.profiles[usize::from(pod.profile)].has(Plugin::DefaultPreemption);
        if diagnosis.nodes() > 0 && preempts {
            match self.planner.make_room(&self.state, id, &diagnosis) {
                Ok(room) => {
                    nominated = Some(self.state.node(room.node).name.clone());
                    self.make_room(id, &room);
                }
                Err(why) => diagnosis.preemption = Some(why),
            }
        }
        let message = diagnosis.message();
        self.note_rejection(id, diagnosis.rejectors());
        let new = self.queue.reject(id, diagnosis.rejectors(), &message, Instant::now());
        self.metrics.tried(self.name(pod.profile), Outcome::Unschedulable, began.elapsed());
        self.say(pod, "Unschedulable", message, nominated, new);
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
            self.recorder(preemptor.profile).event(victim.reference(), EventType::Normal, "Preempted", message);
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
        self.recorder(pod.profile).event(pod.reference(), EventType::Warning, "FailedScheduling", message.clone());
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
                self.look_at_volumes();
            }
            Err(error) => {
                let plugin = if preparing.steps.is_empty() { "DynamicResources" } else { "VolumeBinding" };
                self.give_up(id, plugin, &error.to_string());
            }
        }
    }

    /// Binds the pods whose volumes are there now.
    pub(super) fn look_at_volumes(&mut self) {
        let (mut ready, mut failed) = (Vec::new(), Vec::new());
        for (id, preparing) in &mut self.preparing {
            let mut all_bound = preparing.written;
            for (step, selected) in preparing.steps.iter().zip(&mut preparing.selected) {
                let (Step::Bind { claim: key, .. } | Step::Provision { claim: key, .. }) = step;
                let claim = self.state.storage.claim(&key.namespace, &key.name);
                all_bound &= claim.is_some_and(|c| c.bound);
                let told = claim.is_some_and(|c| c.selected_node.as_ref() == Some(&preparing.node));
                // The one who makes volumes takes the node back when it cannot make one there.
                let refused = matches!(step, Step::Provision { .. }) && *selected && !told && claim.is_some_and(|c| !c.bound);
                if claim.is_none() || refused {
                    failed.push((*id, format!("provisioning failed for PVC \"{}\"", key.name)));
                }
                *selected |= told;
            }
            if all_bound {
                ready.push(*id);
            }
        }
        for (id, why) in failed {
            self.give_up(id, "VolumeBinding", &format!("binding volumes: {why}"));
        }
        for id in ready {
            if let Some(preparing) = self.preparing.remove(&id) {
                self.state.storage.forget(&preparing.steps);
                self.bind(preparing.pod, preparing.node);
            }
        }
    }

    pub(super) fn give_up_on_volumes(&mut self, now: Instant) {
        let late: Vec<PodId> = self.preparing.iter().filter(|(_, p)| p.deadline <= now).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.give_up(id, "VolumeBinding", "binding volumes: context deadline exceeded"));
    }

    fn give_up(&mut self, id: PodId, plugin: &str, why: &str) {
        let Some(Preparing { pod, steps, reservations, .. }) = self.preparing.remove(&id) else { return };
        self.binding -= 1;
        self.began.remove(&id);
        self.state.devices.forget(&reservations);
        let message = format!("running PreBind plugin \"{plugin}\": {why}");
        self.take_back(id, &pod, &steps, Some(message));
    }
}

fn log(pod: &Subject, result: Result<(), Error>) {
    match result {
        Err(error) if !error.is_not_found() => tracing::warn!(pod = %pod.key, "status cannot be written: {error}"),
        _ => {}
    }
}
