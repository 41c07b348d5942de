//! Volumes, claims and their classes.

use super::*;

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

fn access_modes(modes: &[Value]) -> String {
    let short = |m: &Value| match m.as_str() {
        Some("ReadWriteOnce") => "RWO",
        Some("ReadOnlyMany") => "ROX",
        Some("ReadWriteMany") => "RWX",
        Some("ReadWriteOncePod") => "RWOP",
        _ => "",
    };
    let has = |short_name: &str| modes.iter().any(|m| short(m) == short_name);
    ["RWO", "ROX", "RWX", "RWOP"].into_iter().filter(|m| has(m)).collect::<Vec<_>>().join(",")
}

fn class(o: &Value) -> &str {
    or(text_at(o, &["metadata", "annotations", CLASS_ANNOTATION]), text_at(o, &["spec", "storageClassName"]))
}

fn phase(o: &Value) -> &str {
    if deleted(o) { "Terminating" } else { text_at(o, &["status", "phase"]) }
}

fn unset<'a>(o: &'a Value, key: &str) -> &'a str {
    at(o, &["spec", key]).and_then(Value::as_str).unwrap_or(UNSET)
}

pub fn persistent_volume(o: &Value, c: &HookContext) -> Cells {
    let claim = at(o, &["spec", "claimRef"]).map_or(String::new(), |r| format!("{}/{}", text(r, "namespace"), text(r, "name")));
    cells![
        name(o),
        or(text_at(o, &["spec", "capacity", "storage"]), "0"),
        access_modes(list_at(o, &["spec", "accessModes"])),
        text_at(o, &["spec", "persistentVolumeReclaimPolicy"]),
        phase(o),
        claim,
        class(o),
        unset(o, "volumeAttributesClassName"),
        text_at(o, &["status", "reason"]),
        age(o, c),
        unset(o, "volumeMode"),
    ]
}

pub fn persistent_volume_claim(o: &Value, c: &HookContext) -> Cells {
    let volume = text_at(o, &["spec", "volumeName"]);
    let (mut capacity, mut modes) = ("", String::new());
    if !volume.is_empty() {
        capacity = or(text_at(o, &["status", "capacity", "storage"]), "0");
        modes = access_modes(list_at(o, &["status", "accessModes"]));
    }
    let attributes = unset(o, "volumeAttributesClassName");
    cells![name(o), phase(o), volume, capacity, modes, class(o), attributes, age(o, c), unset(o, "volumeMode")]
}

/// The name of a class, marked when it is the default one.
fn class_name(o: &Value, annotations: &[&str]) -> String {
    let default = annotations.iter().any(|a| text_at(o, &["metadata", "annotations", a]) == "true");
    format!("{}{}", name(o), if default { " (default)" } else { "" })
}

pub fn storage_class(o: &Value, c: &HookContext) -> Cells {
    let default = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    cells![
        class_name(o, &default),
        text(o, "provisioner"),
        or(text(o, "reclaimPolicy"), "Delete"),
        or(text(o, "volumeBindingMode"), "Immediate"),
        flag(o, "allowVolumeExpansion"),
        age(o, c),
    ]
}

pub fn volume_attributes_class(o: &Value, c: &HookContext) -> Cells {
    let default = ["volumeattributesclass.kubernetes.io/is-default-class"];
    cells![class_name(o, &default), text(o, "driverName"), age(o, c)]
}

pub fn volume_attachment(o: &Value, c: &HookContext) -> Cells {
    let empty = Value::Null;
    let spec = o.get("spec").unwrap_or(&empty);
    let volume = text_at(spec, &["source", "persistentVolumeName"]);
    let attached = at(o, &["status", "attached"]) == Some(&Value::Bool(true));
    cells![name(o), text(spec, "attacher"), volume, text(spec, "nodeName"), attached, age(o, c)]
}

pub fn csi_node(o: &Value, c: &HookContext) -> Cells {
    cells![name(o), list_at(o, &["spec", "drivers"]).len(), age(o, c)]
}

pub fn csi_driver(o: &Value, c: &HookContext) -> Cells {
    let empty = Value::Null;
    let spec = o.get("spec").unwrap_or(&empty);
    let modes: Vec<&str> = texts(spec, "volumeLifecycleModes").collect();
    let audiences: Vec<&str> = list(spec, "tokenRequests").iter().map(|t| text(t, "audience")).collect();
    let tokens = if has(spec, "tokenRequests") { audiences.join(",") } else { UNSET.to_owned() };
    cells![
        name(o),
        get(spec, "attachRequired") != Some(&Value::Bool(false)),
        flag(spec, "podInfoOnMount"),
        flag(spec, "storageCapacity"),
        tokens,
        flag(spec, "requiresRepublish"),
        or(&modes.join(","), NONE),
        age(o, c),
    ]
}

pub fn csi_capacity(o: &Value, _: &HookContext) -> Cells {
    cells![name(o), text(o, "storageClassName"), get(o, "capacity").map_or(UNSET.to_owned(), shown)]
}

pub fn storage_version(o: &Value, c: &HookContext) -> Cells {
    let said =
        list_at(o, &["status", "storageVersions"]).iter().map(|s| format!("{}={}", text(s, "apiServerID"), text(s, "encodingVersion")));
    let common = at(o, &["status", "commonEncodingVersion"]).and_then(Value::as_str);
    cells![name(o), common.unwrap_or(UNSET), some_of(&said.collect::<Vec<_>>(), 3, ""), age(o, c)]
}

pub fn storage_version_migration(o: &Value, _: &HookContext) -> Cells {
    let (group, resource) = (text_at(o, &["spec", "resource", "group"]), text_at(o, &["spec", "resource", "resource"]));
    let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let status = ["Succeeded", "Failed", "Running"].into_iter().find(|kind| condition(o, kind) == Some("True"));
    cells![name(o), qualified, status.unwrap_or_default()]
}
