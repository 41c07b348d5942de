//! What a CronJob must look like (`ValidateCronJob`).

use crate::cron;
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, pod};
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");

/// A new one.
pub fn create(o: &Value, e: &mut Errors) {
    cron_job(o, None, e);
    let name = text_at(o, &["metadata", "name"]);
    if name.len() > 52 {
        let path = At::field("metadata");
        e.invalid(&path.child("name"), &name.into(), "must be no more than 52 characters");
    }
}

/// A changed one. What was accepted once may stay as it is.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    pod::ratchet::checked(new, old, |o, e| cron_job(o, Some(spec(old)), e), e);
}

/// Warnings about a new one.
pub fn warnings(o: &Value) -> Vec<String> {
    let mut out = pod::warnings::host_names(o, "Pod names and hostnames");
    out.extend(template_warnings(o));
    out
}

/// Warnings about the job that is made.
pub fn template_warnings(o: &Value) -> Vec<String> {
    const PATH: [&str; 4] = ["spec", "jobTemplate", "spec", "template"];
    let root = At::field(PATH[0]);
    let path = root.child(PATH[1]);
    let path = path.child(PATH[2]);
    let mut out = super::spec_warnings(at_job(spec(o)));
    out.extend(pod::warnings::template(at(o, &PATH).unwrap_or(&NONE), &path.child(PATH[3])));
    out
}

fn cron_job(o: &Value, old: Option<&Value>, e: &mut Errors) {
    let spec = spec(o);
    schedule(spec, old, e);
    check::non_negative(spec, "startingDeadlineSeconds", &SPEC, e);
    let kept = |key: &str| old.is_some_and(|old| text(old, key) == text(spec, key));
    if let Some(zone) = get(spec, "timeZone").and_then(Value::as_str).filter(|_| !kept("timeZone")) {
        time_zone(zone, &SPEC.child("timeZone"), e);
    }
    check::choice(spec, "concurrencyPolicy", &["Allow", "Forbid", "Replace"], &SPEC, e);
    let path = SPEC.child("jobTemplate");
    let job = at_job(spec);
    let spec_path = path.child("spec");
    super::job::spec_of(job, &spec_path, e);
    if let Some(selector) = get(job, "selector") {
        e.invalid(&spec_path.child("selector"), selector, "`selector` will be auto-generated");
    }
    if flag(job, "manualSelector") {
        e.not_supported(&spec_path.child("manualSelector"), &true.into(), &["nil", "false"]);
    }
    for key in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check::non_negative(spec, key, &SPEC, e);
    }
}

/// When to run. A time zone within it is of old, and stays where it was.
fn schedule(spec: &Value, old: Option<&Value>, e: &mut Errors) {
    let (schedule, at) = (text(spec, "schedule"), SPEC.child("schedule"));
    if schedule.is_empty() {
        return e.required(&at, "");
    }
    let times = schedule.rsplit_once("TZ=").map_or(schedule, |(_, rest)| rest.split_once(' ').map_or("", |(_, s)| s));
    if let Err(why) = cron::parse(times) {
        e.invalid(&at, &schedule.into(), &why);
    }
    match (schedule.contains("TZ"), old.is_some_and(|old| text(old, "schedule").contains("TZ"))) {
        (true, true) if has(spec, "timeZone") => {
            e.invalid(&at, &schedule.into(), "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        }
        (true, false) => e.invalid(&at, &schedule.into(), "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"),
        _ => {}
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
