//! What a job needs now: pure.
//!
//! A finished pod is counted exactly once: its UID goes into `uncountedTerminatedPods`, then its finalizer is removed, and
//! only a pod that no longer has the finalizer moves into the counters. Source: `pkg/controller/job/job_controller.go`.

use super::policy::{self, Verdict};
use super::{FINALIZER, INDEX, INDEX_FAILURES, indexes};
use crate::pods::{self, is_active, is_ready};
use ferrokube_client::Named;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// Most pods that are created or deleted, and most that are newly counted, in one round.
const MOST: usize = 500;
const FIRST_BACKOFF: i64 = 10;
const LONGEST_BACKOFF: i64 = 600;

/// Failures since the last success; lives in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// How many.
    pub failures: u32,
    /// When the last one happened.
    pub last: Option<Timestamp>,
}

impl Backoff {
    fn left(&self, now: Timestamp) -> i64 {
        let Some(last) = self.last.filter(|_| self.failures > 0) else { return 0 };
        let wait = (FIRST_BACKOFF << (self.failures - 1).min(16)).min(LONGEST_BACKOFF);
        (last.as_second() + wait - now.as_second()).max(0)
    }
}

/// A pod to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewPod {
    /// Completion index of an indexed job.
    pub index: Option<i32>,
    /// Failures of its index so far, when they are limited by index.
    pub failures: Option<i32>,
}

/// What is known.
pub struct View<'a> {
    pub job: &'a Job,
    pub pods: &'a [Pod],
    /// The cache shows all that was done; else no pod is made or deleted.
    pub settled: bool,
    pub backoff: Backoff,
    pub now: Timestamp,
}

/// What to do: pods first, then the status, then the finalizers.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<NewPod>,
    pub delete: Vec<Pod>,
    /// Those that are deleted are not to be counted: nothing failed, there are only too many.
    pub surplus: bool,
    pub status: JobStatus,
    pub release: Vec<Pod>,
    /// Warning or not, reason, message.
    pub events: Vec<(bool, String, String)>,
    pub backoff: Backoff,
    pub again: Option<Duration>,
}

/// Whether a job has one of its two ends.
pub fn is_finished(job: &Job) -> bool {
    condition(job.status.as_ref(), "Complete").or_else(|| condition(job.status.as_ref(), "Failed")).is_some()
}

/// A condition that is True.
pub fn condition<'a>(status: Option<&'a JobStatus>, kind: &str) -> Option<&'a JobCondition> {
    status?.conditions.as_ref()?.iter().find(|c| c.type_ == kind && c.status == "True")
}

/// Whether a pod waits to be counted.
pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Completion index of a pod.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotations.as_ref()?.get(INDEX)?.parse().ok()
}

fn index_failures(pod: &Pod) -> i32 {
    pod.metadata.annotations.as_ref().and_then(|a| a.get(INDEX_FAILURES)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// When a pod ended. One that the kubelet refused, or whose node is gone, has no containers that could tell: then it is when it
/// was no longer ready, or was to go, or at least when it was made. What waits for a time after that must not wait for ever.
fn finished_at(pod: &Pod, now: Timestamp) -> Timestamp {
    let status = pod.status.as_ref();
    let containers = status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends: Option<Vec<Timestamp>> = containers.map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)).collect();
    let unready = || pods::condition(pod, "Ready").filter(|c| c.status == "False")?.last_transition_time.as_ref().map(|t| t.0);
    let deleted = || {
        let grace = jiff::SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
        pod.metadata.deletion_timestamp.as_ref().map(|t| t.0 - grace)
    };
    let made = || pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
    ends.and_then(|e| e.into_iter().max()).or_else(unready).or_else(deleted).or_else(made).unwrap_or(now).min(now)
}

struct Rules<'a> {
    job: &'a Job,
    spec: JobSpec,
    indexed: bool,
    completions: Option<i32>,
    replace_failed_only: bool,
}

impl<'a> Rules<'a> {
    fn of(job: &'a Job) -> Self {
        let spec = job.spec.clone().unwrap_or_default();
        let replacement = spec.pod_replacement_policy.as_deref();
        Rules {
            job,
            indexed: spec.completion_mode.as_deref() == Some("Indexed"),
            completions: spec.completions,
            replace_failed_only: replacement == Some("Failed") || (replacement.is_none() && spec.pod_failure_policy.is_some()),
            spec,
        }
    }

    /// A pod that is being deleted has failed already, unless replacements wait for its end.
    fn has_failed(&self, pod: &Pod) -> bool {
        match pods::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => !self.replace_failed_only && pod.metadata.deletion_timestamp.is_some(),
        }
    }

    fn in_range(&self, index: i32) -> bool {
        self.completions.is_none_or(|n| (0..n).contains(&index))
    }
}

/// What the finished pods amount to.
struct Counted {
    status: JobStatus,
    uncounted: (Vec<String>, Vec<String>),
    completed: BTreeSet<i32>,
    failed_indexes: BTreeSet<i32>,
    release: Vec<Pod>,
    backoff: Backoff,
    fail: Option<String>,
}

impl Counted {
    fn succeeded(&self) -> i32 {
        self.status.succeeded.unwrap_or(0) + count(self.uncounted.0.len())
    }

    fn failed(&self) -> i32 {
        self.status.failed.unwrap_or(0) + count(self.uncounted.1.len())
    }
}

fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn some(n: i32) -> Option<i32> {
    (n != 0).then_some(n)
}

fn counted(rules: &Rules, view: &View) -> Counted {
    let mut status = rules.job.status.clone().unwrap_or_default();
    let tracked: Vec<&Pod> = view.pods.iter().filter(|p| is_tracked(p)).collect();
    let uids: HashSet<&str> = tracked.iter().map(|p| p.uid()).collect();
    let known = status.uncounted_terminated_pods.take().unwrap_or_default();
    let settle = |list: Option<Vec<String>>, total: &mut Option<i32>| -> Vec<String> {
        let (still, done): (Vec<String>, Vec<String>) = list.unwrap_or_default().into_iter().partition(|uid| uids.contains(uid.as_str()));
        *total = some(total.unwrap_or(0) + count(done.len()));
        still
    };
    let uncounted = (settle(known.succeeded, &mut status.succeeded), settle(known.failed, &mut status.failed));
    let limit = rules.completions.unwrap_or(i32::MAX);
    let mut all = Counted {
        completed: indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), limit),
        failed_indexes: indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), limit),
        status,
        uncounted,
        release: Vec::new(),
        backoff: view.backoff,
        fail: None,
    };
    let mut finished: Vec<&Pod> = tracked.iter().copied().filter(|p| pods::phase(p) == "Succeeded" || rules.has_failed(p)).collect();
    finished.sort_by_key(|p| finished_at(p, view.now));
    for pod in finished.into_iter().take(MOST) {
        count_one(rules, view, &mut all, pod);
    }
    if rules.indexed {
        all.status.succeeded = some(count(all.completed.len()));
        all.status.completed_indexes = Some(indexes::format(&all.completed)).filter(|t| !t.is_empty());
        if rules.spec.backoff_limit_per_index.is_some() {
            all.status.failed_indexes = Some(indexes::format(&all.failed_indexes));
        }
    }
    all
}

fn count_one(rules: &Rules, view: &View, all: &mut Counted, pod: &Pod) {
    let uid = pod.uid();
    if pods::phase(pod) == "Succeeded" {
        let fresh = if rules.indexed {
            // An index counts once, whatever number of pods it had, and has one end: of two pods the one that ended first decides.
            index_of(pod).filter(|i| rules.in_range(*i) && !all.failed_indexes.contains(i)).is_some_and(|i| all.completed.insert(i))
        } else if all.uncounted.0.iter().any(|u| u == uid) {
            false
        } else {
            all.uncounted.0.push(uid.to_owned());
            true
        };
        if fresh {
            all.backoff = Backoff::default();
        }
        all.release.push(pod.clone());
        return;
    }
    let verdict = policy::verdict(rules.job, pod);
    let in_range = !rules.indexed || index_of(pod).is_some_and(|i| rules.in_range(i));
    let known = all.uncounted.1.iter().any(|u| u == uid);
    if !known && verdict != Verdict::Ignore && in_range {
        all.uncounted.1.push(uid.to_owned());
        all.backoff = Backoff { failures: all.backoff.failures + 1, last: Some(finished_at(pod, view.now)) };
    }
    if let (Some(limit), Some(index)) = (rules.spec.backoff_limit_per_index, index_of(pod).filter(|_| in_range)) {
        let failures = index_failures(pod) + i32::from(verdict != Verdict::Ignore);
        if (verdict == Verdict::FailIndex || failures > limit) && !all.completed.contains(&index) {
            all.failed_indexes.insert(index);
        }
    }
    if let Verdict::FailJob(message) = verdict {
        all.fail.get_or_insert(message);
    }
    all.release.push(pod.clone());
}

/// Failed pods that stay until their index has a successor: the last one of each carries the number of failures.
fn carriers(rules: &Rules, view: &View, all: &Counted) -> HashSet<String> {
    let mut last: BTreeMap<i32, &Pod> = BTreeMap::new();
    let active: BTreeSet<i32> = view.pods.iter().filter(|p| is_active(p)).filter_map(index_of).collect();
    let over = |i: &i32| !rules.in_range(*i) || all.completed.contains(i) || all.failed_indexes.contains(i) || active.contains(i);
    for pod in view.pods.iter().filter(|p| rules.has_failed(p)) {
        let Some(index) = index_of(pod).filter(|i| !over(i)) else { continue };
        if last.get(&index).is_none_or(|known| index_failures(pod) >= index_failures(known)) {
            last.insert(index, pod);
        }
    }
    last.into_values().map(|pod| pod.uid().to_owned()).collect()
}

/// Reason and message of a failure.
fn failure(rules: &Rules, view: &View, all: &Counted) -> Option<(&'static str, String)> {
    if let Some(message) = &all.fail {
        return Some(("PodFailurePolicy", message.clone()));
    }
    let limit = rules.spec.backoff_limit.unwrap_or(6);
    if all.failed() > limit || restarts_exceed(rules, view, limit) {
        return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".into()));
    }
    if deadline(rules, &all.status, view.now).is_some_and(|left| left <= 0) {
        return Some(("DeadlineExceeded", "Job was active longer than specified deadline".into()));
    }
    if rules.indexed && rules.spec.backoff_limit_per_index.is_some() {
        let failed = count(all.failed_indexes.len());
        if rules.spec.max_failed_indexes.is_some_and(|most| failed > most) {
            return Some(("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes".into()));
        }
        if failed > 0 && count(all.completed.len()) + failed >= rules.completions.unwrap_or(i32::MAX) {
            return Some(("FailedIndexes", "Job has failed indexes".into()));
        }
    }
    None
}

/// With `restartPolicy: OnFailure` the restarts of running pods are the failures.
fn restarts_exceed(rules: &Rules, view: &View, limit: i32) -> bool {
    if rules.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let running = view.pods.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
    let statuses = running
        .flat_map(|p| p.status.iter())
        .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()));
    let restarts: i32 = statuses.map(|c| c.restart_count).sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// Seconds until `activeDeadlineSeconds` is over.
fn deadline(rules: &Rules, status: &JobStatus, now: Timestamp) -> Option<i64> {
    if rules.spec.suspend == Some(true) {
        return None;
    }
    let (limit, start) = (rules.spec.active_deadline_seconds?, status.start_time.as_ref()?);
    Some(start.0.as_second() + limit - now.as_second())
}

/// What the job needs now.
pub fn plan(view: &View) -> Plan {
    let rules = Rules::of(view.job);
    let mut all = counted(&rules, view);
    let suspended = rules.spec.suspend == Some(true);
    let mut events = Vec::new();
    if all.status.start_time.is_none() && !suspended {
        all.status.start_time = Some(Time(view.now));
    }
    let active: Vec<&Pod> = view.pods.iter().filter(|p| is_active(p)).collect();
    let mut plan = Plan { backoff: all.backoff, ..Plan::default() };
    decide(&rules, view, &mut all);
    let ending = condition(Some(&all.status), "FailureTarget").or_else(|| condition(Some(&all.status), "SuccessCriteriaMet")).is_some();
    let deleting = view.job.metadata.deletion_timestamp.is_some();
    if !ending && !deleting && rules.spec.backoff_limit_per_index.is_some() {
        let carriers = carriers(&rules, view, &all);
        all.release.retain(|p| !carriers.contains(p.uid()));
    }
    if ending {
        plan.delete = active.iter().map(|p| (*p).clone()).collect();
    } else if view.settled && !deleting {
        manage(&rules, view, &all, &active, &mut plan);
        plan.surplus = true;
    }
    let left = active.len().saturating_sub(plan.delete.len()) + plan.create.len();
    if !ending && left == 0 && plan.create.is_empty() && plan.delete.is_empty() && completed(&rules, &all) {
        note(&mut all.status, "SuccessCriteriaMet", "True", "CompletionsReached", "Reached expected number of succeeded pods", view.now);
    }
    if !deleting {
        suspension(&mut all.status, suspended, view.now, &mut events);
    }
    let staying: HashSet<&str> = plan.delete.iter().map(Named::uid).collect();
    let terminating =
        view.pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !matches!(pods::phase(p), "Succeeded" | "Failed")).count()
            + plan.delete.len();
    all.status.active = some(count(left));
    all.status.ready = Some(count(active.iter().filter(|p| is_ready(p) && !staying.contains(p.uid())).count()));
    all.status.terminating = Some(count(terminating));
    let quiet = all.uncounted.0.is_empty() && all.uncounted.1.is_empty();
    if quiet && left == 0 && terminating == 0 {
        finish(&mut all.status, rules.completions, view.now, &mut events);
    }
    let list = |uids: Vec<String>| Some(uids).filter(|l| !l.is_empty());
    all.status.uncounted_terminated_pods =
        Some(UncountedTerminatedPods { succeeded: list(all.uncounted.0), failed: list(all.uncounted.1) });
    let soon =
        deadline(&rules, &all.status, view.now).filter(|left| *left > 0).and_then(|left| u64::try_from(left).ok()).map(Duration::from_secs);
    plan.again = [plan.again, soon].into_iter().flatten().min();
    plan.release = all.release;
    plan.status = all.status;
    plan.events = events;
    plan
}

/// Notes that the job is to end, and why.
fn decide(rules: &Rules, view: &View, all: &mut Counted) {
    let over = condition(Some(&all.status), "FailureTarget").or_else(|| condition(Some(&all.status), "SuccessCriteriaMet"));
    if over.is_some() {
        return;
    }
    if let Some((reason, message)) = failure(rules, view, all) {
        return note(&mut all.status, "FailureTarget", "True", reason, &message, view.now);
    }
    if let (true, Some(policy)) = (rules.indexed, &rules.spec.success_policy)
        && let Some(rule) = policy::met(policy, &all.completed, rules.completions.unwrap_or(0))
    {
        note(&mut all.status, "SuccessCriteriaMet", "True", "SuccessPolicy", &format!("Matched rules at index {rule}"), view.now);
    }
}

fn completed(rules: &Rules, all: &Counted) -> bool {
    match rules.completions {
        None => all.succeeded() > 0,
        Some(n) => all.succeeded() >= n,
    }
}

fn suspension(status: &mut JobStatus, suspended: bool, now: Timestamp, events: &mut Vec<(bool, String, String)>) {
    let was = condition(Some(status), "Suspended").is_some();
    let ended = ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"].iter().any(|k| condition(Some(status), k).is_some());
    if ended || was == suspended {
        return;
    }
    if suspended {
        note(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        // While it has no time of its start, where its pods may go can be changed.
        status.start_time = None;
        events.push((false, "Suspended".into(), "Job suspended".into()));
    } else {
        note(status, "Suspended", "False", "JobResumed", "Job resumed", now);
        events.push((false, "Resumed".into(), "Job resumed".into()));
        // The deadline begins anew.
        status.start_time = Some(Time(now));
    }
}

/// Ends the job when it is decided and nothing of it runs; more successes than `over` are complained about.
fn finish(status: &mut JobStatus, over: Option<i32>, now: Timestamp, events: &mut Vec<(bool, String, String)>) {
    let text = |c: &JobCondition| (c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default());
    if let Some((reason, message)) = condition(Some(status), "FailureTarget").map(text) {
        note(status, "Failed", "True", &reason, &message, now);
        events.push((true, reason, message));
    } else if let Some((reason, message)) = condition(Some(status), "SuccessCriteriaMet").map(text) {
        if over.is_some_and(|n| status.succeeded.unwrap_or(0) > n) {
            events.push((true, "TooManySucceededPods".into(), "Too many succeeded pods running after completion count reached".into()));
        }
        note(status, "Complete", "True", &reason, &message, now);
        status.completion_time = Some(Time(now));
        events.push((false, "Completed".into(), "Job completed".into()));
    }
}

fn note(status: &mut JobStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let list = status.conditions.get_or_insert_default();
    list.retain(|c| c.type_ != kind);
    list.push(JobCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

/// Pods to make or delete for a job that goes on.
fn manage(rules: &Rules, view: &View, all: &Counted, active: &[&Pod], plan: &mut Plan) {
    if rules.spec.suspend == Some(true) {
        plan.delete = active.iter().take(MOST).map(|p| (*p).clone()).collect();
        return;
    }
    let parallelism = rules.spec.parallelism.unwrap_or(1);
    let wanted = match rules.completions {
        // After the first success what runs goes on to its end, and nothing is added.
        None if all.succeeded() > 0 => count(active.len()),
        None => parallelism,
        Some(n) => (n - all.succeeded() - count(all.failed_indexes.len())).min(parallelism),
    };
    let wanted = usize::try_from(wanted).unwrap_or(0);
    plan.delete = surplus(rules, all, active, wanted);
    if !plan.delete.is_empty() {
        return;
    }
    let ending = if rules.replace_failed_only {
        view.pods.iter().filter(|p| p.metadata.deletion_timestamp.is_some() && !matches!(pods::phase(p), "Succeeded" | "Failed")).count()
    } else {
        0
    };
    let missing = wanted.saturating_sub(active.len() + ending).min(MOST);
    if missing == 0 {
        return;
    }
    let per_index = rules.spec.backoff_limit_per_index.is_some();
    if !per_index {
        let left = plan.backoff.left(view.now);
        if left > 0 {
            plan.again = u64::try_from(left).ok().map(Duration::from_secs);
            return;
        }
    }
    plan.create = if rules.indexed { missing_indexes(rules, view, all, missing, plan) } else { vec![NewPod::default(); missing] };
}

/// Active pods that are too many: those of an index that another pod has, or that is not wanted, first.
fn surplus(rules: &Rules, all: &Counted, active: &[&Pod], wanted: usize) -> Vec<Pod> {
    let mut sorted = active.to_vec();
    // The least useful first: unassigned, not ready, young.
    sorted.sort_by_key(|p| {
        let assigned = p.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
        (assigned, is_ready(p), p.metadata.creation_timestamp.as_ref().map(|t| -t.0.as_second()))
    });
    let mut gone = Vec::new();
    if rules.indexed {
        let mut taken = BTreeSet::new();
        for pod in sorted.iter().rev() {
            let useful = index_of(pod)
                .is_some_and(|i| rules.in_range(i) && !all.completed.contains(&i) && !all.failed_indexes.contains(&i) && taken.insert(i));
            if !useful {
                gone.push((*pod).clone());
            }
        }
    }
    let extra = (active.len() - gone.len()).saturating_sub(wanted);
    let unwanted: HashSet<String> = gone.iter().map(|p| p.uid().to_owned()).collect();
    gone.extend(sorted.into_iter().filter(|p| !unwanted.contains(p.uid())).take(extra).cloned());
    gone.truncate(MOST);
    gone
}

fn missing_indexes(rules: &Rules, view: &View, all: &Counted, missing: usize, plan: &mut Plan) -> Vec<NewPod> {
    let busy = |p: &&Pod| is_active(p) || (rules.replace_failed_only && !matches!(pods::phase(p), "Succeeded" | "Failed"));
    let taken: BTreeSet<i32> = view.pods.iter().filter(busy).filter_map(index_of).collect();
    let mut last: BTreeMap<i32, (&Pod, i32)> = BTreeMap::new();
    if rules.spec.backoff_limit_per_index.is_some() {
        for pod in view.pods.iter().filter(|p| rules.has_failed(p)) {
            let failures = index_failures(pod) + i32::from(policy::verdict(rules.job, pod) != Verdict::Ignore);
            if let Some(index) = index_of(pod)
                && last.get(&index).is_none_or(|(_, n)| failures > *n)
            {
                last.insert(index, (pod, failures));
            }
        }
    }
    let mut list = Vec::new();
    for index in 0..rules.completions.unwrap_or(0) {
        if list.len() >= missing {
            break;
        }
        if taken.contains(&index) || all.completed.contains(&index) || all.failed_indexes.contains(&index) {
            continue;
        }
        let failures = rules.spec.backoff_limit_per_index.map(|_| last.get(&index).map_or(0, |(_, n)| *n));
        if let Some((pod, n)) = last.get(&index) {
            let backoff = Backoff { failures: u32::try_from(*n).unwrap_or(0), last: Some(finished_at(pod, view.now)) };
            if let Some(left) = u64::try_from(backoff.left(view.now)).ok().filter(|left| *left > 0) {
                plan.again = Some(plan.again.map_or(Duration::from_secs(left), |a| a.min(Duration::from_secs(left))));
                continue;
            }
        }
        list.push(NewPod { index: Some(index), failures });
    }
    list
}
