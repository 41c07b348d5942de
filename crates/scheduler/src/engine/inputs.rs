//! What happened, and whom it helps.

use super::{Done, Engine, Refused};
use crate::feeds::{self, Feed};
use crate::hints::{Happening, may_help};
use crate::metrics::Outcome;
use crate::node::PodId;
use crate::queue::event;
use crate::storage::Step;
use crate::writes::Subject;
use ferrokube_api::{Change, Object, ObjectKey};
use ferrokube_client::events::EventType;
use std::time::Instant;

impl Engine {
    pub(super) fn told(&mut self, feed: Feed, change: Change) {
        let Some(mut follower) = self.followers.remove(&feed) else { return };
        follower.follow(change, |key, object| match (feed, object) {
            (Feed::Pods, Some(object)) => self.pod_is(object),
            (Feed::Pods, None) => self.pod_is_gone(key),
            _ => self.other_is(feed, key, object),
        });
        self.followers.insert(feed, follower);
    }

    fn other_is(&mut self, feed: Feed, key: &ObjectKey, object: Option<&Object>) {
        if feed == Feed::Nodes && self.extenders.iter().any(|e| e.wants_nodes()) {
            match object {
                Some(object) => drop(self.raw_nodes.insert((*key.name).into(), object.json())),
                None => drop(self.raw_nodes.remove(&*key.name)),
            }
        }
        let before = self.state.node_named(&key.name).filter(|_| feed == Feed::Nodes);
        let events = feeds::apply(&mut self.state, feed, key, object);
        let happening = match (feed, before.or_else(|| self.state.node_named(&key.name))) {
            (Feed::Nodes, Some(node)) => Happening::Node(node),
            (Feed::Claims, _) => Happening::VolumeClaim(key.clone()),
            (Feed::Volumes, _) => Happening::Volume(key.name.clone()),
            (Feed::ResourceClaims, _) => Happening::Claim { key: key.clone(), freed: events & event::DEVICES_FREED != 0 },
            _ => Happening::Other,
        };
        self.happened(events, happening, "ClusterEvent");
        if matches!(feed, Feed::Claims | Feed::Volumes | Feed::ResourceClaims) && !self.preparing.is_empty() {
            self.look_at_preparations();
        }
    }

    /// Moves the pods that something may help.
    pub(super) fn happened(&mut self, events: u32, happening: Happening, name: &'static str) {
        let state = &self.state;
        let moved = self.queue.happened(events, Instant::now(), |id, plugins| may_help(state, id, plugins, &happening));
        self.metrics.moved(name, moved);
    }

    fn pod_is(&mut self, object: &Object) {
        let facts = match crate::pod::read(object) {
            Ok(facts) => facts,
            Err(error) => return tracing::warn!(pod = %object.key, "pod cannot be read: {error}"),
        };
        let known = self.state.pod_named(&facts.key);
        if known.is_some_and(|id| self.state.pod(id).uid != facts.uid) {
            self.pod_is_gone(&facts.key);
        }
        let old = self.state.pod_named(&facts.key);
        if old.is_some_and(|id| facts.revision < self.state.pod(id).revision) {
            // A listing by a server that is behind: what is known is newer.
            return;
        }
        let was_gated = old.is_some_and(|id| self.is_gated(id));
        let old_class = old.map(|id| self.state.class_of(id).clone());
        let profile = self.configuration.profile_named(&facts.scheduler);
        let change = self.state.set_pod(facts, profile);
        let (id, now) = (change.id, Instant::now());
        self.gated = (self.gated + usize::from(self.is_gated(id))).saturating_sub(usize::from(was_gated));
        let pod = self.state.pod(id);
        if !self.extenders.is_empty() {
            // Placed pods are looked at only by extenders that have a say in who must go.
            let victims = self.extenders.iter().any(|e| e.preempts() && e.wants_nodes());
            match (pod.profile, pod.node) {
                (Some(_), None) => drop(self.raw_pods.insert(id, object.json())),
                (_, Some(_)) if victims => drop(self.raw_pods.insert(id, object.json())),
                _ => drop(self.raw_pods.remove(&id)),
            }
        }
        if let Some(node) = pod.node {
            if !pod.assumed {
                self.leave_queue(id);
            }
            let bits = [(change.bound, event::POD_ADD), (change.class, event::POD_LABEL), (change.shrank, event::POD_SHRINK)];
            let events = bits.into_iter().filter(|(yes, _)| *yes).map(|(_, bit)| bit).sum();
            let class = self.state.class_of(id).clone();
            if let Some(before) = old_class.filter(|old| change.class && **old != *class) {
                self.happened(events, Happening::Pod { class: before, node: Some(node) }, "AssignedPodUpdate");
            }
            return self.happened(events, Happening::Pod { class, node: Some(node) }, "AssignedPodUpdate");
        }
        if pod.profile.is_none() || pod.terminating || pod.gated {
            return self.leave_queue(id);
        }
        let priority = self.state.class_of(id).priority;
        if !self.queue.contains(id) {
            self.queue.add(id, priority, now);
            self.metrics.queued("PodAdd", "active", 1);
        } else if change.class || change.ungated || change.devices {
            self.queue.wake(id, priority, now);
            self.metrics.queued("PodUpdate", "active", 1);
        }
    }

    fn is_gated(&self, id: PodId) -> bool {
        let pod = self.state.pod(id);
        pod.gated && pod.profile.is_some() && pod.node.is_none()
    }

    fn pod_is_gone(&mut self, key: &ObjectKey) {
        let Some(id) = self.state.pod_named(key) else { return };
        self.gated -= usize::from(self.is_gated(id)).min(self.gated);
        self.leave_queue(id);
        self.began.remove(&id);
        self.raw_pods.remove(&id);
        if let Some(preparing) = self.preparing.remove(&id) {
            self.binding -= 1;
            self.state.storage.forget(&preparing.steps);
            self.release(&preparing.reservations);
        }
        let class = self.state.class_of(id).clone();
        let gone = self.state.remove_pod(key);
        if let Some(pod) = gone.filter(|pod| pod.node.is_some() || pod.nominated.is_some()) {
            let node = pod.node.or(pod.nominated);
            self.happened(event::POD_DELETE, Happening::Pod { class, node }, "AssignedPodDelete");
        }
    }

    fn leave_queue(&mut self, id: PodId) {
        self.note_rejection(id, 0);
        self.queue.remove(id);
    }

    pub(super) fn is_done(&mut self, done: Done) {
        match done {
            Done::Prepared(id, pod, result) => self.is_prepared(id, &pod, result),
            Done::Bound(pod, node, result) => self.was_bound(pod, &node, result),
        }
    }

    fn was_bound(&mut self, pod: Subject, node: &str, result: Result<(), Refused>) {
        self.binding -= 1;
        let id = self.state.pod_named(&pod.key).filter(|id| self.state.pod(*id).uid == pod.uid);
        let began = id.and_then(|id| self.began.remove(&id));
        let took = began.map(|at| at.elapsed()).unwrap_or_default();
        let Err(error) = result else {
            let message = format!("Successfully assigned {}/{} to {node}", pod.key.namespace, pod.key.name);
            self.recorder(pod.profile).did("Binding", pod.reference(), EventType::Normal, "Scheduled", message);
            self.metrics.tried(self.name(pod.profile), Outcome::Scheduled, took);
            if let Some(id) = id {
                self.metrics.ran("Bind", self.name(pod.profile), took);
                if let Some((failures, since)) = self.queue.history(id) {
                    self.metrics.bound(failures + 1, since.elapsed());
                }
                self.leave_queue(id);
            }
            return;
        };
        let Some(id) = id.filter(|id| self.state.pod(*id).assumed) else { return };
        match error {
            Refused::Because(why) => self.take_back(id, &pod, &[], Some(format!("binding rejected: {why}"))),
            Refused::Gone => {
                self.take_back(id, &pod, &[], None);
                // The pod's deletion is on its way.
                self.leave_queue(id);
            }
        }
    }

    /// The pod does not get its place after all; `message` says why, if it is to be tried again.
    pub(super) fn take_back(&mut self, id: PodId, pod: &Subject, steps: &[Step], message: Option<String>) {
        let (class, node) = (self.state.class_of(id).clone(), self.state.pod(id).node);
        self.state.forget(id);
        self.state.storage.forget(steps);
        // The room that was taken is free again.
        self.happened(event::POD_DELETE, Happening::Pod { class, node }, "AssignedPodDelete");
        let Some(message) = message else { return };
        tracing::warn!(pod = %pod.key, "{message}");
        self.metrics.tried(self.name(pod.profile), Outcome::Error, std::time::Duration::ZERO);
        let new = self.fail(id, &message);
        self.say(pod.clone(), "SchedulerError", message, None, new);
    }
}
