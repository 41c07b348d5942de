//! Finished jobs go after `ttlSecondsAfterFinished`.
//!
//! Reads jobs, deletes them. Source: `pkg/controller/ttlafterfinished`.

use crate::Context;
use crate::job::is_finished;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Named, ObjectKey, Optional};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use std::time::Duration;

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
        let (client, jobs) = (&context.client, &jobs);
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
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if !is_finished(job) || job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ended = job.status.as_ref()?.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed"))?;
    let at = ended.last_transition_time.as_ref()?.0.as_second() + i64::from(seconds);
    Some(Duration::from_secs(u64::try_from(at - now.as_second()).unwrap_or(0)))
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
