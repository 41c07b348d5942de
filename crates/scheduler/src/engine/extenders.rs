//! Deciding with extenders: their answers are waited for, pod by pod, as upstream does.

use super::Engine;
use crate::class::Class;
use crate::diagnosis::Diagnosis;
use crate::extender::{Extender, Offer, Room};
use crate::metrics::Outcome;
use crate::node::{NodeId, PodId};
use crate::plan::Decision;
use crate::preempt::{self, Preemption};
use crate::state::State;
use crate::writes::Subject;
use bytes::Bytes;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// The extenders that are asked about pods of a class.
    pub(super) fn interested(&self, class: &Class) -> Vec<Arc<Extender>> {
        self.extenders.iter().filter(|e| e.is_interested(class)).cloned().collect()
    }

    pub(super) async fn place_next_with_extenders(&mut self) {
        let Some(id) = self.next() else { return };
        let began = Instant::now();
        let extenders = self.interested(self.state.class_of(id));
        if extenders.is_empty() {
            let decision = self.planner.decide(&self.state, id);
            return self.decided(id, decision, began);
        }
        match self.ask(id, &extenders).await {
            Ok(Decision::Nowhere(diagnosis)) if extenders.iter().any(|e| e.preempts()) => {
                let room = self.agreed_room(id, &diagnosis, &extenders).await;
                self.rejected(id, *diagnosis, room, began);
            }
            Ok(decision) => self.decided(id, decision, began),
            Err(message) => {
                let pod = Subject::of(self.state.pod(id));
                tracing::warn!(pod = %pod.key, "{message}");
                self.metrics.tried(self.name(pod.profile), Outcome::Error, began.elapsed());
                let new = self.fail(id, &message);
                self.say(pod, "SchedulerError", message, None, new);
            }
        }
    }

    async fn ask(&mut self, id: PodId, extenders: &[Arc<Extender>]) -> Result<Decision, String> {
        let (mut candidates, mut diagnosis) = match self.planner.candidates(&self.state, id) {
            Ok(found) => found,
            Err(diagnosis) => return Ok(Decision::Nowhere(diagnosis)),
        };
        let read = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).map_err(|e| e.to_string());
        let pod = self.raw_pods.get(&id).map(read).transpose()?.unwrap_or_default();
        let objects = self.objects_of(&candidates, extenders)?;
        for extender in extenders.iter().filter(|e| e.filters()) {
            let answer = extender.filter(&pod, &self.offers(&candidates, &objects)).await;
            match answer {
                Ok(answer) => {
                    candidates.retain(|(node, _)| self.stays(*node, &answer, &mut diagnosis));
                }
                Err(why) if extender.is_ignorable() => tracing::warn!("an ignorable extender is ignored: {why}"),
                Err(why) => return Err(why),
            }
            if candidates.is_empty() {
                return Ok(Decision::Nowhere(Box::new(diagnosis)));
            }
        }
        for extender in extenders.iter().filter(|e| e.prioritizes()) {
            // Upstream as well goes on without the scores of an extender that fails.
            match extender.prioritize(&pod, &self.offers(&candidates, &objects)).await {
                Ok(scores) => {
                    let of = |id: NodeId| scores.get(&*self.state.node(id).name).copied().unwrap_or(0);
                    candidates.iter_mut().for_each(|(node, total)| *total += of(*node));
                }
                Err(why) => tracing::warn!("an extender gives no scores: {why}"),
            }
        }
        Ok(Decision::Place(self.planner.pick(&candidates)))
    }

    /// Where room is made for a pod that fits nowhere, as far as extenders agree; or why nowhere, in words.
    async fn agreed_room(&mut self, id: PodId, diagnosis: &Diagnosis, extenders: &[Arc<Extender>]) -> Option<Result<Preemption, String>> {
        if !self.may_preempt(id, diagnosis) {
            return None;
        }
        let mut rooms = match self.planner.rooms(&self.state, id, diagnosis) {
            Ok(rooms) => rooms,
            Err(why) => return Some(Err(why)),
        };
        for extender in extenders.iter().filter(|e| e.preempts()) {
            match trim(&self.state, &self.raw_pods, id, extender, &rooms).await {
                Ok(left) => rooms = left,
                Err(why) if extender.is_ignorable() => tracing::warn!("an ignorable extender is ignored: {why}"),
                Err(why) => return Some(Err(why)),
            }
            if rooms.is_empty() {
                break;
            }
        }
        Some(preempt::choose(&self.state, rooms).ok_or_else(|| preempt::NO_CANDIDATE.to_owned()))
    }

    /// The objects of nodes, where an extender wants them.
    fn objects_of(&self, candidates: &[(NodeId, i64)], extenders: &[Arc<Extender>]) -> Result<HashMap<NodeId, Value>, String> {
        if !extenders.iter().any(|e| e.wants_nodes()) {
            return Ok(HashMap::new());
        }
        let raw = candidates.iter().filter_map(|(id, _)| Some((*id, self.raw_nodes.get(&self.state.node(*id).name)?)));
        raw.map(|(id, bytes)| Ok((id, serde_json::from_slice(bytes).map_err(|e| e.to_string())?))).collect()
    }

    fn offers<'a>(&'a self, candidates: &[(NodeId, i64)], objects: &'a HashMap<NodeId, Value>) -> Vec<Offer<'a>> {
        candidates.iter().map(|(id, _)| (&*self.state.node(*id).name, objects.get(id))).collect()
    }

    fn stays(&self, node: NodeId, answer: &crate::extender::Filtered, diagnosis: &mut Diagnosis) -> bool {
        let name = &*self.state.node(node).name;
        if let Some((reason, unresolvable)) = answer.failed.get(name) {
            diagnosis.note_extender(node, reason.clone(), *unresolvable);
            return false;
        }
        let fits = answer.fit.iter().any(|n| n == name);
        if !fits {
            diagnosis.note_extender(node, "node(s) were rejected by an extender".to_owned(), false);
        }
        fits
    }
}

/// What an extender leaves of the places where room can be made.
async fn trim(
    state: &State,
    raw_pods: &HashMap<PodId, Bytes>,
    id: PodId,
    extender: &Extender,
    rooms: &[Preemption],
) -> Result<Vec<Preemption>, String> {
    let read = |id: &PodId| raw_pods.get(id).and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
    let offer = |room: &Preemption| Room {
        node: &state.node(room.node).name,
        victims: room.victims.iter().map(|v| (&*state.pod(*v).uid, read(v).filter(|_| extender.wants_nodes()))).collect(),
        violations: room.violations,
    };
    let offers: Vec<Room<'_>> = rooms.iter().map(offer).collect();
    let answer = extender.preempt(&read(&id).unwrap_or_default(), &offers).await?;
    let mut left = Vec::new();
    for (name, (uids, violations)) in answer {
        if uids.is_empty() {
            if extender.is_ignorable() {
                tracing::warn!("an extender names no victim on node {name}, which is left out");
                continue;
            }
            return Err(format!("expected at least one victim pod on node {name:?}"));
        }
        let unknown = |what: &str| format!("extender: {} claims to preempt {what} on node: {name}", extender.name());
        let node = state.node_named(&name).ok_or_else(|| unknown("pods"))?;
        let pods = &state.node(node).pods;
        let victim = |uid: &String| {
            let found = pods.iter().copied().find(|p| *state.pod(*p).uid == **uid);
            found.ok_or_else(|| unknown(&format!("pod (UID: {uid})")) + ", but the pod is not found on that node")
        };
        let victims = uids.iter().map(victim).collect::<Result<_, _>>()?;
        left.push(Preemption { node, victims, violations });
    }
    // The same order whatever the order of the answer.
    left.sort_by_key(|room| room.node);
    Ok(left)
}
