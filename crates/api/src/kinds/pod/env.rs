//! Environment variables and where their values come from.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

const ENV_FIELDS: [&str; 10] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];
/// Fields that a downward-API volume may show.
pub const VOLUME_FIELDS: [&str; 5] = ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];
const MORE_THAN_ONE: &str = "may not have more than one field specified at a time";

/// `env` and `envFrom` of a container.
pub fn validate(container: &Value, path: &At, e: &mut Errors) {
    let env = path.child("env");
    for (i, variable) in list(container, "env").iter().enumerate() {
        let at = env.index(i);
        match text(variable, "name") {
            "" => e.required(&at.child("name"), ""),
            name => e.invalid_each(&at.child("name"), name, names::env_var_name(name)),
        }
        if let Some(source) = get(variable, "valueFrom") {
            value_from(source, text(variable, "value"), &at.child("valueFrom"), e);
        }
    }
    let from = path.child("envFrom");
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        env_from(source, &from, i, e);
    }
}

fn value_from(source: &Value, value: &str, path: &At, e: &mut Errors) {
    let mut count = 0;
    if let Some(field) = get(source, "fieldRef") {
        count += 1;
        field_ref(field, &ENV_FIELDS, &path.child("fieldRef"), e);
    }
    if let Some(resource) = get(source, "resourceFieldRef") {
        count += 1;
        resource_ref(resource, false, &path.child("resourceFieldRef"), e);
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = get(source, key) {
            count += 1;
            key_ref(reference, &path.child(key), e);
        }
    }
    if let Some(file) = get(source, "fileKeyRef") {
        count += 1;
        file_ref(file, &path.child("fileKeyRef"), e);
    }
    if count == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        e.invalid(path, &"".into(), why);
    } else if !value.is_empty() {
        e.invalid(path, &"".into(), "may not be specified when `value` is not empty");
    } else if count > 1 {
        e.invalid(path, &"".into(), MORE_THAN_ONE);
    }
}

/// A variable in a file of a volume.
fn file_ref(file: &Value, path: &At, e: &mut Errors) {
    for key in ["volumeName", "path", "key"] {
        if text(file, key).is_empty() {
            e.required(&path.child(key), "");
        }
    }
    let (volume, key) = (text(file, "volumeName"), text(file, "key"));
    if !volume.is_empty() {
        e.invalid_each(&path.child("volumeName"), volume, names::dns1123_label(volume));
    }
    if !key.is_empty() {
        e.invalid_each(&path.child("key"), key, names::env_var_name(key));
    }
    check::local_non_reserved_path(text(file, "path"), &path.child("path"), e);
}

fn key_ref(reference: &Value, path: &At, e: &mut Errors) {
    let name = text(reference, "name");
    e.invalid_each(&path.child("name"), name, names::dns1123_subdomain(name));
    match text(reference, "key") {
        "" => e.required(&path.child("key"), ""),
        key => e.invalid_each(&path.child("key"), key, names::config_map_key(key)),
    }
}

fn env_from(source: &Value, path: &At, i: usize, e: &mut Errors) {
    let at = path.index(i);
    let prefix = text(source, "prefix");
    if !prefix.is_empty() {
        e.invalid_each(&at.child("prefix"), prefix, names::env_var_name(prefix));
    }
    let mut count = 0;
    for key in ["configMapRef", "secretRef"] {
        let Some(reference) = get(source, key) else { continue };
        count += 1;
        let name_path = at.child(key);
        match text(reference, "name") {
            "" => e.required(&name_path.child("name"), ""),
            name => {
                let wrong = names::dns1123_subdomain(&names::mask_trailing_dash(name));
                e.invalid_each(&name_path.child("name"), name, wrong);
            }
        }
    }
    match count {
        0 => e.invalid(path, &"".into(), "must specify one of: `configMapRef` or `secretRef`"),
        1 => {}
        _ => e.invalid(path, &"".into(), MORE_THAN_ONE),
    }
}

/// `metadata.labels['app']` as path and subscript.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (field, rest) = path.split_once("['")?;
    Some((field, rest.strip_suffix("']")?))
}

/// A reference to a field of the pod.
pub fn field_ref(reference: &Value, allowed: &[&str], path: &At, e: &mut Errors) {
    for key in ["apiVersion", "fieldPath"] {
        if text(reference, key).is_empty() {
            return e.required(&path.child(key), "");
        }
    }
    let field = text(reference, "fieldPath");
    if let Some((map, key)) = subscripted(field) {
        match map {
            "metadata.annotations" => e.invalid_each(path, key, names::qualified_name(&key.to_ascii_lowercase())),
            "metadata.labels" => e.invalid_each(path, key, names::qualified_name(key)),
            other => e.invalid(path, &other.into(), "does not support subscript"),
        }
        return;
    }
    let known = ENV_FIELDS.contains(&field) || VOLUME_FIELDS.contains(&field);
    if !known {
        let why = format!("error converting fieldPath: field label not supported: {field}");
        e.invalid(&path.child("fieldPath"), &field.into(), &why);
    } else if !allowed.contains(&field) {
        let shown: Vec<&str> = allowed.iter().copied().filter(|f| *f != "spec.host").collect();
        e.not_supported(&path.child("fieldPath"), &field.into(), &shown);
    }
}

/// A reference to a resource of a container.
pub fn resource_ref(reference: &Value, volume: bool, path: &At, e: &mut Errors) {
    let resource = text(reference, "resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if volume && text(reference, "containerName").is_empty() {
        e.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        e.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        e.not_supported(&path.child("resource"), &resource.into(), &RESOURCES);
    }
    divisor(reference, resource, huge, path, e);
}

fn divisor(reference: &Value, resource: &str, huge: bool, path: &At, e: &mut Errors) {
    const SIZES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let Some(Ok(q)) = get(reference, "divisor").map(Quantity::from_json) else { return };
    if q.is_zero() {
        return;
    }
    let shown = q.to_string();
    let (fine, values, what) = match resource {
        "limits.cpu" | "requests.cpu" => (matches!(&*shown, "1m" | "1"), "1m and 1", "cpu"),
        "limits.memory" | "requests.memory" => (SIZES.split(", ").any(|s| s == shown), SIZES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (SIZES.split(", ").any(|s| s == shown), SIZES, "local ephemeral storage")
        }
        _ if huge => (SIZES.split(", ").any(|s| s == shown), SIZES, "hugepages"),
        _ => return,
    };
    if !fine {
        let why = format!("only divisor's values {values} are supported with the {what} resource");
        e.invalid(&path.child("divisor"), &resource.into(), &why);
    }
}
