//! Daemon sets: one pod on every node that fits.
//!
//! Reads daemon sets, pods, nodes and revisions; writes pods, revisions and the status of daemon sets. The scheduler
//! binds the pods, which are tied to their node by affinity. Source: `pkg/controller/daemon`.

mod failed;
mod plan;

use crate::Context;
use crate::pods::{self, Pods};
use crate::revisions::{self, Of, Revisions, Stop};
use failed::Failures;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::metrics::Desc;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Error, Named, Object, ObjectKey, Optional, Resource};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, NodeSpec, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use plan::{Plan, View};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;

static SKIPS: Desc = Desc::counter(
    "daemonset_controller_stale_sync_skips_total",
    "[ALPHA] Total number of DaemonSet syncs skipped due to a stale watch cache.",
    &["group", "resource"],
);

struct Daemons {
    context: Context,
    sets: Cache<DaemonSet>,
    nodes: Cache<Node>,
    pods: Pods,
    revisions: Revisions,
    failures: Mutex<Failures>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("daemonset");
    let sets: Cache<DaemonSet> = context.caches.of();
    let nodes: Cache<Node> = context.caches.of();
    let add = queue.clone();
    sets.on_change(move |d| add.add(d.key().clone()));
    let pods = Pods::new(context.caches.of(), &sets, |set: DaemonSet| Some(set.spec?.selector), &queue);
    let pods = pods.consistent(&context.metrics, &SKIPS, &sets);
    let (add_all, known) = (queue.clone(), sets.clone());
    nodes.on_change(move |d| {
        let same = d.old.zip(d.new).is_some_and(|(a, b)| a.labels == b.labels && taints(a) == taints(b));
        if !same {
            known.objects().iter().for_each(|s| add_all.add(s.key.clone()));
        }
    });
    let revisions = Revisions::new(context.caches.of(), DaemonSet::KIND, revisions::HASH);
    tokio::join!(sets.synced(), nodes.synced(), pods.cache.synced(), revisions.synced());
    let all = Daemons { context, sets, nodes, pods, revisions, failures: Mutex::default() };
    let reconcile = |key: ObjectKey| all.reconcile(key);
    controller::run::<_, Error, _, _>("daemonset", queue, 2, reconcile).await;
}

/// What of a node's spec decides about daemons.
fn taints(node: &Arc<Object>) -> Option<Vec<Taint>> {
    #[derive(serde::Deserialize)]
    struct Outer {
        #[serde(default)]
        spec: Inner,
    }
    #[derive(Default, serde::Deserialize)]
    struct Inner {
        #[serde(default)]
        taints: Option<Vec<Taint>>,
    }
    node.decode::<Outer>().ok().and_then(|o| o.spec.taints)
}

/// A node without its status, which is most of it and decides nothing here.
fn slim(node: &Object) -> Option<Node> {
    #[derive(serde::Deserialize)]
    struct Slim {
        metadata: ObjectMeta,
        #[serde(default)]
        spec: Option<NodeSpec>,
    }
    node.decode::<Slim>().ok().map(|s| Node { metadata: s.metadata, spec: s.spec, status: None })
}

impl Daemons {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.read(&key.namespace, &key.name)? else { return Ok(Next::Wait) };
        let Some(spec) = set.spec.clone() else { return Ok(Next::Wait) };
        if let Some(again) = self.pods.is_behind(set.uid()) {
            return Ok(Next::After(again));
        }
        if spec.selector == Default::default() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.context.recorder.about(&set, EventType::Warning, "SelectingAll", message);
            return Ok(Next::Wait);
        }
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
        let hash = revisions::hash(&history.current).to_owned();
        let unsettled = self.pods.unsettled(set.uid());
        let pods = self.pods.claim(&self.context.client, &set, &spec.selector).await?;
        let nodes: Vec<Node> = self.nodes.objects().iter().filter_map(|o| slim(o)).collect();
        let generation = set.metadata.generation.unwrap_or(0);
        let waits = self.failures.lock().waits(set.uid(), generation, Instant::now());
        let view = View { set: &set, nodes: &nodes, pods: &pods, hash: &hash, waits: &waits, now: Timestamp::now() };
        let (mut failure, mut again) = (None, None);
        if unsettled.is_none() {
            let mut plan = plan::manage(&view);
            again = plan.again;
            if plan.create.is_empty() && plan.delete.is_empty() {
                plan = plan::roll(&view);
            }
            plan.failed.iter().for_each(|node| self.failures.lock().note(set.uid(), generation, node, Instant::now()));
            failure = self.apply(&set, &hash, plan).await;
            let live: BTreeSet<String> = pods.iter().filter_map(|p| p.metadata.labels.as_ref()?.get(revisions::HASH).cloned()).collect();
            self.revisions.clean(&self.context.client, &history, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        }
        let (status, soon) = plan::status(&view);
        if set.status.as_ref() != Some(&status) {
            let changed = DaemonSet { status: Some(status), ..set.clone() };
            self.write_status(&changed).await?;
        }
        match failure {
            Some(e) if e.is_namespace_terminating() => Ok(Next::Wait),
            Some(e) => Err(e),
            None => Ok([soon, again, unsettled, self.pods.awaited(set.uid())].into_iter().flatten().min().map_or(Next::Wait, Next::After)),
        }
    }

    async fn collided(&self, mut set: DaemonSet) -> Result<Next, Error> {
        *set.status.get_or_insert_default().collision_count.get_or_insert_default() += 1;
        self.write_status(&set).await?;
        Ok(Next::Wait)
    }

    async fn write_status(&self, set: &DaemonSet) -> Result<(), Error> {
        let written = self.context.client.update_status(set).await.optional()?;
        written.iter().for_each(|w| self.pods.wrote(set.uid(), w));
        Ok(())
    }

    async fn apply(&self, set: &DaemonSet, hash: &str, plan: Plan) -> Option<Error> {
        let (client, recorder) = (&self.context.client, &self.context.recorder);
        for (kind, reason, message) in plan.events {
            recorder.about(set, kind, reason, message);
        }
        let deletes = plan.delete.iter().map(|pod| self.pods.delete(client, recorder, set, pod));
        let failure = futures_util::future::join_all(deletes).await.into_iter().find_map(Result::err);
        let create = &plan.create;
        let (_, error) = pods::slow_start(create.len(), |at| self.create(set, hash, &create[at])).await;
        failure.or(error)
    }

    async fn create(&self, set: &DaemonSet, hash: &str, node: &str) -> Result<(), Error> {
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let generation = set.metadata.annotations.as_ref().and_then(|a| a.get(plan::GENERATION)).cloned();
        let shape = |pod: &mut Pod| {
            let labels = pod.metadata.labels.get_or_insert_default();
            labels.insert(revisions::HASH.into(), hash.into());
            labels.extend(generation.map(|g| ("pod-template-generation".to_owned(), g)));
            if let Some(spec) = &mut pod.spec {
                plan::tolerate(spec);
                plan::pin(spec, node);
            }
        };
        self.pods.create(&self.context.client, &self.context.recorder, set, &template, shape).await.map(drop)
    }
}
