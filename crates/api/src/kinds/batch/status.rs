//! What a controller, ours or another's (`managedBy`), may say about a Job (`validateJobStatus`, `ValidateJobStatusUpdate`).
//!
//! What stood there before is not held against a write that leaves it alone: most rules look at what changed.

use super::policies::count_indexes;
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use serde_json::Value;

const STATUS: At<'static> = At::field("status");

/// A status, before or after.
#[derive(Clone, Copy)]
struct Side<'a>(&'a Value);

impl<'a> Side<'a> {
    fn of(job: &'a Value) -> Self {
        Side(job.get("status").unwrap_or(&NONE))
    }

    fn is(self, kind: &str) -> bool {
        list(self.0, "conditions").iter().any(|c| text(c, "type") == kind && text(c, "status") == "True")
    }

    fn finished(self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn count(self, key: &str) -> i64 {
        int(self.0, key).unwrap_or_default()
    }
}

/// A change of the status.
pub fn update(job: &Value, before: &Value, e: &mut Errors) {
    let (new, old) = (Side::of(job), Side::of(before));
    check::counters(new.0, &["active", "succeeded", "failed", "ready", "terminating"], &[], e);
    uncounted(new, e);
    ends(new, old, e);
    times(new, old, e);
    at_the_end(job, new, old, e);
    indexes(job, new, old, e);
    if (new.finished() != old.finished() || changed(new, old, "terminating")) && new.finished() && new.count("terminating") > 0 {
        e.invalid(&STATUS.child("terminating"), &new.0["terminating"], "terminating>0 is invalid for finished job");
    }
    if (changed(new, old, "ready") || changed(new, old, "active")) && has(new.0, "ready") && new.count("ready") > new.count("active") {
        e.invalid(&STATUS.child("ready"), &new.0["ready"], "cannot set more ready pods than active");
    }
    success(job, new, e);
    never_back(job, new, old, e);
}

fn changed(new: Side<'_>, old: Side<'_>, key: &str) -> bool {
    !same(new.0.get(key), old.0.get(key))
}

/// Pods that are over and not counted yet: each once.
fn uncounted(new: Side<'_>, e: &mut Errors) {
    let path = STATUS.child("uncountedTerminatedPods");
    let mut seen = Vec::new();
    for key in ["succeeded", "failed"] {
        let path = path.child(key);
        for (i, uid) in list_at(new.0, &["uncountedTerminatedPods", key]).iter().filter_map(Value::as_str).enumerate() {
            if uid.is_empty() {
                e.invalid(&path.index(i), &"".into(), "must not be empty");
            } else if seen.contains(&uid) {
                e.duplicate(&path.index(i), &uid.into());
            } else {
                seen.push(uid);
            }
        }
    }
}

/// Ends that exclude each other.
fn ends(new: Side<'_>, old: Side<'_>, e: &mut Errors) {
    let turned = |kinds: &[&str]| kinds.iter().any(|kind| new.is(kind) != old.is(kind));
    for (other, shown) in [("Failed", "Failed=true"), ("FailureTarget", "FailureTarget=true")] {
        if turned(&["Complete", other]) && new.is("Complete") && new.is(other) {
            conditions(&format!("cannot set Complete=True and {shown} conditions"), e);
        }
    }
}

fn conditions(why: &str, e: &mut Errors) {
    e.invalid_omitted(&STATUS.child("conditions"), why);
}

fn times(new: Side<'_>, old: Side<'_>, e: &mut Errors) {
    let complete = new.is("Complete");
    let path = STATUS.child("completionTime");
    let (start, end) = (text(new.0, "startTime"), text(new.0, "completionTime"));
    let shown = new.0.get("completionTime").unwrap_or(&NONE);
    if complete != old.is("Complete") || changed(new, old, "completionTime") {
        if !end.is_empty() && !complete {
            e.invalid(&path, shown, "cannot set completionTime when there is no Complete=True condition");
        }
        if end.is_empty() && complete {
            e.required(&path, "completionTime is required for Complete jobs");
        }
    }
    // Times of one form: texts compare as they do.
    if (changed(new, old, "startTime") || changed(new, old, "completionTime")) && !start.is_empty() && !end.is_empty() && end < start {
        e.invalid(&path, shown, "must be equal to or after `startTime`");
    }
}

/// What is true of a job that is over.
fn at_the_end(job: &Value, new: Side<'_>, old: Side<'_>, e: &mut Errors) {
    let turned = |kinds: &[&str]| kinds.iter().any(|kind| new.is(kind) != old.is(kind));
    if turned(&["Failed", "FailureTarget"]) && new.is("Failed") && !new.is("FailureTarget") {
        conditions("cannot set Failed=True condition without the FailureTarget=true condition", e);
    }
    if turned(&["Complete", "SuccessCriteriaMet"]) && new.is("Complete") && !new.is("SuccessCriteriaMet") {
        conditions("cannot set Complete=True condition without the SuccessCriteriaMet=true condition", e);
    }
    if !new.finished() {
        return;
    }
    let ended = !old.finished();
    if (ended || changed(new, old, "active")) && new.count("active") > 0 {
        e.invalid(&STATUS.child("active"), &new.0["active"], "active>0 is invalid for finished job");
    }
    // A suspended job that has nothing to complete is over before it started.
    let nothing = flag(spec(job), "suspend") && int(spec(job), "completions") == Some(0);
    if (ended || changed(new, old, "startTime")) && !has(new.0, "startTime") && !nothing {
        e.required(&STATUS.child("startTime"), "startTime is required for finished job");
    }
    let pods = |key: &str| !list_at(new.0, &["uncountedTerminatedPods", key]).is_empty();
    if (ended || changed(new, old, "uncountedTerminatedPods")) && (pods("failed") || pods("succeeded")) {
        let path = STATUS.child("uncountedTerminatedPods");
        e.invalid(&path, &new.0["uncountedTerminatedPods"], "must be empty for finished job");
    }
}

/// The indexes of an Indexed job that are over.
fn indexes(job: &Value, new: Side<'_>, old: Side<'_>, e: &mut Errors) {
    let spec = spec(job);
    let completions = int(spec, "completions");
    let (done, failed) = (text(new.0, "completedIndexes"), get(new.0, "failedIndexes").and_then(Value::as_str));
    let (done_path, failed_path) = (STATUS.child("completedIndexes"), STATUS.child("failedIndexes"));
    let (done_changed, failed_changed) = (changed(new, old, "completedIndexes"), changed(new, old, "failedIndexes"));
    if let Some(Err(why)) = completions.filter(|_| done_changed).map(|n| count_indexes(done, n)) {
        e.invalid(&done_path, &done.into(), &format!("error parsing completedIndexes: {why}"));
    }
    let limited = has(spec, "backoffLimitPerIndex");
    if let (Some(n), Some(failed)) = (completions.filter(|_| failed_changed && limited), failed)
        && let Err(why) = count_indexes(failed, n)
    {
        e.invalid(&failed_path, &failed.into(), &format!("error parsing failedIndexes: {why}"));
    }
    if done_changed && !done.is_empty() && text(spec, "completionMode") != "Indexed" {
        e.invalid(&done_path, &done.into(), "cannot set non-empty completedIndexes when non-indexed completion mode");
    }
    let Some(failed) = failed else { return };
    if failed_changed && !limited {
        e.invalid(&failed_path, &failed.into(), "cannot set non-null failedIndexes when backoffLimitPerIndex is null");
    }
    if (failed_changed || done_changed)
        && completions.is_some()
        && let Some(at) = overlap(done, failed)
    {
        e.invalid(&failed_path, &failed.into(), &format!("failedIndexes and completedIndexes overlap at index: {at}"));
    }
}

/// The first index that is in both of two ascending lists such as `1,3-5`.
fn overlap(a: &str, b: &str) -> Option<i64> {
    let intervals = |text: &str| -> Vec<(i64, i64)> {
        let one = |interval: &str| {
            let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        text.split(',').filter_map(one).collect()
    };
    let (a, b) = (intervals(a), intervals(b));
    let (mut i, mut j) = (0, 0);
    while let (Some((a_first, a_last)), Some((b_first, b_last))) = (a.get(i), b.get(j)) {
        if a_first <= b_last && b_first <= a_last {
            return Some(*a_first.max(b_first));
        }
        if a_first <= b_first { i += 1 } else { j += 1 }
    }
    None
}

/// What goes with the job's success.
fn success(job: &Value, new: Side<'_>, e: &mut Errors) {
    let met = new.is("SuccessCriteriaMet");
    for (other, shown) in [("Failed", "Failed=true"), ("FailureTarget", "FailureTarget=true")] {
        if met && new.is(other) {
            conditions(&format!("cannot set SuccessCriteriaMet=True and {shown} conditions"), e);
        }
    }
    if has(spec(job), "successPolicy") && !met && new.is("Complete") {
        conditions("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True", e);
    }
}

/// What was said once and cannot be taken back.
fn never_back(job: &Value, new: Side<'_>, old: Side<'_>, e: &mut Errors) {
    let spec = spec(job);
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if old.is(kind) && !new.is(kind) {
            conditions(&format!("cannot disable the terminal {kind}=True condition"), e);
        }
    }
    if new.count("failed") < old.count("failed") {
        e.invalid(&STATUS.child("failed"), &new.count("failed").into(), "cannot decrease the failed counter");
    }
    // A job whose completions go with its parallelism may be scaled down.
    if !same(spec.get("completions"), spec.get("parallelism")) && new.count("succeeded") < old.count("succeeded") {
        e.invalid(&STATUS.child("succeeded"), &new.count("succeeded").into(), "cannot decrease the succeeded counter");
    }
    let both = |key: &str| has(new.0, key) && has(old.0, key);
    if both("completionTime") && changed(new, old, "completionTime") {
        e.invalid(&STATUS.child("completionTime"), &new.0["completionTime"], check::IMMUTABLE);
    }
    // A job that goes on after a suspension starts anew.
    if has(old.0, "startTime") && changed(new, old, "startTime") && !flag(spec, "suspend") && !old.is("Suspended") {
        let why = "field is immutable for unsuspended job once set";
        e.invalid(&STATUS.child("startTime"), new.0.get("startTime").unwrap_or(&NONE), why);
    }
    if old.is("SuccessCriteriaMet") && !new.is("SuccessCriteriaMet") {
        conditions("cannot disable the SuccessCriteriaMet=True condition", e);
    }
    if old.is("Complete") && !old.is("SuccessCriteriaMet") && new.is("SuccessCriteriaMet") {
        conditions("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions", e);
    }
}
