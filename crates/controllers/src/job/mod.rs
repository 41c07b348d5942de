//! Jobs: pods that run to their end, counted exactly once.
//!
//! Reads jobs and pods; writes pods, their tracking finalizer and the status of jobs. The status says what was counted
//! before a finalizer says that it was: a crash between the two loses and doubles nothing. Source: `pkg/controller/job`.

mod counts;
mod indexes;
mod measure;
mod plan;
mod policy;
#[cfg(test)]
mod tests;

pub(crate) use plan::is_finished;

use crate::Context;
use crate::latest::Latest;
use crate::pods::{self, Pods};
use counts::Counts;
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::EventType;
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, Client, Error, Index, ListOptions, Named, Object, ObjectKey, Optional, Patch};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use parking_lot::Mutex;
use plan::{Backoff, NewPod, Plan, View};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Finalizer of pods that are not counted yet.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label with the completion index.
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation with the failures of the index before this pod.
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// `managedBy` of jobs that are ours; also when absent.
const MANAGER: &str = "kubernetes.io/job-controller";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// How long a cache that is behind another process is given to catch up.
const LAG: Duration = Duration::from_secs(1);

struct Jobs {
    context: Context,
    jobs: Cache<Job>,
    pods: Pods,
    known: Arc<Known>,
}

/// What is known of jobs beyond what the caches show, by UID, until they are gone.
#[derive(Default)]
struct Known {
    written: Latest<Job>,
    backoffs: Mutex<HashMap<String, Backoff>>,
    counts: Counts,
}

impl Known {
    fn forget(&self, uid: &str) {
        self.written.forget(uid);
        self.backoffs.lock().remove(uid);
        self.counts.forget(uid);
    }
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("job");
    let orphans: Queue<ObjectKey> = context.queue("job_orphan_pod");
    let jobs: Cache<Job> = context.caches.of();
    let known = Arc::<Known>::default();
    let (add, metrics, gone) = (queue.clone(), context.metrics.clone(), known.clone());
    jobs.on_change(move |d| {
        add.add(d.key().clone());
        if d.new.is_none() {
            gone.forget(&d.latest().uid);
        }
        if let (None, Some(made)) = (d.old, d.new) {
            external_manager(made).iter().for_each(|m| measure::external(&metrics, m));
        }
    });
    let pods = Pods::new(context.caches.of(), &jobs, |job: Job| job.spec?.selector, &queue).held_by(FINALIZER);
    let tracked = watch_orphans(&jobs, &pods.cache, &orphans);
    let metrics = context.metrics.clone();
    pods.cache.on_change(move |d| measure::tracked(&metrics, is_over_and_tracked(d.old), is_over_and_tracked(d.new)));
    tokio::join!(jobs.synced(), pods.cache.synced());
    let all = Jobs { context: context.clone(), jobs: jobs.clone(), pods, known };
    let reconcile = |key: ObjectKey| all.reconcile(key);
    let free = |key: ObjectKey| free(&context.client, &jobs, &all.pods.cache, key);
    let work = controller::run::<_, Error, _, _>("job", queue, 5, reconcile);
    tokio::join!(work, controller::run::<_, Error, _, _>("job-orphans", orphans, 1, free));
    drop(tracked);
}

/// Whether an encoded pod is over and still has the finalizer. Pods of others are not decoded.
fn is_over_and_tracked(pod: Option<&Arc<Object>>) -> bool {
    #[derive(serde::Deserialize)]
    struct Outer {
        #[serde(default)]
        status: Inner,
    }
    #[derive(Default, serde::Deserialize)]
    struct Inner {
        #[serde(default)]
        phase: String,
    }
    let phase = pod.filter(|o| o.mentions(FINALIZER.as_bytes())).and_then(|o| o.decode::<Outer>().ok()).map(|o| o.status.phase);
    phase.is_some_and(|p| matches!(p.as_str(), "Succeeded" | "Failed"))
}

/// Who runs a job, when it is not this controller.
fn external_manager(job: &Object) -> Option<String> {
    // Mostly nobody does, and then nothing is decoded.
    let manager = job.mentions(b"\"managedBy\"").then(|| decoded::<Job>(job)).flatten().and_then(|j| j.spec?.managed_by);
    manager.filter(|m| m != MANAGER)
}

/// Pods that still have the finalizer when their job is gone must be let go, or they would never vanish.
fn watch_orphans(jobs: &Cache<Job>, pods: &Cache<Pod>, queue: &Queue<ObjectKey>) -> Arc<Index> {
    let tracked = pods.index(|o| {
        let finalizer = o.mentions(FINALIZER.as_bytes());
        if finalizer { o.owners().into_iter().filter(|r| r.controller).map(|r| r.uid).collect() } else { Vec::new() }
    });
    let (add, known) = (queue.clone(), jobs.clone());
    pods.on_change(move |d| {
        let Some(pod) = d.new.filter(|o| o.mentions(FINALIZER.as_bytes())) else { return };
        let owner = pod.controller();
        let there = owner.and_then(|o| known.object(&pod.key.namespace, &o.name).filter(|j| *j.uid == *o.uid));
        if there.is_none() {
            add.add(pod.key.clone());
        }
    });
    let (add, index) = (queue.clone(), tracked.clone());
    jobs.on_change(move |d| {
        if d.new.is_none() {
            index.get(&d.latest().uid).iter().for_each(|p| add.add(p.key.clone()));
        }
    });
    tracked
}

async fn free(client: &Client, jobs: &Cache<Job>, pods: &Cache<Pod>, key: ObjectKey) -> Result<Next, Error> {
    let Some(pod) = pods.get(&key.namespace, &key.name).filter(plan::is_tracked) else { return Ok(Next::Wait) };
    let owner = pod.metadata.owner_references.iter().flatten().find(|r| r.controller == Some(true));
    if let Some(owner) = owner {
        // The cache may not show the job yet.
        let cached = jobs.object(&key.namespace, &owner.name).is_some_and(|j| *j.uid == *owner.uid);
        if cached || client.get::<Job>(&key.namespace, &owner.name).await.optional()?.is_some_and(|j| j.uid() == owner.uid) {
            return Ok(Next::Wait);
        }
    }
    // As it is known here, without an owner: one that is adopted meanwhile keeps its finalizer, or it would never be counted.
    let meta = json!({"resourceVersion": pod.metadata.resource_version, "uid": pod.uid()});
    release_with(client, &pod, meta).await.map(|()| Next::Wait)
}

async fn release(client: &Client, pod: &Pod) -> Result<(), Error> {
    release_with(client, pod, json!({"uid": pod.uid()})).await
}

/// Takes the finalizer off a pod that is what `meta` says.
async fn release_with(client: &Client, pod: &Pod, mut meta: Value) -> Result<(), Error> {
    meta["$deleteFromPrimitiveList/finalizers"] = json!([FINALIZER]);
    match client.patch::<Pod>(pod.namespace(), pod.name(), &Patch::Strategic(json!({"metadata": meta}))).await {
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

impl Jobs {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(object) = self.jobs.object(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        let Some(job) = decoded::<Job>(&object).map(|j| self.known.written.of(j)) else { return Ok(Next::Wait) };
        if job.spec.as_ref().and_then(|s| s.managed_by.as_deref()).is_some_and(|m| m != MANAGER) {
            return Ok(Next::Wait);
        }
        if is_finished(&job) {
            return self.after_the_end(&job).await;
        }
        let selector = job.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        let unsettled = self.pods.unsettled(job.uid());
        let pods = self.pods.claim(&self.context.client, &job, &selector).await?;
        let Some(pods) = self.as_counted(&job, pods).await? else { return Ok(Next::After(LAG)) };
        let backoff = self.known.backoffs.lock().get(job.uid()).copied().unwrap_or_default();
        let mut plan = plan::plan(&View { job: &job, pods: &pods, settled: unsettled.is_none(), backoff, now: Timestamp::now() });
        plan.again = [plan.again, unsettled].into_iter().flatten().min();
        let (started, action) = (Instant::now(), measure::action(&plan));
        let outcome = self.apply(&job, plan).await;
        measure::synced(&self.context.metrics, &job, action, outcome.is_ok(), started.elapsed());
        outcome
    }

    /// The pods as they are after what is known to have been released, so that none is counted twice: the cache of pods may
    /// lag behind the status of the job, in which they are counted. `None`: it lags behind another process.
    async fn as_counted(&self, job: &Job, mut pods: Vec<Pod>) -> Result<Option<Vec<Pod>>, Error> {
        let (counts, uid, status) = (&self.known.counts, job.uid(), job.status.as_ref());
        if counts.are_others(uid, status, &pods) && !counts.check(uid, status, &pods, &self.there(job).await?) {
            return Ok(None);
        }
        counts.correct(uid, &mut pods);
        Ok(Some(pods))
    }

    /// The job's pods as the API server knows them.
    async fn there(&self, job: &Job) -> Result<Vec<Pod>, Error> {
        let selector = job.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        let labels: Vec<String> = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        let options = ListOptions { labels: labels.join(","), ..ListOptions::default() };
        let pods: Vec<Pod> = self.context.client.list(job.namespace(), &options).await?;
        Ok(pods.into_iter().filter(|p| pods::matches(&selector, p.metadata.labels.as_ref())).collect())
    }

    async fn after_the_end(&self, job: &Job) -> Result<Next, Error> {
        // What was written stays known: the cache may not show for a while that this is the end.
        self.known.counts.forget(job.uid());
        self.known.backoffs.lock().remove(job.uid());
        for pod in self.pods.of(job.uid())?.iter().filter(|p| plan::is_tracked(p)) {
            release(&self.context.client, pod).await?;
        }
        Ok(Next::Wait)
    }

    /// Pods, then the status, then the finalizers of what the status counts.
    async fn apply(&self, job: &Job, mut plan: Plan) -> Result<Next, Error> {
        let (client, recorder) = (&self.context.client, &self.context.recorder);
        let deletes = plan.delete.iter().map(|pod| async {
            if plan.surplus && plan::is_tracked(pod) {
                self.release(job, pod).await?;
            }
            self.pods.delete(client, recorder, job, pod).await
        });
        let mut failure = futures_util::future::join_all(deletes).await.into_iter().find_map(Result::err);
        if !plan.create.is_empty() {
            let create = &plan.create;
            let (made, error) = pods::slow_start(create.len(), |at| self.create(job, create[at])).await;
            measure::created(&self.context.metrics, job, made, create.len() - made);
            let missing = i32::try_from(create.len() - made).unwrap_or(0);
            plan.status.active = plan.status.active.map(|n| n - missing).filter(|n| *n > 0);
            failure = failure.or(error);
        }
        if job.status.as_ref() != Some(&plan.status) {
            let changed = Job { status: Some(plan.status), ..job.clone() };
            match client.update_status(&changed).await.optional()? {
                Some(written) => {
                    measure::written(&self.context.metrics, job, &written.status.clone().unwrap_or_default());
                    self.known.counts.wrote(job.uid(), written.status.as_ref());
                    self.known.written.wrote(&written);
                }
                None => return Ok(Next::Wait),
            }
            for (warning, reason, message) in plan.events {
                let kind = if warning { EventType::Warning } else { EventType::Normal };
                recorder.about(job, kind, &reason, message);
            }
        }
        self.known.backoffs.lock().insert(job.uid().to_owned(), plan.backoff);
        measure::judged(&self.context.metrics, job, &plan.release);
        let releases = plan.release.iter().map(|pod| self.release(job, pod));
        futures_util::future::join_all(releases).await.into_iter().collect::<Result<Vec<()>, Error>>()?;
        match failure {
            Some(e) if e.is_namespace_terminating() => Ok(Next::Wait),
            Some(e) => Err(e),
            None => Ok(plan.again.map_or(Next::Wait, Next::After)),
        }
    }

    async fn release(&self, job: &Job, pod: &Pod) -> Result<(), Error> {
        release(&self.context.client, pod).await?;
        self.known.counts.released(job.uid(), pod.uid());
        Ok(())
    }

    async fn create(&self, job: &Job, new: NewPod) -> Result<(), Error> {
        let template = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let shape = |pod: &mut Pod| shape(job, new, pod);
        self.pods.create(&self.context.client, &self.context.recorder, job, &template, shape).await.map(drop)
    }
}

/// What a job's pod has beyond the template.
fn shape(job: &Job, new: NewPod, pod: &mut Pod) {
    pod.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    let Some(index) = new.index else { return };
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.into(), index.to_string());
    if let Some(failures) = new.failures {
        annotations.insert(INDEX_FAILURES.into(), failures.to_string());
    }
    pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
    let name = job.name();
    pod.metadata.generate_name = Some(format!("{}-{index}-", &name[..name.len().min(57 - index.to_string().len())]));
    let Some(spec) = &mut pod.spec else { return };
    spec.hostname = Some(format!("{name}-{index}"));
    spec.init_containers.iter_mut().flatten().chain(&mut spec.containers).for_each(add_index_variable);
}

fn add_index_variable(container: &mut Container) {
    let list = container.env.get_or_insert_default();
    if list.iter().any(|v| v.name == INDEX_VARIABLE) {
        return;
    }
    let from = ObjectFieldSelector { field_path: format!("metadata.labels['{INDEX}']"), api_version: None };
    let value_from = Some(EnvVarSource { field_ref: Some(from), ..EnvVarSource::default() });
    list.push(EnvVar { name: INDEX_VARIABLE.into(), value: None, value_from });
}
