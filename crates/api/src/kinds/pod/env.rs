//! Environment variables and where their values come from.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use crate::names;
use crate::quantity::Quantity;
use serde_json::Value;

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that have a name in this API version, although no variable and no file shows them.
const HIDDEN_FIELDS: [&str; 3] = ["spec.restartPolicy", "spec.schedulerName", "status.phase"];
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
    check::required_form(file, "key", names::env_var_name, path, e);
    check::required_form(file, "volumeName", names::dns1123_label, path, e);
    check::required(file, "path", path, e);
    check::no_backsteps(text(file, "path"), &path.child("path"), e);
}

/// Files that variables are read from lie in volumes of type emptyDir.
pub fn file_volumes(spec: &Value, path: &At, e: &mut Errors) {
    super::containers::each(spec, path, |c, at| {
        let env = at.child("env");
        for (i, variable) in list(c, "env").iter().enumerate() {
            let Some(file) = crate::kinds::json::at(variable, &["valueFrom", "fileKeyRef"]) else { continue };
            let name = text(file, "volumeName");
            let at = env.index(i);
            let at = at.child("valueFrom");
            let at = at.child("fileKeyRef");
            match list(spec, "volumes").iter().rfind(|v| text(v, "name") == name) {
                None => e.not_found(&at.child("volumeName"), &name.into()),
                Some(v) if !has(v, "emptyDir") => {
                    e.invalid(&at.child("volumeName"), &name.into(), "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    });
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
    Some((field, rest.strip_suffix("']")?)).filter(|_| !field.is_empty())
}

/// The field that a path means, in the words of the conversion between API versions when there is none.
fn named_field<'a>(version: &str, field: &'a str) -> Result<&'a str, String> {
    if version != "v1" {
        return Err(format!("unsupported pod version: {version}"));
    }
    match subscripted(field) {
        Some(("metadata.annotations" | "metadata.labels", _)) => Ok(field),
        Some(_) => Err(format!("field label does not support subscript: {field}")),
        None if field == "spec.host" => Ok("spec.nodeName"),
        None if [&ENV_FIELDS[..], &VOLUME_FIELDS, &HIDDEN_FIELDS].concat().contains(&field) => Ok(field),
        None => Err(format!("field label not supported: {field}")),
    }
}

/// A reference to a field of the pod.
pub fn field_ref(reference: &Value, allowed: &[&str], path: &At, e: &mut Errors) {
    for key in ["apiVersion", "fieldPath"] {
        if text(reference, key).is_empty() {
            return e.required(&path.child(key), "");
        }
    }
    let said = text(reference, "fieldPath");
    if allowed.contains(&said) && text(reference, "apiVersion") == "v1" {
        return;
    }
    let field = match named_field(text(reference, "apiVersion"), said) {
        Ok(field) => field,
        Err(why) => return e.invalid(&path.child("fieldPath"), &said.into(), &format!("error converting fieldPath: {why}")),
    };
    match subscripted(field) {
        Some(("metadata.annotations", key)) => e.invalid_each(path, key, names::qualified_name(&key.to_ascii_lowercase())),
        Some((_, key)) => e.invalid_each(path, key, names::qualified_name(key)),
        None if !allowed.contains(&field) => e.not_supported(&path.child("fieldPath"), &field.into(), allowed),
        None => {}
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
