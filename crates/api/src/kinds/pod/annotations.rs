//! Annotations of pods that mean something: mirrors, deletion cost, and what was an annotation before it was a field.

use super::{containers, placement, security};
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use serde_json::{Value, json};

pub const MIRROR: &str = "kubernetes.io/config.mirror";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
/// Profiles of seccomp, of the pod and of a container.
pub const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Profile of AppArmor of a container.
pub const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

const META: At<'static> = At::field("metadata");

fn all(pod: &Value) -> impl Iterator<Item = (&str, &str)> {
    let annotations = at(pod, &["metadata", "annotations"]).and_then(Value::as_object);
    annotations.into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default()))
}

/// Whether a pod mirrors one that its node runs on its own.
pub fn is_mirror(pod: &Value) -> bool {
    at(pod, &["metadata", "annotations", MIRROR]).is_some()
}

/// What holds at any time.
pub fn validate(pod: &Value, e: &mut Errors) {
    let path = META.child("annotations");
    for (key, value) in all(pod) {
        match key {
            MIRROR if text(spec(pod), "nodeName").is_empty() => {
                e.invalid(&path.key(key), &value.into(), "must set spec.nodeName if mirror pod annotation is set");
            }
            TOLERATIONS if !value.is_empty() => tolerations(value, &path, e),
            COST if !is_cost(value) => e.invalid(&path.key(key), &value.into(), "must be a 32bit integer"),
            SECCOMP_POD => seccomp(value, &path.child(key), e),
            _ if key.starts_with(SECCOMP) => seccomp(value, &path.child(key), e),
            _ => {
                if let Some(container) = key.strip_prefix(APP_ARMOR) {
                    app_armor(pod, container, value, &path.key(key), e);
                }
            }
        }
    }
}

fn is_cost(value: &str) -> bool {
    value.parse::<i32>().is_ok() && !value.starts_with('+') && (value == "0" || !value.starts_with('0'))
}

fn tolerations(value: &str, path: &At, e: &mut Errors) {
    match serde_json::from_str::<Value>(value) {
        Ok(list) => placement::tolerations(&json!({ TOLERATIONS: list }), TOLERATIONS, path, e),
        Err(why) => e.invalid(path, &TOLERATIONS.into(), &why.to_string()),
    }
}

fn seccomp(profile: &str, path: &At, e: &mut Errors) {
    match (profile, profile.strip_prefix("localhost/")) {
        ("runtime/default" | "docker/default" | "unconfined", _) => {}
        (_, Some(file)) => check::local_path(file, path, e),
        _ => e.invalid(path, &profile.into(), "must be a valid seccomp profile"),
    }
}

fn app_armor(pod: &Value, container: &str, profile: &str, path: &At, e: &mut Errors) {
    let mut found = false;
    containers::each(spec(pod), path, |c, _| found |= text(c, "name") == container);
    if !found {
        e.invalid(path, &container.into(), "container not found");
    }
    let known = matches!(profile, "" | "runtime/default" | "unconfined") || profile.starts_with("localhost/");
    if !known {
        e.invalid(path, &profile.into(), &format!("invalid AppArmor profile name: {profile:?}"));
    }
}

/// What a change may not touch.
pub fn unchanged(new: &Value, old: &Value, e: &mut Errors) {
    let path = META.child("annotations");
    let kept = |key: &str| {
        if key == MIRROR { Some("mirror pod annotation") } else { Some("AppArmor annotations").filter(|_| key.starts_with(APP_ARMOR)) }
    };
    let of = |pod: &Value, key: &str| at(pod, &["metadata", "annotations", key]).cloned();
    for (key, what) in all(old).filter_map(|(key, _)| Some((key, kept(key)?))) {
        if of(new, key) != of(old, key) {
            e.forbidden(&path.key(key), &format!("may not remove or update {what}"));
        }
    }
    for (key, what) in all(new).filter_map(|(key, _)| Some((key, kept(key)?))) {
        if of(old, key).is_none() {
            e.forbidden(&path.key(key), &format!("may not add {what}"));
        }
    }
}

/// In a new pod, an annotation and the field that came after it say the same.
pub fn agree_with_fields(pod: &Value, e: &mut Errors) {
    if at(pod, &["metadata", "annotations"]).is_none() {
        return;
    }
    let annotation = |key: &str| at(pod, &["metadata", "annotations", key]).and_then(Value::as_str);
    let (spec, root) = (spec(pod), At::field("spec"));
    let whole = spec.get("securityContext").unwrap_or(&NONE);
    if let (Some(field), Some(said)) = (get(whole, "seccompProfile"), annotation(SECCOMP_POD)) {
        agree("seccomp", field, said, &root.child("securityContext").child("seccompProfile"), e);
    }
    containers::each(spec, &root, |c, at| {
        let field = c.get("securityContext").and_then(|s| get(s, "seccompProfile"));
        if let (Some(field), Some(said)) = (field, annotation(&format!("{SECCOMP}{}", text(c, "name")))) {
            agree("seccomp", field, said, &at.child("securityContext").child("seccompProfile"), e);
        }
    });
    if text_at(spec, &["os", "name"]) == "windows" {
        return;
    }
    containers::each(spec, &root, |c, at| {
        let own = c.get("securityContext").and_then(|s| get(s, "appArmorProfile"));
        let field = own.or_else(|| get(whole, "appArmorProfile"));
        if let (Some(field), Some(said)) = (field, annotation(&format!("{APP_ARMOR}{}", text(c, "name")))) {
            agree("apparmor", field, said, &at.child("securityContext").child("appArmorProfile"), e);
        }
    });
}

fn agree(what: &str, field: &Value, said: &str, path: &At, e: &mut Errors) {
    let kind = match text(field, "type") {
        "Unconfined" => said == "unconfined",
        "RuntimeDefault" => said == "runtime/default" || (what == "seccomp" && said == "docker/default"),
        "Localhost" => said.starts_with("localhost/"),
        _ => true,
    };
    if !kind {
        e.forbidden(&path.child("type"), &format!("{what} type in annotation and field must match"));
    } else if text(field, "type") == "Localhost"
        && said.strip_prefix("localhost/") != get(field, "localhostProfile").and_then(Value::as_str)
    {
        e.forbidden(&path.child("localhostProfile"), &format!("{what} profile in annotation and field must match"));
    }
}

/// The field that an annotation about AppArmor means.
fn app_armor_field(said: &str) -> Option<Value> {
    let field = match (said, said.strip_prefix("localhost/")) {
        ("unconfined", _) => json!({"type": "Unconfined"}),
        ("runtime/default", _) => json!({"type": "RuntimeDefault"}),
        (_, Some(file)) => json!({"type": "Localhost", "localhostProfile": file}),
        _ => return None,
    };
    let mut wrong = Errors::default();
    security::app_armor_profile(&field, &At::ROOT, &mut wrong);
    Some(field).filter(|_| wrong.is_empty())
}

/// Containers get the AppArmor profile that only an annotation names, and annotations that mean nothing are dropped.
pub fn become_fields(pod: &mut Value) {
    let Some(annotations) = at(pod, &["metadata", "annotations"]).and_then(Value::as_object) else { return };
    if annotations.keys().any(|key| key.starts_with("pod.")) {
        drop_init_containers(pod);
    }
    let said: Vec<(String, Value)> =
        all(pod).filter_map(|(k, v)| Some((k.strip_prefix(APP_ARMOR)?.to_owned(), app_armor_field(v)?))).collect();
    let spec = object(pod, "spec");
    if said.is_empty() || text_at(spec, &["os", "name"]) == "windows" {
        return;
    }
    let whole = at(spec, &["securityContext", "appArmorProfile"]).cloned();
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for c in each_mut(spec, key) {
            let Some((_, field)) = said.iter().find(|(name, field)| name == text(c, "name") && Some(field) != whole.as_ref()) else {
                continue;
            };
            fill(object(c, "securityContext"), "appArmorProfile", field.clone());
        }
    }
}

/// Init containers were annotations once; nobody reads those any more.
fn drop_init_containers(pod: &mut Value) {
    let Some(annotations) = at_mut(pod, &["metadata", "annotations"]) else { return };
    for stage in ["alpha", "beta"] {
        for what in ["init-containers", "init-container-statuses"] {
            remove(annotations, &format!("pod.{stage}.kubernetes.io/{what}"));
        }
    }
}
