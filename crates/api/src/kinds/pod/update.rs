//! What a change of a pod may touch, through the pod itself and through its views.

use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{HookContext, View, check, meta};
use crate::names;
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");
const STATUS: At<'static> = At::field("status");
const MUTABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn status(pod: &Value) -> &Value {
    pod.get("status").unwrap_or(&NONE)
}

/// A change of the pod by its plain resource.
pub fn validate(new: &Value, old: &Value, e: &mut Errors) {
    super::validate(new, e);
    annotations(new, old, e);
    let (new, old) = (spec(new), spec(old));
    for key in ["containers", "initContainers"] {
        if list(new, key).len() != list(old, key).len() {
            return e.forbidden(&SPEC.child(key), "pod updates may not add or remove containers");
        }
    }
    if !deadline(new, old, e) {
        return;
    }
    only_added_tolerations(new, old, e);
    only_deleted_gates(new, old, e);
    if same(Some(new), Some(old)) {
        return;
    }
    let mut munged = new.clone();
    munge(&mut munged, old);
    if !list(old, "schedulingGates").is_empty() {
        gated_selector(&mut munged, old, e);
    }
    if !same(Some(&munged), Some(old)) {
        let why = format!("pod updates may not change fields other than {MUTABLE}\n{}", difference(&munged, old));
        e.forbidden(&SPEC, &why);
    }
}

/// Takes everything that may change from the old spec.
fn munge(munged: &mut Value, old: &Value) {
    for key in ["containers", "initContainers"] {
        for (i, c) in each_mut(munged, key).enumerate() {
            copy(c, &list(old, key)[i], "image");
        }
    }
    for key in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        copy(munged, old, key);
    }
    let grace = "terminationGracePeriodSeconds";
    if int(old, grace).is_some_and(|n| n < 0) && int(munged, grace) == Some(1) {
        copy(munged, old, grace);
    }
}

/// Names of the fields that differ.
fn difference(new: &Value, old: &Value) -> String {
    let mut out = String::new();
    let keys = |v: &Value| v.as_object().map(|m| m.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut all = keys(old);
    all.extend(keys(new));
    all.sort();
    all.dedup();
    for key in all.iter().filter(|k| !same(new.get(k.as_str()), old.get(k.as_str()))) {
        let shown = |v: Option<&Value>| v.map_or_else(|| "null".to_owned(), Value::to_string);
        out.push_str(&format!("- {key}: {}\n+ {key}: {}\n", shown(old.get(key)), shown(new.get(key))));
    }
    out
}

fn annotations(new: &Value, old: &Value, e: &mut Errors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let of = |pod: &Value| at(pod, &["metadata", "annotations", MIRROR]).cloned();
    let path = At::field("metadata");
    let path = path.child("annotations");
    match (of(new), of(old)) {
        (Some(_), None) => e.forbidden(&path.key(MIRROR), "may not add mirror pod annotation"),
        (new, Some(old)) if new.as_ref() != Some(&old) => {
            e.forbidden(&path.key(MIRROR), "may not remove or update mirror pod annotation");
        }
        _ => {}
    }
}

fn deadline(new: &Value, old: &Value, e: &mut Errors) -> bool {
    let path = SPEC.child("activeDeadlineSeconds");
    let (new, old) = (int(new, "activeDeadlineSeconds"), int(old, "activeDeadlineSeconds"));
    match (new, old) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            e.invalid(&path, &n.into(), &names::inclusive_range(0, i32::MAX.into()));
            return false;
        }
        (Some(n), Some(o)) if o < n => {
            e.invalid(&path, &n.into(), "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => e.invalid(&path, &NONE, "must not update from a positive integer to nil value"),
        _ => {}
    }
    true
}

fn only_added_tolerations(new: &Value, old: &Value, e: &mut Errors) {
    let without_seconds = |t: &Value| {
        let mut t = t.clone();
        remove(&mut t, "tolerationSeconds");
        t
    };
    let kept = |old: &Value| list(new, "tolerations").iter().any(|t| same(Some(&without_seconds(t)), Some(&without_seconds(old))));
    if !list(old, "tolerations").iter().all(kept) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        e.forbidden(&SPEC.child("tolerations"), why);
    }
}

fn only_deleted_gates(new: &Value, old: &Value, e: &mut Errors) {
    let path = SPEC.child("schedulingGates");
    for (i, gate) in list(new, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if !list(old, "schedulingGates").iter().any(|g| text(g, "name") == name) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            e.forbidden(&path.index(i).child("name"), &why);
        }
    }
}

/// A gated pod's node selector may grow, and its required node affinity may get stricter.
fn gated_selector(munged: &mut Value, old: &Value, e: &mut Errors) {
    let grew = entries(old, "nodeSelector").all(|(k, v)| at(munged, &["nodeSelector", k]) == Some(v));
    if !grew {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        e.invalid(&SPEC.child("nodeSelector"), munged.get("nodeSelector").unwrap_or(&NONE), why);
    }
    copy(munged, old, "nodeSelector");
    let path = ["affinity", "nodeAffinity"];
    if same(at(munged, &path), at(old, &path)) {
        return;
    }
    node_affinity_mutation(munged, old, e);
    let before = at(old, &path).cloned();
    let affinity = object(munged, "affinity");
    match before {
        Some(before) => set(affinity, "nodeAffinity", before),
        None => drop(remove(affinity, "nodeAffinity")),
    }
}

fn node_affinity_mutation(new: &Value, old: &Value, e: &mut Errors) {
    let terms = |spec: &Value| {
        let path = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
        list_at(spec, &path).to_vec()
    };
    let (new_terms, old_terms) = (terms(new), terms(old));
    if old_terms.is_empty() {
        return;
    }
    let path = SPEC.child("affinity");
    let path = path.child("nodeAffinity");
    let path = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let path = path.child("nodeSelectorTerms");
    if new_terms.len() != old_terms.len() {
        return e.invalid(&path, &new_terms.into(), "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (i, (new, old)) in new_terms.iter().zip(&old_terms).enumerate() {
        let kept = |key: &str| list(new, key).starts_with(list(old, key));
        let empty = list(old, "matchExpressions").is_empty() && list(old, "matchFields").is_empty();
        if !(kept("matchExpressions") && kept("matchFields")) || (empty && !same(Some(new), Some(old))) {
            e.invalid(&path.index(i), new, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// A change through the status view.
pub fn validate_status(new: &Value, old: &Value, e: &mut Errors) {
    annotations(new, old, e);
    let (new_spec, old_spec) = (spec(new), spec(old));
    if text(new_spec, "nodeName") != text(old_spec, "nodeName") {
        e.forbidden(&STATUS.child("nodeName"), "may not be changed directly");
    }
    let (new, old) = (status(new), status(old));
    conditions(new, e);
    check::form(new, "nominatedNodeName", names::dns1123_subdomain, &STATUS, e);
    check::immutable(new, old, "qosClass", &STATUS, e);
    let restart = text(old_spec, "restartPolicy");
    let sidecar = |name: &str| list(old_spec, "initContainers").iter().any(|c| text(c, "name") == name && super::resources::is_sidecar(c));
    transitions(new, old, "containerStatuses", restart, |_| false, e);
    transitions(new, old, "initContainerStatuses", restart, sidecar, e);
    transitions(new, old, "ephemeralContainerStatuses", "Never", |_| false, e);
    addresses(new, "podIPs", e);
    let first = list(new, "hostIPs").first().map(|h| text(h, "ip"));
    if let Some(first) = first.filter(|f| *f != text(new, "hostIP")) {
        let path = STATUS.child("hostIPs");
        e.invalid(&path.index(0).child("ip"), &first.into(), "must be equal to `hostIP`");
    }
    addresses(new, "hostIPs", e);
}

fn conditions(status: &Value, e: &mut Errors) {
    // The path is that of 1.36, which takes it from the metadata.
    let path = At::field("metadata");
    let path = path.child("conditions");
    for (i, condition) in list(status, "conditions").iter().enumerate() {
        check::label_name(text(condition, "type"), &path.index(i).child("Type"), e);
    }
}

fn transitions(new: &Value, old: &Value, key: &str, restart: &str, exempt: impl Fn(&str) -> bool, e: &mut Errors) {
    if restart == "Always" {
        return;
    }
    let path = STATUS.child(key);
    for (i, before) in list(old, key).iter().enumerate() {
        let Some(ended) = at(before, &["state", "terminated"]) else { continue };
        let name = text(before, "name");
        if (int(ended, "exitCode").unwrap_or_default() != 0 && restart == "OnFailure") || exempt(name) {
            continue;
        }
        let alive = |s: &Value| text(s, "name") == name && at(s, &["state", "terminated"]).is_none();
        if list(new, key).iter().any(alive) {
            e.forbidden(&path.index(i).child("state"), "may not be transitioned to non-terminated state");
        }
    }
}

fn addresses(status: &Value, key: &str, e: &mut Errors) {
    let path = STATUS.child(key);
    let all: Vec<&str> = list(status, key).iter().map(|a| text(a, "ip")).collect();
    for (i, ip) in all.iter().enumerate() {
        e.invalid_each(&path.index(i), *ip, names::ip_address(ip));
        if all[..i].contains(ip) {
            e.duplicate(&path.index(i), &list(status, key)[i]);
        }
    }
    let families = |v4: bool| all.iter().filter(|ip| names::parse_ip(ip).is_some_and(|ip| ip.is_ipv4() == v4)).count();
    if families(true) > 1 || families(false) > 1 {
        e.invalid(&path, &status[key], "may specify no more than one IP for each IP family");
    }
}

/// The views of a pod besides its status.
pub const VIEWS: &[View] = &[
    View { name: "ephemeralcontainers", prepare: keep_but_ephemeral, validate: validate_ephemeral },
    View { name: "resize", prepare: keep_but_resources, validate: validate_resize },
];

fn keep_but_ephemeral(new: &mut Value, old: &Value, _: &HookContext) {
    let wanted = at(new, &["spec", "ephemeralContainers"]).cloned();
    let metadata = new.get("metadata").cloned();
    *new = old.clone();
    keep_labels(new, metadata);
    if let Some(wanted) = wanted {
        set(object(new, "spec"), "ephemeralContainers", wanted);
    }
}

/// Of the metadata, a view takes only what identifies the write.
fn keep_labels(new: &mut Value, metadata: Option<Value>) {
    let Some(metadata) = metadata else { return };
    for key in ["resourceVersion", "managedFields"] {
        copy(object(new, "metadata"), &metadata, key);
    }
}

fn validate_ephemeral(new: &Value, old: &Value, e: &mut Errors) {
    super::validate(new, e);
    let path = SPEC.child("ephemeralContainers");
    let (new, old) = (list(spec(new), "ephemeralContainers"), list(spec(old), "ephemeralContainers"));
    for before in old {
        let name = text(before, "name");
        match new.iter().position(|c| text(c, "name") == name) {
            None => e.forbidden(&path, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(i) if !same(Some(&new[i]), Some(before)) => {
                e.forbidden(&path, &format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

fn keep_but_resources(new: &mut Value, old: &Value, _: &HookContext) {
    let wanted = new.get("spec").cloned().unwrap_or_default();
    let metadata = new.get("metadata").cloned();
    *new = old.clone();
    keep_labels(new, metadata);
    for key in ["containers", "initContainers"] {
        if list(&wanted, key).len() != list(spec(old), key).len() {
            // Kept for validation to refuse.
            copy(object(new, "spec"), &wanted, key);
            continue;
        }
        for c in each_mut(object(new, "spec"), key) {
            let name = text(c, "name").to_owned();
            if let Some(from) = list(&wanted, key).iter().find(|w| text(w, "name") == name) {
                copy(c, from, "resources");
                copy(c, from, "resizePolicy");
            }
        }
    }
    if has(&wanted, "resources") {
        copy(object(new, "spec"), &wanted, "resources");
    }
}

fn validate_resize(new: &Value, old: &Value, e: &mut Errors) {
    super::validate(new, e);
    let (new_spec, old_spec) = (spec(new), spec(old));
    if super::resources::qos_class(new_spec) != text(status(old), "qosClass") {
        let why = "Pod QOS Class may not change as a result of resizing";
        e.invalid(&SPEC, &super::resources::qos_class(new_spec).into(), why);
    }
    if text_at(new_spec, &["os", "name"]) == "windows" {
        e.forbidden(&SPEC, "windows pods cannot be resized");
    }
    for key in ["containers", "initContainers"] {
        let path = SPEC.child(key);
        if list(new_spec, key).len() != list(old_spec, key).len() {
            e.forbidden(&path, "containers may not be added or removed on resize");
            continue;
        }
        for (i, (c, before)) in list(new_spec, key).iter().zip(list(old_spec, key)).enumerate() {
            let at = path.index(i);
            if text(c, "name") != text(before, "name") {
                e.forbidden(&path, "containers may not be renamed or reordered on resize");
                break;
            }
            resized(c, before, &at.child("resources"), e);
            meta::immutable_value(c.get("resizePolicy"), before.get("resizePolicy"), &at.child("resizePolicy"), e);
        }
    }
    resized(new_spec, old_spec, &SPEC.child("resources"), e);
}

/// Only cpu and memory may change, and none may be taken away.
fn resized(c: &Value, before: &Value, path: &At, e: &mut Errors) {
    for key in ["limits", "requests"] {
        let list_path = path.child(key);
        let (now, was) = (at(c, &["resources", key]).unwrap_or(&NONE), at(before, &["resources", key]).unwrap_or(&NONE));
        let empty = serde_json::Map::new();
        for (name, value) in was.as_object().unwrap_or(&empty) {
            let fixed = !matches!(name.as_str(), "cpu" | "memory");
            match now.get(name) {
                None => e.forbidden(&list_path, &format!("resource {key} cannot be removed")),
                Some(n) if fixed && n != value => e.forbidden(&list_path, "only cpu and memory resources are mutable"),
                Some(_) => {}
            }
        }
        for name in now.as_object().unwrap_or(&empty).keys().filter(|n| was.get(n.as_str()).is_none()) {
            if !matches!(name.as_str(), "cpu" | "memory") {
                e.forbidden(&list_path, "only cpu and memory resources are mutable");
            }
        }
    }
}
