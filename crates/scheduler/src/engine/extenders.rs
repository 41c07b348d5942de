//! Deciding with extenders: their answers are waited for, pod by pod, as upstream does.

use super::Engine;
use crate::class::Class;
use crate::diagnosis::Diagnosis;
use crate::extender::{Extender, Offer};
use crate::metrics::Outcome;
use crate::node::{NodeId, PodId};
use crate::plan::Decision;
use crate::writes::Subject;
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
        let Some(id) = self.queue.pop() else { return };
        let began = Instant::now();
        let extenders = self.interested(self.state.class_of(id));
        if extenders.is_empty() {
            let decision = self.planner.decide(&self.state, id);
            return self.decided(id, decision, began);
        }
        match self.ask(id, &extenders).await {
            Ok(decision) => self.decided(id, decision, began),
            Err(message) => {
                let pod = Subject::of(self.state.pod(id));
                tracing::warn!(pod = %pod.key, "{message}");
                self.metrics.tried(self.name(pod.profile), Outcome::Error, began.elapsed());
                let new = self.queue.fail(id, &message, Instant::now());
                self.say(pod, "SchedulerError", message, None, new);
            }
        }
    }

    async fn ask(&mut self, id: PodId, extenders: &[Arc<Extender>]) -> Result<Decision, String> {
        let (mut candidates, mut diagnosis) = match self.planner.candidates(&self.state, id) {
            Ok(found) => found,
            Err(diagnosis) => return Ok(Decision::Nowhere(diagnosis)),
        };
        let read = |bytes: &bytes::Bytes| serde_json::from_slice::<Value>(bytes).map_err(|e| e.to_string());
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
