//! Deployments, ReplicaSets, DaemonSets, StatefulSets, ReplicationControllers: defaults and rules.

mod stateful_set;
mod status;

use super::json::*;
use super::{HookContext, Hooks, check, common, meta, pod};
use crate::field::{At, Errors};
use crate::labels::Selector;
use crate::names;
use serde_json::{Value, json};

const SPEC: At<'static> = At::field("spec");

const BASE: Hooks = Hooks {
    prepare_create: Some(common::reset_status),
    warnings: Some(pod::warnings::workload),
    update_warnings: Some(pod::warnings::changed_workload),
    ..Hooks::NONE
};

pub(super) const DEPLOYMENT: Hooks = Hooks {
    default: Some(default_deployment),
    validate_create: Some(deployment),
    validate_update: Some(|new, old, e| fixed_selector(new, old, deployment, e)),
    validate_status: Some(status::deployment),
    warnings: Some(pod::warnings::named_workload),
    ..BASE
};
pub(super) const REPLICA_SET: Hooks = Hooks {
    default: Some(default_replica_set),
    validate_create: Some(replica_set),
    validate_update: Some(|new, old, e| fixed_selector(new, old, replica_set, e)),
    validate_status: Some(|new, _, e| status::replicas(new, e)),
    warnings: Some(pod::warnings::named_workload),
    ..BASE
};
pub(super) const DAEMON_SET: Hooks = Hooks {
    default: Some(default_daemon_set),
    prepare_create: Some(prepare_daemon_set),
    prepare_update: Some(|new, old, _| count_templates(new, old)),
    validate_create: Some(daemon_set),
    validate_update: Some(daemon_set_update),
    validate_status: Some(status::daemon_set),
    ..BASE
};
pub(super) const STATEFUL_SET: Hooks = Hooks {
    default: Some(default_stateful_set),
    prepare_create: Some(prepare_stateful_set),
    prepare_update: Some(|new, old, _| drop_max_unavailable(new, Some(old))),
    validate_create: Some(stateful_set::create),
    validate_update: Some(stateful_set::update),
    validate_status: Some(status::stateful_set),
    validate_name: Some(names::dns1123_label),
    warnings: Some(stateful_set::warnings),
    update_warnings: Some(|new, old| if same(new.get("spec"), old.get("spec")) { Vec::new() } else { stateful_set::warnings(new) }),
    ..BASE
};
pub(super) const REPLICATION_CONTROLLER: Hooks = Hooks {
    default: Some(default_controller),
    validate_create: Some(controller),
    validate_update: Some(|new, old, e| pod::ratchet::checked(new, old, controller, e)),
    validate_status: Some(|new, _, e| status::replicas(new, e)),
    warnings: Some(pod::warnings::named_workload),
    ..BASE
};
pub(super) const CONTROLLER_REVISION: Hooks =
    Hooks { validate_create: Some(new_revision), validate_update: Some(revision_update), ..Hooks::NONE };

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
    pod::ratchet::checked(new, old, validate, e);
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
        _ => e.not_supported_shown(path, &shown_strategy(strategy), &["Recreate", "RollingUpdate"]),
    }
}

/// A strategy as upstream quotes it: the fields of its own Go type.
fn shown_strategy(strategy: &Value) -> String {
    let rolling = get(strategy, "rollingUpdate").map_or("null".to_owned(), |rolling| {
        let fields = [("maxUnavailable", "MaxUnavailable"), ("maxSurge", "MaxSurge")];
        let shown = fields.map(|(key, name)| format!("\"{name}\":{}", get(rolling, key).unwrap_or(&json!(0))));
        format!("{{{}}}", shown.join(","))
    });
    format!("{{\"Type\":{},\"RollingUpdate\":{rolling}}}", json!(text(strategy, "type")))
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
            not_empty(spec, kind, e);
        }
    }
    match Selector::from_label_selector(get(spec, "selector")) {
        Ok(selector) => long_running_template(spec.get("template").unwrap_or(&NONE), &selector, runs_as, e),
        Err(_) => e.invalid(&at, &spec["selector"], "invalid label selector"),
    }
}

/// The labels of a template are those that the selector wants.
fn selected_labels(template: &Value, selector: &Selector, e: &mut Errors) {
    let labels = at(template, &["metadata", "labels"]);
    if !selector.is_everything() && !selector.matches_map(labels) {
        let path = SPEC.child("template");
        let at = path.child("metadata");
        let shown = labels.map_or("null".to_owned(), Value::to_string);
        e.invalid_shown(&at.child("labels"), &shown, "`selector` does not match template `labels`");
    }
}

/// A template whose pods are started again whenever they end.
fn long_running_template(template: &Value, selector: &Selector, runs_as: &str, e: &mut Errors) {
    selected_labels(template, selector, e);
    pod::validate_template(template, &SPEC.child("template"), e);
    started_again(template, runs_as, e);
}

fn started_again(template: &Value, runs_as: &str, e: &mut Errors) {
    let path = SPEC.child("template");
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
    let template = spec.get("template").unwrap_or(&NONE);
    if let Some(selector) = get(spec, "selector") {
        check::label_selector(selector, &SPEC.child("selector"), e);
    }
    if let Ok(selector) = Selector::from_label_selector(get(spec, "selector")) {
        // An empty one selects everything, which is told below.
        selected_labels(template, &selector, e);
    }
    not_empty(spec, "daemonset", e);
    pod::validate_template(template, &SPEC.child("template"), e);
    started_again(template, "DaemonSet", e);
    check::non_negative(spec, "minReadySeconds", &SPEC, e);
    let path = SPEC.child("updateStrategy");
    let strategy = spec.get("updateStrategy").unwrap_or(&NONE);
    let at = path.child("rollingUpdate");
    match (text(strategy, "type"), get(strategy, "rollingUpdate")) {
        ("OnDelete", _) => {}
        ("RollingUpdate", None) => e.required(&at, ""),
        ("RollingUpdate", Some(rolling)) => daemon_rolling(rolling, &at, e),
        _ => e.not_supported_shown(&path, &shown_strategy(strategy), &["RollingUpdate", "OnDelete"]),
    }
    check::non_negative(spec, "revisionHistoryLimit", &SPEC, e);
}

fn daemon_set_update(new: &Value, old: &Value, e: &mut Errors) {
    check::immutable(spec(new), spec(old), "selector", &SPEC, e);
    pod::ratchet::checked(new, old, daemon_set, e);
}

/// A selector that is there selects something.
fn not_empty(spec: &Value, kind: &str, e: &mut Errors) {
    if let Some(selector) = get(spec, "selector")
        && same(selector.get("matchLabels"), None)
        && same(selector.get("matchExpressions"), None)
    {
        e.invalid(&SPEC.child("selector"), selector, &format!("empty selector is invalid for {kind}"));
    }
}

fn daemon_rolling(rolling: &Value, at: &At, e: &mut Errors) {
    const KEYS: [&str; 2] = ["maxUnavailable", "maxSurge"];
    KEYS.iter().for_each(|key| check::int_or_percent(rolling, key, at, e));
    KEYS.iter().for_each(|key| check::not_above_all(rolling, key, at, e));
    match (is_zero(rolling, "maxUnavailable"), is_zero(rolling, "maxSurge")) {
        (true, true) => e.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0"),
        (false, false) => {
            e.invalid(&at.child("maxSurge"), &rolling["maxSurge"], "may not be set when maxUnavailable is non-zero");
        }
        _ => {}
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
    long_running_template(&spec["template"], &selector, "ReplicationController", e);
}

fn new_revision(o: &Value, e: &mut Errors) {
    revision(o, e);
    if get(o, "data").is_some_and(|data| !data.is_object()) {
        e.required(&At::field("data"), "data must be a valid JSON object");
    }
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
