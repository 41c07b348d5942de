//! Jobs and CronJobs: defaults, generated selectors, rules.

mod cron_job;
mod job;
mod policies;
mod status;

use super::json::*;
use super::{HookContext, Hooks, common, pod};
use serde_json::{Map, Value};

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

pub(super) const JOB: Hooks = Hooks {
    default: Some(default_job),
    prepare_create: Some(prepare_job),
    validate_create: Some(job::create),
    warnings: Some(job_warnings),
    update_warnings: Some(changed_job),
    validate_update: Some(job::update),
    validate_status: Some(status::update),
    ..Hooks::NONE
};
pub(super) const CRON_JOB: Hooks = Hooks {
    default: Some(default_cron_job),
    prepare_create: Some(common::reset_status),
    validate_create: Some(cron_job::create),
    warnings: Some(cron_job::warnings),
    update_warnings: Some(changed_cron_job),
    validate_update: Some(cron_job::update),
    ..Hooks::NONE
};

fn default_job(o: &mut Value) {
    let spec = object(o, "spec");
    if !has(spec, "completions") && !has(spec, "parallelism") {
        set(spec, "completions", 1);
    }
    fill(spec, "parallelism", 1);
    let per_index = has(spec, "backoffLimitPerIndex");
    fill(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    fill(spec, "completionMode", "NonIndexed");
    fill(spec, "suspend", false);
    fill(spec, "manualSelector", false);
    let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    fill(spec, "podReplacementPolicy", replacement);
    if let Some(policy) = get_mut(spec, "podFailurePolicy") {
        for rule in each_mut(policy, "rules") {
            each_mut(rule, "onPodConditions").for_each(|c| fill_text(c, "status", "True"));
        }
    }
    if spec["manualSelector"] == Value::Bool(false) {
        remove(spec, "manualSelector");
    }
    pod::template_defaults(object(spec, "template"));
    let labels = at(o, &["spec", "template", "metadata", "labels"]).cloned();
    let metadata = object(o, "metadata");
    if let Some(labels) = labels.filter(|_| same(metadata.get("labels"), None)) {
        set(metadata, "labels", labels);
    }
}

/// Unless the user brings a selector of their own, a job selects the pods that carry its UID.
fn prepare_job(o: &mut Value, context: &HookContext) {
    common::reset_status(o, context);
    if flag(spec(o), "manualSelector") {
        return;
    }
    let uid = text_at(o, &["metadata", "uid"]).to_owned();
    let name = text_at(o, &["metadata", "name"]).to_owned();
    let spec = object(o, "spec");
    let labels = object(object(object(spec, "template"), "metadata"), "labels");
    NAME_LABELS.iter().for_each(|key| fill(labels, key, name.as_str()));
    UID_LABELS.iter().for_each(|key| fill(labels, key, uid.as_str()));
    fill(object(object(spec, "selector"), "matchLabels"), UID_LABELS[1], uid);
}

fn default_cron_job(o: &mut Value) {
    let spec = object(o, "spec");
    fill_text(spec, "concurrencyPolicy", "Allow");
    fill(spec, "suspend", false);
    fill(spec, "successfulJobsHistoryLimit", 3);
    fill(spec, "failedJobsHistoryLimit", 1);
    let template = object(spec, "jobTemplate");
    fill(template, "metadata", Map::new());
    pod::template_defaults(object(object(template, "spec"), "template"));
}

fn job_warnings(o: &Value) -> Vec<String> {
    let mut out = pod::warnings::host_names(o, "Pod names and hostnames");
    out.extend(spec_warnings(spec(o)));
    out.extend(pod::warnings::workload(o));
    out
}

/// Warnings about the spec of a job, besides those about its template.
fn spec_warnings(spec: &Value) -> Vec<String> {
    const MANY: i64 = 100_000;
    const PARALLEL: i64 = 10_000;
    let above = |key: &str, n: i64| int(spec, key).is_some_and(|v| v > n);
    let untracked = text(spec, "completionMode") == "Indexed" && above("completions", MANY) && above("parallelism", PARALLEL);
    let why = "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail";
    if untracked { vec![why.to_owned()] } else { Vec::new() }
}

fn changed_job(new: &Value, old: &Value) -> Vec<String> {
    if same(new.get("spec"), old.get("spec")) {
        return Vec::new();
    }
    let mut out = spec_warnings(spec(new));
    out.extend(pod::warnings::workload(new));
    out
}

fn changed_cron_job(new: &Value, old: &Value) -> Vec<String> {
    if same(new.get("spec"), old.get("spec")) { Vec::new() } else { cron_job::template_warnings(new) }
}
