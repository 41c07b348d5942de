//! Volumes and the classes behind them.

use super::json::*;
use super::{HookContext, Hooks, check, meta, pod, warnings};
use crate::field::{At, Errors};
use crate::names;
use crate::quantity::Quantity;
use crate::time;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const SPEC: At<'static> = At::field("spec");
const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

pub(super) const VOLUME: Hooks = Hooks {
    default: Some(default_volume),
    prepare_create: Some(|o, context| {
        set(o, "status", json!({"phase": "Pending", "lastPhaseTransitionTime": time::format_time(context.now)}))
    }),
    prepare_status: Some(volume_phase),
    validate_create: Some(volume),
    validate_update: Some(volume_update),
    warnings: Some(volume_warnings),
    update_warnings: Some(|new, _| volume_warnings(new)),
    ..Hooks::NONE
};
pub(super) const STORAGE_CLASS: Hooks = Hooks {
    default: Some(default_class),
    validate_create: Some(class),
    validate_update: Some(class_update),
    warnings: Some(warnings::storage_class),
    update_warnings: Some(|new, _| warnings::storage_class(new)),
    ..Hooks::NONE
};
pub(super) const ATTRIBUTES_CLASS: Hooks =
    Hooks { validate_create: Some(attributes_class), validate_update: Some(attributes_update), ..Hooks::NONE };

fn default_volume(o: &mut Value) {
    let spec = object(o, "spec");
    fill_text(spec, "persistentVolumeReclaimPolicy", "Retain");
    fill_text(spec, "volumeMode", "Filesystem");
    default_source(spec);
    fill_text(object(o, "status"), "phase", "Pending");
}

/// What is filled in wherever a volume's spec stands.
pub(super) fn default_source(spec: &mut Value) {
    check::canonical_amounts(spec, "capacity");
    if let Some(path) = get_mut(spec, "hostPath") {
        fill(path, "type", "");
    }
    pod::network_disks(spec);
}

fn volume_warnings(o: &Value) -> Vec<String> {
    const ANNOTATIONS: [(&str, &str); 2] = [
        ("volume.beta.kubernetes.io/storage-class", "deprecated since v1.8; use \"storageClassName\" attribute instead"),
        ("volume.beta.kubernetes.io/mount-options", "deprecated since v1.31; use \"mountOptions\" attribute instead"),
    ];
    let mut out = Vec::new();
    for (key, why) in ANNOTATIONS.iter().filter(|(key, _)| at(o, &["metadata", "annotations", key]).is_some()) {
        out.push(format!("metadata.annotations[{key}]: {why}"));
    }
    if text(spec(o), "persistentVolumeReclaimPolicy") == "Recycle" {
        let why = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
        out.push(format!("spec.persistentVolumeReclaimPolicy: {why}"));
    }
    pod::warnings::old_volumes(spec(o), at(o, &["spec", "nodeAffinity", "required"]), &SPEC, &mut out);
    pod::warnings::fraction(spec(o).get("capacity").unwrap_or(&NONE), "storage", &SPEC.child("capacity"), &mut out);
    out
}

/// A new phase has its time; another's word for it counts (`persistentvolume.statusStrategy`).
fn volume_phase(new: &mut Value, old: &Value, context: &HookContext) {
    let (now, was) = (text_at(new, &["status", "phase"]), text_at(old, &["status", "phase"]));
    let told = at(new, &["status", "lastPhaseTransitionTime"]) != at(old, &["status", "lastPhaseTransitionTime"]);
    if now != was && !told {
        set(object(new, "status"), "lastPhaseTransitionTime", time::format_time(context.now));
    }
}

/// The modes that are there, for volumes and claims.
pub(super) fn access_modes(spec: &Value, path: &At, e: &mut Errors) {
    let at = path.child("accessModes");
    let modes: Vec<&str> = texts(spec, "accessModes").collect();
    for mode in modes.iter().filter(|m| !MODES.contains(m)) {
        e.not_supported(&at, &(*mode).into(), &MODES);
    }
    let shared = |mode: &&str| *mode != "ReadWriteOncePod" && MODES.contains(mode);
    if modes.contains(&"ReadWriteOncePod") && modes.iter().any(shared) {
        e.forbidden(&at, "may not use ReadWriteOncePod with other access modes");
    }
}

fn volume(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    if list(spec, "accessModes").is_empty() {
        e.required(&SPEC.child("accessModes"), "");
    }
    access_modes(spec, &SPEC, e);
    volume_capacity(spec, e);
    check::choice(spec, "persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], &SPEC, e);
    let affinity = SPEC.child("nodeAffinity");
    match at(spec, &["nodeAffinity", "required"]) {
        Some(selector) => pod::placement::node_selector(selector, &affinity.child("required"), e),
        None if has(spec, "nodeAffinity") => e.required(&affinity.child("required"), "must specify required node constraints"),
        None => {}
    }
    pod::volume_sources::validate_persistent(spec, has(spec, "nodeAffinity"), &SPEC, e);
    let recycle = text(spec, "persistentVolumeReclaimPolicy") == "Recycle";
    if recycle && is_root(text_at(spec, &["hostPath", "path"])) {
        e.forbidden(&SPEC.child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
    check::form(spec, "storageClassName", names::dns1123_subdomain, &SPEC, e);
    check::choice_if_set(spec, "volumeMode", &["Block", "Filesystem"], &SPEC, e);
    attributes_class_of(spec, e);
}

/// `/`, also when it is written in more letters.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "."))
}

fn attributes_class_of(spec: &Value, e: &mut Errors) {
    if let Some(class) = get(spec, "volumeAttributesClassName").and_then(Value::as_str) {
        let path = SPEC.child("volumeAttributesClassName");
        match class {
            "" => e.required(&path, "an empty string is disallowed"),
            class => e.invalid_each(&path, class, names::dns1123_subdomain(class)),
        }
        if !has(spec, "csi") {
            e.required(&SPEC.child("csi"), "has to be specified when using volumeAttributesClassName");
        }
    }
}

/// How much there is: storage, and nothing else.
fn volume_capacity(spec: &Value, e: &mut Errors) {
    let path = SPEC.child("capacity");
    let all: Vec<(&str, &Value)> = entries(spec, "capacity").collect();
    if all.is_empty() {
        e.required(&path, "");
    }
    if all.len() != 1 || all[0].0 != "storage" {
        let shown = spec.get("capacity").filter(|v| !v.is_null()).cloned().unwrap_or(Value::Null);
        match shown {
            Value::Null => e.not_supported_shown(&path, "null", &["storage"]),
            shown => e.not_supported(&path, &shown, &["storage"]),
        }
    }
    for (name, amount) in all {
        let at = path.key(name);
        check::basic_amount(amount, &at, e);
        if let Some(q) = Quantity::from_json(amount).ok().filter(|q| *q <= Quantity::ZERO) {
            e.invalid(&at, &q.to_string().into(), "must be greater than zero");
        }
    }
}

fn volume_update(new: &Value, old: &Value, e: &mut Errors) {
    volume(new, e);
    let (mut now, was) = (spec(new).clone(), spec(old));
    const EXPANDS: &str = "controllerExpandSecretRef";
    if let (Some(csi), Some(before)) = (get_mut(&mut now, "csi"), get(was, "csi"))
        && !has(before, EXPANDS)
    {
        // It may be given once.
        remove(csi, EXPANDS);
    }
    if !pod::volume_sources::persistent_keys().all(|key| same(now.get(key), was.get(key))) {
        e.forbidden(&SPEC.child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation");
    }
    // These two at the root, as upstream has them.
    meta::immutable_value(now.get("volumeMode"), was.get("volumeMode"), &At::field("volumeMode"), e);
    if has(was, "nodeAffinity") {
        if let Some(affinity) = get_mut(&mut now, "nodeAffinity") {
            keep_old_labels(affinity, &was["nodeAffinity"]);
        }
        meta::immutable_value(now.get("nodeAffinity"), was.get("nodeAffinity"), &At::field("nodeAffinity"), e);
    }
    if has(was, "volumeAttributesClassName") && !has(&now, "volumeAttributesClassName") {
        e.forbidden(&SPEC.child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden");
    }
}

/// Labels may get the names that they have since they are no longer beta: such a change counts as none.
fn keep_old_labels(new: &mut Value, old: &Value) {
    const RENAMED: [(&str, &str); 5] = [
        ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
        ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
        ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
        ("beta.kubernetes.io/os", "kubernetes.io/os"),
        ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ];
    let Some(required) = get_mut(new, "required") else { return };
    let before = list_at(old, &["required", "nodeSelectorTerms"]);
    for (term, before) in each_mut(required, "nodeSelectorTerms").zip(before) {
        for (expression, before) in each_mut(term, "matchExpressions").zip(list(before, "matchExpressions")) {
            let (now, was) = (text(expression, "key"), text(before, "key"));
            if RENAMED.iter().any(|(old, new)| *old == was && *new == now) {
                copy(expression, before, "key");
            }
        }
    }
}

fn default_class(o: &mut Value) {
    fill(o, "reclaimPolicy", "Delete");
    fill(o, "volumeBindingMode", "Immediate");
}

/// The name of who makes volumes, by its lower-case form.
fn provisioner(o: &Value, key: &str, e: &mut Errors) {
    let name = text(o, key).to_lowercase();
    match name.as_str() {
        "" => e.required(&At::field(key), ""),
        name => e.invalid_each(&At::field(key), name, names::qualified_name(name)),
    }
}

fn class(o: &Value, e: &mut Errors) {
    provisioner(o, "provisioner", e);
    parameters(o, e);
    // One that is there and empty is taken for none.
    if !text(o, "reclaimPolicy").is_empty() {
        check::choice(o, "reclaimPolicy", &["Delete", "Retain"], &At::ROOT, e);
    }
    check::choice_if_set(o, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &At::ROOT, e);
    allowed_topologies(o, e);
}

/// Parameters of a provisioner: not too many and not too large.
fn parameters(o: &Value, e: &mut Errors) {
    const MOST: usize = 512;
    const LARGEST: usize = 256 << 10;
    let all: Vec<(&str, &Value)> = entries(o, "parameters").collect();
    let path = At::field("parameters");
    if all.len() > MOST {
        // Upstream counts them as bytes.
        return e.too_long(&path, MOST);
    }
    for (key, _) in all.iter().filter(|(key, _)| key.is_empty()) {
        e.invalid(&path, &(*key).into(), "field can not be empty.");
    }
    if all.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum::<usize>() > LARGEST {
        e.too_long(&path, LARGEST);
    }
}

fn allowed_topologies(o: &Value, e: &mut Errors) {
    let path = At::field("allowedTopologies");
    let terms = list(o, "allowedTopologies");
    let mut before: Vec<BTreeMap<&str, BTreeSet<&str>>> = Vec::new();
    for (i, term) in terms.iter().enumerate() {
        let at = path.index(i);
        let at = at.child("matchLabelExpressions");
        let known = topology_term(list(term, "matchLabelExpressions"), &at, e);
        // Upstream compares with as many empty terms as there are terms at all.
        let empty = if known.is_empty() { terms.len() } else { 0 };
        for _ in 0..empty + before.iter().filter(|b| **b == known).count() {
            e.duplicate(&at, &"".into());
        }
        before.push(known);
    }
}

/// The values of each key of a term (`ValidateTopologySelectorTerm`).
fn topology_term<'a>(expressions: &'a [Value], path: &At, e: &mut Errors) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut known = BTreeMap::new();
    for (i, expression) in expressions.iter().enumerate() {
        let (at, key) = (path.index(i), text(expression, "key"));
        let values = at.child("values");
        if list(expression, "values").is_empty() {
            e.required(&values, "");
        }
        let mut set = BTreeSet::new();
        for (n, value) in texts(expression, "values").enumerate() {
            if !set.insert(value) {
                e.duplicate(&values.index(n), &value.into());
            }
        }
        check::label_name(key, &at.child("key"), e);
        if known.insert(key, set).is_some() {
            e.duplicate(&at.child("key"), &key.into());
        }
    }
    known
}

fn class_update(new: &Value, old: &Value, e: &mut Errors) {
    class(new, e);
    for key in ["parameters", "provisioner", "reclaimPolicy"] {
        if !same(new.get(key), old.get(key)) {
            e.forbidden(&At::field(key), &format!("updates to {key} are forbidden."));
        }
    }
    meta::immutable_value(new.get("volumeBindingMode"), old.get("volumeBindingMode"), &At::field("volumeBindingMode"), e);
}

fn attributes_class(o: &Value, e: &mut Errors) {
    provisioner(o, "driverName", e);
    parameters(o, e);
    if same(o.get("parameters"), None) {
        e.required(&At::field("parameters"), "must contain at least one key/value pair");
    }
}

/// Upstream looks at the new class before and after, and tells of it twice.
fn attributes_update(new: &Value, old: &Value, e: &mut Errors) {
    attributes_class(new, e);
    for key in ["driverName", "parameters"] {
        if !same(new.get(key), old.get(key)) {
            e.forbidden(&At::field(key), &format!("updates to {key} are forbidden."));
        }
    }
    attributes_class(new, e);
}
