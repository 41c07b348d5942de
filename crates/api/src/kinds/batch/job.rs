//! What a Job must look like, new and changed (`pkg/apis/batch/validation`).

use super::policies;
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, pod};
use crate::labels::Selector;
use crate::names;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");
/// Beyond these, indexes cannot be tracked.
const MOST_INDEXES: i64 = 100_000;
const MOST_FAILED: i64 = 100_000;
const MOST_AT_ONCE: i64 = 10_000;

/// A new one.
pub fn create(o: &Value, e: &mut Errors) {
    generated(o, e);
    whole(o, e);
    host_names(o, e);
}

/// The selector and the labels that the server makes are those of this job: those of another, copied with it, are not.
fn generated(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    let Some(selector) = get(spec, "selector").filter(|_| !flag(spec, "manualSelector")) else { return };
    let (uid, name) = (text_at(o, &["metadata", "uid"]), text_at(o, &["metadata", "name"]));
    let expected =
        [("controller-uid", uid), ("job-name", name), ("batch.kubernetes.io/controller-uid", uid), ("batch.kubernetes.io/job-name", name)];
    let path = SPEC.child("template");
    let path = path.child("metadata");
    let path = path.child("labels");
    let labels = at(spec, &["template", "metadata", "labels"]).unwrap_or(&NONE);
    for (key, value) in expected {
        let why = format!("must be '{value}'");
        match labels.get(key) {
            None => e.required(&path.key(key), &why),
            Some(found) if found != value => e.invalid(&path.key(key), labels, &why),
            Some(_) => {}
        }
    }
    let wanted: Value = expected.into_iter().map(|(k, v)| (k.to_owned(), Value::from(v))).collect::<serde_json::Map<_, _>>().into();
    if Selector::from_label_selector(Some(selector)).is_ok_and(|s| !s.matches_map(Some(&wanted))) {
        e.invalid(&SPEC.child("selector"), selector, "`selector` not auto-generated");
    }
}

/// The spec with its selector.
fn whole(o: &Value, e: &mut Errors) {
    spec_of(spec(o), &SPEC, e);
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

/// Indexed pods have their index at the end of their host name, which must be one.
fn host_names(o: &Value, e: &mut Errors) {
    let (spec, name) = (spec(o), text_at(o, &["metadata", "name"]));
    let Some(completions) = int(spec, "completions").filter(|n| text(spec, "completionMode") == "Indexed" && *n > 0) else { return };
    let longest = format!("{name}-{}", completions - 1);
    if !names::dns1123_label(&longest).is_empty() {
        let path = At::field("metadata");
        let why = format!("will not able to create pod with invalid DNS label: {longest}");
        e.invalid(&path.child("name"), &name.into(), &why);
    }
}

/// The spec, in a Job or in the template of a CronJob.
pub fn spec_of(spec: &Value, path: &At, e: &mut Errors) {
    const COUNTS: [&str; 7] = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    COUNTS.iter().for_each(|key| check::non_negative(spec, key, path, e));
    if has(spec, "maxFailedIndexes") && !has(spec, "backoffLimitPerIndex") {
        e.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = get(spec, "managedBy").and_then(Value::as_str) {
        e.invalid_each(&path.child("managedBy"), manager, names::domain_prefixed_path(manager));
        if manager.len() > 63 {
            e.too_long(&path.child("managedBy"), 63);
        }
    }
    completion_mode(spec, path, e);
    if let Some(policy) = get(spec, "podFailurePolicy") {
        policies::failure(policy, spec, &path.child("podFailurePolicy"), e);
    }
    if let Some(policy) = get(spec, "successPolicy") {
        let at = path.child("successPolicy");
        if text(spec, "completionMode") == "Indexed" {
            policies::success(policy, spec, &at, e);
        } else {
            e.invalid(&at, policy, "requires indexed completion mode");
        }
    }
    let replacements: &[&str] = if has(spec, "podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    check::choice_if_set(spec, "podReplacementPolicy", replacements, path, e);
    let template = spec.get("template").unwrap_or(&NONE);
    pod::validate_template(template, &path.child("template"), e);
    restart_policy(spec, template, path, e);
}

fn restart_policy(spec: &Value, template: &Value, path: &At, e: &mut Errors) {
    let restart = text_at(template, &["spec", "restartPolicy"]);
    let path = path.child("template");
    let path = path.child("spec");
    let at = path.child("restartPolicy");
    if matches!(restart, "Always" | "") {
        e.required(&at, "valid values: \"OnFailure\", \"Never\"");
    } else if !matches!(restart, "OnFailure" | "Never") {
        e.not_supported(&at, &restart.into(), &["OnFailure", "Never"]);
    } else if has(spec, "podFailurePolicy") && restart != "Never" {
        e.invalid(&at, &restart.into(), "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

fn completion_mode(spec: &Value, path: &At, e: &mut Errors) {
    check::choice_if_set(spec, "completionMode", &["NonIndexed", "Indexed"], path, e);
    match text(spec, "completionMode") {
        "Indexed" => indexed(spec, path, e),
        "" | "NonIndexed" => {
            for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = get(spec, key) {
                    e.invalid(&path.child(key), value, "requires indexed completion mode");
                }
            }
        }
        _ => {}
    }
}

fn indexed(spec: &Value, path: &At, e: &mut Errors) {
    let number = |key: &str| int(spec, key);
    let completions = number("completions");
    if completions.is_none() {
        e.required(&path.child("completions"), "when completion mode is Indexed");
    }
    if let Some(n) = number("parallelism").filter(|n| *n > MOST_INDEXES) {
        let why = format!("must be less than or equal to {MOST_INDEXES} when completion mode is Indexed");
        e.invalid(&path.child("parallelism"), &n.into(), &why);
    }
    if let Some(n) = number("maxFailedIndexes") {
        let at = path.child("maxFailedIndexes");
        if completions.is_some_and(|all| n > all) {
            e.invalid(&at, &n.into(), "must be less than or equal to completions");
        }
        if n > MOST_FAILED {
            e.invalid(&at, &n.into(), &format!("must be less than or equal to {MOST_FAILED}"));
        }
    }
    if !has(spec, "backoffLimitPerIndex") || completions.is_none_or(|all| all <= MOST_INDEXES) {
        return;
    }
    if !has(spec, "maxFailedIndexes") {
        e.required(&path.child("maxFailedIndexes"), &format!("must be specified when completions is above {MOST_INDEXES}"));
    }
    for key in ["parallelism", "maxFailedIndexes"] {
        if let Some(n) = number(key).filter(|n| *n > MOST_AT_ONCE) {
            let why = format!(
                "must be less than or equal to {MOST_AT_ONCE} when completions are above {MOST_INDEXES} and used with backoff limit per index"
            );
            e.invalid(&path.child(key), &n.into(), &why);
        }
    }
}

/// A changed one.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    const FIXED: [&str; 5] = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];
    pod::ratchet::checked(new, old, whole, e);
    let (new_spec, old_spec) = (spec(new), spec(old));
    completions(new_spec, old_spec, e);
    check::immutable(new_spec, old_spec, "selector", &SPEC, e);
    let mut template = new_spec.get("template").cloned().unwrap_or_default();
    if flag(old_spec, "suspend") && is_at_rest(old) {
        forget_directives(&mut template, old_spec.get("template").unwrap_or(&NONE));
    }
    if !same(Some(&template), old_spec.get("template")) {
        e.invalid(&SPEC.child("template"), new_spec.get("template").unwrap_or(&NONE), check::IMMUTABLE);
    }
    FIXED.iter().for_each(|key| check::immutable(new_spec, old_spec, key, &SPEC, e));
}

/// Completions of an Indexed job change together with its parallelism only.
fn completions(new: &Value, old: &Value, e: &mut Errors) {
    if int(new, "completions") == int(old, "completions") {
        return;
    }
    let path = SPEC.child("completions");
    let value = new.get("completions").unwrap_or(&NONE);
    if text(new, "completionMode") != "Indexed" {
        e.invalid(&path, value, check::IMMUTABLE);
    } else if has(new, "completions") && int(new, "completions") != int(new, "parallelism") {
        e.invalid(&path, value, "can only be modified in tandem with spec.parallelism");
    }
}

/// Whether a suspended job has no pods yet, or none any more.
fn is_at_rest(job: &Value) -> bool {
    let suspended = |c: &Value| text(c, "type") == "Suspended" && text(c, "status") == "True";
    at(job, &["status", "startTime"]).is_none()
        || (list_at(job, &["status", "conditions"]).iter().any(suspended) && int_at(job, &["status", "active"]) == 0)
}

/// Takes back what may change while a job is suspended: where its pods go, and what they may use.
fn forget_directives(template: &mut Value, before: &Value) {
    let (old_spec, old_meta) = (before.get("spec").unwrap_or(&NONE), before.get("metadata").unwrap_or(&NONE));
    let spec = object(template, "spec");
    for key in ["nodeSelector", "tolerations", "schedulingGates"] {
        copy(spec, old_spec, key);
    }
    let affinity = at(old_spec, &["affinity", "nodeAffinity"]).cloned();
    let own = object(spec, "affinity");
    match affinity {
        Some(affinity) => set(own, "nodeAffinity", affinity),
        None => drop(remove(own, "nodeAffinity")),
    }
    for kind in ["containers", "initContainers"] {
        let old = list(old_spec, kind).to_vec();
        for container in each_mut(spec, kind) {
            let name = text(container, "name").to_owned();
            if let Some(twin) = old.iter().find(|c| text(c, "name") == name) {
                copy(container, twin, "resources");
            }
        }
    }
    let meta = object(template, "metadata");
    for key in ["labels", "annotations"] {
        copy(meta, old_meta, key);
    }
}
