//! Volumes of a pod, and how containers mount them.

use super::env;
use super::volume_sources::{self as sources, all_required};
use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use serde_json::Value;
use std::collections::HashSet;

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

/// Checks the volumes and returns those that are well formed, by name.
pub fn validate<'a>(spec: &'a Value, pod_name: Option<&str>, path: &At, e: &mut Errors) -> Vec<(&'a str, &'a Value)> {
    let mut good: Vec<(&str, &Value)> = Vec::new();
    let pod_name = pod_name.filter(|name| !name.is_empty());
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let (at, before, name) = (path.index(i), e.len(), text(volume, "name"));
        sources::validate(volume, name, &at, e);
        if let Some(pod) = pod_name.filter(|_| has(volume, "ephemeral") && !name.is_empty()) {
            made_claim(pod, name, &at, e);
        }
        check::required_form(volume, "name", names::dns1123_label, &at, e);
        if good.iter().any(|(n, _)| *n == name) {
            e.duplicate(&at.child("name"), &name.into());
        }
        if e.len() == before {
            good.push((name, volume));
        }
        if let Some(pod) = pod_name {
            not_a_made_claim(volume, pod, list(spec, "volumes"), &at, e);
        }
    }
    good
}

/// The claim that will be made for an ephemeral volume must be one.
fn made_claim(pod: &str, name: &str, at: &At, e: &mut Errors) {
    let claim = format!("{pod}-{name}");
    for why in names::dns1123_subdomain(&claim) {
        e.invalid(&at.child("name"), &name.into(), &format!("PVC name {claim:?}: {why}"));
    }
}

/// A claim that is made for the pod is not there to be named.
fn not_a_made_claim(volume: &Value, pod: &str, all: &[Value], at: &At, e: &mut Errors) {
    let Some(source) = get(volume, "persistentVolumeClaim") else { return };
    let claim = text(source, "claimName");
    let rest = claim.strip_prefix(pod).and_then(|rest| rest.strip_prefix('-'));
    if rest.is_some_and(|rest| all.iter().any(|v| has(v, "ephemeral") && text(v, "name") == rest)) {
        let path = at.child("persistentVolumeClaim");
        let why = "must not reference a PVC that gets created for an ephemeral volume";
        e.invalid(&path.child("claimName"), &claim.into(), why);
    }
}

/// A directory of the pod's own.
pub fn empty_dir(s: &Value, at: &At, e: &mut Errors) {
    let negative = |v: &Value| crate::quantity::Quantity::from_json(v).is_ok_and(|q| q.is_negative());
    if get(s, "sizeLimit").is_some_and(negative) {
        e.forbidden(&at.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

/// A path of the host.
pub fn host_path(s: &Value, at: &At, e: &mut Errors) {
    const TYPES: [&str; 8] = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    let path = text(s, "path");
    if path.is_empty() {
        return e.required(&at.child("path"), "");
    }
    check::no_backsteps(path, &at.child("path"), e);
    check::choice_if_set(s, "type", &TYPES, at, e);
}

fn mode(s: &Value, key: &str, at: &At, e: &mut Errors) {
    if let Some(n) = int(s, key).filter(|n| !(0..=0o777).contains(n)) {
        e.invalid(&at.child(key), &n.into(), MODE);
    }
}

/// Files from the keys of an object.
pub fn keyed(s: &Value, name: &str, at: &At, e: &mut Errors) {
    check::required(s, name, at, e);
    mode(s, "defaultMode", at, e);
    key_paths(s, at, e);
}

fn key_paths(s: &Value, at: &At, e: &mut Errors) {
    let items = at.child("items");
    for (i, item) in list(s, "items").iter().enumerate() {
        let at = items.index(i);
        all_required(item, &["key", "path"], &at, e);
        check::local_non_reserved_path(text(item, "path"), &at.child("path"), e);
        mode(item, "mode", &at, e);
    }
}

/// Files about the pod.
pub fn downward_api(s: &Value, at: &At, e: &mut Errors) {
    mode(s, "defaultMode", at, e);
    list(s, "items").iter().for_each(|file| downward_file(file, at, e));
}

fn downward_file(file: &Value, at: &At, e: &mut Errors) {
    check::required(file, "path", at, e);
    check::local_non_reserved_path(text(file, "path"), &at.child("path"), e);
    match (get(file, "fieldRef"), get(file, "resourceFieldRef")) {
        (Some(field), resource) => {
            env::field_ref(field, &env::VOLUME_FIELDS, &at.child("fieldRef"), e);
            if resource.is_some() {
                e.invalid(at, &"resource".into(), "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
        }
        (None, Some(resource)) => env::resource_ref(resource, true, &at.child("resourceFieldRef"), e),
        (None, None) => e.required(at, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file, "mode", at, e);
}

/// Files from several sources.
pub fn projected(s: &Value, at: &At, e: &mut Errors) {
    mode(s, "defaultMode", at, e);
    let sources = at.child("sources");
    let mut seen = HashSet::new();
    for (i, source) in list(s, "sources").iter().enumerate() {
        let source_path = sources.index(i);
        let mut count = 0;
        for key in ["secret", "configMap", "downwardAPI", "serviceAccountToken"] {
            let Some(what) = get(source, key) else { continue };
            count += 1;
            projection(key, what, &source_path.child(key), at, e);
            for path in list(what, "items").iter().map(|item| text(item, "path")).filter(|p| !p.is_empty()) {
                if !seen.insert(path) {
                    let shown = if key == "downwardAPI" { path } else { text(what, "name") };
                    e.invalid(at, &shown.into(), "conflicting duplicate paths");
                }
            }
        }
        if count > 1 {
            e.forbidden(&source_path, "may not specify more than 1 volume type per source");
        }
    }
}

fn projection(key: &str, what: &Value, at: &At, volume: &At, e: &mut Errors) {
    match key {
        "downwardAPI" => list(what, "items").iter().for_each(|file| downward_file(file, at, e)),
        "serviceAccountToken" => token(what, at, volume, e),
        _ => {
            check::required(what, "name", at, e);
            key_paths(what, at, e);
        }
    }
}

/// The path of a token is told at the volume, as upstream has it.
fn token(what: &Value, at: &At, volume: &At, e: &mut Errors) {
    let seconds = int(what, "expirationSeconds").unwrap_or_default();
    if seconds < 600 {
        e.invalid(&at.child("expirationSeconds"), &seconds.into(), "may not specify a duration less than 10 minutes");
    }
    if seconds > 1 << 32 {
        e.invalid(&at.child("expirationSeconds"), &seconds.into(), "may not specify a duration larger than 2^32 seconds");
    }
    check::required(what, "path", volume, e);
    check::local_non_reserved_path(text(what, "path"), &volume.child("path"), e);
}

/// A volume of a CSI driver inside a pod.
pub fn csi(s: &Value, at: &At, e: &mut Errors) {
    driver_name(text(s, "driver"), &at.child("driver"), e);
    if let Some(secret) = get(s, "nodePublishSecretRef") {
        check::required(secret, "name", &at.child("nodePublishSecretRef"), e);
        // At the volume, as upstream has it.
        check::form(secret, "name", names::dns1123_subdomain, at, e);
    }
}

/// The name of a CSI driver.
pub fn driver_name(name: &str, at: &At, e: &mut Errors) {
    if name.is_empty() {
        return e.required(at, "");
    }
    if name.len() > 63 {
        e.too_long(at, 63);
    }
    e.invalid_each(at, name, names::dns1123_subdomain(&name.to_lowercase()));
}

/// A claim of the pod's own.
pub fn ephemeral(s: &Value, at: &At, e: &mut Errors) {
    let at = at.child("volumeClaimTemplate");
    let Some(template) = get(s, "volumeClaimTemplate") else { return e.required(&at, "") };
    crate::kinds::meta::template(template.get("metadata").unwrap_or(&NONE), &at.child("metadata"), e);
    crate::kinds::claim::validate_spec(template.get("spec").unwrap_or(&NONE), &at.child("spec"), e);
}

/// The files of an image.
pub fn image(s: &Value, at: &At, e: &mut Errors) {
    check::required(s, "reference", at, e);
    check::choice(s, "pullPolicy", &["Always", "IfNotPresent", "Never"], at, e);
}
