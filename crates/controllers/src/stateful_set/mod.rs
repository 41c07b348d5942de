//! Stateful sets: pods with a name, a place in an order and claims that stay.
//!
//! Reads stateful sets, pods, claims and revisions; writes pods, claims, revisions and the status of stateful sets.
//! Names are fixed, so a lagging cache cannot make twins. Source: `pkg/controller/statefulset`.

mod identity;
mod plan;
mod retention;

use crate::Context;
use crate::pods::{Pods, from_template, phase};
use crate::revisions::{self, History, Of, Revisions, Stop};
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::Desc;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Named, ObjectKey, Optional, Resource, Status};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use plan::{Step, View};
use retention::Owners;
use std::collections::BTreeSet;

static SKIPS: Desc = Desc::counter(
    "statefulset_controller_stale_sync_skips_total",
    "[ALPHA] Total number of StatefulSet syncs skipped due to a stale watch cache.",
    &["group", "resource"],
);

struct Sets {
    context: Context,
    sets: Cache<StatefulSet>,
    claims: Cache<PersistentVolumeClaim>,
    pods: Pods,
    revisions: Revisions,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("statefulset");
    let sets: Cache<StatefulSet> = context.caches.of();
    let claims: Cache<PersistentVolumeClaim> = context.caches.of();
    let add = queue.clone();
    sets.on_change(move |d| add.add(d.key().clone()));
    let (add, known) = (queue.clone(), sets.clone());
    claims.on_change(move |d| {
        // A pod may wait for the end of the claim of the one before it.
        if d.new.is_none() {
            let name = &d.key().name;
            known.objects_in(&d.key().namespace).iter().filter(|s| name.contains(&*s.key.name)).for_each(|s| add.add(s.key.clone()));
        }
    });
    let pods = Pods::new(context.caches.of(), &sets, |set: StatefulSet| Some(set.spec?.selector), &queue);
    let pods = pods.consistent(&context.metrics, &SKIPS, &sets);
    let revisions = Revisions::new(context.caches.of(), StatefulSet::KIND, revisions::NAMED_HASH);
    tokio::join!(sets.synced(), claims.synced(), pods.cache.synced(), revisions.synced());
    let all = Sets { context, sets, claims, pods, revisions };
    let reconcile = |key: ObjectKey| all.reconcile(key);
    controller::run::<_, Error, _, _>("statefulset", queue, 5, reconcile).await;
}

/// Why a pod cannot have its claims.
#[derive(Debug, thiserror::Error)]
enum Unclaimed {
    #[error("failed to create PVC {0}: {1}")]
    Refused(String, Error),
    #[error("failed to retrieve PVC {0}: {1}")]
    Unknown(String, Error),
    #[error("pvc {0} is being deleted")]
    Leaving(String),
}

impl From<Unclaimed> for Error {
    fn from(unclaimed: Unclaimed) -> Self {
        match unclaimed {
            Unclaimed::Refused(_, error) | Unclaimed::Unknown(_, error) => error,
            leaving @ Unclaimed::Leaving(_) => Status::internal(leaving).into(),
        }
    }
}

impl Sets {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.read(&key.namespace, &key.name)? else { return Ok(Next::Wait) };
        let Some(spec) = set.spec.clone() else { return Ok(Next::Wait) };
        if let Some(again) = self.pods.is_behind(set.uid()) {
            return Ok(Next::After(again));
        }
        let accept = |o: &ferrokube_client::Object| identity::ordinal(&key.name, &o.key.name).is_some();
        let unsettled = self.pods.unsettled(set.uid());
        let pods = self.pods.claim_if(&self.context.client, &set, &spec.selector, accept).await?;
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Wait);
        }
        let collisions = set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
        let of = Of { owner: &set, template: &spec.template, selector: &spec.selector, collisions };
        let history = match self.revisions.history(&self.context.client, &of).await {
            Ok(history) => history,
            Err(Stop::Collision) => return self.collided(set).await,
            Err(Stop::Failed(e)) if e.is_namespace_terminating() => return Ok(Next::Wait),
            Err(Stop::Failed(e)) => return Err(e),
        };
        let update = history.current.name().to_owned();
        let current =
            set.status.as_ref().and_then(|s| s.current_revision.clone()).filter(|r| !r.is_empty()).unwrap_or_else(|| update.clone());
        let claim = |name: &str| self.claims.get(&key.namespace, name);
        let view = View { set: &set, pods: &pods, current: &current, update: &update, claim: &claim, now: Timestamp::now() };
        let mut failure = None;
        if unsettled.is_none() {
            for step in plan::steps(&view) {
                // The next steps count on this one: a pod must not go before its claims have their owners.
                if let Err(e) = self.apply(&set, &history, &current, step).await {
                    failure = Some(e);
                    break;
                }
            }
        }
        let (status, soon) = plan::status(&view);
        if set.status.as_ref() != Some(&status) {
            let changed = StatefulSet { status: Some(status), ..set.clone() };
            self.write_status(&changed).await?;
        }
        let mut live: BTreeSet<String> = pods.iter().filter_map(|p| p.metadata.labels.as_ref()?.get(revisions::HASH).cloned()).collect();
        live.extend([current, update]);
        self.revisions.clean(&self.context.client, &history, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        match failure {
            Some(e) if e.is_namespace_terminating() => Ok(Next::Wait),
            Some(e) => Err(e),
            None => Ok([soon, unsettled, self.pods.awaited(set.uid())].into_iter().flatten().min().map_or(Next::Wait, Next::After)),
        }
    }

    async fn collided(&self, mut set: StatefulSet) -> Result<Next, Error> {
        *set.status.get_or_insert_default().collision_count.get_or_insert_default() += 1;
        self.write_status(&set).await?;
        Ok(Next::Wait)
    }

    async fn write_status(&self, set: &StatefulSet) -> Result<(), Error> {
        let written = self.context.client.update_status(set).await.optional()?;
        written.iter().for_each(|w| self.pods.wrote(set.uid(), w));
        Ok(())
    }

    async fn apply(&self, set: &StatefulSet, history: &History, current: &str, step: Step) -> Result<(), Error> {
        match step {
            Step::Create { ordinal, updated } => self.create(set, history, current, ordinal, updated).await,
            Step::Claim { ordinal } => Ok(self.claim_volumes(set, ordinal).await?),
            Step::Relabel(pod) => self.relabel(set, &pod).await,
            Step::Own(claim, owners) => self.own(set, *claim, owners).await,
            Step::Delete(pod) => self.delete(set, &pod).await,
        }
    }

    async fn create(&self, set: &StatefulSet, history: &History, current: &str, at: i32, updated: bool) -> Result<(), Error> {
        if let Err(e) = self.claim_volumes(set, at).await {
            let message = format!("create Pod {}-{at} in StatefulSet {} failed error: {e}", set.name(), set.name());
            self.context.recorder.about(set, EventType::Warning, "FailedCreate", message);
            return Err(e.into());
        }
        let newest = &history.current;
        let earlier = history.old.iter().find(|r| r.name() == current);
        let revision = if updated { newest } else { earlier.unwrap_or(newest) };
        let template = revisions::template(revision).or_else(|| set.spec.as_ref().map(|s| s.template.clone())).unwrap_or_default();
        let mut pod = from_template(set, &template);
        identity::shape(set, at, revision.name(), &mut pod);
        let (client, name) = (&self.context.client, pod.name().to_owned());
        match client.create(&pod).await {
            Ok(made) => {
                self.pods.wrote(set.uid(), &made);
                let message = format!("create Pod {name} in StatefulSet {} successful", set.name());
                self.context.recorder.about(set, EventType::Normal, "SuccessfulCreate", message);
                Ok(())
            }
            // Ours, and the cache lags behind; or somebody else's, then the next look at it says so again.
            Err(e) if e.is_already_exists() && self.is_ours(set, &name).await? => Ok(()),
            Err(e) => {
                if !e.is_namespace_terminating() {
                    let message = format!("create Pod {name} in StatefulSet {} failed error: {e}", set.name());
                    self.context.recorder.about(set, EventType::Warning, "FailedCreate", message);
                }
                Err(e)
            }
        }
    }

    async fn is_ours(&self, set: &StatefulSet, name: &str) -> Result<bool, Error> {
        let there = self.context.client.get::<Pod>(set.namespace(), name).await.optional()?;
        let ours = there.filter(|p| p.metadata.owner_references.iter().flatten().any(|r| r.uid == set.uid()));
        // The cache is to show it before anything else is done.
        ours.iter().for_each(|pod| self.pods.wrote(set.uid(), pod));
        Ok(ours.is_some())
    }

    /// Sees to it that a pod finds its claims. One that is being deleted would keep it from ever starting.
    async fn claim_volumes(&self, set: &StatefulSet, at: i32) -> Result<(), Unclaimed> {
        for claim in identity::claims(set, at) {
            let name = claim.name().to_owned();
            if let Some(there) = self.claims.get(claim.namespace(), &name) {
                match there.metadata.deletion_timestamp {
                    Some(_) => return Err(Unclaimed::Leaving(name)),
                    None => continue,
                }
            }
            let pod = format!("Pod {}-{at} in StatefulSet {}", set.name(), set.name());
            match self.context.client.create(&claim).await {
                Ok(_) => {
                    let message = format!("create Claim {name} {pod} success");
                    self.context.recorder.about(set, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(e) if e.is_already_exists() => {
                    let there = self.context.client.get::<PersistentVolumeClaim>(claim.namespace(), &name).await.optional();
                    let there = there.map_err(|e| Unclaimed::Unknown(name.clone(), e))?;
                    if there.is_none_or(|c| c.metadata.deletion_timestamp.is_some()) {
                        return Err(Unclaimed::Leaving(name));
                    }
                }
                Err(e) => {
                    let message = format!("create Claim {name} for {pod} failed error: {e}");
                    self.context.recorder.about(set, EventType::Warning, "FailedCreate", message);
                    return Err(Unclaimed::Refused(name, e));
                }
            }
        }
        Ok(())
    }

    /// Says how a verb on a pod went, unless the pod was gone already.
    fn tell(&self, set: &StatefulSet, verb: &str, pod: &Pod, outcome: &Result<(), Error>) {
        let (kind, reason, end) = match outcome {
            Ok(()) => (EventType::Normal, "Successful", "successful".to_owned()),
            Err(e) => (EventType::Warning, "Failed", format!("failed error: {e}")),
        };
        let verb_in_reason = format!("{}{}", verb[..1].to_uppercase(), &verb[1..]);
        let message = format!("{verb} Pod {} in StatefulSet {} {end}", pod.name(), set.name());
        self.context.recorder.about(set, kind, &format!("{reason}{verb_in_reason}"), message);
    }

    async fn relabel(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let outcome = self.context.client.update(pod).await.optional();
        let outcome = outcome.map(|pod| pod.iter().for_each(|pod| self.pods.wrote(set.uid(), pod)));
        self.tell(set, "update", pod, &outcome);
        outcome
    }

    async fn own(&self, set: &StatefulSet, mut claim: PersistentVolumeClaim, owners: Owners) -> Result<(), Error> {
        if owners.conflict {
            let message = format!(
                "PersistentVolumeClaim {} has a conflicting OwnerReference that acts as a managing controller, the retention policy is ignored for this claim",
                claim.name()
            );
            self.context.recorder.about(set, EventType::Warning, "ConflictingController", message);
        }
        claim.metadata.owner_references = Some(owners.references);
        self.context.client.update(&claim).await.optional().map(drop)
    }

    /// Gives a pod that takes its claims along those that the cache does not show yet: once it is gone nothing would take them. Upstream
    /// leaves them behind.
    async fn own_unseen(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let Some(at) = identity::ordinal(set.name(), pod.name()).filter(|at| retention::goes_with_pod(set, *at)) else { return Ok(()) };
        for claim in identity::claims(set, at) {
            if self.claims.object(claim.namespace(), claim.name()).is_some() {
                continue;
            }
            let there = self.context.client.get::<PersistentVolumeClaim>(claim.namespace(), claim.name()).await.optional()?;
            let Some(claim) = there else { continue };
            if let Some(owners) = retention::owners(set, pod, true, &claim) {
                self.own(set, claim, owners).await?;
            }
        }
        Ok(())
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        self.own_unseen(set, pod).await?;
        // One beyond the wanted number is not made again.
        let wanted = identity::ordinal(set.name(), pod.name()).is_some_and(|at| identity::wanted(set).contains(&at));
        let over = match phase(pod) {
            _ if !wanted => None,
            "Failed" => Some((EventType::Warning, "RecreatingFailedPod", "failed")),
            "Succeeded" => Some((EventType::Normal, "RecreatingTerminatedPod", "terminated")),
            _ => None,
        };
        if let Some((kind, reason, word)) = over {
            let message = format!("StatefulSet {}/{} is recreating {word} Pod {}", set.namespace(), set.name(), pod.name());
            self.context.recorder.about(set, kind, reason, message);
        }
        let options = DeleteOptions::of_uid(pod.uid());
        let outcome = self.context.client.delete::<Pod>(pod.namespace(), pod.name(), &options).await.optional().map(drop);
        self.tell(set, "delete", pod, &outcome);
        outcome
    }
}
