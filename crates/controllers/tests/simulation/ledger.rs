//! What the books of a job must say at every moment, going by what has really been with its pods.
//!
//! A pod that is over is written down in `uncountedTerminatedPods`, then loses its finalizer, then moves into a counter: each
//! UID once, and never another way round. What ends a job is in the books when it is said.

use crate::history::{Change, count, has_condition, is_leaving, is_over, owner, phase, text, uid};
use crate::jobs::PARALLEL;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const ENDS: [&str; 2] = ["Complete", "Failed"];

/// A job and its pods as they are at one moment.
#[derive(Default)]
struct Book {
    job: Option<Rc<Value>>,
    pods: BTreeMap<String, Rc<Value>>,
    /// UIDs that were ever written down as succeeded, as failed.
    ever: [BTreeSet<String>; 2],
    /// Indexes of pods that have succeeded.
    good: BTreeSet<i64>,
    /// Failures that count, by index.
    bad: BTreeMap<i64, usize>,
    /// Pods that ended and that nobody had written down when they lost their finalizer.
    skipped: Vec<String>,
    /// Pods that were made when the job was over.
    late: usize,
    /// Most pods at once, and most of one index.
    peak: usize,
    peak_of_index: usize,
    /// Whether the user took pods from it, so that some were too many.
    shrunk: bool,
}

/// Everything that is wrong with any job; `unknown` writes were not known to who wrote next.
pub fn audit(history: &[Change], unknown: usize) -> Vec<String> {
    let (mut books, mut found) = (BTreeMap::<String, Book>::new(), Vec::new());
    for change in history {
        if change.is("Job") {
            let book = books.entry(uid(change.latest()).to_owned()).or_default();
            found.extend(book.job(change).into_iter().map(|what| format!("{} at {:?}: {what}", change.name(), change.at)));
        } else if change.is("Pod")
            && let Some(("Job", _, owner)) = owner(change.latest())
        {
            books.entry(owner.to_owned()).or_default().pod(change);
        }
    }
    for book in books.values() {
        found.extend(book.close(unknown));
    }
    found
}

fn is_tracked(pod: &Value) -> bool {
    pod["metadata"]["finalizers"].as_array().into_iter().flatten().any(|f| f == FINALIZER)
}

fn index(pod: &Value) -> Option<i64> {
    text(&pod["metadata"]["annotations"][INDEX]).parse().ok()
}

fn exit(pod: &Value) -> Option<i64> {
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64()
}

/// What the job's rules say of a pod that has failed.
fn action<'j>(job: &'j Value, pod: &Value) -> &'j str {
    let rules = job["spec"]["podFailurePolicy"]["rules"].as_array();
    let matches = |rule: &&Value| match rule["onExitCodes"]["values"].as_array() {
        Some(codes) => exit(pod).is_some_and(|code| codes.iter().any(|c| *c == code)),
        None => has_condition(pod, "DisruptionTarget"),
    };
    rules.into_iter().flatten().find(matches).map_or("Count", |rule| text(&rule["action"]))
}

fn indexes(list: &Value) -> BTreeSet<i64> {
    let parse = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text(list).split(',').filter_map(parse).flatten().collect()
}

fn uncounted(status: &Value) -> [BTreeSet<String>; 2] {
    ["succeeded", "failed"].map(|key| {
        let list = status["uncountedTerminatedPods"][key].as_array();
        list.into_iter().flatten().map(|uid| text(uid).to_owned()).collect()
    })
}

fn reason<'j>(job: &'j Value, kind: &str) -> Option<&'j str> {
    let all = job["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|c| c["type"] == kind && c["status"] == "True").map(|c| text(&c["reason"]))
}

fn is_ended(job: &Value) -> bool {
    ENDS.iter().any(|end| has_condition(job, end))
}

/// A number of the job's specification.
fn limit(job: &Value, key: &str) -> Option<usize> {
    job["spec"][key].as_u64().and_then(|n| usize::try_from(n).ok())
}

impl Book {
    fn job(&mut self, change: &Change) -> Vec<String> {
        let before = self.job.take();
        let Some(now) = change.after.clone() else { return Vec::new() };
        let mut found = Vec::new();
        if let Some(before) = &before {
            let less = count(&now["spec"]["parallelism"]) < count(&before["spec"]["parallelism"]);
            self.shrunk |= less || now["spec"]["suspend"] == true;
            self.entries(before, &now, &mut found);
            self.verdicts(before, &now, &mut found);
        }
        self.job = Some(now);
        found
    }

    /// Each pod is written down once, and moves into a counter when it has been let go.
    fn entries(&mut self, before: &Value, now: &Value, found: &mut Vec<String>) {
        let (old, new) = (uncounted(&before["status"]), uncounted(&now["status"]));
        let is_indexed = now["spec"]["completionMode"] == "Indexed";
        for (at, key) in ["succeeded", "failed"].into_iter().enumerate() {
            for uid in new[at].difference(&old[at]) {
                if self.ever.iter().any(|all| all.contains(uid)) {
                    found.push(format!("{uid} is counted twice"));
                }
                self.ever[at].insert(uid.clone());
                let fits = self.pods.get(uid).is_none_or(|pod| match key {
                    "succeeded" => phase(pod) == "Succeeded",
                    _ => phase(pod) != "Succeeded" && (is_over(pod) || is_leaving(pod) || reason(now, "FailureTarget").is_some()),
                });
                if !fits {
                    found.push(format!("{uid} has not {key}"));
                }
            }
            let moved = old[at].difference(&new[at]).count();
            for uid in old[at].difference(&new[at]).filter(|uid| self.pods.get(*uid).is_some_and(|p| is_tracked(p))) {
                found.push(format!("{uid} is in a counter before it was let go"));
            }
            let total = |job: &Value| count(&job["status"][key]);
            if !(is_indexed && key == "succeeded") && total(now) != total(before) + moved {
                found.push(format!("{key} goes from {} to {} by {moved} pods", total(before), total(now)));
            }
        }
        let done = |job: &Value| indexes(&job["status"]["completedIndexes"]);
        if !done(now).is_superset(&done(before)) || is_indexed && done(now).len() != count(&now["status"]["succeeded"]) {
            found.push(format!("completed indexes {} after {}", now["status"], before["status"]));
        }
        if let Some(index) = done(now).difference(&self.good).next() {
            found.push(format!("index {index} is complete, and no pod of it succeeded"));
        }
    }

    /// What ends the job is in the books, and nothing that should have ended it is there before.
    fn verdicts(&self, before: &Value, now: &Value, found: &mut Vec<String>) {
        let status = &now["status"];
        let failed = count(&status["failed"]) + uncounted(status)[1].len();
        let done = indexes(&status["completedIndexes"]);
        let lost = indexes(&status["failedIndexes"]);
        let completions = limit(now, "completions");
        let too_many = limit(now, "backoffLimit").is_some_and(|most| failed > most);
        let too_many_indexes = limit(now, "maxFailedIndexes").is_some_and(|most| lost.len() > most);
        let (fails, succeeds) = (reason(now, "FailureTarget"), reason(now, "SuccessCriteriaMet"));
        let mut unless = |holds: bool, what: &str| {
            if !holds {
                found.push(format!("{what}: {status}"));
            }
        };
        unless(fails.is_none() || succeeds.is_none(), "it succeeds and fails");
        unless(fails.is_some() || succeeds.is_some() || !too_many && !too_many_indexes, "it goes on beyond its limit");
        if let Some(why) = fails.filter(|_| reason(before, "FailureTarget").is_none()) {
            let named = |p: &&Rc<Value>| is_over(p) && action(now, p) == "FailJob";
            let right = match why {
                "PodFailurePolicy" => self.pods.values().any(|p| named(&p)),
                "BackoffLimitExceeded" => too_many,
                "MaxFailedIndexesExceeded" => too_many_indexes,
                "FailedIndexes" => !lost.is_empty() && Some(done.len() + lost.len()) >= completions,
                _ => false,
            };
            unless(right, "it fails for no reason");
        }
        if let Some(why) = succeeds.filter(|_| reason(before, "SuccessCriteriaMet").is_none()) {
            let succeeded = count(&status["succeeded"]) + uncounted(status)[0].len();
            let right = match why {
                "SuccessPolicy" => done.range(..4).count() >= 3 || done.len() >= 6,
                "CompletionsReached" => succeeded >= completions.unwrap_or(1),
                _ => false,
            };
            unless(right, "it succeeds for no reason");
        }
        for (end, cause) in [("Failed", fails), ("Complete", succeeds)] {
            unless(reason(before, end).is_none() || reason(now, end) == reason(before, end), "an end is not kept");
            unless(reason(now, end).is_none_or(|why| Some(why) == cause), "an end has another reason than its cause");
        }
        if is_ended(now) && !is_ended(before) {
            let open = uncounted(status).iter().any(|l| !l.is_empty()) || ["active", "terminating"].iter().any(|k| count(&status[k]) > 0);
            unless(!open, "it is over with pods in the books");
            let all = completions.filter(|_| now["spec"]["completionMode"] == "Indexed").map_or(0, |n| n as i64);
            let each = (0..all).all(|i| done.contains(&i) || lost.contains(&i));
            let whole = matches!(reason(now, "FailureTarget").or(succeeds), Some("FailedIndexes" | "CompletionsReached"));
            unless(!whole || each, "an index is missing");
        }
    }

    fn pod(&mut self, change: &Change) {
        let (pod, job) = (change.latest(), self.job.clone());
        let id = uid(pod).to_owned();
        let was_tracked = change.before.as_deref().is_some_and(is_tracked);
        match &change.after {
            Some(after) => {
                self.late += usize::from(change.is_new() && job.as_deref().is_none_or(is_ended));
                if phase(after) == "Succeeded" {
                    self.good.extend(index(after));
                }
                if was_tracked && !is_tracked(after) {
                    self.let_go(&id, after, job.as_deref());
                }
                self.pods.insert(id, after.clone());
            }
            None => {
                if was_tracked {
                    self.let_go(&id, pod, job.as_deref());
                }
                self.pods.remove(&id);
            }
        }
        let waits = job.is_some_and(|j| j["spec"]["podReplacementPolicy"] == "Failed" || !j["spec"]["podFailurePolicy"].is_null());
        let going: Vec<&Rc<Value>> = self.pods.values().filter(|p| !is_over(p) && (waits || !is_leaving(p))).collect();
        self.peak = self.peak.max(going.len());
        let mut of_index = BTreeMap::<i64, usize>::new();
        going.iter().filter_map(|p| index(p)).for_each(|i| *of_index.entry(i).or_default() += 1);
        self.peak_of_index = self.peak_of_index.max(of_index.values().copied().max().unwrap_or(0));
    }

    /// A pod loses its finalizer.
    fn let_go(&mut self, id: &str, pod: &Value, job: Option<&Value>) {
        let Some(job) = job.filter(|j| !is_ended(j) && !is_leaving(j)) else { return };
        let written = self.ever.iter().any(|all| all.contains(id));
        if self.ever[1].contains(id)
            && let Some(index) = index(pod)
        {
            *self.bad.entry(index).or_default() += 1;
        }
        let known_by_index =
            phase(pod) == "Succeeded" && index(pod).is_some_and(|i| indexes(&job["status"]["completedIndexes"]).contains(&i));
        let ignored = phase(pod) == "Failed" && action(job, pod) == "Ignore";
        if is_over(pod) && !written && !known_by_index && !ignored {
            self.skipped.push(id.to_owned());
        }
    }

    /// What shows only in the end.
    fn close(&self, unknown: usize) -> Vec<String> {
        let Some(job) = &self.job else { return Vec::new() };
        let mut found = Vec::new();
        let mut unless = |holds: bool, what: String| {
            if !holds {
                found.push(format!("{}: {what}: {}", text(&job["metadata"]["name"]), job["status"]));
            }
        };
        let counts = ["succeeded", "failed"].map(|key| count(&job["status"][key]));
        let written = self.ever.each_ref().map(BTreeSet::len);
        let is_indexed = job["spec"]["completionMode"] == "Indexed";
        unless(counts[1] == written[1] && (is_indexed || counts[0] == written[0]), format!("{written:?} were written down"));
        // One that is removed as one too many while it ends is not counted, as upstream.
        let spare = if self.shrunk { self.skipped.len() } else { unknown };
        unless(self.skipped.len() <= spare, format!("{:?} were let go and not counted", self.skipped));
        unless(self.late <= unknown, format!("{} pods were made when it was over", self.late));
        unless(self.peak <= PARALLEL + unknown, format!("{} pods at once", self.peak));
        unless(self.peak_of_index <= 1 + unknown, format!("{} pods of an index at once", self.peak_of_index));
        if let Some(most) = limit(job, "backoffLimitPerIndex") {
            let lost = indexes(&job["status"]["failedIndexes"]);
            for (index, failures) in self.bad.iter().filter(|(index, _)| !lost.contains(index)) {
                unless(*failures <= most + unknown, format!("index {index} went on after {failures} failures"));
            }
            let both = indexes(&job["status"]["completedIndexes"]).intersection(&lost).count();
            unless(both == 0, format!("{both} indexes are complete and failed"));
        }
        found
    }
}
