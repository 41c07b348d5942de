//! Deployments, ReplicaSets, DaemonSets, StatefulSets, ReplicationControllers: defaults and rules.

mod status;

use super::json::*;
use super::{HookContext, Hooks, check, common, meta, pod};
use crate::field::{At, Errors};
use crate::labels::Selector;
use crate::names;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");

const BASE: Hooks = Hooks { prepare_create: Some(common::reset_status), warnings: Some(pod::warnings::workload), ..Hooks::NONE };

pub(super) const DEPLOYMENT: Hooks = Hooks {
    default: Some(default_deployment),
    validate_create: Some(deployment),
    validate_update: Some(|new, old, e| fixed_selector(new, old, deployment, e)),
    validate_status: Some(status::deployment),
    ..BASE
};
pub(super) const REPLICA_SET: Hooks = Hooks {
    default: Some(default_replica_set),
    validate_create: Some(replica_set),
    validate_update: Some(|new, old, e| fixed_selector(new, old, replica_set, e)),
    validate_status: Some(|new, _, e| status::replicas(new, e)),
    ..BASE
};
pub(super) const DAEMON_SET: Hooks = Hooks {
    default: Some(default_daemon_set),
    prepare_create: Some(prepare_daemon_set),
    prepare_update: Some(|new, old, _| count_templates(new, old)),
    validate_create: Some(daemon_set),
    validate_update: Some(|new, old, e| fixed_selector(new, old, daemon_set, e)),
    validate_status: Some(status::daemon_set),
    ..BASE
};
pub(super) const STATEFUL_SET: Hooks = Hooks {
    default: Some(default_stateful_set),
    prepare_create: Some(prepare_stateful_set),
    prepare_update: Some(|new, old, _| drop_max_unavailable(new, Some(old))),
    validate_create: Some(stateful_set),
    validate_update: Some(stateful_set_update),
    validate_status: Some(status::stateful_set),
    validate_name: Some(names::dns1123_label),
    ..BASE
};
pub(super) const REPLICATION_CONTROLLER: Hooks = Hooks {
    default: Some(default_controller),
    validate_create: Some(controller),
    validate_status: Some(|new, _, e| status::replicas(new, e)),
    ..BASE
};
pub(super) const CONTROLLER_REVISION: Hooks =
    Hooks { validate_create: Some(revision), validate_update: Some(revision_update), ..Hooks::NONE };

/// Counts the templates of a daemon set: a field of old versions that lives on as an annotation.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn set_template_generation(o: &mut Value, n: i64) {
    set(object(object(o, "metadata"), "annotations"), TEMPLATE_GENERATION, n.to_string());
}

fn prepare_daemon_set(o: &mut Value, context: &HookContext) {
    common::reset_status(o, context);
    set_template_generation(o, 1);
}

fn count_templates(new: &mut Value, old: &Value) {
    let before = text_at(old, &["metadata", "annotations", TEMPLATE_GENERATION]).parse().unwrap_or(0);
    let changed = !same(spec(new).get("template"), spec(old).get("template"));
    set_template_generation(new, before + i64::from(changed));
}

fn prepare_stateful_set(o: &mut Value, context: &HookContext) {
    common::reset_status(o, context);
    drop_max_unavailable(o, None);
}

/// `maxUnavailable` belongs to a feature that is off (MaxUnavailableStatefulSet): only who has it keeps it.
fn drop_max_unavailable(new: &mut Value, old: Option<&Value>) {
    const PATH: [&str; 3] = ["spec", "updateStrategy", "rollingUpdate"];
    let had = old.and_then(|o| at(o, &PATH)).is_some_and(|r| has(r, "maxUnavailable"));
    if let Some(rolling) = at_mut(new, &PATH).filter(|_| !had) {
        remove(rolling, "maxUnavailable");
    }
}

fn template(spec: &mut Value) {
    pod::template_defaults(object(spec, "template"));
}

fn default_deployment(o: &mut Value) {
    let spec = object(o, "spec");
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
    let strategy = object(spec, "strategy");
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", "25%");
        fill(rolling, "maxSurge", "25%");
    }
    template(spec);
}

fn default_replica_set(o: &mut Value) {
    let spec = object(o, "spec");
    fill(spec, "replicas", 1);
    template(spec);
}

fn default_daemon_set(o: &mut Value) {
    let spec = object(o, "spec");
    fill(spec, "revisionHistoryLimit", 10);
    let strategy = object(spec, "updateStrategy");
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        let rolling = object(strategy, "rollingUpdate");
        fill(rolling, "maxUnavailable", 1);
        fill(rolling, "maxSurge", 0);
    }
    template(spec);
}

fn default_stateful_set(o: &mut Value) {
    let spec = object(o, "spec");
    fill(spec, "replicas", 1);
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "serviceName", "");
    fill_text(spec, "podManagementPolicy", "OrderedReady");
    let strategy = object(spec, "updateStrategy");
    fill_text(strategy, "type", "RollingUpdate");
    if text(strategy, "type") == "RollingUpdate" {
        fill(object(strategy, "rollingUpdate"), "partition", 0);
    }
    let retention = object(spec, "persistentVolumeClaimRetentionPolicy");
    fill_text(retention, "whenDeleted", "Retain");
    fill_text(retention, "whenScaled", "Retain");
    for claim in each_mut(spec, "volumeClaimTemplates") {
        fill(claim, "apiVersion", "v1");
        fill(claim, "kind", "PersistentVolumeClaim");
        super::claim::default(claim);
    }
    template(spec);
}

fn default_controller(o: &mut Value) {
    let labels = at(o, &["spec", "template", "metadata", "labels"]).cloned();
    let spec = object(o, "spec");
    fill(spec, "replicas", 1);
    if has(spec, "template") {
        template(spec);
    }
    let Some(labels) = labels else { return };
    if same(spec.get("selector"), None) {
        set(spec, "selector", labels.clone());
    }
    let metadata = object(o, "metadata");
    if same(metadata.get("labels"), None) {
        set(metadata, "labels", labels);
    }
}

fn fixed_selector(new: &Value, old: &Value, validate: fn(&Value, &mut Errors), e: &mut Errors) {
    validate(new, e);
    check::immutable(spec(new), spec(old), "selector", &SPEC, e);
}

fn deployment(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    check::non_negative(spec, "replicas", &SPEC, e);
    selected_template(spec, "deployment", "ReplicaSet", e);
    deployment_strategy(spec.get("strategy").unwrap_or(&NONE), &SPEC.child("strategy"), e);
    for key in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        check::non_negative(spec, key, &SPEC, e);
    }
    if let Some(n) = int(spec, "progressDeadlineSeconds").filter(|n| *n <= int(spec, "minReadySeconds").unwrap_or_default()) {
        e.invalid(&SPEC.child("progressDeadlineSeconds"), &n.into(), "must be greater than minReadySeconds");
    }
}

fn deployment_strategy(strategy: &Value, path: &At, e: &mut Errors) {
    let at = path.child("rollingUpdate");
    match (text(strategy, "type"), get(strategy, "rollingUpdate")) {
        ("Recreate", Some(_)) => e.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'"),
        ("Recreate", None) => {}
        ("RollingUpdate", None) => e.required(&at, "this should be defaulted and never be nil"),
        ("RollingUpdate", Some(rolling)) => {
            check::int_or_percent(rolling, "maxUnavailable", &at, e);
            check::int_or_percent(rolling, "maxSurge", &at, e);
            if is_zero(rolling, "maxUnavailable") && is_zero(rolling, "maxSurge") {
                e.invalid(&at.child("maxUnavailable"), &rolling["maxUnavailable"], "may not be 0 when `maxSurge` is 0");
            }
            check::not_above_all(rolling, "maxUnavailable", &at, e);
        }
        (other, _) => e.not_supported(&path.child("type"), &other.into(), &["Recreate", "RollingUpdate"]),
    }
}

/// Whether a number or percentage is zero; absent is zero.
fn is_zero(v: &Value, key: &str) -> bool {
    match get(v, key) {
        Some(Value::String(s)) => names::parse_percent(s) == Some(0),
        Some(v) => v.as_i64() == Some(0),
        None => true,
    }
}

/// The selector and the template it must select.
fn selected_template(spec: &Value, kind: &str, runs_as: &str, e: &mut Errors) {
    let at = SPEC.child("selector");
    match get(spec, "selector") {
        None => e.required(&at, ""),
        Some(selector) => {
            check::label_selector(selector, &at, e);
            if same(selector.get("matchLabels"), None) && same(selector.get("matchExpressions"), None) {
                e.invalid(&at, selector, &format!("empty selector is invalid for {kind}"));
            }
        }
    }
    let selector = Selector::from_label_selector(get(spec, "selector")).unwrap_or_else(|_| Selector::nothing());
    long_running_template(spec, &selector, runs_as, e);
}

/// A template whose pods are started again whenever they end.
fn long_running_template(spec: &Value, selector: &Selector, runs_as: &str, e: &mut Errors) {
    let path = SPEC.child("template");
    let template = spec.get("template").unwrap_or(&NONE);
    let labels = at(template, &["metadata", "labels"]);
    if !selector.is_nothing() && !selector.matches_map(labels) {
        let at = path.child("metadata");
        e.invalid(&at.child("labels"), labels.unwrap_or(&json!({})), "`selector` does not match template `labels`");
    }
    pod::validate_template(template, &path, e);
    let pod = template.get("spec").unwrap_or(&NONE);
    let at = path.child("spec");
    if text(pod, "restartPolicy") != "Always" {
        e.not_supported(&at.child("restartPolicy"), &text(pod, "restartPolicy").into(), &["Always"]);
    }
    if has(pod, "activeDeadlineSeconds") {
        let why = format!("activeDeadlineSeconds in {runs_as} is not Supported");
        e.forbidden(&at.child("activeDeadlineSeconds"), &why);
    }
}

fn replica_set(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    check::non_negative(spec, "replicas", &SPEC, e);
    check::non_negative(spec, "minReadySeconds", &SPEC, e);
    selected_template(spec, "deployment", "ReplicaSet", e);
}

fn daemon_set(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    selected_template(spec, "daemonset", "DaemonSet", e);
    check::non_negative(spec, "minReadySeconds", &SPEC, e);
    check::non_negative(spec, "revisionHistoryLimit", &SPEC, e);
    let path = SPEC.child("updateStrategy");
    let strategy = spec.get("updateStrategy").unwrap_or(&NONE);
    let at = path.child("rollingUpdate");
    match (text(strategy, "type"), get(strategy, "rollingUpdate")) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => e.required(&at, ""),
        ("RollingUpdate", Some(rolling)) => daemon_rolling(rolling, &at, e),
        (other, _) => e.not_supported(&path.child("type"), &other.into(), &["OnDelete", "RollingUpdate"]),
    }
}

fn daemon_rolling(rolling: &Value, at: &At, e: &mut Errors) {
    for key in ["maxUnavailable", "maxSurge"] {
        check::int_or_percent(rolling, key, at, e);
        check::not_above_all(rolling, key, at, e);
    }
    match (is_zero(rolling, "maxUnavailable"), is_zero(rolling, "maxSurge")) {
        (true, true) => e.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        (false, false) => {
            e.invalid(&at.child("maxSurge"), &rolling["maxSurge"], "may not be set when maxUnavailable is non-zero");
        }
        _ => {}
    }
}

fn stateful_set(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    check::choice(spec, "podManagementPolicy", &["OrderedReady", "Parallel"], &SPEC, e);
    let path = SPEC.child("updateStrategy");
    let strategy = spec.get("updateStrategy").unwrap_or(&NONE);
    match text(strategy, "type") {
        "" => e.required(&path, ""),
        "OnDelete" if has(strategy, "rollingUpdate") => {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            e.invalid(&path.child("rollingUpdate"), &strategy["rollingUpdate"], why);
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            if let Some(rolling) = get(strategy, "rollingUpdate") {
                check::non_negative(rolling, "partition", &path.child("rollingUpdate"), e);
                check::int_or_percent(rolling, "maxUnavailable", &path.child("rollingUpdate"), e);
            }
        }
        other => e.invalid(&path, &other.into(), "must be 'RollingUpdate' or 'OnDelete'"),
    }
    if let Some(retention) = get(spec, "persistentVolumeClaimRetentionPolicy") {
        let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
        for key in ["whenDeleted", "whenScaled"] {
            check::choice(retention, key, &["Delete", "Retain"], &path, e);
        }
    }
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
        check::non_negative(spec, key, &SPEC, e);
    }
    if let Some(ordinals) = get(spec, "ordinals") {
        check::non_negative(ordinals, "start", &SPEC.child("ordinals"), e);
    }
    selected_template(spec, "statefulset", "StatefulSet", e);
}

fn stateful_set_update(new: &Value, old: &Value, e: &mut Errors) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    stateful_set(new, e);
    let mut munged = spec(new).clone();
    MUTABLE.iter().for_each(|key| copy(&mut munged, spec(old), key));
    if !same(Some(&munged), Some(spec(old))) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        e.forbidden(&SPEC, why);
    }
}

fn controller(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    check::non_negative(spec, "minReadySeconds", &SPEC, e);
    if same(spec.get("selector"), None) {
        e.required(&SPEC.child("selector"), "");
    }
    check::non_negative(spec, "replicas", &SPEC, e);
    if !has(spec, "template") {
        return e.required(&SPEC.child("template"), "");
    }
    let selector = Selector::from_map(spec.get("selector"));
    long_running_template(spec, &selector, "ReplicationController", e);
}

fn revision(o: &Value, e: &mut Errors) {
    if !has(o, "data") {
        e.required(&At::field("data"), "data is mandatory");
    }
    check::non_negative(o, "revision", &At::ROOT, e);
}

fn revision_update(new: &Value, old: &Value, e: &mut Errors) {
    revision(new, e);
    meta::immutable_value(new.get("data"), old.get("data"), &At::field("data"), e);
}
