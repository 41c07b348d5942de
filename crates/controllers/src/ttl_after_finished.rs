//! Finished jobs go after `ttlSecondsAfterFinished`.
//!
//! Reads jobs, deletes them. Source: `pkg/controller/ttlafterfinished`.

use crate::Context;
use crate::job::is_finished;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::metrics::{Desc, Kind};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Named, ObjectKey, Optional};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use std::time::Duration;

static DELETED_AFTER: Desc = Desc {
    name: "ttl_after_finished_controller_job_deletion_duration_seconds",
    help: "[ALPHA] The time it took to delete the job since it became eligible for deletion",
    kind: Kind::Histogram(&[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2]),
    labels: &[],
};

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("ttl_jobs_to_delete");
    let jobs: Cache<Job> = context.caches.of();
    let add = queue.clone();
    jobs.on_change(move |d| {
        if d.new.is_some() {
            add.add(d.key().clone());
        }
    });
    jobs.synced().await;
    let reconcile = |key: ObjectKey| {
        let (client, metrics, jobs) = (&context.client, &context.metrics, &jobs);
        async move {
            let Some(left) = jobs.get(&key.namespace, &key.name).and_then(|j| left(&j, Timestamp::now())) else { return Ok(Next::Wait) };
            if !left.is_zero() {
                return Ok(Next::After(left));
            }
            // The field may have been changed at the last moment.
            let Some(job) = client.get::<Job>(&key.namespace, &key.name).await.optional()? else { return Ok(Next::Wait) };
            match self::left(&job, Timestamp::now()) {
                Some(left) if left.is_zero() => {
                    let options = DeleteOptions { propagation: Some("Foreground"), ..DeleteOptions::of_uid(job.uid()) };
                    client.delete::<Job>(&key.namespace, &key.name, &options).await.optional()?;
                    if let Some(end) = end(&job) {
                        let late = Timestamp::now().duration_since(end).as_secs_f64().max(0.0);
                        metrics.series(&DELETED_AFTER, &[]).observe(late);
                    }
                    Ok(Next::Wait)
                }
                later => Ok(later.map_or(Next::Wait, Next::After)),
            }
        }
    };
    controller::run::<_, Error, _, _>("ttl-after-finished", queue, 5, reconcile).await;
}

/// How long a finished job may stay; `None` when it stays for good.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    job.spec.as_ref()?.ttl_seconds_after_finished?;
    if !is_finished(job) || job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let at = end(job)?.as_second() - now.as_second();
    Some(Duration::from_secs(u64::try_from(at).unwrap_or(0)))
}

/// When a finished job has been there for long enough.
fn end(job: &Job) -> Option<Timestamp> {
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let ended = job.status.as_ref()?.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed"))?;
    ended.last_transition_time.as_ref()?.0.checked_add(SignedDuration::from_secs(seconds.into())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_finished_jobs_with_a_limit_expire() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let ended = json!([{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"}]);
        let cases = [
            (json!(null), ended.clone(), None),
            (json!(20), ended.clone(), Some(0)),
            (json!(50), ended, Some(20)),
            (json!(0), json!([]), None),
        ];
        for (ttl, conditions, expected) in cases {
            let job: Job = serde_json::from_value(
                json!({"metadata": {}, "spec": {"template": {}, "ttlSecondsAfterFinished": ttl}, "status": {"conditions": conditions}}),
            )
            .unwrap();
            assert_eq!(left(&job, now).map(|d| d.as_secs()), expected);
        }
    }
}
