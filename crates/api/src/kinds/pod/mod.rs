//! Pods, and the pod specs inside everything that makes pods.

mod annotations;
mod containers;
mod defaults;
mod env;
mod handlers;
mod mounts;
pub(super) mod placement;
pub(super) mod ratchet;
pub(super) mod resources;
mod security;
mod spec;
mod status;
mod update;
mod views;
pub(super) mod volume_sources;
pub(super) mod volumes;
pub(super) mod warnings;
mod windows;

pub(super) use defaults::{network_disks, template as template_defaults};

use super::json::*;
use super::{HookContext, Hooks, check, meta};
use crate::field::{At, Errors};
use serde_json::{Map, Value, json};

pub(super) const HOOKS: Hooks = Hooks {
    default: Some(defaults::pod),
    prepare_create: Some(prepare_create),
    prepare_status: Some(prepare_status),
    validate_create: Some(validate_create),
    validate_update: Some(update::validate),
    validate_status: Some(status::validate),
    grace: Some(grace),
    warnings: Some(warnings::pod),
    status_warnings: Some(crate::kinds::warnings::pod_status),
    views: views::VIEWS,
    ..Hooks::NONE
};

fn prepare_create(pod: &mut Value, _: &HookContext) {
    // The quality of service follows from requests, which follow from limits.
    defaults::pod(pod);
    annotations::become_fields(pod);
    let qos = resources::qos_class(&pod["spec"]);
    let mut status = json!({"phase": "Pending", "qosClass": qos});
    if !list_at(pod, &["spec", "schedulingGates"]).is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null,
            "lastTransitionTime": null,
        }]);
    }
    set(pod, "status", status);
    merge_label_keys(pod);
}

/// `matchLabelKeys` become terms of the selector beside them, with the pod's own values.
fn merge_label_keys(pod: &mut Value) {
    let labels = at(pod, &["metadata", "labels"]).cloned().unwrap_or_default();
    let spec = object(pod, "spec");
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = at_mut(spec, &["affinity", kind]) else { continue };
        for term in each_mut(affinity, "requiredDuringSchedulingIgnoredDuringExecution") {
            merge_terms(term, &labels);
        }
        for term in each_mut(affinity, "preferredDuringSchedulingIgnoredDuringExecution") {
            if let Some(term) = get_mut(term, "podAffinityTerm") {
                merge_terms(term, &labels);
            }
        }
    }
    each_mut(spec, "topologySpreadConstraints").for_each(|c| merge_terms(c, &labels));
}

fn merge_terms(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (key, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for label in texts(term, key) {
            if let Some(value) = get(labels, label) {
                added.push(json!({"key": label, "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = get_mut(term, "labelSelector").filter(|_| !added.is_empty()) else { return };
    fill(selector, "matchExpressions", Vec::<Value>::new());
    if let Some(terms) = selector["matchExpressions"].as_array_mut() {
        terms.extend(added);
    }
}

fn prepare_status(new: &mut Value, old: &Value, _: &HookContext) {
    let old_meta = old.get("metadata").unwrap_or(&NONE);
    copy(object(new, "metadata"), old_meta, "ownerReferences");
    let qos = at(old, &["status", "qosClass"]).cloned();
    status::keep_observed(new, old);
    let status = object(new, "status");
    if let (true, Some(qos)) = (text(status, "qosClass").is_empty(), qos) {
        set(status, "qosClass", qos);
    }
    defaults::pod_addresses(new);
}

/// What holds for a pod at any time.
fn validate(pod: &Value, e: &mut Errors) {
    let path = At::field("spec");
    let spec = pod.get("spec").unwrap_or(&NONE);
    annotations::validate(pod, e);
    spec::validate(spec, Some(text_at(pod, &["metadata", "name"])), &path, e);
    for key in ["containers", "initContainers"] {
        let lists = path.child(key);
        for (i, c) in list(spec, key).iter().enumerate() {
            containers::image_padding(c, &lists.index(i), e);
        }
    }
    if annotations::is_mirror(pod) {
        for _ in list(spec, "resourceClaims") {
            e.forbidden(&At::ROOT, "static pods do not support resource claims");
        }
    }
    if text(spec, "serviceAccountName").is_empty() {
        no_tokens(spec, &path, e);
    }
}

fn no_tokens(spec: &Value, path: &At, e: &mut Errors) {
    let volumes = path.child("volumes");
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let at = volumes.index(i);
        let at = at.child("projected");
        let at = at.child("sources");
        for (j, source) in list_at(volume, &["projected", "sources"]).iter().enumerate() {
            if has(source, "serviceAccountToken") {
                let why = "must not be specified when serviceAccountName is not set";
                e.forbidden(&at.index(j).child("serviceAccountToken"), why);
            }
        }
    }
}

fn validate_create(pod: &Value, e: &mut Errors) {
    validate(pod, e);
    let spec = pod.get("spec").unwrap_or(&NONE);
    let path = At::field("spec");
    if !list(spec, "ephemeralContainers").is_empty() {
        e.forbidden(&path.child("ephemeralContainers"), "cannot be set on create");
    }
    if !text(spec, "nodeName").is_empty() && !list(spec, "schedulingGates").is_empty() {
        e.forbidden(&path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    annotations::agree_with_fields(pod, e);
}

/// Seconds a pod is given to end: none when it never reached a node or has ended already.
fn grace(pod: &Value) -> i64 {
    let ended = matches!(text_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
    if ended || text_at(pod, &["spec", "nodeName"]).is_empty() {
        return 0;
    }
    match at(pod, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64) {
        Some(n) if n < 0 => 1,
        Some(n) => n,
        None => 30,
    }
}

/// Checks the template of a workload.
pub(super) fn validate_template(template: &Value, path: &At, e: &mut Errors) {
    let m = template.get("metadata").unwrap_or(&NONE);
    check::labels(m, "labels", path, e);
    meta::annotations(m, path, e);
    let spec_path = path.child("spec");
    let empty = Value::Object(Map::new());
    let spec = template.get("spec").unwrap_or(&empty);
    spec::validate(spec, None, &spec_path, e);
    if !list(spec, "ephemeralContainers").is_empty() {
        e.forbidden(&spec_path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// `podtemplates`.
pub(super) mod templates {
    use super::*;

    pub const HOOKS: Hooks = Hooks {
        default: Some(default),
        validate_create: Some(validate),
        validate_update: Some(|new, old, e| ratchet::checked(new, old, validate, e)),
        warnings: Some(|o| warnings::template(o.get("template").unwrap_or(&NONE), &At::field("template"))),
        ..Hooks::NONE
    };

    fn default(object: &mut Value) {
        defaults::template(super::object(object, "template"));
    }

    fn validate(object: &Value, e: &mut Errors) {
        validate_template(object.get("template").unwrap_or(&NONE), &At::field("template"), e);
    }
}
