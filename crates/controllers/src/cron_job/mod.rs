//! Cron jobs: a job whenever the schedule says so.
//!
//! Reads cron jobs and their jobs; makes jobs (named after the time they are for, so that none is made twice), deletes
//! the oldest finished ones, writes the status of cron jobs. Source: `pkg/controller/cronjob`.

mod schedule;

use crate::Context;
use crate::job::is_finished;
use crate::latest::Latest;
use crate::pods::controller_reference;
use ferrokube_api::cron::{self, Schedule};
use ferrokube_client::cache::decoded;
use ferrokube_client::controller::{self, Next};
use ferrokube_client::events::{EventType, reference};
use ferrokube_client::metrics::{Desc, Kind};
use ferrokube_client::queue::Queue;
use ferrokube_client::{Cache, DeleteOptions, Error, Index, Named, ObjectKey, Optional, Resource};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use std::sync::Arc;
use std::time::Duration;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// The clock must have passed the time by this much.
const DELTA: Duration = Duration::from_millis(100);
/// More missed times than this are complained about.
const TOO_MANY: usize = 100;

static SKEW: Desc = Desc {
    name: "cronjob_controller_job_creation_skew_duration_seconds",
    help: "[STABLE] Time between when a cronjob is scheduled to be run, and when the corresponding job is created",
    kind: Kind::Histogram(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]),
    labels: &[],
};

struct Crons {
    context: Context,
    crons: Cache<CronJob>,
    by_owner: Arc<Index>,
    /// What was written of each, so that a time that was dealt with is not dealt with again by a cache that is behind.
    written: Arc<Latest<CronJob>>,
}

/// Runs the controller.
pub(crate) async fn run(context: Context) {
    let queue: Queue<ObjectKey> = context.queue("cronjob");
    let crons: Cache<CronJob> = context.caches.of();
    let jobs: Cache<Job> = context.caches.of();
    let written: Arc<Latest<CronJob>> = Arc::default();
    let (add, known) = (queue.clone(), written.clone());
    crons.on_change(move |d| {
        if d.new.is_none() {
            known.forget(&d.latest().uid);
        }
        add.add(d.key().clone());
    });
    let owner = |o: &ferrokube_client::Object| o.controller().filter(|r| r.kind == CronJob::KIND);
    let by_owner = jobs.index(move |o| owner(o).map(|r| r.uid).into_iter().collect());
    let add = queue.clone();
    jobs.on_change(move |d| {
        if let Some(owner) = owner(d.latest()) {
            add.add(ObjectKey::new(&d.key().namespace, &owner.name));
        }
    });
    tokio::join!(crons.synced(), jobs.synced());
    let all = Crons { context, crons, by_owner, written };
    let reconcile = |key: ObjectKey| all.reconcile(key);
    controller::run::<_, Error, _, _>("cronjob", queue, 5, reconcile).await;
}

/// When a job should have been started last, and when the next one is due.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    missed: Option<Timestamp>,
    many: bool,
    next: Option<Timestamp>,
}

/// Times between the last start and now.
fn due(cron: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Due {
    let made = cron.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let mut from = cron.status.as_ref().and_then(|s| s.last_schedule_time.as_ref()).map_or(made, |t| t.0);
    if let Some(seconds) = cron.spec.starting_deadline_seconds
        && let Ok(earliest) = Timestamp::from_second(now.as_second() - seconds)
    {
        from = from.max(earliest);
    }
    let (mut missed, mut count, mut at) = (None, 0, schedule::next(schedule, from, zone));
    while let Some(time) = at.filter(|t| *t <= now) {
        missed = Some(time);
        count += 1;
        // After years of absence only the newest times matter.
        let jump = count > TOO_MANY && Timestamp::from_second(now.as_second() - 86_400).is_ok_and(|day| time < day);
        let base = if jump { Timestamp::from_second(now.as_second() - 86_400).unwrap_or(time) } else { time };
        at = schedule::next(schedule, base, zone);
    }
    Due { missed, many: count > TOO_MANY, next: schedule::next(schedule, now, zone) }
}

/// The name of the job of a time: no time has two.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    format!("{}-{}", cron.name(), at.as_second() / 60)
}

/// The job of a time.
fn job_for(cron: &CronJob, spec: &CronJobSpec, at: Timestamp, zone: &TimeZone) -> Job {
    let meta = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let stamp = at.to_zoned(zone.clone());
    let shown = if stamp.offset().is_zero() { stamp.strftime("%Y-%m-%dT%H:%M:%SZ") } else { stamp.strftime("%Y-%m-%dT%H:%M:%S%:z") };
    annotations.insert(SCHEDULED.into(), shown.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, at)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

fn succeeded(job: &Job) -> bool {
    job.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Complete" && c.status == "True")
}

/// Finished jobs beyond the limits of history, the oldest first.
fn superfluous(spec: &CronJobSpec, jobs: &[Job]) -> Vec<Job> {
    let mut list = Vec::new();
    for (limit, want) in [(spec.successful_jobs_history_limit.unwrap_or(3), true), (spec.failed_jobs_history_limit.unwrap_or(1), false)] {
        let mut ended: Vec<&Job> = jobs.iter().filter(|j| is_finished(j) && succeeded(j) == want).collect();
        ended.sort_by_key(|j| (j.status.as_ref().and_then(|s| s.start_time.clone()), j.name().to_owned()));
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        list.extend(ended.into_iter().take(surplus).cloned());
    }
    list
}

/// Whether a job was made for a time of the schedule, though the status did not get to say so.
fn is_made_here(cron: &CronJob, job: &Job) -> bool {
    let of_schedule = job.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(SCHEDULED));
    let minutes = job.name().strip_prefix(cron.name()).and_then(|rest| rest.strip_prefix('-'));
    of_schedule && minutes.is_some_and(|m| m.parse::<u64>().is_ok())
}

fn job_reference(job: &Job) -> ObjectReference {
    reference(job)
}

impl Crons {
    fn tell(&self, cron: &CronJob, kind: EventType, reason: &str, message: String) {
        self.context.recorder.about(cron, kind, reason, message);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(cron) = self.crons.read(&key.namespace, &key.name)?.map(|c| self.written.of(c)) else { return Ok(Next::Wait) };
        let spec = cron.spec.clone();
        let jobs: Vec<Job> = self.by_owner.get(cron.uid()).iter().filter_map(|o| decoded(o)).collect();
        let mut status = self.review(&cron, &jobs).await?;
        for job in superfluous(&spec, &jobs) {
            self.remove(&cron, &job).await?;
        }
        let next = if cron.metadata.deletion_timestamp.is_some() || spec.suspend == Some(true) {
            Next::Wait
        } else {
            self.start(&cron, &spec, &mut status).await?
        };
        if cron.status.clone().unwrap_or_default() != status {
            let changed = CronJob { status: Some(status), ..cron };
            if let Some(written) = self.context.client.update_status(&changed).await.optional()? {
                self.written.wrote(&written);
            }
        }
        Ok(next)
    }

    /// What became of the jobs.
    async fn review(&self, cron: &CronJob, jobs: &[Job]) -> Result<CronJobStatus, Error> {
        let mut status = cron.status.clone().unwrap_or_default();
        let mut active = status.active.take().unwrap_or_default();
        for job in jobs {
            let listed = active.iter().any(|r| r.uid.as_deref() == Some(job.uid()));
            if !listed && !is_finished(job) {
                if is_made_here(cron, job) || self.is_listed(cron, job).await? {
                    active.push(job_reference(job));
                } else {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                    self.tell(cron, EventType::Warning, "UnexpectedJob", message);
                }
            } else if listed && is_finished(job) {
                active.retain(|r| r.uid.as_deref() != Some(job.uid()));
                let ended = if succeeded(job) { "Complete" } else { "Failed" };
                self.tell(cron, EventType::Normal, "SawCompletedJob", format!("Saw completed job: {}, condition: {ended}", job.name()));
            }
            if succeeded(job) {
                let at = job.status.as_ref().and_then(|s| s.completion_time.clone());
                status.last_successful_time = status.last_successful_time.take().max(at);
            }
        }
        let mut kept = Vec::new();
        for known in active {
            let uid = known.uid.clone().unwrap_or_default();
            if jobs.iter().any(|j| j.uid() == uid) {
                kept.push(known);
                continue;
            }
            // It may have been made a moment ago.
            let name = known.name.clone().unwrap_or_default();
            match self.context.client.get::<Job>(cron.namespace(), &name).await.optional()? {
                Some(job) if job.uid() == uid => kept.push(known),
                _ => self.tell(cron, EventType::Normal, "MissingJob", format!("Active job went missing: {name}")),
            }
        }
        status.active = Some(kept).filter(|l| !l.is_empty());
        Ok(status)
    }

    /// Whether the present status, which the cache may not show yet, lists a job.
    async fn is_listed(&self, cron: &CronJob, job: &Job) -> Result<bool, Error> {
        let live: Option<CronJob> = self.context.client.get(cron.namespace(), cron.name()).await.optional()?;
        let active = live.and_then(|c| c.status).and_then(|s| s.active).unwrap_or_default();
        Ok(active.iter().any(|r| r.uid.as_deref() == Some(job.uid())))
    }

    async fn start(&self, cron: &CronJob, spec: &CronJobSpec, status: &mut CronJobStatus) -> Result<Next, Error> {
        let zone = match spec.time_zone.as_deref() {
            None | Some("Etc/UTC" | "UTC") => TimeZone::UTC,
            Some(name) => match TimeZone::get(name) {
                Ok(zone) => zone,
                Err(_) => {
                    let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                    self.tell(cron, EventType::Warning, "UnknownTimeZone", message);
                    return Ok(Next::Wait);
                }
            },
        };
        let schedule = match cron::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(e) => {
                self.tell(cron, EventType::Warning, "UnparseableSchedule", format!("unparseable schedule: {:?} : {e}", spec.schedule));
                return Ok(Next::Wait);
            }
        };
        if spec.schedule.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                spec.schedule
            );
            self.tell(cron, EventType::Warning, "UnsupportedSchedule", message);
        }
        let now = Timestamp::now();
        let due = due(cron, &schedule, &zone, now);
        let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default() + DELTA;
        let again = due.next.map_or(Next::Wait, |at| Next::After(until(at)));
        if due.many {
            self.tell(
                cron,
                EventType::Warning,
                "TooManyMissedTimes",
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew".into(),
            );
        }
        let Some(at) = due.missed else { return Ok(again) };
        let active = status.active.clone().unwrap_or_default();
        let name = job_name(cron, at);
        if active.iter().any(|r| r.name.as_ref() == Some(&name)) {
            // Made before, and the status did not get to say so: no policy is about a job and itself.
            status.last_schedule_time = Some(Time(at));
            return Ok(again);
        }
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !active.is_empty() => {
                self.tell(
                    cron,
                    EventType::Normal,
                    "JobAlreadyActive",
                    "Not starting job because prior execution is running and concurrency policy is Forbid".into(),
                );
                return Ok(again);
            }
            Some("Replace") => {
                for known in &active {
                    let name = known.name.as_deref().unwrap_or_default();
                    if let Some(job) = self.context.client.get::<Job>(cron.namespace(), name).await.optional()? {
                        self.remove(cron, &job).await?;
                    }
                }
                status.active = None;
            }
            _ => {}
        }
        let wanted = job_for(cron, spec, at, &zone);
        let made = match self.context.client.create(&wanted).await {
            Ok(job) => {
                #[allow(clippy::cast_precision_loss, reason = "seconds of delay")]
                let skew = Timestamp::now().duration_since(at).as_secs_f64();
                self.context.metrics.series(&SKEW, &[]).observe(skew);
                self.tell(cron, EventType::Normal, "SuccessfulCreate", format!("Created job {}", job.name()));
                job
            }
            // Made before, and the status did not get to say so.
            Err(e) if e.is_already_exists() => {
                let there: Job = self.context.client.get(wanted.namespace(), wanted.name()).await?;
                if !there.metadata.owner_references.iter().flatten().any(|r| r.uid == cron.uid() && r.controller == Some(true)) {
                    // Somebody else's: who made it keeps the books.
                    return Ok(again);
                }
                there
            }
            Err(e) if e.is_namespace_terminating() => return Ok(Next::Wait),
            Err(e) => {
                self.tell(cron, EventType::Warning, "FailedCreate", format!("Error creating job: {e}"));
                return Err(e);
            }
        };
        status.last_schedule_time = Some(Time(at));
        let list = status.active.get_or_insert_default();
        if !is_finished(&made) && !list.iter().any(|r| r.uid.as_deref() == Some(made.uid())) {
            list.push(job_reference(&made));
        }
        Ok(again)
    }

    async fn remove(&self, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let options = DeleteOptions { propagation: Some("Background"), ..DeleteOptions::of_uid(job.uid()) };
        if let Err(e) = self.context.client.delete::<Job>(job.namespace(), job.name(), &options).await.optional() {
            self.tell(cron, EventType::Warning, "FailedDelete", format!("Deleted job: {e}"));
            return Err(e);
        }
        self.tell(cron, EventType::Normal, "SuccessfulDelete", format!("Deleted job {}", job.name()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cron(last: Option<&str>, deadline: Option<i64>) -> CronJob {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "a", "uid": "c", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "*/10 * * * *", "startingDeadlineSeconds": deadline, "jobTemplate": {"spec": {"template": {}}}},
            "status": {"lastScheduleTime": last},
        }))
        .unwrap()
    }

    #[test]
    fn the_newest_missed_time_counts_and_the_next_one_is_known() {
        let schedule = cron::parse("*/10 * * * *").unwrap();
        let at = |t: &str| Some(t.parse::<Timestamp>().unwrap());
        let cases = [
            (cron(None, None), "2026-01-01T00:05:00Z", None, "2026-01-01T00:10:00Z"),
            (cron(None, None), "2026-01-01T00:25:00Z", at("2026-01-01T00:20:00Z"), "2026-01-01T00:30:00Z"),
            (cron(Some("2026-01-01T00:20:00Z"), None), "2026-01-01T00:25:00Z", None, "2026-01-01T00:30:00Z"),
            (cron(None, Some(60)), "2026-01-01T00:25:00Z", None, "2026-01-01T00:30:00Z"),
        ];
        for (cron, now, missed, next) in cases {
            let found = due(&cron, &schedule, &TimeZone::UTC, now.parse().unwrap());
            assert_eq!(found, Due { missed, many: false, next: at(next) }, "{now}");
        }
    }

    #[test]
    fn a_job_is_named_after_its_time() {
        let cron = cron(None, None);
        let job = job_for(&cron, &cron.spec, "2026-01-01T00:10:00Z".parse().unwrap(), &TimeZone::UTC);
        assert_eq!(job.name(), "c-29453770");
        assert_eq!(job.metadata.annotations.unwrap()[SCHEDULED], "2026-01-01T00:10:00Z");
    }

    #[test]
    fn history_keeps_the_newest_finished_jobs() {
        let job = |name: &str, kind: &str, start: &str| -> Job {
            serde_json::from_value(
                json!({"metadata": {"name": name}, "status": {"startTime": start, "conditions": [{"type": kind, "status": "True"}]}}),
            )
            .unwrap()
        };
        let jobs: Vec<Job> = (1..=5).map(|i| job(&format!("j{i}"), "Complete", &format!("2026-01-01T00:0{i}:00Z"))).collect();
        let cron = cron(None, None);
        let gone: Vec<String> = superfluous(&cron.spec, &jobs).iter().map(|j| j.name().to_owned()).collect();
        assert_eq!(gone, ["j1", "j2"]);
    }

    #[test]
    fn more_than_a_hundred_missed_times_are_complained_about_and_the_newest_counts() {
        let schedule = cron::parse("*/10 * * * *").unwrap();
        let cron = cron(Some("2025-12-31T00:00:00Z"), None);
        let found = due(&cron, &schedule, &TimeZone::UTC, "2026-01-01T00:25:00Z".parse().unwrap());
        assert_eq!((found.many, found.missed), (true, Some("2026-01-01T00:20:00Z".parse().unwrap())));
    }

    #[test]
    fn a_schedule_follows_the_clock_of_its_time_zone() {
        let schedule = cron::parse("0 3 * * *").unwrap();
        let cron = cron(None, None);
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let found = due(&cron, &schedule, &zone, "2026-07-01T00:30:00Z".parse().unwrap());
        assert_eq!(found.next, Some("2026-07-01T01:00:00Z".parse().unwrap()));
        let job = job_for(&cron, &cron.spec, "2026-07-01T01:00:00Z".parse().unwrap(), &zone);
        assert_eq!(job.metadata.annotations.unwrap()[SCHEDULED], "2026-07-01T03:00:00+02:00");
    }

    #[test]
    fn a_job_that_somebody_made_by_hand_is_not_one_of_the_schedule() {
        let cron = cron(None, None);
        let ours = job_for(&cron, &cron.spec, "2026-01-01T00:10:00Z".parse().unwrap(), &TimeZone::UTC);
        assert!(is_made_here(&cron, &ours));
        let by_hand: Job =
            serde_json::from_value(json!({"metadata": {"name": "c-now", "annotations": {"cronjob.kubernetes.io/instantiate": "manual"}}}))
                .unwrap();
        assert!(!is_made_here(&cron, &by_hand));
    }
}
