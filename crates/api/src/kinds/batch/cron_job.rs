//! What a CronJob must look like (`ValidateCronJob`).

use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, cron};
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");

/// A new one.
pub fn create(o: &Value, e: &mut Errors) {
    let name = text_at(o, &["metadata", "name"]);
    if name.len() > 52 {
        let path = At::field("metadata");
        e.invalid(&path.child("name"), &name.into(), "must be no more than 52 characters");
    }
    cron_job(o, None, e);
}

/// A changed one. What was accepted once may stay as it is.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    cron_job(new, Some(spec(old)), e);
}

fn cron_job(o: &Value, old: Option<&Value>, e: &mut Errors) {
    let spec = spec(o);
    let schedule = text(spec, "schedule");
    let kept = |key: &str| old.is_some_and(|old| text(old, key) == text(spec, key));
    let at = SPEC.child("schedule");
    if schedule.is_empty() {
        e.required(&at, "");
    } else if schedule.contains("TZ") && !kept("schedule") {
        let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        e.invalid(&at, &schedule.into(), why);
    } else if let Err(why) =
        cron::check(schedule.rsplit_once("TZ=").map_or(schedule, |(_, rest)| rest.split_once(' ').map_or("", |(_, s)| s)))
    {
        e.invalid(&at, &schedule.into(), &why);
    }
    if let Some(zone) = get(spec, "timeZone").and_then(Value::as_str).filter(|_| !kept("timeZone")) {
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
    super::job::spec_of(job, &spec_path, e);
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
