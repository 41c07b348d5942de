//! How containers mount the volumes of their pod.

use crate::field::{At, Errors};
use crate::kinds::check;
use crate::kinds::json::*;
use serde_json::Value;

type Volumes<'a> = [(&'a str, &'a Value)];

fn volume<'a>(volumes: &Volumes<'a>, name: &str) -> Option<&'a Value> {
    volumes.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
}

/// `volumeMounts` of a container.
pub fn mounts(c: &Value, volumes: &Volumes, at: &At, e: &mut Errors) {
    let path = at.child("volumeMounts");
    let mounts = list(c, "volumeMounts");
    for (i, mount) in mounts.iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        check::required(mount, "name", &at, e);
        if volume(volumes, name).is_none() {
            e.not_found(&at.child("name"), &name.into());
        }
        check::required(mount, "mountPath", &at, e);
        if mounts[..i].iter().any(|m| text(m, "mountPath") == target) {
            e.invalid(&at.child("mountPath"), &target.into(), "must be unique");
        }
        let device = |key: &str, value: &str| list(c, "volumeDevices").iter().any(|d| text(d, key) == value);
        if device("name", name) {
            e.invalid(&at.child("name"), &name.into(), "must not already exist in volumeDevices");
        }
        if device("devicePath", target) {
            e.invalid(&at.child("mountPath"), &target.into(), "must not already exist as a path in volumeDevices");
        }
        sub_paths(mount, &path, &at, e);
        propagation(mount, c, &path, e);
    }
}

fn sub_paths(mount: &Value, path: &At, at: &At, e: &mut Errors) {
    for key in ["subPath", "subPathExpr"] {
        let value = text(mount, key);
        if key == "subPathExpr" && !value.is_empty() && !text(mount, "subPath").is_empty() {
            e.invalid(&at.child(key), &value.into(), "subPathExpr and subPath are mutually exclusive");
        }
        // At the list, as upstream has it.
        check::local_path(value, &path.child(key), e);
    }
}

fn propagation(mount: &Value, c: &Value, path: &At, e: &mut Errors) {
    const MODES: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    check::choice_if_set(mount, "mountPropagation", &MODES, path, e);
    let privileged = at(c, &["securityContext", "privileged"]) == Some(&Value::Bool(true));
    if text(mount, "mountPropagation") == "Bidirectional" && !privileged {
        e.forbidden(&path.child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers");
    }
    let at = path.child("recursiveReadOnly");
    match get(mount, "recursiveReadOnly").and_then(Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                e.forbidden(&at, "may only be specified when readOnly is true");
            }
            if !matches!(text(mount, "mountPropagation"), "" | "None") {
                e.forbidden(&at, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => e.not_supported(&at, &other.into(), &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// `volumeDevices` of a container.
pub fn devices(c: &Value, volumes: &Volumes, at: &At, e: &mut Errors) {
    let path = at.child("volumeDevices");
    let devices = list(c, "volumeDevices");
    for (i, device) in devices.iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        check::required(device, "name", &at, e);
        let twice = |key: &str, value: &str| devices[..i].iter().any(|d| text(d, key) == value);
        if !name.is_empty() && twice("name", name) {
            e.invalid(&at.child("name"), &name.into(), "must be unique");
        }
        match volume(volumes, name) {
            None => e.not_found(&at.child("name"), &name.into()),
            Some(v) if !has(v, "persistentVolumeClaim") && !has(v, "ephemeral") => {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                e.invalid(&at.child("name"), &name.into(), why);
            }
            Some(_) => {}
        }
        check::required(device, "devicePath", &at, e);
        let climbs = target.split('/').any(|part| part == "..");
        if !climbs && twice("devicePath", target) {
            e.invalid(&at.child("devicePath"), &target.into(), "must be unique");
        }
        if climbs {
            e.invalid(&at.child("devicePath"), &target.into(), "can not contain backsteps ('..')");
        }
        let mounted = |key: &str, value: &str| list(c, "volumeMounts").iter().any(|m| text(m, key) == value);
        if mounted("name", name) {
            e.invalid(&at.child("name"), &name.into(), "must not already exist in volumeMounts");
        }
        if mounted("mountPath", target) {
            e.invalid(&at.child("devicePath"), &target.into(), "must not already exist as a path in volumeMounts");
        }
    }
}
