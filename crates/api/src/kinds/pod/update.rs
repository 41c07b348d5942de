//! What a change of a pod may touch.

use super::{annotations, ratchet};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;

const SPEC: At<'static> = At::field("spec");
const MUTABLE: &str = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// A change of the pod by its plain resource.
pub fn validate(new: &Value, old: &Value, e: &mut Errors) {
    ratchet::checked(new, old, super::validate, e);
    annotations::unchanged(new, old, e);
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
pub fn difference(new: &Value, old: &Value) -> String {
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
