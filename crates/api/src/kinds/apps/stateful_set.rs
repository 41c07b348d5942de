//! What a StatefulSet must look like, new and changed (`pkg/apis/apps/validation`).

use super::{SPEC, is_zero, selected_labels, started_again};
use crate::field::{At, Errors};
use crate::kinds::json::*;
use crate::kinds::{check, claim, pod};
use crate::labels::Selector;
use crate::names;
use serde_json::{Value, json};

/// A new one.
pub fn create(o: &Value, e: &mut Errors) {
    let spec = spec(o);
    rules(spec, Ratchet { new: true, template: true }, e);
}

/// What is looked at: what cannot change any more has been accepted.
#[derive(Clone, Copy)]
struct Ratchet {
    new: bool,
    template: bool,
}

fn rules(spec: &Value, ratchet: Ratchet, e: &mut Errors) {
    match text(spec, "podManagementPolicy") {
        "" => e.required(&SPEC.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => e.invalid(&SPEC.child("podManagementPolicy"), &other.into(), "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(spec.get("updateStrategy").unwrap_or(&NONE), &SPEC.child("updateStrategy"), e);
    if let Some(retention) = get(spec, "persistentVolumeClaimRetentionPolicy") {
        let path = SPEC.child("persistentVolumeClaimRetentionPolicy");
        for key in ["whenDeleted", "whenScaled"].into_iter().filter(|key| !matches!(text(retention, key), "Retain" | "Delete")) {
            e.not_supported(&path.child(key), &text(retention, key).into(), &["Retain", "Delete"]);
        }
    }
    if ratchet.new {
        let path = SPEC.child("volumeClaimTemplates");
        for (i, template) in list(spec, "volumeClaimTemplates").iter().enumerate() {
            let at = path.index(i);
            claim::validate_spec(template.get("spec").unwrap_or(&NONE), &at.child("spec"), e);
        }
    }
    check::non_negative(spec, "replicas", &SPEC, e);
    check::non_negative(spec, "minReadySeconds", &SPEC, e);
    if let Some(ordinals) = get(spec, "ordinals") {
        check::non_negative(ordinals, "start", &SPEC.child("ordinals"), e);
    }
    if ratchet.new {
        check::form(spec, "serviceName", names::dns1123_label, &SPEC, e);
    }
    match get(spec, "selector") {
        None => e.required(&SPEC.child("selector"), ""),
        Some(selector) => {
            check::label_selector(selector, &SPEC.child("selector"), e);
            super::not_empty(spec, "statefulset", e);
        }
    }
    let own = spec.get("template").unwrap_or(&NONE);
    match Selector::from_label_selector(get(spec, "selector")) {
        Ok(selector) => template(spec, own, &selector, ratchet.template, e),
        Err(_) => e.invalid(&SPEC.child("selector"), &spec["selector"], ""),
    }
    started_again(own, "StatefulSet", e);
}

fn strategy(strategy: &Value, path: &At, e: &mut Errors) {
    let at = path.child("rollingUpdate");
    let rolling = get(strategy, "rollingUpdate");
    match (text(strategy, "type"), rolling) {
        ("", _) => e.required(path, ""),
        ("OnDelete", Some(_)) => e.invalid_shown(&at, &shown_rolling(rolling), "only allowed for updateStrategy 'RollingUpdate'"),
        ("OnDelete" | "RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            check::non_negative(rolling, "partition", &at, e);
            if let Some(most) = get(rolling, "maxUnavailable") {
                check::int_or_percent(rolling, "maxUnavailable", &at, e);
                if is_zero(rolling, "maxUnavailable") {
                    e.invalid(&at.child("maxUnavailable"), most, "cannot be 0");
                }
                check::not_above_all(rolling, "maxUnavailable", &at, e);
            }
        }
        (other, _) => {
            let shown = format!("{{\"Type\":{},\"RollingUpdate\":{}}}", json!(other), shown_rolling(rolling));
            e.invalid_shown(path, &shown, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

/// As upstream quotes it: the fields of its own Go type.
fn shown_rolling(rolling: Option<&Value>) -> String {
    rolling.map_or("null".to_owned(), |rolling| {
        let most = get(rolling, "maxUnavailable").unwrap_or(&NONE);
        format!("{{\"Partition\":{},\"MaxUnavailable\":{most}}}", int(rolling, "partition").unwrap_or_default())
    })
}

/// The template with what the controller adds to its pods: a volume for each claim, names of their own.
fn template(spec: &Value, own: &Value, selector: &Selector, whole: bool, e: &mut Errors) {
    let path = SPEC.child("template");
    let mut template = own.clone();
    if let Some(pod) = get_mut(&mut template, "spec") {
        remove(pod, "hostname");
        remove(pod, "subdomain");
        let claims: Vec<&str> =
            list(spec, "volumeClaimTemplates").iter().map(|c| text_at(c, &["metadata", "name"])).filter(|n| !n.is_empty()).collect();
        let claimed = |name: &&str| json!({"name": name, "persistentVolumeClaim": {"claimName": name}});
        let others = list(pod, "volumes").iter().filter(|v| !claims.contains(&text(v, "name"))).cloned();
        let volumes: Vec<Value> = claims.iter().map(claimed).chain(others).collect();
        if !claims.is_empty() {
            set(pod, "volumes", volumes);
        }
    }
    selected_labels(&template, selector, e);
    if whole {
        pod::validate_template(&template, &path, e);
    }
    // Upstream looks at these twice, since it once looked at nothing else.
    let metadata = template.get("metadata").unwrap_or(&NONE);
    check::labels(metadata, "labels", &path, e);
    crate::kinds::meta::annotations(metadata, &path, e);
}

/// A changed one.
pub fn update(new: &Value, old: &Value, e: &mut Errors) {
    const MUTABLE: [&str; 7] = [
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let whole = |o: &Value, e: &mut Errors| rules(spec(o), Ratchet { new: false, template: true }, e);
    let (mut found, mut before) = (Errors::default(), Errors::default());
    pod::ratchet::checked(new, old, whole, &mut found);
    if !found.is_empty() {
        whole(old, &mut before);
    }
    if before.is_empty() {
        e.append(found);
    } else {
        // What was accepted before templates were looked at may be changed elsewhere.
        rules(spec(new), Ratchet { new: false, template: false }, e);
    }
    let mut munged = spec(new).clone();
    MUTABLE.iter().for_each(|key| copy(&mut munged, spec(old), key));
    if !same(Some(&munged), Some(spec(old))) {
        let why = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
        e.forbidden(&SPEC, why);
    }
}

/// Warnings about a new one.
pub fn warnings(o: &Value) -> Vec<String> {
    const REVISIONS: &str = "a negative value retains all historical revisions; a value >= 0 is recommended";
    let mut out = pod::warnings::workload(o);
    let claims = SPEC.child("volumeClaimTemplates");
    for (i, claim) in list(spec(o), "volumeClaimTemplates").iter().enumerate() {
        crate::kinds::claim::spec_warnings(spec(claim), &claims.index(i), &mut out);
    }
    if int(spec(o), "revisionHistoryLimit").is_some_and(|n| n < 0) {
        out.push(format!("spec.revisionHistoryLimit: {REVISIONS}"));
    }
    out
}
