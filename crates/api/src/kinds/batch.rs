//! Jobs and CronJobs: defaults, generated selectors, rules.

use super::json::*;
use super::{HookContext, Hooks, check, common, meta, pod};
use crate::field::{At, Errors};
use crate::labels::Selector;
use serde_json::{Map, Value, json};

const SPEC: At<'static> = At::field("spec");
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

pub(super) const JOB: Hooks = Hooks {
    default: Some(default_job),
    prepare_create: Some(prepare_job),
    validate_create: Some(job),
    warnings: Some(pod::warnings::workload),
    validate_update: Some(job_update),
    ..Hooks::NONE
};
pub(super) const CRON_JOB: Hooks = Hooks {
    default: Some(default_cron_job),
    prepare_create: Some(common::reset_status),
    validate_create: Some(cron_job_create),
    warnings: Some(pod::warnings::cron_job),
    validate_update: Some(|new, _, e| cron_job(new, e)),
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

fn job(o: &Value, e: &mut Errors) {
    job_spec(spec(o), &SPEC, e);
    let path = SPEC.child("selector");
    match get(spec(o), "selector") {
        None => e.required(&path, ""),
        Some(selector) => {
            check::label_selector(selector, &path, e);
            let labels = at(o, &["spec", "template", "metadata", "labels"]);
            let matches = Selector::from_label_selector(Some(selector)).is_ok_and(|s| s.matches_map(labels));
            if !matches {
                let at = SPEC.child("template");
                let at = at.child("metadata");
                e.invalid(&at.child("labels"), labels.unwrap_or(&json!({})), "`selector` does not match template `labels`");
            }
        }
    }
}

fn job_spec(spec: &Value, path: &At, e: &mut Errors) {
    for key in ["parallelism", "completions", "activeDeadlineSeconds", "backoffLimit", "ttlSecondsAfterFinished"] {
        check::non_negative(spec, key, path, e);
    }
    for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        check::non_negative(spec, key, path, e);
    }
    completion_mode(spec, path, e);
    check::choice_if_set(spec, "podReplacementPolicy", &["Failed", "TerminatingOrFailed"], path, e);
    let template_path = path.child("template");
    let template = spec.get("template").unwrap_or(&NONE);
    pod::validate_template(template, &template_path, e);
    let restart = text_at(template, &["spec", "restartPolicy"]);
    let spec_path = template_path.child("spec");
    let at = spec_path.child("restartPolicy");
    if restart == "Always" {
        e.required(&at, "valid values: \"OnFailure\", \"Never\"");
    } else if has(spec, "podFailurePolicy") && restart != "Never" {
        e.invalid(&at, &restart.into(), "only \"Never\" is supported when podFailurePolicy is specified");
    }
    if let Some(policy) = get(spec, "podFailurePolicy") {
        failure_policy(policy, template, &path.child("podFailurePolicy"), e);
    }
}

fn completion_mode(spec: &Value, path: &At, e: &mut Errors) {
    let indexed = text(spec, "completionMode") == "Indexed";
    check::choice_if_set(spec, "completionMode", &["Indexed", "NonIndexed"], path, e);
    if indexed && !has(spec, "completions") {
        e.required(&path.child("completions"), "when completion mode is Indexed");
    }
    let most = 100_000;
    for key in ["parallelism", "maxFailedIndexes"] {
        if let Some(n) = int(spec, key).filter(|n| indexed && *n > most) {
            e.invalid(&path.child(key), &n.into(), &format!("must be less than or equal to {most} when completion mode is Indexed"));
        }
    }
    if indexed {
        return;
    }
    for key in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
        if let Some(value) = get(spec, key) {
            e.invalid(&path.child(key), value, "requires indexed completion mode");
        }
    }
}

fn failure_policy(policy: &Value, template: &Value, path: &At, e: &mut Errors) {
    const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
    let rules = path.child("rules");
    if list(policy, "rules").len() > 20 {
        e.too_many(&rules, list(policy, "rules").len(), 20);
    }
    for (i, rule) in list(policy, "rules").iter().enumerate() {
        let at = rules.index(i);
        check::choice(rule, "action", &ACTIONS, &at, e);
        match (get(rule, "onExitCodes"), list(rule, "onPodConditions").is_empty()) {
            (Some(_), false) => e.invalid(&at, rule, "specifying both OnExitCodes and OnPodConditions is not supported"),
            (None, true) => e.invalid(&at, rule, "specifying one of OnExitCodes and OnPodConditions is required"),
            (Some(codes), true) => exit_codes(codes, template, &at.child("onExitCodes"), e),
            (None, false) => {}
        }
    }
}

fn exit_codes(codes: &Value, template: &Value, at: &At, e: &mut Errors) {
    check::choice(codes, "operator", &["In", "NotIn"], at, e);
    let name = text(codes, "containerName");
    let known = ["containers", "initContainers"].iter().any(|k| list_at(template, &["spec", k]).iter().any(|c| text(c, "name") == name));
    if !name.is_empty() && !known {
        e.invalid(&at.child("containerName"), &name.into(), "must be one of the container or initContainer names in the pod template");
    }
    let values = at.child("values");
    if list(codes, "values").is_empty() {
        e.invalid(&values, &codes["values"], "at least one value is required");
    }
    if text(codes, "operator") == "In" {
        for (i, _) in list(codes, "values").iter().enumerate().filter(|(_, v)| v.as_i64() == Some(0)) {
            e.invalid(&values.index(i), &0.into(), "must not be 0 for the In operator");
        }
    }
}

fn job_update(new: &Value, old: &Value, e: &mut Errors) {
    const FIXED: [&str; 7] =
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy", "manualSelector", "selector"];
    job(new, e);
    let (new_spec, old_spec) = (spec(new), spec(old));
    let elastic = text(new_spec, "completionMode") == "Indexed"
        && int(new_spec, "completions") == int(new_spec, "parallelism")
        && has(new_spec, "completions");
    if !elastic {
        check::immutable(new_spec, old_spec, "completions", &SPEC, e);
    }
    FIXED.iter().for_each(|key| check::immutable(new_spec, old_spec, key, &SPEC, e));
    let mut template = new_spec.get("template").cloned().unwrap_or_default();
    let not_started = flag(old_spec, "suspend") && at(old, &["status", "startTime"]).is_none();
    if not_started {
        let before = old_spec.get("template").unwrap_or(&NONE);
        for key in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            copy(object(&mut template, "spec"), before.get("spec").unwrap_or(&NONE), key);
        }
        for key in ["labels", "annotations"] {
            copy(object(&mut template, "metadata"), before.get("metadata").unwrap_or(&NONE), key);
        }
    }
    meta::immutable_value(Some(&template), old_spec.get("template"), &SPEC.child("template"), e);
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

fn cron_job_create(o: &Value, e: &mut Errors) {
    let name = text_at(o, &["metadata", "name"]);
    if name.len() > 52 {
        let path = At::field("metadata");
        e.invalid(&path.child("name"), &name.into(), "must be no more than 52 characters");
    }
    cron_job(o, e);
}

fn cron_job(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    let schedule = text(spec, "schedule");
    let at = SPEC.child("schedule");
    if schedule.is_empty() {
        e.required(&at, "");
    } else if schedule.contains("TZ") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        e.invalid(&at, &schedule.into(), why);
    } else if let Err(why) = super::cron::check(schedule) {
        e.invalid(&at, &schedule.into(), &why);
    }
    if let Some(zone) = get(spec, "timeZone").and_then(Value::as_str) {
        time_zone(zone, &SPEC.child("timeZone"), e);
    }
    check::non_negative(spec, "startingDeadlineSeconds", &SPEC, e);
    check::choice(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &SPEC, e);
    for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check::non_negative(spec, key, &SPEC, e);
    }
    let path = SPEC.child("jobTemplate");
    let job = at_job(spec);
    let spec_path = path.child("spec");
    job_spec(job, &spec_path, e);
    if flag(job, "manualSelector") {
        e.not_supported(&spec_path.child("manualSelector"), &true.into(), &["nil", "false"]);
    }
    if let Some(selector) = get(job, "selector") {
        e.invalid(&spec_path.child("selector"), selector, "`selector` will be auto-generated");
    }
}

fn at_job(spec: &Value) -> &Value {
    at(spec, &["jobTemplate", "spec"]).unwrap_or(&NONE)
}

fn time_zone(zone: &str, at: &At, e: &mut Errors) {
    if zone.is_empty() {
        e.invalid(at, &zone.into(), "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("local") {
        e.invalid(at, &zone.into(), "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        e.invalid(at, &zone.into(), &format!("unknown time zone {zone}"));
    }
}
